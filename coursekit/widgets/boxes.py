"""Explorers of boxes: IoU, anchors, matching, proposals, the level of a box."""

import torch

from coursekit import plot
from coursekit.widgets.explorer import Choose, Explorer, Handle, Slide, canvas, size_of


def explore_iou(box_iou, *, boxes=((20, 25, 100, 85), (60, 50, 140, 110)), image=None, image_size=(160, 120)):
    """Two boxes to drag, with intersection, union and IoU.

    Intersection and union follow from the function's IoU and the two areas, so a wrong function is seen as
    such.

    Args:
        box_iou (callable): `box_iou(boxes1 [N, 4], boxes2 [M, 4]) -> [N, M]`.
        boxes (two boxes): where they are at the start, xyxy in pixels.
        image (Tensor[3, H, W]): below the boxes; `image_size` (width, height) counts where there is none.

    Returns:
        Explorer
    """
    image_size = size_of(image, image_size)

    def look(values):
        first, second = values["boxes"]
        iou = float(box_iou(first[None], second[None])[0, 0])
        areas = [(box[2:] - box[:2]).prod().item() for box in (first, second)]
        union = sum(areas) / (1 + iou) if iou > -1 else float("nan")  # since I = IoU · U and I + U = A + B
        sizes = [" × ".join(f"{side:g}" for side in (box[2:] - box[:2]).tolist()) for box in (first, second)]
        text = (
            f"A is {sizes[0]} = {areas[0]:g}, B is {sizes[1]} = {areas[1]:g} square pixels. "
            f"Intersection {iou * union:.0f}, union {union:.0f}, IoU {iou:.3f}."
        )

        def draw(ax):
            from matplotlib.patches import Rectangle

            canvas(ax, image, image_size)
            patches = [
                Rectangle(box[:2].tolist(), *(box[2:] - box[:2]).tolist(), fill=False, lw=0)
                for box in (first, second)
            ]
            for patch in patches:
                ax.add_patch(patch)
            for box, color, alpha in ((first, "truth", 0.15), (second, "prediction", 0.15)):
                fill(ax, box, plot.role_style(color).color, alpha)
            shared = fill(ax, first, plot.role_style("positive").color, 0.55, hatch="///")
            shared.set_clip_path(patches[1])
            ax.set_title(f"intersection {iou * union:.0f} / union {union:.0f} = IoU {iou:.3f}", fontsize=10)

        return text, draw

    return Explorer(
        look, handles=[Handle(boxes[0], "A", "truth"), Handle(boxes[1], "B", "prediction")], limits=image_size,
        alt="Two boxes; what both cover is hatched.",
    )  # fmt: skip


def fill(ax, box, color, alpha, **options):
    """A filled rectangle without an outline."""
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = [float(side) for side in box]
    patch = Rectangle(
        (x1, y1), x2 - x1, y2 - y1, facecolor=color, edgecolor="white", linewidth=0, alpha=alpha, **options
    )
    return ax.add_patch(patch)


