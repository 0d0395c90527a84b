"""Text of a model, a data file, a file's name or an option stays text: in the terminal, in CSV,
Markdown and LaTeX, and as a name of a folder. One table of payloads, every command.
"""

import csv
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from conftest import in_process
from conftest import row as data_row
from support.run_folders import make_row, write_run

from lveval.execution.trackers import settings

# What a terminal would act on, a spreadsheet compute, a renderer run or follow, a shell expand, and
# what would pass for a line of the harness's own.
PAYLOADS = {
    "a link": "\x1b]8;;http://127.0.0.1:9/\x1b\\click\x1b]8;;\x1b\\",
    "a link ended by a bell": "\x1b]8;;file:///etc/passwd\x07click\x1b]8;;\x07",
    "a title": "\x1b]0;owned\x07",
    "the clipboard": "\x1b]52;c;aWQK\x07",
    "a cleared screen": "\x1b[2J\x1b[H",
    "a line up": "\x1b[1A\x1b[2Kok",
    "colour": "\x1b[31mred",
    "an answerback": "\x1b[6n\x05",
    "a device control": "\x1bP+q544e\x1b\\",
    "C1 codes": "\x9b31m\x9d0;x\x9c\x90x",
    "overwriting": "bad\rgood",
    "backspaces": "bad\x08\x08\x08good",
    "deletes": "bad\x7f\x7fx",
    "a NUL": "a\x00b",
    "feeds": "a\x0bb\x0cc\x1cd\x85e",
    "an override": "\u202egnp.exe",
    "isolates": "\u2066a\u2069\u2067b\u2069",
    "marks": "\u200ea\u200fb\u061cc",
    "invisible": "a\u200bb\u200db\u2060c\ufeffd\u00ade",
    "tags": "a\U000e0041\U000e0042b",
    "annotations": "a\ufff9b\ufffac\ufffb",
    "a surrogate": "a\udc9b31m",
    "separators": "a\u2028b\u2029c",
    "lines of its own": "a\nforged: 100.00\n\nb",
    "a formula": "=cmd|'/c calc'!A0",
    "a formula with plus": "+1+cmd|'/c calc'!A0",
    "a formula with minus": "-1+1",
    "a formula with at": "@SUM(1+1)",
    "a formula after a tab": "\t=1+1",
    "a formula after a return": "\r=1+1",
    "a formula after a quote": '"=1+1',
    "cells": 'a","=1+1\n=2+2,b',
    "a command of LaTeX": r"\input{/etc/passwd}\write18{id}",
    "the end of a table": r"\\ \end{tabular} & x",
    "signs of LaTeX": "$x$ % a_b^c #1 ~ {} & ^^5cinput",
    "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a picture": "![x](http://127.0.0.1:9/x.png)",
    "a link of Markdown": "[x](javascript:alert(1)) <http://127.0.0.1:9>",
    "a bare link": "http://127.0.0.1:9/x www.example.org",
    "a cell's end": "a | b |\n|---|---|\n| forged |",
    "code": "`x` ```\nx\n```",
    "a heading": "# forged\n> forged",
    "a shell": "$(touch owned); `touch owned` && touch owned #",
    "quotes": "a'; touch owned; '",
    "a way out": "../../outside/../..",
    "an option": "--output-dir=/",
    "a format": "%s%n{0.__class__}{row}",
}
# Of them those that no document may have as they are.
RAW = ("markup", "a picture", "a link of Markdown", "a command of LaTeX", "the end of a table")


def steering(text: str) -> set[str]:
    """The characters of a text that steer a terminal, or hide in it."""
    return {
        character
        for character in text
        if character not in "\n\t" and unicodedata.category(character) in ("Cc", "Cf", "Cs")
    }


def said(*words: str | Path, codes: tuple[int, ...] = (0,)) -> CompletedProcess[str]:
    """Run a command; what it prints must be plain, whatever it was given."""
    done = in_process(*words)
    # A progress bar of the harness's own goes back to the start of its line.
    printed = done.stdout + done.stderr.replace("\ranswering: ", "answering: ")
    assert done.returncode in codes, (words, printed)
    assert not steering(printed), (words, steering(printed), printed)
    # Nobody else's text begins a line, where it would pass for the harness's own.
    assert "forged: 100.00" not in printed.split("\n"), printed
    return done


def as_name(payload: str) -> str:
    """The payload as far as it can be a file's name."""
    return "m" + re.sub(r"[\x00/]", ":", payload)


