# %% [markdown]
r"""
# 4 · Losses: what a detector is told about its mistakes

Every anchor has two answers to give: *what are you?* and *how far off are you?* Every anchor's mistakes have
to become one number that can be made smaller. The difficulty is in the crowd: some 9,600 anchors see
background, about twenty see an object, and the twenty must be heard. We build the loss of SSD, in three
functions.

**Time:** about 100 minutes. Three exercises (10, 20 and 25 minutes) and two written questions.

**You need:** lessons 02 (anchors) and 03 (their targets). **You get:** `ssd_loss`, which trains the detector
of lesson 05.
"""

# %% setup=true
import dataclasses
import math

import torch
import torch.nn.functional as F

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes
from coursekit.data.scenes import DIFFICULTIES
from coursekit.earlier import earlier

box_iou = earlier("box_iou")
linear_scales = earlier("linear_scales")
ssd_anchors = earlier("ssd_anchors")
anchor_targets = earlier("anchor_targets")

# %% [markdown]
r"""
First a look at the crowd. We lay 9,648 anchors over a scene and match them, as in lessons 02 and 03. In the
picture: the anchors that found an object. Not in the picture, or you would see nothing else: all the others.
"""

# %%
GRIDS = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
scales = [(s, s) for s in linear_scales(6, 0.06, 0.6).tolist()]
anchors = ssd_anchors(GRIDS, scales, [1, 2, 3, 1 / 2, 1 / 3], (160, 120))

plain = dataclasses.replace(DIFFICULTIES["easy"], noise=0.0, clouds=0.0)
data = scenes("train", 40, size=(160, 120), difficulty=plain)
matched = [anchor_targets(anchors, target["boxes"].cpu(), target["labels"].cpu()) for target in data.targets]
positives = torch.tensor([(labels > 0).sum() for labels, _ in matched])
number = int((positives - 10).abs().argmin())  # a scene with about ten positives
scene_labels, scene_deltas = matched[number]
with plot.figure(
    "A scene with its objects in green and, around each, the few anchors that were matched to it.",
    width=5,
    height=3.8,
) as ax:
    plot.show_boxes(anchors[scene_labels > 0], "positive", image=data.images[number].cpu(), ax=ax)
    plot.show_boxes(data.targets[number]["boxes"], "truth", ax=ax)
few = bool(positives.float().mean() * 200 < len(anchors))
print(f"anchors: {len(anchors)}, more than 200 background anchors for each positive: {few}")

# %% [markdown]
r"""
## The conventions
- `labels` has a class for each anchor: `1..K` for an object (the anchor is a **positive**), `0` for
  background (a **negative**), `-1` for an anchor that **counts nowhere**. SSD has none of these last; later
  detectors do, and we get ready for them here.
- `deltas` has four offsets for each anchor. Those of background anchors are zeros in the targets, and mean
  nothing.
- `B` images, `A` anchors, `K` classes: logits are `[B, A, K + 1]`, column 0 is background.
- `N` is the number of positives **in the whole batch**, not in an image.

## The whole loss first
$$\mathcal{L} = \frac{1}{N}\left(\mathcal{L}_{cls} + \alpha\,[u \ge 1]\,\mathcal{L}_{off}\right)$$

$\mathcal{L}_{cls}$ is the loss of the classes, $\mathcal{L}_{off}$ that of the offsets, and $\alpha$ weighs
one against the other; 1 is recommended. The **Iverson bracket** $[P]$ is 1 where $P$ is true and 0 where it
is not. Here $u$ is an anchor's true class, so $[u \ge 1]$ says: only positives count in the offsets. Dividing
by $N$, the number of matched anchors, makes it a mean that does not depend on how many objects the images
hold.

## The offsets: L1, L2, smooth L1
An offset is predicted as 0.3 and should be 0.5. What is that worth? Let $u$ now be the difference (the slides
use the letter twice). L2 takes $u^2$, L1 takes $|u|$. Look at the slopes on the right: they are what the
network is pushed with.
"""

# %%
u = torch.linspace(-3, 3, 121)
curves = {"L2": u**2, "L1": u.abs(), "smooth L1": F.smooth_l1_loss(u, torch.zeros(121), reduction="none")}
with plot.figure(
    "Left, three losses: a steep parabola, a V, and a V with a round bottom. Right, their slopes: L2's grows"
    " without end, L1's jumps from -1 to 1 at 0, smooth L1's goes from -1 to 1 in a straight line.",
    width=8,
    height=3,
    columns=2,
) as (left, right):
    for look, (name, values) in enumerate(curves.items()):
        plot.curve(u, values, look, name, ax=left)
        plot.curve(u, torch.gradient(values, spacing=(u,))[0], look, ax=right)
    left.set(xlabel="difference u", ylabel="loss", ylim=(0, 4))
    right.set(xlabel="difference u", ylabel="slope of the loss", ylim=(-3, 3))

