"""What --model-path and --tokenizer may name, and what a folder is that is no model's."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import ROOT, row, write_data
from support import tiny_models
from support.backends_parts import ask, options

from lveval.backends import hf, model_files
from lveval.backends.model_files import ModelPath
from lveval.common.errors import UsageError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab\nsize 269060552\n"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("org/name", ModelPath("org/name")),
        ("org/name@v1.0", ModelPath("org/name", "v1.0")),
        ("https://huggingface.co/org/name", ModelPath("org/name")),
        ("https://huggingface.co/org/name/", ModelPath("org/name")),
        ("hf.co/org/name/tree/v2", ModelPath("org/name", "v2")),
        (
            "https://huggingface.co/org/name/tree/main/fp16/x",
            ModelPath("org/name", "main", "fp16/x"),
        ),
        ("https://huggingface.co/org/name/blob/main/config.json", ModelPath("org/name", "main")),
        ("/no/such/folder", ModelPath("/no/such/folder")),
    ],
)
def test_a_path_is_read_as_it_is_meant(text: str, meant: ModelPath) -> None:
    assert ModelPath.parse(text) == meant


def test_a_run_is_named_by_what_its_path_means(tiny_model: Path) -> None:
    assert model_files.run_name("https://huggingface.co/org/name/tree/main") == "name"
    assert model_files.run_name("org/name@v1") == "name"
    assert model_files.run_name(str(tiny_model / "config.json")) == tiny_model.name
    assert model_files.run_name("/models/a.gguf") == "a.gguf"


def test_a_file_of_the_folder_and_the_home_folder_are_understood(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    expected = hf.settings_fingerprint(options(tiny_model))
    for path in (tiny_model / "model.safetensors", f"~/{tiny_model.name}"):
        assert hf.settings_fingerprint(options(path)) == expected
    with pytest.raises(UsageError, match=r"no such folder"):
        hf.settings_fingerprint(options("~/nothing"))


@pytest.mark.parametrize(
    ("removed", "added", "said"),
    [
        ("", {"model.safetensors": POINTER}, "a pointer of git-lfs, not the file itself"),
        ("", {"tokenizer.json": POINTER}, "run: git lfs pull"),
        ("tokenizer*", {}, "no tokenizer in it; expected tokenizer.json"),
        ("tokenizer*", {"tekken.json": b"{}"}, "tekken.json alone, Mistral's own"),
        ("model.*", {"optimizer.pt": b"x", "rng_state_0.pth": b"x"}, "a trainer keeps to go on"),
        ("*", {"optimizer.pt": b"x"}, "a trainer keeps to go on"),
        ("*", {"checkpoint-9/a": b"", "checkpoint-20/a": b""}, "pass a checkpoint of it: .*t-20"),
        ("model.*", {}, "no weights"),
        ("*", {"params.json": b"{}", "consolidated.safetensors": b"x"}, "makers' own layout"),
        ("*", {"model_index.json": b"{}"}, "a pipeline of diffusers"),
        ("*", {"zero_to_fp32.py": b"", "global_step9/x": b""}, "checkpoint of DeepSpeed"),
        ("*", {"a-Q4.gguf": b"GGUF"}, "pass one of them: .*a-Q4.gguf"),
        ("*", {"weights.npz": b""}, "a model of MLX"),
    ],
)
def test_a_folder_that_is_no_model_is_named_for_what_it_is(
    tiny_model: Path, tmp_path: Path, removed: str, added: dict[str, bytes], said: str
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for path in folder.glob(removed) if removed else ():
        path.unlink()
    for name, content in added.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        hf.settings_fingerprint(options(folder))
        hf.load(options(folder))


def test_weights_packed_for_mlx_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    packed = {"group_size": 64, "bits": 4}
    folder = tiny_models.edited(
        tiny_model, tmp_path / "model", "config.json", lambda data: data.update(quantization=packed)
    )
    with pytest.raises(UsageError, match="weights packed for MLX"):
        hf.settings_fingerprint(options(folder))


def test_another_models_tokenizer(tiny_model: Path, model_path: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny_model, tmp_path / "bare"))
    for path in (*bare.glob("tokenizer*"), bare / "chat_template.jinja"):
        path.unlink()
    words = tmp_path / "words"
    words.mkdir()
    for path in model_path.glob("tokenizer*"):
        shutil.copy(path, words)
    given = options(bare, tokenizer=f"hf:{words}")
    expected = ask(hf.load(options(tiny_model)), "One two", 6)
    assert ask(hf.load(given), "One two", 6) == expected
    fingerprint = hf.settings_fingerprint(given)
    assert str(fingerprint["tokenizer"]).startswith("sha256:")
    for wrong, said in (("server", "expected hf:MODEL"), (f"hf:{tmp_path}", "no tokenizer_config")):
        with pytest.raises(UsageError, match=said):
            hf.settings_fingerprint(options(bare, tokenizer=wrong))


def test_a_stop_text_ends_an_answer(tiny_model: Path) -> None:
    whole = ask(hf.load(options(tiny_model)), "One two", 12)
    middle = whole.text[len(whole.text) // 2 :][:4]
    stopped = ask(hf.load(options(tiny_model, stop=("never this", middle))), "One two", 12)
    assert stopped.text == whole.text.partition(middle)[0] and stopped.text
    assert (stopped.status, stopped.finish_reason) == ("ok", "stop")
    assert (stopped.output_tokens or 0) < (whole.output_tokens or 0)


class Hub(BaseHTTPRequestHandler):
    """The Hub's answer to whether a model may be read, by the model's name."""

    ERRORS: ClassVar = {"gated": ("GatedRepo", 403), "missing": ("RepoNotFound", 401)}

    def do_GET(self) -> None:
        """Answer /api/models/org/<name>/auth-check."""
        code, status = self.ERRORS.get(self.path.split("/")[4], ("", 500))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "endpoint", "offline", "said"),
    [
        ("org/gated", None, "0", "a gated model; accept its terms on its page, and set HF_TOKEN"),
        ("org/missing", None, "0", "neither a folder here nor a model on the Hub"),
        ("org/any", "http://127.0.0.1:9", "0", "the Hub cannot be asked for it"),
        ("org/any", None, "1", "not in the cache of the Hub, and HF_HUB_OFFLINE is set"),
    ],
)
def test_a_name_that_cannot_be_had_says_why_and_not_of_remote_code(
    hub: str, tmp_path: Path, name: str, endpoint: str | None, offline: str, said: str
) -> None:
    words = ("--model-path", name, "--datasets", "cmrc_mixup", "--data-path", str(tmp_path))
    write_data(tmp_path, "cmrc_mixup_1k", [row("cmrc_mixup")])
    environment = {"HF_ENDPOINT": endpoint or hub, "HF_HUB_OFFLINE": offline}
    found = subprocess.run(
        [sys.executable, "prediction.py", *words, "--lengths", "1k", "--output-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", **environment},
    )
    assert found.returncode == 2 and said in found.stderr, found.stderr
    assert "remote-code" not in found.stderr and "Retrying" not in found.stderr
    assert not (tmp_path / Path(name).name / "rows").exists()
