"""Public library calls with the exercises' signatures.

`STANDINS[NAME]` takes the place of the student's NAME in a later lesson until theirs passes (`coursekit.earlier`).
`LIBRARY[NAME]` lists the library functions that *are* exercise NAME: calling one in it earns nothing; nor does the
stand-in or `earlier`.
Only calls to public libraries stand here, no answers; a test holds each against its exercise.
"""

from types import SimpleNamespace

import torch
from torch import nn


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


def ssd_anchors(grids, scales, ratios, image_size):
    """torchvision's default boxes scale both axes alike: x is read off the boxes of s_x, y off those of s_y."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.image_list import ImageList

    width, height = image_size
    images = ImageList(torch.empty(1, 0, height, width), [(height, width)])
    maps = [torch.empty(1, 0, rows, columns) for columns, rows in grids]
    ratios = list(ratios)
    each = 2 * len(ratios) + 2  # torchvision's cell: ratio 1, the extra anchor, then a and 1/a for every a
    order = [*range(2, each, 2), 1]

    def boxes(axis):
        sizes = [*(scale[axis] for scale in scales), 1.0]
        generator = DefaultBoxGenerator([ratios] * len(grids), scales=sizes, clip=False)
        return generator(images, maps)[0].reshape(-1, each, 4)[:, order].reshape(-1, 4)

    across, down = boxes(0), boxes(1)
    return torch.stack([across[:, 0], down[:, 1], across[:, 2], down[:, 3]], dim=-1)


def _box_coder(stds):
    from torchvision.models.detection._utils import BoxCoder

    return BoxCoder(weights=tuple(1 / std for std in stds))


def encode_boxes(boxes, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    return _box_coder(stds).encode_single(boxes, anchors)


def decode_boxes(deltas, anchors, stds=(0.1, 0.1, 0.2, 0.2)):
    return _box_coder(stds).decode_single(deltas, anchors)


def anchor_targets(anchors, boxes, labels, threshold=0.5):
    """SSD's matching and coding by torchvision: the same as the exercise unless two objects have one best anchor.

    There the exercise gives it to the first of them, and the others the best anchor still free; torchvision gives it
    to the last of them, and the others no anchor of their own.
    """
    from torchvision.models.detection._utils import SSDMatcher

    iou = box_iou(boxes, anchors)
    met = (iou > 0).any(dim=1)  # torchvision would force an anchor for an object that no anchor touches
    classes = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    deltas = torch.zeros_like(anchors)
    if met.any():  # torchvision refuses an image without objects
        above = torch.nextafter(iou.new_tensor(threshold), iou.new_tensor(float("inf")))  # it asks for >=, we for >
        matches = SSDMatcher(above.item())(iou[met])
        positive = matches >= 0
        classes[positive] = labels[met][matches[positive]].to(torch.int64)
        deltas[positive] = encode_boxes(boxes[met][matches[positive]], anchors[positive])
    return classes, deltas


def smooth_l1_loss(prediction, target, sigma=1.0):
    from torch.nn.functional import smooth_l1_loss

    return smooth_l1_loss(prediction, target, beta=1 / sigma**2, reduction="none")


def ssd_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """torchvision's SSD loss: the same as the exercise where every image has positives, with at least three times as
    many negatives, and no anchor is ignored.

    Elsewhere it differs: an image without positives adds nothing (the exercise keeps three negatives there), a
    positive counts again for each negative that is missing, and an ignored anchor is a background one.
    """
    from torchvision.models.detection.ssd import SSD

    # torchvision encodes the matched boxes itself; here anchor i is matched to "box" i, whose code is given
    model = SimpleNamespace(neg_to_pos_ratio=3, box_coder=SimpleNamespace(encode_single=lambda boxes, anchors: boxes))
    rows = torch.arange(labels.shape[1], device=labels.device)
    losses = SSD.compute_loss(
        model,
        [{"boxes": boxes, "labels": classes} for boxes, classes in zip(target_deltas, labels)],
        {"cls_logits": logits.contiguous(), "bbox_regression": deltas},
        list(target_deltas),  # the anchors, which only the encoding would use
        [torch.where(classes > 0, rows, -1) for classes in labels],
    )
    return losses["classification"], alpha * losses["bbox_regression"]


class SSDHead(nn.Module):
    """torchvision's; it counts background as a class and gives a dict."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        from torchvision.models.detection.ssd import SSDHead

        super().__init__()
        self.head = SSDHead(channels, anchors_per_cell, num_classes + 1)

    def forward(self, features):
        outputs = self.head(features)
        return outputs["cls_logits"], outputs["bbox_regression"]


