"""`dnamamba classify predict`: files and pipes in, a table out, exit codes and messages."""

import gzip
import io
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from dnamamba.cli.main import cli
from dnamamba.errors import InputError
from dnamamba.models import ModelConfig
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.task import Task
from genomes import (
    random_sequence,
    write_bgzf,
    write_fasta,
    write_gzip,
)

CONTIG = random_sequence(500, seed=5)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """What `classify train` leaves, as far as predictions need it."""
    torch.manual_seed(0)
    head = HeadConfig(task=Task(labels=("bonobo", "human")), trained_seq_len=64)
    folder = tmp_path_factory.mktemp("run")
    DnaClassifier(ModelConfig(d_model=16, n_layers=1), head).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def genome(tmp_path):
    return write_fasta(tmp_path / "genome.fa", {"chr1": CONTIG})


def predict(*arguments, stdin=None):
    """Exit code, standard output, standard error; a user's mistake is raised as it is."""
    command = ["classify", "predict", "--device", "cpu", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def table_of(text):
    names, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.mark.parametrize("write", [write_gzip, write_bgzf], ids=["gzip", "BGZF"])
def test_records_of_a_packed_fasta(run_folder, tmp_path, write):
    reads = write(tmp_path / "reads", f">a first\n{CONTIG[:50]}\n>b\n{CONTIG}\n>c\n>d\nUUGCA\n")
    code, stdout, stderr = predict(run_folder, reads, "--out", tmp_path / "x.tsv")
    rows = table_of((tmp_path / "x.tsv").read_text())
    assert (code, stdout) == (0, "")
    assert stderr.endswith("x.tsv: 4 rows: 2 ok, 1 clipped, 1 too short\n")
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert rows[1]["note"] == "the middle 64 of 500 bases"
    assert all(row["label"] in ("bonobo", "human") for row in rows if row["status"] != "too short")


def test_a_bed_by_a_pipe_to_a_pipe(run_folder, genome):
    bed = b"chr1\t100\t110\tx\t0\t-\r\nchr1\t490\t500\ty\t0\t+\r\n"
    code, stdout, _ = predict(
        *(run_folder, "-", "--genome", genome, "--seq-len", "40", "--edge", "pad", "--out", "-"),
        stdin=gzip.compress(bed),
    )
    rows = table_of(stdout)
    assert code == 0
    assert [row["status"] for row in rows] == ["ok", "padded"]
    assert [(row["window_start"], row["window_end"]) for row in rows] == [
        ("85", "125"),
        ("475", "500"),
    ]


def test_a_region_and_a_table_by_its_columns(run_folder, genome, tmp_path):
    table = tmp_path / "x.csv"
    table.write_text(f"read,seq\nr1,{CONTIG[10:40]}\n")
    _, of_table, _ = predict(run_folder, table, "--sequence-column", "seq", "--out", "-")
    _, of_region, _ = predict(run_folder, "chr1:11-40", "--genome", genome, "--out", "-")
    (read,), (region,) = table_of(of_table), table_of(of_region)
    assert read["read"] == "r1"
    assert read["p_human"] == region["p_human"]
    code, _, err = predict(
        *(run_folder, "chr1:11-40", "--genome", genome, "--edge", "pad", "--out", "-")
    )
    assert (code, "--edge is for windows of a genome that are wider" in err) == (2, True)


def test_strands_are_averaged_where_the_model_was_judged_so(run_folder, tmp_path):
    reads = tmp_path / "reads.fa"
    reads.write_text(f">a\n{CONTIG[:60]}\n")
    classifier = DnaClassifier.from_pretrained(run_folder)
    classifier.head_config = replace(classifier.head_config, averages_strands=True)
    classifier.save_pretrained(tmp_path / "of-species")
    (by_itself, asked, one), _ = zip(
        predict(tmp_path / "of-species", reads, "--out", "-")[1:],
        predict(run_folder, reads, "--rc", "average", "--out", "-")[1:],
        predict(tmp_path / "of-species", reads, "--rc", "none", "--out", "-")[1:],
        strict=True,
    )
    assert by_itself == asked != one


def test_variants_get_windows_of_the_length_trained_on(run_folder, genome, tmp_path):
    vcf = tmp_path / "x.vcf"
    vcf.write_text(f"##fileformat=VCFv4.2\nchr1\t250\t.\t{CONTIG[249]}\tACG\t.\t.\t.\n")
    out = tmp_path / "x.tsv.gz"
    code, _, _ = predict(
        *(run_folder / "model", vcf, "--genome", genome, "--rc", "average", "--out", out)
    )
    (row,) = table_of(gzip.decompress(out.read_bytes()).decode())
    assert code == 0
    assert int(row["window_end"]) - int(row["window_start"]) == 64
    difference = float(row["alt_p_human"]) - float(row["ref_p_human"])
    assert float(row["difference_p_human"]) == pytest.approx(difference, abs=1e-5)


def test_a_table_of_nothing_but_failures_is_written_and_fails(run_folder, genome, tmp_path):
    out = tmp_path / "x.tsv"
    code, _, stderr = predict(
        *(run_folder, "-", "--genome", genome, "--out", out), stdin="1\t1\t9\n1\t5\t9\n"
    )
    assert code == 1
    assert "2 rows: 2 unreadable" in stderr
    assert "nothing could be predicted; the column note says why" in stderr
    assert table_of(out.read_text())[0]["note"].endswith("no contig '1' (it has 'chr1')")


def test_an_input_without_rows_makes_a_table_without(run_folder, genome, tmp_path):
    out = tmp_path / "x.tsv"
    code, _, stderr = predict(run_folder, "-", "--genome", genome, "--out", out, stdin="")
    assert code == 0
    assert "has no rows" in stderr
    assert out.read_text().startswith("chrom\tstart\tend\twindow_start")


def test_what_is_there_is_kept(run_folder, tmp_path):
    reads = write_fasta(tmp_path / "reads.fa", {"a": "ACGT"})
    out = tmp_path / "x.tsv"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already: use --force"):
        predict(run_folder, reads, "--out", out)
    assert out.read_text() == "mine"
    with pytest.raises(InputError, match="is the input: name another file"):
        predict(run_folder, reads, "--out", reads, "--force")
    with pytest.raises(InputError, match="is a folder: name a file"):
        predict(run_folder, reads, "--out", tmp_path)
    assert predict(run_folder, reads, "--out", out, "--force")[0] == 0
    assert len(table_of(out.read_text())) == 1


def test_wrong_inputs_are_one_sentence(run_folder, genome, tmp_path):
    out = tmp_path / "x.tsv"
    with pytest.raises(FileNotFoundError, match="no such file"):
        predict(run_folder, tmp_path / "none.fa", "--out", out)
    with pytest.raises(InputError, match=r"read as BED, .*name the genome \(--genome\)"):
        predict(run_folder, "-", "--out", out, stdin="chr1\t1\t9\n")
    with pytest.raises(InputError, match="FASTQ or SAM"):
        predict(run_folder, "-", "--out", out, stdin="@r\nACGT\n+\nIIII\n")
    assert not out.exists()
    assert list(tmp_path.glob(".*building")) == []


def test_long_runs_say_how_far_they_are(run_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dnamamba.cli.row_output._PROGRESS_SECONDS", 0)
    reads = write_fasta(tmp_path / "reads.fa", {f"r{i}": "ACGT" for i in range(2000)})
    code, stdout, stderr = predict(run_folder, reads, "--out", "-")
    assert code == 0
    assert "1,000 rows, " in stderr
    assert len(table_of(stdout)) == 2000
    assert io.StringIO(stdout).readline().startswith("name\tdescription\tbases\t")
