"""Rows padded on the right: the same numbers at real positions as each row alone."""

import pytest
import torch
from torch import Tensor

from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    MambaConfig,
    S4Config,
)
from model_cases import MAMBA_ATTENTION, MAMBA_BIMAMBA, tiny_model

MIXERS = [
    MambaConfig(d_state=4),
    BiMambaConfig(d_state=4),
    BiMambaConfig(d_state=4, strategy="ew_multiply", tie_projections=False, bias=True),
    S4Config(d_state=4),
    AttentionConfig(n_heads=2),
    AttentionConfig(n_heads=2, bias=True, is_causal=False),
    MAMBA_ATTENTION,
    MAMBA_BIMAMBA,
]
LENGTHS = [5, 20, 1]


def build(mixer, strands: str = "one") -> DnaModel:
    model = tiny_model(mixer, torch.float64, strands=strands)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases far from zero: what padding leaves behind would show.
            if name.endswith("conv1d.bias"):
                parameter.add_(1)
    return model


def draw_ids() -> Tensor:
    """Any ids, in the padding too."""
    return torch.randint(0, 12, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("strands", ["one", "both"])
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("training", [True, False])
def test_logits_features_and_hidden_states(mixer, strands, training):
    model, ids = build(mixer, strands).train(training), draw_ids()
    lengths = torch.tensor(LENGTHS)
    logits, features = model(ids, lengths=lengths), model.embed(ids, lengths)
    hidden = model.hidden_states(ids, lengths)
    for row, length in enumerate(LENGTHS):
        alone = ids[row : row + 1, :length]
        exact = {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(logits[row, :length], model(alone)[0], **exact)
        torch.testing.assert_close(features[row, :length], model.embed(alone)[0], **exact)
        for found, expected in zip(hidden, model.hidden_states(alone), strict=True):
            torch.testing.assert_close(found[row, :length], expected[0], **exact)


@pytest.mark.parametrize("strands", ["one", "both"])
@pytest.mark.parametrize("mixer", [*MIXERS[:2], MIXERS[-1]])
@pytest.mark.parametrize("recompute", ["nothing", "cheap"])
def test_gradients(mixer, strands, recompute):
    model, ids = build(mixer, strands), draw_ids()
    together = model(ids, recompute=recompute, lengths=torch.tensor(LENGTHS))
    gradients = []
    for rows in (
        [together[row, :length] for row, length in enumerate(LENGTHS)],
        [model(ids[row : row + 1, :length])[0] for row, length in enumerate(LENGTHS)],
    ):
        model.zero_grad()
        sum(logits[:, :12].sin().sum() for logits in rows).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("mixer", [*MIXERS[:3], MIXERS[-1]])
def test_what_is_in_the_padding_does_not_matter(mixer):
    """In float32, where a fused kernel reads the rows."""
    model, ids = build(mixer).float(), draw_ids()
    lengths = torch.tensor(LENGTHS, dtype=torch.int32)
    positions = torch.arange(20)
    other = torch.where(positions < lengths.unsqueeze(1), ids, 4)
    found, expected = model(ids, lengths=lengths), model(other, lengths=lengths)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(found[row, :length], expected[row, :length])
        alone = model(ids[row : row + 1, :length])[0]
        torch.testing.assert_close(found[row, :length], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([1, 2]), r"lengths must be \(3,\) of integers, .* got \(2,\) torch.int64"),
        (torch.ones(3), r"got \(3,\) torch.float32"),
        (torch.ones(3, dtype=torch.bool), r"got \(3,\) torch.bool"),
        (torch.tensor([1, 0, 3]), r"from 1 to the 20 tokens of a row, got \[1, 0, 3\]"),
        (torch.tensor([1, 21, 3]), "from 1 to the 20 tokens of a row"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "embed", "hidden_states"])
def test_wrong_lengths_are_refused(lengths, message, call):
    model = build(MIXERS[0])
    with pytest.raises(ValueError, match=message):
        getattr(model, call)(draw_ids(), lengths=lengths)


def test_lengths_and_a_state_are_refused():
    model, ids = build(MIXERS[0]), draw_ids()
    with pytest.raises(ValueError, match="lengths cannot be combined with state or return_state"):
        model(ids, lengths=torch.tensor(LENGTHS), return_state=True)
