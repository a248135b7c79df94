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
from scipy import ndimage

from displacement.prealign import LARGEST_PX, clear_shift
from displacement.tiling import blocks, padded_window

BLOCK_PX = 1024  # that statistics are gathered in
_FAINT = 2.0  # grey levels of scatter; with fewer gradients are off, with one by half a pixel
_FILL_SHARE, _FILL_APART = 0.01, 0.5  # of the pixels; scatters from all other values
_SHOWS_PX = 64  # of the smaller side; in smaller images no peak stands out by so much
_AGREE_PX = 2  # shifts of two windows closer than this are one
_FLAT_PX = (
    16  # a square of one value so large is fill, saturation or still water: no ground to match
)
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
      clear: whether that shift stood out, or was not asked for.
      common: number of pixels that are valid in both, the shift taken out.
      faint: whether an image holds whole numbers that hardly scatter: too few grey levels.
      fill: a value of the earlier and of the later image that looks like no data, or None.
    """

    mean: tuple[float, float]
    scatter: tuple[float, float]
    shift: tuple[int, int]
    clear: bool
    common: int
    faint: bool
    fill: tuple[float | None, float | None]

    def doubts(self, shape: tuple[int, int]) -> list[str]:
        """What is to be known before a result is trusted, one sentence each.

        Args:
          shape: (height, width) of the images.
        """
        found = [
            f"Many pixels of the {name} image are exactly {value:g}, far from all others. If that"
            " is no ground, declare it (--nodata; in Python NaN): its edges would be matched too."
            for name, value in zip(_DATES, self.fill, strict=True)
            if value is not None
        ]
        if not self.clear and min(shape) >= _SHOWS_PX and self.common:
            found.append(
                "No whole-pixel shift that both images share stands out (up to a quarter of the"
                " scene, 512 px at most, is looked for): what follows is measured about a shift of"
                " 0. Are they one place?"
            )
        share = self.common / math.prod(shape)
        if 0 < share < 0.5:
            found.append(
                f"Only {share:.0%} of the pixels are valid in both images. A mask leaves out what"
                " is not 0 in it: is it the other way round?"
            )
        if self.mean[0] == self.mean[1] and self.scatter[0] == self.scatter[1]:
            found.append("The two images seem to be the same, value for value.")
        return found


@dataclasses.dataclass
class _Lowest:
    """The lowest of numbers that come in parts, how often it comes, and the lowest above it."""

    value: float = math.inf
    count: int = 0
    following: float = math.inf

    def add(self, values: np.ndarray) -> None:
        """Takes in finite ones, at least one."""
        value = float(values.min())
        following = float(values.min(where=values > value, initial=math.inf))
        count = int(np.count_nonzero(values == value))
        low, high = sorted((self.value, value))
        self.count = (self.count if self.value == low else 0) + (count if value == low else 0)
        others = [other for other in (self.following, following, high) if other > low]
        self.value, self.following = low, min(others, default=math.inf)


@dataclasses.dataclass
class _Moments:
    """Count, mean, sum of squares about it, ends of numbers that come in parts; whether whole."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    lowest: _Lowest = dataclasses.field(default_factory=_Lowest)
    highest: _Lowest = dataclasses.field(default_factory=_Lowest)  # of what is lowest the other way
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
        self.lowest.add(values)
        self.highest.add(-values)
        self.whole = self.whole and bool((values == np.rint(values)).all())

    @property
    def low(self) -> float:
        return self.lowest.value

    @property
    def high(self) -> float:
        return -self.highest.value

    @property
    def fill(self) -> float | None:
        """The lowest or highest value, if it is frequent and far from all others."""
        if self.lowest.following >= self.high:
            return None
        for end, sign in ((self.lowest, 1.0), (self.highest, -1.0)):
            far = end.following - end.value > _FILL_APART * self.scatter
            if far and end.count > _FILL_SHARE * self.count:
                return sign * end.value
        return None

    @property
    def scatter(self) -> float:
        return math.sqrt(self.squares / self.count) if self.count else 0.0


