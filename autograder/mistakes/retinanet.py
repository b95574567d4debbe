"""Wrong answers to the exercises of lesson 11."""

from . import Mistake

ALPHA = "alpha_t = alpha * targets + (1 - alpha) * (1 - targets)"
ENTROPY = 'F.binary_cross_entropy_with_logits(logits, targets, reduction="none")'
BALANCED = "alpha_t * " + ENTROPY
DOUBT = "doubt = torch.sigmoid(torch.where(targets == 1, -logits, logits))"
FOCAL = "doubt**gamma * balanced_cross_entropy(logits, targets, alpha)"

SCORE_MAP = "score_map = self.scores(feature).permute(0, 2, 3, 1)"
OFFSET_MAP = "offset_map = self.offsets(feature).permute(0, 2, 3, 1)"
LOGITS = "logits.append(score_map.reshape(len(feature), -1, self.num_classes))"
DELTAS = "deltas.append(offset_map.reshape(len(feature), -1, 4))"
JOINED = "return torch.cat(logits, 1), torch.cat(deltas, 1)"
NORMAL = "nn.init.normal_(layer.weight, std=0.01)"
ZEROS = "nn.init.zeros_(layer.bias)"
PRIOR = "nn.init.constant_(self.scores[-1].bias, prior_bias())"
HIDDEN = "layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]"
LAST = "return nn.Sequential(*layers, nn.Conv2d(channels, outputs, 3, padding=1))"
SCORES = "self.scores = self.subnet(channels, anchors_per_cell * num_classes)"
OFFSETS = "self.offsets = self.subnet(channels, anchors_per_cell * 4)"

MASKS = "positive, counts = labels > 0, labels >= 0"
TARGETS = "targets = (labels[..., None] == classes).to(logits.dtype)"
NUMBER = "number = positive.sum().clamp(min=1)"
CLASSIFICATION = "classification = focal_loss(logits[counts], targets[counts]).sum() / number"
LOCALISATION = "localisation = smooth_l1_loss(deltas[positive], target_deltas[positive]).sum() / number"

