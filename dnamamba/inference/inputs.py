"""Sequences as people hold them (letters, ids, regions in a table) as input of a model.

logits(model, "ACGTAC")  # (6, 12)
batch = tokenize(["ACGT", "TTGACA"], return_tensors="pt")
model(batch.token_ids, lengths=batch.lengths)  # (2, 6, 16)
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.configs import require_choice
from dnamamba.data_prep.genomes.genome import Genome, open_genome
from dnamamba.data_prep.regions.columns import is_table
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import (
    WITHOUT_SEQUENCE,
    RegionRow,
    RegionTable,
    RowStatus,
    WindowRule,
)
from dnamamba.errors import InputError
from dnamamba.inference.batching import map_in_batches, stack_rows
from dnamamba.inference.options import InferenceOptions, device_of
from dnamamba.models.language_model import DnaModel
from dnamamba.models.streaming import longest_sequence
from dnamamba.tokenizer import PAD_ID, UNK_ID, VOCABULARY, Codes, encode, is_base, token_ids

Values = NDArray[np.float32]
GenomeLike = Genome | str | Path | Sequence[str | Path]
"""An open genome, or its FASTA files and stores."""


class TokenBatch(NamedTuple):
    """Sequences as rows of one array (numpy) or tensor, padded on the right."""

    token_ids: Any
    """(B, L) uint8, L of the longest sequence; [PAD] after the end of shorter ones."""

    lengths: Any
    """(B,) int64, tokens of each sequence."""


def tokenize(sequences: Any, *, return_tensors: Literal["np", "pt"] = "np") -> TokenBatch:
    """Token ids of a sequence or of several, padded, as a model takes them.

    sequences: a str, bytes, an array or tensor of ids (one dimension), or several of them. Letters
    may be of either case; U is read as T, ambiguous letters and gaps as N. (`encode` keeps the
    case, in a bit that a model does not take.) return_tensors: `np` for numpy, `pt` for PyTorch.

        batch = dnamamba.tokenize(["ACGT", "GG"], return_tensors="pt")
        batch.token_ids    # [[7, 8, 9, 10], [9, 9, 4, 4]]
        logits = model(batch.token_ids, lengths=batch.lengths)

    Raises InputError for an empty sequence, letters that are not DNA, and ids of no token.
    """
    require_choice("return_tensors", return_tensors, Literal["np", "pt"])
    codes = _all_codes(sequences)
    lengths = np.array([len(one) for one in codes], np.int64)
    ids = np.full((len(codes), lengths.max(initial=0)), PAD_ID, np.uint8)
    for row, one in zip(ids, codes, strict=True):
        row[: len(one)] = token_ids(one)
    if return_tensors == "pt":
        return TokenBatch(torch.from_numpy(ids), torch.from_numpy(lengths))
    return TokenBatch(ids, lengths)


@torch.inference_mode()
def logits(
    model: DnaModel,
    sequences: Any,
    *,
    batch_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Any:
    """Logits of a sequence (L, V) or, in a list, of several: float32 on the CPU.

    sequences: as in `tokenize`. Column i belongs to VOCABULARY.tokens[i], V = 12 for DNA; bases are
    columns 7 to 10. A causal model's row t is of the token after t, any other's of token t itself.
    batch_tokens: tokens in one pass, default 1M on a GPU and 64k on a CPU; it changes nothing but
    rounding. autocast_dtype: dtype of matrix products, default the parameters' own. The model is
    put into evaluation mode and runs on its own device; for gradients call `model(token_ids)`.

        dnamamba.logits(model, "ACGTAC")[-1, 7:11]    # of A, C, G and T as the next base

    Raises InputError as `tokenize`, for a sequence longer than a Hyena's filters, and if memory is
    too small for one.
    """
    codes = _all_codes(sequences)
    options = InferenceOptions(batch_tokens=batch_tokens, autocast_dtype=autocast_dtype)
    device = device_of(model.eval())

    def read(batch: Sequence[Codes]) -> list[Values]:
        ids, lengths = stack_rows(batch, longest_sequence(model.config), device)
        with options.autocast(device):
            found = model(ids, lengths=lengths)[..., : model.config.vocab_size]
        rows = zip(found.float().cpu().numpy(), batch, strict=True)
        return [row[: len(one)].copy() for row, one in rows]

    results = map_in_batches(codes, read, options.tokens_in_batch(device))
    return results[0] if _is_single(sequences) else results


class Inputs(NamedTuple):
    """What one call reads."""

    rows: Iterator[RegionRow]
    """Each with a sequence."""

    is_single: bool
    """Whether one sequence was given, not several."""


def read_inputs(
    data: Any, genome: GenomeLike | None = None, rule: WindowRule | None = None
) -> Inputs:
    """Rows of what a user gives: sequences, a table of regions, or rows that `open_regions` gives.

    data: see `tokenize`; a DataFrame or mapping with the columns chrom, start, end and perhaps
    strand (data_prep/regions/columns.py), which needs `genome`; or rows. rule: how much of a region
    in a table is read, default all of it.
    Raises InputError for no sequence, one without any A, C, G or T, and a region that makes no
    sense; of rows, while they are read.
    """
    if is_table(data) and not isinstance(data, RegionTable):
        opened = None if genome is None else as_genome(genome)
        return Inputs(_table_rows(data, opened, rule), False)
    if genome is not None:
        raise InputError(
            f"a genome is for regions: expected a table with the columns chrom, start and end, got "
            f"{type(data).__name__}"
        )
    is_single = _is_single(data)
    return Inputs(_rows([data] if is_single else data), is_single)


def as_genome(genome: GenomeLike) -> Genome:
    """Open a genome that is named by its files."""
    return open_genome(genome) if isinstance(genome, str | Path | Sequence) else genome


def _table_rows(table: Any, genome: Genome | None, rule: WindowRule | None) -> Iterator[RegionRow]:
    with open_regions(table, genome=genome, rule=rule) as rows:
        yield from rows


def _rows(data: Iterable[Any]) -> Iterator[RegionRow]:
    for i, one in enumerate(data):
        if isinstance(one, RegionRow):
            if one.status in WITHOUT_SEQUENCE:
                raise InputError(f"line {one.line}: {one.note}")
            yield one
            continue
        codes = _codes_of(one, f"sequence {i}")
        if not is_base(codes).any():
            raise InputError(f"sequence {i} has no A, C, G or T among {len(codes):,} letters")
        yield RegionRow(i, (), RowStatus.OK, codes=codes, span=(0, len(codes)))


def _is_single(sequences: Any) -> bool:
    if isinstance(sequences, str | bytes | bytearray):
        return True
    if isinstance(sequences, np.ndarray | torch.Tensor):
        return sequences.ndim == 1 and not _is_text(sequences)
    if isinstance(sequences, Path) or not isinstance(sequences, Iterable):
        raise InputError(
            "expected a sequence of letters or ids, several of them, or a table of regions, got "
            f"{type(sequences).__name__}; files are opened by open_regions"
        )
    return False


def _is_text(array: NDArray[Any] | torch.Tensor) -> bool:
    """Whether it is an array of str, each a sequence."""
    return isinstance(array, np.ndarray) and array.dtype.kind in "OSUT"


def _all_codes(sequences: Any) -> list[Codes]:
    given = [sequences] if _is_single(sequences) else sequences
    return [_codes_of(one, f"sequence {i}") for i, one in enumerate(given)]


def _codes_of(sequence: Any, name: str) -> Codes:
    """name: for messages."""
    if isinstance(sequence, str | bytes | bytearray):
        codes = encode(sequence)
        _refuse_foreign(sequence, codes, name)
    else:
        codes = _check_ids(np.asarray(sequence), name)
    if not len(codes):
        raise InputError(f"{name} is empty: expected 1 base or more")
    return codes


def _refuse_foreign(sequence: str | bytes | bytearray, codes: Codes, name: str) -> None:
    foreign = np.flatnonzero(token_ids(codes) == UNK_ID)
    if len(foreign):
        at = int(foreign[0])
        raise InputError(
            f"letters must be A, C, G, T, U, N, IUPAC's ambiguous ones or gaps, but {name} has "
            f"{len(foreign):,} others, the first {sequence[at : at + 1]!r} at position {at:,}"
        )


def _check_ids(ids: NDArray[Any], name: str) -> Codes:
    """Ids as codes. A row that `tokenize` padded ends at its padding."""
    if ids.ndim != 1 or ids.dtype.kind not in "ui":
        raise InputError(
            f"{name} must be letters, or integers of one dimension, got {ids.dtype} of shape "
            f"{ids.shape}"
        )
    # Codes have the soft-mask in the highest bit, which only uint8 holds.
    plain = token_ids(ids) if ids.dtype == np.uint8 else ids
    if len(ids) and not 0 <= plain.min() <= plain.max() < VOCABULARY.size:
        found = f"{plain.min()} to {plain.max()}"
        raise InputError(f"{name} must have ids from 0 to {VOCABULARY.size - 1}, got {found}")
    codes = ids.astype(np.uint8)
    real = np.flatnonzero(codes != PAD_ID)
    return codes[: real[-1] + 1] if len(real) else codes[:0]
