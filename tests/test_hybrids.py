"""Models of several kinds of mixer: patterns, presets, files, streams, costs."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dnamamba.classification.config import default_learning_rate
from dnamamba.configs import from_dict, to_dict
from dnamamba.convert import check_model, export_model
from dnamamba.errors import InputError
from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    HyenaConfig,
    Mamba2Config,
    MambaConfig,
    MlpConfig,
    ModelConfig,
    S4Config,
    count_flops,
    count_parameters,
    no_weight_decay_names,
    preset,
)
from dnamamba.models.interop.registry import FORMATS
from dnamamba.models.recompute import RECOMPUTE
from dnamamba.models.streaming import longest_sequence, why_no_stream
from dnamamba.pretraining.config import peak_learning_rate
from dnamamba.pretraining.objectives import NextToken
from dnamamba.runtime import Compute, Ranks
from dnamamba.training.memory_plan import estimate_memory
from model_cases import (
    MAMBA_ATTENTION,
    MAMBA_BIMAMBA,
    STRIPED_HYENA,
    check_parts_are_one_pass,
    count_built,
    draw_ids,
    of_mixer,
    tiny_model,
)

PATTERNS = [MAMBA_ATTENTION, STRIPED_HYENA, MAMBA_BIMAMBA]
ON_A_CPU = Compute(torch.device("cpu"), None, Ranks(0, 0, 1, 1))


def build(mixer=MAMBA_ATTENTION, n_layers: int = 4, **more) -> DnaModel:
    return tiny_model(mixer, n_layers=n_layers, **more).eval()


# --- patterns


def test_pattern_is_repeated_and_cut_off():
    mamba, attention = MAMBA_ATTENTION
    config = build((mamba, mamba, attention), n_layers=5).config
    assert [m.kind for m in config.mixers] == ["mamba", "mamba", "attention", "mamba", "mamba"]
    assert config.mixer is None
    assert config.mixer_kind == "mamba+attention"


def test_open_sizes_of_every_layer_are_filled_in():
    mamba, attention = build().config.layers
    assert (mamba.dt_rank, attention.d_head) == (1, 4)


def test_pattern_of_equal_mixers_is_a_plain_model():
    plain = ModelConfig(d_model=8, n_layers=2, mixer=MambaConfig())
    assert ModelConfig(d_model=8, n_layers=2, layers=(MambaConfig(), MambaConfig())) == plain


def test_wrong_patterns_are_refused():
    with pytest.raises(InputError, match=r"give mixer .* or layers .*, not both"):
        ModelConfig(d_model=8, n_layers=2, mixer=MambaConfig(), layers=MAMBA_ATTENTION)
    with pytest.raises(InputError, match="a pattern of 2 layers must fit into n_layers 1"):
        ModelConfig(d_model=8, n_layers=1, layers=MAMBA_ATTENTION)
    with pytest.raises(InputError, match="d_model 9 must be a multiple of n_heads 2"):
        ModelConfig(d_model=9, n_layers=2, layers=MAMBA_ATTENTION)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_block_has_the_mixer_and_the_values_of_its_kind(pattern):
    """A hybrid's numbers are those of its blocks one after the other."""
    model, ids = build(pattern), draw_ids()
    kinds = [type(block.mixer).__name__ for block in model.backbone.layers]
    assert kinds == [m.kind for m in model.config.mixers] or len(set(kinds)) == 2
    x = model.backbone.embedding(ids)
    for block in model.backbone.layers:
        x = x + block.mixer(block.norm(x)[0])[0]
    torch.testing.assert_close(model.predict(model.backbone.norm_f(x)[0]), model(ids))


@pytest.mark.parametrize("recompute", RECOMPUTE)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_recomputing_changes_no_gradient(pattern, recompute):
    model, ids = build(pattern).train(), draw_ids()
    gradients = []
    for way in ("nothing", recompute):
        model.zero_grad()
        model(ids, recompute=way)[..., 7:11].square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*gradients)


# --- presets


@pytest.mark.parametrize(
    ("name", "expected", "n_attention"),
    [
        ("mamba-attention-demo", 115_648, 1),
        ("mamba-attention-260k", 246_464, 1),
        ("mamba-attention-680k", 652_896, 1),
        ("mamba-attention-1.4m", 1_299_584, 2),
        ("mamba-attention-7m", 6_661_376, 2),
        ("striped-hyena-demo", 113_600, 1),
        ("striped-hyena-1.4m", 1_240_768, 3),
        ("striped-hyena-7m", 6_417_920, 4),
    ],
)
def test_presets_have_these_parameters(name, expected, n_attention):
    config = preset(name)
    assert count_parameters(config) == count_built(config) == expected
    assert [m.kind for m in config.mixers].count("attention") == n_attention


