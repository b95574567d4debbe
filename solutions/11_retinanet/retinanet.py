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
sure = torch.tensor([0.0, 0.0, 2.0, 2.0, -2.0])
truth = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
same(balanced_cross_entropy(sure[:2], truth[:2]), [0.173287, 0.519860],
     "p = 0.5: 0.25 · ln 2 for foreground, 0.75 · ln 2 for background")
same(balanced_cross_entropy(sure, truth), [0.173287, 0.519860, 0.031732, 1.595196, 0.531732],
     "logits of 2 and -2: p = 0.8808 and 0.1192")
same(balanced_cross_entropy(sure, truth, 0.5), [0.346574, 0.346574, 0.063464, 1.063464, 1.063464],
     "alpha 0.5 halves the cross entropy of both")
same(balanced_cross_entropy(torch.tensor([50.0, -50.0, 50.0, -50.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])),
     [37.5, 12.5, 0, 0], "logits of 50 and -50, sure and wrong, then sure and right")
### BEGIN HIDDEN TESTS
def loss_of_one(x, y, alpha, gamma=0):
    """One number's loss, by its definition."""
    entropy = math.log1p(math.exp(-abs(x))) + max(x if y == 0 else -x, 0)  # -log p_t
    return (alpha if y == 1 else 1 - alpha) * (1 - math.exp(-entropy)) ** gamma * entropy


dice = torch.Generator().manual_seed(1)
logits = 4 * torch.randn(3, 5, 7, generator=dice, dtype=torch.float64)
targets = (torch.rand(3, 5, 7, generator=dice) < 0.3).double()
for alpha in (0.25, 0.9, 0.0, 1.0):
    rows = [loss_of_one(x, y, alpha) for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist())]
    expected = torch.tensor(rows, dtype=torch.float64).reshape(3, 5, 7)
    same(balanced_cross_entropy(logits, targets, alpha), expected, f"105 random logits, alpha {alpha}, float64")
    same(balanced_cross_entropy(logits.float(), targets.float(), alpha), expected.float(),
         f"105 random logits, alpha {alpha}, float32")
same(balanced_cross_entropy(logits[0].T.float(), targets[0].T.float()),
     [[loss_of_one(x, y, 0.25) for x, y in zip(*pair)] for pair in zip(logits[0].T.tolist(), targets[0].T.tolist())],
     "a transposed view")
leaning = torch.tensor([0.0, 0.0, 50.0, -50.0, 50.0, -50.0], requires_grad=True)
answers = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
balanced_cross_entropy(leaning, answers).sum().backward()
same(leaning.grad, [-0.125, 0.375, 0.75, -0.25, 0, 0],
     "the slope for the logits, at 0 and at 50 and -50: what is sure and wrong is still pushed")
same(balanced_cross_entropy(torch.zeros(0, 3), torch.zeros(0, 3)), torch.zeros(0, 3), "no anchors, no losses")
same(balanced_cross_entropy(torch.tensor(0.0), torch.tensor(1.0)), torch.tensor(0.173287), "a single number")
untouched(balanced_cross_entropy, torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0]), 0.75)
### END HIDDEN TESTS

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

# %% check="focal_loss" points=2
same(focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0])), [0.043322, 0.129965],
     "p = 0.5: 0.25 · 0.5² · ln 2 for foreground, 0.75 · 0.5² · ln 2 for background")
same(focal_loss(torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])),
     [0.000450889, 1.237554, 0.412518, 0.001352667], "logits of 2 and -2: p = 0.8808 and 0.1192")
same(focal_loss(torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, 0.0, 1.0, 0.0]), 0.5, 0.0),
     [0.063464, 1.063464, 1.063464, 0.063464], "gamma 0 and alpha 0.5: half of the cross entropy")
same(focal_loss(torch.tensor([2.0, 2.0, -2.0, -2.0]), torch.tensor([1.0, 0.0, 1.0, 0.0]), 0.75, 1.0),
     [0.011348, 0.468363, 1.405088, 0.003783], "gamma 1 and alpha 0.75")
