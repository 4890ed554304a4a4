"""`DnaModel`, the backbone with a next-token head, and its files.

A saved model is a folder: model.safetensors (float32 weights under state-spaces/mamba's names; a
tied head is left out) and config.json (`format_version` and the `ModelConfig`).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models.backbone import Backbone, LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import GatedNorm, Norm
from dnamamba.models.mixers import MixerState
from dnamamba.models.recompute import Recompute

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
HEAD_WEIGHT = "lm_head.weight"


class DnaModel(nn.Module):
    """A causal language model of DNA: token ids (B, L) to logits of the next token (B, L, V).

    Parameter names are those of state-spaces/mamba's MambaLMHeadModel
    (mamba_ssm/models/mixer_seq_simple.py).
    """

    _head_bias: Tensor

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

    def forward(
        self,
        token_ids: Tensor,
        state: Sequence[MixerState] | None = None,
        return_state: bool = False,
        recompute: Recompute = "nothing",
    ) -> Tensor | tuple[Tensor, LayerStates]:
        """token_ids: (B, L), any integer dtype.

        state: what an earlier call returned, to go on where it ended: any division of a sequence,
        down to single tokens, gives the same logits as one pass. It is never written to, so a beam
        search may go on from it many times. Differentiable; single tokens where no gradients are
        wanted take the ops of a single step.
        return_state: return (logits, state) rather than logits.
        recompute: what the backward makes again instead of keeping it, see recompute.py.

        Returns logits (B, L, padded_vocab_size); those of ids that are not in use are -inf.
        Raises ValueError for ids of another shape or dtype and for a state of another model.
        """
        self._check(token_ids, state)
        hidden, after = self.backbone(token_ids, state, return_state, recompute)
        logits = functional.linear(hidden, self.lm_head.weight, self._head_bias)
        return (logits, after) if return_state else logits

    def hidden_states(self, token_ids: Tensor) -> list[Tensor]:
        """n_layers + 2 tensors (B, L, D): the embedding, the residual stream after each block, and
        the final norm's output."""
        self._check(token_ids, None)
        return self.backbone.hidden_states(token_ids)

    def _check(self, token_ids: Tensor, state: Sequence[MixerState] | None) -> None:
        if token_ids.dim() != 2 or token_ids.is_floating_point() or token_ids.is_complex():
            raise ValueError(
                f"token_ids is (B, L) of integers, got {tuple(token_ids.shape)} {token_ids.dtype}"
            )
        if state is not None and len(state) != self.config.n_layers:
            raise ValueError(
                f"state has {len(state)} layers, the model {self.config.n_layers}: give back what "
                "this model returned with return_state=True"
            )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if self.config.tie_embeddings:
            del weights[HEAD_WEIGHT]
        config = {"format_version": FORMAT_VERSION, "model": to_dict(self.config)}
        building = {name: folder / f".{name}.tmp" for name in (WEIGHTS_NAME, CONFIG_NAME)}
        save_file(weights, building[WEIGHTS_NAME], metadata={"format": "pt"})
        building[CONFIG_NAME].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name, path in building.items():
            os.replace(path, folder / name)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "DnaModel":
        """Read what `save_pretrained` wrote. Nothing is unpickled.

        Raises InputError where a file is missing, broken or of another format_version, and where
        the weights do not fit the config.
        """
        folder = Path(folder)
        for name in (CONFIG_NAME, WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder} has no {name}: a saved model is a folder with {CONFIG_NAME} and "
                    f"{WEIGHTS_NAME}, as in the model/ folder of a run"
                )
        model = cls(_read_config(folder / CONFIG_NAME))
        try:
            weights = load_file(folder / WEIGHTS_NAME)
        except SafetensorError as error:
            raise InputError(
                f"{folder / WEIGHTS_NAME} is not a whole safetensors file ({error}); copy or "
                "download it again"
            ) from error
        load_weights(model, weights, str(folder / WEIGHTS_NAME))
        return model


def _read_config(path: Path) -> ModelConfig:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    version = saved.get("format_version") if isinstance(saved, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {version}, this dnamamba reads {FORMAT_VERSION}"
        )
    return from_dict(ModelConfig, saved.get("model"))


def load_weights(model: DnaModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights by name into a model; a tied head may be left out.

    Raises InputError naming `source` and every key that is missing, unknown or of another shape.
    """
    weights = dict(weights)
    if model.config.tie_embeddings:
        weights.pop(HEAD_WEIGHT, None)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        del expected[HEAD_WEIGHT]
    problems = [f"missing {name}" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"unknown {name}" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        if weights[name].shape != expected[name]:
            got, wanted = tuple(weights[name].shape), tuple(expected[name])
            problems.append(f"{name} is {got}, expected {wanted}")
    if problems:
        raise InputError(f"{source} does not fit the model: {'; '.join(problems)}")
    model.load_state_dict(weights, strict=False)


def no_weight_decay_names(model: DnaModel) -> set[str]:
    """Names of the parameters that weight decay must leave alone.

    Biases and norm weights have no scale to limit. A_log and D set each channel's time constants
    and skip: decay would pull every A to -1 and undo the initialisation; upstream marks both, and
    dt_proj.bias and dt_bias likewise. The embedding does decay, as in the paper's recipe, where no
    exception is made for it.
    """
    exempt = {"A_log", "D", "bias", "dt_bias"}
    return {
        f"{module_name}.{name}" if module_name else name
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name in exempt or isinstance(module, Norm | GatedNorm)
    }
