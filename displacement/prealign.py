"""The whole-pixel shift between two images, taken out before anything finer is measured."""

import functools

import numpy as np
from scipy import fft

LARGEST_PX = 2048  # px; the middle of a larger scene is enough for one shift
_CLEAR_PEAK = 8.0  # standard deviations of the correlation surface
_CLEARER = 0.15  # by so much is a clear peak of correlation above all that is not of it, ...
_PEAK_PX = 3  # ... further away than this


@functools.lru_cache(maxsize=4)
def _taper(shape: tuple[int, int]) -> np.ndarray:
    return np.outer(*(np.hanning(n + 2)[1:-1] for n in shape)).astype(np.float32)


def _prepared(image: np.ndarray) -> np.ndarray:
    """Centred on its mean without the outermost hundredths, tapered, 0 where invalid."""
    valid = np.isfinite(image)
    values = image[valid]
    if not values.size:
        return np.zeros(image.shape, np.float32)
    ends = [int(share * (values.size - 1)) for share in (0.01, 0.99)]
    low, high = np.partition(values, ends)[ends]
    clipped = np.clip(image, low, high)
    mean = clipped[valid].mean(dtype=np.float64)
    return np.where(valid, clipped - mean, 0.0).astype(np.float32) * _taper(image.shape)


def whole_pixel_shift(pair: np.ndarray, *, largest_px: int | None = None) -> tuple[int, int]:
    """The shift of `clear_shift`, (0, 0) where no clear peak stands out."""
    return clear_shift(pair, largest_px=largest_px) or (0, 0)


def clear_shift(pair: np.ndarray, *, largest_px: int | None = None) -> tuple[int, int] | None:
    """Finds the one whole-pixel shift that the images share, by phase correlation.

    Args:
      pair: `(H, W, 2)` earlier and later image, NaN invalid.
      largest_px: a larger shift along either axis is not looked for; None is a quarter of each.

    Returns:
      (row, col) px, later minus earlier; None where no clear peak stands out.
    """
    cut = tuple(
        slice(max((n - LARGEST_PX) // 2, 0), max((n - LARGEST_PX) // 2, 0) + LARGEST_PX)
        for n in pair.shape[:2]
    )
    earlier, later = (_prepared(pair[(*cut, date)]) for date in (0, 1))
    cross = np.conj(fft.rfft2(earlier)) * fft.rfft2(later)
    # Between plain and phase-only correlation: sharp, and not ruled by frequencies of pure noise.
    surface = fft.irfft2(cross / np.sqrt(np.abs(cross) + 1e-20), s=earlier.shape)
    # A shift of more than half the size would come out as its counterpart of the other sign.
    largest = [n // 4 if largest_px is None else largest_px for n in surface.shape]
    reach = [
        min(max(most, 1), (n - 1) // 2) for most, n in zip(largest, surface.shape, strict=True)
    ]
    rows, cols = (np.r_[0 : r + 1, -r:0] for r in reach)
    allowed = surface[np.ix_(rows, cols)]
    if allowed.max() <= allowed.mean() + _CLEAR_PEAK * allowed.std():
        return None
    row, col = np.unravel_index(allowed.argmax(), allowed.shape)
    return int(rows[row]), int(cols[col])


def shift_of_part(part: np.ndarray, around: np.ndarray) -> tuple[int, int] | None:
    """Finds the whole-pixel shift of a part of an image that may be of any shape.

    By zero-normalised cross-correlation of what is known of the part alone (Padfield 2012).

    Args:
      part: `(N, N)` of the earlier image, NaN where it does not count.
      around: `(N + 2 R, N + 2 R)` of the later image, R px more on every side, NaN invalid.

    Returns:
      (row, col) px, later minus earlier, up to R; None where no clear peak stands out.
    """
    known = np.isfinite(part)
    template = np.where(known, part - part[known].mean(), 0.0)
    image = np.nan_to_num(around)
    size = [fft.next_fast_len(n, real=True) for n in image.shape]
    shifts = tuple(slice(n - m + 1) for n, m in zip(image.shape, part.shape, strict=True))

    def correlated(array, other):
        spectrum = fft.rfft2(array, size) * np.conj(fft.rfft2(other, size))
        return fft.irfft2(spectrum, size)[shifts]

    count = np.count_nonzero(known)
    mask = known.astype(float)
    variance = correlated(image**2, mask) - correlated(image, mask) ** 2 / count
    variance = np.maximum(variance, 1e-6 * count) * (template**2).sum()
    likeness = correlated(image, template) / np.sqrt(variance + 1e-20)
    row, col = np.unravel_index(likeness.argmax(), likeness.shape)
    peak = likeness[row, col]
    about = (slice(max(n - _PEAK_PX, 0), n + _PEAK_PX + 1) for n in (row, col))
    likeness[tuple(about)] = -1.0
    if peak < likeness.max() + _CLEARER:
        return None
    reach = [(n - m) // 2 for n, m in zip(around.shape, part.shape, strict=True)]
    return int(row) - reach[0], int(col) - reach[1]


def take_out(later: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Moves the later image back by whole pixels: out(p) = later(p + shift), NaN from outside."""
    out = np.full_like(later, np.nan)
    height, width = later.shape
    target, source = [], []
    for size, step in zip((height, width), shift, strict=True):
        target.append(slice(max(0, -step), max(0, size - max(0, step))))
        source.append(slice(max(0, step), max(0, size + min(0, step))))
    out[tuple(target)] = later[tuple(source)]
    return out
