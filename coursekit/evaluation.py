"""Scores of a detector: the numbers of pycocotools, the reference implementation of COCO's average precision.

    scores = evaluate(detect, data, small=16, large=40)
    scores.AP50                       # a float; NaN where nothing of that kind is in the data
    scores                            # a table, in a notebook and as text
    plot_precision_recall(scores)

They are computed by faster-coco-eval, which gives the same in a quarter of the time, or by pycocotools where that is
not installed.

Source: Lin et al., ECCV 2014 (arXiv:1405.0312), https://cocodataset.org/#detection-eval.
"""

import contextlib
import io
import math
import warnings
from dataclasses import dataclass

import torch

from coursekit.plot import axes_or_new, curve, table
from coursekit.progress import progress_bar

IOUS = [round(0.5 + 0.05 * i, 2) for i in range(10)]
AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Scores:
    """COCO's scores; every value lies in 0..1, NaN where there is no object of that kind.

    Attributes:
        AP, AP50, AP75 (float): average precision over the IoU thresholds .50, .55, ... .95; at .50; at .75.
        APs, APm, APl (float): AP of small, medium and large objects.
        AR1, AR10, AR (float): recall, averaged over the thresholds, with at most 1, 10 and `most` detections
            an image.
        ARs, ARm, ARl (float): AR of small, medium and large objects.
        per_class (dict of str: float): AP of each class; `per_class50` at IoU .50.
        counts (dict of str: int): objects of each class, without the ignored ones.
        images (int): how many images were scored.
        small, large (float): sides in pixels; an object is small up to small² of area, large from large² on
            (for COCO one of just that area counts on both sides).
        most (int): detections an image that count, the best ones.
        precision (Tensor[10, 101, K]): at each IoU threshold, recall level 0, .01, ... 1 and class; -1 for
            classes without objects.
    """

    AP: float
    AP50: float
    AP75: float
    APs: float
    APm: float
    APl: float
    AR1: float
    AR10: float
    AR: float
    ARs: float
    ARm: float
    ARl: float
    per_class: dict
    per_class50: dict
    counts: dict
    images: int
    small: float
    large: float
    most: int
    precision: torch.Tensor

    def tables(self):
        """The scores as two `plot.Table`s: over all classes, and class by class."""
        objects = sum(self.counts.values())
        kinds = [
            ("all objects", self.AP, self.AP50, self.AP75, self.AR),
            (f"small, under {self.small:g}² pixels", self.APs, None, None, self.ARs),
            ("medium", self.APm, None, None, self.ARm),
            (f"large, from {self.large:g}² pixels on", self.APl, None, None, self.ARl),
        ]
        caption = f"COCO scores on {self.images:,} images with {objects:,} objects; "
        caption += f"AR with {self.most} detections an image"
        names = sorted(
            self.per_class, key=lambda name: (math.isnan(self.per_class[name]), -self.per_class[name])
        )
        classes = [(name, self.per_class[name], self.per_class50[name], self.counts[name]) for name in names]
        return table(kinds, ["", "AP", "AP50", "AP75", "AR"], caption), table(
            classes, ["class", "AP", "AP50", "objects"]
        )

    def __repr__(self):
        return "\n\n".join(map(repr, self.tables()))

    def _repr_html_(self):
        return "".join(part._repr_html_() for part in self.tables())


def evaluate(detect, data, *, batch_size=32, small=32, large=96, most=100):
    """Runs a detector over a data set and scores what it finds.

    Args:
        detect (callable or Module): `detect(images [B, 3, H, W] in 0..1) -> list of B dicts` with `boxes` [N,
            4] (xyxy, pixels), `scores` [N], `labels` [N] in 1..K; N may be 0. A module, or a method of one,
            runs in evaluation mode.
        data (DetectionData): boxes that `ignore` marks are COCO's crowds: to miss one is no error, and a
            detection that lies mostly inside of one counts neither as right nor as wrong.
        batch_size (int): images at a time.
        small, large (float): sides in pixels that part small, medium and large objects by their area. COCO's
            32 and 96 are for photographs; scenes of 128 pixels want 16 and 40.
        most (int): detections an image that count, the best ones.

    Returns:
        Scores

    Raises:
        ValueError: if what `detect` returns is not that; names the image.
    """
    detections = []
    count = math.ceil(len(data) / batch_size)
    batches = progress_bar(
        data.batches(batch_size), "detecting", count, unit=" batches", leave=False, delay=2
    )
    with torch.no_grad(), evaluation_mode(getattr(detect, "__self__", detect)):
        for images, _ in batches:
            found = detect(images)
            if not isinstance(found, (list, tuple)) or len(found) != len(images):
                what = (
                    f"{len(found)} entries"
                    if isinstance(found, (list, tuple))
                    else f"a {type(found).__name__}"
                )
                raise ValueError(
                    f"detect returned {what} for {len(images)} images, expected a list with a dict for each"
                )
            detections += found
    return evaluate_detections(detections, data.targets, data.classes, small=small, large=large, most=most)


