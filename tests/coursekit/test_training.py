"""coursekit.training: runs that learn, stop, go on and fail as promised."""

import gc
import contextlib
import io
import re
import signal
import sys
import weakref

import pytest
import torch
from torch import nn

from coursekit import training
from coursekit.data import DetectionData
from coursekit.progress import audience
from coursekit.training import TrainingError, fit


def boxed(side, x, y, w, h):
    """A dark image with one bright box."""
    image = torch.full((3, side, side), 20, dtype=torch.uint8)
    image[:, y : y + h, x : x + w] = 220
    return image


def make_data(count=24, side=32):
    """Images with one bright box each, but every fourth without any."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for i in range(count):
        x, y, w, h = (int(v) for v in torch.randint(4, 15, (4,), generator=generator))
        images.append(boxed(side, x, y, w if i % 4 else 0, h))
        boxes = [[x, y, x + w, y + h]] if i % 4 else []
        targets.append(
            {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "labels": torch.ones(len(boxes)).long(),
            }
        )
    return DetectionData(torch.stack(images), targets, ("box",))


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.1),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 5),
    )  # fmt: skip


def loss(model, images, targets):
    """Is there a box, and where is it; with some noise from torch's generator, as samplers make."""
    out = model(images)
    there = torch.tensor([float(len(t["boxes"])) for t in targets])
    place = torch.stack([t["boxes"].mean(0) if len(t["boxes"]) else torch.zeros(4) for t in targets]) / 32
    error = (out[:, 1:] - place).abs() * there[:, None] * (1 + 0.1 * torch.rand(len(targets), 1))
    return {"there": nn.functional.binary_cross_entropy_with_logits(out[:, 0], there), "place": error.mean()}


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def calling(model, do):
    """The model, which does something each time before it runs: the number of the run is given."""
    runs = []

    def hook(*_):
        runs.append(1)
        do(len(runs))

    model.register_forward_pre_hook(hook)
    return model


def interrupting(model, at):
    """The model, whose run number `at` somebody interrupts."""
    return calling(model, lambda number: number == at and signal.raise_signal(signal.SIGINT))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_learns_and_its_history_says_so():
    model = make_model()
    history = fit(model, loss, make_data(), steps=60, batch_size=8, peak_rate=1e-2)
    assert (
        history.complete
        and history.steps == list(range(1, 61))
        and list(history.losses) == ["there", "place"]
    )
    assert sum(history.total[-10:]) < 0.5 * sum(history.total[:10])
    assert history.seconds > 0 and history.images_per_second == pytest.approx(60 * 8 / history.seconds)
    assert not model.training


def test_equal_seeds_give_equal_weights_and_another_seed_others():
    runs = []
    for seed in (3, 3, 4):
        model = make_model()
        fit(model, loss, make_data(), steps=4, batch_size=8, seed=seed)
        runs.append(weights(model))
    assert same(runs[0], runs[1]) and not same(runs[0], runs[2])


