"""GFF3, GTF, lists of regions and tables as rows; what of a row is read, where its region lies in
it, and rows too long to be held."""

import gzip
import io
import os
import re
import threading
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.gff import feature_name
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import RowStatus, WindowRule
from dnamamba.errors import InputError
from dnamamba.intervals import Interval, Strand
from dnamamba.tokenizer import decode, encode, reverse_complement
from genomes import (
    MemoryGenome,
    random_sequence,
    write_bgzf,
    write_fasta,
    write_gzip,
    write_store,
)

CHR1 = random_sequence(1000, seed=1)
GENOME = MemoryGenome(
    {"chr1": CHR1, "gap": "N" * 50 + "ACGT" * 5, "HLA:1-2": "ACGTACGT", "a b": "ACGT"}
)


def read(text, rule=None, genome=GENOME, **options):
    raw = text if isinstance(text, bytes) else text.encode()
    with open_regions(io.BytesIO(raw), genome=genome, rule=rule, **options) as table:
        return list(table)


def read_one(text, rule=None, **options):
    (row,) = read(text, rule, **options)
    return row


def letters(codes):
    return None if codes is None else decode(codes)


def turned(text):
    return letters(reverse_complement(encode(text)))


def statistics(row):
    """All that a row says, with codes that can be compared."""
    where = (row.window, row.padding, row.region, row.span, row.length)
    return (row.line, row.columns, row.name, row.status, row.note, letters(row.codes), *where)


# --- where a region lies in what is read


@st.composite
def bed_cases(draw):
    n = draw(st.integers(1, 60))
    start = draw(st.integers(0, n - 1))
    end = draw(st.integers(start + 1, n + 9))
    rule = WindowRule(
        seq_len=draw(st.integers(1, 90)),
        widen=draw(st.booleans()),
        cut=draw(st.booleans()),
        edge=draw(st.sampled_from(["shift", "pad", "clip"])),
    )
    return n, start, end, draw(st.sampled_from("+-.")), rule


@given(bed_cases())
@settings(deadline=None, max_examples=400)
def test_the_span_holds_the_bases_of_the_region(case):
    n, start, end, strand, rule = case
    contig = random_sequence(n, seed=n)
    genome = MemoryGenome({"c": contig})
    row = read_one(f"c\t{start}\t{end}\tx\t0\t{strand}\n", rule, genome=genome)
    assert row.region == Interval("c", start, min(end, n), Strand(strand))
    bases = contig[start:end]
    whole = letters(row.read(0, row.length))
    found = whole[slice(*row.span)]
    if rule.cut and len(bases) > rule.seq_len:
        assert found == whole
        assert len(found) == rule.seq_len
        assert (turned(found) if strand == "-" else found) in bases
    else:
        assert found == (turned(bases) if strand == "-" else bases)


@given(bed_cases(), st.integers(0, 40), st.integers(1, 20))
@settings(deadline=None, max_examples=400)
def test_a_lazy_row_is_the_same_in_pieces(case, lazy_from, size):
    n, start, end, strand, rule = case
    genome = MemoryGenome({"c": random_sequence(n, seed=n, letters="ACGTNX")})
    text = f"c\t{start}\t{end}\tx\t0\t{strand}\n"
    row = read_one(text, rule, genome=genome)
    lazy = read_one(text, WindowRule(**(vars(rule) | {"lazy_from": lazy_from})), genome=genome)
    assert (lazy.codes is None) == (row.length > lazy_from or row.codes is None)
    assert statistics(lazy)[:5] == statistics(row)[:5]
    assert statistics(lazy)[6:] == statistics(row)[6:]
    pieces = [lazy.read(i, min(i + size, lazy.length)) for i in range(0, lazy.length, size)]
    assert "".join(map(letters, pieces)) == (letters(row.codes) or "")


def test_a_piece_beyond_what_is_read_is_refused():
    for rule in (WindowRule(), WindowRule(lazy_from=5)):
        row = read_one("chr1\t10\t20\n", rule)
        assert letters(row.read(3, 10)) == CHR1[13:20]
        assert len(row.read(10, 10)) == 0
        for start, end in ((0, 11), (-1, 4), (5, 4)):
            with pytest.raises(InputError, match=r"expected 0 <= start <= end <= 10, the bases"):
                row.read(start, end)
    nothing = read_one("chr9\t10\t20\n")
    assert (nothing.length, len(nothing.read(0, 0)), nothing.span) == (0, 0, None)


