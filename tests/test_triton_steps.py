"""The Triton kernels of a single step against plain PyTorch in float64."""

import inspect
from collections.abc import Callable

import pytest
import torch

from dnamamba.kernels import causal_conv1d_step, selective_scan_step
from dnamamba.kernels.conv import reference as conv_reference
from dnamamba.kernels.scan import reference as scan_reference
from triton_cases import (
    BFLOAT16,
    DEVICE,
    FLOAT32,
    TRITON_TEST,
    Draw,
    Named,
    assert_all_close,
    assert_identical,
    assert_nothing_spills,
    compile_for_an_h100,
    poisoned_memory,
    scan_by,
    scan_step_by,
)

pytest.importorskip("triton", reason="needs triton")
conv = pytest.importorskip(
    "dnamamba.kernels.conv.step_gpu", reason="needs triton", exc_type=ImportError
)
scan = pytest.importorskip(
    "dnamamba.kernels.scan.step_gpu", reason="needs triton", exc_type=ImportError
)

scan_step = scan_step_by(scan.selective_scan_step)
reference_step = scan_step_by(scan_reference.selective_scan_step)

pytestmark = TRITON_TEST

Step = Callable[..., torch.Tensor]


def draw_scan(
    batch: int,
    channels: int,
    d_state: int = 16,
    groups: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Named:
    """u and z are halves of one projection's output, B and C parts of another's."""
    draw = Draw(seed=channels, dtype=dtype)
    u, z = draw(batch, 2 * channels).chunk(2, -1)
    middle = () if groups is None else (groups,)
    B, C = draw(batch, *middle, 3 + 2 * d_state)[..., 3:].chunk(2, -1)
    return {
        "u": u,
        "delta": draw(batch, channels) - 1,
        "A": -draw(channels, d_state, dtype=torch.float32).exp(),
        "B": B,
        "C": C,
        "D": draw(channels, dtype=torch.float32),
        "z": z,
        "delta_bias": draw(channels, dtype=torch.float32),
        "delta_softplus": True,
        "state": draw(batch, channels, d_state, dtype=torch.float32),
    }


def draw_conv(
    batch: int, channels: int, d_conv: int = 4, dtype: torch.dtype = torch.float32
) -> Named:
    draw = Draw(seed=channels, dtype=dtype)
    return {
        "x": draw(batch, 2 * channels)[:, :channels],
        "weight": draw(channels, d_conv, dtype=torch.float32),
        "bias": draw(channels, dtype=torch.float32),
        "activation": "silu",
        "state": draw(batch, d_conv - 1, channels),
    }


def run(step: Step, operands: Named, dtype: torch.dtype | None = None) -> Named:
    """Output and new state, of copies with the same strides; widened to dtype if there is one."""
    given = {
        name: _copy(value, dtype or value.dtype) if isinstance(value, torch.Tensor) else value
        for name, value in operands.items()
    }
    with poisoned_memory():
        out = step(**given)
    return {"y": out, "state": given["state"]}


def _copy(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    copied = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=tensor.device)
    return copied.copy_(tensor)


def check_scan(operands: Named, tolerance: dict[str, float] = FLOAT32) -> None:
    expected = run(reference_step, operands, torch.float64)
    assert_all_close(run(scan_step, operands), expected, **tolerance)


def check_conv(operands: Named, tolerance: dict[str, float] = FLOAT32) -> None:
    expected = run(conv_reference.causal_conv1d_step, operands, torch.float64)
    assert_all_close(run(conv.causal_conv1d_step, operands), expected, **tolerance)


# The scan.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 33, 96])
def test_scan_any_number_of_channels(channels, batch):
    check_scan(draw_scan(batch, channels))


@pytest.mark.parametrize("d_state", [1, 2, 5, 17, 63, 64])
def test_scan_any_number_of_states(d_state):
    check_scan(draw_scan(2, 35, d_state))


@pytest.mark.parametrize(("groups", "channels"), [(1, 4), (2, 66), (3, 3)])
def test_scan_groups_of_weights(groups, channels):
    operands = draw_scan(2, channels, groups=groups)
    check_scan(operands)
    operands["C"] = draw_scan(2, channels, groups=1)["C"]
    check_scan(operands)


@pytest.mark.parametrize(
    "without", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")], ids=" ".join
)
def test_scan_without_what_is_optional(without):
    check_scan({**draw_scan(2, 5), **dict.fromkeys(without)})


def test_scan_without_softplus():
    operands = draw_scan(2, 5)
    operands |= {"delta": operands["delta"].abs(), "delta_bias": operands["delta_bias"].abs()}
    check_scan({**operands, "delta_softplus": False})


def test_scan_extreme_steps():
    """dt from 1e-9, where log(1 + e) alone would be 0, to 60, where every state is forgotten."""
    operands = {**draw_scan(1, 72), "delta_bias": None}
    operands["delta"] = torch.linspace(-20, 60, 72, device=DEVICE).view(1, 72)
    check_scan(operands)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scan_rounds_half_precision_once(dtype):
    operands = draw_scan(2, 33, dtype=dtype)
    check_scan(operands, BFLOAT16)
    expected = run(reference_step, operands, torch.float64)["state"]
    found = run(scan_step, operands)["state"]
    assert_all_close({"state": found}, {"state": expected}, **FLOAT32)


def test_scan_operands_and_state_of_any_strides():
    operands = draw_scan(2, 5)
    turned = dict(operands)
    for name in ("u", "delta", "A", "B", "C", "z"):
        turned[name] = operands[name].t().contiguous().t()
    turned["state"] = operands["state"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    turned["D"] = operands["D"].repeat_interleave(2)[::2]
    # Compiled code may add up in an order that depends on the strides.
    step = scan_step
    assert_all_close(run(step, turned), run(step, operands), **FLOAT32)


def test_scan_steps_one_after_another_are_the_scan():
    operands = draw_scan(2, 5)
    state = operands.pop("state")
    u = torch.stack([operands["u"] + t for t in range(6)], 1)
    timed = {name: operands[name].unsqueeze(1).expand(-1, 6, -1) for name in ("delta", "B", "C")}
    whole = {**operands, **timed, "u": u, "z": None, "initial_state": state.clone()}
    expected, last = scan_by(scan_reference.selective_scan)(**whole, return_last_state=True)
    outs = [scan_step(**{**operands, "u": u[:, t], "z": None, "state": state}) for t in range(6)]
    torch.testing.assert_close(torch.stack(outs, 1), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


# The convolution.


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 3, 33, 200])
def test_conv_any_number_of_channels(channels, batch):
    check_conv(draw_conv(batch, channels))


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("bias", ["bias", None])
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4])
def test_conv_every_width(d_conv, bias, activation):
    operands = draw_conv(2, 5, d_conv)
    check_conv({**operands, "bias": operands[bias] if bias else None, "activation": activation})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_conv_rounds_half_precision_once_and_keeps_inputs_as_they_are(dtype):
    operands = draw_conv(2, 33, dtype=dtype)
    check_conv(operands, BFLOAT16)
    state = run(conv.causal_conv1d_step, operands)["state"]
    assert torch.equal(state[:, :2], operands["state"][:, 1:])
    assert torch.equal(state[:, 2], operands["x"])


