# %% setup=true
import math

import torch

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

box_iou = earlier("box_iou")

# %% exercise="nms"
def nms(boxes, scores, iou_threshold):
    """The boxes that non-maximum suppression leaves: no two of them overlap by more than the threshold.

    Source: the slides' algorithm 11.12.1 with soft_NMS = False; a box goes if its IoU is *above* the threshold.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        scores (Tensor[N]): of any size and sign; only their order counts.
        iou_threshold (float): a box that overlaps a better, kept one by more than this is removed.

    Returns:
        Tensor[K]: int64, indices into `boxes`, best score first; of equal scores the smaller index first.
    """
    ### BEGIN SOLUTION
    order = scores.argsort(descending=True, stable=True)  # [N]
    iou = box_iou(boxes, boxes)  # [N, N]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[iou[best, order] <= iou_threshold]
    return torch.stack(kept) if kept else order
    ### END SOLUTION


# %% check="nms" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores = torch.tensor([0.8, 0.9, 0.6, 0.7])
same(nms(boxes, scores, 0.5), [1, 3, 2],
     "box 1 removes box 0; box 3 overlaps box 0 by 0.6, but box 0 is gone, and box 1 by 1/3 only")
untouched(nms, boxes.clone(), scores.clone(), 0.5)
same(nms(boxes, scores, 0.25), torch.tensor([1, 2]),
     "with a threshold of 0.25 box 3 goes too; indices are a tensor of int64")
same(nms(boxes, scores, 0.75), [1, 0, 3, 2], "with a threshold of 0.75 all four stay, best first")
halves = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
same(nms(halves, torch.tensor([0.4, 0.3]), 0.5), [0, 1], "an IoU of exactly 0.5 is not more than 0.5: both stay")
same(nms(torch.zeros(0, 4), torch.zeros(0), 0.5), torch.zeros(0, dtype=torch.int64),
     "no boxes: an empty tensor of int64")
### BEGIN HIDDEN TESTS
def plain_nms(boxes, scores, threshold):
    """The same, one box at a time."""
    iou, ranks = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


dice = torch.Generator().manual_seed(6)
corners = torch.rand(120, 2, generator=dice) * torch.tensor([90.0, 50]) - 20
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(120, 2, generator=dice)], 1)
ranks = torch.rand(120, generator=dice)
for limit in (0.0, 0.2, 0.45, 0.7, 0.9):
    same(nms(crowd, ranks, limit), plain_nms(crowd, ranks, limit),
         f"120 random boxes, float32, threshold {limit}")
same(nms(crowd.double(), ranks.double(), 0.4), plain_nms(crowd, ranks, 0.4), "120 random boxes, float64")
same(nms(crowd.T.contiguous().T, ranks, 0.6), plain_nms(crowd, ranks, 0.6),
     "the same boxes, laid out in memory column by column")
same(nms(crowd, 8 * ranks - 6, 0.3), plain_nms(crowd, ranks, 0.3),
     "scores need not lie in 0..1: here from -6 to 2")
same(nms(crowd, -1 - ranks, 0.3), plain_nms(crowd, -ranks, 0.3), "all scores are below -1")
same(nms(crowd / 100, ranks, 0.5), plain_nms(crowd, ranks, 0.5),
     "boxes in hundredths of a pixel: the IoU is a ratio, it knows no unit")
same(nms(crowd - 500, ranks, 0.5), plain_nms(crowd - 500, ranks, 0.5), "all coordinates are negative")
same(nms(torch.tensor([[3.0, 5, 9, 6]]), torch.tensor([0.1]), 0.5), torch.tensor([0]), "a single box")
nested = torch.tensor([[0.0, 0, 40, 30], [10, 5, 20, 15], [0, 10, 40, 15]])
same(nms(nested, torch.tensor([0.5, 0.7, 0.6]), 0.3), [1, 2, 0],
     "boxes that lie inside of one another share little of their union")
