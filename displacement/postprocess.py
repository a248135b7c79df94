"""What users do with a displacement afterwards, as pure functions; each is off unless asked for.

Arrays are windows of a measurement: displacement `(H, W, 2)` px, (row, col), NaN where not
measured. What is thrown out becomes NaN, and what was not measured is never filled.
"""

import dataclasses
import itertools

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates
from skimage.restoration import denoise_nl_means

_FEWEST_ON_STRIPE = 10  # pixels for a median that says anything


def too_uncertain(sigma: np.ndarray, largest_px: float) -> np.ndarray:
    """Pixels whose sigma `(H, W, 2)` px is above a bound in either component, `(H, W)` bool."""
    return (sigma > largest_px).any(-1)


def outliers(displacement: np.ndarray, *, size: int = 9, largest: float = 4.0) -> np.ndarray:
    """Pixels that differ from the median about them by many times the usual difference.

    Args:
      displacement: `(H, W, 2)` px.
      size: of the square window of the median, odd, px.
      largest: difference that is still taken, in scatters (1.4826 x median absolute difference
        in the window; at least 0.01 px, so that smooth ground is not cut up).

    Returns:
      `(H, W)` bool.
    """
    median = median_filter(displacement, size=size)
    difference = np.abs(displacement - median)
    scatter = 1.4826 * median_filter(difference, size=size)
    return (difference > largest * np.maximum(scatter, 0.01)).any(-1)


def median_filter(displacement: np.ndarray, *, size: int) -> np.ndarray:
    """Median of what was measured in a square window about each measured pixel.

    Args:
      displacement: `(H, W, 2)` px.
      size: of the window, odd, px.

    Raises:
      ValueError: the size is even or less than 3.
    """
    if size < 3 or size % 2 == 0:
        raise ValueError(f"a median filter needs an odd size of 3 px or more, got {size}.")
    reach = size // 2
    padding = ((reach, reach), (reach, reach), (0, 0))
    padded = np.pad(displacement, padding, constant_values=np.nan)
    found = np.full_like(displacement, np.nan)
    for row in range(len(displacement)):  # by rows: memory stays small
        strip = padded[row : row + size]
        windows = np.lib.stride_tricks.sliding_window_view(strip, size, axis=1)
        windows = np.moveaxis(windows, 0, -1).reshape(*windows.shape[1:3], -1)
        ordered = np.sort(windows, axis=-1)  # NaN last
        count = np.isfinite(windows).sum(-1)
        low, high = np.maximum(count - 1, 0) // 2, count // 2
        high = np.minimum(high, size * size - 1)
        middle = [np.take_along_axis(ordered, k[..., None], -1)[..., 0] for k in (low, high)]
        found[row] = (middle[0] + middle[1]) / 2
    found[np.isnan(displacement)] = np.nan
    return found


def nl_means(
    displacement: np.ndarray, *, strength_px: float, patch: int = 5, distance: int = 10
) -> np.ndarray:
    """Mean of pixels whose surroundings look alike: smooth, with sharp steps (Buades et al. 2005).

    Args:
      displacement: `(H, W, 2)` px.
      strength_px: differences between surroundings up to about this are taken for noise.
      patch: size of the surroundings, odd, px.
      distance: how far alike pixels are looked for, px.
    """
    measured = np.isfinite(displacement).all(-1)
    if not measured.any():
        return displacement
    nearest = distance_transform_edt(~measured, return_distances=False, return_indices=True)
    filled = displacement[tuple(nearest)].astype(np.float64)
    centre = filled.mean((0, 1))
    # Both components decide together which pixels are alike.
    smooth = denoise_nl_means(
        filled - centre,
        patch_size=patch,
        patch_distance=distance,
        h=strength_px,
        fast_mode=True,
        channel_axis=-1,
    )
    return np.where(measured[..., None], smooth + centre, np.nan).astype(np.float32)


