"""Right answers in other forms for `02_anchors`."""

import itertools
import math

import numpy
import torch

# tile_anchors


def tile_anchors__loops(columns, rows, image_size):
    width, height = image_size
    boxes = []
    for row in range(rows):
        for column in range(columns):
            boxes.append(
                [
                    column * width / columns,
                    row * height / rows,
                    (column + 1) * width / columns,
                    (row + 1) * height / rows,
                ]
            )
    return torch.tensor(boxes, dtype=torch.float32)


def tile_anchors__borders(columns, rows, image_size):
    xs = torch.linspace(0, image_size[0], columns + 1)
    ys = torch.linspace(0, image_size[1], rows + 1)
    x1, x2, y1, y2 = xs[:-1].repeat(rows), xs[1:].repeat(rows), ys[:-1], ys[1:]
    return torch.stack((x1, y1.repeat_interleave(columns), x2, y2.repeat_interleave(columns)), 1)


def tile_anchors__division_with_remainder(columns, rows, image_size):
    number = torch.arange(columns * rows)
    corner = torch.stack([number % columns, number // columns], 1).float()
    size = torch.tensor([image_size[0] / columns, image_size[1] / rows])
    return torch.cat([corner * size, (corner + 1) * size], 1)


def tile_anchors__numpy(columns, rows, image_size):
    step = numpy.array(image_size) / (columns, rows)
    y, x = numpy.mgrid[:rows, :columns].reshape(2, -1)
    corner = numpy.stack([x, y], 1)
    return torch.from_numpy(numpy.concatenate([corner * step, (corner + 1) * step], 1).astype("float32"))


# anchor_shapes


def anchor_shapes__list(scale, ratios, image_size):
    w, h = scale[0] * image_size[0], scale[1] * image_size[1]
    return torch.tensor([[w * a**0.5, h / a**0.5] for a in ratios])


def anchor_shapes__outer(scale, ratios, image_size):
    size = torch.tensor(scale) * torch.tensor(image_size)
    power = torch.tensor([0.5, -0.5])
    return size * torch.as_tensor(ratios, dtype=torch.float)[:, None] ** power


def anchor_shapes__area(scale, ratios, image_size):
    """Width and height from the area, which the ratio leaves as it is."""
    width, height = scale[0] * image_size[0], scale[1] * image_size[1]
    area, shape = width * height, width / height
    heights = [math.sqrt(area / (a * shape)) for a in ratios]
    return torch.tensor([(area / tall, tall) for tall in heights], dtype=torch.float32)


# linear_scales


def linear_scales__linspace(levels, smallest=0.2, largest=0.9):
    return torch.linspace(smallest, largest, levels)


def linear_scales__weights(levels, smallest=0.2, largest=0.9):
    if levels == 1:
        return torch.tensor([float(smallest)])
    return torch.tensor([(smallest * (levels - 1 - k) + largest * k) / (levels - 1) for k in range(levels)])


def linear_scales__cumulative(levels, smallest=0.2, largest=0.9):
    steps = torch.full((levels,), (largest - smallest) / (levels - 1) if levels > 1 else 0.0)
    steps[0] = smallest
    return steps.cumsum(0)


# ssd_anchors


def ssd_anchors__loops(grids, scales, ratios, image_size):
    w, h = image_size
    boxes = []
    for level, (columns, rows) in enumerate(grids):
        sx, sy = scales[level]
        nx, ny = scales[level + 1] if level + 1 < len(scales) else (1, 1)
        sizes = [(w * sx * a**0.5, h * sy / a**0.5) for a in ratios] + [
            (w * (sx * nx) ** 0.5, h * (sy * ny) ** 0.5)
        ]
        for row in range(rows):
            for column in range(columns):
                cx, cy = (column + 0.5) * w / columns, (row + 0.5) * h / rows
                boxes += [[cx - a / 2, cy - b / 2, cx + a / 2, cy + b / 2] for a, b in sizes]
    return torch.tensor(boxes)


def ssd_anchors__centre_and_size_in_one_table(grids, scales, ratios, image_size):
    from torchvision.ops import box_convert

    steps = torch.tensor([*map(list, scales), [1.0, 1.0]])
    roots = torch.tensor([[math.sqrt(a), 1 / math.sqrt(a)] for a in ratios])
    parts = []
    for j, (columns, rows) in enumerate(grids):
        shapes = torch.cat([steps[j] * roots, (steps[j] * steps[j + 1]).sqrt()[None]])
        cy, cx = torch.meshgrid(
            (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
        )
        centres = torch.stack([cx, cy], -1).reshape(-1, 1, 2)
        parts.append(
            torch.cat([centres.expand(-1, len(shapes), 2), shapes.expand(len(centres), -1, 2)], -1).flatten(
                0, 1
            )
        )
    return box_convert(torch.cat(parts), "cxcywh", "xyxy") * torch.tensor([*image_size, *image_size])


def ssd_anchors__product(grids, scales, ratios, image_size):
    def level(grid, now, then):
        step = numpy.divide(image_size, grid)
        shapes = [(now[0] * a**0.5, now[1] * a**-0.5) for a in ratios] + [
            tuple(numpy.sqrt(numpy.multiply(now, then)))
        ]
        for y, x, shape in itertools.product(range(grid[1]), range(grid[0]), shapes):
            centre, half = (numpy.array([x, y]) + 0.5) * step, numpy.multiply(shape, image_size) / 2
            yield numpy.concatenate([centre - half, centre + half])

    following = list(scales[1:]) + [(1.0, 1.0)]
    rows = [box for grid, now, then in zip(grids, scales, following) for box in level(grid, now, then)]
    return torch.from_numpy(numpy.stack(rows)).float()
