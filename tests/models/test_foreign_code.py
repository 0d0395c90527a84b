"""Code that a model brings runs only with consent: each known way, tried with a mark that it
leaves.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.backends_parts import ask, options
from support.foreign_code import KINDS, Folder

from lveval.backends import hf, vllm
from lveval.backends.base import EngineOptions
from lveval.backends.openai import tokenizers
from lveval.common.errors import UsageError


def made(kind: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    folder = Folder(model, tmp_path / "model")
    KINDS[kind][0](folder)
    assert not folder.mark.exists()
    # A module that a file names may be importable by chance: it still may not be imported.
    monkeypatch.syspath_prepend(folder.path)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def whole(given: EngineOptions) -> str:
    """Every step that a run takes with a model; what it ended with, "" where it answered."""
    try:
        hf.settings_fingerprint(given)
        hf.native_chat(given)
        hf.tokenizer(given)
        answer = ask(hf.load(given), "One two three", 2)
    except UsageError as error:
        return error.message
    assert answer.status in ("ok", "length"), answer
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_no_code_of_a_model_runs_unasked(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(kind, tiny_model, tmp_path, monkeypatch)
    refusal = KINDS[kind][1]
    said = whole(options(folder.path, adapter=folder.adapter and str(folder.adapter)))
    assert not folder.mark.exists()
    assert "\n" not in said
    if refusal:
        assert re.search(refusal, said), said


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="it would be started")
@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_before_vllm_runs_none_either(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(kind, tiny_model, tmp_path, monkeypatch)
    given = options(folder.path, adapter=folder.adapter and str(folder.adapter))
    with pytest.raises(UsageError) as refused:  # at the latest where vllm itself is missing
        vllm.load(given)
    assert not folder.mark.exists()
    refusal = KINDS[kind][1]
    missing = "cannot be imported" in refused.value.message
    assert missing or re.search(refusal or "cannot load", refused.value.message)
    assert not (missing and "--" in refusal), refused.value.message
    if missing:
        arguments = vllm.engine_arguments(given, 2048)
        assert arguments["trust_remote_code"] is False
        assert arguments["load_format"] == "safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_with_consent_a_models_code_runs_and_a_pickle_still_none(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(kind, tiny_model, tmp_path, monkeypatch)
    runs = KINDS[kind][2]
    given = options(
        folder.path,
        adapter=folder.adapter and str(folder.adapter),
        trust_remote_code=True,
        allow_pickle=True,
    )
    said = whole(given)
    assert folder.mark.exists() == runs, said
    assert not (runs and said), said


def test_a_tokenizer_named_alone_brings_no_code_either(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made("a tokenizer", tiny_model, tmp_path, monkeypatch)
    refusal = r"tokenization_own\.py.*--trust-remote-code"
    with pytest.raises(UsageError, match=refusal):  # --backend openai
        tokenizers.load(f"hf:{folder.path}", trust_remote_code=False)
    given = options(tiny_model, tokenizer=f"hf:{folder.path}")
    with pytest.raises(UsageError, match=refusal):  # --backend hf and vllm
        hf.tokenizer(given)
    assert not folder.mark.exists()
    tokenizers.load(f"hf:{folder.path}", trust_remote_code=True)
    assert folder.mark.exists()


# The package of the Hub's kernels, of a version that transformers takes: what it fetches would run.
KERNELS = """
def get_kernel(*words, **how):
    open({mark!r}, "a").close()
    raise FileNotFoundError


def __getattr__(name):
    return lambda *words, **how: lambda target: target
"""

STEPS = """
import sys
from lveval.backends import hf, vllm
from lveval.backends.base import EngineOptions
from lveval.common.errors import UsageError
given = EngineOptions(sys.argv[1], 500, trust_remote_code=sys.argv[2] == "trusted")
try:
    hf.settings_fingerprint(given)
    hf.load(given)
except UsageError as error:
    print(error.message)
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_an_installed_package_of_kernels_fetches_none_unasked(
    tiny_model: Path, tmp_path: Path, trusted: bool
) -> None:
    folder = Folder(tiny_model, tmp_path / "model")
    folder.edit("config.json", attn_implementation="flash_attention_2")
    packages = tmp_path / "packages"
    (packages / "kernels").mkdir(parents=True)
    (packages / "kernels" / "__init__.py").write_text(KERNELS.format(mark=str(folder.mark)))
    (packages / "kernels-0.18.2.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n"
    (packages / "kernels-0.18.2.dist-info" / "METADATA").write_text(about)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(packages)])
    command = [sys.executable, "-c", STEPS, str(folder.path), "trusted" if trusted else "not"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert folder.mark.exists() == trusted, done.stdout + done.stderr
    assert "Flash" in done.stdout, done.stderr


@pytest.mark.parametrize("name", sorted(hf.KERNEL_ARGS))
def test_an_argument_that_fetches_kernels_needs_consent(name: str, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=f"{name}.*--trust-remote-code"):
        hf.settings_fingerprint(options(tiny_model, model_args={name: True}))
    hf.settings_fingerprint(options(tiny_model, model_args={name: True}, trust_remote_code=True))
