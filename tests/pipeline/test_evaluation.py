"""evaluation.py from the command line: complete, incomplete, partial, limited, published and damaged runs."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lveval import config, metrics
from lveval import evaluation as scoring
from lveval.common.errors import UsageError
from lveval.results import CAUSES, PROTOCOLS
from lveval.runs.record import Prediction
from lveval.runs.store import RunStore

ROOT = Path(__file__).parent.parent.parent
RESULTS = [
    "results.csv",
    "results.json",
    "results_described.csv",
    "results_described.json",
    "results_meta.json",
    "results_recall.csv",
    "results_recall.json",
]
PROMPTS = {"name": "builtin", "sha256": "0123456789abcdef", "official": False}
IDENTITY: dict[str, object] = {
    "backend": "echo",
    "prompts": PROMPTS,
    "model_max_len": 15500,
    "data": {},
}

MODEL_LIBRARIES = ("torch", "transformers", "datasets", "distributed", "matplotlib", "jinja2")

Row = dict[str, Any]
Evaluate = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dictionary cache for all processes of this module."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def evaluate(cache: Path) -> Evaluate:
    """Runs evaluation.py with arguments and returns the finished process."""

    def evaluation(
        *arguments: object, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "evaluation.py"), *map(str, arguments)],
            env={**os.environ, "LVEVAL_CACHE": str(cache), **environment},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return evaluation


def row(pred: object = "amber", answer: str = "amber reef", **other: object) -> Row:
    """A prediction row as the published harness writes it."""
    six = {
        "pred": pred,
        "answers": [answer],
        "gold_ans": None,
        "input": "which?",
        "all_classes": None,
        "length": 16000,
    }
    return {**six, **other}


def write_published(folder: Path, files: dict[str, list[Row]]) -> Path:
    """A folder as the published harness leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def write_run(
    folder: Path,
    files: dict[str, list[Row]],
    selected: dict[str, int],
    rows: dict[str, int] | None = None,
) -> Path:
    """A folder as this harness leaves it, with the rows of `files` answered and `selected` to be answered."""
    identity = {**IDENTITY, "data": dict.fromkeys(selected, "sha256:0")}
    with RunStore.open(folder, identity, selected, rows or selected) as store:
        for name, answers in files.items():
            subset, _, level = name.rpartition("_")
            for index, answered in enumerate(answers):
                own = {
                    "dataset": subset,
                    "level": level,
                    "index": index,
                    "language": config.DATASET_LANGUAGE[subset],
                }
                facts = {
                    "status": "ok",
                    "prompt_tokens": 9,
                    "prompt_tokens_full": 9,
                    "evidence_kept": None,
                }
                store.append(cast(Prediction, {**answered, **own, **facts, **answered}))
            store.export_predictions(subset, level)
    return folder


def results(folder: Path, name: str = "results.json") -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text(encoding="utf-8")))


def flat(text: str) -> str:
    """What was printed, on one line."""
    return " ".join(text.split())


def result_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("results*"))


# --- complete runs --------------------------------------------------------------------------------------------------


def test_a_complete_run_is_scored_under_all_protocols(tmp_path: Path, evaluate: Evaluate) -> None:
    rows = {
        "loogle_SD_mixup_16k": [row("of which", "harbour of Sezen"), row("amber reef")],
        "lic_mixup_32k": [row("灯塔在港口", "灯塔在港口", gold_ans="灯塔")],
    }
    folder = write_run(tmp_path / "run", rows, {"loogle_SD_mixup_16k": 2, "lic_mixup_32k": 1})
    done = evaluate("--input-dir", folder, "-v")

    assert result_files(folder) == RESULTS
    assert (folder / "results.json").read_text() == (
        '{\n    "loogle_SD_mixup_16k": 70.0,\n    "lic_mixup_32k": 100.0\n}'
    )
    assert results(folder, "results_described.json") == {
        "loogle_SD_mixup_16k": 50.0,
        "lic_mixup_32k": 100.0,
    }
    assert results(folder, "results_recall.json") == {
        "loogle_SD_mixup_16k": 50.0,
        "lic_mixup_32k": 100.0,
    }
    assert (folder / "results.csv").read_text() == (
        "dataset_name,16k,32k,64k,128k,256k\nloogle_SD_mixup,70.0,,,,\nlic_mixup,,100.0,,,\n"
    )
    assert re.search(r"loogle_SD_mixup_16k +2/2 +ok 2$", done.stdout, re.M)
    assert "mean, described" in done.stdout and "mean, recall" in done.stdout
    means = results(folder, "results_meta.json")["means"]
    assert means["recall"]["levels"] == {"16k": 50.0, "32k": 100.0}


