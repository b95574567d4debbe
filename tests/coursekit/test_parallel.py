"""`fit` under torchrun: two processes on gloo give what one gives with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from coursekit.training import fit, read_checkpoint

from .test_training import make_data

STEPS = 12
ROOT = Path(__file__).resolve().parents[2]


class Model(nn.Module):
    """No batch norm. `spare` is used by the batches that hold an object; `part` is no forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten())
        self.there, self.spare = nn.Linear(1024, 1), nn.Linear(1024, 4)

    def forward(self, images):
        return self.trunk(images)

    def part(self, features):
        return self.there(features)[:, 0]


def loss(model, images, targets):
    """Means over images, so that averages over processes are averages over the batch."""
    features = model(images)
    there = torch.tensor([float(len(target["boxes"])) for target in targets])
    losses = {"there": nn.functional.binary_cross_entropy_with_logits(model.part(features), there), "place": features.sum() * 0}
    if there.any():
        place = torch.stack([t["boxes"].mean(0) if len(t["boxes"]) else torch.zeros(4) for t in targets]) / 32
        losses["place"] = ((model.spare(features) - place).abs() * there[:, None]).mean()
    return losses


def train(folder, batch_size=2, steps=STEPS):
    model = Model()
    history = fit(model, loss, make_data(), steps=steps, batch_size=batch_size, bf16=False, checkpoint=folder / "run.safetensors")
    return model, history


def torchrun(folder, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", __name__, folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTEST_VERSION": "quiet"}
    return subprocess.run(
        [*map(str, command), *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_train_as_one(tmp_path):
    """The same weights, losses, and checkpoint; a second run goes on from it, and the first process alone speaks."""
    model, history = train(tmp_path / "one")
    done = torchrun(tmp_path / "two", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in range(2))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first["model"][name], value, rtol=1e-3, atol=1e-5)
        assert torch.equal(first["model"][name], second["model"][name])
    for name, values in history.losses.items():
        assert first["losses"][name] == pytest.approx(values, rel=1e-3, abs=1e-5)
        assert first["losses"][name] == second["losses"][name]
    state, plain = read_checkpoint(tmp_path / "two" / "run.safetensors")
    assert plain["step"] == STEPS and torch.equal(state["model"]["spare.bias"], first["model"]["spare.bias"])
    assert done.stdout.count("nothing left to do") == 1


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_a_batch_that_cannot_be_shared_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr("coursekit.training.Team", lambda device: type("Two", (), {"size": 2, "device": device})())
    with pytest.raises(ValueError, match="3 images a batch cannot be shared out evenly to 2 processes"):
        train(tmp_path, batch_size=3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    place.mkdir(exist_ok=True)
    trained, record = train(place, int(sys.argv[2]))
    torch.save({"model": trained.state_dict(), "losses": record.losses}, place / f"{os.environ['RANK']}.pt")
    torch.distributed.barrier()
    train(place, int(sys.argv[2]))