def explore_anchors(
    ssd_anchors, *, grids, ratios, image=None, image_size=(640, 480), linear_scales=None, scales=None
):
    """The anchors of one cell over an image, level by level, shape by shape.

    Args:
        ssd_anchors (callable): `ssd_anchors(grids, scales, ratios, image_size) -> [A, 4]`, in the course's
            order.
        grids (list of (columns, rows)): of each level.
        ratios (list of number): width / height.
        image (Tensor[3, H, W]): below the anchors; `image_size` (width, height) counts where there is none.
        linear_scales (callable): `linear_scales(levels, smallest, largest) -> [levels]`; brings sliders for
            both ends.
        scales (list of (s_x, s_y)): of each level, where `linear_scales` is not given.

    Returns:
        Explorer

    Raises:
        ValueError: if neither or both of `linear_scales` and `scales` are given, or the number of anchors is
            not a multiple of the number of cells.
    """
    if (linear_scales is None) == (scales is None):
        raise ValueError("give either linear_scales (a function) or scales (a list), one of the two")
    image_size = size_of(image, image_size)
    cells = [columns * rows for columns, rows in grids]
    shapes = [f"{ratio:.3g}" for ratio in ratios]

    def look(values):
        level = values["level"] - 1
        if linear_scales is None:
            sizes = list(scales)
        else:
            sizes = [
                (float(s), float(s)) for s in linear_scales(len(grids), values["smallest"], values["largest"])
            ]
        anchors = ssd_anchors(grids, sizes, ratios, image_size)
        per_cell, rest = divmod(len(anchors), sum(cells))
        if rest:
            raise ValueError(f"{len(anchors)} anchors for {sum(cells)} cells, expected a multiple")
        columns, rows = grids[level]
        x, y = int(values["across"] * columns), int(values["down"] * rows)
        start = (sum(cells[:level]) + y * columns + x) * per_cell
        own = anchors[start : start + per_cell]
        names = (shapes + ["extra"] * per_cell)[:per_cell]
        shown = [i for i, name in enumerate(names) if values["shape"] in ("all", name)]
        widths = [f"{w:.0f} × {h:.0f}" for w, h in (own[:, 2:] - own[:, :2]).tolist()]
        text = (
            f"Level {level + 1} of {len(grids)}: {columns} × {rows} cells, scale {sizes[level][0]:.3f}, "
            f"cell ({x}, {y}), anchors {start} to {start + per_cell - 1} of {len(anchors)}. "
            f"Width × height in pixels: {', '.join(f'{names[i]}: {widths[i]}' for i in shown)}."
        )

        def draw(ax):
            canvas(ax, image, image_size)
            if columns * rows <= 1200:
                plot.show_grid(columns, rows, image_size, role="negative", ax=ax)
            width, height = image_size[0] / columns, image_size[1] / rows
            fill(
                ax,
                (x * width, y * height, (x + 1) * width, (y + 1) * height),
                plot.ROLES["forced"].color,
                0.5,
            )
            others = [i for i in range(per_cell) if i not in shown]
            plot.show_boxes(own[others], "anchor", ax=ax)
            plot.show_boxes(own[shown], "positive", labels=[names[i] for i in shown], ax=ax)
            everything = torch.cat([own, torch.tensor([[0.0, 0.0, *image_size]]).to(own)])
            low, high = everything[:, :2].amin(0).tolist(), everything[:, 2:].amax(0).tolist()
            ax.set(xlim=(low[0] - 4, high[0] + 4), ylim=(high[1] + 4, low[1] - 4))

        return text, draw

    controls = {
        "level": Slide(min(4, len(grids)), 1, len(grids), 1, "level", buttons=True),
        "across": Slide(0.5, 0, 0.99, 0.01, "cell across"),
        "down": Slide(0.5, 0, 0.99, 0.01, "cell down"),
        "shape": Choose("all", ("all", *shapes, "extra"), "ratio"),
    }
    if linear_scales is not None:
        controls["smallest"] = Slide(0.2, 0.05, 0.5, 0.05, "smallest scale")
        controls["largest"] = Slide(0.9, 0.5, 1.0, 0.05, "largest scale")
    return Explorer(
        look, controls, limits=image_size, size=(6.4, 5.0),
        alt="A grid over the image, one of its cells filled, and the anchors of that cell, named by their ratio.",
    )  # fmt: skip


