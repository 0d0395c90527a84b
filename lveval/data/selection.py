"""The files of a run, and how many of their first rows are selected.

files = load_selection([("lic_mixup", "16k")], data_path, limit=5)
"""

from collections.abc import Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lveval.common.logs import log
from lveval.data import dataset


@dataclass(frozen=True)
class SelectedFile:
    """One file of the run and the number of its first rows that are selected."""

    file: dataset.DataFile
    rows: int

    @property
    def key(self) -> tuple[str, str]:
        """(subset, level)."""
        return self.file.subset, self.file.level

    @property
    def name(self) -> str:
        """`<subset>_<level>`."""
        return f"{self.file.subset}_{self.file.level}"

    def missing(self, answered: Set[int]) -> list[int]:
        """The selected rows that are not `answered`."""
        return [index for index in range(self.rows) if index not in answered]


def load_selection(
    names: Sequence[tuple[str, str]],
    data_path: Path | None,
    limit: int | None,
    executor: Executor | None = None,
) -> list[SelectedFile]:
    """Read and check every selected file; side by side where there is an executor."""
    from tqdm import tqdm

    files = []
    loaded = (executor.map if executor else map)(
        partial(dataset.load_file, data_path=data_path), *zip(*names, strict=True)
    )
    for file in tqdm(
        loaded, total=len(names), desc="checking the data", unit="file", delay=2, leave=False
    ):
        files.append(SelectedFile(file, len(file) if limit is None else min(limit, len(file))))
        log.debug("%s: %d of %d rows, %s", file.origin, files[-1].rows, len(file), file.fingerprint)
    return files
