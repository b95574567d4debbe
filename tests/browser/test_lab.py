"""Lesson 01 in JupyterLab in a headless Chromium: a check's message for a wrong answer, its success for a right one."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from autograder.lessons import ROOT, all_exercises
from autograder.mistakes import MISTAKES
from coursekit.checkin import check_in

pytestmark = pytest.mark.browser

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
DRIVER = shutil.which("chromedriver")
LESSON = "01_boxes/boxes.ipynb"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves a copy of course/."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "course", folder / "course")
    port = free_port()
    log = open(folder / "lab.log", "w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root",
         "--IdentityProvider.token=secret", "--LabApp.expose_app_in_browser=True",
         f"--notebook-dir={folder / 'course'}"],
        stdout=log, stderr=log,
        env={**os.environ, "JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_DATA_DIR": str(folder), "IPYTHONDIR": str(folder)},
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api?token=secret", timeout=2)
            break
        except OSError:
            time.sleep(0.5)
    else:
        server.kill()
        pytest.fail((folder / "lab.log").read_text()[-2000:])
    yield address
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1300,1000",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # no page waits for another machine
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    driver.set_script_timeout(180)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def notebook(lab, browser):
    """Lesson 01, open with its kernel ready; gives `set_source(cell id, text)` and `run(cell id) -> text shown below it`."""
    browser.get(f"{lab}/lab/tree/{LESSON}?token=secret&reset")
    wait(browser, "window.jupyterapp && window.jupyterapp.shell.currentWidget"
                  " && window.jupyterapp.shell.currentWidget.content && window.jupyterapp.shell.currentWidget.content.model"
                  " && window.jupyterapp.shell.currentWidget.content.model.cells.length > 5")
    wait(browser, "(() => { const k = window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel;"
                  " return k && k.status === 'idle'; })()")
    return Notebook(browser)


def wait(browser, condition, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if browser.execute_script(f"return Boolean({condition})"):
                return
        except Exception:
            pass  # the page is still being built
        time.sleep(0.3)
    picture(browser, "timeout")
    pytest.fail(f"after {seconds} s still not: {condition}")


def picture(browser, name):
    folder = os.environ.get("COURSEKIT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


class Notebook:
    def __init__(self, browser):
        self.browser = browser

    def index(self, cell_id):
        found = self.browser.execute_script(
            "return window.jupyterapp.shell.currentWidget.content.widgets.findIndex(w => w.model.id === arguments[0])", cell_id
        )
        assert found >= 0, f"no cell {cell_id} in the page"
        return found

    def set_source(self, cell_id, text):
        self.browser.execute_script(
            "window.jupyterapp.shell.currentWidget.content.widgets[arguments[0]].model.sharedModel.setSource(arguments[1])",
            self.index(cell_id), text,
        )

    def run(self, cell_id, name=None):
        script = """
        const [index, done] = arguments, app = window.jupyterapp, content = app.shell.currentWidget.content;
        content.activeCellIndex = index;
        content.deselectAll();
        app.commands.execute('notebook:run-cell').then(() => {
            content.scrollToItem(index, 'center');
            setTimeout(() => done(content.widgets[index].outputArea.node.innerText), 500);
        });
        """
        text = self.browser.execute_async_script(script, self.index(cell_id))
        if name:
            picture(self.browser, name)
        return text


def test_students_first_lesson(notebook):
    reference = all_exercises()["box_iou"].reference
    area = all_exercises()["box_area"].reference
    notebook.run("setup")
    notebook.set_source("box_area", area)
    notebook.run("box_area")

    shown = notebook.run("test_box_iou", "untouched")
    assert "NotImplementedError" in shown or "NameError" in shown

    mistake = next(mistake for mistake in MISTAKES["box_iou"] if mistake.name == "no clamp")
    notebook.set_source("box_iou", mistake.apply(reference))
    notebook.run("box_iou")
    shown = notebook.run("test_box_iou__edges", "wrong")
    assert "Not yet:" in shown and "expected" in shown and mistake.message in shown
    assert "Traceback" not in shown

    notebook.set_source("box_iou", reference)
    notebook.run("box_iou")
    shown = notebook.run("test_box_iou__edges", "right")
    assert re.fullmatch(r"box_iou: (1 check|all \d+ checks) passed", shown.strip())


def test_every_cell_of_the_first_lesson_runs_with_right_answers(notebook):
    for name, exercise in all_exercises().items():
        if exercise.lesson == "01_boxes":
            notebook.set_source(name, exercise.reference)
    script = """
    const done = arguments[0], app = window.jupyterapp;
    app.commands.execute('notebook:run-all-cells').then(() => {
        const content = app.shell.currentWidget.content;
        const bad = [];
        for (const cell of content.widgets) {
            for (const output of (cell.model.type === 'code' ? cell.model.outputs.toJSON() : []))
                if (output.output_type === 'error') bad.push([cell.model.id, output.ename, output.evalue]);
        }
        done(JSON.stringify(bad));
    });
    """
    assert json.loads(notebook.browser.execute_async_script(script)) == []
    for number, share in enumerate((0, 0.1, 0.25, 0.5, 0.75, 0.98)):
        notebook.browser.execute_script(
            "const c = window.jupyterapp.shell.currentWidget.content; c.scrollToItem(Math.floor(arguments[0] * (c.widgets.length - 1)))",
            share,
        )
        time.sleep(0.5)
        picture(notebook.browser, f"page{number}")


def test_what_jupyterlab_does_to_cells_is_repaired_by_check_in(notebook, lab, tmp_path):
    """A duplicated and a split cell have a second copy of their metadata: stock nbgrader would grade neither hand-in."""
    for name, exercise in all_exercises().items():
        if exercise.lesson == "01_boxes":
            notebook.set_source(name, exercise.reference)
    script = """
    const [answer, check, question, done] = arguments, app = window.jupyterapp;
    const content = app.shell.currentWidget.content, run = name => app.commands.execute('notebook:' + name);
    const select = index => { content.deselectAll(); content.activeCellIndex = index; };
    (async () => {
        select(question);
        content.activeCell.model.sharedModel.setSource('First half.\\n\\nSecond half.');
        await content.scrollToItem(question, 'center');
        await content.activeCell.ready;
        content.activeCell.rendered = false;
        await run('enter-edit-mode');
        content.activeCell.editor.setCursorPosition({line: 2, column: 0});
        await run('split-cell-at-cursor');
        for (const index of [check, answer]) { select(index); await run('duplicate-below'); }
        await app.shell.currentWidget.context.save();
        done('');
    })().catch(error => done(String(error)));
    """
    places = [notebook.index(name) for name in ("box_area", "test_box_iou", "when_to_flip")]
    assert notebook.browser.execute_async_script(script, *places) == ""
    picture(notebook.browser, "pasted")
    with urllib.request.urlopen(f"{lab}/api/contents/{LESSON}?token=secret&content=1") as answer:
        saved = json.loads(answer.read())["content"]
    path = tmp_path / "boxes.ipynb"
    path.write_text(json.dumps(saved), "utf-8")
    report = check_in(path)
    told = "\n".join(map(str, report.findings))
    assert report.wrong == 1 and "more than once in it: 3 cells, " in told, told
    path.write_text(report.repaired, "utf-8")
    again = check_in(path)
    assert (again.wrong, again.repaired) == (0, None), again.findings
    assert "First half." in report.repaired and "Second half." in report.repaired
