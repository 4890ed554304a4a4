"""Which positions are predicted, and how much each counts."""

import numpy as np
import pytest
import torch

from dnamamba.data.masking import MASKED_SHARE, mask_bases
from dnamamba.errors import InputError
from dnamamba.pretraining.objectives import (
    IGNORED,
    MaskedTokens,
    NextToken,
    choose_objective,
    is_hidden,
    next_token_targets,
    shown_tokens,
    target_weights,
)
from dnamamba.tokenizer import MASK_ID, PAD_ID, VOCABULARY, encode, token_ids


def codes_of(text: str) -> torch.Tensor:
    return torch.from_numpy(encode(text))[None]


class Uniform(torch.nn.Module):
    """A model that believes nothing: the loss of every target is log 4."""

    def forward(self, token_ids: torch.Tensor, recompute: str = "nothing") -> torch.Tensor:
        logits = torch.full((*token_ids.shape, VOCABULARY.padded_size), -torch.inf)
        logits[..., list(VOCABULARY.base_ids)] = 0.0
        return logits


def test_the_target_of_a_position_is_the_next_base():
    _, c, g, t = VOCABULARY.base_ids
    assert next_token_targets(codes_of("ACgt")).tolist() == [[c, g, t]]


def test_n_ambiguity_padding_and_unknown_letters_are_never_targets():
    codes = codes_of("ANRA!A")
    codes = torch.cat([codes, torch.full((1, 2), PAD_ID, dtype=torch.uint8)], dim=1)
    a = VOCABULARY.id("A")
    assert next_token_targets(codes).tolist() == [[IGNORED, IGNORED, a, IGNORED, a] + [IGNORED] * 2]


def test_soft_masked_targets_count_as_much_as_asked():
    assert target_weights(codes_of("ACgtN"), 0.25).tolist() == [[1.0, 0.25, 0.25, 0.0]]


def test_loss_is_a_sum_over_weights_and_evaluation_counts_every_base_once():
    objective = NextToken(Uniform(), softmask_weight=0.5)
    codes = codes_of("ACgtN")
    loss, weight = objective(codes)
    assert weight == objective.weight(codes) == 2.0
    torch.testing.assert_close(loss / weight, torch.tensor(4.0).log())
    objective.eval()
    assert objective(codes)[1] == 3.0


def test_a_window_of_n_has_no_weight_and_no_nan():
    loss, weight = NextToken(Uniform())(codes_of("NNNN"))
    assert loss == 0.0
    assert weight == 0.0


def hidden_codes(text: str, key: int = 1) -> torch.Tensor:
    return torch.from_numpy(mask_bases(encode(text), key))[None]


def test_bases_are_hidden_by_berts_rule():
    codes = hidden_codes("ACGTacgtNR" * 20_000)
    hidden, shown = is_hidden(codes), shown_tokens(codes)
    tokens = codes & 0x0F
    is_base = torch.isin(tokens, torch.tensor(VOCABULARY.base_ids))
    assert not hidden[~is_base].any()
    assert hidden[is_base].float().mean() == pytest.approx(MASKED_SHARE, abs=3e-3)
    among = shown[hidden]
    assert (among == MASK_ID).float().mean() == pytest.approx(0.8, abs=0.01)
    # A base drawn is the one that was there once in four.
    assert (among == tokens[hidden]).float().mean() == pytest.approx(0.125, abs=0.01)
    assert set(among.tolist()) == {MASK_ID, *VOCABULARY.base_ids}
    assert torch.equal(shown[~hidden], tokens[~hidden])


def test_what_is_hidden_depends_on_the_key_alone_and_keeps_the_bases():
    codes = encode("ACGTNacgtn" * 50)
    assert np.array_equal(mask_bases(codes, 5), mask_bases(codes, 5))
    assert not np.array_equal(mask_bases(codes, 5), mask_bases(codes, 6))
    assert np.array_equal(token_ids(mask_bases(codes, 5)), token_ids(codes))


def test_each_hidden_base_is_a_target_where_it_stands():
    codes = hidden_codes("ACgtN" * 200)
    objective = MaskedTokens(Uniform(), softmask_weight=0.5)
    loss, weight = objective(codes)
    soft = (codes & 0x80) != 0
    hidden = is_hidden(codes)
    assert weight == objective.weight(codes) == (hidden & ~soft).sum() + 0.5 * (hidden & soft).sum()
    torch.testing.assert_close(loss / weight, torch.tensor(4.0).log())
    objective.eval()
    # Of bases that are shown, rightly or wrongly, a model would seem to know too much.
    assert objective(codes)[1] == (shown_tokens(codes) == MASK_ID).sum() < hidden.sum()


def test_the_objective_fits_the_model():
    assert choose_objective(None, is_causal=True) == "next_token"
    assert choose_objective(None, is_causal=False) == "masked"
    assert choose_objective("masked", is_causal=True) == "masked"
    with pytest.raises(InputError, match="use --objective masked"):
        choose_objective("next_token", is_causal=False)
