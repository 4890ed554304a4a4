"""Mamba-1: state-spaces/mamba and Hugging Face, whose names are the same but for one."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from dnamamba.errors import InputError
from dnamamba.models.config import MambaConfig, ModelConfig
from dnamamba.models.language_model import HEAD_WEIGHT, DnaModel, load_weights

_EMBEDDING = "backbone.embedding.weight"
_HF_EMBEDDING = "backbone.embeddings.weight"
_MIXER = "backbone.layers.0.mixer"


def from_state_spaces(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of state-spaces/mamba's MambaLMHeadModel (Mamba-1).

    Names are the same; sizes are read off the shapes. vocab_size: token ids in use, if fewer than
    the embedding has rows. norm_eps is not in the weights: give the original's if it is another.
    The model is float32, or float64 if the embedding is. Raises InputError for weights of any
    other architecture.
    """
    config = _infer_config(weights, vocab_size, norm_eps)
    model = DnaModel(config)
    if weights[_EMBEDDING].dtype == torch.float64:
        model = model.double()
    load_weights(model, weights, "the given state_dict")
    return model


def from_huggingface_mamba(
    weights: Mapping[str, Tensor], *, vocab_size: int | None = None, norm_eps: float = 1e-5
) -> DnaModel:
    """A model from the state_dict of transformers' MambaForCausalLM; see `from_state_spaces`."""
    renamed = {_EMBEDDING if name == _HF_EMBEDDING else name: w for name, w in weights.items()}
    return from_state_spaces(renamed, vocab_size=vocab_size, norm_eps=norm_eps)


def to_huggingface_mamba(model: DnaModel) -> dict[str, Tensor]:
    """The state_dict of transformers' MambaForCausalLM with vocab_size = padded_vocab_size.

    There the logits of ids that are not in use are not masked.
    """
    weights = model.state_dict()
    return {_HF_EMBEDDING if name == _EMBEDDING else name: w for name, w in weights.items()}


def _infer_config(
    weights: Mapping[str, Tensor], vocab_size: int | None, norm_eps: float
) -> ModelConfig:
    needed = (_EMBEDDING, *(f"{_MIXER}.{name}" for name in ("A_log", "conv1d.weight")))
    needed += (f"{_MIXER}.dt_proj.weight",)
    if missing := [name for name in needed if name not in weights]:
        raise InputError(
            f"not the weights of a Mamba-1 language model: there is no {', '.join(missing)}"
        )
    padded_vocab_size, d_model = weights[_EMBEDDING].shape
    d_inner, d_state = weights[f"{_MIXER}.A_log"].shape
    found = (re.match(r"backbone\.layers\.(\d+)\.", name) for name in weights)
    head = weights.get(HEAD_WEIGHT)
    return ModelConfig(
        d_model=d_model,
        n_layers=1 + max(int(match[1]) for match in found if match),
        vocab_size=padded_vocab_size if vocab_size is None else vocab_size,
        padded_vocab_size=padded_vocab_size,
        norm_eps=norm_eps,
        tie_embeddings=head is None or torch.equal(head, weights[_EMBEDDING]),
        mixer=MambaConfig(
            expand=d_inner // d_model,
            d_state=d_state,
            d_conv=weights[f"{_MIXER}.conv1d.weight"].shape[-1],
            dt_rank=weights[f"{_MIXER}.dt_proj.weight"].shape[1],
            conv_bias=f"{_MIXER}.conv1d.bias" in weights,
            bias=f"{_MIXER}.in_proj.bias" in weights,
        ),
    )
