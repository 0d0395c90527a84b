"""The README: its commands run, what it names is there, and the Chinese one says the same."""

import re
import shlex
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from conftest import ROOT

README = ROOT / "README.md"
README_ZH = ROOT / "README_ZH.md"


# --- The README is executed -------------------------------------------------------------------------------------------


def test_the_paths_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    tree = re.search(r"```text\n(.*?)```", text, re.S)
    assert tree is not None
    named = [line.split()[0] for line in tree[1].splitlines() if line and not line.startswith(" ")]
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh")):
        assert path.name in named, f"{path.name} is missing from the README's tree"


def test_the_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make ([a-z-]+)`?", README.read_text(encoding="utf-8")))
    assert named <= targets, named - targets
    assert {"setup", "demo", "test", "test-all", "check", "bench"} <= targets


def marked_blocks(path: Path) -> list[str]:
    return re.findall(r"<!-- run -->\n```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.S)


MANUALS = [path for path in sorted((ROOT / "docs").glob("*.md")) if marked_blocks(path)]


@pytest.mark.parametrize("path", [README, *MANUALS], ids=lambda path: path.name)
def test_the_readmes_marked_blocks_run(path: Path, tmp_path: Path) -> None:
    blocks = marked_blocks(path)
    assert blocks
    for name in ("lveval", *(path.name for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh")))):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in blocks:
        code = f'set -eu\npython() {{ {sys.executable} "$@"; }}\n{block}'
        found = subprocess.run(
            ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, f"{block}\n{found.stderr}"


ALL_MANUALS = (README, README_ZH, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))


@pytest.mark.parametrize("path", ALL_MANUALS, ids=lambda path: path.name)
def test_each_command_is_run_here_or_says_what_it_needs(path: Path) -> None:
    before = re.findall(r"^(.*)\n```bash$", path.read_text(encoding="utf-8"), re.M)
    assert not [line for line in before if not re.fullmatch(r"<!-- (run|needs: .+) -->", line)]


def options_of(command: str) -> set[str]:
    """The options that a command's help names."""
    words = [sys.executable, "-m", "lveval", command]
    more = ["--help-all"] if command == "predict" else ["--help"]
    found = subprocess.run([*words, *more], cwd=ROOT, capture_output=True, text=True, check=True)
    return {"--config", "--formats", *re.findall(r"--[a-z][a-z0-9-]*", found.stdout)}


def test_the_options_that_the_manuals_name_are_those_of_their_command() -> None:
    spellings = {"python prediction.py": "predict", "python evaluation.py": "evaluate"}
    spellings |= {f"bash batch_eval_{how}.sh": "predict" for how in ("multiple", "single")}
    spellings |= {"bash batch_eval_gpt_single.sh": "predict"}
    for command in ("report", "export", "construct"):
        spellings |= {f"python -m lveval {command}": command}
    known = {command: options_of(command) for command in set(spellings.values())}
    seen = set()
    for path in ALL_MANUALS:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for spelling, command in spellings.items():
                    if line.startswith(f"{spelling} "):
                        words = shlex.split(line, comments=True)
                        named = {word.partition("=")[0] for word in words if word.startswith("--")}
                        assert named <= known[command], (path.name, line, named - known[command])
                        seen.add(command)
    assert seen == set(known)


# --- The Chinese README says the same ---------------------------------------------------------------------------------


def parts(path: Path) -> tuple[list[str], list[str], set[str]]:
    """(fenced code blocks, headings, inline code) of a Markdown file."""
    block = re.compile(r"^```.*?^```$", re.S | re.M)
    text = path.read_text(encoding="utf-8")
    prose = block.sub("", text)  # the comments in a shell block look like headings
    headings = re.findall(r"^#+ .+$", prose, re.M)
    # A span may be wrapped: its line break is a space to who reads it.
    return (
        block.findall(text),
        headings,
        {" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)},
    )


def test_the_chinese_readme_has_the_same_code_and_headings() -> None:
    blocks, headings, spans = parts(README)
    blocks_zh, headings_zh, spans_zh = parts(README_ZH)
    assert blocks and headings and spans
    for number, (ours, theirs) in enumerate(zip_longest(blocks, blocks_zh), 1):
        assert ours == theirs, (
            f"code block {number}: README.md has\n{ours}\nREADME_ZH.md has\n{theirs}"
        )
    for ours, theirs in zip_longest(headings, headings_zh, fillvalue="(none)"):
        depths = [len(heading) - len(heading.lstrip("#")) for heading in (ours, theirs)]
        assert depths[0] == depths[1], (
            f'heading: README.md has "{ours}", README_ZH.md has "{theirs}"'
        )
    assert not spans - spans_zh, (
        f"inline code missing from README_ZH.md: {sorted(spans - spans_zh)}"
    )
    assert not spans_zh - spans, f"inline code that README.md has not: {sorted(spans_zh - spans)}"
