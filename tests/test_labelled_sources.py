"""Labelled sequences from a FASTA for each class and from regions of a genome."""

import gzip
import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from dnamamba.configs import from_dict, to_dict
from dnamamba.data.labelled.config import LabelFiles, RecordsConfig, RegionsConfig, TableConfig
from dnamamba.data.labelled.dataset import (
    SequenceDataset,
    build_evaluation_dataset,
    build_labelled_datasets,
)
from dnamamba.data.labelled.sources import source_files
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.runtime import logger
from dnamamba.task import Task
from dnamamba.tokenizer import decode
from genomes import (
    random_sequence,
    write_fasta,
    write_gzip,
    write_store,
)
from label_files import random_rows, write_table

TRAIN, VALID, TEST = Split.TRAIN, Split.VALID, Split.TEST


@pytest.fixture
def warnings(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def examples_of(dataset: SequenceDataset) -> dict[str, tuple[str, str]]:
    """Where each comes from -> letters and label."""
    samples = range(dataset.n_examples)
    batch, places = dataset[samples], dataset.describe(samples)
    rows = zip(batch.codes.numpy(), batch.lengths.tolist(), batch.targets.tolist(), strict=True)
    examples = [(decode(row[:n]), dataset.task.labels[target]) for row, n, target in rows]
    return dict(zip(places, examples, strict=True))


def all_examples(config: RecordsConfig | RegionsConfig) -> dict[str, tuple[str, str]]:
    parts = build_labelled_datasets(config)
    return {place: one for part in parts.values() for place, one in examples_of(part).items()}


# --- a FASTA for each class


def records(n: int, seed: int) -> dict[str, str]:
    return {f"r{i}": sequence for i, (sequence, _) in enumerate(random_rows(n, seed=seed))}


def test_every_record_is_an_example_of_its_file_s_class(tmp_path):
    cats, dogs, more = records(8, 1), records(7, 2), records(5, 3)
    write_fasta(tmp_path / "cats.fa", cats)
    write_fasta(tmp_path / "dogs.fa", dogs)
    write_gzip(tmp_path / "more.fa.gz", "".join(f">{k} text\n{v}\n" for k, v in more.items()))
    files = {"dog": ("dogs.fa", "more.fa.gz"), "cat": ("cats.fa",)}
    config = RecordsConfig(
        records=tuple(
            LabelFiles(label=label, files=tuple(str(tmp_path / name) for name in names))
            for label, names in files.items()
        )
    )
    expected = {
        f"{file} record {name}": (sequence, label)
        for file, label, found in (
            ("cats.fa", "cat", cats),
            ("dogs.fa", "dog", dogs),
            ("more.fa.gz", "dog", more),
        )
        for name, sequence in found.items()
    }
    assert all_examples(config) == expected
    assert [build_labelled_datasets(config)[split].n_examples for split in Split] == [16, 2, 2]
    assert from_dict(RecordsConfig, to_dict(config)) == config


def test_a_record_in_two_files_stays_on_one_side(tmp_path):
    same = records(40, 1)
    config = records_config(tmp_path, same, records(40, 2) | {f"x{k}": v for k, v in same.items()})
    parts = build_labelled_datasets(config)
    sequences = [{one for one, _ in examples_of(part).values()} for part in parts.values()]
    assert sum(map(len, sequences)) == len(set.union(*sequences)) == 80


def records_config(tmp_path: Path, one: dict[str, str], other: dict[str, str]) -> RecordsConfig:
    paths = (write_fasta(tmp_path / "a.fa", one), write_fasta(tmp_path / "b.fa", other))
    files = [LabelFiles(label=path.stem, files=(str(path),)) for path in paths]
    return RecordsConfig(records=tuple(files))


def test_what_is_wrong_with_records_names_file_and_record(tmp_path, warnings):
    with pytest.raises(InputError, match=r"b\.fa record r1: the sequence is empty"):
        build_labelled_datasets(records_config(tmp_path, {"r1": "A"}, {"r1": ""}))
    with pytest.raises(InputError, match=r"b\.fa record r2: no A, C, G or T in its sequence of 4"):
        build_labelled_datasets(records_config(tmp_path, {"r1": "A"}, {"r1": "A", "r2": "NNNN"}))
    odd = {"odd": "ACGXX"}
    build_labelled_datasets(records_config(tmp_path, records(20, 1), records(20, 2) | odd))
    assert "2 letters that are not IUPAC DNA (2 x 'X'; the first in b.fa record odd)" in (
        warnings.text
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"records": ()}, r"name FASTA files for each class \(--records LABEL=FASTA\)"),
        ({"records": (LabelFiles(label="", files=("a",)),)}, "got '' with 1 files"),
        ({"records": (LabelFiles(label="a", files=()),)}, "got 'a' with 0 files"),
        (
            {"records": (LabelFiles(label="a", files=("a",)),), "task_kind": "regression"},
            "make a multiclass task, not regression: give a table",
        ),
    ],
)
def test_a_config_of_records_is_checked(options, message):
    with pytest.raises(InputError, match=message):
        RecordsConfig(**options)


