"""Right answers to the exercises of lesson 13, in other forms."""

import math

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn


def locations__plain_loops(grid, stride):
    points = []
    for row in range(grid[1]):
        for column in range(grid[0]):
            points.append((column * stride + stride // 2, row * stride + stride // 2))
    return torch.tensor(points, dtype=torch.float32).view(-1, 2)


def locations__one_count(grid, stride):
    """From the number of each cell: its quotient and its rest by the width."""
    columns, rows = grid
    cell = torch.arange(columns * rows)
    x, y = cell % max(columns, 1), torch.div(cell, max(columns, 1), rounding_mode="floor")
    return (torch.stack((x, y), dim=1) * stride + stride // 2).float()


def locations__numpy(grid, stride):
    x, y = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]))
    points = np.stack([x.ravel(), y.ravel()], axis=1) * stride + stride // 2
    return torch.from_numpy(points.astype(np.float32))


def locations__cartesian_product(grid, stride):
    y, x = (math.floor(stride / 2) + torch.arange(0, n * stride, stride, dtype=torch.float32) for n in grid[::-1])
    return torch.cartesian_prod(y, x).flip(-1).reshape(-1, 2)


def fcos_targets__level_by_level(locations, boxes, labels, ranges):
    """As the authors write it: levels apart, areas of what does not count set to infinity."""
    all_labels, all_sides = [], []
    for xy, low, high in zip(locations, ranges, ranges[1:]):
        if len(boxes) == 0 or len(xy) == 0:
            all_labels.append(torch.zeros(len(xy), dtype=torch.long))
            all_sides.append(xy.new_zeros((len(xy), 4)))
            continue
        xs, ys = xy[:, 0], xy[:, 1]
        left = xs[:, None] - boxes[:, 0][None]
        top = ys[:, None] - boxes[:, 1][None]
        right = boxes[:, 2][None] - xs[:, None]
        bottom = boxes[:, 3][None] - ys[:, None]
        sides = torch.stack([left, top, right, bottom], dim=2)
        inside = sides.min(dim=2)[0] > 0
        most = sides.max(dim=2)[0]
        cared = (most >= low) & (most <= high)
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].repeat(len(xy), 1)
        area[~inside] = float("inf")
        area[~cared] = float("inf")
        least, index = area.min(dim=1)
        index = torch.stack([(row == value).nonzero()[0, 0] for row, value in zip(area, least)])  # the first of ties
        classes = labels[index].clone()
        found = sides[torch.arange(len(xy)), index].clone()
        classes[least == float("inf")] = 0
        found[least == float("inf")] = 0
        all_labels.append(classes)
        all_sides.append(found)
    return torch.cat(all_labels), torch.cat(all_sides)


def fcos_targets__painted(locations, boxes, labels, ranges):
    """Largest box first, the later ones paint over it."""
    points = torch.cat(list(locations))
    level = torch.cat([torch.full((len(xy),), i) for i, xy in enumerate(locations)]).long()
    ends = torch.tensor([float(m) for m in ranges], dtype=torch.float64)
    classes, sides = torch.zeros(len(points), dtype=torch.int64), torch.zeros(len(points), 4, dtype=points.dtype)
    size = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order = sorted(range(len(boxes)), key=lambda i: (-size[i].item(), -i))
    for i in order:
        ltrb = torch.cat([points - boxes[i, :2], boxes[i, 2:] - points], 1)
        most = ltrb.max(1).values
        hit = (ltrb > 0).all(1) & (most >= ends[level]) & (most <= ends[level + 1])
        classes[hit] = labels[i]
        sides[hit] = ltrb[hit]
    return classes, sides


def fcos_targets__plain_loops(locations, boxes, labels, ranges):
    classes, sides = [], []
    for number, level in enumerate(locations):
        for x, y in level.tolist():
            choice = None
            for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                ltrb = (x - x1, y - y1, x2 - x, y2 - y)
                if any(side <= 0 for side in ltrb) or max(ltrb) < ranges[number] or max(ltrb) > ranges[number + 1]:
                    continue
                area = (x2 - x1) * (y2 - y1)
                if choice is None or area < choice[0]:
                    choice = area, int(labels[i]), ltrb
            classes.append(choice[1] if choice else 0)
            sides.append(choice[2] if choice else (0, 0, 0, 0))
    return [torch.tensor(classes, dtype=torch.int64), torch.tensor(sides, dtype=locations[0].dtype).reshape(-1, 4)]


