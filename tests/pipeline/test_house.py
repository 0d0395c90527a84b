"""The house: five modules at the front, families behind them, and imports that go one way."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import ROOT, script

FRONT = ("config", "evaluation", "metrics", "prediction", "utils")
PACKAGE = ROOT / "lveval"
LIGHT = "from lveval import config, metrics, options, prediction, results, utils"
HEAVY = (
    "torch", "transformers", "datasets", "vllm", "openai", "distributed", "pandas", "numpy", "jieba",
    "pyarrow", "jinja2", "matplotlib",
)  # fmt: skip
MODULES = sorted(
    path for path in (*ROOT.glob("*.py"), *PACKAGE.rglob("*.py")) if not path.is_symlink()
)


def room(module: str) -> str:
    """`lveval.data.rows` -> data: a family, or a module beside the families."""
    return module.split(".")[1]


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules and names of the package that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "lveval":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("lveval."))


def arrows() -> dict[str, set[str]]:
    """Room -> the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for path in MODULES:
        inside = path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT)
        here = inside.with_suffix("").parts[0]
        if here in ("__init__", "__main__"):  # the package's face, which stands above or below all
            continue
        targets = {room(name) for name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        found.setdefault(here, set()).update(targets - {here, "__version__"})
    return found


def layers() -> list[set[str]]:
    """The layers that docs/architecture.md shows, the ground first."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```layers\n(.*?)```", text, re.S)
    assert block is not None, "docs/architecture.md has no block of layers"
    return [set(line.split()) for line in reversed(block[1].splitlines())]


def turned_round(imports: Mapping[str, set[str]], floors: list[set[str]]) -> list[str]:
    """The imports that do not lead down."""
    floor = {name: number for number, names in enumerate(floors) for name in names}
    return [
        f"{here} -> {there}"
        for here, targets in imports.items()
        for there in targets
        if floor[there] >= floor[here]
    ]


def test_the_front_is_five_modules() -> None:
    assert sorted(path.stem for path in ROOT.glob("*.py")) == sorted(FRONT)


def test_imports_lead_down_the_layers_of_the_architecture() -> None:
    found, floors = arrows(), layers()
    assert set(found) == set().union(*floors)
    assert len(floors) <= 8
    assert turned_round(found, floors) == []


@pytest.mark.parametrize(
    ("here", "there"), [("metrics", "config"), ("backends", "execution"), ("data", "prediction")]
)
def test_an_import_that_is_turned_round_is_seen(here: str, there: str) -> None:
    changed = {**arrows(), here: {*arrows()[here], there}}
    assert turned_round(changed, layers()) == [f"{here} -> {there}"]


def test_no_general_module_names_an_engine() -> None:
    engines = {path.stem for path in (PACKAGE / "backends").glob("*.py")} | {"openai"}
    engines -= {"__init__", "base"}
    for path in MODULES:
        if path.is_relative_to(PACKAGE / "backends"):
            continue
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            parts = name.split(".")
            assert parts[1:2] != ["backends"] or not engines & set(parts[2:]), f"{path}: {name}"


def test_the_front_is_part_of_the_package_once() -> None:
    """A bare `import config` would make a second module, with tables of its own."""
    for name in FRONT:
        assert (PACKAGE / f"{name}.py").resolve() == ROOT / f"{name}.py"
    bare = re.compile(rf"^\s*(import|from) ({'|'.join(FRONT)})\b", re.M)
    for path in (*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        if path != Path(__file__):
            assert not bare.search(path.read_text(encoding="utf-8")), path


def test_importing_what_users_use_loads_nothing_heavy() -> None:
    code = f"{LIGHT}; import sys; print([name for name in {HEAVY} if name in sys.modules])"
    found = script("-c", code)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_stays_small_and_says_what_it_is(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 600
    if path.name != "__init__.py" or source:
        assert ast.get_docstring(ast.parse(source)), "no module docstring"


@pytest.mark.parametrize(
    "words",
    [
        ("prediction.py",),
        ("evaluation.py",),
        ("report",),
        ("construct",),
        ("plan",),
        ("export",),
        ("verify",),
    ],
)
def test_help_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    run = f"runpy.run_path({words[0]!r}, run_name='__main__')"
    if not words[0].endswith(".py"):
        run = f"cli.main([{words[0]!r}, '--help'])"
    code = (
        f"import sys, runpy; from lveval import cli; sys.argv = ['x', '--help']\n"
        f"try: {run}\n"
        f"except SystemExit: print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    )
    found = script("-c", code)
    assert found.stderr.strip().endswith("[]"), found.stderr
    assert "usage" in found.stdout


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
