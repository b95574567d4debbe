"""Figures: every function draws on `ax` (makes one if there is none) and returns None.

Colour means a role, the same in all lessons: see `ROLES`. The colours are those of Okabe and Ito, which
readers with colour-blindness can tell apart, and each role has a line style of its own, so colour is never
the only sign.

A figure in a notebook carries its description. JupyterLab, nbconvert, Colab and VS Code show no alternative
text for an image output, so `figure` puts the description below the picture, as text that a screen reader
reads:

    with figure("Two boxes that overlap in their lower left quarter", width=4, height=3) as ax:
        show_boxes(boxes, "truth", image=photo, ax=ax)
"""

import contextlib
import html
import io
import math
import sys
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Role:
    """How a role looks. `style` is a line style of matplotlib, `width` in points."""

    color: str
    style: object
    width: float
    marker: str


ROLES = {
    "truth": Role("#009E73", "-", 2.5, "s"),
    "prediction": Role("#D55E00", "--", 2.0, "o"),
    "anchor": Role("#56B4E9", "-", 1.0, "^"),
    "proposal": Role("#000000", (0, (3, 1, 1, 1)), 1.2, "v"),
    "positive": Role("#0072B2", "-", 1.6, "P"),
    "negative": Role("#7A7A7A", ":", 1.2, "x"),
    "ignored": Role("#CC79A7", "-.", 1.5, "d"),
    "forced": Role("#E69F00", (0, (6, 1)), 2.5, "*"),
}
"""truth: annotated. prediction: what a detector says. anchor: a region laid over the image before anything
is seen. proposal: what a first stage suggests. positive, negative, ignored: what matching made of an anchor.
forced: a positive that was an object's best anchor."""

DPI = 90  # at 6 inches a figure is 540 pixels wide: half a notebook column, some 20 to 60 kB


def role_style(role):
    """The `Role` of a name in `ROLES`; a whole number gives the n-th one, for curves that have no role.

    Raises:
        KeyError: for an unknown name; lists the known ones.
    """
    if isinstance(role, int):
        return list(ROLES.values())[role % len(ROLES)]
    if role not in ROLES:
        raise KeyError(f"no role {role!r}; roles are {', '.join(ROLES)}")
    return ROLES[role]


@contextlib.contextmanager
def figure(alt, *, width=6.0, height=4.0, rows=1, columns=1, **subplots):
    """A figure with a description that everyone can read: `with figure("what is seen") as ax:`.

    In a notebook the picture (a small PNG) and below it the description are shown when the block ends.
    Elsewhere the figure stays open, for `pyplot.show()` or `pyplot.savefig(...)`.

    Args:
        alt (str): what is seen, in a sentence; not "a plot of the loss" but what the loss does.
        width, height (float): in inches; a notebook shows 6 as half its width.
        rows, columns (int): of axes.
        **subplots: as `matplotlib.pyplot.subplots` takes them (`sharex=True`, ...).

    Yields:
        Axes: or an array of them, shape [rows, columns], less the sides of length 1.

    Raises:
        ValueError: if the description is empty.
    """
    if not alt.strip():
        raise ValueError("a figure needs a description: say in a sentence what is to be seen in it")
    import matplotlib.pyplot as plt

    canvas, axes = plt.subplots(
        rows, columns, figsize=(width, height), dpi=DPI, layout="constrained", **subplots
    )
    try:
        yield axes
    except BaseException:
        plt.close(canvas)
        raise
    keep_names_apart(canvas)
    if in_notebook():
        show_with_text(canvas, alt)


def in_notebook():
    """Whether this process is a kernel that can show pictures, that is Jupyter, Colab or VS Code."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and getattr(shell, "kernel", None) is not None


def show_with_text(canvas, alt):
    """Shows a matplotlib figure as a PNG output with its description below it, and closes it."""
    import matplotlib.pyplot as plt
    from IPython.display import display
    from PIL import Image

    drawn, picture = io.BytesIO(), io.BytesIO()
    canvas.savefig(drawn, format="png", dpi=DPI)
    plt.close(canvas)
    # 256 colours: a quarter of the size where there is noise. Maximum coverage, so that a small object keeps its
    # colour, then one round of k-means, so that a large plain surface keeps its own exactly
    method = Image.Quantize.MAXCOVERAGE
    few = Image.open(drawn).convert("RGB").quantize(256, method, kmeans=1, dither=Image.Dither.NONE)
    few.save(picture, "PNG", optimize=True)
    display(
        {"image/png": picture.getvalue(), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True
    )
    caption = f"<p><small>{html.escape(alt)}</small></p>"
    display({"text/html": caption, "text/plain": alt}, raw=True)


def axes_or_new(ax, width=5.0, height=4.0):
    """`ax`, or the axes of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), dpi=DPI, layout="constrained")[1]


