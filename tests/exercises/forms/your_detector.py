"""Right answers to the exercises of lesson 14, in other forms."""

import json
import math
import statistics

import numpy as np
import torch


def rename_keys__loops(state, rules, shapes):
    """By hand: the longest rule is looked for, everything is counted."""
    out, used = {}, []
    for key in state:
        best = None
        for old, new in rules:
            if key[: len(old)] == old and (best is None or len(old) > len(best[0])):
                best = (old, new)
        if best is None:
            raise ValueError("I do not know " + key)
        target = best[1] + key.removeprefix(best[0])
        if target in used:
            raise ValueError("twice: " + target)
        used.append(target)
        if target not in shapes.keys():
            raise ValueError("not wanted: " + target)
        have, want = list(state[key].size()), list(shapes[target])
        if have != want:
            raise ValueError(target + ": " + str(tuple(have)) + " is not " + str(tuple(want)))
        out[target] = state[key].clone()
    for key in shapes:
        if key not in used:
            raise ValueError("missing: " + key)
    return out


def rename_keys__sorted_rules(state, rules, shapes):
    """Rules sorted once; all errors are looked for at the end."""
    rules = sorted(rules, key=lambda rule: len(rule[0]), reverse=True)

    def new_name(key):
        for old, new in rules:
            if key.startswith(old):
                return new + key[len(old) :]
        raise ValueError(f"no rule for {key}")

    names = {key: new_name(key) for key in state}
    values = list(names.values())
    for name in values:
        if values.count(name) > 1:
            raise ValueError(f"{name} comes {values.count(name)} times")
    odd = set(values) ^ set(shapes)
    if odd:
        raise ValueError(f"left over or missing: {sorted(odd)}")
    renamed = {names[key]: tensor for key, tensor in state.items()}
    wrong = [f"{n}: {tuple(t.shape)}, wanted {tuple(shapes[n])}" for n, t in renamed.items() if tuple(t.shape) != tuple(shapes[n])]
    if wrong:
        raise ValueError("; ".join(wrong))
    return renamed


def rename_keys__in_the_order_wanted(state, rules, shapes):
    """Goes over the names that are wanted, after a table from new to old ones."""
    table = {}
    for key in state:
        lengths = [len(old) if key.startswith(old) else -1 for old, _ in rules]
        if not lengths or max(lengths) < 0:
            raise ValueError(f"{key!r} fits no rule")
        old, new = rules[lengths.index(max(lengths))]
        target = f"{new}{key[len(old):]}"
        if target in table:
            raise ValueError(f"{table[target]!r} and {key!r} are both {target!r}")
        table[target] = key
    for target in table:
        if target not in shapes:
            raise ValueError(f"no place for {target!r}")
    result = {}
    for target, shape in shapes.items():
        if target not in table:
            raise ValueError(f"no tensor for {target!r}")
        tensor = state[table[target]]
        if torch.Size(shape) != tensor.shape:
            raise ValueError(f"{target!r}: {tuple(shape)} expected, {tuple(tensor.shape)} found")
        result[target] = tensor.detach()
    return result


def to_original__columns(boxes, network_size, image_size):
    x = image_size[0] / network_size[0]
    y = image_size[1] / network_size[1]
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x1 * x, y1 * y, x2 * x, y2 * y), dim=-1)


def to_original__shares(boxes, network_size, image_size):
    """Boxes as shares of the image first."""
    network = torch.tensor([*network_size, *network_size], dtype=boxes.dtype)
    image = torch.tensor([*image_size, *image_size], dtype=boxes.dtype)
    return boxes / network * image


def to_original__in_place_on_a_copy(boxes, network_size, image_size):
    out = boxes.clone()
    out[:, [0, 2]] *= image_size[0] / network_size[0]
    out[:, [1, 3]] *= image_size[1] / network_size[1]
    return out


def to_original__a_matrix(boxes, network_size, image_size):
    factors = [image / network for image, network in zip(image_size, network_size)]
    return boxes @ torch.diag(torch.tensor([*factors, *factors], dtype=boxes.dtype))


def library_anchors__loops(cell, grid, padded):
    columns, rows = grid
    across, down = padded[0] // columns, padded[1] // rows
    anchors = []
    for y in range(rows):
        for x in range(columns):
            for ratio in range(cell.shape[1]):
                for size in range(cell.shape[0]):
                    anchors.append(torch.round(cell[size, ratio]) + torch.tensor([x * across, y * down, x * across, y * down], dtype=cell.dtype))
    return torch.stack(anchors) if anchors else cell.new_zeros(0, 4)


