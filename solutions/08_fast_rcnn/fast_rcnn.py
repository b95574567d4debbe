# %% [markdown]
r"""
# 8 · Fast R-CNN: first where, then what

SSD asks thousands of anchors, everywhere and at every scale. Most of them lie on nothing. A person would first
look *where something might be*, and then look there closely. That is the idea of the **two-stage** detectors: some
method **proposes** a few regions, and a network says of each of them what it is and where exactly it ends.

This lesson goes from R-CNN, which did so and was very slow, to Fast R-CNN, which does the same work once for all
regions. The proposals come from **selective search**, a classic that learns nothing. Lesson 9 replaces it by a
network.

| we write | it gives | minutes |
| --- | --- | --- |
| `region_similarity` | how well two regions of an image fit together | about 15 |
| `selective_search` | the boxes of all regions of a hierarchy | about 30 |
| `roi_pool` | a small map of fixed size for a region of any size | about 30 |
| `roi_align` | the same without rounding | about 35 |
| `label_proposals` | what each proposal is to learn | about 10 |
| `FastRCNNHead` | scores, and a box for each class | about 15 |
| `fast_rcnn_loss` | the two losses | about 20 |

With two written questions, a training of about a minute and a half and the reading this takes about three and a half
hours. The slides and this lesson follow Ross Girshick, "Fast R-CNN", ICCV 2015
([arXiv:1504.08083](https://arxiv.org/abs/1504.08083)).

**Conventions**, as in all lessons: a box is `xyxy` = `(x1, y1, x2, y2)` in pixels, x right, y down, no `+ 1`. Labels
are whole numbers, 0 is background, objects are `1..K`, −1 is ignored. A region that a detector is to look at is
called a **proposal** or a **region of interest**, RoI.
"""

# %% setup=true
import math

import torch
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

box_iou, smooth_l1_loss = earlier("box_iou"), earlier("smooth_l1_loss")

# %% [markdown]
r"""
## What we will build

Three scenes, as they go through the detector. In the second row each scene falls apart into pieces of similar colour;
this part we take from a library. Out of the pieces selective search makes some hundred boxes, and the network finds
the few among them that hold an object: the green ones.
"""

# %%
from skimage.segmentation import felzenszwalb

from coursekit.data import scenes


def over_segment(image, scale=100):
    """The pieces of an image (uint8 [3, H, W]): int64 [H, W], numbers from 0. A larger scale gives fewer."""
    pixels = image.cpu().permute(1, 2, 0).numpy()
    return torch.from_numpy(felzenszwalb(pixels, scale=scale, sigma=0.5, min_size=12)).long()


test = scenes("test", 200)
SHOWN = (0, 3, 8)
alt = "Three scenes of a few shapes with their true boxes; below them the same scenes in sixty to ninety flat pieces"
with plot.figure(alt, width=7.5, height=5, rows=2, columns=3) as axes:
    for (above, below), number in zip(axes.T, SHOWN):
        image, pieces = test.images[number].cpu(), over_segment(test.images[number])
        flat = torch.stack([image[:, pieces == piece].float().mean(1) for piece in range(int(pieces.max()) + 1)])
        plot.show_boxes(test.targets[number]["boxes"], "truth", image=image, ax=above)
        plot.show_image(flat[pieces].permute(2, 0, 1) / 255, ax=below)

# %% [markdown]
r"""
## R-CNN, and why it is slow

**R-CNN** (Girshick et al., 2014; *regions with CNN features*) works in four steps, says the figure of the slides:

1. Take an image.
2. Selective search proposes about **2,000** regions.
3. Each of them is cut out, squeezed into a square of the size that a classification network wants, and sent through
   the network, **one after the other**. What comes out before the classifying layer are its features.
4. For each class a support vector machine (SVM) says from the features whether the region is of this class. A
   regressor for each class, not shown in the slides' figure, then moves the box a little.

It was a great leap: an mAP of **62.9 %** on Pascal VOC 2010, where the same proposals with features made by hand
(a spatial pyramid of visual words) reached 35.1 %, and the deformable part models, the best method of the decade
before, 33.4 %. On the 200 classes of ILSVRC 2013 it reached **31.4 %**, against OverFeat's 24.3 %.

And it is slow. With VGG-16 an image takes **47 seconds** on a GPU. Training comes in three stages, the network, then
the SVMs, then the regressors. The features of all regions of all images are written to disk in between, hundreds of
gigabytes of them. And what the SVMs and regressors learn never reaches the network.

Count the multiplications. The convolutions of VGG-16 need about 15.3 billion for 224×224 pixels. Its two large fully
connected layers, the first on 512·7·7 = 25,088 numbers, have 25,088·4,096 + 4,096·4,096 = 120 million weights, so as
many multiplications for each region.
"""

# %%
once = 15.3e9  # the convolutions, 224×224 pixels
regions = 2000
per_region = 25088 * 4096 + 4096 * 4096
rcnn = regions * (once + per_region)
fast = once * (600 * 1000) / (224 * 224) + regions * per_region
print(f"R-CNN:      {rcnn / 1e12:5.1f} million millions: the network sees {regions} squares")
print(f"Fast R-CNN: {fast / 1e12:5.1f} million millions: it sees the image of 1000×600 pixels once")
print(f"{rcnn / fast:.0f} times fewer")

# %% [markdown]
r"""
The 2,000 regions overlap; the same pixels go through the same layers dozens of times. **Fast R-CNN** sends the whole
image through the network *once* and cuts the regions out of the **feature map**. Its paper lists what is gained, and
so do the slides:

- better detections (mAP) than R-CNN,
- training in a single stage, with one loss for classes and boxes,
- training reaches all layers of the network,
- nothing has to be stored on disk.

Try it. Here is our small trunk, with proposals of a scene cut out and made 128×128 pixels large, and with the whole
scene once. (Real regions come in the next section; for the time, any boxes will do.)
"""

# %%
import time

from coursekit.backbones import small_trunk


def seconds(function, *arguments, repeat=3):
    """The shortest of a few calls."""
    took = []
    for _ in range(repeat):
        start = time.perf_counter()
        function(*arguments)
        took.append(time.perf_counter() - start)
    return min(took)


torch.manual_seed(0)
trunk = small_trunk(("c3",)).eval()
scene = test.images[:1].cpu() / 255


@torch.no_grad()
def one_after_the_other(count=50):
    for number in range(count):
        crop = scene[:, :, number : number + 60, number : number + 60]
        trunk(nn.functional.interpolate(crop, size=(128, 128)))


@torch.no_grad()
def all_at_once():
    trunk(scene)


ratio = seconds(one_after_the_other) / seconds(all_at_once)
print(f"50 regions one after the other take more than 15 times as long as the whole scene: {ratio > 15}")

# %% [markdown]
r"""
## Selective search

Where might an object be? It differs from what is around it, and its parts belong together: by colour, or by texture,
or because one lies inside of the other. No single rule holds for all objects, and objects have parts of all sizes.
So selective search builds a **hierarchy**:

1. **Over-segment** the image: cut it into many small pieces, so small that none reaches across an object's border.
   These pieces are also called superpixels. Each of them is a proposal.
2. Merge the two neighbouring regions that are **most similar** into one. The union is a proposal too.
3. Repeat until one region is left: the whole image.

From $N$ pieces come $N - 1$ unions, so $2N - 1$ boxes, of every size from a speck to the image. Nothing in it was
learnt; all its features are made by hand.

The pieces come from Felzenszwalb and Huttenlocher's method of 2004, as in the paper; we take scikit-image's
`felzenszwalb`. The slides name four kinds of similarity, each a number from 0 to 1, and they are added up:

$$s(a, b) = s_{colour} + s_{texture} + s_{size} + s_{shape}$$

**Colour and texture** are histograms $h$ that sum to 1. What two of them share is the smaller value of each bin:

$$s_{colour}(a, b) = \sum_k \min(h_a^k, h_b^k)$$

and likewise for the texture, whose bins count slopes of the brightness by direction and strength.

**Size** lets small regions grow first, so that no large one swallows its neighbours one by one:

$$s_{size}(a, b) = 1 - \frac{\text{size}(a) + \text{size}(b)}{\text{size of the image}}$$

**Shape** (the paper says *fill*) asks how well the two fit into each other. $BB_{ab}$ is the box around both; what
neither of them covers is a hole:

$$s_{shape}(a, b) = 1 - \frac{\text{size}(BB_{ab}) - \text{size}(a) - \text{size}(b)}{\text{size of the image}}$$

Sizes are numbers of pixels, of the regions themselves and not of their boxes. Two regions on paper, in an image of
8×6 = 48 pixels:

| | size | box | colour | texture |
| --- | --- | --- | --- | --- |
| roof | 12 | (0, 0, 4, 3) | 0.5, 0.5, 0, 0 | 0.75, 0.25 |
| wall | 6 | (2, 3, 5, 6) | 0.25, 0.25, 0.5, 0 | 0.25, 0.75 |

Colour: 0.25 + 0.25 = **0.5**. Texture: 0.25 + 0.25 = **0.5**. Size: 1 − 18/48 = **0.625**. The box around both is
(0, 0, 5, 6) with 30 pixels, 12 of them in neither (the wall fills only 6 of the 9 pixels of its own box, so the other 3
are a hole, too): 1 − 12/48 = **0.75**. Together **2.375**.
"""

