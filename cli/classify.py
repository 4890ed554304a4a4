"""`dnamamba classify ...`: models that tell sequences apart."""

from dnamamba.cli.main import LazyGroup

classify = LazyGroup(
    {
        "train": (
            "classify_train.train",
            "Fine-tune a pretrained model on species, a table, FASTA files or regions.",
        ),
        "eval": (
            "classify_eval.evaluate",
            "Judge a trained model, on what its run held out or on other sequences.",
        ),
        "predict": (
            "classify_predict.predict",
            "What a model says about sequences, regions and variants.",
        ),
    },
    name="classify",
    help="""Train models that tell sequences apart, and use them.

    \b
    Examples:
      dnamamba classify train runs/demo
      dnamamba classify predict runs/classify-demo reads.fa.gz --out predictions.tsv
    """,
)
