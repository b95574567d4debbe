"""What the judge says of an answer behind the wire is what it says of it in one process."""

import importlib
import inspect

import pytest

from autograder.judge import judge_answer, judge_source, warm
from autograder.lessons import all_exercises
from autograder.mistakes import MISTAKES
from autograder.sandbox import Sandbox, SandboxError

from .test_answers import FORMS

EXERCISES = all_exercises()


@pytest.fixture(scope="module")
def sandbox():
    try:
        with Sandbox() as one:
            one.open()
            warm()
            yield one
    except SandboxError as error:
        pytest.skip(f"no sandbox here: {error}")


@pytest.mark.parametrize("name, form, answer", FORMS, ids=[form for _, form, _ in FORMS])
def test_other_form_passes(sandbox, name, form, answer):
    module = inspect.getsource(importlib.import_module(answer.__module__))
    verdict = judge_answer(EXERCISES[name], f"{module}\n{name} = {form}\n", sandbox)
    assert verdict.passed, (verdict.visible, verdict.hidden)


@pytest.mark.parametrize("name", EXERCISES)
def test_verdicts_are_those_of_one_process(sandbox, name):
    """Of the reference and of a few named mistakes: marks, messages and names."""
    exercise = EXERCISES[name]
    sources = [mistake.apply(exercise.reference) for mistake in MISTAKES[name]]
    for source in [exercise.reference, *sources[:: 1 + len(sources) // 4]]:
        here, there = judge_source(exercise, source), judge_answer(exercise, source, sandbox)
        assert (there.score, there.visible, there.hidden) == (here.score, here.visible, here.hidden)
        assert there.mistake == here.mistake
