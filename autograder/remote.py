"""The wire between judge and student process: tensors and plain data, never pickle.

A frame is one request or one reply: a JSON tree, and the raw bytes of its tensors. Both ends are a `Peer`: each may call
what the other gave it (functions, classes, modules), also while it answers a call itself; gradients go through.
What arrives is taken for hostile: sizes, depth, ids, types and time are bounded, and a frame that breaks a rule ends
the connection (`Gone`).
"""

import base64
import builtins
import collections
import json
import math
import re
import struct
import time

import numpy as np
import torch

PREFIX = struct.Struct(">IQ")  # bytes of JSON, bytes of tensors
MOST_JSON = 8 << 20
MOST_BYTES = 64 << 20
MOST_VALUES = 200_000
MOST_DEPTH = 60
MOST_TEXT = 4000  # characters of an exception's message
MOST_GRAPHS = 500  # calls whose gradients can still be asked for

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
        torch.float32, torch.float64, torch.complex64, torch.complex128,
    )
}  # fmt: skip


class Gone(BaseException):
    """The other end died, was late, or broke the protocol; says which. No `except Exception` of a check stops it."""


class Late(Gone):
    """The time for a call, or for all of them, is over."""


class Died(Gone):
    """The other end closed the connection."""


class Frame:
    """One message: `tree` goes as JSON, `tensors` as bytes; `data` are the bytes as they came."""

    def __init__(self, tree, tensors=(), data=b""):
        self.tree, self.tensors, self.data = tree, list(tensors), data


