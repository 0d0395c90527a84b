"""All that the analyses tell of one run, together, and as data for results_meta.json.

    found = findings.of(evaluation.rows, evaluation.causes)
    found.intervals["released"].levels["16k"], found.lost.levels["64k"], found.evidence_by_level["64k"]

Imports numpy at once: import this module where it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lveval.analysis import causes, clusters, evidence, intervals, length_effect
from lveval.analysis.causes import PointsLost
from lveval.analysis.clusters import Breakdown
from lveval.analysis.evidence import Evidence
from lveval.analysis.intervals import Interval, rounded
from lveval.analysis.length_effect import LengthCurve, LengthEffect
from lveval.common.levels import FileKey
from lveval.results import Cause, ScoredRow


@dataclass(frozen=True)
class RunAnalysis:
    """What the rows of one run tell; of the released protocol but for the intervals."""

    intervals: Mapping[str, Breakdown[Interval]]  # protocol -> of its scores
    lengths: LengthEffect
    lost: PointsLost
    evidence_by_file: Mapping[FileKey, Evidence]
    evidence_by_level: Mapping[str, Evidence]

    @property
    def interval_notes(self) -> list[str]:
        """What is to be known of the released means' intervals."""
        parts = self.intervals["released"]
        return intervals.notes({**parts.levels, **parts.subsets})


def analyze_run(rows: Sequence[ScoredRow], found: Sequence[Cause]) -> RunAnalysis:
    """Analyse rows, of which there must be one at least, with their causes; HarnessError as intervals.of."""
    return RunAnalysis(
        intervals={
            protocol: intervals.score_intervals(rows, protocol) for protocol in clusters.PROTOCOLS
        },
        lengths=length_effect.measure_length_effect(rows),
        lost=causes.points_lost(rows, found),
        evidence_by_file=evidence.by_file(rows),
        evidence_by_level=evidence.by_level(rows),
    )


def as_data(found: RunAnalysis) -> dict[str, object]:
    """Everything as JSON holds it, rounded to two places (shares to four); files as <subset>_<level>."""
    return {
        "intervals": {protocol: _parts(parts) for protocol, parts in found.intervals.items()},
        "lengths": {
            "subsets": {subset: _curve(curve) for subset, curve in found.lengths.subsets.items()},
            "mean": _curve(found.lengths.overall),
        },
        "evidence": {
            "files": {
                _name(pair): _evidence(part) for pair, part in found.evidence_by_file.items()
            },
            "levels": {level: _evidence(part) for level, part in found.evidence_by_level.items()},
        },
        "causes": {_name(pair): counts for pair, counts in found.lost.rows.items()},
        "points_lost": {
            name: {
                key: {cause: round(value, 2) for cause, value in points.items()}
                for key, points in part.items()
            }
            for name, part in (
                ("levels", found.lost.levels),
                ("subsets", found.lost.subsets),
                ("files", {_name(pair): points for pair, points in found.lost.files.items()}),
            )
        },
    }


def _name(pair: FileKey) -> str:
    return "_".join(pair)


def _parts(parts: Breakdown[Interval]) -> dict[str, object]:
    return {
        "files": {_name(pair): interval.as_data() for pair, interval in parts.files.items()},
        "levels": {level: interval.as_data() for level, interval in parts.levels.items()},
        "subsets": {subset: interval.as_data() for subset, interval in parts.subsets.items()},
        "overall": parts.overall.as_data(),
    }


def _curve(curve: LengthCurve) -> dict[str, object]:
    effective = curve.effective and {
        "level": curve.effective.level,
        "fraction": curve.effective.fraction,
        "probabilities": {
            level: round(share, 4) for level, share in curve.effective.probabilities.items()
        },
        "likely": list(curve.effective.likely),
    }
    scores = {level: round(score, 2) for level, score in curve.scores.items()}
    drop, slope = (measure and measure.as_data() for measure in (curve.drop, curve.slope))
    return {
        "scores": scores,
        "drop": drop,
        "slope": slope,
        "effective_length": effective,
        "note": curve.note,
    }


def _evidence(part: Evidence) -> dict[str, object]:
    return {
        "kept": part.kept,
        "cut": part.cut,
        "unknown": part.unknown,
        "kept_percent": rounded(part.kept_percent),
        "score_kept": rounded(part.kept_score),
        "score_cut": rounded(part.cut_score),
        "median_prompt_tokens": part.tokens,
        "median_prompt_tokens_full": part.tokens_full,
    }
