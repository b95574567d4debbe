"""Right answers to the exercises of lesson 08, in other forms."""

import math

import numpy
import torch
import torch.nn.functional as F
from torch import nn

if "describe" not in globals():  # in a notebook the lesson's setup has run before; here it is read from the lesson
    from autograder.lessons import all_exercises

    lesson = {}
    exec(all_exercises()["selective_search"].setup, lesson)
    describe, neighbours = lesson["describe"], lesson["neighbours"]


def region_similarity__plain_loops(a, b, image_size):
    total = 0.0
    for name in ("colour", "texture"):
        for one, other in zip(a[name].tolist(), b[name].tolist()):
            total += min(one, other)
    corners = list(zip(a["box"], b["box"]))
    x1, y1 = (min(pair) for pair in corners[:2])
    x2, y2 = (max(pair) for pair in corners[2:])
    area, size = math.prod(image_size), a["size"] + b["size"]
    return total + (area - size) / area + (area - ((x2 - x1) * (y2 - y1) - size)) / area


def region_similarity__distances(a, b, image_size):
    """The intersection of two histograms that sum to 1 is 1 less half their distance; size cancels out."""
    boxes = torch.tensor([a["box"], b["box"]], dtype=torch.float64)
    sides = boxes[:, 2:].amax(0) - boxes[:, :2].amin(0)
    close = sum(1 - (a[name] - b[name]).abs().sum() / 2 for name in ("colour", "texture"))
    return close + 2 - sides.prod() / (image_size[0] * image_size[1])


def region_similarity__numpy(a, b, image_size):
    bins = [numpy.concatenate([one["colour"].numpy(), one["texture"].numpy()]) for one in (a, b)]
    low = numpy.minimum(a["box"], b["box"])[:2]
    high = numpy.maximum(a["box"], b["box"])[2:]
    pixels = numpy.prod(image_size)
    size = a["size"] + b["size"]
    around = numpy.prod(high - low)
    return float(numpy.minimum(*bins).sum() + (1 - size / pixels) + (1 - (around - size) / pixels))


def selective_search__masks(segments, image):
    """Regions as sets of segments; their boxes from masks; similarities of all pairs anew in each round."""
    regions = describe(segments, image)
    alive, touch = set(range(len(regions))), set(neighbours(segments))
    members = [{i} for i in alive]
    size = (segments.shape[1], segments.shape[0])
    boxes = [region["box"] for region in regions]
    known = {}

    def value(i, j):
        if (i, j) not in known:
            known[i, j] = float(region_similarity__numpy(regions[i], regions[j], size))
        return known[i, j]

    while len(alive) > 1:
        i, j = max(sorted(touch), key=lambda pair: value(*pair))
        a, b = regions[i], regions[j]
        members.append(members[i] | members[j])
        mask = torch.isin(segments, torch.tensor(sorted(members[-1])))
        y, x = mask.nonzero(as_tuple=True)
        pixels = int(mask.sum())
        union = {"size": pixels, "box": [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]}
        for name in ("colour", "texture"):
            union[name] = a[name] * (a["size"] / pixels) + b[name] * (b["size"] / pixels)
        regions.append(union)
        boxes.append(union["box"])
        new = len(regions) - 1
        alive = (alive - {i, j}) | {new}
        ends = [tuple(sorted({new if k in (i, j) else k for k in pair})) for pair in touch]
        touch = {pair for pair in ends if len(pair) == 2}
    return image.new_tensor(boxes)


def selective_search__heap(segments, image):
    """A heap of pairs; those of regions that are gone are skipped when they come up."""
    import heapq

    regions = [dict(region) for region in describe(segments, image)]
    near = {i: set() for i in range(len(regions))}
    for i, j in neighbours(segments):
        near[i].add(j)
        near[j].add(i)
    size = segments.shape[::-1]
    heap = [(-region_similarity__plain_loops(regions[i], regions[j], size), i, j) for i in near for j in near[i] if i < j]
    heapq.heapify(heap)
    while heap:
        _, i, j = heapq.heappop(heap)
        if i not in near or j not in near:
            continue
        a, b, new = regions[i], regions[j], len(regions)
        total = a["size"] + b["size"]
        box = [f(p, q) for f, p, q in zip((min, min, max, max), a["box"], b["box"])]
        mix = {k: torch.stack([a[k], b[k]]).T @ torch.tensor([a["size"], b["size"]], dtype=image.dtype) / total for k in ("colour", "texture")}
        regions.append({"size": total, "box": box, **mix})
        near[new] = (near.pop(i) | near.pop(j)) - {i, j}
        for k in near[new]:
            near[k] = (near[k] - {i, j}) | {new}
            heapq.heappush(heap, (-region_similarity__plain_loops(regions[k], regions[new], size), k, new))
    return torch.stack([torch.tensor(region["box"]) for region in regions]).to(image)