class Peer:
    """One end of the wire.

    Args:
        socket: a connected stream socket.
        services (dict): what the other end may call by name from the beginning.
        attributes (bool): whether the other end may read public attributes of what it was given.
        after_call: called after each call that was answered; a dict that it gives goes with the reply.
    """

    def __init__(self, socket, services=(), attributes=False, after_call=lambda: None):
        self.socket, self.services = socket, dict(services)
        self.attributes, self.after_call = attributes, after_call
        self.seconds = self.deadline = math.inf  # for one call; for all of them, by time.monotonic()
        self.notes, self.changed = {}, None  # of the last reply
        self._given, self._numbers = {}, {}
        self._graphs = collections.OrderedDict()
        self._asked, self._until = 0, math.inf

    # Asking

    def service(self, name, *arguments):
        """Call a service of the other end by its name."""
        return self.call(name, arguments)

    def call(self, target, arguments=(), named=(), parameters=None):
        """Call what the other end knows as `target`: its result, or the exception that it raised.

        After it, `changed` is None or `(arguments, named)` as the call left them, where it changed one in place.

        Args:
            parameters: of a module, the `(name, tensor)` that its result depends on too.
        """
        grad = torch.is_grad_enabled()
        learning = [(name, tensor) for name, tensor in parameters or () if grad and tensor.requires_grad]
        packer = _Packer(self)
        tree = {"do": "call", "of": target, "grad": grad, "wants": [name for name, _ in learning]}
        tree["value"] = packer.tree([list(arguments), dict(named)])
        request = Frame(tree, packer.tensors)
        leaves = [tensor for tensor in request.tensors if grad and tensor.requires_grad]
        leaves += [tensor for _, tensor in learning]
        if leaves:
            made = {}
            outputs = _Remote.apply(self, request, made, *leaves)
            reply, tensors = made["reply"], made["tensors"]
            for index, output in zip(made["at"], outputs):
                tensors[index] = output
        else:
            reply = self._ask(request)
            tensors = self._tensors(reply)
        result = self._value(reply, tensors, "value")
        self.changed = self._value(reply, tensors, "changed") if "changed" in reply.tree else None
        for generator, state in zip(packer.generators, reply.tree.get("states", ())):
            generator.set_state(_state(state))
        return result

    def get(self, target, name):
        """A public attribute of an object of the other end."""
        reply = self._ask(Frame({"do": "get", "of": target, "name": name}))
        return self._value(reply, self._tensors(reply), "value")

    def parameters(self, target):
        """`[(name, tensor, requires_grad)]` of a module of the other end."""
        reply = self._ask(Frame({"do": "parameters", "of": target}))
        return self._value(reply, self._tensors(reply), "value")

    def forget(self):
        """Drop the graphs that gradients of the other end's calls would need."""
        self._graphs.clear()

    def _ask(self, frame):
        """Send a request, answer what is asked in between, give the reply."""
        self._asked += 1
        frame.tree["id"] = number = self._asked
        outer, self._until = self._until, min(self._until, time.monotonic() + self.seconds, self.deadline)
        try:
            self._send(frame)
            while True:
                found = self._receive()
                if "do" in found.tree:
                    self._answer(found)
                elif found.tree.get("re") == number:
                    break
                else:
                    raise Gone(f"it replied to {str(found.tree.get('re'))[:20]}, expected a reply to {number}")
        finally:
            self._until = outer
        notes = found.tree.get("notes")
        self.notes = notes if isinstance(notes, dict) else {}
        if "error" in found.tree:
            raise _exception(found.tree["error"])
        return found

    def _tensors(self, frame):
        return _read(lambda: list(_from_bytes(frame)))

    def _value(self, frame, tensors, key):
        return _read(lambda: _Unpacker(self, tensors).value(frame.tree[key]))

    # Answering

    def serve(self):
        """Answer requests until the other end closes or breaks the protocol."""
        try:
            while True:
                self._answer(self._receive())
        except Gone:
            return

    def _answer(self, request):
        answers = {
            "call": self._answer_call,
            "backward": self._answer_backward,
            "get": self._answer_get,
            "parameters": self._answer_parameters,
        }
        try:
            what = request.tree.get("do")
            if not isinstance(what, str) or what not in answers:
                raise LookupError(f"no request {str(what)[:40]!r}")
            reply = answers[what](request)
        except Gone:
            raise
        except BaseException as error:  # an answer's SystemExit too
            reply = Frame({"error": _words(error)})
        if request.tree.get("do") == "call" and (notes := self.after_call()):
            reply.tree["notes"] = notes
        reply.tree["re"] = request.tree.get("id")
        try:
            self._send(reply)
        except (OverflowError, ValueError, TypeError, RuntimeError) as error:  # too large, or no plain data after all
            self._send(Frame({"error": _words(error), "re": request.tree.get("id")}))

    def _answer_call(self, request):
        tree = request.tree
        function = self._thing(tree["of"])
        tensors = list(_from_bytes(request))
        leaves = [tensor.requires_grad_() for tensor, spec in zip(tensors, tree.get("tensors", ())) if spec.get("grad")]
        # Where the caller's tensor is a result of something, so is the one that the function gets.
        inner = [spec.get("grad") == "inner" for spec in tree.get("tensors", ())]
        with torch.enable_grad():
            given = [tensor.clone() if is_inner else tensor for tensor, is_inner in zip(tensors, inner)]
        unpacker = _Unpacker(self, given)
        arguments, named = unpacker.value(tree["value"])
        with torch.set_grad_enabled(bool(tree["grad"])):
            result = function(*arguments, **named)
        packer = _Packer(self)
        reply = Frame({"value": packer.tree(result)}, packer.tensors)
        after = _Packer(self, echo=True)
        after_tree = after.tree([arguments, named])
        if not _unchanged(Frame(after_tree, after.tensors), request):
            changed = _Packer(self, tensors=packer.tensors)
            reply.tree["changed"] = changed.tree([arguments, named])
            reply.tensors = changed.tensors
        if unpacker.generators:
            reply.tree["states"] = [_text(generator) for generator in unpacker.generators]
        if isinstance(function, torch.nn.Module):
            own = dict(function.named_parameters())
            leaves += [own[name] for name in tree["wants"]]
        outputs = [tensor for tensor in reply.tensors if tensor.requires_grad]
        if outputs and leaves:
            number = reply.tree["graph"] = request.tree["id"]
            self._graphs[number] = outputs, leaves
            if len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        return reply

    def _answer_backward(self, request):
        if request.tree["graph"] not in self._graphs:
            raise LookupError("the results of this call are no longer kept")
        outputs, leaves = self._graphs[request.tree["graph"]]
        slopes = self._value(request, list(_from_bytes(request)), "value")
        pairs = [(output, slope) for output, slope in zip(outputs, slopes) if slope is not None]
        found = torch.autograd.grad(
            [output for output, _ in pairs], leaves, [slope for _, slope in pairs], retain_graph=True, allow_unused=True
        )
        packer = _Packer(self)
        return Frame({"value": packer.tree(list(found))}, packer.tensors)

    def _answer_get(self, request):
        thing, name = self._thing(request.tree["of"]), request.tree["name"]
        if not self.attributes or not re.fullmatch(r"[a-zA-Z]\w*", name):
            raise AttributeError(f"{name[:40]} is not to be had")
        packer = _Packer(self)
        return Frame({"value": packer.tree(getattr(thing, name))}, packer.tensors)

    def _answer_parameters(self, request):
        module = self._thing(request.tree["of"])
        rows = [(name, one.detach(), one.requires_grad) for name, one in module.named_parameters()]
        packer = _Packer(self)
        return Frame({"value": packer.tree(rows)}, packer.tensors)

    # What the other end calls by a number

    def _give(self, thing):
        number = self._numbers.get(id(thing))
        if number is None:
            number = self._numbers[id(thing)] = len(self._given) + 1
            self._given[number] = thing  # kept, so its id stays its own
        return number

    def _thing(self, number):
        known = self.services if isinstance(number, str) else self._given
        if not isinstance(number, (int, str)) or number not in known:
            raise LookupError(f"nothing is known as {str(number)[:40]!r}")
        return known[number]

    # Bytes

    def _send(self, frame):
        specs, parts = [], []
        for tensor in frame.tensors:
            spec, data = _to_bytes(tensor)
            specs.append(spec)
            parts.append(data)
        if specs:
            frame.tree["tensors"] = specs
        text = json.dumps(frame.tree, separators=(",", ":")).encode()
        size = sum(map(len, parts))
        if len(text) > MOST_JSON or size > MOST_BYTES:
            raise OverflowError(f"{len(text) + size} bytes are too many to send, at most {MOST_BYTES}")
        data = memoryview(b"".join([PREFIX.pack(len(text), size), text, *parts]))
        while data:
            data = data[self._in_time(self.socket.send, data[: 1 << 20]) :]

    def _receive(self):
        length, size = PREFIX.unpack(self._bytes(PREFIX.size))
        if length > MOST_JSON or size > MOST_BYTES:
            raise Gone(f"it sent {length + size} bytes at once, at most {MOST_BYTES} of tensors and {MOST_JSON} else")
        text, data = self._bytes(length), self._bytes(size)
        try:
            tree = json.loads(bytes(text))
        except (ValueError, RecursionError) as error:
            raise Gone(f"it sent no JSON ({type(error).__name__})") from None
        if not isinstance(tree, dict):
            raise Gone("it sent JSON that is no object")
        return Frame(tree, data=data)

    def _bytes(self, count):
        data = bytearray()
        while len(data) < count:
            part = self._in_time(self.socket.recv, min(count - len(data), 1 << 20))
            if not part:
                raise Died("it ended in the middle")
            data += part
        return data

    def _in_time(self, act, what):
        left = self._until - time.monotonic()
        if left <= 0:
            raise Late("it took too long")
        self.socket.settimeout(None if left == math.inf else left)
        try:
            return act(what)
        except TimeoutError:
            raise Late("it took too long") from None
        except OSError as error:
            raise Died(f"the connection ended ({error.strerror or error})") from None


