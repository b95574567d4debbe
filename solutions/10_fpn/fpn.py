# %% [markdown]
r"""
# 10 · FPN: every level knows what the coarsest one knows

Objects come in all sizes. A network that shrinks its image step by step has maps of all sizes too. But its fine
maps know little: edges and corners, hardly what a star is. Its coarse maps know what is there, and hardly where.
The **feature pyramid network** (FPN) brings the knowledge of the coarse maps down to the fine ones, for almost no
cost. Since 2017 most detectors have one.

This lesson follows the slides and Tsung-Yi Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017
([arXiv:1612.03144](https://arxiv.org/abs/1612.03144)). We write three things:

| | gives | minutes |
| --- | --- | --- |
| `TopDown` | the pyramid, from a trunk's maps | about 25 |
| `assign_level` | the level that fits a box | about 10 |
| `pool_from_pyramid` | the features of each box, from its level | about 25 |

With two written questions, about a minute of training and the reading this takes about two hours. It needs
RoIAlign (lesson 8); where something earlier is missing, a library's function takes its place.

**Conventions**, as in all lessons: a box is `(x1, y1, x2, y2)` in pixels of the image that the network sees, x right,
y down. Lists of maps go from fine to coarse. A map of **stride** $s$ has one cell for $s \times s$ pixels; level $l$
has the stride $2^l$. $C_l$ is what the trunk gives at level $l$, $P_l$ is what the pyramid makes of it.
"""

# %% setup=true tags=["nbval-ignore-output"]
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

roi_align = earlier("roi_align")

# %% [markdown]
r"""
## What we will build

A network that proposes boxes in scenes whose largest shape is four times as long as the smallest. The scenes are
small, 64×64 pixels, so that training takes a minute. In the figure, look for the shapes of ten or twelve pixels: at
stride 32, about three of them fit side by side into one cell. Later the same scenes come again, with the network's own
boxes, once with the pyramid and once with a part of it taken out.
"""

# %% tags=["experiment"]
from coursekit.data.scenes import Difficulty, scenes

SIZE = 64  # pixels; the lengths of a Difficulty are for 128
MANY_SIZES = Difficulty((2, 5), (20.0, 80.0), (2, 3), contrast=0.4, noise=0.02, clouds=0.2, beyond=0.0)

# %%
test = scenes("test", 400, size=SIZE, difficulty=MANY_SIZES)
alt = "Four scenes with shapes from 10 to 40 pixels, and the true box and name of each"
with plot.figure(alt, width=9, height=2.5) as ax:
    plot.pictures(test, columns=4, count=4, ax=ax)

# %% [markdown]
r"""
## Four ways to see all sizes

The slides' first picture shows what had been tried. A blue outline is a feature map; the thicker it is, the more
its cells know of what they see. Grey sheets are images.
"""

# %%
def sheet(ax, x, y, width, thickness=1.0, image=False):
    """A map or image seen from the side, `width` wide, with its middle at (x, y)."""
    slant, height = 0.22 * width, 0.26 * width
    corners = [(x - width / 2 - slant, y - height / 2), (x + width / 2 - slant, y - height / 2),
               (x + width / 2 + slant, y + height / 2), (x - width / 2 + slant, y + height / 2)]  # fmt: skip
    look = plot.role_style("negative" if image else "positive")
    ax.fill(*zip(*corners), facecolor="0.85" if image else "white", edgecolor=look.color, linewidth=thickness, zorder=3)


def arrow(ax, start, end, text="", color="black"):
    ax.annotate("", end, start, zorder=4, arrowprops={"arrowstyle": "->", "color": color, "linewidth": 1.2})
    if text:
        ax.text(*end, " " + text, va="center", fontsize=9)


HEIGHTS, WIDTHS = (1.5, 2.6, 3.5), (1.7, 1.2, 0.8)
alt = (
    "Four drawings. a: three images of different sizes, each with a map of its own, three predictions. b: one image, "
    "three maps that shrink, a prediction from the coarsest only. c: the same with a prediction from each map; the "
    "fine maps have thin outlines. d: beside them a second tower, from the coarsest map down, all outlines thick, a "
    "prediction from each."
)
with plot.figure(alt, columns=4, width=12, height=2.6) as axes:
    titles = ("a  image pyramid", "b  single map", "c  hierarchy of maps", "d  feature pyramid network")
    for ax, title in zip(axes, titles):
        ax.set(xlim=(-1.8, 6.4), ylim=(-0.4, 4.1), aspect="equal")
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    for y, width in zip((0.4, 2.0, 3.3), WIDTHS):  # a
        sheet(axes[0], 0, y, width, image=True)
        sheet(axes[0], 3.0, y, width, 3)
        arrow(axes[0], (1.2, y), (1.8, y))
        arrow(axes[0], (4.2, y), (4.7, y), "predict")
    for ax, strong in ((axes[1], (1, 2, 3)), (axes[2], (1, 2, 3)), (axes[3], (1, 2, 3))):
        sheet(ax, 0, 0.2, 2.2, image=True)
        for y, width, thickness in zip(HEIGHTS, WIDTHS, strong):
            sheet(ax, 0, y, width, thickness)
        for low, high in zip((0.2, *HEIGHTS), HEIGHTS):
            arrow(ax, (0, low + 0.32), (0, high - 0.2))
    arrow(axes[1], (0.6, HEIGHTS[2]), (1.4, HEIGHTS[2]), "predict")
    for y in HEIGHTS:
        arrow(axes[2], (1.1, y), (1.9, y), "predict")
    for y, width in zip(HEIGHTS, WIDTHS):
        sheet(axes[3], 3.0, y, width, 3)
        arrow(axes[3], (1.2, y), (1.8, y))
        arrow(axes[3], (4.2, y), (4.7, y), "predict")
    for high, low in zip(HEIGHTS[:0:-1], HEIGHTS[-2::-1]):
        arrow(axes[3], (3.0, high - 0.2), (3.0, low + 0.32))

# %% [markdown]
r"""
- **a. Image pyramid.** Scale the image to several sizes and run the network on each. Every map knows everything.
  It is slow: an image twice as long and high has four times the pixels, so the sizes ×2, ×1 and ×½ cost
  4 + 1 + ¼ = 5.25 times as much as ×1 alone, in time and, for training, in memory.
- **b. Single map.** Fast R-CNN and Faster R-CNN take one map, since memory did not allow more, and answer the question
  of size with anchors of many sizes and shapes. Fast, but a small object is a fraction of a cell.
- **c. Hierarchy of maps.** SSD, and YOLO since its third version, take the maps that the network computes anyway,
  each for the objects of its size. It costs nothing, but each map stands alone. The fine ones, which have to find
  the small objects, have passed through few layers and know least.
- **d. FPN.** Reuse those maps as well, and add a way back: from the coarsest map, which knows most, down to the
  finest. Each level joins *what* from above (few cells, strong in meaning) and *where* from its own map (many cells,
  weak in meaning). All levels then know about the same.

How little a fine map knows can be measured. Ask for the gradient of one cell with respect to the image: it is zero
wherever the cell cannot look. In the figure, the black frame is the cell, the shaded part is what it sees.
"""

# %%
from coursekit.backbones import small_trunk


