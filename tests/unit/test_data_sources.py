"""data.py's sources: local layouts, archives with every kind of damage, the Hub's client against a server of ours."""

import gzip
import hashlib
import io
import stat
import struct
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.data_files import LEVEL, NAME, SUBSET, child, folder_with, line, refusal

from lveval import config
from lveval.common import jsonl
from lveval.common.errors import ExitCode, LVEvalError
from lveval.data import dataset, sources


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVEVAL_CACHE", str(tmp_path / "cache"))


# --- Where files are looked for ---------------------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path.parent


@pytest.mark.parametrize("member", [f"{SUBSET}/{NAME}", NAME])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive(tmp_path: Path, member: str, method: int) -> None:
    folder = zipped(
        tmp_path / "data" / f"{SUBSET}.zip", {member: line() * 3, "other.jsonl": b"?"}, method
    )
    file = dataset.load_file(SUBSET, LEVEL, folder)
    assert len(file) == 3
    assert file.fingerprint == "sha256:" + hashlib.sha256(line() * 3).hexdigest()
    zipped(tmp_path / "data" / f"{SUBSET}.zip", {member: line() + b"[]\n"}, method)
    assert refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder)).startswith(
        f"{folder}/{SUBSET}.zip/{NAME}:2: found []"
    )


def test_layouts_and_their_order(tmp_path: Path) -> None:
    folder = zipped(tmp_path / "data" / f"{SUBSET}.zip", {NAME: line()})
    assert len(dataset.load_file(SUBSET, LEVEL, folder)) == 1
    folder_with(tmp_path, line() * 2, f"{SUBSET}/{NAME}")
    assert len(dataset.load_file(SUBSET, LEVEL, folder)) == 2
    folder_with(tmp_path, line() * 3)
    assert len(dataset.load_file(SUBSET, LEVEL, folder)) == 3


@pytest.mark.parametrize("name", [f"{NAME}.gz", f"{SUBSET}/{NAME}.gz"])
def test_a_gzip_file_is_the_file_in_it(tmp_path: Path, name: str) -> None:
    plain = dataset.load_file(SUBSET, LEVEL, folder_with(tmp_path / "plain", line() * 3))
    # Two members after each other are one file, as `cat a.gz b.gz` makes it.
    content = gzip.compress(line() * 2) + gzip.compress(line(), 1)
    file = dataset.load_file(SUBSET, LEVEL, folder_with(tmp_path, content, name))
    assert (file.fingerprint, len(file)) == (plain.fingerprint, 3)
    assert file.row(2) == plain.row(2)
    zipped(tmp_path / "data" / f"{SUBSET}.zip", {NAME: line()})
    assert len(dataset.load_file(SUBSET, LEVEL, tmp_path / "data")) == 3


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda packed: packed[: len(packed) // 2], "damaged archive (Compressed file ended"),
        (lambda packed: packed[:-3], "damaged archive (Compressed file ended"),
        (lambda packed: packed + b"more", "damaged archive (Not a gzipped file"),
        (lambda packed: line(), "damaged archive (Not a gzipped file"),
        (lambda packed: packed[:-8] + b"12345678", "damaged archive (CRC check failed"),
        (lambda packed: packed[:20] + b"\xff" * 9 + packed[29:], "damaged archive (Error -3"),
        (lambda packed: b"", "found an empty file"),
        (lambda packed: gzip.compress(b"[]\n"), f"{NAME}.gz:1: found []"),
    ],
)
def test_a_damaged_gzip_file_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes], found: str
) -> None:
    packed = gzip.compress(b"".join(line(input=f"Which reef {n}?") for n in range(99)))
    folder = folder_with(tmp_path, damage(packed), f"{NAME}.gz")
    message = refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))
    assert message.startswith(f"{folder}/{NAME}.gz") and found in message


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "RATIO_FREE_BYTES", 2**20)
    packed = gzip.compress(line() * 20_000)
    folder = folder_with(tmp_path, packed, f"{NAME}.gz")
    message = refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))
    assert f"found more than {max(2**20, 200 * len(packed))} bytes when unpacked" in message
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 2**16)  # a line without an end
    folder_with(tmp_path, gzip.compress(b" " * 2**20), f"{NAME}.gz")
    message = refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))
    assert "found a line of more than 65536 bytes" in message


