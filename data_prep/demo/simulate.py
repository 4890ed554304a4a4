"""Simulated great-ape genomes: five species in seconds, for trying everything without a download.

An ancestral genome (ancestor.py) evolves along the real tree of the apes (evolution.py).
Chromosomes of one name are orthologous, as in real apes. Nothing in it is real sequence, and every
file says so.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass, field, fields
from itertools import combinations
from pathlib import Path

import numpy as np

from dnamamba.configs import require_range
from dnamamba.data_prep.demo.ancestor import (
    AncestorContent,
    Family,
    build_ancestor,
    build_families,
    build_young_families,
    descend,
    draw_young_copies,
    insert_copies,
)
from dnamamba.data_prep.demo.evolution import (
    GONE,
    MASKED,
    Bases,
    Draws,
    MutationRates,
    Stretch,
    align_to_ancestor,
    mutate,
    rate,
)
from dnamamba.errors import InputError
from dnamamba.files import read_json_or_nothing, sha256_of
from dnamamba.runtime import cache_folder

FORMAT_VERSION = 1  # raise it with any change of the sequence that comes out
SHORTEST_CHROMOSOME = 20_000
_LINE = 60


@dataclass(frozen=True)
class Branch:
    """A branch of the species tree, from `start` to `end` in million years before today."""

    name: str
    start: float
    end: float
    children: tuple["Branch", ...] = ()


# Divergence times as most studies give them, e.g. Prado-Martinez 2013 (Nature 499:471), Scally 2012
# (Nature 483:169), Pruefer 2012 (Nature 486:527), Locke 2011 (Nature 469:529).
_PAN = Branch("pan", 6.5, 2.0, (Branch("chimpanzee", 2.0, 0.0), Branch("bonobo", 2.0, 0.0)))
_HOMININES = Branch("human_and_pan", 9.0, 6.5, (Branch("human", 6.5, 0.0), _PAN))
_AFRICAN = Branch("african_apes", 16.0, 9.0, (_HOMININES, Branch("gorilla", 9.0, 0.0)))
TREE = Branch("great_apes", 16.0, 16.0, (_AFRICAN, Branch("orangutan", 16.0, 0.0)))
SPECIES = ("human", "chimpanzee", "bonobo", "gorilla", "orangutan")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the simulated genomes; the same config gives the same bytes everywhere.

    chromosome_lengths: bases of chr1, chr2, ... in the common ancestor, each >= 20,000; those of
        the species are about a tenth longer.
    seed: >= 0. mutation: how fast bases change. content: shares of repeats and exons.
    tip_insertions_per_mb, inner_insertions_per_mb: new repeats for a million bases on each branch
        that ends in a species, on each other branch.
    """

    chromosome_lengths: tuple[int, ...] = (600_000, 500_000, 400_000, 300_000, 200_000)
    seed: int = 0
    mutation: MutationRates = field(default_factory=MutationRates)
    content: AncestorContent = field(default_factory=AncestorContent)
    tip_insertions_per_mb: float = rate(
        80.0, "raised from about 5 in human (Tang 2018, DNA Res 25:521), to suit small genomes"
    )
    inner_insertions_per_mb: float = rate(30.0, "raised likewise")

    def __post_init__(self) -> None:
        if not self.chromosome_lengths or min(self.chromosome_lengths) < SHORTEST_CHROMOSOME:
            raise InputError(
                f"chromosome_lengths must be one length or more, each >= {SHORTEST_CHROMOSOME:,}, "
                f"got {self.chromosome_lengths}"
            )
        require_range("seed", self.seed, 0)
        require_range("tip_insertions_per_mb", self.tip_insertions_per_mb, 0, 1000)
        require_range("inner_insertions_per_mb", self.inner_insertions_per_mb, 0, 1000)


