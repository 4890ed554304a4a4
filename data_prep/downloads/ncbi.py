"""The great apes' assemblies: found on the server, checked by its own list of md5s.

NCBI has renamed folders under the same accession: the name is looked up in the accession's folder,
or, if that cannot be listed, among the names known so far.
"""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dnamamba.data_prep.downloads.catalogue import ApeAssembly, RemoteFile, dataset, ucsc_file
from dnamamba.data_prep.downloads.transfer import Say, download
from dnamamba.errors import InputError

Fetch = Callable[[RemoteFile], Path]

_NCBI = "https://ftp.ncbi.nlm.nih.gov/genomes/all"
_MD5_LINE = re.compile(r"([0-9a-f]{32})\s+\*?(?:\./)?(\S+)")


@dataclass(frozen=True)
class ApeFiles:
    """The files of one ape. aliases: a table of contig names for its FASTA."""

    ape: ApeAssembly
    fasta: Path
    aliases: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ApeDownload:
    """Downloads the files of apes.

    folder: the files' folder. fetch: downloads a file into `folder`, from `mirror` if there is one,
    and returns its path. say: called with sentences for the user. mirror: address of a folder of
    copies, as in `download`. force: look again for files that are there.
    """

    folder: Path
    fetch: Fetch
    say: Say
    mirror: str | None = None
    force: bool = False

    def run(self, ape: ApeAssembly) -> ApeFiles:
        """Fetch the FASTA and its table of names; InputError if no address has them."""
        return self._from_ucsc(ape) if ape.database else self._from_ncbi(ape)

    def _from_ucsc(self, ape: ApeAssembly) -> ApeFiles:
        if ape.species == "human":
            return ApeFiles(ape, self.fetch(dataset(ape.database).file))
        place, name = f"{ape.database}/bigZips", f"{ape.database}.md5sum.txt"
        # A mirror holds several folders' files in one: the list has our name there.
        published = "md5sum.txt" if self.mirror is None else name
        sums = self._read_list(ucsc_file(f"{place}/{published}", name=name))
        fasta = f"{ape.database}.fa.gz"
        return ApeFiles(ape, self.fetch(ucsc_file(f"{place}/{fasta}", md5=sums.get(fasta))))

    def _from_ncbi(self, ape: ApeAssembly) -> ApeFiles:
        stem = f"{ape.species}-t2t"
        sums, name = self._find_release(ape, f"{stem}.md5checksums.txt")
        folder = f"{accession_folder(ape)}/{name}"

        def get(ours: str, theirs: str) -> Path:
            theirs = f"{name}_{theirs}"
            remote = RemoteFile(f"{stem}.{ours}", f"{folder}/{theirs}", md5=sums.get(theirs))
            return self.fetch(remote)

        report = get("assembly_report.txt", "assembly_report.txt")
        return ApeFiles(ape, get("fa.gz", "genomic.fna.gz"), report)

    def _find_release(self, ape: ApeAssembly, list_name: str) -> tuple[dict[str, str], str]:
        """NCBI's checksums by file name, and the name of its folder and files."""
        folders, published = known_folders(ape), "md5checksums.txt"
        if self.mirror is not None:
            published = list_name
        elif self.force or not (self.folder / list_name).exists():
            folders = find_folders(ape, self.say)
        url, *others = (f"{folder}/{published}" for folder in folders)
        sums = self._read_list(RemoteFile(list_name, url, tuple(others)))
        # Coding sequences lie there too, as _cds_from_genomic.fna.gz.
        genome = re.compile(rf"({re.escape(ape.accession)}_.*)(?<!_from)_genomic\.fna\.gz")
        names = [match[1] for match in map(genome.fullmatch, sums) if match]
        if sums and not names:
            raise InputError(
                f"{self.folder / list_name} has no genome of {ape.accession}: delete it and run "
                "this again"
            )
        return sums, names[0] if names else folders[0].rpartition("/")[2]

    def _read_list(self, remote: RemoteFile) -> dict[str, str]:
        """Checksums by file name; {} if a mirror has no list."""
        try:
            path = self.fetch(remote)
        except InputError as error:
            if self.mirror is None:
                raise
            self.say(f"going on without published checksums: {error}")
            return {}
        text = path.read_text(encoding="utf-8", errors="replace")
        sums = {match[2]: match[1] for match in _MD5_LINE.finditer(text)}
        if not sums:
            raise InputError(
                f"{path} is no list of md5 checksums, it begins {text[:40]!r}: delete it and run "
                "this again"
            )
        return sums


def accession_folder(ape: ApeAssembly) -> str:
    """NCBI's folder of an accession, with a folder for each spelling of the name."""
    kind, digits = ape.accession.split(".")[0].split("_")
    return "/".join([_NCBI, kind, *re.findall("...", digits)])


def known_folders(ape: ApeAssembly) -> list[str]:
    """Addresses of an assembly's folder under its names so far, the newest first."""
    names = (ape.name, *ape.older_names)
    return [f"{accession_folder(ape)}/{ape.accession}_{name}" for name in names]


def find_folders(ape: ApeAssembly, say: Say) -> list[str]:
    """Addresses of the assembly's folders on the server; those known if it lists none."""
    base = accession_folder(ape)
    try:
        with tempfile.TemporaryDirectory() as folder:
            page = download(RemoteFile("listing.html", f"{base}/"), Path(folder), say=say)
            text = page.read_text(encoding="utf-8", errors="replace")
    except InputError:
        say(f"{base}/ cannot be listed; trying the names of the folder that are known")
        return known_folders(ape)
    link = re.compile(rf"""href=["'](?:[^"']*/)?({re.escape(ape.accession)}_[^"'/]+)/?["']""")
    found = sorted({*link.findall(text)}, reverse=True)
    return [f"{base}/{name}" for name in found] or known_folders(ape)