def as_picture(image):
    """An image as matplotlib wants it: numpy [H, W, 3], uint8 or float in 0..1.

    Args:
        image (Tensor): [3, H, W], [1, H, W] or [H, W]; uint8 in 0..255 or float in 0..1.

    Raises:
        ValueError: for another shape, or for floats outside of 0..1.
    """
    image = torch.as_tensor(image).detach().cpu()
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        found = tuple(image.shape)
        swap = "; channels are last, use image.permute(2, 0, 1)" if found[-1:] in ((1,), (3,)) else ""
        raise ValueError(f"image of shape {found}, expected (3, height, width){swap}")
    if image.dtype.is_floating_point:
        image = image.float()
        low, high = (float(image.min()), float(image.max())) if image.numel() else (0.0, 0.0)
        if low < -0.01 or high > 1.01:
            hint = "divide by 255" if high > 2 and low >= 0 else "show the image before it is normalised"
            raise ValueError(f"values from {low:.3g} to {high:.3g}, expected floats in 0..1: {hint}")
        image = image.clamp(0, 1)
    elif image.dtype != torch.uint8:
        raise ValueError(f"image of {image.dtype}, expected uint8 in 0..255 or floats in 0..1")
    return image.expand(3, -1, -1).permute(1, 2, 0).numpy()


def show_image(image, ax=None):
    """Draws an image; one pixel is one unit, its top left corner is (0, 0), so boxes fit on it.

    Args:
        image (Tensor[3, H, W]): uint8, or float in 0..1; [1, H, W] and [H, W] are shown grey.
    """
    picture = as_picture(image)
    height, width = picture.shape[:2]
    ax = axes_or_new(ax, 5.0, min(6.0, 5.0 * height / max(width, 1)))
    # a pixel covers [x, x + 1), so the extent is the image's size: matplotlib's default is half a pixel off
    ax.imshow(
        picture, extent=(0, width, height, 0), interpolation="nearest" if width < 200 else "antialiased"
    )
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def show_boxes(
    boxes, role="truth", *, image=None, labels=None, scores=None, classes=None, thickness=1.0, ax=None
):
    """Draws boxes in their role's colour and line, with their names and scores where these are given.

    Args:
        boxes (Tensor[N, 4]): xyxy, in pixels.
        role (str): one of `ROLES`.
        image (Tensor[3, H, W]): drawn below them.
        labels (Tensor[N] or list): numbers, or names as strings; one written on each box.
        scores (Tensor[N]): written behind the label.
        classes (tuple of str): the name of label k is `classes[k - 1]`, of 0 it is "background".
        thickness (float): of the lines, as a factor of their role's.
        ax (Axes): where to draw. Without an image, new axes span the boxes, y downwards.
    """
    from matplotlib.collections import PolyCollection

    look = role_style(role)
    boxes = torch.as_tensor(boxes, dtype=torch.float32).detach().cpu().reshape(-1, 4)
    fresh = ax is None
    if image is not None:
        ax = axes_or_new(ax) if not fresh else axes_or_new(ax, 5.0, 5.0 * image.shape[-2] / image.shape[-1])
        show_image(image, ax)
    ax = axes_or_new(ax)
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).numpy()  # [N, 4, 2]
    ax.add_collection(
        PolyCollection(
            corners, facecolors="none", edgecolors=look.color, linewidths=thickness * look.width,
            linestyles=[look.style],
            path_effects=on_any_background(thickness * look.width), label=role if len(boxes) else None,
        ),
        autolim=False,
    )  # fmt: skip
    if fresh and image is None:
        frame_boxes(boxes, ax)
    # predictions are named below their box, all else above, or both names would lie on each other
    below = role == "prediction"
    bottom, top = sorted(ax.get_ylim(), reverse=True)
    edge = 0.06 * (bottom - top)  # about the height of a name: nearer to the border it goes inside of the box
    for box, text in zip(boxes.tolist(), box_texts(len(boxes), labels, scores, classes)):
        outside = box[3] < bottom - edge if below else box[1] > top + edge
        name = ax.text(
            box[0], box[3] if below else box[1], text, va="top" if below == outside else "bottom", ha="left",
            color=ink_on(look.color), fontsize=8, clip_on=True,
            bbox={"facecolor": look.color, "edgecolor": "none", "pad": 1.0},
        )  # fmt: skip
        name.box = box  # for `keep_names_apart`


