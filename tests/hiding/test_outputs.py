"""Outputs and targets of any shape in `observe`: loss, correctness and confidence against plain numpy."""

from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kakurenbo_hpc import Hiding
from kakurenbo_hpc.core.torchvision_compat import torchvision_models, transforms
from kakurenbo_hpc.errors import UserError

K = 8
CE = {"reduction": "none"}


def normal(*shape):
    return torch.randn(K, *shape, generator=torch.Generator().manual_seed(len(shape))) * 2


def classes(n, *shape):
    return torch.randint(n, (K, *shape), generator=torch.Generator().manual_seed(n))


def ignoring(target, value):
    """Return masks or sequences with ignored places; nothing is left of the last sample, all of the first."""
    target = target.clone()
    target[1:, ..., :2] = value
    target[-1] = value
    return target


def begun(method="kakurenbo", n=K, **changed):
    h = Hiding(method, n, **{"epochs": 3, "batch_size": K} | changed)
    h.begin_visible(0)
    list(h.batch_sampler)  # as a loader does
    return h


def observed(*args, method="kakurenbo", **given):
    """Return the ledger's rows in the order of the batch, after it was observed."""
    h = begun(method)
    ids = torch.from_numpy(h.ids.copy())
    share = h.observe(h.ids, *args, **given)
    ledger = h.state_dict()["ledger"]
    rows = {name: column[ids].numpy() for name, column in ledger.items()}
    finite = np.where(np.isfinite(rows["loss"]), rows["loss"], 0)
    assert share.item() == pytest.approx(finite.sum() / K, rel=1e-5)
    return rows


def softmax(logits):
    e = np.exp(logits - logits.max(0))
    return e / e.sum(0)


def judged(logits, target):
    """Return (correct, confidence) of one sample: logits (C, P), target (P,); P places, or one class."""
    p = softmax(logits.astype(np.float64))
    valid = (target >= 0) & (target < len(p))
    if not valid.any():
        return False, np.nan
    predicted, target = p.argmax(0)[valid], target[valid]
    each = []
    for c in set(predicted) | set(target):
        each.append(((predicted == c) & (target == c)).sum() / ((predicted == c) | (target == c)).sum())
    return np.mean(each) >= 0.7, p.max(0)[valid].mean()


def expected(logits, target):
    """Return (correct, confidence), (k,) each: logits (k, C, ...), target (k, ...)."""
    n = logits.shape[1]
    pairs = [
        judged(one.reshape(n, -1).numpy(), t.reshape(-1).numpy())
        for one, t in zip(logits, target, strict=True)
    ]
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


def mean_over(losses, valid):
    """Return the mean of each sample's losses where valid; NaN where nowhere."""
    return np.array(
        [one[v].mean() if v.any() else np.nan for one, v in zip(losses.numpy(), valid.numpy(), strict=True)]
    )


# name: (losses, output, target, logits and classes that the oracle reads, losses (k,) that it expects)
def one_logit(logit, target):
    losses = F.binary_cross_entropy_with_logits(logit, target.float().view(logit.shape), **CE)
    x = logit.reshape(K)
    two = torch.stack([torch.zeros(K), x], 1)
    return losses, logit, target, two, (target.reshape(K) > 0.5).long(), losses.reshape(K).numpy()


def one_class(output, target, logits=None):
    logits = output if logits is None else logits
    losses = F.cross_entropy(logits, target, **CE)
    hard = target.argmax(1) if target.dim() > 1 else target
    return losses, output, target, logits, hard, losses.numpy()


def places(logits, target, output=None, losses=None, ignored=-100):
    if losses is None:
        losses = F.cross_entropy(logits, target, ignore_index=ignored, **CE)
    valid = target != ignored
    clean = torch.where(valid, target, -1)
    output = logits if output is None else output
    return losses, output, target, logits, clean, mean_over(losses, valid)


def smoothed(n, eps=0.1):
    return F.one_hot(classes(n), n) * (1 - eps) + eps / n


