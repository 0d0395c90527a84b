"""What a new user meets: help that fits a screen, errors of one line, defaults that follow the model and the newest run."""

import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import in_process, row, script, tiktoken_files, write_data
from support.prediction_parts import SELECTION
from support.service import NAME, Served, data, environment, server
from support.service import predict as ask_service

from lveval.common.errors import UsageError
from lveval.option_groups import token_count
from lveval.options import RunOptions, run_command
from lveval.runs.folder import read_manifest, runs_below

__all__ = ["environment", "server"]  # fixtures

ECHO = ("--backend", "echo", "--model-name", "dry", "--single-process")
COMMANDS = (
    ("prediction.py",),
    ("evaluation.py",),
    *(
        ("-m", "lveval", name)
        for name in ("predict", "evaluate", "report", "plan", "check", "verify")
    ),
    ("-m", "lveval", "construct"),
)


# --- Help and errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", ["80", "100", "250"])
def test_help_fits_a_screen(
    command: tuple[str, ...], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = in_process(*command, "--help").stdout.splitlines()
    assert len(shown) <= 45 and max(map(len, shown)) <= 100
    assert shown[0].startswith("usage: ") and not shown[1]


def test_the_short_help_has_examples_and_tells_what_is_required() -> None:
    shown = in_process("prediction.py", "--help").stdout
    examples = re.findall(r"^  (python prediction\.py|lveval predict) (.*)", shown, re.M)
    assert len(examples) == 3
    for _, words in examples:
        RunOptions.parse(shlex.split(words))
    head, _, usual = shown.partition("\nthe usual options:\n")
    assert re.findall(r"^  (--[\w-]+)", head, re.M) == ["--model-path", "--model-name"]
    assert 8 <= len(re.findall(r"^  (?:-h, )?--", usual, re.M)) <= 13
    assert "--help-all" in usual


def test_the_long_help_has_every_option_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = in_process("prediction.py", "--help-all").stdout
    named = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", shown, re.M))
    assert {f"--{each.name.replace('_', '-')}" for each in fields(RunOptions)} <= named
    assert "\nplanning:\n" in shown and max(map(len, shown.splitlines())) <= 100
    assert "exit codes: 0 complete" in shown


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_option_is_one_line(command: tuple[str, ...]) -> None:
    required = {"construct": ("--output-dir", "x"), "verify": ("x",)}.get(command[-1], ())
    found = in_process(*command, *required, "--colour", "re\nd\x1b[31m")
    assert found.returncode == 2 and not found.stdout
    (line,) = found.stderr.splitlines()
    assert "unrecognized arguments: --colour re d\\u001b[31m; --help shows the options" in line


def test_a_wrong_option_names_the_program() -> None:
    found = script("prediction.py", "--limit", "few")
    assert found.returncode == 2 and found.stderr == (
        "prediction.py: error: argument --limit: invalid int value: 'few'; "
        "--help shows the options\n"
    )
    found = script("-m", "lveval", "score")
    assert found.returncode == 2 and found.stderr.startswith(
        "python -m lveval: error: argument COMMAND: invalid choice: 'score'"
    )
    assert found.stderr.count("\n") == 1


# --- The limit of prompts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("31500", 31500), ("32k", 32000), ("32K", 32000), (" 1k", 1000), ("31.5k", 31500), ("0.512k", 512)],
)  # fmt: skip
def test_tokens_are_a_number_or_thousands(text: str, tokens: int) -> None:
    assert token_count(text) == tokens


@pytest.mark.parametrize("text", ["", "k", "32kb", "-1k", "1e3", "31.5", "1.2345k", "٣k", "32 k"])
def test_what_is_no_number_of_tokens_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected a number of tokens such as 31500 or 32k"):
        token_count(text)


def limit_of(folder: Path) -> object:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest["identity"]["model_max_len"]


