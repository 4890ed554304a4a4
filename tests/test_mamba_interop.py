"""Mamba-1 and Mamba-2 in the layouts of state-spaces/mamba and of Hugging Face, in and out.

transformers is the judge: its random models read here give the same logits, and so do ours, written
to a folder and loaded there.
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models import DnaModel, Mamba2Config, MambaConfig, ModelConfig
from dnamamba.models.interop import mamba, mamba2
from dnamamba.models.interop.formats import Format
from dnamamba.models.layers import MlpConfig
from golden_files import assert_close, load_golden

ROOT = Path(__file__).resolve().parents[1]
FORMATS = {one.name: one for one in (*mamba.FORMATS, *mamba2.FORMATS)}
IDS = torch.randint(0, 16, (2, 19), generator=torch.Generator().manual_seed(2))
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

MAMBA = MambaConfig(d_state=5, dt_min=2e-3)
MAMBA2 = Mamba2Config(d_state=6, d_head=6, chunk_size=8, n_groups=2)


def import_transformers() -> Any:
    """transformers uses a package `kernels` if there is one, and would take our folder for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [p for p in sys.path if Path(p).resolve() != ROOT])
        transformers = pytest.importorskip("transformers", reason="needs transformers (test extra)")
        for name in ("MambaForCausalLM", "Mamba2ForCausalLM"):
            getattr(transformers, name)  # imported on first use
        return transformers


transformers = import_transformers()


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Parameters that start as constants would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def build_ours(mixer: MambaConfig | Mamba2Config, **changes: Any) -> DnaModel:
    config = ModelConfig(**{"d_model": 12, "n_layers": 2, "vocab_size": 16, **changes}, mixer=mixer)
    return randomise(DnaModel(config))


def build_theirs(kind: str, **changes: Any) -> torch.nn.Module:
    sizes = {"vocab_size": 16, "hidden_size": 12, "num_hidden_layers": 2, "use_cache": False}
    if kind == "Mamba2":
        sizes |= {"state_size": 6, "num_heads": 4, "head_dim": 6, "n_groups": 2, "chunk_size": 8}
    config = getattr(transformers, f"{kind}Config")(**{**sizes, **changes})
    return randomise(getattr(transformers, f"{kind}ForCausalLM")(config))


def save(folder: Path, weights: dict[str, Tensor], settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings))


def read_settings(theirs: torch.nn.Module) -> dict[str, Any]:
    """As in the config.json that they save."""
    return json.loads(theirs.config.to_json_string(use_diff=True))


def logits_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


# From Hugging Face.


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Mamba", {}),
        ("Mamba", {"tie_word_embeddings": False, "use_bias": True, "layer_norm_epsilon": 0.1}),
        ("Mamba", {"use_conv_bias": False, "conv_kernel": 3, "expand": 3, "time_step_rank": 4}),
        ("Mamba2", {}),
        ("Mamba2", {"tie_word_embeddings": True, "n_groups": 1, "layer_norm_epsilon": 0.1}),
        ("Mamba2", {"use_bias": True, "use_conv_bias": False, "n_groups": 4, "conv_kernel": 2}),
        ("Mamba2", {"expand": 3, "num_heads": 6, "time_step_limit": (0.1, 0.6)}),
    ],
)
def test_huggingface_models_give_the_same_logits(kind, changes):
    theirs = build_theirs(kind, **changes)
    layout, settings = FORMATS[f"huggingface-{kind.lower()}"], read_settings(theirs)
    assert layout.recognises(theirs.state_dict(), settings)
    ours = layout.read(theirs.state_dict(), settings)
    assert ours.config.tie_embeddings == theirs.config.tie_word_embeddings
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)


def test_huggingface_mamba_is_read_without_settings():
    theirs = build_theirs("Mamba")
    ours = FORMATS["huggingface-mamba"].read(theirs.state_dict(), {})
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)


# To Hugging Face.


