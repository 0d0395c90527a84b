"""Subsets of one's own: subset.toml beside the data, from the options to the page."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import in_process, lines, row, script, write_data

from lveval import evaluation, metrics, user_tables
from lveval.analysis import comparison
from lveval.common.errors import DataError, SettingsMismatch
from lveval.data.own_subsets import METRICS, read_own_subsets

DEFINITION = {
    "language": '"en"',
    "metric": '"qa_f1_score"',
    "max_new_tokens": "7",
    "prompt": '"""Read.\n{context}\n\nQuestion: {input}\nAnswer:"""',
    "group": '"own questions"',
}


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """What a test declares is no other test's."""
    with user_tables.restored():
        yield


def write_toml(folder: Path, name: str = "my_qa", **changes: str | None) -> Path:
    """subset.toml with one table; a key set to None is left out."""
    values = {key: text for key, text in (DEFINITION | changes).items() if text is not None}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "subset.toml"
    text = "".join(f"{key} = {value}\n" for key, value in values.items())
    path.write_text(f"[{name}]\n{text}", encoding="utf-8")
    return path


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """Three rows of a subset of one's own and of a published one."""
    folder = tmp_path / "own"
    for subset in ("my_qa", "hotpotwikiqa_mixup"):
        rows = [row(number=n) | {"dataset": subset} for n in range(3)]
        write_data(folder, f"{subset}_1k", rows)
    write_toml(folder)
    return folder


def predict(data: Path, out: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
    words = ("--backend", "echo", "--model-name", "dry", "--data-path", data, "--output-dir", out)
    default = () if "--datasets" in more else ("--datasets", "my_qa")
    where = () if "--num-workers" in more else ("--single-process",)
    return in_process("prediction.py", *words, "--lengths", "1k", *default, *where, *more)


def identity(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["identity"]
    return found


def test_it_is_answered_scored_without_its_file_and_shown(own_data: Path, tmp_path: Path) -> None:
    found = predict(own_data, tmp_path / "out", "--datasets", "hotpotwikiqa_mixup", "my_qa")
    assert found.returncode == 0, found.stderr
    folder = tmp_path / "out/dry"
    answers = lines(folder / "my_qa_1k.jsonl")
    assert [answer["usage"] for answer in answers] == [{"completion_tokens": 7}] * 3
    assert identity(folder)["subsets"] == {
        "my_qa": {
            "language": "en",
            "metric": "qa_f1_score",
            "metric_described": "qa_f1_score_described",
            "metric_recall": "keyword_recall_score",
            "max_new_tokens": 7,
            "prompt": "Read.\n{context}\n\nQuestion: {input}\nAnswer:",
            "group": "own questions",
        }
    }
    shutil.rmtree(own_data)  # a fresh process, which has never seen the definition
    scored = script("evaluation.py", "--input-dir", folder)
    assert scored.returncode == 0, scored.stderr
    results = json.loads((folder / "results.json").read_text())
    scores = [metrics.qa_f1_score(str(a["pred"]), a["answers"][0]) for a in answers]  # type: ignore[index]
    assert results["my_qa_1k"] == round(100 * sum(scores) / 3, 2)
    assert list(results) == ["hotpotwikiqa_mixup_1k", "my_qa_1k"]
    meta = json.loads((folder / "results_meta.json").read_text())
    assert meta["run"]["subsets"]["my_qa"]["metric"] == "qa_f1_score"
    shown = in_process("-m", "lveval", "report", "--input-dir", folder, "--markdown")
    assert shown.returncode == 0, shown.stderr
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "my_qa: qa_f1_score, 7 new tokens" in page and "own questions" in page


def test_parts_of_which_one_has_it_are_joined(own_data: Path, tmp_path: Path) -> None:
    words = ("--datasets", "hotpotwikiqa_mixup")
    assert predict(own_data, tmp_path, *words, "--part", "1/2").returncode == 0
    assert predict(own_data, tmp_path, *words, "my_qa", "--part", "2/2").returncode == 0
    merge = ("evaluation.py", "--merge", "--allow-partial", "--input-dir", tmp_path / "dry")
    with user_tables.restored():
        found = in_process(*merge)
    assert found.returncode == 0, found.stderr
    assert identity(tmp_path / "dry")["subsets"].keys() == {"my_qa"}


def test_a_run_without_it_has_nothing_of_it(own_data: Path, tmp_path: Path) -> None:
    published = ("--datasets", "hotpotwikiqa_mixup")
    assert predict(own_data, tmp_path / "beside", *published).returncode == 0
    (own_data / "subset.toml").unlink()
    assert predict(own_data, tmp_path / "alone", *published).returncode == 0
    assert identity(tmp_path / "beside/dry") == identity(tmp_path / "alone/dry")
    assert "subsets" not in identity(tmp_path / "beside/dry")


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": '"{context} {input}"'},
        {"max_new_tokens": "8"},
        {"metric": '"qa_f1_score_with_gold_ans"'},
        {"metric_recall": '"qa_f1_score"'},
        {"group": None},
    ],
)
def test_an_edited_definition_refuses_to_resume(
    own_data: Path, tmp_path: Path, changes: dict[str, str | None]
) -> None:
    assert predict(own_data, tmp_path / "out", "--limit", "1").returncode == 0
    write_toml(own_data, **changes)  # type: ignore[arg-type]
    found = predict(own_data, tmp_path / "out")
    assert found.returncode == 4, found.stderr
    assert f"subsets.my_qa.{next(iter(changes))}: recorded " in found.stderr


