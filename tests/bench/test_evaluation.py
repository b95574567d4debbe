"""`coursekit.evaluation` beside the evaluators that it could stand on."""

import contextlib
import io

import pytest
import torch

from coursekit import evaluation
from coursekit.evaluation import evaluate_detections

from .frame import beside
from .test_functions import CLASSES, detections

NUMBERS = "AP AP50 AP75 APs APm APl AR1 AR10 AR ARs ARm ARl".split()


def by_faster_coco_eval(truths, answers, sides, most):
    """As `coursekit.evaluation.run_pycocotools`, by the package faster-coco-eval."""
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset, found.dataset = truths, {**truths, "annotations": answers}
        truth.createIndex()
        found.createIndex()
        run = COCOeval_faster(truth, found, "bbox")
        small, large = (side**2 for side in sides)
        run.params.areaRng = [[0, 1e10], [0, small], [small, large], [large, 1e10]]
        run.params.areaRngLbl = list(evaluation.AREAS)
        run.params.maxDets = [1, min(10, most), most]
        run.evaluate()
        run.accumulate()
    return {name: torch.as_tensor(run.eval[name]) for name in ("precision", "recall")}


def test_evaluation(table, request, monkeypatch):
    """All twelve numbers, from detections as tensors on; every evaluator within the same function."""
    dice = torch.Generator().manual_seed(0)
    found, truths = detections(round(request.config.getoption("--share") * 5000), dice)
    result = table(
        "evaluation",
        f"Scores of {len(found):,} images, {sum(len(one['scores']) for one in found):,} detections, all twelve COCO numbers",
        ["", "s", "ours / its", "largest difference"],
    )

    def ours():
        return evaluate_detections(found, truths, CLASSES, small=20, large=40)

    def peer():
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "run_pycocotools", by_faster_coco_eval)
            return ours()

    try:
        import faster_coco_eval
    except ImportError:
        pytest.skip("faster-coco-eval is not installed: pip install faster-coco-eval")
    expected, actual = ours(), peer()
    difference = max(abs(getattr(expected, name) - getattr(actual, name)) for name in NUMBERS)
    seconds, its, times = beside(ours, peer, 3)
    result.row("`coursekit.evaluation`, by pycocotools", seconds, "", "")
    result.row(f"by faster-coco-eval {faster_coco_eval.__version__}", its, 1 / times, f"{difference:.1e}")
    assert difference < 1e-6
