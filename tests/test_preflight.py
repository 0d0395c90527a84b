"""What a run will cost: counts are those that a run records, estimates lie within their error."""

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, lines, row, script, write_data

from lveval.backends import BACKENDS, backend_module, hf
from lveval.backends.base import EngineOptions
from lveval.common.errors import LVEvalError
from lveval.planning import plan, token_counts
from lveval.planning.estimate import Estimate, estimate_file
from lveval.planning.token_counts import PromptTokens

SELECTION = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k", "2k")
# The columns of the table after subset and level.
ROWS, MEAN, LONGEST, PROMPT, FULL, CUT, DROPPED, LOST, UNKNOWN, BUDGET = range(10)


def predict(
    data_path: Path, output: Path, *options: str | Path, **env: str
) -> subprocess.CompletedProcess[str]:
    name = () if "--model-path" in options else ("--backend", "echo", "--model-name", "dry")
    found = script(
        "prediction.py", *name, "--data-path", data_path, "--output-dir", output, *options, **env
    )
    assert found.returncode == 0, found.stderr
    return found


def figures(printed: str, subset: str = "all", level: str = "all") -> list[tuple[float, float]]:
    """(value, half the interval) of each column in one line; the error of rows is not read."""
    (line,) = re.findall(rf"^{subset} +{level} .*", printed, re.M)
    cells = re.split(r" {2,}", line)[2:]
    pairs = []
    for cell in cells:
        value, _, error = re.sub(r" \(.*| ?[,%]", "", cell.replace(",", "")).partition(" ±")
        pairs.append((float(value), float(error or 0) / 100 * float(value)))
    return pairs


def recorded(folder: Path, name: str) -> list[PromptTokens]:
    """What the records of a finished file say."""
    keys = ("prompt_tokens", "prompt_tokens_full", "evidence_kept")
    return [
        PromptTokens(*(record[key] for key in keys))  # type: ignore[arg-type]
        for record in lines(folder / f"{name}.jsonl")
    ]


def cache_files(cache: Path) -> dict[str, list[list[Any]]]:
    """<subset>_<level> -> the lines that were kept of its rows."""
    found = {
        path.name.rpartition("-")[0]: path.read_bytes() for path in (cache / "plan").glob("*.jsonl")
    }
    return {
        name: [json.loads(line) for line in content.split(b"\n")[:-1]]
        for name, content in found.items()
    }


def expected(records: list[PromptTokens], limit: int, budget: int) -> list[float]:
    """The columns that these records make."""
    kept = 2 * int(limit / 2)
    prompt, full = sum(item.prompt for item in records), sum(item.full for item in records)
    cut = [item for item in records if item.full > limit]
    states = [item.evidence_kept for item in records]
    longest = max(item.prompt for item in records)
    dropped = sum(item.full - kept for item in cut)
    lost, unknown = states.count(False), states.count(None)
    return [
        len(records),
        round(prompt / len(records)),
        longest,
        prompt,
        full,
        len(cut),
        dropped,
        lost,
        unknown,
        budget,
    ]


# --- Counts are those of a run --------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["echo", "hf", "chat"])
def test_exact_counts_are_those_that_a_run_records(
    engine: str, request: pytest.FixtureRequest, data_path: Path, tmp_path: Path
) -> None:
    """Of every row, with cut and uncut prompts, a chat template, and a model's own .chat()."""
    silent = {"answer_keywords": None, "answers": ["\u5426"]}  # stands nowhere in the context
    write_data(
        data_path,
        "cmrc_mixup_2k",
        [row("cmrc_mixup", number, 200, **silent) for number in range(5)],
    )
    limit = 151 if engine == "echo" else 251  # odd, and only the shortest rows are under it
    options: tuple[str | Path, ...] = ("--model-max-len", str(limit), *SELECTION)
    name = "dry"
    if engine != "echo":
        model = request.getfixturevalue("tiny_model" if engine == "hf" else "chat_model")
        name = model.name
        options += ("--model-path", model, *(("--trust-remote-code",) if engine == "chat" else ()))
    planned = predict(
        data_path,
        tmp_path / "out",
        "--plan",
        "exact",
        *options,
        LVEVAL_CACHE=str(tmp_path / "cache"),
    )
    assert not (tmp_path / "out").exists()
    predict(data_path, tmp_path / "out", "--single-process", *options)
    kept = cache_files(tmp_path / "cache")
    everything = []
    for file in (
        "hotpotwikiqa_mixup_1k",
        "hotpotwikiqa_mixup_2k",
        "cmrc_mixup_1k",
        "cmrc_mixup_2k",
    ):
        records = recorded(tmp_path / "out" / name, file)
        assert {index: PromptTokens(*rest) for index, *rest in kept[file]} == dict(
            enumerate(records)
        ), file
        subset, level = file.rsplit("_", 1)
        assert [value for value, _ in figures(planned.stdout, subset, level)] == expected(
            records, limit, 5 * 64
        )
        everything += records
    assert [value for value, _ in figures(planned.stdout)] == expected(everything, limit, 20 * 64)
    assert {item.evidence_kept for item in everything} == {True, False, None}
    assert "all 20 rows were counted" in planned.stdout and "±" not in planned.stdout
    assert (".chat() adds its format" in planned.stdout) == (engine == "chat")


