"""The small course that is attacked, and what an attack is.

Its exercises are independent of each other, one of each kind that crosses the wire: tensors, an answer of several
parts, whole numbers, gradients, a class, a function as argument, a string. `wolverine` stands in every hidden check
and every reference and nowhere else, so that an attack can look for it.
"""

import copy
import re
import textwrap
from dataclasses import dataclass, field

from ..grading.conftest import make_class

LESSON = '''
# %% setup=true
import torch
from torch import nn

from coursekit.checks import check, passed, raises, same, untouched

# %% exercise="area"
def area(boxes):
    """Area of each box. Tensor[N, 4] -> Tensor[N]."""
    ### BEGIN SOLUTION
    width = boxes[:, 2] - boxes[:, 0]  # wolverine
    return width * (boxes[:, 3] - boxes[:, 1])
    ### END SOLUTION

# %% check="area" points=2
same(area(torch.tensor([[10.0, 20, 40, 60]])), [1200], "30 wide and 40 high")
untouched(area, torch.tensor([[10.0, 20, 40, 60]]))
### BEGIN HIDDEN TESTS
same(area(torch.tensor([[1.0, 2, 4, 9]])), torch.tensor([21.0]), "wolverine: three by seven")
assert torch.allclose(area(torch.tensor([[1.0, 2, 6, 4]])), torch.tensor([10.0])), "wolverine: five by two"
assert (area(torch.tensor([[0.0, 0, 3, 3]])) - 9).abs().max() < 1e-4, "wolverine: three by three"
### END HIDDEN TESTS

# %%
raise SystemError("figures and demonstrations are not run while grading")

# %% exercise="iou"
def iou(boxes1, boxes2):
    """IoU of every pair. Tensor[N, 4], Tensor[M, 4] -> Tensor[N, M]."""
    ### BEGIN SOLUTION
    size1, size2 = boxes1[:, 2:] - boxes1[:, :2], boxes2[:, 2:] - boxes2[:, :2]  # wolverine
    top_left = torch.maximum(boxes1[:, None, :2], boxes2[:, :2])
    bottom_right = torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    shared = (bottom_right - top_left).clamp(min=0).prod(-1)
    return shared / (size1.prod(-1)[:, None] + size2.prod(-1) - shared)
    ### END SOLUTION

# %% check="iou" points=3
ten = torch.tensor([[0.0, 0, 10, 10]])
same(iou(ten, ten + 3), [[49 / 151]], "7 x 7 shared")
### BEGIN HIDDEN TESTS
same(iou(ten, ten + 20), [[0]], "wolverine: disjoint boxes")
same(iou(ten, torch.cat([ten + 1, ten + 2])), [[81 / 119, 64 / 136]], "wolverine: one against two")
### END HIDDEN TESTS

# %% check="iou" part="empty" points=1
same(iou(torch.zeros(0, 4), torch.zeros(2, 4)), torch.zeros(0, 2), "no boxes against two")

# %% exercise="best"
def best(boxes, scores, iou_threshold):
    """Indices to keep, best first. Tensor[N, 4], Tensor[N], float -> Tensor[K]."""
    ### BEGIN SOLUTION
    order, keep = scores.argsort(descending=True).tolist(), []  # wolverine
    for one in order:
        x1, y1, x2, y2 = boxes[one].tolist()
        for other in keep:
            a1, b1, a2, b2 = boxes[other].tolist()
            shared = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            if shared / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared) > iou_threshold:
                break
        else:
            keep.append(one)
    return torch.tensor(keep, dtype=torch.int64)
    ### END SOLUTION

# %% check="best" points=2
rows = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [30, 30, 40, 40]])
same(best(rows, torch.tensor([0.5, 0.9, 0.3]), 0.5), [1, 2], "the better of two echoes, then the far one")
same([int(one) for one in best(rows, torch.tensor([0.1, 0.9, 0.3]), 0.5)], [1, 2], "one by one")
### BEGIN HIDDEN TESTS
same(best(rows, torch.tensor([0.2, 0.1, 0.7]), 0.5), torch.tensor([2, 0]), "wolverine: the far one first")
### END HIDDEN TESTS

# %% exercise="smooth_loss"
def smooth_loss(prediction, target):
    """Elementwise: quadratic below 1, linear above. Tensor, Tensor -> Tensor."""
    ### BEGIN SOLUTION
    away = (prediction - target).abs()  # wolverine
    return torch.where(away < 1, 0.5 * away**2, away - 0.5)
    ### END SOLUTION

# %% check="smooth_loss" points=2
near_and_far = torch.tensor([0.5, -3.0], requires_grad=True)
loss = smooth_loss(near_and_far, torch.zeros(2))
same(loss, [0.125, 2.5], "half the square near, a line far away")
### BEGIN HIDDEN TESTS
loss.sum().backward()
same(near_and_far.grad, [0.5, -1], "wolverine: the slopes")
### END HIDDEN TESTS

# %% exercise="Head"
class Head(nn.Module):
    """A 1 x 1 convolution without bias and a scale: Head(channels, classes)(maps) -> maps of logits."""
    ### BEGIN SOLUTION
    def __init__(self, channels, classes):  # wolverine
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 1, bias=False)

    def forward(self, maps):
        return 2 * self.conv(maps)
    ### END SOLUTION

# %% check="Head" points=2
head = Head(3, 2)
same([list(weight.shape) for weight in head.state_dict().values()], [[2, 3, 1, 1]], "one layer")
head.load_state_dict({name: torch.ones_like(weight) for name, weight in head.state_dict().items()})
same(head(torch.ones(1, 3, 1, 2)), torch.full((1, 2, 1, 2), 6.0), "twice the sum over channels")
### BEGIN HIDDEN TESTS
head(torch.ones(1, 3, 1, 2)).sum().backward()
same([weight.grad.flatten().tolist() for weight in head.parameters()], [[4.0] * 6], "wolverine: gradients")
### END HIDDEN TESTS

# %% check="Head" part="maps" points=1
head = Head(3, 2)
head.load_state_dict({name: torch.ones_like(weight) for name, weight in head.state_dict().items()})
maps = torch.arange(12.0).reshape(1, 3, 2, 2)
same(head(maps), 2 * maps.sum(1, keepdim=True).expand(1, 2, 2, 2), "twice the sum over channels in every cell")

# %% exercise="twice"
def twice(function, value):
    """function(function(value))."""
    ### BEGIN SOLUTION
    return function(function(value))  # wolverine
    ### END SOLUTION

# %% check="twice" points=1
same(twice(lambda x: x + 3, 4), 10, "4, 7, 10")
### BEGIN HIDDEN TESTS
seen = []
same(twice(lambda x: seen.append(x) or 2 * x, 5), 20, "wolverine: 5, 10, 20")
same(seen, [5, 10], "wolverine: what it was called with")
### END HIDDEN TESTS

# %% exercise="diary"
def diary():
    """Nothing to tell: an empty string."""
    ### BEGIN SOLUTION
    return ""
    ### END SOLUTION

# %% check="diary" points=1
same(diary(), "", "nothing to tell")
'''

