"""The row browser and the comparison in a real browser: addresses, copies, keys, what is beside."""

import csv
import io
import json
from urllib.parse import quote

import pytest
from support.browser import Open, Opened, browser, files, needs_chromium, opened
from support.run_folders import PAYLOADS

__all__ = ["browser", "files", "opened"]  # fixtures

pytestmark = needs_chromium


def address(page: Opened) -> str:
    """What stands behind the # of the address, and the #."""
    return str(page.tab.evaluate("location.hash"))


def view(page: Opened) -> tuple[str, list[str], list[str]]:
    """What a reader sees of the rows."""
    return page.count(), page.texts(".row .file"), page.texts("#opened .text")


def expect_address(page: Opened, said: str) -> None:
    page.tab.wait_for_timeout(150)  # search waits for a pause in typing
    assert address(page) == said


# --- addresses ------------------------------------------------------------------------------------------------------


def test_a_view_has_an_address_that_brings_it_back(opened: Open) -> None:
    page = opened("compared")
    page.tab.select_option("#subset", "lic_mixup")
    expect_address(page, "#rows?subset=lic_mixup")
    page.tab.select_option("#level", "64k")
    page.tab.select_option("#sort", "low")
    page.tab.fill("#most", "40")
    page.tab.fill("#search", "灯 a=b&c#")
    page.tab.fill("#search", "灯")
    expect_address(page, f"#rows?subset=lic_mixup&level=64k&most=40&sort=low&q={quote('灯')}")
    page.tab.check("#protocols input[value=recall]")
    page.tab.locator(".row").nth(2).click()
    page.tab.locator("#opened .passage, #opened .places p").first.wait_for()
    said = address(page)
    assert "&protocol=recall&row=lic_mixup_64k%3A" in said
    before = view(page)
    page.tab.reload()
    page.tab.wait_for_selector("#opened .places p")
    assert view(page) == before and address(page) == said
    assert page.tab.locator("#opened").bounding_box() is not None
    again = opened("compared", address=said)
    again.tab.wait_for_selector("#opened .places p")
    assert view(again) == before
    assert again.tab.locator("#protocols input[value=recall]").is_checked()
    box = again.tab.locator(".row[aria-expanded=true]").bounding_box()
    assert box is not None and 0 <= box["y"] < 900  # it is in view
    again.tab.get_by_role("button", name="Reset").click()
    expect_address(again, "#rows?protocol=recall")


def test_one_row_has_an_address_of_its_own(opened: Open) -> None:
    page = opened("compared", address="#row=lic_mixup_64k:29")
    assert page.count() == "120 of 120 rows"
    assert page.tab.locator("#where").inner_text() == "101–120 of 120"
    row = page.tab.locator(".row[aria-expanded=true]")
    assert "lic_mixup · 64k · 29" in row.inner_text()
    assert page.tab.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    page.tab.keyboard.press("Escape")
    expect_address(page, "#rows?page=3")
    page.tab.locator("#previous").click()
    expect_address(page, "#rows?page=2")
    page.tab.locator(".row").first.click()
    assert address(page).startswith("#row=")
    page.tab.evaluate("location.hash = '#rows?subset=hotpotwikiqa_mixup&page=2'")
    page.expect_count("60 of 120 rows")
    assert page.tab.locator("#where").inner_text() == "51–60 of 60"


def test_the_page_leads_to_rows(opened: Open) -> None:
    page = opened("compared")
    page.tab.fill("#search", "something")
    link = page.tab.locator('.heat a[href="#rows?subset=lic_mixup&level=64k"] >> visible=true')
    link.click()
    page.expect_count("30 of 120 rows")
    assert page.tab.locator("#search").input_value() == ""
    page.tab.select_option("#level", "16k")
    page.tab.wait_for_timeout(100)
    link.click()
    assert set(page.texts(".row .file")) and address(page) == "#rows?subset=lic_mixup&level=64k"
    link.click()  # the address is the same: it is gone to all the same
    page.expect_count("30 of 120 rows")
    page.tab.evaluate("location.hash = '#scores'")
    page.tab.wait_for_timeout(50)
    assert page.count() == "30 of 120 rows"  # other addresses leave the rows alone
    failed = page.tab.locator('#headline a[href*="cause=the+model+failed"] >> visible=true').first
    failed.click()
    page.tab.wait_for_timeout(100)
    shown = page.tab.locator("#cause").input_value()
    assert shown == "the model failed" and page.count() != "120 of 120 rows"


def test_back_leads_to_the_view_before(opened: Open) -> None:
    page = opened("compared", address="#rows?subset=lic_mixup")
    page.tab.locator(".row").first.click()
    page.tab.locator("#opened a.length").first.click()
    row = page.tab.locator(".row[aria-expanded=true]")
    assert "lic_mixup · 64k · 0" in row.inner_text()
    page.tab.go_back()
    page.expect_count("60 of 120 rows")
    assert "lic_mixup · 16k · 0" in row.inner_text()


