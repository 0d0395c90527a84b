"""The page's frame in a real browser: first screen, navigation, tables, print, accessibility."""

import re
from importlib.resources import files as package_files
from typing import TYPE_CHECKING, Any, cast

import pytest
from support.browser import Open, browser, files, needs_chromium, opened

if TYPE_CHECKING:
    from playwright.sync_api import Page as Tab

__all__ = ["browser", "files", "opened"]  # fixtures

pytestmark = needs_chromium


def violations(tab: "Tab") -> list[str]:
    """What axe finds wrong with a page as it is shown, a line each."""
    script = package_files("axe_playwright_python").joinpath("axe.min.js").read_text()
    tab.evaluate(script)
    found = tab.evaluate("async () => (await axe.run()).violations")
    return [
        f"{rule['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for rule in cast(list[dict[str, Any]], found)
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["small", "compared"])
def test_axe_finds_nothing_wrong(opened: Open, name: str, scheme: str, width: int) -> None:
    """With every folded part open, and a row."""
    pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    page = opened(name, width, color_scheme=scheme)
    for folded in page.tab.locator("details").all():
        folded.evaluate("(part) => { part.open = true; }")
    page.tab.locator(".row").first.click()
    page.tab.locator("#opened").wait_for()
    assert violations(page.tab) == []


def test_axe_would_find_something(opened: Open) -> None:
    pytest.importorskip("axe_playwright_python", reason="pip install axe-playwright-python")
    page = opened("small")
    page.tab.evaluate(
        """() => {
            const field = document.createElement("input");
            document.querySelector("main").append(field);
            document.querySelector("#headline .lead").style.color = "#999999";
        }"""
    )
    rules = {line.split(":")[0] for line in violations(page.tab)}
    assert {"label", "color-contrast"} <= rules


# --- the first screen -----------------------------------------------------------------------------


def test_the_first_screen_tells_the_result(opened: Open) -> None:
    page = opened("full", 1440)
    tab = page.tab
    overall = tab.locator("#headline .overall strong >> visible=true").inner_text()
    said = tab.locator("p.lead").inner_text()
    assert f"scores {overall} (" in said
    corner = tab.locator("#scores .whole >> visible=true").inner_text()
    assert corner.split()[0] == overall
    assert tab.locator(".badges li").all_inner_texts()[:2] == [
        "official prompts",
        "8,645 of 8,645 rows",
    ]
    height = tab.evaluate("innerHeight")
    for part in ("#headline h1", "p.lead", "#curves svg >> visible=true", "#families svg"):
        box = tab.locator(part).first.bounding_box()
        assert box is not None and box["y"] + box["height"] <= height, part
    tab.check("#protocols input[value=recall]")
    assert tab.locator("#headline .overall strong >> visible=true").inner_text() != overall


def test_a_published_model_tells_its_name_when_pointed_at_or_focused(opened: Open) -> None:
    page = opened("full", 1440)
    models = page.tab.locator("#curves svg:visible .model:not(.named)")
    assert models.count() >= 5
    assert page.tab.locator("#curves svg:visible .model.named").count() >= 2
    shown = page.tab.locator("#curves svg:visible .model:not(.named) .name >> visible=true")
    assert shown.count() == 0
    models.first.focus()
    assert shown.count() == 1
    assert shown.first.text_content() in (models.first.locator("title").text_content() or "")


@pytest.mark.parametrize("family", ["right", "not in the prompt", "the model failed"])
def test_a_part_of_a_bar_leads_to_its_rows(opened: Open, family: str) -> None:
    page = opened("full", 1440)
    part = page.tab.locator("#families svg:visible a").filter(has_text=family).last
    part.focus()
    page.tab.keyboard.press("Enter")
    page.tab.wait_for_timeout(100)
    shown, _, of = page.count().partition(" of ")
    assert 0 < int(shown.replace(",", "")) < 8645 and of == "8,645 rows"
    chosen = page.tab.locator("#cause").input_value()
    assert chosen == {"not in the prompt": "evidence_cut"}.get(family, family)
    level = page.tab.locator("#level").input_value()
    assert level and all(f" · {level} · " in text for text in page.texts(".row .file"))


# --- the way about the page -----------------------------------------------------------------------


@pytest.mark.parametrize("width", [390, 1000, 1440])
def test_the_sections_stay_in_reach(opened: Open, width: int) -> None:
    tab = opened("full", width).tab
    bar = tab.locator("#sections")
    link = bar.get_by_role("link", name="Evidence")
    link.click()
    # It scrolls smoothly, past what is drawn only then.
    bar.locator("[aria-current=location]", has_text="Evidence").wait_for(timeout=10_000)
    tab.wait_for_timeout(500)
    box = bar.bounding_box()
    assert box is not None and 0 <= box["y"] < 200
    assert link.get_attribute("aria-current") == "location"
    assert bar.locator("[aria-current]").count() == 1
    heading = tab.locator("#evidence h2").bounding_box()
    assert heading is not None and heading["y"] >= (box["height"] if width < 1320 else 0)