# %%
alt = (
    "Two regions in an image of 8 by 6 pixels: the roof at the top left, the wall below and to the right of it, and a "
    "dashed box around both. Its parts at the top right and at the bottom left belong to neither: holes."
)
with plot.figure(alt, width=4.6, height=3.2) as ax:
    plot.show_grid(8, 6, (8, 6), role="negative", ax=ax)
    plot.show_boxes([[0, 0, 5, 6]], "prediction", ax=ax)
    plot.show_boxes([[0.1, 0.1, 3.9, 2.9], [2.1, 3.1, 4.9, 5.9]], "positive", ax=ax)
    for x, y, name in ((2, 1.5, "roof, 12"), (3.5, 4.5, "wall, 6"), (4.5, 1.5, "hole"), (1, 4.5, "hole")):
        ax.text(x, y, name, ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none"})
    ax.set(xlim=(-0.2, 8.2), ylim=(6.2, -0.2))

# %% [markdown]
r"""
### Exercise: `region_similarity`

*About 15 minutes, easy.*

Write `region_similarity(a, b, image_size)`. A region is a dict with `size` (a number), `box` (four numbers, a list),
`colour` and `texture` (tensors of one dimension that sum to 1). `image_size` is (width, height). Give the sum of the
four similarities, a scalar.

The next cell has two functions that you need not write: `describe` makes such dicts of an image's pieces, and
`neighbours` lists which of them touch.

<details><summary>Hint</summary>
<code>torch.minimum</code> compares two tensors element by element. The box around both begins at the smaller of the
two left borders, and ends at the larger of the two right ones.
</details>
"""

# %% setup=true
def describe(segments, image):
    """Every segment as a region, in the order of their numbers.

    Args:
        segments (Tensor[H, W]): int64, the number of each pixel's segment: 0..N-1, each of which occurs.
        image (Tensor[3, H, W]): in 0..1.

    Returns:
        list of N dicts: `size` in pixels, `box` [x1, y1, x2, y2] in pixels, and two histograms that sum to 1, of the
            dtype of the image: `colour` Tensor[75] (25 bins for each of R, G, B) and `texture` Tensor[240] (slopes of
            each of R, G, B in 8 directions, 10 bins for each).
    """
    count, flat = int(segments.max()) + 1, segments.flatten()

    def histogram(channels, bins):  # [C, H, W] in 0..1 -> [N, C·bins]
        level = (channels * bins).long().clamp(0, bins - 1)
        place = (segments * len(channels) + torch.arange(len(channels))[:, None, None]) * bins + level
        table = torch.bincount(place.flatten(), minlength=count * len(channels) * bins).reshape(count, -1)
        return table.to(image.dtype) / table.sum(1, keepdim=True)

    def extent(positions):  # [H, W] -> first, and one past the last, of each segment
        start = torch.full((count,), positions.numel()).scatter_reduce(0, flat, positions.flatten(), "amin")
        return start, torch.zeros_like(start).scatter_reduce(0, flat, positions.flatten(), "amax") + 1

    y, x = torch.meshgrid(*(torch.arange(side) for side in segments.shape), indexing="ij")
    (x1, x2), (y1, y2) = extent(x), extent(y)
    down, right = torch.gradient(image, dim=(1, 2))
    angles = [turn * math.pi / 4 for turn in range(8)]
    slopes = torch.cat([right * math.cos(angle) + down * math.sin(angle) for angle in angles])  # [24, H, W]
    parts = {
        "size": torch.bincount(flat).tolist(),
        "box": torch.stack([x1, y1, x2, y2], 1).tolist(),
        "colour": histogram(image, 25),
        "texture": histogram(4 * slopes.clamp(min=0), 10),
    }
    return [dict(zip(parts, values)) for values in zip(*parts.values())]


def neighbours(segments):
    """The pairs (i, j), i < j, of segments that touch along an edge of a pixel; in order."""
    beside = torch.stack([segments[:, :-1], segments[:, 1:]], -1).reshape(-1, 2)
    below = torch.stack([segments[:-1], segments[1:]], -1).reshape(-1, 2)
    pairs = torch.cat([beside, below]).sort(1).values
    return [tuple(pair) for pair in pairs[pairs[:, 0] != pairs[:, 1]].unique(dim=0).tolist()]

# %% exercise="region_similarity"
def region_similarity(a, b, image_size):
    """How well two regions fit together: the sum of four similarities, of colour, texture, size and shape.

    Source: Uijlings et al., "Selective Search for Object Recognition", IJCV 2013, section 3.2.

    Args:
        a, b (dict): regions with `size` (pixels), `box` [x1, y1, x2, y2] (pixels), and `colour` and `texture`,
            Tensors [C] and [T]: histograms that sum to 1.
        image_size (int, int): (width, height) in pixels.

    Returns:
        scalar: 0..4; the same for (b, a).
    """
    ### BEGIN SOLUTION
    pixels = image_size[0] * image_size[1]
    colour = torch.minimum(a["colour"], b["colour"]).sum()
    texture = torch.minimum(a["texture"], b["texture"]).sum()
    together = a["size"] + b["size"]
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a["box"], b["box"]
    around = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return colour + texture + (1 - together / pixels) + (1 - (around - together) / pixels)
    ### END SOLUTION

# %% check="region_similarity" points=2
def region(size, box, colour, texture, dtype=torch.float32):
    """A region as `describe` gives it."""
    bins = {"colour": torch.tensor(colour, dtype=dtype), "texture": torch.tensor(texture, dtype=dtype)}
    return {"size": size, "box": box, **bins}


roof = region(12, [0, 0, 4, 3], [0.5, 0.5, 0, 0], [0.75, 0.25])
wall = region(6, [2, 3, 5, 6], [0.25, 0.25, 0.5, 0], [0.25, 0.75])
same(region_similarity(roof, wall, (8, 6)), 2.375, "0.5 of colour, 0.5 of texture, 0.625 of size, 0.75 of shape")
same(region_similarity(wall, roof, (8, 6)), 2.375, "the same pair in the other order: the same value")
untouched(region_similarity, roof, wall, (8, 6))
painted = {**roof, "colour": torch.tensor([0, 0, 0.25, 0.75])}
same(region_similarity(painted, wall, (8, 6)), 2.125, "other colours: 0.25 in common instead of 0.5, the rest as before")
smooth = {**roof, "texture": torch.tensor([1.0, 0])}
same(region_similarity(smooth, wall, (8, 6)), 2.125, "another texture: 0.25 in common instead of 0.5, the rest as before")
same(region_similarity({**roof, "size": 9}, wall, (8, 6)), 2.375,
     "three pixels fewer in the same box: more of size, as much less of shape")
apart = {**wall, "box": [4, 3, 8, 6]}
same(region_similarity(roof, apart, (8, 6)), 2.0, "a box farther right: 48 pixels around both, so 30 of them in neither")
### BEGIN HIDDEN TESTS
def plain_similarity(a, b, image_size):
    """The same by loops over plain numbers."""
    pixels, total = image_size[0] * image_size[1], 0.0
    for name in ("colour", "texture"):
        total += sum(min(one, other) for one, other in zip(a[name].tolist(), b[name].tolist()))
    left, top = min(a["box"][0], b["box"][0]), min(a["box"][1], b["box"][1])
    right, bottom = max(a["box"][2], b["box"][2]), max(a["box"][3], b["box"][3])
    hole = (right - left) * (bottom - top) - a["size"] - b["size"]
    return total + 1 - (a["size"] + b["size"]) / pixels + 1 - hole / pixels


dice = torch.Generator().manual_seed(8)
for number in range(6):
    pair = []
    for _ in range(2):
        x1, y1 = torch.randint(0, 20, (2,), generator=dice).tolist()
        w, h = torch.randint(2, 12, (2,), generator=dice).tolist()
        colours, textures = torch.rand(75, generator=dice), torch.rand(240, generator=dice) ** 4
        pair.append({"size": int(w * h * 0.6) + 1, "box": [x1, y1, x1 + w, y1 + h],
                     "colour": colours / colours.sum(), "texture": textures / textures.sum()})
    same(region_similarity(*pair, (33, 40)), plain_similarity(*pair, (33, 40)), f"two random regions, pair {number}")
same(region_similarity(*pair, (400, 100)), plain_similarity(*pair, (400, 100)), "the last pair in an image of 400 × 100")
double = [{name: value.double() if name in ("colour", "texture") else value for name, value in one.items()} for one in pair]
same(region_similarity(*double, (33, 40)), plain_similarity(*pair, (33, 40)), "histograms of float64")
nested = region(20, [0, 0, 7, 6], [1.0, 0], [0.0, 1]), region(4, [2, 2, 4, 4], [1.0, 0], [0.0, 1])
same(region_similarity(*nested, (8, 6)), 1 + 1 + 0.5 + 0.625, "one region lies in a hole of the other one")
whole = region(24, [0, 0, 4, 6], [1.0], [1.0]), region(24, [4, 0, 8, 6], [1.0], [1.0])
same(region_similarity(*whole, (8, 6)), 3.0, "two halves of an image, alike: 1 + 1 + 0 + 1")
far = region(1, [0, 0, 1, 1], [1.0, 0], [1.0, 0]), region(1, [7, 5, 8, 6], [0.0, 1], [0.0, 1])
same(region_similarity(*far, (8, 6)), 0 + 0 + (1 - 2 / 48) + (1 - 46 / 48), "two corners with nothing in common")
### END HIDDEN TESTS

# %% [markdown]
r"""
A look at the last two terms: added up they are $2 - \text{size}(BB_{ab}) / \text{size of the image}$. The regions'
own sizes cancel! Together they say one thing: of all neighbours take the pair whose *common box* is smallest. The
paper gives each term a switch, and there they differ.

### Exercise: `selective_search`

*About 30 minutes, of medium difficulty.*

Write `selective_search(segments, image)` with `describe`, `neighbours` and your `region_similarity`.

* `segments`: int64 `[H, W]`, the number of each pixel's piece, `0..N-1`; `image`: `[3, H, W]` in 0..1.
* Merge the most similar pair of regions that touch, until one is left. If two pairs are equally similar, take the one
  with the smaller first number, then the smaller second one.
* A new region gets the next number: `N`, then `N + 1`, … Its size is the sum of both sizes, its box goes around both
  boxes. Its histograms are those of all its pixels together: the means of both, **weighted by the sizes**.
* It touches whatever one of its two parts touched.
* Give the boxes of all regions by their numbers, `[2N - 1, 4]`, in the dtype of the image.

For example, pieces 0, 1, 2, 3 of an image 6 wide and 4 high, where 0 and 1 have the same colour:

```
0 0 1 1 2 2
0 0 1 1 2 2        first 0 + 1 -> 4, box (0, 0, 4, 2)
3 3 3 3 2 2        then  3 + 4 -> 5, box (0, 0, 4, 4)
3 3 3 3 2 2        then  2 + 5 -> 6, box (0, 0, 6, 4)
```

Why 3 and 4 before 2 and 3, or 2 and 4? All are equally large and share no colour; but the box around 3 and 4 has 16
pixels, the other two have 24.

<details><summary>Hint</summary>
Keep a dict from a pair <code>(i, j)</code>, <code>i &lt; j</code>, to its similarity. Each round: find the best pair;
note which regions stand in a pair with <code>i</code> or <code>j</code>; throw these pairs away; append the new region;
add its pairs. When the dict is empty you are done. To find the best pair with its tie:
<code>min(similar, key=lambda pair: (-similar[pair], pair))</code>.
</details>
"""

# %% exercise="selective_search"
def selective_search(segments, image):
    """The boxes of all regions of a hierarchy: the segments, and each union on the way to the whole image.

    Of all pairs of regions that touch, the most similar one becomes a new region, until one is left. Of pairs that are
    equally similar the one with the smaller first number is taken, then that with the smaller second one; a new region
    gets the next number.
    Source: Uijlings et al., IJCV 2013, algorithm 1.

    Args:
        segments (Tensor[H, W]): int64, the number of each pixel's segment: 0..N-1, each of which occurs.
        image (Tensor[3, H, W]): in 0..1.

    Returns:
        Tensor[2N - 1, 4]: xyxy in pixels, of the dtype of the image: those of the segments in the order of their
            numbers, then those of the new regions as they were made; the last one is the whole image.
    """
    ### BEGIN SOLUTION
    regions = describe(segments, image)
    image_size = (segments.shape[1], segments.shape[0])

    def similarity(i, j):
        return float(region_similarity(regions[i], regions[j], image_size))

    similar = {pair: similarity(*pair) for pair in neighbours(segments)}
    while similar:
        i, j = min(similar, key=lambda pair: (-similar[pair], pair))
        a, b, new = regions[i], regions[j], len(regions)
        size = a["size"] + b["size"]
        low, high = (list(map(f, a["box"], b["box"])) for f in (min, max))
        merged = {"size": size, "box": low[:2] + high[2:]}
        for name in ("colour", "texture"):
            merged[name] = (a["size"] * a[name] + b["size"] * b[name]) / size
        regions.append(merged)
        touching = {k for pair in similar if i in pair or j in pair for k in pair} - {i, j}
        similar = {pair: value for pair, value in similar.items() if i not in pair and j not in pair}
        similar |= {(k, new): similarity(k, new) for k in touching}
    return torch.tensor([region["box"] for region in regions], dtype=image.dtype, device=image.device)
    ### END SOLUTION

# %% check="selective_search" points=3
house = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 3, 3, 2, 2], [3, 3, 3, 3, 2, 2]])
paint = torch.tensor([[0.9, 0.1, 0.1], [0.9, 0.1, 0.1], [0.2, 0.3, 0.9], [0.5, 0.8, 0.3]])[house].permute(2, 0, 1)
found = selective_search(house, paint)
same(list(found.shape), [7, 4], "4 segments and 3 unions: 7 boxes")
same(found[:4], [[0, 0, 2, 2], [2, 0, 4, 2], [4, 0, 6, 4], [0, 2, 4, 4]], "first the segments, in the order of their numbers")
same(found[4], [0, 0, 4, 2], "segments 0 and 1 have the same colours: they come together first")
same(found[5], [0, 0, 4, 4], "the next union is that of region 4 and segment 3: their box has no pixel of others")
same(found[6], [0, 0, 6, 4], "the last union is the whole image, 6 wide and 4 high")
untouched(selective_search, house.clone(), paint.clone())
### BEGIN HIDDEN TESTS
def plain_search(segments, image):
    """The same with all pairs looked at each round, by plain numbers and sets of pixels."""
    regions = describe(segments, image.double())
    pixels = segments.numel()
    state = {
        i: {"size": r["size"], "box": r["box"], "bins": r["colour"].tolist() + r["texture"].tolist()}
        for i, r in enumerate(regions)
    }
    touch = {frozenset(pair) for pair in neighbours(segments)}
    boxes, number = [r["box"] for r in regions], len(regions)
    while len(state) > 1:
        best = None
        for i, j in sorted(tuple(sorted(pair)) for pair in touch):
            a, b = state[i], state[j]
            around = [*map(min, a["box"][:2], b["box"][:2]), *map(max, a["box"][2:], b["box"][2:])]
            size = a["size"] + b["size"]
            value = sum(map(min, a["bins"], b["bins"])) + 2 - (around[2] - around[0]) * (around[3] - around[1]) / pixels
            if best is None or value > best[0] + 1e-9:
                best = value, i, j, around, size
        _, i, j, around, size = best
        a, b = state.pop(i), state.pop(j)
        bins = [(a["size"] * p + b["size"] * q) / size for p, q in zip(a["bins"], b["bins"])]
        state[number] = {"size": size, "box": around, "bins": bins}
        touch = {frozenset(number if k in (i, j) else k for k in pair) for pair in touch}
        touch = {pair for pair in touch if len(pair) == 2}
        boxes.append(around)
        number += 1
    return image.new_tensor(boxes)


dice = torch.Generator().manual_seed(4)
for number, (h, w, n) in enumerate([(12, 17, 14), (20, 11, 18), (16, 24, 30)]):
    seeds = torch.rand(n, 2, generator=dice) * torch.tensor([float(h), float(w)])
    spots = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), -1).reshape(-1, 1, 2)
    mosaic = ((spots - seeds) ** 2).sum(-1).argmin(1).unique(return_inverse=True)[1].reshape(h, w)
    tones = torch.rand(n, 3, generator=dice)[mosaic].permute(2, 0, 1)
    picture = (0.8 * tones + 0.2 * torch.rand(3, h, w, generator=dice)).clamp(0, 1)
    same(selective_search(mosaic, picture), plain_search(mosaic, picture), f"a random mosaic, picture {number}, float32")
    same(selective_search(mosaic, picture.double()), plain_search(mosaic, picture.double()),
         f"a random mosaic, picture {number}, float64")
ring = torch.zeros(7, 9, dtype=torch.int64)
ring[2:5, 3:6] = 1
shade = torch.where(ring == 1, 0.9, 0.2).expand(3, 7, 9).clone()
same(selective_search(ring, shade), [[0, 0, 9, 7], [3, 2, 6, 5], [0, 0, 9, 7]],
     "one segment inside of another: two regions may have the same box, and both are given")
same(selective_search(torch.zeros(3, 5, dtype=torch.int64), torch.zeros(3, 3, 5)), torch.tensor([[0.0, 0, 5, 3]]),
     "a single segment: its box alone")
### END HIDDEN TESTS

# %% check="selective_search" part="ties" points=1
stripes = torch.arange(5).repeat_interleave(2).expand(6, 10).clone()
grey = torch.full((3, 6, 10), 0.5)
same(selective_search(stripes, grey)[5:], [[0, 0, 4, 6], [4, 0, 8, 6], [4, 0, 10, 6], [0, 0, 10, 6]],
     "five equal stripes: 0 and 1 first, then 2 and 3 (two small ones), then 4 joins them, being next to the second pair")
