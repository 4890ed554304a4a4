"""A complete mixer by one registration: it trains, streams, saves, loads and is planned.

This is all that a new mixer needs; docs/design.md says what each part is for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dnamamba import plan_pretraining, pretrain, resume
from dnamamba.configs import from_dict, to_dict
from dnamamba.errors import InputError
from dnamamba.models import (
    DnaModel,
    MambaConfig,
    Mixer,
    MixerConfig,
    ModelConfig,
    count_flops,
    count_parameters,
    no_weight_decay_names,
    register_mixer,
)
from dnamamba.models.layers import Linear
from dnamamba.models.mixers.protocol import StateKind, unregister_mixer
from dnamamba.models.streaming import longest_sequence
from dnamamba.pretraining.config import peak_learning_rate
from dnamamba.training.config import RunOptions
from model_cases import check_parts_are_one_pass, count_built, draw_ids
from runs import tiny_config, write_store


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MixerConfig):
    """A moving average of each channel: h_t = a h_(t - 1) + (1 - a) u_t, with a learned."""

    kind: Literal["toy"] = "toy"
    d_inner: int | None = None
    peak_learning_rate = 5e-3

    @property
    def state_kind(self) -> StateKind:
        return "fixed"

    def resolve(self, d_model: int) -> "ToyConfig":
        return replace(self, d_inner=self.d_inner or 2 * d_model)

    def count_parameters(self, d_model: int) -> int:
        return self.d_inner * (2 * d_model + 1)

    def flops(self, d_model: int, seq_len: int) -> int:
        return seq_len * self.d_inner * (4 * d_model + 3)

    def activation_bytes(self, d_model, device, dtype) -> float:
        return self.d_inner * dtype.itemsize


class ToyState(NamedTuple):
    """h: (B, d_inner)."""

    h: Tensor


class ToyMixer(Mixer):
    no_weight_decay = frozenset({"decay"})

    def __init__(self, d_model: int, config: ToyConfig) -> None:
        super().__init__()
        self.in_proj = Linear(d_model, config.d_inner, bias=False)
        self.decay = nn.Parameter(torch.zeros(config.d_inner))
        self.out_proj = Linear(config.d_inner, d_model, bias=False)

    def forward(self, x, state=None, return_state=False):
        """x: (B, L, D). Returns (B, L, D) and the state after the last token, if asked for."""
        state = state or self.allocate_state(x.shape[0], x.dtype)
        y = []
        for token in x.unbind(1):
            out, state = self.step(token, state)
            y.append(out)
        return torch.stack(y, 1), state if return_state else None

    def step(self, x: Tensor, state: ToyState) -> tuple[Tensor, ToyState]:
        a = self.decay.sigmoid()
        h = a * state.h + (1 - a) * self.in_proj(x)
        return self.out_proj(h), ToyState(h)

    def allocate_state(self, batch_size: int, dtype: torch.dtype | None = None) -> ToyState:
        dtype = dtype or self.decay.dtype
        return ToyState(self.decay.new_zeros(batch_size, self.decay.shape[0], dtype=dtype))


PLAIN = {"mixer": ToyConfig()}
HYBRID = {"layers": (MambaConfig(d_state=4), ToyConfig(d_inner=5))}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    register_mixer(ToyConfig, ToyMixer)
    yield
    unregister_mixer(ToyConfig)
    with pytest.raises(InputError, match=r"ModelConfig.mixer.kind: expected one of mamba, .*'toy'"):
        from_dict(ModelConfig, {"d_model": 8, "n_layers": 1, "mixer": {"kind": "toy"}})
    with pytest.raises(InputError, match="ToyConfig is no registered mixer: call register_mixer"):
        DnaModel(ModelConfig(d_model=8, n_layers=2, **PLAIN))


@pytest.fixture(params=[PLAIN, HYBRID], ids=["plain", "hybrid"])
def config(request) -> ModelConfig:
    return ModelConfig(d_model=8, n_layers=2, **request.param)


def test_stored_config_is_read_by_kind(config):
    stored = to_dict(config)
    assert from_dict(ModelConfig, stored) == config
    mixer = stored["layers"][1] if "layers" in stored else stored["mixer"]
    assert mixer == {"kind": "toy", "d_inner": config.mixers[1].d_inner}


def test_closed_forms_equal_the_built_model(config):
    assert count_parameters(config) == count_built(config)
    assert config.is_causal
    assert longest_sequence(config) is None
    assert peak_learning_rate(config) == 5e-3


def test_flops_are_those_of_the_mixers_and_the_head():
    config = ModelConfig(d_model=8, n_layers=2, **PLAIN)
    assert count_flops(config, 10) == 10 * (2 * 16 * (4 * 8 + 3) + 2 * 16 * 8)


def test_optimiser_groups_know_the_exempt_parameter(config):
    names = no_weight_decay_names(DnaModel(config))
    assert "backbone.layers.1.mixer.decay" in names
    assert "backbone.layers.1.mixer.in_proj.weight" not in names


def test_streamed_pieces_equal_one_pass(config):
    torch.manual_seed(0)
    model, ids = DnaModel(config).double().eval(), draw_ids(2, 20)
    check_parts_are_one_pass(model, ids, [1, 7, 8])
    with torch.no_grad():
        logits = torch.cat(
            [c.logits for c in model.stream(ids, chunk_tokens=6, return_logits=True)], 1
        )
        torch.testing.assert_close(logits, model(ids))
        torch.testing.assert_close(model(ids, state=model.allocate_state(2))[0], model(ids)[0])


def test_saved_model_is_loaded_again(config, tmp_path):
    model = DnaModel(config).eval()
    model.save_pretrained(tmp_path)
    again = DnaModel.from_pretrained(tmp_path)
    assert again.config == config
    assert torch.equal(again(draw_ids()), model(draw_ids()))


def test_run_is_planned_trained_and_resumed(config, tmp_path):
    run = replace(tiny_config(write_store(tmp_path)), model=config)
    options = RunOptions(device="cpu")
    plan = plan_pretraining(run, options)
    assert plan.parameters == count_parameters(config)
    assert plan.memory.per_token["blocks"] < plan.memory.per_token["cheap"]
    outcome = pretrain(run, tmp_path / "run", options)
    assert outcome.step == 8
    assert resume(tmp_path / "run", options).step == 8
    assert DnaModel.from_pretrained(tmp_path / "run").config == config


def test_kind_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="kind 'toy' is taken by ToyConfig"):
        register_mixer(ToyConfig, ToyMixer)
    with pytest.raises(ValueError, match="MixerConfig: kind needs a default"):
        register_mixer(MixerConfig, ToyMixer)