def test_every_heading_has_an_address_that_opens_what_is_folded(opened: Open) -> None:
    page = opened("small", 1440)
    tab = page.tab
    anchors = tab.locator("main .anchor")
    assert anchors.count() >= 12
    for anchor in anchors.all():
        target = (anchor.get_attribute("href") or "")[1:]
        assert tab.evaluate("(id) => document.getElementById(id) !== null", target), target
    folded = tab.locator("details h3[id]").first
    assert not folded.is_visible()
    tab.evaluate("(id) => { location.hash = id; }", folded.get_attribute("id"))
    tab.wait_for_timeout(100)
    assert folded.is_visible()


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_is_sorted_by_click_and_by_key(opened: Open) -> None:
    tab = opened("full", 1440).tab
    table = tab.locator("#scores table >> visible=true")
    header = table.locator("thead th").nth(1)

    def column() -> list[float]:
        cells = table.locator("tbody tr td:nth-child(2)").all_inner_texts()
        return [float(cell.split()[0]) for cell in cells]

    before, foot = column(), table.locator("tfoot").inner_text()
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column() == sorted(before, reverse=True) != before
    header.locator("button").focus()
    tab.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending" and column() == sorted(before)
    names = table.locator("thead th").first
    names.locator("button").click()
    assert names.get_attribute("aria-sort") == "ascending"
    assert header.get_attribute("aria-sort") is None
    assert table.locator("tfoot").inner_text() == foot


def test_lengths_sort_by_size_and_blanks_last(opened: Open) -> None:
    tab = opened("full", 1440).tab
    tab.locator("#causes details summary").first.click()
    table = tab.locator("#causes table >> visible=true").first
    first = table.locator("thead th").first.locator("button")
    first.click()
    rows = table.locator("tbody th")
    assert rows.all_inner_texts() == ["256k", "128k", "64k", "32k", "16k"]
    leaders = tab.locator("#leaderboard table >> visible=true")
    leaders.locator("thead button").filter(has_text="32k").click()
    assert leaders.locator("tbody").last.locator("tr").count() >= 1
    assert leaders.locator("tbody").first.locator("tr td").first.inner_text() == "1"


def test_a_table_is_copied_as_csv_without_a_formula(opened: Open) -> None:
    page = opened("small", 1440, permissions=["clipboard-read", "clipboard-write"])
    tab = page.tab
    tab.evaluate(
        """() => {
            document.querySelector("#scores [data-protocol]:not([hidden]) tbody th").textContent = '=1+1, "x"';
        }"""
    )
    button = tab.locator("#scores .copy >> visible=true")
    button.click()
    tab.wait_for_timeout(100)
    assert button.inner_text() == "Copied"
    lines = str(tab.evaluate("navigator.clipboard.readText()")).replace("\r\n", "\n").split("\n")
    assert lines[0].startswith('"subset","16k","16k 95 % interval","64k"')
    assert lines[1].startswith('"\'=1+1, ""x""","')
    assert len(lines) == 1 + 3 + 3 + 1  # head, subsets, means, the end
    shown = tab.locator("#scores tbody td >> visible=true").first.inner_text().split()
    assert lines[1].split('","')[1:3] == shown


def test_wide_tables_scroll_in_their_own_frame(opened: Open) -> None:
    tab = opened("full", 390).tab
    frame = tab.locator("#scores .scroll >> visible=true")
    assert "more-right" in (frame.get_attribute("class") or "")
    first, last = (frame.locator("tbody tr").first.locator(each) for each in ("th", "td.mean"))
    before = first.bounding_box()
    mean = last.bounding_box()
    assert mean is not None and mean["x"] + mean["width"] <= 390  # the mean is seen at once
    frame.evaluate("(part) => { part.scrollLeft = 90; }")
    tab.wait_for_timeout(100)
    assert first.bounding_box() == before
    assert "more-left" in (frame.get_attribute("class") or "")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390


# --- print ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["full", "small", "compared"])
def test_printed_it_is_a_summary_of_two_pages(opened: Open, name: str) -> None:
    page = opened(name, 1440)
    content = page.tab.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", content)) == 2
    page.tab.emulate_media(media="print")
    for part in ("#headline", "#scores", "#causes", "#lengths", ".running"):
        assert page.tab.locator(part).is_visible(), part
    for part in ("#rows", "#evidence", "#leaderboard", "#bar"):
        assert not page.tab.locator(part).is_visible(), part
    heading = page.tab.locator("h1").inner_text()
    assert page.tab.locator(".running").inner_text() == f"LV-Eval report: {heading}"
