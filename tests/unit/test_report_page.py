"""The page as a file: alone, small, safe from what a run's texts hold, readable; and its tables for papers."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, unquote

import pytest
from support.elements import Elements
from support.run_folders import (
    LEVELS,
    PAYLOADS,
    bare_page,
    full,
    hostile_page,
    rich_page,
    small,
    small_run,
)

from lveval.analysis import causes, contexts
from lveval.analysis.causes import FAMILIES
from lveval.analysis.intervals import Interval
from lveval.report import bar_charts, charts, html, plots, row_data, tables
from lveval.report.data import ReportData
from lveval.results import CAUSES

__all__ = ["full", "small"]  # fixtures


def test_a_full_run_is_a_page_of_less_than_5_mb(full: Path) -> None:
    text = html.render(rich_page(full))
    assert len(text.encode()) < 5_000_000
    data = Elements(text).data()
    assert len(data["rows"]) == 8645 and data["limit"] == 31500
    assert "characters are cut here" not in text  # answers of 64 tokens have room
    assert len(Elements(text).passages()) == 8645  # and so have passages, if shorter
    found = re.search(r"Passages of the contexts are cut to about (\d+) characters", text)
    assert found is None or int(found[1]) >= 60


def test_passages_take_the_room_that_is_left(small: Path) -> None:
    page = rich_page(small)
    text = html.render(page)
    assert "Passages of the contexts are cut" not in text and "have no room" not in text
    passages = Elements(text).passages()
    assert [kind for kind, *_ in passages[0]] == ["evidence", *["confusing fact"] * 2, "cut"]
    assert len(passages) == len(page.rows)
    for number, row in enumerate(page.rows):
        assert passages[number] == [list(vars(passage).values()) for passage in row["passages"]]
    packed = Elements(text).packed()["passages"]
    room, pack = len(packed), row_data.packed_passages
    assert pack(page.rows, room) == (packed, None)
    shorter, reach = pack(page.rows, room - 1)
    assert reach == row_data.REACHES[1] and len(shorter) < room
    assert pack(page.rows, 100) == ("", 0)
    assert pack([{**row, "passages": ()} for row in page.rows], 100) == ("", None)


def test_a_page_without_room_for_passages_says_so(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = rich_page(small)
    bare: list[row_data.RowView] = [{**row, "passages": ()} for row in page.rows]
    alone = row_data.RowData.of(bare, page.name, page.others, page.limit)
    monkeypatch.setattr(row_data, "MOST_BYTES", len(alone.text) + 500)
    text = html.render(page)
    assert "Passages of the contexts have no room on this page." in text
    assert not Elements(text).passages() and "characters are cut here" not in text


def test_a_passage_is_shortened_from_its_ends_inwards() -> None:
    passage = contexts.Passage(
        "evidence", 0.5, 0.5, "b" * 79 + "B", "E" + "x" * 300 + "F", "A" * 80
    )
    short = passage.shortened(60)
    assert short.before == "b" * 19 + "B" and short.after == "A" * 20
    assert short.text == "E" + "x" * 29 + " … " + "x" * 29 + "F"
    assert contexts.both_ends("abcdefgh", 5) == "abcdefgh"  # the mark would save nothing


@pytest.mark.parametrize(
    ("rows", "cap", "packs_well"), [(72, 20_000, True), (2_000, 4_000, True), (400, 4_000, False)]
)
def test_long_texts_are_cut_and_the_page_says_so(
    small: Path, rows: int, cap: int, packs_well: bool
) -> None:
    page, source = rich_page(small), Random(1)

    def thoughts() -> str:
        return "thinking, " * 5_000 if packs_well else source.randbytes(25_000).hex()

    many = (page.rows * 30)[:rows]
    page.rows = [
        {**row, "raw_pred": f"{number:06} {thoughts()}"} for number, row in enumerate(many)
    ]
    text = html.render(page)
    assert len(text.encode()) < 5_000_000
    assert f"Texts longer than {cap:,} characters are cut here" in text
    data = Elements(text).data()
    assert set(data["long"].values()) == {50_007} and len(data["long"]) == rows
    assert max(map(len, data["strings"])) == cap


def test_texts_are_kept_once(small: Path) -> None:
    data = Elements(html.render(rich_page(small))).data()
    assert len(data["strings"]) == len(set(data["strings"]))
    assert len(data["questions"]) == 36  # of 72 rows: two levels ask the same


def test_the_page_needs_nothing_else_and_allows_nothing_else(small: Path) -> None:
    text = html.render(rich_page(small))
    page = Elements(text)
    for tag, attributes in page.found:
        assert tag not in (
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "video",
            "audio",
            "use",
            "image",
        )
        assert not {"src", "srcset", "action", "formaction", "style", "ping"} & attributes.keys(), (
            tag,
            attributes,
        )
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    style, code = page.styles[0], page.scripts[1]
    assert "url(" not in style and "@import" not in style
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|XMLHttp|import\(",
        code,
    )
    policy = next(
        attributes["content"] for _, attributes in page.found if attributes.get("http-equiv")
    )
    assert policy is not None and policy.startswith("default-src 'none';")
    for name, content in (("style-src", style), ("script-src", code)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_equal_runs_give_equal_pages(small: Path) -> None:
    assert html.render(rich_page(small)) == html.render(rich_page(small))


def test_what_is_not_known_is_not_on_the_page(small: Path) -> None:
    bare, rich = html.render(bare_page(small)), html.render(rich_page(small))
    for part in ('id="leaderboard"', 'id="comparison"'):
        assert part in rich and part not in bare, part
    for part in ("scores", "curves", "evidence", "depth", "lengths", "causes", "recipe", "rows"):
        assert f'id="{part}"' in bare, part


def check_address(page: ReportData, address: str, ids: list[str]) -> None:
    """An address leads to an element, or to rows that the page has."""
    kind, _, rest = address[1:].partition("?" if address.startswith("#rows?") else "=")
    if kind == "row":
        assert unquote(rest) in {
            f"{row['subset']}_{row['level']}:{row['index']}" for row in page.rows
        }
    elif rest:
        known: dict[str, set[str]] = {
            "subset": {row["subset"] for row in page.rows},
            "level": {row["level"] for row in page.rows},
            "cause": {*FAMILIES, *CAUSES},
            "flip": {
                f"{sign}{number + 1}" for sign in ("", "-") for number in range(len(page.others))
            },
        }
        parts = dict(parse_qsl(rest, strict_parsing=True))
        assert parts and all(value in known[name] for name, value in parts.items()), address
    else:
        assert kind in ids, address


def test_ids_are_unique_and_references_lead_somewhere(small: Path) -> None:
    page = rich_page(small)
    found = Elements(html.render(page)).found
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found:
        if (attributes.get("href") or "").startswith("#"):
            # What follows tells the row browser what to show.
            assert re.split(r"[?=]", (attributes["href"] or "")[1:])[0] in [*ids, "row"]
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


# --- untrusted text -------------------------------------------------------------------------------------------------


def test_there_are_enough_payloads() -> None:
    assert len(set(PAYLOADS)) >= 60


def test_payloads_stay_text_in_the_page(tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run", rows=14)
    tame, hostile = (
        Elements(html.render(rich_page(folder))),
        Elements(html.render(hostile_page(folder))),
    )
    assert {tag for tag, _ in hostile.found} <= {tag for tag, _ in tame.found}
    assert {name for _, attributes in hostile.found for name in attributes} <= {
        name for _, attributes in tame.found for name in attributes
    }
    assert Counter(tag for tag, _ in hostile.found)["script"] == 2
    assert hostile.scripts[1] == tame.scripts[1]
    strings = hostile.data()["strings"]
    assert all(f"p{text}" in strings for text in PAYLOADS)  # unchanged, lone surrogates too
    raw = re.search(r'id="data">(.*?)</script>', html.render(hostile_page(folder)), re.S)
    assert raw is not None and not re.search("[<>&\u2028\u2029\ud800-\udfff]", raw[1])
    html.render(hostile_page(folder)).encode()  # raises at a lone surrogate


def test_names_cannot_steer_the_text_around_them(tmp_path: Path) -> None:
    shown = re.sub(
        r'<script type="application/json".*?</script>',
        "",
        html.render(hostile_page(small_run(tmp_path / "run"))),
    )
    assert not re.search("[\u202e\u2066\x00\x08\x1b]", shown)


def unescaped(text: str, marks: str) -> Iterator[str]:
    """The `marks` in `text` that no backslash escapes."""
    return (
        found[1] for found in re.finditer(rf"\\.|([{re.escape(marks)}])", text, re.S) if found[1]
    )


def test_payloads_stay_text_in_markdown(tmp_path: Path) -> None:
    text = tables.markdown(hostile_page(small_run(tmp_path / "run")))
    lines = text.splitlines()
    widths: list[int] = []
    for line in lines:
        if not line.startswith("|"):
            widths = []
            continue
        widths.append(len(list(unescaped(line, "|"))))
        assert widths[-1] == widths[0], line
        if not line.startswith("|---"):
            assert not list(unescaped(line, "<>`*[]")), line
    assert not list(unescaped(text, "<>`"))


LATEX_COMMANDS = (
    r"\\(?:begin|end|centering|caption|label|toprule|midrule|bottomrule|smallskip|textbackslash|textasciitilde|textbar|"
    r"textasciicircum|textless|textgreater|textquotedbl|textasciigrave|textquotesingle|usepackage)\b"
)


def test_payloads_stay_text_in_latex(tmp_path: Path) -> None:
    page = hostile_page(small_run(tmp_path / "run"))
    page.name = r"\input{/etc/passwd} $x$ & % # _ { } ~ ^ \\ ^^5cinput \write18{id}"
    lines = [line for line in tables.latex(page).splitlines() if not line.startswith("%")]
    text = "\n".join(lines)
    assert not re.search(r"(?<!\\)[$#_~^%]", text)
    rest = re.sub(LATEX_COMMANDS, "", text)
    assert set(re.findall(r"\\([A-Za-z]+|.)", rest)) <= set("&%$#_{}\\")
    depth = 0
    for brace in unescaped(text, "{}"):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    for table in re.findall(r"\\begin\{tabular\}\{(l?r+)\}(.*?)\\end\{tabular\}", text, re.S):
        for line in table[1].splitlines():
            if line.endswith(r"\\"):
                assert len(list(unescaped(line, "&"))) == len(table[0]) - 1, line


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_a_formula(start: str) -> None:
    text = f"{start}HYPERLINK(1)"
    assert tables.markdown_text(text)[0] not in "=+-@"
    assert tables.latex_text(text)[0] not in "=+-@"
    assert tables.markdown_text("-1.50") == tables.latex_text("-1.50") == "-1.50"


def test_a_name_becomes_no_link_and_no_option() -> None:
    assert tables.markdown_text("see https://x.example, www.x.example, @x") == (
        r"see https\://x.example, www\.x.example, \@x"
    )
    assert tables.latex_text("[x] a--b") == "{[}x{]} a-{}-b"


# --- readable -------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def colours(theme: str) -> dict[str, str]:
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", html.read("page.css")))
    return found | (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", html.read("dark.css")))
        if theme == "dark"
        else {}
    )


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_its_ground(theme: str) -> None:
    found = colours(theme)
    pairs = [
        (f"h{step}", "h-low" if step < 6 else "h-middle" if step == 6 else "h-high")
        for step in range(charts.STEPS)
    ]
    pairs += [
        (ground, ink) for ground in ("paper", "sheet", "mark") for ink in ("ink", "soft", "accent")
    ]
    pairs += [("warn-paper", "warn-ink"), ("sheet", "good"), ("sheet", "bad")]
    for ground, ink in pairs:
        assert contrast(found[ground], found[ink]) >= 4.5, (
            ground,
            ink,
            contrast(found[ground], found[ink]),
        )
    assert (
        contrast(found["muted-line"], found["sheet"]) >= 3
    )  # lines of the charts, edges of the fields
    order = [luminance(found[f"h{step}"]) for step in range(charts.STEPS)]
    assert order == sorted(order, reverse=theme == "light")  # the scale tells without its hue


def test_numbers_in_bars_stand_out() -> None:
    style = html.read("page.css")
    white = re.search(r"((?:\.chart text\.in\.[\w-]+,? ?)+)\{ fill: #ffffff", style)
    assert white is not None
    for name, fill in re.findall(
        r"\.(scored|e-\w+|c-\w+)(?:, \.[\w-]+)* \{ fill: (#[0-9a-f]{6}); background", style
    ):
        ink = "#ffffff" if re.search(rf"text\.in\.{name}\b", white[1]) else "#000000"
        assert contrast(fill, ink) >= 4.5, name


def test_labels_of_curves_keep_apart() -> None:
    wanted = [100.0, 101, 101, 102, 103, 399, 400, 400]
    places = sorted(charts.spread_labels(wanted, 0, 400))
    assert min(after - before for before, after in pairwise(places)) >= charts.LABEL_GAP - 1e-9
    assert places[0] >= 0 and places[-1] <= 400


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (0.4, 1), (6, 6), (7, 8), (24.3, 25), (30.7, 40), (100, 100)]
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    ticks = charts.ticks_up_to(value)
    assert (ticks[0], ticks[-1]) == (0, top) and 2 <= len(ticks) <= 7


def test_every_cause_is_of_one_family_and_its_words_are_for_people() -> None:
    members = [cause for family in FAMILIES.values() for cause in family]
    assert sorted(members) == sorted(CAUSES)
    assert all("_" not in causes.label(cause) for cause in CAUSES)
    style = html.read("page.css")
    names = (f"f-{family.replace(' ', '-')}" for family in FAMILIES)
    for name in (*names, *(f"c-{cause}" for cause in CAUSES)):
        assert re.search(rf"\.{name}\b[^{{]*\{{ fill: #", style), name
        assert plots.COLOURS.get(name, "#") in style, name


def test_families_of_points_make_100_and_lead_to_their_rows(small: Path) -> None:
    page = rich_page(small)
    for bars in (bar_charts.family_bars(page), bar_charts.cause_bars(page)):
        assert [level for level, _ in bars] == ["16k", "64k"]
        for level, parts in bars:
            # A level's mean is of scores to two places.
            assert sum(part.value for part in parts) == pytest.approx(100, abs=0.02)
            for part in parts[1:]:
                assert part.link.startswith(f"#rows?level={level}&cause=")
    right, cut, failed = bar_charts.family_bars(page)[1][1]
    lost = page.lost.levels["64k"]
    wording = lost["correct"] + lost["verbose"]
    assert right.value == pytest.approx(page.headline.level_means["64k"].value + wording)
    assert cut.value == lost["evidence_cut"] and cut.link.endswith("cause=evidence_cut")
    assert failed.link.endswith("cause=the+model+failed")
    drawn = bar_charts.draw_bars("points", bar_charts.family_bars(page), charts.NARROW)
    assert 'href="#rows?level=64k&amp;cause=evidence_cut"' in drawn and 'role="group"' in drawn


def curve_chart(published: dict[str, float], own: float) -> charts.CurveChart:
    """Curves that are level over two lengths."""
    found = Interval(own, own - 1, own + 1, 9, "questions")
    lines = [(name, {"16k": value, "32k": value}) for name, value in published.items()]
    levels = ["16k", "32k"]
    return charts.CurveChart(levels, [0.0, 50.0], lines, "own", dict.fromkeys(levels, found), [])


@pytest.mark.parametrize(
    ("published", "own", "standing"),
    [
        (
            {"a": 9, "b": 30, "c": 20, "d": 5, "e": 12},
            6,
            {"b": "best", "e": "median", "d": "nearest"},
        ),
        ({"a": 9, "b": 30, "c": 20}, 40, {"b": "best, nearest", "c": "median"}),
        ({"a": 9}, 40, {"a": "best, median, nearest"}),
        ({}, 40, {}),
    ],
)
def test_best_median_and_nearest_of_the_published_are_named(
    published: dict[str, float], own: float, standing: dict[str, str]
) -> None:
    chart = curve_chart(published, own)
    assert chart.standing == standing
    drawn = charts.draw_curves(chart, charts.CURVE_WIDTHS[0])
    assert drawn.count('class="model named"') == len(standing)
    assert drawn.count('class="model"') == len(published) - len(standing)
    assert all(f">{said}</text>" in drawn for said in standing.values())
    assert 'class="interval"' in drawn  # the band


def test_a_sparkline_is_blank_without_two_lengths() -> None:
    assert charts.draw_sparkline({"16k": 5.0}, 10, 0.9) == ""
    drawn = charts.draw_sparkline({"16k": 5.0, "32k": 0.0}, 10, 0.9)
    assert "<title>16k 5.0, 32k 0.0</title>" in drawn
    assert 'points="5.0,17.0 127.0,29.0"' in drawn


def test_published_curves_are_over_the_same_subsets(small: Path) -> None:
    page = rich_page(small)
    name, line = charts.published_curves(page)[0]
    model = next(model for model in page.headline.published if model.name == name)
    scores = [model.scores[subset, "64k"] for subset in page.subsets]
    assert line["64k"] == pytest.approx(sum(scores) / 3)
    assert list(line) == list(LEVELS)