@pytest.mark.parametrize("name", ["echo", "tiny_model", "chat_model"])
def test_tokenizer_and_own_chat_are_those_of_the_loaded_engine(
    name: str, request: pytest.FixtureRequest
) -> None:
    path = None if name == "echo" else str(request.getfixturevalue(name))
    options = EngineOptions(path, 500, trust_remote_code=name == "chat_model")
    module = backend_module("echo" if name == "echo" else "hf")
    engine, alone = module.load(options), module.tokenizer(options)
    assert module.native_chat(options) == engine.native_chat == (name == "chat_model")
    for text in ("  A probe <s></s>\n", "\u706f\u5854\u5efa\u4e8e1874\u5e74\u3002"):
        assert alone.encode(text) == engine.tokenizer.encode(text)
        assert alone.encode(text, add_special_tokens=False) == engine.tokenizer.encode(
            text, add_special_tokens=False
        )
    assert (alone.bos, alone.has_chat_template) == (
        engine.tokenizer.bos,
        engine.tokenizer.has_chat_template,
    )


def test_every_backend_tells_its_tokenizer_without_an_engine() -> None:
    for name in BACKENDS:
        assert callable(backend_module(name).tokenizer) and callable(
            backend_module(name).native_chat
        ), name


def test_a_models_code_that_cannot_be_imported_is_one_sentence(
    chat_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(chat_model, tmp_path / "broken"))
    with (folder / "modeling_tiny.py").open("a") as file:
        file.write("\nTinyChat = TinyChat.nothing_of_that_name\n")
    with pytest.raises(LVEvalError, match=r"broken: .*cannot .*AttributeError"):
        hf.native_chat(EngineOptions(str(folder), 500, trust_remote_code=True))


def test_no_weights_are_needed(tiny_model: Path, data_path: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "no-weights"))
    (folder / "model.safetensors").unlink()
    found = predict(
        data_path,
        tmp_path / "out",
        "--plan",
        "--model-path",
        folder,
        "--model-max-len",
        "150",
        *SELECTION,
    )
    assert figures(found.stdout)[ROWS] == (20, 0)


# --- Estimates ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six files of 60 built rows each."""
    folder = tmp_path_factory.mktemp("built")
    options = (
        "--datasets",
        "factrecall_en",
        "lic_mixup",
        "--lengths",
        "1k",
        "2k",
        "8k",
        "--rows",
        "60",
    )
    found = script("-m", "lveval", "construct", "--output-dir", folder, *options)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.mark.parametrize("limit", ["900", "1700", "9000"])
