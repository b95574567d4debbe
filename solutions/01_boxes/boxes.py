# %% [markdown]
r"""
# 1 · Boxes

In this course we build object detectors from nothing. We write every part ourselves, check it, and train it.

This lesson builds what all the others stand on: boxes, how much two boxes overlap, boxes in a mirrored image,
and boxes read from an annotation file. You need to know PyTorch tensors. You need to know nothing about
detection.

**Time:** about two and a half hours. Six exercises take about 95 minutes, two written questions 20, reading
and looking the rest.

**How it goes.** Run the cells from top to bottom. Where it says `YOUR CODE HERE`, replace that line and the
one below with code of yours, then run the check below it. A check that fails says what it found, what it
expected and where to look. You see the first part of each check; grading asks for the rest of what the text
says: random boxes, no boxes at all, numbers in float64.
"""

# %% setup=true
import dataclasses
import json
import math
import tempfile

import torch

from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes, via
from coursekit.data.scenes import DIFFICULTIES
from coursekit.plot import curve, figure, show_boxes, show_grid, show_image, show_points, table

# %% [markdown]
r"""
## What we are going to build

On the left is what a detector gets. On the right is what it should say. From lesson 5 on, networks of yours
give such answers; here they come from the program that painted the scene. Look for the striped bar: there is
no box around it.
"""

# %%
plain = dataclasses.replace(DIFFICULTIES["easy"], noise=0.0, clouds=0.0)  # its pictures are small files
data = scenes("train", 8, size=(320, 240), difficulty=plain, device="cpu")
image, target = data[1]
alt = "A scene twice. On the right, boxes name a square, a triangle and a star; a striped bar has no box."
with figure(alt, width=7.5, height=3, columns=2) as (left, right):
    show_image(image, left)
    show_boxes(target["boxes"], "truth", image=image, labels=target["labels"], classes=data.classes, ax=right)

# %% [markdown]
r"""
There are three families of detectors, and we build two or more of each:

| family | how it works | detectors | lessons |
| --- | --- | --- | --- |
| single-stage | one network says at once what is where, starting from fixed boxes | SSD, RetinaNet | 2 to 5, 11 |
| two-stage | a first part proposes regions, a second one decides | Fast R-CNN, Faster R-CNN, then with a feature pyramid (FPN) | 8 to 10 |
| anchor-free | single-stage too, but no fixed boxes to start from | FSAF, FCOS | 12, 13 |

Lessons 6 and 7 serve all of them: one drops repeated detections, the other measures how good a detector is.
In lesson 14 you put your parts together.

## 1. Detection is identification and localisation

**Identify:** what is it? The answer is a class, also called *class id*: soda can, dog, star. **Localise:**
where is it? The answer is a *bounding box*, the smallest upright rectangle around the object.

A picture may hold several objects, of several classes, or none. Each object gets a class and a box of its
own, all of them at the same time. What the detector was not trained on it ignores. A detector of soda cans
leaves the bottle beside the can alone. Ours leaves the bar alone.

In code, the answer for one image is two tensors. The name of label `k` is `classes[k - 1]`; label 0 is kept
for "no object", the *background*.
"""

# %%
print("classes:", data.classes)
print("labels: ", target["labels"].tolist())
print("boxes:  ", [[round(value) for value in box] for box in target["boxes"].tolist()])

# %% [markdown]
r"""
One class does not look one way. A detector has to know a star in bright and in dull light (*illumination*),
stretched or partly hidden (*distortion*), and turned (*orientation*). So it needs many examples. These eight
are all stars:
"""

# %%
clear = dataclasses.replace(DIFFICULTIES["medium"], noise=0.0)
medium = scenes("train", 100, difficulty=clear, device="cpu")
found = [(i, box) for i, each in enumerate(medium.targets) for box in each["boxes"][each["labels"] == 4]]
stars = [(i, box.int().tolist()) for i, box in found if box[2] - box[0] > 30]
alt = "Eight cut-outs of stars: turned, chequered or striped, pale or strong, some partly covered."
with figure(alt, width=7.5, height=1.1, columns=8) as axes:
    for ax, (i, (x1, y1, x2, y2)) in zip(axes, stars):
        show_image(medium.images[i][:, y1:y2, x1:x2], ax)

# %% [markdown]
r"""
That cut was `image[:, y1:y2, x1:x2]`. Which of the numbers is which, and why does `y` come first? We settle
that now, once for the whole course.

## 2. Coordinates

The origin is the **upper left** corner of the image. `x` grows to the right, `y` grows **down**. A box is
given by its upper left and its lower right corner, $(x_{min}, y_{min})$ and $(x_{max}, y_{max})$. We write it
as four numbers in a row, `(x1, y1, x2, y2)`, and call that order `xyxy`.

Here is a 640×480 image, and on it a soda can. Well, a red rectangle. Its box is `(400, 120, 540, 400)`.
"""

# %%
photo = torch.full((3, 480, 640), 215, dtype=torch.uint8)  # channels, rows, columns
photo[:, 120:400, 400:540] = torch.tensor([200, 40, 40], dtype=torch.uint8)[:, None, None]
can = torch.tensor([[400.0, 120, 540, 400]])
alt = "A 640 by 480 image, its origin at the upper left. The can's corners are (400, 120) and (540, 400)."
with figure(alt, width=5, height=3.9) as ax:
    show_boxes(can, "truth", image=photo, ax=ax)
    for x, y, text_x in ((0, 0, 50), (400, 120, 340), (540, 400, 580)):
        ax.text(text_x, y + 24, f"({x}, {y})", ha="center", va="center")
    ax.set(xlabel="x (pixels)", ylabel="y (pixels)", xticks=range(0, 641, 80), yticks=range(0, 481, 80))

# %% [markdown]
r"""
Two traps lie in that cell.

**An image tensor is `[channels, rows, columns]`**, that is `[3, H, W]` and not `[3, W, H]`. A row is a `y`
and a column is an `x`, so the pixel at `(x, y)` is `image[:, y, x]`. Image sizes, though, are said and
written width first: 640×480.

**Coordinates are edges, not pixel indices.** Zoom in on an image of 8×6 pixels. The pixel with index 2 covers
the stretch from 2 to 3. A box over pixels 2, 3 and 4 goes from edge 2 to edge 5 and is 5 − 2 = 3 wide. That
is also how Python slices count: `2:5` has three elements. The figure writes column and row into the pixels
inside of the box.
"""

# %%
alt = "A grid of 8 by 6 pixels. The box (2, 1, 5, 3) covers the columns 2, 3 and 4 and the rows 1 and 2."
with figure(alt, width=4, height=3) as ax:
    show_grid(8, 6, (8, 6), role="negative", ax=ax)
    show_boxes([[2.0, 1, 5, 3]], "truth", ax=ax)
    for row in (1, 2):
        for column in (2, 3, 4):
            ax.text(column + 0.5, row + 0.5, f"{column}, {row}", ha="center", va="center", fontsize=8)
    ax.set(xticks=range(9), yticks=range(7))

