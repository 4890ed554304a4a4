"""`DnaModel`, the backbone with a next-token head, and its files.

A saved model is a folder: model.safetensors (float32 weights under state-spaces/mamba's names; a
tied head is left out) and config.json (`format_version` and the `ModelConfig`).
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import hub
from dnamamba.models.backbone import Backbone, LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import GatedNorm, Norm
from dnamamba.models.mixers import MixerState
from dnamamba.models.recompute import Recompute

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
HEAD_WEIGHT = "lm_head.weight"
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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

    @property
    def is_causal(self) -> bool:
        """Whether each position sees only itself and those before it."""
        return True

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
        # safetensors makes files for their owner alone; models are shared as the umask says.
        shutil.copymode(building[CONFIG_NAME], building[WEIGHTS_NAME])
        for name, path in building.items():
            os.replace(path, folder / name)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "DnaModel":
        """Read what `save_pretrained` wrote, from a folder or from the Hugging Face Hub.

        folder: a folder, which never touches the network; or, as a str "owner/name" where no such
        folder exists, a repository on the Hub, read by the package huggingface_hub (the extra
        `hub`). Nothing is unpickled and no code of a repository runs.
        revision: the repository's branch, tag or commit; default its main branch.
        cache_dir: where downloads are kept; default huggingface_hub's own folder.
        local_files_only: take what was downloaded before, without asking the network.

        Raises InputError where a file is missing, broken or of another format_version, where the
        weights do not fit the config, and where the repository cannot be had.
        """
        if hub.is_repository(folder):
            names = (CONFIG_NAME, WEIGHTS_NAME)
            folder = hub.download(str(folder), names, revision, cache_dir, local_files_only)
        elif revision is not None:
            raise InputError(
                f"{folder} is no repository on the Hugging Face Hub, so it has no revision "
                f"{revision!r}: leave revision out, or give owner/name"
            )
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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a dnamamba model",
    ) -> str:
        """Put what `save_pretrained` writes into a repository "owner/name" on the Hugging Face Hub.

        private: whether a repository that is made for it is; default the owner's setting.
        revision: the branch; default the main one. Returns the commit's address. The login is
        huggingface_hub's (`hf auth login`). Raises InputError where that package is missing and
        where the Hub refuses or cannot be reached.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repo_id, private, revision, commit_message)


def _read_config(path: Path) -> ModelConfig:
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    version = saved.get("format_version") if isinstance(saved, dict) else None
    if version is None:
        raise InputError(
            f"{path} has no format_version, so it is no config of dnamamba; for models of other "
            "projects there is `dnamamba convert import`"
        )
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {version}, this dnamamba reads {FORMAT_VERSION}; "
            "install the dnamamba that wrote it, or one as new"
        )
    return from_dict(ModelConfig, saved.get("model"))


def load_weights(model: DnaModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights by name into a model; a tied head may be left out.

    Raises InputError naming `source` and every key that is missing, unknown, of another shape or
    quantised.
    """
    weights = dict(weights)
    if model.config.tie_embeddings:
        weights.pop(HEAD_WEIGHT, None)
    own = model.state_dict()
    expected = {name: tensor.shape for name, tensor in own.items()}
    if model.config.tie_embeddings:
        del expected[HEAD_WEIGHT]
    problems = [f"missing {name}" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"unknown {name}" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        # Copying would make floats of quantised weights, which mean something else.
        if own[name].is_floating_point() and weights[name].dtype not in WEIGHT_DTYPES:
            problems.append(f"{name} is {weights[name].dtype}, expected torch.float32")
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
    dt_proj.bias and dt_bias likewise. HyenaDNA does not decay what makes its filters. The embedding
    does decay, as in the paper's recipe, where no exception is made for it.
    """
    exempt = {"A_log", "D", "bias", "dt_bias"}
    return {
        f"{module_name}.{name}" if module_name else name
        for module_name, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if name in exempt
        or isinstance(module, Norm | GatedNorm)
        or ".filter_fn." in f"{module_name}."
    }
