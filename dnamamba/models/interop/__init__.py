"""Weights of other projects, in and out: a module for each architecture."""

from dnamamba.models.interop.caduceus import from_caduceus, to_caduceus
from dnamamba.models.interop.hyena import from_hyenadna, to_hyenadna
from dnamamba.models.interop.llama import from_huggingface_llama, to_huggingface_llama
from dnamamba.models.interop.mamba import (
    from_huggingface_mamba,
    from_state_spaces,
    to_huggingface_mamba,
)

__all__ = [
    "from_caduceus",
    "from_huggingface_llama",
    "from_huggingface_mamba",
    "from_hyenadna",
    "from_state_spaces",
    "to_caduceus",
    "to_huggingface_llama",
    "to_huggingface_mamba",
    "to_hyenadna",
]
