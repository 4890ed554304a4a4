"""What a classifier and its baseline came to: files of a run folder.

baseline.json     the k-mer baseline, judged
baseline.npz      its coefficients, to judge other sequences with
evaluation.json   model and baseline on the same examples
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dnamamba.data.examples import Examples
from dnamamba.intervals import Split
from dnamamba.kmer_baseline import KmerBaseline
from dnamamba.label_curves import evaluation_record
from dnamamba.label_metrics import Scores, headline, judge
from dnamamba.run_folder import RunFolder
from dnamamba.task import Task

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
class JudgedBaseline:
    """A fitted baseline and what baseline.json says of it."""

    baseline: KmerBaseline
    record: dict[str, Any]

    def write(self, run: RunFolder) -> None:
        """The JSON last, so that with it all is there."""
        self.baseline.save(run.path / COEFFICIENTS)
        run.write_json("baseline", self.record)


def fit_baseline(
    task: Task, batches: Batches, seq_len: int, splits: Sequence[Split], *, is_species: bool
) -> JudgedBaseline:
    """Fit the k-mer baseline on training examples and judge it on other splits.

    is_species: windows drawn from genomes; a word and its reverse complement then count as one.
    """
    most = MOST_WINDOWS if is_species else MOST_EXAMPLES
    most = min(most, max(1, MOST_BASES // seq_len))
    # A genome is written down from either strand; labels of tables may belong to one.
    baseline = KmerBaseline(task, both_strands=is_species)
    baseline.fit(batches(Split.TRAIN, most), batches(Split.VALID, most))
    judged = {split.value: judge(baseline.scored(batches(split, None)), task) for split in splits}
    return JudgedBaseline(
        baseline, {"format_version": FORMAT_VERSION, **baseline.summary, **judged}
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
        name, value = headline(row["model"], task)
        shown = "none" if value is None else f"{value:.4f}"
        lines.append(f"{split}: {name} {shown}. {row['comparison'] or ''}".rstrip())
    return lines
