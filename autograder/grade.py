"""submitted/STUDENT/NN_topic/topic.ipynb -> autograded notebooks, gradebook, feedback, marks and a report.

A hand-in has a grading process of its own, which restores its cells (`handin`) and watches a second one in
which the student's code runs. What hangs or dies there costs the exercise it happened in: the process is
ended, forked anew, and goes on behind it. Only the parent writes to nbgrader's gradebook.
"""

import collections
import contextlib
import json
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from . import handin
from .judge import Verdict, _grading, _warm, judge_function, refused
from .lessons import ROOT, sources
from .pages import write_text

COURSE = "object-detection"  # as in nbgrader_config.py
BUDGET = 10  # a hand-in may take so many times the limit of one exercise


class GradingError(ValueError):
    """Grading cannot begin; says what was found and what is expected."""


@dataclass(frozen=True)
class Job:
    """One hand-in: where it lies and where its results go."""

    student: str
    lesson: handin.Lesson
    folder: Path
    output: Path
    timeout: float

    @property
    def notebook(self):
        return self.folder / f"{self.lesson.topic}.ipynb"

    @property
    def result(self):
        return self.output / "results" / self.student / f"{self.lesson.name}.json"

    @property
    def autograded(self):
        return self.output / "autograded" / self.student / self.lesson.name / self.notebook.name


def grade(root=ROOT, submitted=None, output=None, *, lessons=(), students=(), processes=None, timeout=30.0):
    """Grade the hand-ins of `submitted` and write everything to `output`; the path of the report.

    Args:
        root (path): the course, with `solutions/`.
        submitted, output (path): `ROOT/submitted` and `ROOT` unless given.
        lessons, students: names; all unless given.
        processes (int): hand-ins graded at a time; one a core unless given.
        timeout (float): seconds for a cell, or for an exercise's checks; a hand-in has ten times that.

    Raises:
        GradingError: when there is nothing to grade, or a name is unknown.
    """
    from tqdm import tqdm

    from . import pages

    root = Path(root).resolve()
    submitted = Path(submitted or root / "submitted").resolve()
    output = Path(output or root).resolve()
    known = {path.parent.name: path for path in sources(root)}
    found, left_out = _find(submitted, known, lessons, students)
    loaded = {name: handin.load_lesson(known[name]) for name in sorted({lesson for _, lesson in found})}
    jobs = [
        Job(student, loaded[lesson], submitted / student / lesson, output, timeout)
        for student, lesson in found
    ]
    output.mkdir(parents=True, exist_ok=True)
    with _gradebook(output) as gradebook:
        for lesson in loaded.values():
            _register(gradebook, lesson)
        # disable=None: no bar where nobody watches
        with tqdm(total=len(jobs), unit="hand-in", disable=None) as bar:
            for job in _in_parallel(jobs, processes or os.cpu_count() or 1):
                _fold(gradebook, job)
                bar.update()
        for lesson in known.keys() - loaded.keys():  # graded before: they stay in the report
            if (output / "results").is_dir() and any((output / "results").glob(f"*/{lesson}.json")):
                loaded[lesson] = handin.load_lesson(known[lesson])
        return pages.write(output, gradebook, loaded, left_out)


def _find(submitted, known, lessons, students):
    """`(student, lesson)` of every hand-in, and notes on what is no hand-in."""
    if not submitted.is_dir():
        raise GradingError(f"no folder {submitted}; expected {submitted.name}/STUDENT/NN_topic/topic.ipynb")
    present = sorted(
        folder.name for folder in submitted.iterdir() if folder.is_dir() and not folder.name.startswith(".")
    )
    for name, names, what in [(n, known, "lesson") for n in lessons] + [
        (n, present, "student") for n in students
    ]:
        if name not in names:
            raise GradingError(f"no {what} {name!r}; there are {', '.join(sorted(names)) or 'none'}")
    found, left_out = [], []
    for student in present:
        if students and student not in students:
            continue
        if not _writable(student):
            left_out.append(
                f"{ascii(student)}: the name of this folder is not UTF-8; rename it and grade again"
            )
            continue
        for folder in sorted((submitted / student).iterdir()):
            if folder.name in known and folder.is_dir():
                if not lessons or folder.name in lessons:
                    found.append((student, folder.name))
            elif not folder.name.startswith("."):
                name = folder.name if _writable(folder.name) else ascii(folder.name)
                left_out.append(f"{student}/{name}: no lesson of the course has this name; left out")
    for note in left_out:
        print(f"autograder: {note}", file=sys.stderr)
    if not found:
        raise GradingError(
            f"no hand-in in {submitted}; expected {submitted.name}/STUDENT/NN_topic/topic.ipynb"
        )
    return found, left_out


def _writable(name):
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


