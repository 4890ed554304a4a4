"""The losses of classifiers, against torch's own functions."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dnamamba.classification.loss import LabelLoss, class_weights_of
from dnamamba.data.batches import Examples
from dnamamba.errors import InputError
from dnamamba.models import AttentionConfig, ModelConfig, language_model
from dnamamba.models.classifier import DnaClassifier, HeadConfig
from dnamamba.models.recompute import RECOMPUTE
from dnamamba.task import IGNORED_LABEL, Task
from dnamamba.tokenizer import PAD_ID, SOFT_MASK_BIT

APES = Task(labels=("bonobo", "gorilla", "human"))
MARKS = Task(kind="multilabel", labels=("H3K27ac", "H3K36me3", "H3K4me3"))
LEVELS = Task(kind="regression", labels=("liver", "brain"))
PARTS = Task(kind="per_base", labels=("exon", "intron", "utr"))
TASKS = [APES, MARKS, LEVELS, PARTS]
WEIGHTS = torch.tensor([0.5, 1.0, 4.0])


def build(task: Task, **settings) -> DnaClassifier:
    torch.manual_seed(0)
    config = ModelConfig(d_model=8, n_layers=1, mixer=AttentionConfig(n_heads=2, is_causal=False))
    classifier = DnaClassifier(config, HeadConfig(task=task, **settings))
    torch.nn.init.normal_(classifier.head.weight)
    return classifier


def draw(task: Task, batch: int = 4, seq_len: int = 12) -> Examples:
    """Codes with soft-masked bases and padding, and targets of the task's kind."""
    random = torch.Generator().manual_seed(2)
    codes = torch.randint(7, 12, (batch, seq_len), generator=random, dtype=torch.uint8)
    codes |= torch.randint(0, 2, codes.shape, generator=random, dtype=torch.uint8) * SOFT_MASK_BIT
    lengths = torch.arange(seq_len - batch + 1, seq_len + 1)
    padding = torch.arange(seq_len) >= lengths.unsqueeze(1)
    codes[padding] = PAD_ID
    n_labels = len(task.labels)
    if task.kind == "multiclass":
        targets = torch.randint(n_labels, (batch,), generator=random)
    elif task.kind == "per_base":
        targets = torch.randint(n_labels, codes.shape, generator=random)
        targets[padding] = targets[0, :3] = IGNORED_LABEL
    elif task.kind == "multilabel":
        targets = torch.randint(0, 2, (batch, n_labels), generator=random).float()
    else:
        targets = torch.randn(batch, n_labels, generator=random)
    return Examples(codes, lengths, targets)


def scores_of(classifier: DnaClassifier, examples: Examples) -> Tensor:
    return classifier((examples.codes & 0x0F).long(), examples.lengths)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("task", [APES, PARTS])
def test_cross_entropy_is_torchs_mean(task, weights):
    classifier, examples = build(task), draw(task)
    scores = scores_of(classifier, examples).flatten(0, -2)
    expected = functional.cross_entropy(scores, examples.targets.flatten(), weights)
    loss_sum, weight_sum = LabelLoss(classifier, weights)(examples)
    torch.testing.assert_close(loss_sum / weight_sum, expected)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_binary_cross_entropy_is_torchs_mean(weights):
    classifier, examples = build(MARKS), draw(MARKS)
    scores = scores_of(classifier, examples)
    expected = functional.binary_cross_entropy_with_logits(
        scores, examples.targets, pos_weight=weights
    )
    loss_sum, weight_sum = LabelLoss(classifier, weights)(examples)
    torch.testing.assert_close(loss_sum / weight_sum, expected)


