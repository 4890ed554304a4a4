"""`dnamamba classify predict`."""

import sys
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import DEVICE, FILE, SIZE
from dnamamba.cli.row_output import (
    BATCH_TOKENS,
    EDGE,
    PRECISION,
    SEQUENCE_COLUMN,
    RowProgress,
    conclude_rows,
    input_of,
    refuse_idle_options,
    refuse_output,
)


@click.command()
@click.argument("model", metavar="MODEL_OR_RUN")
@click.argument("source", metavar="INPUT")
@click.option(
    "--out", type=FILE, required=True, help="Table to write (.tsv, .tsv.gz); - for standard output."
)
@click.option("--force", is_flag=True, help="Replace a table that exists.")
@click.option(
    "--genome",
    type=FILE,
    multiple=True,
    help="FASTA or store that regions and variants refer to; may be given several times.",
)
@click.option(
    "--format",
    "input_format",
    type=click.Choice(["fasta", "bed", "vcf", "gtf", "region", "table"]),
    help="What INPUT is. [default: recognised by its content]",
)
@click.option(
    "--seq-len",
    type=SIZE,
    help="Bases of a window: shorter regions get bases from around, longer ones are cut to their "
    "middle. [default: as they are, up to the length trained on, which variants get]",
)
@EDGE
@SEQUENCE_COLUMN
@click.option(
    "--rc",
    type=click.Choice(["none", "average"]),
    help="average: the mean of both strands' predictions. [default: as the model was evaluated]",
)
@click.option(
    "--per-base",
    "base_format",
    type=click.Choice(["auto", "string", "runs"]),
    default="auto",
    show_default=True,
    help="Labels of bases as one letter each, or as label:bases;...; of a region on strand - in "
    "its direction. [default: string if all labels are letters]",
)
@BATCH_TOKENS
@DEVICE
@PRECISION
def predict(model: str, source: str, out: Path, **values: Any) -> None:
    """Predict labels of sequences, regions or variants: a row for each row of the input.

    MODEL_OR_RUN is a run of `dnamamba classify train`, its model folder or a repository owner/name
    on the Hugging Face Hub. INPUT is a FASTA, a table of sequences, regions (BED, whose strand
    counts, GTF, GFF3, a list, or one itself, like chr1:1-2,000) or a VCF (a row for each
    alternative allele), plain, gzip or BGZF; - is standard input. What could not be read has a row
    that says why. Exit code 1 if nothing could be read.

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
    from dnamamba.runtime import choose_device, choose_precision

    is_piped = str(out) == "-"
    if not is_piped:
        refuse_output(
            out, Path(source), *values["genome"], force=values["force"], example="predictions.tsv"
        )
    device = choose_device(values["device"])
    genome = open_genome(values["genome"]) if values["genome"] else None
    classifier = DnaClassifier.from_pretrained(model).to(device)
    options = PredictOptions(
        batch_tokens=values["batch_tokens"],
        rc=values["rc"] or ("average" if classifier.head_config.averages_strands else "none"),
        autocast_dtype=choose_precision(values["precision"], device),
        base_format=values["base_format"],
    )
    opened = open_regions(
        input_of(source),
        genome=genome,
        rule=window_rule(classifier, values["seq_len"], values["edge"]),
        input_format=values["input_format"],
        sequence_column=values["sequence_column"],
    )
    with opened as table:
        refuse_idle_options(table, genome, is_widened=values["seq_len"] is not None)
        target = sys.stdout.buffer if is_piped else out
        statuses = write_predictions(classifier, table, target, options, RowProgress())
    failure = "nothing could be predicted; the column note says why"
    conclude_rows(statuses, out, what="rows", failure=failure)
