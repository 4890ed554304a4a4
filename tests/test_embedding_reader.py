"""Embeddings as they are read, indexed and exported, and what cannot be read."""

import gzip
import json
import pickle
import sys
import types

import h5py
import numpy as np
import pytest

from dnamamba.embedding import lazy_vectors as embedding_vectors
from dnamamba.embedding.export import export
from dnamamba.embedding.format import EmbeddingInfo
from dnamamba.embedding.reader import read_embeddings
from dnamamba.errors import InputError
from embedding_files import POOLINGS, D, make_info, make_rows, write_file

# --- reading


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """3,000 rows in several chunks, and what they are."""
    info = make_info(d_out=256, layers=(4,), columns=())
    rows = make_rows(info, 3000)
    path = write_file(tmp_path_factory.mktemp("larger") / "x.h5", info, rows, size=1000)
    nan = np.full(256, np.nan, np.float32)
    values = np.stack([nan if row.vectors is None else row.vectors[0] for row in rows])
    return path, values


INDEXES = [
    5,
    -1,
    np.int64(7),
    slice(None),
    slice(250, 260),
    slice(2, None, 700),
    slice(None, None, -1),
    slice(10, 3),
    [5, 2999, 5, -2, 0],
    [],
    np.arange(3000) % 3 == 0,
    (slice(None), slice(0, 4)),
    (slice(10, 20), 3),
    (3, slice(None, None, 2)),
    ([7, 3], slice(1, 3)),
    (..., 2),
    (2, 3),
]


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_vectors_are_indexed_as_arrays_are(index, larger):
    path, values = larger
    index = np.array(index, np.int64) if isinstance(index, list) else index
    with read_embeddings(path) as embeddings:
        np.testing.assert_array_equal(embeddings.vectors[index], values[index])


def test_vectors_are_an_array_where_one_is_needed(larger):
    path, values = larger
    vectors = read_embeddings(path).vectors
    np.testing.assert_array_equal(np.asarray(vectors), values)
    assert np.asarray(vectors, np.float64).dtype == np.float64
    assert (vectors.shape, vectors.ndim, vectors.size) == (values.shape, 2, values.size)
    assert (len(vectors), vectors.nbytes) == (3000, values.nbytes)


@pytest.mark.parametrize("index", [3000, [0, 3000], np.zeros(3, bool), "x", (0, 0, 0), None])
def test_indexes_that_do_not_exist_are_errors(index, larger):
    with pytest.raises(IndexError):
        read_embeddings(larger[0]).vectors[index]


def test_regions_are_found_by_their_bases(tmp_path):
    """Peaks of chr1 are 0-50, 200-250, (400 of chr1 ...), every second row; row 8 has failed."""
    path = write_file(tmp_path / "x.h5", make_info(), make_rows(make_info()))
    embeddings = read_embeddings(path)
    assert embeddings.overlapping("chr1", 200, 201).tolist() == [2]
    assert embeddings.overlapping("chr1", 49, 201).tolist() == [0, 2]
    assert embeddings.overlapping("chr1", 50, 200).tolist() == []
    assert embeddings.overlapping("chr1", 600).tolist() == [6, 10, 12, 14, 16]
    assert embeddings.overlapping("chr2").tolist() == [1, 5, 7, 9, 11, 15, 17, 19]
    assert embeddings.overlapping("chr1", 10, 10).tolist() == []
    assert embeddings.overlapping("chrX").tolist() == []


def test_layers_are_chosen_by_their_number(tmp_path):
    path = write_file(tmp_path / "x.h5", make_info(), make_rows(make_info()))
    assert read_embeddings(str(path)).layer == 5
    assert read_embeddings(path, 2).layer == 2
    with pytest.raises(InputError, match=r"has no layer -1; it has 2, 5"):
        read_embeddings(path, -1)
    with pytest.raises(InputError, match=r"row must be 0 to 19 in .* got 20"):
        read_embeddings(path).vectors_of(20)


def test_a_file_is_read_on_in_other_processes_and_after_it_was_closed(larger):
    embeddings = read_embeddings(larger[0])
    first = embeddings.vectors[0]
    other = pickle.loads(pickle.dumps(embeddings))
    np.testing.assert_array_equal(other.vectors[0], first)
    assert other.table["name"][1] == "peak1"
    embeddings.close()
    np.testing.assert_array_equal(embeddings.vectors[0], first)
    assert "3,000 rows, layer 4, mean" in repr(embeddings)


# --- what cannot be read


def test_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_embeddings(tmp_path / "nothing.h5")
    (tmp_path / "x.bed").write_text("chr1\t0\t1\n")
    with pytest.raises(InputError, match="is not a whole file of embeddings"):
        read_embeddings(tmp_path / "x.bed")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="is HDF5, but not embeddings"):
        read_embeddings(tmp_path / "x.h5")


