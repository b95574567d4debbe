"""Right answers to the exercises of lesson 11, in other forms."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.functional import smooth_l1_loss


def balanced_cross_entropy__where_and_softplus(logits, targets, alpha=0.25):
    return torch.where(targets > 0.5, alpha * F.softplus(-logits), (1 - alpha) * F.softplus(logits))


def balanced_cross_entropy__weight_of_the_library(logits, targets, alpha=0.25):
    weight = torch.empty_like(logits).fill_(1 - alpha)
    weight[targets == 1] = alpha
    return nn.BCEWithLogitsLoss(weight=weight, reduction="none")(logits, targets)


def balanced_cross_entropy__log_sigmoid(logits, targets, alpha=0.25):
    foreground = alpha * targets * F.logsigmoid(logits)
    background = (1 - alpha) * (1 - targets) * F.logsigmoid(-logits)
    return -(foreground + background)


def balanced_cross_entropy__softmax_of_two(logits, targets, alpha=0.25):
    """Foreground and background as two classes, whose cross entropy has a weight for each."""
    two = torch.stack([torch.zeros_like(logits), logits], -1).reshape(-1, 2)
    weight = logits.new_tensor([1 - alpha, alpha])
    return F.cross_entropy(two, targets.long().reshape(-1), weight, reduction="none").reshape(logits.shape)


def focal_loss__by_the_book(logits, targets, alpha=0.25, gamma=2.0):
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return alpha_t * (1 - p_t) ** gamma * entropy


def focal_loss__in_logarithms(logits, targets, alpha=0.25, gamma=2.0):
    z = (2 * targets - 1) * logits
    weight = torch.where(targets.bool(), torch.full_like(z, alpha), torch.full_like(z, 1 - alpha))
    return -weight * torch.exp(gamma * F.logsigmoid(-z)) * F.logsigmoid(z)


def focal_loss__two_masks(logits, targets, alpha=0.25, gamma=2.0):
    result = torch.zeros_like(logits)
    foreground = targets == 1
    x, y = logits[foreground], logits[~foreground]
    result[foreground] = alpha * torch.sigmoid(-x).pow(gamma) * F.softplus(-x)
    result[~foreground] = (1 - alpha) * torch.sigmoid(y).pow(gamma) * F.softplus(y)
    return result


def focal_loss__p_t_from_the_entropy(logits, targets, alpha=0.25, gamma=2.0):
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return weight * (-torch.expm1(-entropy)).pow(gamma) * entropy


def prior_bias__tensor(prior=0.01):
    return torch.logit(torch.tensor(prior, dtype=torch.float64))


def prior_bias__numpy(prior=0.01):
    return float(np.log(prior) - np.log1p(-prior))


def prior_bias__float32(prior=0.01):
    return torch.special.logit(torch.as_tensor(float(prior))).item()


def prior_bias__search(prior=0.01):
    """Where the sigmoid is the prior, by halving."""
    low, high = -30.0, 30.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / (1 + math.exp(-middle)) < prior else (low, middle)
    return low


def bias_of(prior=0.01):
    return math.log(prior / (1 - prior))


class RetinaNetHead__lists_of_layers(nn.Module):
    """Hidden layers in module lists, ReLU as a function, levels by comprehension; a list is returned."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.k = num_classes
        self.cls = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(4))
        self.box = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(4))
        self.cls_out = nn.Conv2d(channels, anchors_per_cell * num_classes, 3, 1, 1)
        self.box_out = nn.Conv2d(channels, anchors_per_cell * 4, 3, 1, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                torch.nn.init.normal_(parameter, mean=0.0, std=0.01)
            else:
                torch.nn.init.constant_(parameter, 0.0)
        torch.nn.init.constant_(self.cls_out.bias, bias_of())

    def one(self, x, hidden, last, columns):
        for layer in hidden:
            x = F.relu(layer(x))
        x = last(x)
        return x.permute(0, 2, 3, 1).contiguous().view(x.size(0), -1, columns)

    def forward(self, features):
        return [
            torch.cat([self.one(x, self.cls, self.cls_out, self.k) for x in features], dim=1),
            torch.cat([self.one(x, self.box, self.box_out, 4) for x in features], dim=1),
        ]


class RetinaNetHead__as_torchvision_lays_it_out(nn.Module):
    """[B, A, K, H, W] in between; weights set through .data; subnets in a ModuleDict, boxes first."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.columns = {"box": 4, "class": num_classes}
        self.subnets = nn.ModuleDict()
        for name, columns in self.columns.items():
            stack = []
            for _ in range(4):
                stack.append(nn.Conv2d(channels, channels, kernel_size=3, padding="same"))
                stack.append(nn.ReLU(inplace=True))
            stack.append(nn.Conv2d(channels, anchors_per_cell * columns, kernel_size=3, padding="same"))
            self.subnets[name] = nn.Sequential(*stack)
        self.apply(self.begin)
        self.subnets["class"][-1].bias.data.fill_(bias_of())

    @staticmethod
    def begin(layer):
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = torch.randn_like(layer.weight) * 0.01
            layer.bias.data.zero_()

    def rows(self, name, features):
        found = []
        for feature in features:
            out = self.subnets[name](feature)
            b, _, h, w = out.shape
            found.append(out.view(b, -1, self.columns[name], h, w).permute(0, 3, 4, 1, 2).flatten(1, 3))
        return torch.cat(found, dim=1)

    def forward(self, features):
        return self.rows("class", features), self.rows("box", features)


class RetinaNetHead__bare_parameters(nn.Module):
    """Kernels as parameters of the module itself, and the functional convolution."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        self.k = num_classes
        for name, last in (("cls", anchors_per_cell * num_classes), ("box", anchors_per_cell * 4)):
            for i, outputs in enumerate([channels] * 4 + [last]):
                self.register_parameter(f"{name}_w{i}", nn.Parameter(torch.empty(outputs, channels, 3, 3).normal_(0, 0.01)))
                self.register_parameter(f"{name}_b{i}", nn.Parameter(torch.zeros(outputs)))
        with torch.no_grad():
            self.cls_b4 += bias_of()

    def forward(self, features):
        answers = []
        for name, columns in (("cls", self.k), ("box", 4)):
            rows = []
            for x in features:
                for i in range(5):
                    x = F.conv2d(x, getattr(self, f"{name}_w{i}"), getattr(self, f"{name}_b{i}"), padding=1)
                    x = x.clamp(min=0) if i < 4 else x
                rows.append(x.movedim(1, -1).flatten(1).unflatten(1, (-1, columns)))
            answers.append(torch.cat(rows, 1))
        return tuple(answers)


def focal(logits, targets):
    return focal_loss__by_the_book(logits, targets)


def retinanet_loss__one_hot_and_mask(logits, deltas, labels, target_deltas):
    one_hot = F.one_hot(labels.clamp(min=0), logits.shape[-1] + 1)[..., 1:].type_as(logits)
    positives = (labels > 0).sum().clamp(min=1).to(logits.dtype)
    mask = (labels != -1).unsqueeze(-1)
    classification = (focal(logits, one_hot) * mask).sum() / positives
    off = smooth_l1_loss(deltas, target_deltas, reduction="none") * (labels > 0).unsqueeze(-1)
    return classification, off.sum() / positives


def retinanet_loss__flat_with_indices(logits, deltas, labels, target_deltas):
    flat = labels.reshape(-1)
    found, kept = torch.where(flat > 0)[0], torch.where(flat != -1)[0]
    targets = torch.zeros_like(logits).reshape(-1, logits.shape[-1])
    targets[found, flat[found] - 1] = 1
    normaliser = max(1, found.numel())
    classification = focal(logits.reshape(targets.shape)[kept], targets[kept]).sum() / normaliser
    localisation = smooth_l1_loss(deltas.reshape(-1, 4)[found], target_deltas.reshape(-1, 4)[found], reduction="sum")
    return [classification, localisation / normaliser]


def retinanet_loss__image_by_image(logits, deltas, labels, target_deltas):
    classification, localisation, positives = logits.sum() * 0, deltas.sum() * 0, 0
    for image in range(labels.shape[0]):
        for k in range(logits.shape[2]):
            kept = labels[image] >= 0
            x, y = logits[image, kept, k], (labels[image, kept] == k + 1).to(logits.dtype)
            classification = classification + focal(x, y).sum()
        rows = labels[image] > 0
        u = (deltas[image, rows] - target_deltas[image, rows]).abs()
        localisation = localisation + torch.where(u < 1, u**2 / 2, u - 0.5).sum()
        positives += int(rows.sum())
    return classification / max(positives, 1), localisation / max(positives, 1)


def moved(deltas, anchors):
    size = anchors[..., 2:] - anchors[..., :2]
    centre = anchors[..., :2] + size / 2 + deltas[..., :2] * 0.1 * size
    size = size * torch.exp((deltas[..., 2:] * 0.2).clamp(max=math.log(1000 / 16)))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def repaired_predict__all_boxes_first(logits, deltas, anchors, counts, image_size, score_threshold=0.02, candidates=1000,
                                      iou_threshold=0.5, top_k=100):  # fmt: skip
    import torchvision

    results = []
    for said, offsets in zip(logits, deltas):
        boxes = torchvision.ops.clip_boxes_to_image(moved(offsets, anchors), image_size[::-1])
        chance = 1 / (1 + torch.exp(-said))
        masked = torch.where(chance > score_threshold, chance, -1.0)
        picks, first = [], 0
        for count in counts:
            flat = masked[first : first + count].flatten()
            order = flat.argsort(descending=True)[:candidates]
            picks.append(order[flat[order] >= 0] + first * said.shape[1])
            first += count
        picks = torch.cat(picks)
        rows, k = picks // max(said.shape[1], 1), picks % max(said.shape[1], 1)
        scores = chance[rows, k]
        keep = torchvision.ops.batched_nms(boxes[rows], scores, k, iou_threshold)[:top_k]
        results.append(dict(labels=k[keep] + 1, scores=scores[keep], boxes=boxes[rows[keep]]))
    return results


def repaired_predict__class_by_class(logits, deltas, anchors, counts, image_size, score_threshold=0.02, candidates=1000,
                                     iou_threshold=0.5, top_k=100):  # fmt: skip
    from torchvision.ops import nms

    width, height = image_size
    starts = [sum(counts[:i]) for i in range(len(counts) + 1)]
    answers = []
    for b in range(len(logits)):
        scores = torch.special.expit(logits[b])
        x1, y1, x2, y2 = moved(deltas[b], anchors).unbind(-1)
        boxes = torch.stack([x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)], 1)
        allowed = torch.zeros_like(scores, dtype=torch.bool)
        for start, stop in zip(starts, starts[1:]):
            part = scores[start:stop]
            good = part[part > score_threshold]
            if len(good):
                allowed[start:stop] = (part > score_threshold) & (part >= good.sort(descending=True).values[:candidates][-1])
        found = []
        for label in range(1, scores.shape[1] + 1):
            mine = allowed[:, label - 1].nonzero().flatten()
            for i in mine[nms(boxes[mine], scores[mine, label - 1], iou_threshold)].tolist():
                found.append((scores[i, label - 1].item(), label, i))
        found = sorted(found, reverse=True)[:top_k]
        index = torch.tensor([i for _, _, i in found], dtype=torch.int64)
        labels = torch.tensor([label for _, label, _ in found], dtype=torch.int64)
        answers.append({"boxes": boxes[index], "scores": scores[index, labels - 1], "labels": labels})
    return answers


