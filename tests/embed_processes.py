"""Run by test_cli_embed_processes.py in a process without threads, which may fork: `TASK FOLDER`
runs the whole command `dnamamba embed` many times, without loading torch each time. Parts are small
here, so that there are many. Prints a line of JSON."""

import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch

import dnamamba.cli.embed
import dnamamba.embedding.embedder
import dnamamba.embedding.run
import dnamamba.embedding.writer
import dnamamba.models.loading  # noqa: F401  (all loaded before there are forks)
from dnamamba.cli.main import main
from dnamamba.embedding import run as embedding_run
from dnamamba.models import DnaModel, ModelConfig
from genomes import random_sequence, write_fasta

PART_ROWS = 20
N_ROWS = 400


def write_inputs(folder: Path) -> None:
    """A run, a genome, and a BED whose longest rows are read in pieces."""
    torch.manual_seed(0)
    DnaModel(ModelConfig(d_model=8, n_layers=1)).save_pretrained(folder / "run" / "model")
    write_fasta(folder / "genome.fa", {"chr1": random_sequence(100_000, seed=1)})
    draw = random.Random(0)
    starts = [draw.randrange(99_000) for _ in range(N_ROWS)]
    rows = [f"chr1\t{start}\t{start + 10 + start % 90}\tr{start}\t0\t-" for start in starts]
    rows[100] = rows[300] = "chr1\t10000\t80000\tlong\t0\t-"
    rows[200] = "chr7\t1\t20"
    (folder / "rows.bed").write_text("\n".join(rows) + "\n")


def start(folder: Path, out: str, *more: str, **environment: str) -> int:
    """Fork the command; its standard error goes to OUT.err."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.environ.update(environment)
        os.chdir(folder)
        log = os.open(f"{out}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        given = ["run", "--genome", "genome.fa", "--regions", "rows.bed", "--device", "cpu"]
        main(["embed", *given, "--pooling", "none", "--out", out, *more])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 71
    finally:
        os._exit(status)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def kill(folder: Path) -> dict[str, object]:
    """20 kills, several of each file, until it is whole."""
    began = time.monotonic()
    assert code_of(start(folder, "whole.h5")) == 0
    seconds = time.monotonic() - began
    draw, n_kills, n_files, parts, digests = random.Random(0), 0, 0, set(), set()
    while n_kills < 20:
        n_files += 1
        out = f"{n_files}.h5"
        while not (folder / out).exists():
            pid = start(folder, out)
            time.sleep(draw.uniform(0.05, 0.7) * seconds)
            os.kill(pid, signal.SIGKILL)
            if code_of(pid) == -signal.SIGKILL:
                n_kills += 1
                parts.add(len(list((folder / f".{out}.parts").glob("part-*"))))
        digests.add(digest(folder / out))
        if (folder / f".{out}.parts").exists():
            # Killed when the file was there, and the folder not yet removed.
            assert code_of(start(folder, out)) == 1
    return {
        "kills": n_kills,
        "different_moments": len(parts),
        "same": digests == {digest(folder / "whole.h5")},
        "left": hidden(folder),
    }


def interrupt(folder: Path) -> dict[str, object]:
    """Ctrl-C once there are some parts, and the same command again."""
    assert code_of(start(folder, "whole.h5")) == 0
    pid = start(folder, "x.h5")
    parts = folder / ".x.h5.parts"
    while len(list(parts.glob("part-*.bin"))) < 3:
        time.sleep(0.002)
    os.kill(pid, signal.SIGINT)
    code = code_of(pid)
    said = (folder / "x.h5.err").read_text()
    left = sorted(path.name for path in parts.iterdir())
    is_there = (folder / "x.h5").exists()
    again = code_of(start(folder, "x.h5"))
    return {
        "code": code,
        "said": said,
        "left": left,
        "is_there": is_there,
        "again": again,
        "said_again": (folder / "x.h5.err").read_text(),
        "same": digest(folder / "x.h5") == digest(folder / "whole.h5"),
        "hidden": hidden(folder),
    }


def ranks(folder: Path) -> dict[str, object]:
    """What one process has begun, two end."""
    assert code_of(start(folder, "whole.h5")) == 0
    pid = start(folder, "x.h5")
    parts = folder / ".x.h5.parts"
    while len(list(parts.glob("part-*.bin"))) < 4:
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    code_of(pid)
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.bin")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    pids = []
    for rank in range(2):
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        pids.append(start(folder, "x.h5", RANK=str(rank), LOCAL_RANK=str(rank), **shared))
    codes = [code_of(pid) for pid in pids]
    same = digest(folder / "x.h5") == digest(folder / "whole.h5")
    return {"kept": len(kept), "codes": codes, "same": same, "hidden": hidden(folder)}


def memory(folder: Path) -> dict[str, object]:
    """Most memory in use, bytes, for one region of 1 Mb and one of 8 Mb."""
    write_fasta(folder / "genome.fa", {"chr1": random_sequence(8_000_000, seed=2)}, 100)
    most: dict[str, list[int]] = {"mean": [], "none": []}
    for pooling, found in most.items():
        for end in (1_000_000, 8_000_000):
            more = ("--regions", f"chr1:1-{end}", "--pooling", pooling, "--dtype", "float16")
            _, status, usage = os.wait4(start(folder, "x.h5", *more, "--force"), 0)
            assert os.waitstatus_to_exitcode(status) == 0, (folder / "x.h5.err").read_text()
            found.append(usage.ru_maxrss * 1024)
    return dict(most)


if __name__ == "__main__":
    torch.set_num_threads(1)
    embedding_run.PART_ROWS = PART_ROWS
    task = {"kill": kill, "interrupt": interrupt, "ranks": ranks, "memory": memory}[sys.argv[1]]
    write_inputs(Path(sys.argv[2]))
    print(json.dumps(task(Path(sys.argv[2]))))
