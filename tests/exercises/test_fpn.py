"""The references of lesson 10 beside torchvision."""

from collections import OrderedDict

import pytest
import torch
import torchvision

from autograder.judge import load_answer
from autograder.lessons import all_exercises
from torchvision.ops.poolers import LevelMapper

EXERCISES = all_exercises()
TopDown, assign_level, pool_from_pyramid = (
    load_answer(EXERCISES[name], EXERCISES[name].reference)
    for name in ("TopDown", "assign_level", "pool_from_pyramid")
)
EVEN = [(32, 48), (16, 24), (8, 12), (4, 6)]
UP = [(85, 43), (43, 22), (22, 11), (11, 6)]  # as a trunk makes them that rounds up
DOWN = [(47, 31), (23, 15), (11, 7), (5, 3)]
WILD = [(30, 41), (29, 17), (9, 17), (2, 5)]


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(seed, count, width, height, smallest=1.0):
    dice = torch.Generator().manual_seed(seed)
    sides = smallest * (700 / smallest) ** torch.rand(count, 2, generator=dice)
    corners = torch.rand(count, 2, generator=dice) * torch.tensor([width, height]) - sides / 3
    return torch.cat([corners, corners + sides], 1)


@pytest.mark.parametrize("sizes", [EVEN, UP, DOWN, WILD], ids=["even", "rounded up", "rounded down", "any"])
def test_the_pyramid_is_torchvisions_with_its_weights(sizes):
    torch.manual_seed(0)
    channels = [3, 8, 5, 6]
    theirs, ours = torchvision.ops.FeaturePyramidNetwork(channels, 7), TopDown(channels, 7)
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight)  # its biases begin at 0
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    maps = [draw(i, 2, c, *size) for i, (c, size) in enumerate(zip(channels, sizes))]
    expected = theirs(OrderedDict((str(i), one) for i, one in enumerate(maps)))
    for level, found in zip(expected.values(), ours(maps), strict=True):
        assert torch.equal(found, level)


@pytest.mark.parametrize("smallest, largest, k0", [(2, 5, 4), (3, 7, 4), (3, 5, 7), (0, 9, 3)])
def test_levels_are_torchvisions(smallest, largest, k0):
    groups = [random_boxes(seed, count, 900, 600) for seed, count in enumerate((400, 0, 1, 77))]
    expected = LevelMapper(smallest, largest, canonical_level=k0)(groups) + smallest
    assert torch.equal(assign_level(torch.cat(groups), k0, smallest, largest), expected)
    assert len(expected.unique()) > 2


def test_levels_are_torchvisions_where_the_size_is_the_border():
    sides = torch.tensor([14.0, 28, 56, 112, 224, 448, 896])
    boxes = torch.stack([torch.tensor([5.0, 9, 5 + w, 9 + h]) for w in sides.tolist() for h in sides.tolist()])
    assert torch.equal(assign_level(boxes, 4, 0, 9), LevelMapper(0, 9)([boxes]))


@pytest.mark.parametrize("counts", [(40, 25), (0, 30), (17, 0), (0, 0), (1, 2)], ids=str)
@pytest.mark.parametrize("strides", [[4, 8, 16, 32], [8, 16, 32], [16]], ids=str)
def test_pooling_is_torchvisions_once_its_boxes_are_moved_by_half_a_cell(strides, counts):
    height, width = 430, 610
    maps = [draw(stride, 2, 3, -(-height // stride), -(-width // stride)) for stride in strides]
    # torchvision's pooler widens boxes smaller than a cell of their level, so these are larger
    groups = [random_boxes(7 + i, count, width, height, smallest=40.0) for i, count in enumerate(counts)]
    ends = [stride.bit_length() - 1 for stride in (strides[0], strides[-1])]
    moved = [boxes - 2.0 ** (assign_level(boxes, 4, *ends)[:, None] - 1) for boxes in groups]
    pooler = torchvision.ops.MultiScaleRoIAlign([str(stride) for stride in strides], (3, 2), 2)
    expected = pooler({str(stride): one for stride, one in zip(strides, maps)}, moved, [(height, width)] * 2)
    found = pool_from_pyramid(maps, groups, (3, 2), strides)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(found) == sum(counts)