### BEGIN HIDDEN TESTS
def loss_of_one(x, y, alpha, gamma):
    """One number's loss, by its definition."""
    entropy = math.log1p(math.exp(-abs(x))) + max(x if y == 0 else -x, 0)  # -log p_t
    return (alpha if y == 1 else 1 - alpha) * (1 - math.exp(-entropy)) ** gamma * entropy


dice = torch.Generator().manual_seed(2)
logits = 4 * torch.randn(3, 5, 7, generator=dice, dtype=torch.float64)
targets = (torch.rand(3, 5, 7, generator=dice) < 0.3).double()
for alpha, gamma in ((0.25, 2.0), (0.5, 0.0), (0.75, 1.0), (0.25, 5.0), (0.1, 0.5)):
    rows = [loss_of_one(x, y, alpha, gamma) for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist())]
    expected = torch.tensor(rows, dtype=torch.float64).reshape(3, 5, 7)
    same(focal_loss(logits, targets, alpha, gamma), expected,
         f"105 random logits, alpha {alpha}, gamma {gamma}, float64")
    same(focal_loss(logits.float(), targets.float(), alpha, gamma), expected.float(),
         f"105 random logits, alpha {alpha}, gamma {gamma}, float32")
same(focal_loss(logits[0].T.float(), targets[0].T.float()),
     [[loss_of_one(x, y, 0.25, 2) for x, y in zip(*pair)] for pair in zip(logits[0].T.tolist(), targets[0].T.tolist())],
     "a transposed view")
same(focal_loss(torch.zeros(0, 3), torch.zeros(0, 3)), torch.zeros(0, 3), "no anchors, no losses")
same(focal_loss(torch.tensor(0.0), torch.tensor(1.0)), torch.tensor(0.0433217), "a single number")
untouched(focal_loss, torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0]), 0.75, 1.0)
### END HIDDEN TESTS

# %% check="focal_loss" part="edges" points=2
far = torch.tensor([50.0, -50.0, 50.0, -50.0])
wrong_and_right = torch.tensor([0.0, 1.0, 1.0, 0.0])
same(focal_loss(far, wrong_and_right), [37.5, 12.5, 0, 0],
     "logits of 50 and -50: sure and wrong costs 0.75 · 50 or 0.25 · 50, sure and right nothing")
pushed = far.clone().requires_grad_()
focal_loss(pushed, wrong_and_right).sum().backward()
same(pushed.grad, [0.75, -0.25, 0, 0], "the slope at 50 and -50: as strong as cross entropy's where it is wrong")
### BEGIN HIDDEN TESTS
def slope_of_one(x, y, alpha, gamma):
    """The slope of one number's loss, by central differences."""
    def loss(z):
        entropy = math.log1p(math.exp(-abs(z))) + max(z if y == 0 else -z, 0)
        return (alpha if y == 1 else 1 - alpha) * (1 - math.exp(-entropy)) ** gamma * entropy
    return (loss(x + 1e-4) - loss(x - 1e-4)) / 2e-4


points = torch.linspace(-6, 6, 25, dtype=torch.float64)
for y in (1.0, 0.0):
    for gamma in (2.0, 0.0, 1.0):
        leaning = points.clone().requires_grad_()
        focal_loss(leaning, torch.full((25,), y, dtype=torch.float64), 0.25, gamma).sum().backward()
        same(leaning.grad, [slope_of_one(x, y, 0.25, gamma) for x in points.tolist()],
             f"the slope at 25 logits with target {y:.0f} and gamma {gamma:.0f}: the factor in front has one too")
plain = far.clone().requires_grad_()
focal_loss(plain, wrong_and_right, 0.25, 0.0).sum().backward()
same(plain.grad, [0.75, -0.25, 0, 0], "the slope at 50 and -50 with gamma 0")
same(focal_loss(far.double(), wrong_and_right.double()), torch.tensor([37.5, 12.5, 0, 0], dtype=torch.float64),
     "logits of 50 and -50 in float64")
same(focal_loss(2 * far, wrong_and_right), [75, 25, 0, 0], "logits of 100 and -100")
### END HIDDEN TESTS

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
same(prior_bias(), -4.59512, "the sigmoid of it is 0.01, the default")
same(prior_bias(0.5), 0.0, "as likely as not: a logit of 0")
### BEGIN HIDDEN TESTS
for prior in (0.001, 0.02, 0.1, 0.3, 0.9):
    same(prior_bias(prior), math.log(prior) - math.log(1 - prior), f"the sigmoid of it is {prior}")
