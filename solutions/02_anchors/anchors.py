# %% [markdown]
r"""
# 2 · Anchors: the regions of an image

A detector cannot ask "where is the object?" of a whole image at once. It lays thousands of boxes over the
image and asks of each one: *what is in you, and how far off are you?* These boxes are called **anchors**. In
this lesson we build all 9,648 of the slides' SSD, in four functions of a few lines.

**Time:** about 90 minutes. Four exercises (15, 10, 5 and 25 minutes) and two written questions.

**You need:** lesson 01 (boxes, IoU). **You get:** `ssd_anchors`, which lessons 03 to 05 build on.
"""

# %% setup=true
import dataclasses
import math

import torch

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes
from coursekit.data.scenes import DIFFICULTIES
from coursekit.earlier import earlier

box_iou = earlier("box_iou")

# %% [markdown]
r"""
This is where we are going: an image, a grid of 5 × 4 cells, and the six anchors of one cell. Every cell of
every grid has six like these.
"""

# %%
WIDTH, HEIGHT = 640, 480
plain = dataclasses.replace(DIFFICULTIES["easy"], noise=0.0, clouds=0.0)
photo = scenes("val", 8, size=(WIDTH, HEIGHT), difficulty=plain).images[6].cpu()

centre = torch.tensor([320, 180])
sizes = torch.tensor([[128, 120], [181, 85], [222, 69], [91, 170], [74, 208], [165, 170]])
six = torch.cat([centre - sizes / 2, centre + sizes / 2], dim=1)
with plot.figure(
    "A scene under 5 by 4 cells. Around the centre of one cell lie six boxes: wide, tall and square.",
    width=5,
    height=4,
) as ax:
    plot.show_grid(5, 4, (WIDTH, HEIGHT), role="negative", image=photo, ax=ax)
    plot.show_boxes(six, "anchor", thickness=2.5, ax=ax)

# %% [markdown]
r"""
## The conventions
- A box is `(x1, y1, x2, y2)`: two corners, in pixels, x to the right, y down, no `+ 1` anywhere.
- A grid is said as the slides say it, **columns × rows**: 3×2 is 3 wide and 2 high. Sizes are
  `(width, height)`.
- The order of cells is **row by row**: y is the outer loop, x the inner one. Images, heads and targets follow
  it in all lessons.
- The aspect ratio of an anchor is **width / height**: 2 is wide.

Elsewhere you will meet others. SSD's paper writes a box `(cx, cy, w, h)` in fractions of the image; the
slides write offsets `(xmin, xmax, ymin, ymax)`; tensors of images are `[height, width]`; detectron2
and most of torchvision mean height / width by aspect ratio.

## What is the size of an anchor?
An **offset** is what has to be added to the anchor to get the box. Take an image of $w × h$ = 640×480 and the
object $(x_{min}, y_{min}, x_{max}, y_{max})$ = (230, 60, 300, 200). The slides try three anchors for it:

| anchor | its size | offset of the first corner | offset of the second corner |
| --- | --- | --- | --- |
| the whole image | $(w,\ h)$ | $(x_{min},\ y_{min})$ | $(x_{max} - w,\ y_{max} - h)$ |
| the left one of 2×1 | $(\frac{w}{2},\ h)$ | $(x_{min},\ y_{min})$ | $(x_{max} - \frac{w}{2},\ y_{max} - h)$ |
| the upper middle one of 3×2 | $(\frac{w}{3},\ \frac{h}{2})$ | $(x_{min} - \frac{w}{3},\ y_{min})$ | $(x_{max} - \frac{2w}{3},\ y_{max} - \frac{h}{2})$ |

The anchor is light blue. The arrows go from its corners to the object's. Look at how they shrink.
"""

# %%
objects = torch.tensor([[230.0, 60, 300, 200]])
tries = {
    "whole image": (1, 1, [0, 0, 640, 480]),
    "2×1": (2, 1, [0, 0, 320, 480]),
    "3×2": (3, 2, [640 / 3, 0, 1280 / 3, 240]),
}
rows = []
with plot.figure(
    "The same object three times, with an anchor that covers the image, half of it, a sixth of it. The arrows"
    " from the anchor's corners to the object's get shorter.",
    width=9,
    height=2.8,
    columns=3,
) as axes:
    for ax, (name, (columns, lines, anchor)) in zip(axes, tries.items()):
        plot.show_grid(columns, lines, (640, 480), role="negative", ax=ax)
        plot.show_boxes(torch.tensor([anchor]), "anchor", thickness=2.5, ax=ax)
        plot.show_boxes(objects, "truth", ax=ax)
        for corner in ((0, 1), (2, 3)):
            start, end = ([box[i] for i in corner] for box in (anchor, objects[0].tolist()))
            ax.annotate(
                "",
                end,
                start,
                arrowprops={"arrowstyle": "->", "color": plot.ROLES["prediction"].color, "lw": 1.8},
            )
        ax.set(title=name, xlim=(-25, 665), ylim=(505, -25))
        offset = (objects[0] - torch.tensor(anchor)).tolist()
        rows.append([name, *offset, max(map(abs, offset))])
