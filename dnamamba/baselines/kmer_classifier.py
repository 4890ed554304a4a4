"""The baseline of a classifier: a linear model of how often short words occur.

A model that reads long sequences and does no better has learned composition only. It is made as
good as it can be without the test set: the length of words and the regularisation are chosen on
validation, by its loss, which is smoother than an accuracy.
"""

import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.kmers import surrounding_bases, word_frequencies
from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.metrics.metrics import Scores, gather_scores
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import Codes

LONGEST_WORD = 8
_REACH = 5
"""Bases on each side of one that is labelled."""

_MOST_SEQUENCES, _MOST_BASES = 50_000, 200_000
"""Training examples read: 50,000 rows of 4^6 float32 are 0.8 GB."""

_BASES_AT_ONCE = 1 << 18

_STRENGTHS = tuple(float(f"{n}e{power}") for power in range(-5, 1) for n in (1, 3))
"""C, the weight of the data against that of small coefficients, weakest first."""

_LABELS_SEARCHED = 8
_NEVER = -30.0
"""Logit of a label that no training example has."""

_DETAILS = ("max_k", "both_strands", "k", "C", "n_train", "n_valid")

Matrix = Any
"""scipy.sparse.csr_matrix of float32: most words do not occur in a short sequence."""


class _Linear(NamedTuple):
    weight: NDArray[np.float64]
    """(F, C)"""

    bias: NDArray[np.float64]
    """(C,)"""


