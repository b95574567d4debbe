# %% [markdown]
r"""
# 12 · FSAF: let the loss choose the level

A pyramid has several levels, and somebody has to say which of them learns which object. Until now a rule of size
did, written down before anything was trained: small boxes to fine levels, large boxes to coarse ones. **FSAF**, the
feature selective anchor-free module, asks the network instead. Each object goes to the level that is best at it at
the moment. To be able to ask all levels about all objects it drops the anchors: a cell says "here is the middle of
a star, and its sides are so far away".

The slides and this lesson follow Chenchen Zhu, Yihui He and Marios Savvides, "Feature Selective Anchor-Free Module
for Single-Shot Object Detection", CVPR 2019 ([arXiv:1903.00621](https://arxiv.org/abs/1903.00621)); "the paper" is
this one.

**Time:** about two and a half hours, of which one training of about two minutes runs by itself. Seven exercises (5, 5,
35, 20, 15, 10 and 10 minutes), two written questions.

**You need:** the pyramid and its rule of size (lesson 10), focal loss and RetinaNet's head (lesson 11), anchors and
their targets (lesson 3), NMS (lesson 6). What you wrote for them is used; where something is missing a library's
function takes its place.

**Conventions**, as in all lessons: a box is `(x1, y1, x2, y2)` in pixels, x right, y down. Labels are whole numbers
`1..K`. The map of level $l$ has a cell for every $2^l \times 2^l$ pixels; its size is given as `grid = (columns, rows)`.
Everything dense goes row by row, y outer and x inner. The slides write a box as $(x, y, w, h)$ with its *centre* first,
and the four distances of a point to the sides of a box as $(t, l, b, r)$: top, left, bottom, right. We keep `xyxy` for
boxes and the slides' order for distances.
"""

# %% setup=true tags=["nbval-ignore-output"]
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

focal_loss, assign_level = earlier("focal_loss"), earlier("assign_level")

# %% [markdown]
r"""
### Exercise: `project_box`

*About 5 minutes, easy.*
"""

# %% exercise="project_box"
def project_box(boxes, level):
    """Boxes in cells of the map of a level: b_p = b / 2^level.

    Source: Zhu et al., CVPR 2019, section 3.2.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        level (int): of the pyramid; one cell is 2^level pixels wide and high.

    Returns:
        Tensor[N, 4]: xyxy, in cells; fractions are kept.
    """
    ### BEGIN SOLUTION
    return boxes / 2**level
    ### END SOLUTION