def test_levels_that_were_never_published_get_their_column_by_length(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    folder = write_published(
        tmp_path, {f"factrecall_en_{level}": [row()] for level in ("4k", "48k", "512k", "16k")}
    )
    evaluate("--input-dir", folder)
    with (folder / "results.csv").open(newline="") as lines:
        header, line = csv.reader(lines)
    assert header == ["dataset_name", "4k", "16k", "32k", "48k", "64k", "128k", "256k", "512k"]
    assert [bool(cell) for cell in line[1:]] == [True, True, False, True, False, False, False, True]


def test_rows_of_the_published_harness_are_scored(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = write_published(
        tmp_path, {"multifieldqa_zh_mixup_64k": [row("灯塔", "灯塔"), row("", "灯塔")]}
    )
    done = evaluate("--input-dir", folder)
    assert results(folder) == {"multifieldqa_zh_mixup_64k": 50.0}
    assert "unrecorded 2" in done.stdout
    assert "2 of the 133 rows" in done.stdout  # the published file is longer: said, not hidden


def test_only_the_first_answer_counts(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = write_published(
        tmp_path, {"factrecall_en_16k": [row("reef", answers=["amber", "reef"])]}
    )
    evaluate("--input-dir", folder)
    assert results(folder) == {"factrecall_en_16k": 0.0}


def test_a_refusal_is_scored_as_the_empty_answer_and_counted(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    rows = [row("amber reef", status="refused"), row("amber reef")]
    folder = write_run(tmp_path / "run", {"factrecall_en_16k": rows}, {"factrecall_en_16k": 2})
    done = evaluate("--input-dir", folder)
    assert results(folder) == {"factrecall_en_16k": 50.0}
    assert "ok 1, refused 1" in " ".join(done.stdout.split())
    assert results(folder, "results_meta.json")["files"]["factrecall_en_16k"]["statuses"] == {
        "ok": 1,
        "refused": 1,
    }


def test_evidence_kept_is_told_by_level_where_it_is_known(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    rows = [
        row(evidence_kept=True),
        row(evidence_kept=False),
        row(evidence_kept=None),
        row(evidence_kept=True),
    ]
    folder = write_run(tmp_path / "run", {"factrecall_en_64k": rows}, {"factrecall_en_64k": 4})
    done = evaluate("--input-dir", folder, "-v")
    assert re.search(r"^64k +66\.7 +3/4 +66\.67 +66\.67 +9 +9$", done.stdout, re.M)
    assert re.search(r"^factrecall_en_64k +4/4 +ok 4$", done.stdout, re.M)
    assert re.search(r"^factrecall_en_64k +66\.7 +3/4 +66\.67 +66\.67", done.stdout, re.M)
    assert (
        results(folder, "results_meta.json")["evidence"]["files"]["factrecall_en_64k"][
            "kept_percent"
        ]
        == 66.67
    )


def test_evaluating_twice_writes_the_same_bytes_anywhere(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    folders = []
    for name, zone, seed in (("one", "UTC", "0"), ("two", "Asia/Shanghai", "77")):
        rows = {
            "lic_mixup_16k": [
                row("灯塔在港口", "灯塔在港口的旁边"),
                row("果园", "果园", status="length"),
            ]
        }
        folders.append(write_run(tmp_path / name, rows, {"lic_mixup_16k": 2}))
        evaluate("--input-dir", folders[-1], TZ=zone, PYTHONHASHSEED=seed, LC_ALL="C")
    assert [[(folder / name).read_bytes() for name in RESULTS] for folder in folders[:1]] == [
        [(folder / name).read_bytes() for name in RESULTS] for folder in folders[1:]
    ]


def test_the_folder_can_be_named_as_for_prediction(tmp_path: Path, evaluate: Evaluate) -> None:
    write_published(tmp_path / "org__model", {"factrecall_en_16k": [row()]})
    evaluate("--output-dir", tmp_path, "--model-name", "org/model")
    assert (tmp_path / "org__model" / "results.json").exists()


# --- which numbers are the leaderboard's ----------------------------------------------------------------------------


def whole_level(level: str) -> dict[str, list[Row]]:
    return {f"{subset}_{level}": [row()] * count for subset, count in config.DATASET_ROWS.items()}


def test_only_a_mean_over_all_subsets_is_called_the_leaderboards(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    some = {"lic_mixup_32k": [row()] * 197}
    done = evaluate("--input-dir", write_published(tmp_path, whole_level("16k") | some))
    assert "The mean at 16k is the leaderboard's overall score" in done.stdout
    assert (
        "The mean at 32k is not the leaderboard's overall score: it is over 1 subsets, 1 of them among"
        in flat(done.stdout)
    )
    meta = results(tmp_path, "results_meta.json")
    assert meta["leaderboard_levels"] == ["16k"]
    scores = [score for name, score in results(tmp_path).items() if name.endswith("_16k")]
    assert len(scores) == 11
    assert meta["means"]["released"]["levels"]["16k"] == round(sum(scores) / 11, 2)


def test_constructed_data_are_never_called_the_leaderboards(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    """As many rows as published, but constructed ones."""
    files = whole_level("16k")
    files["lic_mixup_16k"] = [row(question_id="lic-1")] * 197
    done = evaluate("--input-dir", write_published(tmp_path, files))
    assert (
        "it is over 11 subsets, 10 of them among the published 11 and with all published rows"
        in flat(done.stdout)
    )
    assert results(tmp_path, "results_meta.json")["leaderboard_levels"] == []


def test_a_limited_run_says_so(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = write_run(tmp_path / "run", {"lic_mixup_16k": [row()] * 3}, {"lic_mixup_16k": 3})
    manifest = results(folder, "run.json")
    (folder / "run.json").write_text(json.dumps({**manifest, "rows": {"lic_mixup_16k": 197}}))
    done = evaluate("--input-dir", folder)
    assert "lic_mixup_16k: scored on 3 of the 197 rows" in done.stdout
    meta = results(folder, "results_meta.json")
    assert meta["limited"] == ["lic_mixup_16k"]
    assert meta["complete"] is True


def test_the_signature_says_what_the_numbers_stand_on(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = write_run(tmp_path / "run", {"lic_mixup_16k": [row()]}, {"lic_mixup_16k": 1})
    evaluate("--input-dir", folder)
    signature = results(folder, "results_meta.json")["signature"]["described"]
    assert signature == (
        "protocol:described-2|jieba:0.42.1|rouge:1.0.1|prompts:builtin-01234567|chat_template:unrecorded|backend:echo|"
        "model_max_len:15500|rows:1/1"
    )


# --- incomplete runs ------------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    """A run with 1 of 2 rows of one file and none of another."""
    rows = {"factrecall_en_16k": [row("amber reef")]}
    return write_run(tmp_path / "run", rows, {"factrecall_en_16k": 2, "factrecall_en_32k": 2})


def test_an_incomplete_run_is_not_scored(unfinished: Path, evaluate: Evaluate) -> None:
    done = evaluate("--input-dir", unfinished, code=3)
    assert result_files(unfinished) == []
    assert re.search(r"factrecall_en_16k +1/2 +ok 1$", done.stdout, re.M)
    assert re.search(r"factrecall_en_32k +0/2$", done.stdout, re.M)
    assert "3 rows of 2 files" in done.stderr
    assert "run prediction.py again as it was started" in done.stderr


def test_the_commands_that_finish_a_run_are_those_that_select_what_is_missing(
    unfinished: Path, evaluate: Evaluate
) -> None:
    """A later start may have selected less."""
    manifest = results(unfinished, "run.json")
    manifest["log"] = [
        {
            "argv": ["--first", "a b", "--overwrite"],
            "selection": {"factrecall_en_16k": 2, "factrecall_en_32k": 2},
        },
        {"argv": ["--second"], "selection": {"factrecall_en_16k": 2}},
        {"argv": ["--third"], "selection": {"factrecall_en_32k": 1}},
        {"event": "end", "rows_left": 0},
    ]
    (unfinished / "run.json").write_text(json.dumps(manifest))
    told = evaluate("--input-dir", unfinished, code=3).stderr
    assert "To finish: python prediction.py --second\npython prediction.py --first 'a b'\n" in told
    assert "--third" not in told and "--overwrite" not in told


def test_a_file_that_the_run_did_not_select_is_named(unfinished: Path, evaluate: Evaluate) -> None:
    (unfinished / "lic_mixup_16k.jsonl").write_text(json.dumps(row()) + "\n")
    assert (
        "lic_mixup_16k.jsonl: is not part of the run"
        in evaluate("--input-dir", unfinished, code=2).stderr
    )


def test_an_incomplete_run_can_be_scored_under_names_that_say_so(
    unfinished: Path, evaluate: Evaluate
) -> None:
    done = evaluate("--input-dir", unfinished, "--allow-partial")
    assert result_files(unfinished) == sorted(name.replace(".", ".partial.") for name in RESULTS)
    assert results(unfinished, "results.partial.json") == {"factrecall_en_16k": 100.0}
    assert results(unfinished, "results_meta.partial.json")["complete"] is False
    assert "leaderboard's overall score: it is over 1 subsets, 0 of them" in done.stdout


def test_allow_partial_on_a_complete_run_changes_nothing(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    folder = write_run(tmp_path / "run", {"factrecall_en_16k": [row()]}, {"factrecall_en_16k": 1})
    evaluate("--input-dir", folder, "--allow-partial")
    assert result_files(folder) == RESULTS


@pytest.mark.parametrize("option", [[], ["--allow-partial"]])
def test_results_from_before_a_run_grew_are_set_aside(
    tmp_path: Path, evaluate: Evaluate, option: list[str]
) -> None:
    folder = write_run(tmp_path / "run", {"factrecall_en_16k": [row()]}, {"factrecall_en_16k": 1})
    evaluate("--input-dir", folder)
    write_run(folder, {}, {"factrecall_en_16k": 2})
    done = evaluate("--input-dir", folder, *option, code=0 if option else 3)
    assert "results.json is from before the run grew: renamed to results.stale.json" in done.stderr
    assert not set(RESULTS) & set(result_files(folder))


# --- what the scores mean -------------------------------------------------------------------------------------------


def questions(right: int, of: int = 30) -> list[Row]:
    """Rows of as many questions, of which the first `right` ones are answered."""
    return [
        row("amber reef" if number < right else "no idea", input=f"question {number}?")
        for number in range(of)
    ]


def compared(folder: Path, right: dict[str, int]) -> Path:
    """A finished run with so many right answers in each file."""
    rows = {name: questions(number) for name, number in right.items()}
    return write_run(folder, rows, {name: len(answered) for name, answered in rows.items()})


def test_a_run_is_explained(tmp_path: Path, evaluate: Evaluate) -> None:
    folder = compared(tmp_path / "run", {"loogle_SD_mixup_16k": 24, "loogle_SD_mixup_64k": 6})
    done = evaluate("--input-dir", folder, "-v")
    meta = results(folder, "results_meta.json")
    found = meta["intervals"]["released"]["levels"]["16k"]
    assert (
        found["value"] == 80.0
        and found["low"] < 70 < 90 < found["high"]
        and found["label"] == "over 30 questions"
    )
    assert meta["intervals"]["described"]["files"]["loogle_SD_mixup_64k"]["value"] == 20.0
    assert meta["lengths"]["subsets"]["loogle_SD_mixup"]["drop"]["value"] == 60.0
    assert meta["lengths"]["mean"]["effective_length"]["level"] == "16k"
    assert meta["causes"]["loogle_SD_mixup_64k"] == {
        **dict.fromkeys(CAUSES, 0),
        "correct": 6,
        "refused": 24,
    }
    assert meta["points_lost"]["levels"]["64k"]["refused"] == 80.0
    assert re.search(
        r"^loogle_SD_mixup +80\.00 +20\.00 +50\.00 +\d\d\.\d to \d\d\.\d$", done.stdout, re.M
    )
    assert re.search(r"^16k +80\.00 \(\d\d\.\d to \d\d\.\d\) ", done.stdout, re.M)
    assert re.search(r"^mean +-60\.00 \(-.*\) +-30\.00 \(-.*\) +<= 16k ", done.stdout, re.M)
    assert re.search(r"^refused +20\.0 +80\.0$", done.stdout, re.M)
    assert "run scores 50.00 (" in done.stdout
    assert (
        "it holds no further than 16k, the shortest tested (90 % of the 16k score) and loses 60.0 "
        "points by 64k, most of them to refusals." in flat(done.stdout)
    )


def test_runs_are_compared_question_by_question(tmp_path: Path, evaluate: Evaluate) -> None:
    files = {"loogle_SD_mixup_16k": 25, "loogle_SD_mixup_64k": 15}
    ours = compared(tmp_path / "ours", files)
    worse, same = (
        compared(tmp_path / "worse", dict.fromkeys(files, 5)),
        compared(tmp_path / "same", files),
    )
    done = evaluate("--input-dir", ours, "--compare", worse, same, "-v")
    assert re.search(
        r"^16k +83\.33 +16\.67 +\+66\.67 +\+\d.* to \+\d.* +0\.\d+ +ours better$", done.stdout, re.M
    )
    assert re.search(
        r"^64k +50\.00 +50\.00 +\+0\.00 .* 1\.0000 +no difference shown$", done.stdout, re.M
    )
    assert (
        "60 rows of both, 60 questions at a length; left out: 0 rows of ours alone, 0 of worse alone"
        in flat(done.stdout)
    )
    told = results(ours, "comparison.json")["compared"]
    assert list(told) == [str(worse), str(same)]
    assert told[str(worse)]["files"]["loogle_SD_mixup_16k"]["shown"] == "A better"
    unlike = [" ".join(told[str(other)]["unlike"]) for other in (worse, same)]
    assert unlike[0] and unlike[0].replace("worse", "same") == unlike[1]
    evaluate("--input-dir", ours)
    assert (ours / "comparison.json").exists()  # nothing changed
    grown = {
        **{name: questions(right) for name, right in files.items()},
        "lic_mixup_16k": questions(9),
    }
    write_run(
        ours, {"lic_mixup_16k": questions(9)}, {name: len(rows) for name, rows in grown.items()}
    )
    done = evaluate("--input-dir", ours)
    assert "comparison.json is from before the run grew" in done.stderr
    assert not (ours / "comparison.json").exists() and (ours / "comparison.stale.json").exists()


def test_runs_are_compared_under_every_protocol(tmp_path: Path, evaluate: Evaluate) -> None:
    name = "loogle_SD_mixup_16k"
    ours = compared(tmp_path / "ours", {name: 25})
    rows = [row("reef", input=f"question {number}?") for number in range(30)]
    other = write_run(tmp_path / "other", {name: rows}, {name: 30})
    done = evaluate("--input-dir", ours, "--compare", other)
    told = results(ours, "comparison.json")
    lead = {
        protocol: found[str(other)]["overall"]["difference"]["value"]
        for protocol, found in {"released": told["compared"], **told["other_protocols"]}.items()
    }
    # Ours: 25 of 30 right. The other always names one of two words: F1 2/3, recall 1/2.
    assert lead == {"released": 16.67, "described": 16.67, "recall": 33.33}
    assert re.search(r"^all, recall +83\.33 +50\.00 +\+33\.33 ", done.stdout, re.M)
    assert told["a"]["recall"].startswith("protocol:recall|")


def test_two_versions_of_a_protocol_are_not_compared(tmp_path: Path, evaluate: Evaluate) -> None:
    files = {"loogle_SD_mixup_16k": 9}
    ours, other = compared(tmp_path / "ours", files), compared(tmp_path / "other", files)
    old = {"described": "protocol:described|jieba:0.42.1"}  # by the version before: no number
    (other / "results_meta.json").write_text(json.dumps({"signature": old}))
    done = evaluate("--input-dir", ours, "--compare", other, code=4)
    assert (
        f"{other}: cannot be compared: its results are of described and this comparison would be "
        "of described-2, another version of the protocol; score it again with evaluation.py "
        f"--input-dir {other}" in done.stderr
    )
    evaluate("--input-dir", other)
    evaluate("--input-dir", ours, "--compare", other)


def test_the_metric_is_taken_apart(tmp_path: Path, evaluate: Evaluate) -> None:
    rows = [
        row("amber lamp", "amber reef", gold_ans="reef"),  # gated: F1 1/2 becomes 0
        row("of amber", "of reef", gold_ans=None),  # only a blacklisted word is shared
        row("amber", answers=["reef", "amber"]),  # right by an answer that does not count
        row("amber reef"),
    ]
    folder = write_published(tmp_path, {"loogle_SD_mixup_16k": rows})
    done = evaluate("--input-dir", folder, "-v")
    found = results(folder, "results_meta.json")["ablation"]
    scores = {name: means["levels"]["16k"] for name, means in found["scores"].items()}
    assert scores == {
        "f1": 50.0,
        "keywords": 37.5,
        "blacklist": 25.0,
        "first_answer": 37.5,
        "all_answers": 62.5,
    }
    assert found["several_answers"] == 1
    assert found["effects"]["keywords"]["files"]["loogle_SD_mixup_16k"]["value"] == -12.5
    assert re.search(r"^16k +50\.00 +37\.50 +-12\.50.* +25\.00 +-12\.50", done.stdout, re.M)
    assert re.search(r"only the first counts: \+25\.00.*; 1 rows have more", flat(done.stdout))
    assert results(folder, "results_described.json") == {"loogle_SD_mixup_16k": 25.0}


def test_what_is_unlike_is_flagged_or_refused(tmp_path: Path, evaluate: Evaluate) -> None:
    ours, other = (
        compared(tmp_path / name, {"loogle_SD_mixup_16k": 9}) for name in ("ours", "other")
    )
    manifest = results(other, "run.json")
    manifest["identity"]["prompts"]["sha256"] = "f" * 16
    (other / "run.json").write_text(json.dumps(manifest))
    done = evaluate("--input-dir", ours, "--compare", other)
    assert (
        "unlike beyond the model: different prompts: builtin-01234567 in ours, "
        "builtin-ffffffff in other" in flat(done.stdout)
    )
    (ours / "comparison.json").unlink()
    manifest["identity"]["data"] = {"loogle_SD_mixup_16k": "sha256:1"}
    (other / "run.json").write_text(json.dumps(manifest))
    done = evaluate("--input-dir", ours, "--compare", other, code=4)
    assert f"{other}: cannot be compared: the data of loogle_SD_mixup_16k differ" in done.stderr
    assert not (ours / "comparison.json").exists()


def test_an_unfinished_run_is_compared_on_request_only(tmp_path: Path, evaluate: Evaluate) -> None:
    ours = compared(tmp_path / "ours", {"loogle_SD_mixup_16k": 9})
    other = write_run(
        tmp_path / "other", {"loogle_SD_mixup_16k": questions(9, 20)}, {"loogle_SD_mixup_16k": 30}
    )
    assert (
        f"{other}: incomplete" in evaluate("--input-dir", ours, "--compare", other, code=3).stderr
    )
    assert result_files(ours) == []
    done = evaluate("--input-dir", ours, "--compare", other, "--allow-partial")
    assert (
        "20 rows of both, 20 questions at a length; left out: 10 rows of ours alone, 0 of other alone"
        in flat(done.stdout)
    )
    assert (ours / "comparison.partial.json").exists() and result_files(ours) == RESULTS


def test_length_is_told_where_no_subset_has_every_level(tmp_path: Path, evaluate: Evaluate) -> None:
    files = {
        "loogle_SD_mixup_16k": 9,
        "loogle_SD_mixup_32k": 3,
        "lic_mixup_16k": 9,
        "lic_mixup_64k": 9,
    }
    done = evaluate("--input-dir", compared(tmp_path / "run", files), "-v")
    assert re.search(r"^loogle_SD_mixup +-20\.00 \(.*16k", done.stdout, re.M)
    assert "mean: no subset has every level" in done.stdout


def test_a_folder_with_a_name_that_is_no_text_can_be_compared(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    ours = compared(tmp_path / "ours", {"loogle_SD_mixup_16k": 9})
    other = compared(
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xffme")), {"loogle_SD_mixup_16k": 9}
    )
    evaluate("--input-dir", ours, "--compare", other)
    assert [
        name.endswith("n\\udcffme") for name in results(ours, "comparison.json")["compared"]
    ] == [True]


# --- what cannot be scored ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"pred": None}, '"pred" is missing or null; expected a string'),
        ({"pred": 7}, '"pred" is of type int'),
        ({"pred": ["amber"]}, '"pred" is of type list'),
        ({"answers": None}, '"answers" is missing or null'),
        ({"answers": []}, '"answers" is'),
        ({"answers": "amber"}, '"answers" is of type str'),
        ({"answers": [3]}, '"answers" is'),
        ({"gold_ans": 3}, '"gold_ans" is of type int'),
        ({"status": "error"}, '"status" is'),
        ({"dataset": "lic_mixup"}, "lic_mixup"),
    ],
)
def test_a_row_that_cannot_be_scored_is_an_error_naming_file_and_line(
    tmp_path: Path, evaluate: Evaluate, bad: Row, said: str
) -> None:
    rows = [row(), row(), {**row(), **bad}, row()]
    folder = write_published(tmp_path, {"lic_mixup_16k": [row()], "factrecall_en_16k": rows})
    done = evaluate("--input-dir", folder, code=2)
    assert "factrecall_en_16k.jsonl:3: " in done.stderr
    assert said in done.stderr
    assert result_files(folder) == []


def test_what_came_of_a_long_answer_is_not_remembered(tmp_path: Path) -> None:
    name = "factrecall_en_16k"
    scoring.evaluate(write_published(tmp_path / "short", {name: [row("amber")]}))
    assert metrics._english_tokens.cache_info().currsize
    scoring.evaluate(write_published(tmp_path / "long", {name: [row("amber " * 1000)]}))
    assert not metrics._english_tokens.cache_info().currsize


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("灯塔 amber"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("pred", "answers", "gold_ans", "input", "status", "index", "level", "language", "depths"),
    *("confusing_facts", "evidence_kept", "usage", "finish_reason", "question_id"),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([*config.DATASET_METRIC]), st.dictionaries(st.sampled_from(FIELDS), values))
def test_any_record_is_scored_or_refused_in_a_sentence(
    tmp_path: Path, subset: str, odd: dict[str, object]
) -> None:
    """Null, numbers, lists, objects, any text where a field should be; the same each time."""
    path = tmp_path / f"{subset}_16k.jsonl"
    path.write_text(json.dumps(row() | odd) + "\n")
    for other in tmp_path.glob("*"):
        if other != path:
            other.unlink()
    try:
        found = [scoring.evaluate(tmp_path) for _ in range(2)]
    except UsageError as error:
        assert error.message.startswith(f"{path}:1: ") and len(error.message) < 400
        return
    for protocol in PROTOCOLS:
        (score,) = found[0].scores(protocol).values()
        assert 0 <= score <= 100
        assert found[1].scores(protocol) == found[0].scores(protocol)


@pytest.mark.parametrize("line", ["{", "[]", '"amber"', "null", ""])
def test_a_line_that_is_no_row_is_an_error_naming_file_and_line(
    tmp_path: Path, evaluate: Evaluate, line: str
) -> None:
    folder = write_published(tmp_path, {"factrecall_en_16k": [row()]})
    path = folder / "factrecall_en_16k.jsonl"
    path.write_text(f"{path.read_text()}{line}\n{json.dumps(row())}\n")
    done = evaluate("--input-dir", folder, code=2)
    assert "factrecall_en_16k.jsonl:2" in done.stderr
    assert result_files(folder) == []


def test_an_unknown_subset_is_an_error_naming_the_known_ones(
    tmp_path: Path, evaluate: Evaluate
) -> None:
    folder = write_published(tmp_path, {"narrativeqa_16k": [row()]})
    done = evaluate("--input-dir", folder, code=2)
    assert 'unknown subset "narrativeqa"' in done.stderr
    assert "loogle_MIR_mixup" in done.stderr


def test_the_folder_must_be_named_in_one_way(evaluate: Evaluate) -> None:
    both = evaluate("--input-dir", "x", "--model-name", "y", code=2)
    assert "expected either --input-dir" in both.stderr


def test_a_folder_that_is_missing_or_empty_is_an_error(tmp_path: Path, evaluate: Evaluate) -> None:
    assert "no such folder" in evaluate("--input-dir", tmp_path / "nowhere", code=2).stderr
    assert "no prediction file" in evaluate("--input-dir", tmp_path, code=2).stderr


def test_a_model_name_cannot_leave_the_output_folder(tmp_path: Path, evaluate: Evaluate) -> None:
    write_published(tmp_path / "elsewhere", {"factrecall_en_16k": [row()]})
    (tmp_path / "outputs").mkdir()
    for name in ("..", "."):
        evaluate("--output-dir", tmp_path / "outputs", "--model-name", name, code=2)


# --- untrusted text -------------------------------------------------------------------------------------------------

HOSTILE = ["\x1b]0;owned\x07", "\x1b[2J", "\u202egnp", "=cmd|'/c calc'!A0", "@SUM(1)", "\udc9b31m"]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_rows_reach_neither_terminal_nor_csv(
    tmp_path: Path, evaluate: Evaluate, text: str
) -> None:
    rows = [row(text, input=text, all_classes=[text])]
    folder = write_published(tmp_path / f"m{text}".replace("/", ":"), {"factrecall_en_16k": []})
    (folder / "factrecall_en_16k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluate("--input-dir", folder)
    for forbidden in "\x1b\x07\u202e\udc9b":
        assert forbidden not in done.stdout + done.stderr
    for name in RESULTS:
        assert text not in (folder / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["\x1b[2J", "=1+1", "+1", "-1", "@a", "\ta", "\r=1"])
def test_a_hostile_subset_name_is_refused_without_reaching_the_terminal(
    tmp_path: Path, evaluate: Evaluate, text: str
) -> None:
    folder = write_published(tmp_path, {f"{text}_16k": [row()]})
    done = evaluate("--input-dir", folder, code=2)
    assert "unknown subset" in done.stderr
    assert not set("\x1b\r") & set(done.stderr)
    assert result_files(folder) == []


# --- the process ----------------------------------------------------------------------------------------------------


def test_evaluation_needs_no_model_library(tmp_path: Path, cache: Path) -> None:
    write_published(tmp_path, {"lic_mixup_16k": [row()]})
    code = (
        "import sys, runpy\n"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['evaluation.py', '--input-dir', {str(tmp_path)!r}]\n"
        f"try: runpy.run_path({str(ROOT / 'evaluation.py')!r}, run_name='__main__')\n"
        f"finally: print([m for m in {MODEL_LIBRARIES} if m in sys.modules])\n"
    )
    environment = {**os.environ, "LVEVAL_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.rstrip().endswith("[]")


def test_output_that_nobody_reads_to_the_end_is_no_error(tmp_path: Path, cache: Path) -> None:
    write_published(tmp_path, whole_level("16k"))
    command = f"'{sys.executable}' '{ROOT / 'evaluation.py'}' --input-dir '{tmp_path}' | head -n 1"
    environment = {**os.environ, "LVEVAL_CACHE": str(cache)}
    done = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert "Traceback" not in done.stderr