def test_missing_file(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()  # a folder of that name is no file
    message = refusal(lambda: dataset.load_file(SUBSET, LEVEL, tmp_path))
    for looked in (NAME, f"{SUBSET}/{NAME}", f"{SUBSET}.zip"):
        assert str(tmp_path / looked) in message
    assert "--data-path" in message
    assert "--data-path" in refusal(
        lambda: dataset.load_file(SUBSET, LEVEL, tmp_path / ("x" * 300))
    )


@pytest.mark.parametrize(
    ("subset", "level"),
    [("../x", "16k"), (".x", "16k"), ("", "16k"), (SUBSET, "16"), (SUBSET, "0k"), (SUBSET, "1k\n")],
)
def test_names_that_are_none(tmp_path: Path, subset: str, level: str) -> None:
    assert "expected" in refusal(lambda: dataset.load_file(subset, level, tmp_path))


def patched(path: Path, change: Callable[[bytearray, int, int], None]) -> None:
    """Change an archive of one member in place; `change` gets its bytes and where its two headers start."""
    content = bytearray(path.read_bytes())
    change(content, content.index(b"PK\x03\x04"), content.index(b"PK\x01\x02"))
    path.write_bytes(bytes(content))


def lie(stated: int) -> Callable[[bytearray, int, int], None]:
    def change(content: bytearray, local: int, central: int) -> None:
        struct.pack_into("<I", content, local + 22, stated)
        struct.pack_into("<I", content, central + 24, stated)

    return change


def wrong_crc(content: bytearray, local: int, central: int) -> None:
    content[local + 14] ^= 1
    content[central + 16] ^= 1


def damaged_stream(content: bytearray, local: int, central: int) -> None:
    content[local + 30 + len(NAME) : central - 5] = b"\xff" * (central - 5 - local - 30 - len(NAME))


def encrypted(content: bytearray, local: int, central: int) -> None:
    content[local + 6] |= 1
    content[central + 8] |= 1


def foreign_method(content: bytearray, local: int, central: int) -> None:
    struct.pack_into("<H", content, local + 8, 99)
    struct.pack_into("<H", content, central + 10, 99)


def newer_version(content: bytearray, local: int, central: int) -> None:
    content[central + 6] = 99  # of the format, that it takes to unpack


def patch_data(content: bytearray, local: int, central: int) -> None:
    content[local + 6] |= 32
    content[central + 8] |= 32


def other_name_inside(content: bytearray, local: int, central: int) -> None:
    content[local + 30] ^= 1


SIZE = len(line()) * 50


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lie(SIZE - 1), "damaged archive"),
        (
            lie(SIZE - len(line())),
            "damaged archive",
        ),  # cut right behind a row: only the checksum tells
        (lie(SIZE + 1), "damaged archive"),
        (lie(2**32 - 2), "bytes packed into"),
        (wrong_crc, "damaged archive"),
        (damaged_stream, "damaged archive"),
        (encrypted, "an encrypted member"),
        (foreign_method, "compression method 99"),
        (newer_version, "damaged archive"),
        (patch_data, "damaged archive"),
        (other_name_inside, "damaged archive"),
        (
            lambda content, local, central: content.__delitem__(slice(local + 60, local + 70)),
            "cannot be read",
        ),
        (
            lambda content, local, central: content.__delitem__(slice(central - 40, None)),
            "damaged archive",
        ),
        (lambda content, local, central: content.__delitem__(slice(0, None)), "damaged archive"),
    ],
)
def test_damaged_archive(
    tmp_path: Path, change: Callable[[bytearray, int, int], None], told: str
) -> None:
    folder = zipped(tmp_path / "data" / f"{SUBSET}.zip", {NAME: line() * 50})
    patched(folder / f"{SUBSET}.zip", change)
    message = refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))
    assert told in message
    assert f"{SUBSET}.zip" in message


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = zipped(tmp_path / "data" / f"{SUBSET}.zip", {NAME: line(context="x" * 10**6)})
    assert len(dataset.load_file(SUBSET, LEVEL, folder)) == 1  # 1,000 : 1, but small
    monkeypatch.setattr(sources, "RATIO_FREE_BYTES", 10**5)
    assert "bytes packed into" in refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))
    monkeypatch.setattr(sources, "MAX_MEMBER_BYTES", 10**5)
    assert "more than 100000" in refusal(lambda: dataset.load_file(SUBSET, LEVEL, folder))


