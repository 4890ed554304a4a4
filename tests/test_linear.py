"""The linear layer by oneDNN: what it computes, and when it is left to PyTorch."""

import pytest
import torch
from torch.nn import functional

from dnamamba.kernels import linear as module
from dnamamba.kernels.linear import FEWEST_ROWS, linear

# Whatever CPU the tests run on.
needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a PyTorch without oneDNN"
)


@pytest.fixture(autouse=True)
def _faster_onednn(monkeypatch):
    monkeypatch.setattr(module, "_has_faster_onednn", lambda: True)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_onednn(out: torch.Tensor) -> bool:
    return "OneDnn" in type(out.grad_fn).__name__


def run(operands: list[torch.Tensor], d_out: torch.Tensor) -> tuple[torch.Tensor, ...]:
    operands = [x.detach().requires_grad_() for x in operands]
    out = linear(*operands)
    assert by_onednn(out) == (out.dtype == torch.float32)
    return (out, *torch.autograd.grad(out, operands, d_out))


OPERANDS = {
    "plain": [draw(2, 150, 24), draw(40, 24)],
    "bias": [draw(2, 150, 24), draw(40, 24), draw(40)],
    "fewer outputs": [draw(2, 150, 24), draw(5, 24)],
    "columns of a projection": [draw(2, 150, 40)[..., :8], draw(64, 8)],
    "columns to fewer": [draw(2, 150, 40)[..., 8:], draw(5, 32)],
    "all but the last step": [draw(2, 151, 24)[:, :-1], draw(40, 24)],
    "transposed": [draw(24, 150, 2).transpose(0, 2), draw(24, 40).t()],
    "rows alone": [draw(300, 24), draw(40, 24)],
}


@needs_onednn
@pytest.mark.parametrize("d_out", ["dense", "columns", "one number"])
@pytest.mark.parametrize("operands", OPERANDS.values(), ids=OPERANDS)
def test_output_and_gradients_are_those_of_float64(operands, d_out):
    shape = (*operands[0].shape[:-1], operands[1].shape[0])
    gradients = {
        "dense": draw(*shape),
        "columns": draw(*shape[:-1], shape[-1] + 3)[..., 3:],
        "one number": torch.ones(()).expand(shape),
    }
    results = run(operands, gradients[d_out])
    expected = run([x.double() for x in operands], gradients[d_out].double())
    for got, wanted in zip(results, expected, strict=True):
        worst = (got - wanted).abs().max() / wanted.abs().max()
        assert worst < 3e-6


@needs_onednn
def test_no_gradient_is_made_that_nobody_wants():
    x, weight = draw(FEWEST_ROWS, 4), draw(3, 4).requires_grad_()
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 4))
    assert x.grad is None


@pytest.mark.parametrize(
    "x",
    [draw(FEWEST_ROWS - 1, 4), draw(FEWEST_ROWS, 4).double(), draw(4), draw(FEWEST_ROWS, 0)],
    ids=["few rows", "float64", "one row", "nothing"],
)
def test_what_does_not_suit_is_left_to_pytorch(x):
    weight = draw(3, x.shape[-1]).to(x.dtype).requires_grad_()
    out = linear(x, weight)
    assert not by_onednn(out)
    assert torch.equal(out, functional.linear(x, weight))


def test_autocast_has_its_dtype():
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(draw(FEWEST_ROWS, 4), draw(3, 4)).dtype == torch.bfloat16


def test_operands_that_do_not_fit_are_pytorchs_to_refuse():
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        linear(draw(FEWEST_ROWS, 4), draw(3, 5))
    with pytest.raises(RuntimeError, match="expand"):
        linear(draw(FEWEST_ROWS, 4), draw(3, 4), draw(2))
