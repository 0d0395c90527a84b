"""The vLLM backend, GPUs dealt out to workers, and engines that compute several rows together.

What needs vLLM itself is skipped where it is not installed; its environment is described in the README.
"""

import signal
from pathlib import Path

from conftest import lines, row, script, write_data
from support.processes import running, wait_for_rows, worker_processes
from support.vllm_parts import ECHO


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
