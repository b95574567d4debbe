"""Right answers pass whatever their form; the starter and answers wrong in a way that fits any exercise fail."""

import importlib
import inspect
import pkgutil

import pytest
import torch

from autograder.judge import judge_function, judge_source, load_answer
from autograder.lessons import all_exercises, read_cells, sources

from . import forms

EXERCISES = all_exercises()
FUNCTIONS = [name for name in EXERCISES if name[0].islower()]
FORMS = [
    (member.split("__")[0], member, function)
    for module in pkgutil.iter_modules(forms.__path__)
    for member, function in vars(importlib.import_module(f"{forms.__name__}.{module.name}")).items()
    if "__" in member.strip("_") and inspect.isroutine(function) or inspect.isclass(function) and "__" in member
]


def verdict_of(name, answer, guard=True):
    verdict = judge_function(EXERCISES[name], answer, guard)
    return verdict, f"visible: {verdict.visible['message']!r}, hidden: {verdict.hidden['message']!r}"


@pytest.mark.parametrize("name", EXERCISES)
def test_reference_passes(name):
    verdict = judge_source(EXERCISES[name], EXERCISES[name].reference)
    assert verdict.passed and verdict.score == verdict.points, (verdict.visible, verdict.hidden)


@pytest.mark.parametrize("name, form, answer", FORMS, ids=[form for _, form, _ in FORMS])
def test_other_form_passes(name, form, answer):
    verdict, told = verdict_of(name, answer)
    assert verdict.passed, told


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise_has_three_other_forms(name):
    assert sum(exercise == name for exercise, _, _ in FORMS) >= 3


@pytest.mark.parametrize("name", EXERCISES)
def test_starter_fails(name):
    pytest.importorskip("nbgrader", reason="the release is made with nbgrader")
    from autograder.build import expand, released

    path = next(path for path in sources() if path.parent.name == EXERCISES[name].lesson)
    cell = next(cell for cell in released(expand(path)).cells if cell.get("id") == name)
    verdict = judge_source(EXERCISES[name], cell.source)
    assert not verdict.visible["passed"] and not verdict.passed and verdict.score == 0


# Answers that are wrong in a way that fits any exercise. Where one does not fit, the exercise stands in UNFIT with why.


def reference(name):
    return load_answer(EXERCISES[name], EXERCISES[name].reference)


def mapped(value, change):
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mapped(item, change) for item in value)
    return value


def tensors(value):
    found = []
    mapped(value, lambda tensor: (found.append(tensor), tensor)[1])
    return found


def returns_double(function):
    """float64 whatever came in."""
    return lambda *a, **k: mapped(function(*a, **k), lambda t: t.double() if t.is_floating_point() else t)


def returns_single(function):
    """float32 whatever came in."""
    return lambda *a, **k: mapped(function(*a, **k), lambda t: t.float() if t.is_floating_point() else t)


def changes_its_arguments(function):
    def answer(*arguments, **named):
        result = function(*arguments, **named)
        for tensor in tensors((arguments, named)):
            if tensor.is_leaf and not tensor.requires_grad and tensor.numel():
                tensor[...] = 1
        return result

    return answer


def fails_on_empty_input(function):
    def answer(*arguments, **named):
        if any(tensor.numel() == 0 for tensor in tensors((arguments, named))):
            raise IndexError("empty")
        return function(*arguments, **named)

    return answer


def a_little_off(function):
    return lambda *a, **k: mapped(
        function(*a, **k), lambda t: t * 1.01 + 0.001 if t.is_floating_point() else t
    )


def rows_in_reverse(function):
    return lambda *a, **k: mapped(function(*a, **k), lambda t: t.flip(0) if t.dim() else t)


def gives_none(function):
    return lambda *a, **k: None


def remembers_the_first_answer(function):
    kept = []
    return lambda *a, **k: (kept.append(function(*a, **k)) or kept[0]) if not kept else kept[0]