@pytest.mark.parametrize(
    ("mixer", "changes"),
    [
        (MAMBA, {}),
        (MambaConfig(bias=True, conv_bias=False, dt_rank=3), {"tie_embeddings": False}),
        (MAMBA2, {}),
        (MAMBA2, {"tie_embeddings": False}),
        (Mamba2Config(d_head=8, bias=True, conv_bias=False, dt_limit=(0.1, 0.6)), {}),
        (Mamba2Config(d_head=8, norm_eps=0.1, dt_limit=(0.1, math.inf)), {"norm_eps": 0.1}),
    ],
)
def test_our_models_give_the_same_logits_there(tmp_path, mixer, changes):
    ours = build_ours(mixer, **changes)
    kind = "Mamba" if mixer.kind == "mamba" else "Mamba2"
    save(tmp_path, *FORMATS[f"huggingface-{mixer.kind}"].write(ours))
    theirs, info = getattr(transformers, f"{kind}ForCausalLM").from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(info.values()), info
    torch.testing.assert_close(logits_of(theirs), ours(IDS), **TOLERANCE)


@pytest.mark.parametrize("mixer", [MAMBA, MAMBA2], ids=lambda mixer: mixer.kind)
def test_transformers_chooses_the_class_and_generates(tmp_path, mixer):
    ours = build_ours(mixer)
    save(tmp_path, *FORMATS[f"huggingface-{mixer.kind}"].write(ours))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    found = theirs.generate(IDS[:1, :3], max_new_tokens=5, do_sample=False)
    expected = IDS[:1, :3]
    for _ in range(5):
        expected = torch.cat([expected, ours(expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(found, expected)


# Round trips.


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_written_is_read_again(name, tied, dtype):
    mixer = MAMBA if name.endswith("mamba") else replace(MAMBA2, dt_limit=(0.01, math.inf))
    ours = build_ours(mixer, tie_embeddings=tied, residual_in_fp32=False).to(dtype)
    weights, settings = FORMATS[name].write(ours)
    again = FORMATS[name].read(weights, json.loads(json.dumps(settings)))
    assert again.config == ours.config
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize("mixer", [MAMBA, MAMBA2], ids=lambda mixer: mixer.kind)
def test_state_spaces_keeps_layer_norms_and_unused_ids(mixer):
    layout = FORMATS[f"state-spaces-{mixer.kind}"]
    for rows in (16, 20):
        ours = build_ours(mixer, norm="layer", vocab_size=12, padded_vocab_size=rows)
        weights, settings = layout.write(ours)
        assert settings["pad_vocab_size_multiple"] == {16: 8, 20: 20}[rows]
        assert layout.read(weights, settings).config == ours.config


@pytest.mark.parametrize("name", FORMATS)
def test_each_layout_recognises_its_own_and_no_other(name):
    mixer = MAMBA if name.endswith("mamba") else MAMBA2
    written = FORMATS[name].write(build_ours(mixer))
    assert [one for one in FORMATS if FORMATS[one].recognises(*written)] == [name]


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_written_share_no_memory(name):
    weights, _ = FORMATS[name].write(build_ours(MAMBA if name.endswith("mamba") else MAMBA2))
    assert len({tensor.data_ptr() for tensor in weights.values()}) == len(weights)


# state-spaces/mamba.


def test_settings_of_published_mamba_ssm_models_are_read():
    """As beside state-spaces/mamba-130m and mamba2-130m, with smaller sizes."""
    weights, _ = FORMATS["state-spaces-mamba"].write(build_ours(MambaConfig(), vocab_size=13))
    settings = {
        "d_model": 12, "n_layer": 2, "vocab_size": 13, "ssm_cfg": {}, "rms_norm": True,
        "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8,
    }  # fmt: skip
    assert FORMATS["state-spaces-mamba"].read(weights, settings).config.vocab_size == 13
    ours = build_ours(Mamba2Config(d_head=8), vocab_size=13)
    weights, _ = FORMATS["state-spaces-mamba2"].write(ours)
    settings |= {
        "ssm_cfg": {"layer": "Mamba2"}, "d_intermediate": 0, "attn_layer_idx": [], "attn_cfg": {},
        "tie_embeddings": True,
    }  # fmt: skip
    assert FORMATS["state-spaces-mamba2"].read(weights, settings).config == ours.config


@pytest.mark.parametrize("item", ["mamba_lm_a", "mamba_lm_b", "mamba2_lm_a", "mamba2_lm_b"])
def test_golden_weights_in_both_layouts(item):
    golden = load_golden(item)
    given, kind = golden.info["config"], item.split("_")[0]
    ssm_cfg = {key: given[key] for key in ("d_state", "d_conv", "expand", "bias", "conv_bias")}
    if kind == "mamba2":
        ssm_cfg |= {key: given[key] for key in ("headdim", "ngroups", "chunk_size")}
    settings = {
        "d_model": given["d_model"], "n_layer": given["n_layer"], "vocab_size": given["vocab"],
        "ssm_cfg": ssm_cfg, "tie_embeddings": given["tie"],
    }  # fmt: skip
    weights = {name: tensor.double() for name, tensor in golden.group("params").items()}
    theirs = {name.replace("embedding.", "embeddings."): x for name, x in weights.items()}
    for layout, names, said in (
        (FORMATS[f"state-spaces-{kind}"], weights, settings),
        (FORMATS[f"huggingface-{kind}"], theirs, golden.info["hf_config"]),
    ):
        logits = layout.read(names, said)(golden.tensors["in/seq0/ids"])
        expected = golden.tensors["out_f64/seq0/logits"]
        assert_close(logits, expected, rtol=1e-9, atol=1e-12, what=layout.name)


# What is refused.


def refuse_reading(layout: Format, model: DnaModel, changes: dict[str, Any], message: str) -> None:
    weights, settings = layout.write(model)
    ssm_cfg = {**settings.get("ssm_cfg", {}), **changes.pop("ssm_cfg", {})}
    changes = {**changes, "ssm_cfg": ssm_cfg} if ssm_cfg else changes
    with pytest.raises(InputError, match=message):
        layout.read(weights, {**settings, **changes})


@pytest.mark.parametrize("mixer", [MAMBA, MAMBA2], ids=lambda mixer: mixer.kind)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 13, "n_layer": 3}, "d_model is 13, expected 12; n_layer is 3, expected 2"),
        ({"vocab_size": 30}, "vocab_size 30 in multiples of 8 is 32, the embedding has 16 rows"),
        ({"attn_layer_idx": [1]}, r"layers \[1\] are attention \(attn_layer_idx\)"),
        ({"d_intermediate": 48}, "d_intermediate is 48: mamba_ssm's blocks with an MLP are not"),
        ({"rms_norm": False}, "rms_norm is False, expected True"),
        ({"n_layers": 2}, "config.json of mamba_ssm has unknown settings: n_layers"),
        ({"ssm_cfg": {"states": 3}}, "ssm_cfg has settings unknown for Mamba-[12]: states"),
        ({"ssm_cfg": {"layer": "Mamba3"}}, "layer is 'Mamba3', expected 'Mamba[12]'"),
        ({"ssm_cfg": {"d_state": 3}}, "ssm_cfg does not fit the weights: d_state is 3, expected"),
    ],
)
def test_state_spaces_settings_that_do_not_fit_are_refused(mixer, changes, message):
    layout = FORMATS[f"state-spaces-{mixer.kind}"]
    refuse_reading(layout, build_ours(mixer), dict(changes), message)


