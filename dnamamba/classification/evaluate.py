"""Evaluate a trained classifier, on what its run held out or on other labelled sequences.

Below, the files of a run folder that hold the k-mer baseline and the evaluation.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

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
from dnamamba.inference.options import RcMode
from dnamamba.intervals import Split
from dnamamba.metrics.evaluation import evaluate, evaluation_record, primary_metric
from dnamamba.metrics.metrics import Scores
from dnamamba.models.classifier import DnaClassifier
from dnamamba.runtime import Compute, open_compute
from dnamamba.task import Task
from dnamamba.training.config import RunOptions
from dnamamba.training.run_folder import RunFolder

_PASS_BASES = {"cuda": 1 << 18, "cpu": 1 << 14}
"""Bases in one pass without a backward; more is not faster."""


def evaluate_classifier(
    source: Path,
    out: Path,
    data: LabelSource | None = None,
    *,
    lengths: Sequence[int] = (),
    rc: RcMode | None = None,
    options: RunOptions | None = None,
) -> list[str]:
    """Evaluate a classifier beside its k-mer baseline; returns a line of results for each split.

    source: a run of `train_classifier`, or a classifier's folder (which has no baseline).
    out: a folder for evaluation.json and report.html.
    data: labelled sequences, which are all evaluated (the test split of species). Default: the
        run's own validation and test.
    lengths: lengths of windows of species, evaluated one after the other. Default: that of data.
    rc: `average` evaluates the mean of both strands. Default: as in training.
    Raises InputError for labels that the model does not know.
    """
    options, used = options or RunOptions(), data
    is_run = (source / "config.json").exists() and (source / "model").is_dir()
    run = RunFolder(source) if is_run else None
    if used is None:
        if not source.is_dir():
            raise InputError(f"there is no run of `dnamamba classify train` at {source}")
        if run is None:
            raise InputError(
                "a classifier's folder has no examples of its own: name some to evaluate it on "
                "(--table, --species, --records or --regions), or give the run it comes from"
            )
        used = read_classify_config(run).data
    precision = "auto" if run is None else read_classify_config(run).train.precision
    with open_compute(options.device, precision) as compute:
        classifier = DnaClassifier.from_pretrained(source if run is None else run.model)
        loss = LabelLoss(classifier.to(compute.device))
        task = classifier.task
        datasets = _open(used, task, lengths, is_own=data is None)
        averages = classifier.head_config.averages_strands if rc is None else rc == "average"
        score = partial(_score, loss, compute, options.micro_batch, averages_strands=averages)
        scores = {split: score(parts) for split, parts in datasets.items()}
        folder = RunFolder(out)
        if compute.ranks.is_main:
            out.mkdir(parents=True, exist_ok=True)
            baseline = None if run is None or not has_baseline(run) else read_baseline(run, task)
            batches = {split: _batches(parts) for split, parts in datasets.items()}
            write_evaluation(folder, task, scores, baseline, batches)
            if run is None or out.resolve() != run.path.resolve():
                description = {"description": describe_source(used)}
                folder.write_json("manifest", {"data": description, "classifier": source.name})
            write_label_report(out)
        compute.wait_for_ranks()
        return describe_evaluation(folder.read_json("evaluation"), task)


def _open(
    data: LabelSource, task: Task, lengths: Sequence[int], *, is_own: bool
) -> dict[str, list[LabelledDataset]]:
    """Datasets of each split, one for each length of windows; is_own: data are the run's."""
    if is_own and not lengths:
        own = open_datasets(data)
        return {split.value: [own[split]] for split in own if split is not Split.TRAIN}
    if not isinstance(data, SpeciesConfig):
        if lengths:
            raise InputError("lengths are of species, whose windows can be of any; leave them out")
        return {"test": [build_evaluation_dataset(data, task)]}
    genome, sizes = open_species(data), lengths or (data.seq_len,)
    configs = [replace(data, seq_len=size, warmup_lengths=()) for size in sizes]
    return {"test": [SpeciesDataset(genome, config, Split.TEST, task) for config in configs]}


def _score(
    loss: LabelLoss,
    compute: Compute,
    micro_batch: int | None,
    parts: Sequence[LabelledDataset],
    *,
    averages_strands: bool,
) -> Scores:
    """Scores of several datasets, one after the other."""
    found = []
    for part in parts:
        size = micro_batch or max(1, _PASS_BASES[compute.device.type] // part.seq_len)
        found.append(score_all(loss, part, compute, size, averages_strands=averages_strands))
    *columns, names = zip(*found, strict=True)
    scores, targets, lengths = map(np.concatenate, columns)
    return Scores(scores, targets, lengths, None if None in names else list(chain(*names)))


def _batches(parts: Sequence[LabelledDataset]) -> Iterator[Examples]:
    for dataset in parts:
        yield from in_batches(dataset, range(dataset.n_examples))


# --- the k-mer baseline in a run folder: baseline.json and baseline.npz

FORMAT_VERSION = 1
COEFFICIENTS = "baseline.npz"
Batches = Callable[[Split, int | None], Iterator[Examples]]
"""(split, most) -> examples in their order, at most so many."""


def fit_baseline(
    task: Task, batches: Batches, seq_len: int, splits: Sequence[Split], *, is_species: bool
) -> Callable[[RunFolder], None]:
    """Fit the k-mer baseline to training examples and evaluate it on other splits; returns what
    writes its files.

    is_species: windows are drawn from genomes; a word and its reverse complement count as one.
    """
    # Species have no end of windows. Counting words takes a second for each 50 million bases.
    most = min(20_000 if is_species else 50_000, max(1, 300_000_000 // seq_len))
    # A genome is written down from either strand; labels of tables may belong to one.
    baseline = KmerBaseline(task, both_strands=is_species)
    baseline.fit(batches(Split.TRAIN, most), batches(Split.VALID, most))
    results = {
        split.value: evaluate(baseline.scored(batches(split, None)), task) for split in splits
    }
    record = {"format_version": FORMAT_VERSION, **baseline.summary, **results}

    def write(run: RunFolder) -> None:
        baseline.save(run.path / COEFFICIENTS)
        run.write_json("baseline", record)  # last: it says that both files are complete

    return write


def has_baseline(run: RunFolder) -> bool:
    """Whether both files of the baseline are there."""
    return (run.path / "baseline.json").exists() and (run.path / COEFFICIENTS).exists()


def read_baseline(run: RunFolder, task: Task) -> KmerBaseline:
    """The baseline of a run."""
    return KmerBaseline.load(run.path / COEFFICIENTS, task)


# --- evaluation.json


def write_evaluation(
    folder: RunFolder,
    task: Task,
    found: Mapping[str, Scores],
    baseline: KmerBaseline | None,
    batches: Mapping[str, Iterable[Examples]],
) -> None:
    """Write evaluation.json: a model's scores of each split, evaluated beside the baseline's.

    batches: the examples of each split, in the order of their scores. baseline: None if there is
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
