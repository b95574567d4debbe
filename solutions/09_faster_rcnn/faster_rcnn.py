# %% [markdown]
r"""
# 9 · Faster R-CNN: a network that proposes regions
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
### Exercise: `cell_anchors`
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
same(cell_anchors([10, 20.5, 40, 7], [0.3, 3]), [
    [side * s * a ** power / 2 for side, power in ((-1, 0.5), (-1, -0.5), (1, 0.5), (1, -0.5))]
    for s in (10, 20.5, 40, 7) for a in (0.3, 3)
], "four scales and two ratios, from lists")
same([list(cell_anchors(*sides).shape) for sides in (((), (1, 2)), ((8,), ()))], [[0, 4], [0, 4]],
     "no scale or no ratio: no anchor")
### END HIDDEN TESTS

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
same(label_rpn_anchors(torch.tensor([[0.2, 0.1], [0.0, 0.0]])), [1, 0], "an object that meets no anchor makes none positive")
same(label_rpn_anchors(torch.tensor([[0.2, 0.1, 0.05], [0.6, 0.65, 0.1]])), [1, 1, 0],
     "an object's best anchor may overlap another object more")
same(label_rpn_anchors(torch.zeros(3, 0)), torch.zeros(0, dtype=torch.int64), "objects and no anchors")
same(label_rpn_anchors(torch.zeros(0, 2, dtype=torch.float64)), torch.tensor([0, 0]), "no object, float64: labels are int64")
untouched(label_rpn_anchors, table.clone())
### END HIDDEN TESTS

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
twice = [sample_anchors(large, 64, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
same([a.tolist() == b.tolist() for a, b in zip(*twice)], [True, True], "the same generator, the same choice")
other = sample_anchors(large, 64, generator=torch.Generator().manual_seed(6))
same([sorted(a.tolist()) == sorted(b.tolist()) for a, b in zip(twice[0], other)], [False, False],
     "another generator, another choice")
untouched(sample_anchors, labels.clone(), 4)
### END HIDDEN TESTS

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
