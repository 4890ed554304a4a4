"""Rows of FASTA, BED and VCF: one comes out for each that goes in, and says what became of it."""

import gzip
import io
import re
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import RowStatus, WindowRule, choose_window
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import decode, reverse_complement
from genomes import (
    MemoryGenome,
    random_sequence,
    write_bgzf,
    write_gzip,
)

CHR1 = random_sequence(1000, seed=1)
GENOME = MemoryGenome({"chr1": CHR1, "short": "ACGTACGTAC", "gap": "N" * 50 + "ACGT" * 5})


def read(text, rule=None, genome=GENOME, **options):
    """The rows of a text, as a program at the end of a pipe gets them."""
    raw = text if isinstance(text, bytes) else text.encode()
    with open_regions(io.BytesIO(raw), genome=genome, rule=rule, **options) as table:
        return list(table)


def read_one(text, rule=None):
    (row,) = read(text, rule)
    return row


def letters(codes):
    return None if codes is None else decode(codes)


# --- ways to get a text

BED = "#comment\ntrack name=x\n\nchr1\t10\t20\tone\nchr1\t30\t35\ttwo\n"
WAYS = {
    "plain": lambda folder: _plain(folder, BED),
    "gzip": lambda folder: write_gzip(folder / "x.txt", BED),
    "BGZF": lambda folder: write_bgzf(folder / "x.txt", BED, block_bases=7),
    "windows line ends": lambda folder: _plain(folder, BED.replace("\n", "\r\n")),
    "byte order mark": lambda folder: _plain(folder, "\ufeff" + BED),
    "spaces": lambda folder: _plain(folder, BED.replace("\t", "  ")),
    "no newline at the end": lambda folder: _plain(folder, BED.removesuffix("\n")),
    "a pipe": lambda folder: io.BytesIO(BED.encode()),
    "a pipe of gzip": lambda folder: io.BytesIO(gzip.compress(BED.encode())),
    "two gzips, one after the other": lambda folder: io.BytesIO(
        gzip.compress(BED[:30].encode()) + gzip.compress(BED[30:].encode())
    ),
}


def _plain(folder, text):
    path = folder / "x.vcf"  # the name does not tell: what is inside does
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_get_a_text_gives_the_same_rows(way, tmp_path):
    with open_regions(way(tmp_path), genome=GENOME) as table:
        assert table.columns == ("chrom", "start", "end", "name")
        rows = list(table)
    assert [row.columns for row in rows] == [
        ("chr1", "10", "20", "one"),
        ("chr1", "30", "35", "two"),
    ]
    assert [letters(row.codes) for row in rows] == [CHR1[10:20], CHR1[30:35]]


def test_a_stream_is_read_as_rows_are_taken():
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size=-1):
            self.taken += 1
            return b"chr1\t10\t20\n" * (size // len(b"chr1\t10\t20\n"))

    stream = Endless()
    with open_regions(stream, genome=GENOME) as table:
        assert all(row.status == "ok" for row in islice(table, 300))
    assert stream.taken < 5


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"@read1\nACGT\n+\nIIII\n", "FASTQ or SAM: convert it to FASTA"),
        (gzip.compress(b"BAM\1more", mtime=0), "is BAM: convert it"),
        (b"BCF\2\2more", "is BCF: convert it to VCF"),
        (b"\x89HDF\r\n\x1a\n", "name it as the genome"),
        ("chr1\t1\t2\n".encode("utf-16"), "is text in UTF-16: save it as UTF-8"),
        (b"chr1\t1\t2\rchr1\t1\t2\r", "line ends of old Macs"),
        (gzip.compress(b"chr1\t1\t2\n" * 9, mtime=0)[:-9], "cut off or damaged"),
        (b"\x1f\x8bnot gzip at all, whatever", "cut off or damaged"),
    ],
)
def test_what_is_no_such_text_is_refused(raw, message):
    with pytest.raises(InputError, match=message):
        read(raw)


