# %% [markdown]
r"""
# 6 · One box for each object: NMS and Soft-NMS

A detector that has learnt well says everything several times. An object has several anchors that cover it, in
training each of them was told to report it, and in prediction each of them does. What the user gets is a
bunch of boxes on every object. This lesson removes the echoes, and asks what is lost with them where objects
really do stand close together.

We write three functions:

| | gives | minutes |
| --- | --- | --- |
| `nms` | the boxes that stay when each best box removes its echoes | about 20 |
| `batched_nms` | the same, where only boxes of one class remove each other | about 15 |
| `soft_nms` | all boxes, with echoes scoring less | about 25 |

With two written questions, one training of about two minutes and the reading this takes about one and three
quarter hours. It needs lesson 1. The detector is that of lesson 5: what you wrote for it is used, and where
something is missing a library's function takes its place.

**Conventions**, as in all lessons: a box is `xyxy` = `(x1, y1, x2, y2)` in pixels, x right, y down. Labels are
whole numbers, objects have `1..K`. In a tie the smaller index wins. An image without any box is an ordinary
image. The slides call the set of boxes $\mathcal{B} = \{b_1, \dots, b_n\}$ and their scores
$\mathcal{P} = \{p_1, \dots, p_n\}$.
"""

# %% setup=true
import math

import torch

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

box_iou = earlier("box_iou")

# %% [markdown]
r"""
## A crowd, and a detector for it

We want scenes in which the question is hard: rows of shapes of one kind, each partly covering the one before
it. `scenes(difficulty="crowded")` draws them. The first cell puts the SSD of lesson 5 together again, the
second trains it. Start both and read on while it trains; the exercises do not depend on it.
"""

# %% tags=["nbval-ignore-output"]
from torch import nn

from coursekit.backbones import small_trunk
from coursekit.data import scenes
from coursekit.training import fit

linear_scales, ssd_anchors = earlier("linear_scales"), earlier("ssd_anchors")
anchor_targets, ssd_loss = earlier("anchor_targets"), earlier("ssd_loss")
SSDHead, decode_boxes = earlier("SSDHead"), earlier("decode_boxes")

SIZE, STRIDES = 128, (8, 16, 32, 64)


class SSD(nn.Module):
    """Images [B, 3, 128, 128] in 0..1 -> logits [B, A, K + 1] and deltas [B, A, 4] for `self.anchors` [A, 4]."""

    def __init__(self, classes):
        super().__init__()
        self.backbone = small_trunk()
        channels = list(self.backbone.channels.values())
        self.extra = nn.Sequential(
            nn.Conv2d(channels[-1], 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
        )  # fmt: skip
        self.head = SSDHead([*channels, 128], [2] * 4, classes)
        scales = [(s, s) for s in linear_scales(4, 0.1, 0.65).tolist()]
        grids = [(SIZE // stride, SIZE // stride) for stride in STRIDES]
        self.register_buffer("anchors", ssd_anchors(grids, scales, [1], (SIZE, SIZE)))

    def forward(self, images):
        features = list(self.backbone(images).values())
        return self.head([*features, self.extra(features[-1])])


def loss(model, images, targets):
    pairs = [anchor_targets(model.anchors, target["boxes"], target["labels"]) for target in targets]
    labels, deltas = (torch.stack(part) for part in zip(*pairs))
    classification, localisation = ssd_loss(*model(images), labels, deltas)
    return {"class": classification, "box": localisation}

# %%
train = scenes("train", 3072, difficulty="crowded")
test = scenes("test", 200, difficulty="crowded")
torch.manual_seed(0)
model = SSD(len(train.classes))
history = fit(model, loss, train, steps=500, peak_rate=1.2e-2, weight_decay=0.3,
              expected="06_nms crowd", checkpoint="06_nms.safetensors")  # fmt: skip
print(f"the loss fell to less than half: {sum(history.total[-50:]) < sum(history.total[:50]) / 2}")
if not history.total:  # nothing is trained while grading: a few scenes will do
    test = test.subset(range(8))

# %% [markdown]
r"""
What the network says, before anything is removed: `candidates` decodes all boxes of an image and lists each
pair of anchor and class that scores more than 0.02, at most 200 of them. These are steps 1 to 3 of `ssd_predict` in lesson 5.
"""

# %%
@torch.no_grad()
def candidates(model, data, threshold=0.02, most=200):
    """What the detector says of each image, before NMS: the `most` best, as dicts of boxes, scores and labels."""
    model.eval()
    found = []
    for images, _ in data.batches(50):
        logits, deltas = (output.float() for output in model(images))
        for scores, delta in zip(logits.softmax(-1)[..., 1:].cpu(), deltas):
            boxes = decode_boxes(delta, model.anchors).clamp(0, SIZE).cpu()
            rows, classes = (scores > threshold).nonzero(as_tuple=True)
            best, order = scores[rows, classes].topk(min(most, len(rows)))
            found.append({"boxes": boxes[rows[order]], "scores": best, "labels": classes[order] + 1})
    return found


def better_than(found, threshold):
    """The detections of an image that score more than a threshold."""
    return {key: value[found["scores"] > threshold] for key, value in found.items()}


raw = candidates(model, test)
truths = [{key: value.cpu() for key, value in target.items()} for target in test.targets]
objects = sum(len(truth["boxes"]) for truth in truths)
print(f"more than five candidates for each object: {sum(len(one['scores']) for one in raw) > 5 * objects}")

# %% [markdown]
r"""
In the figure, look at one shape and count its boxes. Above is what the network says with a score over 0.2,
below is what we are going to make of it: one box for each shape. For this first look torchvision does
the work; later yours will. Look also for shapes that have lost their box.
"""

# %%
import torchvision


def by_hand(found, choose):
    """`found` of an image, with only the rows that `choose(boxes, scores, labels)` gives, in its order."""
    rows = choose(found["boxes"], found["scores"], found["labels"])
    return {key: value[rows] for key, value in found.items()}


SHOWN = [0, 1, 2, 3]
alt = (
    "Four crowded scenes, twice. Above, two to six dashed boxes lie on almost every shape. Below, after NMS, "
    "nearly every shape has one box; a few that are half covered by their neighbour have none."
)
with plot.figure(alt, width=9, height=4.6, rows=2, columns=4) as axes:
    for (above, below), index in zip(axes.T, SHOWN):
        sure = better_than(raw[index], 0.2)
        left = by_hand(sure, lambda b, s, c: torchvision.ops.batched_nms(b, s, c, 0.5))
        plot.show_boxes(sure["boxes"], "prediction", image=test.images[index], thickness=0.7, ax=above)
        plot.show_boxes(left["boxes"], "prediction", image=test.images[index], ax=below)
    axes[0, 0].set(ylabel="before")
    axes[1, 0].set(ylabel="after")

# %% [markdown]
r"""
## Where the echoes come from

Lesson 3 gave each object a first chance, its best anchor, and a second chance: every anchor with an IoU over
0.5. All of these are trained to give *the same box*. The classifier is asked about each anchor by itself. It
cannot know that the neighbour has reported the object already, and nothing in the loss asks it to. So several
anchor boxes predict the same object. The slides' picture shows a soda can with two overlapping boxes; the one
that scores 0.99 is chosen, the other is dropped.

The rule behind it, **non-maximum suppression** (NMS), goes back to edge detectors: keep what is the maximum of
its neighbourhood. Here is the whole of it:

> Take the box with the best score; it stays. Remove all boxes that overlap it too much. Repeat with what is
> left.

Four boxes that can be drawn on paper:

| box | score | IoU with box 0 | with box 1 | with box 2 | with box 3 |
| --- | --- | --- | --- | --- | --- |
| 0: (10, 20, 50, 60) | 0.8 | 1 | 1200 / 2000 = **0.6** | 0 | 1200 / 2000 = **0.6** |
| 1: (10, 10, 50, 50) | 0.9 | **0.6** | 1 | 0 | 800 / 2400 = 0.33 |
| 2: (70, 20, 100, 50) | 0.6 | 0 | 0 | 1 | 0 |
| 3: (10, 30, 50, 70) | 0.7 | **0.6** | 0.33 | 0 | 1 |

The threshold is 0.5. In the figure, light blue boxes wait, the amber one is picked, orange ones have been kept,
and the pink one is removed.
"""

# %%
paper = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
paper_scores = torch.tensor([0.8, 0.9, 0.6, 0.7])
ROUNDS = [  # title, and boxes by role
    ("before: all wait", {"anchor": [0, 1, 2, 3]}),
    ("pick 1: 0.9 removes 0.8", {"ignored": [0], "anchor": [2, 3], "forced": [1]}),
    ("pick 2: 0.7 removes nothing", {"prediction": [1], "anchor": [2], "forced": [3]}),
    ("pick 3: 0.6, none is left", {"prediction": [1, 3], "forced": [2]}),
]
alt = (
    "Four boxes, one pick at a time. The box of score 0.9 is picked and removes the one of 0.8. Then 0.7 is picked, "
    "which overlaps 0.9 by a third only, then 0.6, which lies apart."
)
with plot.figure(alt, width=11, height=2.9, columns=4) as axes:
    for ax, (title, roles) in zip(axes, ROUNDS):
        ax.set(xlim=(0, 110), ylim=(78, 0), aspect="equal", title=title, xlabel="x (pixels)")
        for role, rows in roles.items():
            plot.show_boxes(paper[rows], role, labels=[f"{score:.1f}" for score in paper_scores[rows]], ax=ax)
    axes[0].set(ylabel="y (pixels)")

# %% [markdown]
r"""
Box 3 is the interesting one. It overlaps box 0 by 0.6, and box 0 scores better. But box 0 is *gone* when box 3
is looked at, and what has been removed removes nothing itself. So the answer is boxes 1, 3, 2, in this order:
best first.

### The slides' algorithm, line by line

Algorithm 11.12.1 holds NMS and Soft-NMS in one. Here are its lines for NMS (`soft_NMS = False`):

| line | slides | in words |
| --- | --- | --- |
| 1–3 | Require $\mathcal{B}$, $\mathcal{P}$, $N_t$ | boxes, their scores, the IoU threshold |
| 4 | $\mathcal{D} \leftarrow \{\}$; $\mathcal{S} \leftarrow \{\}$ | nothing is kept yet |
| 5 | **while** $\mathcal{B} \neq$ empty **do** | as long as boxes wait |
| 6 | $m \leftarrow \text{argmax}\; \mathcal{P}$ | the place of the best score |
| 7 | $\mathcal{M} \leftarrow b_m$; $\mathcal{N} \leftarrow p_m$ | this box and its score |
| 8 | $\mathcal{D} \leftarrow \mathcal{D} \cup \mathcal{M}$; $\mathcal{B} \leftarrow \mathcal{B} - \mathcal{M}$; $\mathcal{S} \leftarrow \mathcal{S} \cup \mathcal{N}$; $\mathcal{P} \leftarrow \mathcal{P} - \mathcal{N}$ | it is kept and waits no more |
| 9 | **for** $b_i$ **in** $\mathcal{B}$ **do** | look at each that still waits |
| 12 | **elif** $\text{IoU}(\mathcal{M}, b_i) \geq N_t$ **then** | does it overlap the picked one too much? |
| 13 | $\mathcal{B} = \mathcal{B} - b_i$; $\mathcal{P} = \mathcal{P} - p_i$ | then it is removed |
| 17 | **return** $\mathcal{D}$, $\mathcal{S}$ | what was kept, in the order of the picks |

**Erratum.** Line 12 removes a box at an IoU *equal* to $N_t$. torchvision, detectron2 and mmdetection remove
it only *above* $N_t$, and so do we: read $>$. It matters more often than one might think: with boxes in whole
pixels an IoU of exactly 1/2 is common. Two smaller points: $\mathcal{N}$ in line 7 is a score and has nothing
to do with the threshold $N_t$; and line 3 calls $N_t$ a minimum, namely the least IoU at which a box goes.

Scores are compared and never computed with, so they may be probabilities or logits. We return indices, not
boxes: with them the caller looks up boxes, scores and labels.

### Exercise: `nms`

*About 20 minutes, of medium difficulty.*

Write `nms(boxes, scores, iou_threshold)`. `boxes` is a `Tensor[N, 4]`, `scores` a `Tensor[N]`; give the indices
of the boxes that stay, an int64 `Tensor[K]`.

* Best score first; of equal scores the smaller index is visited first.
* A box goes if its IoU with a *kept* box is more than `iou_threshold`. Equal is not enough.
* `N = 0`: an empty tensor of int64. The arguments stay as they are.

Use `box_iou(boxes1, boxes2)` of lesson 1.

<details><summary>Hint</summary>
Sort once: <code>scores.argsort(descending=True, stable=True)</code> keeps equal ones in their order. What is
left to visit is a shorter list of indices after each pick. Take its first, then choose from the rest with a
mask. You may compute the IoU of all pairs once, before the loop.
</details>
"""


# %% exercise="nms"
def nms(boxes, scores, iou_threshold):
    """The boxes that non-maximum suppression leaves: no two of them overlap by more than the threshold.

    Source: the slides' algorithm 11.12.1 with soft_NMS = False; a box goes if its IoU is *above* the threshold.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        scores (Tensor[N]): of any size and sign; only their order counts.
        iou_threshold (float): a box that overlaps a better, kept one by more than this is removed.

    Returns:
        Tensor[K]: int64, indices into `boxes`, best score first; of equal scores the smaller index first.
    """
    ### BEGIN SOLUTION
    order = scores.argsort(descending=True, stable=True)  # [N]
    echoes = (box_iou(boxes[order], boxes[order]) > iou_threshold).triu(1)  # [N, N]: of each box, among those behind it
    stay = torch.ones_like(order, dtype=torch.bool)
    for rank in echoes.any(1).nonzero().flatten().tolist():
        if stay[rank]:  # a box that has gone removes nothing
            stay &= ~echoes[rank]
    return order[stay]
    ### END SOLUTION


# %% check="nms" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores = torch.tensor([0.8, 0.9, 0.6, 0.7])
same(nms(boxes, scores, 0.5), [1, 3, 2],
     "box 1 removes box 0; box 3 overlaps box 0 by 0.6, but box 0 is gone, and box 1 by 1/3 only")
untouched(nms, boxes.clone(), scores.clone(), 0.5)
same(nms(boxes, scores, 0.25), torch.tensor([1, 2]),
     "with a threshold of 0.25 box 3 goes too; indices are a tensor of int64")
same(nms(boxes, scores, 0.75), [1, 0, 3, 2], "with a threshold of 0.75 all four stay, best first")
halves = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])
same(nms(halves, torch.tensor([0.4, 0.3]), 0.5), [0, 1], "an IoU of exactly 0.5 is not more than 0.5: both stay")
same(nms(torch.zeros(0, 4), torch.zeros(0), 0.5), torch.zeros(0, dtype=torch.int64),
     "no boxes: an empty tensor of int64")
### BEGIN HIDDEN TESTS
def plain_nms(boxes, scores, threshold):
    """The same, one box at a time."""
    iou, ranks = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


dice = torch.Generator().manual_seed(6)
corners = torch.rand(120, 2, generator=dice) * torch.tensor([90.0, 50]) - 20
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(120, 2, generator=dice)], 1)
ranks = torch.rand(120, generator=dice)
for limit in (0.0, 0.2, 0.45, 0.7, 0.9):
    same(nms(crowd, ranks, limit), plain_nms(crowd, ranks, limit),
         f"120 random boxes, float32, threshold {limit}")
