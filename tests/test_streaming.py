"""Any division of a sequence gives the numbers of one pass, in the memory of a piece."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
from dnamamba.models.streaming import longest_sequence, resolve_layers
from model_cases import (
    MAMBA_ATTENTION,
    MAMBA_BIMAMBA,
    STRIPED_HYENA,
    draw_ids,
    tiny_model,
)

CARRYING = {
    "mamba": MambaConfig(d_state=4),
    "mamba2": Mamba2Config(d_state=8, d_head=8, chunk_size=4),
    "s4": S4Config(d_state=4),
    "s4-lin": S4Config(d_state=4, init="lin"),
    "attention": AttentionConfig(n_heads=2),
    "mamba-attention": MAMBA_ATTENTION,
}
N_LAYERS = 2
SEQ_LEN = 50


def build(mixer, **more) -> DnaModel:
    model = tiny_model(mixer, n_layers=N_LAYERS, **more).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Far from zero: what is lost between pieces would show.
            if name.endswith("conv1d.bias"):
                parameter.add_(1)
    return model


DOUBLE = {name: build(mixer).double() for name, mixer in CARRYING.items()}


def join(chunks):
    """Hidden states and logits of all pieces, which follow each other."""
    chunks = list(chunks)
    end = 0
    for chunk in chunks:
        assert chunk.start == end
        end += chunk.token_ids.shape[1]
    hidden = [torch.cat(parts, 1) for parts in zip(*(c.hidden for c in chunks), strict=True)]
    if chunks[0].logits is None:
        return hidden, None
    return hidden, torch.cat([chunk.logits for chunk in chunks], 1)


# --- layers


@pytest.mark.parametrize("strands", ["one", "both"])
@pytest.mark.parametrize(
    "mixer",
    [*CARRYING.values(), BiMambaConfig(d_state=4), HyenaConfig(), STRIPED_HYENA, MAMBA_BIMAMBA],
)
def test_some_layers_are_those_of_hidden_states(mixer, strands):
    model, ids = build(mixer, strands=strands), draw_ids()
    lengths = torch.tensor([20, 13])
    with torch.no_grad():
        expected = model.hidden_states(ids, lengths)
        for layers in ([-1], [0], [1, 3, -2], [2, 2], [-4]):
            found = model.hidden_at(ids, layers, lengths)
            for tensor, layer in zip(found, layers, strict=True):
                wanted = expected[layer]
                if strands == "both":
                    own, other = wanted.chunk(2, -1)
                    wanted = (own + other.flip(-1)) / 2
                torch.testing.assert_close(tensor[0], wanted[0])
                torch.testing.assert_close(tensor[1, :13], wanted[1, :13])
        features = model.embed(ids, lengths)
        (last,) = model.hidden_at(ids, [-1], lengths)
    torch.testing.assert_close(last, features)


def test_blocks_behind_the_last_layer_are_not_run():
    model, run = build(MambaConfig()), []
    for index, block in enumerate(model.backbone.layers):
        block.register_forward_hook(lambda *_, index=index: run.append(index))
    model.hidden_at(draw_ids(), [1, 0])
    assert run == [0]
    run.clear()
    model.hidden_at(draw_ids(), [0])
    list(model.stream(draw_ids(), layers=[1], chunk_tokens=20))
    assert run == [0, 0]


def test_layers_under_autocast():
    model, ids = build(MambaConfig()), draw_ids()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = model.hidden_states(ids), model.hidden_at(ids, [2, -1])
    for one, other in zip(found, (expected[2], expected[-1]), strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


def test_layers_have_numbers():
    config = ModelConfig(d_model=8, n_layers=3)
    assert resolve_layers(config, (-1, 0, 2, -5)) == (4, 0, 2, 0)
    assert resolve_layers(config, "all") == (0, 1, 2, 3, 4)
    for wrong in ((5,), (-6,), "last"):
        with pytest.raises(InputError, match=r"no layer .*: 0 is the embedding, 1 to 3 are .* 4"):
            resolve_layers(config, wrong)
    with pytest.raises(InputError, match="no layer was asked for: give numbers from 0 to 4, or"):
        resolve_layers(config, ())


# --- the numbers of one pass


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(CARRYING)),
    pieces=st.lists(st.integers(0, 17), min_size=1, max_size=12),
    chunk_tokens=st.integers(1, 60),
    batch=st.integers(1, 3),
)
def test_any_pieces_and_any_chunks_are_one_pass(name, pieces, chunk_tokens, batch):
    model = DOUBLE[name]
    ids = draw_ids(batch, max(1, sum(pieces)))
    given = [*ids.split(pieces, 1)] if sum(pieces) else [ids]
    chunks = model.stream(given, layers=[0, 1, 3], chunk_tokens=chunk_tokens, return_logits=True)
    hidden, logits = join(chunks)
    with torch.no_grad():
        expected, (whole, _) = model.hidden_states(ids), model(ids, return_state=True)
    exact = {"rtol": 1e-12, "atol": 1e-12}
    for found, layer in zip(hidden, (0, 1, 3), strict=True):
        torch.testing.assert_close(found, expected[layer], **exact)
    torch.testing.assert_close(logits, whole, **exact)


@pytest.mark.parametrize("name", CARRYING)
@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 1000])
def test_float32_is_near(name, chunk_tokens):
    model, ids = build(CARRYING[name]), draw_ids(1, 600)
    if chunk_tokens == 1:
        ids = ids[:, :150]
    (found,), _ = join(model.stream(ids, chunk_tokens=chunk_tokens))
    with torch.no_grad():
        (expected,) = model.hidden_at(ids, [-1])
    assert ((found - expected).norm() / expected.norm()).item() < 3e-6
    assert ((found - expected).abs().max() / expected.abs().max()).item() < 1e-5


def test_one_may_go_on_from_a_state():
    model, ids = DOUBLE["mamba"], draw_ids(2, SEQ_LEN)
    *_, last = model.stream(ids[:, :20], layers=[1], chunk_tokens=16)
    (found,), _ = join(model.stream(ids[:, 20:], layers=[1], state=last.state))
    again, _ = join(model.stream(ids[:, 20:], layers=[1], state=last.state))
    assert torch.equal(found, again[0]), "a state is not written to"
    with torch.no_grad():
        (expected,) = model.hidden_at(ids, [1])
    torch.testing.assert_close(found, expected[:, 20:], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"that of the 2 blocks run for layers \[3\], got 1"):
        model.stream(ids, state=last.state)


def test_any_integers_will_do_and_there_are_no_gradients():
    model, ids = build(MambaConfig()), draw_ids()
    (chunk,) = model.stream(ids.to(torch.uint8), return_logits=True)
    assert not chunk.hidden[0].requires_grad
    assert not chunk.logits.requires_grad
    assert torch.is_grad_enabled()
    torch.testing.assert_close(chunk.logits, model(ids).detach())


def test_chunk_tokens_are_those_of_all_rows():
    shapes = [c.hidden[0].shape for c in build(MambaConfig()).stream(draw_ids(3), chunk_tokens=24)]
    assert shapes == [(3, 8, 8), (3, 8, 8), (3, 4, 8)]
    shapes = [c.hidden[0].shape for c in build(MambaConfig()).stream(draw_ids(3), chunk_tokens=1)]
    assert shapes == [(3, 1, 8)] * 20


def test_no_tokens_no_pieces():
    assert list(build(MambaConfig()).stream([])) == []
    assert list(build(MambaConfig()).stream(draw_ids()[:, :0])) == []


# --- memory


class LargestTensor(torch.overrides.TorchFunctionMode):
    """The most bytes of any tensor that was made."""

    n_bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.n_bytes = max(self.n_bytes, tensor.untyped_storage().nbytes())
        return result


def test_memory_does_not_grow_with_the_length():
    model = build(MambaConfig())
    largest = []
    for n_pieces in (4, 40):
        pieces, living = (draw_ids(1, 100) for _ in range(n_pieces)), []
        with LargestTensor() as seen:
            for chunk in model.stream(pieces, chunk_tokens=64):
                living.append(weakref.ref(chunk.hidden[0]))
                sizes = [part.untyped_storage().nbytes() for layer in chunk.state for part in layer]
                assert max(sizes) <= 16 * 16 * 4, "not views of a whole piece"
                del chunk
                assert sum(ref() is not None for ref in living) <= 1
        largest.append(seen.n_bytes)
    assert largest[0] == largest[1]


def test_pieces_are_taken_as_they_are_needed():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield draw_ids(1, 30)

    chunks = build(MambaConfig()).stream(endless(), chunk_tokens=100)
    assert [next(chunks).start for _ in range(3)] == [0, 100, 200]
    assert len(taken) == 10


# --- models that cannot


@pytest.mark.parametrize(
    ("mixer", "strands", "message"),
    [
        (
            HyenaConfig(l_max=4096),
            "one",
            "hyena layers .* whole sequences, of up to 4,096 tokens",
        ),
        (STRIPED_HYENA, "one", "hyena layers carry no state .* of up to 64 tokens"),
        (MAMBA_BIMAMBA, "one", "reads in both directions"),
        (AttentionConfig(n_heads=2, is_causal=False), "one", "reads in both directions"),
        (BiMambaConfig(), "one", "reads in both directions, .* as long as memory allows"),
        (MambaConfig(), "both", "reads in both directions"),
    ],
)
def test_models_without_a_state_say_so(mixer, strands, message):
    model = build(mixer, strands=strands)
    with pytest.raises(InputError, match=f"this model cannot be streamed: .*{message}"):
        model.stream(draw_ids())


def test_wrong_arguments_are_said():
    model = build(MambaConfig())
    with pytest.raises(InputError, match="chunk_tokens must be >= 1, got 0"):
        model.stream(draw_ids(), chunk_tokens=0)
    with pytest.raises(ValueError, match=r"must be \(B, L\) of integers, got \(20,\) torch.int64"):
        list(model.stream(draw_ids()[0]))
    with pytest.raises(ValueError, match="every piece must have 2 rows, got 3"):
        list(model.stream([draw_ids(2), draw_ids(3)]))


def test_the_longest_sequence():
    assert longest_sequence(ModelConfig(d_model=8, n_layers=1, mixer=HyenaConfig(l_max=9))) == 9
    assert longest_sequence(ModelConfig(d_model=8, n_layers=1)) is None
    hybrid = (HyenaConfig(l_max=9), HyenaConfig(l_max=7), MambaConfig())
    assert longest_sequence(ModelConfig(d_model=8, n_layers=3, layers=hybrid)) == 7
