"""The package: what its wheel holds, and that its extras and requirements.txt say the same."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_wheel_holds_the_package_alone_with_the_front_in_it(tmp_path: Path) -> None:
    build = ("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    made = subprocess.run(
        [sys.executable, *map(str, build)], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("lveval-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lveval"}
    for name in ("config", "utils", "metrics", "prediction", "evaluation"):
        held = zipfile.ZipFile(wheel).read(f"lveval/{name}.py")
        assert held == (ROOT / f"{name}.py").read_bytes(), name
    for name in ("report/page.html", "report/published/published.csv"):
        assert f"lveval/{name}" in names
    assert any(name.startswith("lveval/construct/samples/") for name in names)


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
