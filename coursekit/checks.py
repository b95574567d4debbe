"""What a check cell calls. A failure says what was found, what was expected and where to look.

The build puts `check(NAME, FUNCTION)` before the body of a check cell and `passed()` after it; between them stand
`same`, `raises` and `untouched`. A wrong result is compared with the fingerprints of known mistakes
(`fingerprints/NN_topic.json`, numbers made at build time), so that the message can name the mistake.
"""

import copy
import dis
import functools
import hashlib
import importlib
import json
import math
import numbers
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

import torch

from .standins import LIBRARY, STANDINS

FINGERPRINTS = Path(__file__).parent / "fingerprints"
MOST_NUMBERS = 1_000_000  # in a result that is compared with known mistakes


class CheckFailed(AssertionError):
    """An answer that a check refuses: `message` for the student, `print` the fingerprint of what was found."""

    def __init__(self, message, print=None):
        super().__init__(message)
        self.message, self.print = message, print

    def _render_traceback_(self):
        """What IPython shows: the message alone, no stack of the check's own code."""
        return ["Not yet: " + self.message]


_state = {"name": None, "count": 0, "passed": set()}


def check(name, function):
    """Begin the checks of exercise `name`; refuse an answer that hands the work to the library function it rebuilds."""
    _state.update(name=name, count=0, passed=set())
    call = library_call(name, function)
    if call:
        raise CheckFailed(library_message(name, call))


def passed():
    """End the checks: say that all of them passed."""
    count = _state["count"]
    print(f"{_state['name']}: {'1 check' if count == 1 else f'all {count} checks'} passed")


def same(actual, expected, hint="", *, rtol=1e-4, atol=1e-5):
    """Fail unless `actual` equals `expected`: structure, shape, kind of number, and values within the tolerances.

    Args:
        actual: what the student's function gave: tensors, numbers, strings, None, or lists, tuples and dicts of them.
        expected: likewise. A tensor pins dtype and device; a plain list or number pins shape, kind and values only.
        hint (str): what the value means, or where to look; ends the message.
        rtol, atol (float): as `torch.testing.assert_close`; whole numbers and booleans are compared exactly.

    Raises:
        CheckFailed: `-2.25 at [0, 0], expected 0: HINT`, and the name of the mistake where it is a known one.
    """
    _state["count"] += 1
    problem = _difference(actual, expected, rtol, atol, "")
    if problem:
        found = fingerprint(actual, hint)
        message = f"{problem}: {hint}" if hint else problem
        raise CheckFailed(message + mistake_words(named(_state["name"], found, _state["passed"])), found)
    _state["passed"].add(_digest(hint))


def raises(error, words, function, *arguments, hint=""):
    """Fail unless `function(*arguments)` raises `error` with each of `words` in its message."""
    _state["count"] += 1
    words = [words] if isinstance(words, str) else words
    try:
        result = function(*arguments)
    except error as caught:
        missing = [word for word in words if word not in str(caught)]
        if not missing:
            _state["passed"].add(_digest(hint))
            return
        found = f"{type(caught).__name__}({str(caught)!r}), which does not say {', '.join(map(repr, missing))}"
        prints = fingerprint(f"{type(caught).__name__} lacks {missing}", hint)
    except Exception as caught:
        found = told(caught)
        prints = fingerprint(type(caught).__name__, hint)
    else:
        found, prints = f"no error but {_short(result)}", fingerprint(result, hint)
    message = f"{found}, expected {error.__name__}: {hint}"
    raise CheckFailed(message + mistake_words(named(_state["name"], prints, _state["passed"])), prints)


CALLERS = "the arguments belong to the caller: work on a copy"


def untouched(function, *arguments, hint=CALLERS):
    """Fail if `function(*arguments)` changes an argument in place."""
    before = copy.deepcopy(arguments)
    function(*arguments)
    unchanged(arguments, before, hint)