def seen_by(cell):
    """Where in the image a cell's gradient is not 0. Maps of images -> bool [H, W]."""
    images = torch.rand(4, 3, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    cell(images).sum().backward()
    return (images.grad != 0).any(0).any(0)


def show_seen(maps, names, strides, image):
    """For the middle cell of each map of `maps(images)`: what it sees, over an image."""
    middle = [64 // stride for stride in strides]
    seen = [seen_by(lambda images: maps(images)[i][:, :, cell, cell].square()) for i, cell in enumerate(middle)]
    widths = ", ".join(f"{name} {int(one.any(0).sum())}" for name, one in zip(names, seen))
    alt = f"The cell in the middle of each map and the shaded square that it sees, so many of 128 pixels wide: {widths}"
    with plot.figure(alt, columns=len(names), width=3 * len(names), height=3.1) as axes:
        for ax, name, stride, cell, one in zip(axes, names, strides, middle, seen):
            plot.show_image(image, ax)
            ax.imshow(one, cmap="gray_r", alpha=0.45 * one.float(), vmin=0, vmax=2, extent=(0, 128, 128, 0))
            plot.show_boxes(torch.tensor([[cell, cell, cell + 1, cell + 1]]) * stride, "proposal", ax=ax)
            ax.set(title=f"{name}, stride {stride}")
    print("pixels of the row that the cell sees:", widths)


torch.manual_seed(0)
trunk = small_trunk().eval()
scene = scenes("test", 2, difficulty=MANY_SIZES).images[1]  # 128×128 pixels
show_seen(lambda images: list(trunk(images).values()), ("C3", "C4", "C5"), (8, 16, 32), scene)

# %% [markdown]
r"""
A cell of C3 sees 39 pixels. Of the large disk it sees a part only; for a small shape that is enough, but with five
3×3 convolutions behind it C3 has hardly begun to tell shapes apart. A cell of C5 sees the whole image through nine.
It could tell what is there, and has 4×4 cells to say where.

## The way back

Three parts, and the slides' names for them:

- **Bottom-up pathway**: the trunk as it is. Where several layers give maps of one size, the last of them is taken,
  since it knows most. For ResNet these are the outputs of its stages, $C_2, C_3, C_4, C_5$ with strides 4, 8, 16, 32.
  $C_1$ is left out, for it takes too much memory.
- **Lateral connection**: a 1×1 convolution that gives every map the same number of channels, $d = 256$ in the
  paper.
- **Top-down pathway**: the level above, enlarged to the size of this one by **nearest** neighbours, and added.

After that, a 3×3 convolution on each level, which smooths what the enlarging has made blocky. With $M_l$ for the
sums, $W_l$ the lateral kernels and $S_l$ the smoothing kernels:

$$M_5 = W_5 * C_5, \qquad M_l = W_l * C_l + \text{up}(M_{l+1}), \qquad P_l = S_l * M_l$$

There is no ReLU and no norm in it. The pyramid is as simple as it could be made; the paper says that other designs
gave about the same.
"""

# %%
alt = (
    "One step of the pyramid as a diagram: C of a level goes through a 1×1 convolution into a sum; from above comes "
    "the sum of the next level, enlarged; the result goes down to the next level, and through a 3×3 convolution out as P."
)
with plot.figure(alt, width=8, height=3.6) as ax:
    ax.set(xlim=(-1.6, 9.6), ylim=(-0.7, 4.6))
    ax.axis("off")
    sheet(ax, 0, 1.5, 1.7, 2)
    sheet(ax, 0, 3.5, 1.1, 3)
    arrow(ax, (0, 1.8), (0, 3.25))
    for y, name in ((1.5, r"$C_l$"), (3.5, r"$C_{l+1}$")):
        ax.text(-1.5, y, name, fontsize=11, va="center")
        arrow(ax, (1.1, y), (2.2, y))
        ax.text(2.9, y, "1×1", ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "black"})
        arrow(ax, (3.5, y), (4.8, y))
        ax.text(5.1, y, "+", ha="center", va="center", fontsize=14, bbox={"boxstyle": "circle", "facecolor": "white"})
        arrow(ax, (5.45, y), (6.6, y))
        ax.text(7.2, y, "3×3", ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "black"})
        arrow(ax, (7.8, y), (8.8, y), r"$P_l$" if y < 2 else r"$P_{l+1}$")
    arrow(ax, (5.1, 4.5), (5.1, 3.85))
    arrow(ax, (5.1, 3.15), (5.1, 2.8))
    ax.text(5.1, 2.55, "nearest, to the size of $C_l$", ha="center", va="center", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "black"})  # fmt: skip
    arrow(ax, (5.1, 2.3), (5.1, 1.85))
    arrow(ax, (5.1, 1.15), (5.1, 0.0))
    ax.text(5.3, 0.1, r"$M_l$, to the next finer level", fontsize=9, va="center")
    ax.text(0, -0.5, "bottom-up", ha="center", fontsize=9, style="italic")
    ax.text(2.9, -0.5, "lateral", ha="center", fontsize=9, style="italic")
    ax.text(5.1, -0.5, "top-down", ha="center", fontsize=9, style="italic")
    ax.text(7.2, -0.5, "smoothing", ha="center", fontsize=9, style="italic")

# %% [markdown]
r"""
Numbers on paper. Three maps with one channel; every lateral kernel is 1 and every smoothing kernel passes its input:

```
C5          M5 = 100                             P5 = 100
C4  10 20   M4 = 10 + 100   20 + 100             P4 = 110 120
C3  1 2 3   M3 = 1 + 110   2 + 110   3 + 120     P3 = 111 112 123
    4 5 6        4 + 110   5 + 110   6 + 120          114 115 126
```

C3 has *three* columns and C4 two. Maps have such sizes all the time: an image of 680 pixels has 85 cells at stride 8
and 43 at stride 16, since trunks round up, and twice 43 is not 85. So what comes from above is enlarged **to the
size of the lateral map**, not by a factor of two. Cell $(y, x)$ of a map of $H \times W$ takes from cell
$(\lfloor y\,h/H \rfloor, \lfloor x\,w/W \rfloor)$ of one of $h \times w$: columns 0, 1, 2 of 3 take from
⌊0⌋, ⌊2/3⌋, ⌊4/3⌋ = 0, 0, 1 of 2. This is what `F.interpolate(..., mode="nearest")` does.

### Exercise: `TopDown`

About 25 minutes, medium.

Write the module. In `__init__`, make for each map a lateral layer (1×1) and for each level a smoothing layer (3×3
with a padding of 1): `nn.Conv2d`, each with its bias, and nothing else. In `forward`, compute the lateral maps, add
from the coarsest to the finest, and smooth the sums.

- `features`: a list of maps `[B, in_channels_l, H_l, W_l]`, fine to coarse, of any sizes
- returns a list of as many maps `[B, channels, H_l, W_l]`, fine to coarse

What goes down is the *sum*, before it is smoothed.

<details><summary>Hint</summary>

Keep the lateral maps in a list and walk through it from the last but one to the first:
`range(len(maps) - 2, -1, -1)`. `F.interpolate` takes `size=`, which is the last two numbers of a shape.
</details>

The checks give your layers weights by the shapes of their kernels, so it does not matter what you call them.
"""

# %% setup=true
def set_weights(module, lateral=1.0, smooth=1.0, place=(1, 1)):
    """Give `module` weights by their shape. Every number of a 1×1 kernel is `lateral`. Of a 3×3 kernel the number at
    `place` (row, column; the middle unless told) is `smooth`, from each channel to itself. All else is 0."""
    state = module.state_dict()
    if not state:
        raise LookupError("the module's state_dict is empty: it does not know its layers")
    for name, weight in state.items():
        new = torch.zeros_like(weight)
        if weight.ndim == 4 and weight.shape[-1] == 1:
            new += lateral
        elif weight.ndim == 4:
            diagonal = range(min(weight.shape[:2]))
            new[diagonal, diagonal, place[0], place[1]] = smooth
        state[name] = new
    module.load_state_dict(state)
    return module

# %% exercise="TopDown"
class TopDown(nn.Module):
    """The feature pyramid {P_l} of a trunk's maps {C_l}: each level gets what all coarser levels know.

    Source: Lin et al., CVPR 2017, section 3 (arXiv:1612.03144).

    Args:
        in_channels (list of int): of each map, from fine to coarse.
        channels (int): of each level of the pyramid.
    """

    def __init__(self, in_channels, channels):
        super().__init__()
        ### BEGIN SOLUTION
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        ### END SOLUTION

    def forward(self, features):
        """A list of Tensor[B, channels, H_l, W_l], from a list of Tensor[B, in_channels_l, H_l, W_l], fine to coarse.

        Sizes of neighbours need not be in a ratio of two: cell (y, x) of H×W takes from (⌊y·h/H⌋, ⌊x·w/W⌋) of h×w.
        """
        ### BEGIN SOLUTION
        merged = [lateral(feature) for lateral, feature in zip(self.lateral, features)]
        for level in range(len(merged) - 2, -1, -1):
            size = merged[level].shape[-2:]
            above = F.interpolate(merged[level + 1], size=size, mode="nearest")  # [B, channels, H_l, W_l]
            merged[level] = merged[level] + above
        return [smooth(level) for smooth, level in zip(self.smooth, merged)]
        ### END SOLUTION

# %% check="TopDown" points=2
generator = torch.Generator().manual_seed(0)
maps = [torch.randn(2, 3, 5, 7, generator=generator), torch.randn(2, 5, 3, 4, generator=generator),
        torch.randn(2, 2, 2, 2, generator=generator)]
same([list(level.shape) for level in TopDown([3, 5, 2], 4)([one.clone() for one in maps])],
     [[2, 4, 5, 7], [2, 4, 3, 4], [2, 4, 2, 2]],
     "a list with a map for each level, fine to coarse, as large as the trunk's: odd sizes too")
untouched(TopDown([3, 5, 2], 4), maps)
small = [torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]]), torch.tensor([[[[10.0, 20]]]]), torch.tensor([[[[100.0]]]])]
plain = set_weights(TopDown([1, 1, 1], 1))
same(plain(small)[2], [[[[100.0]]]], "nothing comes from above the coarsest level")
same(plain(small)[1], [[[[110.0, 120]]]], "the middle level: its own 10 and 20, and 100 from above")
same(plain(small)[0], [[[[111.0, 112, 123], [114, 115, 126]]]],
     "the finest level: columns 0 and 1 get the 110 above them, column 2 gets the 120")
doubled = set_weights(TopDown([1, 1, 1], 1), smooth=2.0)
same(doubled(small)[1], [[[[220.0, 240]]]],
     "smoothing kernels that double: 2·(10 + 100), smoothed once, after the sum")
same(doubled(small)[0], [[[[222.0, 224, 246], [228, 230, 252]]]],
     "smoothing kernels that double: 2·(1 + 10 + 100): what goes down is not smoothed on its way")
left = set_weights(TopDown([1, 1, 1], 1), place=(1, 0))
same(left(small)[0], [[[[0.0, 111, 112], [0, 114, 115]]]],
     "smoothing kernels that take the left neighbour: of the sum, in the cells of the finest level itself")
turned = set_weights(TopDown([1, 1, 1], 1), lateral=-3.0)
same(turned(small)[0], [[[[-333.0, -336, -369], [-342, -345, -378]]]],
     "lateral kernels of −3: −3·1 − 3·10 − 3·100; nothing is cut off at 0, and no map is weighted twice")
corners = [torch.zeros(1, 1, 4, 4), torch.tensor([[[[1.0, 2], [3, 4]]]])]
same(set_weights(TopDown([1, 1], 1))(corners)[0][0, 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]],
     "nearest: a cell goes down as it is, to 2×2 cells, without mixing with its neighbours")