def test_a_selection_grows_by_one_of_ones_own(own_data: Path, tmp_path: Path) -> None:
    assert predict(own_data, tmp_path / "out", "--datasets", "hotpotwikiqa_mixup").returncode == 0
    assert predict(own_data, tmp_path / "out").returncode == 0
    text = (own_data / "subset.toml").read_text()
    other = text.replace("[my_qa]", "[other-qa]").replace("Read.", "Look.")
    (own_data / "subset.toml").write_text(f"{text}\n{other}")
    write_data(own_data, "other-qa_1k", [row() | {"dataset": "other-qa"}])
    found = predict(own_data, tmp_path / "out", "--datasets", "other-qa")
    assert found.returncode == 0, found.stderr
    assert list(identity(tmp_path / "out/dry")["subsets"]) == ["my_qa", "other-qa"]
    assert predict(own_data, tmp_path / "out").returncode == 0  # the first one, resumed
    scored = in_process("evaluation.py", "--input-dir", tmp_path / "out/dry")
    assert scored.returncode == 0 and "other-qa" in scored.stdout, scored.stderr


def test_workers_need_no_more_than_their_tasks(own_data: Path, tmp_path: Path) -> None:
    assert predict(own_data, tmp_path / "one").returncode == 0
    found = predict(own_data, tmp_path / "workers", "--num-workers", "1")
    assert found.returncode == 0, found.stderr
    answers = [tmp_path / way / "dry/my_qa_1k.jsonl" for way in ("one", "workers")]
    assert answers[0].read_bytes() == answers[1].read_bytes()


def test_plan_and_check_know_it(own_data: Path, tmp_path: Path) -> None:
    planned = predict(own_data, tmp_path / "out", "--plan", "exact")
    assert planned.returncode == 0 and "my_qa" in planned.stdout, planned.stderr
    checked = predict(own_data, tmp_path / "out", "--check", "--model-max-len", "500")
    assert "data: 1 files, 3 rows, each checked" in checked.stdout, checked.stderr
    assert not (tmp_path / "out/dry/rows").exists()


def test_a_template_of_prompts_comes_before_its_own(own_data: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.json"
    prompts.write_text(json.dumps({"my_qa": "{input}{context}"}))
    assert predict(own_data, tmp_path / "own").returncode == 0
    assert predict(own_data, tmp_path / "given", "--prompts", prompts).returncode == 0
    own, given = (
        lines(tmp_path / way / "dry/my_qa_1k.jsonl")[0]["prompt_tokens"] for way in ("own", "given")
    )
    assert isinstance(own, int) and isinstance(given, int) and own > given


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"language": '"de"'}, "[my_qa] language: found 'de'; expected en or zh"),
        ({"language": None}, "[my_qa]: no language (found: group, metric, max_new_tokens, prompt)"),
        ({"language": "[1]"}, "[my_qa] language: found [1]; expected en or zh"),
        ({"metric": '"qa_f2"'}, "[my_qa] metric: found 'qa_f2'; expected one of: qa_f1_score, "),
        ({"metric": '"qa_f1_zh_score"'}, "[my_qa] metric: found 'qa_f1_zh_score'; expected one of"),
        ({"metric": '"file_score"'}, "[my_qa] metric: found 'file_score'; expected one of"),
        ({"metric": "[1]"}, "[my_qa] metric: found [1]; expected one of"),
        ({"metric": None}, "[my_qa]: no metric (found: "),
        ({"metric_described": "3"}, "[my_qa] metric_described: found 3; expected one of"),
        ({"metric_recall": '"x"'}, "[my_qa] metric_recall: found 'x'; expected one of"),
        ({"max_new_tokens": "0"}, "[my_qa] max_new_tokens: found 0; expected a whole number from 1"),
        ({"max_new_tokens": "true"}, "[my_qa] max_new_tokens: found True; expected"),
        ({"max_new_tokens": "6.5"}, "[my_qa] max_new_tokens: found 6.5; expected"),
        ({"prompt": '"{context}"'}, "[my_qa] prompt: found '{context}'; expected text with {context}"),
        ({"prompt": "1"}, "[my_qa] prompt: found 1; expected text with"),
        ({"group": '"<b>$x^2$"'}, "[my_qa] group: found '<b>$x^2$'; expected a short name"),
        ({"metrik": '"qa_f1_score"'}, 'unknown key in '),
        ({"name": "hotpotwikiqa_mixup"}, "config.py has a subset of that name"),
        ({"name": "loogle-MR-mixup"}, "config.py has a subset of that name"),
        ({"name": '"../x"'}, "[../x]: found '../x'; expected a name of letters"),
        ({"name": '"=cmd()"'}, "expected a name of letters, digits"),
        ({"name": "my.qa"}, 'unknown key in '),
    ],
)  # fmt: skip
def test_what_is_wrong_in_it_is_one_sentence(
    own_data: Path, tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    path = write_toml(own_data, **changes)  # type: ignore[arg-type]  # `name` may be among them
    found = predict(own_data, tmp_path / "out")
    assert found.returncode == 2, found.stderr
    assert said in found.stderr and str(path) in found.stderr
    assert "Traceback" not in found.stderr and len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[my_qa\n", "cannot be read as TOML (Expected ']'"),
        (b"[my_qa]\nprompt = '\xff'\n", "cannot be read as TOML ('utf-8' codec"),
        (b'language = "en"\n', "[language]: found 'en'; expected a table for each subset"),
        (b"[my_qa]\na = " + b"[" * 5000, "cannot be read as TOML"),
    ],
)
def test_what_is_no_definition_is_one_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "subset.toml").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_own_subsets(tmp_path)
    assert caught.value.message.startswith(f"{tmp_path / 'subset.toml'}: ")
    assert said in caught.value.message


