"""Right answers to the exercises of lesson 06, in other forms."""

import math

import numpy
import torch
import torchvision


def overlap(a, b):
    """IoU of two lists of four numbers."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def nms__walk_through_the_ranking(boxes, scores, iou_threshold):
    order = scores.argsort(descending=True, stable=True)
    iou = torchvision.ops.box_iou(boxes, boxes).nan_to_num()
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[iou[best, order] <= iou_threshold]
    return torch.stack(kept) if kept else order


def nms__plain_loops(boxes, scores, iou_threshold):
    rows, values = boxes.tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(rows)), key=values.__getitem__, reverse=True):  # reverse keeps equal ones in order
        if all(overlap(rows[i], rows[j]) <= iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def nms__argmax_of_what_is_left(boxes, scores, iou_threshold):
    """The slides' algorithm as it stands: while B is not empty, take the best, remove what overlaps it."""
    left = list(range(len(boxes)))
    kept = []
    while left:
        m = left[int(torch.argmax(scores[left]))]
        kept.append(m)
        left.remove(m)
        if left:
            iou = torchvision.ops.box_iou(boxes[m : m + 1], boxes[left])[0]
            left = [i for i, value in zip(left, iou.tolist()) if not value > iou_threshold]
    return torch.as_tensor(kept, dtype=torch.int64)


def nms__mask_over_the_sorted(boxes, scores, iou_threshold):
    """Row by row over the sorted table; products instead of a division."""
    order = torch.sort(scores, descending=True, stable=True).indices
    b = boxes[order]
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    sides = (torch.minimum(b[:, None, 2:], b[:, 2:]) - torch.maximum(b[:, None, :2], b[:, :2])).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    above = shared > iou_threshold * (area[:, None] + area - shared)
    keep = torch.ones(len(b), dtype=torch.bool)
    for i in range(len(b)):
        if keep[i]:
            keep[i + 1 :] &= ~above[i, i + 1 :]
    return order[keep]


def nms__fixed_point(boxes, scores, iou_threshold):
    """Without a loop over boxes: a box is kept if no better kept one overlaps it; repeat until nothing changes."""
    order = torch.argsort(-scores, stable=True)
    iou = torchvision.ops.box_iou(boxes[order], boxes[order]).nan_to_num()
    better = (iou > iou_threshold).triu(1).to(torch.float64)  # [i, j]: i stands before j and overlaps it
    keep = torch.ones(len(boxes), dtype=torch.bool)
    while True:
        new = (keep.to(torch.float64) @ better) == 0
        if torch.equal(new, keep):
            return order[keep]
        keep = new


def nms__numpy(boxes, scores, iou_threshold):
    """The well-known form in numpy."""
    x1, y1, x2, y2 = boxes.detach().numpy().T
    area = (x2 - x1) * (y2 - y1)
    order = numpy.argsort(-scores.detach().numpy(), kind="stable")
    keep = []
    while order.size > 0:
        i, rest = order[0], order[1:]
        keep.append(i)
        w = numpy.maximum(0, numpy.minimum(x2[i], x2[rest]) - numpy.maximum(x1[i], x1[rest]))
        h = numpy.maximum(0, numpy.minimum(y2[i], y2[rest]) - numpy.maximum(y1[i], y1[rest]))
        union = area[i] + area[rest] - w * h
        iou = numpy.divide(w * h, union, out=numpy.zeros_like(union), where=union > 0)
        order = rest[iou <= iou_threshold]
    return torch.from_numpy(numpy.array(keep, dtype=numpy.int64))


def batched_nms__one_loop(boxes, scores, labels, iou_threshold):
    """One walk over all boxes; only kept ones of the same class remove."""
    iou = torchvision.ops.box_iou(boxes, boxes).nan_to_num()
    against = (iou > iou_threshold) & (labels[:, None] == labels)
    kept = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if not against[i, kept].any():
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def batched_nms__classes_joined_and_sorted(boxes, scores, labels, iou_threshold):
    kept = []
    for label in sorted(set(labels.tolist())):
        mine = torch.where(labels == label)[0]
        kept += mine[nms__plain_loops(boxes[mine], scores[mine], iou_threshold)].tolist()
    kept.sort(key=lambda i: (-scores[i].item(), i))
    return torch.tensor(kept, dtype=torch.int64)


