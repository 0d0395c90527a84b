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

    def data(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self.scripts[0]))

    def passages(self) -> dict[int, list[list[Any]]]:
        """The passages of the contexts by row, as the page's script unpacks them."""
        packed = self.data().get("passages")
        if packed is None:
            return {}
        told = json.loads(gzip.decompress(base64.b64decode(packed)))
        return dict(zip(told["order"], told["rows"], strict=True))
