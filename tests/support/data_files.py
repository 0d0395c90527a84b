"""What tests of data share."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lveval.common.errors import LVEvalError

ROOT = Path(__file__).resolve().parents[2]
SUBSET, LEVEL = "hotpotwikiqa_mixup", "16k"
NAME = f"{SUBSET}_{LEVEL}.jsonl"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LVEVAL_CACHE", str(folder))
    return folder


def row(**changes: object) -> dict[str, Any]:
    """A row as in a raw file; a field set to ... is left out."""
    fields: dict[str, Any] = {
        "input": "Which reef?",
        "context": "The amber reef lies off the cape. Ångström 森.",
        "answers": ["amber reef"],
        "length": 8,
        "dataset": SUBSET,
        "language": "en",
        "answer_keywords": "amber",
        "confusing_facts": ["The coral reef lies off the bay."],
        "all_classes": None,
    }
    return {name: value for name, value in (fields | changes).items() if value is not ...}


def line(**changes: object) -> bytes:
    return json.dumps(row(**changes), ensure_ascii=False).encode() + b"\n"


def folder_with(tmp_path: Path, content: bytes, name: str = NAME) -> Path:
    path = tmp_path / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return tmp_path / "data"


def refusal(load: Callable[[], object]) -> str:
    with pytest.raises(LVEvalError) as caught:
        load()
    return caught.value.message


def child(code: str, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


# Not ru_maxrss: a child starts with the peak of the process that spawned it, here pytest with its models.
PEAK = """
import re, sys
from pathlib import Path
def peak_mb(): return int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]) // 1024
"""
