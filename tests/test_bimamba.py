"""Mamba in both directions."""

import pytest
import torch
from torch import Tensor

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import (
    BiMambaConfig,
    DnaModel,
    MambaConfig,
    ModelConfig,
    count_parameters,
    no_weight_decay_names,
    preset,
)
from dnamamba.models.mixers.bimamba import BiMamba
from dnamamba.models.mixers.mamba import Mamba
from dnamamba.models.recompute import RECOMPUTE
from model_cases import draw_ids, tiny_model

VARIANTS = [
    BiMambaConfig(d_state=3, dt_rank=2),
    BiMambaConfig(d_state=3, dt_rank=2, strategy="ew_multiply", d_conv=3),
    BiMambaConfig(d_state=3, dt_rank=2, tie_projections=False, expand=3),
    BiMambaConfig(d_state=3, dt_rank=2, strategy="ew_multiply", tie_projections=False),
    BiMambaConfig(d_state=3, dt_rank=2, bias=True, conv_bias=False),
]


def build_mixer(config: BiMambaConfig) -> BiMamba:
    torch.manual_seed(0)
    mixer = BiMamba(8, config).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return mixer


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def two_mambas(both: BiMamba, config: BiMambaConfig) -> tuple[Mamba, Mamba]:
    """The two directions as mixers of their own, for inputs in their own order."""
    fields = {k: v for k, v in to_dict(config).items() if k in to_dict(MambaConfig())}
    one, other = (Mamba(8, MambaConfig(**{**fields, "kind": "mamba"})).double() for _ in range(2))
    weights = both.state_dict()
    first = {name: w for name, w in weights.items() if not name.startswith("reverse.")}
    second = {name.removeprefix("reverse."): w for name, w in weights.items() if name not in first}
    one.load_state_dict(first)
    # Shared projections are found among the first direction's.
    other.load_state_dict({**first, **second})
    return one, other


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("seq_len", [1, 2, 19])
def test_it_is_two_mambas_one_of_them_on_flipped_inputs(config, seq_len):
    mixer, x = build_mixer(config), draw(2, seq_len, 8)
    one, other = two_mambas(mixer, config)
    ahead, back = one(x)[0], other(x.flip(1))[0].flip(1)
    expected = ahead + back if config.strategy == "add" else ahead * back
    torch.testing.assert_close(mixer(x)[0], expected)


@pytest.mark.parametrize("config", VARIANTS)
def test_gradients_are_those_of_two_mambas(config):
    mixer, x = build_mixer(config), draw(2, 9, 8)
    one, other = two_mambas(mixer, config)
    ahead, back = one(x)[0], other(x.flip(1))[0].flip(1)
    weight = draw(2, 9, 8).sin()
    expected = ahead + back if config.strategy == "add" else ahead * back
    (expected * weight).sum().backward()
    (mixer(x)[0] * weight).sum().backward()
    for name, parameter in mixer.named_parameters():
        if name.startswith("reverse."):
            wanted = other.get_parameter(name.removeprefix("reverse.")).grad
        else:
            wanted = one.get_parameter(name).grad
            if config.tie_projections and ("in_proj" in name or "out_proj" in name):
                wanted = wanted + other.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, wanted, msg=name)


def test_every_position_sees_every_other():
    model = tiny_model(VARIANTS[0], torch.float64, n_layers=1)
    assert not model.is_causal
    ids = torch.randint(7, 11, (1, 12), generator=torch.Generator().manual_seed(1))
    for changed in (0, 6, 11):
        other = ids.clone()
        other[0, changed] = 11
        difference = (model(ids) - model(other))[0, :, :12].abs().amax(-1)
        assert bool((difference > 0).all())