def keep_names_apart(canvas):
    """Moves names of boxes that lie on names drawn before: to another corner of their box, or some lines up or down.

    Args:
        canvas (Figure): with all its axes drawn. Where no place is free, the one with the least in it is taken.
    """
    if not any(hasattr(text, "box") for ax in canvas.axes for text in ax.texts):
        return
    canvas.draw_without_rendering()  # only now sizes are known
    for ax in canvas.axes:
        taken = []
        for text in ax.texts:
            if not hasattr(text, "box"):
                continue
            place, to_pixels = text.get_bbox_patch().get_window_extent(), ax.transData
            (left, top), (right, bottom) = to_pixels.transform([text.box[:2], text.box[2:]])
            below = text.get_va() == "top"
            line, across = place.height * (-1 if below else 1), top - bottom if below else bottom - top
            ups = [0, line, -line, across - line, across, 2 * line, -2 * line, 3 * line]
            moves = [(aside, up) for up in ups for aside in (0, right - left - place.width)]
            covered = [
                sum(intersection_area(place.translated(*move), other) for other in taken)
                + 2 * (place.width * place.height - intersection_area(place.translated(*move), ax.bbox))
                for move in moves
            ]
            aside, up = moves[covered.index(min(covered))] if covered[0] > 1 else (0, 0)
            if aside or up:
                x, y = to_pixels.transform(text.get_position())
                text.set_position(to_pixels.inverted().transform((x + aside, y + up)))
            taken.append(place.translated(aside, up))


def intersection_area(one, other):
    """How much two of matplotlib's `Bbox`es share, in square pixels."""
    from matplotlib.transforms import Bbox

    both = Bbox.intersection(one, other)
    return both.width * both.height if both else 0.0


def on_any_background(width):
    """A thin white edge around a line: it is seen on dark images, and is invisible on white paper."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width + 1.2, foreground="white", alpha=0.75)]


def ink_on(color):
    """Black or white, whichever reads better on a colour."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "white"


def frame_boxes(boxes, ax):
    """Axes in pixels, y downwards, that span the boxes with some room around."""
    ax.set(xlabel="x (pixels)", ylabel="y (pixels)", aspect="equal")
    if not len(boxes):
        return ax.invert_yaxis()
    low, high = boxes[:, :2].amin(0), boxes[:, 2:].amax(0)
    room = 0.1 * float((high - low).max().clamp(min=1))
    ax.set(
        xlim=(float(low[0]) - room, float(high[0]) + room), ylim=(float(high[1]) + room, float(low[1]) - room)
    )


def box_texts(count, labels, scores, classes):
    """What is written on each box: "dog .87", "dog", ".87" or nothing at all."""
    if labels is None and scores is None:
        return []
    for given, what in ((labels, "labels"), (scores, "scores")):
        if given is not None and len(given) != count:
            raise ValueError(f"{len(given)} {what} for {count} boxes, expected one for each")
    names = [""] * count if labels is None else [label_name(label, classes) for label in labels]
    numbers = [""] * count if scores is None else [f"{float(score):.2f}" for score in scores]
    return [" ".join(filter(None, pair)) for pair in zip(names, numbers)]


def label_name(label, classes=None):
    """The name of a label: a string itself, `classes[label - 1]` where classes are known, else the number."""
    if isinstance(label, str):
        return label
    label = int(label)
    if classes is None:
        return str(label)
    if label == 0:
        return "background"
    if not 1 <= label <= len(classes):
        raise ValueError(
            f"label {label} with {len(classes)} classes, expected 1..{len(classes)} (0 is background)"
        )
    return classes[label - 1]