def write_demo_genomes(folder: Path, config: DemoConfig | None = None) -> dict[str, Path]:
    """Write the simulated genomes into a new folder; returns species -> FASTA path.

    Writes `simulated_<species>.fa` (60 bases a line, repeats in lower case), README.txt and
    demo.json: config, tree, rates with their sources, lengths, measured divergences, checksums.
    The folder appears complete or not at all; one of the same config is checked and kept.
    config: default DemoConfig(), which takes about three seconds and 120 MB.
    Raises InputError if the folder holds anything else, or files that were changed.
    """
    folder, config = Path(folder), config or DemoConfig()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        return _check_written(folder, config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        staged = Path(temporary) / folder.name
        staged.mkdir()
        _write_files(staged, config)
        try:
            staged.replace(folder)
        except OSError:
            # Another process may have finished first: its files are the same.
            if not (folder / "demo.json").exists():
                raise
            return _check_written(folder, config)
    return _paths(folder)


DEMO_GENOMES = {
    "demo": DemoConfig(),
    # Larger, and so full of young repeats that a small model can tell species apart by them.
    "demo-apes": DemoConfig(
        chromosome_lengths=(2_400_000, 2_000_000, 1_600_000, 1_200_000, 800_000),
        tip_insertions_per_mb=200.0,
    ),
}
"""By the name that commands take."""


def cached_demo_genomes(name: str = "demo") -> dict[str, Path]:
    """The genomes of DEMO_GENOMES[name] in the cache folder, made if they are not there yet."""
    config = DEMO_GENOMES[name]
    # Another version of dnamamba may simulate other genomes; each keeps its own.
    key = hashlib.sha256(f"{FORMAT_VERSION} {config!r}".encode()).hexdigest()[:8]
    return write_demo_genomes(cache_folder() / f"demo-{key}", config)


def is_demo_genome(path: Path) -> bool:
    """Whether a file is a simulated genome."""
    return path.name in {file.name for file in _paths(path.parent).values()} and bool(
        read_json_or_nothing(path.parent / "demo.json").get("simulated")
    )


def simulate_chromosome(name: str, length: int, config: DemoConfig) -> dict[str, Stretch]:
    """One chromosome in every species; all chromosomes share the repeat families alone."""
    families = build_families(Draws(config.seed, "families"))
    draws = Draws(config.seed, TREE.name, name)
    ancestor = build_ancestor(length, families, config.content, config.mutation, draws)
    young = build_young_families(families, Draws(config.seed, "young families"))
    tips: dict[str, Stretch] = {}
    _evolve(ancestor, TREE, young, name, config, tips)
    return {species: tips[species] for species in SPECIES}


def _evolve(
    parent: Stretch,
    branch: Branch,
    parent_families: dict[str, Family],
    chromosome: str,
    config: DemoConfig,
    tips: dict[str, Stretch],
) -> None:
    """Run the tree from this branch on; new repeats come in the middle of a branch."""
    families, stretch = parent_families, parent
    if branch.start > branch.end:
        families = descend(parent_families, Draws(config.seed, branch.name, "families"))
        draws = Draws(config.seed, branch.name, chromosome)
        years = (branch.start - branch.end) * 1e6
        half = config.mutation.substitutions_per_base_year * years / 2
        density = (
            config.inner_insertions_per_mb if branch.children else config.tip_insertions_per_mb
        )
        copies = draw_young_copies(families, round(density * parent.length / 1e6), draws)
        stretch = mutate(stretch, half, config.mutation, draws)
        stretch = insert_copies(stretch, copies, config.mutation, draws)
        stretch = mutate(stretch, half, config.mutation, draws)
    for child in branch.children:
        _evolve(stretch, child, families, chromosome, config, tips)
    if not branch.children:
        tips[branch.name] = stretch


def _write_files(folder: Path, config: DemoConfig) -> None:
    paths = _paths(folder)
    lengths: dict[str, dict[str, int]] = {species: {} for species in SPECIES}
    counts = {pair: np.zeros(2, np.int64) for pair in combinations(SPECIES, 2)}
    for number, ancestor_length in enumerate(config.chromosome_lengths, 1):
        name = f"chr{number}"
        chromosome = simulate_chromosome(name, ancestor_length, config)
        for species, stretch in chromosome.items():
            lengths[species][name] = stretch.length
            with paths[species].open("ab") as file:
                file.write(f">{name} simulated {species}, not real sequence\n".encode())
                file.write(_fasta_lines(stretch))
        for pair, differences in _count_differences(chromosome).items():
            counts[pair] += differences
    divergence = {f"{a}-{b}": round(int(n[0]) / int(n[1]), 6) for (a, b), n in counts.items()}
    rates = [
        {"name": each.name, "value": getattr(part, each.name), "source": each.metadata["source"]}
        for part in (config.mutation, config.content, config)
        for each in fields(part)
        if "source" in each.metadata
    ]
    described = (f"  {row['name']} {row['value']:.4g}: {row['source']}" for row in rates)
    readme = _README.format(rates="\n".join(described))
    (folder / "README.txt").write_bytes(readme.encode())
    record = {
        "format_version": FORMAT_VERSION,
        "simulated": True,
        "seed": config.seed,
        "config": asdict(config),
        "tree_million_years": asdict(TREE),
        "rates": rates,
        "lengths": lengths,
        "substitutions_per_shared_site": divergence,
        "sha256": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    (folder / "demo.json").write_bytes((json.dumps(record, indent=1) + "\n").encode())


def _fasta_lines(stretch: Stretch) -> bytes:
    """60 letters a line, the last one shorter; repeats in lower case."""
    is_masked = (stretch.feature >= MASKED).astype(np.uint8)
    letters = np.frombuffer(b"ACGTacgt", np.uint8)[stretch.bases + 4 * is_masked]
    whole = len(letters) // _LINE
    lines = np.full((whole, _LINE + 1), ord("\n"), np.uint8)
    lines[:, :_LINE] = letters[: whole * _LINE].reshape(whole, _LINE)
    rest = letters[whole * _LINE :].tobytes()
    return lines.tobytes() + (rest + b"\n" if rest else b"")


def _count_differences(chromosome: dict[str, Stretch]) -> dict[tuple[str, str], tuple[int, int]]:
    """For each two species: ancestral sites with different bases, and sites both still have."""
    n_sites = 1 + max(int(stretch.site.max()) for stretch in chromosome.values())
    aligned: dict[str, Bases] = {
        species: align_to_ancestor(stretch, n_sites) for species, stretch in chromosome.items()
    }
    counts = {}
    for one, other in combinations(chromosome, 2):
        shared = (aligned[one] != GONE) & (aligned[other] != GONE)
        differs = shared & (aligned[one] != aligned[other])
        counts[one, other] = (int(np.count_nonzero(differs)), int(np.count_nonzero(shared)))
    return counts


def _check_written(folder: Path, config: DemoConfig) -> dict[str, Path]:
    """The paths, if the folder holds what this config gives; else InputError."""
    advice = "remove it or choose another folder"
    record = read_json_or_nothing(folder / "demo.json")
    if not record.get("simulated"):
        raise InputError(
            f"{folder} should be a new folder or one with demo genomes, but it holds something "
            f"else (no readable demo.json); {advice}"
        )
    if record.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder} holds demo genomes of format {record.get('format_version')}, this version "
            f"makes format {FORMAT_VERSION}; {advice}"
        )
    asked = json.loads(json.dumps(asdict(config)))
    if differing := [
        f"{name} {found} there, {value} asked"
        for name, value in asked.items()
        if (found := record["config"].get(name)) != value
    ]:
        details = "; ".join(differing)
        raise InputError(f"{folder} holds demo genomes of another config ({details}); {advice}")
    for name, digest in record["sha256"].items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != digest:
            raise InputError(f"{path} is missing or was changed since it was simulated; {advice}")
    return _paths(folder)


