"""The attention mixer and Transformers made of it: sizes, positions, caches, official numbers."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import (
    AttentionConfig,
    AttentionState,
    DnaModel,
    MlpConfig,
    ModelConfig,
    count_parameters,
    from_huggingface_llama,
    no_weight_decay_names,
    preset,
)
from dnamamba.models.interop.llama import halves_from_interleaved, interleaved_from_halves
from dnamamba.models.mixers import attention
from dnamamba.models.mixers.attention import Attention, attend, rotary_angles, rotate
from dnamamba.models.recompute import RECOMPUTE
from golden_files import Golden, assert_close, load_golden
from golden_models import (
    GRADIENTS,
    TOLERANCE,
    check_greedy_continuation,
    check_logits_and_hidden_states,
    check_logits_in_float32,
    check_tensors,
    gradients_of,
    next_token_loss,
    read_sequences,
)
from model_cases import build_model, check_parts_are_one_pass, count_built, draw_ids

GROUPED = AttentionConfig(n_heads=4, n_kv_heads=2, d_head=6, bias=True)
TINY = ModelConfig(
    d_model=8, n_layers=2, mixer=GROUPED, mlp=MlpConfig(activation="swiglu", d_hidden=12)
)


def build_tiny(dtype: torch.dtype = torch.float64, config: ModelConfig = TINY) -> DnaModel:
    return build_model(config, dtype, spread=0.2)


def build_mixer(dtype: torch.dtype = torch.float64, **changes: object) -> Attention:
    torch.manual_seed(0)
    mixer = Attention(8, AttentionConfig(**{"n_heads": 4, "n_kv_heads": 2, **changes})).to(dtype)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


# Sizes and settings.

# "Transformer++" in figure 5 of the Mamba paper, exact.
PAPER_PARAMETERS = {
    "transformer-260k": 201_088,
    "transformer-680k": 560_928,
    "transformer-1.4m": 1_191_936,
    "transformer-3.5m": 3_117_504,
    "transformer-7m": 6_322_688,
    "transformer-19m": 17_751_552,
    "transformer-41m": 37_837_824,
}


@pytest.mark.parametrize(("name", "expected"), PAPER_PARAMETERS.items())
def test_transformers_have_the_papers_parameter_counts(name, expected):
    config = preset(name)
    assert count_parameters(config) == count_built(config) == expected
    assert (config.norm, config.mlp.activation, config.mixer.d_head) == ("layer", "gelu_tanh", 32)


@pytest.mark.parametrize("size", ["260k", "680k", "1.4m", "3.5m", "7m", "19m", "41m"])
def test_llamas_are_about_as_large_as_the_transformers(size):
    config = preset(f"llama-{size}")
    assert config.mlp.d_hidden % 32 == 0
    assert abs(config.mlp.d_hidden - 8 * config.d_model / 3) <= 16
    transformer = count_parameters(preset(f"transformer-{size}"))
    assert count_parameters(config) == pytest.approx(transformer, rel=0.06)


@pytest.mark.parametrize(
    "mixer",
    [
        AttentionConfig(n_heads=2),
        GROUPED,
        AttentionConfig(n_heads=4, n_kv_heads=1, bias=True, out_bias=False),
        AttentionConfig(n_heads=1, d_head=16, out_bias=True),
    ],
    ids=["plain", "grouped", "one key head", "wide"],
)
def test_count_parameters_equals_a_built_model(mixer):
    config = ModelConfig(d_model=8, n_layers=3, norm="layer", mixer=mixer, mlp=MlpConfig(bias=True))
    assert count_parameters(config) == count_built(config)


def test_a_models_config_decides_what_is_left_open_and_survives_json():
    config = ModelConfig(d_model=24, n_layers=1, mixer=AttentionConfig(n_heads=4, bias=True))
    decided = AttentionConfig(n_heads=4, n_kv_heads=4, d_head=6, bias=True, out_bias=True)
    assert config.mixer == decided
    stored = json.loads(json.dumps(to_dict(config)))
    assert stored["mixer"]["kind"] == "attention"
    assert from_dict(ModelConfig, stored) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 0}, "n_heads must be a whole number >= 1, got 0"),
        ({"n_heads": 3, "d_head": None}, "d_model 8 must be a multiple of n_heads 3, or give d_he"),
        ({"n_kv_heads": 3}, "n_heads 4 must be a multiple of n_kv_heads 3"),
        ({"d_head": 5}, "d_head 5 must be even"),
        ({"rope_theta": -1.0}, "rope_theta must be a finite number > 0, got -1.0"),
        ({"window": 5}, "unknown setting 'window'"),
    ],
)
def test_config_refuses_what_cannot_be(changes, message):
    mixer = {"kind": "attention", "n_heads": 4, **changes}
    with pytest.raises(InputError, match=message):
        from_dict(ModelConfig, {**to_dict(TINY), "mixer": mixer})


def test_initial_values_are_gpt2s():
    torch.manual_seed(0)
    mixer = AttentionConfig(n_heads=4, bias=True)
    config = ModelConfig(
        d_model=64, n_layers=4, norm="layer", mixer=mixer, mlp=MlpConfig(bias=True)
    )
    for block in DnaModel(config).backbone.layers:
        for layer in (block.mixer.in_proj, block.mlp.fc1):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        for layer in (block.mixer.out_proj, block.mlp.fc2):
            assert layer.weight.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.1)
        for name, parameter in block.named_parameters():
            assert not name.endswith("bias") or parameter.abs().max() == 0


def test_biases_and_norms_do_not_decay():
    model = DnaModel(preset("transformer-demo"))
    decayed = {name for name, _ in model.named_parameters()} - no_weight_decay_names(model)
    layers = ("mixer.in_proj", "mixer.out_proj", "mlp.fc1", "mlp.fc2")
    blocks = {f"backbone.layers.{n}.{layer}.weight" for n in range(2) for layer in layers}
    assert decayed == {"backbone.embedding.weight", *blocks}


# Rotary positions.


@settings(deadline=None, max_examples=50)
@given(query=st.integers(0, 1000), key=st.integers(0, 1000), shift=st.integers(1, 100_000))
def test_products_depend_on_the_distance_alone(query, key, shift):
    q, k = draw(2, 1, 1, 3, 8)

    def product(shift: int) -> Tensor:
        turned = []
        for x, position in ((q, query + shift), (k, key + shift)):
            angles = rotary_angles(1, 8, 10_000.0, start=position, dtype=torch.float64)
            turned.append(rotate(x, angles))
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(product(shift), product(0), rtol=0, atol=1e-9)


def test_rotation_keeps_lengths_and_leaves_the_first_position():
    x = draw(2, 5, 3, 8)
    turned = rotate(x, rotary_angles(5, 8, 100.0, dtype=torch.float64))
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_angles_go_on_from_a_state():
    whole = rotary_angles(9, 6, 10_000.0)
    assert torch.equal(rotary_angles(4, 6, 10_000.0, start=5), whole[5:])
    expected = 8 * 10_000.0 ** torch.tensor([0, -1 / 3, -2 / 3])
    torch.testing.assert_close(whole[8], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_angles_are_never_narrower_than_float32(dtype, monkeypatch):
    seen = []

    def spy(x: Tensor, angles: Tensor) -> Tensor:
        seen.append(angles.dtype)
        return rotate(x, angles)

    monkeypatch.setattr(attention, "rotate", spy)
    build_mixer(dtype)(draw(1, 3, 8, dtype=dtype))
    with torch.autocast("cpu", torch.bfloat16):
        build_mixer(torch.float32)(draw(1, 3, 8, dtype=torch.float32))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert seen == [wide, torch.float32]


def test_far_positions_under_autocast_are_not_rounded_to_bf16():
    """300 is no bf16 number: angles made in bf16 would be those of 300 or 302 for 301."""
    mixer, x = build_mixer(torch.float32), draw(1, 302, 8, dtype=torch.float32)
    exact = mixer.project(x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = mixer.project(x)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[:, 301].float(), exact[:, 301], rtol=0.05, atol=0.03)


# What attention computes.


def attend_by_definition(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """allowed: (B, L, M), True where query l sees key m."""
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("blhd,bmhd->bhlm", q, k) / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~allowed.unsqueeze(1), -torch.inf).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", weights, v)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize(
    ("n_queries", "n_keys"), [(7, 7), (1, 1), (1, 9), (4, 9)], ids=lambda n: str(n)
)
@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_attend_is_its_definition_with_gradients(is_causal, n_queries, n_keys, n_kv_heads):
    shapes = [(2, n_queries, 4, 6), (2, n_keys, n_kv_heads, 6), (2, n_keys, n_kv_heads, 6)]
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    allowed = torch.ones(2, n_queries, n_keys, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril(n_keys - n_queries)
    found = attend(*inputs, is_causal=is_causal)
    expected = attend_by_definition(*inputs, allowed)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), inputs),
        torch.autograd.grad((expected * weight).sum(), inputs),
    )


@pytest.mark.parametrize("n_queries", [6, 7, 8])
def test_queries_go_in_slices_where_a_mask_would_be_large(monkeypatch, n_queries):
    q, k = draw(2, n_queries, 4, 6), draw(2, 11, 2, 6)
    whole = attend(q, k, k, is_causal=True)
    monkeypatch.setattr(attention, "QUERIES_A_MASK", 3)
    torch.testing.assert_close(attend(q, k, k, is_causal=True), whole)


@pytest.mark.parametrize("is_causal", [True, False])
def test_gradients_of_the_mixer(is_causal):
    mixer = build_mixer(is_causal=is_causal, bias=True)
    x = draw(1, 3, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: mixer(x)[0], (x, *mixer.parameters()))


def test_the_future_is_not_seen():
    model, ids = build_tiny(), draw_ids()
    changed = ids.clone()
    changed[:, 10:] = 7 + (changed[:, 10:] - 6) % 5
    assert torch.equal(model(ids)[:, :10], model(changed)[:, :10])
    assert not torch.equal(model(ids)[:, 10:], model(changed)[:, 10:])


def test_attention_that_is_not_causal_sees_it():
    mixer, x = build_mixer(is_causal=False), draw(1, 6, 8)
    changed = x.clone()
    changed[:, 5] += 1
    assert ((mixer(changed)[0] - mixer(x)[0]).abs().amax(-1) > 1e-6).all()


def test_a_float64_model_has_no_float32_inside():
    """What differs from float32 by its rounding alone would be off by 1e-8."""
    mixer, x = build_mixer(), draw(1, 40, 8)
    q, k, v = mixer.in_proj(x).split([8, 4, 4], dim=-1)
    positions = torch.arange(40, dtype=torch.float64)
    turn = torch.polar(torch.ones(40, dtype=torch.float64), positions)[:, None]
    # Heads of two: one pair each, turned by a radian a position.
    q, k = (
        torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn) for x in (q, k)
    )
    allowed = torch.ones(1, 40, 40, dtype=torch.bool).tril()
    y = attend_by_definition(q, k, v.unflatten(-1, (-1, 2)), allowed)
    torch.testing.assert_close(mixer(x)[0], mixer.out_proj(y.flatten(2)), rtol=1e-12, atol=1e-13)


def test_a_pass_reads_no_tensors_value():
    """Meta tensors have none: so a pass can be recorded as a CUDA graph."""
    with torch.device("meta"):
        causal = Attention(8, AttentionConfig(n_heads=2))
        _, state = causal(torch.zeros(2, 9, 8), return_state=True)
        assert causal(torch.zeros(2, 4, 8), state)[0].shape == (2, 4, 8)
        bidirectional = Attention(8, AttentionConfig(n_heads=2, is_causal=False))
        y, _ = bidirectional(torch.zeros(2, 5, 8), mask=torch.ones(2, 5, dtype=torch.bool))
        assert y.shape == (2, 5, 8)


# On a GPU.

MODES = ["causal", "bidirectional", "masked", "continued"]


def attend_on_gpu(mode: str, seq_len: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """Grouped heads; the output and the inputs, after a backward pass."""
    torch.manual_seed(0)
    options = {"dtype": dtype, "device": "cuda", "requires_grad": True}
    n_queries = seq_len // 2 if mode == "continued" else seq_len
    q = torch.randn(1, n_queries, 4, 32, **options)
    k, v = (torch.randn(1, seq_len, 2, 32, **options) for _ in range(2))
    mask = torch.ones(1, seq_len, dtype=torch.bool, device="cuda")
    mask[:, -7:] = False
    is_causal = mode in ("causal", "continued")
    y = attend(q, k, v, is_causal=is_causal, mask=mask if mode == "masked" else None)
    y.float().square().sum().backward()
    return y, [q, k, v]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_gpu_attention_is_its_definition(mode, dtype):
    y, inputs = attend_on_gpu(mode, 200, dtype)
    n_queries = y.shape[1]
    allowed = torch.ones(1, n_queries, 200, dtype=torch.bool, device="cuda")
    if mode in ("causal", "continued"):
        allowed = allowed.tril(200 - n_queries)
    if mode == "masked":
        allowed[..., -7:] = False
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = attend_by_definition(*wide, allowed)
    expected.square().sum().backward()
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-4
    assert_close(y, expected, rtol=0, atol=tolerance, what="output")
    for x, exact in zip(inputs, wide, strict=True):
        assert_close(x.grad, exact.grad, rtol=0, atol=tolerance, what="gradient")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_gpu_memory_grows_with_the_length_alone(mode, dtype):
    """A byte for each pair would be at least 2^29 bytes; no tensor here has more than 2^24."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attend_on_gpu(mode, 32_768, dtype)
    assert torch.cuda.max_memory_allocated() - before < 400e6


