# %% [markdown]
r"""
# Anchors
"""

# %% setup=true
import math

import torch

from coursekit.checks import check, passed, raises, same, untouched

# %% [markdown]
r"""
### Exercise: `tile_anchors`
"""

# %% exercise="tile_anchors"
def tile_anchors(columns, rows, image_size):
    """The cells of a grid laid over an image, as anchor boxes: row by row, left to right.

    Args:
        columns, rows (int): of the grid, at least 1 each.
        image_size (tuple): (width, height) of the image, in pixels.

    Returns:
        Tensor[rows * columns, 4]: float32, xyxy, in pixels. They touch, do not overlap and cover the image.
    """
    ### BEGIN SOLUTION
    width, height = image_size
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")  # [rows, columns]
    cells = torch.stack([x, y, x + 1, y + 1], dim=-1).reshape(-1, 4)  # [rows * columns, 4], in cells
    return cells * torch.tensor([width / columns, height / rows] * 2)
    ### END SOLUTION

# %% check="tile_anchors" points=2
same(
    tile_anchors(3, 2, (600, 400)),
    [[0, 0, 200, 200], [200, 0, 400, 200], [400, 0, 600, 200], [0, 200, 200, 400], [200, 200, 400, 400], [400, 200, 600, 400]],
    "3 columns and 2 rows: the upper row first, each row from left to right",
)

# %% [markdown]
r"""
### Exercise: `anchor_shapes`
"""

# %% exercise="anchor_shapes"
def anchor_shapes(scale, ratios, image_size):
    """Width and height of an anchor for each aspect ratio; all of them have the same area.

    Args:
        scale (tuple): (s_x, s_y), the share of the image's width and height that the anchor of ratio 1 takes.
        ratios (list of float): aspect ratios a, width / height, each above 0.
        image_size (tuple): (width, height) of the image, in pixels.

    Returns:
        Tensor[R, 2]: float32, (width * s_x * sqrt(a), height * s_y / sqrt(a)), in pixels, in the order of `ratios`.
    """
    ### BEGIN SOLUTION
    (s_x, s_y), (width, height) = scale, image_size
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()  # [R]
    return torch.stack([width * s_x * root, height * s_y / root], dim=-1)
    ### END SOLUTION

# %% check="anchor_shapes" points=2
same(anchor_shapes((0.1, 0.2), [1, 4], (600, 400)), [[60, 80], [120, 40]], "60 x 80 pixels; ratio 4 is twice as wide and half as high")

# %% [markdown]
r"""
### Exercise: `linear_scales`
"""

# %% exercise="linear_scales"
def linear_scales(levels, smallest=0.2, largest=0.9):
    """A scale for each level, evenly spaced from `smallest` (level 0, the finest grid) to `largest`.

    Source: Liu et al., "SSD", ECCV 2016, equation 4.

    Args:
        levels (int): how many, at least 1. A single level has the scale `smallest`.
        smallest, largest (float): the first and the last scale, as shares of the image's side.

    Returns:
        Tensor[levels]: float32.
    """
    ### BEGIN SOLUTION
    step = (largest - smallest) / max(levels - 1, 1)
    return smallest + step * torch.arange(levels)
    ### END SOLUTION

# %% check="linear_scales" points=1
same(linear_scales(3, 0.2, 0.8), [0.2, 0.5, 0.8], "first, middle and last of three")

# %% [markdown]
r"""
### Exercise: `ssd_anchors`
"""

# %% exercise="ssd_anchors"
def ssd_anchors(grids, scales, ratios, image_size):
    """All anchors of an image: on each cell of each grid one anchor a ratio, then one of an in-between scale.

    The extra anchor has ratio 1 and the scale sqrt(s_j * s_{j+1}), for x and for y; after the last level the next
    scale is 1.0. Anchors at the border reach out of the image: they are not clipped.

    Args:
        grids (list of tuple): (columns, rows) of each level, from fine to coarse.
        scales (list of tuple): (s_x, s_y) of each level, as `anchor_shapes` takes it.
        ratios (list of float): aspect ratios, width / height, the same on all levels.
        image_size (tuple): (width, height) of the image, in pixels.

    Returns:
        Tensor[A, 4]: float32, xyxy, in pixels, centred on the cells. Level by level as given; in a level row by row,
        left to right; in a cell the ratios in order, then the extra anchor.
    """
    ### BEGIN SOLUTION
    levels = []
    for (columns, rows), scale, following in zip(grids, scales, [*scales[1:], (1.0, 1.0)]):
        between = [math.sqrt(s * t) for s, t in zip(scale, following)]
        shapes = torch.cat([anchor_shapes(scale, ratios, image_size), anchor_shapes(between, [1], image_size)])
        cells = tile_anchors(columns, rows, image_size)
        centres = (cells[:, None, :2] + cells[:, None, 2:]) / 2  # [rows * columns, 1, 2]
        anchors = torch.cat([centres - shapes / 2, centres + shapes / 2], dim=-1)  # [rows * columns, R + 1, 4]
        levels.append(anchors.reshape(-1, 4))
    return torch.cat(levels)
    ### END SOLUTION

# %% check="ssd_anchors" points=3
same(
    ssd_anchors([(2, 1)], [(0.25, 0.25)], [1, 4], (64, 32)),
    [[8, 12, 24, 20], [0, 14, 32, 18], [0, 8, 32, 24], [40, 12, 56, 20], [32, 14, 64, 18], [32, 8, 64, 24]],
    "one level, two cells: in each cell the two ratios, then the extra anchor of scale sqrt(0.25 * 1)",
)