def _paths(folder: Path) -> dict[str, Path]:
    return {species: folder / f"simulated_{species}.fa" for species in SPECIES}


_README = """\
Simulated great-ape genomes
===========================

Everything in this folder is SIMULATED. No base comes from a real genome, and nothing here says
anything about real apes. It is for trying dnamamba, for tests and for teaching.

Files: simulated_<species>.fa for human, chimpanzee, bonobo, gorilla and orangutan (repeats in lower
case; chr1 of one species is homologous to chr1 of the others, and so on), and demo.json: the
config, the tree, the rates with their sources, lengths, measured divergences and sha256 sums.

How it was made. An ancestral genome was drawn: background from a first-order Markov chain with the
dinucleotide odds of human DNA in isochores of 100-300 kb, genes (a CpG island, exons in human codon
usage, splice sites), microsatellites, minisatellites, satellite arrays, and families of made-up
repeats with the lengths, make-up, ages and shares of Alu, LINE-1, retroviral LTRs and DNA
transposons. It evolved along the tree of the great apes, split 16, 9, 6.5 and 2 million years ago,
by substitutions (CpG faster), small indels, microsatellite slippage and, in the middle of each
branch, insertions of young repeats of a subfamily of that branch. These insertions are many times
denser than in real apes and do not depend on the length of the branch, so that small models can
tell species apart by their repeats, also on chromosomes they have not seen.

Rates, with the source of each value or the reason for it:
{rates}

The same config gives the same bytes on every machine.
"""