def test_a_run_leaves_torchs_random_numbers_as_they_were():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    data, model = make_data(), None
    state = torch.get_rng_state()
    model = make_model()
    torch.set_rng_state(state)
    fit(model, loss, data, steps=2, batch_size=8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bfloat16"])
def test_an_interrupted_run_that_goes_on_equals_one_that_was_not_bit_for_bit(bf16, tmp_path, capsys):
    path, before = tmp_path / "run.safetensors", signal.getsignal(signal.SIGINT)
    whole, data = make_model(), make_data()
    expected = fit(whole, loss, data, steps=9, batch_size=8, bf16=bf16)

    model = interrupting(make_model(), at=4)  # in the middle of the second pass over the data
    history = fit(model, loss, data, steps=9, batch_size=8, bf16=bf16, checkpoint=path)
    assert history.steps == [1, 2, 3, 4] and not history.complete
    assert (
        f"interrupted after the step at hand, 4 of 9 steps done; run this again to go on from {path}"
        in capsys.readouterr().out
    )
    assert signal.getsignal(signal.SIGINT) == before

    other = make_model()
    with torch.no_grad():
        other[0].weight.zero_()  # what the new session's model holds must not matter
    resumed = fit(other, loss, data, steps=9, batch_size=8, bf16=bf16, checkpoint=path)
    assert f"{path} holds step 4 of 9" in capsys.readouterr().out
    assert resumed.complete and resumed.losses == expected.losses
    assert same(weights(other), weights(whole))


def test_a_second_interrupt_acts_at_once_and_the_checkpoint_stays(tmp_path, capsys):
    path, calls, before = tmp_path / "run.safetensors", [], signal.getsignal(signal.SIGINT)

    def interrupted(model, images, targets):
        calls.append(1)
        for _ in range(2 if len(calls) == 3 else 0):
            signal.raise_signal(signal.SIGINT)
        return loss(model, images, targets)

    history = fit(
        make_model(), interrupted, make_data(), steps=9, batch_size=8, checkpoint=path, save_every=0.0
    )
    assert history.steps == [1, 2] and not history.complete
    assert "interrupted at once" in capsys.readouterr().out
    assert training.read_checkpoint(path)[1]["step"] == 2
    assert signal.getsignal(signal.SIGINT) == before


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path, monkeypatch):
    """A session may come back on another machine; the weights must not change their precision half-way."""
    path, model = tmp_path / "run.safetensors", interrupting(make_model(), at=1)
    fit(model, loss, make_data(), steps=3, batch_size=8, bf16=True, checkpoint=path)
    monkeypatch.setattr(training, "bf16_pays", lambda device: False)
    seen = []
    model = calling(make_model(), lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    fit(model, loss, make_data(), steps=3, batch_size=8, checkpoint=path)
    assert seen == [True, True]


def test_gradients_are_clipped_to_the_given_norm():
    model = make_model()
    fit(model, loss, make_data(), steps=1, batch_size=8, clip=1e-3)
    assert torch.cat([p.grad.flatten() for p in model.parameters()]).norm() == pytest.approx(1e-3, rel=1e-2)


def test_weight_decay_pulls_weights_to_zero():
    norms = []
    for decay in (0.0, 50.0):
        model = make_model()
        fit(model, loss, make_data(), steps=3, batch_size=8, weight_decay=decay)
        norms.append(model[7].weight.norm())
    assert norms[1] < 0.9 * norms[0]


def test_weights_with_two_names_are_saved_and_come_back(tmp_path):
    """A head that is shared over levels stands in the model several times."""

    def tied():
        model = make_model()
        return nn.ModuleDict({"first": model, "second": model})

    path, one, other = tmp_path / "run.safetensors", tied(), tied()
    fit(one, lambda m, i, t: loss(m["second"], i, t), make_data(), steps=2, batch_size=8, checkpoint=path)
    training.load_model(other, path)
    assert same(weights(one), weights(other))


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "run.safetensors"
    fit(interrupting(make_model(), at=1), loss, make_data(), steps=3, batch_size=8, checkpoint=path)

    def full(tensors, part, metadata):
        part.write_bytes(b"half of")
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        fit(make_model(), loss, make_data(), steps=3, batch_size=8, checkpoint=path)
    assert training.read_checkpoint(path)[1]["step"] == 1


def test_what_compares_outputs_can_do_without_checkpoints(tmp_path, monkeypatch, capsys):
    """The build and nbval: a run must not depend on what the one before left."""
    monkeypatch.setenv("COURSEKIT_CHECKPOINTS", "0")
    for _ in range(2):
        fit(make_model(), loss, make_data(), steps=2, batch_size=8, checkpoint=tmp_path / "run.safetensors")
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_a_finished_run_is_not_trained_again(tmp_path, capsys):
    path, model = tmp_path / "run.safetensors", make_model()
    first = fit(model, loss, make_data(), steps=3, batch_size=8, checkpoint=path)
    again = calling(make_model(), lambda _: pytest.fail("trained"))
    history = fit(again, loss, make_data(), steps=3, batch_size=8, checkpoint=path)
    assert "nothing left to do" in capsys.readouterr().out
    assert history.losses == first.losses and history.complete and history.seconds == first.seconds
    assert same(weights(again), weights(model))


def test_the_checkpoint_of_another_run_is_refused_and_named(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(make_model(), loss, make_data(), steps=2, batch_size=8, checkpoint=path)
    with pytest.raises(
        ValueError, match=r"run.safetensors comes from another run: steps 2, now 3; peak_rate 0.008, now 0.1"
    ):
        fit(make_model(), loss, make_data(), steps=3, batch_size=8, peak_rate=0.1, checkpoint=path)


def test_the_checkpoint_of_another_model_says_what_differs(tmp_path):
    path = tmp_path / "run.safetensors"
    fit(make_model(), loss, make_data(), steps=2, batch_size=8, checkpoint=path)
    model = make_model()
    model[0] = nn.Conv2d(3, 16, 5, stride=2, padding=2)
    with pytest.raises(ValueError, match=r"0.weight is \[16, 3, 3, 3\], expected \[16, 3, 5, 5\]"):
        training.load_model(model, path)


def test_a_checkpoint_gives_a_model_its_weights_and_a_lack_of_one_says_how_to_get_it(tmp_path):
    path, model, other = tmp_path / "new folder" / "run.safetensors", make_model(), make_model()
    fit(model, loss, make_data(), steps=2, batch_size=8, checkpoint=path)
    training.load_model(other, path)
    assert same(weights(model), weights(other)) and not other.training
    assert [file.name for file in path.parent.iterdir()] == ["run.safetensors"], (
        "no half-written file is left"
    )
    with pytest.raises(FileNotFoundError, match="no checkpoint.*fit"):
        training.load_model(other, tmp_path / "none.safetensors")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"hello"])
