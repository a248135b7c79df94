"""From what was measured to what is handed on: rejects, ramp, stripes and filters, in windows.

Everything is off unless asked for, works on windows with a rim, and is described for the tags.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from displacement import postprocess
from displacement.areas import Area
from displacement.ramp import ORDERS, Ramp, fit_ramp
from displacement.tiling import padded_window

_LEAST_SPAN = 0.5  # of the rows and of the columns, that stable ground should reach over
_MOST_SAMPLES = 250_000  # pixels that a ramp is fitted to, and of stable ground, which may be
_ENOUGH_SAMPLES = 5_000  # small, if it has them, at least so many
_MOST_STRIPE_LINES = 512  # rows or columns that stripes are found in
_OUTLIER_PX = 9
_NL_PATCH, _NL_DISTANCE = 5, 10

# Reads what was measured: (row, col, height, width) inside the scene to `(h, w, 5)` CHANNELS.
Read = Callable[[int, int, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Finish:
    """What is done with a displacement after it was measured, in this order.

    Attributes:
      max_sigma_px: larger sigma is left out, or None.
      min_quality: lower quality is left out, or None.
      consistency_px: what does not come back within this is left out, or None.
      ramp: a key of `ramp.ORDERS`.
      destripe_deg: direction of stripes to take out, clockwise from north, or None.
      outliers: difference from the median about a pixel that is left out, scatters, or None.
      median_px: size of a median filter, odd, or None.
      nl_means_px: strength of a non-local means filter, or None.
    """

    max_sigma_px: float | None = None
    min_quality: float | None = None
    consistency_px: float | None = None
    ramp: str = "none"
    destripe_deg: float | None = None
    outliers: float | None = None
    median_px: int | None = None
    nl_means_px: float | None = None

    def __post_init__(self):
        """Refuses what cannot be done.

        Raises:
          ValueError: names the flag.
        """
        if self.ramp not in ORDERS:
            raise ValueError(f"--ramp={self.ramp} is unknown. Use one of {', '.join(ORDERS)}.")
        for flag in ("max_sigma_px", "consistency_px", "outliers", "nl_means_px"):
            value = getattr(self, flag)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{flag}={value} must be more than 0. Leave it out for none.")
        for flag in ("min_quality", "destripe_deg"):
            value = getattr(self, flag)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"--{flag}={value} is no number. Leave it out for none.")
        if self.destripe_deg is not None and abs(self.destripe_deg) > 360:
            raise ValueError(f"--destripe_deg={self.destripe_deg:g} must be from -360 to 360.")
        if self.min_quality is not None and self.min_quality > 1:
            raise ValueError(f"--min_quality={self.min_quality} leaves nothing: it is up to 1.")
        if self.median_px is not None and (self.median_px < 3 or self.median_px % 2 == 0):
            raise ValueError(f"--median_px={self.median_px} must be odd and 3 px or more.")

    @property
    def rim(self) -> int:
        """Pixels about a window that the filters look at."""
        rim = 2 * (_OUTLIER_PX // 2) if self.outliers else 0
        rim += self.median_px // 2 if self.median_px else 0
        return rim + (_NL_PATCH // 2 + _NL_DISTANCE + 1 if self.nl_means_px else 0)


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What was found in the scene as a whole: ramp and stripes, or None; what to know of them."""

    ramp: Ramp | None = None
    stripes: postprocess.Stripes | None = None
    notes: tuple[str, ...] = ()

    def tags(self, finish: Finish) -> dict[str, Any]:
        """What was done, for the tags of a file and for the log."""
        asked = {k: v for k, v in dataclasses.asdict(finish).items() if v not in (None, "none")}
        return {
            "RAMP": self.ramp.describe() if self.ramp else "none",
            "POSTPROCESSING": asked or "none",
        }