same(nms(crowd.double(), ranks.double(), 0.4), plain_nms(crowd, ranks, 0.4), "120 random boxes, float64")
same(nms(crowd.T.contiguous().T, ranks, 0.6), plain_nms(crowd, ranks, 0.6),
     "the same boxes, laid out in memory column by column")
same(nms(crowd, 8 * ranks - 6, 0.3), plain_nms(crowd, ranks, 0.3),
     "scores need not lie in 0..1: here from -6 to 2")
same(nms(crowd, -1 - ranks, 0.3), plain_nms(crowd, -ranks, 0.3), "all scores are below -1")
same(nms(crowd / 100, ranks, 0.5), plain_nms(crowd, ranks, 0.5),
     "boxes in hundredths of a pixel: the IoU is a ratio, it knows no unit")
same(nms(crowd - 500, ranks, 0.5), plain_nms(crowd - 500, ranks, 0.5), "all coordinates are negative")
same(nms(torch.tensor([[3.0, 5, 9, 6]]), torch.tensor([0.1]), 0.5), torch.tensor([0]), "a single box")
nested = torch.tensor([[0.0, 0, 40, 30], [10, 5, 20, 15], [0, 10, 40, 15]])
same(nms(nested, torch.tensor([0.5, 0.7, 0.6]), 0.3), [1, 2, 0],
     "boxes that lie inside of one another share little of their union")
row = torch.arange(400.0)
apart = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(nms(apart, torch.linspace(0, 1, 400), 0.5), list(range(399, -1, -1)),
     "400 boxes that do not touch, all of them stay, however low they score")
far = torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3], [0, 0, 3, 4]], dtype=torch.float64) + 2**24
same(nms(far, torch.tensor([0.5, 0.6, 0.7], dtype=torch.float64), 0.5), [2, 1],
     "float64 tells boxes apart that are one in float32")
same(nms(boxes, torch.tensor([0.5, 0.5 + 2e-7, 0.1, 0.5 - 2e-7]), 0.5), [1, 3, 2],
     "scores that differ in the seventh digit do differ")
### END HIDDEN TESTS

