"""Likelihoods: what a plain loop over bases gives, however sequences are batched and cut."""

import math
from itertools import islice, product

import numpy as np
import pytest
import torch

from dnamamba.errors import InputError
from dnamamba.inference.likelihood import (
    log_probabilities,
    masked_base_log_probabilities,
    mean_hidden,
    read_sequences,
    stream_log_probabilities,
)
from dnamamba.inference.options import InferenceOptions
from dnamamba.models import (
    AttentionConfig,
    BiMambaConfig,
    DnaModel,
    HyenaConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    S4Config,
)
from dnamamba.pretraining.objectives import NextToken
from dnamamba.tokenizer import MASK_ID, encode, is_base, reverse_complement, token_ids
from genomes import random_sequence
from model_cases import MAMBA_ATTENTION, STRIPED_HYENA, of_mixer

CAUSAL = {
    "mamba": MambaConfig(),
    "mamba2": Mamba2Config(d_state=16, d_head=16),
    "s4": S4Config(),
    "attention": AttentionConfig(n_heads=2),
    "hyena": HyenaConfig(l_max=96),
    "mamba-attention": MAMBA_ATTENTION,
    "striped-hyena": STRIPED_HYENA,
}
STREAMED = [name for name in CAUSAL if "hyena" not in name]
BOTH_WAYS = {
    "bimamba": ("one", BiMambaConfig()),
    "caduceus-ps": ("both", BiMambaConfig()),
    "both strands of a causal mixer": ("both", MambaConfig()),
    "attention": ("one", AttentionConfig(n_heads=2, is_causal=False)),
}


def make_model(mixer=None, strands="one"):
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layers=2, strands=strands, **of_mixer(mixer))
    model = DnaModel(config).eval()
    # Larger than those of a new model, so that bases differ.
    torch.nn.init.normal_(model.backbone.embedding.weight)
    return model


def draw_sequences(n=8, longest=50):
    lengths = np.random.default_rng(0).integers(1, longest, n).tolist()
    sequences = [random_sequence(length, seed=i) for i, length in enumerate(lengths)]
    return [encode(text.replace("CA", "CN").replace("GT", "gt")) for text in sequences]


@torch.no_grad()
def naive(model, codes):
    """A base at a time, from the logits after all before it."""
    ids = token_ids(codes)
    found = [math.nan]
    for t in range(1, len(ids)):
        logits = model(torch.from_numpy(ids[None, :t]).long())[0, -1, 7:11].double()
        known = 7 <= ids[t] <= 10
        found.append(float(logits.log_softmax(0)[ids[t] - 7]) if known else math.nan)
    return np.array(found)


@pytest.mark.parametrize("mixer", CAUSAL.values(), ids=CAUSAL.keys())
def test_each_base_given_those_before_it(mixer):
    model, sequences = make_model(mixer), draw_sequences()
    options = InferenceOptions(batch_tokens=150)
    found = list(log_probabilities(model, sequences, options))
    assert [len(one) for one in found] == [len(codes) for codes in sequences]
    for codes, values in zip(sequences, found, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, naive(model, codes), rtol=2e-4, atol=1e-5)
        expected_nan = ~is_base(codes)
        expected_nan[0] = True
        np.testing.assert_array_equal(np.isnan(values), expected_nan)


def test_probabilities_of_the_four_bases_sum_to_1():
    model, text = make_model(), random_sequence(40)
    last = [encode(text + base) for base in "ACGT"]
    found = [float(values[-1]) for values in log_probabilities(model, last)]
    assert sum(map(math.exp, found)) == pytest.approx(1, abs=1e-6)


def test_the_mean_is_the_training_loss_but_for_the_other_tokens():
    model = make_model()
    codes = encode(random_sequence(80))
    (values,) = log_probabilities(model, [codes])
    total, weight = NextToken(model).eval()(torch.from_numpy(codes.copy())[None])
    with torch.no_grad():
        logits = model(torch.from_numpy(codes.copy()).long()[None])[0, :-1, :12]
    share = logits.logsumexp(-1) - logits[:, 7:11].logsumexp(-1)
    expected = float(total.detach() / weight - share.mean())
    assert -np.nanmean(values) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1000])
