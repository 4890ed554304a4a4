"""The Mamba language model: sizes, initial values, states, files, the official code's numbers."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.kernels import selective_scan
from dnamamba.kernels.scan import cpu
from dnamamba.models import (
    DnaModel,
    MambaConfig,
    MambaState,
    ModelConfig,
    count_parameters,
    from_state_spaces,
    no_weight_decay_names,
    preset,
    preset_names,
)
from dnamamba.models.mixers import mamba
from dnamamba.models.recompute import RECOMPUTE, run_block
from dnamamba.tokenizer import encode, token_ids
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

TINY = ModelConfig(d_model=8, n_layers=2, mixer=MambaConfig(d_state=4))


def build_tiny(dtype: torch.dtype = torch.float64, config: ModelConfig = TINY) -> DnaModel:
    return build_model(config, dtype)


# Sizes and settings.

# Figure 5 of the Mamba paper, exact.
PAPER_PARAMETERS = {
    "mamba-260k": 262_720,
    "mamba-680k": 684_192,
    "mamba-1.4m": 1_401_472,
    "mamba-3.5m": 3_527_232,
    "mamba-7m": 7_012_608,
    "mamba-19m": 19_291_008,
    "mamba-41m": 40_694_272,
}


@pytest.mark.parametrize(("name", "expected"), PAPER_PARAMETERS.items())
def test_presets_have_the_papers_parameter_counts(name, expected):
    assert count_parameters(preset(name)) == count_built(preset(name)) == expected


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        ModelConfig(d_model=24, n_layers=1, tie_embeddings=False),
        ModelConfig(d_model=8, n_layers=3, mixer=MambaConfig(bias=True, conv_bias=False)),
        ModelConfig(d_model=40, n_layers=1, mixer=MambaConfig(expand=3, d_conv=2, dt_rank=5)),
    ],
)
def test_count_parameters_equals_a_built_model(config):
    assert count_parameters(config) == count_built(config)


def test_preset_names_and_unknown_name():
    mamba_names = {name for name in preset_names() if name.rsplit("-", 1)[0] == "mamba"}
    assert mamba_names == {*PAPER_PARAMETERS, "mamba-demo"}
    with pytest.raises(InputError, match="no model is called 'mamba-1b'; there are mamba-demo, ma"):
        preset("mamba-1b")


def test_config_resolves_dt_rank_and_survives_json():
    config = ModelConfig(d_model=100, n_layers=3, mixer=MambaConfig(d_state=8))
    assert config.mixer.dt_rank == math.ceil(100 / 16)
    stored = json.loads(json.dumps(to_dict(config)))
    assert stored["mixer"]["kind"] == "mamba"
    assert from_dict(ModelConfig, stored) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_modle": 3}, "unknown setting 'd_modle'"),
        ({"mixer": {"kind": "mamba", "states": 3}}, "unknown setting 'states'"),
        ({"mixer": {"kind": "lstm"}}, "expected one of mamba, .*, got 'lstm'"),
        ({"mixer": {"kind": ["x"]}}, "expected one of mamba, "),
        ({"norm_eps": 0.0}, "norm_eps must be a finite number > 0, got 0.0"),
        ({"norm_eps": float("nan")}, "norm_eps must be a finite number, got nan"),
        (
            {"mixer": {"kind": "hyena", "shift": float("inf")}},
            "shift must be a finite number",
        ),
        ({"n_layers": 0}, "n_layers must be a whole number >= 1, got 0"),
        ({"vocab_size": 20}, "padded_vocab_size 16 must be at least vocab_size 20"),
        ({"mixer": {"dt_rank": "big"}}, "dt_rank must be a whole number >= 1, got 'big'"),
        ({"mixer": {"dt_min": 0.2}}, "0 < dt_min <= dt_max"),
    ],
)
def test_config_refuses_what_it_does_not_know(changes, message):
    with pytest.raises(InputError, match=message):
        from_dict(ModelConfig, {**to_dict(TINY), **changes})


# Initial values (section 3.6 of the paper, mamba_simple.py, mixer_seq_simple.py).


def test_initial_values():
    torch.manual_seed(0)
    config = ModelConfig(d_model=64, n_layers=4, mixer=MambaConfig(bias=True))
    model = DnaModel(config)
    assert model.backbone.embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.lm_head.weight is model.backbone.embedding.weight
    for block in model.backbone.layers:
        mixer = block.mixer
        A = torch.exp(mixer.A_log)
        torch.testing.assert_close(A, torch.arange(1.0, 17.0).expand_as(A))
        assert torch.equal(mixer.D, torch.ones(128))
        assert mixer.dt_proj.weight.abs().max() <= 4**-0.5
        assert mixer.in_proj.bias.abs().max() == 0
        assert mixer.out_proj.bias.abs().max() == 0
        # kaiming_uniform(a = sqrt 5) is U(-1/sqrt(fan_in), ...), then over sqrt(n_layers).
        bound = 1 / math.sqrt(128) / math.sqrt(4)
        assert 0.95 * bound < mixer.out_proj.weight.abs().max() <= bound
        assert torch.equal(block.norm.weight, torch.ones(64))


def test_initial_step_sizes_are_log_uniform():
    torch.manual_seed(0)
    model = DnaModel(ModelConfig(d_model=512, n_layers=1))
    dt = functional.softplus(model.backbone.layers[0].mixer.dt_proj.bias.double())
    assert dt.min() >= 1e-3 * (1 - 1e-4)
    assert dt.max() <= 0.1 * (1 + 1e-4)
    quarters = torch.logspace(-3, -1, 5).double()
    counts = torch.histogram(dt, quarters).hist / dt.numel()
    torch.testing.assert_close(counts, torch.full_like(counts, 0.25), atol=0.05, rtol=0)


def test_initial_step_sizes_have_a_floor():
    mixer = MambaConfig(dt_min=1e-6, dt_max=1e-5, dt_init_floor=1e-4)
    model = DnaModel(ModelConfig(d_model=8, n_layers=1, mixer=mixer))
    dt = functional.softplus(model.backbone.layers[0].mixer.dt_proj.bias)
    torch.testing.assert_close(dt, torch.full_like(dt, 1e-4))


def test_no_weight_decay_names():
    model = build_tiny(config=ModelConfig(d_model=8, n_layers=1, mixer=MambaConfig(bias=True)))
    mixer = "backbone.layers.0.mixer"
    exempt = no_weight_decay_names(model)
    assert exempt == {
        f"{mixer}.A_log",
        f"{mixer}.D",
        f"{mixer}.conv1d.bias",
        f"{mixer}.dt_proj.bias",
        f"{mixer}.in_proj.bias",
        f"{mixer}.out_proj.bias",
        "backbone.layers.0.norm.weight",
        "backbone.norm_f.weight",
    }
    decayed = {name for name, _ in model.named_parameters()} - exempt
    assert decayed == {
        "backbone.embedding.weight",
        *(f"{mixer}.{name}.weight" for name in ("conv1d", "dt_proj", "in_proj", "out_proj")),
        f"{mixer}.x_proj.weight",
    }


# What the model computes.


def test_logits_of_unused_ids_are_never_likely():
    logits = build_tiny()(draw_ids())
    assert logits.shape == (2, 20, 16)
    assert (logits[..., 12:] == -torch.inf).all()
    assert logits[..., :12].isfinite().all()
    loss = functional.cross_entropy(logits.flatten(0, 1), draw_ids().flatten())
    assert loss.isfinite()


def test_bytes_from_the_tokenizer_are_token_ids():
    model = build_tiny()
    ids = torch.from_numpy(token_ids(encode("ACGTNacgt")))[None]
    assert ids.dtype == torch.uint8
    assert torch.equal(model(ids), model(ids.long()))


def test_the_future_is_not_seen():
    model, ids = build_tiny(), draw_ids()
    changed = ids.clone()
    changed[:, 10:] = 7 + (changed[:, 10:] - 6) % 5
    assert torch.equal(model(ids)[:, :10], model(changed)[:, :10])
    assert not torch.equal(model(ids)[:, 10:], model(changed)[:, 10:])


@settings(deadline=None, max_examples=25)
@given(cuts=st.lists(st.integers(1, 22), max_size=6, unique=True), d_conv=st.integers(1, 5))
def test_any_chunking_with_carried_state_is_one_pass(cuts, d_conv):
    mixer = MambaConfig(d_state=3, d_conv=d_conv)
    model = build_tiny(config=ModelConfig(d_model=4, n_layers=2, mixer=mixer))
    check_parts_are_one_pass(model, draw_ids(2, 23), cuts)


def test_single_tokens_with_carried_state_are_one_pass():
    model, ids = build_tiny(), draw_ids(2, 12)
    state, logits = None, []
    for t in range(12):
        step, state = model(ids[:, t : t + 1], state=state, return_state=True)
        logits.append(step)
    torch.testing.assert_close(torch.cat(logits, 1), model(ids))


def count_whole_scans(monkeypatch) -> list[int]:
    """The lengths of the scans that are not single-step ops, as they are called."""
    lengths: list[int] = []

    def scan(u: Tensor, *args: object, **options: object) -> object:
        lengths.append(u.shape[1])
        return selective_scan(u, *args, **options)

    monkeypatch.setattr(mamba, "selective_scan", scan)
    return lengths


@pytest.mark.parametrize("d_conv", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_single_tokens_without_gradients_take_the_single_step_ops(monkeypatch, dtype, d_conv):
    mixer = MambaConfig(d_state=3, d_conv=d_conv)
    config = ModelConfig(d_model=4, n_layers=2, mixer=mixer)
    model, ids = build_tiny(dtype, config), draw_ids(2, 12)
    whole, whole_state = model(ids, return_state=True)
    lengths = count_whole_scans(monkeypatch)
    with torch.no_grad():
        first, state = model(ids[:, :5], return_state=True)
        logits = [first]
        for t in range(5, 12):
            step, state = model(ids[:, t : t + 1], state=state, return_state=True)
            logits.append(step)
    assert lengths == [5, 5]
    torch.testing.assert_close(torch.cat(logits, 1), whole)
    torch.testing.assert_close(state, whole_state)


def test_a_state_can_be_gone_on_from_many_times():
    """As in a beam search: each continuation as if it were the only one."""
    model, ids = build_tiny(), draw_ids(2, 6)
    with torch.no_grad():
        _, state = model(ids, return_state=True)
        before = [tuple(tensor.clone() for tensor in layer) for layer in state]
        for letter in (7, 8, 9, 10):
            token = torch.full((2, 1), letter)
            logits, after = model(token, state=state, return_state=True)
            expected, expected_after = model(torch.cat([ids, token], 1), return_state=True)
            torch.testing.assert_close(logits[:, -1], expected[:, -1])
            torch.testing.assert_close(after, expected_after)
            assert torch.equal(model(token, state=state), logits)
    for layer, kept in zip(state, before, strict=True):
        assert all(map(torch.equal, layer, kept))


@pytest.mark.parametrize("wanted", ["parameters", "state", "nothing"])
def test_a_single_token_keeps_its_gradients_where_they_are_wanted(monkeypatch, wanted):
    model, token = build_tiny(), draw_ids(1, 1)
    model.requires_grad_(wanted == "parameters")
    with torch.no_grad():
        _, state = model(draw_ids(1, 5), return_state=True)
    if wanted == "state":
        state = tuple(MambaState(*(x.requires_grad_() for x in layer)) for layer in state)
    lengths = count_whole_scans(monkeypatch)
    logits = model(token, state=state)
    assert logits.requires_grad == (wanted != "nothing")
    assert lengths == ([] if wanted == "nothing" else [1, 1])


@pytest.mark.parametrize(("backend", "expected"), [("reference", []), ("chunked", [1, 1])])
def test_a_backend_without_a_single_step_scans_one_token(monkeypatch, backend, expected):
    model, ids = build_tiny(), draw_ids()
    for block in model.backbone.layers:
        block.mixer.scan_backend = backend
    with torch.no_grad():
        _, state = model(ids[:, :-1], return_state=True)
        lengths = count_whole_scans(monkeypatch)
        logits = model(ids[:, -1:], state=state)
        assert lengths == expected
        torch.testing.assert_close(logits[:, -1], model(ids)[:, -1])


def test_single_tokens_under_autocast_go_on_from_any_state():
    model, ids = build_tiny(torch.float32), draw_ids()
    with torch.no_grad():
        for autocast_before in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast_before):
                _, state = model(ids[:, :-1], return_state=True)
            with torch.autocast("cpu", torch.bfloat16):
                logits, after = model(ids[:, -1:], state=state, return_state=True)
            exact = model(ids)[:, -1]
            assert logits.dtype == torch.bfloat16
            assert all(layer.ssm.dtype == torch.float32 for layer in after)
            error = (logits[:, -1] - exact)[:, :12].abs().max()
            assert error < 0.02 * exact[:, :12].abs().max()


def test_gradients_flow_through_carried_state():
    model, ids = build_tiny(), draw_ids(1, 16)
    model(ids)[..., :12].sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    first, state = model(ids[:, :7], return_state=True)
    second = model(ids[:, 7:], state=state)
    (first[..., :12].sum() + second[..., :12].sum()).backward()
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, expected)


@pytest.mark.parametrize("with_state", [False, True])
def test_checkpointed_blocks_give_the_same_numbers(with_state):
    model, ids = build_tiny(), draw_ids()
    names = [name for name, _ in model.named_parameters()]
    state = model(draw_ids(2, 3), return_state=True)[1] if with_state else None
    results = []
    for recompute in RECOMPUTE:
        logits = model(ids, state=state, recompute=recompute)
        loss = logits[..., :12].logsumexp(-1).sum()
        results.append(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))
    assert all(
        torch.equal(results[0][n], again[n]) for again in results[1:] for n in range(len(names))
    )
    assert [name for name, _ in model.named_parameters()] == names


@pytest.fixture
def scans(monkeypatch):
    """How often the fused scan of this CPU has run forward."""
    ran = []
    original = cpu.launch

    def count(kernel, n_tasks, call):
        ran.append(n_tasks)
        original(kernel, n_tasks, call)

    monkeypatch.setattr(cpu, "launch", count)
    return ran


@pytest.mark.parametrize(("recompute", "launches"), [("nothing", 4), ("cheap", 4), ("blocks", 6)])
def test_blocks_made_again_take_their_scans_from_before(recompute, launches, scans):
    """Two layers: a forward and a backward each, and another forward where blocks are repeated."""
    model, ids = build_tiny(torch.float32), draw_ids()
    parameters = list(model.parameters())
    expected = torch.autograd.grad(model(ids)[..., :12].square().sum(), parameters)
    scans.clear()
    loss = model(ids, recompute=recompute)[..., :12].square().sum()
    found = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))
    assert len(scans) == launches
    again = torch.autograd.grad(loss, parameters)
    assert all(torch.equal(*both) for both in zip(again, expected, strict=True))


def test_a_kept_scan_must_not_be_changed_in_place():
    x = torch.randn(1, 5, 4, requires_grad=True)
    A, B = -torch.ones(4, 2), torch.randn(1, 5, 2)

    def block(x):
        return selective_scan(x, x, A, B, B, delta_softplus=True).mul_(2.0).sin()

    out = run_block(block, "cheap", x)
    with pytest.raises(RuntimeError, match=r"changed in place.*change a clone"):
        out.sum().backward()


def test_other_ways_to_recompute_are_refused():
    with pytest.raises(ValueError, match="one of nothing, cheap, blocks, got 'everything'"):
        build_tiny()(draw_ids(), recompute="everything")


def test_bf16_autocast_keeps_states_and_residual_in_float32():
    model, ids = build_tiny(torch.float32), draw_ids()
    with torch.autocast("cpu", torch.bfloat16):
        logits, state = model(ids, return_state=True)
        hidden = model.hidden_states(ids)
    assert logits.dtype == torch.bfloat16
    assert all(layer.ssm.dtype == torch.float32 for layer in state)
    assert all(tensor.dtype == torch.float32 for tensor in hidden)
    exact = model(ids)
    assert (logits - exact)[..., :12].abs().max() < 0.02 * exact[..., :12].abs().max()


def test_residual_may_be_bf16_under_autocast():
    config = ModelConfig(d_model=8, n_layers=2, residual_in_fp32=False)
    model = build_tiny(torch.float32, config)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden_states(draw_ids())
    assert hidden[1].dtype == torch.bfloat16
    assert model.hidden_states(draw_ids())[1].dtype == torch.float32


def test_scan_backend_can_be_chosen_without_touching_the_weights():
    model, ids = build_tiny(), draw_ids()
    names = list(model.state_dict())
    expected = model(ids)
    for block in model.backbone.layers:
        block.mixer.scan_backend = "reference"
    torch.testing.assert_close(model(ids), expected)
    assert list(model.state_dict()) == names


def test_wrong_ids_and_states_are_refused():
    model = build_tiny()
    with pytest.raises(ValueError, match=r"token_ids must be \(B, L\) of integers, got \(5,\)"):
        model(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"token_ids must be .* torch\.float32"):
        model(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="state must have the model's 2 layers, got 1"):
        model(draw_ids(), state=[MambaState(torch.zeros(1), torch.zeros(1))])


# Files.


@pytest.mark.parametrize("tied", [True, False])
def test_saved_model_comes_back(tmp_path, tied):
    config = ModelConfig(d_model=8, n_layers=2, norm_eps=1e-6, tie_embeddings=tied)
    model = build_tiny(torch.float32, config)
    model.save_pretrained(tmp_path / "new" / "model")
    again = DnaModel.from_pretrained(tmp_path / "new" / "model")
    assert again.config == config
    assert torch.equal(again(draw_ids()), model(draw_ids()))
    assert sorted(p.name for p in (tmp_path / "new" / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert ("lm_head.weight" in load_file(tmp_path / "new" / "model" / "model.safetensors")) != tied


def test_saving_again_replaces_the_files(tmp_path):
    build_tiny(torch.float32).save_pretrained(tmp_path)
    torch.manual_seed(5)
    model = DnaModel(preset("mamba-demo"))
    model.save_pretrained(tmp_path)
    assert torch.equal(DnaModel.from_pretrained(tmp_path)(draw_ids()), model(draw_ids()))


def test_loading_names_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"has no config.json: a saved model is a folder with"):
        DnaModel.from_pretrained(tmp_path / "nowhere")
    build_tiny(torch.float32).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model.safetensors"):
        DnaModel.from_pretrained(tmp_path)


def test_loading_names_both_format_versions(tmp_path):
    build_tiny(torch.float32).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "format_version": 7}))
    with pytest.raises(InputError, match="has format_version 7, this dnamamba reads 1 and 2"):
        DnaModel.from_pretrained(tmp_path)


def test_loading_refuses_broken_files(tmp_path):
    build_tiny(torch.float32).save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        DnaModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"format_version": 1,')
    with pytest.raises(InputError, match=r"config.json is not JSON"):
        DnaModel.from_pretrained(tmp_path)


def test_loading_names_every_weight_that_does_not_fit(tmp_path):
    build_tiny(torch.float32).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["backbone.norm_f.weight"]
    weights["backbone.layers.1.mixer.D"] = torch.ones(3)
    weights["extra.weight"] = torch.ones(1)
    save_file(weights, path)
    message = (
        r"missing backbone.norm_f.weight; unknown extra.weight; "
        r"backbone.layers.1.mixer.D is \(3,\), expected \(16,\)"
    )
    with pytest.raises(InputError, match=message):
        DnaModel.from_pretrained(tmp_path)


# The official code's numbers.

ITEMS = ["mamba_lm_a", "mamba_lm_b"]


@pytest.fixture(scope="module", params=ITEMS)
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture
def official_model(golden) -> DnaModel:
    weights = {name: tensor.double() for name, tensor in golden.group("params").items()}
    return from_state_spaces(weights)


def test_golden_config_is_read_off_the_weights(golden, official_model):
    given = golden.info["config"]
    mixer = MambaConfig(
        **{key: given[key] for key in ("expand", "d_state", "d_conv", "dt_rank", "bias")},
        conv_bias=given["conv_bias"],
    )
    assert official_model.config == ModelConfig(
        d_model=given["d_model"],
        n_layers=given["n_layer"],
        vocab_size=given["vocab"],
        tie_embeddings=given["tie"],
        mixer=mixer,
    )


def test_golden_logits_and_hidden_states(golden, official_model):
    for ids, expected in read_sequences(golden):
        check_logits_and_hidden_states(official_model, ids, expected)


def test_golden_logits_in_float32(golden, official_model):
    check_logits_in_float32(official_model, golden)


def test_golden_losses(golden, official_model):
    check_losses(official_model, golden)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
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