def unchanged(arguments, before, hint=CALLERS):
    """Fail unless each argument is what it was before a call."""
    for number, (now, then) in enumerate(zip(arguments, before), 1):
        same(now, then, f"argument {number} changed during the call; {hint}", rtol=0, atol=0)


def told(error):
    """An exception in one line: its type, and its message where it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _short(value):
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def _kind(tensor):
    if tensor.dtype == torch.bool:
        return "bool"
    return "floating point" if tensor.is_floating_point() else "whole numbers"


def _difference(actual, expected, rtol, atol, where):
    """The first difference in words, or None."""
    at = f" in {where}" if where else ""
    if actual is None and expected is not None:
        return f"None{at}, expected {_short(expected)}" + ("" if where else " (a function without `return` gives None)")
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return f"{_short(actual)}{at}, expected a dict with {sorted(expected)}"
        if set(actual) != set(expected):
            return f"keys {sorted(map(str, actual))}{at}, expected {sorted(map(str, expected))}"
        pairs = [(actual[key], expected[key], f"[{key!r}]") for key in expected]
        return _first(pairs, rtol, atol, where)
    structured = isinstance(expected, (list, tuple)) and not _numeric(expected)
    if structured:
        if not isinstance(actual, (list, tuple)):
            return f"{_short(actual)}{at}, expected a {type(expected).__name__} of {len(expected)}"
        if len(actual) != len(expected):
            return f"{len(actual)} entries{at}, expected {len(expected)}"
        pairs = [(a, e, f"[{i}]") for i, (a, e) in enumerate(zip(actual, expected))]
        return _first(pairs, rtol, atol, where)
    if isinstance(expected, (torch.Tensor, numbers.Number, list, tuple)):
        return _number_difference(actual, expected, rtol, atol, at)
    return None if type(actual) is type(expected) and actual == expected else f"{_short(actual)}{at}, expected {_short(expected)}"


def _first(pairs, rtol, atol, where):
    return next((text for a, e, key in pairs if (text := _difference(a, e, rtol, atol, where + key))), None)


def _numeric(value):
    """Whether a plain value is one array of numbers: a number, or a list as regular as a tensor."""
    if not isinstance(value, (list, tuple)):
        return isinstance(value, numbers.Number)
    if not all(_numeric(item) for item in value):
        return False
    try:
        torch.tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError):
        return False
    return True


def _number_difference(actual, expected, rtol, atol, at):
    pinned = isinstance(expected, torch.Tensor)
    want = expected.detach() if pinned else torch.tensor(expected, dtype=None if _has_numbers(expected) else torch.float32)
    plain = isinstance(actual, numbers.Number) or (isinstance(actual, (list, tuple)) and _numeric(actual))
    if pinned and not isinstance(actual, torch.Tensor):
        return f"{_short(actual)} ({type(actual).__name__}){at}, expected a tensor of shape {tuple(want.shape)}"
    if plain:
        try:
            got = torch.tensor(actual)
        except (ValueError, TypeError, RuntimeError, OverflowError):
            return f"{_short(actual)}{at}, expected {_short(expected)}"
    elif isinstance(actual, torch.Tensor):
        got = actual.detach()
    else:
        return f"{_short(actual)} ({type(actual).__name__}){at}, expected numbers such as {_short(expected)}"
    if got.shape != want.shape:
        return f"shape {tuple(got.shape)}{at}, expected {tuple(want.shape)}"
    if pinned and got.device != want.device:
        return f"a tensor on {got.device}{at}, expected {want.device}, where the input is"
    if pinned and got.dtype != want.dtype:
        return f"dtype {str(got.dtype)[6:]}{at}, expected {str(want.dtype)[6:]}"
    if not pinned and got.numel() and (_kind(got) == "bool") != (_kind(want) == "bool"):
        return f"{_kind(got)}{at}, expected {_kind(want)}"
    if got.is_complex():
        return f"complex numbers{at}, expected {_kind(want)}"
    got, want = got.cpu(), want.cpu()
    if got.is_floating_point() or want.is_floating_point():
        wrong = ~torch.isclose(got.double(), want.double(), rtol=rtol, atol=atol, equal_nan=True)
    else:
        wrong = got != want
    if not wrong.any():
        return None
    index = wrong.nonzero()[0].tolist()
    a, e = got[tuple(index)].item(), want[tuple(index)].item()
    place = (f" at {index}" if index else "") + at
    more = f" ({int(wrong.sum())} of {wrong.numel()} differ)" if int(wrong.sum()) > 1 else ""
    e = 0.0 if want.is_floating_point() and abs(e) < 1e-9 else e  # rounding of the reference, not a value to aim at
    digits = next((d for d in (5, 7, 10, 17) if f"{a:.{d}g}" != f"{e:.{d}g}"), 20)
    return f"{a:.{digits}g}{place}, expected {e:.{digits}g}{more}"


def _has_numbers(value):
    return not isinstance(value, (list, tuple)) or any(_has_numbers(v) for v in value)


# Fingerprints of known mistakes


def fingerprint(value, hint):
    """Numbers that tell one result from another: the place (a hash of the hint), dtypes and shapes, three projections.

    Projections and not a hash of the values, so that devices and orders of summation may differ in the last digits.
    """
    leaves, shape = [], []
    _leaves(value, leaves, shape)
    if sum(len(leaf) for leaf in leaves) > MOST_NUMBERS:  # no mistake is so large
        leaves = []
    flat = torch.cat([leaf.double() for leaf in leaves]) if leaves else torch.zeros(0, dtype=torch.float64)
    flat = flat.nan_to_num(nan=12345.0, posinf=54321.0, neginf=-54321.0)
    i = torch.arange(1, len(flat) + 1, dtype=torch.float64)
    numbers = [flat.abs().mean() if len(flat) else flat.sum(), (flat * (i * 1.37 + 0.5).cos()).sum(), (flat * (i * 2.11 + 1.0).sin()).sum()]
    return {
        "at": _digest(hint),
        "shape": "".join(shape)[:120],
        "numbers": [float(f"{n.item():.6g}") for n in numbers],
        "trivial": bool(((flat == 0).all() | (flat == 1).all()).item()),
    }


def _leaves(value, leaves, shape):
    if isinstance(value, torch.Tensor):
        shape.append(f"{str(value.dtype)[6:]}{tuple(value.shape)}")
        leaves.append(value.detach().cpu().reshape(-1))
    elif isinstance(value, bool) or isinstance(value, numbers.Real):
        shape.append("n")
        leaves.append(torch.tensor([float(value)], dtype=torch.float64))
    elif isinstance(value, dict):
        shape.append("{")
        for key in sorted(value, key=str):
            _leaves(str(key), leaves, shape)
            _leaves(value[key], leaves, shape)
    elif isinstance(value, (list, tuple)):
        shape.append("[")
        for item in value:
            _leaves(item, leaves, shape)
    else:
        shape.append("s")
        leaves.append(torch.tensor([int(_digest(repr(value)), 16) / 2**32], dtype=torch.float64))


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def alike(one, other):
    """Whether two fingerprints are of the same result at the same place."""
    return (one["at"], one["shape"]) == (other["at"], other["shape"]) and all(
        math.isclose(a, b, rel_tol=2e-4, abs_tol=2e-4) for a, b in zip(one["numbers"], other["numbers"])
    )


@functools.cache
def known_mistakes():
    """Exercise name -> list of `{"name", "message", "prints"}`, from the committed fingerprints."""
    known = {}
    for path in sorted(FINGERPRINTS.glob("*.json")):
        known.update(json.loads(path.read_text(encoding="utf-8")))
    return known


KNOWN = "\nThis is a known mistake "
FEW = 3  # more mistakes than that with one value, and naming them all helps nobody


def mistake_words(mistakes):
    """What a message ends with when a wrong result is that of known mistakes; nothing where there is none."""
    if len(mistakes) > 1:
        return KNOWN + "of these: " + "; or ".join(f"({one['name']}) {one['message']}" for one in mistakes)
    return "".join(f"{KNOWN}({one['name']}): {one['message']}" for one in mistakes)


def named(exercise, found, passed=frozenset()):
    """The known mistakes of the exercise that give this fingerprint and pass the checks `passed`: a few, or none.

    Mistakes with the same message count as one. All zeros or all ones tell nothing: too many answers give them.
    """
    fitting = {}
    for mistake in known_mistakes().get(exercise, []):
        places = {one["at"] for one in mistake["prints"]}
        if not places & set(passed) and any(alike(found, one) for one in mistake["prints"]):
            fitting.setdefault(mistake["message"], mistake)
    return [] if found["trivial"] or len(fitting) > FEW else list(fitting.values())


# Handing the exercise to the library


def library_message(name, call):
    return f"{call} is what this exercise builds: write {name} yourself, then the library may check your work"


def library_call(name, function):
    """The dotted name of a library function that is exercise `name` itself and that `function` refers to, or None.

    Reads the code of `function` and of the functions it uses; follows aliases, attributes and local imports.
    """
    banned = {id(target): dotted for dotted in refused_names(name) if (target := _resolve(dotted)) is not None}
    return _find_call(function, banned, set()) if banned else None


def refused_names(name):
    """Dotted names that exercise `name` may not use: the library's, and this package's ways to the library's."""
    ready = (f"{STANDINS[name].__module__}.{name}", "coursekit.earlier.earlier") if name in STANDINS else ()
    return *LIBRARY.get(name, ()), *ready


