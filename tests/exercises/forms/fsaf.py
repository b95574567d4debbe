"""Right answers to the exercises of lesson 12, in other forms."""

import math

import numpy
import torch
import torchvision


def project_box__a_scale(boxes, level):
    return boxes * 0.5**level


def project_box__halved_again_and_again(boxes, level):
    projected = boxes.clone()
    for _ in range(level):
        projected /= 2
    return projected


def project_box__numpy(boxes, level):
    return torch.from_numpy(numpy.ldexp(boxes.numpy(), -level))


def project_box__side_by_side(boxes, level):
    x1, y1, x2, y2 = boxes.T
    stride = 1 << level
    return torch.stack((x1 / stride, y1 / stride, x2 / stride, y2 / stride), dim=1)


def shrink_box__margins(boxes, fraction):
    """Take from each side what is too much."""
    margin = (1 - fraction) / 2 * (boxes[:, 2:] - boxes[:, :2])
    return boxes + torch.cat([margin, -margin], 1)


def shrink_box__matrix(boxes, fraction):
    """Each new side is a mixture of two old ones."""
    near, far = (1 + fraction) / 2, (1 - fraction) / 2
    mixture = boxes.new_tensor([[near, 0, far, 0], [0, near, 0, far], [far, 0, near, 0], [0, far, 0, near]])
    return boxes @ mixture.T


def shrink_box__loop(boxes, fraction):
    shrunk = torch.empty_like(boxes)
    for row, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, fraction * (x2 - x1), fraction * (y2 - y1)
        shrunk[row] = torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], dtype=boxes.dtype)
    return shrunk


def shrink_box__by_torchvision(boxes, fraction):
    centred = torchvision.ops.box_convert(boxes, "xyxy", "cxcywh")
    return torchvision.ops.box_convert(centred * centred.new_tensor([1, 1, fraction, fraction]), "cxcywh", "xyxy")


def cells_of(box, fraction, level, columns, rows):
    """The cells (y, x) that a box's region covers."""
    stride = 2**level
    spans = []
    for low, high, count in ((box[1], box[3], rows), (box[0], box[2], columns)):
        middle, half = (low + high) / 2 / stride, fraction * (high - low) / 2 / stride
        span = [c for c in range(count) if middle - half < c + 1 and middle + half > c]
        spans.append(span or [math.floor(middle)])
    return [(y, x) for y in spans[0] for x in spans[1]]


