"""The backbone, its mixers and heads."""

from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.config import ModelConfig, count_flops, count_parameters
from dnamamba.models.interop.caduceus import from_caduceus, to_caduceus
from dnamamba.models.interop.hyena import from_hyenadna, to_hyenadna
from dnamamba.models.interop.llama import from_huggingface_llama, to_huggingface_llama
from dnamamba.models.interop.mamba import (
    from_huggingface_mamba,
    from_state_spaces,
    to_huggingface_mamba,
)
from dnamamba.models.language_model import DnaModel, no_weight_decay_names
from dnamamba.models.layers import MlpConfig
from dnamamba.models.mixers.attention import AttentionConfig, AttentionState
from dnamamba.models.mixers.bimamba import BiMambaConfig
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.mamba import MambaConfig, MambaState
from dnamamba.models.mixers.mamba2 import Mamba2Config, Mamba2State
from dnamamba.models.mixers.protocol import Mixer, MixerConfig, register_mixer
from dnamamba.models.mixers.s4 import S4Config
from dnamamba.models.presets import preset, preset_names

__all__ = [
    "AttentionConfig",
    "AttentionState",
    "BiMambaConfig",
    "DnaClassifier",
    "DnaModel",
    "HeadConfig",
    "HyenaConfig",
    "Mamba2Config",
    "Mamba2State",
    "MambaConfig",
    "MambaState",
    "Mixer",
    "MixerConfig",
    "MlpConfig",
    "ModelConfig",
    "S4Config",
    "count_flops",
    "count_parameters",
    "from_caduceus",
    "from_huggingface_llama",
    "from_huggingface_mamba",
    "from_hyenadna",
    "from_state_spaces",
    "no_weight_decay_names",
    "preset",
    "preset_names",
    "register_mixer",
    "to_caduceus",
    "to_huggingface_llama",
    "to_huggingface_mamba",
    "to_hyenadna",
]