plot.table(rows, ["anchor", "x1", "y1", "x2", "y2", "largest"], "Offsets in pixels", digits=1)

# %% [markdown]
r"""
The largest offset falls from 340 to 280 to 127 pixels. A network learns numbers that are small and alike
(*low variance*) more easily than numbers that may be anything from 0 to 640 (*high variance*). So: divide the
image into regions, and predict offsets from the nearest one. Where a region holds background there is nothing
to predict but that.

### Exercise: `tile_anchors`
*About 15 minutes, easy.* Divide an image of `image_size = (width, height)` into `columns` × `rows` equal
cells and give them as boxes, row by row. Each cell is `width / columns` wide and `height / rows` high.

By hand: 3×2 on 600×400 makes cells of 200×200. Cell 0 is `(0, 0, 200, 200)`, cell 1 is its right neighbour
`(200, 0, 400, 200)`, cell 3 begins the second row: `(0, 200, 200, 400)`.

<details><summary>Hint</summary>

Count in cells first: the cell in column x and row y is `(x, y, x + 1, y + 1)`. Then go to pixels with one
multiplication. `torch.meshgrid(..., indexing="ij")` or two loops both do; which index runs faster?
</details>
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
    tile_anchors(2, 1, (640, 480)),
    torch.tensor([[0.0, 0, 320, 480], [320, 0, 640, 480]]),
    "2 columns and 1 row: the left half, then the right half",
)
same(
    tile_anchors(3, 2, (600, 400)),
    [
        [0, 0, 200, 200],
        [200, 0, 400, 200],
        [400, 0, 600, 200],
        [0, 200, 200, 400],
        [200, 200, 400, 400],
        [400, 200, 600, 400],
    ],
    "3 columns and 2 rows: the upper row first, each row from left to right",
)
same(
    tile_anchors(40, 30, (640, 480))[41],
    [16, 16, 32, 32],
    "40 x 30 cells of 16 x 16 pixels: number 41 is the second cell of the second row",
)


### BEGIN HIDDEN TESTS
def cells_one_by_one(columns, rows, width, height):
    boxes = []
    for row in range(rows):
        for column in range(columns):
            left, top = width * column / columns, height * row / rows
            boxes.append([left, top, left + width / columns, top + height / rows])
    return torch.tensor(boxes)


for columns, rows in [(2, 1), (3, 2), (5, 4), (10, 8), (20, 15), (40, 30)]:
    same(
        tile_anchors(columns, rows, (640, 480)),
        cells_one_by_one(columns, rows, 640, 480),
        f"{columns} x {rows} cells on 640 x 480, float32",
    )
same(tile_anchors(1, 1, (37, 21)), [[0, 0, 37, 21]], "one cell is the whole image")
same(
    tile_anchors(1, 3, (50, 90)),
    [[0, 0, 50, 30], [0, 30, 50, 60], [0, 60, 50, 90]],
    "one column of three cells",
)
same(
    tile_anchors(3, 2, (100, 75)),
    cells_one_by_one(3, 2, 100, 75),
    "cells that are no whole number of pixels wide",
)
same(tile_anchors(7, 5, (33, 100)), cells_one_by_one(7, 5, 33, 100), "an image that is higher than wide")
same(
    tile_anchors(2, 3, (60, 90)),
    cells_one_by_one(2, 3, 60, 90),
    "more rows than columns: still row by row",
)
same(tile_anchors(3, 2, (900, 700)), cells_one_by_one(3, 2, 900, 700), "an image of 900 x 700")
### END HIDDEN TESTS

# %% [markdown]
r"""
The number of a cell is `y * columns + x`. Remember it: from here to the end of the course, row `i` of every
dense tensor (anchors, targets, predictions) means this cell.
"""

# %%
cells = tile_anchors(5, 4, (WIDTH, HEIGHT))
with plot.figure(
    "A 5 by 4 grid with numbered cells: 0 to 4 in the upper row, 15 to 19 in the lowest.", width=4, height=3
) as ax:
    plot.show_grid(5, 4, (WIDTH, HEIGHT), ax=ax)
    for number, (x1, y1, x2, y2) in enumerate(cells.tolist()):
        ax.text((x1 + x2) / 2, (y1 + y2) / 2, str(number), ha="center", va="center")

# %% [markdown]
r"""
## Six grids: 1,608 anchors
One grid does not fit all objects: a box as large as the image is as bad for a coin as a box of 16 pixels is
for a bus. SSD uses several grids at once. The slides take six. They write them from coarse to fine; we keep
them **from fine to coarse**, the order in which a network's feature maps come out.