# %% [markdown]
r"""
L2 pushes in proportion to the difference, so one wrong annotation outweighs a hundred nearly right ones. L1
pushes as hard at a difference of 0.001 as at 3, so it never comes to rest. **Smooth L1** is a parabola near 0
and a straight line beyond. The slides give it with a $\sigma$ that says how near:

$$L1_{smooth}(u) = \begin{cases} \dfrac{(\sigma u)^2}{2} & \text{if } |u| < \dfrac{1}{\sigma^2} \\[2mm] |u| - \dfrac{1}{2\sigma^2} & \text{otherwise} \end{cases}$$

By hand with $\sigma = 1$, where the parabola ends at 1: $u$ = 0.5 gives 0.25/2 = 0.125; $u$ = −3 gives 3 −
0.5 = 2.5. With $\sigma = 3$ it ends at 1/9 = 0.111: $u$ = 0.1 gives 0.09/2 = 0.045; $u$ = 0.2 lies beyond and
gives 0.2 − 1/18 = 0.1444.

> **Not Huber.** PyTorch's `smooth_l1_loss` says the same with `beta` $= 1/\sigma^2$, *not* $\beta = \sigma$.
> The Huber loss is another one: its line has the slope $\delta$ and not 1. With $\delta = 1/9$ it gives
> 0.0160 for $u$ = 0.2, nine times less. For $\sigma = 1$ all are the same, and the mix-up stays unseen.

### Exercise: `smooth_l1_loss`
*About 10 minutes, easy.* Give the loss of every number by itself: `[N, 4]` and `[N, 4]` make `[N, 4]`. No
sum, no mean.

<details><summary>Hint</summary>

Only the size of the difference matters: take `.abs()` first. `torch.where(condition, near, far)` picks one of
two formulas for each number.
</details>
"""


# %% exercise="smooth_l1_loss"
def smooth_l1_loss(prediction, target, sigma=1.0):
    """Smooth L1 of each difference u = prediction - target: a parabola near 0, a straight line beyond.

    (sigma * u)^2 / 2 where |u| < 1 / sigma^2, else |u| - 1 / (2 * sigma^2).
    Source: Girshick, "Fast R-CNN", ICCV 2015, equation 3, where sigma is 1.

    Args:
        prediction, target (Tensor[N, 4]): offsets. Gradients flow to the prediction.
        sigma (float): above 0; the parabola ends at |u| = 1 / sigma^2.

    Returns:
        Tensor[N, 4]: a loss for each number, 0 or more; neither summed nor averaged.
    """
    ### BEGIN SOLUTION
    size = (prediction - target).abs()
    return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 * sigma**2))
    ### END SOLUTION


# %% check="smooth_l1_loss" points=2
zeros = torch.zeros(1, 4)
same(
    smooth_l1_loss(torch.tensor([[0.1, 0.2, 0, -1]]), zeros, 3.0),
    [[0.045, 0.144444, 0, 0.944444]],
    "sigma 3: the parabola ends at 1/9",
)
same(
    smooth_l1_loss(torch.tensor([[0.5, -0.5, 2, -3]]), zeros),
    [[0.125, 0.125, 1.5, 2.5]],
    "sigma 1: the parabola ends at 1",
)
same(
    smooth_l1_loss(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[1.5, 4, 3, 1]])),
    [[0.125, 1.5, 0, 2.5]],
    "the differences are -0.5, -2, 0 and 3",
)
### BEGIN HIDDEN TESTS
untouched(
    smooth_l1_loss,
    torch.tensor([[0.5, -0.5, 2, -3]]),
    torch.tensor([[1.0, 0, 0.25, 1]]),
    2.0,
)
same(
    smooth_l1_loss(torch.tensor([[50.0, -2000, 0, 0]]), zeros),
    [[49.5, 1999.5, 0, 0]],
    "the line goes on, however large the difference",
)
generator = torch.Generator().manual_seed(4)
prediction = 6 * torch.rand(9, 4, generator=generator) - 3
target = torch.rand(9, 4, generator=generator)
for sigma in (1.0, 3.0, 0.5, 2.0):
    same(
        smooth_l1_loss(prediction, target, sigma),
        F.smooth_l1_loss(prediction, target, beta=1 / sigma**2, reduction="none"),
        f"36 random differences, sigma {sigma}, float32",
    )
    same(
        smooth_l1_loss(prediction.double(), target.double(), sigma),
        F.smooth_l1_loss(
            prediction.double(), target.double(), beta=1 / sigma**2, reduction="none"
        ),
        f"36 random differences, sigma {sigma}, float64",
    )
same(
    smooth_l1_loss(torch.tensor([[0.25, -0.25, 0.249, 0.251]]), zeros, 2.0),
    [[0.125, 0.125, 0.124002, 0.126]],
    "the two pieces meet at 1 / sigma^2, here 0.25",
)
same(
    smooth_l1_loss(torch.zeros(0, 4), torch.zeros(0, 4)),
    torch.zeros(0, 4),
    "no offsets, no losses",
)
leaning = torch.tensor([[0.05, -0.05, 2, -2]], requires_grad=True)
smooth_l1_loss(leaning, zeros, 3.0).sum().backward()
same(
    leaning.grad,
    [[0.45, -0.45, 1, -1]],
    "the slope: sigma^2 times u near 0, beyond it 1 or -1",
)
level = torch.zeros(1, 4, requires_grad=True)
smooth_l1_loss(level, zeros).sum().backward()
same(level.grad, [[0, 0, 0, 0]], "no slope where nothing differs")
### END HIDDEN TESTS

