"""How surprising each base is to a language model, as a track for a genome browser.

    with open_regions(Path("genes.bed"), genome=genome, rule=WindowRule()) as table:
        write_nll_track(model, table, genome, Path("nll.bw"), TrackOptions(context=4096))

A value is -log2 p of a base given those before it on the region's strand, in bits: 2 where the
model has no idea, 0 where it is certain; the mean over a region is its bits per base. Bases without
a value (N, and the first that a model reads) have no entry.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnamamba.data_prep.genomes.genome import Genome
from dnamamba.data_prep.regions.rows import WITHOUT_SEQUENCE, RegionRow, RowStatus
from dnamamba.errors import InputError
from dnamamba.files import PACKED, building, open_output
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
"""(contig, start, values): one value a base from start on, NaN where there is none."""

Values64 = NDArray[np.float64]
WriteRun = Callable[[str, int, Values64], None]

_ENDINGS: dict[str, TrackFormat] = {
    **dict.fromkeys((".bw", ".bigwig"), "bigwig"),
    **dict.fromkeys((".bedgraph", ".bedGraph", ".bdg", ".bg"), "bedgraph"),
}
# Measured: pyBigWig holds zoom levels until it has written them.
_ZOOM_BYTES_A_BASE = 14
_MANY_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class TrackOptions(InferenceOptions):
    """How a track is computed and written."""

    context: int = 0
    """Bases before each region, on its strand, that the model reads first; they get no value."""

    name: str = "dnamamba"
    """What a browser calls the track; bedGraph alone has a place for it."""

    decimals: int = 3
    """Values are rounded to so many, which files get smaller by."""

    zoom_levels: int = 10
    """Of a bigWig, for looking at it from afar; 0: none. They are made in memory, of 14 bytes a
    base."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rc("none")
        for name in ("context", "decimals", "zoom_levels"):
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

    rows: regions of the genome, in any order; those without a sequence are left out. They are read
    from the genome again, so their codes may be None. A region on strand `-` is read from its end,
    and its values lie where the bases are. What is held is a few pieces of a chromosome, not all;
    values of a long region on strand `-` wait in a file beside `out`. A bigWig's zoom levels do
    grow with it, see TrackOptions.zoom_levels.
    out: .bw or .bigwig (needs pyBigWig, the extra `bigwig`), .bedgraph or .bg, the last two also
    packed as BGZF (.gz); there once it is whole. on_bases: called with the number of bases done.
    Raises InputError for a model that reads both ways, regions that overlap (with which they do),
    contigs that the genome does not have, and where no base has a value.
    """
    options = options or TrackOptions()
    require_causal(model)
    statuses: Counter[RowStatus] = Counter()
    regions = []
    for row in rows:
        if row.status in WITHOUT_SEQUENCE and not set(statuses) & WITHOUT_SEQUENCE:
            # A track has no place for notes: the first says what is wrong, the counts how often.
            logger.warning("line %s is not in the track: %s", f"{row.line:,}", row.note)
        statuses[row.status] += 1
        if row.window is not None and row.window.length:
            regions.append(row.window)
    ordered = _in_order(regions, genome.contigs)

    def pieces() -> Iterator[TrackPiece]:
        n_bases = 0
        for contig, start, values in _log_probs(model, ordered, genome, out.parent, options):
            yield contig, start, values / np.float32(-math.log(2))
            n_bases += len(values)
            on_bases(n_bases)

    description = "-log2 p of each base given those before it, bits per base"
    write_track(pieces(), out, genome.contigs, options, description)
    return statuses


def _in_order(regions: list[Interval], contigs: Mapping[str, int]) -> list[Interval]:
    """As a track has them. Raises InputError for regions that overlap."""
    places = {contig: n for n, contig in enumerate(contigs)}
    if unknown := [region for region in regions if region.chrom not in places]:
        raise InputError(
            f"the genome has no contig {unknown[0].chrom!r}: a track is of regions of the genome"
        )
    ordered = sorted(regions, key=lambda region: (places[region.chrom], region.start, region.end))
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

    device = device_of(model)

    def is_long(region: Interval) -> bool:
        length = region.length + options.context
        return length > options.tokens_in_chunk(device) and why_no_stream(model.config) is None

    def length(region: Interval) -> int:
        return region.length + options.context

    for together, some in groupby(regions, key=lambda region: not is_long(region)):
        if together:
            for chunk in in_chunks(some, length, options.tokens_in_batch(device)):
                yield from _read_short(model, chunk, genome, options)
            continue
        for region in some:
            read = _stream_forward
            if region.strand == Strand.REVERSE:
                read = _stream_reverse
            yield from read(model, region, genome, folder, options)


def _read_short(
    model: DnaModel, regions: Sequence[Interval], genome: Genome, options: TrackOptions
) -> Iterator[TrackPiece]:
    sequences = []
    for region in regions:
        start, end = _with_context(region, genome, options.context)
        codes = genome.read(region.chrom, start, end)
        is_reverse = region.strand == Strand.REVERSE
        sequences.append(reverse_complement(codes) if is_reverse else codes)
    found = log_probabilities(model, sequences, options)
    for region, log_probs in zip(regions, found, strict=True):
        values = log_probs[len(log_probs) - region.length :]
        is_reverse = region.strand == Strand.REVERSE
        yield region.chrom, region.start, values[::-1] if is_reverse else values


def _stream_forward(
    model: DnaModel, region: Interval, genome: Genome, folder: Path, options: TrackOptions
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
    """From the region's end to its start, so values wait in a file until the first is known."""
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
                place = slice(first - region.start, last - region.start)
                waiting[place] = values[::-1][: last - first]
            at = first
        for first in range(0, region.length, step):
            yield region.chrom, region.start + first, np.array(waiting[first : first + step])