def library_anchors__numpy(cell, grid, padded):
    """NumPy rounds halves to even too."""
    (columns, rows), (width, height) = grid, padded
    x, y = np.meshgrid(np.arange(columns) * (width // columns), np.arange(rows) * (height // rows))
    places = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    corners = np.rint(cell.numpy()).transpose(1, 0, 2).reshape(1, -1, 4)
    return torch.from_numpy((places + corners).reshape(-1, 4).astype(cell.numpy().dtype))


def library_anchors__one_count(cell, grid, padded):
    """From the number of each row: which cell, which ratio, which size."""
    sizes, ratios = cell.shape[:2]
    (columns, rows), each = grid, sizes * ratios
    number = torch.arange(columns * rows * each)
    place, inside = number // max(each, 1), number % max(each, 1)
    x, y = place % columns * (padded[0] // columns), place // columns * (padded[1] // rows)
    corners = cell[inside % max(sizes, 1), inside // max(sizes, 1)].round()
    return corners + torch.stack([x, y, x, y], 1).to(cell.dtype)


def library_anchors__broadcast(cell, grid, padded):
    """All axes at once: [rows, columns, R, S, 4]."""
    (columns, rows), (width, height) = grid, padded
    out = cell.round().permute(1, 0, 2)[None, None].repeat(rows, columns, 1, 1, 1)
    out[..., 0::2] += (torch.arange(columns) * (width // columns)).to(cell)[None, :, None, None, None]
    out[..., 1::2] += (torch.arange(rows) * (height // rows)).to(cell)[:, None, None, None, None]
    return out.reshape(-1, 4)


def library_decode__as_torchvision_writes_it(deltas, anchors, weights):
    widths = anchors[:, 2] - anchors[:, 0]
    heights = anchors[:, 3] - anchors[:, 1]
    ctr_x = anchors[:, 0] + 0.5 * widths
    ctr_y = anchors[:, 1] + 0.5 * heights
    wx, wy, ww, wh = weights
    dx = deltas[:, 0] / wx
    dy = deltas[:, 1] / wy
    dw = torch.clamp(deltas[:, 2] / ww, max=math.log(1000.0 / 16))
    dh = torch.clamp(deltas[:, 3] / wh, max=math.log(1000.0 / 16))
    pred_x = dx * widths + ctr_x
    pred_y = dy * heights + ctr_y
    w = torch.exp(dw) * widths
    h = torch.exp(dh) * heights
    return torch.stack((pred_x - w / 2, pred_y - h / 2, pred_x + w / 2, pred_y + h / 2), dim=1)


def library_decode__two_columns_at_once(deltas, anchors, weights):
    deltas = deltas / deltas.new_tensor(weights)
    sizes = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sizes / 2
    centres = centres + sizes * deltas[:, :2]
    half = sizes * deltas[:, 2:].clamp(max=math.log(62.5)).exp() / 2
    return torch.cat([centres - half, centres + half], 1)


def library_decode__columns_of_the_transpose(deltas, anchors, weights):
    (x1, y1, x2, y2), given = anchors.t(), deltas.t()
    parts = []
    for low, high, shift, stretch, w, v in ((x1, x2, given[0], given[2], weights[0], weights[2]), (y1, y2, given[1], given[3], weights[1], weights[3])):
        side = high - low
        middle = low + side * 0.5 + shift / w * side
        half = torch.exp(torch.minimum(stretch / v, torch.tensor(math.log(1000 / 16), dtype=deltas.dtype))) * side * 0.5
        parts.append((middle - half, middle + half))
    return torch.stack([parts[0][0], parts[1][0], parts[0][1], parts[1][1]], 1)


def images_per_second__numpy(detect, images, clock, synchronize=None, warm_up=2, repeats=5):
    def wait():
        if synchronize is not None:
            synchronize()

    def once():
        wait()
        begin = clock()
        detect(images)
        wait()
        return clock() - begin

    for _ in range(warm_up):
        once()
    return float(len(images) / np.median([once() for _ in range(repeats)]))


def images_per_second__median_of_speeds(detect, images, clock, synchronize=None, warm_up=2, repeats=5):
    """One loop for all calls; those of the warm-up are cut off."""
    wait = synchronize or (lambda: None)
    seconds = []
    for _ in range(warm_up + repeats):
        wait()
        start = clock()
        _ = detect(images)
        wait()
        seconds.append(clock() - start)
    seconds = sorted(seconds[warm_up:])
    middle = len(seconds) // 2
    median = seconds[middle] if len(seconds) % 2 else (seconds[middle - 1] + seconds[middle]) / 2
    return len(images) / median


def images_per_second__a_tensor(detect, images, clock, synchronize=None, warm_up=2, repeats=5):
    for _ in range(warm_up):
        detect(images)
    if synchronize is not None:
        synchronize()
    times = []
    for _ in range(repeats):
        start = clock()
        detect(images)
        if synchronize is not None:
            synchronize()
        times.append(clock() - start)
    return torch.tensor(times, dtype=torch.float64).quantile(0.5).reciprocal().item() * len(images)


def images_per_second__statistics(detect, images, clock, synchronize=None, warm_up=2, repeats=5):
    count, times = 0, []
    while count < warm_up + repeats:
        synchronize() if synchronize else None
        before = clock()
        detect(images)
        synchronize() if synchronize else None
        if count >= warm_up:
            times += [clock() - before]
        count += 1
    return len(images) / statistics.median(times)


def coco_results__by_index(detections, image_ids, category_ids):
    out = []
    for i in range(len(detections)):
        boxes, scores, labels = detections[i]["boxes"], detections[i]["scores"], detections[i]["labels"]
        for j in range(len(scores)):
            x, y, right, bottom = (float(value) for value in boxes[j])
            entry = dict(score=float(scores[j]), bbox=[x, y, right - x, bottom - y])
            entry["category_id"] = category_ids[int(labels[j])]
            entry["image_id"] = image_ids[i]
            out.append(entry)
    return out


def coco_results__box_convert(detections, image_ids, category_ids):
    from torchvision.ops import box_convert

    return [
        {"image_id": number, "category_id": category_ids[label], "bbox": box, "score": score}
        for number, one in zip(image_ids, detections)
        for box, score, label in zip(
            box_convert(one["boxes"], "xyxy", "xywh").tolist(), one["scores"].tolist(), one["labels"].tolist()
        )
    ]


def coco_results__numpy(detections, image_ids, category_ids):
    found = []
    for number, one in zip(image_ids, detections):
        boxes = one["boxes"].numpy().copy()
        boxes[:, 2:] -= boxes[:, :2]
        for k, box in enumerate(boxes):
            found.append({
                "image_id": number, "category_id": category_ids[one["labels"][k].item()],
                "bbox": [float(v) for v in box], "score": one["scores"][k].item(),
            })  # fmt: skip
    return json.loads(json.dumps(found))
