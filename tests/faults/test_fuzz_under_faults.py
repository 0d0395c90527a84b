"""A small share of what `make torture` fuzzes: every kind of input, and replies over a real connection."""

import random
from pathlib import Path

import pytest
from conftest import lines
from support.service import FILE, NAME, Served, data, environment, predict, server
from support.trials.fuzz import KINDS, fuzz, replies
from support.trials.mutations import mutated
from support.trials.tally import Tally

__all__ = ["environment", "server"]  # fixtures


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_is_taken_or_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    told = fuzz(tmp_path, kind, 300, seed=0)
    assert told == Tally(points=300), told


def test_the_same_seed_gives_the_same_inputs() -> None:
    sound = replies()
    made = [mutated(random.Random(7), text, [*sound.values()]) for text in sound.values()]
    assert made == [mutated(random.Random(7), text, [*sound.values()]) for text in sound.values()]
    assert sum(one != other for one, other in zip(made, sound.values(), strict=True)) > 50


def test_a_run_of_damaged_replies_records_answers_and_attempts(
    server: Served, tmp_path: Path
) -> None:
    """Every other row gets a damaged reply of its own, over a real connection."""
    chance, sound, rows = random.Random(5), replies(), 60
    names = [name for name in sorted(sound) if name.startswith("200")]
    data(tmp_path, rows)
    cases, fates = {}, {}
    for row in range(0, rows, 2):
        body = mutated(chance, sound[chance.choice(names)], [*sound.values()])
        text = body.decode("utf-8", "replace")
        cases[f"it{row}"] = {"status": 200, "headers": {}, "body": text}
        fates[f"When was lighthouse {row} built?"] = f"it{row}"
    server.control(replies=cases, fates=fates, mode="ok", row_mode="ok")
    found = predict(server, tmp_path, "--max-outage", "0.0003", "--wait-for-service", "0.003")
    assert found.returncode in (0, 3, 5) and "Traceback" not in found.stderr, found.stderr
    folder = tmp_path / "out" / NAME
    answered = {record["index"] for record in lines(folder / "rows" / f"{FILE}.jsonl")}
    failed = {attempt["index"] for attempt in lines(folder / "attempts.jsonl")}
    assert answered and failed and answered | failed <= set(range(rows))
