"""A digest of what a function does: whether a checkpoint was trained by the code of today.

In a notebook one corrects a loss and trains again. A checkpoint of the loss before must not pass for the result.
"""

import functools
import hashlib
import inspect
import sys
import sysconfig
import types
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"  # another Python compiles to other code
LIBRARIES = [Path(__file__).parent, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))]


def code_digest(*things):
    """What tells that functions, or the classes of modules, do something else than before: str.

    Follows what they call, down to libraries, of which only the names count, and constants in capitals. Not
    followed: what is looked up at run time, and data.

    Args:
        *things: functions, classes, `torch.nn.Module`s.
    """
    parts, seen = [], set()
    for thing in things:
        _walk(thing, parts, seen)
    return f"{VERSION} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def changed(before, now):
    """Whether two digests are of different code; digests of different Pythons say nothing."""
    return bool(before) and before.split()[0] == now.split()[0] and before != now


def _walk(thing, parts, seen):
    if isinstance(thing, functools.partial):
        for one in (thing.func, *thing.args, *thing.keywords.values()):
            _walk(one, parts, seen)
        return
    thing = inspect.unwrap(thing) if callable(thing) and hasattr(thing, "__wrapped__") else thing
    thing = getattr(thing, "__func__", thing)  # of methods, static and class methods
    if _is_module(thing):
        for kind in sorted({type(one) for one in thing.modules()}, key=lambda kind: kind.__qualname__):
            _walk(kind, parts, seen)
    elif isinstance(thing, (types.FunctionType, type)):
        if id(thing) in seen or _of_a_library(thing):
            parts.append(thing.__qualname__)
            return
        seen.add(id(thing))
        if isinstance(thing, type):
            for one in (*thing.__bases__, *vars(thing).values()):
                one = one.fget if isinstance(one, property) else one
                if callable(one) or isinstance(one, (staticmethod, classmethod)):
                    _walk(one, parts, seen)
            return
        names = set()
        parts += [_simple(thing.__defaults__), _simple(thing.__kwdefaults__), *_code(thing.__code__, names)]
        for name in sorted(names):
            value = thing.__globals__.get(name)
            if name.isupper():
                parts.append((name, _simple(value)))
            else:
                _walk(value, parts, seen)
        for cell in thing.__closure__ or ():
            try:
                _walk(cell.cell_contents, parts, seen)
            except ValueError:  # not filled yet
                continue


def _is_module(thing):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def _code(code, names):
    """Bytecode and constants, of functions inside too; adds the names it looks up."""
    names.update(code.co_names)
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    constants = [_simple(one) for one in code.co_consts if not isinstance(one, types.CodeType)]
    return [code.co_code, code.co_names, constants, *(_code(one, names) for one in inner)]


def _simple(value):
    """A text that is the same in every session, of plain values; the type's name of others."""
    if isinstance(value, (set, frozenset)):
        return sorted(map(_simple, value), key=repr)
    if isinstance(value, (list, tuple)):
        return [_simple(one) for one in value]
    if isinstance(value, dict):
        return [(_simple(key), _simple(one)) for key, one in value.items()]
    plain = (int, float, complex, str, bytes, type(None), type(Ellipsis))
    return repr(value) if isinstance(value, plain) else type(value).__name__


def _of_a_library(thing):
    file = getattr(sys.modules.get(thing.__module__), "__file__", None)
    if file is None:
        return thing.__module__ in sys.builtin_module_names
    return thing.__module__ != "__main__" and any(Path(file).is_relative_to(place) for place in LIBRARIES)