@pytest.mark.parametrize(
    "payload", [*PAYLOADS[::7], "a%ZZ%E0%A4%A", "\ufffe&&==&subset", "x" * 4000]
)
def test_an_address_is_text_and_never_more(opened: Open, payload: str) -> None:
    said = quote(payload, safe="%&=", errors="replace")
    page = opened("compared", address=f"#rows?q={said}&subset={said}&protocol={said}&{said}={said}")
    assert page.tab.evaluate("window.marked") is None
    assert page.tab.locator("#strange").is_visible()
    assert page.tab.locator("#strange").inner_text().startswith("Not on this page: ")
    assert page.tab.locator("#strange > *").count() == 0
    assert page.tab.locator("#subset").input_value() == ""
    for form in (f"#row={said}", f"#rows?row={said}&page={said}&flip={said}&sort={said}"):
        page.tab.evaluate("(form) => { location.hash = form; }", form)
        page.tab.wait_for_timeout(30)
    assert page.count() == "120 of 120 rows" and page.tab.locator("#opened").count() == 0
    assert page.tab.evaluate("window.marked") is None
    page.tab.select_option("#level", "16k")
    page.expect_count("60 of 120 rows")
    assert not page.tab.locator("#strange").is_visible()


@pytest.mark.parametrize("name", ["__proto__", "constructor", "toString", "hasOwnProperty"])
def test_names_of_the_language_are_no_fields(opened: Open, name: str) -> None:
    page = opened("compared", address=f"#rows?{name}=1&cause={name}")
    assert page.count() == "120 of 120 rows"
    assert page.tab.locator("#strange").inner_text() == f"Not on this page: {name}=1, cause={name}."


# --- out of the page ------------------------------------------------------------------------------------------------


def test_what_is_filtered_is_copied_and_downloaded(opened: Open) -> None:
    page = opened(
        "compared",
        address="#rows?level=64k&flip=1",
        permissions=["clipboard-read", "clipboard-write"],
    )
    number = int(page.count().split()[0])
    page.tab.locator("#actions").get_by_role("button", name="Copy as CSV").click()
    page.tab.wait_for_timeout(100)
    copied = str(page.tab.evaluate("navigator.clipboard.readText()"))
    head, *lines = csv.reader(io.StringIO(copied))
    assert len(lines) == number and set(map(len, lines)) == {len(head)}
    assert head[:3] == ["subset", "level", "index"] and head[-1] == "third-run: score (released)"
    for line in lines:
        told = dict(zip(head, line, strict=True))
        assert float(told["score (released)"]) - float(told["second-run: score (released)"]) >= 50
    with page.tab.expect_download() as csv_file:
        page.tab.get_by_role("button", name="Download CSV").click()
    saved = csv_file.value.path().read_text(encoding="utf-8-sig")
    assert saved.splitlines() == copied.splitlines()
    with page.tab.expect_download() as jsonl_file:
        page.tab.get_by_role("button", name="Download JSONL").click()
    assert jsonl_file.value.suggested_filename == "rows.jsonl"
    records = [json.loads(line) for line in jsonl_file.value.path().read_text("utf-8").splitlines()]
    assert [record["pred"] for record in records] == [
        line[head.index("prediction")] for line in lines
    ]
    assert [run["run"] for run in records[0]["compared"]] == ["second-run", "third-run"]
    page.tab.get_by_role("button", name="Copy link").click()
    page.tab.wait_for_timeout(100)
    assert page.tab.evaluate("navigator.clipboard.readText()") == page.tab.url
    page.tab.locator(".row").first.click()
    page.tab.locator("#opened").get_by_role("button", name="Copy row").click()
    page.tab.wait_for_timeout(100)
    assert json.loads(page.tab.evaluate("navigator.clipboard.readText()")) == records[0]
    page.tab.locator("#opened").get_by_role("button", name="Copy link").click()
    page.tab.wait_for_timeout(100)
    assert str(page.tab.evaluate("navigator.clipboard.readText()")).endswith(
        f"#row=hotpotwikiqa_mixup_64k:{records[0]['index']}"
    )
    # A download asks nothing of the network, but the browser lists it.
    page.asked = [url for url in page.asked if not url.startswith("blob:")]


def test_no_cell_of_the_csv_is_a_formula(opened: Open) -> None:
    page = opened("hostile", permissions=["clipboard-read", "clipboard-write"])
    page.tab.get_by_role("button", name="Copy as CSV").last.click()
    page.tab.wait_for_timeout(200)
    copied = str(page.tab.evaluate("navigator.clipboard.readText()"))
    for line in csv.reader(io.StringIO(copied)):
        for cell in line:
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell
    lines = page.tab.evaluate(
        """() => csvLine(["=1+1", " =2", "+3", "-4.5", "-x", "@a", "a\\"b", "\\t=5", "a\\nb", null])"""
    )
    assert lines == ('"\'=1+1","\' =2","+3","-4.5","\'-x","\'@a","a""b","\'\t=5","a\nb",""\r\n')