def selective_search__matrix(segments, image):
    """A table of similarities, -1 where two regions do not touch or one is gone; counts instead of shares."""
    regions = describe(segments, image.double())
    n = len(regions)
    boxes = torch.zeros(2 * n - 1, 4, dtype=torch.float64)
    sizes = torch.zeros(2 * n - 1, dtype=torch.float64)
    counts = torch.zeros(2 * n - 1, 315, dtype=torch.float64)
    for i, region in enumerate(regions):
        boxes[i], sizes[i] = torch.tensor(region["box"]), region["size"]
        counts[i] = torch.cat([region["colour"], region["texture"]]) * region["size"]
    touch = torch.zeros(2 * n - 1, 2 * n - 1, dtype=torch.bool)
    table = torch.full((2 * n - 1, 2 * n - 1), -1.0, dtype=torch.float64)

    def fill(i, others):
        for j in others:
            p, q = min(i, j), max(i, j)
            common = torch.minimum(counts[p] / sizes[p], counts[q] / sizes[q]).sum()
            side = torch.maximum(boxes[p], boxes[q])[2:] - torch.minimum(boxes[p], boxes[q])[:2]
            table[p, q] = ((common + 2 - side.prod() / segments.numel()) * 1e9).round()  # ties stay ties
            touch[p, q] = touch[q, p] = True

    for i, j in neighbours(segments):
        fill(i, [j])
    for new in range(n, 2 * n - 1):
        i, j = divmod(int(table.argmax()), 2 * n - 1)
        boxes[new] = torch.cat([torch.minimum(boxes[i], boxes[j])[:2], torch.maximum(boxes[i], boxes[j])[2:]])
        sizes[new], counts[new] = sizes[i] + sizes[j], counts[i] + counts[j]
        others = (touch[i] | touch[j]).nonzero().flatten().tolist()
        for k in (i, j):
            table[k], table[:, k] = -1, -1
            touch[k], touch[:, k] = False, False
        fill(new, [k for k in others if k not in (i, j)])
    return boxes.to(image.dtype)


