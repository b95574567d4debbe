# %% [markdown]
r"""
# 9 · Faster R-CNN: a network that proposes regions

Fast R-CNN of lesson 8 looks at an image once and at two thousand regions of it cheaply. What is left is the
step before: selective search takes two seconds to find these regions, the detector itself 0.2 seconds. And
selective search learns nothing: its rules for colour and texture were written by hand. Faster R-CNN replaces
it by a small network on the same feature map. Regions then cost almost nothing, and they get better with
training.

The slides and this lesson follow Shaoqing Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with
Region Proposal Networks", NeurIPS 2015 ([arXiv:1506.01497](https://arxiv.org/abs/1506.01497)).

| exercise | gives | minutes |
| --- | --- | --- |
| `cell_anchors` | the k = 9 anchors of a cell | about 10 |
| `grid_anchors` | these at every location of a map | about 10 |
| `inside_image` | which of them lie inside of the image | about 5 |
| `label_rpn_anchors` | what each is to say: object, background, nothing | about 20 |
| `sample_anchors` | the 256 that take part in the loss | about 15 |
| `RPNHead` | the network | about 15 |
| `rpn_loss` | its loss | about 15 |
| `propose` | from its numbers to regions | about 20 |
| `alternating_training` | the 4 steps that make two networks one | about 20 |
| `repaired_regions` | a colleague's detector, repaired | about 15 |

With two written questions, four minutes of training and the reading this takes about four hours.
It needs lessons 1, 3, 4, 6 and 8: what you wrote there is used, and where something is missing a library's
function takes its place.

**Conventions**, as in all lessons: a box is `xyxy` = `(x1, y1, x2, y2)` in pixels of the image that the
network sees, x right, y down. An aspect ratio is width / height. The location of cell (x, y) of a map with
stride `s` is `(⌊s/2⌋ + x·s, ⌊s/2⌋ + y·s)`. Everything dense is in one order, `(y·W + x)·A + a`: y outer, x
inner, the `A` anchors of a cell innermost. A label of −1 is ignored. In formulas the slides call the number
of anchors of a cell `k`.
"""

# %% setup=true
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

box_iou, decode_boxes, nms = earlier("box_iou"), earlier("decode_boxes"), earlier("nms")
smooth_l1_loss = earlier("smooth_l1_loss")

# %% [markdown]
r"""
## What we will build

Two networks on one feature map. The first one, the **region proposal network** (RPN), looks at each place of
the map and says "something is here, about this large": the paper calls it the *attention* of the whole. The
second one is Fast R-CNN: it looks at the proposed regions only, and says what they hold.

```
image 128×128 ── backbone ── one map 16×16, stride 8 ─┬─ RPN ── proposals ─┐
                                                      │                    │
                                                      └──────────────── RoIAlign ── head ── classes and boxes
```

Faster R-CNN = RPN + Fast R-CNN. Below are four scenes with their true boxes. After the training they come
back twice: with what the RPN proposes, and with what the detector makes of it.
"""

# %%
from coursekit.data import scenes

test = scenes("test")
alt = "Four scenes with one to six shapes each, and the true box and name of each shape"
with plot.figure(alt, width=8, height=2.2) as ax:
    plot.pictures(test, columns=4, count=4, ax=ax)

# %% [markdown]
r"""
## Nine anchors in a cell

The RPN slides a small window over the last feature map. At each place it must be able to propose a region of
any size and shape, though it always sees the same 3×3 cells. So it does not say where a box is but how a box
differs from a reference, an **anchor**, whose centre is the window's. There are k of them, one for each shape
that may be wanted. The image is not scaled to several sizes, nor is the filter: the slides call it a *pyramid
of anchors*.

The slides take 3 scales, 128², 256² and 512² pixels, and 3 aspect ratios, 1:1, 1:2 and 2:1. A scale $s$ stands
for an *area* of $s^2$: an anchor of scale $s$ and ratio $a$ (width / height) has

$$w = s\sqrt{a}, \qquad h = \frac{s}{\sqrt{a}}, \qquad w \cdot h = s^2.$$

| $s$ | $a$ = 1 | $a$ = 0.5 | $a$ = 2 |
| --- | --- | --- | --- |
| 128 | 128×128 | 90.5×181.0 | 181.0×90.5 |
| 256 | 256×256 | 181.0×362.0 | 362.0×181.0 |
| 512 | 512×512 | 362.0×724.1 | 724.1×362.0 |

We lay them around the point (0, 0) first, so a corner may be negative: scale 16 with ratio 4 is 32 wide and 8
high, (−16, −4, 16, 4). In the figure, look for the three anchors of each area: the larger, the thicker the line.
"""

# %%
NINE = [(s * a**0.5, s / a**0.5) for s in (128, 256, 512) for a in (1, 0.5, 2)]
alt = "Nine boxes around one point of a 1000 by 600 image, three of each area: a square, an upright and a lying one"
with plot.figure(alt, width=5.5, height=4.2) as ax:
    plot.show_boxes([[0, 0, 1000, 600]], "negative", ax=ax)
    ax.set(xlim=(-20, 1020), ylim=(690, -90), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")
    for number, area in enumerate(("128²", "256²", "512²")):
        boxes = [[500 - w / 2, 300 - h / 2, 500 + w / 2, 300 + h / 2] for w, h in NINE[3 * number : 3 * number + 3]]
        plot.show_boxes(boxes, "anchor", thickness=1.0 + number, ax=ax)
        plot.show_boxes(boxes[:1], "anchor", labels=[area], thickness=1.0 + number, ax=ax)
    plot.show_points([[500, 300]], "anchor", ax=ax)

# %% [markdown]
r"""
### Exercise: `cell_anchors`

*About 10 minutes, easy.*

Write `cell_anchors(scales, ratios)`: each scale with each ratio, around (0, 0). `S` scales and `R` ratios
give a float32 `Tensor[S·R, 4]`, scales in the outer loop, ratios in the inner one.

<details><summary>Hint</summary>
Two loops will do. Without loops: <code>scales[:, None] * roots</code> is a table of all products; flatten it.
</details>
"""

# %% exercise="cell_anchors"
def cell_anchors(scales=(128, 256, 512), ratios=(1, 0.5, 2)):
    """The anchors of one cell, around the point (0, 0): each scale with each ratio.

    Source: Ren et al., NeurIPS 2015, section 3.1.1 (arXiv:1506.01497).

    Args:
        scales (sequence of S floats): the side s of the square with the anchor's area, in pixels.
        ratios (sequence of R floats): width / height; w = s√a, h = s/√a.

    Returns:
        Tensor[S·R, 4]: float32 xyxy in pixels; row i·R + j has scale i and ratio j.
    """
    ### BEGIN SOLUTION
    scales = torch.tensor(scales, dtype=torch.float32)[:, None]  # [S, 1]
    roots = torch.tensor(ratios, dtype=torch.float32).sqrt()  # [R]
    widths, heights = (scales * roots).flatten(), (scales / roots).flatten()  # [S·R]
    return torch.stack([-widths, -heights, widths, heights], 1) / 2
    ### END SOLUTION

# %% check="cell_anchors" points=1
same(cell_anchors((16, 32), (1, 4)), [[-8, -8, 8, 8], [-16, -4, 16, 4], [-16, -16, 16, 16], [-32, -8, 32, 8]],
     "scale 16 with ratios 1 and 4 (32×8), then scale 32 with ratios 1 and 4 (64×16)")
same(list(cell_anchors().shape), [9, 4], "3 scales and 3 ratios: k = 9")
same(cell_anchors((6,), (0.25,)), torch.tensor([[-1.5, -6, 1.5, 6]]),
     "ratio 0.25 is four times as high as wide: 3×12, in float32")
### BEGIN HIDDEN TESTS
expected = []
for s in (128, 256, 512):
    for a in (1, 0.5, 2):
        w, h = s * math.sqrt(a), s / math.sqrt(a)
        expected.append([-w / 2, -h / 2, w / 2, h / 2])
same(cell_anchors(), torch.tensor(expected), "the nine anchors of the slides")
same(cell_anchors([10, 20.5, 7], [0.3, 3, 1, 7.5]), [
    [side * s * a ** power / 2 for side, power in ((-1, 0.5), (-1, -0.5), (1, 0.5), (1, -0.5))]
    for s in (10, 20.5, 7) for a in (0.3, 3, 1, 7.5)
], "three scales and four ratios, from lists")
same([list(cell_anchors(*sides).shape) for sides in (((), (1, 2)), ((8,), ()))], [[0, 4], [0, 4]],
     "no scale or no ratio: no anchor")
### END HIDDEN TESTS

# %% [markdown]
r"""
## At every location

The cell's anchors are the same everywhere, moved to the cell's location. Stride 16 means that a cell stands
for 16×16 pixels, and ⌊16/2⌋ = 8 is the middle of the first one. On a map 3 cells wide and 2 high the
locations are (8, 8), (24, 8), (40, 8), then (8, 24), (24, 24), (40, 24).

With two anchors in a cell, cell `x = 0, y = 1` has the rows $(1 \cdot 3 + 0) \cdot 2 + a$, that is 6 and 7.
The head will give its numbers in the same order.

An image of 960×640 pixels has at stride 16 a map of 60×40 = 2,400 locations, hence the slides' $W \times H
\approx 2400$, and $WHk = 21{,}600$ anchors.

### Exercise: `grid_anchors`

*About 10 minutes, easy.*

Write `grid_anchors(cell, grid, stride)`. `cell` is `Tensor[A, 4]`, `grid` = (columns, rows); give a
`Tensor[H·W·A, 4]`.

<details><summary>Hint</summary>
Make the locations as (x, y, x, y), one row a cell, <code>[H·W, 1, 4]</code>; adding <code>[A, 4]</code> gives
all pairs.
<code>torch.meshgrid(y, x, indexing="ij")</code> has y outside.
</details>
"""

# %% exercise="grid_anchors"
def grid_anchors(cell, grid, stride):
    """The anchors of a cell at every location of a feature map.

    The location of cell (x, y) is (⌊s/2⌋ + x·s, ⌊s/2⌋ + y·s) for stride s.

    Args:
        cell (Tensor[A, 4]): anchors around (0, 0), xyxy in pixels.
        grid (int, int): (columns, rows) of the feature map, W and H.
        stride (int): pixels between two locations.

    Returns:
        Tensor[H·W·A, 4]: xyxy in pixels, in the order (y·W + x)·A + a; of the dtype and on the device of `cell`.
    """
    ### BEGIN SOLUTION
    columns, rows = grid
    x = stride // 2 + stride * torch.arange(columns, dtype=cell.dtype, device=cell.device)
    y = stride // 2 + stride * torch.arange(rows, dtype=cell.dtype, device=cell.device)
    y, x = torch.meshgrid(y, x, indexing="ij")  # [H, W] each
    locations = torch.stack([x, y, x, y], -1)  # [H, W, 4]
    return (locations[:, :, None] + cell).reshape(-1, 4)
    ### END SOLUTION

# %% check="grid_anchors" points=2
cell = torch.tensor([[-4.0, -4, 4, 4], [-8, -2, 8, 2]])
same(list(grid_anchors(cell, (3, 2), 16).shape), [12, 4], "3 columns, 2 rows, 2 anchors a cell")
same(grid_anchors(cell, (3, 2), 16)[:2], [[4, 4, 12, 12], [0, 6, 16, 10]],
     "the first two are the cell's anchors at (8, 8), half a stride from the corner")
same(grid_anchors(cell, (3, 2), 16)[2], [20, 4, 28, 12], "then one cell to the right, at (24, 8): x is the inner loop")
same(grid_anchors(cell, (3, 2), 16)[6], [4, 20, 12, 28], "row (1·3 + 0)·2 is the first of the second row, at (8, 24)")
### BEGIN HIDDEN TESTS
def at_every_location(cell, columns, rows, stride):
    """The same, one anchor at a time."""
    boxes = []
    for y in range(rows):
        for x in range(columns):
            cx, cy = stride // 2 + x * stride, stride // 2 + y * stride
            boxes += [[x1 + cx, y1 + cy, x2 + cx, y2 + cy] for x1, y1, x2, y2 in cell.tolist()]
    return torch.tensor(boxes, dtype=cell.dtype).reshape(-1, 4)


dice = torch.Generator().manual_seed(9)
odd = 30 * torch.randn(3, 4, generator=dice)
same(grid_anchors(odd, (5, 4), 8), at_every_location(odd, 5, 4, 8), "5×4 cells, three odd anchors, float32")
same(grid_anchors(odd.double(), (2, 7), 32), at_every_location(odd.double(), 2, 7, 32), "2×7 cells, float64")
same(grid_anchors(odd, (4, 3), 7), at_every_location(odd, 4, 3, 7), "a stride of 7 begins at ⌊7/2⌋ = 3")
same(grid_anchors(odd[:1], (1, 6), 16), at_every_location(odd[:1], 1, 6, 16), "one column, one anchor")
same(list(grid_anchors(odd, (60, 40), 16).shape), [7200, 4], "60×40 cells: 2,400 locations")
same(grid_anchors(odd[:0], (4, 3), 8), torch.zeros(0, 4), "no anchor in a cell")
same(grid_anchors(odd, (0, 3), 8), torch.zeros(0, 4), "a map without columns")
untouched(grid_anchors, odd.clone(), (4, 3), 8)
### END HIDDEN TESTS

# %% [markdown]
r"""
## Anchors that cross the border

A large anchor at the edge of the image lies half outside. What it should say of a region that nobody can see
is unclear, and in training such anchors bring errors that are large and hard to correct. The slides ignore
them in training: **cross-boundary anchors** take no part in the loss. In prediction they speak like all
others, and their boxes are clipped.

That is a large part. Of the 21,600 anchors of an image of 960×640 pixels, 8,268 lie inside. The slides'
"about 6,000" is for the paper's images, whose shortest side is 600: with our anchors 5,834 at 800×600 and
8,044 at 1000×600. (The paper's code rounds the anchors and puts them elsewhere in the cell, which changes
these numbers by about a hundred.)

### Exercise: `inside_image`

*About 5 minutes, easy.*

Write `inside_image(anchors, image_size)`: a bool for each anchor, True where all of it lies in the image, its
border included. `image_size` = (width, height).

<details><summary>Hint</summary>Four comparisons, joined by <code>&</code>.</details>
"""

# %% exercise="inside_image"
def inside_image(anchors, image_size):
    """Which anchors lie wholly inside of the image; its border still counts as inside.

    Args:
        anchors (Tensor[A, 4]): xyxy in pixels.
        image_size (int, int): (width, height) in pixels.

    Returns:
        Tensor[A]: bool.
    """
    ### BEGIN SOLUTION
    width, height = image_size
    return (anchors[:, :2] >= 0).all(1) & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)
    ### END SOLUTION