def test_a_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "run.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="run.safetensors cannot be read"):
        fit(make_model(), loss, make_data(), steps=2, checkpoint=path)


def test_a_file_of_weights_is_no_checkpoint(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="no checkpoint of fit"):
        training.load_model(make_model(), tmp_path / "weights.safetensors")


def test_a_checkpoint_is_written_while_training(tmp_path):
    path, seen = tmp_path / "run.safetensors", []

    def watching(model, images, targets):
        seen.append(training.read_checkpoint(path)[1]["step"] if path.exists() else 0)
        return loss(model, images, targets)

    fit(make_model(), watching, make_data(), steps=4, batch_size=8, checkpoint=path, save_every=0.0)
    assert seen == [0, 1, 2, 3]


def test_a_loss_that_is_no_number_stops_before_it_spoils_the_weights(tmp_path):
    path = tmp_path / "run.safetensors"
    model, calls, before = make_model(), [], {}

    def failing(model, images, targets):
        parts = loss(model, images, targets)
        calls.append(1)
        if len(calls) == 3:
            before.update({name: p.clone() for name, p in model.named_parameters()})
            parts["place"] = parts["place"] * float("nan")
        return parts

    with pytest.raises(TrainingError) as error:
        fit(model, failing, make_data(), steps=5, batch_size=8, checkpoint=path, save_every=0.0)
    told = str(error.value)
    assert "the loss 'place' is not finite at step 3 (there 0." in told and "place nan" in told
    assert "peak_rate" in told and f"{path} keeps the last good state" in told
    assert training.read_checkpoint(path)[1]["step"] == 2
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_gradient_that_is_no_number_is_told_from_a_loss():
    def failing(model, images, targets):
        out = model(images)
        return {"root": out.mean() + (out.sum() * 0).abs().sqrt()}  # the slope of a square root at 0

    with pytest.raises(TrainingError, match="losses are finite at step 1 .*their gradient is not"):
        fit(make_model(), failing, make_data(), steps=5, batch_size=8)


