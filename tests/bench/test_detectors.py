"""The four detectors of lesson 14 beside torchvision's: the same weights, the same images, calls in turn."""

import torch

from ..exercises.test_your_detector import KINDS, definitions, photographs
from .frame import beside

SIZES = {"shorter": 480, "longer": 640}  # SSD300 has its own
GOAL = 0.9  # their time over ours: as quick, but for what a busy machine adds


def test_detectors(table):
    torch.set_num_threads(1)
    names, images = definitions(), photographs((427, 640), (500, 375))
    with torch.no_grad():
        measure(table, names, images)


def measure(table, names, images):
    shown = table(
        "detectors", "The detectors of lesson 14 beside torchvision's, two photographs a call, one thread",
        ["", "torchvision, s", "course, s", "torchvision / course"],
    )  # fmt: skip
    for kind in KINDS:
        mine, theirs = names["both"](kind, **SIZES)
        mine.quick()
        assert names["equal"](mine(images), theirs(images))  # warms up, too
        ours, other, ratio = beside(lambda: mine(images), lambda: theirs(images))
        shown.row(kind, other, ours, ratio)
        shown.goal(ratio >= GOAL, f"{kind} takes {1 / ratio:.2f} of torchvision's time")