row = torch.arange(400.0)
apart = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(nms(apart, torch.linspace(0, 1, 400), 0.5), list(range(399, -1, -1)),
     "400 boxes that do not touch, all of them stay, however low they score")
far = torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3], [0, 0, 3, 4]], dtype=torch.float64) + 2**24
same(nms(far, torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64), 0.5), [2, 1],
     "float64 tells boxes apart that are one in float32")
same(nms(boxes, torch.tensor([0.5, 0.5 + 2e-7, 0.1, 0.5 - 2e-7]), 0.5), [1, 3, 2],
     "scores that differ in the seventh digit do differ")
### END HIDDEN TESTS

# %% check="nms" part="ties" points=1
twins = torch.tensor([[5.0, 5, 25, 20], [6, 5, 26, 20], [60, 0, 70, 30], [5, 5, 25, 20]])
same(nms(twins, torch.tensor([0.5, 0.5, 0.5, 0.5]), 0.5), [0, 2], "of equal scores the smaller index wins")
same(nms(twins, torch.tensor([0.25, 0.5, 0.5, 0.5]), 0.5), [1, 2], "boxes 1, 2 and 3 score alike: 1 comes first")
### BEGIN HIDDEN TESTS
same(nms(twins, torch.tensor([0.0, 0, 0, 0]), 0.5), [0, 2], "all scores are 0")
same(nms(twins, torch.tensor([0.5, 0.25, 0.25, 0.5]), 1.0), [0, 3, 1, 2],
     "no IoU is more than 1: equal boxes stay too")
touching = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [9, 9, 11, 11]])
same(nms(touching, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.0), [0, 1, 2],
     "with a threshold of 0 any overlap is too much, and touching is none")
flat = torch.tensor([[4.0, 4, 4, 4], [4, 4, 4, 4], [0, 0, 8, 8], [2, 0, 2, 8]])
same(nms(flat, torch.tensor([0.6, 0.7, 0.8, 0.5]), 0.5), [2, 1, 0, 3],
     "boxes without area overlap nothing, and nothing is 0 / 0")
chain = torch.tensor([[10.0 * i, 0, 10 * i + 40, 20] for i in range(9)])
same(nms(chain, torch.full((9,), 0.5), 0.5), [0, 2, 4, 6, 8],
     "a chain of boxes, each overlaps the next by 0.6: every other one stays")
same(nms(chain, torch.tensor([1.0, 2, 1, 1, 2, 1, 1, 2, 1]), 0.5), [1, 4, 7],
     "a chain of boxes: the better ones take their neighbours away")
third = torch.tensor([[0.0, 0, 20, 10], [10, 0, 30, 10], [0, 0, 40, 10], [0, 0, 10, 10]])
same(nms(third, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.25), [0],
     "IoUs of 1/3, 1/2 and 1/2 with box 0, all above 0.25")
same(nms(third, torch.tensor([0.9, 0.8, 0.6, 0.7]), 0.5), [0, 1, 3, 2],
     "IoUs of exactly 0.5 with boxes 0 and 1 remove nothing")
dice = torch.Generator().manual_seed(66)
grid = (torch.rand(150, 2, generator=dice) * torch.tensor([12.0, 9])).floor() * 4
grid = torch.cat([grid, grid + torch.tensor([16.0, 12])], 1)
few = (torch.rand(150, generator=dice) * 4).floor() / 4
table, expected = box_iou(grid.double(), grid.double()), []
for i in few.argsort(descending=True, stable=True).tolist():
    expected += [i] * (not any(table[i, j] > 0.375 for j in expected))
same(nms(grid, few, 0.375), torch.tensor(expected), "150 boxes on a grid, with four different scores")
same(nms(grid.double(), few.double(), 0.375), torch.tensor(expected),
     "150 boxes on a grid, with four different scores, float64")
