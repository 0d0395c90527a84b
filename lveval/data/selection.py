"""The files of a run, and how many of their first rows are selected.

files = load_selection([("lic_mixup", "16k")], data_path, limit=5)

A control (controls.py) leaves out the rows that it does not apply to.
"""

from collections.abc import Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lveval.common.errors import UsageError
from lveval.common.logs import log
from lveval.data import controls, dataset
from lveval.data.own_subsets import require_language


@dataclass(frozen=True)
class SelectedFile:
    """One file of the run, the number of its first rows that are selected, those left out."""

    file: dataset.DataFile
    rows: int
    left_out: frozenset[int] = frozenset()  # selected rows that the run's control does not apply to

    @property
    def key(self) -> tuple[str, str]:
        """(subset, level)."""
        return self.file.subset, self.file.level

    @property
    def name(self) -> str:
        """`<subset>_<level>`."""
        return f"{self.file.subset}_{self.file.level}"

    def missing(self, answered: Set[int]) -> list[int]:
        """The rows to answer that are not `answered`."""
        wanted = (index for index in range(self.rows) if index not in self.left_out)
        return [index for index in wanted if index not in answered]

    @property
    def wanted(self) -> int:
        """How many rows are to be answered."""
        return self.rows - len(self.left_out)


def load_selection(
    names: Sequence[tuple[str, str]],
    data_path: Path | None,
    limit: int | None,
    executor: Executor | None = None,
    control: str | None = None,
) -> list[SelectedFile]:
    """Read and check every selected file; side by side where there is an executor.

    Raises UsageError where the control applies to no row.
    """
    from tqdm import tqdm

    files = []
    loaded = (executor.map if executor else map)(
        partial(_select, data_path=data_path, limit=limit, control=control),
        *zip(*names, strict=True),
    )
    for selected in tqdm(
        loaded, total=len(names), desc="checking the data", unit="file", delay=2, leave=False
    ):
        files.append(selected)
        file = selected.file
        require_language(file)
        log.debug("%s: %d of %d rows, %s", file.origin, selected.rows, len(file), file.fingerprint)
    if control:
        left_out = {selected.name: len(selected.left_out) for selected in files}
        said = controls.describe(control, sum(selected.rows for selected in files), left_out)
        if not any(selected.wanted for selected in files):
            raise UsageError(f"--{said}; expected data with rows that it applies to")
        log.info(said)
    return files


def _select(
    subset: str, level: str, data_path: Path | None, limit: int | None, control: str | None
) -> SelectedFile:
    file = dataset.load_file(subset, level, data_path)
    rows = len(file) if limit is None else min(limit, len(file))
    if control is None or not controls.CONTROLS[control].lacking:  # no row need be read
        return SelectedFile(file, rows)
    applies = controls.CONTROLS[control].change
    left_out = frozenset(index for index in range(rows) if applies(file.row(index)) is None)
    return SelectedFile(file, rows, left_out)
