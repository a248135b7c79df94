"""What was measured so far, on disk beside the result, so that a stopped run can go on.

Two files: the values, `(H, W, C)` float32 row by row, and a journal, one JSON line for what is
measured with what, one for each finished tile. A tile is journaled after its values are on the
disk, so a crash loses at most the tiles in flight.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from displacement.files import make_folder
from displacement.tiling import Tile

_ITEM = np.dtype("<f4")


class WorkingFile:
    """Values `(H, W, C)` on disk, and which tiles of them are finished.

    Attributes:
      done: numbers of the finished tiles.
      facts: what was found out about the scene before the first tile, or None.
    """

    def __init__(self, values: pathlib.Path, journal: Any, shape: tuple[int, int, int]):
        self.done: set[int] = set()
        self.facts: dict[str, Any] | None = None
        self._path, self._journal, self._shape = values, journal, shape
        self._file: int | None = None

    def start(self, key: dict[str, Any]) -> bool:
        """Takes up what is there if it was measured with `key`, or begins anew.

        Returns:
          Whether something of another key was thrown away.
        """
        key = json.loads(json.dumps(key))
        self._journal.seek(0)
        records = []
        for line in self._journal:
            with contextlib.suppress(json.JSONDecodeError):  # the last line of a crash
                records.append(json.loads(line))
        size = int(np.prod(self._shape)) * _ITEM.itemsize
        whole = self._path.exists() and self._path.stat().st_size == size
        mine = bool(records) and records[0].get("key") == key and whole
        if mine:
            self.facts = next((r["facts"] for r in records if "facts" in r), None)
            self.done = {r["tile"] for r in records if "tile" in r} if self.facts else set()
            self._journal.write("\n")  # after half a line the next one starts afresh
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if not mine:
            self._journal.truncate(0)
            os.ftruncate(self._file, 0)
            self._reserve(size)
            self._record(key=key)
        return bool(records) and not mine

    def _reserve(self, size: int) -> None:
        """Takes the room on the disk now, not after hours; where that cannot be done, the size."""
        reserve = getattr(os, "posix_fallocate", lambda file, _, size: os.ftruncate(file, size))
        try:
            reserve(self._file, 0, size)
        except OSError as error:
            needed = math.ceil(size / 1e6) / 1e3
            raise OSError(
                f"{needed:,.3f} GB are needed in {self._path.parent} for what is measured"
                f" ({error.strerror}). Make room on the disk, or choose another --output."
            ) from error

    def _record(self, **record: Any) -> None:
        self._journal.write(json.dumps(record) + "\n")
        self._journal.flush()

    def note(self, facts: dict[str, Any]) -> None:
        """Keeps what was found out about the scene."""
        self.facts = facts
        self._record(facts=facts)

    def write(self, number: int, tile: Tile, values: np.ndarray) -> None:
        """Keeps the finished part `(height, width, C)` of a tile."""
        row, col = tile.first
        for offset, line in enumerate(np.ascontiguousarray(values, _ITEM)):
            _write_all(self._file, line.tobytes(), self._place(row + offset, col))
        os.fsync(self._file)
        self.done.add(number)
        self._record(tile=number)

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window `(height, width, C)` float32, which must lie inside."""
        channels = self._shape[2]
        window = np.empty((height, width, channels), _ITEM)
        for offset, line in enumerate(window):
            data = os.pread(self._file, line.nbytes, self._place(row + offset, col))
            line[:] = np.frombuffer(data, _ITEM).reshape(width, channels)
        return window

    def _place(self, row: int, col: int) -> int:
        return (row * self._shape[1] + col) * self._shape[2] * _ITEM.itemsize

    def close(self) -> None:
        """Closes the values."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _write_all(file: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


@contextlib.contextmanager
def working_file(
    output: str | os.PathLike, shape: tuple[int, int, int], *, name: str = "measured"
) -> Iterator[WorkingFile]:
    """Opens the working file of a result; it stays until `discard` removes it.

    Args:
      output: the result, beside which it lies under a hidden name.
      shape: (H, W, C) of the values.
      name: of one of several working files of a result.

    Raises:
      ValueError: another process measures for the same output.
      OSError: the folder cannot be written to.
    """
    values, journal = _paths(output, name)
    make_folder(values.parent)
    with open(journal, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is measuring for {output}. Wait for it, or choose another"
                " --output."
            ) from error
        except OSError:  # some network file systems lock nothing
            pass
        work = WorkingFile(values, file, shape)
        try:
            yield work
        finally:
            work.close()


def discard(output: str | os.PathLike, *, name: str = "measured") -> None:
    """Removes the working file of a result."""
    for path in _paths(output, name):
        path.unlink(missing_ok=True)


def _paths(output: str | os.PathLike, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    output = pathlib.Path(output)
    return (
        output.with_name(f".{output.name}.{name}.partial"),
        output.with_name(f".{output.name}.{name}.journal"),
    )