def test_an_estimate_lies_within_its_error_of_the_exact_count(
    model_path: Path, built: Path, tmp_path: Path, limit: str
) -> None:
    """All prompts cut, cut or not, and none cut; by file, level and in all."""
    selection = (
        "--datasets",
        "factrecall_en",
        "lic_mixup",
        "--lengths",
        "1k",
        "2k",
        "--model-max-len",
        limit,
    )
    options = (*selection, "--model-path", model_path, "--backend-args", "window=100000")
    guessed, exact = (
        predict(built, tmp_path, f"--plan={how}", *options).stdout for how in ("estimate", "exact")
    )
    assert "estimated from 20 of 240 rows" in guessed
    names = [(subset, level) for subset in ("factrecall_en", "lic_mixup") for level in ("1k", "2k")]
    for name in [*names, ("all", "1k"), ("all", "2k"), ("all", "all")]:
        found, true = figures(guessed, *name), figures(exact, *name)
        for column in (PROMPT, FULL):
            (value, error), (truth, none) = found[column], true[column]
            assert none == 0 and 0 < error < 0.03 * truth, (name, column)
            assert abs(value - truth) <= error, (name, column)
        assert abs(found[DROPPED][0] - true[DROPPED][0]) <= found[FULL][1], name
        assert (found[ROWS], found[BUDGET]) == (true[ROWS], true[BUDGET])
        assert found[LONGEST][0] == pytest.approx(true[LONGEST][0], rel=0.02)
        for column in (CUT, LOST):  # the intervals of rows stand in brackets
            (line,) = re.findall(rf"^{name[0]} +{name[1]} .*", guessed, re.M)
            cell = re.split(r" {2,}", line)[2 + column].replace(",", "")
            least, most = map(
                float, re.findall(r"\((\d+)-(\d+)\)", cell)[0] if "(" in cell else [cell, cell]
            )
            assert least <= true[column][0] <= most, (name, column)


def population(seed: int, limit: int) -> dict[int, tuple[int, PromptTokens]]:
    """A synthetic file: index -> (bytes, count); tokens follow the bytes but for some noise."""
    rng = random.Random(seed)
    per_byte, noise, lost = rng.uniform(0.2, 0.4), rng.uniform(0.001, 0.03), rng.random()
    rows = {}
    for index in range(rng.choice([20, 60, 200])):
        size = round(rng.gauss(60000, 1500))
        full = round(size * per_byte * rng.gauss(1, noise))
        kept = full <= limit or rng.random() > lost
        rows[index] = (
            size,
            PromptTokens(min(full, limit) + 30 - rng.choice([0, 0, 1, 2]), full, kept),
        )
    return rows


@pytest.mark.parametrize("limit", [10000, 18000, 40000])
def test_intervals_hold_what_they_promise(limit: int) -> None:
    """95 % of the true sums of 400 synthetic files lie within, and those over 20 files."""
    inside: dict[str, list[bool]] = {}
    widths = []
    for first in range(0, 400, 20):
        sums: dict[str, list[Estimate | float]] = {}
        for seed in range(first, first + 20):
            rows = population(seed, limit)
            sizes = {index: size for index, (size, _) in rows.items()}
            chosen = token_counts.sample_rows(list(rows), str(seed))
            line = estimate_file({index: rows[index][1] for index in chosen}, sizes, limit, 64)
            truth = estimate_file(
                {index: count for index, (_, count) in rows.items()}, sizes, limit, 64
            )
            assert (line.counted, truth.counted, line.rows) == (5, len(rows), len(rows))
            for name in ("prompt", "full", "cut", "dropped", "lost"):
                found, true = getattr(line, name), getattr(truth, name)
                assert true.variance == 0
                inside.setdefault(name, []).append(
                    abs(found.value - true.value) <= found.error + 1e-6
                )
                kept = sums.setdefault(name, [Estimate(), 0.0])
                kept[0], kept[1] = kept[0] + found, kept[1] + true.value
            widths.append(line.full.error / truth.full.value)
        for name, (found, true) in sums.items():
            assert isinstance(found, Estimate) and isinstance(true, float)
            inside.setdefault(f"sum of {name}", []).append(abs(found.value - true) <= found.error)
    for name, hits in inside.items():
        assert statistics.mean(hits) >= (0.95 if name.startswith("sum") else 0.93), name
    assert statistics.median(widths) < 0.02


def test_a_small_file_is_counted_whole() -> None:
    rows = {index: PromptTokens(10 + index, 20, True) for index in range(3)}
    line = estimate_file(rows, dict.fromkeys(rows, 100), 10, 64)
    assert (line.prompt, line.full, line.dropped, line.cut) == (
        Estimate(33),
        Estimate(60),
        Estimate(30),
        Estimate(3),
    )
    assert token_counts.sample_rows([4, 7, 9], "x") == [4, 7, 9]


# --- Kept counts ----------------------------------------------------------------------------------


