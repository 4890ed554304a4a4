"""Models of both strands: the reverse complement of a sequence gets the same, turned round."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    MambaConfig,
    MlpConfig,
    ModelConfig,
    S4Config,
    to_huggingface_llama,
)
from dnamamba.models.interop.registry import find_format
from dnamamba.models.recompute import RECOMPUTE
from dnamamba.models.strands import complement_ids, flip
from dnamamba.tokenizer import reverse_complement
from model_cases import MAMBA_ATTENTION, MAMBA_BIMAMBA, tiny_model

MIXERS = [
    MambaConfig(d_state=4),
    BiMambaConfig(d_state=4),
    BiMambaConfig(d_state=4, strategy="ew_multiply", tie_projections=False),
    S4Config(d_state=4, init="lin"),
    AttentionConfig(n_heads=2),
    MAMBA_ATTENTION,
    MAMBA_BIMAMBA,
]
COMPLEMENT = complement_ids(16)


def build(mixer=MIXERS[1], **changes) -> DnaModel:
    return tiny_model(mixer, n_layers=3, strands="both", **changes)


def draw_ids(batch: int, seq_len: int) -> Tensor:
    return torch.randint(0, 12, (batch, seq_len), generator=torch.Generator().manual_seed(1))


def turn(ids: Tensor) -> Tensor:
    """The reverse complement of token ids, by the tokenizer."""
    return torch.from_numpy(reverse_complement(ids.numpy())).to(ids.dtype)


def train(model: DnaModel, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    ids = draw_ids(4, 24)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        optimizer.step()


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("trained", [False, True])
def test_logits_of_the_reverse_complement_are_those_of_the_sequence(mixer, trained):
    """Exact by its structure: each logit is the sum of the same two numbers."""
    model = build(mixer)
    if trained:
        train(model)
    for seq_len in (1, 2, 33, 64):
        ids = draw_ids(3, seq_len)
        found, expected = model(turn(ids)), model(ids).flip(1)[..., COMPLEMENT]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert bool(torch.isneginf(found[..., 12:]).all())


@pytest.mark.parametrize(
    "changes", [{"tie_embeddings": False}, {"norm": "layer"}, {"mlp": MlpConfig()}]
)
def test_any_block_and_head(changes):
    model, ids = build(**changes), draw_ids(2, 21)
    expected = model(ids).flip(1)[..., COMPLEMENT]
    torch.testing.assert_close(model(turn(ids)), expected, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 17), min_size=1, max_size=4))
def test_rows_padded_on_the_right_are_turned_within_their_length(lengths):
    model, ids = build().double(), draw_ids(len(lengths), 17)
    turned = ids.clone()
    for row, length in enumerate(lengths):
        turned[row, :length] = turn(ids[row, :length].unsqueeze(0))
    own, other = (model(x, lengths=torch.tensor(lengths)) for x in (ids, turned))
    for row, length in enumerate(lengths):
        expected = own[row, :length].flip(0)[:, COMPLEMENT]
        torch.testing.assert_close(other[row, :length], expected, rtol=0, atol=1e-12)


def test_flip_keeps_padding_where_it_is():
    x = torch.arange(10).view(2, 5)
    assert flip(x, torch.tensor([3, 5])).tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
    assert torch.equal(flip(x), x.flip(1))
    channels = x.unsqueeze(-1).expand(2, 5, 2)
    assert flip(channels, torch.tensor([1, 2]))[1, :, 1].tolist() == [6, 5, 7, 8, 9]


@pytest.mark.parametrize("mixer", MIXERS)
def test_features_and_their_mean_over_positions(mixer):
    model, ids = build(mixer), draw_ids(2, 20)
    features, turned = model.embed(ids), model.embed(turn(ids))
    assert features.shape == (2, 20, 8)
    torch.testing.assert_close(turned, features.flip(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(turned.mean(1), features.mean(1), rtol=0, atol=1e-6)


def test_hidden_states_hold_both_strands():
    model, ids = build(), draw_ids(2, 20)
    hidden, turned = model.hidden_states(ids), model.hidden_states(turn(ids))
    assert [tuple(tensor.shape) for tensor in hidden] == [(2, 20, 16)] * 5
    for one, other in zip(hidden, turned, strict=True):
        torch.testing.assert_close(other, one.flip(1, 2), rtol=0, atol=1e-6)
    own, other = hidden[-1].chunk(2, -1)
    torch.testing.assert_close((own + other.flip(-1)) / 2, model.embed(ids))


def test_a_model_of_one_strand_has_its_last_hidden_state_for_features():
    model = tiny_model()
    ids = draw_ids(2, 9)
    torch.testing.assert_close(model.embed(ids), model.hidden_states(ids)[-1])


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
def test_recomputing_changes_nothing(recompute):
    model, ids = build(), draw_ids(2, 24)
    gradients = []
    for way in ("nothing", recompute):
        model.zero_grad()
        (
            model(ids, recompute=way)[..., :12].sin().sum() + model.embed(ids, None, way).sum()
        ).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_ids_of_any_integer_dtype():
    model, ids = build(), draw_ids(2, 9)
    assert torch.equal(model(ids.to(torch.uint8)), model(ids))


def test_weights_are_those_of_a_model_of_one_strand(tmp_path):
    model = build()
    one = tiny_model(MIXERS[1], n_layers=3)
    assert model.state_dict().keys() == one.state_dict().keys()
    model.save_pretrained(tmp_path)
    again, ids = DnaModel.from_pretrained(tmp_path), draw_ids(2, 9)
    assert again.config.strands == "both"
    assert torch.equal(again(ids), model(ids))


def test_it_is_never_causal_and_has_no_state():
    model = build(MambaConfig(d_state=4))
    assert not model.is_causal
    assert tiny_model().is_causal
    with pytest.raises(InputError, match="no state to go on from: it reads in both"):
        model(draw_ids(1, 3), return_state=True)


def test_ids_without_complements_are_refused():
    with pytest.raises(InputError, match="strands 'both' needs this project's token ids"):
        ModelConfig(d_model=8, n_layers=1, strands="both", vocab_size=5)
    with pytest.raises(InputError, match="strands must be one of one, both, got 'both_swapped'"):
        ModelConfig(d_model=8, n_layers=1, strands="both_swapped")


def test_layouts_of_models_of_one_strand_are_refused():
    """Their weights alone would not tell how many strands a model reads."""
    with pytest.raises(InputError, match="Hugging Face's Mamba reads one"):
        find_format("huggingface-mamba").write(build(MambaConfig(d_state=4)))
    llama = build(AttentionConfig(n_heads=2), mlp=MlpConfig(activation="swiglu"))
    with pytest.raises(InputError, match="Llama's layout is for models of one strand"):
        to_huggingface_llama(llama)
