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
def set_weights(module, lateral=1.0, smooth=1.0):
    """Give `module` weights by their shape: every number of a 1×1 kernel is `lateral`, of a 3×3 kernel the middle is
    `smooth` (from a channel to itself) and all else is 0, biases are 0."""
    state = module.state_dict()
    if not state:
        raise LookupError("the module's state_dict is empty: it does not know its layers")
    for name, weight in state.items():
        new = torch.zeros_like(weight)
        if weight.ndim == 4 and weight.shape[-1] == 1:
            new += lateral
        elif weight.ndim == 4:
            diagonal = range(min(weight.shape[:2]))
            new[diagonal, diagonal, weight.shape[2] // 2, weight.shape[3] // 2] = smooth
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
maps = [torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]]), torch.tensor([[[[10.0, 20]]]]), torch.tensor([[[[100.0]]]])]
pyramid = set_weights(TopDown([1, 1, 1], 1))(maps)
same(pyramid[1], [[[[110.0, 120]]]], "the middle level is its own 10 and 20, and 100 from above")
same(pyramid[0], [[[[111.0, 112, 123], [114, 115, 126]]]],
     "the finest level: columns 0 and 1 get the 110 above them, column 2 the 120")
### BEGIN HIDDEN TESTS
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

# %% check="assign_level" points=1
squares = torch.tensor([[0.0, 0, 224, 224], [10, 20, 458, 468], [0, 0, 112, 112], [5, 0, 228.9, 223.9]])
same(assign_level(squares), torch.tensor([4, 5, 3, 3]), "224², 448², 112² and 223.9² pixels")
### BEGIN HIDDEN TESTS
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

# %% check="pool_from_pyramid" points=1
flat = [torch.full((1, 1, 8, 8), 4.0), torch.full((1, 1, 4, 4), 5.0)]
boxes = [torch.tensor([[0.0, 0, 300, 300], [0, 0, 100, 100], [0, 0, 224, 250]])]
same(pool_from_pyramid(flat, boxes, (1, 1), [64, 128])[:, 0, 0, 0], [4, 4, 4], "the order of the boxes")
### BEGIN HIDDEN TESTS
### END HIDDEN TESTS
