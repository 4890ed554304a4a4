"""Tracks: read back, every base has what a plain loop gives, whatever strand, length and format."""

import gzip
import io
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.regions.readers import open_regions
from dnamamba.data_prep.regions.rows import RegionRow, RowStatus
from dnamamba.errors import InputError
from dnamamba.inference.batching import in_chunks
from dnamamba.intervals import Interval
from dnamamba.models import BiMambaConfig, DnaModel, HyenaConfig, MambaConfig, ModelConfig
from dnamamba.scoring.nll_track import TrackOptions, format_of_track, write_nll_track, write_track
from dnamamba.tokenizer import is_base, reverse_complement, token_ids
from genomes import (
    MemoryGenome,
    random_sequence,
)

pybigtools = pytest.importorskip("pybigtools", reason="needs the extra `bigwig`")

GENOME = MemoryGenome(
    {
        "chr2": random_sequence(400, seed=1),
        "chr10": random_sequence(100, seed=2) + "N" * 60 + random_sequence(140, seed=3).lower(),
        "chrM": random_sequence(50, seed=4),
    }
)
BED = "chr10\t20\t120\tb\t0\t-\nchr2\t300\t400\tc\t0\t+\nchr2\t0\t90\ta\t0\t+\nchr2\t100\t110\n"


def make_model(mixer=None):
    torch.manual_seed(0)
    model = DnaModel(ModelConfig(d_model=16, n_layers=2, mixer=mixer or MambaConfig())).eval()
    torch.nn.init.normal_(model.backbone.embedding.weight)
    return model


def options_of(chunk_tokens=1 << 16, **more):
    return TrackOptions(chunk_tokens=chunk_tokens, **more)


def write(out, bed=BED, model=None, options=None, genome=GENOME):
    with open_regions(io.BytesIO(bed.encode()), genome=genome) as table:
        return write_nll_track(model or make_model(), table, genome, out, options)


@torch.no_grad()
def naive(model, genome, contig, start, end, strand, context=0):
    """Bits of every base of a region, in one pass over it and the context before it."""
    first, last = start, end
    if strand == "-":
        last = min(genome.contigs[contig], end + context)
    else:
        first = max(0, start - context)
    codes = genome.read(contig, first, last)
    codes = reverse_complement(codes) if strand == "-" else codes
    ids = torch.from_numpy(token_ids(codes)).long()
    log_probs = model(ids[None])[0, :-1, 7:11].double().log_softmax(-1)
    bits = np.full(len(codes), np.nan)
    for t in range(1, len(codes)):
        if is_base(codes[t : t + 1])[0]:
            bits[t] = -float(log_probs[t - 1, ids[t] - 7]) / math.log(2)
    bits = bits[len(codes) - (end - start) :]
    return bits[::-1] if strand == "-" else bits


def read_bigwig(path):
    with pybigtools.open(str(path)) as file:
        found = {name: np.full(size, np.nan) for name, size in GENOME.contigs.items()}
        for name, size in file.chroms().items():
            assert size == GENOME.contigs[name]
            found[name] = file.values(name, fillna=None)
        return found


def read_bedgraph(path):
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    header, *lines = text.splitlines()
    assert header.startswith("track type=bedGraph name=")
    values = {name: np.full(size, np.nan) for name, size in GENOME.contigs.items()}
    order = []
    for line in lines:
        contig, start, end, value = line.split("\t")
        assert np.isnan(values[contig][int(start) : int(end)]).all(), "no base has two values"
        values[contig][int(start) : int(end)] = float(value)
        order.append((list(values).index(contig), int(start)))
    assert order == sorted(order)
    return values


def expected_of(model, context=0):
    expected = {name: np.full(size, np.nan) for name, size in GENOME.contigs.items()}
    for line in BED.splitlines():
        contig, start, end, *more = line.split("\t")
        strand = more[2] if more else "+"
        bits = naive(model, GENOME, contig, int(start), int(end), strand, context)
        expected[contig][int(start) : int(end)] = bits
    return expected