# --- regions of a genome

GENOME = {name: random_sequence(400, i, "ACGTacgt") for i, name in enumerate("abcdefghijkl")}


def bed_line(chrom: str, start: int, end: int, *more: object) -> str:
    return "\t".join(map(str, (chrom, start, end, *more)))


def regions_config(tmp_path: Path, lines: list[str], **options) -> RegionsConfig:
    bed = tmp_path / "peaks.bed"
    bed.write_text("".join(line + "\n" for line in lines))
    genome = (str(write_fasta(tmp_path / "genome.fa", GENOME)),)
    return RegionsConfig(**{"regions": str(bed), "genome": genome} | options)


def test_regions_are_read_from_their_strand(tmp_path):
    rows = [
        (chrom, 10 * i, 10 * i + 30 + i, "on" if i % 2 else "off", 0, "+-."[i % 3])
        for chrom in GENOME
        for i in range(6)
    ]
    lines = ["track name=peaks", "# comment", *(bed_line(*row) for row in rows)]
    found = all_examples(regions_config(tmp_path, lines))
    expected = {}
    for line, (chrom, start, end, label, _, strand) in enumerate(rows, start=3):
        letters = GENOME[chrom][start:end].upper()
        if strand == "-":
            letters = letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
        expected[f"peaks.bed line {line} ({chrom}:{start + 1}-{end})"] = (letters, label)
    assert found == expected


def test_contigs_are_held_out_as_a_whole(tmp_path):
    lines = [bed_line(c, i, i + 20, "xy"[i % 2]) for c in GENOME for i in range(0, 300, 75)]
    parts = build_labelled_datasets(regions_config(tmp_path, lines))
    contigs = [{place.split("(")[1][0] for place in examples_of(parts[split])} for split in Split]
    assert [len(found) for found in contigs] == [10, 1, 1]
    assert len(set.union(*contigs)) == 12


def test_contigs_may_be_named(tmp_path):
    lines = [bed_line(c, i, i + 20, "xy"[i % 2]) for c in GENOME for i in range(0, 300, 75)]
    options = {"valid_contigs": ("c",), "test_contigs": ("a", "b")}
    parts = build_labelled_datasets(regions_config(tmp_path, lines, **options))
    assert [parts[split].n_examples for split in Split] == [36, 4, 8]
    assert all("(c:" in place for place in examples_of(parts[VALID]))
    parts = build_labelled_datasets(regions_config(tmp_path, lines, test_contigs=("a",)))
    assert [parts[split].n_examples for split in Split] == [40, 4, 4]
    config = regions_config(tmp_path, lines, valid_contigs=("a",), test_contigs=("[ab]",))
    with pytest.raises(InputError, match="a is held out for validation and for the test"):
        build_labelled_datasets(config)


def test_contigs_without_regions_cannot_be_held_out(tmp_path):
    lines = [bed_line("a", 0, 9, "x"), bed_line("b", 0, 9, "y")]
    with pytest.raises(InputError, match=r"no region of peaks\.bed lies on a contig of the valid"):
        build_labelled_datasets(regions_config(tmp_path, lines, valid_contigs=("c",)))


