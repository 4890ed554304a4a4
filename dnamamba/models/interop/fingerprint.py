"""A model's output for one fixed sequence, to tell whether two models are the same."""

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.errors import InputError
from dnamamba.models.language_model import DnaModel
from dnamamba.models.streaming import longest_sequence
from dnamamba.tokenizer import VOCABULARY, encode, token_ids

N_BASES = 256
_MASK_EVERY = 8
_LAST = 8  # positions whose logits are hashed
_LEVELS = 100


@dataclass(frozen=True)
class Fingerprint:
    """The same for copies of a model, and hardly ever for two models.

    bits_per_base: mean negative log-likelihood of the fixed sequence's next bases or, if the model
    sees both sides, of every eighth, masked. logits_hash: of the last eight positions, in
    hundredths of the largest, so coarse that rounding rarely changes it.
    """

    bits_per_base: float
    logits_hash: str


def fixed_ids() -> Tensor:
    """Token ids (1, 256) of 256 evenly drawn bases, always the same; int64."""
    # A hash function, as no random generator promises the same numbers for ever.
    drawn = hashlib.shake_256(b"dnamamba").digest(N_BASES)
    sequence = "".join("ACGT"[byte % 4] for byte in drawn)
    return torch.from_numpy(token_ids(encode(sequence))).long()[None]


def fixed_logits(model: DnaModel) -> Tensor:
    """Logits (L, vocab_size) of `model_ids`, masked if the model sees both sides. Raises InputError
    if they are not finite."""
    ids = model_ids(model, masked=not model.is_causal)
    was_training = model.training
    with torch.no_grad():
        logits = model.eval()(ids)
    model.train(was_training)
    assert isinstance(logits, Tensor)
    logits = logits[0, :, : model.config.vocab_size]
    if not bool(logits.isfinite().all()):
        raise InputError(
            "the model's logits are not finite: its weights are damaged, or of another format "
            "than they were read as"
        )
    return logits


def take_fingerprint(model: DnaModel) -> Fingerprint:
    """Raises InputError as `fixed_logits` does."""
    logits, ids = fixed_logits(model).double(), model_ids(model)[0]
    if model.is_causal:
        loss = functional.cross_entropy(logits[:-1], ids[1:])
    else:
        loss = functional.cross_entropy(logits[::_MASK_EVERY], ids[::_MASK_EVERY])
    last = logits[-_LAST:]
    levels = torch.round(_LEVELS * last / last.abs().max().clamp(min=1e-30)).to(torch.int8)
    digest = hashlib.sha256(levels.numpy().tobytes()).hexdigest()[:12]
    return Fingerprint(loss.item() / math.log(2), digest)


def model_ids(model: DnaModel, masked: bool = False) -> Tensor:
    """The fixed sequence for a model (1, L), cut to its longest. Ids beyond a foreign vocabulary
    begin again at 0."""
    ids = fixed_ids()[:, : longest_sequence(model.config)]
    if masked:
        ids[:, ::_MASK_EVERY] = VOCABULARY.id("[MASK]")
    return ids % model.config.vocab_size
