"""The package: what its wheel holds, and that its extras and requirements.txt say the same."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, row, write_data

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (made,) = folder.glob("lveval-*.whl")
    return made


def test_the_wheel_holds_the_package_alone_with_the_front_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lveval"}
    for name in ("config", "utils", "metrics", "prediction", "evaluation"):
        held = zipfile.ZipFile(wheel).read(f"lveval/{name}.py")
        assert held == (ROOT / f"{name}.py").read_bytes(), name
    for name in ("report/page.html", "report/published/published.csv"):
        assert f"lveval/{name}" in names
    assert any(name.startswith("lveval/construct/samples/") for name in names)


USE = """
import sys
from pathlib import Path

import lveval
from lveval import evaluate, predict

assert Path(lveval.__file__).is_relative_to(sys.argv[1]), lveval.__file__
folder = predict(
    backend="echo",
    model_name="dry",
    data_path="data",
    datasets=["my_qa"],
    lengths=["1k"],
    single_process=True,
)
found = evaluate(folder)
print(folder, found.scores(), len(found.to_frame()))
"""


def test_an_installed_copy_is_a_library_in_any_folder(wheel: Path, tmp_path: Path) -> None:
    pip("install", "-q", "--no-deps", "--target", tmp_path / "site", wheel)
    write_data(tmp_path / "data", "my_qa_1k", [row() | {"dataset": "my_qa"}])
    (tmp_path / "data/subset.toml").write_text(
        '[my_qa]\nlanguage = "en"\nmetric = "qa_f1_score"\nmax_new_tokens = 9\n'
        'prompt = "{context} {input}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "site")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("outputs/dry {('my_qa', '1k'): ") and done.stdout.endswith("1\n")


def test_requirements_txt_is_the_whole_of_the_extras() -> None:
    extras = PROJECT["optional-dependencies"]
    wanted = {*PROJECT["dependencies"]}
    for name in ("hf", "openai", "cluster", "plots"):
        wanted |= set(extras[name])
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    required = {line.split("#")[0].strip() for line in text.splitlines()} - {""}
    assert wanted <= required, wanted - required
    # Tests hold ROUGE-L to the package.
    assert {re.split("[=<>]", word)[0] for word in required - wanted} == {"rouge"}
