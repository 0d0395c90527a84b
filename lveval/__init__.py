"""LV-Eval: question answering over contexts of 16k to 256k words, with the scores of the published benchmark.

from lveval import config, metrics, utils
metrics.qa_f1_score("the red lamp", "a red lamp")
"""

__version__ = "0.1.0"
