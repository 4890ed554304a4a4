"""HyenaDNA's weights, in all the forms they are found in, and back."""

import pytest
import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models import (
    DnaModel,
    HyenaConfig,
    MlpConfig,
    ModelConfig,
    from_hyenadna,
    preset,
    to_hyenadna,
)
from dnamamba.models.interop.hyena import FORMATS, load_positions
from model_cases import build_model

CONFIG = ModelConfig(
    d_model=8,
    n_layers=2,
    norm="layer",
    mixer=HyenaConfig(l_max=50, filter_order=6),
    mlp=MlpConfig(bias=True),
)
FILTER = "backbone.layers.0.mixer.filter_fn"
IDS = torch.randint(7, 12, (2, 33), generator=torch.Generator().manual_seed(2))


def build(config: ModelConfig = CONFIG) -> DnaModel:
    """A tiny model with every parameter drawn at random."""
    return build_model(config, spread=0.2)


def assert_same(found: DnaModel, expected: DnaModel) -> None:
    assert torch.equal(found(IDS), expected(IDS))


def with_prefix(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    "mixer",
    [
        CONFIG.mixer,
        HyenaConfig(
            l_max=40, order=3, d_conv=4, filter_order=5, filter_layers=1, emb_dim=7, w=3, shift=0.0
        ),
    ],
    ids=["default", "sizes"],
)
def test_written_weights_read_back_as_the_same_model(mixer):
    model = build(ModelConfig(d_model=8, n_layers=2, norm="layer", mixer=mixer, mlp=CONFIG.mlp))
    weights, settings = to_hyenadna(model)
    read = from_hyenadna(weights, settings)
    assert read.config == model.config
    assert_same(read, model)


def test_written_names_are_the_standalones():
    weights, settings = to_hyenadna(build())
    network = f"{FILTER}.implicit_filter"
    assert {name for name in weights if name.startswith(FILTER)} == {
        f"{FILTER}.bias",
        f"{FILTER}.pos_emb.t",
        f"{FILTER}.pos_emb.z",
        f"{FILTER}.modulation.deltas",
        *(f"{network}.{i}.{name}" for i in (0, 2, 4) for name in ("weight", "bias")),
        *(f"{network}.{i}.freq" for i in (1, 3, 5)),
        f"{network}.6.weight",
    }
    assert weights[f"{FILTER}.pos_emb.z"].shape == (1, 50, 5)
    assert weights[f"{FILTER}.modulation.deltas"].shape == (1, 1, 8)
    assert "backbone.embeddings.word_embeddings.weight" in weights
    assert {"backbone.ln_f.bias", "backbone.layers.1.norm1.bias"} <= weights.keys()
    assert settings["layer"]["l_max"] == 50


@pytest.mark.parametrize("prefix", ["model.", "hyena."])
def test_training_checkpoints_and_the_huggingface_port(prefix):
    model = build()
    weights, settings = to_hyenadna(model)
    head = weights["backbone.embeddings.word_embeddings.weight"]
    name = "model.lm_head.weight" if prefix == "model." else "lm_head.weight"
    found = with_prefix(weights, prefix) | {name: head, "train_metrics.count": torch.zeros(1)}
    read = from_hyenadna(found, settings)
    assert read.config == model.config
    assert_same(read, model)


def test_weights_of_checkpointed_layers():
    model = build()
    weights, settings = to_hyenadna(model)
    checkpointed = {
        name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer."): weight
        for name, weight in weights.items()
    }
    assert_same(from_hyenadna(checkpointed, settings), model)


def test_the_shift_is_that_of_published_models_unless_settings_say_otherwise():
    weights, _ = to_hyenadna(build())
    assert from_hyenadna(weights).config.mixer.shift == 0.05
    assert from_hyenadna(weights, {"shift": 0.0}).config.mixer.shift == 0.0
    assert from_hyenadna(weights, {"layer": {"shift": 0.01}}).config.mixer.shift == 0.01