def find_corrections(
    read: Read,
    shape: tuple[int, int],
    finish: Finish,
    stable: Area | None,
    *,
    pixel_size: tuple[float, float] = (1.0, 1.0),
) -> Corrections:
    """Finds ramp and stripes in a thinned-out scene.

    Args:
      read: gives what was measured.
      shape: (rows, columns) of the scene.
      finish: what is asked for.
      stable: ground that did not move, or None for everywhere.
      pixel_size: width and height of a pixel on the ground, in any unit.

    Raises:
      ValueError: there is too little ground to find them in.
    """
    ramp = stripes = None
    notes = []
    if finish.ramp != "none":
        step = math.ceil(math.sqrt(shape[0] * shape[1] / _MOST_SAMPLES))
        while True:
            rows, cols, values = _sample(read, shape, finish, (step, step), stable)
            known = np.isfinite(values).all(-1)
            if stable is None or step == 1 or np.count_nonzero(known) >= _ENOUGH_SAMPLES:
                break
            step = max(step // 4, 1)
        ramp = fit_ramp(values[known], rows[known], cols[known], order=finish.ramp, shape=shape)
        spans = np.ptp(rows[known]) / shape[0], np.ptp(cols[known]) / shape[1]
        if stable is not None and finish.ramp != "constant" and min(spans) < _LEAST_SPAN:
            notes.append(
                f"The ground that the {finish.ramp} ramp is fitted to spans {spans[0]:.0%} of the"
                f" rows and {spans[1]:.0%} of the columns: beyond it the ramp is a guess. Take"
                " --ramp=constant, or more stable ground."
            )
    if finish.destripe_deg is not None:
        angle = math.radians(finish.destripe_deg)
        width, height = pixel_size
        direction = math.degrees(math.atan2(math.sin(angle) / width, math.cos(angle) / height))
        along_rows = abs(math.sin(math.radians(direction))) > math.sqrt(0.5)
        steps = [math.ceil(n / _MOST_STRIPE_LINES) for n in shape]
        # Every stripe is crossed by the lines that are looked at.
        step = (1, steps[1]) if along_rows else (steps[0], 1)
        rows, cols, values = _sample(read, shape, finish, step, None)
        if ramp is not None:
            values = values - ramp.at(rows, cols)
        stripes = postprocess.find_stripes(values, rows, cols, direction_deg=direction)
    return Corrections(ramp, stripes, tuple(notes))


def _sample(read, shape, finish, step, stable):
    """Rows, columns `(N,)` and displacement `(N, 2)` of every step-th pixel, NaN where rejected.

    With `stable`, of those in it alone.
    """
    rows, cols, values = [], [], []
    across = np.arange(step[1] // 2, shape[1], step[1])
    for row in range(step[0] // 2, shape[0], step[0]):
        measured = read(row, 0, 1, shape[1])[:, across]
        found = np.where(_rejected(measured, finish)[..., None], np.nan, measured[..., :2])[0]
        here = np.ones(len(across), bool)
        if stable is not None:
            here = stable.inside(row, 0, 1, shape[1])[0, across]
        rows.append(np.full(np.count_nonzero(here), row))
        cols.append(across[here])
        values.append(found[here])
    return np.concatenate(rows), np.concatenate(cols), np.concatenate(values)


def _rejected(measured: np.ndarray, finish: Finish) -> np.ndarray:
    rejected = np.zeros(measured.shape[:-1], bool)
    if finish.max_sigma_px is not None:
        rejected |= postprocess.too_uncertain(measured[..., 2:4], finish.max_sigma_px)
    if finish.min_quality is not None:
        rejected |= measured[..., 4] < finish.min_quality
    return rejected


def finished_window(
    read: Read,
    shape: tuple[int, int],
    window: tuple[int, int, int, int],
    finish: Finish,
    corrections: Corrections,
    *,
    backward: Read | None = None,
) -> np.ndarray:
    """A window of the displacement as it is handed on.

    Args:
      read: gives what was measured.
      shape: (rows, columns) of the scene.
      window: (row, col, height, width), inside the scene.
      finish: what is asked for.
      corrections: what `find_corrections` found.
      backward: gives what was measured from the later to the earlier image, on the later one.

    Returns:
      `(height, width, 5)` float32, as `types.CHANNELS`, NaN where not valid.
    """
    row, col, height, width = window
    rim = finish.rim
    around = row - rim, col - rim, height + 2 * rim, width + 2 * rim
    measured = _read_padded(read, shape, around)
    moved = measured[..., :2].copy()
    rejected = _rejected(measured, finish)
    if finish.consistency_px is not None and np.isfinite(moved).any():
        reach = math.ceil(float(np.nanmax(np.abs(moved)))) + 2
        size = [n + 2 * reach for n in moved.shape[:2]]
        further = row - rim - reach, col - rim - reach, *size
        back = _read_padded(backward, shape, further)
        rejected |= postprocess.inconsistent(moved, back[..., :2], finish.consistency_px)
    moved[rejected] = np.nan
    rows, cols = np.indices(moved.shape[:2])
    rows, cols = rows + row - rim, cols + col - rim
    for correction in (corrections.ramp, corrections.stripes):
        if correction is not None:
            moved = moved - correction.at(rows, cols)
    if finish.outliers is not None:
        moved[postprocess.outliers(moved, size=_OUTLIER_PX, largest=finish.outliers)] = np.nan
    if finish.median_px is not None:
        moved = postprocess.median_filter(moved, size=finish.median_px)
    if finish.nl_means_px is not None:
        moved = postprocess.nl_means(
            moved, strength_px=finish.nl_means_px, patch=_NL_PATCH, distance=_NL_DISTANCE
        )
    measured = np.concatenate([moved, measured[..., 2:]], axis=-1)
    measured[~np.isfinite(moved).all(-1)] = np.nan
    return measured[rim : rim + height, rim : rim + width]


def _read_padded(read, shape, window) -> np.ndarray:
    """A window that may reach outside the scene, NaN there."""
    row, col, height, width = window
    top, left = min(max(row, 0), shape[0]), min(max(col, 0), shape[1])
    bottom = max(min(row + height, shape[0]), top)
    right = max(min(col + width, shape[1]), left)
    inside = read(top, left, bottom - top, right - left)
    return padded_window(inside, row - top, col - left, height, width)
