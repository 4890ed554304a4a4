"""The driver of `dnamamba embed`: parts that follow from the rows, shared, resumed, failing."""

import gzip
import io
from contextlib import closing

import numpy as np
import pytest
import torch

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import WindowRule
from dnamamba.embedding import run as embedding_run
from dnamamba.embedding.config import EmbedConfig, EmbedOptions
from dnamamba.embedding.embedder import Embedder
from dnamamba.embedding.forward import EmbedInput
from dnamamba.embedding.reader import read_embeddings
from dnamamba.embedding.run import checksum, embed_regions, embed_rows, keep_stream
from dnamamba.embedding.writer import EmbeddingWriter
from dnamamba.errors import InputError
from dnamamba.models import DnaModel, ModelConfig
from dnamamba.models.pooling import Pooling
from dnamamba.runtime import Ranks
from dnamamba.tokenizer import encode
from embedding_files import make_info
from genomes import MemoryGenome, random_sequence, write_fasta

D = 8
GENOME = MemoryGenome({"chr1": random_sequence(2000, seed=4)})
BED = "".join(f"chr1\t{n}\t{n + 5 + n % 40}\n" if n % 10 else "chr2\t0\t9\n" for n in range(100))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DnaModel(ModelConfig(d_model=D, n_layers=1))


def embedder(model, pooling="mean", **options):
    return Embedder(model, EmbedOptions(pooling=Pooling.parse(pooling), **options))


def writer(path, pooling="mean"):
    columns = ("chrom", "start", "end")
    return EmbeddingWriter(path, make_info(layers=(2,), d_out=D, pooling=pooling, columns=columns))


def rows(text=BED):
    with open_regions(io.BytesIO(text.encode()), genome=GENOME, rule=WindowRule()) as table:
        yield from table


def sizes(model, text=BED, pooling="mean", **options):
    parts = embedding_run._parts(rows(text), embedder(model, pooling, **options))
    return [len(part) for part in parts]


def whole_file(model, path):
    one = writer(path)
    one.finish(embed_rows(rows(), embedder(model), one))
    return path.read_bytes()


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(embedding_run, "PART_ROWS", 8)


@pytest.mark.parametrize(
    ("limit", "value", "pooling", "expected"),
    [
        ("PART_ROWS", 30, "mean", [30, 30, 30, 10]),
        ("PART_BASES", 50, "mean", [5, 5, 1, 1, 4, 4, 1]),
        ("PART_BYTES", 4 * D * 40, "mean", [40, 40, 20]),
        ("PART_BYTES", 4 * D * 40, "bins:4", [10] * 10),
    ],
)
def test_parts_are_cut_by_rows_bases_and_bytes(model, monkeypatch, limit, value, pooling, expected):
    text = BED
    if limit == "PART_BASES":
        # A region of more bases is a part of its own, and so is one of as many.
        lengths = [10] * 10 + [400, 50] + [12] * 8 + [30]
        text = "".join(f"chr1\t0\t{length}\n" for length in lengths)
        value = {"cpu": value}
    monkeypatch.setattr(embedding_run, limit, value)
    assert sizes(model, text, pooling) == expected
    assert sizes(model, text, pooling, batch_tokens=64) == expected, "by what rows are alone"


def test_parts_of_positions_are_cut_by_their_bytes(model, monkeypatch):
    monkeypatch.setattr(embedding_run, "PART_BYTES", 4 * D * 100)
    assert sizes(model, "chr1\t0\t60\nchr1\t0\t40\nchr1\t0\t900\nchr1\t0\t5\n", "none") == [2, 1, 1]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_parts(model, tmp_path, small_parts, world_size):
    expected = whole_file(model, tmp_path / "one.h5")
    writers, states = [], []
    for rank in range(world_size):
        writers.append(writer(tmp_path / "x.h5"))
        ranks = Ranks(rank, rank, world_size, world_size)
        n_parts = embed_rows(
            rows(), embedder(model), writers[-1], ranks=ranks, on_part=states.append
        )
        assert n_parts == 13
    writers[0].finish(n_parts)
    assert (tmp_path / "x.h5").read_bytes() == expected
    assert len(states) == 13


def test_what_is_there_is_not_embedded_again(model, tmp_path, small_parts, monkeypatch):
    expected = whole_file(model, tmp_path / "one.h5")
    first = writer(tmp_path / "x.h5")
    embed_rows(rows(), embedder(model), first, ranks=Ranks(1, 1, 2, 2))
    damaged = first.folder / "part-000003.bin"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    calls, run = [], Embedder.run

    def counted(groups):
        for inputs in groups:
            calls.append(len(inputs))
            yield inputs

    monkeypatch.setattr(
        Embedder, "run", lambda self, groups, take: run(self, counted(groups), take)
    )
    again = writer(tmp_path / "x.h5")
    seen = []
    again.finish(
        embed_rows(
            rows(),
            embedder(model),
            again,
            on_part=lambda done: seen.append((done.rows, done.resumed)),
        )
    )
    assert len(calls) == 8
    assert seen[-1] == (60, 40)
    assert (tmp_path / "x.h5").read_bytes() == expected


def test_rows_that_cannot_be_read_any_further(model, tmp_path, small_parts):
    """What goes wrong in the reading thread is raised where it is called, and parts are kept."""

    def breaks():
        for n, row in enumerate(rows()):
            if n == 50:
                raise InputError("rows.bed.gz is cut off or damaged")
            yield row

    one = writer(tmp_path / "x.h5")
    with pytest.raises(InputError, match="cut off or damaged"):
        embed_rows(breaks(), embedder(model), one)
    assert 4 <= one.n_parts <= 6, "what was under way is made again"
    expected = whole_file(model, tmp_path / "one.h5")
    again = writer(tmp_path / "x.h5")
    again.finish(embed_rows(rows(), embedder(model), again))
    assert (tmp_path / "x.h5").read_bytes() == expected


