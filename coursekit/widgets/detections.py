"""Explorers of detections and losses: NMS and Soft-NMS, precision and recall, focal loss."""

import torch

from coursekit import plot
from coursekit.widgets.explorer import Choose, Explorer, Slide, canvas, listed, size_of


def explore_nms(
    nms, boxes, scores, *, soft_nms=None, iou_threshold=0.5, sigma=0.5, image=None, image_size=(128, 128)
):
    """NMS and Soft-NMS, one pick at a time.

    What a pick does to another box is asked of the function itself, with these two boxes alone.

    Args:
        nms (callable): `nms(boxes, scores, iou_threshold) -> int64 [K]`, best first.
        boxes (Tensor[N, 4]): xyxy in pixels. More than some 20 are hard to read.
        scores (Tensor[N]): in 0..1.
        soft_nms (callable): `soft_nms(boxes, scores, sigma, score_threshold) -> (int64 [K], scores [K])`;
            brings a choice between the two.
        iou_threshold, sigma (float): at the start.
        image (Tensor[3, H, W]): below; `image_size` (width, height) counts where there is none.

    Returns:
        Explorer

    Raises:
        ValueError: if there are no boxes.
    """
    boxes, scores = (
        torch.as_tensor(boxes).detach().float().cpu(),
        torch.as_tensor(scores).detach().float().cpu(),
    )
    if not len(boxes):
        raise ValueError("no boxes to choose among, expected at least one")
    image_size = size_of(image, image_size)

    def hard(threshold):
        """[(pick, {box: factor of its score})] of each step."""
        picks, waiting, steps = nms(boxes, scores, threshold).tolist(), set(range(len(boxes))), []
        for pick in picks:
            waiting -= {pick}
            gone = [
                other for other in sorted(waiting - set(picks))
                if len(nms(boxes[[pick, other]], torch.tensor([1.0, 0.5]), threshold)) == 1
            ]  # fmt: skip
            waiting -= set(gone)
            steps.append((pick, dict.fromkeys(gone, 0.0)))
        return steps

    def soft(sigma):
        picks, waiting, steps = soft_nms(boxes, scores, sigma, 0.001)[0].tolist(), set(range(len(boxes))), []
        for pick in picks:
            waiting -= {pick}
            factors = {}
            for other in sorted(waiting):
                rows, left = soft_nms(boxes[[pick, other]], torch.tensor([1.0, 0.5]), sigma, 0.0)
                factor = dict(zip(rows.tolist(), left.tolist())).get(1, 0.0) / 0.5
                if factor < 0.995:
                    factors[other] = factor
            steps.append((pick, factors))
        return steps

    cache = {}

    def look(values):
        gentle = values.get("method") == "Soft-NMS"
        key = (gentle, values["sigma"] if gentle else values["threshold"])
        if key not in cache:
            cache.clear()
            cache[key] = soft(key[1]) if gentle else hard(key[1])
        steps, step = cache[key], values["step"]
        now, kept, changed, pick = scores.clone(), [], {}, None
        for pick, changed in steps[:step]:
            kept.append(pick)
            for other, factor in changed.items():
                now[other] *= factor
        removed = [i for i in range(len(boxes)) if now[i] < 0.001]
        if step == 0:
            text = f"{len(boxes)} boxes wait. The first pick is the best of them."
        elif step > len(steps):
            text = f"Nothing is left to pick: {len(kept)} of {len(boxes)} boxes are kept."
        else:
            text = f"Pick {step} of {len(steps)}: box {pick}, score {now[pick]:.2f}. "
            if not changed:
                text += "It changes no other box. "
            elif gentle:
                told = [f"box {other} to {now[other]:.2f} (× {factor:.2f})" for other, factor in changed.items()]
                text += f"It lowers {listed(told)}. "
            else:
                word = "box" if len(changed) == 1 else "boxes"
                text += f"It removes {word} {listed(changed)} (IoU above {key[1]:.2f}). "
            text += f"Kept so far: {', '.join(map(str, kept))}."
        waiting = [i for i in range(len(boxes)) if i not in kept and i not in removed]
        if step > len(steps):
            pick, changed = None, {}
        roles = (
            {i: "anchor" for i in waiting}
            | {i: "negative" for i in removed}
            | {i: "prediction" for i in kept}
        )
        roles |= {i: "ignored" for i in changed} | ({pick: "forced"} if pick is not None else {})

        def draw(axes):
            ax, bars = axes
            canvas(ax, image, image_size)
            for role in ("negative", "anchor", "ignored", "prediction", "forced"):
                rows = [i for i, own in roles.items() if own == role]
                if role == "negative":  # gone: a hint of where they were
                    plot.show_boxes(boxes[rows], role, thickness=0.5, ax=ax)
                else:
                    plot.show_boxes(boxes[rows], role, labels=[str(i) for i in rows], ax=ax)
            order = scores.argsort(descending=True, stable=True).tolist()
            names = {
                "anchor": "waits", "ignored": "lowered now" if gentle else "removed now", "negative": "removed",
                "prediction": "kept", "forced": "picked now",
            }  # fmt: skip
            for place, i in enumerate(order):
                look_ = plot.role_style(roles[i])
                bars.barh(place, float(scores[i]), color="none", edgecolor="#999999", lw=0.8)
                bars.barh(
                    place, float(now[i]), color=look_.color, hatch="//" if roles[i] == "ignored" else None
                )
                bars.text(min(float(scores[i]), 1.0) + 0.02, place, names[roles[i]], va="center", fontsize=8)
            bars.set(
                yticks=range(len(order)), yticklabels=[str(i) for i in order], ylabel="box", xlabel="score",
                xlim=(0, 1.3), xticks=[0, 0.5, 1], ylim=(len(order) - 0.4, -0.6),
            )  # fmt: skip

        return text, draw

    controls = {"step": Slide(1, 0, len(boxes) + 1, 1, "pick", buttons=True)}
    if soft_nms is not None:
        controls = {"method": Choose("NMS", ("NMS", "Soft-NMS"), "")} | controls
    controls["threshold"] = Slide(iou_threshold, 0.05, 0.95, 0.05, "IoU threshold")
    controls["sigma"] = Slide(sigma, 0.1, 2.0, 0.1, "σ of Soft-NMS")
    if soft_nms is None:
        del controls["sigma"]

    return Explorer(
        look if soft_nms is not None else lambda values: look(values | {"sigma": None}), controls,
        limits=image_size, size=(8.6, 4.3), columns=2, ratios=(1.3, 1),
        alt="Left, the boxes by what became of them; right, their scores, outlined as they were at the start.",
    )  # fmt: skip


