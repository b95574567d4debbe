"""Could this text reach a library function that is the exercise? If it could, the answer runs where there is none.

Reading text cannot prove that a call happens, so nothing is refused here. It can tell that none is possible: without
a name of the function, a module beyond the usual, a private attribute or a way to look things up, there is no path.
"""

import ast
import functools
import importlib
import types

MODULES = ("torch", "torch.nn", "torch.nn.functional", "math", "numpy", "itertools", "functools", "collections", "typing",
           "dataclasses", "matplotlib", "matplotlib.pyplot", "random", "time", "warnings", "copy", "abc", "enum")  # fmt: skip
USUAL = {"torch", "nn", "functional", "np", "plt", "math", "linalg", "special", "optim", "autograd", "random", "init", "abc"}
LOOKING_UP = {
    "__builtins__", "__import__", "attrgetter", "breakpoint", "compile", "delattr", "dir", "earlier", "eval", "exec", "exit", "get_ipython",
    "get_type_hints", "ForwardRef", "getattr", "globals", "help", "input", "locals", "open", "quit", "setattr", "vars", "load",
    "get_submodule", "ctypes", "loads", "In", "Out",
}  # fmt: skip
PARTS = {"lib", "ops", "classes", "jit", "library", "hub", "overrides"}  # of torch: reached as attributes only
HARMLESS = {"__init__", "__name__", "__main__", "__call__", "__len__", "__post_init__", "_", "__class__", "__doc__"}


def may_reach(sources, name):
    """Whether the cells `sources` could call what exercise `name` may not use."""
    from coursekit.checks import refused_names

    refused = refused_names(name)
    if not refused:
        return False
    lasts = {part for dotted in refused for part in dotted.split(".")[-1:]}
    return any(_reaches(source, frozenset(lasts)) for source in sources)


@functools.lru_cache(512)
def _reaches(source, lasts):
    nodes = _nodes(source)  # None: a magic, or nothing that runs
    return nodes is None or any(_suspicious(node, lasts) for node in nodes)


@functools.lru_cache(64)
def _nodes(source):
    try:
        return list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _suspicious(node, lasts):
    if isinstance(node, ast.Name):
        return node.id in LOOKING_UP or node.id.startswith("__") and node.id not in HARMLESS
    if isinstance(node, ast.Attribute):
        return node.attr in lasts or _beyond(node.attr)
    if isinstance(node, ast.Import):
        return any(alias.name not in MODULES for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        if node.module == "__future__":
            return False
        names = [alias.name for alias in node.names]
        return node.level > 0 or node.module not in MODULES or any(one in lasts or one == "*" or _beyond(one) for one in names)
    if isinstance(node, ast.MatchClass):
        return bool(node.kwd_attrs or node.patterns)
    return False


def _beyond(name):
    return name.startswith("_") and name not in HARMLESS or name in LOOKING_UP or name in PARTS or (name in _modules() and name not in USUAL)


@functools.cache
def _modules():
    """Names under which the usual modules hold other modules."""
    return {
        key
        for name in MODULES
        for key, value in vars(importlib.import_module(name)).items()
        if isinstance(value, types.ModuleType)
    }
