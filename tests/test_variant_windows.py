"""Windows with the same flanks around both alleles, however a file writes a variant."""

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.rows import WindowRule
from dnamamba.data_prep.regions.text_input import open_text
from dnamamba.data_prep.regions.vcf import read_variants
from dnamamba.errors import InputError
from dnamamba.tokenizer import decode, encode, reverse_complement
from genomes import (
    MemoryGenome,
    random_sequence,
)

HEADER = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
CONTIG = random_sequence(300, seed=1)


def rows_of(contig, variants, seq_len=40, edge="shift"):
    """variants: (start from 0, REF, ALT)."""
    lines = (f"c\t{start + 1}\t.\t{ref}\t{alt}\t.\t.\t.\n" for start, ref, alt in variants)
    raw = io.BytesIO((HEADER + "".join(lines)).encode())
    with open_text(raw) as text:
        rule = WindowRule(seq_len=seq_len, edge=edge)
        lines = list(read_variants(text, MemoryGenome({"c": contig}), rule))
    return [row for line in lines for row in line.rows]


def row_of(contig, start, ref, alt, **rule):
    (row,) = rows_of(contig, [(start, ref, alt)], **rule)
    return row


def shown(row):
    return decode(row.codes), decode(row.alternative)


def turned(text):
    return decode(reverse_complement(encode(text)))


def turn(contig, start, ref, alt):
    """The same variant of the other strand."""
    return turned(contig), len(contig) - start - len(ref), turned(ref), turned(alt)


def test_a_snv_stands_in_the_middle():
    other = "A" if CONTIG[150] != "A" else "C"
    row = row_of(CONTIG, 150, CONTIG[150], other, seq_len=41)
    assert shown(row) == (CONTIG[130:171], CONTIG[130:150] + other + CONTIG[151:171])
    assert (row.status, row.window.start, row.window.end) == ("ok", 130, 171)
    assert row.variant_start == 20
    even = row_of(CONTIG, 150, CONTIG[150], other, seq_len=42)
    assert shown(even) == shown(row), "both flanks are as long, so one base fewer"


def test_both_alleles_lie_between_the_same_flanks():
    contig = "C" * 50 + "GATTACAG" + "C" * 50
    row = row_of(contig, 51, "ATTA", "TGTGT", seq_len=25)
    assert shown(row) == (
        "C" * 9 + "G" + "ATTA" + "CAG" + "C" * 7,
        "C" * 9 + "G" + "TGTGT" + "CAG" + "C" * 7,
    )


def test_what_both_alleles_have_at_their_ends_is_no_part_of_the_variant():
    contig = "C" * 50 + "GATTACAG" + "C" * 50
    written = [(51, "A", "G"), (49, "CGA", "CGG"), (51, "ATTA", "GTTA"), (47, "CCCGATT", "CCCGGTT")]
    rows = rows_of(contig, written)
    assert len({shown(row) for row in rows}) == 1
    assert {row.window.start for row in rows} == {51 - 19}


def test_an_indel_in_a_repeat_is_the_same_wherever_it_is_written():
    contig = random_sequence(60, seed=2) + "CATATATATG" + random_sequence(60, seed=3)
    deletions = [
        *((60, "CAT", "C"), (61, "ATA", "A"), (62, "TAT", "T"), (66, "TAT", "T")),
        *((60, "CATATATATG", "CATATATG"), (67, "ATG", "G")),
    ]
    insertions = [(60, "C", "CAT"), (64, "T", "TAT"), (68, "T", "TAT"), (69, "G", "ATG")]
    for variants in (deletions, insertions):
        rows = rows_of(contig, variants)
        assert len({shown(row) for row in rows}) == 1
        left = rows[0].variant_start
        assert rows[0].window.start + left == 61, "all of ATATATAT, with as much on both sides"
        assert rows[0].window.end - 69 == left


def test_a_repeat_longer_than_half_the_window_is_taken_as_it_is_written():
    contig = random_sequence(60, seed=2) + "A" * 100 + random_sequence(60, seed=3)
    first, last = rows_of(contig, [(70, "AA", "A"), (140, "AA", "A")])
    assert first.window.start < last.window.start
    assert first.status == "ok"


variants = st.tuples(
    st.integers(0, 119), st.integers(1, 8), st.text("ACGT", min_size=1, max_size=8)
)
# Two letters make repeats, in which indels have many places.
contigs = st.integers(0, 50).map(
    lambda seed: (
        random_sequence(120, seed=seed).translate(str.maketrans("GT", "CA"))
        if seed % 2
        else random_sequence(120, seed=seed)
    )
)


@given(contigs, variants, st.integers(18, 80), st.sampled_from(["shift", "pad", "clip"]))
@settings(deadline=None, max_examples=300)
def test_the_other_strand_has_the_same_windows(contig, variant, seq_len, edge):
    start, size, alt = variant
    ref = contig[start : start + size]
    rule = {"seq_len": seq_len, "edge": edge}
    row = row_of(contig, start, ref, alt, **rule)
    other = row_of(*turn(contig, start, ref, alt), **rule)
    assert row.status == other.status
    if ref == alt:
        assert row.note == "the allele is the same as REF"
        return
    codes, alternative = shown(row)
    assert shown(other) == (turned(codes), turned(alternative))
    check_haplotypes(contig, start, ref, alt, row)
    longest = max(len(codes), len(alternative))
    assert longest in (seq_len, seq_len - 1) or row.status == "clipped"


