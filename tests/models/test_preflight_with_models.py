"""What a run will cost: counted tokens are those that a run records, an estimate lies within its error."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import lines, row, script, write_data
from support.preflight_parts import (
    BUDGET,
    CUT,
    DROPPED,
    FULL,
    LONGEST,
    LOST,
    PROMPT,
    ROWS,
    SELECTION,
    built,
    cache_files,
    cells,
    figures,
    predict,
)

from lveval.planning.token_counts import PromptTokens

__all__ = ["built"]  # fixtures


def recorded(folder: Path, name: str) -> list[PromptTokens]:
    """What the records of a finished file say."""
    keys = ("prompt_tokens", "prompt_tokens_full", "evidence_kept")
    return [
        PromptTokens(*(record[key] for key in keys))  # type: ignore[arg-type]
        for record in lines(folder / f"{name}.jsonl")
    ]


def expected(records: list[PromptTokens], limit: int, budget: int) -> list[float]:
    """The columns that these records make."""
    kept = 2 * int(limit / 2)
    prompt, full = sum(item.prompt for item in records), sum(item.full for item in records)
    cut = [item for item in records if item.full > limit]
    states = [item.evidence_kept for item in records]
    longest = max(item.prompt for item in records)
    dropped = sum(item.full - kept for item in cut)
    lost, unknown = states.count(False), states.count(None)
    return [len(records), longest, prompt, full, budget, len(cut), dropped, lost, unknown]


# --- Counts are those of a run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["echo", "hf", "chat"])
def test_exact_counts_are_those_that_a_run_records(
    engine: str, request: pytest.FixtureRequest, data_path: Path, tmp_path: Path
) -> None:
    """Of every row, with cut and uncut prompts, a chat template, and a model that has a .chat() of its own."""
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
            cell = cells(guessed, *name)[column].replace(",", "")
            least, most = map(
                float, re.findall(r"\((\d+)-(\d+)\)", cell)[0] if "(" in cell else [cell, cell]
            )
            assert least <= true[column][0] <= most, (name, column)


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


def test_a_calibration_of_which_no_row_is_answered_says_why(
    tiny_model: Path, data_path: Path, tmp_path: Path
) -> None:
    found = script(
        "prediction.py", "--model-path", tiny_model, "--data-path", data_path, "--output-dir", tmp_path, "--plan",
        "--calibrate", "1", "--single-process", "--backend-args", "window=220", "--model-max-len", "150",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "2k",
    )  # fmt: skip
    assert found.returncode == 3, found.stderr
    assert (
        "no row of 2k was answered (context_overflow: " in found.stderr
        and "Traceback" not in found.stderr
    )