### END HIDDEN TESTS

# %% setup=true
def set_weights(head, middle=False):
    """Give `head` random positive weights; with `middle`, each kernel has its middle only. Biases stay as they are."""
    dice, state = torch.Generator().manual_seed(0), head.state_dict()
    if not state:
        raise LookupError("the head's state_dict is empty: the module does not know its layers")
    for name, weight in state.items():
        if weight.ndim > 1:
            state[name] = 0.01 + torch.rand(weight.shape, generator=dice) / 4
            if middle and weight.ndim > 2:
                size = weight[0, 0].numel()
                state[name].view(-1, size)[:, torch.arange(size) != size // 2] = 0
    head.load_state_dict(state)
    return head.eval()


def rows_that_change(head, features, level, image, y, x):
    """For logits and for deltas: [image, row] of the outputs that change when one cell of one map does."""
    changed = [feature.clone() for feature in features]
    changed[level][image, :, y, x] += 10.0
    with torch.no_grad():
        pairs = zip(head(features), head(changed))
        return [((after - before).abs().amax(-1) > 1e-4).nonzero().tolist() for before, after in pairs]

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

# %% check="RetinaNetHead" points=2
dice = torch.Generator().manual_seed(0)
features = [torch.rand(2, 8, 2, 3, generator=dice), torch.rand(2, 8, 1, 2, generator=dice)]
head = RetinaNetHead(8, 2, 5)
copies = [feature.clone() for feature in features]
same([str(getattr(output, "dtype", type(output))) for output in head(copies)], ["torch.float32"] * 2,
     "two tensors, logits and deltas, with the dtype of the features")
untouched(head, features)
same([list(output.shape) for output in head(features)], [[2, 16, 5], [2, 16, 4]],
     "2·3 cells of the first map and 1·2 of the second, 2 anchors each; 5 classes, no background")
same(len(head.state_dict()) > 0, True, "the module knows its layers (in a Python list it does not see them)")
probe = set_weights(head, middle=True)
fine = rows_that_change(probe, features, level=0, image=1, y=1, x=0)
same(fine[0], [[1, 6], [1, 7]],
     "only the logits of cell y = 1, x = 0 of the first map change: 3 cells wide, 2 anchors each")
same(fine[1], [[1, 6], [1, 7]],
     "only the deltas of cell y = 1, x = 0 of the first map change: 3 cells wide, 2 anchors each")
coarse = rows_that_change(probe, features, level=1, image=0, y=0, x=1)
same(coarse[0], [[0, 14], [0, 15]], "logits of the second map come after the 12 rows of the first")
same(coarse[1], [[0, 14], [0, 15]], "deltas of the second map come after the 12 rows of the first")
### BEGIN HIDDEN TESTS
sizes = [(3, 4), (2, 3), (2, 1)]
maps = [torch.rand(2, 6, h, w, generator=dice) for h, w in sizes]
coded = set_weights(RetinaNetHead(6, 3, 4), middle=True)
row, expected, found = 0, [], ([], [])
for level, (h, w) in enumerate(sizes):
    for y in range(h):
        for x in range(w):
            expected += [[level, y, x, 1, row + a] for a in range(3)]
            row += 3
            for rows, changed in zip(found, rows_that_change(coded, maps, level, 1, y, x)):
                rows += [[level, y, x, *place] for place in changed]
same(found[0], expected, "logits of every cell of three maps: y outer, x inner, a cell's anchors innermost")
same(found[1], expected, "deltas of every cell of three maps: y outer, x inner, a cell's anchors innermost")
alone = [feature[1:] for feature in maps]
same(coded(alone)[0], coded(maps)[0][1:], "logits of an image do not depend on the other images of the batch")
same(coded(alone)[1], coded(maps)[1][1:], "deltas of an image do not depend on the other images of the batch")
single = RetinaNetHead(6, 1, 1)([torch.rand(1, 6, 5, 2, generator=dice)])
same([list(output.shape) for output in single], [[1, 10, 1], [1, 10, 4]], "one level, one anchor and one class")
numbered = RetinaNetHead(8, 3, 5)
state = {name: torch.zeros_like(weight) for name, weight in numbered.state_dict().items()}
for name, weight in state.items():
    if weight.shape in ((15,), (12,)):  # the biases of the two last layers: 3·5 and 3·4
        state[name] = torch.arange(len(weight), dtype=torch.float32)
numbered.load_state_dict(state)
logits, deltas = numbered([torch.zeros(1, 8, 1, 2)])
same(logits[0], [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]] * 2,
     "channel a·K + k of the last class layer is column k of anchor a")