def test_a_bed_whose_header_has_the_strand_elsewhere_is_refused():
    text = b"chrom\tstart\tend\tstrand\nchr1\t0\t9\t-\n"
    with pytest.raises(InputError, match="has strand in column 4 by its header, BED has it in col"):
        read(text)


@pytest.mark.parametrize("piped", [True, False])
def test_bgzf_cut_between_two_blocks_is_refused(piped, tmp_path):
    path = write_bgzf(tmp_path / "x.bed.gz", BED, block_bases=7)
    whole = path.read_bytes()
    cut = whole[: whole.rfind(b"\x1f\x8b")]  # the last block, which is empty
    assert gzip.decompress(cut).decode() == BED, "nothing else would notice"
    path.write_bytes(cut)
    with (
        pytest.raises(InputError, match="is cut off"),
        open_regions(io.BytesIO(cut) if piped else path, genome=GENOME) as table,
    ):
        list(table)


def test_missing_files_genomes_and_lengths_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_regions(tmp_path / "none.bed").__enter__()
    with pytest.raises(InputError, match=r"is read as BED, .*name the genome \(--genome\)"):
        read(BED, genome=None)
    with pytest.raises(InputError, match="say how many bases"):
        read(VCF_HEADER)
    with pytest.raises(
        InputError, match="does not look like FASTA: expected a line starting with '>'"
    ):
        read("ACGT\n", input_format="fasta")
    with pytest.raises(InputError, match="edge must be one of shift, pad, clip"):
        WindowRule(edge="mirror")
    with pytest.raises(InputError, match="widening regions needs seq_len"):
        WindowRule(widen=True)


# --- BED

BAD_ROWS = {
    "chr1\t20\t10": ("unreadable", "start 20 is after end 10"),
    "chr9\t1\t2": ("unreadable", "no contig 'chr9'"),
    "1\t1\t2": ("unreadable", r"no contig '1' \(it has 'chr1'\)"),
    "chr1\t-5\t10": ("unreadable", "start is negative: -5"),
    "chr1\t5\t-10": ("unreadable", "end is negative: -10"),
    "chr1\t1000\t1001": ("unreadable", "past the end of chr1, which has 1,000 bases"),
    "chr1\t2000\t2000": ("unreadable", "past the end of chr1"),
    "chr1\tten\t20": ("unreadable", "start must be a whole number, got 'ten'"),
    "chr1\t1e2\t200": ("unreadable", "start must be a whole number, got '1e2'"),
    "chr1\t1_0\t20": ("unreadable", "start must be a whole number, got '1_0'"),
    "chr1\t10.0\t20": ("unreadable", "start must be a whole number"),
    "chr1\t\u0661\t20": ("unreadable", "start must be a whole number"),
    "chr1\t1\t" + "9" * 5000: ("unreadable", "end is larger than any contig"),
    "chr1\t10": ("unreadable", "got 2 columns"),
    "nonsense": ("unreadable", "got 1 columns"),
    "chr1\t10\t10": ("too short", "no base at all"),
    "gap\t0\t50": ("unreadable", "no A, C, G or T among 50 letters"),
    "chr1\t990\t1010": ("clipped", "end 1,010 lies past the end of chr1"),
    "chr1\t10\t20\tx\t0\tplus": ("ok", r"strand must be \+, - or \., got 'plus': read as \+"),
}


@pytest.mark.parametrize("line", BAD_ROWS, ids=lambda line: line[:20].replace("\t", " "))
def test_a_bad_row_of_bed_is_a_row_that_says_why(line):
    status, note = BAD_ROWS[line]
    before, row, after = read(f"chr1\t0\t9\n{line}\nchr1\t1\t9\n")
    assert row.status == status
    assert re.search(note, row.note)
    assert (row.codes is None) == (status in ("unreadable", "too short"))
    assert row.columns[: line.count("\t") + 1] == tuple(line.split("\t"))
    assert (before.status, after.status) == ("ok", "ok"), "the others go on"
    assert [row.line for row in (before, row, after)] == [1, 2, 3]


