"""One of each explorer, as a lesson would make it: {name: function}. The unit tests and the browser use the same."""

import torch

from coursekit import widgets
from tests.coursekit import widget_answers as my


def anchors_of(stride, sizes, size=128):
    n = size // stride
    boxes = [my.ssd_anchors([(n, n)], [(s, s)], [0.5, 1, 2], (size, size)) for s in sizes]
    return torch.cat(boxes)


def iou():
    return widgets.explore_iou(my.box_iou)


def nms():
    return widgets.explore_nms(my.nms, *my.crowd(), soft_nms=my.soft_nms)


def average_precision():
    return widgets.explore_average_precision(my.precision_recall, my.voc11_ap, my.area_ap, my.coco101_ap)


def matching():
    image, target = my.scene()
    return widgets.explore_matching(
        my.match_anchors, my.box_iou, anchors_of(8, (0.15, 0.25, 0.4)), target["boxes"][:3], image=image
    )


def matching_rpn():
    image, target = my.scene()
    return widgets.explore_matching(
        my.label_rpn_anchors, my.box_iou, anchors_of(8, (0.15, 0.25, 0.4)), target["boxes"][:3], image=image, threshold=0.7,
        ignoring=0.3,
    )  # fmt: skip


def roi():
    return widgets.explore_roi(my.roi_pool, my.align)


def focal_loss():
    return widgets.explore_focal_loss(my.focal_loss)


def level():
    return widgets.explore_level(my.assign_level)


def anchors():
    grids = [(40, 30), (20, 15), (10, 8), (5, 4), (3, 2), (2, 1)]
    return widgets.explore_anchors(
        my.ssd_anchors, grids=grids, ratios=[1, 2, 3, 0.5, 0.33], linear_scales=my.linear_scales
    )


def proposals():
    image, target = my.scene()
    anchors, truth = anchors_of(8, (0.15, 0.3, 0.5)), target["boxes"]
    objectness = my.box_iou(truth, anchors).amax(0) + 0.3 * torch.rand(
        len(anchors), generator=torch.manual_seed(0)
    )
    return widgets.explore_proposals(
        my.propose, objectness[None], torch.zeros(1, len(anchors), 4), anchors, box_iou=my.box_iou, truth=truth,
        image=image,
    )  # fmt: skip


def fcos():
    boxes = torch.tensor([[14.0, 20, 78, 108], [46, 40, 118, 96]])
    return widgets.explore_fcos(my.locations, my.fcos_targets, my.centerness, boxes)


def fsaf():
    boxes = torch.tensor([[8.0, 12, 72, 100], [64, 40, 120, 88]])
    focal, iou = (
        torch.tensor([[0.4, 0.3], [0.2, 0.4], [0.5, 0.6]]),
        torch.tensor([[0.5, 0.2], [0.3, 0.4], [0.4, 0.6]]),
    )
    return widgets.explore_fsaf(
        my.fsaf_class_targets, boxes, select_level=my.select_level, focal=focal, iou=iou
    )


SHOWS = {
    show.__name__: show
    for show in (
        iou, nms, average_precision, matching, matching_rpn, roi, focal_loss, level, anchors, proposals, fcos, fsaf,
    )
}  # fmt: skip