# %% [markdown]
r"""
What does $\sigma$ do? The larger it is, the narrower the parabola and the nearer to L1. Huber, in the same
picture, is flat: it pushes with 1/9.
"""

# %%
u = torch.linspace(-1, 1, 201)
with plot.figure(
    "Smooth L1 with sigma 1 is a wide parabola, with sigma 3 nearly a V. The Huber loss of the same bend is a"
    " much flatter V.",
    width=5,
    height=3,
) as ax:
    plot.curve(u, smooth_l1_loss(u[:, None], torch.zeros(201, 1), 1.0)[:, 0], 0, "smooth L1, sigma 1", ax=ax)
    plot.curve(u, smooth_l1_loss(u[:, None], torch.zeros(201, 1), 3.0)[:, 0], 1, "smooth L1, sigma 3", ax=ax)
    plot.curve(
        u, F.huber_loss(u, torch.zeros(201), delta=1 / 9, reduction="none"), 6, "Huber, delta 1/9", ax=ax
    )
    ax.set(xlabel="difference u", ylabel="loss", ylim=(0, 1))

# %% [markdown]
r"""
Now the wrong annotation. Twenty annotators give an offset; nineteen say about 0.3, one slips and says 8.
Which single prediction makes each loss smallest?
"""

# %%
answers = torch.cat([0.3 + 0.1 * torch.linspace(-1, 1, 19), torch.tensor([8.0])])
guesses = torch.linspace(0, 1, 201)
differences = guesses[:, None] - answers  # [201, 20]
total = {
    "L2": (differences**2).sum(1),
    "smooth L1": smooth_l1_loss(differences, torch.zeros_like(differences)).sum(1),
}
for name, loss in total.items():
    print(f"{name} is smallest at {guesses[loss.argmin()].item():.2f}")

# %% [markdown]
r"""
L2 gives the mean, more than twice what nineteen of twenty say. Smooth L1 hardly moves.

### Written question: `why_smooth`
*About 10 minutes.* (a) Why not L2 for the offsets? (b) Why not L1? (c) A colleague wants $\sigma = 3$ and
writes `F.huber_loss(prediction, target, delta=3)`. Name two things that are wrong with it.
"""

# %% written="why_smooth" points=2
r"""
(a) L2's slope grows with the difference, so a few large differences (a wrong annotation, an anchor matched
badly, the first steps of training) decide where all the weights go, and can blow up the gradient. In the
example one answer of twenty moved the result from 0.3 to 0.69.

(b) L1 pushes as hard however small the difference is, so the prediction swings around the target instead of
settling, and at 0 it has no slope at all.

(c) The bend: a larger $\sigma$ makes the parabola *narrower*, it ends at 1/9, while `delta=3` has it end
at $|u| = 3$. The slope beyond: Huber's is $\delta$, smooth L1's is 1. What was meant is
`F.smooth_l1_loss(prediction, target, beta=1/9)`.
"""

# %% [markdown]
r"""
## The classes: cross entropy
For the class SSD takes the **categorical cross entropy**. The softmax turns an anchor's $K + 1$ logits into
probabilities, and the loss is the negative logarithm of the true class's one: $-\log p_u$. Certain and right
costs nothing, certain and wrong costs as much as you like.

By hand: three logits of 0 give three probabilities of 1/3, and a loss of ln 3 = 1.0986. Logits (2, 0, 0) with
true class 0 give $p_0 = e^2/(e^2 + 2)$ = 0.787 and 0.2395; with true class 1, 2.2395.

Do not take the softmax yourself: the probability of a class with a logit 200 below the others rounds to 0,
and its logarithm is minus infinity. `F.cross_entropy` works on the logits and gives 200.
"""

# %%
p = torch.linspace(0.01, 1, 100)
with plot.figure(
    "The cross entropy falls from 4.6 at a probability of 0.01 steeply, then gently, to 0 at 1.",
    width=4.5,
    height=2.8,
) as ax:
    plot.curve(p, -p.log(), ax=ax)
    ax.set(xlabel="probability of the true class", ylabel="cross entropy")
far = torch.tensor([[200.0, 0, 0]])
print("softmax, then log:", -far.softmax(1).log()[0, 1].item())
print("cross_entropy:", F.cross_entropy(far, torch.tensor([1])).item())

# %% [markdown]
r"""
## The crowd: hard negative mining
An untrained network is equally unsure of everything, so every anchor costs the same. What share of the loss,
and so of the push, comes from the objects?
"""

# %%
unsure = math.log(7)  # six classes and background
found = int((scene_labels > 0).sum())
background = len(scene_labels) - found
rows = [
    ["all anchors", found * unsure, background * unsure, 100 * found / len(scene_labels)],
    ["three negatives for each positive", found * unsure, 3 * found * unsure, 25.0],
]
plot.table(
    rows,
    ["what counts", "loss of positives", "loss of negatives", "positives' share (%)"],
    "One image, untrained network",
    digits=1,
)