def batched_nms__moved_apart_in_float64(boxes, scores, labels, iou_threshold):
    """The trick of moving the classes apart, done with care: from 0 up, by ranks of the labels, in float64."""
    if len(boxes) == 0:
        return torch.empty(0, dtype=torch.long)
    moved = boxes.double() - boxes.double().amin()
    rank = torch.unique(labels, return_inverse=True)[1]
    moved = moved + (rank * (moved.amax() + 1))[:, None]
    return nms__plain_loops(moved, scores, iou_threshold)


def batched_nms__nms_of_the_lesson(boxes, scores, labels, iou_threshold):
    """Uses the exercise before it, class by class, then a stable sort of the indices."""
    classes, kept = labels.unique(), []
    for c in classes:
        index = torch.nonzero(labels == c).flatten()
        kept.append(index[nms__mask_over_the_sorted(boxes[index], scores[index], iou_threshold)])
    if not kept:
        return labels.new_zeros(0)
    kept = torch.cat(kept).sort().values
    return kept[torch.sort(scores[kept], descending=True, stable=True)[1]]


def soft_nms__plain_loops(boxes, scores, sigma=0.5, score_threshold=0.001):
    rows, now = boxes.tolist(), scores.tolist()
    left, picked, values = list(range(len(rows))), [], []
    while left:
        best = max(left, key=lambda i: now[i])
        left.remove(best)
        if now[best] >= score_threshold:
            picked.append(best)
            values.append(now[best])
        for i in left:
            now[i] *= math.exp(-(overlap(rows[best], rows[i]) ** 2) / sigma)
    return torch.tensor(picked, dtype=torch.int64), torch.tensor(values, dtype=scores.dtype)


def soft_nms__logarithms(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Adds up IoU² of each box with the picks; one exp a round."""
    squares = torchvision.ops.box_iou(boxes, boxes).nan_to_num() ** 2
    total, free = torch.zeros_like(scores), torch.ones(len(scores), dtype=torch.bool)
    picked, values = [], []
    for _ in range(len(scores)):
        now = torch.where(free, scores * torch.exp(-total / sigma), torch.full_like(scores, -1))
        best = int(now.argmax())
        if now[best] < score_threshold:
            break
        picked.append(best)
        values.append(now[best])
        free[best] = False
        total = total + squares[best]
    return torch.tensor(picked, dtype=torch.int64), torch.stack(values) if values else scores[:0]


def soft_nms__the_authors_way(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Swaps the best to the front, drops what falls below the threshold as soon as it does."""
    b, s, index = boxes.clone(), scores.clone(), torch.arange(len(boxes))
    alive = s >= score_threshold
    b, s, index = b[alive], s[alive], index[alive]
    i = 0
    while i < len(s):
        best = i + int(s[i:].argmax())
        order = [*range(i), best, *[j for j in range(i, len(s)) if j != best]]
        b, s, index = b[order], s[order], index[order]
        if i + 1 < len(s):
            iou = torchvision.ops.box_iou(b[i : i + 1], b[i + 1 :])[0].nan_to_num()
            s = torch.cat([s[: i + 1], s[i + 1 :] * torch.exp(-iou.pow(2) / sigma)])
            alive = s >= score_threshold
            b, s, index = b[alive], s[alive], index[alive]
        i += 1
    return index, s


def soft_nms__numpy_and_a_list(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Keeps pairs of index and score, sorts them anew each round; returns a list of two tensors."""
    rows = boxes.double().numpy()
    pairs, found = [[i, float(s)] for i, s in enumerate(scores)], []
    while pairs:
        pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        best = pairs.pop(0)
        found.append(best)
        for pair in pairs:
            pair[1] *= numpy.exp(-numpy.square(overlap(rows[best[0]], rows[pair[0]])) / sigma)
    found = [pair for pair in found if pair[1] >= score_threshold]
    return [torch.tensor([i for i, _ in found], dtype=torch.int64), scores.new_tensor([s for _, s in found])]