### BEGIN HIDDEN TESTS
tiles = (torch.arange(4)[:, None] * 4 + torch.arange(4)).repeat_interleave(2, 0).repeat_interleave(2, 1)
plain = torch.full((3, 8, 8), 0.25)
same(selective_search(tiles, plain)[16:20], [[0, 0, 4, 2], [4, 0, 8, 2], [0, 2, 4, 4], [4, 2, 8, 4]],
     "sixteen equal tiles: the pair of the smallest numbers first, then row by row")
flags = torch.tensor([[0, 1, 2], [3, 4, 5]]).repeat_interleave(4, 0).repeat_interleave(2, 1)
same(selective_search(flags, torch.full((3, 8, 6), 0.25, dtype=torch.float64))[6:9],
     torch.tensor([[0, 0, 4, 4], [4, 0, 6, 8], [0, 4, 4, 8]], dtype=torch.float64),
     "six equal flags in two rows: (0, 1), then (2, 5), then (3, 4)")
### END HIDDEN TESTS

# %% [markdown]
r"""
See it work on a scene: the boxes of its pieces, of the first half of the unions, and of the other half. Look for the
boxes that fit a shape. They come at the moment when all pieces of a shape have come together, and before the union
swallows its surroundings.
"""

# %%
number = 3
image = test.images[number].cpu() / 255
pieces = over_segment(test.images[number])
boxes = selective_search(pieces, image)
count = int(pieces.max()) + 1
half = count + count // 2
steps = [("pieces", boxes[:count]), ("first unions", boxes[count:half]), ("last unions", boxes[half:])]
alt = "A scene with the boxes of its pieces, of the first unions, which are small, and of the last, which are large"
with plot.figure(alt, width=9, height=3.4, columns=3) as axes:
    for ax, (title, some) in zip(axes, steps):
        plot.show_boxes(some, "proposal", image=image, thickness=0.6, ax=ax)
        ax.set(title=f"{title}: {len(some)} boxes")

# %% [markdown]
r"""
And for each object of some scenes the proposal that overlaps it most. Nobody told the method what a star is.
"""

# %%
def propose(image, scale=100):
    """The proposals of an image (uint8 [3, H, W]), each box once, the last unions first: float32 [P, 4]."""
    boxes = selective_search(over_segment(image, scale), image.cpu() / 255).flip(0)
    return torch.tensor(list(dict.fromkeys(map(tuple, boxes.tolist()))))


proposals = [propose(test.images[number]) for number in SHOWN]
alt = "Three scenes: true boxes, and for each the best proposal, which is close to most of them"
with plot.figure(alt, width=9, height=3.4, columns=3) as axes:
    for ax, number, some in zip(axes, SHOWN, proposals):
        truth = test.targets[number]["boxes"].cpu()
        best = some[box_iou(truth, some).argmax(1)]
        plot.show_boxes(truth, "truth", image=test.images[number], ax=ax)
        plot.show_boxes(best, "proposal", ax=ax)
        ax.set(title=f"{len(some)} proposals, {len(truth)} objects")

# %% [markdown]
r"""
### How many proposals are enough?

What no proposal covers, no second stage can find. So proposals are judged by their **recall**: the share of objects
that some proposal overlaps by an IoU of at least 0.5. More proposals, more recall, and more work. We measure it on 50
scenes: with the first $n$ proposals of each, the last unions first, for three over-segmentations (scale 30 gives many
small pieces, 300 few large ones); and for comparison with $n$ boxes at random.
"""

# %%
def recall(truths, proposals, count, threshold=0.5):
    """The share of all objects that one of the first `count` proposals of their image overlaps enough."""
    best = [box_iou(truth, some[:count]).amax(1) for truth, some in zip(truths, proposals) if len(truth)]
    return (torch.cat(best) >= threshold).float().mean().item()


def random_boxes(count, size, seed):
    dice = torch.Generator().manual_seed(seed)
    ends = size * torch.rand(count, 2, 2, generator=dice)
    return torch.cat([ends.amin(1), ends.amax(1)], 1)


some_images = test.images[:50]
truths = [target["boxes"].cpu() for target in test.targets[:50]]
by_scale = {scale: [propose(image, scale) for image in some_images] for scale in (30, 100, 300)}
by_chance = [random_boxes(300, 128, seed) for seed in range(50)]

# %%
COUNTS = (5, 10, 20, 40, 80, 120, 160, 200, 250, 300)
alt = (
    "Recall over the number of proposals, on the left for an IoU of 0.5, on the right of 0.7. Selective search reaches "
    "about 0.9 with a hundred boxes; 300 random boxes reach 0.4 at 0.5 and 0.1 at 0.7."
)
with plot.figure(alt, width=9.5, height=3.6, columns=2, sharey=True) as axes:
    for ax, threshold in zip(axes, (0.5, 0.7)):
        for role, (scale, found) in enumerate(by_scale.items()):
            plot.curve(COUNTS, [recall(truths, found, n, threshold) for n in COUNTS], role, f"scale {scale}", ax)
        plot.curve(COUNTS, [recall(truths, by_chance, n, threshold) for n in COUNTS], "negative", "random boxes", ax)
        ax.set(xlabel="proposals of a scene, at most", title=f"IoU of at least {threshold}")
    axes[0].set(ylabel="recall", ylim=(0, 1.02))
whole, half = recall(truths, by_scale[100], 300), recall(truths, by_scale[100], 300, 0.7)
print(f"scale 100: recall over 0.92 at an IoU of 0.5: {whole > 0.92}; over 0.85 at 0.7: {half > 0.85}")
print(f"300 random boxes: recall under 0.6 at 0.5: {recall(truths, by_chance, 300) < 0.6}; "
      f"under 0.2 at 0.7: {recall(truths, by_chance, 300, 0.7) < 0.2}")
each = sum(len(some) for some in by_scale[100]) / 50
print(f"selective search gives fewer than 200 boxes a scene: {each < 200}")

# %% [markdown]
r"""
Where a curve turns flat, the method has no more boxes: fewer pieces, fewer proposals, and small objects that were part
of their surroundings from the start. At a scale of 100 one gets nearly everything. A photograph is another matter: there
the paper makes about **2,000** boxes. It runs the search several times, in other colour spaces, with other similarities
switched on and other scales, and joins all lists. Then it takes about **2 seconds** an image on a CPU. We stay with one
run on a scene of 128×128 pixels:
"""

# %% tags=["nbval-ignore-output"]
took = seconds(lambda: [propose(image) for image in some_images[:10]], repeat=1) / 10
print(f"selective search takes {1000 * took:.0f} ms a scene")

# %% [markdown]
r"""
## From the image to the feature map

The network halves the map several times; a cell of its last map stands for a square of **stride** pixels. A box in
pixels, divided by the stride, is a box on the map: the **RoI projection**. Nothing else is needed, since a convolution
keeps places in order. The slides' VGG-16 has a stride of 16 where the regions are cut; a box of (24, 8, 120, 72)
becomes (1.5, 0.5, 7.5, 4.5).

Regions have all sizes, and the layers that follow want one size. So each region is divided into a grid of
$H \times W$ **bins**, for instance $7 \times 7$, and each bin becomes one number for each channel. A projected region
of $h \times w$ cells has bins of $\frac{h}{H} \times \frac{w}{W}$ cells (the slides write it
$\left(\frac{w}{W}, \frac{h}{H}\right)$, width first).

Except that $h / H$ is hardly ever a whole number. Here are the two answers to that.

### RoIPool: round, then take the largest

RoIPool of the Fast R-CNN paper works with whole cells, and rounds **twice**:

1. The corners go to the nearest cell: (1.5, 0.5, 7.5, 4.5) becomes (2, 1, 8, 5). A half goes *up* (away from 0).
   The cells at both borders belong to the region: columns 2 to 8, that is $8 - 2 + 1 = 7$ of them, and rows 1 to 5,
   that is 5. A region always has at least one cell.
2. With 2×3 bins a bin has $5/2 = 2.5$ rows and $7/3 = 2.33$ columns. Bin $i$ starts at cell $\lfloor i \cdot 2.5 \rfloor$
   and ends before $\lceil (i + 1) \cdot 2.5 \rceil$, counted from the region's first: rows 0, 1, 2 and rows 2, 3, 4.
   **Neighbouring bins share a cell.**

What lies outside of the map is left out, column 8 here, as the map ends with column 7; a bin that has no cell left is
0. Of the cells of a bin the largest value is taken, for each channel by itself.

Below is a map of 8×6 cells, 128×96 pixels at a stride of 16. Each cell has its value, 10·row + column, in its corner.
On the left the region of (24, 8, 120, 72) pixels, projected; in the middle what RoIPool makes of it, and in the
colours its six bins; on the right what RoIAlign will do.
"""

# %%
ramp = 10.0 * torch.arange(6)[:, None] + torch.arange(8)
projected = torch.tensor([24.0, 8, 120, 72]) / 16
ROWS, COLUMNS = [(1, 4), (3, 6)], [(2, 5), (4, 7), (6, 8)]
alt = (
    "Three maps of 8 by 6 cells. Left: the projected region cuts through cells. Middle: moved to whole cells, in six "
    "bins which overlap by a row and a column. Right: the region where it was, in six equal bins with four points each."
)
with plot.figure(alt, width=11, height=3, columns=3) as axes:
    for ax, title in zip(axes, ("projected", "RoIPool", "RoIAlign")):
        plot.show_grid(8, 6, (8, 6), role="negative", ax=ax)
        for y in range(6):
            for x in range(8):
                ax.text(x + 0.72, y + 0.74, f"{ramp[y, x]:.0f}", ha="center", va="center", fontsize=7, color="#555555")
        ax.set(title=title, xlabel="x (cells)", ylabel="y (cells)", xlim=(-0.2, 9.2), ylim=(6.3, -0.3))
    plot.show_boxes([projected.tolist()], "proposal", ax=axes[0])
    inset = 0.06
    for i, (top, bottom) in enumerate(ROWS):
        for j, (left, right) in enumerate(COLUMNS):
            role = ("positive", "prediction")[(i + j) % 2]
            bin_box = [left + inset, top + inset, right - inset, bottom - inset]
            plot.show_boxes([bin_box], role, thickness=0.9, ax=axes[1])
    plot.show_boxes([[2, 1, 9, 6]], "proposal", ax=axes[1])
    x1, y1, x2, y2 = projected.tolist()
    equal_bins = [[x1 + j, y1 + i, x1 + j + 2, y1 + i + 2] for i in (0, 2) for j in (0, 2, 4)]
    plot.show_boxes(equal_bins, "positive", ax=axes[2])
    plot.show_points([[x1 + k + 0.5, y1 + m + 0.5] for m in range(4) for k in range(6)], "prediction", ax=axes[2])

# %% [markdown]
r"""
The largest values of the six bins are at their bottom right: 34, 36, 37 in the upper row, 54, 56, 57 below.

### Exercise: `roi_pool`

*About 30 minutes, of medium difficulty.*

Write `roi_pool(features, rois, output_size, spatial_scale)`.

* `features`: `[B, C, H, W]`; `rois`: `[R, 5]`, in each row the number of the image in the batch and a box in
  **pixels**; `output_size`: (h, w); `spatial_scale`: 1 / stride.
* Give `[R, C, h, w]`, of the dtype of the features; for no regions `[0, C, h, w]`.
* Gradients must reach the features (so no `.item()` on them and no numpy).

The next cell has `nearest`, which rounds a half away from 0. Python's `round` and `torch.round` do not: they take 0.5
to 0 and 1.5 to 2. Compute the borders of the bins as the text does, by a division and then floor or ceiling. Where two
roundings meet, such details decide whether two programs agree to the last bit; with torchvision we do.

<details><summary>Hint</summary>
Plain loops will do: over regions, over rows of bins, over columns of bins. Cut the cells of a bin out with
<code>features[image, :, top:bottom, left:right]</code> and take <code>amax</code> over the last two axes. A slice may be
empty, and must not begin at a negative number: clamp both ends to 0..H and 0..W. Collect the bins in a list and
<code>torch.stack</code> it.
</details>
"""

# %% setup=true
def nearest(x):
    """The nearest whole number; a half goes away from 0, as in C++: 0.5 -> 1, 2.5 -> 3, -0.5 -> -1."""
    return x.trunc() + x.sign() * (x.frac().abs() >= 0.5)

# %% exercise="roi_pool"
def roi_pool(features, rois, output_size, spatial_scale):
    """The largest value in each bin of each region, borders moved to whole cells.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1; quantised as `torchvision.ops.roi_pool`.

    Args:
        features (Tensor[B, C, H, W]): maps of a batch.
        rois (Tensor[R, 5]): (number of the image in the batch, x1, y1, x2, y2), box in pixels of the image.
        output_size (int, int): (h, w) bins.
        spatial_scale (float): cells for each pixel, 1 / stride.

    Returns:
        Tensor[R, C, h, w]: 0 in bins that hold no cell of the map.
    """
    ### BEGIN SOLUTION
    def spans(first, last, bins, limit):
        """The cells of each bin: where it begins, and one past its end."""
        size = features.new_tensor(max(last - first + 1, 1)) / bins
        index = torch.arange(bins + 1, dtype=features.dtype, device=features.device)
        starts = (first + (index[:-1] * size).floor()).clamp(0, limit)
        ends = (first + (index[1:] * size).ceil()).clamp(0, limit)
        return list(zip(starts.int().tolist(), ends.int().tolist()))

    height, width = features.shape[-2:]
    pooled = []
    for image, *corners in torch.cat([rois[:, :1], nearest(rois[:, 1:] * spatial_scale)], 1).tolist():
        x1, y1, x2, y2 = corners
        for top, bottom in spans(y1, y2, output_size[0], height):
            for left, right in spans(x1, x2, output_size[1], width):
                cells = features[int(image), :, top:bottom, left:right].flatten(1)  # [C, cells of the bin]
                pooled.append(cells.amax(1) if cells.shape[1] else features.new_zeros(len(cells)))
    if not pooled:
        return features.new_zeros(len(rois), features.shape[1], *output_size)
    return torch.stack(pooled).reshape(len(rois), *output_size, -1).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_pool" points=2
