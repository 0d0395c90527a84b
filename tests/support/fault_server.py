"""A small real server that speaks OpenAI's protocol and fails on demand. For tests and benchmarks; loopback only.

    python tests/fault_server.py --latency 0.2 --rate 0.5      prints the port it listens on

The answer to a prompt is decided by its question, so that a test can tell a wrong one. GET /stats tells what was asked,
POST /control sets what comes next: {"script": [kinds of the next replies], "mode": a kind for all, or "ok"}.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

QUESTION = re.compile(r"(?:Question: |问题：)(.*)\n(?:Answer:|回答：)\Z", re.S)
PROBE = "Write the numbers from 1 to 50"

# What a service may answer instead of an answer, and how: (status, headers, body).
REPLIES: dict[str, tuple[int, dict[str, str], str]] = {
    "429": (429, {}, '{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}'),
    "429-seconds": (429, {"Retry-After": "0.01"}, '{"error": {"message": "slow down"}}'),
    "429-zero": (429, {"Retry-After": "0"}, "{}"),
    "429-date": (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "{}"),
    "429-negative": (429, {"Retry-After": "-5"}, "{}"),
    "429-nan": (429, {"Retry-After": "nan"}, "{}"),
    "429-year-100000": (429, {"Retry-After": "Fri, 31 Dec 100000 23:59:59 GMT"}, "{}"),
    "429-six-hours": (429, {"Retry-After": "21600"}, "{}"),
    "500-html": (
        500,
        {"Content-Type": "text/html"},
        "<html><body><h1>Internal error</h1></body></html>",
    ),
    "502-html": (502, {"Content-Type": "text/html"}, "<html><body>Bad gateway</body></html>"),
    "503-html": (503, {"Content-Type": "text/html"}, "<html><body>Unavailable</body></html>"),
    "529": (529, {}, '{"error": {"message": "overloaded", "type": "overloaded_error"}}'),
    "408": (408, {}, '{"error": {"message": "request timeout"}}'),
    "409": (409, {}, '{"error": {"message": "conflict"}}'),
    "malformed": (200, {}, '{"id": "x", "choices": [{"message": {"content": "cut of'),
    "html-200": (200, {"Content-Type": "text/html"}, "<html>please log in</html>"),
    "empty-200": (200, {}, ""),
    "list-200": (200, {}, "[]"),
    "no-choices": (200, {}, '{"id": "x", "choices": []}'),
    "null-choices": (200, {}, '{"id": "x", "choices": null}'),
    "null-content": (
        200,
        {},
        '{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}',
    ),
    "error-200": (200, {}, '{"error": {"message": "upstream failed", "code": 502}}'),
    "other-model": (
        200,
        {},
        '{"model": "cheaper-1", "choices": [{"message": {"content": "no"}, "finish_reason": "stop"}]}',
    ),
    "401": (
        401,
        {},
        '{"error": {"message": "Incorrect API key provided: KEY.", "code": "invalid_api_key"}}',
    ),
    "404-page": (404, {"Content-Type": "text/html"}, "<html>default backend - 404</html>"),
    "403": (403, {}, '{"error": {"message": "Country not supported"}}'),
    "quota": (
        429,
        {},
        '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}',
    ),
    "404": (
        404,
        {},
        '{"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}',
    ),
    "redirect": (307, {"Location": "http://127.0.0.1:1/v1/chat/completions?key=secret"}, ""),
    "context": (400, {}, '{"error": {"message": "too long", "code": "context_length_exceeded"}}'),
    "filtered": (400, {}, '{"error": {"message": "blocked", "code": "content_filter"}}'),
    "bad-row": (400, {}, '{"error": {"message": "cannot read this message"}}'),
    "only-streams": (
        400,
        {},
        '{"error": {"message": "This model only support stream mode, please enable stream"}}',
    ),
    "only-text": (400, {}, '{"detail": "prompt must be a string."}'),
    "unfinished": (
        400,
        {},
        '{"error": {"message": "Could not finish the message because max_tokens was reached"}}',
    ),
    "nested": (200, {}, '{"data": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "never-fits": (
        429,
        {},
        '{"error": {"message": "Request too large for x on tokens per min (TPM)"}}',
    ),
}
# Kinds that a row survives when it is asked again.
PASSING = (
    "429", "429-seconds", "429-zero", "429-date", "429-negative", "429-nan", "429-year-100000", "429-six-hours",
    "500-html", "502-html", "503-html", "529", "408", "409", "malformed", "html-200", "empty-200", "list-200",
    "no-choices", "null-choices", "null-content", "error-200", "other-model", "reset", "reset-in-body",
    "closed", "silent", "nested",
)  # fmt: skip

GIGABYTE = 2**30
EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}}]}\n\n' % (b"a" * 200)


def zipped_blanks() -> bytes:
    """A gzip stream of a gigabyte without its end."""
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block leans on none before it.
    return head + (packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)) * 1024


# Replies without an end in sight: the head, and what of the body is sent over and over.
ENDLESS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "giant": (f"200 OK\r\nContent-Length: {GIGABYTE}", lambda: b" " * 2**20),
    "giant-open": ("200 OK\r\nConnection: close", lambda: b" " * 2**20),
    "giant-zipped": ("200 OK\r\nContent-Encoding: gzip", zipped_blanks),
    "giant-error": (f"500 X\r\nContent-Length: {GIGABYTE}", lambda: b" " * 2**20),
    "giant-stream": ("200 OK\r\nContent-Type: text/event-stream", lambda: EVENT * 4096),
}
# Replies of which a byte comes now and then, faster than a client gives up waiting for one.
TRICKLING = {
    "trickle": f"200 OK\r\nContent-Length: {GIGABYTE}\r\n\r\n",
    "trickle-head": "200 OK\r\nX-Slow: ",
}


@contextmanager
def serving(*options: str) -> Iterator[str]:
    """A server in a process of its own; its address."""
    command = [sys.executable, __file__, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


def answer_to(question: str) -> str:
    """The one right answer."""
    return f"the answer {hashlib.sha256(question.encode()).hexdigest()[:12]}"


@dataclass
class Server:
    """What it does and what it has seen."""

    latency: float = 0.0
    rate: float = 0.0
    seed: int = 0
    key: str = ""
    model: str = ""
    knows: tuple[str, ...] = ()  # fields that it takes; empty: all
    kinds: tuple[str, ...] = PASSING
    mode: str = "ok"
    row_mode: str = "ok"  # as mode, but the question asked first is answered
    fates: dict[str, str] = field(default_factory=dict)  # a row's question -> what it always gets
    replies: dict[str, dict[str, Any]] = field(default_factory=dict)  # further kinds of replies
    reads_limit: str = ""  # the only name of the limit that it heeds; empty: any
    tells_usage: bool = True
    streams: str = ""  # "only": it answers no other way; "broken": each stream breaks off
    text_only: bool = False  # prompts of token ids are refused
    head: str = ""  # of the last request for a completion
    bearer: str = ""  # the key of the last request, which a 401 repeats
    script: deque[str] = field(default_factory=deque)
    batch_script: deque[str] = field(
        default_factory=deque
    )  # what the next requests for files and batches get
    batch_fates: tuple[str, ...] = ()  # what the next batches come to; then they are completed
    batch_delay: float = 0.0  # seconds
    batch_calls: int = 0
    cut: int = 0  # of a prompt only so many characters at its end are read, and nobody is told
    max_model_len: int = 0  # told by /v1/models
    listing: str = "ok"  # what requests for the list of models get
    bos: int = 0  # a token that /tokenize puts first and /detokenize writes as <s>
    tokenizer_script: deque[str] = field(
        default_factory=deque
    )  # what the next requests to /tokenize get
    tokenizer_file: str = (
        ""  # a tokenizer.json that reads prompts of ids; without it an id is a code point
    )
    probe_script: deque[str] = field(
        default_factory=deque
    )  # what the next questions asked first get
    batch_model: str = ""  # that batches say they are of
    batches: "Batches" = field(default_factory=lambda: Batches())
    asked: Counter[str] = field(default_factory=Counter)  # question -> requests
    served: Counter[str] = field(default_factory=Counter)  # kind -> replies
    bodies: deque[dict[str, object]] = field(default_factory=lambda: deque(maxlen=4))
    probes: int = 0
    out: int = 0
    most_out: int = 0

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, request after request."""
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) is not None:
                method, path, *_ = head.decode("latin-1").split(" ", 2)
                length = re.search(rb"content-length: *(\d+)", head, re.I)
                body = await reader.readexactly(int(length[1]) if length else 0)
                if not await self.request(method, path, head, body, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(
        self, method: str, path: str, head: bytes, body: bytes, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; whether the connection goes on."""
        path = re.sub("^http://[^/]+", "", path)  # as a proxy is asked
        if path == "/stats":
            seen = {
                "asked": self.asked,
                "served": self.served,
                "probes": self.probes,
                "most_out": self.most_out,
                "head": self.head,
            }
            seen["batch_calls"] = self.batch_calls
            seen["batches"] = [batch["metadata"] for batch in self.batches.made]
            return await reply(writer, 200, {}, json.dumps({**seen, "bodies": list(self.bodies)}))
        if path == "/control":
            asked = json.loads(body)
            self.script.extend(asked.pop("script", []))
            self.batch_script.extend(asked.pop("batch_script", []))
            self.tokenizer_script.extend(asked.pop("tokenizer_script", []))
            self.probe_script.extend(asked.pop("probe_script", []))
            if asked.pop("forget_script", False):
                self.script.clear()
            if asked.pop("finish_batches", False):
                self.batch_delay = 0.0
                for batch in self.batches.made:
                    batch["ready"] = 0.0
            if asked.pop("forget_batches", False):
                self.batches = Batches()
            for name, value in asked.items():
                setattr(self, name, value)
            return await reply(writer, 200, {}, "{}")
        if (name := path.partition("?")[0]) in ("/tokenize", "/detokenize"):
            return await self.tokenize(name, json.loads(body), writer)
        if path == "/v1/models" and self.listing != "ok":
            return await self.fail(self.listing, writer)
        if path == "/v1/models":
            window = {"max_model_len": self.max_model_len} if self.max_model_len else {}
            return await reply(
                writer, 200, {}, json.dumps({"data": [{"id": self.model, **window}]})
            )
        if path.startswith(("/v1/files", "/v1/batches")):
            self.batch_calls += 1
            await asyncio.sleep(self.latency)
            kind = self.batch_script.popleft() if self.batch_script else self.mode
            if kind not in ("ok", "lost-reply"):
                return await self.fail(kind, writer)
            made = self.batches.answer(method, path, head, body, self)
            if kind == "lost-reply":  # it was done, and nobody is told
                return await self.fail("reset", writer)
            return await (
                reply(writer, 404, {}, "{}") if made is None else reply(writer, 200, {}, made)
            )
        self.head = head.decode("latin-1")
        if path.partition("?")[0] not in ("/v1/chat/completions", "/v1/completions"):
            return await reply(writer, 404, {}, '{"error": {"message": "no such address"}}')
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            return await self.complete(head, json.loads(body), writer)
        finally:
            self.out -= 1

    async def complete(
        self, head: bytes, asked: dict[str, object], writer: asyncio.StreamWriter
    ) -> bool:
        """A completion, or what stands for one just now."""
        messages = asked.get("messages")
        given = messages[-1]["content"] if isinstance(messages, list) else asked["prompt"]
        prompt = self.text_of(given) if isinstance(given, list) else str(given)
        probe = prompt.startswith(PROBE)
        found = QUESTION.search(prompt)
        question = found[1] if found else prompt
        self.bodies.append(
            {name: value for name, value in asked.items() if name not in ("messages", "prompt")}
        )
        self.bodies[-1]["roles"] = (
            [turn["role"] for turn in messages] if isinstance(messages, list) else []
        )
        if isinstance(given, list):
            self.bodies[-1]["ids"] = given
        if probe:
            self.probes += 1
        else:
            self.asked[question] += 1
        kind = self.kind(probe, question, head, asked)
        self.served[kind] += 1
        if kind in self.replies:
            return await self.reply_as(self.replies[kind], str(asked["model"]), writer)
        if kind not in ("ok", "reasoning", "long", "refusal", "filter", "parts"):
            return await self.fail(kind, writer)
        await asyncio.sleep(self.latency)
        content: object = "1 2 3 4 5 6 7 8" if probe else answer_to(question)
        unlimited = self.reads_limit and self.reads_limit not in asked
        if unlimited:
            content = " ".join(map(str, range(1, 201)))
        counted = len(prompt.split())
        if (
            "pass code" in prompt
        ):  # the harness checks what arrives; a token is a character, as for /tokenize
            read = prompt[-self.cut :] if self.cut else prompt
            content, counted = ", ".join(re.findall(r"gate is (\d{5})", read)), len(read)
        message: dict[str, object] = {"role": "assistant", "content": content}
        finish = {"long": "length", "filter": "content_filter", "reasoning": "length"}.get(
            kind, "stop"
        )
        if kind == "reasoning":
            message |= {"content": None, "reasoning_content": "let me see"}
        if kind == "refusal":
            message |= {"content": None, "refusal": "I cannot help with that."}
        if kind == "parts":
            message["content"] = [{"type": "text", "text": content}]
        choice = {"index": 0, "finish_reason": finish}
        choice |= {"message": message} if messages is not None else {"text": content}
        names = ("max_completion_tokens", "max_tokens", self.reads_limit)
        budgets = [asked[name] for name in names if name in asked]
        written = 400 if unlimited else (budgets[0] if budgets else 100) if probe else 8
        usage = {"prompt_tokens": counted, "completion_tokens": written}
        whole = {
            "id": "x",
            "object": "chat.completion",
            "model": asked["model"],
            "choices": [choice],
            "usage": usage if self.tells_usage else None,
        }
        if asked.get("stream"):
            return await self.stream(whole, writer)
        return await reply(writer, 200, {}, json.dumps(whole))

    async def reply_as(
        self, known: dict[str, Any], model: str, writer: asyncio.StreamWriter
    ) -> bool:
        """A reply of another service; an answer is of the model that was asked for."""
        body = known["body"]
        text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        text = re.sub(r'("model": ?)"[^"]*"', rf'\1"{model}"', text)
        return await reply(writer, known["status"], known["headers"], text)

    async def stream(self, whole: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """The same answer a word at a time."""
        choice = whole["choices"][0]
        chat = "message" in choice
        words = re.findall(r"\S+\s*", choice["message"]["content"] if chat else choice["text"])
        parts = [{"delta": {"content": word}} if chat else {"text": word} for word in words]
        chunks = [whole | {"choices": [{"index": 0, **part}], "usage": None} for part in parts]
        last = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
        chunks += [whole | {"choices": [last], "usage": None}, whole | {"choices": []}]
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
        if self.streams == "broken":
            lines = lines[:2]
        else:
            lines.append("data: [DONE]\n\n")
        return await reply(writer, 200, {"Content-Type": "text/event-stream"}, "".join(lines))

    def text_of(self, ids: list[int]) -> str:
        """The prompt that the ids stand for."""
        if not self.tokenizer_file:
            return "".join(map(chr, ids))
        from tokenizers import Tokenizer

        text: str = Tokenizer.from_file(self.tokenizer_file).decode(ids)
        return text

    def kind(self, probe: bool, question: str, head: bytes, asked: dict[str, object]) -> str:
        """What this request gets."""
        bearer = re.search(rb"authorization: *bearer (\S+)", head, re.I)
        self.bearer = bearer[1].decode() if bearer else ""
        if self.key and self.bearer != self.key:
            return "401"
        if self.model and asked["model"] != self.model:
            return "404"
        unknown = [
            name
            for name in asked
            if self.knows and name not in (*self.knows, "model", "messages", "prompt")
        ]
        if unknown:
            return f"unknown:{unknown[0]}"
        if (
            "max_tokens" in asked and "max_completion_tokens" in asked
        ):  # OpenAI takes one of the two
            return "unknown:max_tokens"
        if self.mode != "ok":
            return self.mode
        if self.streams == "only" and not asked.get("stream"):
            return "only-streams"
        if self.text_only and isinstance(asked.get("prompt"), list):
            return "only-text"
        if question in self.fates:
            return self.fates[question]
        if not probe and self.row_mode != "ok":
            return self.row_mode
        if probe:
            return self.probe_script.popleft() if self.probe_script else "ok"
        if self.script:
            return self.script.popleft()
        # The same question meets the same fates in the same order, whatever else is asked meanwhile.
        luck = random.Random(f"{self.seed}/{question}/{self.asked[question]}")
        return luck.choice(self.kinds) if luck.random() < self.rate else "ok"

    async def fail(self, kind: str, writer: asyncio.StreamWriter) -> bool:
        """A reply that is no answer."""
        if kind in self.replies:  # to what is no prompt
            return await self.reply_as(self.replies[kind], self.model, writer)
        if kind in REPLIES:
            status, headers, body = REPLIES[kind]
            return await reply(writer, status, headers, body.replace("KEY", self.bearer))
        if kind.startswith("unknown:"):
            name = kind.removeprefix("unknown:")
            error = {"message": f"Unsupported parameter: '{name}' is not supported", "param": name}
            return await reply(writer, 400, {}, json.dumps({"error": error}))
        if kind in ENDLESS:
            start, make = ENDLESS[kind]
            writer.write(f"HTTP/1.1 {start}\r\n\r\n".encode())
            part, sent = make(), 0
            while sent < GIGABYTE:  # until the client hangs up
                writer.write(part)
                await writer.drain()
                sent += len(part)
            return False
        if kind in TRICKLING:
            writer.write(f"HTTP/1.1 {TRICKLING[kind]}".encode())
            for _ in range(150):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.2)
            return False
        if kind == "silent":
            await asyncio.sleep(60)
        elif kind == "reset-in-body":
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"
            )
            await writer.drain()
            await asyncio.sleep(0.01)
        if kind.startswith("reset"):
            writer.transport.abort()
        return False  # closed: the end of the connection and nothing else

    async def tokenize(
        self, path: str, asked: dict[str, object], writer: asyncio.StreamWriter
    ) -> bool:
        """A code point is a token."""
        kind = self.tokenizer_script.popleft() if self.tokenizer_script else "ok"
        if kind != "ok":
            return await self.fail(kind, writer)
        if path == "/tokenize":
            special = [self.bos] if self.bos and asked.get("add_special_tokens", True) else []
            made: dict[str, object] = {
                "tokens": [*special, *(ord(character) for character in str(asked["prompt"]))]
            }
        else:
            tokens = asked["tokens"]
            assert isinstance(tokens, list)
            made = {
                "prompt": "".join("<s>" if token == self.bos else chr(token) for token in tokens)
            }
        return await reply(writer, 200, {}, json.dumps(made))


class Batches:
    """The Batch API: files and batches in memory; a batch is over `batch_delay` seconds after it was made."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.made: list[dict[str, Any]] = []

    def answer(
        self, method: str, path: str, head: bytes, body: bytes, server: Server
    ) -> str | None:
        """The reply's body; None for what there is not."""
        name = path.partition("?")[0].removeprefix("/v1/")
        if method == "POST" and name == "files":
            boundary = re.search(rb'boundary="?([^"\r\n;]+)', head)
            assert boundary is not None
            part = next(part for part in body.split(b"--" + boundary[1]) if b"filename=" in part)
            content = part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
            made: Any = {
                "id": self.add(content),
                "object": "file",
                "bytes": len(content),
                "purpose": "batch",
            }
            made |= {"created_at": 0, "filename": "x", "status": "processed"}
        elif method == "POST":
            asked = json.loads(body)
            fate = server.batch_fates[0] if server.batch_fates else "completed"
            server.batch_fates = server.batch_fates[1:]
            made = {
                "id": f"batch-{len(self.made)}",
                "object": "batch",
                "created_at": 0,
                "status": "in_progress",
            }
            made |= {**asked, "fate": fate, "ready": time.monotonic() + server.batch_delay}
            self.made.append(made)
        elif name == "batches":
            for batch in self.made:
                self.settle(batch, server)
            made = {"object": "list", "data": self.made[::-1], "has_more": False}
        elif name.startswith("batches/"):
            found = [batch for batch in self.made if batch["id"] == name.removeprefix("batches/")]
            if not found:
                return None
            self.settle(found[0], server)
            made = found[0]
        else:
            content = self.files.get(name.split("/")[1], b"")
            return content.decode()
        return json.dumps(made)

    def add(self, content: bytes) -> str:
        """Keep a file; its id."""
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def settle(self, batch: dict[str, Any], server: Server) -> None:
        """Answer the batch's requests when its time has come."""
        if batch["status"] != "in_progress" or time.monotonic() < batch["ready"]:
            return
        batch["status"] = batch["fate"].partition(":")[0]
        if batch["status"] == "failed":
            code = batch["fate"].partition(":")[2]
            batch["errors"] = {"object": "list", "data": [{"code": code, "message": "refused"}]}
            return
        output, errors = [], []
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            prompt = asked["body"]["messages"][-1]["content"]
            found = QUESTION.search(prompt)
            question = found[1] if found else prompt
            server.asked[question] += 1
            luck = random.Random(f"{server.seed}/{question}/{server.asked[question]}")
            kind = (
                luck.choice(("500", "lost", "malformed")) if luck.random() < server.rate else "ok"
            )
            kind = (
                "lost"
                if batch["status"] in ("expired", "cancelled") and luck.random() < 0.5
                else kind
            )
            server.served[kind] += 1
            entry = {"id": "x", "custom_id": asked["custom_id"], "error": None}
            choice = {"finish_reason": "stop", "message": {"content": answer_to(question)}}
            body = {
                "model": server.batch_model or asked["body"]["model"],
                "choices": [choice] if kind == "ok" else [],
            }
            if kind in ("ok", "malformed"):
                output.append(entry | {"response": {"status_code": 200, "body": body}})
            elif kind == "500":
                errors.append(
                    entry | {"response": {"status_code": 500, "body": {"error": {"message": "oh"}}}}
                )
        for name, lines in (("output_file_id", output), ("error_file_id", errors)):
            batch[name] = (
                self.add("".join(json.dumps(line) + "\n" for line in lines[::-1]).encode())
                if lines
                else None
            )


async def reply(
    writer: asyncio.StreamWriter, status: int, headers: dict[str, str], body: str
) -> bool:
    """A whole HTTP reply."""
    content = body.encode()
    lines = {"Content-Type": "application/json", "Content-Length": str(len(content))} | headers
    head = (
        f"HTTP/1.1 {status} X\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        + "\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    return True


async def main() -> None:
    """Serve until killed."""
    command = argparse.ArgumentParser()
    command.add_argument("--latency", type=float, default=0.0)
    command.add_argument("--rate", type=float, default=0.0)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--key", default="")
    command.add_argument("--model", default="")
    command.add_argument("--knows", nargs="*", default=[])
    command.add_argument("--port", type=int, default=0)
    args = vars(command.parse_args())
    port = args.pop("port")
    args["knows"] = tuple(args["knows"])
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] = Server(
        **args
    ).connection
    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=1 << 26)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
