"""The vLLM backend, GPUs dealt out to workers, and engines that compute several rows together.

What needs vLLM itself is skipped where it is not installed; its environment is described in the README.
"""

import importlib.util
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import lines, row, script, write_data
from test_workers import job, running, wait_for_rows, worker_processes

from lveval.backends import BACKENDS, backend_module, echo, hf, parse_engine_args, vllm
from lveval.backends.base import Backend, EngineOptions, Generation, Prompt
from lveval.common.errors import LVEvalError
from lveval.execution import dispatch, worker
from lveval.execution.pool import gpu_groups, worker_pool
from lveval.execution.tasks import Task
from lveval.options import backend_options, check_options, option_parser

INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vLLM is not installed: it needs an environment of its own"
)
ECHO = (
    "--backend",
    "echo",
    "--model-name",
    "dry",
    "--datasets",
    "hotpotwikiqa_mixup",
    "--lengths",
    "1k",
)


def options(path: Path | str | None, **changes: object) -> EngineOptions:
    given: dict[str, Any] = {
        "model_path": None if path is None else str(path),
        "model_max_len": 500,
    } | changes
    return EngineOptions(**given)


# --- Options ----------------------------------------------------------------------------------------------------------


def test_backend_args_have_the_types_of_the_engines_arguments() -> None:
    text = "gpu_memory_utilization=0.9,enforce_eager=true,max_num_seqs=4,kv_cache_dtype=fp8,window=65536"
    assert parse_engine_args("vllm", text) == {
        "gpu_memory_utilization": 0.9,
        "enforce_eager": True,
        "max_num_seqs": 4,
        "kv_cache_dtype": "fp8",
        "window": 65536,
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed=3", "unknown --backend-args key of backend vllm"),
        ("gpu_memory_utilization=2", 'found "2", expected a fraction'),
        ("enforce_eager=1", 'found "1", expected a boolean'),
        ("max_num_seqs=many", 'found "many", expected a int'),
    ],
)
def test_a_wrong_backend_arg_is_told(text: str, complaint: str) -> None:
    with pytest.raises(LVEvalError, match=complaint):
        parse_engine_args("vllm", text)


@pytest.mark.parametrize(
    ("changes", "window", "expected"),
    [
        ({}, None, 500 + 64 + vllm.CHAT_FORMAT_MARGIN),
        ({}, 131072, 500 + 64 + vllm.CHAT_FORMAT_MARGIN),
        ({}, 800, 800),  # the window is the end of it
        ({"args": {"max_model_len": 700}}, 800, 700),
    ],
)
def test_the_engine_holds_limit_answer_and_format_within_the_window(
    changes: dict[str, object], window: int | None, expected: int
) -> None:
    assert vllm.max_model_len(options("m", budget=64, **changes), window) == expected


def test_an_engine_too_short_for_the_run_is_refused() -> None:
    with pytest.raises(LVEvalError, match="max_model_len=563: expected at least 564"):
        vllm.max_model_len(options("m", budget=64, args={"max_model_len": 563}), 800)


def test_options_become_the_engines_arguments(tiny_model: Path) -> None:
    plain = vllm.engine_arguments(
        options(tiny_model, budget=64, batch_size=16, dtype="float32"), 2048
    )
    assert plain == {
        "model": str(tiny_model),
        "dtype": "float32",
        "seed": 42,
        "trust_remote_code": False,
        "load_format": "safetensors",
        "generation_config": "auto",
        "max_model_len": 1076,
        "max_num_seqs": 16,
        "tensor_parallel_size": 1,
        "enable_prefix_caching": False,
        "use_tqdm_on_load": False,
    }
    changed = options(
        tiny_model,
        dtype="float32",
        seed=7,
        attn="FLASHINFER",
        pure_greedy=True,
        trust_remote_code=True,
        allow_pickle=True,
        gpus_per_worker=4,
        batch_size=16,
        args={"window": 9000, "max_num_seqs": 2, "enable_prefix_caching": True},
    )
    found = vllm.engine_arguments(changed, 9000)
    assert {key: found[key] for key in found if found[key] != plain.get(key)} == {
        "seed": 7,
        "attention_backend": "FLASHINFER",
        "generation_config": "vllm",
        "trust_remote_code": True,
        "load_format": "auto",
        "tensor_parallel_size": 4,
        "max_model_len": 1012,
        "max_num_seqs": 2,
        "enable_prefix_caching": True,
    }


