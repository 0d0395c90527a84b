"""The time that a run still takes goes by the tokens of the prompts to come."""

import io
import re
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import row, script, write_data

from lveval import config
from lveval.data.selection import SelectedFile, load_selection
from lveval.execution.cost import CostTracker
from lveval.execution.progress import BYTES_A_TOKEN, Progress

NAMES = [("hotpotwikiqa_mixup", "1k"), ("hotpotwikiqa_mixup", "8k"), ("cmrc_mixup", "1k")]


@pytest.fixture
def files(tmp_path: Path) -> list[SelectedFile]:
    """Three files of five rows; the contexts of the second one are some ten times as long."""
    for (subset, level), words in zip(NAMES, (80, 1000, 80), strict=True):
        made = [row(subset, number, words) for number in range(5)]
        write_data(tmp_path, f"{subset}_{level}", made)
    return load_selection(NAMES, tmp_path, None)


def tracker(limit: int = 100_000) -> CostTracker:
    return CostTracker(0, 0, None, None, limit, config.DATASET_MAXGEN)


def answer(cost: CostTracker, file: SelectedFile, index: int, tokens: int, full: int = 0) -> None:
    record = {
        "dataset": file.key[0],
        "level": file.key[1],
        "index": index,
        "status": "ok",
        "prompt_tokens": tokens,
        "prompt_tokens_full": full or tokens,
    }
    cost.charge(cast(Any, record))


def size(file: SelectedFile) -> float:
    sizes = file.file.context_bytes()
    return sum(sizes) / len(sizes)


def opened(files: list[SelectedFile], cost: CostTracker, **missing: int) -> Progress:
    left = {file.name: missing.get(file.name, 5) for file in files}
    with redirect_stderr(io.StringIO()):
        return Progress(files, left, cost)


def test_a_prompt_is_expected_as_long_as_is_known_of_it(files: list[SelectedFile]) -> None:
    short, long, chinese = files
    cost = tracker()
    bar = opened(files, cost)
    assert [bar.prompt_tokens(file) for file in files] == [
        size(file) / BYTES_A_TOKEN for file in files
    ]
    answer(cost, short, 0, 100)
    answer(cost, short, 1, 140)
    assert bar.prompt_tokens(short) == 120
    assert bar.prompt_tokens(long) == pytest.approx(120 * size(long) / size(short))
    assert bar.prompt_tokens(chinese) == pytest.approx(120 * size(chinese) / size(short))
    answer(cost, chinese, 0, 500)  # from now on a language has its own measure
    assert bar.prompt_tokens(chinese) == 500
    assert bar.prompt_tokens(long) == pytest.approx(120 * size(long) / size(short))


def test_a_long_prompt_is_expected_to_be_cut(files: list[SelectedFile]) -> None:
    short, long, _ = files
    cost = tracker(limit=150)
    bar = opened(files, cost)
    answer(cost, short, 0, 150, full=600)
    assert bar.prompt_tokens(long) == 150
    assert bar.prompt_tokens(short) == 150


def test_a_short_control_is_as_long_whatever_the_context(files: list[SelectedFile]) -> None:
    cost = tracker()
    left = {file.name: 5 for file in files}
    with redirect_stderr(io.StringIO()):
        bar = Progress(files, left, cost, alike=True)
    answer(cost, files[0], 0, 90)
    assert [bar.prompt_tokens(file) for file in files] == [90, 90, 90]


def test_the_time_left_goes_by_tokens_and_not_by_rows(files: list[SelectedFile]) -> None:
    """Five short rows took some 20 ms each; five of ten times the tokens take ten times as long."""
    short, long, _ = files
    cost = tracker()
    left = {short.name: 5, long.name: 5, files[2].name: 0}
    with redirect_stderr(io.StringIO()) as shown, Progress(files, left, cost) as bar:
        assert bar.seconds_left() is None
        time.sleep(0.3)  # the model is loaded, which is no measure of its speed
        began = 0.0
        for index in range(5):
            began = began or time.monotonic()
            answer(cost, short, index, 100)
            left[short.name] -= 1
            bar.add(1, 100, 10)
            if index < 4:
                time.sleep(0.02)
        a_token = (time.monotonic() - began) / 4 / 110
        seconds = bar.seconds_left()
        bar.show(", 0.07 USD")
    expected = 5 * (100 * size(long) / size(short) + 10) * a_token
    assert seconds == pytest.approx(expected, rel=0.3)
    assert "10/15 rows" in shown.getvalue()
    assert re.search(r"00:0\d left, [\d,]+ tokens/s, 0.07 USD\]", shown.getvalue())


def test_the_first_answer_is_measured_from_the_start(files: list[SelectedFile]) -> None:
    short, long, _ = files
    cost = tracker()
    left = {short.name: 4, long.name: 0, files[2].name: 0}
    with redirect_stderr(io.StringIO()), Progress(files, left, cost) as bar:
        time.sleep(0.1)
        answer(cost, short, 0, 100)
        bar.add(1, 100, 0)
        seconds = bar.seconds_left()
    assert seconds is not None and 0.4 <= seconds < 0.8


# --- The Hub's retries ------------------------------------------------------------------------------------------------


RETRIES = """
import logging
from huggingface_hub.utils import http_backoff
from lveval.common import logs

logs.configure()
for _ in range(2):
    try:
        waits = {"max_retries": 5, "base_wait_time": 0.01, "max_wait_time": 0.01}
        http_backoff("GET", "http://127.0.0.1:9/api", **waits)
    except Exception as error:
        print(type(error).__name__)
logging.getLogger("huggingface_hub.utils._http").warning("a warning of another kind")
"""


def test_the_hubs_retries_are_one_line() -> None:
    """The Hub's own client, before a port where nothing listens."""
    found = script("-c", RETRIES, HF_HUB_OFFLINE="0")
    assert found.stdout == "ConnectError\n" * 2, found.stderr
    assert found.stderr == ("no network to the Hub; retrying (1/5)\na warning of another kind\n")
