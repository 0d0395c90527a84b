"""Tokenizers of remote models: of tiktoken, a Hugging Face folder or the serving engine.

    python prediction.py --backend openai --model-name my-model --tokenizer hf:/models/my-model

A service refuses a prompt that is too long, or cuts it its own way; so the harness cuts it first.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Protocol, cast

from lveval.backends.base import ApiOptions, Json, PlainTokenizer, Tokenizer, Tokens
from lveval.backends.model_files import unasked_code
from lveval.backends.openai.retry import RetryPolicy, call_with_retry
from lveval.common.errors import ServiceError, UsageError

HOW = (
    "pass --tokenizer hf:PATH (a folder or Hub name), tiktoken:NAME (o200k_base, cl100k_base, …) "
    "or server (vLLM, SGLang, llama.cpp)"
)

# Files of a model folder that make its tokenizer, by the beginning of their names.
TOKENIZER_FILES = (
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "spiece",
    "sentencepiece",
    "chat_te",
    "tokenization",
    "tekken",
)

TOKENIZER_SUFFIXES = (".model", ".tiktoken")


class ServiceTokenizer(Tokenizer, Protocol):
    """What asking a service needs of a tokenizer."""

    def without_bos(self, text: str) -> str:
        """Return a formatted prompt without the BOS that a server puts before a text itself."""


class TiktokenTokenizer(PlainTokenizer):
    """An encoding of tiktoken; text that looks like a special token is plain text."""

    def __init__(self, encoding: Any) -> None:  # noqa: ANN401 - a tiktoken.Encoding
        self._encoding = encoding

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Token ids; there are no special tokens to add."""
        ids: list[int] = self._encoding.encode_ordinary(text)
        return ids

    def decode(self, tokens: Tokens) -> str:
        """Text; a character that the cut split becomes U+FFFD."""
        text: str = self._encoding.decode(list(tokens))
        return text


# What the requests of /tokenize call a text and its special tokens: vLLM and SGLang, llama.cpp.
WORDS = (("prompt", "add_special_tokens"), ("content", "add_special"))


class ServerTokenizer(PlainTokenizer):
    """The tokenizer of a serving engine, behind /tokenize and /detokenize."""

    def __init__(self, client: Any, model: str, policy: RetryPolicy, seconds: float) -> None:  # noqa: ANN401
        self._client = client  # of the service's root
        self._model = model
        self._policy = policy
        self._seconds = seconds  # for a reply
        self._is_there = False  # whether it has answered
        self._words = WORDS[0]
        self._special: set[int] | None = None

    def encode(self, text: str, add_special_tokens: bool = True) -> Tokens:
        """Token ids, with the special tokens that the served tokenizer adds."""
        if not self._is_there and not self._encode("a", add_special_tokens=False):
            self._words = WORDS[1]  # a server that does not find its text takes it for empty
        return self._encode(text, add_special_tokens=add_special_tokens)

    def _encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        asked: dict[str, Json] = dict(zip(self._words, (text, add_special_tokens), strict=True))
        tokens = self._ask("/tokenize", asked).get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise ServiceError(f"--tokenizer server: /tokenize replied without token ids; {HOW}")
        return cast(list[int], tokens)

    def decode(self, tokens: Tokens) -> str:
        """Text."""
        if self._special is None:  # /detokenize would write them out
            self._special = {int(token) for token in self.encode("")}
        asked = [int(token) for token in tokens if token not in self._special]
        reply = self._ask("/detokenize", {"tokens": cast(Json, asked)})
        for name in ("prompt", "content", "text"):  # vLLM, llama.cpp, SGLang
            if isinstance(text := reply.get(name), str):
                return text
        raise ServiceError(f"--tokenizer server: /detokenize replied without a text; {HOW}")

    def _ask(self, path: str, body: dict[str, Json]) -> dict[str, Json]:
        asked = {"model": self._model, **body}
        reply: Any = call_with_retry(
            lambda: self._client.post(path, cast_to=object, body=asked),
            self._policy if self._is_there else self._policy.at_start,
            seconds=self._seconds,
        )
        self._is_there = True
        return reply if isinstance(reply, dict) else {}


def tokenizer_spec(service: ApiOptions, model: str) -> str:
    """Return --tokenizer, or tiktoken's encoding for the model; raises UsageError."""
    spec = service.tokenizer
    if spec is None:
        import tiktoken

        try:
            return f"tiktoken:{tiktoken.encoding_name_for_model(model)}"
        except KeyError:
            raise UsageError(
                f'tiktoken knows no tokenizer for the model "{model}"; {HOW}'
            ) from None
    kind, colon, name = spec.partition(":")
    if spec != "server" and not (kind in ("hf", "tiktoken") and colon and name):
        raise UsageError(f'--tokenizer: found "{spec}"; {HOW}')
    return spec


def fingerprint(spec: str) -> str:
    """Return a hash of a folder's tokenizer files, a revision on the Hub, or the name."""
    kind, _, name = spec.partition(":")
    folder = Path(name)
    if kind != "hf":
        return spec
    if not folder.is_dir():
        return f"{spec}@{_revision(name)}"
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and (
            path.name.startswith(TOKENIZER_FILES) or path.suffix in TOKENIZER_SUFFIXES
        ):
            digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return f"hf:sha256:{digest.hexdigest()}"


def _revision(name: str) -> str:
    """The commit of a tokenizer on the Hub, or in its local cache. Raises LVEvalError."""
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        return str(extract_commit_hash(cached_file(name, "tokenizer_config.json"), None))
    except (OSError, ValueError) as error:
        raise _unloadable(name, error) from None


def load(spec: str, *, trust_remote_code: bool) -> ServiceTokenizer:
    """The tokenizer of a `tokenizer_spec` that is not the server's."""
    kind, _, name = spec.partition(":")
    if kind == "tiktoken":
        return TiktokenTokenizer(_tiktoken(name))
    from transformers import AutoTokenizer

    from lveval.backends import hf_models

    try:
        raw = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - what transformers and a tokenizer's own code raise is not ours to foresee
        refusal = None if trust_remote_code else unasked_code(f"--tokenizer {spec}", Path(name))
        raise refusal or _unloadable(name, error) from None
    return hf_models.HFTokenizer(raw)


def _unloadable(name: str, error: Exception) -> UsageError:
    from lveval.backends import hf_models

    return UsageError(f"--tokenizer hf:{name}: {hf_models.cannot_load(error)}")


def _tiktoken(name: str) -> Any:  # noqa: ANN401 - a tiktoken.Encoding
    import requests
    import tiktoken

    if name not in tiktoken.list_encoding_names():
        raise UsageError(
            f'--tokenizer tiktoken: unknown encoding "{name}"; expected one of: '
            f"{', '.join(sorted(tiktoken.list_encoding_names()))}"
        )
    try:
        return tiktoken.get_encoding(name)
    except (requests.RequestException, OSError) as error:
        where = os.environ.get("TIKTOKEN_CACHE_DIR", "unset")
        raise UsageError(
            f"--tokenizer tiktoken:{name}: its file cannot be downloaded ({type(error).__name__}); "
            "without network, copy a filled cache and name it in TIKTOKEN_CACHE_DIR (now "
            f"{where}), or {HOW}"
        ) from None