def test_letters_of_a_long_region_are_looked_at_piece_by_piece():
    n = (1 << 21) + 5

    class Watched(MemoryGenome):
        longest = 0

        def read(self, contig, start, end):
            self.longest = max(self.longest, end - start)
            return super().read(contig, start, end)

    genome = Watched({"n": "N" * n, "last": "N" * (n - 1) + "A", "x": "XA" * (n // 2)})
    text = "".join(f"{name}\t0\t{size}\n" for name, size in genome.contigs.items())
    empty, last, foreign = read(text, WindowRule(lazy_from=1 << 20), genome=genome)
    assert genome.longest == 1 << 20
    assert (empty.status, empty.note) == ("unreadable", "no A, C, G or T among 2,097,157 letters")
    assert empty.region == Interval("n", 0, n)
    assert (last.status, last.length, last.codes) == ("ok", n, None)
    assert foreign.note == "1,048,578 letters that are not DNA"
    held = read(text, genome=genome)
    assert [row.note for row in held] == [empty.note, last.note, foreign.note]


def test_a_region_longer_than_the_context_is_read_whole_where_it_is_not_cut():
    text = "chr1\t100\t300\tx\t0\t-\nchr1\t100\t110\n"
    whole, widened = read(text, WindowRule(seq_len=50, widen=True, cut=False))
    assert (whole.status, whole.length, whole.span) == ("ok", 200, (0, 200))
    assert (widened.window, widened.span) == (Interval("chr1", 80, 130), (20, 30))
    (record,) = read(">a\n" + "ACGT" * 9, WindowRule(seq_len=5, cut=False))
    assert (record.length, record.status, record.span) == (36, "ok", (0, 36))
    (record,) = read(">a\n" + "ACGT" * 9, WindowRule(seq_len=6))
    assert (record.region, record.window) == (Interval("a", 0, 36), Interval("a", 15, 21))
    assert (record.span, record.name) == ((0, 6), "a")
    with pytest.raises(InputError, match="lazy_from must be >= 0 bases, got -1"):
        WindowRule(lazy_from=-1)


@given(
    st.integers(0, 59), st.integers(1, 12), st.integers(12, 80), st.sampled_from(["pad", "clip"])
)
@settings(deadline=None, max_examples=100)
def test_the_span_of_a_variant_is_its_ref(start, size, seq_len, edge):
    contig = random_sequence(60, seed=2)
    ref = contig[start : start + size]
    vcf = f"##fileformat=VCFv4.2\nc\t{start + 1}\trs7\t{ref}\tG,GT\n"
    rows = read(vcf, WindowRule(seq_len=seq_len, edge=edge), genome=MemoryGenome({"c": contig}))
    for row in rows:
        assert (row.name, row.region) == ("rs7", Interval("c", start, start + len(ref)))
        assert letters(row.codes)[slice(*row.span)] == ref


def test_rows_that_are_not_read_still_say_their_region_and_name_where_they_can():
    other = "A" if CHR1[4] != "A" else "C"
    vcf = f"##fileformat=VCFv4.2\nchr1\t5\trs1\t{other}\tG\nchr9\t5\t.\tA\tG\n"
    mismatch, unknown = read(vcf, WindowRule(seq_len=9))
    assert (mismatch.region, mismatch.name) == (Interval("chr1", 4, 5), "rs1")
    assert (unknown.region, unknown.name) == (None, "")
    gap, unknown = read("gap\t0\t50\tgene\nchr9\t0\t50\t.\n")
    assert (gap.region, gap.name, gap.span) == (Interval("gap", 0, 50), "gene", None)
    assert (unknown.region, unknown.name) == (None, "")


# --- a hundred thousand rows of BED

KINDS = {
    "good": "chr1\t{a}\t{b}\tx\t0\t-",
    "start > end": "chr1\t{b}\t{a}",
    "unknown contig": "chrUn\t{a}\t{b}",
    "negative": "chr1\t-{b}\t{a}",
    "past the end": "chr1\t{a}\t1{b}00",
    "beyond": "chr1\t5{b}00\t6{b}00",
    "text": "this is no row, {a}",
    "0-length": "chr1\t{a}\t{a}",
    "duplicate": "chr1\t7\t9",
    "crlf": "chr1\t{a}\t{b}\r",
    "comment": "# {a}",
    "wide": "chr1\t{a}\t{b}\tx\t0\t+\t1\t2\t3\t4\t5\t6",
}
STATUS = {
    "unreadable": ("start > end", "unknown contig", "negative", "beyond", "text"),
    "clipped": ("past the end",),
    "too short": ("0-length",),
    "ok": ("good", "duplicate", "crlf", "wide"),
}


def bad_bed(n_rows):
    """Lines, and the status of each that is no comment."""
    status = {kind: name for name, kinds in STATUS.items() for kind in kinds}
    lines, expected = [], []
    for i, (kind, line) in zip(range(n_rows), list(KINDS.items()) * n_rows, strict=False):
        lines.append(line.format(a=i * 7919 % 900 + 1, b=950 + i % 50))
        if kind != "comment":
            expected.append((i + 1, status[kind]))
    return "".join(f"{line}\n" for line in lines), expected


def test_of_a_hundred_thousand_rows_each_comes_out_or_says_why():
    text, expected = bad_bed(100_000)
    found = Counter()
    with open_regions(io.BytesIO(text.encode()), genome=GENOME) as table:
        for row, (line, status) in zip(table, expected, strict=True):
            assert (row.line, row.status) == (line, status)
            assert row.note or status == "ok"
            assert (row.span is None) == (row.codes is None) == (status[:3] in ("unr", "too"))
            found[row.status] += 1
    assert found.total() == 91_667
    assert found[RowStatus.UNREADABLE] == 41_668


def through_a_pipe(raw):
    reading, writing = os.pipe()
    sender = threading.Thread(target=lambda: (os.write(writing, raw), os.close(writing)))
    sender.start()
    return os.fdopen(reading, "rb")


@pytest.mark.parametrize("way", ["gzip", "bgzf", "pipe", "packed pipe"])
def test_every_way_to_get_a_bed_gives_the_same_rows(way, tmp_path):
    text, _ = bad_bed(1000)
    path = tmp_path / "x.bed.gz"
    ways = {
        "gzip": lambda: write_gzip(path, text),
        "bgzf": lambda: write_bgzf(path, text),
        "pipe": lambda: through_a_pipe(text.encode()),
        "packed pipe": lambda: through_a_pipe(gzip.compress(text.encode())),
    }
    rule = WindowRule(seq_len=64, widen=True, edge="pad")
    with open_regions(ways[way](), genome=GENOME, rule=rule) as table:
        found = list(map(statistics, table))
    assert found == list(map(statistics, read(text, rule)))


@pytest.mark.parametrize("kind", ["fasta", "bgzf", "store"])
def test_short_windows_of_every_kind_of_genome_are_alike(kind, tmp_path):
    write = {"fasta": write_fasta, "store": write_store}
    if kind == "bgzf":
        path = write_bgzf(tmp_path / "x.fa.gz", f">chr1\n{CHR1}\n")
    else:
        path = write[kind](tmp_path / "x", {"chr1": CHR1})
    text, _ = bad_bed(2000)
    rule = WindowRule(seq_len=100, widen=True, lazy_from=80)
    genome = open_genome([path])
    rows = read(text, rule, genome=genome)
    assert list(map(statistics, rows)) == list(
        map(statistics, read(text, rule, genome=MemoryGenome({"chr1": CHR1})))
    )
    lazy = next(row for row in rows if row.length == 100)
    assert letters(lazy.read(10, 90)) == turned(CHR1[lazy.window.start + 10 : lazy.window.end - 10])


# --- GFF3 and GTF


def gff(*rows, head="##gff-version 3\n"):
    return head + "".join("\t".join(map(str, row)) + "\n" for row in rows)


def feature(start, end, strand="+", attributes="ID=x", seqid="chr1"):
    return (seqid, "src", "gene", start, end, ".", strand, ".", attributes)


def test_features_count_from_1_and_include_the_end():
    rows = read(
        gff(feature(1, 1), feature(1000, 1000), feature(1, 1000), feature(11, 20, "-", "Name=b"))
    )
    assert [row.region for row in rows] == [
        Interval("chr1", 0, 1),
        Interval("chr1", 999, 1000),
        Interval("chr1", 0, 1000),
        Interval("chr1", 10, 20, Strand.REVERSE),
    ]
    first, last, whole, reverse = map(letters, (row.codes for row in rows))
    assert (first, last, whole) == (CHR1[0], CHR1[-1], CHR1)
    assert reverse == turned(CHR1[10:20])
    assert {row.status for row in rows} == {"ok"}
    assert rows[3].columns == ("chr1", "src", "gene", "11", "20", ".", "-", ".", "Name=b")
    assert [row.line for row in rows] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("row", "status", "note"),
    [
        (feature(0, 5), "unreadable", "start counts from 1; 0 is beyond the contig"),
        (feature(5, 4), "unreadable", "start 5 is after end 4"),
        (feature(1001, 1001), "unreadable", "lies past the end of chr1, which has 1,000 bases"),
        (feature(1000, 1001), "clipped", "end 1,001 lies past the end of chr1"),
        (feature("x", 5), "unreadable", "start must be a whole number, got 'x'"),
        (feature(5, -5), "unreadable", "end is negative: -5"),
        (feature(1, 5, seqid="1"), "unreadable", r"no contig '1' \(it has 'chr1'\)"),
        (feature(1, 5, "plus"), "ok", r"strand must be \+, - or \., got 'plus': read as \+"),
        (feature(1, 5, "?"), "ok", "^$"),
        (
            ("chr1", "src", "gene", 1),
            "unreadable",
            "nine columns, start and end fourth, got 4",
        ),
        ((*feature(1, 5), "more"), "ok", "10 columns, of which the first 9 are kept"),
        (feature(1, 5, attributes="")[:8], "ok", "^$"),
        (feature(1, 50, seqid="gap"), "unreadable", "no A, C, G or T among 50 letters"),
    ],
)
def test_a_bad_feature_is_a_row_that_says_why(row, status, note):
    before, found, after = read(gff(feature(1, 9), row, feature(2, 9)))
    assert found.status == status
    assert re.search(note, found.note)
    assert (before.status, after.status) == ("ok", "ok")


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        ("ID=gene:1;Name=BRCA2", "gene:1"),
        ("Parent=t1;Name=BRCA2;gene_id=g", "BRCA2"),
        ("ID=;Name=a%2Cb%3B%20c", "a,b; c"),
        ("ID=caf%C3%A9%09%0A", "caf\u00e9"),
        ('Note=gene_id "no";gene_id=E1', "E1"),
        ('gene_id "ENSG1"; transcript_id "ENST1"; level 2;', "ENSG1"),
        ('transcript_id "T;1 = x"; tag "a";', "T;1 = x"),
        ('gene_id ""; transcript_id "T1"', "T1"),
        ("gene_id bare; transcript_id T1", "bare"),
        ('gene_id "first"; gene_id "second"', "first"),
        ('gene_id "never closed', "never closed"),
        ("Parent=t1", ""),
        (".", ""),
        ("", ""),
        ("just words", ""),
    ],
)
def test_a_feature_is_called_by_the_first_of_its_names(attributes, name):
    assert feature_name(attributes) == name