# %% check="nms" part="ties" points=1
twins = torch.tensor([[5.0, 5, 25, 20], [6, 5, 26, 20], [60, 0, 70, 30], [5, 5, 25, 20]])
same(nms(twins, torch.tensor([0.5, 0.5, 0.5, 0.5]), 0.5), [0, 2], "of equal scores the smaller index wins")
same(nms(twins, torch.tensor([0.25, 0.5, 0.5, 0.5]), 0.5), [1, 2], "boxes 1, 2 and 3 score alike: 1 comes first")
### BEGIN HIDDEN TESTS
same(nms(twins, torch.tensor([0.0, 0, 0, 0]), 0.5), [0, 2], "all scores are 0")
same(nms(twins, torch.tensor([0.5, 0.25, 0.25, 0.5]), 1.0), [0, 3, 1, 2],
     "no IoU is more than 1: equal boxes stay too")
touching = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [0, 10, 10, 20], [9, 9, 11, 11]])
same(nms(touching, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.0), [0, 1, 2],
     "with a threshold of 0 any overlap is too much, and touching is none")
flat = torch.tensor([[4.0, 4, 4, 4], [4, 4, 4, 4], [0, 0, 8, 8], [2, 0, 2, 8]])
same(nms(flat, torch.tensor([0.6, 0.7, 0.8, 0.5]), 0.5), [2, 1, 0, 3],
     "boxes without area overlap nothing, and nothing is 0 / 0")
chain = torch.tensor([[10.0 * i, 0, 10 * i + 40, 20] for i in range(9)])
same(nms(chain, torch.full((9,), 0.5), 0.5), [0, 2, 4, 6, 8],
     "a chain of boxes, each overlaps the next by 0.6: every other one stays")
same(nms(chain, torch.tensor([1.0, 2, 1, 1, 2, 1, 1, 2, 1]), 0.5), [1, 4, 7],
     "a chain of boxes: the better ones take their neighbours away")
sizes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 14, 10], [0, 0, 7, 10]])
same(nms(sizes, torch.tensor([0.5, 0.5, 0.5]), 0.5), [0],
     "equal scores and different sizes: the smaller index first, whatever the size")
third = torch.tensor([[0.0, 0, 20, 10], [10, 0, 30, 10], [0, 0, 40, 10], [0, 0, 10, 10]])
same(nms(third, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.25), [0],
     "IoUs of 1/3, 1/2 and 1/2 with box 0, all above 0.25")
same(nms(third, torch.tensor([0.9, 0.8, 0.6, 0.7]), 0.5), [0, 1, 3, 2],
     "IoUs of exactly 0.5 with boxes 0 and 1 remove nothing")
dice = torch.Generator().manual_seed(66)
grid = (torch.rand(150, 2, generator=dice) * torch.tensor([12.0, 9])).floor() * 4
grid = torch.cat([grid, grid + torch.tensor([16.0, 12])], 1)
few = (torch.rand(150, generator=dice) * 4).floor() / 4
table, expected = box_iou(grid.double(), grid.double()), []
for i in few.argsort(descending=True, stable=True).tolist():
    expected += [i] * (not any(table[i, j] > 0.375 for j in expected))
same(nms(grid, few, 0.375), torch.tensor(expected), "150 boxes on a grid, with four different scores")
same(nms(grid.double(), few.double(), 0.375), torch.tensor(expected),
     "150 boxes on a grid, with four different scores, float64")
### END HIDDEN TESTS

# %% [markdown]
r"""
Now on the detector's own boxes (orange; the true ones are green), of all classes at once for the moment. Look at
what the threshold does: at 0.2 shapes in a row lose their boxes to a neighbour, at 0.8 echoes stay. In a crowd no
threshold is right for all.
"""

# %%
THRESHOLDS = (0.2, 0.5, 0.8)
sure, truth, image = better_than(raw[1], 0.2), truths[1]["boxes"], test.images[1]
alt = (
    "A scene with pairs of rings and other shapes that overlap, at three thresholds of NMS. At 0.2 and 0.5 a pair of "
    "rings has one detection, at 0.8 both have one, and there are echoes."
)
with plot.figure(alt, width=9, height=3.3, columns=3) as axes:
    for ax, limit in zip(axes, THRESHOLDS):
        kept = nms(sure["boxes"], sure["scores"], limit)
        plot.show_boxes(truth, "truth", image=image, ax=ax)
        plot.show_boxes(sure["boxes"][kept], "prediction", ax=ax)
        ax.set(title=f"threshold {limit}: {len(kept)} boxes, {len(truth)} objects")
agrees = all(
    torch.equal(nms(one["boxes"], one["scores"], limit), torchvision.ops.nms(one["boxes"], one["scores"], limit))
    for one in raw[:20]
    for limit in THRESHOLDS
)
print(f"yours and torchvision's keep the same boxes, in the same order: {agrees}")

# %% [markdown]
r"""
## One class at a time

A rider sits on a horse. Their boxes overlap by far more than 0.5, and both are right. Boxes of different
classes do not repeat each other, so NMS runs within each class: a *person* removes persons only. Scores are
still compared over all classes in the end, since the caller wants the best detections first.

Take the four boxes from above and say that box 1 is of class 2, the others of class 1. Box 1 is alone and
stays. In class 1 box 0 is the best and removes box 3 (IoU 0.6); box 2 lies apart. Together, best first: 1, 0, 2.
Before it was 1, 3, 2.

The price: if a detector is unsure whether a shape is a star or a cross, and says both, both stay. We come back
to that in a question.

### Exercise: `batched_nms`

*About 15 minutes, easy.*

Write `batched_nms(boxes, scores, labels, iou_threshold)`, with your `nms`. `labels` is an int64 `Tensor[N]`.
Give the indices of all boxes that stay, over all classes, best score first; of equal scores the smaller index
first.

* Labels are any whole numbers from 0, and need not be without gaps.
* Coordinates are anything: negative, or far apart.
* `N = 0`: an empty tensor of int64.

<details><summary>Hint</summary>
<code>labels.unique()</code> lists the classes that occur. For each of them: the rows of its boxes, then
<code>nms</code> of these rows. It counts from 0 again: which rows of <code>boxes</code> are meant? Note in a bool
tensor which boxes stay; one sort at the end gives the order.
</details>
"""


# %% exercise="batched_nms"
def batched_nms(boxes, scores, labels, iou_threshold):
    """`nms` within each class: boxes of different classes do not remove each other.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels; anywhere, negative coordinates too.
        scores (Tensor[N]): as `nms` takes them.
        labels (Tensor[N]): int64, the class of each box; any whole numbers from 0.
        iou_threshold (float): as `nms` takes it.

    Returns:
        Tensor[K]: int64, indices into `boxes` over all classes, best score first; of equal scores the smaller
            index first.
    """
    ### BEGIN SOLUTION
    keep = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    for label in labels.unique():
        rows = (labels == label).nonzero().squeeze(1)
        keep[rows[nms(boxes[rows], scores[rows], iou_threshold)]] = True
    kept = keep.nonzero().squeeze(1)
    return kept[scores[kept].argsort(descending=True, stable=True)]
    ### END SOLUTION


# %% check="batched_nms" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores, labels = torch.tensor([0.8, 0.9, 0.6, 0.7]), torch.tensor([1, 2, 1, 1])
same(batched_nms(boxes, scores, labels, 0.5), [1, 0, 2],
     "box 1 is alone in class 2; in class 1 box 0 removes box 3; best first, whatever the class")
untouched(batched_nms, boxes.clone(), scores.clone(), labels.clone(), 0.5)
same(batched_nms(boxes, scores, torch.tensor([3, 3, 3, 3]), 0.25), torch.tensor([1, 2]),
     "one class only: what nms gives, a tensor of int64")
same(batched_nms(boxes[[1, 1]], scores[:2], torch.tensor([5, 0]), 0.5), [1, 0],
     "one box twice, as class 5 and as class 0: both stay")
nothing = torch.zeros(0, dtype=torch.int64)
same(batched_nms(torch.zeros(0, 4), torch.zeros(0), nothing, 0.5), nothing, "no boxes: an empty tensor of int64")
### BEGIN HIDDEN TESTS
def plain_batched(boxes, scores, labels, threshold):
    """The same, one box at a time."""
    iou, ranks, names, kept = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist(), labels.tolist(), []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(names[i] == names[j] and iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


dice = torch.Generator().manual_seed(7)
corners = torch.rand(150, 2, generator=dice) * torch.tensor([70.0, 40])
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(150, 2, generator=dice)], 1)
ranks, kinds = torch.rand(150, generator=dice), torch.randint(1, 5, (150,), generator=dice)
for limit in (0.1, 0.35, 0.6, 0.85):
    same(batched_nms(crowd, ranks, kinds, limit), plain_batched(crowd, ranks, kinds, limit),
         f"150 random boxes of 4 classes, float32, threshold {limit}")
same(batched_nms(crowd.double(), ranks.double(), kinds, 0.4), plain_batched(crowd, ranks, kinds, 0.4),
     "150 random boxes of 4 classes, float64")
gaps = torch.tensor([0, 7, 90, 3])[kinds - 1]
same(batched_nms(crowd, ranks, gaps, 0.3), plain_batched(crowd, ranks, kinds, 0.3),
     "the labels are 0, 3, 7 and 90: any whole numbers")
same(batched_nms(crowd, ranks, torch.arange(150), 0.0), ranks.argsort(descending=True),
     "every box is of a class of its own: all of them stay, best first")
