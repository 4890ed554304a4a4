"""S4 in Mamba's place: kernels, states, initial values, the official code's numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.kernels import long_conv, selective_scan
from dnamamba.models import (
    DnaModel,
    ModelConfig,
    S4Config,
    count_parameters,
    no_weight_decay_names,
    preset,
)
from dnamamba.models.mixers.s4 import (
    S4,
    discretise,
    evaluate_powers,
    initial_A,
    make_kernel,
    state_after,
)
from dnamamba.models.recompute import RECOMPUTE
from golden_files import Golden, assert_close, load_golden
from model_cases import check_parts_are_one_pass, draw_ids, tiny_model

TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}
INITS = ("real", "lin")


def build(init: str = "lin", **changes) -> DnaModel:
    return tiny_model(S4Config(init=init, d_state=6, **changes), torch.float64)


# The model.


@pytest.mark.parametrize("seq_len", [1, 2, 30])
@pytest.mark.parametrize("init", INITS)
def test_the_mixer_is_a_scan_with_constant_weights(init, seq_len):
    """Against the selective scan's definition, whose dB is dt B: so B is dB / dt here."""
    torch.manual_seed(0)
    mixer = S4(4, S4Config(init=init, d_state=6)).double()
    x = torch.randn(2, seq_len, 4, dtype=torch.float64)
    u, z = mixer.in_proj(x).chunk(2, -1)
    taps, bias = mixer.conv1d.weight, mixer.conv1d.bias
    u = functional.silu(functional.conv1d(functional.pad(u.mT, (3, 0)), taps, bias, groups=8).mT)
    dt = mixer.log_dt.exp()
    A, C = -mixer.A_log.exp(), mixer.C.squeeze(-1)
    if init == "lin":
        A, C = torch.complex(A, mixer.A_imag), torch.view_as_complex(mixer.C)
    B = (torch.exp(dt.unsqueeze(-1) * A) - 1) / A / dt.unsqueeze(-1)
    y = selective_scan(u, dt.expand_as(u), A, B, C, mixer.D, z=z, backend="reference")
    torch.testing.assert_close(mixer(x)[0], mixer.out_proj(y))


@settings(deadline=None, max_examples=10)
@given(
    cuts=st.lists(st.integers(1, 22), max_size=6, unique=True),
    init=st.sampled_from(INITS),
    d_conv=st.integers(1, 5),
)
def test_any_chunking_with_carried_state_is_one_pass(cuts, init, d_conv):
    check_parts_are_one_pass(build(init, d_conv=d_conv), draw_ids(2, 23), cuts)


@pytest.mark.parametrize("init", INITS)
def test_single_tokens_are_one_pass(init):
    model, ids = build(init), draw_ids(2, 9)
    state, logits = None, []
    for token in ids.split(1, 1):
        piece, state = model(token, state=state, return_state=True)
        logits.append(piece)
    torch.testing.assert_close(torch.cat(logits, 1), model(ids))


def test_later_tokens_change_nothing():
    model, ids = build(), draw_ids()
    other = ids.clone()
    other[:, 10:] = 11
    torch.testing.assert_close(model(other)[:, :10], model(ids)[:, :10])
    assert model.is_causal


@pytest.mark.parametrize("init", INITS)
def test_gradients_reach_every_parameter(init):
    mixer = S4(2, S4Config(init=init, d_state=2)).double()
    names, parameters = zip(*mixer.named_parameters(), strict=True)
    x = torch.randn(1, 5, 2, dtype=torch.float64)
    _, state = mixer(x, return_state=True)

    def run(*values: Tensor) -> Tensor:
        out, after = torch.func.functional_call(
            mixer, dict(zip(names, values, strict=True)), (x, state, True)
        )
        ssm = torch.view_as_real(after.ssm) if init == "lin" else after.ssm
        return out.sin().sum() + ssm.sin().sum()

    state = type(state)(*(tensor.detach() for tensor in state))
    assert torch.autograd.gradcheck(run, tuple(p.detach().requires_grad_() for p in parameters))


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
def test_recomputing_changes_nothing(recompute):
    model, ids = build(), draw_ids()
    gradients = []
    for way in ("nothing", recompute):
        model.zero_grad()
        model(ids, recompute=way)[..., :12].sin().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("init", INITS)
