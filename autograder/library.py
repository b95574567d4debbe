"""Could this text reach a library function that is the exercise? If it could, the answer runs where there is none.

Reading text cannot prove that a call happens, so nothing is refused here. It can show that none is possible: a text
made only of the usual names and attributes has no path to the function. Anything else, down to a misspelt method,
is judged in a process of its own, in which the function does not work: that takes a little longer and is never wrong.
"""

import ast
import builtins
import functools
import importlib
import types

# What may be imported, and which of its names lead nowhere but to their own work; None: `_names` says.
MODULES = {
    "torch": None,
    "torch.nn": None,
    "torch.nn.functional": None,
    "math": None,
    "itertools": None,
    "numpy": None,
    "functools": {"cache", "lru_cache", "partial", "reduce"},
    "collections": {"Counter", "OrderedDict", "defaultdict", "deque"},
    "typing": {"Any", "Callable", "Dict", "Iterable", "List", "Optional", "Sequence", "Tuple", "Union"},
    "random": {"choice", "randint", "random", "sample", "seed", "shuffle", "uniform"},
    "time": {"perf_counter", "sleep", "time"},
    "warnings": {"warn"},
    "matplotlib.pyplot": {"axis", "close", "figure", "imshow", "legend", "plot", "scatter", "show", "subplots", "title", "xlabel", "ylabel"},
}  # fmt: skip
OF_TORCH = {"Tensor", "Generator", "Size", "autograd", "backward", "device", "dtype", "enable_grad", "finfo", "functional", "grad",
            "iinfo", "inf", "init", "is_tensor", "linalg", "manual_seed", "nan", "nn", "no_grad", "pi", "special", "tensor"}  # fmt: skip
NO_NAMES = {"breakpoint", "compile", "delattr", "dir", "earlier", "eval", "exec", "exit", "get_ipython", "getattr", "globals", "help",
            "input", "locals", "memoryview", "open", "quit", "setattr", "vars", "In", "Out"}  # fmt: skip
NO_ATTRIBUTES = {"load", "save", "tofile", "ctypes", "dump", "dumps", "data_ptr", "storage", "untyped_storage", "get_submodule", "compile",
                 "register_module", "add_module", "import_ir_module", "share_memory_"}  # fmt: skip
METHODS = {"__init__", "__call__", "__len__", "__iter__", "__getitem__", "__post_init__", "__repr__"}  # that a class may define


def may_reach(sources, name):
    """Whether the cells `sources` could call what exercise `name` may not use."""
    from coursekit.checks import refused_names

    lasts = frozenset(dotted.split(".")[-1] for dotted in refused_names(name))
    return bool(lasts) and any(_reaches(source, lasts) for source in sources)


@functools.lru_cache(512)
def _reaches(source, lasts):
    found = _attributes(source)  # None: something unusual
    return found is None or bool(found & lasts)


@functools.lru_cache(64)
def _attributes(source):
    """The attributes and imported names of a cell; None where it has what is not usual, or does not parse."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a magic, or nothing that runs
        return None
    own = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    own -= _leading()  # that a text uses such a name itself does not make it harmless elsewhere
    found = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            if node.attr not in METHODS and (node.attr.startswith("_") or node.attr not in own | _usual() or node.attr in NO_ATTRIBUTES):
                return None
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            if node.id in NO_NAMES or node.id.startswith("__"):
                return None
        elif isinstance(node, ast.Import):
            if any(alias.name not in MODULES for alias in node.names):
                return None
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = {alias.name for alias in node.names}
            if node.level or node.module not in MODULES or not names <= _names(node.module) - NO_ATTRIBUTES:
                return None
            found |= names
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if node.name.startswith("__") and node.name not in METHODS:
                return None
        elif isinstance(node, (ast.MatchClass, ast.AsyncFunctionDef, ast.Await)):
            return None
    return found


@functools.cache
def _usual():
    """Attributes that lead nowhere: of tensors, arrays, plain data, modules of layers, and of `MODULES`."""
    import numpy
    import torch

    kinds = (torch.Tensor, torch.nn.Module, torch.autograd.Function, numpy.ndarray, torch.Generator, torch.finfo, torch.Size)
    kinds += (str, list, dict, tuple, set, int, float, slice, range, bytes, property)
    public = {name for kind in kinds for name in dir(kind) if not name.startswith("_")}
    return frozenset(public.union(*map(_names, MODULES)) | {"setter", "save_for_backward", "saved_tensors"})


@functools.cache
def _leading():
    """Attributes by which functions, frames, types and modules lead on to others."""
    kinds = [getattr(types, name) for name in types.__all__ if isinstance(getattr(types, name), type)]
    held = [*map(importlib.import_module, MODULES), *kinds, type, BaseException]
    return frozenset(name for one in held for name in dir(one)) - _usual()


@functools.cache
def _names(module):
    """Names of a module that lead nowhere but to their own work."""
    if MODULES[module] is not None:
        return frozenset(MODULES[module])
    held = vars(importlib.import_module(module))
    public = {name: value for name, value in held.items() if not name.startswith("_") and not isinstance(value, types.ModuleType)}
    if module == "torch":  # operators and dtypes; the rest of it holds a compiler, a loader and more
        import torch

        operators = set(dir(torch._C._VariableFunctions))
        kept = {name for name, value in public.items() if name in operators or isinstance(value, torch.dtype)}
    elif module == "numpy":
        import numpy

        kept = {name for name, value in public.items() if isinstance(value, (numpy.ufunc, type(numpy.float32), float))}
        kept |= {"arange", "argmax", "argsort", "array", "asarray", "concatenate", "linspace", "mean", "ones", "stack", "sum", "where", "zeros"}
    else:
        kept = set(public)
    return frozenset((kept | OF_TORCH if module.startswith("torch") else kept) - set(dir(builtins)) - {"getattr"})
