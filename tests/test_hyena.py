"""Hyena models: sizes, filters, what they compute, the official code's numbers."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import (
    DnaModel,
    HyenaConfig,
    MlpConfig,
    ModelConfig,
    count_parameters,
    from_hyenadna,
    no_weight_decay_names,
    preset,
)
from dnamamba.models.interop.hyena import load_positions
from dnamamba.models.language_model import extend_filters
from dnamamba.models.mixers.hyena import Hyena
from dnamamba.models.streaming import longest_sequence
from golden_files import Golden, assert_close, load_golden
from golden_models import (
    GRADIENTS,
    check_logits_in_float32,
    check_tensors,
    gradients_of,
    name_hidden_states,
    next_token_loss,
    read_sequences,
)
from model_cases import build_model, count_built, draw_ids

TINY = ModelConfig(
    d_model=8, n_layers=2, mixer=HyenaConfig(l_max=64, filter_order=8), mlp=MlpConfig()
)


def build_tiny(dtype: torch.dtype = torch.float64, config: ModelConfig = TINY) -> DnaModel:
    return build_model(config, dtype)


# Sizes and settings.

# Figure 5 of the Mamba paper, exact.
PAPER_PARAMETERS = {
    "hyena-260k": 254_016,
    "hyena-680k": 638_272,
    "hyena-1.4m": 1_298_176,
    "hyena-3.5m": 3_272_768,
    "hyena-7m": 6_535_936,
    "hyena-19m": 18_107_648,
    "hyena-41m": 38_372_608,
}


@pytest.mark.parametrize(("name", "expected"), PAPER_PARAMETERS.items())
def test_presets_have_the_papers_parameter_counts(name, expected):
    assert count_parameters(preset(name)) == count_built(preset(name)) == expected


@pytest.mark.parametrize(
    ("name", "d_model", "n_layers", "l_max", "millions"),
    [
        ("hyenadna-tiny-1k", 128, 2, 1026, 0.44),
        ("hyenadna-tiny-1k-d256", 256, 2, 1026, 1.64),
        ("hyenadna-tiny-16k-d128", 128, 2, 16_386, 0.44),
        ("hyenadna-small-32k", 256, 4, 32_770, 3.28),
        ("hyenadna-medium-160k", 256, 8, 160_002, 6.55),
        ("hyenadna-medium-450k", 256, 8, 450_002, 6.55),
        ("hyenadna-large-1m", 256, 8, 1_000_002, 6.55),
    ],
)
def test_published_models(name, d_model, n_layers, l_max, millions):
    config = preset(name)
    assert (config.d_model, config.n_layers, config.mixer.l_max) == (d_model, n_layers, l_max)
    assert (config.norm, config.mlp.bias) == ("layer", True)
    assert round(count_parameters(config) / 1e6, 2) == millions


def test_filters_of_a_preset_are_made_for_the_length_it_is_asked_for():
    assert preset("hyena-1.4m").mixer.l_max == 1 << 20
    assert preset("hyena-1.4m", seq_len=1024).mixer.l_max == 1024
    assert preset("hyenadna-tiny-1k", seq_len=512) == preset("hyenadna-tiny-1k")
    assert preset("mamba-demo", seq_len=512) == preset("mamba-demo")


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        ModelConfig(d_model=6, n_layers=1, mixer=HyenaConfig(order=4, filter_layers=1, d_conv=4)),
        ModelConfig(d_model=6, n_layers=3, mixer=HyenaConfig(emb_dim=7, filter_order=5)),
        replace(preset("hyenadna-tiny-1k"), n_layers=1, tie_embeddings=False),
    ],
)
def test_count_parameters_equals_a_built_model(config):
    assert count_parameters(config) == count_built(config)


def test_config_survives_json():
    stored = json.loads(json.dumps(to_dict(TINY)))
    assert stored["mixer"]["kind"] == "hyena"
    assert from_dict(ModelConfig, stored) == TINY


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": 1}, "order must be a whole number >= 2, got 1"),
        ({"emb_dim": 4}, "emb_dim must be odd and >= 3 .*, got 4"),
        ({"l_max": 0}, "l_max must be a whole number >= 1, got 0"),
        ({"filter_layers": 0}, "filter_layers must be a whole number >= 1, got 0"),
        ({"beyond": "wrap"}, r"beyond: expected one of .'refuse', 'zero'., got 'wrap'"),
        ({"dropout": 0.1}, "unknown setting 'dropout'"),
    ],
)
def test_config_refuses_what_makes_no_filter(changes, message):
    stored = to_dict(TINY)
    with pytest.raises(InputError, match=message):
        from_dict(ModelConfig, {**stored, "mixer": {**stored["mixer"], **changes}})


def test_initial_values():
    config = ModelConfig(d_model=64, n_layers=3, mixer=HyenaConfig(w=7.0), mlp=MlpConfig())
    for block in build_tiny(torch.float32, config).backbone.layers:
        mixer = block.mixer
        assert mixer.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)
        scaled = 0.02 / math.sqrt(2 * 3)
        assert mixer.out_proj.weight.std().item() == pytest.approx(scaled, rel=0.1)
        assert mixer.in_proj.bias.abs().max() == 0
        # torch's rule for a convolution with 3 inputs.
        assert mixer.short_filter.weight.abs().max() <= 3**-0.5
        network = mixer.filter_fn.implicit_filter
        assert torch.equal(network["1"].freq, torch.full((1, 64), 7.0))
        assert network["2"].weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert mixer.filter_fn.bias.std().item() == pytest.approx(1, rel=0.3)


def test_weight_decay_leaves_the_filters_alone():
    exempt = no_weight_decay_names(build_tiny())
    names = {name for name, _ in build_tiny().named_parameters()}
    decayed = {name.removeprefix("backbone.layers.0.") for name in names - exempt}
    assert {name for name in decayed if not name.startswith("backbone.layers.1.")} == {
        "backbone.embedding.weight",
        *(f"mixer.{name}.weight" for name in ("in_proj", "short_filter", "out_proj")),
        *(f"mlp.{name}.weight" for name in ("fc1", "fc2")),
    }


# Filters.


def test_a_filter_starts_the_same_however_long_the_sequence_is():
    filter_fn = build_tiny().backbone.layers[0].mixer.filter_fn
    longest = filter_fn(64)
    for seq_len in (1, 5, 63):
        torch.testing.assert_close(filter_fn(seq_len), longest[:seq_len])


def test_a_filter_is_stretched_over_l_max():
    """Twice as long, a filter has the same values at the same share of its length."""

    def filter_of(l_max: int) -> Tensor:
        mixer = replace(TINY.mixer, l_max=l_max)
        return (
            build_tiny(config=replace(TINY, mixer=mixer)).backbone.layers[0].mixer.filter_fn(l_max)
        )

    # From 0 to 1 for both, so every second position is close to the same place.
    torch.testing.assert_close(filter_of(2000)[::2], filter_of(1000), rtol=0.01, atol=1e-3)


def test_a_filter_of_a_million_positions():
    model = DnaModel(ModelConfig(d_model=2, n_layers=1, mixer=HyenaConfig(filter_order=4)))
    with torch.no_grad():
        filters = model.backbone.layers[0].mixer.filter_fn(1 << 20)
    assert filters.shape == (1 << 20, 2)
    assert filters.isfinite().all()


def test_filters_are_float32_under_autocast():
    filter_fn = build_tiny(torch.float32).backbone.layers[0].mixer.filter_fn
    expected = filter_fn(20)
    with torch.autocast("cpu", torch.bfloat16):
        found = filter_fn(20)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# What the model computes.


def test_the_future_is_not_seen():
    model, ids = build_tiny(), draw_ids()
    changed = ids.clone()
    changed[:, 10:] = 7 + (changed[:, 10:] - 6) % 5
    before, after = model(ids)[:, :10, :12], model(changed)[:, :10, :12]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)
    assert not torch.allclose(model(ids)[:, 10:, :12], model(changed)[:, 10:, :12])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_padding_on_the_right_changes_real_positions_by_rounding_alone(dtype, tolerance):
    """Longer transforms round differently: unlike Mamba's, logits are not equal bit for bit."""
    model, ids = build_tiny(dtype), draw_ids(seq_len=37)
    padded = torch.cat([ids, ids.new_full((2, 27), 4)], dim=1)
    alone, beside = model(ids)[..., :12], model(padded)[:, :37, :12]
    scale = alone.abs().max().item()
    torch.testing.assert_close(beside, alone, rtol=0, atol=tolerance * scale)