# %% [markdown]
r"""
So **no `+ 1` anywhere in this course**. Older code has `x2 - x1 + 1`, from days when coordinates were indices
of pixels. On a box 300 wide nobody notices; on a box 4 wide it is 25 %. Coordinates are floats, because an
edge may lie inside a pixel: images are resized, and networks answer with real numbers.

Count the red pixels of the can to see that edges and pixels agree:
"""

# %%
red = (photo[0] == 200).sum().item()
print("red pixels:", red, "and (540 - 400) * (400 - 120) =", (540 - 400) * (400 - 120))

# %% [markdown]
r"""
### Other orders

The corners are not the only way to write a box. Two ways matter at once: corners are handy to draw and to
compare, centre and size are handy to predict. Others wait in papers, files and libraries. They are all just
four numbers, and nothing warns you when you read one as the other.

| who | four numbers | note |
| --- | --- | --- |
| **this course**, torchvision | `x1, y1, x2, y2` | called `xyxy` |
| centre and size, `cxcywh` | `cx, cy, w, h` | FSAF (lesson 12) writes it `x, y, w, h`, with `(x, y)` the centre |
| COCO files, rectangles of VIA | `x, y, w, h` | `(x, y)` the upper left corner: called `xywh` |
| the slides' SSD offsets | `xmin, xmax, ymin, ymax` | lesson 3 |
| FCOS (lesson 13) | `l, t, r, b` | distances from a point to the left, top, right, bottom side |
| FSAF's offsets | `t, l, b, r` | likewise, in another order |
| Pascal VOC files | `xmin, ymin, xmax, ymax` | pixel indices, counted from 1: take 1 off the first two |
| TensorFlow | `y1, x1, y2, x2` | often divided by the image size |

Our rule: convert at the edge. As soon as a box comes in it becomes `xyxy`, and it stays that until it leaves.

From here on `N` is a number of boxes, and a tensor of boxes has shape `[N, 4]`, one box a row, with $N = 0$
allowed: most images of the world show no soda can.

### Exercise: `xyxy_to_cxcywh`
*About 10 minutes, easy.*

Turn corners into centre and size:

$$(c_x, c_y) = \left(x_1 + \frac{x_2 - x_1}{2},\; y_1 + \frac{y_2 - y_1}{2}\right) \qquad (w, h) = (x_2 - x_1,\; y_2 - y_1)$$

By hand, for the can: 140 wide, 280 high, so its centre is (400 + 70, 120 + 140) = (470, 260).

`[N, 4]` goes in, a new `[N, 4]` comes out. The tensor that came in stays as it is: in this course no function
changes its arguments, and what comes out has the dtype of what went in.

<details><summary>Hint</summary>

`x1, y1, x2, y2 = boxes.unbind(1)` gives the four columns, each of shape `[N]`. `torch.stack([...], 1)` puts
columns side by side.

</details>
"""

# %% exercise="xyxy_to_cxcywh"
def xyxy_to_cxcywh(boxes):
    """The same boxes by centre and size.

    Args:
        boxes (Tensor[N, 4]): (x1, y1, x2, y2), in pixels.

    Returns:
        Tensor[N, 4]: (cx, cy, w, h), in pixels; a new tensor.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1)
    ### END SOLUTION

# %% check="xyxy_to_cxcywh" points=2
can = torch.tensor([[400.0, 120, 540, 400]])
same(xyxy_to_cxcywh(can), [[470, 260, 140, 280]], "the can's centre is (470, 260), its size 140 by 280")
tile = torch.tensor([[0.0, 0, 9, 9]])
same(xyxy_to_cxcywh(tile), [[4.5, 4.5, 9, 9]], "the middle of 0 and 9 is 4.5: no rounding, no 1 added")
### BEGIN HIDDEN TESTS
from torchvision.ops import box_convert

untouched(xyxy_to_cxcywh, torch.tensor([[400.0, 120, 540, 400], [3, 2, 7.5, 4]]))
generator = torch.Generator().manual_seed(1)
many = torch.rand(150, 4, generator=generator, dtype=torch.float64)
many *= torch.tensor([900, 600, 90, 250])
many[:, 2:] += many[:, :2]
single = many.float()
wide = torch.cat([single, torch.ones(150, 2)], 1)
oracle = box_convert(single, "xyxy", "cxcywh")
same(xyxy_to_cxcywh(single), oracle, "150 random boxes, one a row")
same(xyxy_to_cxcywh(wide[:, :4]), oracle, "boxes that are four columns of a wider tensor")
oracle = box_convert(many, "xyxy", "cxcywh")
same(
    xyxy_to_cxcywh(many),
    oracle,
    "boxes in float64 give float64, with all its digits",
    rtol=1e-10,
    atol=1e-10,
)
same(xyxy_to_cxcywh(torch.zeros(0, 4)), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
none = torch.zeros(0, 4, dtype=torch.float64)
same(xyxy_to_cxcywh(none), none.clone(), "no box in float64 gives no box in float64")
same(
    xyxy_to_cxcywh(torch.tensor([[-30.0, 5, -10, 5]])),
    [[-20.0, 5, 20, 0]],
    "a box left of the image, without height",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
And look. The marks should sit in the middle of the boxes.
"""

# %%
centres = xyxy_to_cxcywh(target["boxes"])
alt = "The scene with its three boxes and a mark at the centre of each."
with figure(alt, width=4, height=3) as ax:
    show_boxes(target["boxes"], "truth", image=image, ax=ax)
    show_points(centres[:, :2], "truth", ax=ax)

# %% [markdown]
r"""
### Exercise: `cxcywh_to_xyxy`
*About 5 minutes, easy.*

Go back. Half of the width lies to the left of the centre, half to the right; the same with the height. `[N,
4]` goes in, a new `[N, 4]` comes out.

<details><summary>Hint</summary>

If you move the corners of a tensor one after the other, the second step sees what the first has changed.
Compute the four columns first, then stack.

</details>
"""

# %% exercise="cxcywh_to_xyxy"
def cxcywh_to_xyxy(boxes):
    """The same boxes by their corners.

    Args:
        boxes (Tensor[N, 4]): (cx, cy, w, h), in pixels.

    Returns:
        Tensor[N, 4]: (x1, y1, x2, y2), in pixels; a new tensor.
    """
    ### BEGIN SOLUTION
    cx, cy, w, h = boxes.unbind(1)  # [N] each
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    ### END SOLUTION

# %% check="cxcywh_to_xyxy" points=2
can = torch.tensor([[470.0, 260, 140, 280]])
same(cxcywh_to_xyxy(can), [[400, 120, 540, 400]], "the can: 70 left and right of 470, 140 up and down")
tile = torch.tensor([[4.5, 4.5, 9, 9]])
same(cxcywh_to_xyxy(tile), [[0, 0, 9, 9]], "half of 9 is 4.5: nothing is rounded")
### BEGIN HIDDEN TESTS
from torchvision.ops import box_convert

