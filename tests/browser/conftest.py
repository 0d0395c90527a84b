"""One browser and one set of pages for all tests of this folder."""

from support.browser import browser, files, opened

__all__ = ["browser", "files", "opened"]
