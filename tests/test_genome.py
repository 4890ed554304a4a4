"""Any genome behind one interface: kinds of file, several files, other processes, facts."""

import itertools
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from dnamamba.data_prep.genomes import statistics as facts_module
from dnamamba.data_prep.genomes.genome import label_of, open_genome
from dnamamba.data_prep.genomes.statistics import scan_fasta
from dnamamba.data_prep.genomes.summary import summarise_file
from dnamamba.data_prep.regions.bed import read_split_bed
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Split
from dnamamba.runtime import logger
from dnamamba.tokenizer import decode
from genomes import (
    as_read,
    fasta_text,
    random_sequence,
    read_all,
    write_bgzf,
    write_fasta,
    write_gzip,
    write_store,
)

RECORDS = {
    "chr1": "NNNN" + random_sequence(5000, 1) + "nnRYacgt",
    "none": "",
    "chr2": random_sequence(700, 2, "ACGTacgtNnU"),
}
EXPECTED = {name: as_read(sequence) for name, sequence in RECORDS.items()}
MAKERS = {
    "plain": lambda folder, records: write_fasta(folder / "x.fa", records),
    "bgzf": lambda folder, records: write_bgzf(folder / "x.fa.gz", fasta_text(records), 200),
    "store": lambda folder, records: write_store(folder / "x.h5", records),
}
kinds = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@kinds
def test_every_kind_of_file_is_the_same_genome(make, tmp_path):
    genome = open_genome([make(tmp_path, RECORDS)])
    assert genome.contigs == {name: len(sequence) for name, sequence in RECORDS.items()}
    assert read_all(genome) == EXPECTED
    for statistics, (name, sequence) in zip(genome.statistics(), RECORDS.items(), strict=True):
        assert (statistics.name, statistics.length) == (name, len(sequence))
        assert statistics.soft_masked == sum(letter in "acgtnu" for letter in sequence)
        unreadable = np.zeros(len(sequence), bool)
        for start, end in genome.n_runs(name).tolist():
            unreadable[start:end] = True
        assert unreadable.tolist() == [base in "Nn" for base in EXPECTED[name]]
    (source,) = genome.sources()
    assert len(source["sha256"]) == 64


@kinds
def test_a_genome_may_be_pickled_before_and_after_reading(make, tmp_path):
    genome = open_genome([make(tmp_path, RECORDS)])
    assert read_all(pickle.loads(pickle.dumps(genome))) == EXPECTED
    read_all(genome)
    genome.n_runs("chr1")
    assert read_all(pickle.loads(pickle.dumps(genome))) == EXPECTED


@kinds
def test_eight_forked_readers_at_once_read_the_right_bases(make, tmp_path):
    """D23: a handle that is shared over a fork has one file position for all."""
    genome = open_genome([make(tmp_path, RECORDS)])
    assert read_all(genome) == EXPECTED, "the parent has opened its handle"
    context = multiprocessing.get_context("fork")
    barrier, wrong = context.Barrier(8), context.Value("i", 0)

    def read_many(seed):
        barrier.wait(timeout=60)
        draws = np.random.default_rng(seed)
        for _ in range(300):
            start, end = sorted(draws.integers(0, len(EXPECTED["chr1"]), 2).tolist())
            if decode(genome.read("chr1", start, end)) != EXPECTED["chr1"][start:end]:
                with wrong:
                    wrong.value += 1
        os._exit(0)

    readers = [context.Process(target=read_many, args=(seed,)) for seed in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(timeout=60)
    assert [reader.exitcode for reader in readers] == [0] * 8
    assert wrong.value == 0


# --- several files


def test_several_files_are_one_genome(tmp_path):
    human = write_fasta(tmp_path / "human.fa", {"chr1": "ACGT", "chr2": "GG"})
    phage = write_store(tmp_path / "phage.h5", {"lambda": "NNT", "none": ""})
    genome = open_genome([human, str(phage)])
    assert read_all(genome) == {"chr1": "ACGT", "chr2": "GG", "lambda": "NNT", "none": ""}
    assert genome.n_runs("lambda").tolist() == [[0, 2]]
    assert [row.name for row in genome.statistics()] == list(genome.contigs)
    assert [row["file"] for row in genome.sources()] == ["human.fa", "phage.from.fa"]
    assert read_all(pickle.loads(pickle.dumps(genome))) == read_all(genome)


def test_names_that_collide_get_their_files_name(tmp_path):
    """Four apes with the same record names, as in multiple alignments."""
    human = write_bgzf(tmp_path / "human.fa.gz", ">chr1\nACGT\n>chrM\nC\n")
    gorilla = write_fasta(tmp_path / "gorilla.fasta", {"chr1": "TTT"})
    genome = open_genome([human, gorilla])
    assert read_all(genome) == {"human/chr1": "ACGT", "human/chrM": "C", "gorilla/chr1": "TTT"}
    assert [row.name for row in genome.statistics()] == list(genome.contigs)


@pytest.mark.parametrize("names", [("a/x.fa", "b/x.fa"), ("a/x.fa", "b/x.fasta")])
def test_files_of_one_name_with_colliding_contigs_are_refused(names, tmp_path):
    paths = [tmp_path / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write_fasta(path, {"chr1": "ACGT"})
    with pytest.raises(InputError, match="files must have different names; got x, x"):
        open_genome(paths)


def test_names_that_collide_once_more_are_refused(tmp_path):
    one = write_fasta(tmp_path / "ape.fa", {"x": "A", "human/x": "C"})
    other = write_fasta(tmp_path / "ape.fasta", {"x": "G"})
    with pytest.raises(InputError, match="different names"):
        open_genome([one, other])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("human.fa.gz", "human"),
        ("human.fasta", "human"),
        ("GRCh38.p14.fna.bgz", "GRCh38.p14"),
        ("human.h5", "human"),
        ("human", "human"),
    ],
)
def test_a_label_is_the_files_name_without_its_endings(name, label):
    assert label_of(Path("folder") / name) == label


