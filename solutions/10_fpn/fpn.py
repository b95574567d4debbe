# %% [markdown]
r"""
# 10 · FPN: every level knows what the coarsest one knows
"""

# %% setup=true
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.data import scenes
from coursekit.earlier import earlier

roi_align = earlier("roi_align")

# %% [markdown]
r"""
### Exercise: `TopDown`
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
### Exercise: `assign_level`
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
same(assign_level(exact, 4, -2, 9), plain_level(exact, 4, -2, 9), "sides of 7, 14, 28 … 1792 pixels: exactly at the border")
same(assign_level(exact.double(), 6, -2, 9), plain_level(exact, 6, -2, 9), "exactly at the border, float64")
same(assign_level(torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 900], [3, 8, 700, 8]]), 4, 3, 6), torch.tensor([3, 3, 3]),
     "boxes without area: the smallest level")
same(assign_level(many[:1]), plain_level(many[:1], 4, 2, 5), "one box")
same(assign_level(torch.zeros(0, 4, dtype=torch.float64), 4, 3, 6), torch.zeros(0, dtype=torch.int64), "no boxes, float64")
### END HIDDEN TESTS

# %% [markdown]
r"""
### Exercise: `pool_from_pyramid`
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
boxes = [torch.tensor([[0.0, 0, 300, 300], [200, 90, 230, 120], [40, 8, 190, 158]]),
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
     [[150, 150], [215, 105], [115, 83], [250, 260], [133, 133], [610, 315]],
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