def nms(boxes, scores, iou_threshold):
    from torchvision.ops import nms

    return nms(boxes, scores, iou_threshold)


def batched_nms(boxes, scores, labels, iou_threshold):
    """torchvision's form that goes class by class; its other one moves the classes apart, and errs where coordinates
    are negative or lose digits. Both leave the order of equal scores open, hence the sorting."""
    from torchvision.ops.boxes import _batched_nms_vanilla

    kept = _batched_nms_vanilla(boxes, scores, labels, iou_threshold).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def roi_pool(features, rois, output_size, spatial_scale):
    from torchvision.ops import roi_pool

    return roi_pool(features, rois, output_size, spatial_scale)


def roi_align(features, rois, output_size, spatial_scale, sampling_ratio=2):
    from torchvision.ops import roi_align

    return roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned=True)


def label_proposals(iou, labels):
    """By torchvision's Matcher, which refuses an image without objects or without proposals."""
    from torchvision.models.detection._utils import Matcher

    if not iou.numel():
        return labels.new_zeros(iou.shape[1])
    matches = Matcher(0.5, 0.1)(iou)
    classes = labels[matches.clamp(min=0)]
    classes[matches == Matcher.BETWEEN_THRESHOLDS] = 0
    classes[matches == Matcher.BELOW_LOW_THRESHOLD] = -1
    return classes


class FastRCNNHead(nn.Module):
    """torchvision's two layers and predictor; it has a box for background too, which is left out here."""

    def __init__(self, channels, pool, num_classes):
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead

        super().__init__()
        self.shared = TwoMLPHead(channels * pool[0] * pool[1], 256)
        self.predictor = FastRCNNPredictor(256, num_classes + 1)

    def forward(self, pooled):
        logits, offsets = self.predictor(self.shared(pooled))
        return logits, offsets.unflatten(1, (-1, 4))[:, 1:]


def fast_rcnn_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """torchvision's `fastrcnn_loss`. Its smooth L1 breaks at 1/9: of offsets nine times smaller it is a ninth of ours.

    It knows neither ignored regions, which are left out before, nor an empty batch.
    """
    from torchvision.models.detection.roi_heads import fastrcnn_loss

    counted = labels >= 0
    if not counted.any():
        return logits.sum() * 0, deltas.sum() * 0
    offsets = torch.nn.functional.pad(deltas[counted], (0, 0, 1, 0)).flatten(1)  # background's box first
    classification, localisation = fastrcnn_loss(
        logits[counted], offsets / 9, [labels[counted]], [target_deltas[counted] / 9]
    )
    return classification, alpha * 9 * localisation


def cell_anchors(scales=(128, 256, 512), ratios=(1, 0.5, 2)):
    """torchvision rounds its anchors to whole pixels: at a million times the size that matters no more."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    far = 2.0**20
    if not len(scales) or not len(ratios):
        return torch.zeros(0, 4)
    upright = [1 / ratio for ratio in ratios]  # torchvision's ratio is height / width
    boxes = AnchorGenerator().generate_anchors([far * scale for scale in scales], upright) / far
    return boxes.reshape(len(ratios), len(scales), 4).transpose(0, 1).reshape(-1, 4)  # it has the scales inside


def grid_anchors(cell, grid, stride):
    """torchvision's, whose locations are the corners of the cells."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    generator = AnchorGenerator(((1,),), ((1.0,),))
    generator.cell_anchors = [cell]
    strides = [torch.tensor(stride, device=cell.device)] * 2
    return generator.grid_anchors([[grid[1], grid[0]]], [strides])[0].to(cell.dtype) + stride // 2


