"""Great apes from a server on the loopback address that looks like NCBI's and UCSC's."""

import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ape_reports import chromosome, write_report
from dnamamba.cli.data import prepare
from dnamamba.cli.data_fetch import fetch
from dnamamba.data_prep.apes import homologues
from dnamamba.data_prep.downloads import catalogue as registry
from dnamamba.data_prep.downloads import ncbi as ape_download
from dnamamba.data_prep.downloads import transfer as download
from dnamamba.data_prep.genomes.store import GenomeStore
from dnamamba.errors import InputError

GORILLA = registry.great_apes()["t2t"]["gorilla"]
FOLDER = "/genomes/all/GCF/029/281/585"
FASTA = gzip.compress(b"".join(b">NC_%d.2\nACGT\n" % n for n in range(1, 24)), mtime=0)


@dataclass
class Site:
    """Files by path; a path that ends in "/" is a listing.

    cuts: bytes of a file after which the connection is closed, once.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def add_ncbi(self, name: str, report: bytes, *, lists: bool = True) -> str:
        """The gorilla's folder as NCBI would show it; returns its path."""
        prefix = f"{GORILLA.accession}_{name}"
        folder = f"{FOLDER}/{prefix}"
        files = {
            f"{prefix}_cds_from_genomic.fna.gz": b"coding sequences",
            f"{prefix}_genomic.fna.gz": FASTA,
            f"{prefix}_assembly_report.txt": report,
        }
        sums = "".join(f"{md5(data)}  ./{file}\n" for file, data in files.items())
        self.files |= {f"{folder}/{file}": data for file, data in files.items()}
        self.files[f"{folder}/md5checksums.txt"] = sums.encode()
        if lists:
            link = f'<a href="../">Parent</a>\n<a href="{prefix}/">{prefix[:20]}..&gt;</a>'
            self.files[f"{FOLDER}/"] = f"<html><pre>{link}</pre></html>".encode()
        return folder

    def add_ucsc(self, database: str) -> None:
        folder = f"/goldenPath/{database}/bigZips"
        self.files[f"{folder}/{database}.fa.gz"] = FASTA
        other = "0" * 32
        sums = f"{other}  {database}.2bit\n{md5(FASTA)}  {database}.fa.gz\n"
        self.files[f"{folder}/md5sum.txt"] = sums.encode()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def handler_of(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=")[:-1])
            site.asked.append(f"{self.path} from {start}" if start else self.path)
            body = site.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", f'"{md5(body)}"')
            self.end_headers()
            self.wfile.write(body[start : site.cuts.pop(self.path, len(body))])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(site)) as listening:
        site.url = f"http://127.0.0.1:{listening.server_port}"
        monkeypatch.setattr(ape_download, "_NCBI", f"{site.url}/genomes/all")
        monkeypatch.setattr(registry, "_UCSC_SERVERS", (site.url,))
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        listening.shutdown()
        thread.join()


@pytest.fixture
def report(tmp_path: Path) -> bytes:
    rows = [chromosome(f"{n}", f"{n}") for n in range(1, 24)]
    return write_report(tmp_path, rows, "Gorilla gorilla gorilla").read_bytes()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(fetch, ["great-apes", *map(str, arguments)])


# --- complete genomes, NCBI


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.7"])
def test_the_folder_is_found_whatever_it_is_called(site, report, tmp_path, version):
    out = tmp_path / "out"
    site.add_ncbi(f"NHGRI_mGorGor1-{version}_pri", report)
    result = run("--species", "gorilla", "--out", out)
    assert result.exception is None
    assert (out / "gorilla-t2t.fa.gz").read_bytes() == FASTA
    assert (out / "gorilla-t2t.assembly_report.txt").read_bytes() == report
    assert f"{out}/gorilla-t2t.fa.gz (md5 checked)" in result.stdout
    assert site.asked[0] == f"{FOLDER}/"
    assert not list(out.glob("*.part*"))


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_known_names_are_tried_where_the_folder_is_not_listed(site, report, tmp_path, version):
    site.add_ncbi(f"NHGRI_mGorGor1-{version}_pri", report, lists=False)
    result = run("--species", "gorilla", "--out", tmp_path)
    assert result.exception is None
    assert "cannot be listed; trying the names of the folder that are known" in result.stderr
    assert (tmp_path / "gorilla-t2t.fa.gz").read_bytes() == FASTA


