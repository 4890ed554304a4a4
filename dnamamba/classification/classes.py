"""Labels and probabilities of sequences, in the conventions of scikit-learn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.classification.predict import predict_sequences, window_rule
from dnamamba.errors import InputError
from dnamamba.inference.inputs import GenomeLike, read_inputs
from dnamamba.inference.options import RcMode
from dnamamba.models.classifier import DnaClassifier


@dataclass(frozen=True, kw_only=True)
class Classes:
    """What a classifier predicts of N sequences; of one sequence all without the first axis."""

    classes_: NDArray[np.str_]
    """(C,) names of the classes, sorted."""

    probabilities: Any
    """(N, C) float32, of classes_; they sum to 1 unless a sequence may have several labels. Of a
    per_base task a list of arrays (L, C), one for each sequence."""

    labels: Any
    """(N,) str, the most probable class. If a sequence may have several (multilabel), (N, C) bool,
    whether the probability is 0.5 or more. Of a per_base task a list of arrays (L,)."""


def classify(
    classifier: DnaClassifier,
    data: Any,
    *,
    genome: GenomeLike | None = None,
    seq_len: int | None = None,
    rc: RcMode = "none",
    batch_tokens: int | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Classes:
    """Labels and probabilities of a sequence, or of several sequences or regions.

    data, genome: as in `embed`. seq_len: bases of the windows that regions of a table are read in;
        default the region, of a longer one than in training its middle.
    rc: `none` (default), or `average` for the mean of the predictions for both strands.
    batch_tokens: tokens in one pass, default 1M on a GPU and 64k on a CPU; it changes rounding
    alone. autocast_dtype: dtype of matrix products, default the parameters' own. The classifier is
    put into evaluation mode and runs on its own device.

        found = dnamamba.classify(classifier, ["ACGTTG", "TTGACA"])
        found.labels           # (2,) str
        found.probabilities    # (2, C) float32, columns as found.classes_

    Raises InputError for a classifier of numbers (regression), whose are had by
    `predict_sequences`, and as `embed` for data.
    """
    task = classifier.task
    if task.has_numbers:
        raise InputError("a regression predicts numbers, not classes: use predict_sequences")
    rows, is_single = read_inputs(data, genome, window_rule(classifier, seq_len))
    found = list(
        predict_sequences(
            classifier, rows, rc=rc, batch_tokens=batch_tokens, autocast_dtype=autocast_dtype
        )
    )
    names = np.array(task.labels)
    if task.per_base:
        labels = [names[one.argmax(-1)] for one in found]
        probabilities: Any = found
    else:
        probabilities = np.stack(found) if found else np.empty((0, len(names)), np.float32)
        labels = names[probabilities.argmax(-1)] if task.has_classes else probabilities >= 0.5
    if is_single:
        probabilities, labels = probabilities[0], labels[0]
    return Classes(classes_=names, probabilities=probabilities, labels=labels)
