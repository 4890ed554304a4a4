"""The trunk: embedding, blocks, final norm. One block class for every kind of mixer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import RMSNorm, TokenEmbedding
from dnamamba.models.mamba import Mamba, MambaState

EMBEDDING_STD = 0.02

LayerStates = tuple[MambaState, ...]
"""What each block remembers of the tokens before, first block first."""


class Block(nn.Module):
    """residual + mixer(norm(residual)), the residual stream in float32 if the config says so."""

    def __init__(self, norm: RMSNorm, mixer: Mamba, residual_in_fp32: bool) -> None:
        super().__init__()
        self.norm = norm
        self.mixer = mixer
        self.residual_in_fp32 = residual_in_fp32

    def forward(
        self, residual: Tensor, state: MambaState | None = None, return_state: bool = False
    ) -> tuple[Tensor, MambaState | None]:
        """residual: (B, L, D). Returns the new residual and, if asked for, the mixer's state."""
        mixed, state = self.mixer(self.norm(residual), state, return_state)
        if not self.residual_in_fp32:
            residual = residual.to(mixed.dtype)
        return residual + mixed, state


class Backbone(nn.Module):
    """Token ids (B, L) to hidden states (B, L, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(_build_block(config) for _ in range(config.n_layers))
        self.norm_f = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self,
        token_ids: Tensor,
        states: Sequence[MambaState] | None = None,
        return_states: bool = False,
        checkpoint_blocks: bool = False,
    ) -> tuple[Tensor, LayerStates]:
        """token_ids: (B, L), any integer dtype. states: those of the tokens before, one a block.

        checkpoint_blocks: keep only the residual stream for the backward and run each block again
        there. Returns the hidden states after the final norm and the blocks' states (none unless
        asked for).
        """
        residual = self.embed(token_ids)
        after: list[MambaState] = []
        for index, block in enumerate(self.layers):
            args = (residual, None if states is None else states[index], return_states)
            # Wrapped at the call, so that parameter names do not depend on it.
            if checkpoint_blocks:
                residual, state = checkpoint(block, *args, use_reentrant=False)
            else:
                residual, state = block(*args)
            if state is not None:
                after.append(state)
        return self.norm_f(residual), tuple(after)

    def embed(self, token_ids: Tensor) -> Tensor:
        """The residual stream before the first block (B, L, D)."""
        return self.embedding(token_ids)

    def hidden_states(self, token_ids: Tensor) -> list[Tensor]:
        """The residual stream before the first block and after each, then the final norm."""
        hidden = [self.embed(token_ids)]
        for block in self.layers:
            hidden.append(block(hidden[-1])[0])
        return [*hidden, self.norm_f(hidden[-1])]


def _build_block(config: ModelConfig) -> Block:
    mixer = Mamba(config.d_model, config.mixer)
    with torch.no_grad():
        # So that the residual stream does not grow with depth (GPT-2's rule, as upstream).
        mixer.out_proj.weight.div_(math.sqrt(config.n_layers))
    norm = RMSNorm(config.d_model, config.norm_eps)
    return Block(norm, mixer, config.residual_in_fp32)