def label_rpn_anchors(iou, positive=0.7, negative=0.3):
    """By torchvision's Matcher; it takes an IoU that equals the upper threshold, and knows no empty image."""
    from torchvision.models.detection._utils import Matcher

    met = iou[(iou > 0).any(1)]
    if not met.numel():
        best = iou.amax(0) if len(iou) else iou.new_zeros(iou.shape[1])
        return torch.where(best < negative, 0, -1)
    above = torch.nextafter(met.new_tensor(positive), met.new_tensor(float("inf")))
    matches = Matcher(above.item(), negative, allow_low_quality_matches=True)(met)
    labels = (matches >= 0).long()
    labels[matches == Matcher.BETWEEN_THRESHOLDS] = -1
    return labels


def sample_anchors(labels, count=256, positive_fraction=0.5, generator=None):
    """torchvision's sampler; it draws from torch's own random numbers, so one is taken from `generator` as a seed."""
    from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

    sampler = BalancedPositiveNegativeSampler(count, positive_fraction)
    if generator is None:
        masks = sampler([labels])
    else:
        with torch.random.fork_rng([]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            masks = sampler([labels])
    return tuple(mask[0].nonzero().squeeze(1) for mask in masks)


class RPNHead(nn.Module):
    """torchvision's, for one level; it leaves the bringing into rows to a function of its own."""

    def __init__(self, channels, anchors_per_cell):
        from torchvision.models.detection.rpn import RPNHead

        super().__init__()
        self.head = RPNHead(channels, anchors_per_cell)

    def forward(self, feature):
        from torchvision.models.detection.rpn import permute_and_flatten

        (objectness,), (deltas,) = self.head([feature])
        b, a, h, w = objectness.shape
        return permute_and_flatten(objectness, b, a, 1, h, w).flatten(1), permute_and_flatten(deltas, b, a, 4, h, w)


def propose(objectness, deltas, anchors, image_size, pre_nms, post_nms, iou_threshold, min_size):
    """torchvision's filter of proposals, for one level."""
    from torchvision.models.detection.rpn import RegionProposalNetwork

    width, height = image_size
    network = RegionProposalNetwork(
        None, None, 0.7, 0.3, 256, 0.5, *({"training": n, "testing": n} for n in (pre_nms, post_nms)), iou_threshold
    ).eval()
    network.min_size = min_size
    boxes = [decode_boxes(delta, anchors, (1.0, 1.0, 1.0, 1.0)) for delta in deltas.detach()]
    if not boxes:
        return []
    counts = [anchors.shape[0]]
    return network.filter_proposals(torch.stack(boxes), objectness, [(height, width)] * len(boxes), counts)[0]


STANDINS = {
    function.__name__: function
    for function in (
        xyxy_to_cxcywh,
        cxcywh_to_xyxy,
        box_area,
        box_iou,
        flip_boxes,
        linear_scales,
        ssd_anchors,
        encode_boxes,
        decode_boxes,
        anchor_targets,
        smooth_l1_loss,
        ssd_loss,
        SSDHead,
        nms,
        batched_nms,
        roi_pool,
        roi_align,
        label_proposals,
        FastRCNNHead,
        fast_rcnn_loss,
        cell_anchors,
        grid_anchors,
        label_rpn_anchors,
        sample_anchors,
        RPNHead,
        propose,
    )
}

NMS = (
    "torchvision.ops.boxes.nms",
    "torch.ops.torchvision.nms",
    "torchvision.ops.boxes.batched_nms",
    "torchvision.ops.boxes._batched_nms_coordinate_trick",
    "torchvision.ops.boxes._batched_nms_vanilla",
)

COCO = (
    "pycocotools.cocoeval.COCOeval",
    "faster_coco_eval.core.cocoeval.COCOeval",
    "faster_coco_eval.core.faster_eval_api.COCOeval_faster",
    "faster_coco_eval.faster_eval_api_cpp.COCOevalEvaluateAccumulate",
    "faster_coco_eval.faster_eval_api_cpp.COCOevalEvaluateImages",
    "faster_coco_eval.faster_eval_api_cpp.COCOevalAccumulate",
    "coursekit.evaluation.run",
    "coursekit.evaluation.run_fastest",
    "coursekit.evaluation.run_pycocotools",
)

LIBRARY = {
    "xyxy_to_cxcywh": (
        "torchvision.ops.boxes.box_convert",
        "torchvision.ops._box_convert._box_xyxy_to_cxcywh",
        "torchvision.transforms.v2.functional.convert_bounding_box_format",
        "torchvision.transforms.v2.functional._meta._xyxy_to_cxcywh",
    ),
    "cxcywh_to_xyxy": (
        "torchvision.ops.boxes.box_convert",
        "torchvision.ops._box_convert._box_cxcywh_to_xyxy",
        "torchvision.transforms.v2.functional.convert_bounding_box_format",
        "torchvision.transforms.v2.functional._meta._cxcywh_to_xyxy",
    ),
    "box_area": ("torchvision.ops.boxes.box_area",),
    "box_iou": (
        "torchvision.ops.boxes.box_iou",
        "torchvision.ops.boxes._box_inter_union",
        "torchvision.ops.boxes._box_diou_iou",
        "torchvision.ops._utils._loss_inter_union",
        "pycocotools.mask.iou",
        "faster_coco_eval.core.mask.iou",
        "faster_coco_eval.mask_api_new_cpp.iou",
        "faster_coco_eval.mask_api_new_cpp.bbIou",
        "torchvision.ops.boxes.generalized_box_iou",
        "torchvision.ops.giou_loss.generalized_box_iou_loss",
        "torchvision.ops.diou_loss.distance_box_iou_loss",
        "torchvision.ops.ciou_loss.complete_box_iou_loss",
    ),
    "flip_boxes": (
        "torchvision.transforms.v2.functional.horizontal_flip_bounding_boxes",
        "torchvision.transforms.v2.functional.horizontal_flip",
        "torchvision.transforms.v2.functional.hflip",
        "coursekit.data.batches.flip_batch",
        "coursekit.data.batches.mirror_boxes",
    ),
    "parse_via": (
        "coursekit.data.via.read",
        "coursekit.data.via._read_project",
        "coursekit.data.via._bounds",
        "coursekit.data.via._label",
    ),
    "anchor_shapes": ("torchvision.models.detection.anchor_utils.DefaultBoxGenerator",),
    "linear_scales": ("torchvision.models.detection.anchor_utils.DefaultBoxGenerator",),
    "ssd_anchors": ("torchvision.models.detection.anchor_utils.DefaultBoxGenerator",),
    "match_anchors": (
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.models.detection._utils.Matcher",
    ),
    "encode_boxes": ("torchvision.models.detection._utils.BoxCoder", "torchvision.models.detection._utils.encode_boxes"),
    "decode_boxes": ("torchvision.models.detection._utils.BoxCoder",),
    "anchor_targets": (
        "torchvision.models.detection._utils.SSDMatcher",
        "torchvision.models.detection._utils.Matcher",
    ),
    "smooth_l1_loss": (
        "torch.nn.functional.smooth_l1_loss",
        "torch.nn.functional.huber_loss",
        "torch.nn.modules.loss.SmoothL1Loss",
        "torch.nn.modules.loss.HuberLoss",
        "torch._C._nn.smooth_l1_loss",
        "torch._C._nn.huber_loss",
        "torch.ops.aten.smooth_l1_loss",
        "torch.ops.aten.huber_loss",
        "torch._refs.nn.functional.smooth_l1_loss",
        "torch._refs.nn.functional.huber_loss",
        "torch._decomp.decompositions.smooth_l1_loss",
    ),
    "ssd_loss": ("torchvision.models.detection.ssd.SSD",),
    "SSDHead": (
        "torchvision.models.detection.ssd.SSDHead",
        "torchvision.models.detection.ssd.SSDScoringHead",
        "torchvision.models.detection.ssd.SSDClassificationHead",
        "torchvision.models.detection.ssd.SSDRegressionHead",
        "torchvision.models.detection.rpn.permute_and_flatten",
    ),
    "ssd_predict": (
        "torchvision.models.detection.ssd.SSD",
        "torchvision.models.detection.ssd.SSD.postprocess_detections",
        "torchvision.models.detection.roi_heads.RoIHeads.postprocess_detections",
    ),
    "nms": NMS,
    "batched_nms": NMS,
    "soft_nms": NMS,
    "match_detections": COCO,
    "coco101_ap": COCO,
    "mean_ap": (*COCO, "coursekit.evaluation.evaluate_detections", "coursekit.evaluation.evaluate"),
    "roi_pool": (
        "torchvision.ops.roi_pool",
        "torchvision.ops.RoIPool",
        "torch.ops.torchvision.roi_pool",
    ),
    "roi_align": (
        "torchvision.ops.roi_align",
        "torchvision.ops.RoIAlign",
        "torchvision.ops.MultiScaleRoIAlign",
        "torch.ops.torchvision.roi_align",
    ),
    "label_proposals": (
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection.roi_heads.RoIHeads",
    ),
    "FastRCNNHead": (
        "torchvision.models.detection.faster_rcnn.FastRCNNPredictor",
        "torchvision.models.detection.faster_rcnn.TwoMLPHead",
        "torchvision.models.detection.faster_rcnn.FastRCNNConvFCHead",
    ),
    "fast_rcnn_loss": (
        "torchvision.models.detection.roi_heads.fastrcnn_loss",
        "torchvision.models.detection.roi_heads.RoIHeads",
    ),
    "cell_anchors": ("torchvision.models.detection.anchor_utils.AnchorGenerator",),
    "grid_anchors": (
        "torchvision.models.detection.anchor_utils.AnchorGenerator",
        "torchvision.models.detection.anchor_utils.DefaultBoxGenerator",
    ),
    "label_rpn_anchors": (
        "torchvision.models.detection._utils.Matcher",
        "torchvision.models.detection.rpn.RegionProposalNetwork",
    ),
    "sample_anchors": ("torchvision.models.detection._utils.BalancedPositiveNegativeSampler",),
    "RPNHead": (
        "torchvision.models.detection.rpn.RPNHead",
        "torchvision.models.detection.rpn.permute_and_flatten",
        "torchvision.models.detection.rpn.concat_box_prediction_layers",
    ),
    "rpn_loss": ("torchvision.models.detection.rpn.RegionProposalNetwork",),
    "propose": (
        "torchvision.models.detection.rpn.RegionProposalNetwork",
        "torchvision.models.detection.roi_heads.RoIHeads",
    ),
}


# 10_fpn


class TopDown(nn.Module):
    """torchvision's feature pyramid network; it takes and gives a dict."""

    def __init__(self, in_channels, channels):
        from torchvision.ops import FeaturePyramidNetwork

        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels)

    def forward(self, features):
        return list(self.pyramid({str(level): feature for level, feature in enumerate(features)}).values())