same(deltas[0], [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]] * 2,
     "channel a·4 + j of the last box layer is offset j of anchor a")
### END HIDDEN TESTS

# %% check="RetinaNetHead" part="layers" points=2
dice = torch.Generator().manual_seed(1)
head = RetinaNetHead(8, 3, 5)
same(sum(weight.numel() for weight in head.parameters()), 6643,
     "parameters: 8 times 3·3·8·8 + 8, then 3·3·8·15 + 15 and 3·3·8·12 + 12, however many levels there are")
one = torch.rand(2, 8, 4, 3, generator=dice)
twice = set_weights(head)([one, one])
same([bool(torch.allclose(output[:, :36], output[:, 36:])) for output in twice], [True, True],
     "the same map on two levels gives the same answers: all levels share the head")
head = set_weights(RetinaNetHead(8, 3, 5))
wide = [torch.zeros(1, 8, 13, 14)]
reached = rows_that_change(head, wide, 0, 0, 6, 7)
square = [[0, (y * 14 + x) * 3 + a] for y in range(1, 12) for x in range(2, 13) for a in range(3)]
same(reached[0], square, "five 3×3 convolutions in a row: a cell of the map speaks in the logits up to 5 cells away")
same(reached[1], square, "five 3×3 convolutions in a row: a cell of the map speaks in the deltas up to 5 cells away")
same(head([-torch.ones(1, 8, 3, 2)])[1], head([torch.zeros(1, 8, 3, 2)])[1],
     "where all weights are positive, a ReLU stops negative features")
### BEGIN HIDDEN TESTS
def alive(head, flipped):
    """Whether logits and deltas of a map of ones are other than 0; each hidden layer passes its input on, some negated."""
    state = {name: torch.zeros_like(weight) for name, weight in head.state_dict().items()}
    hidden = [name for name, weight in state.items() if tuple(weight.shape) == (3, 3, 3, 3)]
    for name, weight in state.items():
        if name in hidden:
            weight[range(3), range(3), 1, 1] = -1.0 if hidden.index(name) in flipped else 1.0
        elif weight.ndim == 4:
            weight[:] = 1.0
    head.load_state_dict(state)
    return [bool((output != 0).all()) for output in head([torch.ones(1, 3, 1, 2)])]


small = RetinaNetHead(3, 1, 2)
same(alive(small, []), [True, True], "hidden layers that pass on what they get: nothing is lost")
single = [alive(small, [i]) for i in range(8)]
same(sorted(single), [[False, True]] * 4 + [[True, False]] * 4,
     "eight hidden layers, each followed by a ReLU: four belong to the logits alone, four to the deltas alone")
pairs = [[alive(small, [i, j]), [a and b for a, b in zip(single[i], single[j])]]
         for i in range(8) for j in range(i)]
same([pair for pair, _ in pairs], [expected for _, expected in pairs],
     "what one layer makes negative is stopped by its own ReLU, and no later layer can turn it back")
state = {name: torch.randn(weight.shape, generator=dice) / 4 for name, weight in head.state_dict().items()}
head.load_state_dict(state)
maps = [100 * torch.randn(2, 8, *size, generator=dice) for size in ((4, 3), (2, 5))]
logits, deltas = head(maps)
signs = [[bool((output < 0).any()), bool((output > 1).any())] for output in (logits, deltas)]
same(signs[0], [True, True], "logits are any numbers, below 0 and above 1 too: the sigmoid comes later")
same(signs[1], [True, True], "offsets are any numbers: no ReLU after the last layer")
twin = RetinaNetHead(8, 3, 5)
twin.load_state_dict(state)
same([bool(torch.allclose(*pair)) for pair in zip(twin(maps), (logits, deltas))], [True, True],
     "a second head with the same state_dict gives the same answers")
