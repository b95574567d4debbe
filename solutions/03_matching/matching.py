# %% [markdown]
r"""
# 3 · Matching

A person annotated three objects. With the functions of lesson 2 we lay 1,360 anchors over the image, four in each
cell of four grids. A network gives an answer at *every* one of them, so in training every one needs the right answer: "nothing here", or "a star, and its box
lies a little to the left of me". Nobody annotates 1,360 anchors. In this lesson we compute their answers from
the few boxes.

We write five functions:

| | gives | minutes |
| --- | --- | --- |
| `match_anchors` | which object each anchor answers for | about 30 |
| `corner_offsets` | how far the object's sides lie from the anchor's, in pixels | about 5 |
| `encode_boxes` | the same, in numbers that suit a network | about 15 |
| `decode_boxes` | the way back, from the network's numbers to a box | about 15 |
| `anchor_targets` | all of it: class and offsets for every anchor of an image | about 15 |

With two written questions and the reading this takes about two hours. It needs lessons 1 and 2.

**Conventions.** A box is `xyxy` = `(x1, y1, x2, y2)`, in pixels of the image the network sees, x to the
right, y down. `M` is the number of objects in an image, `A` the number of anchors. Labels: `0` is background,
objects are `1..K`. In a tie the smaller index wins. An image without objects is an ordinary image.
"""

# %% setup=true tags=["nbval-ignore-output"]
import dataclasses
import math

import torch

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes
from coursekit.data.scenes import DIFFICULTIES
from coursekit.earlier import earlier

box_iou = earlier("box_iou")
xyxy_to_cxcywh = earlier("xyxy_to_cxcywh")
cxcywh_to_xyxy = earlier("cxcywh_to_xyxy")
ssd_anchors = earlier("ssd_anchors")

# %% [markdown]
r"""
This is what we are going to compute. Green is what a person drew. Every other box is an anchor that gets this
object to answer for: orange ones because they are the object's best anchor, blue ones because they cover it
well enough. The more than 1,300 anchors that are not drawn get "background". For this first look torchvision does the
matching; later yours will.
"""

# %%
from torchvision.models.detection._utils import SSDMatcher

clear = dataclasses.replace(DIFFICULTIES["medium"], noise=0.0)  # pictures without noise are small files
data = scenes("train", 600, difficulty=clear, device="cpu")
GRIDS = [(16, 16), (8, 8), (4, 4), (2, 2)]  # columns and rows: four levels, from fine to coarse
SCALES = [(s, s) for s in (0.15, 0.3, 0.45, 0.6)]
anchors = ssd_anchors(GRIDS, SCALES, [1, 2, 1 / 2], (128, 128))
LEVELS = [4 * columns * rows for columns, rows in GRIDS]  # 4 anchors in every cell


def show_matches(image, boxes, matches, best, ax):
    """Draw the objects, the anchors that match one, and in another colour those that are an object's best."""
    second = matches >= 0
    second[best] = False
    plot.show_boxes(anchors[second], "positive", image=image, ax=ax)
    plot.show_boxes(anchors[best], "forced", ax=ax)
    plot.show_boxes(boxes, "truth", ax=ax)


SHOWN = [10, 346, 489]
alt = (
    "Three scenes with two or three shapes each. Around every annotated shape lies one orange anchor; "
    "around the larger shapes lie several blue ones too, all close to the shape in place and size."
)
with plot.figure(alt, width=8, height=2.9, columns=3) as axes:
    for ax, index in zip(axes, SHOWN):
        boxes = data.targets[index]["boxes"]
        iou = box_iou(boxes, anchors)
        show_matches(data.images[index], boxes, SSDMatcher(0.5)(iou), iou.argmax(dim=1), ax)

# %% [markdown]
r"""
## Which anchor answers for which object?

We compare boxes by their IoU, the intersection over the union of lesson 1, also called Jaccard index:

$$\text{IoU}(B, A) = \frac{\text{area}(A \cap B)}{\text{area}(A \cup B)}$$

With $M$ objects and $A$ anchors this is a table of $M$ rows and $A$ columns. The picture shows a small one
that you can work out on paper. Anchor 2 and object 0 share 40 × 35 = 1,400 pixels; together they cover 1,800;
the IoU is 0.78.
"""

