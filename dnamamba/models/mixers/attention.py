"""The attention mixer: multi-head softmax attention with rotary positions.

in_proj stacks the queries', keys' and values' rows, so that one product reads x once. B batch, L
seq_len, D d_model, H heads, d a head's width.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from dnamamba.configs import require_fields, require_number
from dnamamba.errors import InputError
from dnamamba.models.layers import Linear, initialise_projection
from dnamamba.models.mixers.protocol import NO_STATE, Mixer, MixerConfig, StateKind

QUERIES_A_MASK = 256
"""Queries that a CPU takes at a time if it goes on from a state, for which it makes masks: 4,096
queries and 32,768 keys of 4 heads take 1.3 s and 90 MiB, by one mask 4.3 s and 650 MiB."""


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(MixerConfig):
    """Multi-head softmax attention with rotary positions (arXiv 1706.03762, 2104.09864)."""

    peak_learning_rate = 2e-3

    kind: Literal["attention"] = "attention"

    n_heads: int
    """Heads of the queries."""

    n_kv_heads: int | None = None
    """Heads of keys and values, each for n_heads / n_kv_heads heads of queries (arXiv 2305.13245);
    None: n_heads, filled in by `ModelConfig`."""

    d_head: int | None = None
    """Width of a head, even (on GPUs a multiple of 8, at most 256, else memory grows with the
    square of the length); None: d_model / n_heads, filled in by `ModelConfig`."""

    bias: bool = False
    """Whether the projection to queries, keys and values has a bias."""

    out_bias: bool | None = None
    """Whether the projection out has one; None: as `bias`, filled in by `ModelConfig`."""

    rope_theta: float = 10_000.0
    """Pair i of a head's n turns by rope_theta^(-i/n) radians a position."""

    is_causal: bool = True
    """Whether a position sees only itself and those before it."""

    def __post_init__(self) -> None:
        require_fields(self)
        require_number("AttentionConfig: rope_theta", self.rope_theta, above=0)
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            raise InputError(
                f"AttentionConfig: n_heads {self.n_heads} must be a multiple of n_kv_heads "
                f"{self.n_kv_heads}"
            )
        if self.d_head is not None and self.d_head % 2:
            raise InputError(
                f"AttentionConfig: d_head {self.d_head} must be even, as rotary positions turn "
                "pairs"
            )

    @property
    def state_kind(self) -> StateKind:
        return "growing" if self.is_causal else "none"

    @property
    def reads_both_directions(self) -> bool:
        return not self.is_causal

    def resolve(self, d_model: int) -> Self:
        if self.d_head is None and d_model % self.n_heads:
            raise InputError(
                f"AttentionConfig: d_model {d_model} must be a multiple of n_heads {self.n_heads}, "
                "or give d_head"
            )
        return replace(
            self,
            n_kv_heads=self.n_kv_heads or self.n_heads,
            d_head=self.d_head or d_model // self.n_heads,
            out_bias=self.bias if self.out_bias is None else self.out_bias,
        )

    @property
    def widths(self) -> tuple[int, int]:
        """Width of all queries and of all keys; the config is resolved."""
        assert self.n_kv_heads is not None
        assert self.d_head is not None
        return self.n_heads * self.d_head, self.n_kv_heads * self.d_head

    def count_parameters(self, d_model: int) -> int:
        d_query, d_key = self.widths
        biases = self.bias * (d_query + 2 * d_key) + bool(self.out_bias) * d_model
        return 2 * d_model * (d_query + d_key) + biases

    def flops(self, d_model: int, seq_len: int) -> int:
        d_query, d_key = self.widths
        # Pairs of positions that see each other: half of the square if causal.
        pairs = seq_len * (seq_len + 1) // 2 if self.is_causal else seq_len**2
        return seq_len * 4 * d_model * (d_query + d_key) + pairs * 4 * d_query


class AttentionState(NamedTuple):
    """Keys (turned by their positions) and values of all tokens so far: (B, tokens, n_kv_heads, d),
    in the projections' dtype (bf16 under autocast)."""

    k: Tensor
    v: Tensor


class Attention(Mixer):
    """(B, L, D) to (B, L, D). Source: Vaswani et al. 2017 (arXiv 1706.03762); rotary positions Su
    et al. 2021 (2104.09864); fewer key heads Ainslie et al. 2023 (2305.13245)."""

    def __init__(self, d_model: int, config: AttentionConfig) -> None:
        super().__init__()
        config = config.resolve(d_model)
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
        """See `Mixer`. Outputs at padding are undefined. Raises InputError for a state unless
        causal, ValueError for a mask if causal or of another shape."""
        if not self.is_causal:
            self._refuse_state(state, return_state)
        if mask is not None:
            self._check_mask(x, mask)
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
        """Queries (B, L, H, d), keys and values (B, L, n_kv_heads, d) of x (B, L, D), whose first
        position is `start`; queries and keys are turned."""
        rows = self.in_proj(x).unflatten(-1, (-1, self.d_head))
        turned, v = rows.split([self.n_heads + self.n_kv_heads, self.n_kv_heads], dim=2)
        dtype = torch.promote_types(x.dtype, torch.float32)
        angles = rotary_angles(
            x.shape[1], self.d_head, self.rope_theta, start=start, dtype=dtype, device=x.device
        )
        q, k = rotate(turned, angles).split([self.n_heads, self.n_kv_heads], dim=2)
        return q, k, v

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> AttentionState:
        if not self.is_causal:
            raise InputError(NO_STATE)
        empty = self._zeros(batch_size, 0, self.n_kv_heads, self.d_head, dtype=dtype)
        return AttentionState(empty, empty)

    def _check_mask(self, x: Tensor, mask: Tensor) -> None:
        if self.is_causal:
            raise ValueError(
                "causal attention takes no mask: padding on the right is never seen by what is "
                "before it"
            )
        if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be (B, L) = {tuple(x.shape[:2])} of bools, got {tuple(mask.shape)} of "
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
    """Angles in radians (seq_len, d_head / 2) of positions from start: position * theta^(-2i /
    d_head), in `dtype`. In float32 an angle of a million is rounded to 0.03."""
    positions = torch.arange(start, start + seq_len, dtype=dtype, device=device)
    exponents = torch.arange(0, d_head, 2, dtype=dtype, device=device) / -d_head
    return positions.unsqueeze(1) * torch.pow(theta, exponents)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + d/2}) of x (B, L, H, d) by angles (L, d/2); computed in the wider
    dtype, returned in x's."""
    cos, sin = angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, mask: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v. q: (B, L, H, d); k, v: (B, M, n_kv_heads, d) with M >= L.

    is_causal: query i sees keys up to i + M - L. mask: (B, M), True at keys that may be seen.
    Returns (B, L, H, d). GPUs take a fused kernel whose memory grows with the length.
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