def pixel_logit():
    x, target = normal(4, 5), ignoring(classes(2, 4, 5), 255)
    losses = F.binary_cross_entropy_with_logits(x, target.float().clamp(max=1), **CE)
    two = torch.stack([torch.zeros_like(x), x], 1)
    wanted = places(two, target, losses=losses, ignored=255)
    return losses[:, None], x[:, None], target[:, None].float(), *wanted[3:]


TOKENS = ignoring(classes(3, 6), -100)
MASKS = ignoring(classes(21, 6, 5) * (classes(4, 6, 5) == 0), 255)
NEAR = normal(21, 6, 5) + 8 * F.one_hot(MASKS.clamp(max=20), 21).movedim(-1, 1)
UNDERSTOOD = {
    "one logit (k, 1), floats (k, 1)": one_logit(normal(1), classes(2, 1).float()),
    "one logit (k,), integers (k,)": one_logit(normal(), classes(2)),
    "one logit (k, 1), booleans (k,)": one_logit(normal(1), classes(2).bool()),
    "one logit, smoothed": one_logit(normal(1), classes(2, 1) * 0.9 + 0.05),
    "one logit, distilled": one_logit(normal(1), torch.sigmoid(normal())),
    "one logit a pixel": pixel_logit(),
    "smoothed": one_class(normal(5), smoothed(5)),
    "smoothed, as many classes as samples": one_class(normal(K), smoothed(K)),
    "smoothed, two classes": one_class(normal(2), smoothed(2)),
    "distilled": one_class(normal(5), normal(5).flip(1).softmax(1)),
    "distilled, three classes": one_class(normal(3), normal(3).flip(1).softmax(1)),
    "distilled, two classes": one_class(normal(2), normal(2).flip(1).softmax(1)),
    "one-hot": one_class(normal(4), F.one_hot(classes(4), 4).float()),
    "bytes": (lambda case: (*case[:2], case[2].byte(), *case[3:]))(one_class(normal(4), classes(4))),
    "Hugging Face's output": one_class(SimpleNamespace(logits=normal(5)), classes(5), normal(5)),
    "GoogLeNet's output": one_class(
        torchvision_models().GoogLeNetOutputs(normal(5), None, None), classes(5), normal(5)
    ),
    "tokens (k, C, T)": places(normal(3, 6), TOKENS),
    "tokens (k, T, C)": places(normal(3, 6), TOKENS, normal(3, 6).movedim(1, 2).contiguous()),
    "tokens of length 1": places(normal(3, 1), classes(3, 1), normal(3, 1).movedim(1, 2).contiguous()),
    "masks": places(NEAR, MASKS, ignored=255),
    "masks with a channel": (lambda case: (*case[:2], MASKS[:, None], *case[3:]))(
        places(NEAR, MASKS, ignored=255)
    ),
    "torchvision's masks": places(NEAR, MASKS, OrderedDict(out=NEAR, aux=NEAR), ignored=255),
    "nearly all of one class": places(normal(21, 6, 5), MASKS, ignored=255),
}


@pytest.mark.parametrize("what", UNDERSTOOD)
def test_outputs_and_targets_are_read_as_their_users_mean_them(what):
    losses, output, target, logits, hard, loss = UNDERSTOOD[what]
    rows = observed(losses, output, target)
    correct, confidence = expected(logits, hard)
    np.testing.assert_allclose(rows["loss"], loss, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(rows["correct"], correct)
    np.testing.assert_allclose(rows["confidence"], confidence, rtol=1e-5)


def test_positives_of_one_logit_are_right_too():
    logit = torch.tensor([9.0, -9, 9, -9, 0.1, -0.1, 9, -9])[:, None]
    target = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 0])[:, None]
    rows = observed(F.binary_cross_entropy_with_logits(logit, target, **CE), logit, target)
    assert rows["correct"].tolist() == [True, True, False, False, True, True, True, True]
    assert rows["confidence"][4] == pytest.approx(1 / (1 + np.exp(-0.1)))


