"""Sequences of any length in pieces: mixer states are carried from one piece to the next.

Results equal one pass; memory is that of a piece, plus the keys and values of attention layers.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.backbone import LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.mixers.protocol import MixerState

if TYPE_CHECKING:
    from dnamamba.models.language_model import DnaModel


class StreamedChunk(NamedTuple):
    """Outputs for tokens start to start + l - 1 of each of B rows.

    hidden: (B, l, D) for each layer asked for. logits: (B, l, padded_vocab_size) if asked for.
    state: after the last token, to go on from with the same layers. token_ids: (B, l), on the
    model's device.
    """

    start: int
    hidden: tuple[Tensor, ...]
    logits: Tensor | None
    state: LayerStates
    token_ids: Tensor


def resolve_layers(config: ModelConfig, layers: Sequence[int] | Literal["all"]) -> tuple[int, ...]:
    """Layer numbers from 0: the embedding, the stream after each block, and n_layers + 1 the final
    norm. Negative ones count from the end. Raises InputError for none and for a missing one."""
    count = config.n_layers + 2
    if layers == "all":
        return tuple(range(count))
    if not layers:
        raise InputError(f"no layer was asked for: give numbers from 0 to {count - 1}, or all")
    for layer in layers:
        if isinstance(layer, str) or not -count <= layer < count:
            raise InputError(
                f"the model has no layer {layer!r}: 0 is the embedding, 1 to {config.n_layers} are "
                f"the outputs of its blocks and {count - 1} (or -1) is the final norm"
            )
    return tuple(int(layer) % count for layer in layers)


def longest_sequence(config: ModelConfig) -> int | None:
    """Most tokens in a sequence; None: only memory is a limit."""
    limits = [mixer.max_len for mixer in config.mixers if mixer.max_len is not None]
    return min(limits, default=None)


def why_no_stream(config: ModelConfig) -> str | None:
    """Why a model cannot take a sequence in pieces; None if it can."""
    if config.is_causal:
        kinds = dict.fromkeys(m.kind for m in config.mixers if m.state_kind == "none")
        if not kinds:
            return None
        reason = f"{' and '.join(kinds)} layers carry no state from one piece to the next"
    else:
        reason = "it reads in both directions, so its output at a base depends on all that follows"
    most = longest_sequence(config)
    limit = "as long as memory allows" if most is None else f"of up to {most:,} tokens"
    return f"{reason}: give whole sequences, {limit}, or take a causal model such as mamba-7m"


@torch.no_grad()
def run_pieces(
    model: "DnaModel",
    pieces: Iterable[Tensor],
    layers: tuple[int, ...],
    return_logits: bool,
    state: Sequence[MixerState] | None,
) -> Iterator[StreamedChunk]:
    """Outputs of pieces in order, each going on from the state after the one before."""
    device, start = next(model.parameters()).device, 0
    final = model.config.n_layers + 1
    wanted = (*layers, final) if return_logits else layers
    for piece in pieces:
        piece = piece.to(device, non_blocking=True)
        hidden, state = model.backbone.hidden_at(piece, wanted, None, state, True)
        logits = model.predict(hidden.pop()) if return_logits else None
        yield StreamedChunk(start, tuple(hidden), logits, state, piece)
        start += piece.shape[1]
        del hidden, logits  # before the next ones are there


def cut_pieces(pieces: Iterable[Tensor], chunk_tokens: int) -> Iterator[Tensor]:
    """Pieces (B, l) of at most chunk_tokens tokens over all rows, but at least one a row."""
    held: list[Tensor] = []
    n_held, n_rows = 0, None
    for piece in pieces:
        if piece.dim() != 2 or piece.is_floating_point() or piece.is_complex():
            raise ValueError(
                f"token_ids must be (B, L) of integers, got {tuple(piece.shape)} {piece.dtype}"
            )
        if n_rows not in (None, piece.shape[0]):
            raise ValueError(f"every piece must have {n_rows} rows, got {piece.shape[0]}")
        n_rows = piece.shape[0]
        size = max(1, chunk_tokens // max(1, n_rows))
        while n_held + piece.shape[1] >= size:
            yield _join([*held, piece[:, : size - n_held]])
            piece, held, n_held = piece[:, size - n_held :], [], 0
        if piece.shape[1]:
            held.append(piece)
            n_held += piece.shape[1]
    if held:
        yield _join(held)


def _join(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
