"""Right answers to the exercises of lesson 09, in other forms."""

import math
import random

import numpy
import torch
import torchvision
from torch import nn


def cell_anchors__plain_loops(scales=(128, 256, 512), ratios=(1, 0.5, 2)):
    rows = []
    for s in scales:
        for a in ratios:
            w, h = s * math.sqrt(a), s / math.sqrt(a)
            rows.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def cell_anchors__area_and_ratio(scales=(128, 256, 512), ratios=(1, 0.5, 2)):
    """Height from area and ratio, in numpy."""
    s, a = numpy.meshgrid(numpy.asarray(scales, float), numpy.asarray(ratios, float), indexing="ij")
    height = numpy.sqrt(s * s / a).ravel()
    half = numpy.stack([a.ravel() * height, height], 1) / 2
    return torch.from_numpy(numpy.concatenate([-half, half], 1)).float()


def cell_anchors__box_convert(scales=(128, 256, 512), ratios=(1, 0.5, 2)):
    pairs = torch.cartesian_prod(torch.as_tensor(scales).double(), torch.as_tensor(ratios).double()).reshape(-1, 2)
    sizes = torch.stack([pairs[:, 0] * pairs[:, 1] ** 0.5, pairs[:, 0] * pairs[:, 1] ** -0.5], 1)
    boxes = torch.cat([torch.zeros_like(sizes), sizes], 1)
    return torchvision.ops.box_convert(boxes, "cxcywh", "xyxy").float()


def grid_anchors__plain_loops(cell, grid, stride):
    columns, rows = grid
    boxes = []
    for y in range(rows):
        for x in range(columns):
            shift = torch.tensor([x, y, x, y]) * stride + math.floor(stride / 2)
            boxes.extend(anchor + shift for anchor in cell)
    return torch.stack(boxes).to(cell) if boxes else cell.new_zeros(0, 4)


def grid_anchors__from_the_row_number(cell, grid, stride):
    """Which cell and which anchor a row belongs to, by division."""
    w, h = grid
    index = torch.arange(w * h * len(cell), device=cell.device)
    a = index % max(len(cell), 1)
    place = torch.div(index, max(len(cell), 1), rounding_mode="floor")
    x, y = place % max(w, 1), place // max(w, 1)
    shift = torch.stack((x, y, x, y), 1) * stride + stride // 2
    return cell[a] + shift.to(cell.dtype)


