"""A run in parts, merged: what one run would have left, whatever came when; samples of a run."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, lines, row, write_data
from support.part_runs import contents, derived, evaluate, manifest, predict
from support.prediction_parts import SELECTION

ECHO = ("--backend", "echo", "--model-name", "dry", *SELECTION)


def part(data: Path, output: Path, which: str, *options: str, code: int = 0) -> str:
    return predict(output, *ECHO, "--data-path", data, "--part", which, *options, code=code)


@pytest.fixture
def single(data_path: Path, tmp_path: Path) -> Path:
    """The run in one piece, scored."""
    predict(tmp_path / "single", *ECHO, "--data-path", data_path)
    evaluate(tmp_path / "single/dry")
    return tmp_path / "single/dry"


def test_merged_parts_are_the_bytes_of_one_run(
    single: Path, data_path: Path, tmp_path: Path
) -> None:
    for which in ("2/3", "3/3", "1/3"):
        said = part(data_path, tmp_path, which)
    assert f"--merge --input-dir {tmp_path / 'dry'}" in said
    parts = [tmp_path / f"dry.part{number}of3" for number in (1, 2, 3)]
    sizes = [sum(len(lines(path)) for path in part.glob("rows/*")) for part in parts]
    assert sum(sizes) == 20 and max(sizes) - min(sizes) <= 3
    before = [contents(part) for part in parts]
    evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(single)
    assert manifest(tmp_path / "dry") == manifest(single)
    assert [contents(part) for part in parts] == before
    again = contents(tmp_path / "dry")
    evaluate(tmp_path / "dry", "--merge")
    assert contents(tmp_path / "dry") == again
    # It goes on as one run: nothing is left to answer.
    predict(tmp_path, *ECHO, "--data-path", data_path)
    assert derived(tmp_path / "dry") == derived(single)


def test_what_is_missing_is_named_and_merged_once_it_is_there(
    single: Path, data_path: Path, tmp_path: Path
) -> None:
    part(data_path, tmp_path, "1/3", "--limit", "2")
    said = evaluate(tmp_path / "dry", "--merge", code=3)
    assert "missing parts (of 3): 2, 3" in said and "cmrc_mixup_1k: " in said
    assert not list((tmp_path / "dry").glob("results*"))
    evaluate(tmp_path / "dry", "--merge", "--allow-partial")
    part(data_path, tmp_path, "1/3")
    part(data_path, tmp_path, "2/3")
    said = evaluate(tmp_path / "dry", "--merge", code=3)
    assert "missing parts (of 3): 3" in said
    # The rest may be answered in the merged folder, too; a part that answers it later adds nothing.
    predict(tmp_path, *ECHO, "--data-path", data_path)
    part(data_path, tmp_path, "3/3")
    evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(single)


def test_parts_that_grow_keep_their_rows(single: Path, data_path: Path, tmp_path: Path) -> None:
    for options in (("--limit", "1"), ("--limit", "3"), ()):
        for which in ("1/2", "2/2"):
            part(data_path, tmp_path, which, *options)
        evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(single)


def test_failed_attempts_and_times_come_along_once(data_path: Path, tmp_path: Path) -> None:
    part(data_path, tmp_path, "1/2")
    part(data_path, tmp_path, "2/2")
    folder = tmp_path / "dry.part1of2"
    known = lines(next(folder.glob("rows/*")))[0]
    key = {name: known[name] for name in ("dataset", "level", "index")}
    (folder / "times.jsonl").write_text(json.dumps({**key, "seconds": 0.25}) + "\n{torn")
    failure = {"time": "2026-01-01T00:00:00Z", **key, "cause": "worker_died", "message": "died"}
    (folder / "attempts.jsonl").write_text(json.dumps(failure) + "\n")
    for _ in range(2):
        evaluate(tmp_path / "dry", "--merge")
        assert lines(tmp_path / "dry/attempts.jsonl") == [failure]
        assert lines(tmp_path / "dry/times.jsonl") == [{**key, "seconds": 0.25}]


def test_a_part_alone_is_not_scored_by_mistake(data_path: Path, tmp_path: Path) -> None:
    part(data_path, tmp_path, "1/2")
    said = evaluate(tmp_path / "dry.part1of2", code=3)
    assert "parts of this run are there: add --merge" in evaluate(tmp_path / "dry", code=2)
    assert "is part 1 of 2 of a run" in said and f"--input-dir {tmp_path / 'dry'}" in said


def test_parts_that_do_not_belong_together_are_refused(data_path: Path, tmp_path: Path) -> None:
    merged = tmp_path / "dry"
    assert "found no part of this run" in evaluate(merged, "--merge", code=2)
    part(data_path, tmp_path, "1/2")
    part(data_path, tmp_path, "2/2", "--model-max-len", "300")
    said = evaluate(merged, "--merge", code=4)
    assert "dry.part2of2: " in said and "model_max_len: recorded 300, asked 15500" in said
    assert not merged.exists()
    shutil.rmtree(tmp_path / "dry.part2of2")
    shutil.copytree(tmp_path / "dry.part1of2", tmp_path / "dry.part2of2")
    said = evaluate(merged, "--merge", code=2)
    assert "by its run.json it is part 1 of 2; expected part 2 of 2" in said
    changed = tmp_path / "dry.part2of2/run.json"
    changed.write_text(changed.read_text().replace('"part": [\n    1', '"part": [\n    2'))
    assert "is in " in (said := evaluate(merged, "--merge", code=2)) and "too" in said
    shutil.rmtree(tmp_path / "dry.part2of2")
    part(data_path, tmp_path, "1/3")
    assert "found parts of 2 and of 3" in evaluate(merged, "--merge", code=2)


def test_engines_that_loaded_otherwise_are_refused_before_a_row_is_merged(
    data_path: Path, tmp_path: Path
) -> None:
    for number, device in ((1, "cuda"), (2, "cpu")):
        part(data_path, tmp_path, f"{number}/2")
        path = tmp_path / f"dry.part{number}of2/run.json"
        changed = json.loads(path.read_text())
        changed["identity"]["effective"] = {"device": device}
        path.write_text(json.dumps(changed))
    assert "effective.device" in evaluate(tmp_path / "dry", "--merge", code=4)
    assert not list((tmp_path / "dry").rglob("*.jsonl"))


def test_parts_of_other_data_or_beside_another_run_are_refused(
    data_path: Path, tmp_path: Path
) -> None:
    predict(tmp_path, *ECHO, "--data-path", data_path, "--model-max-len", "300")
    part(data_path, tmp_path, "1/2")
    before = contents(tmp_path / "dry")
    assert "model_max_len" in evaluate(tmp_path / "dry", "--merge", code=4)
    assert contents(tmp_path / "dry") == before
    shutil.rmtree(tmp_path / "dry")
    write_data(data_path, "cmrc_mixup_2k", [row("cmrc_mixup", n + 1) for n in range(5)])
    part(data_path, tmp_path, "2/2")
    assert "data.cmrc_mixup_2k: recorded" in evaluate(tmp_path / "dry", "--merge", code=4)


def test_a_damaged_part_is_named_and_a_row_that_is_being_written_waits(
    single: Path, data_path: Path, tmp_path: Path
) -> None:
    part(data_path, tmp_path, "1/2")
    part(data_path, tmp_path, "2/2")
    path = next((tmp_path / "dry.part1of2/rows").iterdir())
    content = path.read_bytes()
    path.write_bytes(content.replace(b"18", b"19", 1))
    assert f"{path}:1: damaged" in evaluate(tmp_path / "dry", "--merge", code=6)
    path.write_bytes(content[:-9])  # as a writer's last line may look for a moment
    evaluate(tmp_path / "dry", "--merge", code=3)
    path.write_bytes(content)
    evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(single)


def test_a_control_leaves_out_the_same_rows_in_parts(tmp_path: Path) -> None:
    rows = [
        row(number=n, confusing_facts=[f"Lighthouse {n}"] if n % 3 else None) for n in range(12)
    ]
    for level in ("1k", "2k"):
        write_data(tmp_path / "data", f"hotpotwikiqa_mixup_{level}", rows)
    words: tuple[str, ...] = (*ECHO[:4], "--datasets", "hotpotwikiqa_mixup")
    words += ("--lengths", "1k", "2k")
    words += ("--control", "no-facts", "--sample", "9", "--data-path", str(tmp_path / "data"))
    predict(tmp_path / "single", *words)
    evaluate(tmp_path / "single/dry")
    for which in ("1/2", "2/2"):
        predict(tmp_path, *words, "--part", which)
    evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(tmp_path / "single/dry")
    assert manifest(tmp_path / "dry")["left_out"]


def test_the_job_array_of_the_manual_is_one_run(data_path: Path, tmp_path: Path) -> None:
    manual = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    array, merge = re.findall(r"```bash\n(.*?)```", manual.split("## Job arrays")[1], re.S)[:2]
    assert "source .venv/bin/activate" in array and "python evaluation.py --merge" in merge
    output = tmp_path / "outputs/31500"
    script = array.replace("cd /shared/lv-eval && source .venv/bin/activate", "")
    script = script.replace("/shared/lveval", str(data_path)).replace("TASK_ID/8", "TASK_ID/2")
    script = f"{script.rstrip()} --backend echo {' '.join(SELECTION)}\n"
    for task in ("1", "2"):
        bash = ["bash", "-c", script]
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": task, "OUTPUT_DIR": str(output)}
        found = subprocess.run(bash, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
    assert not list(output.rglob("results*"))  # a part alone is not scored
    words = merge.split()[2:]
    assert words[:2] == ["--merge", "--input-dir"] and words[2].endswith("/qwen2.5-7b")
    evaluate(tmp_path / words[2], "--merge")
    rows = [len(lines(path)) for path in (tmp_path / words[2]).glob("*k.jsonl")]
    assert rows == [5, 5, 5, 5] and (tmp_path / words[2] / "results.json").is_file()


# --- Samples ------------------------------------------------------------------------------------


def asked(folder: Path) -> dict[str, set[object]]:
    """The questions of each file that are answered."""
    return {
        path.stem: {found["input"] for found in lines(path)} for path in folder.glob("*k.jsonl")
    }


def test_a_sample_asks_the_same_questions_at_all_lengths_and_grows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for level, order in (("1k", range(30)), ("2k", range(29, -1, -1))):
        write_data(data, f"hotpotwikiqa_mixup_{level}", [row(number=n) for n in order])
    words = (*ECHO[:4], "--datasets", "hotpotwikiqa_mixup", "--data-path", str(data))
    predict(tmp_path, *words, "--lengths", "1k", "--sample", "6")
    small = asked(tmp_path / "dry")["hotpotwikiqa_mixup_1k"]
    predict(tmp_path, *words, "--lengths", "1k", "2k", "--sample", "10")
    found = asked(tmp_path / "dry")
    assert len(small) == 6 and small < found["hotpotwikiqa_mixup_1k"]
    assert found["hotpotwikiqa_mixup_1k"] == found["hotpotwikiqa_mixup_2k"]
    assert len(found["hotpotwikiqa_mixup_1k"]) == 10
    indices = {
        path.name: [r["index"] for r in lines(path)] for path in (tmp_path / "dry").glob("*k.jsonl")
    }
    assert indices["hotpotwikiqa_mixup_1k.jsonl"] != list(range(10))
    # A smaller sample is in it: nothing to do, nothing lost.
    predict(tmp_path, *words, "--lengths", "1k", "2k", "--sample", "3")
    assert asked(tmp_path / "dry") == found
    evaluate(tmp_path / "dry")
    meta = json.loads((tmp_path / "dry/results_meta.json").read_text())
    assert meta["run"]["given"]["sample"] == {"seed": 0}
    assert meta["signature"]["released"].endswith("rows:20/20|sample:seed-0")
    assert len(meta["limited"]) == 2
    said = predict(
        tmp_path, *words, "--lengths", "1k", "--sample", "3", "--sample-seed", "1", code=4
    )
    assert "given.sample.seed: recorded 0, asked 1" in said
    said = predict(tmp_path, *words, "--lengths", "1k", "--limit", "3", code=4)
    assert "given.sample.seed: recorded 0, asked nothing" in said


def test_parts_of_a_sample_that_grows_are_the_bytes_of_one_run(tmp_path: Path) -> None:
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=n) for n in range(30)])
    words: tuple[str, ...] = (*ECHO[:4], "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k")
    words += ("--data-path", str(tmp_path / "data"))
    for rows in ("5", "12"):
        predict(tmp_path / "single", *words, "--sample", rows)
        for which in ("1/3", "2/3", "3/3"):
            predict(tmp_path, *words, "--sample", rows, "--part", which)
    counts = [len(lines(path)) for path in tmp_path.glob("dry.part*/rows/*.jsonl")]
    assert counts == [4, 4, 4]
    evaluate(tmp_path / "single/dry")
    evaluate(tmp_path / "dry", "--merge")
    assert derived(tmp_path / "dry") == derived(tmp_path / "single/dry")
    assert manifest(tmp_path / "dry") == manifest(tmp_path / "single/dry")