# %% [markdown]
r"""
If all count, nearly all of the loss is about background, and saying "background" everywhere is a quick way
down. The network goes there, and has little left to learn from. This is **class imbalance**, the trouble of
all single-stage detectors.

SSD's remedy: keep all positives, and in each image only the **hard negatives**, those with the highest loss,
**three for each positive**. These are the ones that the network takes for objects. Lesson 11 meets another
remedy, the focal loss.

By hand: losses (0.3, 9.0, 0.9, 0.1, 0.7, 0.5), and the second anchor is a positive. One positive makes three
negatives: 0.9, 0.7 and 0.5. The 9.0 is the highest of all and still not a negative.

### Exercise: `mine_hard_negatives`
*About 20 minutes, medium.* For each image on its own, mark the `ratio` × (number of positives) negatives of
highest loss. The rules at the edges:
- a positive is never marked, however high its loss;
- an image **without positives keeps `ratio`** negatives: its background should be learnt too, and 3 × 0 would
  be none;
- of equal losses the **smaller index** wins;
- where there are fewer negatives than wanted, all of them are marked.

`loss` and `positive` are `[B, A]`, and so is the answer, a bool.

<details><summary>Hint</summary>

Give positives a loss that loses against everything, and sort each row:
`argsort(dim=1, descending=True, stable=True)` says which anchor stands at each place. Sorting *that* once
more says at which place each anchor stands. `stable=True` keeps equal ones in their order.
</details>
"""


# %% exercise="mine_hard_negatives"
def mine_hard_negatives(loss, positive, ratio=3):
    """Which negatives to train on: in each image those of highest loss, `ratio` for each positive.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2, "Hard negative mining".

    Args:
        loss (Tensor[B, A]): the classification loss of each anchor.
        positive (Tensor[B, A]): bool, which anchors are positives; all others are negatives.
        ratio (int): negatives for each positive. An image without positives keeps `ratio` negatives.

    Returns:
        Tensor[B, A]: bool, true for the chosen negatives, never for a positive. Of equal losses the smaller
        index is taken; where there are too few negatives, all of them are.
    """
    ### BEGIN SOLUTION
    wanted = ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    order = loss.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)  # [B, A]
    rank = order.argsort(dim=1)  # [B, A], 0 for the highest loss
    return (rank < wanted) & ~positive
    ### END SOLUTION


# %% check="mine_hard_negatives" points=2
one = torch.tensor([[0.3, 9.0, 0.9, 0.1, 0.7, 0.5]])
second = torch.tensor([[False, True, False, False, False, False]])
same(
    mine_hard_negatives(one, second),
    [[False, False, True, False, True, True]],
    "one positive: the three negatives of highest loss, whatever the positive's is",
)
same(
    mine_hard_negatives(one, second, 2),
    [[False, False, True, False, True, False]],
    "ratio 2: the two negatives of highest loss",
)
two = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [6.0, 5, 4, 3, 2, 1]])
which = torch.tensor(
    [
        [False, False, True, False, False, False],
        [False, True, False, False, False, True],
    ]
)
same(
    mine_hard_negatives(two, which, 1),
    [
        [False, False, False, False, False, True],
        [True, False, True, False, False, False],
    ],
    "two images, ratio 1: one negative in the first, two in the second, each from its own losses",
)


### BEGIN HIDDEN TESTS
def mine_one_by_one(loss, positive, ratio):
    chosen = torch.zeros_like(positive)
    for image in range(loss.shape[0]):
        ranking = sorted(
            (-value, i)
            for i, value in enumerate(loss[image].tolist())
            if not positive[image, i]
        )
        for _, i in ranking[: ratio * max(int(positive[image].sum()), 1)]:
            chosen[image, i] = True
    return chosen


untouched(
    mine_hard_negatives, torch.tensor([[0.3, 9.0, 0.9, 0.1, 0.7, 0.5]]), second.clone()
)
generator = torch.Generator().manual_seed(4)
loss = torch.rand(5, 90, generator=generator)
positive = (
    torch.rand(5, 90, generator=generator)
    < torch.tensor([0.02, 0.05, 0.1, 0.15, 0.2])[:, None]
)
positive[1] = False
loss[positive] += 1.0
for ratio in (1, 2, 3, 5):
    expected = mine_one_by_one(loss, positive, ratio)
    same(
        mine_hard_negatives(loss, positive, ratio),
        expected,
        f"five images, {ratio} negatives for each positive; the positives' losses are the highest",
    )
expected = mine_one_by_one(loss.double() * 50, positive, 3)
same(
    mine_hard_negatives(loss.double() * 50, positive),
    expected,
    "larger losses, float64: only their order counts",
)
same(
    mine_hard_negatives(
        torch.tensor([[5000.0, 1, 2, 3, 4]]), torch.arange(5)[None] == 0
    ),
    [[False, False, True, True, True]],
    "a positive of loss 5000 is still no negative, and takes no place",
)
close = torch.tensor([[1, 1 + 1e-10, 1, 1]], dtype=torch.float64)
same(
    mine_hard_negatives(close, torch.zeros(1, 4, dtype=torch.bool), 1),
    [[False, True, False, False]],
    "float64: the second loss is higher by 1e-10",
)
### END HIDDEN TESTS

