"""Several machines: scheduler, nodes and the run are processes with addresses of their own, and nodes really die.

Where this user may make network namespaces each "machine" has one, joined by a bridge; else they are 127.0.0.x.
"""

import datetime
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT, lines, row, script, write_data
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lveval.backends import hf
from lveval.backends.base import EngineOptions

NAME = "hotpotwikiqa_mixup_1k.jsonl"
ROWS = 60


# --- Machines ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """An address, and what comes before a command to run it there."""

    address: str
    enter: tuple[str, ...] = ()


@dataclass(frozen=True)
class Network:
    """The scheduler's machine, the run's, and three nodes; `shared` tells why they share one network, where they do."""

    head: Machine
    run: Machine
    nodes: tuple[Machine, Machine, Machine]
    shared: str = ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=30)


def _namespaces(names: list[str]) -> None:
    """A namespace per machine, the first with a bridge that the others hang on: nothing leaves them."""
    for name in names:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
    _ip("-n", names[0], "link", "add", "br0", "type", "bridge")
    _ip("-n", names[0], "addr", "add", "10.77.0.1/24", "dev", "br0")
    _ip("-n", names[0], "link", "set", "br0", "up")
    for number, name in enumerate(names[1:], 2):
        _ip(
            "-n",
            names[0],
            "link",
            "add",
            f"v{number}",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            name,
        )
        _ip("-n", names[0], "link", "set", f"v{number}", "master", "br0", "up")
        _ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    names = [f"lv-eval-{os.getpid()}-{number}" for number in range(5)]
    shared = ""
    try:
        _namespaces(names)
        head, run, *nodes = (
            Machine(f"10.77.0.{number}", ("ip", "netns", "exec", name))
            for number, name in enumerate(names, 1)
        )
    except (OSError, subprocess.CalledProcessError) as error:
        shared = (
            f"no network namespaces here ({str(getattr(error, 'stderr', '') or error).strip()})"
        )
        head, run, *nodes = (Machine(f"127.0.0.{number}") for number in range(2, 7))
    try:
        yield Network(head, run, (nodes[0], nodes[1], nodes[2]), shared)
    finally:
        for name in names:
            subprocess.run(
                ["ip", "netns", "del", name], check=False, capture_output=True
            ) if not shared else None


class Processes:
    """What runs on the machines, each in a process group of its own; all are killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(
        self, machine: Machine, log: str, *command: str | Path, **environment: str
    ) -> subprocess.Popen[bytes]:
        ours = {
            name: value for name, value in os.environ.items() if name != "DASK_LOGGING__DISTRIBUTED"
        }  # a nanny's
        environment = {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        with (self.folder / log).open("wb") as output:
            process = subprocess.Popen(
                [*machine.enter, sys.executable, *map(str, command)],
                cwd=self.folder,  # relative paths mean something else than in the checkout
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / name).read_text(errors="replace")

    def wait_for(self, log: str, text: str, count: int = 1, limit: float = 90) -> None:
        end = time.monotonic() + limit
        while self.log(log).count(text) < count:
            assert time.monotonic() < end, f'no "{text}" in {log}:\n{self.log(log)[-3000:]}'
            time.sleep(0.05)

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        """A machine that loses its power."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def scheduler(
        self, machine: Machine, *options: str | Path
    ) -> tuple[subprocess.Popen[bytes], str]:
        where = self.folder / "scheduler.json"
        where.unlink(missing_ok=True)
        common = (
            "--host",
            machine.address,
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            where,
        )
        process = self.start(machine, "scheduler.log", "-m", "dask", "scheduler", *common, *options)
        self.wait_for("scheduler.log", "Scheduler at:")
        end = time.monotonic() + 30
        while not where.exists() or not where.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        return process, json.loads(where.read_text())["address"]

    def node(
        self, machine: Machine, log: str, address: str, *options: str | Path, **environment: str
    ) -> subprocess.Popen[bytes]:
        """A worker as docs/cluster.md has it."""
        common = ("--nworkers", "1", "--nthreads", "2", "--memory-limit", "0", "--no-dashboard")
        here = ("--host", machine.address, "--local-directory", self.folder / "scratch")
        return self.start(
            machine, log, "-m", "dask", "worker", address, *common, *here, *options, **environment
        )

    def prediction(
        self, machine: Machine, *options: str | Path, output: str = "out", PYTHONPATH: str = ""
    ) -> subprocess.Popen[bytes]:
        return self.start(
            machine, f"{output}.log", *command(self.folder, output), *options, PYTHONPATH=PYTHONPATH
        )