def _gradebook(output):
    from nbgrader.api import Gradebook

    url, before = f"sqlite:///{output / 'gradebook.db'}", os.environ.get("PATH", "")
    # nbgrader calls `alembic` by its name, which stands beside this Python, activated or not.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        return Gradebook(url, COURSE)
    finally:
        os.environ["PATH"] = before


def _resources(gradebook, lesson, student=""):
    names = {
        "notebook": lesson.topic,
        "assignment": lesson.name,
        "student": student,
        "db_url": str(gradebook.engine.url),
    }
    return {"nbgrader": names}


def _register(gradebook, lesson):
    """Tell nbgrader's gradebook the lesson's cells and points, as `nbgrader generate_assignment` does."""
    import nbformat
    from nbgrader.preprocessors import SaveCells

    gradebook.update_or_create_assignment(lesson.name)
    notebook = nbformat.v4.new_notebook(cells=lesson.cells, metadata=lesson.metadata)
    try:
        SaveCells().preprocess(notebook, _resources(gradebook, lesson))
    except RuntimeError as error:
        raise GradingError(
            f"{lesson.name} has other graded cells than when it was first graded ({error}); grade into a new "
            f"--output, or take the lesson out of the gradebook: nbgrader db assignment remove {lesson.name}"
        ) from None


