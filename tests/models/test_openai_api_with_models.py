"""The OpenAI backend against a real server on 127.0.0.1 that fails on demand, and against a real served model."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import lines, row, script, write_data
from support.service import FILE, NAME, Served, environment, predict, records, server

__all__ = ["environment", "server"]  # fixtures

# --- A real model, really served --------------------------------------------------------------------------------------


def test_a_served_model_answers_as_the_hf_backend_does(model_path: Path, tmp_path: Path) -> None:
    """`transformers serve` with the embedded model: the chat endpoint, its answers those of the same prompts here."""
    write_data(tmp_path / "data", FILE, [row(number=number, words=40) for number in range(3)])
    port = free_port()
    serve = [
        str(Path(sys.executable).with_name("transformers")),
        "serve",
        str(model_path),
        "--device",
        "cpu",
    ]
    serve += ["--dtype", "float32", "--port", str(port), "--host", "127.0.0.1"]
    cache = {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "hf/hub").mkdir(parents=True)
    with subprocess.Popen(
        serve, env={**os.environ, **cache}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            server = Served(f"http://127.0.0.1:{port}")
            wait_until_healthy(server, process)
            options = (
                "--model-path",
                str(model_path),
                "--tokenizer",
                f"hf:{model_path}",
                "--model-max-len",
                "300",
            )
            found = predict(server, tmp_path, *options, "--backend-args", "timeout=300")
            assert found.returncode == 0, found.stderr
        finally:
            process.kill()
    manifest = json.loads((tmp_path / "out" / NAME / "run.json").read_text())
    assert manifest["identity"]["effective"]["served_model"].startswith(str(model_path))
    local = script(
        "prediction.py", "--model-path", model_path, "--model-name", "local", "--data-path", tmp_path / "data",
        "--output-dir", tmp_path / "out", "--datasets", FILE.removesuffix("_1k"), "--lengths", "1k",
        "--single-process", "--model-max-len", "300",
    )  # fmt: skip
    assert local.returncode == 0, local.stderr
    here = lines(tmp_path / "out/local" / f"{FILE}.jsonl")
    assert [record["pred"] for record in records(tmp_path)] == [record["pred"] for record in here]
    assert all(record["status"] in ("ok", "length") for record in here)


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(server: Served, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"`transformers serve` does not answer (exit {process.poll()})")
