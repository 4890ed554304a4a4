"""Weights to and from transformers' Llama and Mistral: the same numbers on both sides."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models import (
    AttentionConfig,
    DnaModel,
    MlpConfig,
    ModelConfig,
    from_huggingface_llama,
    preset,
    to_huggingface_llama,
)
from dnamamba.models.interop.llama import FORMATS

ROOT = Path(__file__).resolve().parents[1]


def import_transformers() -> ModuleType:
    """transformers uses a package `kernels` if there is one, and would take our folder for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [p for p in sys.path if Path(p).resolve() != ROOT])
        reason = "needs transformers (the test extra)"
        transformers = pytest.importorskip("transformers", reason=reason)
        for name in ("LlamaForCausalLM", "MistralForCausalLM"):
            getattr(transformers, name)  # modules are loaded on first use
        return transformers


transformers = import_transformers()

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
IDS = torch.randint(0, 16, (2, 19), generator=torch.Generator().manual_seed(2))


def build_theirs(name: str = "Llama", **changes: object) -> torch.nn.Module:
    """A tiny model with every parameter drawn at random."""
    sizes = {"vocab_size": 16, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    settings = {**sizes, "num_attention_heads": 4, "use_cache": False, **changes}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**settings)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def read(theirs: torch.nn.Module, **changes: object) -> DnaModel:
    return from_huggingface_llama(theirs.state_dict(), {**theirs.config.to_dict(), **changes})


def logits_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


# From there.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 2, "head_dim": 8},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_theta": 500.0, "rms_norm_eps": 1e-3},
        {"name": "Mistral", "sliding_window": None, "num_key_value_heads": 1},
    ],
    ids=["default", "tied", "grouped", "biases", "theta and eps", "mistral"],
)
def test_their_weights_give_the_same_logits(changes):
    theirs = build_theirs(**changes)
    torch.testing.assert_close(read(theirs)(IDS), logits_of(theirs), **TOLERANCE)


def test_the_config_is_read():
    theirs = build_theirs(
        num_key_value_heads=2, head_dim=8, rope_theta=500.0, rms_norm_eps=1e-3, mlp_bias=True
    )
    assert read(theirs).config == ModelConfig(
        d_model=24,
        n_layers=2,
        vocab_size=16,
        norm_eps=1e-3,
        tie_embeddings=False,
        mixer=AttentionConfig(n_heads=4, n_kv_heads=2, d_head=8, rope_theta=500.0),
        mlp=MlpConfig(activation="swiglu", d_hidden=40, bias=True),
    )


def test_settings_of_earlier_releases_are_read():
    """rope_theta stood outside, and rope_scaling was null."""
    theirs = build_theirs(rope_theta=500.0)
    settings = theirs.config.to_dict()
    del settings["rope_parameters"]
    earlier = {**settings, "rope_theta": 500.0, "rope_scaling": None}
    ours = from_huggingface_llama(theirs.state_dict(), earlier)
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)


def test_a_head_count_is_all_that_must_be_given():
    theirs = build_theirs()
    ours = from_huggingface_llama(theirs.state_dict(), {"num_attention_heads": 4})
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)
    with pytest.raises(InputError, match="give num_attention_heads or head_dim in the settings"):
        from_huggingface_llama(theirs.state_dict(), {})


def test_a_tied_head_may_be_left_out_and_old_buffers_are_not_needed():
    theirs = build_theirs(tie_word_embeddings=True)
    weights = dict(theirs.state_dict())
    del weights["lm_head.weight"]
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)
    ours = from_huggingface_llama(weights, theirs.config.to_dict())
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)


def test_float64_weights_give_a_float64_model():
    theirs = build_theirs().double()
    ours = read(theirs)
    assert ours(IDS).dtype == torch.float64
    torch.testing.assert_close(ours(IDS).float(), logits_of(theirs).float(), **TOLERANCE)


