"""Results of the lessons' long experiments: numbers that a command made, `NN_topic.json` beside this file.

    results = load("05_ssd")
    results.table(["AP", "AP50"])     # mean ± spread over the seeds, a row for each form

`autograder experiment NN_topic` runs what is missing and writes the file; nobody edits it.
"""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Results:
    """What an experiment found.

    Attributes:
        lesson (str): such as "05_ssd".
        command (str): what makes these numbers again.
        runs (list of dict): each with `form` and `seed`, `values` (dict of str: float), `seconds`, `date` (UTC),
            `machine`, and `code`, a digest of the lesson's cells that were run.
    """

    lesson: str
    command: str
    runs: list

    @property
    def forms(self):
        """The forms in the order of their first run: list of str."""
        return list(dict.fromkeys(run["form"] for run in self.runs))

    def values(self, form, name):
        """One number a seed: list of float."""
        return [run["values"][name] for run in self.runs if run["form"] == form]

    def mean(self, form, name):
        """Over the seeds."""
        return statistics.fmean(self.values(form, name))

    def spread(self, form, name):
        """Sample standard deviation over the seeds; NaN with fewer than two."""
        values = self.values(form, name)
        return statistics.stdev(values) if len(values) > 1 else float("nan")

    def table(self, names, digits=2):
        """A `plot.Table`: a row for each form, a column `mean ± spread` for each name; of one seed the value alone."""
        from coursekit.plot import table

        def text(form, name):
            mean = f"{self.mean(form, name):.{digits}f}"
            return f"{mean} ± {self.spread(form, name):.{digits}f}" if len(self.values(form, name)) > 1 else mean

        return table([[form, *(text(form, name) for name in names)] for form in self.forms], ["", *names], repr(self))

    def __repr__(self):
        seeds = sorted({run["seed"] for run in self.runs})
        machines = ", ".join(dict.fromkeys(run["machine"] for run in self.runs))
        dates = sorted(run["date"][:10] for run in self.runs)
        when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
        return f"{len(self.runs)} runs, seeds {', '.join(map(str, seeds))}; {when}; {machines}; made by `{self.command}`"


def load(lesson, folder=FOLDER, *, part=None):
    """The committed results of a lesson.

    Args:
        lesson (str): such as "05_ssd".
        part (str, optional): which of its experiments, such as "bug": `NN_topic_bug.json`.

    Raises:
        FileNotFoundError: if there are none; says which command makes them.
    """
    path = Path(folder) / f"{lesson}{f'_{part}' if part else ''}.json"
    if not path.exists():
        command = f"autograder experiment {lesson}{f' --part {part}' if part else ''}"
        raise FileNotFoundError(f"no results in {path}: `{command}` makes them")
    content = json.loads(path.read_text(encoding="utf-8"))
    return Results(content["lesson"], content["command"], content["runs"])
