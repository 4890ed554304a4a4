"""Options that embed, score and predict share: defaults by device, refused values."""

import pytest
import torch

from dnamamba.errors import InputError
from dnamamba.inference.batching import map_in_batches
from dnamamba.inference.likelihood import log_probabilities, stream_log_probabilities
from dnamamba.inference.options import InferenceOptions
from dnamamba.inference.windows import why_too_long
from dnamamba.models import DnaModel, HyenaConfig, ModelConfig
from dnamamba.tokenizer import encode

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("given", "device", "batch", "chunk"),
    [
        ({}, CPU, 1 << 16, 1 << 16),
        ({}, GPU, 1 << 20, 1 << 20),
        ({"batch_tokens": 100}, CPU, 100, 1 << 16),
        ({"batch_tokens": 1 << 18}, CPU, 1 << 18, 1 << 18),
        ({"batch_tokens": 100, "chunk_tokens": 7}, GPU, 100, 7),
    ],
)
def test_sizes_default_to_what_suits_the_device(given, device, batch, chunk):
    options = InferenceOptions(**given)
    assert options.tokens_in_batch(device) == batch
    assert options.tokens_in_chunk(device) == chunk


def test_autocast_is_on_only_with_a_dtype():
    for dtype, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with InferenceOptions(autocast_dtype=dtype).autocast(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected


def test_likelihoods_refuse_an_average_of_strands():
    model = DnaModel(ModelConfig(d_model=8, n_layers=1))
    options = InferenceOptions(rc="average")
    for read in (log_probabilities, stream_log_probabilities):
        with pytest.raises(InputError, match="rc must be one of none, got 'average'"):
            list(read(model, [encode("ACGT")], options))


def test_a_sequence_is_too_long_beyond_the_filters_of_a_hyena():
    hyena = ModelConfig(d_model=8, n_layers=1, mixer=HyenaConfig(l_max=1024))
    assert why_too_long(hyena, 1024) is None
    assert why_too_long(ModelConfig(d_model=8, n_layers=1), 1 << 30) is None
    assert why_too_long(hyena, 1025) == (
        "1,025 bases are more than the 1,024 that this model's filters were made for"
    )


def test_results_of_batches_are_in_the_order_of_the_sequences():
    sequences = [encode("A" * length) for length in (3, 9, 1, 4, 9, 2)]
    batches = []

    def read(batch):
        batches.append([len(one) for one in batch])
        return [len(one) for one in batch]

    assert map_in_batches(sequences, read, 10) == [3, 9, 1, 4, 9, 2]
    assert batches == [[9], [9], [4, 3], [2, 1]]
    with pytest.raises(InputError, match="must have 1 base or more"):
        map_in_batches([encode("")], read, 10)