def test_attributes_of_a_megabyte_take_no_time():
    for hostile in (" " * (1 << 20), 'a "' * (1 << 18), "a=" * (1 << 19), "x " * (1 << 19)):
        assert feature_name(hostile) == ""


def test_comments_are_passed_over_and_a_fasta_section_ends_the_features(tmp_path):
    body = gff(
        *[("#!genome-build x",), ("track name=x",), feature(1, 4), ("###",), feature(5, 8)],
        *[("##FASTA",), (">chr1",), ("ACGT",), feature(1, 2)],
    )
    assert [row.region.start for row in read(body)] == [0, 4]
    assert [row.region.start for row in read(body.replace("##FASTA\n", ""))] == [0, 4]
    for write in (write_gzip, write_bgzf):
        with open_regions(write(tmp_path / "x.gff.gz", body), genome=GENOME) as table:
            assert list(map(statistics, table)) == list(map(statistics, read(body)))


def test_gtf_is_told_by_its_first_row():
    row = feature(1, 4, "-", 'gene_id "G"; transcript_id "T";')
    for head in ("", "#!genome-build GRCh38\n", "# a comment\n\n"):
        assert [one.name for one in read(gff(row, head=head))] == ["G"]
    assert read_one(gff(row, head="").replace("\n", "\r\n")).name == "G"
    spaces = 'chr1 src gene 1 4 . - . gene_id "G 1"; tag 5;\n'
    assert read_one(spaces, input_format="gtf").name == "G 1"
    with pytest.raises(InputError, match=r"is read as GFF or GTF, which .* name the genome"):
        read(gff(row), genome=None)


