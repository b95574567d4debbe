"""Hand-ins that cheat or harm, and honest ones that look like it: each gets its mark, and nothing else is touched."""

import re

import pytest

from .conftest import BLANK, FAMILIES, RIGHT

EVERY = [(family, attack) for family, attacks in FAMILIES.items() for attack in attacks]
each_attack = pytest.mark.parametrize(
    "family, attack", EVERY, ids=[f"{family}-{attack.student}" for family, attack in EVERY]
)
each_family = pytest.mark.parametrize("family", FAMILIES)


@each_attack
def test_mark(run_of, family, attack):
    run = run_of(family)
    if attack.left_out:
        assert attack.student not in run.students() and attack.left_out in run.report()
        return
    points, expected = run.points(attack.student), attack.expected
    for name in attack.unsure:
        points.pop(name), expected.pop(name)
    assert points == expected, (attack.why, run.page(attack.student)[-6000:])


@each_attack
def test_it_ran_and_reached_nothing(run_of, family, attack):
    page = run_of(family).page(attack.student) if not attack.left_out else ""
    assert "ESCAPED" not in page, attack.why
    if attack.trace:
        assert re.search(attack.trace, page), (attack.trace, page[-6000:])


@each_attack
def test_honest_hand_ins_are_not_accused(run_of, family, attack):
    if attack.honest and attack.notes is not None:
        assert run_of(family).marks(attack.student)["notes"] == attack.notes


@each_family
def test_bystanders_get_their_marks(run_of, family):
    run = run_of(family)
    assert {student: run.points(student) for student in RIGHT} == dict.fromkeys(RIGHT, run.every)
    assert {student: run.points(student) for student in BLANK} == dict.fromkeys(
        BLANK, dict.fromkeys(run.every, 0)
    )
    assert [run.marks(student)["notes"] for student in RIGHT + BLANK] == [""] * 6


@each_family
def test_the_batch_ends_well(run_of, family):
    run = run_of(family)
    assert run.status == 0, run.told[-3000:]
    assert "Traceback" not in run.told
    assert len(run.told) < 200_000


@each_family
def test_no_hand_in_takes_much_longer_than_it_may(run_of, family):
    """A hand-in may take four times the limit of a cell, and what the judge does with it about as much."""
    run = run_of(family)
    late = {student: seconds for student, seconds in run.times().items() if seconds > 8 * run.limit + 4}
    assert not late


@each_family
def test_nothing_is_touched(run_of, family):
    run = run_of(family)
    changed = {
        path for path in run.before.keys() | run.after.keys() if run.before.get(path) != run.after.get(path)
    }
    assert not changed and not run.litter


@each_family
def test_nothing_goes_on_running(run_of, family):
    assert run_of(family).left_running == []


@each_family
def test_no_server_is_reached_and_none_is_opened(run_of, family):
    listener = run_of(family).places.listener
    assert listener.heard == [] and not listener.opened


@each_family
def test_pages_are_safe_and_small(run_of, family):
    run = run_of(family)
    pages = [path for path in run.files() if path.suffix == ".html"]
    assert len(pages) >= len(FAMILIES[family])
    for path in pages:
        text = path.read_text(encoding="utf-8").lower()
        assert "<script" not in text and "<img" not in text and "javascript:" not in text, path
        assert "wolverine" not in text, path
        assert len(text) < (300_000 if path.name == "report.html" else 60_000), path


@each_family
def test_output_is_of_sane_size(run_of, family):
    large = {
        str(path): path.stat().st_size for path in run_of(family).files() if path.stat().st_size > 8_000_000
    }
    assert not large


@each_family
def test_grading_takes_bounded_memory(run_of, family):
    assert run_of(family).peak < 3 * 2**30


def test_there_are_many_attacks():
    hostile = [attack for _, attack in EVERY if not attack.honest]
    assert len(hostile) >= 80 and len(EVERY) - len(hostile) >= 40
    names = [(family, attack.student) for family, attack in EVERY]
    assert len(set(names)) == len(names) and all(attack.why for _, attack in EVERY)
