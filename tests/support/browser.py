"""Pages in a real browser, without network: what the tests of tests/browser share."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lveval.report import html
from lveval.report.data import ReportData
from support.run_folders import compared_page, full_run, hostile_page, rich_page, small_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (apt install chromium)"
)

Open = Callable[..., "Opened"]


class Opened:
    """A page in a tab, and what the browser had to say of it."""

    def __init__(self, tab: "Tab") -> None:
        self.tab = tab
        self.said: list[str] = []
        self.asked: list[str] = []
        tab.on("console", lambda message: self.said.append(message.text))
        tab.on("pageerror", lambda error: self.said.append(str(error)))
        tab.on("dialog", lambda dialog: self.said.append(dialog.message))
        tab.on("popup", lambda popup: self.said.append(f"popup {popup.url}"))
        tab.on("request", lambda request: self.asked.append(request.url))

    def count(self) -> str:
        return str(self.tab.locator("#count").inner_text())

    def expect_count(self, text: str) -> None:
        """Waits for it: search waits for a pause in typing."""
        from playwright.sync_api import (
            expect,  # not wait_for_function, which the page's policy refuses
        )

        expect(self.tab.locator("#count")).to_have_text(text, timeout=5000)

    def texts(self, selector: str) -> list[str]:
        return list(self.tab.locator(selector).all_text_contents())


@pytest.fixture(scope="module")  # of each module that imports it; two at once are refused
def browser() -> "Iterator[Browser]":
    api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed (pip install playwright)"
    )
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield started
        started.close()


BUILT: dict[str, Path] = {}  # the pages of this process: every module that imports `files` has them


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page with all parts, one with payloads in every field, of a full run, and of three runs."""
    if not BUILT:
        folder = tmp_path_factory.mktemp("pages")
        pages: dict[str, ReportData] = {
            "small": rich_page(small_run(folder / "a run")),
            "hostile": hostile_page(small_run(folder / "hostile", rows=14)),
            "full": rich_page(full_run(folder / "full")),
            "compared": compared_page(folder),
        }
        for name, page in pages.items():
            (folder / f"{name}.html").write_text(html.render(page), encoding="utf-8")
        BUILT.update({name: folder / f"{name}.html" for name in pages})
    return BUILT


@pytest.fixture
def opened(browser: "Browser", files: dict[str, Path]) -> Iterator[Open]:
    """Opens a page from disk; at the end nothing was said, and nothing asked for but the page."""
    tabs: list[Opened] = []

    def opening(name: str, width: int = 1280, address: str = "", **settings: Any) -> Opened:  # noqa: ANN401 - Playwright's options
        context = browser.new_context(
            viewport={"width": width, "height": 900}, offline=True, **settings
        )
        tabs.append(Opened(context.new_page()))
        tabs[-1].tab.goto(files[name].as_uri() + address)
        if settings.get("java_script_enabled", True):
            tabs[-1].tab.wait_for_selector("#filters")  # the rows are unpacked
        return tabs[-1]

    yield opening
    for tab in tabs:
        assert tab.said == []
        assert {url.split("#")[0] for url in tab.asked} == {
            url.split("#")[0] for url in tab.asked if url.startswith("file:")
        }
        assert len({url.split("#")[0] for url in tab.asked}) == 1
        tab.tab.context.close()
