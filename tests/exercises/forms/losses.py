"""Right answers in other forms for `04_losses`."""

import math

import numpy
import torch
from torch.nn import functional as F

# smooth_l1_loss


def smooth_l1_loss__clamp(prediction, target, sigma=1.0):
    """The parabola of the part up to the bend, times its slope, and the rest at slope 1."""
    u = abs(target - prediction)
    bent = u.clamp(max=1 / sigma**2)
    return sigma**2 * bent * (u - bent / 2)


def smooth_l1_loss__masks(prediction, target, sigma=1.0):
    u, beta = prediction - target, 1 / (sigma * sigma)
    near = (u.abs() < beta).to(u.dtype)
    return near * 0.5 * u**2 / beta + (1 - near) * (u.abs() - beta / 2)


def smooth_l1_loss__filled(prediction, target, sigma=1.0):
    u = (prediction - target).flatten()
    loss = torch.zeros_like(u)
    near = u.abs() <= sigma**-2
    loss[near] = (
        F.mse_loss(sigma * prediction.flatten()[near], sigma * target.flatten()[near], reduction="none") / 2
    )
    loss[~near] = (
        F.l1_loss(prediction.flatten()[~near], target.flatten()[~near], reduction="none") - sigma**-2 / 2
    )
    return loss.view_as(prediction)


def smooth_l1_loss__loops(prediction, target, sigma=1.0):
    rows = []
    for p, t in zip(prediction, target):
        values = [abs(a - b) for a, b in zip(p, t)]
        rows.append(
            torch.stack([(sigma * u) ** 2 / 2 if u < 1 / sigma**2 else u - 0.5 / sigma**2 for u in values])
        )
    return torch.stack(rows) if rows else prediction - target


# mine_hard_negatives


def mine_hard_negatives__loops(loss, positive, ratio=3):
    chosen = torch.zeros_like(positive)
    for image in range(len(loss)):
        negatives = [i for i in range(loss.shape[1]) if not positive[image, i]]
        negatives.sort(key=lambda i: -loss[image, i].item())
        count = ratio * max(loss.shape[1] - len(negatives), 1)
        for i in negatives[:count]:
            chosen[image, i] = True
    return chosen


def mine_hard_negatives__scatter(loss, positive, ratio=3):
    hardest = loss.detach().clone()
    hardest[positive] = -math.inf
    order = torch.sort(hardest, dim=1, descending=True, stable=True).indices
    places = torch.arange(loss.shape[1], device=loss.device).expand_as(order)
    kept = places < ratio * positive.sum(1).clamp(min=1)[:, None]
    return torch.zeros_like(positive).scatter(1, order, kept).logical_and(~positive)


def mine_hard_negatives__numpy(loss, positive, ratio=3):
    values, is_positive = loss.detach().double().numpy(), positive.numpy()
    chosen = numpy.zeros(values.shape, dtype=bool)
    for row, (v, p) in enumerate(zip(values, is_positive)):
        negatives = numpy.flatnonzero(~p)
        best = negatives[numpy.argsort(-v[negatives], kind="stable")]
        chosen[row, best[: ratio * max(int(p.sum()), 1)]] = True
    return torch.from_numpy(chosen)


def mine_hard_negatives__counting(loss, positive, ratio=3):
    """The rank of an anchor is how many negatives beat it: a higher loss, or the same at a smaller index."""
    beats = (loss[:, :, None] > loss[:, None, :]) | (
        (loss[:, :, None] == loss[:, None, :]) & torch.ones(2 * loss.shape[1:], dtype=torch.bool).triu(1)
    )
    rank = (beats & ~positive[:, :, None]).sum(1)
    wanted = ratio * positive.sum(1, keepdim=True)
    wanted[wanted == 0] = ratio
    return ~positive & (rank < wanted)


# ssd_loss


def _smooth(u):
    u = u.abs()
    return torch.where(u < 1, u * u / 2, u - 0.5)


def ssd_loss__image_by_image(logits, deltas, labels, target_deltas, alpha=1.0):
    classification, localisation = logits.sum() * 0, deltas.sum() * 0
    for scores, offsets, truth, wanted in zip(logits, deltas, labels, target_deltas):
        entropy = -scores.log_softmax(-1)
        objects = (truth > 0).nonzero().flatten()
        background = (truth == 0).nonzero().flatten()
        hardest = entropy[background, 0].sort(descending=True).values[: 3 * max(len(objects), 1)]
        classification = classification + entropy[objects, truth[objects]].sum() + hardest.sum()
        localisation = localisation + _smooth(offsets[objects] - wanted[objects]).sum()
    count = max(int((labels > 0).sum()), 1)
    return classification / count, alpha * localisation / count


def ssd_loss__weights(logits, deltas, labels, target_deltas, alpha=1.0):
    """Weights of 0 and 1 instead of selections, one-hot labels instead of an index."""
    positive = (labels > 0).to(logits.dtype)
    truth = F.one_hot(labels.clamp(min=0), logits.shape[-1]).to(logits.dtype)
    entropy = torch.logsumexp(logits, -1) - (truth * logits).sum(-1)
    hard = torch.where(labels == 0, entropy, torch.full_like(entropy, -1.0)).detach()
    place = hard.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    negative = (place < 3 * positive.sum(1, keepdim=True).clamp(min=1)) * (labels == 0)
    divisor = positive.sum().clamp(min=1)
    classification = (entropy * (positive + negative)).sum() / divisor
    return classification, (alpha * positive[..., None] * _smooth(deltas - target_deltas)).sum() / divisor


def ssd_loss__library_parts(logits, deltas, labels, target_deltas, alpha=1.0):
    chosen = labels.new_full(labels.shape, -100)
    chosen[labels > 0] = labels[labels > 0]
    for row, (scores, truth) in enumerate(zip(logits.detach(), labels)):
        background = torch.where(truth == 0)[0]
        loss = F.cross_entropy(scores[background], truth[background], reduction="none")
        keep = min(3 * max(1, (truth > 0).sum().item()), len(background))
        chosen[row, background[loss.topk(keep).indices]] = 0
    count = max((labels > 0).sum().item(), 1)
    classification = F.cross_entropy(logits.transpose(1, 2), chosen, reduction="sum") / count
    localisation = F.smooth_l1_loss(deltas[labels > 0], target_deltas[labels > 0], reduction="sum")
    return classification, localisation * alpha / count