def inconsistent(forward: np.ndarray, backward: np.ndarray, largest_px: float) -> np.ndarray:
    """Pixels that do not come back: |u(p) + v(p + u(p))| above a bound, or nothing found there.

    Args:
      forward: `(H, W, 2)` px, u: later minus earlier, on the earlier image.
      backward: `(H + 2 r, W + 2 r, 2)` px, v: earlier minus later, on the later image, with a rim
        of r px, NaN outside; r is at least as large as the displacement.
      largest_px: length of the difference that is still taken.

    Returns:
      `(H, W)` bool; not set where `forward` was not measured.
    """
    rim = (backward.shape[0] - forward.shape[0]) // 2
    rows, cols = np.indices(forward.shape[:2], dtype=np.float64)
    measured = np.isfinite(forward).all(-1)
    there = (
        np.stack([rows, cols]) + rim + np.moveaxis(np.where(measured[..., None], forward, 0), -1, 0)
    )
    known = np.isfinite(backward).all(-1)
    values = np.moveaxis(np.where(known[..., None], backward, 0.0), -1, 0)
    # NaN at the corner of a cell must not count where its weight is 0.
    *back, share = (
        map_coordinates(plane, there, order=1, mode="constant", cval=0.0)
        for plane in (*values, known.astype(float))
    )
    gone = np.hypot(*(forward[..., i] + back[i] for i in (0, 1)))
    return measured & ~((gone <= largest_px) & (share > 1.0 - 1e-6))


def stripe_numbers(rows: np.ndarray, cols: np.ndarray, direction_deg: float) -> np.ndarray:
    """Which stripe of 1 px each pixel lies in, by number."""
    angle = np.deg2rad(direction_deg)
    # Across a stripe that runs sin(angle) to the right and cos(angle) up.
    return np.round(cols * np.cos(angle) + rows * np.sin(angle)).astype(int)


@dataclasses.dataclass(frozen=True)
class Stripes:
    """Offsets of stripes of 1 px that run through a scene, as those of a sensor's detectors.

    Attributes:
      direction_deg: in which they run on the grid, clockwise from up (0 is along columns).
      first: number of the first stripe, see `stripe_numbers`.
      offsets: `(S, 2)` px.
    """

    direction_deg: float
    first: int
    offsets: np.ndarray

    def at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """The offset at pixels of the scene, `(..., 2)` px."""
        number = stripe_numbers(rows, cols, self.direction_deg) - self.first
        return self.offsets[np.clip(number, 0, len(self.offsets) - 1)]


def find_stripes(
    displacement: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    *,
    direction_deg: float,
    width: int = 101,
) -> Stripes:
    """Finds a displacement's stripes: the median of each, less the median of its neighbours.

    What is wider than half of `width` stays; only what is narrow is a stripe.

    Args:
      displacement: `(N, 2)` px of a sample of the scene's pixels, NaN where not measured.
      rows: `(N,)` of the pixels in the scene.
      cols: `(N,)`.
      direction_deg: in which stripes run on the grid, clockwise from up (0 is along columns).
      width: of the running median, odd, stripes.
    """
    number = stripe_numbers(rows, cols, direction_deg)
    first = int(number.min())
    medians = np.full((int(number.max()) - first + 1, 2), np.nan)
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange(len(medians) + 1) + first)
    for stripe, (start, end) in enumerate(itertools.pairwise(edges)):
        values = displacement[order[start:end]]
        values = values[np.isfinite(values).all(-1)]
        if len(values) >= _FEWEST_ON_STRIPE:
            medians[stripe] = np.median(values, axis=0)
    known = np.isfinite(medians).all(-1)
    offsets = np.zeros(medians.shape, np.float32)
    for stripe in np.flatnonzero(known):
        near = slice(max(stripe - width // 2, 0), stripe + width // 2 + 1)
        offsets[stripe] = medians[stripe] - np.median(medians[near][known[near]], axis=0)
    return Stripes(direction_deg, first, offsets)