@pytest.mark.parametrize(
    ("name", "chunk_tokens", "context"),
    [
        ("x.bw", 1 << 16, 0),
        ("x.bigWig", 40, 1000),
        ("x.bedgraph", 40, 7),
        ("x.bedGraph.gz", 1 << 16, 1000),
    ],
)
def test_every_base_has_what_a_plain_loop_gives(name, chunk_tokens, context, tmp_path):
    model, out = make_model(), tmp_path / "new" / name
    statuses = write(out, model=model, options=options_of(chunk_tokens, context=context))
    found = (read_bigwig if name in ("x.bw", "x.bigWig") else read_bedgraph)(out)
    for contig, values in expected_of(model, context).items():
        np.testing.assert_allclose(found[contig], values, atol=2e-3)
    assert statuses == {RowStatus.OK: 4}
    assert [path.name for path in out.parent.iterdir()] == [name], "nothing else is left"


def test_values_are_rounded_and_equal_neighbours_share_a_line(tmp_path):
    out = tmp_path / "x.bedgraph"
    pieces = [("chr2", 5, np.float32([1.23456, 1.2346, np.nan, -0.0, 0.5]))]
    assert write_track(pieces, out, GENOME.contigs, TrackOptions(name='a "b"'), "bits") == 4
    assert out.read_text() == (
        'track type=bedGraph name="a \'b\'" description="bits"\n'
        "chr2\t5\t7\t1.235\nchr2\t8\t9\t0\nchr2\t9\t10\t0.5\n"
    )


def test_rows_without_a_sequence_are_counted_and_left_out(tmp_path):
    out = tmp_path / "x.bw"
    statuses = write(out, BED + "chr2\t95\t95\nchr9\t1\t2\nchr10\t100\t150\n")
    assert statuses == {RowStatus.OK: 4, RowStatus.TOO_SHORT: 1, RowStatus.UNREADABLE: 2}


def test_regions_that_overlap_are_named(tmp_path):
    out = tmp_path / "x.bw"
    with pytest.raises(InputError, match=r"chr2:1-90 \(\+\) and chr2:90-95 \(-\)\. Merge them"):
        write(out, BED + "chr2\t89\t95\tx\t0\t-\n")
    many = "".join(f"chr2\t{n}\t{n + 60}\n" for n in range(0, 300, 10))
    with pytest.raises(InputError, match="and 26 more"):
        write(out, many)
    inside = "chr2\t0\t90\nchr2\t10\t20\nchr2\t30\t40\n"
    with pytest.raises(InputError, match=r"chr2:1-90 .* chr2:11-20 .*; chr2:1-90 .* chr2:31-40"):
        write(out, inside)
    assert not out.exists()


def test_regions_side_by_side_are_no_overlap(tmp_path):
    write(tmp_path / "x.bw", "chr2\t10\t20\nchr2\t0\t10\nchr2\t20\t30\n")
    values = read_bigwig(tmp_path / "x.bw")["chr2"]
    known = [n for n in range(400) if not math.isnan(values[n])]
    assert known == [n for n in range(30) if n % 10], "the first base of each has no value"


