"""`dnamamba convert ...`: models of other projects in and out."""

from pathlib import Path

import click

from dnamamba.cli.main import LazyGroup
from dnamamba.cli.options import FILE, file_option, option

convert = LazyGroup(
    {
        "import": ("convert.import_", "Another project's weights to a model folder."),
        "export": ("convert.export", "A model folder to another project's layout."),
        "check": ("convert.check", "What a model is, and what survives a round trip."),
    },
    name="convert",
    help="""Read weights of other projects, and write ours for them; no code of theirs runs.

    \b
    Examples:
      dnamamba convert import downloaded/mamba --out models/mamba
      dnamamba convert export runs/demo --out for-transformers
      dnamamba convert check models/mamba
    """,
)

_OUT = file_option(
    "--out",
    "Where it goes: a new or empty folder, made if missing.",
    required=True,
    metavar="FOLDER",
)
_FORMAT = option(
    "--format format_name",
    "The layout of the weights. [default: by their names]",
    metavar="NAME",
)


@click.command(name="import")
@click.argument("source", type=FILE)
@_OUT
@_FORMAT
def import_(source: Path, out: Path, format_name: str | None) -> None:
    """Write weights of another project as a model folder of dnamamba.

    SOURCE: a folder with config.json and model.safetensors, its shards or pytorch_model.bin, or one
    file (.safetensors, .bin, .pt, .pth, .ckpt). Pickles that would run code are refused; bf16 and
    fp16 become fp32. Logits of a fixed sequence are compared with transformers' class, if there is
    one, and with what was written.

    \b
    Example:
      dnamamba convert import downloaded/mamba --out models/mamba
    """
    from dnamamba.convert import import_model

    _print(import_model(source, out, format_name))


@click.command()
@click.argument("model", type=FILE)
@_OUT
@option(
    "--format format_name",
    "The layout to write. [default: the first that holds the model]",
    metavar="NAME",
)
def export(model: Path, out: Path, format_name: str | None) -> None:
    """Write a model in another project's layout, with a tokenizer for transformers.

    MODEL: a model folder or a run; checked as by import. AutoTokenizer reads the tokenizer and
    gives dnamamba's ids, one for each base.

    \b
    Example:
      dnamamba convert export runs/demo --out for-transformers
    """
    from dnamamba.convert import export_model

    _print(export_model(model, out, format_name))


@click.command()
@click.argument("source", metavar="MODEL_OR_SOURCE", type=FILE)
@_FORMAT
def check(source: Path, format_name: str | None) -> None:
    """Show a model's format, sizes, dtypes and likelihood of a fixed sequence, and try round trips.

    Writes nothing.

    \b
    Example:
      dnamamba convert check runs/demo
    """
    from dnamamba.convert import check_model

    _print(check_model(source, format_name))


def _print(lines: list[str]) -> None:
    click.echo("\n".join(lines))
