"""Files of embeddings: laid out as documented, whole after any kill, read as they were given."""

import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dnamamba
from dnamamba.embedding.export import export
from dnamamba.embedding.format import EmbeddingInfo, store_numbers, to_float32
from dnamamba.embedding.hdf5 import pack_chunk
from dnamamba.embedding.reader import read_embeddings
from dnamamba.embedding.writer import EmbeddingWriter
from dnamamba.errors import InputError
from embedding_files import LAYERS, POOLINGS, D, make_info, make_rows, write_file, write_parts
from runs import REPOSITORY, run_python

TOLERANCES = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}


def in_a_child(*arguments, script="embedding_kills.py"):
    """What a script of this folder prints, run without the threads of this process."""
    return json.loads(run_python(REPOSITORY / "tests" / script, *arguments))


# --- the layout


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_file_is_laid_out_as_documented(pooling, tmp_path):
    """Read with h5py alone, as another program would."""
    info = make_info(pooling=pooling)
    rows = make_rows(info)
    with h5py.File(write_file(tmp_path / "x.h5", info, rows), "r") as file:
        assert dict(file.attrs) == {
            "format": "dnamamba-embeddings",
            "format_version": 1,
            "dnamamba": dnamamba.__version__,
            "settings": info.to_json(),
        }
        assert json.loads(file.attrs["settings"])["pooling"] == pooling
        regions = file["regions"]
        for name in ("start", "end", "window_start", "window_end", "line"):
            assert regions[name].dtype == np.int64
            assert regions[name][:].tolist() == [getattr(row, name) for row in rows]
        for name in ("chrom", "strand", "name", "status", "note"):
            assert regions[name].asstr()[:].tolist() == [getattr(row, name) for row in rows]
        for i, key in enumerate(("chrom", "score", "a%2Fb")):
            found = regions[f"input/{key}"].asstr()[:].tolist()
            assert found == [row.columns[i] for row in rows]
        assert regions["embedded"][:].tolist() == [row.vectors is not None for row in rows]
        assert set(file["embeddings"]) == {"layer_2", "layer_5"}
        for i, layer in enumerate(LAYERS):
            dataset = file[f"embeddings/layer_{layer}"]
            assert dict(dataset.attrs) == {"layer": layer, "dtype": "float32"}
            assert (dataset.compression, dataset.shuffle) == ("gzip", True)
            assert dataset.chunks is not None
            for number, row in enumerate(rows):
                found = dataset[number]
                if pooling == "none":
                    found = dataset[slice(*regions["offset"][number : number + 2])]
                assert_is_row(found, row, i, info)


