"""`DnaModel`, the backbone with a head of logits, and its files.

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
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import hub, strands
from dnamamba.models.backbone import Backbone, LayerStates
from dnamamba.models.config import ModelConfig
from dnamamba.models.layers import GatedNorm, Norm
from dnamamba.models.mixers import MixerState
from dnamamba.models.recompute import Recompute
from dnamamba.models.weight_files import read_json, read_safetensors

FORMAT_VERSION = 1
WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
HEAD_WEIGHT = "lm_head.weight"
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class DnaModel(nn.Module):
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
        head = (self.lm_head.weight, self._head_bias)
        if self.config.strands == "both":
            logits = strands.predict(hidden, *head, self._complement, lengths)
        else:
            logits = functional.linear(hidden, *head)
        return (logits, after) if return_state else logits

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
        config = _read_config(folder / CONFIG_NAME)
        weights = read_safetensors(folder / WEIGHTS_NAME)
        check_sizes(config, weights, str(folder / WEIGHTS_NAME))
        model = cls(config)
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


def _read_config(path: Path) -> ModelConfig:
    saved = read_json(path)
    version = saved.get("format_version")
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


def check_sizes(config: ModelConfig, weights: Mapping[str, Tensor], source: str) -> None:
    """Raises InputError as `load_weights` would, before a model takes memory: a few bytes of a
    config.json may ask for any amount."""
    try:
        with torch.device("meta"):
            model = DnaModel(config)
    except (RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{source}: no model can have the sizes asked for ({reason})") from error
    _select_weights(model, weights, source)


def load_weights(model: DnaModel, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights by name into a model; a tied head may be left out.

    Raises InputError naming `source` and every key that is missing, unknown, of another shape or
    quantised.
    """
    model.load_state_dict(_select_weights(model, weights, source), strict=False)


def _select_weights(
    model: DnaModel, weights: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """Those that the model takes, each checked."""
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
    return weights


def no_weight_decay_names(model: DnaModel) -> set[str]:
    """Names of the parameters that weight decay must leave alone.

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
