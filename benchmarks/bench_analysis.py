"""How fast a full run's statistics and page are, against scoring it, and how much memory they take.

    python benchmarks/bench_analysis.py

Synthetic scores of 55 files (8,645 rows), 10,000 draws and flips. Both sides of a ratio are timed
in turn in this process, and the best repetition counts.
"""

import argparse
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench_scoring import write_run
from figures import report, report_ratio

from lveval import config, evaluation
from lveval.analysis import clusters, comparison, intervals, length_effect, positions, run_analysis
from lveval.report import html
from lveval.report.data import build_report
from lveval.report.leaderboard import read_leaderboards
from lveval.results import PROTOCOLS, ScoredRow

# Times scoring the run and finding its causes: evaluating it takes no more than twice that.
GOALS = {"intervals": 1.0, "all analyses of a run": 1.0}
SECONDS_GOAL = 5.0
MEMORY_GOAL = 500  # MB


def scored_rows(seed: int) -> list[ScoredRow]:
    """A full run's rows: many zeros, more of them at the longer levels."""
    chance = np.random.default_rng(seed)
    rows = []
    for subset, number in config.DATASET_ROWS.items():
        hard = np.random.default_rng(number).random(number)  # the same questions in every run
        for at, level in enumerate(config.DATASET_LENGTH_LEVEL):
            scores = np.clip(chance.random(number) + hard - 0.5 - 0.15 * at, 0, 1)
            rows += [
                ScoredRow(
                    subset,
                    level,
                    index,
                    dict.fromkeys(PROTOCOLS, score),
                    {"input": f"question {index}"},
                )
                for index, score in enumerate(scores.tolist())
            ]
    return rows


def anew(task: Callable[[], object]) -> None:
    """Do the task as a process does that has drawn nothing yet."""
    clusters.bootstrap_counts.cache_clear()
    task()


def best(tasks: list[Callable[[], object]], repetitions: int) -> list[float]:
    """The least seconds of each task, all of them run in turn."""
    times: list[list[float]] = []
    for _ in range(repetitions):
        times.append([])
        for task in tasks:
            start = time.perf_counter()
            task()
            times[-1].append(time.perf_counter() - start)
    return [min(column) for column in zip(*times, strict=True)]


def peak(task: Callable[[], object]) -> float:
    """The most memory that a task holds at once, in MB, beyond what was held before."""
    tracemalloc.start()
    task()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def main() -> int:
    """Measure and print; 0 if every goal is met."""
    parser = argparse.ArgumentParser(description="Time the statistics and page of a full run.")
    parser.add_argument("--repetitions", type=int, default=3, help="of each; the best counts (3)")
    repetitions = parser.parse_args().repetitions
    a, b = scored_rows(1), scored_rows(2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder)
        run = evaluation.evaluate(folder)  # loads jieba's dictionary
        found = run_analysis.analyze_run(run)
        tasks: dict[str, Callable[[], object]] = {
            "intervals": lambda: anew(lambda: intervals.score_intervals(a)),
            "comparison of two runs": lambda: anew(lambda: comparison.compare_runs(a, b)),
            "length curves": lambda: anew(lambda: length_effect.measure_length_effect(a)),
            "depths": lambda: anew(lambda: positions.measure_positions(run.rows)),
            "all analyses of a run": lambda: anew(lambda: run_analysis.analyze_run(run)),
            "report page": lambda: html.render(
                build_report(run, found, published=read_leaderboards(), rank=True)
            ),
        }
        base, *seconds = best([lambda: evaluation.evaluate(folder), *tasks.values()], repetitions)
    met = []
    for (task, work), taken in zip(tasks.items(), seconds, strict=True):
        goal = GOALS.get(task)
        met.append(report_ratio(f"{task}, {len(a):,} rows / scoring them", taken, base, goal))
        for what, value, unit, most in (
            ("seconds", taken, "s", SECONDS_GOAL),
            ("memory", peak(work), "MB", MEMORY_GOAL),
        ):
            goal_text = f"<= {most:.0f} {unit}"
            met.append(report(f"{task}, {what}", f"{value:.2f} {unit}", goal_text, value <= most))
    return not all(met)


if __name__ == "__main__":
    sys.exit(main())