def fsaf_class_targets__cell_by_cell(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    """Plain dicts: who owns which cell."""
    columns, rows = grid
    maps = torch.zeros(num_classes, rows, columns, dtype=boxes.dtype)
    owners = {}
    for i, box in enumerate(boxes.double().tolist()):
        if int(levels[i]) - level in (-1, 0, 1):
            for y, x in cells_of(box, ignoring, level, columns, rows):
                maps[int(labels[i]) - 1, y, x] = -1
        if int(levels[i]) == level:
            area = (box[2] - box[0]) * (box[3] - box[1])
            for cell in cells_of(box, effective, level, columns, rows):
                owners[cell] = min(owners.get(cell, (math.inf, -1)), (area, i))
    for (y, x), (_, i) in owners.items():
        maps[int(labels[i]) - 1, y, x] = 1
    return maps


def fsaf_class_targets__masks(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    """A mask for each object, no loop over objects or cells."""
    columns, rows = grid

    def masks(fraction):
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / 2**level
        half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2 / 2**level
        low, high = (middle - half).floor(), (middle + half).ceil()
        high = torch.where(high == low, low + 1, high)
        x, y = torch.arange(columns), torch.arange(rows)
        across = (x >= low[:, :1]) & (x < high[:, :1])  # [M, W]
        down = (y >= low[:, 1:]) & (y < high[:, 1:])  # [M, H]
        return down[:, :, None] & across[:, None, :]

    of_class = labels == torch.arange(1, num_classes + 1)[:, None]  # [K, M]
    near = masks(ignoring) & ((levels - level).abs() <= 1)[:, None, None]
    ignored = torch.einsum("km,mhw->khw", of_class.double(), near.double()) > 0
    order = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).argsort(stable=True)
    claims = (masks(effective) & (levels == level)[:, None, None])[order]
    first = claims & (claims.cumsum(0) == 1)  # the smallest of those that claim a cell
    positive = torch.einsum("km,mhw->khw", of_class[:, order].double(), first.double()) > 0
    return (positive.double() - (ignored & ~positive).double()).to(boxes.dtype)


def fsaf_class_targets__numpy(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    """In the order of painting: everything ignored; then from the largest to the smallest, wiping what lay below."""
    b, stride = boxes.numpy().astype(numpy.float64), 2**level
    centre, size = (b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]
    maps = numpy.zeros((num_classes, grid[1], grid[0]), dtype=boxes.numpy().dtype)

    def window(i, fraction):
        low = numpy.floor((centre[i] - fraction * size[i] / 2) / stride).astype(int)
        high = numpy.maximum(numpy.ceil((centre[i] + fraction * size[i] / 2) / stride).astype(int), low + 1)
        return slice(low[1], high[1]), slice(low[0], high[0])

    for i in range(len(b)):
        if abs(int(levels[i]) - level) < 2:
            maps[(int(labels[i]) - 1, *window(i, ignoring))] = -1
    waiting = maps.copy()
    for i in sorted(range(len(b)), key=lambda i: (-size[i].prod(), -i)):
        if int(levels[i]) == level:
            window_i = (slice(None), *window(i, effective))
            maps[window_i] = waiting[window_i]
            maps[(int(labels[i]) - 1, *window(i, effective))] = 1
    return torch.from_numpy(maps)


def fsaf_box_targets__loops(boxes, levels, level, grid, scale=4.0):
    columns, rows = grid
    offsets = torch.zeros(4, rows, columns, dtype=boxes.dtype)
    inside = torch.zeros(rows, columns, dtype=torch.bool)
    corners = boxes.double().tolist()
    for i in sorted(range(len(corners)), key=lambda i: (-(corners[i][2] - corners[i][0]) * (corners[i][3] - corners[i][1]), -i)):
        if int(levels[i]) == level:
            x1, y1, x2, y2 = (side / 2**level for side in corners[i])
            for y, x in cells_of(corners[i], 0.2, level, columns, rows):
                sides = [y + 0.5 - y1, x + 0.5 - x1, y2 - y - 0.5, x2 - x - 0.5]
                offsets[:, y, x] = torch.tensor([side / scale for side in sides], dtype=boxes.dtype)
                inside[y, x] = True
    return offsets, inside


def fsaf_box_targets__from_pixels(boxes, levels, level, grid, scale=4.0):
    """Points and sides in pixels; the object of a cell from a map of indices."""
    columns, rows = grid
    stride = 2**level
    owner = torch.full((rows, columns), -1)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in torch.sort(area, descending=False, stable=True).indices.tolist():
        if levels[i] == level:
            for y, x in cells_of(boxes[i].tolist(), 0.2, level, columns, rows):
                if owner[y, x] < 0:
                    owner[y, x] = i
    inside = owner >= 0
    padded = torch.cat([boxes, boxes.new_zeros(1, 4)])[owner]  # [H, W, 4]; row -1 is the one of zeros
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    point = torch.stack([y, x], -1).to(boxes.dtype) * stride + stride / 2
    sides = torch.cat([point - padded[..., [1, 0]], padded[..., [3, 2]] - point], -1) / (stride * scale)
    return (sides * inside[..., None]).permute(2, 0, 1), inside


def fsaf_box_targets__object_by_object(boxes, levels, level, grid, scale=4.0):
    """Large to small, whole windows at a time."""
    columns, rows = grid
    projected = boxes / 2**level
    offsets, inside = boxes.new_zeros(4, rows, columns), torch.zeros(rows, columns, dtype=torch.bool)
    area = [(-w * h, -i) for i, (w, h) in enumerate((boxes[:, 2:] - boxes[:, :2]).tolist())]
    y, x = torch.arange(rows)[:, None] + 0.5, torch.arange(columns) + 0.5
    for _, i in sorted(area):
        if levels[-i] != level:
            continue
        x1, y1, x2, y2 = projected[-i]
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, 0.2 * (x2 - x1), 0.2 * (y2 - y1)
        mask = ((x - cx).abs() < (1 + w) / 2) & ((y - cy).abs() < (1 + h) / 2)
        four = torch.stack(torch.broadcast_tensors((y - y1) / scale, (x - x1) / scale, (y2 - y) / scale, (x2 - x) / scale))
        offsets = torch.where(mask, four.to(boxes.dtype), offsets)
        inside |= mask
    return offsets, inside


def iou_loss__corners(prediction, target):
    """As boxes around the point, with their corners."""
    signs = prediction.new_tensor([-1.0, -1, 1, 1])
    p, t = ((sides * signs)[:, [1, 0, 3, 2]] for sides in (prediction, target))
    low, high = torch.maximum(p[:, :2], t[:, :2]), torch.minimum(p[:, 2:], t[:, 2:])
    shared = (high - low).clamp(min=0).prod(1)
    union = (p[:, 2:] - p[:, :2]).prod(1) + (t[:, 2:] - t[:, :2]).prod(1) - shared
    apart = shared <= 1e-5 * union
    return torch.where(apart, 12.0, -torch.log(torch.where(apart, 1.0, shared) / torch.where(apart, 1.0, union))).to(p.dtype)


def iou_loss__logarithms(prediction, target):
    """ln of the union minus ln of what is shared."""
    smaller = torch.minimum(prediction, target)
    height, width = (smaller[:, 0] + smaller[:, 2]).relu(), (smaller[:, 1] + smaller[:, 3]).relu()
    both = [(s[:, 0] + s[:, 2]) * (s[:, 1] + s[:, 3]) for s in (prediction, target)]
    shared = width * height
    union = both[0] + both[1] - shared
    tiny = 1e-12
    return (union.clamp(min=tiny).log() - torch.maximum(shared, 1e-5 * union).clamp(min=1e-18).log()).clamp(max=14)


def iou_loss__loop(prediction, target):
    losses = []
    for p, t in zip(prediction, target):
        height = torch.clamp(torch.min(p[0], t[0]) + torch.min(p[2], t[2]), min=0)
        width = torch.clamp(torch.min(p[1], t[1]) + torch.min(p[3], t[3]), min=0)
        shared = width * height
        union = (p[0] + p[2]) * (p[1] + p[3]) + (t[0] + t[2]) * (t[1] + t[3]) - shared
        losses.append(-torch.log(shared / union) if shared > 0 else 0 * p.sum() + 20.0)
    return torch.stack(losses) if losses else prediction.new_zeros(0)


def select_level__loop(focal, iou):
    chosen = []
    for column in (focal + iou).T.tolist():
        best, least = 0, math.inf
        for level, value in enumerate(column):
            if value < least:  # never true of NaN
                best, least = level, value
        chosen.append(best)
    return torch.tensor(chosen, dtype=torch.int64)


def select_level__numpy(focal, iou):
    total = focal.numpy() + iou.numpy()
    return torch.from_numpy(numpy.where(numpy.isnan(total), numpy.inf, total).argmin(axis=0))


def select_level__stable_sort(focal, iou):
    total = torch.nan_to_num(torch.stack([focal, iou]).sum(0), nan=float("inf"))
    return torch.sort(total, dim=0, stable=True).indices[0]


def select_level__minimum_of_each(focal, iou):
    total = torch.where(torch.isnan(focal), torch.inf, focal + iou)
    total = torch.where(torch.isnan(total), torch.inf, total)
    return torch.min(total, dim=0).indices


def fsaf_decode__loops(offsets, level, scale=4.0):
    _, rows, columns = offsets.shape
    boxes = offsets.new_zeros(rows * columns, 4)
    for y in range(rows):
        for x in range(columns):
            t, left, b, r = (scale * side for side in offsets[:, y, x].tolist())
            corners = [x + 0.5 - left, y + 0.5 - t, x + 0.5 + r, y + 0.5 + b]
            boxes[y * columns + x] = torch.tensor([side * 2**level for side in corners], dtype=offsets.dtype)
    return boxes


def fsaf_decode__points_first(offsets, level, scale=4.0):
    """Points in pixels, then signed distances to the four sides."""
    stride = 2**level
    rows, columns = offsets.shape[-2:]
    ys = (torch.arange(rows) * stride + stride // 2).to(offsets.dtype)
    xs = (torch.arange(columns) * stride + stride // 2).to(offsets.dtype)
    points = torch.stack([xs.repeat(rows), ys.repeat_interleave(columns)], 1)  # [H·W, 2]
    sides = offsets.reshape(4, -1).T[:, [1, 0, 3, 2]] * (scale * stride)
    return points.repeat(1, 2) + sides * torch.tensor([-1, -1, 1, 1])


def fsaf_decode__numpy(offsets, level, scale=4.0):
    values = offsets.numpy()
    rows, columns = values.shape[1:]
    y, x = numpy.mgrid[:rows, :columns] + 0.5
    boxes = numpy.stack([x - scale * values[1], y - scale * values[0], x + scale * values[3], y + scale * values[2]], -1)
    return torch.from_numpy((boxes * 2**level).astype(values.dtype).reshape(-1, 4))
