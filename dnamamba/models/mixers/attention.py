"""The attention mixer: multi-head softmax attention with rotary positions.

in_proj holds the queries', keys' and values' rows one after the other: one product reads x once,
where at these widths reading it is most of the cost. Shape letters: B batch, L seq_len, D d_model,
H heads, d a head's width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from dnamamba.errors import InputError
from dnamamba.models.layers import Linear, initialise_projection
from dnamamba.models.mixers.configs import AttentionConfig

QUERIES_A_MASK = 256
"""Where a CPU goes on from a state, so many queries at a time. It has no kernel for that, and makes
masks: 4,096 queries and 32,768 keys of 4 heads took 1.3 s and 90 MiB so, 4.3 s and 650 MiB by one
mask (one core)."""


class AttentionState(NamedTuple):
    """What an attention mixer remembers of the tokens before: all their keys and values.

    k, turned by their positions, and v: (B, tokens so far, n_kv_heads, d), in the dtype of the
    projections (bf16 under autocast).
    """

    k: Tensor
    v: Tensor


class Attention(nn.Module):
    """(B, L, D) to (B, L, D), each position seeing itself and those before it, or all of them.

    Source: Vaswani et al. 2017 (arXiv 1706.03762); rotary positions Su et al. 2021 (arXiv
    2104.09864); fewer heads of keys and values Ainslie et al. 2023 (arXiv 2305.13245).
    """

    def __init__(self, d_model: int, config: AttentionConfig) -> None:
        super().__init__()
        config = config.fill_in(d_model)
        d_query, d_key = config.widths
        self.n_heads, self.d_head = config.n_heads, d_query // config.n_heads
        self.n_kv_heads = d_key // self.d_head
        self.rope_theta, self.is_causal = config.rope_theta, config.is_causal
        self.in_proj = Linear(d_model, d_query + 2 * d_key, bias=config.bias)
        self.out_proj = Linear(d_query, d_model, bias=bool(config.out_bias))
        for projection in (self.in_proj, self.out_proj):
            initialise_projection(projection)

    def forward(
        self,
        x: Tensor,
        state: AttentionState | None = None,
        return_state: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState | None]:
        """x: (B, L, D). state: that of the tokens before; None at the start of a sequence. It is
        never written to, so one state can be gone on from many times.
        mask: (B, L) bool, True where a position is real and may be seen, only where attention is
        not causal. Outputs at the others, which are finite, mean nothing.

        Returns the output (B, L, D) and, if asked for, the state after the last token. Raises
        InputError where a bidirectional mixer is to carry a state, and ValueError for a mask that
        does not fit.
        """
        self._check(x, state, return_state, mask)
        q, k, v = self.project(x, 0 if state is None else state.k.shape[1])
        if state is not None:
            k = torch.cat((state.k.to(k.dtype), k), dim=1)
            v = torch.cat((state.v.to(v.dtype), v), dim=1)
        if mask is not None:
            # A row of padding alone sees all of it: softmax over nothing could be NaN.
            mask = mask | ~mask.any(dim=1, keepdim=True)
        y = self.out_proj(attend(q, k, v, is_causal=self.is_causal, mask=mask).flatten(2))
        # Copied out of the projection: a view would keep all of it.
        return y, AttentionState(k.contiguous(), v.contiguous()) if return_state else None

    def project(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, L, D), its first position being `start`.

        Returns queries (B, L, H, d), keys and values (B, L, n_kv_heads, d); the first two are
        turned by their positions.
        """
        rows = self.in_proj(x).unflatten(-1, (-1, self.d_head))
        turned, v = rows.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=2)
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = rotary_angles(
            x.shape[1], self.d_head, self.rope_theta, start=start, dtype=dtype, device=x.device
        )
        q, k = rotate(turned, angles).split([self.n_heads, self.n_kv_heads], dim=2)
        return q, k, v

    def _check(
        self, x: Tensor, state: AttentionState | None, return_state: bool, mask: Tensor | None
    ) -> None:
        if not self.is_causal and (state is not None or return_state):
            raise InputError(
                "attention that is not causal sees what comes later, so it has no state to go on "
                "from: give the whole sequence in one pass, without state and return_state"
            )
        if mask is None:
            return
        if self.is_causal:
            raise ValueError(
                "causal attention takes no mask: padding on the right is never seen by what is "
                "before it"
            )
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"mask is (B, L) = {tuple(x.shape[:2])} of bools, got {tuple(mask.shape)} of "
                f"{mask.dtype}"
            )


def rotary_angles(
    seq_len: int,
    d_head: int,
    theta: float,
    *,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """By how many radians each pair of a head is turned at positions start, start + 1, ...

    Returns (seq_len, d_head / 2): position * theta^(-2i / d_head), in `dtype`. In float32 an angle
    of a million radians is rounded to 0.03, as elsewhere in that precision.
    """
    positions = torch.arange(start, start + seq_len, dtype=dtype, device=device)
    exponents = torch.arange(0, d_head, 2, dtype=dtype, device=device) / -d_head
    return positions.unsqueeze(1) * torch.pow(theta, exponents)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x: (B, L, H, d), its pairs (x_i, x_{i + d/2}) turned by angles (L, d/2). In x's dtype; what
    is between is in the angles' where that is wider."""
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. q: (B, L, H, d); k, v: (B, M, n_kv_heads, d) with M >= L.

    is_causal: query i sees keys up to i + M - L: the queries are the last L positions. mask:
    (B, M), True where a key may be seen. Returns (B, L, H, d).

    On GPUs by a fused kernel whose memory grows with the length: in half precision FlashAttention
    or cuDNN's, in float32 and with a mask the memory-efficient one.
    """
    n_queries, n_keys = q.shape[1], k.shape[1]
    if is_causal and q.device.type == "cpu" and QUERIES_A_MASK < n_queries < n_keys:
        stops = range(n_keys - n_queries + QUERIES_A_MASK, n_keys + QUERIES_A_MASK, QUERIES_A_MASK)
        parts = zip(q.split(QUERIES_A_MASK, dim=1), stops, strict=True)
        return torch.cat(
            [attend(part, k[:, :stop], v[:, :stop], is_causal=True) for part, stop in parts], dim=1
        )
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    # Only FlashAttention and cuDNN take grouped heads; other GPU kernels would give way to one that
    # makes all of L x M.
    is_grouped = mask is None and q.dtype in (torch.float16, torch.bfloat16)
    if not is_grouped and q.shape[1] != k.shape[1]:
        k, v = (tensor.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for tensor in (k, v))
    bias = None if mask is None else mask[:, None, None, :]
    if is_causal and 1 < n_queries < n_keys:
        bias = causal_lower_right(n_queries, n_keys)
    y = functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=bias,
        is_causal=is_causal and n_queries == n_keys > 1,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return y.transpose(1, 2)


def count_parameters(d_model: int, config: AttentionConfig) -> int:
    """Parameters of one mixer, in closed form."""
    config = config.fill_in(d_model)
    d_query, d_key = config.widths
    biases = config.bias * (d_query + 2 * d_key) + bool(config.out_bias) * d_model
    return 2 * d_model * (d_query + d_key) + biases
