"""The references of lesson 06 beside torchvision, and beside plain loops that share nothing with them."""

import math

import pytest
import torch
import torchvision

from autograder.judge import load_answer
from autograder.lessons import all_exercises

EXERCISES = all_exercises()
nms, batched_nms, soft_nms = (
    load_answer(EXERCISES[name], EXERCISES[name].reference) for name in ("nms", "batched_nms", "soft_nms")
)


def case(seed, dtype=torch.float32):
    """0 to 79 boxes that overlap a lot, scores with many ties in every other case, three classes."""
    dice = torch.Generator().manual_seed(seed)
    count = int(torch.randint(0, 80, (1,), generator=dice))
    corners = 60 * torch.rand(count, 2, generator=dice, dtype=torch.float64) - 20
    sides = 2 + 40 * torch.rand(count, 2, generator=dice, dtype=torch.float64)
    scores = torch.rand(count, generator=dice, dtype=torch.float64)
    if seed % 2:
        scores = (5 * scores).floor() / 5
    labels = torch.randint(1, 4, (count,), generator=dice)
    return torch.cat([corners, corners + sides], 1).to(dtype), scores.to(dtype), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nms_is_torchvisions_in_200_random_cases_with_ties(dtype):
    removed = 0
    for seed in range(200):
        boxes, scores, _ = case(seed, dtype)
        for threshold in (0.3, 0.5, 0.7):
            ours = nms(boxes, scores, threshold)
            assert torch.equal(ours, torchvision.ops.nms(boxes, scores, threshold)), (seed, threshold)
            removed += len(boxes) - len(ours)
    assert removed > 1000


def test_nms_is_torchvisions_on_whole_pixels_where_the_iou_equals_the_threshold():
    met = 0
    for seed in range(100):
        dice = torch.Generator().manual_seed(seed)
        boxes = 4.0 * torch.randint(0, 6, (40, 4), generator=dice)
        boxes[:, 2:] += boxes[:, :2] + 4
        scores = torch.randint(0, 4, (40,), generator=dice) / 4
        met += int((torchvision.ops.box_iou(boxes, boxes) == 0.5).sum())
        assert torch.equal(nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5)), seed
    assert met > 1000


def test_batched_nms_is_nms_of_each_class_in_200_random_cases():
    trick_differs = 0
    for seed in range(200):
        boxes, scores, labels = case(seed)
        boxes = boxes - 40
        ours = batched_nms(boxes, scores, labels, 0.4)
        kept = []
        for label in (1, 2, 3):
            rows = (labels == label).nonzero().flatten()
            kept += rows[torchvision.ops.nms(boxes[rows], scores[rows], 0.4)].tolist()
        assert ours.tolist() == sorted(kept, key=lambda i: (-scores[i].item(), i)), seed
        moved = boxes + (labels * (boxes.max() + 1 if len(boxes) else 0))[:, None]
        trick_differs += not torch.equal(ours, torchvision.ops.nms(moved, scores, 0.4))
    assert trick_differs > 0, "the cases do not show where moving the classes apart goes wrong"


def plain_soft(boxes, scores, sigma, least):
    boxes, now = boxes.tolist(), dict(enumerate(scores.tolist()))
    picked = []
    while now:
        best = min(now, key=lambda i: (-now[i], i))
        picked.append((best, now.pop(best)))
        ax, ay, bx, by = boxes[best]
        for i in now:
            cx, cy, dx, dy = boxes[i]
            shared = max(0, min(bx, dx) - max(ax, cx)) * max(0, min(by, dy) - max(ay, cy))
            iou = shared / ((bx - ax) * (by - ay) + (dx - cx) * (dy - cy) - shared)
            now[i] *= math.exp(-iou * iou / sigma)
    return [(i, score) for i, score in picked if score >= least]


@pytest.mark.parametrize("sigma, least", [(0.5, 0.001), (0.3, 0.05), (0.1, 0.0)])
def test_soft_nms_is_a_plain_loop_in_200_random_cases(sigma, least):
    for seed in range(200):
        boxes, scores, _ = case(seed, torch.float64)
        expected = plain_soft(boxes, scores, sigma, least)
        picked, decayed = soft_nms(boxes, scores, sigma, least)
        assert picked.tolist() == [i for i, _ in expected], seed
        torch.testing.assert_close(decayed, torch.tensor([score for _, score in expected], dtype=torch.float64))


def test_soft_nms_with_a_tiny_sigma_keeps_the_scores_of_what_nms_at_0_keeps():
    for seed in range(50):
        boxes, scores, _ = case(2 * seed, torch.float64)
        picked, decayed = soft_nms(boxes, scores, 1e-12, 0.0)
        kept = nms(boxes, scores, 0.0)
        assert torch.equal(picked[: len(kept)], kept)
        torch.testing.assert_close(decayed[: len(kept)], scores[kept])
