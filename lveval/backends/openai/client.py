"""The address and key of a service, and the openai package's clients.

    with client.blocking(service, client.base_url(service)) as opened: ...

The clients neither repeat a request (retry.py and online.py do) nor follow a redirect: credentials
go to the address that the user named, and nowhere else.
"""

import ipaddress
import os
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lveval.backends.base import ApiOptions
from lveval.backends.openai.faults import secrets
from lveval.common.errors import UsageError

if TYPE_CHECKING:
    import openai


VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")

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


def extra_headers(service: ApiOptions) -> dict[str, str]:
    """The headers of --header, variables filled in. Their values are written nowhere.

    Raises UsageError for what is no header, and for a variable that is not set.
    """
    found = {}
    for text in service.headers:
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not (colon and value and re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name)):
            raise UsageError("--header: expected NAME: VALUE, as 'X-Gate: $GATE_KEY'")
        unset = [each for each in VARIABLE.findall(value) if not os.environ.get(each)]
        if unset:
            raise UsageError(f"--header {name}: the variable {unset[0]} is not set")
        value = VARIABLE.sub(lambda match: os.environ[match[1]].strip(), value)
        if not (value.isascii() and value.isprintable()):
            raise UsageError(f"--header {name}: found a character that no header has")
        found[name] = value
    secrets.update(found.values())
    return found


def blocking(service: ApiOptions, url: str, timeout: float | None = None) -> "openai.OpenAI":
    """Make a client for few requests; `timeout` in seconds, None: the package's own."""
    import openai

    http = openai.DefaultHttpxClient(follow_redirects=False)
    seconds = openai.NOT_GIVEN if timeout is None else timeout
    return openai.OpenAI(
        base_url=url,
        api_key=api_key(url),
        timeout=seconds,
        max_retries=0,
        http_client=http,
        default_headers=extra_headers(service),
    )


def many_at_once(service: ApiOptions, url: str) -> "openai.AsyncOpenAI":
    """A client for as many requests at once as the options allow."""
    import httpx2
    import openai

    most = service.concurrency
    limits = httpx2.Limits(max_connections=most + 1, max_keepalive_connections=most + 1)
    http = openai.DefaultAsyncHttpxClient(follow_redirects=False, limits=limits)
    return openai.AsyncOpenAI(
        base_url=url,
        api_key=api_key(url),
        max_retries=0,
        http_client=http,
        default_headers=extra_headers(service),
    )
