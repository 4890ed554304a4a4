"""Devices, precision, ranks and folders: what the environment says and what is made of it."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dnamamba import runtime
from dnamamba.errors import InputError
from dnamamba.runtime import (
    Compute,
    Ranks,
    available_bytes,
    cache_folder,
    choose_device,
    choose_precision,
    describe_machine,
    open_compute,
    read_ranks,
    set_up_logging,
)

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
ALONE = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1)
LAUNCHER_NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHER_NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see so many GPUs; returns what was made the current device."""

    def see(count: int) -> list[torch.device]:
        current: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", current.append)
        return current

    return see


# --- ranks


def test_without_a_launcher_there_is_one_rank():
    assert read_ranks() == ALONE
    assert read_ranks().is_main


def test_ranks_are_those_of_torchrun(monkeypatch):
    for name, value in zip(LAUNCHER_NAMES, "5184", strict=True):
        monkeypatch.setenv(name, value)
    assert read_ranks() == Ranks(rank=5, local_rank=1, world_size=8, local_world_size=4)
    assert not read_ranks().is_main


# --- devices


def test_auto_takes_a_gpu_where_there_is_one(gpus):
    current = gpus(1)
    assert choose_device() == torch.device("cuda:0")
    assert current == [torch.device("cuda:0")]
    gpus(0)
    assert choose_device() == CPU


def test_each_rank_of_a_machine_takes_its_own_gpu(gpus):
    gpus(4)
    assert [choose_device("cuda", local_rank=n).index for n in range(4)] == [0, 1, 2, 3]
    assert choose_device("cuda:1", local_rank=3) == torch.device("cuda:1")
    assert choose_device("cpu", local_rank=3) == CPU


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (0, "cuda", "cuda:0 was asked for, but torch sees 0 CUDA devices; use --device cpu"),
        (2, "cuda:2", "cuda:2 was asked for, but torch sees 2 CUDA devices"),
        (1, "gpu", "--device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (1, "cuda:x", "--device must be auto, cpu, cuda or cuda:N, got 'cuda:x'"),
        (1, "meta", "--device must be auto, cpu, cuda or cuda:N, got 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(gpus, count, name, message):
    gpus(count)
    with pytest.raises(InputError, match=message):
        choose_device(name)


# --- precision


@pytest.mark.parametrize(
    ("name", "device", "dtype"),
    [
        ("auto", "cpu", None),
        ("auto", "cuda", torch.bfloat16),
        ("fp32", "cuda", None),
        ("bf16", "cpu", torch.bfloat16),
    ],
)
def test_choose_precision(name, device, dtype):
    assert choose_precision(name, torch.device(device)) == dtype


def test_an_unknown_precision_is_refused():
    with pytest.raises(InputError, match="--precision must be auto, bf16 or fp32, got 'fp16'"):
        choose_precision("fp16", CPU)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_forward_passes_run_in_the_precision_and_parameters_stay_float32(dtype):
    linear = torch.nn.Linear(2, 2)
    with Compute(CPU, dtype, ALONE).autocast():
        out = linear(torch.ones(1, 2))
    assert out.dtype == (dtype or torch.float32)
    assert linear.weight.dtype == torch.float32


# --- ranks together


def test_one_rank_needs_nobody():
    with open_compute("cpu") as compute:
        assert compute == Compute(CPU, None, ALONE)
        assert compute.sum_over_ranks(torch.tensor([1.0, 2.0])).tolist() == [1, 2]
        assert compute.any_rank(True)
        assert not compute.any_rank(False)
        assert compute.on_main_first(lambda: "done") == "done"
        compute.wait_for_ranks()
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("error", [InputError("no such genome"), PermissionError("read-only")])
def test_what_rank_0_cannot_do_is_raised_as_it_is(error):
    def fail() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        Compute(CPU, None, ALONE).on_main_first(fail)


TWO_RANKS = """
import torch
from dnamamba.errors import InputError
from dnamamba.runtime import open_compute

def fail():
    raise InputError("no such genome")

with open_compute("cpu") as compute:
    rank = compute.ranks.rank
    print(compute.sum_over_ranks(torch.tensor([1.0, float(rank)])).tolist())
    print(compute.any_rank(rank == 1), compute.any_rank(False))
    print(compute.on_main_first(lambda: "done"))
    compute.wait_for_ranks()
    try:
        compute.on_main_first(fail)
    except InputError as error:
        print(error)
print(torch.distributed.is_initialized())
"""


def test_two_ranks_add_up_agree_and_fail_alike():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    together |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS],
            env=os.environ | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    common = ["[2.0, 1.0]", "True False"]
    assert printed[0] == [*common, "done", "no such genome", "False"]
    elsewhere = "rank 0 could not start the run; its message says why"
    assert printed[1] == [*common, "None", elsewhere, "False"]


# --- memory, folders, logging


def test_memory_of_a_cpu_is_shared_by_the_ranks_of_its_machine():
    whole = available_bytes(CPU, ALONE)
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < whole <= installed
    quarter = available_bytes(CPU, Ranks(rank=0, local_rank=0, world_size=8, local_world_size=4))
    # Other programs take and free memory in between.
    assert whole / quarter == pytest.approx(4, rel=0.4)


@pytest.mark.gpu
def test_memory_of_a_gpu_falls_as_it_is_used():
    device = choose_device("cuda")
    before = available_bytes(device, ALONE)
    held = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    assert available_bytes(device, ALONE) <= before - held.numel()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DNAMAMBA_CACHE": "/fast/cache", "XDG_CACHE_HOME": "/xdg"}, "/fast/cache"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/dnamamba"),
        ({"HOME": "/home/someone"}, "/home/someone/.cache/dnamamba"),
        ({"HOME": "/home/someone", "DNAMAMBA_CACHE": ""}, "/home/someone/.cache/dnamamba"),
    ],
)
def test_cache_folder(monkeypatch, environment, expected):
    for name in ("DNAMAMBA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


@pytest.mark.parametrize(("rank", "shown"), [(0, "news\ntrouble\n"), (1, "trouble\n")])
def test_messages_go_to_standard_error_and_news_only_from_rank_0(monkeypatch, capsys, rank, shown):
    library = logging.getLogger("dnamamba")
    for name in ("handlers", "propagate"):
        monkeypatch.setattr(library, name, getattr(library, name))
    monkeypatch.setattr(library, "handlers", [])
    monkeypatch.setenv("RANK", str(rank))
    level = library.level
    try:
        set_up_logging()
        set_up_logging()  # a second time adds no second voice
        runtime.logger.info("news")
        runtime.logger.warning("trouble")
    finally:
        library.setLevel(level)
    assert capsys.readouterr() == ("", shown)


def test_describe_machine_fits_into_a_manifest():
    details = describe_machine()
    assert details["torch"] == torch.__version__
    assert details["python"] == ".".join(map(str, sys.version_info[:3]))
    assert len(details["gpus"]) == torch.cuda.device_count()  # type: ignore[arg-type]