same(batched_nms(crowd, -5 * ranks, kinds, 0.3), plain_batched(crowd, -ranks, kinds, 0.3), "negative scores")
alike = torch.full((4,), 0.5)
same(batched_nms(boxes, alike, torch.tensor([2, 1, 1, 2]), 0.5), [0, 1, 2],
     "equal scores: the smaller index first, whatever its class")
few = (4 * ranks).floor() / 4
same(batched_nms(crowd, few, kinds, 0.3), plain_batched(crowd, few, kinds, 0.3),
     "150 boxes of 4 classes with four different scores")
halves = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [0, 0, 2, 1], [0, 0, 1, 1]])
same(batched_nms(halves, torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([4, 4, 2, 4]), 0.5), [3, 2, 0],
     "in class 4 two equal boxes, and one of IoU exactly 0.5 with them")
row = torch.arange(300.0)
apart = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(len(batched_nms(apart, row / 300, (row % 3).long(), 0.5)), 300, "300 boxes that do not touch: all stay")
single = batched_nms(torch.tensor([[3.0, 5, 9, 6]]), torch.tensor([0.1]), torch.tensor([6]), 0.5)
same(single, torch.tensor([0]), "a single box of class 6")
### END HIDDEN TESTS

# %% check="batched_nms" part="anywhere" points=1
ends = torch.tensor([[90.0, 90, 110, 110], [-21, -21, -1, -1]])
same(batched_nms(ends, torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), 0.5), [0, 1],
     "two boxes of different classes, 110 pixels apart, one with negative coordinates")
### BEGIN HIDDEN TESTS
def by_classes(boxes, scores, labels, threshold):
    """The same, one box at a time."""
    iou, ranks, names, kept = box_iou(boxes.double(), boxes.double()).tolist(), scores.tolist(), labels.tolist(), []
    for i in sorted(range(len(ranks)), key=lambda i: (-ranks[i], i)):
        if not any(names[i] == names[j] and iou[i][j] > threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


for shift in (100, 128, 300, 512, 1000, 1024, 1333, 4000, 4096, 5000, 7680, 10000, 100000, 1000000):
    moved = torch.tensor([[0.0, 0, 20, 10]] * 2 + [[-300.0, -200, -280, -190]] * 2)
    moved[1] += shift
    moved[3] -= shift
    same(batched_nms(moved, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([2, 1, 1, 2]), 0.5), [0, 1, 2, 3],
         f"boxes of two classes that lie {shift} pixels apart, right and left, below and above")
dice = torch.Generator().manual_seed(8)
corners = torch.rand(120, 2, generator=dice) * torch.tensor([70.0, 40]) - torch.tensor([60.0, 90])
crowd = torch.cat([corners, corners + 5 + 30 * torch.rand(120, 2, generator=dice)], 1)
ranks, kinds = torch.rand(120, generator=dice), torch.randint(0, 6, (120,), generator=dice)
for limit in (0.2, 0.5):
    same(batched_nms(crowd, ranks, kinds, limit), by_classes(crowd, ranks, kinds, limit),
         f"120 boxes around the corner of the image, many coordinates negative, threshold {limit}")
same(batched_nms(crowd - 400, ranks, kinds, 0.3), by_classes(crowd - 400, ranks, kinds, 0.3),
     "every coordinate is negative")
specks = torch.tensor([[0.0, 0, 1, 1], [0.25, 0, 1.25, 1], [0.375, 0, 1.375, 1]]) / 64
specks = torch.cat([specks, torch.tensor([[4000.0, 3000, 4064, 3064]])])
same(batched_nms(specks, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([90, 90, 90, 1]), 0.5), [0, 2, 3],
     "class 90, boxes of 1/64 pixel, IoU 0.6 and 0.45, beside a box at 4000: no digit may be lost")
same(batched_nms(specks * 2**-10, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([90, 90, 90, 1]), 0.5),
     [0, 2, 3], "the same a thousand times smaller")
### END HIDDEN TESTS

# %% [markdown]
r"""
### A trick, and where it breaks

Libraries like to do all classes in one call: they shift the boxes of class $k$ by $k \cdot (c_{max} + 1)$,
where $c_{max}$ is the largest coordinate of all. Then boxes of different classes cannot meet, and one NMS over
all boxes does the work.

Cannot meet? Two boxes, class 1 at (90, 90, 110, 110) and class 2 at (−21, −21, −1, −1): the shift is 111 a
class.
"""

# %%
ends, kinds = torch.tensor([[90.0, 90, 110, 110], [-21, -21, -1, -1]]), torch.tensor([1, 2])
moved = ends + (kinds * (ends.max() + 1))[:, None]
print("class 1 and class 2 after the shift:", moved.tolist())
print("nms after the shift keeps:", nms(moved, torch.tensor([0.9, 0.8]), 0.5).tolist())
print("your batched_nms keeps:   ", batched_nms(ends, torch.tensor([0.9, 0.8]), kinds, 0.5).tolist())

# %% [markdown]
r"""
One box is 110 pixels away from the other and of another class, and is removed all the same. Boxes that are not
clipped to the image have negative coordinates every day. And where shifts are large, float32 has no digits left
for small boxes. torchvision uses the trick for up to 1,000 boxes on a CPU, and a loop over the classes beyond;
on random boxes around an image's corner its answer differs from the definition every now and then. Going
class by class is right everywhere.

By class fewer boxes compete, so more of them stay. On our scenes:
"""

# %%
by_class = [len(batched_nms(one["boxes"], one["scores"], one["labels"], 0.5)) for one in raw]
at_once = [len(nms(one["boxes"], one["scores"], 0.5)) for one in raw]
print(f"by class more boxes stay: {sum(by_class) > sum(at_once)}")

# %% [markdown]
r"""
## Two horses

The paper's first figure shows two horses, one in front of the other. The detector finds both, with scores of
0.95 and 0.8, and the boxes overlap. NMS sets the second score to 0: a horse is lost. The slides ask whether it
would not be better to give it a lower score, such as 0.4.

**Soft-NMS** does that. Its lines 10 and 11 take the place of 12 and 13:

| line | slides | in words |
| --- | --- | --- |
| 10 | **if** soft_NMS = True **then** | |
| 11 | $p_i = p_i\, e^{-\frac{\text{IoU}(\mathcal{M}, b_i)^2}{\sigma}}$ | the more it overlaps the picked box, the less it scores |

Nothing is removed. An echo sinks in the ranking, where it does little harm; a second object sinks too, but
stays in the list. In numbers, with $\sigma = 0.5$: an IoU of 0.3 costs a factor of $e^{-0.09/0.5} = 0.84$, 0.5
costs 0.61, 0.6 costs 0.49, 0.9 costs 0.20. The slides' horse that falls from 0.8 to 0.4 is halved: that is an
IoU of $\sqrt{0.5 \ln 2} = 0.59$.

The paper has a linear form as well: $p_i\,(1 - \text{IoU})$ where the IoU is at least $N_t$. In the figure,
look at the steps: NMS falls from 1 to 0 at its threshold, the linear form jumps there too. The Gaussian has
no step, so it needs no threshold, and a box that overlaps by a hair more is treated a hair worse.
"""

# %%
iou = torch.linspace(0, 1, 401)
CURVES = [
    ("NMS, threshold 0.5", (iou <= 0.5).float()),
    ("linear, from 0.3", torch.where(iou >= 0.3, 1 - iou, 1.0)),
    ("Gaussian, σ = 0.1", torch.exp(-(iou**2) / 0.1)),
    ("Gaussian, σ = 0.5", torch.exp(-(iou**2) / 0.5)),
    ("Gaussian, σ = 1", torch.exp(-(iou**2) / 1.0)),
]
alt = (
    "What is left of a score over the IoU with the picked box. NMS: 1 up to 0.5, then 0. Linear: 1 up to 0.3, a "
    "jump to 0.7, then down to 0. Gaussian: smooth from 1 down; at IoU 1 it ends near 0 for σ 0.1, 0.14 for σ 0.5, "
    "0.37 for σ 1."
)
with plot.figure(alt, width=6.5, height=3.6) as ax:
    for number, (name, factor) in enumerate(CURVES):
        plot.curve(iou, factor, number, name, ax)
    ax.set(xlabel="IoU with the picked box", ylabel="factor on the score", ylim=(-0.03, 1.05))
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))

# %% [markdown]
r"""
**What the slides leave out.** Their list of inputs has neither $\sigma$ nor an end: with line 13 gone, every
box that came in comes out, thousands of them with scores near 0. The authors' code has $\sigma = 0.5$ and
leaves out what scores less than 0.001. We take both as defaults.

### The ranking changes on the way

Scores fall after each pick, so the next best must be looked for *anew* (line 6 stands inside of the loop). Our
four boxes, with $\sigma = 0.5$:

| | box 0 | box 1 | box 2 | box 3 |
| --- | --- | --- | --- | --- |
| at first | 0.8 | **0.9** | 0.6 | 0.7 |
| box 1 is picked | 0.8 · exp(−0.6² / 0.5) = 0.389 | | **0.6** | 0.7 · exp(−0.333² / 0.5) = 0.561 |
| box 2 is picked | 0.389 | | | **0.561** |
| box 3 is picked | 0.389 · exp(−0.6² / 0.5) = **0.190** | | | |

Box 2 was the last, and comes second: it shares nothing with anybody. Box 0 decays twice. The answer is the
indices 1, 2, 3, 0 and the scores 0.9, 0.6, 0.561, 0.190: each box with the score it had when it was picked.
Later picks leave it alone. In the figure, follow box 0.
"""