untouched(cxcywh_to_xyxy, torch.tensor([[470.0, 260, 140, 280], [3, 2, 7.5, 4]]))
generator = torch.Generator().manual_seed(2)
many = torch.rand(150, 4, generator=generator, dtype=torch.float64)
many *= torch.tensor([900, 600, 90, 250])
single = many.float()
wide = torch.cat([single, torch.ones(150, 2)], 1)
oracle = box_convert(single, "cxcywh", "xyxy")
same(cxcywh_to_xyxy(single), oracle, "150 random boxes, one a row", atol=1e-4)
same(cxcywh_to_xyxy(wide[:, :4]), oracle, "boxes that are four columns of a wider tensor", atol=1e-4)
oracle = box_convert(many, "cxcywh", "xyxy")
same(
    cxcywh_to_xyxy(many),
    oracle,
    "boxes in float64 give float64, with all its digits",
    rtol=1e-10,
    atol=1e-10,
)
same(cxcywh_to_xyxy(torch.zeros(0, 4)), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
none = torch.zeros(0, 4, dtype=torch.float64)
same(cxcywh_to_xyxy(none), none.clone(), "no box in float64 gives no box in float64")
same(
    cxcywh_to_xyxy(torch.tensor([[3.0, -8, 0, 5]])),
    [[3.0, -10.5, 3, -5.5]],
    "a box above the image, without width",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
There and back gives the boxes we had. That alone proves little: two functions with the same mistake undo each
other too. So the checks above compare with numbers that you can work out on paper.

With centre and size at hand, a box of half the size in the same place is one multiplication:
"""

# %%
print("there and back:", torch.allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(target["boxes"])), target["boxes"]))
halved = cxcywh_to_xyxy(centres * torch.tensor([1, 1, 0.5, 0.5]))
alt = "Each box again, and in its middle a dashed one of half the width and half the height."
with figure(alt, width=4, height=3) as ax:
    show_boxes(target["boxes"], "truth", image=image, ax=ax)
    show_boxes(halved, "prediction", ax=ax)

# %% [markdown]
r"""
### Exercise: `box_area`
*About 5 minutes, easy.*

Give the area of each box, width times height. `[N, 4]` goes in, `[N]` comes out. The can covers 140 · 280 =
39,200 square pixels. A box without width or without height is a line, and has area 0.
"""

# %% exercise="box_area"
def box_area(boxes):
    """The area of each box.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.

    Returns:
        Tensor[N]: in square pixels; 0 for a box without width or height.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return (x2 - x1) * (y2 - y1)
    ### END SOLUTION

# %% check="box_area" points=1
two = torch.tensor([[400.0, 120, 540, 400], [0, 0, 0.5, 0.25]])
same(box_area(two), [39200, 0.125], "the can is 140 x 280 = 39200; boxes may be smaller than a pixel")
### BEGIN HIDDEN TESTS
import torchvision

untouched(box_area, torch.tensor([[400.0, 120, 540, 400], [3, 2, 7.5, 4]]))
generator = torch.Generator().manual_seed(3)
many = torch.rand(7, 4, generator=generator, dtype=torch.float64)
many *= torch.tensor([300, 200, 90, 250])
many[:, 2:] += many[:, :2]
many[5] = torch.tensor([700, 500, 760, 590])
single = many.float()
oracle = torchvision.ops.box_area(single)
same(box_area(single), oracle, "seven random boxes, one number for each", atol=0.01)
oracle = torchvision.ops.box_area(many)
same(
    box_area(many),
    oracle,
    "boxes in float64 give float64, with all its digits",
    rtol=1e-10,
    atol=1e-10,
)
same(box_area(torch.zeros(0, 4)), torch.zeros(0), "no box, no area: shape [0]")
none = torch.zeros(0, 4, dtype=torch.float64)
same(box_area(none), torch.zeros(0, dtype=torch.float64), "no box in float64: no area in float64")
same(box_area(torch.tensor([[-30.0, -20, -10, 5]])), [500], "one box, left of and above the image")
same(box_area(torch.tensor([[5.0, 7, 5, 30], [-9, 4, -2, 4]])), [0, 0], "a line has no area")
### END HIDDEN TESTS

# %% [markdown]
r"""
## 3. How much do two boxes overlap?

A detector says "can, here". The true box is a few pixels off. Is the answer right? We need a number for how
well two boxes agree: 1 for the same box, 0 for boxes that have nothing in common.

Draw both, and colour what they share:
"""

# %%
pair = torch.tensor([[0.0, 0, 10, 10], [3, 3, 13, 13]])
alt = "The boxes (0, 0, 10, 10) and (3, 3, 13, 13). They share the square from (3, 3) to (10, 10), 7 by 7."
with figure(alt, width=3.6, height=3.4) as ax:
    ax.fill([3, 10, 10, 3], [3, 3, 10, 10], color="0.8")
    ax.text(6.5, 6.5, "7 × 7", ha="center", va="center")
    show_boxes(pair[:1], "truth", labels=["A"], ax=ax)
    show_boxes(pair[1:], "prediction", labels=["B"], ax=ax)
    ax.set(xlim=(-1, 15), ylim=(15, -2), xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")

# %% [markdown]
r"""
They share 7 · 7 = 49. Together they cover 100 + 100 − 49 = 151: what both cover must not be counted twice. So
they share 49 of 151, that is **0.325**. This is **intersection over union**, IoU, also known as the *Jaccard
index*:

$$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|} = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}$$

Here $|\cdot|$ is the area. Two things make IoU useful. It does not depend on scale: draw all twice as large,
and it stays. And it punishes both errors, a box that is too small and one that is too large.

It is the ruler of the whole course. Lesson 3 uses it to say which anchor is responsible for which object,
lesson 6 to drop repeated detections, lesson 7 to tell right from wrong (a detection counts as right from IoU
0.5 on).

**Where is the overlap?** It begins at the *larger* of the two left sides and ends at the *smaller* of the two
right sides; the same from top to bottom. For the two boxes above: from max(0, 3) = 3 to min(10, 13) = 10.

**And if there is none?** Take A from 0 to 4 and B from 6 to 8. Then max(0, 6) = 6 and min(4, 8) = 4. The
overlap would be −2 wide. A side can be missing, but not negative. What if *both* sides come out negative, and
we multiply them?

### Exercise: `box_iou`
*About 25 minutes, medium.*

Compute the IoU of every pair: `boxes1` is `[N, 4]`, `boxes2` is `[M, 4]`, the result is `[N, M]`. Row `i`,
column `j` belongs to `boxes1[i]` and `boxes2[j]`.

- Boxes that are apart, and boxes that only touch, have IoU 0.
- Where a box has no area the answer is 0 too, also for two such boxes. There 0 / 0 lies in wait, and gives
  `nan`.
- `N` or `M` may be 0: the result then has shape `[0, M]` or `[N, 0]`.

Write it without a loop over boxes if you can. Later lessons compare thousands of boxes with each other; loops
are right too, but slow.

<details><summary>Hint: every pair at once</summary>

`boxes1[:, None]` has shape `[N, 1, 4]` and `boxes2[None]` has shape `[1, M, 4]`. What you compute from both
has shape `[N, M, ...]`: PyTorch repeats the sides of length 1.

</details>

<details><summary>Hint: the smaller, the larger, and nothing below 0</summary>

`torch.maximum`, `torch.minimum` and `clamp(min=0)`. Think about what to clamp: each side, or their product?

</details>
"""

# %% exercise="box_iou"
def box_iou(boxes1, boxes2):
    """Intersection over union of every pair: how much of what two boxes cover, both cover.

    Args:
        boxes1 (Tensor[N, 4]): xyxy, in pixels.
        boxes2 (Tensor[M, 4]): likewise.

    Returns:
        Tensor[N, M]: in 0..1; row i, column j is for boxes1[i] and boxes2[j]. 0 for boxes that are apart
            or only touch, and where either has no area.
    """
    ### BEGIN SOLUTION
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[None, :, :2])  # [N, M, 2]
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[None, :, 2:])  # [N, M, 2]
    width, height = (bottom_right - top_left).clamp(min=0).unbind(2)  # [N, M] each
    intersection = width * height
    union = box_area(boxes1)[:, None] + box_area(boxes2)[None, :] - intersection
    return intersection / torch.where(union > 0, union, 1)  # 0 / 0 becomes 0 / 1
    ### END SOLUTION

# %% check="box_iou" points=3
box = torch.tensor([[0.0, 0, 10, 10]])
same(box_iou(box, torch.tensor([[2.0, 4, 7, 8]])), [[20 / 100]], "5 x 4 inside of 10 x 10")
same(box_iou(box, torch.tensor([[3.0, 3, 13, 13]])), [[49 / 151]], "7 x 7 shared of 100 + 100 - 49")
same(box_iou(box, box), [[1]], "a box and itself")
two = torch.tensor([[0.0, 0, 4, 2], [2, 1, 6, 3]])
three = torch.tensor([[0.0, 0, 4, 2], [0, 1, 4, 3], [2, 0, 4, 2]])
pairs = [[1, 4 / 12, 4 / 8], [2 / 14, 4 / 12, 2 / 10]]
same(box_iou(two, three), pairs, "2 boxes against 3: a row for each of the first")
### BEGIN HIDDEN TESTS
import torchvision

untouched(box_iou, torch.tensor([[0.0, 0, 4, 2], [2, 1, 6, 3]]), torch.tensor([[1.0, 0, 5, 3]]))
generator = torch.Generator().manual_seed(4)
many = torch.rand(12, 4, generator=generator, dtype=torch.float64)
many *= torch.tensor([60, 60, 80, 40])
many[:, 1] += 150  # low in the image, so that (xmin, xmax, ymin, ymax) would be boxes as well
many[:, 2:] += many[:, :2] + 1
oracle = torchvision.ops.box_iou(many[:7], many[7:])  # float64
seven, five = many[:7].float(), many[7:].float()
same(box_iou(seven, five), oracle.float(), "seven random boxes against five", atol=1e-4)
square = torchvision.ops.box_iou(many[:6], many[6:]).float()
same(box_iou(many[:6].float(), many[6:].float()), square, "six boxes against six others", atol=1e-4)
for move in (-220, 640):
    same(
        box_iou(many[:7].float() + move, many[7:].float() + move),
        oracle.float(),
        f"the seven and the five, all moved by {move} pixels",
        atol=1e-3,
    )
same(
    box_iou(many[:7], many[7:]),
    oracle,
    "boxes in float64 give float64, with all its digits",
    rtol=1e-9,
    atol=1e-9,
)
large, small = torch.tensor([[0.0, 0, 100, 100]]), torch.tensor([[20.0, 30, 22, 33]])
same(box_iou(large, small), [[6 / 10000]], "a small box inside of a large one")
same(box_iou(small, large), [[6 / 10000]], "the small box first, the large one around it second")
unit = torch.tensor([[0.0, 0, 0.5, 0.5], [0, 0, 0.05, 0.05]])
shifted = torch.tensor([[0.25, 0, 0.75, 0.5], [0.025, 0, 0.075, 0.05]])
same(
    box_iou(unit, shifted),
    [[1 / 3, 1 / 100], [0, 1 / 3]],
    "boxes smaller than a pixel, and shifted by half their width",
    atol=1e-3,  # a millionth added to the union may be seen here
)
### END HIDDEN TESTS

# %% [markdown]
r"""
The next check asks for the edges of the definition: boxes that are apart, that touch, that have no area, and
no boxes at all.
"""

# %% check="box_iou" part="edges" points=2
a = torch.tensor([[0.0, 0, 4, 4]])
apart = torch.tensor([[6.0, 6, 8, 9], [1, 6, 3, 8], [6, 1, 8, 3]])
same(box_iou(a, apart), [[0, 0, 0]], "apart in x and y, in y only, in x only: nothing shared")
same(box_iou(a, torch.tensor([[4.0, 0, 8, 4]])), [[0]], "boxes that touch along a side share no area")
### BEGIN HIDDEN TESTS
c, d = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[6.0, 1, 8, 3]])
same(box_iou(c, d), [[0]], "side by side in y, apart in x: they share nothing")
same(box_iou(d, c), [[0]], "apart in x, the left box second: they share nothing")
near, far = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[5.0, 5, 6, 6]])
same(box_iou(near, far), [[0]], "two small boxes far apart: they share nothing")
touching = torch.tensor([[2.0, 1, 3, 2]])
same(box_iou(near, touching), [[0]], "apart in x, touching in y: they share nothing")
corner = torch.tensor([[4.0, 4, 6, 9]])
same(box_iou(a, corner), [[0]], "boxes that touch at a corner share no area")
lines = torch.tensor([[5.0, 5, 5, 5], [2, 1, 2, 3], [0, 2, 3, 2]])
same(box_iou(lines, lines), torch.zeros(3, 3), "boxes without area: 0, not 0 / 0")
same(box_iou(a, lines), torch.zeros(1, 3), "a line inside a box covers none of it")
for dtype in (torch.float32, torch.float64):
    none, two = torch.zeros(0, 4, dtype=dtype), torch.zeros(2, 4, dtype=dtype)
    same(box_iou(none, two), torch.zeros(0, 2, dtype=dtype), f"no boxes against 2, {dtype}")
    same(box_iou(two, none), torch.zeros(2, 0, dtype=dtype), f"2 boxes against none, {dtype}")
    same(box_iou(none, none), torch.zeros(0, 0, dtype=dtype), f"none against none, {dtype}")