def test_the_command_that_is_printed_makes_a_store_with_human_chromosomes(site, report, tmp_path):
    site.add_ncbi(GORILLA.name, report)
    last = run("--species", "gorilla", "--out", tmp_path).stdout.splitlines()[-1]
    fasta, table, store = (
        f"{tmp_path}/gorilla-t2t.{end}" for end in ("fa.gz", "assembly_report.txt", "h5")
    )
    assert last == f"next: dnamamba data prepare {fasta} --aliases {table} --out {store}"
    made = CliRunner().invoke(prepare, last.split()[4:])
    assert made.exception is None
    contigs = GenomeStore(Path(store)).contigs
    assert list(contigs)[:5] == ["chr1_hsa1", "chr2_hsa3", "chr3_hsa4", "chr4_hsa17x5", "chr5_hsa6"]
    human = [homologues("gorilla", contig) for contig in contigs]
    assert None not in human
    assert human[3] == ("5", "17")


def test_a_second_run_asks_nothing(site, report, tmp_path):
    site.add_ncbi(GORILLA.name, report)
    run("--species", "gorilla", "--out", tmp_path)
    site.asked.clear()
    result = run("--species", "gorilla", "--out", tmp_path)
    assert result.exception is None
    assert "gorilla-t2t.fa.gz is there already (md5 checked)" in result.stderr
    assert site.asked == []


def test_an_interrupted_genome_is_taken_up_where_it_broke(site, report, tmp_path, monkeypatch):
    folder = site.add_ncbi(GORILLA.name, report)
    genome = f"{folder}/{GORILLA.accession}_{GORILLA.name}_genomic.fna.gz"
    site.cuts = {genome: 50}
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    result = run("--species", "gorilla", "--out", tmp_path)
    assert result.exception is None
    assert site.asked[-2:] == [genome, f"{genome} from 50"]
    assert (tmp_path / "gorilla-t2t.fa.gz").read_bytes() == FASTA


def test_a_genome_other_than_the_list_says_is_moved_away(site, report, tmp_path):
    folder = site.add_ncbi(GORILLA.name, report)
    genome = f"{folder}/{GORILLA.accession}_{GORILLA.name}_genomic.fna.gz"
    site.files[genome] = FASTA[::-1]
    result = run("--species", "gorilla", "--out", tmp_path)
    assert isinstance(result.exception, InputError)
    assert f"expected {md5(FASTA)}; it was moved to" in str(result.exception)
    assert (tmp_path / "gorilla-t2t.fa.gz.bad").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>please log in</html>", "is no list of md5 checksums, it begins '<html>please"),
        (b"%s  ./GCF_1_other_genomic.fna.gz\n" % (b"0" * 32), "has no genome of GCF_029281585.2"),
    ],
)
def test_a_list_that_is_none_is_refused(site, report, tmp_path, content, message):
    folder = site.add_ncbi(GORILLA.name, report)
    site.files[f"{folder}/md5checksums.txt"] = content
    result = run("--species", "gorilla", "--out", tmp_path)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "delete it and run this again" in str(result.exception)


def test_all_addresses_are_named_where_nothing_is_there(site, tmp_path):
    result = run("--species", "gorilla", "--out", tmp_path)
    assert isinstance(result.exception, InputError)
    for version in ("v2.1", "v2.0"):
        assert f"mGorGor1-{version}_pri/md5checksums.txt is not there" in str(result.exception)


# --- UCSC


