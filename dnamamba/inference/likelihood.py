"""How likely a language model finds each base.

    model = DnaModel.from_pretrained("runs/human")
    for log_probs in log_probabilities(model, [encode("ACGTACGT")]):
        log_probs[1:].mean()

Of a causal model it is the probability of a base given those before it, of a model that reads both
ways that of a base which is hidden from it ([MASK]). The model has a logit for every token;
probabilities here are over A, C, G and T alone, so they sum to 1 over the four bases.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.inference.batching import batches_of, in_chunks, no_memory, run_in_halves, stack_rows
from dnamamba.models.language_model import DnaModel
from dnamamba.models.streaming import longest_sequence, why_no_stream
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID, MASK_ID, Codes, token_ids

Values = NDArray[np.float32]
T = TypeVar("T")

_BASES = slice(FIRST_BASE_ID, LAST_BASE_ID + 1)


@dataclass(frozen=True, kw_only=True)
class LikelihoodOptions:
    """How likelihoods are computed; rounding apart, none changes them."""

    batch_tokens: int = 1 << 16
    """Tokens in one pass, padding included; a longer sequence is a pass of its own."""

    chunk_tokens: int = 1 << 16
    """A longer sequence is read in pieces of so many tokens, from one to the next with the model's
    state, where it has one; memory then does not grow with the sequence."""

    autocast_dtype: torch.dtype | None = None
    """What matrices are multiplied in; None: the parameters' own dtype. The head always computes in
    float32."""

    def __post_init__(self) -> None:
        for name in ("batch_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more, got {getattr(self, name)}")


class Reading(NamedTuple):
    """What one pass over a sequence tells."""

    log_probs: Values
    """(L,) nats: log p of each base given those before it; NaN for the first, of which no model
    says anything, and for N and other letters."""

    mean_hidden: Values
    """(D,) the mean of the final norm's output over A, C, G and T."""


# --- causal models


def log_probabilities(
    model: DnaModel, sequences: Iterable[Codes], options: LikelihoodOptions | None = None
) -> Iterator[Values]:
    """Log probabilities of each sequence, in their order: (L,) float32 on the CPU, in nats.

    sequences: codes (uint8, one dimension, 1 base or more), of any length that the model can read;
    the soft-mask is dropped. Taken a few batches ahead; batches are of like lengths, padded on the
    right. log_probs[i] is of base i given bases 0 to i - 1, over A, C, G and T alone; NaN at 0 and
    at letters that are none of these. The model is put into evaluation mode, and runs on its own
    device.
    Raises InputError for a model that reads both ways, for sequences without bases or longer than
    a Hyena's filters, and for one that there is no memory for.
    """
    options = options or LikelihoodOptions()
    require_causal(model)
    for some in in_chunks(sequences, len, options.batch_tokens):
        for reading in read_sequences(model, some, options):
            yield reading.log_probs


def read_sequences(
    model: DnaModel, sequences: Sequence[Codes], options: LikelihoodOptions | None = None
) -> list[Reading]:
    """Log probabilities and means of hidden states, from one pass; see `log_probabilities`."""
    options = options or LikelihoodOptions()
    require_causal(model)

    def read(some: Sequence[Codes]) -> list[Reading]:
        if len(some[0]) > options.chunk_tokens and why_no_stream(model.config) is None:
            return [_read_long(model, one, options) for one in some]
        return _read_batch(model, some, options)

    return _in_batches(model, sequences, read, options)


def stream_log_probabilities(
    model: DnaModel, pieces: Iterable[Codes], options: LikelihoodOptions | None = None
) -> Iterator[Values]:
    """Log probabilities of one sequence that comes in pieces, of any length, in bounded memory.

    pieces: codes (uint8, one dimension) of any lengths, read when needed, and cut or joined
    to chunk_tokens. Yields float32 arrays that together are as long; the values are those of
    `log_probabilities`. Raises InputError
    for a model that carries no state of fixed size from one piece to the next: Hyena, attention.
    """
    require_causal(model)
    for log_probs, _, _ in _stream(model, pieces, options or LikelihoodOptions()):
        yield log_probs.cpu().numpy()


def require_causal(model: DnaModel) -> None:
    """Raises InputError for a model that reads both ways."""
    if not model.is_causal:
        raise InputError(
            "this model reads both ways, so it gives no likelihood of a sequence: of single bases "
            "there is one where each is hidden from it (hidden_base_log_probabilities); or take a "
            "causal model of one strand such as mamba-7m"
        )


# --- models that read both ways


def masked_base_log_probabilities(
    model: DnaModel,
    sequences: Sequence[Codes],
    positions: Sequence[int],
    options: LikelihoodOptions | None = None,
) -> NDArray[np.float32]:
    """(n, 4) float32: log p of A, C, G and T, in nats, at one position of each sequence, which the
    model is shown as [MASK].

    Raises InputError for a causal model, and as `log_probabilities`.
    """
    if model.is_causal:
        raise InputError(
            "a causal model has never seen [MASK]: ask for log_probabilities, of each base given "
            "those before it"
        )
    options = options or LikelihoodOptions()
    shown = [token_ids(sequence) for sequence in sequences]
    # The position travels with the letters: batches are in another order.
    for ids, position in zip(shown, positions, strict=True):
        ids[position] = MASK_ID

    def read(some: Sequence[Codes]) -> list[Values]:
        return _read_hidden(model, some, options)

    found = _in_batches(model, shown, read, options)
    return np.array(found, np.float32).reshape(-1, 4)


