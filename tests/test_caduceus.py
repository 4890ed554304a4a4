"""Caduceus: the official code's numbers, and its layout of weights read and written."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.models import (
    BiMambaConfig,
    DnaModel,
    MambaConfig,
    MlpConfig,
    ModelConfig,
    S4Config,
    from_caduceus,
    to_caduceus,
)
from dnamamba.models.interop.caduceus import FORMATS
from dnamamba.models.interop.mamba import from_state_spaces
from dnamamba.models.strands import complement_ids
from dnamamba.tokenizer import PAD_ID
from golden_files import Golden, assert_close, load_golden
from golden_models import check_logits_and_hidden_states, sequence_numbers
from model_cases import build_model

TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}
UNFUSED = {"fused_add_norm": False}


@pytest.fixture(scope="module", params=["caduceus_a", "caduceus_b"])
def golden(request) -> Golden:
    return load_golden(request.param)


@pytest.fixture
def official_weights(golden) -> dict[str, Tensor]:
    weights = golden.group("params")
    return {n: w.double() if w.is_floating_point() else w for n, w in weights.items()}


@pytest.fixture
def official_model(official_weights) -> DnaModel:
    return from_caduceus(official_weights, UNFUSED)


def sequences(golden: Golden) -> list[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """(ids, results in float64, logits in the fused variant) of each."""
    return [
        (
            golden.tensors[f"in/seq{i}/ids"],
            golden.group(f"out_f64/seq{i}"),
            golden.tensors[f"out_f64_fused_add_norm/seq{i}/logits"],
        )
        for i in sequence_numbers(golden)
    ]


def test_golden_config_is_read_off_the_weights(golden, official_model):
    given = golden.info["config"]
    sizes = {key: given[key] for key in ("expand", "d_state", "d_conv", "dt_rank")}
    assert official_model.config == ModelConfig(
        d_model=given["d_model"],
        n_layers=given["n_layer"],
        vocab_size=16,
        strands="both" if given["rcps"] else "one",
        mixer=BiMambaConfig(**sizes, strategy=given["strategy"]),
    )


def test_golden_logits_and_hidden_states(golden, official_model):
    for ids, expected, _ in sequences(golden):
        check_logits_and_hidden_states(official_model, ids, expected)


def test_golden_logits_of_the_reverse_complement(golden, official_model):
    for i in sequence_numbers(golden):
        logits = official_model(golden.tensors[f"in/seq{i}/ids_rc"])
        expected = golden.tensors[f"out_f64/seq{i}/logits_of_rc"]
        assert_close(logits, expected, **TOLERANCE, what="logits")


def test_golden_logits_with_fused_add_norm(golden, official_weights):
    """The published setting, another function of the same weights: also what is read without
    settings."""
    for settings in ({}, {"fused_add_norm": True}):
        model = from_caduceus(official_weights, settings)
        for ids, _, fused in sequences(golden):
            assert_close(model(ids), fused, **TOLERANCE, what="logits")


def test_golden_logits_in_float32(golden, official_model):
    model = official_model.float()
    for ids, expected, _ in sequences(golden):
        logits = model(ids).double()
        torch.testing.assert_close(logits, expected["logits"], rtol=1e-3, atol=1e-4)


def test_golden_class_scores(golden, official_model):
    """Pooled means of both strands are scored and averaged: the score of the mean, as it is one
    product."""
    score = golden.tensors["params_cls/score.weight"].double()
    for ids, expected, _ in sequences(golden):
        found = official_model.embed(ids).mean(1) @ score.T
        assert_close(found, expected["cls_logits"], **TOLERANCE, what="scores")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden_masked_loss_and_gradients(golden, official_model, dtype):
    model = official_model.to(dtype)
    ids, labels = golden.tensors["in/mlm_ids"], golden.tensors["in/mlm_labels"]
    logits = model(ids).flatten(0, 1)
    loss = functional.cross_entropy(logits, labels.flatten(), ignore_index=PAD_ID)
    loss.backward()
    is_exact = dtype == torch.float64
    tolerance = TOLERANCE if is_exact else {"rtol": 0.0, "atol": 1e-3}
    assert_close(loss, golden.tensors["out_f64/mlm_loss"], **tolerance, what="loss")
    # Gradients have the names and shapes of weights, so they can be read as these are.
    expected = dict(from_caduceus(golden.group("grad_f64"), UNFUSED).named_parameters())
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(found[name], gradient, **tolerance, what=name)


def test_golden_weighted_masked_loss(golden, official_model):
    labels, weights = golden.tensors["in/mlm_labels"], golden.tensors["in/loss_weights"].double()
    logits = official_model(golden.tensors["in/mlm_ids"]).transpose(1, 2)
    losses = functional.cross_entropy(logits, labels, ignore_index=PAD_ID, reduction="none")
    loss = (losses * weights).sum() / weights[labels != PAD_ID].sum()
    assert_close(loss, golden.tensors["out_f64/mlm_loss_weighted"], **TOLERANCE, what="loss")


# Reading and writing.


def build(n_layers: int = 2, tied_head: bool = True, **changes) -> DnaModel:
    """A tiny model with no parameter at a constant, so that a mix-up of two shows."""
    changes = {"mixer": BiMambaConfig(d_state=3), "strands": "both", **changes}
    sizes = {"d_model": 8, "n_layers": n_layers, "vocab_size": 16, "tie_embeddings": tied_head}
    return build_model(ModelConfig(**sizes, **changes), torch.float64, spread=0.1)


IDS = torch.randint(7, 12, (2, 19), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "model",
    [
        build(),
        build(3),
        build(4, tied_head=False, norm="layer"),
        build(strands="one"),
        build(mixer=BiMambaConfig(strategy="ew_multiply", bias=True, conv_bias=False)),
        build(mixer=BiMambaConfig(tie_projections=False, bias=True)),
        build(mixer=MambaConfig(d_state=3)),
    ],
)
def test_a_written_model_comes_back(model):
    weights, settings = to_caduceus(model)
    again = from_caduceus(weights, settings)
    assert again.config == model.config
    assert torch.equal(again(IDS), model(IDS))


def test_published_weights_come_back_as_they_were(official_weights):
    written, settings = to_caduceus(from_caduceus(official_weights))
    assert settings["fused_add_norm"]
    assert written.keys() == official_weights.keys()
    for name, tensor in written.items():
        assert torch.equal(tensor, official_weights[name]), name


@pytest.mark.parametrize("tied_projections", [True, False])
@pytest.mark.parametrize("n_layers", [2, 3])
def test_fused_add_norm_exchanges_the_halves_before_every_block(n_layers, tied_projections):
    """So their code does it; here the same weights are read to another model of both strands."""
    mixer = BiMambaConfig(d_state=3, tie_projections=tied_projections, bias=True)
    weights, settings = to_caduceus(build(n_layers, mixer=mixer, norm="layer"))
    plain = from_caduceus(weights, {**settings, "fused_add_norm": False})
    fused = from_caduceus(weights, {**settings, "fused_add_norm": True})
    hidden = plain.backbone.embed(torch.cat([IDS, reverse_complement(IDS)]))
    for block in plain.backbone.layers:
        # The other strand's half is reversed in position and channel.
        hidden = hidden.roll(2, 0).flip(1, 2)
        x, residual, _ = block(hidden, None)
        hidden = residual + x
    logits = functional.linear(plain.backbone.norm_f(hidden)[0], plain.lm_head.weight)
    own, other = logits.chunk(2)
    torch.testing.assert_close(fused(IDS), own + other.flip(1)[..., COMPLEMENT])
    # The head of an odd number of blocks is turned round too, and is no more the embedding.
    assert fused.config.tie_embeddings == (n_layers == 2)


COMPLEMENT = complement_ids(16)


def reverse_complement(ids: Tensor) -> Tensor:
    return COMPLEMENT[ids.flip(1)]


def test_weights_are_recognised_by_names_or_settings():
    (layout,) = FORMATS
    weights, settings = to_caduceus(build())
    assert layout.recognises(weights, {})
    assert layout.recognises({}, settings)
    assert not layout.recognises(build().state_dict(), {"model_type": "mamba"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rcps": False}, "rcps is False, expected True"),
        ({"n_layer": 5}, "n_layer is 5, expected 2"),
        ({"ssm_cfg": {"d_state": 16}}, "d_state is 16, expected 3"),
        ({"bidirectional": False}, "bidirectional is False, expected True"),
        ({"bidirectional_strategy": "mean"}, "'add' or 'ew_multiply', got 'mean'"),
        ({"complement_map": {"0": 0, "1": 2, "2": 1}}, r"is \[0, 2, 1\], expected \[0, 1, 2\]"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes, message):
    weights, settings = to_caduceus(build())
    with pytest.raises(InputError, match=message):
        from_caduceus(weights, {**settings, **changes})


def test_other_weights_are_refused():
    weights, settings = to_caduceus(build())
    with pytest.raises(InputError, match=r"Caduceus .* there is no backbone.embedding"):
        from_caduceus({"caduceus.backbone.layers.0.norm.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"unknown score.weight"):
        from_caduceus({**weights, "score.weight": torch.ones(2, 8)}, settings)
    swapped = {n: w.flip(0) if n == "lm_head.complement_map" else w for n, w in weights.items()}
    with pytest.raises(InputError, match="are for other token ids than ours"):
        from_caduceus(swapped, settings)
    causal = build(mixer=MambaConfig(d_state=3))
    with pytest.raises(InputError, match="in one direction with fused_add_norm cannot be read"):
        from_caduceus(to_caduceus(causal)[0])


def test_one_direction_of_one_strand_is_read_as_mamba():
    model = build(strands="one")
    weights, settings = to_caduceus(model)
    weights = {name: w for name, w in weights.items() if "mamba_rev" not in name}
    causal = from_caduceus(weights, {**settings, "bidirectional": False})
    assert causal.config.mixer == MambaConfig(d_state=3, dt_rank=1)
    ahead = {name: w for name, w in model.state_dict().items() if ".reverse." not in name}
    assert torch.equal(causal(IDS), from_state_spaces(ahead)(IDS))


def test_what_caduceus_cannot_hold_is_refused():
    with pytest.raises(InputError, match=r"on both strands, .* this model has 'mamba'"):
        to_caduceus(build(mixer=MambaConfig(d_state=3), strands="one"))
    with pytest.raises(InputError, match="this model has 's4'"):
        to_caduceus(build(mixer=S4Config(d_state=4)))
    with pytest.raises(InputError, match="this model has 'bimamba' and an MLP"):
        to_caduceus(build(mlp=MlpConfig()))


def test_a_model_of_both_strands_or_directions_is_no_mamba():
    with pytest.raises(InputError, match=r"unknown backbone.layers.0.mixer.reverse"):
        from_state_spaces(build().state_dict())