@pytest.mark.parametrize(
    "line",
    ["chr1\t10\t20\t5\t7\t+\t.\t.\t0", "chr1\t10\t20\t5\t7\t+\t.\t1\t2\t3\t4\t5", "chr1\t1\t2"],
)
def test_a_bed_of_numbers_is_none(line):
    assert read_one(line).region.start == int(line.split("\t")[1])


def test_seqids_may_be_escaped():
    rows = read(gff(feature(1, 4, seqid="a%20b"), feature(1, 4, seqid="a b"), feature(1, 4)))
    assert [row.region.chrom for row in rows] == ["a b", "a b", "chr1"]


# --- regions as text


@pytest.mark.parametrize(
    ("written", "region"),
    [
        ("chr1:1-1,000", ("chr1", 0, 1000, "+")),
        ("chr1:1-1", ("chr1", 0, 1, "+")),
        ("chr1:1_000-1000", ("chr1", 999, 1000, "+")),
        ("chr1:11-20:-", ("chr1", 10, 20, "-")),
        ("chr1:11-20:+", ("chr1", 10, 20, "+")),
        ("chr1:11-20:*", ("chr1", 10, 20, ".")),
        ("chr1:11-20/rc", ("chr1", 10, 20, "-")),
        ("chr1", ("chr1", 0, 1000, "+")),
        ("HLA:1-2:3-5", ("HLA:1-2", 2, 5, "+")),
        ("HLA:1-2", ("HLA:1-2", 0, 8, "+")),
    ],
)
def test_regions_are_read_as_people_write_them(written, region):
    chrom, start, end, strand = region
    with open_regions(written, genome=GENOME) as table:
        (row,) = table
    assert row.region == Interval(chrom, start, end, Strand(strand))
    bases = letters(GENOME.read(chrom, start, end))
    assert letters(row.codes) == (turned(bases) if strand == "-" else bases)
    assert (row.columns, row.name, row.status) == ((written,), written, "ok")
    listed = read_one(f"# mine\n{written}\r\n", input_format="region")
    assert (listed.region, listed.line) == (row.region, 2)


