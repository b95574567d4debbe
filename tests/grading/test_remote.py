"""The wire: what crosses it stays what it was, gradients go through, and nothing hostile gets further than `Gone`."""

import json
import math
import random
import socket
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from autograder.remote import PREFIX, Died, Foreign, Gone, Late, Peer


class Here:
    """Two ends in this process: `peer` asks, a thread answers with `services`."""

    def __init__(self, **services):
        ours, theirs = socket.socketpair()
        self.peer = Peer(ours)
        self.other = Peer(theirs, services, attributes=True)
        self.thread = threading.Thread(target=self.other.serve, daemon=True)
        self.thread.start()

    def __call__(self, *arguments):
        return self.peer.service("function", *arguments)


def through(value):
    return Here(function=lambda one: one)(value)


PLAIN = [
    None, True, False, 0, -7, 2**60, -(2**90), 1.5, math.inf, -math.inf, -0.0, 1e-320, "", "é \ud800 \n\0", b"\0\xff", 2 + 3j, [], (),
    [1, [2.0, "3", None]], (1, (2,)), {}, {"a": [1], 2: (3,), None: {}, (1, "x"): True}, {1, 2}, frozenset({"a"}),
    torch.Size([2, 3]), torch.float32, torch.device("cpu"),
]  # fmt: skip


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_data_comes_back_as_it_was(value):
    found = through(value)
    assert found == value and type(found) is type(value)


def test_not_a_number_comes_back():
    assert math.isnan(through(math.nan))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16,
                                   torch.float32, torch.float64, torch.complex64], ids=str)  # fmt: skip
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3, 5)], ids=str)
def test_tensors_come_back_bit_for_bit(dtype, shape):
    value = (10 * torch.randn(shape)).to(dtype)
    found = through(value)
    assert found.dtype == dtype and found.shape == value.shape and torch.equal(found, value)


def test_views_stay_views():
    """A function that fails on a transposed tensor in the notebook fails here too."""
    base = torch.arange(24.0).reshape(2, 3, 4)
    for view in (base.transpose(0, 2), base[:, ::2], base[:, 1:2], base[:, 0, 0], base.expand(5, 2, 3, 4), torch.ones(1).expand(4), base[0, 0, :1].expand(1)):
        found = through(view)
        assert torch.equal(found, view) and found.is_contiguous() == view.is_contiguous()


def test_arrays_and_their_scalars_come_back():
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert type(through(array)) is np.ndarray and (through(array) == array).all() and through(array).dtype == np.int32
    assert type(through(np.float32(1.5))) is np.float32 and through(np.float32(1.5)) == 1.5


def test_subclasses_come_as_what_they_are_made_of():
    class Always(torch.Tensor):
        def __eq__(self, other):
            return torch.ones(()).bool()

    class Seven(int):
        def __eq__(self, other):
            return True

        __hash__ = int.__hash__

    found = Here(function=lambda: [torch.zeros(2).as_subclass(Always), Seven(7), nn.Parameter(torch.ones(1))])()
    assert type(found[0]) is torch.Tensor and not (found[0] == torch.ones(2)).any()
    assert type(found[1]) is int and found[1] != 8
    assert type(found[2]) is torch.Tensor


def test_other_things_come_as_their_name_and_equal_nothing():
    class Liar:
        def __eq__(self, other):
            return True

        def __repr__(self):
            return "a liar"

    found = Here(function=lambda: Liar())()
    assert isinstance(found, Foreign) and type(found).__name__ == "Liar" and repr(found) == "a liar" and found != 1


