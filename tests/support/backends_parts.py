"""What tests of backends share."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from lveval.backends import hf
from lveval.backends.base import Engine, EngineOptions, Generation, Prompt


def options(path: Path | str | None, **changes: object) -> EngineOptions:
    given: dict[str, Any] = {
        "model_path": None if path is None else str(path),
        "model_max_len": 500,
    } | changes
    return EngineOptions(**given)


def prompt(engine: Engine, text: str, budget: int = 8, native_chat: bool = False) -> Prompt:
    return Prompt(text, text, engine.tokenizer.encode(text), budget, native_chat)


def ask(engine: Engine, text: str, budget: int = 8, native_chat: bool = False) -> Generation:
    ((position, answer),) = engine.generate([prompt(engine, text, budget, native_chat)])
    assert position == 0
    return answer


@pytest.fixture(scope="module")
def smollm2(model_path: Path) -> hf.HFEngine:
    return hf.load(options(model_path))


def shipped(folder: Path, target: Path, **settings: object) -> Path:
    """A copy of a model folder that ships other generation settings; its weights are linked."""
    shutil.copytree(folder, target, copy_function=os.link)
    path = target / "generation_config.json"
    recorded = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps(recorded | settings))
    return target
