"""The Triton kernels of add + norm against the plain one in float64."""

import pytest
import torch

from dnamamba.kernels import add_norm
from dnamamba.kernels.norm import reference
from triton_cases import (
    BFLOAT16,
    DEVICE,
    FLOAT32,
    TRITON_TEST,
    Draw,
    Named,
    assert_all_close,
    assert_identical,
    crossed,
    outputs_and_gradients,
)

gpu = pytest.importorskip("dnamamba.kernels.norm.gpu", reason="needs triton", exc_type=ImportError)

pytestmark = TRITON_TEST

RMS = {"eps": 1e-5, "kind": "rms", "residual_dtype": torch.float32, "out_dtype": torch.float32}
LAYER = {**RMS, "kind": "layer"}
WIDE = {"residual_dtype": torch.float64, "out_dtype": torch.float64}


def draw_operands(n_rows: int, d_model: int, dtype: torch.dtype = torch.float32) -> Named:
    """A block's output of some dtype, the residual stream in float32.

    The stream slopes, or some row of three would be nearly constant: LayerNorm divides by its
    deviation, and magnifies what was rounded.
    """
    draw = Draw(seed=n_rows)
    slope = torch.linspace(-4, 4, d_model, device=DEVICE)
    return {
        "x": draw(n_rows, d_model).to(dtype),
        "residual": draw(n_rows, d_model) + slope,
        "weight": draw(d_model),
        "bias": draw(d_model),
    }


def check(operands: Named, tolerance: dict[str, float], **options: object) -> None:
    found = outputs_and_gradients(gpu.add_norm, operands, **options)
    wide = {**options, **WIDE}
    expected = outputs_and_gradients(reference.add_norm, operands, dtype=torch.float64, **wide)
    assert_all_close(found, expected, **tolerance)


@pytest.mark.parametrize("options", [RMS, LAYER], ids=["rms", "layer"])
@pytest.mark.parametrize(("n_rows", "d_model"), crossed([1, 2, 3, 64, 65, 200], [3, 16, 96, 200]))
def test_every_shape(n_rows, d_model, options):
    operands = draw_operands(n_rows, d_model)
    if options is RMS:
        operands["bias"] = None
    check(operands, FLOAT32, **options)


def test_rows_of_one_number_keep_their_sign():
    x = torch.tensor([[3.0], [-5.0]], device=DEVICE)
    normed, _ = gpu.add_norm(x, None, torch.full((1,), 2.0, device=DEVICE), None, **RMS)
    torch.testing.assert_close(normed, 2 * x.sign())


@pytest.mark.parametrize("options", [RMS, LAYER], ids=["rms", "layer"])
def test_rows_of_4096(options):
    operands = {**draw_operands(3, 4096), "bias": None}
    check(operands, FLOAT32, **options)


@pytest.mark.parametrize("with_residual", [True, False])
def test_bfloat16_from_a_block_and_for_the_next(with_residual):
    operands = {**draw_operands(37, 96, torch.bfloat16), "bias": None}
    if not with_residual:
        operands["residual"] = None
    options = {**RMS, "out_dtype": torch.bfloat16}
    found = outputs_and_gradients(gpu.add_norm, operands, **options)
    assert found["output 0"].dtype == torch.bfloat16
    assert found["output 1"].dtype == torch.float32
    check(operands, BFLOAT16, **options)


def test_the_stream_may_be_bfloat16_and_is_rounded_before_the_norm():
    operands = {**draw_operands(5, 96, torch.bfloat16), "bias": None}
    options = {**RMS, "residual_dtype": torch.bfloat16}
    found = outputs_and_gradients(gpu.add_norm, operands, **options)
    assert found["output 1"].dtype == torch.bfloat16
    assert found["d residual"].dtype == torch.float32
    rounded = {**operands, "x": found["output 1"], "residual": None}
    normed = reference.add_norm(*rounded.values(), **RMS)[0]
    torch.testing.assert_close(found["output 0"], normed)


def test_many_tiles_a_program(monkeypatch):
    monkeypatch.setattr(gpu, "PROGRAMS", 2)
    check(draw_operands(300, 50), FLOAT32, **LAYER)


@pytest.mark.parametrize("output", [0, 1])
def test_one_output_alone_has_gradients(output):
    operands = {**draw_operands(7, 24), "bias": None}
    leaves = [t.requires_grad_() for t in operands.values() if t is not None]
    results = []
    for op in (gpu.add_norm, reference.add_norm):
        out = op(**operands, **RMS)[output].square().sum()
        results.append(torch.autograd.grad(out, leaves, materialize_grads=True))
    torch.testing.assert_close(*results)


def test_strided_rows_of_three_axes():
    draw = Draw()
    operands = {
        "x": draw(2, 5, 48)[..., :24],
        "residual": draw(5, 2, 24).transpose(0, 1),
        "weight": draw(24),
        "bias": None,
    }
    check(operands, FLOAT32, **RMS)


def test_two_runs_are_identical():
    operands = draw_operands(200, 96, torch.bfloat16)
    assert_identical(*(outputs_and_gradients(gpu.add_norm, operands, **LAYER) for _ in "12"))


@pytest.mark.parametrize("complete", [True, False])
def test_registered_operators_pass_torchs_checks(complete):
    operands = draw_operands(4, 16)
    if not complete:
        operands.update(residual=None, bias=None)
    given = [t if t is None else t.clone().requires_grad_() for t in operands.values()]
    dtypes = (torch.float32, torch.bfloat16)
    torch.library.opcheck(gpu.forward, (*given, 1e-5, False, *dtypes))
    x, residual, weight, bias = operands.values()
    arguments = (x, residual, x, weight, bias, 1e-5, False, torch.float32)
    residual_dtype = torch.float32 if complete else None
    torch.library.opcheck(gpu.backward, (*arguments, residual_dtype))


@pytest.mark.gpu
def test_auto_takes_the_kernels_on_a_gpu():
    x, residual, weight, _ = draw_operands(9, 64, torch.bfloat16).values()
    options = {**RMS, "out_dtype": torch.bfloat16}
    expected = gpu.add_norm(x, residual, weight, None, **options)
    assert torch.equal(add_norm(x, residual, weight)[0], expected[0])
    assert torch.equal(add_norm(x, residual, weight, backend="triton")[1], expected[1])
    wide = torch.ones(1, 5000, device=DEVICE)
    with pytest.raises(RuntimeError, match="rows of at most 4096, got 5000"):
        add_norm(wide, None, wide[0], backend="triton")


@pytest.mark.gpu
def test_compiled_code_gives_the_same_numbers():
    operands = draw_operands(100, 64, torch.bfloat16)
    compiled = torch.compile(gpu.add_norm, fullgraph=True)
    found = outputs_and_gradients(compiled, operands, **LAYER)
    assert_identical(found, outputs_and_gradients(gpu.add_norm, operands, **LAYER))


@pytest.mark.gpu
def test_more_than_two_billion_elements():
    n_rows = 2**31 // 256 + 100
    x = torch.ones(n_rows, 256, dtype=torch.bfloat16, device=DEVICE)
    x[-50:] = Draw(seed=7)(50, 256)
    weight = Draw(seed=8)(256)
    options = {**RMS, "residual_dtype": torch.bfloat16, "out_dtype": torch.bfloat16}
    normed, total = gpu.add_norm(x, None, weight, None, **options)
    tail, _ = gpu.add_norm(x[-50:], None, weight, None, **options)
    assert torch.equal(normed[-50:], tail)
    assert torch.equal(total[-50:], x[-50:])