def test_a_class_may_be_ignored():
    target, logits = classes(3, 6), normal(3, 6)
    target[:, 0], target[2] = 0, 0
    losses = F.cross_entropy(logits, target, ignore_index=0, **CE)
    rows = observed(losses, logits, target, ignore_index=0)
    correct, confidence = expected(logits, torch.where(target == 0, -1, target))
    np.testing.assert_allclose(rows["loss"], mean_over(losses, target != 0), rtol=1e-5)
    np.testing.assert_array_equal(rows["correct"], correct)
    np.testing.assert_allclose(rows["confidence"], confidence, rtol=1e-5)
    assert np.isnan(rows["loss"][2])


def test_what_is_ignored_has_no_gradient():
    h, logits = begun(), NEAR.clone().requires_grad_()
    losses = F.cross_entropy(logits, MASKS, ignore_index=255, **CE)
    h.observe(h.ids, losses, logits, MASKS).backward()
    assert logits.grad.isfinite().all() and not logits.grad[-1].any() and logits.grad[0].any()


@pytest.mark.parametrize(
    ("method", "options"), [("spv", {}), ("sample_importance", {"level": "class", "metric": "el2n"})]
)
@pytest.mark.parametrize("target", [MASKS, classes(21).index_fill(0, torch.tensor([3]), 255)])
def test_methods_that_look_closer_leave_out_what_is_ignored(method, options, target):
    h = begun(method, **options)
    logits = NEAR if target.dim() > 1 else normal(21)
    ids = h.ids.copy()
    h.observe(h.ids, F.cross_entropy(logits, target, ignore_index=255, **CE), logits, target)
    ledger = h.state_dict()["ledger"]
    name = "extra_probability" if method == "spv" else "extra_el2n"
    p = np.moveaxis(softmax(np.moveaxis(logits.double().numpy(), 1, 0)), 0, -1).reshape(K, -1, 21)
    for i, labels in zip(ids, target.reshape(K, -1).numpy(), strict=True):
        valid = labels != 255
        q, y = p[list(ids).index(i)][valid], labels[valid]
        each = q[np.arange(len(y)), y] if method == "spv" else np.linalg.norm(q - np.eye(21)[y], axis=1)
        wanted = each.mean() if len(y) else np.nan
        assert ledger[name][i].item() == pytest.approx(wanted, rel=1e-4, nan_ok=True)
    h.begin_visible(1)
    list(h.batch_sampler)  # as a loader does


# Mixed batches, several labels, and other tasks

MIXED = {
    "mixup": lambda: transforms().MixUp(num_classes=5)(normal(3, 4, 4), classes(5))[1],
    "cutmix": lambda: transforms().CutMix(num_classes=5)(normal(3, 4, 4), classes(5))[1],
    "mixup of three classes": lambda: transforms().MixUp(num_classes=3)(normal(3, 4, 4), classes(3))[1],
    "mixup of two classes": lambda: transforms().MixUp(num_classes=2)(normal(3, 4, 4), classes(2))[1],
    "smoothed mixup": lambda: 0.3 * smoothed(5) + 0.7 * smoothed(5).roll(1, 0),
    "several labels": lambda: (normal(5) > 0).float(),
    "several labels, integers": lambda: (normal(5) > 0).long(),
    "a regression": lambda: normal(5),
    "a regression of one number": lambda: normal(1),
}


@pytest.mark.parametrize("what", MIXED)
def test_mixed_targets_are_refused_unless_the_loop_judges_them(what):
    torch.manual_seed(1)
    target = MIXED[what]()
    logits, losses = normal(target.shape[1]), torch.rand(K)
    with pytest.raises(
        UserError, match=r"batch 0 of epoch 0 are mixed .*correct= and confidence="
    ) as problem:
        observed(losses, logits, target)
    assert "\n" not in str(problem.value)
    correct, confidence = np.arange(K) % 2 == 0, np.linspace(0, 1, K, dtype=np.float32)
    rows = observed(losses, logits, target, correct=correct, confidence=confidence.tolist())
    np.testing.assert_array_equal(rows["correct"], correct)
    np.testing.assert_array_equal(rows["confidence"], confidence)
    np.testing.assert_array_equal(rows["loss"], losses)