def python_blocks_of_the_documentation():
    text = (REPOSITORY / "docs/formats.md").read_text(encoding="utf8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_documented_ways_to_read_a_file_work(tmp_path, monkeypatch):
    """The examples of docs/formats.md that need h5py alone, word for word."""
    monkeypatch.chdir(tmp_path)
    pooled, bits, *_ = python_blocks_of_the_documentation()
    found: dict[str, Any] = {}
    rows = make_rows(make_info())
    write_file(Path("peaks.h5"), make_info(), rows)
    exec(pooled, found)
    there = [row for row in rows if row.vectors is not None]
    assert found["names"].tolist() == [row.name for row in there]
    assert found["starts"].tolist() == [row.start for row in there]
    np.testing.assert_array_equal(found["vectors"], [row.vectors[1] for row in there])
    info = make_info(pooling="none", dtype="bfloat16", layers=(8,))
    rows = make_rows(info)
    Path("peaks.h5").unlink()
    write_file(Path("peaks.h5"), info, rows)
    exec(bits, found)
    assert found["vectors"].shape == (3, D)
    assert_is_row(found["vectors"], rows[7], 0, info)


def test_files_have_the_oldest_format_of_hdf5(tmp_path):
    path = write_file(tmp_path / "x.h5", make_info(), make_rows(make_info()))
    assert path.read_bytes()[8] == 0, "the superblock's version"


def assert_is_row(found, row, i, info):
    if row.vectors is not None:
        relative = TOLERANCES[info.dtype]
        np.testing.assert_allclose(found, row.vectors[i], rtol=relative, atol=relative / 100)
    elif info.per_position:
        assert found.shape == (0, D)
    else:
        assert np.isnan(found).all()
        assert found.shape == info.vector_shape


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_rows_are_read_as_they_were_given(pooling, dtype, tmp_path):
    info = make_info(pooling=pooling, dtype=dtype)
    rows = make_rows(info)
    path = write_file(tmp_path / "x.h5", info, rows)
    for i, layer in enumerate(LAYERS):
        with read_embeddings(path, layer) as embeddings:
            assert embeddings.info == info
            assert len(embeddings) == len(rows)
            assert embeddings.ok.tolist() == [row.vectors is not None for row in rows]
            assert embeddings.vectors.dtype == np.float32
            for number, row in enumerate(rows):
                assert_is_row(embeddings.vectors_of(number), row, i, info)


def test_the_table_has_the_regions_and_the_inputs_own_columns(tmp_path):
    rows = make_rows(make_info())
    table = read_embeddings(write_file(tmp_path / "x.h5", make_info(), rows)).table
    own = ["chrom", "start", "end", "strand", "name", "window_start", "window_end", "line"]
    assert list(table) == [*own, "status", "note", "input_chrom", "score", "a/b"]
    assert table["start"].dtype == np.int64
    assert table["a/b"].tolist() == ["x" * i for i in range(20)]
    assert (table["status"] == "ok").sum() == 16
    with pytest.raises(KeyError, match="'gene'; there are chrom, start"):
        table["gene"]


def test_any_text_is_kept(tmp_path):
    """Long texts, names that are empty or come twice, bytes that were not UTF-8, NUL."""
    info = make_info(columns=("", "x", "x", "..", "input_name", "name"))
    texts = ("", "ä" * 400, "Hél\udce9ne", "a\0b", "日本", "tab\t")
    rows = [
        replace(row, columns=texts, note="n" * (i % 2) * 1000)
        for i, row in enumerate(make_rows(info))
    ]
    path = write_file(tmp_path / "x.h5", info, rows)
    table = read_embeddings(path).table
    names = list(table)[10:]
    assert names == ["column_1", "x", "x_2", "..", "input_name", "input_input_name"]
    found = [table[name][0] for name in names]
    assert found == ["", "ä" * 400, "Héléne", "a\ufffdb", "日本", "tab\t"]
    assert table["note"].tolist() == [row.note for row in rows]
    for out in ("x.npz", "x.tsv", "x.parquet"):
        export(path, tmp_path / out)


def test_an_input_without_rows_is_a_file_without_rows(tmp_path):
    for pooling in POOLINGS:
        info = make_info(pooling=pooling)
        embeddings = read_embeddings(write_file(tmp_path / f"{pooling}.h5", info, []))
        assert len(embeddings) == 0
        assert embeddings.vectors[:].shape == (0, *info.vector_shape)
        assert embeddings.table["name"].tolist() == []


@given(st.integers(1, 30), st.sampled_from(POOLINGS), st.booleans())
@settings(deadline=None, max_examples=15)
def test_how_rows_are_divided_into_parts_changes_no_byte(tmp_path_factory, size, pooling, wide):
    folder = tmp_path_factory.mktemp("parts")
    # Rows of more than a chunk, so that bins are cut.
    info = make_info(pooling=pooling, d_out=30_000 if wide else D, layers=(1,))
    rows = make_rows(info, 12)
    one = write_file(folder / "1.h5", info, rows, size=len(rows))
    other = write_file(folder / "2.h5", info, rows, size=size)
    assert one.read_bytes() == other.read_bytes()
    assert_is_row(read_embeddings(one).vectors_of(6), rows[6], 0, info)


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=2),
    st.sampled_from([np.float32, np.float16, np.uint16]),
    st.sampled_from(["noise", "normal", "one"]),
)
@settings(deadline=None, max_examples=40)
def test_hdf5_unpacks_what_was_packed(shape, dtype, kind):
    rng = np.random.default_rng(0)
    values = np.ones(shape, dtype)
    if kind == "normal":
        values = (rng.standard_normal(shape) ** 2).astype(dtype)
    if kind == "noise":
        values = rng.integers(0, 256, values.nbytes, np.uint8).view(dtype).reshape(shape)
    with h5py.File("x", "w", driver="core", backing_store=False) as file:
        options = {"compression": "gzip", "shuffle": True, "chunks": values.shape}
        dataset = file.create_dataset("x", values.shape, values.dtype, **options)
        dataset.id.write_direct_chunk((0,) * values.ndim, pack_chunk(values))
        assert dataset[:].tobytes() == values.tobytes()


