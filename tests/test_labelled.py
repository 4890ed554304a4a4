"""Labelled sequences as batches: targets of each kind of task, what is held out, what is drawn."""

import logging
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.configs import from_dict, to_dict
from dnamamba.data.labelled.config import SplitShares, TableConfig
from dnamamba.data.labelled.dataset import SequenceDataset, build_labelled_datasets
from dnamamba.data.labelled.splits import cut_shares, overlap_groups
from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import PAD_ID, decode
from label_files import random_rows, write_table

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST


@pytest.fixture
def warnings(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def datasets(tmp_path, rows, header=("sequence", "label"), **options):
    """Of a table that is divided by shares, unless options name more."""
    train = write_table(tmp_path / "train.csv", rows, header)
    return build_labelled_datasets(TableConfig(train=train, **options))


def given_splits(tmp_path, rows, valid_rows=None, header=("sequence", "label"), **options):
    """Of a table for training and one for validation, the same unless given."""
    valid = write_table(tmp_path / "valid.csv", rows if valid_rows is None else valid_rows, header)
    return datasets(tmp_path, rows, header, valid=valid, **options)


def sequences_of(dataset: SequenceDataset, samples=None) -> list[str]:
    """Letters of examples, without padding."""
    batch = dataset[range(dataset.n_examples) if samples is None else samples]
    rows = zip(batch.codes.numpy(), batch.lengths.tolist(), strict=True)
    return [decode(codes[:length]) for codes, length in rows]


# --- targets of each kind of task


def test_classes(tmp_path):
    rows = [("ACGT", "dog"), ("GG", "cat"), ("TT", "10"), ("CC", "9")]
    valid = given_splits(tmp_path, rows)[VALID]
    assert valid.task == Task(labels=("10", "9", "cat", "dog"))
    batch = valid[range(4)]
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [3, 2, 0, 1]


def test_several_labels_a_sequence_in_one_column(tmp_path):
    rows = [("ACGT", "b; a"), ("GG", ""), ("TT", "c;;c")]
    valid = given_splits(tmp_path, rows, task_kind="multilabel")[VALID]
    assert valid.task == Task(kind="multilabel", labels=("a", "b", "c"))
    batch = valid[range(3)]
    assert batch.targets.dtype == torch.float32
    assert batch.targets.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_several_labels_a_sequence_in_columns(tmp_path):
    header, rows = ("sequence", "t", "liver"), [("ACGT", 1, 0), ("GG", "true", "1.0")]
    options = {"task_kind": "multilabel", "label_columns": ("t", "liver")}
    valid = given_splits(tmp_path, rows, header=header, **options)[VALID]
    assert valid.task == Task(kind="multilabel", labels=("liver", "t"))
    assert valid[range(2)].targets.tolist() == [[0, 1], [1, 1]]


def test_numbers(tmp_path):
    header, rows = ("sequence", "y", "a"), [("ACGT", 1.5, "-1e-3"), ("GG", 2, 0)]
    options = {"task_kind": "regression", "label_columns": ("y", "a")}
    valid = given_splits(tmp_path, rows, header=header, **options)[VALID]
    assert valid.task == Task(kind="regression", labels=("y", "a"))
    batch = valid[range(2)]
    assert batch.targets.dtype == torch.float32
    np.testing.assert_allclose(batch.targets, [[1.5, -0.001], [2, 0]])


def test_a_label_a_base(tmp_path):
    rows = [("ACGT", "ee.i"), ("GG", "-e")]
    valid = given_splits(tmp_path, rows, task_kind="per_base")[VALID]
    assert valid.task == Task(kind="per_base", labels=("e", "i"))
    batch = valid[range(2)]
    none = IGNORED_LABEL
    assert batch.targets.dtype == torch.int64
    assert batch.targets.tolist() == [[0, 0, none, 1], [none, 0, none, none]]


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("multiclass", [("A", "a"), ("C", "")], r"train.csv row 3 has no label \(column 'label'"),
        ("multiclass", [("A", "a"), ("C", "nan")], "train.csv row 3 has no label"),
        ("multiclass", [("A", "a"), ("C", "a")], "needs 2 labels or more, got a: with a single"),
        (
            "multiclass",
            [("A", i) for i in range(30)],
            "30 different labels in 30 .*--task regr",
        ),
        ("multilabel", [("A", ""), ("C", ";")], "needs 1 labels or more, got none"),
        ("regression", [("A", "1"), ("C", "")], "row 3 column 'label': expected a number, got ''"),
        ("regression", [("A", "1"), ("C", "x")], "row 3 column 'label': expected a number, got 'x"),
        ("regression", [("A", "1"), ("C", "nan")], "row 3 .* is finite in float32, got 'nan'"),
        ("regression", [("A", "1"), ("C", "1e60")], "row 3 .* is finite in float32, got '1e60'"),
        ("per_base", [("A", "e"), ("CC", "eii")], "row 3 has 3 labels for 2 bases"),
        ("per_base", [("A", "."), ("CC", "--")], "needs 2 labels or more, got none"),
        (
            "per_base",
            [("A", "\u00e9"), ("C", "a")],
            "train.csv: labels of bases must be plain letters",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named_with_their_row(tmp_path, kind, rows, message):
    with pytest.raises(InputError, match=message):
        given_splits(tmp_path, rows, task_kind=kind)


def test_flags_are_0_or_1(tmp_path):
    header, options = ("sequence", "a", "b"), {"label_columns": ("a", "b")}
    with pytest.raises(InputError, match="row 2 column 'b': expected 0 or 1, got '2'"):
        given_splits(tmp_path, [("A", 1, 2)], None, header, task_kind="multilabel", **options)


def test_labels_are_those_of_training_alone(tmp_path):
    rows = [("A", "a"), ("C", "b")]
    message = "valid.csv has labels that the training examples do not have: 'c'; known are a, b"
    with pytest.raises(InputError, match=message):
        given_splits(tmp_path, rows, [("G", "c"), ("T", "a")])


def test_a_split_of_bases_without_labels_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"valid\.csv has no labelled base"):
        given_splits(tmp_path, [("AC", "ei")], [("GG", "..")], task_kind="per_base")


# --- what is held out


def test_one_table_is_divided_by_shares(tmp_path):
    rows = random_rows(200)
    parts = datasets(tmp_path, rows)
    assert {split: part.n_examples for split, part in parts.items()} == {
        TRAIN: 160,
        VALID: 20,
        TEST: 20,
    }
    together = [sequence for part in parts.values() for sequence in sequences_of(part)]
    assert sorted(together) == sorted(sequence for sequence, _ in rows)


def test_given_files_stay_as_they_are(tmp_path):
    """With a test but no validation, validation is cut from training."""
    rows, test_rows = random_rows(100), random_rows(30, seed=1)
    test = write_table(tmp_path / "test.csv", test_rows)
    parts = datasets(tmp_path, rows, test=test)
    assert [parts[split].n_examples for split in Split] == [90, 10, 30]
    assert sequences_of(parts[TEST]) == [sequence for sequence, _ in test_rows]
    assert not {*sequences_of(parts[TRAIN]), *sequences_of(parts[VALID])} - {s for s, _ in rows}


def test_with_validation_given_and_no_test_there_is_none(tmp_path):
    parts = given_splits(tmp_path, random_rows(100), random_rows(10, seed=1))
    assert {split: part.n_examples for split, part in parts.items()} == {TRAIN: 100, VALID: 10}


def test_a_column_may_name_the_splits(tmp_path):
    header = ("sequence", "label", "fold")
    names = ["train", "Train", "dev", "test", "train", "validation"]
    rows = [(*row, name) for row, name in zip(random_rows(6), names, strict=True)]
    parts = datasets(tmp_path, rows, header, split_column="fold")
    assert [parts[split].n_examples for split in Split] == [3, 2, 1]
    assert sequences_of(parts[TEST]) == [rows[3][0]]
    with pytest.raises(InputError, match="row 7 column 'fold': expected train, valid or test, got"):
        datasets(tmp_path, [*rows[:5], (*rows[5][:2], "7")], header, split_column="fold")


def test_labels_of_a_column_of_splits_are_those_of_its_training_rows(tmp_path):
    header = ("sequence", "label", "fold")
    rows = [("A", "a", "train"), ("C", "b", "train"), ("G", "c", "test"), ("T", "a", "valid")]
    with pytest.raises(InputError, match=r"train\.csv has labels that the training .*: 'c'; known"):
        datasets(tmp_path, rows, header, split_column="fold")


def test_a_column_of_splits_without_validation(tmp_path):
    """It is cut from training, and nothing else is."""
    header = ("sequence", "label", "fold")
    rows = [(*row, "test" if i < 20 else "train") for i, row in enumerate(random_rows(120))]
    parts = datasets(tmp_path, rows, header, split_column="fold")
    assert [parts[split].n_examples for split in Split] == [90, 10, 20]
    assert sequences_of(parts[TEST]) == [sequence for sequence, _, _ in rows[:20]]


def test_the_same_sequence_is_never_on_both_sides(tmp_path):
    """Nor is its other strand; case does not matter."""
    letters = str.maketrans("ACGT", "TGCA")
    rows = random_rows(100)
    twins = [(sequence[::-1].translate(letters).lower(), label) for sequence, label in rows]
    parts = datasets(tmp_path, rows + twins)
    for part in parts.values():
        found = set(sequences_of(part))
        assert {one[::-1].translate(letters) for one in found} == found


def test_groups_are_held_out_together(tmp_path):
    header = ("sequence", "label", "gene")
    rows = [(*row, f"gene{i // 2 % 20}") for i, row in enumerate(random_rows(200))]
    gene = {sequence: name for sequence, _, name in rows}
    parts = datasets(tmp_path, rows, header, group_column="gene")
    genes = {split: {gene[one] for one in sequences_of(part)} for split, part in parts.items()}
    assert {split: len(names) for split, names in genes.items()} == {TRAIN: 16, VALID: 2, TEST: 2}
    assert len(set.union(*genes.values())) == 20
    with pytest.raises(InputError, match=r"row 2 has no group \(column 'gene'\)"):
        datasets(tmp_path, [("A", "a", "")], header, group_column="gene")


def test_a_column_of_splits_that_tears_groups_is_refused(tmp_path):
    header = ("sequence", "label", "fold", "gene")
    folds = ("train", "train", "valid", "test")
    rows = [(*row, folds[i % 4], f"gene{i // 4}") for i, row in enumerate(random_rows(40))]
    with pytest.raises(
        InputError,
        match=r"group of train\.csv must be in one split, 10 have rows in train and in valid",
    ):
        datasets(tmp_path, rows, header, split_column="fold", group_column="gene")
    whole = [(*row[:3], f"{row[2]} {row[3]}") for row in rows]
    parts = datasets(tmp_path, whole, header, split_column="fold", group_column="gene")
    assert [parts[split].n_examples for split in Split] == [20, 10, 10]


def test_what_is_held_out_depends_on_the_shares_seed_and_not_on_the_order_of_rows(tmp_path):
    rows = random_rows(100)
    first = sequences_of(datasets(tmp_path, rows)[TEST])
    assert set(sequences_of(datasets(tmp_path, rows[::-1])[TEST])) == set(first)
    assert sequences_of(datasets(tmp_path, rows, seed=5)[TEST]) == first
    assert sequences_of(datasets(tmp_path, rows, shares=SplitShares(seed=1))[TEST]) != first


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2)), min_size=12, max_size=80),
    st.integers(0, 1 << 40),
)
@settings(deadline=None, max_examples=100)
def test_training_keeps_every_label_and_splits_share_no_group(examples, seed):
    groups = np.array([group for group, _ in examples], np.uint64)
    shown = np.array([label for _, label in examples])[:, None] == np.arange(3)
    try:
        splits = cut_shares(groups, shown, {TEST: 0.1, VALID: 0.1}, seed)
    except InputError:
        assert len(set(groups.tolist())) < 3 + 3  # each label may keep a group of its own
        return
    assert sorted(i for part in splits.values() for i in part) == list(range(len(examples)))
    parts = [set(groups[part].tolist()) for part in splits.values()]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    np.testing.assert_array_equal(shown[splits[TRAIN]].any(axis=0), shown.any(axis=0))


