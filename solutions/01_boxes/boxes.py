# %% [markdown]
r"""
# Boxes

A stub lesson that the first build is tried on.
"""

# %% setup=true
import torch
import torchvision

from coursekit.checks import check, passed, raises, same, untouched

# %% exercise="box_area"
def box_area(boxes):
    """Area of each box. Tensor[N, 4] -> Tensor[N]."""
    ### BEGIN SOLUTION
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ### END SOLUTION

# %% check="box_area" points=1
same(box_area(torch.tensor([[10.0, 20, 40, 60]])), [1200], "30 wide and 40 high")
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(0)
many = torch.rand(7, 4, generator=generator) * 100
many[:, 2:] += many[:, :2]
same(box_area(many), torchvision.ops.box_area(many), "random boxes")
same(box_area(many.double()), torchvision.ops.box_area(many.double()), "float64 boxes")
### END HIDDEN TESTS

# %% exercise="box_iou"
def box_iou(boxes1, boxes2):
    """IoU of every pair. Tensor[N, 4], Tensor[M, 4] -> Tensor[N, M]."""
    ### BEGIN SOLUTION
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    sides = (bottom_right - top_left).clamp(min=0)
    intersection = sides.prod(-1)
    union = box_area(boxes1)[:, None] + box_area(boxes2) - intersection
    return torch.where(union > 0, intersection / union, torch.zeros_like(union))
    ### END SOLUTION

# %% check="box_iou" points=2
a, b = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[3.0, 3, 13, 13], [20, 0, 25, 5]])
same(box_iou(a, b[:1]), [[49 / 151]], "7 x 7 shared, 100 + 100 - 49 covered")
same(box_iou(a, b[1:]), [[0]], "disjoint boxes share nothing")
### BEGIN HIDDEN TESTS
generator = torch.Generator().manual_seed(0)
many = torch.rand(7, 4, generator=generator) * 100
many[:, 2:] += many[:, :2]
same(box_iou(many, many[:5]), torchvision.ops.box_iou(many, many[:5]), "7 boxes against 5")
same(box_iou(many[:0], many), torch.zeros(0, 7), "no boxes against 7")
### END HIDDEN TESTS

# %% written="why_iou" points=2
r"""
Because it does not depend on the scale of the image.
"""