def assign_level(boxes, k0=4, smallest=2, largest=5):
    """torchvision counts levels from its smallest, and adds 1e-6 to the logarithm unless told otherwise."""
    from torchvision.ops.poolers import LevelMapper

    return smallest + LevelMapper(smallest, largest, canonical_level=k0, eps=0.0)([boxes])


def pool_from_pyramid(features, boxes_per_image, output_size, strides):
    """torchvision's pooler does not align by half a cell: its boxes are moved by that, in cells of their level.

    It widens boxes under one cell to a cell, which the exercise does not.
    """
    from torchvision.ops.poolers import LevelMapper, _multiscale_roi_align

    mapper = LevelMapper(*(stride.bit_length() - 1 for stride in (strides[0], strides[-1])), eps=0.0)
    half = torch.tensor(strides, device=features[0].device) / 2
    moved = [boxes - half[mapper([boxes])][:, None].to(boxes.dtype) for boxes in boxes_per_image]
    scales = [1 / stride for stride in strides]
    return _multiscale_roi_align(features, moved, tuple(output_size), 2, scales, mapper)


STANDINS.update({function.__name__: function for function in (TopDown, assign_level, pool_from_pyramid)})
LIBRARY.update(
    {
        "TopDown": ("torchvision.ops.feature_pyramid_network.FeaturePyramidNetwork",),
        "assign_level": ("torchvision.ops.poolers.LevelMapper", "torchvision.ops.poolers.initLevelMapper"),
        "pool_from_pyramid": (
            "torchvision.ops.poolers.MultiScaleRoIAlign",
            "torchvision.ops.poolers._multiscale_roi_align",
        ),
    }
)