def test_packing_takes_a_seventh_off_float32_and_a_third_off_bfloat16():
    values = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    bits = store_numbers(values, make_info(dtype="bfloat16"))
    assert len(pack_chunk(values)) < 0.86 * values.nbytes
    assert len(pack_chunk(bits)) < 0.7 * bits.nbytes
    assert len(pack_chunk(np.full((256, 256), np.nan, np.float32))) < 0.01 * values.nbytes


# --- numbers


def test_bfloat16_rounds_to_the_nearest_even():
    torch = pytest.importorskip("torch")
    info = make_info(dtype="bfloat16")
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, 1.00390625, 1.01171875]
    values = np.concatenate([special, np.random.default_rng(0).standard_normal(5000)])
    values = values.astype(np.float32)
    found = to_float32(store_numbers(values, info), info)
    np.testing.assert_array_equal(found, torch.from_numpy(values).bfloat16().float().numpy())
    all_nan = np.array([0x7FFFFFFF, 0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(to_float32(store_numbers(all_nan, info), info)).all()


@pytest.mark.parametrize(("dtype", "stored"), [("float16", np.float16), ("bfloat16", np.uint16)])
def test_raw_numbers_are_those_of_the_file(dtype, stored, tmp_path):
    info = make_info(dtype=dtype)
    path = write_file(tmp_path / "x.h5", info, make_rows(info))
    embeddings = read_embeddings(path, raw=True)
    assert embeddings.vectors[:].dtype == embeddings.vectors.dtype == stored
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(embeddings.vectors[:], file["embeddings/layer_5"][:])
    assert embeddings.to_memmap(tmp_path / "x.npy").dtype == stored


def test_numbers_beyond_float16_are_told(tmp_path, caplog):
    info = make_info(dtype="float16", layers=(2,))
    rows = [replace(row, vectors=[np.full(D, 7e4)]) for row in make_rows(info, 1)]
    with caplog.at_level("WARNING", "dnamamba"):
        path = write_file(tmp_path / "x.h5", info, rows)
    assert "layer_2 has numbers beyond float16's 65,504, stored as infinity" in caplog.text
    assert np.isinf(read_embeddings(path).vectors[0]).all()


# --- kills, other processes, damage


@pytest.mark.slow
def test_a_writer_that_was_killed_anywhere_leaves_no_trace(tmp_path):
    found = in_a_child("kill", tmp_path)
    assert found["same"], "each file is, after its kills, that of an undisturbed run"
    assert sum(found["kills"].values()) >= 21
    assert found["kills"].get("while joining", 0) > 0
    assert found["left"] == []


def test_two_processes_may_write_parts_at_once(tmp_path):
    assert in_a_child("share", tmp_path) == {"ended": [True, True], "same": True}


def test_what_is_done_is_not_done_again(tmp_path):
    info, out = make_info(), tmp_path / "x.h5"
    rows = make_rows(info)
    writer = EmbeddingWriter(out, info)
    writer.write(1, rows[7:14])
    again = EmbeddingWriter(out, info)
    assert [again.done(part) for part in range(3)] == [False, True, False]
    with pytest.raises(InputError, match=r"2 of 3 parts of .*x.h5 are missing or damaged \(0, 2\)"):
        again.finish(3)
    assert not out.exists()
    again.write(0, rows[:7])
    again.write(2, rows[14:])
    again.finish(3)
    assert out.read_bytes() == write_file(tmp_path / "y.h5", info, rows).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5", "y.h5"]


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 4
    elif how == "header":
        content[3] ^= 4
    else:
        content = content[: int(float(how) * len(content))]
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flipped", "header", "0", "0.01", "0.5", "0.999"])
def test_a_part_that_is_damaged_is_made_again(how, tmp_path):
    info, out = make_info(), tmp_path / "x.h5"
    rows = make_rows(info)
    writer = EmbeddingWriter(out, info)
    write_parts(writer, rows, 7)
    damage(writer.folder / "part-000001.bin", how)
    again = EmbeddingWriter(out, info)
    assert [again.done(part) for part in range(3)] == [True, False, True]
    write_parts(again, rows, 7)
    again.finish(3)
    assert out.read_bytes() == write_file(tmp_path / "y.h5", info, rows).read_bytes()


def test_other_settings_do_not_go_on(tmp_path):
    out = tmp_path / "x.h5"
    writer = EmbeddingWriter(out, make_info(), division="7 rows")
    write_parts(writer, make_rows(make_info()), 7)
    message = (
        r"begun with other settings, .*\.x\.h5\.parts: pooling was \"mean\", is now \"max\"; "
        r"context was 1000, is now null\. .*--force to start over"
    )
    other = make_info(pooling="max", context=None)
    with pytest.raises(InputError, match=message):
        EmbeddingWriter(out, other, division="7 rows")
    with pytest.raises(InputError, match=r'division was "7 rows", is now "9 rows"'):
        EmbeddingWriter(out, make_info(), division="9 rows")
    assert EmbeddingWriter(out, make_info(), division="7 rows", force=True).done(0)
    assert not EmbeddingWriter(out, other, force=True).done(0)


def test_parts_of_another_division_are_noticed(tmp_path):
    rows = make_rows(make_info())
    writer = EmbeddingWriter(tmp_path / "x.h5", make_info())
    write_parts(writer, rows, 5)
    with pytest.raises(InputError, match="to have 3 parts, but part 3 is there too: the rows were"):
        writer.finish(3)


def test_what_exists_is_replaced_only_when_asked(tmp_path):
    info = make_info()
    out = write_file(tmp_path / "x.h5", info, make_rows(info))
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"x.h5 exists already; use --force to replace it"):
        EmbeddingWriter(out, info)
    writer = EmbeddingWriter(out, info, force=True)
    write_parts(writer, make_rows(info, seed=1), 7)
    assert out.read_bytes() == before, "until the new one is whole"
    writer.finish(3)
    assert out.read_bytes() != before
    with pytest.raises(InputError, match="is a folder; --out names the file to write"):
        EmbeddingWriter(tmp_path, info, force=True)


def test_a_kill_while_the_folder_is_removed_leaves_none(tmp_path, monkeypatch):
    """At each removal of a file or a folder, and before the first of the parts'."""
    info = make_info()
    n_kills = 0
    while True:
        out = tmp_path / f"{n_kills}.h5"
        writer = EmbeddingWriter(out, info)
        n_parts = write_parts(writer, make_rows(info), 7)
        (writer.scratch / "strand.npy").write_bytes(b"0")
        with monkeypatch.context() as patch:
            killer = Killer(after=n_kills)
            for removal in ("unlink", "rmdir"):
                patch.setattr(os, removal, killer.instead_of(getattr(os, removal)))
            try:
                writer.finish(n_parts)
                break
            except Killed:
                n_kills += 1
        assert writer.folder.exists()
        with pytest.raises(InputError, match="exists already"):
            EmbeddingWriter(out, info)
        assert not writer.folder.exists()
    # The joined file's temporary name, three parts or more, a scratch file, and the folders.
    assert n_kills >= 8


class Killed(BaseException):
    pass


class Killer:
    """Ends the process, so to say, after a number of calls."""

    def __init__(self, after):
        self.left = after

    def instead_of(self, function):
        def counted(*arguments, **options):
            if not self.left:
                raise Killed
            self.left -= 1
            return function(*arguments, **options)

        return counted


def write_with_a_limit(folder, limit):
    """Write parts and finish where no file may grow beyond a limit, as on a full disk."""
    info = make_info(d_out=512)
    rows = make_rows(info, 40)
    writer = EmbeddingWriter(Path(folder) / "x.h5", info)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        writer.finish(write_parts(writer, rows, 5))
    except InputError as error:
        return str(error)
    return "done"


LIMITED = """
import json, sys
sys.path.insert(0, {tests!r})
from test_embedding_file import write_with_a_limit
print(json.dumps(write_with_a_limit({folder!r}, {limit})))
"""


@pytest.mark.parametrize(("limit", "what"), [(9_000, "part-000000.bin"), (60_000, "x.h5")])
def test_a_full_disk_loses_nothing(limit, what, tmp_path):
    script = tmp_path / "limited.py"
    tests = str(REPOSITORY / "tests")
    script.write_text(LIMITED.format(tests=tests, folder=str(tmp_path / "out"), limit=limit))
    (tmp_path / "out").mkdir()
    message = in_a_child(script=script)
    assert what in message
    assert "cannot be written (File too large). Make room" in message
    folder = tmp_path / "out" / ".x.h5.parts"
    assert not [path for path in folder.iterdir() if path.suffix == ".building"]
    assert not (tmp_path / "out" / "x.h5").exists()
    info = make_info(d_out=512)
    writer = EmbeddingWriter(tmp_path / "out" / "x.h5", info)
    assert writer.done(0) == (what == "x.h5")
    rows = make_rows(info, 40)
    writer.finish(write_parts(writer, rows, 5))
    expected = write_file(tmp_path / "y.h5", info, rows)
    assert (tmp_path / "out" / "x.h5").read_bytes() == expected.read_bytes()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"x.h5.parts cannot be written \(Not a directory\)"):
        EmbeddingWriter(tmp_path / "file" / "x.h5", make_info())
    writer = EmbeddingWriter(tmp_path / "x.h5", make_info())
    writer.folder.joinpath("info.json").unlink()
    writer.folder.rmdir()
    with pytest.raises(InputError, match=r"cannot be written \(No such file or directory\)"):
        writer.write(0, make_rows(make_info()))