# --- what is refused


def test_what_cannot_be_opened(tmp_path):
    with pytest.raises(InputError, match="no genome was named"):
        open_genome([])
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_genome([tmp_path / "nothing.fa"])
    with pytest.raises(InputError, match="expected a file, got a folder"):
        open_genome([tmp_path])
    with pytest.raises(InputError, match="plain gzip, which cannot be read at random places"):
        open_genome([write_gzip(tmp_path / "x.fa.gz", ">a\nACGT\n")])
    text = tmp_path / "README.md"
    text.write_text("# A readme\n")
    with pytest.raises(InputError, match="does not look like FASTA"):
        open_genome([text])


def test_an_index_of_another_file_is_noticed(tmp_path):
    """What a few contigs do not show (`mv` keeps times) is found by the first whole pass."""
    records = {f"{i:02}": "ACGT" for i in range(40)}
    path = write_fasta(tmp_path / "x.fa", records)
    open_genome([path])
    write_fasta(path, {name if name != "01" else "xx": bases for name, bases in records.items()})
    os.utime(path, (1, 1))
    genome = open_genome([path])
    with pytest.raises(InputError, match=r"do not belong together.* Delete the index .*x.fa.fai"):
        genome.n_runs("00")


# --- facts and their cache


def test_facts_are_read_from_the_cache_while_the_file_is_the_same(tmp_path, monkeypatch):
    path = write_fasta(tmp_path / "x.fa", RECORDS)
    first = scan_fasta(path)
    monkeypatch.setattr(facts_module, "FastaReader", None)
    again = scan_fasta(path)
    assert again.source == first.source
    for one, other in zip(first.contigs, again.contigs, strict=True):
        assert one.__dict__ | {"n_runs": None} == other.__dict__ | {"n_runs": None}
        assert one.n_runs.tolist() == other.n_runs.tolist()
        assert other.n_runs.shape[1] == 2
        assert other.n_runs.dtype == np.int64


@pytest.mark.parametrize("same_size", [True, False])
def test_facts_are_made_again_when_the_file_changes(same_size, tmp_path):
    path = write_fasta(tmp_path / "x.fa", {"a": "ACGT"})
    before = scan_fasta(path)
    write_fasta(path, {"a": "NNGT" if same_size else "NNGTA"})
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    after = scan_fasta(path)
    assert after.contigs[0].n_bases == 2
    assert after.source["sha256"] != before.source["sha256"]


def test_a_cache_that_is_damaged_or_cannot_be_written_is_done_without(
    own_cache_folder, tmp_path, monkeypatch
):
    path = write_fasta(tmp_path / "x.fa", {"a": "ACGT"})
    scan_fasta(path)
    (cached,) = (own_cache_folder / "facts").iterdir()
    for damage in (b"", b'{"stamp"', b"\xff\xfe\x00", b"[]"):
        cached.write_bytes(damage)
        assert scan_fasta(path).contigs[0].length == 4
    monkeypatch.setenv("DNAMAMBA_CACHE", str(path))
    assert scan_fasta(path).contigs[0].length == 4


def test_files_of_one_name_do_not_share_facts(tmp_path):
    for folder, sequence in {"one": "ACGT", "two": "NNNN"}.items():
        (tmp_path / folder).mkdir()
        path = write_fasta(tmp_path / folder / "x.fa", {"a": sequence})
        assert scan_fasta(path).contigs[0].n_bases == sequence.count("N")


# --- what people are shown