def command(folder: Path, output: str) -> tuple[str | Path, ...]:
    return (
        ROOT / "prediction.py", "--backend", "echo", "--model-name", "dry", "--data-path", folder / "data",
        "--datasets", "hotpotwikiqa_mixup", "--lengths", "1k", "--output-dir", folder / output,
    )  # fmt: skip


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    write_data(
        tmp_path / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(ROWS)]
    )
    with ExitStack() as stack:
        made = Processes(tmp_path)
        stack.callback(
            lambda: [made.kill(process) for process in made._running if process.poll() is None]
        )
        yield made


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The answers of a single process."""
    folder = tmp_path_factory.mktemp("calm")
    write_data(
        folder / "data", "hotpotwikiqa_mixup_1k", [row(number=number) for number in range(ROWS)]
    )
    found = script(*command(folder, "out"), "--single-process")
    assert found.returncode == 0, found.stderr
    return (folder / "out/dry" / NAME).read_bytes()


def answered(folder: Path) -> int:
    path = folder / "out/dry/rows" / NAME
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_rows(folder: Path, count: int, limit: float = 90) -> None:
    end = time.monotonic() + limit
    while answered(folder) < count:
        assert time.monotonic() < end, f"{answered(folder)} rows after {limit} s"
        time.sleep(0.02)


# --- Certificates -----------------------------------------------------------------------------------------------------


def authority(folder: Path) -> tuple[str, ...]:
    """A certificate authority and one certificate that it signed, as the options of Dask and of prediction.py."""
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    for name, owner, subject in (("ca", ca_key, issuer), ("cert", key, x509.Name([]))):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(owner.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name == "ca", path_length=None), critical=True)
            .sign(ca_key, hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = (
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(key.private_bytes(*plain))
    files = {"--tls-ca-file": "ca.pem", "--tls-cert": "cert.pem", "--tls-key": "key.pem"}
    return tuple(word for option, name in files.items() for word in (option, str(folder / name)))


def test_where_no_scheduler_listens_the_run_says_so(processes: Processes) -> None:
    options = ("--scheduler", "tcp://127.0.0.1:1", "--insecure-scheduler")
    found = script(
        *command(processes.folder, "out"), *options, DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s"
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert (
        "tcp://127.0.0.1:1: no Dask scheduler answers there" in found.stderr
        and "Traceback" not in found.stderr
    )
    assert not (processes.folder / "out").exists()


# --- Machines that come and go ----------------------------------------------------------------------------------------


def test_machines_have_networks_of_their_own(network: Network) -> None:
    if network.shared:
        pytest.skip(f"{network.shared}; the tests below use 127.0.0.x")
    seen = subprocess.run(
        [*network.run.enter, "ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True
    )
    assert "10.77.0.2/24" in seen.stdout and "10.77.0.1/24" not in seen.stdout
    assert ipaddress.ip_address(network.head.address).is_private


def test_nodes_lost_and_joined_under_tls_change_no_byte(
    network: Network, processes: Processes, calm: bytes
) -> None:
    tls, stranger = authority(processes.folder / "tls"), authority(processes.folder / "stranger")
    _, address = processes.scheduler(network.head, "--protocol", "tls", *tls)
    assert address.startswith(f"tls://{network.head.address}:")
    refused = processes.prediction(network.run, "--scheduler", address, *stranger, output="refused")
    run = processes.prediction(
        network.run, "--scheduler", address, *tls, "--backend-args", "delay=0.2"
    )
    processes.wait_for("out.log", "no worker is connected to")  # that is no error
    first = processes.node(
        network.nodes[0], "first.log", address, *tls, "--preload", "lveval.execution.worker"
    )
    second = processes.node(
        network.nodes[1], "second.log", address, *tls, "--preload", "lveval.execution.worker"
    )
    assert refused.wait(60) == 2
    assert (
        "certificates of the same authority" in (told := processes.log("refused.log"))
        and "Traceback" not in told
    )
    processes.wait_for("scheduler.log", "Register worker", 2)
    wait_for_rows(processes.folder, 6)
    os.killpg(first.pid, signal.SIGSTOP)  # or it would answer all rows, should the third start late
    processes.kill(second)
    processes.node(
        network.nodes[2], "third.log", address, *tls, "--preload", "lveval.execution.worker"
    )
    processes.wait_for("scheduler.log", "Register worker", 3)
    assert answered(processes.folder) < ROWS - 5
    processes.kill(first)  # what is left falls to the late one
    assert run.wait(90) == 0, processes.log("out.log")
    assert (processes.folder / "out/dry" / NAME).read_bytes() == calm
    assert not (processes.folder / "out/dry/attempts.jsonl").exists()


ASK = """
import sys, time
from distributed import Client
client = Client(sys.argv[1])
end = time.monotonic() + 30
while (left := client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))) and time.monotonic() < end:
    time.sleep(0.1)  # rows may still be at work; they are nobody's any more
