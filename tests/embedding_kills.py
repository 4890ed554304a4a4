"""Run by test_embedding_file.py in a process without threads, which may fork: `kill FOLDER` writes
a file many times and kills the writer at random moments; `share FOLDER` writes it by two at once.
Prints a line of JSON."""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from dnamamba.embedding.writer import EmbeddingWriter
from embedding_files import make_info, make_rows, write_parts

INFO = make_info(d_out=64)
ROWS = make_rows(INFO, 120)
SIZE = 10


def write_all(out: Path) -> None:
    writer = EmbeddingWriter(out, INFO, force=True)
    (writer.scratch / "strand.npy").write_bytes(b"0" * 1000)
    writer.finish(write_parts(writer, ROWS, SIZE))


def fork(function, *arguments) -> int:
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid


def finished(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def state_of(out: Path) -> str:
    folder = out.with_name(f".{out.name}.parts")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if any(name.startswith("joined") for name in names):
        return "while joining"
    if any(name.startswith("part") and name.endswith("building") for name in names):
        return "while writing a part"
    return "whole" if out.exists() else "between"


def kill_often(folder: Path) -> dict[str, object]:
    whole = folder / "whole.h5"
    began = time.monotonic()
    assert finished(fork(write_all, whole))
    seconds = time.monotonic() - began
    draw, states, digests = random.Random(0), {}, set()
    n_file = 0
    while sum(states.values()) < 21:
        n_file += 1
        out = folder / f"{n_file}.h5"
        for _ in range(2):
            pid = fork(write_all, out)
            time.sleep(draw.uniform(0.02, 0.9) * seconds)
            os.kill(pid, signal.SIGKILL)
            if not finished(pid):
                state = state_of(out)
                states[state] = states.get(state, 0) + 1
        assert finished(fork(write_all, out))
        digests.add(hashlib.sha256(out.read_bytes()).hexdigest())
    expected = hashlib.sha256(whole.read_bytes()).hexdigest()
    left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
    return {"kills": states, "same": digests == {expected}, "left": left}


def share(folder: Path) -> dict[str, object]:
    whole, out = folder / "whole.h5", folder / "shared.h5"
    write_all(whole)
    EmbeddingWriter(out, INFO)

    def some(rank: int) -> None:
        writer = EmbeddingWriter(out, INFO)
        for part in range(rank, len(ROWS) // SIZE, 2):
            writer.write(part, ROWS[part * SIZE : (part + 1) * SIZE])

    pids = [fork(some, rank) for rank in range(2)]
    ended = [finished(pid) for pid in pids]
    EmbeddingWriter(out, INFO).finish(len(ROWS) // SIZE)
    return {"ended": ended, "same": out.read_bytes() == whole.read_bytes()}


if __name__ == "__main__":
    task = {"kill": kill_often, "share": share}[sys.argv[1]]
    print(json.dumps(task(Path(sys.argv[2]))))
