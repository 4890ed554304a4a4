"""`dnamamba data info`, `prepare` and `check`, and the help of every command."""

import gzip
import shlex
import subprocess
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from dnamamba import __version__
from dnamamba.cli.main import cli, main
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.errors import InputError
from genomes import (
    as_read,
    fasta_text,
    naive_parse,
    random_sequence,
    read_all,
    write_bed,
    write_fasta,
    write_gzip,
    write_store,
)
from runs import run_python

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    """Invoke a command; a user's mistake is raised as it is (main prints it)."""
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# --- the command line as a whole


def all_commands(group=cli, path=("dnamamba",)):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))


COMMANDS = dict(all_commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_an_example_that_its_parser_accepts(path):
    text = run(*path[1:], "--help").stdout
    assert "Example" in text
    name = " ".join(path)
    calls = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{name} ")]
    assert calls, "the example is a call of this command"
    if not isinstance(COMMANDS[path], click.Group):
        for call in calls:
            COMMANDS[path].make_context(name, shlex.split(call)[len(path) :])


def test_commands_are_listed_with_what_they_do():
    text = " ".join(run("--help").stdout.split())
    for word in ("pretrain", "data", "Examples:", "1k = 1,024", "1M = 2^20 = 1,048,576"):
        assert word in text
    text = run("data", "--help").stdout
    for word in ("info", "prepare", "check", "fetch", "demo"):
        assert word in text


def test_help_needs_no_torch_and_no_h5py():
    code = (
        "import sys, runpy; sys.argv = ['dnamamba', *sys.argv[1:]]\n"
        "try: runpy.run_module('dnamamba', run_name='__main__')\n"
        "finally: print(end=' '.join({'torch', 'h5py', 'numpy'} & set(sys.modules)), flush=True)\n"
    )
    for arguments in (["--help"], ["data", "--help"], ["data", "check", "--help"]):
        printed, loaded = run_python("-c", code, *arguments).rsplit("\n", 1)
        assert "Usage: dnamamba" in printed
        assert loaded == ""


def test_a_users_mistake_is_one_line_and_exit_code_1(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "info", "nothing.fa"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "Error: no such file: nothing.fa\n"


def test_a_wrong_option_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "check", "x.fa", "--seq-len", "1.5"])
    assert stopped.value.code == 2
    assert "a size must be a whole number" in capsys.readouterr().err


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"dnamamba, version {__version__}\n"


# --- data info


def test_info_shows_files_of_every_kind(tmp_path):
    plain = write_fasta(tmp_path / "x.fa", {"a": "ACGTN", "b": "acgu"})
    store = write_store(tmp_path / "y.h5", {"c": "ACGT"})
    text = run("data", "info", plain, store, "--contigs", "1").stdout
    assert f"{plain}: plain FASTA" in text
    assert "U (read as T): 1" in text
    assert "and 1 more" in text
    assert f"{store}: prepared store" in text


def test_info_counts_the_rna_letters_of_real_hairpins(shared_data):
    path = shared_data / "genomes" / "mirbase_hairpin_RNA_U.fa.gz"
    sequences = naive_parse(gzip.decompress(path.read_bytes()).decode())
    letters = "".join(sequences.values())
    others = {letter: letters.count(letter) for letter in sorted(set(letters) - set("ACGUN"))}
    assert letters.count("U") > 500_000
    assert others
    text = run("data", "info", path).stdout
    assert "gzip FASTA (no random access: `dnamamba data prepare` it before training)" in text
    assert f"{len(sequences):,} contigs, {len(letters):,} bases" in text
    assert f"U (read as T): {letters.count('U'):,}" in text
    detail = ", ".join(f"{letter} {count:,}" for letter, count in others.items())
    assert f"other IUPAC letters (read as N): {sum(others.values()):,}" in text
    assert detail in text


# --- data prepare


def test_prepare_makes_one_genome_of_the_yeast_files(shared_data, tmp_path):
    files = [shared_data / "genomes" / f"yeast_chr{i}.fa.gz" for i in (1, 2)]
    out = tmp_path / "yeast.h5"
    result = run("data", "prepare", *files, "--out", out)
    expected = {}
    for file in files:
        expected |= naive_parse(gzip.decompress(file.read_bytes()).decode())
    assert read_all(open_genome([out])) == {k: as_read(v) for k, v in expected.items()}
    bases = sum(map(len, expected.values()))
    assert result.stdout.splitlines() == [
        f"{out}: 2 contigs, {bases:,} bases, {out.stat().st_size:,} bytes",
        f"Next: dnamamba pretrain {out}",
    ]


