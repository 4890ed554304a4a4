"""Tiny runs of classifiers for tests: a motif to be told from none."""

import csv

import numpy as np

from dnamamba.classification.config import ClassifyConfig, FineTuneConfig
from dnamamba.data.labelled.config import TableConfig
from dnamamba.training.config import RunOptions
from genomes import random_sequence

OPTIONS = RunOptions(device="cpu")
MOTIF = "TATAAATA"


def write_table(path, n, *, seed=0, label=None, header=("sequence", "label")):
    """Sequences of 24 to 32 bases, half of them with a motif; label: of (has motif, letters)."""
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for i in range(n):
            letters = random_sequence(int(rng.integers(24, 33)), seed=seed * 10_000 + i)
            has_motif = i % 2 == 1
            if has_motif:
                place = int(rng.integers(0, len(letters) - len(MOTIF)))
                letters = letters[:place] + MOTIF + letters[place + len(MOTIF) :]
            told = label(has_motif, letters) if label else ("tata" if has_motif else "none")
            rows.writerow([letters, *(told if isinstance(told, tuple) else (told,))])
    return path


def tiny_classify(folder, table=None, **recipe) -> ClassifyConfig:
    """8 steps of 8 sequences, two epochs' worth of steps counted as given."""
    defaults = {
        "epochs": None,
        "max_steps": 8,
        "batch_size": 8,
        "micro_batch": 4,
        "learning_rate": 1e-2,
        "eval_every": 4,
        "save_every": 3,
        "log_every": 2,
        "pool": "mean",
    }
    files = {"valid": str(folder / "dev.csv"), "test": str(folder / "test.csv")}
    return ClassifyConfig(
        model=str(folder / "pretrained"),
        data=table or TableConfig(train=str(folder / "train.csv"), **files),
        train=FineTuneConfig(**(defaults | recipe)),
    )