def test_checkpointed_blocks_give_the_same_numbers():
    model, ids = build_tiny(), draw_ids()
    parameters = list(model.parameters())
    results = [
        torch.autograd.grad(model(ids, recompute=recompute)[..., :12].square().sum(), parameters)
        for recompute in RECOMPUTE
    ]
    for again in results[1:]:
        assert all(map(torch.equal, results[0], again))


# States.


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 22), max_size=6, unique=True),
    n_kv_heads=st.sampled_from([1, 2, 4]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_any_chunking_with_carried_state_is_one_pass(cuts, n_kv_heads, dtype):
    mixer = AttentionConfig(n_heads=4, n_kv_heads=n_kv_heads, d_head=2)
    model = build_tiny(dtype, ModelConfig(d_model=4, n_layers=2, mixer=mixer))
    ids = draw_ids(2, 23)
    check_parts_are_one_pass(model, ids, cuts)
    _, state = model(ids, return_state=True)
    assert state[0].k.shape == (2, 23, n_kv_heads, 2)


def test_gradients_flow_through_carried_state():
    model, ids = build_tiny(), draw_ids(1, 16)
    model(ids)[..., :12].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    first, state = model(ids[:, :7], return_state=True)
    second = model(ids[:, 7:], state=state)
    (first[..., :12].square().sum() + second[..., :12].square().sum()).backward()
    torch.testing.assert_close({n: p.grad for n, p in model.named_parameters()}, expected)


@torch.no_grad()
def test_a_state_can_be_gone_on_from_many_times():
    """As in a beam search: each continuation as if it were the only one."""
    model, ids = build_tiny(), draw_ids(2, 6)
    _, state = model(ids, return_state=True)
    before = [tuple(tensor.clone() for tensor in layer) for layer in state]
    for letter in (7, 8, 9, 10):
        token = torch.full((2, 1), letter)
        expected = model(torch.cat([ids, token], 1))
        torch.testing.assert_close(model(token, state=state)[:, -1], expected[:, -1])
    for layer, kept in zip(state, before, strict=True):
        assert all(map(torch.equal, layer, kept))


@torch.no_grad()
@pytest.mark.parametrize("autocast_before", [True, False])
@pytest.mark.parametrize("autocast_after", [True, False])
def test_any_state_goes_on_with_or_without_autocast(autocast_before, autocast_after):
    model, ids = build_tiny(torch.float32), draw_ids()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast_before):
        _, state = model(ids[:, :-3], return_state=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast_after):
        logits, after = model(ids[:, -3:], state=state, return_state=True)
    expected_dtype = torch.bfloat16 if autocast_after else torch.float32
    assert all(x.dtype == expected_dtype for layer in after for x in layer)
    exact = model(ids)[:, -3:, :12]
    error = (logits[..., :12] - exact).abs().max()
    assert error < 0.03 * exact.abs().max()


