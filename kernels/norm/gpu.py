"""`add_norm` in Triton: one pass over memory each way.

A program takes a tile of whole rows. The backward has the sum alone and finds mean and reciprocal
root again from the row in its registers, which costs a reduction and no memory. Its programs take
many tiles each and keep their rows' part of the weight's gradient in registers; the parts are added
up once, in a fixed order.

R rows, D d_model.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dnamamba.kernels.launcher import dense_or, launch
from dnamamba.kernels.operators import differentiable, operator

TILE = 2048
"""Numbers of a tile: 16 a thread."""

PROGRAMS = 8192
"""Most partial sums of the weight's gradient."""


@triton.jit
def _standardise(rows, is_inside, d_model, eps, IS_RMS: tl.constexpr):
    """Rows with mean square 1 (and mean 0 unless IS_RMS), and what they were multiplied by."""
    if not IS_RMS:
        mean = tl.sum(rows, axis=1) / d_model
        rows = tl.where(is_inside, rows - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(rows * rows, axis=1) / d_model + eps)  # [BR]
    return rows * scale[:, None], scale


@triton.jit
def _forward_kernel(
    x, residual, weight, bias, normed, total, n_rows, d_model, x_step, residual_step, eps,
    IS_RMS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_BIAS: tl.constexpr,
    BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]  # [BR, 1]
    column = tl.arange(0, BD)[None, :]  # [1, BD]
    is_column = column < d_model
    is_inside = (row < n_rows) & is_column  # [BR, BD]
    rows = tl.load(x + row * x_step + column, mask=is_inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        before = tl.load(residual + row * residual_step + column, mask=is_inside, other=0.0)
        rows += before.to(total.dtype.element_ty).to(tl.float32)
    rounded = rows.to(total.dtype.element_ty)
    tl.store(total + row * d_model + column, rounded, mask=is_inside)
    rows, _ = _standardise(rounded.to(tl.float32), is_inside, d_model, eps, IS_RMS)
    rows *= tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    if HAS_BIAS:
        rows += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    tl.store(normed + row * d_model + column, rows.to(normed.dtype.element_ty), mask=is_inside)


@triton.jit
def _backward_kernel(
    d_normed, d_total, total, weight, d_x, d_residual, sums,
    n_rows, d_model, d_normed_step, d_total_step, eps, n_tiles,
    IS_RMS: tl.constexpr, HAS_D_TOTAL: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_BIAS: tl.constexpr, BR: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BD)[None, :]  # [1, BD]
    is_column = column < d_model
    factor = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    d_weight = tl.zeros([BR, BD], tl.float32)
    d_bias = tl.zeros([BR, BD], tl.float32)
    for tile in range(tl.program_id(0), n_tiles, tl.num_programs(0)):
        row = tl.cast(tile, tl.int64) * BR + tl.arange(0, BR)[:, None]  # [BR, 1]
        is_inside = (row < n_rows) & is_column  # [BR, BD]
        offset = row * d_model + column
        rows = tl.load(total + offset, mask=is_inside, other=0.0).to(tl.float32)
        d_out = tl.load(d_normed + row * d_normed_step + column, mask=is_inside, other=0.0)
        d_out = d_out.to(tl.float32)
        d_rows = tl.zeros([BR, BD], tl.float32)
        if HAS_D_TOTAL:
            d_later = tl.load(d_total + row * d_total_step + column, mask=is_inside, other=0.0)
            d_rows += d_later.to(tl.float32)
        rows, scale = _standardise(rows, is_inside, d_model, eps, IS_RMS)
        d_weight += d_out * rows
        if HAS_BIAS:
            d_bias += d_out
        d_out *= factor
        along = tl.sum(d_out * rows, axis=1) / d_model  # [BR]
        d_out -= rows * along[:, None]
        if not IS_RMS:
            # The mean of rows is 0, so that the subtraction before has not changed this one.
            d_out -= (tl.sum(d_out, axis=1) / d_model)[:, None]
        d_rows += d_out * scale[:, None]
        tl.store(d_x + offset, d_rows.to(d_x.dtype.element_ty), mask=is_inside)
        if HAS_RESIDUAL:
            tl.store(d_residual + offset, d_rows.to(d_residual.dtype.element_ty), mask=is_inside)
    column = tl.arange(0, BD)  # [BD]
    n_sums: tl.constexpr = 2 if HAS_BIAS else 1
    part = sums + tl.program_id(0).to(tl.int64) * n_sums * d_model + column
    tl.store(part, tl.sum(d_weight, axis=0), mask=column < d_model)
    if HAS_BIAS:
        tl.store(part + d_model, tl.sum(d_bias, axis=0), mask=column < d_model)


@operator("dnamamba::add_norm", fake=lambda x, *others: _empty_outputs(x, *others[-2:]))
def forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float,
    is_rms: bool, residual_dtype: torch.dtype, out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(normed, sum), both of x's shape."""
    normed, total = _empty_outputs(x, residual_dtype, out_dtype)
    rows, before = _as_rows(x), None if residual is None else _as_rows(residual)
    n_rows, d_model = rows.shape
    tile = _tile(d_model)
    with torch.cuda.device_of(x):
        launch(
            _forward_kernel, (triton.cdiv(n_rows, tile["BR"]),),
            rows, rows if before is None else before,
            weight.contiguous(), dense_or(bias, weight), normed, total,
            n_rows, d_model, rows.stride(0), 0 if before is None else before.stride(0), eps,
            IS_RMS=is_rms, HAS_RESIDUAL=before is not None, HAS_BIAS=bias is not None, **tile,
        )  # fmt: skip
    return normed, total


@operator(
    "dnamamba::add_norm_backward",
    fake=lambda d_normed, d_total, *given: _empty_gradients(*given[:3], *given[-2:]),
)
def backward(
    d_normed: Tensor, d_total: Tensor | None, total: Tensor, weight: Tensor, bias: Tensor | None,
    eps: float, is_rms: bool, x_dtype: torch.dtype, residual_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of x, residual, weight and bias, empty if left out.

    residual_dtype: None without a residual.
    """
    d_x, d_residual, d_weight, d_bias = _empty_gradients(
        total, weight, bias, x_dtype, residual_dtype
    )
    d_out, d_later = _as_rows(d_normed), None if d_total is None else _as_rows(d_total)
    n_rows, d_model = d_out.shape
    tile = _tile(d_model)
    n_tiles = triton.cdiv(n_rows, tile["BR"])
    n_programs = min(n_tiles, PROGRAMS)
    n_sums = 1 if bias is None else 2
    sums = total.new_empty((n_programs, n_sums, d_model), dtype=torch.float32)
    with torch.cuda.device_of(total):
        launch(
            _backward_kernel, (n_programs,),
            d_out, d_out if d_later is None else d_later, total, weight.contiguous(),
            d_x, d_residual, sums, n_rows, d_model,
            d_out.stride(0), 0 if d_later is None else d_later.stride(0), eps, n_tiles,
            IS_RMS=is_rms, HAS_D_TOTAL=d_later is not None,
            HAS_RESIDUAL=residual_dtype is not None, HAS_BIAS=bias is not None, **tile,
        )  # fmt: skip
    added = sums.sum(0)
    d_weight.copy_(added[0])
    if bias is not None:
        d_bias.copy_(added[1])
    return d_x, d_residual, d_weight, d_bias


def _as_rows(x: Tensor) -> Tensor:
    """Turn x into (R, D) with dense rows, a view if possible."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _tile(d_model: int) -> dict[str, int]:
    """Return rows, columns and warps of a tile."""
    width = triton.next_power_of_2(max(16, d_model))
    return {"BR": max(1, TILE // width), "BD": width, "num_warps": 4}


def _empty_outputs(
    x: Tensor, residual_dtype: torch.dtype, out_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=out_dtype), x.new_empty(x.shape, dtype=residual_dtype)


def _empty_gradients(
    total: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = 0 if residual_dtype is None else total.shape
    return (
        total.new_empty(total.shape, dtype=x_dtype),
        total.new_empty(shape, dtype=residual_dtype or x_dtype),
        weight.new_empty(weight.shape),
        weight.new_empty(0) if bias is None else bias.new_empty(bias.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, ctx.eps, ctx.is_rms, *_ = inputs
    ctx.dtypes = (x.dtype, None if residual is None else residual.dtype)
    ctx.save_for_backward(output[1], weight, bias)


def _differentiate(ctx: Any, d_normed: Tensor | None, d_total: Tensor | None) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors
    d_normed = torch.zeros_like(saved[0]) if d_normed is None else d_normed
    gradients: tuple[Tensor, ...] = backward(
        d_normed, d_total, *saved, ctx.eps, ctx.is_rms, *ctx.dtypes
    )
    return gradients


normalise = differentiable(forward, _save, _differentiate)


def add_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, kind: str,
    residual_dtype: torch.dtype, out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`kernels.add_norm` on CUDA tensors, or on any in Triton's interpreter."""
    normed, total = normalise(
        x, residual, weight, bias, eps, kind == "rms", residual_dtype, out_dtype
    )
    return normed, total
