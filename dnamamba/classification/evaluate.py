"""Judging a trained classifier again: on its own held-out examples, or on others."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dnamamba.baselines.kmer_classifier import KmerBaseline
from dnamamba.classification.config import LabelSource, describe_source, read_classify_config
from dnamamba.classification.loss import LabelLoss
from dnamamba.classification.report import write_label_report
from dnamamba.classification.setup import open_datasets
from dnamamba.classification.validation import in_batches, score_all
from dnamamba.data.batches import Examples, LabelledDataset
from dnamamba.data.labelled.dataset import build_evaluation_dataset
from dnamamba.data.species.dataset import SpeciesConfig, SpeciesDataset, open_species
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.metrics.evaluation import evaluate, evaluation_record, primary_metric
from dnamamba.metrics.metrics import Scores
from dnamamba.models.classifier import DnaClassifier
from dnamamba.runtime import Compute, open_compute
from dnamamba.task import Task
from dnamamba.training.config import RunOptions
from dnamamba.training.run_folder import RunFolder

_PASS_BASES = {"cuda": 1 << 18, "cpu": 1 << 14}
"""In one pass where nothing is kept for a backward; more is not faster."""


def evaluate_classifier(
    source: Path,
    out: Path,
    data: LabelSource | None = None,
    *,
    lengths: Sequence[int] = (),
    rc: Literal["none", "average"] | None = None,
    options: RunOptions | None = None,
) -> list[str]:
    """Judge a classifier beside its k-mer baseline; returns what it came to, a line for each split.

    source: a run of `train_classifier`, or a classifier's folder (which has no baseline).
    out: a folder for evaluation.json and report.html.
    data: labelled sequences, all of which are judged (of species those of the test split); None:
        the run's own validation and test.
    lengths: windows of species, judged one after the other; empty: that of data.
    rc: `average` judges the mean of both strands; None: as it was judged in training.
    Raises InputError for labels that the model does not know.
    """
    options = options or RunOptions()
    run = RunFolder(source) if (source / "config.json").exists() and _is_run(source) else None
    precision = "auto" if run is None else read_classify_config(run).train.precision
    with open_compute(options.device, precision) as compute:
        classifier = DnaClassifier.from_pretrained(source if run is None else run.model)
        loss = LabelLoss(classifier.to(compute.device))
        task = classifier.task
        datasets = _open(run, data, task, lengths)
        if rc is None:
            rc = "average" if classifier.head_config.averages_strands else "none"
        found = {
            name: _score(loss, parts, compute, options.micro_batch, rc == "average")
            for name, parts in datasets.items()
        }
        folder = RunFolder(out)
        if compute.ranks.is_main:
            out.mkdir(parents=True, exist_ok=True)
            baseline = None if run is None or not has_baseline(run) else read_baseline(run, task)
            batches = {name: _batches(parts) for name, parts in datasets.items()}
            write_evaluation(folder, task, found, baseline, batches)
            if run is None or out.resolve() != run.path.resolve():
                folder.write_json("manifest", _manifest(source, run, data))
            write_label_report(out)
        compute.wait_for_ranks()
        return describe_evaluation(folder.read_json("evaluation"), task)


def _is_run(source: Path) -> bool:
    return (source / "model").is_dir()


def _manifest(
    source: Path, run: RunFolder | None, data: LabelSource | None
) -> dict[str, dict[str, str] | str]:
    used = read_classify_config(run).data if data is None and run is not None else data
    assert used is not None, "without a run there are data"
    return {"data": {"description": describe_source(used)}, "classifier": source.name}


def _open(
    run: RunFolder | None, data: LabelSource | None, task: Task, lengths: Sequence[int]
) -> dict[str, list[LabelledDataset]]:
    """Datasets of each split, one for each length of windows."""
    if data is None:
        if run is None:
            raise InputError(
                "a classifier's folder has no examples of its own: say what to judge it on "
                "(--table, --species, --records or --regions), or give the run it comes from"
            )
        data = read_classify_config(run).data
        if not lengths:
            own = open_datasets(data)
            return {split.value: [own[split]] for split in own if split is not Split.TRAIN}
    if isinstance(data, SpeciesConfig):
        sizes = lengths or (data.seq_len,)
        genome = open_species(data)
        return {
            "test": [
                SpeciesDataset(
                    genome, replace(data, seq_len=size, warmup_lengths=()), Split.TEST, task
                )
                for size in sizes
            ]
        }
    if lengths:
        raise InputError("lengths are of species, whose windows can be of any; leave them out")
    return {"test": [build_evaluation_dataset(data, task)]}


def _score(
    loss: LabelLoss,
    parts: Sequence[LabelledDataset],
    compute: Compute,
    micro_batch: int | None,
    averages_strands: bool,
) -> Scores:
    found = []
    for dataset in parts:
        size = micro_batch or max(1, _PASS_BASES[compute.device.type] // dataset.seq_len)
        found.append(score_all(loss, dataset, compute, size, averages_strands=averages_strands))
    names = [one.names for one in found]
    return Scores(
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.targets for one in found]),
        np.concatenate([one.lengths for one in found]),
        None if None in names else list(chain.from_iterable(name or [] for name in names)),
    )


def _batches(parts: Sequence[LabelledDataset]) -> Iterator[Examples]:
    for dataset in parts:
        yield from in_batches(dataset, range(dataset.n_examples))


# --- What a classifier and its baseline came to: files of a run folder

FORMAT_VERSION = 1
COEFFICIENTS = "baseline.npz"
MOST_EXAMPLES = 50_000
"""Training examples that the baseline learns from at most."""

MOST_WINDOWS = 20_000
"""The same of species, of which there is no end."""

MOST_BASES = 300_000_000
"""Bases of them; counting words takes a second for each 50 million."""

Batches = Callable[[Split, int | None], Iterator[Examples]]
"""Examples of a split in their order, so many at most."""


@dataclass(frozen=True)
class EvaluatedBaseline:
    """A fitted baseline and what baseline.json says of it."""

    baseline: KmerBaseline
    record: dict[str, Any]

    def write(self, run: RunFolder) -> None:
        """The JSON last, so that with it all is there."""
        self.baseline.save(run.path / COEFFICIENTS)
        run.write_json("baseline", self.record)


def fit_baseline(
    task: Task, batches: Batches, seq_len: int, splits: Sequence[Split], *, is_species: bool
) -> EvaluatedBaseline:
    """Fit the k-mer baseline on training examples and judge it on other splits.

    is_species: windows drawn from genomes; a word and its reverse complement then count as one.
    """
    most = MOST_WINDOWS if is_species else MOST_EXAMPLES
    most = min(most, max(1, MOST_BASES // seq_len))
    # A genome is written down from either strand; labels of tables may belong to one.
    baseline = KmerBaseline(task, both_strands=is_species)
    baseline.fit(batches(Split.TRAIN, most), batches(Split.VALID, most))
    evaluated = {
        split.value: evaluate(baseline.scored(batches(split, None)), task) for split in splits
    }
    return EvaluatedBaseline(
        baseline, {"format_version": FORMAT_VERSION, **baseline.summary, **evaluated}
    )


def has_baseline(run: RunFolder) -> bool:
    """Whether both of its files are there; the JSON is written last."""
    return (run.path / "baseline.json").exists() and (run.path / COEFFICIENTS).exists()


def read_baseline(run: RunFolder, task: Task) -> KmerBaseline:
    """What `JudgedBaseline.write` kept."""
    return KmerBaseline.load(run.path / COEFFICIENTS, task)


def write_evaluation(
    folder: RunFolder,
    task: Task,
    found: Mapping[str, Scores],
    baseline: KmerBaseline | None,
    batches: Mapping[str, Iterable[Examples]],
) -> None:
    """Judge a model's scores of each split beside the baseline's, into evaluation.json.

    batches: the examples of each split, in the order of their scores. baseline: None where there is
    none to compare with.
    """
    others = {name: baseline.scored(batches[name]) for name in found} if baseline else {}
    pairs = {name: (scores, others.get(name)) for name, scores in found.items()}
    folder.write_json("evaluation", evaluation_record(task, pairs))


def describe_evaluation(evaluation: Mapping[str, Any], task: Task) -> list[str]:
    """A line for each split."""
    lines = []
    for split, row in evaluation["splits"].items():
        name, value = primary_metric(row["model"], task)
        shown = "none" if value is None else f"{value:.4f}"
        lines.append(f"{split}: {name} {shown}. {row['comparison'] or ''}".rstrip())
    return lines
