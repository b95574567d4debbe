"""What all explorers share: their state in one place, picture and read-out from one function.

- Where someone watches (JupyterLab, Colab, VS Code): controls of ipywidgets above a board (anywidget), on
  which boxes are dragged by pointer or keys. The board carries the picture, its description and the read-out,
  as live text. Behind it lies the static figure, which viewers that run no widgets (GitHub, nbconvert) show
  from the saved notebook.
- Where a program runs the notebook (nbval, nbclient, `COURSEKIT_QUIET=1`), or anywidget is missing: the
  static figure, with description and read-out as text below it. It is the same at each run where the
  student's functions are.
- In a test: `explorer.set(threshold=0.3)`, then `explorer.text`. No browser, no ipywidgets.
"""

import functools
import importlib.util
import io
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from coursekit import plot
from coursekit.progress import audience

DASHES = {
    "-": None,
    "--": (3.7, 1.6),
    ":": (1, 1.65),
    "-.": (6.4, 1.6, 1, 1.6),
}  # as matplotlib's, in line widths


@dataclass(frozen=True)
class Slide:
    """A slider from `low` to `high`; whole numbers where `step` is one. With `buttons`, one step back or on
    each."""

    value: float
    low: float
    high: float
    step: float
    label: str
    buttons: bool = False

    def check(self, name, value):
        if not self.low <= value <= self.high:
            raise ValueError(f"{name}={value}, expected {self.low} to {self.high}")
        return value


@dataclass(frozen=True)
class Choose:
    """One of some options, side by side; on a slider where `slide` is true."""

    value: object
    options: tuple
    label: str
    slide: bool = False

    def check(self, name, value):
        if value not in self.options:
            raise ValueError(f"{name}={value!r}, expected one of {', '.join(map(repr, self.options))}")
        return value


@dataclass
class Handle:
    """A box that can be dragged: where it is (xyxy, in units of the axes), its name, and its role in
    `plot.ROLES`."""

    box: tuple
    name: str
    role: str