ramp = (10.0 * torch.arange(6)[:, None] + torch.arange(8)).reshape(1, 1, 6, 8)
rois = torch.tensor([[0.0, 24, 8, 120, 72]])
same(roi_pool(ramp, rois, (2, 3), 1 / 16), [[[[34, 36, 37], [54, 56, 57]]]],
     "columns 2 to 8 (the map ends at 7) in three bins, rows 1 to 5 in two: the largest value of each")
untouched(roi_pool, ramp.clone(), rois.clone(), (2, 3), 1 / 16)
same(roi_pool(ramp, torch.tensor([[0.0, 16, 32, 16, 32]]), (1, 1), 1 / 16), [[[[21]]]],
     "a region of no size still has the one cell where it lies: row 2, column 1")
same(roi_pool(ramp, torch.tensor([[0.0, 0, 0, 3, 3]]), (2, 2), 1.0), [[[[11, 13], [31, 33]]]],
     "both borders belong to the region: columns and rows 0 to 3 are four cells")
pair = torch.cat([ramp, -ramp])
same(roi_pool(pair, torch.tensor([[1.0, 0, 0, 3, 3], [0, 0, 0, 3, 3]]), (1, 1), 1.0).flatten(), [0, 33],
     "the first column is the number of the image: here the second image, then the first")
