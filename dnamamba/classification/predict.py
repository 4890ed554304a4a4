"""A trained classifier's answers for sequences, regions and variants; `dnamamba classify predict`.

    classifier = DnaClassifier.from_pretrained("runs/apes")
    with open_regions(Path("reads.fa.gz")) as table:
        for row, values in predict_rows(classifier, table):
            ...

What is held at a time is a few batches, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from dnamamba.data_prep.regions.rows import (
    RegionEdge,
    RegionRow,
    RegionTable,
    RowStatus,
    WindowRule,
)
from dnamamba.errors import InputError
from dnamamba.files import open_output, table_line
from dnamamba.inference.batching import in_chunks, map_in_batches, stack_rows
from dnamamba.inference.options import InferenceOptions, RcMode
from dnamamba.inference.windows import check_seq_len
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.streaming import longest_sequence
from dnamamba.task import Task
from dnamamba.tokenizer import Codes, reverse_complement

Values = NDArray[np.float32]
BaseFormat = Literal["auto", "string", "runs"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(InferenceOptions):
    """How predictions are computed and written; none changes which rows there are. rc: `none`, or
    `average` for the mean of the predictions for a sequence and for its reverse complement."""

    base_format: BaseFormat = "auto"
    """A per_base task's labels as a `string`, one letter a base, or as `runs`, `label:bases;...`;
    auto: a string where every label is one letter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rc("none", "average")
        if self.base_format not in get_args(BaseFormat):
            choices = ", ".join(get_args(BaseFormat))
            raise InputError(f"base_format must be one of {choices}, got {self.base_format!r}")


# --- sequences


