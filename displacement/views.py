"""The same pair looked at from several sides, and the mean of what is seen.

A network is not quite the same for ground turned or mirrored; the mean over the eight sides of a
square is, and part of its error goes with what the sides do not agree on.
"""

from collections.abc import Callable

import numpy as np

VIEWS = 8  # sides of a square: mirrored up-down, left-right, along the diagonal, and together


def _turned(image: np.ndarray, view: int) -> np.ndarray:
    """`(H, W, C)` seen from a side; sides 4 to 7 have its axes exchanged."""
    image = image[::-1] if view & 1 else image
    image = image[:, ::-1] if view & 2 else image
    return image.swapaxes(0, 1) if view & 4 else image


def _turned_back(measured: np.ndarray, view: int) -> np.ndarray:
    """What was measured from a side, `(..., C)`, as `from_sides` says."""
    measured = np.array(measured)
    if view & 4:
        exchanged = [1, 0, 3, 2][: measured.shape[-1] // 2 * 2]
        exchanged += range(len(exchanged), measured.shape[-1])
        measured = measured.swapaxes(0, 1)[..., exchanged]
    if view & 2:
        measured = measured[:, ::-1]
        measured[..., 1] *= -1
    if view & 1:
        measured = measured[::-1]
        measured[..., 0] *= -1
    return measured


def from_sides(
    function: Callable[[np.ndarray], np.ndarray], tile: np.ndarray, *, views: int
) -> np.ndarray:
    """Mean of what is measured from the first `views` sides.

    Args:
      function: measures a tile: `(T, S, 2)` pair to `(T, S, C)`, displacement (row, col), sigma
        likewise if C is 4 or more, and at the end what has no direction if C is odd.
      tile: `(T, S, 2)`.
      views: 1 to 8.
    """
    if views == 1:
        return np.asarray(function(tile))
    seen = [_turned_back(function(_turned(tile, view)), view) for view in range(views)]
    return np.mean(seen, axis=0, dtype=np.float32)
