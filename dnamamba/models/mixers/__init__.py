"""Sequence mixers. A new one is a module here (config and mixer), and a line in the table below."""

from dnamamba.models.mixers.attention import Attention, AttentionConfig
from dnamamba.models.mixers.bimamba import BiMamba, BiMambaConfig
from dnamamba.models.mixers.hyena import Hyena, HyenaConfig
from dnamamba.models.mixers.mamba import Mamba, MambaConfig
from dnamamba.models.mixers.mamba2 import Mamba2, Mamba2Config
from dnamamba.models.mixers.protocol import register_mixer
from dnamamba.models.mixers.s4 import S4, S4Config

register_mixer(MambaConfig, Mamba)
register_mixer(AttentionConfig, Attention)
register_mixer(HyenaConfig, Hyena)
register_mixer(Mamba2Config, Mamba2)
register_mixer(BiMambaConfig, BiMamba)
register_mixer(S4Config, S4)
