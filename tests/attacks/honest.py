"""Honest hand-ins that graders wrongly fail: all points, and nobody is accused of anything."""

import copy
import json

from ..grading.conftest import make_class
from .course import added, fair

PRODUCT = "(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])"
AREA = f"def area(boxes):\n    return {PRODUCT}\n"


def says(name, why, line, before="", **options):
    """The right answer does something besides."""
    return fair(name, why, f"{before}\ndef area(boxes):\n    {line}\n    return {PRODUCT}\n", **options)


def cell(name, why, source, **options):
    """An added cell at the top."""
    return fair(name, why, source, where=None, **options)


def at(grade_id, source, after=False):
    """A cell of the student's own before (or after) the cell `grade_id`."""

    def change(notebook):
        place = notebook.cells.index(make_class.find(notebook, grade_id))
        added(notebook, source, place + after)

    return change


def source_of(grade_id, edit):
    def change(notebook):
        one = make_class.find(notebook, grade_id)
        one.source = edit(one.source)

    return change


def bytes_of(edit):
    """The file itself, as another program writes it."""

    def change(notebook):
        text = edit(make_class.text_of(notebook))
        return text if isinstance(text, bytes) else text.encode()

    return change


def metadata_lost(notebook):
    for number, one in enumerate(notebook.cells):
        one.metadata, one.id = {}, f"new-{number}"


def colab(notebook):
    notebook.metadata.update(
        colab={"provenance": [], "toc_visible": True}, accelerator="GPU", widgets={"x": {}}
    )
    for number, one in enumerate(notebook.cells):
        one.metadata["id"] = f"AbC{number}"
        one.metadata["colab"] = {"base_uri": "https://localhost:8080/", "height": 35}
        if one.cell_type == "code":
            one.metadata["outputId"] = "x"
            one.metadata["executionInfo"] = {"status": "ok", "timestamp": 1, "user": {"displayName": "A <b>"}}


def executed(notebook):
    """As saved after work: counts, outputs of every kind, also a wide table and a picture."""
    for number, one in enumerate(notebook.cells):
        if one.cell_type == "code":
            one.execution_count = number
            one.outputs = [
                {"output_type": "stream", "name": "stderr", "text": "warning\n" * 100},
                {
                    "output_type": "display_data",
                    "metadata": {},
                    "data": {"image/png": "iVBORw0KGgo=" * 1000, "text/html": "<script>1</script>"},
                },
                {"output_type": "error", "ename": "E", "evalue": "x", "traceback": ["x"]},
            ]


def large_outputs(notebook):
    notebook.cells[2].outputs = [{"output_type": "stream", "name": "stdout", "text": "x" * 8_000_000}]


def every_cell_twice(notebook):
    notebook.cells = [copy.deepcopy(one) for one in notebook.cells for _ in range(2)]


def lines_as_lists(notebook):
    for one in notebook.cells:
        one.source = one.source.splitlines(keepends=True)


def format_3(notebook):
    import nbformat

    return json.dumps(nbformat.convert(notebook, 3)).encode()


def format_4_0(notebook):
    notebook.nbformat_minor = 0
    for one in notebook.cells:
        one.pop("id", None)


def attachments(notebook):
    import nbformat

    one = nbformat.v4.new_markdown_cell("![me](attachment:me.png) $x$ <script>alert(1)</script>")
    one["attachments"] = {"me.png": {"image/png": "iVBORw0KGgo="}}
    notebook.cells.insert(0, one)
    notebook.cells.append(nbformat.v4.new_raw_cell("raw <script>alert(1)</script>"))


def untouched_copy_at_the_end(notebook):
    one = copy.deepcopy(make_class.find(notebook, "area"))
    one.source = 'def area(boxes):\n    """Area of each box. Tensor[N, 4] -> Tensor[N]."""\n    # YOUR CODE HERE\n    raise NotImplementedError()'
    notebook.cells.append(one)