def check_haplotypes(contig, start, ref, alt, row):
    """Both windows are what the two chromosomes have between the same bases."""
    codes, alternative = shown(row)
    left, right = row.padding
    changed = contig[:start] + alt + contig[start + len(ref) :]
    after = len(contig) - row.window.end
    assert codes == "N" * left + contig[row.window.start : row.window.end] + "N" * right
    expected = changed[row.window.start : len(changed) - after]
    assert alternative == "N" * left + expected + "N" * right
    at = row.variant_start
    assert codes[:at] == alternative[:at]


@pytest.mark.parametrize(
    ("start", "edge", "status", "window", "note"),
    [
        (100, "shift", "ok", (80, 121), ""),
        (5, "shift", "shifted", (0, 41), "moved 15 to the right, into the contig"),
        (295, "shift", "shifted", (259, 300), "moved 16 to the left, into the contig"),
        (0, "clip", "clipped", (0, 21), "the contig ends 20 bases before the window"),
        (299, "pad", "padded", (279, 300), "20 N beyond the contig's ends"),
    ],
)
def test_windows_at_the_ends_of_a_contig(start, edge, status, window, note):
    other = "A" if CONTIG[start] != "A" else "C"
    row = row_of(CONTIG, start, CONTIG[start], other, seq_len=41, edge=edge)
    assert (row.status, row.note) == (status, note)
    assert (row.window.start, row.window.end) == window
    assert len(row.codes) == len(row.alternative) == (21 if edge == "clip" else 41)


def test_a_contig_shorter_than_the_window_is_read_whole():
    row = row_of("ACGTACGTAC", 8, "A", "G", seq_len=41)
    assert shown(row) == ("ACGTACGTAC", "ACGTACGTGC")
    assert (row.status, row.note) == (
        "clipped",
        "the contig ends 31 bases before the window",
    )


def test_where_the_genome_has_n_the_letter_of_the_file_is_the_reference():
    row = row_of("C" * 50 + "N" + "G" * 50, 50, "A", "T", seq_len=5)
    assert shown(row) == ("CCAGG", "CCTGG")


REF = CONTIG[99]
BAD = {
    ("N",): "an allele with N or ambiguous letters",
    (REF,): "the allele is the same as REF",
    (REF + "ACGT" * 10,): "an allele of 4[0-9] bases leaves no flanks in a window of 40",
    ("<DEL>",): "a symbolic allele",
    ("*",): r"takes away \(\*\)",
    (".",): "no alternative allele",
}


@pytest.mark.parametrize("alt", BAD, ids=lambda alt: alt[0][:5])
def test_an_allele_that_has_no_window_is_a_row_that_says_why(alt):
    row = row_of(CONTIG, 99, REF, alt[0])
    assert (row.status, row.codes) == ("unreadable", None)
    assert re.search(BAD[alt], row.note)


def test_lines_and_their_alleles_stay_together():
    text = HEADER + "".join(
        f"c\t100\t.\t{REF}\t{alt}\t.\t.\t.\tGT\t0/1\n" for alt in ("ACGT,<DEL>,AC", ".", "*")
    )
    genome, rule = MemoryGenome({"c": CONTIG}), WindowRule(seq_len=40)
    with open_text(io.BytesIO(text.encode())) as opened:
        file = read_variants(opened, genome, rule)
        lines = list(file)
    assert file.header == HEADER.splitlines()
    assert [line.text for line in lines] == text.splitlines()[2:]
    assert [[row.columns[-1] for row in line.rows] for line in lines] == [
        ["ACGT", "<DEL>", "AC"],
        ["."],
        ["*"],
    ]


def test_what_is_no_vcf_is_refused():
    genome = MemoryGenome({"c": CONTIG})
    with (
        open_text(io.BytesIO(b"c\t1\t2\n")) as text,
        pytest.raises(InputError, match="is no VCF, which begins with ##fileformat"),
    ):
        read_variants(text, genome, WindowRule(seq_len=9))
    with (
        open_text(io.BytesIO(HEADER.encode())) as text,
        pytest.raises(InputError, match="say how many bases"),
    ):
        read_variants(text, genome, WindowRule())


def test_variants_of_a_real_megabase_keep_their_flanks(shared_data):
    """1,000 of them are compared with the chromosomes they stand for."""
    genome = open_genome([shared_data / "genomes/human_GRCh37_chr7_86-87Mb.fa.gz"])
    ((name, length),) = genome.contigs.items()
    contig = decode(genome.read(name, 0, length)).upper()
    rng = np.random.default_rng(0)
    variants = []
    for start in rng.integers(0, length - 10, 1000).tolist():
        size = int(rng.integers(1, 9))
        variants.append((start, contig[start : start + size], random_sequence(4, seed=start)))
    for variant, row in zip(variants, rows_of(contig, variants, 256), strict=True):
        if row.codes is not None:
            check_haplotypes(contig, *variant, row)
