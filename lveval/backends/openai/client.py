"""The address and key of a service, and the openai package's clients.

    with client.blocking(service) as opened: ...

The clients neither repeat a request (retry.py and online.py do) nor follow a redirect: credentials
go to the address that the user named, and nowhere else. A reply is read up to a bound.
"""

import ipaddress
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from lveval.backends.base import ApiOptions
from lveval.common.errors import UsageError
from lveval.common.redaction import KEY, keep

if TYPE_CHECKING:
    import httpx2
    import openai


# $NAME or ${NAME}; $$ stands for the sign itself.
VARIABLE = re.compile(r"\$(?:\$|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")

# Parameters of an address that are secrets by their names.
SECRET_NAME = re.compile(r"key|token|secret|sig|pass|pwd|code|cred|auth", re.I)

# Headers that carry a key, in place of the one that this protocol has.
KEY_HEADERS = {"api-key", "x-api-key", "x-goog-api-key"}

DEFAULT_URL = "https://api.openai.com/v1"

# Of a reply, unpacked. A stream takes some 350 bytes a token, so an answer of 90,000 tokens fits.
MOST_BYTES = 32 * 2**20

# How the path of a batch's results ends: they are paid for, and as long as they are.
RESULTS = "/content"


def base_url(service: ApiOptions) -> str:
    """The service's address without its query, checked; it holds no secret, since it is logged."""
    return _address(service)[0]


def _address(service: ApiOptions) -> tuple[str, dict[str, str]]:
    """Return (address, parameters of its query, a $VARIABLE in them filled in).

    Raises UsageError.
    """
    url = service.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for one that is no number
    except ValueError:
        parts = urlsplit("")
    if parts.username or parts.password:
        raise UsageError(
            "--base-url: found a user or password in it; a key belongs into OPENAI_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url.partition("?")[0].rpartition("@")[2]  # no secret
        raise UsageError(
            f'--base-url: found "{shown}", expected an address such as http://127.0.0.1:8000/v1'
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, value in query.items():
        if SECRET_NAME.search(name) and not VARIABLE.search(value):
            raise UsageError(
                f"--base-url: found a value for {name} in it; expected it in a variable, as "
                f"'…?{name}=$GATE_KEY' in single quotes"
            )
    filled = {name: _filled("--base-url", value) for name, value in query.items()}
    return parts._replace(query="", fragment="").geturl().rstrip("/"), filled


def _filled(where: str, text: str) -> str:
    """Fill in the variables of a text; what they hold is a secret. Raises UsageError."""
    names = [match[1] or match[2] for match in VARIABLE.finditer(text) if match[0] != "$$"]
    if unset := [each for each in names if not os.environ.get(each)]:
        raise UsageError(f"{where}: the variable {unset[0]} is not set")
    values = {name: os.environ[name].strip() for name in names}
    value = VARIABLE.sub(lambda match: values.get(match[1] or match[2], "$"), text)
    if not (value.isascii() and value.isprintable()):
        raise UsageError(f"{where}: found a character that no header and no address has")
    for secret in values.values():
        keep(secret)
    return value


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
    key = os.environ.get(KEY, "").strip()
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
        found[name] = _filled(f"--header {name}", value)
        keep(found[name])
    return found


def require_credentials(service: ApiOptions) -> None:
    """Raise UsageError where the service's key or a variable of a header is missing."""
    _settings(service)


def _settings(service: ApiOptions) -> dict[str, Any]:
    """What both clients are made with: address, key, headers. Raises UsageError."""
    url, query = _address(service)
    # As the package spells it, so that the user's own takes the place of its own.
    headers = {
        "Authorization" if name.lower() == "authorization" else name: value
        for name, value in extra_headers(service).items()
    }
    own_key = "Authorization" in headers or _drops_bearer(headers)
    return {
        "base_url": url,
        "api_key": "none" if own_key else api_key(url),
        "max_retries": 0,
        "default_headers": headers,
        "default_query": query,
    }


def _drops_bearer(headers: Mapping[str, str]) -> bool:
    """Whether a header of the user's carries the key, in place of `Authorization`."""
    return "Authorization" not in headers and not KEY_HEADERS.isdisjoint(map(str.lower, headers))


@contextmanager
def _sound_environment() -> Iterator[None]:
    """Tell what keeps a client from being made. Raises UsageError."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise UsageError(
            "no client can be made with what SSL_CERT_FILE, SSL_CERT_DIR, HTTP_PROXY, HTTPS_PROXY "
            f"and ALL_PROXY say ({type(error).__name__}: {error}); a SOCKS proxy needs the package "
            "socksio"
        ) from None


def _drop_bearer(request: "httpx2.Request") -> None:
    request.headers.pop("authorization", None)


async def _drop_bearer_async(request: "httpx2.Request") -> None:
    _drop_bearer(request)


class _Body:
    """What has come of a reply's body.

    Raises openai.APIResponseValidationError where it is more than any reply has.
    """

    def __init__(self, response: "httpx2.Response") -> None:
        self._response = response
        results = response.request.url.path.endswith(RESULTS)
        self._most = math.inf if results else MOST_BYTES
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        import openai

        self._parts.append(part)
        self._size += len(part)
        if self._size > self._most:
            self._parts.clear()  # who keeps the error keeps this
            words = f"the reply has more than {self._most} bytes"
            raise openai.APIResponseValidationError(self._response, None, message=words)

    def end(self) -> None:
        """Put the body where the client itself puts what it reads."""
        self._response._content = b"".join(self._parts)


def _read_bounded(response: "httpx2.Response") -> None:
    body = _Body(response)
    for part in response.iter_bytes():
        body.add(part)
    body.end()


async def _read_bounded_async(response: "httpx2.Response") -> None:
    body = _Body(response)
    async for part in response.aiter_bytes():
        body.add(part)
    body.end()


def blocking(
    service: ApiOptions, timeout: float | None = None, *, root: bool = False
) -> "openai.OpenAI":
    """Make a client for few requests; `timeout` in seconds, None: the package's own.

    `root`: of the server, above /v1.
    """
    import openai

    settings = _settings(service)
    if root:
        settings["base_url"] = settings["base_url"].removesuffix("/v1")
    dropping = [_drop_bearer] if _drops_bearer(settings["default_headers"]) else []
    hooks: dict[str, list[Callable[..., Any]]] = {"request": dropping, "response": [_read_bounded]}
    with _sound_environment():
        http = openai.DefaultHttpxClient(follow_redirects=False, event_hooks=hooks)
    seconds = openai.NOT_GIVEN if timeout is None else timeout
    return openai.OpenAI(timeout=seconds, http_client=http, **settings)


def many_at_once(service: ApiOptions) -> "openai.AsyncOpenAI":
    """A client for as many requests at once as the options allow."""
    import httpx2
    import openai

    most = service.concurrency
    limits = httpx2.Limits(max_connections=most + 1, max_keepalive_connections=most + 1)
    settings = _settings(service)
    dropping = [_drop_bearer_async] if _drops_bearer(settings["default_headers"]) else []
    hooks: dict[str, list[Callable[..., Any]]] = {
        "request": dropping,
        "response": [_read_bounded_async],
    }
    with _sound_environment():
        http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, limits=limits, event_hooks=hooks
        )
    return openai.AsyncOpenAI(http_client=http, **settings)