def test_the_vocabulary_may_be_padded():
    theirs = build_theirs()
    ours = from_huggingface_llama(theirs.state_dict(), theirs.config.to_dict(), vocab_size=12)
    logits = ours(IDS)
    assert (logits[..., 12:] == -torch.inf).all()
    torch.testing.assert_close(logits[..., :12], logits_of(theirs)[..., :12], **TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma"}, "model_type 'gemma'; as Llama are read llama and mistral"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not read, only 'silu'"),
        ({"sliding_window": 8}, "sliding_window 8 is not read"),
        ({"model_type": "mistral"}, "sliding_window 4096 is not read"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling .* is not read"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters .* is not read"),
        ({"rope_parameters": {"full": {"rope_theta": 1.0}}}, "rope_parameters .* is not read"),
        ({"rope_theta": 7.0}, "rope_theta is given as 7.0 and as 10000.0; leave one"),
        ({"num_attention_heads": 5, "head_dim": None}, "num_attention_heads 5, which does not"),
        ({"num_attention_heads": 2}, "num_attention_heads is 2, expected 4"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2, expected 4"),
        ({"vocab_size": 12}, "vocab_size is 12, expected 16"),
        ({"num_hidden_layers": 3}, "num_hidden_layers is 3, expected 2"),
        (
            {"tie_word_embeddings": True},
            "ties the head to the embedding, but lm_head.weight is not",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        read(build_theirs(), **changes)


def test_weights_that_do_not_fit_are_named():
    theirs = build_theirs()
    settings, weights = theirs.config.to_dict(), dict(theirs.state_dict())
    with pytest.raises(InputError, match=r"not the weights of a Llama .* no model.embed_tokens"):
        from_huggingface_llama({"backbone.embedding.weight": torch.zeros(16, 8)}, settings)
    extra = {**weights, "model.layers.0.self_attn.q_norm.weight": torch.ones(6)}
    with pytest.raises(InputError, match=r"unknown model.layers.0.self_attn.q_norm.weight"):
        from_huggingface_llama(extra, settings)
    cut = {**weights, "model.layers.1.self_attn.k_proj.weight": torch.ones(24, 23)}
    with pytest.raises(InputError, match=r"missing backbone.layers.1.mixer.in_proj.weight"):
        from_huggingface_llama(cut, settings)
    missing = {n: w for n, w in weights.items() if n != "model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(InputError, match=r"missing .*1.mlp.fc1.weight; unknown .*gate_proj.weight"):
        from_huggingface_llama(missing, settings)
    del weights["lm_head.weight"]
    with pytest.raises(InputError, match=r"missing lm_head.weight"):
        from_huggingface_llama(weights, settings)


# To there.


def build_ours(tied: bool = True, bias: bool = False) -> DnaModel:
    torch.manual_seed(3)
    mixer = AttentionConfig(n_heads=4, n_kv_heads=2, d_head=8, bias=bias, rope_theta=300.0)
    mlp = MlpConfig(activation="swiglu", d_hidden=20, bias=bias)
    config = ModelConfig(
        d_model=24, n_layers=2, vocab_size=16, tie_embeddings=tied, mixer=mixer, mlp=mlp
    )
    model = DnaModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def load_there(weights: dict[str, Tensor], settings: dict[str, Any]) -> torch.nn.Module:
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(settings)).eval()
    theirs.load_state_dict(weights, strict=True)
    return theirs


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_our_weights_give_the_same_logits_there(tied, bias):
    ours = build_ours(tied, bias)
    theirs = load_there(*to_huggingface_llama(ours))
    torch.testing.assert_close(logits_of(theirs), ours(IDS), **TOLERANCE)


def test_a_preset_goes_there_and_comes_back():
    torch.manual_seed(0)
    ours = DnaModel(preset("llama-demo"))
    weights, settings = to_huggingface_llama(ours)
    torch.testing.assert_close(
        logits_of(load_there(weights, settings))[..., :12], ours(IDS)[..., :12], **TOLERANCE
    )
    again = from_huggingface_llama(weights, settings, vocab_size=12)
    assert again.config == ours.config
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_files_are_read_by_from_pretrained(tmp_path):
    ours = build_ours(tied=False)
    weights, settings = to_huggingface_llama(ours)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    transformers.LlamaConfig.from_dict(settings).save_pretrained(tmp_path)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits_of(theirs), ours(IDS), **TOLERANCE)


def test_their_weights_come_back_as_they_were():
    theirs = build_theirs(num_key_value_heads=2, attention_bias=True)
    weights, settings = to_huggingface_llama(read(theirs))
    expected = theirs.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    kept = {"num_key_value_heads": 2, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
    assert {name: settings[name] for name in kept} == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixer": AttentionConfig(n_heads=2, is_causal=False)}, "holds causal attention"),
        ({"mixer": AttentionConfig(n_heads=2, bias=True, out_bias=False)}, "four projections"),
        ({"norm": "layer"}, "holds RMSNorm and a SwiGLU MLP, the model has norm 'layer'"),
        ({"mlp": MlpConfig()}, "holds RMSNorm and a SwiGLU MLP"),
        ({"mlp": None}, "holds RMSNorm and a SwiGLU MLP"),
    ],
    ids=["bidirectional", "one bias", "LayerNorm", "GELU", "no MLP"],
)
def test_models_of_other_blocks_are_not_written(changes, message):
    mixer, mlp = AttentionConfig(n_heads=2), MlpConfig(activation="swiglu")
    config = ModelConfig(**{"d_model": 8, "n_layers": 1, "mixer": mixer, "mlp": mlp, **changes})
    with pytest.raises(InputError, match=message):
        to_huggingface_llama(DnaModel(config))


def test_mamba_is_not_written_as_llama():
    with pytest.raises(
        InputError, match=r"needs Attention in every block, the model's blocks are 'mamba'"
    ):
        to_huggingface_llama(DnaModel(preset("mamba-demo")))


def test_the_format_is_told_by_its_names():
    (ours,) = FORMATS
    weights = build_theirs().state_dict()
    assert ours.name == "huggingface-llama"
    assert ours.recognises(weights, {})
    assert ours.recognises(weights, {"model_type": "mistral"})
    assert not ours.recognises(weights, {"model_type": "gemma"})
    assert not ours.recognises(DnaModel(preset("mamba-demo")).state_dict(), {})