On the 40×30 grid an anchor covers $\frac{640}{40} × \frac{480}{30}$ = 16×16 pixels. The slides call this
patch the *receptive field*. Strictly, it is the patch that a cell of the feature map stands for; what the
cell has seen of the image, through many convolutions, is larger.
"""

# %%
GRIDS = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
counts = [len(tile_anchors(columns, rows, (WIDTH, HEIGHT))) for columns, rows in GRIDS]
with plot.figure(
    "A scene under six grids, from 40 by 30 small cells to 2 by 1 halves.",
    width=8,
    height=4.4,
    rows=2,
    columns=3,
) as axes:
    for ax, (columns, rows), count in zip(axes.flat, GRIDS, counts):
        plot.show_grid(columns, rows, (WIDTH, HEIGHT), image=photo, ax=ax)
        ax.set_title(
            f"{columns}×{rows}: {count} anchors of {WIDTH / columns:.0f}×{HEIGHT / rows:.0f} px", fontsize=9
        )
print(" + ".join(map(str, counts)), "=", sum(counts))

# %% [markdown]
r"""
The centre of the cell in column $x$ and row $y$ is its **location**. For cells of $s$ pixels it is
$(\lfloor\frac{s}{2}\rfloor + xs,\ \lfloor\frac{s}{2}\rfloor + ys)$: for the 16-pixel cells of the finest grid
(8, 8), (24, 8), (40, 8), … Centre, not corner: a detector that takes the corner is half a cell off
everywhere, and trains all the same, only worse.
"""

# %%
finest = tile_anchors(40, 30, (WIDTH, HEIGHT))
centres = (finest[:, :2] + finest[:, 2:]) / 2
print("centres of cells 0, 1 and 40:", centres[[0, 1, 40]].tolist())

# %% [markdown]
r"""
Do offsets really shrink with the cells? We take the objects of sixty scenes, give each to the cell that holds
its centre, and measure. Say what you expect on the right-hand side of the figure before you run the cell.
"""

# %%
small = scenes("train", 60, size=(160, 120))
truth = torch.cat([target["boxes"] for target in small.targets]).cpu()
middle = (truth[:, :2] + truth[:, 2:]) / 2

mean_offset = []
tried = [(1, 1), *reversed(GRIDS)]
for columns, rows in tried:
    x = (middle[:, 0] * columns / 160).long().clamp(max=columns - 1)
    y = (middle[:, 1] * rows / 120).long().clamp(max=rows - 1)
    offsets = truth - tile_anchors(columns, rows, (160, 120))[y * columns + x]
    mean_offset.append(offsets.abs().mean().item())

with plot.figure(
    "The mean offset over the grids: it falls steeply from the whole image to 5 by 4, is lowest about 10 by"
    " 8, then rises again.",
    width=5,
    height=3,
) as ax:
    plot.curve(range(len(tried)), mean_offset, ax=ax)
    ax.set(
        xticks=range(len(tried)),
        xticklabels=[f"{c}×{r}" for c, r in tried],
        xlabel="grid",
        ylabel="mean offset (pixels)",
        ylim=(0, None),
    )
print(
    "a quarter of the whole image's offset, or less, on the best grid:", min(mean_offset) < mean_offset[0] / 4
)
print("the finest grid has the smallest offsets:", mean_offset[-1] == min(mean_offset))

# %% [markdown]
r"""
They shrink until the cell is about as large as the object. A smaller cell again has to reach for the object's
borders. So the best anchor is the one that *looks like the object*, in place and in size, and as objects come
in all sizes, so must anchors.

### Written question: `why_offsets`
*About 10 minutes.* (a) Why is an offset from an anchor easier to predict than a coordinate? (b) Why not use
the finest grid alone? Use a number from the table or the figure for each.
"""

# %% written="why_offsets" points=2
r"""
(a) A coordinate can be anything from 0 to 640, depending on where the object happens to lie. Each region only
has to predict how it differs from an object that is near it: in the table the largest number falls from 340
to 127 pixels. Targets of small, similar size are easier to fit, and the same weights serve every cell, since
an offset does not depend on where in the image the cell is.

(b) A cell much smaller than the object is off by about half the object's size on each side: in the figure the
mean offset grows again from 10×8 to 40×30. A large object also covers hundreds of fine cells and none of them
looks like it (their IoU with it is low). Several grids give each object an anchor of about its own size.
"""

# %% [markdown]
r"""
## Scales and aspect ratios: 8,040 anchors
The size of an anchor on level $j$, as a share of the image, is its **scale** $(s_{xj}, s_{yj})$. For cells
that tile the image it is one cell. From coarse to fine, as in the slides:

$$s = \left[\left(\tfrac12, 1\right), \left(\tfrac13, \tfrac12\right), \left(\tfrac15, \tfrac14\right),
\left(\tfrac1{10}, \tfrac18\right), \left(\tfrac1{20}, \tfrac1{15}\right), \left(\tfrac1{40},
\tfrac1{30}\right)\right]$$

