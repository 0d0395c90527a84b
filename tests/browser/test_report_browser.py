"""The page in a real browser, without network: search, filters, keys, themes, untrusted text.

Skipped where there is no Chromium or no Playwright: `apt install chromium`, `pip install
playwright`.
"""

import pytest
from support.browser import Open, browser, files, needs_chromium, opened
from support.run_folders import PAYLOADS

__all__ = ["browser", "files", "opened"]  # fixtures

pytestmark = needs_chromium


def test_search_finds_in_question_truth_and_prediction(opened: Open) -> None:
    page = opened("small")
    assert page.count() == "72 of 72 rows"
    assert len(page.texts(".row")) == 50
    first = page.tab.locator(".row .question").first.inner_text()
    page.tab.fill("#search", first.upper())
    page.expect_count("2 of 72 rows")
    assert page.texts(".row .question") == [first, first]  # one question, two levels
    page.tab.fill("#search", "no such words anywhere")
    page.expect_count("0 of 72 rows")
    page.tab.get_by_role("button", name="Reset").click()
    page.expect_count("72 of 72 rows")
    page.tab.select_option("#subset", "dureader_mixup")
    chinese = page.tab.locator(".row .question").first.inner_text()
    page.tab.get_by_role("button", name="Reset").click()
    page.tab.fill("#search", chinese[2:9])
    page.expect_count("2 of 72 rows")
    assert page.texts(".row .question") == [chinese, chinese]


def test_filters_narrow_the_rows(opened: Open) -> None:
    page = opened("small")
    page.tab.select_option("#subset", "lic_mixup")
    page.expect_count("24 of 72 rows")
    page.tab.select_option("#level", "64k")
    page.expect_count("12 of 72 rows")
    page.tab.select_option("#status", "refused")
    page.tab.wait_for_timeout(50)
    chips = page.texts(".row .chips")
    assert chips and all("refused" in chip for chip in chips)
    page.tab.select_option("#status", "")
    page.tab.select_option("#kept", "0")
    page.tab.wait_for_timeout(50)
    assert all("evidence not kept" in chip for chip in page.texts(".row .chips"))
    page.tab.get_by_role("button", name="Reset").click()
    page.expect_count("72 of 72 rows")
    page.tab.fill("#least", "20")
    page.tab.fill("#most", "60")
    page.tab.select_option("#sort", "high")
    page.tab.wait_for_timeout(50)
    scores = [float(score) for score in page.texts(".row .score")]
    assert (
        scores and scores == sorted(scores, reverse=True) and scores[-1] >= 20 and scores[0] <= 60
    )
    page.tab.get_by_role("button", name="Reset").click()
    cause = page.tab.locator("#cause option").nth(1).inner_text()
    page.tab.select_option("#cause", label=cause)
    page.tab.wait_for_timeout(50)
    assert page.texts(".row .chips") and all(cause in chip for chip in page.texts(".row .chips"))


def test_a_number_leads_to_its_rows(opened: Open) -> None:
    page = opened("small")
    page.tab.fill("#search", "something")
    cell = '.heat a[href="#rows?subset=dureader_mixup&level=64k"] >> visible=true'
    page.tab.locator(cell).click()  # one protocol's at a time is to be seen
    assert page.count() == "12 of 72 rows"
    assert page.tab.locator("#search").input_value() == ""
    page.tab.locator('#causes svg a[href*="cause="] >> visible=true').first.click()
    page.tab.wait_for_timeout(50)
    assert page.count() != "72 of 72 rows" and page.count() != "0 of 72 rows"


def test_an_opened_row_shows_how_it_scored(opened: Open) -> None:
    page = opened("small")
    page.tab.select_option("#subset", "lic_mixup")
    page.tab.select_option("#status", "ok")
    page.tab.select_option("#level", "64k")
    page.tab.select_option("#sort", "high")
    page.tab.wait_for_timeout(50)
    page.tab.locator(".row").first.click()
    panel = page.tab.locator("#opened")
    text = panel.inner_text()
    for name in (
        "Question",
        "Truth",
        "Keywords found and missed",
        "Prediction",
        "Confusing facts",
        "How it scored",
        "Prompt",
    ):
        assert name in text
    assert "Stage 1, keywords:" in text and "≥ 0.4: passed." in text and "Stage 2, F1:" in text
    assert "31,500 of 89,600 tokens (35.2 %): the middle 58,100 were cut." in text
    assert panel.locator(".token.found").count() >= 1
    assert panel.locator(".text[lang=zh-Hans]").count() >= 3
    score = page.tab.locator(".row .score").first.inner_text()
    assert f"Score: released {score}" in text
    stage = text.split("= ")[-1].split(".\n")[0]
    assert 100 * float(stage) == pytest.approx(float(score), abs=0.01)
    page.tab.locator(".row").nth(1).click()
    assert page.tab.locator(".opened").count() == 1  # one row at a time


