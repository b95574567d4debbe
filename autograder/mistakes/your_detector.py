"""Wrong answers to the exercises of lesson 14."""

from . import Mistake

# rename_keys
FITTING = "fitting = [rule for rule in rules if name.startswith(rule[0])]"
LONGEST = "before, after = max(fitting, key=lambda rule: len(rule[0]))"
NEW = "new = after + name[len(before) :]"
NO_RULE = '''            raise ValueError(f"no rule for {name!r}: is this the file of another detector?")'''
TWICE = '''        if new in renamed:
            raise ValueError(f"{name!r} becomes {new!r}, and so did another name")
'''
UNWANTED = '''            raise ValueError(f"{name!r} becomes {new!r}, which the module does not have")'''
SHAPE = '''        if tuple(tensor.shape) != tuple(shapes[new]):
            raise ValueError(f"{new!r} is {tuple(tensor.shape)} in the file, expected {tuple(shapes[new])}")
'''
MISSING = "    missing = [name for name in shapes if name not in renamed]"
# to_original
FACTORS = "across, down = (image / network for image, network in zip(image_size, network_size))"
SCALED = "return boxes * boxes.new_tensor([across, down, across, down])"
# library_anchors
X_OF = "x = torch.arange(columns, dtype=cell.dtype, device=cell.device) * (width // columns)"
Y_OF = "y = torch.arange(rows, dtype=cell.dtype, device=cell.device) * (height // rows)"
CELL = "corners = cell.transpose(0, 1).reshape(-1, 4).round()"
PLACED = "return (torch.stack([x, y, x, y], -1)[:, :, None] + corners).reshape(-1, 4)"
# library_decode
WEIGHTED = "(delta / weight for delta, weight in zip(deltas.unbind(1), weights))"
CENTRES = "x, y = dx * width + (x1 + 0.5 * width), dy * height + (y1 + 0.5 * height)"
HALF_WIDTH = "half_width = 0.5 * (dw.clamp(max=most).exp() * width)"
HALF_HEIGHT = "half_height = 0.5 * (dh.clamp(max=most).exp() * height)"
CORNERS = "return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], 1)"
# images_per_second
WARM = "    for _ in range(warm_up):\n        detect(images)\n"
BEFORE = "        if synchronize:\n            synchronize()\n        start = clock()\n"
AFTER = "        if synchronize:\n            synchronize()\n        times.append(clock() - start)\n"
SPEED = "return len(images) / statistics.median(times)"
# coco_results
BOX = "box = [x1, y1, x2 - x1, y2 - y1]"
ENTRY = '{"image_id": int(image_id), "category_id": category_ids[label], "bbox": box, "score": score}'