def test_too_few_examples_for_a_split(tmp_path):
    message = "no example is left for the test split: 2 examples are in 2 groups"
    with pytest.raises(InputError, match=message):
        datasets(tmp_path, [("A", "a"), ("C", "b")])


def test_regions_that_overlap_are_one_group():
    contigs = ["1", "1", "2", "1", "1", "2"]
    starts, ends = np.array([90, 0, 0, 50, 100, 95]), np.array([100, 60, 99, 70, 120, 97])
    groups = overlap_groups(contigs, starts, ends).tolist()
    assert groups[1] == groups[3]  # bases 50 to 59 are shared
    assert groups[2] == groups[5]  # one inside the other
    assert len({groups[0], groups[1], groups[2], groups[4]}) == 4  # neighbours share no base


def test_sequences_in_several_splits_are_told(tmp_path, warnings):
    rows = random_rows(20)
    given_splits(tmp_path, rows, [rows[3], rows[4], rows[3], *random_rows(5, seed=1)])
    assert "2 sequences of train stand in valid too, 3 of its 8 examples" in warnings.text


def test_nothing_is_told_of_a_table_that_is_fine(tmp_path, warnings):
    datasets(tmp_path, random_rows(100))
    assert warnings.text == ""


def test_published_splits_of_gue_share_sequences(shared_data, warnings):
    """Transcription factor 4: 346 sequences are trained on and validated on."""
    folder = shared_data / "tasks" / "GUE" / "tf" / "4"
    train, valid, test = (str(folder / f"{part}.csv.gz") for part in ("train", "dev", "test"))
    parts = build_labelled_datasets(TableConfig(train=train, valid=valid, test=test))
    assert [parts[split].n_examples for split in Split] == [19_000, 1_000, 1_000]
    assert warnings.text.count("stand in") == 1
    assert "346 sequences of train stand in valid too, 358 of its 1,000" in warnings.text