def test_rows_in_a_batch_have_a_default_for_each_engine() -> None:
    sizes = {}
    for name in BACKENDS:
        args = option_parser().parse_args(
            ["--backend", name, "--model-name", "dry", "--model-path", "m"]
        )
        check_options(args)
        given = backend_options(args)
        sizes[name] = (args.batch_size, backend_module(name).max_concurrent_rows(given))
    assert sizes == {"hf": (1, 1), "vllm": (16, 16), "openai": (1, 1), "echo": (1, 1)}


def test_every_arg_that_decides_nothing_is_one_that_exists() -> None:
    for name in BACKENDS:
        module = backend_module(name)
        assert set(module.RUNTIME_ONLY_ARGS) <= set(module.ENGINE_ARGS), name


def test_a_gguf_file_is_left_to_transformers(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(LVEvalError, match=r"model\.gguf: .*use --backend hf"):
        vllm.load(options(tmp_path / "model.gguf"))


def test_pickled_weights_need_the_flag_as_with_hf(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(LVEvalError, match=r"pytorch_model\.bin.*--allow-pickle"):
        vllm.load(options(folder))


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed here")
def test_a_missing_package_is_one_sentence_with_the_pip_line(
    tiny_model: Path, tmp_path: Path
) -> None:
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row()])
    found = script(
        "prediction.py", "--backend", "vllm", "--model-path", tiny_model, "--data-path", tmp_path / "data",
        "--output-dir", tmp_path / "out", *ECHO[4:],
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert (
        "vllm is not installed; run: pip install vllm" in found.stderr
        and "Traceback" not in found.stderr
    )
    assert not (tmp_path / "out").exists()


# --- GPUs of a worker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "per_worker", "expected"),
    [
        ([], 1, []),
        (["0", "1", "2"], 1, ["0", "1", "2"]),
        (["0", "1", "2", "3"], 2, ["0,1", "2,3"]),
        (["0", "GPU-a", "5", "6", "7"], 2, ["0,GPU-a", "5,6"]),
        (["2", "3"], 2, ["2,3"]),
    ],
)
def test_gpus_are_dealt_out_to_workers(
    gpus: list[str], per_worker: int, expected: list[str]
) -> None:
    assert gpu_groups(gpus, per_worker) == expected


def test_a_worker_sees_all_gpus_of_its_group_and_no_other() -> None:
    groups = gpu_groups(["0", "1", "2", "3"], 2)
    with worker_pool(single_process=False, count=2, gpus=groups, max_concurrent_rows=3) as executor:
        seen = {executor.submit(_visible, number).result() for number in range(20)}
    assert seen and seen <= {"0,1", "2,3"}


def _visible(number: int) -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (("--gpus-per-worker", "0"), "--gpus-per-worker: found 0, expected at least 1"),
        (
            ("--gpus-per-worker", "2"),
            "--gpus-per-worker 2: found 0 visible GPUs, expected 2 or more",
        ),
        (("--gpus-per-worker", "2", "--single-process"), "--single-process takes all visible GPUs"),
    ],
)
def test_gpus_that_are_not_there_are_told(
    tiny_model: Path, tmp_path: Path, given: tuple[str, ...], complaint: str
) -> None:
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row()])
    found = script(
        "prediction.py", "--model-path", tiny_model, "--data-path", tmp_path / "data", "--output-dir",
        tmp_path / "out", *ECHO[4:], *given, CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert found.returncode == 2 and complaint in found.stderr and "Traceback" not in found.stderr


# --- An engine that computes rows together ----------------------------------------------------------------------------


class CountingEcho(echo.EchoBackend):
    """Echo that counts how many rows it has at a time, and holds the first row back until it is told."""

    def __init__(self, hold: str = "") -> None:
        super().__init__(0.1)
        self.hold, self.release = hold, threading.Event()
        self.now = self.most = 0
        self.lock = threading.Lock()

    def generate(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Generation]]:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        if self.hold and self.hold in prompts[0].text:
            assert self.release.wait(60)
        yield from super().generate(prompts)
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize(("max_concurrent_rows", "least", "most"), [(1, 1, 1), (4, 2, 5)])
def test_as_many_rows_as_the_engine_takes_are_in_it(
    data_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    max_concurrent_rows: int,
    least: int,
    most: int,
) -> None:
    engine = CountingEcho()
    work = replace(
        job(data_path, ["hotpotwikiqa_mixup_1k"]), max_concurrent_rows=max_concurrent_rows
    )
    monkeypatch.setattr(worker, "_loaded", ((work.backend, work.options), engine))
    tasks = [Task("hotpotwikiqa_mixup", "1k", (index % 5,)) for index in range(15)]
    with worker_pool(
        single_process=True, count=1, max_concurrent_rows=max_concurrent_rows
    ) as executor:
        assert len(list(dispatch.run_tasks(executor, work, tasks))) == 15
    assert least <= engine.most <= most


