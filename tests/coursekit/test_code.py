"""coursekit.code: a digest that changes with what a function does, and with nothing else."""

import os
import subprocess
import sys

import pytest
from torch import nn

from coursekit.code import VERSION, changed, code_digest

LOSS = '''
import functools, torch
from coursekit.standins import STANDINS
SIGMA = (0.1, {"a", "b", "c"})
seen = []
smooth = STANDINS["smooth_l1_loss"]

def scaled(value):
    """Times sigma."""
    return value * SIGMA[0]

class Matcher:
    def __call__(self, value):
        return self.step(value)
    @staticmethod
    def step(value):
        return value + 1

match = Matcher
def make(factor):
    def inner(value):
        return factor(match()(value))
    return inner
inner = make(scaled)

def loss(model, images, targets, weight=1.0):
    seen.append(1)
    parts = [inner(value) for value in images if value not in {"x", "y"}]
    return {"box": weight * torch.stack(parts).sum()}
'''


def digest(source):
    scope = {"__name__": "__main__"}
    exec(source, scope)
    return code_digest(scope["loss"])


@pytest.mark.parametrize(
    "old, new",
    [
        ("weight * torch", "2 * weight * torch"),
        ("weight=1.0", "weight=2.0"),
        ("(0.1, {", "(0.2, {"),
        ("value * SIGMA", "value / SIGMA"),
        ("value + 1", "value - 1"),
        ("make(scaled)", "make(functools.partial(scaled))  # the same"),
        ("not in", "in"),
    ],
)
def test_what_changes_a_result_changes_the_digest(old, new):
    assert LOSS.count(old) == 1
    same = "the same" in new
    assert changed(digest(LOSS), digest(LOSS.replace(old, new))) != same


def test_comments_and_state_change_nothing():
    assert digest(LOSS) == digest("# a comment\n" + LOSS.replace("seen = []", "seen = [3]"))


def test_a_students_function_is_told_from_the_librarys():
    library = LOSS.replace("[inner(value) for", "[smooth(value) for")
    assert changed(digest(library), digest(library + "\nsmooth = scaled\n"))


def test_a_model_is_known_by_its_classes():
    class Head(nn.Module):
        def forward(self, x):
            return x + 1

    class Other(nn.Module):
        def forward(self, x):
            return x + 2

    assert code_digest(nn.Sequential(Head())) == code_digest(nn.Sequential(Head(), Head())), "their number is data"
    assert changed(code_digest(nn.Sequential(Head())), code_digest(nn.Sequential(Other())))


def test_it_is_the_same_in_another_session():
    code = f"source = {LOSS!r}\nexec(source)\nfrom coursekit.code import code_digest\nprint(code_digest(loss))"
    for seed in ("1", "2"):  # of hashes: sets come in another order
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "PYTHONHASHSEED": seed})  # fmt: skip
        assert done.stdout.strip() == digest(LOSS), done.stderr


def test_another_python_and_a_checkpoint_without_a_digest_say_nothing():
    now = digest(LOSS)
    assert not changed("3.9 0123", now) and not changed(None, now) and changed(f"{VERSION} 0123", now)