def show_points(points, role="positive", *, image=None, label=None, ax=None):
    """Draws points, for instance the locations of a grid's cells.

    Args:
        points (Tensor[N, 2]): (x, y) in pixels.
        role (str): one of `ROLES`.
        label (str): in the legend.
    """
    look = role_style(role)
    ax = axes_or_new(ax)
    if image is not None:
        show_image(image, ax)
    points = torch.as_tensor(points, dtype=torch.float32).detach().cpu().reshape(-1, 2)
    edge = {} if look.marker == "x" else {"edgecolors": "white", "linewidths": 0.5}
    ax.scatter(
        points[:, 0], points[:, 1], s=26, marker=look.marker, color=look.color, label=label, **edge, zorder=3
    )


def show_grid(columns, rows, image_size, *, role="anchor", image=None, ax=None):
    """Draws the lines that cut an image into equal cells.

    Args:
        columns, rows (int): how many cells across and down.
        image_size (int, int): (width, height) in pixels.
    """
    from matplotlib.collections import LineCollection

    look = role_style(role)
    ax = axes_or_new(ax)
    width, height = image_size
    if image is not None:
        show_image(image, ax)
    lines = [[(width * i / columns, 0), (width * i / columns, height)] for i in range(columns + 1)]
    lines += [[(0, height * i / rows), (width, height * i / rows)] for i in range(rows + 1)]
    ax.add_collection(
        LineCollection(
            lines, colors=look.color, linewidths=look.width, linestyles=[look.style],
            path_effects=on_any_background(look.width),
        ),
        autolim=False,
    )  # fmt: skip
    if not ax.images:
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")


def curve(x, y, role="prediction", label=None, ax=None):
    """Draws a line through points, in its role's colour, line style and marker.

    Args:
        x, y (Tensor[N] or list): the points.
        role (str or int): one of `ROLES`; a number for curves that have no role, each number another look.
        label (str): in the legend, which the first label makes.
    """
    look = role_style(role)
    ax = axes_or_new(ax, 5.0, 3.2)
    x, y = (torch.as_tensor(values).detach().cpu().tolist() for values in (x, y))
    few = max(1, math.ceil(len(x) / 12))  # a marker on each point of a long curve would hide it
    ax.plot(x, y, color=look.color, linestyle=look.style, linewidth=1.8, marker=look.marker, markersize=5,
            markevery=few, label=label)  # fmt: skip
    ax.grid(alpha=0.3)
    if label:
        ax.legend(frameon=False)


