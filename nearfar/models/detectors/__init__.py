"""What finds objects on an encoder's feature maps: one detector a file, each with torchvision's parts.

To add one: a file with a subclass of `pyramid.Detector`, and its line in `DETECTORS`.
"""

from __future__ import annotations

import importlib

from .pyramid import Detector

DETECTORS = {"fcos": "Fcos", "retinanet": "RetinaNet", "faster-rcnn": "FasterRcnn"}
"""Name, which is also the file's with _ for -, to the class in it."""


def detector_class(name: str) -> type[Detector]:
    """Find a detector's class.

    Args:
        name: one of `DETECTORS`.
    """
    found: type[Detector] = getattr(
        importlib.import_module(f".{name.replace('-', '_')}", __name__), DETECTORS[name]
    )
    return found
