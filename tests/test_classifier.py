"""Classifiers: pooling under padding, every family of models, files, strands."""

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dnamamba.configs import from_dict, to_dict
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
    no_weight_decay_names,
    preset,
)
from dnamamba.models.classifier import DnaClassifier, HeadConfig, Pool, pool_hidden
from dnamamba.models.presets import preset_names
from dnamamba.models.recompute import RECOMPUTE
from dnamamba.task import Task
from dnamamba.tokenizer import PAD_ID, reverse_complement
from dnamamba.training.optimizer import build_optimizer
from model_cases import MAMBA_ATTENTION, STRIPED_HYENA, of_mixer, tiny_model

APES = Task(labels=("bonobo", "gorilla", "human"))
MARKS = Task(kind="multilabel", labels=("H3K27ac", "H3K4me3"))
LEVELS = Task(kind="regression", labels=("liver", "brain"))
PARTS = Task(kind="per_base", labels=("exon", "intron", "utr"))
TASKS = [APES, MARKS, LEVELS, PARTS]

MIXERS = [
    MambaConfig(d_state=4),
    Mamba2Config(d_state=4, d_head=4, chunk_size=8),
    BiMambaConfig(d_state=4),
    S4Config(d_state=4),
    HyenaConfig(l_max=32, filter_order=8),
    AttentionConfig(n_heads=2),
    AttentionConfig(n_heads=2, is_causal=False),
    MAMBA_ATTENTION,
    STRIPED_HYENA,
]
LENGTHS = [5, 20, 1]
FAMILIES = [name for name in preset_names() if name.endswith("-demo")]


def build(mixer=None, head: HeadConfig | None = None, **changes) -> DnaClassifier:
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_layers=2, **of_mixer(mixer or MIXERS[2]), **changes)
    classifier = DnaClassifier(config, head or HeadConfig(task=APES))
    with torch.no_grad():
        # Far from its small initial values, so that wrong features would show.
        classifier.head.weight.mul_(50)
    return classifier


def draw_ids(batch: int = 3, seq_len: int = 20) -> Tensor:
    return torch.randint(7, 12, (batch, seq_len), generator=torch.Generator().manual_seed(1))


def turn(ids: Tensor) -> Tensor:
    return torch.from_numpy(reverse_complement(ids.numpy())).to(ids.dtype)


# --- pooling


@pytest.mark.parametrize("pool", get_args(Pool))
def test_pooling_is_that_of_each_row_alone(pool):
    hidden = torch.randn(3, 20, 4, dtype=torch.float64)
    found = pool_hidden(hidden, pool, torch.tensor(LENGTHS, dtype=torch.int32))
    for row, length in enumerate(LENGTHS):
        real = hidden[row, :length]
        expected = {"last": real[-1], "first": real[0], "mean": real.mean(0), "max": real.amax(0)}
        torch.testing.assert_close(found[row], expected[pool], rtol=0, atol=1e-14)
        torch.testing.assert_close(pool_hidden(real[None], pool)[0], expected[pool])


@pytest.mark.parametrize("pool", get_args(Pool))
def test_no_gradient_and_no_infinity_comes_from_padding(pool):
    hidden = torch.randn(3, 20, 4, dtype=torch.float64)
    lengths = torch.tensor(LENGTHS)
    padding = torch.arange(20) >= lengths.unsqueeze(1)
    hidden[padding] = torch.inf
    hidden.requires_grad_()
    pooled = pool_hidden(hidden, pool, lengths)
    pooled.sin().sum().backward()
    assert bool(pooled.isfinite().all())
    assert bool((hidden.grad[padding] == 0).all())
    assert bool(hidden.grad.isfinite().all())


def test_a_mean_over_many_positions_in_bfloat16_is_added_up_in_float32():
    hidden = torch.ones(1, 4096, 2, dtype=torch.bfloat16)
    for lengths, expected in ((None, 1.0), (torch.tensor([4095]), 1.0)):
        pooled = pool_hidden(hidden, "mean", lengths)
        assert pooled.dtype == torch.float32
        assert pooled.tolist() == [[expected, expected]]


