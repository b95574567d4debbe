"""coursekit.plot: draws what it is given where it is told; looks differ by more than colour."""

import sys
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from coursekit import plot

BOXES = torch.tensor([[10.0, 20.0, 40.0, 30.0], [50.0, 5.0, 60.0, 45.0]])
IMAGE = torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def ax():
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def drawn_boxes(ax):
    """The boxes in the last collection of the axes, as xyxy."""
    paths = ax.collections[-1].get_paths()
    return torch.tensor(np.stack([[*path.vertices.min(0), *path.vertices.max(0)] for path in paths])).float()


def luminance(color):
    return torch.tensor(matplotlib.colors.to_rgb(color)) @ torch.tensor([0.299, 0.587, 0.114])


def test_no_two_roles_share_a_line_style_or_a_colour():
    looks = list(plot.ROLES.values())
    assert len({look.color for look in looks}) == len(looks)
    assert len({(str(look.style), look.width) for look in looks}) == len(looks)
    assert len({look.marker for look in looks}) == len(looks)


@pytest.mark.parametrize("role", plot.ROLES)
def test_boxes_are_drawn_at_their_pixels_in_their_roles_look(role, ax):
    assert plot.show_boxes(BOXES, role, ax=ax) is None
    torch.testing.assert_close(drawn_boxes(ax), BOXES)
    edge = matplotlib.colors.to_hex(ax.collections[-1].get_edgecolor()[0])
    assert edge == plot.ROLES[role].color.lower()


def test_an_image_covers_its_own_pixels_so_boxes_fit_on_it(ax):
    plot.show_image(IMAGE, ax)
    assert ax.images[0].get_extent() == [0, 64, 48, 0]
    assert ax.get_xlim() == (0, 64) and ax.get_ylim() == (48, 0)


def test_uint8_and_float_images_look_the_same(ax):
    bytes_ = (IMAGE * 255).round().byte()
    plot.show_image(bytes_, ax)
    plot.show_image(bytes_ / 255, ax)
    first, second = (np.asarray(image.get_array(), dtype=np.float32) for image in ax.images)
    np.testing.assert_allclose(first / 255, second, atol=1e-6)


@pytest.mark.parametrize(
    "image, message",
    [
        (torch.rand(48, 64, 3), r"permute\(2, 0, 1\)"),
        (torch.rand(2, 3, 4, 4), r"shape \(2, 3, 4, 4\), expected \(3"),
        (torch.rand(3, 4, 4) * 255, "divide by 255"),
        (torch.randn(3, 40, 40), "before it is normalised"),
        (torch.ones(3, 4, 4, dtype=torch.int64), "expected uint8"),
    ],
    ids=["channels last", "batch", "0..255 floats", "normalised", "integers"],
)
def test_an_image_of_another_kind_is_refused_with_what_to_do(image, message, ax):
    with pytest.raises(ValueError, match=message):
        plot.show_image(image, ax)


def test_names_and_scores_are_written_on_the_boxes(ax):
    plot.show_boxes(
        BOXES, "prediction", labels=torch.tensor([2, 0]), scores=[0.875, 0.5], classes=("cat", "dog"), ax=ax
    )
    assert [text.get_text() for text in ax.texts] == ["dog 0.88", "background 0.50"]


def test_names_of_boxes_in_the_same_place_do_not_lie_on_each_other():
    again = BOXES[[0, 0, 0, 1]]
    with plot.figure("four boxes", width=7, height=5) as ax:
        plot.show_boxes(again, "truth", image=IMAGE, labels=["triangle"] * 4, ax=ax)
        plot.show_boxes(again, "prediction", labels=["square"] * 4, ax=ax)
    ax.figure.canvas.draw()
    places = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
    pairs = [(one, other) for i, one in enumerate(places) for other in places[:i]]
    assert all(plot.intersection_area(*pair) < 2 for pair in pairs)
    assert all(plot.intersection_area(place, ax.bbox) > 0.99 * place.width * place.height for place in places)
    assert tuple(ax.texts[0].get_position()) == (10, 20)  # the first has its place, and so has one that lies alone
    assert tuple(ax.texts[3].get_position()) == (50, 5)
    plt.close("all")


def test_a_grid_over_an_image_leaves_its_axes_without_labels(ax):
    plot.show_image(IMAGE, ax)
    plot.show_grid(4, 3, (64, 48), ax=ax)
    assert ax.get_xlabel() == "" and ax.get_xlim() == (0, 64)


def test_a_label_beyond_the_classes_names_the_range(ax):
    with pytest.raises(ValueError, match=r"label 3 with 2 classes, expected 1\.\.2"):
        plot.show_boxes(BOXES, labels=[1, 3], classes=("cat", "dog"), ax=ax)


def test_labels_for_another_number_of_boxes_are_refused(ax):
    with pytest.raises(ValueError, match="3 labels for 2 boxes"):
        plot.show_boxes(BOXES, labels=["a", "b", "c"], ax=ax)


def test_an_unknown_role_lists_the_known_ones(ax):
    with pytest.raises(KeyError, match="no role 'guess'; roles are truth, prediction"):
        plot.show_boxes(BOXES, "guess", ax=ax)


def test_no_boxes_draw_nothing(ax):
    plot.show_boxes(torch.zeros(0, 4), "truth", labels=[], scores=torch.zeros(0), image=IMAGE, ax=ax)
    assert not ax.collections[-1].get_paths() and not ax.texts


