"""Chat templates that loop, swell, sleep or reach for more than text: each ends within its bounds."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT, write_data
from conftest import row as data_row
from support.backends_parts import options
from support.foreign_code import Folder
from support.processes import listening

from lveval.backends import chat_templates, hf, hf_models
from lveval.common.errors import UsageError

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TALK = "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}"
TREE = "{% macro f(n) %}{{ f(n - 1) + f(n - 1) if n }}{% endmacro %}{{ f(99) }}"

SLOW = {
    "loops in loops": LOOP,
    "a tree of macros": TREE,
    "a power, folded when compiled": "{{ 9 ** (9 ** 9) }}",
    "a power of its input": "{% set n = messages | length + 8 %}{{ n ** (n ** n) }}",
    "only for some prompts": "{% if 'PROMPT 2' in messages[0].content %}" + LOOP + "{% endif %}",
    "a long search": "{% set a = 'a' * 900000 %}{{ (a + 'b' + a) in (a * 99) + 'c' }}" * 99,
}
MEMORY = "takes more than 1,024 MiB of memory"
LARGE = {
    "a long string": ("{{ 'x' * 1500000000 }}", MEMORY),
    "a string that doubles": (
        "{% set n = namespace(s='x' * 99) %}{% for i in range(24) %}"
        "{% set n.s = n.s + n.s %}{% endfor %}{{ n.s | length }}",
        MEMORY,
    ),
    "a wide format": ("{{ '%1999999999d' % 1 }}", MEMORY),
    "a padded word": ("{{ 'x' | center(1999999999) }}", MEMORY),
    "much text": (TALK, f"{MEMORY}|takes longer than 2 s"),
    "a long reply": (
        "{{ messages[0].content }}{{ 'x' * 3000000 }}",
        "makes 3,000,008 characters of a prompt of 8",
    ),
}
SANDBOX = {
    "a subclass": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a module's globals": "{{ namespace.__init__.__globals__ }}",
    "attr": "{{ '' | attr('__class__') }}",
    "a format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "a map": "{{ [''] | map(attribute='__class__') | list }}",
    "a generator's frame": "{% macro m() %}{% endmacro %}{{ m.__call__.__globals__ }}",
    "the file system": "{% include '/etc/passwd' %}",
    "an import": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "a config": "{{ self._TemplateReference__context }}",
    "sleep": "{{ lipsum.__globals__['os'].system('sleep 99') }}",
}


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_templates, "SECONDS", 2)


def tokenizer(tmp_path: Path, model: Path, template: str) -> hf_models.HFTokenizer:
    folder = Folder(model, tmp_path / "model")
    (folder.path / "chat_template.jinja").write_text(template)
    return hf.tokenizer(options(folder.path))


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.usefixtures("hurry")
def test_a_template_that_takes_too_long_is_ended(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    words = tokenizer(tmp_path, tiny_model, SLOW[kind])
    began = time.monotonic()
    bound = "takes longer than 2 s"
    with pytest.raises(UsageError, match=rf"chat_template\.jinja: .* template {bound}"):
        words.apply_chat_template("PROMPT 2")
    assert time.monotonic() - began < 30  # the process's start on a busy machine, too


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.usefixtures("hurry")
def test_a_template_that_swells_is_ended(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    template, bound = LARGE[kind]
    words = tokenizer(tmp_path, tiny_model, template)
    with pytest.raises(UsageError, match=rf"chat_template\.jinja: .* template ({bound})"):
        words.apply_chat_template("PROMPT 2")


@pytest.mark.parametrize("kind", SANDBOX)
def test_a_template_reaches_for_nothing(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    words = tokenizer(tmp_path, tiny_model, SANDBOX[kind])
    try:
        text = words.apply_chat_template("PROMPT 2")
    except UsageError as error:
        assert "template fails" in error.message and "\n" not in error.message
    else:
        assert not any(sign in text for sign in ("root:", "uid=", "module", "builtin", "<class"))
    assert tokenizer(tmp_path / "next", tiny_model, "{{ 1 }}").apply_chat_template("P") == "1"


def test_the_process_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    chat_templates._renderer().close()
    assert chat_templates.render("m", "{{ 1 }}", [{"role": "user", "content": "P"}], {}) == "1"
    process = chat_templates._renderer()._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert b"PATH=" in environment and b"sk-secret" not in environment
    assert not listening(psutil.Process(process.pid))


def test_what_is_rendered_is_what_transformers_renders(model_path: Path, tmp_path: Path) -> None:
    templates = [
        (model_path / "chat_template.jinja").read_text(),
        "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content | trim }}"
        "{% endgeneration %}{% if loop.first %}{% continue %}{% endif %}{% endfor %}",
        "{{ messages | tojson(indent=2) }}{{ tools is none }}{{ documents is defined }}{{ given }}",
        "  {%- if add_generation_prompt %}\n  A\n{% endif %}\n{{ raise_exception is defined }}\n",
    ]
    texts = [
        "P",
        "  a\n\u706f\u5854 \ud800 \U0001f30a\x00\u2028 {{ 1 }} {% raw %}\n",
        "x" * 2_000_000,
    ]
    for number, template in enumerate(templates):
        words = tokenizer(tmp_path / str(number), model_path, template)
        words._template_args = {"given": [1, {"a": None}]}
        for text in texts:
            expected = words.raw.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                given=[1, {"a": None}],
            )
            assert words._template_turn(text) == expected


@pytest.mark.usefixtures("hurry")
def test_threads_share_the_process_and_one_fault_is_one_templates(
    tiny_model: Path, tmp_path: Path
) -> None:
    good = tokenizer(tmp_path / "good", tiny_model, "<{{ messages[0].content }}>")
    bad = tokenizer(tmp_path / "bad", tiny_model, LOOP)
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        try:
            words = bad if number == 3 else good
            found[number] = words.apply_chat_template(f"P{number}")
        except UsageError as error:
            found[number] = error.message

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "longer than 2 s" in found.pop(3)
    assert found == {number: f"<P{number}>" for number in range(8) if number != 3}


@pytest.mark.parametrize("workers", [("--single-process",), ("--num-workers", "1")])
def test_a_run_ends_with_the_line_that_names_the_template(
    tiny_model: Path, tmp_path: Path, workers: tuple[str, ...]
) -> None:
    folder = Folder(tiny_model, tmp_path / "model")
    # Harmless when the run begins and looks: only a row's text sets it off.
    template = "{% if 'Lighthouse 1 ' in messages[0].content %}" + LOOP + "{% endif %}"
    (folder.path / "chat_template.jinja").write_text(template + "{{ messages[0].content }}")
    write_data(tmp_path / "data", "hotpotwikiqa_mixup_16k", [data_row(number=n) for n in range(3)])
    command = [sys.executable, "prediction.py", "--model-path", str(folder.path), *workers]
    command += ["--model-max-len", "1500", "--output-dir", str(tmp_path / "outputs")]
    command += ["--data-path", str(tmp_path / "data"), "--datasets", "hotpotwikiqa_mixup"]
    command += ["--lengths", "16k", "--model-name", "hostile", "--allow-unverified-data"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "chat_template.jinja: the tokenizer's chat template takes longer than 10 s" in last
    recorded = tmp_path / "outputs" / "hostile" / "rows" / "hotpotwikiqa_mixup_16k.jsonl"
    if recorded.exists():
        assert all(json.loads(line)["index"] != 1 for line in recorded.read_text().splitlines())