@pytest.mark.parametrize("width", [390, 1440])
def test_the_switch_shows_one_protocol_at_a_time(opened: Open, width: int) -> None:
    page = opened("small", width)

    def shown(selector: str) -> set[str | None]:
        parts = page.tab.locator(selector).all()
        return {part.get_attribute("data-protocol") for part in parts if part.is_visible()}

    parts = (
        "#headline",
        "#scores",
        "#curves",
        "#groups",
        "#subsets",
        "#leaderboard",
        "#comparison",
    )
    first = page.tab.locator(".row .score").first
    headline = page.tab.locator("#headline .overall >> visible=true").first
    seen = set()
    for name in ("released", "recall", "described"):
        page.tab.check(f"#protocols input[value={name}]")
        for part in parts:
            assert shown(f"{part} [data-protocol]") == {name}, (part, name)
        page.tab.select_option("#sort", "high")
        page.tab.wait_for_timeout(50)
        scores = [float(score) for score in page.texts(".row .score")]
        assert scores == sorted(scores, reverse=True)
        page.tab.locator(".row").first.click()
        sums = page.tab.locator("#opened").inner_text()
        assert f"{name} {first.inner_text()}" in sums
        seen.add(headline.inner_text())
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert len(seen) == 3
    assert "do not say their exact rule" in str(page.tab.locator("#leaderboard").text_content())


def test_an_opened_row_shows_passages_of_its_context(opened: Open) -> None:
    page = opened("small")
    page.tab.select_option("#subset", "lic_mixup")
    page.tab.wait_for_timeout(50)
    page.tab.locator(".row").first.click()
    passages = page.tab.locator("#opened .passage")
    passages.nth(3).wait_for()  # they are unpacked when the first row is opened
    assert page.texts("#opened .passage .chip") == [
        "evidence, depth 0.40",
        "confusing fact, depth 0.10, 0.20 in the prompt",
        "confusing fact, depth 0.10, 0.20 in the prompt",
        "cut, from depth 0.30: 12,345 characters",
    ]
    assert passages.locator("mark[lang=zh-Hans]").count() == 3
    first = passages.first.locator(".text").inner_text()
    page.tab.locator(".row").nth(1).click()
    assert passages.count() == 4 and passages.first.locator(".text").inner_text() != first


def test_charts_of_depth_are_whole_at_any_width(opened: Open) -> None:
    for width in (390, 1440):
        page = opened("full", width)
        charts = page.tab.locator("#depth svg:visible")
        assert charts.count() == 4  # two heat maps, scores, passages
        clipped = page.tab.evaluate(
            """() => [...document.querySelectorAll("#depth svg")].filter((svg) => svg.clientWidth).map((svg) => {
                const frame = svg.getBoundingClientRect();
                return [...svg.querySelectorAll("text, rect")].filter((part) => {
                    const box = part.getBoundingClientRect();
                    return box.left < frame.left - 1 || box.right > frame.right + 1
                        || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
                }).map((part) => part.textContent);
            }).flat()"""
        )
        assert clipped == []


def test_the_keyboard_reaches_everything(opened: Open) -> None:
    page = opened("small")
    keys, focused = page.tab.keyboard, "document.activeElement"
    keys.press("Tab")
    assert page.tab.evaluate(f"{focused}.textContent") == "Skip to the rows"
    keys.press("/")
    assert page.tab.evaluate(f"{focused}.id") == "search"
    keys.type("/")  # in a field it is a letter
    assert page.tab.locator("#search").input_value() == "/"
    page.tab.fill("#search", "")
    page.tab.wait_for_timeout(200)
    keys.press("ArrowDown")
    assert page.tab.evaluate(f"{focused}.className") == "row"
    page.tab.focus("#search")
    for _ in range(30):
        keys.press("Tab")
        if page.tab.evaluate(f"{focused}.className") == "row":
            break
    assert page.tab.evaluate(f"{focused}.className") == "row"
    outline = page.tab.evaluate(
        f"getComputedStyle({focused}).outlineStyle + getComputedStyle({focused}).outlineWidth"
    )
    assert outline == "solid3px"
    keys.press("Enter")
    assert page.tab.locator(".row").first.get_attribute("aria-expanded") == "true"
    assert page.tab.locator("#opened").is_visible()
    keys.press("Escape")
    assert page.tab.locator(".opened").count() == 0
    assert page.tab.evaluate(f"{focused}.getAttribute('aria-expanded')") == "false"
    keys.press("Enter")
    page.tab.focus("#status")
    keys.press("Escape")  # from anywhere, and back to the row
    assert page.tab.locator(".opened").count() == 0
    assert page.tab.evaluate(f"{focused}.className") == "row"
    keys.press("ArrowDown")
    keys.press("Space")
    assert page.tab.locator(".row").nth(1).get_attribute("aria-expanded") == "true"
    keys.press("Space")
    assert page.tab.locator(".opened").count() == 0