def _flat(image: np.ndarray) -> np.ndarray:
    """Where `(H, W)` lies in a square of `_FLAT_PX` pixels of one value."""
    same = np.zeros(image.shape, bool)  # as the pixels to the right, below, and right below
    same[:-1, :-1] = (
        (image[:-1, :-1] == image[1:, :-1])
        & (image[:-1, :-1] == image[:-1, 1:])
        & (image[:-1, :-1] == image[1:, 1:])
    )
    if not same.any():
        return same
    size = _FLAT_PX - 1  # of the square of comparisons; odd, so that it has a middle
    middles = ndimage.minimum_filter(same, size, mode="constant", cval=False)
    squares = ndimage.maximum_filter(middles, size, mode="constant", cval=False)
    return ndimage.maximum_filter(squares, 2)  # a comparison is of a pixel with the next


def _read(images: Images, date: int, window: tuple[int, int, int, int]) -> np.ndarray:
    """A window of an image, NaN also where it is flat; the same whatever the window."""
    row, col, height, width = window
    rim = _FLAT_PX
    image = images.read(date, row - rim, col - rim, height + 2 * rim, width + 2 * rim)
    flat = _flat(image)[rim:-rim, rim:-rim]
    image = image[rim:-rim, rim:-rim]
    return np.where(flat, np.nan, image) if flat.any() else image


def shared_shift(images: Images) -> tuple[int, int] | None:
    """The whole-pixel shift of a scene: that of its middle, in a large scene of most windows.

    Where the middle shows none (cloud, water, the edge of a swath) or the windows beside it agree
    on another, the shift that most of them show is taken.

    Returns:
      (row, col) px, later minus earlier; None where nothing stands out.
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
        pair = np.stack([_read(images, date, (*corner, *size)) for date in (0, 1)], axis=-1)
        if np.isfinite(pair).all(-1).mean() > 0.1 or len(corners) == 1:
            found.append(clear_shift(pair))
    found = [shift for shift in found if shift is not None]
    if not found:
        return None
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
    found = shared_shift(images) if prealign else (0, 0)
    shift = found or (0, 0)
    whole = _Moments(), _Moments()
    seen = _Moments()  # the later image where the earlier one looks
    common = 0
    for window in blocks(images.shape, BLOCK_PX):
        pair = [_read(images, date, window) for date in (0, 1)]
        for moments, image in zip(whole, pair, strict=True):
            moments.add(image)
        moved = pair[1] if shift == (0, 0) else _moved(images, shift, window)
        seen.add(moved)
        common += int(np.count_nonzero(np.isfinite(pair[0]) & np.isfinite(moved)))
    for date, moments in enumerate(whole):
        if not moments.count or moments.low == moments.high:
            raise ValueError(
                f"The {_DATES[date]} image {_emptiness(images, date)}; there is nothing to match."
                " Check band, file and mask."
            )
    return Scene(
        mean=(float(whole[0].mean), float(whole[1].mean)),
        scatter=(float(whole[0].scatter), float(seen.scatter)),
        shift=shift,
        clear=found is not None,
        common=common,
        faint=any(moments.whole and moments.scatter < _FAINT for moments in whole),
        fill=tuple(moments.fill for moments in whole),
    )


def _emptiness(images: Images, date: int) -> str:
    """What is wrong with an image that holds no ground."""
    raw = _Moments()
    for window in blocks(images.shape, BLOCK_PX):
        raw.add(images.read(date, *window))
    if not raw.count:
        return "holds no valid pixel"
    if raw.low == raw.high:
        return f"is {raw.low:g} everywhere"
    return f"holds nothing but squares of {_FLAT_PX} px and more of one value"


def read_normalised(images: Images, scene: Scene, window: tuple[int, int, int, int]) -> np.ndarray:
    """A window of both images as estimators take it.

    Args:
      images: the pair.
      scene: what `survey` found in it.
      window: (row, col, height, width) in the earlier image; it may reach outside.

    Returns:
      `(height, width, 2)` float32 of zero mean and unit scatter over the scene, the shared shift
      taken out of the later image, NaN where invalid, and where an image is flat.
    """
    pair = [_read(images, 0, window), _moved(images, scene.shift, window)]
    pair = [
        ((image.astype(np.float64) - mean) / (scatter + 1e-12)).astype(np.float32)
        for image, mean, scatter in zip(pair, scene.mean, scene.scatter, strict=True)
    ]
    return np.stack(pair, axis=-1)


def _moved(images: Images, shift: tuple[int, int], window: tuple) -> np.ndarray:
    row, col, height, width = window
    return _read(images, 1, (row + shift[0], col + shift[1], height, width))
