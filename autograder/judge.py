"""Runs the visible and hidden checks of exercises against answers.

The checks run here, in the judge's process; an answer of others runs in a student process (`sandbox`, `student`), and
stands here as a proxy that sends tensors and plain data over a wire (`remote`). Only what is trusted, references and
named mistakes, is judged in one process (`judge_source`).
"""

import ast
import collections
import contextlib
import functools
import linecache
import os
import signal
import sys
import threading
import time
import types
from dataclasses import dataclass, field

from coursekit.checks import library_message, refused_names, told, unchanged

from .library import may_reach
from .remote import Died, Gone, Late, Peer
from .student import LibraryCall, definitions, seed

BUDGET = 4  # a hand-in may take so many times the limit of one cell or exercise
LONGEST = 200_000  # characters of a cell: reading more takes the judge's time, which no limit ends


@dataclass
class Verdict:
    """What the checks said of one answer.

    `parts`: for each check cell its first failure or None; `told`: where a visible statement of it failed, the first of
    those; `failures`: fingerprints of the wrong results, in order.
    """

    exercise: str
    points: int
    score: int = 0
    visible: dict = field(default_factory=lambda: {"passed": False, "message": ""})
    hidden: dict = field(default_factory=lambda: {"passed": False, "message": ""})
    mistake: str | None = None
    parts: dict = field(default_factory=dict)
    told: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self):
        return self.visible["passed"] and self.hidden["passed"]

    def as_json(self):
        keys = ("exercise", "points", "score", "passed", "visible", "hidden", "mistake")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Step:
    """Code to run, of exercise `name` or of an added cell (`judge` false), or an exercise to judge."""

    name: str
    source: str = ""
    judge: bool = False


def load_answer(exercise, source, filename="answer"):
    """Run an answer's source in a fresh namespace with the lesson's setup and give the function or class it defines.

    The lesson's other exercises are there too, by their references: an answer may build on them.

    Raises:
        LookupError: if the source does not define the exercise's name. Whatever the source raises passes through.
    """
    # Tracebacks and torch.jit read the source by the file's name
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = {"__name__": "answer"}
    with _grading():
        exec(compile(exercise.setup, f"{exercise.lesson}: setup", "exec"), namespace)
    for sibling, reference in exercise.siblings.items():
        exec(compile(reference, f"{exercise.lesson}: {sibling}", "exec"), namespace)
    exec(compile(source, filename, "exec"), namespace)
    if exercise.name not in namespace:
        raise LookupError(f"{exercise.name} is not defined; the exercise is judged by that name")
    return namespace[exercise.name]


def judge_function(exercise, answer, guard=True):
    """Run every check of `exercise` against `answer` (a function or class), in this process.

    With `guard`, each call of a function is watched: it may neither call the library function that is the exercise
    nor change its arguments. Without, the checks are what a plain notebook has. Each statement of a check runs, also after one that failed, so the verdict has every failure.
    A check cell earns its points when all its statements pass.
    """
    from coursekit.checks import KNOWN

    verdict = Verdict(exercise.name, exercise.points)
    first = {False: None, True: None}
    for check in exercise.checks:
        failed = None
        namespace = {"__name__": "check"}
        with _grading():
            exec(_code(exercise.setup, f"{exercise.lesson}: setup"), namespace)
        namespace[exercise.name] = _guarded(exercise.name, answer) if guard else answer
        broken = set()
        for statement, code, hidden in _compiled(check):
            message = _run(statement, code, namespace, verdict, broken)
            if message is not None:
                failed = message if failed is None else failed
                first[hidden] = first[hidden] or message
                if not hidden:
                    verdict.told.setdefault(check.grade_id, message.split(KNOWN)[0])
        verdict.parts[check.grade_id] = failed
        verdict.score += check.points if failed is None else 0
    for part, hidden in ((verdict.visible, False), (verdict.hidden, True)):
        part.update(passed=first[hidden] is None, message=first[hidden] or "")
    _name_mistake(verdict)
    return verdict


_code = functools.lru_cache(64)(functools.partial(compile, mode="exec"))


@functools.cache
def _compiled(check):
    """Each statement of a check, its code, and whether it is hidden."""
    return [
        (statement, compile(ast.Module([statement], []), check.grade_id, "exec"), hidden)
        for statement, hidden in check.statements()
    ]


