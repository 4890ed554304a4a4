"""How surprising each base is to a language model, as a track for a genome browser.

    with open_regions(Path("genes.bed"), genome=genome) as table:
        write_nll_track(model, table, genome, Path("nll.bw"), TrackOptions(context=4096))

A value is -log2 p of a base given those before it on the region's strand, in bits: 0 if the model
is certain, 2 if it has no idea. Its mean over a region is the region's bits per base. N and the
first base that a model reads have no value.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import WITHOUT_SEQUENCE, RegionRow, RowStatus
from dnamamba.errors import InputError
from dnamamba.files import PACKED, building, format_by_ending, open_output
from dnamamba.inference.batching import in_chunks
from dnamamba.inference.likelihood import (
    Values,
    log_probabilities,
    require_causal,
    stream_log_probabilities,
)
from dnamamba.inference.options import InferenceOptions, device_of
from dnamamba.intervals import Interval, Strand
from dnamamba.models.language_model import DnaModel
from dnamamba.models.streaming import why_no_stream
from dnamamba.runtime import logger
from dnamamba.tokenizer import Codes, reverse_complement

TrackFormat = Literal["bigwig", "bedgraph"]
TrackPiece = tuple[str, int, Values]
"""(contig, start, values): a value for each base from start on, NaN for none."""

_Run = tuple[str, int, NDArray[np.float64]]
"""A TrackPiece without NaN, rounded."""

_BEDGRAPH = (".bedgraph", ".bedGraph", ".bdg", ".bg")
_ENDINGS: dict[str, TrackFormat] = {
    **dict.fromkeys((".bw", ".bigwig", ".bigWig"), "bigwig"),
    **{f"{ending}{packed}": "bedgraph" for ending in _BEDGRAPH for packed in ("", *PACKED)},
}


@dataclass(frozen=True, kw_only=True)
class TrackOptions(InferenceOptions):
    """How a track is computed and written."""

    context: int = 0
    """Bases before each region, on its strand, that the model reads first; they get no value."""

    name: str = "dnamamba"
    """Name of the track in a browser; a bigWig has no place for it."""

    decimals: int = 3
    """Decimals of a value; fewer make a smaller file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rc("none")
        for name in ("context", "decimals"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be >= 0, got {getattr(self, name)}")


def write_nll_track(
    model: DnaModel,
    rows: Iterable[RegionRow],
    genome: Genome,
    out: Path,
    options: TrackOptions | None = None,
    on_bases: Callable[[int], None] = lambda n_bases: None,
) -> Counter[RowStatus]:
    """Write -log2 p of each base of the regions, in bits, and count the rows' statuses.

    rows: regions of the genome in any order; those without a sequence are left out. Their bases are
    read from the genome, so codes may be None. A region on strand `-` is read from its end.
    out: .bw or .bigwig (needs pybigtools, the extra `bigwig`), or .bedgraph or .bg, to which .gz
    adds BGZF; it appears when it is whole. on_bases: called with the number of bases done.

    Memory holds a few pieces of a chromosome; values of a long region on strand `-` wait in a
    temporary file beside `out`.
    Raises InputError for a model that reads both ways, for regions that overlap or lie on no contig
    of the genome, and if no base has a value.
    """
    options = options or TrackOptions()
    require_causal(model)
    statuses: Counter[RowStatus] = Counter()
    regions = []
    for row in rows:
        if row.status in WITHOUT_SEQUENCE and not set(statuses) & WITHOUT_SEQUENCE:
            # A track has no place for notes: log the first, count them all.
            logger.warning("line %s is not in the track: %s", f"{row.line:,}", row.note)
        statuses[row.status] += 1
        if row.window is not None and row.window.length:
            regions.append(row.window)
    ordered = _sort_regions(regions, genome.contigs)

    def pieces() -> Iterator[TrackPiece]:
        n_bases = 0
        for contig, start, values in _log_probs(model, ordered, genome, out.parent, options):
            yield contig, start, values / np.float32(-math.log(2))
            n_bases += len(values)
            on_bases(n_bases)

    description = "-log2 p of each base given those before it, bits per base"
    write_track(pieces(), out, genome.contigs, options, description)
    return statuses


def _sort_regions(regions: list[Interval], contigs: Mapping[str, int]) -> list[Interval]:
    """Sort regions in genome order. Raises InputError for regions that overlap."""
    order = {contig: n for n, contig in enumerate(contigs)}
    if unknown := [region for region in regions if region.chrom not in order]:
        raise InputError(
            f"regions of a track must lie on the genome, which has no contig {unknown[0].chrom!r}"
        )
    ordered = sorted(regions, key=lambda region: (order[region.chrom], region.start, region.end))
    overlaps, widest = list[str](), Interval("", 0, 0)
    for region in ordered:
        if widest.overlaps(region):
            overlaps.append(f"{widest} ({widest.strand}) and {region} ({region.strand})")
        if region.chrom != widest.chrom or region.end > widest.end:
            widest = region
    if overlaps:
        more = f", and {len(overlaps) - 3:,} more" if len(overlaps) > 3 else ""
        raise InputError(
            f"a track has one value a base, but regions overlap: {'; '.join(overlaps[:3])}{more}. "
            "Merge them (bedtools merge), or write a track for each strand"
        )
    return ordered


# --- values


def _log_probs(
    model: DnaModel,
    regions: Sequence[Interval],
    genome: Genome,
    folder: Path,
    options: TrackOptions,
) -> Iterator[TrackPiece]:
    """Log p of the regions' bases, in their order, in nats. folder: for temporary files."""
    device, can_stream = device_of(model), why_no_stream(model.config) is None

    def length(region: Interval) -> int:
        return region.length + options.context

    def is_streamed(region: Interval) -> bool:
        return can_stream and length(region) > options.tokens_in_chunk(device)

    for streamed, group in groupby(regions, key=is_streamed):
        if not streamed:
            for chunk in in_chunks(group, length, options.tokens_in_batch(device)):
                yield from _read_whole(model, chunk, genome, options)
            continue
        for region in group:
            if region.strand == Strand.REVERSE:
                yield from _stream_reverse(model, region, genome, folder, options)
            else:
                yield from _stream_forward(model, region, genome, options)


def _read_whole(
    model: DnaModel, regions: Sequence[Interval], genome: Genome, options: TrackOptions
) -> Iterator[TrackPiece]:
    """Regions in one pass each, several together."""
    sequences = []
    for region in regions:
        codes = genome.read(region.chrom, *_with_context(region, genome, options.context))
        is_reverse = region.strand == Strand.REVERSE
        sequences.append(reverse_complement(codes) if is_reverse else codes)
    found = log_probabilities(model, sequences, options)
    for region, log_probs in zip(regions, found, strict=True):
        values = log_probs[len(log_probs) - region.length :]
        is_reverse = region.strand == Strand.REVERSE
        yield region.chrom, region.start, values[::-1] if is_reverse else values


def _stream_forward(
    model: DnaModel, region: Interval, genome: Genome, options: TrackOptions
) -> Iterator[TrackPiece]:
    start, end = _with_context(region, genome, options.context)
    step = options.tokens_in_chunk(device_of(model))
    pieces = (genome.read(region.chrom, at, min(end, at + step)) for at in range(start, end, step))
    for values in stream_log_probabilities(model, pieces, options):
        known = values[max(0, region.start - start) :]
        if len(known):
            yield region.chrom, start + len(values) - len(known), known
        start += len(values)


def _stream_reverse(
    model: DnaModel, region: Interval, genome: Genome, folder: Path, options: TrackOptions
) -> Iterator[TrackPiece]:
    """Stream from the region's end; values wait in a file, as a track begins at the start."""
    start, end = _with_context(region, genome, options.context)
    step = options.tokens_in_chunk(device_of(model))

    def pieces() -> Iterator[Codes]:
        for at in range(end, start, -step):
            yield reverse_complement(genome.read(region.chrom, max(start, at - step), at))

    with TemporaryFile(dir=folder) as file:
        waiting = np.memmap(file, np.float32, "w+", shape=(region.length,))
        at = end
        for values in stream_log_probabilities(model, pieces(), options):
            first, last = at - len(values), min(at, region.end)
            if last > first:
                inside = slice(first - region.start, last - region.start)
                waiting[inside] = values[::-1][: last - first]
            at = first
        for first in range(0, region.length, step):
            yield region.chrom, region.start + first, np.array(waiting[first : first + step])


def _with_context(region: Interval, genome: Genome, context: int) -> tuple[int, int]:
    if region.strand == Strand.REVERSE:
        return region.start, min(genome.contigs[region.chrom], region.end + context)
    return max(0, region.start - context), region.end


# --- files


def format_of_track(out: Path) -> TrackFormat:
    """The format that a file's name asks for. Raises InputError for other names."""
    return format_by_ending(out, _ENDINGS)


def write_track(
    pieces: Iterable[TrackPiece],
    out: Path,
    contigs: Mapping[str, int],
    options: TrackOptions | None = None,
    description: str = "",
) -> int:
    """Write values of bases as bigWig or bedGraph, by the file's name; returns how many.

    pieces: in the order of the contigs and of positions, without overlap; NaN and what is between
    pieces get no entry. contigs: name -> length in bases; a bigWig names those with values.
    Raises InputError for pieces in another order or beyond their contig, for pieces without any
    value, for a full disk, and for a bigWig if pybigtools is missing.
    """
    options = options or TrackOptions()
    n_values = 0

    def runs() -> Iterator[_Run]:
        nonlocal n_values
        for contig, start, values in _check_order(pieces, contigs):
            # + 0.0 makes 0 of -0.
            rounded = values.astype(np.float64).round(options.decimals) + 0.0
            for first, last in _known_runs(rounded):
                n_values += last - first
                yield contig, start + first, rounded[first:last]

    if format_of_track(out) == "bigwig":
        _write_bigwig(out, contigs, runs())
    else:
        _write_bedgraph(out, runs(), options.name, description)
    return n_values


def _require_values(runs: Iterator[_Run], out: Path) -> Iterator[_Run]:
    """The same runs, the first computed at once. Raises InputError if there is none."""
    first = next(runs, None)
    if first is None:
        raise InputError(f"no base has a value, so there is no track: {out} was not written")
    return chain([first], runs)


def _check_order(pieces: Iterable[TrackPiece], contigs: Mapping[str, int]) -> Iterator[TrackPiece]:
    order = {contig: n for n, contig in enumerate(contigs)}
    before = (-1, 0)
    for contig, start, values in pieces:
        end = start + len(values)
        if contig not in order or end > contigs[contig]:
            raise InputError(f"{contig}:{start + 1:,}-{end:,} lies on no contig of the genome")
        if (order[contig], start) < before:
            raise InputError(
                "pieces of a track must be in the order of contigs and positions, without overlap: "
                f"{contig}:{start + 1:,}-{end:,} begins before the end of the piece before it"
            )
        before = order[contig], end
        yield contig, start, values


def _known_runs(values: NDArray[np.float64]) -> list[tuple[int, int]]:
    """[first, last) of every run without NaN."""
    known = np.concatenate([[False], ~np.isnan(values), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _steps(runs: Iterable[_Run]) -> Iterator[tuple[str, int, int, float]]:
    """(contig, start, end, value) of each stretch of equal values."""
    for contig, start, values in runs:
        edges = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
        starts = (start + edges).tolist()
        ends = [*starts[1:], start + len(values)]
        yield from zip(repeat(contig), starts, ends, values[edges].tolist(), strict=False)


def _write_bigwig(out: Path, contigs: Mapping[str, int], runs: Iterator[_Run]) -> None:
    library = _import_bigwig()
    runs = _require_values(runs, out)
    errors: list[BaseException] = []
    n_bases = 0

    def entries() -> Iterator[tuple[str, int, int, float]]:
        # The library prints an error of its iterator and returns: keep it, end, raise it below.
        nonlocal n_bases
        try:
            for contig, start, end, value in _steps(runs):
                n_bases += end - start
                yield contig, start, end, value
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    with building(out) as path:
        try:
            library.open(str(path), "w").write(dict(contigs), entries())
        except BaseException as error:
            # Rust's panic is no Exception, and its class cannot be imported.
            if type(error).__name__ != "PanicException":
                raise
            raise _no_space(out) from error
        if errors:
            raise errors[0]
        if _bases_in(path) != n_bases:
            raise _no_space(out)


def _bases_in(path: Path) -> int:
    """Bases with a value in a bigWig; 0 for a damaged one."""
    library = _import_bigwig()
    try:
        with library.open(str(path)) as file:
            return int(file.info()["summary"]["basesCovered"])
    except library.BBIReadError:
        return 0


def _no_space(out: Path) -> InputError:
    return InputError(f"{out} cannot be written: is the disk full?")


def _import_bigwig() -> Any:
    try:
        import pybigtools
    except ImportError as error:
        raise InputError(
            "writing bigWig needs pybigtools, which exists for Python 3.11 to 3.13: install it by "
            "pip install 'dnamamba[bigwig]', or write bedGraph (.bedgraph.gz), which UCSC's "
            "bedGraphToBigWig converts"
        ) from error
    return pybigtools


def _write_bedgraph(out: Path, runs: Iterator[_Run], name: str, description: str) -> None:
    runs = _require_values(runs, out)
    with open_output(out, in_blocks=True) as file:
        quoted = (text.replace('"', "'") for text in (name, description))
        file.write('track type=bedGraph name="{}" description="{}"\n'.format(*quoted).encode())
        for run in runs:
            lines = ["{}\t{}\t{}\t{:.9g}\n".format(*step) for step in _steps([run])]
            file.write("".join(lines).encode())
