"""Controls, run as a user runs them: engines of which every answer is known, on constructed data."""

import json
import re
import subprocess
from collections.abc import Mapping
from math import fsum
from pathlib import Path
from typing import Any

import pytest
from conftest import in_process, lines, row, write_data
from support.processes import ECHO
from support.service import FILE, NAME, Served, records, server
from support.service import data as service_data
from support.service import environment as service_environment
from support.service import predict as ask_service

from lveval import config
from lveval.data.controls import CONTROLS

__all__ = ["server", "service_environment"]  # fixtures

SUBSETS = ("factrecall_en", "hotpotwikiqa_mixup", "lic_mixup", "cmrc_mixup")
LANGUAGES = {"en": SUBSETS[:2], "zh": SUBSETS[2:]}
LEVELS = ("1k", "2k")
ROWS = 5

# What a model of a known mind says. `facts`: the first confusing fact that stands in the prompt, else
# the answer where the evidence does, else nothing of use; `memory`: the answer, whatever is there;
# `short`: the answer where the evidence stands in a short prompt; `mirror`: the prompt.
ENGINE = """
import json
from pathlib import Path

from lveval.backends.base import Engine, Generation
from lveval.backends.echo import EchoTokenizer

ROWS = [
    json.loads(line)
    for path in sorted(Path({data!r}).rglob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]
ENGINE_ARGS = {{"mind": str}}


class Known(Engine):
    tokenizer = EchoTokenizer()

    def __init__(self, mind):
        self.mind = mind

    def generate(self, prompts):
        for position, prompt in enumerate(prompts):
            yield position, Generation(self.answer(prompt.text), "ok")

    def answer(self, text):
        row = next(row for row in ROWS if row["input"] in text)
        offsets, context = row["offsets"], row["context"]
        seen = all(context[a:b] in text for a, b in offsets["evidence"])
        facts = [fact for fact in row["confusing_facts"] or [] if fact in text]
        if self.mind == "mirror":
            return text
        if self.mind == "facts" and facts:
            return facts[0]
        if self.mind == "short" and len(self.tokenizer.encode(text)) > 1600:
            return "?"
        return row["answers"][0] if seen or self.mind == "memory" else "?"


def settings_fingerprint(options): return {{}}
def tokenizer(options): return EchoTokenizer()
def load(options): return Known(options.args["mind"])
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controls") / "data"
    words = ("--datasets", *SUBSETS, "--lengths", *LEVELS, "--rows", str(ROWS))
    found = in_process("-m", "lveval", "construct", "--output-dir", folder, *words)
    assert found.returncode == 0, found.stderr
    return folder


@pytest.fixture(scope="module")
def engine(built: Path) -> Path:
    path = built.parent / "known.py"
    path.write_text(ENGINE.format(data=str(built)))
    return path


def predict(
    data: Path, output: Path, name: str, *options: str | Path, backend: str | Path = "echo"
) -> subprocess.CompletedProcess[str]:
    where = ("--data-path", data, "--output-dir", output, "--lengths", *LEVELS, "--single-process")
    return in_process(
        "prediction.py",
        "--backend",
        backend,
        "--model-name",
        name,
        "--datasets",
        *SUBSETS,
        *where,
        *options,
    )


def ask(data: Path, output: Path, engine: Path, mind: str, *controls: str) -> dict[str, Path]:
    """A full run and these controls by a model of that mind."""
    folders = {}
    for control in ("", *controls):
        name = f"{mind}-{control or 'full'}"
        words = ["--backend-args", f"mind={mind}", *(["--control", control] if control else [])]
        found = predict(data, output, name, *words, backend=engine)
        assert found.returncode == 0, found.stderr
        folders[control or "full"] = output / name
    return folders


def compare(folders: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """What is printed of the comparisons, and comparison.json's by control."""
    full, *others = folders.values()
    found = in_process("evaluation.py", "--input-dir", full, "--compare", *others, "-v")
    assert found.returncode == 0, found.stderr
    compared = json.loads((full / "comparison.json").read_text(encoding="utf-8"))["compared"]
    return found.stdout, {
        control: compared[str(folder)] for control, folder in folders.items() if control != "full"
    }


def exported(folder: Path) -> dict[str, bytes]:
    files = (folder / f"{subset}_{level}.jsonl" for subset in SUBSETS for level in LEVELS)
    return {path.name: path.read_bytes() for path in files}