# %% check="inside_image" points=1
anchors = torch.tensor([[10.0, 10, 30, 30], [-2, 10, 18, 30], [80, 20, 101, 40], [60, 40, 80, 60], [5, 41, 25, 61]])
same(inside_image(anchors, (100, 60)), [True, False, False, True, False],
     "inside; over the left edge; over the right edge; touching the bottom; over the bottom")
### BEGIN HIDDEN TESTS
dice = torch.Generator().manual_seed(2)
corners = torch.randint(-9, 120, (400, 2), generator=dice).double()
many = torch.cat([corners, corners + torch.randint(1, 40, (400, 2), generator=dice)], 1)
expected = [x1 >= 0 and y1 >= 0 and x2 <= 110 and y2 <= 70 for x1, y1, x2, y2 in many.tolist()]
same(inside_image(many, (110, 70)), torch.tensor(expected), "400 anchors on 110×70 pixels, float64")
same(inside_image(many.float() + 0.5, (70, 110)), torch.tensor(
    [x1 >= -0.5 and y1 >= -0.5 and x2 <= 69.5 and y2 <= 109.5 for x1, y1, x2, y2 in many.tolist()]
), "400 anchors half a pixel further, on an image higher than wide")
same(inside_image(torch.tensor([[0.0, 0, 50, 30]]), (50, 30)), [True], "an anchor as large as the image is inside")
single = torch.tensor([[-0.25, 5, 9, 9], [5, -0.25, 9, 9], [5, 5, 50.25, 9], [5, 5, 9, 30.25], [5, 5, 50, 30]])
same(inside_image(single, (50, 30)), [False, False, False, False, True], "a quarter of a pixel over each edge in turn")
same(inside_image(single[:0], (50, 30)), torch.zeros(0, dtype=torch.bool), "no anchors: an empty tensor of bool")
untouched(inside_image, torch.tensor([[-3.0, 5, 9, 9], [5, 5, 8, 12]]), (50, 30))
### END HIDDEN TESTS

# %%
photo = grid_anchors(cell_anchors(), (60, 40), 16)
inside = inside_image(photo, (960, 640)).reshape(-1, 9).sum(0)  # of each shape
print(f"{len(photo):,} anchors, {int(inside.sum()):,} inside")
for (w, h), count in zip(NINE, inside.tolist()):
    print(f"{w:4.0f}×{h:3.0f}: {count:5,} of 2,400")

# %% [markdown]
r"""
Of the squares of 512 pixels only one in eleven is inside, and no upright one: it is higher than the image.

## What an anchor is to say

The RPN asks one question: object or not, whatever its class. The slides' rules for the ground truth:

- An anchor with IoU > 0.7 with *any* object is **positive**, 1.
- The anchor with the highest IoU for an object is positive too, however low that is. So every object has an
  anchor. Several anchors may share the highest IoU: all of them are positive.
- An anchor with IoU < 0.3 for *all* objects is **negative**, 0.
- All others do not contribute to the training objective: −1.

Two objects and five anchors:

| IoU | anchor 0 | 1 | 2 | 3 | 4 |
| --- | --- | --- | --- | --- | --- |
| object 0 | **0.8** | **0.75** | 0.5 | 0.1 | 0 |
| object 1 | 0 | 0.2 | 0.25 | 0.1 | **0.4** |
| label | 1 | 1 | −1 | 0 | 1 |

Anchor 4 is the best that object 1 has. Anchor 2 is far from 0.7 and far from background: better say nothing
of it.

Why not one threshold, as for SSD in lesson 3? What lies between is half an object. To call it background
would teach the network to doubt its positives; to call it an object would make its proposals loose. Unlike
there, an object's best anchor is not taken away from another object: "object" is all that the label says.

One thing is needed where objects come from real data: an object that meets no anchor at all has the highest
IoU 0, with every anchor. It forces none.

### Exercise: `label_rpn_anchors`

*About 20 minutes, of medium difficulty.*

Write `label_rpn_anchors(iou, positive=0.7, negative=0.3)`. `iou` is `Tensor[M, A]`; give the labels, int64
`Tensor[A]`.

- More than `positive`, less than `negative`: equal is neither.
- The rule of the best anchors has the last word.
- `M = 0`: all anchors are 0. `A = 0`: an empty tensor.

<details><summary>Hint</summary>
Begin with −1 everywhere and write 0, then 1, then 1 again. An object's best anchors are the columns where
<code>iou == iou.amax(1, keepdim=True)</code> in some row. <code>amax</code> of nothing fails: look at empty tables first.
</details>
"""

# %% exercise="label_rpn_anchors"
def label_rpn_anchors(iou, positive=0.7, negative=0.3):
    """What each anchor is to say: object, background, or nothing.

    Args:
        iou (Tensor[M, A]): of every object with every anchor.
        positive (float): an anchor with an IoU above this with any object is positive.
        negative (float): an anchor with an IoU below this with all objects is negative.

    Returns:
        Tensor[A]: int64; 1 object, 0 background, −1 ignored. The best anchors of each object, all ties of them, are
        positive whatever their IoU, unless the object meets no anchor at all. With M = 0 all are background.
    """
    ### BEGIN SOLUTION
    objects, anchors = iou.shape
    labels = torch.full((anchors,), -1, dtype=torch.int64, device=iou.device)
    if objects == 0 or anchors == 0:
        return labels + 1
    best = iou.amax(0)  # [A]
    labels[best < negative] = 0
    labels[best > positive] = 1
    top = iou.amax(1, keepdim=True)  # [M, 1]
    labels[((iou == top) & (top > 0)).any(0)] = 1
    return labels
    ### END SOLUTION

# %% check="label_rpn_anchors" points=2
iou = torch.tensor([[0.8, 0.75, 0.5, 0.1, 0.0], [0.0, 0.2, 0.25, 0.1, 0.4]])
same(label_rpn_anchors(iou), torch.tensor([1, 1, -1, 0, 1]),
     "two over 0.7, one between, one below 0.3 for both, and the best of object 1 though it has 0.4 only")
same(label_rpn_anchors(iou, 0.4, 0.2), [1, 1, 1, 0, 1], "other thresholds: 0.5 is over 0.4 now")
same(label_rpn_anchors(torch.zeros(0, 3)), [0, 0, 0], "no object: everything is background")
### BEGIN HIDDEN TESTS
def plain_labels(iou, positive, negative):
    """The same, one anchor at a time."""
    rows, labels = iou.tolist(), []
    for a in range(iou.shape[1]):
        column = [row[a] for row in rows]
        best = max(column, default=0.0)
        label = 1 if best > positive else 0 if best < negative else -1
        if any(row[a] > 0 and row[a] == max(row) for row in rows):
            label = 1
        labels.append(label)
    return torch.tensor(labels, dtype=torch.int64)


dice = torch.Generator().manual_seed(3)
table = torch.rand(4, 60, generator=dice) ** 2 * (torch.rand(4, 60, generator=dice) > 0.4)
same(label_rpn_anchors(table), plain_labels(table, 0.7, 0.3), "4 objects and 60 anchors, float32")
rough = (8 * torch.rand(6, 40, generator=dice, dtype=torch.float64)).floor() / 10
same(label_rpn_anchors(rough, 0.65, 0.25), plain_labels(rough, 0.65, 0.25), "6 objects and 40 anchors with many ties, float64")
same(label_rpn_anchors(rough.T / 2, 0.3, 0.1), plain_labels(rough.T / 2, 0.3, 0.1), "more objects than anchors")
tie = torch.tensor([[0.5, 0.2, 0.5, 0.499, 0.1]])
same(label_rpn_anchors(tie), [1, 0, 1, -1, 0], "two anchors share the best IoU of 0.5: both are positive; 0.499 is not")
edges = torch.tensor([[0.75, 0.875, 0.25, 0.125]])
same(label_rpn_anchors(edges, 0.75, 0.25), [-1, 1, -1, 0], "an IoU equal to a threshold is neither above nor below it")
same(label_rpn_anchors(torch.tensor([[0.03, 0.01, 0.0]])), [1, 0, 0], "an object's best anchor is positive with an IoU of 0.03 too")
same(label_rpn_anchors(torch.tensor([[0.2, 0.1], [0.0, 0.0]])), [1, 0], "an object that meets no anchor makes none positive")
same(label_rpn_anchors(torch.tensor([[0.2, 0.1, 0.05], [0.6, 0.65, 0.1]])), [1, 1, 0],
     "an object's best anchor may overlap another object more")
same(label_rpn_anchors(torch.zeros(3, 0)), torch.zeros(0, dtype=torch.int64), "objects and no anchors")
same(label_rpn_anchors(torch.zeros(0, 2, dtype=torch.float64)), torch.tensor([0, 0]), "no object, float64: labels are int64")
untouched(label_rpn_anchors, table.clone())
### END HIDDEN TESTS

# %% [markdown]
r"""
On a scene, with three square anchors of 16, 32 and 64 pixels in each cell of a map of stride 8. Look in the
middle for anchors over 0.7 in blue, and in orange for those that are positive only because an object has no
better one.
"""

# %%
scene = test.targets[0]["boxes"].cpu()
small = grid_anchors(cell_anchors((16, 32, 64), (1,)), (16, 16), 8)  # for scenes: three squares a cell
small_labels = label_rpn_anchors(box_iou(scene, small))
best = box_iou(scene, small).amax(0)
alt = "A scene three times: its true boxes, the positive anchors close around them, and ignored anchors further off"
with plot.figure(alt, columns=3, width=9, height=3.3) as axes:
    plot.show_boxes(scene, "truth", image=test.images[0], ax=axes[0])
    plot.show_boxes(small[(small_labels == 1) & (best > 0.7)], "positive", image=test.images[0], ax=axes[1])
    plot.show_boxes(small[(small_labels == 1) & (best <= 0.7)], "forced", ax=axes[1])
    plot.show_boxes(small[small_labels == -1], "ignored", image=test.images[0], thickness=0.6, ax=axes[2])
    for ax, title in zip(axes, ("true boxes", "positive: over 0.7, or the best", "ignored")):
        ax.set(title=title)
print(f"of {len(small)} anchors more than nine in ten are background: {(small_labels == 0).float().mean().item() > 0.9}")

# %% [markdown]
r"""
Move both thresholds, and drag an object. How far must 0.7 fall until no anchor is positive only as an object's best,
that is until the line has passed every orange star?
"""

# %%
from coursekit.widgets import explore_matching

explore_matching(label_rpn_anchors, box_iou, small, scene, image=test.images[0], threshold=0.7, ignoring=0.3)

# %% [markdown]
r"""
## 256 of them

Summed over all anchors, background would drown the objects: there are hundreds of negatives for each
positive. SSD looked for the hardest negatives. The RPN draws at random: 256 anchors of an image, positives
and negatives 1:1.

Rarely are there 128 positives. Then all of them are taken, and negatives fill the other places. Never the
other way round: more than half are never positive. Random and not the hardest, since the second stage will
look at hard regions anyway.

### Exercise: `sample_anchors`

*About 15 minutes, of medium difficulty.*

Write `sample_anchors(labels, count=256, positive_fraction=0.5, generator=None)`. `labels` is `Tensor[A]` of
1, 0 and −1. Give two tensors of indices, the chosen positives and the chosen negatives, in any order.

- At most ⌊`count` · `positive_fraction`⌋ positives; negatives fill up to `count`, as far as there are enough.
- No anchor twice, and each of a kind with the same chance.
- Random numbers come from `generator`.

<details><summary>Hint</summary>
<code>torch.randperm(n, generator=generator)[:m]</code> draws m of n numbers, none twice.
</details>
"""

# %% exercise="sample_anchors"
def sample_anchors(labels, count=256, positive_fraction=0.5, generator=None):
    """A random choice of the anchors that take part in the loss of one image.

    Args:
        labels (Tensor[A]): int64; 1 object, 0 background, −1 ignored.
        count (int): how many are chosen; fewer where there are not enough.
        positive_fraction (float): at most ⌊count · positive_fraction⌋ of them are positive; negatives fill the rest.
        generator (torch.Generator, optional): of the random numbers; torch's own unless given.

    Returns:
        (Tensor[P], Tensor[N]): int64, indices of positives and of negatives, none twice, in any order.
    """
    ### BEGIN SOLUTION
    positives, negatives = ((labels == value).nonzero().squeeze(1) for value in (1, 0))
    shuffled = torch.randperm(len(positives), generator=generator, device=labels.device)
    positives = positives[shuffled[: int(count * positive_fraction)]]
    shuffled = torch.randperm(len(negatives), generator=generator, device=labels.device)
    return positives, negatives[shuffled[: count - len(positives)]]
    ### END SOLUTION

# %% check="sample_anchors" points=2
labels = torch.tensor([0, 1, -1, 0, 0, 1, 0, -1, 0, 1, 0, 0])
dice = torch.Generator().manual_seed(0)
positives, negatives = sample_anchors(labels, 4, generator=dice)
same([len(positives), len(negatives)], [2, 2], "four anchors at 1:1: two positives, two negatives")
same([labels[positives].tolist(), labels[negatives].tolist()], [[1, 1], [0, 0]], "the indices are of positives, of negatives")
few = [sorted(part.tolist()) for part in sample_anchors(labels, 10, generator=dice)]
same(few[0], [1, 5, 9], "there are three positives only, where ten anchors have room for five: all are taken")
same(len(few[1]), 7, "all seven negatives fill the other places")
### BEGIN HIDDEN TESTS
dice = torch.Generator().manual_seed(4)
large = torch.randint(-1, 2, (5000,), generator=dice)
positives, negatives = sample_anchors(large, generator=dice)
same([len(positives), len(negatives)], [128, 128], "256 of 5,000 at 1:1")
same([large[positives], large[negatives]], [torch.ones(128, dtype=torch.int64), torch.zeros(128, dtype=torch.int64)],
     "128 positives and 128 negatives, int64")
