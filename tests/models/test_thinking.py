"""Reasoning before the answer: switched off, given room, closed when the room is spent."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import in_process, lines
from support.backends_parts import ask, options

from lveval import utils
from lveval.backends import hf

SWITCH = (
    "{{ messages[0]['content'] }}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>"
    "{% else %}<think>{% endif %}"
)


@pytest.fixture
def engine(tiny_model: Path) -> hf.HFEngine:
    return hf.load(options(tiny_model, thinking_budget=5, think_tags=utils.THINK_TAGS))


def test_reasoning_is_closed_when_its_budget_is_spent(engine: hf.HFEngine) -> None:
    answer = ask(engine, "Why?<think>", 20)
    thought, close, said = answer.text.partition("</think>")
    assert close and thought and said
    close_tokens = len(engine.tokenizer.encode(close, add_special_tokens=False))
    assert answer.usage == {"completion_tokens": 20, "reasoning_tokens": 5 + close_tokens}
    assert engine.tokenizer.encode(thought, add_special_tokens=False) == list(
        engine.tokenizer.encode(ask(engine, "Why?<think>", 5).text, add_special_tokens=False)
    )


def test_what_is_no_reasoning_is_left_alone(engine: hf.HFEngine, tiny_model: Path) -> None:
    plain = ask(hf.load(options(tiny_model)), "Why?", 20)
    assert ask(engine, "Why?", 20) == plain and not plain.usage


def test_tags_that_are_special_tokens(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Reserved tokens of the vocabulary become the tags: the embedding has a row for each.
    text = (folder / "tokenizer.json").read_text()
    for old, new in (("<reponame>", "[THINK]"), ("<file_sep>", "[/THINK]")):
        assert old in tokenizer.get_vocab()
        text = text.replace(json.dumps(old), json.dumps(new))
    (folder / "tokenizer.json").write_text(text)
    config = (folder / "tokenizer_config.json").read_text()
    config = config.replace("<reponame>", "[THINK]").replace("<file_sep>", "[/THINK]")
    (folder / "tokenizer_config.json").write_text(config)
    engine = hf.load(options(folder, thinking_budget=5, think_tags=utils.THINK_TAGS))
    assert engine.tokenizer.think_tags == ("[THINK]", "[/THINK]")
    answer = ask(engine, "Why?[THINK]", 20)
    assert answer.text.count("[/THINK]") == 1 and answer.usage["reasoning_tokens"] == 6


def thinking_model(tiny_model: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "chat_template.jinja").write_text(SWITCH)
    return folder


def run(model: Path, data_path: Path, output: Path, *words: str) -> tuple[int, str]:
    found = in_process(
        "prediction.py",
        *("--model-path", model, "--model-name", "thinks", "--model-max-len", "300"),
        *("--data-path", data_path, "--output-dir", output, "--single-process"),
        *("--datasets", "cmrc_mixup", "--lengths", "1k", *words),
    )
    return found.returncode, found.stderr + found.stdout


def test_thinking_on_and_off_differ_and_do_not_mix(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    model = thinking_model(tiny_model, tmp_path)
    off = ("--chat-template-args", '{"enable_thinking": false}')
    assert run(model, data_path, tmp_path / "off", *off)[0] == 0
    code, said = run(model, data_path, tmp_path / "off", "--limit", "4", "--overwrite")
    assert code == 0 and "the model was still reasoning" in said
    code, said = run(model, data_path, tmp_path / "off", *off)
    assert code == 4 and "given.chat_template_args.enable_thinking" in said, said


def test_room_for_thinking_is_part_of_the_run_and_leaves_an_answer(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    model = thinking_model(tiny_model, tmp_path)
    code, said = run(model, data_path, tmp_path / "on", "--thinking-budget", "20")
    assert code == 0 and "still reasoning" not in said, said
    records = lines(tmp_path / "on/thinks/cmrc_mixup_1k.jsonl")
    for record in records:
        assert record["pred"] and "</think>" in str(record["raw_pred"])
        assert record["usage"]["reasoning_tokens"] > 20  # type: ignore[index]
    code, said = run(model, data_path, tmp_path / "on", "--thinking-budget", "21")
    assert code == 4 and "given.thinking_budget: recorded 20, asked 21" in said
    code, said = run(model, data_path, tmp_path / "long", "--thinking-budget", "5000")
    assert code == 2 and "the model's window is 2048" in said