@pytest.mark.parametrize(
    ("task", "pool"),
    [*((APES, pool) for pool in get_args(Pool)), (MARKS, "mean"), (LEVELS, "last"), (PARTS, None)],
)
@pytest.mark.parametrize("strands", ["one", "both"])
@pytest.mark.parametrize("mixer", MIXERS)
def test_padded_rows_score_as_each_row_alone(mixer, strands, task, pool):
    if pool == "first" and strands == "one":
        mixer = AttentionConfig(n_heads=2, is_causal=False)  # causal models are refused
    head = HeadConfig(task=task, pool=pool)
    classifier, ids = build(mixer, head, strands=strands).double(), draw_ids()
    lengths = torch.tensor(LENGTHS)
    ids[torch.arange(20) >= lengths.unsqueeze(1)] = PAD_ID
    scores, predicted = classifier(ids, lengths), classifier.predict(ids, lengths)
    assert scores.shape == ((3, 20, 3) if task is PARTS else (3, len(task.labels)))
    for row, length in enumerate(LENGTHS):
        alone = ids[row : row + 1, :length]
        used = slice(length) if task is PARTS else slice(None)
        exact = {"rtol": 0, "atol": 1e-10}
        torch.testing.assert_close(scores[row][used], classifier(alone)[0], **exact)
        torch.testing.assert_close(predicted[row][used], classifier.predict(alone)[0], **exact)


def test_the_pool_is_chosen_by_the_model():
    assert build(MambaConfig()).head_config.pool == "last"
    assert build(AttentionConfig(n_heads=2)).head_config.pool == "last"
    assert build(MambaConfig(), strands="both").head_config.pool == "mean"
    assert build(BiMambaConfig()).head_config.pool == "mean"
    assert build(MambaConfig(), HeadConfig(task=APES, pool="max")).head_config.pool == "max"
    assert build(BiMambaConfig(), HeadConfig(task=PARTS)).head_config.pool is None


def test_a_causal_model_is_asked_at_its_last_base_alone():
    """The Mamba paper's: nothing after the end, and everything before it."""
    classifier, ids = build(MambaConfig(d_state=4)), draw_ids(1)
    expected = classifier.head(classifier.model.embed(ids)[:, -1])
    torch.testing.assert_close(classifier(ids), expected)


# --- every family of models


@pytest.mark.parametrize("task", [APES, PARTS])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_all_that_wants_a_gradient(family, task):
    """DDP waits for the gradient of each."""
    torch.manual_seed(0)
    config = preset(family, 32)
    config = replace(config, n_layers=max(1, len(config.layers)))
    classifier, ids = DnaClassifier(config, HeadConfig(task=task)), draw_ids(2)
    gradients = []
    for recompute in RECOMPUTE:
        classifier.zero_grad()
        scores = classifier(ids, torch.tensor([20, 7]), recompute)
        assert scores.dtype == torch.float32
        scores.sin().sum().backward()
        wanted = [p for p in classifier.parameters() if p.requires_grad]
        gradients.append([p.grad.clone() for p in wanted])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_from_its_files(family, tmp_path):
    torch.manual_seed(0)
    config = preset(family, 32)
    config = replace(config, n_layers=max(1, len(config.layers)))
    classifier, ids = DnaClassifier(config, HeadConfig(task=MARKS)).eval(), draw_ids(2)
    classifier.save_pretrained(tmp_path)
    again = DnaClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(ids), classifier(ids))


def test_an_untied_head_of_logits_does_not_learn():
    classifier = build(tie_embeddings=False)
    classifier(draw_ids()).sum().backward()
    without = {name for name, p in classifier.named_parameters() if p.grad is None}
    assert without == {"model.lm_head.weight"}
    assert not classifier.model.lm_head.weight.requires_grad


def test_more_tokens_than_filters_were_made_for():
    with pytest.raises(InputError, match="l_max = 32"):
        build(HyenaConfig(l_max=32, filter_order=8))(draw_ids(1, 33))


# --- the head