def test_ucscs_genome_is_checked_by_the_list_of_its_folder(site, tmp_path):
    site.add_ucsc("gorGor6")
    result = run("--assembly", "ucsc", "--species", "gorilla", "--out", tmp_path)
    assert result.exception is None
    fasta = tmp_path / "gorGor6.fa.gz"
    assert f"{fasta} (md5 checked)" in result.stdout
    store = tmp_path / "gorilla-ucsc.h5"
    last = result.stdout.splitlines()[-1]
    assert last == f"next: dnamamba data prepare {fasta} --out {store}"


def test_species_come_in_the_same_order_and_commands_at_the_end(site, tmp_path):
    for database in ("panTro6", "ponAbe3"):
        site.add_ucsc(database)
    chosen = ("--species", "sumatran_orangutan", "--species", "chimpanzee")
    result = run("--assembly", "ucsc", *chosen, "--out", tmp_path)
    files = [line.rpartition("/")[2] for line in result.stdout.splitlines()]
    assert files == [
        "panTro6.md5sum.txt (nothing checked; no published checksum is known)",
        "panTro6.fa.gz (md5 checked)",
        "ponAbe3.md5sum.txt (nothing checked; no published checksum is known)",
        "ponAbe3.fa.gz (md5 checked)",
        "chimpanzee-ucsc.h5",
        "sumatran_orangutan-ucsc.h5",
    ]


# --- mirrors


def test_a_folder_filled_by_one_run_is_a_mirror_for_the_next(site, report, tmp_path):
    site.add_ncbi("NHGRI_mGorGor1-v2.0_pri", report)
    site.add_ucsc("panTro6")
    first, second = tmp_path / "first", tmp_path / "second"
    choices = (["--species", "gorilla"], ["--assembly", "ucsc", "--species", "chimpanzee"])
    for choice in choices:
        run(*choice, "--out", first)
    site.files.clear()
    for choice in choices:
        result = run(*choice, "--out", second, "--mirror", first.as_uri())
        assert result.exception is None
        assert ".fa.gz (md5 checked)" in result.stdout
    for name in ("gorilla-t2t.fa.gz", "panTro6.fa.gz"):
        assert (second / name).read_bytes() == FASTA


def test_a_mirror_of_published_names_without_a_list_is_checked_by_gzip(report, tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    stem = f"{GORILLA.accession}_{GORILLA.name}"
    (mirror / f"{stem}_genomic.fna.gz").write_bytes(FASTA)
    (mirror / f"{stem}_assembly_report.txt").write_bytes(report)
    result = run("--species", "gorilla", "--out", tmp_path, "--mirror", mirror.as_uri())
    assert result.exception is None
    assert "going on without published checksums: gorilla-t2t.md5checksums.txt" in result.stderr
    assert "gorilla-t2t.fa.gz (gzip CRC checked; no published checksum is known)" in result.stdout


def test_ucscs_human_is_hg38_of_the_registry(tmp_path):
    result = run(
        *("--assembly", "ucsc", "--species", "human"),
        *("--out", tmp_path, "--mirror", (tmp_path / "nowhere").as_uri()),
    )
    assert isinstance(result.exception, InputError)
    assert "hg38.fa.gz could not be downloaded" in str(result.exception)


# --- what is asked for


def test_a_species_that_the_assemblies_lack_is_a_usage_error(tmp_path):
    result = run("--assembly", "ucsc", "--species", "bornean_orangutan")
    assert result.exit_code == 2
    assert "great-apes --assembly ucsc has no 'bornean_orangutan'; it has human," in result.stderr


@pytest.mark.parametrize("option", [("--species", "human"), ("--assembly", "ucsc")])
def test_options_of_the_apes_go_with_them_alone(option):
    result = CliRunner().invoke(fetch, ["hg38", *option])
    assert result.exit_code == 2
    assert "--assembly and --species are for great-apes alone" in result.stderr
