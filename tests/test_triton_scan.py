"""The selective scan's Triton kernels against the definition in float64."""

import inspect

import pytest
import torch

from dnamamba.kernels import selective_scan
from dnamamba.kernels.scan import reference
from dnamamba.models.recompute import run_block
from triton_cases import (
    BFLOAT16,
    DEVICE,
    FLOAT32,
    TRITON_TEST,
    Draw,
    Named,
    assert_all_close,
    assert_identical,
    compile_for_an_h100,
    full,
    outputs_and_gradients,
    poisoned_memory,
    scan_by,
)

pytest.importorskip("triton", reason="needs triton")
gpu = pytest.importorskip("dnamamba.kernels.scan.gpu", reason="needs triton", exc_type=ImportError)
kernels = gpu.kernels
gpu_scan, reference_scan = (scan_by(module.selective_scan) for module in (gpu, reference))

pytestmark = TRITON_TEST

OPTIONS = {"delta_softplus": True, "return_last_state": True}


@pytest.fixture
def short_chunks(monkeypatch):
    """Chunks of 8 steps, so that short sequences have several."""
    monkeypatch.setattr(gpu, "SHORTEST_CHUNK", 8)


def draw_operands(
    batch: int,
    seq_len: int,
    channels: int,
    d_state: int = 16,
    groups: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Named:
    """delta is drawn so that dt runs from 1e-2 to several; z is a half of a projection's output."""
    draw = Draw(seed=seq_len, dtype=dtype)
    weights = (batch, seq_len) + (() if groups is None else (groups,)) + (d_state,)
    return {
        "u": draw(batch, seq_len, channels),
        "delta": draw(batch, seq_len, channels) - 1,
        "A": -draw(channels, d_state, dtype=torch.float32).exp(),
        "B": draw(*weights),
        "C": draw(*weights),
        "D": draw(channels, dtype=torch.float32),
        "z": draw(batch, seq_len, 2 * channels)[..., channels:],
        "delta_bias": draw(channels, dtype=torch.float32),
        "initial_state": draw(batch, channels, d_state, dtype=torch.float32),
    }


def check(operands: Named, tolerance: dict[str, float], **options: object) -> None:
    options = {**OPTIONS, **options}
    found = outputs_and_gradients(gpu_scan, operands, **options)
    expected = outputs_and_gradients(reference_scan, operands, dtype=torch.float64, **options)
    assert_all_close(found, expected, **tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batch", "seq_len", "channels"),
    [(1, 1, 1), (2, 2, 3), (1, 4, 33), full(1, 8, 3), (1, 9, 31), full(1, 20, 1), (2, 23, 3)],
)
def test_every_length_in_both_directions(batch, seq_len, channels, reverse, short_chunks):
    check(draw_operands(batch, seq_len, channels), FLOAT32, reverse=reverse)


@pytest.mark.parametrize("d_state", [1, 2, 5, 17, 64])
def test_every_number_of_states(d_state):
    check(draw_operands(1, 5, 2, d_state), FLOAT32)


@pytest.mark.parametrize(("groups", "channels"), [(1, 4), (2, 6), (2, 66), (3, 3)])
def test_groups_of_weights(groups, channels):
    check(draw_operands(1, 5, channels, groups=groups), FLOAT32)


@pytest.mark.parametrize(
    "without",
    [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias", "initial_state")],
    ids=" ".join,
)
def test_without_what_is_optional(without, short_chunks):
    check({**draw_operands(1, 10, 3), **dict.fromkeys(without)}, FLOAT32)


def test_without_softplus():
    operands = draw_operands(1, 6, 3)
    operands["delta"] = operands["delta"].exp()
    operands["delta_bias"] = operands["delta_bias"].abs()
    check(operands, FLOAT32, delta_softplus=False)


def test_extreme_steps(short_chunks):
    """dt from 1e-9, where log(1 + e) alone would be 0, to 60, where every state is forgotten."""
    operands = draw_operands(1, 24, 3)
    operands["delta_bias"] = None
    operands["delta"] = torch.linspace(-20, 60, 72, device=DEVICE).view(1, 24, 3)
    check(operands, FLOAT32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_operands(dtype, short_chunks):
    check(draw_operands(2, 18, 3, dtype=dtype), BFLOAT16)


@pytest.mark.parametrize(
    ("groups", "channels", "n_slots"),
    [(None, 128, 2), (None, 128, 1), (2, 192, 3), (2, 192, 1), (6, 192, 2)],
)
def test_programs_in_several_launches(groups, channels, n_slots, monkeypatch, short_chunks):
    """Whole groups at a time, or parts of one."""
    operands = draw_operands(1, 9, channels, groups=groups)
    together = outputs_and_gradients(gpu_scan, operands, **OPTIONS)
    monkeypatch.setattr(gpu, "_choose_slots", lambda *_: n_slots)
    apart = outputs_and_gradients(gpu_scan, operands, **OPTIONS)
    assert_all_close(apart, together, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 6, 8])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("marks", [1 << 10, 1 << 26, 1 << 28, 1 << 31])
def test_launches_share_the_programs_evenly(groups, blocks, marks):
    n_slots = gpu._choose_slots(groups * blocks, blocks, marks)
    assert 1 <= n_slots <= groups * blocks
    assert n_slots % blocks == 0 or blocks % n_slots == 0
    assert n_slots * marks <= gpu.MOST_MARKS or n_slots == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x[:1].expand_as(x),
        lambda x: torch.stack([x, x], 1)[:, 0],
        lambda x: x.double(),
    ],
    ids=["expanded", "strided", "float64"],
)
def test_vectors_of_any_stride_and_dtype(make):
    operands = draw_operands(1, 6, 3)
    for name in ("D", "delta_bias"):
        operands[name] = make(operands[name])
    found = gpu_scan(**operands, delta_softplus=True)
    wide = {name: tensor.double() for name, tensor in operands.items()}
    expected = reference_scan(**wide, delta_softplus=True)
    assert_all_close({"out": found}, {"out": expected}, **FLOAT32)