def test_the_head_computes_in_float32_under_autocast():
    classifier, ids = build(), draw_ids()
    with torch.autocast("cpu", torch.bfloat16):
        features, scores = classifier.features(ids), classifier(ids)
        assert classifier.model.embed(ids).dtype == torch.bfloat16
    assert features.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(scores, classifier.head(features), rtol=0, atol=0)


def test_probabilities_and_numbers():
    ids = draw_ids()
    classes, labels = (build(head=HeadConfig(task=task)) for task in (APES, MARKS))
    torch.testing.assert_close(classes.predict(ids), classes(ids).softmax(1))
    torch.testing.assert_close(labels.predict(ids), labels(ids).sigmoid())
    parts = build(head=HeadConfig(task=PARTS)).predict(ids)
    torch.testing.assert_close(parts.sum(-1), torch.ones(3, 20))
    head = HeadConfig(task=LEVELS, target_means=(5.0, -1.0), target_scales=(2.0, 0.5))
    levels = build(head=head)
    numbers = levels(ids) * torch.tensor([2.0, 0.5]) + torch.tensor([5.0, -1.0])
    torch.testing.assert_close(levels.predict(ids), numbers)
    torch.testing.assert_close(levels.standardise(numbers), levels(ids))
    plain = build(head=HeadConfig(task=LEVELS))
    assert torch.equal(plain.predict(ids), plain(ids))


def test_dropout_is_for_training_and_never_for_predictions():
    classifier, ids = build(head=HeadConfig(task=APES, dropout=0.5)), draw_ids()
    assert not torch.equal(classifier(ids), classifier(ids))
    assert torch.equal(classifier.predict(ids), classifier.predict(ids))
    assert not classifier.predict(ids).requires_grad
    classifier.eval()
    assert torch.equal(classifier(ids), classifier(ids))


def test_a_new_head_knows_nothing():
    torch.manual_seed(0)
    classifier = DnaClassifier(preset("caduceus-ps-demo"), HeadConfig(task=APES))
    probabilities = classifier.predict(draw_ids(1, 200))
    torch.testing.assert_close(probabilities, torch.full((1, 3), 1 / 3), rtol=0, atol=0.05)