def test_filters_of_a_striped_hyena_are_made_for_a_length():
    config = preset("striped-hyena-1.4m", seq_len=1024)
    assert config.layers[0].l_max == longest_sequence(config) == 1024
    assert preset("mamba-attention-1.4m", seq_len=1024) == preset("mamba-attention-1.4m")


def test_rates_are_the_least_of_any_layer():
    assert peak_learning_rate(preset("mamba-attention-demo")) == 2e-3
    assert default_learning_rate(preset("striped-hyena-demo"), "full") == 4e-5
    assert default_learning_rate(preset("mamba-attention-demo"), "full") == 1e-4


def test_weight_decay_leaves_alone_what_each_mixer_names():
    names = no_weight_decay_names(
        build((MambaConfig(), HyenaConfig(l_max=64), Mamba2Config(d_head=8)))
    )
    exempt = {f"backbone.layers.{n}" for n in ("0.mixer.A_log", "0.mixer.D", "0.norm.weight")}
    exempt |= {"backbone.layers.1.mixer.filter_fn.implicit_filter.0.weight"}
    exempt |= {"backbone.layers.2.mixer.norm.weight", "backbone.layers.2.mixer.dt_bias"}
    assert exempt <= names
    assert "backbone.layers.1.mixer.out_proj.weight" not in names


# --- files


@pytest.mark.parametrize("name", ["mamba-attention-demo", "striped-hyena-demo"])
def test_saved_hybrid_is_loaded_again(name, tmp_path):
    model = DnaModel(preset(name, 64)).eval()
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["format_version"] == 2
    assert "mixer" not in stored["model"]
    assert [layer["kind"] for layer in stored["model"]["layers"]].count("attention") == 1
    again = DnaModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert torch.equal(again(draw_ids()), model(draw_ids()))


def test_plain_model_is_written_as_before(tmp_path):
    """Readable by versions that know no layers: format_version 1, and no such key."""
    build(MambaConfig()).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["format_version"] == 1
    assert "layers" not in stored["model"]
    assert stored["model"]["mixer"]["kind"] == "mamba"


def test_unknown_keys_of_a_layer_are_named():
    stored = to_dict(build().config)
    assert from_dict(ModelConfig, stored) == build().config
    stored["layers"][1]["heads"] = 2
    with pytest.raises(InputError, match=r"ModelConfig.layers\[1\]: unknown setting 'heads'"):
        from_dict(ModelConfig, stored)


def test_no_other_project_holds_a_hybrid(tmp_path):
    model = build()
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"none is known for models of kind 'mamba\+attention'"):
        export_model(tmp_path / "model", tmp_path / "out")
    assert "mamba+attention, d_model 8" in "\n".join(check_model(tmp_path / "model"))
    for layout in FORMATS:
        with pytest.raises(InputError, match=r"'mamba\+attention'"):
            layout.write(model)


# --- streams


def test_hybrid_of_states_streams():
    config = preset("mamba-attention-demo")
    assert why_no_stream(config) is None
    check_parts_are_one_pass(DnaModel(config).double().eval(), draw_ids(), [3, 4, 11])


def test_keys_and_values_grow_with_the_tokens():
    *_, last = build().stream(draw_ids(), chunk_tokens=8)
    shapes = [[tuple(part.shape) for part in state] for state in last.state]
    assert shapes == 2 * [[(2, 3, 16), (2, 16, 4)], [(2, 20, 2, 4)] * 2]


@pytest.mark.parametrize(
    "mixer",
    [
        *(MambaConfig(d_state=4), Mamba2Config(d_state=8, d_head=4), AttentionConfig(n_heads=2)),
        *(S4Config(d_state=4), S4Config(d_state=4, init="lin"), MAMBA_ATTENTION),
    ],
)
def test_allocated_state_is_that_before_the_first_token(mixer):
    model, ids = build(mixer).double(), draw_ids()
    state = model.allocate_state(2)
    whole, after = model(ids, return_state=True)
    found, found_after = model(ids, state=state, return_state=True)
    torch.testing.assert_close(found, whole)
    torch.testing.assert_close(found_after, after)
    x, steps = torch.randn(2, 3, 8, dtype=torch.float64), []
    layer, own = model.backbone.layers[-1].mixer, state[-1]
    for token in x.unbind(1):
        y, own = layer.step(token, own)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), layer(x)[0])


@pytest.mark.parametrize("mixer", [HyenaConfig(l_max=64), BiMambaConfig(), STRIPED_HYENA])
def test_models_without_a_state_allocate_none(mixer):
    with pytest.raises(InputError, match="no state"):
        build(mixer).allocate_state(1)


# --- costs


def test_memory_of_the_largest_block_is_counted():
    """The backward of one block holds as much again: here of the wider one."""
    wide = (MambaConfig(), MambaConfig(expand=8))
    mean, largest = (
        estimate_memory(NextToken(model), ON_A_CPU, model.config).per_token
        for model in (build(MambaConfig(expand=8), n_layers=2), build(wide, n_layers=2))
    )
    residual = 4 * 8 * 2
    assert largest["blocks"] - residual == pytest.approx(mean["blocks"] - residual, rel=0.1)
    assert largest["blocks"] < largest["cheap"] < largest["nothing"]