@pytest.mark.parametrize(
    ("written", "note"),
    [
        ("chr1:0-100", "start counts from 1; if from 0, as bedtools writes it, use a BED"),
        ("chr1:1-100(-)", r"\(-\) is written by bedtools after starts that count from 0, .* in :-"),
        ("chr1:0-100(+)", r"\(\+\) is written by bedtools"),
        ("chr1:20-10", "start 20 is after end 10"),
        ("chr2:1-10", "no contig 'chr2'"),
        ("chr1:1001-1002", "past the end of chr1"),
        ("chr1:1-" + "9" * 5000, "end is larger than any contig"),
        ("chr1:100", r"a region must be like chr1:1,001-2,000 \(from 1, end included\)"),
        ("chr1:,-,", "a region must be like"),
        ("chr1 1 2", "a region must be like"),
        ("chr1:\u0661-5", "a region must be like"),
    ],
)
def test_a_bad_region_is_a_row_that_says_why(written, note):
    before, row, after = read(f"chr1:1-5\n{written}\nchr1:1-5\n")
    assert (row.status, row.columns, row.name) == ("unreadable", (written,), written)
    assert re.search(note, row.note)
    assert (before.status, after.status) == ("ok", "ok")


def test_a_region_that_is_also_the_name_of_a_contig_is_not_guessed():
    genome = MemoryGenome({"HLA": "ACGT", "HLA:1-2": "ACGT"})
    row = read_one("HLA:1-2\n", genome=genome)
    assert row.note == "is a contig's name and a region of HLA: use a BED"