# --- batches


def test_a_batch_is_padded_on_the_right_to_the_longest_of_all_splits(tmp_path):
    parts = given_splits(tmp_path, [("acg", "a"), ("T", "b")], [("GGGGU", "a")])
    for part in parts.values():
        assert part.seq_len == 5
    batch = parts[VALID][[0]]
    assert batch.codes.dtype == torch.uint8
    assert decode(batch.codes[0].numpy()) == "GGGGT"
    batch = parts[TRAIN][range(2)]
    assert sorted(map(decode, batch.codes.numpy())) == ["ACG--", "T----"]
    assert batch.lengths.dtype == torch.int64
    assert sorted(batch.lengths.tolist()) == [1, 3]
    assert (batch.codes == PAD_ID).sum() == 2 + 4


def test_an_empty_batch_has_its_shape(tmp_path):
    batch = given_splits(tmp_path, [("ACG", "a"), ("T", "b")])[VALID][[]]
    assert [tuple(part.shape) for part in batch] == [(0, 3), (0,), (0,)]


def test_an_outlier_of_length_is_told(tmp_path, warnings):
    datasets(tmp_path, random_rows(100) + [("ACGT" * 25, "a")])
    assert "padded to the longest, 100 bases, but 95 % of them have 20 or less" in warnings.text


