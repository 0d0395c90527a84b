"""Every file of a scored run with a bit flipped: a fault is told, or nothing that is scored has changed."""

from pathlib import Path

import pytest
from support.bit_flips import KINDS, scored_run, try_flips

FLIPS = {"rows": 800, "derived": 800, "run.json": 400, "scores": 250, "results_meta.json": 250}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scored_run(tmp_path_factory.mktemp("flips"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_is_taken_for_the_run(run: Path, kind: str) -> None:
    told = try_flips(run, kind, FLIPS[kind])
    print(kind, dict(told))
    assert told["altered"] == 0 and told["tried"] == FLIPS[kind], told
    assert told["refused"] + told["harmless"] == told["tried"]
    # Of answers evaluation.py itself takes none; what run.json says it cannot know better.
    assert kind == "run.json" or told["scored"] == 0, told
    assert kind == "run.json" or told["harmless"] == 0, told
