"""`DnaModel`, the backbone with a head of logits; model_folder.py has its files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import strands
from dnamamba.models.backbone import Backbone, LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import Norm
from dnamamba.models.mixers.hyena import HyenaConfig
from dnamamba.models.mixers.protocol import Mixer, MixerConfig, MixerState
from dnamamba.models.model_folder import SavedModel
from dnamamba.models.presets import preset
from dnamamba.models.recompute import Recompute
from dnamamba.models.streaming import (
    StreamedChunk,
    cut_pieces,
    resolve_layers,
    run_pieces,
    why_no_stream,
)

HEAD_WEIGHT = "lm_head.weight"


class DnaModel(SavedModel):
    """A language model of DNA: token ids (B, L) to logits (B, L, V), of the next token if the model
    is causal, else of the token itself.

    With `strands="both"` a sequence and its reverse complement get the same logits, reversed and
    with A and T, C and G exchanged. Parameter names are those of state-spaces/mamba's
    MambaLMHeadModel.
    """

    _head_bias: Tensor
    _complement: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight
        # Added by the head's product itself: filling logits afterwards would copy them.
        bias = torch.zeros(config.padded_vocab_size)
        bias[config.vocab_size :] = -torch.inf
        self.register_buffer("_head_bias", bias, persistent=False)
        if config.strands == "both":
            complement = strands.complement_ids(config.padded_vocab_size)
            self.register_buffer("_complement", complement, persistent=False)

    @classmethod
    def from_config(cls, config: ModelConfig | str, seq_len: int | None = None) -> Self:
        """A new model with random weights, float32 on the CPU, in training mode.

        config: a ModelConfig, or the name of a preset (`preset_names()`). seq_len: length in bases
        that a preset's Hyena filters are made for, see `preset`. `torch.manual_seed` before makes
        the weights repeatable. Raises InputError for another name.

            model = DnaModel.from_config("mamba-7m")
        """
        return cls(preset(config, seq_len) if isinstance(config, str) else config)

    @property
    def is_causal(self) -> bool:
        """See `ModelConfig.is_causal`."""
        return self.config.is_causal

    def forward(
        self,
        token_ids: Tensor,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        recompute: Recompute = "nothing",
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LayerStates]:
        """token_ids: (B, L), any integer dtype.

        state: from an earlier call with return_state, or `allocate_state`; never written to. Any
        division of a sequence gives the logits of one pass. Differentiable.
        return_state: return (logits, state).
        recompute: what the backward recomputes, see recompute.py.
        lengths: (B,), any integer dtype, real tokens of each row, from 1 to L (checked on a CPU
        only); the rest is padding, whose logits are undefined. Not with state or return_state.

        Returns logits (B, L, padded_vocab_size), -inf for ids that are not in use. Raises
        ValueError for ids, lengths or a state of another shape or dtype, InputError for a state if
        the model has none.
        """
        if state is not None or return_state:
            self._check_state(state, lengths)
        inputs, mask, lengths = self._inputs(token_ids, lengths)
        hidden, after = self.backbone(inputs, state, return_state, recompute, mask)
        logits = self.predict(hidden, lengths)
        return (logits, after) if return_state else logits

    def predict(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of the final norm (B, L, D), of both strands (2B, L, D)."""
        head = (self.lm_head.weight, self._head_bias)
        if self.config.strands == "both":
            return strands.predict(hidden, *head, self._complement, lengths)
        return functional.linear(hidden, *head)

    def embed(
        self, token_ids: Tensor, lengths: Tensor | None = None, recompute: Recompute = "nothing"
    ) -> Tensor:
        """The final norm's output (B, L, D), for heads and features; with both strands the mean at
        each base, so that the reverse complement has the same, reversed. See `forward`."""
        inputs, mask, lengths = self._inputs(token_ids, lengths)
        hidden, _ = self.backbone(inputs, recompute=recompute, mask=mask)
        return hidden if self.config.strands == "one" else strands.mean_hidden(hidden, lengths)

    def hidden_states(self, token_ids: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """n_layers + 2 tensors (B, L, D): the embedding, the residual stream after each block, the
        final norm. With both strands (B, L, 2D): the other strand's half is reversed in position
        and channel."""
        inputs, mask, lengths = self._inputs(token_ids, lengths)
        hidden = self.backbone.hidden_states(inputs, mask)
        if self.config.strands == "one":
            return hidden
        return [strands.join_hidden(tensor, lengths) for tensor in hidden]

    def hidden_at(
        self, token_ids: Tensor, layers: Sequence[int], lengths: Tensor | None = None
    ) -> list[Tensor]:
        """Selected layers of `hidden_states`, in one pass that keeps nothing else.

        layers: indices, -1 being the final norm. Returns (B, L, D) for each; with both strands the
        mean at each base, as `embed`. Raises InputError for a missing layer; see `forward`.
        """
        numbers = resolve_layers(self.config, layers)
        inputs, mask, lengths = self._inputs(token_ids, lengths)
        hidden, _ = self.backbone.hidden_at(inputs, numbers, mask)
        if self.config.strands == "one":
            return hidden
        return [strands.mean_hidden(tensor, lengths) for tensor in hidden]

    def stream(
        self,
        token_ids: Tensor | Iterable[Tensor],
        *,
        layers: Sequence[int] = (-1,),
        chunk_tokens: int = 1 << 16,
        return_logits: bool = False,
        state: Sequence[MixerState] | None = None,
    ) -> Iterator[StreamedChunk]:
        """Hidden states, and logits if asked for, of sequences of any length, piece by piece.

        Results equal one pass, without gradients. Memory is that of a piece, plus keys and values
        of attention layers.

        token_ids: (B, L) of any integer dtype and device, or an iterable of pieces (B, l), which
        are cut anew and moved to the model's device one at a time. layers: as in `hidden_at`.
        chunk_tokens: tokens in one pass, of all rows together.
        state: of the tokens before, from a stream of the same layers.

        Raises InputError, naming the model's limit, if a layer carries no state (Hyena) or the
        model reads both directions or both strands.
        """
        if reason := why_no_stream(self.config):
            raise InputError(f"this model cannot be streamed: {reason}")
        if chunk_tokens < 1:
            raise InputError(f"chunk_tokens must be >= 1, got {chunk_tokens}")
        numbers = resolve_layers(self.config, layers)
        n_blocks = self.config.n_layers
        if not return_logits:
            n_blocks = self.backbone.count_blocks(numbers)
        if state is not None and len(state) != n_blocks:
            raise ValueError(
                f"state must be that of the {n_blocks} blocks run for layers {list(numbers)}"
                f"{' and logits' if return_logits else ''}, got {len(state)}: give back what a "
                "stream of the same layers returned"
            )
        pieces = [token_ids] if isinstance(token_ids, Tensor) else token_ids
        return run_pieces(self, cut_pieces(pieces, chunk_tokens), numbers, return_logits, state)

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> LayerStates:
        """State before the first token of batch_size rows, as `forward` takes it. dtype: of
        activations; None: of the parameters. Raises InputError if the model has none."""
        self._require_state()
        return tuple(
            block.mixer.allocate_state(batch_size, dtype)  # type: ignore[operator, union-attr]
            for block in self.backbone.layers
        )

    def _inputs(
        self, token_ids: Tensor, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Token ids and mask for the backbone, a row for each strand, and lengths."""
        if token_ids.dim() != 2 or token_ids.is_floating_point() or token_ids.is_complex():
            raise ValueError(
                "token_ids must be (B, L) of integers, got "
                f"{tuple(token_ids.shape)} {token_ids.dtype}"
            )
        mask = None
        if lengths is not None:
            _check_lengths(lengths, token_ids)
            lengths = lengths.to(token_ids.device, torch.int64)
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)
            mask = positions < lengths.unsqueeze(1)
        if self.config.strands == "one":
            return token_ids, mask, lengths
        token_ids = strands.both_strands(token_ids, self._complement, lengths)
        return token_ids, None if mask is None else mask.repeat(2, 1), lengths

    def _check_state(self, state: Sequence[MixerState] | None, lengths: Tensor | None) -> None:
        if lengths is not None:
            raise ValueError(
                "lengths cannot be combined with state or return_state: a state is of rows without "
                "padding; give rows of one length, or each alone"
            )
        self._require_state()
        if state is not None and len(state) != self.config.n_layers:
            raise ValueError(
                f"state must have the model's {self.config.n_layers} layers, got {len(state)}: "
                "give back what this model returned with return_state=True"
            )

    def _require_state(self) -> None:
        if reason := why_no_stream(self.config):
            raise InputError(f"this model has no state to go on from: {reason}")

    def _settings(self) -> dict[str, Any]:
        return {"model": to_dict(self.config)}

    @classmethod
    def _from_other(cls, folder: Path) -> Self:
        # Its readers make DnaModels.
        from dnamamba.models.interop.registry import read_folder

        return read_folder(folder)  # type: ignore[return-value]

    @classmethod
    def _builder(cls, settings: Mapping[str, Any], source: str) -> Callable[[], Self]:
        if "head" in settings:
            raise InputError(
                f"{source} is of a classifier: read it by DnaClassifier.from_pretrained; its "
                "`model` is the language model"
            )
        return partial(cls, from_dict(ModelConfig, settings.get("model")))


def extend_filters(model: DnaModel) -> DnaModel:
    """A copy for sequences of any length, Hyena filters ending at l_max. Raises InputError without
    Hyena layers."""
    config = model.config
    if not any(isinstance(mixer, HyenaConfig) for mixer in config.mixers):
        raise InputError(
            f"only Hyena has filters to extend; a model of kind {config.mixer_kind!r} takes "
            "sequences of any length as it is"
        )

    def end_filters(mixer: MixerConfig) -> MixerConfig:
        return replace(mixer, beyond="zero") if isinstance(mixer, HyenaConfig) else mixer

    extended = DnaModel(config.map_mixers(end_filters))
    extended.load_state_dict(model.state_dict())
    return extended


def _check_lengths(lengths: Tensor, token_ids: Tensor) -> None:
    batch, seq_len = token_ids.shape
    is_integer = not (lengths.is_floating_point() or lengths.is_complex())
    if lengths.shape != (batch,) or not is_integer or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths must be ({batch},) of integers, the real tokens of each row of token_ids "
            f"{(batch, seq_len)}; got {tuple(lengths.shape)} {lengths.dtype}"
        )
    if lengths.device.type == "cpu" and not bool(((lengths > 0) & (lengths <= seq_len)).all()):
        raise ValueError(
            f"lengths must be from 1 to the {seq_len} tokens of a row, got {lengths.tolist()}"
        )


def no_weight_decay_names(model: nn.Module) -> set[str]:
    """Parameters that weight decay must leave alone: biases, norms' weights and what mixers name.

    Decay would pull every A of a state space model to -1, and HyenaDNA does not decay the network
    of its filters. The embedding does decay, as in the Mamba paper.
    """
    names = {name for name, _ in model.named_parameters() if name.split(".")[-1] == "bias"}
    for prefix, module in model.named_modules():
        for name, _ in module.named_parameters(prefix):
            parts = name.removeprefix(prefix).split(".")
            is_own = isinstance(module, Mixer) and not module.no_weight_decay.isdisjoint(parts)
            if is_own or isinstance(module, Norm):
                names.add(name)
    return names
