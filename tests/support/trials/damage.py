"""The files of a scored run with a bit flipped, or cut at a byte, and what the commands make of them."""

import json
import random
from collections.abc import Collection, Mapping
from pathlib import Path

from conftest import in_process, row, write_data

from lveval import evaluation
from lveval.common import logs
from lveval.common.errors import ExitCode, LVEvalError
from lveval.verify import Verifier
from support.trials.tally import Tally

# Kind -> the files of it, below the run's folder.
KINDS = {
    "rows": ("rows/*.jsonl",),
    "derived": ("*_1k.jsonl", "*_2k.jsonl"),
    "run.json": ("run.json",),
    "scores": ("results*.csv", "results.json", "results_described.json", "results_recall.json"),
    "results_meta.json": ("results_meta.json",),
}


RUN = "dry"


def predict_words(folder: Path, output: Path, levels: Collection[str] = ("1k", "2k")) -> list[str]:
    """The options of a dry run over folder/data, in one process."""
    words = ("--backend", "echo", "--model-name", RUN, "--single-process", "--model-max-len", 1000)
    selection = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", *levels)
    places = ("--data-path", folder / "data", "--output-dir", output)
    return [str(word) for word in (*words, *selection, *places)]


def scored_run(
    folder: Path, rows: int = 3, lengths: Mapping[str, int] = {"1k": 40, "2k": 80}
) -> Path:
    """A dry run of an English and a Chinese subset at some levels, with its results.

    `lengths`: level -> words of a row.
    """
    for subset in ("hotpotwikiqa_mixup", "cmrc_mixup"):
        for level, length in lengths.items():
            data_rows = [row(subset, number, length) for number in range(rows)]
            write_data(folder / "data", f"{subset}_{level}", data_rows)
    run = folder / "out" / RUN
    for command in (
        ("prediction.py", *predict_words(folder, folder / "out", lengths)),
        ("evaluation.py", "--input-dir", run),
    ):
        found = in_process(*command)
        assert found.returncode == 0, found.stderr
    for path in (run / "rows").iterdir():  # they came in any order
        content = path.read_bytes().splitlines(keepends=True)
        content.sort(key=lambda line: int(json.loads(line)["index"]))
        path.write_bytes(b"".join(content))
    return run


def made_now(folder: Path) -> dict[str, str] | None:
    """The result files that evaluation.py would write; None where it refuses, or rows are missing."""
    try:
        found = evaluation.evaluate(folder)
    except LVEvalError:
        return None
    if found.unfinished:
        return None
    return evaluation.result_files(found, evaluation.analyze(found))


def try_flips(folder: Path, kind: str, most: int | None = None, seed: int = 0) -> Tally:
    """Flip bits of one of KINDS of a run's files, all in turn or `most` of them, one at a time.

    verify must find a fault in each, and evaluation.py must score no damaged answer. Only run.json
    holds what decides nothing (times, the command line): there a flip may go unseen if the results
    are what evaluation.py would write.
    """
    run = scored_run(folder)
    logs.configure(quiet=True)
    expected = made_now(run)
    assert expected is not None
    told = Tally()
    for path, place in _places(run, KINDS[kind], most, seed, per_byte=8):
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with told.trying():
            found = Verifier(run).verify() != ExitCode.COMPLETE
            scored = None if kind in ("scores", "results_meta.json") else made_now(run)
            if kind == "run.json":
                told.altered += not found and scored != expected
            else:
                told.altered += not found or scored not in (None, expected)
        path.write_bytes(original)
    return told


def try_cuts(folder: Path, most: int | None = None, seed: int = 0) -> Tally:
    """Cut each file of a run at each byte, or at `most` places, and give the two commands again.

    They end with the files of a calm run, or in a sentence.
    """
    run = scored_run(folder)
    tried = {"dataset": "cmrc_mixup", "level": "1k", "index": 0}
    attempt = {"time": "2026-01-01T00:00:00Z", **tried, "cause": "transient", "message": "reset"}
    (run / "attempts.jsonl").write_text(json.dumps(attempt) + "\n")
    whole = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    final = {path for path in whole if path.parent == run and path.stem not in ("run", "attempts")}
    told = Tally()
    for path, size in _places(run, ("*.*", "rows/*"), most, seed):
        path.write_bytes(whole[path][:size])
        with told.trying():
            code = in_process("prediction.py", *predict_words(folder, run.parent)).returncode
            code = code or in_process("evaluation.py", "--input-dir", run).returncode
            same = {one for one in final if _lines(one.read_bytes()) == _lines(whole[one])}
            told.altered += not final <= (same if code == 0 else same | {path})
        for one, content in whole.items():
            one.write_bytes(content)
    return told


def _lines(content: bytes) -> list[bytes]:
    return sorted(content.split(b"\n"))  # rows/ has its rows in the order of the answers


def _places(
    folder: Path, patterns: tuple[str, ...], most: int | None, seed: int, per_byte: int = 1
) -> list[tuple[Path, int]]:
    """(file, place) of each bit or byte of some files, or `most` of them drawn by `seed`."""
    paths = sorted(
        {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    )
    every = [(path, at) for path in paths for at in range(per_byte * path.stat().st_size)]
    return every if most is None else random.Random(seed).sample(every, min(most, len(every)))