same(list(roi_pool(ramp, torch.zeros(0, 5), (2, 3), 1 / 16).shape), [0, 1, 2, 3], "no regions")
### BEGIN HIDDEN TESTS
def plain_pool(features, rois, output_size, scale):
    """The same by loops over single numbers."""
    (h, w), (height, width) = output_size, features.shape[-2:]
    values, out = features.tolist(), []
    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(v * scale) + 0.5), v)) for v in box)
        for image in values[int(number)]:
            for i in range(h):
                tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
                for j in range(w):
                    rows = range(max(y1 + i * tall // h, 0), min(y1 - (-(i + 1) * tall // h), height))
                    columns = range(max(x1 + j * wide // w, 0), min(x1 - (-(j + 1) * wide // w), width))
                    out.append(max((image[y][x] for y in rows for x in columns), default=0.0))
    return torch.tensor(out, dtype=features.dtype).reshape(len(rois), features.shape[1], h, w)


dice = torch.Generator().manual_seed(1)
maps = torch.randn(2, 3, 9, 14, generator=dice, dtype=torch.float64)
corners = torch.rand(30, 2, generator=dice, dtype=torch.float64) * torch.tensor([90.0, 60]) - 6
boxes = torch.cat([corners, corners + 60 * torch.rand(30, 2, generator=dice, dtype=torch.float64)], 1)
many = torch.cat([torch.randint(0, 2, (30, 1), generator=dice).double(), boxes], 1)
for size, scale in (((3, 2), 0.125), ((2, 5), 0.125), ((4, 4), 0.25)):
    same(roi_pool(maps.float(), many.float(), size, scale), plain_pool(maps.float(), many.float(), size, scale),
         f"30 random regions of two images, {size} bins, scale {scale}, float32")
same(roi_pool(maps, many, (3, 4), 0.125), plain_pool(maps, many, (3, 4), 0.125), "30 random regions, float64")
whole = torch.cat([many[:, :1], (0.25 * many[:, 1:]).round() * 2 + 2], 1)
same(roi_pool(maps, whole, (2, 3), 0.25), plain_pool(maps, whole, (2, 3), 0.25), "corners that lie between two cells: a half goes up")
odd = torch.tensor([[0.0, 1, 1, 9, 5], [1, 3, 1, 5, 7]])
same(roi_pool(maps.float(), odd, (1, 2), 0.5), plain_pool(maps.float(), odd, (1, 2), 0.5),
     "borders are rounded after the scale, not before: pixels 1, 3, 5 at a scale of 0.5")
outside = torch.tensor([[0.0, 200, 200, 240, 230], [0, -90, -80, -60, -50], [1, 90, 10, 200, 40]])
same(roi_pool(maps.float(), outside, (2, 3), 0.125), plain_pool(maps.float(), outside, (2, 3), 0.125),
     "regions outside of the map, or half outside: bins without a cell are 0")
same(roi_pool(-maps.float().abs() - 1, many.float(), (3, 2), 0.125),
     plain_pool(-maps.float().abs() - 1, many.float(), (3, 2), 0.125), "all values are negative: 0 stands in empty bins only")
same(roi_pool(-ramp, torch.tensor([[0.0, -4, -4, 36, 36]]), (2, 2), 0.125), [[[[0, -2], [-20, -22]]]],
     "-0.5 goes to -1 and 4.5 to 5: seven cells, and the second bin begins at cell 2")
backwards = torch.tensor([[0.0, 60, 40, 20, 16]])
same(roi_pool(maps.float(), backwards, (1, 1), 0.125), plain_pool(maps.float(), backwards, (1, 1), 0.125),
     "a box that ends before it starts has one cell")
leaf = maps.float().clone().requires_grad_()
roi_pool(leaf, torch.tensor([[1.0, 8, 8, 40, 40]]), (1, 1), 0.125).sum().backward()
best = torch.zeros_like(maps).float()
for c in range(3):
    window = maps[1, c, 1:6, 1:6]
    best[1, c, 1 + int(window.argmax()) // 5, 1 + int(window.argmax()) % 5] = 1
same(leaf.grad, best, "the gradient goes to the largest cell of the bin alone")
same(list(roi_pool(maps, many[:0], (3, 2), 0.125).shape), [0, 3, 3, 2], "no regions in a batch of two images")
same(roi_pool(maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), many, (3, 4), 0.125),
     plain_pool(maps, many, (3, 4), 0.125), "maps that lie in memory with their channels last")
### END HIDDEN TESTS

# %% [markdown]
r"""
`torchvision.ops.roi_pool` is the same in C++. With random regions, some of them outside of the map:
"""

# %%
import torchvision


def random_rois(count, width, height, images=2, seed=0):
    """Regions [count, 5] of at least 8 pixels; some reach out of an image of width × height pixels."""
    dice = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=dice) * torch.tensor([width, height]) * 1.1 - 10
    ends = corners + 8 + torch.rand(count, 2, generator=dice) * torch.tensor([width, height]) / 2
    return torch.cat([torch.randint(0, images, (count, 1), generator=dice).float(), corners, ends], 1)


some_maps = torch.randn(2, 16, 20, 31, generator=torch.Generator().manual_seed(0))
some_rois = random_rois(50, 31 * 8, 20 * 8)
regions = (some_maps, some_rois, (7, 7), 1 / 8)
print("equal to the last bit:", torch.equal(roi_pool(*regions), torchvision.ops.roi_pool(*regions)))

# %% [markdown]
r"""
### RoIAlign: read between the cells

Rounding moves a region by up to half a cell on each side: at a stride of 16, 8 pixels. For the question *what is it?*
this hardly matters. For *where exactly does it end?* it does: two boxes that differ by some pixels give the very same
features, so no layer behind them can tell them apart. A 12-pixel object has nothing left to measure.

**RoIAlign** (from Mask R-CNN, 2017; not in the slides, but in every detector since) rounds nothing. The region keeps
its place, its bins have equal sizes, and in each bin some **points** are read, usually 2×2, spread evenly. Between the
centres of cells the map is interpolated: a point takes a share of each of the four nearest cells, the more the nearer.
The **mean** of the points is the value of the bin.

Where does a cell's value lie? In its *centre*. Cell 0 goes from 0 to 1, so its centre is at 0.5: to read the map at a
position $p$, take off a half, $p - 0.5$, and then 0 means the middle of cell 0. The first version of RoIAlign in most
libraries forgot this **half pixel**; torchvision has `aligned=True` for the right one. Without it everything is read
half a cell too far to the right and below.

At the border: a point up to one cell outside of the outermost *centres* takes the value at the border; with the half
taken off, these are the positions from $-1$ to $W$. One farther outside is 0, and still counts in the mean.

The region from above, (1.5, 0.5, 7.5, 4.5) in cells, with 2×3 bins of 2×2 cells each. The middle of the first bin is at
(2.5, 1.5); less a half, that is column 2, row 1. Our map rises evenly, so the mean of the four points is the value in
the middle: 12. The next ones are 14 and 16, below 32, 34, 36.

To interpolate at a position $p$ (after the half is off) along one axis: the lower cell is $\lfloor p \rfloor$, the upper
one the next; the upper one gets the share $p - \lfloor p \rfloor$, the lower one the rest. With two axes the shares
multiply.

### Exercise: `roi_align`

*About 35 minutes, of medium difficulty.*

Write `roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2)`.

* Arguments as in `roi_pool`, and `sampling_ratio`, the number of points along each side of a bin.
* Project the box, take off the half. Do not make small regions larger, do not round.
* With $s$ points a side, point $k$ of bin $i$ lies at the share $(i + \frac{k + 0.5}{s}) / h$ of the region's height.
* A point counts if $-1 \le p \le H$ (and $W$ across); then clamp it to $0..H - 1$ and interpolate. Otherwise it is 0.
* Give the mean over the $s \times s$ points: `[R, C, h, w]`.

<details><summary>Hint</summary>
Rows and columns can be prepared by themselves: for each region the <code>h·s</code> positions down and the
<code>w·s</code> positions across, with both cells and their shares. Then the map is read four times, for upper and lower
row and left and right column, by indexing: <code>features.permute(0, 2, 3, 1)[image, y, x]</code> where the three
indices are shaped to <code>[R, 1, 1]</code>, <code>[R, h·s, 1]</code> and <code>[R, 1, w·s]</code>. Loops over regions
and points are right, too, and slow.
</details>
"""

# %% exercise="roi_align"
def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """The mean of a few interpolated values in each bin of each region; nothing is rounded.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3; half-pixel aligned, as
    `torchvision.ops.roi_align(..., aligned=True)`.

    Args:
        features (Tensor[B, C, H, W]): maps of a batch; the value of cell (y, x) lies in its centre.
        rois (Tensor[R, 5]): (number of the image in the batch, x1, y1, x2, y2), box in pixels of the image.
        output_size (int, int): (h, w) bins.
        spatial_scale (float): cells for each pixel, 1 / stride.
        sampling_ratio (int): points along each side of a bin, 1 or more.

    Returns:
        Tensor[R, C, h, w]
    """
    ### BEGIN SOLUTION
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)  # cells; the centre of the first one is 0

    def taps(start, end, bins, limit):
        """The two cells beside each point [R, S], the share of the second one, and whether the point counts."""
        step = (end - start) / bins / sampling_ratio
        points = start[:, None] + step[:, None] * (torch.arange(bins * sampling_ratio).to(rois) + 0.5)
        counts = (points >= -1) & (points <= limit)
        points = points.clamp(0, limit - 1)
        first = points.floor().long()
        return first, (first + 1).clamp(max=limit - 1), points - first, counts

    (h, w), (height, width) = output_size, features.shape[-2:]
    top, bottom, down, tall = taps(y1, y2, h, height)
    left, right, across, wide = taps(x1, x2, w, width)
    image, table = rois[:, 0].long()[:, None, None], features.permute(0, 2, 3, 1)  # [B, H, W, C]
    value = 0
    for y, share_y in ((top, 1 - down), (bottom, down)):
        for x, share_x in ((left, 1 - across), (right, across)):
            share = (share_y * tall)[:, :, None] * (share_x * wide)[:, None]  # [R, S_h, S_w]
            value = value + share[..., None].to(table.dtype) * table[image, y[:, :, None], x[:, None]]
    value = value.reshape(len(rois), h, sampling_ratio, w, sampling_ratio, table.shape[-1])
    return value.mean((2, 4)).permute(0, 3, 1, 2)
    ### END SOLUTION

# %% check="roi_align" points=2
ramp = (10.0 * torch.arange(6)[:, None] + torch.arange(8)).reshape(1, 1, 6, 8)
rois = torch.tensor([[0.0, 24, 8, 120, 72]])
same(roi_align(ramp, rois, (2, 3), 1 / 16), [[[[12, 14, 16], [32, 34, 36]]]],
     "in cells 1.5 to 7.5 and 0.5 to 4.5; the first bin's middle is (2.5, 1.5), the centre of row 1, column 2")
untouched(roi_align, ramp.clone(), rois.clone(), (2, 3), 1 / 16)
same(roi_align(ramp, torch.tensor([[0.0, 0, 0, 128, 96]]), (6, 8), 1 / 16, 1), ramp,
     "the whole image with a bin for each cell and one point in it: the map itself")
same(roi_align(ramp, torch.tensor([[0.0, 68, 40, 72, 44]]), (1, 1), 1 / 16), [[[[10 * 2.125 + 3.875]]]],
     "a region of a quarter of a cell is read where it lies, row 2.125, column 3.875: it is not made larger")
bump = torch.zeros(1, 1, 3, 4)
bump[0, 0, 1, 2] = 8
same(roi_align(bump, torch.tensor([[0.0, 2, 1, 4, 2]]), (1, 1), 1.0, 1), [[[[4]]]],
     "one point between columns 2 and 3, in the middle of row 1: half of each")
pair = torch.cat([ramp, -ramp])
same(roi_align(pair, torch.tensor([[1.0, 0, 0, 128, 96], [0, 0, 0, 128, 96]]), (1, 1), 1 / 16).flatten(), [-28.5, 28.5],
     "the first column is the number of the image: here the second image, then the first")
same(list(roi_align(ramp, torch.zeros(0, 5), (2, 3), 1 / 16).shape), [0, 1, 2, 3], "no regions")
### BEGIN HIDDEN TESTS
def plain_align(features, rois, output_size, scale, ratio=2):
    """The same by loops over single numbers."""
    (h, w), (height, width) = output_size, features.shape[-2:]
    values, out = features.tolist(), []

    def read(image, y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
        a, b = int(y), int(x)
        c, d, v, u = min(a + 1, height - 1), min(b + 1, width - 1), y - a, x - b
        above = image[a][b] * (1 - u) + image[a][d] * u
        return above * (1 - v) + (image[c][b] * (1 - u) + image[c][d] * u) * v

    for number, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - 0.5 for value in box)
        for image in values[int(number)]:
            for i in range(h):
                for j in range(w):
                    points = [
                        read(image, y1 + (y2 - y1) * (i + (p + 0.5) / ratio) / h, x1 + (x2 - x1) * (j + (q + 0.5) / ratio) / w)
                        for p in range(ratio)
                        for q in range(ratio)
                    ]
                    out.append(sum(points) / len(points))
    return torch.tensor(out, dtype=features.dtype).reshape(len(rois), features.shape[1], h, w)


dice = torch.Generator().manual_seed(2)
maps = torch.randn(2, 3, 9, 14, generator=dice, dtype=torch.float64)
corners = torch.rand(30, 2, generator=dice, dtype=torch.float64) * torch.tensor([90.0, 60]) - 6
boxes = torch.cat([corners, corners + 60 * torch.rand(30, 2, generator=dice, dtype=torch.float64)], 1)
many = torch.cat([torch.randint(0, 2, (30, 1), generator=dice).double(), boxes], 1)
for size, scale, ratio in (((3, 2), 0.125, 2), ((2, 5), 0.125, 3), ((4, 4), 0.25, 1)):
    same(roi_align(maps.float(), many.float(), size, scale, ratio), plain_align(maps.float(), many.float(), size, scale, ratio),
         f"30 random regions of two images, {size} bins, scale {scale}, sampling ratio {ratio}, float32")
same(roi_align(maps, many, (3, 4), 0.125), plain_align(maps, many, (3, 4), 0.125), "30 random regions, float64, sampling ratio 2")
outside = torch.tensor([[0.0, 200, 200, 240, 230], [0, -90, -80, -60, -50], [1, 90, 10, 200, 40], [1, -30, 20, 40, 60]])
same(roi_align(maps.float(), outside, (2, 3), 0.125), plain_align(maps.float(), outside, (2, 3), 0.125),
     "points more than a cell outside of the map are 0; those nearer take the cell at the border")
edges = torch.tensor([[0.0, -4, -4, -4, -4], [0, 116, 76, 116, 76], [1, -5, 30, -5, 30], [1, 30, 77, 30, 77]])
same(roi_align(maps.float(), edges, (1, 1), 0.125), plain_align(maps.float(), edges, (1, 1), 0.125),
     "regions without size on the edge of what counts, and just beyond")
tiny = torch.cat([many[:, :3], many[:, 1:3] + 0.3], 1)
same(roi_align(maps, tiny, (2, 2), 0.125), plain_align(maps, tiny, (2, 2), 0.125), "regions of 0.3 pixel keep their size")
slope = torch.arange(14.0).expand(1, 1, 9, 14)
same(roi_align(slope, torch.tensor([[0.0, 12, 8, 92, 64]]), (2, 5), 0.125), [[[[2, 4, 6, 8, 10]] * 2]],
     "a map that rises to the right only")
leaf = maps.float().clone().requires_grad_()
roi_align(leaf, torch.tensor([[1.0, 12, 20, 12, 20]]), (1, 1), 0.125, 1).sum().backward()
share = torch.zeros_like(maps).float()
share[1, :, 2, 1] = 1
same(leaf.grad, share, "the gradient reaches the cells that were read, by their shares: here one cell, exactly")
leaf.grad = None
roi_align(leaf, torch.tensor([[0.0, 18, 22, 18, 22]]), (1, 1), 0.125, 1).sum().backward()
quarter = torch.zeros_like(maps).float()
quarter[0, :, 2:4, 1:3] = torch.tensor([[0.1875, 0.5625], [0.0625, 0.1875]])
same(leaf.grad, quarter, "the gradient is shared by the four cells around a point")
same(list(roi_align(maps, many[:0], (3, 2), 0.125).shape), [0, 3, 3, 2], "no regions in a batch of two images")
same(roi_align(maps.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), many, (3, 4), 0.125),
     plain_align(maps, many, (3, 4), 0.125), "maps that lie in memory with their channels last")
### END HIDDEN TESTS

# %%
theirs = torchvision.ops.roi_align(*regions, 2, aligned=True)
print("differs from torchvision's by less than 0.0001:", bool((roi_align(*regions) - theirs).abs().max() < 1e-4))

# %% [markdown]
r"""
Drag the region over the map, and choose a bin. The dots mark the cells that the bin reads; with RoIAlign a larger dot
weighs more. The values of the cells are written in them. Move the region by one pixel at a time: which of the two
answers changes? Then make the region smaller than one cell: how many cells does a bin of RoIPool read?
"""

# %%
from coursekit.widgets import explore_roi

explore_roi(roi_pool, roi_align)

# %% [markdown]
r"""
### What rounding does

Push a box of 40×40 pixels to the right, pixel by pixel, over a smooth map of stride 16, and look at one bin. RoIPool's
answer is a staircase: 16 boxes in a row look the same. RoIAlign follows.
"""

# %%
smooth = torch.sin(torch.arange(16) / 2.5).expand(1, 1, 8, 16)
shifts = torch.arange(0, 96)
pushed = torch.stack([torch.zeros(96), 48.0 + shifts, torch.full((96,), 40.0), 88.0 + shifts, torch.full((96,), 80.0)], 1)
alt = "The value of a bin while its box moves: RoIPool goes in steps of 16 pixels, RoIAlign is a smooth curve"
with plot.figure(alt, width=6.5, height=3.2) as ax:
    plot.curve(shifts, roi_pool(smooth, pushed, (2, 2), 1 / 16)[:, 0, 0, 0], "prediction", "RoIPool", ax)
    plot.curve(shifts, roi_align(smooth, pushed, (2, 2), 1 / 16)[:, 0, 0, 0], "positive", "RoIAlign", ax)
    ax.set(xlabel="the box moves by (pixels)", ylabel="value of its first bin")
pooled, aligned = (f(smooth, pushed, (2, 2), 1 / 16)[:, 0, 0, 0] for f in (roi_pool, roi_align))
print(f"different values among 96 boxes: fewer than 15 with RoIPool: {len(pooled.unique()) < 15}, "
      f"more than 80 with RoIAlign: {len(aligned.unique()) > 80}")

# %% [markdown]
r"""
And a whole region of a real map. Our trunk has learnt nothing yet, but even random filters see edges.
"""

# %%
with torch.no_grad():
    seen = trunk(scene)["c3"]  # [1, 64, 16, 16]
box = test.targets[0]["boxes"][:1].cpu()
region = torch.cat([torch.zeros(1, 1), box], 1)
inside = roi_align(seen, region, (7, 7), 1 / 8)[0]
strongest = int(inside.var((1, 2)).argmax())
panels = {"the map, stride 8": seen[0, strongest], "RoIPool": roi_pool(seen, region, (7, 7), 1 / 8)[0, strongest],
          "RoIAlign": roi_align(seen, region, (7, 7), 1 / 8)[0, strongest]}  # fmt: skip
low, high = panels["RoIPool"].min(), panels["RoIPool"].max()
alt = "A scene with one object's box; a channel of its map with the same box; the box as 7 by 7 bins of both kinds"
with plot.figure(alt, width=10, height=2.8, columns=4) as axes:
    plot.show_boxes(box, "proposal", image=scene[0], ax=axes[0])
    for ax, (title, values) in zip(axes[1:], panels.items()):
        plot.show_image(((values - low) / (high - low)).clamp(0, 1), ax)
        ax.set(title=title)
    plot.show_boxes(box / 8, "proposal", ax=axes[1])

# %% [markdown]
r"""
## What a proposal is to learn

An anchor of SSD is positive if it overlaps an object by more than 0.5. The rules for a proposal are similar:

- The class is that of the object which it overlaps **most**, with an IoU of **at least 0.5**: label $u \ge 1$.
- With the largest IoU in **[0.1, 0.5)** it is background: $u = 0$.
- Below 0.1 it is **ignored**. That looks odd: is it not the surest background? It is, and so it teaches nothing.
  Background that touches an object is what a detector mixes up; the rule picks it, as hard negative mining did in
  lesson 4.
- **No proposal is forced.** An object without a proposal over 0.5 has none to learn from.

In an image without any object the rule would ignore everything. We take all proposals as background there, so that
the detector hears of empty images too.

### Exercise: `label_proposals`

*About 10 minutes, easy.*

Write `label_proposals(iou, labels)`: `iou` `[M, N]` of the `M` objects with `N` proposals, `labels` int64 `[M]`. Give an
int64 `[N]`.

<details><summary>Hint</summary>
<code>iou.max(0)</code> gives values and places at once, of equal ones the first. It does not accept <code>M = 0</code>.
</details>
"""

# %% exercise="label_proposals"
def label_proposals(iou, labels):
    """What each proposal is to learn.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.3.

    Args:
        iou (Tensor[M, N]): of the M objects of an image with its N proposals.
        labels (Tensor[M]): int64, the class of each object, 1..K.

    Returns:
        Tensor[N]: int64. With an IoU of at least 0.5, the class of the object that the proposal overlaps most, the
            first one in a tie; 0 for background, where the largest IoU is in [0.1, 0.5); -1 for the rest, which is
            ignored. In an image without objects (M = 0) everything is background.
    """
    ### BEGIN SOLUTION
    if len(labels) == 0:
        return labels.new_zeros(iou.shape[1])
    best, which = iou.max(0)  # [N]
    background = torch.where(best >= 0.1, 0, -1)
    return torch.where(best >= 0.5, labels[which], background)
    ### END SOLUTION

# %% check="label_proposals" points=2
iou = torch.tensor([[0.7, 0.3, 0.05, 0.5, 0.0, 0.1], [0.2, 0.45, 0.02, 0.6, 0.0, 0.0]])
same(label_proposals(iou, torch.tensor([4, 2])), torch.tensor([4, 0, -1, 2, -1, 0]),
     "0.7 of the first object; 0.45 is background; 0.05 is ignored; 0.6 of the second beats 0.5; 0 is ignored; 0.1 is background")
untouched(label_proposals, iou.clone(), torch.tensor([4, 2]))
same(label_proposals(torch.tensor([[0.5, 0.4999]]), torch.tensor([3])), [3, 0], "an IoU of exactly 0.5 is enough")
same(label_proposals(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), torch.tensor([0, 0, 0]),
     "no objects, three proposals: all of them are background")
same(label_proposals(torch.zeros(2, 0), torch.tensor([1, 2])), torch.zeros(0, dtype=torch.int64), "two objects, no proposals")
### BEGIN HIDDEN TESTS
def plain_labels(iou, labels):
    """The same, one proposal at a time."""
    found = []
    for column in range(iou.shape[1]):
        values = iou[:, column].tolist()
        best = max(values, default=0.1)
        found.append(labels[values.index(best)].item() if best >= 0.5 else 0 if best >= 0.1 else -1)
    return torch.tensor(found, dtype=torch.int64)


dice = torch.Generator().manual_seed(3)
for count, width in ((3, 40), (7, 5), (1, 30)):
    table, classes = torch.rand(count, width, generator=dice) ** count, torch.randint(1, 9, (count,), generator=dice)
    same(label_proposals(table, classes), plain_labels(table, classes), f"{count} objects and {width} proposals at random")
    same(label_proposals(table.double(), classes), plain_labels(table, classes),
         f"{count} objects and {width} proposals at random, float64")
same(label_proposals(torch.tensor([[0.0, 0.09], [0.09, 0.0]]), torch.tensor([5, 6])), [-1, -1], "0.09 with either object is less than 0.1")
same(label_proposals(torch.tensor([[0.75, 0.5], [0.75, 0.5], [0.25, 0.5]]), torch.tensor([8, 1, 3])), [8, 8],
     "two objects overlap a proposal alike: the first one")
same(label_proposals(torch.tensor([[0.25, 0.125]], dtype=torch.float64), torch.tensor([1])), [0, 0], "0.25 and 0.125 are background, float64")
same(label_proposals(torch.tensor([[1.0], [0.2]]), torch.tensor([6, 2])), [6], "a proposal that is an object's own box")
same(label_proposals(torch.tensor([[0.3], [0.3]]), torch.tensor([6, 2])), [0],
     "0.3 with each of two objects is not 0.6: the largest IoU decides")
same(label_proposals(torch.tensor([[0.1, 0.49, 0.2]]), torch.tensor([1])), [0, 0, 0], "the best proposal of an object is not forced: 0.49 is background")
wide = torch.tensor([[0.6, 0.2, 0.55, 0.05], [0.1, 0.8, 0.52, 0.0]]).T.contiguous().T
same(label_proposals(wide, torch.tensor([7, 3])), [7, 3, 7, -1], "a table that lies in memory column by column")
same(label_proposals(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64), "no objects, no proposals")
### END HIDDEN TESTS

# %% [markdown]
r"""
One scene with its proposals by label. Look at the background ones: all of them touch an object. And look at what is
ignored: also the long strip, which belongs to no class.
"""

# %%
number = SHOWN[1]
truth, some = test.targets[number], proposals[1]
said = label_proposals(box_iou(truth["boxes"].cpu(), some), truth["labels"].cpu())
alt = "One scene three times: positive proposals close to the objects, background that touches them, and the ignored rest"
with plot.figure(alt, width=9, height=3.3, columns=3) as axes:
    for ax, (title, chosen, role, width) in zip(axes, (
        ("positive", said > 0, "positive", 0.7), ("background", said == 0, "negative", 1.6),
        ("ignored", said < 0, "ignored", 0.7),
    )):  # fmt: skip
        plot.show_boxes(some[chosen], role, image=test.images[number], thickness=width, ax=ax)
        ax.set(title=f"{title}: {int(chosen.sum())}")

# %% [markdown]
r"""
From an image with two thousand proposals the paper takes **64** for a step of training, a quarter of them positive,
where there are so many, and 2 images a step, so that the trunk's work is shared. We sample in the same way below.

## The head: two siblings

For VGG-16 the slides list three changes:

- The backbone has learnt on ImageNet's 1,000 classes.
- The **last max-pool** is replaced by RoI pooling, to 7×7: the size that the fully connected layers expect, so that
  they keep what they have learnt.
- The **classifying layer** is replaced by two siblings: a softmax over **K + 1** classes, and **4 offsets for each of
  the K classes**. The box of a person may stick out of a proposal in another way than that of a bus, so each class
  moves the proposal by itself.

### Exercise: `FastRCNNHead`

*About 15 minutes, easy.*

Write the module: `FastRCNNHead(channels, pool, num_classes)`, where `pool` = (h, w) is the size of the pooled maps.
`forward(pooled)` takes `[R, C, h, w]` and gives logits `[R, K + 1]` and deltas `[R, K, 4]`. Between input and siblings
stand fully connected layers with a ReLU; two of 256 are good for our scenes (VGG-16 has two of 4,096). `R` may be 0.

<details><summary>Hint</summary>
<code>nn.Flatten()</code> makes <code>[R, C·h·w]</code>. After the layer for the offsets,
<code>unflatten(1, (-1, 4))</code> parts the classes, also for no regions.
</details>

As in lesson 5 a helper sets random weights, so the names of your layers do not matter.
"""

# %% setup=true
def random_weights(head):
    """Give `head` random weights, and biases too."""
    dice, state = torch.Generator().manual_seed(0), head.state_dict()
    if not state:
        raise LookupError("the head's state_dict is empty: the module does not know its layers")
    for name, weight in state.items():
        if weight.is_floating_point():
            state[name] = torch.randn(weight.shape, generator=dice) / max(weight[0].numel(), 1) ** 0.5
    head.load_state_dict(state)
    return head.eval()

# %% exercise="FastRCNNHead"
class FastRCNNHead(nn.Module):
    """Class scores, and a box for each class, for every pooled region: fully connected layers, then two siblings.

    Args:
        channels (int): C of the pooled maps.
        pool (int, int): their (h, w).
        num_classes (int): K, without background.
    """

    def __init__(self, channels, pool, num_classes):
        super().__init__()
        ### BEGIN SOLUTION
        self.shared = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * pool[0] * pool[1], 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()
        )
        self.scores = nn.Linear(256, num_classes + 1)
        self.offsets = nn.Linear(256, num_classes * 4)
        ### END SOLUTION

    def forward(self, pooled):
        """Logits Tensor[R, K + 1] and deltas Tensor[R, K, 4], from Tensor[R, C, h, w]; R may be 0."""
        ### BEGIN SOLUTION
        vectors = self.shared(pooled)  # [R, 256]
        return self.scores(vectors), self.offsets(vectors).unflatten(1, (-1, 4))
        ### END SOLUTION

