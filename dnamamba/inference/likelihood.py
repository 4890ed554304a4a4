"""The likelihood of each base by a language model.

    model = DnaModel.from_pretrained("runs/human")
    for log_probs in log_probabilities(model, [encode("ACGTACGT")]):
        log_probs[1:].mean()

A causal model gives the probability of a base given those before it; a model that reads both ways
gives that of a base which is masked ([MASK]). Models have a logit for every token; probabilities
here are over A, C, G and T alone, so they sum to 1 over the four bases.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.inference.batching import in_chunks, map_in_batches, stack_rows
from dnamamba.inference.options import InferenceOptions, device_of
from dnamamba.inference.windows import why_too_long
from dnamamba.models.language_model import DnaModel
from dnamamba.models.streaming import longest_sequence, why_no_stream
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID, MASK_ID, Codes, token_ids

Values = NDArray[np.float32]
T = TypeVar("T")

_BASES = slice(FIRST_BASE_ID, LAST_BASE_ID + 1)


class Reading(NamedTuple):
    """Results of one pass over a sequence."""

    log_probs: Values
    """(L,) nats: log p of each base given those before it; NaN for the first, which nothing
    precedes, and for N and other letters."""

    mean_hidden: Values
    """(D,) mean of the final norm's output over A, C, G and T."""


# --- causal models


def log_probabilities(
    model: DnaModel, sequences: Iterable[Codes], options: InferenceOptions | None = None
) -> Iterator[Values]:
    """Log probabilities of each sequence, in their order: (L,) float32 on the CPU, in nats.

    sequences: codes (uint8, one dimension, 1 base or more), of any length that the model can read;
    the soft-mask is dropped. A few batches are read ahead. log_probs[i] is of base i given bases 0
    to i - 1; NaN at 0 and at letters other than A, C, G and T. The model is put into evaluation
    mode and runs on its own device; the head computes in float32. `options.rc` must be none: give
    the reverse complement as a sequence of its own.
    Raises InputError for a model that reads both ways, for sequences without bases or longer than
    a Hyena's filters, and if memory is too small for one sequence.
    """
    options = options or InferenceOptions()
    require_causal(model)
    for chunk in in_chunks(sequences, len, options.tokens_in_batch(device_of(model))):
        for reading in read_sequences(model, chunk, options):
            yield reading.log_probs


def read_sequences(
    model: DnaModel, sequences: Sequence[Codes], options: InferenceOptions | None = None
) -> list[Reading]:
    """Log probabilities and means of hidden states, from one pass; see `log_probabilities`."""
    require_causal(model)
    return _in_batches(_read_batch, model, sequences, options)


def stream_log_probabilities(
    model: DnaModel, pieces: Iterable[Codes], options: InferenceOptions | None = None
) -> Iterator[Values]:
    """Log probabilities of one sequence that comes in pieces, of any length, in bounded memory.

    pieces: codes (uint8, one dimension) of any lengths, read when needed, and cut or joined to
    chunk_tokens. Yields float32 arrays with the values of `log_probabilities`, together as long as
    the pieces. Raises InputError for a model without a state of fixed size (Hyena, attention).
    """
    require_causal(model)
    for log_probs, _, _ in _stream(model, pieces, options or InferenceOptions()):
        yield log_probs.cpu().numpy()


def require_causal(model: DnaModel) -> None:
    """Raise InputError for a model that reads both ways."""
    if not model.is_causal:
        raise InputError(
            "this model reads both ways, so it gives no likelihood of a sequence, only of single "
            "masked bases (masked_base_log_probabilities); or take a causal model of one strand "
            "such as mamba-7m"
        )


def reduce_log_probs(log_probs: Values, reduction: Literal["sum", "mean"]) -> float:
    """Sum or mean over the bases that have a log probability; NaN if none has."""
    known = log_probs[~np.isnan(log_probs)]
    if not len(known):
        return float("nan")
    total = float(known.sum(dtype=np.float64))
    return total if reduction == "sum" else total / len(known)


# --- models that read both ways


def masked_base_log_probabilities(
    model: DnaModel,
    sequences: Sequence[Codes],
    positions: Sequence[int],
    options: InferenceOptions | None = None,
) -> NDArray[np.float32]:
    """Log p of A, C, G and T, (n, 4) float32 in nats, at one masked position of each sequence.

    Raises InputError for a causal model, and as `log_probabilities`.
    """
    if model.is_causal:
        raise InputError(
            "a causal model has never seen [MASK]: use log_probabilities, which gives each base "
            "given those before it"
        )
    shown = [token_ids(sequence) for sequence in sequences]
    # The position travels with the letters: batches are in another order.
    for ids, position in zip(shown, positions, strict=True):
        ids[position] = MASK_ID
    found = _in_batches(_read_masked, model, shown, options)
    return np.array(found, np.float32).reshape(-1, 4)


def mean_hidden(
    model: DnaModel, sequences: Sequence[Codes], options: InferenceOptions | None = None
) -> list[Values]:
    """The mean (D,) of the final norm's output over the bases A, C, G and T of each sequence."""
    return _in_batches(_read_means, model, sequences, options)


# --- passes


