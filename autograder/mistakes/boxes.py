from . import Mistake

MISTAKES = {
    "box_iou": [
        Mistake(
            "no clamp",
            "these are the values of IoU without clamping: the sides of a missing overlap are negative",
            edits=((".clamp(min=0)", ""),),
        ),
    ],
}
