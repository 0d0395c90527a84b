"""The vLLM backend, GPUs dealt out to workers, and engines that compute several rows together.

What needs vLLM itself is skipped where it is not installed; its environment is described in the README.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import lines, row, script, write_data
from support import tiny_models
from support.processes import running, wait_for_rows
from support.vllm_parts import ECHO, INSTALLED, SHORT, engine, options

from lveval.backends import hf, vllm
from lveval.backends.base import Engine, Prompt
from lveval.common.errors import LVEvalError

__all__ = ["engine"]  # fixtures

needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed: it needs an environment of its own"
)


# --- vLLM itself ------------------------------------------------------------------------------------------------------

QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "Name three colours of the rainbow.",
    "What is 2 + 2?",
    "Who wrote Hamlet? Give the name only.",
    "Translate to French: good morning.",
    "List the days of the week.",
)


def asked(engine: Engine, text: str, budget: int = 16) -> Prompt:
    formatted = engine.tokenizer.apply_chat_template(text)
    return Prompt(
        text, formatted, engine.tokenizer.encode(formatted, add_special_tokens=False), budget
    )


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_it_answers_as_transformers_does_from_many_threads(
    engine: vllm.VLLMEngine, model_path: Path
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    plain = hf.load(options(model_path, dtype="float32"))
    prompts = [asked(engine, text) for text in QUESTIONS]
    expected = [dict(plain.generate([prompt]))[0] for prompt in prompts]
    with ThreadPoolExecutor(len(prompts)) as threads:
        found = list(threads.map(lambda prompt: dict(engine.generate([prompt]))[0], prompts))
    assert found == expected
    assert {answer.status for answer in found} == {"ok", "length"}
    assert dict(engine.generate(prompts)) == dict(enumerate(expected))  # in one call, in any order


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_a_prompt_that_the_engine_cannot_hold_is_no_answer(engine: vllm.VLLMEngine) -> None:
    longest = 500 + 16 + vllm.CHAT_FORMAT_MARGIN
    fits, too_long = (Prompt("", "", [5] * (longest - 2 + more), 2) for more in (0, 1))
    answers = dict(engine.generate([too_long, fits]))
    assert answers[0].status == "context_overflow" and f"window is {longest}" in answers[0].error
    assert answers[1].output_tokens is not None


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_a_prompt_that_vllm_will_not_take_is_that_rows_fault_alone(engine: vllm.VLLMEngine) -> None:
    answers = dict(engine.generate([Prompt("", "", [10**9], 2), asked(engine, QUESTIONS[0])]))
    assert answers[0].status == "error" and "vLLM: " in answers[0].error
    assert "Paris" in answers[1].text


@needs_vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"gpus_per_worker": 2},
            r"attention heads \(9\) must be divisible by tensor parallel size \(2\)\.\)$",
        ),
        ({"attn_implementation": "NO_SUCH"}, "NO_SUCH"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_one_sentence(
    engine: vllm.VLLMEngine, model_path: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(LVEvalError, match=f"vLLM cannot load it .*{complaint}"):
        vllm.load(options(model_path, **SHORT, **changes))


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_what_is_in_force_is_recorded(engine: vllm.VLLMEngine) -> None:
    facts = engine.resolved_settings()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["dtype"] == "float32"
    assert facts["generation"] == {
        "eos_token_id": [2], "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    }  # fmt: skip
    assert facts["chat_template"]


OTHERS = """
import json, os, sys
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
from lveval.backends import hf, vllm
from lveval.backends.base import EngineOptions, Prompt