@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_format_version_is_refused(version, tmp_path):
    path = write_file(tmp_path / "x.h5", make_info(), make_rows(make_info()))
    with h5py.File(path, "r+") as file:
        del file.attrs["format_version"]
        if version is not None:
            file.attrs["format_version"] = version
    with pytest.raises(InputError, match=f"has format_version {version}, this dnamamba reads 1"):
        read_embeddings(path)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(kept, tmp_path):
    path = write_file(tmp_path / "x.h5", make_info(), make_rows(make_info()))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(InputError, match=r"not a whole file .* cut off; make or copy it again"):
        read_embeddings(path)


def test_damaged_vectors_and_settings_are_told(larger, tmp_path):
    content = bytearray(larger[0].read_bytes())
    content[1_000_000:1_000_100] = bytes(100)
    (tmp_path / "x.h5").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read .*: the file is damaged"):
        read_embeddings(tmp_path / "x.h5").vectors[:]
    path = write_file(tmp_path / "y.h5", make_info(), make_rows(make_info()))
    with h5py.File(path, "r+") as file:
        file.attrs["settings"] = "{"
    with pytest.raises(InputError, match="damaged settings"):
        read_embeddings(path)
    with h5py.File(path, "r+") as file:
        file.attrs["settings"] = make_info().to_json()
        del file["embeddings/layer_5"]
    with pytest.raises(InputError, match="is not a whole file of embeddings"):
        read_embeddings(path)


# --- other forms


def test_arrays_leave_out_rows_that_failed(larger):
    path, values = larger
    X, table = read_embeddings(path).arrays()
    ok = ~np.isnan(values[:, 0])
    np.testing.assert_array_equal(X, values[ok])
    assert table["row"].tolist() == np.flatnonzero(ok).tolist()
    assert set(table["status"]) == {"ok"}
    X, table = read_embeddings(path).arrays(keep_failed=True)
    np.testing.assert_array_equal(X, values)
    assert len(table["name"]) == 3000


def test_a_memmap_has_all_rows(larger, tmp_path):
    path, values = larger
    found = read_embeddings(path).to_memmap(tmp_path / "new" / "x.npy")
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "x.npy", mmap_mode="r"), values)
    with pytest.raises(InputError, match="exists already"):
        read_embeddings(path).to_memmap(tmp_path / "new" / "x.npy")
    read_embeddings(path).to_memmap(tmp_path / "new" / "x.npy", force=True)
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize("pooling", ["mean", "bins:3"])
def test_anndata_has_vectors_and_regions(pooling, tmp_path):
    anndata = pytest.importorskip("anndata", reason="needs anndata and pandas")
    info = make_info(pooling=pooling)
    rows = make_rows(info)
    embeddings = read_embeddings(write_file(tmp_path / "x.h5", info, rows))
    found = embeddings.to_anndata()
    found.write_h5ad(tmp_path / "x.h5ad")
    found = anndata.read_h5ad(tmp_path / "x.h5ad")
    assert found.shape == (16, D * (info.n_bins or 1))
    np.testing.assert_array_equal(found.X[1], rows[1].vectors[1].ravel())
    assert found.obs_names[:6].tolist() == ["peak0", "peak1", "peak2", "peak4", "peak5", "6"]
    assert found.obs_names.is_unique
    assert found.var_names[-1] == ("e7" if pooling == "mean" else "bin2_e7")
    assert found.obs["start"].tolist() == [row.start for row in rows if row.vectors is not None]
    assert json.loads(found.uns["dnamamba"])["model"] == "runs/demo"
    assert embeddings.to_anndata(keep_failed=True).shape[0] == 20
    frame = embeddings.to_pandas()
    assert frame["name"].tolist() == [row.name for row in rows]


def test_packages_that_are_missing_are_named(larger, monkeypatch):
    for name in ("anndata", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="needs anndata, which is not installed: pip install"):
        read_embeddings(larger[0]).to_anndata()
    with pytest.raises(InputError, match="needs pandas, which is not installed: pip install"):
        read_embeddings(larger[0]).to_pandas()


def test_rows_of_different_lengths_are_no_matrix(tmp_path, monkeypatch):
    info = make_info(pooling="none")
    embeddings = read_embeddings(write_file(tmp_path / "x.h5", info, make_rows(info)))
    with pytest.raises(InputError, match="differ in length, and arrays needs one a row: use"):
        embeddings.arrays()
    monkeypatch.setitem(sys.modules, "anndata", types.ModuleType("anndata"))
    monkeypatch.setitem(sys.modules, "pandas", types.ModuleType("pandas"))
    with pytest.raises(InputError, match="to_anndata needs one a row"):
        embeddings.to_anndata()