### END HIDDEN TESTS
# %% exercise="batched_nms"
def batched_nms(boxes, scores, labels, iou_threshold):
    """`nms` within each class: boxes of different classes do not remove each other.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels; anywhere, negative coordinates too.
        scores (Tensor[N]): as `nms` takes them.
        labels (Tensor[N]): int64, the class of each box; any whole numbers from 0.
        iou_threshold (float): as `nms` takes it.

    Returns:
        Tensor[K]: int64, indices into `boxes` over all classes, best score first; of equal scores the smaller
            index first.
    """
    ### BEGIN SOLUTION
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        keep[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].argsort(descending=True, stable=True)]
    ### END SOLUTION


# %% check="batched_nms" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores, labels = torch.tensor([0.8, 0.9, 0.6, 0.7]), torch.tensor([1, 2, 1, 1])
same(batched_nms(boxes, scores, labels, 0.5), [1, 0, 2],
     "box 1 is alone in class 2; in class 1 box 0 removes box 3; best first, whatever the class")
untouched(batched_nms, boxes.clone(), scores.clone(), labels.clone(), 0.5)
same(batched_nms(boxes, scores, torch.tensor([3, 3, 3, 3]), 0.25), torch.tensor([1, 2]),
     "one class only: what nms gives, a tensor of int64")
same(batched_nms(boxes[[1, 1]], scores[:2], torch.tensor([5, 0]), 0.5), [1, 0],
     "one box twice, as class 5 and as class 0: both stay")
nothing = torch.zeros(0, dtype=torch.int64)
same(batched_nms(torch.zeros(0, 4), torch.zeros(0), nothing, 0.5), nothing, "no boxes: an empty tensor of int64")
### BEGIN HIDDEN TESTS
def plain_batched(boxes, scores, labels, threshold):
    """The same, one box at a time."""
    iou, ranks, names, kept = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist(), labels.tolist(), []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(names[i] == names[j] and iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


dice = torch.Generator().manual_seed(7)
corners = torch.rand(150, 2, generator=dice) * torch.tensor([70.0, 40])
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(150, 2, generator=dice)], 1)
ranks, kinds = torch.rand(150, generator=dice), torch.randint(1, 5, (150,), generator=dice)
for limit in (0.1, 0.35, 0.6, 0.85):
    same(batched_nms(crowd, ranks, kinds, limit), plain_batched(crowd, ranks, kinds, limit),
         f"150 random boxes of 4 classes, float32, threshold {limit}")
same(batched_nms(crowd.double(), ranks.double(), kinds, 0.4), plain_batched(crowd, ranks, kinds, 0.4),
     "150 random boxes of 4 classes, float64")
gaps = torch.tensor([0, 7, 90, 3])[kinds - 1]
same(batched_nms(crowd, ranks, gaps, 0.3), plain_batched(crowd, ranks, kinds, 0.3),
     "the labels are 0, 3, 7 and 90: any whole numbers")
same(batched_nms(crowd, ranks, torch.arange(150), 0.0), ranks.argsort(descending=True),
     "every box is of a class of its own: all of them stay, best first")
same(batched_nms(crowd, -5 * ranks, kinds, 0.3), plain_batched(crowd, -ranks, kinds, 0.3), "negative scores")
alike = torch.full((4,), 0.5)
same(batched_nms(boxes, alike, torch.tensor([2, 1, 1, 2]), 0.5), [0, 1, 2],
     "equal scores: the smaller index first, whatever its class")
few = (4 * ranks).floor() / 4
same(batched_nms(crowd, few, kinds, 0.3), plain_batched(crowd, few, kinds, 0.3),
     "150 boxes of 4 classes with four different scores")
halves = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1], [0, 0, 1, 1]])
same(batched_nms(halves, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([4, 4, 2, 4]), 0.5), [3, 2, 0],
     "in class 4 two equal boxes, and one of IoU exactly 0.5 with them")
row = torch.arange(300.0)
apart = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(len(batched_nms(apart, row / 300, (row % 3).long(), 0.5)), 300, "300 boxes that do not touch: all stay")
single = batched_nms(torch.tensor([[3.0, 5, 9, 6]]), torch.tensor([0.1]), torch.tensor([6]), 0.5)
same(single, torch.tensor([0]), "a single box of class 6")
### END HIDDEN TESTS