def test_exceptions_keep_type_name_and_message():
    class Special(ValueError):
        pass

    def fails(kind):
        raise {"value": ValueError("image 3"), "key": KeyError("a"), "own": Special("x"), "exit": SystemExit(3),
               "unicode": UnicodeDecodeError("utf-8", b"x", 0, 1, "why")}[kind]  # fmt: skip

    here = Here(function=fails)
    for kind, base, name, text in [
        ("value", ValueError, "ValueError", "image 3"),
        ("key", KeyError, "KeyError", "'a'"),
        ("own", ValueError, "Special", "x"),
        ("exit", Exception, "SystemExit", "3"),
        ("unicode", UnicodeDecodeError, "UnicodeDecodeError", "'utf-8' codec can't decode byte 0x78 in position 0: why"),
    ]:
        with pytest.raises(base) as caught:
            here(kind)
        assert type(caught.value).__name__ == name and str(caught.value) == text


def test_gradients_go_through():
    def loss(prediction, target, weights):
        return (weights[0] * (prediction - target) ** 2).sum(), (prediction > target).sum(), prediction.detach()

    here = Here(function=loss)
    prediction, weight = torch.randn(3, 2, requires_grad=True), torch.rand(3, 1, requires_grad=True)
    target = torch.randn(3, 2)
    for inner in (lambda x: x, lambda x: 2 * x):  # a leaf, and a result
        found, expected = here(inner(prediction), target, [weight]), loss(inner(prediction), target, [weight])
        assert [one.requires_grad for one in found] == [one.requires_grad for one in expected] == [True, False, False]
        slopes = [torch.autograd.grad(3 * one[0], (prediction, weight)) for one in (found, expected)]
        for one, other in zip(*slopes):
            torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert not here(prediction, target, [weight])[0].requires_grad


def test_gradients_go_through_functions_that_call_back():
    """The other end's function calls one of this end's, in the middle of what is differentiated."""
    here = Here(function=lambda own, x: (own(3 * x) * x).sum())
    x = torch.randn(4, requires_grad=True)
    here(lambda y: y**2, x).backward()
    torch.testing.assert_close(x.grad, 27 * x.detach() ** 2)


def test_a_gradient_that_is_cut_is_cut_here_too():
    here = Here(function=lambda x: x.detach().sum())
    assert not here(torch.ones(2, requires_grad=True)).requires_grad


class Head(nn.Module):
    def __init__(self, width):
        super().__init__()
        if width < 1:
            raise ValueError(f"a width of {width}")
        self.layer, self.norm = nn.Linear(width, 2), nn.BatchNorm1d(2)

    def forward(self, x, scale=1.0):
        return self.norm(self.layer(x)) * scale


def test_classes_make_modules_that_are_used_by_handle():
    here = Here(function=lambda: Head)
    head, local = here()(3), Head(3)
    local.load_state_dict(head.state_dict())
    x = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(head(x, scale=2.0), local(x, scale=2.0))
    head(x).square().sum().backward()
    found, x.grad = x.grad, None
    local(x).square().sum().backward()
    torch.testing.assert_close(found, x.grad)
    assert [name for name, _ in head.named_parameters()] == [name for name, _ in local.named_parameters()]
    for one, other in zip(head.parameters(), local.parameters()):
        torch.testing.assert_close(one.grad, other.grad)
    with pytest.raises(ValueError, match="a width of 0"):
        here()(0)


def test_modules_train_here_by_an_optimiser():
    head = Here(function=lambda: Head(3))()
    optimiser = torch.optim.SGD(head.parameters(), lr=0.1)
    x, losses = torch.randn(8, 3), []
    for _ in range(20):
        optimiser.zero_grad()
        loss = (head(x) - 1).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for (_, here), there in zip(head.named_parameters(), (head.state_dict()[name] for name, _ in head.named_parameters())):
        head(x)
        torch.testing.assert_close(here.detach(), head.state_dict()[_])
    assert head.training and not head.eval().training and head.layer.in_features == 3