print(len(client.nthreads()), left)
"""


def workers_and_tasks(network: Network, address: str) -> list[str]:
    """How many workers a scheduler has, and how many tasks once those of a run that ended are gone."""
    asked = subprocess.run(
        [*network.run.enter, sys.executable, "-c", ASK, address],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.split()


def test_the_cluster_outlives_a_run_and_a_run_its_scheduler(
    network: Network, processes: Processes, calm: bytes
) -> None:
    head, address = processes.scheduler(network.head)
    node = processes.node(network.nodes[0], "node.log", address)
    options = ("--scheduler", address, "--insecure-scheduler", "--backend-args", "delay=0.2")

    run = processes.prediction(network.run, *options)
    wait_for_rows(processes.folder, 3)
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130, processes.log("out.log")
    assert "same command again" in processes.log("out.log") and "Traceback" not in processes.log(
        "out.log"
    )
    assert workers_and_tasks(network, address) == ["1", "0"]

    had = answered(processes.folder)
    run = processes.prediction(network.run, *options)
    wait_for_rows(processes.folder, had + 3)
    processes.kill(run)
    assert workers_and_tasks(network, address) == ["1", "0"]

    had = answered(processes.folder)
    run = processes.prediction(network.run, *options)
    wait_for_rows(processes.folder, had + 3)
    processes.kill(head)
    assert run.wait(30) == 3, processes.log("out.log")
    told = processes.log("out.log")
    assert "all answers so far are saved" in told and "Traceback" not in told
    assert had + 3 <= answered(processes.folder) < ROWS
    processes.kill(node)
    resumed = script(*command(processes.folder, "out"), "--single-process")
    assert resumed.returncode == 0, resumed.stderr
    assert (processes.folder / "out/dry" / NAME).read_bytes() == calm


def test_without_any_worker_left_the_run_ends_resumable(
    network: Network, processes: Processes
) -> None:
    _, address = processes.scheduler(network.head)
    node = processes.node(network.nodes[0], "node.log", address)
    options = ("--scheduler", address, "--insecure-scheduler", "--wait-for-workers", "0.02")
    processes.wait_for("scheduler.log", "Register worker")
    run = processes.prediction(network.run, *options, "--backend-args", "delay=0.2")
    wait_for_rows(processes.folder, 2)
    processes.kill(node)
    assert run.wait(60) == 3, processes.log("out.log")
    assert "no worker was connected to" in processes.log(
        "out.log"
    ) and "Traceback" not in processes.log("out.log")


def test_a_node_with_other_code_is_named(network: Network, processes: Processes) -> None:
    other = processes.folder / "checkout"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lveval", other / "lveval", ignore=ignore)  # its links become files
    echo = other / "lveval/backends/echo.py"
    echo.write_text(
        echo.read_text().replace(
            "yield position, Generation(text,", 'yield position, Generation("WRONG",'
        )
    )
    assert "WRONG" in echo.read_text()
    _, address = processes.scheduler(network.head)
    processes.node(network.nodes[0], "good.log", address)
    run = processes.prediction(
        network.run, "--scheduler", address, "--insecure-scheduler", "--backend-args", "delay=1"
    )
    wait_for_rows(processes.folder, 1)
    processes.node(network.nodes[1], "bad.log", address, PYTHONPATH=str(other))  # joins late
    assert run.wait(60) == 2, processes.log("out.log")
    late = processes.log("out.log")
    again = processes.prediction(
        network.run, "--scheduler", address, "--insecure-scheduler", output="again"
    )
    assert again.wait(60) == 2, processes.log("again.log")
    for told in (late, processes.log("again.log")):
        assert f"worker tcp://{network.nodes[1].address}:" in told and "Traceback" not in told, told
        assert "runs other code than this command (backends/echo.py)" in told, told
    recorded = lines(processes.folder / "out/dry/rows" / NAME)
    assert recorded and "WRONG" not in [record["pred"] for record in recorded]


# An engine whose model is a file of one word, which it answers.
ONE_WORD = """
import time
from pathlib import Path
from lveval.backends.base import Engine, Generation
from lveval.backends.echo import EchoTokenizer

