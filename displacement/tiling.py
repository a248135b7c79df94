"""Runs an estimator over an image of any size in overlapping tiles of one shape.

One shape means one compilation and bounded memory. Tiles start at multiples of `ALIGNMENT`, so a
network with pooling, or a correlator on a grid of nodes, sees each pixel as it would in the whole
image; the overlap is thrown away, so nothing has to be blended and no seam can show.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
import queue
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

ALIGNMENT = 16

# Reads a window of both images: (row, col, height, width) to `(height, width, 2)`, NaN where
# invalid or outside.
ReadWindow = Callable[[int, int, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tile:
    """One tile of an image, and the part of it that is kept; the kept parts cover the image once.

    Attributes:
      row: of its first pixel in the image.
      col: of its first pixel in the image.
      shape: (height, width); the tile may reach beyond the image.
      top: rows above the kept part, which belong to the tile before.
      left: columns before the kept part.
      kept: (height, width) of the kept part.
    """

    row: int
    col: int
    shape: tuple[int, int]
    top: int
    left: int
    kept: tuple[int, int]

    @property
    def first(self) -> tuple[int, int]:
        """Row and column of the kept part's first pixel in the image."""
        return self.row + self.top, self.col + self.left

    def keep(self, values: np.ndarray) -> np.ndarray:
        """The kept part of what was measured on the tile."""
        return values[self.top :, self.left :][: self.kept[0], : self.kept[1]]


def plan_tiles(shape: tuple[int, int], *, tile: int | Sequence[int], margin: int) -> list[Tile]:
    """Cuts an image into tiles of one shape, row by row.

    Args:
      shape: (height, width) of the image.
      tile: height and width of a tile, a multiple of 16, more than twice the margin; tiles of a
        smaller image are no larger than the image needs. Of several sizes, that with which the
        least is measured twice.
      margin: rim of a tile that is thrown away inside the image, a multiple of 16.

    Raises:
      ValueError: tile or margin will not do.
    """
    if not isinstance(tile, int):
        plans = [plan_tiles(shape, tile=size, margin=margin) for size in tile]
        return min(plans, key=lambda plan: len(plan) * math.prod(plan[0].shape))
    if tile % ALIGNMENT or margin % ALIGNMENT or tile <= 2 * margin:
        raise ValueError(
            f"tile={tile} and margin={margin} must be multiples of {ALIGNMENT}, "
            "the tile more than two margins."
        )
    sizes = [min(tile, ALIGNMENT * math.ceil(n / ALIGNMENT)) for n in shape]
    rows, cols = (
        _cuts(n, size, margin if size == tile else 0) for n, size in zip(shape, sizes, strict=True)
    )
    return [
        Tile(row, col, tuple(sizes), top, left, (height, width))
        for row, top, height in rows
        for col, left, width in cols
    ]


def _cuts(size: int, tile: int, margin: int) -> list[tuple[int, int, int]]:
    """Along an axis: first pixel of each tile, its rim before the kept part, and that part's size.

    Each keeps its middle, the outer ones also their rim.
    """
    starts = list(range(0, max(size - 2 * margin, 1), tile - 2 * margin))
    ends = [start + margin for start in starts[1:]] + [size]
    befores = [margin if start else 0 for start in starts]
    return [
        (start, before, end - start - before)
        for start, before, end in zip(starts, befores, ends, strict=True)
    ]


def measuring_devices(at_once: int = 1) -> list[Any]:
    """The devices that measure tiles at once: JAX's default device if one is set, else all.

    Of CPU devices one, `at_once` times: it takes every core, and FFTs of several would wait for
    each other (`displacement/__init__.py`).
    """
    if jax.config.jax_default_device is not None:
        return [jax.config.jax_default_device]
    devices = jax.local_devices()
    return devices[:1] * at_once if devices[0].platform == "cpu" else devices


def measured_tiles(
    function: Callable[[np.ndarray], np.ndarray],
    read: ReadWindow,
    tiles: Iterable[Tile],
    *,
    at_once: int = 1,
    progress: bool = False,
    before: int = 0,
) -> Iterator[tuple[Tile, np.ndarray]]:
    """Measures tiles, one at a time on each device, reading the next one meanwhile.

    After Ctrl-C the tiles in work are finished and yielded first.

    Args:
      function: `(T, S, 2)` pair, NaN invalid, to `(T, S, C)`, on JAX's default device; it is called
        from a thread for each of `measuring_devices`.
      read: gives a tile; it is called from one thread, which is none of these.
      tiles: those to measure.
      at_once: how many are measured at a time on a CPU.
      progress: whether to show a bar with the time left.
      before: tiles that were measured earlier, for the bar.

    Yields:
      The tile and its kept part, `(height, width, C)`, in the order of `tiles`.
    """
    tiles = list(tiles)
    devices = measuring_devices(at_once)
    free = queue.SimpleQueue()
    for device in devices:
        free.put(device)

    def measure(coming):
        pair = coming.result()
        device = free.get()
        try:
            with jax.default_device(device):
                return np.asarray(function(pair))
        finally:
            free.put(device)

    bar = tqdm(
        total=before + len(tiles),
        initial=before,
        unit="tile",
        disable=not progress,
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 60.0,  # a log needs no animation
    )
    bar.set_postfix_str("the first one compiles")
    with bar, _threads(1) as reader, _threads(len(devices)) as workers:
        waiting, under_way, stopped = collections.deque(tiles), collections.deque(), False
        while waiting or under_way:
            while waiting and len(under_way) <= len(devices):
                tile = waiting.popleft()
                coming = reader.submit(read, tile.row, tile.col, *tile.shape)
                under_way.append((tile, workers.submit(measure, coming)))
            tile, measured = under_way[0]
            try:
                values = measured.result()
            except KeyboardInterrupt:
                if measured.done() and measured.exception() is not None:
                    raise  # it came from the tile
                stopped = True
                bar.write("Stopping: what is in work is finished first.")
                waiting.clear()
                under_way = collections.deque(u for u in under_way if not u[1].cancel())
                continue
            under_way.popleft()
            bar.set_postfix_str("", refresh=False)
            yield tile, tile.keep(values)
            bar.update()
    if stopped:
        raise KeyboardInterrupt


@contextlib.contextmanager
def _threads(count: int) -> Iterator[concurrent.futures.Executor]:
    """As many threads; at the end, also after an error, only what has begun is waited for."""
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def blocks(shape: tuple[int, int], size: int) -> Iterator[tuple[int, int, int, int]]:
    """(row, col, height, width) of blocks of at most size x size that cover an image, in rows."""
    for row in range(0, shape[0], size):
        for col in range(0, shape[1], size):
            yield row, col, min(size, shape[0] - row), min(size, shape[1] - col)


def padded_window(image: np.ndarray, row: int, col: int, height: int, width: int) -> np.ndarray:
    """A window of an `(H, W, ...)` image; what lies outside the image is NaN."""
    top, left = max(row, 0), max(col, 0)
    inside = image[top : max(row + height, top), left : max(col + width, left)]
    if inside.shape[:2] == (height, width):
        return inside
    window = np.full((height, width, *image.shape[2:]), np.nan, image.dtype)
    rows, cols = inside.shape[:2]
    if inside.size:
        window[top - row :, left - col :][:rows, :cols] = inside
    return window
