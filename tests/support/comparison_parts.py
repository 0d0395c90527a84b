"""What tests of comparison share."""

from pathlib import Path

import numpy as np

from lveval.analysis.clusters import Floats
from lveval.results import Evaluation, FileResult, ScoredRow
from support.scores import clustered, run_of

# --- pairing ----------------------------------------------------------------------------------------------------------


def answered(
    rows: list[ScoredRow], identity: dict[str, object] | None = None, missing: int = 0
) -> Evaluation:
    """A run of one file that has these rows, and lacks some."""
    file = FileResult("lic_mixup", "16k", len(rows) + missing, None, rows)
    return Evaluation(Path("run"), {"identity": identity or {}}, [file])


# --- false alarms and power -------------------------------------------------------------------------------------------


def pair_of_runs(
    chance: np.random.Generator, lead: float
) -> tuple[list[ScoredRow], list[ScoredRow]]:
    """Two runs over the same questions, alike but for `lead`: what makes one row hard makes it hard for both."""
    runs: tuple[list[ScoredRow], list[ScoredRow]] = [], []
    for subset, number, zeros in (
        ("lic_mixup", 30, (0.3, 0.45, 0.6)),
        ("hotpotwikiqa_mixup", 60, (0.4, 0.6, 0.75)),
        ("factrecall_en", 100, (0.5, 0.7, 0.85)),
    ):
        common: Floats = clustered(chance, (number, 3), zeros)
        for run, more in zip(runs, (lead, 0.0), strict=True):
            own = clustered(chance, (number, 3), zeros)
            scores = np.where(chance.random((number, 3)) < 0.5, common, own)
            run += run_of(subset, np.where(chance.random((number, 3)) < more, 1.0, scores))
    return runs
