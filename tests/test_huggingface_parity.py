"""Weights to and from transformers' Mamba: the same numbers on both sides."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models import (
    DnaModel,
    MambaConfig,
    ModelConfig,
    from_huggingface_mamba,
    from_state_spaces,
    to_huggingface_mamba,
)

ROOT = Path(__file__).resolve().parents[1]


def import_huggingface_mamba() -> tuple[Any, Any]:
    """transformers uses a package `kernels` if there is one, and would take our folder for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [p for p in sys.path if Path(p).resolve() != ROOT])
        reason = "needs transformers (the test extra)"
        transformers = pytest.importorskip("transformers", reason=reason)
        return transformers.MambaConfig, transformers.MambaForCausalLM


HuggingFaceConfig, HuggingFaceMamba = import_huggingface_mamba()

# transformers computes the residual stream and the scan in float32 whatever the model's dtype; the
# golden numbers, which agree with it to 1e-15, judge float64.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

IDS = torch.randint(0, 16, (2, 19), generator=torch.Generator().manual_seed(2))


def build_huggingface(tied: bool = True, **changes: object) -> torch.nn.Module:
    """A tiny model with every parameter drawn at random."""
    settings = {"vocab_size": 16, "hidden_size": 24, "state_size": 5, "num_hidden_layers": 2}
    config = HuggingFaceConfig(**{**settings, **changes}, tie_word_embeddings=tied, use_cache=False)
    torch.manual_seed(0)
    model = HuggingFaceMamba(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def logits_of(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False},
        {"use_bias": True, "use_conv_bias": False, "conv_kernel": 3},
        {"expand": 3, "time_step_rank": 4},
    ],
    ids=["default", "untied", "biases", "sizes"],
)
def test_huggingface_weights_give_the_same_logits(changes):
    theirs = build_huggingface(**changes)
    ours = from_huggingface_mamba(theirs.state_dict())
    torch.testing.assert_close(ours(IDS), logits_of(theirs), **TOLERANCE)


def test_huggingface_float64_weights_give_a_float64_model():
    theirs = build_huggingface().double()
    ours = from_huggingface_mamba(theirs.state_dict())
    assert ours(IDS).dtype == torch.float64
    torch.testing.assert_close(ours(IDS).float(), logits_of(theirs).float(), **TOLERANCE)


@pytest.mark.parametrize("tied", [True, False])
def test_our_weights_give_the_same_logits_there(tied):
    torch.manual_seed(3)
    config = ModelConfig(
        d_model=24, n_layers=2, vocab_size=16, tie_embeddings=tied, mixer=MambaConfig(d_state=5)
    )
    ours = DnaModel(config)
    theirs = build_huggingface(tied)
    theirs.load_state_dict(to_huggingface_mamba(ours), strict=True)
    torch.testing.assert_close(logits_of(theirs), ours(IDS), **TOLERANCE)


def test_huggingface_round_trip_keeps_every_weight():
    weights = build_huggingface(tied=False).state_dict()
    again = to_huggingface_mamba(from_huggingface_mamba(weights))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


def test_huggingface_vocabulary_may_be_padded():
    theirs = build_huggingface()
    ours = from_huggingface_mamba(theirs.state_dict(), vocab_size=12)
    logits = ours(IDS)
    assert (logits[..., 12:] == -torch.inf).all()
    torch.testing.assert_close(logits[..., :12], logits_of(theirs)[..., :12], **TOLERANCE)


def test_other_architectures_are_refused():
    with pytest.raises(InputError, match=r"not the weights of a Mamba-1 language model: there is "):
        from_state_spaces({"model.embed_tokens.weight": torch.zeros(16, 8)})
    weights = dict(build_huggingface().state_dict())
    weights["backbone.layers.0.mixer.norm.weight"] = torch.ones(3)
    with pytest.raises(InputError, match=r"unknown backbone.layers.0.mixer.norm.weight"):
        from_huggingface_mamba(weights)
