"""What is far larger, longer or deeper than anything that is meant: memory and time stay bounded."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import in_process, row, write_data
from support.data_files import PEAK, child
from support.fault_server import ENDLESS, TRICKLING
from support.service import (
    FAST,
    NAME,
    Served,
    assert_all_right,
    attempts,
    command,
    data,
    environment,
    predict,
    server,
)

from lveval.backends.base import ApiOptions
from lveval.backends.openai import service
from lveval.backends.openai.client import MOST_BYTES
from lveval.common.jsonl import MAX_LINE_BYTES, MAX_ROWS

__all__ = ["environment", "server"]  # fixtures

# Commands in a process of their own; last on standard output: their exit codes, and how many
# megabytes they took beyond what the imports take.
COMMANDS = f"""{PEAK}
import json
import datasets, openai, pyarrow, tiktoken
from lveval import cli
from lveval.common.errors import LVEvalError, ending
from lveval.common import streams
streams.make_safe()
before, codes = peak_mb(), []
for words in json.loads(sys.argv[1]):
    try:
        codes.append(int(cli.main(words)))
    except LVEvalError as error:
        message, code = ending(error)
        print(message, file=sys.stderr)
        codes.append(code)
print(json.dumps([codes, peak_mb() - before]))
"""


def measured(*commands: Sequence[str | Path]) -> tuple[list[int], int, str]:
    """Run subcommands of lveval: (exit codes, megabytes that they took, what they said)."""
    words = json.dumps([[str(word) for word in words] for words in commands])
    done = child(COMMANDS, words)
    assert done.returncode == 0, done.stderr
    codes, megabytes = json.loads(done.stdout.splitlines()[-1])
    return codes, megabytes, f"{done.stderr}{done.stdout}"


# --- Replies ----------------------------------------------------------------------------------------------------------


def test_a_reply_without_end_takes_little_memory_and_time(server: Served, tmp_path: Path) -> None:
    """A gigabyte, however it comes, or a byte now and then: it is an attempt, and the run goes on."""
    kinds = [*ENDLESS, *TRICKLING]
    data(tmp_path, len(kinds) + 1)
    server.control(script=kinds)
    words = command(server, tmp_path)
    words[-1] = f"{words[-1]},timeout=3,timeout_per_1k=0"
    codes, megabytes, said = measured(["predict", *words[1:]])
    assert codes == [0], said
    assert_all_right(tmp_path, len(kinds) + 1)
    served = server.stats["served"]
    assert isinstance(served, dict) and served.keys() == {"ok", *kinds}
    too_much = f"the reply has more than {MOST_BYTES} bytes"
    told = Counter(str(attempt["message"]) for attempt in attempts(tmp_path))
    assert told == {too_much: len(ENDLESS), "no reply in time": len(TRICKLING)}
    assert megabytes < 400  # five replies at once, of 32 MiB each, and the tokenizer


@pytest.mark.parametrize("kind", ["giant", "giant-zipped", "trickle", "trickle-head", "nested"])
def test_a_tokenizers_reply_without_end_is_waited_for(
    server: Served, tmp_path: Path, kind: str
) -> None:
    """So are those of batches, which are asked for the same way."""
    data(tmp_path, 1)
    server.control(tokenizer_script=["ok", "ok", kind])
    trickles = kind in TRICKLING
    words = "--tokenizer", "server", "--backend-args", f"{FAST},timeout={1 if trickles else 60}"
    done = predict(server, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    expected = "no reply in time" if trickles else f"the reply has more than {MOST_BYTES} bytes"
    expected = "the reply is no JSON" if kind == "nested" else expected
    assert f"waiting for the service: {expected}" in done.stderr
    assert_all_right(tmp_path, 1)


@pytest.mark.parametrize("kind", ["giant", "trickle", "trickle-head", "nested"])
def test_a_list_of_models_without_end_tells_no_window(
    server: Served, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(service, "LISTING_SECONDS", 1.0)
    api = ApiOptions(base_url=f"{server.url}/v1")
    server.control(max_model_len=4096, model=NAME)
    assert service.told_window(api, NAME) == 4096
    server.control(listing=kind)
    assert service.told_window(api, NAME) is None


# --- Files ------------------------------------------------------------------------------------------------------------

SUBSET = "factrecall_en"
ROWS = f"{SUBSET}_1k.jsonl"


def predicting(folder: Path) -> list[str | Path]:
    """The words of a run in `out/run`, less where its data are."""
    words: list[str | Path] = ["predict", "--backend", "echo", "--model-name", "run"]
    words += ["--lengths", "1k", "--datasets", SUBSET, "--single-process"]
    return [*words, "--output-dir", folder / "out"]


def places(folder: Path, content: Path) -> list[tuple[int, list[str | Path], Path]]:
    """A file in the place of each kind of rows: (exit code, a command that reads it, its path)."""
    run, echo = folder / "out/run", predicting(folder)
    write_data(folder / "data", ROWS.removesuffix(".jsonl"), [row(SUBSET, 0), row(SUBSET, 1)])
    done = in_process("-m", "lveval", *echo, "--data-path", folder / "data")
    assert done.returncode == 0, done.stderr
    samples = folder / f"samples_{SUBSET}_1k.jsonl"
    importing: list[str | Path] = [
        "evaluate",
        "--import",
        "lm-eval",
        samples,
        "--data-path",
        folder / "data",
    ]
    here: list[tuple[int, list[str | Path], Path]] = [
        (2, [*echo, "--data-path", folder / "other"], folder / "other" / ROWS),
        (2, ["evaluate", "--input-dir", folder / "published"], folder / "published" / ROWS),
        (6, ["verify", folder / "published"], folder / "published" / ROWS),
        (2, ["report", "--input-dir", folder / "published"], folder / "published" / ROWS),
        (2, [*importing, "--output-dir", folder, "--model-name", "imported"], samples),
        (2, [*echo, "--data-path", folder / "data"], run / "rows" / ROWS),
        (2, ["evaluate", "--input-dir", run], run / "rows" / ROWS),
        (6, ["verify", run], run / "rows" / ROWS),
    ]
    for path in {path for _, _, path in here}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        os.link(content, path)
    return here


def test_a_row_of_100_megabytes_is_refused_in_a_sentence(tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.write(b'{"pred": "')
        for _ in range(100):
            file.write(b"lamp " * 200_000)
        file.write(b'", "answers": ["lamp"]}\n')
    here = places(tmp_path, huge)
    codes, megabytes, said = measured(*(words for _, words, _ in here))
    assert codes == [code for code, _, _ in here], said
    for _, _, path in here:
        assert f"{path}:1: found a line of more than {MAX_LINE_BYTES} bytes" in said
    assert megabytes < 3 * MAX_LINE_BYTES / 2**20


def test_a_file_of_a_million_rows_is_refused_in_a_sentence(tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.write_bytes(b'{"pred": "a", "answers": ["a"]}\n' * 1_000_000)
    here = places(tmp_path, many)[:4]  # what is imported is as many rows as the data
    codes, megabytes, said = measured(*(words for _, words, _ in here))
    assert codes == [code for code, _, _ in here], said
    for _, _, path in here:
        assert f"{path}: found more than {MAX_ROWS} lines" in said
    assert megabytes < 300


def test_a_long_answer_takes_no_time_with_the_square_of_its_length(tmp_path: Path) -> None:
    """A model may repeat one rare character to the end; the child is given two minutes."""
    answer: dict[str, object] = {
        "pred": "\u9f98" * 300_000,
        "answers": ["\u706f\u5854"],
        "gold_ans": None,
    }
    write_data(tmp_path, "dureader_mixup_1k", [answer])
    codes, megabytes, said = measured(["evaluate", "--input-dir", tmp_path])
    assert codes == [0], said
    assert megabytes < 400


def test_a_row_nested_100000_deep_is_refused_in_a_sentence(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    deep.write_bytes(b'{"pred": %b%b}\n' % (b"[" * 100_000, b"]" * 100_000))
    here = places(tmp_path, deep)
    codes, _, said = measured(*(words for _, words, _ in here))
    assert "Traceback" not in said
    for code, (expected, _, path) in zip(codes, here, strict=True):
        assert code == (6 if path.parent.name == "rows" else expected)  # it has no checksum
        assert f"{path}:1: " in said


def test_what_is_nested_100000_deep_beside_the_rows_ends_in_no_traceback(tmp_path: Path) -> None:
    """In each file of a run and of its set-up that is read as JSON or TOML."""
    deep = "[" * 100_000 + "]" * 100_000
    write_data(tmp_path / "data", ROWS.removesuffix(".jsonl"), [row(SUBSET, 0)])
    run = tmp_path / "out/run"
    echo = [*predicting(tmp_path), "--data-path", tmp_path / "data"]
    evaluating: list[str | Path] = ["evaluate", "--input-dir", run]
    for words in (echo, evaluating):
        assert in_process("-m", "lveval", *words).returncode == 0
    commands: list[list[str | Path]] = [echo, evaluating, ["verify", run]]
    files = {
        run / "run.json": [2, 2, 6],
        run / "results_meta.json": [0, 0, 0],  # which evaluation.py writes anew
        run / "comparison.json": [0, 0, 0],  # which it sets aside
        run / "times.jsonl": [0, 0, 6],
        run / "attempts.jsonl": [2, 0, 6],
        tmp_path / "data/subset.toml": [2, 0, 0],
    }
    for path, expected in files.items():
        whole = path.read_bytes() if path.exists() else None
        path.write_text(f"x = {deep}\n" if path.suffix == ".toml" else f'{{"x": {deep}}}\n')
        codes = [in_process("-m", "lveval", *words).returncode for words in commands]
        assert codes == expected, path
        path.unlink(missing_ok=True)
        if whole is not None:
            path.write_bytes(whole)
