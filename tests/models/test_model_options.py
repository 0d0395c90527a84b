"""What a model card asks for beside the model: adapters, scaled positions, arguments."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import tiny_models
from support.backends_parts import ask, options

from lveval.backends import hf, hf_models, model_files
from lveval.common.errors import UsageError

TEXT = "The keeper wrote in his log that " * 40


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny model, and beside it the model with the adapter merged."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "merged")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder / "merged")
    return folder / "adapter"


def test_an_adapter_answers_as_the_merged_model(tiny_model: Path, adapter: Path) -> None:
    merged = ask(hf.load(options(adapter.parent / "merged")), TEXT, 12)
    assert ask(hf.load(options(tiny_model)), TEXT, 12) != merged
    assert ask(hf.load(options(tiny_model, adapter=str(adapter))), TEXT, 12) == merged
    # The adapter's folder alone: its config names the base.
    assert ask(hf.load(options(adapter)), TEXT, 12) == merged


def test_an_adapter_is_part_of_the_fingerprint(tiny_model: Path, adapter: Path) -> None:
    plain = hf.settings_fingerprint(options(tiny_model))
    adapted = hf.settings_fingerprint(options(adapter))
    assert adapted == hf.settings_fingerprint(options(tiny_model, adapter=str(adapter)))
    assert {*adapted} - {*plain} == {"adapter"}


def test_an_adapter_that_does_not_fit_is_refused(
    tiny_model: Path, adapter: Path, model_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="the adapter does not fit the model"):
        hf.load(options(model_path, adapter=str(adapter)))
    with pytest.raises(UsageError, match=r"no adapter_config\.json in it"):
        hf.load(options(tiny_model, adapter=str(tmp_path)))
    nameless = tiny_models.edited(
        adapter,
        tmp_path / "nameless",
        "adapter_config.json",
        lambda data: data.update(base_model_name_or_path=None),
    )
    with pytest.raises(UsageError, match="names no base model"):
        hf.settings_fingerprint(options(nameless))
    for path in nameless.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(UsageError, match="pickle"):
        hf.settings_fingerprint(options(tiny_model, adapter=str(nameless)))


YARN = {"rope_type": "yarn", "factor": 4.0}


def test_scaled_positions_are_those_of_config_json(tiny_model: Path, tmp_path: Path) -> None:
    def scale(config: dict[str, Any]) -> None:
        config["rope_parameters"] |= YARN | {"original_max_position_embeddings": 2048}

    edited = tiny_models.edited(tiny_model, tmp_path / "model", "config.json", scale)
    overridden = options(tiny_model, hf_overrides={"rope_scaling": YARN})
    engines = [hf.load(each) for each in (options(edited), overridden, options(tiny_model))]
    answers = [ask(engine, TEXT, 24) for engine in engines]
    assert answers[0] == answers[1]
    frequencies = [engine._model.model.rotary_emb.inv_freq for engine in engines]
    assert frequencies[0].equal(frequencies[1]) and not frequencies[0].equal(frequencies[2])
    settings = hf_models.load_config(model_files.model_source(overridden), overridden)
    assert hf_models.context_window(settings, overridden) == 8192
    checked = " ".join(result.text for result in hf.check_model(overridden))
    assert "positions: scaled by the model (yarn, factor 4.0" in checked


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rope_scaling": {"rope_type": "default"}}, "changes none of the model's frequencies"),
        ({"rope_scalling": YARN}, "LlamaConfig has no rope_scalling"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
    ],
)
def test_an_override_that_does_nothing_is_refused(
    tiny_model: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        hf.load(options(tiny_model, hf_overrides=overrides))


def test_an_override_of_a_wrapped_model_is_the_text_models(
    model_path: Path, tmp_path: Path
) -> None:
    folder = tiny_models.build("wrapper of llava", tmp_path / "model", model_path)
    engine = hf.load(options(folder, hf_overrides={"rope_scaling": YARN}))
    assert engine._model.config.text_config.rope_parameters["factor"] == 4.0


def test_a_prompt_prefilled_in_chunks_gives_the_same_answer(tiny_model: Path) -> None:
    chunked = options(tiny_model, generate_args={"prefill_chunk_size": 32})
    assert ask(hf.load(chunked), TEXT, 12) == ask(hf.load(options(tiny_model)), TEXT, 12)


@pytest.mark.parametrize(
    "changes",
    [
        {"generate_args": {"num_beams": 4}},
        {"generate_args": {"do_sample": True}},
        {"generate_args": {"trust_remote_code": True}},
        {"model_args": {"trust_remote_code": True}},
        {"model_args": {"weights_only": False}},
    ],
)
def test_arguments_that_are_not_greedy_or_run_code_are_refused(
    tiny_model: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(next(iter(changes.values()))))):
        hf.settings_fingerprint(options(tiny_model, **changes))


def test_thinking_is_switched_in_the_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_models.edited(tiny_model, tmp_path / "model", "config.json", lambda _: None)
    (folder / "chat_template.jinja").write_text(
        "{{ messages[0].content }}\n{% if enable_thinking is not defined or enable_thinking %}<think>"
        "{% else %}<think></think>{% endif %}"
    )
    prompts = [
        hf.tokenizer(options(folder, chat_template_args=given)).apply_chat_template("P")
        for given in ({}, {"enable_thinking": True}, {"enable_thinking": False})
    ]
    assert prompts == ["P\n<think>", "P\n<think>", "P\n<think></think>"]
    with pytest.raises(UsageError, match="has no enable_thought"):
        hf.tokenizer(options(folder, chat_template_args={"enable_thought": False}))


def test_the_options_need_a_backend_that_has_them() -> None:
    from lveval.options import RunOptions

    words = ["--backend", "echo", "--model-name", "m", "--adapter", "x"]
    with pytest.raises(
        UsageError, match="--adapter is for --backend hf or vllm; found --backend echo"
    ):
        RunOptions.parse(words)
    words[-2:] = ["--think-tags", "<a>", "</a>"]
    assert json.dumps(RunOptions.parse(words).given()) == '{"think_tags": ["<a>", "</a>"]}'