# 11_retinanet


def focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    from torchvision.ops import sigmoid_focal_loss

    return sigmoid_focal_loss(logits, targets, alpha, gamma)


class RetinaNetHead(nn.Module):
    """torchvision's; it gives a dict."""

    def __init__(self, channels, anchors_per_cell, num_classes):
        from torchvision.models.detection.retinanet import RetinaNetHead

        super().__init__()
        self.head = RetinaNetHead(channels, anchors_per_cell, num_classes)

    def forward(self, features):
        outputs = self.head(features)
        return outputs["cls_logits"], outputs["bbox_regression"]


def retinanet_loss(logits, deltas, labels, target_deltas):
    """torchvision's two losses of RetinaNet, with its smooth L1, of the whole batch taken as one image.

    Of several images torchvision divides each by its own positives and gives the mean.
    """
    from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

    # torchvision encodes the matched boxes itself; here anchor i is matched to "box" i, whose code is given
    coder = SimpleNamespace(encode_single=lambda boxes, anchors: boxes)
    classes, boxes = SimpleNamespace(BETWEEN_THRESHOLDS=-2), SimpleNamespace(box_coder=coder, _loss_type="smooth_l1")
    labels, wanted = labels.flatten(), target_deltas.flatten(0, 1)
    rows = torch.where(labels > 0, torch.arange(len(labels), device=labels.device), labels - 1)
    truth = [{"labels": labels - 1, "boxes": wanted}]
    outputs = {"cls_logits": logits.flatten(0, 1)[None], "bbox_regression": deltas.flatten(0, 1)[None]}
    return (
        RetinaNetClassificationHead.compute_loss(classes, truth, outputs, [rows]),
        RetinaNetRegressionHead.compute_loss(boxes, truth, outputs, [wanted], [rows]),
    )


