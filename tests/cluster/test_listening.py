"""While a run with workers goes on, nothing of it can be reached from another machine."""

import time
from pathlib import Path

import psutil
from support.processes import ECHO, running


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """Who of a process and its descendants listens, and at which address."""
    found = set()
    for each in (process, *process.children(recursive=True)):
        try:
            sockets = each.net_connections("all")
        except psutil.Error:  # it has just ended
            continue
        for socket in sockets:
            open_to_all = socket.type.name == "SOCK_DGRAM" and not socket.raddr
            if socket.laddr and (socket.status == psutil.CONN_LISTEN or open_to_all):
                address = getattr(socket.laddr, "ip", "a file")  # or a socket in the file system
                found.add((f"{each.name()} {each.pid}", str(address)))
    return found


def test_nothing_listens_beyond_this_machine(data_path: Path, tmp_path: Path) -> None:
    given = "prediction.py", *ECHO, "--data-path", data_path, "--output-dir", tmp_path / "outputs"
    some = "--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--backend-args", "delay=0.5"
    seen: set[tuple[str, str]] = set()
    with running(*given, *some, "--num-workers", "2") as process:
        tree = psutil.Process(process.pid)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            seen |= listening(tree)
            time.sleep(0.05)
        assert process.wait(60) == 0
    # The scheduler and two workers do listen, or nothing would be shown here.
    assert len({who for who, _ in seen}) >= 3, seen
    assert {address for _, address in seen} <= {"127.0.0.1", "a file"}, seen