# %% check="project_box" points=1
same(project_box(torch.tensor([[4.0, 4, 68, 44]]), 3), [[0.5, 0.5, 8.5, 5.5]], "level 3: a cell is 8 pixels")
same(project_box(torch.tensor([[4.0, 4, 68, 44]]), 5), [[0.125, 0.125, 2.125, 1.375]], "level 5: a cell is 32 pixels")
### BEGIN HIDDEN TESTS
boxes = 300 * torch.rand(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for level in (2, 3, 4, 7):
    expected = torch.tensor([[side / 2**level for side in box] for box in boxes.tolist()], dtype=torch.float64)
    same(project_box(boxes, level), expected, f"7 random boxes on level {level}, float64")
    same(project_box(boxes.float(), level), expected.float(), f"7 random boxes on level {level}, float32")
same(project_box(torch.zeros(0, 4), 3), torch.zeros(0, 4), "no boxes")
untouched(project_box, torch.tensor([[4.0, 4, 68, 44]]), 4)
### END HIDDEN TESTS

# %% [markdown]
r"""
### Exercise: `shrink_box`

*About 5 minutes, easy, with one trap.*
"""

# %% exercise="shrink_box"
def shrink_box(boxes, fraction):
    """Boxes with the same centres, `fraction` as wide and as high.

    Source: Zhu et al., CVPR 2019, section 3.2: the effective and the ignoring box.

    Args:
        boxes (Tensor[N, 4]): xyxy, in any unit.
        fraction (float): 0 or more; 1 gives the boxes themselves, 0 their centres.

    Returns:
        Tensor[N, 4]: xyxy, in the same unit.
    """
    ### BEGIN SOLUTION
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2  # [N, 2]
    half = fraction * (boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([centres - half, centres + half], 1)
    ### END SOLUTION

# %% check="shrink_box" points=1
same(shrink_box(torch.tensor([[0.5, 0.5, 8.5, 5.5]]), 0.2), [[3.7, 2.5, 5.3, 3.5]],
     "8 by 5 around (4.5, 3) becomes 1.6 by 1 around (4.5, 3)")
same(shrink_box(torch.tensor([[0.5, 0.5, 8.5, 5.5]]), 0.5), [[2.5, 1.75, 6.5, 4.25]],
     "8 by 5 around (4.5, 3) becomes 4 by 2.5 around (4.5, 3)")
### BEGIN HIDDEN TESTS
boxes = 90 * torch.rand(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
boxes[:, 2:] += boxes[:, :2]
for fraction in (0.2, 0.5, 0.75, 1.0, 0.0, 1.5):
    rows = [[(x1 + x2 - fraction * (x2 - x1)) / 2, (y1 + y2 - fraction * (y2 - y1)) / 2,
             (x1 + x2 + fraction * (x2 - x1)) / 2, (y1 + y2 + fraction * (y2 - y1)) / 2]
            for x1, y1, x2, y2 in boxes.tolist()]
    expected = torch.tensor(rows, dtype=torch.float64)
    same(shrink_box(boxes, fraction), expected, f"7 random boxes, {fraction} as large, float64")
    same(shrink_box(boxes.float(), fraction), expected.float(), f"7 random boxes, {fraction} as large, float32")
same(shrink_box(torch.tensor([[5.0, 2, 5, 2]]), 0.5), [[5, 2, 5, 2]], "a point stays a point")
same(shrink_box(torch.zeros(0, 4), 0.2), torch.zeros(0, 4), "no boxes")
untouched(shrink_box, torch.tensor([[0.5, 0.5, 8.5, 5.5]]), 0.2)
### END HIDDEN TESTS

# %% exercise="fsaf_class_targets"
def fsaf_class_targets(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    """The true class maps of one level: 1 in effective regions, -1 where nothing is asked, 0 elsewhere.

    A region covers every cell that it overlaps by more than a line, and at least one: a point covers its cell.

    - The effective region of an object lies on its own level. Where two overlap, whatever their classes, the cell
      is the smaller object's alone; of two equally large ones (in pixels) the one with the smaller index has it.
    - The ignoring region lies on the object's level and on the one below and above.
    - Both are in the map of the object's class alone. In that map, effective cells beat ignored ones.

    Source: Zhu et al., CVPR 2019, section 3.2.

    Args:
        boxes (Tensor[M, 4]): xyxy, in pixels; inside of the image, which the map covers.
        labels (Tensor[M]): int64, in 1..K.
        levels (Tensor[M]): int64, the level of each object.
        level (int): of the map.
        grid (int, int): (columns, rows) of the map, W and H.
        num_classes (int): K.
        effective, ignoring (float): how large the regions are, as a fraction of the box's width and height.

    Returns:
        Tensor[K, H, W]: of 1, -1 and 0, with the dtype of the boxes. Map k - 1 belongs to class k.
    """
    ### BEGIN SOLUTION
    columns, rows = grid

    def slices(fraction):
        """The rows and the columns that each object's region covers."""
        region = shrink_box(project_box(boxes, level), fraction)
        first = region[:, :2].floor().long()  # [M, 2]
        first = first.clamp(min=0).minimum(first.new_tensor([columns - 1, rows - 1]))
        end = torch.maximum(region[:, 2:].ceil().long(), first + 1)  # one behind the last; at least one cell
        return [(slice(y, y2), slice(x, x2)) for (x, y), (x2, y2) in zip(first.tolist(), end.tolist())]

    maps = boxes.new_zeros(num_classes, rows, columns)
    ignored = slices(ignoring)
    for i in ((levels - level).abs() <= 1).nonzero().flatten().tolist():
        maps[(labels[i] - 1, *ignored[i])] = -1
    owner = labels.new_full((rows, columns), -1)  # the object that a cell belongs to
    cells = slices(effective)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # [M]
    for i in areas.argsort(stable=True).flip(0).tolist():  # large to small: the last one to paint stays
        if levels[i] == level:
            owner[cells[i]] = i
    y, x = (owner >= 0).nonzero(as_tuple=True)
    maps[labels[owner[y, x]] - 1, y, x] = 1
    return maps
    ### END SOLUTION

# %% check="fsaf_class_targets" points=2
box, star = torch.tensor([[4.0, 4, 68, 44]]), torch.tensor([2])
expected = [[[0] * 10 for _ in range(7)] for _ in range(2)]
for y in (1, 2, 3, 4):
    expected[1][y] = [0, 0, -1, -1, -1, -1, -1, 0, 0, 0]
for y in (2, 3):
    expected[1][y][3:6] = [1, 1, 1]
same(fsaf_class_targets(box, star, torch.tensor([3]), 3, (10, 7), 2), expected,
     "one object of class 2 on its own level: 3×2 effective cells, around them 5×4 ignored ones, in map 2 alone")
for row in expected[1]:
    row[:] = [-1 if cell else 0 for cell in row]
same(fsaf_class_targets(box, star, torch.tensor([4]), 3, (10, 7), 2), expected,
     "the object lives one level above: only its ignoring region is here")
same(fsaf_class_targets(box, star, torch.tensor([5]), 3, (10, 7), 2), torch.zeros(2, 7, 10),
     "the object lives two levels above: nothing of it is here")
tiny = torch.tensor([[42.0, 10, 45, 13]])
same(fsaf_class_targets(tiny, torch.tensor([1]), torch.tensor([5]), 5, (3, 2), 1), [[[0, 1, 0], [0, 0, 0]]],
     "an object of 3 pixels on level 5 has the cell that it lies in")
### BEGIN HIDDEN TESTS
def random_boxes(seed, count, image_size, levels, fractions):
    """Boxes whose regions end clearly inside of cells, on all levels."""
    dice, kept = torch.Generator().manual_seed(seed), []
    while len(kept) < count:
        (x, y), (w, h) = torch.rand(2, 2, generator=dice).tolist()
        w, h = 2 + 0.6 * image_size[0] * w * w, 2 + 0.9 * image_size[1] * h * h
        box = [x * (image_size[0] - w), y * (image_size[1] - h)]
        box = [round(side * 16) / 16 for side in (*box, box[0] + w, box[1] + h)]
        ends = [(a + b + sign * f * (b - a)) / 2 / 2**level for a, b in ((box[0], box[2]), (box[1], box[3]))
                for f in fractions for sign in (-1, 1) for level in levels]
        if all(0.002 < end % 1 < 0.998 for end in ends):
            kept.append(box)
    return torch.tensor(kept, dtype=torch.float64).reshape(-1, 4)


def maps_by_cells(boxes, labels, levels, level, grid, num_classes, effective=0.2, ignoring=0.5):
    """The same, asking every cell about every object."""
    boxes, labels, levels = boxes.tolist(), labels.tolist(), levels.tolist()
    maps = torch.zeros(num_classes, grid[1], grid[0], dtype=torch.float64)

    def over(box, fraction, x, y):
        inside = True
        for a, b, cell in ((box[0], box[2], x), (box[1], box[3], y)):
            middle, half = (a + b) / 2 / 2**level, fraction * (b - a) / 2 / 2**level
            inside &= (middle - half < cell + 1 and middle + half > cell) or math.floor(middle - half) == cell
        return inside

    for y in range(grid[1]):
        for x in range(grid[0]):
            for i, box in enumerate(boxes):
                if abs(levels[i] - level) < 2 and over(box, ignoring, x, y):
                    maps[labels[i] - 1, y, x] = -1
            mine = [i for i, box in enumerate(boxes) if levels[i] == level and over(box, effective, x, y)]
            if mine:
                winner = min(mine, key=lambda i: ((boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]), i))
                maps[labels[winner] - 1, y, x] = 1
    return maps


for seed, count, classes in ((0, 3, 2), (1, 8, 3), (2, 14, 4), (3, 9, 1)):
    dice = torch.Generator().manual_seed(seed)
    boxes = random_boxes(seed, count, (150, 90), (3, 4, 5), (0.2, 0.5))
    labels = torch.randint(1, classes + 1, (count,), generator=dice)
    levels = torch.randint(3, 6, (count,), generator=dice)
    for level, grid in ((3, (19, 12)), (4, (10, 6)), (5, (5, 3))):
        arguments = (labels, levels, level, grid, classes)
        expected = maps_by_cells(boxes, *arguments)
        same(fsaf_class_targets(boxes, *arguments), expected, f"{count} objects, {classes} classes, level {level}, float64")
        same(fsaf_class_targets(boxes.float(), *arguments), expected.float(),
             f"{count} objects, {classes} classes, level {level}, float32")
boxes = random_boxes(7, 9, (150, 90), (3, 4), (0.3, 0.8))
arguments = (boxes, torch.arange(9) % 3 + 1, torch.arange(9) % 2 + 3, 3, (19, 12), 5)
same(fsaf_class_targets(*arguments, 0.3, 0.8), maps_by_cells(*arguments, 0.3, 0.8), "other fractions: 0.3 and 0.8")
same(fsaf_class_targets(*arguments, effective=0.3, ignoring=0.8), maps_by_cells(*arguments, 0.3, 0.8),
     "other fractions by name: 0.3 and 0.8")
none = torch.zeros(0, dtype=torch.int64)
same(fsaf_class_targets(torch.zeros(0, 4), none, none, 4, (5, 3), 2), torch.zeros(2, 3, 5), "no objects")
untouched(fsaf_class_targets, *arguments)
### END HIDDEN TESTS

# %% check="fsaf_class_targets" part="overlaps" points=2
pair = torch.tensor([[0.0, 0, 64, 48], [24, 16, 48, 40]])  # on level 3: 8 by 6 cells, and 3 by 3 inside of it
on_3 = torch.tensor([3, 3])
large = [[0, 0, 0, 0, 0, 0, 0, 0], [0, -1, -1, -1, -1, -1, -1, 0], [0, -1, 1, 1, -1, -1, -1, 0],
         [0, -1, 1, -1, -1, -1, -1, 0], [0, -1, -1, -1, -1, -1, -1, 0], [0, 0, 0, 0, 0, 0, 0, 0]]
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="fsaf_box_targets"
def fsaf_box_targets(boxes, levels, level, grid, scale=4.0):
    """The true offset maps of one level, and where they hold.

    In the effective region (0.2 of the box) of each object of this level: the distances, in cells, from the middle of
    the cell to the sides of the projected box, divided by `scale`. A cell in several regions belongs to the same
    object as in `fsaf_class_targets`. A cell whose middle is outside of the box has a negative distance.

    Source: Zhu et al., CVPR 2019, section 3.2.

    Args:
        boxes (Tensor[M, 4]): xyxy, in pixels; inside of the image, which the map covers.
        levels (Tensor[M]): int64, the level of each object.
        level (int): of the map.
        grid (int, int): (columns, rows) of the map, W and H.
        scale (float): S.

    Returns:
        (Tensor[4, H, W], Tensor[H, W]): top, left, bottom and right, in units of S cells, with the dtype of the boxes
        and 0 outside of effective regions; and bool, True inside of them.
    """
    ### BEGIN SOLUTION
    columns, rows = grid
    count = len(boxes)
    each = torch.arange(1, count + 1, device=levels.device)  # every object is a class of its own
    mine = fsaf_class_targets(boxes, each, levels, level, grid, count) == 1  # [M, H, W]
    i, y, x = mine.nonzero(as_tuple=True)
    x1, y1, x2, y2 = project_box(boxes, level)[i].unbind(1)
    offsets = boxes.new_zeros(4, rows, columns)
    offsets[:, y, x] = torch.stack([y + 0.5 - y1, x + 0.5 - x1, y2 - y - 0.5, x2 - x - 0.5]) / scale
    return offsets, mine.any(0)
    ### END SOLUTION

# %% check="fsaf_box_targets" points=2
offsets, inside = fsaf_box_targets(torch.tensor([[4.0, 4, 68, 44]]), torch.tensor([3]), 3, (10, 7))
same(offsets[:, 2, 3], [0.5, 0.75, 0.75, 1.25], "the cell x = 3, y = 2: t, l, b, r are 2, 3, 3 and 5 cells, divided by 4")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="iou_loss"
def iou_loss(prediction, target):
    """-ln IoU of boxes that are given as distances from one common point.

    Source: Yu et al., "UnitBox", ACM Multimedia 2016, algorithm 1 (arXiv:1608.01471).

    Args:
        prediction (Tensor[N, 4]): distances to the top, left, bottom and right side, in any unit; 0 or more.
        target (Tensor[N, 4]): likewise; some may be negative, where the point is outside of the box.

    Returns:
        Tensor[N]: 0 for equal boxes. Finite, as its gradient is, and more than 9, where nothing overlaps.
    """
    ### BEGIN SOLUTION
    def area(sides):
        top, left, bottom, right = sides.unbind(-1)
        return (top + bottom).clamp(min=0) * (left + right).clamp(min=0)

    shared = area(torch.minimum(prediction, target))
    union = area(prediction) + area(target) - shared
    tiny = torch.finfo(prediction.dtype).eps
    return -(shared / union.clamp(min=tiny)).clamp(min=1e-6).log()
    ### END SOLUTION

# %% check="iou_loss" points=2
one = torch.tensor([[1.0, 1, 1, 1]])
same(iou_loss(one, torch.tensor([[1.0, 1, 1, 3]])), [0.693147], "2 by 2 in 2 by 4: the IoU is 1/2, and -ln of it 0.6931")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="select_level"
def select_level(focal, iou):
    """The level with the least loss for each object: argmin over l of focal + iou.

    Source: Zhu et al., CVPR 2019, section 3.3, equation 2.

    Args:
        focal (Tensor[L, N]): mean focal loss over each object's effective cells on each level.
        iou (Tensor[L, N]): mean IoU loss over the same. Both are NaN where the object has no cell on the level.

    Returns:
        Tensor[N]: int64, in 0..L-1; the smaller of two equally good levels. A level without a cell is chosen only
        where no level has one; then it is 0.
    """
    ### BEGIN SOLUTION
    total = focal + iou  # [L, N]
    return total.masked_fill(total.isnan(), math.inf).argmin(0)
    ### END SOLUTION

# %% check="select_level" points=2
nan = float("nan")
same(select_level(torch.tensor([[0.5, 1.0], [0.25, 1.0], [1.0, 0.5]]), torch.tensor([[0.5, 0.25], [1.5, 0.5], [0.25, 1.0]])),
     [0, 0], "sums of 1, 1.75, 1.25 and of 1.25, 1.5, 1.5: both are best on level 0")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS

# %% exercise="fsaf_decode"
def fsaf_decode(offsets, level, scale=4.0):
    """The box that each cell of a level says, from its four offsets.

    Source: Zhu et al., CVPR 2019, section 3.2.

    Args:
        offsets (Tensor[4, H, W]): top, left, bottom and right, in units of `scale` cells.
        level (int): of the map; a cell is 2^level pixels wide and high. At least 1.
        scale (float): S.

    Returns:
        Tensor[H·W, 4]: xyxy in pixels, row by row (y outer, x inner); not clipped.
    """
    ### BEGIN SOLUTION
    rows, columns = offsets.shape[1:]
    top, left, bottom, right = scale * offsets
    x = torch.arange(columns, dtype=offsets.dtype, device=offsets.device) + 0.5  # [W]
    y = torch.arange(rows, dtype=offsets.dtype, device=offsets.device)[:, None] + 0.5  # [H, 1]
    boxes = torch.stack([x - left, y - top, x + right, y + bottom], -1) * 2**level  # [H, W, 4]
    return boxes.reshape(-1, 4)
    ### END SOLUTION

# %% check="fsaf_decode" points=2
offsets = torch.zeros(4, 7, 10)
offsets[:, 2, 3] = torch.tensor([0.5, 0.75, 0.75, 1.25])
same(fsaf_decode(offsets, 3)[23], [4, 4, 68, 44], "row 23 is cell x = 3, y = 2; 2, 3, 3 and 5 cells of 8 pixels from (3.5, 2.5)")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS
