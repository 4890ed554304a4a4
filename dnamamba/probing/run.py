"""Probe embeddings: fit a model to labels, evaluate it on rows held out, beside a k-mer baseline.

    result = probe_embeddings(layers, LabelTable(path=Path("labels.tsv")), ProbeConfig())
    result.write(Path("peaks.probe"))

Files of the folder:

probe.json        settings and results, for report.html
predictions.tsv   every row held out, in the file's order
probe.npz         coefficients of a linear model (linear_models.LinearProbe)
report.html       written by report.py
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnamamba.baselines.linear_models import FOREST, LinearProbe, Matrix, ProbeModel
from dnamamba.configs import from_dict
from dnamamba.data_prep.sequences import Ints
from dnamamba.errors import InputError
from dnamamba.files import building, write_json
from dnamamba.metrics.bootstrap import Ids
from dnamamba.metrics.curves import curves
from dnamamba.metrics.evaluation import Sides, evaluate, evaluate_beside, primary_metric
from dnamamba.metrics.metrics import Scores
from dnamamba.probing.folds import FeatureSet, Fits, fit_best, fit_nested
from dnamamba.probing.labels import EmbeddedTable, LabelTable
from dnamamba.probing.problem import Layer, ProbeConfig, Problem, pose, read_vectors
from dnamamba.probing.sequences import torn_duplicates, word_sets
from dnamamba.runtime import logger
from dnamamba.task import Task
from dnamamba.tokenizer import Codes

FORMAT_VERSION = 1
NO_BASELINE = (
    "There is no baseline, so it is unknown whether the embeddings do better than counts of short "
    "words. Name the genome (--genome) or the sequences (--sequences) and run the probe again."
)
FILES = ("probe.json", "predictions.tsv", "probe.npz", "report.html")
N_RESAMPLES = 1000
_COLUMNS = ("label_column", "group_column", "split_column")
_MOST_DOTS, _MOST_FITTED = 2000, 20_000
_SIDES = Sides("The embeddings'", "the k-mer baseline's", "the embeddings do")

ReadSequences = Callable[[EmbeddedTable, Ints], Sequence[Codes | None]]
"""(embeddings, rows) -> their bases, None if they are not known."""


@dataclass(frozen=True)
class ProbeResult:
    """Content of the files. record: probe.json."""

    record: dict[str, Any]
    predictions: list[list[str]]
    """A header and a line for each row held out."""

    probe: LinearProbe | None
    """Fitted to all labelled rows, or to the training rows of given splits; None for a forest."""

    def described(self) -> list[str]:
        """The results in two lines."""
        evaluated = self.record["judged"]
        name, value = primary_metric(evaluated["model"], from_dict(Task, self.record["task"]))
        interval = evaluated["model"]["intervals"].get(name)
        limits = "" if not interval else f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"
        line = f"{name} {'none' if value is None else f'{value:.4f}'}{limits}, held out."
        comparison = evaluated["comparison"]
        return [line, comparison["sentence"] if comparison else NO_BASELINE]

    def write(self, folder: Path) -> None:
        """Write the files of the folder except the report, probe.json last."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        with (
            building(folder / "predictions.tsv") as path,
            open(path, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(self.predictions)
        if self.probe is not None:
            self.probe.save(folder / "probe.npz")
        write_json(folder / "probe.json", self.record, indent=1)


def probe_embeddings(
    layers: Sequence[Layer],
    labels: LabelTable,
    config: ProbeConfig,
    *,
    sequences: ReadSequences | None = None,
    source: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Fit a model to embeddings with labels and evaluate it on rows that it never saw.

    layers: one or more; each fold takes the best of several by validation within its training
    rows. sequences: reads the baseline's; None: no baseline. source: where the embeddings come
    from, for the record. Deterministic, and the same for any order of rows.
    Raises InputError for labels that match no row, a single class, labels that must be numbers and
    are not, too few groups, and vectors that are not finite.
    """
    embedded = layers[0].open()
    problem = pose(embedded, labels, config)
    model = ProbeModel.of(config.model, problem.task, config.seed)
    sets = [FeatureSet(layer.name, partial(read_vectors, layer, problem.rows)) for layer in layers]
    fits = fit_nested(sets, problem.targets, problem.folds, model)
    words = None
    if sequences is not None:
        words = _fit_words(problem, sequences(embedded, problem.rows), config)
    best, strength = sets[fits.best[0]], fits.best[1]
    probe = None
    if model.name != FOREST:
        fitted = fit_best(fits, best, problem.targets)
        probe = LinearProbe(fitted.weight, fitted.bias, problem.task, best.name)
    record = {
        "format_version": FORMAT_VERSION,
        "task": {"kind": problem.task.kind, "labels": list(problem.task.labels)},
        "source": dict(source or {}),
        "labels": {
            "file": labels.path.name,
            **{name: getattr(labels, name) for name in _COLUMNS},
            "join": problem.joined.join,
            "counts": problem.joined.counts,
            "described": problem.joined.described(),
        },
        "settings": asdict(config)
        | {"model": model.name, "folds": None if problem.joined.splits else config.folds},
        "notes": problem.notes,
        **_evaluated(problem, fits, words),
        "chosen": {"features": best.name, model.strength_name: strength},
        "components": _components(best.read(), problem),
    }
    return ProbeResult(record, _predictions(problem, fits, words), probe)


# --- fits


def _fit_words(problem: Problem, sequences: Sequence[Codes | None], config: ProbeConfig) -> Fits:
    """The baseline: the same folds with frequencies of words, always by a linear model."""
    without = sum(row is None for row in sequences)
    if without == len(sequences):
        raise InputError("no labelled row has a sequence: leave the baseline's source out")
    if without:
        problem.notes.append(
            f"{without:,} rows have no sequence; the baseline takes them as without any word."
        )
    if torn := torn_duplicates(sequences, problem.fold_of):
        note = (
            f"{torn:,} rows have the same bases as a row of another fold or split: results look "
            "better than they are, the baseline's too. Give a column of groups that keeps them "
            "together."
        )
        logger.warning("%s", note)
        problem.notes.append(note)
    model = ProbeModel.of(None, problem.task, config.seed)
    sets = word_sets(sequences, config.max_k)
    return fit_nested(sets, problem.targets, problem.folds, model)


# --- results


def evaluate_probe(
    model: Scores, baseline: Scores | None, task: Task, groups: Ids | None
) -> dict[str, Any]:
    """`evaluate_beside` with intervals, and what is `resampled`, in words. groups: (n,), the number
    of each row's group, from 0 up; None: rows by themselves."""
    evaluated = evaluate_beside(
        model, baseline, task, groups, n_resamples=N_RESAMPLES, with_intervals=True, sides=_SIDES
    )
    resampled = f"{len(model.scores):,} rows"
    if groups is not None:
        n = int(groups.max()) + 1
        rough = ", so few that intervals are rough" if n < 10 else ""
        resampled = f"{n:,} groups of rows{rough}"
    return evaluated | {"resampled": resampled}


def _evaluated(problem: Problem, fits: Fits, words: Fits | None) -> dict[str, Any]:
    held = problem.held
    model = problem.scored(fits.scores, held)
    baseline = None if words is None else problem.scored(words.scores, held)
    groups = None
    if problem.groups is not None:
        names = [problem.groups[row] for row in held]
        groups = np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
    return {
        "judged": evaluate_probe(model, baseline, problem.task, groups),
        "curves": curves(model, problem.task, baseline),
        "folds": [_fold_row(problem, i, fits, words) for i in range(len(problem.folds))],
        "layers": [_layer_row(problem, i, fits) for i in range(len(fits.names))],
    }


def _fold_row(problem: Problem, i: int, fits: Fits, words: Fits | None) -> dict[str, Any]:
    fold = problem.folds[i]
    row: dict[str, Any] = {"fold": fold.name, "train": len(fold.train), "test": len(fold.test)}
    if problem.groups is not None:
        row["groups"] = len({problem.groups[j] for j in fold.test})
    for who, made in (("model", fits), ("baseline", words)):
        if made is not None:
            chosen = made.chosen[i]
            row[who] = {
                "headline": _primary(problem, made.scores, fold.test),
                "features": made.names[chosen],
                "strength": float(made.strengths[chosen, i]),
            }
    return row


def _layer_row(problem: Problem, i: int, fits: Fits) -> dict[str, Any]:
    return {
        "name": fits.names[i],
        "validation_loss": float(fits.losses[i].mean()),
        "chosen_in": int((fits.chosen == i).sum()),
        "is_best": fits.best[0] == i,
        "headline": _primary(problem, fits.found[i], problem.held),
    }


def _primary(problem: Problem, scores: NDArray[np.float32], rows: Ints) -> float | None:
    return primary_metric(evaluate(problem.scored(scores, rows), problem.task), problem.task)[1]


def _components(x: Matrix, problem: Problem) -> dict[str, Any]:
    """Four principal components of standardised vectors, with up to 2,000 rows to draw."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    n = len(x)
    fitted = _spaced(n, _MOST_FITTED)
    scaled = StandardScaler().fit_transform(x[fitted])
    n_components = min(4, *scaled.shape)
    found = PCA(n_components, random_state=0).fit(scaled)
    drawn = _spaced(len(fitted), _MOST_DOTS)
    points = found.transform(scaled[drawn])
    targets = problem.targets[fitted[drawn]].ravel()
    return {
        # Vectors that are all the same have no variance to explain.
        "explained": np.nan_to_num(found.explained_variance_ratio_).tolist(),
        "points": [[float(f"{value:.4g}") for value in row] for row in points],
        "targets": targets.tolist(),
        "n": n,
    }


def _spaced(n: int, most: int) -> Ints:
    """Numbers below n at equal distances."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _predictions(problem: Problem, fits: Fits, words: Fits | None) -> list[list[str]]:
    task, table, fold_of = problem.task, problem.table, problem.fold_of
    predicted = [
        made.scores.argmax(axis=1) if task.has_classes else made.scores
        for made in (fits, words)
        if made is not None
    ]
    head = ["name", "chrom", "start", "end", "strand", "group", "fold", "truth", "prediction"]
    head += [f"p_{label}" for label in task.labels] if task.has_classes else []
    head += [] if words is None else ["baseline_prediction"]
    lines = [head]
    for i in np.argsort(problem.rows):
        if fold_of[i] < 0:
            continue
        line = [str(table[name][problem.rows[i]]) for name in head[:5]]
        line += ["" if problem.groups is None else problem.groups[i]]
        line += [problem.folds[fold_of[i]].name, _text(task, problem.targets[i])]
        line += [_text(task, predicted[0][i])]
        line += [f"{p:.6g}" for p in fits.scores[i]] if task.has_classes else []
        line += [_text(task, values[i]) for values in predicted[1:]]
        lines.append(line)
    return lines


def _text(task: Task, value: Any) -> str:
    return task.labels[int(value)] if task.has_classes else f"{value[0]:.7g}"