def test_under_autocast_kernels_and_states_are_float32(init):
    model, ids = build(init).float(), draw_ids()
    exact = model(ids)[..., :12]
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(ids, return_state=True)
    assert logits.dtype == torch.bfloat16
    wide = torch.complex64 if init == "lin" else torch.float32
    assert all(layer.ssm.dtype == wide for layer in state)
    assert (logits[..., :12] - exact).abs().max() < 0.02 * exact.abs().max()


def test_float32_keeps_its_digits_where_steps_are_small():
    """exp(dt A) - 1 by subtraction would lose four of seven."""
    A = initial_A("lin", 8).expand(4, 8)
    dt = torch.full((4,), 1e-4, dtype=torch.float64)
    C = torch.ones(4, 8, dtype=torch.complex128)
    exact = make_kernel(A, C, dt, 1000)
    found = make_kernel(A.to(torch.complex64), C.to(torch.complex64), dt.float(), 1000)
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("seq_len", [1, 2, 3, 7, 16, 50])
def test_two_levels_are_the_sums_they_stand_for(seq_len):
    log_dA, dB = discretise(initial_A("lin", 3).expand(2, 3), torch.tensor([0.1, 0.2]).double())
    steps = torch.arange(seq_len)
    powers = torch.exp(log_dA.unsqueeze(-1) * steps)  # (2, 3, L)
    expected = 2 * (dB.unsqueeze(-1) * powers).sum(1).real
    torch.testing.assert_close(evaluate_powers(log_dA, dB, seq_len), expected)
    u = torch.randn(4, seq_len, 2, dtype=torch.float64)
    expected = dB * torch.einsum("bld,dnl->bdn", u.to(powers.dtype), powers.flip(-1))
    torch.testing.assert_close(state_after(log_dA, dB, u), expected)


# Sizes and initial values.


@pytest.mark.parametrize(
    "mixer",
    [
        S4Config(),
        S4Config(init="lin", bias=True),
        S4Config(init="legs", d_state=8),
        S4Config(conv_bias=False, expand=3, d_state=5),
    ],
)
def test_count_parameters_equals_a_built_model(mixer):
    config = ModelConfig(d_model=16, n_layers=2, mixer=mixer)
    assert count_parameters(config) == sum(p.numel() for p in DnaModel(config).parameters())
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_preset():
    assert preset("mamba-s4-7m").mixer == S4Config()
    assert (preset("mamba-s4-7m").d_model, preset("mamba-s4-7m").n_layers) == (256, 16)


def test_initial_values():
    torch.manual_seed(0)
    mixer = S4(64, S4Config(init="lin", d_state=16))
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((128, 8), -0.5))
    torch.testing.assert_close(mixer.A_imag[5], math.pi * torch.arange(8.0))
    assert mixer.log_dt.exp().min() >= 1e-3 * (1 - 1e-4)
    assert mixer.log_dt.exp().max() <= 0.1 * (1 + 1e-4)
    assert mixer.C.square().sum(-1).mean().item() == pytest.approx(1, rel=0.1)
    real = S4(64, S4Config())
    torch.testing.assert_close(-real.A_log.exp()[3], -torch.arange(1.0, 17.0))


def test_weight_decay_leaves_the_time_constants_alone():
    exempt = {
        name.removeprefix("backbone.layers.0.mixer.") for name in no_weight_decay_names(build())
    }
    assert {"A_log", "A_imag", "log_dt", "D", "conv1d.bias"} <= exempt
    assert "C" not in exempt


def test_config_refuses_what_it_cannot_be():
    with pytest.raises(InputError, match="d_state must be even with init 'lin'"):
        S4Config(init="lin", d_state=5)
    with pytest.raises(InputError, match=r"init must be one of real, lin, .* got 'random'"):
        S4Config(init="random")
    with pytest.raises(InputError, match="0 < dt_min <= dt_max"):
        S4Config(dt_min=1.0)


# The official code's numbers: S4D's layer and SSMKernelDiag.


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load_golden("s4d_a")