### BEGIN HIDDEN TESTS
def roles(module, levels):
    """Which parameter does what: (level, "lateral" or "smooth", "weight" or "bias") -> its name; found by trying."""
    zeros = {name: torch.zeros_like(weight) for name, weight in module.state_dict().items()}
    kernels = {name: weight.clone() for name, weight in set_weights(module).state_dict().items()}
    ones, found = [torch.ones(1, weights, 4, 4) for weights in levels], {}
    for name, weight in zeros.items():
        if weight.ndim == 1:  # behind kernels that double and laterals that are closed, a bias of 1 is seen as 1 or 2
            other = {key: 2 * kernels[key] if kernels[key].ndim == 4 and kernels[key].shape[-1] == 3 else value
                     for key, value in zeros.items()}
            module.load_state_dict({**other, name: torch.ones_like(weight)})
            seen = [float(level.detach()[0, 0, 1, 1]) for level in module(ones)]
            level = max([i for i, value in enumerate(seen) if value], default=0)
            found[level, "lateral" if seen[level] == 2 else "smooth", "bias"] = name
        else:
            closed = {key: 0 * value if key == name else value for key, value in kernels.items()}
            module.load_state_dict(kernels)
            before = [float(level.detach()[0, 0, 1, 1]) for level in module(ones)]
            module.load_state_dict(closed)
            after = [float(level.detach()[0, 0, 1, 1]) for level in module(ones)]
            level = max([i for i in range(len(levels)) if before[i] != after[i]], default=0)
            found[level, "lateral" if weight.shape[-1] == 1 else "smooth", "weight"] = name
    return found


def oracle(weights, names, maps):
    """The pyramid, from the weights and what they are for."""
    above, answers = None, []
    for level in range(len(maps) - 1, -1, -1):
        lateral, smooth = [[weights[names[level, kind, part]] for part in ("weight", "bias")]
                           for kind in ("lateral", "smooth")]
        own = F.conv2d(maps[level], *lateral)
        if above is not None:
            rows = [y * above.shape[2] // own.shape[2] for y in range(own.shape[2])]
            columns = [x * above.shape[3] // own.shape[3] for x in range(own.shape[3])]
            own = own + above[:, :, rows][..., columns]
        above = own
        answers.insert(0, F.conv2d(own, *smooth, padding=1))
    return answers


dice = torch.Generator().manual_seed(10)
module = TopDown([3, 5, 2, 4], 6)
names = roles(module, [3, 5, 2, 4])
weights = {name: torch.randn(weight.shape, generator=dice) for name, weight in module.state_dict().items()}
module.load_state_dict(weights)
even = [torch.randn(2, c, h, w, generator=dice) for c, h, w in ((3, 16, 24), (5, 8, 12), (2, 4, 6), (4, 2, 3))]
odd = [torch.randn(2, c, h, w, generator=dice) for c, h, w in ((3, 21, 13), (5, 11, 7), (2, 6, 4), (4, 3, 2))]
cut = [torch.randn(1, c, h, w, generator=dice) for c, h, w in ((3, 15, 23), (5, 7, 11), (2, 3, 5), (4, 1, 2))]
wild = [torch.randn(3, c, h, w, generator=dice) for c, h, w in ((3, 10, 17), (5, 9, 5), (2, 3, 4), (4, 2, 4))]
same(module(even), oracle(weights, names, even), "random weights, sizes in ratios of two", rtol=1e-3, atol=1e-3)
same(module(odd), oracle(weights, names, odd), "random weights, odd sizes rounded up: 21, 11, 6, 3", rtol=1e-3, atol=1e-3)
same(module(cut), oracle(weights, names, cut), "random weights, odd sizes rounded down: 15, 7, 3, 1", rtol=1e-3, atol=1e-3)
same(module(wild), oracle(weights, names, wild), "random weights, any sizes: 10×17, 9×5, 3×4, 2×4", rtol=1e-3, atol=1e-3)
same([level[1:2] for level in module(even)], module([one[1:2] for one in even]),
     "an image's pyramid does not depend on the other images of the batch", rtol=1e-3, atol=1e-3)
single = set_weights(TopDown([4], 3), lateral=0.5)
same([list(level.shape) for level in single([torch.randn(2, 4, 3, 5, generator=dice)])], [[2, 3, 3, 5]], "one level")
### END HIDDEN TESTS

# %% check="TopDown" part="layers" points=1
module = TopDown([3, 5, 2], 4)
sizes = sorted([list(weight.shape) for weight in module.state_dict().values()])
same([size for size in sizes if len(size) > 1 and size[-1] == 1], [[4, 2, 1, 1], [4, 3, 1, 1], [4, 5, 1, 1]],
     "a lateral layer for each map: 1×1, from its channels to those of the pyramid")
same([size for size in sizes if len(size) > 1 and size[-1] != 1], [[4, 4, 3, 3]] * 3,
     "a smoothing layer of its own for each level: 3×3, from 4 to 4 channels")
same([size for size in sizes if len(size) == 1], [[4]] * 6, "each of the six layers has a bias, and there is nothing else")
same([weight.requires_grad for weight in module.parameters()], [True] * 12, "every weight learns: 6 kernels, 6 biases")
### BEGIN HIDDEN TESTS
dice = torch.Generator().manual_seed(11)
maps = [torch.randn(2, c, h, w, generator=dice) for c, h, w in ((3, 8, 6), (5, 4, 3), (2, 2, 2))]
def fresh(maps):
    return [one.clone().requires_grad_() for one in maps]


module.load_state_dict({name: torch.randn(weight.shape, generator=dice) for name, weight in module.state_dict().items()})
sum(level.square().sum() for level in module(maps)).backward()
same([weight.grad is not None and bool((weight.grad != 0).any()) for weight in module.parameters()], [True] * 12,
     "every weight gets a gradient from the pyramid")
inputs = fresh(maps)
module(inputs)[0].square().sum().backward()
same([one.grad is not None and bool((one.grad != 0).any()) for one in inputs], [True] * 3,
     "the finest level listens to all maps, and training reaches them through it")
inputs = fresh(maps)
module(inputs)[2].square().sum().backward()
same([one.grad is not None and bool((one.grad != 0).any()) for one in inputs], [False, False, True],
     "the coarsest level listens to its own map only: nothing goes up")
twin = TopDown([3, 5, 2], 4)
twin.load_state_dict(module.state_dict())
same(twin(maps), module(maps), "a second module with the same state_dict gives the same pyramid", rtol=1e-3, atol=1e-3)
base, twice, zero = module(maps), module([2 * one for one in maps]), module([0 * one for one in maps])
same(twice, [2 * one - none for one, none in zip(base, zero)],
     "twice the maps give twice the pyramid, but for the biases: no ReLU and no norm in between", rtol=1e-3, atol=1e-2)
same(module.eval()(maps), base, "in evaluation the pyramid is the same", rtol=1e-3, atol=1e-3)
fine = [maps[0] + 1, *maps[1:]]
same(module(fine)[1:], base[1:], "a change of the finest map changes the finest level only", rtol=1e-3, atol=1e-3)
### END HIDDEN TESTS

# %% [markdown]
r"""
Again the question of what a cell sees, now in the pyramid. Every level sees the whole image, the finest too, and it
has kept its 16×16 cells.
"""

# %%
torch.manual_seed(0)
neck = TopDown(list(trunk.channels.values()), 64)
show_seen(lambda images: neck(list(trunk(images).values())), ("P3", "P4", "P5"), (8, 16, 32), scene)
count = sum(weight.numel() for weight in neck.parameters())
print(f"the pyramid has {count:,} weights, less than a quarter of the trunk's:",
      4 * count < sum(weight.numel() for weight in trunk.parameters()))

# %% [markdown]
r"""
## One head for all levels

Since every level has the same channels and knows about the same, one head can serve all of them. SSD needed a head
for each level (lesson 5). With a pyramid the **same** layers slide over every level: the same weights see a star of
12 pixels on P3 and one of 50 pixels on P5, and what they learn from one they know of the other. An image pyramid has
this property by nature; the paper takes it as a sign that the levels have become alike.

The slides use the pyramid in both stages of Faster R-CNN:

- **FPN for the RPN** (lesson 9). The head, a 3×3 convolution and two 1×1 ones, runs over $P_2, \dots, P_6$, where
  $P_6$ is $P_5$ with every other cell. A level needs anchors of *one* size only, with areas of 32², 64², 128², 256²
  and 512² pixels from $P_2$ to $P_6$, in the ratios 1:2, 1:1 and 2:1: 15 kinds of anchors over the pyramid. Anchors
  are labelled as before, by their IoU with the objects.
- **FPN for the RoIs of Fast R-CNN** (lesson 8). A proposal is a box of any size, so someone has to say from which
  level it is pooled. That is the next exercise. What is pooled, 7×7 bins, goes through two fully connected layers of
  1,024 numbers, the same for all levels.
"""

# %%
def head(anchors=3, channels=256):
    return nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, anchors, 1),
                          nn.Conv2d(channels, 4 * anchors, 1)])  # fmt: skip


weights = sum(weight.numel() for weight in head().parameters())
print(f"the RPN's head, shared by five levels: {weights:,} weights; a head for each level: {5 * weights:,}")