# %% check="mine_hard_negatives" part="edges" points=2
none = torch.zeros(1, 6, dtype=torch.bool)
losses = torch.tensor([[0.3, 0.8, 0.9, 0.1, 0.7, 0.5]])
same(
    mine_hard_negatives(losses, none),
    [[False, True, True, False, True, False]],
    "an image without positives keeps three negatives",
)
flat = torch.ones(1, 6)
last = torch.tensor([[False, True, False, False, False, False]])
same(
    mine_hard_negatives(flat, last, 2),
    [[True, False, True, False, False, False]],
    "all losses are equal: the smaller index wins",
)
same(
    mine_hard_negatives(
        losses, torch.tensor([[False, True, True, False, False, False]])
    ),
    [[True, False, False, True, True, True]],
    "six wanted, four there: all negatives, and no positive",
)
### BEGIN HIDDEN TESTS
steps = (torch.arange(30) % 4).float()[None] / 4
few = torch.zeros(1, 30, dtype=torch.bool)
few[0, [3, 7, 8]] = True
hardest = torch.tensor([2, 6, 10, 11, 14, 15, 19, 23, 27])
same(
    mine_hard_negatives(steps, few),
    torch.isin(torch.arange(30), hardest)[None],
    "many equal losses, three positives: five negatives of the highest loss, then the first four of the next",
)
settled = torch.zeros(1, 8)
settled[0, [0, 5]] = torch.tensor([2.0, 0.5])
same(
    mine_hard_negatives(settled, settled > 1),
    [[False, True, True, False, False, True, False, False]],
    "negatives of loss 0 are negatives still, and rank above positives",
)
both = torch.cat([losses, losses.flip(1)])
same(
    mine_hard_negatives(both, torch.zeros_like(both) > 0, 4),
    [[False, True, True, False, True, True], [True, True, False, True, True, False]],
    "no positive in two images, ratio 4: four of each",
)
unequal = torch.tensor([[True, True, True, True, True, False], [True] + 5 * [False]])
same(
    mine_hard_negatives(both, unequal, 1),
    [5 * [False] + [True], [False, False, False, True, False, False]],
    "the first image has too few negatives: the second does not make up for it",
)
same(
    mine_hard_negatives(both, torch.ones_like(both) > 0),
    torch.zeros(2, 6, dtype=torch.bool),
    "nothing but positives: no negatives",
)
same(
    mine_hard_negatives(both[:, :2], torch.zeros(2, 2, dtype=torch.bool)),
    [[True, True], [True, True]],
    "two anchors without positives: both are taken where three are wanted",
)
same(
    mine_hard_negatives(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)),
    torch.zeros(2, 0, dtype=torch.bool),
    "two images without anchors",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
Our network does not exist yet, so we make up its loss: high where a background anchor overlaps an object and
looks like one, low elsewhere, with some noise. Look at where the hard negatives lie. They are the near
misses, the anchors that teach a detector where an object ends.
"""

# %%
overlap = box_iou(data.targets[number]["boxes"].cpu(), anchors).amax(0)
made_up = overlap + 0.1 * torch.rand(len(anchors), generator=torch.Generator().manual_seed(0))
mined = mine_hard_negatives(made_up[None], scene_labels[None] > 0)[0]
with plot.figure(
    "The scene with its positives in blue and three times as many hard negatives, dotted grey, all around the"
    " objects.",
    width=5,
    height=3.8,
) as ax:
    plot.show_boxes(anchors[mined], "negative", image=data.images[number].cpu(), ax=ax)
    plot.show_boxes(anchors[scene_labels > 0], "positive", ax=ax)
print(f"positives: {(scene_labels > 0).sum()}, hard negatives: {mined.sum()}")

# %% [markdown]
r"""
## Together: the loss of SSD
By hand: one image of six anchors, three classes with background, all logits 0. Anchor 1 is a positive with
differences of 0.5 and 2 in two of its offsets.
- Classification: one positive and three negatives count, each costs ln 3. Sum 4 · 1.0986, divided by one
  positive: **4.394**.
- Localisation: 0.125 + 1.5 = **1.625**. The offsets of the five background anchors do not count, whatever
  they are.

### Exercise: `ssd_loss`
*About 25 minutes, medium to hard.* Give both losses, as two scalars, so that they can be watched one by one.
1. The cross entropy of every anchor. Anchors labelled `-1` must end up nowhere: not among the positives, not
   among the negatives, not in a place that a negative should have had.
2. Mine the hard negatives, three for each positive.
3. Classification: the sum over positives and mined negatives. Localisation: `alpha` times the smooth L1
   (sigma 1) of the positives, summed over their four offsets.
4. Divide both by the positives of the batch, `max(N, 1)`. Without any positive the localisation is 0 and the
   three hardest negatives of each image remain; `backward()` must work.

<details><summary>Hint</summary>

