"""Explorers of feature maps: RoIPool against RoIAlign, FCOS's locations, FSAF's regions."""

import torch

from coursekit import plot
from coursekit.widgets.boxes import fill
from coursekit.widgets.explorer import Choose, Explorer, Handle, Slide, canvas, listed, size_of


def explore_roi(roi_pool, roi_align, *, features=None, stride=16, output_size=(2, 3), box=(23, 21, 117, 90)):
    """What RoIPool and RoIAlign read for each bin of a region, and what they give.

    Every cell in turn is set to 1 and all others to 0; the functions themselves say what they read.

    Args:
        roi_pool (callable): `roi_pool(features [B, C, H, W], rois [R, 5], output_size, spatial_scale) -> [R,
            C, h, w]`.
        roi_align (callable): likewise; its default number of samples is used.
        features (Tensor[H, W]): the values of the map; a ramp with a bump if not given.
        stride (int): pixels of the image in a cell.
        output_size (int, int): (rows, columns) of bins.
        box: the region at the start, xyxy in pixels of the image; it moves in steps of one pixel.

    Returns:
        Explorer
    """
    if features is None:
        y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
        features = (x + 2 * y + 8 * torch.exp(-((x - 5) ** 2 + (y - 2) ** 2) / 2)).round()
    rows, columns = features.shape
    size = (columns * stride, rows * stride)
    cells = torch.eye(rows * columns).reshape(1, rows * columns, rows, columns)
    stack = torch.cat([features[None, None], cells], 1)  # [1, 1 + H·W, H, W]
    names = [f"{r + 1}, {c + 1}" for r in range(output_size[0]) for c in range(output_size[1])]

    def look(values):
        box = values["boxes"][0]
        rois = torch.cat([torch.zeros(1), box])[None]
        answers = {}
        for name, pool in (("RoIPool", roi_pool), ("RoIAlign", roi_align)):
            pooled = pool(stack, rois, output_size, 1 / stride)[0].flatten(1)  # [1 + H·W, bins]
            answers[name] = pooled[0], pooled[1:].T.reshape(-1, rows, columns)
        chosen = range(len(names)) if values["bin"] == "all" else [names.index(values["bin"])]
        edges = ", ".join(f"{side / stride:.2f}" for side in box.tolist())
        text = f"The region is ({edges}) in cells. "
        read = answers["RoIPool"][1].amax(0) > 0
        if read.any():
            ys, xs = read.any(1).nonzero().flatten(), read.any(0).nonzero().flatten()
            text += (
                f"RoIPool reads columns {int(xs[0])} to {int(xs[-1])}, rows {int(ys[0])} to {int(ys[-1])}. "
            )
        for name, (value, _) in answers.items():
            told = "; ".join(
                ", ".join(f"{v:.2f}".rstrip("0").rstrip(".") for v in row)
                for row in value.reshape(output_size).tolist()
            )
            text += f"{name} gives {told}. "

        def draw(axes):
            for ax, (name, (value, weights)) in zip(axes, answers.items()):
                canvas(ax, None, size)
                ax.imshow(features.numpy(), extent=(0, size[0], size[1], 0), cmap="Greys", alpha=0.35)
                plot.show_grid(columns, rows, size, role="negative", ax=ax)
                for i in range(rows):
                    for j in range(columns):
                        ax.text(
                            (j + 0.5) * stride,
                            (i + 0.85) * stride,
                            f"{features[i, j]:g}",
                            ha="center",
                            fontsize=7,
                        )
                for k in chosen:
                    # neighbouring bins of RoIPool share cells: a mark for each bin, at its own place in the cell
                    color = plot.role_style(
                        ("positive", "forced", "ignored", "truth", "prediction", "anchor")[k % 6]
                    ).color
                    shift = (
                        ((k % output_size[1]) + 1) / (output_size[1] + 1),
                        ((k // output_size[1]) + 1) / (output_size[0] + 2),
                    )
                    ys, xs = weights[k].nonzero(as_tuple=True)
                    sizes = 10 + 260 * weights[k][ys, xs] if name == "RoIAlign" else 40
                    ax.scatter(
                        (xs + shift[0]) * stride, (ys + shift[1]) * stride, s=sizes, color=color,
                        edgecolors="white", linewidths=0.5, zorder=3,
                    )  # fmt: skip
                x1, y1, x2, y2 = box.tolist()
                for c in range(1, output_size[1]):
                    x = x1 + (x2 - x1) * c / output_size[1]
                    ax.plot([x, x], [y1, y2], color=plot.ROLES["prediction"].color, lw=1)
                for r in range(1, output_size[0]):
                    y = y1 + (y2 - y1) * r / output_size[0]
                    ax.plot([x1, x2], [y, y], color=plot.ROLES["prediction"].color, lw=1)
                if ax is not axes[0]:
                    plot.show_boxes(box[None], "prediction", ax=ax)
                ax.set_title(name, fontsize=10)
            axes[1].set_ylabel("")

        return text.strip(), draw

    return Explorer(
        look, {"bin": Choose("all", ("all", *names), "bin (row, column)")}, [Handle(box, "", "prediction")],
        limits=size, size=(10.2, 4.3), columns=2,
        alt="A region on a feature map, twice: dots in a bin's colour mark the cells that the bin reads, with "
        "RoIAlign the larger the more they weigh.",
    )  # fmt: skip


def explore_fcos(
    locations, fcos_targets, centerness, boxes, *, image=None, image_size=(128, 128), strides=(8, 16, 32),
    ranges=(0, 32, 64, float("inf")),
):  # fmt: skip
    """FCOS's locations: which object each answers for, the ambiguous ones, their centre-ness.

    An ambiguous location is one that two objects would get if each were alone.

    Args:
        locations (callable): `locations(grid (columns, rows), stride) -> [H·W, 2]`.
        fcos_targets (callable): `fcos_targets(locations list, boxes, labels, ranges) -> (labels [P], ltrb [P,
            4])`.
        centerness (callable): `centerness(ltrb [P, 4]) -> [P]`.
        boxes (Tensor[M, 4]): of the objects; they can be dragged.
        image (Tensor[3, H, W]): below; `image_size` (width, height) counts where there is none.
        strides (tuple of int): of each level, fine to coarse; the first is P3 if it is 8.
        ranges (tuple): one more than levels.

    Returns:
        Explorer
    """
    image_size = size_of(image, image_size)
    grids = [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in strides]
    points = [locations(grid, stride) for grid, stride in zip(grids, strides)]
    first = strides[0].bit_length() - 1
    levels = {f"P{first + i}": i for i in range(len(strides))}
    boxes = torch.as_tensor(boxes, dtype=torch.float32).cpu().reshape(-1, 4)
    letters = [chr(65 + i) for i in range(len(boxes))]
    counts = [len(level) for level in points]

    def look(values):
        own, level = values["boxes"], levels[values["level"]]
        labels, ltrb = fcos_targets(points, own, torch.arange(1, len(own) + 1), ranges)
        alone = torch.stack(
            [fcos_targets(points, box[None], torch.ones(1, dtype=torch.int64), ranges)[0] > 0 for box in own]
        )  # [M, P]
        start = sum(counts[:level])
        part = slice(start, start + counts[level])
        at, label, double = points[level], labels[part], alone[:, part].sum(0) > 1
        middle = torch.zeros(len(label))
        middle[label > 0] = centerness(ltrb[part][label > 0]).float()
        per = [f"{letter} {int((label == i + 1).sum())}" for i, letter in enumerate(letters)]
        everywhere = [
            f"{letter} " + "/".join(str(int((one == i + 1).sum())) for one in labels.split(counts))
            for i, letter in enumerate(letters)
        ]
        low, high = ranges[level], ranges[level + 1]
        text = (
            f"{values['level']}, stride {strides[level]}, distances {low:g} to {high:g}: {counts[level]} "
            f"locations; {', '.join(per)}; ambiguous {int(double.sum())}. "
        )
        if (label > 0).any():
            text += f"Centre-ness {float(middle[label > 0].min()):.2f} to {float(middle.max()):.2f}. "
        text += f"On levels {'/'.join(levels)}: {', '.join(everywhere)}."

        def draw(ax):
            canvas(ax, image, image_size)
            for i in range(len(own)):
                mine = label == i + 1
                look_ = plot.role_style(("positive", "prediction", "ignored", "truth")[i % 4])
                size_ = 20 + 130 * middle[mine] if values["size"] == "by centre-ness" else 60
                ax.scatter(at[mine, 0], at[mine, 1], s=size_, color=look_.color, marker=look_.marker,
                           label=letters[i], edgecolors="white", linewidths=0.6, zorder=3)  # fmt: skip
            rest = label == 0
            ax.scatter(at[rest, 0], at[rest, 1], s=8, color="black", alpha=0.45, label="background")
            ax.scatter(at[double, 0], at[double, 1], s=170, facecolors="none", edgecolors="black", lw=1.4,
                       zorder=4, label="ambiguous")  # fmt: skip
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)

        return text, draw

    labels, _ = fcos_targets(points, boxes, torch.arange(1, len(boxes) + 1), ranges)
    found = [int((part > 0).sum()) for part in labels.split(counts)]
    controls = {
        "level": Choose(list(levels)[found.index(max(found))], tuple(levels), "level"),
        "size": Choose("by centre-ness", ("by centre-ness", "all equal"), "marks"),
    }
    handles = [Handle(tuple(box.tolist()), letter, "truth") for letter, box in zip(letters, boxes)]
    return Explorer(
        look, controls, handles, limits=image_size, size=(6.8, 4.8),
        alt="The locations of one level over the objects, each marked by the object it answers for; ambiguous "
        "ones ringed.",
    )  # fmt: skip


def explore_fsaf(
    fsaf_class_targets, boxes, *, image=None, image_size=(128, 128), levels=(3, 4, 5), chosen=None,
    select_level=None, focal=None, iou=None,
):  # fmt: skip
    """FSAF's effective and ignoring regions on each level, and the level that each object is at.

    Args:
        fsaf_class_targets (callable): `fsaf_class_targets(boxes, labels, levels, level, grid (columns, rows),
            num_classes, effective, ignoring) -> [K, H, W]`, 1 effective, −1 ignored.
        boxes (Tensor[M, 4]): of the objects; they can be dragged.
        image (Tensor[3, H, W]): below; `image_size` (width, height) counts where there is none.
        levels (tuple of int): there are; level l has stride 2ˡ.
        chosen (list of int): the level of each object at the start; the middle one if not given.
        select_level (callable): `select_level(focal [L, N], iou [L, N]) -> int64 [N]`, with `focal` and
            `iou`, an object's mean losses on each level: the objects start on the levels that it selects, and
            the losses are shown.

    Returns:
        Explorer
    """
    image_size = size_of(image, image_size)
    boxes = torch.as_tensor(boxes, dtype=torch.float32).cpu().reshape(-1, 4)
    letters = [chr(65 + i) for i in range(len(boxes))]
    if select_level is not None:
        chosen = [levels[int(i)] for i in select_level(focal, iou)]
    chosen = [levels[len(levels) // 2]] * len(boxes) if chosen is None else list(chosen)

    def look(values):
        own, level = values["boxes"], values["level"]
        at = torch.tensor([values[f"level {letter}"] for letter in letters])
        stride = 2**level
        columns, rows = -(-image_size[0] // stride), -(-image_size[1] // stride)
        targets = fsaf_class_targets(
            own, torch.arange(1, len(own) + 1), at, level, (columns, rows), len(own), values["effective"],
            values["ignoring"],
        )  # fmt: skip
        counts = [
            f"{letter} {int((one == 1).sum())} effective, {int((one == -1).sum())} ignored"
            for letter, one in zip(letters, targets)
        ]
        text = (
            f"P{level}, {columns} × {rows} cells, regions of {values['effective']:.2f} and "
            f"{values['ignoring']:.2f} of a box: {'; '.join(counts)}. "
        )
        places = (f"{letter} on P{int(where)}" for letter, where in zip(letters, at))
        text += f"Objects: {listed(places)}."
        if select_level is not None:
            sums = (focal + iou).T.tolist()
            told = (
                f"{letter} " + "/".join(f"{value:.2f}" for value in one) for letter, one in zip(letters, sums)
            )
            where = "/".join(f"P{one}" for one in levels)
            text += f" Focal + IoU loss on {where}: {', '.join(told)}; the least is chosen."

        def draw(ax):
            canvas(ax, image, image_size)
            plot.show_grid(columns, rows, image_size, role="negative", ax=ax)
            for value, role, hatch, name in (
                (-1, "ignored", "..", "ignored"),
                (1, "positive", "//", "effective"),
            ):
                for index, (y, x) in enumerate((targets == value).any(0).nonzero().tolist()):
                    cell = (x * stride, y * stride, (x + 1) * stride, (y + 1) * stride)
                    patch = fill(ax, cell, plot.ROLES[role].color, 0.6, hatch=hatch)
                    patch.set_label(name if index == 0 else None)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)

        return text, draw

    controls = {"level": Choose(chosen[0] if chosen else levels[0], tuple((levels)), "shown level")}
    controls |= {
        f"level {letter}": Choose(start, tuple(levels), f"{letter} is on")
        for letter, start in zip(letters, chosen)
    }
    controls |= {
        "effective": Slide(0.2, 0.05, 1.0, 0.05, "effective"),
        "ignoring": Slide(0.5, 0.05, 1.0, 0.05, "ignoring"),
    }
    handles = [Handle(tuple(box.tolist()), letter, "truth") for letter, box in zip(letters, boxes)]
    return Explorer(
        look, controls, handles, limits=image_size, size=(6.8, 4.8),
        alt="The cells of one level over the objects; effective cells hatched by lines, ignored ones by dots.",
    )  # fmt: skip