# %% check="FastRCNNHead" points=2
pooled = torch.randn(5, 6, 2, 3, generator=torch.Generator().manual_seed(0))
head = FastRCNNHead(6, (2, 3), 4)
logits, deltas = head(pooled)
same(list(logits.shape), [5, 5], "4 classes and background for each of 5 regions")
same(list(deltas.shape), [5, 4, 4], "four offsets for each of 4 classes, background has no box")
same([str(logits.dtype), str(deltas.dtype)], ["torch.float32"] * 2, "logits and deltas have the dtype of the features")
untouched(head, pooled.clone())
same(len(head.state_dict()) > 0, True, "the module knows its layers (in a Python list it does not see them)")
head = random_weights(head)
same([head(pooled[1:3])[0], head(pooled[1:3])[1]], [head(pooled)[0][1:3], head(pooled)[1][1:3]],
     "what is said of a region does not depend on the other regions")
same([list(output.shape) for output in head(pooled[:0])], [[0, 5], [0, 4, 4]], "no regions")
### BEGIN HIDDEN TESTS
wide = torch.randn(7, 3, 4, 5, generator=torch.Generator().manual_seed(1))
other = random_weights(FastRCNNHead(3, (4, 5), 9))
same([list(output.shape) for output in other(wide)], [[7, 10], [7, 9, 4]], "7 regions, 3 channels, 4 × 5 bins, 9 classes")
single = FastRCNNHead(2, (1, 1), 1)(torch.ones(3, 2, 1, 1))
same([list(output.shape) for output in single], [[3, 2], [3, 1, 4]], "one class, one bin")
leaf = wide.clone().requires_grad_()
for part, name in ((0, "logits"), (1, "deltas")):
    leaf.grad = None
    other(leaf)[part].square().sum().backward()
    same(bool((leaf.grad.abs().sum((0,)) > 0).all()), True, f"every channel of every bin matters to the {name}")
same([output.requires_grad for output in other(wide)], [True, True], "training reaches the layers: logits and deltas require a gradient")
large = [output.detach() for output in other(50 * wide)]
moved = zip(other(wide), other(wide.roll(1, 3)))
same([bool(torch.allclose(*pair, atol=1e-3)) for pair in moved], [False, False],
     "it matters in which bin something lies: the same columns in another order give other answers")
signs = [[bool((output < 0).any()), bool((output > 1).any())] for output in large]
same(signs, [[True, True]] * 2, "logits and offsets are any numbers, below 0 and above 1 too: the softmax comes later")
apart = [len({round(value, 5) for value in large[1][0, k].tolist()}) for k in range(9)]
same(apart, [4] * 9, "the four offsets of a class are four different numbers")
same(len({tuple(row) for row in large[1][0].tolist()}), 9, "every class has offsets of its own")
same(len(set(large[0][0].tolist())), 10, "every class has a score of its own, and background too")
state = {name: weight.clone() for name, weight in other.state_dict().items()}
twin = FastRCNNHead(3, (4, 5), 9)
twin.load_state_dict(state)
twin.eval()
same([bool(torch.allclose(*pair)) for pair in zip(twin(wide), other(wide))], [True, True],
     "a second head with the same state_dict gives the same answers: does the module know all its layers")
(other(wide)[0].square().sum() + other(wide)[1].square().sum()).backward()
learns = [weight.grad is not None and bool((weight.grad != 0).any()) for weight in other.parameters()]
same(all(learns), True, "every parameter gets a gradient from logits and deltas")
for part, name in ((0, "logits"), (1, "deltas")):
    three = [other(x)[part] for x in (wide, -wide, 0 * wide)]
    same(bool(torch.allclose(three[0] + three[1], 2 * three[2], atol=1e-3)), False,
         f"between the fully connected layers stand non-linear ones: the {name} are no linear function of the features")
double = FastRCNNHead(3, (4, 5), 9).double()
same([str(output.dtype) for output in double(wide.double())], ["torch.float64"] * 2, "a head of float64")
### END HIDDEN TESTS

# %% [markdown]
r"""
## The loss

$$\mathcal{L} = \mathcal{L}_{cls} + \alpha\,[u \geq 1]\,\mathcal{L}_{off}, \qquad \mathcal{L}_{cls} = -\log p_u$$

$p_u$ is the probability of the true class $u$, background included. The Iverson bracket $[u \ge 1]$ is 1 for a region
with an object and 0 for background. $\mathcal{L}_{off}$ is smooth L1 (σ = 1) over the four offsets **of the class
$u$**; those of the other classes hear nothing. Both are averaged over the regions that were sampled, also over those of
background: SSD divided by the positives alone. Since a quarter of the sample is positive that is a factor, not a
principle; but whoever compares losses of two programs trips over it.

The targets are the normalised offsets of lesson 3, from the *proposal* to the object: it takes the anchor's place.

Four regions, two classes, worked out:

| label | p of background, 1, 2 | −log p of the label | offsets of its class | to learn | smooth L1 |
| --- | --- | --- | --- | --- | --- |
| 2 | 0.5, 0.25, 0.25 | log 4 | 0, 0, 0, 0 | 0.5, 0, 0, 0 | 0.5² / 2 = 0.125 |
| 0 | 0.5, 0.25, 0.25 | log 2 | | | |
| −1 | counts nowhere | | | | |
| 1 | 0.25, 0.5, 0.25 | log 2 | 1, 0, 0, 0 | 3, 0, 0.5, 0 | (2 − 0.5) + 0.125 |

Three regions count: $\mathcal{L}_{cls} = 4 \log 2 / 3$, $\mathcal{L}_{off} = 1.75 / 3$.

### Exercise: `fast_rcnn_loss`

*About 20 minutes, of medium difficulty.*

Write `fast_rcnn_loss(logits, deltas, labels, target_deltas, alpha=1.0)`; give both losses.

* `logits` `[R, K + 1]`, `deltas` `[R, K, 4]`, `labels` int64 `[R]` in −1..K, `target_deltas` `[R, 4]`
* A label of −1 counts nowhere, not in the number either. Divide by at least 1.
* Without positives, and without any region, the losses are 0 and still have a gradient (which is 0).
* Logits far apart must not give infinity: `log_softmax`, not `softmax` and then `log`.

Use `smooth_l1_loss(prediction, target)` of lesson 4, elementwise.

<details><summary>Hint</summary>
<code>deltas[rows, classes]</code> with two index tensors of the same length picks one box for each row. Row 0 of
<code>deltas</code>'s second axis is class 1.
</details>
"""

# %% exercise="fast_rcnn_loss"
def fast_rcnn_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """Both losses of the regions of a batch.

    Source: the slides' multi-task loss; Girshick, "Fast R-CNN", ICCV 2015, equations 1 to 3.

    Args:
        logits (Tensor[R, K + 1]): background first.
        deltas (Tensor[R, K, 4]): offsets for each class; those of class 1 first.
        labels (Tensor[R]): int64, the class 1..K, 0 for background, -1 for a region that counts nowhere.
        target_deltas (Tensor[R, 4]): offsets to learn; any finite numbers where the label is not positive.
        alpha (float): weight of the offsets.

    Returns:
        (scalar, scalar): the sums over all regions with a label of 0 or more, divided by their number (by 1 where
            there is none): of -log p of the true class; and of smooth L1, alpha times, over the four offsets of the
            true class of the positives.
    """
    ### BEGIN SOLUTION
    counted, positive = labels >= 0, labels > 0
    count = counted.sum().clamp(min=1)
    entropy = -logits.log_softmax(-1)[counted, labels[counted]]
    error = smooth_l1_loss(deltas[positive, labels[positive] - 1], target_deltas[positive])
    return entropy.sum() / count, alpha * error.sum() / count
    ### END SOLUTION

# %% check="fast_rcnn_loss" points=2
chances = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.125, 0.125, 0.75], [0.25, 0.5, 0.25]])
offsets = torch.full((4, 2, 4), 9.0)
offsets[0, 1], offsets[3, 0] = torch.tensor([0.0, 0, 0, 0]), torch.tensor([1.0, 0, 0, 0])
labels, wanted = torch.tensor([2, 0, -1, 1]), torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0.5, 0]])
losses = fast_rcnn_loss(chances.log(), offsets, labels, wanted)
same(losses[0], (math.log(4) + math.log(2) + math.log(2)) / 3,
     "p of the true classes: 1/4, 1/2 and 1/2; the third region counts nowhere, so divide by 3")
same(losses[1], (0.125 + 1.5 + 0.125) / 3,
     "the first region learns 0.5 in class 2, the last one 2 and 0.5 in class 1; the others have no box; divide by 3")
same(fast_rcnn_loss(chances.log(), offsets, labels, wanted, 4.0)[1], 4 * 1.75 / 3, "alpha = 4 makes the second loss 4 times as large")
same(fast_rcnn_loss(chances.log(), offsets, labels, wanted, 4.0)[0], 4 * math.log(2) / 3, "alpha leaves the first loss as it is")
untouched(fast_rcnn_loss, chances.log(), offsets.clone(), labels.clone(), wanted.clone())
same(fast_rcnn_loss(chances.log(), offsets, torch.zeros(4, dtype=torch.int64), wanted)[1], torch.tensor(0.0),
     "background only: there is no box to learn, and the loss is 0")
