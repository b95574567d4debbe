import math

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_convert, box_iou

USUAL = (0.1, 0.1, 0.2, 0.2)


def match_anchors__plain_numbers(iou, threshold=0.5):
    rows = iou.tolist()
    answer = [-1] * iou.shape[1]
    forced = []
    for number, row in enumerate(rows):
        best, where = 0.0, None
        for i, value in enumerate(row):
            if value > best and i not in forced:
                best, where = value, i
        if where is not None:
            answer[where] = number
            forced.append(where)
    for i in range(len(answer)):
        if i not in forced and rows:
            best, number = max((row[i], -number) for number, row in enumerate(rows))
            if best > threshold:
                answer[i] = -number
    return torch.tensor(answer, dtype=torch.int64)


def match_anchors__forced_first(iou, threshold=0.5):
    left = iou.clone()
    forced = {}
    for number in range(len(iou)):
        if left.shape[1] and left[number].max() > 0:
            anchor = int(left[number].argmax())
            forced[anchor] = number
            left[:, anchor] = 0
    good = iou > threshold
    own = (
        torch.where(good, iou, torch.full_like(iou, -1)).argmax(0)
        if len(iou)
        else torch.zeros(iou.shape[1], dtype=torch.long)
    )
    answer = torch.where(good.any(0), own, torch.full_like(own, -1))
    for anchor, number in forced.items():
        answer[anchor] = number
    return answer


def match_anchors__raised_table(iou, threshold=0.5):
    """Forced pairs get an IoU of 2, so that one maximum over the objects settles everything."""
    if 0 in iou.shape:
        return torch.full((iou.shape[1],), -1)
    table, free = iou.clone(), list(range(iou.shape[1]))
    for number in range(iou.shape[0]):
        order = [i for i in iou[number].argsort(descending=True, stable=True).tolist() if i in free]
        if order and iou[number, order[0]] > 0:
            table[number, order[0]] = 2
            free.remove(order[0])
    best, number = table.max(0)
    return torch.where(best > threshold, number, -1)


def corner_offsets__stacked(boxes, anchors):
    return torch.stack([boxes[:, i] - anchors[:, i] for i in (0, 2, 1, 3)], -1)


def corner_offsets__unbound(boxes, anchors):
    x1, y1, x2, y2 = (boxes - anchors).unbind(1)
    return torch.stack((x1, x2, y1, y2), 1)


def corner_offsets__transposed(boxes, anchors):
    order = [0, 2, 1, 3]
    return boxes[:, order] - anchors[:, order]


def corner_offsets__view(boxes, anchors):
    return (boxes - anchors).reshape(-1, 2, 2).transpose(1, 2).reshape(-1, 4)


def encode_boxes__columns(boxes, anchors, stds=USUAL):
    bx1, by1, bx2, by2 = boxes.T
    ax1, ay1, ax2, ay2 = anchors.T
    aw, ah = ax2 - ax1, ay2 - ay1
    dx = (bx1 + bx2 - ax1 - ax2) / 2 / aw / stds[0]
    dy = (by1 + by2 - ay1 - ay2) / 2 / ah / stds[1]
    dw = ((bx2 - bx1).log() - aw.log()) / stds[2]
    dh = ((by2 - by1).log() - ah.log()) / stds[3]
    return torch.stack((dx, dy, dw, dh), dim=1)


def encode_boxes__row_by_row(boxes, anchors, stds=USUAL):
    deltas = torch.zeros_like(boxes)
    for i in range(len(boxes)):
        for axis in (0, 1):
            start, end = boxes[i, axis], boxes[i, axis + 2]
            first, last = anchors[i, axis], anchors[i, axis + 2]
            deltas[i, axis] = ((start + end) - (first + last)) / (2 * (last - first)) / stds[axis]
            deltas[i, axis + 2] = torch.log((end - start) / (last - first)) / stds[axis + 2]
    return deltas


def encode_boxes__converted(boxes, anchors, stds=USUAL):
    boxes, anchors = box_convert(boxes, "xyxy", "cxcywh"), box_convert(anchors, "xyxy", "cxcywh")
    sizes = anchors[:, 2:]
    deltas = torch.cat(((boxes[:, :2] - anchors[:, :2]) / sizes, (boxes[:, 2:] / sizes).log()), -1)
    return deltas / torch.tensor(stds, dtype=deltas.dtype, device=deltas.device)


