"""The address and key of a service, and the openai package's clients.

    url = client.base_url(service)
    with client.blocking(url) as client: ...

The clients neither repeat a request (retry.py and online.py do) nor follow a redirect: credentials
go to the address that the user named, and nowhere else.
"""

import ipaddress
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lveval.backends.base import ApiOptions
from lveval.common.errors import UsageError

if TYPE_CHECKING:
    import openai


DEFAULT_URL = "https://api.openai.com/v1"


def base_url(service: ApiOptions) -> str:
    """The service's address, checked: no secret may stand in it, since it is logged."""
    url = service.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    wrong = UsageError(
        f'--base-url: found "{url}", expected an address such as http://127.0.0.1:8000/v1'
    )
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for one that is no number
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise wrong
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "--base-url: found a user, password or query in it; a key belongs into OPENAI_API_KEY"
        )
    return url.rstrip("/")


def endpoint_host(url: str) -> str:
    """Return a public host; "private" for an own service, which may move to another node."""
    host = urlsplit(url).hostname or ""
    try:
        return "private" if not ipaddress.ip_address(host).is_global else host
    except ValueError:
        return (
            host
            if "." in host and not host.endswith((".local", ".internal", ".localhost"))
            else "private"
        )


def api_key(url: str) -> str:
    """The key; a service of one's own may need none. It is read here, and written nowhere."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key and endpoint_host(url) != "private":
        raise UsageError(
            f"OPENAI_API_KEY is not set; expected the key of {endpoint_host(url)} in this "
            "variable (where it needs none: any word)"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError(
            "OPENAI_API_KEY: found a character that no key has, such as a line break within it"
        )
    return key or "none"


def blocking(url: str, timeout: float | None = None) -> "openai.OpenAI":
    """Make a client for few requests; `timeout` in seconds, None: the package's own."""
    import openai

    http = openai.DefaultHttpxClient(follow_redirects=False)
    seconds = openai.NOT_GIVEN if timeout is None else timeout
    return openai.OpenAI(
        base_url=url, api_key=api_key(url), timeout=seconds, max_retries=0, http_client=http
    )


def many_at_once(url: str, most: int) -> "openai.AsyncOpenAI":
    """A client for `most` requests at once."""
    import httpx2
    import openai

    limits = httpx2.Limits(max_connections=most + 1, max_keepalive_connections=most + 1)
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, limits=limits)
    return openai.AsyncOpenAI(base_url=url, api_key=api_key(url), max_retries=0, http_client=http)