class KmerBaseline:
    """Logistic regression of k-mer frequencies (ridge regression for numbers).

    task: what to tell. Of a per_base task each labelled base is told from the 5 bases on each side,
        one-hot, instead.
    max_k: longest word tried, 1 to 8; memory grows with 4^max_k.
    both_strands: a word and its reverse complement are one feature, so that a sequence and its
        other strand have the same scores.
    """

    def __init__(self, task: Task, max_k: int = 6, both_strands: bool = False) -> None:
        if not 1 <= max_k <= LONGEST_WORD:
            raise InputError(f"max_k is 1 to {LONGEST_WORD}, got {max_k}")
        self.task = task
        self.max_k = max_k
        self.both_strands = both_strands
        self.k: int | None = None
        self.C: float | None = None
        self.n_train = self.n_valid = 0
        self._linear: _Linear | None = None

    def fit(self, train: Iterable[Examples], valid: Iterable[Examples]) -> Self:
        """Learn from training examples; choose k and C on validation ones.

        At most 50,000 sequences (200,000 labelled bases) of each are read, the first. The result is
        the same for the same batches.
        Raises InputError where one of the two has no example.
        """
        features, targets = self._read(train, "train")
        valid_features, valid_targets = self._read(valid, "valid")
        self.n_train, self.n_valid = len(targets), len(valid_targets)
        searched = self._searched_labels(targets)
        best, lowest = (0, 0.0), np.inf
        for k in self._sizes:
            losses = _path_losses(
                (features[k], targets), (valid_features[k], valid_targets), self.task, searched
            )
            C, loss = min(losses, key=lambda pair: pair[1])
            if loss < lowest:
                best, lowest = (k, C), loss
        self.k, self.C = best
        labels = range(len(self.task.labels))
        self._linear = next(_fits(features[self.k], targets, self.task, labels, (self.C,)))
        return self

    def scores(self, batches: Iterable[Examples]) -> NDArray[np.float32]:
        """Probabilities of labels, or numbers (regression), float32 (N, C) in the examples' order.

        Of a per_base task N counts the labelled bases. Raises InputError before `fit`.
        """
        return self.scored(batches).scores

    def scored(self, batches: Iterable[Examples]) -> Scores:
        """The same with what is right, for `label_metrics.judge`."""
        if self._linear is None or self.k is None:
            raise InputError("a baseline that was not fitted has no scores; call fit first")
        return gather_scores(self._score_batches(batches, self._linear, self.k), self.task)

    def _score_batches(
        self, batches: Iterable[Examples], linear: _Linear, k: int
    ) -> Iterator[tuple[NDArray[Any], Examples]]:
        for batch in batches:
            if self.task.kind == "per_base":
                yield self._score_bases(batch, linear), batch
            else:
                yield _predict(self._words(batch, (k,))[k], linear, self.task), batch

    def _score_bases(self, batch: Examples, linear: _Linear) -> NDArray[np.float32]:
        """Scores (B, L, C), 0 where there is no label."""
        rows, positions = np.nonzero(_targets(batch) != IGNORED_LABEL)
        scores = np.zeros((*batch.targets.shape, len(self.task.labels)), np.float32)
        for start in range(0, len(rows), _BASES_AT_ONCE):
            some = slice(start, start + _BASES_AT_ONCE)
            seen = surrounding_bases(_codes(batch), rows[some], positions[some], _REACH)
            scores[rows[some], positions[some]] = _predict(seen, linear, self.task)
        return scores

    def save(self, path: Path) -> None:
        """Write what was fitted as a .npz, which holds numbers alone. Raises InputError before."""
        if self._linear is None:
            raise InputError("a baseline that was not fitted cannot be saved; call fit first")
        details = {name: np.array(getattr(self, name)) for name in _DETAILS}
        np.savez(path, weight=self._linear.weight, bias=self._linear.bias, **details)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path, task: Task) -> Self:
        """Read what `save` wrote for the same task. Raises InputError where it is damaged."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in ("weight", "bias", *_DETAILS)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} cannot be read as a k-mer baseline: {error}") from error
        baseline = cls(task, int(found["max_k"]), bool(found["both_strands"]))
        baseline.k, baseline.C = int(found["k"]), float(found["C"])
        baseline.n_train, baseline.n_valid = int(found["n_train"]), int(found["n_valid"])
        baseline._linear = _Linear(found["weight"], found["bias"])
        if baseline._linear.bias.shape != (len(task.labels),):
            raise InputError(f"{path} is of {len(found['bias'])} labels, not {len(task.labels)}")
        return baseline

    @property
    def description(self) -> str:
        """What it is, for a report."""
        if self.k is None:
            return "k-mer baseline, not fitted"
        is_regression = self.task.kind == "regression"
        strands = " of both strands" if self.both_strands else ""
        seen = f"{self.k}-mer frequencies{strands}"
        things = "sequences"
        if self.task.kind == "per_base":
            seen, things = f"the {self.k} bases on each side", "labelled bases"
        return (
            f"{'Ridge' if is_regression else 'Logistic'} regression of {seen}, C = {self.C:g}, "
            f"learned from {self.n_train:,} {things}, chosen on {self.n_valid:,} of validation"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """What a run keeps of it in baseline.json: kind, k, C, n_train, n_valid, description."""
        return {
            "kind": "kmer",
            "k": None if self.task.kind == "per_base" else self.k,
            "C": self.C,
            "both_strands": self.both_strands,
            "n_train": self.n_train,
            "n_valid": self.n_valid,
            "description": self.description,
        }

    @property
    def _sizes(self) -> Sequence[int]:
        return (_REACH,) if self.task.kind == "per_base" else range(1, self.max_k + 1)

    def _words(self, batch: Examples, sizes: Sequence[int]) -> dict[int, Matrix]:
        from scipy.sparse import csr_matrix

        tables = word_frequencies(_codes(batch), max(sizes), self.both_strands)
        return {k: csr_matrix(tables[k]) for k in sizes}

    def _bases(self, batch: Examples) -> tuple[dict[int, Matrix], NDArray[Any]]:
        from scipy.sparse import csr_matrix

        rows, positions = (
            where[:_MOST_BASES] for where in np.nonzero(_targets(batch) != IGNORED_LABEL)
        )
        seen = surrounding_bases(_codes(batch), rows, positions, _REACH)
        return {_REACH: csr_matrix(seen)}, _targets(batch)[rows, positions]

    def _read(
        self, batches: Iterable[Examples], split: str
    ) -> tuple[dict[int, Matrix], NDArray[Any]]:
        from scipy.sparse import vstack

        is_per_base = self.task.kind == "per_base"
        limit = _MOST_BASES if is_per_base else _MOST_SEQUENCES
        parts: dict[int, list[Matrix]] = {k: [] for k in self._sizes}
        targets: list[NDArray[Any]] = []
        for batch in batches:
            if is_per_base:
                matrices, right = self._bases(batch)
            else:
                matrices, right = self._words(batch, self._sizes), _targets(batch)
            for k, matrix in matrices.items():
                parts[k].append(matrix)
            targets.append(right)
            if sum(map(len, targets)) >= limit:
                break
        if not sum(map(len, targets)):
            raise InputError(f"the k-mer baseline needs examples with labels in {split}, got none")
        features = {k: vstack(parts.pop(k), format="csr")[:limit] for k in self._sizes}
        return features, np.concatenate(targets)[:limit]

    def _searched_labels(self, targets: NDArray[Any]) -> Sequence[int]:
        """Labels that k and C are chosen by: of many that are fitted apart, the most balanced."""
        n_labels = len(self.task.labels)
        if self.task.kind != "multilabel" or n_labels <= _LABELS_SEARCHED:
            return range(n_labels)
        unbalanced = np.abs(targets.mean(axis=0) - 0.5)
        return sorted(np.argsort(unbalanced, kind="stable")[:_LABELS_SEARCHED].tolist())


def _codes(batch: Examples) -> Codes:
    return batch.codes.cpu().numpy()


def _targets(batch: Examples) -> NDArray[Any]:
    return batch.targets.cpu().numpy()


def _path_losses(
    train: tuple[Matrix, NDArray[Any]],
    valid: tuple[Matrix, NDArray[Any]],
    task: Task,
    labels: Sequence[int],
) -> list[tuple[float, float]]:
    """(C, validation loss) from the smallest C up, until the loss has risen twice."""
    losses: list[tuple[float, float]] = []
    fits = _fits(*train, task, labels, _STRENGTHS)
    for C, linear in zip(_STRENGTHS, fits, strict=False):
        found = _predict(valid[0], linear, task)
        losses.append((C, _loss(found, valid[1], task, labels)))
        if len(losses) > 2 and losses[-1][1] > losses[-2][1] > losses[-3][1]:
            break
    return losses


def _loss(found: NDArray[Any], targets: NDArray[Any], task: Task, labels: Sequence[int]) -> float:
    if task.has_classes:
        return float(-np.log(np.maximum(found[np.arange(len(targets)), targets], 1e-9)).mean())
    right = targets[:, labels]
    if task.kind == "multilabel":
        given = np.where(right > 0.5, found, 1 - found)
        return float(-np.log(np.maximum(given, 1e-9)).mean())
    scale = np.maximum(right.var(axis=0, dtype=np.float64), 1e-30)
    squares = (found.astype(np.float64) - right) ** 2  # float32 ends at 3e38
    return float((squares.mean(axis=0) / scale).mean())


def _predict(features: Matrix, linear: _Linear, task: Task) -> NDArray[np.float32]:
    outputs = np.asarray(features @ linear.weight) + linear.bias
    if task.has_classes:
        outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs /= outputs.sum(axis=1, keepdims=True)
    elif task.kind == "multilabel":
        outputs = 1 / (1 + np.exp(-np.clip(outputs, -50, 50)))
    return outputs.astype(np.float32)


# --- fitting


def _fits(
    features: Matrix,
    targets: NDArray[Any],
    task: Task,
    labels: Sequence[int],
    strengths: Sequence[float],
) -> Iterator[_Linear]:
    """A linear model of raw features for each strength; each fit starts at the one before."""
    from sklearn.exceptions import ConvergenceWarning

    mean, scale = _spread(features)
    standardised = features.toarray()
    standardised -= mean.astype(np.float32)
    standardised /= scale.astype(np.float32)
    if task.kind == "regression":
        fits = _fit_numbers(standardised, targets, strengths)
    elif task.kind == "multilabel":
        fits = _fit_labels(standardised, targets[:, labels] > 0.5, strengths)
    else:
        fits = _fit_classes(standardised, targets, len(task.labels), strengths)
    while True:
        with warnings.catch_warnings():
            # A fit cut off after 200 steps is a baseline too, and validation judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            linear = next(fits, None)
        if linear is None:
            return
        weight = linear.weight / scale[:, None]
        yield _Linear(weight, linear.bias - mean @ weight)


def _spread(features: Matrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(mean, standard deviation) of each column; 1 for a column that does not vary."""
    exact = features.astype(np.float64)
    mean = np.asarray(exact.mean(axis=0)).ravel()
    square = np.asarray(exact.multiply(exact).mean(axis=0)).ravel()
    scale = np.sqrt(np.maximum(square - mean**2, 0))
    return mean, np.where(scale > 1e-7 * (mean + 1e-3), scale, 1)


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(warm_start=True, tol=1e-3, max_iter=200)


