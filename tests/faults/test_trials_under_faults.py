"""The trials of `make torture` in a quick size: kills, failing storage calls, cuts, flips, faulty replies."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from support import storage_shim
from support.trials import damage, faulty_service, kills, limits
from support.trials.processes import trial_processes
from support.trials.storage_calls import STARTS, storage_calls
from support.trials.tally import Tally

STEP = 31  # between the calls that fail; `make torture` takes each

Trial = Callable[..., Tally]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with trial_processes(1) as processes:
        yield processes


def test_killed_at_random_moments(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(kills.random_kills, tmp_path, 60, seed=1).result()
    assert tally.good and tally.points >= 60, tally


def test_launched_three_times_at_once(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(kills.rivals, tmp_path, 30, seed=1).result()
    assert tally.good and tally.points >= 30, tally


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("fault", storage_shim.FAULTS)
def test_a_storage_call_kills_or_fails(
    pool: ProcessPoolExecutor, tmp_path: Path, fault: str, start: str
) -> None:
    if not pool.submit(storage_shim.is_loaded).result():
        pytest.skip("needs a C compiler and Linux to fail system calls")
    first = 1 + list(storage_shim.FAULTS).index(fault)  # each fault meets other calls
    called = pool.submit(storage_calls, tmp_path, fault, start, step=STEP, first=first)
    tally = called.result()
    assert tally.good and tally.points >= 4, tally


def test_a_disk_fails_for_ever(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    if not pool.submit(storage_shim.is_loaded).result():
        pytest.skip("needs a C compiler and Linux to fail system calls")
    tally = pool.submit(storage_calls, tmp_path, "ENOSPC", lasting=True, step=STEP).result()
    assert tally.good and tally.points >= 4, tally


@pytest.mark.parametrize(
    ("of", "most", "step"), [("bytes of a file", 60_000, 7_001), ("descriptors", 33, 6)]
)
def test_with_too_little(
    pool: ProcessPoolExecutor, tmp_path: Path, of: str, most: int, step: int
) -> None:
    tally = pool.submit(limits.limits, tmp_path, of, 3, most, step).result()
    assert tally.good, tally


def test_on_a_small_disk(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(limits.small_disks, tmp_path, 1, 40, 6).result()
    if not tally.points:
        pytest.skip("only root may mount a small disk")
    assert tally.good, tally


def test_on_a_disk_that_may_only_be_read(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(limits.read_only, tmp_path).result()
    if not tally.points:
        pytest.skip("only root may mount a disk")
    assert tally.good and tally.points == 3, tally


def test_a_file_is_cut_at_a_byte(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(damage.try_cuts, tmp_path, 150, seed=1).result()
    assert tally.good and tally.points == 150, tally


@pytest.mark.parametrize("kind", damage.KINDS)
def test_a_bit_is_flipped(pool: ProcessPoolExecutor, tmp_path: Path, kind: str) -> None:
    tally = pool.submit(damage.try_flips, tmp_path, kind, 250, seed=1).result()
    assert tally.good and tally.points == 250, tally


def test_half_of_the_replies_are_faulty(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    tally = pool.submit(faulty_service.faulty_service, tmp_path, 300, 0.5, seed=3).result()
    assert tally.good and tally.points >= 450, tally
