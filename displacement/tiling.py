"""Runs an estimator over an image of any size in overlapping tiles of one shape.

One shape means one compilation and bounded memory. Tiles start at multiples of `ALIGNMENT`, so a
network with pooling, or a correlator on a grid of nodes, sees each pixel as it would in the whole
image; the overlap is thrown away, so nothing has to be blended and no seam can show.
"""

import math
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

ALIGNMENT = 16


def _starts(size: int, tile: int, margin: int) -> list[int]:
    """First pixels of the tiles along an axis; each keeps its middle, the outer ones their rim."""
    step = tile - 2 * margin
    return list(range(0, max(size - 2 * margin, 1), step))


def map_tiles(
    function: Callable[[np.ndarray], np.ndarray],
    pair: np.ndarray,
    *,
    tile: int = 256,
    margin: int = 48,
    progress: bool = False,
) -> np.ndarray:
    """Applies `function` tile by tile.

    Args:
      function: `(T, S, 2)` pair, NaN invalid, to `(T, S, C)`; T and S are multiples of 16.
      pair: `(H, W, 2)`.
      tile: height and width of a tile, a multiple of 16, more than twice the margin.
      margin: rim of a tile that is thrown away, a multiple of 16.
      progress: whether to show a progress bar.

    Returns:
      `(H, W, C)` float32.
    """
    if tile % ALIGNMENT or margin % ALIGNMENT or tile <= 2 * margin:
        raise ValueError(
            f"tile={tile} and margin={margin} must be multiples of {ALIGNMENT}, "
            "the tile more than two margins."
        )
    height, width = pair.shape[:2]
    shape = [min(tile, ALIGNMENT * math.ceil(n / ALIGNMENT)) for n in (height, width)]
    corners = [
        (row, col)
        for row in _starts(height, shape[0], margin if shape[0] == tile else 0)
        for col in _starts(width, shape[1], margin if shape[1] == tile else 0)
    ]
    result = None
    for row, col in tqdm(corners, unit="tile", disable=not progress, dynamic_ncols=True):
        cut = pair[row : row + shape[0], col : col + shape[1]]
        padding = [(0, shape[0] - cut.shape[0]), (0, shape[1] - cut.shape[1]), (0, 0)]
        values = np.asarray(function(np.pad(cut, padding, constant_values=np.nan)))
        if result is None:
            result = np.full((height, width, values.shape[-1]), np.nan, np.float32)
        top, left = (margin if start else 0 for start in (row, col))
        keep = values[top : cut.shape[0], left : cut.shape[1]]
        result[row + top : row + cut.shape[0], col + left : col + cut.shape[1]] = keep
    return result
