"""A run, and two runs compared, in one sentence of plain words: for the terminal and the page.

    summary.run_sentence(evaluation, run_analysis.analyze_run(evaluation))
    summary.comparison_sentence("yi-6b", "yi-6b-chat", compared["outputs/yi-6b-chat"])

Scores and differences are in points of the headline's protocol, intervals are 95 % ones. Names
stand in the sentences as they were given: whoever shows one escapes it.
"""

from math import fsum

from lveval.analysis.causes import IN_SENTENCES, PointsLost
from lveval.analysis.comparison import Comparison
from lveval.analysis.intervals import Interval
from lveval.analysis.length_effect import EffectiveLength, LengthCurve
from lveval.analysis.run_analysis import RunAnalysis
from lveval.results import CAUSES, HEADLINE, Evaluation, level_means, overall_mean

MOST = 0.5  # the share of a loss from which "most" of it went to a cause


def run_sentence(evaluation: Evaluation, found: RunAnalysis) -> str:
    """Say what a run scores, up to which length it holds, and what costs most on the way."""
    scores = evaluation.scores(HEADLINE)
    levels = list(level_means(scores))
    mean = f"mean of {len(levels)} levels" if len(levels) > 1 else f"{levels[0]} only"
    if between := found.intervals[HEADLINE].overall.between():
        mean = f"{between}; {mean}"
    said = [f"{evaluation.name} scores {overall_mean(scores):.2f} ({mean}, protocol {HEADLINE})"]
    if evaluation.missing:
        said.append(f"{evaluation.missing:,} rows have no answer yet and do not count")
    if evaluation.control:
        said.append(f"it was asked {evaluation.control}, so this is not the benchmark's score")
    curve = found.lengths.overall
    if holds := holds_until(curve.effective_length):
        costs = length_cost(curve, found)
        said.append(f"it {holds}{f' and {costs}' if costs else ''}")
    return f"{'; '.join(said)}."


def holds_until(effective: EffectiveLength | None) -> str:
    """Say up to which length a curve holds; blank where that was not measured.

    At the first and the last level tested, the true length may lie beyond.
    """
    if effective is None:
        return ""
    shortest, *_, longest = effective.probabilities
    if effective.level is None:
        return f"scores 0 at {shortest}, the shortest tested,"
    kept = f"{100 * effective.fraction:.0f} % of the {shortest} score"
    if effective.level == longest:
        return f"holds up to {longest}, the longest tested ({kept})"
    if effective.level == shortest:
        return f"holds no further than {shortest}, the shortest tested ({kept})"
    return f"holds up to {effective.level} ({kept})"


def length_cost(curve: LengthCurve, found: RunAnalysis) -> str:
    """Say what the longest level costs against the shortest, and to what it goes.

    Blank where no question was asked at both.
    """
    change, levels = curve.change, list(curve.scores)
    if change is None:
        return ""
    shortest, longest = levels[0], levels[-1]
    size = f"{abs(change.value):.1f} points"
    if change.low is None or change.high is None:
        # All questions lost the same, or there is one question only: no interval, so no claim.
        if not round(change.value, 1):
            return f"scores the same at {longest}"
        return f"scores {size} {'less' if change.value < 0 else 'more'} at {longest}"
    if change.low <= 0 <= change.high:
        return f"shows no loss by {longest} ({change.value:+.1f}, {change.between('+')})"
    if change.value > 0:
        return f"gains {size} by {longest}"
    return f"loses {size} by {longest}{_where_lost(found.lost, shortest, longest)}"


def _where_lost(lost: PointsLost, shortest: str, longest: str) -> str:
    """Name the cause that costs the longest level most beyond what it costs the shortest."""
    growth = cause_growth(lost, shortest, longest)
    cause = max(CAUSES, key=growth.__getitem__)
    total = fsum(growth.values())
    if total <= 0 or growth[cause] <= 0:
        return ""
    share = "most" if growth[cause] >= MOST * total else f"{growth[cause]:.1f}"
    return f", {share} of them to {IN_SENTENCES[cause]}"


def cause_growth(lost: PointsLost, shortest: str, longest: str) -> dict[str, float]:
    """Compute what each cause costs more at one level than at another, over subsets with both."""
    both = [
        subset
        for subset in lost.subsets
        if {(subset, shortest), (subset, longest)} <= {*lost.files}
    ]
    return {
        cause: fsum(
            lost.files[subset, longest][cause] - lost.files[subset, shortest][cause]
            for subset in both
        )
        / max(len(both), 1)
        for cause in CAUSES
    }


def comparison_sentence(name_a: str, name_b: str, comparison: Comparison) -> str:
    """Say which of two runs is better and by how much, or that no difference is shown.

    Of a run and its control the difference is their contrast, with its own sign. The verdict is
    that of the p-value, which allows for the number of comparisons.
    """
    part, contrast = comparison.parts.overall, comparison.contrast
    verdict = part.verdict
    if contrast:
        said = f"{contrast.name} {_with_doubt(contrast.of(part), part.adjusted, '+')}: "
    if verdict == "no difference shown":
        shown = f"no difference shown between {name_a} and {name_b}"
        sign, difference = "+", part.interval
    else:
        a_leads = verdict == "A better"
        first, second = (name_a, name_b) if a_leads else (name_b, name_a)
        shown = f"{first} is better than {second}"
        sign, difference = "", part.interval if a_leads else part.interval.negated()
    if contrast:
        return f"{said}{shown}."
    joint = ": " if sign else " by "
    return f"{shown}{joint}{_with_doubt(difference, part.adjusted, sign)}."


def _with_doubt(difference: Interval, p: float, sign: str) -> str:
    """A difference with all that tells how sure it is."""
    between = difference.between(sign) or "no interval"
    over = difference.label.removeprefix("over ")
    return f"{difference.value:{sign}.2f} ({between}, {p_text(p)}, {over})"


def p_text(p: float) -> str:
    """Such as "p 0.0312"; a value too small for four places as a bound."""
    return "p < 0.0001" if p < 0.00005 else f"p {p:.4f}"