(logits.square().mean() + deltas.square().mean()).backward()
same([weight.grad is not None and bool((weight.grad != 0).any()) for weight in head.parameters()],
     [True] * len(list(head.parameters())), "every parameter gets a gradient from logits and deltas")
trained = head.train()(maps)
same([bool(torch.allclose(*pair)) for pair in zip(head.eval()(maps), trained)], [True, True],
     "the same answers in training and in evaluation")
### END HIDDEN TESTS

# %% check="RetinaNetHead" part="start" points=2
torch.manual_seed(0)
head = RetinaNetHead(16, 3, 5)
features = [torch.rand(2, 16, 4, 3, generator=torch.Generator().manual_seed(3))]
logits, deltas = head(features)
same(logits.sigmoid(), torch.full((2, 36, 5), 0.01), "an untrained head gives every class a probability of 0.01",
     rtol=0.05)
same(deltas, torch.zeros(2, 36, 4), "an untrained head moves no anchor", atol=0.05)
biases = torch.cat([weight.flatten() for weight in head.state_dict().values() if weight.ndim == 1]).sort().values
same(biases[:15], [-4.59512] * 15, "the 3·5 biases of the last class layer: prior_bias()")
same(biases[15:], [0.0] * (len(biases) - 15), "all other biases are 0")
### BEGIN HIDDEN TESTS
weights = [weight.flatten() for weight in head.state_dict().values() if weight.ndim > 1]
same([round(weight.std().item(), 3) for weight in weights], [0.01] * len(weights), "the weights of each layer have σ = 0.01")
together = torch.cat(weights)
same(bool(together.mean().abs() < 0.0005), True, "the weights have a mean of 0")
same(bool(0.035 < (together.abs() > 0.02).float().mean() < 0.056), True,
     "the weights are Gaussian: one in 22 lies further out than 2 σ")
prior = [name for name, weight in head.state_dict().items() if bool((weight < -4).any())]
same([tuple(head.state_dict()[name].shape) for name in prior], [(15,)], "the prior stands in one bias, of the last class layer")
torch.manual_seed(1)
other = torch.cat([weight.flatten() for weight in RetinaNetHead(16, 3, 5).state_dict().values() if weight.ndim > 1])
same(bool((other == together).all()), False, "each head has weights of its own")
### END HIDDEN TESTS

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

# %% check="retinanet_loss" points=2
labels = torch.tensor([[2, 0, -1], [0, 1, 1]])
deltas = torch.tensor([[[0.5, 0, 0, 2], [7, 7, 7, 7], [7, 7, 7, 7]], [[7.0, 7, 7, 7], [0, 0, 0, 0], [0, -1, 0, 0]]])
still = torch.zeros(2, 3, 4)
same(retinanet_loss(torch.zeros(2, 3, 2), deltas, labels, still),
     (torch.tensor(0.346574), torch.tensor(0.708333)),
     "three positives of 0.043322 + 0.129965, two background anchors of 2 · 0.129965; offsets 1.625 + 0 + 0.5; all / 3")
logits = torch.tensor([[[-2.0, 2], [-2, 2], [9, 9]], [[-2, -2], [2, -2], [-2, -2]]])
same(retinanet_loss(logits, deltas, labels, still), (torch.tensor(0.553044), torch.tensor(0.708333)),
     "one background anchor claims class 2 and one object of class 1 is missed: 1.237554 and 0.412518, the rest is small")