`F.cross_entropy` wants `[rows, K + 1]` and `[rows]`: flatten, and reshape after. `reduction="none"` gives
each anchor's loss and `ignore_index=-1` accepts the label. For the mining, give ignored anchors a loss of
`-torch.inf`, and keep only those chosen whose label is 0. `deltas[positive]` selects rows, and the sum of no
rows is a 0 that still has a gradient. Selecting is safer than multiplying by 0 and 1: should a background row
ever hold NaN, 0 · NaN is NaN.
</details>
"""


# %% exercise="ssd_loss"
def ssd_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """The two losses of SSD over a batch: of the classes and of the offsets.

    Source: Liu et al., "SSD", ECCV 2016, equations 1 to 3.

    Args:
        logits (Tensor[B, A, K + 1]): class scores before the softmax; column 0 is background.
        deltas (Tensor[B, A, 4]): predicted offsets.
        labels (Tensor[B, A]): int64; 1..K for positives, 0 for background, -1 for anchors that count nowhere.
        target_deltas (Tensor[B, A, 4]): true offsets; only those of positives count.
        alpha (float): weight of the localisation loss.

    Returns:
        (Tensor[], Tensor[]): classification, the cross entropy summed over the positives and three hard
        negatives for each (`mine_hard_negatives`), and localisation, alpha times the smooth L1 loss summed over
        the positives' four offsets. Both are divided by the number of positives in the batch, or by 1 if there
        is none.
    """
    ### BEGIN SOLUTION
    positive = labels > 0  # [B, A]
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none")
    entropy = entropy.reshape(labels.shape)  # [B, A]
    mined = mine_hard_negatives(entropy.detach().masked_fill(labels < 0, -torch.inf), positive)
    count = positive.sum().clamp(min=1)
    classification = entropy[positive | mined & (labels == 0)].sum() / count
    localisation = alpha * smooth_l1_loss(deltas[positive], target_deltas[positive]).sum() / count
    return classification, localisation
    ### END SOLUTION


# %% check="ssd_loss" points=3
labels = torch.tensor([[0, 2, 0, 0, 0, 0]])
target_deltas = torch.zeros(1, 6, 4)
target_deltas[0, 1] = torch.tensor([0.5, 0, 0, 2])
deltas = torch.zeros(1, 6, 4)
deltas[0, 3] = 7.0
same(
    ssd_loss(torch.zeros(1, 6, 3), deltas, labels, target_deltas),
    (torch.tensor(4 * 1.0986123), torch.tensor(1.625)),
    "one positive, three negatives, ln 3 each; smooth L1 of 0.5 and of 2; background has no offsets",
)
same(
    ssd_loss(torch.zeros(1, 6, 3), deltas, labels, target_deltas, 0.5),
    (torch.tensor(4 * 1.0986123), torch.tensor(0.8125)),
    "alpha 0.5 halves the localisation alone",
)
logits = torch.tensor(
    [[[2.0, 0, 0], [0, 0, 2], [0, 2, 0], [2, 0, 0], [0, 2, 0], [0, 0, 0]]]
)
same(
    ssd_loss(logits, deltas, labels, target_deltas),
    (torch.tensor(0.239538 + 2 * 2.239538 + 1.0986123), torch.tensor(1.625)),
    "the positive is sure and right; the hard negatives are two that claim an object and the undecided one",
)


### BEGIN HIDDEN TESTS
def losses_one_by_one(logits, deltas, labels, target_deltas, alpha=1.0):
    classification, localisation, count = logits.sum() * 0, deltas.sum() * 0, 0
    for b in range(labels.shape[0]):
        negatives, found = [], 0
        for a in range(labels.shape[1]):
            if labels[b, a] == 0:
                negatives.append(logits[b, a].logsumexp(0) - logits[b, a, 0])
            if labels[b, a] > 0:
                found += 1
                classification = (
                    classification
                    + logits[b, a].logsumexp(0)
                    - logits[b, a, labels[b, a]]
                )
                for k in range(4):
                    u = (deltas[b, a, k] - target_deltas[b, a, k]).abs()
                    localisation = localisation + (u * u / 2 if u < 1 else u - 0.5)
        for loss in sorted(negatives, key=lambda loss: -loss.item())[
            : 3 * max(found, 1)
        ]:
            classification = classification + loss
        count += found
    return classification / max(count, 1), alpha * localisation / max(count, 1)


def random_batch(seed, rates, classes, dtype):
    generator = torch.Generator().manual_seed(seed)
    images, size = len(rates), 23
    logits = (3 * torch.randn(images, size, classes + 1, generator=generator)).to(dtype)
    deltas = (2 * torch.randn(images, size, 4, generator=generator)).to(dtype)
    objects = (
        torch.rand(images, size, generator=generator) < torch.tensor(rates)[:, None]
    )
    labels = (
        torch.randint(1, classes + 1, (images, size), generator=generator) * objects
    )
    return (
        logits,
        deltas,
        labels,
        torch.randn(images, size, 4, generator=generator).to(dtype),
    )


ignoring = random_batch(3, (0.1, 0.2), 2, torch.float32)
ignoring[2][:, ::4] = -1
untouched(ssd_loss, *ignoring)
several = random_batch(0, (0.1, 0.2, 0.05, 0.15), 5, torch.float32)
single = random_batch(1, (0.2,), 1, torch.float64)
expected = losses_one_by_one(*several)
same(ssd_loss(*several), expected, "four images, five classes, float32")
apart = several[0].mT.contiguous().mT
same(
    ssd_loss(apart, *several[1:]),
    expected,
    "the same logits, laid out in memory class by class",
)
same(ssd_loss(*several, 0.25), (expected[0], expected[1] / 4), "alpha 0.25")
same(ssd_loss(*several, 2.5), (expected[0], 2.5 * expected[1]), "alpha 2.5")
expected = losses_one_by_one(*ignoring)
same(ssd_loss(*ignoring), expected, "two images, every fourth anchor has label -1")
expected = losses_one_by_one(*single)
same(ssd_loss(*single), expected, "one image, one class, float64")
uneven = random_batch(2, (0.05, 0.3), 3, torch.float64)
uneven[0][0] *= 0.1
expected = losses_one_by_one(*uneven)
same(
    ssd_loss(*uneven),
    expected,
    "one image is all easy: each image has its own hard negatives, and the batch has one number of positives",
)
easy = torch.zeros(4, 1000, 6)
easy[..., 0] = 30.0
more = [
    torch.cat([part, new], dim=1)
    for part, new in zip(
        several,
        (
            easy,
            torch.ones(4, 1000, 4),
            torch.zeros(4, 1000, dtype=torch.int64),
            torch.zeros(4, 1000, 4),
        ),
    )
]
expected = losses_one_by_one(*several)
same(
    ssd_loss(*more), expected, "a thousand easy background anchors more change nothing"
)
logits = several[0].clone().requires_grad_()
deltas = several[1].clone().requires_grad_()
sum(ssd_loss(logits, deltas, *several[2:])).backward()
expected = several[0].clone().requires_grad_(), several[1].clone().requires_grad_()
sum(losses_one_by_one(*expected, *several[2:])).backward()
same(
    [logits.grad is None, deltas.grad is None],
    [False, False],
    "a gradient reaches the logits and the offsets",
)
same(
    logits.grad,
    expected[0].grad,
    "the gradient for the logits: of positives and hard negatives, of nothing else",
)
same(deltas.grad, expected[1].grad, "the gradient for the offsets: of positives alone")
### END HIDDEN TESTS

# %% check="ssd_loss" part="edges" points=3
nothing = torch.zeros(2, 5, dtype=torch.int64)
same(
    ssd_loss(torch.zeros(2, 5, 3), torch.ones(2, 5, 4), nothing, torch.zeros(2, 5, 4)),
    (torch.tensor(6 * 1.0986123), torch.tensor(0.0)),
    "no positive in two images: three hard negatives of each, divided by 1; no offsets",
)
resting = torch.zeros(2, 5, 4, requires_grad=True)
ssd_loss(torch.zeros(2, 5, 3), resting, nothing, torch.zeros(2, 5, 4))[1].backward()
same(
    resting.grad,
    torch.zeros(2, 5, 4),
    "no positive: the localisation is 0 and can still be differentiated, with a slope of 0",
)
logits = torch.zeros(1, 5, 3)
logits[0, 4] = torch.tensor([0.0, 50, 0])
ignored = torch.tensor([[1, 0, 0, 0, -1]])
offsets = torch.zeros(1, 5, 4)
offsets[0, 4] = 9.0
same(
    ssd_loss(logits, offsets, ignored, torch.zeros(1, 5, 4)),
    (torch.tensor(4 * 1.0986123), torch.tensor(0.0)),
    "the last anchor has label -1 and counts nowhere, however wrong it is",
)


### BEGIN HIDDEN TESTS
def two_columns(object_logits):
    """Logits of one class against background; of a logit x background costs ln(1 + e^x), a positive ln(1 + e^-x)."""
    object_logits = torch.tensor(object_logits, dtype=torch.float64)
    return torch.stack([torch.zeros_like(object_logits), object_logits], dim=-1)


def costs(*object_logits):
    return F.softplus(torch.tensor(object_logits, dtype=torch.float64)).sum()


none = torch.zeros((), dtype=torch.float64)
flat = torch.zeros(3, 5, 4, dtype=torch.float64)
lonely = two_columns([[2.0, -1, 0.5, 1, 3], [0.1, 0.4, 0.2, 0.3, -2], [1, 2, 3, 4, 5]])
found = torch.tensor([[0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]])
same(
    ssd_loss(lonely, flat, found, flat),
    (costs(1, 3, 2, 1, 0.4, 0.3, 0.2, -5, 4, 3, 2) / 2, none),
    "the second of three images has no positive: its three hardest negatives count too",
)
same(
    ssd_loss(lonely, flat, torch.zeros_like(found), flat),
    (costs(3, 2, 1, 0.4, 0.3, 0.2, 5, 4, 3), none),
    "no positive in three images: each one's three hardest negatives, divided by 1",
)
crowd = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
same(
    ssd_loss(lonely, flat, crowd, flat),
    (costs(-2, 1, -1, 0.5, 3, -0.1, -0.4, -0.2, -0.3, 2, -2, 5, 4, 3) / 9, none),
    "fewer negatives than wanted in the first image, none in the second",
)
wild = two_columns([[40.0, 2, 0.1, 0.2, 0.3, 0.4, 50]])
holes = torch.tensor([[-1, 1, 0, 0, 0, 0, -1]])
same(
    ssd_loss(
        wild, wild.repeat(1, 1, 2), holes, wild.repeat(1, 1, 2) + holes[..., None] + 2
    ),
    (costs(-2, 0.4, 0.3, 0.2), none + 10),
    "two anchors of label -1 are very wrong: they take no negative's place, and are no positives",
)
same(
    ssd_loss(
        wild, wild.repeat(1, 1, 2), -holes.abs().clamp(min=1), wild.repeat(1, 1, 2) + 1
    ),
    (none, none),
    "all anchors have label -1: both losses are 0",
)
sure = torch.tensor([[[300.0, 0, -300], [0, 300, 0]]])
same(
    ssd_loss(sure, torch.zeros(1, 2, 4), torch.tensor([[2, 0]]), torch.zeros(1, 2, 4)),
    torch.tensor([900.0, 0]).unbind(),
    "very sure and very wrong: 600 and 300, and not infinity",
)
logits = lonely[1:2].clone().requires_grad_()
deltas = flat[1:2].clone().requires_grad_()
sum(ssd_loss(logits, deltas, found[1:2], flat[1:2])).backward()
push = torch.tensor([0, 0.4, 0.2, 0.3, 0]).sigmoid() * torch.tensor([0, 1, 1, 1, 0])
same(
    logits.grad,
    torch.stack([-push, push], dim=-1)[None].double(),
    "no positive in the batch: the three hard negatives still push the logits",
)
same(
    0 if deltas.grad is None else deltas.grad.abs().sum().item(),
    0,
    "no positive in the batch: nothing pushes the offsets, and nothing is NaN",
)
same(
    ssd_loss(
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, 4),
        torch.zeros(2, 0, dtype=torch.int64),
        torch.zeros(2, 0, 4),
    ),
    (torch.zeros(()), torch.zeros(())),
    "two images without anchors",
)
### END HIDDEN TESTS

# %% [markdown]
r"""
Two claims to try on your own function. A thousand easy background anchors more leave the loss as it is: that
is what dividing by positives is for. And of the 9,648 anchors of our scene only four for each positive are
pushed at all.
"""

# %%
guess = torch.randn(1, len(scene_labels), 7, generator=torch.Generator().manual_seed(1)).requires_grad_()
classification, localisation = ssd_loss(
    guess, torch.zeros(1, len(scene_labels), 4), scene_labels[None], scene_deltas[None]
)
classification.backward()
pushed = (guess.grad.abs().sum(-1) > 0).sum().item()
print(f"anchors: {len(scene_labels)}, positives: {(scene_labels > 0).sum()}, anchors that are pushed: {pushed}")

easy = torch.zeros(1, 1000, 7)
easy[..., 0] = 20.0
more = ssd_loss(
    torch.cat([guess.detach(), easy], 1),
    torch.zeros(1, len(scene_labels) + 1000, 4),
    torch.cat([scene_labels, torch.zeros(1000, dtype=torch.int64)])[None],
    torch.cat([scene_deltas, torch.zeros(1000, 4)])[None],
)
unchanged = torch.allclose(more[0], classification) and torch.allclose(more[1], localisation)
print("a thousand easy negatives more, the same loss:", unchanged)

# %% [markdown]
r"""
### Written question: `why_mining`
*About 10 minutes.* (a) Someone divides the loss by the number of *anchors* instead of positives, with mining
as before. What happens to the learning of an image with one small object? (b) torchvision's SSD keeps no
negatives of an image without objects (3 × 0). Name a consequence for a data set in which most images are
empty. (c) Why three hard negatives, and not the one hardest?
"""

# %% written="why_mining" points=2
r"""
(a) With one matched anchor four anchors count, and their sum is divided by 9,648 instead of 1: the push is
about ten thousand times smaller. Images with many or large objects, which have more positives, have more
weight than those with few, and the loss gets smaller when anchors are added that have nothing to do with the
objects.

