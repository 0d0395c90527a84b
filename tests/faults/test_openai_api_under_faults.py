"""The OpenAI backend against a real server on 127.0.0.1 that fails on demand, and against a real served model."""

import signal
import time
from pathlib import Path

import pytest
from support.service import (
    FILE,
    KEY,
    NAME,
    Served,
    assert_all_right,
    attempts,
    data,
    environment,
    predict,
    server,
    serving,
    starting,
    wait_for_requests,
)

__all__ = ["environment", "server"]  # fixtures


def test_an_outage_fails_no_row(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 60)
    server.control(latency=0.05)
    with starting(server, tmp_path, "--concurrency", "4") as process:
        wait_for_requests(server, 10, process)
        for mode in ("reset", "503-html", "429"):
            server.control(mode=mode)
            time.sleep(1.5)  # more than thirty tries
        server.control(mode="ok")
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert_all_right(tmp_path, 60)
    tries = attempts(tmp_path)
    assert tries and {attempt["cause"] for attempt in tries} == {"transient"}
    assert server.asked.total() == 60 + len(tries)
    assert int(str(server.stats["probes"])) > 30 > len(tries)  # one short question for all rows


# --- Faults that do not pass ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_start", [True, False], ids=["from the start", "in mid-run"])
@pytest.mark.parametrize("kind", ["401", "403", "quota", "404", "redirect"])
def test_what_no_waiting_mends_ends_the_run_at_once(
    tmp_path: Path, kind: str, from_start: bool
) -> None:
    data(tmp_path, 200)
    with serving("--latency", "0.2") as server:
        later = {"script": ["ok"] * 64 + [kind] * 200, "probe_script": ["ok"] + [kind] * 9}
        server.control(**({"mode": kind} if from_start else later))
        with starting(server, tmp_path, "--concurrency", "64") as process:
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 5, errors
        # In mid-run the question asked first is asked again, to tell it from one row's fault.
        assert server.requests == 1 if from_start else server.requests <= 1 + 64 + 64 + 1
    assert errors.count("error: ") == 1 and "Traceback" not in errors
    assert KEY not in errors and "secret" not in errors
    assert not attempts(tmp_path)
    rows = tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl"
    assert from_start is not rows.exists()
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


# --- Kills ------------------------------------------------------------------------------------------------------------


def test_kills_repeat_no_more_calls_than_were_out(tmp_path: Path) -> None:
    """SIGKILL in mid-run, twenty times; then the run finishes."""
    rows, concurrency, kills = 400, 8, 20
    data(tmp_path, rows)
    with serving("--latency", "0.05", "--rate", "0.2") as server:
        hit = 0
        for number in range(kills):
            before = server.asked.total()
            with starting(server, tmp_path, "--concurrency", str(concurrency)) as process:
                wait_for_requests(server, before + 1 + 19 * number % 23, process)
                hit += process.poll() is None
                process.send_signal(signal.SIGKILL)
        found = predict(server, tmp_path, "--concurrency", str(concurrency))
        assert found.returncode == 0, found.stderr
        assert hit == kills
        assert_all_right(tmp_path, rows)
        repeated = server.asked.total() - rows - len(attempts(tmp_path))
        assert 0 < repeated <= kills * concurrency


def test_ctrl_c_saves_and_says_how_to_go_on(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 200)
    server.control(latency=0.1)
    with starting(server, tmp_path) as process:
        wait_for_requests(server, 20, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (
        process.returncode == 130 and "Traceback" not in errors and "same command again" in errors
    ), errors
    assert predict(server, tmp_path, "--concurrency", "32").returncode == 0
    assert_all_right(tmp_path, 200)