def test_pieces_of_any_size_give_the_same(name, chunk_tokens):
    model, codes = make_model(CAUSAL[name]), encode(random_sequence(90).replace("CA", "CN"))
    (whole,) = log_probabilities(model, [codes])
    options = InferenceOptions(chunk_tokens=chunk_tokens)
    (in_pieces,) = read_sequences(model, [codes], options)
    (alone,) = mean_hidden(model, [codes])
    np.testing.assert_allclose(in_pieces.log_probs, whole, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(in_pieces.mean_hidden, alone, rtol=1e-4, atol=1e-5)
    pieces = (codes[start : start + 33] for start in range(0, 90, 33))
    streamed = np.concatenate(list(stream_log_probabilities(model, pieces, options)))
    np.testing.assert_allclose(streamed, whole, rtol=2e-4, atol=1e-5)


def test_a_stream_reads_as_it_goes():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield encode("ACGTACGT")

    options = InferenceOptions(chunk_tokens=16, autocast_dtype=torch.bfloat16)
    stream = stream_log_probabilities(make_model(), endless(), options)
    assert [len(values) for values in islice(stream, 5)] == [16] * 5
    assert len(taken) <= 11
    assert torch.is_grad_enabled(), "nothing is left behind between two pieces"
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("mixer", CAUSAL.values(), ids=CAUSAL.keys())
def test_the_mean_of_hidden_states_is_over_bases_alone(mixer):
    model, sequences = make_model(mixer), draw_sequences()
    readings = read_sequences(model, sequences, InferenceOptions(batch_tokens=150))
    for codes, reading in zip(sequences, readings, strict=True):
        with torch.no_grad():
            hidden = model.embed(torch.from_numpy(token_ids(codes)).long()[None])[0].numpy()
        expected = hidden[is_base(codes)].mean(0)
        np.testing.assert_allclose(reading.mean_hidden, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("strands", "mixer"), BOTH_WAYS.values(), ids=BOTH_WAYS.keys())
def test_a_hidden_base_given_those_around_it(strands, mixer):
    model, sequences = make_model(mixer, strands), draw_sequences()
    positions = [len(codes) // 2 for codes in sequences]
    options = InferenceOptions(batch_tokens=150)
    found = masked_base_log_probabilities(model, sequences, positions, options)
    assert (found.shape, found.dtype) == ((8, 4), np.float32)
    for codes, position, values in zip(sequences, positions, found, strict=True):
        ids = torch.from_numpy(token_ids(codes)).long()
        ids[position] = MASK_ID
        with torch.no_grad():
            logits = model(ids[None])[0, position, 7:11]
        np.testing.assert_allclose(values, logits.log_softmax(0).numpy(), rtol=1e-4, atol=1e-5)
    assert not any((token_ids(codes) == MASK_ID).any() for codes in sequences), "no input changed"
    assert masked_base_log_probabilities(model, [], []).shape == (0, 4)


def test_both_strands_see_complements():
    model, codes = make_model(BiMambaConfig(), "both"), encode(random_sequence(41))
    one, other = masked_base_log_probabilities(model, [codes, reverse_complement(codes)], [10, 30])
    np.testing.assert_allclose(one, other[::-1], rtol=1e-5)


def test_matrices_may_be_multiplied_in_bfloat16():
    model, sequences = make_model(), draw_sequences()
    exact = np.concatenate(list(log_probabilities(model, sequences)))
    options = InferenceOptions(autocast_dtype=torch.bfloat16)
    rounded = np.concatenate(list(log_probabilities(model, sequences, options)))
    assert 0 < np.nanmax(np.abs(rounded - exact)) < 0.3


def test_a_pass_that_memory_is_too_small_for_is_halved():
    model, sequences = make_model(), draw_sequences()
    expected = [reading.log_probs for reading in read_sequences(model, sequences)]
    alone = model.embed

    def small(token_ids, lengths=None):
        if token_ids.numel() > 60:
            raise torch.OutOfMemoryError("too much")
        return alone(token_ids, lengths)

    model.embed = small
    for found, one in zip(log_probabilities(model, sequences), expected, strict=True):
        np.testing.assert_allclose(found, one, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="no memory for a sequence of 61 bases"):
        read_sequences(model, [encode("A" * 61)])


def test_what_cannot_be_asked_is_said():
    both_ways, hyena, causal = (
        make_model(BiMambaConfig()),
        make_model(HyenaConfig(l_max=96)),
        make_model(),
    )
    with pytest.raises(InputError, match="reads both ways, so it gives no likelihood"):
        list(log_probabilities(both_ways, [encode("ACGT")]))
    with pytest.raises(InputError, match=r"never seen \[MASK\]"):
        masked_base_log_probabilities(causal, [encode("ACGT")], [1])
    with pytest.raises(InputError, match="97 bases are more than the 96 that"):
        list(log_probabilities(hyena, [encode("A" * 97)]))
    with pytest.raises(InputError, match=r"hyena layers carry no state .* up to 96 tokens"):
        list(stream_log_probabilities(hyena, [encode("ACGT")]))
    with pytest.raises(InputError, match="1 base or more, got one of 0"):
        list(log_probabilities(causal, [encode("")]))
    for name, value in product(("batch_tokens", "chunk_tokens"), (0, -1)):
        with pytest.raises(InputError, match=f"{name} must be >= 1, got {value}"):
            InferenceOptions(**{name: value})