def test_a_killed_count_goes_on_where_it_was(built: Path, tmp_path: Path) -> None:
    """After SIGKILL, a torn and a damaged line: only what is missing is counted."""
    cache = tmp_path / "cache"
    options = ["--plan", "exact", "--datasets", "factrecall_en", "lic_mixup", "--lengths", "8k"]
    options += [
        "--model-path",
        str(ROOT / "models/SmolLM2-135M-Instruct"),
        "--model-max-len",
        "1000",
    ]
    command = [
        sys.executable,
        "prediction.py",
        *options,
        "--data-path",
        str(built),
        "--output-dir",
        str(tmp_path),
    ]
    environment = {**os.environ, "LVEVAL_CACHE": str(cache)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while sum(map(len, cache_files(cache).values())) < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= len(os.sched_getaffinity(0))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not psutil.wait_procs(children, timeout=20)[1], (
        "a counting process outlived the main one"
    )
    before = cache_files(cache)
    assert 20 <= sum(map(len, before.values())) < 120
    path = next(
        path for path in (cache / "plan").glob("*.jsonl") if path.read_bytes().count(b"\n") > 2
    )
    rest = path.read_bytes().split(b"\n", 1)[1]
    path.write_bytes(b"[1, 2\n" + rest + b'[0, 15, "torn')
    again = predict(built, tmp_path, *options, LVEVAL_CACHE=str(cache))
    assert path.read_bytes().startswith(b"[1, 2\n" + rest) and b"torn" not in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(b"[1, 2\n", b"", 1))
    kept = cache_files(cache)
    for name, found in kept.items():
        assert sorted(line[0] for line in found) == list(range(60)), name  # each row once
    fresh = predict(built, tmp_path, *options, LVEVAL_CACHE=str(tmp_path / "fresh"))
    assert fresh.stdout == again.stdout
    assert {name: sorted(found) for name, found in cache_files(tmp_path / "fresh").items()} == {
        name: sorted(found) for name, found in kept.items()
    }