def _fold(gradebook, job):
    """Save one hand-in's scores as nbgrader's autograde does: a manual score that is there stays."""
    import nbformat
    from nbgrader.preprocessors import SaveAutoGrades
    from nbgrader.utils import parse_utc

    lesson, submission = job.lesson, {}
    gradebook.update_or_create_student(job.student)
    with contextlib.suppress(OSError, ValueError, OverflowError):  # none, or not a time
        submission["timestamp"] = parse_utc((job.folder / "timestamp.txt").read_text().strip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbgrader's own way with SQLAlchemy
        gradebook.update_or_create_submission(lesson.name, job.student, **submission)
    notebook = nbformat.read(job.autograded, as_version=4)
    save = SaveAutoGrades()
    save.gradebook, save.student_id = gradebook, job.student
    save.notebook_id, save.assignment_id = lesson.topic, lesson.name
    for number, cell in enumerate(notebook.cells):
        save.preprocess_cell(cell, _resources(gradebook, lesson, job.student), number)


def _in_parallel(jobs, processes):
    """Grade each job in a process of its own, at most `processes` at a time; yield each when done."""
    _warm_up()
    context = _context()
    waiting, running = collections.deque(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                job = waiting.popleft()
                job.result.unlink(missing_ok=True)
                process = context.Process(target=_grade_one, args=(job,))
                process.start()
                running[process.sentinel] = process, job, time.monotonic() + (BUDGET + 1) * job.timeout + 60
            for sentinel in multiprocessing.connection.wait(list(running), timeout=1.0):
                process, job, _ = running.pop(sentinel)
                process.join()
                if not job.result.exists():
                    trouble = f"its grading process ended (exit code {process.exitcode})"
                    _record(job, handin.nothing(job.lesson), {}, trouble)
                yield job
            for process, _, latest in running.values():
                if time.monotonic() > latest:
                    process.kill()
    finally:
        for process, _, _ in running.values():
            process.terminate()


def _context():
    return multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


def _warm_up():
    """Import once, before the forks, what every hand-in needs."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    _warm()
    import IPython.core.interactiveshell  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import nbformat  # noqa: F401


def _grade_one(job):
    """The grading process of one hand-in."""
    started = time.monotonic()
    trouble, verdicts = None, {}
    try:
        hand_in = handin.restore(job.lesson, handin.read(job.notebook))
    except handin.Unreadable as error:
        trouble, hand_in = str(error), handin.nothing(job.lesson)
    else:
        own = (job.notebook.name, "timestamp.txt")
        names = sorted(path.name for path in job.folder.iterdir())
        if extra := [name for name in names if name not in own and not name.startswith(".")]:
            hand_in.findings.append(f"files beside the notebook, ignored: {', '.join(extra[:5])}")
        verdicts = judge_hand_in(job.lesson, hand_in, job.timeout)
    _record(job, hand_in, verdicts, trouble, time.monotonic() - started)


def _record(job, hand_in, verdicts, trouble=None, seconds=0.0):
    """Write the graded notebook and then the result, each whole or not at all."""
    import nbformat

    outcomes, exercises = {}, {}
    for name, exercise in job.lesson.exercises.items():
        verdict = verdicts.get(name) or refused(exercise, trouble or "not graded")
        exercises[name] = asdict(verdict)
        for check in exercise.checks:  # a refused answer has no parts
            outcomes[check.grade_id] = verdict.parts.get(check.grade_id, verdict.visible["message"])
    write_text(job.autograded, nbformat.writes(handin.graded_notebook(job.lesson, hand_in, outcomes)))
    result = {
        "student": job.student,
        "lesson": job.lesson.name,
        "trouble": trouble,
        "findings": hand_in.findings,
        "seconds": round(seconds, 2),
        "exercises": exercises,
    }
    write_text(job.result, json.dumps(result, indent=1) + "\n")


def judge_hand_in(lesson, hand_in, timeout=30.0):
    """The verdict on each exercise of a restored hand-in; adds to its findings.

    The student's code runs in a process of its own. One that hangs or ends is replaced: the new one runs the
    same cells again (of a cell that did it harm only the definitions), leaves out what was judged, and goes
    on.
    """
    steps = handin.plan(lesson, hand_in)
    verdicts, deaths = {}, collections.Counter()
    latest = time.monotonic() + BUDGET * timeout
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        while True:
            step, reason = _student_process(lesson, steps, deaths, verdicts, folder, timeout, latest)
            if reason is None:
                return verdicts
            late = f"not reached: the hand-in had used its {BUDGET * timeout:g} s"
            if step is None:
                late = f"the lesson's setup did not run: {reason}"
            else:
                deaths[step] += 1
                name = steps[step].name
                if steps[step].judge:
                    verdicts[name] = refused(lesson.exercises[name], reason)
                elif deaths[step] == 1:
                    hand_in.findings.append(
                        f"the cell {name or 'added by the student'} was not run to its end: {reason}"
                    )
            if step is None or time.monotonic() > latest:
                for name, exercise in lesson.exercises.items():
                    verdicts.setdefault(name, refused(exercise, late))
                return verdicts


def _student_process(lesson, steps, deaths, verdicts, folder, timeout, latest):
    """Run the steps in a new process, collect verdicts: `(None, None)`, or the step that failed and why."""
    ours, theirs = _context().Pipe(duplex=False)
    process = _context().Process(
        target=_student, args=(theirs, lesson, steps, dict(deaths), list(verdicts), folder)
    )
    process.start()
    theirs.close()
    step = None
    try:
        while True:
            if not ours.poll(max(0.0, min(timeout, latest - time.monotonic()))):
                return step, f"not done after {timeout:g} s: is there a loop that never ends?"
            message = json.loads(ours.recv_bytes())
            if message == "done":
                return None, None
            if isinstance(message, int):
                step = message
            else:
                verdicts[message["exercise"]] = Verdict(**message)
    except (EOFError, OSError):
        process.join(5)
        return step, f"the process ended (exit code {process.exitcode}) in the middle"
    finally:
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        ours.close()


def _student(pipe, lesson, steps, deaths, judged, folder):
    """The student's process: runs the cells in one namespace, in order; judges each exercise at its check."""
    if hasattr(os, "setsid"):
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.chdir(folder)
    # fit() trains nothing, earlier() gives the library's, IPython's files go with the folder.
    os.environ.update(
        NBGRADER_EXECUTION="autograde", COURSEKIT_GRADING="1", IPYTHONDIR=folder, MPLBACKEND="Agg"
    )
    _warm()
    shell = _shell()
    names, trouble = shell.user_ns, {}
    setup = next(iter(lesson.exercises.values())).setup if lesson.exercises else ""
    with _grading():
        exec(compile(setup, f"{lesson.name}: setup", "exec"), names)
    for number, step in enumerate(steps):
        pipe.send_bytes(json.dumps(number).encode())
        if not step.judge:
            error = _run(shell, step.source, deaths.get(number, 0))
            if error:
                trouble[step.name] = error
            continue
        exercise = lesson.exercises[step.name]
        if step.name not in judged:
            if step.name in names:
                verdict = judge_function(exercise, names[step.name])
            else:
                verdict = refused(exercise, trouble.get(step.name, f"{step.name} is not defined"))
            pipe.send_bytes(json.dumps(asdict(verdict)).encode())
        if number in deaths or step.name not in names:
            _stand_in(step.name, names)
    pipe.send_bytes(json.dumps("done").encode())
    pipe.close()


def _shell():
    """IPython as in a notebook, so that magics work; without history, and without the system's shell."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.user_ns["__name__"] = "__main__"
    shell.system = shell.getoutput = lambda *_, **__: None
    return shell


def _run(shell, source, deaths):
    """Run one cell; its error in words, or None. After a death its definitions only, after two nothing."""
    if deaths > 1:
        return "the cell was not run to its end"
    result = shell.run_cell(handin.definitions(source) if deaths else source, silent=True)
    error = result.error_before_exec or result.error_in_exec
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}, line {error.lineno} of the cell"
    return f"{type(error).__name__}: {error}" if error is not None else None


def _stand_in(name, names):
    """What is not defined or never comes back costs its own marks: those after it get the library's."""
    from coursekit.standins import STANDINS

    if name in STANDINS:
        names[name] = STANDINS[name]
    else:
        names.pop(name, None)


def sample(root=ROOT):
    """Make the bundled sample class in `build/class`; the folder."""
    import runpy

    made = Path(root) / "build" / "class"
    runpy.run_path(str(Path(root) / "tests" / "class" / "make_class.py"))["make"](made, root)
    return made
