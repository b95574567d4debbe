"""Marks by hand in nbgrader's formgrader, as the instructors' page says: a person types points and a comment, grading again keeps them."""

import os
import shutil
import subprocess
import sys
import time
import urllib.request

import pytest

from autograder.lessons import ROOT
from tests.grading.conftest import LESSON, Shared, changed, grade_class, make_class
from tests.grading.test_gradebook import WRONG, open_gradebook

from .test_lab import browser, free_port, picture, wait  # noqa: F401 (a fixture)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def sandbox():
    shared = Shared()
    assert shared.isolation  # skips where there is none
    yield shared
    shared.sandbox.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory, sandbox):
    """A checkout with one small lesson and two graded hand-ins."""
    root = tmp_path_factory.mktemp("formgrader")
    (root / "solutions/01_small").mkdir(parents=True)
    (root / "solutions/01_small/small.py").write_text(LESSON.lstrip(), encoding="utf-8")
    (root / "autograder").mkdir()
    shutil.copy(ROOT / "autograder/nbgrader_config.py", root / "autograder")
    small = make_class.Lesson(root / "solutions/01_small/small.py")
    grade_class(root, root, {"ada": changed(small), "bob": changed(small, box_iou=WRONG)}, run=sandbox)
    return root


@pytest.fixture(scope="module")
def server(root):
    """JupyterLab, started as the page on marks by hand says, and its address."""
    [command] = [line for line in (ROOT / "autograder/docs/marks.md").read_text().splitlines() if line.startswith("jupyter lab")]
    port, base = free_port(), root / ".jupyter"
    log = open(root / "lab.log", "w")
    more = ["--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root", "--IdentityProvider.token=secret"]
    process = subprocess.Popen(
        [sys.executable, "-m", *command.split(), *more], cwd=root / "autograder", stdout=log, stderr=log,
        env={**os.environ, **{f"JUPYTER_{name}_DIR": str(base / name) for name in ("CONFIG", "DATA")}, "IPYTHONDIR": str(base)},
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api?token=secret", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    else:
        process.kill()
        pytest.fail((root / "lab.log").read_text()[-2000:])
    yield address
    process.terminate()
    process.wait(20)


def type_into(browser, selector, text):  # noqa: F811
    from selenium.webdriver.common.by import By

    field = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.clear()
    field.send_keys(text + "\t")


def test_mark_and_comment_given_in_formgrader_stay_when_graded_again(root, server, browser, sandbox):  # noqa: F811
    browser.get(f"{server}/lab?token=secret")  # signs in
    browser.get(f"{server}/formgrader/gradebook/01_small/small")
    wait(browser, "document.body.innerText.includes('Submission #2')")
    picture(browser, "formgrader_list")
    with open_gradebook(root) as gradebook:
        key = gradebook.find_submission_notebook("small", "01_small", "bob").id
    browser.get(f"{server}/formgrader/submissions/{key}/")
    wait(browser, "window.formgrader.grades.loaded && window.formgrader.comments.loaded")
    type_into(browser, "#why", "3")
    type_into(browser, "#why-comment", "Say it with an example.")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open_gradebook(root) as gradebook:
            mark = gradebook.find_grade("why", "small", "01_small", "bob").manual_score
            comment = gradebook.find_comment("why", "small", "01_small", "bob").manual_comment
        if (mark, comment) == (3, "Say it with an example."):
            break
        time.sleep(0.5)
    picture(browser, "formgrader_marked")
    assert (mark, comment) == (3, "Say it with an example.")

    small = make_class.Lesson(root / "solutions/01_small/small.py")
    again = grade_class(root, root, {"bob": changed(small)}, run=sandbox)  # handed in again, right this time
    row = again.marks("bob")
    assert (row["why"], row["score"], row["waiting"], row["status"]) == ("3", "9", "0", "marked")
    assert "Say it with an example." in again.page("bob")
    assert again.marks("ada")["waiting"] == "4"  # points of a written answer
