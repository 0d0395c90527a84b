"""What a run will cost: counted tokens are those that a run records, an estimate lies within its error."""

import random
import re
import shlex
import shutil
import statistics
from pathlib import Path

import pytest
from conftest import row, script, write_data
from support.preflight_parts import BUDGET, PROMPT, ROWS, SELECTION, figures, predict

from lveval.backends import BACKENDS, backend_module, hf
from lveval.backends.base import EngineOptions
from lveval.common.errors import LVEvalError
from lveval.planning import plan, token_counts
from lveval.planning.estimate import Estimate, estimate_file
from lveval.planning.token_counts import PromptTokens


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


def population(seed: int, limit: int) -> dict[int, tuple[int, PromptTokens]]:
    """A made-up file: index -> (bytes, count); tokens follow the bytes but for some noise, and are cut at the limit."""
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
    """Of 400 made-up files 95 % of the true sums lie within; so do the sums over 20 files. And they are not wide."""
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


# --- What is left, money and hours ------------------------------------------------------------------------------------


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
        f"\n  {asked + answered:,.2f} USD; as a batch run (25% off) {0.75 * (asked + answered):,.2f} USD"
        in found
    )
    assert f", at most {asked + answered:,.2f} USD\n" in found.splitlines(keepends=True)[0]
    hours = (prompt + answers) / 0.5 / 3600
    assert f"{hours:,.2f} hours of one worker; with 4 workers {hours / 4:,.2f} hours" in found
    assert "money:" not in predict(data_path, tmp_path, "--plan", *SELECTION).stdout


def test_calibration_times_rows_of_each_level(data_path: Path, tmp_path: Path) -> None:
    """The echo backend takes 0.2 s a row, so 20 rows take 4 s."""
    delay = ("--backend-args", "delay=0.2")
    found = predict(
        data_path, tmp_path / "out", "--plan", *SELECTION, "--calibrate", "3", *delay
    ).stdout
    rates = [float(rate) for rate in re.findall(r"^\dk: ([\d.]+) s a row", found, re.M)]
    assert len(rates) == 2 and all(0.2 <= rate < 2 for rate in rates)
    (hours,) = re.findall(r"3 rows of each level took: ([\d.]+) hours of one worker", found)
    assert float(hours) == pytest.approx(sum(rates) * 10 / 3600, abs=0.005)
    assert not (tmp_path / "out").exists()


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


def test_the_tables_are_aligned_and_fit_100_columns() -> None:
    line = estimate_file({0: PromptTokens(3, 4, True)}, {0: 9}, 10, 64)
    text = plan.table({("cmrc_mixup", "1k"): line, ("lic_mixup", "128k"): line + line}).splitlines()
    assert len({len(part) for part in text}) == 1 and len(text) == 1 + 1 + 2 + 1 + 2 + 1
    assert plan.cut_table({("cmrc_mixup", "1k"): line}) == []
    # The whole benchmark before a window of a million tokens, as uncertain as an estimate is.
    rows = {
        index: PromptTokens(380_000 + 999 * index, 390_000 + 999 * index, index % 2 == 0)
        for index in range(5)
    }
    sizes = dict.fromkeys(range(200), 2_400_000)
    whole = estimate_file(rows, sizes, 390_000, 64)
    files = {
        (subset, level): whole
        for subset in ("multifieldqa_zh_mixup", "cmrc_mixup")
        for level in ("16k", "256k")
    }
    tables = [plan.table(files), *plan.cut_table(files)]
    assert max(len(part) for text in tables for part in text.splitlines()) <= 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 second"), (80, "80 seconds"), (91, "2 minutes"), (5399, "90 minutes"), (5400, "2 hours"),
     (129599, "36 hours"), (400000, "5 days")],
)  # fmt: skip
def test_a_duration_is_in_the_unit_of_a_person(seconds: float, words: str) -> None:
    assert plan._duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(12, "12"), (950, "950"), (999.6, "1.0k"), (27_300, "27k"), (1_340_000, "1.3M"), (8.7e8, "870M")],
)  # fmt: skip
def test_a_large_number_has_three_figures(number: float, words: str) -> None:
    assert plan._short(number) == words


def test_a_plan_begins_with_what_it_comes_to_and_ends_with_the_run(
    data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["prediction.py"])
    options = (*SELECTION, "--tokens-per-second", "0.5", "--price-in", "2000", "--price-out", "0")
    found = predict(data_path, tmp_path / "o u t", "--plan=exact", *options).stdout.splitlines()
    prompt = figures("\n".join(found))[PROMPT][0]
    assert re.fullmatch(r"20 prompts, \d\.\dk tokens, about \d hours, at most [\d.]+ USD", found[0])
    assert f"{prompt * 0.002:,.2f} USD" in found[0]
    _, _, command = found[-1].partition("; next: ")
    assert found[-1].startswith(
        f"run folder: {tmp_path / 'o u t'}/dry; next: python prediction.py "
    )
    ran = script(*shlex.split(command)[1:])
    assert ran.returncode == 0, ran.stderr
    done = predict(data_path, tmp_path / "o u t", "--plan", *SELECTION).stdout.splitlines()
    assert done[0] == "nothing is left to do"
    assert done[-1].endswith(f"next: python evaluation.py --input-dir '{tmp_path}/o u t/dry'")
    fresh = predict(data_path, tmp_path, "--plan", *SELECTION).stdout.splitlines()
    assert re.fullmatch(r"20 prompts, \d\.\dk tokens, time by --calibrate 3", fresh[0])