### END HIDDEN TESTS

# %% [markdown]
r"""
Look at a table. Rows are the three true objects of our scene, columns are three guesses. Which guess is good,
and for what? Compare with the picture.
"""

# %%
guesses = target["boxes"] + torch.tensor([[6.0, 4, 6, 4], [-25, 10, -5, 30], [30, 30, 30, 30]])
names = [data.classes[label - 1] for label in target["labels"]]
alt = "Three true boxes, three dashed guesses: one nearly right, one too large and too far left, one beside."
with figure(alt, width=4, height=3) as ax:
    show_boxes(target["boxes"], "truth", image=image, labels=names, ax=ax)
    show_boxes(guesses, "prediction", labels=["first", "second", "third"], ax=ax)
rows = [[name, *row] for name, row in zip(names, box_iou(target["boxes"], guesses))]
table(rows, ["IoU", "first guess", "second guess", "third guess"], digits=2)

# %% [markdown]
r"""
How fast does IoU fall? Slide a box of 20×20 away from its object, pixel by pixel. At a shift of 20 the boxes
touch, and from there on IoU is 0 and stays 0: it no longer tells near from far. Remember that for lesson 12,
where IoU becomes a loss.
"""

# %%
shift = torch.arange(0.0, 31)
moved = torch.tensor([[0.0, 0, 20, 20]]) + torch.stack([shift, 0 * shift, shift, 0 * shift], 1)
alt = "IoU against the shift: 1 at 0, a third at 10 pixels, 0 from 20 pixels on. It falls fast at first."
with figure(alt, width=4.5, height=2.8) as ax:
    curve(shift, box_iou(moved[:1], moved)[0], "prediction", ax=ax)
    ax.axhline(0.5, color="0.6", linewidth=1)
    ax.text(30, 0.52, "right from here up", ha="right", fontsize=8)
    ax.set(xlabel="shift (pixels)", ylabel="IoU", ylim=(-0.03, 1.05))

