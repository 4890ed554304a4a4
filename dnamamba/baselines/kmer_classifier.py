"""The baseline of a classifier: a linear model of how often short words occur.

A model of long sequences that does no better has learned composition only. The length of words and
the regularisation are chosen by the loss on validation, which is smoother than an accuracy.
"""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.kmers import surrounding_bases, word_frequencies
from dnamamba.baselines.linear_models import LinearModel, Matrix, Targets, fit_path, path_losses
from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.files import building
from dnamamba.metrics.metrics import Part, Scores, gather_scores
from dnamamba.metrics.task_kinds import FitSettings, task_kind
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import Codes

_REACH = 5
"""Bases on each side of a labelled one."""

_MOST_SEQUENCES, _MOST_BASES = 50_000, 200_000
"""Training examples read: 50,000 rows of 4^6 float32 are 0.8 GB."""

_BASES_AT_ONCE = 1 << 18

_STRENGTHS = tuple(float(f"{n}e{power}") for power in range(-5, 1) for n in (1, 3))
"""C, the weight of the data against that of small coefficients, weakest first."""

_SETTINGS = FitSettings(max_iter=200)
_LABELS_SEARCHED = 8

_FITTED = ("max_k", "both_strands", "k", "C", "n_train", "n_valid")


class KmerBaseline:
    """Logistic regression of k-mer frequencies (ridge regression for numbers).

    task: what is predicted. In a per_base task each labelled base is predicted from the 5 bases on
        each side, one-hot, instead.
    max_k: longest word tried, 1 to 8; memory grows with 4^max_k.
    both_strands: a word and its reverse complement are one feature, so that a sequence and its
        other strand have the same scores.
    """

    def __init__(self, task: Task, max_k: int = 6, both_strands: bool = False) -> None:
        if not 1 <= max_k <= 8:
            raise InputError(f"max_k must be 1 to 8, got {max_k}")
        self.task = task
        self.max_k = max_k
        self.both_strands = both_strands
        self.k: int | None = None
        self.C: float | None = None
        self.n_train = self.n_valid = 0
        self._model: LinearModel | None = None

    def fit(self, train: Iterable[Examples], valid: Iterable[Examples]) -> Self:
        """Learn from training examples; choose k and C on validation ones.

        At most 50,000 sequences (200,000 labelled bases) of each are read. Deterministic. Raises
        InputError if one of the two has no example.
        """
        features, targets = self._read(train, "train")
        valid_features, valid_targets = self._read(valid, "valid")
        self.n_train, self.n_valid = len(targets), len(valid_targets)
        mean, scale = np.zeros(1), np.ones(1)
        if task_kind(self.task).standardises:
            mean, scale = targets.mean(0, np.float64), targets.std(0, dtype=np.float64)
            scale = np.where(scale > 0, scale, 1.0)
            targets, valid_targets = ((part - mean) / scale for part in (targets, valid_targets))
        searched = self._searched_labels(targets)
        # Columns that are fitted by themselves are a task of their own.
        best, lowest, fitted, wanted = (1, _STRENGTHS[0]), np.inf, targets, valid_targets
        if searched is not None:
            fitted, wanted = targets[:, searched], valid_targets[:, searched]
        for k in self._sizes:
            models = fit_path(features[k], fitted, self.task, _STRENGTHS, _SETTINGS)
            path = path_losses(models, valid_features[k], wanted, self.task)
            for C, (_, loss) in zip(_STRENGTHS, path, strict=False):
                if loss < lowest:
                    best, lowest = (k, C), loss
        self.k, self.C = best
        model = next(fit_path(features[self.k], targets, self.task, (self.C,), _SETTINGS))
        self._model = LinearModel(model.weight * scale[:, None], model.bias * scale + mean)
        return self

    def scored(self, batches: Iterable[Examples]) -> Scores:
        """Scores and targets of examples, in their order, for `metrics.evaluation.evaluate`.

        A per_base task's are those of the labelled bases. Raises InputError before `fit`.
        """
        model, k = self._model, self.k
        if model is None or k is None:
            raise InputError("a baseline that was not fitted has no scores; call fit first")
        return gather_scores((self._score(batch, model, k) for batch in batches), self.task)

    def _score(self, batch: Examples, model: LinearModel, k: int) -> Part:
        codes, lengths, targets = _arrays(batch)
        if not self.task.per_base:
            return model.scores(self._words(codes, (k,))[k], self.task), targets, lengths
        rows, positions = np.nonzero(targets != IGNORED_LABEL)
        scores = np.zeros((*targets.shape, len(self.task.labels)), np.float32)
        for start in range(0, len(rows), _BASES_AT_ONCE):
            part = slice(start, start + _BASES_AT_ONCE)
            around = surrounding_bases(codes, rows[part], positions[part], _REACH)
            scores[rows[part], positions[part]] = model.scores(around, self.task)
        return scores, targets, lengths

    def save(self, path: Path) -> None:
        """Write what was fitted as a .npz, which holds numbers alone. Raises InputError before."""
        if self._model is None:
            raise InputError("a baseline that was not fitted cannot be saved; call fit first")
        fitted = {name: np.array(getattr(self, name)) for name in _FITTED}
        with building(path) as file:
            np.savez(file, weight=self._model.weight.T, bias=self._model.bias, **fitted)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, task: Task) -> Self:
        """Read what `save` wrote for the same task. Raises InputError if it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in ("weight", "bias", *_FITTED)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a k-mer baseline: {error}") from error
        baseline = cls(task, int(found["max_k"]), bool(found["both_strands"]))
        baseline.k, baseline.C = int(found["k"]), float(found["C"])
        baseline.n_train, baseline.n_valid = int(found["n_train"]), int(found["n_valid"])
        baseline._model = LinearModel(found["weight"].T, found["bias"])
        if baseline._model.bias.shape != (len(task.labels),):
            raise InputError(
                f"{path} must have {len(task.labels)} labels, got {len(found['bias'])}"
            )
        return baseline

    @property
    def description(self) -> str:
        """What it is, for a report."""
        if self.k is None:
            return "k-mer baseline, not fitted"
        strands = " of both strands" if self.both_strands else ""
        features, things = f"{self.k}-mer frequencies{strands}", "sequences"
        if self.task.per_base:
            features, things = f"the {self.k} bases on each side", "labelled bases"
        return (
            f"{task_kind(self.task).linear_model.capitalize()} regression of {features}, C = "
            f"{self.C:g}, learned from {self.n_train:,} {things}, chosen on {self.n_valid:,} of "
            "validation"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What a run keeps in baseline.json: kind, k, C, n_train, n_valid, description."""
        fitted = {name: getattr(self, name) for name in _FITTED[1:]}
        fitted["k"] = None if self.task.per_base else self.k
        return {"kind": "kmer", **fitted, "description": self.description}

    @property
    def _sizes(self) -> Sequence[int]:
        return (_REACH,) if self.task.per_base else range(1, self.max_k + 1)

    def _words(self, codes: Codes, sizes: Sequence[int]) -> dict[int, Matrix]:
        from scipy.sparse import csr_matrix

        # Most words do not occur in a short sequence.
        tables = word_frequencies(codes, max(sizes), self.both_strands)
        return {k: csr_matrix(tables[k]) for k in sizes}

    def _read(self, batches: Iterable[Examples], split: str) -> tuple[dict[int, Matrix], Targets]:
        from scipy.sparse import csr_matrix, vstack

        limit = _MOST_BASES if self.task.per_base else _MOST_SEQUENCES
        parts: dict[int, list[Matrix]] = {k: [] for k in self._sizes}
        targets: list[Targets] = []
        for batch in batches:
            codes, _, found = _arrays(batch)
            if self.task.per_base:
                rows, positions = (at[:_MOST_BASES] for at in np.nonzero(found != IGNORED_LABEL))
                around = surrounding_bases(codes, rows, positions, _REACH)
                parts[_REACH].append(csr_matrix(around))
                found = found[rows, positions]
            else:
                for k, matrix in self._words(codes, self._sizes).items():
                    parts[k].append(matrix)
            targets.append(found)
            if sum(map(len, targets)) >= limit:
                break
        if not sum(map(len, targets)):
            raise InputError(f"the k-mer baseline needs examples with labels in {split}, got none")
        features = {k: vstack(parts.pop(k), format="csr")[:limit] for k in self._sizes}
        return features, np.concatenate(targets)[:limit]

    def _searched_labels(self, targets: Targets) -> list[int] | None:
        """Labels that k and C are chosen by, None for all: if many are fitted by themselves, those
        that are nearest to half of the examples."""
        if not task_kind(self.task).fits_columns or len(self.task.labels) <= _LABELS_SEARCHED:
            return None
        unbalanced = np.abs(targets.mean(axis=0) - 0.5)
        return sorted(np.argsort(unbalanced, kind="stable")[:_LABELS_SEARCHED].tolist())


def _arrays(batch: Examples) -> tuple[Codes, NDArray[np.int64], Targets]:
    codes, lengths, targets = (tensor.cpu().numpy() for tensor in batch)
    return codes, lengths, targets
