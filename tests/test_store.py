"""The prepared genome: its layout, that it appears whole or not at all, and what is refused."""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dnamamba import __version__
from dnamamba.data_prep.genomes.statistics import n_runs_of
from dnamamba.data_prep.genomes.store import (
    FORMAT,
    GenomeStore,
    is_store,
    prepare_store,
    quote_name,
)
from dnamamba.errors import InputError
from dnamamba.tokenizer import SOFT_MASK_BIT, VOCABULARY, decode, encode
from genomes import (
    LETTERS,
    as_read,
    fasta_text,
    random_sequence,
    write_bgzf,
    write_fasta,
    write_gzip,
    write_store,
)

RECORDS = {
    "chr1": "NNNN" + random_sequence(3000, 1) + "nnRYacgt",
    "chr/2%": "ACGTU" + "n" * 7,
    "none": "",
    "chr3": random_sequence(90, 2, LETTERS.replace(" ", "")),
}


def contents(path) -> dict[str, str]:
    store = GenomeStore(path)
    return {name: decode(store.read(name, 0, size)) for name, size in store.contigs.items()}


EXPECTED = {name: as_read(sequence) for name, sequence in RECORDS.items()}


def test_a_store_is_laid_out_as_documented(tmp_path):
    """Read with h5py alone, as another program would."""
    source = write_fasta(tmp_path / "x.fa", RECORDS)
    path = prepare_store([source], tmp_path / "x.h5")
    assert is_store(path)
    with h5py.File(path, "r") as file:
        assert file.attrs["format"] == FORMAT == "dnamamba-genome"
        assert file.attrs["format_version"] == 1
        assert file.attrs["created_by"] == f"dnamamba {__version__}"
        assert tuple(json.loads(file.attrs["vocabulary"])) == VOCABULARY.tokens
        assert json.loads(file.attrs["sources"]) == [
            {
                "file": "x.fa",
                "size_bytes": source.stat().st_size,
                "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            }
        ]
        table = file["contigs"][:]
        assert [row["name"].decode() for row in table] == list(RECORDS)
        assert table["length"].tolist() == [len(sequence) for sequence in RECORDS.values()]
        n_runs = []
        for i, (row, sequence) in enumerate(zip(table, RECORDS.values(), strict=True)):
            letters = {letter: sequence.count(letter) for letter in set(sequence)}
            assert json.loads(row["letters"]) == letters
            codes = encode(sequence)
            assert row["soft_masked"] == np.count_nonzero(codes & SOFT_MASK_BIT)
            n_runs += [(i, start, end) for start, end in n_runs_of(codes).tolist()]
            name = row["name"].decode().replace("%", "%25").replace("/", "%2F")
            dataset = file["sequence"][name]
            assert dataset.chunks is None
            assert dataset.compression is None
            assert dataset.dtype == np.uint8
            assert (dataset[:] == codes).all()
        assert file["n_runs"][:].tolist() == [list(row) for row in n_runs]


def test_facts_of_a_store_are_those_of_its_sequences(tmp_path):
    store = GenomeStore(write_store(tmp_path / "x.h5", RECORDS))
    by_name = {row.name: row for row in store.statistics()}
    for name, sequence in RECORDS.items():
        statistics, codes = by_name[name], encode(sequence)
        assert statistics.length == len(sequence)
        assert statistics.letters == {letter: sequence.count(letter) for letter in set(sequence)}
        assert (
            statistics.n_runs.tolist() == store.n_runs(name).tolist() == n_runs_of(codes).tolist()
        )
        assert statistics.n_bases == sum(letter not in "ACGTUacgtu" for letter in sequence)


def test_several_files_make_one_store(tmp_path):
    sources = [
        write_fasta(tmp_path / "a.fa", {"a": "ACGT", "b": ""}),
        write_gzip(tmp_path / "c.fa.gz", ">c\nGG\nG\nGGGG\n"),
        write_bgzf(tmp_path / "d.fa.gz", fasta_text({"d": random_sequence(300)}), block_bases=40),
    ]
    seen = []
    path = prepare_store(sources, tmp_path / "new" / "x.h5", on_contig=lambda *a: seen.append(a))
    assert contents(path) == {"a": "ACGT", "b": "", "c": "GGGGGGG", "d": random_sequence(300)}
    assert seen == [("a", 4), ("b", 0), ("c", 7), ("d", 300)]
    assert [row["file"] for row in GenomeStore(path).sources()] == ["a.fa", "c.fa.gz", "d.fa.gz"]


names = st.text(st.characters(min_codepoint=33, exclude_categories=["Z", "C"]), min_size=1)


@given(st.dictionaries(names, st.text(st.sampled_from("ACGTNacgtn"), max_size=20), min_size=1))
@example({".": "AC", "..": "G", "./": "T", "%2E": "A"})
@settings(deadline=None, max_examples=50)
def test_any_name_can_be_stored(tmp_path_factory, records):
    path = write_store(tmp_path_factory.mktemp("names") / "x.h5", records)
    assert contents(path) == records


def test_quoted_names_stay_apart():
    quoted = {quote_name(name) for name in ("a/b", "a%2Fb", "a%b", "a%252Fb", "a", ".", "%2E")}
    assert len(quoted) == 7
    assert not any("/" in name or name == "." for name in quoted)


# --- whole or not at all


def fail(*_):
    raise RuntimeError("the power went off")


def break_source(folder, monkeypatch):
    """A file that is cut off, after one that is sound."""
    path = write_gzip(folder / "cut.fa.gz", ">z\n" + "ACGT" * 2000)
    path.write_bytes(path.read_bytes()[:-20])
    return {"sources": [write_fasta(folder / "sound.fa", {"a": "ACGT"}), path]}


def break_between_contigs(folder, monkeypatch):
    return {"sources": [write_fasta(folder / "sound.fa", RECORDS)], "on_contig": fail}


def break_before_the_rename(folder, monkeypatch):
    monkeypatch.setattr(os, "fsync", fail)
    return {"sources": [write_fasta(folder / "sound.fa", RECORDS)]}


def break_by_a_name_that_comes_twice(folder, monkeypatch):
    return {
        "sources": [write_fasta(folder / f"{i}.fa", {"a": "ACGT"}) for i in range(2)],
    }


@pytest.mark.parametrize("old", [None, {"kept": "ACGTACGT"}], ids=["new", "replacing"])
@pytest.mark.parametrize(
    "breaking",
    [
        break_source,
        break_between_contigs,
        break_before_the_rename,
        break_by_a_name_that_comes_twice,
    ],
)
def test_a_failure_leaves_what_was_there_before(breaking, old, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "x.h5"
    if old is not None:
        shutil.move(write_store(tmp_path / "old.h5", old), out)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises((InputError, RuntimeError)):
        prepare_store(**breaking(tmp_path, monkeypatch), out=out, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert old is None or contents(out) == old


def test_a_store_is_replaced_only_when_asked(tmp_path):
    source = write_fasta(tmp_path / "x.fa", {"a": "ACGT"})
    out = write_store(tmp_path / "x.h5", {"old": "GG"})
    with pytest.raises(InputError, match="exists already; use --force to replace it"):
        prepare_store([source], out)
    assert contents(out) == {"old": "GG"}
    prepare_store([source], out, force=True)
    assert contents(out) == {"a": "ACGT"}


def test_a_store_in_use_outlives_its_replacement(tmp_path):
    out = write_store(tmp_path / "x.h5", {"a": "ACGT" * 500})
    opened = GenomeStore(out)
    assert decode(opened.read("a", 0, 4)) == "ACGT"
    prepare_store([write_fasta(tmp_path / "x.fa", {"a": "G"})], out, force=True)
    assert decode(opened.read("a", 1996, 2000)) == "ACGT"


def test_a_folder_is_no_place_for_a_store(tmp_path):
    source = write_fasta(tmp_path / "x.fa", {"a": "ACGT"})
    for force in (False, True):
        with pytest.raises(InputError, match="is a folder; --out names the file to write"):
            prepare_store([source], tmp_path, force=force)


def test_sources_are_checked_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="at least one FASTA file"):
        prepare_store([], tmp_path / "new" / "x.h5")
    sound = write_fasta(tmp_path / "x.fa", {"a": "ACGT"})
    with pytest.raises(FileNotFoundError, match="no such file"):
        prepare_store([sound, tmp_path / "nothing.fa"], tmp_path / "new" / "x.h5")
    with pytest.raises(InputError, match="got a folder"):
        prepare_store([sound, tmp_path], tmp_path / "new" / "x.h5")
    store = write_store(tmp_path / "y.h5", {"y": "ACGT"})
    with pytest.raises(InputError, match=r"y.h5 is HDF5, a store already .* train on it as it is"):
        prepare_store([sound, store], tmp_path / "new" / "x.h5")
    assert not (tmp_path / "new").exists()


def test_a_name_in_two_files_is_refused_with_a_way_out(tmp_path):
    sources = [write_fasta(tmp_path / f"{i}.fa", {"chr1": "ACGT"}) for i in range(2)]
    with pytest.raises(InputError, match=r"'chr1' of .*1.fa is in an earlier file too.*one store"):
        prepare_store(sources, tmp_path / "x.h5")


# --- a full disk, and what the dead left


def test_the_output_is_never_one_of_the_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write_fasta(tmp_path / "x.fa", RECORDS)
    (tmp_path / "link.fa").symlink_to(source)
    before = source.read_bytes()
    for out in (source, Path("x.fa"), tmp_path / "link.fa"):
        with pytest.raises(InputError, match="is one of the sequence files to read; --out names"):
            prepare_store([source], out, force=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("n_written", [0, 1, 4], ids=["none", "one contig", "all but the tables"])
def test_a_full_disk_is_noticed_before_it_is_written_to(n_written, tmp_path, monkeypatch):
    source = write_fasta(tmp_path / "x.fa", RECORDS)
    free = iter([1 << 40] * n_written + [1 << 25])
    usage = lambda folder: types.SimpleNamespace(free=next(free))  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    written = []
    message = r"the disk of .*out is full: the store needs \d.* bytes more, 33,554,432 are free"
    with pytest.raises(InputError, match=message):
        prepare_store([source], tmp_path / "out" / "x.h5", on_contig=lambda *a: written.append(a))
    assert len(written) == n_written
    assert list((tmp_path / "out").iterdir()) == []


def test_what_dead_processes_left_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    alive = subprocess.Popen(["sleep", "60"])
    stale = tmp_path / f".building-{dead.pid}-x.h5"
    kept = [
        tmp_path / f".building-{alive.pid}-x.h5",
        tmp_path / f".building-{dead.pid}-other.h5",
        tmp_path / f".building-{dead.pid}1-x.h5",  # of another machine: it still grows
    ]
    for path in (stale, *kept):
        path.write_text("half a store")
        os.utime(path, (1, 1))
    os.utime(kept[-1])
    write_store(tmp_path / "x.h5", {"a": "ACGT"})
    alive.kill()
    alive.wait()
    assert not stale.exists()
    assert all(path.exists() for path in kept)


# --- what cannot be read


def test_another_format_version_is_refused_with_both_numbers(tmp_path):
    path = write_store(tmp_path / "x.h5", {"a": "ACGT"})
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = 7
    with pytest.raises(InputError, match="has format_version 7, this dnamamba reads 1"):
        GenomeStore(path)


@pytest.mark.parametrize("version", [None, "one", 1.5, [1, 2]])
def test_a_format_version_that_is_no_number_is_refused(version, tmp_path):
    path = write_store(tmp_path / "x.h5", {"a": "ACGT"})
    with h5py.File(path, "r+") as file:
        del file.attrs["format_version"]
        if version is not None:
            file.attrs["format_version"] = version
    with pytest.raises(InputError, match=r"has format_version .*, this dnamamba reads 1"):
        GenomeStore(path)


@pytest.mark.parametrize("part", ["contigs", "n_runs", "sequence", "sequence/chr3"])
def test_a_store_that_lacks_a_part_is_refused(part, tmp_path):
    path = write_store(tmp_path / "x.h5", RECORDS)
    with h5py.File(path, "r+") as file:
        del file[part]
    with pytest.raises(InputError, match="is not a whole genome store"):
        GenomeStore(path)


def test_a_store_without_its_vocabulary_is_refused(tmp_path):
    path = write_store(tmp_path / "x.h5", RECORDS)
    with h5py.File(path, "r+") as file:
        del file.attrs["vocabulary"]
    with pytest.raises(InputError, match="is not a whole genome store"):
        GenomeStore(path)


def test_another_vocabulary_is_refused(tmp_path):
    path = write_store(tmp_path / "x.h5", {"a": "ACGT"})
    with h5py.File(path, "r+") as file:
        file.attrs["vocabulary"] = json.dumps(["A", "C", "G", "T"])
    with pytest.raises(InputError, match="another vocabulary; prepare it again"):
        GenomeStore(path)


def test_foreign_hdf5_is_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["sequence"] = [1, 2, 3]
    with pytest.raises(InputError, match=r"is HDF5, but not a genome store.*got None"):
        GenomeStore(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_store_that_is_cut_off_is_refused(kept, tmp_path):
    path = write_store(tmp_path / "x.h5", RECORDS)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=r"cannot be read as HDF5.*prepare it again"):
        GenomeStore(path)


# --- other processes, other places


def test_a_pickled_store_takes_no_data_along(tmp_path):
    path = write_store(tmp_path / "x.h5", {"a": random_sequence(200_000)})
    store = GenomeStore(path)
    store.read("a", 0, 1000)
    pickled = pickle.dumps(store)
    assert len(pickled) < 5000
    assert decode(pickle.loads(pickled).read("a", 5, 9)) == random_sequence(200_000)[5:9]


def test_a_store_is_found_from_another_folder(tmp_path, monkeypatch):
    write_store(tmp_path / "x.h5", {"a": "ACGT"})
    monkeypatch.chdir(tmp_path)
    store = GenomeStore(type(tmp_path)("x.h5"))
    monkeypatch.chdir("/")
    assert decode(store.read("a", 0, 4)) == "ACGT"


def test_what_is_read_cannot_be_written_to(tmp_path):
    codes = GenomeStore(write_store(tmp_path / "x.h5", {"a": "ACGT"})).read("a", 0, 4)
    with pytest.raises(ValueError, match="read-only"):
        codes[0] = 0


def repack(path, **options):
    """Write a store's content again, as h5repack does: every dataset gets another place."""
    new = path.with_name("repacked.h5")
    with h5py.File(path, "r") as old, h5py.File(new, "w") as file:
        file.attrs.update(old.attrs)
        for name in reversed(list(old["sequence"])):
            codes = old["sequence"][name][:]
            file.create_dataset(f"sequence/{name}", data=codes, **(options if len(codes) else {}))
        for name in ("contigs", "n_runs"):
            file.create_dataset(name, data=old[name][:], dtype=old[name].dtype)
    return new


def test_a_repacked_store_reads_the_same(tmp_path):
    path = write_store(tmp_path / "x.h5", RECORDS)
    assert contents(repack(path)) == contents(path) == EXPECTED


@pytest.mark.parametrize("options", [{"chunks": True}, {"compression": "gzip"}])
def test_a_store_repacked_in_chunks_is_refused(options, tmp_path):
    """It has no place to map: offset 0, read by mistake, would be the file's head."""
    path = repack(write_store(tmp_path / "x.h5", RECORDS), **options)
    with pytest.raises(InputError, match="packed again with chunks or compression"):
        GenomeStore(path)
