"""`dnamamba embed`: every kind of input, option and refusal; files in, files out, messages."""

import gzip
import hashlib
import json
import os
import sys
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import dnamamba
from dnamamba import read_embeddings
from dnamamba.cli.main import cli
from dnamamba.embedding.format import to_float32
from dnamamba.embedding.writer import EmbeddingWriter
from dnamamba.errors import InputError
from dnamamba.models import BiMambaConfig, DnaModel, HyenaConfig, ModelConfig
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.task import Task
from dnamamba.tokenizer import FIRST_BASE_ID, encode, reverse_complement
from genomes import (
    random_sequence,
    write_bgzf,
    write_fasta,
    write_gzip,
)

CONTIG = random_sequence(1000, seed=5)
OTHER = random_sequence(300, seed=6)
D = 8


def save(folder, **changes):
    torch.manual_seed(0)
    model = DnaModel(ModelConfig(**({"d_model": D, "n_layers": 1} | changes)))
    torch.nn.init.normal_(model.backbone.embedding.weight)
    model.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run_folder):
    return DnaModel.from_pretrained(run_folder)


@pytest.fixture
def genome(tmp_path):
    return write_fasta(tmp_path / "genome.fa", {"chr1": CONTIG, "chr2": OTHER})


def embed(*arguments, stdin=None):
    """Exit code and standard error; a user's mistake is raised as it is."""
    command = ["embed", "--device", "cpu", *map(str, arguments)]
    result = CliRunner().invoke(cli, command, input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.stdout == ""
    return result.exit_code, result.stderr


@pytest.fixture
def made(run_folder, genome, tmp_path):
    """Embeds the lines of a BED (or what else is given as --regions); the file, opened."""
    opened = []

    def make(regions, *options, name="x.h5"):
        if isinstance(regions, str) and "\t" in regions:
            path = tmp_path / "rows.bed"
            path.write_text(regions)
            regions = path
        out = tmp_path / name
        given = (run_folder, "--regions", regions, "--genome", genome, "--out", out, "--force")
        code, err = embed(*given, *options)
        assert code == 0, err
        opened.append(read_embeddings(out))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def of(model, *sequences, **options):
    return dnamamba.embed(model, sequences, **options)


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# --- many rows


KINDS = {
    "start > end": "chr1\t{end}\t{start}",
    "unknown contig": "1\t{start}\t{end}",
    "negative": "chr1\t-{end}\t{end}",
    "past the end": "chr1\t990\t{past}",
    "text": "chr1\tx{start}\tend",
    "0-length": "chr1\t{start}\t{start}",
    "duplicate": "chr1\t10\t30",
    "CRLF": "chr1\t{start}\t{end}\tn{n}\t0\t-\r",
    "comment": "#chr1\t{start}\t{end}",
    "columns": "chr1\t{start}\t{end}{more}",
}
NOTES = {
    "start > end": "is after end",
    "unknown contig": "the genome has no contig '1' (it has 'chr1')",
    "negative": "start is negative",
    "past the end": "lies past the end of chr1, which has 1,000 bases",
    "text": "start must be a whole number, got 'x",
    "0-length": "no base at all",
}


def write_rows(path, n_rows):
    names = list(KINDS)
    lines = []
    for n in range(n_rows):
        start = 7 * n % 940
        more = "".join(f"\t{'+-.'[n // 10 % 3] if i == 2 else i}" for i in range(n // 10 % 10))
        values = {"start": start, "end": start + 20, "past": 1001 + n, "n": n, "more": more}
        lines.append(KINDS[names[n % 10]].format(**values))
    path.write_text("\n".join(lines) + "\n", newline="")
    return path


def check_rows(path, model, n_rows):
    names = [name for n, name in enumerate(KINDS) if name != "comment"]
    with read_embeddings(path) as found:
        table, ok = found.table, found.ok
        n_kept = n_rows - n_rows // 10
        assert len(found) == n_kept
        numbers = np.arange(n_rows)
        numbers = numbers[numbers % 10 != 8]
        assert table["line"].tolist() == (numbers + 1).tolist()
        for n, name in enumerate(names):
            notes = table["note"][n::9]
            assert len(notes) == n_rows // 10
            if name in NOTES:
                assert all(NOTES[name] in note for note in notes)
                assert set(ok[n::9]) == {name == "past the end"}
            else:
                assert ok[n::9].all()
        assert len(found.info.columns) == 12
        where = np.flatnonzero(ok)[:: max(1, len(ok) // 200)]
        sequences = []
        for row in where:
            codes = encode(CONTIG[table["start"][row] : table["end"][row]])
            sequences.append(reverse_complement(codes) if table["strand"][row] == "-" else codes)
        close(found.vectors[where], of(model, *sequences))


@pytest.mark.slow
def test_a_hundred_thousand_rows_of_ten_kinds(run_folder, genome, model, tmp_path):
    """Each is a row in its order, with a note where it needs one; the same by BGZF and a pipe."""
    bed = write_rows(tmp_path / "rows.bed", 100_000)
    given = (run_folder, "--genome", genome, "--out")
    code, err = embed(*given, tmp_path / "x.h5", "--regions", bed)
    assert (code, err.count("\n")) == (0, err.count("bases a second") + 1)
    assert err.endswith(
        "x.h5: 90,000 rows: 40,000 unreadable, 30,000 ok, 10,000 clipped, 10,000 too short\n"
    )
    check_rows(tmp_path / "x.h5", model, 100_000)
    packed = write_bgzf(tmp_path / "rows", bed.read_bytes().decode(), 60_000)
    assert embed(*given, tmp_path / "y.h5", "--regions", "-", stdin=packed.read_bytes())[0] == 0
    assert (tmp_path / "x.h5").read_bytes() == (tmp_path / "y.h5").read_bytes()


def test_plain_gzip_bgzf_and_standard_input_are_the_same(run_folder, genome, model, tmp_path):
    bed = write_rows(tmp_path / "rows.bed", 1000)
    text = bed.read_bytes()
    sources = [
        bed,
        write_gzip(tmp_path / "a.bin", text.decode()),
        write_bgzf(tmp_path / "b.bin", text.decode()),
    ]
    files = []
    for n, source in enumerate([*sources, "-", "-"]):
        out = tmp_path / f"{n}.h5"
        stdin = text if n == 3 else gzip.compress(text) if n == 4 else None
        assert embed(run_folder, "--genome", genome, "--regions", source, "--out", out, stdin=stdin)
        files.append(out.read_bytes())
    check_rows(tmp_path / "0.h5", model, 1000)
    assert len(set(files)) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_people_s_files_have(run_folder, genome, model, tmp_path):
    """Lines before the header, spaces, names that are no UTF-8, long ones, huge numbers; by a named
    pipe, as `<(zcat x.bed.gz)` is one."""
    text = (
        b"track name=x\nbrowser y\n#c\n\nchrom\tstart\tend\tname\nchr1\t0\t30\tcaf\xe9\xff\n"
        b"chr1\t0\t99999999999999999999\nchr1\t0\t50\t" + 3000 * b"a" + b"\nchr1 5 9\n \t \n"
    )
    pipe, out = tmp_path / "pipe", tmp_path / "x.h5"
    os.mkfifo(pipe)
    feeding = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(text),))
    feeding.start()
    code, _ = embed(run_folder, "--genome", genome, "--regions", pipe, "--out", out)
    feeding.join()
    assert code == 0
    with read_embeddings(out) as found:
        assert found.info.columns == ("chrom", "start", "end", "name")
        assert found.table["line"].tolist() == [6, 7, 8, 9]
        assert found.table["name"].tolist() == ["caf\u00e9\u00ff", "", 3000 * "a", ""]
        assert found.table["note"][1] == "end is larger than any contig: 99999999999999999999"
        pieces = [CONTIG[:30], CONTIG[:50], CONTIG[5:9]]
        close(found.vectors[:][found.ok], of(model, *pieces))


# --- kinds of input


def test_a_region_as_text(made, model):
    found = made("chr1:101-200")
    table = found.table
    assert (table["chrom"][0], table["start"][0], table["end"][0]) == ("chr1", 100, 200)
    assert table["name"][0] == "chr1:101-200"
    close(found.vectors[:], of(model, CONTIG[100:200]))
    close(made("chr2").vectors[:], of(model, OTHER))


def test_a_gtf(made, model, tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text(
        "#!genome-build x\n"
        'chr1\tme\tgene\t11\t60\t.\t-\t.\tgene_id "G1"; gene_name "A";\n'
        'chr9\tme\tgene\t1\t5\t.\t+\t.\tgene_id "G2";\n'
    )
    found = made(path)
    assert found.table["name"].tolist() == ["G1", "G2"]
    assert found.ok.tolist() == [True, False]
    assert (found.table["start"][0], found.table["end"][0]) == (10, 60)
    close(found.vectors[0], of(model, reverse_complement(encode(CONTIG[10:60])))[0])


def test_both_alleles_of_a_vcf(made, model, tmp_path):
    """Of an allele its own bases alone are pooled, between the flanks."""
    path = tmp_path / "x.vcf"
    ref = CONTIG[499:501]
    path.write_text(f"##fileformat=VCFv4.2\nchr1\t500\trs1\t{ref}\tACG,<DEL>\t.\t.\t.\n")
    with_ref = made(path, "--context", "64", "--pooling", "last")
    assert with_ref.table["status"].tolist() == ["ok", "unreadable"]
    start, end = with_ref.table["window_start"][0], with_ref.table["window_end"][0]
    assert end - start == 64
    close(with_ref.vectors[0], of(model, CONTIG[start:501], pooling="last")[0])
    with_alt = made(path, "--context", "64", "--pooling", "last", "--allele", "alt")
    close(with_alt.vectors[0], of(model, CONTIG[start:499] + "ACG", pooling="last")[0])
    assert with_alt.info.allele == "alt"


def test_records_of_a_fasta_and_of_a_table(run_folder, model, tmp_path):
    sequences = [CONTIG[:50], CONTIG[50:170]]
    fasta = write_fasta(tmp_path / "reads.fa", {"a": sequences[0], "b": sequences[1], "n": "NNN"})
    table = tmp_path / "reads.csv"
    table.write_text(f"read,seq,label\na,{sequences[0]},1\nb,{sequences[1]},0\nn,NNN,1\n")
    columns = ("--sequence-column", "seq", "--name-column", "read")
    for source, options in ((fasta, ()), (table, columns)):
        out = tmp_path / f"{source.name}.h5"
        code, err = embed(run_folder, "--regions", source, "--out", out, *options)
        assert (code, err) == (0, f"{out}: 3 rows: 2 ok, 1 unreadable\n")
        with read_embeddings(out) as found:
            assert found.table["name"].tolist() == ["a", "b", "n"]
            close(found.vectors[:2], of(model, *sequences))
            assert found.table["note"][2] == "no A, C, G or T among 3 letters"


def test_a_run_of_a_classifier(run_folder, model, genome, tmp_path):
    torch.manual_seed(0)
    head = HeadConfig(task=Task(labels=("a", "b")), trained_seq_len=64)
    classifier = DnaClassifier(model.config, head)
    classifier.model.load_state_dict(model.state_dict())
    classifier.save_pretrained(tmp_path / "run" / "model")
    out = tmp_path / "x.h5"
    given = ("--regions", "chr1:1-99", "--genome", genome, "--out", out)
    assert embed(tmp_path / "run", *given)[0] == 0
    with read_embeddings(out) as found:
        close(found.vectors[:], of(model, CONTIG[:99]))
        assert found.info.model == "run"


# --- what is made of it


@pytest.mark.parametrize("edge", ["shift", "pad", "clip"])
def test_context_at_the_ends_of_a_contig(made, model, edge):
    """The region alone is pooled, whatever the model reads around it."""
    rows = "chr1\t5\t25\nchr1\t500\t520\nchr1\t990\t1000\nchr1\t100\t300\n"
    found = made(rows, "--context", "100", "--edge", edge)
    words = {"shift": "shifted", "pad": "padded", "clip": "clipped"}
    assert found.table["status"].tolist() == [words[edge], "ok", words[edge], "ok"]
    windows = list(zip(found.table["window_start"], found.table["window_end"], strict=True))
    assert windows[1] == (460, 560)
    assert windows[3] == (100, 300), "a longer region is read whole, and never cut"
    assert windows[0] == ((0, 100) if edge == "shift" else (0, 65))
    assert windows[2] == ((900, 1000) if edge == "shift" else (945, 1000))
    starts, ends = found.table["start"], found.table["end"]
    for row, (first, last) in enumerate(windows):
        text = "N" * (35 if edge == "pad" and row == 0 else 0) + CONTIG[first:last]
        at = text.index(CONTIG[first:last])
        every = model.hidden_at(torch.tensor([[*(encode(text) & 15)]]), (-1,))[0][0]
        place = slice(at + starts[row] - first, at + ends[row] - first)
        close(found.vectors[row], every[place].mean(0).detach().numpy())


def test_layers_bins_and_both_strands(made, model):
    rows = "chr1\t100\t164\na\tb\tc\nchr1\t200\t230\tx\t0\t-\n"
    text = [CONTIG[100:164], reverse_complement(encode(CONTIG[200:230]))]
    found = made(rows, "--layers", "all", "--pooling", "bins:4", "--rc", "concat")
    assert found.info.layers == (0, 1, 2)
    assert found.ok.tolist() == [True, False, True]
    expected = of(model, *text, layers=(0, 1, 2), pooling="bins:4", rc="concat")
    for layer in (0, 1, 2):
        with read_embeddings(found.path, layer) as one:
            assert one.vectors.shape == (3, 4, 2 * D)
            close(one.vectors[:][found.ok], expected[:, layer])
            assert np.isnan(one.vectors[1]).all()
    found = made(rows, "--layers", "0,-1", "--rc", "average", "--pooling", "center")
    assert found.info.layers == (0, 2)
    close(found.vectors[:][found.ok], of(model, *text, rc="average", pooling="center"))


def test_a_vector_for_each_base(made, model):
    found = made("chr1\t0\t50\nchr1\t9\t9\nchr2\t10\t40\tx\t0\t-\n", "--pooling", "none")
    assert found.offsets.tolist() == [0, 50, 50, 80]
    every = model.hidden_at(torch.tensor([[*(encode(CONTIG[:50]) & 15)]]), (-1,))[0][0]
    close(found.vectors_of(0), every.detach().numpy())
    codes = reverse_complement(encode(OTHER[10:40]))
    every = model.hidden_at(torch.tensor([[*(codes & 15)]]), (-1,))[0][0]
    close(found.vectors_of(2), every.detach().numpy())


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_halves(made, model, dtype, digits):
    found = made("chr1\t0\t50\n", "--dtype", dtype)
    exact = of(model, CONTIG[:50])
    np.testing.assert_allclose(found.vectors[:], exact, rtol=digits, atol=1e-6)
    with read_embeddings(found.path, raw=True) as stored:
        np.testing.assert_array_equal(to_float32(stored.vectors[:], found.info), found.vectors[:])


@pytest.mark.parametrize("pooling", ["mean", "max", "bins:7", "none"])
@pytest.mark.parametrize("strand", "+-")
def test_long_regions_are_streamed_and_the_same(
    run_folder, model, tmp_path, pooling, strand, monkeypatch
):
    """70,000 bases, in pieces of 65,536 tokens, and in one pass; --batch-tokens small or large."""
    sequence = random_sequence(70_100, seed=3)
    genome = write_fasta(tmp_path / "long.fa", {"chr1": sequence})
    bed = tmp_path / "rows.bed"
    bed.write_text(f"chr1\t50\t70050\tlong\t0\t{strand}\nchr1\t0\t90\nchr1\t7\t80\n")
    given = (run_folder, "--genome", genome, "--regions", bed, "--pooling", pooling)
    outs = []
    for n_tokens in ("100", "1M"):
        outs.append(tmp_path / f"{n_tokens}.h5")
        code, _ = embed(*given, "--rc", "average", "--batch-tokens", n_tokens, "--out", outs[-1])
        assert code == 0
    with read_embeddings(outs[0]) as streamed, read_embeddings(outs[1]) as whole:
        assert streamed.ok.all()
        values, expected = streamed.vectors[:], whole.vectors[:]
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert left == []


def test_what_is_longer_than_a_hyenas_filters_fails_alone(genome, tmp_path):
    folder = save(tmp_path / "hyena", mixer=HyenaConfig(l_max=256))
    bed = tmp_path / "rows.bed"
    bed.write_text("chr1\t0\t200\nchr1\t0\t500\nchr2\t0\t256\n")
    out = tmp_path / "x.h5"
    code, err = embed(folder, "--genome", genome, "--regions", bed, "--out", out)
    assert (code, err) == (0, f"{out}: 3 rows: 2 ok, 1 failed\n")
    with read_embeddings(out) as found:
        assert found.ok.tolist() == [True, False, True]
        assert "500 bases are more than the 256 that this model's" in found.table["note"][1]


# --- other formats


@pytest.mark.parametrize("name", ["x.npz", "x.parquet", "x.tsv", "x.tsv.gz"])
def test_small_jobs_in_other_formats(run_folder, genome, model, tmp_path, name):
    bed = tmp_path / "rows.bed"
    bed.write_text("chr1\t0\t50\ta\nchr9\t0\t50\tb\nchr1\t60\t99\tc\n")
    out = tmp_path / name
    given = (run_folder, "--genome", genome, "--regions", bed, "--out", out)
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    code, err = embed(*given)
    assert (code, err) == (0, f"{out}: 3 rows: 2 ok, 1 unreadable\n")
    found = vectors_in(out)
    close(found[[0, 2]], of(model, CONTIG[:50], CONTIG[60:99]))
    assert np.isnan(found[1]).all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(InputError, match="exists already: use --force"):
        embed(*given)
    again = out.read_bytes()
    assert embed(*given, "--force")[0] == 0
    assert out.read_bytes() == again
    with pytest.raises(InputError, match=r"holds one layer, not 3: write an \.h5 file"):
        embed(*given, "--force", "--layers", "all")


def vectors_in(path):
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["vectors"]
    if path.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(path)
        return np.stack([table[f"e{i}"].to_numpy() for i in range(D)], 1)
    text = (
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ).decode()
    header, *rows = (line.split("\t") for line in text.splitlines())
    first = header.index("e0")
    return np.array([[float(cell or "nan") for cell in row[first:]] for row in rows])


def test_a_library_that_is_missing_is_told_before_anything_is_computed(
    run_folder, genome, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("dnamamba.embedding.run.embed_rows", None)
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-20")
    with pytest.raises(InputError, match="needs pyarrow"):
        embed(*given, "--out", tmp_path / "x.parquet")


def test_the_format_may_be_given(run_folder, genome, tmp_path):
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-20")
    assert embed(*given, "--out", tmp_path / "x", "--format", "h5")[0] == 0
    with read_embeddings(tmp_path / "x") as found:
        assert len(found) == 1
    with pytest.raises(InputError, match=r"must end in one of \.h5, \.hdf5, \.npz, \.parquet"):
        embed(*given, "--out", tmp_path / "x.bed")


# --- tracks


def read_bedgraph(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    values = {}
    for line in data.decode().splitlines()[1:]:
        contig, start, end, value = line.split("\t")
        for at in range(int(start), int(end)):
            assert (contig, at) not in values
            values[contig, at] = float(value)
    return values


def bits(model, codes):
    """-log2 p of each base but the first."""
    ids = torch.tensor([[*(codes & 15)]])
    with torch.inference_mode():
        log_p = model(ids)[0, :, FIRST_BASE_ID:][:, :4].log_softmax(-1)
    chosen = ids[0, 1:, None].long() - FIRST_BASE_ID
    return -log_p[:-1].gather(1, chosen)[:, 0].numpy() / np.log(2)


def test_a_track_of_the_whole_genome(run_folder, genome, model, tmp_path):
    out = tmp_path / "x.bedGraph.gz"
    code, err = embed(run_folder, "--genome", genome, "--track", "nll", "--out", out)
    assert (code, err) == (0, f"{out}: 2 regions: 2 ok\n")
    values = read_bedgraph(out)
    assert len(values) == len(CONTIG) + len(OTHER) - 2
    expected = bits(model, encode(OTHER))
    found = [values["chr2", at] for at in range(1, len(OTHER))]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_track_of_regions_on_both_strands(run_folder, genome, model, tmp_path):
    bed = tmp_path / "rows.bed"
    bed.write_text("chr2\t50\t90\tx\t0\t-\nchr1\t100\t140\ny\tz\n")
    out = tmp_path / "x.bedGraph"
    given = (run_folder, "--genome", genome, "--regions", bed, "--track", "nll", "--out", out)
    code, err = embed(*given, "--context", "32")
    assert (code, err.endswith(f"{out}: 3 regions: 2 ok, 1 unreadable\n")) == (0, True)
    values = read_bedgraph(out)
    forward = bits(model, encode(CONTIG[68:140]))[-40:]
    found = [values["chr1", at] for at in range(100, 140)]
    np.testing.assert_allclose(found, forward, atol=2e-3)
    backward = bits(model, reverse_complement(encode(OTHER[50:122])))[-40:]
    found = [values["chr2", at] for at in range(50, 90)]
    np.testing.assert_allclose(found, backward[::-1], atol=2e-3)
    with pytest.raises(InputError, match="exists already: use --force"):
        embed(*given)


def test_tracks_that_make_no_sense(run_folder, genome, tmp_path):
    out = tmp_path / "x.bedgraph"
    given = (run_folder, "--genome", genome, "--track", "nll", "--out", out)
    for option, value in {
        "--layers": "1",
        "--pooling": "mean",
        "--rc": "average",
        "--edge": "pad",
        "--allele": "alt",
        "--dtype": "float16",
        "--format": "h5",
        "--sequence-column": "x",
        "--name-column": "x",
    }.items():
        code, err = embed(*given, option, value)
        assert code == 2
        assert f"{option} has no meaning for a track: leave it out" in err
    code, err = embed(run_folder, "--track", "nll", "--out", out)
    assert code == 2
    assert "a track needs a genome: name it (--genome)" in err
    with pytest.raises(InputError, match=r"must end in one of \.bw"):
        embed(run_folder, "--genome", genome, "--track", "nll", "--out", tmp_path / "x.h5")
    code, err = embed(*given, "--input-format", "bed")
    assert (code, "--input-format needs --regions" in err) == (2, True)
    for text in (">chr1\nACGT\n", "##fileformat=VCFv4.2\nchr1\t9\t.\tA\tT\t.\t.\t.\n"):
        code, err = embed(*given, "--regions", "-", stdin=text)
        assert (code, "a track needs regions of the genome" in err) == (2, True)
    bed = tmp_path / "rows.bed"
    bed.write_text("chr1\t0\t20\nchr1\t10\t30\n")
    with pytest.raises(InputError, match=r"regions overlap: chr1:1-20 .* and chr1:11-30"):
        embed(*given, "--regions", bed)
    with pytest.raises(InputError, match="no base has a value"):
        embed(*given, "--regions", "-", stdin="chr9\t1\t5\n")
    both = save(tmp_path / "both", mixer=BiMambaConfig())
    with pytest.raises(InputError, match="reads both ways"):
        embed(both, *given[1:])
    assert not out.exists()


# --- mistakes


def test_rows_that_are_none_make_a_file_without(made, run_folder, genome, tmp_path):
    out = tmp_path / "none.h5"
    code, err = embed(run_folder, "--genome", genome, "--regions", "-", "--out", out, stdin="#x\n")
    assert (code, err) == (0, f"{out}: the input has no rows, so the file has none either\n")
    with read_embeddings(out) as found:
        assert (len(found), found.vectors.shape) == (0, (0, D))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_nothing_but_failures_is_written_and_fails(run_folder, genome, tmp_path):
    out = tmp_path / "x.h5"
    given = (run_folder, "--genome", genome, "--out", out)
    code, err = embed(*given, "--regions", "-", stdin="1\t1\t9\n1\t5\t9\n")
    assert code == 1
    assert err.splitlines() == [
        f"{out}: 2 rows: 2 unreadable",
        "Error: nothing could be embedded; line 1: the genome has no contig '1' (it has 'chr1')",
    ]
    with read_embeddings(out) as found:
        assert len(found) == 2
        assert np.isnan(found.vectors[:]).all()


def test_what_is_there_is_kept(run_folder, genome, tmp_path):
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-20", "--out")
    out = tmp_path / "x.h5"
    out.write_text("mine")
    with pytest.raises(InputError, match="exists already: use --force"):
        embed(*given, out)
    assert out.read_text() == "mine"
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder is a folder: name a file"):
        embed(*given, tmp_path / "folder")
    reads = write_fasta(tmp_path / "reads.h5", {"a": "ACGT"})
    with pytest.raises(InputError, match="is the input: name another file"):
        embed(run_folder, "--regions", reads, "--out", reads, "--force")
    assert embed(*given, out, "--force")[0] == 0


def test_a_run_begun_with_other_settings(run_folder, genome, tmp_path, monkeypatch):
    """Parts that are there are not thrown away by a mistake."""
    out = tmp_path / "x.h5"
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-20", "--out", out)

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("dnamamba.embedding.writer.join_parts", stop)
        assert embed(*given)[0] == 1
    assert (tmp_path / ".x.h5.parts" / "part-000000.bin").exists()
    with pytest.raises(InputError, match=r'pooling was "mean", is now "max"\. Give the earlier'):
        embed(*given, "--pooling", "max")
    code, err = embed(*given)
    assert code == 0
    assert err.startswith(f"{out} was begun before, and 1 part is kept\n")


def test_a_mistake_leaves_nothing_that_the_next_command_trips_over(run_folder, genome, tmp_path):
    bed, out = tmp_path / "rows.bed", tmp_path / "x.h5"
    bed.write_text("chr1\t0\t50\n")
    given = (run_folder, "--genome", genome, "--regions", bed, "--out", out)
    with pytest.raises(InputError, match="does not look like FASTA"):
        embed(run_folder, *given[3:], "--input-format", "fasta")
    cut = tmp_path / "cut.bed.gz"
    cut.write_bytes(gzip.compress(b"chr1\t0\t50\n" * 9)[:-9])
    with pytest.raises(InputError, match="cut off or damaged"):
        embed(*given[:4], cut, *given[5:])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert embed(*given)[0] == 0


USAGE = {
    ("--layers", "a"): "layers must be numbers like -1 or 4,8, or `all`; got 'a'",
    ("--batch-tokens", "0"): ">= 1, got '0'",
    ("--context", "x"): "a size must look like 1024",
    ("--rc", "both"): "'both' is not one of 'none', 'average', 'concat'",
    ("--dtype", "int8"): "'int8' is not one of",
    ("--allele", "alt"): "--allele alt needs a VCF, whose rows are variants: leave it out",
    ("--edge", "pad"): "--edge is for windows of a genome that are wider than the region",
}


@pytest.mark.parametrize("option", USAGE, ids=lambda option: option[0])
def test_mistakes_in_usage(run_folder, genome, tmp_path, option):
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-9", "--out", tmp_path / "x.h5")
    code, err = embed(*given, *option)
    assert code == 2
    assert USAGE[option] in err
    assert not (tmp_path / "x.h5").exists()


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def test_what_sequences_have_no_use_for(run_folder, genome, tmp_path):
    reads = tmp_path / "reads.fa"
    reads.write_text(">a\nACGT\n")
    given = (run_folder, "--regions", reads, "--out", tmp_path / "x.h5")
    for option in (("--context", "16"), ("--edge", "shift"), ("--genome", genome)):
        code, err = embed(*given, *option)
        assert (code, f"Error: {option[0]} " in err) == (2, True)
    assert not [path.name for path in tmp_path.iterdir() if "x.h5" in path.name]


def test_the_genome_is_not_written_over(run_folder, genome, tmp_path):
    copy = tmp_path / "copy.fa"
    copy.write_bytes(genome.read_bytes())
    given = ("--genome", copy, "--regions", "chr1:1-9", "--out", copy, "--format", "h5", "--force")
    with pytest.raises(InputError, match="is the input: name another file"):
        embed(run_folder, *given)
    assert copy.read_bytes() == genome.read_bytes()


def test_a_preset_is_no_pretrained_model(genome, tmp_path):
    given = ("--genome", genome, "--regions", "chr1:1-9", "--out", tmp_path / "x.h5")
    with pytest.raises(InputError, match="mamba-demo is a preset, a model with random weights"):
        embed("mamba-demo", *given)


def test_the_model_is_named_wherever_it_is(run_folder, genome, tmp_path, monkeypatch):
    given = ("--genome", genome, "--regions", "chr1:1-9", "--force", "--out", tmp_path / "x.h5")
    monkeypatch.chdir(run_folder)
    for model in (".", "model", run_folder / "model"):
        assert embed(model, *given)[0] == 0
        with read_embeddings(tmp_path / "x.h5") as found:
            assert (found.info.model, found.info.precision) == (run_folder.name, "fp32")


def test_parts_of_other_columns_do_not_belong_together(run_folder, tmp_path, monkeypatch):
    table = tmp_path / "x.tsv"
    rows = "".join(f"a{n}\tb{n}\tACGT\n" for n in range(9))
    table.write_text(f"one\tother\tsequence\n{rows}")
    given = (run_folder, "--regions", table, "--out", tmp_path / "x.h5", "--name-column")
    monkeypatch.setattr(EmbeddingWriter, "finish", stop)
    code, err = embed(*given, "one")
    assert (code, "1 part is kept" in err) == (1, True)
    with pytest.raises(InputError, match="other settings"):
        embed(*given, "other")


INPUTS = {
    ("--layers", "7"): "the model has no layer 7: 0 is the embedding",
    ("--layers", "2,-1"): "--layers 2,-1 names layer 2 twice",
    ("--pooling", "median"): r"pooling must be one of .*, got 'median'",
    ("--pooling", "bins:0"): "bins:N needs N >= 1, got 0",
    ("--device", "gpu"): "--device must be auto, cpu, cuda or cuda:N, got 'gpu'",
    ("--regions", "chr1:1-20", "--input-format", "bed"): "no such file",
    ("--name-column", "x"): "column 'x' is of a table, but chr1:1-9 is read as a list of regions",
    ("--regions", "."): "expected a file, got a folder",
}


@pytest.mark.parametrize("option", INPUTS, ids=" ".join)
def test_mistakes_in_values(run_folder, genome, tmp_path, option):
    given = (run_folder, "--genome", genome, "--regions", "chr1:1-9", "--out", tmp_path / "x.h5")
    with pytest.raises((InputError, FileNotFoundError), match=INPUTS[option]):
        embed(*given, *option)
    assert not (tmp_path / "x.h5").exists()


def test_wrong_inputs_are_one_sentence(run_folder, genome, tmp_path):
    out = tmp_path / "x.h5"
    with pytest.raises(FileNotFoundError, match="nor is it a region, which looks like"):
        embed(run_folder, "--genome", genome, "--regions", tmp_path / "none.bed", "--out", out)
    with pytest.raises(InputError, match=r"read as BED, .*name the genome \(--genome\)"):
        embed(run_folder, "--regions", "-", "--out", out, stdin="chr1\t1\t9\n")
    with pytest.raises(InputError, match=r"has no config\.json: a saved model is a folder"):
        embed(tmp_path / "nothing", "--genome", genome, "--regions", "chr1", "--out", out)
    code, err = embed(run_folder, "--genome", genome, "--out", out)
    assert code == 2
    assert "name --regions: a file, a region like chr1:1-2,000, or -" in err
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "x"))] == []


def test_long_jobs_say_how_far_they_are(run_folder, genome, tmp_path, monkeypatch):
    monkeypatch.setattr("dnamamba.cli.embed._PROGRESS_SECONDS", 0)
    given = (run_folder, "--genome", genome, "--regions", "-", "--out", tmp_path / "x.h5")
    _, err = embed(*given, stdin="chr1\t1\t9\n" * 9000)
    first, second, last = err.splitlines()
    assert first.startswith("8,192 rows, ")
    assert second.startswith("9,000 rows, ")
    assert second.endswith(" bases a second")
    assert last.endswith("x.h5: 9,000 rows: 9,000 ok")


def test_settings_are_in_the_file(made, genome):
    found = made("chr1\t0\t50\n", "--context", "64", "--precision", "fp32")
    assert json.loads(found.info.to_json())["context"] == 64
    (source,) = found.info.genome
    assert source["name"] == genome.name
    assert source["sha256"] == hashlib.sha256(genome.read_bytes()).hexdigest()
    assert len(found.info.source_sha256) == 64
