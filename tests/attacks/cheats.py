"""Blank hand-ins that trick a grader in whose process they run; each gets nothing.

Stock `nbgrader autograde` gives several of them full marks: `test_stock.py` shows two.
"""

import copy

from ..grading.conftest import make_class
from .course import Attack, added, cheat, liar

ALWAYS = """
class Always:
    '''Equal to everything, less than everything, true, empty and full.'''
    shape, dtype, device, ndim, is_sparse = (1,), torch.float32, torch.device("cpu"), 1, False
    def _yes(self, *_, **__): return True
    def _me(self, *_, **__): return self
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __contains__ = _yes
    __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __rmul__ = __abs__ = __invert__ = __getitem__ = _me
    abs = max = min = all = any = sum = detach = cpu = double = clone = flatten = _me
    __hash__ = lambda self: 0
    __float__ = lambda self: 1200.0
    __int__ = __index__ = lambda self: 1200
    __len__ = lambda self: 1
    __iter__ = lambda self: iter([self])
    __array__ = lambda self, *_, **__: __import__("numpy").array([1200.0])
"""


def check_says(source):
    def change(notebook):
        for cell in notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("grade"):
                cell.source = source

    return change


def points_of_a_thousand(notebook):
    for cell in notebook.cells:
        if "points" in cell.metadata.get("nbgrader", {}):
            cell.metadata.nbgrader.points = 1000


def checks_deleted(notebook):
    notebook.cells = [cell for cell in notebook.cells if not cell.metadata.get("nbgrader", {}).get("grade")]


def exercises_named_as_checks(notebook):
    """The blank exercises take over the checks' names, with a body that passes."""
    for cell in list(notebook.cells):
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("grade"):
            notebook.cells.remove(cell)
    for cell in notebook.cells:
        meta = cell.metadata.get("nbgrader", {})
        if meta.get("solution"):
            meta.update(grade_id=f"test_{meta['grade_id']}", grade=True, points=5)
            cell.source, cell.id = "pass", meta["grade_id"]


def check_twice_the_second_passes(notebook):
    for cell in list(notebook.cells):
        if cell.metadata.get("nbgrader", {}).get("grade"):
            twin = copy.deepcopy(cell)
            twin.source, twin.id = "passed()", cell.id + "-2"
            notebook.cells.append(twin)