POINTS = {"area": 2, "iou": 4, "best": 2, "smooth_loss": 2, "Head": 3, "twice": 1, "diary": 1}

# The same exercises under the names of library functions: a hand-in that could reach one is judged in more processes.
RENAMED = {"area": "box_area", "iou": "box_iou", "best": "nms", "smooth_loss": "smooth_l1_loss"}
LIBRARY_LESSON = re.sub(
    r"\b(test_)?(area|iou|best|smooth_loss)\b(?=[\"(,])",
    lambda found: (found[1] or "") + RENAMED[found[2]],
    LESSON,
)
LIBRARY_POINTS = {RENAMED.get(name, name): points for name, points in POINTS.items()}

# Attacks tell through the answer of `diary`, which the feedback page quotes, that they ran and what they met.
# A word that begins with ESCAPED means that the attack reached what it must not reach.
NOTES = '''
NOTES = []
def safe():
    """Before anything harmful: does the sandbox hold at all? The attack must not hurt the machine that tests it."""
    import os
    if os.path.exists("@CANARY@") or os.path.exists("@COURSE@"):
        note("ESCAPED:no-sandbox")
        raise SystemExit("no sandbox: not attacked")
def note(word):
    NOTES.append(str(word))
def attempt(name, function):
    """Do what must be refused; tell what happened."""
    try:
        result = function()
    except BaseException as error:
        note(type(error).__name__)
    else:
        note("ESCAPED:" + name if result is not False else "nothing")
'''
DIARY = """
def diary():
    words = sorted(set(NOTES), key=lambda word: (not word.startswith("ESCAPED"), word))
    return "noted: " + " ".join(words)[:46]
"""