def evaluate_detections(detections, targets, classes, *, small=32, large=96, most=100):
    """Scores detections that are there already.

    Args:
        detections (list of N dicts): `boxes` [D, 4], `scores` [D], `labels` [D], as in `evaluate`. Boxes that
            end before they start match nothing.
        targets (list of N dicts): `boxes` [M, 4], `labels` [M], and `ignore` bool [M] if any.
        classes (sequence of str): names of the labels 1..K.
        small, large, most: as in `evaluate`.

    Returns:
        Scores
    """
    if len(detections) != len(targets):
        raise ValueError(
            f"detections of {len(detections)} images, but targets of {len(targets)}: expected as many"
        )
    if not 0 < small < large:
        raise ValueError(f"small={small}, large={large}: expected 0 < small < large, in pixels")
    answers = coco_results(detections, len(classes))
    truths = coco_truths(targets, classes)
    evaluation = run_fastest(truths, answers, (small, large), most)
    precision, recall = evaluation["precision"], evaluation["recall"]  # [T, R, K, areas, 3], [T, K, areas, 3]
    AP, APs, APm, APl = (mean_where_known(precision[:, :, :, area, -1]) for area in range(4))
    AR, ARs, ARm, ARl = (mean_where_known(recall[:, :, area, -1]) for area in range(4))
    plain = [label for target in targets for label in counted_labels(target)]
    return Scores(
        AP=AP, APs=APs, APm=APm, APl=APl, AR=AR, ARs=ARs, ARm=ARm, ARl=ARl,
        AP50=mean_where_known(precision[IOUS.index(0.5), :, :, 0, -1]),
        AP75=mean_where_known(precision[IOUS.index(0.75), :, :, 0, -1]),
        AR1=mean_where_known(recall[:, :, 0, 0]),
        AR10=mean_where_known(recall[:, :, 0, 1]),
        per_class={name: mean_where_known(precision[:, :, k, 0, -1]) for k, name in enumerate(classes)},
        per_class50={name: mean_where_known(precision[0, :, k, 0, -1]) for k, name in enumerate(classes)},
        counts={name: plain.count(k) for k, name in enumerate(classes, 1)},
        images=len(targets), small=small, large=large, most=most, precision=precision[:, :, :, 0, -1],
    )  # fmt: skip


def plot_precision_recall(scores, ax=None, *, iou=0.5):
    """Draws precision over recall of each class, and their mean, at one IoU threshold.

    Precision is COCO's: at each recall the highest that is reached at this recall or beyond.

    Args:
        scores (Scores): from `evaluate`.
        iou (float): .50, .55, ... .95.
    """
    if round(iou, 2) not in IOUS:
        raise ValueError(f"iou={iou}, expected one of {', '.join(f'{value:.2f}' for value in IOUS)}")
    ax = axes_or_new(ax, 5.0, 3.8)
    curves = scores.precision[IOUS.index(round(iou, 2))].T  # [K, 101]
    recall = torch.linspace(0, 1, 101)
    known = [(name, values) for name, values in zip(scores.per_class, curves) if values[0] >= 0]
    for index, (name, values) in enumerate(known):
        if len(known) <= 8:  # each in a look of its own, named; of more, only the mean can be told apart
            curve(recall, values, index, f"{name} {values.mean():.2f}", ax)
        else:
            ax.plot(recall, values, color="0.75", linewidth=0.8)
    if len(known) > 1:
        mean = torch.stack([values for _, values in known]).mean(0)
        ax.plot(recall, mean, color="black", linewidth=3, alpha=0.8, label=f"mean {mean.mean():.2f}")
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
    if known:
        ax.legend(frameon=False, title=f"AP at IoU {iou:.2f}", loc="center left", bbox_to_anchor=(1.01, 0.5))


def coco_dict(data):
    """The truth of a data set as pycocotools wants it, as in a COCO annotation file; image i has id i + 1.

    Args:
        data (DetectionData): its boxes become xywh; `ignore` becomes `iscrowd`.

    Returns:
        dict: `images`, `annotations`, `categories`.
    """
    height, width = data.images.shape[2:]
    truths = coco_truths(data.targets, data.classes)
    for image in truths["images"]:
        image |= {"width": width, "height": height}
    return truths


def coco_truths(targets, classes):
    """Targets as a dict of COCO's form, without the sizes of the images, which scores do not need."""
    annotations = []
    for number, target in enumerate(targets, 1):
        count = len(target["labels"])
        ignored = target["ignore"].tolist() if "ignore" in target else [False] * count
        boxes, areas = xywh(target["boxes"])
        for box, area, label, crowd in zip(boxes, areas, target["labels"].tolist(), ignored, strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box,
                 "area": area, "iscrowd": int(crowd)}
            )  # fmt: skip
    return {
        "images": [{"id": number} for number in range(1, len(targets) + 1)],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes, 1)],
    }


