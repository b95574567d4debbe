"""Right answers to the exercises of lesson 05, in other forms."""

import math

import torch
import torchvision
from torch import nn


class SSDHead__one_layer_a_level(nn.Module):
    """Scores and offsets from one convolution, split afterwards."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.k = num_classes
        self.layers = nn.ModuleList(
            nn.Conv2d(c, a * (num_classes + 5), 3, padding=1) for c, a in zip(channels, anchors_per_cell)
        )

    def forward(self, features):
        maps = [layer(x).movedim(1, -1).flatten(1, 2) for layer, x in zip(self.layers, features)]
        rows = torch.cat([m.unflatten(-1, (-1, self.k + 5)).flatten(1, 2) for m in maps], 1)
        return rows[..., : self.k + 1], rows[..., self.k + 1 :]


class SSDHead__channels_by_class_then_anchor(nn.Module):
    """Output channels in the other order within a cell, which training does not notice; layers in a ModuleDict."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.anchors, self.columns = anchors_per_cell, {"class": num_classes + 1, "box": 4}
        self.layers = nn.ModuleDict()
        for i, (c, a) in enumerate(zip(channels, anchors_per_cell)):
            for name, n in self.columns.items():
                self.layers[f"{name}{i}"] = nn.Conv2d(c, a * n, kernel_size=3, padding=1)

    def forward(self, features):
        answers = []
        for name, n in self.columns.items():
            parts = []
            for i, x in enumerate(features):
                b, _, h, w = x.shape
                out = self.layers[f"{name}{i}"](x).view(b, n, self.anchors[i], h, w)
                parts.append(out.permute(0, 3, 4, 2, 1).reshape(b, h * w * self.anchors[i], n))
            answers.append(torch.cat(parts, dim=1))
        return tuple(answers)


class SSDHead__cell_by_cell(nn.Module):
    """Loops over cells and anchors; parameters registered by name; a list is returned."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.anchors, self.k = anchors_per_cell, num_classes
        for i, (c, a) in enumerate(zip(channels, anchors_per_cell)):
            self.add_module(f"cls_{i}", nn.Conv2d(c, a * (num_classes + 1), 3, 1, 1))
            self.add_module(f"reg_{i}", nn.Conv2d(c, a * 4, 3, 1, 1))

    def forward(self, features):
        answers = []
        for name, n in (("cls", self.k + 1), ("reg", 4)):
            rows = []
            for i, x in enumerate(features):
                out = getattr(self, f"{name}_{i}")(x)
                for row in range(out.shape[2]):
                    for column in range(out.shape[3]):
                        cell = out[:, :, row, column]
                        rows += [cell[:, a * n : (a + 1) * n] for a in range(self.anchors[i])]
            answers.append(torch.stack(rows, 1))
        return answers


class SSDHead__tower(nn.Module):
    """A hidden layer with ReLU in front of the outputs."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()

        def branch(c, n):
            return nn.Sequential(nn.Conv2d(c, 32, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(32, n, 3, padding=1))

        self.k1 = num_classes + 1
        self.cls = nn.ModuleList([branch(c, a * self.k1) for c, a in zip(channels, anchors_per_cell)])
        self.reg = nn.ModuleList([branch(c, a * 4) for c, a in zip(channels, anchors_per_cell)])

    def flat(self, x, n):
        x = x.permute(0, 2, 3, 1).contiguous()
        return x.view(x.size(0), -1, n)

    def forward(self, features):
        cls = torch.cat([self.flat(m(x), self.k1) for m, x in zip(self.cls, features)], dim=1)
        return cls, torch.cat([self.flat(m(x), 4) for m, x in zip(self.reg, features)], dim=1)


def decode(deltas, anchors):
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2 + deltas[..., :2] * 0.1 * size
    size = size * torch.exp((deltas[..., 2:] * 0.2).clamp(max=math.log(1000 / 16)))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def ssd_predict__all_pairs_and_batched_nms(logits, deltas, anchors, image_size, score_threshold, iou_threshold, top_k):
    results = []
    for image in range(len(logits)):
        scores = torch.softmax(logits[image], dim=-1)
        boxes = torchvision.ops.clip_boxes_to_image(decode(deltas[image], anchors), image_size[::-1])
        anchor, label = torch.where(scores[:, 1:] > score_threshold)
        boxes, scores, label = boxes[anchor], scores[anchor, label + 1], label + 1
        keep = torchvision.ops.batched_nms(boxes, scores, label, iou_threshold)[:top_k]
        results.append(dict(boxes=boxes[keep], scores=scores[keep], labels=label[keep]))
    return results


def ssd_predict__greedy_loop(logits, deltas, anchors, image_size, score_threshold, iou_threshold, top_k):
    limit = logits.new_tensor([*image_size, *image_size])
    results = []
    for image_logits, image_deltas in zip(logits, deltas):
        exponentials = torch.exp(image_logits - image_logits.max(dim=1, keepdim=True).values if len(anchors) else image_logits)
        scores = exponentials / exponentials.sum(dim=1, keepdim=True)
        boxes = torch.minimum(decode(image_deltas, anchors).clamp(min=0), limit)
        pairs = [(a, k) for a in range(len(anchors)) for k in range(1, scores.shape[1]) if scores[a, k] > score_threshold]
        pairs.sort(key=lambda pair: -scores[pair].item())
        kept = []
        for a, k in pairs:
            if len(kept) == top_k:
                break
            rivals = [other for other, label in kept if label == k]
            if not rivals or torchvision.ops.box_iou(boxes[a : a + 1], boxes[rivals]).max() <= iou_threshold:
                kept.append((a, k))
        rows = torch.tensor([a for a, _ in kept], dtype=torch.long)
        labels = torch.tensor([k for _, k in kept], dtype=torch.long)
        results.append({"labels": labels, "scores": scores[rows, labels], "boxes": boxes[rows]})
    return results


def ssd_predict__class_by_class_topk(logits, deltas, anchors, image_size, score_threshold, iou_threshold, top_k):
    width, height = image_size
    probabilities = torch.nn.functional.log_softmax(logits, -1).exp()
    results = []
    for p, d in zip(probabilities, deltas):
        x1, y1, x2, y2 = decode(d, anchors).unbind(-1)
        boxes = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], 1)
        parts = []
        for label in range(1, p.shape[-1]):
            mask = p[:, label] > score_threshold
            b, s = boxes[mask], p[mask, label]
            keep = torchvision.ops.nms(b, s, iou_threshold)
            parts.append((b[keep], s[keep], torch.full(keep.shape, label, dtype=torch.int64)))
        b, s, labels = (torch.cat(column) for column in zip(*parts))
        s, order = s.topk(min(top_k, len(s)))
        results.append({"boxes": b[order], "scores": s, "labels": labels[order]})
    return results