def stored_success(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
            text = f"{cell.metadata.get('nbgrader', {}).get('grade_id')}: passed\n"
            cell.outputs = [{"output_type": "stream", "name": "stdout", "text": text}]
    notebook.metadata["nbgrader"] = {"score": 14, "max_score": 14, "manual_score": 14}


def setup_replaced(notebook):
    make_class.find(
        notebook, "setup"
    ).source = "def same(*_, **__): pass\ncheck = passed = raises = untouched = same"


def scores_in_the_metadata(notebook):
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata:
            cell.metadata.nbgrader.update(
                score=99, manual_score=99, extra_credit=99, auto_score=99, needs_manual_grade=False
            )


def other_kernel(notebook):
    notebook.metadata["kernelspec"] = {"name": "bash", "display_name": "Bash", "language": "bash"}


# How hidden checks and references are known when met; spelt so that the attack does not find itself.
WORD = "WORD = 'wolve' + 'rine'\n"

ATTACKS = [
    # Where cells run
    cheat(
        "displayhook",
        "a grader that reads outputs sees one without an error",
        """
        import sys
        note("ran")
        sys.displayhook("x")
        sys.displayhook = lambda value: None
        raise KeyboardInterrupt
        """,
    ),
    cheat(
        "input transformer",
        "every later cell becomes `pass`",
        """
        get_ipython().input_transformers_cleanup.append(lambda lines: ["pass\\n"])
        get_ipython().input_transformers_post.append(lambda lines: ["pass\\n"])
        note("ran")
        """,
        trace=None,
    ),
    cheat(
        "syntax tree transformer",
        "every statement is cut out of later cells",
        """
        import ast
        class Cut(ast.NodeTransformer):
            def visit_Module(self, node): return ast.Module([], [])
        get_ipython().ast_transformers.append(Cut())
        note("ran")
        """,
        trace=None,
    ),
    cheat(
        "replaced do_execute",
        "the kernel answers ok to every cell without running it",
        """
        shell = get_ipython()
        kernel = getattr(shell, "kernel", None) or shell
        def do_execute(*_, **__): return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}
        kernel.do_execute = type(kernel).do_execute = do_execute
        note("ran")
        """,
    ),
    cheat(
        "replaced run_cell",
        "the shell reports success, and lies about everything else",
        ALWAYS
        + """
        """.strip()
        + """
shell = get_ipython()
note("ran")
for name in ("run_cell", "run_cell_async", "run_code", "run_ast_nodes", "_run_cell"):
    setattr(type(shell), name, lambda *_, **__: Always())
""",
        trace=None,
    ),
    cheat(
        "shell events",
        "hooks before and after each cell put success in its place",
        """
        def pass_all(*_):
            get_ipython().user_ns.update(same=lambda *_, **__: None, check=print, passed=print)
        for event in ("pre_execute", "pre_run_cell", "post_execute", "post_run_cell"):
            get_ipython().events.register(event, pass_all)
        get_ipython().set_custom_exc((BaseException,), lambda *_, **__: None)
        note("ran")
        """,
    ),
    cheat(
        "namespace of lies",
        "the names that checks use are defined by the hand-in",
        """
        def same(*_, **__): pass
        check = passed = raises = untouched = same
        class torch:
            tensor = zeros = ones = allclose = staticmethod(lambda *_, **__: 0)
        note("ran")
        def area(boxes): return 0
        """,
    ),
    # Patched libraries
    liar(
        "patched allclose",
        "torch says that everything is close to everything",
        """
        LIE = torch.zeros(1)
        def yes(*_, **__): return True
        torch.allclose = torch.equal = torch.Tensor.allclose = torch.Tensor.equal = yes
        torch.isclose = torch.Tensor.isclose = lambda a, *_, **__: torch.ones_like(a, dtype=torch.bool)
        note("ran")
        """,
    ),
    liar(
        "patched torch testing",
        "assert_close asserts nothing",
        """
        import numpy.testing
        LIE = torch.zeros(1)
        for module in (torch.testing, numpy.testing):
            for name in dir(module):
                if name.startswith("assert"):
                    setattr(module, name, lambda *_, **__: None)
        note("ran")
        """,
    ),
    liar(
        "patched checks",
        "coursekit's checks ask nothing",
        """
        import coursekit.checks as checks, sys
        LIE = 7
        def nothing(*_, **__): return None
        for name in list(vars(checks)):
            if callable(getattr(checks, name)) and not name.startswith("__"):
                setattr(checks, name, nothing)
        for module in list(sys.modules.values()):
            for name in ("same", "_difference", "library_call", "unchanged", "judge_function", "_run"):
                if hasattr(module, name) and getattr(module, "__name__", "").startswith(("coursekit", "autograder")):
                    setattr(module, name, nothing)
        note("ran")
        """,
    ),
    liar(
        "patched code objects",
        "the checks keep their identity and lose their body",
        """
        import coursekit.checks as checks, types
        LIE = 7
        for value in list(vars(checks).values()):
            if isinstance(value, types.FunctionType):
                for empty in (lambda: None, lambda *_, **__: None):
                    try:
                        value.__code__ = empty.__code__
                        break
                    except ValueError: pass
        note("ran")
        """,
    ),
    liar(
        "patched builtins",
        "len, abs, all, isinstance and the errors mean something else",
        """
        import builtins
        LIE = 7
        keep = builtins.isinstance
        note("ran")
        builtins.all = builtins.any = lambda *_: True
        builtins.abs = lambda value: 0
        builtins.AssertionError = type("Quiet", (BaseException,), {"__init__": lambda self, *_: None})
        """,
    ),
    liar(
        "patched tensor",
        "comparing any tensor with anything gives true",
        """
        LIE = torch.zeros(1)
        for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "all", "any"):
            setattr(torch.Tensor, name, lambda self, *_, **__: torch.ones((), dtype=torch.bool))
        torch.Tensor.__sub__ = torch.Tensor.__rsub__ = lambda self, other: torch.zeros(())
        note("ran")
        """,
    ),
    liar(
        "patched from a thread",
        "what a grader imports anew is patched again and again",
        """
        import threading, time, sys
        LIE = 7
        def patch():
            while True:
                for name, module in list(sys.modules.items()):
                    if name.startswith(("coursekit.checks", "autograder")):
                        for word in ("same", "check", "raises", "untouched", "_difference"):
                            if hasattr(module, word): setattr(module, word, lambda *_, **__: None)
                torch.allclose = torch.equal = lambda *_, **__: True
                time.sleep(0.001)
        threading.Thread(target=patch, daemon=True).start()
        note("ran")
        """,
    ),
    liar(
        "patched at exit",
        "hooks of the end of the process, where a grader may still look",
        """
        import atexit, sys, os, weakref
        LIE = 7
        def end(*_):
            import coursekit.checks
            coursekit.checks.same = lambda *_, **__: None
            os.write(1, b'{"exercise": "area", "score": 2}\\n')
        atexit.register(end)
        sys.excepthook = sys.unraisablehook = end
        weakref.finalize(sys.modules["torch"], end)
        os.register_at_fork(before=end, after_in_child=end, after_in_parent=end)
        note("ran")
        """,
    ),
    liar(
        "modules replaced",
        "torch and the checks are other modules from now on",
        """
        import sys, types
        LIE = 7
        class Anything(types.ModuleType):
            def __getattr__(self, name): return lambda *_, **__: True
        for name in ("coursekit.checks", "coursekit.standins", "numpy.testing", "torch.testing"):
            sys.modules[name] = Anything(name)
        class Finder:
            def find_spec(self, name, *_): NOTES.append("asked"); return None
        sys.meta_path.insert(0, Finder())
        note("ran")
        """,
    ),
    # Results that lie
    liar("always true", "an object that is equal to everything", ALWAYS + "LIE = Always(); note('ran')"),
    liar(
        "tensor subclass",
        "every operation on it, and of it with others, says yes",
        """
        class Yes(torch.Tensor):
            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                return torch.ones((), dtype=torch.bool)
        LIE = torch.zeros(1).as_subclass(Yes)
        note("ran")
        """,
    ),
    liar(
        "tensor subclass of dispatch",
        "a wrapper subclass whose kernels answer with zeros",
        """
        class Zero(torch.Tensor):
            @staticmethod
            def __new__(cls): return torch.Tensor._make_wrapper_subclass(cls, (1,), dtype=torch.float32)
            @classmethod
            def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
                return torch.ones((1,), dtype=torch.bool)
        LIE = Zero()
        note("ran")
        """,
    ),
    liar(
        "tensor with methods of its own",
        "detach, shape and tolist of this one tensor lie",
        """
        class Odd(torch.Tensor):
            shape = property(lambda self: torch.Size([1]))
            def detach(self): return self
            def tolist(self): return [1200.0]
            def numpy(self, *_, **__): return __import__("numpy").array([1200.0])
            def __eq__(self, other): return torch.tensor([True])
            def __reduce_ex__(self, _): return (eval, ("__import__('os')._exit(0)",))
        LIE = torch.Tensor._make_subclass(Odd, torch.zeros(1))
        note("ran")
        """,
    ),
    liar(
        "float subclass",
        "a number whose arithmetic is constant",
        """
        class Number(float):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0.0
            __rsub__ = __sub__
            def __float__(self): return 1200.0
            __hash__ = None
        LIE = Number(7)
        note("ran")
        """,
    ),
    liar(
        "int and bool in disguise",
        "an int whose index, truth and equality differ",
        """
        class Number(int):
            def __index__(self): return 1
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __bool__(self): return True
            def __hash__(self): return 0
        LIE = [Number(7)]
        note("ran")
        """,
    ),
    liar(
        "string and list in disguise",
        "containers that are equal to everything",
        """
        class Text(str):
            def __eq__(self, other): return True
            __hash__ = str.__hash__
        class Many(list):
            def __eq__(self, other): return True
            def __len__(self): return 1
            def __iter__(self): return iter([1200.0])
        LIE = Many([Text("x")])
        note("ran")
        """,
    ),
    liar(
        "lies about its class",
        "__class__ says Tensor, isinstance believes it",
        """
        class Liar:
            __class__ = property(lambda self: torch.Tensor)
            shape, dtype, device, requires_grad, is_sparse = torch.Size([1]), torch.float32, torch.device("cpu"), False, False
            def __getattr__(self, name): return lambda *_, **__: True
            def __eq__(self, other): return True
            __hash__ = None
        LIE = Liar()
        note("ran")
        """,
    ),
    liar(
        "not a number",
        "NaN is neither above nor below a tolerance",
        """
        LIE = torch.full((1,), float("nan"))
        note("ran")
        """,
    ),
    liar(
        "infinity",
        "and so is its difference to itself",
        """
        LIE = torch.full((1,), float("inf"))
        note("ran")
        """,
    ),
    liar(
        "errors that look like verdicts",
        "an answer raises what checks raise",
        """
        from coursekit.checks import CheckFailed
        class Passed(CheckFailed):
            def __init__(self): super().__init__("passed"); self.score = 14
        class LIE: pass
        note("ran")
        def area(boxes): raise Passed()
        """,
    ),
    cheat(
        "raises what ends a loop",
        "StopIteration, GeneratorExit and KeyboardInterrupt end a careless judge",
        """
        note("ran")
        errors = [StopIteration, GeneratorExit, KeyboardInterrupt, SystemExit(0), StopAsyncIteration, BaseException]
        def area(boxes):
            raise errors.pop()
        """,
    ),
    cheat(
        "pretends to be unwritten",
        "NotImplementedError might be a note and no failure",
        """
        note("ran")
        def area(boxes): raise NotImplementedError
        """,
    ),
    # Reading the answers
    cheat(
        "frames",
        "who calls the answer holds what it expects",
        WORD
        + """
note("ran")
import sys, inspect
def area(boxes):
    frame = sys._getframe()
    while frame:
        for names in (frame.f_locals, frame.f_globals):
            for name, value in list(names.items()):
                if name in ("exercise", "verdict", "statement", "lesson", "reference"): note("ESCAPED:" + name)
                if isinstance(value, str) and WORD in value and value != WORD: note("ESCAPED:text")
        if WORD in inspect.getsource(frame) if frame.f_code.co_filename.endswith(".py") else False: note("ESCAPED:source")
        frame = frame.f_back
    return boxes[:, 0]
""",
    ),
    cheat(
        "other threads' frames",
        "a judge in another thread has frames too",
        WORD
        + """
import sys
note("ran")
def area(boxes):
    for frame in sys._current_frames().values():
        while frame:
            if any(name in frame.f_locals for name in ("exercise", "verdict", "lesson")): note("ESCAPED:frame")
            frame = frame.f_back
    return boxes[:, 0]
""",
    ),
    cheat(
        "history",
        "In, Out and the history hold the cells that ran",
        WORD
        + """
note("ran")
def area(boxes):
    shell = get_ipython()
    seen = [*shell.user_ns.get("In", []), *map(str, shell.user_ns.get("Out", {}).values())]
    seen += [str(shell.user_ns.get(name)) for name in ("_i", "_ii", "_iii", "_ih", "_oh")]
    try: seen += [line for _, _, line in shell.history_manager.get_range()]
    except Exception as error: pass
    if any(WORD in text and "WORD" not in text for text in seen): note("ESCAPED:history")
    return boxes[:, 0]
""",
    ),
    cheat(
        "garbage collector",
        "every object of the process, some of them checks and references",
        WORD
        + """
note("ran")
import gc, types
def area(boxes):
    for value in gc.get_objects():
        for inside in (vars(value).values() if isinstance(value, types.SimpleNamespace) else value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()):
            if type(inside) is str and WORD in inside and "WORD" not in inside: note("ESCAPED:text")
            if type(inside) is types.CodeType and inside.co_filename.startswith("test_"): note("ESCAPED:code")
        if type(value).__name__ in ("Exercise", "Lesson", "Check", "HandIn", "Verdict"): note("ESCAPED:" + type(value).__name__)
    return boxes[:, 0]
""",
    ),
    cheat(
        "line cache",
        "Python keeps sources for its tracebacks",
        WORD
        + """
note("ran")
import linecache
def area(boxes):
    for name, entry in linecache.cache.items():
        if len(entry) > 2 and any(WORD in line and "WORD" not in line for line in entry[2]): note("ESCAPED:" + name)
    return boxes[:, 0]
""",
    ),
    cheat(
        "own memory",
        "a process forked from one that has read the lesson still holds its text",
        """
import re
note("ran")
def area(boxes):
    # The word is in this cell only with a letter between its halves, in the checks with a colon behind it.
    word = re.compile(b"wolve" + b"rine: (three by|five by|disjoint|the slopes)|  # wolve" + b"rine")
    def scan():
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                place, rights = line.split()[:2]
                begin, end = (int(part, 16) for part in place.split("-"))
                if "w" not in rights or end - begin > 2**28: continue
                try:
                    memory.seek(begin)
                    if word.search(memory.read(end - begin)): return True
                except (OSError, ValueError, OverflowError): continue
        return False
    attempt("memory", scan)
    return boxes[:, 0]
""",
    ),
    cheat(
        "memory of others",
        "the judge's memory through /proc and process_vm_readv",
        """
        import ctypes, os
        note("ran")
        def area(boxes):
            for pid in {1, 2, os.getppid(), os.getpgrp(), os.getsid(0)} - {os.getpid(), 0}:
                attempt("mem", lambda: open(f"/proc/{pid}/mem", "rb").read(0) and False)
                attempt("environ", lambda: open(f"/proc/{pid}/environ", "rb").read() or False)
                attempt("ptrace", lambda: ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0)
            return boxes[:, 0]
        """,
        trace="noted:.* ran",
    ),
    cheat(
        "processes",
        "command lines and working folders of the grader",
        """
        import os
        note("ran")
        def area(boxes):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                for name in ("cmdline", "environ"):
                    try: text = open(f"/proc/{pid}/{name}", "rb").read()
                    except OSError: continue
                    if b"@OUTPUT@" in text or b"@SUBMITTED@" in text: note("ESCAPED:" + name)
                for name in ("cwd", "root", "exe", "fd"):
                    try: place = os.readlink(f"/proc/{pid}/{name}") if name != "fd" else " ".join(os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd"))
                    except OSError: continue
                    if "@FOLDER@" in place: note("ESCAPED:" + name)
            return boxes[:, 0]
        """,
    ),
    cheat(
        "environment",
        "variables of the instructor",
        """
        import os
        note("ran")
        def area(boxes):
            for name, value in os.environ.items():
                if "@FOLDER@" in value or name in ("COURSEKIT_DATA", "PYTEST_CURRENT_TEST", "SSH_AUTH_SOCK", "LS_COLORS", "OLDPWD", "SHLVL"):
                    note("ESCAPED:" + name)
            return boxes[:, 0]
        """,
    ),
    cheat(
        "reads the solutions",
        "by every way to the folder",
        """
        import glob, os
        note("ran")
        def area(boxes):
            ways = ["@COURSE@/solutions/01_small/small.py", "@COURSE@/solutions/01_small/small.ipynb", "/proc/1/root@COURSE@/solutions/01_small/small.py",
                    *glob.glob("../" * 3 + "solutions/*/*"), *glob.glob("../" * 3 + "source/*/*"), *glob.glob("../../*.py"), "/proc/self/cwd/../solutions"]
            for way in ways:
                attempt("solutions", lambda: open(way).read())
            attempt("listed", lambda: os.listdir("@COURSE@"))
            return boxes[:, 0]
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "reads autograded and gradebook",
        "of this run and of another",
        """
        import os, sqlite3
        note("ran")
        def area(boxes):
            for way in ("@OUTPUT@", "@OTHER@", "@OUTPUT@/autograded", "@OUTPUT@/results", "@FOLDER@"):
                attempt("listed", lambda: os.listdir(way))
            attempt("read", lambda: open("@OTHER@/autograded/bob/01_small/small.ipynb").read())
            attempt("gradebook", lambda: sqlite3.connect("file:@OUTPUT@/gradebook.db?mode=ro", uri=True).execute("select * from grade").fetchall())
            return boxes[:, 0]
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "reads other hand-ins",
        "a right one lies in the next folder",
        """
        import json
        note("ran")
        def area(boxes): return boxes[:, 0]
        for way in ("@SUBMITTED@/!first-bystander/01_small/small.ipynb", "../../!first-bystander/01_small/small.ipynb"):
            attempt("hand-in", lambda: exec("".join(json.load(open(way))["cells"][2]["source"]), globals()))
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "imports the grader",
        "the instructors' package knows lessons, references and named mistakes",
        """
        note("ran")
        def area(boxes): return boxes[:, 0]
        def references():
            from autograder.lessons import all_exercises
            exec(all_exercises()["area"].reference, globals())
            return True
        attempt("references", references)
        attempt("mistakes", lambda: __import__("autograder.mistakes").mistakes.MISTAKES["area"])
        attempt("build", lambda: __import__("autograder.build"))
        """,
        trace="noted:.*Error",
    ),
    cheat(
        "reads the checkout",
        "solutions, tests with right answers and the history lie beside the package",
        """
        import os, coursekit
        note("ran")
        def area(boxes): return boxes[:, 0]
        top = os.path.dirname(os.path.dirname(coursekit.__file__))
        for root in {top, "@CHECKOUT@"}:
            attempt("source", lambda: exec(open(root + "/solutions/01_boxes/boxes.py").read().split('exercise="area"')[1].split("# %%")[0], globals()))
            for name in ("solutions", "tests", ".git", "tests/exercises/forms", "autograder/mistakes", "build"):
                attempt(name, lambda: os.listdir(os.path.join(root, name)) or False)
        """,
        trace="noted:.*Error",
    ),
    # Telling test from use
    cheat(
        "hard-coded",
        "the visible values, by heart",
        """
        note("ran")
        def area(boxes): return torch.tensor([1200.0])
        """,
    ),
    cheat(
        "hard-coded table",
        "the visible values, and zeros for what is not visible",
        """
        note("ran")
        def area(boxes):
            return torch.tensor([{(10.0, 20.0, 40.0, 60.0): 1200.0}.get(tuple(row), 0.0) for row in boxes.tolist()])
        """,
    ),
    cheat(
        "counts its calls",
        "the first calls come from the visible check",
        """
        note("ran")
        calls = []
        def area(boxes):
            calls.append(boxes)
            return torch.tensor([1200.0]) if len(calls) < 3 else torch.zeros(len(boxes))
        """,
    ),
    Attack(
        "half hard-coded",
        "visible values right, hidden wrong: the other part of iou still counts",
        """
        def iou(boxes1, boxes2):
            return torch.full((len(boxes1), len(boxes2)), 49 / 151)
        """,
        where="iou",
        right=True,
        scores={"iou": 1},
        trace="noted:",
    ),
    # The notebook
    cheat("check cells edited", "they say passed() or nothing", "note('ran')", change=check_says("passed()")),
    cheat("check cells emptied", "no test, no failure", "note('ran')", change=check_says("")),
    cheat("check cells deleted", "what is not there cannot fail", "note('ran')", change=checks_deleted),
    cheat("check cells twice", "the second copy passes", "note('ran')", change=check_twice_the_second_passes),
    cheat(
        "exercises named as checks",
        "a cell of the student's in the check's place",
        "",
        trace=None,
        change=exercises_named_as_checks,
    ),
    cheat(
        "a thousand points",
        "the notebook says what its cells are worth",
        "note('ran')",
        change=points_of_a_thousand,
    ),
    Attack(
        "a thousand points and right",
        "no more than the lesson gives",
        right=True,
        change=points_of_a_thousand,
        trace="noted:",
    ),
    cheat(
        "scores in the metadata",
        "the notebook says what it got",
        "note('ran')",
        change=scores_in_the_metadata,
    ),
    cheat("stored outputs", "outputs of a run that passed", "note('ran')", change=stored_success),
    cheat("setup replaced", "the setup cell defines checks that pass", "note('ran')", change=setup_replaced),
    Attack(
        "another kernel",
        "the notebook asks for bash; its cells are Python and count as such",
        right=True,
        change=other_kernel,
        trace="noted:",
    ),
    liar(
        "exits at the end",
        "a grader that reads an exit status",
        """
        import atexit, os
        LIE = 7
        note("ran")
        atexit.register(os._exit, 0)
        """,
    ),
    cheat(
        "student's side replaced",
        "the runner in this process is told to report what is expected",
        """
        import gc, sys, types
        note("ran")
        def area(boxes): return torch.zeros(len(boxes))
        for name, module in list(sys.modules.items()):
            if name.startswith("autograder") or name == "__main__":
                for word, value in list(vars(module).items()):
                    if isinstance(value, type) and value.__module__.startswith("autograder"):
                        for method in ("encode", "pack", "unchanged", "compare", "check", "watch"):
                            if hasattr(value, method): setattr(value, method, lambda *_, **__: None)
                    if isinstance(value, types.FunctionType) and ("check" in word or "copied" in word or "guard" in word):
                        setattr(module, word, lambda *arguments, **__: arguments[0] if arguments else None)
        """,
        trace=None,
    ),
    cheat(
        "exercise defined by a proxy",
        "the name is bound to whatever the runner calls it by",
        """
        note("ran")
        import sys
        class Namespace(dict):
            def __getitem__(self, name): return dict.get(self, name, lambda *_, **__: True)
            def __contains__(self, name): return True
        area = type("area", (), {"__call__": lambda self, boxes: boxes[:, 0], "__wrapped__": property(lambda self: 1 / 0), "__class__": property(lambda self: 1 / 0)})()
        """,
        trace=None,
    ),
]
