"""What a language model says of variants: likelihood ratios and distances; `dnamamba score`.

    model = DnaModel.from_pretrained("runs/human")
    with open_text(Path("variants.vcf.gz")) as text:
        variants = read_variants(text, genome, variant_rule(model))
        for row, score in score_rows(model, (row for line in variants for row in line.rows)):
            ...

Both alleles are read between the same flanks, in the direction of each strand. So scores do not
depend on how a file writes an indel, and are the same for the other strand of everything.
scoring/output.py writes them into a VCF or a table.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from dnamamba.data_prep.regions.rows import RegionRow, join_notes
from dnamamba.inference.batching import in_chunks
from dnamamba.inference.likelihood import (
    Values,
    masked_base_log_probabilities,
    mean_hidden,
    read_sequences,
)
from dnamamba.inference.options import InferenceOptions, RcMode, device_of
from dnamamba.models.language_model import DnaModel
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
    """Of one allele; NaN where there is none. Mean of both strands, where both were read."""

    llr: float
    """Log-likelihood ratio, nats: the alternative's less the reference's. Of an insertion it is
    lower by itself, as it is a sum over more bases, and of a deletion higher: compare alleles of
    other lengths by the next."""

    llr_per_base: float
    """The mean log p of a base of the alternative's window less that of the reference's, nats."""

    ref_log_likelihood: float
    """The sum of log p over the window, nats: of each base given those before it but for the first,
    of which no model says anything. Of a model that reads both ways log p of the one base."""

    alt_log_likelihood: float
    """The same with the alternative allele."""

    cosine_distance: float
    """1 less the cosine of the angle between both windows' mean final hidden states."""

    euclidean_distance: float
    """The Euclidean distance between the two."""


def score_rows(
    model: DnaModel, rows: Iterable[RegionRow], options: ScoreOptions | None = None
) -> Iterator[tuple[RegionRow, VariantScore | None]]:
    """Each row with its score, in the order of the rows; None for one without sequences.

    rows: those of variants, with codes and alternative (data_prep/regions/vcf.py's
    `read_variants`), taken a few batches ahead. A causal model reads both windows. One that reads
    both ways (masked language models, Caduceus) is shown the window of a SNV with [MASK] in its
    place; other variants have distances alone, and a note that says so.
    Raises InputError for a window that there is no memory for, or longer than a Hyena's filters.
    """
    options = options or ScoreOptions()

    def size(row: RegionRow) -> int:
        return sum(map(len, row.sequences))

    for some in in_chunks(rows, size, options.tokens_in_batch(device_of(model))):
        pairs = [(row.codes, row.alternative) for row in some]
        known = [(ref, alt) for ref, alt in pairs if ref is not None and alt is not None]
        scores = iter(score_pairs(model, known, options))
        for row in some:
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
    """The score of each pair of windows; see `score_rows`."""
    options = options or ScoreOptions()
    score = _score_causal if model.is_causal else _score_masked
    # A model of both strands says the same of either.
    one_strand = replace(options, rc="none")
    if options.rc == "none" or model.config.strands == "both":
        return score(model, pairs, one_strand)
    turned = [(reverse_complement(ref), reverse_complement(alt)) for ref, alt in pairs]
    found = score(model, [*pairs, *turned], one_strand)
    strands = zip(found[: len(pairs)], found[len(pairs) :], strict=True)
    return [VariantScore(*np.mean(both, axis=0).tolist()) for both in strands]


# --- one strand


def _score_causal(
    model: DnaModel, pairs: Sequence[Pair], options: InferenceOptions
) -> list[VariantScore]:
    sequences = [sequence for pair in pairs for sequence in pair]
    # Alleles of one line, and every change of a base, share the reference's window.
    readings = _each_once(
        lambda some: read_sequences(model, some, options), sequences, map(_letters, sequences)
    )
    return [
        _compare(ref.log_probs, alt.log_probs, ref.mean_hidden, alt.mean_hidden)
        for ref, alt in zip(readings[::2], readings[1::2], strict=True)
    ]


def _score_masked(
    model: DnaModel, pairs: Sequence[Pair], options: InferenceOptions
) -> list[VariantScore]:
    sequences = [sequence for pair in pairs for sequence in pair]
    means = _each_once(
        lambda some: mean_hidden(model, some, options), sequences, map(_letters, sequences)
    )
    places = [_single_base(*pair) for pair in pairs]
    hidden = [(ref, at) for (ref, _), at in zip(pairs, places, strict=True) if at is not None]

    def read(some: list[tuple[Codes, int]]) -> list[Values]:
        windows, positions = [ref for ref, _ in some], [at for _, at in some]
        return list(masked_base_log_probabilities(model, windows, positions, options))

    found = iter(_each_once(read, hidden, ((_letters(ref), at) for ref, at in hidden)))
    scores = []
    for pair, at, ref_mean, alt_mean in zip(pairs, places, means[::2], means[1::2], strict=True):
        ref = alt = np.empty(0, np.float32)
        if at is not None:
            log_probs = next(found)
            ref, alt = (log_probs[token_ids(codes[at : at + 1]) - FIRST_BASE_ID] for codes in pair)
        scores.append(_compare(ref, alt, ref_mean, alt_mean))
    return scores


def _single_base(ref: Codes, alt: Codes) -> int | None:
    """Where two windows differ, if that is at one base."""
    if len(ref) != len(alt):
        return None
    differs = np.flatnonzero(token_ids(ref) != token_ids(alt))
    return int(differs[0]) if len(differs) == 1 else None


def _compare(ref: Values, alt: Values, ref_mean: Values, alt_mean: Values) -> VariantScore:
    """ref, alt: log p of bases; NaN of those without. ref_mean, alt_mean: (D,)."""
    sums, means = list[float](), list[float]()
    for log_probs in (ref, alt):
        known = log_probs[~np.isnan(log_probs)]
        sums.append(float(known.sum(dtype=np.float64)) if len(known) else np.nan)
        means.append(sums[-1] / max(1, len(known)))
    one, other = ref_mean.astype(np.float64), alt_mean.astype(np.float64)
    # Half the squared distance between unit vectors is 1 - cos, without taking it from 1.
    apart = one / np.linalg.norm(one) - other / np.linalg.norm(other)
    return VariantScore(
        llr=sums[1] - sums[0],
        llr_per_base=means[1] - means[0],
        ref_log_likelihood=sums[0],
        alt_log_likelihood=sums[1],
        cosine_distance=float(apart @ apart / 2),
        euclidean_distance=float(np.linalg.norm(one - other)),
    )


def _each_once(
    read: Callable[[list[T]], list[R]], items: Sequence[T], keys: Iterable[Hashable]
) -> list[R]:
    """What `read` makes of each item, items of the same key read once."""
    places: dict[Hashable, int] = {}
    chosen, index = list[T](), list[int]()
    for item, key in zip(items, keys, strict=True):
        if key not in places:
            places[key] = len(chosen)
            chosen.append(item)
        index.append(places[key])
    found = read(chosen) if chosen else []
    return [found[i] for i in index]


def _letters(codes: Codes) -> bytes:
    return token_ids(codes).tobytes()