def test_no_file_and_no_folder_are_no_subsets(tmp_path: Path) -> None:
    assert read_own_subsets(None) == read_own_subsets(tmp_path / "none") == {}
    (tmp_path / "subset.toml").write_text("")
    assert read_own_subsets(tmp_path) == {}


def test_chinese_ones_and_rouge_have_their_own_defaults(tmp_path: Path) -> None:
    write_toml(tmp_path, language='"zh"', metric='"rouge_zh_score"', group=None)
    (own,) = read_own_subsets(tmp_path).values()
    assert (own.metric_described, own.metric_recall, own.group) == (
        "rouge_zh_score",
        "keyword_recall_zh_score",
        "",
    )
    assert {"qa_f1_score", "rouge_zh_score_blacklist", "keyword_recall_score"} < METRICS.keys()
    assert not {"file_score", "normalize", "_gated"} & METRICS.keys()


def test_an_unknown_subset_says_how_to_add_one(own_data: Path, tmp_path: Path) -> None:
    how = "one of your own is a table in subset.toml beside its data (docs/data.md)"
    found = predict(own_data, tmp_path / "out", "--datasets", "nobodys")
    assert found.returncode == 2 and how in found.stderr
    write_data(tmp_path / "made", "nobodys_1k", [{"pred": "x", "answers": ["x"]}])
    scored = in_process("evaluation.py", "--input-dir", tmp_path / "made")
    assert scored.returncode == 2 and how in scored.stderr and "nobodys_1k.jsonl" in scored.stderr


def test_answers_made_elsewhere_are_scored_with_the_datas_folder(tmp_path: Path) -> None:
    write_toml(tmp_path / "data", name="elsewhere_qa")
    made = {"pred": "a red lamp", "answers": ["the red lamp"], "gold_ans": None, "input": "?"}
    write_data(tmp_path / "made", "elsewhere_qa_1k", [made | {"all_classes": None, "length": 9}])
    assert in_process("evaluation.py", "--input-dir", tmp_path / "made").returncode == 2
    found = evaluation.evaluate(tmp_path / "made", tmp_path / "data")
    assert found.scores() == {("elsewhere_qa", "1k"): 100.0}


def test_rows_of_another_language_are_refused_from_a_cached_copy_too(
    own_data: Path, tmp_path: Path
) -> None:
    assert predict(own_data, tmp_path / "out", "--limit", "1").returncode == 0
    write_toml(own_data, language='"zh"', metric='"qa_f1_zh_score"')
    found = predict(own_data, tmp_path / "other")
    assert found.returncode == 2
    assert "language of a row: found 'en'; expected zh, as in subset.toml" in found.stderr


def test_runs_that_are_scored_in_two_ways_are_not_compared(own_data: Path, tmp_path: Path) -> None:
    assert predict(own_data, tmp_path / "a").returncode == 0
    write_toml(own_data, metric='"qa_f1_score_with_gold_ans"')
    assert predict(own_data, tmp_path / "b").returncode == 0
    write_toml(own_data, prompt='"{context} {input}"')
    assert predict(own_data, tmp_path / "c").returncode == 0
    a, b, c = (evaluation.evaluate(tmp_path / each / "dry") for each in "abc")
    with pytest.raises(SettingsMismatch, match="my_qa has the metric qa_f1_score in A, qa_f1_sco"):
        comparison.compare_with(a, {"b": b})
    flags = comparison.compare_with(a, {"c": c})["c"].flags
    assert any(flag.startswith("different prompt of my_qa: ") for flag in flags), flags


def test_a_damaged_definition_of_a_run_is_named(own_data: Path, tmp_path: Path) -> None:
    assert predict(own_data, tmp_path / "out").returncode == 0
    path = tmp_path / "out/dry/run.json"
    manifest = json.loads(path.read_text())
    manifest["identity"]["subsets"]["my_qa"]["metric"] = "open"
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"run\.json: identity\.subsets: \[my_qa\] metric: found"):
        evaluation.evaluate(path.parent)
