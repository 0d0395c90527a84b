"""Controls: runs that are asked something else than the benchmark, to be compared with a full run.

    controls.controlled("no-facts", row)["context"]     # None: the control does not apply to it

A control changes a row's context before the template is filled, so plugins, truncation and chat
format work on what it leaves. What the three tell is in docs/scores.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from lveval.data.rows import Row

BETWEEN = "\n\n"  # what stands between two passages of evidence

NAMED_FILES = 5  # in a message; of others the number is told

Spans = list[tuple[int, int]]  # [start, end) in characters, sorted, none touching another


@dataclass(frozen=True)
class Control:
    """One control, and what its difference to the full run is called."""

    shows: str  # what is left of the context
    lacking: str  # what is said of the rows that it does not apply to; "": there are none
    contrast: str
    tells: str  # what the contrast is
    from_full: bool  # the contrast is full minus control, else control minus full
    short: bool  # prompts are short, whatever the row's length
    change: Callable[[Row], Row | None]


def closed_book(row: Row) -> Row:
    """The row with an empty context."""
    return {**row, "context": "", "offsets": None}


def evidence_only(row: Row) -> Row | None:
    """The passages that the row's offsets mark as evidence, in their order; None: it marks none."""
    marked = row["offsets"]["evidence"] if row["offsets"] else []
    spans = _merged((start, end) for start, end in marked if row["context"][start:end].strip())
    if not spans:
        return None
    passages = [row["context"][start:end] for start, end in spans]
    evidence, position = [], 0
    for passage in passages:
        evidence.append([position, position + len(passage)])
        position += len(passage) + len(BETWEEN)
    offsets: dict[str, list[list[int]]] = {"evidence": evidence, "confusing_facts": []}
    return {**row, "context": BETWEEN.join(passages), "offsets": offsets}


def no_facts(row: Row) -> Row | None:
    """The context without its confusing facts, wherever they stand in it; None: one does not.

    A fact goes with the white space before it where more follows, so that no gap shows its place.
    """
    context, spans = row["context"], []
    for fact in row["confusing_facts"] or []:
        found = [_with_gap(context, *span) for span in _occurrences(fact, context)]
        if not found:
            return None
        spans += found
    if not spans:
        return None
    cuts = _merged(spans)
    starts = [0, *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), len(context)]
    kept = "".join(context[start:end] for start, end in zip(starts, ends, strict=True))

    def moved(place: int) -> int:
        return place - sum(min(end, place) - start for start, end in cuts if start < place)

    offsets = row["offsets"] and {
        "evidence": [[moved(start), moved(end)] for start, end in row["offsets"]["evidence"]],
        "confusing_facts": [],
    }
    return {**row, "context": kept, "offsets": offsets}


def _occurrences(fact: str, context: str) -> Iterator[tuple[int, int]]:
    start = context.find(fact)
    while start >= 0:
        yield start, start + len(fact)
        start = context.find(fact, start + len(fact))


def _with_gap(context: str, start: int, end: int) -> tuple[int, int]:
    """The span and the white space that would be doubled without it."""
    if not context[end : end + 1].strip():
        while start and context[start - 1].isspace():
            start -= 1
    while not start and context[end : end + 1].isspace():
        end += 1
    return start, end


def _merged(spans: Iterable[tuple[int, int]]) -> Spans:
    merged: Spans = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


CONTROLS = {
    "closed-book": Control(
        shows="no context",
        lacking="",
        contrast="context gain",
        tells="what reading the context gains",
        from_full=True,
        short=True,
        change=closed_book,
    ),
    "evidence-only": Control(
        shows="the evidence alone",
        lacking="mark no evidence",
        contrast="cost of length",
        tells="what the text around the evidence costs",
        from_full=False,
        short=True,
        change=evidence_only,
    ),
    "no-facts": Control(
        shows="the context without its confusing facts",
        lacking="have no confusing facts, or one that is not in the context verbatim",
        contrast="cost of confusing facts",
        tells="what the confusing facts cost",
        from_full=False,
        short=False,
        change=no_facts,
    ),
}


def controlled(name: str | None, row: Row) -> Row | None:
    """The row as a control shows it, None where that does not apply; as it is without a `name`."""
    return CONTROLS[name].change(row) if name else row


def describe(name: str, selected: int, left_out: Mapping[str, int]) -> str:
    """What a control's prompts hold, and which of the `selected` rows it leaves out, in words.

    `left_out`: `<subset>_<level>` -> rows. A name that is not known here is said without them.
    """
    control = CONTROLS.get(name)
    text = f"control {name}: the prompts hold {control.shows}" if control else f"control {name}"
    files = [f"{file} {rows}" for file, rows in left_out.items() if rows]
    if not files:
        return text
    more = f" and {len(files) - NAMED_FILES} more files" if len(files) > NAMED_FILES else ""
    why = f"{control.lacking} and " if control else ""
    return (
        f"{text}; {sum(left_out.values()):,} of {selected:,} rows {why}are left out "
        f"({', '.join(files[:NAMED_FILES])}{more})"
    )
