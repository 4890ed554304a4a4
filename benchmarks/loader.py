"""How fast windows are read: from a store and a FASTA, one process, and what a worker's memory is.

    python benchmarks/loader.py [--genome-size 200_000_000] [--memory-store-size 3_000_000_000]

Prints a table and, with --json FILE, writes it. Sequences are random; reading does not care.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from dnamamba.data.loader import BatchRanges, build_loader
from dnamamba.data.window_dataset import DataConfig, WindowDataset, build_datasets
from dnamamba.data.windows import WindowConfig
from dnamamba.data_prep.genomes.genome import open_genome
from dnamamba.data_prep.genomes.store import prepare_store
from dnamamba.intervals import Split, parse_size

BLOCK = 1 << 22


def write_fasta(path: Path, size: int) -> None:
    """Random bases, a third of them lower case, 60 a line, four contigs."""
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for number in range(1, 5):
            file.write(b">chr%d\n" % number)
            left = size // 4
            while left:
                n = min(left, BLOCK // 60 * 60)
                letters = np.frombuffer(b"ACGTACGTacgt", np.uint8)[rng.integers(0, 12, n)]
                whole = letters[: n // 60 * 60].reshape(-1, 60)
                lines = np.full((len(whole), 61), ord("\n"), np.uint8)
                lines[:, :60] = whole
                file.write(lines.tobytes())
                if n % 60:
                    file.write(letters[len(whole) * 60 :].tobytes() + b"\n")
                left -= n


def write_large_store(path: Path, size: int) -> None:
    """A store of the given size, one letter throughout, in 24 contigs."""
    seed = path.with_suffix(".fa")
    seed.write_text("".join(f">chr{i}\nACGT\n" for i in range(1, 25)))
    prepare_store([seed], path)
    seed.unlink()
    with h5py.File(path, "a") as file:
        table = file["contigs"][:]
        for i, name in enumerate(table["name"]):
            key = f"sequence/{name.decode()}"
            del file[key]
            # Filled by HDF5 itself when the first element is written.
            file.create_dataset(key, (size // 24,), np.uint8, fillvalue=7)
            file[key][0] = 7
            table["length"][i] = size // 24
        file["contigs"][:] = table


def train_set(path: Path, seq_len: int) -> WindowDataset:
    config = DataConfig(windows=WindowConfig(seq_len=seq_len))
    return build_datasets(open_genome([path]), config)[Split.TRAIN]


def bases_per_second(dataset: WindowDataset, seconds: float = 3.0) -> float:
    """Best of three, in this process; the page cache is warm after the first."""
    seq_len = dataset.index.config.seq_len
    size = max(4, (1 << 20) // seq_len)
    best, sample = 0.0, 0
    for _ in range(3):
        started, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - started) < seconds / 3:
            dataset.read(range(sample, sample + size))
            sample, done = sample + size, done + size * seq_len
        best = max(best, done / elapsed)
    return best


class _MemoryProbe(WindowDataset):
    """Reads like its parent; an item is the reading process's own memory in bytes."""

    def __getitem__(self, samples):  # type: ignore[no-untyped-def,override]
        self.read(samples)
        return private_bytes()


def private_bytes() -> int:
    """Memory that belongs to this process alone (Linux).

    Anonymous pages: those of the mapped store belong to the page cache, once for all processes.
    """
    rows = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(row.split()[1]) for row in rows if row.startswith("Anonymous:"))


def worker_memory(path: Path, seq_len: int) -> int:
    """Peak private bytes of one loader worker over a few hundred batches."""
    plain = train_set(path, seq_len)
    probe = _MemoryProbe(plain.genome, plain.index, rc_augment=True)
    batch_size = max(1, (1 << 20) // seq_len)
    batches = BatchRanges(
        batch_size=batch_size, micro_batch_size=batch_size, first_batch=0, last_batch=300
    )
    return max(build_loader(probe, batches, n_workers=1))  # type: ignore[type-var]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genome-size", type=parse_size, default=200_000_000)
    parser.add_argument("--memory-store-size", type=parse_size, default=3_000_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DNAMAMBA_CACHE"] = f"{folder}/cache"
        fasta, store = Path(folder, "genome.fa"), Path(folder, "genome.h5")
        write_fasta(fasta, arguments.genome_size)
        prepare_store([fasta], store)
        for path in (store, fasta):
            for seq_len in (1 << 10, 1 << 14, 1 << 17):
                rate = bases_per_second(train_set(path, seq_len))
                rows.append({"source": path.name, "seq_len": seq_len, "bases_per_s": rate})
                print(f"{path.name:>10}  L = {seq_len:>7,}  {rate / 1e6:8.1f} M bases/s")
        large = Path(folder, "large.h5")
        write_large_store(large, arguments.memory_store_size)
        for seq_len in (1 << 10, 1 << 17, 1 << 20):
            memory = worker_memory(large, seq_len)
            rows.append({"source": large.name, "seq_len": seq_len, "worker_bytes": memory})
            print(f"{large.name:>10}  L = {seq_len:>7,}  {memory / 1e6:8.1f} MB of a worker's own")
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
