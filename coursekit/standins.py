"""Public library calls with the exercises' signatures.

`STANDINS[NAME]` takes the place of the student's NAME in a later lesson until theirs passes (`coursekit.earlier`).
`LIBRARY[NAME]` lists the library functions that *are* exercise NAME: calling one in it earns nothing.
Only calls to public libraries stand here, no answers; a test holds each against its exercise.
"""

import torch


def xyxy_to_cxcywh(boxes):
    from torchvision.ops import box_convert

    return box_convert(boxes, "xyxy", "cxcywh")


def cxcywh_to_xyxy(boxes):
    from torchvision.ops import box_convert

    return box_convert(boxes, "cxcywh", "xyxy")


def box_area(boxes):
    from torchvision.ops import box_area

    return box_area(boxes)


def box_iou(boxes1, boxes2):
    from torchvision.ops import box_iou

    return box_iou(boxes1, boxes2).nan_to_num(0)  # torchvision: NaN where both boxes are empty


def flip_boxes(boxes, width):
    from torchvision.transforms.v2.functional import horizontal_flip_bounding_boxes
    from torchvision.tv_tensors import BoundingBoxFormat

    return horizontal_flip_bounding_boxes(boxes, format=BoundingBoxFormat.XYXY, canvas_size=(1, width))


def linear_scales(levels, smallest=0.2, largest=0.9):
    return torch.linspace(smallest, largest, levels)


def _box_coder(stds):
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(weights=tuple(1 / std for std in stds))


def encode_boxes(boxes, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    return _box_coder(stds).encode_single(boxes, anchors)


def decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    return _box_coder(stds).decode_single(deltas, anchors)


def smooth_l1_loss(prediction, target, sigma=1.0):
    from torch.nn.functional import smooth_l1_loss

    return smooth_l1_loss(prediction, target, beta=1 / sigma**2, reduction="none")


def nms(boxes, scores, iou_threshold):
    from torchvision.ops import nms

    return nms(boxes, scores, iou_threshold)


STANDINS = {
    function.__name__: function
    for function in (
        xyxy_to_cxcywh,
        cxcywh_to_xyxy,
        box_area,
        box_iou,
        flip_boxes,
        linear_scales,
        encode_boxes,
        decode_boxes,
        smooth_l1_loss,
        nms,
    )
}

LIBRARY = {
    "xyxy_to_cxcywh": ("torchvision.ops.boxes.box_convert", "torchvision.ops._box_convert._box_xyxy_to_cxcywh"),
    "cxcywh_to_xyxy": ("torchvision.ops.boxes.box_convert", "torchvision.ops._box_convert._box_cxcywh_to_xyxy"),
    "box_area": ("torchvision.ops.boxes.box_area",),
    "box_iou": (
        "torchvision.ops.boxes.box_iou",
        "torchvision.ops.boxes._box_inter_union",
        "torchvision.ops.boxes.generalized_box_iou",
    ),
    "flip_boxes": (
        "torchvision.transforms.v2.functional.horizontal_flip_bounding_boxes",
        "torchvision.transforms.v2.functional.horizontal_flip",
        "torchvision.transforms.v2.functional.hflip",
    ),
    "encode_boxes": ("torchvision.models.detection._utils.BoxCoder", "torchvision.models.detection._utils.encode_boxes"),
    "decode_boxes": ("torchvision.models.detection._utils.BoxCoder",),
    "smooth_l1_loss": (
        "torch.nn.functional.smooth_l1_loss",
        "torch.nn.functional.huber_loss",
        "torch.nn.modules.loss.SmoothL1Loss",
        "torch.nn.modules.loss.HuberLoss",
    ),
    "nms": ("torchvision.ops.boxes.nms",),
}