same([len(set(part.tolist())) for part in (positives, negatives)], [128, 128], "no anchor is chosen twice")
same([str(part.dtype) for part in (positives, negatives)], ["torch.int64"] * 2, "indices are int64")
rare = torch.zeros(900, dtype=torch.int64)
rare[[7, 300, 899]] = 1
parts = sample_anchors(rare, generator=dice)
same([sorted(parts[0].tolist()), len(set(parts[1].tolist()))], [[7, 300, 899], 253], "3 positives and 253 negatives")
parts = sample_anchors(1 - rare, 100, generator=dice)
same([len(parts[0]), sorted(parts[1].tolist())], [50, [7, 300, 899]],
     "too few negatives: positives do not take their places")
quarter = sample_anchors(large, 30, 0.25, dice)
same([len(part) for part in quarter], [7, 23], "a quarter of 30, rounded down")
same([[len(part) for part in sample_anchors(large, 5)], [len(part) for part in sample_anchors(large, 0)]],
     [[2, 3], [0, 0]], "half of 5, rounded down; then none at all")
none = [torch.zeros(0, dtype=torch.int64)] * 2
same(list(sample_anchors(large[:0])), none, "no anchors")
same(list(sample_anchors(torch.full((9,), -1))), none, "all ignored")
same([len(part) for part in sample_anchors(torch.zeros(40, dtype=torch.int64), 16)], [0, 16], "an image without objects")
same([len(part) for part in sample_anchors(torch.ones(40, dtype=torch.int64), 16)], [8, 0], "positives only: half of them")
seen = [torch.cat(sample_anchors(labels, 4, generator=dice)).tolist() for _ in range(200)]
same(sorted(set(sum(seen, []))), [0, 1, 3, 4, 5, 6, 8, 9, 10, 11], "over 200 draws every anchor with a label has its turn")
times = [sum(chosen.count(i) for chosen in seen) for i in (1, 5, 9, 0, 3, 4, 6, 8, 10, 11)]
same([80 < t < 190 for t in times[:3]] + [20 < t < 100 for t in times[3:]], [True] * 10, "each about as often as the others")
wide = [sample_anchors(large, 64, generator=dice) for _ in range(20)]
spans = [[int(part.min()) < 2000, bool(((part > 2000) & (part < 3000)).any()), int(part.max()) > 3000] for draw in wide for part in draw]
same(spans, [[True] * 3] * 40, "32 of about 1,700 come from all over the image")
later = [len(set(torch.cat(parts).tolist())) > 500 for parts in zip(*wide)]
same(later, [True, True], "20 draws of 32 are mostly of different anchors")
twice = [sample_anchors(large, 64, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
same([a.tolist() == b.tolist() for a, b in zip(*twice)], [True, True], "the same generator, the same choice")
other = sample_anchors(large, 64, generator=torch.Generator().manual_seed(6))
same([sorted(a.tolist()) == sorted(b.tolist()) for a, b in zip(twice[0], other)], [False, False],
     "another generator, another choice")
untouched(sample_anchors, labels.clone(), 4)
### END HIDDEN TESTS

# %% [markdown]
r"""
## The network

The slides' RPN is a small network that slides over the map:

1. It takes a window of $n \times n$ cells, $n = 3$.
2. It turns the window into a code of 256 or 512 numbers.
3. From the code, one layer says "object or not", and one gives 4k numbers, the box offsets of the k anchors.

Sliding is what a convolution does. The first step is a 3×3 convolution with ReLU, here with as many output
channels as the map has; the two layers after it are 1×1 convolutions.

**2k or k?** The slides have 2k scores: for each anchor one for "object" and one for "no object", with a
softmax over the two. Our head gives k. Nothing is lost: the softmax of two logits depends on their difference
only,

$$\frac{e^{z_1}}{e^{z_0} + e^{z_1}} = \frac{1}{1 + e^{-(z_1 - z_0)}} = \sigma(z_1 - z_0),$$

so one logit $z = z_1 - z_0$ with a sigmoid says the same. The paper has a footnote on it. torchvision and
detectron2 have k, the paper's own code has 2k.
"""

# %%
two_scores = torch.tensor([[0.5, 2.0], [3.0, -1.0], [0.0, 0.0]])  # no object, object
print("softmax of two:           ", two_scores.softmax(1)[:, 1])
print("sigmoid of the difference:", (two_scores[:, 1] - two_scores[:, 0]).sigmoid())

# %% [markdown]
r"""
### Exercise: `RPNHead`

*About 15 minutes, of medium difficulty.*

Write the module `RPNHead(channels, anchors_per_cell)`. `forward(feature)` takes a map `[B, C, H, W]` of any
size and gives

- `objectness` `[B, H·W·A]`: one logit for each anchor, no sigmoid,
- `deltas` `[B, H·W·A, 4]`, in the same order, $(y \cdot W + x) \cdot A + a$.

The paper begins with weights from a normal distribution of σ = 0.01. It helps; the checks do not ask for it.

<details><summary>Hint</summary>
As for SSD's head: put the channels last by <code>permute(0, 2, 3, 1)</code>, then reshape. A cell's anchors
are then innermost.
</details>

The two helpers are those of lesson 5: one sets random weights, the other lists the rows of the answers that
change when one cell of the map does.
"""

# %% setup=true
def set_weights(head, middle=False):
    """Give `head` random weights; with `middle`, each kernel has its middle only. Biases stay as they are."""
    dice, state = torch.Generator().manual_seed(0), head.state_dict()
    if not state:
        raise LookupError("the head's state_dict is empty: the module does not know its layers")
    for name, weight in state.items():
        if weight.ndim > 1:
            state[name] = torch.randn(weight.shape, generator=dice) / 2
            size = weight[0, 0].numel() if weight.ndim > 2 else 9  # 2 dimensions: a linear layer on 3×3 patches
            if middle and size > 1 and weight[0].numel() % size == 0:
                state[name].view(-1, size)[:, torch.arange(size) != size // 2] = 0
    head.load_state_dict(state)
    return head.eval()


def rows_that_change(head, feature, image, y, x):
    """For objectness and for deltas: [image, row] of the outputs that change when one cell of the map does."""
    changed = feature.clone()
    changed[image, :, y, x] += 10.0
    with torch.no_grad():
        (old, old_deltas), (new, new_deltas) = head(feature), head(changed)
    differs = (new - old).abs() > 1e-4, (new_deltas - old_deltas).abs().amax(-1) > 1e-4
    return [part.nonzero().tolist() for part in differs]

# %% exercise="RPNHead"
class RPNHead(nn.Module):
    """Objectness and box offsets for every anchor of every cell of one feature map.

    A 3×3 convolution with ReLU looks at each window; two 1×1 convolutions read its code.

    Args:
        channels (int): of the feature map; the code has as many.
        anchors_per_cell (int): A.
    """

    def __init__(self, channels, anchors_per_cell):
        super().__init__()
        ### BEGIN SOLUTION
        self.window = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors_per_cell, 1)
        self.offsets = nn.Conv2d(channels, anchors_per_cell * 4, 1)
        for layer in (self.window, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        ### END SOLUTION

    def forward(self, feature):
        """Objectness Tensor[B, H·W·A], logits, and deltas Tensor[B, H·W·A, 4], from Tensor[B, C, H, W].

        The order is (y·W + x)·A + a.
        """
        ### BEGIN SOLUTION
        code = torch.relu(self.window(feature))
        objectness = self.objectness(code).permute(0, 2, 3, 1)  # [B, H, W, A]
        offsets = self.offsets(code).permute(0, 2, 3, 1)  # [B, H, W, A·4]
        return objectness.flatten(1), offsets.reshape(len(feature), -1, 4)
        ### END SOLUTION

# %% check="RPNHead" points=2
dice = torch.Generator().manual_seed(0)
feature = torch.randn(2, 8, 2, 3, generator=dice)
head = RPNHead(8, 2)
same([str(getattr(output, "dtype", type(output))) for output in head(feature.clone())], ["torch.float32"] * 2,
     "two tensors, objectness and deltas, with the dtype of the feature map")
untouched(head, feature)
same(list(head(feature)[0].shape), [2, 12], "one score for each of 2·3 cells with 2 anchors: k scores, not 2k")
same(list(head(feature)[1].shape), [2, 12, 4], "four offsets for each of the 12 anchors")
same(len(head.state_dict()) > 0, True, "the module knows its layers (in a Python list it does not see them)")
probe = rows_that_change(set_weights(head, middle=True), feature, image=1, y=1, x=0)
same(sorted({image for image, _ in probe[0] + probe[1]}), [1], "only answers of the changed image change")
same(probe[0], [[1, 6], [1, 7]], "the scores of cell y = 1, x = 0 are those of rows 6 and 7: 3 cells a row, 2 anchors a cell")
same(probe[1], [[1, 6], [1, 7]], "the deltas of cell y = 1, x = 0 are those of rows 6 and 7, as the scores")
### BEGIN HIDDEN TESTS
wide = torch.randn(2, 6, 5, 7, generator=dice)
coded = set_weights(RPNHead(6, 5), middle=True)
cells = [(y, x) for y in range(5) for x in range(7)]
expected = [[1, 5 * i + a] for i in range(35) for a in range(5)]
found = [rows_that_change(coded, wide, 1, y, x) for y, x in cells]
same(sum([rows for rows, _ in found], []), expected, "scores of every cell: y outer, x inner, a cell's anchors innermost")
same(sum([rows for _, rows in found], []), expected, "deltas of every cell: y outer, x inner, a cell's anchors innermost")
full = set_weights(RPNHead(6, 5)).train()
near = [[0, 5 * (7 * y + x) + a] for y in (1, 2, 3) for x in (2, 3, 4) for a in range(5)]
windows = rows_that_change(full, wide, 0, 2, 3)
same(windows[0], near, "a cell has a say in the scores of its 3×3 neighbours, and in no others")
same(windows[1], near, "a cell has a say in the deltas of its 3×3 neighbours, and in no others")
same(full(wide[1:])[0], full(wide)[0][1:], "scores of an image do not depend on the other images of the batch")
same(full(wide[1:])[1], full(wide)[1][1:], "deltas of an image do not depend on the other images of the batch")
same([list(output.shape) for output in full(torch.randn(3, 6, 9, 4, generator=dice))], [[3, 180], [3, 180, 4]],
     "the same head on a map of 9×4 cells")
same([list(output.shape) for output in RPNHead(4, 1)(torch.randn(1, 4, 1, 3, generator=dice))], [[1, 3], [1, 3, 4]],
     "one anchor a cell")
objectness, deltas = full(wide)
signs = [[bool((output < 0).any()), bool((output > 1).any())] for output in (objectness, deltas)]
same(signs[0], [True, True], "objectness is a logit, below 0 and above 1 too: the sigmoid comes later")
same(signs[1], [True, True], "offsets are any numbers, below 0 and above 1 too")
rows = objectness[0, :5].tolist(), [tuple(row) for row in deltas[0, :5].tolist()]
same([len(set(part)) for part in rows], [5, 5], "each anchor of a cell has a score and offsets of its own")
twin = RPNHead(6, 5)
twin.load_state_dict(full.state_dict())
same([bool(torch.allclose(*pair)) for pair in zip(twin(wide), (objectness, deltas))], [True, True],
     "a second head with the same state_dict gives the same answers: does the module know all its layers")
bends = [bool((one + other - 2 * none).abs().max() > 1e-2)
         for one, other, none in zip(full(wide), full(-wide), full(0 * wide))]
same(bends, [True, True], "between the window and the outputs stands a ReLU: without it the head is one linear map")
below = [bool((one - none).abs().max() > 1e-2) for one, none in zip(full(-wide.abs()), full(0 * wide))]
same(below, [True, True], "features below 0 count too: no ReLU in front of the window")
(objectness.square().sum() + deltas.square().sum()).backward()
learns = [weight.grad is not None and bool((weight.grad != 0).any()) for weight in full.parameters()]
same(all(learns), True, "every parameter gets a gradient from scores and deltas")
reached = []
for part in (0, 1):
    leaf = wide.clone().requires_grad_()
    full(leaf)[part].square().sum().backward()
    reached.append(bool((leaf.grad.abs().sum((2, 3)) > 0).all()))
same(reached, [True, True], "scores and deltas both listen to all channels")
### END HIDDEN TESTS

# %% [markdown]
r"""
## The loss

$$\mathcal{L} = \frac{1}{N_{cls}} \mathcal{L}_{cls} + \lambda \frac{1}{N_{reg}} [u \geq 1]\, \mathcal{L}_{off}$$

- $\mathcal{L}_{cls}$ is the log loss over two classes, summed over the sampled anchors. $N_{cls} = 256$ is
  their number.
- $\mathcal{L}_{off} = \text{smooth L1}(y_{pred} - y_{gt})$, summed over four offsets. The Iverson bracket $[u
  \geq 1]$ leaves positives only.
- $N_{reg} \approx 2{,}400$ is the number of anchor *locations*, and $\lambda = 10$. So the second part has a
  weight of 10 / 2,400 = 1/240 for each anchor, beside 1/256 in the first part: the two contribute about
  equally, and that is all that λ is for. torchvision divides both by the number of sampled anchors and has no
  λ.

$$y_{gt} = \left(\frac{c_{bx} - c_{ax}}{w_a}, \frac{c_{by} - c_{ay}}{h_a}, \log \frac{w_b}{w_a}, \log \frac{h_b}{h_a}\right)$$

These are the offsets of lesson 3 without σ: `encode_boxes` with stds of 1. The second stage divides by 0.1
and 0.2 again.

An example with N_cls = 4, N_reg = 5 and λ = 10:

| anchor | label | logit | cross entropy | error of the offsets | smooth L1 |
| --- | --- | --- | --- | --- | --- |
| 0 | 1 | 0 | −ln 0.5 = ln 2 | 0.5, 0, −2, 0 | 0.125 + 1.5 |
| 1 | 0 | ln 3 | −ln(1 − 0.75) = ln 4 | 1, 1, 1, 1 | does not count |
| 2 | −1 | 5 | does not count | 9, 9, 9, 9 | does not count |
| 3 | −1 | 0 | does not count | 3, 0, 0, 0 | does not count |
| | | | (ln 2 + ln 4) / 4 = **0.520** | | 10 · 1.625 / 5 = **3.25** |

For a batch of images the sums go over all of them. Whoever calls gives the batch's numbers, such as
`n_cls=256 * len(images)`.

### Exercise: `rpn_loss`

*About 15 minutes, of medium difficulty.*

Write `rpn_loss(objectness, deltas, labels, target_deltas, n_cls=256, n_reg=2400, weight=10.0)` for a batch:
`[B, A]`, `[B, A, 4]`, `[B, A]`, `[B, A, 4]`. `labels` are 1 and 0 for sampled anchors and −1 for all others.
Give both parts as scalars.

- The logits may be large: no logarithm of a sigmoid.
- Targets of anchors that are not positive may hold anything, infinity too.
- Without a positive the second part is 0 and can still be differentiated.

Use `smooth_l1_loss(prediction, target)` of lesson 4, which gives `[N, 4]`.

<details><summary>Hint</summary>
Choose rows by a mask, <code>objectness[labels >= 0]</code>; do not multiply by 0. The sum of an empty tensor
is 0 and has a gradient.
<code>F.binary_cross_entropy_with_logits(..., reduction="sum")</code> is safe for large logits.
</details>
"""

# %% exercise="rpn_loss"
def rpn_loss(objectness, deltas, labels, target_deltas, n_cls=256, n_reg=2400, weight=10.0):
    """The two parts of the RPN's loss, each divided by its N.

    Source: the slides; Ren et al., equation 1.

    Args:
        objectness (Tensor[B, A]): logits; sigmoid gives the probability of an object.
        deltas (Tensor[B, A, 4]): offsets that the RPN gives.
        labels (Tensor[B, A]): int64; 1 object, 0 background, −1 takes no part.
        target_deltas (Tensor[B, A, 4]): offsets that positives are to give; others may hold anything.
        n_cls (float): N_cls, the anchors sampled in the batch.
        n_reg (float): N_reg, the anchor locations of the batch.
        weight (float): λ, of the localisation.

    Returns:
        (Tensor[], Tensor[]): classification, cross entropy summed and divided by N_cls; localisation, λ times the
        smooth L1 loss of positives, summed over offsets and anchors and divided by N_reg.
    """
    ### BEGIN SOLUTION
    sampled, positive = labels >= 0, labels == 1  # [B, A]
    truth = labels[sampled].to(objectness.dtype)
    entropy = F.binary_cross_entropy_with_logits(objectness[sampled], truth, reduction="sum")
    error = smooth_l1_loss(deltas[positive], target_deltas[positive]).sum()
    return entropy / n_cls, weight * error / n_reg
    ### END SOLUTION

# %% check="rpn_loss" points=2
objectness = torch.tensor([[0.0, math.log(3), 5.0, 0.0]])
labels = torch.tensor([[1, 0, -1, -1]])
deltas = torch.tensor([[[0.5, 0, -2, 0], [1, 1, 1, 1], [9, 9, 9, 9], [3, 0, 0, 0]]])
example = (objectness, deltas, labels, torch.zeros(1, 4, 4))
same(rpn_loss(*example, 4, 5, 10.0)[0], torch.tensor(math.log(8) / 4),
     "ln 2 of the positive and ln 4 of the negative, over N_cls = 4; ignored anchors add nothing")
same(rpn_loss(*example, 4, 5, 10.0)[1], torch.tensor(3.25),
     "10 · (0.125 + 1.5) / 5: smooth L1 of the one positive, times λ, over N_reg")
same(rpn_loss(*example)[0], math.log(8) / 256, "by default N_cls = 256")
same(rpn_loss(*example)[1], 10 * 1.625 / 2400, "by default N_reg = 2400 and λ = 10")
### BEGIN HIDDEN TESTS
def plain_loss(objectness, deltas, labels, target, n_cls, n_reg, weight):
    """The same, one anchor at a time."""
    entropy, error = 0.0, 0.0
    for image in range(len(labels)):
        for a, label in enumerate(labels[image].tolist()):
            logit = objectness[image, a].item()
            if label >= 0:
                entropy += math.log1p(math.exp(-logit if label == 1 else logit))
            if label == 1:
                for said, wanted in zip(deltas[image, a].tolist(), target[image, a].tolist()):
                    size = abs(said - wanted)
                    error += size * size / 2 if size < 1 else size - 0.5
    return [objectness.new_tensor(entropy / n_cls), objectness.new_tensor(weight * error / n_reg)]


dice = torch.Generator().manual_seed(7)
logits = 3 * torch.randn(2, 30, generator=dice, dtype=torch.float64)
said, wanted = 2 * torch.randn(2, 2, 30, 4, generator=dice, dtype=torch.float64)
kinds = torch.randint(-1, 2, (2, 30), generator=dice)
case = (logits, said, kinds, wanted, 40, 60, 5.0)
same(list(rpn_loss(*case)), plain_loss(*case), "two images, 30 anchors each, float64")
single = (logits.float(), said.float(), kinds, wanted.float(), 7, 3, 0.5)
same(list(rpn_loss(*single)), plain_loss(*single), "two images, 30 anchors each, float32, other N and λ")
three = [torch.cat([part, part[:1]]) for part in case[:4]]
same(list(rpn_loss(*three, 64, 9, 1.0)), plain_loss(*three, 64, 9, 1.0), "three images: losses of a batch add up")
holes = torch.where((kinds == 1)[..., None], wanted, math.inf)
same(list(rpn_loss(logits, said, kinds, holes, 40, 60, 5.0)), plain_loss(*case),
     "targets of negatives and ignored anchors may hold anything, infinity too")
few = kinds.clamp(max=0)
none = [part.clone().requires_grad_() for part in (logits, said)]
classification, localisation = rpn_loss(*none, few, wanted, 40, 60, 5.0)
same(localisation, torch.zeros((), dtype=torch.float64), "no positive anchor: the localisation loss is 0")
(classification + localisation).backward()
same(bool(torch.isfinite(none[0].grad).all()), True, "no positive anchor: gradients are finite")
leaf, boxes = [part.clone().requires_grad_() for part in (logits, said)]
silent = rpn_loss(leaf, boxes, torch.full((2, 30), -1), wanted)
same(list(silent), [torch.zeros((), dtype=torch.float64)] * 2, "all anchors ignored: both losses are 0")
(silent[0] + silent[1]).backward()
same(bool((leaf.grad == 0).all()), True, "all anchors ignored: the loss can still be differentiated")
leaf, boxes = [part.clone().requires_grad_() for part in (logits, said)]
sum(rpn_loss(leaf, boxes, kinds, wanted)).backward()
same([bool((leaf.grad[kinds == -1] == 0).all()), bool((boxes.grad[kinds < 1] == 0).all())], [True, True],
     "ignored anchors get no gradient, and offsets of negatives none either")
slope = torch.where(kinds == 1, logits.sigmoid() - 1, torch.where(kinds == 0, logits.sigmoid(), 0)) / 256
same(leaf.grad, slope, "the gradient of cross entropy: (probability − truth) / N_cls")
bend = 10 * (said - wanted).clamp(-1, 1) * (kinds == 1)[..., None] / 2400
same(boxes.grad, bend, "the gradient of smooth L1: the difference, at most 1, times λ / N_reg")
far = torch.tensor([[300.0, -300.0]])
same(rpn_loss(far, torch.zeros(1, 2, 4), torch.tensor([[0, 1]]), torch.zeros(1, 2, 4), 1)[0], torch.tensor(600.0),
     "logits of ±300, both wrong: 300 each, finite")
same(list(rpn_loss(*(part[:0] for part in case[:4]))), [torch.zeros((), dtype=torch.float64)] * 2, "a batch without images")
untouched(rpn_loss, *case)
### END HIDDEN TESTS

# %% [markdown]
r"""
## From numbers to proposals

For each image by itself:

1. Take the `pre_nms` anchors with the highest objectness. (The paper's code: 6,000 at test time, 12,000 in
   training.)
2. Decode their offsets, with stds of 1, and clip the boxes to the image.
3. Drop boxes of which a side is shorter than `min_size`.
4. Remove echoes by NMS, at an IoU of 0.7: proposals may overlap, the second stage will sort them out.
5. Keep the best `post_nms`. (300 at test time, 2,000 in training.)

The proposals are *places to look*, made from numbers that carry a gradient. The second stage takes them as
given: **detach** them. Their gradient through RoIAlign's coordinates would be no part of the loss above.

An image of 100×60 pixels, five anchors, `min_size` 5, an IoU threshold of 0.7:

| anchor | objectness | offsets | what becomes of it |
| --- | --- | --- | --- |
| 4: (97, 10, 117, 30) | 4 | 0 | clipped to 3 pixels: dropped |
| 1: (12, 10, 32, 30) | 3 | 0 | first proposal |
| 0: (10, 10, 30, 30) | 2 | 0 | IoU 360 / 440 = 0.82 with anchor 1: dropped |
| 2: (70, 20, 110, 50) | 1 | 0 | clipped to (70, 20, 100, 50): second proposal |
| 3: (20, 20, 40, 40) | −1 | 0.5, −0.25, ln 1.5, 0 | moved by 0.5·20 = 10 right and 0.25·20 = 5 up, 1.5 times as wide: (25, 15, 55, 35), third |
"""

# %%
five = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30], [70, 20, 110, 50], [20, 20, 40, 40], [97, 10, 117, 30]])
three = torch.tensor([[12.0, 10, 32, 30], [70, 20, 100, 50], [25, 15, 55, 35]])
alt = "Left five anchors, two of which reach over the right edge; right the three proposals, all inside"
with plot.figure(alt, columns=2, width=8.5, height=3) as axes:
    plot.show_boxes(five[[0, 2, 3, 4]], "anchor", labels=["0, 1", "2", "3", "4"], ax=axes[0])
    plot.show_boxes(five[[1]], "anchor", ax=axes[0])
    plot.show_boxes(three, "proposal", labels=["first", "second", "third"], ax=axes[1])
    for ax, title in zip(axes, ("anchors", "proposals")):
        plot.show_boxes([[0, 0, 100, 60]], "negative", ax=ax)
        ax.set(xlim=(-5, 122), ylim=(65, -5), aspect="equal", title=title)
        ax.set(xlabel="x (pixels)", ylabel="y (pixels)")