class Explorer:
    """Values that a student changes, and what they make of a picture and its read-out.

    A notebook shows it as a cell's last line; `show()` does so anywhere else.

    Args:
        look: `look(values) -> (text, draw)`: from a dict of all values (`boxes` [M, 4] is that of the
            handles) the read-out, and a function that draws on the axes. Handles are drawn by the explorer.
        controls (dict[str, Slide or Choose]): by the name of their value.
        handles (list of Handle): boxes to drag; on the first axes, where there are several.
        alt (str): what is to be seen, in a sentence.
        limits (number, number): boxes stay within (0, 0) and these, in units of the axes.
        step (number): boxes move in multiples of this.
        size (float, float): of the figure, in inches.
        columns (int): of axes.
    """

    def __init__(
        self,
        look,
        controls=None,
        handles=(),
        *,
        alt,
        limits=(1, 1),
        step=1,
        size=(6.0, 4.2),
        columns=1,
        ratios=None,
    ):
        self.look, self.controls, self.handles = look, dict(controls or {}), list(handles)
        self.alt, self.limits, self.step, self.size, self.columns = alt, tuple(limits), step, size, columns
        self.ratios = ratios
        self.values = {name: control.value for name, control in self.controls.items()}
        self.values["boxes"] = torch.tensor([h.box for h in self.handles], dtype=torch.float32).reshape(-1, 4)
        self.text, self.draw = look(dict(self.values))

    def set(self, **values):
        """Changes values, `boxes` among them, and reads the picture anew.

        Raises:
            KeyError: for an unknown name.
            ValueError: for a value that its control cannot take, or boxes of another number or without area.
        """
        for name, value in values.items():
            if name == "boxes":
                value = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 4)
                if len(value) != len(self.handles):
                    raise ValueError(f"{len(value)} boxes, expected {len(self.handles)}, one for each handle")
                if not (value[:, 2:] > value[:, :2]).all():
                    raise ValueError(f"boxes {value.tolist()}, expected x1 < x2 and y1 < y2 in each")
            elif name in self.controls:
                value = self.controls[name].check(name, value)
            else:
                raise KeyError(f"no value {name!r}; there are {', '.join(self.values)}")
            self.values[name] = value
        self.text, self.draw = self.look(dict(self.values))

    def show(self):
        """Shows controls and board where someone watches, else the static figure. Returns None."""
        if can_move():
            panel = self.panel()
            still = self.picture(with_handles=True)[0] if self.handles else panel.children[-1].picture
            show_panel(panel, still, self.alt, self.text)
        else:
            self.show_static()

    _ipython_display_ = show

    def show_static(self):
        """Shows the figure, its description and its read-out, as any figure of a lesson."""
        with plot.figure(
            f"{self.alt} {self.text}", width=self.size[0], height=self.size[1], **self._axes()
        ) as axes:
            self._paint(axes, with_handles=True)

    def picture(self, *, with_handles):
        """The figure as PNG, and where its first axes lie in it.

        Returns:
            bytes: the picture.
            dict: `size` (width, height) and `frame` (left, top, right, bottom) in pixels of the picture,
                `view` the same edges in units of the axes.
        """
        from matplotlib.figure import Figure

        canvas = Figure(figsize=self.size, dpi=plot.DPI, layout="constrained")
        axes = canvas.subplots(1, self.columns, **self._axes(rows=False))
        self._paint(axes, with_handles=with_handles)
        drawn = io.BytesIO()
        canvas.savefig(drawn, format="png")
        first = self._first(axes)
        width, height = canvas.canvas.get_width_height()
        edge = first.get_window_extent()
        (x0, x1), (y0, y1) = first.get_xlim(), first.get_ylim()
        return drawn.getvalue(), {
            "size": [width, height],
            "frame": [float(side) for side in (edge.x0, height - edge.y1, edge.x1, height - edge.y0)],
            "view": [float(side) for side in (x0, y1, x1, y0)],
        }

    def _axes(self, rows=True):
        options = {"rows": 1, "columns": self.columns} if rows else {}
        return options | ({"width_ratios": self.ratios} if self.ratios else {})

    def _first(self, axes):
        return axes.flat[0] if self.columns > 1 else axes

    def _paint(self, axes, with_handles):
        self.draw(axes)
        if with_handles:
            for handle, box in zip(self.handles, self.values["boxes"]):
                plot.show_boxes(box[None], handle.role, labels=[handle.name], ax=self._first(axes))

    def panel(self):
        """The widget: controls above the board, bound to the values. Needs ipywidgets and anywidget."""
        import ipywidgets

        board, latest = board_class()(), {"count": 0}

        def refresh(values, count=None):
            """Takes new values; a board that sent them with its count is told that count, so that it goes
            on."""
            try:
                self.set(**values)
                latest["drawn"] = self.picture(with_handles=False)
            except Exception as error:  # of the student's function: said where the student looks
                if "drawn" not in latest:
                    raise
                self.text = f"Your function stopped with {type(error).__name__}: {error}"
            latest["count"] = latest["count"] + 1 if count is None else max(count, latest["count"])
            picture, place = latest["drawn"]
            board.show(picture, {
                **place, "alt": self.alt, "text": self.text, "limits": list(self.limits), "step": self.step,
                "boxes": self.values["boxes"].tolist(), "count": latest["count"],
                "looks": [handle_look(handle.name, handle.role) for handle in self.handles],
            })  # fmt: skip

        refresh({})
        board.on_msg(lambda _, message, __: refresh({"boxes": message["boxes"]}, message["count"]))
        rows = [
            control_widget(name, control, self.values[name], refresh)
            for name, control in self.controls.items()
        ]
        layout = ipywidgets.Layout(flex_flow="row wrap")
        panel = ipywidgets.VBox([ipywidgets.HBox(rows, layout=layout), board] if rows else [board])
        panel.add_class("coursekit-explorer")
        return panel