A bottle is tall and a bus is wide, so each cell gets anchors of several **aspect ratios**
$a = [1, 2, 3, \frac12, \frac13]$:

$$(w_i, h_i) = \left(w\, s_{xj} \sqrt{a_i},\ h\, s_{yj} \frac{1}{\sqrt{a_i}}\right)$$

By hand, for the finest grid: $w s_x$ = 16 and $h s_y$ = 16. With $a = 2$ the width is $16\sqrt2$ = 22.6 and
the height $16/\sqrt2$ = 11.3: twice as wide as high, and the area is 256 as before. The root is there to keep
the area.

### Exercise: `anchor_shapes`
*About 10 minutes, easy.* Give the width and height of the anchors of one cell, one row for each ratio.

<details><summary>Hint</summary>

`torch.tensor(ratios, dtype=torch.float32).sqrt()` has all roots at once; `torch.stack([...], dim=-1)` puts
widths and heights side by side.
</details>
"""


# %% exercise="anchor_shapes"
def anchor_shapes(scale, ratios, image_size):
    """Width and height of an anchor for each aspect ratio; all of them have the same area.

    Args:
        scale (tuple): (s_x, s_y), the share of the image's width and height that the anchor of ratio 1 takes.
        ratios (list of float): aspect ratios a, width / height, each above 0.
        image_size (tuple): (width, height) of the image, in pixels.

    Returns:
        Tensor[R, 2]: float32, (width * s_x * sqrt(a), height * s_y / sqrt(a)), in pixels, a row for each
        ratio.
    """
    ### BEGIN SOLUTION
    (s_x, s_y), (width, height) = scale, image_size
    root = torch.tensor(ratios, dtype=torch.float32).sqrt()  # [R]
    return torch.stack([width * s_x * root, height * s_y / root], dim=-1)
    ### END SOLUTION


# %% check="anchor_shapes" points=2
same(
    anchor_shapes((0.1, 0.2), [1, 4], (600, 400)),
    [[60, 80], [120, 40]],
    "60 x 80 pixels; ratio 4 is twice as wide and half as high",
)
same(
    anchor_shapes((1 / 40, 1 / 30), [2, 1 / 2], (640, 480)),
    [[22.6274, 11.3137], [11.3137, 22.6274]],
    "on the finest grid: ratio 2 is wide, ratio 1/2 is tall",
)


### BEGIN HIDDEN TESTS
untouched(anchor_shapes, (0.1, 0.2), [2, 1, 0.5, 3], (600, 400))


def shapes_one_by_one(s_x, s_y, ratios, width, height):
    return torch.tensor([[width * s_x * math.sqrt(a), height * s_y / math.sqrt(a)] for a in ratios])


same(anchor_shapes((0.3, 0.7), [1], (90, 40)), [[27, 28]], "ratio 1: the image's sides times the scale")
same(
    anchor_shapes((1, 1), [0.25, 9], (12, 30)), [[6, 60], [36, 10]], "an anchor may be larger than the image"
)
same(
    anchor_shapes((0.2, 0.1), [1, 2, 3, 1 / 2, 1 / 3], (500, 300)),
    shapes_one_by_one(0.2, 0.1, [1, 2, 3, 1 / 2, 1 / 3], 500, 300),
    "the five ratios of the slides, float32",
)
same(
    anchor_shapes((0.05, 0.4), [0.3, 5, 1.7], (111, 222)),
    shapes_one_by_one(0.05, 0.4, [0.3, 5, 1.7], 111, 222),
    "ratios in the order given",
)
for width, height in [(640, 480), (300, 500)]:
    same(
        anchor_shapes((0.5, 1), [3, 1 / 3], (width, height)),
        shapes_one_by_one(0.5, 1, [3, 1 / 3], width, height),
        f"image of {width} x {height}",
    )
### END HIDDEN TESTS

# %% [markdown]
r"""
Five shapes of one area. Look at 2 and 1/2: the same box, turned.
"""

# %%
RATIOS = [1, 2, 3, 1 / 2, 1 / 3]
names = ["1", "2", "3", "1/2", "1/3"]
shapes = anchor_shapes((1 / 40, 1 / 30), RATIOS, (WIDTH, HEIGHT))
with plot.figure(
    "Five rectangles around one centre, on a 16 pixel cell: a square, two wide and two tall ones.",
    width=3.6,
    height=3.6,
) as ax:
    ax.set(xlim=(-16, 16), ylim=(16, -16), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")
    plot.show_boxes(torch.tensor([[-8.0, -8, 8, 8]]), "negative", ax=ax)
    plot.show_boxes(torch.cat([-shapes / 2, shapes / 2], dim=1), "anchor", labels=names, ax=ax)
rows = [[name, *shape.tolist(), shape.prod().item()] for name, shape in zip(names, shapes)]
plot.table(rows, ["ratio", "width", "height", "area"], "Anchors of the finest grid, pixels", digits=1)

# %% [markdown]
r"""
With five shapes on each cell there are 1608 × 5 = **8,040** anchors.

