# %% [markdown]
r"""
# 11 · Focal loss and RetinaNet
"""

# %% setup=true
import math

import torch
import torch.nn.functional as F
from torch import nn

from coursekit import plot
from coursekit.checks import check, passed, raises, same, untouched
from coursekit.earlier import earlier

smooth_l1_loss = earlier("smooth_l1_loss")

# %% exercise="balanced_cross_entropy"
def balanced_cross_entropy(logits, targets, alpha=0.25):
    """Cross entropy of each number, weighted by alpha where the target is 1 and by 1 - alpha where it is 0.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.1.

    Args:
        logits (Tensor[...]): of any shape, before the sigmoid.
        targets (Tensor[...]): of the same shape and dtype; 1 for foreground, 0 for background.
        alpha (float): in 0..1, the weight of the foreground.

    Returns:
        Tensor[...]: a loss for each number, 0 or more and finite; neither summed nor averaged.
    """
    ### BEGIN SOLUTION
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    ### END SOLUTION

# %% check="balanced_cross_entropy" points=2
same(balanced_cross_entropy(torch.zeros(2), torch.tensor([1.0, 0.0])), [0.173287, 0.519860],
     "p = 0.5: 0.25 · ln 2 for foreground, 0.75 · ln 2 for background")

# %% exercise="focal_loss"
def focal_loss(logits, targets, alpha=0.25, gamma=2.0):
    """Balanced cross entropy of each number, times (1 - p_t)^gamma: little for what is easy.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 5.

    Args:
        logits (Tensor[...]): of any shape, before the sigmoid.
        targets (Tensor[...]): of the same shape and dtype; 1 for foreground, 0 for background.
        alpha (float): in 0..1, the weight of the foreground.
        gamma (float): 0 or more; 0 gives balanced cross entropy.

    Returns:
        Tensor[...]: a loss for each number, 0 or more and finite, as its slope is; neither summed nor averaged.
    """
    ### BEGIN SOLUTION
    doubt = torch.sigmoid(torch.where(targets == 1, -logits, logits))  # 1 - p_t
    return doubt**gamma * balanced_cross_entropy(logits, targets, alpha)
    ### END SOLUTION

# %% check="focal_loss" points=3
same(focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0])), [0.043322, 0.129965],
     "p = 0.5: 0.25 · 0.5² · ln 2 for foreground, 0.75 · 0.5² · ln 2 for background")

# %% exercise="prior_bias"
def prior_bias(prior=0.01):
    """The bias of the last class layer with which an untrained detector gives every class the probability `prior`.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.

    Args:
        prior (float): above 0 and below 1.

    Returns:
        float: a logit.
    """
    ### BEGIN SOLUTION
    return -math.log((1 - prior) / prior)
    ### END SOLUTION

# %% check="prior_bias" points=1
same(prior_bias(), -4.59512, "the sigmoid of it is 0.01")

# %% exercise="RetinaNetHead"
class RetinaNetHead(nn.Module):
    """Class scores and box offsets for every anchor of every cell; one head for all levels.

    Two subnets, of classes and of boxes: four times a 3×3 convolution and a ReLU, then a 3×3 convolution.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.

    Args:
        channels (int): of every level's feature map, and of the layers between.
        anchors_per_cell (int): A.
        num_classes (int): K, without background.
    """

    def __init__(self, channels, anchors_per_cell, num_classes):
        super().__init__()
        ### BEGIN SOLUTION
        self.num_classes = num_classes
        self.scores = self.subnet(channels, anchors_per_cell * num_classes)
        self.offsets = self.subnet(channels, anchors_per_cell * 4)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.scores[-1].bias, prior_bias())

    def subnet(self, channels, outputs):
        layers = []
        for _ in range(4):
            layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(channels, outputs, 3, padding=1))
        ### END SOLUTION

    def forward(self, features):
        """Logits Tensor[B, N, K] and deltas Tensor[B, N, 4], from a list of Tensor[B, C, H_l, W_l].

        N counts all anchors of all levels, from fine to coarse; within a level the order is (y·W + x)·A + a.
        """
        ### BEGIN SOLUTION
        logits, deltas = [], []
        for feature in features:
            score_map = self.scores(feature).permute(0, 2, 3, 1)  # [B, H, W, A·K]
            offset_map = self.offsets(feature).permute(0, 2, 3, 1)  # [B, H, W, A·4]
            logits.append(score_map.reshape(len(feature), -1, self.num_classes))
            deltas.append(offset_map.reshape(len(feature), -1, 4))
        return torch.cat(logits, 1), torch.cat(deltas, 1)
        ### END SOLUTION

# %% check="RetinaNetHead" points=3
generator = torch.Generator().manual_seed(0)
features = [torch.randn(2, 8, 2, 3, generator=generator), torch.randn(2, 8, 1, 2, generator=generator)]
same([list(output.shape) for output in RetinaNetHead(8, 2, 5)(features)], [[2, 16, 5], [2, 16, 4]],
     "2·3 + 1·2 cells with 2 anchors each; 5 classes and no background")

# %% exercise="retinanet_loss"
def retinanet_loss(logits, deltas, labels, target_deltas):
    """The two losses of RetinaNet over a batch: of the classes and of the offsets.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 4.1.

    Args:
        logits (Tensor[B, N, K]): class scores before the sigmoid; column k is class k + 1.
        deltas (Tensor[B, N, 4]): predicted offsets.
        labels (Tensor[B, N]): int64; 1..K for positives, 0 for background, -1 for anchors that count nowhere.
        target_deltas (Tensor[B, N, 4]): true offsets; only those of positives count.

    Returns:
        (Tensor[], Tensor[]): classification, the focal loss summed over all classes of positives and background,
        and localisation, smooth L1 summed over the positives' four offsets. Both are divided by the number of
        positives in the batch, or by 1 if there is none.
    """
    ### BEGIN SOLUTION
    positive, counts = labels > 0, labels >= 0  # [B, N]
    classes = torch.arange(1, logits.shape[-1] + 1, device=labels.device)
    targets = (labels[..., None] == classes).to(logits.dtype)  # [B, N, K]
    number = positive.sum().clamp(min=1)
    classification = focal_loss(logits[counts], targets[counts]).sum() / number
    localisation = smooth_l1_loss(deltas[positive], target_deltas[positive]).sum() / number
    return classification, localisation
    ### END SOLUTION

# %% check="retinanet_loss" points=3
labels = torch.tensor([[0, 2, -1]])
same(retinanet_loss(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), labels, torch.ones(1, 3, 4)),
     (torch.tensor(0.043322 + 3 * 0.129965), torch.tensor(2.0)), "one positive, one negative, one ignored")
