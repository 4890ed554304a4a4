"""`selective_scan`: check, choose a backend, call. The only public function of this folder.

Shape letters: B batch, L seq_len, D channels, N states, G groups. Capital A, B, C, D are tensors.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from dnamamba.kernels.backend import Backend, refuse_nothing, refuse_triton, resolve_backend
from dnamamba.kernels.scan import chunked, cpu, reference


@functools.wraps(reference.selective_scan)  # for its signature
def _run_triton(*args: Any) -> Any:
    # Imported on first use: triton is not installed everywhere.
    from dnamamba.kernels.scan import gpu

    return gpu.selective_scan(*args)


def _refuse_triton(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    if B.dim() == 2 or C.dim() == 2 or B.shape != C.shape:
        return "B and C must vary in time, in the same groups; use backend='chunked'"
    return _refuse_complex(u, A, B, C) or refuse_triton(u)


def _refuse_complex(u: Tensor, A: Tensor, B: Tensor, C: Tensor) -> str | None:
    return "A is complex; use backend='reference'" if A.is_complex() else None


# Fastest first: `auto` takes the first that can.
BACKENDS = (
    Backend(name="cpu", run=cpu.selective_scan, refuse=cpu.refuse, is_fused=True),
    Backend(name="triton", run=_run_triton, refuse=_refuse_triton, is_fused=True),
    Backend(name="chunked", run=chunked.selective_scan, refuse=_refuse_complex, is_fused=False),
    Backend(name="reference", run=reference.selective_scan, refuse=refuse_nothing, is_fused=False),
)


def scan_backend(device: torch.device, dtype: torch.dtype, backend: str = "auto") -> str:
    """The backend that a Mamba layer's scan runs on, for operands of a dtype on a device.

    Raises ValueError and RuntimeError as `selective_scan` does for a backend named.
    """
    u = torch.empty(1, 1, 1, device=device, dtype=dtype)
    A = torch.empty(1, 1, device=device)
    return resolve_backend("selective_scan", backend, BACKENDS, u, A, u, u).name


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective state space recurrence of Mamba over (B, L, D), channels last.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t and y_t = C_t h_t (+ D u_t) (times silu(z_t)), with
    dt = delta, plus delta_bias, through softplus, as asked for. For complex A the states stand for
    conjugate pairs: y_t = 2 Re(C_t h_t).

    u, delta, z: (B, L, D), real.
    A: (D, N), real or complex. D, delta_bias: (D,), real.
    B, C: (B, L, N), grouped (B, L, G, N) where channel d uses group d // (D / G), or constant
    (D, N); complex exactly when A is.
    initial_state: (B, D, N), the state before the first step; zeros if None.
    return_last_state: return (out, last state) rather than out.
    reverse: run from the last step to the first; the initial state then comes before step L - 1
    and the last state is that of step 0.
    backend: "auto"; "cpu" (fused; real A, B and C that vary in time, float32 and narrower);
    "triton" (the same on CUDA); "chunked" (plain PyTorch, real A); or "reference" (the loop that
    defines it).

    Returns out (B, L, D) in u's dtype and, if asked for, the last state (B, D, N). Everything is
    computed in float32, or float64 if u is, and the state stays in it. Differentiable (once) in
    every tensor. Raises ValueError or TypeError for operands that do not fit together,
    RuntimeError where the backend named cannot take them.

    Source: Gu and Dao 2023 (arXiv 2312.00752), equations 1 and 2; state-spaces/mamba,
    mamba_ssm/ops/selective_scan_interface.py (there with L last).
    """
    _check_dtypes(
        A,
        real={"u": u, "delta": delta, "D": D, "z": z, "delta_bias": delta_bias},
        like_A={"B": B, "C": C, "initial_state": initial_state},
    )
    _check_devices(u, delta, A, B, C, D, z, delta_bias, initial_state)
    _check_shapes(u, delta, A, D, z, delta_bias, initial_state)
    _check_weights("B", B, u, A)
    _check_weights("C", C, u, A)
    run = resolve_backend("selective_scan", backend, BACKENDS, u, A, B, C).run
    # Autocast would round the states to bf16 wherever a product looks like a matmul.
    with torch.autocast(u.device.type, enabled=False):
        return run(
            u, delta, A, B, C, D, z, delta_bias, delta_softplus,
            initial_state, return_last_state, reverse,
        )  # fmt: skip


def _check_devices(u: Tensor, *others: Tensor | None) -> None:
    for tensor in others:
        if tensor is not None and tensor.device != u.device:
            raise ValueError(
                f"selective_scan: u is on {u.device}, an operand of shape {tuple(tensor.shape)} on "
                f"{tensor.device}; move one of them"
            )


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() != 3 or u.numel() == 0:
        raise ValueError(
            f"selective_scan: u must be (B, L, D) with no size of 0, got {tuple(u.shape)}"
        )
    batch, _, channels = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise ValueError(
            f"selective_scan: A must be (D, N) with D = {channels} as in u and N >= 1, got "
            f"{tuple(A.shape)}"
        )
    per_step, per_channel = tuple(u.shape), (channels,)
    expected: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("delta", delta, per_step),
        ("z", z, per_step),
        ("D", D, per_channel),
        ("delta_bias", delta_bias, per_channel),
        ("initial_state", initial_state, (batch, channels, A.shape[1])),
    )
    for name, tensor, shape in expected:
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"selective_scan: {name} must be {shape} to fit u {per_step} and "
                f"A {tuple(A.shape)}, got {tuple(tensor.shape)}"
            )


def _check_weights(name: str, weights: Tensor, u: Tensor, A: Tensor) -> None:
    batch, seq_len, channels = u.shape
    d_state, shape = A.shape[1], tuple(weights.shape)
    if shape == (channels, d_state) or shape == (batch, seq_len, d_state):
        return
    if len(shape) == 4 and (*shape[:2], shape[3]) == (batch, seq_len, d_state):
        if shape[2] > 0 and channels % shape[2] == 0:
            return
        raise ValueError(
            f"selective_scan: the {shape[2]} groups of {name} must divide the {channels} channels"
        )
    raise ValueError(
        f"selective_scan: {name} must be {(batch, seq_len, d_state)}, "
        f"{(batch, seq_len, 'groups', d_state)} or constant {(channels, d_state)}, got {shape}"
    )


def _check_dtypes(
    A: Tensor, real: dict[str, Tensor | None], like_A: dict[str, Tensor | None]
) -> None:
    for name, tensor in real.items():
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"selective_scan: {name} must be real floating, got {tensor.dtype}")
    for name, tensor in {"A": A, **like_A}.items():
        if tensor is None:
            continue
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(f"selective_scan: {name} must be floating, got {tensor.dtype}")
        if tensor.is_complex() != A.is_complex():
            raise TypeError(
                f"selective_scan: A, B, C and initial_state must be all real or all complex; "
                f"A is {A.dtype}, {name} is {tensor.dtype}"
            )