Libraries disagree with us, and torchvision with itself: the aspect ratio 2 is wide in its anchors for SSD and
tall in its `AnchorGenerator`, for all other detectors. A swapped ratio raises no error; the detector just
never has a good anchor for a bus. When you use a library's anchors, print one.
"""

# %%
from torchvision.models.detection.anchor_utils import AnchorGenerator

theirs = AnchorGenerator().generate_anchors(scales=(16,), aspect_ratios=(2.0,))[0]
ours = anchor_shapes((1 / 40, 1 / 30), [2], (WIDTH, HEIGHT))[0]
print("torchvision's ratio 2 is wide:", bool(theirs[2] - theirs[0] > theirs[3] - theirs[1]))
print("ours is wide:", bool(ours[0] > ours[1]))

# %% [markdown]
r"""
## SSD's scales
SSD itself does not use the list $s$. It spreads the scales **evenly from 0.2 to 0.9** over its $m$ levels,
and uses one scale for both axes. The finest level has the smallest:

$$s_k = s_{min} + \frac{s_{max} - s_{min}}{m - 1}(k - 1), \qquad k = 1, …, m$$

By hand, three levels from 0.2 to 0.8: 0.2, 0.5, 0.8. There are three scales, but two steps between them.

### Exercise: `linear_scales`
*About 5 minutes, easy.* Give the scales of all levels, smallest first. With one level there is no step: it
gets `smallest`.

<details><summary>Hint</summary>Here `torch.arange(levels)` counts from 0, as $k - 1$ does.</details>
"""


# %% exercise="linear_scales"
def linear_scales(levels, smallest=0.2, largest=0.9):
    """A scale for each level, evenly spaced from `smallest` (the first, finest level) to `largest`.

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
same(linear_scales(1), [0.2], "one level has the smallest scale")
### BEGIN HIDDEN TESTS
same(
    linear_scales(6), torch.tensor([0.2, 0.34, 0.48, 0.62, 0.76, 0.9]), "six levels from 0.2 to 0.9, float32"
)
same(linear_scales(2), [0.2, 0.9], "two levels are the two ends")
same(
    linear_scales(levels=3, largest=0.5, smallest=0.1),
    [0.1, 0.3, 0.5],
    "three levels, every argument by its name",
)
same(linear_scales(1, 0.35, 0.8), [0.35], "one level, another smallest")
same(linear_scales(4, 0.1, 0.4), [0.1, 0.2, 0.3, 0.4], "four levels from 0.1 to 0.4")
same(linear_scales(8, 0.05, 0.95), [0.05 + 0.9 * k / 7 for k in range(8)], "eight levels from 0.05 to 0.95")
### END HIDDEN TESTS

# %% [markdown]
r"""
Side by side, for the width: the slides' tiles grow by half or twofold from level to level, SSD's scales in
equal steps. Look at the two finest levels. On a 640-pixel image SSD's smallest anchor is 128 pixels wide.
"""

# %%
ssd_scales = linear_scales(len(GRIDS))
with plot.figure(
    "Scales over the six levels: SSD's rise in a straight line from 0.2 to 0.9, the slides' tiles curve up"
    " from 0.025 to 0.5.",
    width=5,
    height=3,
) as ax:
    plot.curve(range(6), ssd_scales, 0, "SSD: linear", ax=ax)
    plot.curve(range(6), [1 / columns for columns, _ in GRIDS], 1, "slides: one cell", ax=ax)
    ax.set(
        xticks=range(6),
        xticklabels=[f"{c}×{r}" for c, r in GRIDS],
        xlabel="grid, from fine to coarse",
        ylabel="scale (share of the width)",
        ylim=(0, 1),
    )