def test_changed_arguments_are_told_and_ours_stay():
    def change(boxes, names, settings):
        boxes += 1
        names.append("x")
        return settings

    here = Here(function=change)
    boxes, names = torch.zeros(2), ["a"]
    here(boxes, names, {"k": 1})
    assert boxes.tolist() == [0, 0] and names == ["a"]
    (now, now_names, settings), _ = here.peer.changed
    assert now.tolist() == [1, 1] and now_names == ["a", "x"] and settings == {"k": 1}
    same = Here(function=lambda *given: None)
    generator = torch.Generator().manual_seed(3)
    given = (torch.randn(4, 4).t(), [np.ones(2)], math.nan, lambda: 1, generator, torch.ones(2, requires_grad=True) * 2)
    same(*given)
    assert same.peer.changed is None


def test_a_generator_moves_on_here_as_it_did_there():
    here = Here(function=lambda generator: torch.rand(2, generator=generator))
    ours, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for _ in range(2):
        assert torch.equal(here(ours), torch.rand(2, generator=twin))


def test_attributes_are_given_only_where_allowed():
    def secret():
        secret.asked.append(1)

    secret.asked = []
    stolen = []

    def steal(function):
        for name in ("__globals__", "asked", "__code__"):
            try:
                stolen.append(function._peer.get(function._spec["id"], name))
            except AttributeError:
                pass

    Here(function=steal)(secret)
    assert stolen == []


def test_a_call_has_a_time_limit_and_so_have_all_of_them():
    here = Here(function=time.sleep)
    here.peer.seconds = 0.2
    started = time.monotonic()
    with pytest.raises(Late):
        here(5)
    assert time.monotonic() - started < 2
    here = Here(function=time.sleep)
    here.peer.deadline = time.monotonic() + 0.3
    with pytest.raises(Late):
        for _ in range(20):
            here(0.05)


# Hostile ends


def answered_by(*replies):
    """What this end makes of a call that raw bytes answer."""
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    peer.seconds = 2

    def answer():
        theirs.recv(1 << 16)
        for reply in replies:
            theirs.sendall(reply)
        theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        return peer.service("function", 1)
    finally:
        ours.close()


def frame(tree, data=b""):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return PREFIX.pack(len(text), len(data)) + text + data


def tensor(data=bytes(8), **spec):
    spec = {"dtype": "float32", "size": [2], **spec}
    return frame({"re": 1, "value": {"tensor": 0}, "tensors": [spec]}, data)


BROKEN = {
    "nothing": b"",
    "half a prefix": b"\0\0",
    "garbage": b"\xff" * 200,
    "no JSON": frame(b"{'a': 1}"),
    "no object": frame([1, 2]),
    "deep JSON": frame(b"[" * 100_000),
    "huge frame announced": PREFIX.pack(10, 1 << 60) + b"{}",
    "huge text announced": PREFIX.pack((1 << 32) - 1, 0),
    "less than announced": PREFIX.pack(100, 100) + b"{}",
    "another id": frame({"re": 2, "value": 1}),
    "id that is a list": frame({"re": [1], "value": 1}),
    "no value": frame({"re": 1}),
    "unknown tag": frame({"re": 1, "value": {"pickle": "gASV"}}),
    "two tags": frame({"re": 1, "value": {"tensor": 0, "int": "1"}}),
    "no tag": frame({"re": 1, "value": {}}),
    "deep value": frame({"re": 1, "value": json.loads("[" * 200 + "]" * 200)}),
    "many values": frame({"re": 1, "value": [0] * 300_000}),
    "tensor that is not there": frame({"re": 1, "value": {"tensor": 0}}),
    "tensor number -1": frame({"re": 1, "value": {"tensor": -1}, "tensors": [{"dtype": "float32", "size": [2]}]}, bytes(8)),
    "too few bytes": tensor(bytes(4)),
    "too many bytes": tensor(bytes(12)),
    "negative size": tensor(size=[-2]),
    "size that is text": tensor(size=["2"]),
    "huge size without bytes": tensor(b"", size=[1 << 39, 1 << 39]),
    "huge view of one number": tensor(bytes(4), size=[1 << 30], stride=[0]),
    "view beyond its bytes": tensor(size=[2], stride=[1 << 30]),
    "many wide views": frame({"re": 1, "value": 1, "tensors": 100 * [{"dtype": "float32", "size": [2], "stride": [1 << 22]}]}, bytes(800)),
    "negative stride": tensor(size=[2], stride=[-1]),
    "unknown dtype": tensor(dtype="object"),
    "dtype that is a list": tensor(dtype=["float32"]),
    "spec that is text": frame({"re": 1, "value": 1, "tensors": ["dtype"]}),
    "bool that is no list": frame({"re": 1, "value": 1, "tensors": True}),
    "unhashable key": frame({"re": 1, "value": {"dict": [[[1], 2]]}}),
    "thing of ours that is not": frame({"re": 1, "value": {"yours": 99}}),
    "error without type": frame({"re": 1, "error": {"text": "x"}}),
    "error that is text": frame({"re": 1, "error": "x"}),
    "whole number in words": frame({"re": 1, "value": {"int": "zz"}}),
    "generator of nothing": frame({"re": 1, "value": {"generator": "AA=="}}),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN.keys())