def explore_matching(
    match, box_iou, anchors, boxes, *, image=None, image_size=(128, 128), threshold=0.5, ignoring=None
):
    """Which anchors an object gets as the threshold moves: forced, second chance, ignored.

    An anchor that is positive although nothing can exceed the threshold was forced.

    Args:
        match (callable): `match_anchors(iou [M, A], threshold) -> int64 [A]`, the object's index or −1; with
            `ignoring`, `label_rpn_anchors(iou [M, A], positive, negative) -> int64 [A]`, 1, 0 or −1
            (ignored).
        box_iou (callable): `box_iou(boxes1 [N, 4], boxes2 [M, 4]) -> [N, M]`.
        anchors (Tensor[A, 4]): xyxy in pixels.
        boxes (Tensor[M, 4]): of the objects; they can be dragged.
        image (Tensor[3, H, W]): below; `image_size` (width, height) counts where there is none.
        threshold (float): at the start, in 0..1.
        ignoring (float): the lower threshold at the start, for a `match` that ignores.

    Returns:
        Explorer
    """
    image_size = size_of(image, image_size)
    anchors = torch.as_tensor(anchors, dtype=torch.float32).cpu()
    boxes = torch.as_tensor(boxes, dtype=torch.float32).cpu().reshape(-1, 4)

    def look(values):
        iou = box_iou(values["boxes"], anchors)  # [M, A]
        high = values["threshold"]
        if ignoring is None:
            positive, forced = match(iou, high) >= 0, match(iou, 1.0) >= 0
            ignored = torch.zeros_like(positive)
        else:
            low = min(values["negative"], high)
            labels = match(iou, high, low)
            positive, ignored, forced = labels == 1, labels == -1, match(iou, 1.01, low) == 1
        chance = positive & ~forced
        groups = {"forced": positive & forced, "positive": chance, "ignored": ignored}
        background = int((~positive & ~ignored).sum())
        text = (
            f"Of {len(anchors)} anchors, {int(groups['forced'].sum())} forced (the best of an object), "
            f"{int(chance.sum())} by second chance (IoU above {high:.2f})"
            + ("" if ignoring is None else f", {int(ignored.sum())} ignored (IoU {low:.2f} to {high:.2f})")
            + f", {background} background."
        )

        def draw(axes):
            ax, plane = axes
            canvas(ax, image, image_size)
            for role in ("ignored", "positive", "forced"):
                # a large set of ignored anchors would hide all else
                plot.show_boxes(anchors[groups[role]], role, thickness=0.7 if role == "ignored" else 1, ax=ax)
            best = iou.amax(0) if len(iou) else iou.new_zeros(len(anchors))
            order = best.argsort(descending=True, stable=True)[:60]
            for role, members in {**groups, "negative": ~positive & ~ignored}.items():
                look_ = plot.role_style(role)
                mine = members[order].nonzero().flatten()
                name = {"positive": "second chance", "negative": "background"}.get(role, role)
                plane.scatter(
                    mine + 1, best[order][mine], s=22, color=look_.color, marker=look_.marker,
                    label=name if len(mine) else None,
                )  # fmt: skip
            plane.axhline(high, color="black", lw=1)
            if ignoring is not None:
                plane.axhline(low, color="black", lw=1, ls=":")
            plane.set(
                xlabel="anchors, best first",
                ylabel="best IoU with an object",
                ylim=(-0.02, 1.02),
                xlim=(0, 61),
            )
            plane.grid(alpha=0.3)
            plane.legend(frameon=False, fontsize=8, loc="upper right")

        return text, draw

    controls = {"threshold": Slide(threshold, 0.05, 0.95, 0.05, "positive from IoU")}
    if ignoring is not None:
        controls["negative"] = Slide(ignoring, 0.05, 0.95, 0.05, "background below IoU")
    handles = [Handle(tuple(box.tolist()), chr(65 + i), "truth") for i, box in enumerate(boxes)]
    return Explorer(
        look, controls, handles, limits=image_size, size=(8.6, 4.3), columns=2, ratios=(1.25, 1),
        alt="Left, the objects and the anchors they got; right, each anchor's best IoU beside the threshold.",
    )  # fmt: skip


def explore_proposals(
    propose, objectness, deltas, anchors, *, box_iou, truth, image, iou_threshold=0.7, min_size=4, covered=0.5
):
    """The proposals of an RPN as more of its best anchors are let through, and the objects they cover.

    Args:
        propose (callable): `propose(objectness, deltas, anchors, image_size, pre_nms, post_nms,
            iou_threshold, min_size) -> list of [P, 4]`, one for each image.
        objectness (Tensor[1, A]), deltas (Tensor[1, A, 4]): what the RPN says of one image.
        anchors (Tensor[A, 4]): xyxy in pixels.
        box_iou (callable): `box_iou(boxes1 [N, 4], boxes2 [M, 4]) -> [N, M]`.
        truth (Tensor[M, 4]): boxes of the objects.
        image (Tensor[3, H, W]): that image.
        iou_threshold (float): of NMS, at the start.
        min_size (number): of a proposal, in pixels.
        covered (float): an object is found where a proposal has at least this IoU with it.

    Returns:
        Explorer
    """
    image_size = size_of(image, None)
    counts = tuple(count for count in (1, 3, 10, 30, 100, 300, 1000, 2000) if count < len(anchors)) + (
        len(anchors),
    )

    def look(values):
        (found,) = propose(
            objectness,
            deltas,
            anchors,
            image_size,
            values["before"],
            values["after"],
            values["threshold"],
            min_size,
        )
        best = box_iou(truth, found).amax(1) if len(found) and len(truth) else torch.zeros(len(truth))
        hit = best >= covered
        text = (
            f"The {values['before']} anchors of highest objectness give {len(found)} proposals after NMS and "
            f"the cut at {values['after']}. {int(hit.sum())} of {len(truth)} objects are covered "
            f"(IoU at least {covered:g})."
        )

        def draw(ax):
            plot.show_boxes(found, "proposal", image=image, ax=ax, thickness=1 if len(found) <= 30 else 0.6)
            names = [f"IoU {value:.2f}" for value in best.tolist()]
            plot.show_boxes(truth[hit], "truth", labels=[n for n, h in zip(names, hit) if h], ax=ax)
            plot.show_boxes(truth[~hit], "forced", labels=[n for n, h in zip(names, hit) if not h], ax=ax)

        return text, draw

    def start(wanted):
        return min(counts, key=lambda count: abs(count - wanted))

    controls = {
        "before": Choose(start(100), counts, "anchors before NMS", slide=True),
        "after": Choose(start(30), counts, "proposals after NMS", slide=True),
        "threshold": Slide(iou_threshold, 0.1, 1.0, 0.05, "NMS's IoU"),
    }
    return Explorer(
        look, controls, size=(5.6, 5.2), limits=image_size,
        alt="Proposals over the image; objects that one of them covers solid, others in long dashes, with "
        "their best IoU.",
    )  # fmt: skip