# %% [markdown]
r"""
## Which level for which box?

Think of the image pyramid again: a box twice as large is pooled from an image half as large, so that it always has
about the same size there. FPN does the same with its levels. A box of $w \times h$ pixels goes to level

$$k = \left\lfloor k_0 + \log_2 \frac{\sqrt{wh}}{224} \right\rfloor, \qquad \text{clamped to the levels that exist}$$

224 is the side of the images on which the trunk has learnt to classify, and $k_0 = 4$ is the level that such a box
gets, since Faster R-CNN without a pyramid takes everything from $C_4$. Half the side is one level finer.

**Erratum.** The slides give $k = k_0 + \log_2 \sqrt{wh}$ and leave out the division by 224 and the floor. Without
them every box of more than two pixels is above level 5.

| box, pixels | $\sqrt{wh}$ | $\log_2(\sqrt{wh} / 224)$ | level |
| --- | --- | --- | --- |
| 224×224 | 224 | 0 | 4 |
| 448×448 | 448 | 1 | 5 |
| 448×112 | 224 | 0 | 4: only the area counts |
| 223×223 | 223 | −0.006 | ⌊3.994⌋ = 3 |
| 112×112 | 112 | −1 | 3 |
| 20×20 | 20 | −3.49 | ⌊0.51⌋ = 0, clamped to 2 |
| 900×1300 | 1081.7 | 2.27 | ⌊6.27⌋ = 6, clamped to 5 |

### Exercise: `assign_level`

About 10 minutes, easy.

Write the formula for all boxes of a tensor `[N, 4]`. Give int64 `[N]`: the *names* of the levels, `smallest` to
`largest`, not their places in a list.

- A box without area belongs to `smallest`: the logarithm of 0 is −∞.
- No boxes: an empty tensor of int64.
- Divide before you take the logarithm. A difference of two logarithms may come out as 0.9999999, and the floor makes
  0 of it.

<details><summary>Hint</summary>

`torch.log2`, `floor`, `clamp`, and only then `.to(torch.int64)`: −∞ can be clamped, but it is no whole number.
</details>
"""

# %% exercise="assign_level"
def assign_level(boxes, k0=4, smallest=2, largest=5):
    """The pyramid level that each box is pooled from: ⌊k0 + log2(√(wh) / 224)⌋, but not below or above the levels.

    Source: Lin et al., CVPR 2017, equation 1 (arXiv:1612.03144).

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        k0 (int): the level of a box of 224×224 pixels.
        smallest, largest (int): the finest and the coarsest level that the pyramid has.

    Returns:
        Tensor[N]: int64, in smallest..largest; a box without area belongs to the smallest.
    """
    ### BEGIN SOLUTION
    sides = boxes[:, 2:] - boxes[:, :2]  # [N, 2]
    levels = k0 + torch.log2(sides.prod(1).sqrt() / 224)  # [N], -inf without area
    return levels.floor().clamp(smallest, largest).to(torch.int64)
    ### END SOLUTION

# %% check="assign_level" points=2
squares = torch.tensor([[0.0, 0, 224, 224], [10, 20, 458, 468], [400, 300, 512, 412], [0, 0, 223.9, 223.9]])
same(assign_level(squares), torch.tensor([4, 5, 3, 3]),
     "squares of 224, 448, 112 and 223.9 pixels: twice the side is a level more, and just under 224 is level 3")
same(assign_level(torch.tensor([[0.0, 50, 448, 162], [20, 0, 76, 896]])), [4, 4],
     "448×112 and 56×896 pixels: as large as 224×224")
same(assign_level(torch.tensor([[7.0, 3, 9, 8], [0, 0, 900, 1300]])), [2, 5],
     "2×5 pixels would be level −3, 900×1300 level 6: the pyramid has levels 2 to 5")
same(assign_level(torch.tensor([[0.0, 0, 896, 896]]), largest=7), [6], "896² pixels, where the pyramid goes to level 7")
same(assign_level(squares, k0=3), [3, 4, 2, 2], "the same squares, where 224 pixels are level 3")
same(assign_level(torch.zeros(0, 4)), torch.zeros(0, dtype=torch.int64), "no boxes: an empty tensor of int64")
### BEGIN HIDDEN TESTS
def plain_level(boxes, k0, smallest, largest):
    """One box at a time: count the halvings or doublings from 224."""
    answers = []
    for x1, y1, x2, y2 in boxes.tolist():
        level, area = smallest, (x2 - x1) * (y2 - y1)
        while level < largest and area >= (224 * 2.0 ** (level + 1 - k0)) ** 2:
            level += 1
        answers.append(level)
    return torch.tensor(answers, dtype=torch.int64)


dice = torch.Generator().manual_seed(4)
corners = 300 * torch.rand(200, 2, generator=dice, dtype=torch.float64) - 100
sides = 2 ** (1 + 10 * torch.rand(200, 2, generator=dice, dtype=torch.float64))
many = torch.cat([corners, corners + sides], 1)
for numbers in ((4, 2, 5), (4, 3, 7), (2, 0, 9), (7, 3, 5), (5, 4, 4)):
    same(assign_level(many, *numbers), plain_level(many, *numbers),
         f"200 random boxes, float64; k0, smallest and largest are {numbers}")
same(assign_level(many.float(), 5, 3, 8), plain_level(many, 5, 3, 8), "200 random boxes, float32")
exact = torch.tensor([[8.0, 16, 8 + 7 * 2**i, 16 + 7 * 2**j] for i in range(9) for j in range(9)])
same(assign_level(exact, 4, 0, 9), plain_level(exact, 4, 0, 9), "sides of 7, 14, 28 … 1792 pixels: exactly at the border")
same(assign_level(exact.double(), 6, 0, 9), plain_level(exact, 6, 0, 9), "exactly at the border, float64")
same(assign_level(torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 900], [3, 8, 700, 8]]), 4, 3, 6), torch.tensor([3, 3, 3]),
     "boxes without area: the smallest level")
same(assign_level(many[:1]), plain_level(many[:1], 4, 2, 5), "one box")
same(assign_level(torch.zeros(0, 4, dtype=torch.float64), 4, 3, 6), torch.zeros(0, dtype=torch.int64), "no boxes, float64")
### END HIDDEN TESTS

# %% [markdown]
r"""
The formula as a picture: the level climbs by one each time the size doubles. Beside it, what it makes of the objects
in our scenes of 64 pixels. None is larger than 40 pixels, so with $k_0 = 4$ all of them come to the finest level.
The formula is made for photographs of 800 pixels. For our images we move it: with $k_0 = 8$ a box of 14 pixels, one
sixteenth of 224, has level 4.
"""

# %%
sizes = 2 ** torch.linspace(3, 10.5, 400)
squares = torch.stack([0 * sizes, 0 * sizes, sizes, sizes], 1)
boxes = torch.cat([target["boxes"] for target in test.targets]).cpu()
alt = (
    "Left: the level over the size of a box, steps from 2 to 5 at 112, 224 and 448 pixels. Right: how many objects of "
    "the scenes each level gets: all on level 2 with k0 = 4, spread over 3, 4 and 5 with k0 = 8."
)
with plot.figure(alt, columns=2, width=9, height=3) as (left, right):
    plot.curve(sizes, assign_level(squares), 0, "levels 2 to 5", left)
    left.set(xscale="log", xlabel="√(wh), pixels", ylabel="level", yticks=[2, 3, 4, 5])
    left.set_xticks([14, 28, 56, 112, 224, 448, 896], [14, 28, 56, 112, 224, 448, 896])
    left.minorticks_off()
    for index, (k0, smallest) in enumerate(((4, 2), (8, 3))):
        counts = [int((assign_level(boxes, k0, smallest, 5) == level).sum()) for level in (2, 3, 4, 5)]
        places = [level + 0.36 * (index - 0.5) for level in (2, 3, 4, 5)]
        right.bar(places, counts, 0.34, color=plot.role_style(index).color, label=f"k0 = {k0}, levels {smallest} to 5")
    right.set(xlabel="level", ylabel="objects in 400 scenes", xticks=[2, 3, 4, 5])
    right.legend(frameon=False)

# %% [markdown]
r"""
Resize the box. Its position plays no part, and a long thin box can have the level of a small square.
"""

# %%
from coursekit.widgets import explore_level

explore_level(assign_level)

