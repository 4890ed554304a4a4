"""`dnamamba score`: whole runs, an annotated VCF that is still the input's, a table, exit codes."""

import gzip
import math
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from Bio import bgzf
from click.testing import CliRunner

from dnamamba.cli.main import cli
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.rows import WindowRule
from dnamamba.errors import InputError
from dnamamba.models import BiMambaConfig, DnaModel, MambaConfig, ModelConfig
from dnamamba.scoring.output import format_of_output, info_fields
from dnamamba.scoring.variants import ScoreOptions, score_rows
from genomes import (
    random_sequence,
    write_bgzf,
    write_fasta,
)
from variant_files import anchored, draw_changes, rows_of, vcf_text

CONTIG = random_sequence(600, seed=5)
OTHERS = ["ACGT".replace(letter, "") for letter in CONTIG]
IDS = [field.id for field in info_fields(is_causal=True)]
SCORES = IDS[:4]


def save_model(folder, mixer):
    torch.manual_seed(0)
    model = DnaModel(ModelConfig(d_model=16, n_layers=1, mixer=mixer))
    torch.nn.init.normal_(model.backbone.embedding.weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("run") / "model", MambaConfig())


@pytest.fixture
def genome(tmp_path):
    return write_fasta(tmp_path / "genome.fa", {"chr1": CONTIG})


