"""What tests of vllm share."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from lveval.backends import vllm
from lveval.backends.base import EngineOptions
from support import processes

INSTALLED = importlib.util.find_spec("vllm") is not None
ECHO = (*processes.ECHO, "--datasets", "hotpotwikiqa_mixup")


def options(path: Path | str | None, **changes: object) -> EngineOptions:
    given: dict[str, Any] = {
        "model_path": None if path is None else str(path),
        "model_max_len": 500,
    } | changes
    return EngineOptions(**given)


SHORT = {"max_new_tokens": 16, "batch_size": 4, "dtype": "float32", "args": {"enforce_eager": True}}


@pytest.fixture(scope="module")
def engine(model_path: Path) -> vllm.VLLMEngine:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return vllm.load(options(model_path, **SHORT))
