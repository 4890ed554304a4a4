"""What a mixer is, and the table of those that models can be made of.

A `MixerConfig` answers what is asked before anything is built, a `Mixer` computes. `register_mixer`
makes the pair known everywhere: files, planning, streaming, optimiser groups.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from dnamamba.errors import InputError

StateKind = Literal["fixed", "growing", "none"]
"""State carried from one piece of a sequence to the next: of fixed size, growing with the tokens
read (keys and values), or none, so that whole sequences are needed."""

MixerState = tuple[Tensor, ...]
"""State after some tokens; each kind of mixer has its NamedTuple."""

NO_STATE = (
    "this mixer carries no state to go on from: give whole sequences (no state, "
    "return_state=False), or take a causal mixer such as 'mamba'"
)


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Settings of one mixer. Subclasses are frozen dataclasses whose `kind` has a default.

    Costs are those of one mixer, without norm and MLP, in closed form.
    """

    kind: str
    """Name of the mixer in stored configs."""

    peak_learning_rate: ClassVar[float] = 8e-3
    """Peak of the pretraining schedule: the best of the Mamba paper's sweep (E.3)."""

    fine_tuning_learning_rate: ClassVar[float] = 1e-4
    """Peak for full fine-tuning of a classifier (Mamba paper, E.3.4)."""

    @property
    def state_kind(self) -> StateKind:
        return "none"

    @property
    def reads_both_directions(self) -> bool:
        """Whether outputs depend on later positions; `Mixer.forward` then takes a mask."""
        return False

    @property
    def max_len(self) -> int | None:
        """Most tokens in a sequence; None: only memory is a limit."""
        return None

    def resolve(self, d_model: int) -> Self:
        """Fill in open values for a model of this width. Raises InputError for sizes that do not
        fit."""
        return self

    def for_length(self, seq_len: int) -> Self:
        """Make a copy for training on sequences of up to seq_len tokens."""
        return self

    def count_parameters(self, d_model: int) -> int:
        """Parameters of a resolved config."""
        raise NotImplementedError

    def flops(self, d_model: int, seq_len: int) -> int:
        """Floating point operations of a forward pass over one sequence, counted as in
        `count_flops`."""
        raise NotImplementedError

    def activation_bytes(
        self, d_model: int, device: torch.device, dtype: torch.dtype
    ) -> float | None:
        """Bytes a token that recompute "cheap" keeps: outputs and states of a fused scan, for
        activations of this dtype. None: there is no fused scan."""
        return None

    @classmethod
    def kinds(cls) -> list[type["MixerConfig"]]:
        """Registered subclasses; `configs.from_dict` picks one by `kind`."""
        return list(_MIXERS)


class Mixer(nn.Module):
    """Maps (B, L, D) to (B, L, D). Subclasses are built from (d_model, config).

    `forward(x, state=None, return_state=False)` returns the output and, if asked for, the state
    after the last token. It never writes to `state`; it raises InputError for a state if state_kind
    is "none". A mixer that reads both directions also takes `mask`, (B, L) bool, False at padding
    on the right. The last layer is called out_proj: the model's depth scales its weights.
    """

    no_weight_decay: ClassVar[frozenset[str]] = frozenset()
    """Parameters or submodules without weight decay; biases never have it."""

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> MixerState:
        """State before the first token, on the parameters' device; equals state=None. dtype: of
        activations; None: of the parameters."""
        raise InputError(NO_STATE)

    def step(self, x: Tensor, state: MixerState) -> tuple[Tensor, MixerState]:
        """One token: x (B, D) to the output (B, D) and the state after it."""
        y, after = self(x.unsqueeze(1), state, True)
        return y.squeeze(1), after

    def _refuse_state(self, state: MixerState | None, return_state: bool) -> None:
        if state is not None or return_state:
            raise InputError(NO_STATE)

    def _zeros(
        self, *shape: int, dtype: torch.dtype | None, at_least: torch.dtype | None = None
    ) -> Tensor:
        parameter = next(self.parameters())
        dtype = dtype or parameter.dtype
        if at_least is not None:
            dtype = torch.promote_types(dtype, at_least)
        return torch.zeros(shape, device=parameter.device, dtype=dtype)


_MIXERS: dict[type[MixerConfig], type[Mixer]] = {}


def register_mixer(config: type[MixerConfig], mixer: type[Mixer]) -> None:
    """Make a mixer known by its config's class. Raises ValueError if its `kind` is taken."""
    kind = getattr(config, "kind", None)
    if not isinstance(kind, str):
        raise ValueError(f"{config.__name__}: kind needs a default, the mixer's name in files")
    if taken := [other for other in _MIXERS if getattr(other, "kind", None) == kind]:
        raise ValueError(f"{config.__name__}: kind {kind!r} is taken by {taken[0].__name__}")
    _MIXERS[config] = mixer


def unregister_mixer(config: type[MixerConfig]) -> None:
    """Undo `register_mixer`."""
    del _MIXERS[config]


def build_mixer(d_model: int, config: MixerConfig) -> Mixer:
    """The module of a resolved config. Raises InputError if its class is not registered."""
    if type(config) not in _MIXERS:
        raise InputError(
            f"{type(config).__name__} is no registered mixer: call register_mixer with it and its "
            "module"
        )
    build: Any = _MIXERS[type(config)]
    return build(d_model, config)


def long_conv_flops(channels: int, seq_len: int) -> int:
    """FLOPs of a causal convolution as long as the sequence: three real FFTs of 2 seq_len points,
    2.5 n log2(n) each, and a complex product."""
    n = 2 * seq_len
    return round(channels * (3 * 2.5 * n * math.log2(n) + 6 * (seq_len + 1)))