WORD = Path(__file__).with_name("word")

class OneWord(Engine):
    tokenizer = EchoTokenizer()
    word = WORD.read_text()

    def generate(self, prompts):
        time.sleep(1)
        yield from ((position, Generation(self.word, "ok")) for position, _ in enumerate(prompts))

def settings_fingerprint(options): return {"word": WORD.read_text()}
def tokenizer(options): return EchoTokenizer()
def load(options): return OneWord()
"""


def test_a_node_of_another_version_or_model_that_joins_late_is_named(
    network: Network, processes: Processes
) -> None:
    engine, word = processes.folder / "one_word.py", processes.folder / "word"
    engine.write_text(ONE_WORD)
    word.write_text("good")
    older = processes.folder / "older" / "distributed-2020.1.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: distributed\nVersion: 2020.1.0\n")
    commands = metadata.distribution("distributed").read_text("entry_points.txt")
    (older / "entry_points.txt").write_text(commands or "")
    _, address = processes.scheduler(network.head)
    processes.node(network.nodes[0], "good.log", address)
    options = ("--scheduler", address, "--insecure-scheduler", "--backend", engine)
    for name, found, path in (
        ("version", 'distributed: found "2020.1.0"', f"{older.parent}{os.pathsep}{ROOT}"),
        ("model", 'engine.word: found "bad", expected "good"', str(ROOT)),
    ):
        had = answered(processes.folder)
        run = processes.prediction(network.run, *options)
        wait_for_rows(processes.folder, had + 2)
        if name == "model":
            word.write_text("bad")  # the node that has it in memory goes on with the good one
        late = processes.node(network.nodes[1], f"{name}.log", address, PYTHONPATH=path)
        assert run.wait(60) == 2, processes.log("out.log")
        told = processes.log("out.log")
        assert f"worker tcp://{network.nodes[1].address}:" in told and found in told, told
        assert "Traceback" not in told, told
        processes.kill(late)
    recorded = lines(processes.folder / "out/dry/rows" / NAME)
    assert {record["pred"] for record in recorded} == {"good"}


def test_the_next_run_gets_a_worker_of_its_own_and_is_told_of_too_few_threads(
    network: Network, processes: Processes
) -> None:
    _, address = processes.scheduler(network.head)
    processes.node(network.nodes[0], "node.log", address)
    where = ("--scheduler", address, "--insecure-scheduler", "--limit", "2")
    first = processes.prediction(network.run, *where, output="first")
    assert first.wait(60) == 0 and "warning" not in processes.log("first.log"), processes.log(
        "first.log"
    )
    other = processes.prediction(network.run, *where, "--backend-args", "at_once=4", output="other")
    assert other.wait(60) == 0, processes.log("other.log")
    assert "start the workers with --nthreads 5" in processes.log("other.log")
    assert (
        processes.log("node.log").count("it holds another run's model; replacing this worker") >= 1
    )
    assert answered(processes.folder) == 0  # that is another folder
    for name in ("first", "other"):
        assert len(lines(processes.folder / name / "dry" / NAME)) == 2


def test_the_workers_decide_what_the_engine_is(
    network: Network, processes: Processes, tiny_model: Path
) -> None:
    """The run's own machine needs no engine; what is recorded is what a run on the worker's machine would record."""
    absent = processes.folder / "absent"
    absent.mkdir()
    for package in ("torch", "transformers"):
        (absent / f"{package}.py").write_text("raise ModuleNotFoundError('not on this machine')\n")
    _, address = processes.scheduler(network.head)
    processes.node(network.nodes[0], "node.log", address, CUDA_VISIBLE_DEVICES="")
    options = ("--backend", "hf", "--model-path", tiny_model, "--limit", "1")
    where = ("--scheduler", address, "--insecure-scheduler")
    run = processes.prediction(network.run, *options, *where, PYTHONPATH=str(absent))
    assert run.wait(120) == 0, processes.log("out.log")
    identity = json.loads((processes.folder / "out/dry/run.json").read_text())["identity"]
    engine = identity["engine"]
    assert identity["model_max_len"] == 2048 - 500  # as the worker knows of the model
    assert engine | {"device": "", "dtype": ""} == hf.settings_fingerprint(
        EngineOptions(str(tiny_model), 300)
    ) | {"device": "", "dtype": ""}
    assert (engine["device"], engine["dtype"]) == ("cpu", "float32")
    assert answered(processes.folder) == 1