WRONG = [
    returns_double,
    returns_single,
    changes_its_arguments,
    fails_on_empty_input,
    a_little_off,
    rows_in_reverse,
    gives_none,
    remembers_the_first_answer,
]
# exercise -> {answer: why it is not wrong there}
UNFIT = {
    "parse_via": {
        "returns_single": "it gives float32 always",
        "changes_its_arguments": "its argument holds no tensor; a mistake that changes the dict is named",
        "fails_on_empty_input": "its argument holds no tensor; mistakes on images without regions are named",
    },
    "tile_anchors": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "anchor_shapes": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "linear_scales": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "ssd_anchors": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "match_anchors": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "mine_hard_negatives": {name: "it gives booleans" for name in ("returns_double", "returns_single", "a_little_off")},
    "ssd_loss": {"rows_in_reverse": "it gives two scalars"},
    "nms": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "batched_nms": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "locations": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "fcos_loss": {"rows_in_reverse": "it gives three scalars"},
    "assign_level": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    **{
        name: {"rows_in_reverse": "it gives a scalar", "returns_double": "a plain number is right too, so no dtype is asked for"}
        for name in ("mean_iou", "voc11_ap", "area_ap", "coco101_ap")
    },
    "region_similarity": {
        "rows_in_reverse": "it gives a scalar",
        "returns_double": "a plain number is right too, so no dtype is asked for",
        "returns_single": "a plain number is right too, so no dtype is asked for",
        "fails_on_empty_input": "a region is never empty",
    },
    "selective_search": {"fails_on_empty_input": "an image is never empty"},
    "label_proposals": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "fast_rcnn_loss": {"rows_in_reverse": "it gives two scalars"},
    "mean_ap": {
        name: "it gives plain numbers"
        for name in ("returns_double", "returns_single", "a_little_off", "rows_in_reverse")
    },
    "cell_anchors": {name: "no tensor comes in" for name in ("returns_single", "changes_its_arguments", "fails_on_empty_input")},
    "inside_image": {name: "it gives booleans" for name in ("returns_double", "returns_single", "a_little_off")},
    "label_rpn_anchors": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "sample_anchors": {
        **{name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
        "rows_in_reverse": "any order is right",
    },
    "rpn_loss": {"rows_in_reverse": "it gives two scalars"},
    "alternating_training": {"fails_on_empty_input": "no weight of a network is empty"},
    "prior_bias": {
        name: "a plain number comes in and goes out"
        for name in (
            "returns_double",
            "returns_single",
            "changes_its_arguments",
            "fails_on_empty_input",
            "a_little_off",
            "rows_in_reverse",
        )
    },
    "retinanet_loss": {"rows_in_reverse": "it gives two scalars"},
    "select_level": {name: "it gives whole numbers" for name in ("returns_double", "returns_single", "a_little_off")},
    "images_per_second": {
        **{name: "it gives a plain number" for name in ("returns_double", "returns_single", "a_little_off", "rows_in_reverse")},
        "fails_on_empty_input": "without images there is nothing to measure",
    },
    "coco_results": {
        name: "it gives plain numbers" for name in ("returns_double", "returns_single", "a_little_off", "rows_in_reverse")
    },
}
# exercise -> why float64 inside is another answer there
EXACT = {"library_decode": "equal to the last bit is what it asks for"}


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_answer_wrong_anywhere_fails(name, wrong):
    if wrong.__name__ in UNFIT.get(name, {}):
        pytest.skip(UNFIT[name][wrong.__name__])
    answer = wrong(reference(name))
    verdict, _ = verdict_of(name, answer, guard=False)  # the checks alone must see it
    assert not verdict.passed, f"an answer that {wrong.__name__} passes"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_answer_that_computes_in_float64_and_returns_the_input_dtype_passes(name):
    if name in EXACT:
        pytest.skip(EXACT[name])
    function = reference(name)

    def answer(*arguments, **named):
        floating = [t for t in tensors((arguments, named)) if t.is_floating_point()]
        dtype = floating[0].dtype if floating else None
        up = mapped((arguments, named), lambda t: t.double() if t.is_floating_point() else t)
        return mapped(function(*up[0], **up[1]), lambda t: t.to(dtype) if dtype and t.is_floating_point() else t)

    verdict, told = verdict_of(name, answer)
    assert verdict.passed, told