def explore_average_precision(
    precision_recall, voc11_ap, area_ap, coco101_ap, *, scores=(0.9, 0.8, 0.7, 0.6),
    tp=(True, False, True, True), truths=4,
):  # fmt: skip
    """The precision–recall staircase under three APs, one detection at a time.

    Args:
        precision_recall (callable): `precision_recall(scores [D], tp bool [D], truths) -> (precision [D],
            recall [D])`.
        voc11_ap, area_ap, coco101_ap (callable): `ap(precision, recall) -> scalar`.
        scores (Tensor[D]): of the detections of one class; at the start the lectures' worked example.
        tp (Tensor[D], bool): whether each is right.
        truths (int): how many objects there are.

    Returns:
        Explorer
    """
    scores = torch.as_tensor(scores, dtype=torch.float32).detach().cpu()
    order = scores.argsort(descending=True, stable=True)
    scores, tp = scores[order], torch.as_tensor(tp).cpu()[order]
    kinds = {"VOC, 11 points": (voc11_ap, 11), "area": (area_ap, 0), "COCO, 101 points": (coco101_ap, 101)}

    def look(values):
        count, kind = values["detections"], values["kind"]
        precision, recall = precision_recall(scores[:count], tp[:count], truths)
        aps = {name: float(ap(precision, recall)) for name, (ap, _) in kinds.items()}
        right = int(tp[:count].sum())
        text = f"{count} of {len(scores)} detections"
        if count:
            text += (
                f", the last with score {scores[count - 1]:.2f} is {'right' if tp[count - 1] else 'wrong'}: "
                f"precision {right}/{count} = {float(precision[-1]):.3f}, "
                f"recall {right}/{truths} = {float(recall[-1]):.3f}"
            )
        text += ". AP: " + ", ".join(f"{name} {value:.4f}" for name, value in aps.items()) + "."

        def draw(ax):
            # what a recall level counts with: the best precision at this recall or above
            above = [float(precision[i:].max()) for i in range(count)]
            shade, levels = plot.ROLES["anchor"].color, kinds[kind][1]
            reach = [float(value) for value in recall]

            def height(level):
                return next((best for best, far in zip(above, reach) if far >= level - 1e-9), 0.0)

            if levels:
                xs = [i / (levels - 1) for i in range(levels)]
                width = 1.0 if levels > 50 else 3.0
                ax.vlines(xs, 0, [height(x) for x in xs], color=shade, lw=width)
                ax.plot(xs, [height(x) for x in xs], ls="", marker=".", ms=9 if levels < 50 else 3,
                        color=plot.ROLES["positive"].color)  # fmt: skip
            else:
                edges = [0.0] + reach
                for left, end, best in zip(edges, edges[1:], above):
                    ax.fill_between([left, end], 0, best, color=shade, lw=0)
            if count:
                look_ = plot.role_style("prediction")
                ax.plot(recall, precision, color=look_.color, ls=look_.style, lw=1.8)
                for role, chosen in (("positive", tp[:count]), ("negative", ~tp[:count])):
                    mark = plot.role_style(role)
                    ax.scatter(recall[chosen], precision[chosen], color=mark.color, marker=mark.marker, s=60,
                               zorder=3, label={"positive": "right", "negative": "wrong"}[role])  # fmt: skip
                ax.scatter(
                    recall[-1:], precision[-1:], s=190, facecolors="none", edgecolors="black", zorder=4
                )
                ax.legend(frameon=False, loc="lower left")
            ax.set(xlabel="recall", ylabel="precision", xlim=(-0.03, 1.03), ylim=(0, 1.07))
            ax.set_title(f"{kind}: AP {aps[kind]:.4f}", fontsize=10)
            ax.grid(alpha=0.3)

        return text, draw

    controls = {
        "detections": Slide(len(scores), 0, len(scores), 1, "detections", buttons=True),
        "kind": Choose("area", tuple(kinds), "AP"),
    }
    return Explorer(
        look, controls, size=(6.4, 4.4),
        alt="Precision over recall, a mark for each detection, the last one ringed; below it what the AP counts.",
    )  # fmt: skip