def grid_anchors__repeat(cell, grid, stride):
    columns, rows = grid
    xs = (torch.arange(columns) * stride + stride // 2).repeat(rows)
    ys = (torch.arange(rows) * stride + stride // 2).repeat_interleave(columns)
    points = torch.stack([xs, ys], 1).to(cell)
    return cell.repeat(rows * columns, 1) + points.repeat(1, 2).repeat_interleave(len(cell), 0)


def inside_image__clipping_changes_nothing(anchors, image_size):
    width, height = image_size
    return (torchvision.ops.clip_boxes_to_image(anchors, (height, width)) == anchors).all(dim=1)


def inside_image__plain_loops(anchors, image_size):
    width, height = image_size
    inside = [0 <= x1 and 0 <= y1 and x2 <= width and y2 <= height for x1, y1, x2, y2 in anchors.tolist()]
    return torch.tensor(inside, dtype=torch.bool)


def inside_image__margins(anchors, image_size):
    limits = anchors.new_tensor(image_size)
    margins = torch.cat([anchors[:, :2], limits - anchors[:, 2:]], 1)
    return ~(margins < 0).any(1)


def label_rpn_anchors__plain_loops(iou, positive=0.7, negative=0.3):
    objects, anchors = iou.shape
    labels = []
    for a in range(anchors):
        overlaps = [iou[m, a].item() for m in range(objects)]
        if any(value > 0 and value >= iou[m].max().item() for m, value in enumerate(overlaps)):
            labels.append(1)
        elif any(value > positive for value in overlaps):
            labels.append(1)
        elif all(value < negative for value in overlaps):
            labels.append(0)
        else:
            labels.append(-1)
    return torch.tensor(labels, dtype=torch.int64)


def label_rpn_anchors__where(iou, positive=0.7, negative=0.3):
    padded = torch.cat([iou, iou.new_zeros(1, iou.shape[1])])  # an object that nothing meets
    if iou.shape[1] == 0:
        return torch.empty(0, dtype=torch.long)
    best = padded.max(dim=0)[0]
    top = padded.max(dim=1, keepdim=True)[0].masked_fill(padded.max(dim=1, keepdim=True)[0] == 0, 2.0)
    forced = torch.eq(padded, top).sum(0) > 0
    return torch.where(forced | (best > positive), 1, torch.where(best < negative, 0, -1))


def label_rpn_anchors__numpy(iou, positive=0.7, negative=0.3):
    table = iou.numpy()
    labels = numpy.zeros(table.shape[1], dtype=int) - 1
    if table.size == 0:
        return torch.zeros(table.shape[1], dtype=torch.int64)
    labels[(table < negative).all(axis=0)] = 0
    labels[(table > positive).any(axis=0)] = 1
    for row in table:
        if row.max() > 0:
            labels[numpy.flatnonzero(row == row.max())] = 1
    return torch.from_numpy(labels)


def sample_anchors__multinomial(labels, count=256, positive_fraction=0.5, generator=None):
    def draw(mask, most):
        most = min(most, int(mask.sum()))
        if most <= 0:
            return torch.zeros(0, dtype=torch.int64)
        return torch.multinomial(mask.float(), most, replacement=False, generator=generator)

    positives = draw(labels == 1, int(count * positive_fraction))
    return positives, draw(labels == 0, count - len(positives))


def sample_anchors__random_keys(labels, count=256, positive_fraction=0.5, generator=None):
    """A random number for each anchor; the highest of each kind."""
    keys = torch.rand(len(labels), generator=generator)
    chosen = []
    for value, most in ((1, math.floor(count * positive_fraction)), (0, count)):
        most = most - (len(chosen[0]) if chosen else 0)
        of_kind = torch.where(labels == value, keys, -1.0)
        chosen.append(of_kind.topk(min(max(most, 0), int((labels == value).sum()))).indices)
    return tuple(chosen)


def sample_anchors__python(labels, count=256, positive_fraction=0.5, generator=None):
    """Python's own random numbers, seeded by one of torch's; sorted indices in a list of two."""
    dice = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
    kinds = [[i for i, label in enumerate(labels.tolist()) if label == kind] for kind in (1, 0)]
    positives = dice.sample(kinds[0], min(len(kinds[0]), int(count * positive_fraction)))
    negatives = dice.sample(kinds[1], min(len(kinds[1]), count - len(positives)))
    return [torch.tensor(sorted(part), dtype=torch.long) for part in (positives, negatives)]


class RPNHead__one_output_layer(nn.Module):
    """Scores and offsets from one convolution, split afterwards; another order of channels."""

    def __init__(self, channels, anchors_per_cell):
        super().__init__()
        self.a = anchors_per_cell
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding="same"), nn.ReLU(), nn.Conv2d(channels, 5 * self.a, 1)
        )

    def forward(self, feature):
        rows = self.layers(feature).movedim(1, -1).flatten(1, 2).unflatten(-1, (5, self.a)).transpose(2, 3).flatten(1, 2)
        return rows[..., 0], rows[..., 1:]


class RPNHead__linear_on_cells(nn.Module):
    """The 1×1 convolutions as linear layers on the channels of each cell; a wider code; a leaky ReLU."""

    def __init__(self, channels, anchors_per_cell):
        super().__init__()
        self.window = nn.Sequential(nn.Conv2d(channels, 16 + channels, 3, 1, 1), nn.LeakyReLU(0.1))
        self.scores = nn.Linear(16 + channels, anchors_per_cell)
        self.deltas = nn.Linear(16 + channels, 4 * anchors_per_cell)

    def forward(self, x):
        x = self.window(x).permute(0, 2, 3, 1)
        b, h, w, _ = x.shape
        return self.scores(x).reshape(b, -1), self.deltas(x).reshape(b, h * w * self.scores.out_features, 4)


class RPNHead__unfolded(nn.Module):
    """The window as an unfolding, cell by cell."""

    def __init__(self, channels, anchors_per_cell):
        super().__init__()
        self.code = nn.Linear(channels * 9, channels)
        self.out = nn.ModuleList(nn.Linear(channels, n * anchors_per_cell) for n in (1, 4))

    def forward(self, feature):
        windows = nn.functional.unfold(feature, 3, padding=1).transpose(1, 2)
        middle_out = nn.functional.gelu(self.code(windows))
        objectness, deltas = (layer(middle_out) for layer in self.out)
        return [objectness.flatten(1), deltas.reshape(feature.shape[0], -1, 4)]


