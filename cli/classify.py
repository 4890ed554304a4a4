"""`dnamamba classify ...`: models that tell sequences apart."""

from dnamamba.cli.main import LazyGroup

_COMMANDS = {
    "predict": (
        "dnamamba.cli.classify_predict",
        "predict",
        "What a model says about sequences, regions and variants.",
    ),
}

classify = LazyGroup(
    _COMMANDS,
    name="classify",
    help="""Train models that tell sequences apart, and use them.

    \b
    Example:
      dnamamba classify predict runs/apes reads.fa.gz --out predictions.tsv
    """,
)
