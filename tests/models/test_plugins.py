"""Methods of one's own: what a plugin can change, and that it is part of the run."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, in_process, lines
from support.backends_parts import ask, options

from lveval.backends import hf, plugins
from lveval.common.errors import UsageError

METHOD = """
from contextlib import contextmanager

class Method:
    def __init__(self, share=1.0):
        self.share, self.seen = share, {}

    def identity(self):
        return {"share": self.share}

    def before_load(self, config, kwargs):
        self.seen["layers"] = config.num_hidden_layers

    def after_load(self, model, tokenizer):
        self.seen["model"] = type(model).__name__

    @contextmanager
    def generating(self, model, prompt):
        self.seen["context"] = tokens = prompt.question_start
        self.seen["question"] = len(prompt.tokens) - tokens
        yield

    def measures(self):
        return self.seen | {"share": self.share}
"""

ANSWERS = """
class Answers:
    def generate(self, model, tokenizer, prompt):
        return tokenizer.encode(" an answer") + [tokenizer.eos_token_id]
"""


def named(spec: Path | str) -> tuple[tuple[str, str], ...]:
    return ((str(spec), plugins.plugin_hash(str(spec))),)


@pytest.fixture
def method(tmp_path: Path) -> Path:
    path = tmp_path / "method.py"
    path.write_text(METHOD)
    return path


def run(tiny_model: Path, data_path: Path, output: Path, *words: str | Path) -> str:
    found = in_process(
        "prediction.py",
        *("--model-path", tiny_model, "--model-name", "run", "--model-max-len", "300"),
        *("--data-path", data_path, "--output-dir", output, "--single-process", *words),
        *("--datasets", "cmrc_mixup", "--lengths", "1k", "--limit", "2"),
    )
    return f"{found.returncode} {found.stderr}"


def test_a_plugin_is_part_of_the_run(
    tiny_model: Path, data_path: Path, tmp_path: Path, method: Path
) -> None:
    words = ("--plugin", method, "--plugin-args", '{"share": 0.5}')
    assert run(tiny_model, data_path, tmp_path / "out", *words).startswith("0")
    record = lines(tmp_path / "out/run/cmrc_mixup_1k.jsonl")[0]
    measures = record["measures"]
    assert isinstance(measures, dict) and measures["share"] == 0.5 and measures["layers"] == 2
    assert measures["model"] == "LlamaForCausalLM"
    assert measures["context"] + measures["question"] == record["prompt_tokens"]
    assert 5 < measures["question"] < 120
    identity = json.loads((tmp_path / "out/run/run.json").read_text())["identity"]
    assert identity["given"]["plugins"]["Method"]["identity"] == {"share": 0.5}
    before = (tmp_path / "out/run/cmrc_mixup_1k.jsonl").read_bytes()
    # The same method from another folder goes on; others are refused.
    moved = Path(shutil.copy(method, tmp_path / "moved.py"))
    assert run(tiny_model, data_path, tmp_path / "out", "--plugin", moved, *words[2:])[0] == "0"
    for other in ((), (*words[:3], '{"share": 0.4}')):
        assert run(tiny_model, data_path, tmp_path / "out", *other).startswith("4")
    method.write_text(METHOD + "\n# another version\n")
    assert "given.plugins.Method.sha256" in run(tiny_model, data_path, tmp_path / "out", *words)
    assert (tmp_path / "out/run/cmrc_mixup_1k.jsonl").read_bytes() == before


def test_a_plugin_may_take_over_decoding(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.py"
    path.write_text(ANSWERS)
    answer = ask(hf.load(options(tiny_model, plugins=named(path))), "One two")
    assert (answer.text, answer.status) == (" an answer", "ok")


def test_retrieval_makes_the_context_of_any_backend(data_path: Path, tmp_path: Path) -> None:
    found = in_process(
        "prediction.py",
        *("--backend", "echo", "--model-name", "run", "--model-max-len", "5000"),
        *("--data-path", data_path, "--output-dir", tmp_path, "--single-process"),
        *("--datasets", "cmrc_mixup", "--lengths", "1k", "--limit", "1"),
        *("--plugin", ROOT / "plugins/bm25.py", "--plugin-args", '{"words": 200}'),
    )
    assert found.returncode == 0, found.stderr
    record = lines(tmp_path / "run/cmrc_mixup_1k.jsonl")[0]
    assert int(str(record["prompt_tokens"])) < 600


def test_bm25_keeps_the_passage_that_the_question_is_about() -> None:
    chosen = plugins.load_plugins(
        options(None, plugins=named(ROOT / "plugins/bm25.py"), plugin_args={"words": 200})
    )
    filler = "Nothing of note happened that day and the town slept on. " * 200
    row = {"context": f"{filler}The lighthouse was built in 1874. {filler}", "input": "lighthouse?"}
    text = chosen.context(row)
    assert "lighthouse was built in 1874" in text and len(text.split()) <= 400


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("class Method:\n    pass\n", {}, "expected one class with some of before_load"),
        ("import no_such_package_here", {}, "ModuleNotFoundError"),
        (METHOD, {"shares": 1}, "unexpected keyword argument"),
        (METHOD + METHOD.replace("Method", "Other"), {}, "found Method, Other"),
    ],
)
def test_a_plugin_that_cannot_work_is_one_sentence(
    tmp_path: Path, source: str, arguments: dict[str, object], message: str
) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(source)
    with pytest.raises(UsageError, match=message):
        plugins.load_plugins(options(None, plugins=named(path), plugin_args=arguments))


def test_a_hook_into_the_model_needs_a_backend_that_holds_it(method: Path) -> None:
    loaded = plugins.load_plugins(options(None, plugins=named(f"{method}:Method")))
    with pytest.raises(UsageError, match="before_load, after_load, generating, measures needs"):
        loaded.require_outside_the_model("openai")