def explore_focal_loss(focal_loss, *, gamma=2.0, alpha=0.25, easy=100_000, hard=100):
    """Focal loss over the probability, as γ and α move, and who makes up the sum.

    Args:
        focal_loss (callable): `focal_loss(logits, targets, alpha, gamma) -> elementwise`.
        gamma, alpha (float): at the start.
        easy (int): background anchors at probability 0.01, in the read-out's sum.
        hard (int): object anchors at probability 0.1.

    Returns:
        Explorer
    """
    probability = torch.linspace(0.005, 0.995, 199)

    def loss(p, target, alpha, gamma):
        p = torch.as_tensor(p, dtype=torch.float32).reshape(-1)
        return focal_loss(p.logit(), torch.full_like(p, target), alpha=alpha, gamma=gamma)

    def look(values):
        gamma, alpha = values["gamma"], values["alpha"]
        background = easy * float(loss(0.01, 0.0, alpha, gamma)[0])
        objects = hard * float(loss(0.1, 1.0, alpha, gamma)[0])
        text = (
            f"γ = {gamma:g}, α = {alpha:g}: an object at p = 0.1 costs {objects / hard:.4g}, "
            f"background at p = 0.01 costs {background / easy:.3g}. {easy} such background "
            f"anchors against {hard} such objects: {background:.3g} against {objects:.3g}, so background makes "
            f"{100 * background / (background + objects):.1f} % of the sum."
        )

        def draw(ax):
            for target, role, name in ((1.0, "positive", "object"), (0.0, "negative", "background")):
                look_ = plot.role_style(role)
                plain = loss(probability, target, alpha, 0.0)
                ax.plot(probability, plain, color=look_.color, lw=1, alpha=0.5, label=f"{name}, γ = 0")
                ax.plot(probability, loss(probability, target, alpha, gamma), color=look_.color, ls=look_.style,
                        lw=2.5, label=f"{name}, γ = {gamma:g}")  # fmt: skip
            ax.axvline(0.01, color="black", lw=0.7, ls=":")
            ax.axvline(0.1, color="black", lw=0.7, ls=":")
            ax.set(xlabel="probability of an object, p", ylabel="loss", ylim=(0, 3), xlim=(0, 1))
            ax.grid(alpha=0.3)
            ax.legend(frameon=False, loc="upper center")

        return text, draw

    controls = {
        "gamma": Slide(gamma, 0.0, 5.0, 0.25, "γ"),
        "alpha": Slide(alpha, 0.05, 0.95, 0.05, "α of objects"),
    }
    return Explorer(
        look, controls, size=(6.4, 4.0),
        alt="Loss over the probability of an object, for objects and background, strong with γ, pale without.",
    )  # fmt: skip