### BEGIN HIDDEN TESTS
def loss_by_loops(logits, deltas, labels, target_deltas):
    """The same, one number at a time."""
    classification, localisation, count = logits.sum() * 0, deltas.sum() * 0, 0
    for b in range(labels.shape[0]):
        for i in range(labels.shape[1]):
            label = labels[b, i].item()
            if label < 0:
                continue
            for k in range(logits.shape[2]):
                x = logits[b, i, k] if label == k + 1 else -logits[b, i, k]  # its sigmoid is p_t
                entropy = (-x).clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
                classification = classification + (0.25 if label == k + 1 else 0.75) * torch.sigmoid(-x) ** 2 * entropy
            if label > 0:
                count += 1
                for u in (deltas[b, i] - target_deltas[b, i]).abs():
                    localisation = localisation + (u * u / 2 if u < 1 else u - 0.5)
    return classification / max(count, 1), localisation / max(count, 1)


def random_batch(seed, rates, classes, dtype):
    """A batch with a share of positives for each image; every fifth anchor is ignored."""
    dice = torch.Generator().manual_seed(seed)
    shape = (len(rates), 19)
    logits, deltas, wanted = (torch.randn(*shape, n, generator=dice).to(dtype) * 2 for n in (classes, 4, 4))
    objects = torch.rand(*shape, generator=dice) < torch.tensor(rates)[:, None]
    labels = torch.randint(1, classes + 1, shape, generator=dice) * objects
    labels[:, ::5] = -1
    return logits, deltas, labels, wanted


several = random_batch(0, (0.1, 0.5, 0.0), 4, torch.float32)
same(retinanet_loss(*several), loss_by_loops(*several), "three images, four classes, float32")
double = random_batch(1, (0.4, 0.2), 3, torch.float64)
same(retinanet_loss(*double), loss_by_loops(*double), "two images, three classes, float64")
single = random_batch(2, (0.3,), 1, torch.float32)
same(retinanet_loss(*single), loss_by_loops(*single), "one image and one class")
untouched(retinanet_loss, *several)
easy = [torch.full((3, 1000, 4), -30.0), torch.ones(3, 1000, 4), torch.zeros(3, 1000, dtype=torch.int64), torch.zeros(3, 1000, 4)]
more = [torch.cat(pair, 1) for pair in zip(several, easy)]
same(retinanet_loss(*more), loss_by_loops(*several), "a thousand easy background anchors more change nothing")
apart = several[0].mT.contiguous().mT
same(retinanet_loss(apart, *several[1:]), loss_by_loops(*several), "the same logits, laid out in memory class by class")
leaves = [several[0].clone().requires_grad_(), several[1].clone().requires_grad_()]
sum(retinanet_loss(*leaves, *several[2:])).backward()
expected = [several[0].clone().requires_grad_(), several[1].clone().requires_grad_()]
sum(loss_by_loops(*expected, *several[2:])).backward()
same(leaves[0].grad, expected[0].grad, "the gradient for the logits: none for ignored anchors")
same(leaves[1].grad, expected[1].grad, "the gradient for the deltas: of positives alone")
### END HIDDEN TESTS

# %% check="retinanet_loss" part="edges" points=2
nothing = torch.zeros(2, 5, dtype=torch.int64)
bare = torch.zeros(2, 5, 4, requires_grad=True)
classification, localisation = retinanet_loss(torch.zeros(2, 5, 3), bare, nothing, torch.ones(2, 5, 4))
same(classification, torch.tensor(30 * 0.1299651), "no positive: 30 numbers of 0.129965, divided by 1")
same(localisation, torch.tensor(0.0), "no positive: nothing to say about offsets")
localisation.backward()
same(bare.grad, torch.zeros(2, 5, 4), "no positive: the localisation can still be differentiated, with a slope of 0")
### BEGIN HIDDEN TESTS
far = torch.tensor([[[50.0, -50], [-50, 50], [50, 50], [-50, -50]]], requires_grad=True)
answers = torch.tensor([[1, 1, -1, 0]])
losses = retinanet_loss(far, torch.zeros(1, 4, 4), answers, torch.zeros(1, 4, 4))
same(losses[0], torch.tensor(25.0), "logits of 50 and -50: the second anchor is wrong twice, 12.5 and 37.5, of two positives")
losses[0].backward()
same(far.grad[0], [[0, 0], [-0.125, 0.375], [0, 0], [0, 0]], "the slope at 50 and -50, none for an ignored anchor")
ignored = torch.full((2, 5), -1)
same(retinanet_loss(torch.zeros(2, 5, 3), torch.ones(2, 5, 4), ignored, torch.zeros(2, 5, 4)),
     (torch.tensor(0.0), torch.tensor(0.0)), "all anchors ignored: 0 and 0")
