from . import Mistake

MISTAKES = {
    "smooth_l1_loss": [
        Mistake(
            "parabola ends at 1",
            "the parabola is used up to a difference of 1 whatever sigma is; it should end at 1 / sigma^2",
            edits=(("size < 1 / sigma**2, ", "size < 1, "),),
        ),
        Mistake(
            "parabola ends at 1 / sigma",
            "the parabola ends at 1 / sigma; sigma should be squared there, or the two pieces do not meet",
            edits=(("size < 1 / sigma**2, ", "size < 1 / sigma, "),),
        ),
        Mistake(
            "parabola ends at sigma",
            "the parabola gets wider with sigma here; a larger sigma should make it narrower, see where it is"
            " to end",
            edits=(("size < 1 / sigma**2, ", "size < sigma, "),),
        ),
        Mistake(
            "parabola ends at sigma squared",
            "the parabola gets wider with sigma here; a larger sigma should make it narrower, see where it is"
            " to end",
            edits=(("size < 1 / sigma**2, ", "size < sigma**2, "),),
        ),
        Mistake(
            "sigma not squared in the parabola",
            "sigma is inside the square: (sigma * u)^2 / 2",
            edits=(("(sigma * size) ** 2 / 2", "sigma * size**2 / 2"),),
        ),
        Mistake(
            "sigma not squared in the line",
            "the line is lowered by 1 / (2 * sigma); sigma should be squared there",
            edits=(("size - 1 / (2 * sigma**2))", "size - 1 / (2 * sigma))"),),
        ),
        Mistake(
            "sigma for sigma squared everywhere",
            "this is smooth L1 for another sigma, the root of the given one: all three sigmas are squared",
            edits=(("size = (prediction", "sigma = sigma**0.5\n    size = (prediction"),),
        ),
        Mistake(
            "Huber",
            "these are the values of the Huber loss: smooth L1 divided by sigma^2. Beyond the parabola the"
            " slope should be 1",
            edits=(("return torch.where(", "return sigma**-2 * torch.where("),),
        ),
        Mistake(
            "Huber with sigma as its bend",
            "this is the Huber loss whose bend lies at sigma; here a larger sigma makes the parabola"
            " narrower",
            edits=(
                (
                    "size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 * sigma**2)",
                    "size < sigma, size**2 / 2, sigma * (size - sigma / 2)",
                ),
            ),
        ),
        Mistake(
            "beta is sigma",
            "this is the library's smooth L1 with beta = sigma: its parabola gets wider with sigma, ours"
            " narrower",
            edits=(("size = (prediction", "sigma = sigma**-0.5\n    size = (prediction"),),
        ),
        Mistake(
            "beta is sigma squared",
            "this is the library's smooth L1 with beta = sigma^2: its parabola gets wider with sigma, ours"
            " narrower",
            edits=(("size = (prediction", "sigma = 1 / sigma\n    size = (prediction"),),
        ),
        Mistake(
            "L1",
            "this is L1, the plain absolute difference: near 0 there should be a parabola",
            edits=(("return torch.where(", "return size\n    return torch.where("),),
        ),
        Mistake(
            "L2",
            "this is the parabola everywhere: large differences should grow along a straight line",
            edits=(("size < 1 / sigma**2, ", "size < torch.inf, "),),
        ),
        Mistake(
            "no half in the parabola",
            "the parabola is twice too high: it is divided by 2, so that it meets the line",
            edits=(("(sigma * size) ** 2 / 2,", "(sigma * size) ** 2,"),),
        ),
        Mistake(
            "line not lowered",
            "large differences cost their full size; the line is lowered so that it meets the parabola",
            edits=(("size - 1 / (2 * sigma**2))", "size)"),),
        ),
        Mistake(
            "line lowered twice as far",
            "the line is too low by as much as it should be lowered: look for a missing 2",
            edits=(("size - 1 / (2 * sigma**2))", "size - 1 / sigma**2)"),),
        ),
        Mistake(
            "pieces exchanged",
            "the line is used near 0 and the parabola far away",
            edits=(("size < 1 / sigma**2, ", "size >= 1 / sigma**2, "),),
        ),
        Mistake(
            "no absolute value",
            "a negative difference is always on the parabola, or gives a negative loss: look at its size, not"
            " its sign",
            edits=(("(prediction - target).abs()", "(prediction - target)"),),
        ),
        Mistake(
            "sigma ignored",
            "this is the loss for sigma = 1, whatever sigma is",
            edits=(("size = (prediction", "sigma = 1\n    size = (prediction"),),
        ),
        Mistake(
            "averaged",
            "this is one number, the mean; the loss of each number was asked for",
            edits=(
                (
                    (
                        "return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 *"
                        " sigma**2))"
                    ),
                    (
                        "return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 *"
                        " sigma**2)).mean()"
                    ),
                ),
            ),
        ),
        Mistake(
            "summed over the four",
            "there is one number for each row; the loss of each of the four was asked for",
            edits=(
                (
                    (
                        "return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 *"
                        " sigma**2))"
                    ),
                    (
                        "return torch.where(size < 1 / sigma**2, (sigma * size) ** 2 / 2, size - 1 / (2 *"
                        " sigma**2)).sum(-1)"
                    ),
                ),
            ),
        ),
        Mistake(
            "no gradient",
            "the values are right but no gradient flows back: compute with tensors all the way, without"
            " .detach(), .item() or .data",
            edits=(("(prediction - target).abs()", "(prediction - target).abs().detach()"),),
        ),
    ],
    "mine_hard_negatives": [
        Mistake(
            "positives chosen too",
            "a positive was chosen as a negative because its loss is high: take the positives out before you"
            " rank",
            edits=(
                ("loss.masked_fill(positive, -torch.inf)", "loss"),
                ("(rank < wanted) & ~positive", "rank < wanted"),
            ),
        ),
        Mistake(
            "positives take places",
            "there are too few negatives: positives stood in the ranking and took places in it",
            edits=(("loss.masked_fill(positive, -torch.inf)", "loss"),),
        ),
        Mistake(
            "positives set to zero",
            "a positive's loss was set to 0, which is as high as that of a perfect negative, and it took a"
            " place: it should rank below all",
            edits=(("masked_fill(positive, -torch.inf)", "masked_fill(positive, 0)"),),
        ),
        Mistake(
            "positives fill up",
            "where there are too few negatives, positives were taken to fill the places; then there are just"
            " fewer",
            edits=(("(rank < wanted) & ~positive", "rank < wanted"),),
        ),
        Mistake(
            "none without positives",
            "an image without positives keeps no negatives: 3 x 0 = 0, but it should keep `ratio`",
            edits=((".clamp(min=1)", ""),),
        ),
        Mistake(
            "one without positives",
            "an image without positives keeps one negative; it should keep `ratio`",
            edits=(
                (
                    "ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)",
                    "(ratio * positive.sum(dim=1, keepdim=True)).clamp(min=1)",
                ),
            ),
        ),
        Mistake(
            "all without positives",
            "an image without positives keeps all of its negatives; it should keep `ratio`",
            edits=(
                (
                    "return (rank < wanted) & ~positive",
                    "return ((rank < wanted) | ~positive.any(dim=1, keepdim=True)) & ~positive",
                ),
            ),
        ),
        Mistake(
            "ratio more in every image",
            "every image keeps `ratio` negatives too many: the minimum is for images without positives",
            edits=((".clamp(min=1)", " + ratio"),),
        ),
        Mistake(
            "counted over the batch",
            "each image keeps negatives for the positives of all images; count in each image by itself",
            edits=(("positive.sum(dim=1, keepdim=True)", "positive.sum()"),),
        ),
        Mistake(
            "ranked over the batch",
            "the negatives of all images were ranked together, so an image with high losses takes all; rank"
            " in each image by itself",
            edits=(
                (
                    "wanted = ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)",
                    "wanted = ratio * positive.sum(dim=1).clamp(min=1).sum()",
                ),
                (
                    ".argsort(dim=1, descending=True, stable=True)",
                    ".flatten().argsort(descending=True, stable=True)",
                ),
                ("rank = order.argsort(dim=1)", "rank = order.argsort().reshape(loss.shape)"),
            ),
        ),
        Mistake(
            "ranked down the columns",
            "the losses were ranked over the images instead of over the anchors: dim 1 holds the anchors",
            edits=(
                (
                    ".argsort(dim=1, descending=True, stable=True)",
                    ".argsort(dim=0, descending=True, stable=True)",
                ),
                ("order.argsort(dim=1)", "order.argsort(dim=0)"),
            ),
        ),
        Mistake(
            "easiest first",
            "these are the negatives of lowest loss, the easy ones; the hard ones have the highest",
            edits=(
                (
                    "-torch.inf).argsort(dim=1, descending=True,",
                    "torch.inf).argsort(dim=1, descending=False,",
                ),
            ),
        ),
        Mistake(
            "sorted once",
            "argsort gives which anchor stands at each place, not the place of each anchor: sort its result"
            " once more",
            edits=(("rank = order.argsort(dim=1)", "rank = order"),),
        ),
        Mistake(
            "always 3",
            "there are three negatives for each positive whatever `ratio` says",
            edits=(("wanted = ratio *", "wanted = 3 *"),),
        ),
        Mistake(
            "three at least",
            "every image keeps three negatives at least: the minimum is for images without positives, and it"
            " is `ratio`",
            edits=(
                (
                    "ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)",
                    "(ratio * positive.sum(dim=1, keepdim=True)).clamp(min=3)",
                ),
            ),
        ),
        Mistake(
            "three an image",
            "every image keeps `ratio` negatives, however many positives it has",
            edits=(("ratio * positive.sum(dim=1, keepdim=True).clamp(min=1)", "ratio"),),
        ),
        Mistake(
            "larger index on ties",
            "of equal losses the later anchor was taken; the smaller index wins",
            edits=(
                (
                    "= loss.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)",
                    "= loss.masked_fill(positive, -torch.inf).argsort(dim=1, stable=True).flip(1)",
                ),
            ),
        ),
        Mistake(
            "all of equal loss",
            "where losses are equal more were taken than wanted: a threshold cannot tell them apart, the"
            " smaller index wins",
            edits=(
                (
                    "return (rank < wanted) & ~positive",
                    (
                        "last = ((rank < wanted) & ~positive) * loss + ~((rank < wanted) & ~positive) * 1e9\n"
                        "    return (loss >= last.amin(dim=1, keepdim=True)) & ~positive if loss.numel() else"
                        " ~positive"
                    ),
                ),
            ),
        ),
        Mistake(
            "one too many",
            "one negative too many in each image: ranks count from 0",
            edits=(("(rank < wanted)", "(rank <= wanted)"),),
        ),
        Mistake(
            "one too few",
            "one negative too few in each image: ranks count from 0",
            edits=(("(rank < wanted)", "(rank < wanted - 1)"),),
        ),
        Mistake(
            "positives in the result",
            "the positives are true in the result too; it should hold the negatives only",
            edits=(("return (rank < wanted) & ~positive", "return (rank < wanted) | positive"),),
        ),
        Mistake(
            "all negatives",
            "every negative is marked: only the hardest ones should be, `ratio` for each positive",
            edits=(("return (rank < wanted) & ~positive", "return ~positive"),),
        ),
        Mistake(
            "indices",
            "these are numbers of anchors; the result is a bool for each anchor, of the shape of `loss`",
            edits=(("return (rank < wanted) & ~positive", "return order[:, : int(wanted.max())]"),),
        ),
    ],
    "ssd_loss": [
        Mistake(
            "averaged over all anchors",
            "both losses are divided by the number of anchors, so an image with more background has a smaller"
            " loss; divide by the positives",
            edits=(("count = positive.sum().clamp(min=1)", "count = max(labels.numel(), 1)"),),
        ),
        Mistake(
            "averaged over the chosen anchors",
            "the classification loss is a mean over positives and negatives; divide its sum by the positives"
            " alone",
            edits=(
                (
                    "entropy[positive | mined & (labels == 0)].sum() / count",
                    (
                        "entropy[positive | mined & (labels == 0)].sum() / (positive | mined & (labels =="
                        " 0)).sum().clamp(min=1)"
                    ),
                ),
            ),
        ),
        Mistake(
            "mean of the four offsets",
            "the localisation loss is a quarter of what it should be: the four offsets are summed, not"
            " averaged",
            edits=((".sum() / count\n    return", ".sum() / (4 * count)\n    return"),),
        ),
        Mistake(
            "divided image by image",
            "each image was divided by its own positives; divide the batch's sum by the batch's positives",
            edits=(
                (
                    "count = positive.sum().clamp(min=1)",
                    "count = positive.sum(dim=1, keepdim=True).clamp(min=1)",
                ),
                (
                    "entropy[positive | mined & (labels == 0)].sum() / count",
                    "(entropy * (positive | mined & (labels == 0)) / count).sum() / max(len(labels), 1)",
                ),
                (
                    "smooth_l1_loss(deltas[positive], target_deltas[positive]).sum() / count",
                    (
                        "(smooth_l1_loss(deltas, target_deltas).sum(-1) * positive / count).sum() /"
                        " max(len(labels), 1)"
                    ),
                ),
            ),
        ),
        Mistake(
            "0 / 0 without positives",
            "a batch without positives gives NaN: it is divided by 0; divide by 1 at least",
            edits=(("positive.sum().clamp(min=1)", "positive.sum()"),),
        ),
        Mistake(
            "the mean of no rows",
            "a batch without positives gives NaN for the localisation: the mean of no rows is 0 / 0; sum, and"
            " divide by 1 at least",
            edits=((".sum() / count\n    return", ".sum(dim=1).mean()\n    return"),),
        ),
        Mistake(
            "constant without positives",
            "a batch without positives gives plain zeros: its hard negatives still count, and the gradient"
            " must flow",
            edits=(
                (
                    "count = positive.sum().clamp(min=1)",
                    (
                        "count = positive.sum().clamp(min=1)\n    if not positive.any():\n        return"
                        " logits.new_zeros(()), logits.new_zeros(())"
                    ),
                ),
            ),
        ),
        Mistake(
            "constant localisation without positives",
            "without positives the localisation is a new 0 that no gradient flows from; the sum of no rows of"
            " `deltas` is a 0 too, with one",
            edits=(
                (
                    "    return classification, localisation",
                    (
                        "    if not positive.any():\n        localisation = deltas.new_zeros(())\n    return"
                        " classification, localisation"
                    ),
                ),
            ),
        ),
        Mistake(
            "no gradient for the offsets",
            "the localisation loss is cut off from the deltas: compute with them as they came, without"
            " .detach() or .item()",
            edits=(("smooth_l1_loss(deltas[positive]", "smooth_l1_loss(deltas.detach()[positive]"),),
        ),
        Mistake(
            "no gradient",
            "both losses are cut off from what they were computed from, so nothing can be learnt: no"
            " .detach() and no torch.no_grad() here",
            edits=(
                (
                    "return classification, localisation",
                    "return classification.detach(), localisation.detach()",
                ),
            ),
        ),
        Mistake(
            "plain numbers in new tensors",
            "both losses are new tensors, made of plain numbers: no gradient flows through .item() or"
            " float()",
            edits=(
                (
                    "return classification, localisation",
                    "return torch.tensor(classification.item()), torch.tensor(localisation.item())",
                ),
            ),
        ),
        Mistake(
            "label -1 given to the cross entropy",
            "an anchor of label -1 fails here: the cross entropy has to be told which label to ignore",
            edits=((", ignore_index=-1", ""),),
        ),
        Mistake(
            "images without positives left out",
            "an image without positives adds nothing; its hardest negatives should count, see"
            " mine_hard_negatives",
            edits=(
                (
                    "positive | mined & (labels == 0)",
                    "positive | mined & (labels == 0) & positive.any(dim=1, keepdim=True)",
                ),
            ),
        ),
        Mistake(
            "ignored anchors as background",
            "anchors of label -1 were trained as background; they count nowhere, in no loss and no number",
            edits=(
                ("labels.flatten(), ignore_index=-1", "labels.flatten().clamp(min=0)"),
                (".masked_fill(labels < 0, -torch.inf)", ""),
                ("mined & (labels == 0)", "mined"),
            ),
        ),
        Mistake(
            "ignored anchors as positives",
            "anchors of label -1 count as positives: a positive has a label above 0",
            edits=(("positive = labels > 0", "positive = labels != 0"),),
        ),
        Mistake(
            "ignored anchors take places",
            "ignored anchors took places among the hard negatives: take them out before the mining, not"
            " after it",
            edits=(
                (
                    "entropy.detach().masked_fill(labels < 0, -torch.inf)",
                    "-logits.detach().log_softmax(-1)[..., 0]",
                ),
            ),
        ),
        Mistake(
            "all negatives",
            "every background anchor counts; only the hard negatives should, three for each positive",
            edits=(("positive | mined & (labels == 0)", "positive | (labels == 0)"),),
        ),
        Mistake(
            "no negatives",
            "only the positives count in the classification loss; the hard negatives should too",
            edits=(("positive | mined & (labels == 0)", "positive"),),
        ),
        Mistake(
            "negatives only",
            "only the hard negatives count in the classification loss; the positives should too",
            edits=(("positive | mined & (labels == 0)", "mined & (labels == 0)"),),
        ),
        Mistake(
            "mined over the whole batch",
            "the hard negatives of the batch were ranked together; each image has its own",
            edits=(
                (
                    "mine_hard_negatives(entropy.detach().masked_fill(labels < 0, -torch.inf), positive)",
                    (
                        "mine_hard_negatives(entropy.detach().masked_fill(labels < 0, -torch.inf).reshape(1,"
                        " -1), positive.reshape(1, -1)).reshape(labels.shape)"
                    ),
                ),
            ),
        ),
        Mistake(
            "offsets of all anchors",
            "the offsets of background anchors count too; only positives have something to be compared with",
            edits=(
                (
                    "smooth_l1_loss(deltas[positive], target_deltas[positive])",
                    "smooth_l1_loss(deltas, target_deltas)",
                ),
            ),
        ),
        Mistake(
            "offsets of ignored anchors",
            "the offsets of anchors of label -1 count too; a positive has a label above 0",
            edits=(
                (
                    "smooth_l1_loss(deltas[positive], target_deltas[positive])",
                    "smooth_l1_loss(deltas[labels != 0], target_deltas[labels != 0])",
                ),
            ),
        ),
        Mistake(
            "L1",
            "the localisation loss is plain L1; smooth L1 is a parabola below 1",
            edits=(
                (
                    "smooth_l1_loss(deltas[positive], target_deltas[positive])",
                    "(deltas[positive] - target_deltas[positive]).abs()",
                ),
            ),
        ),
        Mistake(
            "L2",
            "the localisation loss is the squared difference; smooth L1 was asked for",
            edits=(
                (
                    "smooth_l1_loss(deltas[positive], target_deltas[positive])",
                    "(deltas[positive] - target_deltas[positive]).square()",
                ),
            ),
        ),
        Mistake(
            "alpha forgotten",
            "alpha has no effect; it weighs the localisation loss",
            edits=(("localisation = alpha *", "localisation ="),),
        ),
        Mistake(
            "alpha on the classes",
            "alpha weighs the classification loss; it belongs to the localisation",
            edits=(
                ("localisation = alpha *", "localisation ="),
                ("classification = entropy", "classification = alpha * entropy"),
            ),
        ),
        Mistake(
            "losses exchanged",
            "the two losses come in the wrong order: classification first",
            edits=(("return classification, localisation", "return localisation, classification"),),
        ),
        Mistake(
            "one number",
            "the losses were added up; give both, so that they can be watched one by one",
            edits=(("return classification, localisation", "return classification + localisation"),),
        ),
        Mistake(
            "localisation not divided",
            "the localisation loss is a sum over the batch; divide it by the positives too",
            edits=((".sum() / count\n    return", ".sum()\n    return"),),
        ),
        Mistake(
            "classification not divided",
            "the classification loss is a sum over the batch; divide it by the positives too",
            edits=(("& (labels == 0)].sum() / count", "& (labels == 0)].sum()"),),
        ),
        Mistake(
            "background is the last class",
            "background was taken as the last column of the logits; it is class 0, the first",
            edits=(
                (
                    "F.cross_entropy(logits.flatten(0, 1)",
                    "F.cross_entropy(logits.roll(1, dims=-1).flatten(0, 1)",
                ),
            ),
        ),
        Mistake(
            "softmax twice",
            "the logits went through a softmax before the cross entropy, which has one inside",
            edits=(
                ("F.cross_entropy(logits.flatten(0, 1)", "F.cross_entropy(logits.flatten(0, 1).softmax(-1)"),
            ),
        ),
        Mistake(
            "log of a probability of 0",
            "very wrong logits give infinity: their softmax rounds to 0 and its logarithm to minus infinity;"
            " use log_softmax or cross_entropy on the logits",
            edits=(
                ("F.cross_entropy(logits.flatten(0, 1)", "F.nll_loss(logits.flatten(0, 1).softmax(-1).log()"),
            ),
        ),
        Mistake(
            "no gradient for the classes",
            "the classification loss is cut off from the logits: mine on a detached copy, but sum the"
            " original",
            edits=(
                (
                    "entropy = entropy.reshape(labels.shape)",
                    "entropy = entropy.reshape(labels.shape).detach()",
                ),
            ),
        ),
    ],
}
