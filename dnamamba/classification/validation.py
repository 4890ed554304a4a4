"""Score labelled sequences that a classifier is not trained on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.classification.loss import LabelLoss
from dnamamba.classification.report import write_label_report
from dnamamba.data.batches import Examples, LabelledDataset, to_device
from dnamamba.data.hashing import permute
from dnamamba.inference.strands import predict_reverse
from dnamamba.metrics.evaluation import evaluate, primary_metric
from dnamamba.metrics.metrics import Scores, gather_scores, labelled_bases
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.models.classifier import DnaClassifier
from dnamamba.runtime import Compute
from dnamamba.task import IGNORED_LABEL
from dnamamba.tokenizer import TOKEN_MASK
from dnamamba.training.interrupts import StopRequest

_BATCH_ROWS, _BATCH_BASES = 4096, 1 << 22
_CHOICE = 31
"""Keeps this draw apart from others."""


def evaluation_examples(dataset: LabelledDataset, most: int | None) -> list[int]:
    """Samples of an evaluation, in order: all, or `most` of them, always the same.

    A hash draws them: at equal distances all could be of one class, as species come in turn.
    """
    n = dataset.n_examples
    if most is None or most >= n:
        return list(range(n))
    return sorted(permute(np.arange(most), n, _CHOICE).tolist())


def in_batches(dataset: LabelledDataset, samples: Sequence[int]) -> Iterator[Examples]:
    """Examples by sample number, a few megabytes and a few thousand at a time."""
    size = max(1, min(_BATCH_ROWS, _BATCH_BASES // dataset.seq_len))
    for first in range(0, len(samples), size):
        yield dataset[samples[first : first + size]]


class LabelValidator:
    """Evaluate a classifier on validation examples (trainer.Validator).

    most: examples of a validation; None: all. patience_steps: see trainer.Validator.
    averages_strands: see `score_samples`.
    keeps_best: keep the model of the best validation rather than the last.
    """

    def __init__(
        self,
        loss: LabelLoss,
        dataset: LabelledDataset,
        compute: Compute,
        *,
        most: int | None = None,
        patience_steps: int | None = None,
        keeps_best: bool = True,
        averages_strands: bool = False,
    ) -> None:
        self.loss, self.dataset, self.compute = loss, dataset, compute
        self.patience_steps, self.keeps_best = patience_steps, keeps_best
        self.averages_strands = averages_strands
        self._samples = evaluation_examples(dataset, most)
        self._name = ""

    def units(self, loss: float) -> dict[str, float]:
        return {}

    def validate(self, micro_batch: int, stop: StopRequest) -> dict[str, Any] | None:
        found = score_samples(
            self.loss,
            self.dataset,
            self._samples,
            self.compute,
            micro_batch,
            stop=stop,
            averages_strands=self.averages_strands,
        )
        if found is None:
            return None
        scores, loss = found
        task = self.dataset.task
        self._name, value = primary_metric(evaluate(scores, task), task)
        return {"loss": loss, self._name: value, "examples": len(self._samples)}

    def score(self, row: Mapping[str, Any]) -> float | None:
        if not self.keeps_best:
            return None
        # A validation of a single class, say, does not define the metric: take the loss.
        value = row[self._name]
        return -float(row["loss"]) if value is None else float(value)

    def summary(self, row: Mapping[str, Any]) -> str:
        text = f"loss {row['loss']:.4f}"
        if self._name not in row:
            return text
        value = row[self._name]
        return f"{text}, {self._name} {'none' if value is None else f'{value:.4f}'}"

    def write_report(self, folder: Path, *, is_running: bool = False) -> Path:
        return write_label_report(folder, is_running=is_running)


@torch.no_grad()
def score_samples(
    loss: LabelLoss,
    dataset: LabelledDataset,
    samples: Sequence[int],
    compute: Compute,
    micro_batch: int,
    *,
    stop: StopRequest | None = None,
    averages_strands: bool = False,
) -> tuple[Scores, float] | None:
    """(scores of examples, mean loss on the given strand), the same on every rank.

    averages_strands: scores are the mean of a sequence's and its reverse complement's.
    stop: checked between micro-batches; returns None once any rank is to stop.
    """
    gathered = _Gathered(dataset, len(samples), compute, averages_strands=averages_strands)
    rank, world_size = compute.ranks.rank, compute.ranks.world_size
    mine = range(rank, len(samples), world_size)
    loss.eval()
    try:
        # Rank 0 has the most; every rank takes as many turns, the last perhaps with nothing.
        for first in range(0, len(samples[::world_size]), micro_batch):
            if stop is not None and compute.any_rank(stop.signal is not None):
                return None
            if rows := mine[first : first + micro_batch]:
                gathered.add(rows, loss, dataset[[samples[i] for i in rows]])
    finally:
        loss.train()
    return gathered.finish(dataset.describe(samples))


def score_all(
    loss: LabelLoss,
    dataset: LabelledDataset,
    compute: Compute,
    micro_batch: int,
    *,
    averages_strands: bool,
) -> Scores:
    """Scores of every example of a split."""
    samples = range(dataset.n_examples)
    found = score_samples(
        loss, dataset, samples, compute, micro_batch, averages_strands=averages_strands
    )
    assert found is not None, "without `stop` it does not stop"
    return found[0]


class _Gathered:
    """Scores of all ranks: each fills in its rows of zeros, and the sum has them all."""

    def __init__(
        self, dataset: LabelledDataset, n: int, compute: Compute, *, averages_strands: bool
    ) -> None:
        self.task, self.compute = dataset.task, compute
        self.averages_strands = averages_strands
        device = compute.device
        rows = (n, dataset.seq_len) if self.task.per_base else (n,)
        self.scores = torch.zeros((*rows, len(self.task.labels)), device=device)
        self.targets = torch.from_numpy(self.task.empty_targets(n, dataset.seq_len)).to(device)
        self.lengths = torch.zeros(n, dtype=torch.int64, device=device)
        self.totals = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, numbers: Sequence[int], loss: LabelLoss, examples: Examples) -> None:
        """Score a batch and fill in its rows."""
        model, moved = loss.model, to_device(examples, self.compute.device)
        per_base = self.task.per_base
        with self.compute.autocast():
            logits = loss.scores(moved)
            self.totals += torch.stack(loss.of_scores(logits, moved)).double()
            scores = model.interpret(logits)
            if self.averages_strands:
                token_ids = moved.codes & TOKEN_MASK
                other = predict_reverse(model.predict, token_ids, moved.lengths, per_base=per_base)
                scores = (scores + other) / 2
        rows: Any = torch.tensor(list(numbers), device=scores.device)
        self.lengths[rows] = moved.lengths
        if per_base:
            # Rows of a batch may be shorter than the longest of the split.
            self.targets[rows] = IGNORED_LABEL
            rows = (rows, slice(moved.targets.shape[1]))
        self.scores[rows], self.targets[rows] = scores.float(), moved.targets

    def finish(self, names: list[str]) -> tuple[Scores, float]:
        """All scores, and the mean loss."""
        arrays = []
        for tensor in (self.scores, self.targets, self.lengths, self.totals):
            self.compute.sum_over_ranks(tensor)
            arrays.append(tensor.cpu().numpy())
        scores, targets, lengths, (total, weight) = arrays
        gathered = gather_scores([(scores, targets, lengths)], self.task, names)
        return gathered, float(total / max(weight, 1e-12))


@torch.no_grad()
def pooled_features(
    classifier: DnaClassifier, batches: Iterable[Examples], compute: Compute, micro_batch: int
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """(features (N, D) that the head reads, targets as it is to give them): of labelled bases in a
    per_base task, standardised in a regression."""
    features, targets = [], []
    was_training = classifier.training
    classifier.eval()
    for examples in batches:
        for first in range(0, len(examples.lengths), micro_batch):
            part = Examples(*(tensor[first : first + micro_batch] for tensor in examples))
            moved = to_device(part, compute.device)
            with compute.autocast():
                found = classifier.features(moved.codes & TOKEN_MASK, moved.lengths)
            rows, wanted = found.float().cpu().numpy(), part.targets.numpy()
            if classifier.task.per_base:
                rows, wanted, _ = labelled_bases(rows, wanted, part.lengths.numpy())
            elif task_kind(classifier.task).standardises:
                wanted = classifier.standardise(moved.targets).cpu().numpy()
            features.append(rows)
            targets.append(wanted)
    classifier.train(was_training)
    return np.concatenate(features), np.concatenate(targets)
