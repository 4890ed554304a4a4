"""`dnamamba classify predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import DEVICE, choice, file_option, grouped, size_option, switch
from dnamamba.cli.row_output import (
    BATCH_TOKENS,
    EDGE,
    PRECISION,
    SEQUENCE_COLUMN,
    Computing,
    RowProgress,
    RowTarget,
    conclude_rows,
    input_of,
    refuse_idle_options,
)

TARGET = [
    file_option("--out", "Table (.tsv, .tsv.gz); - for standard output.", required=True),
    switch("--force", "Replace a table that exists."),
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the input is read."""

    input_format: Any
    seq_len: int | None
    edge: Any
    sequence_column: str | None


READING = [
    choice(
        "--format input_format fasta|bed|vcf|gtf|region|table",
        "Format of INPUT. [default: by its content]",
    ),
    size_option(
        "--seq-len",
        "Bases of a window: shorter regions get bases from around, longer ones are cut to their "
        "middle. [default: the region, up to the length trained on, which variants get]",
    ),
    EDGE,
    SEQUENCE_COLUMN,
]


@click.command()
@click.argument("model", metavar="MODEL_OR_RUN")
@click.argument("source", metavar="INPUT")
@grouped("target", RowTarget, TARGET)
@file_option(
    "--genome",
    "FASTA or store that regions and variants refer to; may be given several times.",
    multiple=True,
)
@grouped("reading", Reading, READING)
@choice("--rc none|average", "Average the predictions for both strands. [default: as evaluated]")
@choice(
    "--per-base base_format auto|string|runs",
    "Labels of bases as a letter each, or as label:bases;...; of a region on strand - in its "
    "direction. auto: a string if all labels are letters.",
    default="auto",
)
@grouped("computing", Computing, [BATCH_TOKENS, DEVICE, PRECISION])
def predict(
    *,
    model: str,
    source: str,
    target: RowTarget,
    genome: tuple[Path, ...],
    reading: Reading,
    rc: Any,
    base_format: Any,
    computing: Computing,
) -> None:
    """Predict labels of sequences, regions or variants: a row for each row of the input.

    MODEL_OR_RUN: a run of `dnamamba classify train`, its model folder, or a repository on the Hub.
    INPUT: a FASTA, a table of sequences, regions (BED, whose strand counts, GTF, GFF3, a list, or
    one, like chr1:1-2,000) or a VCF (a row for each alternative allele), plain, gzip or BGZF; - is
    standard input. A row that cannot be read has a note that says why. Exit code 1 if none can.

    \b
    Examples:
      dnamamba classify predict runs/apes reads.fa.gz --out predictions.tsv
      dnamamba classify predict runs/apes peaks.bed --genome hg38.h5 --seq-len 1k --out peaks.tsv
      dnamamba classify predict runs/apes - --genome hg38.h5 --rc average --out variants.tsv
    """
    from dnamamba.classification.predict import PredictOptions, window_rule, write_predictions
    from dnamamba.data_prep.genomes.genome import open_genome
    from dnamamba.data_prep.regions.readers import open_regions
    from dnamamba.models.classifier import DnaClassifier

    target.check(Path(source), *genome, example="predictions.tsv")
    device, dtype = computing.choose()
    opened = open_genome(genome) if genome else None
    classifier = DnaClassifier.from_pretrained(model).to(device)
    options = PredictOptions(
        batch_tokens=computing.batch_tokens,
        rc=rc or ("average" if classifier.head_config.averages_strands else "none"),
        autocast_dtype=dtype,
        base_format=base_format,
    )
    rows = open_regions(
        input_of(source),
        genome=opened,
        rule=window_rule(classifier, reading.seq_len, reading.edge),
        input_format=reading.input_format,
        sequence_column=reading.sequence_column,
    )
    with rows as table:
        refuse_idle_options(table, opened, is_widened=reading.seq_len is not None)
        statuses = write_predictions(classifier, table, target.file, options, RowProgress())
    failure = "nothing could be predicted; the column note says why"
    conclude_rows(statuses, target.out, what="rows", failure=failure)