def test_a_state_holds_no_more_memory_than_its_numbers():
    _, state = build_tiny()(draw_ids(), return_state=True)
    for tensor in (x for layer in state for x in layer):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_attention_that_is_not_causal_carries_no_state():
    mixer, x = build_mixer(is_causal=False), draw(1, 3, 8)
    with pytest.raises(InputError, match=r"no state to go on from: give whole sequences"):
        mixer(x, return_state=True)
    state = AttentionState(draw(1, 2, 2, 2), draw(1, 2, 2, 2))
    with pytest.raises(InputError, match=r"no state to go on from: give whole sequences"):
        mixer(x, state)


# Padding.


def test_real_positions_do_not_see_padding():
    mixer, x = build_mixer(is_causal=False), draw(3, 9, 8)
    lengths = torch.tensor([9, 4, 1])
    mask = torch.arange(9) < lengths.unsqueeze(1)
    y, state = mixer(x, mask=mask)
    assert state is None
    for row, length in enumerate(lengths.tolist()):
        alone, _ = mixer(x[row : row + 1, :length])
        torch.testing.assert_close(y[row : row + 1, :length], alone)


def test_gradients_of_padding_are_zero():
    mixer, x = build_mixer(is_causal=False), draw(2, 6, 8).requires_grad_()
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    y, _ = mixer(x, mask=mask)
    (gradient,) = torch.autograd.grad(y[mask].square().sum(), x)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_row_of_padding_alone_stays_finite(device):
    mixer = build_mixer(torch.float32, is_causal=False).to(device)
    x = draw(2, 4, 8, dtype=torch.float32).to(device).requires_grad_()
    mask = torch.tensor([[True] * 4, [False] * 4], device=device)
    y, _ = mixer(x, mask=mask)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("is_causal", "mask", "message"),
    [
        (True, torch.ones(2, 4, dtype=torch.bool), "causal attention takes no mask"),
        (False, torch.ones(2, 5, dtype=torch.bool), r"\(2, 4\) of bools, got \(2, 5\)"),
        (False, torch.ones(2, 4), r"of bools, got \(2, 4\) of torch.float32"),
    ],
    ids=["causal", "shape", "dtype"],
)
def test_masks_that_do_not_fit_are_refused(is_causal, mask, message):
    with pytest.raises(ValueError, match=message):
        build_mixer(is_causal=is_causal)(draw(2, 4, 8), mask=mask)