# %% [markdown]
r"""
### Exercise: `propose`

*About 20 minutes, of medium difficulty.*

Write `propose(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size)`: `[B,
A]`, `[B, A, 4]`, `[A, 4]`, (width, height). Give a list of `B` tensors `[P, 4]`, best first, which carry no
gradient.

Of equal scores the smaller index comes first. Use `decode_boxes(deltas, anchors, stds)` and `nms(boxes,
scores, iou_threshold)`.

<details><summary>Hint</summary>
Sort the scores of an image once, <code>sort(descending=True, stable=True)</code>, and put offsets and anchors
in the same order. Everything after that keeps it.
</details>
"""

# %% exercise="propose"
def propose(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    """The regions in which the RPN suspects an object.

    Args:
        objectness (Tensor[B, A]): logits.
        deltas (Tensor[B, A, 4]): in sizes of the anchor, that is with stds of 1.
        anchors (Tensor[A, 4]): xyxy in pixels.
        image_size (int, int): (width, height) in pixels; boxes are clipped to it.
        pre_nms (int): so many of an image's anchors, the best, are decoded.
        post_nms (int): at most so many proposals an image.
        iou_threshold (float): of NMS.
        min_size (float): boxes that are narrower or lower than this after clipping are dropped, in pixels.

    Returns:
        list of B Tensor[P, 4]: xyxy in pixels, best first, without gradient.
    """
    ### BEGIN SOLUTION
    width, height = image_size
    proposals = []
    for scores, delta in zip(objectness.detach(), deltas.detach()):
        scores, order = scores.sort(descending=True, stable=True)
        scores, order = scores[:pre_nms], order[:pre_nms]
        boxes = decode_boxes(delta[order], anchors[order], (1.0, 1.0, 1.0, 1.0))
        boxes = torch.stack([boxes[:, 0::2].clamp(0, width), boxes[:, 1::2].clamp(0, height)], -1).flatten(1)
        large = (boxes[:, 2:] - boxes[:, :2] >= min_size).all(1)
        boxes, scores = boxes[large], scores[large]
        proposals.append(boxes[nms(boxes, scores, iou_threshold)[:post_nms]])
    return proposals
    ### END SOLUTION

# %% check="propose" points=2
anchors = torch.tensor([[10.0, 10, 30, 30], [12, 10, 32, 30], [70, 20, 110, 50], [20, 20, 40, 40], [97, 10, 117, 30]])
deltas = torch.zeros(1, 5, 4)
deltas[0, 3] = torch.tensor([0.5, -0.25, math.log(1.5), 0])
objectness = torch.tensor([[2.0, 3, 1, -1, 4]])
example = (objectness, deltas, anchors, (100, 60))
same([list(one.shape) for one in propose(*example, 5, 10, 0.7, 5)], [[3, 4]], "one image, three proposals")
same(propose(*example, 5, 10, 0.7, 5)[0][0], [12, 10, 32, 30],
     "anchor 4 scores best, but clipped it is 3 pixels wide; so anchor 1 comes first, and removes anchor 0 (IoU 0.82)")
same(propose(*example, 5, 10, 0.7, 5)[0][1], [70, 20, 100, 50], "anchor 2 follows, clipped to 100 pixels")
same(propose(*example, 5, 10, 0.7, 5)[0][2], [25, 15, 55, 35],
     "anchor 3, moved by half its width and a quarter of its height, 1.5 times as wide: the stds are 1")
same(propose(*example, 5, 2, 0.7, 5)[0], [[12, 10, 32, 30], [70, 20, 100, 50]], "post_nms = 2: the best two of what NMS left")
same(propose(*example, 3, 10, 0.7, 5)[0], [[12, 10, 32, 30]], "pre_nms = 3: anchors 4, 1 and 0 alone are looked at")
### BEGIN HIDDEN TESTS
def plain_proposals(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    """The same by loops over plain numbers."""
    limits, results = (*image_size, *image_size), []
    for scores, offsets in zip(objectness.tolist(), deltas.tolist()):
        kept = []
        for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:pre_nms]:
            (x1, y1, x2, y2), (dx, dy, dw, dh) = anchors[i].tolist(), offsets[i]
            cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
            w, h = (x2 - x1) * math.exp(min(dw, math.log(62.5))), (y2 - y1) * math.exp(min(dh, math.log(62.5)))
            corners = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
            box = [min(max(corner, 0.0), limit) for corner, limit in zip(corners, limits)]
            if box[2] - box[0] < min_size or box[3] - box[1] < min_size:
                continue
            free = True
            for u1, v1, u2, v2 in kept:
                shared = max(0.0, min(box[2], u2) - max(box[0], u1)) * max(0.0, min(box[3], v2) - max(box[1], v1))
                union = (box[2] - box[0]) * (box[3] - box[1]) + (u2 - u1) * (v2 - v1) - shared
                free = free and shared <= iou_threshold * union
            if free:
                kept.append(box)
        results.append(objectness.new_tensor(kept[:post_nms]).reshape(-1, 4))
    return results


dice = torch.Generator().manual_seed(8)
corners = torch.rand(80, 2, generator=dice, dtype=torch.float64) * torch.tensor([100.0, 50]) - 5
many = torch.cat([corners, corners + 4 + 30 * torch.rand(80, 2, generator=dice, dtype=torch.float64)], 1)
scores = 2 * torch.randn(2, 80, generator=dice, dtype=torch.float64) - 2
offsets = 0.3 * torch.randn(2, 80, 4, generator=dice, dtype=torch.float64)
case = (scores, offsets, many, (97, 53))
same(propose(*case, 60, 40, 0.5, 3), plain_proposals(*case, 60, 40, 0.5, 3), "80 anchors, two images, float64")
single = (scores.float(), offsets.float(), many.float(), (97, 53))
same(propose(*single, 50, 9, 0.3, 6.5), plain_proposals(*single, 50, 9, 0.3, 6.5), "80 anchors, two images, float32, the best 9")
tall = (scores, offsets, many * torch.tensor([0.5, 2, 0.5, 2]), (47, 111))
same(propose(*tall, 1000, 1000, 0.7, 1), plain_proposals(*tall, 1000, 1000, 0.7, 1),
     "an image higher than wide, pre_nms and post_nms beyond what there is")
apart = (scores + torch.tensor([[0.0], [50]]), *case[1:])
same(propose(*apart, 20, 8, 0.5, 3), plain_proposals(*apart, 20, 8, 0.5, 3),
     "the best anchors are chosen for each image by itself, however sure the other image is")
two = torch.tensor([[10.0, 10, 30, 30], [60, 10, 80, 40]])
thin = torch.tensor([[10.0, 10, 19, 50], [10, 10, 20, 50]])
same(propose(torch.tensor([[2.0, 1]]), torch.zeros(1, 2, 4), thin, (100, 60), 2, 2, 0.7, 10)[0], [[10, 10, 20, 50]],
     "a box too small to be a proposal removes no other: min_size comes before NMS")
still = torch.zeros(1, 2, 4)
sized = torch.tensor([[10.0, 10, 20, 30], [60, 10, 80, 20], [30, 10, 39.5, 40], [40, 30, 70, 39.5]])
same(propose(torch.tensor([[4.0, 3, 2, 1]]), torch.zeros(1, 4, 4), sized, (100, 60), 4, 4, 0.7, 10)[0],
     [[10, 10, 20, 30], [60, 10, 80, 20]], "10 pixels are enough for min_size = 10, 9.5 are not, in either direction")
same(propose(torch.tensor([[-30.0, -40]]), still, two, (100, 60), 2, 2, 0.7, 1)[0], two, "low scores are scores: no threshold")
halves = torch.tensor([[0.0, 0, 20, 10], [0, 0, 10, 10]])
same(propose(torch.tensor([[1.0, 2]]), still, halves, (100, 60), 2, 2, 0.5, 1)[0], [[0, 0, 10, 10], [0, 0, 20, 10]],
     "an IoU of exactly 0.5 is not more than 0.5; best first")
edge = torch.tensor([[80.0, 0, 100, 20], [80, 0, 140, 20]])
same(propose(torch.tensor([[1.0, 2]]), still, edge, (100, 60), 2, 2, 0.7, 1)[0], [[80, 0, 100, 20]],
     "clipped to the image both boxes are the same: clipping comes before NMS")
same(propose(torch.zeros(1, 2), torch.full((1, 2, 4), 50.0), two - 40, (100, 60), 2, 2, 0.7, 1)[0].isfinite().all().item(), True,
     "size offsets of 50: finite boxes")
away = torch.tensor([[[0.0, 0, 0, 0], [-9, 0, 0, 0]]])
same(propose(torch.tensor([[1.0, 2]]), away, two, (100, 60), 2, 2, 0.7, 1)[0], [[10, 10, 30, 30]],
     "a box that has left the image has no width after clipping")
same(propose(torch.zeros(1, 2), still, two, (100, 60), 1, 2, 0.7, 1)[0], [[10, 10, 30, 30]], "equal scores: the smaller index first")
learning = [part.clone().requires_grad_() for part in single[:2]]
same([one.requires_grad for one in propose(*learning, *single[2:], 60, 40, 0.5, 3)], [False, False],
     "proposals carry no gradient: for the second stage they are plain numbers")
same(propose(torch.zeros(2, 2), torch.zeros(2, 2, 4), two, (100, 60), 2, 2, 0.7, 50), [torch.zeros(0, 4)] * 2,
     "nothing is large enough: empty tensors")
same(propose(torch.zeros(1, 0), torch.zeros(1, 0, 4), two[:0], (100, 60), 9, 9, 0.7, 1), [torch.zeros(0, 4)], "no anchors")
same(propose(torch.zeros(0, 2), torch.zeros(0, 2, 4), two, (100, 60), 9, 9, 0.7, 1), [], "a batch without images")
untouched(propose, *single, 60, 40, 0.5, 3)
### END HIDDEN TESTS

# %% [markdown]
r"""
## The detector

All parts are there. The slides' backbone is VGG-16 up to its last map, of stride 16, for images whose
shortest side is 600. Our scenes have 128 pixels and objects from 12 on, so our one map has stride 8. It is the
sum of the trunk's three maps, the coarser ones stretched to the size of the first: a simple form of what
lesson 10 does with care. Our shapes are about as wide as high, so one ratio will do; three scales, 16, 32 and
64 pixels, give k = 3.
"""

# %% tags=["experiment", "nbval-ignore-output"]
from coursekit.backbones import small_trunk
from coursekit.data import scenes

roi_align, label_proposals = earlier("roi_align"), earlier("label_proposals")
FastRCNNHead, fast_rcnn_loss = earlier("FastRCNNHead"), earlier("fast_rcnn_loss")
encode_boxes, batched_nms = earlier("encode_boxes"), earlier("batched_nms")

SIZE, STRIDE, CHANNELS, POOL = (128, 128), 8, 64, (5, 5)
BATCH, RATE, DECAY = 16, 6e-3, 0.3  # of the training
PLAIN = (1.0, 1.0, 1.0, 1.0)  # the RPN's stds


class SharedMap(nn.Module):
    """Images [B, 3, H, W] -> one map [B, 64, H/8, W/8], the sum of the trunk's maps c3, c4 and c5."""

    def __init__(self):
        super().__init__()
        self.trunk = small_trunk()
        self.sides = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))
            for c in self.trunk.channels.values()
        )
        self.smooth = nn.Sequential(
            nn.ReLU(), nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )

    def forward(self, images):
        maps = [side(one) for side, one in zip(self.sides, self.trunk(images).values())]
        return self.smooth(sum(F.interpolate(one, size=maps[0].shape[2:]) for one in maps))