def test_a_failing_run_counts_the_boxes_without_area():
    data = make_data()
    data.targets[5]["boxes"][0, 2] = data.targets[5]["boxes"][0, 0]
    with pytest.raises(
        TrainingError, match="1 images of the data hold boxes without area, the first is image 5"
    ):
        fit(
            make_model(), lambda m, i, t: {"x": m(i).mean().log() * float("nan")}, data, steps=5, batch_size=8
        )


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),  # on Windows
    MemoryError(),
    None,  # what the CPU's allocator really says
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:12] or "MemoryError")
def test_out_of_memory_says_which_batch_size_to_try(error):
    def failing(model, images, targets):
        if error is None:
            torch.empty(2**55)
        raise error

    with pytest.raises(TrainingError, match="with 8 images a batch: try batch_size=4;"):
        fit(make_model(), failing, make_data(), steps=5, batch_size=8)
    with pytest.raises(TrainingError, match="with 1 images a batch: try smaller images or a smaller backbone"):
        fit(make_model(), failing, make_data(), steps=5, batch_size=1)


def test_out_of_memory_leaves_the_checkpoint_and_names_it_as_it_fits_no_other_batch_size(tmp_path):
    path = tmp_path / "run.safetensors"
    model = calling(make_model(), lambda number: number == 3 and torch.empty(2**55))
    with pytest.raises(TrainingError, match="batch_size=4, with another checkpoint than .*run.safetensors"):
        fit(model, loss, make_data(), steps=5, batch_size=8, checkpoint=path, save_every=0.0)
    assert training.read_checkpoint(path)[1]["step"] == 2


def test_after_out_of_memory_nothing_of_the_step_is_held():
    held = []

    def failing(model, images, targets):
        maps = model(images)
        held.extend([weakref.ref(images), weakref.ref(maps)])
        torch.empty(2**55)

    with pytest.raises(TrainingError) as caught:
        fit(make_model(), failing, make_data(), steps=5, batch_size=8)
    assert "out of memory" in str(caught.value)  # a notebook holds the error, as we do here
    gc.collect()
    assert [reference() for reference in held] == [None, None]


def test_no_memory_for_the_model_itself_is_told_too(monkeypatch):
    def failing(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = make_model()
    monkeypatch.setattr(model, "to", failing)
    with pytest.raises(TrainingError, match="cpu has no memory left for the data and the model: restart"):
        fit(model, loss, make_data(), steps=5, batch_size=8)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_out_of_memory_is_told_and_the_next_try_has_it_again():
    def greedy(model, images, targets):
        maps = model(images)
        rest = torch.cuda.mem_get_info()[1]
        return {"x": maps.mean() * torch.ones(rest, device=maps.device, dtype=torch.uint8)[0]}

    before = torch.cuda.memory_allocated()
    with pytest.raises(TrainingError, match="out of memory on cuda:0 with 8 images a batch: try batch_size=4"):
        fit(make_model(), greedy, make_data(), steps=5, batch_size=8)
    gc.collect()
    assert torch.cuda.memory_allocated() - before < 10 * 2**20


# A checkpoint of other code


def weighted(weight):
    """As a student writes it: the loss calls a function of theirs."""
    scope = {"__name__": "__main__", "loss": loss, "torch": torch}
    exec(
        f"ALPHA = {weight}\ndef part(values):\n    return ALPHA * values\n"
        "def mine(model, images, targets):\n"
        "    return {name: part(value) for name, value in loss(model, images, targets).items()}",
        scope,
    )
    return scope["mine"]


def test_a_checkpoint_of_another_loss_is_put_aside_and_the_training_begins_anew(tmp_path, capsys):
    path = tmp_path / "run.safetensors"
    wrong = fit(make_model(), weighted(1.0), make_data(), steps=3, batch_size=8, checkpoint=path)
    same_again = fit(make_model(), weighted(1.0), make_data(), steps=3, batch_size=8, checkpoint=path)
    assert "nothing left to do" in capsys.readouterr().out and same_again.losses == wrong.losses
    right = fit(make_model(), weighted(2.0), make_data(), steps=3, batch_size=8, checkpoint=path)
    shown = capsys.readouterr().out
    assert f"the model or the loss has changed since {path}: training anew (the old one is run.before" in shown
    assert right.losses["place"][0] == pytest.approx(2 * wrong.losses["place"][0])
    assert (tmp_path / "run.before.safetensors").exists()
    assert training.read_checkpoint(path)[1]["step"] == 3


def test_other_errors_of_a_loss_come_through_as_they_are():
    def failing(model, images, targets):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="^mat1 and mat2"):
        fit(make_model(), failing, make_data(), steps=5, batch_size=8)


