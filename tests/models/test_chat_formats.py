"""Which chat format a run uses: it says so and why, and an old run keeps its own."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import in_process
from support import tiny_models


def run(
    model: Path, data_path: Path, output: Path, *words: str, name: str = "my-sft"
) -> tuple[int, str]:
    found = in_process(
        "prediction.py",
        *("--model-path", model, "--model-name", name, "--model-max-len", "300"),
        *("--data-path", data_path, "--output-dir", output, "--single-process"),
        *("--datasets", "cmrc_mixup", "--lengths", "1k", *words),
    )
    return found.returncode, found.stderr + found.stdout


def prompt_tokens(output: Path) -> list[int]:
    rows = (output / "my-sft/rows/cmrc_mixup_1k.jsonl").read_text().splitlines()
    return [json.loads(row)["prompt_tokens"] for row in rows]


def test_a_fresh_run_says_which_chat_format_it_uses_and_why(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    code, said = run(tiny_model, data_path, tmp_path / "auto", "--limit", "1")
    assert code == 0, said
    assert 'prompt format: the tokenizer\'s own template (not that of "sft" in utils.py' in said
    words = ("--limit", "1", "--chat-template", "published")
    code, said = run(tiny_model, data_path, tmp_path / "published", *words)
    assert 'prompt format: that of "sft" in utils.py' in said and "a template of its own" in said
    assert prompt_tokens(tmp_path / "published") != prompt_tokens(tmp_path / "auto")
    code, said = run(
        tiny_model, data_path, tmp_path / "none", "--chat-template", "none", *words[:2]
    )
    assert "prompt format: none, as --chat-template says" in said


def test_a_run_begun_by_the_version_before_keeps_its_chat_format(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    words = ("--chat-template", "published", "--limit")
    assert run(tiny_model, data_path, tmp_path / "published", *words, "3")[0] == 0
    assert run(tiny_model, data_path, tmp_path, *words, "2")[0] == 0
    # Version 0.1 recorded `auto` without a word of the tokenizer's template, and used the table.
    manifest = tmp_path / "my-sft/run.json"
    found = json.loads(manifest.read_text())
    found["identity"]["chat_template"] = "auto"
    manifest.write_text(json.dumps(found))
    code, said = run(tiny_model, data_path, tmp_path, "--limit", "3")
    assert code == 0 and 'prompt format: that of "sft" in utils.py' in said, said
    name = "my-sft/cmrc_mixup_1k.jsonl"
    assert (tmp_path / name).read_bytes() == (tmp_path / "published" / name).read_bytes()
    # A run of today is no such run: it begins and goes on with the tokenizer's template.
    assert run(tiny_model, data_path, tmp_path / "auto", "--limit", "1")[0] == 0
    assert "the tokenizer's own template" in run(tiny_model, data_path, tmp_path / "auto")[1]


@pytest.mark.parametrize(
    ("edit", "found", "code"),
    [
        ("{{ messages[0]['content'][:100] }}", "does not give the prompt back whole", 2),
        ("{{ messages[0]['content'] }}", "prompt: whole, from 'Read the article below", 0),
    ],
)
def test_check_compares_what_is_sent_with_what_was_meant(
    tiny_model: Path, data_path: Path, tmp_path: Path, edit: str, found: str, code: int
) -> None:
    def template(settings: dict[str, object]) -> None:
        settings["chat_template"] = edit

    folder = tiny_models.edited(tiny_model, tmp_path / "model", "tokenizer_config.json", template)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    result = run(folder, data_path, tmp_path, "--check", "--limit", "1")
    assert result[0] == code and found in result[1], result


def test_tokens_without_an_embedding_end_the_run_with_the_reason(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|extra|>"]})
    tokenizer.chat_template = "<|extra|>{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)
    code, said = run(folder, data_path, tmp_path)
    assert code == 2, said
    assert "the tokenizer makes token 49152, the model has embeddings for 49152 tokens" in said
    assert "the model or its settings are at fault" in said and "same command again" not in said


def test_check_says_that_an_end_token_is_left_out(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    def append(settings: dict[str, object]) -> None:
        end = {"SpecialToken": {"id": "<|im_end|>", "type_id": 0}}
        settings["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {
                "<|im_end|>": {"id": "<|im_end|>", "ids": [2], "tokens": ["<|im_end|>"]}
            },
        }

    folder = tiny_models.edited(tiny_model, tmp_path / "model", "tokenizer.json", append)
    code, said = run(
        folder, data_path, tmp_path, "--check", "--chat-template", "none", "--limit", "1"
    )
    assert code == 0 and "EOS: the tokenizer puts one after a text; none is sent" in said, said
    assert "<|im_end|>' to" not in said


@pytest.mark.parametrize(
    ("templates", "found"),
    [
        ({}, "neither tokenizer nor utils.py has one"),
        ({"default": "<u>{{ messages[0]['content'] }}", "tool_use": "<t>"}, "own template"),
        ({"rag": "<r>", "tool_use": "<t>"}, "template fails"),
    ],
)
def test_a_model_without_a_template_or_with_several(
    tiny_model: Path, data_path: Path, tmp_path: Path, templates: dict[str, str], found: str
) -> None:
    def several(settings: dict[str, object]) -> None:
        if templates:
            settings["chat_template"] = [
                {"name": name, "template": text} for name, text in templates.items()
            ]

    folder = tiny_models.edited(tiny_model, tmp_path / "model", "tokenizer_config.json", several)
    (folder / "chat_template.jinja").unlink()
    code, said = run(folder, data_path, tmp_path, "--limit", "1", name="several")
    assert code == (2 if "fails" in found else 0), said
    assert found in said and "Traceback" not in said
