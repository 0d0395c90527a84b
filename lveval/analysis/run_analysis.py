"""All that the analyses find in one run, together, and as data for results_meta.json.

    found = run_analysis.analyze_run(evaluation)
    found.intervals["released"].levels["16k"], found.lost.levels["64k"]

Imports numpy at once: import this module where it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lveval.analysis import (
    ablation,
    causes,
    clusters,
    evidence,
    groups,
    intervals,
    length_effect,
    measures,
    misled,
    positions,
    times,
)
from lveval.analysis.ablation import Ablation
from lveval.analysis.causes import PointsLost
from lveval.analysis.clusters import Breakdown
from lveval.analysis.evidence import Evidence
from lveval.analysis.groups import GroupMeans, Groups
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import EffectiveLength, LengthCurve, LengthEffect
from lveval.analysis.measures import Reasoning, Spread
from lveval.analysis.misled import Misled
from lveval.analysis.positions import DepthEffect, HeatCell, Histogram, Positions
from lveval.analysis.times import Times
from lveval.common.levels import FileKey
from lveval.results import HEADLINE, PROTOCOLS, Evaluation, level_means, subset_means


@dataclass(frozen=True)
class RunAnalysis:
    """What the rows of one run show; of the released protocol but for the intervals."""

    intervals: Mapping[str, Breakdown[Interval]]  # protocol -> of its scores
    groups: Mapping[str, Groups]  # protocol -> its scores by task group and language
    lengths: LengthEffect
    lost: PointsLost
    ablation: Ablation  # of the metric of `described`
    evidence_by_file: Mapping[FileKey, Evidence]
    evidence_by_level: Mapping[str, Evidence]
    ceiling: Mapping[str, float]  # level -> the score that the evidence kept allows
    misled: Misled | None  # None where no row tells of a confusing fact
    reasoning: Mapping[str, Reasoning]  # by level; empty where no answer has any
    measures: Mapping[str, Mapping[str, Spread]]  # of plugins, by name and level
    positions: Positions | None  # None where no row tells where its evidence stands
    times: Mapping[str, Times]  # by level; to be shown only

    def interval_notes(self, protocol: str = HEADLINE) -> list[str]:
        """Caveats of the intervals of a protocol's means."""
        parts = self.intervals[protocol]
        return intervals.notes({**parts.levels, **parts.subsets})


def analyze_run(evaluation: Evaluation) -> RunAnalysis:
    """Analyse a run's rows; UsageError as clusters.cluster_tables, also without a row."""
    rows, variants = evaluation.rows, evaluation.variants
    scores = clusters.score_tables(rows, list(PROTOCOLS))
    effects, marks = ablation.effects(variants), misled.marks(rows, evaluation.causes)
    values = clusters.value_tables(rows, {**effects, **marks})
    rates = misled.rate_tables({name: values.pop(name) for name in marks})
    drawn = intervals.draw_together({**scores, **values, misled.VALUE: rates}, paired=effects)
    by_file = evidence.by_file(rows)
    return RunAnalysis(
        intervals={protocol: drawn.breakdown(protocol) for protocol in PROTOCOLS},
        groups={
            protocol: groups.measure_groups(evaluation.scores(protocol), drawn, protocol)
            for protocol in PROTOCOLS
        },
        lengths=length_effect.measure_length_effect(rows),
        lost=causes.points_lost(rows, evaluation.causes),
        ablation=ablation.summarize(
            rows, variants, {name: drawn.breakdown(name) for name in effects}
        ),
        evidence_by_file=by_file,
        evidence_by_level=evidence.by_level(rows),
        ceiling=evidence.ceilings(by_file),
        misled=misled.measure_misled(rows, drawn),
        reasoning=measures.reasoning_by_level(rows, evaluation.thinking_budget),
        measures=measures.measures_by_level(rows),
        positions=positions.measure_positions(rows, evaluation.depths),
        times=times.times_by_level(rows, evaluation.times),
    )


def as_data(found: RunAnalysis) -> dict[str, object]:
    """Everything but the times as JSON holds it, rounded to two places (shares to four)."""
    lost = found.lost
    more = {
        "misled": found.misled,
        "reasoning": found.reasoning,
        "measures": found.measures,
        "positions": found.positions,
    }
    return {
        "intervals": encode(found.intervals),
        "lengths": encode({"subsets": found.lengths.subsets, "mean": found.lengths.overall}),
        "groups": encode(found.groups),
        "evidence": encode(
            {
                "files": found.evidence_by_file,
                "levels": found.evidence_by_level,
                "ceiling": found.ceiling,
            }
        ),
        "ablation": encode(found.ablation),
        "causes": encode(lost.rows),
        "points_lost": encode(
            {"levels": lost.levels, "subsets": lost.subsets, "files": lost.files}
        ),
        **{name: encode(part) for name, part in more.items() if part},
    }


def encode(value: object, places: int = 2) -> object:
    """Turn results into JSON's types: files become <subset>_<level>, numbers are rounded."""
    match value:
        case float():
            return round(value, places)
        case Mapping():
            return {
                "_".join(key) if isinstance(key, tuple) else key: encode(item, places)
                for key, item in value.items()
            }
        case list() | tuple():
            return [encode(item, places) for item in value]
        case Interval() | DepthEffect() | Misled():
            return value.as_data()
        case EffectiveLength():
            return encode(vars(value), places=4)
        case Evidence():
            known = ("kept", "cut", "unknown", "kept_percent")
            return encode({**{name: getattr(value, name) for name in known}, **vars(value)})
        case Ablation():
            means = {
                name: {
                    "files": scores,
                    "levels": level_means(scores),
                    "subsets": subset_means(scores),
                }
                for name, scores in value.scores.items()
            }
            return encode({**vars(value), "scores": means})
        case Breakdown() | LengthCurve() | Reasoning() | Groups() | GroupMeans():
            return encode(vars(value))
        case Positions() | Histogram() | HeatCell():
            return encode(vars(value))
        case Spread():
            return encode(vars(value), places=4)
    return value