def _with_context(region: Interval, genome: Genome, context: int) -> tuple[int, int]:
    if region.strand == Strand.REVERSE:
        return region.start, min(genome.contigs[region.chrom], region.end + context)
    return max(0, region.start - context), region.end


# --- files


def format_of_track(out: Path) -> TrackFormat:
    """By a file's name. Raises InputError for other names."""
    packed = out.suffix in PACKED
    found = _ENDINGS.get(Path(out.stem).suffix if packed else out.suffix)
    if found is None or (packed and found == "bigwig"):
        raise InputError(
            f"{out} is named like no track: name it .bw (bigWig), .bedgraph or .bedgraph.gz"
        )
    return found


def write_track(
    pieces: Iterable[TrackPiece],
    out: Path,
    contigs: Mapping[str, int],
    options: TrackOptions | None = None,
    description: str = "",
) -> int:
    """Write values of bases as bigWig or bedGraph, by the file's name; returns how many.

    pieces: in the order of the contigs and of positions, without overlap; NaN and what is between
    pieces get no entry. contigs: name -> length. Raises InputError for pieces in another order or
    beyond their contig, without any value, and for a bigWig where pyBigWig is missing.
    """
    options = options or TrackOptions()
    opened: AbstractContextManager[WriteRun]
    if format_of_track(out) == "bigwig":
        opened = _open_bigwig(out, contigs, options)
    else:
        opened = _open_bedgraph(out, options.name, description)
    n_values = 0
    with opened as write:
        for contig, start, values in _checked(pieces, contigs):
            # Not -0, where the model is certain.
            exact: Values64 = values.astype(np.float64)
            rounded = np.asarray(exact.round(options.decimals) + 0.0, np.float64)
            for first, last in _known_runs(rounded):
                write(contig, start + first, rounded[first:last])
                n_values += last - first
        if not n_values:
            raise InputError(f"no base has a value, so there is no track: {out} was not written")
        if format_of_track(out) == "bigwig" and options.zoom_levels:
            _warn_of_zoom_levels(n_values)
    return n_values


def _checked(pieces: Iterable[TrackPiece], contigs: Mapping[str, int]) -> Iterator[TrackPiece]:
    places = {contig: n for n, contig in enumerate(contigs)}
    before = (-1, 0)
    for contig, start, values in pieces:
        end = start + len(values)
        if contig not in places or end > contigs[contig]:
            raise InputError(f"{contig}:{start + 1:,}-{end:,} lies on no contig of the genome")
        if (places[contig], start) < before:
            raise InputError(
                f"a track is in the order of contigs and positions, without overlap: "
                f"{contig}:{start + 1:,}-{end:,} comes after what lies behind its start"
            )
        before = places[contig], end
        yield contig, start, values


def _known_runs(values: Values64) -> list[tuple[int, int]]:
    """[first, last) of every run without NaN."""
    known = np.concatenate([[False], ~np.isnan(values), [False]])
    edges = np.flatnonzero(known[1:] != known[:-1]).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


@contextmanager
def _open_bigwig(
    out: Path, contigs: Mapping[str, int], options: TrackOptions
) -> Iterator[WriteRun]:
    library = _import_bigwig()
    with building(out) as path:
        file = library.open(str(path), "w")
        if file is None:
            raise InputError(f"{out} cannot be written: is its folder writable?")
        file.addHeader(list(contigs.items()), maxZooms=options.zoom_levels)

        def write(contig: str, start: int, values: Values64) -> None:
            file.addEntries(contig, start, values=values.tolist(), span=1, step=1)

        try:
            yield write
        finally:
            file.close()


def _import_bigwig() -> Any:
    try:
        import pyBigWig
    except ImportError as error:
        raise InputError(
            "writing bigWig needs pyBigWig: pip install 'dnamamba[bigwig]', or write bedGraph "
            "(.bedgraph.gz), of which UCSC's bedGraphToBigWig makes one"
        ) from error
    return pyBigWig


def _warn_of_zoom_levels(n_values: int) -> None:
    if (needed := n_values * _ZOOM_BYTES_A_BASE) > _MANY_BYTES:
        logger.warning(
            "zoom levels of a bigWig of %s values are made in about %.0f GiB of memory: a track "
            "for each chromosome needs less",
            f"{n_values:,}",
            needed / 2**30,
        )


@contextmanager
def _open_bedgraph(out: Path, name: str, description: str) -> Iterator[WriteRun]:
    with open_output(out, in_blocks=True) as file:
        quoted = (text.replace('"', "'") for text in (name, description))
        file.write('track type=bedGraph name="{}" description="{}"\n'.format(*quoted).encode())

        def write(contig: str, start: int, values: Values64) -> None:
            edges = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
            ends = np.append(edges[1:], len(values))
            rows = zip(edges.tolist(), ends.tolist(), values[edges].tolist(), strict=True)
            lines = [f"{contig}\t{start + a}\t{start + b}\t{value:.9g}\n" for a, b, value in rows]
            file.write("".join(lines).encode())

        yield write
