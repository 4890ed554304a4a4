"""`dnamamba embed`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import (
    DEVICE,
    Parsed,
    choice,
    file_option,
    option,
    size_option,
    switch,
    typed_options,
)
from dnamamba.cli.row_output import (
    BATCH_TOKENS,
    EDGE,
    NAME_COLUMN,
    PRECISION,
    SEQUENCE_COLUMN,
    RowProgress,
    conclude_rows,
    input_of,
    refuse_idle_options,
    refuse_output,
)
from dnamamba.errors import InputError

if TYPE_CHECKING:
    from dnamamba.data_prep.genomes.genome import Genome
    from dnamamba.data_prep.regions.rows import RegionTable
    from dnamamba.data_prep.regions.text_input import RegionFormat
    from dnamamba.embedding.config import EmbedConfig
    from dnamamba.embedding.run import Progress
    from dnamamba.models import DnaModel
    from dnamamba.runtime import Compute, Ranks

_PROGRESS_SECONDS = 5
_NOT_OF_TRACKS = (
    *("layers", "pooling", "rc", "edge", "allele", "dtype", "output_format"),
    *("sequence_column", "name_column"),
)


def _parse_layers(text: str) -> Any:
    if text.strip() == "all":
        return "all"
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(
            f"layers must be numbers like -1 or 4,8, or `all`; got {text!r}"
        ) from error


@click.command()
@click.argument("model", metavar="MODEL_OR_RUN")
@option(
    "--regions source",
    "BED, VCF, GTF or GFF3, a FASTA or table of sequences, one region, or - for standard input. "
    "[default for a track: the whole genome]",
    metavar="FILE|chr1:1-2,000|-",
)
@file_option(
    "--genome",
    "FASTA or store that regions refer to; may be given several times.",
    multiple=True,
)
@file_option("--out", "File to write.", required=True)
@switch("--force", "Replace a file, whole or unfinished.")
@option(
    "--layers",
    "0 is the embedding, 1, 2 ... the blocks, -1 the final norm; 4,8 or all for several.",
    type=Parsed(_parse_layers, "layers"),
    default="-1",
)
@option(
    "--pooling",
    "How a region becomes a vector; none gives a vector for each base.",
    default="mean",
    metavar="[none|mean|last|max|center|bins:N]",
)
@choice(
    "--rc none|average|concat",
    "Average the vectors of both strands, or concatenate them.",
    default="none",
)
@size_option(
    "--context",
    "Window in bases that the model reads around a shorter region, which alone is pooled; for a "
    "track, bases before the region. [default: the region; for variants as in training]",
)
@EDGE
@choice("--allele ref|alt", "Allele of a VCF to read.", default="ref")
@choice("--dtype float32|float16|bfloat16", "Dtype of vectors in the file.", default="float32")
@choice(
    "--format output_format h5|npz|parquet|tsv",
    "Format of the file; the last three for small jobs. [default: by its name]",
)
@choice(
    "--input-format fasta|bed|vcf|gtf|region|table",
    "Format of --regions. [default: by how it begins]",
)
@SEQUENCE_COLUMN
@NAME_COLUMN
@choice(
    "--track nll",
    "Write a track for genome browsers (.bw, .bedGraph, .bedGraph.gz) instead of embeddings: nll, "
    "bits per base.",
)
@BATCH_TOKENS
@DEVICE
@PRECISION
def embed(model: str, source: str, out: Path, **values: Any) -> None:
    """Write embeddings of regions, variants or sequences, with their coordinates.

    MODEL_OR_RUN: a run of `dnamamba pretrain` or `classify train`, a model's folder or repository
    on the Hub. Every row of the input gives a row, in its order; the column status says what
    happened to it. Run the same command again to continue a job that was stopped. Models that carry
    a state (Mamba) read regions of any length in pieces: whole chromosomes take no more memory than
    short regions.

    \b
    Examples:
      dnamamba embed runs/demo --genome hg38.fa --regions peaks.bed --out peaks.h5
      dnamamba embed runs/demo --genome hg38.h5 --regions genes.gtf.gz --context 128k --out genes.h5
      dnamamba embed runs/demo --genome hg38.fa --regions 'chr1:1-2,000' --pooling none --out x.h5
      dnamamba embed runs/demo --regions reads.fa --layers all --rc average --out reads.h5
      torchrun --nproc-per-node 4 -m dnamamba embed runs/demo ... --out peaks.h5

    `dnamamba.read_embeddings(path)` reads the file, docs/formats.md describes it.
    """
    from dnamamba.data_prep.genomes.genome import open_genome
    from dnamamba.models.loading import read_trained_model
    from dnamamba.runtime import open_compute

    # Ranks have different work: the first to finish waits.
    patience = timedelta(days=7)

    genome = open_genome(values["genome"]) if values["genome"] else None
    with open_compute(values["device"], values["precision"], patience) as compute:
        reader = read_trained_model(model).to(compute.device)
        if values["track"] is not None:
            _write_track(reader, source, genome, out, values, compute)
            return
        if source is None:
            raise click.UsageError("name --regions: a file, a region like chr1:1-2,000, or -")
        _write_file(reader, model, source, genome, out, values, compute)


def _config(values: dict[str, Any], compute: "Compute") -> "EmbedConfig":
    """The options are the fields of the config by their names."""
    from dnamamba.embedding.config import EmbedConfig
    from dnamamba.models.pooling import Pooling

    values = values | {"pooling": Pooling.parse(values["pooling"])}
    names = {field.name for field in fields(EmbedConfig)} & set(values)
    options = {name: values[name] for name in names}
    return EmbedConfig(**options, autocast_dtype=compute.autocast_dtype)


def _write_file(
    reader: "DnaModel",
    model: str,
    source: str,
    genome: "Genome | None",
    out: Path,
    values: dict[str, Any],
    compute: "Compute",
) -> None:
    from dnamamba.embedding.run import EmbedRun

    inputs, force = (Path(source), *values["genome"]), values["force"]
    # The writer decides about a file of an unfinished run, and clears away what is left of it.
    is_open = force or out.with_name(f".{out.name}.parts").exists()
    compute.on_main_first(lambda: refuse_output(out, *inputs, force=is_open, example="peaks.h5"))
    run = EmbedRun(
        reader,
        sys.stdin.buffer if source == "-" else source,
        out,
        genome=genome,
        config=_config(values, compute),
        source=model,
        compute=compute,
        force=force,
    )
    with run.open_regions() as table:
        _refuse_options(table, genome, run.config)
        say = partial(click.echo, err=True)
        summary = run.write(table, _report_progress(compute.ranks), say)
    if summary is not None:
        failure = f"nothing could be embedded; {summary.first_failure}"
        conclude_rows(summary.statuses, out, what="rows", failure=failure)


def _refuse_options(table: "RegionTable", genome: "Genome | None", config: "EmbedConfig") -> None:
    """Raise a usage error for options that this kind of input would ignore."""
    if config.allele == "alt" and not table.has_alternatives:
        raise click.UsageError("--allele alt needs a VCF, whose rows are variants: leave it out")
    if config.context and not table.has_surroundings:
        raise click.UsageError(
            "--context needs regions of a genome; sequences have no bases around them: leave it out"
        )
    refuse_idle_options(table, genome, is_widened=config.context is not None)


def _report_progress(ranks: "Ranks") -> "Callable[[Progress], None]":
    """Report progress every few seconds, from the first of several processes alone."""
    started = last = time.monotonic()

    def report(progress: "Progress") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PROGRESS_SECONDS or not ranks.is_main:
            return
        last = now
        before = f", {progress.resumed:,} were there" if progress.resumed else ""
        shared = f" (by 1 of {ranks.world_size})" if ranks.world_size > 1 else ""
        rate = progress.bases / (now - started)
        click.echo(f"{progress.rows:,} rows{before}, {rate:,.0f} bases a second{shared}", err=True)

    return report


# --- tracks


def _write_track(
    reader: "DnaModel",
    source: str | None,
    genome: "Genome | None",
    out: Path,
    values: dict[str, Any],
    compute: "Compute",
) -> None:
    from dnamamba.scoring.nll_track import TrackOptions, write_nll_track

    for name, flag in typed_options().items():
        if name in _NOT_OF_TRACKS:
            raise click.UsageError(f"{flag} has no meaning for a track: leave it out")
    if genome is None:
        raise click.UsageError("a track needs a genome: name it (--genome)")
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
    with _open_track_regions(source, genome, values["input_format"]) as table:
        statuses = write_nll_track(reader, table, genome, out, options, RowProgress("bases"))
    conclude_rows(statuses, out, what="regions", failure="no region could be read")


@contextmanager
def _open_track_regions(
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
        raise click.UsageError("--input-format needs --regions: name them, or leave it out")
    # A VCF's rows need a window, but are refused below.
    rule = WindowRule(seq_len=1, cut=False, lazy_from=LAZY_FROM)
    opened = open_regions(regions, genome=genome, rule=rule, input_format=input_format)
    with opened as table:
        if table.has_alternatives or not table.has_surroundings:
            raise click.UsageError(
                "a track needs regions of the genome (BED, GTF, GFF3, a list or chr1:1-2,000), got "
                "variants or sequences"
            )
        yield table
