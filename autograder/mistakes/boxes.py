from . import Mistake

MISTAKES = {
    "box_iou": [
        Mistake(
            "no clamp",
            "these are the values of IoU without clamping: the sides of a missing overlap are negative, and two "
            "negative sides have a positive product",
            edits=((".clamp(min=0)", ""),),
        ),
    ],
}
