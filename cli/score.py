"""`dnamamba score`."""

import sys
from pathlib import Path
from typing import Any

import click

from dnamamba.cli.options import FILE, SIZE
from dnamamba.cli.row_output import (
    BATCH_TOKENS,
    DEVICE,
    EDGE,
    RowProgress,
    conclude_rows,
    input_of,
    refuse_output,
)


@click.command()
@click.argument("model", metavar="MODEL_OR_RUN")
@click.argument("source", metavar="VARIANTS", type=FILE)
@click.option(
    "--genome",
    type=FILE,
    multiple=True,
    required=True,
    help="FASTA or store that the variants refer to; may be given several times.",
)
@click.option(
    "--out",
    type=FILE,
    required=True,
    help="VCF with the scores in INFO (.vcf, .vcf.gz) or table (.tsv, .tsv.gz); - for standard "
    "output.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["vcf", "tsv"]),
    help="What is written. [default: told by the name of --out; vcf to standard output]",
)
@click.option(
    "--seq-len",
    type=SIZE,
    help="Bases of the longer allele's window. [default: as the model was trained, else 2k]",
)
@EDGE
@click.option(
    "--strand",
    type=click.Choice(["both", "forward"]),
    default="both",
    show_default=True,
    help="both: the mean of both strands' scores; forward: half the work.",
)
@BATCH_TOKENS
@DEVICE
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 is faster on GPUs; its rounding changes ratios by about 0.01.",
)
def score(model: str, source: Path, out: Path, **values: Any) -> None:
    """Write how a variant changes the likelihood of the sequence around it, and its embedding.

    MODEL_OR_RUN is a run of `dnamamba pretrain`, its model folder or a repository owner/name on
    the Hugging Face Hub. VARIANTS is a VCF, plain, gzip or BGZF; - is standard input. Written are,
    for each alternative allele, the log-likelihood ratio (sum over the window, and mean a base) and
    the cosine and Euclidean distance of mean hidden states. Models that read both ways give ratios
    of single bases alone. What could not be scored has a status that says why. Exit code 1 where
    nothing could be.

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
    from dnamamba.models.language_model import DnaModel
    from dnamamba.models.loading import trained_seq_len
    from dnamamba.runtime import choose_device, choose_precision
    from dnamamba.scoring.output import format_of_output, write_scores
    from dnamamba.scoring.variants import ScoreOptions

    is_piped = str(out) == "-"
    if not is_piped:
        refuse_output(
            out, source, *values["genome"], force=values["force"], example="scored.vcf.gz"
        )
    output_format = values["output_format"] or ("vcf" if is_piped else format_of_output(out))
    device = choose_device(values["device"])
    genome = open_genome(values["genome"])
    reader = DnaModel.from_pretrained(model).to(device)
    rule = variant_rule(reader.config, values["seq_len"], values["edge"], trained_seq_len(model))
    options = ScoreOptions(
        rc="average" if values["strand"] == "both" else "none",
        batch_tokens=values["batch_tokens"],
        autocast_dtype=choose_precision(values["precision"], device),
    )
    with open_text(input_of(source)) as text:
        statuses = write_scores(
            reader,
            read_variants(text, genome, rule),
            sys.stdout.buffer if is_piped else out,
            options,
            output_format=output_format,
            about=_about(model, rule, values),
            on_rows=RowProgress("alleles"),
        )
    where = "DNAMAMBA_NOTE in INFO" if output_format == "vcf" else "the column note"
    failure = f"nothing could be scored; {where} says why"
    conclude_rows(statuses, out, what="alleles", failure=failure)


def _about(model: str, rule: Any, values: dict[str, Any]) -> dict[str, str]:
    """What a VCF's header says of a scoring: names, without their folders."""
    from dnamamba.models.loading import name_of_model

    return {
        "model": name_of_model(model),
        "genome": ",".join(path.name for path in values["genome"]),
        "seq_len": str(rule.seq_len),
        "edge": rule.edge,
        "strand": values["strand"],
        "precision": values["precision"],
    }
