"""Curves of the solutions' own trainings: made by a command, of the cells of today, and what is said beside them."""

import json
import re

import pytest

from autograder import cli
from autograder.curves import NO_MATTER, cells_to_run, record, trainings
from autograder.experiment import digest_of
from autograder.lessons import LessonError, sources
from coursekit import expected, plot
from coursekit.training import History

LESSON = '''
# %% setup=true
import torch
from coursekit.data import DetectionData
from coursekit.training import fit

# %% exercise="double"
def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION

# %% check="double" points=1
raise AssertionError("no check cell is run")

# %%
nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 4
data = DetectionData(torch.full((4, 3, 8, 8), 99, dtype=torch.uint8), nothing, ("a",))
torch.manual_seed(0)
model = torch.nn.Conv2d(3, 16, 3)

def loss(model, images, targets):
    size = model(images).square().mean()
    return {"size": double(size), "rest": 0 * size + 0.55}

fit(model, loss, data, steps=3, batch_size=2, device="cpu")
history = fit(model, loss, data, steps=40, batch_size=2, device="cpu", expected="05_topic scenes")

# %%
raise AssertionError("after the last named training nothing is run")
'''


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    path = root / "solutions" / "05_topic" / "topic.py"
    path.parent.mkdir(parents=True)
    path.write_text(LESSON, encoding="utf-8")
    record("05_topic", [0, 1], root=root, folder=root)
    return root


@pytest.fixture
def band(course):
    return expected.load("05_topic scenes", course)


def run_like(band, factor=1.0, done=None, **changes):
    """A run whose losses are in the middle of the band, times a factor."""
    steps = range(1, (done or band.settings["steps"]) + 1)
    losses = {name: [factor * sum(band.between(name, i)) / 2 for i in steps] for name in band.low if name != "sum"}
    about = {"wanted": band.settings["steps"], "batch_size": band.settings["batch_size"], "expected": band}
    return History(list(steps), losses, complete=done is None, **{**about, **changes})


def test_the_named_training_is_recorded_for_each_seed(course, band):
    assert (band.settings, band.seeds) == ({"steps": 40, "batch_size": 2}, [0, 1])
    assert set(band.low) == {"sum", "size", "rest"} and band.at[0] == 1 and band.at[-1] == 40
    runs = json.loads((course / "05_topic.json").read_text())["runs"]
    assert runs[0]["losses"]["size"] != runs[1]["losses"]["size"], "other random numbers"
    assert all(run["machine"] and run["date"] and run["code"] for run in runs)


def test_what_is_there_is_not_run_again_until_its_cell_changes(course, tmp_path, capsys):
    (tmp_path / "05_topic.json").write_bytes((course / "05_topic.json").read_bytes())
    record("05_topic", [0, 1], root=course, folder=tmp_path)
    assert capsys.readouterr().out == "seed 0: is there already\nseed 1: is there already\n"
    other = tmp_path / "solutions" / "05_topic" / "topic.py"
    other.parent.mkdir(parents=True)
    other.write_text(LESSON.replace("steps=40", "steps=30"))
    record("05_topic", [1], root=tmp_path, folder=tmp_path)
    assert expected.load("05_topic scenes", tmp_path).settings["steps"] == 30
    assert expected.load("05_topic scenes", tmp_path).seeds == [1]


def test_a_training_without_a_name_is_told(tmp_path):
    path = tmp_path / "solutions" / "05_topic" / "topic.py"
    path.parent.mkdir(parents=True)
    path.write_text(LESSON.replace(', expected="05_topic scenes"', ""))
    with pytest.raises(LessonError, match=r'has no fit\(..., expected="05_topic NAME"\)'):
        record("05_topic", [0], root=tmp_path, folder=tmp_path)


def test_the_command_names_the_lessons_where_there_is_no_such_one(capsys):
    assert cli.main(["curves", "99_none"]) == 2
    assert "no lesson '99_none'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "factor, words",
    [
        (1.0, r"Yes: at step 40 its sum is "),
        (3.0, r"It is higher than expected: .* in the solution's runs\. Of its parts .*above.* Look at its targets"),
        (0.1, r"It is lower than expected: .*below.*Is a part left out, are all targets background"),
    ],
)
def test_the_verdict_says_where_a_loss_is_and_what_to_look_at(band, factor, words):
    assert re.match(rf"Is this loss normal\? {words}", band.verdict(run_like(band, factor)))