def test_rows_that_are_not_as_announced_are_refused(tmp_path):
    info = make_info()
    (row,) = make_rows(info, 1)
    writer = EmbeddingWriter(tmp_path / "x.h5", info)
    with pytest.raises(InputError, match="the row of line 2 has 1 columns, expected 3"):
        writer.write(0, [replace(row, columns=("a",))])
    with pytest.raises(InputError, match=r"has 1 arrays, expected .* the layers 2, 5"):
        writer.write(0, [replace(row, vectors=[np.zeros(D)])])
    with pytest.raises(InputError, match=r"the shape \(8,\), \(9,\), expected \(8,\)"):
        writer.write(0, [replace(row, vectors=[np.zeros(D), np.zeros(9)])])
    assert not writer.done(0)
    assert [path.name for path in writer.folder.iterdir()] == ["info.json"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (2, -1)}, r"different numbers >= 0, got \(2, -1\); count negative"),
        ({"layers": (3, 3)}, "different numbers"),
        ({"dtype": "float64"}, "must be one of float32, float16, bfloat16, got 'float64'"),
        ({"pooling": "bins:x"}, "bins must be written like bins:16, got 'bins:x'"),
        ({"d_out": 0}, "d_out must be >= 1, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make_info(**changes)


def test_settings_that_a_later_version_added_are_passed_over():
    content = json.loads(make_info().to_json()) | {"new": 1}
    assert EmbeddingInfo.from_json(json.dumps(content)) == make_info()


def test_vectors_larger_than_memory_are_copied_in_blocks(tmp_path):
    """A memmap of 120 MB goes through."""
    script = tmp_path / "large.py"
    script.write_text(
        "import json, resource, sys\nimport numpy as np\n"
        f"sys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n"
        "from pathlib import Path\nfrom dataclasses import replace\n"
        "from embedding_files import make_info, make_rows, write_file\n"
        "from dnamamba.embedding.reader import read_embeddings\n"
        "info = make_info(pooling='none', layers=(1,), d_out=256)\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "vectors = np.memmap(folder / 'v', np.float32, 'w+', shape=(120_000, 256))\n"
        "row = replace(make_rows(info, 1)[0], vectors=[vectors])\n"
        "def anonymous():\n"
        "    rows = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "    return int(rows['VmHWM'].split()[0]) - int(rows['RssFile'].split()[0])\n"
        "before = anonymous()\n"
        "path = write_file(folder / 'x.h5', info, [row])\n"
        "assert read_embeddings(path).to_memmap(folder / 'x.npy').shape == (120_000, 256)\n"
        "print(json.dumps((anonymous() - before) / 1024))\n"
    )
    assert in_a_child(script=script) < 60, "MiB more than before"
