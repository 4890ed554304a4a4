"""Which positions are predicted, and how much each counts."""

import torch

from dnamamba.objectives import IGNORED, NextToken, next_token_targets, target_weights
from dnamamba.tokenizer import PAD_ID, VOCABULARY, encode


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