def test_a_single_contig_is_divided_by_what_overlaps(tmp_path):
    lines = [bed_line("a", i, i + 15, "xy"[i // 20 % 2]) for i in (*range(0, 300, 20), 5, 25)]
    with pytest.raises(InputError, match=r"lie on 1 contigs.*--group-by overlap"):
        build_labelled_datasets(regions_config(tmp_path, lines))
    parts = build_labelled_datasets(regions_config(tmp_path, lines, group_by="overlap"))
    covered = []
    for part in parts.values():
        starts = [int(place.split(":")[1].split("-")[0]) - 1 for place in examples_of(part)]
        covered.append({base for start in starts for base in range(start, start + 15)})
    assert sum(map(len, covered)) == len(set.union(*covered))


def test_what_is_judged_as_a_whole_may_lie_on_one_contig(tmp_path):
    """Nothing is held out of it; splits that the config names are not looked at."""
    lines = [bed_line("a", i, i + 15, "xy"[i // 20 % 2]) for i in range(0, 300, 20)]
    for options in ({}, {"valid_contigs": ("a",)}):
        whole = build_evaluation_dataset(
            regions_config(tmp_path, lines, **options), Task(labels=("x", "y"))
        )
        assert whole.n_examples == 15
        assert whole[range(4)].targets.tolist() == [0, 1, 0, 1]


def test_numbers_stand_in_any_column(tmp_path):
    lines = [bed_line(c, 0, 20, "name", i / 4) for i, c in enumerate(GENOME)]
    config = regions_config(tmp_path, lines, label_column=5, task_kind="regression")
    parts = build_labelled_datasets(config)
    assert parts[TRAIN].task.labels == ("column 5",)
    targets = np.concatenate([part[range(part.n_examples)].targets for part in parts.values()])
    assert sorted(targets[:, 0]) == [i / 4 for i in range(12)]


def test_labels_of_bases_run_in_the_direction_of_the_strand(tmp_path):
    """The label of each base is its letter, as it is read."""
    lines = []
    for i, (contig, sequence) in enumerate(GENOME.items()):
        codes = np.frombuffer(sequence[:9].upper().encode(), np.uint8)
        letters = codes.tobytes().decode()
        if i % 2:
            letters = letters[::-1].translate(str.maketrans("ACGT", "TGCA"))
        lines.append(bed_line(contig, 0, 9, letters, 0, "-" if i % 2 else "+"))
    parts = build_labelled_datasets(regions_config(tmp_path, lines, task_kind="per_base"))
    for part in parts.values():
        batch = part[range(part.n_examples)]
        for row, targets in zip(batch.codes.numpy(), batch.targets.tolist(), strict=True):
            assert decode(row) == "".join("ACGT"[target] for target in targets)


def test_regions_of_other_genomes_are_left_out_and_told(tmp_path, warnings):
    lines = [bed_line(c, 0, 9, "xy"[i % 2]) for i, c in enumerate([*GENOME, "chr1", "chr1"])]
    assert len(all_examples(regions_config(tmp_path, lines))) == 12
    assert "2 of 14 regions of peaks.bed lie on contigs that the genome does not have (chr1)" in (
        warnings.text
    )
    with pytest.raises(InputError, match=r"2 of 2 regions .*\(chr1\); it has a, b, c"):
        build_labelled_datasets(regions_config(tmp_path, lines[-2:]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a\t0\t9", r"peaks\.bed line 2: expected 4 tab-separated columns or more.*got 3"),
        ("a 0 9 x", r"peaks\.bed line 2: expected 4 tab-separated columns or more.*got 1"),
        ("a\tzero\t9\tx", r"peaks\.bed line 2: start must be a whole number, got 'zero'"),
        ("a\t9\t3\tx", r"peaks\.bed line 2: an interval needs 0 <= start <= end"),
        ("a\t9\t9\tx", r"peaks\.bed line 2: the region has no base \(start = end = 9\)"),
        ("a\t0\t9\tx\t0\t1", r"line 2: column 6, the strand, must be \+, - or \., got '1'"),
        ("a\t390\t401\tx", r"line 2 \(a:391-401\) ends past the end of a, which has 400 bases"),
        ("a\t0\t9\t", r"line 2 \(a:1-9\) has no label \(column 'column 4' holds ''\)"),
    ],
)
def test_broken_regions_are_refused_with_their_line(tmp_path, line, message):
    lines = [bed_line("b", 0, 9, "x"), line, bed_line("c", 0, 9, "y")]
    with pytest.raises(InputError, match=message):
        build_labelled_datasets(regions_config(tmp_path, lines))


def test_an_empty_bed_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"peaks\.bed holds no region"):
        build_labelled_datasets(regions_config(tmp_path, ["# nothing"]))


def test_regions_are_the_same_from_a_store_and_a_packed_bed(tmp_path):
    lines = [bed_line(c, 3, 44, "xy"[i % 2], 0, "-") for i, c in enumerate(GENOME)]
    config = regions_config(tmp_path, lines)
    packed = tmp_path / "packed" / "peaks.bed"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(Path(config.regions).read_bytes()))
    store = write_store(tmp_path / "genome.h5", GENOME)
    other = RegionsConfig(regions=str(packed), genome=(str(store),))
    assert all_examples(other) == all_examples(config)
    assert from_dict(RegionsConfig, to_dict(other)) == other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_column": 3}, "a column of the BED from the fourth on"),
        ({"label_column": 6}, "not the sixth, which is the strand, got 6"),
        ({"genome": ()}, r"regions need the genome they lie on \(--genome\)"),
    ],
)
def test_a_config_of_regions_is_checked(options, message):
    with pytest.raises(InputError, match=message):
        RegionsConfig(**{"regions": "a.bed", "genome": ("a.fa",)} | options)


# --- files for manifests


def test_the_files_behind_a_config_are_listed_with_their_checksums(tmp_path):
    train = write_table(tmp_path / "train.csv", random_rows(3))
    test = write_table(tmp_path / "test.csv", random_rows(2))
    found = source_files(TableConfig(train=train, test=test))
    assert [one["file"] for one in found] == ["train.csv", "test.csv"]
    content = Path(test).read_bytes()
    assert found[1]["size_bytes"] == len(content)
    assert found[1]["sha256"] == hashlib.sha256(content).hexdigest()
    config = regions_config(tmp_path, [bed_line("a", 0, 9, "x")])
    assert [one["file"] for one in source_files(config)] == ["peaks.bed", "genome.fa"]
    config = records_config(tmp_path, {"a": "A"}, {"b": "C"})
    assert [one["file"] for one in source_files(config)] == ["a.fa", "b.fa"]