def test_the_strand_turns_what_is_read():
    text = "".join(f"chr1\t10\t25\tx\t0\t{strand}\n" for strand in "+-.")
    forward, reverse, unknown = read(text)
    assert letters(forward.codes) == letters(unknown.codes) == CHR1[10:25]
    assert letters(reverse_complement(reverse.codes)) == CHR1[10:25]
    assert reverse.window == Interval("chr1", 10, 25, Strand.REVERSE)


@pytest.mark.parametrize("n_columns", range(3, 15))
def test_a_bed_has_3_to_12_columns_and_may_have_more(n_columns):
    line = "\t".join(["chr1", "10", "20", *"abcdefghijk"][:n_columns])
    with open_regions(io.BytesIO(line.encode()), genome=GENOME) as table:
        assert len(set(table.columns)) == n_columns
        (row,) = table
    assert row.columns == tuple(line.split("\t"))


def test_rows_get_as_many_columns_as_the_first_have():
    text = "chr1\t1\t9\tname\n" * 100 + "chr1\t1\t9\nchr1\t1\t9\tname\t0\n"
    *_, shorter, longer = read(text)
    assert shorter.columns == ("chr1", "1", "9", "")
    assert longer.columns == ("chr1", "1", "9", "name")
    assert longer.note == "5 columns, of which the first 4 are kept"


def test_a_first_row_that_names_the_columns_does():
    text = b"chrom\tstart\tend\tgene\nchr1\t10\t20\tBRCA2\n"
    with open_regions(io.BytesIO(text), genome=GENOME) as table:
        assert table.columns == ("chrom", "start", "end", "gene")
        assert [row.columns[3] for row in table] == ["BRCA2"]


def test_bytes_that_are_not_utf8_are_kept():
    raw = b"chr1\t10\t20\tcaf\xe9\n"
    (row,) = read(raw)
    assert row.columns[3].encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_a_text_without_rows_has_none():
    assert read("") == read("# nothing\n\n") == read(VCF_HEADER, WindowRule(seq_len=9)) == []


# --- windows

SHIFT, PAD, CLIP = (WindowRule(seq_len=100, widen=True, edge=e) for e in ("shift", "pad", "clip"))


@pytest.mark.parametrize(
    ("region", "rule", "status", "window", "padding"),
    [
        ((500, 510), WindowRule(), "ok", (500, 510), (0, 0)),
        ((500, 510), WindowRule(seq_len=100), "ok", (500, 510), (0, 0)),
        ((500, 510), SHIFT, "ok", (455, 555), (0, 0)),
        ((500, 500), SHIFT, "ok", (450, 550), (0, 0)),
        ((300, 700), SHIFT, "clipped", (450, 550), (0, 0)),
        ((300, 400), SHIFT, "ok", (300, 400), (0, 0)),
        ((0, 10), SHIFT, "shifted", (0, 100), (0, 0)),
        ((0, 10), PAD, "padded", (0, 55), (45, 0)),
        ((0, 10), CLIP, "clipped", (0, 55), (0, 0)),
        ((990, 1000), SHIFT, "shifted", (900, 1000), (0, 0)),
        ((990, 1000), PAD, "padded", (945, 1000), (0, 45)),
        ((990, 1000), CLIP, "clipped", (945, 1000), (0, 0)),
    ],
)
def test_a_window_lies_around_its_region(region, rule, status, window, padding):
    placed = choose_window(*region, 1000, rule)
    assert (placed.status, (placed.start, placed.end), placed.padding) == (status, window, padding)


@pytest.mark.parametrize("edge", ["shift", "pad", "clip"])
def test_a_contig_shorter_than_the_window_is_read_whole(edge):
    row = read_one("short\t4\t5\n", WindowRule(seq_len=100, widen=True, edge=edge))
    real = letters(row.codes).strip("N")
    assert real == "ACGTACGTAC"
    assert len(row.codes) == (100 if edge == "pad" else 10)
    assert row.status == ("padded" if edge == "pad" else "clipped")