def test_evaluation_is_in_the_order_of_the_file(tmp_path):
    rows = random_rows(10)
    assert sequences_of(given_splits(tmp_path, rows)[VALID]) == [sequence for sequence, _ in rows]


def test_an_epoch_is_every_example_once_in_an_order_of_its_own(tmp_path):
    train = given_splits(tmp_path, random_rows(50))[TRAIN]
    epochs = [sequences_of(train, range(50 * e, 50 * e + 50)) for e in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    assert len(set(epochs[0])) == 50
    other = given_splits(tmp_path, random_rows(50), seed=1)[TRAIN]
    assert sequences_of(other) != epochs[0]


@given(st.lists(st.integers(0, 120), min_size=1, max_size=9))
@settings(deadline=None, max_examples=30)
def test_a_sample_is_the_same_alone_and_in_any_batch(tmp_path_factory, samples):
    """Batches cross the ends of epochs."""
    rows = [(sequence, "ei" * 10) for sequence, _ in random_rows(25)]
    options = {"task_kind": "per_base", "seq_len": 7, "rc_augment": True, "mutation_rate": 0.2}
    train = given_splits(tmp_path_factory.mktemp("a"), rows, **options)[TRAIN]
    batch = train[samples]
    for i, sample in enumerate(samples):
        for row, alone in zip(batch, train[[sample]], strict=True):
            assert torch.equal(row[i], alone[0])


def per_base_dataset(tmp_path, split, **options):
    """One sequence of 60 bases; the label of a base is its letter."""
    sequence = random_rows(1, length=60)[0][0]
    rows = [(sequence, sequence)]
    return sequence, given_splits(tmp_path, rows, task_kind="per_base", **options)[split]


def test_evaluation_takes_the_middle_of_what_is_too_long(tmp_path):
    sequence, valid = per_base_dataset(tmp_path, VALID, seq_len=10, rc_augment=True)
    assert sequences_of(valid) == [sequence[25:35]]
    assert valid[[0]].lengths.tolist() == [10]
    assert valid.describe([0]) == ["valid.csv row 2, bases 26-35 of 60"]


def test_training_takes_a_stretch_at_random_of_what_is_too_long(tmp_path):
    """Each start as often as any other, both ends reached."""
    sequence, train = per_base_dataset(tmp_path, TRAIN, seq_len=57)
    starts = Counter(sequence.index(one) for one in sequences_of(train, range(1200)))
    assert sorted(starts) == [0, 1, 2, 3]
    assert min(starts.values()) > 300 - 5 * 300**0.5


def test_labels_of_bases_are_cut_and_turned_with_them(tmp_path):
    """The label of a base is its letter, that of the strand it was read from."""
    sequence, train = per_base_dataset(tmp_path, TRAIN, seq_len=70, rc_augment=True)
    complement = dict(zip("ACGT", "TGCA", strict=True))
    batch = train[range(40)]
    turned = 0
    for codes, targets in zip(batch.codes.numpy(), batch.targets, strict=True):
        assert targets[60:].tolist() == [IGNORED_LABEL] * 10
        letters, labels = decode(codes[:60]), "".join("ACGT"[i] for i in targets[:60].tolist())
        if letters != sequence:
            letters, turned = "".join(complement[letter] for letter in letters), turned + 1
        assert letters == labels
    assert 8 <= turned <= 32


def test_strands_are_drawn_in_training_and_only_if_wanted(tmp_path):
    sequence, valid = per_base_dataset(tmp_path, VALID, rc_augment=True)
    assert set(sequences_of(valid, range(20))) == {sequence}
    sequence, train = per_base_dataset(tmp_path, TRAIN)
    assert set(sequences_of(train, range(20))) == {sequence}
    _, train = per_base_dataset(tmp_path, TRAIN, rc_augment=True)
    lines = train.describe(range(20))
    assert set(lines) == {"train.csv row 2", "train.csv row 2, reverse strand"}


def test_a_loader_with_workers_gives_the_same_batches(tmp_path):
    train = given_splits(tmp_path, random_rows(20), rc_augment=True)[TRAIN]
    batches = BatchRanges(batch_size=6, micro_batch_size=3, first_batch=1, last_batch=5)
    alone, shared = (list(build_loader(train, batches, n_workers=n)) for n in (0, 2))
    assert len(alone) == 8
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_dataset_survives_pickling(tmp_path):
    train = datasets(tmp_path, random_rows(30))[TRAIN]
    again = pickle.loads(pickle.dumps(train))
    assert sequences_of(again) == sequences_of(train)
    assert again.describe(range(3)) == train.describe(range(3))


# --- configs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_columns": ()}, "name at least one column of labels"),
        ({"label_columns": ("a", "b")}, "a multiclass task needs one column of labels, got a, b"),
        ({"split_column": "fold", "valid": "v.csv"}, "either a column of splits or files"),
        ({"group_column": "label"}, "columns must have one use each, got sequence, label, label"),
        ({"task_kind": "ranking"}, "task kind must be one of .*, got 'ranking'"),
        ({"seq_len": 0}, "seq_len must be >= 1 base, got 0"),
        ({"seed": -1}, "data seed must be >= 0"),
    ],
)
def test_a_config_is_checked(options, message):
    with pytest.raises(InputError, match=message):
        TableConfig(train="train.csv", **options)


@pytest.mark.parametrize(
    "shares", [{"valid_fraction": 0.0}, {"test_fraction": -0.1}, {"valid_fraction": 0.6}]
)
def test_shares_are_checked(shares):
    with pytest.raises(InputError, match=r"valid_fraction must be > 0 and <= 0\.5 of the examples"):
        SplitShares(**shares)


def test_a_config_survives_its_dictionary():
    config = TableConfig(train="a.csv", label_columns=("x",), shares=SplitShares(seed=3))
    assert from_dict(TableConfig, to_dict(config)) == config
    assert to_dict(config)["kind"] == "table"
