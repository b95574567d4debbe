"""What runs in a student process: the hand-in's cells, and calls of what they define. It knows no test and no answer.

The judge asks (`services`), over the wire of `remote`; what comes back is only as good as the student's code. So
nothing here decides a mark.
"""

import ast
import contextlib
import functools
import importlib.util
import os
import random
import sys
import types
from pathlib import Path

from .remote import Peer

READY = (  # what lessons import: there before the fork, once for all hand-ins
    "numpy",
    "torch",
    "torchvision",
    "torchvision.models.detection",
    "torchvision.transforms.v2.functional",
    "matplotlib.pyplot",
    "pycocotools.mask",
    "coursekit.backbones",
    "coursekit.checks",
    "coursekit.data",
    "coursekit.earlier",
    "coursekit.evaluation",
    "coursekit.plot",
    "coursekit.training",
)


@functools.cache
def prepare():
    """Import what every hand-in needs and make the shell: once, in the process that all student processes fork from."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    for name in READY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    torch.zeros(1, requires_grad=True).sum()
    return _shell()


def masked_files():
    """Files with the library functions that are exercises: imported already, nobody needs their text or bytecode."""
    from coursekit.checks import _resolve, refused_names
    from coursekit.standins import LIBRARY

    found = set()
    for target in filter(None, (_resolve(dotted) for name in LIBRARY for dotted in refused_names(name))):
        module = sys.modules.get(getattr(target, "__module__", None) or "")
        path = getattr(module, "__file__", None) or ""
        found |= {path, importlib.util.cache_from_source(path)} if path.endswith(".py") else {path}
    return sorted(path for path in found if Path(path).is_file())


def serve(socket):
    """Be one hand-in's process: answer the judge until the connection closes."""
    student = Student()
    Peer(socket, student.services(), attributes=True, after_call=student.notes).serve()


def seed():
    """Chance begins anew for each exercise, so that what was judged before does not matter."""
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


class Student:
    """The namespace of one hand-in, and what the judge may ask of it."""

    def __init__(self):
        self.shell = prepare()
        self.names = self.shell.user_ns
        self.refused = []  # library functions called that are the exercise

    def services(self):
        return {one.__name__: one for one in (self.setup, self.run, self.find, seed, self.stand_in, self.ban, self.offer)}

    def notes(self):
        called, self.refused[:] = self.refused[:1], []
        return {"library": called[0]} if called else None

    def setup(self, source, name):
        """Run the lesson's own setup cells."""
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            exec(compile(source, name, "exec"), self.names)

    def run(self, source, name):
        """Run a cell; None, or what it raised as `{"type", "text", "line"}`."""
        result = self.shell.run_cell(source, silent=True)
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, LibraryCall):  # the rest of the cell may define what an exercise needs
            for statement in ast.parse(self.shell.transform_cell(source)).body:
                self.shell.run_cell(ast.unparse(statement), silent=True)
        if error is None:
            return None
        line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
        try:
            text = str(error.msg if isinstance(error, SyntaxError) else error)
        except Exception:  # its own words fail
            text = ""
        return {"type": type(error).__name__, "text": text[:1000], "line": line}

    def find(self, name):
        """What the cells defined as `name`, as a list of one; an empty list where they did not."""
        return [self.names[name]] if name in self.names else []

    def stand_in(self, name):
        """Put the library's function in the place of one that does not come back, or nothing where there is none."""
        from coursekit.standins import STANDINS

        self.names.pop(name, None)
        if name in STANDINS:
            self.names[name] = STANDINS[name]

    def offer(self, functions):
        """Put functions of the judge's into the namespace."""
        self.names.update(functions)

    def ban(self, name):
        """Make calls of the library functions that are exercise `name` fail, in whatever way they are reached."""
        from coursekit.checks import _resolve, refused_names

        for dotted in refused_names(name):
            target = _resolve(dotted)
            if target is not None:
                _break(target, dotted, self.refused)


class LibraryCall(AssertionError):
    """The answer called the library function that is the exercise."""


def _break(target, dotted, refused):
    """Replace the code of a function, of a class's methods, or the kernels of a torch operator."""

    def refuse(*_, **__):
        refused.append(dotted)
        raise LibraryCall(dotted)

    if isinstance(target, type):
        for part in vars(target).values():
            if isinstance(part := getattr(part, "__func__", part), types.FunctionType):
                part.__code__ = _refusing(part.__code__, refuse)
    elif isinstance(target, types.FunctionType):
        target.__code__ = _refusing(target.__code__, refuse)
        if hasattr(target, "__wrapped__"):
            _break(target.__wrapped__, dotted, refused)
    elif dotted.startswith(("torch.ops.", "torch._C._nn.")):
        parts = dotted.split(".")
        _break_operator(parts[2] if parts[1] == "ops" else "aten", parts[-1], refuse)
    else:  # of an extension module: where it is known, another is put
        for module in list(sys.modules.values()):
            for key, value in list(getattr(module, "__dict__", {}).items()):
                if value is target:
                    setattr(module, key, refuse)


def _refusing(code, refuse):
    """Code that calls `refuse`, with the free variables of `code`: a function may change to such code only."""
    outer, inner = f"def outer({', '.join(code.co_freevars)}):", "    def inner(*_, **__):"
    used = "".join(f"        {name}\n" for name in code.co_freevars)
    made = {}
    exec(f"{outer}\n{inner}\n        return 'refuse'.__call__()\n{used}    return inner\n", made)
    new = next(part for part in made["outer"].__code__.co_consts if isinstance(part, types.CodeType))
    return new.replace(co_consts=tuple(refuse if part == "refuse" else part for part in new.co_consts), co_name=code.co_name)


def _break_operator(namespace, name, refuse):
    import ctypes
    import warnings

    import torch

    library = torch._C._dispatch_library("IMPL", namespace, "", __file__, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for overload in getattr(getattr(torch.ops, namespace), name).overloads():
            full = name if overload == "default" else f"{name}.{overload}"
            with contextlib.suppress(RuntimeError):
                library.impl(full, "CPU", refuse)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))  # as long as the process lives


def definitions(source):
    """The imports, functions and classes of a cell, without what it does; nothing where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, kinds))


def _shell():
    """IPython as in a notebook, so that magics work; without history, and without the system's shell."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.user_ns["__name__"] = "__main__"
    shell.system = shell.getoutput = shell.enable_gui = lambda *_, **__: None
    return shell
