"""nearfar: from a folder of unlabelled images to an encoder you can trust.

    import nearfar
    run = nearfar.pretrain("photos", out="runs/a", minutes=10)
    print(nearfar.evaluate(run, train="labelled/train", test="labelled/test").table())

Names are imported when they are first used, so that `import nearfar` and `nearfar --help` are instant.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from .errors import NearfarError

if TYPE_CHECKING:
    from .catalogue import catalogue
    from .check import check
    from .compare import compare
    from .demo import demo
    from .embed import embed
    from .estimators import AnomalyDetector, DuplicateFinder, Encoder, FewShotClassifier
    from .evaluate import evaluate
    from .explore import explore
    from .pretrain import pretrain
    from .report import report
    from .run import load
    from .sweep import sweep
    from .uses.arranging import clusters, map
    from .uses.cleaning import anomalies, duplicates
    from .uses.finding import search
    from .uses.labelling import classes, label_errors, suggest
    from .uses.viewers import export
    from .vectorstore.opening import open_store
    from .vectorstore.summary import store

__version__ = "0.1.0"
__all__ = [
    "AnomalyDetector",
    "DuplicateFinder",
    "Encoder",
    "FewShotClassifier",
    "NearfarError",
    "__version__",
    "anomalies",
    "catalogue",
    "check",
    "classes",
    "clusters",
    "compare",
    "demo",
    "duplicates",
    "embed",
    "evaluate",
    "explore",
    "export",
    "label_errors",
    "load",
    "map",
    "open_store",
    "pretrain",
    "report",
    "search",
    "store",
    "suggest",
    "sweep",
]

# public name -> the file it stands in
_PUBLIC = {
    "AnomalyDetector": "estimators",
    "DuplicateFinder": "estimators",
    "Encoder": "estimators",
    "FewShotClassifier": "estimators",
    "anomalies": "uses.cleaning",
    "catalogue": "catalogue",
    "check": "check",
    "classes": "uses.labelling",
    "clusters": "uses.arranging",
    "compare": "compare",
    "demo": "demo",
    "duplicates": "uses.cleaning",
    "embed": "embed",
    "evaluate": "evaluate",
    "explore": "explore",
    "export": "uses.viewers",
    "label_errors": "uses.labelling",
    "load": "run",
    "map": "uses.arranging",
    "open_store": "vectorstore.opening",
    "pretrain": "pretrain",
    "report": "report",
    "search": "uses.finding",
    "store": "vectorstore.summary",
    "suggest": "uses.labelling",
    "sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nearfar' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """Keeps `nearfar.evaluate` the function, whoever imports the file `nearfar/evaluate.py` first.

    Python binds a freshly imported file to its package under the file's name; here a verb and its file
    share a name on purpose, and the verb wins.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _PUBLIC.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