class _Remote(torch.autograd.Function):
    """A call to the other end as a node of the graph: backward asks the other end for the gradients."""

    @staticmethod
    def forward(ctx, peer, request, made, *leaves):
        reply = peer._ask(request)
        tensors = peer._tensors(reply)
        specs, graph = reply.tree.get("tensors", ()), reply.tree.get("graph")
        at = [index for index, spec in enumerate(specs) if spec.get("grad")] if isinstance(graph, int) else []
        made.update(reply=reply, tensors=tensors, at=at)
        ctx.peer, ctx.graph = peer, graph
        ctx.shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
        ctx.set_materialize_grads(False)
        if not at:  # autograd wants at least one result
            ctx.mark_non_differentiable(nothing := torch.zeros(0))
            return (nothing,)
        return tuple(tensors[index] for index in at)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *slopes):
        packer = _Packer(ctx.peer)
        tree = {"do": "backward", "graph": ctx.graph, "value": packer.tree(list(slopes))}
        reply = ctx.peer._ask(Frame(tree, packer.tensors))
        found = ctx.peer._value(reply, ctx.peer._tensors(reply), "value")
        expected = isinstance(found, list) and len(found) == len(ctx.shapes)
        if not expected or not all(
            slope is None or isinstance(slope, torch.Tensor) and (slope.shape, slope.dtype) == shape
            for slope, shape in zip(found, ctx.shapes)
        ):
            raise Gone("it sent no gradients")
        return None, None, None, *found