STANDINS |= {function.__name__: function for function in (focal_loss, RetinaNetHead, retinanet_loss)}
LIBRARY |= {
    "balanced_cross_entropy": ("torchvision.ops.focal_loss.sigmoid_focal_loss",),
    "focal_loss": ("torchvision.ops.focal_loss.sigmoid_focal_loss",),
    "RetinaNetHead": (
        "torchvision.models.detection.retinanet.RetinaNetHead",
        "torchvision.models.detection.retinanet.RetinaNetClassificationHead",
        "torchvision.models.detection.retinanet.RetinaNetRegressionHead",
        "torchvision.models.detection.ssd.SSDHead",
        "torchvision.models.detection.ssd.SSDScoringHead",
        "torchvision.models.detection.rpn.permute_and_flatten",
    ),
    "retinanet_loss": (
        "torchvision.models.detection.retinanet.RetinaNetHead",
        "torchvision.models.detection.retinanet.RetinaNetClassificationHead",
        "torchvision.models.detection.retinanet.RetinaNetRegressionHead",
        "torchvision.ops.focal_loss.sigmoid_focal_loss",
        "torchvision.models.detection._utils._box_loss",
    ),
}


# 13_fcos: torchvision's parts are not the slides' (other points, ReLU, GIoU, root of the product), so none stands in

FCOS = (
    "torchvision.models.detection.fcos.FCOS",
    "torchvision.models.detection.fcos.FCOS.compute_loss",
    "torchvision.models.detection.fcos.FCOS.postprocess_detections",
    "torchvision.models.detection.fcos.FCOSHead",
    "torchvision.models.detection.fcos.FCOSHead.compute_loss",
    "torchvision.models.detection.fcos.FCOSClassificationHead",
    "torchvision.models.detection.fcos.FCOSRegressionHead",
)
LIBRARY |= {
    "locations": ("torchvision.models.detection.anchor_utils.AnchorGenerator",),
    **{name: FCOS for name in ("fcos_targets", "centerness", "FCOSHead", "fcos_loss", "fcos_predict")},
}


# 14_your_detector

LIBRARY |= {
    "to_original": (
        "torchvision.models.detection.transform.resize_boxes",
        "torchvision.models.detection.transform.GeneralizedRCNNTransform",
    ),
    "library_anchors": ("torchvision.models.detection.anchor_utils.AnchorGenerator",),
    "library_decode": ("torchvision.models.detection._utils.BoxCoder",),
}
