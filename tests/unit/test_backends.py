"""The engines behind the Protocol: echo, and transformers with real models."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
from support.backends_parts import ask, options, prompt, shipped, smollm2

from lveval.backends import backend_module, echo, hf, hf_models, parse_engine_args
from lveval.backends.base import EngineBroken, Generation, Prompt
from lveval.common.errors import LVEvalError, ServiceError, UsageError

__all__ = ["smollm2"]  # fixtures

# --- The registry -----------------------------------------------------------------------------------------------------


def test_an_unknown_backend_lists_the_choices() -> None:
    with pytest.raises(
        LVEvalError, match='unknown backend "gpt"; expected one of: hf, vllm, openai, echo'
    ):
        backend_module("gpt")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed=3", "unknown --backend-args key"),
        ("delay=fast", 'found "fast"'),
        ("delay", "delay"),
        ("delay=-1", '"-1"'),
    ],
)
def test_backend_args_are_checked(text: str, complaint: str) -> None:
    with pytest.raises(LVEvalError, match=complaint):
        parse_engine_args("echo", text)


def test_backend_args_are_typed() -> None:
    assert parse_engine_args("echo", "delay=0.05") == {"delay": 0.05}
    assert parse_engine_args("hf", "") == {}


def test_options_and_answers_cross_processes() -> None:
    answer = Generation("x", "ok")
    assert pickle.loads(pickle.dumps(answer)) == answer
    error = pickle.loads(pickle.dumps(ServiceError("m")))
    assert (type(error), error.message, error.code) == (ServiceError, "m", 5)


# --- Echo -------------------------------------------------------------------------------------------------------------


def test_echo_answers_with_the_passage_that_shares_most_words_with_the_question() -> None:
    engine = echo.load(options(None))
    text = "Article:\nThe mill burned. The mill of Tarn opened in 1874. Rain fell.\n\nQuestion: When opened Tarn?\nAnswer:"
    assert ask(engine, text, 20).text == "The mill of Tarn opened in 1874."
    cut = ask(engine, text, 4)
    assert (cut.text, cut.status, cut.output_tokens) == ("The mill of Tarn", "length", 4)


def test_echo_keeps_positions_over_a_batch() -> None:
    engine = echo.load(options(None))
    batch = [prompt(engine, f"Fact number {n}.\nQ: which fact?\nAnswer:", 9) for n in range(5)]
    assert [(position, answer.text) for position, answer in engine.generate(batch)] == [
        (n, f"Fact number {n}.") for n in range(5)
    ]


# --- transformers: what it answers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> hf.HFEngine:
    return hf.load(options(tiny_model))


def test_the_answer_is_transformers_greedy_text(smollm2: hf.HFEngine) -> None:
    text = smollm2.tokenizer.apply_chat_template(
        "What is the capital of France? Answer with one word."
    )
    engine_prompt = Prompt(text, text, smollm2.tokenizer.encode(text, add_special_tokens=False), 12)
    ((_, answer),) = smollm2.generate([engine_prompt])
    assert "Paris" in answer.text
    assert (answer.status, answer.finish_reason) == ("ok", "stop")
    assert answer.output_tokens is not None and answer.output_tokens < 12


def test_an_answer_cut_by_its_budget_says_so(tiny: hf.HFEngine) -> None:
    answer = ask(tiny, "one two three", 5)
    assert (answer.status, answer.finish_reason, answer.output_tokens) == ("length", "length", 5)


def test_a_prompt_beyond_the_window_is_no_answer(tiny: hf.HFEngine) -> None:
    answer = ask(tiny, "word " * 2045, 8)
    assert answer.status == "context_overflow" and "window is 2048" in answer.error


def test_nan_logits_are_no_answer(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_model, tmp_path / "nan"))
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert ask(hf.load(options(folder)), "one two").status == "invalid"


def test_several_end_tokens_all_stop(tiny_model: Path, tiny: hf.HFEngine, tmp_path: Path) -> None:
    ids = tiny.tokenizer.raw(ask(tiny, "one two three", 3).text)["input_ids"]
    engine = hf.load(options(shipped(tiny_model, tmp_path / "ends", eos_token_id=[2, ids[0]])))
    assert ask(engine, "one two three", 9).status in ("ok", "length")
    assert engine.resolved_settings()["generation"]["eos_token_id"] == [2, ids[0]]  # type: ignore[index, call-overload]


def test_effective_settings_are_recorded(tiny: hf.HFEngine) -> None:
    facts = tiny.resolved_settings()
    assert (facts["attn"], facts["dtype"], facts["own_chat"]) == ("sdpa", "float32", False)
    assert json.loads(json.dumps(facts)) == facts


def test_attention_can_be_chosen_and_is_the_one_used(tiny_model: Path) -> None:
    assert (
        hf.load(options(tiny_model, attn_implementation="eager")).resolved_settings()["attn"]
        == "eager"
    )


# --- transformers: models with code of their own ----------------------------------------------------------------------


def test_code_of_a_model_is_refused_by_name_and_flag(chat_model: Path) -> None:
    with pytest.raises(LVEvalError, match=r"modeling_tiny\.py.*--trust-remote-code"):
        hf.settings_fingerprint(options(chat_model))


def test_a_model_with_its_own_chat_is_asked_through_it(chat_model: Path) -> None:
    engine = hf.load(options(chat_model, trust_remote_code=True))
    assert engine.native_chat
    assert ask(engine, "hello", 17, native_chat=True) == Generation("budget 17", "ok")


def test_out_of_memory_fails_that_row_alone_after_a_second_try(chat_model: Path) -> None:
    engine = hf.load(options(chat_model, trust_remote_code=True))
    batch = [prompt(engine, text, 5, native_chat=True) for text in ("a", "OUT OF MEMORY", "b")]
    statuses = dict(engine.generate(batch))
    assert [statuses[n].status for n in range(3)] == ["ok", "error", "ok"]
    assert "out of memory" in statuses[1].error


def test_any_fault_of_a_models_own_code_is_that_rows_alone(chat_model: Path) -> None:
    engine = hf.load(options(chat_model, trust_remote_code=True))
    answer = ask(engine, "INDEX", 5, native_chat=True)
    assert (
        answer.status == "error"
        and "IndexError" in answer.error
        and "--chat-template" in answer.error
    )


def test_a_template_that_asks_for_the_date_gets_the_same_one_every_day(
    tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "{%- if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %}|{{ messages[0].content }}"
        "|{{ strftime_now('%Y-%m-%d') }}|{{ strftime_now('%A') }}"
    )
    assert (
        hf_models.HFTokenizer(tokenizer).apply_chat_template("q")
        == "26 Jul 2024|q|2024-07-26|26 July 2024"
    )


def test_a_cuda_fault_breaks_the_engine_not_the_row(chat_model: Path) -> None:
    engine = hf.load(options(chat_model, trust_remote_code=True))
    with pytest.raises(EngineBroken, match="illegal memory access"):
        ask(engine, "FAULT", 5, native_chat=True)


# --- transformers: what is refused before loading ---------------------------------------------------------------------


def test_pickled_weights_need_a_flag(tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(tiny_model, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    for step in (hf.settings_fingerprint, hf.load):
        with pytest.raises(LVEvalError, match=r"pytorch_model\.bin.*--allow-pickle"):
            step(options(folder))
    assert ask(hf.load(options(folder, allow_pickle=True)), "one two").status == "length"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_path": None}, "--model-path is missing"),
        ({"model_path": "./nowhere"}, "no such folder"),
        ({"model_path": "nowhere.gguf"}, "no such file"),
        ({"model_max_len": 2049}, "window is 2048 tokens, an answer takes 0; pass about 1548"),
        (
            {"model_max_len": 1985, "max_new_tokens": 64},
            "window is 2048 tokens, an answer takes 64; pass about 1548",
        ),
        ({"gpus": 99}, "CUDA_VISIBLE_DEVICES names 99 GPUs"),
        ({"attn_implementation": "flash_attention_2"}, "pip install flash-attn"),
        ({"attn_implementation": "kernels-community/flash-attn2"}, "foreign code"),
    ],
)
def test_what_cannot_work_is_refused(
    tiny_model: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(LVEvalError, match=complaint):
        hf.settings_fingerprint(
            options(tiny_model, **changes)
            if "model_path" not in changes
            else options(None, **changes)
        )


@pytest.mark.parametrize("text", ["{", "[]", '{"auto_map": null}', '{"auto_map": 3}'])
def test_a_damaged_configuration_is_one_sentence(
    tiny_model: Path, tmp_path: Path, text: str
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "damaged"))
    (folder / "config.json").write_text(text)
    with pytest.raises(LVEvalError, match="transformers cannot load it"):
        hf.settings_fingerprint(options(folder))


def test_a_worker_that_lost_its_gpu_does_not_go_on_with_the_cpu(tiny_model: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here to go on with")
    with pytest.raises(LVEvalError, match="finds no GPU any more"):
        hf.load(options(tiny_model, gpus=1))


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LVEvalError, match=r"no config\.json"):
        hf.settings_fingerprint(options(tmp_path))


def test_a_window_can_be_told(tiny_model: Path) -> None:
    assert hf.settings_fingerprint(options(tiny_model, model_max_len=3000, args={"window": 4096}))


def test_the_fingerprint_follows_the_files(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    assert hf.settings_fingerprint(options(folder)) == hf.settings_fingerprint(options(tiny_model))
    (folder / "generation_config.json").write_text('{"eos_token_id": 3}')
    assert (
        hf.settings_fingerprint(options(folder))["model"]
        != hf.settings_fingerprint(options(tiny_model))["model"]
    )


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (RuntimeError("CUDA out of memory"), 1),
        (ValueError("the weights are damaged"), 1),
        (ValueError("TinyModel does not support Flash Attention 2.0 yet"), 2),
        (ImportError("FlashAttention2 has been toggled on, but it cannot be used"), 2),
    ],
)
def test_only_a_refused_flash_attention_is_loaded_without_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, calls: int
) -> None:
    import transformers

    asked: list[object] = []

    def refuse(name: str, **arguments: object) -> None:
        asked.append(arguments.get("attn_implementation"))
        raise fault

    monkeypatch.setattr(hf, "_attention", lambda options: "flash_attention_2")
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(UsageError):
        hf.load(options(tiny_model))
    assert asked == ["flash_attention_2", None][:calls]
