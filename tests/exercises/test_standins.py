"""A stand-in gives what its exercise gives, and differs only where its docstring says so.

It is a student's `earlier` function while theirs does not pass, and everyone's while grading.
"""

import inspect
import math

import pytest
import torch

from autograder.judge import load_answer
from autograder.lessons import all_exercises
from coursekit.standins import LIBRARY, STANDINS

EXERCISES = all_exercises()
GRIDS = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
RATIOS = [1, 2, 3, 1 / 2, 1 / 3]


def both(name):
    """The stand-in and the reference of an exercise."""
    return STANDINS[name], load_answer(EXERCISES[name], EXERCISES[name].reference)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", [name for name in STANDINS if name in EXERCISES])
def test_signature_is_the_exercises(name):
    standin, reference = both(name)
    parameters = inspect.signature(reference).parameters.values()
    assert [(p.name, p.default) for p in inspect.signature(standin).parameters.values()] == [
        (p.name, p.default) for p in parameters
    ]


@pytest.mark.parametrize("dotted", [dotted for functions in LIBRARY.values() for dotted in functions])
def test_library_function_is_there(dotted):
    from coursekit.checks import _resolve

    assert _resolve(dotted) is not None, f"{dotted} names nothing: an answer that calls it would not be noticed"


# 02_anchors


@pytest.mark.parametrize("arguments", [(1,), (2,), (6,), (3, 0.1, 0.5)])
def test_linear_scales(arguments):
    standin, reference = both("linear_scales")
    torch.testing.assert_close(standin(*arguments), reference(*arguments))


@pytest.mark.parametrize("ratios", [RATIOS, [1, 2], [0.4], []], ids=str)
@pytest.mark.parametrize(
    "grids, scales, size",
    [
        (GRIDS, [(1 / columns, 1 / rows) for columns, rows in GRIDS], (640, 480)),
        (GRIDS[2:], [(s, s) for s in (0.2, 0.4, 0.6, 0.9)], (300, 500)),
        ([(3, 2)], [(0.3, 0.5)], (128, 96)),
        ([(4, 3), (1, 2)], [(0.9, 1.2), (0.1, 0.3)], (77, 33)),
    ],
    ids=["slides", "linear", "one level", "larger than the image"],
)
def test_ssd_anchors(grids, scales, size, ratios):
    standin, reference = both("ssd_anchors")
    arguments = (grids, scales, ratios, size)
    torch.testing.assert_close(standin(*arguments), reference(*arguments), rtol=1e-5, atol=1e-3)


# 04_losses


@pytest.mark.parametrize("sigma", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smooth_l1_loss(sigma, dtype):
    standin, reference = both("smooth_l1_loss")
    prediction, target = 8 * random(50, 4, dtype=dtype) - 4, random(50, 4, seed=1, dtype=dtype)
    torch.testing.assert_close(standin(prediction, target, sigma), reference(prediction, target, sigma))


def loss_inputs(positives, anchors=40, classes=3, dtype=torch.float64):
    """Random arguments of `ssd_loss`; `positives`: how many in each image."""
    images = len(positives)
    labels = torch.zeros(images, anchors, dtype=torch.int64)
    for row, count in zip(labels, positives):
        row[torch.randperm(anchors, generator=torch.Generator().manual_seed(count))[:count]] = 1 + count % classes
    logits = (4 * random(images, anchors, classes + 1, dtype=dtype)).requires_grad_()
    deltas = (3 * random(images, anchors, 4, seed=1, dtype=dtype)).requires_grad_()
    return logits, deltas, labels, 3 * random(images, anchors, 4, seed=2, dtype=dtype)


def losses_and_gradients(function, arguments, **named):
    losses = function(*arguments, **named)
    return [*losses, *torch.autograd.grad(sum(losses), arguments[:2])]


@pytest.mark.parametrize("positives, alpha", [((1,), 1.0), ((4, 1, 10), 1.0), ((7, 2), 0.25)])
def test_ssd_loss_where_negatives_are_plenty(positives, alpha):
    standin, reference = both("ssd_loss")
    arguments = loss_inputs(positives)
    ours, theirs = (losses_and_gradients(function, arguments, alpha=alpha) for function in (reference, standin))
    torch.testing.assert_close(theirs, ours)


def test_ssd_loss_differs_on_an_image_without_positives():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((4, 0))
    entropy = torch.nn.functional.cross_entropy(logits[1], labels[1], reduction="none")
    three_negatives = entropy.topk(3).values.sum() / 4
    ours, theirs = (function(logits, deltas, labels, targets) for function in (reference, standin))
    torch.testing.assert_close(ours[0] - theirs[0], three_negatives)
    torch.testing.assert_close(ours[1], theirs[1])


def test_ssd_loss_differs_where_negatives_are_too_few():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((4,), anchors=15)  # 12 negatives wanted, 11 there
    ours, theirs = (function(logits, deltas, labels, targets) for function in (reference, standin))
    entropy = torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="none")
    again = (theirs[0] - ours[0]) * 4
    assert torch.isclose(entropy[labels[0] > 0], again).any(), "one positive counts twice"
    torch.testing.assert_close(ours[1], theirs[1])


def test_ssd_loss_differs_on_an_ignored_anchor():
    standin, reference = both("ssd_loss")
    logits, deltas, labels, targets = loss_inputs((2,))
    background = labels.clone()
    ignored = labels.clone()
    ignored[0, (labels[0] == 0).nonzero()[5]] = -1
    torch.testing.assert_close(
        standin(logits, deltas, ignored, targets), standin(logits, deltas, background, targets)
    )
    logits = logits.detach().clone()
    logits[ignored == -1] = torch.tensor([-50.0, 50, 0, 0], dtype=logits.dtype)  # surely wrong, if it counted
    ours, theirs = (function(logits, deltas, ignored, targets) for function in (reference, standin))
    assert ours[0] < 20 < theirs[0] - ours[0]
    assert math.isclose(ours[1], theirs[1])
