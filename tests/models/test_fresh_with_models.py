"""Fresh questions are as hard as hand-written ones: a real model, both kinds, both languages.

Slow: the embedded model reads 24 contexts of 1k, some four minutes of one core.
"""

from pathlib import Path

import pytest
from conftest import in_process

from lveval.analysis import contamination, intervals
from lveval.evaluation import evaluate
from lveval.results import PROTOCOLS, Evaluation

SUBSETS = (
    "loogle_SD_mixup",
    "multifieldqa_en_mixup",
    "hotpotwikiqa_mixup",
    "multifieldqa_zh_mixup",
)


@pytest.fixture(scope="module")
def runs(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Evaluation]:
    """The model's answers to three hand-written and three fresh questions of each subset."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = "--datasets", *SUBSETS, "--lengths", "1k"
    found = []
    for name, words in (("written", ()), ("fresh", ("--fresh", "20261129"))):
        data = "--output-dir", folder / "data" / name, "--rows", "3", "--num-workers", "1"
        assert in_process("-m", "lveval", "construct", *data, *chosen, *words).returncode == 0
        model = "--model-path", model_path, "--model-name", name, "--model-max-len", "4000"
        place = "--data-path", folder / "data" / name, "--output-dir", folder / "runs"
        done = in_process("prediction.py", *model, *place, *chosen, "--single-process")
        assert done.returncode == 0, done.stderr
        found.append(evaluate(folder / "runs" / name))
    return found[0], found[1]


@pytest.mark.timeout(5400)
def test_the_model_does_as_well_on_fresh_questions_as_on_written_ones(
    runs: tuple[Evaluation, Evaluation],
) -> None:
    written, fresh = runs
    for run in runs:
        for row in run.rows:
            print(row.file, row.record["answers"][0], "|", row.answer)  # pytest -rP shows it
    for protocol in PROTOCOLS:
        own = intervals.score_intervals(written.rows, protocol).overall
        gaps = contamination.measure_gaps(written.rows, fresh.rows, protocol)
        print(protocol, own, {name: gap.sentence for name, gap in gaps.subsets.items()})
        assert own.low is not None and own.high is not None
        assert own.low <= gaps.overall.fresh <= own.high
        for gap in (gaps.overall, *gaps.subsets.values()):
            low, high = gap.interval.low, gap.interval.high
            assert gap.interval.value == 0 or (low is not None and high is not None)
            assert low is None or high is None or low <= 0 <= high