def test_the_command_in_the_message_about_gzip_works_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_gzip(tmp_path / "my genome.fa.gz", fasta_text({"a": "ACGT" * 50}))
    with pytest.raises(InputError) as error:
        open_genome([path])
    prepare, unpack = (line for line in str(error.value).splitlines() if line.startswith("  "))
    run(*shlex.split(prepare)[1:])
    assert read_all(open_genome(["my genome.h5"])) == {"a": "ACGT" * 50}
    subprocess.run(["sh", "-c", unpack], check=True)
    assert read_all(open_genome(["my genome.fa"])) == {"a": "ACGT" * 50}


def test_prepare_replaces_a_store_only_with_force(tmp_path):
    source, out = write_fasta(tmp_path / "x.fa", {"a": "ACGT"}), tmp_path / "x.h5"
    run("data", "prepare", source, "--out", out)
    with pytest.raises(InputError, match="exists already; use --force"):
        run("data", "prepare", source, "--out", out)
    write_fasta(source, {"a": "GG"})
    run("data", "prepare", source, "--out", out, "--force")
    assert read_all(open_genome([out])) == {"a": "GG"}


def test_prepare_of_a_protein_asks_whether_it_is_dna(tmp_path):
    protein, dna, out = tmp_path / "p.fa", tmp_path / "d.fa", tmp_path / "x.h5"
    write_fasta(protein, {"p": "MKLVFEWQIP"})
    write_fasta(dna, {"d": "ACGTNRYacg"})
    warned = run("data", "prepare", protein, "--out", out).stderr
    assert warned.startswith(f"{out}: 60% of the letters mean no base")
    assert run("data", "prepare", dna, "--out", out, "--force").stderr == ""


def test_the_installed_command_prepares_a_genome(tmp_path):
    """One real process, from the shell to the file."""
    source, out = write_fasta(tmp_path / "x.fa", {"a": "ACGTN"}), tmp_path / "x.h5"
    command = [sys.executable, "-m", "dnamamba", "data", "prepare", str(source), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{out}: 1 contig, 5 bases")
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stdout == ""
    assert again.stderr.startswith(f"Error: {out} exists already; use --force")


# --- data check


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """`data check` on a genome with neighbouring rows; opening files needs no model."""
    pretraining = types.SimpleNamespace(
        DEMO="demo", is_demo=lambda _: False, open_named_genome=open_genome
    )
    monkeypatch.setitem(sys.modules, "dnamamba.pretraining.run", pretraining)
    rows = [
        ("chr1", 0, 200, "train"),
        ("chr1", 200, 400, "valid"),
        ("chr1", 2000, 2200, "train"),
        ("chr1", 3000, 3200, "test"),
    ]
    genome = write_fasta(tmp_path / "x.fa", {"chr1": random_sequence(4000)})
    bed = write_bed(tmp_path / "splits.bed", rows)
    return lambda *options: run("data", "check", genome, "--bed", bed, *options)


def test_check_reports_no_shared_base_by_default_and_the_published_leak(checked):
    result = checked("--seq-len", "400")
    assert result.exit_code == 0
    used, mamba, hyenadna, _ = result.stdout.split("\n\n")
    assert "As used: rule mamba, seq_len 400" in used
    assert "bases in both train and valid: 0 (0.0% of valid)" in used
    assert "No base is in two splits." in used
    for text, rule in ((mamba, "mamba"), (hyenadna, "hyenadna")):
        assert f"As published: {rule}" in text
        assert "bases in both train and valid: 0 " not in text


def test_check_ends_with_1_where_splits_would_leak(checked):
    result = checked("--seq-len", "400", "--keep-overlap")
    assert result.exit_code == 1
    assert "LEAK: splits share bases" in result.stdout
    assert checked("--seq-len", "100", "--keep-overlap").exit_code == 0


def test_check_takes_the_options_that_pretrain_takes(checked):
    text = checked("--seq-len", "100", "--windows", "tile", "--edge", "pad").stdout
    assert "As used: rule tile, seq_len 100" in text