def _resolve(dotted):
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:]:
                target = getattr(target, part)
            return target
        except (ImportError, AttributeError):
            continue
    return None


def _find_call(value, banned, seen):
    if id(value) in banned:
        return banned[id(value)]
    if id(value) in seen:
        return None
    seen.add(id(value))
    if isinstance(value, functools.partial):
        return _find_call(value.func, banned, seen)
    if isinstance(value, (staticmethod, classmethod)) or hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    if isinstance(value, type) and not value.__module__.startswith(("torch", "numpy", "builtins")):
        parts = (*value.__bases__, *vars(value).values())
        return next((hit for part in parts if (hit := _find_call(part, banned, seen))), None)
    if not isinstance(value, FunctionType) or value.__module__.split(".")[0] in ("torch", "torchvision", "numpy"):
        return None
    closure = {}
    for free, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
        try:
            closure[free] = cell.cell_contents
        except ValueError:  # not filled yet
            pass
    for used in _used(value.__code__, value.__globals__, closure):
        hit = _find_call(used, banned, seen)
        if hit:
            return hit
    return None


def _used(code, names, closure):
    """Objects that the code names: globals, their attributes, and what it imports itself."""
    local, value, module = {}, None, None
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = names.get(step.argval, local.get(step.argval))
        elif step.opname in ("LOAD_DEREF", "LOAD_FREE"):
            value = closure.get(step.argval, local.get(step.argval))
        elif step.opname.startswith("LOAD_FAST"):
            value = local.get(step.argval if isinstance(step.argval, str) else step.argval[-1])
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            value = getattr(value, step.argval, None) if isinstance(value, (ModuleType, type)) else None
        elif step.opname == "IMPORT_FROM":  # `from a import b`, or the `b` of `import a.b as c`
            value = getattr(module, step.argval, module)
        elif step.opname == "IMPORT_NAME":
            try:
                module = importlib.import_module(step.argval)
                value = importlib.import_module(step.argval.split(".")[0])  # what `import a.b` binds
            except ImportError:
                module = value = None
        elif step.opname.startswith("STORE_"):
            if isinstance(step.argval, str):
                local[step.argval] = value
            continue
        elif step.opname in ("PUSH_NULL", "CACHE", "RESUME", "PRECALL", "COPY", "NOP", "EXTENDED_ARG", "LOAD_CONST"):
            continue
        if value is not None:
            yield value
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _used(constant, names, {**closure, **local})