def cells(path):
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().splitlines()
    return [line.split("\t") for line in lines]


def test_npz_has_the_same(tmp_path):
    for pooling in POOLINGS:
        info = make_info(pooling=pooling)
        path = write_file(tmp_path / f"{pooling}.h5", info, make_rows(info))
        embeddings = read_embeddings(path, 2)
        with np.load(export(path, tmp_path / f"{pooling}.npz", layer=2)) as found:
            np.testing.assert_array_equal(found["vectors"], embeddings.vectors[:])
            assert found["ok"].tolist() == embeddings.ok.tolist()
            assert found["name"].tolist() == embeddings.table["name"].tolist()
            assert found["start"].tolist() == embeddings.table["start"].tolist()
            assert EmbeddingInfo.from_json(str(found["settings"])) == info
            assert ("offsets" in found) == (pooling == "none")


@pytest.mark.parametrize("name", ["x.tsv", "x.tsv.gz"])
def test_tsv_has_the_same(name, tmp_path):
    info = make_info(columns=("e3",))
    rows = make_rows(info)
    path = write_file(tmp_path / "x.h5", info, rows)
    header, *lines = cells(export(path, tmp_path / name))
    assert header[-D - 1 :] == ["input_e3", *(f"e{i}" for i in range(D))]
    assert len(lines) == 20
    assert lines[3][-D:] == [""] * D, "the row that failed"
    assert np.float32(lines[4][-1]) == rows[4].vectors[1][-1]
    assert lines[4][:5] == ["chr1", "400", "450", "-", "peak4"]
    first = (tmp_path / name).read_bytes()
    assert export(path, tmp_path / name, force=True).read_bytes() == first


def test_tsv_and_parquet_have_a_row_a_position_without_pooling(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    info = make_info(pooling="none")
    rows = make_rows(info)
    path = write_file(tmp_path / "x.h5", info, rows)
    header, *lines = cells(export(path, tmp_path / "x.tsv"))
    assert header[:3] == ["row", "position", "chrom"]
    expected = [
        [str(i), str(j)]
        for i, row in enumerate(rows)
        if row.vectors is not None
        for j in range(len(row.vectors[1]))
    ]
    assert [line[:2] for line in lines] == expected
    table = parquet.read_table(export(path, tmp_path / "x.parquet"))
    assert table["row"].to_pylist() == [int(row) for row, _ in expected]
    np.testing.assert_array_equal(table["e0"].to_numpy(), read_embeddings(path).vectors[:, 0])


def test_parquet_has_the_same(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    info = make_info(pooling="bins:3", columns=("e3", "bin0_e1"))
    rows = make_rows(info)
    path = write_file(tmp_path / "x.h5", info, rows)
    table = parquet.read_table(export(path, tmp_path / "x.parquet"))
    assert table.column_names[10:14] == ["e3", "input_bin0_e1", "bin0_e0", "bin0_e1"]
    assert table["end"].to_pylist() == [row.end for row in rows]
    assert np.isnan(table["bin2_e7"][3].as_py())
    assert table["bin2_e7"][4].as_py() == rows[4].vectors[1][2, 7]
    assert EmbeddingInfo.from_json(table.schema.metadata[b"dnamamba"].decode()) == info


def test_exports_are_whole_or_not_there(larger, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"must end in one of .h5, .hdf5, .npz, .parquet"):
        export(larger[0], tmp_path / "x.csv")
    with pytest.raises(InputError, match="format must be one of h5, npz, parquet, tsv, got 'csv'"):
        export(larger[0], tmp_path / "x.csv", "csv")
    (tmp_path / "x.npz").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        export(larger[0], tmp_path / "x.npz")

    def fail(*arguments, **options):
        raise OSError(28, "full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(InputError, match=r"x.npz cannot be written \(full\)"):
        export(larger[0], tmp_path / "x.npz", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    assert (tmp_path / "x.npz").read_text() == "mine"


def test_what_does_not_fit_into_memory_is_refused_with_advice(larger, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_vectors, "_SURELY_FREE_BYTES", 0)
    monkeypatch.setattr(embedding_vectors, "available_host_bytes", lambda: 1 << 20)
    embeddings = read_embeddings(larger[0])
    advice = r"of memory, .* are free: take some rows .*to_memmap"
    for use in (
        lambda: np.asarray(embeddings.vectors),
        lambda: embeddings.arrays(),
        lambda: export(larger[0], tmp_path / "x.npz"),
    ):
        with pytest.raises(InputError, match=advice):
            use()
    assert embeddings.vectors[:100].shape == (100, 256)
    assert not (tmp_path / "x.npz").exists()
