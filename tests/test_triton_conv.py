"""The convolution's Triton kernels against the plain one in float64."""

import pytest
import torch

from dnamamba.kernels import causal_conv1d
from dnamamba.kernels.conv import reference
from triton_cases import (
    BFLOAT16,
    DEVICE,
    FLOAT32,
    TRITON_TEST,
    Draw,
    Named,
    assert_all_close,
    assert_identical,
    outputs_and_gradients,
    poisoned_memory,
)

gpu = pytest.importorskip("dnamamba.kernels.conv.gpu", reason="needs triton", exc_type=ImportError)

pytestmark = [*TRITON_TEST, pytest.mark.slow]


def draw_operands(
    batch: int,
    seq_len: int,
    channels: int,
    d_conv: int = 4,
    dtype: torch.dtype = torch.float32,
) -> Named:
    """x is one half of a projection's output, as in the Mamba block."""
    draw = Draw(seed=seq_len, dtype=dtype)
    return {
        "x": draw(batch, seq_len, 2 * channels)[..., :channels],
        "weight": draw(channels, d_conv, dtype=torch.float32),
        "bias": draw(channels, dtype=torch.float32),
        "initial_state": draw(batch, d_conv - 1, channels),
    }


def check(operands: Named, tolerance: dict[str, float], **options: object) -> None:
    options = {"activation": "silu", "return_last_state": True, **options}
    found = outputs_and_gradients(gpu.causal_conv1d, operands, **options)
    expected = outputs_and_gradients(
        reference.causal_conv1d, operands, dtype=torch.float64, **options
    )
    assert_all_close(found, expected, **tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("batch", "seq_len", "channels"),
    [
        (1, 1, 1),
        (2, 2, 3),
        (3, 3, 16),
        (2, 4, 96),
        (1, 63, 3),
        (2, 64, 1),
        (1, 65, 16),
        (1, 200, 3),
    ],
)
def test_every_length_in_both_directions(batch, seq_len, channels, reverse):
    check(draw_operands(batch, seq_len, channels), FLOAT32, reverse=reverse)


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4])
def test_every_width(d_conv, activation):
    check(draw_operands(2, 35, 5, d_conv), FLOAT32, activation=activation)


@pytest.mark.parametrize("without", [("bias",), ("initial_state",), ("bias", "initial_state")])
def test_without_bias_and_state(without):
    operands = {**draw_operands(1, 33, 5), **dict.fromkeys(without)}
    check(operands, FLOAT32, reverse=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype):
    # 300 channels are more than one block.
    check(draw_operands(1, 37, 300, dtype=dtype), BFLOAT16)


def test_bfloat16_parameters_get_bfloat16_gradients():
    operands = draw_operands(1, 9, 16, dtype=torch.bfloat16)
    operands = {name: tensor.bfloat16() for name, tensor in operands.items()}
    check(operands, BFLOAT16)


def test_the_last_state_alone_has_gradients():
    operands = draw_operands(1, 2, 3)
    x, state = operands["x"].requires_grad_(), operands["initial_state"].requires_grad_()
    _, last = gpu.causal_conv1d(**operands, return_last_state=True)
    d_x, d_state = torch.autograd.grad(last.sum(), [x, state])
    # Three inputs are kept, two of x and the newest of the state before.
    assert (d_x == 1).all()
    assert d_state.sum((0, 2)).tolist() == [0, 0, 3]


def test_gradients_of_an_expanded_sum():
    operands = draw_operands(2, 9, 5)
    x = operands["x"].requires_grad_()
    (found,) = torch.autograd.grad(gpu.causal_conv1d(**operands).sum(), [x])
    (expected,) = torch.autograd.grad(reference.causal_conv1d(**operands).sum(), [x])
    torch.testing.assert_close(found, expected)


def test_two_runs_are_identical():
    operands = draw_operands(2, 65, 3, dtype=torch.bfloat16)
    runs = [outputs_and_gradients(gpu.causal_conv1d, operands, activation="silu") for _ in "12"]
    assert_identical(*runs)


