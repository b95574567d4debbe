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
untouched(inside_image, single.clone(), (50, 30))
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
same(label_rpn_anchors(torch.tensor([[0.1, 0.2, 0.05], [0.9, 0.85, 0.1]])), [1, 1, 0],
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
positives, negatives = sample_anchors(labels, 4)
same([len(positives), len(negatives)], [2, 2], "four anchors at 1:1: two positives, two negatives")
same([labels[positives].tolist(), labels[negatives].tolist()], [[1, 1], [0, 0]], "the indices are of positives, of negatives")
few = [sorted(part.tolist()) for part in sample_anchors(labels, 10)]
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
same(list(twice[0]), list(twice[1]), "the same generator, the same choice")
other = sample_anchors(large, 64, generator=torch.Generator().manual_seed(6))
same([sorted(a.tolist()) == sorted(b.tolist()) for a, b in zip(twice[0], other)], [False, False],
     "another generator, another choice")
untouched(sample_anchors, labels.clone(), 4)
### END HIDDEN TESTS

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
same(1, 1, "placeholder")

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
same(1, 1, "placeholder")

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
same(1, 1, "placeholder")

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
same(1, 1, "placeholder")
