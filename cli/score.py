"""`dnamamba score`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnamamba.cli.options import DEVICE, FILE, choice, file_option, grouped, size_option, switch
from dnamamba.cli.row_output import (
    BATCH_TOKENS,
    EDGE,
    Computing,
    RowProgress,
    RowTarget,
    conclude_rows,
    input_of,
)

if TYPE_CHECKING:
    from dnamamba.data_prep.regions.rows import RegionEdge
    from dnamamba.scoring.output import OutputFormat

TARGET = [
    file_option(
        "--out",
        "VCF with the scores in INFO (.vcf, .vcf.gz) or table (.tsv, .tsv.gz); - for standard "
        "output.",
        required=True,
    ),
    switch("--force", "Replace a file that exists."),
    choice("--format output_format vcf|tsv", "Format. [default: by the name of --out; vcf for -]"),
]
COMPUTING = [
    BATCH_TOKENS,
    DEVICE,
    choice(
        "--precision fp32|bf16",
        "bf16 is faster on GPUs; its rounding changes ratios by about 0.01.",
        default="fp32",
    ),
]


@click.command()
@click.argument("model", metavar="MODEL_OR_RUN")
@click.argument("source", metavar="VARIANTS", type=FILE)
@file_option(
    "--genome",
    "FASTA or store that the variants refer to; may be given several times.",
    multiple=True,
    required=True,
)
@grouped("target", RowTarget, TARGET)
@size_option(
    "--seq-len",
    "Bases of the longer allele's window. [default: as the model was trained, else 2k]",
)
@EDGE
@choice(
    "--rc average|none",
    "Mean of both strands' scores, or the genome's strand alone: half the work.",
    default="average",
)
@grouped("computing", Computing, COMPUTING)
def score(
    *,
    model: str,
    source: Path,
    genome: tuple[Path, ...],
    target: RowTarget,
    seq_len: int | None,
    edge: "RegionEdge",
    rc: Any,
    computing: Computing,
) -> None:
    """Write how variants change the likelihood of the sequence around them, and its embedding.

    MODEL_OR_RUN: a run of `dnamamba pretrain`, its model folder, or a repository on the Hub.
    VARIANTS: a VCF, plain, gzip or BGZF; - is standard input. Each alternative allele gets the
    log-likelihood ratio (sum over the window, and mean a base) and the cosine and Euclidean
    distance of mean hidden states. Models that read both ways give ratios of single bases alone.
    An allele without a score has a status that says why. Exit code 1 if none has a score.

    \b
    Examples:
      dnamamba score runs/human variants.vcf.gz --genome hg38.h5 --out scored.vcf.gz
      dnamamba score runs/human variants.vcf --genome hg38.fa --seq-len 8k --out scores.tsv
      bcftools view -f PASS x.bcf | dnamamba score runs/human - --genome hg38.fa --out -
    """
    from dnamamba.data_prep.genomes.genome import open_genome
    from dnamamba.data_prep.regions.text_input import open_text
    from dnamamba.data_prep.regions.vcf import read_variants
    from dnamamba.inference.windows import variant_rule
    from dnamamba.models.loading import name_of_model, read_trained_model, trained_seq_len
    from dnamamba.scoring.output import write_scores
    from dnamamba.scoring.variants import ScoreOptions

    target.check(source, *genome, example="scored.vcf.gz")
    output_format = _format_of(target)
    device, dtype = computing.choose()
    opened = open_genome(genome)
    reader = read_trained_model(model).to(device)
    rule = variant_rule(reader.config, seq_len, edge, trained_seq_len(model))
    about = {
        "model": name_of_model(model),
        "genome": ",".join(path.name for path in genome),
        "seq_len": str(rule.seq_len),
        "edge": rule.edge,
        "rc": rc,
        "precision": computing.precision,
    }
    options = ScoreOptions(rc=rc, batch_tokens=computing.batch_tokens, autocast_dtype=dtype)
    with open_text(input_of(source)) as text:
        statuses = write_scores(
            reader,
            read_variants(text, opened, rule),
            target.file,
            options,
            output_format=output_format,
            about=about,
            on_rows=RowProgress("alleles"),
        )
    note = "DNAMAMBA_NOTE in INFO" if output_format == "vcf" else "the column note"
    failure = f"nothing could be scored; {note} says why"
    conclude_rows(statuses, target.out, what="alleles", failure=failure)


def _format_of(target: RowTarget) -> "OutputFormat":
    from dnamamba.scoring.output import format_of_output

    if target.output_format is not None:
        return target.output_format
    return "vcf" if target.is_piped else format_of_output(target.out)
