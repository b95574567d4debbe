"""Every named mistake fails its exercise's checks, and the verdict names it."""

import pytest

from autograder.judge import judge_source
from autograder.lessons import all_exercises
from autograder.mistakes import MISTAKES
from coursekit.checks import known_mistakes

CASES = [(exercise, mistake) for exercise, mistakes in MISTAKES.items() for mistake in mistakes]


@pytest.mark.parametrize("name, mistake", CASES, ids=[f"{name}-{mistake.name}" for name, mistake in CASES])
def test_mistake_fails_and_is_named(name, mistake):
    exercise = all_exercises()[name]
    verdict = judge_source(exercise, mistake.apply(exercise.reference), mistake.name)
    assert not verdict.passed, f"the checks of {name} let {mistake.name!r} pass"
    assert verdict.mistake == mistake.name, verdict.as_json()


@pytest.mark.parametrize("name", all_exercises())
def test_exercise_has_named_mistakes(name):
    assert MISTAKES.get(name), f"no mistake is named for {name}"
    names = [mistake.name for mistake in MISTAKES[name]]
    assert len(set(names)) == len(names)
    assert set(names) == {row["name"] for row in known_mistakes().get(name, [])}, "run `autograder build`"


def test_mistakes_belong_to_exercises():
    assert set(MISTAKES) <= set(all_exercises())
