"""The vLLM backend, GPUs dealt out to workers, and engines that compute several rows together.

What needs vLLM itself is skipped where it is not installed; its environment is described in the README.
"""

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import row, script, write_data
from support.processes import job
from support.vllm_parts import ECHO, INSTALLED, options

from lveval.backends import BACKENDS, backend_module, echo, parse_engine_args, vllm
from lveval.backends.base import Generation, Prompt
from lveval.common.errors import LVEvalError
from lveval.execution import dispatch, worker
from lveval.execution.pool import gpu_groups, worker_pool
from lveval.execution.tasks import Task
from lveval.options import RunOptions

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
    assert vllm.max_model_len(options("m", max_new_tokens=64, **changes), window) == expected


def test_an_engine_too_short_for_the_run_is_refused() -> None:
    with pytest.raises(LVEvalError, match="max_model_len=563: expected at least 564"):
        vllm.max_model_len(options("m", max_new_tokens=64, args={"max_model_len": 563}), 800)


def test_options_become_the_engines_arguments(tiny_model: Path) -> None:
    plain = vllm.engine_arguments(
        options(tiny_model, max_new_tokens=64, batch_size=16, dtype="float32"), 2048
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
        attn_implementation="FLASHINFER",
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
        given = RunOptions.parse(["--backend", name, "--model-name", "dry", "--model-path", "m"])
        rows = backend_module(name).max_concurrent_rows(given.engine_options())
        sizes[name] = (given.batch_size, rows)
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


class CountingEcho(echo.EchoEngine):
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