def test_a_row_that_takes_long_holds_no_other_back(
    data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CountingEcho(hold="Lighthouse 0 was")
    work = replace(job(data_path, ["hotpotwikiqa_mixup_1k"]), max_concurrent_rows=2)
    monkeypatch.setattr(worker, "_loaded", ((work.backend, work.options), engine))
    tasks = [Task("hotpotwikiqa_mixup", "1k", (index,)) for index in range(5)]
    with worker_pool(single_process=True, count=1, max_concurrent_rows=2) as executor:
        arriving = dispatch.run_tasks(executor, work, tasks)
        first = [next(arriving).task.indices[0] for _ in range(4)]
        engine.release.set()
        assert (sorted(first), [result.task.indices[0] for result in arriving]) == (
            [1, 2, 3, 4],
            [0],
        )


def test_killed_with_rows_in_the_engine_and_resumed_the_bytes_are_the_same(tmp_path: Path) -> None:
    """First a worker is killed, then the whole run; at most what was in the engine is answered again."""
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(60)]
    )
    common = ("prediction.py", *ECHO, "--data-path", tmp_path / "data")
    together = ("--backend-args", "delay=0.5,at_once=6")
    assert script(*common, "--output-dir", tmp_path / "calm", "--single-process").returncode == 0
    with running(
        *common, "--output-dir", tmp_path / "out", "--num-workers", "2", *together
    ) as process:
        wait_for_rows(tmp_path / "out/dry", 8)
        worker_processes(process.pid)[0].send_signal(signal.SIGKILL)
        wait_for_rows(tmp_path / "out/dry", 20)
        process.kill()
    saved = lines(tmp_path / "out/dry/rows/hotpotwikiqa_mixup_1k.jsonl")
    assert 20 <= len(saved) < 60
    resumed = script(
        *common,
        "--output-dir",
        tmp_path / "out",
        "--num-workers",
        "1",
        "--backend-args",
        "at_once=3",
    )
    assert resumed.returncode == 0, resumed.stderr
    name = "hotpotwikiqa_mixup_1k.jsonl"
    assert (tmp_path / "out/dry" / name).read_bytes() == (tmp_path / "calm/dry" / name).read_bytes()
    assert lines(tmp_path / "out/dry/rows" / name)[: len(saved)] == saved
    assert not (tmp_path / "out/dry/attempts.jsonl").exists()


# --- vLLM itself ------------------------------------------------------------------------------------------------------

QUESTIONS = (
    "What is the capital of France? Answer with one word.",
    "Name three colours of the rainbow.",
    "What is 2 + 2?",
    "Who wrote Hamlet? Give the name only.",
    "Translate to French: good morning.",
    "List the days of the week.",
)
SHORT = {"budget": 16, "batch_size": 4, "dtype": "float32", "args": {"enforce_eager": True}}


def asked(engine: Backend, text: str, budget: int = 16) -> Prompt:
    formatted = engine.tokenizer.apply_chat_template(text)
    return Prompt(
        text, formatted, engine.tokenizer.encode(formatted, add_special_tokens=False), budget
    )


