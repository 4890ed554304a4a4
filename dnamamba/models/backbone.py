"""Embedding, blocks and final norm. One block class for every kind of mixer."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import Mlp, Norm, TokenEmbedding
from dnamamba.models.mixers.protocol import MixerConfig, MixerState, build_mixer
from dnamamba.models.recompute import Recompute, run_block

EMBEDDING_STD = 0.02

LayerStates = tuple[MixerState, ...]


class Block(nn.Module):
    """Add to the residual stream, norm, mix, and the same with the MLP if there is one. An output
    is added when the next norm reads the stream: one pass over memory for both."""

    def __init__(self, config: ModelConfig, mixer: MixerConfig) -> None:
        super().__init__()
        self.norm = build_norm(config)
        self.mixer = build_mixer(config.d_model, mixer)
        self.takes_mask = mixer.reads_both_directions
        self.norm2 = build_norm(config) if config.mlp else None
        self.mlp = Mlp(config.d_model, config.mlp) if config.mlp else None
        self.residual_in_fp32 = config.residual_in_fp32

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        state: MixerState | None = None,
        return_state: bool = False,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, MixerState | None]:
        """x: (B, L, D), to be added to the stream; the stream itself if residual is None. mask: (B,
        L) bool, False at padding; only mixers that read both directions see it.

        Returns what is to be added next, the stream without it and, if asked for, the mixer's
        state.
        """
        normed, residual = self.norm(x, residual, self.residual_in_fp32)
        more = {"mask": mask} if self.takes_mask and mask is not None else {}
        x, state = self.mixer(normed, state, return_state, **more)
        if self.mlp is not None and self.norm2 is not None:
            normed, residual = self.norm2(x, residual, self.residual_in_fp32)
            x = self.mlp(normed)
        return x, residual, state


class Backbone(nn.Module):
    """Token ids (B, L) to hidden states (B, L, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(_build_block(config, mixer) for mixer in config.mixers)
        self.norm_f = build_norm(config)
        self.residual_in_fp32 = config.residual_in_fp32

    def forward(
        self,
        token_ids: Tensor,
        states: Sequence[MixerState] | None = None,
        return_states: bool = False,
        recompute: Recompute = "nothing",
        mask: Tensor | None = None,
    ) -> tuple[Tensor, LayerStates]:
        """token_ids: (B, L), any integer dtype. states: after the tokens before, one a block. mask:
        (B, L) bool, False at padding on the right. recompute: see recompute.py.

        Returns the hidden states after the final norm and, if asked for, the blocks' states.
        """
        x, residual, after, _ = self._run_blocks(
            token_ids, len(self.layers), (), states, return_states, mask, recompute
        )
        return self.norm_f(x, residual, self.residual_in_fp32)[0], after

    def embed(self, token_ids: Tensor) -> Tensor:
        return self.embedding(token_ids)

    def hidden_states(self, token_ids: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """The residual stream before the first block and after each, then the final norm."""
        return self.hidden_at(token_ids, range(len(self.layers) + 2), mask)[0]

    def hidden_at(
        self,
        token_ids: Tensor,
        layers: Sequence[int],
        mask: Tensor | None = None,
        states: Sequence[MixerState] | None = None,
        return_states: bool = False,
    ) -> tuple[list[Tensor], LayerStates]:
        """`hidden_states` at the given indices from 0 and, if asked for, the states of the blocks
        run. Arguments as in `forward`."""
        x, residual, after, found = self._run_blocks(
            token_ids, self.count_blocks(layers), layers, states, return_states, mask
        )
        if (last := len(self.layers) + 1) in layers:
            dtype = torch.promote_types(x.dtype, torch.float32)
            found[last], _ = self.norm_f(x, residual, self.residual_in_fp32, dtype)
        return [found[layer] for layer in layers], after

    def _run_blocks(
        self,
        token_ids: Tensor,
        n_blocks: int,
        kept: Sequence[int],
        states: Sequence[MixerState] | None,
        return_states: bool,
        mask: Tensor | None,
        recompute: Recompute = "nothing",
    ) -> tuple[Tensor, Tensor | None, LayerStates, dict[int, Tensor]]:
        """The first blocks: last output, stream before it, states, and the stream at the indices
        kept."""
        x, residual = self.embed(token_ids), None
        after: list[MixerState] = []
        found: dict[int, Tensor] = {}
        for index in range(n_blocks + 1):
            # With blocks recomputed too, so that one tensor a block is kept rather than two.
            if index in kept or (recompute != "nothing" and index < n_blocks):
                x, residual = self._add(x, residual), None
            if index in kept:
                found[index] = x
            if index < n_blocks:
                more = (None if states is None else states[index], return_states, mask)
                # Wrapped at the call, so that parameter names do not depend on it.
                x, residual, state = run_block(self.layers[index], recompute, x, residual, *more)
                after += [] if state is None else [state]
        return x, residual, tuple(after), found

    def count_blocks(self, layers: Sequence[int]) -> int:
        """Blocks that are run for these indices of `hidden_states`."""
        return min(max(layers), len(self.layers))

    def _add(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The residual stream with x added, as the norms do."""
        if residual is None:
            return x
        return residual + x if self.residual_in_fp32 else residual.to(x.dtype) + x


def build_norm(config: ModelConfig) -> Norm:
    return Norm(config.d_model, config.norm_eps, config.norm)


def _build_block(config: ModelConfig, mixer: MixerConfig) -> Block:
    block = Block(config, mixer)
    # Two if the directions of a mixer each have a projection of their own.
    last: list[Any] = [
        layer for name, layer in block.mixer.named_modules() if name.endswith("out_proj")
    ]
    if block.mlp is not None:
        last.append(block.mlp.fc2)
    n_branches = 1 if block.mlp is None else 2
    with torch.no_grad():
        for layer in last:
            # So that the residual stream does not grow with depth (GPT-2's rule, as upstream).
            layer.weight.div_(math.sqrt(n_branches * config.n_layers))
    return block