def run_official_layer(params: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel (H, L) and the layer around it, x (B, L, H): D, GELU, a gated product."""
    A = torch.complex(-params["kernel.log_A_real"].exp(), params["kernel.A_imag"])
    C = torch.view_as_complex(params["kernel.C"])
    kernel = make_kernel(A, C, params["kernel.log_dt"].exp(), x.shape[1])
    y = functional.gelu(long_conv(x, kernel.T, params["D"]))
    weight, bias = params["output_linear.0.weight"].squeeze(-1), params["output_linear.0.bias"]
    return kernel, functional.glu(functional.linear(y, weight, bias))


@pytest.mark.parametrize("case", ["t", "nt"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_golden_layer(golden, case, dtype):
    info = golden.info["cases"][case]
    tolerance = TOLERANCE if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-5}
    for index, seq_len in enumerate(info["L"]):
        params = {
            n: w.to(dtype).requires_grad_() for n, w in golden.group(f"{case}/params").items()
        }
        given = golden.tensors[f"{case}/in/x_L{seq_len}"].to(dtype).requires_grad_()
        kernel, y = run_official_layer(params, given.mT if info["transposed"] else given)
        y = y.mT if info["transposed"] else y
        expected = golden.group(f"{case}/out_f64")
        assert_close(y, expected[f"y_L{seq_len}"], **tolerance, what=f"y of {seq_len}")
        if f"K_L{seq_len}" in expected:
            assert_close(kernel, expected[f"K_L{seq_len}"], **tolerance, what="kernel")
        if index == 0:
            (y * golden.tensors[f"{case}/in/w_out_L{seq_len}"].to(dtype)).sum().backward()
            for name, gradient in golden.group(f"{case}/grad_f64").items():
                found = given.grad if name == "x" else params[name].grad
                assert_close(found, gradient, **tolerance, what=name)


@pytest.mark.parametrize("case", ["lin_zoh", "inv_bilinear_c2", "real_zoh", "nssm2"])
def test_golden_kernels_and_states(golden, case):
    info = golden.info["kernel_cases"][case]
    params = {n: w.double() for n, w in golden.group(f"kernel_{case}/params").items()}
    is_real = info.get("is_real", False)
    A = -params["A_real"].exp()
    B, C = params["B"], params["C"]
    if not is_real:
        A = torch.complex(A, -params["A_imag"])
        B, C = torch.view_as_complex(B), torch.view_as_complex(C)
    # Heads take the copies of A and B in turn.
    copies = torch.arange(info["H"]) % A.shape[0]
    A, B, dt = A[copies], B[:, copies], params["inv_dt"].exp().squeeze(-1)
    log_dA, dB = discretise(A, dt, info["disc"])
    kernel = torch.stack([evaluate_powers(log_dA, c * B[0] * dB, info["L"]) for c in C])
    # Theirs is twice the real part for real A too.
    kernel = 2 * kernel if is_real else kernel
    expected = golden.group(f"kernel_{case}/out_f64")
    assert_close(kernel, expected["K"], **TOLERANCE, what="kernel")
    u = golden.tensors[f"kernel_{case}/in/u"].double().mT
    for channel, one in enumerate(kernel):
        found = long_conv(u, one.T).mT
        assert_close(found, expected["y_recurrent"][:, channel], **TOLERANCE, what="output")
    state = state_after(log_dA, B[0] * dB, u)
    assert_close(state.real, expected["state_real"], **TOLERANCE, what="state")
    if not is_real:
        assert_close(state.imag, expected["state_imag"], **TOLERANCE, what="state")


@pytest.mark.parametrize("kind", ["lin", "inv", "real", "quad", "legs"])
@pytest.mark.parametrize("width", [8, 64])
def test_golden_initial_values(golden, kind, width):
    """Theirs are the other ones of each pair; pi is float32 there."""
    expected = golden.group(f"init/diag-{kind}/N{width}")
    A = initial_A(kind, width // 2)
    tolerance = 1e-4 if kind == "legs" else 1e-6
    assert_close(A.real, expected["A_real"], rtol=tolerance, atol=0, what="real part")
    imaginary = A.imag if A.is_complex() else torch.zeros_like(A)
    assert_close(-imaginary, expected["A_imag"], rtol=tolerance, atol=1e-6, what="imaginary part")


@pytest.mark.parametrize("init", INITS)
def test_a_bfloat16_model_computes_its_states_in_float32(init):
    model, ids = build(init).float(), draw_ids()
    expected = model(ids)[..., :12]
    found = model.bfloat16()(ids)[..., :12]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.02)