def parts_of(files: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """By hand: the plain mean of each level's files, of these the mean, by language and by subset."""

    def mean(subsets: tuple[str, ...], levels: tuple[str, ...] = LEVELS) -> float:
        by_level = [
            [files[subset, level] for subset in subsets if (subset, level) in files]
            for level in levels
        ]
        return fsum(fsum(of_level) / len(of_level) for of_level in by_level) / len(by_level)

    asked = tuple(dict.fromkeys(subset for subset, _ in files))
    languages = {name: tuple(set(of) & set(asked)) for name, of in LANGUAGES.items()}
    return {
        "overall": mean(asked),
        **{level: mean(asked, (level,)) for level in LEVELS},
        **{name: mean(of) for name, of in languages.items()},
        **{subset: mean((subset,)) for subset in asked},
        **{f"{subset}_{level}": score for (subset, level), score in files.items()},
    }


def contrast(found: Mapping[str, Any]) -> dict[str, float]:
    """The values of a contrast by part."""
    data = found["contrast"]
    kinds = [data[kind] for kind in ("levels", "languages", "subsets", "files")]
    every = {
        "overall": data["overall"],
        **{name: part for kind in kinds for name, part in kind.items()},
    }
    return {name: part["value"] for name, part in every.items()}


def misled(row: dict[str, Any]) -> float:
    """The score of a model that answers with the row's first confusing fact, or the truth."""
    metric = config.DATASET_METRIC[row["dataset"]]
    answer = (row["confusing_facts"] or row["answers"])[0]
    return metric(answer, row["answers"][0], row["answer_keywords"])


# --- numbers that are known -------------------------------------------------------------------------------------------


def test_a_model_that_falls_for_facts_shows_what_they_cost(
    built: Path, engine: Path, tmp_path: Path
) -> None:
    folders = ask(built, tmp_path, engine, "facts", *CONTROLS)
    printed, found = compare(folders)
    with_facts = [subset for subset in SUBSETS if subset != "cmrc_mixup"]
    # What a fact scores against the truth, by the scorer's own functions; cmrc has no facts.
    full = {
        (subset, level): 100
        * fsum(map(misled, lines(built / subset / f"{subset}_{level}.jsonl")))
        / ROWS
        for subset in SUBSETS
        for level in LEVELS
    }
    assert all(full[subset, level] < 40 for subset in with_facts for level in LEVELS)
    cost = {file: 100 - score for file, score in full.items()}
    no_facts = {file: value for file, value in cost.items() if file[0] in with_facts}
    for control, expected in (
        ("no-facts", no_facts),
        ("evidence-only", cost),
        ("closed-book", full),
    ):
        assert contrast(found[control]) == {
            part: pytest.approx(value, abs=0.006) for part, value in parts_of(expected).items()
        }, control
    for name, count, alone in (
        ("no-facts", 30, 10),
        ("evidence-only", 40, 0),
        ("closed-book", 40, 0),
    ):
        assert (found[name]["rows"], found[name]["only_a"], found[name]["only_b"]) == (
            count,
            alone,
            0,
        )
        assert found[name]["unlike"] == []
    assert found["no-facts"]["overall"]["shown"] == "B better"
    assert (
        "Cost of confusing facts: no-facts - full, in points: what the confusing facts cost."
        in printed
    )
    assert re.search(
        r"^compared +full +no-facts +difference +95 % interval +p +shown$", printed, re.M
    )
    assert "no-facts better" in printed


def test_the_closed_book_of_a_model_that_knows_gains_nothing(
    built: Path, engine: Path, tmp_path: Path
) -> None:
    printed, found = compare(ask(built, tmp_path, engine, "memory", "closed-book"))
    assert set(contrast(found["closed-book"]).values()) == {0.0}
    assert {part["shown"] for part in found["closed-book"]["files"].values()} == {
        "no difference shown"
    }
    assert {part["a"] for part in found["closed-book"]["files"].values()} == {100.0}
    assert "Context gain: full - closed-book, in points: what reading the context gains." in printed
    # One that reads gains all that it scores.
    _, found = compare(ask(built, tmp_path, engine, "short", "closed-book"))
    gains = {
        f"{subset}_{level}": {"1k": 100.0, "2k": 0.0}[level]
        for subset in SUBSETS
        for level in LEVELS
    }
    assert contrast(found["closed-book"]).items() >= gains.items()


def test_a_model_of_short_breath_shows_what_length_costs(
    built: Path, engine: Path, tmp_path: Path
) -> None:
    _, found = compare(ask(built, tmp_path, engine, "short", "evidence-only"))
    costs = parts_of(
        {(subset, level): {"1k": 0.0, "2k": 100.0}[level] for subset in SUBSETS for level in LEVELS}
    )
    assert contrast(found["evidence-only"]) == costs
    assert found["evidence-only"]["levels"]["2k"]["shown"] == "B better"


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["builtin", "own"])
def test_the_template_is_filled_with_what_the_control_leaves(
    built: Path, engine: Path, tmp_path: Path, own: bool
) -> None:
    templates = (
        dict.fromkeys(SUBSETS, "Read:{context}|{input}|{context}.")
        if own
        else config.DATASET_PROMPT
    )
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps(templates))
    for control in CONTROLS:
        words = (
            "--control",
            control,
            "--backend-args",
            "mind=mirror",
            *(("--prompts", prompts) if own else ()),
        )
        found = predict(built, tmp_path, control, *words, backend=engine)
        assert found.returncode == 0, found.stderr
        for subset in SUBSETS:
            data = lines(built / subset / f"{subset}_2k.jsonl")
            for record in lines(tmp_path / control / f"{subset}_2k.jsonl"):
                asked: Any = data[int(str(record["index"]))]
                spans = sorted(asked["offsets"]["evidence"])
                passages = [asked["context"][start:end] for start, end in spans]
                prompt = str(record["pred"])
                if control == "no-facts":
                    assert not any(fact in prompt for fact in asked["confusing_facts"])
                    assert all(passage in prompt for passage in passages)
                    assert len(prompt.split()) > 1800 or record["language"] == "zh"
                else:
                    context = "" if control == "closed-book" else "\n\n".join(passages)
                    expected = (
                        templates[subset]
                        .replace("{context}", context)
                        .replace("{input}", asked["input"])
                    )
                    assert prompt == expected.strip()
                assert record["evidence_kept"] is (None if control == "closed-book" else True)
                assert (record["length"], record["answers"]) == (asked["length"], asked["answers"])


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", list(CONTROLS))
def test_a_control_resumes_to_the_same_bytes_and_mixes_with_nothing(
    built: Path, tmp_path: Path, control: str
) -> None:
    words = ("--control", control)
    assert predict(built, tmp_path / "whole", "dry", *words).returncode == 0
    for limit in ("1", "3"):
        assert predict(built, tmp_path / "parts", "dry", *words, "--limit", limit).returncode == 0
    rows = tmp_path / "parts/dry/rows/lic_mixup_2k.jsonl"
    rows.write_bytes(rows.read_bytes()[:-40])  # as a kill in mid-write leaves it
    found = predict(built, tmp_path / "parts", "dry", *words)
    assert found.returncode == 0, found.stderr
    assert exported(tmp_path / "parts/dry") == exported(tmp_path / "whole/dry")
    found = in_process("evaluation.py", "--input-dir", tmp_path / "parts/dry", "-v")
    assert found.returncode == 0, found.stderr
    asked = {"closed-book": 40, "evidence-only": 40, "no-facts": 30}[control]
    printed = " ".join(found.stdout.split())
    assert f"rows:{asked}/{asked} | control:{control}" in printed
    assert f"Control {control}: the prompts hold {CONTROLS[control].shows}" in printed
    assert "leaderboard" not in found.stdout and "scored on" not in found.stdout
    meta = json.loads((tmp_path / "parts/dry/results_meta.json").read_text(encoding="utf-8"))
    assert meta["run"]["given"] == {"control": control} and meta["limited"] == []
    assert meta["files"]["cmrc_mixup_1k"]["left_out"] == (5 if control == "no-facts" else 0)
    others = [other for other in CONTROLS if other != control]
    for other in (("--control", others[0]), ("--control", others[1]), ()):
        found = predict(built, tmp_path / "parts", "dry", *other)
        assert found.returncode == 4 and "given.control: recorded" in found.stderr


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Of five rows two mark evidence, and three have facts that stand in the context."""
    made = []
    for number in range(5):
        each = row(number=number)
        context, fact = str(each["context"]), str(each["confusing_facts"])
        if number in (1, 3):
            at = context.index("Lighthouse")
            each["offsets"] = {"evidence": [[at, context.index(" Venn.") + 6]]}
        if number in (0, 3, 4):
            each["context"] = f"{context} {fact}"
        made.append(each)
    write_data(tmp_path / "mixed", "hotpotwikiqa_mixup_1k", made)
    return tmp_path / "mixed"


def ask_mixed(mixed: Path, control: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = (
        "--backend",
        "echo",
        "--model-name",
        control,
        "--datasets",
        "hotpotwikiqa_mixup",
        "--lengths",
        "1k",
    )
    where = ("--data-path", mixed, "--output-dir", mixed.parent / "out", "--single-process")
    return in_process("prediction.py", *words, *where, "--control", control, *options)


@pytest.mark.parametrize(
    ("control", "kept", "why"),
    [
        ("evidence-only", [1, 3], "3 of 5 rows mark no evidence"),
        (
            "no-facts",
            [0, 3, 4],
            "2 of 5 rows have no confusing facts, or one that is not in the context verbatim",
        ),
    ],
)
def test_rows_that_a_control_does_not_apply_to_are_counted_and_left_out(
    mixed: Path, control: str, kept: list[int], why: str
) -> None:
    said = f"{why} and are left out (hotpotwikiqa_mixup_1k {5 - len(kept)})"
    found = ask_mixed(mixed, control, "--limit", "2")
    assert found.returncode == 0 and "1 of 2 rows" in found.stderr
    found = ask_mixed(mixed, control, "--plan")
    assert "1 rows are answered already and left out" in found.stdout
    assert f" {len(kept) - 1} rows were counted" in found.stdout
    found = ask_mixed(mixed, control)
    assert found.returncode == 0 and f"control {control}: " in found.stderr and said in found.stderr
    folder = mixed.parent / "out" / control
    assert [record["index"] for record in lines(folder / "hotpotwikiqa_mixup_1k.jsonl")] == kept
    found = in_process("evaluation.py", "--input-dir", folder)
    assert f"{len(kept)}/{len(kept)}" in found.stdout and said in " ".join(found.stdout.split())
    assert "scored on" not in found.stdout
    assert "nothing is left to do" in ask_mixed(mixed, control, "--plan").stdout


def test_an_incomplete_control_names_what_finishes_it(mixed: Path) -> None:
    assert ask_mixed(mixed, "no-facts", "--limit", "2").returncode == 0
    assert ask_mixed(mixed, "no-facts").returncode == 0
    folder = mixed.parent / "out/no-facts"
    rows = folder / "rows/hotpotwikiqa_mixup_1k.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]))
    (folder / "hotpotwikiqa_mixup_1k.jsonl").unlink()
    found = in_process("evaluation.py", "--input-dir", folder)
    assert found.returncode == 3 and "incomplete: 1 rows of 1 files" in found.stderr
    (command,) = (line for line in found.stderr.splitlines() if line.startswith("To finish: "))
    assert "--limit" not in command  # the start with the limit selected less


def test_data_that_a_control_has_nothing_to_ask_of_is_one_sentence(
    data_path: Path, tmp_path: Path
) -> None:
    words = (
        "--backend",
        "echo",
        "--model-name",
        "dry",
        "--data-path",
        data_path,
        "--output-dir",
        tmp_path,
    )
    selection = ("--datasets", "cmrc_mixup", "--lengths", "1k", "2k", "--single-process")
    found = in_process("prediction.py", *words, *selection, "--control", "evidence-only")
    assert found.returncode == 2
    assert (
        "--control evidence-only: the prompts hold the evidence alone; 10 of 10 rows mark no evidence and are left "
        "out (cmrc_mixup_1k 5, cmrc_mixup_2k 5); expected data with rows that it applies to"
    ) in found.stderr
    assert not (tmp_path / "dry").exists()


@pytest.mark.parametrize("control", list(CONTROLS))
def test_a_plan_counts_the_tokens_that_the_run_records(
    built: Path, tmp_path: Path, control: str
) -> None:
    words = ("--control", control, "--price-in", "1000000")
    planned = predict(built, tmp_path, "dry", *words, "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "rows were counted" in planned.stdout
    assert predict(built, tmp_path, "dry", *words).returncode == 0
    tokens = sum(
        int(str(record["prompt_tokens"]))
        for subset in SUBSETS
        for level in LEVELS
        for record in lines(tmp_path / "dry" / f"{subset}_{level}.jsonl")
    )
    assert f"money: prompts {tokens:,.2f} USD" in planned.stdout  # a dollar a token


def test_a_plan_of_short_prompts_counts_them_all(tmp_path: Path) -> None:
    """Five rows of a hundred tell nothing of the others here: no row's size does."""
    made = [
        row(number=number, words=60 + number, input=f"{'Well, ' * number}when?")
        for number in range(30)
    ]
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", made)
    words = (*ECHO, "--datasets", "hotpotwikiqa_mixup")
    where = ("--data-path", tmp_path / "data", "--output-dir", tmp_path / "out", "--plan")
    assert "estimated from 5 of 30 rows" in in_process("prediction.py", *words, *where).stdout
    found = in_process("prediction.py", *words, *where, "--control", "closed-book")
    assert "all 30 rows were counted" in found.stdout


