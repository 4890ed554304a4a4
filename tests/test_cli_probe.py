"""`dnamamba probe`: the whole command, from files to a folder with a report."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dnamamba.baselines.linear_models import LinearProbe
from dnamamba.cli.main import cli
from dnamamba.embedding.reader import read_embeddings
from dnamamba.errors import InputError
from genomes import (
    random_sequence,
    write_fasta,
)
from label_files import write_table
from report_pages import Page

embedding_file = pytest.importorskip(
    "dnamamba.embedding.writer", reason="files of embeddings are not read yet"
)

N, WIDTH, LENGTH = 60, 6, 80


def rows_of(vectors: np.ndarray) -> Iterator:
    """Regions on three contigs, of which the fifth could not be embedded."""
    for i in range(N):
        chrom, start = f"chr{i % 3 + 1}", 100 * (i // 3)
        failed = i == 4
        yield embedding_file.EmbeddedRow(
            line=i + 1,
            chrom=chrom,
            start=start,
            end=start + LENGTH,
            strand="+",
            name=f"peak{i}",
            window_start=start,
            window_end=start + LENGTH,
            status="unreadable" if failed else "ok",
            note="",
            columns=(),
            vectors=None if failed else [0 * vectors[i], vectors[i]],
        )


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """peaks.h5 with layers 0 and 2, labels.tsv and genome.fa of what it was made of."""
    folder = tmp_path_factory.mktemp("files")
    is_hot = np.arange(N) // 3 % 2
    vectors = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
    vectors[:, 1] += 4 * is_hot
    info = embedding_file.EmbeddingInfo(
        model="runs/x/model",
        model_sha256=None,
        layers=(0, 2),
        d_out=WIDTH,
        pooling="mean",
        rc="none",
        context=None,
        edge="shift",
        dtype="float32",
        precision="fp32",
        source_sha256="ab" * 32,
        genome=(),
        columns=(),
    )
    writer = embedding_file.EmbeddingWriter(folder / "peaks.h5", info)
    writer.write(0, list(rows_of(vectors)))
    writer.finish(1)
    rows = [(f"peak{i}", ("cold", "hot")[is_hot[i]], 2.0 * is_hot[i] + i / 99) for i in range(N)]
    write_table(folder / "labels.tsv", rows, ("name", "label", "signal"))
    contigs = {f"chr{i}": random_sequence(100 * N // 3 + 100, seed=i) for i in (1, 2, 3)}
    write_fasta(folder / "genome.fa", contigs)
    return folder


def probe(*arguments: object) -> str:
    """What is printed; a user's mistake is raised as it is."""
    result = CliRunner().invoke(cli, ["probe", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_the_whole_command(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = probe(
        *(files / "peaks.h5", "--labels", files / "labels.tsv", "--genome", files / "genome.fa"),
        *("--group-by", "chrom", "--folds", 3, "--layer", "all", "--max-k", 3, "--out", out),
    )
    assert "the embeddings do better" in said
    assert f"Report: {out / 'report.html'}" in said
    lines = (out / "predictions.tsv").read_text().splitlines()
    assert len(lines) == N
    assert "peak4\t" not in "\n".join(lines)
    text = Page((out / "report.html").read_text()).text
    assert "1 rows whose embedding failed, left out" in " ".join(text.split())
    assert "Groups are contigs; none is torn between folds (3 groups)." in text
    assert "layer 2" in text
    read = read_embeddings(files / "peaks.h5", layer=2)
    scores = LinearProbe.load(out / "probe.npz").scores(read.vectors[:4])
    assert scores.argmax(axis=1).tolist() == [0, 0, 0, 1]


def test_numbers_and_the_default_folder(files: Path) -> None:
    arguments = [files / "peaks.h5", "--labels", files / "labels.tsv", "--task", "regression"]
    said = probe(*arguments, "--label-column", "signal")
    assert "r2 0." in said
    assert "There is no baseline" in said
    assert (files / "peaks.probe" / "report.html").exists()
    with pytest.raises(InputError, match="holds a probe already: use --force"):
        probe(*arguments, "--label-column", "signal")
    probe(*arguments, "--label-column", "signal", "--folds", 2, "--force")


def test_sequences_by_name_make_a_baseline(files: Path, tmp_path: Path) -> None:
    reads = {f"peak{i}": random_sequence(LENGTH, seed=i) for i in range(N)}
    said = probe(
        *(files / "peaks.h5", "--labels", files / "labels.tsv", "--out", tmp_path / "out"),
        *("--sequences", write_fasta(tmp_path / "x.fa", reads), "--max-k", 2, "--folds", 2),
    )
    assert "the k-mer baseline's" in said


def test_mistakes_are_named(files: Path, tmp_path: Path) -> None:
    arguments = (files / "peaks.h5", "--labels", files / "labels.tsv", "--out", tmp_path / "out")
    with pytest.raises(InputError, match="has no layer 1: it has 0, 2"):
        probe(*arguments, "--layer", 1)
    with pytest.raises(InputError, match="--layer must be a number or all, got 'last'"):
        probe(*arguments, "--layer", "last")
    assert "name one" in probe(*arguments, "--genome", "x", "--sequences", "y")
    assert "name one" in probe(*arguments, "--split-column", "split", "--folds", "3")
    assert "needs the sequences" in probe(*arguments, "--max-k", "4")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="a folder with other files in it"):
        probe(*arguments, "--force")
