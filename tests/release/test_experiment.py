"""Long experiments: resumed, written whole, and the committed ones belong to the lessons' cells of today."""

import json
import math

import pytest

from autograder.experiment import RESULTS, digest_of, experiment_cells, run_experiment
from autograder.lessons import ROOT, LessonError, sources
from coursekit import results

LESSON = '''
# %% setup=true
calls = []

# %% exercise="double"
def double(x):
    """Twice x."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% check="double" points=1
raise AssertionError("no check cell is run")

# %%
raise AssertionError("no ordinary cell is run")

# %% tags=["experiment"]
FORMS = ["small", "large"]

def experiment(form, seed):
    calls.append(form)
    return {"AP": double(seed) + (10 if form == "large" else 0), "calls": len(calls)}

# %% tags=["experiment-bug"]
BUG_FORMS = ["repaired"]

def bug_experiment(form, seed):
    return {"AP": experiment("large", seed)["AP"] / 2}
'''


@pytest.fixture
def course(tmp_path):
    path = tmp_path / "solutions" / "05_topic" / "topic.py"
    path.parent.mkdir(parents=True)
    path.write_text(LESSON, encoding="utf-8")
    return tmp_path


def run(course, *arguments, **named):
    run_experiment("05_topic", *arguments, root=course, folder=course / "results", **named)
    return results.load("05_topic", course / "results")


def test_setup_exercises_and_tagged_cells_are_run(course):
    found = run(course, [1, 3])
    assert found.forms == ["small", "large"]
    assert found.values("large", "AP") == [12, 16]
    assert (found.mean("large", "AP"), found.spread("large", "AP")) == (14, math.sqrt(8))
    assert found.command == "autograder experiment 05_topic --seeds 1 3"


def test_what_is_there_is_not_run_again(course):
    run(course, [1], ["large"])
    found = run(course, [1, 2])
    assert [(one["form"], one["seed"], one["values"]["calls"]) for one in found.runs] == [
        ("small", 1, 1), ("small", 2, 2), ("large", 1, 1), ("large", 2, 3)
    ]  # fmt: skip


def test_runs_of_other_cells_do_not_count(course):
    run(course, [1])
    path = course / "solutions" / "05_topic" / "topic.py"
    path.write_text(LESSON.replace("+ (10 if", "+ (20 if"), encoding="utf-8")
    assert [(one["form"], one["values"]["AP"]) for one in run(course, [1], ["large"]).runs] == [("large", 22)]


def test_a_change_outside_of_the_experiment_keeps_the_runs(course):
    run(course, [1])
    path = course / "solutions" / "05_topic" / "topic.py"
    path.write_text(LESSON.replace('"""Twice x."""', '"""x + x."""'), encoding="utf-8")
    assert all(one["values"]["calls"] in (1, 2) for one in run(course, [1]).runs)


def test_a_lesson_has_a_second_experiment_in_a_file_of_its_own(course):
    run(course, [1])
    run_experiment("05_topic", [1, 2], part="bug", root=course, folder=course / "results")
    found = results.load("05_topic", course / "results", part="bug")
    assert found.values("repaired", "AP") == [6, 7]
    assert found.command == "autograder experiment 05_topic --part bug --seeds 1 2"
    path = course / "solutions" / "05_topic" / "topic.py"
    path.write_text(LESSON.replace('["AP"] / 2', '["AP"] / 4'), encoding="utf-8")
    run_experiment("05_topic", [1], part="bug", root=course, folder=course / "results")
    assert results.load("05_topic", course / "results", part="bug").values("repaired", "AP") == [3]
    assert run(course, [1]).values("small", "calls") == [1], "the first experiment's runs still count"


@pytest.mark.parametrize(
    "arguments, told",
    [(("06_other", [0]), "06_other"), (("05_topic", [0], ["middle"]), "'small', 'large'")],
    ids=["lesson", "form"],
)
def test_an_unknown_lesson_or_form_is_told(course, arguments, told):
    with pytest.raises(LessonError, match=told):
        run_experiment(*arguments, root=course, folder=course / "results")


def test_a_lesson_without_results_says_what_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="autograder experiment 05_topic"):
        results.load("05_topic", tmp_path)
    with pytest.raises(FileNotFoundError, match="autograder experiment 05_topic --part bug"):
        results.load("05_topic", tmp_path, part="bug")


def test_table_has_mean_and_spread(course):
    text = repr(run(course, [1, 3]).table(["AP"], digits=1))
    assert "14.0 ± 2.8" in text and "autograder experiment 05_topic --seeds 1 3" in text


CELL = """
def loss(model, images, *, weight=0.5):
    '''What it says.'''
    return {"a": [weight * x for x in images if x], "b": f"{model!r:>{3}} {None}"}  # so

fit(loss, steps=3, checkpoint="x")
"""


@pytest.mark.parametrize(
    "old, new, same",
    [("What it says.", "As before.", True), ("    '''What it says.'''\n", "", True), ("  # so", "", True), ('"x"', '"y"', True),
     ("steps=3", "steps=4", False), ("0.5", "0.6", False), ("{3}", "{4}", False), ("None", "0", False), ("if x", "", False),
     ("*, ", "", False)],
)  # fmt: skip
def test_a_digest_changes_with_what_code_does_and_with_nothing_else(old, new, same):
    assert old in CELL
    before, after = (digest_of(source, without=("checkpoint",)) for source in (CELL, CELL.replace(old, new)))
    assert (before == after) == same


def test_a_digest_is_the_same_in_every_version_of_python():
    assert digest_of(CELL) == "7d64cd80bddf"


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda file: file.stem)
def test_committed_results_were_made_by_the_lesson_of_today(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    path = next(path for path in sources(ROOT) if path.parent.name == content["lesson"])
    part = file.stem.removeprefix(content["lesson"]).removeprefix("_") or None
    _, digest = experiment_cells(path, part)
    runs = content["runs"]
    assert runs and {one["code"] for one in runs} == {digest}, f"run `{content['command']}` again"
    seeds = {}
    for one in runs:
        seeds.setdefault(one["form"], []).append(one["seed"])
    assert len(set(map(tuple, seeds.values()))) == 1, f"forms with different seeds: {seeds}"
