"""`DnaModel`, the backbone with a head of logits; model_folder.py has its files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import strands, streaming
from dnamamba.models.backbone import Backbone, LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import GatedNorm, Norm
from dnamamba.models.mixers.configs import HyenaConfig
from dnamamba.models.mixers.protocol import MixerState
from dnamamba.models.model_folder import SavedModel, check_weights
from dnamamba.models.recompute import Recompute
from dnamamba.models.streaming import StreamedChunk, resolve_layers

HEAD_WEIGHT = "lm_head.weight"


class DnaModel(SavedModel):
    """A language model of DNA: token ids (B, L) to logits (B, L, V), of the next token where the
    model is causal, else of the token itself.

    With `strands="both"` a sequence and its reverse complement get the same logits, in reverse
    order and with A and T, C and G exchanged (strands.py).

    Parameter names are those of state-spaces/mamba's MambaLMHeadModel
    (mamba_ssm/models/mixer_seq_simple.py).
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

    @property
    def is_causal(self) -> bool:
        """Whether logits depend on the tokens up to their position alone: only then can the next
        token be learned, and only then is there a state to go on from."""
        return self.config.strands == "one" and self.config.has_causal_mixer

    def forward(
        self,
        token_ids: Tensor,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        recompute: Recompute = "nothing",
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, LayerStates]:
        """token_ids: (B, L), any integer dtype.

        state: what an earlier call returned, to go on where it ended: any division of a sequence,
        down to single tokens, gives the same logits as one pass. It is never written to, so a beam
        search may go on from it many times. Differentiable; single tokens where no gradients are
        wanted take the ops of a single step.
        return_state: return (logits, state) rather than logits.
        recompute: what the backward makes again instead of keeping it, see recompute.py.
        lengths: (B,), any integer dtype, how many tokens of each row are real; those on its right
        are padding, of any id, and their logits mean nothing. The logits of the others are those of
        the row alone. None: no padding. Values are checked on a CPU; on a GPU that would wait for
        it, so there they must be from 1 to L. Not together with state or return_state.

        Returns logits (B, L, padded_vocab_size); those of ids that are not in use are -inf.
        Raises ValueError for ids or lengths of another shape or dtype, for a state of another model
        and where there can be no state.
        """
        self._check(token_ids, state, return_state, lengths)
        lengths = _on_device(lengths, token_ids)
        inputs, mask = self._inputs(token_ids, lengths)
        hidden, after = self.backbone(inputs, state, return_state, recompute, mask)
        logits = self.predict(hidden, lengths)
        return (logits, after) if return_state else logits

    def predict(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (B, L, V) of what the backbone made: (B, L, D), or of both strands (2B, L, D)."""
        head = (self.lm_head.weight, self._head_bias)
        if self.config.strands == "both":
            return strands.predict(hidden, *head, self._complement, lengths)
        return functional.linear(hidden, *head)

    def embed(
        self, token_ids: Tensor, lengths: Tensor | None = None, recompute: Recompute = "nothing"
    ) -> Tensor:
        """The final norm's output (B, L, D), for heads and for use as features; see `forward`.

        Of both strands, where the model has them, the mean at each base: it is the same for the
        reverse complement, in reverse order, so a mean over positions does not change at all.
        """
        self._check(token_ids, None, False, lengths)
        lengths = _on_device(lengths, token_ids)
        inputs, mask = self._inputs(token_ids, lengths)
        hidden, _ = self.backbone(inputs, recompute=recompute, mask=mask)
        return hidden if self.config.strands == "one" else strands.mean_hidden(hidden, lengths)

    def hidden_states(self, token_ids: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
        """n_layers + 2 tensors (B, L, D): the embedding, the residual stream after each block, and
        the final norm's output. With both strands they are (B, L, 2D), the first half the given
        strand's, the second the other's, reversed in position and in channel: the reverse
        complement has the same, reversed in both."""
        self._check(token_ids, None, False, lengths)
        lengths = _on_device(lengths, token_ids)
        inputs, mask = self._inputs(token_ids, lengths)
        hidden = self.backbone.hidden_states(inputs, mask)
        if self.config.strands == "one":
            return hidden
        return [strands.join_hidden(tensor, lengths) for tensor in hidden]

    def hidden_at(
        self, token_ids: Tensor, layers: Sequence[int], lengths: Tensor | None = None
    ) -> list[Tensor]:
        """Some layers of `hidden_states`, in one pass that keeps and computes nothing else.

        layers: indices into what `hidden_states` gives, negative ones from the end, -1 being the
        final norm. Returns (B, L, D) for each; of both strands the mean at each base, as `embed`
        has it. Raises InputError for a layer that the model does not have; see `forward`.
        """
        numbers = resolve_layers(self.config, layers)
        self._check(token_ids, None, False, lengths)
        lengths = _on_device(lengths, token_ids)
        inputs, mask = self._inputs(token_ids, lengths)
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

        The numbers are those of one pass whatever the pieces; memory is that of a piece, and of
        what the caller keeps. There are no gradients.

        token_ids: (B, L) of any integer dtype on any device, or an iterable of pieces (B, l) of
        any sizes, which are cut anew; pieces are moved to the model's device one at a time.
        layers: as in `hidden_at`. chunk_tokens: tokens in one pass, of all rows together.
        state: of the tokens before, what a stream of the same layers gave; None at the start.

        Raises InputError where the model carries no state of a fixed size (Hyena, attention, models
        of both directions or of both strands), which says what its limit is.
        """
        return streaming.stream(
            self,
            token_ids,
            layers=layers,
            chunk_tokens=chunk_tokens,
            return_logits=return_logits,
            state=state,
        )

    def _inputs(self, token_ids: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the backbone reads and its mask: as many rows as there are strands."""
        mask = None
        if lengths is not None:
            positions = torch.arange(token_ids.shape[1], device=token_ids.device)
            mask = positions < lengths.unsqueeze(1)
        if self.config.strands == "one":
            return token_ids, mask
        token_ids = strands.both_strands(token_ids, self._complement, lengths)
        return token_ids, None if mask is None else mask.repeat(2, 1)

    def _check(
        self,
        token_ids: Tensor,
        state: Sequence[MixerState] | None,
        return_state: bool,
        lengths: Tensor | None,
    ) -> None:
        if token_ids.dim() != 2 or token_ids.is_floating_point() or token_ids.is_complex():
            raise ValueError(
                f"token_ids is (B, L) of integers, got {tuple(token_ids.shape)} {token_ids.dtype}"
            )
        if lengths is not None:
            _check_lengths(lengths, token_ids)
        if state is None and not return_state:
            return
        if lengths is not None:
            raise ValueError(
                "lengths do not go with state or return_state: a state is of rows without padding; "
                "give rows of one length, or each alone"
            )
        if not self.is_causal:
            raise InputError(
                "this model sees the whole sequence at once, so there is no state to go on from: "
                "give whole sequences, or take a causal model of one strand such as mamba-7m"
            )
        if state is not None and len(state) != self.config.n_layers:
            raise ValueError(
                f"state has {len(state)} layers, the model {self.config.n_layers}: give back what "
                "this model returned with return_state=True"
            )

    def _settings(self) -> dict[str, Any]:
        return {"model": to_dict(self.config)}

    @classmethod
    def _builder(cls, settings: Mapping[str, Any], source: str) -> Callable[[], Self]:
        if "head" in settings:
            raise InputError(
                f"{source} is of a classifier: read it by DnaClassifier.from_pretrained, whose "
                "`model` is the language model it was made of"
            )
        return partial(cls, from_dict(ModelConfig, settings.get("model")))


def extend_filters(model: DnaModel) -> DnaModel:
    """The same Hyena model for sequences of any length, its filters ending at l_max (see
    HyenaConfig.beyond). Raises InputError for another kind."""
    mixer = model.config.mixer
    if not isinstance(mixer, HyenaConfig):
        raise InputError(
            f"only a Hyena has filters to extend; this model's mixer, {mixer.kind!r}, takes "
            "sequences of any length as it is"
        )
    extended = DnaModel(replace(model.config, mixer=replace(mixer, beyond="zero")))
    extended.load_state_dict(model.state_dict())
    return extended


def _check_lengths(lengths: Tensor, token_ids: Tensor) -> None:
    batch, seq_len = token_ids.shape
    is_integer = not (lengths.is_floating_point() or lengths.is_complex())
    if lengths.shape != (batch,) or not is_integer or lengths.dtype == torch.bool:
        raise ValueError(
            f"lengths is ({batch},) of integers, the real tokens of each row of token_ids "
            f"{(batch, seq_len)}; got {tuple(lengths.shape)} {lengths.dtype}"
        )
    if lengths.device.type == "cpu" and not bool(((lengths > 0) & (lengths <= seq_len)).all()):
        raise ValueError(
            f"lengths are from 1 to the {seq_len} tokens of a row, got {lengths.tolist()}"
        )


def _on_device(lengths: Tensor | None, like: Tensor) -> Tensor | None:
    return None if lengths is None else lengths.to(like.device, torch.int64)


def check_sizes(config: ModelConfig, weights: Mapping[str, Tensor], source: str) -> None:
    """Raises InputError as `load_weights` would, before a model takes memory."""
    check_weights(partial(DnaModel, config), weights, source)


def no_weight_decay_names(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay must leave alone, of a model or what has one.

    Biases and norm weights have no scale to limit. A_log and D set each channel's time constants
    and skip: decay would pull every A to -1 and undo the initialisation; upstream marks both, and
    dt_proj.bias and dt_bias likewise, and S4 has A_imag and log_dt for the same. HyenaDNA does not
    decay what makes its filters. The embedding does decay, as in the paper's recipe, where no
    exception is made for it.
    """
    exempt = {"A_log", "A_imag", "log_dt", "D", "bias", "dt_bias"}
    return {
        f"{module_name}.{name}" if module_name else name
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name in exempt
        or isinstance(module, Norm | GatedNorm)
        or ".filter_fn." in f"{module_name}."
    }