def encode_boxes__numpy(boxes, anchors, stds=USUAL):
    import numpy

    b, a = boxes.numpy(), anchors.numpy()
    size_b, size_a = b[:, 2:] - b[:, :2], a[:, 2:] - a[:, :2]
    shift = (b[:, :2] + size_b / 2 - a[:, :2] - size_a / 2) / size_a
    deltas = numpy.concatenate([shift, numpy.log(size_b / size_a)], 1) / numpy.array(stds, b.dtype)
    return torch.from_numpy(deltas)


def decode_boxes__columns(deltas, anchors, stds=USUAL):
    dx, dy, dw, dh = (deltas[:, i] * stds[i] for i in range(4))
    w, h = anchors[:, 2] - anchors[:, 0], anchors[:, 3] - anchors[:, 1]
    limit = math.log(1000 / 16)
    new_w, new_h = w * dw.clamp(max=limit).exp(), h * dh.clamp(max=limit).exp()
    cx, cy = (anchors[:, 0] + anchors[:, 2]) / 2 + dx * w, (anchors[:, 1] + anchors[:, 3]) / 2 + dy * h
    return torch.stack((cx - new_w / 2, cy - new_h / 2, cx + new_w / 2, cy + new_h / 2), dim=1)


def decode_boxes__clamped_factor(deltas, anchors, stds=USUAL):
    deltas = deltas * torch.as_tensor(stds, dtype=deltas.dtype)
    size = anchors[:, 2:] - anchors[:, :2]
    half = size * deltas[:, 2:].exp().clamp(max=62.5) / 2
    middle = anchors[:, :2] + size * (deltas[:, :2] + 0.5)
    return torch.cat((middle - half, middle + half), dim=1)


def decode_boxes__row_by_row(deltas, anchors, stds=USUAL):
    boxes = torch.zeros_like(deltas)
    for i in range(len(deltas)):
        for axis in (0, 1):
            first, last = anchors[i, axis], anchors[i, axis + 2]
            center = (first + last) / 2 + deltas[i, axis] * stds[axis] * (last - first)
            stretch = min(float(deltas[i, axis + 2]) * stds[axis + 2], math.log(1000 / 16))
            half = (last - first) * math.exp(stretch) / 2
            boxes[i, axis], boxes[i, axis + 2] = center - half, center + half
    return boxes


def _coded(boxes, anchors):
    return BoxCoder((10, 10, 5, 5)).encode_single(boxes, anchors)


def anchor_targets__loop(anchors, boxes, labels, threshold=0.5):
    matches = match_anchors__plain_numbers(box_iou(boxes, anchors).nan_to_num(0), threshold)
    classes = torch.zeros(len(anchors), dtype=torch.int64)
    deltas = torch.zeros_like(anchors)
    for i, number in enumerate(matches.tolist()):
        if number >= 0:
            classes[i] = labels[number]
            deltas[i] = _coded(boxes[number : number + 1], anchors[i : i + 1])[0]
    return classes, deltas


def anchor_targets__with_a_background_object(anchors, boxes, labels, threshold=0.5):
    """Index -1 looks up a label 0 that is put behind the others; background rows are masked at the end."""
    matches = match_anchors__forced_first(box_iou(boxes, anchors).nan_to_num(0), threshold)
    classes = torch.cat((labels, labels.new_zeros(1)))[matches]
    if not len(boxes):
        return classes, torch.zeros_like(anchors)
    deltas = _coded(boxes[matches.clamp(min=0)], anchors)
    return classes, torch.where((classes > 0)[:, None], deltas, 0)


def anchor_targets__list_of_results(anchors, boxes, labels, threshold=0.5):
    matches = match_anchors__raised_table(box_iou(boxes, anchors).nan_to_num(0), threshold)
    rows = (matches >= 0).nonzero()[:, 0]
    classes = torch.zeros(len(anchors), dtype=torch.long).index_put((rows,), labels[matches[rows]])
    deltas = torch.zeros_like(anchors).index_copy(0, rows, _coded(boxes[matches[rows]], anchors[rows]))
    return [classes, deltas]
