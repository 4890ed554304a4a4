"""`dnamamba classify ...`."""

from dnamamba.cli.main import LazyGroup

classify = LazyGroup(
    {
        "train": (
            "classify_train.train",
            "Fine-tune a pretrained model on species, a table, FASTA files or regions.",
        ),
        "eval": (
            "classify_eval.evaluate",
            "Evaluate a model on what its run held out, or on other sequences.",
        ),
        "predict": (
            "classify_predict.predict",
            "Predict classes of sequences, regions and variants.",
        ),
    },
    name="classify",
    help="""Train, evaluate and use classifiers of sequences.

    \b
    Examples:
      dnamamba classify train runs/demo
      dnamamba classify predict runs/classify-demo-demo reads.fa.gz --out predictions.tsv
    """,
)