def test_scans_of_a_hybrid_are_kept_by_cheap():
    model = build()
    memory = estimate_memory(NextToken(model), ON_A_CPU, model.config)
    plain = build(MambaConfig(d_state=4), n_layers=2)
    scans = estimate_memory(NextToken(plain), ON_A_CPU, plain.config).per_token
    kept = memory.per_token["cheap"] - memory.per_token["blocks"]
    assert kept == pytest.approx(scans["cheap"] - scans["blocks"])
    striped = build(STRIPED_HYENA)
    assert "cheap" not in estimate_memory(NextToken(striped), ON_A_CPU, striped.config).per_token


def count_products(model: DnaModel, ids) -> int:
    """Of matrix products, by torch; it counts no attention on a CPU."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    return counter.get_total_flops()


@pytest.mark.parametrize("bias", [False, True])
def test_flops_of_attention_are_products_and_pairs_of_positions(bias):
    mixer = AttentionConfig(n_heads=2, n_kv_heads=1, is_causal=False, bias=bias)
    model = build(mixer, mlp=MlpConfig(activation="swiglu"), strands="both")
    products, pair = count_products(model, draw_ids(1, 20)), 2 * 4 * 4 * 8
    assert count_flops(model.config, 20) == products + 20 * 20 * pair
    causal = replace(model.config, mixer=replace(mixer, is_causal=True))
    assert count_flops(causal, 20) == products + 20 * 21 // 2 * pair


@pytest.mark.parametrize(
    ("mixer", "other"),
    [
        (MambaConfig(d_state=4), 16 * (2 * 4 + 7 * 4)),
        (BiMambaConfig(d_state=4), 2 * 16 * (2 * 4 + 7 * 4)),
        (BiMambaConfig(d_state=4, strategy="ew_multiply"), 2 * 16 * (2 * 4 + 7 * 4)),
        (BiMambaConfig(d_state=4, tie_projections=False), 2 * 16 * (2 * 4 + 7 * 4)),
    ],
)
def test_flops_of_mamba_are_products_convolution_and_scan(mixer, other):
    """other: a token and layer, 2 d_conv and 7 d_state a channel, which are no matrix products."""
    model = build(mixer)
    products = count_products(model, draw_ids(1, 20))
    assert count_flops(model.config, 20) == products + 4 * 20 * other


def test_flops_grow_with_the_length_as_the_mixer_does():
    def ratio(mixer) -> float:
        config = ModelConfig(d_model=64, n_layers=1, **of_mixer(mixer))
        return count_flops(config, 1 << 20) / count_flops(config, 1 << 19)

    assert ratio(MambaConfig()) == ratio(Mamba2Config()) == 2
    assert 2 < ratio(HyenaConfig()) < 2.1
    assert 2 < ratio(S4Config()) < 2.1
    assert 3.9 < ratio(AttentionConfig(n_heads=2)) < 4


def test_mamba2_takes_less_in_shorter_chunks():
    short, long = (Mamba2Config(chunk_size=size).flops(64, 4096) for size in (64, 256))
    assert long - short == 4096 * 2 * (256 - 64) * (128 + 128)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gpu_stream_of_a_hybrid_is_one_pass(dtype):
    model, ids = DnaModel(preset("mamba-attention-demo")).cuda().eval(), draw_ids(2, 500).cuda()
    with torch.no_grad(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        (expected,) = model.hidden_at(ids, [-1])
        chunks = [chunk.hidden[0] for chunk in model.stream(ids, chunk_tokens=128)]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(torch.cat(chunks, 1), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["mamba-attention", "striped-hyena"])
@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_gpu_gradients_of_a_hybrid_are_those_of_a_cpu(family, recompute):
    model, ids = DnaModel(preset(f"{family}-demo", 256)), draw_ids(2, 256)
    gradients = []
    for device in ("cpu", "cuda"):
        model, ids = model.to(device), ids.to(device)
        model.zero_grad()
        model(ids, recompute=recompute)[..., 7:11].square().mean().backward()
        gradients.append([parameter.grad.clone().cpu() for parameter in model.parameters()])
    for found, expected in zip(*reversed(gradients), strict=True):
        assert (found - expected).norm() <= 1e-3 * expected.norm() + 1e-7


@pytest.mark.parametrize("settings", [{"mixer": "mamba"}, {"layers": ("mamba", "hyena")}])
def test_a_name_in_place_of_a_mixers_config_is_refused(settings):
    with pytest.raises(InputError, match="a mixer must be a config such as MambaConfig"):
        ModelConfig(d_model=8, n_layers=2, **settings)
