"""Embeddings: those of a plain loop for any batching, any chunks, on one strand or both."""

import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dnamamba
from dnamamba.embedding.config import EmbedOptions
from dnamamba.embedding.embedder import Embedder
from dnamamba.embedding.forward import EmbedInput, Passes, PositionStore
from dnamamba.errors import InputError
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
from dnamamba.models.pooling import Pooling
from dnamamba.tokenizer import encode, reverse_complement, token_ids
from genomes import random_sequence
from model_cases import MAMBA_ATTENTION, of_mixer
from test_pooling import pool_plainly

MODELS = {
    "mamba": (MambaConfig(), "one"),
    "mamba2": (Mamba2Config(d_state=8, d_head=8), "one"),
    "s4": (S4Config(d_state=4), "one"),
    "hyena": (HyenaConfig(l_max=512), "one"),
    "attention": (AttentionConfig(n_heads=2), "one"),
    "bimamba": (BiMambaConfig(), "one"),
    "caduceus": (BiMambaConfig(), "both"),
    "mamba-attention": (MAMBA_ATTENTION, "one"),
}
POOLINGS = ["none", "mean", "last", "max", "center", "bins:3"]
LAYERS = (-1, 1)


def build(name="mamba"):
    """A model of its own, which a test may change."""
    mixer, strands = MODELS[name]
    torch.manual_seed(0)
    config = ModelConfig(d_model=16, n_layers=2, strands=strands, **of_mixer(mixer))
    return DnaModel(config).eval()


MAMBA = build()
shared_model = cache(build)


def embed(model, inputs, pooling="mean", scratch=None, **options):
    options = {"layers": LAYERS, **options}
    return Embedder(model, EmbedOptions(pooling=Pooling.parse(pooling), **options), scratch)(inputs)


def draw_inputs(n=12, longest=120, letters="ACGTacgtNNR", seed=0):
    """Sequences with some N and spans of any place in them."""
    draw, inputs = np.random.default_rng(seed), []
    for i in range(n):
        length = int(draw.integers(8, longest))
        text = "A" + random_sequence(length - 1, seed=i, letters=letters)
        low = int(draw.integers(0, length - 4))
        high = int(draw.integers(low + 3, length + 1))
        inputs.append((text[:low] + "C" + text[low + 1 :], (low, high)))
    return inputs


def as_inputs(pairs):
    return [EmbedInput.of(encode(text), span) for text, span in pairs]


@cache
@torch.no_grad()
def all_hidden(model, text, reverse):
    """Every layer (L, D) of one sequence alone, of both strands the mean at each base."""
    codes = reverse_complement(encode(text)) if reverse else encode(text)
    found = model.hidden_states(torch.from_numpy(token_ids(codes)).long()[None])
    if model.config.strands == "both":
        found = [sum((half.chunk(2, -1)[0], half.chunk(2, -1)[1].flip(-1))) / 2 for half in found]
    return [layer[0].numpy() for layer in found]


def embed_plainly(model, text, span, pooling, rc, layer):
    """The most obvious way."""
    pooling = Pooling.parse(pooling)
    ahead, back = all_hidden(model, text, False)[layer], all_hidden(model, text, True)[layer][::-1]

    def pooled(hidden, letters, where):
        if pooling.kind == "none":
            return hidden[where[0] : where[1]]
        vectors = pool_plainly(letters, where, hidden, pooling)
        return vectors if pooling.kind == "bins" else vectors[0]

    one = pooled(ahead, text, span)
    if rc == "none":
        return one
    if pooling.kind == "last":
        # Of the other strand that is the first.
        turned = (len(text) - span[1], len(text) - span[0])
        other = pooled(back[::-1], text[::-1], turned)
    else:
        other = pooled(back, text, span)
    return (one + other) / 2 if rc == "average" else np.concatenate([one, other], -1)


def check(model, pairs, found, pooling, rc, layers=LAYERS):
    for (text, span), arrays in zip(pairs, found, strict=True):
        for array, layer in zip(arrays, layers, strict=True):
            assert array.dtype == np.float32
            expected = embed_plainly(model, text, span, pooling, rc, layer)
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=2e-6)