# %% [markdown]
r"""
## Pooling, in the order of the boxes

Fast R-CNN takes the proposals of a batch, pools each, and lays the result beside its labels and deltas, row by row.
With a pyramid the rows come from several maps. It is natural to go level by level: take the boxes of level 2, pool
them, then those of level 3. But then the rows stand *level by level*, while the labels still stand *image by image*.
Every number is right, every shape fits, the loss falls a little, and the detector learns nothing. A published starter
of a university course had exactly this; put right, its mean AP went from 0.6 % to 37.75 %.

An example with four boxes of one image, and their levels:

| box | level | row when pooled level by level | row where it belongs |
| --- | --- | --- | --- |
| a | 4 | 2 | 0 |
| b | 2 | 0 | 1 |
| c | 5 | 3 | 2 |
| d | 2 | 1 | 3 |

Pooled level by level the rows are b, d, a, c. Note the box of each row while you go: 1, 3, 0, 2. To go back you need
the *inverse*: box 0 is in row 2, box 1 in row 0, box 2 in row 3, box 3 in row 1. Sorting does it:
`argsort` of (1, 3, 0, 2) is (2, 0, 3, 1).

### Exercise: `pool_from_pyramid`

About 25 minutes, medium.

Give the features of all boxes of a batch, each from its level.

- `features`: the levels, `[B, C, H_l, W_l]`, fine to coarse, and `strides`, their strides: powers of two. Stride
  $2^l$ is level $l$, so the strides 4, 8, 16, 32 are levels 2 to 5, and 8, 16 are levels 3 and 4. The boxes' levels
  are those of `assign_level` with $k_0 = 4$, within these.
- `boxes_per_image`: a list with a tensor `[N_i, 4]` for each image; some may have no rows
- `output_size`: `(h, w)`
- returns `[R, C, h, w]`: first the boxes of image 0 in their order, then those of image 1, and so on

Pool with `roi_align(features, rois, output_size, spatial_scale)` of lesson 8, where a row of `rois` is
`(image, x1, y1, x2, y2)` in pixels and `spatial_scale` is cells per pixel. The setup cell has it. It takes empty
`rois` too.

<details><summary>Hint</summary>

First one tensor `rois` `[R, 5]` for all images, and one `levels` `[R]`. Then, level by level: which rows are mine?
Pool them. Either write the result into these rows of a tensor of zeros, or collect both and sort at the end.
</details>
"""

# %% exercise="pool_from_pyramid"
def pool_from_pyramid(features, boxes_per_image, output_size, strides):
    """Pool each box from the level that fits its size; rows in the order of the boxes given.

    Source: Lin et al., CVPR 2017, section 4.2 (arXiv:1612.03144); pooling by RoIAlign with 2×2 samples a bin.

    Args:
        features (list of Tensor[B, C, H_l, W_l]): the levels, from fine to coarse.
        boxes_per_image (list of B Tensor[N_i, 4]): xyxy in pixels of the image; N_i may be 0.
        output_size (int, int): (h, w), the bins of a box.
        strides (list of int): pixels of a cell of each level, powers of two: stride 2^l is level l.

    Returns:
        Tensor[R, C, h, w]: R = N_0 + N_1 + ...; image by image, in an image as its boxes are.
    """
    ### BEGIN SOLUTION
    rois = [F.pad(boxes, (1, 0), value=image) for image, boxes in enumerate(boxes_per_image)]
    rois = torch.cat(rois)  # [R, 5]: image, x1, y1, x2, y2
    finest, coarsest = (round(math.log2(strides[end])) for end in (0, -1))
    levels = assign_level(rois[:, 1:], smallest=finest, largest=coarsest)  # [R]
    rows, pooled = [], []
    for level, (feature, stride) in enumerate(zip(features, strides), finest):
        mine = (levels == level).nonzero().squeeze(1)
        rows.append(mine)
        pooled.append(roi_align(feature, rois[mine], output_size, 1 / stride))  # [R_l, C, h, w]
    return torch.cat(pooled)[torch.cat(rows).argsort()]  # back from the order of levels
    ### END SOLUTION