def test_the_check_of_a_control_says_what_it_asks(built: Path, tmp_path: Path) -> None:
    found = predict(built, tmp_path, "dry", "--control", "no-facts", "--check")
    assert found.returncode == 0, found.stderr
    assert (
        "control no-facts: the prompts hold the context without its confusing facts; 10 of 40 rows"
        in found.stderr
    )


def test_a_plugin_gets_the_context_that_the_control_leaves(
    built: Path, engine: Path, tmp_path: Path
) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(
        "class Ends:\n    def context(self, row):\n        return f\"<{row['context']}>\"\n"
    )
    words = ("--backend-args", "mind=mirror", "--plugin", plugin, "--control", "closed-book")
    own = tmp_path / "own.py"
    own.write_text(engine.read_text() + '\nOPTIONS = ("plugin",)\n')
    found = predict(built, tmp_path, "dry", *words, backend=own)
    assert found.returncode == 0, found.stderr
    for record in lines(tmp_path / "dry/lic_mixup_1k.jsonl"):
        expected = (
            config.DATASET_PROMPT["lic_mixup"]
            .replace("{context}", "<>")
            .replace("{input}", str(record["input"]))
        )
        assert record["pred"] == expected


def test_a_service_is_asked_what_the_control_leaves(server: Served, tmp_path: Path) -> None:
    service_data(tmp_path, 3)
    assert ask_service(server, tmp_path).returncode == 0
    full = records(tmp_path)
    (tmp_path / "out").rename(tmp_path / "full")
    found = ask_service(server, tmp_path, "--control", "closed-book")
    assert found.returncode == 0, found.stderr
    for whole, asked in zip(full, records(tmp_path), strict=True):
        assert asked["pred"] == whole["pred"]  # the server answers by the question
        assert int(str(asked["prompt_tokens"])) < int(str(whole["prompt_tokens"])) - 60
    found = ask_service(server, tmp_path)
    assert found.returncode == 4 and "given.control" in found.stderr
    assert (tmp_path / "out" / NAME / f"{FILE}.jsonl").exists()


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_the_control_and_shows_its_contrast(
    built: Path, engine: Path, tmp_path: Path
) -> None:
    folders = ask(built, tmp_path, engine, "facts", "no-facts")
    words = ("--markdown", "--latex", "--leaderboard")
    report = ("-m", "lveval", "report", "--input-dir")
    found = in_process(*report, folders["full"], "--compare", folders["no-facts"], *words)
    assert found.returncode == 0, found.stderr
    page = (folders["full"] / "report.html").read_text(encoding="utf-8")
    said = "Cost of confusing facts: no-facts - full, in points: what the confusing facts cost."
    assert f"<p>{said}</p>" in page and "no-facts better" in page
    heads = '-no-facts</bdi></th><th scope="col" translate="no"><bdi>cost of confusing facts</bdi>'
    assert heads in page
    for name in ("report.md", "report.tex"):
        table = (folders["full"] / name).read_text(encoding="utf-8")
        assert said in table.replace("\\", "").replace("-{}-", "-")
    moved = folders["no-facts"].rename(tmp_path / "moved")
    found = in_process(*report, moved, "--compare", folders["full"], *words)
    assert found.returncode == 0, found.stderr
    page = (moved / "report.html").read_text(encoding="utf-8")
    assert "<title>moved (no-facts) – LV-Eval report</title>" in page and f"<p>{said}</p>" in page
    assert "the control no-facts asks something else than the benchmark" in page
    assert "Not the leaderboard’s overall scores: this run is the control no-facts." in page
    assert "Its scores are not the benchmark&#39;s." in page
    assert "Scores of moved (no-facts)" in (moved / "report.md").read_text().replace("\\", "")