@kinds
def test_a_summary_counts_what_is_in_a_file(make, tmp_path):
    records = {"a": "ACGTNN" * 10, "b": "acgUURY-?" * 2, "none": ""}
    lines = summarise_file(make(tmp_path, records), n_contigs=1)
    text = "\n".join(lines)
    assert "3 contigs, 78 bases; longest 60, N50 60, shortest 0" in text
    assert "soft-masked (lower case): 6 (7.69%)" in text
    assert "A, C, G, T: 46 (58.97%): A 12, C 12, G 12, T 10" in text
    assert "U (read as T): 4" in text
    assert "  N: 20 (25.64%): N 20" in text
    assert "other IUPAC letters (read as N): 4 (5.13%): R 2, Y 2" in text
    assert "gaps (read as N): 2 (2.56%): - 2" in text
    assert "outside IUPAC (read as unknown): 2 (2.56%): ? 2" in text
    assert "without sequence: 1 contig" in text
    assert lines[-2:] == [f"    {60:>13}  a", "    and 2 more"]


def test_a_summary_names_the_kind_and_checksum_of_a_file(tmp_path):
    plain = write_fasta(tmp_path / "x.fa", RECORDS)
    for path, kind in [
        (plain, "plain FASTA"),
        (write_gzip(tmp_path / "a.fa.gz", ">a\nA\n"), "gzip FASTA (no random access"),
        (write_bgzf(tmp_path / "b.fa.gz", ">a\nA\n"), "BGZF FASTA (random access)"),
        (write_store(tmp_path / "c.h5", {"a": "A"}), "prepared store"),
    ]:
        lines = summarise_file(path)
        assert f"{path}: {kind}" in lines[0]
        assert f"{path.stat().st_size:,} bytes" in lines[0]
    assert scan_fasta(plain).source["sha256"] in "\n".join(summarise_file(plain))


@kinds
def test_a_summary_asks_whether_a_protein_is_dna(make, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level("WARNING", logger="dnamamba")
    summarise_file(make(tmp_path, {"dna": "ACGTN" * 20}))
    assert caplog.messages == []
    (tmp_path / "protein").mkdir()
    path = make(tmp_path / "protein", {"protein": "MKVLEFQQIP" * 20})
    summarise_file(path)
    assert caplog.messages == [
        f"{path}: 70% of the letters mean no base (E, F, I, L, P, Q): is this DNA?"
    ]


def test_a_summary_of_a_file_that_is_cut_off_is_refused(tmp_path):
    path = write_bgzf(tmp_path / "x.fa.gz", fasta_text(RECORDS))
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="is cut off"):
        summarise_file(path)


# --- BED files of splits


def test_a_split_bed_is_read_in_order(tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text(
        "# a comment\ntrack name=splits\nbrowser position chr1\n\n"
        "chr1\t10\t20\tvalid\textra\nchr1\t0\t10\ttrain\r\ntrack2\t5\t6\ttrain\nchr2\t3\t3\ttest\n"
    )
    expected = {
        Split.TRAIN: [Interval("chr1", 0, 10), Interval("track2", 5, 6)],
        Split.VALID: [Interval("chr1", 10, 20)],
        Split.TEST: [Interval("chr2", 3, 3)],
    }
    assert read_split_bed(path) == expected
    assert read_split_bed(write_gzip(tmp_path / "splits.bed.gz", path.read_text())) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t0\t5\n", "line 1: expected 4 tab-separated columns .* got 3"),
        ("chr1 0 5 train\n", "line 1: expected 4 tab-separated columns"),
        ("\nchr1\t0\tx\ttrain\n", "line 2: end must be a whole number, got 'x'"),
        ("chr1\t5\t4\ttrain\n", "line 1: an interval needs 0 <= start <= end"),
        ("chr1\t-5\t4\ttrain\n", "line 1: start is negative: -5"),
        ("chr1\t0\t4\tfold3\n", "line 1: column 4 must be train, valid or test, got 'fold3'"),
        ("# nothing\n", "holds no interval"),
    ],
)
def test_mistakes_in_a_bed_name_the_line(text, message, tmp_path):
    path = tmp_path / "splits.bed"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_split_bed(path)


def test_a_bed_that_is_cut_off_is_refused(tmp_path):
    rows = "".join(f"chr1\t{i}\t{i + 7 * i % 100 + 1}\ttrain\n" for i in range(2000))
    path = write_gzip(tmp_path / "splits.bed.gz", rows)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="is cut off or damaged"):
        read_split_bed(path)


def test_the_published_akita_splits_are_read(shared_data):
    splits = read_split_bed(shared_data / "beds" / "akita_sequences_hg38.bed.gz")
    counts = {str(split): len(rows) for split, rows in splits.items()}
    assert counts == {"train": 7008, "valid": 419, "test": 413}
    lengths = {row.length for row in itertools.chain(*splits.values())}
    assert lengths == {1 << 20}