def smooth(x):
    return torch.where(x.abs() < 1, x * x / 2, x.abs() - 0.5)


def rpn_loss__softplus(objectness, deltas, labels, target_deltas, n_cls=256, n_reg=2400, weight=10.0):
    entropy = nn.functional.softplus(torch.where(labels == 1, -objectness, objectness))
    entropy = torch.where(labels < 0, torch.zeros_like(entropy), entropy).sum()
    wanted = torch.where((labels == 1)[..., None], target_deltas, deltas.detach())
    said = torch.where((labels == 1)[..., None], deltas, deltas.detach())
    return entropy / n_cls, smooth(said - wanted).sum() * weight / n_reg


def rpn_loss__image_by_image(objectness, deltas, labels, target_deltas, n_cls=256, n_reg=2400, weight=10.0):
    classification, localisation = (objectness * 0).sum(), (deltas * 0).sum()
    for o, d, label, t in zip(objectness, deltas, labels, target_deltas):
        for index in torch.nonzero(label >= 0).flatten().tolist():
            sign = 1.0 if label[index] == 1 else -1.0
            classification = classification - nn.functional.logsigmoid(sign * o[index])
            if sign > 0:
                localisation = localisation + smooth(d[index] - t[index]).sum()
    return [classification / n_cls, weight * localisation / n_reg]


def rpn_loss__two_scores(objectness, deltas, labels, target_deltas, n_cls=256, n_reg=2400, weight=10.0):
    """The slides' 2k scores: a softmax over (0, logit) is the sigmoid of the logit."""
    pairs = torch.stack([torch.zeros_like(objectness), objectness], -1).flatten(0, 1)
    entropy = nn.functional.cross_entropy(pairs, labels.flatten(), ignore_index=-1, reduction="sum")
    rows = (labels.flatten() == 1).nonzero()[:, 0]
    error = nn.functional.huber_loss(deltas.flatten(0, 1)[rows], target_deltas.flatten(0, 1)[rows], reduction="sum")
    return entropy.div(n_cls), error.mul(weight).div(n_reg)


def decoded(deltas, anchors):
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * size
    size = size * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([centre - size / 2, centre + size / 2], 1)