### BEGIN HIDDEN TESTS
def plain_losses(logits, deltas, labels, targets, alpha=1.0):
    """The same by loops over plain numbers."""
    first = second = count = 0.0
    for row, boxes, label, target in zip(logits.tolist(), deltas.tolist(), labels.tolist(), targets.tolist()):
        if label >= 0:
            count += 1
            first += math.log(sum(math.exp(value - row[label]) for value in row))
            for a, b in zip(boxes[label - 1], target) if label else ():
                second += (a - b) ** 2 / 2 if abs(a - b) < 1 else abs(a - b) - 0.5
    return [logits.new_tensor(first / max(count, 1)), logits.new_tensor(alpha * second / max(count, 1))]


dice = torch.Generator().manual_seed(5)
scores = 3 * torch.randn(40, 6, generator=dice, dtype=torch.float64)
boxes = 2 * torch.randn(40, 5, 4, generator=dice, dtype=torch.float64)
goals = 2 * torch.randn(40, 4, generator=dice, dtype=torch.float64)
kinds = torch.randint(-1, 6, (40,), generator=dice)
for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
    case = (scores.to(dtype), boxes.to(dtype), kinds, goals.to(dtype))
    same(fast_rcnn_loss(*case)[0], plain_losses(*case)[0], f"classification of 40 random regions, {name}")
    same(fast_rcnn_loss(*case, 0.5)[1], plain_losses(*case, 0.5)[1], f"localisation of 40 random regions, {name}")
far = 40 * scores.float()
same(fast_rcnn_loss(far, boxes.float(), kinds, goals.float())[0], plain_losses(far, boxes, kinds, goals)[0],
     "logits around ±100: finite")
nobody = torch.full((40,), -1)
same(fast_rcnn_loss(scores.float(), boxes.float(), nobody, goals.float()), [torch.tensor(0.0)] * 2, "every region is ignored: 0 and 0")
nothing = (torch.zeros(0, 6), torch.zeros(0, 5, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
same(fast_rcnn_loss(*nothing), [torch.tensor(0.0)] * 2, "no regions: 0 and 0")
rare = torch.tensor([4] + [0] * 39)
case = (scores.float(), boxes.float(), rare, goals.float())
same(fast_rcnn_loss(*case)[0], plain_losses(*case)[0], "one positive among 39 of background: all of them count")
one = torch.tensor([3])
same(fast_rcnn_loss(scores[:1], boxes[:1], one, goals[:1]), plain_losses(scores[:1], boxes[:1], one, goals[:1]), "a single region of class 3")
for given, name in ((kinds, "labels of all kinds"), (nobody, "nothing but ignored regions")):
    leaves = [scores.clone().requires_grad_(), boxes.clone().requires_grad_()]
    sum(fast_rcnn_loss(*leaves, given, goals)).backward()
    same(leaves[0].grad.isfinite().all().item(), True, f"a finite gradient of the logits: {name}")
    reached = (leaves[1].grad != 0).any(-1)
    slot = torch.zeros(40, 6, dtype=torch.bool)
    slot[torch.arange(40), given.clamp(min=0)] = True
    same(reached, slot[:, 1:], f"only the box of the true class learns: {name}")
leaves = [scores.clone().requires_grad_(), boxes.clone()]
fast_rcnn_loss(*leaves, kinds, goals)[0].backward()
same(leaves[0].grad, ((scores.softmax(-1) - torch.eye(6).double()[kinds.clamp(min=0)]) * (kinds >= 0)[:, None]) / (kinds >= 0).sum(),
     "the gradient of the logits is p minus one-hot, over the number of regions that count")
### END HIDDEN TESTS

# %% [markdown]
r"""
## The detector

All parts are there. One thing first: a step of training pools about five hundred regions, with gradients, and our
`roi_align` reads each point in four goes over large tables. Here is the same as **one** call. Every bin is a weighted
sum of 16 cells (four points of four cells each), and weighted sums of rows of a table are what PyTorch's
`embedding_bag` is for; it is made for language models, where the rows are words.
"""

# %% tags=["experiment"]
def fast_roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):
    """As `roi_align`: rows of the table are cells, a bag is a bin, the shares are the weights."""
    channels, height, width = features.shape[1:]
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale - 0.5).unbind(1)

    def taps(start, end, bins, limit):  # -> cells and shares, [R, bins, 2·ratio]
        step = (end - start)[:, None] / (bins * sampling_ratio)
        points = start[:, None] + step * (torch.arange(bins * sampling_ratio).to(rois) + 0.5)
        counts = ((points >= -1) & (points <= limit)).to(rois.dtype) / sampling_ratio
        points = points.clamp(0, limit - 1)
        first = points.floor()
        cells = torch.stack([first, (first + 1).clamp(max=limit - 1)], -1).long()
        shares = torch.stack([1 - (points - first), points - first], -1) * counts[..., None]
        return (value.reshape(len(rois), bins, 2 * sampling_ratio) for value in (cells, shares))

    (rows, down), (columns, across) = taps(y1, y2, output_size[0], height), taps(x1, x2, output_size[1], width)
    start = rois[:, 0].long()[:, None, None] * height * width
    cells = (start + rows * width)[:, :, None, :, None] + columns[:, None, :, None, :]  # [R, h, w, 2s, 2s]
    shares = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()  # [B·H·W, C]
    bag = (2 * sampling_ratio) ** 2
    pooled = nn.functional.embedding_bag(
        cells.reshape(-1, bag), table, mode="sum", per_sample_weights=shares.reshape(-1, bag).to(table.dtype)
    )
    return pooled.reshape(len(rois), *output_size, channels).permute(0, 3, 1, 2)

# %%
regions = (some_maps, some_rois, (7, 7), 1 / 8)
difference = (fast_roi_align(*regions) - roi_align(*regions)).abs().max()
print("the same as your roi_align, to 0.0001:", bool(difference < 1e-4))

# %% [markdown]
r"""
The model takes images *and* regions. We cut them from `c3`, the map of stride 8: our objects are small. Like the paper
we use a single map for all sizes of object; lesson 10 will have several. In prediction each class has its own box for
each region; then everything is as with SSD: boxes are clipped, candidates score more than 0.02, NMS runs within each
class.
"""

# %% tags=["experiment"]
from coursekit.backbones import small_trunk

decode_boxes, batched_nms = earlier("decode_boxes"), earlier("batched_nms")


def with_image_numbers(boxes):
    """A list of boxes [R_i, 4] for each image -> regions [R, 5]."""
    return torch.cat([torch.cat([one.new_full((len(one), 1), i), one], 1) for i, one in enumerate(boxes)])


class FastRCNN(nn.Module):
    """Images [B, 3, H, W] in 0..1 and regions [R, 5] -> logits [R, K + 1], deltas [R, K, 4]."""

    def __init__(self, backbone, level, num_classes, pool=(6, 6), pooling=fast_roi_align):
        super().__init__()
        self.backbone, self.level, self.pool, self.pooling = backbone, level, pool, pooling
        self.head = FastRCNNHead(backbone.channels[level], pool, num_classes)

    def forward(self, images, rois):
        feature = self.backbone(images)[self.level].float()
        return self.head(self.pooling(feature, rois, self.pool, 1 / self.backbone.strides[self.level]))

    @torch.no_grad()
    def detect(self, images, proposals):
        """Images and a list of proposals [P, 4] for each -> a list of dicts with boxes, scores and labels."""
        rois = with_image_numbers(proposals)
        logits, deltas = (output.float() for output in self(images, rois))
        scores = logits.softmax(-1)[:, 1:]  # [R, K]
        limits = torch.tensor(images.shape[:1:-1]).repeat(2).to(rois)  # W, H, W, H
        found = []
        for i in range(len(images)):
            mine = rois[:, 0] == i
            rows, classes = (scores[mine] > 0.02).nonzero(as_tuple=True)
            boxes = decode_boxes(deltas[mine][rows, classes], rois[mine][rows, 1:])
            boxes = torch.minimum(boxes.clamp(min=0), limits)
            kept = batched_nms(boxes, scores[mine][rows, classes], classes, 0.5)[:100]
            best = scores[mine][rows[kept], classes[kept]]
            found.append({"boxes": boxes[kept], "scores": best, "labels": classes[kept] + 1})
        return found

# %% [markdown]
r"""
### The sample

Of each image 32 regions a step, at most a quarter of them positive. The true boxes join the proposals, so that every
object has at least one region to learn from.

One thing we do otherwise than the paper. Of 2,000 proposals of a photograph some hundred touch an object. Of our
hundred some twenty-five do, and a strip or a blob that lies by itself, and is no class, is *always* ignored: nobody
would ever tell the detector that it is background. So background in [0.1, 0.5) comes first, and the **ignored ones
fill up** the sample. Faster R-CNN's code does so too, by setting the lower bound to 0.
"""

# %% tags=["experiment"]
encode_boxes = earlier("encode_boxes")


def sample_regions(targets, count=32, positive_share=0.25):
    """Regions [R, 5] of a batch, their labels [R] and the offsets that they are to learn [R, 4]."""
    chosen, labels, deltas = [], [], []
    for target in targets:
        boxes = torch.cat([target["boxes"], target["proposals"]])
        iou = box_iou(target["boxes"], boxes)
        label = label_proposals(iou, target["labels"])
        positive, negative = (label > 0).nonzero().flatten(), (label == 0).nonzero().flatten()
        positive = positive[torch.randperm(len(positive))[: int(positive_share * count)]]
        ignored = (label < 0).nonzero().flatten()
        negative, ignored = (rows[torch.randperm(len(rows))] for rows in (negative, ignored))
        negative = torch.cat([negative, ignored])[: count - len(positive)]
        rows = torch.cat([positive, negative])
        chosen.append(boxes[rows])
        labels.append(label[rows].clamp(min=0))  # what was ignored and is needed is background
        delta = torch.zeros_like(boxes[rows])
        if len(positive):
            nearest_object = target["boxes"][iou[:, positive].argmax(0)]
            delta[: len(positive)] = encode_boxes(nearest_object, boxes[positive])
        deltas.append(delta)
    return with_image_numbers(chosen), torch.cat(labels), torch.cat(deltas)


def loss(model, images, targets):
    rois, labels, target_deltas = sample_regions(targets)
    classification, localisation = fast_rcnn_loss(*model(images, rois), labels, target_deltas)
    return {"class": classification, "box": localisation}

# %% [markdown]
r"""
### Proposals, once and for all

Training comes back to each image several times, and its proposals stay the same. So they are **computed once** and
kept beside the targets: `with_proposals`. When a batch mirrors an image, it mirrors the boxes *and* the proposals; who
forgets the latter trains on regions that lie anywhere. This is your `selective_search` at work, some seventy merges a
scene; on a quiet machine it takes half a minute.
"""

# %% tags=["nbval-ignore-output"]
import os

from coursekit.evaluation import evaluate_detections
from coursekit.training import fit

few = bool(os.environ.get("NBGRADER_EXECUTION"))  # while grading nothing is trained, so a few scenes will do
train, test = scenes("train", 32 if few else 768), test.subset(range(10 if few else 200))
start = time.perf_counter()
train, test = (data.with_proposals([propose(image) for image in data.images]) for data in (train, test))
proposal_seconds = (time.perf_counter() - start) / (len(train) + len(test))
print(f"{1000 * proposal_seconds:.0f} ms a scene")

# %%
torch.manual_seed(0)
model = FastRCNN(small_trunk(("c3",)), "c3", len(train.classes))
history = fit(model, loss, train, steps=500, batch_size=16, peak_rate=5e-3,
              expected="08_fast_rcnn scenes", checkpoint="08_fast_rcnn.safetensors")  # fmt: skip
print(f"the loss fell to less than half: {sum(history.total[-50:]) < sum(history.total[:50]) / 2}")

# %%
alt = "Both losses fall; that of the classes faster"
with plot.figure(alt, width=5, height=3.2) as ax:
    history.plot(ax)

# %% [markdown]
r"""
### How good is it?
"""

# %% tags=["nbval-ignore-output"]
def detect_all(model, data):
    """What the model finds in a whole set, from the proposals that stand in it."""
    model.eval()
    found = []
    for images, targets in data.batches(32):
        found += model.detect(images, [target["proposals"] for target in targets])
    return found


found = detect_all(model, test)
scores = evaluate_detections(found, test.targets, test.classes, small=16, large=40)
scores

# %%
print(f"AP50 > 0.42: {scores.AP50 > 0.42}")
print(f"AP > 0.28: {scores.AP > 0.28}")
print(f"boxes fit well where they are found: AP75 is more than half of AP50: {scores.AP75 > scores.AP50 / 2}")

# %% [markdown]
r"""
The first scenes of the lesson again, with detections that score more than 0.5. Look for shapes without a detection, and
for strips and blobs that were taken for a shape.
"""

# %%
alt = (
    "Three scenes with true boxes and detections: some shapes are found under the right name, some under a wrong one or "
    "not at all, and a blob is taken for a shape."
)
with plot.figure(alt, width=9, height=3.2, columns=3) as axes:
    for ax, number in zip(axes, SHOWN):
        if number < len(test):
            one = {key: value[found[number]["scores"] > 0.5] for key, value in found[number].items()}
            plot.show_boxes(test.targets[number]["boxes"], "truth", image=test.images[number], ax=ax)
            names = {"labels": one["labels"], "scores": one["scores"], "classes": test.classes}
            plot.show_boxes(one["boxes"], "prediction", **names, ax=ax)

