"""One optimiser step, as it is run and as a GPU replays it."""

from functools import partial

import pytest
import torch

from dnamamba.models import DnaModel, no_weight_decay_names, preset
from dnamamba.pretraining.objectives import NextToken
from dnamamba.runtime import Compute, Ranks
from dnamamba.tokenizer import FIRST_BASE_ID, LAST_BASE_ID
from dnamamba.training.cuda_graph import PASSES_BEFORE, CudaGraphPass
from dnamamba.training.optimizer import build_optimizer
from dnamamba.training.step import TrainingStep

CUDA = torch.device("cuda", 0)


def build_step(device: torch.device, recompute: str = "nothing") -> TrainingStep:
    torch.manual_seed(0)
    model = DnaModel(preset("mamba-demo"))
    objective = NextToken(model, recompute=recompute).to(device)
    optimizer = build_optimizer(
        objective,
        learning_rate=0.0,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        no_decay=[f"model.{name}" for name in no_weight_decay_names(model)],
    )
    dtype = torch.bfloat16 if device.type == "cuda" else None
    compute = Compute(device, dtype, Ranks(0, 0, 1, 1))
    return TrainingStep(objective, optimizer, compute, grad_clip=1.0)


def draw_codes(seed: int, seq_len: int, device: torch.device) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    size = (4, seq_len)
    codes = torch.randint(FIRST_BASE_ID, LAST_BASE_ID + 1, size, generator=draw, dtype=torch.uint8)
    return codes.to(device)


def run_updates(step: TrainingStep, lengths: list[int]) -> list[tuple[float, float]]:
    """Updates of two micro-batches each; their losses and norms."""
    found = []
    for number, seq_len in enumerate(lengths):
        codes = draw_codes(number, seq_len, step.compute.device)
        # Another weight each time: it must not be that of the pass that was recorded.
        weight = step.objective.weight(codes) * (1 + number % 3)
        found.append(step.update(codes.split(2), weight, 1e-3 * (1 + number)))
    return found


def test_micro_batches_add_up():
    """Whatever was left of earlier gradients."""
    cpu = torch.device("cpu")
    codes = draw_codes(0, 32, cpu)
    gradients = []
    for size in (4, 2, 1):
        step = build_step(cpu)
        for _ in range(2):
            step.update(codes.split(size), step.objective.weight(codes), 0.0)
        gradients.append([p.grad for p in step.objective.parameters()])
    for others in gradients[1:]:
        torch.testing.assert_close(others, gradients[0], rtol=1e-4, atol=1e-6)


def test_a_batch_that_is_not_finite_changes_nothing():
    cpu = torch.device("cpu")
    step = build_step(cpu)
    codes = draw_codes(0, 32, cpu)
    before = [p.detach().clone() for p in step.objective.parameters()]
    loss, _ = step.update([codes], torch.tensor(float("nan")), 1e-3)
    assert loss != loss
    torch.testing.assert_close(list(step.objective.parameters()), before, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("recompute", ["nothing", "cheap", "blocks"])
@pytest.mark.parametrize(
    "lengths", [[256] * 6, [256] * 4 + [128] * 4 + [256] * 3], ids=["one", "changing"]
)
def test_a_recorded_pass_gives_the_same_numbers(lengths, recompute):
    recording, plain = build_step(CUDA, recompute), build_step(CUDA, recompute)
    plain._graph = None
    assert run_updates(recording, lengths) == run_updates(plain, lengths)
    assert recording._graph._captured is not None
    for ours, theirs in zip(
        recording.objective.parameters(), plain.objective.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.gpu
def test_passes_of_much_memory_are_not_recorded(monkeypatch):
    monkeypatch.setattr("dnamamba.training.cuda_graph.LARGEST_SHARE", 0.0)
    step = build_step(CUDA)
    run_updates(step, [64] * 3)
    assert step._graph._captured is None


@pytest.mark.parametrize("times", [PASSES_BEFORE, PASSES_BEFORE + 2])
def test_only_a_shape_that_comes_again_is_recorded(times, monkeypatch):
    captured = []

    class Recorded:
        def __init__(self, run, codes, weight):
            captured.append(codes.shape)

        def __call__(self, codes, weight):
            return torch.tensor(-1.0)

    monkeypatch.setattr("dnamamba.training.cuda_graph._CapturedPass", Recorded)
    monkeypatch.setattr(CudaGraphPass, "_is_small", lambda _: True)
    passes = partial(CudaGraphPass(torch.device("cpu")), lambda codes, weight: weight)
    weight = torch.tensor(1.0)
    for length in (8, 9):
        found = [float(passes(torch.zeros(2, length), weight)) for _ in range(times)]
        n_recorded = times - PASSES_BEFORE
        assert found == [1.0] * PASSES_BEFORE + [-1.0] * n_recorded
    assert len(captured) == (2 if times > PASSES_BEFORE else 0)
    alternating = [float(passes(torch.zeros(2, 8 + n % 2), weight)) for n in range(8)]
    assert alternating == [1.0] * 8
