"""The references of lesson 11 beside torchvision's focal loss, RetinaNet head, losses and box decoding."""

import pytest
import torch
from torchvision.models.detection import retinanet
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import sigmoid_focal_loss

from autograder.judge import load_answer
from autograder.lessons import all_exercises

EXERCISES = all_exercises()


def reference(name):
    return load_answer(EXERCISES[name], EXERCISES[name].reference)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.75, 1.0), (0.5, 0.0), (0.1, 5.0)])
def test_focal_loss_is_torchvisions_to_2e_7(alpha, gamma):
    focal_loss = reference("focal_loss")
    logits, targets = 3 * random(2, 500, 6), (random(2, 500, 6, seed=1) > 1.5).float()
    theirs = sigmoid_focal_loss(logits, targets, alpha, gamma)
    torch.testing.assert_close(focal_loss(logits, targets, alpha, gamma), theirs, rtol=2e-6, atol=2e-7)


def test_balanced_cross_entropy_is_torchvisions_focal_loss_with_gamma_0():
    balanced = reference("balanced_cross_entropy")
    logits, targets = 3 * random(2, 500, 6), (random(2, 500, 6, seed=1) > 1.5).float()
    for alpha in (0.25, 0.9):
        theirs = sigmoid_focal_loss(logits, targets, alpha, 0.0)
        torch.testing.assert_close(balanced(logits, targets, alpha), theirs, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_and_its_slope_are_finite_at_50(gamma):
    focal_loss = reference("focal_loss")
    logits = torch.tensor([50.0, -50.0, 50.0, -50.0], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]), 0.25, gamma)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.0, 37.5, 12.5]))
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([0.0, 0.0, 0.75, -0.25]), rtol=1e-5, atol=1e-5)


def batch(counts=(5, 3), anchors=40, classes=6):
    """Objects of two images, each anchor's object (-1 background, -2 ignored), and the same as labels and offsets."""
    truths, matches = [], []
    for image, count in enumerate(counts):
        corners = 60 * random(count, 2, seed=image).abs()
        boxes = torch.cat([corners, corners + 5 + 20 * random(count, 2, seed=9 + image).abs()], 1)
        labels = torch.arange(count) % classes
        truths.append({"boxes": boxes, "labels": labels})
        dice = torch.Generator().manual_seed(image)
        matches.append(torch.randint(-2, count, (anchors,), generator=dice) if count else torch.full((anchors,), -1))
        matches[-1][::3] = -1
    corners = 60 * random(anchors, 2, seed=5).abs()
    boxes = torch.cat([corners, corners + 8 + 10 * random(anchors, 2, seed=6).abs()], 1)
    return truths, matches, boxes


def course_targets(truths, matches, anchors, weights):
    labels, deltas = [], []
    for truth, match in zip(truths, matches):
        found = match >= 0
        label = torch.where(match == -2, -1, 0)
        label[found] = truth["labels"][match[found]] + 1
        delta = torch.zeros_like(anchors)
        delta[found] = BoxCoder(weights).encode_single(truth["boxes"][match[found]], anchors[found])
        labels.append(label)
        deltas.append(delta)
    return torch.stack(labels), torch.stack(deltas)


def test_retinanet_loss_of_one_image_is_torchvisions_with_smooth_l1():
    retinanet_loss, weights = reference("retinanet_loss"), (10.0, 10.0, 5.0, 5.0)
    head = retinanet.RetinaNetHead(8, 1, 6)
    head.regression_head.box_coder, head.regression_head._loss_type = BoxCoder(weights), "smooth_l1"
    truths, matches, anchors = batch()
    logits, offsets = 2 * random(2, 40, 6), random(2, 40, 4, seed=3)
    labels, deltas = course_targets(truths, matches, anchors, weights)
    both = []
    for i in range(2):
        outputs = {"cls_logits": logits[i : i + 1], "bbox_regression": offsets[i : i + 1]}
        theirs = head.compute_loss(truths[i : i + 1], outputs, [anchors], matches[i : i + 1])
        ours = retinanet_loss(logits[i : i + 1], offsets[i : i + 1], labels[i : i + 1], deltas[i : i + 1])
        torch.testing.assert_close(list(ours), list(theirs.values()))
        both.append(ours)
    # of two images torchvision gives the mean, the course divides by the positives of both
    outputs = {"cls_logits": logits, "bbox_regression": offsets}
    theirs = head.compute_loss(truths, outputs, [anchors] * 2, matches)
    torch.testing.assert_close([sum(pair) / 2 for pair in zip(*both)], list(theirs.values()))
    positives = (labels > 0).sum(1)
    weighted = [sum(n * one for n, one in zip(positives, pair)) / positives.sum() for pair in zip(*both)]
    torch.testing.assert_close(list(retinanet_loss(logits, offsets, labels, deltas)), weighted)


def test_retinanet_of_the_course_is_torchvisions_on_random_weights():
    """Head and decoding over five uneven levels, batch 2: same rows, same boxes and scores."""
    torch.manual_seed(0)
    RetinaNetHead, decode_boxes = reference("RetinaNetHead"), reference("decode_boxes")
    theirs, ours = retinanet.RetinaNetHead(16, 9, 7), RetinaNetHead(16, 9, 7)
    state = {name: weight + 0.05 * torch.randn_like(weight) for name, weight in theirs.state_dict().items()}
    theirs.load_state_dict(state)
    ours.load_state_dict(dict(zip(ours.state_dict(), state.values(), strict=True)))
    sizes = [(13, 17), (7, 9), (4, 5), (2, 3), (1, 2)]
    features = [torch.randn(2, 16, *size) for size in sizes]
    with torch.no_grad():
        found, outputs = ours(features), theirs(features)
    torch.testing.assert_close(found[0], outputs["cls_logits"], rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], outputs["bbox_regression"], rtol=0, atol=1e-6)

    generator = AnchorGenerator(tuple((s, s * 1.26, s * 1.59) for s in (32, 64, 128, 256, 512)), ((0.5, 1.0, 2.0),) * 5)
    strides = [[torch.tensor(2**level)] * 2 for level in range(3, 8)]
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    anchors = torch.cat(generator.grid_anchors([list(size) for size in sizes], strides))
    assert len(anchors) == found[1].shape[1]
    boxes = decode_boxes(10 * found[1][0], anchors, (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(boxes, theirs.regression_head.box_coder.decode_single(10 * found[1][0], anchors))


def test_course_head_begins_as_torchvisions_does():
    torch.manual_seed(0)
    theirs, ours = retinanet.RetinaNetHead(64, 3, 6), reference("RetinaNetHead")(64, 3, 6)
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one.mean(), other.mean(), rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(one.std(), other.std(), rtol=0.1, atol=1e-6)