# %% [markdown]
r"""
AP50 is no match for lesson 5: that SSD saw 4,096 different scenes in 700 steps of 32 images, this detector sees 768
scenes in 500 steps of 16. But look at AP75. It is close to AP50, so a detection that is right is right to a few
pixels. The proposals are the reason: in a drawn scene the border of a piece *is* the border of a shape. Below, for
each object, how well its best proposal fits, and how well the best detection does. The best proposals fit even better:
the network does not know which of its proposals is the perfect one, and its offsets, trained on good and bad ones, move
it a little off. What the second stage has to learn here is mostly the class. On photographs, where pieces are ragged, its
offsets have more to do.
"""

# %%
def best_ious(truths, boxes):
    """For each object the largest IoU with one of the boxes of its image; 0 where there are none."""
    tables = [box_iou(truth["boxes"], some) for truth, some in zip(truths, boxes)]
    return torch.cat([torch.cat([table, table.new_zeros(len(table), 1)], 1).amax(1) for table in tables]).cpu()


fits = {
    "proposal": best_ious(test.targets, [target["proposals"] for target in test.targets]),
    "prediction": best_ious(test.targets, [one["boxes"][one["scores"] > 0.1] for one in found]),
}
alt = "Two histograms of the best IoU of each object, with its proposals and with its detections: most are over 0.8"
with plot.figure(alt, width=6, height=3.2) as ax:
    for (role, values), name in zip(fits.items(), ("best proposal", "best detection that scores over 0.1")):
        look = {"histtype": "step", "linewidth": 2, "color": plot.role_style(role).color}
        ax.hist(values.numpy(), bins=20, range=(0, 1), label=name, **look)
    ax.set(xlabel="IoU with the object", ylabel="objects of the test scenes")
    ax.legend(frameon=False, loc="upper left")

# %% [markdown]
r"""
The published numbers, from the slides: Fast R-CNN with VGG-16, pretrained on ImageNet, images whose shorter side has 600
pixels, all layers but the first ones trained at once, mirrored images as the only augmentation, 2,000 proposals of
selective search. Its mAP is **66.9** on VOC 2007, **66.1** on VOC 2010 and **65.7** on VOC 2012. In 2010 that is 3.2
points more than R-CNN's 62.9. Its paper adds the time: training 9.5 hours instead of 84, an image **0.32 seconds**
instead of 47. Without the proposals.

## Where the time goes now

Without the proposals: that is the catch. The slides say of the next detector: selective search takes 2 seconds an
image on the CPU, all the rest 0.2. Ours:
"""

# %% tags=["nbval-ignore-output"]
images, targets = next(test.batches(8))
regions = [target["proposals"] for target in targets]
network_seconds = seconds(model.detect, images, regions) / len(images)
print(f"proposals {1000 * proposal_seconds:.0f} ms a scene, the network {1000 * network_seconds:.0f} ms")

# %%
print(f"the proposals take longer than all the rest: {proposal_seconds > network_seconds}")

# %% [markdown]
r"""
The bottleneck has moved. R-CNN's was the network, Fast R-CNN's is the search, which runs on the CPU, learns nothing and
knows nothing of the features that the network computes a moment later. Lesson 9 lets the network propose.

### Question: what recall allows

Selective search finds a proposal with an IoU of at least 0.5 for 97 of 100 objects, and one of at least 0.75 for 85.
Can a Fast R-CNN on these proposals have a recall of more than 0.97 at an IoU of 0.5? Can it have one of more than 0.85 at
0.75? What becomes of the three objects in training, and would a fourth over-segmentation with other scales help? (Five to
seven sentences.)
"""

# %% written="what_recall_allows" points=2
r"""
At 0.5 hardly: an object whose best proposal has an IoU of 0.4 could be found only if a region that was trained as
background said its class and moved its box by a lot; it is not impossible, since offsets move boxes, but training told
such regions to say background. At 0.75 yes, easily: a proposal with an IoU of 0.6 is a positive, it is classified, and
its offsets are trained to move it onto the object, so boxes end up better than their proposals. So recall at 0.5 of the
proposals is about a ceiling, recall at 0.75 is not. In training the three objects have no proposal among the positives,
and only their true box, which we add to the sample, teaches their class; the proposals around them are trained as
background or ignored, which makes things worse. Another over-segmentation with other scales adds boxes, so recall cannot
fall and will probably rise: that is what the paper does to reach 2,000 boxes. It costs time: the search runs once more,
and every box goes through the head.
"""

# %% [markdown]
r"""
### Question: one pixel

A colleague replaces RoIAlign by RoIPool in a trained detector with stride 16, without training it again. AP50 falls by a
little, AP75 by a lot, and for small objects most. Explain the three. Why would training it again help AP50 more than AP75?
(Five to seven sentences.)
"""

# %% written="one_pixel" points=2
r"""
RoIPool moves each border of a region by up to half a cell, 8 pixels, and takes the largest value of whole cells, so the
pooled maps look different from those the head was trained on: they are shifted, and larger numbers. Which class it is
can still be seen from a map that is a little shifted, so at an IoU of 0.5, which forgives some pixels, most detections
stay right. AP75 asks for borders that fit within a few pixels; the head computes offsets from the proposal, and can no
longer see where in the region the object's border lies, as all proposals that round to the same cells give the same
features. For an object of 16 pixels half a cell is half of its size, so small objects suffer most; for one of 200 pixels
it is 4 %. Training again lets the head get used to maxima instead of means and to the mean shift, which brings back the
classes and with them AP50. But no training brings back what rounding has removed: two proposals with the same features
need two different offsets, so the best it can do is their mean, and AP75 stays lower.
"""

# %% [markdown]
r"""
## Photographs, with VGG-16

The real thing: the backbone of the slides, on the blood cells of lesson 5. `vgg16` of `coursekit.backbones` is
torchvision's, and its `c4` is conv5_3, the layer before the last max-pool, with a stride of 16. The weights are a
download of 528 MB, and a step on a CPU takes many seconds; so this part runs only where there is a GPU and the weights
can be had. Selective search on 640×480 pixels would take seconds an image, so it sees the image at 256×192, as the
network does.
"""

# %% tags=["nbval-ignore-output"]
from coursekit.backbones import vgg16
from coursekit.data import real


def vgg_backbone():
    """VGG-16 with ImageNet's weights, or None (and says why)."""
    if not torch.cuda.is_available():
        print("no GPU, on which VGG-16 would be quick enough, so the cells below are skipped")
        return None
    try:
        return vgg16("imagenet", levels=("c4",), train_from="c3")
    except OSError as error:
        print(f"no weights of VGG-16, so the cells below are skipped: {error}")


def train_on_blood(backbone, steps=300, images=None):
    """A Fast R-CNN on blood cells: the model, and the validation set with its proposals."""
    sets = [real("bccd", split, size=(256, 192), download=True) for split in ("train", "val")]
    sets = [data.subset(range(images or len(data))) for data in sets]
    sets = [data.with_proposals([propose(image, 50).to(data.device) for image in data.images]) for data in sets]
    torch.manual_seed(0)
    blood_model = FastRCNN(backbone, "c4", 3, pool=(7, 7))
    fit(blood_model, loss, sets[0], steps=steps, batch_size=8, peak_rate=1e-3, slower={"backbone": 0.1})
    return blood_model, sets[1]


backbone = vgg_backbone()
if backbone:
    blood_model, blood = train_on_blood(backbone)
    blood_found = detect_all(blood_model, blood)
    print(evaluate_detections(blood_found, blood.targets, blood.classes))

# %% [markdown]
r"""
## Extension: fast pooling

*Not graded.* RoIAlign as one `embedding_bag` you have seen. RoIPool can be one too, with `mode="max"`: then a bag is
the list of a bin's cells. Bins differ in their number of cells, and `embedding_bag` takes lists of different lengths:
one long list, and the offsets at which the bags begin. Write your own before you read ours.
"""

# %%
def fast_roi_pool(features, rois, output_size, spatial_scale):
    """As `roi_pool`: a bag is a bin, its rows are the bin's cells, of each column the largest value."""
    batch, channels, height, width = features.shape
    corners = nearest(rois[:, 1:] * spatial_scale).to(features.dtype)

    def spans(first, last, bins, limit):  # -> where each bin begins and how many cells it has, [R, bins]
        size = (last - first + 1).clamp(min=1)[:, None] / bins
        index = torch.arange(bins + 1).to(features)
        ends = (first[:, None] + (index[1:] * size).ceil()).clamp(0, limit)
        starts = (first[:, None] + (index[:-1] * size).floor()).clamp(0, limit)
        return starts.long(), (ends - starts).clamp(min=0).long()

    x1, y1, x2, y2 = corners.unbind(1)
    top, tall = spans(y1, y2, output_size[0], height)
    left, wide = spans(x1, x2, output_size[1], width)
    counts = (tall[:, :, None] * wide[:, None]).flatten()  # cells of each bin, [R·h·w]
    base = rois[:, 0].long()[:, None, None] * height * width + top[:, :, None] * width + left[:, None]
    across = wide[:, None].expand(-1, output_size[0], -1).flatten()
    begins = counts.cumsum(0) - counts
    place = torch.arange(int(counts.sum()), device=counts.device) - begins.repeat_interleave(counts)  # number of a cell in its bin
    across = across.repeat_interleave(counts)
    down = place.div(across, rounding_mode="floor")
    cells = base.flatten().repeat_interleave(counts) + down * (width - across) + place
    table = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    pooled = nn.functional.embedding_bag(cells, table, begins, mode="max")  # 0 for a bag without rows
    return pooled.reshape(len(rois), *output_size, channels).permute(0, 3, 1, 2)


large = torch.randn(2, 256, 50, 68, generator=torch.Generator().manual_seed(1))
many = random_rois(256, 68 * 16, 50 * 16, seed=1)
print("equal to torchvision's, to the last bit:",
      torch.equal(fast_roi_pool(large, many, (7, 7), 1 / 16), torchvision.ops.roi_pool(large, many, (7, 7), 1 / 16)))

# %% tags=["nbval-ignore-output"]
CASES = {
    "RoIPool": (roi_pool, fast_roi_pool, lambda *a: torchvision.ops.roi_pool(*a)),
    "RoIAlign": (roi_align, fast_roi_align, lambda *a: torchvision.ops.roi_align(*a, 2, True)),
}
rows = []
for name, functions in CASES.items():
    yours, bags, library = (seconds(f, large, many, (7, 7), 1 / 16, repeat=2) for f in functions)
    rows.append([name, 1000 * library, yours / library, bags / library])
plot.table(rows, ["256 regions, 256 channels", "torchvision, ms", "yours, times that", "as bags, times that"], digits=2)

# %% [markdown]
r"""
The table is of the machine it ran on. As bags RoIAlign is *faster* than torchvision's C++ on a CPU, several times where
we measured: torchvision goes through a channel at a time and reads cells that lie far apart in memory, a bag reads all
channels of a cell in one go. The table must be laid out for it, channels last, hence the `.contiguous()`. RoIPool as bags
stays within about three times torchvision's time: finding the cells of each bin is much work, and the maximum of a few
numbers is little.

## What we built

- `region_similarity` and `selective_search`: proposals from colours, textures, sizes and shapes, and their recall.
- `roi_pool` and `roi_align`: any region as a map of fixed size, with and without rounding, as torchvision has them.
- `label_proposals`, `FastRCNNHead`, `fast_rcnn_loss`: what a region is to say, says, and what it costs.
- A detector in two stages, the second of which is trained end to end.

Next, lesson 9: the proposals come from the network, too.

### What others call it

| here | torchvision | detectron2 | mmdetection |
| --- | --- | --- | --- |
| `roi_pool` | `ops.roi_pool` | `ops.RoIPool`, from torchvision | `RoIPool` of mmcv |
| `roi_align` | `ops.roi_align(..., aligned=True)` | `ROIAlignV2` | `RoIAlign`, `aligned=True` |
| without the half pixel | `aligned=False`, the default | `ROIAlign` | `aligned=False` |
| `label_proposals` | `Matcher`, in `RoIHeads.assign_targets_to_proposals` | `Matcher`, in `ROIHeads` | `MaxIoUAssigner` |
| `FastRCNNHead` | `TwoMLPHead` and `FastRCNNPredictor` | `FastRCNNConvFCHead` and `FastRCNNOutputLayers` | `Shared2FCBBoxHead` |
| `fast_rcnn_loss` | `fastrcnn_loss` (smooth L1 breaks at 1/9) | `FastRCNNOutputLayers.losses` | `BBoxHead.loss` |
| `rois` [R, 5] | the same, or a list of boxes | `Boxes` for each image | the same |
| background | label 0, with a box that is never used | the last label, K | the last label, K |

torchvision's Faster R-CNN takes everything below 0.5 for background, the surest too. OpenCV's selective search
(`cv2.ximgproc.segmentation`) gives boxes as (x, y, w, h).

### Further reading

- Girshick et al., *Rich feature hierarchies for accurate object detection and semantic segmentation*, CVPR 2014
  ([arXiv:1311.2524](https://arxiv.org/abs/1311.2524)): R-CNN; figure 1 is in the slides.
- Uijlings et al., *Selective Search for Object Recognition*, IJCV 2013: section 3, and table 5 for the number of boxes.
- Girshick, *Fast R-CNN*, ICCV 2015: section 2; section 5 for what each choice is worth.
- He et al., *Mask R-CNN*, ICCV 2017 ([arXiv:1703.06870](https://arxiv.org/abs/1703.06870)): section 3, RoIAlign; table 2c.
- Felzenszwalb, Huttenlocher, *Efficient Graph-Based Image Segmentation*, IJCV 2004: the pieces.
"""
