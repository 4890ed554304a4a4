"""What a pass keeps, recomputes and holds, chosen for the memory there is."""

from types import SimpleNamespace

import pytest
import torch

from dnamamba.errors import InputError
from dnamamba.models import DnaModel, preset
from dnamamba.pretraining.objectives import NextToken
from dnamamba.runtime import Compute, Ranks
from dnamamba.training.memory_plan import MemoryEstimate, Passes, choose_passes, estimate_memory

GIB = 1 << 30
ON_A_GPU = SimpleNamespace(device=torch.device("cuda"))
ON_A_CPU = SimpleNamespace(device=torch.device("cpu"))

# Bytes a token of a model of 7M parameters.
FUSED = {"nothing": 90_000.0, "cheap": 40_000.0, "blocks": 25_000.0}
OTHERS = {"nothing": 90_000.0, "blocks": 25_000.0}


def choose(compute, per_token, share, seq_len, gib, **given):
    memory = MemoryEstimate(fixed=0, per_token=per_token, available=int(gib * GIB))
    return choose_passes(memory, compute, share=share, seq_len=seq_len, **given)


@pytest.mark.parametrize(
    ("share", "seq_len", "gib", "expected"),
    [
        (16, 1 << 10, 80, Passes(16, "nothing")),  # 1.4 GiB
        (4, 1 << 17, 80, Passes(4, "cheap")),  # 44 GiB if all were kept
        (1024, 1 << 10, 24, Passes(512, "cheap")),
        (1, 1 << 20, 40, Passes(1, "blocks")),  # 39 GiB is too near
    ],
)
def test_a_gpu_recomputes_no_more_than_memory_asks_for(share, seq_len, gib, expected):
    assert choose(ON_A_GPU, FUSED, share, seq_len, gib) == expected


@pytest.mark.parametrize(("gib", "expected"), [(20, "nothing"), (6, "cheap"), (4, "blocks")])
def test_a_cpu_keeps_all_that_fits(gib, expected):
    assert choose(ON_A_CPU, FUSED, 1, 1 << 17, gib) == Passes(1, expected)


@pytest.mark.parametrize("compute", [ON_A_CPU, ON_A_GPU])
def test_without_a_fused_scan_blocks_are_recomputed(compute):
    assert choose(compute, OTHERS, 1, 1 << 17, 6) == Passes(1, "blocks")


def test_what_is_asked_for_is_done():
    assert choose(ON_A_GPU, FUSED, 4, 1 << 17, 80, recompute="nothing").recompute == "nothing"
    assert choose(ON_A_GPU, FUSED, 4, 1 << 17, 80, micro_batch=2).micro_batch == 2


def test_keeping_scans_needs_the_fused_one():
    with pytest.raises(InputError, match="no such scan: choose one of nothing, blocks"):
        choose(ON_A_CPU, OTHERS, 1, 1 << 10, 4, recompute="cheap")


def test_what_does_not_fit_at_all_is_refused():
    with pytest.raises(InputError, match=r"one window of 1,048,576 bases needs about 24\.4 GiB"):
        choose(ON_A_GPU, FUSED, 1, 1 << 20, 16)


def test_models_of_short_sequences_are_weighed_too():
    """Hyena's filters are as long as the windows it is made for."""
    here = Compute(torch.device("cpu"), None, Ranks(0, 0, 1, 1))
    found = [
        estimate_memory(NextToken(DnaModel(config)), here, config).per_token["nothing"]
        for config in (preset("hyena-demo", 128), preset("hyena-demo", 4096))
    ]
    assert 0.5 < found[0] / found[1] < 2