def pictures(images, targets=None, columns=4, *, predictions=None, classes=None, count=None, ax=None):
    """A contact sheet: images side by side, with their true boxes, and predictions where given.

    Args:
        images (DetectionData or Tensor[B, 3, H, W] or list of Tensor[3, H, W]): data brings its targets and
            classes.
        targets (list of dict): `boxes` and, if wanted, `labels` for each image.
        columns (int): images in a row.
        predictions (list of dict): `boxes`, and `labels` and `scores` if wanted.
        classes (tuple of str): names of labels 1..K.
        count (int): show the first ones only; data shows 8 when nothing is said.
    """
    if hasattr(images, "targets"):
        data, count = images, 8 if count is None else count
        targets = data.targets if targets is None else targets
        classes = data.classes if classes is None else classes
        images = data.images[:count]
    images = list(images)[:count]
    if not images:
        raise ValueError("no images to show: the list is empty")
    shown = [torch.from_numpy(as_picture(image)) for image in images]
    shown = [image if image.dtype == torch.uint8 else (image * 255).round().byte() for image in shown]
    gap = 4
    height, width = (max(image.shape[side] for image in shown) + gap for side in (0, 1))
    rows, columns = math.ceil(len(shown) / columns), min(columns, len(shown))
    sheet = torch.full((rows * height - gap, columns * width - gap, 3), 255, dtype=torch.uint8)
    places = [(i % columns * width, i // columns * height) for i in range(len(shown))]
    for (x, y), image in zip(places, shown):
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    if ax is None:
        ax = axes_or_new(None, 7.0, 7.0 * sheet.shape[0] / sheet.shape[1])
    show_image(sheet.permute(2, 0, 1), ax)
    ax.axis("off")
    for role, answers in (("truth", targets), ("prediction", predictions)):
        for (x, y), answer in zip(places, answers if answers is not None else []):
            boxes = torch.as_tensor(answer["boxes"]).detach().float().cpu().reshape(-1, 4)
            labels = answer.get("labels") if classes is not None else None
            moved = boxes + torch.tensor([x, y, x, y])
            show_boxes(
                moved, role, labels=labels, scores=answer.get("scores"), classes=classes, thickness=0.7, ax=ax
            )


def show_loss(history, ax=None):
    """Draws each loss of a training run over its steps: the values pale, their running mean strong.

    Args:
        history (coursekit.training.History): or anything with `steps` (list) and `losses` (dict of lists). Where
            its `expected` losses are known, their band is drawn behind each curve.
    """
    ax = axes_or_new(ax, 5.0, 3.2)
    losses = {name: values for name, values in history.losses.items() if len(values)}
    if len(losses) > 1:
        losses = {"sum": [sum(parts) for parts in zip(*losses.values())]} | losses
    band = getattr(history, "expected", None)
    band = band if band and band.fits(history) else None
    for index, (name, values) in enumerate(losses.items()):
        look = role_style(index)
        steps = list(history.steps)[-len(values) :]
        ax.plot(steps, values, color=look.color, alpha=0.25, linewidth=0.8)
        ax.plot(
            steps, running_mean(values), color=look.color, linestyle=look.style, linewidth=1.8, label=name
        )
        if band and name in band.low:
            label = "expected" if name == list(losses)[-1] else None
            ax.fill_between(band.at, band.low[name], band.high[name], color=look.color, alpha=0.15, linewidth=0, label=label)
    if losses:
        ax.legend(frameon=False)
        # the first steps are often many times higher than all that is worth seeing
        settled = sorted(v for values in losses.values() for v in values if math.isfinite(v))
        top = 1.3 * settled[int(0.95 * (len(settled) - 1))] if settled else None
        if band and top:
            top = max(top, 1.1 * band.between("sum", 0.1 * band.settings["steps"])[1])
            ax.set_xlim(0, band.settings["steps"])
        ax.set_ylim(0, top)
    ax.set(xlabel="step", ylabel="loss")
    ax.grid(alpha=0.3)


def running_mean(values, span=0.05):
    """Exponential running mean of a list, without a pull to its start; `span` is a share of its length."""
    keep = 1 - 1 / max(1.0, span * len(values))
    mean, weight, means = 0.0, 0.0, []
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(mean / weight)
    return means


class Table:
    """Rows of values that show as a table, in a notebook and as text. Made by `table`."""

    def __init__(self, rows, columns, caption="", digits=3):
        self.columns, self.caption = [str(column) for column in columns], caption
        self.rows = [[cell_text(value, digits) for value in row] for row in rows]
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} values, expected {len(self.columns)}: {self.columns}")
        values = [list(column) for column in zip(*rows)] or [[] for _ in self.columns]
        self.numeric = [all(not isinstance(value, str) for value in column) for column in values]

    def __repr__(self):
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows)]
        lines = [
            "  ".join(
                text.rjust(width) if numeric else text.ljust(width)
                for text, width, numeric in zip(row, widths, self.numeric)
            ).rstrip()
            for row in (self.columns, ["-" * width for width in widths], *self.rows)
        ]
        return "\n".join(([self.caption] if self.caption else []) + lines)

    def _repr_html_(self):
        align = ["right" if numeric else "left" for numeric in self.numeric]

        def cells(row, tag):
            return "".join(
                f'<{tag} style="text-align: {side}">{html.escape(text)}</{tag}>'
                for text, side in zip(row, align)
            )

        head = f"<thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}{head}<tbody>{body}</tbody></table>"


def table(rows, columns, caption="", digits=3):
    """A table to leave as a cell's last line: HTML in a notebook, aligned text elsewhere.

    Args:
        rows (list of lists): text and numbers; tensors with one value are numbers; None and NaN show as "–".
        columns (list of str): the headings.
        caption (str): above the table.
        digits (int): behind the point, for floats.

    Returns:
        Table: with a text that depends on nothing but the values.

    Raises:
        ValueError: if a row is longer or shorter than the headings.
    """
    return Table([list(row) for row in rows], columns, caption, digits)


def cell_text(value, digits=3):
    """A value of a table as text."""
    if isinstance(value, torch.Tensor):
        value = value.item()
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return str(value)