def test_gradients_have_the_dtypes_of_their_operands():
    operands = draw_operands(1, 6, 3)
    operands["B"] = operands["B"].bfloat16()
    operands["D"] = operands["D"].double()
    found = outputs_and_gradients(gpu_scan, operands, **OPTIONS)
    for name, tensor in operands.items():
        assert found[f"d {name}"].dtype == tensor.dtype


def test_a_second_derivative_is_refused():
    u = draw_operands(1, 6, 3)["u"].requires_grad_()
    out = gpu_scan(**{**draw_operands(1, 6, 3), "u": u})
    (gradient,) = torch.autograd.grad(out.square().sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def test_runs_are_identical(short_chunks):
    operands = draw_operands(1, 19, 5)
    first = outputs_and_gradients(gpu_scan, operands, **OPTIONS)
    assert_identical(outputs_and_gradients(gpu_scan, operands, **OPTIONS), first)


def test_a_sequence_goes_on_from_its_state():
    operands = draw_operands(1, 12, 3)
    whole, last = gpu_scan(**operands, **OPTIONS)
    timed = ("u", "delta", "B", "C", "z")
    halves, state = [], operands["initial_state"]
    for times in (slice(0, 5), slice(5, 12)):
        part = {name: operands[name][:, times] for name in timed}
        out, state = gpu_scan(**{**operands, **part, "initial_state": state}, **OPTIONS)
        halves.append(out)
    torch.testing.assert_close(torch.cat(halves, 1), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-6)


def test_operators_pass_torchs_own_checks():
    operands = draw_operands(1, 6, 3)
    for name in ("B", "C"):
        operands[name] = operands[name].unsqueeze(2)
    given = [tensor.requires_grad_() for tensor in operands.values()]
    with poisoned_memory():
        torch.library.opcheck(gpu.forward, (*given, True, False, torch.float32))
        _, last_state, entries, dt_sums = gpu.forward(*given, True, False, torch.float32)
        torch.library.opcheck(
            gpu.backward,
            (Draw()(1, 6, 3), last_state, *given[:-1], entries, dt_sums, True, False),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_compiled_code_gives_the_same_numbers():
    """With its gradients, which are registered apart from those of other calls."""
    operands = draw_operands(1, 6, 3)
    expected = outputs_and_gradients(gpu_scan, operands, **OPTIONS)
    compiled = torch.compile(gpu_scan, fullgraph=True, backend="aot_eager")
    assert_all_close(outputs_and_gradients(compiled, operands, **OPTIONS), expected, **FLOAT32)


@pytest.mark.parametrize(("recompute", "scans"), [("nothing", 1), ("cheap", 1), ("blocks", 2)])
def test_blocks_are_recomputed_without_their_scan(recompute, scans, monkeypatch):
    operands = draw_operands(1, 9, 3)
    launched = []
    original = kernels.chunk_scan_kernel

    class Counted:
        def __getitem__(self, grid):
            launched.append(grid)
            return original[grid]

    def block(**given):
        return gpu_scan(**given, **OPTIONS)[0].sin()

    expected = outputs_and_gradients(block, operands)
    monkeypatch.setattr(kernels, "chunk_scan_kernel", Counted())

    def again(**given):
        return run_block(
            lambda *tensors: block(**dict(zip(given, tensors, strict=True))),
            recompute,
            *given.values(),
        )

    assert_identical(outputs_and_gradients(again, operands), expected)
    assert len(launched) == scans


@pytest.mark.parametrize(("batch", "seq_len", "channels"), [(1, 1, 1), (1, 1 << 20, 512)])
@pytest.mark.parametrize("groups", [1, 2])
def test_plan_covers_every_step_and_channel_once(batch, seq_len, channels, groups):
    channels *= groups
    plan = gpu.make_plan(batch, seq_len, channels, groups, 132)
    assert plan.n_programs * gpu.LANES >= channels
    assert (plan.n_chunks - 1) * plan.chunk < seq_len <= plan.n_chunks * plan.chunk
    assert plan.chunk % gpu.STEPS == 0
    assert 1 <= plan.n_slots <= plan.n_programs


def test_plan_has_one_chunk_where_sequences_fill_the_gpu():
    assert gpu.make_plan(4096, 256, 512, 1, 132).n_chunks == 1
    assert gpu.make_plan(1, 1 << 20, 512, 1, 132).n_chunks > 1000


def test_kernels_share_the_definitions_signature():
    found = inspect.signature(gpu.selective_scan)
    assert found == inspect.signature(reference.selective_scan)


def test_the_cpu_is_refused_by_name():
    operands = {name: x.cpu() for name, x in draw_operands(1, 2, 3).items() if x is not None}
    with pytest.raises(RuntimeError, match="'triton' cannot run this: it needs a CUDA device"):
        selective_scan(**operands, backend="triton")


@pytest.mark.slow
def test_kernels_compile_for_an_h100_into_registers():
    """Types and layouts that the interpreter does not check; what spills, and how much."""
    found = compile_for_an_h100("compile_scan.py")
    assert len(found) == 9
    for name, taken in found.items():
        # The backward keeps the states of four steps, and a few dozen of its values go to memory.
        limit = 256 if name.startswith("chunk_backward") else 0
        assert taken["stack"] <= limit, f"{name} spills: {taken}"
    assert found["chunk_scan_kernel bf16 layer"]["registers"] <= 96  # 20 warps a multiprocessor


@pytest.mark.gpu
@pytest.mark.parametrize("seq_len", [63, 64, 65, 1000, 4097, 131_072])
@pytest.mark.parametrize("channels", [1, 3, 96, 512])
def test_long_sequences_on_the_device(seq_len, channels):
    operands = draw_operands(1, seq_len, channels)
    found = outputs_and_gradients(selective_scan, operands, backend="triton", **OPTIONS)
    expected = outputs_and_gradients(
        selective_scan, operands, dtype=torch.float64, backend="chunked", **OPTIONS
    )
    # Sums over time of as many terms as there are steps.
    assert_all_close(found, expected, rtol=2e-6, atol=2e-5)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements_agree_with_their_chunks():
    operands = draw_operands(1, 4_200_000, 512, dtype=torch.bfloat16)
    whole = selective_scan(**operands, delta_softplus=True, backend="triton")
    state, outs = operands["initial_state"], []
    for start in range(0, 4_200_000, 1_400_000):
        times = slice(start, start + 1_400_000)
        part = {name: operands[name][:, times] for name in ("u", "delta", "B", "C", "z")}
        out, state = selective_scan(
            **{**operands, **part, "initial_state": state}, **OPTIONS, backend="triton"
        )
        outs.append(out)
    for start, out in zip(range(0, 4_200_000, 1_400_000), outs, strict=True):
        torch.testing.assert_close(whole[:, start : start + 1_400_000], out, rtol=2**-7, atol=1e-3)
