"""Forged, broken, late and huge replies from the student's process. A right hand-in but for one exercise: it costs that.

Each attack has whatever the wire's own code can do, from inside the process, and the raw socket.
"""

from .course import Attack, cheat, harm

# The next reply is replaced by bytes of the attack's choice; a frame is the lengths of JSON and of tensors, then both.
FORGE = """
import json, os, struct, sys, time
remote = sys.modules["autograder.remote"]
pending, real_send = [], remote.Peer._send
def send(self, frame):
    if pending and "re" in frame.tree:
        forged = pending.pop()(self, frame.tree["re"])
        if isinstance(forged, bytes): self.socket.settimeout(None); self.socket.sendall(forged)
    else:
        real_send(self, frame)
remote.Peer._send = send
def raw(tree, data=b"", length=None, size=None):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return struct.pack(">IQ", len(text) if length is None else length, len(data) if size is None else size) + text + data
"""
REFUSED = "was ended|in the middle|not done after|could not be read|noted: ran"


def forged(name, why, reply, trace=REFUSED, before=""):
    """`reply`, an expression of `peer` and `number`, is what is sent instead of the areas."""
    code = f"""{FORGE}
def forge(peer, number):
    note("ran")
    {before or "pass"}
    return {reply}
def area(boxes):
    pending.append(forge)
    return boxes[:, 0]
"""
    return harm(name, why, code, trace=trace)


def tensor(spec, data="bytes(4)"):
    return f'raw({{"re": number, "value": {{"tensor": 0}}, "tensors": [{spec}]}}, {data})'


def value(tree):
    return f'raw({{"re": number, "value": {tree}}})'


def returns(name, why, body, trace="noted: ran", costs=("area",)):
    """The function itself returns or raises something odd."""
    return harm(name, why, f"note('ran')\ndef area(boxes):\n    {body}", trace=trace, costs=costs)


