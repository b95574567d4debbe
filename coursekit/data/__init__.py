"""Detection sets: generated scenes, readers and writers of annotation files, real sets, batches."""

import importlib

from coursekit.data.batches import DetectionData, load
from coursekit.data.scenes import scenes

_MODULES = ("records", "voc", "coco", "via", "download")  # imported when first used
_NAMES = {"Record": "records", "real": "download", "sets": "download"}

# `scenes` is the function; the module behind it is reached by `from coursekit.data.scenes import ...`
__all__ = ["DetectionData", "Record", "coco", "load", "real", "scenes", "sets", "via", "voc"]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
