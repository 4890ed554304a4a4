"""Predict with a trained classifier: sequences, regions, variants; `dnamamba classify predict`.

    classifier = DnaClassifier.from_pretrained("runs/apes")
    with open_regions(Path("reads.fa.gz")) as table:
        for row, values in predict_rows(classifier, table):
            ...

A few batches are held at a time, whatever the number of rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

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
from dnamamba.inference.inputs import read_inputs
from dnamamba.inference.options import InferenceOptions, RcMode
from dnamamba.inference.strands import predict_reverse
from dnamamba.inference.windows import check_seq_len
from dnamamba.metrics.task_kinds import task_kind
from dnamamba.models.classifier import DnaClassifier
from dnamamba.models.streaming import longest_sequence
from dnamamba.task import Task
from dnamamba.tokenizer import Codes

Values = NDArray[np.float32]
BaseFormat = Literal["auto", "string", "runs"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(InferenceOptions):
    """How predictions are computed and written. rc: `none`, or `average`."""

    base_format: BaseFormat = "auto"
    """A per_base task's labels as a `string`, one letter a base, or as `runs`, `label:bases;...`;
    auto: a string if every label is one letter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_rc("none", "average")
        if self.base_format not in get_args(BaseFormat):
            choices = ", ".join(get_args(BaseFormat))
            raise InputError(f"base_format must be one of {choices}, got {self.base_format!r}")


# --- sequences


def predict_sequences(
    classifier: DnaClassifier,
    sequences: Any,
    *,
    batch_tokens: int | None = None,
    rc: RcMode = "none",
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[Values]:
    """Predict sequences one after another: yields (C,) float32 on the CPU, (L, C) if per base.

    sequences: letters (str) or ids, several of them, or rows of `open_regions`; read a few batches
    ahead, so that memory does not grow with their number.
    rc, batch_tokens, autocast_dtype: as in `classify`. Values are those of DnaClassifier.predict:
    probabilities, or the numbers of a regression.

        for numbers in dnamamba.predict_sequences(classifier, ["ACGTTG", "TTGACA"]): ...

    Raises InputError as `embed` for data, and if memory is too small for one sequence.
    """
    options = PredictOptions(batch_tokens=batch_tokens, rc=rc, autocast_dtype=autocast_dtype)
    codes = (row.read(0, row.length) for row in read_inputs(sequences).rows)
    for chunk in in_chunks(codes, len, options.tokens_in_batch(_device(classifier))):
        yield from _predict_chunk(classifier, chunk, options)


def predict_rows(
    classifier: DnaClassifier, rows: Iterable[RegionRow], options: PredictOptions | None = None
) -> Iterator[tuple[RegionRow, list[Values]]]:
    """Each row with the predictions for `row.sequences`, in the order of the rows."""
    options = options or PredictOptions()

    def size(row: RegionRow) -> int:
        return sum(map(len, row.sequences))

    for chunk in in_chunks(rows, size, options.tokens_in_batch(_device(classifier))):
        sequences = [sequence for row in chunk for sequence in row.sequences]
        values = iter(_predict_chunk(classifier, sequences, options))
        for row in chunk:
            yield row, [next(values) for _ in row.sequences]


def _predict_chunk(
    classifier: DnaClassifier, sequences: list[Codes], options: PredictOptions
) -> list[Values]:
    classifier.eval()
    device, per_base = _device(classifier), classifier.task.per_base

    @torch.inference_mode()
    def read(batch: Sequence[Codes]) -> list[Values]:
        ids, lengths = stack_rows(batch, longest_sequence(classifier.config), device)
        with options.autocast(device):
            values = classifier.predict(ids, lengths)
            if options.rc == "average":
                other = predict_reverse(classifier.predict, ids, lengths, per_base=per_base)
                values = (values + other) / 2
        found = values.float().cpu().numpy()
        if per_base:
            return [row[: len(sequence)] for row, sequence in zip(found, batch, strict=True)]
        return list(found)

    return map_in_batches(sequences, read, options.tokens_in_batch(device))


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

    out: a file, which appears once it is whole, compressed if its name ends in .gz; or an open
    stream. on_rows: called with the number of rows now and then. Columns: the input's (`input_`
    before one of our names), window_start and window_end of what was read (0-based, half-open),
    status, note, and the predictions (PredictionCells), empty if there are none.
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
        if task.per_base and has_alternatives:
            raise InputError(
                "this model labels each base, which says nothing of a variant as a whole: give "
                "regions (BED or FASTA), or a model that labels sequences"
            )
        if base_format != "auto" and not task.per_base:
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
        self.task = task
        self._as_string = base_format == "string" or (base_format == "auto" and not long)
        names = ["labels", "mean_probability"]
        if not task.per_base:
            names = task_kind(task).columns(task.labels)
        self.columns = names
        if has_alternatives:
            self.columns = [
                *(f"ref_{name}" for name in names),
                *(f"alt_{name}" for name in names),
                *(f"difference_{name}" for name in names[-len(task.labels) :]),
            ]

    def of(self, values: list[Values]) -> list[str]:
        """values: none (empty cells), a sequence's, or those of the reference and of the
        alternative, whose difference is the alternative's minus the reference's."""
        if not values:
            return [""] * len(self.columns)
        labels = self.task.labels
        if self.task.per_base:
            return self._of_bases(values[0])
        cells = [cell for one in values for cell in task_kind(self.task).cells(labels, one)]
        if len(values) == 2:
            cells += [f"{number:+.6g}" for number in values[1] - values[0]]
        return cells

    def _of_bases(self, values: Values) -> list[str]:
        best, labels = values.argmax(1), self.task.labels
        if self._as_string:
            text = "".join(labels[i] for i in best.tolist())
        else:
            starts = np.flatnonzero(np.append(True, best[1:] != best[:-1]))
            sizes = np.diff(np.append(starts, len(best)))
            runs = zip(best[starts].tolist(), sizes.tolist(), strict=True)
            text = ";".join(f"{labels[label]}:{size}" for label, size in runs)
        return [text, f"{values.max(1).mean():.6g}"]