def test_a_mixed_batch_later_in_the_epoch_is_noticed():
    h = begun(n=2 * K)
    logits, target = normal(5), smoothed(5)
    h.observe(h.ids, F.cross_entropy(logits, target, **CE), logits, target)
    target = 0.3 * target + 0.7 * target.roll(1, 0)
    with pytest.raises(UserError, match="batch 1 of epoch 0 are mixed"):
        h.observe(h.ids, F.cross_entropy(logits, target, **CE), logits, target)


def test_any_other_task_says_what_is_correct():
    losses, correct = torch.rand(K, 3), torch.arange(K) > 3
    rows = observed(losses, correct=correct, confidence=correct.float())
    np.testing.assert_allclose(rows["loss"], losses.numpy().mean(1), rtol=1e-6)
    np.testing.assert_array_equal(rows["correct"], correct)


def test_what_a_loop_judges_itself_stands_beside_what_is_computed():
    losses, output, target, logits, hard, _ = UNDERSTOOD["masks"]
    rows = observed(losses, output, target, correct=torch.ones(K, dtype=torch.bool))
    assert rows["correct"].all()
    np.testing.assert_allclose(rows["confidence"], expected(logits, hard)[1], rtol=1e-5)


def test_sequences_as_long_as_there_are_classes_are_read_as_those_before():
    h = begun(n=2 * K)
    for length in (6, 3):
        logits, target = normal(length, 3), classes(3, length)
        ids = h.ids.copy()
        h.observe(h.ids, F.cross_entropy(logits.movedim(2, 1), target, **CE), logits, target)
    rows = h.state_dict()["ledger"]["confidence"][torch.from_numpy(ids)]
    np.testing.assert_allclose(rows, expected(logits.movedim(2, 1), target)[1], rtol=1e-5)


ONES = torch.ones(K)
REFUSED = {
    "a plain tuple": ((ONES, (normal(5), normal(5)), classes(5)), {}, r"type tuple .*such as output\[0\]"),
    "an output without logits": (
        (ONES, SimpleNamespace(hidden=normal(5)), classes(5)),
        {},
        "type SimpleNamespace .*whose logits are not known",
    ),
    "targets in a list": ((ONES, normal(5), [1] * K), {}, "a target of type list"),
    "classes as floats": (
        (ONES, normal(5), classes(5).float()),
        {},
        r"targets \(8,\) of type float32.*integer",
    ),
    "masks of another size": (
        (ONES, normal(3, 4, 4), classes(3, 8, 8)),
        {},
        r"logits \(8, 3, 4, 4\) and targets",
    ),
    "flattened tokens": (
        (ONES, normal(3, 6).reshape(-1, 3), classes(3, 6).reshape(-1)),
        {},
        "one row a sample",
    ),
    "sequences that fit both ways": ((ONES, normal(6, 6), classes(6, 6)), {}, r"may be \(k, C, T\) or"),
    "shifted losses": (
        (torch.ones(K, 5), normal(6, 9), classes(9, 6)),
        {},
        r"losses \(8, 5\), but targets \(8, 6\)",
    ),
    "nothing but losses": ((ONES,), {}, "no logits or no target .*give both, or correct="),
    "half of a judgement": ((ONES,), {"correct": ONES}, "no logits or no target"),
    "a judgement of another shape": (
        (ONES,),
        {"correct": torch.ones(K, 1), "confidence": ONES},
        r"correct of shape \(8, 1\).*one value a sample",
    ),
    "a judgement where more is needed": (
        (ONES,),
        {"correct": ONES, "confidence": ONES, "method": "spv"},
        "the method computes probability from them",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_understood_is_refused_in_one_line(what):
    args, given, message = REFUSED[what]
    with pytest.raises(UserError, match=message) as problem:
        observed(*args, **given)
    assert "\n" not in str(problem.value)
