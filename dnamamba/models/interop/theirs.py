"""The same weights in transformers' own class: an implementation that knows nothing of ours."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import InputError, WrongResultError
from dnamamba.models.interop.fingerprint import fixed_logits, model_ids
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel

# Architectures whose class in transformers needs no code from elsewhere.
MODEL_TYPES = ("mamba", "mamba2", "llama")
TOLERANCE = 1e-3
"""Largest difference of logits, over the largest logit, that rounding in float32 explains."""


def compare_with_theirs(
    model: DnaModel, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> str:
    """Compare logits of the fixed sequence with transformers' class; what came of it, in a line.

    weights, settings: what the model was made of. Where that is no architecture of transformers, or
    it is not installed, the line says so. Raises WrongResultError where logits differ, InputError
    where transformers refuses the weights.
    """
    model_type = settings.get("model_type")
    if model_type not in MODEL_TYPES:
        return "transformers has no class for this: the fingerprint is all there is to compare"
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return "transformers is not installed: the fingerprint is all there is to compare"
    theirs = _build(transformers, str(model_type), weights, settings)
    with torch.no_grad():
        found = theirs(model_ids(model)).logits[0, :, : model.config.vocab_size]
    expected = fixed_logits(model)
    worst, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    name = type(theirs).__name__
    # Written so that a NaN is wrong.
    if not worst <= TOLERANCE * largest:
        raise WrongResultError(
            f"transformers' {name} gives other logits (by {worst:.1e}, of up to {largest:.1e}); "
            "nothing is kept: please report it"
        )
    return f"transformers' {name}: logits differ by {worst:.1e} at most, of up to {largest:.1e}"


def _build(
    transformers: Any, model_type: str, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> Any:
    """Their model with exactly these weights."""
    own = ("model_type", "dtype", "torch_dtype")
    kept = {key: value for key, value in settings.items() if key not in own}
    try:
        config = transformers.AutoConfig.for_model(model_type, **kept)
        theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        lost, unknown = theirs.load_state_dict(weights, strict=False)
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(f"transformers makes no model of these settings: {reason}") from error
    lost = [name for name in lost if not (name == HEAD_WEIGHT and config.tie_word_embeddings)]
    if lost or unknown:
        raise InputError(f"transformers' class misses {lost[:3]} and does not know {unknown[:3]}")
    return theirs.eval()