@pytest.mark.parametrize("broken", [3, 12])
def test_a_full_disk_ends_the_run_and_keeps_the_rest(
    model, tmp_path, small_parts, monkeypatch, broken
):
    """In the writing thread; 12 is the last part, for which nothing waits but the end."""
    one = writer(tmp_path / "x.h5")
    write = one.write

    def fail(part, some):
        if part == broken:
            raise InputError("No space left on device")
        write(part, some)

    monkeypatch.setattr(one, "write", fail)
    with pytest.raises(InputError, match="No space left"):
        embed_rows(rows(), embedder(model), one)
    assert one.n_parts == broken


def test_temporary_files_go_and_parts_stay(model, tmp_path, small_parts):
    one = writer(tmp_path / "x.h5")
    (one.scratch / "strand").write_bytes(b"0")
    one.leave()
    assert not one.folder.exists()
    one = writer(tmp_path / "x.h5")
    embed_rows(rows(), embedder(model), one)
    (one.scratch / "strand").write_bytes(b"0")
    one.leave()
    assert {path.suffix for path in one.folder.iterdir()} == {".bin", ".json"}
    assert one.n_parts == 13
    one.finish(13)
    one.leave()
    with closing(read_embeddings(tmp_path / "x.h5")) as found:
        assert found.ok.sum() == 90


def test_settings_without_a_part_are_no_obstacle(tmp_path):
    """As a command with a mistake in it leaves when it is killed at once."""
    writer(tmp_path / "x.h5", "max")
    assert writer(tmp_path / "x.h5", "mean").info.pooling == "mean"


def test_positions_of_a_row_that_fails(model, tmp_path):
    one = writer(tmp_path / "x.h5", "none")
    text = "chr1\t0\t30\nchr1\t40\t20\nchr1\t5\t6\n"
    one.finish(embed_rows(rows(text), embedder(model, "none"), one))
    with read_embeddings(tmp_path / "x.h5") as found:
        assert found.offsets.tolist() == [0, 30, 30, 31]
        assert np.isfinite(found.vectors[:]).all()


def test_embed_regions_writes_what_the_embedder_gives(model, tmp_path):
    bed = tmp_path / "rows.bed"
    bed.write_text("chr1\t10\t40\nchr9\t1\t2\nchr1\t100\t190\n")
    config = EmbedConfig(layers=(0, -1), rc="concat", context=50)
    text = random_sequence(2000, seed=4)
    genome = open_genome([write_fasta(tmp_path / "genome.fa", {"chr1": text})])
    found = embed_regions(model, bed, tmp_path / "x.h5", genome=genome, config=config)
    assert found.info.layers == (0, 2)
    assert (found.info.model, found.info.model_sha256) == ("", None)
    assert found.ok.tolist() == [True, False, True]
    inputs = [EmbedInput.of(encode(text[:50]), (10, 40)), EmbedInput.of(encode(text[100:190]))]
    expected = [vectors[1] for vectors in Embedder(model, config)(inputs)]
    np.testing.assert_allclose(found.vectors[found.ok], expected, rtol=1e-5)
    with pytest.raises(InputError, match="exists already"):
        embed_regions(model, bed, tmp_path / "x.h5", genome=genome)
    with pytest.raises(InputError, match=r"must write a \.h5 file, got .*x\.npz"):
        embed_regions(model, bed, tmp_path / "x.npz", genome=genome)
    of_alleles = EmbedConfig(allele="alt")
    with pytest.raises(InputError, match="must come with a VCF"):
        embed_regions(model, bed, tmp_path / "y.h5", genome=genome, config=of_alleles)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rc": "both"}, "rc must be one of none, average, concat, got 'both'"),
        ({"dtype": "int8"}, "dtype must be one of float32, float16, bfloat16, got 'int8'"),
        ({"edge": "wrap"}, "edge must be one of shift, pad, clip, got 'wrap'"),
        ({"allele": "both"}, "allele must be one of ref, alt, got 'both'"),
        ({"output_format": "csv"}, "output_format must be one of h5, npz, parquet, tsv, got 'csv'"),
        ({"batch_tokens": 0}, "batch_tokens must be >= 1, got 0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_choices(change, message):
    with pytest.raises(InputError, match=message):
        EmbedConfig(**change)


def test_a_stream_becomes_a_file_at_once_or_not_at_all(tmp_path):
    kept = keep_stream(io.BytesIO(BED.encode()), tmp_path / "new" / ".x.input")
    assert kept.read_text() == BED

    class Breaking(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError("broken pipe")
            return super().read(10)

    with pytest.raises(OSError, match="broken pipe"):
        keep_stream(Breaking(BED.encode()), kept)
    assert kept.read_text() == BED
    assert [path.name for path in kept.parent.iterdir()] == [".x.input"]


def test_checksums_are_of_what_is_read(tmp_path):
    plain, packed = tmp_path / "x.bed", tmp_path / "x.bed.gz"
    plain.write_text(BED)
    packed.write_bytes(gzip.compress(BED.encode()))
    assert checksum(plain) == checksum(packed) == checksum(BED)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(InputError, match="cut off or damaged"):
        checksum(packed)
