"""`dnamamba embed --track`."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import typed_options
from dnamamba.cli.row_output import (
    RowProgress,
    conclude_rows,
    input_of,
    refuse_output,
)

if TYPE_CHECKING:
    from dnamamba.data_prep.genomes.genome import Genome
    from dnamamba.data_prep.regions.rows import RegionTable
    from dnamamba.data_prep.regions.text_input import RegionFormat
    from dnamamba.models import DnaModel
    from dnamamba.runtime import Compute

_NOT_OF_TRACKS = (
    *("layers", "pooling", "rc", "edge", "allele", "dtype", "output_format"),
    *("sequence_column", "name_column"),
)


def refuse_options() -> None:
    """Raise a usage error for options that a track would ignore."""
    for name, flag in typed_options().items():
        if name in _NOT_OF_TRACKS:
            raise click.UsageError(f"{flag} has no meaning for a track: leave it out")


def write_track(
    reader: "DnaModel",
    source: str | None,
    genome: "Genome | None",
    out: Path,
    values: dict[str, Any],
    compute: "Compute",
) -> None:
    from dnamamba.errors import InputError
    from dnamamba.scoring.nll_track import TrackOptions, write_nll_track

    if genome is None:
        raise click.UsageError("a track lies on a genome: name it (--genome)")
    if compute.ranks.world_size > 1:
        raise InputError(
            "a track is written by one process, as its values are in order: start it without "
            "torchrun, for each chromosome if several GPUs are to share it"
        )
    refuse_output(
        out, Path(source or "-"), *values["genome"], force=values["force"], example="nll.bw"
    )
    options = TrackOptions(
        context=values["context"] or 0,
        batch_tokens=values["batch_tokens"],
        autocast_dtype=compute.autocast_dtype,
    )
    with _open_regions(source, genome, values["input_format"]) as table:
        statuses = write_nll_track(reader, table, genome, out, options, RowProgress("bases"))
    conclude_rows(statuses, out, what="regions", failure="no region could be read")


@contextmanager
def _open_regions(
    source: str | None, genome: "Genome", input_format: "RegionFormat | None"
) -> "Iterator[RegionTable]":
    """Open --regions, or all contigs of the genome."""
    from dnamamba.data_prep.regions.readers import open_regions
    from dnamamba.data_prep.regions.rows import WindowRule
    from dnamamba.embedding.run import LAZY_FROM

    if source is not None:
        regions = input_of(source)
    elif input_format is None:
        regions, input_format = BytesIO("\n".join(genome.contigs).encode()), "region"
    else:
        raise click.UsageError("--input-format is of --regions, which are not named")
    # A VCF's rows need a window, but are refused below.
    rule = WindowRule(seq_len=1, cut=False, lazy_from=LAZY_FROM)
    opened = open_regions(regions, genome=genome, rule=rule, input_format=input_format)
    with opened as table:
        if table.has_alternatives or not table.has_surroundings:
            raise click.UsageError(
                "a track is of regions of the genome (BED, GTF, GFF3, a list or chr1:1-2,000), not "
                "of variants or sequences"
            )
        yield table
