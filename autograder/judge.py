"""Runs one exercise's visible and hidden checks against an answer.

Today the answer and its checks share a process of their own, forked for each answer, with a time limit; the checks
use the answer only by its name, with tensors and plain data, so that the answer can move behind a wire.
"""

import ast
import contextlib
import functools
import json
import linecache
import multiprocessing
import os
import signal
import sys
import types
from dataclasses import asdict, dataclass, field


@dataclass
class Verdict:
    """What the checks said of one answer.

    `parts`: for each check cell its first failure or None; `failures`: fingerprints of the wrong results, in order.
    """

    exercise: str
    points: int
    score: int = 0
    visible: dict = field(default_factory=lambda: {"passed": False, "message": ""})
    hidden: dict = field(default_factory=lambda: {"passed": False, "message": ""})
    mistake: str | None = None
    parts: dict = field(default_factory=dict)
    failures: list = field(default_factory=list)

    @property
    def passed(self):
        return self.visible["passed"] and self.hidden["passed"]

    def as_json(self):
        keys = ("exercise", "points", "score", "passed", "visible", "hidden", "mistake")
        return {key: getattr(self, key) for key in keys}


class LibraryCall(AssertionError):
    """The answer called the library function that is the exercise."""


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
    verdict = Verdict(exercise.name, exercise.points)
    first = {False: None, True: None}
    for check in exercise.checks:
        failed = None
        namespace = {"__name__": "check"}
        with _grading():
            exec(compile(exercise.setup, f"{exercise.lesson}: setup", "exec"), namespace)
        namespace[exercise.name] = _guarded(exercise.name, answer) if guard else answer
        broken = set()
        for statement, hidden in check.statements():
            message = _run(statement, namespace, check.grade_id, verdict, broken)
            if message is not None:
                failed = message if failed is None else failed
                first[hidden] = first[hidden] or message
        verdict.parts[check.grade_id] = failed
        verdict.score += check.points if failed is None else 0
    for part, hidden in ((verdict.visible, False), (verdict.hidden, True)):
        part.update(passed=first[hidden] is None, message=first[hidden] or "")
    _name_mistake(verdict)
    return verdict


def _run(statement, namespace, filename, verdict, broken):
    """Execute one statement of a check; the message of its failure, or None."""
    from coursekit.checks import CheckFailed, fingerprint, told

    code = compile(ast.Module([statement], []), filename, "exec")
    try:
        with contextlib.redirect_stdout(open(os.devnull, "w")):
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
                return f"{message}, in the case: {eval(compile(ast.Expression(hints[-1]), 'hint', 'eval'), namespace)}"
    return message


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
    from coursekit.checks import _resolve, library_message, refused_names, unchanged

    if isinstance(answer, type) or not callable(answer):
        return answer
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


@contextlib.contextmanager
def _grading():
    """Setup cells run as in grading: quiet, and `earlier` gives library functions."""
    before = os.environ.get("COURSEKIT_GRADING")
    os.environ["COURSEKIT_GRADING"] = "1"
    try:
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            yield
    finally:
        os.environ.pop("COURSEKIT_GRADING", None) if before is None else os.environ.update(COURSEKIT_GRADING=before)


def judge_source(exercise, source, filename="answer"):
    """`judge_function` of what the source defines; a source that does not run fails every check."""
    try:
        answer = load_answer(exercise, source, filename)
    except SyntaxError as error:
        trouble = f"SyntaxError: {error.msg}, line {error.lineno} of {filename}"
    except LookupError as error:
        trouble = str(error.args[0]) if error.args else type(error).__name__
    except (Exception, SystemExit) as error:
        trouble = f"{type(error).__name__} while running {filename}: {error}"
    else:
        return judge_function(exercise, answer)
    return refused(exercise, trouble)


def refused(exercise, message):
    """The verdict on an answer that could not be judged: no points, and why."""
    part = {"passed": False, "message": message}
    return Verdict(exercise.name, exercise.points, visible=dict(part), hidden=dict(part))


def judge_apart(exercise, source, filename="answer", timeout=30.0):
    """`judge_source` in a process of its own, ended after `timeout` seconds.

    An answer that hangs, exits or kills its process fails with a message; the caller lives.
    """
    _warm()
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    ours, theirs = context.Pipe(duplex=False)
    worker = context.Process(target=_worker, args=(theirs, exercise, source, filename))
    worker.start()
    theirs.close()
    try:
        if not ours.poll(timeout):
            return refused(exercise, f"not done after {timeout:g} s: is there a loop that never ends?")
        return Verdict(**json.loads(ours.recv_bytes()))
    except EOFError:
        worker.join(5)
        return refused(exercise, f"the process ended (exit code {worker.exitcode}) before its checks did")
    finally:
        if worker.is_alive():
            if hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.kill()
        worker.join()
        ours.close()


@functools.cache
def _warm():
    """Import what every answer needs once, before the forks, on one thread: a fork of a busy pool can hang."""
    import torch
    import torchvision  # noqa: F401

    import coursekit.checks

    torch.set_num_threads(1)
    coursekit.checks.known_mistakes()


def _worker(pipe, exercise, source, filename):
    if hasattr(os, "setsid"):
        os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    _warm()
    pipe.send_bytes(json.dumps(asdict(judge_source(exercise, source, filename))).encode())
    pipe.close()
