"""The house itself: light imports, small modules, documentation that is true."""

import ast
import re
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from conftest import ROOT, script

MODULES = sorted(
    path
    for folder in (".", "analysis", "backends", "report_page", "samples")
    for path in (ROOT / folder).glob("*.py")
)
SCRIPTS = ("prediction.py", "evaluation.py", "report.py", "construct.py")
HEAVY = (
    "torch", "transformers", "datasets", "vllm", "openai", "distributed", "pandas", "numpy", "jieba", "pyarrow",
    "jinja2", "matplotlib",
)  # fmt: skip
README = ROOT / "README.md"
README_ZH = ROOT / "README_ZH.md"


def test_importing_what_users_edit_loads_nothing_heavy() -> None:
    imports = (
        "import config, counts, data, errors, files, metrics, preflight, scoring, spending, store, utils, backends, "
        "workers, sys"
    )
    code = f"{imports}; print([name for name in {HEAVY} if name in sys.modules])"
    assert script("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import sys, runpy; sys.argv = ['{name}', '--help']\n"
        f"try: runpy.run_path('{name}', run_name='__main__')\n"
        f"except SystemExit: print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    )
    found = script("-c", code)
    assert found.stderr.strip().endswith("[]"), found.stderr
    assert "usage" in found.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500
    assert ast.get_docstring(ast.parse(source)), "no module docstring"


def test_every_public_function_is_typed_and_told() -> None:
    for path in MODULES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        classes = [
            node
            for node in body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        for node in (*body, *(inner for outer in classes for inner in outer.body)):
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                assert node.returns is not None, f"{path.name}:{node.lineno}"
                assert ast.get_docstring(node), (
                    f"{path.name}:{node.lineno}: {node.name} has no docstring"
                )


def test_nothing_evaluates_pickles_or_shells() -> None:
    banned = re.compile(
        r"(?<![.\w])(eval|exec)\(|import pickle|shell=True|os\.system|mock\.patch|__import__\("
    )
    for path in MODULES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not banned.search(line), f"{path.name}:{number}: {line}"
    for path in ROOT.glob("*.sh"):
        assert not re.search(
            r"\beval\b", re.sub(r"batch_eval|^#.*", "", path.read_text(), flags=re.M)
        ), path.name


def test_pinned_what_moves_scores_and_a_reason_on_each_line() -> None:
    required = (ROOT / "requirements.txt").read_text()
    assert "jieba==0.42.1" in required and "rouge==1.0.1" in required
    for line in required.splitlines():
        assert re.search(r"\S\s+# \S", line) or line.startswith("#"), line
    constraints = (ROOT / "constraints.txt").read_text()
    assert "\ntorch==2.13.0\n" in constraints
    assert all("==" in line for line in constraints.splitlines() if not line.startswith("#"))


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
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make ([a-z]+)`?", README.read_text(encoding="utf-8")))
    assert named <= targets, named - targets
    assert {"setup", "demo", "test", "check", "bench"} <= targets


def test_the_readmes_marked_blocks_run(tmp_path: Path) -> None:
    blocks = re.findall(
        r"<!-- run -->\n```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.S
    )
    assert blocks
    for name in (
        "analysis",
        "backends",
        "report_page",
        "samples",
        "leaderboard",
        *(path.name for path in (*ROOT.glob("*.py"), *ROOT.glob("*.sh"))),
    ):
        (tmp_path / name).symlink_to(ROOT / name)
    for block in blocks:
        code = f'set -eu\npython() {{ {sys.executable} "$@"; }}\n{block}'
        found = subprocess.run(
            ["bash", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
        )
        assert found.returncode == 0, f"{block}\n{found.stderr}"


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
