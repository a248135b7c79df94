"""What is taken from the scene as a whole, once, before its tiles are measured.

Brightness is centred and scaled by one mean and one standard deviation for each image, and the
whole-pixel shift that the images share is taken out. A scene is read for this in blocks, so that
memory is bounded and the numbers are the same in every run.
"""

import dataclasses
import itertools
import math
from typing import Protocol

import numpy as np

from displacement.prealign import LARGEST_PX, clear_shift
from displacement.tiling import blocks, padded_window

BLOCK_PX = 1024  # that statistics are gathered in
_FAINT = 2.0  # grey levels of scatter; with fewer gradients are off, with one by half a pixel
_AGREE_PX = 2  # shifts of two windows closer than this are one
_DATES = ("earlier", "later")


class Images(Protocol):
    """Two images of one shape that are read in windows.

    Attributes:
      shape: (height, width) of both.
    """

    shape: tuple[int, int]

    def read(self, date: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window of the earlier (0) or later (1) image, NaN where invalid or outside."""


@dataclasses.dataclass(frozen=True)
class ArrayImages:
    """Two `(H, W)` float images in memory, NaN where invalid."""

    earlier: np.ndarray
    later: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of both."""
        return self.earlier.shape

    def read(self, date: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window of the earlier (0) or later (1) image, NaN where invalid or outside."""
        return padded_window((self.earlier, self.later)[date], row, col, height, width)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is taken from two whole images.

    Attributes:
      mean: of the valid pixels of the earlier and the later image, in their own units.
      scatter: standard deviation of each; of the later image where the earlier one looks.
      shift: whole pixels (row, col) that the images share, later minus earlier.
      common: number of pixels that are valid in both, the shift taken out.
      faint: whether an image holds whole numbers that hardly scatter: too few grey levels.
    """

    mean: tuple[float, float]
    scatter: tuple[float, float]
    shift: tuple[int, int]
    common: int
    faint: bool


@dataclasses.dataclass
class _Moments:
    """Count, mean, sum of squares about it, range of numbers that come in parts; whether whole."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def add(self, values: np.ndarray) -> None:
        """Takes in the finite ones of `values` (Chan's formula for merging two parts)."""
        values = values[np.isfinite(values)].astype(np.float64)
        if not values.size:
            return
        mean, total = values.mean(), self.count + values.size
        step = mean - self.mean
        self.squares += ((values - mean) ** 2).sum() + step**2 * self.count * values.size / total
        self.mean += step * values.size / total
        self.count = total
        self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
        self.whole = self.whole and bool((values == np.rint(values)).all())

    @property
    def scatter(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def shared_shift(images: Images) -> tuple[int, int]:
    """The whole-pixel shift of a scene: that of its middle, in a large scene of most windows.

    Where the middle shows none (cloud, water, the edge of a swath) or the windows beside it agree
    on another, the shift that most of them show is taken.

    Returns:
      (row, col) px, later minus earlier; (0, 0) where nothing stands out.
    """
    size = [min(n, LARGEST_PX) for n in images.shape]
    middle = [(n - s) // 2 for n, s in zip(images.shape, size, strict=True)]
    corners = {tuple(middle): None}  # in order
    if max(images.shape) > 2 * LARGEST_PX:
        ends = [
            ((n - s) // 8, n - s - (n - s) // 8) for n, s in zip(images.shape, size, strict=True)
        ]
        corners |= dict.fromkeys(itertools.product(*ends))
    found = []
    for corner in corners:
        pair = np.stack([images.read(date, *corner, *size) for date in (0, 1)], axis=-1)
        if np.isfinite(pair).all(-1).mean() > 0.1 or len(corners) == 1:
            found.append(clear_shift(pair))
    found = [shift for shift in found if shift is not None]
    if not found:
        return 0, 0
    votes = [sum(np.abs(np.subtract(a, b)).max() <= _AGREE_PX for b in found) for a in found]
    return found[int(np.argmax(votes))]  # the first of equals, so the middle


def survey(images: Images, *, prealign: bool = True) -> Scene:
    """Reads two images once, block by block, for what their tiles are measured with.

    Args:
      images: to survey.
      prealign: whether to look for the whole-pixel shift that they share.

    Raises:
      ValueError: an image holds no valid pixel, or one value everywhere.
    """
    shift = shared_shift(images) if prealign else (0, 0)
    whole = _Moments(), _Moments()
    seen = _Moments()  # the later image where the earlier one looks
    common = 0
    for window in blocks(images.shape, BLOCK_PX):
        pair = [images.read(date, *window) for date in (0, 1)]
        for moments, image in zip(whole, pair, strict=True):
            moments.add(image)
        moved = pair[1] if shift == (0, 0) else _moved(images, shift, window)
        seen.add(moved)
        common += int(np.count_nonzero(np.isfinite(pair[0]) & np.isfinite(moved)))
    for name, moments in zip(_DATES, whole, strict=True):
        if not moments.count or moments.low == moments.high:
            what = "holds no valid pixel" if not moments.count else f"is {moments.low:g} everywhere"
            raise ValueError(
                f"The {name} image {what}; there is nothing to match. Check band and file."
            )
    return Scene(
        mean=(float(whole[0].mean), float(whole[1].mean)),
        scatter=(float(whole[0].scatter), float(seen.scatter)),
        shift=shift,
        common=common,
        faint=any(moments.whole and moments.scatter < _FAINT for moments in whole),
    )


def read_normalised(images: Images, scene: Scene, window: tuple[int, int, int, int]) -> np.ndarray:
    """A window of both images as estimators take it.

    Args:
      images: the pair.
      scene: what `survey` found in it.
      window: (row, col, height, width) in the earlier image; it may reach outside.

    Returns:
      `(height, width, 2)` float32 of zero mean and unit scatter over the scene, the shared shift
      taken out of the later image, NaN where invalid.
    """
    pair = [images.read(0, *window), _moved(images, scene.shift, window)]
    pair = [
        ((image.astype(np.float64) - mean) / (scatter + 1e-12)).astype(np.float32)
        for image, mean, scatter in zip(pair, scene.mean, scene.scatter, strict=True)
    ]
    return np.stack(pair, axis=-1)


def _moved(images: Images, shift: tuple[int, int], window: tuple) -> np.ndarray:
    row, col, height, width = window
    return images.read(1, row + shift[0], col + shift[1], height, width)
