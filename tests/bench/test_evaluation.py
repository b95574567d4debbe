"""`coursekit.evaluation` beside the evaluator whose numbers it gives."""

import pytest
import torch

from coursekit import evaluation
from coursekit.evaluation import evaluate_detections

from .frame import beside
from .test_functions import CLASSES, detections

NUMBERS = "AP AP50 AP75 APs APm APl AR1 AR10 AR ARs ARm ARl".split()


def test_evaluation(table, request, monkeypatch):
    """All twelve numbers, from detections as tensors on; both evaluators within the same function."""
    library = pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed: ours is pycocotools")
    dice = torch.Generator().manual_seed(0)
    found, truths = detections(round(request.config.getoption("--share") * 5000), dice)
    result = table(
        "evaluation",
        f"Scores of {len(found):,} images, {sum(len(one['scores']) for one in found):,} detections, all twelve COCO numbers",
        ["", "s", "its / ours", "largest difference"],
    )

    def ours():
        return evaluate_detections(found, truths, CLASSES, small=20, large=40)

    def peer():
        with monkeypatch.context() as patch:
            patch.setattr(evaluation, "run_fastest", evaluation.run_pycocotools)
            return ours()

    expected, actual = peer(), ours()
    difference = max(abs(getattr(expected, name) - getattr(actual, name)) for name in NUMBERS)
    seconds, its, times = beside(ours, peer, 3)
    result.row(f"`coursekit.evaluation`, by faster-coco-eval {library.__version__}", seconds, "", "")
    result.row("the same by pycocotools", its, times, f"{difference:.1e}")
    assert difference < 1e-12