@pytest.mark.parametrize("mixer", [MAMBA, MAMBA2], ids=lambda mixer: mixer.kind)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 13}, "hidden_size is 13, expected 12"),
        ({"vocab_size": 12}, "vocab_size is 12, expected 16"),
        ({"model_type": "falcon_mamba"}, "model_type is 'falcon_mamba', expected 'mamba"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only SiLU is read"),
        ({"state_size": 7}, "state_size is 7, expected"),
        ({"use_bias": True}, "use_bias is True, expected False"),
    ],
)
def test_huggingface_settings_that_do_not_fit_are_refused(mixer, changes, message):
    layout = FORMATS[f"huggingface-{mixer.kind}"]
    refuse_reading(layout, build_ours(mixer), dict(changes), message)


@pytest.mark.parametrize("name", ["state-spaces-mamba2", "huggingface-mamba2"])
def test_mamba2_needs_its_settings(name):
    weights, _ = FORMATS[name].write(build_ours(MAMBA2))
    with pytest.raises(InputError, match=r"do not say how many groups .* give the config.json"):
        FORMATS[name].read(weights, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssm_cfg": {"ngroups": 5}}, "no whole sizes .* 4 heads, 5 groups that share 24 channels"),
        ({"ssm_cfg": {"ngroups": 4}}, "d_state is 6, expected 3"),
        ({"ssm_cfg": {"rmsnorm": False}}, "rmsnorm is False, expected True"),
        ({"ssm_cfg": {"D_has_hdim": True}}, "D_has_hdim is True, expected False"),
        ({"ssm_cfg": {"d_ssm": 8}}, "d_ssm is 8: mixers that are partly an MLP are not read"),
    ],
)
def test_mamba2_variants_are_refused(changes, message):
    refuse_reading(FORMATS["state-spaces-mamba2"], build_ours(MAMBA2), dict(changes), message)