def _in_batches(
    read: Callable[[DnaModel, Sequence[Codes], InferenceOptions], list[T]],
    model: DnaModel,
    sequences: Sequence[Codes],
    options: InferenceOptions | None,
) -> list[T]:
    """Results of `read` for batches of like lengths, in the order of the sequences."""
    options = options or InferenceOptions()
    options.require_rc("none")
    model.eval()
    if reason := why_too_long(model.config, max(map(len, sequences), default=0)):
        raise InputError(f"{reason}: give shorter sequences")
    size = options.tokens_in_batch(device_of(model))
    with torch.inference_mode():
        return map_in_batches(sequences, lambda batch: read(model, batch, options), size)


def _hidden_of(
    model: DnaModel, sequences: Sequence[Codes], options: InferenceOptions
) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) of a padded batch and the final norm's output (B, L, D)."""
    ids, lengths = stack_rows(sequences, longest_sequence(model.config), device_of(model))
    with options.autocast(device_of(model)):
        return ids, model.embed(ids, lengths)


def _read_means(
    model: DnaModel, sequences: Sequence[Codes], options: InferenceOptions
) -> list[Values]:
    ids, hidden = _hidden_of(model, sequences, options)
    return list(_mean_of_bases(hidden, ids))


def _read_batch(
    model: DnaModel, sequences: Sequence[Codes], options: InferenceOptions
) -> list[Reading]:
    longest = options.tokens_in_chunk(device_of(model))
    if len(sequences[0]) > longest and why_no_stream(model.config) is None:
        return [_read_long(model, sequence, options) for sequence in sequences]
    ids, hidden = _hidden_of(model, sequences, options)
    given = base_log_probs(model, hidden)
    unknown = given.new_full((len(ids), 1, given.shape[-1]), torch.nan)
    log_probs = _choose(torch.cat([unknown, given[:, :-1]], 1), ids).cpu().numpy()
    means = _mean_of_bases(hidden, ids)
    return [
        Reading(row[: len(sequence)], mean)
        for row, sequence, mean in zip(log_probs, sequences, means, strict=True)
    ]


def _read_masked(
    model: DnaModel, shown: Sequence[Codes], options: InferenceOptions
) -> list[Values]:
    """shown: token ids, one of each row [MASK]."""
    ids, lengths = stack_rows(shown, longest_sequence(model.config), device_of(model))
    with options.autocast(device_of(model)):
        logits = model(ids, lengths=lengths)
    rows, positions = torch.nonzero(ids == MASK_ID, as_tuple=True)
    chosen = logits[rows, positions, _BASES]
    return list(chosen.to(_wide(chosen)).log_softmax(-1).float().cpu().numpy())


def _read_long(model: DnaModel, sequence: Codes, options: InferenceOptions) -> Reading:
    log_probs, total, count = list[Values](), torch.zeros(model.config.d_model).double(), 0
    for values, sums, n_bases in _stream(model, [sequence], options):
        log_probs.append(values.cpu().numpy())
        total, count = total + sums.double().cpu(), count + n_bases
    return Reading(np.concatenate(log_probs), (total / count).float().numpy())


def _stream(
    model: DnaModel, pieces: Iterable[Codes], options: InferenceOptions
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Log probabilities (l,) of each piece, the sum of hidden states over its bases (D,), and the
    number of these bases."""
    options.require_rc("none")
    model.eval()
    tokens = (torch.from_numpy(token_ids(codes))[None] for codes in pieces)
    stream = model.stream(tokens, chunk_tokens=options.tokens_in_chunk(device_of(model)))
    # The prediction for the first base of the next piece.
    before = torch.full((1, 1, 4), torch.nan, device=device_of(model))
    while True:
        # Around each piece alone: the caller's code between pieces runs without autocast.
        with options.autocast(device_of(model)), torch.no_grad():
            chunk = next(stream, None)
            if chunk is None:
                return
            given = torch.cat([before, base_log_probs(model, chunk.hidden[0])], 1)
            values = _choose(given[:, :-1], chunk.token_ids)[0]
            sums = _sum_of_bases(chunk.hidden[0], chunk.token_ids)[0]
            before, n_bases = given[:, -1:].clone(), int(_is_base(chunk.token_ids).sum())
        yield values, sums, n_bases


def base_log_probs(model: DnaModel, hidden: Tensor) -> Tensor:
    """log p of A, C, G and T (B, L, 4), float32 or wider, from the hidden states (B, L, D) of a
    model of one strand."""
    dtype = _wide(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden.to(dtype), model.lm_head.weight[_BASES].to(dtype))
    return logits.log_softmax(-1)


def _choose(log_probs: Tensor, ids: Tensor) -> Tensor:
    """The log p of each position's own base (B, L), float32; NaN at other letters."""
    index = (ids.long() - FIRST_BASE_ID).clamp(0, 3).unsqueeze(-1)
    chosen = log_probs.gather(-1, index).squeeze(-1).float()
    return chosen.masked_fill(~_is_base(ids), torch.nan)


def _sum_of_bases(hidden: Tensor, ids: Tensor) -> Tensor:
    # Added up in float32: in bfloat16 a sum of thousands stops growing.
    seen = hidden.masked_fill(~_is_base(ids).unsqueeze(-1), 0)
    return seen.sum(1, dtype=_wide(hidden))


def _mean_of_bases(hidden: Tensor, ids: Tensor) -> Values:
    counts = _is_base(ids).sum(1, keepdim=True)
    return (_sum_of_bases(hidden, ids) / counts).float().cpu().numpy()


def _is_base(ids: Tensor) -> Tensor:
    return (ids >= FIRST_BASE_ID) & (ids <= LAST_BASE_ID)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
