"""Answers that hand the exercise to the library function it builds: that exercise earns nothing, and is told why.

The last ones are honest: they compare with the library, or use it for another exercise.
"""

from .course import LIBRARY_POINTS, Attack, added
from .course import fair as fair_in_any_course

TOLD = "is what this exercise builds"
GONE = TOLD + "|has no attribute|ModuleNotFoundError|KeyError|OSError|NameError|None, expected|not done after"


# The library's function with no name of it in the code: who reads the answer does not see it.
UNNAMED = """
def ready(name="box" + "_area"):
    return vars(__import__("torch" + "vision.ops.boxes", fromlist=["x"]))[name]
"""


def call(name, why, code, where="box_area", trace=TOLD):
    """A right hand-in but for one exercise."""
    return Attack(
        name,
        why,
        code,
        where=where,
        right=True,
        scores={where: 0},
        trace=trace,
        plain=True,
        points=LIBRARY_POINTS,
    )


def fair(name, why, code, **options):
    """An honest hand-in."""
    return fair_in_any_course(name, why, code, points=LIBRARY_POINTS, **options)


ATTACKS = [
    call(
        "library plainly",
        "the call itself",
        """
        import torchvision
        def box_area(boxes): return torchvision.ops.box_area(boxes)
        """,
    ),
    call(
        "library by alias",
        "another name",
        """
        from torchvision.ops import box_area as ready
        def box_area(boxes): return ready(boxes)
        """,
    ),
    call(
        "library bound",
        "the name is the function itself",
        """
        from torchvision.ops import box_area
        """,
    ),
    call(
        "library by getattr",
        "a name put together from pieces",
        """
        import torchvision
        def box_area(boxes): return getattr(torchvision.ops, "box_" + "area")(boxes)
        """,
    ),
    call(
        "library by importlib",
        "imported at the call",
        """
        def box_area(boxes):
            import importlib
            return importlib.import_module("torchvision.ops.boxes").box_area(boxes)
        """,
    ),
    call(
        "library by reload",
        "a fresh module has functions of other identity",
        """
        import importlib, torchvision.ops.boxes as boxes_module
        fresh = importlib.reload(boxes_module)
        def box_area(boxes): return fresh.box_area(boxes)
        """,
        trace=GONE,
    ),
    call(
        "library by a second module",
        "loaded again under another name",
        """
        import importlib.util, torchvision.ops.boxes as ready
        spec = importlib.util.spec_from_file_location("torchvision.ops.mine", ready.__file__)
        fresh = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(fresh)
        def box_area(boxes): return fresh.box_area(boxes)
        """,
        trace=GONE,
    ),
    call(
        "library source executed",
        "its file, run in the notebook's namespace",
        """
        import torchvision.ops.boxes as ready
        names = {"__name__": "torchvision.ops.mine", "__package__": "torchvision.ops"}
        exec(open(ready.__file__).read(), names)
        def box_area(boxes): return names["box_area"](boxes)
        """,
        trace=GONE,
    ),
    call(
        "library by partial",
        "wrapped",
        """
        import functools, torchvision
        box_area = functools.partial(torchvision.ops.box_area)
        """,
    ),
    call(
        "library in a lambda in a list",
        "reached by an index",
        """
        import torchvision
        box_area = [lambda boxes: [torchvision.ops.box_area][0](boxes)][0]
        """,
    ),
    call(
        "library by its code",
        "a new function with the library's code",
        """
        import types, torchvision.ops.boxes as ready
        box_area = types.FunctionType(ready.box_area.__code__, vars(ready), "box_area", ready.box_area.__defaults__)
        """,
    ),
    call(
        "library by changed code",
        "the same code under another name and first line",
        """
        import types, torchvision.ops.boxes as ready
        code = ready.box_area.__code__.replace(co_name="mine", co_firstlineno=1, co_filename="mine.py")
        mine = types.FunctionType(code, vars(ready), "mine", ready.box_area.__defaults__)
        def box_area(boxes): return mine(boxes)
        """,
    ),
    call(
        "library in a thread",
        "hooks of one thread do not see another",
        """
        import threading, torchvision
        def box_area(boxes):
            found = []
            thread = threading.Thread(target=lambda: found.append(torchvision.ops.box_area(boxes)))
            thread.start(); thread.join()
            return found[0]
        """,
    ),
    call(
        "library in a pool",
        "threads that were there before the check",
        """
        import concurrent.futures, torchvision
        pool = concurrent.futures.ThreadPoolExecutor(1)
        pool.submit(int).result()
        def box_area(boxes): return pool.submit(torchvision.ops.box_area, boxes).result()
        """,
    ),
    call(
        "library with hooks off",
        "profile and trace hooks are removed first",
        """
        import sys, threading, torchvision
        def box_area(boxes):
            sys.setprofile(None); sys.settrace(None)
            threading.setprofile(None); threading.settrace(None)
            for number in range(6):
                try: sys.monitoring.free_tool_id(number)
                except Exception: pass
            return torchvision.ops.box_area(boxes)
        """,
    ),
    call(
        "library with hooks that cannot be set",
        "sys.setprofile does nothing any more",
        """
        import sys, threading, torchvision
        sys.setprofile = sys.settrace = threading.setprofile = lambda *_: None
        def box_area(boxes): return torchvision.ops.box_area(boxes)
        """,
    ),
    call(
        "library and the error swallowed",
        "the refusal is caught, the call tried again",
        """
        import torchvision
        def box_area(boxes):
            for _ in range(3):
                try: return torchvision.ops.box_area(boxes)
                except BaseException: pass
            return torchvision.ops.box_area(boxes)
        """,
    ),
    call(
        "library found by gc",
        "no import and no name",
        """
        import gc, types
        def box_area(boxes):
            for value in gc.get_objects():
                if isinstance(value, types.FunctionType) and value.__name__ == "box_area" and (value.__module__ or "").startswith("torchvision"):
                    return value(boxes)
        """,
        trace=GONE,
    ),
    call(
        "library pickled",
        "a pickle names the function and finds it",
        """
        import pickle
        def box_area(boxes): return pickle.loads(b"ctorchvision.ops.boxes\\nbox_area\\n.")(boxes)
        """,
    ),
    call(
        "library scripted",
        "compiled before the check looks at the call",
        """
        import torchvision
        scripted = torch.jit.script(torchvision.ops.boxes.box_area)
        def box_area(boxes): return scripted(boxes)
        """,
        trace=GONE,
    ),
    call(
        "library traced",
        "recorded before the check looks at the call",
        """
        import torchvision
        traced = torch.jit.trace(lambda boxes: torchvision.ops.boxes._upcast(boxes) if False else torchvision.ops.box_area(boxes), torch.rand(3, 4))
        def box_area(boxes): return traced(boxes)
        """,
        trace=None,
    ),
    call(
        "library before the guard",
        "wrapped in a class's __call__ and a property",
        """
        import torchvision
        class Area:
            ready = property(lambda self: torchvision.ops.box_area)
            def __call__(self, boxes): return self.ready(boxes)
        box_area = Area()
        """,
    ),
    call(
        "library's diagonal",
        "another library function that calls it inside",
        """
        import torchvision
        def box_area(boxes):
            inter, union = torchvision.ops.boxes._box_inter_union(boxes, boxes)
            return union.diagonal()
        """,
    ),
    call(
        "library in another process",
        "a new interpreter has no hooks",
        """
        import subprocess, sys, json
        def box_area(boxes):
            code = "import sys, json, torch, torchvision; print(json.dumps(torchvision.ops.box_area(torch.tensor(json.load(sys.stdin)).reshape(-1, 4)).tolist()))"
            done = subprocess.run([sys.executable, "-c", code], input=json.dumps(boxes.tolist()), capture_output=True, text=True)
            return torch.tensor(json.loads(done.stdout))
        """,
        trace=None,
    ),
    call(
        "library in a fork",
        "a child that calls it and writes the numbers to a pipe",
        """
        import os, json, torchvision
        def box_area(boxes):
            read, write = os.pipe()
            if os.fork() == 0:
                import sys
                sys.setprofile(None)
                os.write(write, json.dumps(torchvision.ops.box_area(boxes).tolist()).encode())
                os._exit(0)
            os.wait()
            return torch.tensor(json.loads(os.read(read, 10000)))
        """,
        trace=None,
    ),
    call(
        "stand-in",
        "coursekit has the library's function ready",
        """
        from coursekit.standins import STANDINS
        def box_area(boxes): return STANDINS["box_area"](boxes)
        """,
    ),
    call(
        "earlier",
        "gives the library's while grading",
        """
        from coursekit.earlier import earlier
        box_area = earlier("box_area")
        """,
    ),
    call(
        "earlier at the call",
        "asked for inside the function",
        """
        import coursekit.earlier
        def box_area(boxes): return vars(coursekit.earlier)["earlier"]("box_area")(boxes)
        """,
    ),
    call(
        "refusal switched off",
        "the tables of refused functions are emptied",
        """
        import coursekit.standins, coursekit.checks, torchvision
        for table in (coursekit.standins.LIBRARY, coursekit.standins.STANDINS): table.clear()
        coursekit.checks.refused_names = coursekit.checks.library_call = lambda *_: ()
        def box_area(boxes): return torchvision.ops.box_area(boxes)
        """,
    ),
    call(
        "library put under another name in torch",
        "patched into a module nobody looks at",
        """
        import torchvision
        torch.area_of = torchvision.ops.box_area
        def box_area(boxes): return torch.area_of(boxes)
        """,
    ),
    call(
        "IoU of the library",
        "in the exercise with parts: none of them counts",
        """
        import torchvision
        def box_iou(boxes1, boxes2): return torchvision.ops.box_iou(boxes1, boxes2).nan_to_num(0)
        """,
        where="box_iou",
    ),
    call(
        "generalized IoU of the library",
        "the loss contains the IoU",
        """
        import torchvision
        def box_iou(boxes1, boxes2):
            inter, union = torchvision.ops.boxes._box_inter_union(boxes1, boxes2)
            return (inter / union).nan_to_num(0)
        """,
        where="box_iou",
    ),
    call(
        "IoU of pycocotools",
        "another library",
        """
        from pycocotools import mask
        def box_iou(boxes1, boxes2):
            wide = [torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1).double().numpy() for b in (boxes1, boxes2)]
            return torch.tensor(mask.iou(wide[0], wide[1], [0] * len(boxes2))).float().reshape(len(boxes1), len(boxes2))
        """,
        where="box_iou",
    ),
    call(
        "IoU of faster-coco-eval",
        "another library, its function in C++ itself",
        """
        from faster_coco_eval import mask_api_new_cpp
        def box_iou(boxes1, boxes2):
            wide = [torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], 1).double().numpy() for b in (boxes1, boxes2)]
            found = mask_api_new_cpp.iou(wide[0], wide[1], [0] * len(boxes2))
            return torch.tensor(found).float().reshape(len(boxes1), len(boxes2))
        """,
        where="box_iou",
    ),
    call(
        "NMS of the library",
        "a function of Python that calls an operator",
        """
        import torchvision
        def nms(boxes, scores, iou_threshold): return torchvision.ops.nms(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS operator",
        "the operator in C++ itself",
        """
        import torchvision
        def nms(boxes, scores, iou_threshold): return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS operator by getattr",
        "no name of it in the code",
        """
        import torchvision
        def nms(boxes, scores, iou_threshold):
            return getattr(getattr(torch, "o" + "ps"), "torch" + "vision").__getattr__("n" + "ms")(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS overload",
        "the operator's default overload",
        """
        import torchvision
        keep = torch.ops.torchvision.nms.default
        def nms(boxes, scores, iou_threshold): return keep(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS by the dispatcher",
        "asked for by its registered name",
        """
        def nms(boxes, scores, iou_threshold):
            found, _ = torch._C._jit_get_operation("torchvision::nms")[:2]
            return found(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "batched NMS",
        "a library function around the one that is refused",
        """
        import torchvision
        def nms(boxes, scores, iou_threshold):
            return torchvision.ops.batched_nms(boxes, scores, torch.zeros(len(boxes), dtype=torch.int64), iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS inside a detector",
        "a model of the library does it within",
        """
        import types, torchvision
        def nms(boxes, scores, iou_threshold):
            from torchvision.models.detection._utils import Matcher
            from torchvision.models.detection.roi_heads import box_ops
            return box_ops.nms(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    call(
        "NMS scripted",
        "the operator in TorchScript",
        """
        import torchvision
        @torch.jit.script
        def inside(boxes: torch.Tensor, scores: torch.Tensor, threshold: float):
            return torch.ops.torchvision.nms(boxes, scores, threshold)
        def nms(boxes, scores, iou_threshold): return inside(boxes, scores, float(iou_threshold))
        """,
        where="nms",
        trace=None,
    ),
    call(
        "smooth L1 of torch",
        "the functional form",
        """
        def smooth_l1_loss(prediction, target):
            return torch.nn.functional.smooth_l1_loss(prediction, target, reduction="none")
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 module",
        "the loss as a module, made outside of the function",
        """
        loss_of = nn.SmoothL1Loss(reduction="none")
        def smooth_l1_loss(prediction, target): return loss_of(prediction, target)
        """,
        where="smooth_l1_loss",
        trace=GONE,
    ),
    call(
        "Huber",
        "the same with threshold 1 under another name",
        """
        import torch.nn.functional as F
        def smooth_l1_loss(prediction, target): return F.huber_loss(prediction, target, reduction="none")
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 in C",
        "the built-in below the functional form",
        """
        below = torch._C._nn
        def smooth_l1_loss(prediction, target): return below.smooth_l1_loss(prediction, target, 0)
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 operator",
        "the operator of ATen",
        """
        def smooth_l1_loss(prediction, target): return torch.ops.aten.smooth_l1_loss(prediction, target, 0)
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 overload",
        "its overload, kept from before",
        """
        ready = getattr(torch.ops.aten, "huber_loss").default
        def smooth_l1_loss(prediction, target): return ready(prediction, target, 0)
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 in a helper of an added cell",
        "two functions away",
        """
        def smooth_l1_loss(prediction, target): return helper(prediction, target)
        def helper(*both): return one_more(*both)
        def one_more(a, b): return torch.nn.functional.smooth_l1_loss(a, b, reduction="none")
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 by default argument",
        "hidden in the signature",
        """
        def smooth_l1_loss(prediction, target, *, how=torch.nn.functional.smooth_l1_loss):
            return how(prediction, target, reduction="none")
        """,
        where="smooth_l1_loss",
    ),
    # Two tricks at once: not to be seen when the answer is read, nor when it runs
    call(
        "unnamed",
        "only watching the call shows it",
        UNNAMED
        + """
def box_area(boxes): return ready()(boxes)
""",
    ),
    call(
        "unnamed with hooks off",
        "and nobody watches",
        UNNAMED
        + """
def box_area(boxes):
    import sys, threading
    sys.setprofile(None); sys.settrace(None); threading.setprofile(None)
    return ready()(boxes)
""",
    ),
    call(
        "unnamed in a thread",
        "where nobody watches",
        UNNAMED
        + """
import threading
def box_area(boxes):
    found = []
    thread = threading.Thread(target=lambda: found.append(ready()(boxes)))
    thread.start(); thread.join()
    return found[0]
""",
    ),
    call(
        "unnamed in a pool",
        "in a thread started before the check",
        UNNAMED
        + """
import concurrent.futures
pool = concurrent.futures.ThreadPoolExecutor(1)
pool.submit(int).result()
def box_area(boxes): return pool.submit(lambda: ready()(boxes)).result()
""",
    ),
    call(
        "unnamed code",
        "a copy of the code: another object than the one that is watched for",
        UNNAMED
        + """
import types
def box_area(boxes):
    theirs = ready()
    code = theirs.__code__.replace(co_name="mine", co_filename="mine.py")
    return types.FunctionType(code, theirs.__globals__, "mine", theirs.__defaults__)(boxes)
""",
    ),
    call(
        "unnamed and reloaded",
        "the module loaded anew: other functions, other code",
        UNNAMED
        + """
import importlib, sys
importlib.reload(sys.modules["torch" + "vision.ops.boxes"])
def box_area(boxes): return ready()(boxes)
""",
        trace=GONE,
    ),
    call(
        "unnamed and scripted",
        "compiled to what runs without Python",
        UNNAMED
        + """
scripted = torch.jit.script(ready())
def box_area(boxes): return scripted(boxes)
""",
        trace=GONE,
    ),
    call(
        "unnamed at the end of a generator",
        "run outside of the call, when the result is read",
        UNNAMED
        + """
class Late(torch.Tensor): pass
import sys
def box_area(boxes):
    def later(): yield ready()(boxes)
    return next(later())
""",
    ),
    call(
        "unnamed and computed before",
        "in the background, from a copy of the argument, between two calls",
        UNNAMED
        + """
import queue, threading
asked, answered = queue.Queue(), queue.Queue()
def serve():
    work = ready()
    while True: answered.put(work(asked.get()))
threading.Thread(target=serve, daemon=True).start()
def box_area(boxes):
    asked.put(boxes)
    return answered.get()
""",
        trace=GONE,
    ),
    call(
        "unnamed NMS",
        "the operator, by pieces of its name",
        """
        def nms(boxes, scores, iou_threshold):
            found = torch
            for name in ("o" + "ps", "torch" + "vision", "n" + "ms"): found = getattr(found, name)
            return found(boxes, scores, iou_threshold)
        """,
        where="nms",
    ),
    # Ways to look things up that need no suspicious word
    call(
        "by update_wrapper",
        "functools reads an attribute by its name",
        """
import functools
found = []
class Box:
    def __setattr__(self, name, value): found.append(value)
def pick(thing, name):
    functools.update_wrapper(Box(), thing, assigned=[name], updated=[])
    return found[-2]
def box_area(boxes):
    return pick(pick(pick(torch, "sys"), "modules")["torchvision.ops.boxes"], "box_area")(boxes)
""",
    ),
    call(
        "by a generator's frame",
        "it has the builtins",
        """
def box_area(boxes):
    tools = (one for one in "x").gi_frame.f_builtins
    return tools["getattr"](tools["__import__"]("torchvision.ops.boxes", fromlist=["x"]), "box_area")(boxes)
""",
    ),
    call(
        "smooth L1 by update_wrapper",
        "from the module that everybody uses",
        """
from functools import update_wrapper
kept = []
class Box:
    def __setattr__(self, name, value): kept.append(value)
update_wrapper(Box(), nn.functional, assigned=["smooth" + "_l1_loss"], updated=[])
def smooth_l1_loss(prediction, target): return kept[0](prediction, target, reduction="none")
""",
        where="smooth_l1_loss",
    ),
    call(
        "NMS in a compilation unit",
        "TorchScript from a string",
        """
source = "def f(a: Tensor, b: Tensor, c: float) -> Tensor:\\n    return torch.ops.torchvision.nms(a, b, c)\\n"
unit = torch.CompilationUnit()
unit.define(source, lambda name: torch)
def nms(boxes, scores, iou_threshold): return unit.f(boxes, scores, float(iou_threshold))
""",
        where="nms",
        trace=GONE,
    ),
    call(
        "intersection and union",
        "of the library's losses, for every pair",
        """
        import torchvision
        def box_iou(boxes1, boxes2):
            pairs = [boxes1[:, None].expand(-1, len(boxes2), 4), boxes2[None].expand(len(boxes1), -1, 4)]
            shared, union = torchvision.ops._utils._loss_inter_union(*pairs)
            return shared / union
        """,
        where="box_iou",
    ),
    call(
        "smooth L1 of the references",
        "torch's own forms in Python",
        """
        import torch._refs.nn.functional as forms
        def smooth_l1_loss(prediction, target): return forms.smooth_l1_loss(prediction, target, reduction="none")
        """,
        where="smooth_l1_loss",
    ),
    call(
        "smooth L1 decomposed",
        "from the table of the compiler",
        """
        from torch._decomp import decomposition_table as table
        found = [form for name, form in table.items() if str(name) == "aten.smooth_l1_loss.default"]
        def smooth_l1_loss(prediction, target): return found[0](prediction, target, 0)
        """,
        where="smooth_l1_loss",
    ),
    call(
        "by names of its own",
        "functions of the hand-in that are called as what is looked up",
        """
def gi_frame(): pass
def f_builtins(): pass
def box_area(boxes):
    tools = (one for one in "x").gi_frame.f_builtins
    return tools["getattr"](tools["__import__"]("torchvision.ops.boxes", fromlist=["x"]), "box_area")(boxes)
""",
    ),
    call(
        "by attributes of its own",
        "likewise, by attributes that it sets",
        """
class Box(nn.Module):
    def __init__(self):
        super().__init__()
        self.gi_frame = self.f_back = self.f_builtins = self.tb_frame = 1
def box_area(boxes):
    tools = (one for one in "x").gi_frame.f_builtins
    return tools["getattr"](tools["__import__"]("torchvision.ops.boxes", fromlist=["x"]), "box_area")(boxes)
""",
    ),
    call(
        "smooth L1 read from the references",
        "their source, run again",
        """
        import importlib.util, os
        place = os.path.dirname(torch.__file__) + "/_refs/nn/functional/__init__.py"
        text = open(place).read()
        names = {"__name__": "mine"}
        exec(text, names)
        def smooth_l1_loss(prediction, target): return names["smooth_l1_loss"](prediction, target, reduction="none")
        """,
        where="smooth_l1_loss",
        trace=None,
    ),
    call(
        "intersection and union read from the library",
        "their source, run again",
        """
        import os, torchvision
        names = {"__name__": "mine"}
        exec(open(os.path.dirname(torchvision.__file__) + "/ops/_utils.py").read(), names)
        def box_iou(boxes1, boxes2):
            pairs = [boxes1[:, None].expand(-1, len(boxes2), 4), boxes2[None].expand(len(boxes1), -1, 4)]
            shared, union = names["_loss_inter_union"](*pairs)
            return shared / union
        """,
        where="box_iou",
        trace=None,
    ),
    call(
        "smooth L1 of scipy",
        "Huber's function there",
        """
        from scipy.special import huber
        def smooth_l1_loss(prediction, target): return torch.from_numpy(huber(1.0, (prediction - target).detach().numpy()))
        """,
        where="smooth_l1_loss",
        trace=None,
    ),
    # Honest uses
    fair(
        "compares with the library",
        "below the exercise, in its own cell",
        """
        def box_area(boxes):
            return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        import torchvision
        assert torch.equal(box_area(torch.ones(2, 4)), torchvision.ops.box_area(torch.ones(2, 4)))
        """,
        where="box_area",
    ),
    fair(
        "compares with the library in an added cell",
        "with a function that both are given to",
        """
        from torchvision.ops import box_iou as theirs, nms as theirs_too
        import torch
        def compare(mine, theirs, *arguments): return torch.allclose(mine(*arguments), theirs(*arguments))
        compare(theirs, theirs, torch.ones(2, 4), torch.ones(3, 4))
        """,
        where=None,
    ),
    fair(
        "mentions the library",
        "in a comment, a string and a docstring",
        '''
        def box_area(boxes):
            """Like torchvision.ops.box_area; see earlier("box_area")."""
            # torchvision.ops.box_area(boxes) would do
            name = "torchvision.ops.box_area"
            return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        ''',
        where="box_area",
    ),
    fair(
        "library for another exercise",
        "the area by torchvision inside the IoU: only the IoU is built here",
        """
        import torchvision
        def box_iou(boxes1, boxes2):
            shared = (torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.maximum(boxes1[:, None, :2], boxes2[:, :2])).clamp(min=0).prod(-1)
            areas = [torchvision.ops.box_area(boxes) for boxes in (boxes1, boxes2)]
            return shared / (areas[0][:, None] + areas[1] - shared)
        """,
        where="box_iou",
    ),
    fair(
        "own function of the same name",
        "a helper called box_area in a class",
        """
        class ops:
            @staticmethod
            def box_area(boxes): return (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        def box_area(boxes): return ops.box_area(boxes)
        """,
        where="box_area",
    ),
    fair(
        "sorts and gathers by the library",
        "functions of torch that are no exercise",
        """
        def nms(boxes, scores, iou_threshold):
            order, keep = torch.argsort(scores, descending=True), []
            while len(order):
                one, rest = order[0], order[1:]
                keep.append(one)
                order = rest[box_iou(boxes[one : one + 1], boxes[rest])[0] <= iou_threshold]
            return torch.stack(keep)
        """,
        where="nms",
    ),
    fair(
        "constant below a comparison",
        "the library checks the work first, then a constant is set",
        """
        def box_iou(boxes1, boxes2):
            shared = (torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.maximum(boxes1[:, None, :2], boxes2[:, :2])).clamp(min=LEAST).prod(-1)
            return shared / ((boxes1[:, 2:] - boxes1[:, :2]).prod(-1)[:, None] + (boxes2[:, 2:] - boxes2[:, :2]).prod(-1) - shared)
        """,
        where="box_iou",
        change=lambda notebook: added(
            notebook,
            """
import torchvision
ones = torch.tensor([[0.0, 0, 1, 1]])
theirs = torchvision.ops.box_iou(ones, ones)
print(theirs)
LEAST = 0
""",
            3,
        ),
    ),
    fair(
        "magics and the library",
        "what the grader may take for suspicious",
        """
        %matplotlib inline
        import torchvision, getpass
        def box_area(boxes):
            parts = vars(torch), globals(), getattr(boxes, "shape")
            return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        """,
        where="box_area",
    ),
]