def test_the_floor_of_a_loss_is_told_at_the_end(band):
    assert band.floor["rest"] == pytest.approx(0.55)
    assert "No run of the solution came lower than size" in band.verdict(run_like(band))
    assert "rest 0.55: 0 is not the goal" in band.verdict(run_like(band))
    assert "0 is not the goal" not in band.verdict(run_like(band, done=30)), "not while it trains"


def test_one_part_that_is_off_is_named_even_where_the_sum_is_right():
    low, high = {"sum": [1.0] * 2, "a": [0.4] * 2, "b": [0.4] * 2}, {"sum": [1.4] * 2, "a": [0.8] * 2, "b": [0.8] * 2}
    band = expected.Expected("x y", "", {"steps": 40, "batch_size": 2}, [1, 40], low, high, {}, [0])
    history = History(list(range(1, 31)), {"a": [1.0] * 30, "b": [0.1] * 30}, batch_size=2, wanted=40)
    assert band.verdict(history) == (
        "Is this loss normal? Yes: at step 30 its sum is 1.1, 1 to 1.4 in the solution's runs. "
        "Of its parts a is 1, above 0.4 to 0.8; b is 0.1, below 0.4 to 0.8."
    )


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"wanted": 80}, "The band is of 40 steps of 2 images, this run is of 80 steps of 2: only the shape"),
        ({"batch_size": 4}, "this run is of 40 steps of 4: only the shape"),
        ({"done": 1}, "Too early to say"),
    ],
)
def test_a_run_that_cannot_be_compared_is_told_so(band, changes, words):
    assert words in band.verdict(run_like(band, **changes))


def test_other_names_of_losses_are_told_where_the_sum_is_off(band):
    history = run_like(band, 3.0)
    history.losses = {"all": history.total}
    assert "It has the parts all, expected size, rest." in band.verdict(history)


def test_an_unknown_training_says_how_to_make_its_curve(course):
    with pytest.raises(LookupError, match="no runs of '05_topic other' in .*05_topic.json: `autograder curves 05_topic`"):
        expected.load("05_topic other", course)
    with pytest.raises(ValueError, match='such as "05_ssd scenes"'):
        expected.load("05_topic", course)


def test_the_band_is_drawn_behind_the_curve(band):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for history, bands in ((run_like(band, done=20), 3), (run_like(band, wanted=80), 0)):
        canvas, ax = pyplot.subplots()
        plot.show_loss(history, ax)
        assert len(ax.collections) == bands
        if bands:
            assert ax.get_xlim()[1] == 40, "what is still to come is seen"
        pyplot.close(canvas)


def test_fit_says_it_where_someone_watches(course, band, monkeypatch, capsys):
    import torch

    from coursekit import training

    monkeypatch.setattr(training, "load_expected", lambda name: {"05_topic scenes": band}[name])
    scope = {"__name__": "__main__"}
    for source in cells_to_run(course / "solutions" / "05_topic" / "topic.py"):
        exec(re.sub("^.*fit\\(.*$", "", source, flags=re.MULTILINE), scope)
    options = {"steps": 40, "batch_size": 2, "device": "cpu", "expected": "05_topic scenes"}
    torch.manual_seed(0)
    history = training.fit(scope["model"], scope["loss"], scope["data"], **options)
    assert history.expected is band and capsys.readouterr().out == "", "where nobody watches nothing is said"
    monkeypatch.setattr(training, "audience", lambda: "terminal")
    training.fit(scope["model"], scope["loss"], scope["data"], **options)
    assert capsys.readouterr().out.startswith("Is this loss normal? ")


# What is committed


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.parent.name)
def test_every_named_training_has_curves_of_its_cell_of_today(path):
    for source in cells_to_run(path):
        for name in trainings(source):
            file = expected.FOLDER / f"{path.parent.name}.json"
            runs = [run for run in json.loads(file.read_text("utf-8"))["runs"] if run["name"] == name]
            assert len(runs) >= 3 and {run["code"] for run in runs} == {digest_of(source, without=NO_MATTER)}, (
                f"run `autograder curves {path.parent.name}`"
            )


def test_committed_curves_load():
    for file in sorted(expected.FOLDER.glob("*.json")):
        content = json.loads(file.read_text("utf-8"))
        assert content["command"].startswith(f"autograder curves {file.stem} ")
        for name in {run["name"] for run in content["runs"]}:
            band = expected.load(name)
            assert len(band.seeds) >= 3 and all(value > 0 for value in band.floor.values())
            assert all(low < high for loss in band.low for low, high in zip(band.low[loss], band.high[loss]))
