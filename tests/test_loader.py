"""One stream of batches, whoever reads it: workers, ranks, restarts."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dnamamba import __version__
from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.data.window_dataset import DataConfig, WindowDataset, build_datasets
from dnamamba.data.windows import WindowConfig
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.genomes.store import FORMAT, FORMAT_VERSION
from dnamamba.errors import InputError
from dnamamba.intervals import Split
from dnamamba.tokenizer import VOCABULARY
from genomes import (
    random_sequence,
    write_fasta,
    write_store,
)
from runs import run_python

RECORDS = {"chr1": random_sequence(6000, 1, "ACGTacgtN"), "chr2": random_sequence(900, 2)}
BATCH = 8
N_BATCHES = 25  # more than two epochs: about 84 windows of 64 bases are for training


def training_set(folder, kind="store") -> WindowDataset:
    if kind == "store":
        path = write_store(folder / "x.h5", RECORDS)
    else:
        path = write_fasta(folder / "x.fa", RECORDS)
    config = DataConfig(windows=WindowConfig(seq_len=64))
    return build_datasets(open_genome([path]), config)[Split.TRAIN]


def batches(dataset, n_workers=0, first=0, micro=BATCH, rank=0, world_size=1) -> torch.Tensor:
    """The joined micro-batches of one rank, (rows, seq_len)."""
    ranges = BatchRanges(
        batch_size=BATCH,
        micro_batch_size=micro,
        first_batch=first,
        last_batch=N_BATCHES,
        rank=rank,
        world_size=world_size,
    )
    read = list(build_loader(dataset, ranges, n_workers=n_workers))
    assert len(read) == len(ranges)
    assert all(batch.shape == (micro, 64) for batch in read)
    assert all(batch.dtype == torch.uint8 for batch in read)
    return torch.cat(read)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("genome")


@pytest.fixture(scope="module")
def dataset(folder) -> WindowDataset:
    return training_set(folder)


@pytest.fixture(scope="module")
def stream(dataset) -> torch.Tensor:
    """What every test must see, sample by sample; it crosses the ends of two epochs."""
    assert dataset.index.locate(N_BATCHES * BATCH - 1)[0] == 2
    samples = range(N_BATCHES * BATCH)
    return torch.cat([dataset[[sample]] for sample in samples])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")  # on two cores
@pytest.mark.parametrize("n_workers", [0, 1, 4])
def test_any_number_of_workers_reads_the_same_stream(dataset, stream, n_workers):
    assert (batches(dataset, n_workers, micro=4) == stream).all()


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_micro_batches_are_parts_of_the_same_batch(dataset, stream, micro):
    assert (batches(dataset, micro=micro) == stream).all()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_each_batch(dataset, stream, world_size):
    shares = [
        batches(dataset, micro=2, rank=rank, world_size=world_size).reshape(N_BATCHES, -1, 64)
        for rank in range(world_size)
    ]
    assert (torch.cat(shares, dim=1).reshape(-1, 64) == stream).all()


@pytest.mark.parametrize("first", [0, 1, 10, 11, 24, 25])
def test_a_stream_can_start_at_any_batch(folder, stream, first):
    """As a resumed run does: another process that has not read what came before."""
    fresh = training_set(folder, "fasta")
    if first == N_BATCHES:
        ranges = BatchRanges(batch_size=8, micro_batch_size=8, first_batch=25, last_batch=25)
        assert list(build_loader(fresh, ranges)) == []
        return
    assert (batches(fresh, first=first) == stream[first * BATCH :]).all()


def test_the_global_random_state_is_neither_read_nor_moved(dataset, stream):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert (batches(dataset) == stream).all()
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 20),
    st.integers(0, 20),
)
@settings(deadline=None)
def test_every_sample_is_read_once_by_one_rank(micro, n_micro, world_size, first, n_batches):
    batch_size = micro * n_micro * world_size
    seen = []
    for rank in range(world_size):
        ranges = BatchRanges(
            batch_size=batch_size,
            micro_batch_size=micro,
            first_batch=first,
            last_batch=first + n_batches,
            rank=rank,
            world_size=world_size,
        )
        assert ranges.n_micro_batches == n_micro
        assert len(list(ranges)) == len(ranges) == n_micro * n_batches
        seen += [sample for samples in ranges for sample in samples]
    assert sorted(seen) == list(range(first * batch_size, (first + n_batches) * batch_size))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(InputError, match=r"of 8 windows cannot be shared by 3 ranks in .* 2"):
        BatchRanges(
            batch_size=8, micro_batch_size=2, first_batch=0, last_batch=1, rank=0, world_size=3
        )


# --- memory


def write_sparse_store(path: Path, length: int) -> Path:
    """A store of one contig of zeros that takes no room on the disk."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w", libver="latest") as file:
        group = file.create_group("sequence")
        space = h5py.h5s.create_simple((length,))
        h5py.h5d.create(group.id, b"chr1", h5py.h5t.NATIVE_UINT8, space, layout)
        text = h5py.string_dtype()
        fields = [("name", text), ("length", "i8"), ("soft_masked", "i8"), ("letters", text)]
        file["contigs"] = np.array([("chr1", length, 0, "{}")], np.dtype(fields))
        file["n_runs"] = np.empty((0, 3), np.int64)
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["vocabulary"] = '["' + '", "'.join(VOCABULARY.tokens) + '"]'
        file.attrs["sources"] = "[]"
        file.attrs["created_by"] = f"dnamamba {__version__}"
    return path


# Prints, for every batch, what the worker that read it holds. Clean pages of a file do not count:
# all processes share them, and the system drops them when it needs room.
MEASURE = """
import sys
from pathlib import Path
import torch
from dnamamba.data.window_dataset import WindowDataset
from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.data.windows import WindowConfig, WindowIndex
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.intervals import Interval

class WatchedDataset(WindowDataset):
    def __getitem__(self, samples):
        self.read(samples)
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return torch.tensor([1024 * kib["Private_Dirty"], 1024 * kib["Rss"]])

genome = open_genome([sys.argv[1]])
whole = Interval("chr1", 0, genome.contigs["chr1"])
index = WindowIndex(WindowConfig(seq_len=1 << 20), [whole], genome.contigs, {}, shuffled=True)
ranges = BatchRanges(
    batch_size=4, micro_batch_size=4, first_batch=0, last_batch=index.n_windows() // 4
)
for memory in build_loader(WatchedDataset(genome, index), ranges, n_workers=1):
    print(*memory.tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_worker_keeps_little_memory_of_its_own(tmp_path):
    length = 300_000_000
    path = write_sparse_store(tmp_path / "x.h5", length)
    printed = run_python("-c", MEASURE, path)
    private, resident = np.array([line.split() for line in printed.splitlines()], int).T
    assert resident[-1] - resident[0] > 0.9 * length, "the whole store was mapped in"
    assert private.max() < 64 << 20
    # malloc keeps a batch of 4 MiB that was freed, or gives it back, as its heap happens to lie.
    assert private[-1] - private[2] < 8 << 20, "and it does not grow"
