"""Engines of one's own: a file, or an entry point of an installed package. Run as a user runs them."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, in_process, row, script, write_data

from lveval.backends import backend_module, parse_engine_args, pinned_backend
from lveval.backends.base import EngineOptions
from lveval.backends.user_files import run_file
from lveval.common.errors import UsageError

SELECTION = ("--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "2k")
COMMAND = ("--backend-args", "command=tail -n 2")

# The least engine, its answer and what it does on import to be filled in.
LEAST = """
from lveval.backends.base import Engine, Generation
from lveval.backends.echo import EchoTokenizer

class Least(Engine):
    tokenizer = EchoTokenizer()

    def generate(self, prompts):
        for position, prompt in enumerate(prompts):
            yield position, Generation("ANSWER", "ok")

def settings_fingerprint(options): return {}
def tokenizer(options): return EchoTokenizer()
def load(options): return Least()
"""


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """The engine that docs/plugins.md shows, to the letter."""
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    match = re.search(r'```python\n("""my_engine\.py: .*?)```', text, re.S)
    assert match is not None
    path = tmp_path / "my_engine.py"
    path.write_text(match[1])
    return path


def words(
    backend: Path | str, data_path: Path, output: Path, *options: str
) -> tuple[str | Path, ...]:
    model = ("--backend", backend, "--model-name", "mine", "--model-max-len", "5000")
    return (*model, "--data-path", data_path, "--output-dir", output, *SELECTION, *options)


def predict(
    backend: Path | str, data_path: Path, output: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    options = (*COMMAND, *options, "--single-process")
    return in_process("prediction.py", *words(backend, data_path, output, *options))


def answers(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / "mine").glob("*.jsonl"))}


def identity(output: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((output / "mine/run.json").read_text())["identity"]
    return found


def refused(path: Path | str) -> str:
    with pytest.raises(UsageError) as found:
        backend_module(str(path))
    return found.value.message


# --- A file -----------------------------------------------------------------------------------------------------------


def test_the_engine_of_the_manual_answers_and_resumes_byte_for_byte(
    engine: Path, data_path: Path, tmp_path: Path
) -> None:
    found = predict(engine, data_path, tmp_path / "whole")
    assert found.returncode == 0, found.stderr
    whole = answers(tmp_path / "whole")
    record = json.loads(whole["hotpotwikiqa_mixup_1k.jsonl"].splitlines()[0])
    assert "When was lighthouse 0 built?" in record["pred"] and record["status"] == "ok"
    spec = identity(tmp_path / "whole")
    assert spec["backend"] == "my_engine.py"
    assert spec["given"] == {"backend_file": pinned_backend(str(engine)).rpartition("@")[2]}
    assert spec["backend_args"] == {"command": ["tail", "-n", "2"]}
    # Cut short, moved and renamed, it goes on to the same bytes.
    assert predict(engine, data_path, tmp_path / "parts", "--limit", "2").returncode == 0
    (tmp_path / "else where@2").mkdir()
    for name in ("my_engine.py", "renamed.py"):
        engine = Path(shutil.move(engine, tmp_path / "else where@2" / name))
        found = predict(engine, data_path, tmp_path / "parts")
        assert found.returncode == 0, found.stderr
    assert answers(tmp_path / "parts") == whole
    # Another content is refused, and so is a built-in engine.
    engine.write_text(engine.read_text() + "\n")
    found = predict(engine, data_path, tmp_path / "parts")
    assert found.returncode == 4 and "given.backend_file: recorded" in found.stderr
    found = in_process("prediction.py", *words("echo", data_path, tmp_path / "parts"))
    assert found.returncode == 4 and 'backend: recorded "my_engine.py"' in found.stderr
    assert answers(tmp_path / "parts") == whole


def test_worker_processes_answer_as_one_process_does(
    engine: Path, data_path: Path, tmp_path: Path
) -> None:
    assert predict(engine, data_path, tmp_path / "one").returncode == 0
    relative = os.path.relpath(engine, ROOT)
    options = words(relative, data_path, tmp_path / "two", *COMMAND, "--num-workers", "2")
    found = script("prediction.py", *options)
    assert found.returncode == 0, found.stderr
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert identity(tmp_path / "two") == identity(tmp_path / "one")


def test_a_worker_refuses_a_file_that_has_changed(tmp_path: Path, data_path: Path) -> None:
    path = tmp_path / "engine.py"
    path.write_text(LEAST + "with open(__file__, 'a') as file: file.write('# another version')\n")
    options = words(path, data_path, tmp_path / "out", "--num-workers", "1")
    found = script("prediction.py", *options)
    assert found.returncode == 2, found.stderr
    assert f"error: --backend {path}: the file has changed since the run began" in found.stderr
    assert not answers(tmp_path / "out")


def test_a_failed_command_is_no_answer(engine: Path, data_path: Path, tmp_path: Path) -> None:
    failing = ("--backend-args", "command=tail --no-such-option")
    found = predict(engine, data_path, tmp_path / "out", *failing, "--limit", "1")
    assert found.returncode != 0 and "no-such-option" in found.stderr
    assert not answers(tmp_path / "out").keys() & {"hotpotwikiqa_mixup_1k.jsonl"}


def test_plan_and_check_work_with_a_file(engine: Path, data_path: Path, tmp_path: Path) -> None:
    # From 16k on rows are counted by processes, which load the file too.
    write_data(data_path, "hotpotwikiqa_mixup_16k", [row(number=number) for number in range(3)])
    plan = ("--plan", "exact", "--lengths", "16k", "--allow-unverified-data")
    found = predict(engine, data_path, tmp_path, *plan)
    assert found.returncode == 0 and "all 3 rows were counted" in found.stdout, found.stderr
    assert not answers(tmp_path)
    found = predict(engine, data_path, tmp_path, "--check")
    assert "prompt: whole, from" in found.stdout and "read back: nothing" in found.stdout


def test_a_process_refuses_a_file_that_has_changed_and_runs_what_was_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # what Python compiles may be kept
    path = tmp_path / "engine.py"

    def answer(text: str) -> str:
        path.write_text(LEAST.replace("ANSWER", text))
        os.utime(path, (0, 0))  # as within one tick of the clock
        ((_, found),) = run_file("here", path, path.read_bytes()).load(None).generate(["prompt"])
        return str(found.text)

    assert answer("one") == "one"
    first = pinned_backend(str(path))
    assert pinned_backend(first) == first
    assert answer("two") == "two"
    assert refused(first).endswith("engine.py: the file has changed since the run began")


def test_classes_of_a_file_are_found_by_their_module(tmp_path: Path) -> None:
    """Dataclasses whose annotations are text look there, and so does pickle."""
    path = tmp_path / "echo.py"
    settings = "@dataclass\nclass Settings:\n    KIND: ClassVar[int] = 1\n    value: int\n"
    imports = "from dataclasses import dataclass\nfrom typing import ClassVar\n"
    path.write_text(f"from __future__ import annotations\n{imports}{settings}{LEAST}")
    backend = backend_module(str(path))
    assert backend.name == "echo.py"  # not to be taken for the built-in one
    made = vars(backend)["Settings"](value=2)
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"engine\.py: No such file or directory; expected a Python file"),
        ("import no_such_package_here", "ModuleNotFoundError: No module named"),
        ("def load(:", r"SyntaxError: invalid syntax \(.*engine\.py, line 1\)"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (
            LEAST.replace("def load", "def lode"),
            r"found no load; expected load\(options\), which returns the engine \(a lveval\.",
        ),
        ("load = 1", "found no settings_fingerprint, tokenizer, load; expected"),
    ],
)
def test_a_file_that_is_no_engine_is_one_sentence(
    tmp_path: Path, data_path: Path, source: str | None, message: str
) -> None:
    path = tmp_path / "engine.py"
    if source is not None:
        path.write_text(source)
    assert re.search(message, refused(path))
    found = predict(path, data_path, tmp_path / "out")
    assert found.returncode == 2 and re.search(message, found.stderr)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("return Least()", "return 'no engine'"), "load() gave str without generate, tokenizer"),
        (("def generate", "def generation"), "load() gave Least without generate; expected"),
        (("tokenizer = Echo", "tokens = Echo"), "load() gave Least without tokenizer; expected"),
        (("return {}", "return 3"), "settings_fingerprint() gave int, expected a dict"),
        (("return {}", "return {1: {2}}"), "settings_fingerprint() is no JSON"),
        (("def load", "REMOTE = True\ndef load"), "load() gave Least without stop_waiting"),
    ],
)
def test_what_an_engine_gives_is_looked_at(
    tmp_path: Path, data_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "engine.py"
    path.write_text(LEAST.replace(*change))
    options = words(path, data_path, tmp_path / "out", "--single-process")
    found = in_process("prediction.py", *options)
    assert found.returncode == 2 and message in found.stderr
    assert not answers(tmp_path / "out")


def test_options_are_those_that_the_file_names(tmp_path: Path, data_path: Path) -> None:
    path = tmp_path / "engine.py"
    path.write_text(LEAST + 'BATCH_SIZE = 3\nOPTIONS = ("think_tags",)\nENGINE_ARGS = {"n": int}\n')
    options = words(path, data_path, tmp_path / "out", "--single-process")
    for more, said in (
        (("--stop", "END"), "found --backend engine.py"),
        (("--concurrency", "2"), "--concurrency is for --backend openai; found --backend engine"),
        (("--backend-args", "m=1"), 'key of backend engine.py "m"; expected one of: n'),
    ):
        found = in_process("prediction.py", *options, *more)
        assert found.returncode == 2 and said in found.stderr
    found = in_process("prediction.py", *options, "--think-tags", "<a>", "</a>")
    assert found.returncode == 0, found.stderr
    assert identity(tmp_path / "out")["batch_size"] == 3
    assert parse_engine_args(str(path), "n=4") == {"n": 4}


def test_a_remote_engine_is_asked_from_this_process(tmp_path: Path, data_path: Path) -> None:
    path = tmp_path / "engine.py"
    path.write_text(LEAST.replace("Engine", "RemoteEngine") + "REMOTE = True\n")
    options = (*words(path, data_path, tmp_path / "out"), "--concurrency", "2")
    found = in_process("prediction.py", *options)
    assert found.returncode == 0, found.stderr
    assert b'"pred": "ANSWER"' in answers(tmp_path / "out")["hotpotwikiqa_mixup_1k.jsonl"]
    for more in (("--plan", "--calibrate", "1"), ("--scheduler", "tls://h:1")):
        found = in_process("prediction.py", *options, *more)
        assert found.returncode == 2 and "a service" in found.stderr


# --- An entry point ---------------------------------------------------------------------------------------------------


def install(folder: Path, distribution: str, version: str, points: str, source: str = "") -> None:
    """Lay out what an installer would, with a module that leaves a trace when it is imported."""
    about = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (about / "entry_points.txt").write_text(f"[lveval.backends]\n{points}\n")
    trace = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"
    (folder / "of_a_package.py").write_text(trace + source)


def test_an_entry_point_is_an_engine_by_its_name_and_only_then(
    data_path: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    install(site, "my-engines", "1.0", "least = of_a_package\necho = of_a_package", LEAST)
    where = {"PYTHONPATH": f"{site}:{ROOT}"}

    def run(backend: str, *options: str) -> subprocess.CompletedProcess[str]:
        return script(
            "prediction.py",
            *words(backend, data_path, tmp_path / backend, "--limit", "1", *options),
            **where,
        )

    # A built-in name is the built-in engine; another unknown one lists what there is.
    assert run("echo", "--single-process").returncode == 0
    assert b"ANSWER" not in answers(tmp_path / "echo")["hotpotwikiqa_mixup_1k.jsonl"]
    found = run("leest", "--single-process")
    assert found.returncode == 2 and "openai, echo, least, FILE.py" in found.stderr
    assert not (site / "imported").exists()
    found = run("least", "--num-workers", "2")
    assert found.returncode == 0, found.stderr
    assert (site / "imported").exists()
    assert b'"pred": "ANSWER"' in answers(tmp_path / "least")["hotpotwikiqa_mixup_1k.jsonl"]
    spec = identity(tmp_path / "least")
    assert (spec["backend"], spec["given"]) == ("least", {"backend_package": "my-engines==1.0"})
    # Another version is another engine.
    shutil.rmtree(site)
    install(site, "my-engines", "1.1", "least = of_a_package", LEAST)
    found = run("least", "--single-process")
    assert found.returncode == 4 and "given.backend_package: recorded" in found.stderr


def test_a_worker_refuses_another_version_and_a_name_that_is_declared_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a-engines", "b-engines"):
        install(tmp_path / name, name, "1.0", "twice = of_a_package\nlost = no_such_module")
        monkeypatch.syspath_prepend(tmp_path / name)
        if name == "a-engines":
            assert pinned_backend("twice") == "twice@a-engines==1.0"
            assert refused("twice@a-engines==0.9").endswith(
                "twice: found a-engines==1.0, expected a-engines==0.9"
            )
            assert "found no package" not in refused("lost")
            assert "ModuleNotFoundError" in refused("lost")
    assert "found in a-engines==1.0 and b-engines==1.0" in refused("twice")
    assert not list(tmp_path.rglob("imported"))


def test_built_in_engines_say_where_they_run() -> None:
    found = {
        name: (module.ON_GPUS, module.REMOTE, module.BATCH_SIZE, module.origin)
        for name in ("hf", "vllm", "openai", "echo")
        for module in [backend_module(name)]
    }
    assert found == {
        "hf": (True, False, 1, {}),
        "vllm": (True, False, 16, {}),
        "openai": (False, True, 1, {}),
        "echo": (False, False, 1, {}),
    }
    assert backend_module("echo").load(EngineOptions(None, 500)).tokenizer.bos is None
