"""The lessons' vectorised functions, the fast forms of their last pages where there are any, beside libraries."""

import functools
import math
from types import SimpleNamespace

import pytest
import torch
import torchvision
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.fcos import FCOS

from coursekit.evaluation import IOUS, coco_results, coco_truths

from ..lesson_code import function_of
from .frame import beside, timed, weighed

CLASSES = tuple("abcdef")
SECONDS = 3.0  # for the pairs of one function, at least three


@pytest.fixture
def one_thread():
    """So that a fork can work, and other load on the machine disturbs less."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def boxes(count, side, smallest, largest, dice):
    corners = side * torch.rand(count, 2, generator=dice)
    return torch.cat([corners, corners + smallest + (largest - smallest) * torch.rand(count, 2, generator=dice)], 1)


def detections(images, dice):
    """Truths, 1 to 6 an image, of six classes; two detections near each and ten elsewhere, on the CPU."""
    found, truths = [], []
    for count in torch.randint(1, 7, (images,), generator=dice).tolist():
        truth, labels = boxes(count, 100, 12, 52, dice), torch.randint(1, 7, (count,), generator=dice)
        near = truth.repeat(2, 1) + 3 * torch.randn(2 * count, 4, generator=dice)
        near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
        every = torch.cat([near, boxes(10, 100, 12, 52, dice)])
        kinds = torch.cat([labels.repeat(2), torch.randint(1, 7, (10,), generator=dice)])
        found.append({"boxes": every, "labels": kinds, "scores": torch.rand(len(every), generator=dice)})
        truths.append({"boxes": truth, "labels": labels})
    return found, truths


def pycocotools_ap(found, truths):
    """AP by pycocotools on objects of every size, nothing else: what `mean_ap` gives. No printing."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, other = COCO(), COCO()
        truth.dataset = coco_truths(truths, CLASSES)
        other.dataset = {**truth.dataset, "annotations": coco_results(found, len(CLASSES))}
        truth.createIndex()
        other.createIndex()
        evaluation = COCOeval(truth, other, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0].mean()


def plain_soft_nms(boxes, scores, sigma=0.5, score_threshold=0.001):
    """Soft-NMS with floats, as the algorithm is written: torchvision has none."""
    boxes, scores = boxes.tolist(), scores.tolist()
    left, picked = list(range(len(boxes))), []
    while left:
        best = max(left, key=scores.__getitem__)
        if scores[best] < score_threshold:
            break
        left.remove(best)
        picked.append(best)
        a = boxes[best]
        for i in left:
            b = boxes[i]
            shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
            union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
            scores[i] *= math.exp(-((shared / union) ** 2) / sigma)
    return picked