def can_move():
    """Whether someone watches who can move things; says what to install where only that is missing."""
    if audience() != "notebook":
        return False
    missing = [name for name in ("ipywidgets", "anywidget") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"nothing can be moved here without {' and '.join(missing)}: pip install {' '.join(missing)}")
    return not missing


def show_panel(panel, still, alt, text):
    """Shows a widget; viewers without widgets show the picture `still` (PNG) or the text instead."""
    from IPython.display import display

    view = {"model_id": panel.model_id, "version_major": 2, "version_minor": 0}
    content = {
        "application/vnd.jupyter.widget-view+json": view, "image/png": still, "text/plain": f"{alt}\n{text}",
    }  # fmt: skip
    display(content, metadata={"image/png": {"alt": f"{alt} {text}"}}, raw=True)


def handle_look(name, role):
    """How the board draws a box: a dict of `name`, `color`, `ink`, `width` (pixels) and `dash` (SVG's, or
    empty)."""
    look = plot.role_style(role)
    dash = DASHES[look.style] if isinstance(look.style, str) else look.style[1]
    width = look.width * plot.DPI / 72
    pattern = " ".join(f"{part * width:.3g}" for part in dash) if dash else ""
    return {
        "name": name,
        "color": look.color,
        "ink": plot.ink_on(look.color),
        "width": width,
        "dash": pattern,
    }


def control_widget(name, control, value, change):
    """The ipywidgets widget of a control, at a value; `change({name: value})` is called with each new one."""
    import ipywidgets

    wide = {"description_width": "initial"}
    if isinstance(control, Choose):
        kind = ipywidgets.SelectionSlider if control.slide else ipywidgets.ToggleButtons
        widget = kind(options=control.options, value=value, description=control.label, style=wide)
        if not control.slide:
            widget.style.button_width = "auto"
    else:
        whole = all(isinstance(number, int) for number in (control.low, control.high, control.step))
        kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
        digits = 0 if whole else max(0, math.ceil(-math.log10(control.step)))
        widget = kind(
            value=value, min=control.low, max=control.high, step=control.step, description=control.label,
            style=wide, layout=ipywidgets.Layout(width="340px"), readout_format="d" if whole else f".{digits}f",
        )  # fmt: skip
    widget.observe(lambda event: change({name: event["new"]}), "value")
    if not getattr(control, "buttons", False):
        return widget

    def stepper(text, tip, by):
        button = ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width="90px"))

        def press(_):
            widget.value = min(control.high, max(control.low, widget.value + by))

        button.on_click(press)
        return button

    back, on = (
        stepper("◀ back", "one step back", -control.step),
        stepper("next ▶", "one step on", control.step),
    )
    return ipywidgets.HBox([widget, back, on])


@functools.cache
def board_class():
    """The widget class of the board, made when first needed: anywidget is no part of importing coursekit."""
    import anywidget
    import traitlets

    class Board(anywidget.AnyWidget):
        """A picture with boxes to drag. `picture` and `scene` are all that the browser shows; see
        board.js."""

        _esm = (Path(__file__).parent / "board.js").read_text(encoding="utf-8")
        _css = (Path(__file__).parent / "board.css").read_text(encoding="utf-8")
        picture = traitlets.Bytes().tag(sync=True)
        scene = traitlets.Dict().tag(sync=True)

        def show(self, picture, scene):
            with self.hold_sync():  # in one message
                self.picture, self.scene = picture, scene

    return Board


def canvas(ax, image, image_size):
    """Axes in pixels over an image, or over white where there is none."""
    if image is not None:
        return plot.show_image(image, ax)
    width, height = image_size
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xlabel="x (pixels)", ylabel="y (pixels)")


def size_of(image, otherwise):
    """(width, height) of an image [3, H, W], or of what is given for none."""
    return otherwise if image is None else (image.shape[-1], image.shape[-2])


def listed(names, nothing="none"):
    """ "1, 2 and 5" of some numbers or names."""
    names = [str(name) for name in names]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else nothing