MISTAKES = {
    "balanced_cross_entropy": [
        Mistake(
            "alpha on the wrong class",
            "foreground has the weight 1 - alpha and background alpha: it is the other way round",
            edits=((ALPHA, "alpha_t = (1 - alpha) * targets + alpha * (1 - targets)"),),
        ),
        Mistake(
            "alpha on both classes",
            "foreground and background both have the weight alpha: background has 1 - alpha",
            edits=((ALPHA, "alpha_t = alpha"),),
        ),
        Mistake(
            "alpha 1 for foreground, as the slide prints",
            "foreground has the weight 1, as the slide prints it: read the erratum above",
            edits=((ALPHA, "alpha_t = targets + (1 - alpha) * (1 - targets)"),),
        ),
        Mistake(
            "alpha for foreground, 1 for background",
            "background has the weight 1: foreground and background share the weight, alpha and 1 - alpha",
            edits=((ALPHA, "alpha_t = alpha * targets + (1 - targets)"),),
        ),
        Mistake(
            "no weight",
            "this is plain cross entropy: alpha has no effect on it",
            edits=((BALANCED, ENTROPY),),
        ),
        Mistake(
            "alpha fixed",
            "the weights are those of alpha = 0.25, whatever alpha is",
            edits=((ALPHA, "alpha_t = 0.25 * targets + 0.75 * (1 - targets)"),),
        ),
        Mistake(
            "alpha as pos_weight",
            "only the foreground has a weight here, and it is divided by 1 - alpha: background is to have 1 - alpha",
            edits=((BALANCED, 'F.binary_cross_entropy_with_logits(logits, targets, pos_weight=torch.as_tensor('
                    'alpha / max(1 - alpha, 1e-9)), reduction="none")'),),
        ),  # fmt: skip
        Mistake(
            "logits taken for probabilities",
            "the logits were taken for probabilities: they are any numbers, and want a sigmoid",
            edits=((ENTROPY, "-torch.log((targets * logits + (1 - targets) * (1 - logits)).clamp(1e-7, 1))"),),
        ),
        Mistake(
            "sigmoid twice",
            "the sigmoid is taken twice: binary_cross_entropy_with_logits takes it itself",
            edits=((ENTROPY, ENTROPY.replace("logits, targets", "logits.sigmoid(), targets")),),
        ),
        Mistake(
            "log of the probability",
            "the probability is rounded to 0 or 1 before its logarithm is taken: infinity, or 0 times infinity",
            edits=((ENTROPY, "-(targets * logits.sigmoid().log() + (1 - targets) * (1 - logits.sigmoid()).log())"),),
        ),
        Mistake(
            "probability clamped",
            "the probability is kept off 0 and 1, so from a logit of some 16 on the loss no longer grows and pushes "
            "nothing: compute it from the logits",
            edits=((ENTROPY, "F.binary_cross_entropy(logits.sigmoid().clamp(1e-7, 1 - 1e-7), targets, reduction='none')"),),
        ),
        Mistake(
            "binary_cross_entropy of the sigmoid",
            "the logarithm was cut off at -100, or the probability was rounded to 0 or 1: compute the loss from the "
            "logits",
            edits=((ENTROPY, "F.binary_cross_entropy(logits.sigmoid(), targets, reduction='none')"),),
        ),
        Mistake("mean", "this is one number, the mean; the loss of each number was asked for",
                edits=(("return " + BALANCED, "return (" + BALANCED + ").mean()"),)),
        Mistake("sum", "this is one number, the sum; the loss of each number was asked for",
                edits=(("return " + BALANCED, "return (" + BALANCED + ").sum()"),)),
        Mistake("sum over the last dimension", "the losses are summed over the last dimension; one for each number was asked for",
                edits=(("return " + BALANCED, "return (" + BALANCED + ").sum(-1)"),)),
        Mistake("sign", "the loss is negative: it is minus the logarithm", edits=((BALANCED, "-" + BALANCED),)),
        Mistake("logarithm to the base 2", "these are logarithms to the base 2: the loss has the natural one",
                edits=((BALANCED, BALANCED + " / 0.6931472"),)),
        Mistake("classes exchanged", "foreground is treated as background and background as foreground",
                edits=((ENTROPY, ENTROPY.replace("logits, targets", "logits, 1 - targets")),)),
        Mistake("background counts nothing", "background has no loss: both kinds of anchors have one",
                edits=((ALPHA, "alpha_t = alpha * targets"),)),
        Mistake("weight inside the logarithm", "the probability is multiplied by alpha, and the logarithm taken then: the weight "
                "stands in front of the logarithm",
                edits=(("return " + BALANCED, "return " + ENTROPY + " - torch.log(alpha_t.clamp(min=1e-9))"),)),
    ],  # fmt: skip
    "focal_loss": [
        Mistake(
            "alpha on the wrong class",
            "foreground has the weight 1 - alpha and background alpha: it is the other way round",
            edits=(("balanced_cross_entropy(logits, targets, alpha)", "balanced_cross_entropy(logits, targets, 1 - alpha)"),),
        ),
        Mistake(
            "alpha on both classes",
            "foreground and background both have the weight alpha: background has 1 - alpha",
            edits=((FOCAL, "alpha * doubt**gamma * " + ENTROPY),),
        ),
        Mistake(
            "alpha 1 for foreground, as the slide prints",
            "foreground has the weight 1, as the slide prints it: read the erratum above",
            edits=((FOCAL, "torch.where(targets == 1, 1.0, 1 - alpha).to(logits.dtype) * doubt**gamma * " + ENTROPY),),
        ),
        Mistake(
            "no alpha",
            "alpha has no effect: foreground is to be weighted by alpha, background by 1 - alpha",
            edits=((FOCAL, "doubt**gamma * " + ENTROPY),),
        ),
        Mistake(
            "alpha twice",
            "alpha counts twice: balanced_cross_entropy has it already",
            edits=((FOCAL, "(alpha * targets + (1 - alpha) * (1 - targets)) * " + FOCAL),),
        ),
        Mistake(
            "alpha of balanced_cross_entropy left at its default",
            "alpha is 0.25 whatever is asked for: hand it on",
            edits=(("targets, alpha)", "targets)"),),
        ),
        Mistake(
            "gamma ignored",
            "gamma is 2, whatever is asked for",
            edits=(("doubt**gamma", "doubt**2"),),
        ),
        Mistake(
            "gamma times, not to the power of",
            "the factor is gamma times 1 - p_t: gamma is an exponent",
            edits=(("doubt**gamma", "doubt * gamma"),),
        ),
        Mistake(
            "gamma on the cross entropy",
            "the cross entropy itself is raised to gamma: the factor is a power of 1 - p_t",
            edits=((FOCAL, "(alpha * targets + (1 - alpha) * (1 - targets)) * " + ENTROPY + "**gamma"),),
        ),
        Mistake(
            "gamma on the whole loss",
            "the cross entropy is inside the power too: only 1 - p_t is raised to gamma",
            edits=((FOCAL, "(alpha * targets + (1 - alpha) * (1 - targets)) * (doubt * " + ENTROPY + ")**gamma"),),
        ),
        Mistake(
            "the power of the balanced cross entropy",
            "the balanced cross entropy is inside the power: only 1 - p_t is raised to gamma",
            edits=((FOCAL, "(doubt * balanced_cross_entropy(logits, targets, alpha)) ** gamma"),),
        ),
        Mistake(
            "p_t for 1 - p_t",
            "the factor is a power of p_t: easy answers count much and hard ones little",
            edits=((DOUBT, DOUBT.replace("-logits, logits", "logits, -logits")),),
        ),
        Mistake(
            "1 - p for 1 - p_t",
            "the factor is 1 - p for background too: there p_t is 1 - p",
            edits=((DOUBT, "doubt = torch.sigmoid(-logits)"),),
        ),
        Mistake(
            "p for 1 - p_t",
            "the factor is p for foreground too: there 1 - p_t is 1 - p",
            edits=((DOUBT, "doubt = torch.sigmoid(logits)"),),
        ),
        Mistake(
            "1 - p_t^gamma",
            "the factor is 1 - p_t^gamma: the difference is raised to gamma, not p_t",
            edits=(("doubt**gamma", "(1 - (1 - doubt) ** gamma)"),),
        ),
        Mistake(
            "p_t from the logits",
            "p_t is made of logits, without a sigmoid",
            edits=((DOUBT, "doubt = 1 - torch.where(targets == 1, logits, 1 - logits)"),),
        ),
        Mistake(
            "sigmoid twice",
            "the sigmoid is taken twice in p_t",
            edits=((DOUBT, DOUBT.replace("-logits, logits)", "1 - logits.sigmoid(), logits.sigmoid())")),),
        ),
        Mistake(
            "sigmoid twice in the cross entropy",
            "the cross entropy is given probabilities where it wants logits, and takes the sigmoid again",
            edits=(("balanced_cross_entropy(logits,", "balanced_cross_entropy(logits.sigmoid(),"),),
        ),
        Mistake(
            "p_t from the balanced loss",
            "p_t is taken back from a cross entropy that has alpha in it already: exp(-loss) is p_t only without alpha",
            edits=((DOUBT, "doubt = 1 - torch.exp(-balanced_cross_entropy(logits, targets, alpha))"),),
        ),
        Mistake(
            "exp of the loss without a minus",
            "p_t is exp of minus the cross entropy",
            edits=((DOUBT, "doubt = 1 - torch.exp(" + ENTROPY + ".clamp(max=60))"),),
        ),
        Mistake(
            "factor detached",
            "the values are right but not the slope: the factor (1 - p_t)^gamma depends on the logits too, so no detach "
            "and no no_grad",
            edits=((FOCAL, "doubt.detach()**gamma * balanced_cross_entropy(logits, targets, alpha)"),),
        ),
        Mistake(
            "log of the probability",
            "the probability is rounded to 0 or 1 before its logarithm is taken: infinity, or 0 times infinity",
            edits=((FOCAL, "-(alpha * targets + (1 - alpha) * (1 - targets)) * doubt**gamma * torch.log(1 - doubt)"),),
        ),
        Mistake(
            "probability clamped",
            "the probability is kept off 0 and 1, so from a logit of some 16 on the loss no longer grows and pushes "
            "nothing: compute the cross entropy from the logits",
            edits=((FOCAL, "-(alpha * targets + (1 - alpha) * (1 - targets)) * doubt**gamma * torch.log((1 - doubt).clamp(1e-7))"),),
        ),
        Mistake("mean", "this is one number, the mean; the loss of each number was asked for",
                edits=(("return " + FOCAL, "return (" + FOCAL + ").mean()"),)),
        Mistake("sum", "this is one number, the sum; the loss of each number was asked for",
                edits=(("return " + FOCAL, "return (" + FOCAL + ").sum()"),)),
        Mistake("sum over the last dimension", "the losses are summed over the last dimension; one for each number was asked for",
                edits=(("return " + FOCAL, "return (" + FOCAL + ").sum(-1)"),)),
        Mistake("sign", "the loss is negative: cross entropy is minus the logarithm",
                edits=(("return " + FOCAL, "return -" + FOCAL),)),
        Mistake("no focal factor", "this is balanced cross entropy: gamma has no effect on it",
                edits=((FOCAL, "balanced_cross_entropy(logits, targets, alpha)"),)),
        Mistake("alpha and gamma exchanged", "alpha and gamma have changed places",
                edits=(("doubt**gamma", "doubt**alpha"), ("targets, alpha)", "targets, gamma)"))),
        Mistake("softmax over the last dimension", "classes compete by a softmax here: each number has a sigmoid of its own",
                edits=((DOUBT, "p = logits.softmax(-1) if logits.ndim else logits.sigmoid()\n    "
                        "doubt = torch.where(targets == 1, 1 - p, p)"),)),
        Mistake("alpha also raised to gamma", "alpha is inside the power: only 1 - p_t is raised to gamma",
                edits=((FOCAL, "((alpha * targets + (1 - alpha) * (1 - targets)) * doubt) ** gamma * " + ENTROPY),)),
    ],  # fmt: skip
    "prior_bias": [
        Mistake("wrong sign", "the sign is wrong: a probability under one half has a logit below 0",
                edits=(("-math.log", "math.log"),)),
        Mistake("log of the prior", "this is log(prior): nearly right for a small prior, but the sigmoid of it is not the prior",
                edits=(("-math.log((1 - prior) / prior)", "math.log(prior)"),)),
        Mistake("fixed prior", "this is the bias of 0.01, whatever the prior is",
                edits=(("(1 - prior) / prior", "(1 - 0.01) / 0.01"),)),
        Mistake("the prior itself", "this is a probability, the prior itself: the bias is the number whose sigmoid it is",
                edits=(("-math.log((1 - prior) / prior)", "prior"),)),
        Mistake("sigmoid for its inverse", "this is the sigmoid of the prior: its inverse is wanted",
                edits=(("-math.log((1 - prior) / prior)", "1 / (1 + math.exp(-prior))"),)),
        Mistake("logarithm to the base 10", "this is a logarithm to the base 10: the sigmoid is made with e",
                edits=(("math.log(", "math.log10("),)),
        Mistake("logarithm to the base 2", "this is a logarithm to the base 2: the sigmoid is made with e",
                edits=(("math.log(", "math.log2("),)),
        Mistake("brackets", "the logarithm is taken of 1 - prior only, and divided by the prior then: look at the brackets",
                edits=(("-math.log((1 - prior) / prior)", "-math.log(1 - prior) / prior"),)),
        Mistake("no logarithm", "this is the ratio of the probabilities without the logarithm",
                edits=(("-math.log((1 - prior) / prior)", "-(1 - prior) / prior"),)),
        Mistake("1 / prior - 1 without brackets", "1 is subtracted after the logarithm: look at the brackets",
                edits=(("-math.log((1 - prior) / prior)", "-math.log(1 / prior) - 1"),)),
        Mistake("softmax of two", "this is half of the bias: one number and a sigmoid, not a softmax of two",
                edits=(("-math.log((1 - prior) / prior)", "-math.log((1 - prior) / prior) / 2"),)),
    ],  # fmt: skip
    "RetinaNetHead": [
        Mistake(
            "background column kept",
            "there are K + 1 columns: with a sigmoid an anchor is background where no class is likely, so K are enough",
            edits=((SCORES, "num_classes += 1\n        self.num_classes = num_classes\n        " + SCORES),),
        ),
        Mistake(
            "view instead of permute, both",
            "a row takes its numbers from many cells: reshape reads memory in order, and channels lie before y and x "
            "there; bring the channels behind the cells first",
            edits=((SCORE_MAP, "score_map = self.scores(feature)"), (OFFSET_MAP, "offset_map = self.offsets(feature)")),
        ),
        Mistake(
            "view instead of permute, offsets",
            "the logits are in order, the offsets are not: their channels still lie before y and x when they are reshaped",
            edits=((OFFSET_MAP, "offset_map = self.offsets(feature)"),),
        ),
        Mistake(
            "view instead of permute, scores",
            "the offsets are in order, the logits are not: their channels still lie before y and x when they are reshaped",
            edits=((SCORE_MAP, "score_map = self.scores(feature)"),),
        ),
        Mistake(
            "x outer, y inner",
            "cells are read column by column: this course reads them row by row, y outer and x inner",
            edits=((SCORE_MAP, SCORE_MAP.replace("0, 2, 3, 1", "0, 3, 2, 1")), (OFFSET_MAP, OFFSET_MAP.replace("0, 2, 3, 1", "0, 3, 2, 1"))),
        ),
        Mistake(
            "x outer in the offsets only",
            "logits are read row by row, offsets column by column: row i of both must be the same anchor",
            edits=((OFFSET_MAP, OFFSET_MAP.replace("0, 2, 3, 1", "0, 3, 2, 1")),),
        ),
        Mistake(
            "anchors outermost",
            "rows run through the whole map for the first anchor, then for the second: in this course the anchors of a "
            "cell stand beside each other, as the anchor boxes do",
            edits=(
                (LOGITS, "b, h, w, c = score_map.shape\n            logits.append(score_map.reshape(b, h, w, -1, "
                 "self.num_classes).permute(0, 3, 1, 2, 4).reshape(b, -1, self.num_classes))"),
                (DELTAS, "deltas.append(offset_map.reshape(b, h, w, -1, 4).permute(0, 3, 1, 2, 4).reshape(b, -1, 4))"),
            ),
        ),  # fmt: skip
        Mistake(
            "channels by class, then anchor",
            "a cell's channels are read class by class: channel a·K + k belongs to anchor a, as in torchvision",
            edits=(
                (LOGITS, "b, h, w, c = score_map.shape\n            logits.append(score_map.reshape(b, h, w, "
                 "self.num_classes, -1).transpose(3, 4).reshape(b, -1, self.num_classes))"),
            ),
        ),  # fmt: skip
        Mistake(
            "channels by coordinate, then anchor",
            "a cell's offsets are read coordinate by coordinate: channel a·4 + j belongs to anchor a, as in torchvision",
            edits=(
                (DELTAS, "b, h, w, c = offset_map.shape\n            deltas.append(offset_map.reshape(b, h, w, 4, -1)"
                 ".transpose(3, 4).reshape(b, -1, 4))"),
            ),
        ),  # fmt: skip
        Mistake(
            "coarse level first",
            "the last map's rows come first: levels are put together from fine to coarse, in the order they come in",
            edits=((JOINED, "return torch.cat(logits[::-1], 1), torch.cat(deltas[::-1], 1)"),),
        ),
        Mistake(
            "only the last level",
            "the rows of one level only come out: join all of them",
            edits=((JOINED, "return logits[-1], deltas[-1]"),),
        ),
        Mistake(
            "levels not joined",
            "a list with a tensor for each level comes out: join them along the anchors",
            edits=((JOINED, "return logits, deltas"),),
        ),
        Mistake(
            "levels joined along the batch",
            "the levels are joined along the images: join them along the anchors",
            edits=((JOINED, "return torch.cat([one.reshape(-1, self.num_classes) for one in logits])[None], "
                    "torch.cat([one.reshape(-1, 4) for one in deltas])[None]"),),
        ),  # fmt: skip
        Mistake(
            "deltas first",
            "the deltas come first: logits, then deltas",
            edits=((JOINED, "return torch.cat(deltas, 1), torch.cat(logits, 1)"),),
        ),
        Mistake(
            "a head for each level",
            "there are several copies of the layers: all levels share one head",
            edits=(
                (SCORES, "self.all_scores = nn.ModuleList(self.subnet(channels, anchors_per_cell * num_classes) for _ in range(5))\n"
                 "        self.scores = self.all_scores[0]"),
                (OFFSETS, "self.all_offsets = nn.ModuleList(self.subnet(channels, anchors_per_cell * 4) for _ in range(5))\n"
                 "        self.offsets = self.all_offsets[0]"),
                (PRIOR, "for one in self.all_scores:\n            nn.init.constant_(one[-1].bias, prior_bias())"),
                ("for feature in features:", "for level, feature in enumerate(features):"),
                (SCORE_MAP, "score_map = self.all_scores[level](feature).permute(0, 2, 3, 1)"),
                (OFFSET_MAP, "offset_map = self.all_offsets[level](feature).permute(0, 2, 3, 1)"),
            ),
        ),  # fmt: skip
        Mistake(
            "one tower for both",
            "classes and boxes share their hidden layers: each subnet has its own",
            edits=((OFFSETS, "self.offsets = nn.Sequential(*self.scores[:-1], nn.Conv2d(channels, anchors_per_cell * 4, 3, padding=1))"),),
        ),
        Mistake(
            "one hidden layer used four times",
            "the four hidden layers are one and the same: each has weights of its own",
            edits=((HIDDEN, "layers += layers[:2] or [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]"),),
        ),
        Mistake("three hidden layers", "each subnet has three hidden layers: it has four, and then the last one",
                edits=(("for _ in range(4):", "for _ in range(3):"),)),
        Mistake("five hidden layers", "each subnet has five hidden layers: it has four, and then the last one",
                edits=(("for _ in range(4):", "for _ in range(5):"),)),
        Mistake("no hidden layers", "there are no hidden layers: four of them stand before the last one",
                edits=(("for _ in range(4):", "for _ in range(0):"),)),
        Mistake("no ReLU", "no ReLU follows the hidden layers: five convolutions in a row are one large convolution",
                edits=((HIDDEN, "layers += [nn.Conv2d(channels, channels, 3, padding=1)]"),)),
        Mistake(
            "one ReLU before the last layer",
            "a ReLU stands after the fourth hidden layer only: each of the four has one",
            edits=(
                (HIDDEN, "layers += [nn.Conv2d(channels, channels, 3, padding=1)]"),
                (LAST, "return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(channels, outputs, 3, padding=1))"),
            ),
        ),
        Mistake(
            "no ReLU before the last layer",
            "the fourth hidden layer has no ReLU: each of the four has one",
            edits=((LAST, "return nn.Sequential(*layers[:-1], nn.Conv2d(channels, outputs, 3, padding=1))"),),
        ),
        Mistake(
            "ReLU at the end",
            "a ReLU follows the last layer too: logits and offsets may be negative",
            edits=((LAST, "return nn.Sequential(*layers, nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU())"),
                   (PRIOR, "nn.init.constant_(self.scores[-2].bias, prior_bias())")),
        ),
        Mistake("sigmoid in the head", "the logits are probabilities already: the sigmoid belongs to the loss and to prediction",
                edits=((JOINED, "return torch.cat(logits, 1).sigmoid(), torch.cat(deltas, 1)"),)),
        Mistake("kernel of one", "a cell hears its neighbours too little: kernels are 3×3",
                edits=((HIDDEN, HIDDEN.replace("3, padding=1", "1")),)),
        Mistake("no padding", "the outputs have fewer cells than the maps, or none: a 3×3 kernel loses the border unless the map is padded",
                edits=((LAST, LAST.replace(", padding=1", "")),)),
        Mistake(
            "batch norm in the hidden layers",
            "there are layers besides convolutions and ReLUs, which the head of the slides does not have",
            edits=((HIDDEN, "layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]"),),
        ),
        Mistake(
            "layers in a plain list",
            "the layers stand in a Python list, where the module does not see them: they would be neither trained nor "
            "saved nor moved to a GPU",
            edits=(
                (SCORES, SCORES.replace("self.scores = ", "self.hidden = [") + "]"),
                (OFFSETS, OFFSETS.replace("self.offsets = ", "self.hidden += [") + "]"),
                ("for layer in self.modules():", "for layer in [*self.hidden[0], *self.hidden[1]]:"),
                (PRIOR, PRIOR.replace("self.scores[-1]", "self.hidden[0][-1]")),
                (SCORE_MAP, SCORE_MAP.replace("self.scores", "self.hidden[0]")),
                (OFFSET_MAP, OFFSET_MAP.replace("self.offsets", "self.hidden[1]")),
            ),
        ),
        Mistake("prior missing", "the last class layer starts at 0, so every class of every anchor begins at a probability of one half; was "
                "the prior set, and then overwritten?",
                edits=((PRIOR, "pass"),)),
        Mistake("prior with the wrong sign", "every class begins nearly certain: the bias has the wrong sign",
                edits=((PRIOR, PRIOR.replace("prior_bias()", "-prior_bias()")),)),
        Mistake("probability for its logit", "the bias is the probability 0.01 itself: the sigmoid of the bias is to be 0.01",
                edits=((PRIOR, PRIOR.replace("prior_bias()", "0.01")),)),
        Mistake("prior on the box layer", "the prior stands in the last box layer: boxes have nothing to do with it",
                edits=((PRIOR, PRIOR.replace("self.scores", "self.offsets")),)),
        Mistake("prior on both last layers", "the last box layer has the prior too: its biases are 0",
                edits=((PRIOR, PRIOR + "\n        " + PRIOR.replace("self.scores", "self.offsets")),)),
        Mistake("prior on every class layer", "every layer of the class subnet has the prior: only the last one has",
                edits=((PRIOR, "for layer in self.scores[::2]:\n            nn.init.constant_(layer.bias, prior_bias())"),)),
        Mistake("PyTorch's own start", "weights and biases begin as PyTorch makes them: Gaussian with σ = 0.01, and 0",
                edits=((NORMAL, "pass"), (ZEROS, "pass"))),
        Mistake("biases as PyTorch makes them", "the biases begin as PyTorch makes them: they begin at 0",
                edits=((ZEROS, "pass"),)),
        Mistake("weights as PyTorch makes them", "the weights begin as PyTorch makes them: Gaussian with σ = 0.01",
                edits=((NORMAL, "pass"),)),
        Mistake("variance 0.01", "the weights have a variance of 0.01: σ is the standard deviation, the root of it",
                edits=((NORMAL, NORMAL.replace("0.01", "0.1")),)),
        Mistake("uniform weights", "the weights are not Gaussian",
                edits=((NORMAL, "nn.init.uniform_(layer.weight, -0.0173, 0.0173)"),)),
        Mistake("Xavier", "the weights depend on the number of channels: σ is 0.01, whatever it is",
                edits=((NORMAL, "nn.init.xavier_normal_(layer.weight)"),)),
        Mistake("weights of mean 0.01", "the weights lie around 0.01, or all are 0.01: 0.01 is σ, their mean is 0",
                edits=((NORMAL, "nn.init.normal_(layer.weight, 0.01)"),)),
        Mistake("constant weights", "all weights are the same number, so all channels would learn the same",
                edits=((NORMAL, "nn.init.constant_(layer.weight, 0.01)"),)),
        Mistake("only the last layers begin small", "the hidden layers begin as PyTorch makes them: all weights have σ = 0.01",
                edits=(("for layer in self.modules():", "for layer in (self.scores[-1], self.offsets[-1]):"),)),
        Mistake("features changed in place", "the features of the caller are changed: a ReLU in place on the first map",
                edits=(("for feature in features:", "for feature in features:\n            feature.mul_(0.5)"),)),
    ],  # fmt: skip
    "retinanet_loss": [
        Mistake("ignored anchors counted as background", "anchors with label -1 count as background: they count nowhere",
                edits=((CLASSIFICATION, CLASSIFICATION.replace("[counts]", "")),)),
        Mistake("ignored anchors counted as the last class", "anchors with label -1 are taken for objects of the last class",
                edits=((TARGETS, "targets = F.one_hot((labels - 1).where(labels > 0, torch.where(labels < 0, logits.shape[-1] - 1, "
                        "logits.shape[-1])), logits.shape[-1] + 1)[..., :-1].to(logits.dtype)"),
                       (CLASSIFICATION, CLASSIFICATION.replace("[counts]", "")))),
        Mistake("ignored anchors counted among the positives", "anchors with label -1 are among those that the losses are divided by",
                edits=((NUMBER, "number = (labels != 0).sum().clamp(min=1)"),)),
        Mistake("offsets of ignored anchors", "the offsets of anchors with label -1 count: only positives have offsets",
                edits=((LOCALISATION, LOCALISATION.replace("[positive]", "[labels != 0]")),)),
        Mistake("offsets of background", "the offsets of background anchors count: only positives have offsets",
                edits=((LOCALISATION, LOCALISATION.replace("[positive]", "[counts]")),)),
        Mistake("offsets of all anchors", "the offsets of all anchors count: only positives have offsets",
                edits=((LOCALISATION, "localisation = smooth_l1_loss(deltas.flatten(0, 1), target_deltas.flatten(0, 1)).sum() / number"),)),
        Mistake("divided by all anchors", "the losses are divided by the number of anchors: nearly all are easy, divide by the positives",
                edits=((NUMBER, "number = max(labels.numel(), 1)"),)),
        Mistake("divided by positives and background", "the losses are divided by all anchors that count: divide by the positives",
                edits=((NUMBER, "number = counts.sum().clamp(min=1)"),)),
        Mistake("divided by the images", "the losses are divided by the number of images: divide by the positives",
                edits=((NUMBER, "number = max(len(labels), 1)"),)),
        Mistake("divided by positives and images", "the losses are divided by the positives and by the images: by the positives of the "
                "batch only",
                edits=((NUMBER, "number = positive.sum().clamp(min=1) * max(len(labels), 1)"),)),
        Mistake("not divided", "the losses are sums: divide them by the number of positives",
                edits=((NUMBER, "number = 1"),)),
        Mistake(
            "each image divided by its own positives",
            "each image is divided by its own positives, and the mean taken, as torchvision does: here the batch has one "
            "number of positives",
            edits=(
                (NUMBER, "number = positive.sum(1).clamp(min=1)"),
                (CLASSIFICATION, "classification = ((focal_loss(logits, targets) * counts[..., None]).sum((1, 2)) / number).mean()"),
                (LOCALISATION, "u = smooth_l1_loss(deltas.flatten(0, 1), target_deltas.flatten(0, 1)).unflatten(0, labels.shape)\n"
                 "    localisation = ((u * positive[..., None]).sum((1, 2)) / number).mean()"),
            ),
        ),
        Mistake("classification not divided", "the classification is a sum: divide it by the number of positives",
                edits=((CLASSIFICATION, CLASSIFICATION.replace(" / number", "")),)),
        Mistake("localisation not divided", "the localisation is a sum: divide it by the number of positives",
                edits=((LOCALISATION, LOCALISATION.replace(" / number", "")),)),
        Mistake("mean of the classification", "the classification is the mean over all anchors and classes: sum, then divide by the positives",
                edits=((CLASSIFICATION, "classification = focal_loss(logits[counts], targets[counts]).mean()"),)),
        Mistake("mean over the four offsets", "the four offsets of an anchor are averaged: they are summed",
                edits=((LOCALISATION, LOCALISATION.replace(".sum()", ".mean(-1).sum()")),)),
        Mistake("mean over the classes", "the classes of an anchor are averaged: they are summed",
                edits=((CLASSIFICATION, CLASSIFICATION.replace(".sum()", ".mean(-1).sum()")),)),
        Mistake("no positive, divided by 0", "without a positive the losses are 0 / 0 or infinite: divide by 1 there",
                edits=((NUMBER, "number = positive.sum()"),)),
        Mistake("0 without positives", "a batch without positives gives a classification of 0: its background is still to be learnt",
                edits=((CLASSIFICATION, CLASSIFICATION + " * positive.any()"),)),
        Mistake("a constant without positives", "without positives the localisation is a new zero, which cannot be differentiated",
                edits=(("return classification, localisation", "if not positive.any():\n        localisation = logits.new_zeros(())\n"
                        "    return classification, localisation"),)),
        Mistake("label k in column k", "label k is looked for in column k: there is no background column, label 1 stands in column 0",
                edits=(("torch.arange(1, logits.shape[-1] + 1", "torch.arange(0, logits.shape[-1]"),)),
        Mistake("only the true class", "an anchor's other classes do not count: for a sigmoid each class is a question of its own",
                edits=((CLASSIFICATION, "classification = (focal_loss(logits, targets) * (targets + (labels == 0)[..., None])).sum() / number"),)),
        Mistake("only positives in the classification", "background anchors do not count in the classification: focal loss weighs them, "
                "it leaves none out",
                edits=((CLASSIFICATION, CLASSIFICATION.replace("[counts]", "[positive]")),)),
        Mistake("labels for targets", "the label itself is the target: each class has a column of zeros and ones",
                edits=((TARGETS, "targets = labels[..., None].expand_as(logits).to(logits.dtype)"),)),
        Mistake("positive in every column", "a positive has a one in every class: only in that of its own",
                edits=((TARGETS, "targets = (labels[..., None] > 0).expand_as(logits).to(logits.dtype)"),)),
        Mistake("cross entropy", "this is plain cross entropy: the classification takes the focal loss",
                edits=((CLASSIFICATION, 'classification = F.binary_cross_entropy_with_logits(logits[counts], targets[counts], reduction="sum") / number'),)),
        Mistake("balanced cross entropy", "this is balanced cross entropy: the classification takes the focal loss",
                edits=((CLASSIFICATION, CLASSIFICATION.replace("targets[counts]", "targets[counts], gamma=0.0")),)),
        Mistake("alpha 0.75", "foreground has the weight 0.75: it is 0.25, focal_loss's default",
                edits=((CLASSIFICATION, CLASSIFICATION.replace("targets[counts]", "targets[counts], 0.75")),)),
        Mistake("sigmoid before the focal loss", "focal_loss is given probabilities: it takes logits",
                edits=((CLASSIFICATION, CLASSIFICATION.replace("logits[counts]", "logits[counts].sigmoid()")),)),
        Mistake("L1", "the localisation is L1: smooth L1 is a parabola up to a difference of 1",
                edits=((LOCALISATION, LOCALISATION.replace("smooth_l1_loss(deltas[positive], target_deltas[positive])",
                        "(deltas[positive] - target_deltas[positive]).abs()")),)),
        Mistake("sigma 3", "the localisation is smooth L1 with a sigma of 3, as some libraries have it here: sigma is 1",
                edits=((LOCALISATION, LOCALISATION.replace("target_deltas[positive])", "target_deltas[positive], 3.0)")),)),
        Mistake("hard negative mining", "only some background anchors count: focal loss needs no mining, all of them count",
                edits=((CLASSIFICATION, "each = focal_loss(logits, targets).sum(-1)\n    rows = each[labels == 0].sort(descending=True).values[: 3 * number]\n"
                        "    classification = (each[positive].sum() + rows.sum()) / number"),)),
        Mistake("one number", "the two losses are added up: give them one by one",
                edits=(("return classification, localisation", "return classification + localisation"),)),
        Mistake("exchanged", "the localisation comes first: classification, then localisation",
                edits=(("return classification, localisation", "return localisation, classification"),)),
        Mistake("ignored anchors masked after the sum", "the losses of ignored anchors are set to their targets but not left out",
                edits=((CLASSIFICATION, "classification = focal_loss(logits * counts[..., None], targets).sum() / number"),)),
        Mistake("targets with the sign of the labels", "background has a target of -1, as the slides write y = -1: here it is 0",
                edits=((TARGETS, "targets = 2 * (labels[..., None] == classes).to(logits.dtype) - 1"),)),
        Mistake("labels changed in place", "the labels of the caller are changed",
                edits=((MASKS, MASKS + "\n    labels.clamp_(min=0)"),)),
    ],  # fmt: skip
    "repaired_predict": [
        Mistake("not repaired", "these are the colleague's scores: those of an anchor add up to 1, also where nothing is",
                edits=(("logits.sigmoid()", "logits.softmax(-1)"),)),
        Mistake("softmax with a column of zeros", "a column for background was added before the softmax: classes still share one certainty",
                edits=(("logits.sigmoid()", "torch.cat([torch.zeros_like(logits[..., :1]), logits], -1).softmax(-1)[..., 1:]"),)),
        Mistake("softmax of the sigmoid", "the scores are a softmax of probabilities: the sigmoid alone is the answer",
                edits=(("logits.sigmoid()", "logits.sigmoid().softmax(-1)"),)),
        Mistake("logits as scores", "the scores are logits: they are not between 0 and 1",
                edits=(("logits.sigmoid()", "logits"),)),
        Mistake("first class dropped", "the first class is missing, and all labels are one too small: here no column is background",
                edits=(("logits.sigmoid()", "logits.sigmoid()[..., 1:]"),)),
        Mistake("one class for each anchor", "each anchor gives its best class only: it may say yes to several",
                edits=(("(score > score_threshold)", "((score > score_threshold) & (score == score.amax(-1, keepdim=True)))"),)),
        Mistake("labels from 0", "labels count from 0: 0 is background, the first class is 1",
                edits=(("classes[order] + 1", "classes[order]"),)),
        Mistake("candidates of all levels together", "the best candidates were chosen among all levels: each level has as many",
                edits=(("zip(scores.split(counts), delta.split(counts), anchors.split(counts))", "[(scores, delta, anchors)]"),)),
        Mistake("all candidates", "candidates was not used: a level gives no more than so many",
                edits=(("min(candidates, len(rows))", "len(rows)"),)),
        Mistake("anchors without decoding", "the boxes are the anchors: the deltas move them",
                edits=(("decode_boxes(offsets[rows[order]], here[rows[order]])", "here[rows[order]]"),)),
        Mistake("boxes in another order than scores", "boxes are not in the order of their scores",
                edits=(("decode_boxes(offsets[rows[order]], here[rows[order]])", "decode_boxes(offsets[rows], here[rows])[: len(order)]"),)),
        Mistake("not clipped", "boxes reach out of the image",
                edits=(("torch.minimum(boxes, limits)", "boxes"), (".clamp(min=0)", ""))),
        Mistake("width and height exchanged", "boxes are clipped to an image of another shape: image_size is (width, height)",
                edits=(("width, height = image_size", "height, width = image_size"),)),
        Mistake("NMS over all classes", "boxes of different classes push each other out",
                edits=(("batched_nms(boxes, best, labels, iou_threshold)", "batched_nms(boxes, best, labels * 0, iou_threshold)"),)),
        Mistake("top k of each level", "of each level there are at most top_k: it counts over the whole image, after NMS",
                edits=(("min(candidates, len(rows))", "min(candidates, top_k, len(rows))"), ("iou_threshold)[:top_k]", "iou_threshold)"))),
        Mistake("threshold included", "a score that equals the threshold counted: more than it is wanted",
                edits=(("score > score_threshold", "score >= score_threshold"),)),
    ],  # fmt: skip
}
