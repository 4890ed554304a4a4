"""Tables of labelled sequences: every form of file, and what is said of those that are broken."""

import gzip
import importlib
import itertools
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from dnamamba.data_prep.sequences import sequence_keys, text_keys
from dnamamba.data_prep.tables import Table, read_table
from dnamamba.errors import InputError
from dnamamba.runtime import logger
from dnamamba.tokenizer import UNK_ID, decode
from genomes import write_bgzf, write_gzip
from label_files import random_rows, write_table

PLAIN = "sequence,label\nACGT,cat\nGGNA,dog\n"


def read(path: Path, columns=("label",)) -> Table:
    return read_table(path, "sequence", columns)


def read_text(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "train.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return read(path)


def letters_of(table: Table) -> list[str]:
    codes, offsets = table.sequences
    return [decode(codes[a:b]) for a, b in itertools.pairwise(offsets)]


@pytest.fixture
def warnings(caplog, monkeypatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


# --- forms of files


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", ";"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.rstrip("\n"),
        "\ufeff" + PLAIN,
        "\n" + PLAIN + "\n\n",
        'id,label,"sequence"\n1,cat," ACGT "\n"2,3",dog,GGNA\n',
        "sequence , label\nACGT,cat\n\n  \nGGNA, dog\n",
    ],
    ids=["csv", "tsv", "semicolons", "crlf", "no-end", "bom", "blank", "quotes", "spaces"],
)
def test_text_is_read_whatever_its_form(tmp_path, text):
    table = read_text(tmp_path, text)
    assert letters_of(table) == ["ACGT", "GGNA"]
    assert table.columns == {"label": ["cat", "dog"]}


def test_compression_is_told_by_content(tmp_path):
    for path in (write_gzip(tmp_path / "a.csv", PLAIN), write_bgzf(tmp_path / "b.csv.gz", PLAIN)):
        assert letters_of(read(path)) == ["ACGT", "GGNA"]


def test_rows_are_numbered_as_in_a_spreadsheet(tmp_path):
    table = read_text(tmp_path, "sequence,label\nACGT,cat\n\nGGNA,dog\n")
    assert [table.where(0), table.where(1)] == ["train.csv row 2", "train.csv row 4"]


def test_long_tables_and_long_sequences_come_in_blocks(tmp_path):
    rows = random_rows(1000) + random_rows(3, length=300_000)
    table = read(Path(write_table(tmp_path / "long.csv", rows)))
    assert letters_of(table) == [sequence for sequence, _ in rows]
    assert table.columns["label"] == [label for _, label in rows]


def test_letters_are_read_as_everywhere_but_for_their_case(tmp_path):
    table = read_text(tmp_path, "sequence,label\nacgun,1\nRYU-A,2\n")
    assert letters_of(table) == ["ACGTN", "NNTNA"]


def test_a_sequence_of_one_base_is_one(tmp_path):
    assert letters_of(read_text(tmp_path, "sequence,label\nG,1\n")) == ["G"]


# --- parquet


def test_parquet_is_read_like_text(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an optional extra")
    import pyarrow

    columns = {"label": [1, None], "other": [0.5, 2], "sequence": ["ACGT", "ggna"]}
    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    packed = tmp_path / "train.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for file in (path, packed):
        table = read(file, ("label", "other"))
        assert letters_of(table) == ["ACGT", "GGNA"]
        assert table.columns == {"label": ["1", ""], "other": ["0.5", "2.0"]}
        assert table.where(1) == f"{file.name} row 2"
    with pytest.raises(InputError, match="no column 'class'; its first line names 'label', 'oth"):
        read(path, ("class",))


def test_parquet_of_lists_and_broken_parquet_are_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an optional extra")
    import pyarrow

    path = tmp_path / "train.parquet"
    parquet.write_table(pyarrow.table({"label": [["a", "b"]], "sequence": ["ACGT"]}), path)
    with pytest.raises(InputError, match=r"column 'label' holds list.*expected text or numbers"):
        read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read(path)


def test_without_pyarrow_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "train.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"needs pyarrow \(pip install dnamamba\[parquet\]\)"):
        read(path)
    assert importlib.import_module("dnamamba.data_prep.tables")


# --- what is wrong with a file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "train.csv is empty"),
        ("\n\n", "train.csv is empty"),
        ("sequence,label\n", "train.csv has no rows"),
        ("seq,label\nA,1\n", "no column 'sequence'; its first line names 'seq', 'label'. Name"),
        ("sequence,label,label\nA,1,2\n", "has 2 columns named 'label': rename them"),
        ("sequence,label\nA,1\nA,1,2\n", "train.csv row 3 has 3 columns, the header has 2: 'A, "),
        ("sequence,label\nA,1\n\nA\n", "train.csv row 4 has 1 columns, the header has 2"),
        ("sequence,label\nA,1\n,0\n", "train.csv row 3: the sequence is empty"),
        ("sequence,label\nA,1\nNNN-,0\n", "train.csv row 3: no A, C, G or T in its sequence of 4"),
        ('sequence,label\nA,1\n"A,0\n', "cannot be read as a table: unexpected end of data"),
        (">chr1\nACGT\n", "is a FASTA: expected a table"),
        ("PK\x03\x04", "is an Excel workbook or a zip: save the sheet as CSV"),
    ],
)
def test_broken_tables_are_refused_with_their_row(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_text(tmp_path, text)


def test_other_encodings_and_damage_are_named(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(PLAIN.encode("utf-16"))
    with pytest.raises(InputError, match="is text in UTF-16: save it as UTF-8"):
        read(path)
    path.write_bytes(PLAIN.replace("cat", "gar\u00e7on").encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8 text"):
        read(path)
    path.write_bytes(gzip.compress(PLAIN.encode() * 100)[:-30])
    with pytest.raises(InputError, match="cut off or damaged"):
        read(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "other.csv")
    with pytest.raises(InputError, match="expected a file, got a folder"):
        read(tmp_path)


def test_letters_that_are_no_dna_are_told_once(tmp_path, warnings):
    table = read_text(tmp_path, "sequence,label\nACGT,1\nAXGx,0\nA!XT,0\n")
    assert table.sequences.codes.tolist().count(UNK_ID) == 4
    message = "train.csv has 4 letters that are not IUPAC DNA (2 x 'X', 1 x '!', 1 x 'x'; the first"
    assert message in warnings.text
    assert "in train.csv row 3)" in warnings.text


# --- keys


def test_keys_are_the_same_for_the_same_bases_on_either_strand(tmp_path):
    rows = [("AACG", 0), ("CGTT", 0), ("aacg", 0), ("AACGT", 0), ("GCAA", 0)]
    keys = sequence_keys(read(Path(write_table(tmp_path / "a.csv", rows))).sequences).tolist()
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_keys_do_not_depend_on_neighbours(tmp_path, monkeypatch):
    path = Path(write_table(tmp_path / "a.csv", random_rows(50)))
    whole = sequence_keys(read(path).sequences)
    monkeypatch.setattr("dnamamba.data_prep.sequences._HASHED_AT_ONCE", 70)
    np.testing.assert_array_equal(sequence_keys(read(path).sequences), whole)
    assert len(set(whole.tolist())) == 50


def test_keys_of_texts():
    keys = text_keys(["gene1", "gene2", "gene1"])
    assert keys[0] == keys[2] != keys[1]