def test_a_base_has_no_value_twice(tmp_path):
    one = np.ones(10, np.float32)
    for pieces in ([("chr2", 5, one), ("chr2", 14, one)], [("chrM", 0, one), ("chr2", 0, one)]):
        with pytest.raises(InputError, match="must be in the order of contigs and positions"):
            write_track(pieces, tmp_path / "x.bw", GENOME.contigs)
    with pytest.raises(InputError, match="chrM:46-55 lies on no contig"):
        write_track([("chrM", 45, one)], tmp_path / "x.bedgraph", GENOME.contigs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.bw", "x.bedgraph"])
def test_no_value_is_an_error(name, tmp_path):
    with pytest.raises(InputError, match="no base has a value"):
        write(tmp_path / name, "chr9\t1\t2\n")
    with pytest.raises(InputError, match="no base has a value"):
        write(tmp_path / name, "chr2\t1\t2\n")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_said(tmp_path, monkeypatch):
    out = tmp_path / "x.bw"
    with pytest.raises(InputError, match="reads both ways"):
        write(out, model=make_model(BiMambaConfig()))
    with pytest.raises(InputError, match="100 bases are more than the 96 that"):
        write(out, model=make_model(HyenaConfig(l_max=96)))
    rows = [RegionRow(1, (), RowStatus.OK, window=Interval("read1", 0, 10))]
    with pytest.raises(InputError, match="the genome, which has no contig 'read1'"):
        write_nll_track(make_model(), rows, GENOME, out)
    for wrong in ("x.txt", "x.bw.gz", "x"):
        with pytest.raises(InputError, match=r"must end in one of \.bw"):
            format_of_track(tmp_path / wrong)
    with pytest.raises(InputError, match="context must be >= 0, got -1"):
        TrackOptions(context=-1)
    monkeypatch.setitem(sys.modules, "pybigtools", None)
    with pytest.raises(InputError, match=r"needs pybigtools.*pip install 'dnamamba\[bigwig\]'"):
        write(out)


@pytest.mark.parametrize("name", ["x.bw", "x.bedgraph.gz"])
@pytest.mark.parametrize("error", [InputError("damaged"), KeyboardInterrupt("damaged")])
def test_an_error_in_the_middle_is_raised_and_leaves_no_file(name, error, tmp_path, capfd):
    def pieces():
        yield "chr2", 0, np.ones(10, np.float32)
        raise error

    with pytest.raises(type(error), match="damaged"):
        write_track(pieces(), tmp_path / name, GENOME.contigs)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("n_kept", [0, 1])
def test_a_bigwig_that_lacks_values_is_an_error(n_kept, tmp_path, monkeypatch):
    """As on a full disk, where pybigtools prints a line and returns."""

    class FullDisk:
        BBIReadError = pybigtools.BBIReadError

        def open(self, path, mode="r"):
            file = pybigtools.open(path, mode)
            if mode == "r":
                return file

            def write(contigs, entries):
                file.write(contigs, list(entries)[:n_kept])

            return SimpleNamespace(write=write)

    monkeypatch.setitem(sys.modules, "pybigtools", FullDisk())
    pieces = [("chr2", 0, np.ones(10, np.float32)), ("chr2", 20, np.ones(10, np.float32))]
    with pytest.raises(InputError, match=r"x\.bw cannot be written: is the disk full"):
        write_track(pieces, tmp_path / "x.bw", GENOME.contigs)
    assert list(tmp_path.iterdir()) == []


class Counting(MemoryGenome):
    """Remembers the longest read."""

    longest = 0

    def read(self, contig, start, end):
        self.longest = max(self.longest, end - start)
        return super().read(contig, start, end)


@pytest.mark.parametrize("strand", ["+", "-"])
def test_a_long_region_is_read_in_pieces(strand, tmp_path):
    genome = Counting({"chr1": random_sequence(5000, seed=9)})
    row = RegionRow(1, (), RowStatus.OK, window=Interval("chr1", 100, 4900, strand))
    done, out = [], tmp_path / "x.bw"
    options = options_of(256, context=50)
    write_nll_track(make_model(), [row], genome, out, options, on_bases=done.append)
    assert genome.longest == 256
    assert done[-1] == 4800
    assert len(done) > 15
    with pybigtools.open(str(out)) as file:
        found = file.values("chr1", 100, 4900, fillna=None)
        assert np.isnan(file.values("chr1", 0, 100, fillna=None)).all()
    expected = naive(make_model(), genome, "chr1", 100, 4900, strand, 50)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_real_chromosome_in_both_directions(shared_data, tmp_path):
    """The mean over a region is its bits per base, which a browser shows from afar."""
    genome = open_genome([shared_data / "genomes/human_GRCh37_chr7_86-87Mb.fa.gz"])
    ((name, _),) = genome.contigs.items()
    model = make_model()
    for strand in "+-":
        out = tmp_path / "x.bw"
        bed = f"{name}\t200000\t230000\tx\t0\t{strand}\n"
        write(out, bed, model, options_of(8192, context=1000), genome)
        expected = naive(model, genome, name, 200_000, 230_000, strand, 1000)
        with pybigtools.open(str(out)) as file:
            found = file.values(name, 200_000, 230_000, fillna=None)
            (mean,) = file.values(name, 200_000, 230_000, bins=1, fillna=None)
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert mean == pytest.approx(expected.mean(), rel=1e-2), "made of zoom levels"


def test_regions_are_taken_a_few_batches_ahead():
    taken = []
    endless = (taken.append(n) or n for n in iter(int, 1))
    next(in_chunks(endless, lambda _: 10, 100))
    assert len(taken) == 80
