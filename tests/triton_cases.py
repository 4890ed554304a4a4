"""How Triton kernels are tested: the same tests on every machine.

A test module of kernels says, after its imports,

    pytestmark = TRITON_TEST

and draws its tensors on DEVICE. Where there is a CUDA device the kernels are compiled, and the
tests carry the mark `gpu`, so that `pytest -m gpu` runs these alone. Where there is none they run
in Triton's interpreter, on tensors of the CPU, as a part of every `pytest`: conftest.py asks Triton
for that before anything imports it. (Kernels are called through their `gpu` module; the public ops
do not send a CPU's tensors there.) What needs a real device is marked `gpu` by itself.

The interpreter takes about a millisecond for ten operations of a program, whatever the block: draw
few programs and short sequences, and mark as full(...) the cases that others cover. It does not
compile, so nothing here speaks of registers or of types that only the compiler checks.
"""

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from dnamamba.kernels.scan.reference import ScanOperands
from golden_files import assert_close

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

TRITON_TEST = [pytest.mark.gpu] if DEVICE == "cuda" else []

with contextlib.suppress(ImportError):
    from triton.runtime import interpreter

    # It would try every sum and product of integers in int64 too, which takes half of the time.
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(
        sanitize_overflow=False
    )

FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}
"""Rounding 2^-24 an operation, in sums of a few hundred terms."""

BFLOAT16 = {"rtol": 2**-8 if DEVICE == "cuda" else 2**-7, "atol": 1e-5}
"""Computed in float32, one rounding where it is stored: by 2^-9, the interpreter's by 2^-8, as it
rounds towards zero."""

full = functools.partial(pytest.param, marks=pytest.mark.full)
"""A case that the interpreter leaves out, but for `pytest --full`: others show the same."""


def crossed(*axes: Sequence[object]) -> list[ParameterSet]:
    """Cases with every combination of values; those beyond a diagonal, which has all, are full."""
    diagonal = {
        tuple(axis[n % len(axis)] for axis in axes) for n in range(max(len(axis) for axis in axes))
    }
    combinations = itertools.product(*axes)
    return [pytest.param(*case) if case in diagonal else full(*case) for case in combinations]


Named = dict[str, Tensor | None]


class Draw:
    """Normally distributed tensors on DEVICE, the same on every machine and for every dtype."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator)
        return drawn.to(DEVICE, dtype or self.dtype)


def outputs_and_gradients(
    op: Callable[..., Any], operands: Named, dtype: torch.dtype | None = None, **options: Any
) -> dict[str, Tensor]:
    """An op's outputs by number and its gradients by operand, for fixed gradients of the outputs.

    dtype: what the operands are widened to, None to leave them. Freshly allocated memory is NaN
    meanwhile, so that what a kernel forgets to write is seen.
    """
    given = {
        name: None if tensor is None else _as_leaf(tensor, dtype)
        for name, tensor in operands.items()
    }
    with poisoned_memory():
        found = op(**given, **options)
        outs = found if isinstance(found, tuple) else (found,)
        draw = Draw(seed=1)
        # Rounded alike for every dtype, or the op would be judged by its gradients' rounding.
        d_outs = [draw(*out.shape).bfloat16().to(out.dtype) for out in outs]
        leaves = {name: tensor for name, tensor in given.items() if tensor is not None}
        gradients = torch.autograd.grad(outs, list(leaves.values()), d_outs, allow_unused=True)
    named = {f"output {n}": out.detach() for n, out in enumerate(outs)}
    for name, tensor, gradient in zip(leaves, leaves.values(), gradients, strict=True):
        named[f"d {name}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return named


def scan_by(run: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's scan with the arguments of `kernels.selective_scan`."""

    def scan(
        *, delta_softplus=False, initial_state=None, return_last_state=False, reverse=False, **given
    ):
        out, last = run(ScanOperands(**given, state=initial_state), delta_softplus, reverse)
        return (out, last) if return_last_state else out

    return scan


def scan_step_by(run: Callable[..., Any]) -> Callable[..., Any]:
    """A backend's step with the arguments of `kernels.selective_scan_step`."""
    return lambda *, delta_softplus=False, **given: run(ScanOperands(**given), delta_softplus)


def _as_leaf(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor of its own graph; of the same strides unless it is widened."""
    return tensor.detach().to(dtype or tensor.dtype).requires_grad_()


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill what torch.empty and its like return with NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def assert_all_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], *, rtol: float, atol: float
) -> None:
    """Every entry of every tensor within rtol of itself plus atol of its tensor's largest."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.numel() > 0:
            assert_close(found[name], tensor, rtol=rtol, atol=atol, what=name)


def assert_identical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def compile_for_an_h100(script: str) -> dict[str, dict[str, int]]:
    """What each kernel takes, as a script beside this file compiles them and prints it as JSON.

    Skips the test where Triton has no tool to read that with.
    """
    triton = pytest.importorskip("triton", reason="needs triton")
    if not (Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump").exists():
        pytest.skip("this Triton comes without NVIDIA's tools")
    command = [sys.executable, Path(__file__).with_name(script)]
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_nothing_spills(found: dict[str, dict[str, int]]) -> None:
    """And a multiprocessor has registers for 16 warps."""
    for name, taken in found.items():
        assert taken["stack"] == 0, f"{name} spills: {taken}"
        assert taken["registers"] <= 128, f"{name} leaves room for few programs: {taken}"