def test_broken_replies_end_the_connection(reply):
    started = time.monotonic()
    with pytest.raises(Gone):
        answered_by(reply)
    assert time.monotonic() - started < 2.5


def test_bytes_that_are_neither_true_nor_false_become_true():
    found = answered_by(tensor(bytes([0, 2]), dtype="bool"))
    assert found.tolist() == [False, True] and (found == torch.tensor([False, True])).all()


def test_a_forged_exception_is_of_a_plain_type():
    for names in (["CheckFailed", "AssertionError"], ["KeyboardInterrupt"], ["Gone", "BaseException"], ["not a name"], []):
        with pytest.raises(Exception) as caught:
            answered_by(frame({"re": 1, "error": {"types": names, "text": "x"}}))
        assert not isinstance(caught.value, Gone) and type(caught.value).__module__ != "coursekit.checks"


def test_a_drip_of_bytes_does_not_gain_time():
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    peer.seconds = 0.5

    def drip():
        try:
            for byte in frame({"re": 1, "value": "x" * 500}):
                theirs.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    started = time.monotonic()
    with pytest.raises(Late):
        peer.service("function")
    ours.close()
    assert time.monotonic() - started < 2


def test_endless_callbacks_end_with_the_time():
    ours, theirs = socket.socketpair()
    peer = Peer(ours)
    peer.seconds = 0.5

    def ask():
        try:
            while True:
                theirs.sendall(frame({"do": "call", "of": 1, "id": 1, "grad": False, "wants": [], "value": [[], {"dict": []}]}))
                theirs.recv(1 << 16)
        except OSError:
            pass

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(Late):
        peer.service("function", lambda: 1)
    ours.close()


@pytest.mark.parametrize("seed", range(4))
def test_spoilt_replies_give_a_value_an_exception_or_gone(seed):
    """Hundreds of true replies with bytes changed: nothing else may come of them, and nothing slow."""
    dice = random.Random(seed)
    true = [
        tensor(),
        frame({"re": 1, "value": [1, {"tuple": [2.5, "x"]}, {"dict": [["k", {"tensor": 0}]]}],
               "tensors": [{"dtype": "int64", "size": [1, 2], "stride": [2, 1]}]}, bytes(16)),
        frame({"re": 1, "error": {"types": ["ValueError", "Exception"], "text": "words"}}),
        frame({"re": 1, "value": {"thing": {"kind": "module", "id": 1, "name": "Head"}}, "changed": [[1], {"dict": []}]}),
    ]  # fmt: skip
    for _ in range(150):
        spoilt = bytearray(dice.choice(true))
        for _ in range(dice.randint(1, 4)):
            spoilt[dice.randrange(PREFIX.size if dice.random() < 0.8 else 0, len(spoilt))] = dice.randrange(256)
        try:
            answered_by(bytes(spoilt))
        except (Gone, Exception) as error:
            assert isinstance(error, Gone) or type(error).__str__ is not BaseException.__str__


def test_a_closed_connection_says_so():
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(Died):
        Peer(ours).service("function")
