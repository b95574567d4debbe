# %% [markdown]
r"""
# Losses
"""

# %% setup=true
import torch
import torch.nn.functional as F

from coursekit.checks import check, passed, raises, same, untouched

# %% [markdown]
r"""
### Exercise: `smooth_l1_loss`
"""

# %% exercise="smooth_l1_loss"
def smooth_l1_loss(prediction, target, sigma=1.0):
    """Smooth L1 of each difference u = prediction - target: a parabola near 0, a straight line beyond.

    (sigma * u)^2 / 2 where |u| < 1 / sigma^2, else |u| - 1 / (2 * sigma^2).
    Source: Girshick, "Fast R-CNN", ICCV 2015, equation 3; with sigma: Ren et al., "Faster R-CNN".

    Args:
        prediction, target (Tensor[N, 4]): offsets; any shape will do, the same for both.
        sigma (float): above 0; the parabola ends at |u| = 1 / sigma^2.

    Returns:
        Tensor[N, 4]: a loss for each number, 0 or more; neither summed nor averaged.
    """
    ### BEGIN SOLUTION
    size = (prediction - target).abs()
    return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 * sigma**2))
    ### END SOLUTION

# %% check="smooth_l1_loss" points=2
zeros = torch.zeros(1, 4)
same(smooth_l1_loss(torch.tensor([[0.5, -0.5, 2, -3]]), zeros), [[0.125, 0.125, 1.5, 2.5]], "sigma 1: the parabola ends at 1")
same(smooth_l1_loss(torch.tensor([[0.1, 0.2, 0, -1]]), zeros, 3.0), [[0.045, 0.2 - 1 / 18, 0, 1 - 1 / 18]], "sigma 3: the parabola ends at 1/9")

# %% [markdown]
r"""
### Exercise: `mine_hard_negatives`
"""

# %% exercise="mine_hard_negatives"
def mine_hard_negatives(loss, positive, ratio=3):
    """Which negatives to train on: in each image those of highest loss, `ratio` for each positive.

    Source: Liu et al., "SSD", ECCV 2016, section 2.2.

    Args:
        loss (Tensor[B, A]): the classification loss of each anchor.
        positive (Tensor[B, A]): bool, which anchors are positives; all others are negatives.
        ratio (int): negatives per positive. An image without positives keeps `ratio` negatives.

    Returns:
        Tensor[B, A]: bool, true for the chosen negatives, never for a positive. Of equal losses the smaller index
        is taken; where there are too few negatives, all of them.
    """
    ### BEGIN SOLUTION
    wanted = ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)  # [B, 1]
    order = loss.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)  # [B, A]
    rank = order.argsort(dim=1)  # [B, A], 0 for the highest loss
    return (rank < wanted) & ~positive
    ### END SOLUTION

# %% check="mine_hard_negatives" points=2
loss = torch.tensor([[0.3, 9.0, 0.9, 0.1, 0.7, 0.5]])
positive = torch.tensor([[False, True, False, False, False, False]])
same(mine_hard_negatives(loss, positive), [[False, False, True, False, True, True]], "one positive: the three negatives of highest loss")

# %% [markdown]
r"""
### Exercise: `ssd_loss`
"""

# %% exercise="ssd_loss"
def ssd_loss(logits, deltas, labels, target_deltas, alpha=1.0):
    """The two losses of SSD over a batch: of the classes and of the offsets.

    Source: Liu et al., "SSD", ECCV 2016, equations 1 to 3.

    Args:
        logits (Tensor[B, A, K + 1]): class scores before the softmax; class 0 is background.
        deltas (Tensor[B, A, 4]): predicted offsets.
        labels (Tensor[B, A]): int64; 1..K for positives, 0 for background, -1 for anchors that count nowhere.
        target_deltas (Tensor[B, A, 4]): true offsets; only those of positives count.
        alpha (float): weight of the localisation loss.

    Returns:
        (Tensor[], Tensor[]): classification, the cross entropy summed over the positives and three hard negatives
        for each (`mine_hard_negatives`), and localisation, alpha times the smooth L1 loss summed over the positives'
        four offsets. Both are divided by the number of positives in the batch, or by 1 if there is none.
    """
    ### BEGIN SOLUTION
    positive = labels > 0  # [B, A]
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none")
    entropy = entropy.reshape(labels.shape)  # [B, A]
    mined = mine_hard_negatives(entropy.detach().masked_fill(labels < 0, -torch.inf), positive)
    count = positive.sum().clamp(min=1)
    classification = entropy[positive | mined & (labels == 0)].sum() / count
    localisation = alpha * smooth_l1_loss(deltas[positive], target_deltas[positive]).sum() / count
    return classification, localisation
    ### END SOLUTION

# %% check="ssd_loss" points=3
logits = torch.zeros(1, 6, 3)
deltas = torch.zeros(1, 6, 4)
labels = torch.tensor([[0, 2, 0, 0, 0, 0]])
targets = torch.zeros(1, 6, 4)
targets[0, 1] = torch.tensor([0.5, 0, 0, 2])
classification, localisation = ssd_loss(logits, deltas, labels, targets)
same(classification, 4 * 1.0986123, "one positive and three negatives, each with a cross entropy of ln 3")
same(localisation, 0.125 + 1.5, "smooth L1 of 0.5 and of 2, summed")