def test_conv_state_wider_than_the_input():
    operands = draw_conv(2, 33, dtype=torch.bfloat16)
    check_conv({**operands, "state": operands["state"].float() * 1.001}, BFLOAT16)


def test_conv_operands_and_state_of_any_strides():
    operands = draw_conv(2, 5)
    turned = {**operands, "state": operands["state"].mT.contiguous().mT}
    for name in ("x", "weight"):
        turned[name] = operands[name].t().contiguous().t()
    step = conv.causal_conv1d_step
    assert_all_close(run(step, turned), run(step, operands), **FLOAT32)


# Both.


def test_kernels_share_the_definitions_signature():
    for one, other in (
        (scan.selective_scan_step, scan_reference.selective_scan_step),
        (conv.causal_conv1d_step, conv_reference.causal_conv1d_step),
    ):
        assert inspect.signature(one) == inspect.signature(other)


def test_a_written_state_is_not_used_by_a_backward_that_needs_the_one_before():
    operands = draw_conv(1, 5)
    factor = torch.ones((), device=DEVICE, requires_grad=True)
    product = factor * operands["state"]
    conv.causal_conv1d_step(**operands)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    operands = draw_scan(1, 5)
    product = factor * operands["state"]
    scan_step(**operands)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@pytest.mark.parametrize("complete", [True, False])
