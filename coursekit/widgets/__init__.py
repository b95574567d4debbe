"""Explorers, which make a student's own functions move, and an annotator for one's own images.

An explorer holds no answer: it takes the functions that the student wrote. As the last line of a cell it
shows itself: with controls and boxes to drag where someone watches, else as a figure with its read-out.

    explore_iou(box_iou)
    Annotator("my_images", classes=("cup", "plate"))
"""

from coursekit.widgets.annotator import Annotator
from coursekit.widgets.boxes import (
    explore_anchors,
    explore_iou,
    explore_level,
    explore_matching,
    explore_proposals,
)
from coursekit.widgets.detections import explore_average_precision, explore_focal_loss, explore_nms
from coursekit.widgets.explorer import Explorer
from coursekit.widgets.features import explore_fcos, explore_fsaf, explore_roi

__all__ = [
    "Annotator",
    "Explorer",
    "explore_anchors",
    "explore_average_precision",
    "explore_fcos",
    "explore_focal_loss",
    "explore_fsaf",
    "explore_iou",
    "explore_level",
    "explore_matching",
    "explore_nms",
    "explore_proposals",
    "explore_roi",
]