# --- an opened row --------------------------------------------------------------------------------------------------


def test_answers_stand_beside_each_other_and_shared_words_are_marked(opened: Open) -> None:
    page = opened("compared", address="#rows?subset=hotpotwikiqa_mixup&sort=high")
    page.tab.locator(".row").first.click()
    page.tab.locator("#opened .places p").wait_for()
    names = page.texts("#opened .beside dt")
    assert names[0] == "Truth" and names[1] == "Prediction of first-run100.00"
    assert [name.split("-run")[0] for name in names[2:]] == [
        "Prediction of second",
        "Prediction of third",
    ]
    answers = page.texts("#opened .beside dd > .text")
    assert len(answers) == 4 and answers[0] == answers[1]
    marked = page.tab.locator("#opened .beside > div").first.locator("mark")
    assert "".join(marked.all_text_contents()).replace(" ", "") == answers[0].replace(" ", "")
    same = page.tab.locator("#opened .length")
    assert same.locator("span:first-child").first.inner_text() == "16k" and same.count() == 2
    bars = page.tab.locator("#opened .place")
    assert bars.first.locator(".at").all_text_contents() == ["E", "F", "F"]
    assert str(bars.first.get_attribute("aria-label")).startswith("In the context: evidence at 0.")
    for mark in bars.first.locator(".at").all():
        left = float(mark.evaluate("(mark) => parseFloat(mark.style.left)"))
        title = str(mark.get_attribute("title"))
        assert title.endswith(f"depth {left / 100:.2f}") and 0 <= left <= 100


def test_right_and_wrong_are_seen_without_opening(opened: Open) -> None:
    page = opened("compared", address="#rows?least=100")
    for row in page.tab.locator(".row").all()[:10]:
        lines = row.locator(".line > :last-child").all_text_contents()
        assert len(lines) == 3 and lines[1] == lines[2]
        assert "right" in row.locator(".chips").inner_text()
        assert [each.count(".") for each in row.locator(".other").all_inner_texts()] == [1, 1]


def test_a_flipped_question_is_a_link_to_its_row(opened: Open) -> None:
    page = opened("compared")
    flip = page.tab.locator("#comparison .flips li a >> visible=true").first
    question = flip.inner_text()
    flip.click()
    assert question[:40] in page.tab.locator("#opened .text").first.inner_text()
    more = page.tab.locator("#comparison .flips p a >> visible=true").first
    number = more.inner_text().split()[0]
    more.click()
    page.expect_count(f"{number} of 120 rows")
    assert page.tab.locator("#flip").input_value() == "1"


@pytest.mark.parametrize("width", [390, 1440])
def test_the_plot_of_differences_is_whole_and_its_lines_are_links(opened: Open, width: int) -> None:
    page = opened("compared", width)
    clipped = page.tab.evaluate(
        """() => [...document.querySelectorAll("#comparison svg")].filter((svg) => svg.clientWidth).map((svg) => {
            const frame = svg.getBoundingClientRect();
            return [...svg.querySelectorAll("text, circle, polyline")].filter((part) => {
                const box = part.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
            }).map((part) => part.textContent || part.localName);
        }).flat()"""
    )
    assert clipped == []
    line = page.tab.locator('#comparison svg a[href="#rows?level=64k"] >> visible=true').first
    assert line.locator("title").text_content().startswith("64k: ")
    line.focus()
    page.tab.keyboard.press("Enter")
    page.expect_count("60 of 120 rows")
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width


# --- keys, and no script --------------------------------------------------------------------------------------------


def test_search_and_order_by_the_keyboard(opened: Open) -> None:
    page = opened("compared")
    keys, focused = page.tab.keyboard, "document.activeElement"
    keys.press("/")
    keys.type("lamp")
    keys.press("ArrowDown")
    page.tab.wait_for_timeout(150)
    keys.press("/")
    keys.press("ArrowDown")
    keys.press("s")
    assert page.tab.evaluate(f"{focused}.id") == "sort"
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    expect_address(page, "#rows?sort=high&q=lamp")
    page.tab.locator(".row").first.focus()
    keys.press("Enter")
    assert page.tab.locator("#opened").is_visible() and "&row=" in address(page)
    keys.press("Escape")
    expect_address(page, "#rows?sort=high&q=lamp")
    keys.press("ArrowUp")
    assert page.tab.evaluate(f"{focused}.id") == "search"


def test_without_a_script_the_worst_rows_are_there(opened: Open) -> None:
    page = opened("compared", java_script_enabled=False)
    assert page.tab.locator("#list .row").count() == 20
    assert page.tab.locator("#count").inner_text().startswith("The 20 rows of the lowest scores")
    first = page.tab.locator("#list .row").first
    assert first.locator(".line").count() == 3 and first.locator(".score").inner_text() == "0.00"
    assert not page.tab.locator("#filters").is_visible()
    assert page.tab.locator("#comparison svg").first.is_visible()