# What stands for things of the other end


class RemoteFunction:
    """A function, or another callable, of the other end."""

    def __init__(self, peer, spec):
        self._peer, self._spec, self.__name__ = peer, spec, spec["name"]

    def __call__(self, *arguments, **named):
        return self._peer.call(self._spec["id"], arguments, named)

    def __repr__(self):
        return f"<{self.__name__}>"


class RemoteClass(RemoteFunction):
    """A class of the other end: calling it makes an object there."""


class RemoteModule(RemoteFunction):
    """An `nn.Module` of the other end. Its parameters are leaves here: `backward` fills their `grad`."""

    def __init__(self, peer, spec):
        super().__init__(peer, spec)
        self._leaves, self._versions = None, None

    def __call__(self, *arguments, **named):
        parameters = self.named_parameters()
        if self._versions != [tensor._version for _, tensor in parameters]:  # an optimiser here moved them
            self._peer.get(self._spec["id"], "load_state_dict")({name: tensor.detach() for name, tensor in parameters}, False)
            self._versions = [tensor._version for _, tensor in parameters]
        return self._peer.call(self._spec["id"], arguments, named, parameters)

    def named_parameters(self):
        if self._leaves is None:
            rows = self._peer.parameters(self._spec["id"])
            self._leaves = {name: tensor.requires_grad_(learns) for name, tensor, learns in rows}
            self._versions = [tensor._version for tensor in self._leaves.values()]
        return list(self._leaves.items())

    def parameters(self):
        return [tensor for _, tensor in self.named_parameters()]

    def zero_grad(self, set_to_none=True):
        for tensor in self.parameters():
            tensor.grad = None

    def state_dict(self):
        return self._peer.get(self._spec["id"], "state_dict")()

    def load_state_dict(self, state, strict=True):
        detached = {name: tensor.detach() for name, tensor in state.items()}
        self._peer.get(self._spec["id"], "load_state_dict")(detached, strict)
        if self._leaves is not None:
            with torch.no_grad():
                for name, tensor, _ in self._peer.parameters(self._spec["id"]):
                    self._leaves[name].copy_(tensor)
            self._versions = [tensor._version for tensor in self._leaves.values()]

    def train(self, mode=True):
        self._peer.get(self._spec["id"], "train")(mode)
        return self

    def eval(self):
        return self.train(False)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return self._peer.get(self._spec["id"], name)


REMOTE = {"function": RemoteFunction, "class": RemoteClass, "module": RemoteModule}


class Foreign:
    """A value that is neither tensor nor plain data: its type's name and a short text are all that came over."""

    def __init__(self, text):
        self._text = text

    def __repr__(self):
        return self._text


# Values as trees for JSON. A dict in a tree is always a tagged value: {"tag": ...}.


class _Packer:
    """Turns a value into a tree and a list of tensors.

    With `echo`, what belongs to the other end is described as the other end described it, not by "yours".
    """

    def __init__(self, peer, tensors=(), echo=False):
        self.peer, self.tensors, self.echo, self.generators = peer, list(tensors), echo, []
        self._values = 0

    def tree(self, value, depth=0):
        self._values += 1
        if depth > MOST_DEPTH or self._values > MOST_VALUES:
            raise ValueError(f"a result with more than {MOST_DEPTH} levels or {MOST_VALUES} values")
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._numpy(value)
        if isinstance(value, bool) or kind is int and abs(value) < 1 << 53:
            return value
        if isinstance(value, int):
            return {"int": hex(int(value))[:1000]}
        if isinstance(value, float):
            return float(value)
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, str):
            return str(value)
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": base64.b64encode(bytes(value)).decode()}
        if isinstance(value, dict):
            return {"dict": [[self.tree(key, depth + 1), self.tree(value[key], depth + 1)] for key in list(value)]}
        if isinstance(value, torch.Size):
            return {"size": list(value)}
        if isinstance(value, (list, tuple, set, frozenset)):
            items = [self.tree(item, depth + 1) for item in list(value)]
            tag = next(tag for tag, one in CONTAINERS.items() if isinstance(value, one))
            return items if tag == "list" else {tag: items}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"device": str(value)}
        if isinstance(value, torch.Generator):
            self.generators.append(value)
            return {"generator": _text(value)}
        return self._other(value)

    def _tensor(self, value):
        plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
        if not plain or str(value.dtype).removeprefix("torch.") not in DTYPES:
            return {"other": ["Tensor", f"a tensor on {value.device} ({value.layout}, {value.dtype})"]}
        self.tensors.append(value if type(value) is torch.Tensor else value.as_subclass(torch.Tensor))
        return {"tensor": len(self.tensors) - 1}

    def _numpy(self, value):
        tag = "array" if isinstance(value, np.ndarray) else "scalar"
        try:
            self.tensors.append(torch.from_numpy(np.array(value)))
        except TypeError:  # text, dates, objects
            return {"other": [type(value).__name__, repr(value)[:200]]}
        return {tag: len(self.tensors) - 1}

    def _other(self, value):
        if isinstance(value, RemoteFunction) and value._peer is self.peer:
            return {"thing": value._spec} if self.echo else {"yours": value._spec["id"]}
        if self.echo and id(value) in self.peer._numbers:
            return {"yours": self.peer._give(value)}
        name = str(getattr(value, "__name__", type(value).__name__))[:100]
        if isinstance(value, torch.nn.Module):
            return {"thing": {"kind": "module", "id": self.peer._give(value), "name": type(value).__name__[:100]}}
        if isinstance(value, type):
            return {"thing": {"kind": "class", "id": self.peer._give(value), "name": name}}
        if callable(value):
            return {"thing": {"kind": "function", "id": self.peer._give(value), "name": name}}
        return {"other": [type(value).__name__[:100], repr(value)[:200]]}


CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class _Unpacker:
    """Turns a tree and its tensors into the value; a tree that is none raises ValueError, TypeError or LookupError."""

    def __init__(self, peer, tensors):
        self.peer, self.tensors, self.generators = peer, tensors, []
        self._values = 0

    def value(self, tree, depth=0):
        self._values += 1
        if depth > MOST_DEPTH or self._values > MOST_VALUES:
            raise ValueError("too deep or too many values")
        if tree is None or isinstance(tree, (bool, int, float, str)):
            return tree
        if isinstance(tree, list):
            return [self.value(item, depth + 1) for item in tree]
        [(tag, content)] = tree.items()
        if tag in ("set", "frozenset"):
            return CONTAINERS[tag](self._key(item, depth + 1) for item in content)
        if tag in CONTAINERS:
            return CONTAINERS[tag](self.value(item, depth + 1) for item in content)
        if tag == "dict":
            return {self._key(key, depth + 1): self.value(item, depth + 1) for key, item in content}
        if tag in ("tensor", "array", "scalar"):
            if type(content) is not int or content < 0:
                raise ValueError("no number of a tensor")
            tensor = self.tensors[content]
            return tensor if tag == "tensor" else tensor.numpy() if tag == "array" else tensor.numpy()[()]
        if tag == "int":
            return int(content, 16)
        if tag == "complex":
            return complex(*content)
        if tag == "bytes":
            return base64.b64decode(content)
        if tag == "size":
            return torch.Size(content)
        if tag == "dtype":
            return DTYPES[content]
        if tag == "device":
            return torch.device(content)
        if tag == "generator":
            generator = torch.Generator()
            generator.set_state(_state(content))
            self.generators.append(generator)
            return generator
        if tag == "thing":
            spec = {"kind": content["kind"], "id": int(content["id"]), "name": str(content["name"])[:100]}
            return REMOTE[spec["kind"]](self.peer, spec)
        if tag == "yours":
            return self.peer._thing(content)
        if tag == "other":
            name, text = content
            return type(_identifier(name), (Foreign,), {})(str(text)[:200])
        raise ValueError(f"no kind of value: {tag[:40]!r}")


    def _key(self, tree, depth):
        key = self.value(tree, depth)
        if isinstance(key, (int, float)) and abs(key) >= 1 << 60:  # many such have the same hash: finding one takes ages
            raise ValueError("a number too large to be a key")
        return key


def _read(act):
    """`act()`, which reads what came; whatever is wrong with it ends the connection."""
    try:
        return act()
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError, RecursionError) as error:
        raise Gone(f"what it sent could not be read ({type(error).__name__}: {str(error)[:100]})") from None


def _identifier(name):
    name = str(name)[:100]
    return name if name.isidentifier() else "object"


def _text(generator):
    return base64.b64encode(generator.get_state().numpy().tobytes()).decode()