@pytest.mark.parametrize(
    "returned, message",
    [
        (lambda out: {"a": out}, r"the loss 'a' has shape \(8, 5\), expected a scalar"),
        (lambda out: [out.mean()], "loss returned list .*expected a dict"),
        (
            lambda out: {"a": out.mean().item()},
            "loss returned dict .*expected a dict of names and scalar tensors",
        ),
        (lambda out: {"a": out.mean().detach()}, "no loss depends on the model's weights"),
    ],
    ids=["no mean", "list", "number", "detached"],
)
def test_what_a_loss_must_return_is_said(returned, message):
    with pytest.raises(ValueError, match=message):
        fit(
            make_model(),
            lambda model, images, targets: returned(model(images)),
            make_data(),
            steps=2,
            batch_size=8,
        )


def test_one_loss_without_a_name_is_enough():
    history = fit(make_model(), lambda m, i, t: m(i).square().mean(), make_data(), steps=2, batch_size=8)
    assert list(history.losses) == ["loss"]


def test_data_without_any_object_trains():
    data = make_data()
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)} for _ in data.targets]
    history = fit(make_model(), loss, DetectionData(data.images, empty, data.classes), steps=3, batch_size=8)
    assert history.complete and history.losses["place"] == [0, 0, 0]


def test_a_batch_larger_than_the_data_becomes_the_data():
    history = fit(make_model(), loss, make_data(5), steps=3, batch_size=32)
    assert history.complete and history.batch_size == 5


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 1, "batch_size": 0}])
def test_nothing_to_do_is_an_error(wrong):
    with pytest.raises(ValueError, match="must be at least 1"):
        fit(make_model(), loss, make_data(), **wrong)


def test_grading_trains_nothing(monkeypatch, capsys):
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    model = make_model()
    before = weights(model)
    history = fit(model, lambda *_: pytest.fail("trained"), make_data(), steps=5)
    assert history.steps == [] and repr(history) == "no step done" and same(weights(model), before)
    assert capsys.readouterr().out == "training is skipped while grading\n"