# %% [markdown]
r"""
Try it by hand. Drag the two boxes, or choose one with the Tab key and move it with the arrow keys (with Shift they
change its size). Find two positions of equal IoU that look quite different. Then shrink one box inside the other and
watch the union: which box is it now?
"""

# %%
from coursekit.widgets import explore_iou

explore_iou(box_iou)

# %% [markdown]
r"""
A shift of 10 pixels is half the width, and the boxes still share a good part: 10 · 20 = 200 of 400 + 400 −
200 = 600, one third. For a detector that is wrong. IoU 0.5 is stricter than it sounds.

### Question: `why_iou`
*About 10 minutes, in words.*

A colleague wants to score a detector by the distance, in pixels, between the centres of the predicted and the
true box. Describe two predictions that this score ranks wrongly or cannot tell apart. Work out the IoU of
both, with numbers. What does IoU do that the distance does not?
"""

# %% written="why_iou" points=2
r"""
Distance between centres does not see the size of the boxes. Let the true box be (0, 0, 20, 20). The
prediction (5, 5, 15, 15) and the prediction (0, 0, 20, 20) have the same centre, so both have distance 0.
Their IoUs are 100 / 400 = 0.25 and 1.

Nor does it see the scale of the object. A distance of 10 pixels to the side is a lot for a box of 20×20: 200
/ 600 = 0.33, wrong at the usual 0.5. For a box of 200×200 it is little: 190 · 200 / (2 · 40,000 − 38,000) =
38,000 / 42,000 = 0.90.

IoU compares position and size in one number, relative to the size of the boxes, between 0 and 1 for all
objects, so that one threshold can serve for all of them.
"""

# %% [markdown]
r"""
## 4. Mirrored images

Examples are expensive: someone has to draw every box. So we make more of those we have, by changes after
which the picture could still be real. This is called *augmentation*. The first and most useful one is the
horizontal flip, left becomes right. It costs nothing and doubles the data, and RetinaNet, FSAF and FCOS were
trained with little else.

The image is one line, `image.flip(-1)`: the last dimension holds the columns. But if only the image is
flipped, every box is wrong:
"""

# %%
mirrored = image.flip(-1)
alt = "The mirrored scene under the boxes of the original: no box fits its object."
with figure(alt, width=4, height=3) as ax:
    show_boxes(target["boxes"], "truth", image=mirrored, ax=ax)

# %% [markdown]
r"""
What was $x$ pixels from the left border is now $x$ pixels from the right one. An edge at $x$ goes to $W - x$,
where $W$ is the width of the image. $y$ stays.

By hand: a box from 540 to 640 at the right border of a 640 wide image goes to 0 to 100. Its left side, 540,
becomes the *right* side, 640 − 540 = 100.

You will meet $W - 1 - x$ in other code. It is right for pixel indices: of 8 columns, column 2 goes to column
5 = 8 − 1 − 2. That column covers 2 to 3 before and 5 to 6 after, and so for edges 2 ↦ 8 − 2 = 6 and 3 ↦ 8 − 3
= 5. One picture, two ways to count. Ours are edges.

### Exercise: `flip_boxes`
*About 10 minutes, easy, with one trap.*

Give the boxes of the mirrored image. `boxes` is `[N, 4]`, `width` is the width of the image; a new `[N, 4]`
comes out. The upper left corner comes first again: `x1 <= x2` in every row. Each box stays in its row,
because its label stays there too.

<details><summary>Hint</summary>

Which side of the old box is the left side of the new one?

</details>
"""

# %% exercise="flip_boxes"
def flip_boxes(boxes, width):
    """The boxes of an image's objects after the image is mirrored left to right.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        width (int or float): of the image, in pixels.

    Returns:
        Tensor[N, 4]: xyxy with x1 <= x2, in the order of `boxes`; a new tensor.
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = boxes.unbind(1)  # [N] each
    return torch.stack([width - x2, y1, width - x1, y2], 1)  # the right side becomes the left one
    ### END SOLUTION

# %% check="flip_boxes" points=2
can = torch.tensor([[400.0, 120, 540, 400]])
same(flip_boxes(can, 640), [[100, 120, 240, 400]], "the can: 100 from the right border, then from the left")
edge = torch.tensor([[540.0, 0, 640, 50]])
same(flip_boxes(edge, 640), [[0, 0, 100, 50]], "a box at the right border is then at the left one, from 0 on")
### BEGIN HIDDEN TESTS
untouched(flip_boxes, torch.tensor([[400.0, 120, 540, 400], [3, 2, 7.5, 4]]), 640)
generator = torch.Generator().manual_seed(5)
many = torch.rand(7, 4, generator=generator, dtype=torch.float64)
many *= torch.tensor([600, 50, 300, 90])
many[:, 2:] += many[:, :2]
oracle = [[901 - x2, y1, 901 - x1, y2] for x1, y1, x2, y2 in many.tolist()]
oracle = torch.tensor(oracle, dtype=torch.float64)
same(flip_boxes(many.float(), 901), oracle.float(), "seven random boxes on 901 pixels", atol=1e-3)
same(
    flip_boxes(many, 901),
    oracle,
    "boxes in float64 give float64, with all its digits",
    rtol=1e-10,
    atol=1e-10,
)
same(flip_boxes(torch.zeros(0, 4), 64), torch.zeros(0, 4), "no box in, no box out: shape [0, 4]")
none = torch.zeros(0, 4, dtype=torch.float64)
same(flip_boxes(none, 64), none.clone(), "no box in float64 gives no box in float64")
over = torch.tensor([[-4.0, 1, 3, 9]])
same(flip_boxes(over, 32.5), [[29.5, 1, 36.5, 9]], "a box over the left border, width 32.5")
over = torch.tensor([[30.0, 0, 40, 3], [6, 2, 6, 9]])
same(
    flip_boxes(over, 32),
    [[-8, 0, 2, 3], [26, 2, 26, 9]],
    "a box over the right border, and one without width",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
Now every box moves with its object. Look at the bar as well: it has no box, before or after.
"""

