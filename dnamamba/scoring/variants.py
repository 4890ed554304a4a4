"""Scores of variants by a language model: likelihood ratios and distances; `dnamamba score`.

    model = DnaModel.from_pretrained("runs/human")
    scores = score_variants(model, "variants.vcf.gz", genome="hg38.fa")

Both alleles are read between the same flanks, on each strand. So scores do not depend on how a file
writes an indel, and the other strand of everything gets the same. output.py writes them into a VCF
or a table.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.columns import is_table, read_variant_columns
from dnamamba.data_prep.regions.rows import (
    WITHOUT_SEQUENCE,
    RegionEdge,
    RegionRow,
    WindowRule,
    join_notes,
)
from dnamamba.data_prep.regions.text_input import open_text
from dnamamba.data_prep.regions.vcf import read_variants
from dnamamba.errors import InputError
from dnamamba.inference.batching import in_chunks
from dnamamba.inference.inputs import GenomeLike, as_genome
from dnamamba.inference.likelihood import (
    Reading,
    Values,
    masked_base_log_probabilities,
    mean_hidden,
    read_sequences,
    reduce_log_probs,
)
from dnamamba.inference.options import InferenceOptions, RcMode, device_of
from dnamamba.inference.windows import variant_rule
from dnamamba.models.language_model import DnaModel
from dnamamba.runtime import logger
from dnamamba.tokenizer import FIRST_BASE_ID, Codes, reverse_complement, token_ids

Pair = tuple[Codes, Codes]
"""A window with the reference, and with the alternative allele."""

T = TypeVar("T")
R = TypeVar("R")

_SINGLE_BASES = "a model that reads both ways gives a likelihood ratio of single bases alone"


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(InferenceOptions):
    """How variants are scored."""

    rc: RcMode = "average"
    """`average`: the mean of the scores of a window and of its reverse complement. `none`: the
    score of the genome's own strand, at half the cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rc("none", "average")


class VariantScore(NamedTuple):
    """The score of one allele, of both strands their mean; NaN for a number that there is not."""

    llr: float
    """Log-likelihood ratio, nats: the alternative's minus the reference's. An insertion lowers it
    by itself, as it is a sum over more bases, and a deletion raises it: compare alleles of other
    lengths by llr_per_base."""

    llr_per_base: float
    """Mean log p of a base of the alternative's window minus that of the reference's, nats."""

    ref_log_likelihood: float
    """Sum of log p over the reference's window, nats: of each base but the first, given those
    before it. If the model reads both ways, log p of the one base."""

    alt_log_likelihood: float
    """The same with the alternative allele."""

    cosine_distance: float
    """1 minus the cosine of the angle between both windows' mean final hidden states."""

    euclidean_distance: float
    """Euclidean distance between the two."""


_SCORED = np.dtype(
    [
        *(("chrom", "O"), ("pos", "i8"), ("ref", "O"), ("alt", "O")),
        *((name, "f8") for name in VariantScore._fields),
        *(("status", "O"), ("note", "O")),
    ]
)