same(retinanet_loss(torch.zeros(2, 0, 3), torch.zeros(2, 0, 4), nothing[:, :0], torch.zeros(2, 0, 4)),
     (torch.tensor(0.0), torch.tensor(0.0)), "no anchors")
same(retinanet_loss(torch.zeros(2, 5, 3).double(), torch.zeros(2, 5, 4).double(), nothing, torch.zeros(2, 5, 4).double()),
     (torch.tensor(30 * 0.1299651, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)), "no positive, float64")
full = torch.ones(1, 3, dtype=torch.int64)
same(retinanet_loss(torch.zeros(1, 3, 1), torch.zeros(1, 3, 4), full, torch.ones(1, 3, 4)),
     (torch.tensor(0.0433217), torch.tensor(2.0)), "every anchor is a positive")
### END HIDDEN TESTS

# %% tags=["experiment"]
box_iou, anchor_targets = earlier("box_iou"), earlier("anchor_targets")

STRIDES = (8, 16, 32)  # of P3, P4 and P5
SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
BASE = 1.5  # the smallest anchor of a cell, in strides


def anchors_for(image_size, strides=STRIDES, ratios=(1.0,), base=BASE):
    """The anchors [A, 4] of images of (width, height) pixels: each cell has one for each ratio and scale."""
    levels = []
    for stride in strides:
        columns, rows = (math.ceil(side / stride) for side in image_size)
        x, y = (stride // 2 + stride * torch.arange(count) for count in (columns, rows))
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2)  # [H·W, 1, 2], y outer
        shapes = [(math.sqrt(a) * scale, scale / math.sqrt(a)) for a in ratios for scale in SCALES]
        half = base * stride * torch.tensor(shapes) / 2  # [A_l, 2]
        levels.append(torch.cat([centres - half, centres + half], -1).reshape(-1, 4))
    return torch.cat(levels)


def batch_targets(anchors, targets, positive=0.4, negative=0.3):
    """Labels [B, N], -1 where an IoU lies between the thresholds, and target deltas [B, N, 4]."""
    labels, deltas = [], []
    for target in targets:
        label, delta = anchor_targets(anchors, target["boxes"], target["labels"], positive)
        if len(target["boxes"]):
            best = box_iou(target["boxes"], anchors).amax(0)  # [N]
            label = torch.where((label == 0) & (best >= negative), -1, label)
        labels.append(label)
        deltas.append(delta)
    return torch.stack(labels), torch.stack(deltas)

# %% tags=["experiment"]
from coursekit.backbones import small_trunk

TopDown = earlier("TopDown")
decode_boxes, batched_nms = earlier("decode_boxes"), earlier("batched_nms")


