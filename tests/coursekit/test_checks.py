import functools
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
import torchvision

from coursekit.checks import (
    CheckFailed,
    alike,
    check,
    fingerprint,
    known_mistakes,
    library_call,
    passed,
    raises,
    same,
    untouched,
)
from coursekit.standins import LIBRARY

ONE = torch.tensor([1.0, 2.0])


@pytest.mark.parametrize(
    "actual, expected",
    [
        (ONE, [1, 2]),
        (ONE, ONE),
        (ONE.double(), [1.0, 2.0]),
        ([1, 2], [1, 2]),
        (torch.tensor(3), 3),
        (3.000001, 3),
        (torch.zeros(0, 4), torch.zeros(0, 4)),
        ({"a": ONE, "b": ["x"]}, {"b": ["x"], "a": [1, 2]}),
        ((ONE, [ONE]), (ONE, (ONE,))),
        ([ONE, 5], [[1, 2], 5]),
        (torch.tensor([True, False]), [True, False]),
        (torch.tensor([1, -1]), torch.tensor([1, -1])),
        (float("inf"), float("inf")),
    ],
)
def test_same_accepts(actual, expected):
    same(actual, expected, "hint")


@pytest.mark.parametrize(
    "actual, expected, words",
    [
        (torch.tensor([[-2.25]]), [[0]], "-2.25 at [0, 0], expected 0: look here"),
        (torch.zeros(5, 7), torch.zeros(7, 5), "shape (5, 7), expected (7, 5)"),
        (ONE.double(), ONE, "dtype float64, expected float32"),
        (None, ONE, "None, expected a tensor of shape (2,) (a function without `return` gives None)"),
        (ONE * float("nan"), ONE, "nan at [0], expected 1 (2 of 2 differ)"),
        (torch.tensor([1, 0]), torch.tensor([True, False]), "dtype int64, expected bool"),
        (torch.tensor([1, 0]), [True, False], "whole numbers, expected bool"),
        (1.0000005, torch.tensor(1.0), "float), expected a tensor of shape ()"),
        ({"a": 1}, {"a": 1, "b": 2}, "keys ['a'], expected ['a', 'b']"),
        ([ONE], [ONE, ONE], "1 entries, expected 2"),
        ({"boxes": [ONE, ONE + 1]}, {"boxes": [ONE, ONE]}, "2 at [0] in ['boxes'][1], expected 1"),
        (ONE, "text", "expected 'text'"),
        (torch.tensor([10000000000000001]), torch.tensor([10000000000000000]), "expected 10000000000000000"),
        ("a dog", ONE, "expected a tensor"),
    ],
)
def test_same_says_what_was_found_and_expected(actual, expected, words):
    with pytest.raises(CheckFailed) as failure:
        same(actual, expected, "look here")
    assert words in failure.value.message and failure.value.message.endswith("look here")


