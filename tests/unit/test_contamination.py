"""Published against fresh: the gap by hand, a planted contamination end to end, runs that do not fit.

python -m pytest tests/unit/test_contamination.py
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import in_process
from support.comparison_parts import answered
from support.construct_parts import articles
from support.scores import run_of, scored

from lveval.analysis import contamination
from lveval.common.errors import SettingsMismatch
from lveval.construct import write
from lveval.construct.sources import SAMPLES, read_sources
from lveval.results import Evaluation, FileResult, ScoredRow

__all__ = ["articles"]  # fixtures

# --- By hand ----------------------------------------------------------------------------------------------------------


def rows(subset: str, scores: Sequence[float], level: str = "1k") -> list[ScoredRow]:
    return run_of(subset, np.array(scores)[:, None], [level])


def test_the_interval_is_welchs() -> None:
    published, fresh = [0.0, 0.5, 1.0, 1.0, 0.75] * 8, [0.0, 0.25, 0.0, 1.0] * 7
    found = contamination.measure_gaps(
        rows("lic_mixup", published), rows("lic_mixup", fresh)
    ).overall
    assert found.published == pytest.approx(65.0)
    assert found.fresh == pytest.approx(31.25)
    assert found.interval.value == pytest.approx(33.75)
    variances = [100**2 * np.var(each, ddof=1) / len(each) for each in (published, fresh)]
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 39 + variances[1] ** 2 / 27)
    assert 50 < freedom < 60  # Student's quantile there is 2.00
    half = 2.004 * sum(variances) ** 0.5
    assert found.interval.low == pytest.approx(33.75 - half, abs=0.4)
    assert found.interval.high == pytest.approx(33.75 + half, abs=0.4)
    assert found.interval.clusters == 68
    assert found.sentence.startswith("published \N{MINUS SIGN} fresh = +33.8 points (95 % +")
    assert found.sentence.endswith("the model does better on what it may have seen")


def test_equal_numbers_of_questions_are_not_taken_for_pairs() -> None:
    """The same scores in both runs: paired, the difference would not vary at all."""
    scores = [0.0, 1.0, 0.5, 0.25] * 10
    found = contamination.measure_gaps(rows("lic_mixup", scores), rows("lic_mixup", scores)).overall
    assert found.interval.value == 0
    assert found.interval.high is not None and found.interval.high > 10
    assert found.sentence.endswith("no difference shown")


def test_only_files_of_both_count_and_each_level_weighs_the_same() -> None:
    published = (
        rows("lic_mixup", [0.9, 0.7] * 5)
        + rows("lic_mixup", [0.5, 0.3] * 5, "2k")
        + rows("cmrc_mixup", [1.0, 0.9] * 5)
        + rows("factrecall_zh", [1.0, 0.0] * 5)
    )
    fresh = (
        rows("lic_mixup", [0.2, 0.4] * 9)
        + rows("lic_mixup", [0.1, 0.1, 0.4] * 6, "2k")
        + rows("factrecall_zh", [0.0, 1.0] * 5)
    )
    found = contamination.measure_gaps(published, fresh)
    assert set(found.files) == {("lic_mixup", "1k"), ("lic_mixup", "2k")}
    assert {level: round(gap.interval.value) for level, gap in found.levels.items()} == {
        "1k": 50,
        "2k": 20,
    }
    assert found.overall.interval.value == pytest.approx(35)


def test_a_gap_the_other_way_and_one_without_interval() -> None:
    worse = contamination.measure_gaps(
        rows("lic_mixup", [0.1, 0.2] * 9), rows("lic_mixup", [0.8, 0.9] * 9)
    )
    assert worse.overall.sentence.endswith("the model does better on the fresh data")
    alone = contamination.measure_gaps(rows("lic_mixup", [0.1]), rows("lic_mixup", [0.8, 0.9] * 9))
    assert "(95 %" not in alone.overall.sentence
    assert "no interval: only one question in lic_mixup" in alone.overall.sentence


def run(rows: list[ScoredRow], **identity: Any) -> Evaluation:  # noqa: ANN401
    return answered(rows, {"prompts": {"name": "own", "sha256": "0"}, **identity})


def test_runs_that_do_not_fit() -> None:
    own, other = rows("lic_mixup", [0.1, 0.2] * 9), rows("cmrc_mixup", [0.1, 0.2] * 9)
    one_question = rows("factrecall_en", [0.1, 0.2] * 9)
    for published, fresh in ((own, other), (one_question, one_question)):
        with pytest.raises(SettingsMismatch, match="no subset in common at the same level"):
            contamination.report(run(published), run(fresh))
    same = {"data": {"lic_mixup_1k": "sha256:1"}}
    with pytest.raises(SettingsMismatch, match=r"the data of lic_mixup_1k are those of run"):
        contamination.report(run(own, **same), run(own, **same))
    said = contamination.report(
        run(own, chat_template="none", engine={"model": "a"}),
        run(own, chat_template="auto", engine={"model": "b"}),
    )
    assert "unlike beyond the data: different chat format" in said
    assert "unlike beyond the data: different models or engines" in said


def test_names_cannot_steer_the_terminal() -> None:
    evil = Path("run\x1b[31m")
    file = FileResult(
        "lic_mixup", "1k", 2, None, [scored("lic_mixup", "1k", n, n, f"q{n}") for n in (0, 1)]
    )
    said = contamination.report(Evaluation(evil, {}, [file]), Evaluation(evil, {}, [file]))
    assert "\x1b" not in said
    assert max(map(len, said.splitlines())) <= 100


# --- From data to the sentence ----------------------------------------------------------------------------------------

MEMORY = '''
import json
from pathlib import Path


class Memory:
    """Knows answers by heart: shows them in place of the context."""

    def __init__(self):
        self.known = json.loads(Path(__file__).with_name("known.json").read_text())

    def identity(self):
        return {"known": len(self.known)}

    def context(self, row):
        answer = self.known.get(row["input"])
        return row["context"] if answer is None else f"{row['input'].rstrip('?？')} {answer}."
'''

SUBSETS = ["hotpotwikiqa_mixup", "loogle_SD_mixup", "multifieldqa_en_mixup", "lic_mixup"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, articles: Path) -> Path:
    """The hand-written questions and fresh ones."""
    folder = tmp_path_factory.mktemp("data")
    common = ["--datasets", *SUBSETS, "--lengths", "1k", "--num-workers", "1"]
    common += ["--distractors", str(articles)]
    write.main(["--output-dir", str(folder / "published"), *common])
    write.main(["--output-dir", str(folder / "fresh"), *common, "--fresh", "5", "--rows", "10"])
    return folder


def told(data: Path, folder: Path, *words: str | Path) -> str:
    """The sentence of a model that is echo with these options."""
    for name in ("published", "fresh"):
        folders = "--data-path", data / name, "--output-dir", folder
        chosen = "--datasets", *SUBSETS, "--lengths", "1k", "--backend", "echo", "--single-process"
        done = in_process("prediction.py", "--model-name", name, *chosen, *folders, *words)
        assert done.returncode == 0, done.stderr
    found = in_process(
        "evaluation.py", "--input-dir", folder / "published", "--fresh-run", folder / "fresh"
    )
    assert found.returncode == 0, found.stderr
    (sentence,) = [
        line for line in found.stdout.splitlines() if line.startswith("published \N{MINUS SIGN}")
    ]
    return sentence


def test_a_model_that_knows_the_published_answers_shows_a_gap(data: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "memory.py"
    plugin.write_text(MEMORY)
    sources = [source for subset in SUBSETS for source in read_sources(SAMPLES, subset)]
    known = {source.question: source.answers[0] for source in sources}
    (tmp_path / "known.json").write_text(json.dumps(known))
    sentence = told(data, tmp_path / "runs", "--plugin", plugin)
    assert sentence.startswith("published \N{MINUS SIGN} fresh = +")
    assert sentence.endswith("the model does better on what it may have seen")


def test_a_model_that_knows_none_shows_none(data: Path, tmp_path: Path) -> None:
    assert "better on what it may have seen" not in told(data, tmp_path)
