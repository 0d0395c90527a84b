"""Several machines: scheduler, nodes and the run are processes with addresses of their own, and nodes really die.

Where this user may make network namespaces each "machine" has one, joined by a bridge; else they are 127.0.0.x.
"""

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # Dask needs it
from conftest import ROOT

from lveval.backends.base import EngineOptions
from lveval.common.errors import LVEvalError
from lveval.execution import remote_cluster
from lveval.options import RunOptions, Scheduler

# --- Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--scheduler", "tcp://head:8786"), "tcp:// is not encrypted"),
        (("--scheduler", "head:8786"), 'found "head:8786", expected tls://HOST:PORT'),
        (("--scheduler", "http://head:8786/"), "expected tls://HOST:PORT"),
        (
            ("--scheduler", "tls://head:8786", "--single-process"),
            "found --single-process or --num-workers too",
        ),
        (
            ("--scheduler", "tls://head:8786", "--num-workers", "2"),
            "found --single-process or --num-workers too",
        ),
        (("--insecure-scheduler",), "--insecure-scheduler: only with --scheduler ADDRESS"),
        (
            ("--tls-cert", "c.pem", "--tls-key", "k.pem"),
            "--tls-cert, --tls-key: only with --scheduler ADDRESS",
        ),
        (
            ("--scheduler", "tcp://h:1", "--insecure-scheduler", "--tls-cert", "c"),
            "need a tls:// address",
        ),
        (
            ("--scheduler", "tls://h:1", "--wait-for-workers", "nan"),
            "--wait-for-workers: found nan",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_sentence(
    options: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(LVEvalError) as found:
        RunOptions.parse(["--model-name", "dry", *options]).cluster_scheduler()
    assert complaint in found.value.message and found.value.code == 2


def test_without_a_scheduler_nothing_changes() -> None:
    assert RunOptions.parse(["--model-name", "dry"]).cluster_scheduler() is None


@pytest.mark.parametrize("certificates", ["missing", "unreadable"])
def test_tls_without_certificates_is_refused_before_anything_is_sent(
    certificates: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    files = (tmp_path / "bad.pem",) * 3 if certificates == "unreadable" else (None, None, None)
    scheduler = Scheduler("tls://127.0.0.1:1", False, *files)
    with (
        pytest.raises(LVEvalError, match="--tls-ca-file, --tls-cert and --tls-key"),
        remote_cluster.connect(scheduler),
    ):
        pass


# --- What workers must agree on ---------------------------------------------------------------------------------------


def test_a_worker_vouches_for_its_code_and_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    options = EngineOptions(None, 500)
    expected = remote_cluster.environment("echo", options)
    remote_cluster.verify_environment("echo", options, expected)
    other = expected | {"engine": {"version": 1, "device": "cuda"}}
    with pytest.raises(LVEvalError, match=r"engine\.device: found nothing, expected \"cuda\""):
        remote_cluster.verify_environment("echo", options, other)
    monkeypatch.setattr(remote_cluster, "CODE", {"utils.py": "0", "backends/hf.py": "0"})
    monkeypatch.setattr(remote_cluster, "_verified", None)
    with pytest.raises(
        LVEvalError,
        match=r"runs other code than this command \(backends/__init__.py, backends/base",
    ):
        remote_cluster.verify_environment("echo", options, expected)


# --- README -----------------------------------------------------------------------------------------------------------


def recipes() -> list[list[str]]:
    """The commands of the manual on clusters, as words."""
    section = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    found: list[list[str]] = []
    for block in re.findall(r"```bash\n(.*?)```", section, re.S):
        values = dict(re.findall(r"^(TLS|HEAD)=\"?(.*?)\"?$", block, re.M))
        for line in block.replace("\\\n", " ").splitlines():
            for name, value in values.items():
                line = line.replace(f"${name}", value)
            found.append(shlex.split(line, comments=True))
    for document in yaml.safe_load_all("".join(re.findall(r"```yaml\n(.*?)```", section, re.S))):
        pod = document["spec"].get("template", {}).get("spec", {})
        found += [
            container["command"] + container["args"] for container in pod.get("containers", [])
        ]
    return found


def test_the_recipes_use_options_that_exist(tmp_path: Path) -> None:
    from distributed.cli import dask_scheduler, dask_worker

    file = tmp_path / "some.pem"  # Dask looks whether it is there
    file.touch()
    seen: Counter[str] = Counter()
    for words in (
        [str(file) if word.endswith(".pem") else word for word in recipe] for recipe in recipes()
    ):
        for start, main in (("scheduler", dask_scheduler.main), ("worker", dask_worker.main)):
            if "dask" in words and words[words.index("dask") + 1] == start:
                options = [word for word in words[words.index(start) + 1 :] if word != "&"]
                assert main.make_context(start, options).params["tls_key"], words
                seen[start] += 1
        if words[:2] == ["python", "prediction.py"] and "openai" not in words:
            scheduler = RunOptions.parse(words[2:]).cluster_scheduler()
            assert scheduler is not None and scheduler.key is not None
            seen["run"] += 1
    assert seen == {"scheduler": 3, "worker": 3, "run": 2}
