"""Writes a student's functions and classes as a package of their own, which runs without notebook and lessons.

    write_package("ada_detectors", "Ada", [FCOS, RetinaNet])

Of each thing the statement that made it is copied, from the notebook's cells, and what it uses with it: imports,
constants, helpers, and through `earlier` the functions of other lessons. A module for each lesson.
"""

import ast
import dis
import hashlib
import keyword
import linecache
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType

HERE = "detectors"  # the module of what the notebook itself defines
MARK = "# Written by coursekit's write_package; sha256 of what follows: "


@dataclass
class Module:
    """A file to be: the lines of its `imports`, and its `body` {(cell, line): text}."""

    title: str
    imports: dict = field(default_factory=dict)
    body: dict = field(default_factory=dict)


def write_package(name, author, things, folder="."):
    """Write the package `name` into `folder`; prints which exercises are the student's and which the library's.

    Written again it replaces its own files, but none that was edited since: then nothing is written at all.

    Args:
        name (str): of the package, such as "ada_detectors".
        author (str): stands in the package as `__author__`.
        things (list of functions and classes): what the package offers; all defined in the notebook that calls.
        folder (path): the package becomes a folder in it.

    Returns:
        Path: of the package.

    Raises:
        ValueError: if `name` is no name for a package, or a cell of a thing cannot be found; says which.
        FileExistsError: if files of that package were edited, or are not this function's; names them.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} is no name of a package: letters, digits and _, such as 'ada_detectors'")
    modules, whose = {}, {}
    for thing in things:
        home = _namespace(thing)
        if home is None:
            raise ValueError(f"{thing!r} was not made by a cell of this notebook; offer functions and classes of your own")
        _visit(thing.__name__, home, modules, whose)
    texts = {f"{topic}.py": _text(module) for topic, module in modules.items()}
    names = [thing.__name__ for thing in things]
    rows = [f"{exercise}: {owner}" for exercise, owner in sorted(whose.items())]
    about = "\n".join([f"Object detectors by {author}.", "", *rows]).replace("\\", "\\\\").replace('"""', "'''")
    texts["__init__.py"] = (
        f'"""{about}\n"""\n\nfrom .{HERE} import {", ".join(names)}\n\n'
        f"__author__ = {author!r}\n__all__ = {names!r}\n"
    )
    place = Path(folder) / name
    old = sorted(place.glob("*")) if place.exists() else []
    edited = [file.name for file in old if file.name != "__pycache__" and not _is_ours(file)]
    if edited:
        raise FileExistsError(
            f"{place} holds what write_package did not write, or you have edited it: {', '.join(edited)}; "
            "nothing was written: take another name, or move these files away"
        )
    place.mkdir(parents=True, exist_ok=True)
    for file in old:
        if file.suffix == ".py" and file.name not in texts:
            file.unlink()
    for file, text in texts.items():
        (place / file).write_text(f"{MARK}{_digest(text)}\n{text}", encoding="utf-8", newline="\n")
    print("\n".join(rows))
    print(f"{place}: {len(texts)} files; python -c 'import {name}' works beside it")
    return place


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_ours(file):
    """Whether it is a file that was written here and nobody changed."""
    if file.suffix != ".py":
        return False
    first, _, rest = file.read_text(encoding="utf-8").partition("\n")
    return first == MARK + _digest(rest)


def _text(module):
    imports = sorted(module.imports, key=lambda line: (line.startswith("from ."), line.startswith("from "), line))
    texts = [re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", text, flags=re.M) for _, text in sorted(module.body.items())]
    head = "\n\n".join([f'"""{module.title}"""', "\n".join(imports)])
    return "\n\n\n".join([head, *(text.rstrip() for text in texts)]) + "\n"


def _namespace(thing):
    """The global names of the notebook in which a function or class was made; None if a library made it."""
    functions = vars(thing).values() if isinstance(thing, type) else [thing]
    for function in functions:
        function = getattr(function, "__func__", getattr(function, "fget", function))  # of class methods, properties
        function = getattr(function, "__wrapped__", function)
        own = isinstance(function, FunctionType) and function.__qualname__.startswith(thing.__qualname__)
        if own and _cells(function.__globals__) is not None:
            return function.__globals__
    return None


def _cells(namespace):
    """The sources of a lesson's cells: those that `earlier` ran, or those that were run in this notebook."""
    if "In" not in namespace:
        return namespace.get("__cells__")
    return namespace.get("__cells__") or [*_kept(namespace), *namespace["In"]]


def _kept(namespace):
    """Cells that the kernel keeps for its tracebacks: what runs a notebook as a test leaves no history in `In`."""
    made = [value for value in namespace.values() if getattr(value, "__globals__", None) is namespace]
    places = {os.path.dirname(one.__code__.co_filename) for one in made if isinstance(one, FunctionType)} - {""}
    return ["".join(entry[2]) for name, entry in linecache.cache.items() if len(entry) > 2 and os.path.dirname(name) in places]


def _topic(namespace):
    lesson = namespace.get("__lesson__")
    return re.sub(r"^\d+_", "", lesson) if lesson else HERE


def _visit(name, namespace, modules, whose):
    """Bring the global `name` of a lesson into its module, and all that it uses."""
    topic, lesson = _topic(namespace), namespace.get("__lesson__")
    title = f"From lesson {lesson}." if lesson else "From lesson 14: the detectors, built of the parts."
    module = modules.setdefault(topic, Module(title))
    found = _statement(name, namespace)
    if found is None:
        raise ValueError(f"no cell of {lesson or 'this notebook'} has a statement of its own that makes {name!r}")
    where, node, text = found
    if where in module.body or text in module.imports:
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        module.imports[text] = True
        return
    if name in namespace.get("__exercises__", ()):
        whose[name] = f"yours, from {lesson}"
    module.body[where] = text
    for used in _globals_of(compile(ast.Module([node], []), "<cell>", "exec")):
        if used == name or used not in namespace or used.startswith("__"):
            continue
        value = namespace[used]
        home = _namespace(value) if isinstance(value, (FunctionType, type)) else None
        if home is not None and _topic(home) != topic:
            _visit(value.__name__, home, modules, whose)
            line = f"from .{_topic(home)} import {value.__name__}"
            module.imports[line if used == value.__name__ else f"{line} as {used}"] = True
        elif getattr(value, "__module__", None) == "coursekit.standins":
            whose[used] = "the library's"
            module.imports[f"from coursekit.standins import {value.__name__} as {used}  # until yours passes its check"] = True
        else:
            _visit(used, namespace, modules, whose)


def _statement(name, namespace):
    """The last statement that binds a name: ((cell, line), node, its text with the comments above it), or None."""
    for number, cell in reversed(list(enumerate(_cells(namespace)))):
        try:
            tree = ast.parse(cell)
        except SyntaxError:  # magics, or a cell that failed
            continue
        for node in reversed(tree.body):
            if name in _bound(node):
                lines = cell.splitlines()
                first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))]) - 1
                while first and lines[first - 1].startswith("#") and not lines[first - 1].startswith("# %%"):
                    first -= 1
                return (number, first), node, "\n".join(lines[first : node.end_lineno])
    return None


def _bound(node):
    """The names that a statement binds."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(one.asname or one.name).split(".")[0] for one in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        names = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
        return {one.id for one in names if isinstance(one.ctx, ast.Store)}
    return set()


def _globals_of(code):
    """The global names that a statement looks up, in functions inside of it too; in a fixed order."""
    names = {}
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            names[step.argval] = True
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(_globals_of(constant)))
    return list(names)