def _run(statement, code, namespace, verdict, broken):
    """Execute one statement of a check; the message of its failure, or None."""
    from coursekit.checks import CheckFailed, fingerprint

    try:
        with contextlib.redirect_stdout(_nowhere()):
            exec(code, namespace)
        return None
    except CheckFailed as failure:
        message = failure.message
        if failure.print is not None:
            verdict.failures.append(failure.print)
    except LibraryCall as error:
        message = str(error)
    except NotImplementedError:
        message = f"{verdict.exercise} is not written yet: its cell still raises NotImplementedError"
    except NameError as error:
        if getattr(error, "name", None) in broken:
            return "not reached: it builds on a check that failed before it"
        message = _in_case(statement, told(error), namespace)
    except RecursionError as error:
        message = _in_case(statement, told(error), namespace)
    except (Exception, SystemExit) as error:
        message = _in_case(statement, told(error).split("\n")[0], namespace)
        verdict.failures.append(fingerprint(message, ast.unparse(statement)))
    broken.update(node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    return message


@functools.cache
def _nowhere():
    return open(os.devnull, "w")


def _in_case(statement, message, namespace):
    """`message`, and in which case it happened: the hint of the check, which the student cannot see when it is hidden."""
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    for call in calls:
        if call.func.id == "untouched":
            return f"{message}, while checking that no argument changes"
        if call.func.id in ("same", "raises"):
            given = [*call.args[2:], *(keyword.value for keyword in call.keywords)]
            hints = [g for g in given if isinstance(g, ast.JoinedStr) or isinstance(getattr(g, "value", None), str)]
            if hints:
                return f"{message}, in the case: {_words(hints[-1], namespace)}"
    return message


def _words(hint, namespace):
    """A hint's text; of one whose loop has not begun, its names stand for their values."""
    try:
        return eval(compile(ast.Expression(hint), "hint", "eval"), namespace)
    except NameError:
        return "".join(part.value if isinstance(part, ast.Constant) else ast.unparse(part.value) for part in hint.values)


def _name_mistake(verdict):
    """Name the known mistake whose failures fit these best; at least seven in ten of either list must be the same.

    A single check names by its own values alone; with all of them at hand that name is kept only where it is this one.
    """
    from coursekit.checks import KNOWN, alike, known_mistakes, mistake_words

    best, best_share = None, 0.0
    for mistake in known_mistakes().get(verdict.exercise, []):
        common = sum(any(alike(found, one) for one in mistake["prints"]) for found in verdict.failures)
        share = common / max(len(verdict.failures), len(mistake["prints"]), 1)
        if share > best_share:
            best, best_share = mistake, share
    for part in (verdict.visible, verdict.hidden):
        part["message"] = part["message"].split(KNOWN)[0]
    if best_share >= 0.7:
        verdict.mistake = best["name"]
        first = verdict.hidden if verdict.visible["passed"] else verdict.visible
        first["message"] += mistake_words([best])


def _guarded(name, answer):
    """`answer`, watched during each call: no library function that is the exercise, no argument changed."""
    from coursekit.checks import _resolve

    if not callable(answer):
        return answer
    if isinstance(answer, type):
        return _guarded_class(name, answer)
    codes = {}
    for dotted in refused_names(name):
        target = _resolve(dotted)
        for function in [target] if not isinstance(target, type) else vars(target).values():
            if isinstance(function, types.FunctionType):
                codes[function.__code__] = dotted

    def guarded(*arguments, **named):
        called = []

        def watch(frame, event, _):
            if event == "call" and frame.f_code in codes:
                called.append(codes[frame.f_code])
                raise LibraryCall(library_message(name, called[0]))

        before = _copied((arguments, named))
        if codes:
            sys.setprofile(watch)
        try:
            result = answer(*arguments, **named)
        finally:
            sys.setprofile(None)
            if called:
                raise LibraryCall(library_message(name, called[0])) from None
        everything = (*arguments, *named.values()), (*before[0], *before[1].values())
        try:
            unchanged(*everything)
        except AssertionError:
            _restore(*everything)  # the checks to come mean the values they were written with
            raise
        return result

    guarded.__name__ = name
    guarded.__wrapped__ = answer
    return guarded


def _guarded_class(name, answer):
    """`answer`, a class, whose modules watch each forward pass."""

    def made(*arguments, **named):
        module = answer(*arguments, **named)
        module.forward = _guarded(name, module.forward)
        return module

    made.__name__ = name
    made.__wrapped__ = answer
    return made


def _copied(value):
    """Tensors and plain data, copied; anything else as it is."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_copied(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _restore(values, before):
    """Give each tensor, list and dict of `values` its content of `before` back, in place."""
    import torch

    for now, then in zip(values, before):
        if isinstance(now, torch.Tensor) and now.shape == then.shape and now.dtype == then.dtype:
            with torch.no_grad():
                now.data.copy_(then)
        elif isinstance(now, list):
            now[:] = then
        elif isinstance(now, dict):
            now.clear()
            now.update(then)


@functools.cache
def warm():
    """Import once what checks need, before the first answer's time runs and before workers are forked, on one thread."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot  # noqa: F401
    import torch
    import torchvision.models.detection  # noqa: F401

    import coursekit.checks

    torch.set_num_threads(1)
    coursekit.checks.known_mistakes()


@contextlib.contextmanager
def _grading():
    """Setup cells run as in grading: quiet, and `earlier` gives library functions."""
    before = os.environ.get("COURSEKIT_GRADING")
    os.environ["COURSEKIT_GRADING"] = "1"
    try:
        with contextlib.redirect_stdout(_nowhere()):
            yield
    finally:
        os.environ.pop("COURSEKIT_GRADING", None) if before is None else os.environ.update(COURSEKIT_GRADING=before)


def judge_source(exercise, source, filename="answer"):
    """`judge_function` of what a trusted source defines, in this process: for references and named mistakes."""
    try:
        answer = load_answer(exercise, source, filename)
    except SyntaxError as error:
        trouble = f"SyntaxError: {error.msg}, line {error.lineno} of {filename}"
    except LookupError as error:
        trouble = str(error.args[0]) if error.args else type(error).__name__
    except (Exception, SystemExit) as error:
        trouble = f"{type(error).__name__} while running {filename}: {error}"
    else:
        seed()
        return judge_function(exercise, answer)
    return refused(exercise, trouble)


def refused(exercise, message, seconds=0.0):
    """The verdict on an answer that could not be judged: no points, why, and how long it took."""
    part = {"passed": False, "message": message}
    return Verdict(exercise.name, exercise.points, visible=dict(part), hidden=dict(part), seconds=round(seconds, 3))


# Answers of others: they run in a student process, their checks here


def judge_answer(exercise, source, sandbox, filename="answer", timeout=30.0):
    """The verdict on one answer's source. The lesson's exercises before it are there too, by their references.

    Args:
        sandbox (Sandbox): where the answer runs.
        timeout (float): seconds for all of it.
    """
    if len(source) > LONGEST:
        return refused(exercise, f"{filename} has {_too_long(source)}")
    with _session(sandbox, timeout, time.monotonic() + timeout) as student:
        try:
            student.begin(exercise.setup, exercise.lesson, exercise.name if may_reach([source], exercise.name) else None)
            student.ask("offer", _references(exercise))
            trouble = student.run(source, filename)
            if trouble and not student.called:
                return refused(exercise, trouble)
            if not student.defines(exercise.name):
                return refused(exercise, trouble or f"{exercise.name} is not defined; the exercise is judged by that name")
            verdict = student.judge(exercise)
            if trouble:
                _explain(verdict, trouble)
            return verdict
        except Gone as gone:
            return refused(exercise, student.end(gone))


def judge_hand_in(lesson, hand_in, sandbox, timeout=30.0):
    """The verdict on each exercise of a restored hand-in; adds to its findings.

    What hangs or dies costs the exercise it happened in: a new student process runs the same cells again (of a
    cell that did it harm only the definitions), leaves out what was judged, and goes on. An exercise whose
    library function the hand-in could reach is judged in a process where that function does not work.

    Args:
        lesson (handin.Lesson), hand_in (handin.HandIn): as `handin.load_lesson` and `handin.restore` give them.
        sandbox (Sandbox): where the student's code runs.
        timeout (float): seconds for a cell, and for an exercise's checks; a call has half, a hand-in `BUDGET` times that.
    """
    grading = _Grading(lesson, hand_in, sandbox, timeout)
    cells = [step.source for step in grading.steps if not step.judge]
    apart = [name for name in lesson.exercises if may_reach(cells, name)]
    grading.judge([name for name in lesson.exercises if name not in apart])
    for name in apart:
        grading.judge([name], banned=name)
    return {name: grading.verdicts[name] for name in lesson.exercises}


class _Grading:
    """One hand-in on its way: what was judged, and what died where."""

    def __init__(self, lesson, hand_in, sandbox, timeout):
        self.lesson, self.hand_in, self.sandbox, self.timeout = lesson, hand_in, sandbox, timeout
        self.steps = plan(lesson, hand_in)
        self.latest = time.monotonic() + BUDGET * timeout
        self.verdicts, self.deaths = {}, collections.Counter()

    def judge(self, wanted, banned=None):
        """Judge the exercises `wanted`, with a new student process as often as one dies."""
        while wanted := [name for name in wanted if name not in self.verdicts]:
            step, reason = self._through(wanted, banned)
            if reason is None:
                reason = "its check was not reached"
            elif step is None:
                reason = f"the lesson's setup did not run: {reason}"
            elif time.monotonic() < self.latest:
                self._count(step, reason)
                continue
            else:
                self._count(step, reason)
                reason = f"not reached: the hand-in had used its {BUDGET * self.timeout:g} s"
            for name in wanted:
                self.verdicts.setdefault(name, refused(self.lesson.exercises[name], reason))

    def _count(self, number, reason):
        """A process died in this step: an exercise is lost by it, a cell has another chance."""
        step = self.steps[number]
        self.deaths[number] += 1
        if step.judge:
            self.verdicts.setdefault(step.name, refused(self.lesson.exercises[step.name], reason, self.seconds))
        elif self.deaths[number] == 1:
            self.hand_in.findings.append(f"the cell {step.name or 'added by the student'} was not run to its end: {reason}")

    def _through(self, wanted, banned):
        """Go through the steps in a new process: `(None, None)`, or the step in which it died and why."""
        step, trouble, wanted = None, {}, set(wanted)
        with _session(self.sandbox, self.timeout, self.latest) as student:
            try:
                setup = next(iter(self.lesson.exercises.values())).setup
                student.begin(setup, self.lesson.name, banned)
                for step, one in enumerate(self.steps):
                    if not wanted:
                        break
                    if not one.judge:
                        trouble[one.name] = self._run(student, step)
                        continue
                    if self.deaths[step]:
                        if self.deaths[step] == 1:
                            student.ask("stand_in", one.name)
                        continue
                    defined = student.defines(one.name)
                    if one.name in wanted:
                        exercise = self.lesson.exercises[one.name]
                        why = trouble.get(one.name) or f"{one.name} is not defined"
                        self.verdicts[one.name] = student.judge(exercise) if defined else refused(exercise, why)
                        if why == library_message(one.name, student.called):
                            _explain(self.verdicts[one.name], why)
                        wanted.discard(one.name)
                    if not defined:
                        student.ask("stand_in", one.name)
                return None, None
            except Gone as gone:
                self.seconds = time.monotonic() - student.begun
                return step, student.end(gone)

    def _run(self, student, number):
        """Run a cell: after a death its definitions only, after two nothing."""
        if self.deaths[number] > 1:
            return "the cell was not run to its end"
        source = self.steps[number].source
        return student.run(definitions(source) if self.deaths[number] else source, "the cell")


def _explain(verdict, message):
    """What failed, failed because a call in the exercise's own cell was refused."""
    for part in (verdict.visible, verdict.hidden):
        part["message"] = message if part["message"] else ""


class _Session:
    """A student process, as the judge sees it."""

    def __init__(self, sandbox, timeout, latest):
        self.process = sandbox.start()
        self.peer = _JudgePeer(self.process.socket)
        self.timeout, self.latest = timeout, latest
        self.banned = self.called = None  # the exercise whose library functions are; one that a cell called

    def _begin(self, part=1.0):
        """A cell, or an exercise's checks, begin: their time runs from now; a single call has a part of it."""
        self.begun = time.monotonic()
        self.peer.deadline = min(self.latest, self.begun + self.timeout)
        self.peer.seconds = part * self.timeout

    def ask(self, service, *arguments):
        """What a service of ours in the process gives; where it fails, the student's code got in its way."""
        try:
            return self.peer.service(service, *arguments)
        except Exception as error:
            raise Gone(f"`{service}` failed in it with {told(error)[:200]}") from None

    def begin(self, setup, name, banned):
        self._begin()
        self.banned = banned
        self.ask("setup", setup, f"{name}: setup")
        if banned:
            self.ask("ban", banned)

    def run(self, source, where):
        """Run a cell; what is the matter with it in words, or None."""
        self._begin()
        error = self.ask("run", source, where)
        if error is None:
            return None
        try:
            name, text, line = str(error["type"])[:100], str(error["text"])[:1000], error["line"]
        except (LookupError, TypeError):
            raise Gone("`run` gave no error and no None") from None
        if name == "LibraryCall" and text in refused_names(self.banned or ""):
            self.called = text
            return library_message(self.banned, text)
        if line is not None:
            return f"{name}: {text}, line {line} of {where}"
        return f"{name} while running {where}: {text}" if text else f"{name} while running {where}"

    def defines(self, name):
        self.found = self.ask("find", name)
        if not isinstance(self.found, list):
            raise Gone("`find` gave no list")
        return bool(self.found)

    def judge(self, exercise):
        """The checks of the exercise, on what `defines` found."""
        self._begin(0.5)
        self.ask("seed")
        self.peer.exercise = exercise.name
        try:
            with _no_longer_than(1.5 * self.timeout):  # what comes back may make the check itself slow
                verdict = judge_function(exercise, self.found[0], guard=False)
        finally:
            self.peer.exercise = None
        verdict.seconds = round(time.monotonic() - self.begun, 3)
        return verdict

    def end(self, gone):
        """The process died or broke a rule: end it, and say why for the student."""
        how = self.process.end()
        if isinstance(gone, Late):
            what = f"not done after {self.timeout:g} s"
            if time.monotonic() < self.peer.deadline:
                what = f"a call was not done after {self.peer.seconds:g} s"
            return f"{what}: is there a loop that never ends?"
        if isinstance(gone, Died):
            return f"the process ended ({how}) in the middle"
        return f"the process was ended: {gone}"


_stopped = []  # what the alarm ended in this process


def disturbed():
    """Whether a check was ever stopped in the middle, in this process.

    The alarm may have come while some library was about to put back what it had changed: nobody else should be judged
    here after that.
    """
    return bool(_stopped)


@contextlib.contextmanager
def _no_longer_than(seconds):
    """Raise `Late` in the middle of what takes longer, where the system has alarms and this is the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_):
        _stopped.append(seconds)
        raise Late("its results keep the check too busy")

    import torch

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        torch.set_grad_enabled(True)  # the alarm may have come at the end of a `no_grad`



@contextlib.contextmanager
def _session(sandbox, timeout, latest):
    session = _Session(sandbox, timeout, latest)
    try:
        yield session
    finally:
        session.process.end()


class _JudgePeer(Peer):
    """The judge's end: after each call of an exercise it sees to the library and to the arguments."""

    exercise = None

    def call(self, target, arguments=(), named=(), parameters=None):
        try:
            result = super().call(target, arguments, named, parameters)
        finally:
            called = self.notes.get("library")
            if self.exercise and called in refused_names(self.exercise):
                raise LibraryCall(library_message(self.exercise, called)) from None
        if self.exercise and self.changed is not None:
            now, before = ([*given, *dict(keys).values()] for given, keys in (self.changed, (arguments, named)))
            unchanged(now, before)
        return result


@functools.lru_cache(64)
def _references(exercise):
    """The functions of the lesson before this exercise, by their references."""
    namespace = {"__name__": "reference"}
    with _grading():
        exec(compile(exercise.setup, f"{exercise.lesson}: setup", "exec"), namespace)
    for sibling, reference in exercise.siblings.items():
        exec(compile(reference, f"{exercise.lesson}: {sibling}", "exec"), namespace)
    return {name: namespace[name] for name in exercise.siblings if not isinstance(namespace[name], type)}


def _too_long(source):
    return f"{len(source)} characters, at most {LONGEST} are read"


def plan(lesson, hand_in):
    """What grading does, in the order of the hand-in: run the student's cells, judge at the checks.

    Of the lesson's figures and demonstrations nothing is run; where a student changed one, its definitions
    are. An exercise whose check stands before it (cells were moved) is judged right after it.
    """
    cells, steps = hand_in.cells, []
    at = {}
    for number, cell in enumerate(cells):
        if cell.role == "check" and "detections" not in cell.lesson.metadata:
            at[cell.name.removeprefix("test_").split("__")[0]] = number
    for number, cell in enumerate(cells):
        if cell.role == "exercise" and number > at.get(cell.name, -1):
            at[cell.name] = number
    judged = {}
    for name, number in at.items():
        judged.setdefault(number, []).append(name)
    for number, cell in enumerate(cells):
        if cell.type == "code" and len(cell.source) > LONGEST:
            steps.append(Step(cell.name, f"raise ValueError({_too_long(cell.source)!r})"))
        elif cell.type == "code" and not cell.missing and cell.role in ("exercise", "added"):
            steps.append(Step(cell.name, cell.source))
        elif cell.role == "lesson" and cell.type == "code" and cell.edited:
            steps.append(Step("", definitions(cell.source)))
        steps += [Step(name, judge=True) for name in judged.get(number, ())]
    return steps
