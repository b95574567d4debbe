# %% [markdown]
r"""
# Lesson 3: matching
"""

# %% setup=true tags=["nbval-ignore-output"]
import math

import matplotlib.pyplot as plt
import torch

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes
from coursekit.earlier import earlier

box_iou = earlier("box_iou")
xyxy_to_cxcywh = earlier("xyxy_to_cxcywh")
cxcywh_to_xyxy = earlier("cxcywh_to_xyxy")

# %% [markdown]
r"""
### Exercise: `match_anchors`
"""

# %% exercise="match_anchors"
def match_anchors(iou, threshold=0.5):
    """Which object each anchor answers for.

    Args:
        iou (Tensor[M, A]): of every object with every anchor, in 0..1.
        threshold (float): an anchor that is no object's best one needs more IoU than this.

    Returns:
        Tensor[A]: int64; the index of the anchor's object, or -1 where it has none.
    """
    ### BEGIN SOLUTION
    objects, anchors = iou.shape
    matches = torch.full((anchors,), -1, dtype=torch.int64, device=iou.device)
    if objects == 0 or anchors == 0:
        return matches
    best_iou, best_object = iou.max(dim=0)  # [A], [A]
    matches = torch.where(best_iou > threshold, best_object, matches)
    free = torch.ones(anchors, dtype=torch.bool, device=iou.device)
    for index in range(objects):
        overlap = torch.where(free, iou[index], 0)  # [A]
        best = overlap.argmax()
        if overlap[best] > 0:
            matches[best] = index
            free[best] = False
    return matches
    ### END SOLUTION

# %% check="match_anchors" points=2
iou = torch.tensor([[0.1, 0.6, 0.7, 0.0, 0.0], [0.0, 0.0, 0.2, 0.3, 0.1]])
same(match_anchors(iou), [-1, 0, 0, 1, -1], "two objects and five anchors, as above")

# %% [markdown]
r"""
### Exercise: `corner_offsets`
"""

# %% exercise="corner_offsets"
def corner_offsets(boxes, anchors):
    """How far each box's sides lie from its anchor's, in the slides' order.

    Args:
        boxes (Tensor[A, 4]): xyxy, in pixels; row i is the box of anchor i.
        anchors (Tensor[A, 4]): likewise.

    Returns:
        Tensor[A, 4]: the differences of x1, x2, y1, y2, in this order, in pixels.
    """
    ### BEGIN SOLUTION
    return (boxes - anchors)[:, [0, 2, 1, 3]]
    ### END SOLUTION

# %% check="corner_offsets" points=1
anchor, box = torch.tensor([[40.0, 20, 80, 60]]), torch.tensor([[44.0, 14, 92, 61]])
same(corner_offsets(box, anchor), [[4, 12, -6, 1]], "both x first, then both y")

# %% [markdown]
r"""
### Exercise: `encode_boxes`
"""

# %% exercise="encode_boxes"
def encode_boxes(boxes, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    """What a network is to say of each box, measured from its anchor.

    Args:
        boxes (Tensor[A, 4]): xyxy, in pixels; row i is the box of anchor i.
        anchors (Tensor[A, 4]): likewise.
        stds (4 floats): what the shifts in x and y and the logarithms of width and height are divided by.

    Returns:
        Tensor[A, 4]: dx, dy, dw, dh; zeros where box and anchor are the same.
    """
    ### BEGIN SOLUTION
    boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)  # [A, 4]
    shifts = (boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:]  # [A, 2]
    stretches = torch.log(boxes[:, 2:] / anchors[:, 2:])  # [A, 2]
    return torch.cat((shifts, stretches), dim=1) / boxes.new_tensor(stds)
    ### END SOLUTION

# %% check="encode_boxes" points=2
anchor, box = torch.tensor([[40.0, 20, 80, 40]]), torch.tensor([[24.0, 21, 104, 41]])
same(encode_boxes(box, anchor), [[1, 0.5, 3.4657, 0]], "twice as wide as its anchor: log 2 = 0.6931, over 0.2")

# %% [markdown]
r"""
### Exercise: `decode_boxes`
"""

# %% exercise="decode_boxes"
def decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    """The boxes that a network's answers mean: the inverse of `encode_boxes`.

    Args:
        deltas (Tensor[A, 4]): dx, dy, dw, dh.
        anchors (Tensor[A, 4]): xyxy, in pixels; row i is the anchor of deltas i.
        stds (4 floats): as `encode_boxes` divided by.

    Returns:
        Tensor[A, 4]: xyxy, in pixels; at most 62.5 times as wide and high as the anchor, so finite for any dw, dh.
    """
    ### BEGIN SOLUTION
    deltas = deltas * deltas.new_tensor(stds)
    anchors = xyxy_to_cxcywh(anchors)  # [A, 4]
    centers = anchors[:, :2] + deltas[:, :2] * anchors[:, 2:]  # [A, 2]
    sizes = anchors[:, 2:] * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()  # [A, 2]
    return cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))
    ### END SOLUTION

# %% check="decode_boxes" points=2
anchor, delta = torch.tensor([[40.0, 20, 80, 40]]), torch.tensor([[1, 0.5, 3.4657, 0]])
same(decode_boxes(delta, anchor), [[24, 21, 104, 41]], "the box of the exercise before comes back", atol=1e-2)

# %% [markdown]
r"""
### Exercise: `anchor_targets`
"""

# %% exercise="anchor_targets"
def anchor_targets(anchors, boxes, labels, threshold=0.5):
    """What a network is to say at each anchor of an image.

    Args:
        anchors (Tensor[A, 4]): xyxy, in pixels.
        boxes (Tensor[M, 4]): the image's objects, likewise.
        labels (Tensor[M]): their classes, 1..K.
        threshold (float): as `match_anchors` takes it.

    Returns:
        (Tensor[A], Tensor[A, 4]): int64 classes, 0 for background; deltas to the anchor's object, zeros for background.
    """
    ### BEGIN SOLUTION
    matches = match_anchors(box_iou(boxes, anchors), threshold)  # [A]
    positive = matches >= 0
    classes = torch.zeros_like(matches)
    deltas = torch.zeros_like(anchors)
    classes[positive] = labels[matches[positive]].to(torch.int64)
    deltas[positive] = encode_boxes(boxes[matches[positive]], anchors[positive])
    return classes, deltas
    ### END SOLUTION

# %% check="anchor_targets" points=3
anchors = torch.tensor([[0.0, 0, 40, 20], [40, 20, 80, 40], [0, 40, 40, 60]])
classes, deltas = anchor_targets(anchors, torch.tensor([[44.0, 21, 84, 41]]), torch.tensor([3]))
same(classes, [0, 3, 0], "the anchor in the middle is the object's best, the others are background")
same(deltas, [[0, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 0, 0]], "an anchor of background has zero deltas")