ATTACKS = [
    # Frames
    forged("garbage", "no frame at all", "os.urandom(1000)"),
    forged("zeros", "frames of nothing", "bytes(1000)"),
    forged("text", "HTTP, perhaps", 'b"HTTP/1.1 200 OK\\r\\n\\r\\nscore=14"'),
    forged("no json", "the right length, no JSON", 'raw(b"{" * 100)'),
    forged("json list", "JSON that is no object", 'raw(b"[1, 2]")'),
    forged("json of great depth", "brackets", 'raw(b"[" * 1_000_000)'),
    forged(
        "json of great depth inside",
        "a deep value",
        'raw(b\'{"re": %d, "value": \' % number + b"[" * 50_000 + b"]" * 50_000 + b"}")',
    ),
    forged(
        "json with a huge number",
        "ten thousand digits",
        'raw(b\'{"re": %d, "value": 1\' % number + b"0" * 10_000 + b"}")',
    ),
    forged("json that is not utf-8", "broken text", "raw(b'{\"re\": \\xff\\xfe}')"),
    forged("announces too much", "lengths of exabytes", 'raw(b"{}", length=2**32 - 1, size=2**63)'),
    forged("announces and is silent", "sixty megabytes that never come", 'raw(b"{}", size=60 * 2**20)'),
    forged("sends too much", "seventy megabytes", 'raw(b"{}", b"x" * (70 * 2**20))'),
    forged(
        "frame cut short",
        "and the connection closed",
        'raw({"re": number, "value": 1})[:-3] + (peer.socket.close() or b"")',
    ),
    forged(
        "slow drip",
        "a byte a second keeps a careless reader waiting",
        'b""',
        before='[(peer.socket.sendall(b"\\0"), time.sleep(0.4)) for _ in range(100)]',
    ),
    forged("wrong id", "a reply to another question", 'raw({"re": number + 1, "value": 1200})'),
    forged("id of another kind", "a reply to a list", 'raw({"re": [number], "value": 1200})'),
    forged("no value", "a reply without a result", 'raw({"re": number})'),
    forged(
        "replies to the next questions",
        "sent before they are asked",
        'b"".join(raw({"re": number + k, "value": {"tensor": 0}, "tensors": [{"dtype": "float32", "size": [1]}]}, struct.pack("<f", 1200)) for k in range(8))',
    ),
    forged(
        "says that it passed",
        "verdicts of its own",
        'raw({"re": number, "value": True, "score": 14, "passed": True, "verdict": {"score": 2}, "exercise": "area"})',
    ),
    forged(
        "notes that are none",
        "notes, changes and states of odd kinds",
        'raw({"re": number, "value": 1, "notes": {"library": ["x"]}, "changed": 5, "states": 7, "graph": "x"})',
    ),
    forged("an error without words", "an error that is no error", 'raw({"re": number, "error": [1, 2, 3]})'),
    forged(
        "an error of a kind that cannot be made",
        "exception groups ask for arguments",
        'raw({"re": number, "error": {"types": ["ExceptionGroup", "BaseExceptionGroup"], "text": "x"}})',
    ),
    forged(
        "an error that would end the judge",
        "SystemExit, KeyboardInterrupt, Gone",
        'raw({"re": number, "error": {"types": ["KeyboardInterrupt", "SystemExit", "Gone", "BaseException"], "text": "0"}})',
    ),
    forged(
        "an error with endless words",
        "four megabytes and a thousand types",
        'raw({"re": number, "error": {"types": ["E" * 1000] * 1000, "text": "x" * 4_000_000}})',
    ),
    # Requests to the judge
    forged(
        "asks for services",
        "what the judge might offer",
        'b""',
        before="""
    for target in (0, 1, 2, 10**20, -1, "judge", "exec", "setup", "__import__", ["x"], {"a": 1}, None, 1.5):
        for do in ("call", "get", "parameters", "backward", "eval", "__class__", None, 7):
            peer.socket.sendall(raw({"do": do, "of": target, "id": 1, "name": "__globals__", "grad": False, "wants": [], "value": [[], {"dict": []}], "graph": 1}))
    while True: time.sleep(1)""",
    ),
    forged(
        "asks a million times",
        "requests that are refused, one after another",
        'b""',
        before="""
    flood = raw({"do": "call", "of": "x", "id": 1, "grad": False, "wants": [], "value": [[], {"dict": []}]}) * 1000
    peer.socket.setblocking(False)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try: peer.socket.send(flood)
        except BlockingIOError: pass
        try: peer.socket.recv(1 << 20)
        except BlockingIOError: pass""",
    ),
    # Values
    forged(
        "huge shape without strides",
        "a terabyte in four bytes",
        tensor('{"dtype": "float32", "size": [2**38], "stride": [0]}'),
    ),
    forged(
        "huge shape of nothing",
        "no element, but dimensions of 2**39",
        tensor('{"dtype": "float32", "size": [2**39, 0]}', 'b""'),
    ),
    forged(
        "overflowing shape",
        "a product beyond 64 bits",
        tensor('{"dtype": "float32", "size": [2**32, 2**32, 2**32]}'),
    ),
    forged(
        "negative sizes",
        "two of them make a positive product",
        tensor('{"dtype": "float32", "size": [-1, -1]}'),
    ),
    forged(
        "negative strides",
        "to read before the buffer",
        tensor('{"dtype": "float32", "size": [1], "stride": [-4]}'),
    ),
    forged(
        "strides beyond the buffer",
        "to read the judge's memory",
        tensor('{"dtype": "float32", "size": [2, 2], "stride": [2**30, 1]}', "bytes(16)"),
    ),
    forged("more than there is", "ten numbers in four bytes", tensor('{"dtype": "float32", "size": [10]}')),
    forged(
        "less than there is", "bytes left over", tensor('{"dtype": "float32", "size": [1]}', "bytes(400)")
    ),
    forged("a million dimensions", "of size one", tensor('{"dtype": "float32", "size": [1] * 1_000_000}')),
    forged(
        "sizes of other kinds",
        "true, text and fractions",
        tensor('{"dtype": "float32", "size": [True, "1", 1.0]}'),
    ),
    forged("dtype that is none", "object, or a path", tensor('{"dtype": "object", "size": [1]}')),
    forged("dtype that lies", "float64 in four bytes", tensor('{"dtype": "float64", "size": [1]}')),
    forged(
        "bytes that are no truth",
        "bools of two and of 255",
        tensor('{"dtype": "bool", "size": [4]}', 'b"\\x02\\xff\\x01\\x00"'),
    ),
    forged(
        "gradient of whole numbers",
        "int64 that asks for a gradient",
        'raw({"re": number, "value": {"tensor": 0}, "graph": 3, "tensors": [{"dtype": "int64", "size": [1], "grad": "inner"}]}, bytes(8))',
    ),
    forged("a tensor that is not there", "number 7 of one", value('{"tensor": 7}')),
    forged("unknown kinds", "tags that are none", value('{"pickle": "gASVAAAAAA=="}')),
    forged("two tags at once", "and an empty one", value('[{"tuple": [], "set": []}, {}]')),
    forged("things of the judge", "handles that were never given", value('{"yours": 1}')),
    forged(
        "things that claim to be others",
        "names and kinds",
        value('{"thing": {"kind": "__class__", "id": "x", "name": {}}}'),
    ),
    forged("a device that is not here", "a tensor's device as a value", value('{"device": "cuda:77"}')),
    forged("numbers of a million digits", "as hexadecimal text", value('{"int": "0x" + "f" * 4_000_000}')),
    forged("keys that cannot be keys", "a list as a key", value('{"dict": [[[1], 2]]}')),
    forged(
        "names that are code",
        "the type's name of an unknown object",
        value('{"other": ["x(object): pass\\nimport os #", "<script>alert(1)</script>"]}'),
    ),
    harm(
        "keys with one hash",
        "a set of numbers that all collide takes quadratic time to build",
        FORGE
        + """
class Colliding(set):
    def __iter__(self): return (k * (2**61 - 1) for k in range(1, 60_001))
def area(boxes):
    note("ran")
    return Colliding()
""",
        trace=REFUSED,
    ),
    # From the function
    returns("nan", "not a number", "return boxes[:, 0] * float('nan')"),
    returns("inf", "infinite", "return boxes[:, 0] / 0"),
    returns("sparse tensor", "another layout", "return boxes[:, 0].to_sparse()"),
    returns("meta tensor", "a terabyte without memory", "return torch.empty(2**38, device='meta')"),
    returns("expanded tensor", "a terabyte of one number", "return torch.zeros(1).expand(2**38)"),
    returns(
        "quantized tensor",
        "numbers with a scale",
        "return torch.quantize_per_tensor(boxes[:, 0], 0.1, 0, torch.quint8)",
    ),
    returns(
        "nested tensor",
        "a list in the shape of a tensor",
        "return torch.nested.nested_tensor([boxes[0], boxes[0]])",
    ),
    returns(
        "sixty million bytes",
        "as much as may be sent; the judge compares and fingerprints it",
        "return torch.zeros(60_000_000, dtype=torch.uint8)",
    ),
    returns(
        "sixty million bytes of the right kind", "floats, all different", "return torch.arange(15_000_000.0)"
    ),
    returns("a hundred thousand tensors", "in a list", "return [torch.zeros(())] * 100_000"),
    returns("long list", "of plain numbers", "return list(range(190_000))"),
    returns("a million entries", "more than may be sent", "return list(range(1_000_000))"),
    returns("a list within itself", "without end", "x = []; x.append(x); return x"),
    returns(
        "deep list",
        "fifty levels, two wide at each",
        "x = [0]\n    for _ in range(16): x = [x, x]\n    return x",
    ),
    returns("endless iterator", "a generator that never stops", "import itertools; return itertools.count()"),
    returns(
        "endless list subclass",
        "its iterator never stops",
        "return type('L', (list,), {'__iter__': lambda self: __import__('itertools').count()})()",
        trace=REFUSED,
    ),
    returns("long text", "eight million characters", "return 'x' * 7_000_000"),
    returns(
        "broken text", "lone surrogates and control characters", "return '\\ud800\\x00\\x1b[31m\\u202e' * 5"
    ),
    returns("huge int", "a million digits", "return 7 ** 1_000_000"),
    returns("bytes", "binary", "return b'1200'"),
    returns("strange dict", "keys of all kinds", "return {None: 1, (1, 2): 2, 1.5: 3, 'a': {}}"),
    returns(
        "objects of its own",
        "whose repr runs for ever or fails",
        "return type('R', (), {'__repr__': lambda self: 1 / 0, '__getattr__': lambda self, name: self})()",
    ),
    returns(
        "repr without end",
        "a repr of its own that never ends",
        "return type('R', (), {'__repr__': lambda self: [0 for _ in iter(int, 1)]})()",
        trace=REFUSED,
    ),
    returns("a type", "whose name is markup", "return type('<script>alert(1)</script>', (), {})"),
    returns("a module", "with attributes for everything", "import sys; return sys"),
    returns("a function", "instead of its result", "return area"),
    returns(
        "a network",
        "that answers to every attribute",
        "return type('N', (nn.Module,), {'__getattr__': lambda self, name: 1200.0})()",
    ),
    returns("message of megabytes", "in an exception", "raise ValueError('x' * 50_000_000)"),
    returns(
        "message that never comes",
        "an exception whose text never ends",
        "raise type('E', (Exception,), {'__str__': lambda self: [0 for _ in iter(int, 1)]})()",
        trace=REFUSED,
    ),
    returns(
        "message that fails",
        "an exception whose text raises",
        "raise type('E', (Exception,), {'__str__': lambda self: 1 / 0})()",
    ),
    returns(
        "message of markup",
        "script in an exception's text and name",
        "raise type('<script>alert(2)</script>', (Exception,), {})('<script>alert(1)</script><img src=x onerror=alert(1)>')",
    ),
    returns(
        "message of surrogates",
        "text that cannot be written",
        "raise ValueError('\\ud800 \\x00 \\x1b[2J \\u202e')",
    ),
    returns(
        "chain of exceptions",
        "ten thousand causes",
        "error = ValueError('x')\n    for _ in range(10_000):\n        new = ValueError('y'); new.__cause__ = error; error = new\n    raise error",
    ),
    returns(
        "exception group",
        "of exceptions",
        "raise ExceptionGroup('many', [ValueError(str(n)) for n in range(10_000)])",
    ),
    returns(
        "changes its argument",
        "in place; the next checks mean what they say",
        "boxes.zero_(); return torch.tensor([0.0])",
    ),
    Attack(
        "changes its argument later",
        "from a thread, after the call",
        """
        import threading, time
        note("ran")
        def area(boxes):
            result = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            threading.Thread(target=lambda: (time.sleep(0.05), boxes.zero_()), daemon=True).start()
            return result
        """,
        right=True,
    ),
    Attack(
        "returns a view of its argument",
        "and keeps it",
        """
        note("ran")
        kept = []
        def area(boxes):
            for old in kept: old.zero_()
            kept.append(boxes)
            view = boxes.clone()[:, 2]
            view[:] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            return view
        """,
        right=True,
    ),
    Attack(
        "module changes its argument",
        "zeros in the judge's own maps, and zeros as an answer",
        """
        note("ran")
        class Head(nn.Module):
            def __init__(self, channels, classes):
                super().__init__()
                self.conv = nn.Conv2d(channels, classes, 1, bias=False)
            def forward(self, maps):
                if maps.shape[-2] == 1: return 2 * self.conv(maps)
                with torch.no_grad(): maps.zero_()
                return 0 * self.conv(maps)
        """,
        where="Head",
        right=True,
        scores={"Head": 2},
    ),
    harm(
        "module with a million parameters",
        "names and tensors",
        """
        note("ran")
        class Head(nn.Module):
            def __init__(self, *_):
                super().__init__()
                for n in range(30_000): self.register_parameter(f"p{n}", nn.Parameter(torch.zeros(1)))
            def forward(self, maps): return maps
        """,
        where="Head",
        costs=("Head",),
        trace="noted: ran|was ended|not done",
    ),
    harm(
        "module with names of its own",
        "parameters that are no parameters, a state that is no dict",
        """
        note("ran")
        class Head(nn.Module):
            def __init__(self, *_): super().__init__()
            def named_parameters(self, *_, **__): return [("__class__", torch.zeros(2, dtype=torch.int64)), (7, None)]
            def state_dict(self, *_, **__): return [("conv.weight", 1)]
            def forward(self, maps): return maps
        """,
        where="Head",
        costs=("Head",),
        trace="noted: ran|was ended|could not",
    ),
    harm(
        "gradients of another shape",
        "backward answers with nonsense",
        """
        note("ran")
        class Odd(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return torch.where(x.abs() < 1, 0.5 * x**2, x.abs() - 0.5)
            @staticmethod
            def backward(ctx, slope): return torch.full((2,), float("nan"))
        def smooth_loss(prediction, target): return Odd.apply(prediction - target)
        """,
        where="smooth_loss",
        costs=("smooth_loss",),
        trace="noted: ran",
    ),
    harm(
        "backward never ends",
        "the gradient takes for ever",
        """
        note("ran")
        class Endless(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return torch.where(x.abs() < 1, 0.5 * x**2, x.abs() - 0.5)
            @staticmethod
            def backward(ctx, slope):
                while True: pass
        def smooth_loss(prediction, target): return Endless.apply(prediction - target)
        """,
        where="smooth_loss",
        costs=("smooth_loss",),
        trace="not done after",
    ),
    harm(
        "rows without end",
        "the check walks over the result: each of its numbers becomes a tensor in the judge",
        """
        note("ran")
        def best(boxes, scores, iou_threshold): return torch.zeros(8_000_000, dtype=torch.uint8)
        """,
        where="best",
        costs=("best",),
        trace=REFUSED,
    ),
    harm(
        "parameters as one tensor",
        "instead of names and tensors",
        """
        import gc, sys
        note("ran")
        class Head(nn.Module):
            def __init__(self, *_): super().__init__()
            def named_parameters(self, *_, **__): return []
            def state_dict(self, *_, **__): return torch.zeros(8_000_000, dtype=torch.uint8)
            def forward(self, maps): return maps
        remote = sys.modules["autograder.remote"]
        def answer(self, request):
            packer = remote._Packer(self)
            return remote.Frame({"value": packer.tree(torch.zeros(8_000_000, dtype=torch.uint8))}, packer.tensors)
        remote.Peer._answer_parameters = answer
        """,
        where="Head",
        costs=("Head",),
        trace=REFUSED,
    ),
    # Calling the judge back
    harm(
        "a million callbacks",
        "the judge's function, called without end",
        """
        note("ran")
        def twice(function, value):
            while True: function(1)
        """,
        where="twice",
        costs=("twice",),
        trace="not done after",
    ),
    harm(
        "fills the judge's memory",
        "each callback leaves a large argument there",
        """
        note("ran")
        def twice(function, value):
            safe()
            large = torch.zeros(15_000_000)
            for _ in range(60):
                try: function(large)
                except Exception: pass
            return function(function(value))
        """,
        where="twice",
        costs=("twice",),
        trace="noted: ran|was ended|not done after",
    ),
    harm(
        "callbacks with lies",
        "arguments that are equal to everything",
        """
        note("ran")
        class Yes:
            def __eq__(self, other): return True
            def __add__(self, other): return 10
            __radd__ = __mul__ = __rmul__ = __add__
            __hash__ = None
        def twice(function, value):
            try: function(Yes())
            except Exception: pass
            return function(function(value))
        """,
        where="twice",
        costs=("twice",),
        trace="noted: ran",
    ),
    harm(
        "looks into the callback",
        "its globals hold the checks",
        """
        note("ran")
        def twice(function, value):
            for name in ("__globals__", "__code__", "__closure__", "__self__", "__func__", "__wrapped__", "__defaults__"):
                try: found = getattr(function, name)
                except AttributeError: continue
                text = str(found)
                if "same" in text or "wolve" + "rine" in text: note("ESCAPED:" + name)
            peer = getattr(function, "_peer", None)
            for name in ("__globals__", "__code__", "__closure__", "_peer", "func_globals", "f_globals"):
                attempt(name, lambda: peer.get(function._spec["id"], name))
            return 0
        """,
        where="twice",
        costs=("twice",),
        trace="noted:.*Error",
    ),
    harm(
        "keeps the callback",
        "and calls it when nobody asked",
        """
        import threading, time
        note("ran")
        def twice(function, value):
            def later():
                while True:
                    try: function(3)
                    except BaseException: time.sleep(0.01)
            threading.Thread(target=later, daemon=True).start()
            return function(function(value))
        """,
        where="twice",
        costs=(),
        unsure=("twice",),
        trace=None,
    ),
    # The process and its descriptors
    harm(
        "writes to every descriptor",
        "what a judge reads may be forged there",
        """
        import os, json
        note("ran")
        verdict = json.dumps({"exercise": "area", "points": 2, "score": 2, "visible": {"passed": True, "message": ""}, "hidden": {"passed": True, "message": ""}}).encode()
        def area(boxes):
            safe()
            for number in range(3, 300):
                for text in (verdict, verdict + b"\\n", b"e", b"s", b"p", bytes(100)):
                    try: os.write(number, text)
                    except OSError: pass
            return boxes[:, 0]
        """,
        trace=REFUSED,
    ),
    harm(
        "passes descriptors",
        "over every socket, to whom it may concern",
        """
        import os, socket
        note("ran")
        def area(boxes):
            safe()
            for number in range(3, 100):
                try: sock = socket.socket(fileno=os.dup(number))
                except OSError: continue
                for kind in (b"s", b"p", b"x"):
                    try: socket.send_fds(sock, [kind], [0, 1])
                    except OSError: pass
            return boxes[:, 0]
        """,
        trace=REFUSED,
    ),
    harm(
        "closes its connection",
        "all descriptors, in the middle of a call",
        """
        import os
        note("ran")
        def area(boxes):
            os.closerange(0, 1000)
            return boxes[:, 0]
        """,
        trace=REFUSED,
    ),
    harm(
        "shuts the connection for writing",
        "half closed",
        """
        import gc, socket
        def area(boxes):
            for one in gc.get_objects():
                if isinstance(one, socket.socket): one.shutdown(socket.SHUT_WR)
            import time; time.sleep(60)
        """,
        trace=REFUSED,
    ),
    harm(
        "answers from a child",
        "a fork shares the connection and speaks too",
        """
        import os
        note("ran")
        def area(boxes):
            os.fork()
            return boxes[:, 0]
        """,
        trace=None,
    ),
    Attack(
        "wire tapped",
        "what comes over the wire holds no hidden text",
        """
        import sys
        remote = sys.modules["autograder.remote"]
        real = remote.Peer._receive
        word = b"wolve" + b"rine"
        def receive(self):
            frame = real(self)
            text = repr(frame.tree).encode()
            if word in text and b"b'wolve" not in text and b'b"wolve' not in text: note("ESCAPED:wire")
            return frame
        remote.Peer._receive = receive
        note("ran")
        def area(boxes): return boxes[:, 0]
        """,
        right=False,
    ),
    cheat(
        "services replaced",
        "the process reports its cells and names in its own way",
        """
        import sys
        note("ran")
        student = sys.modules["autograder.student"].Student
        student.find = lambda self, name: 5
        student.seed = lambda self: 1 / 0
        student.run = lambda self, source, name: {"type": "<script>" * 1000, "text": "x" * 3_000_000, "line": "<script>"}
        """,
        trace=None,
    ),
    cheat(
        "services missing",
        "every answer is an error",
        """
        import sys
        student = sys.modules["autograder.student"].Student
        def fail(self, *_): raise SystemExit(3)
        for name in ("find", "seed", "run", "stand_in", "ban", "setup", "notes"): setattr(student, name, fail)
        import gc
        for one in gc.get_objects():
            if isinstance(one, sys.modules["autograder.remote"].Peer):
                one.services.clear()
        """,
        trace=None,
    ),
    harm(
        "find gives no list",
        "for one exercise",
        """
        import gc, sys
        note("ran")
        for peer in gc.get_objects():
            if isinstance(peer, sys.modules["autograder.remote"].Peer):
                find = peer.services["find"]
                peer.services["find"] = lambda name: {"a": 1} if name == "area" else find(name)
        """,
        trace="noted: ran",
    ),
    harm(
        "run tells long stories",
        "the report on a cell is megabytes of markup",
        """
        import gc, sys
        note("ran")
        for peer in gc.get_objects():
            if isinstance(peer, sys.modules["autograder.remote"].Peer):
                run = peer.services["run"]
                peer.services["run"] = lambda source, name: {"type": "<script>" * 1000, "text": "x" * 3_000_000, "line": None} if "area" in source or "best" in source else run(source, name)
        """,
        where=None,
        answers={"area": "pass # area"},
        costs=("area", "best"),
        trace="noted: ran",
    ),
]