@pytest.mark.parametrize("name", FORMATS)
def test_a_head_that_is_not_the_embedding_is_not_tied(name):
    mixer = MAMBA if name.endswith("mamba") else MAMBA2
    weights, settings = FORMATS[name].write(build_ours(mixer, tie_embeddings=False))
    key = "tie_embeddings" if "tie_embeddings" in settings else "tie_word_embeddings"
    with pytest.raises(InputError, match=r"it ties the head to the embedding, but lm_head.weight"):
        FORMATS[name].read(weights, {**settings, key: True})


@pytest.mark.parametrize("name", FORMATS)
def test_weights_of_other_architectures_are_refused(name):
    layout = FORMATS[name]
    with pytest.raises(InputError, match=r"not the weights of a Mamba-[12] language model: "):
        layout.read({"model.embed_tokens.weight": torch.zeros(16, 8)}, {})
    other = build_ours(MAMBA2 if name.endswith("mamba") else MAMBA)
    with pytest.raises(
        InputError, match=r"layout needs Mamba2? in every block, the model's blocks are 'mamba2?'"
    ):
        layout.write(other)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_layout_cannot_hold_is_not_written(name):
    mixer = MAMBA if name.endswith("mamba") else MAMBA2
    with pytest.raises(InputError, match=r"the model has MLPs; .* has none"):
        FORMATS[name].write(build_ours(mixer, mlp=MlpConfig()))
    if name.startswith("huggingface"):
        with pytest.raises(InputError, match="norm is 'layer': Hugging Face's Mamba has RMSNorm"):
            FORMATS[name].write(build_ours(mixer, norm="layer"))
    else:
        with pytest.raises(InputError, match=r"norm_eps is 0.1: state-spaces/mamba always adds"):
            FORMATS[name].write(build_ours(mixer, norm_eps=0.1))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "huggingface-mamba2",
            {"norm_before_gate": True},
            "gate is True: Hugging Face",
        ),
        ("huggingface-mamba2", {"norm_eps": 0.1}, "norm_eps is 1e-05 in blocks and 0.1 in mixers"),
        (
            "state-spaces-mamba2",
            {"norm_eps": 0.1},
            "the mixers. norm_eps is 0.1",
        ),
    ],
)
def test_mamba2_variants_that_a_layout_cannot_hold_are_not_written(name, changes, message):
    with pytest.raises(InputError, match=message):
        FORMATS[name].write(build_ours(replace(MAMBA2, **changes)))
