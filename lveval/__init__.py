"""LV-Eval: question answering over contexts of 16k to 256k words, scored as published.

from lveval import evaluate, metrics, predict
metrics.qa_f1_score("the red lamp", "a red lamp")
evaluate(predict(backend="echo", model_name="dry-run", single_process=True)).to_frame()
"""

import os

TYPE_CHECKING = False  # for type checkers alone; to import typing takes as long as Python's start
if TYPE_CHECKING:
    from lveval.evaluation import evaluate
    from lveval.prediction import predict

__all__ = ["evaluate", "predict"]

__version__ = "0.1.0"

_HOMES = {"evaluate": "lveval.evaluation", "predict": "lveval.prediction"}


def __getattr__(name: str) -> object:
    """Load what a program runs when it is first named: `import lveval` alone loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


if os.environ.get("LVEVAL_CONFIG") or os.environ.get("LVEVAL_FORMATS"):
    # Chosen by --config or --formats in the process that started this one.
    from lveval import user_tables

    for _option in user_tables.TABLES:
        user_tables.replace_tables(_option)
