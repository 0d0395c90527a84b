"""The harness as a library: predict and evaluate in a program of the user's own."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT, in_process, lines, row, script, write_data
from support.service import NAME, Served, environment, server

import lveval
from lveval import config, evaluate, metrics, predict, user_tables, utils
from lveval.common.errors import IncompleteRun, LVEvalError, SettingsMismatch, UsageError
from lveval.options import RunOptions, keyword_words

__all__ = ["environment", "server"]  # fixtures


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """What a test declares is no other test's."""
    with user_tables.restored():
        yield


def echo(data_path: Path, out: Path, **more: object) -> Path:
    words: dict[str, object] = {"backend": "echo", "model_name": "dry", "single_process": True}
    words |= {"datasets": ["hotpotwikiqa_mixup", "cmrc_mixup"], "lengths": ["1k", "2k"]}
    return predict(**{**words, "data_path": data_path, "output_dir": out, **more})


def test_a_call_does_what_the_command_does(
    data_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = echo(data_path, tmp_path / "called", limit=2)
    assert folder == tmp_path / "called/dry"
    assert capsys.readouterr().out == ""
    words: tuple[str | Path, ...] = ("--backend", "echo", "--model-name", "dry", "--limit", "2")
    words += (
        "--data-path",
        data_path,
        "--datasets",
        "hotpotwikiqa_mixup",
        "cmrc_mixup",
        "--lengths",
        "1k",
        "2k",
    )
    words += ("--single-process", "--output-dir", tmp_path / "command")
    found = in_process("prediction.py", *words)
    assert found.returncode == 0, found.stderr
    for name in ("hotpotwikiqa_mixup_1k.jsonl", "cmrc_mixup_2k.jsonl"):
        assert (folder / name).read_bytes() == (tmp_path / "command/dry" / name).read_bytes()
    manifests = [
        json.loads((each / "run.json").read_text()) for each in (folder, tmp_path / "command/dry")
    ]
    assert manifests[0]["identity"] == manifests[1]["identity"]
    assert "--limit=2" in manifests[0]["log"][0]["argv"]
    assert echo(data_path, tmp_path / "called") == folder  # resumed, and grown
    assert len(lines(folder / "cmrc_mixup_1k.jsonl")) == 5


def test_an_evaluation_is_a_frame_and_a_table(data_path: Path, tmp_path: Path) -> None:
    folder = echo(data_path, tmp_path / "out")
    found = evaluate(str(folder))
    frame = found.to_frame()
    assert list(frame.columns) == [
        *("subset", "level", "index", "question", "truth", "answer", "status", "cause"),
        *("released", "described", "recall"),
        *("prompt_tokens", "prompt_tokens_full", "answer_tokens", "evidence_kept"),
    ]  # fmt: skip
    assert len(frame) == 20 and frame.cause.tolist() == list(found.causes)
    for (subset, level), score in found.scores("recall").items():
        rows = frame[(frame.subset == subset) & (frame.level == level)]
        assert 100 * rows.recall.mean() == pytest.approx(score, abs=0.005)
    first, record = frame.iloc[0], lines(folder / "hotpotwikiqa_mixup_1k.jsonl")[0]
    assert (first.question, first.truth, first.answer) == (
        record["input"], record["answers"][0], record["pred"],  # type: ignore[index]
    )  # fmt: skip
    assert first.prompt_tokens == record["prompt_tokens"]
    assert first.released == metrics.qa_f1_score_with_gold_ans(first.answer, first.truth, "1800")
    assert found.scores() == found.scores("released")
    with pytest.raises(UsageError, match='unknown protocol "f1"; expected one of: released, '):
        found.scores("f1")
    assert not list(folder.glob("results*"))  # it writes nothing
    cells = Cells()
    cells.feed(found._repr_html_())
    assert cells.texts[:4] == ["subset", "1k", "2k", "mean"] and "mean" in cells.texts[4:]
    assert f"{found.scores()['cmrc_mixup', '2k']:.2f}" in cells.texts


class Cells(HTMLParser):
    """The texts of a page, and the tags in it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if data.strip() and "table" in self.tags:
            self.texts.append(data.strip())


def test_published_answers_and_unfinished_runs_have_frames(tmp_path: Path) -> None:
    folder = tmp_path / "<script>alert(1)<&script>"
    made = {"pred": "<b>1801</b>", "answers": ["1801"], "gold_ans": None, "input": "When?"}
    write_data(folder, "hotpotwikiqa_mixup_16k", [made | {"all_classes": None, "length": 9}] * 2)
    found = evaluate(folder)
    frame = found.to_frame()
    assert frame.status.tolist() == ["unrecorded"] * 2 and frame.prompt_tokens.isna().all()
    shown = Cells()
    shown.feed(found._repr_html_())
    assert shown.tags <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert "&lt;script&gt;" in found._repr_html_()
    half = made | dict.fromkeys(("pred", "input"), "half a pair \ud83d") | {"answers": ["\ud83d"]}
    (folder / "hotpotwikiqa_mixup_32k.jsonl").write_text(json.dumps(half))
    row = evaluate(folder).to_frame().iloc[-1]
    assert row.answer == row.question == "half a pair \\ud83d" and row.truth == "\\ud83d"
    (folder / "hotpotwikiqa_mixup_32k.jsonl").unlink()
    (folder / "hotpotwikiqa_mixup_16k.jsonl").write_text("")
    empty = evaluate(folder)
    assert empty.to_frame().empty and "0/0 rows" in empty._repr_html_()


def test_rows_without_an_answer_raise_and_are_told(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=n) for n in range(3)])
    server.control(script=["context"])
    asked: dict[str, object] = {
        "backend": "openai", "base_url": f"{server.url}/v1", "model_name": NAME, "concurrency": 1,
        "data_path": tmp_path / "data", "output_dir": tmp_path, "lengths": ["1k"],
        "datasets": ["hotpotwikiqa_mixup"], "backend_args": "first_wait=0.01,longest_wait=0.05",
    }  # fmt: skip

    async def cell(**more: object) -> Path:
        """A cell of a notebook: an event loop runs in its thread already."""
        return predict(**asked, **more)

    with pytest.raises(IncompleteRun, match=r"rows are missing; attempts\.jsonl has the causes"):
        asyncio.run(cell())
    found = evaluate(tmp_path / NAME)
    assert found.missing == 1 and "; 1 rows have no answer yet" in found._repr_html_()
    assert asyncio.run(cell(retry_failed=True)) == tmp_path / NAME
    assert evaluate(tmp_path / NAME).missing == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model_pth": "x"}, 'predict(): no option "model_pth"; did you mean "model_path"?'),
        ({"dataset": ["x"]}, 'predict(): no option "dataset"; did you mean "datasets"?'),
        ({"zzzzz": 1}, 'unknown option of predict() "zzzzz"; expected one of: adapter, '),
        ({"limit": 2.5}, "predict(): argument --limit: "),
        ({"limit": 0}, "--limit: found 0, expected at least 1"),
        ({"single_process": "yes"}, "predict(): argument --single-process: "),
        ({"datasets": []}, "predict(): argument --datasets: "),
        ({"datasets": ["nobodys"]}, 'unknown subset "nobodys"'),
        ({"request_args": {"a": {1}}}, "--request-args: found {'a': {1}}: "),
        ({"plan": "exact"}, "predict(plan=…): found the command plan; run lveval plan"),
        ({"check": True}, "predict(check=…): found the command check; run lveval check"),
        ({"formats": "no/such.py"}, "no such file; expected Python source"),
    ],
)
def test_what_is_wrong_raises_one_sentence(
    tmp_path: Path, options: dict[str, object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        predict(**{"backend": "echo", "model_name": "x", "output_dir": tmp_path, **options})
    assert said in caught.value.message and "\n" not in caught.value.message
    assert capsys.readouterr() == ("", "")


def test_other_settings_raise(data_path: Path, tmp_path: Path) -> None:
    echo(data_path, tmp_path, limit=1)
    with pytest.raises(SettingsMismatch, match="model_max_len"):
        echo(data_path, tmp_path, model_max_len=300)
    with pytest.raises(LVEvalError, match="no such folder"):
        evaluate(tmp_path / "nowhere")


def test_every_kind_of_keyword_is_the_options_value() -> None:
    words = keyword_words(
        {
            "backend": "openai",
            "model_name": "m",
            "model_path": Path("/models/x"),
            "model_max_len": 300,
            "datasets": ("a", "b"),
            "single_process": False,
            "verbose": True,
            "limit": None,
            "request_args": {"reasoning": {"effort": "low"}},
            "header": ["A: $B", "-C: d"],
            "finish_reason": ["eos=stop", "max=length"],
            "think_tags": ["<a>", "</a>"],
            "price_in": 0.25,
            "refusal_pattern": "-I cannot",
        }
    )
    found = RunOptions.parse(words)
    assert (found.model_path, found.model_max_len, found.limit) == ("/models/x", 300, None)
    assert (found.datasets, found.single_process, found.verbose) == (["a", "b"], False, True)
    assert found.request_args == {"reasoning": {"effort": "low"}}
    assert found.header == ["A: $B", "-C: d"] and found.price_in == 0.25
    assert found.finish_reason == [("eos", "stop"), ("max", "length")]
    assert found.think_tags == ("<a>", "</a>") and found.refusal_pattern == "-I cannot"
    assert RunOptions.parse(keyword_words({"model_name": "m"})) == RunOptions.parse(
        ["--model-name", "m"]
    )


def test_tables_of_a_call_are_of_that_call(data_path: Path, tmp_path: Path) -> None:
    formats = tmp_path / "formats.py"
    formats.write_text('CHAT_FORMATS = {"dry": ("<<", ">>")}\n')
    before = dict(utils.CHAT_FORMATS), dict(config.DATASET_METRIC), os.environ.get("LVEVAL_FORMATS")
    (data_path / "subset.toml").write_text(
        '[mine]\nlanguage = "en"\nmetric = "qa_f1_score"\nmax_new_tokens = 3\n'
        'prompt = "{context} {input}"\n'
    )
    with_format = echo(data_path, tmp_path / "a", limit=1, formats=formats)
    plain = echo(data_path, tmp_path / "b", limit=1)
    tables = [
        json.loads((each / "run.json").read_text())["identity"]["tables"]["chat_format"]
        for each in (with_format, plain)
    ]
    assert tables == ["dry", ""]
    after = dict(utils.CHAT_FORMATS), dict(config.DATASET_METRIC), os.environ.get("LVEVAL_FORMATS")
    assert after == before and user_tables.fingerprints() == {}
    formats.write_text('CHAT_FORMATS = {"dry": ("<<", ">")}\n')
    with pytest.raises(SettingsMismatch, match=r"tables\.sha256"):
        echo(data_path, tmp_path / "a", formats=formats)


def test_a_programs_signals_and_logging_stay_its_own(
    data_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    log = logging.getLogger("lveval")
    kept = list(log.handlers), log.level, log.propagate
    log.handlers.clear()
    log.setLevel(logging.INFO)
    log.propagate = True
    try:
        echo(data_path, tmp_path / "heard")
        assert any("finished cmrc_mixup_1k" in record.message for record in caplog.records)
        assert not log.handlers and log.propagate
    finally:
        log.handlers[:], log.level, log.propagate = kept
    assert handlers == [
        signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ]


def test_without_logging_of_its_own_a_program_sees_what_the_command_says(
    data_path: Path, tmp_path: Path
) -> None:
    code = (
        "import logging, sys, lveval\n"
        "assert not [name for name in sys.modules if name.startswith('lveval.')]\n"
        "from lveval import predict\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
        f"words = dict(backend='echo', model_name='dry', data_path={str(data_path)!r}, lengths=['1k'],\n"
        f"    output_dir={str(tmp_path)!r}, datasets=['cmrc_mixup'], single_process=True)\n"
        "predict(**words)\n"
        "assert logging.getLogger('lveval').handlers == []\n"
        "predict(**words | {'quiet': True, 'model_name': 'quiet'})\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "" and found.stderr.count("finished cmrc_mixup_1k") == 1


def test_a_name_that_is_not_there_is_said_as_ever() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'predictions'"):
        _ = lveval.predictions
    assert script("-c", "from lveval import evalute").returncode == 1
