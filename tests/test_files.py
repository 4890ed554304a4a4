"""Files: whole or not at all, opened by content, described for people."""

import gzip
import hashlib

import pytest

from dnamamba.errors import InputError
from dnamamba.files import (
    building,
    first_of,
    open_input,
    open_output,
    read_json,
    table_line,
    write_json,
    write_text,
)
from genomes import write_bgzf, write_gzip


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    out = tmp_path / "x.txt"
    write_text(out, "old")

    def fail_half_way():
        with building(out) as path:
            path.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail_half_way()
    assert (out.read_text(), names_in(tmp_path)) == ("old", ["x.txt"])


def test_a_file_being_built_has_the_ending_of_the_file(tmp_path):
    with building(tmp_path / "new" / "track.bw") as path:
        assert path.parent == tmp_path / "new"
        assert path.name.endswith("track.bw")
        path.write_bytes(b"")
    assert names_in(tmp_path / "new") == ["track.bw"]


def test_a_library_that_makes_private_files_does_not_change_the_permissions(tmp_path):
    with building(tmp_path / "x") as path:
        path.chmod(0o600)
    write_text(tmp_path / "y", "")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_json_is_read_as_it_was_written(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"x\.json is missing"),
        (b"{", r"x\.json is not JSON"),
        (b"\xff\xfe", r"x\.json is not JSON"),
        (b"[1]", r"x\.json should hold one JSON object, got a list"),
        (b"[" * 100_000, r"x\.json is not JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "x.json")


def test_missing_json_may_be_an_empty_object(tmp_path):
    assert read_json(tmp_path / "x.json", missing_ok=True) == {}


def write_plain(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("write", [write_plain, write_gzip, write_bgzf])
def test_content_decides_how_a_file_is_opened_and_bytes_on_disk_are_hashed(tmp_path, write):
    path, digest = write(tmp_path / "x.txt", "ACGT\n" * 9000), hashlib.sha256()
    with open_input(path, digest) as file:
        assert file.read() == b"ACGT\n" * 9000
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_cut_off_bgzf_file_is_refused_before_it_is_read(tmp_path):
    path = write_bgzf(tmp_path / "x.gz", "ACGT\n")
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match="ends with an empty block"), open_input(path):
        pass


def test_compressed_output_is_the_same_each_time(tmp_path):
    for name in ("a.gz", "b.gz"):
        with open_output(tmp_path / name) as file:
            file.write(b"text")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"text"


def test_long_lists_are_cut_in_messages():
    assert first_of([]) == "none"
    assert first_of(["a", "b"]) == "a, b"
    assert first_of(range(1200), 2) == "0, 1, ... (1,200 in all)"


def test_cells_do_not_break_a_row():
    assert table_line(["a\tb", "c\r\nd", ""]) == b"a b\tc  d\t\n"