def matched(anchors, boxes, labels):
    from coursekit.standins import STANDINS

    return STANDINS["anchor_targets"](anchors, boxes, labels)


def repaired_batch__boxes_by_columns(images, targets, anchors, frames):
    rows, columns = images.shape[-2:]
    pictures, kinds, offsets = [], [], []
    for i, target in enumerate(targets):
        x, y, right, bottom = (int(side) for side in frames[i])
        small = torchvision.transforms.functional.resize(images[i], [bottom - y, right - x], antialias=True)
        pictures.append(nn.functional.pad(small, (x, columns - right, y, rows - bottom), value=0.5))
        x1, y1, x2, y2 = target["boxes"].unbind(-1)
        across, down = (right - x) / columns, (bottom - y) / rows
        moved = torch.stack([x + across * x1, y + down * y1, x + across * x2, y + down * y2], -1)
        kind, offset = matched(anchors, moved, target["labels"])
        kinds.append(kind)
        offsets.append(offset)
    return [torch.stack(pictures), torch.stack(kinds), torch.stack(offsets)]


def repaired_batch__one_affine_map(images, targets, anchors, frames):
    height, width = images.shape[2:]
    sides = images.new_tensor([width, height])
    start, stop = frames[:, :2].to(images), frames[:, 2:].to(images)
    canvas = images * 0 + 0.5
    answers = []
    for b, (u, v, w, z) in enumerate(frames.tolist()):
        canvas[b, :, v:z, u:w] = nn.functional.interpolate(images[b : b + 1], (z - v, w - u), mode="bilinear", antialias=True)[0]
        corners = targets[b]["boxes"].reshape(-1, 2, 2)  # x, y of both corners
        corners = start[b] + corners * ((stop[b] - start[b]) / sides)
        answers.append(matched(anchors, corners.flatten(1), targets[b]["labels"]))
    return canvas, *(torch.stack(part) for part in zip(*answers))


def repaired_batch__box_by_box(images, targets, anchors, frames):
    canvases = []
    labels = torch.zeros(len(images), len(anchors), dtype=torch.int64)
    deltas = anchors.new_zeros(len(images), len(anchors), 4)
    for b in range(len(images)):
        left, top, right, bottom = map(int, frames[b])
        canvas = torch.full(images[b].shape, 0.5, dtype=images.dtype)
        canvas[:, top:bottom, left:right] = nn.functional.interpolate(
            images[b, None], (bottom - top, right - left), mode="bilinear", antialias=True
        ).squeeze(0)
        canvases.append(canvas)
        wide, high = (right - left) / images.shape[3], (bottom - top) / images.shape[2]
        moved = torch.zeros_like(targets[b]["boxes"])
        for m, box in enumerate(targets[b]["boxes"]):
            moved[m, 0::2] = box[0::2] * wide + left
            moved[m, 1::2] = box[1::2] * high + top
        labels[b], deltas[b] = matched(anchors, moved, targets[b]["labels"])
    return torch.stack(canvases), labels, deltas