def add_norms(head, channels):
    """Puts a normalisation behind every hidden convolution of a head."""
    for parent in list(head.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.out_channels == channels:
                setattr(parent, name, nn.Sequential(layer, nn.GroupNorm(1, channels)))


class RetinaNet(nn.Module):
    """Images [B, 3, H, W] in 0..1 -> logits [B, N, K] and deltas [B, N, 4] for `self.anchors` [N, 4]."""

    def __init__(self, backbone, num_classes, image_size, channels=64):
        super().__init__()
        self.backbone, self.image_size = backbone, image_size
        self.pyramid = TopDown(list(backbone.channels.values()), channels)
        self.head = RetinaNetHead(channels, len(SCALES), num_classes)
        add_norms(self.head, channels)
        self.register_buffer("anchors", anchors_for(image_size))

    def forward(self, images):
        return self.head(self.pyramid(list(self.backbone(images).values())))

    def detect(self, images, score_threshold=0.02, iou_threshold=0.5, candidates=1000, top_k=100):
        """Images -> a list of dicts with boxes, scores and labels."""
        width, height = self.image_size
        found = []
        for scores, delta in zip(*(output.float() for output in self(images))):
            scores = scores.sigmoid()  # [N, K]
            rows, classes = (scores > score_threshold).nonzero(as_tuple=True)
            best, order = scores[rows, classes].topk(min(candidates, len(rows)))
            rows, labels = rows[order], classes[order] + 1
            boxes = decode_boxes(delta[rows], self.anchors[rows])
            boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
            kept = batched_nms(boxes, best, labels, iou_threshold)[:top_k]
            found.append({"boxes": boxes[kept], "scores": best[kept], "labels": labels[kept]})
        return found


def loss(model, images, targets):
    labels, target_deltas = batch_targets(model.anchors, targets)
    classification, localisation = retinanet_loss(*model(images), labels, target_deltas)
    return {"class": classification, "box": localisation}

# %% tags=["experiment"]
import functools

from coursekit.data import scenes
from coursekit.evaluation import evaluate
from coursekit.training import fit

FORMS = ("focal loss", "hard negatives, 3 for 1", "cross entropy", "torchvision's RetinaNet")
SMALL = 96  # pixels


@functools.cache
def easy_scenes(split, count):
    """One to three shapes of 18 pixels and more, on a quiet background."""
    return scenes(split, count, size=SMALL, difficulty="easy")


def loss_of(form):
    """The loss of one form, as `fit` takes it."""

    def other_loss(model, images, targets):
        labels, target_deltas = batch_targets(model.anchors, targets)
        logits, deltas = model(images)
        _, localisation = retinanet_loss(logits, deltas, labels, target_deltas)
        one_hot = F.one_hot(labels.clamp(min=0), logits.shape[-1] + 1)[..., 1:].to(logits.dtype)
        entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(-1)  # [B, N]
        positive = labels > 0
        counts = labels >= 0
        if form.startswith("hard"):
            rank = entropy.detach().masked_fill(labels != 0, -1).argsort(1, descending=True).argsort(1)
            wanted = 3 * positive.sum(1, keepdim=True).clamp(min=1)  # [B, 1]
            counts = positive | (labels == 0) & (rank < wanted)
        return {"class": entropy[counts].sum() / positive.sum().clamp(min=1), "box": localisation}

    return loss if form.startswith("focal") else other_loss


class Theirs(nn.Module):
    """torchvision's RetinaNet with the same trunk, channels, normalisation, anchors and thresholds."""

    def __init__(self, num_classes):
        super().__init__()
        from torchvision.models.detection import retinanet
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.ops import FeaturePyramidNetwork

        class Pyramid(nn.Module):
            out_channels = 64

            def __init__(self):
                super().__init__()
                self.trunk = small_trunk()
                self.fpn = FeaturePyramidNetwork(list(self.trunk.channels.values()), 64)

            def forward(self, images):
                return self.fpn(self.trunk(images))

        class Head(retinanet.RetinaNetHead):
            def forward(self, features):
                return {name: output.float() for name, output in super().forward(features).items()}

        sizes = tuple(tuple(BASE * stride * scale for scale in SCALES) for stride in STRIDES)
        self.model = retinanet.RetinaNet(
            Pyramid(), num_classes + 1, min_size=SMALL, max_size=SMALL, image_mean=[0.0] * 3, image_std=[1.0] * 3,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * len(STRIDES)),
            head=Head(64, len(SCALES), num_classes + 1, norm_layer=functools.partial(nn.GroupNorm, 1)),
            fg_iou_thresh=0.4, bg_iou_thresh=0.3, score_thresh=0.02, detections_per_img=100,
        )  # fmt: skip

    def forward(self, images, targets=None):
        return self.model(list(images), targets)


def experiment(form, seed, steps=250):
    """Train and score one form."""
    torch.manual_seed(seed)
    train, test = easy_scenes("train", 2048), easy_scenes("test", 400)
    if form.startswith("torchvision"):
        model = Theirs(6)
        fit(model, lambda model, *batch: model(*batch), train, steps=steps, seed=seed, progress=False)
        detect = model
    else:
        model = RetinaNet(small_trunk(), 6, (SMALL, SMALL))
        fit(model, loss_of(form), train, steps=steps, seed=seed, progress=False)
        detect = model.detect
    scores = evaluate(detect, test, small=12, large=30)
    return {"AP": scores.AP, "AP50": scores.AP50, "AP75": scores.AP75}