def test_padding_lies_on_its_side_of_the_other_strand():
    row = read_one("chr1\t0\t10\tx\t0\t-\n", PAD)
    text = letters(row.codes)
    assert text == letters(reverse_complement(GENOME.read("chr1", 0, 55))) + "N" * 45
    assert row.padding == (45, 0)


# --- FASTA


def test_every_record_is_a_row():
    text = (
        ">one a description\tof it\r\nACGU\r\nac gt\r\n\r\n>two\n>one\nNNNN\n"
        ">\nACGT\n>protein\nMEEPQSDPSVEPPLSQ\n>long\n" + "A" * 40 + "C" * 20 + "G" * 40
    )
    rows = read(text, WindowRule(seq_len=20))
    assert [row.columns for row in rows] == [
        ("one", "a description of it", "8"),
        ("two", "", "0"),
        ("one", "", "4"),
        ("", "", "4"),
        ("protein", "", "16"),
        ("long", "", "100"),
    ]
    assert [row.status for row in rows] == [
        *("ok", "too short", "unreadable", "ok", "unreadable", "clipped")
    ]
    assert letters(rows[0].codes) == "ACGTacgt"
    assert rows[4].note == "no A, C, G or T among 16 letters"
    assert letters(rows[5].codes) == "C" * 20
    assert rows[5].window == Interval("long", 40, 60)
    assert rows[5].note == "the middle 20 of 100 bases"


def test_letters_that_are_not_dna_are_counted():
    assert read_one(">a\nACGTXXZ-N\n").note == "3 letters that are not DNA"


# --- VCF

VCF_HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def vcf(*rows):
    lines = ("\t".join(map(str, (*row[:2], ".", *row[2:], ".", ".", "."))) for row in rows)
    return VCF_HEADER + "".join(f"{line}\n" for line in lines)


variants = st.tuples(
    st.integers(0, 59), st.integers(1, 12), st.text("ACGT", min_size=1, max_size=12)
)


@given(variants, st.integers(12, 80), st.sampled_from(["shift", "pad", "clip"]))
@settings(deadline=None, max_examples=200)
def test_alleles_stand_in_the_contig_as_it_is_and_as_it_would_be(variant, seq_len, edge):
    contig = random_sequence(60, seed=2)
    start, size, alt = variant
    ref = contig[start : start + size]
    (row,) = read(
        vcf(("c", start + 1, ref, alt)),
        WindowRule(seq_len=seq_len, edge=edge),
        MemoryGenome({"c": contig}),
    )
    changed = contig[:start] + alt + contig[start + len(ref) :]
    left, _ = row.padding
    at, begin = row.variant_start, row.window.start
    codes, alternative = letters(row.codes), letters(row.alternative)
    assert codes[at : at + len(ref)] == ref
    assert alternative[at : at + len(alt)] == alt
    assert at == left + start - begin
    assert codes.strip("N") == contig[begin : row.window.end]
    real = alternative.strip("N")
    assert real == changed[begin:][: len(real)]
    is_whole = len(codes) == len(alternative) == seq_len
    if edge == "pad":
        assert is_whole
    if row.status in ("ok", "shifted"):
        assert is_whole
        assert "N" not in codes + alternative


def test_every_alternative_allele_is_a_row():
    ref = CHR1[499]
    others = [base for base in "ACGT" if base != ref]
    rows = read(vcf(("chr1", 500, ref, ",".join(others))), WindowRule(seq_len=11))
    assert [row.columns[-1] for row in rows] == others
    assert [row.columns[4] for row in rows] == [",".join(others)] * 3, "as it stands in the file"
    assert [letters(row.alternative)[5] for row in rows] == others
    assert {letters(row.codes) for row in rows} == {CHR1[494:505]}


