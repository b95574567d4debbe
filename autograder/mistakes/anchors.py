from . import Mistake

MISTAKES = {
    "tile_anchors": [
        Mistake(
            "y runs fastest",
            "these cells come column by column: the first two should be neighbours in a row, so look at which"
            " of the two loops, or axes, is the inner one",
            edits=(('indexing="ij")', 'indexing="xy")'),),
        ),
        Mistake(
            "columns and rows swapped",
            "the grid has as many rows as it should have columns: a 3 x 2 grid is 3 wide and 2 high",
            edits=(
                (
                    "    width, height = image_size",
                    "    columns, rows = rows, columns\n    width, height = image_size",
                ),
            ),
        ),
        Mistake(
            "image size read as (height, width)",
            "the cells are laid over an image with its sides exchanged: image_size is (width, height)",
            edits=(("width, height = image_size", "height, width = image_size"),),
        ),
        Mistake(
            "width divided by the rows",
            "a cell is as wide as the width divided by the rows: the columns divide the width, the rows the"
            " height",
            edits=(("[width / columns, height / rows]", "[width / rows, height / columns]"),),
        ),
        Mistake(
            "centre on the cell's corner",
            "the boxes lie around the upper left corners of the cells; they should cover the cells",
            edits=(("[x, y, x + 1, y + 1]", "[x - 0.5, y - 0.5, x + 0.5, y + 0.5]"),),
        ),
        Mistake(
            "x1, x2, y1, y2",
            "the numbers are right, their order is not: that is (xmin, xmax, ymin, ymax); a box is (x1, y1,"
            " x2, y2) here",
            edits=(
                ("[x, y, x + 1, y + 1]", "[x, x + 1, y, y + 1]"),
                ("[width / columns, height / rows] * 2", "[width / columns] * 2 + [height / rows] * 2"),
            ),
        ),
        Mistake(
            "width and height for the second corner",
            "the last two numbers are the size of a cell; a box ends with its lower right corner",
            edits=(("[x, y, x + 1, y + 1]", "[x, y, x * 0 + 1, y * 0 + 1]"),),
        ),
        Mistake(
            "centre and size",
            "this is (cx, cy, w, h); a box is two corners here",
            edits=(("[x, y, x + 1, y + 1]", "[x + 0.5, y + 0.5, x * 0 + 1, y * 0 + 1]"),),
        ),
        Mistake(
            "whole pixels only",
            "the size of a cell was rounded down: 640 pixels in 3 columns are 213.33 each, or the last column"
            " ends before the image does",
            edits=(("[width / columns, height / rows]", "[float(width // columns), float(height // rows)]"),),
        ),
        Mistake(
            "fractions of the image",
            "these boxes are in units of the image's sides, between 0 and 1; ours are in pixels",
            edits=(("width, height = image_size", "width, height = 1.0, 1.0"),),
        ),
        Mistake(
            "units of a cell",
            "these boxes count cells; multiply by the size of a cell in pixels",
            edits=(("[width / columns, height / rows] * 2", "[1.0] * 4"),),
        ),
        Mistake(
            "spread over one cell less",
            "the cells are too large, and the last ones lie outside: n cells have n - 1 borders between them,"
            " but the image is divided by n",
            edits=(
                (
                    "[width / columns, height / rows]",
                    "[width / max(columns - 1, 1), height / max(rows - 1, 1)]",
                ),
            ),
        ),
        Mistake(
            "last pixel instead of border",
            "each box ends one pixel early: x2 is where the next cell begins, there is no - 1 and no + 1",
            edits=(
                (
                    "[width / columns, height / rows] * 2)",
                    "[width / columns, height / rows] * 2) - torch.tensor([0, 0, 1.0, 1])",
                ),
            ),
        ),
        Mistake(
            "rows from the bottom up",
            "the first row is the lowest one: y grows downwards, row 0 is at the top",
            edits=(("torch.arange(rows)", "torch.arange(rows - 1, -1, -1)"),),
        ),
        Mistake(
            "always 640 x 480",
            "the cells are those of a 640 x 480 image, whatever image_size says",
            edits=(("width, height = image_size", "width, height = 640, 480"),),
        ),
    ],
    "anchor_shapes": [
        Mistake(
            "ratio inverted",
            "wide and tall are exchanged: here the aspect ratio is width / height, so 2 is wide (some"
            " libraries use height / width)",
            edits=((".sqrt()  # [R]", ".sqrt().reciprocal()"),),
        ),
        Mistake(
            "no square root",
            "the sides differ by the ratio squared: multiply one side by its root and divide the other by its"
            " root",
            edits=((".sqrt()  # [R]", ""),),
        ),
        Mistake(
            "area not kept",
            "only the width changes with the ratio, so the area does too; all ratios of a scale have one"
            " area",
            edits=((".sqrt()  # [R]", ""), ("height * s_y / root", "height * s_y * torch.ones_like(root)")),
        ),
        Mistake(
            "area not kept, height only",
            "only the height changes with the ratio, so the area does too; all ratios of a scale have one"
            " area",
            edits=((".sqrt()  # [R]", ""), ("width * s_x * root", "width * s_x * torch.ones_like(root)")),
        ),
        Mistake(
            "multiplied twice",
            "both sides grow with the ratio: what the width gains the height must lose",
            edits=(("s_y / root", "s_y * root"),),
        ),
        Mistake(
            "scales swapped",
            "s_y went to the width and s_x to the height; the scale is (s_x, s_y)",
            edits=(("(s_x, s_y), (width", "(s_y, s_x), (width"),),
        ),
        Mistake(
            "s_x for both sides",
            "the height was scaled by s_x; it has a scale of its own",
            edits=(("height * s_y / root", "height * s_x / root"),),
        ),
        Mistake(
            "image size read as (height, width)",
            "the sides of the image are exchanged: image_size is (width, height)",
            edits=(("(width, height) = scale", "(height, width) = scale"),),
        ),
        Mistake(
            "width for both sides",
            "the height was scaled from the image's width",
            edits=(("height * s_y / root", "width * s_y / root"),),
        ),
        Mistake(
            "fractions of the image",
            "these sizes are shares of the image; multiply by its width and height to have pixels",
            edits=(("width * s_x * root", "s_x * root"), ("height * s_y / root", "s_y / root")),
        ),
        Mistake(
            "height before width",
            "the columns are (height, width); they should be (width, height)",
            edits=(
                ("[width * s_x * root, height * s_y / root]", "[height * s_y / root, width * s_x * root]"),
            ),
        ),
        Mistake(
            "sides in rows",
            "the result lies on its side: a row is one anchor, the columns are its width and height",
            edits=(("dim=-1)", "dim=0)"),),
        ),
        Mistake(
            "half the size",
            "these are half widths and half heights, the reach from the centre",
            edits=(
                ("width * s_x * root", "width / 2 * s_x * root"),
                ("height * s_y / root", "height / 2 * s_y / root"),
            ),
        ),
        Mistake(
            "sorts the caller's ratios",
            "the list of ratios that came in is in another order afterwards; the caller still needs it",
            edits=(("    root = ", "    ratios.sort()\n    root = "),),
        ),
    ],
    "linear_scales": [
        Mistake(
            "largest never reached",
            "the last scale falls short of `largest`: n values have n - 1 steps between them",
            edits=(("max(levels - 1, 1)", "levels"),),
        ),
        Mistake(
            "smallest left out",
            "the first scale is one step too large: the paper counts its levels from 1 and multiplies by"
            " k - 1",
            edits=(("torch.arange(levels)", "torch.arange(1, levels + 1)"),),
        ),
        Mistake(
            "evenly spaced in their ratio",
            "each scale is the one before times a constant; linear means plus a constant",
            edits=(
                (
                    "return smallest + step * torch.arange(levels)",
                    "return smallest * (largest / smallest) ** (torch.arange(levels) / max(levels - 1, 1))",
                ),
            ),
        ),
        Mistake(
            "largest first",
            "the scales fall; the first level is the finest grid and has the smallest one",
            edits=(("smallest + step", "largest - step"),),
        ),
        Mistake(
            "one scale too many",
            "there is one scale more than levels; look at where the count ends",
            edits=(("torch.arange(levels)", "torch.arange(levels + 1)"),),
        ),
        Mistake(
            "0.2 and 0.9 whatever was asked",
            "these are the scales from 0.2 to 0.9; `smallest` and `largest` were given",
            edits=(("step = (largest", "smallest, largest = 0.2, 0.9\n    step = (largest"),),
        ),
        Mistake(
            "0 / 0 for one level",
            "a single level has no steps, so the number of steps is no divisor then",
            edits=(("max(levels - 1, 1)", "(levels - 1)"),),
        ),
        Mistake(
            "steps of 0.1",
            "the step is fixed; it follows from the two ends and the number of levels",
            edits=(("(largest - smallest) / max(levels - 1, 1)", "0.1"),),
        ),
    ],
    "ssd_anchors": [
        Mistake(
            "no extra anchor",
            "the anchor of scale sqrt(s_j * s_(j+1)) is missing: each cell has one more than there are"
            " ratios",
            edits=((", extra])", "])"),),
        ),
        Mistake(
            "extra anchor missing on the last level",
            "the last level has one anchor a cell too few: after the last scale comes 1.0",
            edits=(
                ("[*scales[1:], (1.0, 1.0)]", "[*scales[1:], None]"),
                (
                    "    between = [math.sqrt(s * t) for s, t in zip(scale, following)]",
                    (
                        "    between = scale if following is None else [math.sqrt(s * t) for s, t in"
                        " zip(scale, following)]"
                    ),
                ),
                (
                    "anchor_shapes(between, [1], image_size)",
                    "anchor_shapes(between, [1] if following else [], image_size)",
                ),
            ),
        ),
        Mistake(
            "last level's own scale again",
            "on the last level the extra anchor is as large as the one of ratio 1: the next scale is 1.0"
            " there, not its own",
            edits=(("(1.0, 1.0)]", "scales[-1]]"),),
        ),
        Mistake(
            "index past the last scale",
            "the last level has no next scale in the list; 1.0 stands for it",
            edits=(
                ("zip(grids, scales, [*scales[1:], (1.0, 1.0)])", "zip(grids, scales, range(len(grids)))"),
                ("zip(scale, following)", "zip(scale, scales[following + 1])"),
            ),
        ),
        Mistake(
            "wraps to the first scale",
            "the last level took the first one's scale as its next; 1.0 stands there",
            edits=(("(1.0, 1.0)]", "scales[0]]"),),
        ),
        Mistake(
            "mean of the scales",
            "the extra scale is half the sum of two scales; it should be the root of their product",
            edits=(("math.sqrt(s * t)", "(s + t) / 2"),),
        ),
        Mistake(
            "no root",
            "the extra scale is the product of two scales, smaller than both; take the root",
            edits=(("math.sqrt(s * t)", "s * t"),),
        ),
        Mistake(
            "scale before instead of next",
            "the extra anchor is between this level's scale and the one before; it should be the next",
            edits=(("[*scales[1:], (1.0, 1.0)]", "[(1.0, 1.0), *scales[:-1]]"),),
        ),
        Mistake(
            "one scale for both axes",
            "the extra anchor's height comes from the scales of x; x and y have scales of their own",
            edits=(("in zip(scale, following)]", "in [(scale[0], following[0])] * 2]"),),
        ),
        Mistake(
            "s_x for both sides",
            "the heights are scaled by s_x; y has a scale of its own",
            edits=(
                (
                    "zip(grids, scales, [*scales",
                    "zip(grids, [(s_x, s_x) for s_x, _ in scales], [*scales",
                ),
            ),
        ),
        Mistake(
            "last level left out",
            "there are no anchors of the last level; with a single level there are none at all",
            edits=(("[*scales[1:], (1.0, 1.0)]", "scales[1:]"),),
        ),
        Mistake(
            "last level left out, empty with one level",
            "there are no anchors of the last level; with a single level there are none at all",
            edits=(
                ("zip(grids, scales, [*scales[1:], (1.0, 1.0)])", "zip(grids, scales, scales[1:])"),
                ("return torch.cat(levels)", "return torch.tensor([a for level in levels for a in level.tolist()])"),
            ),
        ),
        Mistake(
            "extra anchor first",
            "the extra anchor comes before the ratios in each cell; it should be the last",
            edits=(
                (
                    "[anchor_shapes(scale, ratios, image_size), extra]",
                    "[extra, anchor_shapes(scale, ratios, image_size)]",
                ),
            ),
        ),
        Mistake(
            "extra anchor second",
            "the extra anchor stands right after the first ratio, as torchvision has it; here it is the last",
            edits=(
                (
                    "torch.cat([anchor_shapes(scale, ratios, image_size), extra])",
                    "torch.cat([anchor_shapes(scale, ratios[:1], image_size), extra,"
                    " anchor_shapes(scale, ratios[1:], image_size)])",
                ),
            ),
        ),
        Mistake(
            "every ratio twice",
            "the in-between scale was used with all ratios; there is one extra anchor, of ratio 1",
            edits=(
                ("anchor_shapes(between, [1], image_size)", "anchor_shapes(between, ratios, image_size)"),
            ),
        ),
        Mistake(
            "centre on the cell's corner",
            "the anchors sit on the upper left corners of the cells; they belong on the centres",
            edits=(("(cells[:, None, :2] + cells[:, None, 2:]) / 2", "cells[:, None, :2]"),),
        ),
        Mistake(
            "twice the size",
            "the anchors are twice as wide and high: from the centre it is half a side each way",
            edits=(("[centres - shapes / 2, centres + shapes / 2]", "[centres - shapes, centres + shapes]"),),
        ),
        Mistake(
            "corner of the cell as corner of the anchor",
            "the anchors begin where their cells begin; their centre is the cell's centre",
            edits=(
                (
                    "[centres - shapes / 2, centres + shapes / 2]",
                    "[cells[:, None, :2] + 0 * shapes, cells[:, None, :2] + shapes]",
                ),
            ),
        ),
        Mistake(
            "centre and size",
            "these are (cx, cy, w, h); the result is two corners",
            edits=(
                (
                    "[centres - shapes / 2, centres + shapes / 2]",
                    "[centres + 0 * shapes, 0 * centres + shapes]",
                ),
            ),
        ),
        Mistake(
            "anchors outside of cells",
            "first come all cells of one ratio, then all of the next; all anchors of a cell should stand"
            " together",
            edits=(("anchors.reshape(-1, 4)", "anchors.transpose(0, 1).reshape(-1, 4)"),),
        ),
        Mistake(
            "column by column",
            "the cells come column by column; row by row, x runs faster than y",
            edits=(
                (
                    "anchors.reshape(-1, 4)",
                    "anchors.reshape(rows, columns, -1, 4).transpose(0, 1).reshape(-1, 4)",
                ),
            ),
        ),
        Mistake(
            "levels from coarse to fine",
            "the levels come in reverse: they should stay in the order of `grids`",
            edits=(("torch.cat(levels)", "torch.cat(levels[::-1])"),),
        ),
        Mistake(
            "clipped at the image's border",
            "anchors at the border were cut off; they keep their size and reach out of the image",
            edits=(
                (
                    "torch.cat(levels)",
                    (
                        "torch.cat(levels).clamp(min=0).minimum(torch.tensor([*image_size, *image_size],"
                        " dtype=torch.float32))"
                    ),
                ),
            ),
        ),
        Mistake(
            "sizes clipped to the image's",
            "an anchor wider than the image was made as wide as the image; anchors are not clipped, in no"
            " form",
            edits=(
                (
                    "centres = ",
                    (
                        "shapes = shapes.minimum(torch.tensor(image_size, dtype=torch.float32))\n       "
                        " centres = "
                    ),
                ),
            ),
        ),
        Mistake(
            "ratio inverted",
            "wide and tall are exchanged: the aspect ratio is width / height here",
            edits=(
                (
                    "anchor_shapes(scale, ratios, image_size)",
                    "anchor_shapes(scale, [1 / a for a in ratios], image_size)",
                ),
            ),
        ),
        Mistake(
            "no square root of the ratio",
            "the sides differ by the ratio squared: multiply one side by its root and divide the other by its"
            " root",
            edits=(
                (
                    "anchor_shapes(scale, ratios, image_size)",
                    "anchor_shapes(scale, [a * a for a in ratios], image_size)",
                ),
            ),
        ),
        Mistake(
            "area not kept",
            "the width follows the ratio and the height does not, so the area changes; all ratios of a scale"
            " have one area",
            edits=(
                (
                    "[anchor_shapes(scale, ratios, image_size), extra]",
                    "[torch.stack([s[:, 0], s[:, 1] * torch.tensor(ratios).sqrt()], 1)"
                    " for s in [anchor_shapes(scale, ratios, image_size)]] + [extra]",
                ),
            ),
        ),
        Mistake(
            "image size read as (height, width)",
            "the sides of the image are exchanged: image_size is (width, height)",
            edits=(("    levels = []", "    image_size = image_size[::-1]\n    levels = []"),),
        ),
        Mistake(
            "always 640 x 480",
            "the anchors are those of a 640 x 480 image, whatever image_size says",
            edits=(("    levels = []", "    image_size = (640, 480)\n    levels = []"),),
        ),
        Mistake(
            "x1, x2, y1, y2",
            "the numbers are right, their order is not: that is (xmin, xmax, ymin, ymax); a box is (x1, y1,"
            " x2, y2) here",
            edits=(("torch.cat(levels)", "torch.cat(levels)[:, [0, 2, 1, 3]]"),),
        ),
        Mistake(
            "scales swapped",
            "s_y went to the width and s_x to the height",
            edits=(
                ("[anchor_shapes(scale, ratios", "[anchor_shapes(scale[::-1], ratios"),
                ("zip(scale, following)]", "zip(scale[::-1], following[::-1])]"),
            ),
        ),
        Mistake(
            "columns and rows swapped",
            "the grids have as many rows as they should have columns: a grid is (columns, rows)",
            edits=(("tile_anchors(columns, rows,", "tile_anchors(rows, columns,"),),
        ),
        Mistake(
            "anchors of the first image size",
            "these anchors fit an image of another size that was asked for before: anchors depend on"
            " image_size too",
            edits=(
                ("scales, ratios, image_size):", "scales, ratios, image_size, kept={}):"),
                ("return torch.cat(levels)", "return kept.setdefault(str(grids), torch.cat(levels))"),
            ),
        ),
        Mistake(
            "one array a level",
            "the levels were not joined: the result is one tensor with all anchors",
            edits=(("return torch.cat(levels)", "return levels"),),
        ),
        Mistake(
            "adds to the caller's scales",
            "the list of scales that came in is longer afterwards; the caller still needs it as it was",
            edits=(("    levels = []", "    scales.append((1.0, 1.0))\n    levels = []"),),
        ),
    ],
}