# %% check="pool_from_pyramid" points=2
strides = [4, 8, 16, 32]
flat = [torch.full((2, 1, 512 // stride, 640 // stride), 2.0 + level) for level, stride in enumerate(strides)]
for level in flat:
    level[1] += 10  # level 2 holds the number 2 in image 0 and 12 in image 1, level 3 holds 3 and 13, ...
boxes = [torch.tensor([[0.0, 0, 300, 300], [200, 90, 230, 120], [40, 8, 263.7, 231.7]]),
         torch.tensor([[0.0, 10, 500, 510], [8, 8, 258, 258], [600, 300, 620, 330]])]
same(list(pool_from_pyramid(flat, boxes, (2, 3), strides).shape), [6, 1, 2, 3], "six boxes, one channel, 2×3 bins")
same(pool_from_pyramid(flat, boxes, (1, 1), strides)[:, 0, 0, 0], [4, 2, 3, 15, 14, 12],
     "levels 4, 2, 3 of image 0, then 5, 4, 2 of image 1: the rows are in the order of the boxes")
untouched(pool_from_pyramid, flat, boxes, (2, 3), strides)
places = []
for stride in strides:  # two channels: each cell holds the x and the y of its centre, in pixels of the image
    x, y = torch.arange(640 // stride) * stride + stride / 2, torch.arange(512 // stride) * stride + stride / 2
    places.append(torch.stack(torch.meshgrid(x, y, indexing="xy")).expand(2, 2, -1, -1).contiguous())
same(pool_from_pyramid(places, boxes, (1, 1), strides)[:, :, 0, 0],
     [[150, 150], [215, 105], [151.85, 119.85], [250, 260], [133, 133], [610, 315]],
     "maps of x and y: one bin gives the centre of the box, in pixels, whatever its level")
same(pool_from_pyramid(places, [boxes[0][:1], boxes[1][2:]], (1, 2), strides)[:, 0, 0], [[75, 225], [605, 615]],
     "maps of x, 1×2 bins: the centres of the left and right half of a box")
same(pool_from_pyramid(flat[1:], boxes, (1, 1), strides[1:])[:, 0, 0, 0], [4, 3, 3, 15, 14, 13],
     "the same boxes where the pyramid begins at stride 8, which is level 3")
same(pool_from_pyramid(flat, [torch.zeros(0, 4), boxes[0]], (1, 1), strides)[:, 0, 0, 0], [14, 12, 13],
     "an image without boxes: the boxes of the next image stay with it")
### BEGIN HIDDEN TESTS
def one_by_one(features, boxes_per_image, output_size, strides):
    """A box at a time, its level counted by halvings."""
    rows = []
    for image, boxes in enumerate(boxes_per_image):
        for box in boxes.tolist():
            side, level = math.sqrt((box[2] - box[0]) * (box[3] - box[1])), 0
            while level + 1 < len(strides) and side >= 224 / 16 * strides[level + 1]:
                level += 1
            roi = features[level].new_tensor([[0, *box]])
            rows.append(roi_align(features[level][image : image + 1], roi, output_size, 1 / strides[level]))
    return torch.cat(rows)


dice = torch.Generator().manual_seed(21)
def random_case(strides, counts, width, height, dtype=torch.float32):
    maps = [torch.randn(len(counts), 3, -(-height // s), -(-width // s), generator=dice, dtype=torch.float64)
            for s in strides]
    groups = []
    for count in counts:
        sides = 6 * 100 ** torch.rand(count, 2, generator=dice, dtype=torch.float64)
        corners = torch.rand(count, 2, generator=dice, dtype=torch.float64) * torch.tensor([width, height]) - sides / 4
        groups.append(torch.cat([corners, corners + sides], 1).to(dtype))
    return [one.to(dtype) for one in maps], groups


maps, groups = random_case([4, 8, 16, 32], (17, 0, 23), 500, 350)
same(pool_from_pyramid(maps, groups, (3, 2), [4, 8, 16, 32]), one_by_one(maps, groups, (3, 2), [4, 8, 16, 32]),
     "40 random boxes in three images, one of them without boxes", rtol=1e-3, atol=1e-4)
same(pool_from_pyramid([one.double() for one in maps], [group.double() for group in groups], (2, 2), [4, 8, 16, 32]),
     one_by_one([one.double() for one in maps], [group.double() for group in groups], (2, 2), [4, 8, 16, 32]),
     "40 random boxes, float64", rtol=1e-3, atol=1e-4)
coarse, wide = random_case([8, 16, 32, 64, 128], (9, 12), 620, 410)
same(pool_from_pyramid(coarse, wide, (2, 4), [8, 16, 32, 64, 128]), one_by_one(coarse, wide, (2, 4), [8, 16, 32, 64, 128]),
     "five levels, from stride 8 on: stride 8 is level 3", rtol=1e-3, atol=1e-4)
few, boxes2 = random_case([4, 8], (11, 6), 300, 430)
same(pool_from_pyramid(few, boxes2, (1, 3), [4, 8]), one_by_one(few, boxes2, (1, 3), [4, 8]),
     "two levels only: what is too large for them is pooled from the coarser one", rtol=1e-3, atol=1e-4)
alone, boxes1 = random_case([16], (5, 3), 300, 430)
same(pool_from_pyramid(alone, boxes1, (3, 3), [16]), one_by_one(alone, boxes1, (3, 3), [16]), "one level", rtol=1e-3, atol=1e-4)
none = [torch.zeros(0, 4), torch.zeros(0, 4), torch.zeros(0, 4)]
same(pool_from_pyramid(maps, none, (3, 2), [4, 8, 16, 32]), torch.zeros(0, 3, 3, 2), "three images, no boxes at all")
grown = [one.clone().requires_grad_() for one in maps]
each = torch.tensor([[9.0, 20, 9 + side, 20 + side] for side in (300, 60, 470, 150)])
pool_from_pyramid(grown, [none[0], each, each[:1]], (2, 2), [4, 8, 16, 32]).square().sum().backward()
same([one.grad is not None and bool((one.grad != 0).any()) for one in grown], [True] * 4,
     "training reaches each level through its boxes")
### END HIDDEN TESTS

# %% [markdown]
r"""
To see it work, let the "features" be the image itself, shrunk to strides 4, 8, 16 and 32. Then what is pooled is a
small picture of each object. In the figure, the upper row is in the order of the boxes; in the lower row the same
pictures stand level by level under the names of the upper row. Look for names that do not fit. This is what a
classifier is trained on if the order is lost.
"""

# %%
big = scenes("test", 3, size=512, difficulty=MANY_SIZES)
pixels = big.images.float().cpu() / 255
shrunk = [F.avg_pool2d(pixels, stride) for stride in (4, 8, 16, 32)]
boxes = [target["boxes"].cpu() for target in big.targets]
names = [big.classes[label - 1] for target in big.targets for label in target["labels"].tolist()]
pooled = pool_from_pyramid(shrunk, boxes, (28, 28), [4, 8, 16, 32])
levels = assign_level(torch.cat(boxes))
by_level = levels.argsort(stable=True)
alt = "Above, ten small pictures of shapes, each with its name. Below, the same in another order: no name fits"
with plot.figure(alt, rows=2, columns=len(names), width=12, height=2.7) as axes:
    for (above, below), name, one, other, level in zip(axes.T, names, pooled, pooled[by_level], levels.tolist()):
        plot.show_image(one, above)
        plot.show_image(other, below)
        above.set_title(f"{name}\nfrom P{level}", fontsize=8)
        below.set_title(name, fontsize=8)
        for ax in (above, below):
            ax.axis("off")
wrong = sum(names[i] != names[j] for i, j in enumerate(by_level.tolist()))
print(f"level by level, some rows have another object's name: {wrong > 0}")

# %% [markdown]
r"""
### Question: the wrong picture

In the published starter, the pooled features stood level by level and the labels image by image. Explain why
training ran without any error and why the loss still fell. Then: which two of the following would have uncovered the
mistake at once, and why would the others not? (a) a check of all shapes; (b) training on a single image whose
objects are all of one size; (c) maps that hold the number of their level, and boxes of mixed sizes; (d) a look at
the loss curve; (e) the row of one box, computed alone, beside its row in the batch. (Five to eight sentences.)
"""

# %% written="the_wrong_picture" points=2
r"""
Both lists have as many rows, of the right shapes, so nothing fails: a permutation of rows changes no size. The loss
still falls since there is something to learn without looking: how frequent each class and background are, and the
mean of the deltas; and some rows are right by chance, such as those that one level holds alone. (c) shows it at once:
the rows then hold the numbers of the levels, 2, 2, 4, 5 in place of 4, 2, 5, 2. (e) shows it too: computed alone the
box has one row, and it is another one than its row in the batch. (a) cannot, as all shapes are right. (b) cannot,
since with one level and one image the two orders are the same. (d) cannot with any certainty: a curve that falls and
stays high looks like a hard task or a poor learning rate. (Full marks: shapes agree under a permutation; frequencies
or means are learnt; (c) and (e), with why not (b).)
"""

# %% [markdown]
r"""
## Proposals, to try it on

How much does each part of the pyramid matter? The paper takes it apart, and so do we, with a network that proposes
boxes and is as simple as it can be: a trunk, the pyramid, one head for all levels. Like an RPN it tells *object* from
background and leaves the class to a second stage; strips and blobs in the scenes are background, so it has to know
shapes. For each cell the head gives one score and the distances from the cell's centre to the four sides of a box, in
strides. There are no anchors (lesson 13 makes a detector of this idea), so nothing but the pyramid decides about
sizes:

- an object belongs to the level that `assign_level` gives it, with $k_0 = 8$ for our small images;
- the cells of this level that lie in the object and within 1.5 strides of its centre are its positives;
- where two objects want a cell, the smaller one gets it.

The forms that we compare differ in where their maps come from, and in nothing else:

| form | maps of the head | in the paper's table 2, shown below |
| --- | --- | --- |
| FPN | $P_3, P_4, P_5$ | (c) |
| no top-down | $C_3, C_4, C_5$, each through its own lateral and smoothing layer; nothing comes from above | (d) |
| no lateral | only $C_5$ enters the pyramid and is enlarged twice | (e) |
| finest level only | the pyramid's $P_3$ alone has to find objects of all sizes | (f) |

The slides' second picture is about the last: earlier networks with a way back, such as U-Net, predict on the
finest level only, FPN on every level. `TopDown` gives all the forms: with no map above it a level has nothing to add,
and where a lateral map is missing it gets zeros.
"""

# %% tags=["experiment"]
from coursekit.backbones import small_trunk

K0 = 8
FORMS = ("FPN", "no top-down", "no lateral", "finest level only")
nms = earlier("nms")


class Proposer(nn.Module):
    """Images [B, 3, 64, 64] in 0..1 -> scores [B, P] before the sigmoid, and boxes [B, P, 4] of all P cells."""

    def __init__(self, form, channels=64):
        super().__init__()
        self.form, self.trunk = form, small_trunk()
        self.levels = [3] if form == "finest level only" else [3, 4, 5]
        widths = list(self.trunk.channels.values())
        if form == "no top-down":  # each map in a pyramid of its own
            self.neck = nn.ModuleList(TopDown([width], channels) for width in widths)
        else:
            self.neck = TopDown(widths, channels)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(8, channels), nn.ReLU(),
            nn.Conv2d(channels, 5, 3, padding=1),
        )  # fmt: skip
        nn.init.constant_(self.head[-1].bias[:1], -4.6)  # at the start a cell thinks an object rare: lesson 11
        grids = [torch.cartesian_prod(*[torch.arange(2**k // 2, SIZE, 2**k)] * 2).flip(1) for k in self.levels]
        self.register_buffer("centres", torch.cat(grids))  # [P, 2], x and y
        self.register_buffer("level", torch.cat([torch.full((len(grid),), k) for grid, k in zip(grids, self.levels)]))

    def pyramid(self, images):
        """The maps that the head sees."""
        maps = list(self.trunk(images).values())
        if self.form == "no top-down":
            return [neck([one])[0] for neck, one in zip(self.neck, maps)]
        if self.form == "no lateral":
            maps = [torch.zeros_like(maps[0]), torch.zeros_like(maps[1]), maps[2]]
        return self.neck(maps)[: len(self.levels)]

    def forward(self, images):
        rows = [self.head(level).permute(0, 2, 3, 1).flatten(1, 2) for level in self.pyramid(images)]
        scores, sides = torch.cat(rows, 1).float().split([1, 4], -1)
        sides = sides.clamp(max=4).exp() * 2 ** self.level[:, None]  # pixels to the left, top, right, lower side
        return scores[..., 0], torch.cat([self.centres - sides[..., :2], self.centres + sides[..., 2:]], -1)

    @torch.no_grad()
    def detect(self, images):
        """Images -> a list of dicts with boxes, scores and labels, all of which are 1: object."""
        found = []
        for scores, boxes in zip(*self(images)):
            best, order = scores.sigmoid().topk(min(300, len(scores)))
            boxes = boxes[order].clamp(0, SIZE)
            kept = nms(boxes, best, 0.5)[:100]
            found.append({"boxes": boxes[kept], "scores": best[kept], "labels": torch.ones_like(kept)})
        return found

# %% [markdown]
r"""
What each cell is to say, and the loss. Two losses are borrowed: focal loss for the scores is lesson 11's subject, and
the box loss, one minus the generalised IoU, is a cousin of lesson 13's.
"""

# %% tags=["experiment"]
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss


def cell_targets(model, boxes):
    """For each cell: the box [P, 4] that it is to give, and whether there is one, bool [P]. From boxes [M, 4]."""
    if not len(boxes):
        return boxes.new_zeros(len(model.level), 4), torch.zeros_like(model.level, dtype=torch.bool)
    centres, strides = model.centres[:, None], 2 ** model.level[:, None]  # [P, 1, 2], [P, 1]
    mine = assign_level(boxes, K0, model.levels[0], model.levels[-1]) == model.level[:, None]  # [P, M]
    inside = ((centres > boxes[:, :2]) & (centres < boxes[:, 2:])).all(-1)
    near = (centres - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1) < 1.5 * strides
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # [M]
    smallest, which = torch.where(mine & inside & near, area, math.inf).min(1)  # [P]
    return boxes[which], smallest < math.inf


def loss(model, images, targets):
    scores, boxes = model(images)
    wanted, positive = (torch.stack(part) for part in zip(*[cell_targets(model, one["boxes"]) for one in targets]))
    count = positive.sum().clamp(min=1)
    score = sigmoid_focal_loss(scores, positive.float(), reduction="sum") / count
    box = generalized_box_iou_loss(boxes[positive], wanted[positive], reduction="sum") / count
    return {"score": score, "box": box}

# %% [markdown]
r"""
In the figure, blue frames are the positive cells of one scene on each level. A shape has its cells on one level only.
Look at the disk on the left: it belongs to level 4, lies between the centres of that level's cells, and gets none. So
it is never learnt. This is the price of so simple a rule, and one reason for the modest scores below.
"""

# %%
shown = Proposer("FPN")
_, positive = cell_targets(shown, test.targets[6]["boxes"].cpu())
alt = "One scene on three levels, with the cells that learn a shape: four at stride 8, one at 16, two at 32"
with plot.figure(alt, columns=3, width=9, height=3.2) as axes:
    for ax, level in zip(axes, shown.levels):
        plot.show_grid(SIZE // 2**level, SIZE // 2**level, (SIZE, SIZE), role="negative", image=test.images[6], ax=ax)
        cells = shown.centres[positive & (shown.level == level)]
        half = 2**level / 2 - 0.8  # a little less, so that the grid does not hide the frame
        plot.show_boxes(torch.cat([cells - half, cells + half], 1), "positive", thickness=1.5, ax=ax)
        ax.set(title=f"level {level}, stride {2**level}")

# %% [markdown]
r"""
## Training, with and without lateral maps

Two forms, the same scenes, the same steps: the whole pyramid, and the one without lateral maps, in which the fine
levels are nothing but enlarged coarse ones. The two trainings take about a minute on two CPU cores.
"""

# %% tags=["experiment"]
from coursekit.data.batches import DetectionData
from coursekit.evaluation import evaluate
from coursekit.training import fit

STEPS, BATCH, RATE = 600, 8, 4e-3


def only_objects(split, count):
    """The scenes with one class, object, in place of six."""
    data = scenes(split, count, size=SIZE, difficulty=MANY_SIZES)
    targets = [{"boxes": one["boxes"], "labels": torch.ones_like(one["labels"])} for one in data.targets]
    return DetectionData(data.images, targets, ("object",), device=data.device)

# %%
train = only_objects("train", 2048)
found_in = only_objects("test", 400)
models, scores = {}, {}
for form in ("FPN", "no lateral"):
    torch.manual_seed(0)
    models[form] = Proposer(form)
    history = fit(models[form], loss, train, steps=STEPS, batch_size=BATCH, peak_rate=RATE)
    print(f"{form}: the loss fell: {sum(history.total[-30:]) < 0.8 * sum(history.total[:30])}")

# %% tags=["nbval-ignore-output"]
for form, model in models.items():
    scores[form] = evaluate(model.detect, found_in, small=14, large=28)
names = ("AP", "AP50", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")
plot.table([[form, *(getattr(one, name) for name in names)] for form, one in scores.items()], ["", *names])

# %%
with_it, without = scores["FPN"], scores["no lateral"]
print(f"FPN finds boxes: AP50 > 0.28: {with_it.AP50 > 0.28}, AR > 0.25: {with_it.AR > 0.25}")
print(f"lateral maps help small shapes: {with_it.APs > without.APs and with_it.ARs > without.ARs}")

# %% [markdown]
r"""
APs is the AP of shapes under 14² pixels, APm up to 28², APl above. AR is the **average recall**: which share of the
objects is found by the 100 best boxes of an image, averaged over the IoU thresholds. The paper uses it to judge
proposals, where a missed object is lost for good and a false alarm is not yet an error. In the figure are the scenes
of the beginning, each with as many of its best boxes as it has shapes: above with the whole pyramid, below without
lateral maps. Look at the small shapes. What enlarging took away, no convolution can bring back: $C_5$ has 2×2 cells here,
and they know *what* is there, but hardly *where*.
"""

# %%
images, targets = next(test.batches(4))
alt = "The four scenes twice, with true and proposed boxes: with the whole pyramid the boxes lie closer on the shapes"
with plot.figure(alt, rows=2, width=9, height=5) as axes:
    for ax, (form, model) in zip(axes, models.items()):
        found = [{"boxes": one["boxes"][: len(true["boxes"])]} for one, true in zip(model.detect(images), targets)]
        plot.pictures(images, [{"boxes": one["boxes"]} for one in targets], 4, predictions=found, ax=ax)
        ax.set_title(form)

# %% [markdown]
r"""
## The slides' table, and ours

The paper takes the pyramid apart in this table. Fast R-CNN with ResNet-50 gets the same proposals in every row; the
numbers are AP on COCO's minival set, in percent, where small ends at 32² pixels and large begins at 96². {P_k} are
all levels of the pyramid; the head is ResNet's whole fifth stage, run on each box (conv5), or two fully connected
layers (2fc).

| Fast R-CNN | proposals | feature | head | lateral? | top-down? | AP@0.5 | AP | AP_s | AP_m | AP_l |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| (a) baseline on conv4 | RPN, {P_k} | C_4 | conv5 | | | 54.7 | 31.9 | 15.7 | 36.5 | 45.5 |
| (b) baseline on conv5 | RPN, {P_k} | C_5 | 2fc | | | 52.9 | 28.8 | 11.9 | 32.4 | 43.4 |
| **(c) FPN** | RPN, {P_k} | {P_k} | 2fc | ✓ | ✓ | **56.9** | **33.9** | **17.8** | **37.7** | **45.8** |
| (d) bottom-up pyramid | RPN, {P_k} | {P_k} | 2fc | ✓ | | 44.9 | 24.9 | 10.9 | 24.4 | 38.5 |
| (e) top-down pyramid, w/o lateral | RPN, {P_k} | {P_k} | 2fc | | ✓ | 54.0 | 31.3 | 13.3 | 35.2 | 45.3 |
| (f) only finest level | RPN, {P_k} | P_2 | 2fc | ✓ | ✓ | 56.3 | 33.4 | 17.3 | 37.3 | 45.6 |

- Without the **way back** (d) all sizes lose, 33.9 → 24.9 over all: one head is asked to read maps that do not speak
  the same language.
- Without **lateral** maps (e) it is the small objects that suffer, 17.8 → 13.3: they know what, and no longer where.
- The **finest level alone** (f) is nearly as good, since RoI pooling brings every box to 7×7 bins anyway.

Our own rows, for proposals: four forms, the same trunk, head, scenes and steps, differing in nothing but the maps.
This cell trains and scores one form with one seed.
"""

# %% tags=["experiment"]
import functools


@functools.cache
def data_of_the_experiment():
    return only_objects("train", 2048), only_objects("test", 400)


def experiment(form, seed):
    """Train and score one form: AP and AR, also of small, medium and large shapes."""
    train, test = data_of_the_experiment()
    torch.manual_seed(seed)
    model = Proposer(form)
    fit(model, loss, train, steps=STEPS, batch_size=BATCH, peak_rate=RATE, seed=seed, progress=False)
    scores = evaluate(model.detect, test, small=14, large=28)
    return {name: getattr(scores, name) for name in ("AP", "AP50", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")}

# %% [markdown]
r"""
The runs were made beforehand by the command that the table names, with the functions of the reference solution. Each
value is the mean over the seeds, and after ± their standard deviation. Look along the columns: which sizes does each
part help?
"""

# %%
from coursekit import results

ablation = results.load("10_fpn")
ablation.table(["AP", "APs", "APm", "APl"], digits=3)

# %%
ablation.table(["AR", "ARs", "ARm", "ARl"], digits=3)

# %%
alt = (
    "AP of small, medium and large shapes, a point for each seed. FPN and no top-down lie close together; without lateral "
    "maps small shapes are near 0; the finest level alone is highest for medium and large shapes and low for small ones."
)
with plot.figure(alt, width=7.5, height=3.4) as ax:
    for i, form in enumerate(ablation.forms):
        look = plot.role_style(i)
        for place, name in enumerate(("APs", "APm", "APl")):
            values = ablation.values(form, name)
            ax.scatter([place + 0.13 * (i - 1.5)] * len(values), values, s=40, color=look.color, marker=look.marker,
                       label=form if place == 0 else None)  # fmt: skip
    ax.set(xticks=[0, 1, 2], ylabel="AP of proposals", xlim=(-0.5, 2.5))
    ax.set_xticks([0, 1, 2], ["small", "medium", "large"])
    ax.grid(alpha=0.3, axis="y")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))

# %% [markdown]
r"""
What to read in it:

- **Lateral maps** are what the small shapes live on, as in the paper, and more so: the coarsest map of a photograph
  of 800 pixels has 25×25 cells, ours has 2×2.
- **The way back** brings nothing here (0.123 with it, 0.136 without), where the paper lost 9 AP without it. This is a
  result too, and it can be understood. No shape is longer than 40 pixels, and a cell of $C_3$ sees 39: it needs nobody
  to tell it what it looks at. And our trunk learns from nothing, together with the head, so that $C_3$ learns whatever
  the head asks of it. The paper's trunk comes from ImageNet, where it has learnt to know things at its top, from
  photographs of 224 pixels; its fine maps were never asked.
- **The finest level alone** has the highest AP, from its medium and large shapes, and is poor for small ones. On $P_3$ a
  large shape has up to nine cells to speak for it, on $P_5$ mostly one. They outnumber those of the small shapes, with
  which they share the one level. In the paper, where anchors and RoI pooling even out the sizes, this form loses little
  at every size.
- A difference smaller than that between two seeds says nothing. AP of 0.05 to 0.2 is what half a minute of training
  gives: AP50 is about 0.4 (without lateral maps 0.2), and the stricter thresholds pull the mean down.

You can run any of them with your own functions: take the `#` away and wait about a minute.
"""

# %%
# experiment("no lateral", seed=2)

# %% [markdown]
r"""
### Question: which part for which size?

Row (e) of the slides' table has the way back but no lateral maps, row (d) has lateral maps but no way back. Explain
why (e) loses almost only on small objects (compare AP_s and AP_l with row (c)), and why (d) loses at every size. Our
network lost nothing without the way back: name two differences between our experiment and the paper's that may be the
reason, and for one of them an experiment that would show it. (Six to nine sentences, with numbers.)
"""

# %% written="which_part_for_which_size" points=2
r"""
Without lateral maps (e) AP_s falls from 17.8 to 13.3 and AP_l from 45.8 to 45.3. All its levels are the coarsest map,
enlarged: they know what is there, but have the places of a map of stride 32, shrunk and enlarged several times. For a
large object an error of some pixels changes the IoU little, for one under 32 pixels it decides. Without the way back
(d) AP_s falls to 10.9, AP_m to 24.4 and AP_l to 38.5: each level has only what its own layers know. The maps differ in
depth and so in meaning, and one head has to read them all, so even the large objects, whose map has lost nothing,
suffer from a head that must serve the others too. In ours no shape is longer than 40 pixels and C3 sees 39, while in
COCO objects are larger than what a fine map sees and need context; and our trunk was trained from nothing with this
head, while the paper's came from ImageNet, with its knowledge at the top. To test the first: train on scenes with
shapes far larger than 39 pixels, all given to level 3, and compare. To test the second: take a trunk trained on
ImageNet, freeze it, and train only pyramid and head of both forms. (Full marks: place against meaning, with the
numbers; the shared head or the depth of the maps; two differences; an experiment that changes one thing only.)
"""

# %% [markdown]
r"""
## What was published

On COCO's test-dev set, Faster R-CNN on FPN with ResNet-101 reached **36.2 AP**, more than the winners of the
competitions before it, with one model and without an image pyramid:

| method | backbone | competition | image pyramid | AP@.5 | AP | AP_s | AP_m | AP_l | test-std: AP@.5 | AP | AP_s | AP_m | AP_l |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| Faster R-CNN on FPN | ResNet-101 | – | | **59.1** | **36.2** | **18.2** | **39.0** | 48.2 | **58.5** | **35.8** | **17.5** | **38.7** | 47.8 |
| G-RMI | Inception-ResNet | 2016 | | – | 34.7 | – | – | – | – | – | – | – | – |
| AttractioNet | VGG16 + Wide ResNet | 2016 | ✓ | 53.4 | 35.7 | 15.6 | 38.0 | **52.7** | 52.9 | 35.3 | 14.7 | 37.6 | **51.9** |
| Faster R-CNN +++ | ResNet-101 | 2015 | ✓ | 55.7 | 34.9 | 15.6 | 38.7 | 50.9 | – | – | – | – | – |
| Multipath (minival) | VGG-16 | 2015 | | 49.6 | 31.5 | – | – | – | – | – | – | – | – |
| ION | VGG-16 | 2015 | | 53.4 | 31.2 | 12.8 | 32.9 | 45.2 | 52.9 | 30.7 | 11.8 | 32.8 | 44.8 |

And with Faster R-CNN, whose proposals come from the same maps, against a single map, on minival with ResNet-50:

| Faster R-CNN | proposals | feature | head | lateral? | top-down? | AP@0.5 | AP | AP_s | AP_m | AP_l |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| (*) baseline from He et al. | RPN, C_4 | C_4 | conv5 | | | 47.3 | 26.3 | – | – | – |
| (a) baseline on conv4 | RPN, C_4 | C_4 | conv5 | | | 53.1 | 31.6 | 13.2 | 35.6 | **47.1** |
| (b) baseline on conv5 | RPN, C_5 | C_5 | 2fc | | | 51.7 | 28.0 | 9.6 | 31.9 | 43.1 |
| **(c) FPN** | RPN, {P_k} | {P_k} | 2fc | ✓ | ✓ | **56.9** | **33.9** | **17.8** | **37.7** | 45.8 |

The gain is largest on small objects: 13.2 → 17.8 over (a). On large ones (a), with its larger head, is ahead.

## What we built

- `TopDown`: a pyramid in which every level knows about the same, for maps of any size.
- `assign_level`: a level for each box, by its size.
- `pool_from_pyramid`: the features of each box from its level, in the order of the boxes.
- A network that proposes boxes of all sizes, with one head for all levels, and its pyramid taken apart.

The next three lessons put their heads on `TopDown`: RetinaNet, FSAF and FCOS.

### Further reading

- Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017: section 3 (the design, one page), 4.1 and
  4.2 (RPN and RoIs), 5.1 and 5.2 (the ablations; table 1 has the proposals' AR for the same rows as table 2), table 4.
- Liu et al., "Path Aggregation Network for Instance Segmentation", CVPR 2018, section 3.1: after the way down a way
  up again. Tan et al., "EfficientDet", CVPR 2020, section 3: the sum with learnt weights.
- He et al., "Mask R-CNN", ICCV 2017, section 3: pooling from the pyramid with RoIAlign.

### What others call it

| here | torchvision | detectron2 | mmdetection |
| --- | --- | --- | --- |
| `TopDown` | `ops.FeaturePyramidNetwork`; `inner_blocks` are the laterals, `layer_blocks` smooth | `FPN`: `fpn_lateral2`, `fpn_output2` | `FPN`, a "neck": `lateral_convs`, `fpn_convs` |
| `assign_level` | `ops.poolers.LevelMapper`, counted from 0, with 10⁻⁶ added before the floor | `assign_boxes_to_levels`, with 10⁻⁸ added to the size | `SingleRoIExtractor.map_roi_levels`: scale 56 for level 0 |
| `pool_from_pyramid` | `ops.MultiScaleRoIAlign`, without the half-pixel alignment | `ROIPooler` | `SingleRoIExtractor` |
| level $P_6$ | `LastLevelMaxPool` | `LastLevelMaxPool` | `add_extra_convs=False` |

### The last page: pooling in one look-up

Boxes, levels, images, bins, samples: in the end every bin is a weighted sum of a few cells. It has 2×2 samples, each
lies between 2×2 cells: 16 cells, each with a weight. If all cells of all levels stand in **one** table, the level of a
box is an offset into it, and all boxes can be pooled by one call of `F.embedding_bag`, which adds weighted rows of a
table. No order is lost, because nothing is taken apart. Where maps are channels-last, as `fit` makes them, the table
costs one copy.
"""

# %%
def fast_pool(features, boxes_per_image, output_size, strides):
    """As `pool_from_pyramid`, in one look-up: a bin is a weighted sum of 16 rows of a table of all cells."""
    (h, w), boxes = output_size, torch.cat(boxes_per_image)  # [R, 4]
    counts = torch.tensor([len(one) for one in boxes_per_image], device=boxes.device)
    image = torch.arange(len(counts), device=boxes.device).repeat_interleave(counts)  # [R]
    ends = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    level = assign_level(boxes, smallest=ends[0], largest=ends[1]) - ends[0]  # [R]
    table = torch.cat([one.permute(0, 2, 3, 1).reshape(-1, one.shape[1]) for one in features])  # [cells, C]
    rows, columns = torch.tensor([one.shape[-2:] for one in features], device=boxes.device)[level].unbind(1)  # [R]
    cells = torch.tensor([0] + [one[:, 0].numel() for one in features[:-1]], device=boxes.device)
    first = cells.cumsum(0)[level] + image * rows * columns  # [R]: where the box's map begins in the table
    scale = 1 / boxes.new_tensor(strides)[level]  # [R]

    def taps(low, high, bins, length):
        """Of 2·bins samples along an axis: the two cells that each lies between, and their weights. [R, 2·bins, 2]"""
        half = (torch.arange(2 * bins, device=low.device).to(low) + 0.5) / (2 * bins)
        at = (low * scale - 0.5)[:, None] + ((high - low) * scale)[:, None] * half  # [R, 2·bins]
        inside = (at >= -1) & (at <= length[:, None])
        at, last = at.clamp(min=0), (length - 1)[:, None]
        below = torch.minimum(at.long(), last)
        share = torch.where(below < last, at - below, 0)
        weights = torch.stack([1 - share, share], -1) * inside[..., None]
        return torch.stack([below, torch.minimum(below + 1, last)], -1), weights

    y, in_y = (part.reshape(-1, h, 1, 4, 1) for part in taps(boxes[:, 1], boxes[:, 3], h, rows))
    x, in_x = (part.reshape(-1, 1, w, 1, 4) for part in taps(boxes[:, 0], boxes[:, 2], w, columns))
    start, width = (one.reshape(-1, 1, 1, 1, 1) for one in (first, columns))
    bags = (start + y * width + x).reshape(-1, 16)  # [R·h·w, 16]
    pooled = F.embedding_bag(bags, table, mode="sum", per_sample_weights=(in_y * in_x / 4).reshape(-1, 16))
    return pooled.reshape(-1, h, w, table.shape[1]).permute(0, 3, 1, 2)

# %%
dice = torch.Generator().manual_seed(0)
maps = [torch.randn(2, 64, -(-600 // s), -(-800 // s), generator=dice) for s in (4, 8, 16, 32)]
maps = [one.to(memory_format=torch.channels_last) for one in maps]
sides = 8 * 60 ** torch.rand(2, 200, 2, generator=dice)
corners = torch.rand(2, 200, 2, generator=dice) * torch.tensor([800.0, 600]) - sides / 4
groups = list(torch.cat([corners, corners + sides], 2))
ours, fast = (function(maps, groups, (7, 7), [4, 8, 16, 32]) for function in (pool_from_pyramid, fast_pool))
print("the same features:", torch.allclose(ours, fast, atol=1e-3))

# %% tags=["nbval-ignore-output"]
import time

from torchvision.ops import MultiScaleRoIAlign

pooler = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
named = {str(level): one for level, one in enumerate(maps)}


def milliseconds(function, *arguments, runs=5):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function(*arguments)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)


with torch.no_grad():
    rows = [
        ["pool_from_pyramid", milliseconds(pool_from_pyramid, maps, groups, (7, 7), [4, 8, 16, 32])],
        ["fast_pool", milliseconds(fast_pool, maps, groups, (7, 7), [4, 8, 16, 32])],
        ["torchvision's", milliseconds(pooler, named, groups, [(600, 800)] * 2)],
    ]
plot.table(rows, ["", "milliseconds for 400 boxes"], digits=1)