ATTACKS = [
    fair("right", "as it should be"),
    # What an answer does besides
    says(
        "warns",
        "on stderr, through warnings and logging",
        "warnings.warn('slow'); print('x', file=sys.stderr); logging.warning('x'); logging.getLogger().error('y')",
        "import logging, sys, warnings",
    ),
    says("prints", "much", "print('x' * 10_000); print(boxes)"),
    says(
        "prints unicode",
        "and control characters",
        "print('π≈3.14 ✓ \\x1b[31mred 你好 🎉'); sys.stdout.flush(); sys.stdout.write('x')",
        "import sys",
    ),
    says(
        "displays",
        "tables and pictures",
        "display(boxes); display(HTML('<b>x</b>'))",
        "from IPython.display import HTML, display, clear_output\nclear_output()",
    ),
    says(
        "shows progress",
        "tqdm in the loop",
        "[None for _ in tqdm(range(100))]; [None for _ in trange(3)]",
        "from tqdm import tqdm, trange\nfrom tqdm.auto import tqdm as auto",
    ),
    says("is slow", "two seconds in all", "time.sleep(0.4)", "import time"),
    says("computes long", "without sleeping", "[boxes @ boxes.T for _ in range(20_000)]"),
    says(
        "plots",
        "a figure in each call",
        "plt.figure(); plt.plot(boxes.tolist()); plt.show(); plt.close()",
        "import matplotlib.pyplot as plt",
    ),
    says(
        "uses chance",
        "and seeds of its own",
        "torch.manual_seed(1); random.seed(2); np.random.seed(3); torch.rand(3)",
        "import random, numpy as np",
    ),
    says(
        "uses threads",
        "a pool of them",
        "list(ThreadPoolExecutor(2).map(len, [boxes]))",
        "from concurrent.futures import ThreadPoolExecutor",
    ),
    says(
        "uses processes",
        "a child that computes",
        "p = subprocess.run(['true']) if False else None; pid = os.fork(); os._exit(0) if pid == 0 else os.waitpid(pid, 0)",
        "import os, subprocess",
    ),
    says(
        "writes a file",
        "where it works",
        "open('notes.txt', 'w').write('x'); assert open('notes.txt').read() == 'x'; tempfile.TemporaryFile().write(b'x')",
        "import tempfile",
    ),
    says("keeps state", "counts its calls", "global CALLS; CALLS += 1", "CALLS = 0"),
    says("cleans up", "garbage and caches", "gc.collect(); torch.cuda.empty_cache()", "import gc"),
    says(
        "asserts",
        "what it was given",
        "assert boxes.ndim == 2 and boxes.shape[1] == 4 and isinstance(boxes, torch.Tensor) and boxes.dtype == torch.float32",
    ),
    says(
        "works in place on a copy",
        "as one should",
        "boxes = boxes.clone(); boxes[:, 2:] += 0; boxes.requires_grad_(False)",
    ),
    says(
        "catches errors of its own",
        "an exception in between",
        "import contextlib\n    with contextlib.suppress(IndexError): boxes[1000]",
    ),
    # How an answer is written
    fair(
        "loops",
        "in plain Python",
        "def area(boxes):\n    areas = []\n    for x1, y1, x2, y2 in boxes.tolist():\n        areas.append((x2 - x1) * (y2 - y1))\n    return torch.tensor(areas, dtype=boxes.dtype)",
    ),
    fair(
        "numpy inside",
        "and back",
        "import numpy as np\ndef area(boxes):\n    b = boxes.numpy()\n    return torch.from_numpy(np.prod(b[:, 2:] - b[:, :2], axis=1))",
    ),
    fair(
        "float64 inside",
        "and back",
        "def area(boxes):\n    wide = boxes.double()\n    return ((wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])).to(boxes.dtype)",
    ),
    fair("lambda", "no def", f"area = lambda boxes: {PRODUCT}"),
    fair("lambda over two lines", "and an alias", f"area = lambda boxes: (\n    {PRODUCT}\n)\narea = area"),
    fair(
        "recursion",
        "box by box",
        "def area(boxes):\n    if len(boxes) < 2:\n        return (boxes[:, 2:] - boxes[:, :2]).prod(-1)\n    return torch.cat([area(boxes[:1]), area(boxes[1:])])",
    ),
    fair(
        "closure",
        "made by a function",
        f"def make(one):\n    def inner(boxes):\n        return one * {PRODUCT}\n    return inner\narea = make(1)",
    ),
    fair(
        "object that is called",
        "a class with __call__",
        f"class Area:\n    def __call__(self, boxes):\n        return {PRODUCT}\narea = Area()",
    ),
    fair(
        "module that is called",
        "nn.Module as a function",
        f"class Area(nn.Module):\n    def forward(self, boxes):\n        return {PRODUCT}\narea = Area()",
    ),
    fair(
        "bound method",
        "of an object",
        f"class Area:\n    def area(self, boxes):\n        return {PRODUCT}\narea = Area().area",
    ),
    fair(
        "partial",
        "functools",
        "import functools\ndef size(boxes, one):\n    return one * (boxes[:, 2:] - boxes[:, :2]).prod(-1)\narea = functools.partial(size, one=1)",
    ),
    fair(
        "decorated",
        "with a wrapper that logs and one that caches nothing",
        f"import functools, time\ndef timed(function):\n    @functools.wraps(function)\n    def wrapper(*args, **kwargs):\n        start = time.time()\n        out = function(*args, **kwargs)\n        print(time.time() - start)\n        return out\n    return wrapper\n@timed\n@torch.no_grad()\ndef area(boxes):\n    return {PRODUCT}",
    ),
    fair(
        "cached",
        "lru_cache on a helper",
        "from functools import lru_cache, cache\n@lru_cache(None)\ndef size(x1, y1, x2, y2):\n    return (x2 - x1) * (y2 - y1)\ndef area(boxes):\n    return torch.tensor([size(*row) for row in boxes.tolist()]).reshape(-1).to(boxes)",
    ),
    fair(
        "generators and walrus",
        "newer Python",
        "def area(boxes):\n    def sizes():\n        for row in boxes:\n            yield (w := row[2] - row[0]) * (row[3] - row[1])\n    return torch.stack([*sizes()]) if len(boxes) else boxes.new_zeros(0)",
    ),
    fair(
        "match statement",
        "Python 3.10",
        "def area(boxes):\n    match boxes.unbind(-1):\n        case [x1, y1, x2, y2]:\n            return (x2 - x1) * (y2 - y1)",
    ),
    fair(
        "type annotations",
        "with the future import in the cell",
        f"from __future__ import annotations\nfrom typing import Optional\ndef area(boxes: torch.Tensor, eps: Optional[Undefined] = None) -> torch.Tensor:\n    return {PRODUCT}",
    ),
    fair(
        "dataclass",
        "as a helper",
        "from dataclasses import dataclass\n@dataclass\nclass Size:\n    w: torch.Tensor\n    h: torch.Tensor\n    @property\n    def area(self): return self.w * self.h\ndef area(boxes):\n    return Size(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]).area",
    ),
    fair(
        "named tuple and enum",
        "as helpers",
        "from collections import namedtuple\nfrom enum import IntEnum\nclass Side(IntEnum):\n    X1 = 0; Y1 = 1; X2 = 2; Y2 = 3\nSize = namedtuple('Size', 'w h')\ndef area(boxes):\n    size = Size(boxes[:, Side.X2] - boxes[:, Side.X1], boxes[:, Side.Y2] - boxes[:, Side.Y1])\n    return size.w * size.h",
    ),
    fair("scripted", "torch.jit", f"@torch.jit.script\ndef area(boxes):\n    return {PRODUCT}"),
    fair(
        "vmap",
        "torch.func",
        "def area(boxes):\n    return torch.vmap(lambda b: (b[2] - b[0]) * (b[3] - b[1]))(boxes)",
    ),
    fair(
        "einsum",
        "another form",
        "def area(boxes):\n    size = boxes[:, 2:] - boxes[:, :2]\n    return torch.einsum('n,n->n', size[:, 0], size[:, 1])",
    ),
    fair(
        "not contiguous",
        "a strided result",
        f"def area(boxes):\n    wide = torch.stack([{PRODUCT}] * 3, -1)\n    return wide[:, 1]",
    ),
    fair(
        "result with a gradient",
        "it requires one",
        "one = torch.ones(1, requires_grad=True)\ndef area(boxes):\n    return (boxes[:, 2:] - boxes[:, :2]).prod(-1) * one",
    ),
    fair(
        "tensor subclass",
        "torchvision's own, with the right numbers",
        f"from torchvision.tv_tensors import BoundingBoxes\ndef area(boxes):\n    boxes = BoundingBoxes(boxes, format='XYXY', canvas_size=(100, 100))\n    return {PRODUCT}",
    ),
    fair("parameter as a result", "nn.Parameter", f"def area(boxes):\n    return nn.Parameter({PRODUCT})"),
    fair(
        "inference mode",
        "a result that autograd may not touch",
        f"@torch.inference_mode()\ndef area(boxes):\n    return {PRODUCT}",
    ),
    fair(
        "default arguments",
        "more than the task names",
        f"def area(boxes, *args, eps=0.0, **kwargs):\n    return {PRODUCT} + eps",
    ),
    fair(
        "names of other alphabets",
        "identifiers",
        "def area(кутии):\n    π, ширина = 1, кутии[:, 2] - кутии[:, 0]\n    return π * ширина * (кутии[:, 3] - кутии[:, 1])",
    ),
    fair("tabs", "as indentation", f"def area(boxes):\n\tif True:\n\t\treturn {PRODUCT}"),
    fair(
        "odd whitespace",
        "blank lines, trailing blanks, a form feed",
        f"\n\n  \ndef area( boxes ) :   \n\n\n    return  {PRODUCT}   \n\n   \n",
    ),
    fair(
        "semicolons and continuation",
        "all on few lines",
        "def area(boxes): w = boxes[:, 2] - boxes[:, 0]; \\\n    h = boxes[:, 3] - boxes[:, 1]; return w * h",
    ),
    fair("long comments", "and strings", "# " + "x" * 5000 + "\n'''\n" + "y\n" * 500 + "'''\n" + AREA),
    fair(
        "script guard",
        "if __name__ == '__main__'",
        AREA + "\nif __name__ == '__main__':\n    ready = True\n    assert ready\n",
    ),
    fair(
        "main defines it",
        "under the guard",
        f"if __name__ == '__main__':\n    def area(boxes):\n        return {PRODUCT}",
    ),
    fair(
        "star import",
        "of math and of torch's functions",
        "from math import *\nfrom torch.nn.functional import *\n" + AREA,
    ),
    fair(
        "uses its sibling",
        "iou calls the student's own area",
        """
        def iou(boxes1, boxes2):
            shared = (torch.minimum(boxes1[:, None, 2:], boxes2[:, 2:]) - torch.maximum(boxes1[:, None, :2], boxes2[:, :2])).clamp(min=0).prod(-1)
            return shared / (area(boxes1)[:, None] + area(boxes2) - shared)
        """,
        where="iou",
    ),
    fair(
        "head with submodules",
        "a ModuleDict, buffers and an init of its own",
        """
        class Block(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.inner = nn.ModuleList([nn.Conv2d(channels, classes, 1, bias=False)])
                nn.init.normal_(self.inner[0].weight, std=0.01)
                self.register_buffer("two", torch.tensor(2.0), persistent=False)
            def forward(self, maps):
                return self.two * self.inner[0](maps)
        class Head(Block):
            def __repr__(self): return "Head"
        """,
        where="Head",
    ),
    fair(
        "head with hooks",
        "that print",
        """
        class Head(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.conv = nn.Conv2d(channels, classes, 1, bias=False)
                self.register_forward_hook(lambda module, given, result: print(result.shape))
            def forward(self, maps):
                return self.conv(maps) + self.conv(maps)
        """,
        where="Head",
    ),
    fair(
        "head with einsum",
        "a parameter instead of a layer",
        """
        class Head(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(classes, channels, 1, 1))
            def forward(self, maps):
                return 2 * torch.einsum("kcij,bchw->bkhw", self.weight, maps)
        """,
        where="Head",
    ),
    fair(
        "autograd function",
        "a backward of its own",
        """
        class Smooth(torch.autograd.Function):
            @staticmethod
            def forward(ctx, away):
                ctx.save_for_backward(away)
                return torch.where(away.abs() < 1, 0.5 * away**2, away.abs() - 0.5)
            @staticmethod
            def backward(ctx, slope):
                (away,) = ctx.saved_tensors
                return slope * away.clamp(-1, 1)
        def smooth_loss(prediction, target):
            return Smooth.apply(prediction - target)
        """,
        where="smooth_loss",
    ),
    fair(
        "calls the callback with a keyword of its own",
        "a result kept in between",
        """
        def twice(function, value):
            results = [value]
            for _ in range(2):
                results += [function(results[-1])]
            return results[-1]
        """,
        where="twice",
    ),
    # Below the answer, in its own cell
    fair(
        "tries it below",
        "prints and plots the result",
        AREA
        + "print(area(torch.tensor([[0.0, 0, 2, 3]])))\nimport matplotlib.pyplot as plt\nplt.imshow(torch.rand(3, 3))\nplt.show()",
    ),
    fair(
        "own test below fails", "an assert that is wrong", AREA + "assert area(torch.zeros(1, 4)) == 5, 'hm'"
    ),
    fair("an error below", "a name that does not exist", AREA + "undefined_name"),
    fair("exits below", "exit()", AREA + "exit()"),
    fair("exits below by sys", "sys.exit", AREA + "import sys\nsys.exit()"),
    fair("asks below", "input()", AREA + "try:\n    name = input('name? ')\nexcept Exception:\n    pass\n"),
    fair("stops below", "a breakpoint", AREA + "try:\n    breakpoint()\nexcept BaseException:\n    pass\n"),
    fair("last value below", "an expression", AREA + "area(torch.tensor([[0.0, 0, 2, 3]]))"),
    fair("time magic", "%%time on the exercise's cell", "%%time\n" + AREA),
    fair("capture magic", "%%capture", "%%capture out\n" + AREA),
    fair(
        "line magics",
        "in the exercise's cell",
        "%matplotlib inline\n%config InlineBackend.figure_format = 'retina'\n%load_ext autoreload\n%autoreload 2\n"
        + AREA
        + "%timeit -n 1 -r 1 area(torch.zeros(1, 4))\n",
    ),
    fair("shell below", "!ls and a magic with a question mark", AREA + "!ls -la\narea?\n%whos\n"),
    # Added cells
    cell(
        "installs",
        "%pip and !pip in a cell of their own",
        "%pip install torchinfo\n!pip install -q torchmetrics\n%conda install x -y",
    ),
    cell(
        "shell",
        "listing, download, results of commands",
        "!nvidia-smi\n!wget -q http://example.com/x.zip\nfiles = !ls\n!git clone https://example.com/x && cd x",
    ),
    cell(
        "mounts a drive",
        "Colab's own modules",
        "from google.colab import drive\ndrive.mount('/content/drive')",
    ),
    cell("syntax error", "in a cell of its own", "def (:\n  this is a note I forgot to make a text cell"),
    cell("markdown in code", "notes", "# Notes\nThe area is width times height => easy!"),
    cell(
        "plots and animates",
        "matplotlib's animation",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nfrom matplotlib.animation import FuncAnimation\nfig, ax = plt.subplots()\nanimation = FuncAnimation(fig, lambda n: ax.plot([n]), frames=2)\nplt.show()",
    ),
    cell(
        "settings",
        "of printing, warnings, dtype and threads",
        "import warnings\nwarnings.filterwarnings('error')\ntorch.set_printoptions(precision=2)\ntorch.set_num_threads(2)\ntorch.backends.cudnn.benchmark = True\nimport os\nos.environ['CUDA_LAUNCH_BLOCKING'] = '1'\ndevice = torch.device('cuda' if torch.cuda.is_available() else 'cpu')\n",
    ),
    cell("deletes names", "del and reset", "x = 3\ndel x\nimport torch\n"),
    cell(
        "imports what is not there",
        "packages that this machine does not have",
        "import cv2\nimport pandas as pd\nimport seaborn as sns",
    ),
    cell("exits", "in a cell of its own", "import sys\nsys.exit(1)"),
    cell("quits", "the notebook's way", "quit()"),
    cell(
        "trains",
        "with workers and an optimiser",
        "from torch.utils.data import DataLoader, TensorDataset\nmodel = nn.Linear(2, 1)\noptimiser = torch.optim.SGD(model.parameters(), 0.1)\nfor (x,) in DataLoader(TensorDataset(torch.rand(8, 2)), batch_size=4, num_workers=2):\n    optimiser.zero_grad(); model(x).mean().backward(); optimiser.step()\n",
    ),
    cell("asynchronous", "await at top level", "import asyncio\nawait asyncio.sleep(0.01)"),
    cell("writes a file by magic", "%%writefile and import", "%%writefile helper.py\ndef f(): return 1\n"),
    cell("never ends", "an added cell, which is ended", "seven = 7\nwhile True: pass", notes=None),
    fair(
        "helper in an added cell",
        "a function and a class",
        "def area(boxes):\n    return Sides(boxes).width() * height(boxes)",
        change=at(
            "area",
            "class Sides:\n    def __init__(self, b): self.b = b\n    def width(self): return self.b[:, 2] - self.b[:, 0]\ndef height(b):\n    return b[:, 3] - b[:, 1]\n",
        ),
    ),
    fair(
        "helper below the exercise",
        "in a later cell",
        "def area(boxes):\n    return width(boxes) * (boxes[:, 3] - boxes[:, 1])",
        change=at("test_area", "def width(b): return b[:, 2] - b[:, 0]"),
    ),
    fair(
        "constant in an added cell",
        "used by the exercise",
        "def area(boxes):\n    return (boxes[:, TWO] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])",
        change=at("area", "TWO = 2"),
    ),
    fair(
        "defined again in a later cell",
        "a better version before the check",
        "def area(boxes):\n    return 7",
        change=at("test_area", AREA),
    ),
    fair(
        "check moved up",
        "the check cell stands first",
        AREA,
        change=lambda notebook: notebook.cells.insert(
            0, notebook.cells.pop(notebook.cells.index(make_class.find(notebook, "test_area")))
        ),
        notes=None,
    ),
    # The file
    fair("windows line ends", "in the cells", AREA.replace("\n", "\r\n") + "\r\n"),
    fair(
        "old mac line ends",
        "in the cell",
        change=source_of("area", lambda text: text.replace("\n", "\r")),
        notes=None,
    ),
    fair(
        "byte order mark",
        "at the beginning of the file",
        change=bytes_of(lambda text: b"\xef\xbb\xbf" + text.encode()),
    ),
    fair(
        "windows line ends in the file",
        "written by another editor",
        change=bytes_of(lambda text: text.replace("\n", "\r\n")),
    ),
    fair("escaped unicode", "ASCII only", change=lambda notebook: json.dumps(notebook).encode()),
    fair("utf-16", "saved by a text editor", change=bytes_of(lambda text: text.encode("utf-16")), notes=None),
    fair(
        "zero-width characters",
        "copied from a web page",
        change=source_of("area", lambda text: "# from\u00a0the\u200bweb\n" + text),
    ),
    fair("lines as lists", "as nbformat allows", change=lines_as_lists),
    fair("notebook format 3", "of long ago", change=format_3, notes=None),
    fair("notebook format 4.0", "without ids", change=format_4_0),
    fair("metadata lost", "by an editor that drops it", change=metadata_lost, notes=None),
    fair("colab", "with its metadata", change=colab),
    fair("executed", "with outputs and counts", change=executed),
    fair("large outputs", "of eight megabytes", change=large_outputs, notes=None),
    fair("attachments and raw cells", "between the others", change=attachments),
    fair("every cell twice", "merged by hand", change=every_cell_twice, notes=None),
    fair(
        "untouched copy at the end",
        "of an exercise that was answered",
        change=untouched_copy_at_the_end,
        notes=None,
    ),
    fair("名前 🎉 of a student", "emoji and CJK in the folder's name"),
    fair("O'Neil, Zoë; <b>", "punctuation and markup in the folder's name"),
    fair("=cmd|' '!A1", "a name that a spreadsheet takes for a formula"),
]