# %%
alt = "The scene and its mirror image; in both, every box fits its object."
with figure(alt, width=7.5, height=3, columns=2) as (left, right):
    show_boxes(target["boxes"], "truth", image=image, labels=names, ax=left)
    show_boxes(flip_boxes(target["boxes"], 320), "truth", image=mirrored, labels=names, ax=right)

# %% [markdown]
r"""
Seeing is good, measuring is better. Paint the can, flip the picture and the box, and count: the red pixels
inside of the new box should be all there are.
"""

# %%
can = torch.tensor([[400.0, 120, 540, 400]])
x1, y1, x2, y2 = flip_boxes(can, 640)[0].int().tolist()
print("the can's new box:", (x1, y1, x2, y2))
print("red pixels inside:", (photo.flip(-1)[0, y1:y2, x1:x2] == 200).sum().item(), "of", red)

# %% [markdown]
r"""
When we train, each image of a batch is flipped or not, as a coin decides, and its boxes with it.
`coursekit.data` does that for whole batches. When we measure, nothing is flipped.

### Question: `when_to_flip`
*About 10 minutes, in words.*

You train a detector of road signs. Among its classes are "turn left" and "turn right". A colleague switches
on horizontal flips, and the detector gets worse. What happened? What would you do about it without giving up
flips for the other signs? Name one kind of image for which a *vertical* flip is right, and one for which it
is not.
"""

# %% written="when_to_flip" points=2
r"""
A mirrored "turn left" sign looks like "turn right", but keeps its label. Half of the examples of either class
are then labelled as the other one, and the detector learns that the two cannot be told apart. Signs with
writing turn into signs that do not exist.

Either exchange the two labels whenever an image is flipped, as the boxes are changed with the image, or leave
images with such signs unflipped. (With one sign of that kind in an image, all of the image stays as it is.)

A vertical flip is right where up and down mean nothing: blood cells under a microscope, photographs from the
air. It is wrong for street scenes, where no car drives on the sky.
"""

# %% [markdown]
r"""
## 5. Boxes from a file

Somebody has to draw the boxes. The slides' example is a set of 1,000 images to train and 50 to test, all
annotated with the [VGG Image Annotator](https://www.robots.ox.ac.uk/~vgg/software/via/), VIA for short. VIA
is a single web page: open it, add images, draw shapes, type a class for each, save. It needs no account, and
images stay on your machine. Use it for data of your own.

A saved file is JSON. This is one image with one region, as VIA 2 exports it:

```json
{
  "street.png9001": {
    "filename": "street.png",
    "size": 9001,
    "regions": [
      {
        "shape_attributes": {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5},
        "region_attributes": {"class": "car"}
      }
    ],
    "file_attributes": {}
  }
}
```

The key is the file name followed by the file's size in bytes. We want the name alone. Every real file differs
a little from the next:

| | what you will meet |
| --- | --- |
| top level | an **export** is as above; a saved **project** has that object under `"_via_img_metadata"`, among settings |
| `regions` | **VIA 2**: a list. **VIA 1**: a dict, `{"0": {...}, "1": {...}}`; numbers are missing where a region was deleted |
| no object | `[]` or `{}`. The image belongs to the data: it shows what is *not* an object |
| class | the region's attribute. Whoever annotates chooses its name: `"class"`, `"name"`, `"species"`. Its value is text, also when it reads `"0"`; keep it as it is written |
| no class | no attribute at all, or an empty text: somebody forgot to click. Better to stop now than to train on it |

And a region need not be a rectangle. Its box is the smallest upright rectangle around the shape:

| `shape_attributes` | box |
| --- | --- |
| `rect`: `x, y, width, height` | `x, y` is the upper left corner |
| `circle`: `cx, cy, r` | `r` to every side of the centre |
| `polygon`: `all_points_x, all_points_y` | the smallest and largest of each |

### Exercise: `parse_via`
*About 40 minutes, medium: no mathematics, many cases.*

Take a loaded file, a Python dict, and give a dict with an entry for each image: its file name, and a pair
`(boxes, names)`. `boxes` is `[M, 4]`, float32, `xyxy`; `names` is a list of `M` strings; both in the order of
the file. An image without regions has boxes of shape `[0, 4]` and an empty list. If a region has no class
name, raise a `ValueError` whose message says in which image. For the file above the result is

```python
{"street.png": (tensor([[10., 20., 40., 25.]]), ["car"])}
```

<details><summary>Hint: where to begin</summary>

Begin with the file above and a loop over `project.values()`. Run the check. Then add one row of the tables at
a time; each check names the row it asks for.

</details>

<details><summary>Hint: the attribute whose name you do not know</summary>

`region["region_attributes"].values()` has the value without its name.

</details>

<details><summary>Hint: shape [0, 4]</summary>

`torch.tensor([])` has shape `[0]`. `reshape(-1, 4)` makes four columns of it.

</details>

<details><summary>Beyond the checks: more shapes, more attributes</summary>

The checks ask for none of this; real files may.

VIA has more shapes: `polyline` has points as a polygon has; `point` has `cx, cy` and no size; `ellipse` has
`cx, cy, rx, ry` and in newer versions of VIA 2 an angle `theta` in radians. Left and right, and up and down,
it reaches

$$\sqrt{r_x^2 \cos^2\theta + r_y^2 \sin^2\theta} \qquad \text{and} \qquad \sqrt{r_x^2 \sin^2\theta + r_y^2 \cos^2\theta}$$

A region may also have more than one attribute. No program can know then which one is the class. Take the
first.

</details>
"""

# %% exercise="parse_via"
def parse_via(project):
    """Boxes and class names of a VGG Image Annotator file.

    Args:
        project (dict): what `json.load` gives, of an export or a project file, of VIA 1 or VIA 2.

    Returns:
        dict: for each file name (boxes, names): boxes Tensor[M, 4] float32, xyxy, in pixels, and names, a
            list of M strings, both in the order of the file. Without regions boxes is [0, 4], names [].

    Raises:
        ValueError: if a region has no class name; says which image.
    """
    ### BEGIN SOLUTION
    found = {}
    for image in project.get("_via_img_metadata", project).values():
        regions = image["regions"]
        boxes, names = [], []
        for region in regions.values() if isinstance(regions, dict) else regions:
            shape, attributes = region["shape_attributes"], region["region_attributes"]
            if "all_points_x" in shape:  # polygon, polyline
                xs, ys = shape["all_points_x"], shape["all_points_y"]
                box = [min(xs), min(ys), max(xs), max(ys)]
            elif shape["name"] == "rect":
                x, y = shape["x"], shape["y"]
                box = [x, y, x + shape["width"], y + shape["height"]]
            else:  # circle, ellipse, point
                x, y, r = shape["cx"], shape["cy"], shape.get("r", 0)
                rx, ry, theta = shape.get("rx", r), shape.get("ry", r), shape.get("theta", 0)
                half_w = math.hypot(rx * math.cos(theta), ry * math.sin(theta))
                half_h = math.hypot(rx * math.sin(theta), ry * math.cos(theta))
                box = [x - half_w, y - half_h, x + half_w, y + half_h]
            name = str(next(iter(attributes.values()), "")).strip()
            if not name:
                raise ValueError(f"{image['filename']}, region {len(names)}: no class name in {attributes}")
            boxes.append(box)
            names.append(name)
        found[image["filename"]] = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), names
    return found
    ### END SOLUTION