(b) Empty images teach nothing, though a detector that finds things in them is wrong every time. On such a
data set false detections on empty images stay, however long it is trained.

(c) With a single one the few hardest anchors (often annotation errors: objects that nobody marked) would
decide alone, and with a share of one half for positives the network would call too much an object. With many
more, the easy ones win by number again. Three is what SSD's authors found to train fast and stably.
"""

# %% [markdown]
r"""
## What you built
`smooth_l1_loss`, `mine_hard_negatives` and `ssd_loss`: one number that goes down when the boxes get better.
Lesson 05 puts it to work.

**Names elsewhere.** torchvision: `SSD.compute_loss` (no negatives from images without objects, no ignored
anchors). PyTorch: `F.smooth_l1_loss(beta=1/sigma**2)`; `F.huber_loss(delta=d)` is `d` times
`smooth_l1_loss(beta=d)`. mmdetection: `SmoothL1Loss(beta=...)`, `SSDHead` with `neg_pos_ratio=3`. detectron2
(fvcore): `smooth_l1_loss(beta=...)`. Choosing the hard ones anew in every step is also called *online hard
example mining*, OHEM.

**Further reading.** Liu et al., *SSD*, ECCV 2016, section 2.2, "Training objective" and "Hard negative
mining". Girshick, *Fast R-CNN*, ICCV 2015, section 2.3, where smooth L1 comes from. Shrivastava et al.,
*Training Region-based Object Detectors with Online Hard Example Mining*, CVPR 2016. Lin et al., *Focal Loss
for Dense Object Detection*, ICCV 2017: the answer to mining, and our lesson 11.
"""