def predict_sequences(
    classifier: DnaClassifier,
    sequences: Iterable[Codes],
    *,
    batch_tokens: int | None = None,
    rc: RcMode = "none",
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[Values]:
    """What the classifier predicts for each sequence, in their order, float32 on the CPU: (C,), or
    (L, C) of a per_base task; probabilities or numbers, as DnaClassifier.predict gives them.

    sequences: codes (uint8, one dimension, 1 base or more); the soft-mask is dropped. Taken a few
    batches ahead. Batches are of like lengths, padded on the right, which changes nothing but a
    result's rounding. The classifier is put into evaluation mode, and runs on its own device.
    batch_tokens, rc, autocast_dtype: see PredictOptions.
    Raises InputError for a sequence without bases, and for one that there is no memory for.
    """
    options = PredictOptions(batch_tokens=batch_tokens, rc=rc, autocast_dtype=autocast_dtype)
    for some in in_chunks(sequences, len, options.tokens_in_batch(_device(classifier))):
        yield from _predict_chunk(classifier, some, options)


def predict_rows(
    classifier: DnaClassifier, rows: Iterable[RegionRow], options: PredictOptions | None = None
) -> Iterator[tuple[RegionRow, list[Values]]]:
    """Each row with what is predicted for `row.sequences`, in the order of the rows."""
    options = options or PredictOptions()

    def size(row: RegionRow) -> int:
        return sum(map(len, row.sequences))

    for some in in_chunks(rows, size, options.tokens_in_batch(_device(classifier))):
        sequences = [sequence for row in some for sequence in row.sequences]
        values = iter(_predict_chunk(classifier, sequences, options))
        for row in some:
            yield row, [next(values) for _ in row.sequences]


def _predict_chunk(
    classifier: DnaClassifier, sequences: list[Codes], options: PredictOptions
) -> list[Values]:
    classifier.eval()

    def read(batch: Sequence[Codes]) -> list[Values]:
        values = _forward(classifier, batch, options)
        if options.rc == "none":
            return values
        others = _forward(classifier, [reverse_complement(one) for one in batch], options)
        if classifier.task.kind == "per_base":
            others = [other[::-1] for other in others]
        pairs = zip(values, others, strict=True)
        return [(one + other) * np.float32(0.5) for one, other in pairs]

    return map_in_batches(sequences, read, options.tokens_in_batch(_device(classifier)))


@torch.inference_mode()
def _forward(
    classifier: DnaClassifier, sequences: Sequence[Codes], options: PredictOptions
) -> list[Values]:
    device = _device(classifier)
    ids, real = stack_rows(sequences, longest_sequence(classifier.config), device)
    with options.autocast(device):
        values = classifier.predict(ids, real)
    found = values.float().cpu().numpy()
    if classifier.task.kind == "per_base":
        return [row[: len(sequence)] for row, sequence in zip(found, sequences, strict=True)]
    return list(found)


def _device(classifier: DnaClassifier) -> torch.device:
    return next(classifier.parameters()).device


def window_rule(
    classifier: DnaClassifier, seq_len: int | None = None, edge: RegionEdge = "shift"
) -> WindowRule:
    """How much of a region a classifier reads.

    seq_len: windows of so many bases; None: regions as they are, those longer than what the
    classifier was trained on cut to their middle, and windows as long as that around variants.
    Raises InputError for more than a Hyena's filters were made for.
    """
    trained, most = classifier.head_config.trained_seq_len, longest_sequence(classifier.config)
    if seq_len is None:
        return WindowRule(seq_len=trained or most, edge=edge)
    check_seq_len(classifier.config, seq_len, trained)
    return WindowRule(seq_len=seq_len, widen=True, edge=edge)


# --- tables


def write_predictions(
    classifier: DnaClassifier,
    table: RegionTable,
    out: Path | BinaryIO,
    options: PredictOptions | None = None,
    on_rows: Callable[[int], None] = lambda n_rows: None,
) -> Counter[RowStatus]:
    """Write a tab-separated table, a row for each of the input's, and count their statuses.

    out: a file, which is there once it is whole, packed where its name ends in .gz; or an open
    stream. on_rows: called with the number of rows now and then. Columns: the input's, then where
    the window that was read begins and ends (0-based, half-open), status, note, and what was
    predicted (`predicted_columns`); empty where nothing was. A column of the input that is called
    like one of these gets `input_` before its name.
    Raises InputError for variants and a per_base task.
    """
    options = options or PredictOptions()
    cells = PredictionCells(classifier.task, table.has_alternatives, options.base_format)
    own = ("window_start", "window_end", "status", "note", *cells.columns)
    given = (f"input_{name}" if name in own else name for name in table.columns)
    statuses: Counter[RowStatus] = Counter()
    with open_output(out) as file:
        file.write(table_line((*given, *own)))
        for row, values in predict_rows(classifier, table, options):
            where = ("", "")
            if row.window is not None:
                where = (str(row.window.start), str(row.window.end))
            file.write(table_line((*row.columns, *where, row.status, row.note, *cells.of(values))))
            statuses[row.status] += 1
            if statuses.total() % 1000 == 0:
                on_rows(statuses.total())
    return statuses


class PredictionCells:
    """Predictions as text. columns: names of the cells that `of` gives."""

    def __init__(self, task: Task, has_alternatives: bool, base_format: BaseFormat = "auto"):
        if task.kind == "per_base" and has_alternatives:
            raise InputError(
                "this model labels each base, which says nothing of a variant as a whole: give "
                "regions (BED or FASTA), or a model that labels sequences"
            )
        self.task = task
        if base_format != "auto" and task.kind != "per_base":
            raise InputError(
                f"per_base {base_format!r} says how labels of bases are written, but this model "
                "labels sequences: leave it out"
            )
        long = [label for label in task.labels if len(label) > 1]
        if base_format == "string" and long:
            raise InputError(
                f"a letter a base cannot stand for the label {long[0]!r}: ask for runs "
                "(--per-base runs)"
            )
        self._as_string = base_format == "string"
        if base_format == "auto":
            self._as_string = all(len(label) == 1 for label in task.labels)
        single = _names_of_one(task)
        self.columns = single
        if has_alternatives:
            differences = [name for name in single if name not in _TEXTS]
            self.columns = [
                *(f"ref_{name}" for name in single),
                *(f"alt_{name}" for name in single),
                *(f"difference_{name}" for name in differences),
            ]

    def of(self, values: list[Values]) -> list[str]:
        """values: none (empty cells), a sequence's, or those of the reference and of the
        alternative, whose difference is the alternative's minus the reference's."""
        if not values:
            return [""] * len(self.columns)
        cells = [cell for one in values for cell in self._of_one(one)]
        if len(values) == 2:
            cells += [f"{number:+.6g}" for number in values[1] - values[0]]
        return cells

    def _of_one(self, values: Values) -> list[str]:
        labels = self.task.labels
        if self.task.kind == "per_base":
            best = values.argmax(1)
            text = self._string(best) if self._as_string else self._runs(best)
            return [text, f"{values.max(1).mean():.6g}"]
        numbers = [f"{number:.6g}" for number in values]
        if self.task.kind == "multiclass":
            return [labels[int(values.argmax())], *numbers]
        if self.task.kind == "multilabel":
            likely = zip(labels, values >= 0.5, strict=True)
            return [";".join(label for label, is_likely in likely if is_likely), *numbers]
        return numbers

    def _string(self, best: NDArray[np.int64]) -> str:
        return "".join(self.task.labels[i] for i in best.tolist())

    def _runs(self, best: NDArray[np.int64]) -> str:
        starts = np.flatnonzero(np.append(True, best[1:] != best[:-1]))
        sizes = np.diff(np.append(starts, len(best)))
        runs = zip(best[starts].tolist(), sizes.tolist(), strict=True)
        return ";".join(f"{self.task.labels[label]}:{size}" for label, size in runs)


_TEXTS = ("label", "labels")


def _names_of_one(task: Task) -> list[str]:
    if task.kind == "per_base":
        return ["labels", "mean_probability"]
    if task.kind == "regression":
        return [f"predicted_{label}" for label in task.labels]
    text = "label" if task.kind == "multiclass" else "labels"
    return [text, *(f"p_{label}" for label in task.labels)]