def test_counts_are_kept_for_the_same_settings_only(data_path: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    prompts = tmp_path / "p.json"
    mapping = dict.fromkeys(("hotpotwikiqa_mixup", "cmrc_mixup"), "{context} {input}")
    prompts.write_text(json.dumps(mapping))

    def files(*options: str | Path) -> int:
        selection = ("--datasets", "cmrc_mixup", "--lengths", "1k")
        predict(data_path, tmp_path / "out", "--plan", *selection, *options, LVEVAL_CACHE=cache)
        return len(list((tmp_path / "cache/plan").glob("cmrc_mixup_1k-*.jsonl")))

    assert files() == 1
    assert files("--model-name", "another", "--batch-size", "3", "--limit", "2") == 1
    assert files("--model-max-len", "100") == 2
    assert files("--prompts", prompts) == 3
    assert files("--model-name", "Mistral") == 4
    write_data(data_path, "cmrc_mixup_1k", [row("cmrc_mixup", n + 9) for n in range(5)])
    assert files() == 5


# --- What is left, money and hours ----------------------------------------------------------------


def test_answered_rows_are_left_out_and_the_run_is_not_touched(
    data_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(data_path, out, "--single-process", *SELECTION, "--limit", "3")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    found = predict(data_path, out, "--plan", *SELECTION)
    assert "12 rows are answered already and left out" in found.stdout
    assert figures(found.stdout)[ROWS] == (8, 0) and figures(found.stdout)[BUDGET] == (8 * 64, 0)
    assert (
        "nothing is left to do"
        in predict(data_path, out, "--plan", *SELECTION, "--limit", "2").stdout
    )
    assert figures(predict(data_path, out, "--plan", "--overwrite", *SELECTION).stdout)[ROWS] == (
        20,
        0,
    )
    other = predict(data_path, out, "--plan", *SELECTION, "--model-max-len", "77")
    assert (
        "a run would be refused" in other.stderr
        and "model_max_len: recorded 15500, asked 77" in other.stderr
    )
    assert figures(other.stdout)[ROWS] == (20, 0)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_money_and_hours_follow_from_the_tokens(data_path: Path, tmp_path: Path) -> None:
    options = (
        "--price-in",
        "2000",
        "--price-out",
        "10000",
        "--batch-discount",
        "0.25",
        "--tokens-per-second",
        "0.5",
    )
    found = predict(
        data_path, tmp_path, "--plan", "exact", *SELECTION, *options, "--num-workers", "4"
    ).stdout
    prompt, answers = figures(found)[PROMPT][0], figures(found)[BUDGET][0]
    asked, answered = prompt * 0.002, answers * 0.01
    assert f"prompts {asked:,.2f} USD, answers at most {answered:,.2f} USD" in found
    assert (
        f": {asked + answered:,.2f} USD; as a batch run (25% off) "
        f"{0.75 * (asked + answered):,.2f} USD" in found
    )
    hours = (prompt + answers) / 0.5 / 3600
    assert (
        f"{hours:,.2f} worker-hours" in found and f"with 4 workers {hours / 4:,.2f} hours" in found
    )
    assert "money" not in predict(data_path, tmp_path, "--plan", *SELECTION).stdout


def test_calibration_times_rows_of_each_level(data_path: Path, tmp_path: Path) -> None:
    """The echo backend takes 0.2 s a row, so 20 rows take 4 s."""
    delay = ("--backend-args", "delay=0.2")
    found = predict(
        data_path, tmp_path / "out", "--plan", *SELECTION, "--calibrate", "3", *delay
    ).stdout
    rates = [float(rate) for rate in re.findall(r"^\dk: ([\d.]+) s a row", found, re.M)]
    assert len(rates) == 2 and all(0.2 <= rate < 2 for rate in rates)
    (hours,) = re.findall(r"3 rows of each level took: ([\d.]+) worker-hours", found)
    assert float(hours) == pytest.approx(sum(rates) * 10 / 3600, abs=0.005)
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_which_no_row_is_answered_says_why(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    found = script(
        "prediction.py", "--model-path", tiny_model, "--data-path", data_path,
        "--output-dir", tmp_path, "--plan", "--calibrate", "1", "--single-process",
        "--backend-args", "window=220", "--model-max-len", "150",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "2k",
    )  # fmt: skip
    assert found.returncode == 3, found.stderr
    assert (
        "no row of 2k was answered (context_overflow: " in found.stderr
        and "Traceback" not in found.stderr
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--price-in", "-1"), "--price-in: found -1.0, expected a number from 0"),
        (("--price-out", "nan"), "--price-out: found nan"),
        (("--batch-discount", "50"), "--batch-discount: found 50.0, expected a number from 0 to 1"),
        (("--tokens-per-second", "0"), "--tokens-per-second: found 0.0, expected a number above 0"),
        (("--calibrate", "0"), "--calibrate: found 0, expected at least 1"),
        (("--calibrate", "2"), "--calibrate: found no --plan"),
    ],
)
def test_a_wrong_option_is_one_clear_sentence(
    data_path: Path, tmp_path: Path, options: tuple[str, ...], complaint: str
) -> None:
    found = script(
        "prediction.py",
        "--backend",
        "echo",
        "--model-name",
        "x",
        "--data-path",
        data_path,
        *options,
    )
    assert found.returncode == 2 and complaint in found.stderr and "Traceback" not in found.stderr


def test_bad_data_and_a_format_that_is_not_there_are_one_sentence(
    data_path: Path, tmp_path: Path
) -> None:
    """Faults that a process of the pool meets reach the user as in a run."""
    options = (
        "prediction.py",
        "--plan",
        "--backend",
        "echo",
        "--data-path",
        data_path,
        "--output-dir",
        tmp_path,
    )
    found = script(*options, *SELECTION, "--model-name", "chatglm2")
    assert (
        found.returncode == 2
        and "has no build_prompt" in found.stderr
        and "Traceback" not in found.stderr
    )
    rows = [row("cmrc_mixup", number) for number in range(3)]
    del rows[1]["answers"]
    write_data(data_path, "cmrc_mixup_1k", rows)
    found = script(*options, *SELECTION, "--model-name", "x")
    assert (
        found.returncode == 2
        and "cmrc_mixup_1k.jsonl:2: " in found.stderr
        and "Traceback" not in found.stderr
    )


def test_the_table_is_aligned() -> None:
    line = estimate_file({0: PromptTokens(3, 4, True)}, {0: 9}, 10, 64)
    text = plan.table({("cmrc_mixup", "1k"): line, ("lic_mixup", "128k"): line + line}).splitlines()
    assert len({len(part) for part in text}) == 1 and len(text) == 1 + 1 + 2 + 1 + 2 + 1