def hostile_rows(payload: str, seed: int) -> list[dict[str, Any]]:
    source = random.Random(seed)
    rows = [make_row("hotpotwikiqa_mixup", "16k", number, source) for number in range(4)]
    for row in rows:
        row |= {name: f"{payload}{row[name]}" for name in ("pred", "input", "gold_ans")}
        row |= {"answers": [payload + row["answers"][0]], "all_classes": [payload]}
        row |= {"confusing_facts": [payload, payload], "raw_pred": payload}
        row |= {"finish_reason": payload, "question_id": payload}
    return rows


def hostile_run(folder: Path, payload: str, seed: int, left: int = 0) -> Path:
    """A run of a model with a name, versions, prompts and rows that are no plain text.

    `left` rows of it have no answer; why is told in the payload's words.
    """
    hostile: dict[str, Any] = {
        "model_name": payload,
        "engine": {"version": payload, "model": payload, payload: payload, "dtype": payload},
        "prompts": {"name": payload, "sha256": payload, "official": False},
        "chat_template": payload,
        "given": {"stop": [payload], "adapter": payload},
    }
    rows = hostile_rows(payload, seed)
    write_run(folder, {"hotpotwikiqa_mixup_16k": rows[: len(rows) - left]}, **hostile)
    if left:
        name = "hotpotwikiqa_mixup_16k"
        manifest = json.loads((folder / "run.json").read_text())
        manifest["selection"] = manifest["rows"] = {name: len(rows)}
        entry = {"argv": ["--model-name", payload], "selection": {name: len(rows)}}
        manifest["log"] = [entry]
        (folder / "run.json").write_text(json.dumps(manifest))
        failed = {"dataset": "hotpotwikiqa_mixup", "level": "16k", "index": 3}
        attempt = failed | {"status": "error", "error": payload, "time": payload}
        (folder / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    return folder


def cells(folder: Path) -> Iterator[str]:
    """The cells of all CSV files of a folder."""
    for path in folder.rglob("*.csv"):
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for line in csv.reader(file):
                yield from line


def require_plain_files(folder: Path, payload: str) -> None:
    """No file for people has what a terminal, a spreadsheet or a renderer would act on."""
    for cell in cells(folder):
        number = re.fullmatch(r"[+-]?[\d.]+%?", cell)
        assert number or not cell.startswith(("=", "+", "-", "@", "\t", "\r")), cell
        assert not steering(cell), cell
    documents = [path for path in folder.rglob("*.*") if path.suffix in (".md", ".tex", ".svg")]
    for path in [*documents, *folder.rglob("*.html")]:
        text = path.read_text(encoding="utf-8")
        assert not steering(text), (path, steering(text))
        if path.suffix == ".tex":
            text = re.sub("(?m)^%.*", "", text)  # TeX passes over the rest of that line
            assert not re.search(r"\\(input|write)\W", text)
            assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}")
        if path.suffix in (".md", ".tex") and payload in (PAYLOADS[name] for name in RAW):
            assert payload not in text, path
        assert path.suffix != ".md" or PAYLOADS["a bare link"] not in text, path
    for path in folder.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?m)^(# )?forged", text)
        assert "\n```" not in text


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS.values())) >= 30


def test_a_tracker_gets_plain_names_and_values() -> None:
    for payload in PAYLOADS.values():
        (name, value), *others = settings({payload: payload}).items()
        assert not others and not steering(name + str(value)) and "\n" not in name + str(value)
        assert re.fullmatch(r"[\w./ -]*", name)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_scores_pages_tables_and_exports_of_a_hostile_run(kind: str, tmp_path: Path) -> None:
    payload = PAYLOADS[kind]
    runs = [
        hostile_run(tmp_path / str(seed) / as_name(payload), payload, seed) for seed in range(2)
    ]
    run, other = runs
    said("evaluation.py", "--input-dir", run, "-v", "--compare", other)
    said("-m", "lveval", "report", "--input-dir", run, "--markdown", "--latex", "--compare", other)
    said("-m", "lveval", "export", run, "--format", "lm-eval", "--model-id", payload, codes=(0, 2))
    arguments = "--format", "every-eval-ever", "--organization", payload
    said("-m", "lveval", "export", run, *arguments, codes=(0, 2))
    said("-m", "lveval", "verify", run, "-v", codes=(0, 2, 3, 6))
    left = hostile_run(tmp_path / "left" / as_name(payload), payload, 3, left=1)
    said("evaluation.py", "--input-dir", left, codes=(3,))
    said("evaluation.py", "--input-dir", left, "--allow-partial", "-v")
    said("-m", "lveval", "verify", left, codes=(0, 2, 3, 6))
    require_plain_files(tmp_path, payload)
    top = {path.name for path in tmp_path.iterdir()}
    assert top == {"0", "1", "left"}, top