def explore_level(
    assign_level, *, box=(300, 150, 524, 374), image=None, image_size=(1024, 768), smallest=2, largest=5
):
    """The pyramid level of a box as it is resized.

    Args:
        assign_level (callable): `assign_level(boxes, k0, smallest, largest) -> int64 [N]`.
        box: at the start, xyxy in pixels.
        image (Tensor[3, H, W]): below; `image_size` (width, height) counts where there is none.
        smallest, largest (int): levels there are.

    Returns:
        Explorer
    """
    image_size = size_of(image, image_size)
    reach = max(image_size)

    def level_of(boxes, k0):
        return assign_level(boxes, k0=k0, smallest=smallest, largest=largest)

    def look(values):
        (own,), k0 = values["boxes"], values["k0"]
        width, height = (own[2:] - own[:2]).tolist()
        root = (width * height) ** 0.5
        level = int(level_of(own[None], k0)[0])
        sides = torch.arange(4, reach + 1, 2, dtype=torch.float32)
        squares = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
        levels = level_of(squares, k0)
        text = (
            f"The box is {width:g} × {height:g} pixels, √(wh) = {root:.1f}: level P{level}, of stride "
            f"{2**level}. "
            f"There it is {width / 2**level:.1f} × {height / 2**level:.1f} cells."
        )

        def draw(axes):
            ax, plane = axes
            canvas(ax, image, image_size)
            stride = 2**level
            x1, y1, x2, y2 = own.tolist()
            left, top = (int(side // stride) * stride for side in (x1, y1))
            right, bottom = (-int(-side // stride) * stride for side in (x2, y2))
            lines = {"color": plot.ROLES["anchor"].color, "lw": 0.7}
            ax.vlines(range(left, right + 1, stride), top, bottom, **lines)
            ax.hlines(range(top, bottom + 1, stride), left, right, **lines)
            plane.step(sides, levels, where="post", color=plot.ROLES["positive"].color, lw=1.8)
            plane.plot([root], [level], color=plot.ROLES["prediction"].color, marker="o", ms=9)
            plane.axvline(224, color="black", lw=0.8, ls=":")
            names, sizes = range(smallest, largest + 1), [14 * 2**n for n in range(7)]
            plane.set(
                xlabel="√(wh), pixels", xscale="log", xticks=sizes, xticklabels=[str(size) for size in sizes],
                yticks=list(names), yticklabels=[f"P{n}" for n in names],
                ylim=(smallest - 0.4, largest + 0.4),
            )  # fmt: skip
            plane.minorticks_off()
            plane.grid(alpha=0.3)

        return text, draw

    return Explorer(
        look, {"k0": Slide(4, smallest, largest, 1, "k0, the level of 224 × 224")},
        [Handle(box, "", "prediction")], limits=image_size, size=(8.6, 4.0), columns=2, ratios=(1.35, 1),
        alt="Left, a box with the cells of its level; right, the level over the size, a dot at this box.",
    )  # fmt: skip