# %%
paper_boxes = torch.tensor([[20.0, 20, 60, 60], [90, 40, 110, 70]])
paper_anchors = torch.tensor(
    [[10.0, 10, 30, 30], [20, 30, 60, 70], [20, 15, 60, 55], [80, 30, 120, 70], [95, 10, 115, 50]]
)
table = box_iou(paper_boxes, paper_anchors)
alt = (
    "Left: objects 0 and 1 with five anchors around them. Right: their IoU. "
    "Row 0 is 0.05, 0.60, 0.78, 0, 0; row 1 is 0, 0, 0, 0.38, 0.12."
)
with plot.figure(alt, width=9, height=3, columns=2) as (left, right):
    left.set(xlim=(0, 130), ylim=(78, 0), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")
    plot.show_boxes(paper_anchors, "anchor", labels=[f"anchor {i}" for i in range(5)], ax=left)
    plot.show_boxes(paper_boxes, "truth", labels=["object 0", "object 1"], ax=left)
    right.imshow(table, cmap="Blues", vmin=0, vmax=1.2)
    right.set(xticks=range(5), yticks=range(2), xlabel="anchor", ylabel="object")
    for row in range(2):
        for column in range(5):
            right.text(column, row, f"{table[row, column]:.2f}", ha="center", va="center")

# %% [markdown]
r"""
**First chance.** For each object $B_i$ we look along its row for the largest IoU:

$$A_{j(gt)} = \underset{j}{\max}\; \text{IoU}(B_i, A_j)$$

(The slides write the maximum; what we want is the $j$ at which it is reached, an arg max.) That anchor is
*forced*: it answers for the object, however small the IoU is. Here object 0 gets anchor 2, and
object 1 gets anchor 3, with an IoU of only 0.38. So every object has an anchor: for $M$ objects $M$
**positive** anchors.

**Second chance.** The other anchors are looked at once more. One whose IoU with some object is *more* than a
threshold, 0.5, answers for that object too. Anchor 1 has 0.60 with object 0 and becomes positive. One object
may have many anchors.

**Everything else is negative**: background. Anchors 0 and 4 are.

So the answer for this table is `[-1, 0, 0, 1, -1]`: for each anchor the number of its object, `-1` where it
has none.

### When objects compete

Three rules settle what the slides leave open.

* **A forced anchor keeps its object.** It may overlap another object even more; still it is the only anchor
  that its object is sure to have.
* **Two objects with the same best anchor.** Objects are served in the order of their rows. When an anchor is
  taken already, the object gets the best one among those still *free* (not forced).
* **An object that no anchor touches** (IoU 0 with all) forces none: nothing an anchor could learn there. For
  the same reason we never force an anchor with IoU 0, even if all the others are taken.

| | anchor 0 | anchor 1 | anchor 2 |
| --- | --- | --- | --- |
| object 0 | **0.75** | 0.25 | 0 |
| object 1 | 0.875 | 0 | **0.375** |

Both objects like anchor 0 best. Object 0 comes first and has it. Object 1 takes anchor 2. The answer is
`[0, -1, 1]`.

### Exercise: `match_anchors`

*About 30 minutes, of medium difficulty.*

Write `match_anchors(iou, threshold=0.5)`. `iou` is a `Tensor[M, A]`; give an int64 `Tensor[A]`.

* Serve the objects in order: force each one's best free anchor, if their IoU is above 0.
* Give every other anchor the object it overlaps most, if that IoU is above `threshold` (equal is not enough).
* In a tie take the smaller index, of anchors and of objects.
* `M = 0`: every anchor is background. `A = 0`: an empty answer.

<details><summary>Hint</summary>
It is easier to begin with the second chance: one <code>iou.max(dim=...)</code> over all anchors, no loop.
Then walk over the objects and overwrite. Remember in a bool tensor which anchors are still free.
<code>max</code> and <code>argmax</code> give the first of equal values. What does <code>max</code> do when
there is no row at all?
</details>
"""


# %% exercise="match_anchors"
def match_anchors(iou, threshold=0.5):
    """Which object each anchor answers for.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2; where objects compete, this course's rules.

    Args:
        iou (Tensor[M, A]): of every object with every anchor, in 0..1.
        threshold (float): an anchor that is no object's best one needs more IoU than this.

    Returns:
        Tensor[A]: int64; the index of the anchor's object, or -1 where it has none.
    """
    ### BEGIN SOLUTION
    objects, anchors = iou.shape
    matches = torch.full((anchors,), -1, dtype=torch.int64, device=iou.device)
    if objects == 0 or anchors == 0:
        return matches
    best_iou, best_object = iou.max(dim=0)  # [A], [A]
    matches = torch.where(best_iou > threshold, best_object, matches)
    free = torch.ones(anchors, dtype=torch.bool, device=iou.device)
    for index in range(objects):
        overlap = torch.where(free, iou[index], 0)  # [A]
        best = overlap.argmax()
        if overlap[best] > 0:
            matches[best] = index
            free[best] = False
    return matches
    ### END SOLUTION


# %% check="match_anchors" points=2
iou = torch.tensor([[0.05, 0.60, 0.78, 0.00, 0.00], [0.00, 0.00, 0.00, 0.38, 0.12]])
same(
    match_anchors(iou),
    [-1, 0, 0, 1, -1],
    "the table above: 2 and 3 are forced, 1 has a second chance",
)
untouched(match_anchors, torch.tensor([[0.5, 0.75, 0.125], [0.25, 0.625, 0.75]]))
same(
    match_anchors(torch.tensor([[0.25, 0.0]])),
    torch.tensor([0, -1]),
    "indices are whole numbers, int64",
)
at_threshold = torch.tensor([[0.5, 0.75, 0.625]])
same(
    match_anchors(at_threshold),
    [-1, 0, 0],
    "an IoU of exactly 0.5 is not more than 0.5",
)
lower = torch.tensor([[0.125, 0.375, 0.25, 0.3125]])
same(
    match_anchors(lower, 0.25),
    [-1, 0, -1, 0],
    "the threshold is an argument, here 0.25",
)
between = torch.tensor([[0.875, 0.5625, 0.0], [0.0, 0.75, 0.8125]])
same(
    match_anchors(between),
    [0, 1, 1],
    "anchor 1 is above the threshold with both objects: it takes the one it overlaps more",
)
alone = torch.tensor([[0.0, 0.0, 0.0], [0.25, 0.0, 0.125]])
same(
    match_anchors(alone), [1, -1, -1], "object 0 overlaps no anchor, so it forces none"
)
same(
    match_anchors(torch.zeros(0, 3)),
    [-1, -1, -1],
    "an image without objects: every anchor is background",
)
### BEGIN HIDDEN TESTS
same(match_anchors(torch.tensor([[0.7]])), [0], "one object, one anchor: shape [1]")
barely = torch.tensor([[0, 0.0005]])
same(match_anchors(barely), [-1, 0], "any IoU above 0 is enough for the first chance")
same(
    match_anchors(torch.zeros(4, 0)),
    torch.zeros(0, dtype=torch.int64),
    "no anchors: an empty answer",
)
same(
    match_anchors(torch.zeros(0, 0)),
    torch.zeros(0, dtype=torch.int64),
    "no anchors and no objects",
)
same(
    match_anchors(torch.zeros(2, 3)),
    [-1, -1, -1],
    "no object overlaps any anchor: none is forced",
)
twins = torch.tensor([[0.25, 0.75, 0.75, 0.0]])
same(match_anchors(twins, 0.75), [-1, 0, -1, -1], "of two equal best anchors the first")
nearly = torch.tensor([[0.4, 0.4000001, 0.1]])
same(
    match_anchors(nearly),
    [-1, 0, -1],
    "anchor 1 is better than anchor 0 by very little; that is no tie",
)
nearer = torch.tensor([[0.4, 0.4 + 1e-10]], dtype=torch.float64)
same(
    match_anchors(nearer), [-1, 0], "in float64 a difference of 1e-10 is no tie either"
)
perfect = torch.tensor([[1.0, 1.0, 0.5]])
same(match_anchors(perfect, 1.0), [0, -1, -1], "a threshold of 1: no IoU is above it")
high = torch.tensor([[0.5625, 0.625, 0.875, 0.9375, 0.75]])
same(match_anchors(high, 0.75), [-1, -1, 0, 0, -1], "a threshold of 0.75")
generator = torch.Generator().manual_seed(3)
near = torch.rand(6, 1, 9, generator=generator).clamp(min=0.01)  # [6, 1, 9]
apart = torch.block_diag(*near)
rows = torch.arange(54) // 9
expected = torch.where(
    (apart.amax(0) > 0.5) | (apart.amax(0) == apart.amax(1)[rows]), rows, -1
)
own = 0.25 * torch.eye(12)
same(match_anchors(own), list(range(12)), "12 objects, each with an anchor of its own")
same(
    match_anchors(apart), expected, "6 objects far from each other, 54 anchors, float32"
)
same(
    match_anchors(apart.double()),
    expected,
    "6 objects far from each other, 54 anchors, float64",
)
same(
    match_anchors(apart.T.contiguous().T),
    expected,
    "the same table, laid out in memory column by column",
)
### END HIDDEN TESTS

# %% check="match_anchors" part="contested" points=2
same(
    match_anchors(torch.tensor([[0.55, 0.0, 0.1, 0.0], [0.75, 0.875, 0.0, 0.0]])),
    [0, 1, -1, -1],
    "anchor 0 is object 0's best, so it keeps object 0, though it overlaps object 1 more",
)
same(
    match_anchors(torch.tensor([[0.75, 0.25, 0.0], [0.875, 0.0, 0.375]])),
    [0, -1, 1],
    "both objects like anchor 0 best: the first has it, the second takes its next best",
)
### BEGIN HIDDEN TESTS


def plain_matching(iou, threshold):
    """The rules, one number at a time."""
    rows, width = iou.tolist(), iou.shape[1]
    forced, answer = {}, []
    for number, row in enumerate(rows):
        left = [(-row[i], i) for i in range(width) if row[i] > 0 and i not in forced]
        if left:
            forced[min(left)[1]] = number
    for i in range(width):
        column = [row[i] for row in rows]
        own = column.index(max(column)) if column and max(column) > threshold else -1
        answer.append(forced.get(i, own))
    return torch.tensor(answer, dtype=torch.int64)


three = torch.tensor(
    [
        [0.25, 0.125, 0.375, 0.0625],
        [0.25, 0.3125, 0.4375, 0.125],
        [0.125, 0.375, 0.5, 0.25],
    ]
)
same(
    match_anchors(three),
    [-1, 1, 0, 2],
    "three objects like anchor 2 best: each takes the best free one, in order",
)
chain = torch.tensor(
    [[0.375, 0.0, 0.0, 0.0], [0.5, 0.25, 0.0, 0.125], [0.0, 0.4375, 0.0, 0.0625]]
)
same(
    match_anchors(chain),
    [0, 1, -1, 2],
    "object 1 takes its next best before object 2 comes, whose best it is",
)
crowd = torch.tensor([[0.5, 0.25], [0.75, 0.125], [0.875, 0.375]])
same(
    match_anchors(crowd),
    [0, 1],
    "three objects, two anchors: the third finds none free, and takes none away",
)
used_up = torch.tensor([[0.75, 0.0], [0.625, 0.0]])
same(
    match_anchors(used_up),
    [0, -1],
    "object 1 does not touch the only free anchor, so it forces none",
)
same(
    match_anchors(used_up.flip(1)),
    [-1, 0],
    "the same, and the anchor that is not touched comes first",
)
two_alike = torch.tensor([[0.75, 0.875, 0.0, 0.125], [0.75, 0.0, 0.875, 0.125]])
same(
    match_anchors(two_alike),
    [0, 0, 1, -1],
    "anchor 0 overlaps both objects alike: it answers for the first",
)
equal_next = torch.tensor([[0.125, 0.625, 0.0, 0.0], [0.0625, 0.5, 0.25, 0.25]])
same(
    match_anchors(equal_next),
    [-1, 0, 1, -1],
    "object 1 finds its best one taken, and two equal next ones",
)
above = torch.tensor([[0.875, 0.0, 0.75], [0.9375, 0.8125, 0.0]])
same(
    match_anchors(above),
    [0, 1, 0],
    "all above the threshold, and still in the order of the objects",
)
gap = torch.tensor([[0.25, 0.0, 0.125], [0.0, 0.0, 0.0], [0.375, 0.0625, 0.0]])
same(
    match_anchors(gap),
    [0, 2, -1],
    "object 1 overlaps nothing; objects 0 and 2 are served around it",
)
generator = torch.Generator().manual_seed(5)
few = torch.rand(5, 13, generator=generator).clamp(min=0.01)
expected = plain_matching(few, 0.5)
same(
    match_anchors(few),
    expected,
    "5 objects, 13 anchors, all of them overlapping, float32",
)
more = torch.rand(9, 7, generator=generator).clamp(min=0.01).double()
expected = plain_matching(more, 0.5)
same(match_anchors(more), expected, "9 objects, 7 anchors, float64")
many = torch.rand(6, 300, generator=generator).clamp(min=0.01) ** 4
expected = plain_matching(many, 0.375)
same(match_anchors(many, 0.375), expected, "6 objects, 300 anchors, threshold 0.375")
weak = torch.rand(8, 40, generator=generator).clamp(min=0.01) * 0.4
expected = plain_matching(weak, 0.5)
same(match_anchors(weak), expected, "8 objects that no anchor covers well: 8 positives")
coarse = (torch.rand(7, 30, generator=generator) * 4).floor() / 4 + 0.125
expected = plain_matching(coarse, 0.5)
same(match_anchors(coarse), expected, "7 objects, 30 anchors, and ties everywhere")
### END HIDDEN TESTS

# %% [markdown]
r"""
Your matching on the three scenes of the beginning. Orange anchors were forced, blue ones had a second chance.
Look at the smallest objects: they have one orange anchor and hardly a blue one.
"""

# %%
alt = (
    "The same three scenes. Each shape has one orange, forced anchor; "
    "the larger shapes have several blue ones as well, the smallest have hardly any."
)
with plot.figure(alt, width=8, height=2.9, columns=3) as axes:
    for ax, index in zip(axes, SHOWN):
        boxes = data.targets[index]["boxes"]
        iou = box_iou(boxes, anchors)
        forced = match_anchors(iou, threshold=1.0) >= 0  # no IoU is above 1: only the first chance is left
        show_matches(data.images[index], boxes, match_anchors(iou), forced.nonzero()[:, 0], ax)

# %% [markdown]
r"""
Move the threshold, and drag the objects. At which threshold does the second chance give no anchor any more? Make an
object so small that no anchor overlaps it by more than 0.3: who answers for it?
"""

# %%
from coursekit.widgets import explore_matching

explore_matching(match_anchors, box_iou, anchors, data.targets[SHOWN[0]]["boxes"], image=data.images[SHOWN[0]])

# %% [markdown]
r"""
How much does the first chance matter? We ask for each object of 600 scenes whether any anchor overlaps it by
more than 0.5, and sort the objects by size. Look at the leftmost bar.
"""

# %%
boxes = torch.cat([target["boxes"] for target in data.targets])
size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
left_out = box_iou(boxes, anchors).amax(dim=1) <= 0.5
edges = [0, 16, 24, 36, 54, 128]
groups = [(size >= low) & (size < high) for low, high in zip(edges, edges[1:])]
shares = [100 * left_out[group].float().mean().item() for group in groups]
alt = "Of the objects below 16 pixels more than half have no anchor above 0.5; of the larger ones hardly any."
with plot.figure(alt, width=6, height=3) as ax:
    ax.bar(range(5), shares, color=plot.ROLES["forced"].color)
    ax.set(xticks=range(5), xticklabels=["below 16", "16 to 24", "24 to 36", "36 to 54", "above 54"])
    ax.set(xlabel="size of the object: square root of its area (pixels)", ylabel="without second chance (%)")
print(f"more than half of the smallest objects have no anchor above 0.5: {shares[0] > 50}")

# %% [markdown]
r"""
The first chance is given **once, over the anchors of all levels together**. A common mistake is to call the
matching for each level and put the results side by side: then each object forces one anchor on every level,
also on those whose anchors are far too large for it. Compare the numbers of positives for one small object:
"""

# %%
small = torch.tensor([[50.0, 60, 63, 71]])
together = match_anchors(box_iou(small, anchors))
apart = torch.cat([match_anchors(box_iou(small, level)) for level in anchors.split(LEVELS)])
print(f"one object of 13 x 11 pixels, {len(LEVELS)} levels of anchors")
print(f"matched over all levels: {int((together >= 0).sum())} positive")
print(f"matched level by level:  {int((apart >= 0).sum())} positive, at IoU", end=" ")
print(*(f"{iou:.2f}" for iou in box_iou(small, anchors)[0][apart >= 0].tolist()))

# %% [markdown]
r"""
### Question 1

In two to four sentences: which objects would a detector hardly ever learn if there were only the second
chance, and why these? What is the price of forcing an anchor whose IoU with its object is, say, 0.2?
"""

# %% written="why_first_chance" points=2
r"""
Small objects, and objects of an unusual shape: a shift of a few pixels halves the IoU of a small box, so
there may be no anchor above 0.5, and then the object is background everywhere. The detector is even taught
not to see it. The first chance guarantees one positive anchor for each. The price is a poor example: the
anchor covers mostly background, sees little of the object, and has to predict a large offset, which makes the
training targets noisier.
"""

# %% [markdown]
r"""
## How far is the object from the anchor?

A positive anchor predicts two things: a **class**, $y_{cls}$ (a one-hot vector of $K + 1$ entries in the
slides; we keep the index of its 1), and an **offset**, $y_{off}$: where the object's box lies *as seen from
the anchor*. Why not the box itself?

The slides' example is an image of 640 × 480 pixels, cut into larger and smaller anchors. Below is one soda
can. The offset is measured from the anchor's upper left corner to the can's, and from the lower right corner
to the can's. The finer the grid, the smaller the numbers.
"""

# %%
can = torch.tensor([[225.0, 60, 300, 210]])
cells = {
    "whole image": [0.0, 0, 640, 480],
    "2 x 1 grid": [0.0, 0, 320, 480],
    "3 x 2 grid": [640 / 3, 0, 1280 / 3, 240],
}
alt = (
    "A can and three anchors around it, each smaller than the last; the largest offset falls from 340 to 127."
)
with plot.figure(alt, width=9, height=2.9, columns=3) as axes:
    for ax, (name, cell) in zip(axes, cells.items()):
        ax.set(xlim=(-20, 660), ylim=(500, -20), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")
        plot.show_boxes(torch.tensor([cell]), "anchor", ax=ax)
        plot.show_boxes(can, "truth", ax=ax)
        (x1, y1, x2, y2) = (can[0] - torch.tensor(cell)).tolist()
        ax.set_title(f"{name}\nfirst corner ({x1:.0f}, {y1:.0f}), last ({x2:.0f}, {y2:.0f})", fontsize=9)

# %% [markdown]
r"""
The slides write the ground truth of an anchor as

$$y_{gt} = (x_{bmin} - x_{amin},\; x_{bmax} - x_{amax},\; y_{bmin} - y_{amin},\; y_{bmax} - y_{amax})$$

with $b$ for the box and $a$ for the anchor. **Mind the order**: both x, then both y. Our boxes are
`(x1, y1, x2, y2)`.

On paper: the anchor `(40, 20, 80, 60)` and the box `(44, 14, 92, 61)` give `(4, 12, -6, 1)`. The box begins 4
pixels further right, ends 12 pixels further right, begins 6 pixels higher and ends 1 pixel lower.

### Exercise: `corner_offsets`

*About 5 minutes, easy.*

Write `corner_offsets(boxes, anchors)`. Row `i` of `boxes` is the box that anchor `i` answers for; both are
`Tensor[A, 4]` in `xyxy`. Give a `Tensor[A, 4]` in pixels, in the slides' order.

<details><summary>Hint</summary>
Subtract first, then reorder the columns. A list of column numbers is an index.
</details>
"""


# %% exercise="corner_offsets"
def corner_offsets(boxes, anchors):
    """How far each box's sides lie from its anchor's, in the slides' order.

    Args:
        boxes (Tensor[A, 4]): xyxy, in pixels; row i is the box of anchor i.
        anchors (Tensor[A, 4]): likewise.

    Returns:
        Tensor[A, 4]: the differences of x1, x2, y1, y2, in this order, in pixels.
    """
    ### BEGIN SOLUTION
    return (boxes - anchors)[:, [0, 2, 1, 3]]
    ### END SOLUTION


# %% check="corner_offsets" points=1
anchor, box = torch.tensor([[40.0, 20, 80, 60]]), torch.tensor([[44.0, 14, 92, 61]])
same(corner_offsets(box, anchor), [[4, 12, -6, 1]], "both x first, then both y")
same(corner_offsets(anchor, anchor), [[0, 0, 0, 0]], "a box that is its anchor")
two = torch.tensor([[225.0, 60, 300, 210], [1, 2, 30, 40]])
cells = torch.tensor([[0.0, 0, 320, 480], [1, 1, 31, 41]])
same(
    corner_offsets(two, cells),
    [[225, -20, 60, -270], [0, -1, 1, -1]],
    "row i of both belongs together",
)
untouched(
    corner_offsets,
    torch.tensor([[44.0, 14, 92, 61]]),
    torch.tensor([[40.0, 20, 80, 60]]),
)
### BEGIN HIDDEN TESTS
beyond = torch.tensor([[-12.0, -8, 26, 34]])
before = torch.tensor([[-10.0, -10, 30, 30]])
same(
    corner_offsets(beyond, before),
    [[-2, -4, 2, 4]],
    "both begin left of and above the image",
)
generator = torch.Generator().manual_seed(7)
boxes = torch.rand(40, 4, generator=generator) * torch.tensor([60.0, 40, 90, 70])
boxes[:, 2:] += boxes[:, :2] + 1
others = torch.rand(40, 4, generator=generator) * torch.tensor([70.0, 30, 50, 90])
others[:, 2:] += others[:, :2] + 1
expected = torch.stack([boxes[:, i] - others[:, i] for i in (0, 2, 1, 3)], dim=1)
same(corner_offsets(boxes, others), expected, "40 random boxes and anchors, float32")
exact = torch.stack(
    [boxes.double()[:, i] - others.double()[:, i] for i in (0, 2, 1, 3)], dim=1
)
same(
    corner_offsets(boxes.double(), others.double()),
    exact,
    "40 random boxes and anchors, float64",
)
same(
    corner_offsets(torch.zeros(0, 4), torch.zeros(0, 4)),
    torch.zeros(0, 4),
    "no anchors: shape [0, 4]",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
Now with the anchors that matched in 600 scenes. Left, the coordinates a network would have to predict without
anchors: anywhere in the image. Right, the offsets: near zero. This is the key idea of the single-shot
detector: coordinates have a high variance, offsets a low one, and small numbers around zero are what a
network learns well.
"""

# %%
matched_boxes, matched_anchors, level_of = [], [], []
levels = torch.repeat_interleave(torch.arange(4), torch.tensor(LEVELS))
for target in data.targets:
    matches = match_anchors(box_iou(target["boxes"], anchors))
    positive = matches >= 0
    matched_boxes.append(target["boxes"][matches[positive]])
    matched_anchors.append(anchors[positive])
    level_of.append(levels[positive])
matched_boxes, matched_anchors, level_of = map(torch.cat, (matched_boxes, matched_anchors, level_of))
raw = corner_offsets(matched_boxes, matched_anchors)

alt = "Box coordinates spread evenly over the 128 pixels of the image; offsets crowd within 20 pixels of 0."
with plot.figure(alt, width=8, height=3, columns=2, sharey=True) as (left, right):
    bins = torch.linspace(-64, 128, 97).tolist()
    left.hist(matched_boxes.flatten().tolist(), bins, color=plot.ROLES["truth"].color)
    left.set(xlabel="box coordinate (pixels)", ylabel="how many", title="x1, y1, x2, y2")
    right.hist(raw.flatten().tolist(), bins, color=plot.ROLES["positive"].color)
    right.set(xlabel="corner offset (pixels)", title="measured from the anchor")
spread, offset_spread = matched_boxes[:, [0, 2, 1, 3]].std(dim=0), raw.std(dim=0)
print(f"offsets spread less than a third as far as coordinates: {bool((offset_spread < spread / 3).all())}")

# %% [markdown]
r"""
## Normalised offsets

Pixels are still not good numbers. The next picture splits the offsets by the level of their anchor: small
anchors are off by some 4 pixels, large ones by some 15. An error of 10 pixels is nothing for a large object and
everything for a small one, but a loss in pixels cannot know. So we measure in units of the anchor. First turn
both boxes into centre and size,

$$(c_{x}, c_{y}) = \left(x_{min} + \frac{x_{max} - x_{min}}{2},\; y_{min} + \frac{y_{max} - y_{min}}{2}\right),
\qquad (w, h) = (x_{max} - x_{min},\; y_{max} - y_{min})$$

then compare the box $b$ with the anchor $a$: the shift of the centre as a part of the anchor's size, and the
logarithm of the ratio of sizes. The logarithm treats "twice as wide" and "half as wide" alike, $\pm 0.693$,
and makes zero of "equal":

$$y_{gt} = \left(\frac{c_{bx} - c_{ax}}{w_a},\; \frac{c_{by} - c_{ay}}{h_a},\; \log \frac{w_b}{w_a},\; \log \frac{h_b}{h_a}\right)$$

Matched boxes are close to their anchors, so these numbers are small: shifts of about 0.1 (10 % of $w_a$ or
$h_a$), logarithms of about 0.2. Dividing by such *standard deviations* brings all four to the order of 1, so
each has a similar weight in the loss:

$$y_{gt} = \left(\frac{c_{bx} - c_{ax}}{w_a\,\sigma_x},\; \frac{c_{by} - c_{ay}}{h_a\,\sigma_y},\; \frac{1}{\sigma_w}\log \frac{w_b}{w_a},\; \frac{1}{\sigma_h}\log \frac{h_b}{h_a}\right),
\qquad \sigma_x = \sigma_y = 0.1, \quad \sigma_w = \sigma_h = 0.2$$

> **Erratum.** The slides name $\sigma_w$ and $\sigma_h$ but leave them out of the formula. The sizes are
> divided by 0.2 too.

On paper: the anchor `(30, 15, 70, 35)` has its centre at (50, 25) and is 40 × 20 pixels. The box
`(14, 11, 94, 41)` has its centre at (54, 26) and is 80 × 30. The shifts are 4/40 = 0.1 and 1/20 = 0.05, the
logarithms log 2 = 0.6931 and log 1.5 = 0.4055. Divided by the deviations: **(1, 0.5, 3.4657, 2.0273)**.

### Exercise: `encode_boxes`

*About 15 minutes, easy.*

Write `encode_boxes(boxes, anchors, stds=(0.1, 0.1, 0.2, 0.2))`. Row `i` of `boxes` is the box of anchor `i`;
both are `Tensor[A, 4]` in `xyxy`. Give a `Tensor[A, 4]` of `(dx, dy, dw, dh)`, in the dtype of the boxes.
Your `xyxy_to_cxcywh` of lesson 1 is there.

<details><summary>Hint</summary>
Columns <code>[:, :2]</code> of the converted boxes are centres, columns <code>[:, 2:]</code> are sizes, so
each half of the formula is one line. <code>boxes.new_tensor(stds)</code> has the dtype and the device of the
boxes.
</details>
"""


# %% exercise="encode_boxes"
def encode_boxes(boxes, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    """What a network is to say of each box, measured from its anchor.

    Source: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C; the deviations are SSD's.

    Args:
        boxes (Tensor[A, 4]): xyxy, in pixels; row i is the box of anchor i.
        anchors (Tensor[A, 4]): likewise.
        stds (4 floats): what the shifts in x and y and the logarithms of width and height are divided by.

    Returns:
        Tensor[A, 4]: dx, dy, dw, dh, without a unit; zeros where box and anchor are the same.
    """
    ### BEGIN SOLUTION
    boxes, anchors = xyxy_to_cxcywh(boxes), xyxy_to_cxcywh(anchors)  # [A, 4]
    shifts = (boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:]  # [A, 2]
    stretches = torch.log(boxes[:, 2:] / anchors[:, 2:])  # [A, 2]
    return torch.cat((shifts, stretches), dim=1) / boxes.new_tensor(stds)
    ### END SOLUTION


# %% check="encode_boxes" points=2
anchor, box = torch.tensor([[30.0, 15, 70, 35]]), torch.tensor([[14.0, 11, 94, 41]])
same(
    encode_boxes(box, anchor),
    [[1, 0.5, 3.4657, 2.0273]],
    "the example above: 80 x 30 pixels seen from 40 x 20",
)
untouched(
    encode_boxes, torch.tensor([[14.0, 11, 94, 41]]), torch.tensor([[30.0, 15, 70, 35]])
)
same(
    encode_boxes(box, anchor, (1, 1, 1, 1)),
    [[0.1, 0.05, 0.6931, 0.4055]],
    "the same without deviations: 4/40, 1/20, log 2, log 1.5",
)
same(encode_boxes(anchor, anchor), [[0, 0, 0, 0]], "a box that is its anchor")
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(11)
boxes = torch.rand(40, 4, generator=generator) * torch.tensor([60.0, 40, 90, 70])
boxes[:, 2:] += boxes[:, :2] + 3
others = torch.rand(40, 4, generator=generator) * torch.tensor([70.0, 30, 50, 90])
others[:, 2:] += others[:, :2] + 3


def plain_encoding(boxes, anchors, stds):
    """The formula, one anchor at a time, in Python's numbers."""
    rows = []
    for (bx1, by1, bx2, by2), (ax1, ay1, ax2, ay2) in zip(
        boxes.tolist(), anchors.tolist()
    ):
        dx = ((bx1 + bx2) / 2 - (ax1 + ax2) / 2) / (ax2 - ax1)
        dy = ((by1 + by2) / 2 - (ay1 + ay2) / 2) / (ay2 - ay1)
        dw = math.log((bx2 - bx1) / (ax2 - ax1))
        dh = math.log((by2 - by1) / (ay2 - ay1))
        rows.append([d / std for d, std in zip((dx, dy, dw, dh), stds)])
    return torch.tensor(rows, dtype=boxes.dtype)


usual, odd = (0.1, 0.1, 0.2, 0.2), (0.3, 0.5, 0.7, 0.9)
expected = plain_encoding(boxes, others, usual)
same(encode_boxes(boxes, others), expected, "40 random boxes and anchors, float32")
expected = plain_encoding(boxes, others, odd)
same(
    encode_boxes(boxes, others, odd),
    expected,
    "four different deviations, as an argument",
)
small, few = boxes / 128, others / 128
expected = plain_encoding(small, few, usual)
same(
    encode_boxes(small, few),
    expected,
    "boxes smaller than a pixel: coordinates in parts of the image",
)
left, above = boxes - 75, others - 75
expected = plain_encoding(left, above, usual)
same(
    encode_boxes(left, above),
    expected,
    "anchors reach beyond the image, to negative coordinates",
    atol=1e-4,
)
exact, precise = boxes.double(), others.double()
expected = plain_encoding(exact, precise, usual)
same(encode_boxes(exact, precise), expected, "40 random boxes and anchors, float64")
uneven = torch.tensor([[4.0, 4, 4.5, 5.25], [0, 0, 200, 100]])
sizes = torch.tensor([[0.0, 0, 1000, 800], [10, 20, 14, 22]])
expected = plain_encoding(uneven, sizes, usual)
same(
    encode_boxes(uneven, sizes),
    expected,
    "a box far smaller than its anchor, and one far larger",
)
same(
    encode_boxes(torch.zeros(0, 4), torch.zeros(0, 4)),
    torch.zeros(0, 4),
    "no anchors: an answer of shape [0, 4]",
)
far = torch.tensor([[1000.0, 2000, 1008, 2016]])
moved = far + torch.tensor([8.0, -4, 8, -4])
halved = far + torch.tensor([2.0, 4, -2, -4])
same(
    encode_boxes(far, moved),
    [[-10, 2.5, 0, 0]],
    "equal sizes, shifted by 8 of 8 and 4 of 16 pixels",
)
same(
    encode_boxes(far, halved),
    [[0, 0, 3.4657, 3.4657]],
    "equal centres, twice as wide and high",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
The same matched pairs as before, one curve for each level of anchors. Left, in pixels, each level has a
spread of its own. Right, normalised, the four curves lie on each other: one head can now serve every size.
"""

# %%
deltas = encode_boxes(matched_boxes, matched_anchors)
alt = (
    "Left: offsets in pixels for four levels of anchors; the curves grow from narrow to wide. "
    "Right: normalised offsets; all four curves have nearly the same shape, mostly between -3 and 3."
)
with plot.figure(alt, width=8.5, height=3.2, columns=2) as (left, right):
    for ax, values, reach in ((left, raw, 45), (right, deltas, 6)):
        middles = torch.linspace(-reach, reach, 16)[:-1] + reach / 15  # of 15 bins
        for level, scale in enumerate(SCALES):
            counts = torch.histc(values[level_of == level].flatten(), 15, -reach, reach)
            plot.curve(middles, counts / counts.sum(), level, f"{128 * scale[0]:.0f} px", ax)
        ax.legend(frameon=False, fontsize=8, title="anchor", loc="upper left")
    left.set(xlabel="corner offset (pixels)", ylabel="share", title="raw")
    right.set(xlabel="normalised offset (no unit)", title="normalised")


def widest_to_narrowest(values):
    """Largest by smallest standard deviation of the four levels."""
    spreads = [values[level_of == level].std().item() for level in range(4)]
    return max(spreads) / min(spreads)


print("spread of the widest level by that of the narrowest:")
print(f"above 2 in pixels: {widest_to_narrowest(raw) > 2}")
print(f"below 1.3 normalised: {widest_to_narrowest(deltas) < 1.3}")
print(f"dx, dy, dw, dh have standard deviations from 1 to 2: {all(1 < std < 2 for std in deltas.std(0))}")

# %% [markdown]
r"""
### Question 2

A network that predicts raw corner offsets is trained with the loss |prediction − truth|. The image has an
object of 12 pixels and one of 300 pixels. In two to four sentences: what does this loss mostly work on, and
what do the division by the anchor's size, the logarithm and the $\sigma$ each change about it?
"""

# %% written="why_offsets" points=2
r"""
In pixels the large object has much larger offsets, so its errors dominate the loss and the gradient, while a
5-pixel error that ruins the small object's box counts little. Dividing by the anchor's size measures errors
relative to the object, so both count alike. The logarithm makes a size twice too large as bad as one half as
large, and lets the network predict any real number while sizes stay positive. The σ scale shifts and sizes to
a similar spread of about 1, so no coordinate dominates the others or is drowned by the classification loss.
"""

# %% [markdown]
r"""
## And back

At test time the network gives four numbers at an anchor; we want the box. `decode_boxes` runs the formula
backwards:

$$\begin{aligned}
c_x &= c_{ax} + w_a\,\sigma_x\,d_x & \qquad w &= w_a \exp(\sigma_w d_w) \\
c_y &= c_{ay} + h_a\,\sigma_y\,d_y & h &= h_a \exp(\sigma_h d_h)
\end{aligned}$$

One thing is new. A network at the start of its training may say $d_w = 500$, and $\exp(100)$ pixels is not a
box but a source of `inf` and `NaN`. So $\sigma_w d_w$ and $\sigma_h d_h$ are clamped to at most
$\log(1000/16) = 4.135$ before `exp`: a box is at most 62.5 times as wide as its anchor. (The number comes
from images of 1,000 pixels and anchors of 16.) There is no clamp from below: a tiny box is finite.

On paper: the anchor `(30, 15, 70, 35)` with the deltas (1, 0.5, 3.4657, 2.0273) gives back
`(14, 11, 94, 41)`. With $d_w = 1000$ the width is 40 · 62.5 = 2500.

### Exercise: `decode_boxes`

*About 15 minutes, easy.*

Write `decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2))`. Row `i` of `deltas` belongs to anchor `i`;
both are `Tensor[A, 4]`. Give boxes `Tensor[A, 4]` in `xyxy`, in pixels. They may reach beyond the image.

<details><summary>Hint</summary>
Undo the steps of <code>encode_boxes</code> in reverse order: first the deviations, then shift and stretch,
then the corners. <code>cxcywh_to_xyxy</code> of lesson 1 does the last step. Multiply by the deviation before
you clamp.
</details>
"""


# %% exercise="decode_boxes"
def decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    """The boxes that a network's answers mean: the inverse of `encode_boxes`.

    Args:
        deltas (Tensor[A, 4]): dx, dy, dw, dh.
        anchors (Tensor[A, 4]): xyxy, in pixels; row i is the anchor of deltas i.
        stds (4 floats): as `encode_boxes` divided by.

    Returns:
        Tensor[A, 4]: xyxy, in pixels; at most 62.5 times as wide and as high as the anchor.
    """
    ### BEGIN SOLUTION
    deltas = deltas * deltas.new_tensor(stds)
    anchors = xyxy_to_cxcywh(anchors)  # [A, 4]
    centers = anchors[:, :2] + deltas[:, :2] * anchors[:, 2:]  # [A, 2]
    sizes = anchors[:, 2:] * deltas[:, 2:].clamp(max=math.log(1000 / 16)).exp()  # [A, 2]
    return cxcywh_to_xyxy(torch.cat((centers, sizes), dim=1))
    ### END SOLUTION


# %% check="decode_boxes" points=2
anchor = torch.tensor([[30.0, 15, 70, 35]])
delta = torch.tensor([[1, 0.5, 3.4657, 2.0273]])
same(
    decode_boxes(delta, anchor),
    [[14, 11, 94, 41]],
    "the example above, backwards: centre (54, 26), 80 x 30 pixels",
)
untouched(
    decode_boxes, torch.tensor([[1.0, 2, 300, 4]]), torch.tensor([[30.0, 15, 70, 35]])
)
same(
    decode_boxes(torch.tensor([[0.1, 0.05, 0.693147, 0.405465]]), anchor, (1, 1, 1, 1)),
    [[14, 11, 94, 41]],
    "the same box, from deltas without deviations",
)
same(
    decode_boxes(torch.zeros(1, 4), anchor),
    [[30, 15, 70, 35]],
    "zero deltas mean the anchor itself",
)
same(
    decode_boxes(torch.tensor([[0.0, 0, 1000, 0]]), anchor),
    [[-1200, 15, 1300, 35]],
    "at most 62.5 times as wide: 2500 pixels",
)
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(13)
others = torch.rand(40, 4, generator=generator) * torch.tensor([70.0, 30, 50, 90])
others[:, 2:] += others[:, :2] + 3
deltas = torch.randn(40, 4, generator=generator) * 3


def plain_decoding(deltas, anchors, stds):
    """The formula, one anchor at a time, in Python's numbers."""
    rows = []
    for row, (x1, y1, x2, y2) in zip(deltas.tolist(), anchors.tolist()):
        dx, dy, dw, dh = (d * std for d, std in zip(row, stds))
        cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        w = (x2 - x1) * math.exp(min(dw, math.log(1000 / 16)))
        h = (y2 - y1) * math.exp(min(dh, math.log(1000 / 16)))
        rows.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return torch.tensor(rows, dtype=deltas.dtype)


usual, odd = (0.1, 0.1, 0.2, 0.2), (0.3, 0.5, 0.7, 0.9)
expected = plain_decoding(deltas, others, usual)
same(
    decode_boxes(deltas, others),
    expected,
    "40 random deltas and anchors, float32",
    atol=1e-3,
)
expected = plain_decoding(deltas, others, odd)
same(
    decode_boxes(deltas, others, odd),
    expected,
    "four different deviations as an argument",
    atol=1e-3,
)
exact, precise = deltas.double(), others.double()
expected = plain_decoding(exact, precise, usual)
same(decode_boxes(exact, precise), expected, "40 random deltas and anchors, float64")
same(
    decode_boxes(torch.zeros(0, 4), torch.zeros(0, 4)),
    torch.zeros(0, 4),
    "no anchors: boxes of shape [0, 4]",
)
before = torch.tensor([[-10.0, -10, 30, 20]])
same(
    decode_boxes(torch.tensor([[1.0, -1, 0, 0]]), before),
    [[-6, -13, 34, 17]],
    "the anchor begins left of and above the image",
)
small = torch.tensor([[0.0, 0, 16, 8]])
same(
    decode_boxes(torch.tensor([[0.0, 0, 20, 22]]), small),
    [[-428.7852, -246, 444.7852, 254]],
    "0.2 * 20 = 4 lies below log(1000 / 16) = 4.135, 0.2 * 22 above",
)
same(
    decode_boxes(torch.tensor([[0.0, 0, 10, 10]]), small, (1, 1, 1, 1)),
    [[-492, -246, 508, 254]],
    "deviations of 1: 1 * 10 lies above log(1000 / 16)",
)
same(
    decode_boxes(
        torch.tensor([[0.0, 0, 0, 0], [0, 0, 1000, 1000]]), small.expand(2, 4)
    ),
    [[0, 0, 16, 8], [-492, -246, 508, 254]],
    "of two rows the second is too large: each row is clamped by itself",
)
same(
    decode_boxes(
        torch.tensor([[0.0, 0, -30, -25], [0, 0, -60, -60]]), small.expand(2, 4)
    ),
    [[7.98017, 3.973048, 8.01983, 4.026952], [7.99995, 3.999975, 8.00005, 4.000025]],
    "small boxes are not clamped: 16 exp(-6) by 8 exp(-5) pixels, and smaller",
)
same(
    decode_boxes(torch.tensor([[0.0, 0, 3e4, 3e4]]), small),
    [[-492, -246, 508, 254]],
    "huge deltas, finite boxes",
)
same(
    decode_boxes(torch.tensor([[-9000.0, 7000, 0, 0]]), small),
    [[-14400, 5600, -14384, 5608]],
    "shifts are not clamped, and boxes not cut at the image's border",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
What does each number mean? A step of 1 in `dx` or `dy` moves the box by a tenth of the anchor's side; a step
of 1 in `dw` or `dh` makes it $e^{0.2} = 1.22$ times as wide or high. The picture shows steps of 2 from the
anchor of our example.
"""

# %%
anchor = torch.tensor([[30.0, 15, 70, 35]])
alt = "A step of 2 in dx moves the box right, in dy down; in dw it widens, in dh heightens it; the last mixes all."
with plot.figure(alt, width=10, height=1.8, columns=5, sharey=True) as axes:
    steps = [[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 2.0], [-2.0, 1, 2, -2]]
    for ax, delta in zip(axes, steps):
        ax.set(xlim=(0, 100), ylim=(50, 0), aspect="equal", xlabel="x (pixels)")
        ax.set_title("dx {:.0f}, dy {:.0f}, dw {:.0f}, dh {:.0f}".format(*delta), fontsize=8)
        plot.show_boxes(anchor, "anchor", ax=ax)
        plot.show_boxes(decode_boxes(torch.tensor([delta]), anchor), "prediction", ax=ax)
    axes[0].set(ylabel="y (pixels)")

# %% [markdown]
r"""
Encode all matched boxes and decode them again: they come back. This alone proves little. If both functions
forgot the deviations, or had x and y exchanged, boxes would come back just as well. That is why the checks
above ask for numbers.
"""

# %%
there_and_back = decode_boxes(encode_boxes(matched_boxes, matched_anchors), matched_anchors)
print(f"all boxes come back within 0.001 pixels: {bool((there_and_back - matched_boxes).abs().max() < 1e-3)}")

# %% [markdown]
r"""
## The targets of an image

Now put the parts together. A person gave 1 + 4 numbers for each object: a class and a box. From an image's
`boxes [M, 4]` and `labels [M]` every anchor gets 1 + 4 numbers:

* a **class**: the label of its object, or 0 for background. One anchor has one class, also where two objects
  compete for it;
* four **deltas** to its object's box. For background there is nothing to predict: the deltas are 0 and no
  loss will look at them.

Take care with background rows. It is tempting to encode a box for every anchor and to multiply by 0
afterwards. But an anchor without area gives `log(w / 0)`, infinity, and 0 · ∞ is `NaN`. Encode the positive
rows only.

On paper: three anchors, `(0, 0, 40, 20)`, `(50, 15, 90, 35)` and `(0, 40, 40, 60)`, and one object of class 3
at `(54, 16, 94, 36)`. It overlaps the second anchor. The classes are `[0, 3, 0]`, the second row of the
deltas is (1, 0.5, 0, 0).

### Exercise: `anchor_targets`

*About 15 minutes, of medium difficulty.*

Write `anchor_targets(anchors, boxes, labels, threshold=0.5)` with `match_anchors` and `encode_boxes`. Give a
pair: classes, an int64 `Tensor[A]`, and deltas, a `Tensor[A, 4]`, in the anchors' order. Use the usual
deviations. `M = 0` is all background.

<details><summary>Hint</summary>
<code>matches</code> holds indices of objects, so <code>labels[matches]</code> looks them up. What would -1
look up? Begin with zeros, and fill in the rows where <code>matches &gt;= 0</code>. Objects are the rows of
the table that <code>match_anchors</code> takes.
</details>
"""


# %% exercise="anchor_targets"
def anchor_targets(anchors, boxes, labels, threshold=0.5):
    """What a network is to say at each anchor of an image.

    Args:
        anchors (Tensor[A, 4]): xyxy, in pixels.
        boxes (Tensor[M, 4]): the image's objects, likewise.
        labels (Tensor[M]): their classes, 1..K.
        threshold (float): as `match_anchors` takes it.

    Returns:
        (Tensor[A], Tensor[A, 4]): classes, int64, 0 for background; and deltas, as `encode_boxes` gives them,
            from each anchor to its object's box, zeros for background.
    """
    ### BEGIN SOLUTION
    matches = match_anchors(box_iou(boxes, anchors), threshold)  # [A]
    positive = matches >= 0
    classes = torch.zeros_like(matches)
    deltas = torch.zeros_like(anchors)
    classes[positive] = labels[matches[positive]].to(torch.int64)
    deltas[positive] = encode_boxes(boxes[matches[positive]], anchors[positive])
    return classes, deltas
    ### END SOLUTION


# %% check="anchor_targets" points=3
anchors_3 = torch.tensor([[0.0, 0, 40, 20], [50, 15, 90, 35], [0, 40, 40, 60]])
one_box, one_label = torch.tensor([[54.0, 16, 94, 36]]), torch.tensor([3])
same(
    anchor_targets(anchors_3, one_box, one_label),
    (
        torch.tensor([0, 3, 0]),
        torch.tensor([[0, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 0, 0]]),
    ),
    "the second anchor is the object's best; the others are background, with zero deltas",
)
moved, reaching = anchors_3 + 1, torch.tensor([[-3.0, 2, 60, 20]])
untouched(anchor_targets, moved, reaching, torch.tensor([2]))
same(
    anchor_targets(anchors_3, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    (torch.tensor([0, 0, 0]), torch.zeros(3, 4)),
    "an image without objects has only background, and only zero deltas",
)
two_boxes = torch.tensor([[0.0, 0, 40, 20], [0, 38, 40, 60]])
two_labels = torch.tensor([5, 2])
same(
    anchor_targets(anchors_3, two_boxes, two_labels),
    (
        torch.tensor([5, 0, 2]),
        torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [0, -0.5, 0, 0.476551]]),
    ),
    "two objects, of class 5 and class 2: each anchor has the class and the deltas of its own",
)
### BEGIN HIDDEN TESTS
shapes = torch.tensor(
    [[0.0, 0, 40, 20], [60, 0, 90, 40], [65, 0, 95, 50], [0, 50, 30, 70]]
)
pair, names = torch.tensor([[70.0, 0, 90, 40], [0, 0, 20, 10]]), torch.tensor([1, 4])
aside = [-2.5, -2.5, -3.465736, -3.465736]
shifted, larger = [1.666667, 0, -2.027326, 0], [0, -1, -2.027326, -1.115718]
same(
    anchor_targets(shapes, pair, names),
    (torch.tensor([4, 1, 1, 0]), torch.tensor([aside, shifted, larger, [0, 0, 0, 0]])),
    "IoU 0.25 and 0.67 are forced; 0.53 is more than 0.5",
)
same(
    anchor_targets(shapes, pair, names, 0.625),
    (
        torch.tensor([4, 1, 0, 0]),
        torch.tensor([aside, shifted, [0, 0, 0, 0], [0, 0, 0, 0]]),
    ),
    "the threshold is passed on: 0.53 is less than 0.625",
)
same(
    anchor_targets(shapes, pair, torch.tensor([2, 2])),
    (torch.tensor([2, 2, 2, 0]), torch.tensor([aside, shifted, larger, [0, 0, 0, 0]])),
    "two objects of one class: anchor 0 has the deltas of object 1",
)
fine = torch.tensor(
    [
        [32.0 * x, 24.0 * y, 32.0 * x + 32, 24.0 * y + 24]
        for y in range(4)
        for x in range(3)
    ]
)
coarse = torch.tensor(
    [[48.0 * x, 48.0 * y, 48.0 * x + 48, 48.0 * y + 48] for y in (0, 1) for x in (0, 1)]
)
dot = torch.tensor([[68.0, 30, 76, 36]])
classes, deltas = torch.zeros(16, dtype=torch.int64), torch.zeros(16, 4)
classes[5], deltas[5] = 6, torch.tensor([-2.5, -1.25, -6.931472, -6.931472])
same(
    anchor_targets(torch.cat((fine, coarse)), dot, torch.tensor([6])),
    (classes, deltas),
    "12 fine and 4 coarse anchors, one small object: one is forced, over all levels",
)
before = torch.tensor([[-10.0, -10, 30, 30]])
outside = torch.tensor([[-12.0, -8, 26, 34]])
same(
    anchor_targets(before, outside, torch.tensor([5])),
    (torch.tensor([5]), torch.tensor([[-0.75, 0.75, -0.256466, 0.243951]])),
    "one anchor and one object, both of which begin left of and above the image",
)
distant = torch.tensor([[0.0, 0, 40, 20], [1, 0, 41, 20]], dtype=torch.float64) + 2**24
same(
    anchor_targets(distant, distant[1:], torch.tensor([3]), 0.97),
    (torch.tensor([0, 3]), torch.zeros(2, 4, dtype=torch.float64)),
    "float64 tells two anchors apart that are one in float32",
)


def plain_targets(anchors, boxes, labels, threshold):
    """The rules, one number at a time."""
    rows, width = box_iou(boxes, anchors).tolist(), len(anchors)
    forced, classes, deltas = {}, [], []
    for number, row in enumerate(rows):
        left = [(-row[i], i) for i in range(width) if row[i] > 0 and i not in forced]
        if left:
            forced[min(left)[1]] = number
    for i, (ax1, ay1, ax2, ay2) in enumerate(anchors.tolist()):
        column = [row[i] for row in rows]
        number = forced.get(
            i, column.index(max(column)) if max(column) > threshold else -1
        )
        classes.append(0 if number < 0 else int(labels[number]))
        if number < 0:
            deltas.append([0.0] * 4)
            continue
        bx1, by1, bx2, by2 = boxes[number].tolist()
        dx = ((bx1 + bx2) / 2 - (ax1 + ax2) / 2) / (ax2 - ax1) / 0.1
        dy = ((by1 + by2) / 2 - (ay1 + ay2) / 2) / (ay2 - ay1) / 0.1
        dw = math.log((bx2 - bx1) / (ax2 - ax1)) / 0.2
        dh = math.log((by2 - by1) / (ay2 - ay1)) / 0.2
        deltas.append([dx, dy, dw, dh])
    return torch.tensor(classes), torch.tensor(deltas, dtype=anchors.dtype)


generator = torch.Generator().manual_seed(17)
dense = torch.rand(150, 4, generator=generator) * torch.tensor([80.0, 50, 50, 40])
dense[:, 2:] += dense[:, :2] + 5
objects = torch.rand(6, 4, generator=generator) * torch.tensor([70.0, 50, 50, 30])
objects[:, 2:] += objects[:, :2] + 8
kinds = torch.tensor([4, 1, 90, 1, 300, 2])
expected = plain_targets(dense, objects, kinds, 0.375)
same(
    anchor_targets(dense, objects, kinds, 0.375),
    expected,
    "150 random anchors, 6 objects, float32",
    atol=1e-3,
)
expected = plain_targets(dense.double(), objects.double(), kinds, 0.5)
same(
    anchor_targets(dense.double(), objects.double(), kinds),
    expected,
    "150 random anchors, 6 objects, float64",
)
### END HIDDEN TESTS

# %% check="anchor_targets" part="edges" points=1
flat = torch.tensor(
    [[10.0, 10, 10, 10], [5, 5, 5, 30], [0, 0, 40, 20], [0, 30, 40, 30]]
)
third = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0.5, 0, 0], [0, 0, 0, 0]])
same(
    anchor_targets(flat, torch.tensor([[4.0, 1, 44, 21]]), torch.tensor([2])),
    (torch.tensor([0, 0, 2, 0]), third),
    "anchors without area overlap nothing: background, and zeros for their deltas",
)
### BEGIN HIDDEN TESTS
away = torch.tensor([[500.0, 400, 520, 440]])
same(
    anchor_targets(flat, away, torch.tensor([1])),
    (torch.tensor([0, 0, 0, 0]), torch.zeros(4, 4)),
    "an object that no anchor touches leaves only background",
)
line = torch.tensor([[6.0, 2, 6, 18], [4, 1, 44, 21]])
same(
    anchor_targets(flat, line, torch.tensor([1, 2])),
    (torch.tensor([0, 0, 2, 0]), third),
    "an object without area forces no anchor; the one beside it keeps its own",
)
nothing = torch.zeros(0, dtype=torch.int64)
same(
    anchor_targets(torch.zeros(0, 4), away, torch.tensor([1])),
    (nothing, torch.zeros(0, 4)),
    "no anchors: empty classes, and deltas of shape [0, 4]",
)
same(
    anchor_targets(flat.double(), torch.zeros(0, 4).double(), nothing),
    (torch.zeros(4, dtype=torch.int64), torch.zeros(4, 4).double()),
    "no objects, float64: only background and zero deltas",
)
taken = torch.tensor([[0.0, 0, 40, 20], [0, 0, 30, 20], [90, 90, 99, 99]])
rivals, zero = torch.tensor([[0.0, 0, 38, 20], [0, 0, 40, 22]]), [0.0, 0, 0, 0]
second = torch.tensor(
    [[-0.25, 0, -0.256466, 0], [1.666667, 0.5, 1.43841, 0.476551], zero]
)
same(
    anchor_targets(taken, rivals, torch.tensor([1, 2])),
    (torch.tensor([1, 2, 0]), second),
    "two objects with one best anchor: each object has an anchor, each anchor one class",
)
turned = torch.tensor([[0, 0.5, 0, 0.476551], [1.333333, 0, 1.181944, 0], zero])
same(
    anchor_targets(taken, rivals.flip(0), torch.tensor([2, 1])),
    (torch.tensor([2, 1, 0]), turned),
    "objects are served in the order of their rows, not of their labels or sizes",
)
squares = torch.tensor([[0.0, 0, 40, 40], [0, 0, 30, 40]])
high = torch.tensor([[0.0, 0, 40, 38], [0, 0, 40, 39]])
better = torch.tensor(
    [[0, -0.25, 0, -0.256466], [1.666667, -0.125, 1.43841, -0.126589]]
)
same(
    anchor_targets(squares, high, torch.tensor([1, 2])),
    (torch.tensor([1, 2]), better),
    "the first object has the shared anchor, though the second overlaps it more",
)
wide = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 1]])
same(
    anchor_targets(wide, wide[1:], torch.tensor([3])),
    (torch.tensor([0, 3]), torch.zeros(2, 4)),
    "anchor 0 has an IoU of exactly 0.5, no more: it is background",
)
twice = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
same(
    anchor_targets(twice, torch.tensor([[0.0, 0, 10, 30]]), torch.tensor([3])),
    (torch.tensor([3, 0]), torch.tensor([[0, 10, 0, 5.493061], zero])),
    "of two equal best anchors the first is forced, and no other",
)
echoes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 11]])
same(
    anchor_targets(echoes, twice, torch.tensor([1, 2])),
    (torch.tensor([1, 2, 1]), torch.tensor([zero, zero, [0, -0.454545, 0, -0.476551]])),
    "two equal objects: an anchor that overlaps both alike answers for the first",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
These are the targets of one scene. Left, the anchors that are not background, with their classes. Right, the
same anchors' deltas, decoded: whatever anchor they are measured from, they all name the same few boxes, so
every dashed box lies on a green one. A network that learns these numbers has found the objects.
"""

# %%
image, target = data[SHOWN[2]]
classes, deltas = anchor_targets(anchors, target["boxes"], target["labels"])
positive = classes > 0
alt = (
    "Left: a scene with its positive anchors, each with the name of its class. "
    "Right: the decoded targets; each lies exactly on an annotated box."
)
with plot.figure(alt, width=8.5, height=4.2, columns=2) as (left, right):
    names = [data.classes[number - 1] for number in classes[positive]]
    plot.show_boxes(anchors[positive], "positive", image=image, labels=names, ax=left)
    plot.show_boxes(target["boxes"], "truth", image=image, ax=right)
    plot.show_boxes(decode_boxes(deltas[positive], anchors[positive]), "prediction", ax=right)

# %% [markdown]
r"""
One more look, at something that will trouble us. Count the positive anchors of every scene.
"""

# %%
counts = []
for target in data.targets:
    classes, deltas = anchor_targets(anchors, target["boxes"], target["labels"])
    counts.append(int((classes > 0).sum()))
alt = "A histogram: most scenes have fewer than 30 positive anchors, out of 1,360."
with plot.figure(alt, width=6, height=2.8) as ax:
    ax.hist(counts, range(0, 49, 4), color=plot.ROLES["positive"].color)
    ax.set(xlabel=f"positive anchors in a scene, of {len(anchors):,}", ylabel="scenes")
print(f"more than 98 of 100 anchors are background: {sum(counts) < 0.02 * len(anchors) * len(counts)}")

# %% [markdown]
r"""
A network that says "background" everywhere would be right in 98 of 100 cases, and find nothing. What the loss
does about it is lesson 4.

## Faster: all objects at once

*Not graded.* The rule of the first chance goes object by object, for an object may find its anchor taken. That is
rare. So ask for every object's best anchor in one call, and go one by one only where one is taken already.
"""

# %%
def fast_match_anchors(iou, threshold=0.5):
    """As `match_anchors`, without a search for each object."""
    if iou.numel() == 0:
        return torch.full((iou.shape[1],), -1, device=iou.device)
    best_iou, best_object = iou.max(dim=0)  # [A] each
    matches = torch.where(best_iou > threshold, best_object, -1)
    forced = {}  # anchor -> object
    for index, (overlap, anchor) in enumerate(zip(*(part.tolist() for part in iou.max(dim=1)))):
        if anchor in forced:  # taken: the best of the others
            others = iou[index].clone()
            others[list(forced)] = 0
            overlap, anchor = others.max().item(), others.argmax().item()
        if overlap > 0:
            forced[anchor] = index
    anchors, objects = (torch.tensor(list(ids), dtype=torch.int64, device=iou.device) for ids in (forced, forced.values()))
    matches[anchors] = objects
    return matches


iou = torch.cat([box_iou(target["boxes"], anchors) for target in data.targets[:10]])
print("the objects of ten scenes at once, the same answer:", torch.equal(fast_match_anchors(iou), match_anchors(iou)))

# %% [markdown]
r"""
## What you built

From a handful of annotated boxes, the answer that every one of 1,360 anchors should give: a class, and four
small numbers with similar spreads at every scale. `decode_boxes` turns a network's four numbers into a box.
Lesson 5 trains a detector on it.

**What others call it.** In torchvision the weights of a coder are $1/\sigma$. The first SSD code calls
$\sigma$ "variances", though it divides by them as by deviations.

| here | torchvision | detectron2 | mmdetection |
| --- | --- | --- | --- |
| `match_anchors` | `SSDMatcher` | `Matcher` | `MaxIoUAssigner` |
| first chance | always | `allow_low_quality_matches` | `match_low_quality` |
| `encode_boxes`, `decode_boxes` | `BoxCoder(weights=(10, 10, 5, 5))` | `Box2BoxTransform(weights=(10, 10, 5, 5))` | `DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2))` |
| the clamp | `bbox_xform_clip` | `scale_clamp` | `wh_ratio_clip` |

They agree on the formula to the last digit, and differ in the fine print of matching. Where two objects have
the same best anchor, torchvision's `SSDMatcher` lets the *last* of them have it and leaves the other with
none; all three accept an IoU *equal* to the threshold; detectron2 and (by default) mmdetection force *all* of
several equally good anchors. The paper decides none of this.

**Further reading**

* Liu et al., *SSD: Single Shot MultiBox Detector*, ECCV 2016 (arXiv:1512.02325), section 2.2: the matching,
  the loss, equation 2.
* Girshick et al., *Rich feature hierarchies for accurate object detection and semantic segmentation*, CVPR
  2014 (arXiv:1311.2524), appendix C: where the normalised offsets come from.
* Erhan et al., *Scalable Object Detection using Deep Neural Networks*, CVPR 2014 (arXiv:1312.2249): each
  object gets one anchor, all chosen together for the best total. Our "in order" is the simple form of it.
* Zhang et al., *Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample
  Selection*, CVPR 2020 (arXiv:1912.02424): how positives are chosen matters more than anchors do.
"""