def test_settings_of_the_huggingface_port():
    """They take the place of positions, which are not in every file."""
    model = build()
    weights, _ = to_hyenadna(model)
    weights = {n: w for n, w in weights.items() if "pos_emb" not in n and "modulation" not in n}
    settings = {"d_model": 8, "n_layer": 2, "d_inner": 32, "vocab_size": 12, "max_seq_len": 50}
    settings |= {"hyena_order": 2, "activation_freq": 10, "emb_dim": 5, "filter_order": 6}
    settings |= {"num_inner_mlps": 2, "short_filter_order": 3, "layer_norm_epsilon": 1e-5}
    read = from_hyenadna(with_prefix(weights, "hyena."), settings)
    assert read.config == model.config
    assert_same(read, model)


def test_ids_in_use_are_those_of_the_settings():
    weights, settings = to_hyenadna(build())
    assert from_hyenadna(weights, settings).config.vocab_size == 12
    assert from_hyenadna(weights).config.vocab_size == 16


def test_an_untied_head_is_kept():
    model = build()
    weights, settings = to_hyenadna(model)
    head = torch.randn(16, 8)
    read = from_hyenadna({**weights, "lm_head.weight": head}, settings)
    assert torch.equal(read.lm_head.weight, head)
    assert not read.config.tie_embeddings


def test_loaded_positions_give_what_computed_ones_do():
    model = build()
    weights, _ = to_hyenadna(model)
    expected = model(IDS)[..., :12]
    load_positions(model, weights)
    torch.testing.assert_close(model(IDS)[..., :12], expected, rtol=1e-5, atol=1e-5)
    del weights[f"{FILTER}.pos_emb.t"]
    with pytest.raises(InputError, match=r"hold no positions: there is no .*pos_emb.t"):
        load_positions(model, weights)


def test_half_precision_weights_are_read():
    weights, settings = to_hyenadna(build())
    read = from_hyenadna({n: w.to(torch.bfloat16) for n, w in weights.items()}, settings)
    assert read.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({"backbone.embeddings.word_embeddings.weight": None}, {}, "not the weights of a HyenaDNA"),
        ({f"{FILTER}.pos_emb.z": None}, {}, "l_max must be given"),
        ({"backbone.layers.0.mlp.fc1.weight": None}, {}, "there is no .*mlp.fc1.weight"),
        ({"backbone.layers.1.norm1.bias": None}, {}, "missing backbone.layers.1.norm.bias"),
        ({"backbone.extra": torch.zeros(1)}, {}, "unknown backbone.extra"),
        ({f"{FILTER}.pos_emb.z": torch.zeros(1, 50, 5)}, {}, "pos_emb.z is not what HyenaDNA's"),
        ({f"{FILTER}.modulation.deltas": torch.ones(1, 1, 8)}, {}, "deltas is not what HyenaDNA's"),
        (
            {f"{FILTER}.implicit_filter.3.freq": torch.zeros(1, 6)},
            {},
            r"implicit_filter.3.freq is not .*implicit_filter.1.freq: sines with frequencies",
        ),
        ({}, {"d_model": 16}, "d_model is 16, expected 8"),
        ({}, {"layer": {"filter_order": 64}}, "filter_order is 64, expected 6"),
        ({}, {"hyena_order": 3}, "hyena_order is 3, expected 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(changes, settings, message):
    weights, _ = to_hyenadna(build())
    changed = {
        name: weight for name, weight in {**weights, **changes}.items() if weight is not None
    }
    with pytest.raises(InputError, match=message):
        from_hyenadna(changed, settings)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (preset("mamba-demo"), "HyenaDNA's layout needs Hyena in every block, .* 'mamba'"),
        (preset("hyena-demo"), "it needs norm='layer'; an MLP with biases"),
        (
            ModelConfig(
                d_model=8,
                n_layers=1,
                norm="layer",
                mixer=CONFIG.mixer,
                mlp=CONFIG.mlp,
                tie_embeddings=False,
                padded_vocab_size=20,
            ),
            "it needs tie_embeddings=True; padded_vocab_size=16 or equal to vocab_size",
        ),
    ],
)
def test_models_that_hyenadna_cannot_hold_are_not_written(config, message):
    with pytest.raises(InputError, match=message):
        to_hyenadna(DnaModel(config))


def test_the_format_is_told_by_names():
    (layout,) = FORMATS
    weights, settings = to_hyenadna(build())
    for prefix in ("", "model.", "hyena."):
        assert layout.recognises(with_prefix(weights, prefix), {})
    assert not layout.recognises(build().state_dict(), {})
    assert not layout.recognises(DnaModel(preset("mamba-demo")).state_dict(), settings)