module, path, more, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4:]
args = {"enforce_eager": True} if module == "vllm" else {}
given = EngineOptions(path, 500, dtype="float32", max_new_tokens=16, batch_size=4, args=args, **more)
engine = (vllm if module == "vllm" else hf).load(given)
prompts = [Prompt(text, text, engine.tokenizer.encode(text), 16) for text in texts]
found = dict(engine.generate(prompts))
print(json.dumps([[found[n].status, found[n].text] for n in range(len(texts))]))
"""


def others(module: str, path: Path, more: Mapping[str, object], *texts: str) -> list[list[str]]:
    """The answers of an engine in a process of its own, with these options."""
    found = script("-c", OTHERS, module, path, json.dumps(more), *texts)
    assert found.returncode == 0, found.stderr
    answers: list[list[str]] = json.loads(found.stdout.splitlines()[-1])
    return answers


@needs_vllm
@pytest.mark.parametrize("pure", [False, True])
def test_a_shipped_repetition_penalty_acts_as_in_transformers(
    model_path: Path, tmp_path: Path, pure: bool
) -> None:
    folder = tmp_path / "penalty"  # its weights are links
    shutil.copytree(model_path, folder, copy_function=os.symlink)
    path = folder / "generation_config.json"
    recorded = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(recorded | {"repetition_penalty": 1.5}))
    texts = ("red red red red red", "The days of the week are Monday, Tuesday,")
    more = {"pure_greedy": pure}
    answers = others("vllm", folder, more, *texts)
    assert answers == others("hf", folder, more, *texts)
    assert (answers == others("hf", model_path, more, *texts)) is pure


@needs_vllm
@pytest.mark.parametrize("given", ["adapter", "hf_overrides", "stop", "tokenizer"])
def test_an_option_of_the_model_acts_as_in_transformers(
    model_path: Path, tmp_path: Path, given: str
) -> None:
    words = tmp_path / "words"
    words.mkdir()
    for path in model_path.glob("tokenizer*"):
        shutil.copy(path, words)
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    values: dict[str, object] = {
        "adapter": str(adapter(model_path, tmp_path)) if given == "adapter" else "",
        "hf_overrides": {"rope_scaling": scaling},
        "stop": ["Friday"],
        "tokenizer": f"hf:{words}",
    }
    more, texts = {given: values[given]}, ("The days of the week are Monday, Tuesday,", "red " * 99)
    answers = others("vllm", model_path, more, *texts)
    assert answers == others("hf", model_path, more, *texts)
    assert (answers == others("hf", model_path, {}, *texts)) is (given == "tokenizer")


@needs_vllm
def test_a_model_without_all_its_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tiny_models.without_weights(tiny_model, tmp_path / "model", "missing")
    with pytest.raises(LVEvalError, match=f"would be random numbers: {tiny_models.LOST}"):
        vllm.load(options(folder, **SHORT))


@needs_vllm
def test_reasoning_is_closed_by_the_engines_own_limit(model_path: Path) -> None:
    more = {"thinking_budget": 5, "think_tags": [["<think>", "</think>"]]}
    texts = ("What day is it?\n<think>", "What day is it?")
    thought, plain = others("vllm", model_path, more, *texts)
    expected, same = others("hf", model_path, more, *texts)
    assert plain == same and "</think>" not in plain[1]
    # It may let a token more pass.
    ours = expected[1].partition("</think>")
    theirs = thought[1].partition("</think>")
    assert theirs[0].startswith(ours[0]) and theirs[2] and ours[2]


def adapter(model_path: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of the model with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_path)
    torch.manual_seed(1)
    model: Any = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@needs_vllm
def test_nan_logits_are_no_answer(model_path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(model_path, folder, copy_function=os.symlink)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert others("vllm", folder, {}, "one two") == [["invalid", ""]]


@needs_vllm
def test_a_fault_in_a_step_breaks_the_engine_for_all_its_rows(tiny_model: Path) -> None:
    """vLLM on a CPU has no attention for heads of 8 numbers, which shows in the first step only."""
    if vllm.settings_fingerprint(options(tiny_model))["device"] != "cpu":
        pytest.skip("a GPU may well have it")
    found = script("-c", OTHERS, "vllm", tiny_model, "{}", "one two", "three")
    assert found.returncode == 1
    assert "EngineBroken: vLLM: RuntimeError: Unsupported CPU attention" in found.stderr


@needs_vllm
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model_max_len": 2049}, "window is 2048 tokens"),
        ({"args": {"max_model_len": 99}}, "expected at least 500"),
        ({"gpus": 99}, "CUDA_VISIBLE_DEVICES names 99 GPUs"),
    ],
)
def test_what_cannot_work_is_refused_before_loading(
    tiny_model: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(LVEvalError, match=complaint):
        vllm.settings_fingerprint(options(tiny_model, **changes))


@needs_vllm
def test_the_identity_names_model_and_versions(tiny_model: Path) -> None:
    facts = vllm.settings_fingerprint(options(tiny_model, gpus_per_worker=2, batch_size=9))
    assert facts["model"] == hf.settings_fingerprint(options(tiny_model))["model"]
    assert all(str(facts[name])[0].isdigit() for name in ("version", "transformers", "torch"))
    assert facts == vllm.settings_fingerprint(
        options(tiny_model)
    )  # workers and their GPUs are no part of it


@needs_vllm
def test_a_run_is_killed_and_resumed_and_nothing_of_it_lives_on(
    model_path: Path, tmp_path: Path
) -> None:
    write_data(
        tmp_path / "data",
        "hotpotwikiqa_mixup_1k",
        [row(number=number, words=40) for number in range(24)],
    )
    common: tuple[str | Path, ...] = (
        "prediction.py", "--backend", "vllm", "--model-path", model_path, "--model-name", "v", "--dtype", "float32",
        "--model-max-len", "200", "--batch-size", "4", "--backend-args", "enforce_eager=true",
        "--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", *ECHO[4:],
    )  # fmt: skip
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    with running(*common) as process:
        wait_for_rows(tmp_path / "out/v", 3, limit=400)
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert not psutil.wait_procs(children, timeout=60)[1]
    saved = lines(tmp_path / "out/v/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert 3 <= len(saved) < 24
    resumed = script(*common, "--single-process")
    assert resumed.returncode == 0, resumed.stderr
    records = lines(tmp_path / "out/v/hotpotwikiqa_mixup_1k.jsonl")
    assert [record["index"] for record in records] == list(range(24))
    assert lines(tmp_path / "out/v/rows/hotpotwikiqa_mixup_1k.jsonl")[: len(saved)] == saved
