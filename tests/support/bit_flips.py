"""Bits flipped one by one in the files of a scored run, and what evaluation.py and verify say to each."""

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from conftest import in_process, row, write_data

from lveval import evaluation
from lveval.common.errors import ExitCode, LVEvalError
from lveval.verify import Verifier

# Kind -> the files of it, below the run's folder.
KINDS = {
    "rows": ("rows/*.jsonl",),
    "derived": ("*_1k.jsonl", "*_2k.jsonl"),
    "run.json": ("run.json",),
    "scores": ("results*.csv", "results.json", "results_described.json", "results_recall.json"),
    "results_meta.json": ("results_meta.json",),
}


def scored_run(
    folder: Path, rows: int = 3, lengths: Mapping[str, int] = {"1k": 40, "2k": 80}
) -> Path:
    """A dry run of an English and a Chinese subset at some levels, with its results.

    `lengths`: level -> words of a row.
    """
    data = folder / "data"
    for subset in ("hotpotwikiqa_mixup", "cmrc_mixup"):
        for level, length in lengths.items():
            data_rows = [row(subset, number, length) for number in range(rows)]
            write_data(data, f"{subset}_{level}", data_rows)
    words = ("--backend", "echo", "--model-name", "dry", "--single-process", "--data-path", data)
    selection = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", *lengths)
    limit = ("--model-max-len", "100", "--output-dir", folder / "out")
    commands: list[tuple[str | Path, ...]] = [
        ("prediction.py", *words, *selection, *limit),
        ("evaluation.py", "--input-dir", folder / "out/dry"),
    ]
    for command in commands:
        found = in_process(*command)
        assert found.returncode == 0, found.stderr
    for path in (folder / "out/dry/rows").iterdir():  # they came in any order
        content = path.read_bytes().splitlines(keepends=True)
        content.sort(key=lambda line: int(json.loads(line)["index"]))
        path.write_bytes(b"".join(content))
    return folder / "out/dry"


def made_now(folder: Path) -> dict[str, str] | None:
    """The result files that evaluation.py would write; None where it refuses, or rows are missing."""
    try:
        found = evaluation.evaluate(folder)
    except LVEvalError:
        return None
    if found.unfinished:
        return None
    return evaluation.result_files(found, evaluation.analyze(found))


def bits(folder: Path, kind: str, most: int | None, seed: int) -> Iterator[tuple[Path, int]]:
    """(file, bit) of a kind, all in turn or `most` of them drawn by `seed`."""
    paths = sorted(path for pattern in KINDS[kind] for path in folder.glob(pattern))
    every = [(path, bit) for path in paths for bit in range(8 * path.stat().st_size)]
    return iter(every if most is None else random.Random(seed).sample(every, min(most, len(every))))


def try_flips(folder: Path, kind: str, most: int | None = None, seed: int = 0) -> Counter[str]:
    """Flip bits of one kind of file, one at a time.

    `refused`: verify found a fault. `harmless`: it found none, and what evaluation.py would write
    is what stands there. `altered`: it found none, and it is not. `scored`: evaluation.py, without
    verify, would write other results. The file is as it was in the end.
    """
    expected = made_now(folder)
    assert expected is not None
    told: Counter[str] = Counter()
    for path, bit in bits(folder, kind, most, seed):
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            made = made_now(folder)
            code = Verifier(folder).verify()
            on_disk = {name: (folder / name).read_bytes() for name in expected}
        finally:
            path.write_bytes(original)
        told["tried"] += 1
        told["scored"] += made not in (None, expected)
        if code != ExitCode.COMPLETE:
            told["refused"] += 1
        elif made == expected and on_disk == {n: text.encode() for n, text in expected.items()}:
            told["harmless"] += 1
        else:
            told["altered"] += 1
    return told
