"""`dnamamba data fetch`; only `file://` mirrors and mocked downloads, no network."""

import gzip
import hashlib
import io

import pytest
import rich.console
from click.testing import CliRunner

from dnamamba.cli.data_fetch import _plain_progress, _show_progress, fetch
from dnamamba.data_prep.downloads import catalogue as registry
from dnamamba.data_prep.downloads import transfer as download
from dnamamba.errors import InputError
from runs import run_python

FASTA = gzip.compress(b">chr1\nACGT\n" * 1000, mtime=0)
BED = b"chr1\t0\t9\ttrain\nchr1\t9\t18\ttest\n"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder with a tiny genome and its splits, and a registry that knows them."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "tiny.fa.gz").write_bytes(FASTA)
    (folder / "sequences.bed").write_bytes(BED)
    genome = registry.RemoteFile(
        "tiny.fa.gz",
        "https://host.invalid/tiny.fa.gz",
        size=len(FASTA),
        md5=hashlib.md5(FASTA).hexdigest(),
        note="very small",
    )
    splits = registry.RemoteFile(
        "tiny.bed",
        "https://host.invalid/sequences.bed",
        split_rows=(("train", 1), ("test", 1)),
    )
    entries = {
        "tiny": registry.Dataset("tiny", "a genome", genome),
        "tiny-splits": registry.Dataset("tiny-splits", "its splits", splits),
    }
    monkeypatch.setattr(registry, "datasets", lambda: entries)
    return folder.as_uri()


def run(*arguments):
    return CliRunner().invoke(fetch, [str(argument) for argument in arguments])


def test_fetch_downloads_checks_and_says_what_comes_next(mirror, tmp_path):
    out = tmp_path / "my genomes"
    result = run("tiny", "tiny-splits", "tiny", "--out", out, "--mirror", mirror)
    assert result.exception is None
    assert (out / "tiny.fa.gz").read_bytes() == FASTA
    assert (out / "tiny.bed").read_bytes() == BED
    assert result.stdout.splitlines() == [
        f"{out}/tiny.fa.gz (size and md5 checked)",
        f"next: dnamamba data prepare '{out}/tiny.fa.gz' --out '{out}/tiny.h5'",
        f"{out}/tiny.bed (rows per split checked; no published checksum is known)",
    ]
    assert "tiny.fa.gz: 0.0 MB of 0.0 MB" in result.stderr


def test_a_second_run_says_that_the_file_is_there(mirror, tmp_path):
    run("tiny", "--out", tmp_path, "--mirror", mirror)
    result = run("tiny", "--out", tmp_path, "--mirror", "file:///nowhere")
    assert result.exit_code == 0
    assert "is there already (size and md5 checked)" in result.stderr


def test_arguments_reach_download_and_files_go_to_the_current_folder(mirror, monkeypatch):
    calls = []

    def record(remote, folder, **options):
        calls.append((remote.name, str(folder), options["mirror"], options["force"]))
        return folder / remote.name

    monkeypatch.setattr(download, "download", record)
    assert run("tiny").exit_code == 0
    assert run("tiny", "--force", "--mirror", mirror, "--out", "else").exit_code == 0
    assert calls == [
        ("tiny.fa.gz", ".", None, False),
        ("tiny.fa.gz", "else", mirror, True),
    ]


def test_every_name_is_known_before_anything_is_downloaded(mirror, tmp_path):
    result = run("tiny", "tinny", "--out", tmp_path / "out", "--mirror", mirror)
    assert isinstance(result.exception, InputError)
    message = "no data set is called 'tinny'; there are tiny, tiny-splits, great-apes"
    assert str(result.exception) == message
    assert not (tmp_path / "out").exists()


def test_a_wrong_file_fails(mirror, tmp_path):
    (tmp_path / "mirror" / "sequences.bed").write_bytes(BED[:15])
    result = run("tiny-splits", "--out", tmp_path, "--mirror", mirror)
    assert result.exit_code == 1
    assert isinstance(result.exception, InputError)
    assert "rows are train 1, expected train 1, test 1" in str(result.exception)
    assert not (tmp_path / "tiny.bed").exists()
    assert (tmp_path / "tiny.bed.bad").exists()


def test_no_name_is_a_usage_error():
    result = run()
    assert result.exit_code == 2
    assert "name at least one data set; --list shows what there is" in result.stderr


def test_list_shows_sizes_checksums_and_notes(mirror):
    lines = run("--list").stdout.splitlines()
    assert lines[:6] == [
        "tiny: a genome",
        "    tiny.fa.gz, 0.0 MB, md5 known; very small",
        "    https://host.invalid/tiny.fa.gz",
        "tiny-splits: its splits",
        "    tiny.bed, size unknown, no checksum known",
        "    https://host.invalid/sequences.bed",
    ]


def test_list_shows_the_great_apes(mirror):
    text = run("--list").stdout
    chimpanzee = "chimpanzee, NHGRI_mPanTro3-v2.1_pri (GCF_028858775.2), 940.2 MB"
    gorilla = (
        "gorilla, Kamilah_GGO_v0 (gorGor6), size unknown; no Y: of a female (general knowledge"
    )
    for part in ("great-apes --assembly t2t:", "great-apes --assembly ucsc:", chimpanzee, gorilla):
        assert part in text


def test_help_has_an_example_and_every_option():
    text = run("--help").stdout
    assert "dnamamba data fetch hg38 hg38-splits --out genomes" in text
    for option in ("--out", "--mirror", "--force", "--assembly", "--species", "--list"):
        assert option in text


def test_help_loads_neither_torch_nor_the_network():
    code = (
        "import sys; from dnamamba.cli.data_fetch import fetch\n"
        "fetch(['--help'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'rich', 'urllib.request') if name in sys.modules])"
    )
    assert run_python("-c", code).splitlines()[-1] == "[]"


def test_plain_progress_writes_a_line_per_tenth(capsys):
    move = _plain_progress("genome")
    for done in range(101):
        move(done * 1_000_000, 100_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "genome: 10.0 MB of 100.0 MB"
    assert len(lines) == 10
    assert lines[-1] == "genome: 100.0 MB of 100.0 MB"


def test_plain_progress_without_a_length(capsys):
    move = _plain_progress("genome")
    for done in range(400):
        move(done * 1_000_000, None)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"genome: {megabytes:.1f} MB" for megabytes in (100, 200, 300)]


def test_a_terminal_gets_a_bar_and_messages(monkeypatch):
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", lambda stderr: console)
    with _show_progress("genome.fa.gz") as (move, say):
        move(0, 2_000_000)
        say("going on [with] it")
        move(2_000_000, 2_000_000)
    assert "going on [with] it" in screen.getvalue()
    assert "2.0/2.0 MB" in screen.getvalue()