def test_the_backend_of_both_scans_is_set_on_the_mixer():
    mixer, x = build_mixer(VARIANTS[0]).float(), draw(2, 9, 8).float()
    expected = mixer(x)[0]
    mixer.scan_backend = "reference"
    torch.testing.assert_close(mixer(x)[0], expected)
    mixer.scan_backend = "triton"
    with pytest.raises(RuntimeError, match="triton"):
        mixer(x)


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
def test_recomputing_changes_nothing(recompute):
    """Two scans a block are kept, or made again."""
    model, ids = tiny_model(BiMambaConfig(d_state=4)), draw_ids(2, 40)
    gradients = []
    for way in ("nothing", recompute):
        model.zero_grad()
        model(ids, recompute=way)[..., :12].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_under_autocast():
    model, ids = tiny_model(BiMambaConfig(d_state=4), d_model=16), draw_ids(2, 40)
    exact = model(ids)[..., :12]
    lengths = torch.tensor([40, 11])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids)[..., :12]
        padded = model(ids, lengths=lengths)[..., :12]
    assert logits.dtype == padded.dtype == torch.bfloat16
    assert (logits - exact).abs().max() < 0.02 * exact.abs().max()


def test_a_state_is_refused():
    mixer = build_mixer(VARIANTS[0])
    with pytest.raises(InputError, match="no state to go on from"):
        mixer(draw(1, 3, 8), return_state=True)
    model = tiny_model(VARIANTS[0])
    with pytest.raises(InputError, match="no state to go on from: it reads in both directions"):
        model(torch.zeros(1, 3, dtype=torch.int64), return_state=True)


# Sizes, names and initial values.


@pytest.mark.parametrize("mixer", VARIANTS)
def test_count_parameters_equals_a_built_model(mixer):
    config = ModelConfig(d_model=24, n_layers=2, mixer=mixer)
    assert count_parameters(config) == sum(p.numel() for p in DnaModel(config).parameters())


@pytest.mark.parametrize("family", ["caduceus-ph", "caduceus-ps"])
def test_presets_have_the_published_sizes(family):
    """The published models of 131k bases: width 256, 16 blocks, 7.7 million parameters."""
    config = preset(f"{family}-7m")
    assert (config.d_model, config.n_layers) == (256, 16)
    assert config.strands == ("both" if family == "caduceus-ps" else "one")
    assert count_parameters(config) == 7_725_312


def test_config_resolves_dt_rank_and_survives_json():
    config = ModelConfig(d_model=40, n_layers=1, mixer=BiMambaConfig(strategy="ew_multiply"))
    assert config.mixer.dt_rank == 3
    assert from_dict(ModelConfig, to_dict(config)) == config
    with pytest.raises(InputError, match="BiMambaConfig: d_state must be a whole number"):
        BiMambaConfig(d_state=0)
    with pytest.raises(InputError, match="strategy must be one of add, ew_multiply, got 'mean'"):
        BiMambaConfig(strategy="mean")


@pytest.mark.parametrize("tied", [True, False])
def test_initial_values_and_weight_decay(tied):
    torch.manual_seed(0)
    mixer = BiMambaConfig(tie_projections=tied)
    model = DnaModel(ModelConfig(d_model=64, n_layers=4, mixer=mixer))
    built = model.backbone.layers[2].mixer
    for direction in (built, built.reverse):
        A = torch.exp(direction.A_log)
        torch.testing.assert_close(A, torch.arange(1.0, 17.0).expand_as(A))
    assert not torch.equal(built.dt_proj.bias, built.reverse.dt_proj.bias)
    # U(-1 / sqrt(fan_in), ...) over sqrt(n_layers), so that the stream does not grow with depth.
    for projection in [built.out_proj] if tied else [built.out_proj, built.reverse.out_proj]:
        bound = 1 / 128**0.5 / 4**0.5
        assert 0.95 * bound < projection.weight.abs().max() <= bound
    exempt = no_weight_decay_names(model)
    assert {f"backbone.layers.0.mixer.reverse.{n}" for n in ("A_log", "D")} <= exempt
    assert "backbone.layers.0.mixer.reverse.x_proj.weight" not in exempt