# %%
STAGES = [
    ("at first", [0.8, 0.9, 0.6, 0.7], []),
    ("box 1 is picked", [0.3894, 0.9, 0.6, 0.5605], [1]),
    ("box 2 is picked", [0.3894, 0.9, 0.6, 0.5605], [1, 2]),
    ("box 3 is picked", [0.1895, 0.9, 0.6, 0.5605], [1, 2, 3]),
]
alt = (
    "Scores of boxes 0 to 3 as bars, at first and after each pick. Box 0 falls from 0.8 to 0.39 and then 0.19, "
    "box 3 from 0.7 to 0.56, below box 2, which stays at 0.6."
)
with plot.figure(alt, width=9.5, height=2.6, columns=4, sharey=True) as axes:
    for ax, (title, values, done) in zip(axes, STAGES):
        roles = ["forced" if done[-1:] == [box] else "prediction" if box in done else "anchor" for box in range(4)]
        colors = [plot.ROLES[role].color for role in roles]
        bars = ax.bar(range(4), values, color=colors, edgecolor="black")
        ax.bar_label(bars, [f"{value:.2f}" + " ✓" * (box in done) for box, value in enumerate(values)], fontsize=8)
        ax.set(title=title, xlabel="box", xticks=range(4), ylim=(0, 1.05))
    axes[0].set(ylabel="score")

# %% [markdown]
r"""
### Exercise: `soft_nms`

*About 25 minutes, of medium difficulty.*

Write `soft_nms(boxes, scores, sigma=0.5, score_threshold=0.001)` for boxes of one class. Give a pair: the
indices of the picks, an int64 `Tensor[K]`, and their decayed scores, a `Tensor[K]`, both in the order of the
picks.

* Pick the best of the current scores; in a tie the smaller index. Multiply the scores of those that still wait
  by $e^{-\text{IoU}^2 / \sigma}$. Then look for the best anew.
* What scores less than `score_threshold` when its turn comes is left out; a score equal to it stays.
* Leave `scores` as they are. `N = 0`: two empty tensors.

<details><summary>Hint</summary>
Work on <code>scores.clone()</code>. You need to know who still waits: a bool tensor, or a list of indices that
gets shorter. When even the best of those that wait is below the threshold, so are all the others.
</details>
"""


# %% setup=true
def pair(indices, scores):
    """What `soft_nms` should give, from two lists."""
    return torch.tensor(indices, dtype=torch.int64), torch.tensor(scores)

