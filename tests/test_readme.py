"""README.md's Python and docs/embeddings.md run as they stand, on a small simulated genome."""

import gzip
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from dnamamba.cli.main import cli
from dnamamba.data_prep.demo.simulate import DemoConfig, write_demo_genomes
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.genomes.store import prepare_store
from dnamamba.embedding.reader import read_embeddings
from dnamamba.models import DnaClassifier, DnaModel, HeadConfig, ModelConfig
from dnamamba.task import Task
from dnamamba.tokenizer import decode, is_soft_masked

README = Path(__file__).resolve().parents[1] / "README.md"
EMBEDDINGS = README.parent / "docs" / "embeddings.md"
SIZE = 64


def blocks_of(path: Path) -> list[tuple[str, str]]:
    """(`shell` or `python`, text) of each block of a page, in order."""
    pattern = r"^```(\w+)\n(.*?)^```$|((?:^    \S[^\n]*\n)+)"
    return [
        (language or "shell", text or indented)
        for language, text, indented in re.findall(
            pattern, path.read_text(encoding="utf8"), re.MULTILINE | re.DOTALL
        )
    ]


def run_shell(text: str) -> None:
    """Commands of dnamamba, in this process; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        name, *arguments = shlex.split(line, comments=True)
        assert name == "dnamamba", line
        try:
            cli.main(arguments, standalone_mode=False)
        except (SystemExit, click.exceptions.Exit) as end:
            pytest.fail(f"{line}: ended with {end}")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The files that the pages name: a model, a genome, and what lies on it."""
    monkeypatch.chdir(tmp_path)
    small = DemoConfig(chromosome_lengths=(20_000, 25_000))
    store = prepare_store([write_demo_genomes(Path("genomes"), small)["human"]], Path("hg38.h5"))
    genome = open_genome([store])
    config = ModelConfig(d_model=16, n_layers=2)
    DnaModel(config).save_pretrained(Path("runs/demo"))
    head = HeadConfig(task=Task(kind="multiclass", labels=("bonobo", "human")))
    DnaClassifier(config, head).save_pretrained(Path("runs/classify-demo-demo"))

    regions: list[tuple[str, int, str]] = []
    for chrom, length in genome.contigs.items():
        masked = is_soft_masked(genome.read(chrom, 0, length))
        edges = [0, *(np.flatnonzero(np.diff(masked)) + 1), length]
        for start, end in pairwise(map(int, edges)):
            if end - start >= SIZE:
                label = "repeat" if masked[start] else "unique"
                regions.append((chrom, (start + end - SIZE) // 2, label))

    def write(name: str, lines: list[str]) -> None:
        opened = gzip.open if name.endswith(".gz") else open
        with opened(name, "wt", encoding="utf8") as file:
            file.write("".join(f"{line}\n" for line in lines))

    names = [f"{chrom}_{start}" for chrom, start, _ in regions]
    places = list(zip(regions, names, strict=True))
    write("peaks.bed", [f"{c}\t{at}\t{at + SIZE}\t{name}" for (c, at, _), name in places])
    write("peaks.tsv", ["name\tlabel", *(f"{name}\t{row[2]}" for row, name in places)])
    gene = 'demo\tgene\t{}\t{}\t.\t{}\t.\tgene_id "{}";'
    genes = [(1_000, 2_500, "+", "g1"), (5_000, 5_400, "-", "g2")]
    write("genes.gtf.gz", [f"chr2\t{gene.format(*row)}" for row in genes])

    def records(label: str | None) -> list[str]:
        return [
            f">{name}\n{decode(genome.read(chrom, at, at + SIZE))}"
            for (chrom, at, found), name in places
            if label in (None, found)
        ]

    for name, label in (("enhancers", "repeat"), ("others", "unique"), ("reads", None)):
        write(f"{name}.fa", records(label))
    ref = decode(genome.read("chr2", 9_999, 10_000)).upper()
    variant = f"chr2\t10000\t.\t{ref}\t{'A' if ref != 'A' else 'G'},{ref}AC\t.\t.\t."
    header = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    write("variants.vcf.gz", ["##fileformat=VCFv4.3", header, variant])
    return tmp_path


def test_the_page_on_embeddings_runs_as_it_stands(folder, capsys):
    for name in ("anndata", "pybigtools"):
        pytest.importorskip(name, reason=f"the page needs {name}")
    shared: dict[str, Any] = {}
    for n, (kind, text) in enumerate(blocks_of(EMBEDDINGS)):
        if kind == "shell":
            run_shell(text)
        else:
            assert kind == "python"
            exec(compile(text, f"embeddings.md, block {n}", "exec"), shared)

    said = capsys.readouterr().out
    n_regions = len(Path("peaks.bed").read_text().splitlines())
    assert f"({n_regions}, 16) chr1" in said, "the shape and place that the page prints"
    assert "the k-mer baseline's" in said
    assert re.search(r"^0 torch\.Size\(\[1, \d+, 16\]\)$", said, re.MULTILINE)
    assert read_embeddings("reads.h5").vectors.shape == (n_regions, 4, 16)
    assert read_embeddings("locus.h5").vectors.shape == (2_000, 16)
    assert read_embeddings("genes.h5").table["strand"].tolist() == ["+", "-"]
    assert np.load("peaks.npy", mmap_mode="r").shape == (n_regions, 16)
    assert Path("peaks.probe/report.html").exists()
    with gzip.open("scored.vcf.gz", "rt") as lines:
        (scored,) = (line for line in lines if not line.startswith("#"))
    assert "DNAMAMBA_LLR=" in scored
    assert Path("nll.bw").stat().st_size > 10_000
    assert Path("peaks.h5ad").exists()


def test_the_python_of_the_readme_runs_as_it_stands(folder, capsys):
    (text,) = (text for kind, text in blocks_of(README) if kind == "python")
    shared: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), shared)
    assert shared["logits"].shape == (8, 12)
    assert shared["vectors"].shape == (2, 16)
    assert shared["peaks"].shape == (1, 16)
    assert shared["likelihoods"].shape == (2,)
    assert np.isfinite(shared["ratios"]).all()
    assert re.search(r"bonobo|human", capsys.readouterr().out)


def test_from_fasta_to_a_classifier_is_less_than_ten_lines():
    (text,) = (text for kind, text in blocks_of(EMBEDDINGS) if '"enhancers.fa"' in text)
    assert len([line for line in text.splitlines() if line.strip()]) < 10


def test_commands_of_the_list_exist():
    _, _, rest = README.read_text(encoding="utf8").partition("## Commands\n")
    listed = re.findall(r"^    dnamamba (\w+)", rest, re.MULTILINE)
    assert set(listed) == set(cli.list_commands(click.Context(cli)))