# %% [markdown]
r"""
## One more anchor: 9,648
For the aspect ratio 1 SSD adds an anchor whose scale lies **between** this level's and the next one's:

$$(w_5, h_5) = \left(w\sqrt{s_j s_{j+1}},\ h\sqrt{s_j s_{j+1}}\right)$$

It is number 5 because the ratios count from 0 to 4. With scales for x and y, take the root for each. The
slides leave out what follows the last level; we take **1.0**, the whole image (the code for SSD300 takes
1.05). Six anchors on each of 1,608 cells:

| | anchors |
| --- | --- |
| cells of the six grids | 1,608 |
| × 5 aspect ratios | 8,040 |
| × 6 with the extra anchor | **9,648** |

The slides print the last total without its factor: it is 1,608 × 6.

By hand, two levels on an image of 100×50 with scales (0.04, 0.04) and (0.16, 0.16). The extra scale of the
first is $\sqrt{0.04 · 0.16}$ = 0.08, an anchor of 8×4 pixels. That of the last is $\sqrt{0.16 · 1}$ = 0.4, an
anchor of 40×20.

### Exercise: `ssd_anchors`
*About 25 minutes, the hardest of this lesson.* Build all anchors of an image. Take a level at a time: the
cells' centres from `tile_anchors`, the shapes from `anchor_shapes`, and a box around every centre for every
shape. Three orders must be right at once: levels as given, cells row by row, and in a cell the ratios in
order, then the extra anchor.

Shapes: level $j$ has `rows × columns` centres and `R + 1` shapes, so it gives `rows · columns · (R + 1)`
rows, anchors of a cell next to each other.

<details><summary>Hint</summary>

Centres as `[cells, 1, 2]` and shapes as `[R + 1, 2]` broadcast to `[cells, R + 1, 2]`; a `reshape(-1, 4)`
then keeps the anchors of a cell together. Walk over the levels and their *next* scales with
`zip(grids, scales, [*scales[1:], (1.0, 1.0)])`.
</details>
"""


# %% exercise="ssd_anchors"
def ssd_anchors(grids, scales, ratios, image_size):
    """All anchors of an image: on each cell of each grid one anchor a ratio, then one of an in-between scale.

    The extra anchor has ratio 1 and the scale sqrt(s_j * s_{j+1}), for x and for y; after the last level the
    next scale is 1.0. Anchors at the border reach out of the image: they are not clipped.
    Source: Liu et al., "SSD", ECCV 2016, section 2.2.

    Args:
        grids (list of tuple): (columns, rows) of each level, from fine to coarse; at least one level.
        scales (list of tuple): (s_x, s_y) of each level, as `anchor_shapes` takes it.
        ratios (list of float): aspect ratios, width / height, the same on all levels.
        image_size (tuple): (width, height) of the image, in pixels.

    Returns:
        Tensor[A, 4]: float32, xyxy, in pixels, centred on the cells. Level by level as given; in a level row
        by row, left to right; in a cell the ratios in order, then the extra anchor.
    """
    ### BEGIN SOLUTION
    levels = []
    for (columns, rows), scale, following in zip(grids, scales, [*scales[1:], (1.0, 1.0)]):
        between = [math.sqrt(s * t) for s, t in zip(scale, following)]
        extra = anchor_shapes(between, [1], image_size)  # [1, 2]
        shapes = torch.cat([anchor_shapes(scale, ratios, image_size), extra])  # [R + 1, 2]
        cells = tile_anchors(columns, rows, image_size)
        centres = (cells[:, None, :2] + cells[:, None, 2:]) / 2  # [cells, 1, 2]
        anchors = torch.cat([centres - shapes / 2, centres + shapes / 2], dim=-1)  # [cells, R + 1, 4]
        levels.append(anchors.reshape(-1, 4))
    return torch.cat(levels)
    ### END SOLUTION


# %% check="ssd_anchors" points=4
same(
    ssd_anchors([(2, 1), (1, 1)], [(0.04, 0.04), (0.16, 0.16)], [1], (100, 50)),
    [
        [23, 24, 27, 26],
        [21, 23, 29, 27],
        [73, 24, 77, 26],
        [71, 23, 79, 27],
        [42, 21, 58, 29],
        [30, 15, 70, 35],
    ],
    "two levels: the extra anchors are 8 x 4 on the first and 40 x 20 on the last",
)
same(
    ssd_anchors([(2, 1)], [(0.25, 0.25)], [1, 4], (64, 32)),
    [[8, 12, 24, 20], [0, 14, 32, 18], [0, 8, 32, 24], [40, 12, 56, 20], [32, 14, 64, 18], [32, 8, 64, 24]],
    "one level, two cells: in each cell the two ratios, then the extra anchor of scale sqrt(0.25 * 1)",
)
same(
    ssd_anchors([(1, 2)], [(1, 0.25)], [1], (10, 40)),
    [[0, 5, 10, 15], [0, 0, 10, 20], [0, 25, 10, 35], [0, 20, 10, 40]],
    "one column of two cells: the upper one first; x has another scale than y",
)


### BEGIN HIDDEN TESTS
untouched(ssd_anchors, [(2, 1), (1, 1)], [(0.1, 0.2), (0.3, 0.4)], [2, 1, 0.5], (100, 50))


def anchors_one_by_one(grids, scales, ratios, width, height):
    boxes = []
    for level in range(len(grids)):
        columns, rows = grids[level]
        s_x, s_y = scales[level]
        next_x, next_y = scales[level + 1] if level + 1 < len(grids) else (1.0, 1.0)
        sizes = [(width * s_x * math.sqrt(a), height * s_y / math.sqrt(a)) for a in ratios]
        sizes.append((width * math.sqrt(s_x * next_x), height * math.sqrt(s_y * next_y)))
        for row in range(rows):
            for column in range(columns):
                x, y = width * (column + 0.5) / columns, height * (row + 0.5) / rows
                boxes.extend([x - w / 2, y - h / 2, x + w / 2, y + h / 2] for w, h in sizes)
    return torch.tensor(boxes)