def test_a_frozen_backbone_stays_as_it_is():
    classifier, ids = build(), draw_ids()
    before = {name: p.clone() for name, p in classifier.model.state_dict().items()}
    classifier.freeze_backbone()
    names = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert names == {"head.weight", "head.bias"}
    optimizer = build_optimizer(
        classifier,
        learning_rate=0.1,
        weight_decay=0.1,
        betas=(0.9, 0.95),
        no_decay=no_weight_decay_names(classifier),
    )
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(classifier(ids), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    after = classifier.model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert classifier.head.bias.abs().min().item() > 0.01


def test_weight_decay_leaves_alone_what_it_leaves_alone_in_pretraining():
    classifier = build()
    own = no_weight_decay_names(classifier.model)
    assert no_weight_decay_names(classifier) == {"head.bias", *(f"model.{name}" for name in own)}


def test_a_head_fitted_elsewhere():
    classifier, ids = build(), draw_ids()
    weight, bias = np.ones((3, 8)), np.arange(3.0)
    classifier.set_head(weight, bias)
    expected = classifier.features(ids).sum(1, keepdim=True) + torch.arange(3.0)
    torch.testing.assert_close(classifier(ids), expected)
    with pytest.raises(ValueError, match=r"the head must be \(3, 8\), got \(8, 3\)"):
        classifier.set_head(weight.T, bias)


def test_a_head_that_reads_standardised_features(tmp_path):
    classifier, ids = build().eval(), draw_ids()
    features = classifier.features(ids)
    means, scales = np.arange(8.0), np.full(8, 0.25)
    classifier.scale_features(means, scales)
    seen = (features - torch.arange(8.0)) / 0.25
    expected = functional.linear(seen, classifier.head.weight, classifier.head.bias)
    torch.testing.assert_close(classifier(ids), expected)
    torch.testing.assert_close(classifier.features(ids), features)  # as they are

    classifier.save_pretrained(tmp_path)
    torch.testing.assert_close(DnaClassifier.from_pretrained(tmp_path)(ids), expected)
    assert "feature_means" not in dict(classifier.named_parameters())

    classifier.scale_features(means - 3, scales * 7, keeps_answers=True)
    torch.testing.assert_close(classifier(ids), expected)
    other = build().eval()
    assert other.adopt_head(classifier)
    torch.testing.assert_close(other(ids), expected)

    classifier.set_head(np.ones((3, 8)), np.zeros(3))  # fitted to raw features
    raw = features.sum(1, keepdim=True).expand(-1, 3)
    torch.testing.assert_close(classifier(ids), raw)


# --- strands


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("task", [APES, MARKS, LEVELS])
def test_both_strands_have_the_same_answer(task, pool):
    classifier = build(MambaConfig(d_state=4), HeadConfig(task=task, pool=pool), strands="both")
    ids = draw_ids()
    torch.testing.assert_close(classifier(turn(ids)), classifier(ids), rtol=0, atol=1e-5)
    one = build(MambaConfig(d_state=4), HeadConfig(task=task, pool=pool))
    assert (one(turn(ids)) - one(ids)).abs().max().item() > 0.01


def test_both_strands_have_the_same_labels_of_bases():
    classifier, ids = build(head=HeadConfig(task=PARTS), strands="both"), draw_ids()
    torch.testing.assert_close(classifier(turn(ids)), classifier(ids).flip(1), rtol=0, atol=1e-5)


def test_both_strands_of_padded_rows():
    classifier, ids = build(strands="both").double(), draw_ids()
    turned = ids.clone()
    for row, length in enumerate(LENGTHS):
        turned[row, :length] = turn(ids[row : row + 1, :length])[0]
    own, other = (classifier(x, torch.tensor(LENGTHS)) for x in (ids, turned))
    torch.testing.assert_close(other, own, rtol=0, atol=1e-12)


# --- files


@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_classifier_comes_back(tied, tmp_path):
    head = HeadConfig(
        task=LEVELS, target_means=(0.1, 1e9), target_scales=(1.0, 1e-3), trained_seq_len=1024
    )
    classifier = build(head=head, tie_embeddings=tied).eval()
    classifier.save_pretrained(tmp_path)
    again = DnaClassifier.from_pretrained(tmp_path)
    assert again.config == classifier.config
    assert again.head_config == replace(head, pool="mean")
    assert not again.training
    assert torch.equal(again.predict(draw_ids()), classifier.predict(draw_ids()))
    assert again.state_dict().keys() == classifier.state_dict().keys()


def test_the_other_kind_of_model_folder_is_told(tmp_path):
    classifier = build()
    classifier.save_pretrained(tmp_path / "classifier")
    classifier.model.save_pretrained(tmp_path / "language_model")
    with pytest.raises(InputError, match=r"is of a classifier: read it by DnaClassifier.from_pre"):
        DnaModel.from_pretrained(tmp_path / "classifier")
    with pytest.raises(InputError, match=r"has no head, so it is of a language model: put one on"):
        DnaClassifier.from_pretrained(tmp_path / "language_model")


def test_a_classifier_becomes_a_language_model_and_a_classifier_of_another_task(tmp_path):
    """A backbone that learned one task may start another."""
    first = build()
    first.model.save_pretrained(tmp_path)
    second = DnaClassifier.from_language_model(tmp_path, HeadConfig(task=MARKS))
    third = DnaClassifier.from_language_model(first.model, HeadConfig(task=MARKS))
    for other in (second, third):
        assert torch.equal(other.features(draw_ids()), first.features(draw_ids()))
        assert other.training


def test_a_pretrained_model_is_copied_and_its_own_head_still_learns():
    model = tiny_model(n_layers=1, tie_embeddings=False)
    classifier = DnaClassifier.from_language_model(model, HeadConfig(task=APES))
    torch.nn.init.zeros_(classifier.model.backbone.embedding.weight)
    assert model.backbone.embedding.weight.abs().max().item() > 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_of_float64_gives_a_classifier_of_float32():
    model = tiny_model(dtype=torch.float64)
    classifier = DnaClassifier.from_language_model(model, HeadConfig(task=APES))
    assert {p.dtype for p in classifier.parameters()} == {torch.float32}


def test_a_run_folder_stands_for_its_model(tmp_path):
    """Its config.json is the run's; weights and their config lie in model/."""
    classifier = build().eval()
    (tmp_path / "config.json").write_text('{"format_version": 1, "train": {}}')
    classifier.save_pretrained(tmp_path / "model")
    again = DnaClassifier.from_pretrained(tmp_path)
    assert torch.equal(again(draw_ids()), classifier(draw_ids()))
    classifier.model.save_pretrained(tmp_path / "model")
    DnaClassifier.from_language_model(tmp_path, HeadConfig(task=APES))


def test_files_that_do_not_fit_are_refused(tmp_path):
    build().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    saved["head"]["task"]["labels"].append("orangutan")
    path.write_text(json.dumps(saved))
    message = r"head.bias is \(3,\), expected \(4,\); head.weight is \(3, 8\), expected \(4, 8\)"
    with pytest.raises(InputError, match=message):
        DnaClassifier.from_pretrained(tmp_path)
    saved["head"]["poll"] = "mean"
    path.write_text(json.dumps(saved))
    with pytest.raises(InputError, match="HeadConfig: unknown setting 'poll'"):
        DnaClassifier.from_pretrained(tmp_path)
    path.write_text(json.dumps({**saved, "format_version": 3}))
    with pytest.raises(InputError, match="has format_version 3, this dnamamba reads 1 and 2"):
        DnaClassifier.from_pretrained(tmp_path)


# --- settings


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(task=APES, pool="last", dropout=0.1, trained_seq_len=1),
        HeadConfig(task=LEVELS, target_means=(0.0, 2.5), target_scales=(1.0, 3.0)),
        HeadConfig(task=PARTS),
    ],
)
def test_settings_survive_json(head):
    assert from_dict(HeadConfig, json.loads(json.dumps(to_dict(head)))) == head


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (APES, {"pool": "cls"}, "pool must be one of last, mean, first, max, got 'cls'"),
        (PARTS, {"pool": "mean"}, "a per_base task takes no pool, got 'mean'"),
        (APES, {"dropout": 1.0}, "dropout must be >= 0 and < 1, got 1.0"),
        (APES, {"dropout": math.nan}, "dropout must be >= 0 and < 1, got nan"),
        (APES, {"trained_seq_len": 0}, "trained_seq_len must be a whole number >= 1, got 0"),
        (APES, {"target_means": (0.0,) * 3, "target_scales": (1.0,) * 3}, "for a multiclass task"),
        (LEVELS, {"target_means": (0.0, 1.0)}, "its 2 numbers; got 2 and 0"),
        (
            LEVELS,
            {"target_means": (0.0, 1.0), "target_scales": (1.0, 0.0)},
            "target_scales must be finite and > 0",
        ),
        (
            LEVELS,
            {"target_means": (0.0, math.inf), "target_scales": (1.0, 1.0)},
            "target_means must be finite",
        ),
    ],
)
def test_wrong_settings_are_refused(task, settings, message):
    with pytest.raises(InputError, match=message):
        HeadConfig(task=task, **settings)


def test_the_first_base_of_a_causal_model_is_refused():
    with pytest.raises(InputError, match="pool 'first' of a causal model sees the first base"):
        build(MambaConfig(), HeadConfig(task=APES, pool="first"))


@pytest.mark.parametrize("call", ["forward", "features", "predict"])
def test_wrong_ids_and_lengths_are_refused(call):
    classifier = build()
    with pytest.raises(ValueError, match=r"token_ids must be \(B, L\) of integers"):
        getattr(classifier, call)(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="lengths must be from 1 to the 20 tokens of a row"):
        getattr(classifier, call)(draw_ids(), torch.tensor([1, 0, 3]))