def cases(share, device):
    """(what, whose, ours, theirs, most, same): most is the goal for ours / theirs, `same` compares the answers."""
    dice = torch.Generator().manual_seed(0)

    def size(number):
        return max(2, round(share * number))

    def on(*tensors):
        return [tensor.to(device) for tensor in tensors]

    ops, equal = torchvision.ops, torch.equal
    few, many = on(boxes(size(1000), 1000, 10, 100, dice), boxes(size(10_000), 1000, 10, 100, dice))
    fast_iou = function_of("01_boxes", "fast_box_iou")
    ours, theirs = (functools.partial(f, few, many) for f in (fast_iou, ops.box_iou))
    yield f"`box_iou` {len(few):,} × {len(many):,}", "torchvision", ours, theirs, 1, equal

    objects = boxes(50, 1000, 10, 100, dice).to(device)
    iou = ops.box_iou(objects, many)
    ours = functools.partial(function_of("03_matching", "fast_match_anchors"), iou)
    theirs = functools.partial(SSDMatcher(0.5), iou)
    yield f"`match_anchors` 50 × {len(many):,}", "`SSDMatcher`", ours, theirs, 1.2, None

    for words, side, most in (("spread out", 2000, 1), ("clustered", 200, 1)):
        some, ranks = on(boxes(size(2000), side, 10, 40, dice), torch.rand(size(2000), generator=dice))
        ours = functools.partial(function_of("06_nms", "fast_nms"), some, ranks, 0.5)
        theirs = functools.partial(ops.nms, some, ranks, 0.5)
        yield f"`nms` {len(some):,} {words}", "torchvision", ours, theirs, most, equal

    some, ranks = on(boxes(size(500), 500, 10, 100, dice), torch.rand(size(500), generator=dice))
    ours = functools.partial(function_of("06_nms", "soft_nms"), some, ranks)
    theirs = functools.partial(plain_soft_nms, some, ranks)
    same = lambda a, b: a[0].tolist() == b  # noqa: E731
    yield f"`soft_nms` {len(some)}", "a loop of floats", ours, theirs, 1, same

    maps = torch.randn(2, 256, 50, 68, generator=dice).to(device)
    images = torch.randint(0, 2, (size(512), 1), generator=dice)
    rois = torch.cat([images, boxes(size(512), 700, 16, 400, dice)], 1).to(device)
    close = functools.partial(torch.allclose, atol=1e-4)
    for name, more, most in (("roi_pool", (), 3), ("roi_align", (2, True), 1)):
        given = maps, rois, (7, 7), 1 / 16
        ours = functools.partial(function_of("08_fast_rcnn", f"fast_{name}"), *given)
        theirs = functools.partial(getattr(ops, name), *given, *more)
        yield f"`{name}` {len(rois)}×7×7×256", "torchvision", ours, theirs, most, close

    locations = function_of("13_fcos", "locations")
    levels = [locations((-(-1024 // s), -(-800 // s)), s).to(device) for s in (8, 16, 32, 64, 128)]
    counts = [len(xy) for xy in levels]
    half = torch.cat([xy.new_full((len(xy), 1), s / 2) for xy, s in zip(levels, (8, 16, 32, 64, 128))])
    anchors = torch.cat([torch.cat(levels) - half, torch.cat(levels) + half], 1)
    batch = [{"boxes": boxes(20, 700, 20, 300, dice).to(device), "labels": torch.arange(1, 21, device=device)} for _ in range(8)]
    stage = SimpleNamespace(center_sampling_radius=1e9, head=SimpleNamespace(compute_loss=lambda *parts: parts[-1]))
    ours = functools.partial(function_of("13_fcos", "fast_targets"), levels, batch, (0, 64, 128, 256, 512, math.inf))
    theirs = functools.partial(FCOS.compute_loss, stage, batch, {}, [anchors] * 8, counts)
    yield "`fcos_targets` 800×1024, 8 images", "`FCOS.compute_loss`", ours, theirs, 1, None

    logits = torch.randn(size(100_000), 80, generator=dice)
    targets = (torch.rand(logits.shape, generator=dice) < 0.01).float()
    logits, targets = on(logits, targets)
    ours = functools.partial(function_of("11_retinanet", "focal_loss"), logits, targets)
    theirs = functools.partial(ops.sigmoid_focal_loss, logits, targets)
    yield f"`focal_loss` {len(logits):,} × 80", "torchvision", ours, theirs, 1, close

    if device == "cpu":
        found, truths = detections(size(5000), dice)
        ours = functools.partial(function_of("07_metrics", "fast_mean_ap"), found, truths, IOUS)
        theirs = functools.partial(pycocotools_ap, found, truths)
        same = lambda a, b: abs(a["AP"] - b) < 1e-6  # noqa: E731
        yield f"`mean_ap` {len(found):,} images", "pycocotools", ours, theirs, 1, same


def test_functions(table, request, one_thread):
    share = request.config.getoption("--share")
    result = table(
        "functions",
        "The lessons' functions beside libraries, one thread",
        ["", "beside", "ms", "its ms", "ours / its", "goal, at most", "MB", "its MB"],
    )
    missed = []
    for what, whose, ours, theirs, most, same in cases(share, "cpu"):
        assert same is None or same(ours(), theirs()), f"{what}: another answer than that of {whose}"
        rounds = min(51, max(3, int(SECONDS / (timed(ours) + timed(theirs)))))
        seconds, its, times = beside(ours, theirs, rounds)
        memory = [weighed(function) / 1e6 for function in (ours, theirs)]
        result.row(what, whose, 1000 * seconds, 1000 * its, 1 / times, most, *memory)
        missed += [f"{what} {1 / times:.2f}"] * (1 / times > most)
    if share == 1:
        result.goal(not missed, f"{len(result.rows) - len(missed)} of {len(result.rows)} are within their goal{'; ' * bool(missed)}{', '.join(missed)}")
    result.notes.append(
        "Equal answers are asserted where both have the same contract: torchvision's matcher lets the last of two objects "
        "have an anchor, its FCOS samples centres. Medians of pairs; memory is the peak beyond what was held before, of which up to 10 MB "
        "are the measurement's own."
    )
    assert not result.missed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_functions_gpu(table, request):
    """The same on the GPU, where torchvision has CUDA kernels; peaks are those of torch's allocator."""
    result = table(
        "functions_gpu",
        f"The lessons' functions on {torch.cuda.get_device_name()}",
        ["", "beside", "ms", "its ms", "ours / its", "MB", "its MB"],
    )
    for what, whose, ours, theirs, _, same in cases(request.config.getoption("--share"), "cuda"):
        assert same is None or same(ours(), theirs()), f"{what}: another answer than that of {whose}"
        memory = []
        for function in (ours, theirs):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            function()
            torch.cuda.synchronize()
            memory.append((torch.cuda.max_memory_allocated() - held) / 1e6)

        def waited(function):
            function()
            torch.cuda.synchronize()

        seconds, its, times = beside(lambda: waited(ours), lambda: waited(theirs), 31)
        result.row(what, whose, 1000 * seconds, 1000 * its, 1 / times, *memory)
