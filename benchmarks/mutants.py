"""Small changes of the store, the run spec and the metrics: how many of them do the tests notice?

    pip install mutmut==3.8.1             # in the environment of `make setup`
    python benchmarks/mutants.py          # a quarter of an hour of two cores
    python benchmarks/mutants.py spec     # of one module

Prints killed and all mutants of each module, then each that survived as a difference. It works in a
copy of the checkout, where the package's links are files and the metrics remember nothing: mutmut
passes over functions under a decorator.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MODULES = (
    *(f"lveval/runs/{name}.py" for name in ("store", "folder", "record", "spec", "merge", "times")),
    "lveval/metrics.py",
)
TESTS = [
    f"tests/unit/test_{name}.py"
    for name in ("spec", "folder", "merge", "store", "store_faults", "times", "metrics")
]
# What looks at more than these modules, is random, or limits the process that mutmut forks.
LEFT_OUT = """
    printed cache sigkill no_model_name restarts between_0_and_1 deeper_stack importing any_text
    cannot_grow kills_in_mid blocks_of_any_size
""".split()  # noqa: SIM905 - reads as a list of words
KILLED = (1, 3)  # exit codes of pytest


def copy_checkout(copy: Path, modules: list[str]) -> None:
    """Copy what git knows, and write mutmut's settings."""
    known = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, known.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)  # of a link the file
    metrics = copy / "lveval/metrics.py"
    text = metrics.read_text(encoding="utf-8")
    metrics.write_text(re.sub(r"(?m)^@remembered\(.*\n", "", text), encoding="utf-8")
    settings = {
        "source_paths": ["lveval"],
        "only_mutate": modules,
        "also_copy": [path.name for path in copy.iterdir() if path.name not in ("lveval", "tests")],
        "pytest_add_cli_args_test_selection": TESTS,
        "pytest_add_cli_args": [
            *("-p", "no:cacheprovider", "-p", "no:xdist", "-k", f"not ({' or '.join(LEFT_OUT)})")
        ],
        "track_dependencies": False,
        "timeout_multiplier": 60,
        "timeout_constant": 20,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n".join(["", "[tool.mutmut]", *lines, ""]))


def main() -> int:
    """Try and print; 0 where at least 90 % of each module's mutants were killed."""
    named = set(sys.argv[1:])
    modules = [module for module in MODULES if not named or Path(module).stem in named]
    met = True
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_checkout(copy, modules)
        mutmut = [sys.executable, "-m", "mutmut"]
        children = str(os.cpu_count() or 1)
        subprocess.run([*mutmut, "run", "--max-children", children], cwd=copy, check=True)
        survived: list[str] = []
        for module in modules:
            told = json.loads((copy / "mutants" / f"{module}.meta").read_text(encoding="utf-8"))
            codes: dict[str, int | None] = told["exit_code_by_key"]
            killed = sum(code in KILLED for code in codes.values())
            survived += [name for name, code in codes.items() if code not in KILLED]
            met &= killed >= 0.9 * len(codes)
            print(f"{module:<30} {killed:>5} of {len(codes):>5}  {killed / len(codes):.1%}")
        for name in survived:
            print(f"\n{name}", flush=True)
            subprocess.run([*mutmut, "show", name], cwd=copy, check=True)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
