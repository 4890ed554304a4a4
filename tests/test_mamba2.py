"""The Mamba-2 language model: sizes, initial values, states, the official code's numbers."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import (
    DnaModel,
    Mamba2Config,
    Mamba2State,
    ModelConfig,
    count_parameters,
    no_weight_decay_names,
    preset,
    preset_names,
)
from dnamamba.models.layers import GatedNorm
from dnamamba.models.model_folder import load_weights
from dnamamba.models.recompute import RECOMPUTE
from golden_files import Golden, load_golden
from golden_models import (
    GRADIENTS,
    check_greedy_continuation,
    check_logits_and_hidden_states,
    check_logits_in_float32,
    check_losses,
    check_states,
    check_tensors,
    gradients_of,
    next_token_loss,
    read_sequences,
)
from model_cases import build_model, check_parts_are_one_pass, count_built, draw_ids

MIXER = Mamba2Config(d_state=4, d_head=4, chunk_size=8)
TINY = ModelConfig(d_model=8, n_layers=2, mixer=MIXER)


def build_tiny(dtype: torch.dtype = torch.float64, config: ModelConfig = TINY) -> DnaModel:
    return build_model(config, dtype)


# Sizes and settings.


@pytest.mark.parametrize("name", [n for n in preset_names() if n.startswith("mamba2-")])
def test_presets_have_about_the_parameters_they_are_named_after(name):
    expected = count_parameters(preset(name.replace("mamba2", "mamba")))
    assert count_parameters(preset(name)) == pytest.approx(expected, rel=0.06)
    assert count_built(preset(name)) == count_parameters(preset(name))


@pytest.mark.parametrize(
    ("name", "n_heads"), [("mamba2-demo", 2), ("mamba2-680k", 3), ("mamba2-41m", 16)]
)
def test_presets_have_whole_heads(name, n_heads):
    config = preset(name)
    assert config.mixer.count_heads(config.d_model) == n_heads


@pytest.mark.parametrize(
    "mixer",
    [
        MIXER,
        Mamba2Config(d_state=3, d_head=2, n_groups=4, bias=True, conv_bias=False),
        Mamba2Config(d_state=5, d_head=8, expand=3, d_conv=2),
    ],
)
def test_count_parameters_equals_a_built_model(mixer):
    config = ModelConfig(d_model=8, n_layers=2, mixer=mixer, tie_embeddings=False)
    assert count_parameters(config) == count_built(config)


def test_config_survives_json():
    mixer = Mamba2Config(d_head=4, dt_limit=(0.01, 0.5), A_init_range=(2, 3.5))
    config = ModelConfig(d_model=8, n_layers=1, mixer=mixer)
    stored = json.loads(json.dumps(to_dict(config)))
    assert stored["mixer"]["kind"] == "mamba2"
    assert from_dict(ModelConfig, stored) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_head": 5}, "d_inner 16 .expand 2 times d_model 8. must be whole heads of d_head 5"),
        ({"n_groups": 3}, "whole heads of d_head 4 in n_groups 3"),
        ({"d_state": 0}, "d_state must be a whole number >= 1, got 0"),
        ({"dt_max": 1e-4}, "0 < dt_min <= dt_max"),
        ({"dt_limit": [0.5, 0.1]}, r"dt_limit must be two numbers >= 0, .* got \(0.5, 0.1\)"),
        (
            {"A_init_range": [0.0, 1.0]},
            r"A_init_range must be two numbers > 0, .* \(0.0, 1.0\)",
        ),
    ],
)
def test_config_refuses_what_makes_no_model(changes, message):
    stored = to_dict(TINY)
    with pytest.raises(InputError, match=message):
        from_dict(ModelConfig, {**stored, "mixer": {**stored["mixer"], **changes}})


# Initial values.


def test_initial_values():
    torch.manual_seed(0)
    mixer = Mamba2Config(d_state=2, d_head=1, bias=True)
    model = DnaModel(ModelConfig(d_model=512, n_layers=1, mixer=mixer))
    layer = model.backbone.layers[0].mixer
    A = torch.exp(layer.A_log.detach())
    assert 1 <= A.min() < 1.1
    assert 15.9 < A.max() <= 16 * (1 + 1e-5)
    assert A.mean() == pytest.approx(8.5, abs=0.5)
    dt = functional.softplus(layer.dt_bias.detach().double()).log10()
    assert dt.min() >= -3 - 1e-4
    assert dt.max() <= -1 + 1e-4
    assert dt.mean() == pytest.approx(-2, abs=0.1)
    assert torch.equal(layer.D, torch.ones(1024))
    assert torch.equal(layer.norm.weight, torch.ones(1024))
    assert layer.in_proj.bias.abs().max() == 0
    assert layer.out_proj.weight.abs().max() <= 1024**-0.5


def test_initial_step_sizes_have_a_floor():
    mixer = Mamba2Config(d_head=4, dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-4)
    model = DnaModel(ModelConfig(d_model=8, n_layers=1, mixer=mixer))
    dt = functional.softplus(model.backbone.layers[0].mixer.dt_bias)
    torch.testing.assert_close(dt, torch.full_like(dt, 1e-4))


def test_no_weight_decay_names():
    mixer = "backbone.layers.0.mixer"
    model = DnaModel(ModelConfig(d_model=8, n_layers=1, mixer=MIXER))
    exempt = no_weight_decay_names(model)
    assert exempt == {
        *(f"{mixer}.{name}" for name in ("A_log", "D", "dt_bias", "conv1d.bias", "norm.weight")),
        "backbone.layers.0.norm.weight",
        "backbone.norm_f.weight",
    }


# What the model computes.


@pytest.mark.parametrize("before_gate", [False, True])
def test_gated_norm_is_the_formula(before_gate):
    torch.manual_seed(0)
    y, z, weight = torch.randn(2, 3, 6), torch.randn(2, 3, 6), torch.randn(6)
    norm = GatedNorm(6, eps=0.1, n_groups=2, before_gate=before_gate)
    norm.weight.data.copy_(weight)
    gate = z * torch.sigmoid(z)
    gated = y if before_gate else y * gate
    mean_squares = [half.square().mean(-1, keepdim=True) for half in gated.split(3, -1)]
    scales = [(0.1 + mean).rsqrt().expand(2, 3, 3) for mean in mean_squares]
    expected = gated * torch.cat(scales, -1) * weight * (gate if before_gate else 1)
    torch.testing.assert_close(norm(y, z), expected)


def test_the_future_is_not_seen():
    model, ids = build_tiny(), draw_ids()
    changed = ids.clone()
    changed[:, 10:] = 7 + (changed[:, 10:] - 6) % 5
    assert torch.equal(model(ids)[:, :10], model(changed)[:, :10])
    assert not torch.equal(model(ids)[:, 10:], model(changed)[:, 10:])


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 22), max_size=6, unique=True), d_conv=st.integers(1, 5))
def test_any_division_with_carried_state_is_one_pass(cuts, d_conv):
    mixer = Mamba2Config(d_state=3, d_head=2, n_groups=2, d_conv=d_conv, chunk_size=8)
    model = build_tiny(config=ModelConfig(d_model=4, n_layers=2, mixer=mixer))
    check_parts_are_one_pass(model, draw_ids(2, 23), cuts)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_single_tokens_with_carried_state_are_one_pass(dtype):
    model, ids = build_tiny(dtype), draw_ids(2, 12)
    state, logits = None, []
    with torch.no_grad():
        for t in range(12):
            step, state = model(ids[:, t : t + 1], state=state, return_state=True)
            logits.append(step)
        torch.testing.assert_close(torch.cat(logits, 1), model(ids))


@pytest.mark.parametrize("seq_len", [1, 3])
def test_a_state_can_be_gone_on_from_many_times(seq_len):
    model, ids = build_tiny(), draw_ids(2, 6)
    with torch.no_grad():
        _, state = model(ids, return_state=True)
        before = [tuple(tensor.clone() for tensor in layer) for layer in state]
        for letter in (7, 8):
            more = torch.full((2, seq_len), letter)
            logits, after = model(more, state=state, return_state=True)
            expected, expected_after = model(torch.cat([ids, more], 1), return_state=True)
            torch.testing.assert_close(logits, expected[:, -seq_len:])
            torch.testing.assert_close(after, expected_after)
    for layer, kept in zip(state, before, strict=True):
        assert isinstance(layer, Mamba2State)
        assert all(map(torch.equal, layer, kept))


def test_gradients_flow_through_carried_state():
    model, ids = build_tiny(), draw_ids(1, 16)
    model(ids)[..., :12].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    first, state = model(ids[:, :7], return_state=True)
    second = model(ids[:, 7:], state=state)
    (first[..., :12].sum() + second[..., :12].sum()).backward()
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, expected)


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_recomputing_changes_no_gradient(recompute):
    gradients = []
    for way in ("nothing", recompute):
        model = build_tiny()
        model(draw_ids(), recompute=way)[..., :12].sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])


def test_under_autocast_the_states_stay_in_float32():
    model, ids = build_tiny(torch.float32), draw_ids()
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(ids, return_state=True)
    assert logits.dtype == torch.bfloat16
    assert all(layer.ssm.dtype == torch.float32 for layer in state)
    error = (logits - exact)[..., :12].abs().max()
    assert error < 0.03 * exact[..., :12].abs().max()


def test_chunk_size_changes_no_result():
    ids = draw_ids()
    small, large = (
        build_tiny(config=ModelConfig(d_model=8, n_layers=2, mixer=mixer))
        for mixer in (MIXER, Mamba2Config(d_state=4, d_head=4))
    )
    torch.testing.assert_close(small(ids), large(ids))


def test_step_sizes_keep_to_their_limits():
    """With none allowed nothing enters the states, and none fades."""
    mixer = Mamba2Config(d_state=4, d_head=4, dt_limit=(0.0, 0.0))
    model = build_tiny(config=ModelConfig(d_model=8, n_layers=1, mixer=mixer))
    _, state = model(draw_ids(), return_state=True)
    assert state[0].ssm.abs().max() == 0


@pytest.mark.parametrize("tied", [True, False])
def test_saved_model_comes_back(tmp_path, tied):
    config = ModelConfig(d_model=8, n_layers=2, tie_embeddings=tied, mixer=MIXER)
    model = build_tiny(torch.float32, config)
    model.save_pretrained(tmp_path)
    again = DnaModel.from_pretrained(tmp_path)
    assert again.config == config
    assert torch.equal(again(draw_ids()), model(draw_ids()))


# The official code's numbers.


@pytest.fixture(scope="module", params=["mamba2_lm_a", "mamba2_lm_b"])
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture
def official_model(golden) -> DnaModel:
    given = golden.info["config"]
    config = ModelConfig(
        d_model=given["d_model"],
        n_layers=given["n_layer"],
        vocab_size=given["vocab"],
        padded_vocab_size=given["vocab"],
        tie_embeddings=given["tie"],
        mixer=Mamba2Config(
            **{key: given[key] for key in ("expand", "d_state", "d_conv", "chunk_size")},
            **{key: given[key] for key in ("bias", "conv_bias")},
            d_head=given["headdim"],
            n_groups=given["ngroups"],
        ),
    )
    model = DnaModel(config).double()
    load_weights(model, golden.group("params"), "the golden weights")
    return model


def test_golden_logits_and_hidden_states(golden, official_model):
    for ids, expected in read_sequences(golden):
        check_logits_and_hidden_states(official_model, ids, expected)


def test_golden_logits_in_float32(golden, official_model):
    check_logits_in_float32(official_model, golden)


def test_golden_losses(golden, official_model):
    check_losses(official_model, golden)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_golden_gradients(golden, official_model, dtype):
    model = official_model.to(dtype)
    next_token_loss(model, golden.tensors["in/seq0/ids"]).backward()
    check_tensors(gradients_of(model), golden.group("grad_f64"), GRADIENTS[dtype])


@pytest.mark.parametrize("has_gradients", [True, False])
def test_golden_greedy_continuation_and_states(golden, official_model, has_gradients):
    official_model.requires_grad_(has_gradients)
    after_prompt, at_end = check_greedy_continuation(official_model, golden)
    check_states(golden, "gen/prefill", after_prompt)
    check_states(golden, "gen/end", at_end)
