"""All explorers and the annotator in one notebook in JupyterLab, moved by pointer and keys in a headless Chromium."""

import json
import re
import time
import urllib.request

import pytest

from autograder.lessons import ROOT
from coursekit.data import coco, via
from tests.browser.test_lab import Notebook, browser, lab, picture, wait  # noqa: F401
from tests.coursekit.widget_show import SHOWS

pytestmark = pytest.mark.browser

SETUP = f"""
import os, sys
os.environ.pop("PYTEST_VERSION", None)  # or the kernel would take itself for a test, in which nobody watches
sys.path.insert(0, {str(ROOT)!r})
from coursekit.widgets import Annotator
from tests.coursekit.widget_show import SHOWS
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    for name, size, color in (("a.png", (320, 200), "#d9c8a0"), ("b.jpg", (120, 260), "#a0c0d9")):
        Image.new("RGB", size, color).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def page(lab, browser, photos):  # noqa: F811
    """The notebook, every cell run; `page.show(name)` scrolls to a cell and gives its element."""
    pytest.importorskip("anywidget")
    sources = {"setup": SETUP} | {name: f"SHOWS[{name!r}]()" for name in SHOWS}
    sources["annotator"] = f"Annotator({str(photos)!r}, ('cup', 'plate'))"
    cells = [
        {
            "cell_type": "code",
            "id": name,
            "metadata": {},
            "outputs": [],
            "execution_count": None,
            "source": text,
        }
        for name, text in sources.items()
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    content = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    urllib.request.urlopen(urllib.request.Request(
        f"{lab}/api/contents/widgets.ipynb?token=secret", method="PUT", headers={"Content-Type": "application/json"},
        data=json.dumps({"type": "notebook", "format": "json", "content": content}).encode(),
    ))  # fmt: skip
    browser.get(f"{lab}/lab/tree/widgets.ipynb?token=secret&reset")
    current = "window.jupyterapp && window.jupyterapp.shell.currentWidget"
    wait(browser, f"{current} && {current}.content?.model?.cells?.length > 5")
    wait(browser, f"{current}.sessionContext.session?.kernel?.status === 'idle'")
    browser.execute_async_script(
        "const done = arguments[0]; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => done())"
    )
    wait(browser, f"{current}.content.widgets.every(w => w.model.executionCount)")
    return Page(browser)


class Page(Notebook):
    def show(self, name):
        index = self.index(name)
        self.browser.execute_script(
            "const c = window.jupyterapp.shell.currentWidget.content; c.activeCellIndex = arguments[0];"
            " c.scrollToItem(arguments[0], 'start')", index,
        )  # fmt: skip
        root = "window.jupyterapp.shell.currentWidget.content.widgets[%d].outputArea.node" % index
        wait(self.browser, f"{root}.querySelector('.coursekit-readout')?.textContent", 30)
        return self.browser.execute_script(f"return {root}")

    def text(self, cell):
        return cell.find_element("css selector", ".coursekit-readout").text

    def changed(self, cell, before, seconds=15):
        """The read-out once it is another than before."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            text = self.text(cell)
            if text != before:
                return text
            time.sleep(0.05)
        picture(self.browser, "unchanged")
        pytest.fail(f"the read-out stays {before!r}")

    def shoot(self, name):
        """A screenshot, once the kernel rests."""
        kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
        wait(self.browser, f"{kernel}.status === 'idle'", 30)
        picture(self.browser, name)

    def actions(self):
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser, duration=20)

    def press(self, element, *keys):
        from selenium.webdriver.common.keys import Keys

        self.browser.execute_script("arguments[0].focus()", element)
        actions = self.actions()
        for key in keys:
            shift = key.startswith("SHIFT ")
            name = getattr(Keys, key.removeprefix("SHIFT "))
            actions = (
                actions.key_down(Keys.SHIFT).send_keys(name).key_up(Keys.SHIFT)
                if shift
                else actions.send_keys(name)
            )
        actions.perform()

    def slider(self, cell, number=0):
        return cell.find_elements("css selector", "[role=slider]")[number]

    def button(self, cell, text):
        return next(b for b in cell.find_elements("css selector", "button") if text in b.text)

    def boxes(self, cell):
        return cell.find_elements("css selector", ".coursekit-board g")


