"""Made-up assembly reports of great apes for the tests."""

from pathlib import Path

COLUMNS = (
    "Sequence-Name\tSequence-Role\tAssigned-Molecule\tAssigned-Molecule-Location/Type\tGenBank-Accn"
    "\tRelationship\tRefSeq-Accn\tAssembly-Unit\tSequence-Length\tUCSC-style-name"
)


def write_report(folder: Path, rows: list[str], organism: str = "Pan troglodytes") -> Path:
    """A report as NCBI writes it, with Windows' line ends.

    rows: name, role, molecule, GenBank's, RefSeq's and UCSC's name of each sequence.
    """
    lines = ["# Assembly name:  made up", f"# Organism name:  {organism} (an ape)", "#"]
    lines.append(f"# {COLUMNS}")
    for row in rows:
        name, role, molecule, genbank, refseq, ucsc = row.split()
        cells = [name, role, molecule, "Chromosome", genbank, "=", refseq, "Primary", "9", ucsc]
        lines.append("\t".join(cells))
    path = folder / "assembly_report.txt"
    path.write_bytes("\r\n".join([*lines, ""]).encode())
    return path


def chromosome(name: str, molecule: str, ucsc: str = "na") -> str:
    return f"{name} assembled-molecule {molecule} CM{molecule}.2 NC_{molecule}.2 {ucsc}"