def test_every_image_comes_once_in_a_pass_in_another_order_each_time():
    data = make_data(12)
    data.images[:, 0] = torch.arange(12, dtype=torch.uint8)[:, None, None]  # so that images are known again

    def drawn(skip, count):
        batches = training.endless_batches(data, 4, False, 0, skip, False)
        return [[round(float(v) * 255) for v in next(batches)[0][:, 0, 0, 0]] for _ in range(count)]

    nine = drawn(0, 9)
    passes = [sum(nine[i : i + 3], []) for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(12)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    for skip in (1, 3, 5):
        assert drawn(skip, 9 - skip) == nine[skip:]


def test_flips_are_drawn_anew_in_each_pass():
    data = make_data(4)
    first, second = [], []
    batches = training.endless_batches(data, 4, True, 0, 0, False)
    for seen in (first, second):
        seen += [round(float(t["boxes"].sum()), 3) for _ in range(5) for t in next(batches)[1]]
    assert sorted(first) != sorted(second)


@pytest.mark.parametrize("steps", [20, 1000])
def test_the_rate_is_that_of_torchs_one_cycle(steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        assert training.one_cycle(step, steps, 8e-3) == pytest.approx(schedule.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            schedule.step()


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11])
def test_the_rate_of_a_short_run_is_a_rate(steps):
    assert all(0 < training.one_cycle(step, steps, 1.0) <= 1 for step in range(steps))


def test_slower_parts_move_less():
    model = make_model()
    before = weights(model)
    fit(model, loss, make_data(), steps=3, batch_size=8, slower={"0.": 0.0})
    after = weights(model)
    assert torch.equal(before["0.weight"], after["0.weight"]) and not torch.equal(
        before["4.weight"], after["4.weight"]
    )
    with pytest.raises(ValueError, match="no weight that learns begins with 'backbone', but with 0, 1, 4, 7"):
        fit(model, loss, make_data(), steps=3, slower={"backbone": 0.1})


def test_frozen_weights_stay_and_a_model_without_others_is_refused():
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(model, loss, make_data(), steps=2, batch_size=8)
    assert torch.equal(model[0].weight, before)
    with pytest.raises(ValueError, match="everything frozen"):
        fit(model.requires_grad_(False), loss, make_data(), steps=2)


def test_the_loss_gets_float32_even_where_the_model_runs_in_bfloat16():
    seen = []

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 16, 3)

        def forward(self, images):
            inner = self.layer(images)
            seen.append(inner.dtype)
            return {"maps": [inner], "pair": (inner, 3)}

    def watching(model, images, targets):
        out = model(images)
        seen.extend([out["maps"][0].dtype, out["pair"][0].dtype])
        return {"x": out["maps"][0].square().mean()}

    model = Two()
    fit(model, watching, make_data(), steps=1, batch_size=8, bf16=True)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.zeros(1, 3, 8, 8))["pair"][0].dtype == torch.bfloat16, "the hook must be gone"