def test_operators_pass_torchs_own_checks(complete):
    operands = draw_scan(1, 5, groups=1)
    if not complete:
        operands |= dict.fromkeys(("D", "z", "delta_bias"))
    has_softplus = operands.pop("delta_softplus")
    torch.library.opcheck(scan.step, (*operands.values(), has_softplus))
    operands = draw_conv(1, 5)
    if not complete:
        operands["bias"] = None
    torch.library.opcheck(conv.step, tuple({**operands, "activation": True}.values()))


def test_states_made_in_inference_mode_can_be_stepped():
    with torch.inference_mode():
        operands = draw_scan(1, 3)
        check_scan(operands)
        scan_step(**operands)
        conv.causal_conv1d_step(**draw_conv(1, 3))


@pytest.mark.slow
def test_kernels_compile_for_an_h100_into_registers():
    """Types that the interpreter does not check; nothing spills."""
    found = compile_for_an_h100("compile_steps.py")
    assert len(found) == 21
    assert_nothing_spills(found)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_the_public_ops_take_the_kernels(backend):
    operands = draw_scan(2, 33, dtype=torch.bfloat16)
    found = run(lambda **given: selective_scan_step(**given, backend=backend), operands)
    assert_identical(found, run(scan_step, operands))
    operands = draw_conv(2, 33, dtype=torch.bfloat16)
    found = run(lambda **given: causal_conv1d_step(**given, backend=backend), operands)
    assert_identical(found, run(conv.causal_conv1d_step, operands))


@pytest.mark.gpu
def test_what_the_kernels_refuse_goes_elsewhere():
    operands = draw_scan(2, 3, d_state=65)
    plain = run(reference_step, operands)
    assert_identical(run(selective_scan_step, operands), plain)
    operands = draw_conv(2, 3, d_conv=5)
    plain = run(conv_reference.causal_conv1d_step, operands)
    assert_identical(run(causal_conv1d_step, operands), plain)


@pytest.mark.gpu
def test_compiled_code_gives_the_same_numbers():
    operands = draw_scan(2, 33, dtype=torch.bfloat16)
    compiled = torch.compile(scan_step, fullgraph=True)
    assert_identical(run(compiled, operands), run(scan_step, operands))


@pytest.mark.gpu
def test_steps_can_be_captured_in_a_cuda_graph():
    operands = draw_scan(2, 33, dtype=torch.bfloat16)
    before = operands["state"].clone()
    expected_state = before.clone()
    # Compiled here, for the very same alignments: nothing may be while a graph is captured.
    expected = scan_step(**{**operands, "state": expected_state})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = scan_step(**operands)
    assert torch.equal(operands["state"], before), "capturing runs nothing"
    graph.replay()
    assert torch.equal(out, expected)
    assert torch.equal(operands["state"], expected_state)


@pytest.mark.gpu
def test_more_than_two_billion_states():
    """Batch entries beyond 2^31 states, and the same ones alone."""
    batch = 2**31 // (4096 * 64) + 3
    operands = draw_scan(3, 4096, 64)
    tail = run(scan_step, operands)
    many = {
        name: operands[name].new_zeros(batch, *operands[name].shape[1:])
        for name in ("u", "delta", "B", "C", "z", "state")
    }
    for name, tensor in many.items():
        tensor[-3:] = operands[name]
    out = scan_step(**{**operands, **many})
    assert_all_close({"y": out[-3:], "state": many["state"][-3:]}, tail, **FLOAT32)