@pytest.mark.parametrize("reverse", [False, True])
def test_the_gradient_of_x_can_be_written_into_half_of_a_buffer(reverse):
    operands = draw_operands(2, 37, 8)
    x, weight = operands["x"], operands["weight"]
    d_out = Draw(seed=5)(2, 37, 8)
    arguments = (d_out, None, x, weight, None, None, True, reverse)
    with poisoned_memory():
        alone, buffer = torch.empty_like(x), torch.empty(2, 37, 16, device=DEVICE)
        gpu.backward(alone, *arguments)
        gpu.backward(buffer[..., 8:], *arguments)
    assert torch.equal(buffer[..., 8:], alone)
    assert buffer[..., :8].isnan().all()


@pytest.mark.parametrize("reverse", [False, True])
def test_goes_on_from_a_state_bit_for_bit(reverse):
    operands = draw_operands(1, 70, 5)
    options = {"activation": "silu", "return_last_state": True, "reverse": reverse}
    whole, whole_state = gpu.causal_conv1d(**operands, **options)
    parts, outs, state = operands["x"].split([33, 2, 35], 1), [], operands["initial_state"]
    for x in reversed(parts) if reverse else parts:
        out, state = gpu.causal_conv1d(**{**operands, "x": x, "initial_state": state}, **options)
        outs.append(out)
    assert torch.equal(torch.cat(outs[::-1] if reverse else outs, 1), whole)
    assert torch.equal(state, whole_state)


@pytest.mark.parametrize("complete", [True, False])
def test_registered_operators_pass_torchs_checks(complete):
    operands = draw_operands(1, 5, 8)
    if not complete:
        operands.update(bias=None, initial_state=None)
    x, weight, bias, state = operands.values()
    given = [t if t is None else t.clone().requires_grad_() for t in operands.values()]
    torch.library.opcheck(gpu.forward, (*given, True, False))
    d_out, d_last = Draw(seed=5)(1, 5, 8), Draw(seed=6)(1, 3, 8) if complete else None
    arguments = (d_out, d_last, x, weight, bias, state, True, False)
    torch.library.opcheck(gpu.backward, (torch.zeros_like(d_out), *arguments))


@pytest.mark.gpu
def test_auto_takes_the_kernels_on_a_gpu_and_what_they_refuse_goes_elsewhere():
    operands = draw_operands(1, 9, 8)
    expected = gpu.causal_conv1d(**operands)
    assert torch.equal(causal_conv1d(**operands, backend="triton"), expected)
    assert torch.equal(causal_conv1d(**operands), expected)
    wide = {**operands, "weight": torch.ones(8, 7, device=DEVICE), "initial_state": None}
    with pytest.raises(RuntimeError, match="the kernels take at most 4 taps, weight has 7"):
        causal_conv1d(**wide, backend="triton")
    assert torch.equal(causal_conv1d(**wide), causal_conv1d(**wide, backend="reference"))


@pytest.mark.gpu
def test_compiled_code_gives_the_same_numbers():
    operands = draw_operands(2, 100, 64, dtype=torch.bfloat16)
    compiled = torch.compile(gpu.causal_conv1d, fullgraph=True)
    options = {"activation": "silu", "return_last_state": True}
    found = outputs_and_gradients(compiled, operands, **options)
    assert_identical(found, outputs_and_gradients(gpu.causal_conv1d, operands, **options))


@pytest.mark.gpu
def test_more_than_two_billion_elements():
    seq_len = 2**31 // 512 + 100
    x = torch.zeros(1, seq_len, 512, dtype=torch.bfloat16, device=DEVICE)
    x[:, -50:] = Draw(seed=7)(1, 50, 512)
    weight = Draw(seed=8)(512, 4)
    tail = gpu.causal_conv1d(x[:, -60:], weight, activation="silu")[:, 10:]
    assert torch.equal(gpu.causal_conv1d(x, weight, activation="silu")[:, -50:], tail)
    out = gpu.causal_conv1d(x, weight, reverse=True)
    assert torch.equal(out[:, -50:], gpu.causal_conv1d(x[:, -60:], weight, reverse=True)[:, 10:])


@pytest.mark.skipif(DEVICE == "cuda", reason="says what happens without a CUDA device")
def test_tensors_of_the_cpu_are_refused():
    operands = draw_operands(1, 9, 8)
    with pytest.raises(RuntimeError, match="needs a CUDA device, the tensors are on cpu"):
        causal_conv1d(**operands, backend="triton")
    out = causal_conv1d(**operands)
    assert torch.equal(out, causal_conv1d(**operands, backend="reference"))
