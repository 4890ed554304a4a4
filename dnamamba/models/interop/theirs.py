"""The same weights in transformers' own class, as an independent implementation."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dnamamba.errors import InputError, WrongResultError
from dnamamba.models.interop.fingerprint import fixed_logits, model_ids
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel

# Architectures whose class in transformers needs no code from elsewhere.
MODEL_TYPES = ("mamba", "mamba2", "llama")
# What they are given of a config.json: it is somebody else's, and some settings have transformers
# fetch and run code (attn_implementation). chunk_size changes memory, not results, so it stays out.
_OF_ALL = {
    *("vocab_size", "hidden_size", "num_hidden_layers", "hidden_act", "tie_word_embeddings"),
    *("bos_token_id", "eos_token_id", "pad_token_id"),
}
_OF_MAMBAS = _OF_ALL | {
    *("layer_norm_epsilon", "residual_in_fp32", "state_size", "expand", "conv_kernel"),
    *("use_bias", "use_conv_bias", "time_step_min", "time_step_max", "time_step_floor"),
}
KNOWN_SETTINGS = {
    "mamba": _OF_MAMBAS | {"intermediate_size", "time_step_rank"},
    "mamba2": _OF_MAMBAS | {"head_dim", "num_heads", "n_groups", "time_step_limit", "rms_norm"},
    "llama": _OF_ALL
    | {
        *("intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim"),
        *("rms_norm_eps", "max_position_embeddings", "rope_theta", "rope_parameters"),
        *("rope_scaling", "attention_bias", "mlp_bias"),
    },
}
TOLERANCE = 1e-3
"""Largest difference of logits, over the largest logit, that float32 explains."""

_ALONE = "the fingerprint is all there is to compare"


def compare_with_theirs(
    model: DnaModel, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> str:
    """Compare logits of the fixed sequence with transformers' class; returns a line that tells the
    outcome. weights, settings: those the model was read from. Raises WrongResultError if logits
    differ."""
    model_type = settings.get("model_type")
    if model_type not in MODEL_TYPES:
        return f"transformers has no class for this: {_ALONE}"
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        return f"transformers is not installed: {_ALONE}"
    with _quiet(transformers):
        try:
            theirs = _build(transformers, str(model_type), weights, settings)
            with torch.no_grad():
                found = theirs(model_ids(model)).logits[0, :, : model.config.vocab_size]
        except _refusals() as error:
            # Its version may be too old or too new for these settings.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"transformers makes no model of this ({reason}): {_ALONE}"
    expected = fixed_logits(model)
    worst, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    name = type(theirs).__name__
    # Written so that a NaN is wrong.
    if not worst <= TOLERANCE * largest:
        raise WrongResultError(
            f"transformers' {name} gives other logits (by {worst:.1e}, of up to {largest:.1e}); "
            "nothing is written: please report it"
        )
    return f"transformers' {name}: logits differ by {worst:.1e} at most, of up to {largest:.1e}"


def _build(
    transformers: Any, model_type: str, weights: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> Any:
    # Lists as the tuples that its readers of config.json make of them.
    kept = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
        if key in KNOWN_SETTINGS[model_type]
    }
    config = transformers.AutoConfig.for_model(model_type, **kept)
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    make = transformers.AutoModelForCausalLM.from_config
    # First without memory: sizes that config.json leaves out are transformers', of billions.
    with torch.device("meta"):
        _check_sizes(make(config, **options), weights)
    theirs = make(config, **options)
    lost, unknown = theirs.load_state_dict(weights, strict=False)
    lost = [name for name in lost if not (name == HEAD_WEIGHT and config.tie_word_embeddings)]
    if lost or unknown:
        raise InputError(f"it lacks {lost[:3]} and does not know {unknown[:3]}")
    return theirs.eval()


def _check_sizes(theirs: Any, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in theirs.state_dict().items():
        if name in weights and weights[name].shape != tensor.shape:
            raise InputError(
                f"its {name} is {tuple(tensor.shape)}, the weights' {tuple(weights[name].shape)}"
            )


def _refusals() -> tuple[type[Exception], ...]:
    errors = importlib.import_module("huggingface_hub.errors")
    strict = getattr(errors, "StrictDataclassError", ValueError)
    return (
        *(ValueError, TypeError, LookupError, RuntimeError, AttributeError, ImportError),
        *(AssertionError, ArithmeticError, strict),
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its advice about faster kernels."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
