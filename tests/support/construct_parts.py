"""What tests of construct share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lveval.construct.synthetic import synthetic_articles

ROOT = Path(__file__).resolve().parents[2]
SUBSETS = {"en": "hotpotwikiqa_mixup", "zh": "lic_mixup"}
ENGLISH: list[dict[str, Any]] = [
    {
        "question_id": "river",
        "language": "en",
        "question": "Which river flows through the town where Ann Lee was born?",
        "answers": ["The Seine", "Seine"],
        "answer_keywords": "Seine",
        "documents": [
            "Ann Lee was born in Paris. Annual fairs are held there.",
            "The Seine flows through Paris.",
        ],
        "confusing_facts": [
            "The Rhone flows through Lyon.",
            "Joan Lee was born in Parisville.",
            "Ann likes Lyon.",
        ],
        "replacements": [
            ["Paris", "Velm"],
            ["Seine", "Orlune"],
            ["Ann", "Bea"],
            ["Ann Lee", "Cora Ott"],
        ],
    },
    {
        "question_id": "open",
        "language": "en",
        "question": "Is the mill open?",
        "answers": ["Yes"],
        "documents": ["The mill of the village is open every day except when it rains. " * 20],
    },
]
CHINESE: list[dict[str, Any]] = [
    {
        "question_id": "城",
        "language": "zh",
        "question": "长江流经的大城市叫什么？",
        "answers": ["武汉"],
        "answer_keywords": None,
        "documents": ["长江流经武汉。武汉市是一座大城市。", "“武汉”有三镇。"],
        "confusing_facts": ["黄河流经兰州。", "长江边也有小城。"],
        "replacements": [["长江", "洛江"], ["武汉", "图城"], ["武汉市", "北城市"]],
    },
    {
        "question_id": "数",
        "language": "zh",
        "question": "有几座桥？",
        "answers": ["3"],
        "documents": ["村里有3座桥。"],
    },
]


def write_sources(folder: Path, **sources: list[Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for subset, rows in (sources or {SUBSETS["en"]: ENGLISH, SUBSETS["zh"]: CHINESE}).items():
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{subset}.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*/*")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few made-up articles: the whole pool takes long to search for each question."""
    folder = tmp_path_factory.mktemp("articles")
    for language in ("en", "zh"):
        made = synthetic_articles(language, 42, 6000)
        lines = (json.dumps({"text": article.text}) for article in made)
        (folder / f"{language}.jsonl").write_text("\n".join(lines))
    return folder


# --- Repeatable -------------------------------------------------------------------------------------------------------


def script(folder: Path, sources: Path, *arguments: str, hash_seed: str = "0", **how: Any) -> int:  # noqa: ANN401
    command = [
        sys.executable,
        "-m",
        "lveval",
        "construct",
        "--output-dir",
        str(folder),
        "--sources",
        str(sources),
    ]
    return subprocess.run(
        [*command, *arguments], env={**os.environ, "PYTHONHASHSEED": hash_seed}, **how
    ).returncode
