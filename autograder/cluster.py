"""The same jobs on many machines, sent by Dask: `autograder grade --cluster tcp://HOST:8786`, or `--cluster local`.

A Dask worker keeps one grading process for each of its threads, a program of its own with a sandbox of its own:
Dask's process has threads, and neither the judge nor a fork goes well with those. A job holds the hand-in and the
lesson, so that workers need the same packages but no common disk. Pickles travel only between the grader's own
machines; what student code says crosses as JSON from its sandbox (`remote`).

Dask and all that is slow to import are imported where they are used: a Dask worker imports this file.
"""

import collections
import contextlib
import itertools
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from multiprocessing.connection import Connection

TRIES = 2  # so often a hand-in is given to a grading process that dies of it
FORGOTTEN = 600.0  # seconds after which a grading process that nobody called for is ended
PATIENCE = 30.0  # seconds for the scheduler to answer (again), and for a first worker
NO_WORKER = 60.0  # seconds without any worker until the run ends


class Cluster:
    """Grades on a Dask cluster: `grade(..., run=cluster)`.

    Args:
        address (str): the scheduler's, such as tcp://10.0.0.1:8786; "local" starts one here, with its workers.
        processes (int): workers of a local cluster; one a core unless given.
        unsafe (bool): grade also where student code cannot be isolated.

    On entering: `isolation` says in words how student code is isolated on the workers, `notes` are what the report
    should say about them.

    Raises (on entering):
        GradingError: no Dask, no scheduler, no worker, or one that cannot isolate.
    """

    def __init__(self, address, *, processes=None, unsafe=False):
        self.address, self.processes, self.unsafe = address, processes, unsafe
        self.isolation, self.notes = "", []
        self._run = uuid.uuid4().hex
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._client = self._connect(stack)
            self._ask_workers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):  # the cluster may be gone
            self._client.run(_release, self._run)
        self._stack.close()

    def __call__(self, jobs):
        """Grade the jobs; yield (job, result) as each is done. They are taken a few at a time.

        Raises:
            GradingError: if the scheduler or all workers are lost, or one cannot isolate.
        """
        from .grade import not_graded

        jobs, tries, running = iter(jobs), collections.Counter(), {}

        def begin(job):
            tries[job.student, job.lesson.name] += 1
            # As bytes: a Dask worker need not import what a job is made of.
            future = self._client.submit(_grade, pickle.dumps(job), _longest(job), self._run, self.unsafe, pure=False)
            running[future] = job

        try:
            for job in itertools.islice(jobs, max(16, 4 * self._threads)):
                begin(job)
            while running:
                for future in self._done(running):
                    job = running.pop(future)
                    result, reason = self._answer(future)
                    if reason is not None and tries[job.student, job.lesson.name] < TRIES:
                        begin(job)
                        continue
                    yield job, not_graded(job, f"{reason}, {TRIES} times") if result is None else json.loads(result)
                    if (job := next(jobs, None)) is not None:
                        begin(job)
        finally:
            with contextlib.suppress(Exception):
                self._client.cancel(list(running), force=True)

    def _connect(self, stack):
        try:
            import dask
            import distributed
        except ImportError:
            raise _error("--cluster needs Dask, which is not installed here: pip install -e '.[cluster]'") from None
        # How long a client waits for a lost scheduler
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{PATIENCE}s"}))
        if self.address == "local":
            # Whoever may connect runs what they like: with certificates of its own, nobody else on this machine.
            local = distributed.LocalCluster(
                n_workers=self.processes or os.cpu_count() or 1, threads_per_worker=1, memory_limit=0, security=True,
                dashboard_address="127.0.0.1:0", scheduler_kwargs={"dashboard": False},
            )  # fmt: skip
            stack.enter_context(local)
        try:
            client = distributed.Client(local if self.address == "local" else self.address, timeout=PATIENCE)
            stack.enter_context(client)
            client.wait_for_workers(1, timeout=PATIENCE)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            where = f"{self.address} ({' '.join(str(error).split())[:200]})"
            raise _error(
                f"no Dask scheduler with a worker answers at {where}; start them with `dask scheduler` and, on each "
                "machine, `dask worker ADDRESS`, or use --cluster local"
            ) from None
        return client

    def _ask_workers(self):
        """Start a grading process on every worker; compare what they are with what is here."""
        threads = self._client.nthreads()
        self._threads = sum(threads.values())
        asked = {
            worker: self._client.submit(_about, self._run, self.unsafe, workers=[worker], pure=False)
            for worker in threads
        }
        isolations = set()
        for worker, future in asked.items():
            try:
                about = future.result(timeout=400)
            except Exception as error:
                raise _error(f"the worker {worker} cannot grade: {_words(error)}") from None
            if "error" in about:
                raise _error(f"the worker {worker} cannot grade: {about['error']}")
            isolations.add(about["isolation"])
            self.notes += differences(worker, about, _what_is_here(about["isolation"]))
        for note in self.notes:
            print(f"autograder: {note}", file=sys.stderr)
        self.isolation = " or ".join(sorted(isolations))

    def _done(self, running):
        """Those of the futures that are done, waiting for one."""
        from distributed import wait

        alone = time.monotonic()
        while True:
            try:
                return wait(list(running), timeout=5, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                pass
            except Exception as error:
                raise self._lost(error) from None
            try:
                if self._client.nthreads():
                    alone = time.monotonic()
            except Exception as error:
                raise self._lost(error) from None
            if time.monotonic() - alone > NO_WORKER:
                raise _error(f"no worker is left at {self.address}. {KEPT}")

    def _answer(self, future):
        """`(result, None)`, or `(None, why there is none)`."""
        from distributed import KilledWorker

        if future.cancelled():
            raise self._lost("its jobs were cancelled")
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, KilledWorker):  # Dask has tried it on several
            return None, "the workers that graded it ended"
        raise _error(f"a worker cannot grade: {_words(error)}. {KEPT}")

    def _lost(self, error):
        return _error(f"the Dask scheduler at {self.address} was lost ({_words(error)}). {KEPT}")