def away(value):
    """A half goes away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def roi_pool__integers(features, rois, output_size, spatial_scale):
    """Whole numbers only: floor and ceiling of a fraction by //; padded with -inf, so that no bin is empty."""
    h, w = output_size
    out = torch.full((len(rois), features.shape[1], h, w), -math.inf, dtype=features.dtype)
    rows = []
    for r, roi in enumerate(rois):
        x1, y1, x2, y2 = (away(float(value * spatial_scale)) for value in roi[1:])
        tall, wide = max(1, y2 - y1 + 1), max(1, x2 - x1 + 1)
        cells = []
        for i in range(h):
            for j in range(w):
                ys = slice(max(0, y1 + i * tall // h), max(0, y1 + -((i + 1) * -tall // h)))
                xs = slice(max(0, x1 + j * wide // w), max(0, x1 + -((j + 1) * -wide // w)))
                window = features[int(roi[0]), :, ys, xs]
                cells.append(window.amax((1, 2)) if window.numel() else torch.zeros_like(out[r, :, 0, 0]))
        rows.append(torch.stack(cells, -1).unflatten(-1, (h, w)))
    return torch.stack(rows) if rows else out


def roi_pool__masks(features, rois, output_size, spatial_scale):
    """The largest value under a mask of each bin, rows first, then columns."""
    h, w = output_size
    height, width = features.shape[-2:]

    def inside(first, last, bins, limit):  # -> [R, bins, limit]
        wide = (last - first + 1).clamp(min=1)[:, None]
        k = torch.arange(bins)
        low = first[:, None] + torch.div(k * wide, bins, rounding_mode="floor")
        high = first[:, None] - torch.div(-(k + 1) * wide, bins, rounding_mode="floor")
        cell = torch.arange(limit)
        return (cell >= low[..., None]) & (cell < high[..., None])

    scaled = rois[:, 1:] * spatial_scale
    x1, y1, x2, y2 = (torch.sign(scaled) * torch.floor(scaled.abs() + 0.5)).long().unbind(1)
    rows, columns = inside(y1, y2, h, height), inside(x1, x2, w, width)
    maps = features[rois[:, 0].long()]  # [R, C, H, W]
    tall = maps[:, :, None].masked_fill(~rows[:, None, :, :, None], -math.inf).amax(3)  # [R, C, h, W]
    out = tall[:, :, :, None].masked_fill(~columns[:, None, None], -math.inf).amax(4)  # [R, C, h, w]
    return out.masked_fill(out.isinf(), 0)


def roi_pool__adaptive_max_pool(features, rois, output_size, spatial_scale):
    """PyTorch's adaptive pooling has the same bins; what lies outside of the map is padded by -inf first."""
    out = []
    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (away(value * spatial_scale) for value in box)
        x2, y2 = max(x1, x2), max(y1, y2)
        height, width = features.shape[-2:]
        pad = (max(0, -x1), max(0, x2 + 1 - width), max(0, -y1), max(0, y2 + 1 - height))
        image = F.pad(features[int(number)], pad, value=-math.inf)
        window = image[:, y1 + pad[2] : y2 + 1 + pad[2], x1 + pad[0] : x2 + 1 + pad[0]]
        pooled = F.adaptive_max_pool2d(window, output_size)
        out.append(torch.where(pooled.isinf(), torch.zeros_like(pooled), pooled))
    return torch.stack(out) if out else features.new_zeros(0, features.shape[1], *output_size)


def roi_align__loops(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """Point by point."""
    (h, w), (height, width) = output_size, features.shape[-2:]
    out = []
    for roi in rois:
        image = features[int(roi[0])]
        x1, y1, x2, y2 = (roi[1:] * spatial_scale).tolist()
        for i in range(h):
            for j in range(w):
                total = torch.zeros_like(image[:, 0, 0])
                for p in range(sampling_ratio):
                    for q in range(sampling_ratio):
                        y = y1 + (y2 - y1) / h * (i + (p + 0.5) / sampling_ratio) - 0.5
                        x = x1 + (x2 - x1) / w * (j + (q + 0.5) / sampling_ratio) - 0.5
                        if y < -1 or y > height or x < -1 or x > width:
                            continue
                        y, x = max(y, 0), max(x, 0)
                        a, b = int(y), int(x)
                        c, d = a + 1, b + 1
                        if a >= height - 1:
                            a = c = y = height - 1
                        if b >= width - 1:
                            b = d = x = width - 1
                        v, u = y - a, x - b
                        total = total + image[:, a, b] * (1 - v) * (1 - u) + image[:, a, d] * (1 - v) * u
                        total = total + image[:, c, b] * v * (1 - u) + image[:, c, d] * v * u
                out.append(total / sampling_ratio**2)
    if not out:
        return features.new_zeros(0, features.shape[1], h, w)
    return torch.stack(out).view(len(rois), h, w, -1).permute(0, 3, 1, 2)


def roi_align__two_matrix_products(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """The mean of interpolated values is a weighted sum over rows, then over columns: einsum."""

    def weights(start, end, bins, limit):  # -> [R, bins, limit]
        at = (torch.arange(bins * sampling_ratio).to(rois) + 0.5) / (bins * sampling_ratio)
        points = start[:, None] * (1 - at) + end[:, None] * at - 0.5
        valid = ((points >= -1) & (points <= limit)).to(rois.dtype)
        hat = (1 - (points.clamp(0, limit - 1)[..., None] - torch.arange(limit).to(rois)).abs()).clamp(min=0)
        return (hat * valid[..., None]).unflatten(1, (bins, sampling_ratio)).mean(2)

    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale).T
    down = weights(y1, y2, output_size[0], features.shape[2])
    across = weights(x1, x2, output_size[1], features.shape[3])
    return torch.einsum("rhy,rcyx,rwx->rchw", down, features[rois[:, 0].long()], across)


def roi_align__grid_sample(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """PyTorch's sampling at the border; points too far outside are set to 0 after it."""
    s = sampling_ratio
    h, w = output_size[0] * s, output_size[1] * s
    height, width = features.shape[-2:]
    if not len(rois):
        return features.new_zeros(0, features.shape[1], *output_size)
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)
    x = x1[:, None] + (x2 - x1)[:, None] * (torch.arange(w).to(rois) + 0.5) / w
    y = y1[:, None] + (y2 - y1)[:, None] * (torch.arange(h).to(rois) + 0.5) / h
    valid = ((y >= -1) & (y <= height))[:, :, None] & ((x >= -1) & (x <= width))[:, None]
    grid = torch.stack(
        torch.broadcast_tensors((2 * x[:, None] + 1) / width - 1, (2 * y[:, :, None] + 1) / height - 1), -1
    )
    images = features[rois[:, 0].long()]
    read = F.grid_sample(images, grid, padding_mode="border", align_corners=False) * valid[:, None]
    return F.avg_pool2d(read, s)


def label_proposals__loops(iou, labels):
    found = []
    for j in range(iou.shape[1]):
        best, label = -1.0, 0
        for i in range(iou.shape[0]):
            if float(iou[i, j]) > best:
                best, label = float(iou[i, j]), int(labels[i])
        found.append(label if best >= 0.5 else 0 if best >= 0.1 or best < 0 else -1)
    return torch.tensor(found, dtype=torch.int64)


def label_proposals__filled(iou, labels):
    if iou.numel() == 0:
        return torch.zeros(iou.size(1), dtype=torch.long)
    top, index = iou.max(dim=0)
    out = torch.full((iou.size(1),), -1, dtype=torch.long)
    out[(top >= 0.1) & (top < 0.5)] = 0
    out[top >= 0.5] = labels[index[top >= 0.5]]
    return out


def label_proposals__numpy(iou, labels):
    table = iou.numpy()
    padded = numpy.concatenate([table, numpy.full((1, table.shape[1]), 0.1 if len(table) == 0 else -1, table.dtype)])
    best, which = padded.max(0), padded.argmax(0)
    names = numpy.append(labels.numpy(), 0)
    return torch.from_numpy(numpy.select([best >= 0.5, best >= padded.dtype.type(0.1)], [names[which], 0], -1).astype("int64"))


class FastRCNNHead__lazy_names(nn.Module):
    """One hidden layer; scores and offsets from one layer, split afterwards; a list is returned."""

    def __init__(self, channels, pool, num_classes):
        super().__init__()
        h, w = pool
        self.hidden = nn.Linear(channels * h * w, 64)
        self.k = num_classes
        self.out = nn.Linear(64, 5 * num_classes + 1)

    def forward(self, pooled):
        out = self.out(torch.tanh(self.hidden(pooled.reshape(len(pooled), -1 if len(pooled) else self.hidden.in_features))))
        return [out[:, : self.k + 1], out[:, self.k + 1 :].reshape(len(pooled), self.k, 4)]


class FastRCNNHead__convolutions(nn.Module):
    """The fully connected layers as convolutions over the whole region; offsets coordinate by coordinate."""

    def __init__(self, channels, pool, num_classes):
        super().__init__()
        self.fc6, self.fc7 = nn.Conv2d(channels, 48, tuple(pool)), nn.Conv2d(48, 48, 1)
        self.cls, self.box = nn.Conv2d(48, num_classes + 1, 1), nn.Conv2d(48, 4 * num_classes, 1)

    def forward(self, pooled):
        x = F.leaky_relu(self.fc7(F.leaky_relu(self.fc6(pooled))))
        return self.cls(x).flatten(1), self.box(x).flatten(1).unflatten(1, (4, -1)).mT


class FastRCNNHead__two_towers(nn.Module):
    """Siblings that share nothing but their input, with dropout; a box layer for each class."""

    def __init__(self, channels, pool, num_classes):
        super().__init__()
        n = channels * math.prod(pool)
        self.cls = nn.Sequential(nn.Flatten(), nn.Linear(n, 50), nn.ELU(), nn.Dropout(), nn.Linear(50, num_classes + 1))
        self.trunk = nn.Sequential(nn.Flatten(), nn.Linear(n, 50), nn.ELU())
        self.boxes = nn.ModuleList(nn.Linear(50, 4) for _ in range(num_classes))

    def forward(self, pooled):
        x = self.trunk(pooled)
        return self.cls(pooled), torch.stack([layer(x) for layer in self.boxes], 1)


def fast_rcnn_loss__library_losses(logits, deltas, labels, target_deltas, alpha=1.0):
    count = max(int((labels >= 0).sum()), 1)
    first = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / count
    keep = (labels > 0).nonzero().flatten()
    said = deltas[keep].gather(1, (labels[keep] - 1)[:, None, None].expand(-1, 1, 4))[:, 0]
    return first, alpha * F.smooth_l1_loss(said, target_deltas[keep], reduction="sum") / count


def fast_rcnn_loss__region_by_region(logits, deltas, labels, target_deltas, alpha=1.0):
    first, second, count = logits.sum() * 0, deltas.sum() * 0, 0
    for r, label in enumerate(labels.tolist()):
        if label < 0:
            continue
        count += 1
        first = first + torch.logsumexp(logits[r], 0) - logits[r, label]
        if label > 0:
            error = (deltas[r, label - 1] - target_deltas[r]).abs()
            second = second + torch.where(error < 1, error**2 / 2, error - 0.5).sum()
    return [first / max(count, 1), alpha * second / max(count, 1)]


def fast_rcnn_loss__masks(logits, deltas, labels, target_deltas, alpha=1.0):
    """Everything is computed and multiplied by 0 or 1."""
    counted = (labels >= 0).to(logits.dtype)
    hot = F.one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype)
    first = -(F.log_softmax(logits, 1) * hot).sum(1)
    error = (deltas - target_deltas[:, None]).abs()
    smooth = torch.where(error < 1, 0.5 * error * error, error - 0.5).sum(2)
    n = counted.sum().clamp(min=1)
    return (first * counted).sum() / n, alpha * (smooth * hot[:, 1:] * counted[:, None]).sum() / n
