"""LV-Eval: question answering over contexts of 16k to 256k words, scored as published.

from lveval import config, metrics, utils
metrics.qa_f1_score("the red lamp", "a red lamp")
"""

import os

__version__ = "0.1.0"

if os.environ.get("LVEVAL_CONFIG") or os.environ.get("LVEVAL_FORMATS"):
    # Chosen by --config or --formats in the process that started this one.
    from lveval import user_tables

    for _option in user_tables.TABLES:
        user_tables.replace_tables(_option)