def test_squared_error_is_of_standardised_numbers():
    settings = {"target_means": (3.0, -2.0), "target_scales": (2.0, 0.1)}
    classifier, examples = build(LEVELS, **settings), draw(LEVELS)
    standardised = (examples.targets - torch.tensor([3.0, -2.0])) / torch.tensor([2.0, 0.1])
    expected = functional.mse_loss(scores_of(classifier, examples), standardised)
    loss_sum, weight_sum = LabelLoss(classifier)(examples)
    torch.testing.assert_close(loss_sum / weight_sum, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_weights_are_known_before_and_parts_add_up_to_the_whole(task, weighted):
    weights = WEIGHTS if weighted and task is not LEVELS else None
    loss, examples = LabelLoss(build(task), weights), draw(task)
    whole = torch.stack(loss(examples))
    parts = [Examples(*(tensor[rows] for tensor in examples)) for rows in ([0], [1, 2, 3])]
    torch.testing.assert_close(sum(torch.stack(loss(part)) for part in parts), whole)
    assert torch.equal(loss.weight(examples), whole[1])
    assert whole.dtype == torch.float32
    assert whole.shape == (2,)


def test_without_class_weights_every_sequence_or_labelled_base_counts_once():
    for task in (APES, MARKS, LEVELS):
        assert float(LabelLoss(build(task)).weight(draw(task))) == 4
    examples = draw(PARTS)
    n_labelled = int((examples.targets != IGNORED_LABEL).sum())
    assert float(LabelLoss(build(PARTS)).weight(examples)) == n_labelled == 39


def test_bases_without_labels_alone_are_no_loss():
    loss, examples = LabelLoss(build(PARTS), WEIGHTS), draw(PARTS)
    loss_sum, weight_sum = loss(examples._replace(targets=examples.targets * 0 + IGNORED_LABEL))
    loss_sum.backward()
    assert (loss_sum.item(), weight_sum.item()) == (0, 0)
    assert all(bool((p.grad == 0).all()) for p in loss.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_case_and_what_is_in_the_padding_do_not_matter(task):
    loss, examples = LabelLoss(build(task)), draw(task)
    padding = torch.arange(12) >= examples.lengths.unsqueeze(1)
    other = torch.where(padding, 7, examples.codes & 0x0F)
    torch.testing.assert_close(loss(examples._replace(codes=other)), loss(examples))


@pytest.mark.parametrize("task", TASKS)
def test_gradients_are_those_of_the_loss(task):
    weights = None if task is LEVELS else WEIGHTS
    loss, examples = LabelLoss(build(task), weights).double(), draw(task)
    names = ["model.head.weight", "model.head.bias", "model.model.backbone.norm_f.weight"]
    given = [loss.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def run(*values: Tensor) -> Tensor:
        replaced = dict(zip(names, values, strict=True))
        loss_sum, weight_sum = torch.func.functional_call(loss, replaced, (examples,))
        return loss_sum / weight_sum

    assert torch.autograd.gradcheck(run, given)


@pytest.mark.parametrize("recompute", RECOMPUTE[1:])
def test_recomputing_changes_nothing(recompute):
    examples, classifier = draw(APES), build(APES)
    expected, found = (
        LabelLoss(classifier, None, way)(examples)[0] for way in ("nothing", recompute)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("task", TASKS)
def test_a_few_steps_lower_it(task):
    loss, examples = LabelLoss(build(task)), draw(task)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=0.02)
    values = []
    for _ in range(40):
        optimizer.zero_grad()
        loss_sum, weight_sum = loss(examples)
        (loss_sum / weight_sum).backward()
        optimizer.step()
        values.append((loss_sum / weight_sum).item())
    assert values[-1] < values[0] / 2


class _NoReading(TorchDispatchMode):
    """Refuses to make a Python number of a tensor."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "a value was read"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_no_value_is_read_in_python(task, weighted, monkeypatch):
    """A pass that is recorded as a CUDA graph cannot wait for one."""
    monkeypatch.setattr(language_model, "_check_lengths", lambda *_: None)  # on CPUs alone
    weights = WEIGHTS if weighted and task is not LEVELS else None
    loss, examples = LabelLoss(build(task), weights), draw(task)
    with _NoReading():
        loss_sum, weight_sum = loss(examples)
        (loss_sum / weight_sum).backward()
        with pytest.raises(AssertionError, match="a value was read"):
            loss_sum.item()


@pytest.mark.parametrize("task", TASKS)
def test_targets_of_another_task_are_refused(task):
    other = draw(MARKS if task.kind in ("multiclass", "per_base", "regression") else APES)
    with pytest.raises(ValueError, match=f"targets of a {task.kind} task must be "):
        LabelLoss(build(task))(other)


def test_class_weights_that_do_not_fit_are_refused():
    message = "class weights must be one finite number above 0 for each of the 3 labels"
    for wrong in ([1.0, 2.0], [1.0, 0.0, 1.0], [1.0, float("inf"), 1.0]):
        with pytest.raises(InputError, match=message):
            LabelLoss(build(APES), torch.tensor(wrong))
    with pytest.raises(InputError, match="a regression task has no classes"):
        LabelLoss(build(LEVELS), WEIGHTS)


def test_the_callers_class_weights_are_not_touched():
    weights = WEIGHTS.clone()
    LabelLoss(build(APES), weights).double()
    assert torch.equal(weights, WEIGHTS)
    assert weights.dtype == torch.float32


# --- class weights


def test_balanced_classes_count_the_same():
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = class_weights_of(targets, APES, "balanced")
    assert weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    torch.testing.assert_close(weights[targets].mean(), torch.tensor(1.0))
    assert torch.equal(class_weights_of(targets.numpy(), APES, "balanced"), weights)
    assert class_weights_of(targets, APES, "none") is None


def test_balanced_classes_of_bases_leave_out_bases_without_labels():
    targets = np.array([[0, 1, 2, IGNORED_LABEL], [0, IGNORED_LABEL, 0, 1]])
    weights = class_weights_of(targets, PARTS, "balanced")
    assert weights.tolist() == pytest.approx([6 / 9, 1.0, 2.0])


def test_balanced_labels_count_as_much_where_they_are_as_where_they_are_not():
    targets = np.array([[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]], np.float32)
    assert class_weights_of(targets, MARKS, "balanced").tolist() == [3.0, 1.0, 1.0]


def test_classes_that_cannot_be_balanced_are_refused():
    with pytest.raises(InputError, match="no training example of gorilla, so there is no weight"):
        class_weights_of(torch.tensor([0, 2]), APES, "balanced")
    with pytest.raises(InputError, match="a regression task has no classes to be balanced"):
        class_weights_of(torch.zeros(2, 2), LEVELS, "balanced")
