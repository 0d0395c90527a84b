"""What tests of report_page share."""

import base64
import gzip
import json
from html.parser import HTMLParser
from typing import Any, cast

# --- one file, small, alone -----------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page and their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and self.cdata_elem:
            (self.scripts if self.found[-1][0] == "script" else self.styles)[-1] += data

    def packed(self) -> dict[str, str]:
        """The parts of the rows' data, compressed."""
        return cast(dict[str, str], json.loads(self.scripts[0]))

    def data(self) -> dict[str, Any]:
        """The rows as the page's script unpacks them."""
        return cast(dict[str, Any], self._unpacked("rows"))

    def details(self) -> dict[int, list[Any]]:
        """What opened rows need, by row: depths of evidence and confusing facts, other answers."""
        return self._by_row("details")

    def passages(self) -> dict[int, list[list[Any]]]:
        """The passages of the contexts by row."""
        return self._by_row("passages")

    def _by_row(self, part: str) -> dict[int, Any]:
        if not self.packed()[part]:
            return {}
        told = self._unpacked(part)
        return dict(zip(told["order"], told["rows"], strict=True))

    def _unpacked(self, part: str) -> Any:  # noqa: ANN401 - JSON
        return json.loads(gzip.decompress(base64.b64decode(self.packed()[part])))