def score_variants(
    model: DnaModel,
    variants: Any,
    *,
    genome: GenomeLike,
    seq_len: int | None = None,
    edge: RegionEdge = "shift",
    rc: RcMode = "average",
    batch_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> NDArray[np.void]:
    """Score variants: a structured array (n,), one row for each alternative allele, in their order.

    variants: a VCF, plain, gzip or BGZF (str or Path); or a table with the columns chrom, pos (from
        1, as in VCF), ref and alt: a DataFrame of pandas or polars, or a mapping.
    genome: what they refer to, a FASTA or store, or what `open_genome` returned.
    seq_len: bases of the longer allele's window, default 2,048 or what a Hyena's filters reach;
        best the length that the model was trained on. edge: `shift` (default) moves a window at a
        contig's end inside, `pad` fills it with N, `clip` cuts it.
    rc: the mean of both strands' scores (`average`, default), or the genome's strand (`none`).
    batch_tokens, autocast_dtype: as in `embed`.

    Fields: chrom, pos, ref, alt; the float64 numbers of VariantScore, llr first; status and note,
    which say how an allele was read. One without a score, such as a ref that the genome does not
    have, has NaN and a status that says so, and is logged.

        scores = dnamamba.score_variants(model, "variants.vcf.gz", genome="hg38.fa")
        scores["llr"]; pandas.DataFrame(scores)

    Raises InputError for a table without these columns, other formats, and windows that are longer
    than a Hyena's filters or than memory has room for; FileNotFoundError.
    """
    options = ScoreOptions(batch_tokens=batch_tokens, autocast_dtype=autocast_dtype, rc=rc)
    rule = variant_rule(model.config, seq_len, edge)
    rows = _rows_of(variants, as_genome(genome), rule)
    scored = [_fields(row, score) for row, score in score_rows(model, rows, options)]
    found = np.array(scored, _SCORED)
    if failed := [one for one in scored if one[-2] in WITHOUT_SEQUENCE]:
        logger.warning(
            "%s of %s alleles have no score, the first %s:%s: %s",
            *(f"{len(failed):,}", f"{len(scored):,}", *failed[0][:2], failed[0][-1]),
        )
    return found


def _rows_of(variants: Any, genome: Genome, rule: WindowRule) -> Iterator[RegionRow]:
    if is_table(variants):
        yield from read_variant_columns(variants, genome, rule)
        return
    if not isinstance(variants, str | Path):
        raise InputError(
            "variants must be a VCF's name or a table with the columns chrom, pos, ref and alt, "
            f"got {type(variants).__name__}"
        )
    with open_text(Path(variants)) as text:
        for line in read_variants(text, genome, rule):
            yield from line.rows


def _fields(row: RegionRow, score: VariantScore | None) -> tuple[Any, ...]:
    """A row of _SCORED."""
    chrom, pos, _, ref = row.columns[:4]
    numbers = score or (np.nan,) * len(VariantScore._fields)
    position = int(pos) if pos.isascii() and pos.isdigit() else -1
    return (chrom, position, ref, row.columns[-1], *numbers, str(row.status), row.note)


def score_rows(
    model: DnaModel, rows: Iterable[RegionRow], options: ScoreOptions | None = None
) -> Iterator[tuple[RegionRow, VariantScore | None]]:
    """Yield each row with its score, in the order of the rows; None without sequences.

    rows: variants with codes and alternative (`read_variants`), read a few batches ahead. A causal
    model reads both windows. A model that reads both ways (masked language models, Caduceus) reads
    the window of a single base with [MASK] in its place; other variants have distances alone, and a
    note that says so.
    Raises InputError for a window longer than a Hyena's filters or than memory has room for.
    """
    options = options or ScoreOptions()

    def size(row: RegionRow) -> int:
        return sum(map(len, row.sequences))

    for chunk in in_chunks(rows, size, options.tokens_in_batch(device_of(model))):
        pairs = [(row.codes, row.alternative) for row in chunk]
        known = [(ref, alt) for ref, alt in pairs if ref is not None and alt is not None]
        scores = iter(score_pairs(model, known, options))
        for row in chunk:
            if row.codes is None or row.alternative is None:
                yield row, None
                continue
            score = next(scores)
            if np.isnan(score.llr) and not model.is_causal:
                row = replace(row, note=join_notes(row.note, _SINGLE_BASES))
            yield row, score


def score_pairs(
    model: DnaModel, pairs: Sequence[Pair], options: ScoreOptions | None = None
) -> list[VariantScore]:
    """Score pairs of windows; see `score_rows`."""
    options = options or ScoreOptions()
    score = _score_causal if model.is_causal else _score_masked
    one_strand = replace(options, rc="none")
    # A model of both strands gives either the same score.
    if options.rc == "none" or model.config.strands == "both":
        return score(model, pairs, one_strand)
    others = [(reverse_complement(ref), reverse_complement(alt)) for ref, alt in pairs]
    scores = score(model, [*pairs, *others], one_strand)
    strands = zip(scores[: len(pairs)], scores[len(pairs) :], strict=True)
    return [VariantScore(*np.mean(both, axis=0).tolist()) for both in strands]


# --- one strand


def _score_causal(
    model: DnaModel, pairs: Sequence[Pair], options: InferenceOptions
) -> list[VariantScore]:
    windows = [window for pair in pairs for window in pair]

    def read(batch: list[Codes]) -> list[Reading]:
        return read_sequences(model, batch, options)

    # Alleles of one line share the reference's window.
    readings = _once_by_key(read, windows, map(_key_of, windows))
    return [
        _compare(ref.log_probs, alt.log_probs, ref.mean_hidden, alt.mean_hidden)
        for ref, alt in zip(readings[::2], readings[1::2], strict=True)
    ]


def _score_masked(
    model: DnaModel, pairs: Sequence[Pair], options: InferenceOptions
) -> list[VariantScore]:
    windows = [window for pair in pairs for window in pair]
    positions = [_single_base(*pair) for pair in pairs]
    masked = [(ref, at) for (ref, _), at in zip(pairs, positions, strict=True) if at is not None]

    def read_means(batch: list[Codes]) -> list[Values]:
        return mean_hidden(model, batch, options)

    def read_masked(batch: list[tuple[Codes, int]]) -> list[Values]:
        refs, at = [ref for ref, _ in batch], [at for _, at in batch]
        return list(masked_base_log_probabilities(model, refs, at, options))

    means = _once_by_key(read_means, windows, map(_key_of, windows))
    keys = [(_key_of(ref), at) for ref, at in masked]
    log_probs = iter(_once_by_key(read_masked, masked, keys))
    scores = []
    for pair, at, ref_mean, alt_mean in zip(pairs, positions, means[::2], means[1::2], strict=True):
        ref = alt = np.empty(0, np.float32)
        if at is not None:
            bases = next(log_probs)
            ref, alt = (bases[token_ids(codes[at : at + 1]) - FIRST_BASE_ID] for codes in pair)
        scores.append(_compare(ref, alt, ref_mean, alt_mean))
    return scores


def _single_base(ref: Codes, alt: Codes) -> int | None:
    """The position at which two windows differ, if it is one."""
    if len(ref) != len(alt):
        return None
    differs = np.flatnonzero(token_ids(ref) != token_ids(alt))
    return int(differs[0]) if len(differs) == 1 else None


def _compare(ref: Values, alt: Values, ref_mean: Values, alt_mean: Values) -> VariantScore:
    """ref, alt: log p of bases (L,), NaN for none. ref_mean, alt_mean: (D,)."""
    one, other = ref_mean.astype(np.float64), alt_mean.astype(np.float64)
    # Half the squared distance between unit vectors is 1 - cos, without cancellation.
    apart = one / np.linalg.norm(one) - other / np.linalg.norm(other)
    ref_sum, alt_sum = reduce_log_probs(ref, "sum"), reduce_log_probs(alt, "sum")
    return VariantScore(
        llr=alt_sum - ref_sum,
        llr_per_base=reduce_log_probs(alt, "mean") - reduce_log_probs(ref, "mean"),
        ref_log_likelihood=ref_sum,
        alt_log_likelihood=alt_sum,
        cosine_distance=float(apart @ apart / 2),
        euclidean_distance=float(np.linalg.norm(one - other)),
    )


def _once_by_key(
    read: Callable[[list[T]], list[R]], items: Sequence[T], keys: Iterable[Hashable]
) -> list[R]:
    """Results of `read` for all items; items of the same key are read once."""
    index_of: dict[Hashable, int] = {}
    chosen, indices = list[T](), list[int]()
    for item, key in zip(items, keys, strict=True):
        if key not in index_of:
            index_of[key] = len(chosen)
            chosen.append(item)
        indices.append(index_of[key])
    results = read(chosen) if chosen else []
    return [results[i] for i in indices]


def _key_of(codes: Codes) -> bytes:
    return token_ids(codes).tobytes()
