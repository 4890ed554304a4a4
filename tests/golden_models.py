"""A language model against the numbers of the official code, as each item of its kind has them.

in/seq{i}/ids and out_f64/seq{i}/ are sequences with their logits and the residual stream after
every block; in/prompt and gen/ a greedy continuation.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.models import DnaModel
from golden_files import Golden, assert_close

TOLERANCE = {"rtol": 1e-9, "atol": 1e-12}
GRADIENTS = {torch.float64: TOLERANCE, torch.float32: {"rtol": 0.0, "atol": 1e-3}}
"""Of gradients, and losses beside them, by the dtype of the model; theirs are of float64."""

State = tuple[Any, ...]
"""A layer's each, of whatever its mixer carries."""


def read_sequences(golden: Golden) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Token ids, and what the official code makes of them in float64, by name."""
    return [
        (golden.tensors[f"in/seq{index}/ids"], golden.group(f"out_f64/seq{index}"))
        for index in sequence_numbers(golden)
    ]


def sequence_numbers(golden: Golden) -> list[int]:
    """Of the item's sequences, those that were read."""
    n_sequences = len(golden.info["config"]["seqs"])
    return [index for index in range(n_sequences) if f"in/seq{index}/ids" in golden.tensors]


def name_hidden_states(hidden: list[Tensor]) -> dict[str, Tensor]:
    names = [*(f"hidden_{i}" for i in range(len(hidden) - 1)), "hidden_final"]
    return dict(zip(names, hidden, strict=True))


def check_logits_and_hidden_states(
    model: DnaModel, ids: Tensor, expected: Mapping[str, Tensor]
) -> None:
    """The logits, and every hidden state that is among the expected tensors."""
    found = {"logits": model(ids), **name_hidden_states(model.hidden_states(ids))}
    names = [name for name in expected if name == "logits" or name.startswith("hidden_")]
    assert "logits" in names
    check_tensors({n: found[n] for n in names}, {n: expected[n] for n in names}, TOLERANCE)


def check_logits_in_float32(model: DnaModel, golden: Golden) -> None:
    model = model.float()
    for ids, expected in read_sequences(golden):
        torch.testing.assert_close(model(ids).double(), expected["logits"], rtol=1e-3, atol=1e-4)


def next_token_loss(model: DnaModel, ids: Tensor) -> Tensor:
    logits = model(ids)[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, ids[:, 1:].flatten())


def check_losses(model: DnaModel, golden: Golden) -> None:
    """Of all next tokens, and of those alone that a label is given for."""
    ids = golden.tensors["in/seq0/ids"]
    logits = model(ids)[:, :-1].flatten(0, 1)
    loss = functional.cross_entropy(logits, ids[:, 1:].flatten())
    assert_close(loss, golden.tensors["out_f64/loss"], **TOLERANCE, what="loss")
    labels = golden.tensors["in/labels_masked"][:, 1:].flatten()
    masked = functional.cross_entropy(logits, labels, ignore_index=-100)
    assert_close(masked, golden.tensors["out_f64/loss_masked"], **TOLERANCE, what="masked loss")


def gradients_of(model: DnaModel) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def check_tensors(
    found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor], tolerance: dict[str, float]
) -> None:
    """Each of the same names."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        ours = found[name]
        assert ours is not None, name
        assert_close(ours, tensor, **tolerance, what=name)


def check_greedy_continuation(model: DnaModel, golden: Golden) -> tuple[State, State]:
    """The states after the prompt and before the last token."""
    prompt, tokens = golden.tensors["in/prompt"], golden.tensors["gen/tokens"]
    expected = golden.tensors["gen/logits_f64"]
    logits, state = model(prompt, return_state=True)
    after_prompt = state
    for t in range(tokens.shape[1]):
        if t > 0:
            logits, state = model(tokens[:, t - 1 : t], state=state, return_state=True)
        assert_close(logits[:, -1], expected[:, t], **TOLERANCE, what=f"logits of step {t}")
        assert torch.equal(logits[:, -1].argmax(-1), tokens[:, t])
    return after_prompt, state


def check_states(golden: Golden, prefix: str, state: State) -> None:
    """Upstream keeps one conv input more than the next step needs, channels first."""
    for index, layer in enumerate(state):
        conv = golden.tensors[f"{prefix}/conv_state_{index}"][:, :, 1:].mT
        assert_close(layer.conv, conv, **TOLERANCE, what=f"{prefix} conv state {index}")
        ssm = golden.tensors[f"{prefix}/ssm_state_{index}"]
        assert_close(layer.ssm, ssm, **TOLERANCE, what=f"{prefix} ssm state {index}")
