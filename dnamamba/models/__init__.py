"""The backbone, its mixers and heads."""

from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.config import MlpConfig, ModelConfig
from dnamamba.models.interop import (
    from_caduceus,
    from_huggingface_llama,
    from_huggingface_mamba,
    from_hyenadna,
    from_state_spaces,
    to_caduceus,
    to_huggingface_llama,
    to_huggingface_mamba,
    to_hyenadna,
)
from dnamamba.models.language_model import DnaModel, no_weight_decay_names
from dnamamba.models.mixers.attention import AttentionState
from dnamamba.models.mixers.configs import (
    AttentionConfig,
    BiMambaConfig,
    HyenaConfig,
    Mamba2Config,
    MambaConfig,
    S4Config,
)
from dnamamba.models.mixers.mamba import MambaState
from dnamamba.models.mixers.mamba2 import Mamba2State
from dnamamba.models.presets import count_parameters, preset, preset_names

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
    "MlpConfig",
    "ModelConfig",
    "S4Config",
    "count_parameters",
    "from_caduceus",
    "from_huggingface_llama",
    "from_huggingface_mamba",
    "from_hyenadna",
    "from_state_spaces",
    "no_weight_decay_names",
    "preset",
    "preset_names",
    "to_caduceus",
    "to_huggingface_llama",
    "to_huggingface_mamba",
    "to_hyenadna",
]