# %% check="parse_via" points=3
car = {
    "shape_attributes": {"name": "rect", "x": 10, "y": 20, "width": 30, "height": 5},
    "region_attributes": {"class": "car"},
}
street = {"filename": "street.png", "size": 9001, "regions": [car], "file_attributes": {}}
boxes_of_street = {"street.png": (torch.tensor([[10.0, 20, 40, 25]]), ["car"])}
same(parse_via({"street.png9001": street}), boxes_of_street, "VIA 2, an export: regions is a list")
old_street = {**street, "regions": {"0": car}}
same(parse_via({"street.png9001": old_street}), boxes_of_street, "VIA 1: regions is a dict, {'0': ...}")
project = {"_via_settings": {}, "_via_img_metadata": {"street.png9001": street}, "_via_attributes": {}}
same(parse_via(project), boxes_of_street, "a saved project: the images are one level further down")
meadow = {"filename": "meadow.png", "size": 700, "regions": [], "file_attributes": {}}
empty = {"meadow.png": (torch.zeros(0, 4), [])}
same(parse_via({"meadow.png700": meadow}), empty, "an image without regions: boxes [0, 4] and no names")
### BEGIN HIDDEN TESTS
def region(name, kind, attribute="class", **numbers):
    return {"shape_attributes": {"name": kind, **numbers}, "region_attributes": {attribute: name}}


def rectangles(numbers):
    return [
        region(str(i % 3), "rect", "Art", x=i, y=2 * i + 0.5, width=3 + i, height=40 - 3 * i)
        for i in numbers
    ]


def their_boxes(numbers):
    boxes = [[i, 2 * i + 0.5, 2 * i + 3, 40.5 - i] for i in numbers]
    return torch.tensor(boxes).reshape(-1, 4), [str(i % 3) for i in numbers]


pond = region("pond", "polygon", all_points_x=[9, 2, 5], all_points_y=[4, 8, 1])
oak = region("oak", "circle", cx=50, cy=30, r=8)
dog = region("dog", "rect", x=3, y=5, width=7, height=2)
old = {"filename": "old.png", "size": 8, "regions": {"0": pond, "3": oak, "4": dog}}
untouched(
    parse_via,
    {"_via_settings": {}, "_via_img_metadata": {"old.png8": old}},
    hint="the project belongs to the caller: leave it as it is",
)
images = {
    "b.png70": {"filename": "b.png", "size": 70, "regions": rectangles(range(4))},
    "empty.png5": {"filename": "empty.png", "size": 5, "regions": []},
    "a.jpg-1": {"filename": "a.jpg", "size": -1, "regions": rectangles(range(4, 11))},
}
expected = {
    "b.png": their_boxes(range(4)),
    "empty.png": their_boxes([]),
    "a.jpg": their_boxes(range(4, 11)),
}
same(
    parse_via(images),
    expected,
    "three images, one of them without regions; the classes are called '0', '1', '2'",
)
eleven = {str(i): row for i, row in enumerate(rectangles(range(11)))}
same(
    parse_via({"many.png1": {"filename": "many.png", "regions": eleven}}),
    {"many.png": their_boxes(range(11))},
    "VIA 1 with eleven regions, in the order of the file",
)
gap = {"0": rectangles([0])[0], "2": rectangles([2])[0]}
same(
    parse_via({"gap.png1": {"filename": "gap.png", "regions": gap}}),
    {"gap.png": their_boxes([0, 2])},
    "VIA 1 after region '1' was deleted",
)
bare = {"_via_img_metadata": {"x.png9": {"filename": "x.png", "regions": {}}}}
same(parse_via(bare), {"x.png": their_boxes([])}, "VIA 1, a project, an image without regions")
same(parse_via({}), {}, "an export without images")
words = [
    region("Soda can", "rect", x=1.25, y=2, width=7.3, height=3),
    region("stop_sign", "rect", x=700, y=500, width=60, height=90),
]
same(
    parse_via({"the.second.day.jpg3": {"filename": "the.second.day.jpg", "regions": words}}),
    {
        "the.second.day.jpg": (
            torch.tensor([[1.25, 2, 8.55, 5], [700, 500, 760, 590]]),
            ["Soda can", "stop_sign"],
        )
    },
    "names, of files and of classes, are as they are written; numbers are not rounded",
)
### END HIDDEN TESTS

# %% check="parse_via" part="shapes" points=2
tree = {"name": "circle", "cx": 50, "cy": 30, "r": 8}
water = {"name": "polygon", "all_points_x": [20, 35, 5], "all_points_y": [52, 40, 60]}
park = {
    "filename": "park.png",
    "regions": [
        {"region_attributes": {"species": "oak"}, "shape_attributes": tree},
        {"region_attributes": {"species": "pond"}, "shape_attributes": water},
    ],
}
boxes_of_park = {"park.png": ([[42, 22, 58, 38], [5, 40, 35, 60]], ["oak", "pond"])}
same(parse_via({"park.png1": park}), boxes_of_park, "a circle and a triangle: the smallest box around each")
### BEGIN HIDDEN TESTS
shapes = [
    {"name": "rect", "x": 1.5, "y": 2, "width": 7, "height": 3},
    {
        "name": "polygon",
        "all_points_x": [5, 3, 9, 7, 4, 5],
        "all_points_y": [14, 12, 20, 30, 11, 14],
    },
    {"name": "circle", "cx": 4, "cy": 90.5, "r": 6.5},
    {"name": "rect", "x": 60, "y": 70, "width": 2, "height": 9},
    {"name": "polygon", "all_points_x": [1.5, 8.25, 6], "all_points_y": [40.75, 3, 20.5]},
]
names = ["cat", "dog", "cat", "bird", "ant"]
zoo = [
    {"shape_attributes": shape, "region_attributes": {"tier": name}}
    for shape, name in zip(shapes, names)
]
boxes = torch.tensor(
    [
        [1.5, 2, 8.5, 5],
        [3, 11, 9, 30],
        [-2.5, 84, 10.5, 97],
        [60, 70, 62, 79],
        [1.5, 3, 8.25, 40.75],
    ]
)
images = {"zoo.jpg3": {"filename": "zoo.jpg", "regions": zoo}}
same(parse_via(images), {"zoo.jpg": (boxes, names)}, "five regions of three shapes")
### END HIDDEN TESTS

# %% check="parse_via" part="errors" points=1
nameless = {"shape_attributes": {"name": "circle", "cx": 5, "cy": 5, "r": 2}, "region_attributes": {}}
lake = {"filename": "lake.png", "regions": [nameless]}
which = "a region without attributes: say in which image"
raises(ValueError, "lake.png", parse_via, {"lake.png1": lake}, hint=which)
### BEGIN HIDDEN TESTS
unset = {**nameless, "region_attributes": {"class": ""}}
ship = {**nameless, "region_attributes": {"class": "ship"}}
harbour = {"filename": "harbour.png", "regions": {"0": ship, "1": unset}}
both = {"lake.png1": {**lake, "regions": []}, "harbour.png2": harbour}
raises(ValueError, "harbour.png", parse_via, both, hint="the second of two regions has an empty class")
harbour = {"filename": "harbour.png", "regions": {"0": ship, "1": nameless}}
both = {"lake.png1": {**lake, "regions": []}, "harbour.png2": harbour}
raises(ValueError, "harbour.png", parse_via, both, hint="the second region of the second image lacks one")
### END HIDDEN TESTS