MISTAKES = {
    "rename_keys": [
        Mistake("replaced everywhere", "the text is replaced wherever it stands in a name: only the beginning changes",
                edits=((NEW, "new = name.replace(before, after)"),)),
        Mistake("any place counts", "a rule is applied to names that hold its text somewhere: a name has to begin with it",
                edits=((FITTING, "fitting = [rule for rule in rules if rule[0] in name]"),
                       (NEW, "new = name.replace(before, after, 1)"))),
        Mistake("the first rule", "the first rule of the list is taken: of several that apply, the longest counts",
                edits=((LONGEST, "before, after = fitting[0]"),)),
        Mistake("the last rule", "the last rule of the list is taken: of several that apply, the longest counts",
                edits=((LONGEST, "before, after = fitting[-1]"),)),
        Mistake("the shortest rule", "the shortest rule is taken: of several that apply, the longest counts",
                edits=((LONGEST, LONGEST.replace("max", "min")),)),
        Mistake("all rules one after the other", "a name is renamed by several rules in turn: one rule counts for each name",
                edits=((FITTING, "fitting = [rule for rule in rules if name.startswith(rule[0])]\n        new = name"),
                       (LONGEST, "for before, after in sorted(rules, key=lambda rule: -len(rule[0])):"),
                       (NEW, "    new = after + new[len(before):] if new.startswith(before) else new"))),
        Mistake("the beginning is lost", "the new beginning is missing: it takes the place of the old one",
                edits=((NEW, "new = name[len(before) :]"),)),
        Mistake("the old beginning stays", "the old beginning still stands behind the new one",
                edits=((NEW, "new = after + name"),)),
        Mistake("names without a rule are passed over", "a name to which no rule applies is left out silently: it has to be an error",
                edits=((NO_RULE, "            continue"),)),
        Mistake("names without a rule stay", "a name to which no rule applies is kept as it is: it has to be an error that says this name",
                edits=((NO_RULE, "            fitting = [('', '')]"),)),
        Mistake("two become one", "two names become the same and one tensor is lost: that has to be an error",
                edits=((TWICE, ""),)),
        Mistake("unwanted names are passed over", "a tensor that the module does not want is left out silently: that has to be an error",
                edits=((UNWANTED, "            continue"),)),
        Mistake("shapes are not looked at", "a tensor of another shape passes: compare the shapes",
                edits=((SHAPE, ""),)),
        Mistake("only the number of axes", "the number of axes is compared, not the shape",
                edits=(("if tuple(tensor.shape) != tuple(shapes[new])", "if len(tensor.shape) != len(shapes[new])"),)),
        Mistake("as many numbers", "a tensor with as many numbers in another shape passes: (2, 3) is not (3, 2)",
                edits=(("if tuple(tensor.shape) != tuple(shapes[new])", "if tensor.numel() != math.prod(shapes[new])"),)),
        Mistake("reshaped to fit", "a tensor of another shape is reshaped: that mixes its numbers up",
                edits=((SHAPE, ""), ("renamed[new] = tensor", "renamed[new] = tensor.reshape(shapes[new])"))),
        Mistake("nothing is missed", "a name that is wanted does not come, and nobody says so: its random numbers would stay",
                edits=((MISSING, "    missing = []"),)),
        Mistake("a message without names", "the error says neither which name nor which shapes: say what is wrong",
                edits=((NO_RULE, '            raise ValueError("no rule")'), (UNWANTED, '            raise ValueError("unexpected key")'))),
        Mistake("a KeyError", "a KeyError is raised by a look-up: raise a ValueError that says what is wrong",
                edits=(("        if new not in shapes:\n", "        if False:\n"), (NO_RULE, "            raise KeyError(name)"))),
    ],  # fmt: skip
    "to_original": [
        Mistake("the wrong way", "these boxes are scaled from the original to the network's image: it is the other way round",
                edits=((FACTORS, FACTORS.replace("image / network for", "network / image for")),)),
        Mistake("one factor", "x and y have the same factor, that of the widths: the heights have their own",
                edits=((SCALED, SCALED.replace("down", "across")),)),
        Mistake("the factor of the heights", "x and y have the same factor, that of the heights: the widths have their own",
                edits=((SCALED, "return boxes * boxes.new_tensor([down] * 4)"),)),
        Mistake("the factor of the longer side", "both axes have the factor of one side: each has its own",
                edits=((SCALED, "return boxes * max(across, down)"),)),
        Mistake("the mean factor", "both axes have the mean factor: each has its own",
                edits=((SCALED, "return boxes * ((across + down) / 2)"),)),
        Mistake("sizes as (height, width)", "x has the factor of the heights: sizes are (width, height)",
                edits=(("across, down = ", "down, across = "),)),
        Mistake("(x, x, y, y)", "the second and third numbers have each other's factor: a box is (x1, y1, x2, y2)",
                edits=((SCALED, SCALED.replace("[across, down, across, down]", "[across, across, down, down]")),)),
        Mistake("xywh", "only the corner is scaled: the last two numbers are a corner too",
                edits=((SCALED, SCALED.replace("[across, down, across, down]", "[across, down, 1, 1]")),)),
        Mistake("rounded factors", "the factors are rounded down to whole numbers: divide with /",
                edits=((FACTORS, FACTORS.replace("image / network for", "image // network for")),)),
        Mistake("rounded boxes", "the boxes are rounded to whole pixels: nothing asks for that",
                edits=((SCALED, SCALED.replace("return ", "return (") + ").round()"),)),
        Mistake("in place", "the boxes that came in are changed: make new ones",
                edits=((SCALED, SCALED.replace("boxes * boxes", "boxes.mul_(boxes").replace("down])", "down]))")),)),
        Mistake("the differences", "the difference of the sizes is added: sizes are to be divided",
                edits=((SCALED, "return boxes + boxes.new_tensor([image_size[0] - network_size[0], image_size[1] - network_size[1]] * 2)"),)),
    ],  # fmt: skip
    "library_anchors": [
        Mistake("sizes outside", "in a cell these anchors go size by size: torchvision has the ratios outside",
                edits=((CELL, CELL.replace(".transpose(0, 1)", "")),)),
        Mistake("not rounded", "these anchors are not rounded",
                edits=((CELL, CELL.replace(".round()", "")),)),
        Mistake("rounded in place of halves to even", "halves are rounded up: they go to the even number, as torch.round does",
                edits=((CELL, CELL.replace(".round()", ".add(0.5).floor()")),)),
        Mistake("cut, not rounded", "the fractions are cut off: round to the nearest whole number",
                edits=((CELL, CELL.replace(".round()", ".trunc()")),)),
        Mistake("rounded down", "the corners are rounded down: round to the nearest whole number",
                edits=((CELL, CELL.replace(".round()", ".floor()")),)),
        Mistake("centres of cells", "these anchors lie around the centres of the cells: torchvision's location is the corner",
                edits=((X_OF, X_OF + " + width // columns // 2"), (Y_OF, Y_OF + " + height // rows // 2"))),
        Mistake("one step for both axes", "rows are as far apart as columns: each axis has its own step",
                edits=((Y_OF, Y_OF.replace("height // rows", "width // columns")),)),
        Mistake("the step of the rows", "columns are as far apart as rows: each axis has its own step",
                edits=((X_OF, X_OF.replace("width // columns", "height // rows")),)),
        Mistake("a step with a fraction", "the step is not rounded down: it is width // columns",
                edits=((X_OF, X_OF.replace("//", "/")), (Y_OF, Y_OF.replace("//", "/")))),
        Mistake("a step rounded up", "the step is rounded up: it is width // columns",
                edits=((X_OF, X_OF.replace("(width // columns)", "-(-width // columns)")), (Y_OF, Y_OF.replace("(height // rows)", "-(-height // rows)")))),
        Mistake("a power of two", "the step is the level's stride, a power of two: torchvision divides the padded size by the cells",
                edits=((X_OF, X_OF.replace("(width // columns)", "2 ** round(math.log2(width / columns))")),
                       (Y_OF, Y_OF.replace("(height // rows)", "2 ** round(math.log2(height / rows))")))),
        Mistake("rows and columns exchanged", "grid is (columns, rows): the first number counts to the right",
                edits=(("(columns, rows), (width, height)", "(rows, columns), (width, height)"),)),
        Mistake("height before width", "padded is (width, height)",
                edits=(("(columns, rows), (width, height)", "(columns, rows), (height, width)"),)),
        Mistake("column by column", "these anchors go down the columns: x is the inner one",
                edits=((PLACED, PLACED.replace("[:, :, None]", ".transpose(0, 1)[:, :, None]")),)),
        Mistake("all cells for each anchor", "these go anchor by anchor, with all cells for each: a cell's anchors stand together",
                edits=((PLACED, "return (torch.stack([x, y, x, y], -1).reshape(1, -1, 4) + corners[:, None]).reshape(-1, 4)"),)),
        Mistake("y before x", "the locations are (y, x): x comes first",
                edits=((PLACED, PLACED.replace("[x, y, x, y]", "[y, x, y, x]")),)),
        Mistake("cells, not pixels", "the locations are numbers of cells: multiply by the step",
                edits=((X_OF, X_OF.replace(" * (width // columns)", "")), (Y_OF, Y_OF.replace(" * (height // rows)", "")))),
        Mistake("clipped to the image", "these anchors are clipped to the image: torchvision lets them reach out of it",
                edits=((PLACED, PLACED + ".clamp(min=0)"),)),
    ],  # fmt: skip
    "library_decode": [
        Mistake("multiplied by the inverse", "the deltas are multiplied by 1 / weight: divide them, the last bits differ",
                edits=((WEIGHTED, WEIGHTED.replace("delta / weight", "delta * (1 / weight)")),)),
        Mistake("multiplied by the weights", "the deltas are multiplied by the weights: they are divided",
                edits=((WEIGHTED, WEIGHTED.replace("delta / weight", "delta * weight")),)),
        Mistake("no weights", "the deltas are taken as they are: divide them by the weights",
                edits=((WEIGHTED, "deltas.unbind(1)"),)),
        Mistake("the middle of both corners", "the centre is (x1 + x2) / 2: torchvision adds half of the width to x1, the last bits differ",
                edits=((CENTRES, "x, y = dx * width + (x1 + x2) / 2, dy * height + (y1 + y2) / 2"),)),
        Mistake("added to the corner first", "d · width is added to x1 before half of the width: the brackets count, the last bits differ",
                edits=((CENTRES, "x, y = (dx * width + x1) + 0.5 * width, (dy * height + y1) + 0.5 * height"),)),
        Mistake("from the corner", "the shift begins at the corner: it begins at the centre",
                edits=((CENTRES, "x, y = dx * width + x1, dy * height + y1"),)),
        Mistake("the same size for both axes", "the shift in y counts in widths: it counts in heights",
                edits=((CENTRES, CENTRES.replace("dy * height", "dy * width")),)),
        Mistake("no clamp", "sizes grow without end: the logarithm stops at ln(1000 / 16)",
                edits=((HALF_WIDTH, HALF_WIDTH.replace(".clamp(max=most)", "")), (HALF_HEIGHT, HALF_HEIGHT.replace(".clamp(max=most)", "")))),
        Mistake("clamped before the weights", "the deltas stop at ln(1000 / 16) before they are divided: divide first",
                edits=((WEIGHTED, "(delta.clamp(max=math.log(1000 / 16)) / weight if i > 1 else delta / weight for i, (delta, weight) in enumerate(zip(deltas.unbind(1), weights)))"),)),
        Mistake("clamped on both sides", "small sizes are stopped as well: only large ones are",
                edits=((HALF_WIDTH, HALF_WIDTH.replace("clamp(max=most)", "clamp(-most, most)")),
                       (HALF_HEIGHT, HALF_HEIGHT.replace("clamp(max=most)", "clamp(-most, most)")))),
        Mistake("no exp", "sizes are 1 + d: they are exp(d) times the anchor's",
                edits=((HALF_WIDTH, HALF_WIDTH.replace("dw.clamp(max=most).exp()", "(1 + dw.clamp(max=most))")),
                       (HALF_HEIGHT, HALF_HEIGHT.replace("dh.clamp(max=most).exp()", "(1 + dh.clamp(max=most))")))),
        Mistake("whole sizes for halves", "the corners lie a whole width from the centre: it is half of it",
                edits=((HALF_WIDTH, HALF_WIDTH.replace("0.5 * ", "")), (HALF_HEIGHT, HALF_HEIGHT.replace("0.5 * ", "")))),
        Mistake("cxcywh", "these are centres and sizes: corners are wanted",
                edits=((CORNERS, "return torch.stack([x, y, 2 * half_width, 2 * half_height], 1)"),)),
        Mistake("width and height exchanged", "dw stretches the height and dh the width",
                edits=(("dx, dy, dw, dh = ", "dx, dy, dh, dw = "),)),
        Mistake("(x, x, y, y)", "the order is (x1, x2, y1, y2): (x1, y1, x2, y2) is wanted",
                edits=((CORNERS, CORNERS.replace("x - half_width, y - half_height, x + half_width, y + half_height",
                                                 "x - half_width, x + half_width, y - half_height, y + half_height")),)),
    ],  # fmt: skip
    "images_per_second": [
        Mistake("the mean", "this is over the mean: one hiccup spoils it, take the median",
                edits=((SPEED, "return len(images) / statistics.mean(times)"),)),
        Mistake("the fastest", "this is the fastest call: take the median",
                edits=((SPEED, "return len(images) / min(times)"),)),
        Mistake("the slowest", "this is the slowest call: take the median",
                edits=((SPEED, "return len(images) / max(times)"),)),
        Mistake("the lower median", "of an even number of times the lower middle one is taken: the median is the mean of both",
                edits=((SPEED, "return len(images) / sorted(times)[(len(times) - 1) // 2]"),)),
        Mistake("not sorted", "the middle call is taken, not the middle of the sorted times",
                edits=((SPEED, "return len(images) / times[len(times) // 2]"),)),
        Mistake("the warm-up counts", "the calls of the warm-up are measured too",
                edits=(("range(warm_up)", "range(0)"), ("range(repeats)", "range(warm_up + repeats)"))),
        Mistake("no warm-up", "nothing is called before it is measured: the first calls are slow",
                edits=((WARM, ""),)),
        Mistake("warm-up taken from the repeats", "the warm-up calls are subtracted from those that are measured",
                edits=(("range(repeats)", "range(repeats - warm_up or 1)"),)),
        Mistake("never synchronised", "the clock is read while the device still works: wait for it after each call, then read",
                edits=((BEFORE, "        start = clock()\n"), (AFTER, "        times.append(clock() - start)\n"))),
        Mistake("synchronised after only", "work from before the measurement is counted: wait for the device before the first reading too",
                edits=((BEFORE, "        start = clock()\n"),)),
        Mistake("seconds, not images per second", "this is the time of an image: the number of images in a second is wanted",
                edits=((SPEED, "return statistics.median(times) / len(images)"),)),
        Mistake("calls per second", "these are calls in a second: a call looks at several images",
                edits=((SPEED, "return 1 / statistics.median(times)"),)),
        Mistake("one call too many", "one call more than asked for is measured",
                edits=(("range(repeats)", "range(repeats + 1)"),)),
    ],  # fmt: skip
    "coco_results": [
        Mistake("corners", "bbox holds two corners: COCO wants the upper left one, width and height",
                edits=((BOX, "box = [x1, y1, x2, y2]"),)),
        Mistake("the centre", "bbox begins with the centre: COCO wants the upper left corner",
                edits=((BOX, "box = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]"),)),
        Mistake("one pixel more", "width and height are one pixel too large: there is no + 1",
                edits=((BOX, "box = [x1, y1, x2 - x1 + 1, y2 - y1 + 1]"),)),
        Mistake("y before x", "bbox is (y, x, height, width): x comes first",
                edits=((BOX, "box = [y1, x1, y2 - y1, x2 - x1]"),)),
        Mistake("whole pixels", "the numbers of bbox are rounded: that costs AP",
                edits=((BOX, "box = [round(x1), round(y1), round(x2 - x1), round(y2 - y1)]"),)),
        Mistake("labels for categories", "category_id is the label: look it up in category_ids",
                edits=(("category_ids[label]", "label"),)),
        Mistake("labels from 0", "the category of the label before is taken: labels begin with 1",
                edits=(("category_ids[label]", "category_ids.get(label - 1, 0)"),)),
        Mistake("the number in the batch", "image_id counts the images of the batch: image_ids says their numbers",
                edits=(("for image_id, one in zip(image_ids, detections)", "for image_id, one in enumerate(detections)"),)),
        Mistake("images in the order of their numbers", "the detections belong to other images: image_ids are in the order of the detections",
                edits=(("zip(image_ids, detections)", "zip(sorted(image_ids), detections)"),)),
        Mistake("only the best of each image", "one detection of each image is given: all are wanted",
                edits=(("    return found", "    return list({one['image_id']: one for one in reversed(found)}.values())[::-1]"),)),
        Mistake("a list for each image", "there is a list for each image: one list holds all detections",
                edits=(("    return found", "    return [[one for one in found if one['image_id'] == i] for i in image_ids]"),)),
        Mistake("tensors", "there are tensors in it, which JSON cannot hold: use tolist() or item()",
                edits=((BOX, "box = torch.tensor([x1, y1, x2 - x1, y2 - y1])"),)),
        Mistake("rounded scores", "scores are rounded: that makes ties where there were none",
                edits=(('"score": score}', '"score": round(score, 2)}'),)),
        Mistake("scores as percent", "scores are percent: they stay in 0..1",
                edits=(('"score": score}', '"score": 100 * score}'),)),
        Mistake("another key", "the box stands under another key: COCO calls it bbox",
                edits=(('"bbox": box', '"box": box'),)),
        Mistake("sorted by score", "the detections of all images are sorted by score: they keep their order",
                edits=(("    return found", "    return sorted(found, key=lambda one: -one['score'])"),)),
        Mistake("changes the boxes", "the boxes that came in are changed: make new ones",
                edits=(("    found = []", "    found = []\n    for one in detections:\n        one['boxes'][:, 2:] -= one['boxes'][:, :2]"),
                       (BOX, "box = [x1, y1, x2, y2]"))),
    ],  # fmt: skip
}
