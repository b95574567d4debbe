"""The doctor finds what leaks, and says so in words: each of its probes is shown a process that is not isolated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autograder import doctor, sandbox
from autograder.cli import main
from autograder.doctor import LIGHT, QUICK, SMALL, examine, leaks, words
from autograder.sandbox import Sandbox, SandboxError

linux = pytest.mark.skipif(sys.platform != "linux", reason="what a process may do is asked of Linux")


@pytest.fixture
def open_process(monkeypatch, tmp_path):
    """`source -> found`, run by a plain child of this process: same user, same files, same environment."""
    monkeypatch.setenv("AUTOGRADER_CANARY", "to be found")

    def run(source):
        program = f"found = {{}}\n{source}\nimport json; print(json.dumps(found))"
        extra = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
        try:
            result = subprocess.run(
                [sys.executable, "-c", program],
                capture_output=True, text=True, timeout=60, pass_fds=extra, cwd=tmp_path,
            )  # fmt: skip
        finally:
            for descriptor in extra:
                os.close(descriptor)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@linux
@pytest.mark.parametrize("probe", [one for one in QUICK if one is not doctor.python_and_coursekit], ids=words)
def test_a_probe_finds_what_is_not_isolated(probe, open_process):
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if probe is doctor.memory_of_the_grader and os.geteuid() and yama.exists() and yama.read_text() != "0\n":
        pytest.skip("this system lets no ordinary process read another's memory")
    found = leaks(open_process, SMALL, [probe])
    assert list(found) == [words(probe)] and found[words(probe)].startswith(("could ", "has ", "can ")), found


@linux
@pytest.mark.parametrize("probe", [doctor.disk, doctor.processes], ids=words)
def test_a_probe_finds_what_has_no_limit(probe, open_process):
    assert "the limit is" in leaks(open_process, SMALL, [probe])[words(probe)]


@linux
def test_memory_without_a_limit_is_found(open_process):
    assert leaks(open_process, SMALL, [doctor.memory]) == {"memory": "could use 320 MiB, more than the limit of 256 MiB"}


@linux
def test_what_goes_on_after_its_end_is_found(monkeypatch):
    """Without isolation a process that has left its group outlives the student process."""
    monkeypatch.setattr(doctor, "LEFT_BEHIND", doctor.LEFT_BEHIND.replace("while True:", "for _ in range(800):"))
    with Sandbox(unsafe=True, limits=SMALL, student=LIGHT) as one:
        assert doctor.what_it_leaves_behind(one) == "went on for 3 s after its end"


def test_a_probe_that_breaks_is_no_isolation():
    found = leaks(lambda source: {"error": "signal 11"}, SMALL)
    assert set(found) == set(map(words, QUICK)) and set(found.values()) == {"signal 11"}


@pytest.mark.parametrize("backend", ["namespaces", "bubblewrap"])
def test_nothing_leaks_where_it_runs(backend):
    result = examine(backend)
    if result["trouble"]:
        pytest.skip(result["trouble"])
    assert result["leaks"] == {}


def test_a_sandbox_that_leaks_is_not_used(monkeypatch):
    monkeypatch.setattr(doctor, "leaks", lambda *_: {"network": "could connect"})
    with pytest.raises(SandboxError, match="(?s)network: could connect.*--unsafe"):
        Sandbox(student=LIGHT).open()


def report(**changes):
    one = {"system": "Linux", "python": "3.12", "user": "root", "grading": None, "trouble": None,
           "backends": {"namespaces": {"trouble": None, "leaks": {}}, "bubblewrap": {"trouble": "no bwrap", "leaks": {}}}}
    return one | changes


def test_the_table_in_words():
    good = doctor._table(report(grading="namespaces", seconds_to_open=4.0, seconds_per_student=0.012))
    assert "Grading isolates student code: namespaces. It is ready in 4.0 s" in good
    row = next(line for line in good.splitlines() if line.startswith("network"))
    assert row.split() == ["network", "isolated", "does", "not", "run"] and "no bwrap" in good
    assert "--unsafe" not in good
    leaking = {"namespaces": {"trouble": None, "leaks": {"network": "could connect to 127.0.0.1"}}}
    bad = doctor._table(report(backends=leaking, trouble="nothing isolates student code here"))
    assert "NOT isolated" in bad and "namespaces, network: could connect to 127.0.0.1" in bad
    assert "docker run" in bad and "macOS and Windows" in bad and "--unsafe" in bad


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(doctor, "GRADING", {"student": LIGHT})


def test_the_command_says_what_grading_will_use(light, capsys):
    code = main(["doctor"])
    printed = capsys.readouterr().out
    if code:
        assert "Grading is refused here" in printed
        pytest.skip(printed)
    assert "Grading isolates student code: namespaces" in printed


def test_the_command_as_json(light, capsys, monkeypatch):
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert set(told["backends"]) == {"namespaces", "bubblewrap"}
    assert code == (0 if told["grading"] else 1)


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_it_says_container(system, monkeypatch, capsys):
    monkeypatch.setattr(sandbox.sys, "platform", system)
    if system == "win32":
        monkeypatch.delattr(os, "fork")
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert f"cannot be {'run' if system == 'win32' else 'isolated'} on {system} itself" in printed
    assert "docker run" in printed and printed.count("does not run") >= 20
    if system == "win32":
        with pytest.raises(SandboxError, match="no fork.*Dockerfile"):
            Sandbox(unsafe=True).open()