def test_new_axes_span_the_boxes_with_y_downwards():
    plot.show_boxes(BOXES)
    (left, right), (bottom, top) = plt.gca().get_xlim(), plt.gca().get_ylim()
    plt.close("all")
    assert left < 10 and right > 60 and top < 5 and bottom > 45


def test_a_grid_has_a_line_on_each_side_of_each_cell(ax):
    plot.show_grid(4, 3, (64, 48), ax=ax)
    segments = {tuple(map(tuple, line.vertices.tolist())) for line in ax.collections[-1].get_paths()}
    assert len(segments) == 5 + 4
    assert ((16, 0), (16, 48)) in segments and ((0, 32), (64, 32)) in segments


def test_a_contact_sheet_moves_the_boxes_with_their_images(ax):
    targets = [{"boxes": BOXES}, {"boxes": torch.zeros(0, 4)}, {"boxes": BOXES[:1]}]
    assert plot.pictures([IMAGE] * 3, targets, 2, ax=ax) is None
    # each image takes 64 x 48 pixels and 4 of gap; the third starts the second row
    torch.testing.assert_close(drawn_boxes(ax), BOXES[:1] + torch.tensor([0.0, 52.0, 0.0, 52.0]))
    assert ax.images[0].get_array().shape == (2 * 48 + 4, 2 * 64 + 4, 3)


def test_a_contact_sheet_of_data_shows_its_targets_and_names(ax):
    targets = [{"boxes": BOXES, "labels": torch.tensor([1, 2])}] * 3
    data = SimpleNamespace(images=torch.stack([IMAGE] * 3), targets=targets, classes=("cat", "dog"))
    plot.pictures(data, count=2, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["cat", "dog"] * 2


def test_curves_with_labels_get_a_legend(ax):
    assert plot.curve(torch.arange(3), torch.tensor([1.0, 4.0, 9.0]), "truth", "squares", ax) is None
    plot.curve([0, 1], [0, 1], 3, ax=ax)
    assert ax.lines[0].get_ydata().tolist() == [1, 4, 9]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["squares"]


def test_a_loss_figure_shows_each_loss_and_their_sum(ax):
    history = SimpleNamespace(steps=[1, 2, 3], losses={"class": [3.0, 2.0, 1.0], "box": [1.0, 1.0, 1.0]})
    plot.show_loss(history, ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sum", "class", "box"]
    assert list(ax.lines[0].get_ydata()) == [4, 3, 2]


def test_a_loss_figure_of_a_run_that_did_nothing_is_empty(ax):
    plot.show_loss(SimpleNamespace(steps=[], losses={}), ax)
    assert not ax.lines


def test_a_running_mean_starts_at_the_first_value_and_follows():
    means = plot.running_mean([4.0] * 50 + [0.0] * 50)
    assert means[0] == 4 and means[49] == pytest.approx(4) and means[-1] < 0.1


def test_a_table_reads_as_text_and_as_html():
    shown = plot.table(
        [["SSD", torch.tensor(0.3934), 2], ["a<b", float("nan"), None]], ["detector", "AP", "n"], "scenes"
    )
    assert repr(shown) == (
        "scenes\n"
        "detector     AP  n\n"
        "--------  -----  -\n"
        "SSD       0.393  2\n"
        "a<b           –  –"
    )  # fmt: skip
    assert "a&lt;b" in shown._repr_html_() and "<caption>scenes</caption>" in shown._repr_html_()


def test_a_table_with_a_short_row_is_refused():
    with pytest.raises(ValueError, match="a row of 1 values, expected 2"):
        plot.table([["SSD"]], ["detector", "AP"])


def test_a_figure_in_a_notebook_is_a_small_png_with_its_description_as_text(monkeypatch):
    pytest.importorskip("IPython", reason="no notebook runs without it")
    outputs = []
    import IPython.display

    monkeypatch.setattr(plot, "in_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", lambda data, **_: outputs.append(data))
    with plot.figure("one box around the <dog>", width=3, height=2) as ax:
        plot.show_boxes(BOXES, image=IMAGE, ax=ax)
    picture, caption = outputs
    assert picture["image/png"].startswith(b"\x89PNG") and len(picture["image/png"]) < 60_000
    assert picture["text/plain"] == caption["text/plain"] == "one box around the <dog>"
    assert caption["text/html"] == "<p><small>one box around the &lt;dog&gt;</small></p>"
    assert not plt.get_fignums(), "the figure must be closed, or the notebook shows it twice"


def test_a_figure_outside_of_a_notebook_stays_open_for_saving():
    with plot.figure("two axes", columns=2) as axes:
        assert len(axes) == 2
    assert plt.get_fignums()
    plt.close("all")


def test_a_figure_without_description_is_refused():
    with pytest.raises(ValueError, match="description"), plot.figure(" "):
        pass


def test_a_figure_whose_drawing_fails_is_closed():
    with pytest.raises(ZeroDivisionError), plot.figure("nothing"):
        1 / 0
    assert not plt.get_fignums()


def test_names_on_a_box_can_be_read_on_their_colour():
    for look in plot.ROLES.values():
        assert abs(luminance(look.color) - luminance(plot.ink_on(look.color))) > 0.35, look


def test_a_test_process_is_no_notebook(monkeypatch):
    assert not plot.in_notebook()
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not plot.in_notebook()