def test_symlink_member(tmp_path: Path) -> None:
    path = tmp_path / "data" / f"{SUBSET}.zip"
    path.parent.mkdir()
    link = zipfile.ZipInfo(NAME)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "found a symbolic link" in refusal(lambda: dataset.load_file(SUBSET, LEVEL, path.parent))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "data" / f"{SUBSET}.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(NAME, line())
        archive.writestr(NAME, line() * 2)
    assert "2 members of that name" in refusal(
        lambda: dataset.load_file(SUBSET, LEVEL, path.parent)
    )


@pytest.mark.parametrize(
    "name", [f"../{NAME}", f"/{NAME}", f"x/../{NAME}", f"{SUBSET}/../{NAME}", f"./{NAME}"]
)
def test_names_that_leave_the_folder_are_not_read(tmp_path: Path, name: str) -> None:
    folder = zipped(tmp_path / "data" / f"{SUBSET}.zip", {name: line()})
    assert f"expected {SUBSET}/{NAME} or {NAME}" in refusal(
        lambda: dataset.load_file(SUBSET, LEVEL, folder)
    )
    zipped(tmp_path / "data" / f"{SUBSET}.zip", {name: b"evil", NAME: line()})
    before = sorted(tmp_path.rglob("*.jsonl"))
    assert len(dataset.load_file(SUBSET, LEVEL, folder)) == 1
    assert sorted(tmp_path.rglob("*.jsonl")) == before == []


def test_an_archive_changed_or_cut_at_any_byte(tmp_path: Path) -> None:
    """Never other rows than those packed, and never anything but a refusal in words."""
    content = line() * 3
    folder = zipped(tmp_path / "data" / f"{SUBSET}.zip", {NAME: content})
    path = folder / f"{SUBSET}.zip"
    sound = path.read_bytes()
    refused = 0
    for at in range(len(sound)):
        for damaged in (
            sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :],
            sound[:at],
        ):
            path.write_bytes(damaged)
            try:
                found = dataset.load_file(SUBSET, LEVEL, folder).fingerprint
            except LVEvalError:
                refused += 1
            else:
                assert found == "sha256:" + hashlib.sha256(content).hexdigest()
    assert refused > len(sound)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """Its first reading named the content, its second one makes the copy: they must agree."""
    folder, copy = folder_with(tmp_path, line()), tmp_path / "cache" / "copy.arrow"
    copy.parent.mkdir()
    source = sources.find_source(SUBSET, NAME, folder)
    assert "changed while it was read" in refusal(
        lambda: dataset._write_cache(source, SUBSET, "sha256:" + "0" * 64, 1, copy)
    )
    assert list(copy.parent.iterdir()) == []


# --- The Hub ----------------------------------------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves archives at the pinned revision; `asked` has the paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []


