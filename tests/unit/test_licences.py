"""docs/licences.md is of the pinned packages, and each goes with MIT."""

import re
from importlib.metadata import Distribution
from pathlib import Path

import pytest
from conftest import ROOT

from tools.licences import PAGE, fits, licence, needed, pinned

LINE = re.compile(
    r"\| (?P<name>[\w.-]+) \| (?P<version>\S+) \| (?P<licence>.+) \| (running|tests) \|"
)


def test_the_page_is_of_what_is_pinned() -> None:
    lines = [match for line in PAGE.read_text().splitlines() if (match := LINE.fullmatch(line))]
    versions = pinned((ROOT / "constraints.txt").read_text())
    found = {line["name"]: line["version"] for line in lines if line["name"] != "package"}
    assert found == versions, "run: python tools/licences.py"
    assert len(versions) > 100
    assert not [
        line["name"] for line in lines if line["name"] != "package" and not fits(line["licence"])
    ]


def package(folder: Path, metadata: str, text: str = "") -> Distribution:
    place = folder / "odd-1.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: odd\nVersion: 1\n{metadata}\n")
    (place / "LICENSE").write_text(text)
    (place / "RECORD").write_text("odd-1.dist-info/LICENSE,,\n")
    return Distribution.at(place)


@pytest.mark.parametrize(
    ("metadata", "text", "name", "goes"),
    [
        ("License-Expression: MIT", "", "MIT", True),
        ("License-Expression: MIT AND GPL-3.0-only", "", "MIT AND GPL-3.0-only", False),
        ("Classifier: License :: OSI Approved :: MIT License", "", "MIT", True),
        ("License: GNU General Public License v3", "", "GPL", False),
        ("License: GPLv3", "", "GPL", False),
        (
            "Classifier: License :: OSI Approved :: GNU Affero General Public License v3",
            "",
            "AGPL",
            False,
        ),
        ("License: LICENCE.txt", "Apache License\nVersion 2.0", "Apache-2.0", True),
        ("", "GNU GENERAL PUBLIC LICENSE\nVersion 3", "GPL", False),
        ("", "All rights reserved.", "", False),
        ("", "", "", False),
    ],
)
def test_a_licence_is_read_and_judged(
    tmp_path: Path, metadata: str, text: str, name: str, goes: bool
) -> None:
    found = licence(package(tmp_path, metadata, text))
    assert fits(found) is goes
    assert not name or found == name


def test_what_the_needed_ones_need_is_needed(tmp_path: Path) -> None:
    installed = {
        "odd": package(
            tmp_path / "a", 'Requires-Dist: inner>=1\nRequires-Dist: more; extra == "x"'
        ),
        "inner": package(tmp_path / "b", ""),
        "more": package(tmp_path / "c", ""),
        "other": package(tmp_path / "d", ""),
    }
    assert needed("# a comment\nodd>=1  # why\n", installed) == {"odd", "inner"}
    assert needed("odd[x]\n", installed) == {"odd", "inner", "more"}