# %% [markdown]
r"""
RoIAlign takes a large part of the time, above all its gradient. The fast form below makes one table of the
map's cells, lists for each bin the rows that it reads and their weights, and lets `F.embedding_bag` add them
up: the numbers of your `roi_align`, several times faster with its gradient. On our small map one point in
each of the 5×5 bins is enough; it reads four cells.
"""

# %% tags=["experiment"]
def taps(start, end, bins, points, cells):
    """What each bin reads along one side: indices and weights, each [R, bins, 2 · points]."""
    steps = (torch.arange(bins * points, dtype=start.dtype, device=start.device) + 0.5) / (bins * points)
    place = start[:, None] + (end - start)[:, None] * steps  # [R, bins · points]
    counts = (place >= -1) & (place <= cells)
    place = place.clamp(0, cells - 1)
    first = place.floor()
    share = torch.stack([1 - (place - first), place - first], -1) * counts[..., None] / points
    index = torch.stack([first, (first + 1).clamp(max=cells - 1)], -1).long()
    return index.reshape(len(start), bins, -1), share.reshape(len(start), bins, -1)


def fast_roi_align(features, rois, output_size, spatial_scale, sampling_ratio):
    """As `roi_align`, by one weighted sum over rows of a table."""
    (h, w), (height, width) = output_size, features.shape[2:]
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)
    rows, down = taps(y1, y2, h, sampling_ratio, height)
    columns, across = taps(x1, x2, w, sampling_ratio, width)
    image = rois[:, 0].long().reshape(-1, 1, 1, 1, 1)
    index = (image * height + rows[:, :, None, :, None]) * width + columns[:, None, :, None, :]  # [R, h, w, 2p, 2p]
    weight = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).contiguous()  # [B · H · W, C]
    each = (2 * sampling_ratio) ** 2
    pooled = F.embedding_bag(
        index.reshape(-1, each), table, per_sample_weights=weight.reshape(-1, each).to(table.dtype), mode="sum"
    )
    return pooled.reshape(len(rois), h, w, -1).permute(0, 3, 1, 2)

# %%
dice = torch.Generator().manual_seed(0)
feature = torch.randn(2, 8, 16, 13, generator=dice)
corners = 100 * torch.rand(40, 2, generator=dice)
regions = torch.cat([torch.arange(40)[:, None] % 2, corners, corners + 40 * torch.rand(40, 2, generator=dice)], 1)
pair = [align(feature, regions, (5, 4), 1 / 8, 2) for align in (roi_align, fast_roi_align)]
print(f"the same numbers as roi_align: {torch.allclose(*pair, atol=1e-5)}")

# %% [markdown]
r"""
The whole detector. Its parts are called `backbone`, `rpn` and `head`. `detect` ends like Fast R-CNN: the
softmax of each region, its box for each class, and NMS within each class. `fixed` will be needed for the
alternating training.
"""