# Answers to every exercise that are worth nothing: what a cheat hides behind.
HEAD_LIE = """
class Head(torch.nn.Module):
    def __init__(self, *_): super().__init__()
    def forward(self, *_): return LIE
    def state_dict(self, *_, **__): return {"conv.weight": LIE}
    def load_state_dict(self, *_, **__): return LIE
    def parameters(self, *_): return [LIE]
"""
LIES = {name: f"def {name}(*_, **__): return LIE" for name in POINTS if name not in ("Head", "diary")}
LIES["Head"] = HEAD_LIE


@dataclass(frozen=True)
class Attack:
    """One hand-in that cheats, harms, or only looks as if it did, and what it must get.

    `code` stands in the cell of `where`, or, where that is None, in an added cell at the top; `answers` replace
    more cells. `scores` differ from those of the hand-in that it is made from: `blank` earns nothing, `right` all
    but the diary's point; of `unsure` exercises the mark may be any. `trace`: what the feedback page must say, as proof that the attack ran. `change` edits
    the notebook, or gives its bytes; `lay(folder, places)` puts files beside it.
    """

    name: str
    why: str
    code: str = ""
    where: str | None = "area"
    right: bool = False
    scores: dict = field(default_factory=dict)
    unsure: tuple = ()
    points: dict = field(default_factory=lambda: POINTS)
    trace: str | None = "noted: ran"
    answers: dict = field(default_factory=dict)
    left_out: str = ""  # not graded at all; the report says this
    change: object = None
    lay: object = None
    honest: bool = False
    plain: bool = False  # takes no notes: nothing in the hand-in but the attack itself
    notes: str | None = ""  # what the instructor is told of an honest one; None: anything

    @property
    def student(self):
        return self.name.replace(" ", "-")

    @property
    def expected(self):
        earned = (
            {**self.points, "diary": int(self.honest or self.plain)}
            if self.right
            else dict.fromkeys(self.points, 0)
        )
        return {**earned, **self.scores}

    def notebook(self, lesson):
        """The hand-in, or its bytes."""
        notebook = copy.deepcopy(lesson.answered() if self.right else lesson.release)
        if not (self.honest or self.plain):
            added(notebook, NOTES, 0)
            make_class.find(notebook, "diary").source = DIARY
        code = textwrap.dedent(self.code).strip("\n")
        if self.where and code:
            make_class.find(notebook, self.where).source = code
        elif code:
            added(notebook, code, 1)
        for name, source in self.answers.items():
            make_class.find(notebook, name).source = textwrap.dedent(source).strip("\n")
        changed = self.change(notebook) if self.change else None
        return notebook if changed is None else changed


def added(notebook, source, place):
    """Insert a code cell of the student's own."""
    import nbformat

    notebook.cells.insert(place, nbformat.v4.new_code_cell(source, id=f"added-{len(notebook.cells)}"))


def cheat(name, why, code, **options):
    """A hand-in that is blank but for its trick: it gets nothing."""
    return Attack(name, why, code, **options)


def liar(name, why, code):
    """Every answer of the hand-in is `LIE`, which `code` defines: it gets nothing."""
    return Attack(name, why, code, where=None, answers=LIES)


def harm(name, why, code, costs=("area",), **options):
    """A hand-in that is right but for its trick, which costs these exercises and nothing else."""
    return Attack(name, why, code, right=True, scores={one: 0 for one in costs}, **options)


def fair(name, why, code="", **options):
    """An honest hand-in: all points."""
    return Attack(name, why, code, right=True, honest=True, trace=None, **options)