def test_boxes_are_dragged_and_moved_by_keys(page):
    cell = page.show("iou")
    before = page.text(cell)
    assert "IoU 0.171" in before
    page.press(page.boxes(cell)[1], "ARROW_LEFT", "ARROW_LEFT", "SHIFT ARROW_DOWN")
    wait(
        page.browser,
        "document.activeElement.getAttribute('aria-label')?.startsWith('Box B: x 58 to 138, y 50 to 111')",
    )
    after = page.changed(cell, before)
    index = page.browser.execute_script(
        "return window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    )
    assert index == page.index("iou"), "the arrow keys went to JupyterLab"

    corner = page.boxes(cell)[0].find_elements("css selector", "circle")[2]
    page.actions().click_and_hold(corner).move_by_offset(-30, -20).release().perform()
    label = page.boxes(cell)[0].get_attribute("aria-label")
    assert re.match(r"Box A: x 20 to (8\d|9\d), y 25 to 7\d", label)
    page.changed(cell, after)
    ground = cell.find_element("css selector", ".coursekit-board svg")
    page.actions().move_to_element_with_offset(ground, -130, -70).click_and_hold().move_by_offset(
        -500, 0
    ).release().perform()
    page.shoot("iou")
    assert page.boxes(cell)[0].get_attribute("aria-label").startswith("Box A: x 0 to "), (
        "boxes stay within the picture"
    )


@pytest.mark.parametrize(
    "name, keys, expected",
    [
        ("nms", ["ARROW_RIGHT"], "Pick 2 of 4: box 3"),
        ("average_precision", ["ARROW_LEFT"], "3 of 4 detections, the last with score 0.70 is right"),
        ("matching", ["ARROW_LEFT", "ARROW_LEFT"], "IoU above 0.40"),
        ("matching_rpn", ["ARROW_LEFT"], "IoU 0.30 to 0.65"),
        ("focal_loss", ["ARROW_LEFT"] * 2, "γ = 1.5"),
        ("level", ["ARROW_RIGHT"], "level P5"),
        ("anchors", ["ARROW_RIGHT"], "Level 5 of 6: 3 × 2 cells"),
        ("proposals", ["ARROW_RIGHT"], "The 300 anchors"),
        ("fsaf", ["ARROW_RIGHT"], "regions of 0.25 and 0.50"),
    ],
)  # fmt: skip
def test_a_slider_moves_by_keys(page, name, keys, expected):
    cell = page.show(name)
    before = page.text(cell)
    page.press(page.slider(cell), *keys)
    after = page.changed(cell, before)
    end = time.monotonic() + 15
    while expected not in after and time.monotonic() < end:
        time.sleep(0.1)
        after = page.text(cell)
    assert expected in after
    page.shoot(name)
    image = cell.find_element("css selector", ".coursekit-board img")
    assert image.get_attribute("naturalWidth") != "0" and image.get_attribute("alt")


def test_a_screen_reader_is_told_what_each_control_and_box_is(page):
    cell = page.show("matching_rpn")
    names = [
        slider.get_attribute("aria-label") for slider in cell.find_elements("css selector", "[role=slider]")
    ]
    assert names == ["positive from IoU", "background below IoU"]
    assert cell.find_element("css selector", "[role=status][aria-live=polite]").text.startswith(
        "Of 3072 anchors"
    )
    assert [box.get_attribute("aria-label")[:6] for box in page.boxes(cell)] == ["Box A:", "Box B:", "Box C:"]


def test_a_narrow_window_shrinks_the_picture_and_boxes_still_follow_the_pointer(page):
    cell = page.show("iou")
    page.browser.execute_script("arguments[0].style.width = '300px'", cell)
    before, box = page.text(cell), page.boxes(cell)[1]
    corner = box.find_elements("css selector", "circle")[2]
    start = corner.rect["x"]
    page.actions().click_and_hold(corner).move_by_offset(-25, 0).release().perform()
    page.changed(cell, before)
    assert abs(corner.rect["x"] - (start - 25)) < 3
    page.browser.execute_script("arguments[0].style.width = ''", cell)


def test_buttons_step_and_choose(page):
    cell = page.show("nms")
    before = page.text(cell)
    page.button(cell, "Soft-NMS").click()
    before = page.changed(cell, before)
    assert "lowers" in before
    page.button(cell, "next").click()
    assert "Pick 3 of" in page.changed(cell, before)
    page.shoot("soft_nms")


@pytest.mark.parametrize("name", ["roi", "fcos", "fsaf", "level", "matching"])
def test_a_box_moves_by_keys(page, name):
    cell = page.show(name)
    before = page.text(cell)
    page.press(page.boxes(cell)[0], *["SHIFT ARROW_RIGHT"] * 6)
    page.changed(cell, before)
    page.shoot(f"{name}_moved")


def test_annotator_draws_names_saves_and_loads(page, photos):
    cell = page.show("annotator")
    before = page.text(cell)
    assert "0 boxes" in before
    ground = cell.find_element("css selector", ".coursekit-board svg")
    page.actions().move_to_element_with_offset(ground, -200, -120).click_and_hold().move_by_offset(
        180, 140
    ).release().perform()
    before = page.changed(cell, before)
    assert "1 box: 1: cup" in before
    page.button(cell, "plate").click()
    before = page.changed(cell, before)
    assert "1: plate" in before
    page.button(cell, "image ▶").click()
    before = page.changed(cell, before)
    assert "b.jpg, image 2 of 2" in before
    page.button(cell, "add a box").click()
    before = page.changed(cell, before)
    page.press(page.boxes(cell)[0], "ARROW_LEFT")
    before = page.changed(cell, before)
    assert "1: plate (39, 87, 79, 173)" in before
    page.button(cell, "add a box").click()
    before = page.changed(cell, before)
    page.press(page.boxes(cell)[1], "DELETE")
    before = page.changed(cell, before)
    page.shoot("annotator")
    page.button(cell, "save").click()
    assert page.changed(cell, before).endswith("Saved.")
    for records in (via.read(photos / "via_project.json"), coco.read(photos / "annotations.json")):
        assert [record.names for record in records] == [["plate"], ["plate"]]
        assert records[1].boxes.tolist() == [[39, 87, 79, 173]]
    shown = page.run("annotator")
    assert "a.png, image 1 of 2" in shown and "1: plate" in shown