def coco_results(detections, classes):
    """Detections as a list of COCO's form; raises where one is malformed."""
    answers, turned = [], 0
    for number, found in enumerate(detections, 1):
        boxes, scores, labels = checked_detection(found, number - 1, classes)
        turned += int((boxes[:, 2:] < boxes[:, :2]).any(1).sum())
        for box, area, score, label in zip(*xywh(boxes), scores.tolist(), labels.tolist(), strict=True):
            answers.append(
                {"id": len(answers) + 1, "image_id": number, "category_id": int(label), "bbox": box,
                 "area": area, "score": score, "iscrowd": 0}
            )  # fmt: skip
    if turned > 0.1 * len(answers):
        warnings.warn(
            f"{turned:,} of {len(answers):,} detected boxes end before they start and match nothing: "
            "boxes are xyxy, are these xywh?",
            stacklevel=3,
        )
    return answers


def checked_detection(found, index, classes):
    """Boxes [N, 4], scores [N] and labels [N] of one image, or what is wrong with them."""
    where = f"detections of image {index}"
    missing = [name for name in ("boxes", "scores", "labels") if name not in found]
    if missing:
        raise ValueError(f"{where} have no {' and no '.join(missing)}, expected boxes, scores and labels")
    boxes, scores, labels = (
        torch.as_tensor(found[name]).detach().cpu() for name in ("boxes", "scores", "labels")
    )
    boxes = boxes.reshape(0, 4) if boxes.numel() == 0 else boxes
    if boxes.shape != (len(scores), 4) or scores.ndim != 1 or labels.shape != scores.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (boxes, scores, labels))
        raise ValueError(f"{where}: boxes, scores and labels are {shapes}, expected (N, 4), (N,), (N,)")
    for name, value in (("boxes", boxes), ("scores", scores)):
        if not torch.isfinite(value).all():
            raise ValueError(
                f"{where}: {name} hold {value[~torch.isfinite(value)][0]}, expected finite numbers"
            )
    bad = labels[(labels < 1) | (labels > classes)]
    if len(bad):
        hint = ": 0 is background, which is no detection" if int(bad[0]) == 0 else ""
        raise ValueError(f"{where}: label {int(bad[0])}, expected 1..{classes}{hint}")
    return boxes.double(), scores.double(), labels


def xywh(boxes):
    """xyxy boxes as lists (x, y, w, h) and areas, in float64; a box that ends before it starts has none."""
    boxes = boxes.detach().cpu().double()
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return torch.cat([boxes[:, :2], sizes], 1).tolist(), sizes.prod(1).tolist()


def counted_labels(target):
    """The labels (list of int) of a target's boxes that are not ignored."""
    labels = target["labels"].cpu()
    return (labels[~target["ignore"].cpu()] if "ignore" in target else labels).tolist()


def run_fastest(truths, answers, sides, most):
    """As `run_pycocotools`, by faster-coco-eval where it is installed: equal to the last digit, a test holds it there."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        return run_pycocotools(truths, answers, sides, most)
    return run(COCO, COCOeval_faster, truths, answers, sides, most)


def run_pycocotools(truths, answers, sides, most):
    """COCOeval's `precision` [10, 101, K, 4, 3] and `recall` [10, K, 4, 3]; -1 where there is no object.

    The last two dimensions are `AREAS`, and 1, 10 and `most` detections an image.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return run(COCO, COCOeval, truths, answers, sides, most)


def run(COCO, COCOeval, truths, answers, sides, most):
    """As `run_pycocotools`, by the two classes of a library."""
    with contextlib.redirect_stdout(io.StringIO()):  # it reports each stage and its seconds
        truth, found = COCO(), COCO()
        truth.dataset = truths
        # not by loadRes, which fails when nothing at all was detected
        found.dataset = {**truths, "annotations": answers}
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        small, large = (side**2 for side in sides)
        evaluation.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        evaluation.params.areaRngLbl = list(AREAS)
        evaluation.params.maxDets = [1, min(10, most), most]
        evaluation.evaluate()
        evaluation.accumulate()
    return {name: torch.as_tensor(evaluation.eval[name]) for name in ("precision", "recall")}


def mean_where_known(values):
    """The mean of the values that are not -1, as a float; NaN if none is known."""
    known = values[values > -1]
    return float(known.mean()) if len(known) else math.nan


@contextlib.contextmanager
def evaluation_mode(model):
    """A module in evaluation mode while it lasts; anything else as it is."""
    if not isinstance(model, torch.nn.Module) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()