# %% [markdown]
r"""
Now on a real file. `via.write` saves scenes as PNG images with a VIA project beside them; VIA itself opens
it. We read it back with your function, and compare with what the scenes know of themselves.
"""

# %%
with tempfile.TemporaryDirectory() as folder:
    project = json.loads(via.write(data, folder).read_text(encoding="utf-8"))
parsed = parse_via(project)
print("images:", len(parsed), "and boxes:", sum(len(boxes) for boxes, _ in parsed.values()))
equal = [torch.equal(boxes, each["boxes"]) for (boxes, _), each in zip(parsed.values(), data.targets)]
print("the boxes of the scenes, to the last bit:", all(equal))
boxes, words = list(parsed.values())[6]
alt = "Another scene, a cross that partly hides a disk, with boxes and names read from the project file."
with figure(alt, width=4, height=3) as ax:
    show_boxes(boxes, "truth", image=data.images[6], labels=words, ax=ax)

# %% [markdown]
r"""
The classes are text now, and a network wants numbers. Sort the names that occur, and count from 1, because 0
is background.
"""

# %%
classes = sorted({word for _, words in parsed.values() for word in words})
labels = torch.tensor([classes.index(word) + 1 for word in words])
print(classes)
print(words, "->", labels.tolist())

# %% [markdown]
r"""
## 6. Images of your own

You need no other program to annotate. The cell below shows two scenes in an annotator, with the boxes that they have.
Draw a box by dragging over the image, choose its class above. Drag a box to move it, or take a corner; with the keys:
Tab chooses a box, the arrow keys move it, with Shift they move its lower right corner. `save` writes both kinds of
file beside the images. For photographs of yours, make a folder `my_images`, put them in, and write
`Annotator("my_images", ("cup", "plate"))` with your own classes.
"""

# %%
from coursekit.data import coco
from coursekit.widgets import Annotator

folder = tempfile.TemporaryDirectory()  # is gone when the notebook ends; a folder of yours stays
via.write(data.subset([6, 0]), folder.name)
tool = Annotator(folder.name, data.classes)
tool

# %% [markdown]
r"""
Change something, and read it back: the VIA project by your function, the COCO file by the course's. COCO has
`x, y, w, h`, as the table of box orders says, and both hold the same boxes.
"""

# %%
project_file, coco_file = tool.save()
print("written:", project_file.name, "and", coco_file.name)
mine = parse_via(json.loads(project_file.read_text(encoding="utf-8")))
for record in coco.read(coco_file):
    boxes, words = mine[record.image.name]
    print(record.image.name, words, "the same in both:", words == record.names and torch.allclose(boxes, record.boxes))

# %% [markdown]
r"""
## Faster: one coordinate at a time

*Not graded.* Your `box_iou` is for the eye. For a thousand boxes against ten thousand it makes tables of twenty million
numbers, one after the other, and waits for the memory. The form below never pairs x with y: each coordinate is a
row of its own. And it fills the answer 32 rows at a time, so that what lies between fits into the processor's cache.
The arithmetic is the same, number for number, and so are the answers.
"""

# %%
def fast_box_iou(boxes1, boxes2, rows=32):
    """As `box_iou`, one coordinate and some rows of the answer at a time."""
    left, top, right, bottom = boxes2.T.contiguous()  # [M] each
    iou = boxes1.new_empty(len(boxes1), len(boxes2))
    for part, answer in zip(boxes1.split(rows), iou.split(rows)):
        x1, y1, x2, y2 = part[:, :, None].unbind(1)  # [rows, 1] each
        width = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)  # [rows, M]
        height = torch.minimum(y2, bottom).sub_(torch.maximum(y1, top)).clamp_(min=0)
        shared = width.mul_(height)
        union = (box_area(part)[:, None] + box_area(boxes2)).sub_(shared)
        torch.div(shared, union.clamp_(min=torch.finfo(union.dtype).tiny), out=answer)  # 0 / tiny is 0, too
    return iou


dice = torch.Generator().manual_seed(0)
corners = 1000 * torch.rand(600, 2, generator=dice)
crowd = torch.cat([corners, corners + 100 * torch.rand(600, 2, generator=dice)], 1)
print("the same as yours:", torch.allclose(fast_box_iou(crowd[:100], crowd), box_iou(crowd[:100], crowd)))

# %% [markdown]
r"""
It takes about half of the time of torchvision's, or less; `make bench` measures it.

## What we have built

- `xyxy_to_cxcywh`, `cxcywh_to_xyxy`: lesson 3 predicts centres and sizes with them;
- `box_area`, `box_iou`: used in nearly every lesson from here on;
- `flip_boxes`: augmentation for every training run;
- `parse_via`: the way in for images of your own.

Later lessons say `box_iou = earlier("box_iou")` and get *your* function, if it passes its check.

**The conventions, once more.** `xyxy` in pixels, edges, origin at the upper left, y down, no `+ 1`. Labels
from 1, background 0. Width before height in words, rows before columns in tensors. Nothing in, nothing out:
no boxes give an empty tensor of the right shape. No function changes its arguments, and none changes the
dtype.

**What others call it**

| here | torchvision | detectron2 | mmdetection |
| --- | --- | --- | --- |
| `xyxy_to_cxcywh` | `ops.box_convert(…, "xyxy", "cxcywh")` | `BoxMode.convert` | `bbox_xyxy_to_cxcywh` |
| `box_area` | `ops.box_area` | `Boxes.area` | `HorizontalBoxes.areas` |
| `box_iou` | `ops.box_iou` | `pairwise_iou` | `bbox_overlaps` |
| `flip_boxes` | `transforms.v2.RandomHorizontalFlip` | `HFlipTransform.apply_box` | `bbox_flip` |

None of them reads VIA files. `coursekit.data.via.read` is our longer `parse_via`: it reads CSV too, lets you
say which attribute is the class, and checks that the images are there. `voc.read` and `coco.read` do it for
the other two common formats.

**Further reading**

- P. Jaccard, *The distribution of the flora in the alpine zone*, New Phytologist 11 (1912): the index, for
  plants on meadows.
- M. Everingham et al., *The Pascal Visual Object Classes (VOC) Challenge*, IJCV 88 (2010), section 4.2: IoU
  over 0.5 makes a detection right, and why 0.5.
- H. Rezatofighi et al., *Generalized Intersection over Union*, CVPR 2019, section 3: what IoU cannot say
  about boxes that are apart.
- A. Dutta and A. Zisserman, *The VIA Annotation Software for Images, Audio and Video*, ACM Multimedia 2019.

**Next:** an image has infinitely many boxes. Lesson 2 lays a few thousand fixed ones over it, the *anchors*,
and asks of each only: is there something here?
"""