@pytest.mark.parametrize("kind", PAYLOADS)
def test_options_and_names_that_are_hostile_text(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LVEVAL_CONFIG", "")  # as --config leaves it, for this test alone
    payload = PAYLOADS[kind].replace("\x00", ":")  # no argument of a process holds one
    folder = tmp_path / as_name(payload)
    out = "--output-dir", tmp_path / "outputs"
    name, dry = ("--model-name", "plain"), ("--backend", "echo", "--single-process")
    folder.mkdir()
    broken = folder / "hotpotwikiqa_mixup_1k.jsonl"
    broken.write_text(f"{json.dumps(data_row())}\n{json.dumps({payload: payload})}\n")
    few = "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--model-max-len", "300"
    wrong = (2, 3)
    said("prediction.py", *dry, *name, *out, *few, "--data-path", folder, codes=wrong)
    for option in (
        "--datasets",
        "--lengths",
        "--prompts",
        "--backend",
        "--attn",
        "--chat-template",
    ):
        given: list[str | Path] = [*dry, *name, *out, "--data-path", folder]
        given += [f"{option}={payload}"]
        said("prediction.py", *given, codes=(2,))
    for option in ("--config", "--plugin", "--hf-overrides", "--backend-args", payload or "x"):
        given = [*dry, *name, *out, "--data-path", folder, f"{option}={payload}"]
        said("prediction.py", *given, codes=(0, *wrong))
    said("evaluation.py", "--input-dir", folder, codes=wrong)
    said("evaluation.py", "--input-dir", tmp_path / "none" / as_name(payload), codes=(2,))
    said("evaluation.py", *out, "--model-name", payload, codes=wrong)
    said("evaluation.py", "--merge", *out, "--model-name", payload, codes=wrong)
    said("evaluation.py", f"--track={payload}", "--input-dir", folder, codes=wrong)
    said("-m", "lveval", "report", "--input-dir", folder, codes=wrong)
    said("-m", "lveval", "verify", folder, codes=(*wrong, 6))
    said("-m", "lveval", "construct", "--describe", folder, codes=wrong)
    made = "--output-dir", tmp_path / "made", "--sources", folder
    said("-m", "lveval", "construct", *made, f"--datasets={payload}", codes=wrong)
    broken.write_text(f"pred,index,{payload}\n{payload},{payload},x\n", "utf-8", "surrogateescape")
    said("evaluation.py", *out, "--import", "csv", broken, *name, codes=wrong)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_run_over_hostile_questions_and_names(kind: str, tmp_path: Path) -> None:
    payload = PAYLOADS[kind]
    rows = [data_row(number=number) for number in range(2)]
    for row in rows:
        row |= {"input": f"{payload}{row['input']}", "context": f"{row['context']} {payload}"}
        row |= {"answers": [payload], "answer_keywords": payload, "confusing_facts": payload}
    folder = tmp_path / "data" / as_name(payload)
    folder.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "hotpotwikiqa_mixup_1k.jsonl").write_text(text)
    given: list[str | Path] = ["--backend", "echo", "--single-process", "--data-path", folder]
    given += [f"--model-name={payload}", "--output-dir", tmp_path / "outputs"]
    given += ["--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--model-max-len", "300"]
    for how in (["--plan"], ["--check"], ["--quiet"]):  # without a progress bar's returns
        said("prediction.py", *given, *how, codes=(0, 2))
    said("-m", "lveval", "construct", "--describe", folder, codes=(0, 2))
    # Whatever the name was, all that was written is in the two folders.
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "outputs"}
    outputs = tmp_path / "outputs"
    runs = [path for path in outputs.iterdir() if path.is_dir()] if outputs.exists() else []
    for run in runs:
        said("evaluation.py", "--input-dir", run, "-v", codes=(0, 3))
        said("-m", "lveval", "report", "--input-dir", run, "--markdown", "--latex")
    require_plain_files(outputs, payload)