def _state(text):
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _to_bytes(tensor):
    """The description of a tensor, with its strides, so that views stay views, and its bytes."""
    spec = {"dtype": str(tensor.dtype).removeprefix("torch."), "size": list(tensor.shape)}
    if tensor.requires_grad:
        spec["grad"] = "leaf" if tensor.is_leaf else "inner"
    flat = tensor.detach().resolve_conj().resolve_neg()
    if not flat.is_contiguous() and flat.numel():
        spec["stride"] = list(flat.stride())
        reach = _reach(flat.shape, flat.stride())
        if reach <= flat.numel():  # a repeated or a turned tensor; what lies in the gaps of others stays here
            flat = flat.as_strided((reach,), (1,))
    flat = flat.reshape(-1).contiguous()  # every fifth number of a row, say, is one dimension already
    if flat.numel() == 1:  # its stride may be anything
        flat = flat.as_strided((1,), (1,))
    return spec, flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _from_bytes(frame):
    """The tensors of a frame, each checked against the bytes that are there."""
    at, total, data = 0, 0, frame.data
    for spec in frame.tree.get("tensors", ()):
        dtype, size = DTYPES[spec["dtype"]], [_whole(number) for number in spec["size"]]
        stride = [_whole(number) for number in spec["stride"]] if "stride" in spec else None
        count, width = math.prod(size), torch.empty(0, dtype=dtype).element_size()
        if stride is not None and count == 0:
            raise ValueError("an empty tensor with strides")
        reach = count if stride is None else _reach(size, stride)
        total += max(count, reach) * width
        if total > MOST_BYTES:  # a view may repeat its bytes, or lie far apart
            raise ValueError(f"tensors of {total} bytes")
        count = min(count, reach)
        if at + count * width > len(data):
            raise ValueError(f"a tensor of {size} is not in {len(data)} bytes")
        part = data[at : at + count * width]
        at += count * width
        if dtype == torch.bool:  # any other byte than 0 and 1 would be neither true nor false
            flat = torch.frombuffer(part, dtype=torch.uint8) != 0 if part else torch.zeros(0, dtype=torch.bool)
        else:
            flat = torch.frombuffer(part, dtype=dtype) if part else torch.zeros(0, dtype=dtype)
        if stride is None:
            yield flat.reshape(size)
        elif reach == count:
            yield flat.as_strided(size, stride)
        else:
            yield torch.zeros(reach, dtype=dtype).as_strided(size, stride).copy_(flat.reshape(size))
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes belong to no tensor")


def _reach(size, stride):
    """How many values lie between the first and the last of a view, both with it."""
    return 1 + sum((one - 1) * step for one, step in zip(size, stride, strict=True))


def _whole(number):
    if type(number) is not int or not 0 <= number < 1 << 40:
        raise ValueError(f"no size: {str(number)[:40]}")
    return number


def _unchanged(now, request):
    """Whether packed arguments are, bit for bit, those of the request; states of generators may differ."""
    specs, parts = [], []
    for tensor in now.tensors:
        spec, data = _to_bytes(tensor)
        specs.append(spec)
        parts.append(data)
    before = [_without_grad(spec) for spec in request.tree.get("tensors", ())]
    return (
        [_without_grad(spec) for spec in specs] == before
        and b"".join(parts) == request.data
        and _settled(now.tree) == _settled(request.tree["value"])
    )


def _without_grad(spec):
    return {key: item for key, item in spec.items() if key != "grad"}


def _settled(tree):
    return re.sub(r'\{"generator": "[^"]*"\}', "{}", json.dumps(tree))


# Exceptions


def _words(error):
    """An exception as plain data: its name, those of its bases, its message."""
    try:
        text = str(error)[:MOST_TEXT]
    except BaseException:
        text = ""
    names = [kind.__name__ for kind in type(error).__mro__ if isinstance(kind.__name__, str)]
    return {"types": names[:20], "text": text}


def _exception(words):
    """The exception that the other end told of: of a built-in type, with the name and the message it had there."""
    try:
        names = [str(name)[:100] for name in words["types"]][:20]
        text = str(words["text"])[:MOST_TEXT]
    except (KeyError, TypeError):
        return Gone("what it sent could not be read (an error without a type)")
    found = (getattr(builtins, name, None) for name in names)
    base = next((one for one in found if isinstance(one, type) and issubclass(one, Exception)), Exception)
    name = _identifier(names[0]) if names else "Exception"
    kind = type(name, (base,), {"__str__": lambda self: text})
    return kind.__new__(kind)  # not called: some types ask for more than a message