# --- the numbers


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("rc", ["none", "average", "concat"])
def test_a_batch_gives_what_each_gives_in_a_plain_loop(name, rc):
    model, pairs = shared_model(name), draw_inputs(8)
    for pooling in POOLINGS if name in ("mamba", "bimamba") else ["none", "mean", "bins:3"]:
        found = embed(model, as_inputs(pairs), pooling, rc=rc, batch_tokens=300)
        check(model, pairs, found, pooling, rc)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "s4"])
@pytest.mark.parametrize("rc", ["none", "average", "concat"])
def test_long_sequences_in_pieces_give_the_same(name, rc, tmp_path):
    model, pairs = shared_model(name), draw_inputs(3)
    options = {"rc": rc, "chunk_tokens": 17, "scratch": tmp_path}
    for pooling in POOLINGS if name == "mamba" else ["none", "mean"]:
        check(model, pairs, embed(model, as_inputs(pairs), pooling, **options), pooling, rc)
    assert list(tmp_path.iterdir()) == [], "files without names"


@settings(max_examples=20, deadline=None)
@given(
    pooling=st.sampled_from(["none", "mean", "last", "max", "center", "bins:2", "bins:9"]),
    rc=st.sampled_from(["none", "average", "concat"]),
    batch_tokens=st.integers(100, 400),
    chunk_tokens=st.integers(9, 200),
    seed=st.integers(0, 2),
)
def test_portions_change_nothing(pooling, rc, batch_tokens, chunk_tokens, seed):
    inputs = as_inputs(draw_inputs(4, seed=seed))
    expected = embed(MAMBA, inputs, pooling, rc=rc)
    options = {"batch_tokens": batch_tokens, "chunk_tokens": chunk_tokens, "rc": rc}
    for one, other in zip(embed(MAMBA, inputs, pooling, **options), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("pooling", ["mean", "max", "last", "bins:3", "none"])
@pytest.mark.parametrize("chunk_tokens", [20, 1000])
def test_the_average_of_both_strands_is_that_of_the_reverse_complement(pooling, chunk_tokens):
    codes = encode(random_sequence(90, letters="ACGTN"))
    turned = reverse_complement(codes)
    inputs = [EmbedInput.of(codes, (30, 75)), EmbedInput.of(turned, (15, 60))]
    options = {"rc": "average", "chunk_tokens": chunk_tokens}
    one, other = embed(MAMBA, inputs, pooling, **options)
    for forward, reverse in zip(one, other, strict=True):
        back = reverse[::-1] if pooling in ("none", "bins:3") else reverse
        np.testing.assert_allclose(forward, back, rtol=1e-5, atol=1e-6)


def test_concatenated_strands_are_forward_first():
    codes = encode(random_sequence(50))
    (both,), (ahead,) = (
        embed(MAMBA, [EmbedInput.of(codes)], "none", rc=rc) for rc in ("concat", "none")
    )
    np.testing.assert_array_equal(both[0][:, :16], ahead[0])
    (back,) = embed(MAMBA, [EmbedInput.of(reverse_complement(codes))], "none")
    np.testing.assert_allclose(both[0][::-1, 16:], back[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mamba", "bimamba", "caduceus"])
def test_nothing_is_remembered_between_calls(name):
    embedder = Embedder(build(name), EmbedOptions(pooling=Pooling("mean"), chunk_tokens=40))
    one, other = (EmbedInput.of(encode(random_sequence(n, seed=n))) for n in (100, 30))
    first, _, again = embedder([one]), embedder([other, one]), embedder([one])
    np.testing.assert_array_equal(first, again)


def test_case_means_nothing_and_context_means_something():
    text = random_sequence(60)
    inputs = [EmbedInput.of(encode(one), (20, 40)) for one in (text, text.lower())]
    inputs += [EmbedInput.of(encode(text[20:40])), EmbedInput.of(encode(text[:40]), (20, 40))]
    upper, lower, alone, causal = (one[0] for one in embed(MAMBA, inputs))
    np.testing.assert_array_equal(upper, lower)
    assert not np.allclose(upper, alone, rtol=1e-2)
    np.testing.assert_allclose(upper, causal, rtol=1e-5, atol=1e-6)


def test_spans_at_both_ends_and_of_one_base():
    text = random_sequence(40)
    pairs = [(text, span) for span in ((0, 1), (39, 40), (0, 40), (0, 39), (1, 40))]
    for pooling in POOLINGS:
        for options in ({}, {"chunk_tokens": 8}):
            found = embed(MAMBA, as_inputs(pairs), pooling, rc="average", **options)
            if pooling != "bins:3":
                check(MAMBA, pairs, found, pooling, "average")
            else:
                assert np.isnan(found[0][0][:2]).all(), "parts without a base"
                check(MAMBA, pairs[2:], found[2:], pooling, "average")


def test_matrices_may_be_multiplied_in_bfloat16():
    inputs = as_inputs(draw_inputs())
    exact, rounded = (
        np.array(embed(MAMBA, inputs, autocast_dtype=dtype)) for dtype in (None, torch.bfloat16)
    )
    assert 0 < np.abs(rounded - exact).max() < 0.1
    long = np.array(embed(MAMBA, inputs, autocast_dtype=torch.bfloat16, chunk_tokens=10))
    assert 0 < np.abs(long - exact).max() < 0.1


# --- batches


def passes_of(inputs, **options):
    """Shapes of the tokens of each pass."""
    model, shapes = build(), []
    whole = model.hidden_at

    def recording(ids, layers, lengths=None):
        shapes.append(tuple(ids.shape))
        return whole(ids, layers, lengths)

    model.hidden_at = recording
    embed(model, inputs, **options)
    return shapes


def test_batches_are_of_like_lengths():
    lengths = [10, 100, 10, 100, 10]
    inputs = [EmbedInput.of(encode(random_sequence(n))) for n in lengths]
    assert passes_of(inputs, batch_tokens=200) == [(2, 100), (3, 10)]
    assert passes_of(inputs, batch_tokens=1) == [(1, 100)] * 2 + [(1, 10)] * 3


def test_a_causal_model_reads_no_further_than_the_spans():
    inputs = [EmbedInput.of(encode(random_sequence(100)), (10, 20)) for _ in range(2)]
    assert passes_of(inputs) == [(2, 20)]
    assert passes_of(inputs, rc="average") == [(2, 20), (2, 92)], "90, rounded up"

    def read(start, end):
        assert end <= 45, "all pieces up to the end of the span"
        return encode("A" * (end - start))

    (found,) = embed(MAMBA, [EmbedInput(1000, read, (30, 45))], chunk_tokens=10)
    assert not isinstance(found, str)


def test_pieces_of_the_reverse_complement_are_read_from_the_end():
    codes, asked = encode(random_sequence(50)), []

    def read(start, end):
        asked.append((start, end))
        return codes[start:end]

    embed(MAMBA, [EmbedInput(50, read, (0, 50))], rc="average", chunk_tokens=20)
    assert asked == [(0, 20), (20, 40), (40, 50), (30, 50), (10, 30), (0, 10)]


# --- failures


def test_what_cannot_be_embedded_is_a_text_among_the_others():
    texts = ["ACGT", "NNNNNN", "NRYNACGT"]
    inputs = [EmbedInput.of(encode(text)) for text in texts]
    inputs += [EmbedInput.of(encode("NRYNACGT"), span) for span in ((0, 4), (3, 3), (5, 9))]
    for options in ({}, {"chunk_tokens": 2}):
        good, no_base, some, span_n, empty, outside = embed(MAMBA, inputs, **options)
        assert np.isfinite(good).all()
        assert np.isfinite(some).all()
        assert no_base == "no A, C, G or T among the 6 letters of the span"
        assert span_n == "no A, C, G or T among the 4 letters of the span"
        assert empty == "the span 3 to 3 has no position in 8 bases"
        assert outside == "the span 5 to 9 has no position in 8 bases"
    whole = embed(MAMBA, inputs[1:2], "none")[0]
    assert whole[0].shape == (6, 16), "every position, N too"


def test_a_hyena_is_no_longer_than_its_filters():
    inputs = [EmbedInput.of(encode(random_sequence(n))) for n in (513, 512, 500)]
    long, longest, shorter = embed(build("hyena"), inputs, chunk_tokens=100)
    assert long == "513 bases are more than the 512 that this model's filters were made for"
    assert np.isfinite(longest).all()
    assert np.isfinite(shorter).all()


@pytest.mark.parametrize("name", ["bimamba", "caduceus", "hyena"])
def test_models_that_cannot_stream_read_in_one_pass(name):
    model, pairs = build(name), [(random_sequence(150), (20, 130))]
    found = embed(model, as_inputs(pairs), chunk_tokens=20, batch_tokens=50, rc="average")
    check(model, pairs, found, "mean", "average")


def test_a_batch_that_memory_is_too_small_for_is_halved():
    inputs = as_inputs(draw_inputs(10, longest=60, letters="ACGT"))
    expected = np.array(embed(MAMBA, inputs))
    model = build()
    whole = model.hidden_at

    def small(ids, layers, lengths=None):
        if ids.numel() > 100:
            raise torch.OutOfMemoryError("too much")
        return whole(ids, layers, lengths)

    model.hidden_at = small
    np.testing.assert_allclose(np.array(embed(model, inputs)), expected, rtol=1e-4, atol=1e-6)
    long = EmbedInput.of(encode("A" * 101))
    found = embed(model, [inputs[0], long, inputs[1]])
    assert found[1].startswith("there is no memory for a sequence of 101 bases: use shorter ones")
    np.testing.assert_allclose([found[0], found[2]], expected[:2], rtol=1e-4, atol=1e-6)


def no_memory_on_a_gpu(*args):
    raise torch.OutOfMemoryError("too much")


def no_memory_on_a_cpu(*args):
    return torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("small", [no_memory_on_a_gpu, no_memory_on_a_cpu])
@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_no_memory_for_a_piece_is_a_text(pooling, small):
    model = build()

    model.backbone.hidden_at = small
    (found,) = embed(model, [EmbedInput.of(encode("A" * 50))], pooling, chunk_tokens=20)
    assert found.startswith("there is no memory for a piece of 20 bases")


def test_other_errors_of_a_pass_are_not_taken_for_too_little_memory():
    model = build()

    def wrong(*args, **options):
        raise RuntimeError("shapes do not fit")

    model.hidden_at = model.backbone.hidden_at = wrong
    for options in ({}, {"chunk_tokens": 20}):
        with pytest.raises(RuntimeError, match="shapes do not fit"):
            embed(model, [EmbedInput.of(encode("A" * 50))], **options)


def test_numbers_that_are_not_finite_are_said():
    model = build()
    with torch.no_grad():
        model.backbone.norm_f.weight[3] = torch.inf
    for pooling in ("mean", "bins:3", "max", "last"):
        (found,) = embed(model, [EmbedInput.of(encode(random_sequence(30)))], pooling)
        assert found == "the model's numbers for it are not finite"


def test_what_read_raises_is_raised():
    def broken(start, end):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        embed(MAMBA, [EmbedInput(10, broken, (0, 10))])
    with pytest.raises(ValueError, match=r"read\(0, 10\) returned 3 codes, not 10"):
        embed(MAMBA, [EmbedInput(10, lambda start, end: encode("ACG"), (0, 10))])


def test_wrong_options_are_said():
    with pytest.raises(InputError, match="rc must be one of none, average, concat, got 'both'"):
        EmbedOptions(pooling=Pooling("mean"), rc="both")
    with pytest.raises(InputError, match="chunk_tokens must be >= 1, got 0"):
        EmbedOptions(pooling=Pooling("mean"), chunk_tokens=0)
    with pytest.raises(InputError, match="no layer 4"):
        embed(MAMBA, [], layers=(4,))
    assert embed(MAMBA, []) == []


# --- memory


@pytest.mark.parametrize("pooling", ["mean", "none"])
def test_groups_come_out_as_each_alone_while_the_next_is_at_work(pooling):
    inputs = as_inputs(draw_inputs(20))
    empty_span = EmbedInput.of(encode("ACGT"), (2, 2))
    groups = [inputs[:5], [], [empty_span], inputs[5:6], [*inputs[6:], empty_span], [empty_span]]
    # 60: some are streamed, batches are of one sequence or two.
    options = {"batch_tokens": 150, "chunk_tokens": 60}
    embedder = Embedder(MAMBA, EmbedOptions(pooling=Pooling.parse(pooling), **options))
    events, found = [], []

    def given():
        for i, group in enumerate(groups):
            events.append(f"given {i}")
            yield group

    def take(results):
        events.append(f"taken {len(found)}")
        found.append(results)

    embedder.run(given(), take)
    assert len(found) == len(groups)
    for results, group in zip(found, groups, strict=True):
        for one, other in zip(results, embed(MAMBA, group, pooling, **options), strict=True):
            if isinstance(other, str):
                assert one == other
            else:
                np.testing.assert_array_equal(one[0], other[0])
    assert events.index("given 1") < events.index("taken 0") < events.index("given 5")


def test_an_error_among_groups_is_raised():
    def given():
        yield as_inputs(draw_inputs(3))
        raise InputError("the file ends too early")

    embedder = Embedder(MAMBA, EmbedOptions(pooling=Pooling("mean")))
    with pytest.raises(InputError, match="ends too early"):
        embedder.run(given(), lambda results: None)
    assert not torch.is_inference_mode_enabled()


def test_positions_of_long_sequences_are_on_disk(tmp_path):
    embedder = Embedder(
        MAMBA, EmbedOptions(pooling=Pooling("none"), chunk_tokens=2000), tmp_path / "new"
    )
    peaks = []
    for n_bases in (10_000, 60_000):
        one = EmbedInput(
            n_bases, lambda start, end: np.full(end - start, 7, np.uint8), (0, n_bases)
        )
        tracemalloc.start()
        ((found,),) = embedder([one])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert isinstance(found, np.memmap)
        assert found.shape == (n_bases, 16)
    # Of numpy's arrays; 50,000 positions are 3.2 MB.
    assert peaks[1] < peaks[0] + 100_000


def test_a_store_of_positions(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    for folder in (None, tmp_path):
        store = PositionStore((6, 3), folder)
        store.write(2, rows)
        store.write(0, rows[:2])
        np.testing.assert_array_equal(store.read(1, 4), np.stack([rows[1], rows[0], rows[1]]))
        found = store.finish()
        del store
        np.testing.assert_array_equal(found, np.concatenate([rows[:2], rows]))


# --- for a user in Python


def test_embed_gives_the_means_of_a_plain_pass():
    texts = [random_sequence(n, seed=n) for n in (30, 5, 90)]
    found = dnamamba.embed(MAMBA, texts)
    assert found.shape == (3, 16)
    assert found.dtype == np.float32
    for text, vector in zip(texts, found, strict=True):
        expected = embed_plainly(MAMBA, text, (0, len(text)), "mean", "none", -1)
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-6)
    codes = (encode(text) for text in texts)
    np.testing.assert_array_equal(dnamamba.embed(MAMBA, codes), found)


def test_embed_shapes():
    texts = [random_sequence(n, seed=n) for n in (30, 5, 90)]
    assert dnamamba.embed(MAMBA, texts, layers=[0, 1, -1], rc="concat").shape == (3, 3, 32)
    assert dnamamba.embed(MAMBA, texts, pooling="bins:4").shape == (3, 4, 16)
    assert dnamamba.embed(MAMBA, texts, layers=(2,), pooling="bins:4").shape == (3, 1, 4, 16)
    assert dnamamba.embed(MAMBA, texts[0]).shape == (16,)
    assert dnamamba.embed(MAMBA, []).shape == (0, 16)
    with pytest.raises(InputError, match=r"pooling must give vectors of one shape, got none"):
        dnamamba.embed(MAMBA, ["ACGT"], pooling="none")


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("chunk_tokens", [32, 1000])
def test_a_gpu_gives_the_same(pooling, chunk_tokens):
    inputs = as_inputs(draw_inputs())
    options = {"rc": "average", "batch_tokens": 500, "chunk_tokens": chunk_tokens}
    expected = embed(MAMBA, inputs, pooling, **options)
    found = embed(build().cuda(), inputs, pooling, **options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("pooling", POOLINGS)
def test_nothing_waits_for_a_gpu_but_results(pooling):
    options = EmbedOptions(pooling=Pooling.parse(pooling), rc="concat")
    passes = Passes(build().cuda(), (3, 1), options)
    inputs = as_inputs(draw_inputs())
    with torch.inference_mode():
        # The first compiles kernels.
        expected = passes.start_batch(inputs).wait()
        torch.cuda.set_sync_debug_mode("error")
        try:
            started = passes.start_batch(inputs)
            if pooling != "none":
                passes.pool_stream(inputs[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    np.testing.assert_array_equal(started.wait()[0], expected[0])
