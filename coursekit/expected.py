"""Is this loss normal? The losses of the solution's own runs, beside which a student's are held.

    expected = load("05_ssd scenes")
    print(expected.verdict(history))

`fit(..., expected="05_ssd scenes")` draws the band behind its curve and says the verdict. The numbers lie in
`coursekit/curves/NN_topic.json`; `autograder curves NN_topic` trains the solutions and writes them, nobody edits them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from .plot import running_mean

FOLDER = Path(__file__).parent / "curves"
SPAN = 0.05  # of all steps: over so many losses are smoothed
MARGIN = 0.1  # of a value: the band is wider by this, and by the spread between the runs
EARLY = 0.05  # of all steps: before, there is nothing to say


@dataclass(frozen=True)
class Expected:
    """The band in which the losses of one training lie.

    Attributes:
        name (str): such as "05_ssd scenes".
        command (str): what makes the numbers again.
        settings (dict): `steps` and `batch_size`, to which the band belongs.
        at (list of int): the steps at which it is known, from 1 to the last.
        low, high (dict of lists of float): by loss, and "sum"; one value for each of `at`.
        floor (dict of float): by loss, the least that any run of the solution came to: some losses cannot reach 0.
        seeds (list of int): one for each run.
    """

    name: str
    command: str
    settings: dict
    at: list
    low: dict
    high: dict
    floor: dict
    seeds: list

    def fits(self, history):
        """Whether a run has the steps and batches of these, so that the band says something about it."""
        return self.settings == {"steps": history.wanted, "batch_size": history.batch_size}

    def between(self, name, step):
        """(lowest, highest) value to be expected of a loss, or of "sum", at a step."""
        return tuple(_interpolated(self.at, band[name], step) for band in (self.low, self.high))

    def verdict(self, history):
        """Is this loss normal? A sentence or two: where the run is, where it should be, what to look at.

        Args:
            history (coursekit.training.History): a run, finished or not.
        """
        steps, size = self.settings["steps"], self.settings["batch_size"]
        if not self.fits(history):
            return (
                f"Is this loss normal? The band is of {steps:,} steps of {size} images, "
                f"this run is of {history.wanted:,} steps of {history.batch_size}: only the shape can be compared."
            )
        if len(history.steps) < max(2, EARLY * steps):
            return "Is this loss normal? Too early to say."
        now, step = self.smoothed(history), history.steps[-1]
        apart = {name: self._apart(name, step, values[-1]) for name, values in now.items() if name in self.low}
        place = f"at step {step:,} its sum is {number(now['sum'][-1])}, {self._band('sum', step)} in the solution's runs"
        if not apart["sum"]:
            rest = "" if not history.complete else f" {self.floors()}"
            odd = [name for name in apart if apart[name]]
            return f"Is this loss normal? Yes: {place}." + self._parts(odd, now, step, apart) + rest
        odd = [name for name in apart if apart[name] == apart["sum"] and name != "sum"]
        if apart["sum"] > 0:
            look = "Look at its targets, its weight and its reduction first."
        else:
            look = "Is a part left out, are all targets background, or is it divided by too much?"
        where = self._parts(odd, now, step, apart) or (
            f" It has the parts {', '.join(history.losses)}, expected {', '.join(n for n in self.low if n != 'sum')}."
            if set(self.low) - {"sum"} != set(history.losses)
            else ""
        )
        side = "higher" if apart["sum"] > 0 else "lower"
        return f"Is this loss normal? It is {side} than expected: {place}.{where} {look}"

    def floors(self):
        """Which losses do not come near 0 even when all is right, in words."""
        far = [f"{name} {number(value)}" for name, value in self.floor.items() if name != "sum"]
        return f"No run of the solution came lower than {', '.join(far)}: 0 is not the goal."

    def smoothed(self, history):
        """The running means of a run's losses, and of their "sum": dict of lists."""
        return smoothed(history.losses, self.settings["steps"])

    def _apart(self, name, step, value):
        low, high = self.between(name, step)
        return (value > high) - (value < low) if math.isfinite(value) else 1

    def _band(self, name, step):
        low, high = self.between(name, step)
        return f"{number(low)} to {number(high)}"

    def _parts(self, names, now, step, apart):
        told = [
            f"{name} is {number(now[name][-1])}, {'above' if apart[name] > 0 else 'below'} {self._band(name, step)}"
            for name in names
        ]
        return f" Of its parts {'; '.join(told)}." if told else ""


def load(name, folder=FOLDER):
    """The band of a training.

    Args:
        name (str): lesson and training, such as "05_ssd scenes".

    Raises:
        ValueError: if the name is not of this form.
        LookupError: if there are no runs of it; says which command makes them.
    """
    lesson, _, training = name.partition(" ")
    if not training:
        raise ValueError(f'expected={name!r}: a lesson and the name of a training, such as "05_ssd scenes"')
    path = Path(folder) / f"{lesson}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": []}
    runs = [run for run in content["runs"] if run["name"] == name]
    if not runs:
        raise LookupError(f"no runs of {name!r} in {path}: `autograder curves {lesson}` makes them")
    names, at = list(runs[0]["losses"]), runs[0]["at"]
    low, high, floor = {}, {}, {}
    for loss in names:
        rows = list(zip(*(run["losses"][loss] for run in runs)))
        wider = [max(row) - min(row) + MARGIN * abs(max(row)) for row in rows]
        low[loss] = [min(row) - more for row, more in zip(rows, wider)]
        high[loss] = [max(row) + more for row, more in zip(rows, wider)]
        floor[loss] = min(min(row) for row in rows)
    seeds = [run["seed"] for run in runs]
    return Expected(name, content["command"], runs[0]["settings"], at, low, high, floor, seeds)


def smoothed(losses, steps):
    """Running means over the same number of steps whether a run is done or under way, and of the "sum"."""
    total = [sum(parts) for parts in zip(*losses.values())]
    span = SPAN * steps / max(len(total), 1)
    return {name: running_mean(values, span) for name, values in {"sum": total, **losses}.items()}


def number(value):
    """A loss in words: three digits."""
    return f"{value:.3g}"


def _interpolated(at, values, step):
    """The value at a step between known ones; at both ends the last one known."""
    after = next((i for i, one in enumerate(at) if one >= step), len(at) - 1)
    before = max(after - 1, 0)
    if at[after] <= step or after == before:
        return values[after]
    share = max(0.0, (step - at[before]) / (at[after] - at[before]))
    return values[before] + share * (values[after] - values[before])