def test_a_sequence_in_a_batch_is_as_alone():
    model, ids = build_tiny(), draw_ids()
    torch.testing.assert_close(model(ids)[1:], model(ids[1:]), rtol=0, atol=1e-13)


def test_recomputed_blocks_give_the_same_gradients():
    def gradients(**options: object) -> list[Tensor]:
        model = build_tiny()
        logits = model(draw_ids(), **options)
        functional.cross_entropy(logits.flatten(0, 1), draw_ids().flatten()).backward()
        return [parameter.grad for parameter in model.parameters()]

    expected = gradients()
    for recompute in ("cheap", "blocks"):
        torch.testing.assert_close(gradients(recompute=recompute), expected, rtol=0, atol=0)


def test_bf16_autocast_is_close_and_trains():
    model, ids = build_tiny(torch.float32), draw_ids(seq_len=64)
    expected = model(ids)[..., :12]
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids)[..., :12]
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    found.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_it_learns_to_repeat_what_it_saw():
    """The second half repeats the first, four tokens back."""
    torch.manual_seed(1)
    mixer = HyenaConfig(l_max=8, filter_order=16)
    model = DnaModel(ModelConfig(d_model=32, n_layers=2, mixer=mixer, mlp=MlpConfig()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        half = torch.randint(7, 11, (16, 4))
        ids = torch.cat([half, half], 1)
        logits = model(ids)[:, 3:-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 4:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.5 * math.log(4)


def test_a_state_is_refused():
    model = build_tiny()
    with pytest.raises(InputError, match=r"no state to go on from: .* give whole sequences"):
        model(draw_ids(), return_state=True)
    with pytest.raises(InputError, match="carry no state"):
        model(draw_ids(), state=[(torch.zeros(1),), (torch.zeros(1),)])


def test_a_sequence_longer_than_the_filters_is_refused():
    with pytest.raises(InputError, match=r"65 tokens is longer than .* l_max = 64: use shorter"):
        build_tiny()(draw_ids(seq_len=65))


def extended_layer() -> tuple[Hyena, Hyena]:
    """A layer with filters of 16 taps, and the same with filters that are zero from there on."""
    config = HyenaConfig(l_max=16, filter_order=8)
    torch.manual_seed(0)
    layers = [Hyena(4, replace(config, beyond=each)).double() for each in ("refuse", "zero")]
    for parameter in layers[0].parameters():
        parameter.data += 0.5 * torch.randn_like(parameter)
    layers[1].load_state_dict(layers[0].state_dict())
    return layers[0], layers[1]


def test_filters_that_end_are_those_of_short_sequences():
    layer, extended = extended_layer()
    x = torch.randn(2, 16, 4, dtype=torch.float64)
    assert torch.equal(extended(x)[0], layer(x)[0])
    filters = layer.filter_fn(16)
    long = torch.randn(1, 50, 4, dtype=torch.float64)
    taps = extended.short_filter
    projected = functional.conv1d(extended.in_proj(long).mT, taps.weight, taps.bias, 1, 2, 1, 12)
    gate_out, gate_in, v = projected[..., :50].mT.split(4, -1)
    u = gate_in * v
    y = torch.stack(
        [sum(filters[n] * u[0, t - n] for n in range(min(16, t + 1))) for t in range(50)]
    )
    expected = extended.out_proj(gate_out[0] * (y + layer.filter_fn.bias * u[0]))
    assert_close(extended(long)[0][0], expected, rtol=1e-9, atol=1e-9, what="y")


def test_a_layer_sees_as_far_back_as_its_filters_reach():
    _, extended = extended_layer()
    x = torch.randn(1, 50, 4, dtype=torch.float64).requires_grad_()
    extended(x)[0][0, -1].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 1e-9
    # 16 taps, each of what three taps of the short convolution see.
    assert torch.equal(seen, torch.arange(50) >= 50 - 18)


def test_an_extended_model_is_saved_as_such(tmp_path):
    model = build_tiny(torch.float32)
    extended = extend_filters(model)
    ids = draw_ids(seq_len=64)
    assert torch.equal(extended(ids), model(ids))
    extended.save_pretrained(tmp_path)
    read = DnaModel.from_pretrained(tmp_path)
    ids = draw_ids(seq_len=200)
    assert torch.equal(read(ids), extended(ids))
    assert longest_sequence(read.config) is None
    assert longest_sequence(model.config) == 64


def test_only_a_hyenas_filters_are_extended():
    with pytest.raises(InputError, match=r"only Hyena has filters to extend; .* 'mamba'"):
        extend_filters(DnaModel(ModelConfig(d_model=8, n_layers=1)))


def test_a_saved_model_is_the_same(tmp_path):
    model = build_tiny(torch.float32)
    model.save_pretrained(tmp_path)
    read = DnaModel.from_pretrained(tmp_path)
    assert read.config == TINY
    assert torch.equal(read(draw_ids()), model(draw_ids()))


# The official code's numbers.

ITEMS = ["hyenadna_a", "hyenadna_b"]
CASES = ["order2", "order3", "order2_L1"]
# With positions and decays loaded, and with our own, not rounded to float32 as theirs are.
TOLERANCE = {True: {"rtol": 1e-9, "atol": 1e-12}, False: {"rtol": 0.0, "atol": 1e-5}}


@pytest.fixture(scope="module", params=ITEMS)
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture(params=[True, False], ids=["loaded", "computed"])
def is_loaded(request) -> bool:
    return request.param


@pytest.fixture
def official_model(golden, is_loaded) -> DnaModel:
    return read_official(golden, is_loaded)


def read_official(golden: Golden, is_loaded: bool, shift: float = 0.05) -> DnaModel:
    weights = {name: tensor.double() for name, tensor in golden.group("params").items()}
    model = from_hyenadna(weights, {"shift": shift})
    if is_loaded:
        load_positions(model, weights)
    return model


def test_golden_config_is_read_off_the_weights(golden, official_model):
    given = golden.info["config"]
    assert official_model.config == ModelConfig(
        d_model=given["d_model"],
        n_layers=given["n_layer"],
        vocab_size=16,
        norm="layer",
        mixer=HyenaConfig(
            **{key: given[key] for key in ("l_max", "order", "filter_order", "emb_dim", "w")}
        ),
        mlp=MlpConfig(bias=True, d_hidden=given["d_inner"]),
    )


def test_golden_logits_and_hidden_states(golden, official_model, is_loaded):
    weight, bias = (
        golden.tensors[f"params/head.output_transform.{name}"].double()
        for name in ("weight", "bias")
    )
    for ids, expected in read_sequences(golden):
        found = name_hidden_states(official_model.hidden_states(ids))
        found["logits"] = official_model(ids)
        found["head_logits"] = functional.linear(found["hidden_final"].mean(1), weight, bias)
        for name, tensor in expected.items():
            assert_close(found[name], tensor, **TOLERANCE[is_loaded], what=name)


def test_golden_logits_without_the_shift(golden, is_loaded):
    model = read_official(golden, is_loaded, shift=0.0)
    expected = golden.tensors["out_f64_shift0/seq0/logits"]
    found = model(golden.tensors["in/seq0/ids"])
    assert_close(found, expected, **TOLERANCE[is_loaded], what="logits")


def test_golden_filters(golden, official_model, is_loaded):
    for index, block in enumerate(official_model.backbone.layers):
        for name, expected in golden.group(f"filter/layer{index}").items():
            found = block.mixer.filter_fn(int(name.removeprefix("k_f64_L")))
            assert_close(found, expected, **TOLERANCE[is_loaded], what=f"{name} of layer {index}")


def test_golden_operator_of_the_first_layer(golden, official_model, is_loaded):
    mixer = official_model.backbone.layers[0].mixer
    found, _ = mixer(golden.group("mixer0/in")["x"].double())
    expected = golden.group("mixer0/out_f64")["y"]
    assert_close(found, expected, **TOLERANCE[is_loaded], what="y")


def test_golden_logits_in_float32(golden, official_model):
    check_logits_in_float32(official_model, golden)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_loss_and_gradients(golden, official_model, is_loaded, dtype):
    model = official_model.to(dtype)
    loss = next_token_loss(model, golden.tensors["in/seq0/ids"])
    loss.backward()
    tolerance = TOLERANCE[is_loaded] if dtype == torch.float64 else GRADIENTS[dtype]
    assert_close(loss, golden.tensors["out_f64/loss"], **tolerance, what="loss")
    found = {_official_name(name): gradient for name, gradient in gradients_of(model).items()}
    check_tensors(found, golden.group("grad_f64"), tolerance)


def _official_name(name: str) -> str:
    for own, theirs in (
        ("embedding.", "embeddings.word_embeddings."),
        (".norm.", ".norm1."),
        (".norm_f.", ".ln_f."),
    ):
        name = name.replace(own, theirs)
    return name


@pytest.fixture(params=CASES)
def case(request) -> Golden:
    golden = load_golden("hyena_operator_a")
    name = request.param
    return Golden(golden.name, golden.info["cases"][name], golden.group(name))


def build_operator(case: Golden) -> Hyena:
    """The operator alone, with the positions stored beside its weights."""
    given = case.info
    keys = ("l_max", "order", "filter_order", "emb_dim", "w", "shift")
    mixer = Hyena(given["d_model"], HyenaConfig(**{key: given[key] for key in keys})).double()
    weights = {name: tensor.double() for name, tensor in case.group("params").items()}
    t, z = (weights.pop(f"filter_fn.pos_emb.{name}")[0] for name in ("t", "z"))
    mixer.filter_fn.load_positions(t, z, weights.pop("filter_fn.modulation.deltas").flatten())
    own = mixer.state_dict().keys()
    mixer.load_state_dict({name: weights[name] for name in own})
    return mixer


def test_golden_operator_of_any_order(case):
    """With the channel layout of the standalone code for orders above 2."""
    mixer = build_operator(case)
    x = case.tensors["in/x"].double().requires_grad_()
    y, _ = mixer(x)
    tolerance = TOLERANCE[True]
    assert_close(mixer.filter_fn(x.shape[1]), case.tensors["out_f64/k"], **tolerance, what="k")
    assert_close(y, case.tensors["out_f64/y_standalone"], **tolerance, what="y")
    (y * case.tensors["in/w_out"].double()).sum().backward()
    found = {"x": x.grad, **{name: p.grad for name, p in mixer.named_parameters()}}
    check_tensors(found, case.group("grad_standalone_f64"), tolerance)


@pytest.mark.gpu
def test_gpu_a_step_at_a_million_tokens_fits_40_gib():
    """The 7M model with recomputed blocks in bf16, without the optimiser."""
    model = DnaModel(preset("hyena-7m")).cuda()
    ids = torch.randint(7, 11, (1, 1 << 20), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", torch.bfloat16):
        logits = model(ids, recompute="blocks")
    functional.cross_entropy(logits[0].float(), ids[0]).backward()
    assert torch.cuda.max_memory_allocated() < 40 << 30


@pytest.mark.gpu
def test_gpu_gradients_are_those_of_the_cpu():
    config = replace(TINY, mixer=replace(TINY.mixer, l_max=1000, order=3))

    def gradients(device: str) -> list[Tensor]:
        model, ids = build_tiny(torch.float32, config).to(device), draw_ids(seq_len=999).to(device)
        functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        return [parameter.grad.cpu() for parameter in model.parameters()]

    for found, expected in zip(gradients("cuda"), gradients("cpu"), strict=True):
        assert_close(found, expected, rtol=0, atol=1e-4, what="a gradient")
