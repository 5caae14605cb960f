"""nearfar: trains an encoder on a folder of unlabelled images, and evaluates it against baselines.

    import nearfar
    run = nearfar.pretrain("photos", out="runs/a", minutes=10)
    print(nearfar.evaluate(run, train="labelled/train", test="labelled/test").table())

Names are imported when they are first used, so that `import nearfar` and `nearfar --help` are instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .core.errors import NearfarError
from .core.version import __version__

if TYPE_CHECKING:
    from .app.explore import explore
    from .embedding.embed import embed
    from .evaluation.evaluate import evaluate
    from .evaluation.pair_recall import pairs
    from .evaluation.passages import passages
    from .evaluation.similar_texts import sts
    from .experiments.compare import compare
    from .experiments.learning_curve import learning_curve
    from .experiments.sweep import sweep
    from .finetuning.finetune import finetune
    from .finetuning.predict import predict
    from .integrations.sklearn import (
        AnomalyDetector,
        DuplicateFinder,
        EncoderTransformer,
        FewShotClassifier,
        FineTunedClassifier,
    )
    from .interpretation.explain import explain
    from .methods.catalogue import catalogue
    from .queries.anomalies import anomalies
    from .queries.classes import classes
    from .queries.clusters import clusters
    from .queries.curate import curate
    from .queries.duplicates import duplicates
    from .queries.export import export
    from .queries.label_errors import label_errors
    from .queries.map import image_map
    from .queries.search import search
    from .queries.suggest import suggest
    from .reports.report import report
    from .stores.manage import store
    from .stores.open import open_store
    from .training.adopt import adopt
    from .training.check import check
    from .training.combine import combine
    from .training.pretrain import pretrain
    from .training.preview import preview
    from .training.run import load

__all__ = [
    "AnomalyDetector",
    "DuplicateFinder",
    "EncoderTransformer",
    "FewShotClassifier",
    "FineTunedClassifier",
    "NearfarError",
    "__version__",
    "adopt",
    "anomalies",
    "catalogue",
    "check",
    "classes",
    "clusters",
    "combine",
    "compare",
    "curate",
    "duplicates",
    "embed",
    "evaluate",
    "explain",
    "explore",
    "export",
    "finetune",
    "image_map",
    "label_errors",
    "learning_curve",
    "load",
    "open_store",
    "pairs",
    "passages",
    "predict",
    "pretrain",
    "preview",
    "report",
    "search",
    "store",
    "sts",
    "suggest",
    "sweep",
]

# public name -> its file
_PUBLIC = {
    "AnomalyDetector": "integrations.sklearn",
    "DuplicateFinder": "integrations.sklearn",
    "EncoderTransformer": "integrations.sklearn",
    "FewShotClassifier": "integrations.sklearn",
    "FineTunedClassifier": "integrations.sklearn",
    "adopt": "training.adopt",
    "anomalies": "queries.anomalies",
    "catalogue": "methods.catalogue",
    "check": "training.check",
    "classes": "queries.classes",
    "clusters": "queries.clusters",
    "combine": "training.combine",
    "compare": "experiments.compare",
    "curate": "queries.curate",
    "duplicates": "queries.duplicates",
    "embed": "embedding.embed",
    "evaluate": "evaluation.evaluate",
    "explain": "interpretation.explain",
    "explore": "app.explore",
    "export": "queries.export",
    "finetune": "finetuning.finetune",
    "image_map": "queries.map",
    "label_errors": "queries.label_errors",
    "learning_curve": "experiments.learning_curve",
    "load": "training.run",
    "open_store": "stores.open",
    "pairs": "evaluation.pair_recall",
    "passages": "evaluation.passages",
    "predict": "finetuning.predict",
    "pretrain": "training.pretrain",
    "preview": "training.preview",
    "report": "reports.report",
    "search": "queries.search",
    "store": "stores.manage",
    "sts": "evaluation.similar_texts",
    "suggest": "queries.suggest",
    "sweep": "experiments.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nearfar' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