def test_text_is_a_file_before_it_is_a_region(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chr1:1-5").write_text("chr1\t7\t9\n")
    with open_regions("chr1:1-5", genome=GENOME) as table:
        assert [row.region.start for row in table] == [7]
    with pytest.raises(FileNotFoundError, match=r"no such file: peaks\.bed; nor is it a region"):
        open_regions("peaks.bed", genome=GENOME).__enter__()
    with pytest.raises(FileNotFoundError, match=r"no such file: chr1:1-6"):
        open_regions("chr1:1-6", genome=GENOME, input_format="bed").__enter__()
    with pytest.raises(InputError, match=r"chr1:1-6 is read as a list of regions, which .*genome"):
        open_regions("chr1:1-6").__enter__()


# --- tables

TABLE = "name,label,sequence\none,a,ACGTac\ntwo,b,NNN\nthree,c,\nfour,d,acgx\n"


@pytest.mark.parametrize("mark", [",", "\t", ";"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_rows_of_a_table_are_like_records(mark, pack):
    raw = pack(TABLE.replace(",", mark).encode())
    with open_regions(io.BytesIO(raw)) as table:
        assert table.columns == ("name", "label")
        rows = list(table)
    assert [row.columns for row in rows] == [
        ("one", "a"),
        ("two", "b"),
        ("three", "c"),
        ("four", "d"),
    ]
    assert [row.name for row in rows] == ["one", "two", "three", "four"]
    assert [row.status for row in rows] == ["ok", "unreadable", "too short", "ok"]
    assert [row.line for row in rows] == [2, 3, 4, 5]
    assert letters(rows[0].codes) == "ACGTac"
    assert (rows[0].region, rows[0].span) == (Interval("one", 0, 6), (0, 6))
    assert rows[3].note == "1 letters that are not DNA"


def test_columns_of_a_table_are_named():
    text = 'id,seq,"my name"\n1, AC GT ,"x, y"\n\n2,ACGT\n3,ACGT,z,more\n'
    first, short, long = read(text, sequence_column="seq", name_column="my name")
    assert (first.name, first.columns, letters(first.codes)) == ("x, y", ("1", "x, y"), "ACGT")
    assert (short.status, short.note) == ("unreadable", "2 columns, the header has 3")
    assert (long.status, long.columns, long.line) == ("unreadable", ("3", "z"), 5)
    with pytest.raises(
        InputError, match=r"no column 'dna'; .* --sequence-column and --name-column"
    ):
        read(text, sequence_column="dna")
    with pytest.raises(InputError, match="no column 'called'"):
        read(text, sequence_column="seq", name_column="called")
    with pytest.raises(InputError, match="no column 'sequence'"):
        read(text, input_format="table")
    with pytest.raises(InputError, match="cannot be read as a table: unexpected end of data"):
        read('sequence\n"ACGT\n')


def test_a_bed_with_a_column_of_sequences_is_one():
    text = "chrom\tstart\tend\tsequence\nchr1\t10\t20\tACGT\n"
    assert read_one(text).region == Interval("chr1", 10, 20)
    assert letters(read_one(text, sequence_column="sequence").codes) == "ACGT"


def test_names_that_are_not_utf8_are_kept():
    row = read_one(b"name,sequence\ncaf\xe9,ACGT\n")
    assert row.name.encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_a_table_is_read_as_rows_are_taken():
    class Endless(io.RawIOBase):
        taken = 0

        def read(self, size=-1):
            self.taken += 1
            line = b"sequence\n" if self.taken == 1 else b"ACGTACGT\n"
            return line * (1 if self.taken == 1 else size // len(line))

    stream = Endless()
    with open_regions(stream) as table:
        assert all(row.status == "ok" for row in islice(table, 200))
    assert stream.taken < 5


def test_parquet_is_read_from_a_file_a_gzip_and_a_pipe(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, an optional extra")
    import pyarrow

    columns = {"n": [1, None, 3], "lists": [[1], [2], []], "sequence": ["ACGT", None, "ggn"]}
    path = tmp_path / "x.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    packed = write_gzip(tmp_path / "y", path.read_bytes().decode("latin-1"))
    for source in (path, packed, io.BytesIO(path.read_bytes())):
        with open_regions(source, name_column="n") as table:
            assert table.columns == ("n",)
            rows = list(table)
        assert [letters(row.codes) for row in rows] == ["ACGT", None, "ggN".lower()]
        assert [(row.line, row.name) for row in rows] == [(1, "1"), (2, ""), (3, "3")]
    with pytest.raises(InputError, match="is parquet, a table, but was to be read as bed"):
        read(path.read_bytes(), input_format="bed")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        read(path.read_bytes()[:-20])


def test_a_cut_off_table_is_refused():
    raw = gzip.compress(("sequence\n" + "ACGT\n" * 99).encode())
    with pytest.raises(InputError, match="cut off or damaged"):
        read(raw[:-9])


# --- FASTA


def test_records_with_lines_longer_than_a_piece(monkeypatch):
    monkeypatch.setattr("dnamamba.data_prep.regions.text_input._BLOCK", 7)
    text = "\ufeff>a long header\r\nACGTACGTACGT\r\n\r\nAC GT\r\n>b\r\n>c\nACGTACGTNNNN>"
    a, b, c = read(text)
    assert a.columns == ("a", "long header", "16")
    assert letters(a.codes) == "ACGTACGTACGTACGT"
    assert b.status == "too short"
    assert (letters(c.codes), c.note) == ("ACGTACGTNNNNN", "1 letters that are not DNA")