def test_the_limit_follows_from_the_models_window(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    of_model = ("--model-path", tiny_model, "--output-dir", tmp_path, "--data-path", data_path)
    words = ("prediction.py", *of_model, "--datasets", "cmrc_mixup", "--lengths", "1k")
    found = in_process(*words, "--limit", "1", "--single-process")
    assert found.returncode == 0, found.stderr
    assert limit_of(tmp_path / "tiny") == 2048 - 500
    assert "the model's window is 2,048 tokens; prompts are cut at 1,548\n" in found.stderr
    planned = in_process(*words, "--model-name", "other", "--plan")
    assert "prompts are cut at 1,548" in planned.stderr, planned.stderr
    # More room for an answer takes it from the prompt.
    long = in_process(*words, "--model-name", "thinks", "--thinking-budget", "600", "--plan")
    assert "prompts are cut at 948\n" in long.stderr, long.stderr


@pytest.mark.parametrize(("limit", "said"), [("1548", False), ("1.5k", True), ("300", True)])
def test_a_limit_below_the_window_is_said(
    tiny_model: Path, data_path: Path, tmp_path: Path, limit: str, said: bool
) -> None:
    words = ("prediction.py", "--model-path", tiny_model, "--data-path", data_path, *SELECTION)
    found = in_process(*words, "--plan", "--model-max-len", limit, "--output-dir", tmp_path)
    tokens = token_count(limit)
    line = f"the model's window is 2,048 tokens; prompts are cut at {tokens:,}\n"
    assert (line in found.stderr) == said and found.returncode == 0


def test_without_a_known_window_the_limit_stays_and_is_said(
    data_path: Path, tmp_path: Path
) -> None:
    words = ("prediction.py", *ECHO, "--data-path", data_path, *SELECTION, "--output-dir", tmp_path)
    found = in_process(*words, "--limit", "1")
    assert found.returncode == 0 and limit_of(tmp_path / "dry") == 15500
    line = "nothing tells the model's window; prompts are cut at 15,500 tokens"
    assert found.stderr.count(line) == 1
    assert line not in in_process(*words, "--limit", "2").stderr  # the run has it


def test_a_run_goes_on_with_the_limit_it_began_with(data_path: Path, tmp_path: Path) -> None:
    words = ("prediction.py", *ECHO, "--data-path", data_path, *SELECTION, "--output-dir", tmp_path)
    assert in_process(*words, "--limit", "1", "--model-max-len", "60").returncode == 0
    found = in_process(*words)
    assert found.returncode == 0 and limit_of(tmp_path / "dry") == 60
    refused = in_process(*words, "--model-max-len", "15500")
    assert refused.returncode == 4 and "model_max_len: recorded 60, asked 15500" in refused.stderr
    anew = in_process(*words, "--overwrite")
    assert anew.returncode == 0 and limit_of(tmp_path / "dry") == 15500


@pytest.mark.parametrize("told", [True, False])
def test_a_service_tells_its_window(server: Served, tmp_path: Path, told: bool) -> None:
    data(tmp_path, 2)
    server.control(max_model_len=3000 if told else 0, model=NAME)
    found = ask_service(server, tmp_path)
    assert found.returncode == 0, found.stderr
    (folder,) = runs_below(tmp_path)
    assert limit_of(folder) == (2500 if told else 15500)
    assert ("window is 3,000 tokens; prompts are cut at 2,500" in found.stderr) == told
    assert ("nothing tells the model's window; prompts are cut at 15,500" in found.stderr) != told


def test_a_plan_asks_no_service(
    tmp_path: Path, data_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", tiktoken_files())
    service = (
        "--backend",
        "openai",
        "--model-name",
        "gpt-4",
        "--base-url",
        "http://127.0.0.1:9/v1",
    )
    words = ("prediction.py", "--plan", *service, "--output-dir", tmp_path)
    found = in_process(*words, "--data-path", data_path, *SELECTION)
    assert found.returncode == 0, found.stderr
    assert "a plan asks no service for its window; prompts are cut at 15,500" in found.stderr
    assert "time by --tokens-per-second, money by --price-in and --price-out\n" in found.stdout


# --- The newest run ---------------------------------------------------------------------------------------------------


@pytest.fixture
def runs(data_path: Path, tmp_path: Path) -> Path:
    """Runs at two depths, the second one the newest, beside data that are named alike."""
    folder = tmp_path / "outputs"
    for number, place in enumerate((".", "7500", "x")):
        words = ("--model-name", f"run{number}", "--output-dir", folder / place)
        found = in_process(
            "prediction.py", *ECHO[:2], "--single-process", "--data-path", data_path, *SELECTION, *words
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        for path in (folder / place / f"run{number}").glob("*.*"):
            os.utime(path, (number % 2 * 1000, number % 2 * 1000))
    write_data(folder / "data", "lic_mixup_1k", [row("lic_mixup")])
    return folder


@pytest.mark.parametrize("command", [("evaluation.py",), ("-m", "lveval", "report")])
def test_the_newest_run_is_taken_and_the_others_are_named(
    command: tuple[str, ...], runs: Path
) -> None:
    found = in_process(*command, "--output-dir", runs)
    assert found.returncode == 0, found.stderr
    assert f"taking the newest run, {runs}/7500/run1; there are others:\n" in found.stderr
    assert f"\n  {runs}/run0\n  {runs}/x/run2\n" in found.stderr and "data" not in found.stderr
    name = "results.json" if command[0] == "evaluation.py" else "report.html"
    assert [path.parent.name for path in runs.rglob(name)] == ["run1"]
    compared = in_process(*command, "--output-dir", runs, "--compare", runs / "7500/run1")
    assert compared.returncode == 0 and f"newest run, {runs}/run0; " in compared.stderr
    quiet = in_process(*command, "--output-dir", runs, "--quiet")
    assert "newest" not in quiet.stderr


def test_of_many_runs_ten_are_named(tmp_path: Path) -> None:
    for number in range(14):
        (tmp_path / f"run{number}").mkdir()
        (tmp_path / f"run{number}" / "run.json").write_text("{}")
        os.utime(tmp_path / f"run{number}" / "run.json", (number, number))
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/run.json").write_text("{}")  # too deep
    assert [run.name for run in runs_below(tmp_path)] == [f"run{n}" for n in range(13, -1, -1)]
    said = in_process("evaluation.py", "--output-dir", tmp_path).stderr
    assert said.count(f"  {tmp_path}/run") == 9 and "  and 4 older ones\n" in said


def test_without_a_run_it_is_said_how_to_make_one(tmp_path: Path) -> None:
    found = in_process("evaluation.py", "--output-dir", tmp_path / "none")
    assert found.returncode == 2
    assert "none: found no run; make one with: " in found.stderr
    assert "--model-path MODEL" in found.stderr
    both = in_process("evaluation.py", "--input-dir", tmp_path, "--model-name", "x")
    assert both.returncode == 2 and "found both" in both.stderr


# --- How commands end -------------------------------------------------------------------------------------------------


def test_commands_end_with_the_folder_and_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prediction.py"])
    made = tmp_path / "some data"
    chosen = ("--datasets", "factrecall_en", "--lengths", "1k")
    monkeypatch.chdir(tmp_path)
    found = in_process("-m", "lveval", "construct", "--output-dir", made, *chosen)
    what, _, command = found.stdout.splitlines()[-1].partition("; next: ")
    assert what == f"data folder: {made}"
    words = [word for word in shlex.split(command) if word not in ("lveval", "predict")]
    assert words[:2] == ["--model-path", "MODEL"]
    asked = (*ECHO, *words[2:], "--output-dir", "out")
    checked = in_process("prediction.py", "--check", *asked)
    assert checked.returncode == 0, checked.stderr
    what, _, command = checked.stdout.splitlines()[-1].partition("; next: ")
    assert what == "run folder: out/dry"
    ran = in_process("prediction.py", *shlex.split(command)[2:])
    assert ran.returncode == 0 and ran.stdout == "out/dry\n", ran.stderr
    what, _, command = ran.stderr.splitlines()[-1].partition("; next: ")
    assert what == "run folder: out/dry"
    scored = in_process("evaluation.py", *shlex.split(command)[2:])
    assert scored.returncode == 0, scored.stderr


@pytest.mark.parametrize(
    "looks",
    [["--plan"], ["--plan", "exact"], ["--plan=exact"], ["--check"], ["--plan", "--calibrate", "3"],
     ["--calibrate=3", "--plan", "estimate"]],
)  # fmt: skip
def test_the_run_is_the_command_without_what_only_looks(looks: list[str]) -> None:
    words = ["--model-name", "a b", *looks, "--header", "X-Key: secret", "--limit", "3"]
    found = shlex.split(run_command(words))
    assert found[2:] == ["--model-name", "a b", "--header", "X-Key: ***", "--limit", "3"]
