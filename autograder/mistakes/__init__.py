"""Wrong answers that real people gave, by exercise: `MISTAKES["box_iou"]`. Each must fail and is named to the student.

A module a lesson (`boxes.py` for `01_boxes`), so that a lesson and its mistakes change together.
"""

import importlib
import pkgutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Mistake:
    """A wrong answer as a small edit of the exercise's reference.

    Args:
        name: short, for tables: "no clamp".
        message: what the student reads: what these values are and what to look at; kind, concrete, no answer.
        edits: `(old, new)` pairs; each `old` stands in the reference exactly once.
        code: instead of edits, the whole cell, where an edit would be longer than the answer.
    """

    name: str
    message: str
    edits: tuple[tuple[str, str], ...] = ()
    code: str | None = None

    def apply(self, reference):
        """The mistaken source."""
        if self.code is not None:
            return self.code
        source = reference
        for old, new in self.edits:
            if source.count(old) != 1:
                raise ValueError(f"mistake {self.name!r}: {old!r} stands {source.count(old)} times in the reference, not once")
            source = source.replace(old, new)
        if source == reference:
            raise ValueError(f"mistake {self.name!r} changes nothing")
        return source


MISTAKES: dict[str, list[Mistake]] = {}
for _module in pkgutil.iter_modules(__path__):
    MISTAKES.update(importlib.import_module(f"{__name__}.{_module.name}").MISTAKES)
