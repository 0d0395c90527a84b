"""--check: whether a run can work, with a real model, and with a service that cuts prompts and tells nobody."""

from pathlib import Path

import pytest
from conftest import row, script, write_data
from support.checkup_parts import SMALL
from support.service import NAME, Ended, Served, data, environment, predict, server

from lveval import config
from lveval.backends.echo import EchoTokenizer
from lveval.planning import check, passkey

__all__ = ["environment", "server"]  # fixtures


def asked(server: Served, folder: Path, *options: str) -> Ended:
    return predict(
        server, folder, "--check", "--tokenizer", "server", "--model-max-len", "4000", *options
    )


def test_a_service_that_takes_the_prompt_whole(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(max_model_len=5000, model=NAME)
    found = asked(server, tmp_path)
    assert found.returncode == 0, found.stderr
    assert (
        "service: its window is 5,000 tokens; prompts and answers take up to 4,064" in found.stderr
    )
    assert "read back: the codes at the head, in the middle and at the tail" in found.stderr
    assert "error" not in found.stderr and server.asked.total() == 1


def test_a_service_that_cuts_prompts_shows(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(cut=2500, max_model_len=3000, model=NAME)
    found = asked(server, tmp_path)
    assert found.returncode == 2
    assert (
        "error    service: its window is 3,000 tokens; prompts and answers take up to 4,064"
        in found.stderr
    )
    assert "the service counted 2,500; it cuts prompts" in found.stderr
    assert "read back: middle, last; not the first code" in found.stderr
    assert "; next: mend the errors, and check again\n" in found.stderr


def test_a_service_that_refuses_shows(server: Served, tmp_path: Path) -> None:
    data(tmp_path, 3)
    server.control(script=["context"])
    refused = asked(server, tmp_path)
    assert (
        refused.returncode == 2
        and "context_overflow: HTTP 400 context_length_exceeded" in refused.stderr
    )
    server.control(script=["503-html"] * 50)
    failing = asked(server, tmp_path)
    assert (
        failing.returncode == 2
        and "transient: HTTP 503" in failing.stderr
        and server.asked.total() <= 6
    )
    server.control(mode="401")
    wrong = asked(server, tmp_path)
    assert wrong.returncode == 2 and "error    the service refuses the key" in wrong.stderr


def test_rows_are_compared_with_the_published_number() -> None:
    whole = {(name, "16k"): rows for name, rows in config.DATASET_ROWS.items()}
    (finding,) = check.check_data(whole)
    assert finding == ("ok", "data: 11 files, 1,729 rows, each checked, as published")
    (finding,) = check.check_data(whole | {("my_subset", "16k"): 50})
    assert finding == ("ok", "data: 12 files, 1,779 rows, each checked")
    (finding,) = check.check_data(whole | {("cmrc_mixup", "16k"): 7})
    assert finding.level == "warning" and finding.text.endswith("rows: cmrc_mixup_16k 7 of 200")


@pytest.mark.parametrize("limit", [150, 2_000, 20_000])
def test_the_prompt_fills_the_limit_and_holds_the_codes(limit: int) -> None:
    tokenizer = EchoTokenizer()
    text, codes = passkey.passkey_prompt(tokenizer, limit)
    assert 0.9 * limit < len(tokenizer.encode(text)) <= limit
    places = [text.index(code) / len(text) for code in codes.values()]
    assert list(codes) == list(passkey.PLACES) and places == sorted(places)
    assert places[1] == pytest.approx(0.5, abs=0.15)


def test_without_a_model_the_check_runs_too(tmp_path: Path) -> None:
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_1k", [row()])
    found = script(
        "prediction.py",
        "--check",
        "--backend",
        "echo",
        "--model-name",
        "dry",
        "--data-path",
        tmp_path / "data",
        *SMALL,
    )
    assert found.returncode == 0 and "warning  chat format: none" in found.stdout, found.stderr
