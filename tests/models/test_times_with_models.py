"""Times of a model's rows: kept beside the run, and nothing of the run depends on them."""

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import in_process, lines
from support.backends_parts import ask, options
from support.processes import running, wait_for_rows

from lveval.backends import hf, plugins
from lveval.backends.decoding import Clock
from lveval.runs.times import FILE, read_times

PLUGIN = """
import time
from contextlib import contextmanager

class Timed:
    @contextmanager
    def generating(self, model, prompt):
        self.began = time.perf_counter()
        time.sleep(0.2)
        yield

    def times(self):
        return {"since": time.perf_counter() - self.began}
"""

OWN_DECODING = """
class Own:
    def generate(self, model, tokenizer, prompt):
        return "said"

    def times(self):
        return TIMES
"""


@pytest.fixture
def command(tiny_model: Path, data_path: Path, tmp_path: Path) -> list[str | Path]:
    (tmp_path / "timed.py").write_text(PLUGIN)
    return [
        "prediction.py", "--model-path", tiny_model, "--model-name", "run", "--model-max-len", "300",
        "--data-path", data_path, "--single-process", "--datasets", "cmrc_mixup", "--lengths", "1k",
        "--plugin", tmp_path / "timed.py", "--output-dir",
    ]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    """What a run's answers and scores are in, and what made them."""
    paths = (*folder.glob("rows/*"), *folder.glob("*_1k.jsonl"), *folder.glob("results*"))
    identity = json.loads((folder / "run.json").read_text())["identity"]
    found = {str(path): path.read_bytes() for path in paths}
    return found | {"identity": json.dumps(identity).encode()}


def test_times_are_kept_beside_a_run_that_does_not_depend_on_them(
    command: list[str | Path], tmp_path: Path
) -> None:
    folder = tmp_path / "out/run"
    assert in_process(*command, tmp_path / "out", "--limit", "3").returncode == 0
    told = sorted(lines(folder / FILE), key=lambda each: int(str(each["index"])))
    assert [each["index"] for each in told] == [0, 1, 2]
    records = lines(folder / "cmrc_mixup_1k.jsonl")
    for each, record in zip(told, records, strict=True):
        assert (each["dataset"], each["level"]) == ("cmrc_mixup", "1k")
        assert each["prompt_tokens"] == record["prompt_tokens"]
        assert record["usage"] == {"completion_tokens": each["new_tokens"]}
        seconds = [float(str(each[name])) for name in ("prefill_seconds", "decode_seconds")]
        assert min(seconds) >= 0 and sum(seconds) == pytest.approx(each["seconds"], abs=1e-5)
        assert each["device"] == "cpu" and "peak_memory_bytes" not in each
        assert each["plugins"]["since"] >= 0  # type: ignore[index]
    assert not any("seconds" in str(record) for record in records)
    evaluate: list[str | Path] = ["evaluation.py", "--input-dir", folder, "-v"]
    again = [*command, tmp_path / "out"]
    assert "times and memory" in in_process(*evaluate).stdout
    before = files(folder)
    assert len(before) == 10
    (folder / FILE).unlink()
    assert in_process(*again, "--limit", "3").returncode == 0
    assert "times and memory" not in in_process(*evaluate).stdout
    assert files(folder) == before
    # More rows: the run goes on without the times of the first ones.
    assert in_process(*again, "--limit", "4").returncode == 0
    assert [each["index"] for each in lines(folder / FILE)] == [3]
    assert in_process(*command, tmp_path / "other", "--limit", "4").returncode == 0
    export = "cmrc_mixup_1k.jsonl"
    assert (folder / export).read_bytes() == (tmp_path / "other/run" / export).read_bytes()


def test_a_kill_leaves_the_times_of_all_answered_rows(
    command: list[str | Path], tmp_path: Path
) -> None:
    folder, words = tmp_path / "out/run", [*command, tmp_path / "out"]
    with running(*words) as process:
        wait_for_rows(folder, 2)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    rows = {index for _, _, index in read_times(folder)}
    assert rows >= {
        int(str(record["index"])) for record in lines(folder / "rows/cmrc_mixup_1k.jsonl")
    }
    assert in_process(*words).returncode == 0
    answered = {record["index"] for record in lines(folder / "cmrc_mixup_1k.jsonl")}
    assert {index for _, _, index in read_times(folder)} == answered > rows


@pytest.mark.parametrize(
    ("told", "ends"), [("{'a': 1}", "ok"), ("None", "ok"), ("{'a': {1}}", "error")]
)
def test_a_plugin_that_decodes_by_itself_has_no_prefill_but_times_of_its_own(
    tiny_model: Path, tmp_path: Path, told: str, ends: str
) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN_DECODING.replace("TIMES", told))
    named = ((str(path), plugins.plugin_hash(str(path))),)
    answer = ask(hf.load(options(tiny_model, plugins=named)), "One two")
    assert answer.status == ends and "prefill_seconds" not in answer.times
    if ends == "ok":
        assert float(str(answer.times["seconds"])) >= 0
        assert answer.times.get("plugins") == ({"a": 1} if told != "None" else None)
    else:
        assert "not JSON serializable" in answer.error


def test_a_row_on_gpus_has_their_memory_and_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda gpu: calls.append(gpu))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("waited"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10 + gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"name of {device}")
    clock = Clock(SimpleNamespace(device="cuda:1"))
    scores = torch.zeros(1, 3)
    assert clock(scores, scores) is scores and clock(scores, scores) is scores
    found = clock.times()
    assert calls == [0, 1, "waited", "waited"]
    assert (found["peak_memory_bytes"], found["device"]) == (21, "name of cuda:1")
    assert float(str(found["prefill_seconds"])) >= 0 <= float(str(found["decode_seconds"]))
