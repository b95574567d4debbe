"""Draw and label boxes on one's own images, and keep them as files that other tools read."""

import functools
import io
from pathlib import Path

import torch

from coursekit import plot
from coursekit.data import coco, via
from coursekit.data.records import Record, image_size
from coursekit.widgets.explorer import board_class, can_move, handle_look, show_panel

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif"}
WIDTH, HEIGHT = 780, 560  # of the picture in the notebook, at most


class Annotator:
    """Boxes on the images of a folder: draw, move, name and delete them, then save.

    As a cell's last line it shows itself; without anyone to draw, it shows the current image with its boxes.
    `records()` gives what is annotated, for `coursekit.data.load` and a training.

    Args:
        folder (path): with the images (.jpg, .png, .webp, .bmp, .gif), taken in the order of their names.
        classes (sequence of str): names that an object can have; label 1 first.
        project (path): a VIA file to begin with, made here or in VIA itself; `via_project.json` of the folder
            where there is one. Polygons and circles become the boxes around them.

    Raises:
        FileNotFoundError: if there is no such folder, no image in it, or no such project.
        ValueError: if there are no classes, or the project cannot be right (another class, a box without
            area, ...).
    """

    def __init__(self, folder, classes, project=None):
        self.folder, self.classes = Path(folder), tuple(classes)
        if not self.classes:
            raise ValueError("no classes, expected the names that an object can have, such as ('cat', 'dog')")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {self.folder}: make it and put your images into it")
        self.images = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in IMAGES)
        if not self.images:
            raise FileNotFoundError(
                f"no image in {self.folder}, expected some of {', '.join(sorted(IMAGES))}"
            )
        self.boxes = {path.name: [] for path in self.images}
        self.names = {path.name: [] for path in self.images}
        self.index, self.chosen, self.name, self.saved = 0, None, self.classes[0], True
        before = self.folder / "via_project.json" if project is None else Path(project)
        if project is not None or before.exists():
            for record in via.read(before, self.folder, classes=self.classes):
                self.boxes[record.image.name] = record.boxes.tolist()
                self.names[record.image.name] = list(record.names)

    @property
    def image(self):
        """The file (Path) of the current image."""
        return self.images[self.index]

    @property
    def size(self):
        """(width, height) of the current image in pixels, as a viewer shows it."""
        return image_size(self.image)

    @property
    def text(self):
        """The read-out: which image, what is on it, what is saved."""
        width, height = self.size
        boxes = self.boxes[self.image.name]
        told = [
            f"{number}: {name} ({', '.join(f'{side:g}' for side in box)})"
            for number, (name, box) in enumerate(zip(self.names[self.image.name], boxes), start=1)
        ]
        done = sum(map(bool, self.boxes.values()))
        return (
            f"{self.image.name}, image {self.index + 1} of {len(self.images)}, {width} × {height} pixels, "
            f"{len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}{': ' if told else ''}{'; '.join(told)}. "
            f"{done} of {len(self.images)} images have boxes. {'Saved.' if self.saved else 'Not saved yet.'}"
        )

    def go(self, step):
        """To the image `step` further, or `-step` back, but not beyond the first and last."""
        self.index = min(max(self.index + step, 0), len(self.images) - 1)
        self.chosen = None

    def add(self, box=None, name=None):
        """A new box, xyxy in pixels (a third of the image in its middle if not given), of the last one's class.

        Raises:
            ValueError: for an unknown class, or a box that has no area within the image.
        """
        width, height = self.size
        if box is None:
            box = [round(part / 3) for part in (width, height, 2 * width, 2 * height)]
        self.boxes[self.image.name].append(self._fitting(box))
        self.names[self.image.name].append(self._known(self.name if name is None else name))
        self.chosen, self.saved = len(self.boxes[self.image.name]) - 1, False

    def move(self, boxes, image=None):
        """All boxes of the current image at once, in their order; or of another, by its file name."""
        image = self.image.name if image is None else image
        if len(boxes) != len(self.boxes[image]):
            raise ValueError(f"{len(boxes)} boxes, {image} has {len(self.boxes[image])}")
        self.boxes[image] = [self._fitting(box, image) for box in boxes]
        self.saved = False

    def rename(self, name):
        """The class of the chosen box, if one is chosen, and of those to come."""
        self.name = self._known(name)
        if self.chosen is not None:
            self.names[self.image.name][self.chosen] = name
            self.saved = False

    def choose(self, index):
        """The box that `rename` and `delete` mean."""
        self.chosen, self.name = index, self.names[self.image.name][index]

    def delete(self, index=None):
        """The chosen box, or that of an index."""
        index = self.chosen if index is None else index
        if index is not None:
            del self.boxes[self.image.name][index], self.names[self.image.name][index]
            self.chosen, self.saved = None, False

    def records(self):
        """list[Record]: all images, those without boxes too."""
        return [
            Record(
                image=path, width=width, height=height,
                boxes=torch.tensor(self.boxes[path.name], dtype=torch.float32).reshape(-1, 4),
                names=list(self.names[path.name]),
                ignore=torch.zeros(len(self.names[path.name]), dtype=torch.bool),
            )
            for path in self.images for width, height in [image_size(path)]
        ]  # fmt: skip

    def save(self):
        """Writes `via_project.json` and `annotations.json` (COCO) beside the images; returns both paths."""
        records = self.records()
        paths = via.write(records, self.folder, self.classes), coco.write(records, self.folder, self.classes)
        self.saved = True
        return paths

    def _known(self, name):
        if name not in self.classes:
            raise ValueError(f"unknown class {name!r}, expected one of {', '.join(self.classes)}")
        return name

    def _fitting(self, box, image=None):
        width, height = self.size if image is None else image_size(self.folder / image)
        x1, y1, x2, y2 = (float(side) for side in box)
        inside = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            raise ValueError(f"box {[x1, y1, x2, y2]} has no area within the {width}×{height} image")
        return inside

    @property
    def alt(self):
        return f"The image {self.image.name} with the boxes drawn on it."

    def show(self):
        """Shows the tool where someone watches, else the current image with its boxes. Returns None."""
        if can_move():
            show_panel(self.panel(), shrunk(self.image), self.alt, self.text)
            return
        import numpy
        from PIL import Image

        pixels = torch.from_numpy(numpy.array(Image.open(io.BytesIO(shrunk(self.image))))).permute(2, 0, 1)
        scale = pixels.shape[2] / self.size[0]
        boxes = torch.tensor(self.boxes[self.image.name]).reshape(-1, 4) * scale
        with plot.figure(
            f"{self.alt} {self.text}", width=6.0, height=min(6.0, 6.0 * pixels.shape[1] / pixels.shape[2])
        ) as ax:
            plot.show_boxes(boxes, "truth", image=pixels, labels=self.names[self.image.name], ax=ax)

    _ipython_display_ = show

    def panel(self):
        """The widget. Needs ipywidgets and anywidget."""
        import ipywidgets

        board, clock = board_class()(), {"count": 0}
        classes = ipywidgets.ToggleButtons(options=self.classes, value=self.name, description="class")
        classes.style.button_width = "auto"

        def refresh(seq=None, focus=None, trouble=""):
            clock["count"] = clock["count"] + 1 if seq is None else max(seq, clock["count"])
            picture = shrunk(self.image)
            width, height = self.size
            scale = min(WIDTH / width, HEIGHT / height)
            shown = [width * scale, height * scale]
            names = [f"{number} {name}" for number, name in enumerate(self.names[self.image.name], start=1)]
            classes.value = self.name
            board.show(picture, {
                "size": shown, "frame": [0, 0, *shown], "view": [0, 0, width, height], "alt": self.alt,
                "text": f"{trouble} {self.text}".strip(), "limits": [width, height], "step": 1, "drawable": True,
                "boxes": list(self.boxes[self.image.name]), "count": clock["count"], "chosen": self.chosen,
                "focus": focus, "key": self.image.name, "looks": [handle_look(name, "truth") for name in names],
            })  # fmt: skip

        def do(action, *given, seq=None, focus=None):
            try:
                action(*given)
                trouble = ""
            except (ValueError, OSError) as error:
                trouble = f"{type(error).__name__}: {error}."
            refresh(seq, focus() if focus else None, trouble)

        def heard(_, message, __):
            event, seq, key = message.get("event"), message["count"], message.get("key", self.image.name)
            if message["boxes"] != self.boxes[key] and len(message["boxes"]) == len(self.boxes[key]):
                self.move(message["boxes"], key)
            if key != self.image.name:  # the rest of a move, sent before the next image was there
                return refresh(seq)
            if event == "draw":
                do(self.add, message["box"], seq=seq, focus=lambda: self.chosen)
            elif event == "delete":
                left = len(self.names[self.image.name]) - 2  # the last index then, -1 for none
                do(self.delete, message["index"], seq=seq, focus=lambda: min(message["index"], left))
            elif event == "choose":
                do(self.choose, message["index"], seq=seq)
            else:
                refresh(seq)

        board.on_msg(heard)
        classes.observe(lambda event: event["new"] != self.name and do(self.rename, event["new"]), "value")

        def button(text, tip, action, *given, **options):
            widget = ipywidgets.Button(description=text, tooltip=tip, layout=ipywidgets.Layout(width="auto"))
            widget.on_click(lambda _: do(action, *given, **options))
            return widget

        row = ipywidgets.HBox([
            button("◀ image", "the image before", self.go, -1),
            button("image ▶", "the next image", self.go, 1),
            button("add a box", "in the middle; arrow keys move it, with Shift its corner", self.add,
                   focus=lambda: self.chosen),
            button("delete the box", "the chosen one", self.delete),
            button("save", "as via_project.json and annotations.json, beside the images", self.save),
        ], layout=ipywidgets.Layout(flex_flow="row wrap"))  # fmt: skip
        refresh()
        panel = ipywidgets.VBox([row, classes, board])
        panel.add_class("coursekit-explorer")
        return panel


@functools.lru_cache(maxsize=8)
def shrunk(path):
    """An image file as a viewer shows it: PNG (bytes), at most `WIDTH` × `HEIGHT`, never larger than it is."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    image.thumbnail((WIDTH, HEIGHT))
    drawn = io.BytesIO()
    image.save(drawn, "PNG")
    return drawn.getvalue()
