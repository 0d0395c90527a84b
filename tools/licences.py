"""List the licence of every package that constraints.txt pins: docs/licences.md.

    python tools/licences.py            # in the environment of `make setup`

Ends with 1, and names the package, where a licence does not go with a program under MIT, or is not
known, and where the environment has a package that constraints.txt does not pin.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/licences.md"

OF_PYTHON = {"pip", "setuptools", "wheel", "lveval"}  # of a virtual environment, and ours

# What a licence's own words are called: the first line that fits.
NAMES = (
    (r"(?i:gnu affero)|\bAGPL", "AGPL"),
    (r"(?i:gnu (?:lesser|library))|\bLGPL", "LGPL"),
    (r"(?i:gnu general)|\bGPL", "GPL"),
    (r"Apache", "Apache-2.0"),
    (r"MPL|Mozilla", "MPL-2.0"),
    (r"MIT", "MIT"),
    (r"BSD|Redistribution and use in source", "BSD"),
    (r"ISC", "ISC"),
    (r"PSF|Python Software Foundation", "PSF-2.0"),
)

# Words of licences that a program under MIT may depend on.
FITS = re.compile(
    r"(?:0BSD|Apache-2\.0|BSD(?:-\d-Clause)?|BSL-1\.0|CC0-1\.0|CNRI-Python|ISC|LLVM-exception|MIT"
    r"(?:-0|-CMU)?|MPL-2\.0|PSF-2\.0|Zlib|AND|OR|WITH)"
)

HEAD = """# Licences of the packages

Made by `python tools/licences.py` of what the packages say of themselves; the harness itself is
under MIT. Each goes with that: none is under the GPL or AGPL. "Running" are the packages that
requirements.txt needs, with what they need; the others serve tests, checks and the demo.

| package | version | licence | for |
|---|---|---|---|
"""


def pinned(text: str) -> dict[str, str]:
    """Return name -> version, of the lines of constraints.txt."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {str(canonicalize_name(name)): version for name, version in pairs}


def licence(package: Distribution) -> str:
    """Name a package's licence, by its metadata, or else by its licence file; "" for none known."""
    said = package.metadata
    if expressions := said.get_all("License-Expression"):
        return str(expressions[0])
    classes = [each for each in said.get_all("Classifier") or [] if each.startswith("License ::")]
    texts = [*classes, *(said.get_all("License") or []), *_files(package)]
    return next((name for text in texts for words, name in NAMES if re.search(words, text)), "")


def _files(package: Distribution) -> Iterator[str]:
    for path in package.files or ():
        if re.match(r"(licen[cs]e|copying)", path.name, re.I):
            yield path.read_text()[:2000]


def fits(name: str) -> bool:
    """Whether a program under MIT may depend on what has this licence."""
    words = re.split(r"[\s()]+", name)
    return bool(name) and all(FITS.fullmatch(word) for word in words if word)


def needed(requirements: str, installed: Mapping[str, Distribution]) -> set[str]:
    """Return the packages that requirements.txt names, and all that these need here."""
    waiting = [Requirement(line.partition("#")[0]) for line in _named(requirements)]
    found: set[str] = set()
    while waiting:
        asked = waiting.pop()
        name = str(canonicalize_name(asked.name))
        if name in found or name not in installed:
            continue
        found.add(name)
        for line in installed[name].requires or ():
            inner = Requirement(line)
            extras = asked.extras or {""}
            if not inner.marker or any(inner.marker.evaluate({"extra": each}) for each in extras):
                waiting.append(inner)
    return found


def _named(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.strip() and not line.startswith(("#", "-")):
            yield line


def main() -> int:
    """Write the page; return how the process ends."""
    installed = {str(canonicalize_name(each.metadata["Name"])): each for each in distributions()}
    versions = pinned((ROOT / "constraints.txt").read_text())
    running = needed((ROOT / "requirements.txt").read_text(), installed)
    problems = [
        f"{name}: not in constraints.txt" for name in {*installed} - {*versions} - OF_PYTHON
    ]
    lines = []
    for name, version in sorted(versions.items()):
        if name not in installed or installed[name].version.partition("+")[0] != version:
            problems.append(f"{name}: {version} is not installed")
            continue
        found = licence(installed[name])
        if not fits(found):
            problems.append(f'{name}: found the licence "{found}"; expected one that goes with MIT')
        use = "running" if name in running else "tests"
        lines.append(f"| {name} | {version} | {found} | {use} |\n")
    if problems:
        print(*sorted(problems), sep="\n", file=sys.stderr)
        return 1
    PAGE.write_text(HEAD + "".join(lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
