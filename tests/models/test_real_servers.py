"""The openai backend against real servers that serve the embedded model in float32.

Which they are, and where they are looked for: support/real_servers.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import lines, row, script, write_data
from support.processes import wait_for_rows
from support.real_servers import SERVERS, RealServer
from support.service import FILE, NAME, environment, predict, records, starting

__all__ = ["environment"]  # fixtures

FORMATS = ("auto", "tokenizer", "none")
LENGTH = ("--model-max-len", "120")  # the prompts have more


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    folder = tmp_path_factory.mktemp("server")
    with SERVERS[request.param](model_path, folder) as running:
        yield running


def data(folder: Path, rows: int) -> None:
    write_data(folder / "data", FILE, [row(number=number, words=40) for number in range(rows)])


@pytest.fixture(scope="module")
def here(
    model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, object]]]:
    """The hf backend's records of the same rows, by chat format."""
    folder = tmp_path_factory.mktemp("here")
    data(folder, 3)
    found = {}
    for chat_format in ("auto", "none"):
        ended = script(
            "prediction.py", "--model-path", model_path, "--model-name", chat_format, "--single-process",
            "--data-path", folder / "data", "--output-dir", folder / "out", "--chat-template", chat_format,
            "--datasets", FILE.removesuffix("_1k"), "--lengths", "1k", *LENGTH,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        found[chat_format] = lines(folder / "out" / chat_format / f"{FILE}.jsonl")
    return found | {"tokenizer": found["auto"]}


def options(server: RealServer, model_path: Path) -> list[str | Path]:
    model = ("--model-path", server.model, "--tokenizer", f"hf:{model_path}", *LENGTH)
    return [*model, "--concurrency", "2", "--backend-args", "timeout=300"]


@pytest.mark.parametrize("chat_format", FORMATS)
def test_a_run_grows_and_its_answers_are_those_of_the_hf_backend(
    server: RealServer,
    chat_format: str,
    model_path: Path,
    tmp_path: Path,
    here: dict[str, list[dict[str, object]]],
) -> None:
    data(tmp_path, 3)
    for limit in ("1", "3"):
        chosen = ("--chat-template", chat_format, "--limit", limit)
        ended = predict(server.served, tmp_path, *options(server, model_path), *chosen)
        assert ended.returncode == 0, ended.stderr
        found = records(tmp_path)
        assert [record["index"] for record in found] == list(range(int(limit)))
    for name in ("pred", "status"):
        assert [record[name] for record in found] == [record[name] for record in here[chat_format]]


def test_a_run_that_is_killed_goes_on_and_asks_no_answered_row_again(
    server: RealServer, model_path: Path, tmp_path: Path
) -> None:
    data(tmp_path, 4)
    rows = tmp_path / "out" / NAME / "rows" / f"{FILE}.jsonl"
    with starting(server.served, tmp_path, *options(server, model_path)) as process:
        wait_for_rows(tmp_path / "out" / NAME, 1)
        process.kill()
        process.wait()
    saved = lines(rows)
    assert 1 <= len(saved) < 4
    ended = predict(server.served, tmp_path, *options(server, model_path))
    assert ended.returncode == 0, ended.stderr
    assert lines(rows)[: len(saved)] == saved
    assert sorted(int(str(record["index"])) for record in lines(rows)) == list(range(4))
    assert [record["index"] for record in records(tmp_path)] == list(range(4))