def _fit_classes(
    features: NDArray[np.float32],
    targets: NDArray[np.int64],
    n_classes: int,
    strengths: Sequence[float],
) -> Iterator[_Linear]:
    weight = np.zeros((features.shape[1], n_classes))
    bias = np.full(n_classes, _NEVER)
    present = np.unique(targets)
    bias[present] = 0
    model = _logistic()
    for C in strengths:
        if len(present) > 1:
            model.set_params(C=C).fit(features, targets)
            # Of two classes scikit-learn has the second's logit alone.
            here = present[1:] if len(present) == 2 else present
            weight[:, here], bias[here] = model.coef_.T, model.intercept_
        yield _Linear(weight.copy(), bias.copy())


def _fit_labels(
    features: NDArray[np.float32], targets: NDArray[np.bool_], strengths: Sequence[float]
) -> Iterator[_Linear]:
    """One against the rest, each label by itself."""
    n_labels = targets.shape[1]
    weight = np.zeros((features.shape[1], n_labels))
    bias = np.where(targets.all(axis=0), -_NEVER, _NEVER)
    models = [_logistic() for _ in range(n_labels)]
    for C in strengths:
        for i, model in enumerate(models):
            if targets[:, i].any() and not targets[:, i].all():
                model.set_params(C=C).fit(features, targets[:, i])
                weight[:, i], bias[i] = model.coef_[0], model.intercept_[0]
        yield _Linear(weight.copy(), bias.copy())


def _fit_numbers(
    features: NDArray[np.float32], targets: NDArray[np.float32], strengths: Sequence[float]
) -> Iterator[_Linear]:
    from sklearn.linear_model import Ridge

    mean, scale = targets.mean(axis=0, dtype=np.float64), targets.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1)
    standardised = ((targets - mean) / scale).astype(np.float32)
    for C in strengths:
        model = Ridge(alpha=1 / C, fit_intercept=False, solver="lsqr", tol=1e-5)
        model.fit(features, standardised)
        yield _Linear(model.coef_.reshape(len(scale), -1).T * scale, mean)