def score(*arguments, stdin=None):
    """Exit code, standard output, standard error; a user's mistake is raised as it is."""
    command = ["score", "--device", "cpu", "--seq-len", "64", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def info_of(line):
    entries = line.split("\t")[7].split(";")
    return dict(entry.partition("=")[::2] for entry in entries)


def table_of(text):
    names, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


META = (
    "##fileformat=VCFv4.2\n"
    '##FILTER=<ID=q10,Description="Quality below 10">\n'
    '##INFO=<ID=CSQ,Number=.,Type=String,Description="A|B">\n'
    "##contig=<ID=chr1,length=600>\n"
    "##comment=caf\u00e9\n"
)
NAMES = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone\ttwo\n"


def record(at, alt=None, ref=None, info=".", identifier="."):
    ref = CONTIG[at] if ref is None else ref
    alt = OTHERS[at][0] if alt is None else alt
    more = "30.5\tq10\t" + info + "\tGT:AD:PL\t0|1:3,4:0,10,200\t./.:.:."
    return f"chr1\t{at + 1}\t{identifier}\t{ref}\t{alt}\t{more}\n"


RECORDS = [
    record(100, identifier="rs1;rs2"),
    record(150, alt=f"{OTHERS[150][0]},{CONTIG[150]}ACG,<DEL>,*", info="DB;CSQ=a|b%3Bc,d|e;AF=0.5"),
    record(200, ref=OTHERS[200][1], alt=CONTIG[200]),
    record(250, ref=CONTIG[250:254], alt=CONTIG[250], info="END=254"),
    record(260, alt="."),
    record(5, alt=OTHERS[5][2]),
]
VCF = META + NAMES + "".join(RECORDS)


def scored_lines(model, genome, text, *arguments):
    code, stdout, _ = score(
        *(model, "-", "--genome", genome, "--out", "-", *arguments), stdin=text.encode()
    )
    assert code == 0
    lines = stdout.splitlines()
    return [line for line in lines if line.startswith("#")], [
        line for line in lines if not line.startswith("#")
    ]


def test_a_vcf_comes_back_with_nothing_but_fields_added_to_info(model, genome):
    header, lines = scored_lines(model, genome, VCF)
    assert header[: META.count("\n")] == META.splitlines()
    assert header[-1] == NAMES.strip()
    added = header[META.count("\n") : -1]
    assert [line.split(",")[0] for line in added[:-1]] == [f"##INFO=<ID={name}" for name in IDS]
    assert all(",Number=A,Type=" in line for line in added[:-1])
    assert added[-1].startswith("##dnamamba_score=version=")
    assert added[-1].endswith("genome=genome.fa;seq_len=64;edge=shift;rc=average;precision=fp32")
    assert f"model={model.parent.name};" in added[-1]
    assert len(lines) == len(RECORDS)
    for line, given in zip(lines, RECORDS, strict=True):
        columns, before = line.split("\t"), given.strip().split("\t")
        assert columns[:7] + columns[8:] == before[:7] + before[8:]
        kept = [entry for entry in columns[7].split(";") if not entry.startswith("DNAMAMBA")]
        assert kept == ([] if before[7] == "." and columns[7] != "." else before[7].split(";"))


def test_info_has_a_value_for_each_allele(model, genome):
    _, lines = scored_lines(model, genome, VCF)
    first, several, mismatch, deletion, _, start = map(info_of, lines)
    assert first.keys() == {*SCORES, "DNAMAMBA_STATUS"}
    assert several["DNAMAMBA_STATUS"] == "ok,ok,unreadable,unreadable"
    for name in SCORES:
        values = several[name].split(",")
        assert [value == "." for value in values] == [False, False, True, True]
        assert all(math.isfinite(float(value)) for value in values[:2])
    notes = several["DNAMAMBA_NOTE"].split(",")
    assert notes[:2] == [".", "."]
    assert unquote(notes[2]) == "a symbolic allele, whose sequence the file does not have"
    assert not set(" ;=,") & set("".join(notes))
    assert mismatch["DNAMAMBA_STATUS"] == "ref_mismatch"
    assert mismatch.keys() == {"DNAMAMBA_STATUS", "DNAMAMBA_NOTE"}
    assert unquote(mismatch["DNAMAMBA_NOTE"]).startswith(f"the genome has {CONTIG[200]}: another")
    assert (deletion["END"], deletion["DNAMAMBA_STATUS"]) == ("254", "ok")
    assert lines[4] == RECORDS[4].strip(), "a line without alternative allele stays as it is"
    assert start["DNAMAMBA_STATUS"] == "shifted"
    assert unquote(start["DNAMAMBA_NOTE"]) == "moved 26 to the right, into the contig"


def test_scoring_what_was_scored_replaces_the_scores(model, genome):
    header, lines = scored_lines(model, genome, VCF)
    text = "\n".join([*header, *lines]) + "\n"
    assert scored_lines(model, genome, text) == (header, lines)
    changed, _ = scored_lines(model, genome, text, "--rc", "none")
    assert sum(line.startswith("##dnamamba_score=") for line in changed) == 1


def test_columns_between_spaces_are_columns(model, genome):
    base = CONTIG[299]
    _, (line,) = scored_lines(model, genome, META + NAMES + f"chr1 300 z {base} TT . . AC=1\n")
    assert line.split("\t")[:5] == ["chr1", "300", "z", base, "TT"]
    assert float(info_of(line)["DNAMAMBA_LLR"])


def test_the_genome_is_not_written_over(model, genome, tmp_path):
    vcf = tmp_path / "x.vcf"
    vcf.write_text(VCF)
    given = (model, vcf, "--genome", genome, "--format", "tsv", "--force", "--out", genome)
    with pytest.raises(InputError, match="is the input: name another file"):
        score(*given)


def test_the_table_and_the_vcf_say_the_same_and_what_python_does(model, genome, tmp_path):
    changes = [anchored(CONTIG, *change) for change in draw_changes(CONTIG, 20)]
    text = vcf_text("chr1", changes)
    source = write_bgzf(tmp_path / "x.txt", text)
    paths = [tmp_path / "new" / name for name in ("x.vcf.gz", "x.tsv.gz")]
    for path in paths:
        code, stdout, stderr = score(model, source, "--genome", genome, "--out", path)
        assert (code, stdout) == (0, "")
        assert f"{path.name}: 20 alleles: " in stderr
    lines = gzip.decompress(paths[0].read_bytes()).decode().splitlines()
    infos = [info_of(line) for line in lines if not line.startswith("#")]
    rows = table_of(gzip.decompress(paths[1].read_bytes()).decode())
    parsed = rows_of(text, open_genome([genome]), WindowRule(seq_len=64))
    expected = score_rows(DnaModel.from_pretrained(model), parsed, ScoreOptions())
    for info, row, (region, found), change in zip(infos, rows, expected, changes, strict=True):
        assert (int(row["POS"]) - 1, row["REF"], row["allele"]) == change
        assert (row["window_start"], row["window_end"]) == (
            str(region.window.start),
            str(region.window.end),
        )
        for name in found._fields:
            np.testing.assert_allclose(float(row[name]), getattr(found, name), rtol=1e-4, atol=1e-5)
        for name in SCORES:
            short = name.removeprefix("DNAMAMBA_").lower()
            assert float(info[name]) == pytest.approx(float(row[short]), rel=1e-5, abs=1e-9)


def test_a_packed_vcf_is_bgzf_and_whole(model, genome, tmp_path):
    out = tmp_path / "x.vcf.gz"
    source = tmp_path / "in.vcf"
    source.write_text(VCF)
    score(model, source, "--genome", genome, "--out", out)
    with open(out, "rb") as file:
        blocks = list(bgzf.BgzfBlocks(file))
    assert sum(block[3] for block in blocks) > 1000
    assert blocks[-1][3] == 0, "the empty block that ends such files"
    assert sorted(path.name for path in tmp_path.iterdir() if "building" in path.name) == []


def test_models_that_read_both_ways_score_single_bases(genome, tmp_path):
    model = save_model(tmp_path / "both-ways", BiMambaConfig())
    header, lines = scored_lines(model, genome, VCF)
    assert any("base is hidden from the model" in line for line in header)
    several = info_of(lines[1])
    assert [value == "." for value in several["DNAMAMBA_LLR"].split(",")] == [
        False,
        True,
        True,
        True,
    ]
    assert "single bases alone" in unquote(several["DNAMAMBA_NOTE"].split(",")[1])
    distances = several["DNAMAMBA_COSINE_DISTANCE"].split(",")
    assert [value == "." for value in distances] == [False, False, True, True]


def test_nothing_scored_fails_and_is_written(model, genome, tmp_path):
    out = tmp_path / "x.tsv"
    text = META + NAMES + record(200, ref=OTHERS[200][1], alt=CONTIG[200])
    code, _, stderr = score(model, "-", "--genome", genome, "--out", out, stdin=text.encode())
    assert code == 1
    assert "1 allele: 1 ref mismatch" in stderr
    assert "nothing could be scored; the column note says why" in stderr
    assert table_of(out.read_text())[0]["llr"] == ""
    code, stdout, stderr = score(
        model, "-", "--genome", genome, "--out", "-", stdin=(META + NAMES).encode()
    )
    assert (code, stdout.splitlines()[-1]) == (0, NAMES.strip())
    assert "has no rows" in stderr


def test_short_lines_stay_and_are_said(model, genome, caplog):
    text = META + NAMES + record(100) + "chr1\t5\n" + "chr1\t6\n"
    with caplog.at_level("WARNING", "dnamamba"):
        _, lines = scored_lines(model, genome, text)
    assert lines[1:] == ["chr1\t5", "chr1\t6"]
    assert caplog.text.count("fewer than 8 columns") == 1


def test_wrong_inputs_are_one_sentence(model, genome, tmp_path):
    source, out = tmp_path / "x.vcf", tmp_path / "y.vcf"
    source.write_text(VCF)
    given = (model, source, "--genome", genome)
    with pytest.raises(InputError, match=r"must end in one of \.vcf"):
        score(*given, "--out", tmp_path / "y.txt")
    with pytest.raises(InputError, match="is no VCF"):
        score(model, genome, "--genome", genome, "--out", out)
    with pytest.raises(InputError, match=r"must have a line of column names .* or write a table"):
        score(*(model, "-", "--genome", genome, "--out", out), stdin=META + record(100))
    with pytest.raises(InputError, match="is the input: name another file"):
        score(*given, "--out", source, "--force")
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already: use --force"):
        score(*given, "--out", out)
    assert out.read_text() == "mine"
    assert score(*given, "--out", out, "--force")[0] == 0
    assert score(model, source, "--out", tmp_path / "z.vcf")[0] == 2, "without a genome"


def test_a_file_cut_off_leaves_no_output(model, genome, tmp_path):
    source, out = tmp_path / "x.vcf.gz", tmp_path / "y.vcf"
    source.write_bytes(gzip.compress(VCF.encode())[:-20])
    with pytest.raises(InputError, match="cut off or damaged"):
        score(model, source, "--genome", genome, "--out", out)
    assert not out.exists()
    assert list(tmp_path.glob(".*building")) == []


def test_formats_are_told_by_names(tmp_path):
    names = {"a.vcf": "vcf", "a.vcf.gz": "vcf", "a.vcf.bgz": "vcf", "a.b.tsv": "tsv"}
    assert {name: format_of_output(tmp_path / name) for name in names} == names


def test_variants_of_a_real_megabase(model, shared_data, tmp_path):
    path = shared_data / "genomes/human_GRCh37_chr7_86-87Mb.fa.gz"
    genome = open_genome([path])
    ((name, length),) = genome.contigs.items()
    sequence = "".join("ACGTN"[code - 7] for code in genome.read(name, 0, length) & 15)
    changes = [anchored(sequence, *change) for change in draw_changes(sequence, 200)]
    source, out = tmp_path / "x.vcf", tmp_path / "y.vcf.gz"
    source.write_text(vcf_text(name, sorted(changes)))
    code, _, stderr = score(model, source, "--genome", path, "--out", out)
    assert code == 0
    assert "200 alleles: 200 ok" in stderr
    lines = gzip.decompress(out.read_bytes()).decode().splitlines()
    positions = [int(line.split("\t")[1]) for line in lines if not line.startswith("#")]
    assert positions == sorted(positions)