KEPT = "What was graded is kept in results/; the same command goes on from there"


def differences(worker, theirs, ours):
    """Sentences on what a worker has otherwise than we have, of which marks could differ."""
    told = [f"{one} there, {other} here" for one, other in zip(theirs["versions"], ours["versions"]) if one != other]
    if theirs["code"] != ours["code"]:
        told.append("another version of coursekit or autograder than here")
    return [f"the worker {worker} is not like this machine: {'; '.join(told)}; marks may differ"] if told else []


def _what_is_here(isolation):
    from . import results

    versions = results.environment(isolation).split(", ")
    return {"isolation": isolation, "versions": versions, "code": results._deciding().decode()}


def _error(words):
    from .grade import GradingError

    return GradingError(words)


def _words(error):
    return " ".join(str(error).split())[:300] or type(error).__name__


def _longest(job):
    """Seconds after which a hand-in's grading process is given up."""
    from .grade import BUDGET

    return (BUDGET + 1) * job.timeout + 60


# On a worker

_idle, _lock = [], threading.Lock()


def _grade(job, longest, run, unsafe):
    """One job, in a grading process of this worker: `(result as JSON, None)`, or `(None, why there is none)`."""
    process = _take(run, unsafe)
    answer, reason = process.ask(job, longest)
    if reason is None and process.goes_on:
        with _lock:
            _idle.append(process)
    return answer, reason


def _about(run, unsafe):
    """What this worker is, as `_what_is_here` has it; `error` where it cannot grade."""
    process = _take(run, unsafe)
    with _lock:
        _idle.append(process)
    return process.about


def _take(run, unsafe):
    """A grading process of this run; one that idles or a new one."""
    with _lock:
        mine = next((process for process in _idle if process.run == run), None)
        if mine:
            _idle.remove(mine)
        old = [process for process in _idle if time.monotonic() - process.used > FORGOTTEN]
        _idle[:] = [process for process in _idle if process not in old]
    for process in old:
        process.end()
    return mine or _Process(run, unsafe)


def _release(run):
    with _lock:
        mine = [process for process in _idle if process.run == run]
        _idle[:] = [process for process in _idle if process.run != run]
    for process in mine:
        process.end()


class _Process:
    """A grading process, seen from the Dask worker that it belongs to. It ends when that does."""

    def __init__(self, run, unsafe):
        self.run, self.used = run, time.monotonic()
        ours, theirs = socket.socketpair()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        packages = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
        with theirs:
            self.process = subprocess.Popen(
                # -P: nothing is imported from the folder that the worker was started in
                [sys.executable, "-P", "-m", "autograder.cluster", str(theirs.fileno()), *(["--unsafe"] if unsafe else [])],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env={**os.environ, **threads, "PYTHONPATH": path},
            )  # fmt: skip
        self.pipe = Connection(ours.detach())
        about, reason = self._received(330)  # a sandbox may take 300 s to start from a network drive
        self.about = {"error": f"its grading process {reason}"} if reason else json.loads(about)

    def ask(self, job, longest):
        from .grade import NEXT

        self.used = time.monotonic()
        if "error" in self.about:
            self.end()
            raise RuntimeError(self.about["error"])
        with contextlib.suppress(OSError):  # dead already: nothing will come
            self.pipe.send_bytes(job)
        answer, reason = self._received(longest)
        if reason is None:
            word, late = self._received(longest)
            self.goes_on = word == NEXT.decode()
            if not self.goes_on and not late:
                self.end()
        self.used = time.monotonic()
        return answer, reason and f"its grading process {reason}"

    def _received(self, seconds):
        """`(text, None)`, or `(None, why there is none)`; it is then ended."""
        reason = "took too long"
        try:
            if self.pipe.poll(seconds):
                return self.pipe.recv_bytes().decode(), None
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            reason = f"ended (exit code {self.process.returncode})"
        self.end()
        return None, reason

    def end(self):
        self.pipe.close()
        for stop in (self.process.terminate, self.process.kill):
            stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
                return


# The grading process


def _main(descriptor, *options):
    from .grade import _work
    from .judge import warm
    from .sandbox import Sandbox, SandboxError

    pipe = Connection(int(descriptor))
    with Sandbox(unsafe="--unsafe" in options) as sandbox:
        try:
            about = _what_is_here(sandbox.isolation)
        except SandboxError as error:
            about = {"error": str(error)}
        warm()
        pipe.send_bytes(json.dumps(about).encode())
        if "error" not in about:
            _work(pipe, [], sandbox)


if __name__ == "__main__":
    _main(*sys.argv[1:])
