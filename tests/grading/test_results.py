"""Results: what did not change is not graded again, a run that ends early goes on, odd names stay in their folders."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autograder import grade as grading
from autograder import gradebook, handin, results
from autograder.grade import GradingError, Job, grade, in_processes, not_graded
from autograder.lessons import ROOT

from .conftest import Graded, changed, grade_class, hand_in, make_class, shared
from .test_gradebook import WRONG, mark_by_hand, with_other_lesson


def files(output):
    """Every file below `output` but the gradebook, with its content."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(Path(output).rglob("*"))
        if path.is_file() and not path.name.startswith("gradebook")
    }


def counted(capsys):
    line = next(line for line in capsys.readouterr().err.splitlines() if "unchanged since" in line)
    return tuple(int(word) for word in line.split() if word.isdigit())


def test_only_what_changed_is_graded_again(course, small, tmp_path, capsys):
    notebooks = {name: changed(small) for name in ("ada", "bob", "cyd")}
    grade_class(course, tmp_path, notebooks)
    assert counted(capsys) == (3, 0)
    before = files(tmp_path)
    grade_class(course, tmp_path, notebooks)
    assert counted(capsys) == (0, 3) and files(tmp_path) == before
    again = grade_class(course, tmp_path, {**notebooks, "bob": changed(small, box_iou=WRONG)})
    assert counted(capsys) == (1, 2) and again.scores("bob") == (2, 0) and again.scores("ada") == (2, 4)
    grade_class(course, tmp_path, {}, force=True)
    assert counted(capsys) == (3, 0)
    grade_class(course, tmp_path, {}, timeout=5.0)
    assert counted(capsys) == (3, 0), "other limits are another environment"


def test_other_checks_are_graded_again(course, small, tmp_path, capsys):
    grade_class(course, tmp_path, {"ada": changed(small)})
    other = with_other_lesson(course, tmp_path / "other", ("49 / 151", "49 / 152"))
    capsys.readouterr()
    again = Graded(grade(other, tmp_path / "submitted", tmp_path, timeout=4.0, run=shared).parent)
    assert counted(capsys) == (1, 0) and again.scores("ada") == (2, 1)
    assert len(list((tmp_path / "results" / "ada").iterdir())) == 1


def test_the_key_follows_all_that_decides_the_marks(course):
    lesson = results.lesson_hash(handin.load_lesson(course / "solutions" / "01_small" / "small.py"))
    first = results.key(lesson, ["ada", b"{}"], results.environment("none", timeout=4.0))
    assert first == results.key(lesson, ["ada", b"{}"], results.environment("none", timeout=4.0))
    others = [
        results.key(lesson + "x", ["ada", b"{}"], results.environment("none", timeout=4.0)),
        results.key(lesson, ["bob", b"{}"], results.environment("none", timeout=4.0)),
        results.key(lesson, ["ad", b"a{}"], results.environment("none", timeout=4.0)),
        results.key(lesson, ["ada", b"{} "], results.environment("none", timeout=4.0)),
        results.key(lesson, ["ada", b"{}"], results.environment("namespaces", timeout=4.0)),
        results.key(lesson, ["ada", b"{}"], results.environment("none", timeout=5.0)),
    ]
    assert first not in others and len(set(others)) == len(others)


SLOW = "import time\ntime.sleep(1)\n"


def start(course, folder):
    command = [
        sys.executable,
        "-m",
        "autograder.cli",
        "grade",
        "--course",
        course,
        "--submitted",
        folder / "submitted",
    ]
    command += ["--output", folder, "-j", "2", "--timeout", "10"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT], ids=lambda one: one.name)