# The official code's numbers.

ITEMS = ["transformer_llama_a", "transformer_llama_b"]


@pytest.fixture(scope="module", params=ITEMS)
def golden(request) -> Golden:
    return load_golden(request.param)


def read_settings(golden: Golden) -> dict[str, object]:
    given = golden.info["config"]
    return {
        "num_attention_heads": given["heads"],
        "head_dim": given["head_dim"],
        "rms_norm_eps": given["eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": given["theta"]},
        "tie_word_embeddings": given["tie"],
    }


@pytest.fixture
def official_model(golden) -> DnaModel:
    weights = {name: tensor.double() for name, tensor in golden.group("params").items()}
    return from_huggingface_llama(weights, read_settings(golden))


def our_gradients(golden: Golden, like: DnaModel) -> dict[str, Tensor]:
    """Their gradients under our names: a gradient is renamed and stacked as a weight is."""
    gradients = golden.group("grad_f64")
    model = from_huggingface_llama(gradients, {**read_settings(golden)})
    assert model.config == like.config
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def test_golden_config_is_read_off_the_weights(golden, official_model):
    given = golden.info["config"]
    assert official_model.config == ModelConfig(
        d_model=given["d_model"],
        n_layers=given["n_layer"],
        vocab_size=given["vocab"],
        norm_eps=given["eps"],
        tie_embeddings=given["tie"],
        mixer=AttentionConfig(
            n_heads=given["heads"],
            n_kv_heads=given["kv_heads"],
            d_head=given["head_dim"],
            rope_theta=given["theta"],
        ),
        mlp=MlpConfig(activation="swiglu", d_hidden=given["d_ff"]),
    )