def test_a_lower_case_allele_and_one_with_n_are_read():
    ref = CHR1[499]
    assert read_one(vcf(("chr1", 500, ref.lower(), "n")), WindowRule(seq_len=3)).status == "ok"
    assert read_one(vcf(("gap", 50, "A", "C")), WindowRule(seq_len=9)).status == "ok", (
        "the genome has N there, which says nothing against an A"
    )


OTHER = "A" if CHR1[499] != "A" else "C"


@pytest.mark.parametrize(
    ("fields", "status", "note"),
    [
        (("chr1", 500, OTHER, "G"), "ref mismatch", f"the genome has {CHR1[499]}: another"),
        (("chr1", 500, CHR1[499:600] + OTHER, "G"), "ref mismatch", r"\.\.\.: another assembly"),
        (("chr9", 500, "A", "G"), "unreadable", "no contig 'chr9'"),
        (("chr1", 0, "A", "G"), "unreadable", "POS counts from 1"),
        (("chr1", -3, "A", "G"), "unreadable", "POS is negative"),
        (("chr1", "x", "A", "G"), "unreadable", "POS must be a whole number, got 'x'"),
        (("chr1", 1000, "AA", "G"), "unreadable", "past the end of chr1, which has 1,000 bases"),
        (("chr1", 500, "", "G"), "unreadable", "REF must be letters of DNA, got ''"),
        (("chr1", 500, "Q", "G"), "unreadable", "REF must be letters of DNA, got 'Q'"),
        (("chr1", 500, CHR1[499], "."), "unreadable", "no alternative allele"),
        (("chr1", 500, CHR1[499], "*"), "unreadable", "an overlapping deletion takes away"),
        (("chr1", 500, CHR1[499], "<DEL>"), "unreadable", "symbolic allele"),
        (("chr1", 500, CHR1[499], "G]17:198982]"), "unreadable", "symbolic allele"),
        (
            ("chr1", 500, CHR1[499], "hello"),
            "unreadable",
            "ALT must be letters of DNA, got 'hello'",
        ),
        (("chr1", 500, CHR1[499], "G" * 99), "unreadable", "99 bases, longer than the window"),
    ],
)
def test_a_bad_row_of_vcf_is_a_row_that_says_why(fields, status, note):
    row = read_one(vcf(fields), WindowRule(seq_len=20))
    assert row.status == status
    assert re.search(note, row.note)
    assert row.sequences == []
    assert row.columns[:2] == tuple(map(str, fields[:2]))


def test_a_short_row_of_vcf_is_a_row_and_genotypes_are_left_out():
    ref = CHR1[499]
    text = VCF_HEADER + f"chr1\t500\nchr1\t500\t.\t{ref}\tG\t.\t.\t.\tGT\t0/1\t1/1\n"
    short, long = read(text, WindowRule(seq_len=20))
    assert (short.status, short.columns) == ("unreadable", ("chr1", "500", *[""] * 7))
    assert len(long.columns) == 9


# --- real files


def test_a_hundred_thousand_rows_of_a_real_megabase(shared_data):
    genome = open_genome([shared_data / "genomes/human_GRCh37_chr7_86-87Mb.fa.gz"])
    ((name, length),) = genome.contigs.items()
    lines = (f"{name}\t{n * 7919 % length}\t{n * 7919 % length + 1}\n" for n in range(100_000))
    with open_regions(io.BytesIO("".join(lines).encode()), genome=genome) as table:
        statuses = Counter(row.status for row in table)
    assert statuses == {RowStatus.OK: 100_000}


def test_rna_of_mirbase(shared_data):
    with open_regions(shared_data / "genomes/mirbase_hairpin_RNA_U.fa.gz") as table:
        first = next(iter(table))
        statuses = Counter(row.status for row in table)
    assert letters(first.codes).startswith("TACACTGTGGATCC")
    assert statuses == {RowStatus.OK: 28_644}