def repaired_predict__heap_and_greedy(logits, deltas, anchors, counts, image_size, score_threshold=0.02, candidates=1000,
                                      iou_threshold=0.5, top_k=100):  # fmt: skip
    import heapq

    from torchvision.ops import box_iou

    answers = []
    for said, offsets in zip(logits.sigmoid(), deltas):
        boxes = moved(offsets, anchors)
        boxes = torch.maximum(torch.minimum(boxes, boxes.new_tensor(image_size * 2)), boxes.new_zeros(4))
        pool, row = [], 0
        for count in counts:
            pairs = [(said[n, k].item(), n, k) for n in range(row, row + count) for k in range(said.shape[1])]
            pool += heapq.nlargest(candidates, [pair for pair in pairs if pair[0] > score_threshold])
            row += count
        kept = []
        for score, n, k in sorted(pool, reverse=True):
            rivals = [m for _, m, other in kept if other == k]
            if not rivals or not (box_iou(boxes[n : n + 1], boxes[rivals]) > iou_threshold).any():
                kept.append((score, n, k))
        kept = kept[:top_k]
        rows = torch.tensor([n for _, n, _ in kept], dtype=torch.int64)
        classes = torch.tensor([k for _, _, k in kept], dtype=torch.int64)
        answers.append({"boxes": boxes[rows], "scores": said[rows, classes], "labels": classes + 1})
    return answers