def test_golden_logits_and_hidden_states(golden, official_model):
    for ids, expected in read_sequences(golden):
        check_logits_and_hidden_states(official_model, ids, expected)


def test_golden_logits_in_float32(golden, official_model):
    check_logits_in_float32(official_model, golden)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_golden_loss_and_gradients(golden, official_model, dtype):
    model = official_model.to(dtype)
    loss = next_token_loss(model, golden.tensors["in/seq0/ids"])
    loss.backward()
    assert_close(loss, golden.tensors["out_f64/loss"], **GRADIENTS[dtype], what="loss")
    check_tensors(gradients_of(model), our_gradients(golden, model), GRADIENTS[dtype])


@torch.no_grad()
def test_golden_greedy_continuation(golden, official_model):
    check_greedy_continuation(official_model, golden)


def test_golden_rotary_positions(golden, official_model):
    expected = golden.group("out_f64/seq0")
    mixer = official_model.backbone.layers[0].mixer
    angles = rotary_angles(
        expected["cos"].shape[0], mixer.d_head, mixer.rope_theta, dtype=torch.float64
    )
    for name in ("cos", "sin"):
        table = getattr(angles, name)().repeat(1, 2)
        assert_close(table, expected[name], **TOLERANCE, what=name)
    for name in "qk":
        before = expected[f"layer0/{name}_before_rope"].transpose(1, 2)
        after = expected[f"layer0/{name}_after_rope"].transpose(1, 2)
        assert_close(rotate(before, angles), after, **TOLERANCE, what=name)


def test_golden_attention(golden, official_model):
    expected = golden.group("out_f64/seq0")
    for index, block in enumerate(official_model.backbone.layers):
        x = expected[f"layer{index}/attn_norm"]
        assert_close(
            block.mixer(x)[0],
            expected[f"layer{index}/attn_out"],
            **TOLERANCE,
            what=f"layer {index}",
        )
    q, k, _ = official_model.backbone.layers[0].mixer.project(expected["layer0/attn_norm"])
    for name, found in {"q": q, "k": k}.items():
        after = expected[f"layer0/{name}_after_rope"].transpose(1, 2)
        assert_close(found, after, **TOLERANCE, what=name)


def test_golden_interleaved_weights_are_the_same_in_another_order(golden):
    given = golden.info["config"]
    for name, weight in golden.group("params_interleaved").items():
        n_heads = given["heads"] if "q_proj" in name else given["kv_heads"]
        official = golden.tensors[f"params/{name}"]
        assert torch.equal(halves_from_interleaved(weight, n_heads), official)
        assert torch.equal(interleaved_from_halves(official, n_heads), weight)
