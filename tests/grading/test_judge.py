"""`autograder judge` from the shell: what it prints, how it exits, what it survives."""

import json

import pytest

from autograder.cli import main
from autograder.judge import judge_source
from autograder.lessons import Check, Exercise

SETUP = "from coursekit.checks import check, passed, raises, same, untouched"

RIGHT = """
def box_area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
"""


class Shared:
    """What `autograder judge` takes for a sandbox of its own is one for all tests: to open one takes seconds."""

    def __init__(self, sandbox):
        self.open, self.start = sandbox.open, sandbox.start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def judge(tmp_path, capsys, monkeypatch, shared_sandbox, isolated):
    monkeypatch.setattr("autograder.sandbox.Sandbox", lambda **_: Shared(shared_sandbox.sandbox))

    def run(*sources, exercise="box_area", options=()):
        files = []
        for number, source in enumerate(sources):
            files.append(tmp_path / f"answer{number}.py")
            files[-1].write_text(source)
        code = main(["judge", exercise, *map(str, files), *options])
        told = capsys.readouterr()
        return code, [json.loads(line) for line in told.out.splitlines()], told.err

    return run


def test_the_command_opens_a_sandbox_of_its_own(tmp_path, capfd, isolated):
    (tmp_path / "answer.py").write_text("import os\n" + RIGHT.replace("    return", "    assert not os.listdir('.')\n    return"))
    assert main(["judge", "box_area", str(tmp_path / "answer.py")]) == 0
    assert json.loads(capfd.readouterr().out)["passed"]


def test_right_answer_gets_all_points(judge):
    code, [verdict], _ = judge(RIGHT)
    assert code == 0 and verdict["passed"] and verdict["score"] == verdict["points"] > 0
    assert verdict["exercise"] == "box_area" and verdict["mistake"] is None
    assert verdict["visible"] == verdict["hidden"] == {"passed": True, "message": ""}


def test_one_line_a_file_in_the_order_given(judge):
    code, verdicts, _ = judge(RIGHT, RIGHT.replace("2] -", "2] +"), RIGHT)
    assert code == 0 and [verdict["passed"] for verdict in verdicts] == [True, False, True]
    assert [verdict["file"][-4:] for verdict in verdicts] == ["0.py", "1.py", "2.py"]


@pytest.mark.parametrize(
    "source, words",
    [
        ("def box_area(boxes):\n    while True:\n        pass", "a call was not done after 1.5 s"),
        ("def box_area(boxes):\n    try:\n        while True: pass\n    except BaseException:\n        while True: pass", "not done"),
        ("import os\ndef box_area(boxes):\n    os._exit(0)", "the process ended (exit code 0)"),
        ("import ctypes\nctypes.string_at(0)", "the process ended (signal 11"),
        ("def box_area(boxes:\n    return", "SyntaxError"),
        ("def area(boxes):\n    return", "box_area is not defined"),
        ("import no_such_module", "ModuleNotFoundError"),
        ("def box_area(boxes):\n    raise SystemExit", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("def box_area(boxes):\n    return box_area(boxes)", "RecursionError"),
        ("box_area = 3", "TypeError"),
        ("x = 1\n" * 400_000 + RIGHT, "characters, at most 200000 are read"),
    ],
)
def test_trouble_is_told_and_stops_nobody_else(judge, source, words):
    code, [verdict, right], _ = judge(source, RIGHT, options=["--timeout", "3"])
    assert code == 0 and right["passed"]
    assert not verdict["passed"] and verdict["score"] == 0
    assert words in verdict["visible"]["message"]


def test_prints_of_an_answer_do_not_reach_the_output(judge):
    code, [verdict], _ = judge("print('{}')\n" + RIGHT + "    print('x')\n")
    assert code == 0 and verdict["passed"]


def test_unknown_exercise_is_an_error_with_a_suggestion(judge):
    code, verdicts, told = judge(RIGHT, exercise="box_aera")
    assert code == 2 and verdicts == [] and "did you mean box_area?" in told


def test_unreadable_file_is_an_error(tmp_path, capsys):
    assert main(["judge", "box_area", str(tmp_path / "none.py")]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_list_has_every_exercise(capsys):
    from autograder.lessons import all_exercises

    assert main(["judge", "--list"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["exercise"] for row in rows] == list(all_exercises())
    assert all(set(row) == {"exercise", "lesson", "points"} and row["points"] > 0 for row in rows)


MUTATES = """
def box_area(boxes):
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    boxes[:, 0] = 0
    return areas
"""


def test_a_changed_argument_is_told_as_such_and_does_not_disturb_the_next_check(judge):
    _, [verdict], _ = judge(MUTATES)
    assert not verdict["passed"]
    for part in (verdict["visible"], verdict["hidden"]):
        assert "argument 1 changed during the call" in part["message"]


def test_an_exception_in_a_hidden_check_says_in_which_case(judge):
    empty = RIGHT.replace("    return", "    boxes[0]\n    return")
    _, [verdict], _ = judge(empty)
    assert verdict["visible"]["passed"] and "IndexError" in verdict["hidden"]["message"]
    assert ", in the case: " in verdict["hidden"]["message"]


def test_a_mistake_is_named_by_all_checks_together_or_not_at_all(judge):
    """Ones everywhere share a value or two with some named mistake; they are not it."""
    _, [verdict], _ = judge("import torch\ndef box_iou(a, b):\n    return a.new_ones(len(a), len(b))", exercise="box_iou")
    assert verdict["mistake"] is None
    assert "known mistake" not in verdict["visible"]["message"] + verdict["hidden"]["message"]


def test_a_case_in_a_loop_is_told_with_its_values():
    source = 'for n in (2, 1):\n    same(half(n), 0.5, f"the number {n}")'
    exercise = Exercise("half", "01_small", "", setup=SETUP, checks=[Check("test_half", 1, source)])
    verdict = judge_source(exercise, "def half(n):\n    return 0.5 / (n - 1)")
    assert verdict.visible["message"] == "ZeroDivisionError: float division by zero, in the case: the number 1"


def test_a_loop_that_fails_before_its_first_turn_is_told_with_the_names_of_its_values():
    source = 'for n in [*half(2)]:\n    same(n, 0.5, f"the number {n + 1}")'
    exercise = Exercise("half", "01_small", "", setup=SETUP, checks=[Check("test_half", 1, source)])
    verdict = judge_source(exercise, "def half(n):\n    return 1 / 0")
    assert verdict.visible["message"] == "ZeroDivisionError: division by zero, in the case: the number n + 1"


def test_a_scripted_answer_passes(judge):
    _, [verdict], _ = judge("import torch\n@torch.jit.script" + RIGHT)
    assert verdict["passed"], verdict