def test_a_full_run_is_shown_in_pages(opened: Open) -> None:
    page = opened("full")
    assert page.count() == "8,645 of 8,645 rows"
    page.tab.select_option("#subset", "lic_mixup")
    page.expect_count("985 of 8,645 rows")
    assert page.tab.locator("#where").inner_text() == "1–50 of 985"
    page.tab.locator("#next").click()
    assert page.tab.locator("#where").inner_text() == "51–100 of 985"
    assert page.tab.evaluate("document.activeElement.className") == "row"
    assert page.tab.locator("#previous").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_switch(opened: Open, scheme: str) -> None:
    page = opened("small", color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(247, 248, 250)", "rgb(20, 23, 28)"
    assert page.tab.evaluate(paper) == (light if scheme == "light" else dark)
    button = page.tab.locator("#theme")
    found = []
    for _ in range(3):
        button.click()
        found.append((button.inner_text(), page.tab.evaluate(paper)))
    assert found[:2] == [("Theme: light", light), ("Theme: dark", dark)]
    assert found[2][0] == "Theme: automatic"
    page.tab.emulate_media(media="print")
    assert page.tab.evaluate(paper) == "rgb(255, 255, 255)"
    assert not page.tab.locator("#filters").is_visible()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out_at_any_width(opened: Open, width: int) -> None:
    for name in ("small", "full", "hostile"):
        page = opened(name, width)
        page.tab.locator(".row").first.click()
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
        shown = page.tab.locator(".chart.narrow" if width == 360 else ".chart.wide")
        assert shown.first.is_visible()
        labels = page.tab.evaluate(
            """(width) => [...document.querySelectorAll(
                "#curves svg, #groups svg, #subsets svg")]
            .filter((svg) => svg.clientWidth).map((svg) => {
                const frame = svg.getBoundingClientRect();
                return [...svg.querySelectorAll("text")].filter((text) => {
                    const box = text.getBoundingClientRect();
                    return box.left < frame.left - 1 || box.right > frame.right + 1
                        || box.bottom > frame.bottom + 1;
                }).map((text) => text.textContent);
            }).flat()""",
            width,
        )
        if name != "hostile":
            assert labels == []  # nothing is clipped


def test_payloads_stay_text_in_the_browser(opened: Open) -> None:
    page = opened("hostile")
    plain = opened("small")
    names = "[...document.querySelectorAll('*')].map((element) => element.localName)"
    kinds = f"[...new Set({names})].sort()"
    plain.tab.locator(".row").first.click()
    plain.tab.locator("#opened .passage mark").first.wait_for()
    seen: set[str] = set()
    total = 84
    assert page.count() == f"{total} of {total} rows"
    for turn in range(2):
        for button in page.tab.locator(".row").all():
            button.evaluate("(button) => button.click()")
            page.tab.locator("#opened .passage mark").first.wait_for()
            assert page.texts("#opened .passage mark")[0].startswith("x")
            question = page.tab.locator("#opened .text").first.text_content()
            assert question is not None
            seen.add(question)
            texts = page.texts("#opened .text")
            assert {text[0] for text in texts} >= set("qtuprf")
        assert set(page.tab.evaluate(kinds)) <= set(plain.tab.evaluate(kinds))
        if turn == 0:
            page.tab.locator("#next").click()
    # Playwright hands a lone surrogate back as U+FFFD; NUL and others as they are.
    assert {text.replace("\ud800", "\ufffd") for text in seen} == {
        f"q{text}".replace("\ud800", "\ufffd") for text in PAYLOADS
    }
    page.tab.select_option("#cause", index=3)
    page.tab.wait_for_timeout(50)
    assert page.count().startswith("1 of") or page.count().startswith("2 of")
    for link in page.tab.locator("#causes a").all()[:12]:
        link.click()
    page.tab.locator(".row").first.hover()
    page.tab.wait_for_timeout(200)
    assert page.tab.evaluate("window.marked") is None
    assert page.tab.evaluate("document.title").startswith("<script>")


def test_markup_cannot_be_set_even_by_the_page(opened: Open) -> None:
    """The policy itself refuses markup from text, code from text, and any request."""
    page = opened("small")
    refused = page.tab.evaluate(
        """() => {
            let refused = 0;
            for (const attempt of [
                () => { document.body.innerHTML = "<img src=x>"; },
                () => { document.createElement("div").setAttribute("onclick", "1"); },
                () => { new Function("1"); },
            ]) try { attempt(); } catch { refused += 1; }
            return refused;
        }"""
    )
    assert refused >= 2
    assert page.said  # the browser reports each
    page.said.clear()
