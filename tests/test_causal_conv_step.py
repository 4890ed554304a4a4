"""One step of the short convolution: what it gives itself, from a state updated in place."""

import logging

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dnamamba.kernels import backend as backend_module
from dnamamba.kernels import causal_conv1d, causal_conv1d_step


def draw_operands(
    batch: int = 2, channels: int = 5, d_conv: int = 4, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "x": draw(batch, channels),
        "weight": draw(channels, d_conv),
        "bias": draw(channels),
        "state": draw(batch, d_conv - 1, channels),
    }


def convolve_one_step(operands: dict[str, Tensor], activation: str | None) -> tuple[Tensor, Tensor]:
    """The same by the whole convolution: output and last inputs."""
    x, state = operands["x"].unsqueeze(1), operands["state"]
    out, last = causal_conv1d(
        x, operands["weight"], operands.get("bias"), activation, state, return_last_state=True
    )
    return out.squeeze(1), last


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("d_conv", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (3, 5), (2, 96)])
def test_step_is_one_step_of_the_convolution(batch, channels, d_conv, activation, dtype):
    operands = draw_operands(batch, channels, d_conv, dtype)
    expected, last = convolve_one_step(operands, activation)
    out = causal_conv1d_step(**operands, activation=activation)
    torch.testing.assert_close(out, expected)
    assert torch.equal(operands["state"], last)


def test_step_without_bias():
    operands = draw_operands()
    del operands["bias"]
    expected, _ = convolve_one_step(operands, "silu")
    torch.testing.assert_close(causal_conv1d_step(**operands, activation="silu"), expected)


def test_steps_one_after_another_are_the_convolution():
    operands = draw_operands()
    state = operands.pop("state")
    x = torch.stack([operands["x"] * t for t in range(9)], 1)
    whole, last = causal_conv1d(
        **{**operands, "x": x}, initial_state=state, activation="silu", return_last_state=True
    )
    outs = [
        causal_conv1d_step(**{**operands, "x": x[:, t]}, activation="silu", state=state)
        for t in range(9)
    ]
    torch.testing.assert_close(torch.stack(outs, 1), whole)
    assert torch.equal(state, last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_step_computes_half_precision_in_float32(dtype):
    narrow = draw_operands(dtype=dtype)
    wide = {name: tensor.float() for name, tensor in narrow.items()}
    out = causal_conv1d_step(**narrow, activation="silu")
    expected = causal_conv1d_step(**wide, activation="silu")
    assert torch.equal(out, expected.to(dtype))
    assert torch.equal(narrow["state"], wide["state"].to(dtype))


def test_step_takes_a_state_wider_than_x():
    operands = draw_operands(dtype=torch.bfloat16)
    operands["state"] = operands["state"].float() * 1.001
    expected, _ = convolve_one_step(operands, None)
    kept = operands["state"][:, 1:].clone()
    assert torch.equal(causal_conv1d_step(**operands), expected)
    assert torch.equal(operands["state"][:, :2], kept)
    assert torch.equal(operands["state"][:, 2], operands["x"].float())


def test_step_takes_half_of_a_projection_and_a_state_of_any_strides():
    operands = draw_operands()
    expected = {name: tensor.clone() for name, tensor in operands.items()}
    expected_out = causal_conv1d_step(**expected)
    operands["x"] = torch.cat([operands["x"], operands["x"]], -1)[:, :5]
    operands["state"] = operands["state"].mT.contiguous().mT
    assert torch.equal(causal_conv1d_step(**operands), expected_out)
    assert torch.equal(operands["state"], expected["state"])


def test_step_changes_the_state_in_place_and_nothing_else():
    operands = draw_operands()
    before = {name: tensor.clone() for name, tensor in operands.items()}
    place = operands["state"].data_ptr()
    causal_conv1d_step(**operands, activation="silu")
    assert operands["state"].data_ptr() == place
    changed = {name for name, tensor in operands.items() if not torch.equal(tensor, before[name])}
    assert changed == {"state"}


def test_step_of_parameters_without_gradients_wanted():
    operands = draw_operands()
    operands["weight"] = torch.nn.Parameter(operands["weight"])
    with torch.no_grad():
        assert not causal_conv1d_step(**operands).requires_grad
    with pytest.raises(RuntimeError, match=r"weight requires grad: .*no_grad.*use causal_conv1d$"):
        causal_conv1d_step(**operands)


def test_step_sees_fake_tensors():
    with FakeTensorMode() as mode:
        fake = {name: mode.from_tensor(tensor) for name, tensor in draw_operands().items()}
        assert causal_conv1d_step(**fake).shape == (2, 5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(2, 1, 5)}, ValueError, r"x must be \(B, D\) with no size of 0"),
        ({"x": torch.zeros(2, 5).int()}, TypeError, "x must be real floating, got .*int32"),
        ({"weight": torch.zeros(4, 5)}, ValueError, r"weight must be \(D, K\)"),
        ({"bias": torch.zeros(4)}, ValueError, r"bias must be \(5,\) to fit x \(2, 5\), got \(4,"),
        ({"activation": "relu"}, ValueError, "activation must be None or 'silu', got 'relu'"),
        ({"state": torch.zeros(2, 4, 5)}, ValueError, r"state must be \(2, 3, 5\) to fit x"),
        ({"state": torch.zeros(1, 1, 5).expand(2, 3, 5)}, ValueError, "of state share memory"),
        ({"state": torch.zeros(2, 3, 5).half()}, TypeError, "state must be torch.float32 as x is"),
        ({"weight": torch.zeros(5, 4).int()}, TypeError, "weight must be real floating"),
        ({"bias": torch.zeros(5, device="meta")}, ValueError, "bias is on meta, x on cpu; move"),
    ],
)  # fmt: skip
def test_wrong_operands_are_named_before_the_state_is_touched(changes, error, message):
    operands = draw_operands(dtype=torch.float32)
    before = operands["state"].clone()
    with pytest.raises(error, match=message):
        causal_conv1d_step(**{**operands, **changes})
    assert torch.equal(operands["state"], before)


def test_unknown_and_unable_backends_are_refused():
    operands = draw_operands(dtype=torch.float32)
    with pytest.raises(
        ValueError, match="backend must be one of auto, triton, reference, got 'cpu'"
    ):
        causal_conv1d_step(**operands, backend="cpu")
    with pytest.raises(RuntimeError, match="'triton' cannot run this: it needs a CUDA device"):
        causal_conv1d_step(**operands, backend="triton")
    with pytest.raises(RuntimeError, match="the kernels take at most 4 taps, weight has 5"):
        causal_conv1d_step(**draw_operands(d_conv=5, dtype=torch.float32), backend="triton")


def test_auto_says_what_it_takes(caplog, monkeypatch):
    monkeypatch.setattr(backend_module, "_taken", {})
    with caplog.at_level(logging.INFO, logger="dnamamba.kernels"):
        causal_conv1d_step(**draw_operands())
    assert "causal_conv1d_step on cpu: auto takes 'reference' (plain PyTorch, half" in caplog.text