def test_run_that_is_stopped_in_the_middle_goes_on_where_it_was(course, small, tmp_path, stop):
    slow = changed(
        small,
        lambda notebook: make_class.find(notebook, "box_area").update(
            source=SLOW + small.exercises["box_area"].reference
        ),
    )
    for number in range(8):
        hand_in(tmp_path, f"s{number}", slow)
    process = start(course, tmp_path)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "results").glob("*/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, stop) if stop == signal.SIGINT else process.send_signal(stop)
    _, told = process.communicate(timeout=60)
    done = sorted((tmp_path / "results").glob("*/*.json"))
    assert 2 <= len(done) < 8, "it was stopped too late to tell"
    for path in done:
        assert json.loads(path.read_text())["exercises"]["box_area"]["score"] == 2  # whole
    if stop == signal.SIGINT:
        assert process.returncode == 130 and "The same command goes on" in told and "Traceback" not in told
    times = {path: path.stat().st_mtime_ns for path in done}
    process = start(course, tmp_path)
    out, told = process.communicate(timeout=120)
    assert process.returncode == 0, told
    at_least, graded = len(done), int(told.split(" graded")[0].split()[-1])
    assert graded <= 8 - at_least and {path: path.stat().st_mtime_ns for path in done} == times
    assert {line.split()[2] for line in out.splitlines() if line.startswith("s")} == {"6"}


def test_worker_that_dies_or_hangs_is_replaced_and_its_hand_in_tried_again(
    course, small, tmp_path, monkeypatch
):
    lesson = handin.load_lesson(course / "solutions" / "01_small" / "small.py")
    parent = os.getpid()

    def dies(job, sandbox):
        assert os.getpid() != parent
        tried = tmp_path / job.student
        again = tried.exists()
        tried.write_text(f"{os.getpid()}")
        if job.student == "always" or (job.student == "once" and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        while job.student == "hangs":
            time.sleep(0.1)
        return not_graded(job, f"by {os.getpid()}")

    monkeypatch.setattr(grading, "grade_one", dies)
    monkeypatch.setattr(grading, "PATIENCE", 1.0)
    names = ["a", "once", "b", "always", "c", "hangs", "d", "e", "f"]
    jobs = (Job(name, lesson, name, 0.01, b"") for name in names)
    told = {job.student: result["trouble"] for job, result in in_processes(jobs, 2)}
    assert sorted(told) == sorted(names)
    assert told["always"] == "its grading process ended (exit code -9), 2 times"
    assert told["hangs"] == "its grading process took too long, 2 times"
    workers = {told[name] for name in names if name not in ("always", "hangs")}
    assert all(told.startswith("by ") for told in workers) and len(workers) < 7, "one worker grades many"


def test_worker_whose_check_was_stopped_in_the_middle_grades_no_other_hand_in(course, tmp_path, monkeypatch):
    import torch

    from autograder import judge
    from autograder.remote import Late

    lesson = handin.load_lesson(course / "solutions" / "01_small" / "small.py")

    def stopped(job, sandbox):
        about = f"{os.getpid()} {torch.is_grad_enabled()}"
        if job.student.startswith("busy"):
            with pytest.raises(Late), judge._no_longer_than(0.01):
                torch.set_grad_enabled(False)  # as by a library that is stopped before it puts it back
                while True:
                    pass
            about += f" {torch.is_grad_enabled()}"
        return not_graded(job, about)

    monkeypatch.setattr(grading, "grade_one", stopped)
    names = ["a", "busy 1", "b", "c", "busy 2", "busy 3", "d"]
    jobs = (Job(name, lesson, name, 1.0, b"") for name in names)
    told = {job.student: result["trouble"].split() for job, result in in_processes(jobs, 1)}
    assert all(enabled == "True" for _, *words in told.values() for enabled in words)
    assert [sum(told[name][0] == told[other][0] for other in names) for name in names] == [2, 2, 3, 3, 3, 1, 1]


def test_progress_tells_rate_and_time_left_where_no_terminal_shows_a_bar(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))  # seconds: each look at the clock is 6 later
    monkeypatch.setattr(grading.time, "monotonic", lambda: float(next(clock)))
    with grading._Progress(40, every=1.0) as progress:
        progress.update(graded=False)
        progress.update(graded=True)
    told = capsys.readouterr().err.splitlines()
    assert (
        told[0] == "autograder: 1 of 40 hand-ins"
        and told[-1] == "autograder: 1 graded, 1 unchanged since they were graded"
    )
    assert re.fullmatch(r"autograder: 2 of 40 hand-ins, \d+ a minute, \d+:\d\d left", told[1])


def test_unsafe_is_told_loudly(course, small, tmp_path, capsys):
    grade_class(course, tmp_path, {"ada": changed(small)}, run=None, unsafe=True)
    assert "--unsafe: students' code is NOT isolated" in capsys.readouterr().err
    assert (
        "Graded without isolation (--unsafe):</strong> in 1 of 1 hand-ins"
        in (tmp_path / "report.html").read_text()
    )


def test_hand_in_with_huge_outputs_is_graded(course, small, tmp_path):
    def pictures(notebook):
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [{"output_type": "stream", "name": "stdout", "text": "A" * 10**7}]

    graded = grade_class(course, tmp_path, {"ada": changed(small, pictures), "bob": changed(small)})
    assert graded.scores("ada") == (2, 4) and "its outputs were not read" in graded.marks("ada")["notes"]
    assert max(path.stat().st_size for path in tmp_path.rglob("autograded/ada/*/*")) < 100_000


def test_results_that_are_spoilt_are_graded_again_or_noted(course, small, tmp_path, capsys):
    grade_class(course, tmp_path, {"ada": changed(small), "bob": changed(small), "cyd": changed(small)})
    [ada], [bob] = (list((tmp_path / "results" / student).iterdir()) for student in ("ada", "bob"))
    ada.write_text(ada.read_text()[:100])
    bob_key = bob.name.split(".")[1]
    (tmp_path / "results" / "bob" / "01_small.copy.json").write_text("[]")
    (tmp_path / "results" / "cyd" / bob.name.replace(bob_key, "f" * 32)).write_text(bob.read_text())
    capsys.readouterr()
    again = grade_class(course, tmp_path, {})
    assert counted(capsys) == (1, 2) and again.scores("ada") == again.scores("bob") == (2, 4)
    report = (tmp_path / "report.html").read_text()
    assert (
        "bob/01_small.copy.json: no result" in report
        and "where another hand-in&#39;s result belongs" in report
    )


NAMES = [
    "-rf", "~", "$HOME", "a b", "名前", "😀", "new\nline", "tab\tstop", "quote'\"`", "a" * 200,
    "\u202eevil\u202c", "<b>", "%2e%2e", "a\\b", "*", "?", "=1+1", "{{ 7 * 7 }}", "a;DROP TABLE grade", "CON", "\u00e9", "e\u0301", "a..",
]  # fmt: skip


def test_odd_names_of_students_stay_in_their_folders(course, small, tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    hand_in(folder, "...", small.release)
    graded = grade_class(course, folder, {name: small.release for name in NAMES})
    assert os.listdir(tmp_path) == ["inside"]
    for kind in ("results", "autograded", "feedback"):
        assert sorted(os.listdir(folder / kind)) == sorted(NAMES), kind
    for name in NAMES:
        assert "feedback for" in graded.page(name)
    report = (folder / "report.html").read_text()
    assert "<b>" not in report and "{{ 7 * 7 }}" in report and "...: a name that begins with a dot" in report
    gradebook_rows = sqlite3.connect(folder / "gradebook.db").execute("SELECT id FROM student").fetchall()
    assert sorted(name for (name,) in gradebook_rows) == sorted(NAMES)


def test_links_in_place_of_folders_are_left_out_with_a_note(course, small, tmp_path, capsys):
    hand_in(tmp_path, "ada", changed(small))
    (tmp_path / "submitted" / "bob").symlink_to(tmp_path / "submitted" / "ada")
    (tmp_path / "submitted" / "cyd").mkdir()
    (tmp_path / "submitted" / "cyd" / "01_small").symlink_to(course / "solutions" / "01_small")
    grade_class(course, tmp_path, {})
    report = (tmp_path / "report.html").read_text()
    assert (
        "bob: is a link to a folder; left out" in report and "cyd/01_small: is a link to a folder" in report
    )
    assert os.listdir(tmp_path / "results") == ["ada"]


# The gradebook


def test_gradebook_changes_as_a_whole_or_not_at_all(course, small, tmp_path, monkeypatch):
    grade_class(course, tmp_path, {"ada": changed(small)})
    before = dump(tmp_path)
    monkeypatch.setattr(gradebook, "_marks", lambda *_: 1 / 0)  # the last step
    with pytest.raises(ZeroDivisionError):
        grade_class(course, tmp_path, {"ada": changed(small, box_iou=WRONG), "bob": changed(small)})
    assert dump(tmp_path) == before
    monkeypatch.undo()
    assert grade_class(course, tmp_path, {}).scores("ada") == (2, 0)
    assert dump(tmp_path) != before


def dump(output):
    connection = sqlite3.connect(output / "gradebook.db")
    try:
        return sorted(connection.iterdump())
    finally:
        connection.close()


def test_gradebook_in_use_is_waited_for_then_told(course, small, tmp_path, monkeypatch):
    grade_class(course, tmp_path, {"ada": changed(small)})
    monkeypatch.setattr(gradebook, "WAIT", 1)
    monkeypatch.setattr(gradebook, "fits", lambda *_: None)  # in use only after all was graded
    other = sqlite3.connect(tmp_path / "gradebook.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(GradingError, match="in use by another program .formgrader.*kept in results/"):
        grade_class(course, tmp_path, {"ada": changed(small, box_iou=WRONG)})
    other.execute("ROLLBACK")
    assert grade_class(course, tmp_path, {}).scores("ada") == (2, 0)


def answered(small, text):
    return changed(small, lambda notebook: make_class.find(notebook, "why").update(source=text))


def waits(output, student):
    with sqlite3.connect(output / "gradebook.db") as connection:
        query = """SELECT needs_manual_grade FROM grade JOIN base_cell ON base_cell.id = cell_id
            JOIN submitted_notebook ON submitted_notebook.id = grade.notebook_id
            JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
            WHERE student_id = ? AND base_cell.name = 'why'"""
        return bool(connection.execute(query, (student,)).fetchone()[0])


def test_mark_by_hand_is_looked_at_again_only_where_its_answer_changed(course, small, tmp_path):
    graded = grade_class(course, tmp_path, {"ada": answered(small, "One."), "bob": answered(small, "Two.")})
    assert waits(tmp_path, "ada")
    mark_by_hand(graded, "ada", "why", 3, "good")
    mark_by_hand(graded, "bob", "why", 1, "hm")
    ada = answered(small, "One.")
    make_class.find(ada, "box_iou").source = WRONG
    again = grade_class(course, tmp_path, {"ada": ada, "bob": answered(small, "Better.")})
    assert again.marks("ada")["why"] == "3" and not waits(tmp_path, "ada")
    assert again.marks("bob")["why"] == "1" and waits(tmp_path, "bob")


def test_gradebook_that_was_deleted_is_made_again_from_results(course, small, tmp_path, capsys):
    grade_class(course, tmp_path, {"ada": changed(small)})
    (tmp_path / "gradebook.db").unlink()
    capsys.readouterr()
    again = grade_class(course, tmp_path, {})
    assert counted(capsys) == (0, 1) and again.scores("ada") == (2, 4)


def test_gradebook_that_is_none_is_told_before_grading(course, small, tmp_path):
    hand_in(tmp_path, "ada", changed(small))
    (tmp_path / "gradebook.db").write_text("a letter to the editor, of more than a hundred characters " * 3)
    with pytest.raises(GradingError, match="gradebook.db is no gradebook .*move it away"):
        grade_class(course, tmp_path, {})
    assert not (tmp_path / "results").exists()