slide_grids = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
slide_scales = [(1 / columns, 1 / rows) for columns, rows in slide_grids]
slide_ratios = [1, 2, 3, 1 / 2, 1 / 3]
# float32 is good to some 1e-4 of a pixel here, and the order of the operations is the student's
same(
    ssd_anchors(slide_grids, slide_scales, slide_ratios, (640, 480)),
    anchors_one_by_one(slide_grids, slide_scales, slide_ratios, 640, 480),
    "the 9,648 anchors of the slides, float32",
    atol=1e-3,
)
same(
    ssd_anchors(slide_grids, slide_scales, slide_ratios, (300, 500)),
    anchors_one_by_one(slide_grids, slide_scales, slide_ratios, 300, 500),
    "the same grids on an image of 300 x 500",
    atol=1e-3,
)
linear = [(s, s) for s in (0.2, 0.55, 0.9)]
same(
    ssd_anchors([(7, 5), (4, 3), (2, 1)], linear, [1, 2, 1 / 2], (200, 90)),
    anchors_one_by_one([(7, 5), (4, 3), (2, 1)], linear, [1, 2, 1 / 2], 200, 90),
    "three levels with linear scales",
    atol=1e-3,
)
same(
    ssd_anchors([(3, 2)], [(0.3, 0.5)], [3], (64, 100)),
    anchors_one_by_one([(3, 2)], [(0.3, 0.5)], [3], 64, 100),
    "one level: its next scale is 1.0",
    atol=1e-3,
)
same(
    ssd_anchors([(1, 1), (2, 3)], [(0.9, 0.8), (0.1, 0.4)], [2, 1 / 3], (50, 70)),
    anchors_one_by_one([(1, 1), (2, 3)], [(0.9, 0.8), (0.1, 0.4)], [2, 1 / 3], 50, 70),
    "levels stay in the order given, here from coarse to fine",
    atol=1e-3,
)
same(
    ssd_anchors([(2, 1)], [(1, 1)], [4], (20, 10)),
    [[-15, 2.5, 25, 7.5], [-5, 0, 15, 10], [-5, 2.5, 35, 7.5], [5, 0, 25, 10]],
    "anchors larger than the image, and beyond its border",
)
same(
    ssd_anchors([(1, 1)], [(1, 1)], [1], (20, 10)),
    [[0, 0, 20, 10], [0, 0, 20, 10]],
    "scale 1 on the last level: the extra anchor equals that of ratio 1, and both are there",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
Now look at what six levels give one place of the image. In each panel the six anchors of one cell, here with
the slides' scales; coarse ones reach out of the image. That is all right: an object cut off by the border may
be best met by such an anchor, and SSD keeps them. (torchvision clips their width and height, lesson 14 meets
that again.)
"""

# %%
slide_scales = [(1 / columns, 1 / rows) for columns, rows in GRIDS]
anchors = ssd_anchors(GRIDS, slide_scales, RATIOS, (WIDTH, HEIGHT))
print("anchors:", len(anchors))

per_cell = len(RATIOS) + 1
first = 0
with plot.figure(
    "The six anchors of one cell on each of the six levels, over a scene: from specks of 16 pixels to boxes"
    " larger than the image.",
    width=8,
    height=4.7,
    rows=2,
    columns=3,
) as axes:
    for ax, (columns, rows) in zip(axes.flat, GRIDS):
        cell = (rows // 2) * columns + columns // 2
        start = first + cell * per_cell
        plot.show_image(photo, ax=ax)
        plot.show_boxes(anchors[start : start + per_cell], "anchor", ax=ax)
        ax.set(xlim=(-60, 800), ylim=(600, -120))
        ax.set_title(f"{columns}×{rows}, cell {cell}: rows {start} to {start + per_cell - 1}", fontsize=9)
        first += columns * rows * per_cell

# %% [markdown]
r"""
Walk through them. Choose a level, a cell and a shape, and move the two ends of the linear scales. From which level on
do the anchors of a cell in the corner lie mostly outside of the image?
"""

# %%
from coursekit.widgets import explore_anchors

explore_anchors(ssd_anchors, grids=GRIDS, ratios=RATIOS, linear_scales=linear_scales, image=photo)

# %% [markdown]
r"""
Row `(y · columns + x) · 6 + i` of a level, plus the rows of the levels before it, is anchor `i` of cell
`(x, y)`. A network's output has the same order in lesson 05. When the two disagree, everything runs and
nothing is learnt.

## Are these anchors any good?
An anchor can only be taught an object that it overlaps. So ask of every object: what is the best IoU that any
anchor has with it? We compare three sets on the objects of our sixty scenes: the slides' tiles, SSD's linear
scales, and linear scales that start at 0.06. Guess first: which objects will SSD's scales miss?
"""

# %%
sets = {
    "slides": slide_scales,
    "linear 0.2 to 0.9": [(s, s) for s in linear_scales(6).tolist()],
    "linear 0.06 to 0.6": [(s, s) for s in linear_scales(6, 0.06, 0.6).tolist()],
}
side = (truth[:, 2:] - truth[:, :2]).prod(dim=1).sqrt()
best = {
    name: box_iou(truth, ssd_anchors(GRIDS, scales, RATIOS, (160, 120))).amax(dim=1)
    for name, scales in sets.items()
}
with plot.figure(
    "Best IoU of each object over its size, for three sets of anchors. With scales from 0.2 objects under 20"
    " pixels stay below 0.5, larger ones reach 0.6 to 0.9; with scales from 0.06 nearly all lie above 0.5;"
    " the slides' tiles scatter about 0.5.",
    width=9,
    height=3,
    columns=3,
    sharey=True,
) as axes:
    for ax, (name, iou) in zip(axes, best.items()):
        ax.scatter(side, iou, s=8, color=plot.ROLES["positive"].color)
        ax.axhline(0.5, color=plot.ROLES["negative"].color, linestyle=":")
        ax.set(title=name, xlabel="side of the object (pixels)", ylim=(0, 1))
    axes[0].set_ylabel("best IoU")

is_small = side < 0.2 * 120
share = {
    name: [(iou[which] > 0.5).float().mean().item() for which in (is_small, ~is_small)]
    for name, iou in best.items()
}
print(
    "linear from 0.2: nearly every larger object has an anchor above 0.5:",
    share["linear 0.2 to 0.9"][1] > 0.95,
)
print("linear from 0.2: most small objects have none:", share["linear 0.2 to 0.9"][0] < 0.5)
print("linear from 0.06: nearly every small object has one:", share["linear 0.06 to 0.6"][0] > 0.95)

# %% [markdown]
r"""
Same grids, same count of 9,648, another choice of scales, and the small objects are found or lost before any
training.

SSD's authors knew: for 300-pixel images they gave the finest level a scale of 0.1. Anchors are a guess about
the data; measure it, as here, before you train.

A second look at the middle panel: why do most large objects stay between 0.7 and 0.8? Our shapes are about as
wide as high. One scale for both axes gives the anchor of ratio 1 the shape of the *image*, 4:3, and a square
shares only 0.76 with a 4:3 box of its own area. On SSD's square images ratio 1 is a square. The slides'
$(s_x, s_y)$ can put that right on any image.

### Written question: `smallest_object`
*About 10 minutes.* An object of 24×24 pixels lies on the centre of a cell of the 40×30 grid, image 640×480,
six levels, SSD's scales from 0.2 to 0.9. (a) How large is the anchor of ratio 1 on this level, and what is
its IoU with the object? (b) Does one of the other ratios do better? (c) What would you change, and what does
it cost?
"""

# %% written="smallest_object" points=2
r"""
(a) 0.2 · 640 × 0.2 · 480 = 128×96 pixels, an area of 12,288. The object lies inside, so the IoU is 576 /
12,288 = 0.047.

(b) No. All ratios have the same area, and even the flattest (ratio 3: 222×55) and the narrowest (ratio 1/3:
74×166) contain the object, so all have 0.047. The extra anchor is larger and has less.

(c) A smaller first scale: with 0.05 the anchor is 32×24 and the IoU is 576 / 768 = 0.75. If only the smallest
scale is lowered, the steps between levels grow and sizes in between are met less well; a further level costs
anchors (and time), and nearly all of those are background.
"""

# %% [markdown]
r"""
## What you built
`tile_anchors`, `anchor_shapes`, `linear_scales` and `ssd_anchors`: every region that the slides' SSD looks
at, in an order that the rest of the course relies on. Next, in lesson 03, each object chooses its anchors.

**Names elsewhere.** SSD's paper says *default boxes*, its first code *prior boxes*, Faster R-CNN *anchors*.
torchvision: `DefaultBoxGenerator` (SSD; its order in a cell is 1, the extra one, then 2, 1/2, 3, 1/3) and
`AnchorGenerator`; detectron2: `DefaultAnchorGenerator`; mmdetection: `SSDAnchorGenerator`. Except for SSD's,
their aspect ratio is height / width.

**Further reading.** Liu et al., *SSD: Single Shot MultiBox Detector*, ECCV 2016, section 2.2, "Choosing
scales and aspect ratios for default boxes". Ren et al., *Faster R-CNN*, NIPS 2015, section 3.1, where anchors
come from. Redmon and Farhadi, *YOLO9000*, CVPR 2017, section 2, "Dimension clusters": anchors chosen by
clustering the boxes of the data.
"""
