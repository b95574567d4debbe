"""Right answers for the explorers to show, as short as they can be; lessons' own where these are built."""

import math

import numpy
import torch
import torchvision
from torchvision.ops import box_iou, roi_align, roi_pool, sigmoid_focal_loss  # noqa: F401

from autograder.lessons import all_exercises


def reference(*names):
    """The lessons' functions, in a namespace where earlier ones stand."""
    space, exercises = {"torch": torch, "numpy": numpy, "math": math, "box_iou": box_iou}, all_exercises()
    for name in names:
        exec(exercises[name].reference, space)
    return [space[name] for name in names]


linear_scales, anchor_shapes, tile_anchors, ssd_anchors = reference(
    "linear_scales", "anchor_shapes", "tile_anchors", "ssd_anchors"
)
match_anchors, nms, soft_nms = reference("match_anchors", "nms", "soft_nms")
precision_recall, voc11_ap, area_ap, coco101_ap = reference(
    "precision_recall", "voc11_ap", "area_ap", "coco101_ap"
)


def label_rpn_anchors(iou, positive=0.7, negative=0.3):
    best = iou.amax(0)
    labels = torch.full_like(best, -1, dtype=torch.int64)
    labels[best < negative] = 0
    labels[best >= positive] = 1
    labels[((iou == iou.amax(1, keepdim=True)) & (iou > 0)).any(0)] = 1
    return labels


def align(features, rois, output_size, spatial_scale, sampling_ratio=2):
    return roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned=True)


def focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    return sigmoid_focal_loss(logits, targets, alpha, gamma)


def assign_level(boxes, k0=4, smallest=2, largest=5):
    roots = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    return (k0 + torch.log2(roots / 224)).floor().long().clamp(smallest, largest)


def propose(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    top = objectness[0].topk(min(pre_nms, len(anchors))).indices
    boxes = torchvision.ops.clip_boxes_to_image((anchors + deltas[0])[top], image_size[::-1])
    kept = torchvision.ops.nms(boxes, objectness[0][top], iou_threshold)[:post_nms]
    return [boxes[kept]]


def locations(grid, stride):
    y, x = torch.meshgrid(torch.arange(grid[1]), torch.arange(grid[0]), indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2).float() * stride + stride // 2


def fcos_targets(locations, boxes, labels, ranges):
    points = torch.cat(locations)
    low, high = (
        torch.cat([torch.full((len(level),), float(end)) for level, end in zip(locations, ends)])
        for ends in (ranges, ranges[1:])
    )
    ltrb = torch.cat([points[:, None] - boxes[:, :2], boxes[:, 2:] - points[:, None]], -1)  # [P, M, 4]
    fits = (ltrb.amin(-1) > 0) & (ltrb.amax(-1) >= low[:, None]) & (ltrb.amax(-1) <= high[:, None])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    least, which = torch.where(fits, area, torch.inf).min(1)
    return torch.where(least < torch.inf, labels[which], 0), ltrb[torch.arange(len(points)), which]


def centerness(ltrb):
    a, b = ltrb[:, [0, 2]], ltrb[:, [1, 3]]
    return (a.amin(1) / a.amax(1) * b.amin(1) / b.amax(1)).sqrt()


def fsaf_class_targets(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    targets = torch.zeros(num_classes, *grid[::-1])
    y, x = torch.meshgrid(torch.arange(grid[1]), torch.arange(grid[0]), indexing="ij")
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for fraction, value, near in ((ignoring, -1, 1), (effective, 1, 0)):
        for i in area.argsort(descending=True).tolist():
            if abs(int(levels[i]) - level) > near:
                continue
            box = boxes[i] / 2**level
            centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * fraction
            (x1, y1), (x2, y2) = (centre - half).tolist(), (centre + half).tolist()
            targets[int(labels[i]) - 1][(x + 1 > x1) & (x < x2) & (y + 1 > y1) & (y < y2)] = value
    return targets


def select_level(focal, iou):
    return (focal + iou).argmin(0)


def scene(index=3):
    """An image and the boxes in it."""
    from coursekit.data import scenes

    return scenes("train", index + 1)[index]


def crowd():
    """Boxes in two bunches and one alone, with scores."""
    boxes = torch.tensor([
        [20.0, 30, 70, 90], [24, 28, 74, 92], [14, 36, 64, 88], [44, 30, 94, 92], [80, 60, 120, 110], [84, 58, 122, 106],
        [8, 6, 36, 24],
    ])  # fmt: skip
    return boxes, torch.tensor([0.95, 0.9, 0.6, 0.8, 0.7, 0.65, 0.3])