# %% check="batched_nms" part="anywhere" points=1
ends = torch.tensor([[90.0, 90, 110, 110], [-21, -21, -1, -1]])
same(batched_nms(ends, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), 0.5), [0, 1],
     "two boxes of different classes, 110 pixels apart, one with negative coordinates")
### BEGIN HIDDEN TESTS
def by_classes(boxes, scores, labels, threshold):
    """The same, one box at a time."""
    iou, ranks, names, kept = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist(), labels.tolist(), []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(names[i] == names[j] and iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


for shift in (100, 128, 300, 512, 1000, 1024, 1333, 4000, 4096, 5000, 7680, 10000, 100000, 1000000):
    moved = torch.tensor([[0.0, 0, 20, 10]] * 2 + [[-300.0, -200, -280, -190]] * 2)
    moved[1] += shift
    moved[3] -= shift
    same(batched_nms(moved, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([2, 1, 1, 2]), 0.5), [0, 1, 2, 3],
         f"boxes of two classes that lie {shift} pixels apart, right and left, below and above")
dice = torch.Generator().manual_seed(8)
corners = torch.rand(120, 2, generator=dice) * torch.tensor([70.0, 40]) - torch.tensor([60.0, 90])
crowd = torch.cat([corners, corners + 5 + 30 * torch.rand(120, 2, generator=dice)], 1)
ranks, kinds = torch.rand(120, generator=dice), torch.randint(0, 6, (120,), generator=dice)
for limit in (0.2, 0.5):
    same(batched_nms(crowd, ranks, kinds, limit), by_classes(crowd, ranks, kinds, limit),
         f"120 boxes around the corner of the image, many coordinates negative, threshold {limit}")
same(batched_nms(crowd - 400, ranks, kinds, 0.3), by_classes(crowd - 400, ranks, kinds, 0.3),
     "every coordinate is negative")
specks = torch.tensor([[0.0, 0, 1, 1], [0.25, 0, 1.25, 1], [0.375, 0, 1.375, 1]]) / 64
specks = torch.cat([specks, torch.tensor([[4000.0, 3000, 4064, 3064]])])
same(batched_nms(specks, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([90, 90, 90, 1]), 0.5), [0, 2, 3],
     "class 90, boxes of 1/64 pixel, IoU 0.6 and 0.45, beside a box at 4000: no digit may be lost")
same(batched_nms(specks * 2**-10, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([90, 90, 90, 1]), 0.5),
     [0, 2, 3], "the same a thousand times smaller")
### END HIDDEN TESTS
# %% setup=true
def pair(indices, scores):
    """What `soft_nms` should give, from two lists."""
    return torch.tensor(indices, dtype=torch.int64), torch.tensor(scores)

# %% exercise="soft_nms"
def soft_nms(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Boxes and scores after Soft-NMS with Gaussian decay: nothing is removed, what overlaps scores less.

    Source: the slides' algorithm 11.12.1 with soft_NMS = True; Bodla et al., ICCV 2017 (arXiv:1704.04503).

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels, of one class.
        scores (Tensor[N]): in 0..1.
        sigma (float): of the decay; a smaller one decays more.
        score_threshold (float): what scores less than this, after its decays, is left out.

    Returns:
        (Tensor[K], Tensor[K]): int64 indices into `boxes` in the order of the picks, best first, and the decayed
            scores at the picks. Of equal scores the smaller index is picked first.
    """
    ### BEGIN SOLUTION
    iou = box_iou(boxes, boxes)  # [N, N]
    current = scores.clone()
    left = torch.ones_like(scores, dtype=torch.bool)
    picked, decayed = [], []
    while left.any():
        best = current.where(left, -math.inf).argmax().item()
        if current[best] < score_threshold:
            break
        picked.append(best)
        decayed.append(current[best].item())
        left[best] = False
        current *= torch.exp(-(iou[best] ** 2) / sigma)
    return torch.tensor(picked, dtype=torch.int64, device=boxes.device), scores.new_tensor(decayed)
    ### END SOLUTION


# %% check="soft_nms" points=2
halves, two = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]]), torch.tensor([0.75, 0.8])
picked, decayed = soft_nms(halves, two, 0.3)
same(picked, torch.tensor([1, 0]), "both boxes stay, the better one first; indices are a tensor of int64")
same(decayed, torch.tensor([0.8, 0.325949]), "the IoU is 0.5: 0.75 · exp(-0.5² / 0.3)")
same(soft_nms(halves, two)[1], [0.8, 0.454898], "sigma is 0.5 unless given: 0.75 · exp(-0.5² / 0.5)")
apart = torch.tensor([[0.0, 0, 2, 1], [5, 0, 7, 1], [2, 0, 4, 1]])
same(soft_nms(apart, torch.tensor([0.5, 0.25, 0.75])), pair([2, 0, 1], [0.75, 0.5, 0.25]),
     "boxes that share nothing keep their scores")
untouched(soft_nms, halves.clone(), two.clone())
same(soft_nms(torch.zeros(0, 4), torch.zeros(0)), (torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
     "no boxes: no indices and no scores")
### BEGIN HIDDEN TESTS
slight = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
same(soft_nms(slight, torch.tensor([0.8, 0.9])), pair([1, 0], [0.9, 0.780489]),
     "an IoU of 1/9 decays as well, a little: there is no threshold on the IoU")
twins = torch.tensor([[3.0, 1, 9, 5], [3, 1, 9, 5]])
same(soft_nms(twins, torch.tensor([0.5, 1.0])), pair([1, 0], [1, 0.067668]),
     "the same box twice, IoU 1: 0.5 · exp(-1 / 0.5)")
for width in (0.05, 0.2, 2.0):
    values = {0.05: 0.005054, 0.2: 0.214879, 2.0: 0.661873}
    same(soft_nms(halves, two, sigma=width), pair([1, 0], [0.8, values[width]]), f"two halves with sigma {width}")
same(soft_nms(halves.double(), two.double(), 0.3),
     (torch.tensor([1, 0]), torch.tensor([0.8, 0.32594862], dtype=torch.float64)),
     "float64 in, float64 out", atol=1e-6, rtol=0)
same(soft_nms(halves / 100 - 1, two, 0.3), pair([1, 0], [0.8, 0.325949]),
     "the same two, smaller than a pixel and at negative coordinates")
flat = torch.tensor([[4.0, 4, 4, 4], [4, 4, 4, 4], [0, 0, 8, 8]])
same(soft_nms(flat, torch.tensor([0.25, 0.5, 0.75])), pair([2, 1, 0], [0.75, 0.5, 0.25]),
     "boxes without area overlap nothing, and nothing is 0 / 0")
same(soft_nms(twins[:1], torch.tensor([0.0625])), (torch.tensor([0]), torch.tensor([0.0625])), "a single box")
far = torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3]], dtype=torch.float64) + 2**24
same(soft_nms(far, torch.tensor([0.5, 0.75], dtype=torch.float64))[1],
     torch.tensor([0.75, 0.5 * math.exp(-0.5)], dtype=torch.float64),
     "float64 tells boxes apart that are one in float32")
row = torch.arange(300.0)
many = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(soft_nms(many, (row + 1) / 301), pair(range(299, -1, -1), ((row + 1) / 301).flip(0).tolist()),
     "300 boxes that do not touch: all stay, with their scores")
### END HIDDEN TESTS

# %% check="soft_nms" part="ranking" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores = torch.tensor([0.8, 0.9, 0.6, 0.7])
same(soft_nms(boxes, scores)[0], [1, 2, 3, 0],
     "after the first pick box 2 scores best, though it was last before: look for the best anew each time")
same(soft_nms(boxes, scores)[1], [0.9, 0.6, 0.560516, 0.189542],
     "box 0 decays twice: after box 1 is picked, and after box 3")
same(soft_nms(boxes, scores, 0.5, 0.25), pair([1, 2, 3], [0.9, 0.6, 0.560516]),
     "with a score threshold of 0.25 box 0 is left out: at the end it has 0.19")
### BEGIN HIDDEN TESTS
def plain_soft(boxes, scores, sigma, least):
    """The same, one number at a time."""
    iou, now = box_iou(boxes.double(), boxes.double()).tolist(), dict(enumerate(scores.double().tolist()))
    picked, values = [], []
    while now:
        best = max(now, key=lambda i: (now[i], -i))
        score = now.pop(best)
        if score < least:
            break
        picked.append(best)
        values.append(score)
        now = {i: value * math.exp(-iou[best][i] * iou[best][i] / sigma) for i, value in now.items()}
    return torch.tensor(picked, dtype=torch.int64), torch.tensor(values, dtype=scores.dtype)


dice = torch.Generator().manual_seed(9)
corners = torch.rand(40, 2, generator=dice, dtype=torch.float64) * torch.tensor([60.0, 35]) - 10
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(40, 2, generator=dice, dtype=torch.float64)], 1)
ranks = torch.rand(40, generator=dice, dtype=torch.float64)
for width, least in ((0.5, 0.001), (0.3, 0.05), (0.1, 0.2), (1.0, 0.0)):
    expected = plain_soft(crowd.float(), ranks.float(), width, least)
    same(soft_nms(crowd.float(), ranks.float(), width, least), expected,
         f"40 random boxes, float32, sigma {width}, score threshold {least}")
    expected = plain_soft(crowd, ranks, width, least)
    same(soft_nms(crowd, ranks, width, least), expected,
         f"40 random boxes, float64, sigma {width}, score threshold {least}")
same(soft_nms(crowd, ranks), plain_soft(crowd, ranks, 0.5, 0.001),
     "without sigma and score threshold they are 0.5 and 0.001")
lonely = torch.tensor([[0.0, 0, 2, 1], [5, 0, 7, 1], [2, 0, 4, 1]])
same(soft_nms(lonely, torch.tensor([0.25, 0.125, 0.5]), 0.5, 0.25), pair([2, 0], [0.5, 0.25]),
     "a score that equals the threshold is not below it; one that was below it from the start is left out")
same(soft_nms(lonely, torch.tensor([0.0005, 0.5, 0.002])), pair([1, 2], [0.5, 0.002]),
     "the score threshold is 0.001 unless given")
nobody = (torch.zeros(0, dtype=torch.int64), torch.zeros(0))
same(soft_nms(lonely, torch.tensor([0.25, 0.125, 0.5]), 0.5, 0.75), nobody,
     "all scores are below the threshold: no indices and no scores")
same(soft_nms(lonely, torch.tensor([0.0, 0.5, 0.0]), 0.5, 0.0), pair([1, 0, 2], [0.5, 0, 0]),
     "a threshold of 0 leaves out nothing, scores of 0 stay")
same(soft_nms(boxes, scores, 0.5, 0.0)[0], [1, 2, 3, 0], "a threshold of 0 and decayed scores: all four stay")
alike = torch.full((4,), 0.5)
same(soft_nms(boxes[[0, 0, 2, 0]], alike), pair([0, 2, 1, 3], [0.5, 0.5, 0.067668, 0.009158]),
     "equal scores: the smaller index is picked first; three equal boxes decay once, then twice")
same(soft_nms(lonely, torch.tensor([0.5, 0.75, 0.5])), pair([1, 0, 2], [0.75, 0.5, 0.5]),
     "equal scores of boxes that share nothing: the smaller index first")
same(soft_nms(boxes[[1] * 5], torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 0.25), pair([0, 1], [0.9, 0.014653]),
     "five equal boxes: each pick takes the others down by exp(-4)")
same(soft_nms(boxes, scores, 0.001, 0.0)[1][:2], [0.9, 0.6],
     "with a tiny sigma decayed scores become 0, and nothing breaks")
### END HIDDEN TESTS