# %% exercise="soft_nms"
def soft_nms(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Boxes and scores after Soft-NMS with Gaussian decay: nothing is removed, what overlaps scores less.

    Source: the slides' algorithm 11.12.1 with soft_NMS = True; Bodla et al., ICCV 2017 (arXiv:1704.04503).

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels, of one class.
        scores (Tensor[N]): in 0..1.
        sigma (float): of the decay; a smaller one decays more.
        score_threshold (float): what scores less than this, after its decays, is left out.

    Returns:
        (Tensor[K], Tensor[K]): int64 indices into `boxes` in the order of the picks, best first, and the decayed
            scores at the picks. Of equal scores the smaller index is picked first.
    """
    ### BEGIN SOLUTION
    iou = box_iou(boxes, boxes)  # [N, N]
    current = scores.clone()
    left = torch.ones_like(scores, dtype=torch.bool)
    picked, decayed = [], []
    while left.any():
        best = current.where(left, -math.inf).argmax().item()
        if current[best] < score_threshold:
            break
        picked.append(best)
        decayed.append(current[best].item())
        left[best] = False
        current *= torch.exp(-(iou[best] ** 2) / sigma)
    return torch.tensor(picked, dtype=torch.int64, device=boxes.device), scores.new_tensor(decayed)
    ### END SOLUTION


# %% check="soft_nms" points=2
halves, two = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]]), torch.tensor([0.75, 0.8])
picked, decayed = soft_nms(halves, two, 0.3)
same(picked, torch.tensor([1, 0]), "both boxes stay, the better one first; indices are a tensor of int64")
same(decayed, torch.tensor([0.8, 0.325949]), "the IoU is 0.5: 0.75 · exp(-0.5² / 0.3)")
same(soft_nms(halves, two)[1], [0.8, 0.454898], "sigma is 0.5 unless given: 0.75 · exp(-0.5² / 0.5)")
apart = torch.tensor([[0.0, 0, 2, 1], [5, 0, 7, 1], [2, 0, 4, 1]])
same(soft_nms(apart, torch.tensor([0.5, 0.25, 0.75])), pair([2, 0, 1], [0.75, 0.5, 0.25]),
     "boxes that share nothing keep their scores")
untouched(soft_nms, halves.clone(), two.clone())
same(soft_nms(torch.zeros(0, 4), torch.zeros(0)), (torch.zeros(0, dtype=torch.int64), torch.zeros(0)),
     "no boxes: no indices and no scores")
### BEGIN HIDDEN TESTS
slight = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
same(soft_nms(slight, torch.tensor([0.8, 0.9])), pair([1, 0], [0.9, 0.780489]),
     "an IoU of 1/9 decays as well, a little: there is no threshold on the IoU")
twins = torch.tensor([[3.0, 1, 9, 5], [3, 1, 9, 5]])
same(soft_nms(twins, torch.tensor([0.5, 1.0])), pair([1, 0], [1, 0.067668]),
     "the same box twice, IoU 1: 0.5 · exp(-1 / 0.5)")
for width in (0.05, 0.2, 2.0):
    values = {0.05: 0.005054, 0.2: 0.214879, 2.0: 0.661873}
    same(soft_nms(halves, two, sigma=width), pair([1, 0], [0.8, values[width]]), f"two halves with sigma {width}")
same(soft_nms(halves.double(), two.double(), 0.3),
     (torch.tensor([1, 0]), torch.tensor([0.8, 0.32594862], dtype=torch.float64)),
     "float64 in, float64 out", atol=1e-6, rtol=0)
same(soft_nms(halves / 100 - 1, two, 0.3), pair([1, 0], [0.8, 0.325949]),
     "the same two, smaller than a pixel and at negative coordinates")
flat = torch.tensor([[4.0, 4, 4, 4], [4, 4, 4, 4], [0, 0, 8, 8]])
same(soft_nms(flat, torch.tensor([0.25, 0.5, 0.75])), pair([2, 1, 0], [0.75, 0.5, 0.25]),
     "boxes without area overlap nothing, and nothing is 0 / 0")
same(soft_nms(twins[:1], torch.tensor([0.0625])), (torch.tensor([0]), torch.tensor([0.0625])), "a single box")
far = torch.tensor([[0, 0, 3, 3], [1, 0, 4, 3]], dtype=torch.float64) + 2**24
same(soft_nms(far, torch.tensor([0.5, 0.75], dtype=torch.float64))[1],
     torch.tensor([0.75, 0.5 * math.exp(-0.5)], dtype=torch.float64),
     "float64 tells boxes apart that are one in float32")
row = torch.arange(300.0)
many = torch.stack([row * 10, row, row * 10 + 8, row + 6], 1)
same(soft_nms(many, (row + 1) / 301), pair(range(299, -1, -1), ((row + 1) / 301).flip(0).tolist()),
     "300 boxes that do not touch: all stay, with their scores")
### END HIDDEN TESTS

# %% check="soft_nms" part="ranking" points=2
boxes = torch.tensor([[10.0, 20, 50, 60], [10, 10, 50, 50], [70, 20, 100, 50], [10, 30, 50, 70]])
scores = torch.tensor([0.8, 0.9, 0.6, 0.7])
same(soft_nms(boxes, scores)[0], [1, 2, 3, 0],
     "after the first pick box 2 scores best, though it was last before: look for the best anew each time")
same(soft_nms(boxes, scores)[1], [0.9, 0.6, 0.560516, 0.189542],
     "box 0 decays twice: after box 1 is picked, and after box 3")
same(soft_nms(boxes, scores, 0.5, 0.25), pair([1, 2, 3], [0.9, 0.6, 0.560516]),
     "with a score threshold of 0.25 box 0 is left out: at the end it has 0.19")
### BEGIN HIDDEN TESTS
def plain_soft(boxes, scores, sigma, least):
    """The same, one number at a time."""
    iou, now = box_iou(boxes.double(), boxes.double()).tolist(), dict(enumerate(scores.double().tolist()))
    picked, values = [], []
    while now:
        best = max(now, key=lambda i: (now[i], -i))
        score = now.pop(best)
        if score < least:
            break
        picked.append(best)
        values.append(score)
        now = {i: value * math.exp(-iou[best][i] * iou[best][i] / sigma) for i, value in now.items()}
    return torch.tensor(picked, dtype=torch.int64), torch.tensor(values, dtype=scores.dtype)


dice = torch.Generator().manual_seed(9)
corners = torch.rand(40, 2, generator=dice, dtype=torch.float64) * torch.tensor([60.0, 35]) - 10
crowd = torch.cat([corners, corners + 8 + 30 * torch.rand(40, 2, generator=dice, dtype=torch.float64)], 1)
ranks = torch.rand(40, generator=dice, dtype=torch.float64)
for width, least in ((0.5, 0.001), (0.3, 0.05), (0.1, 0.2), (1.0, 0.0)):
    expected = plain_soft(crowd.float(), ranks.float(), width, least)
    same(soft_nms(crowd.float(), ranks.float(), width, least), expected,
         f"40 random boxes, float32, sigma {width}, score threshold {least}")
    expected = plain_soft(crowd, ranks, width, least)
    same(soft_nms(crowd, ranks, width, least), expected,
         f"40 random boxes, float64, sigma {width}, score threshold {least}")
same(soft_nms(crowd, ranks), plain_soft(crowd, ranks, 0.5, 0.001),
     "without sigma and score threshold they are 0.5 and 0.001")
lonely = torch.tensor([[0.0, 0, 2, 1], [5, 0, 7, 1], [2, 0, 4, 1]])
same(soft_nms(lonely, torch.tensor([0.25, 0.125, 0.5]), 0.5, 0.25), pair([2, 0], [0.5, 0.25]),
     "a score that equals the threshold is not below it; one that was below it from the start is left out")
same(soft_nms(lonely, torch.tensor([0.0005, 0.5, 0.002])), pair([1, 2], [0.5, 0.002]),
     "the score threshold is 0.001 unless given")
nobody = (torch.zeros(0, dtype=torch.int64), torch.zeros(0))
same(soft_nms(lonely, torch.tensor([0.25, 0.125, 0.5]), 0.5, 0.75), nobody,
     "all scores are below the threshold: no indices and no scores")
same(soft_nms(lonely, torch.tensor([0.0, 0.5, 0.0]), 0.5, 0.0), pair([1, 0, 2], [0.5, 0, 0]),
     "a threshold of 0 leaves out nothing, scores of 0 stay")
same(soft_nms(boxes, scores, 0.5, 0.0)[0], [1, 2, 3, 0], "a threshold of 0 and decayed scores: all four stay")
alike = torch.full((4,), 0.5)
same(soft_nms(boxes[[0, 0, 2, 0]], alike), pair([0, 2, 1, 3], [0.5, 0.5, 0.067668, 0.009158]),
     "equal scores: the smaller index is picked first; three equal boxes decay once, then twice")
sizes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 14, 10], [0, 0, 7, 10]])
same(soft_nms(sizes, alike[:3]), pair([0, 2, 1], [0.5, 0.187656, 0.109312]),
     "equal scores and different sizes: the smaller index first, whatever the size")
same(soft_nms(lonely, torch.tensor([0.5, 0.75, 0.5])), pair([1, 0, 2], [0.75, 0.5, 0.5]),
     "equal scores of boxes that share nothing: the smaller index first")
same(soft_nms(boxes[[1] * 5], torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), 0.25), pair([0, 1], [0.9, 0.014653]),
     "five equal boxes: each pick takes the others down by exp(-4)")
same(soft_nms(boxes, scores, 0.001, 0.0)[1][:2], [0.9, 0.6],
     "with a tiny sigma decayed scores become 0, and nothing breaks")
### END HIDDEN TESTS

# %% [markdown]
r"""
Watch both at work, one pick at a time. Two horses (boxes 0 and 1), one in front of the other, each with an echo (2 and
3), and something apart (4 and 5). Step through NMS, then choose Soft-NMS and step again. From which threshold on does
NMS keep the second horse, and up to which does it still remove both echoes? What does Soft-NMS make of boxes 1 and 3?
"""

# %%
from coursekit.widgets import explore_nms

horses = torch.tensor([[20.0, 30, 80, 100], [32, 25, 92, 95], [22, 34, 84, 104], [30, 20, 90, 90],
                       [94, 70, 124, 118], [92, 76, 122, 122]])  # fmt: skip
explore_nms(nms, horses, torch.tensor([0.95, 0.8, 0.7, 0.65, 0.6, 0.35]), soft_nms=soft_nms)

# %% [markdown]
r"""
Like NMS, Soft-NMS works within a class. The next cell wraps yours, and shows what scores over 0.2 after either, on
the three of sixty scenes where Soft-NMS helps most. Above, shapes that stand close to another have lost their box
(green without orange). Below they are back, with lower scores, and so are some echoes.
"""

# %%
def soft_by_class(boxes, scores, labels, sigma=0.5, score_threshold=0.001):
    """`soft_nms` within each class: indices and decayed scores over all classes, best first."""
    rows, values = [labels[:0]], [scores[:0]]
    for label in labels.unique():
        mine = (labels == label).nonzero().squeeze(1)
        picked, decayed = soft_nms(boxes[mine], scores[mine], sigma, score_threshold)
        rows.append(mine[picked])
        values.append(decayed)
    values, order = torch.cat(values).sort(descending=True, stable=True)
    return torch.cat(rows)[order], values


def hard(found, limit):
    """The detections of an image after NMS by class."""
    return by_hand(found, lambda b, s, c: batched_nms(b, s, c, limit))


def soft(found, sigma):
    """The detections of an image after Soft-NMS by class, with the decayed scores."""
    rows, values = soft_by_class(found["boxes"], found["scores"], found["labels"], sigma)
    return {"boxes": found["boxes"][rows], "scores": values, "labels": found["labels"][rows]}


def found_objects(found, truths):
    """For each true box of all images whether it is found: one detection finds one object, best first."""
    hits = []
    for one, truth in zip(found, truths):
        iou = box_iou(truth["boxes"], one["boxes"])
        iou[(iou < 0.5) | (truth["labels"][:, None] != one["labels"])] = 0
        hit = torch.zeros(len(truth["boxes"]), dtype=torch.bool)
        for column in one["scores"].argsort(descending=True, stable=True):
            free = torch.where(hit, 0, iou[:, column])
            if len(free) and free.max() > 0:
                hit[free.argmax()] = True
        hits.append(hit)
    return torch.cat(hits)


def shown(found):
    return better_than(found, 0.2)


def helps(index):
    """How many more objects of a scene Soft-NMS finds, less the other boxes it adds."""
    before, after = shown(hard(raw[index], 0.5)), shown(soft(raw[index], 0.5))
    more = [int(found_objects([one], [truths[index]]).sum()) for one in (before, after)]
    return more[1] - more[0], len(before["scores"]) - len(after["scores"])


SHOWN = sorted(range(min(60, len(raw))), key=helps, reverse=True)[:3]
alt = (
    "Three crowded scenes, twice, with true boxes. Above, after NMS at 0.5, some shapes that are half covered have no "
    "detection. Below, after Soft-NMS, they have one, with a lower score, and so have a few echoes."
)
with plot.figure(alt, width=10, height=6.9, rows=2, columns=3) as axes:
    for (above, below), index in zip(axes.T, SHOWN):
        for ax, one in ((above, shown(hard(raw[index], 0.5))), (below, shown(soft(raw[index], 0.5)))):
            plot.show_boxes(truths[index]["boxes"], "truth", image=test.images[index], ax=ax)
            plot.show_boxes(one["boxes"], "prediction", scores=one["scores"], ax=ax)
    axes[0, 0].set(ylabel="NMS, threshold 0.5")
    axes[1, 0].set(ylabel="Soft-NMS, σ = 0.5")

# %% [markdown]
r"""
## Does it help? And where?

One picture proves nothing. We score 200 scenes by AP (lesson 7 builds it; `coursekit.evaluation`
computes it), for several thresholds of NMS and several $\sigma$, on two sets: the crowded scenes, and scenes of
the same shapes where they seldom overlap. Same detector, same candidates; only the last step differs.
"""

# %%
import dataclasses

from coursekit.data.scenes import DIFFICULTIES
from coursekit.evaluation import evaluate_detections

alone = dataclasses.replace(DIFFICULTIES["crowded"], objects=(1, 4), company=0.0)
sparse = scenes("test", len(test), difficulty=alone)
sparse_raw = candidates(model, sparse)
LIMITS, SIGMAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.1, 0.2, 0.3, 0.5, 0.8)


def AP(data, found):
    return evaluate_detections(found, data.targets, data.classes, small=16, large=40)


crowded_hard = [AP(test, [hard(one, limit) for one in raw]) for limit in LIMITS]
crowded_soft = [AP(test, [soft(one, sigma) for one in raw]) for sigma in SIGMAS]
sparse_hard = [AP(sparse, [hard(one, limit) for one in sparse_raw]) for limit in LIMITS]
sparse_soft = [AP(sparse, [soft(one, sigma) for one in sparse_raw]) for sigma in SIGMAS]

# %%
alt = (
    "AP over the threshold of NMS, left, and over sigma of Soft-NMS, right. Sparse scenes: flat at about 0.6 in both, "
    "falling for thresholds over 0.6. Crowded scenes: NMS rises from 0.27 at 0.3 to its best, about 0.37, at 0.7; "
    "Soft-NMS reaches the same from sigma 0.5 on."
)
with plot.figure(alt, width=9, height=3.4, columns=2, sharey=True) as (left, right):
    for role, name, one, other in (
        (0, "crowded", crowded_hard, crowded_soft), (1, "sparse", sparse_hard, sparse_soft)
    ):  # fmt: skip
        plot.curve(LIMITS, [scores.AP for scores in one], role, name, left)
        plot.curve(SIGMAS, [scores.AP for scores in other], role, name, right)
    left.set(xlabel="NMS: IoU threshold", ylabel="AP on 200 scenes", title="NMS")
    right.set(xlabel="Soft-NMS: σ", title="Soft-NMS")

# %%
usual, smooth = LIMITS.index(0.5), SIGMAS.index(0.5)  # what one takes without thinking
gain = crowded_soft[smooth].AP - crowded_hard[usual].AP
gain_sparse = sparse_soft[smooth].AP - sparse_hard[usual].AP
best_limit = max(range(len(LIMITS)), key=lambda i: crowded_hard[i].AP)
behind = crowded_hard[best_limit].AP - crowded_soft[smooth].AP
print(f"crowded: Soft-NMS (σ = 0.5) gains more than 0.02 AP over NMS at 0.5: {gain > 0.02}")
print(f"sparse: it gains less than in the crowd, and loses nothing: {-0.005 < gain_sparse < gain}")
print(f"crowded: the best threshold of NMS is higher than 0.5: {LIMITS[best_limit] > 0.5}")
print(f"crowded: at that threshold NMS is within 0.02 of Soft-NMS: {abs(behind) < 0.02}")

# %% [markdown]
r"""
Read it with care. Against NMS at the usual 0.5, Soft-NMS wins in the crowd, by about 0.04 when we wrote this. But
NMS at 0.7 does as well there: in these scenes two neighbours overlap by a half as a rule, and 0.5 is simply the
wrong threshold. What Soft-NMS saves us is the choice. In the sparse scenes NMS at 0.8 leaves echoes and costs AP;
Soft-NMS with one and the same $\sigma$ is near the top of both curves. Sets of photographs have both kinds of
image. The small gain in sparse scenes has another reason: an echo may fit the object better than the box with the
best score, and AP asks for good fits too.

### Where the gain is

For each true box take its IoU with the nearest object of the same class: 0 is alone, 0.6 is a box half hidden
behind a twin. Which share of the objects is found, with the right class and an IoU of at least 0.5? A longer list
finds more, so all methods may report equally many boxes over the whole set, their best ones: left as many as there
are objects, right four times as many.
"""

# %%
def best_of(found, count):
    """Of all images together the `count` detections that score best."""
    every = torch.cat([one["scores"] for one in found]).sort(descending=True).values
    return [better_than(one, every[min(count, len(every) - 1)]) for one in found] if len(every) else found


def nearest_twin(truth):
    """For each true box the largest IoU with another one of its class, 0 where there is none."""
    same_class = truth["labels"][:, None] == truth["labels"]
    return (box_iou(truth["boxes"], truth["boxes"]) * same_class).fill_diagonal_(0).amax(1)


twins = torch.cat([nearest_twin(truth) for truth in truths if len(truth["boxes"])])
EDGES = (0.0, 0.2, 0.35, 0.5, 1.01)
methods = {
    "NMS, threshold 0.5": [hard(one, 0.5) for one in raw],
    "NMS, threshold 0.7": [hard(one, 0.7) for one in raw],
    "Soft-NMS, σ = 0.5": [soft(one, 0.5) for one in raw],
}


def shares(found, count):
    """Of each group of true boxes the share that is among the best `count` detections."""
    hit = found_objects(best_of(found, count), truths).float()
    return [hit[(twins >= low) & (twins < high)].mean().item() for low, high in zip(EDGES, EDGES[1:])]


short = {name: shares(found, objects) for name, found in methods.items()}
long = {name: shares(found, 4 * objects) for name, found in methods.items()}

# %%
alt = (
    "The share of objects found over the overlap with their nearest twin. With a short list all three methods fall "
    "from 0.8 to about 0.5. With the long list NMS at 0.5 falls to 0.7, NMS at 0.7 and Soft-NMS stay over 0.8."
)
NAMES = ["under 0.2", "0.2 to 0.35", "0.35 to 0.5", "over 0.5"]
with plot.figure(alt, width=9.5, height=3.4, columns=2, sharey=True) as axes:
    for ax, one, title in zip(axes, (short, long), ("as many boxes as objects", "four times as many")):
        for number, (name, values) in enumerate(one.items()):
            plot.curve(range(4), values, number, name, ax)
        ax.set(xticks=range(4), xticklabels=NAMES, xlabel="IoU with the nearest object of the class", title=title)
    axes[0].set(ylabel="share of objects found", ylim=(0, 1.03))
hard_half, soft_half = long["NMS, threshold 0.5"], long["Soft-NMS, σ = 0.5"]
print(f"long list, twins over 0.5: Soft-NMS finds more by over 0.05: {soft_half[3] > hard_half[3] + 0.05}")
print(f"long list, alone: they differ by less than 0.05: {abs(soft_half[0] - hard_half[0]) < 0.05}")

# %% [markdown]
r"""
The objects that Soft-NMS brings back are those with a close twin, and they are *far down the list*: their scores
have decayed. Whoever looks only at the best boxes sees little of it; AP, which reads the list to its end, sees all
of it.

### What it costs

**Scores change their meaning.** A second horse at 0.39 may be as sure as the first. A threshold that was chosen
for NMS's scores is wrong for Soft-NMS's; choose it anew. AP looks at the ranking only and does not notice.

**Lists get longer.** Nothing goes before it falls below 0.001.

**It is slow.** NMS makes a step for each box it *keeps*, Soft-NMS for each box it *reports*, and each step needs
the one before it, since the ranking changes. It cannot run for all boxes at once.
"""

# %% tags=["nbval-ignore-output"]
import time


def seconds(function, *arguments, repeat=3):
    """The shortest of a few calls."""
    took = []
    for _ in range(repeat):
        start = time.perf_counter()
        function(*arguments)
        took.append(time.perf_counter() - start)
    return min(took)


hard_seconds = seconds(lambda: [hard(one, 0.5) for one in raw[:50]])
soft_seconds = seconds(lambda: [soft(one, 0.5) for one in raw[:50]])
print(f"50 scenes, yours by class: Soft-NMS takes {soft_seconds / hard_seconds:.1f} times as long as NMS")

# %%
kept = sum(len(hard(one, 0.5)["scores"]) for one in raw)
reported = sum(len(soft(one, 0.5)["scores"]) for one in raw)
print(f"Soft-NMS reports more than twice as many boxes: {reported > 2 * kept}")

# %% [markdown]
r"""
The paper (Bodla et al., 2017) reports 1.1 to 1.7 points of AP for exchanging one function in Faster R-CNN and
R-FCN, without training anything again; the slides' table of detectors (lesson 12) has its best result, 40.9 AP
on COCO. Detectors of today mostly use NMS by class: simple, fast, and its scores keep their meaning. Where
crowds are the subject, pedestrians or cells, Soft-NMS and its relatives are worth a try: it costs no training.

### Question: an embrace

Two people embrace. Their true boxes have an IoU of 0.6. A detector finds both boxes exactly, with scores of 0.95
and 0.8; it also gives an echo of the first person, IoU 0.8 with the first person's box and 0.55 with the second
one's, with a score of 0.85. What do NMS at 0.5, NMS at 0.7, and Soft-NMS with σ = 0.5 give? Work out the scores.
Is there a threshold of NMS that is right for every pair of boxes, and why? (Five to eight sentences, with
numbers.)
"""

# %% written="an_embrace" points=2
r"""
NMS at 0.5 picks the first person (0.95) and removes the echo (0.8 > 0.5) and the second person (0.6 > 0.5): one
box, one person lost. NMS at 0.7 removes the echo only: both people, 0.95 and 0.8. Soft-NMS first picks 0.95; the
echo falls to 0.85 · exp(−0.64 / 0.5) = 0.236, the second person to 0.8 · exp(−0.36 / 0.5) = 0.389. The second
person is picked next, and the echo falls once more, to 0.236 · exp(−0.3025 / 0.5) = 0.129. So the order is
right: both people before the echo, though the echo scored better than the second person at first. No threshold
is right for every pair: an echo whose box is poor may overlap its own object by 0.6 only, and a threshold over
0.6 lets it stay, while two people may stand so close that they overlap by 0.8. Echo and neighbour differ in what
they show, and NMS looks at nothing but the overlap and the score. Soft-NMS does not decide either, it puts
doubtful boxes further down.
"""

# %% [markdown]
r"""
### Question: the new post-processing

A colleague replaces NMS by class by Soft-NMS by class in a running product and changes nothing else: detections
are shown from a score of 0.5 on. Three reports come in. (a) AP on the test set rose a little. (b) In crowds the
screen shows *not one* more person than before. (c) One shape is still shown both as a star, 0.6, and as a cross,
0.55, in the same place. Explain each, and say what you would change. (Five to eight sentences.)
"""

# %% written="the_new_post_processing" points=2
r"""
(a) AP goes through all thresholds and needs only the ranking: people whom NMS had removed are in the list again,
above most false alarms, so recall rises at a small cost in precision. (b) These people have decayed scores: 0.8
at an IoU of 0.6 becomes 0.39, which is under 0.5. And a score never rises, so whoever was removed before can
appear only if the decayed score is over 0.5. The threshold belongs to the scores of NMS; choose a new, lower one
on validation images, for instance the one with the precision that the old one had. (c) Both methods work within a
class, so boxes of different classes never compete. If in this product one place can be only one thing, run NMS
once more over all classes with a high threshold such as 0.8, or report only the best class of each anchor; where
riders sit on horses that would be wrong, since different objects may share most of a box.
"""

# %% [markdown]
r"""
## Extension: a fast NMS

*Not graded.* A loop over boxes makes many small steps; Python and PyTorch need some ten microseconds for each,
however little there is to do. A table of all pairs has few steps, but grows with the square of the number of boxes.
torchvision's loop is written in C++. Can PyTorch alone come close?

The ranking must be walked in order, but not box by box. Take it in **blocks** of 256:

1. Compare the whole block with all boxes kept so far: one IoU table. What overlaps one of them goes.
2. Within what is left of the block, walk as before; only boxes that overlap a later one need a step.

Both steps compute large tables at once, one coordinate at a time, and the walk in Python is over the few boxes of
a block that still have an echo. Write your own before you read ours, and hold it against `nms`.

Where boxes are spread out, most pairs are far apart, and one need not look at them at all. Sort the boxes by their left
side: a box can only overlap those that begin before it ends. `fast_nms` lists these pairs, and goes in blocks
where they are too many.
"""

# %%
def overlaps(a, b, limit):
    """Whether IoU > limit for each pair: columns of coordinates, [4, N] and [4, M] -> [N, M]."""
    width = torch.minimum(a[2, :, None], b[2]).sub_(torch.maximum(a[0, :, None], b[0])).clamp_(min=0)
    height = torch.minimum(a[3, :, None], b[3]).sub_(torch.maximum(a[1, :, None], b[1])).clamp_(min=0)
    shared = width.mul_(height)
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    return shared.div_((area[0][:, None] + area[1]).sub_(shared)) > limit  # 0 / 0 is not above it


def nms_in_blocks(boxes, scores, iou_threshold, block=256):
    """As `nms`, block by block of the ranking."""
    order = scores.argsort(descending=True, stable=True)
    columns = boxes[order].T.contiguous()
    kept, rows = columns[:, :0], [order[:0]]
    for start in range(0, len(order), block):
        mine, names = columns[:, start : start + block], order[start : start + block]
        free = ~overlaps(mine, kept, iou_threshold).any(1)
        mine, names = mine[:, free], names[free]
        above = overlaps(mine, mine, iou_threshold).triu_(1)
        stay = torch.ones(len(names), dtype=torch.bool, device=boxes.device)
        for i in above.any(1).nonzero().flatten().tolist():
            if stay[i]:
                stay &= ~above[i]
        kept = torch.cat((kept, mine[:, stay]), 1)
        rows.append(names[stay])
    return torch.cat(rows)


def fast_nms(boxes, scores, iou_threshold):
    """As `nms`: from left to right where few boxes meet on the way, else in blocks."""
    order = scores.argsort(descending=True, stable=True)
    left, by_x = boxes[order, 0].sort(stable=True)  # the number in `by_x` is the rank
    x1, y1, x2, y2 = boxes[order[by_x]].unbind(1)
    number = torch.arange(1, len(order) + 1, device=boxes.device)
    meets = (torch.searchsorted(left, x2.contiguous()) - number).clamp(min=0)  # so many begin before this one ends
    total = int(meets.sum())
    if total > len(order) ** 2 / 16:
        return nms_in_blocks(boxes, scores, iou_threshold)
    one = (number - 1).repeat_interleave(meets)
    other = torch.arange(total, device=boxes.device) + (number + meets - meets.cumsum(0)).repeat_interleave(meets)
    near = torch.minimum(y2[one], y2[other]) > torch.maximum(y1[one], y1[other])
    one, other = one[near], other[near]
    pairs = (torch.stack([x1, y1, x2, y2])[:, rows] for rows in (one, other))
    (a1, b1, a2, b2), (c1, d1, c2, d2) = pairs
    shared = (torch.minimum(a2, c2) - torch.maximum(a1, c1)) * (torch.minimum(b2, d2) - torch.maximum(b1, d1))
    above = shared / ((a2 - a1) * (b2 - b1) + (c2 - c1) * (d2 - d1) - shared) > iou_threshold
    echoes = torch.stack([by_x[one[above]], by_x[other[above]]], 1).sort(1).values  # better rank, worse rank
    stay = [True] * len(order)
    for better, worse in sorted(echoes.tolist()):
        if stay[better]:
            stay[worse] = False
    return order[torch.tensor(stay, dtype=torch.bool, device=boxes.device)]


def many_boxes(count, side, seed=0):
    """Boxes of 10 to 40 pixels in a square of `side` pixels, and scores."""
    dice = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, generator=dice)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand(count, 2, generator=dice)], 1)
    return boxes, torch.rand(count, generator=dice)


CASES = {"spread out": many_boxes(3000, 2000), "crowded": many_boxes(3000, 250)}
equal = all(
    torch.equal(function(*case, 0.5), torchvision.ops.nms(*case, 0.5))
    for case in CASES.values()
    for function in (nms_in_blocks, fast_nms)
)
print(f"the same answer as torchvision's: {equal}")

# %% tags=["nbval-ignore-output"]
rows = []
for name, case in CASES.items():
    theirs = seconds(torchvision.ops.nms, *case, 0.5)
    ratios = [seconds(function, *case, 0.5) / theirs for function in (nms, nms_in_blocks, fast_nms)]
    rows.append([name, len(torchvision.ops.nms(*case, 0.5)), *ratios])
plot.table(rows, ["3,000 boxes", "kept", "yours, times torchvision's time", "in blocks", "from left to right"], digits=1)

# %% [markdown]
r"""
The table is of the machine it ran on; yours will differ. What holds in general: a loop of single steps pays some
calls for each box that it keeps, a table of all pairs computes 9 million IoUs here. Blocks pay a few calls for 256 boxes. Where boxes crowd, many are gone after their block has
been held against the kept ones, and the tables are small. Where they are spread out nearly all stay, and blocks look at
nearly every pair, as torchvision's C++ does. `fast_nms` does not: the better algorithm beats the faster language. The
trick of working in blocks, with a bit for each pair, is also how torchvision's NMS runs on a GPU.

## What we built

- `nms`: one box for each object, and the order in which it must be done.
- `batched_nms`: the same within each class, right for any coordinates.
- `soft_nms`: no box is thrown away for its overlap; scores decay, and the ranking is made anew.
- A measured answer: where objects of a class overlap, Soft-NMS finds more of them than NMS at the usual threshold,
  far down the list; where they do not, it changes little but the length of the list and the meaning of the scores.

Next, lesson 7 builds what we have used as a judge here: precision, recall and AP.

### What others call it

| here | torchvision | detectron2 | mmcv, for mmdetection |
| --- | --- | --- | --- |
| `nms` | `ops.nms` | `layers.nms` | `ops.nms` |
| `batched_nms` | `ops.batched_nms` | `layers.batched_nms` | `ops.batched_nms` |
| `soft_nms` | none | none | `ops.soft_nms(..., method="gaussian")` |
| `iou_threshold` | `iou_threshold`, `nms_thresh` | `iou_threshold`, `NMS_THRESH_TEST` | `iou_threshold` |
| `score_threshold` of Soft-NMS | | | `min_score=1e-3` |

mmcv's `soft_nms` is linear unless told otherwise. Each library's `nms` removes above the threshold, not at it.

### Further reading

- Bodla et al., *Soft-NMS: Improving Object Detection With One Line of Code*, ICCV 2017
  ([arXiv:1704.04503](https://arxiv.org/abs/1704.04503)): sections 3 and 4; the slides' algorithm is its figure 2.
- Neubeck, van Gool, *Efficient Non-Maximum Suppression*, ICPR 2006: how little NMS can cost.
- Hosang et al., *Learning Non-Maximum Suppression*, CVPR 2017 (arXiv:1705.02950): a network that sees all boxes
  and learns which are echoes.
- Carion et al., *End-to-End Object Detection with Transformers*, ECCV 2020 (arXiv:2005.12872): boxes that know of
  one another, and no NMS at all.
"""