def test_same_warns_of_nothing():
    """nbgrader gives no point to a check cell that wrote to stderr."""
    losses = tuple(torch.tensor([1.0, 2.0], requires_grad=True) * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(losses, (torch.tensor(2.0), torch.tensor(4.0)), "hint")
        with pytest.raises(CheckFailed):
            same(losses, (2, 4), "hint")


def test_same_compares_whole_numbers_exactly():
    big = torch.tensor([40000003])
    with pytest.raises(CheckFailed):
        same(big, torch.tensor([40000000]), "areas")


def test_none_inside_is_not_blamed_on_a_missing_return():
    with pytest.raises(CheckFailed, match=r"None in \[1\], expected"):
        same([1, None], [1, ONE], "hint")


def test_rounding_of_the_reference_is_no_value_to_aim_at():
    with pytest.raises(CheckFailed, match="3, expected 0:"):
        same(torch.tensor(3.0), torch.tensor(1.4e-14), "hint")


def test_a_failure_shows_no_stack_of_the_check():
    with pytest.raises(CheckFailed) as failure:
        same(1, 2, "hint")
    assert failure.value._render_traceback_() == ["Not yet: 1, expected 2: hint"]


def test_untouched():
    untouched(lambda x: x + 1, ONE.clone())
    with pytest.raises(CheckFailed, match="argument 1 changed"):
        untouched(lambda x: x.add_(1), ONE.clone())


def test_raises():
    def picky(text):
        raise ValueError(f"dog.png: {text}")

    raises(ValueError, "dog.png", picky, "bad", hint="name the image")
    for error, words in ((ValueError, "cat.png"), (KeyError, "dog.png")):
        with pytest.raises(CheckFailed, match="name the image"):
            raises(error, words, picky, "bad", hint="name the image")
    with pytest.raises(CheckFailed, match="no error but 3, expected ValueError"):
        raises(ValueError, "x", abs, -3, hint="say so")


def test_passed_says_how_many(capsys):
    check("anything", len)
    same(1, 1, "a")
    same(2, 2, "b")
    passed()
    assert capsys.readouterr().out == "anything: all 2 checks passed\n"


def test_fingerprints_tell_results_apart_and_forgive_the_last_digits():
    values = torch.rand(7, 5, generator=torch.Generator().manual_seed(0))
    one = fingerprint(values, "hint")
    assert alike(one, fingerprint(values * (1 + 1e-6), "hint"))
    for other in (values.double(), values.T, values.flip(0), values.flip(1), values + 0.01, values * -1, torch.zeros(7, 5)):
        assert not alike(one, fingerprint(other, "hint"))
    assert not alike(one, fingerprint(values, "another hint"))
    assert alike(fingerprint({"a": [1, "x"]}, ""), fingerprint({"a": (1.0, "x")}, ""))
    assert not alike(fingerprint({"a": "x"}, ""), fingerprint({"a": "y"}, ""))


def test_a_known_mistake_is_named_in_the_message(monkeypatch):
    wrong = torch.tensor([3.0])
    table = {"twice": [{"name": "thrice", "message": "this is three times x", "prints": [fingerprint(wrong, "two times one")]}]}
    monkeypatch.setattr("coursekit.checks.known_mistakes", lambda: table)
    check("twice", abs)
    with pytest.raises(CheckFailed, match=r"known mistake \(thrice\): this is three times x"):
        same(wrong, [2], "two times one")
    with pytest.raises(CheckFailed) as failure:
        same(wrong + 1, [2], "two times one")
    assert "known mistake" not in failure.value.message


def test_values_that_two_mistakes_share_name_both_and_of_five_none(monkeypatch):
    wrong = torch.tensor([3.0])
    rows = [{"name": n, "message": f"{n}!", "prints": [fingerprint(wrong, "two times one")]} for n in "abcde"]
    for count, words in ((2, "known mistake of these: (a) a!; or (b) b!"), (5, None)):
        monkeypatch.setattr("coursekit.checks.known_mistakes", lambda: {"twice": rows[:count]})
        check("twice", abs)
        with pytest.raises(CheckFailed) as failure:
            same(wrong, [2], "two times one")
        assert words in failure.value.message if words else "known mistake" not in failure.value.message


def test_a_mistake_that_fails_a_check_before_is_ruled_out_by_passing_it(monkeypatch):
    wrong = torch.tensor([3.0])
    now, before = fingerprint(wrong, "two times one"), fingerprint(wrong, "two times zero")
    rows = [{"name": "a", "message": "a!", "prints": [before, now]}, {"name": "b", "message": "b!", "prints": [now]}]
    monkeypatch.setattr("coursekit.checks.known_mistakes", lambda: {"twice": rows})
    check("twice", abs)
    same(torch.tensor([0.0]), [0], "two times zero")
    with pytest.raises(CheckFailed, match=r"known mistake \(b\): b!"):
        same(wrong, [2], "two times one")


def test_values_that_two_spellings_of_a_mistake_share_name_it(monkeypatch):
    wrong = torch.tensor([3.0])
    prints = [fingerprint(wrong, "two times one")]
    rows = [{"name": n, "message": "one is added", "prints": prints} for n in ("plus one", "one plus")]
    monkeypatch.setattr("coursekit.checks.known_mistakes", lambda: {"twice": rows})
    check("twice", abs)
    with pytest.raises(CheckFailed, match="known mistake .plus one.: one is added"):
        same(wrong, [2], "two times one")


def test_zeros_and_ones_name_no_mistake(monkeypatch):
    """Too many wrong answers give them."""
    zeros = torch.zeros(2)
    table = {"twice": [{"name": "half", "message": "half of x", "prints": [fingerprint(zeros, "two times one")]}]}
    monkeypatch.setattr("coursekit.checks.known_mistakes", lambda: table)
    check("twice", abs)
    with pytest.raises(CheckFailed) as failure:
        same(zeros, [2, 2], "two times one")
    assert "known mistake" not in failure.value.message


def test_fingerprints_hold_numbers_only():
    for rows in known_mistakes().values():
        for row in rows:
            assert set(row) == {"name", "message", "prints"}
            for one in row["prints"]:
                assert set(one) == {"at", "shape", "numbers", "trivial"} and len(one["numbers"]) == 3


# Handing the exercise to the library


def by_attribute(a, b):
    return torchvision.ops.box_iou(a, b)


def by_local_import(a, b):
    from torchvision.ops import box_iou as anything

    return anything(a, b)


def by_module_alias(a, b):
    import torchvision.ops as o

    return o.boxes.box_iou(a, b)


aliased = torchvision.ops.box_iou


def by_global_alias(a, b):
    return aliased(a, b)


def by_helper(a, b):
    return by_attribute(a, b)


def by_inner(a, b):
    def inner():
        return torchvision.ops.box_iou(a, b)

    return inner()


def by_closure():
    kept = torchvision.ops.box_iou
    return lambda a, b: kept(a, b)


def honest(a, b):
    return torchvision.ops.box_area(a)[:, None] + torchvision.ops.box_area(b)


@pytest.mark.parametrize(
    "answer",
    [
        torchvision.ops.box_iou,
        functools.partial(torchvision.ops.box_iou),
        by_attribute,
        by_local_import,
        by_module_alias,
        by_global_alias,
        by_helper,
        by_inner,
        by_closure(),
    ],
    ids=lambda answer: getattr(answer, "__name__", "partial"),
)
def test_handing_the_exercise_to_the_library_is_refused(answer):
    assert library_call("box_iou", answer) == "torchvision.ops.boxes.box_iou"
    with pytest.raises(CheckFailed, match="box_iou is what this exercise builds"):
        check("box_iou", answer)


def test_a_class_built_on_the_library_s_is_the_library():
    from torchvision.models.detection.ssd import SSDHead

    class Mine(SSDHead):
        pass

    assert library_call("SSDHead", Mine) == "torchvision.models.detection.ssd.SSDHead"
    assert library_call("SSDHead", type("Own", (torch.nn.Module,), {})) is None


def test_a_library_that_is_not_the_exercise_is_welcome():
    assert library_call("box_iou", honest) is None
    assert library_call("smooth_l1_loss", lambda p, t: F.l1_loss(p, t)) is None
    assert library_call("no_such_exercise", by_attribute) is None


def test_an_operator_below_the_library_is_the_library():
    assert library_call("smooth_l1_loss", lambda p, t: torch.ops.aten.smooth_l1_loss(p, t))
    assert library_call("smooth_l1_loss", lambda p, t: torch._C._nn.huber_loss(p, t))
    assert library_call("smooth_l1_loss", lambda p, t: torch.ops.aten.abs(p - t)) is None


def by_standin(levels):
    from coursekit.standins import linear_scales

    return linear_scales(levels)


def by_earlier(levels):
    from coursekit.earlier import earlier

    return earlier("linear_scales")(levels)


@pytest.mark.parametrize("answer", [by_standin, by_earlier])
def test_the_stand_in_is_no_answer(answer):
    assert library_call("linear_scales", answer).startswith("coursekit.")


def test_library_in_a_class_is_seen():
    class Loss:
        def __call__(self, p, t):
            return F.smooth_l1_loss(p, t)

    assert library_call("smooth_l1_loss", Loss) == "torch.nn.functional.smooth_l1_loss"


@pytest.mark.parametrize("dotted", sorted({dotted for names in LIBRARY.values() for dotted in names}))
def test_refused_library_names_exist(dotted):
    from coursekit.checks import _resolve

    if dotted.startswith("faster_coco_eval"):
        pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed")
    assert _resolve(dotted) is not None, "a name that does not resolve refuses nothing"


def test_checks_import_neither_pyplot_nor_torchvision():
    code = "import sys, coursekit.checks; print([m for m in ('matplotlib', 'torchvision', 'nbformat') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