@pytest.fixture(scope="module")
def engine(model_path: Path) -> vllm.VLLMBackend:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return vllm.load(options(model_path, **SHORT))


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_it_answers_as_transformers_does_from_many_threads(
    engine: vllm.VLLMBackend, model_path: Path
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
def test_a_prompt_that_the_engine_cannot_hold_is_no_answer(engine: vllm.VLLMBackend) -> None:
    longest = 500 + 16 + vllm.CHAT_FORMAT_MARGIN
    fits, too_long = (Prompt("", "", [5] * (longest - 2 + more), 2) for more in (0, 1))
    answers = dict(engine.generate([too_long, fits]))
    assert answers[0].status == "context_overflow" and f"window is {longest}" in answers[0].error
    assert answers[1].output_tokens is not None


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_a_prompt_that_vllm_will_not_take_is_that_rows_fault_alone(
    engine: vllm.VLLMBackend,
) -> None:
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
        ({"attn": "NO_SUCH"}, "NO_SUCH"),
    ],
)
def test_an_engine_that_cannot_be_loaded_is_one_sentence(
    engine: vllm.VLLMBackend, model_path: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(LVEvalError, match=f"vLLM cannot load it .*{complaint}"):
        vllm.load(options(model_path, **SHORT, **changes))


@needs_vllm
@pytest.mark.filterwarnings("ignore")
def test_what_is_in_force_is_recorded(engine: vllm.VLLMBackend) -> None:
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

module, path, pure, texts = sys.argv[1], sys.argv[2], sys.argv[3] == "pure", sys.argv[4:]
args = {"enforce_eager": True} if module == "vllm" else {}
given = EngineOptions(path, 500, dtype="float32", budget=16, batch_size=4, pure_greedy=pure, args=args)
engine = (vllm if module == "vllm" else hf).load(given)
prompts = [Prompt(text, text, engine.tokenizer.encode(text), 16) for text in texts]
found = dict(engine.generate(prompts))
print(json.dumps([[found[n].status, found[n].text] for n in range(len(texts))]))
"""


def others(module: str, path: Path, pure: str, *texts: str) -> list[list[str]]:
    """The answers of an engine in a process of its own."""
    found = script("-c", OTHERS, module, path, pure, *texts)
    assert found.returncode == 0, found.stderr
    answers: list[list[str]] = json.loads(found.stdout.splitlines()[-1])
    return answers


@needs_vllm
@pytest.mark.parametrize("pure", ["as-shipped", "pure"])
def test_a_shipped_repetition_penalty_acts_as_in_transformers(
    model_path: Path, tmp_path: Path, pure: str
) -> None:
    folder = tmp_path / "penalty"  # its weights are links
    shutil.copytree(model_path, folder, copy_function=os.symlink)
    path = folder / "generation_config.json"
    recorded = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(recorded | {"repetition_penalty": 1.5}))
    texts = ("red red red red red", "The days of the week are Monday, Tuesday,")
    answers = others("vllm", folder, pure, *texts)
    assert answers == others("hf", folder, pure, *texts)
    assert (answers == others("hf", model_path, pure, *texts)) is (pure == "pure")


@needs_vllm
def test_nan_logits_are_no_answer(model_path: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(model_path, folder, copy_function=os.symlink)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert others("vllm", folder, "pure", "one two") == [["invalid", ""]]


@needs_vllm
def test_a_fault_in_a_step_breaks_the_engine_for_all_its_rows(tiny_model: Path) -> None:
    """vLLM on a CPU has no attention for heads of 8 numbers, which shows in the first step only."""
    if vllm.settings_fingerprint(options(tiny_model))["device"] != "cpu":
        pytest.skip("a GPU may well have it")
    found = script("-c", OTHERS, "vllm", tiny_model, "pure", "one two", "three")
    assert found.returncode == 1
    assert "BackendBroken: vLLM: RuntimeError: Unsupported CPU attention" in found.stderr


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
    assert facts == vllm.settings_fingerprint(options(tiny_model))  # workers and their GPUs are no part of it


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
