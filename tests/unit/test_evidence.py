"""What truncation did, counted and split."""

from support.scores import every

from lveval.analysis import evidence
from lveval.analysis.evidence import Evidence
from lveval.report.tables import evidence_table
from lveval.results import ScoredRow


def row(level: str, score: float, **record: object) -> ScoredRow:
    return ScoredRow("lic_mixup", level, 0, every(score), record)


def test_rows_are_counted_and_their_scores_split() -> None:
    kept = [(True, 1.0), (True, 0.5), (True, 0.0), (False, 0.25), (None, 1.0), ("yes", 1.0)]
    rows = [row("64k", score, evidence_kept=state) for state, score in kept]
    rows.append(row("128k", 0.5))
    assert evidence.by_file(rows) == {
        ("lic_mixup", "64k"): Evidence(3, 1, 2, 50.0, 25.0),
        ("lic_mixup", "128k"): Evidence(0, 0, 1),
    }
    assert evidence.by_level(reversed(rows)) == {
        "64k": Evidence(3, 1, 2, 50.0, 25.0),
        "128k": Evidence(0, 0, 1),
    }
    assert list(evidence.by_level(reversed(rows))) == ["64k", "128k"]
    assert evidence.summarize(rows[:6]).kept_percent == 75.0
    assert evidence.summarize(rows[6:]).kept_percent is None


def test_tokens_are_medians_of_the_rows_that_tell_them() -> None:
    counts: list[tuple[object, object]] = [
        (900, 1000),
        (900, 1500),
        (700, 700),
        (None, "many"),
        (True, None),
        (10**400, -1),
    ]
    found = evidence.summarize(
        [row("16k", 0, prompt_tokens=one, prompt_tokens_full=full) for one, full in counts]
    )
    assert (found.median_prompt_tokens, found.median_prompt_tokens_full) == (900, 1000)


def test_a_table_leaves_blank_what_is_not_known() -> None:
    parts = {"16k": Evidence(3, 1, 2, 50.0, 25.0, 31500, 89600.5), "32k": Evidence(unknown=4)}
    assert evidence_table(parts).lines == [
        ["16k", "75.0", "4/6", "50.00", "25.00", "31,500", "89,600"],
        ["32k", "", "0/4", "", "", "", ""],
    ]