def fcos_targets__sorted_boxes(locations, boxes, labels, ranges):
    """Boxes sorted by area; the first that fits has the location."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = torch.argsort(area, stable=True)
    boxes, labels = boxes[order], labels[order]
    nobody = torch.zeros(1, dtype=torch.int64)
    names, rows = torch.cat([labels, nobody]), []
    answer = []
    for level, xy in enumerate(locations):
        ltrb = torch.cat([xy[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - xy[:, None]], 2)  # [P, M, 4]
        far = ltrb.max(-1).values if len(boxes) else ltrb[..., 0]
        fits = (ltrb > 0).all(-1) & ~(far < ranges[level]) & ~(far > ranges[level + 1])
        fits = torch.cat([fits, torch.ones(len(xy), 1, dtype=torch.bool)], 1).to(torch.uint8)
        first = fits.argmax(1)
        sides = torch.cat([ltrb, xy.new_zeros(len(xy), 1, 4)], 1)
        answer.append(names[first])
        rows.append(sides.gather(1, first[:, None, None].expand(-1, 1, 4)).squeeze(1))
    return torch.cat(answer), torch.cat(rows)


def centerness__masked(ltrb):
    result = torch.zeros_like(ltrb[:, 0])
    inside = (ltrb > 0).all(dim=1)
    lr, tb = ltrb[inside][:, [0, 2]], ltrb[inside][:, [1, 3]]
    result[inside] = torch.sqrt(lr.min(-1)[0] / lr.max(-1)[0] * (tb.min(-1)[0] / tb.max(-1)[0]))
    return result


def centerness__plain_loops(ltrb):
    values = []
    for l, t, r, b in ltrb.tolist():
        inside = l > 0 and t > 0 and r > 0 and b > 0
        values.append(math.sqrt(min(l, r) / max(l, r)) * math.sqrt(min(t, b) / max(t, b)) if inside else 0.0)
    return torch.tensor(values, dtype=ltrb.dtype, device=ltrb.device)


def centerness__of_the_ratio_and_its_inverse(ltrb):
    inside = (ltrb.amin(1) > 0) if len(ltrb) else torch.zeros(0, dtype=torch.bool)
    safe = torch.where(inside[:, None], ltrb, torch.ones_like(ltrb))
    ratio = safe[:, :2] / safe[:, 2:]  # l/r, t/b
    return torch.minimum(ratio, 1 / ratio).prod(1).pow(0.5) * inside


def centerness__in_logarithms(ltrb):
    inside = (ltrb > 0).all(1)
    left, top, right, bottom = torch.where(inside[:, None], ltrb, 1.0).log().T
    return torch.where(inside, torch.exp(-((left - right).abs() + (top - bottom).abs()) / 2), 0.0)


class Tower(nn.Sequential):
    def __init__(self, channels, depth):
        super().__init__()
        for i in range(depth):
            self.append(nn.Conv2d(channels, channels, kernel_size=3, stride=1, padding="same"))
            self.append(nn.GroupNorm(32 if channels >= 32 else channels, channels))
            self.append(nn.ReLU(inplace=True))


class FCOSHead__level_by_level(nn.Module):
    """permute and reshape, strides by shifting, exp of each level apart; a list is returned."""

    def __init__(self, channels, num_classes, levels, depth=4):
        super().__init__()
        self.num_classes, self.levels = num_classes, list(levels)
        self.scales = nn.Parameter(torch.full((len(self.levels),), 1.0))
        self.box_tower, self.class_tower = Tower(channels, depth), Tower(channels, depth)
        self.center_logits = nn.Conv2d(channels, 1, 3, 1, 1)
        self.box_distances = nn.Conv2d(channels, 4, 3, 1, 1)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, 1, 1)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 4:
                torch.nn.init.normal_(parameter, 0.0, 0.01)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.bias.data.zero_()
        self.class_logits.bias.data.fill_(math.log(0.01 / 0.99))

    def forward(self, features):
        answers = [[], [], []]
        for index, x in enumerate(features):
            a, b = self.class_tower(x), self.box_tower(x)
            distances = (self.box_distances(b) * self.scales[index]).exp() * (1 << self.levels[index])
            for rows, output in zip(answers, (self.class_logits(a), distances, self.center_logits(a))):
                rows.append(output.permute(0, 2, 3, 1).reshape(x.shape[0], -1, output.shape[1]))
        logits, distances, centers = (torch.cat(rows, dim=1) for rows in answers)
        return [logits, distances, centers.squeeze(-1)]


class FCOSHead__joined_before_exp(nn.Module):
    """All levels joined first; then one exp, with a scale and a stride for each row."""

    def __init__(self, channels, num_classes, levels, depth=4):
        super().__init__()

        def convolution(outputs):
            layer = nn.Conv2d(channels, outputs, (3, 3), padding=(1, 1))
            with torch.no_grad():
                layer.weight.copy_(0.01 * torch.randn_like(layer.weight))
                layer.bias.fill_(0)
            return layer

        def tower():
            return nn.Sequential(
                *(part for _ in range(depth) for part in (convolution(channels), nn.GroupNorm(math.gcd(32, channels), channels), nn.ReLU()))
            )

        self.class_tower, self.box_tower = tower(), tower()
        self.class_logits, self.box_distances, self.center_logits = convolution(num_classes), convolution(4), convolution(1)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - 0.01) / 0.01))
        self.scales = nn.Parameter(torch.ones(len(levels)))
        self.register_buffer("strides", torch.tensor([2.0**level for level in levels]), persistent=False)

    def forward(self, features):
        classes = [self.class_tower(x) for x in features]
        sizes = torch.tensor([x.shape[-1] * x.shape[-2] for x in features])
        x = torch.cat([self.box_distances(self.box_tower(x)).flatten(2) for x in features], 2).transpose(1, 2)
        scale, stride = (torch.repeat_interleave(v, sizes)[:, None] for v in (self.scales, self.strides))
        logits = torch.cat([self.class_logits(c).movedim(1, -1).flatten(1, 2) for c in classes], 1)
        centers = torch.cat([self.center_logits(c)[:, 0].flatten(1) for c in classes], 1)
        return logits, torch.exp(x * scale + stride.log()), centers


class FCOSHead__functions(nn.Module):
    """The norm and ReLU as functions of a subclass; forward in two helpers."""

    def __init__(self, channels, num_classes, levels, depth=4):
        super().__init__()
        towers = []
        for _ in range(2):
            layers = []
            while len(layers) < 3 * depth:
                layers.extend([nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(min(channels, 32), channels), nn.ReLU()])
            towers.append(nn.Sequential(*layers))
        self.class_tower, self.box_tower = towers
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.center_logits = nn.Conv2d(channels, 1, 3, padding=1)
        self.apply(self.begin)
        with torch.no_grad():
            self.class_logits.bias -= math.log(99)
        self.scales = nn.Parameter(torch.tensor([1.0] * len(levels)))
        self.levels = levels

    @staticmethod
    def begin(module):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, mean=0, std=0.01)
            nn.init.constant_(module.bias, 0)

    @staticmethod
    def rows(output):
        b, c, h, w = output.shape
        return output.reshape(b, c, h * w).swapaxes(1, 2)

    def forward(self, features):
        logits = torch.cat([self.rows(self.class_logits(self.class_tower(x))) for x in features], 1)
        centers = torch.cat([self.rows(self.center_logits(self.class_tower(x))) for x in features], 1)[..., 0]
        distances = [
            self.rows(2**l * torch.exp(s * self.box_distances(self.box_tower(x))))
            for x, l, s in zip(features, self.levels, self.scales.unbind())
        ]
        return logits, torch.cat(distances, 1), centers


def focal(x, y):
    entropy = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    p = torch.sigmoid(x)
    weight = torch.where(y == 1, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    return weight * entropy


def fcos_loss__corner_boxes(logits, ltrb, center_logits, labels, target_ltrb):
    """Distances as boxes around 0, whose IoU the library gives; one-hot by F.one_hot."""
    keep = labels > 0
    count = max(int(keep.sum()), 1)
    one_hot = F.one_hot(labels, logits.shape[-1] + 1)[..., 1:].to(logits)
    said, true = (torch.cat((-v[keep][:, :2], v[keep][:, 2:]), 1) for v in (ltrb, target_ltrb))
    iou = torchvision.ops.box_iou(said, true).diagonal()
    want = centerness__masked(target_ltrb[keep])
    center = F.softplus(center_logits[keep]) - want * center_logits[keep]
    return focal(logits, one_hot).sum() / count, -torch.log(iou + 1e-9).sum() / count, center.sum() / count


def fcos_loss__masks_over_everything(logits, ltrb, center_logits, labels, target_ltrb):
    """Nothing is picked out: background is multiplied by 0, with ones in the place of its numbers."""
    mask = (labels > 0).to(logits.dtype)
    count = mask.sum().clamp(min=1.0)
    targets = torch.zeros_like(logits)
    for k in range(logits.shape[-1]):
        targets[..., k] = (labels == k + 1).to(logits.dtype)
    l, t, r, b = torch.where(mask[..., None] > 0, ltrb, torch.ones_like(ltrb)).unbind(-1)
    tl, tt, tr, tb = torch.where(mask[..., None] > 0, target_ltrb, torch.ones_like(ltrb)).unbind(-1)
    width, height = torch.min(l, tl) + torch.min(r, tr), torch.min(t, tt) + torch.min(b, tb)
    union = (l + r) * (t + b) + (tl + tr) * (tt + tb) - width * height
    box = torch.log(union) - torch.log((width * height).clamp(min=1e-7))
    want = torch.sqrt(torch.min(tl, tr) / torch.max(tl, tr) * torch.min(tt, tb) / torch.max(tt, tb))
    center = F.binary_cross_entropy_with_logits(center_logits, want, reduction="none")
    return [focal(logits, targets).sum() / count, (box * mask).sum() / count, (center * mask).sum() / count]


def fcos_loss__image_by_image(logits, ltrb, center_logits, labels, target_ltrb):
    sums = [logits.sum() * 0, ltrb.sum() * 0, center_logits.sum() * 0]
    count = 0
    for x, said, c, label, true in zip(logits, ltrb, center_logits, labels, target_ltrb):
        where = label.nonzero().flatten()
        targets = torch.zeros_like(x)
        targets[where, label[where] - 1] = 1
        sums[0] = sums[0] + focal(x, targets).sum()
        for i in where.tolist():
            a, b = said[i], true[i]
            m = torch.minimum(a, b)
            shared = (m[0] + m[2]) * (m[1] + m[3])
            union = (a[0] + a[2]) * (a[1] + a[3]) + (b[0] + b[2]) * (b[1] + b[3]) - shared
            sums[1] = sums[1] - (shared / union + 1e-10).log()
            sums[2] = sums[2] + F.binary_cross_entropy_with_logits(c[i], centerness__plain_loops(b[None])[0])
        count += len(where)
    return tuple(value / max(count, 1) for value in sums)


def fcos_predict__top_k(logits, ltrb, center_logits, locations, image_size, score_threshold=0.05, iou_threshold=0.6,
                        candidates=1000, top_k=100, sqrt=False):  # fmt: skip
    """As torchvision: flat scores, a mask, a stable sort, quotient and rest; NMS of boxes moved apart by class."""
    answers = []
    sizes = [p.shape[0] for p in locations]
    for image in range(logits.shape[0]):
        boxes, scores, labels = [], [], []
        pieces = (logits[image].split(sizes), ltrb[image].split(sizes), center_logits[image].split(sizes))
        for x, sides, c, xy in zip(*pieces, locations):
            score = (torch.sigmoid(x) * torch.sigmoid(c).unsqueeze(1)).flatten()
            score = torch.sqrt(score) if sqrt else score
            keep = torch.where(score > score_threshold)[0]
            best = torch.sort(score[keep], descending=True, stable=True)
            keep = keep[best.indices[:candidates]]
            row = torch.div(keep, x.shape[1], rounding_mode="floor")
            box = torch.cat((xy[row] - sides[row, :2], xy[row] + sides[row, 2:]), dim=1)
            box[:, 0::2] = box[:, 0::2].clamp(0, image_size[0])
            box[:, 1::2] = box[:, 1::2].clamp(0, image_size[1])
            boxes.append(box)
            scores.append(score[keep])
            labels.append(keep % x.shape[1] + 1)
        box, score, label = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        apart = box.double() + (label * (max(image_size) + 1.0))[:, None]
        keep = torchvision.ops.nms(apart, score.double(), iou_threshold)
        keep = torch.tensor(sorted(keep.tolist(), key=lambda i: (-score[i].item(), i)), dtype=torch.long)[:top_k]
        answers.append(dict(boxes=box[keep], scores=score[keep], labels=label[keep]))
    return answers


def fcos_predict__class_by_class(logits, ltrb, center_logits, locations, image_size, score_threshold=0.05, iou_threshold=0.6,
                                 candidates=1000, top_k=100, sqrt=False):  # fmt: skip
    """Candidates chosen by a rank in each level, NMS class by class, then one stable sort."""
    every = []
    level = torch.cat([torch.full((len(xy),), i) for i, xy in enumerate(locations)])
    xy = torch.cat(tuple(locations))
    for x, sides, c in zip(logits, ltrb, center_logits):
        p = x.sigmoid() * c.sigmoid().reshape(-1, 1)
        p = p ** (0.5 if sqrt else 1)
        box = torch.stack([xy[:, 0] - sides[:, 0], xy[:, 1] - sides[:, 1], xy[:, 0] + sides[:, 2], xy[:, 1] + sides[:, 3]], 1)
        box = torchvision.ops.clip_boxes_to_image(box, (image_size[1], image_size[0]))
        chosen = torch.zeros_like(p, dtype=torch.bool)
        for number in range(len(locations)):
            flat = torch.where((level == number)[:, None] & (p > score_threshold), p, -1.0).flatten()
            order = flat.argsort(descending=True, stable=True)[:candidates]
            chosen.view(-1)[order[flat[order] > 0]] = True
        found = []
        for k in range(x.shape[1]):
            rows = chosen[:, k].nonzero()[:, 0]
            rows = rows[torchvision.ops.nms(box[rows], p[rows, k], iou_threshold)]
            found += [(-p[i, k].item(), level[i].item(), i, k + 1) for i in rows.tolist()]
        found = sorted(found)[:top_k]
        rows, labels = [f[2] for f in found], torch.tensor([f[3] for f in found], dtype=torch.int64)
        every.append({"labels": labels, "scores": p[rows, labels - 1] if rows else p.new_zeros(0), "boxes": box[rows].reshape(-1, 4)})
    return every


def fcos_predict__plain_loops(logits, ltrb, center_logits, locations, image_size, score_threshold=0.05, iou_threshold=0.6,
                              candidates=1000, top_k=100, sqrt=False):  # fmt: skip
    """Pairs as tuples; greedy removal by hand."""
    found = []
    width, height = image_size
    chances = torch.sigmoid(logits) * torch.sigmoid(center_logits).unsqueeze(-1)
    chances = chances.sqrt() if sqrt else chances
    for image in range(len(logits)):
        pool, row = [], 0
        for points in locations:
            mine = []
            for x, y in points.tolist():
                l, t, r, b = ltrb[image, row].tolist()
                box = (max(0.0, min(x - l, width)), max(0.0, min(y - t, height)), min(x + r, width), min(y + b, height))
                for k, chance in enumerate(chances[image, row].tolist()):
                    if chance > score_threshold:
                        mine.append((chance, box, k + 1))
                row += 1
            pool += sorted(mine, key=lambda pair: pair[0], reverse=True)[:candidates]
        pool.sort(key=lambda pair: pair[0], reverse=True)
        kept = []
        for chance, box, label in pool:
            if len(kept) == top_k:
                break
            alike = torch.tensor([other for _, other, name in kept if name == label], dtype=torch.float64).reshape(-1, 4)
            if not bool((torchvision.ops.box_iou(torch.tensor([box], dtype=torch.float64), alike).nan_to_num() > iou_threshold).any()):
                kept.append((chance, box, label))
        found.append({
            "boxes": torch.tensor([box for _, box, _ in kept], dtype=ltrb.dtype).reshape(-1, 4),
            "scores": torch.tensor([chance for chance, _, _ in kept], dtype=logits.dtype),
            "labels": torch.tensor([label for _, _, label in kept], dtype=torch.int64),
        })  # fmt: skip
    return found


def repaired_targets__distance_from_the_middle(locations, boxes, labels, ranges, strides, radius=1.5):
    names, sides = [], []
    for xy, low, high, stride in zip(locations, ranges, ranges[1:], strides):
        name = torch.zeros(len(xy), dtype=torch.int64)
        side = torch.zeros(len(xy), 4, dtype=xy.dtype)
        if len(boxes):
            away = (xy[:, None] - boxes.reshape(-1, 2, 2).mean(1)).abs().amax(-1)  # [P_l, M]
            l, t = (xy[:, None] - boxes[:, :2]).unbind(-1)
            r, b = (boxes[:, 2:] - xy[:, None]).unbind(-1)
            all_four = torch.stack((l, t, r, b), 2)
            longest = all_four.max(2).values
            fits = (away < radius * stride) & (all_four > 0).all(2) & (longest >= low) & (longest <= high)
            for p in range(len(xy)):
                takers = fits[p].nonzero().flatten().tolist()
                if takers:
                    m = min(takers, key=lambda m: (boxes[m, 2] - boxes[m, 0]).item() * (boxes[m, 3] - boxes[m, 1]).item())
                    name[p], side[p] = labels[m], all_four[p, m]
        names.append(name)
        sides.append(side)
    return torch.cat(names), torch.cat(sides)


def repaired_targets__box_over_box(locations, boxes, labels, ranges, strides, radius=1.5):
    """The largest box writes first, smaller ones over it."""
    xy = torch.cat(locations)
    names, sides = torch.zeros(len(xy), dtype=torch.int64), torch.zeros(len(xy), 4, dtype=xy.dtype)
    level = torch.cat([torch.full((len(part),), i) for i, part in enumerate(locations)])
    ends, reach = torch.tensor(ranges, dtype=xy.dtype), radius * torch.tensor(strides, dtype=xy.dtype)
    area = [((b[2] - b[0]) * (b[3] - b[1])).item() for b in boxes]
    for m in sorted(range(len(boxes)), key=lambda m: (-area[m], -m)):
        sides_of = torch.cat([xy - boxes[m, :2], boxes[m, 2:] - xy], 1)
        off = (xy - (boxes[m, :2] + boxes[m, 2:]) / 2).abs().max(1)[0]
        far = sides_of.amax(1)
        has = (off < reach[level]) & (sides_of.amin(1) > 0) & (far >= ends[level]) & (far <= ends[level + 1])
        names[has], sides[has] = labels[m], sides_of[has]
    return [names, sides]


def repaired_targets__by_loops(locations, boxes, labels, ranges, strides, radius=1.5):
    names, sides = [], []
    for i, xy in enumerate(locations):
        for x, y in xy.tolist():
            candidates = []
            for m, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
                if not (x1 < x < x2 and y1 < y < y2):
                    continue
                if abs(2 * x - x1 - x2) >= 2 * radius * strides[i] or abs(2 * y - y1 - y2) >= 2 * radius * strides[i]:
                    continue
                distances = (x - x1, y - y1, x2 - x, y2 - y)
                if ranges[i] <= max(distances) <= ranges[i + 1]:
                    candidates.append(((x2 - x1) * (y2 - y1), m, distances))
            area, m, distances = min(candidates, default=(0, None, (0.0, 0.0, 0.0, 0.0)))
            names.append(0 if m is None else int(labels[m]))
            sides.append(distances)
    return torch.tensor(names, dtype=torch.int64), torch.tensor(sides, dtype=locations[0].dtype).reshape(-1, 4)