@pytest.mark.parametrize(
    "model, expected",
    [
        (nn.Conv2d(8, 16, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(16, 16, 1, stride=2), torch.channels_last),
        (nn.Sequential(nn.Conv2d(16, 16, 3), nn.GroupNorm(4, 16)), torch.channels_last),
    ],
    ids=["narrow shortcut", "wide shortcut", "group norm"],
)
def test_narrow_strided_shortcuts_are_kept_out_of_channels_last_on_a_cpu(model, expected):
    assert training.memory_format(model, torch.device("cpu")) == expected
    assert training.memory_format(model, torch.device("cuda")) == torch.channels_last


def has_layout(x, layout):
    return x.is_contiguous(memory_format=layout)


def test_group_norms_on_a_cpu_get_their_layout_and_the_rest_channels_last(monkeypatch):
    """The same losses as without the exchange of layouts, hooks gone, and the model as evaluation likes it."""

    def trained():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.GroupNorm(4, 16),
        )  # fmt: skip
        seen = {"norm": [], "after": []}
        hook = model[3].register_forward_hook(lambda _, inputs, output: seen["after"].append(inputs[0]))
        wanted = torch.nn.functional.group_norm
        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.functional, "group_norm", lambda x, *rest: seen["norm"].append(x) or wanted(x, *rest))
            history = fit(model, lambda m, images, _: {"a": (m(images) - 1).square().mean()}, make_data(), steps=3, batch_size=8,
                bf16=False, device="cpu", progress=False)  # fmt: skip
        hook.remove()
        return model, seen, history.total

    model, seen, losses = trained()
    assert all(has_layout(x, torch.contiguous_format) for x in seen["norm"]) and len(seen["norm"]) == 6
    assert all(has_layout(x, torch.channels_last) for x in seen["after"])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(has_layout(p, torch.contiguous_format) for p in model.parameters())
    monkeypatch.setattr(training, "quick_group_norms", lambda *_: contextlib.nullcontext())
    _, seen, plain = trained()
    assert not has_layout(seen["norm"][0], torch.contiguous_format)
    assert losses == pytest.approx(plain, rel=1e-4) and losses[0] > losses[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_sees_a_bar_with_loss_and_speed(monkeypatch):
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.delenv("COURSEKIT_QUIET", raising=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    fit(make_model(), loss, make_data(), steps=5, batch_size=8)
    shown = sys.stderr.getvalue()
    assert "5/5" in shown and "loss 0." in shown and "images/s" in shown
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", shown), "time gone and time left"


@pytest.mark.parametrize("how", ["a program", "COURSEKIT_QUIET=1", "progress=False"])
def test_where_nobody_watches_nothing_is_written(how, monkeypatch, capsys):
    monkeypatch.delenv("PYTEST_VERSION", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO() if how == "a program" else Terminal())
    monkeypatch.setenv("COURSEKIT_QUIET", "1" if how == "COURSEKIT_QUIET=1" else "0")
    fit(make_model(), loss, make_data(), steps=2, batch_size=8, progress=how != "progress=False")
    assert sys.stderr.getvalue() == "" and capsys.readouterr().out == ""


def test_a_notebook_counts_as_watched_only_with_a_front_end(monkeypatch):
    monkeypatch.setattr("coursekit.plot.in_notebook", lambda: True)
    for name in (
        "PYTEST_VERSION",
        "COURSEKIT_QUIET",
        "JPY_SESSION_NAME",
        "COLAB_RELEASE_TAG",
        "VSCODE_PID",
        "VSCODE_CWD",
    ):
        monkeypatch.delenv(name, raising=False)
    assert audience() is None
    monkeypatch.setenv("JPY_SESSION_NAME", "course/01_boxes/boxes.ipynb")
    assert audience() == "notebook"
    monkeypatch.setenv("COURSEKIT_QUIET", "1")
    assert audience() is None


def test_the_live_curve_is_one_figure_drawn_again_and_again(monkeypatch):
    pytest.importorskip("IPython", reason="no notebook runs without it")
    import IPython.display
    import matplotlib

    matplotlib.use("Agg")
    shown, updates = [], []

    class Handle:
        def update(self, canvas):
            updates.append(canvas)

    monkeypatch.setattr(training, "audience", lambda: "notebook")
    monkeypatch.setattr(training, "DRAW_EVERY", 0.0)
    monkeypatch.setattr(
        IPython.display, "display", lambda canvas, display_id: shown.append(canvas) or Handle()
    )
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr("tqdm.auto.tqdm", __import__("tqdm").tqdm)
    fit(make_model(), loss, make_data(), steps=3, batch_size=8)
    assert len(shown) == 1 and len(updates) == 3  # two more steps, and once more at the end
    assert len(updates[-1].axes[0].lines[0].get_xdata()) == 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_resumes_and_names_the_step_of_a_bad_loss(tmp_path):
    path, data, model = tmp_path / "run.safetensors", make_data(), make_model()

    def on_gpu(model, images, targets):
        out = model(images)
        there = torch.tensor([float(len(t["boxes"])) for t in targets], device=images.device)
        return {"there": nn.functional.binary_cross_entropy_with_logits(out[:, 0], there)}

    history = fit(model, on_gpu, data, steps=60, batch_size=8, checkpoint=path)
    assert history.complete and next(model.parameters()).is_cuda
    assert sum(history.total[-10:]) < sum(history.total[:10])
    other = make_model()
    assert fit(other, on_gpu, data, steps=60, batch_size=8, checkpoint=path).losses == history.losses
    calls = []

    def failing(model, images, targets):
        calls.append(1)
        parts = on_gpu(model, images, targets)
        return {"there": parts["there"] * (float("nan") if len(calls) == 7 else 1.0)}

    with pytest.raises(TrainingError, match="step 7 "):
        fit(make_model(), failing, data, steps=60, batch_size=8)
