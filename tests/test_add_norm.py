"""Residual addition and norm in one op: what it computes, in which dtypes, what it refuses."""

import pytest
import torch

from dnamamba.kernels import add_norm


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def test_rms_is_the_papers_formula():
    x, residual, weight = draw(2, 3, 8), draw(2, 3, 8) + 1, draw(8)
    normed, total = add_norm(x, residual, weight, eps=0.1)
    expected = x + residual
    torch.testing.assert_close(total, expected)
    scale = (expected.square().mean(-1, keepdim=True) + 0.1).rsqrt()
    torch.testing.assert_close(normed, expected * scale * weight)


def test_layer_takes_the_mean_off_and_adds_a_bias():
    x, weight, bias = draw(4, 8), draw(8), draw(8) + 1
    normed, total = add_norm(x, None, weight, bias, eps=0.1, kind="layer")
    assert torch.equal(total, x)
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 0.1).rsqrt()
    torch.testing.assert_close(normed, centred * scale * weight + bias)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_gradients_match_finite_differences(kind):
    operands = [draw(3, 5), draw(3, 5) + 1, draw(5)]

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return add_norm(*tensors, kind=kind)

    assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in operands])


def test_the_stream_is_float32_and_what_is_normed_fits_the_next_product():
    x, residual, weight = draw(3, 8, dtype=torch.bfloat16), draw(3, 8).float(), draw(8).float()
    normed, total = add_norm(x, residual, weight)
    assert (normed.dtype, total.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(total, residual + x)
    with torch.autocast("cpu", torch.bfloat16):
        assert add_norm(residual, None, weight)[0].dtype == torch.bfloat16
        assert add_norm(residual.double(), None, weight)[0].dtype == torch.float64
    assert add_norm(x, residual, weight, out_dtype=torch.float32)[0].dtype == torch.float32


def test_the_stream_may_have_the_blocks_dtype():
    x, residual, weight = draw(3, 8, dtype=torch.bfloat16), draw(3, 8).float(), draw(8).float()
    _, total = add_norm(x, residual, weight, residual_in_fp32=False)
    assert torch.equal(total, residual.bfloat16() + x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(0, 8)}, r"x must be \(..., D\) with no size of 0, got \(0, 8\)"),
        ({"x": torch.zeros(2, 8).long()}, "x must be real floating, got torch.int64"),
        ({"residual": torch.zeros(1, 8)}, r"residual must be \(2, 8\) to fit x \(2, 8\), got"),
        ({"weight": torch.zeros(7)}, r"weight must be \(8,\) to fit x \(2, 8\), got \(7,\)"),
        ({"bias": torch.zeros(8)}, "'rms' has no bias; leave it out or use kind 'layer'"),
        ({"bias": torch.zeros(2, 8), "kind": "layer"}, r"bias must be \(8,\)"),
        ({"weight": torch.zeros(8, device="meta")}, "weight is on meta, x on cpu; move one"),
        ({"kind": "batch"}, "kind must be 'rms' or 'layer', got 'batch'"),
        ({"eps": 0.0}, "eps must be > 0, got 0.0"),
    ],
)
def test_wrong_operands_are_named(changes, message):
    operands = {"x": torch.zeros(2, 8), "residual": None, "weight": torch.zeros(8)}
    with pytest.raises((ValueError, TypeError), match=message):
        add_norm(**{**operands, **changes})


def test_a_backend_that_cannot_run_is_refused():
    x = torch.zeros(2, 8)
    with pytest.raises(RuntimeError, match="'triton' cannot run this: it needs a CUDA device"):
        add_norm(x, None, x[0], backend="triton")
    with pytest.raises(
        ValueError, match="backend must be one of auto, triton, reference, got 'cuda'"
    ):
        add_norm(x, None, x[0], backend="cuda")