@torch.no_grad()
def propose__torchvision_helpers(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    width, height = image_size
    result = []
    for score, delta in zip(objectness, deltas):
        score, best = score.topk(min(pre_nms, len(score)))
        best = best[score.argsort(descending=True, stable=True)]
        score = score.sort(descending=True).values
        boxes = torchvision.ops.clip_boxes_to_image(decoded(delta[best], anchors[best]), (height, width))
        keep = torchvision.ops.remove_small_boxes(boxes, min_size)
        boxes, score = boxes[keep], score[keep]
        result.append(boxes[torchvision.ops.nms(boxes, score, iou_threshold)][:post_nms])
    return result


def propose__all_decoded_first(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    """All boxes at once; rank by a stable sort of negated scores; a greedy loop for NMS."""
    limit = anchors.new_tensor([*image_size] * 2)
    out = []
    for b in range(objectness.size(0)):
        boxes = torch.minimum(decoded(deltas[b].data, anchors).clamp(min=0), limit)
        order = numpy.argsort(-objectness[b].detach().numpy(), kind="stable")[:pre_nms].tolist()
        kept = []
        for i in order:
            w, h = (boxes[i, 2:] - boxes[i, :2]).tolist()
            if w < min_size or h < min_size or len(kept) >= post_nms:
                continue
            if not kept or torchvision.ops.box_iou(boxes[i : i + 1], boxes[kept]).max() <= iou_threshold:
                kept.append(i)
        out.append(boxes[kept].reshape(-1, 4))
    return out


def propose__masks(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    """Anchors that do not take part keep their places, with a score of minus infinity."""
    width, height = image_size
    results = ()
    for scores, offsets in zip(objectness.detach().clone(), deltas.detach()):
        scores[scores.argsort(descending=True, stable=True)[pre_nms:]] = -math.inf
        x1, y1, x2, y2 = decoded(offsets, anchors).unbind(1)
        x1, x2, y1, y2 = x1.clamp(0, width), x2.clamp(0, width), y1.clamp(0, height), y2.clamp(0, height)
        valid = (scores > -math.inf) & (x2 - x1 >= min_size) & (y2 - y1 >= min_size)
        boxes = torch.stack([x1, y1, x2, y2], 1)[valid]
        results += (boxes[torchvision.ops.nms(boxes, scores[valid], iou_threshold)[:post_nms]],)
    return list(results)


def alternating_training__two_networks(start, train_rpn, train_detector, propose):
    """Each training gets only the parts that it uses; the whole is put together at the end."""

    def only(weights, *parts):
        return {k: v for k, v in weights.items() if k.split(".")[0] in parts}

    one = train_rpn(only(start, "backbone", "rpn"), learn=("backbone", "rpn"))
    two = train_detector(only(start, "backbone", "head"), propose(one), learn=("backbone", "head"))
    three = train_rpn({**only(two, "backbone"), **only(one, "rpn")}, learn=("rpn",), evaluate=("backbone",))
    four = train_detector(two, propose(three), learn=("head",), evaluate=("backbone",))
    return three | four


def alternating_training__loop(start, train_rpn, train_detector, propose):
    network = dict(start)
    for shared in (False, True):
        fixed = ["backbone"] if shared else []
        learns = [] if shared else ["backbone"]
        first = train_rpn(network, learns + ["rpn"], fixed)
        for key in first:
            if key.startswith("rpn."):
                network[key] = first[key]
        regions = propose(first)
        network = dict(train_detector(network, regions, learns + ["head"], fixed))
    return network


def alternating_training__copies(start, train_rpn, train_detector, propose):
    import copy

    weights = copy.deepcopy(start)
    step1 = train_rpn(copy.deepcopy(weights), ["rpn", "backbone"], [])
    step2 = train_detector(copy.deepcopy(weights), propose(step1), ["head", "backbone"], [])
    step3 = {k: (step1[k] if k.startswith("rpn.") else step2[k]).clone() for k in weights}
    step3 = train_rpn(step3, ["rpn"], ["backbone", "head"])
    regions = propose(step3)
    return train_detector(step3, regions, ["head"], ["backbone", "rpn"])


def offsets_of(boxes, regions):
    size, wanted = regions[:, 2:] - regions[:, :2], boxes[:, 2:] - boxes[:, :2]
    moves = (boxes[:, :2] + boxes[:, 2:] - regions[:, :2] - regions[:, 2:]) / 2 / size
    return torch.cat([moves / 0.1, (wanted / size).log() / 0.2], 1)


def repaired_regions__image_by_image(regions, targets):
    labels, deltas = [], []
    for boxes, target in zip(regions, targets):
        label, delta = torch.zeros(len(boxes), dtype=torch.int64), torch.zeros_like(boxes)
        if len(boxes) and len(target["boxes"]):
            best, which = torchvision.ops.box_iou(boxes, target["boxes"]).max(1)
            label = target["labels"][which] * (best >= 0.5)
            delta = torch.where((best >= 0.5)[:, None], offsets_of(target["boxes"][which], boxes), delta)
        labels.append(label)
        deltas.append(delta)
    return torch.cat(labels), torch.cat(deltas)


def repaired_regions__each_image_far_away(regions, targets):
    """Every image's boxes are moved to a place of their own, so that they share nothing with others."""
    far = 1e4
    boxes = torch.cat([one.double() + far * i for i, one in enumerate(regions)])
    truth = torch.cat([one["boxes"].double() + far * i for i, one in enumerate(targets)])
    names = torch.cat([one["labels"] for one in targets])
    labels, deltas = names.new_zeros(len(boxes)), regions[0].new_zeros(len(boxes), 4)
    if len(truth):
        best, which = torchvision.ops.box_iou(truth, boxes).max(0)
        hit = best >= 0.5
        labels[hit] = names[which[hit]]
        deltas[hit] = offsets_of(truth[which[hit]], boxes[hit]).to(deltas)
    return labels, deltas


def repaired_regions__by_lists(regions, targets):
    labels, deltas = [], []
    for i in range(len(regions)):
        for box in regions[i]:
            best, label, delta = 0.0, 0, torch.zeros(4, dtype=box.dtype)
            for truth, name in zip(targets[i]["boxes"], targets[i]["labels"]):
                iou = float(torchvision.ops.box_iou(truth[None], box[None]))
                if iou >= 0.5 and iou > best:
                    best, label, delta = iou, int(name), offsets_of(truth[None], box[None])[0]
            labels.append(label)
            deltas.append(delta)
    return [torch.tensor(labels, dtype=torch.int64), torch.stack(deltas)]