# %% tags=["experiment"]
class FasterRCNN(nn.Module):
    """An RPN and a Fast R-CNN on one map; K = 6 classes unless told otherwise."""

    fixed = ()  # parts that stay in evaluation mode while the others train

    def __init__(self, num_classes=6):
        super().__init__()
        cell = cell_anchors((16, 32, 64), (1,))
        self.backbone, self.rpn = SharedMap(), RPNHead(CHANNELS, len(cell))
        self.head = FastRCNNHead(CHANNELS, POOL, num_classes)
        anchors = grid_anchors(cell, (SIZE[0] // STRIDE, SIZE[1] // STRIDE), STRIDE)
        self.register_buffer("anchors", anchors, persistent=False)

    def train(self, mode=True):
        super().train(mode)
        for part in self.fixed:
            getattr(self, part).eval()
        return self

    def regions(self, feature, pre_nms=300, post_nms=100):
        """Proposals of each image: list of [P, 4]."""
        objectness, deltas = self.rpn(feature)
        return propose(objectness.float(), deltas.float(), self.anchors, SIZE, pre_nms, post_nms, 0.7, 2)

    def classify(self, feature, regions):
        """Logits [R, K + 1] and deltas [R, K, 4] of all regions of a batch, image after image."""
        rois = torch.cat([F.pad(one, (1, 0), value=number) for number, one in enumerate(regions)])
        outputs = self.head(fast_roi_align(feature.float(), rois, POOL, 1 / STRIDE, 1))
        return tuple(output.float() for output in outputs)

    @torch.no_grad()
    def detect(self, images):
        """Images -> a list of dicts with boxes, scores and labels."""
        feature = self.backbone(images)
        regions = self.regions(feature)
        logits, deltas = self.classify(feature, regions)
        counts, found = [len(one) for one in regions], []
        for boxes, scores, delta in zip(regions, logits.softmax(-1)[:, 1:].split(counts), deltas.split(counts)):
            row, k = (scores > 0.02).nonzero(as_tuple=True)
            boxes, scores = decode_boxes(delta[row, k], boxes[row]).clamp(0, SIZE[0]), scores[row, k]
            kept = batched_nms(boxes, scores, k, 0.5)[:100]
            found.append({"boxes": boxes[kept], "scores": scores[kept], "labels": k[kept] + 1})
        return found

# %% [markdown]
r"""
What each of the two networks learns, and how it is measured:

- `rpn_losses`: labels and a sample of 64 of the 768 anchors for each image, offsets with stds of 1. We keep
  cross-boundary anchors: on such small images they are nearly half, and objects stand at the border. Try
  without them.
- `head_losses`: the proposals *and the true boxes*. In the first steps the RPN proposes nothing useful, and
  without the true boxes the head would never see an object. Of these regions `label_proposals` of lesson 8
  says which are objects, and 32 are drawn, a quarter of them objects, by your `sample_anchors`. Regions with
  an IoU below 0.1 are background here: selective search had enough others, while an RPN's false alarms often
  touch nothing, and the head must learn to turn them down.
"""

# %% tags=["experiment"]
def rpn_losses(model, feature, targets):
    """Losses of the RPN for a batch; 64 anchors of each image, on 256 locations."""
    objectness, deltas = (output.float() for output in model.rpn(feature))
    labels = torch.full_like(objectness, -1, dtype=torch.int64)
    wanted = torch.zeros_like(deltas)
    for image, target in enumerate(targets):
        iou = box_iou(target["boxes"], model.anchors)
        positives, negatives = sample_anchors(label_rpn_anchors(iou), 64)
        labels[image, positives], labels[image, negatives] = 1, 0
        if len(positives):
            mine = target["boxes"][iou[:, positives].argmax(0)]
            wanted[image, positives] = encode_boxes(mine, model.anchors[positives], PLAIN)
    locations = feature.shape[2] * feature.shape[3]
    parts = rpn_loss(objectness, deltas, labels, wanted, 64 * len(targets), locations * len(targets))
    return dict(zip(("rpn class", "rpn box"), parts))


def head_losses(model, feature, regions, targets):
    """Losses of the head for a batch; 32 regions of each image."""
    chosen, labels, wanted = [], [], []
    for boxes, target in zip(regions, targets):
        boxes = torch.cat([boxes, target["boxes"]])
        iou = box_iou(target["boxes"], boxes)
        kinds = label_proposals(iou, target["labels"]).clamp(min=0)
        positives, negatives = sample_anchors(kinds.clamp(max=1), 32, 0.25)
        rows = torch.cat([positives, negatives])
        chosen.append(boxes[rows])
        labels.append(kinds[rows])
        offsets = torch.zeros_like(boxes[rows])
        if len(positives):
            mine = target["boxes"][iou[:, positives].argmax(0)]
            offsets[: len(positives)] = encode_boxes(mine, boxes[positives])
        wanted.append(offsets)
    logits, deltas = model.classify(feature, chosen)
    parts = fast_rcnn_loss(logits, deltas, torch.cat(labels), torch.cat(wanted))
    return dict(zip(("class", "box"), parts))

# %% [markdown]
r"""
## Joint training

The simplest way to train both: add all four losses, and let both networks pull at the backbone. The paper
calls it approximate joint training, since proposals are taken as given. It is what libraries do today.

Rate and decay are chosen as for SSD in lesson 5: what counts is how large a step is beside the weights. It takes
about two minutes on two CPU cores.
"""

# %% tags=["experiment"]
from coursekit.training import fit


def joint_loss(model, images, targets):
    feature = model.backbone(images)
    regions = model.regions(feature, 200, 64)
    return {**rpn_losses(model, feature, targets), **head_losses(model, feature, regions, targets)}

# %%
train = scenes("train")
torch.manual_seed(0)
joint = FasterRCNN(len(train.classes))
beginning = {name: value.clone() for name, value in joint.state_dict().items()}  # for the other training
history = fit(joint, joint_loss, train, steps=1000, batch_size=BATCH, peak_rate=RATE, weight_decay=DECAY,
              expected="09_faster_rcnn joint", checkpoint="09_joint.safetensors")  # fmt: skip
print(f"the loss fell by a third or more: {sum(history.total[-20:]) < 2 / 3 * sum(history.total[:20])}")
if not history.total:  # nothing is trained while grading: a few scenes will do
    train, test = train.subset(range(8)), test.subset(range(8))

# %%
alt = (
    "Four losses and their sum over the steps. Sum and both class losses fall; the head's box loss rises for some "
    "steps before it falls; the RPN's box loss is close to 0 all along."
)
with plot.figure(alt, width=5.5, height=3.2) as ax:
    history.plot(ax)

# %% [markdown]
r"""
Two curves ask for a word. `rpn box` is low, for its offsets are not divided by 0.1 and 0.2: an error of a tenth of
the anchor costs 0.1² / 2. `box` rises at first: most of the head's positives are then the true boxes themselves,
which need not move; later the RPN proposes more that do.

The four scenes again: above the twenty best proposals, below the detections that score over 0.4. Look how the
proposals crowd around shapes, and also around things that are none: telling which is which is the second
stage's work. Look for strips and blobs that got a name all the same.
"""

# %%
@torch.no_grad()
def proposals_of(model, data):
    """The proposals of each image of a set, best first."""
    model.eval()
    return sum((model.regions(model.backbone(images)) for images, _ in data.batches(32)), [])


four = test.subset(range(4))
images, _ = next(four.batches(4))
alt = "Four scenes, twice. Above twenty boxes each, around shapes and blobs; below few boxes, each with a name"
with plot.figure(alt, width=9, height=4.8, rows=2, columns=4) as axes:
    for (above, below), image, boxes, one in zip(axes.T, four.images, proposals_of(joint, four), joint.detect(images)):
        plot.show_boxes(boxes[:20], "proposal", image=image, ax=above)
        sure = one["scores"] > 0.4
        said = {"labels": one["labels"][sure], "classes": test.classes, "image": image}
        plot.show_boxes(one["boxes"][sure], "prediction", **said, ax=below)
    axes[0, 0].set(ylabel="proposals")
    axes[1, 0].set(ylabel="detections")

# %% tags=["nbval-ignore-output"]
from coursekit.evaluation import evaluate

joint_scores = evaluate(joint.detect, test, small=16, large=40)
joint_scores

# %%
print(f"joint: AP50 > 0.64: {joint_scores.AP50 > 0.64}, AP > 0.45: {joint_scores.AP > 0.45}")

# %% [markdown]
r"""
How many regions are needed? The recall of proposals is the share of objects that at least one of the best n
overlaps by 0.5 or more. What none of them covers, the second stage can hardly find. In the paper's tables 300
regions of an RPN do better than 2,000 of selective search.
"""

# %%
def recall_of(regions, data, count):
    """Share of the objects that one of an image's first `count` regions overlaps by at least 0.5."""
    best = []
    for boxes, target in zip(regions, data.targets):
        if len(boxes) and len(target["boxes"]):
            best += box_iou(target["boxes"], boxes[:count]).amax(1).tolist()
        else:
            best += [0.0] * len(target["boxes"])
    return sum(value >= 0.5 for value in best) / len(best)


joint_regions, counts = proposals_of(joint, test), [1, 2, 5, 10, 20, 50, 100]
recalls = [recall_of(joint_regions, test, count) for count in counts]
alt = "Recall over the number of proposals: it rises steeply up to ten proposals, then slowly towards one"
with plot.figure(alt, width=5, height=3.2) as ax:
    plot.curve(counts, recalls, "proposal", "RPN", ax)
    ax.set(xscale="log", xlabel="proposals an image", ylabel="recall at an IoU of 0.5", ylim=(0, 1.03))
    ax.set_xticks(counts, counts)
    ax.minorticks_off()
print(f"50 proposals hold more than 8 of 10 objects: {recalls[5] > 0.8}")

# %% [markdown]
r"""
On one scene: how many of the best anchors go into NMS, how many proposals come out, and which objects one of them
covers. Start with few. Then raise NMS's threshold to 1: why do the same thirty places cover fewer objects?
"""

# %% tags=["nbval-ignore-output"]
from coursekit.widgets import explore_proposals

with torch.no_grad():
    image = next(test.batches(1))[0]
    said = [output.float().cpu() for output in joint.rpn(joint.backbone(image))]
truth = test.targets[0]["boxes"].cpu()
explore_proposals(propose, *said, joint.anchors.cpu(), box_iou=box_iou, truth=truth, image=image[0].cpu())

# %% [markdown]
r"""
## Alternating training

The paper's authors did it otherwise. Train the RPN alone, and it shapes a backbone for itself; train Fast
R-CNN alone, and it shapes another one. Two networks, each with its own backbone, would see each image twice.
So they are brought together in four steps:

| step | trains | begins with | proposals | backbone |
| --- | --- | --- | --- | --- |
| 1 | RPN alone, end to end | the start (the slides: ImageNet's weights) | | learns |
| 2 | Fast R-CNN, a *separate* network | the start again | of step 1 | learns |
| 3 | RPN again | RPN of step 1, **backbone of step 2** | | **frozen** |
| 4 | Fast R-CNN again | head of step 2, the same backbone | of step 3 | **frozen** |

After step 2 nothing is shared. In step 3 the RPN moves onto the detector's backbone and gets used to it. From
then on the backbone must not move: in step 4 it would move away under the RPN.

Frozen means *bit for bit*, and here is the trap. Without a gradient the parameters stay. But batch norm also
keeps a running mean and variance, which no gradient touches: in training mode each batch renews them. A
backbone whose parameters are frozen and whose batch norms are in training mode still changes. So frozen is
two things: nothing learns, *and* the part is in evaluation mode.

### Exercise: `alternating_training`

*About 20 minutes, of medium difficulty.*

Write the four steps. A network goes by its weights, as in a `state_dict`: a dict with names such as
`"backbone.trunk.stem.0.weight"`, `"rpn.…"` and `"head.…"`. The work is done by three functions that you are
given, and each gives new weights and leaves the old ones alone:

- `train_rpn(weights, learn, evaluate=())` → weights. Runs backbone and RPN.
- `train_detector(weights, proposals, learn, evaluate=())` → weights. Runs backbone and head.
- `propose(weights)` → proposals for all training images, by backbone and RPN.

`learn` lists the parts whose parameters are trained, such as `["backbone", "rpn"]`; `evaluate` those in
evaluation mode. Copying a part's weights means taking its entries from one dict into another. `start` stays
as it is; the result has the same names.

(In the exercise these are functions of weights and not of modules, so that a check can watch what each step
is given.)

<details><summary>Hint</summary>
<code>{**one, **two}</code> is a dict with the entries of both, those of <code>two</code> where both have them. A helper that gives the
entries of one part, <code>key.startswith("rpn.")</code>, makes each step one line.
</details>

The checks rehearse: their trainings add 1 in the first call, 10 in the second, 100 and 1000 in the third and
fourth, to all that moves. A weight's digits tell which steps have moved it.
"""

# %% setup=true
class Rehearsal:
    """Training in play: step n adds 10ⁿ⁻¹ to what it moves, so a weight's digits tell which steps moved it."""

    def __init__(self):
        self.calls = []

    def step(self, weights, own, learn, evaluate):
        learn, evaluate = ({part} if isinstance(part, str) else set(part) for part in (learn, evaluate))
        amount = 10 ** len(self.calls)
        given = {part: [v.sum().item() for k, v in weights.items() if k == f"{part}.weight"] for part in ("backbone", own)}
        call = {"trains": own, "learn": sorted(learn & {"backbone", own}), "evaluate": sorted(evaluate & {"backbone", own})}
        self.calls.append({**call, "given": given})
        result = {}
        for key, value in weights.items():
            part = key.split(".")[0]
            statistic = "running" in key or "num_batches" in key
            moves = part in ("backbone", own) and (part not in evaluate if statistic else part in learn)
            result[key] = value + amount if moves else value.clone()
        return result

    def train_rpn(self, weights, learn, evaluate=()):
        return self.step(weights, "rpn", learn, evaluate)

    def train_detector(self, weights, proposals, learn, evaluate=()):
        weights = self.step(weights, "head", learn, evaluate)
        self.calls[-1]["proposals"] = [part.tolist() for part in proposals]
        return weights

    def propose(self, weights):
        return [weights["backbone.weight"], weights["rpn.weight"]]  # so that one sees whose proposals they are

    def functions(self):
        return self.train_rpn, self.train_detector, self.propose

# %% exercise="alternating_training"
def alternating_training(start, train_rpn, train_detector, propose):
    """The 4-step training: an RPN and a detector that share their backbone.

    Networks go by their weights, as in a state_dict: names are "backbone....", "rpn...." and "head....". The three
    functions do the work, and change none of the weights that they are given.

    Source: the slides; Ren et al., section 3.2.

    Args:
        start (dict of str: Tensor): the weights that steps 1 and 2 begin with.
        train_rpn (callable): `train_rpn(weights, learn, evaluate=()) -> weights` trains backbone and RPN.
        train_detector (callable): `train_detector(weights, proposals, learn, evaluate=()) -> weights` trains backbone
            and head on these regions. For both, `learn` lists the parts whose parameters are trained, and `evaluate`
            the parts in evaluation mode. A part in training mode renews the statistics of its batch norms whether it
            learns or not.
        propose (callable): `propose(weights) -> proposals` of backbone and RPN for all training images.

    Returns:
        dict of str: Tensor: the weights of the one network after step 4, by the names of `start`.
    """
    ### BEGIN SOLUTION
    def part(weights, name):
        return {key: value for key, value in weights.items() if key.startswith(name + ".")}

    rpn = train_rpn(start, ["backbone", "rpn"])
    detector = train_detector(start, propose(rpn), ["backbone", "head"])
    shared = {**detector, **part(rpn, "rpn")}
    shared = train_rpn(shared, ["rpn"], ["backbone"])
    return train_detector(shared, propose(shared), ["head"], ["backbone"])
    ### END SOLUTION

# %% check="alternating_training" points=3
start = {f"{part}.{name}": torch.zeros(1) for part in ("backbone", "rpn", "head") for name in ("weight", "running_mean")}
play = Rehearsal()
result = alternating_training(start, *play.functions())
calls = [{"given": {}, "learn": [], "evaluate": [], **call} for call in [*play.calls, *[{"trains": "nothing"}] * 4][:4]]
same([call["trains"] for call in play.calls], ["rpn", "head", "rpn", "head"], "four trainings, RPN and detector in turn")
same(calls[0]["learn"] + calls[0]["evaluate"], ["backbone", "rpn"], "step 1 trains backbone and RPN, none of it in evaluation mode")
same(calls[1]["learn"] + calls[1]["evaluate"], ["backbone", "head"],
     "step 2 trains backbone and head, none of it in evaluation mode")
same(calls[1]["given"].get("backbone"), [0], "step 2 begins with the start's backbone: a separate network")
same(calls[1].get("proposals"), [[1], [1]], "the proposals of step 2 come from backbone and RPN of step 1")
same(calls[2]["learn"], ["rpn"], "step 3 trains the RPN alone")
same([calls[2]["given"].get(part) for part in ("backbone", "rpn")], [[10], [1]],
     "step 3 begins with the backbone of step 2 and the RPN of step 1")
same(calls[3]["learn"], ["head"], "step 4 trains the head alone")
same([calls[3]["given"].get(part) for part in ("backbone", "head")], [[10], [10]],
     "step 4 begins with backbone and head of step 2")
same(calls[3].get("proposals"), [[10], [101]], "the proposals of step 4 come from the RPN of step 3 on the shared backbone")
same(sorted(result), sorted(start), "the weights of the whole network, by the same names")
same(result["backbone.weight"], [10], "the backbone's weight after all: step 2 alone has moved it")
same(result["backbone.running_mean"], [10], "the backbone's batch norm after all: step 2 alone has moved its statistics")
same(result["rpn.weight"], torch.tensor([101.0]), "the RPN after all: moved by steps 1 and 3")
same(result["head.weight"], [1010], "the head after all: moved by steps 2 and 4")
### BEGIN HIDDEN TESTS
same([result[f"{part}.running_mean"].tolist() for part in ("rpn", "head")], [[101], [1010]],
     "batch norms of RPN and head are in training mode where the part learns")
dice = torch.Generator().manual_seed(1)
names = ("weight", "bias", "norm.weight", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked")
sizes = {"backbone": (4, 3), "rpn": (2, 5), "head": (7,)}
weights = {}
for part in ("head", "backbone", "rpn"):
    for name in names:
        weights[f"{part}.{name}"] = torch.randn(sizes[part], generator=dice, dtype=torch.float64)
    weights[f"{part}.norm.num_batches_tracked"] = torch.tensor(3)
copies = {key: value.clone() for key, value in weights.items()}
larger = alternating_training(weights, *Rehearsal().functions())
same({key: larger.get(key) for key in copies}, {
    key: value + 10 if key.startswith("backbone") else value + 1 + 100 if key.startswith("rpn") else value + 10 + 1000
    for key, value in copies.items()
}, "weights of many shapes and types, statistics and counters with them")
same(weights, copies, "the weights that training starts with are still what they were", rtol=0, atol=0)
shared = alternating_training(copies, *Rehearsal().functions())
same([bool(torch.equal(shared[key], value + 10)) for key, value in copies.items() if key.startswith("backbone")],
     [True] * 6, "the shared weights are those of step 2, bit for bit")
### END HIDDEN TESTS

# %% [markdown]
r"""
Now for real. The three functions below train on scenes, with the losses from above. Each makes a network,
gives it the weights, and freezes what is to stay: `requires_grad_` for the parameters, `fixed` for the batch
norms. The second is needed since `fit` calls `model.train()`, as most training loops do.
"""

# %% tags=["experiment"]
def trainings(data, steps, seed=0):
    """The three functions that `alternating_training` takes; `steps` are those of steps 1 to 4."""
    left = list(steps)

    def network(weights, learn=(), evaluate=()):
        model = FasterRCNN(len(data.classes))
        model.load_state_dict(weights)
        for name, part in model.named_children():
            part.requires_grad_(name in learn)
        model.fixed = tuple(evaluate)
        return model

    def trained(model, loss, data):
        options = {"batch_size": BATCH, "peak_rate": RATE, "weight_decay": DECAY, "seed": seed, "progress": False}
        fit(model, loss, data, steps=left.pop(0), **options)
        return {name: value.cpu() for name, value in model.state_dict().items()}

    def train_rpn(weights, learn, evaluate=()):
        def loss(model, images, targets):
            return rpn_losses(model, model.backbone(images), targets)

        return trained(network(weights, learn, evaluate), loss, data)

    def train_detector(weights, proposals, learn, evaluate=()):
        def loss(model, images, targets):
            return head_losses(model, model.backbone(images), [one["proposals"] for one in targets], targets)

        return trained(network(weights, learn, evaluate), loss, data.with_proposals(proposals))

    @torch.no_grad()
    def regions(weights):
        model = network(weights).to(data.device).eval()
        return sum((model.regions(model.backbone(images), 200, 64) for images, _ in data.batches(32)), [])

    return train_rpn, train_detector, regions

# %%
weights = alternating_training(beginning, *trainings(train, (150, 600, 75, 200)))
alternating = FasterRCNN(len(train.classes))
alternating.load_state_dict(weights)
alternating = alternating.to(test.device).eval()



# %% tags=["nbval-ignore-output"]
alternating_scores = evaluate(alternating.detect, test, small=16, large=40)
both = {"joint": joint_scores, "alternating": alternating_scores}
rows = [[name, one.AP, one.AP50, one.APs, one.APm, one.APl] for name, one in both.items()]
plot.table(rows, ["training", "AP", "AP50", "AP small", "AP medium", "AP large"], digits=2)

# %%
print(f"alternating: AP50 > 0.2: {alternating_scores.AP50 > 0.2}, AP > 0.12: {alternating_scores.AP > 0.12}")

# %% [markdown]
r"""
Neither is finished after so few steps. The alternating one is further
behind, since its backbone learns classes in step 2 only, and with 600 steps there every one of them counts. The
paper, with ImageNet's weights and long training, found both about equal. Did steps 3 and 4 leave the shared
weights alone? We run them once more, for a few batches, and compare all of the backbone, statistics included,
bit for bit. Then again, with the backbone not in evaluation mode:
"""

# %%
few = train.subset(range(min(64, len(train))))
for evaluate_parts in (["backbone"], []):
    train_rpn, _, _ = trainings(few, (2,))
    again = train_rpn(weights, ["rpn"], evaluate_parts)
    moved = [name for name in weights if name.startswith("backbone") and not torch.equal(weights[name], again[name])]
    kinds = {name.rsplit(".", 1)[1] for name in moved}
    print(f"in evaluation mode: {evaluate_parts}; what moved of the backbone: {sorted(kinds) or 'nothing'}")

# %% [markdown]
r"""
### Question: what is shared

A team trains a Faster R-CNN for photographs by the four steps, with batch norm in the backbone. After step 4
the AP of the detector is as expected, though the recall of its proposals, measured with the final weights, is
lower than it was right after step 3. Nobody has changed the RPN in step 4. Give two mistakes in the training
that would explain it, and a test of three lines that would have found both. Then say why step 2 begins with
the start's backbone and not with that of step 1, and what would be lost if step 2 did. (Six to eight
sentences.)
"""

# %% written="what_is_shared" points=3
r"""
The RPN's own weights are the same, so its input must have changed: the backbone's map. Either step 4 trained
the backbone (learn included it), so that the features moved away under the RPN; or only its parameters were
frozen and the batch norms, in training mode, renewed their running mean and variance with every batch, which
in evaluation gives another map from the same weights. Test: keep a copy of all entries of the state_dict that
begin with "backbone." before step 3, and after step 4 assert `torch.equal` for each of them, buffers
included; comparing `parameters()` alone would miss the second mistake. Step 2 begins with the start since the
detector is to have features made for classification. A backbone that step 1 has trained knows objects from
background; a head on it would begin from features that have partly forgotten what tells classes apart, and
the two networks would have been trained one after the other instead of one being adapted to the other's
features. With ImageNet's weights that loss is real; with random weights, as in our scenes, step 2 could even
gain from a head start, but then the steps would no longer be the paper's, and their number of training steps
could not be compared. (Full marks: map changed; both mistakes; the test looks at buffers too; a reason for
the start.)
"""

# %% [markdown]
r"""
## How fast are proposals?

The slides' numbers: 2 seconds for selective search, 0.2 for the detector. The paper's RPN takes 10
milliseconds of a GPU. Here are ours, for one scene of 128×128 pixels on this machine's processor, one image
at a time:

- selective search: an over-segmentation by scikit-image, `felzenszwalb`, then the grouping of lesson 8 if
  yours is there,
- the RPN: what it adds to a detector that has computed its map already, and with the backbone.
"""

# %%
import time

from skimage.segmentation import felzenszwalb


def seconds(function, repeats=5):
    """The fastest of some runs of `function()`."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return min(times)


image = test.images[:1].cpu().float() / 255
picture = image[0].permute(1, 2, 0).numpy()
model = FasterRCNN().eval()
model.load_state_dict(weights)


def segmented():
    return torch.from_numpy(felzenszwalb(picture, scale=50, sigma=0.8, min_size=20)).long()


with torch.no_grad():
    feature = model.backbone(image)
    times = {
        "over-segmentation alone": seconds(segmented),
        "RPN, on the map that is there": seconds(lambda: model.regions(feature)),
        "RPN with a backbone of its own": seconds(lambda: model.regions(model.backbone(image))),
    }
less = times["RPN, on the map that is there"] < times["over-segmentation alone"]
print(f"the RPN takes less time than the over-segmentation alone: {less}")

# %% tags=["nbval-ignore-output"]
try:
    selective_search = earlier("selective_search")
    segments = segmented()
    grouping = seconds(lambda: selective_search(segments, image[0]), 2)
    times["selective search, whole"] = times["over-segmentation alone"] + grouping
except LookupError as error:
    print(error)
base = times["RPN, on the map that is there"]
plot.table([[name, 1000 * t, t / base] for name, t in times.items()], ["one scene", "milliseconds", "times the RPN"], digits=1)

# %% [markdown]
r"""
On a photograph of 1000×600 pixels the gap is wider, since the number of segments grows with the image, and
regions merge pair by pair. The RPN is a few convolutions on a map that is needed anyway. That is the slides'
point: with proposals for nothing, the detector itself becomes the slowest part.

## Joint, alternating, torchvision's

One training each is an anecdote. So the three below were run with two seeds each: 4,096 scenes, batches of 16,
scored on 400 others. All have the same backbone, and the joint and torchvision's forms the same number of
steps, 1,000. In the alternating form the detector has the same 1,000 steps, 750 in step 2 and 250 in step 4; the
RPN, which learns faster, has 250 in step 1 and 125 in step 3. torchvision's own `FasterRCNN` has the same
anchors, sample sizes and thresholds, its own losses, and computes in float32, since it did not run in mixed
precision here.
"""

# %% tags=["experiment"]
import functools

from coursekit.evaluation import evaluate

FORMS = ("joint", "alternating", "torchvision's, joint")
STEPS = 1000


@functools.cache
def all_scenes(split, count):
    return scenes(split, count)


def torchvisions():
    """torchvision's Faster R-CNN on our map, with our anchors, sample sizes and thresholds."""
    from torchvision.models.detection import FasterRCNN as Theirs
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    backbone = SharedMap()
    backbone.out_channels = CHANNELS
    return Theirs(
        backbone, None, min_size=SIZE[1], max_size=SIZE[0], image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(((16, 32, 64),), ((1.0,),)),
        rpn_pre_nms_top_n_train=200, rpn_post_nms_top_n_train=64, rpn_pre_nms_top_n_test=300, rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64, box_batch_size_per_image=32, box_score_thresh=0.02, box_detections_per_img=100,
        box_roi_pool=MultiScaleRoIAlign(["0"], POOL[0], 1), box_head=TwoMLPHead(CHANNELS * POOL[0] * POOL[1], 256),
        box_predictor=FastRCNNPredictor(256, 7),
    )  # fmt: skip


def experiment(form, seed):
    """Train and score one form: AP, AP50, and AP of small, medium and large shapes."""
    train, test = all_scenes("train", 4096), all_scenes("test", 400)
    torch.manual_seed(seed)
    options = {"steps": STEPS, "batch_size": BATCH, "peak_rate": RATE, "weight_decay": DECAY, "seed": seed, "progress": False}
    if form == "alternating":
        model = FasterRCNN()
        start = {name: value.clone() for name, value in model.state_dict().items()}
        steps = (STEPS // 4, 3 * STEPS // 4, STEPS // 8, STEPS // 4)
        model.load_state_dict(alternating_training(start, *trainings(train, steps, seed)))
        model.to(test.device).eval()
    elif form == "joint":
        model = FasterRCNN()
        fit(model, joint_loss, train, **options)
    else:
        model = torchvisions()
        fit(model, lambda model, images, targets: model(list(images), targets), train, bf16=False, **options)
        model.detect = lambda images: model(list(images))
    scores = evaluate(model.detect, test, small=16, large=40)
    return {"AP": scores.AP, "AP50": scores.AP50, "AP small": scores.APs, "AP medium": scores.APm, "AP large": scores.APl}

# %% tags=["nbval-ignore-output"]
from coursekit import results

try:
    table = results.load("09_faster_rcnn").table(["AP", "AP50", "AP small", "AP medium", "AP large"], digits=3)
except FileNotFoundError:
    table = "not there: `autograder experiment 09_faster_rcnn --seeds 0 1` makes the table"
table

# %% [markdown]
r"""
Each value is the mean over the seeds, and after ± their standard deviation: that is the noise, and a
difference of its size says nothing. Ours is level with torchvision's, or a little above. The alternating form
reaches about half: its head sees as many steps, but after step 2 the backbone may learn no more. A thousand
steps are short. All forms would go on rising, so the table compares how fast they learn, and not how good they
could become.

You can run any of them with your own functions: take the `#` away and wait a few minutes.
"""

# %%
# experiment("joint", seed=5)

# %% [markdown]
r"""
### Question: the two thresholds

The RPN's labels leave a gap: over 0.7 positive, under 0.3 negative, between the two ignored. The second stage
has none: from 0.5 on a region is an object, below it is background. Why does the RPN need the gap, and why
would it harm the head? What would happen to recall and precision of the *proposals* if the RPN used 0.5 for
both, and what to the detector's AP if NMS of proposals used 0.3 instead of 0.7? (Five to seven sentences.)
"""

# %% written="two_thresholds" points=2
r"""
The RPN's anchors lie on a fixed grid, and many overlap an object by about half: they are neither right nor
wrong, and any label would teach a border that the window can hardly see. Its task is to rank, so clear
positives and clear negatives suffice, and what lies between may be ranked as it comes. The head judges
regions that the RPN has moved already, and its regions between 0.3 and 0.7 are exactly those that it must
decide on at test time: left out of training, loose boxes around an object would get any score, and duplicates
would score as high as the good box. With 0.5 for both the RPN gets many more positives, loosely placed:
recall at an IoU of 0.5 hardly falls, but the best proposals are less tight, and more of the background near
objects is proposed, so precision falls. NMS at 0.3 removes proposals of objects that stand close together,
before the head has seen them: it cannot bring them back, so recall and AP fall, most in crowds; it also
leaves only one, not yet refined, region an object. With 0.7 several regions an object reach the head, which
picks the best. (Full marks: what lies between is undecidable for anchors; the head meets it at test time;
tighter versus more proposals; objects lost before the head.)
"""

# %% [markdown]
r"""
## Find the bug

Our `head_losses` labels the regions image by image, in a loop. A colleague wants it faster and does it for the whole batch
at once: all regions one under the other, one table of IoUs, one call of `label_proposals`, one of `encode_boxes`. The code
runs without error, and it is faster. Read it once, but do not yet search in it.
"""

# %% setup=true
label_proposals, encode_boxes = earlier("label_proposals"), earlier("encode_boxes")


def colleague_regions(regions, targets):
    """Your colleague's code: what all regions of a batch are to say: labels [R] and deltas [R, 4]."""
    boxes = torch.cat(regions)  # [R, 4]
    truth = torch.cat([target["boxes"] for target in targets])  # [M, 4]
    names = torch.cat([target["labels"] for target in targets])  # [M]
    iou = box_iou(truth, boxes)  # [M, R]
    labels = label_proposals(iou, names).clamp(min=0)  # [R]
    deltas = torch.zeros_like(boxes)
    positive = labels > 0
    if positive.any():
        best = iou[:, positive].argmax(0)
        deltas[positive] = encode_boxes(truth[best], boxes[positive])
    return labels, deltas

# %% [markdown]
r"""
She trains as we do, jointly, on easy scenes. The table has her detector, and the same with the mistake repaired: two seeds
each, 300 steps of 16. The losses of both stages are means over the first and the last thirty steps.
"""

# %% tags=["experiment-bug"]
BUG_FORMS = ("the colleague's", "repaired")


def head_losses_by(targets_of, model, feature, regions, targets):
    """As `head_losses`, with the labels and deltas of one of the two functions."""
    regions = [torch.cat([boxes, target["boxes"]]) for boxes, target in zip(regions, targets)]
    labels, wanted = targets_of(regions, targets)
    chosen, rows, start = [], [], 0
    for boxes in regions:
        kinds = labels[start : start + len(boxes)].clamp(max=1)
        own = torch.cat(sample_anchors(kinds, 32, 0.25))
        chosen.append(boxes[own])
        rows.append(start + own)
        start += len(boxes)
    rows = torch.cat(rows)
    parts = fast_rcnn_loss(*model.classify(feature, chosen), labels[rows], wanted[rows])
    return dict(zip(("class", "box"), parts))


def bug_experiment(form, seed, steps=300):
    """Train both stages jointly, and score."""
    targets_of = repaired_regions if form == "repaired" else colleague_regions

    def loss(model, images, targets):
        feature = model.backbone(images)
        regions = model.regions(feature, 200, 64)
        second = head_losses_by(targets_of, model, feature, regions, targets)
        return {**rpn_losses(model, feature, targets), **second}

    torch.manual_seed(seed)
    train, test = scenes("train", 2048, difficulty="easy"), scenes("test", 400, difficulty="easy")
    model = FasterRCNN()
    history = fit(model, loss, train, steps=steps, batch_size=BATCH, peak_rate=4e-3, seed=seed, progress=False)
    scores = evaluate(model.detect, test, small=16, large=40)
    stages = {"RPN": ("rpn class", "rpn box"), "head": ("class", "box")}
    losses = {
        f"{name}, {when}": sum(sum(history.losses[part][steps]) for part in parts) / 30
        for name, parts in stages.items()
        for when, steps in (("first", slice(30)), ("last", slice(-30, None)))
    }
    return {**losses, "AP": scores.AP, "AP50": scores.AP50, "AP75": scores.AP75}

# %%
evidence = results.load("09_faster_rcnn", part="bug")
evidence.table(["RPN, first", "RPN, last", "head, first", "head, last", "AP", "AP50", "AP75"], digits=3)

# %% [markdown]
r"""
Both stages' losses fall. But her AP is a quarter of the other, and the **losses by part** say more than their sum: the RPN's
are nearly equal, the head's ends at twice the other's. So the first stage is well, and with it the backbone; what the head is told is
under suspicion. For an experiment that needs no training, we give the function the anchors of a scene as regions, and
ask what it says of the *first* scene: alone, and with others in the batch. Positive regions are drawn.
"""

# %%
def ask(targets_of, count):
    """Labels of the regions of each of the first scenes, all asked in one batch."""
    regions = [joint.anchors.cpu().clamp(0, SIZE[0])] * count
    targets = [{key: value.cpu() for key, value in target.items()} for target in test.targets[:count]]
    return targets_of(regions, targets)[0].split(len(regions[0]))


def show_asked(targets_of):
    """The positive regions of the first scene, in batches of one, two and eight scenes."""
    told = {count: ask(targets_of, count)[0] for count in (1, 2, 8)}
    found = ", ".join(f"{int((labels > 0).sum())} in a batch of {count}" for count, labels in told.items())
    alt = f"The first scene three times, with its true boxes and the regions that are positive: {found}"
    with plot.figure(alt, columns=3, width=9, height=3.3) as axes:
        for ax, (count, labels) in zip(axes, told.items()):
            plot.show_boxes(test.targets[0]["boxes"], "truth", image=test.images[0], ax=ax)
            plot.show_boxes(joint.anchors.cpu().clamp(0, SIZE[0])[labels > 0], "positive", thickness=0.6, ax=ax)
            ax.set(title=f"batch of {count}: {int((labels > 0).sum())} positive")


show_asked(colleague_regions)

# %% [markdown]
r"""
What a scene is told must not depend on its neighbours in the batch. Ask this of every function that works on batches; it
takes a minute, and a batch of one never shows the fault. What are the positive regions of the last picture that lie on no
shape? Whose are they? A case for paper: two images, an object each, and the same two regions in both.
"""

# %%
here, there = [10.0, 10, 30, 30], [50.0, 40, 90, 60]
pair_of_targets = [{"boxes": torch.tensor([here]), "labels": torch.tensor([2])},
                   {"boxes": torch.tensor([there]), "labels": torch.tensor([5])}]  # fmt: skip
print("alone:   ", [colleague_regions([torch.tensor([here, there])], [one])[0].tolist() for one in pair_of_targets])
print("together:", colleague_regions([torch.tensor([here, there])] * 2, pair_of_targets)[0].tolist())

# %% [markdown]
r"""
### Exercise: `repaired_regions`

*About 15 minutes, easy once you have found it.*

Copy the body of `colleague_regions`, and repair it, with a loop or without. What is wanted:

- `regions`: a list of `B` tensors `[R_i, 4]`, `targets`: a list of `B` dicts with `boxes` `[M_i, 4]` and `labels` `[M_i]`.
  Any of them may be empty.
- `labels` int64 `[R]`, the regions image after image: the class that `label_proposals` gives; what it ignores is background
- `deltas` `[R, 4]`: for positive regions the offsets (`encode_boxes`) to the object they overlap most, else zeros

In the example above: `[2, 0]` for the first image and `[0, 5]` for the second, together `[2, 0, 0, 5]`.

<details><summary>Hint</summary>

In the table of IoUs, which entries are between a region and an object of two different images? What should they be?
You need to know of each row and of each column to which image it belongs.
</details>
"""

# %% exercise="repaired_regions"
def repaired_regions(regions, targets):
    """What all regions of a batch are to say.

    Args:
        regions (list of B Tensor[R_i, 4]): xyxy in pixels, of each image.
        targets (list of B dicts): `boxes` Tensor[M_i, 4] and `labels` Tensor[M_i], int64, of each image.

    Returns:
        Tensor[R], Tensor[R, 4]: labels int64, 0 for background, of all regions, image after image; and the offsets to the
            object that a positive region overlaps most in its own image, zeros for background.
    """
    ### BEGIN SOLUTION
    boxes = torch.cat(regions)  # [R, 4]
    truth = torch.cat([target["boxes"] for target in targets])  # [M, 4]
    names = torch.cat([target["labels"] for target in targets])  # [M]
    image = torch.arange(len(regions), device=boxes.device)
    region_of = image.repeat_interleave(torch.tensor([len(one) for one in regions], device=boxes.device))  # [R]
    object_of = image.repeat_interleave(torch.tensor([len(one["boxes"]) for one in targets], device=boxes.device))  # [M]
    iou = box_iou(truth, boxes) * (object_of[:, None] == region_of)  # [M, R]
    labels = label_proposals(iou, names).clamp(min=0)  # [R]
    deltas = torch.zeros_like(boxes)
    positive = labels > 0
    if positive.any():
        best = iou[:, positive].argmax(0)
        deltas[positive] = encode_boxes(truth[best], boxes[positive])
    return labels, deltas
    ### END SOLUTION

# %% check="repaired_regions" points=2
here, there = [10.0, 10, 30, 30], [50.0, 40, 90, 60]
two = [{"boxes": torch.tensor([here]), "labels": torch.tensor([2])},
       {"boxes": torch.tensor([there]), "labels": torch.tensor([5])}]  # fmt: skip
apart = [torch.tensor([here, there]), torch.tensor([here, [50.0, 40, 90, 62], [0, 0, 5, 5]])]
labels, deltas = repaired_regions(apart, two)
same(labels, torch.tensor([2, 0, 0, 5, 0]), "a region has an object of its own image or none; the last one touches nothing")
same(deltas, [[0] * 4, [0] * 4, [0] * 4, [0, -0.454545, 0, -0.476551], [0] * 4],
     "the fourth region is 22 pixels high, its object 20: it goes up by a pixel and shrinks; all others have zeros")
same(repaired_regions(apart[:1], two[:1])[0], [2, 0], "an image alone")
### BEGIN HIDDEN TESTS
def regions_by_loops(regions, targets):
    """The same, one region and one object at a time."""
    labels, deltas = [], []
    for mine, target in zip(regions, targets):
        for x1, y1, x2, y2 in mine.tolist():
            best, label, offsets = 0.5, 0, [0.0] * 4
            for (u1, v1, u2, v2), name in zip(target["boxes"].tolist(), target["labels"].tolist()):
                shared = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
                overlap = shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)
                if overlap > best or overlap == best == 0.5 and not label:
                    w, h = x2 - x1, y2 - y1
                    best, label = overlap, name
                    offsets = [(u1 + u2 - x1 - x2) / 2 / w / 0.1, (v1 + v2 - y1 - y2) / 2 / h / 0.1,
                               math.log((u2 - u1) / w) / 0.2, math.log((v2 - v1) / h) / 0.2]  # fmt: skip
            labels.append(label)
            deltas.append(offsets)
    return torch.tensor(labels), regions[0].new_tensor(deltas).reshape(-1, 4)


dice = torch.Generator().manual_seed(9)
for dtype in (torch.float32, torch.float64):
    drawn, objects = [], []
    for amount, count in ((30, 3), (0, 2), (25, 0), (40, 4), (7, 1)):
        corners = torch.rand(count, 2, generator=dice, dtype=dtype) * torch.tensor([60.0, 35], dtype=dtype)
        truth = torch.cat([corners, corners + 12 + 25 * torch.rand(count, 2, generator=dice, dtype=dtype)], 1)
        objects.append({"boxes": truth, "labels": torch.randint(1, 7, (count,), generator=dice)})
    every = torch.cat([one["boxes"] for one in objects])
    for amount in (30, 0, 25, 40, 7):
        near = every[torch.randint(0, len(every), (amount,), generator=dice)]
        drawn.append(near + 4 * torch.randn(amount, 4, generator=dice, dtype=dtype))
    found, wanted = repaired_regions(drawn, objects), regions_by_loops(drawn, objects)
    same(found[0], wanted[0], f"labels of five images, one without regions, one without objects, {dtype}")
    same(found[1], wanted[1], f"deltas of five images, one without regions, one without objects, {dtype}")
    bare = [{"boxes": torch.zeros(0, 4, dtype=dtype), "labels": torch.zeros(0, dtype=torch.int64)}] * 2
    nothing = (torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4, dtype=dtype))
    same(repaired_regions([drawn[0][:2], drawn[3][:1]], bare), nothing, f"two images without objects, {dtype}")
touching = [torch.tensor([[0.0, 0, 20, 10], [0, 0, 21, 10]])]
half = [{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([3])}]
same(repaired_regions(touching, half)[0], [3, 0], "an IoU of exactly 0.5 is enough, a little less is background")
twins = [{"boxes": torch.tensor([[0.0, 0, 20, 20]]), "labels": torch.tensor([k])} for k in (1, 4, 6)]
same(repaired_regions([torch.tensor([[0.0, 0, 20, 20]])] * 3, twins)[0], [1, 4, 6],
     "three images with an object at the same place: each region has that of its own image")
untouched(repaired_regions, drawn, objects)
### END HIDDEN TESTS

# %%
show_asked(repaired_regions)
print("the first scene is told the same in each batch:",
      all(torch.equal(ask(repaired_regions, 1)[0], ask(repaired_regions, count)[0]) for count in (2, 8)))

# %% [markdown]
r"""
A table of all with all has pairs that do not exist. Whoever puts a loop over images into one call must say which pairs those
are: libraries pad, mask, or shift each image's boxes far away. The mistake grows with the batch. With sixteen scenes most
places of the image lie on somebody's object, so the head learnt to call background by names.
"""

# %% [markdown]
r"""
## What was published

| | VOC 2007, mAP | VOC 2012, mAP |
| --- | --- | --- |
| Fast R-CNN, selective search | 66.9 | 65.7 |
| Faster R-CNN | 69.9 | 67.0 |

All with VGG-16, images of 600 pixels on the shortest side, stride 16, trained on the VOC of that year. The
proposals are not only faster but better: 300 of them against 2,000. On VOC a mean AP at an IoU of 0.5 is
meant; our scenes and our AP are other things, so compare rows only.

## What we built

- `cell_anchors`, `grid_anchors`, `inside_image`: reference boxes for every window of a map.
- `label_rpn_anchors`, `sample_anchors`, `RPNHead`, `rpn_loss`, `propose`: a network that learns where to
  look.
- `alternating_training`: two networks that come to share one backbone, and a way to see that they really do.
- `repaired_regions`: a batch in one go, and the question to ask of everything that works on batches.
- A detector in two stages, held against torchvision's: in training by the table above; in lesson 14 yours takes
  torchvision's weights and finds the same boxes.

What it lacks: one map for all sizes. Lesson 10 gives each size a map of its own.

### Further reading

- Ren et al., NeurIPS 2015: section 3.1 (RPN, anchors, loss), 3.2 (the four steps; approximate joint
  training), 3.3 (details). The longer form, IEEE TPAMI 2017, has the ablations: joint training takes a
  quarter to a half less time, with close results.
- Hosang et al., "What makes for effective detection proposals?", IEEE TPAMI 2016: recall and proposals.
- Huang et al., CVPR 2017 (arXiv:1611.10012): speed and accuracy as the number of proposals falls from 300 to
  10.
- Lin et al., CVPR 2017 (arXiv:1612.03144): RPN and head on a pyramid, lesson 10.

### What others call it

| here | torchvision | detectron2 | mmdetection |
| --- | --- | --- | --- |
| `cell_anchors`, `grid_anchors` | `AnchorGenerator`, ratio = height / width, rounded, at the cell's corner | `DefaultAnchorGenerator` | `AnchorGenerator` |
| `inside_image` | not used | `RPN.BOUNDARY_THRESH`, once | `allowed_border` |
| `label_rpn_anchors` | `Matcher(0.7, 0.3, allow_low_quality_matches=True)` | `Matcher` | `MaxIoUAssigner` |
| `sample_anchors` | `BalancedPositiveNegativeSampler` | `subsample_labels` | `RandomSampler` |
| `RPNHead` | `RPNHead` | `StandardRPNHead` | `RPNHead` |
| `rpn_loss` | `RegionProposalNetwork.compute_loss` | `RPN.losses` | `RPNHead.loss_by_feat` |
| `propose` | `RegionProposalNetwork.filter_proposals` | `find_top_rpn_proposals` | `RPNHead.predict_by_feat` |
| `alternating_training` | none, joint | none, joint | none, joint |
"""