class Answering(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub = self.server
        assert isinstance(hub, Hub)
        hub.asked.append((self.command, self.path))
        prefix = f"/datasets/{sources.HUB_REPO}/resolve/{sources.HUB_REVISION}/"
        content = (
            hub.files.get(self.path.removeprefix(prefix)) if self.path.startswith(prefix) else None
        )
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", sources.HUB_REVISION)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body:
            self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


LOAD = """
import sys
from lveval.common.errors import ExitCode, run_cli
from lveval.data.dataset import load_file
def main():
    file = load_file(sys.argv[1], "16k", None, *sys.argv[2:])
    print(len(file), file.fingerprint, file.row(0)["answers"])
    return ExitCode.COMPLETE
run_cli(main)
"""


def from_hub(
    tmp_path: Path, port: int, *args: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Load a file in a process of its own: the client reads its settings when it is imported."""
    local = {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
    }
    return child(
        LOAD, *args, **(local | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"} | environment)
    )


def archive(rows: int, member: str = f"{SUBSET}/{NAME}") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as writing:
        writing.writestr(member, line() * rows)
    return packed.getvalue()


def test_hub_archive_then_offline_then_by_fingerprint(tmp_path: Path, hub: Hub) -> None:
    hub.files[f"{SUBSET}.zip"] = archive(config.DATASET_ROWS[SUBSET])
    first = from_hub(tmp_path, hub.server_port, SUBSET)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("124 sha256:")
    assert (
        "GET",
        f"/datasets/{sources.HUB_REPO}/resolve/{sources.HUB_REVISION}/{SUBSET}.zip",
    ) in hub.asked
    hub.asked.clear()
    second = from_hub(tmp_path, hub.server_port, SUBSET, HF_HUB_OFFLINE="1")
    assert (second.returncode, second.stdout, hub.asked) == (0, first.stdout, []), second.stderr
    hub.files.clear()
    third = from_hub(tmp_path / "nothing", hub.server_port, SUBSET, first.stdout.split()[1])
    assert (third.returncode, third.stdout, hub.asked) == (0, first.stdout, []), third.stderr


def told_once(done: subprocess.CompletedProcess[str]) -> str:
    """One sentence on the error stream, no traceback, and the exit code for it."""
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert "Traceback" not in done.stderr
    (sentence,) = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    return sentence


def test_hub_offline_or_unreachable(tmp_path: Path, hub: Hub) -> None:
    """Offline by choice, and behind a proxy that refuses: the client does not wait for either."""
    proxied = {
        "HF_ENDPOINT": "https://hub.invalid",
        "HTTPS_PROXY": f"http://127.0.0.1:{hub.server_port}",
    }
    for environment in ({"HF_HUB_OFFLINE": "1"}, proxied):
        sentence = told_once(from_hub(tmp_path, hub.server_port, SUBSET, **environment))
        assert f"{SUBSET}.zip of Infinigence/LVEval" in sentence
        assert "--data-path" in sentence


def test_hub_without_the_archive(tmp_path: Path, hub: Hub) -> None:
    sentence = told_once(from_hub(tmp_path, hub.server_port, SUBSET))
    assert "404" in sentence
    assert "--data-path" in sentence
    assert 'no subset "mine"' in told_once(from_hub(tmp_path, hub.server_port, "mine"))


def test_hub_archive_with_other_rows_or_damage(tmp_path: Path, hub: Hub) -> None:
    whole = archive(config.DATASET_ROWS[SUBSET])
    for number, (content, told) in enumerate(
        [
            (archive(123), "found 123 rows; expected the 124"),
            (whole[:50] + bytes([whole[50] ^ 8]) + whole[51:], "damaged archive"),
            (whole[: len(whole) // 2], "damaged archive"),
            (archive(124, "elsewhere.jsonl"), f"found elsewhere.jsonl; expected {SUBSET}/{NAME}"),
        ]
    ):
        hub.files[f"{SUBSET}.zip"] = content
        sentence = told_once(from_hub(tmp_path / str(number), hub.server_port, SUBSET))
        assert told in sentence
        assert str(tmp_path / str(number)) in sentence