def mean_hidden(
    model: DnaModel, sequences: Sequence[Codes], options: LikelihoodOptions | None = None
) -> list[Values]:
    """The mean (D,) of the final norm's output over the bases A, C, G and T of each sequence."""
    options = options or LikelihoodOptions()

    def read(some: Sequence[Codes]) -> list[Values]:
        return _read_means(model, some, options)

    return _in_batches(model, sequences, read, options)


# --- passes


def _in_batches(
    model: DnaModel,
    sequences: Sequence[Codes],
    read: Callable[[Sequence[Codes]], list[T]],
    options: LikelihoodOptions,
) -> list[T]:
    """What `read` makes of sequences of like lengths, in the order that they were given in."""
    model.eval()
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    if not lengths.all():
        raise InputError("a sequence to read has 1 base or more, got one of 0")
    most = longest_sequence(model.config)
    if most is not None and len(lengths) and lengths.max() > most:
        raise InputError(
            f"a sequence of {lengths.max():,} bases is longer than this model's filters, which "
            f"were made for {most:,}: give shorter ones"
        )
    results: dict[int, T] = {}
    for batch in batches_of(lengths, options.batch_tokens):
        parts = run_in_halves([sequences[i] for i in batch], read, no_memory)
        found = [result for part in parts for result in part]
        results |= zip(batch, found, strict=True)
    return [results[i] for i in range(len(sequences))]


def _hidden_of(
    model: DnaModel, sequences: Sequence[Codes], options: LikelihoodOptions
) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) of a padded batch and the final norm's output (B, L, D)."""
    ids, lengths = stack_rows(sequences, longest_sequence(model.config), _device(model))
    with _autocast(model, options):
        return ids, model.embed(ids, lengths)


@torch.inference_mode()
def _read_batch(
    model: DnaModel, sequences: Sequence[Codes], options: LikelihoodOptions
) -> list[Reading]:
    ids, hidden = _hidden_of(model, sequences, options)
    given = base_log_probs(model, hidden)
    unknown = given.new_full((len(ids), 1, given.shape[-1]), torch.nan)
    log_probs = _choose(torch.cat([unknown, given[:, :-1]], 1), ids).cpu().numpy()
    means = _mean_of_bases(hidden, ids)
    return [
        Reading(row[: len(sequence)], mean)
        for row, sequence, mean in zip(log_probs, sequences, means, strict=True)
    ]


@torch.inference_mode()
def _read_means(
    model: DnaModel, sequences: Sequence[Codes], options: LikelihoodOptions
) -> list[Values]:
    ids, hidden = _hidden_of(model, sequences, options)
    return list(_mean_of_bases(hidden, ids))


@torch.inference_mode()
def _read_hidden(
    model: DnaModel, shown: Sequence[Codes], options: LikelihoodOptions
) -> list[Values]:
    """shown: token ids, one of each row [MASK]."""
    ids, lengths = stack_rows(shown, longest_sequence(model.config), _device(model))
    with _autocast(model, options):
        logits = model(ids, lengths=lengths)
    rows, positions = torch.nonzero(ids == MASK_ID, as_tuple=True)
    chosen = logits[rows, positions, _BASES]
    return list(chosen.to(_wide(chosen)).log_softmax(-1).float().cpu().numpy())


def _read_long(model: DnaModel, sequence: Codes, options: LikelihoodOptions) -> Reading:
    log_probs, total, count = list[Values](), torch.zeros(model.config.d_model).double(), 0
    for values, sums, n_bases in _stream(model, [sequence], options):
        log_probs.append(values.cpu().numpy())
        total, count = total + sums.double().cpu(), count + n_bases
    return Reading(np.concatenate(log_probs), (total / count).float().numpy())


def _stream(
    model: DnaModel, pieces: Iterable[Codes], options: LikelihoodOptions
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Of a piece at a time: log probabilities (l,), hidden states added up over its bases (D,), and
    how many bases these are."""
    model.eval()
    tokens = (torch.from_numpy(token_ids(codes))[None] for codes in pieces)
    stream = model.stream(tokens, chunk_tokens=options.chunk_tokens)
    # What the model said of the first base of the next piece.
    before = torch.full((1, 1, 4), torch.nan, device=_device(model))
    while True:
        # Around each piece alone: what the caller does between them is its own business.
        with _autocast(model, options), torch.no_grad():
            chunk = next(stream, None)
            if chunk is None:
                return
            given = torch.cat([before, base_log_probs(model, chunk.hidden[0])], 1)
            values = _choose(given[:, :-1], chunk.token_ids)[0]
            sums = _sum_of_bases(chunk.hidden[0], chunk.token_ids)[0]
            before, n_bases = given[:, -1:].clone(), int(_is_base(chunk.token_ids).sum())
        yield values, sums, n_bases


def base_log_probs(model: DnaModel, hidden: Tensor) -> Tensor:
    """Hidden states (B, L, D) of a model of one strand to log p of A, C, G and T (B, L, 4), at
    least in float32."""
    dtype = _wide(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden.to(dtype), model.lm_head.weight[_BASES].to(dtype))
    return logits.log_softmax(-1)


def _choose(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Those (B, L) of the bases that are there, float32; NaN where there is none."""
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


def _device(model: DnaModel) -> torch.device:
    return next(model.parameters()).device


def _autocast(model: DnaModel, options: LikelihoodOptions) -> torch.autocast:
    dtype = options.autocast_dtype
    return torch.autocast(_device(model).type, dtype, enabled=dtype is not None)
