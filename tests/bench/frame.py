"""What every bench needs: processes timed and weighed, calls timed in turn, a table saved as JSON and shown in the README.

`python -m tests.bench.frame [README.md]` puts the saved tables between their markers.
"""

import contextlib
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAVED = Path(__file__).parent / "results"


@dataclass
class Table:
    """Rows under named columns; `columns[0]` names the row.

    `notes` are sentences below it; `missed` are the goals that were not reached.
    """

    name: str
    title: str
    columns: list[str]
    rows: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    about: dict = field(default_factory=dict)

    def row(self, what, *cells):
        """Add a row, its cells in the order of the columns; those left out stay empty."""
        if len(cells) >= len(self.columns):
            raise ValueError(f"{len(cells) + 1} cells for the columns {', '.join(self.columns)}")
        self.rows.append(dict(zip(self.columns, (what, *cells))))

    def goal(self, reached, words):
        """A goal, in words with the number found; a missed one fails the bench, after the table is saved."""
        self.notes.append(f"{'Reached' if reached else 'Missed'}: {words}.")
        if not reached:
            self.missed.append(words)

    def markdown(self):
        lines = [self.columns, ["---"] + ["---:"] * (len(self.columns) - 1)]
        lines += [[_shown(row.get(column, "")) for column in self.columns] for row in self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([f"**{self.title}**", table, " ".join([*self.notes, _where(self.about)])])

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / f"{self.name}.json"
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _shown(value):
    """Three digits: a timing has no more."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}".rstrip(".")


def machine():
    """Where and when this runs, as a dict: date, processor, cores, GB of memory, load before, versions."""
    about = {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory GB": round(_memory() / 1e9),
        "load before": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }
    for name in ("torch", "torchvision", "nbgrader"):  # nbgrader is not needed to train
        with contextlib.suppress(PackageNotFoundError):
            about[name] = version(name)
    return about


def _processor():
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def _memory():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _where(about):
    if not about:
        return ""
    return (
        f"Measured {about['date']} on {about['cores']} cores of {about['processor']}, {about['memory GB']} GB, "
        f"load {about['load before']} before; Python {about['python']}, torch {about['torch']}"
        + (f", nbgrader {about['nbgrader']}." if "nbgrader" in about else ".")
    )


def beside(ours, theirs, rounds=5):
    """`(seconds, their seconds, theirs / ours)`: medians over rounds in which each is called once, in turn.

    Other load on the machine falls on both of a round; the ratio is the median of the rounds' own.
    """
    times = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    our_times, their_times = zip(*times)
    median = statistics.median
    return median(our_times), median(their_times), median(their / our for our, their in times)


def timed(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def weighed(function):
    """Bytes that a call takes at its peak beyond what the process held before, whoever asks for them.

    A fork of this process, which runs one thread, makes the call; so the peak is its own (Linux and macOS).
    """
    import ctypes
    import resource

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(AttributeError):  # glibc: blocks of 64 KiB or more are new memory, and given back when freed
            ctypes.CDLL(None).mallopt(-3, 1 << 16)
        before = peak()
        try:
            function()
            os.write(writer, str(peak() - before).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        found = told.read()
    os.waitpid(child, 0)
    if not found:
        raise RuntimeError("the call that was to be weighed failed; its error stands above")
    return int(found)


@dataclass(frozen=True)
class Run:
    """One process with all its descendants: seconds passed, seconds of processors, bytes at the peak (or None)."""

    began: float  # as time.time()
    seconds: float
    cpu: float
    memory: int | None
    output: str


def run(command, *, cwd=None, environment=None, memory=False, every=0.25, timeout=3600):
    """Run a command to its end, looking at all its processes every so many seconds (Linux), with `memory` at that too.

    Raises:
        RuntimeError: when it fails, with the end of what it said.
    """
    import resource

    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before, began, started = used(), time.time(), time.monotonic()
    process = subprocess.Popen(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
    )  # fmt: skip
    cpu, held, over = [0.0], [0], threading.Event()

    def watch():
        while not over.wait(every):
            seconds = tree(process.pid)
            cpu.append(sum(seconds.values()))
            if memory:
                held.append(sum(map(_pss, seconds)))

    if Path("/proc/self/stat").exists():
        threading.Thread(target=watch, daemon=True).start()
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        over.set()
        process.kill()
    passed = time.monotonic() - started
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode} of {' '.join(map(str, command))}:\n{output[-3000:]}")
    # A process that is killed tells its parent nothing of its own children: what was seen of them counts.
    return Run(began, passed, max(used() - before, *cpu), max(held) or None, output)


def tree(pid):
    """pid -> CPU seconds of a process and each descendant, with those of its children that have ended."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stats[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
    found, grown = {pid} & stats.keys(), True
    while grown:
        more = {child for child, stat in stats.items() if int(stat[1]) in found} - found
        found |= more
        grown = bool(more)
    return {one: sum(map(int, stats[one][11:15])) / os.sysconf("SC_CLK_TCK") for one in found}


def _pss(pid):
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0
    except OSError:  # it has ended, or belongs to another user
        return 0


def load(folder=SAVED):
    return [Table(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(Path(folder).glob("*.json"))]


def render(text, tables):
    """`text` with each table between its markers `<!-- bench NAME -->` and `<!-- /bench -->`."""
    for table in tables:
        place = re.compile(rf"(<!-- bench {re.escape(table.name)} -->\n).*?(<!-- /bench -->)", re.DOTALL)
        text = place.sub(lambda found: f"{found[1]}\n{table.markdown()}\n\n{found[2]}", text)
    return text


def main(paths):
    for path in map(Path, paths or [ROOT / "README.md"]):
        text = path.read_text(encoding="utf-8")
        shown = render(text, load())
        path.write_text(shown, encoding="utf-8")
        print(f"{path.name}: {'tables renewed' if shown != text else 'nothing to change'}")


if __name__ == "__main__":
    main(sys.argv[1:])
