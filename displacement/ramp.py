"""Low-order surfaces in a displacement: what is left of orbit and attitude, found and taken out.

A surface is a polynomial of x and y, which run from -1 to 1 across the scene, east and down. It
is fitted robustly, so that a minority of moved ground does not pull it; where most of the ground
moved, only stable ground can tell.
"""

import dataclasses
import itertools

import numpy as np

ORDERS = {"none": -1, "constant": 0, "linear": 1, "quadratic": 2}
_FEWEST = 50  # pixels that a surface may be fitted to
_TRIALS, _LOOKED_AT, _REFITS = 500, 5000, 10


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A polynomial surface for each component of a displacement.

    Attributes:
      order: a key of `ORDERS`.
      shape: (rows, columns) of the scene.
      coefficients: `(terms, 2)` px, (row, col), in the order of `terms`.
    """

    order: str
    shape: tuple[int, int]
    coefficients: np.ndarray

    def at(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        """The surface at pixels of the scene, `(..., 2)` px."""
        return (_design(self.order, self.shape, rows, cols) @ self.coefficients).astype(np.float32)

    def describe(self) -> dict[str, object]:
        """What can be written down: order, terms and coefficients in pixels."""
        return {
            "order": self.order,
            "terms": ["".join(["x" * i, "y" * j]) or "1" for i, j in terms(self.order)],
            "x": "2 column / (columns - 1) - 1",
            "y": "2 row / (rows - 1) - 1",
            "row_px": [float(c) for c in self.coefficients[:, 0]],
            "col_px": [float(c) for c in self.coefficients[:, 1]],
        }


def terms(order: str) -> list[tuple[int, int]]:
    """Powers of x and of y of each term."""
    most = ORDERS[order]
    powers = itertools.product(range(most + 1), repeat=2)
    return sorted(((i, j) for i, j in powers if i + j <= most), key=lambda p: (sum(p), p[1]))


def _design(order, shape, rows, cols) -> np.ndarray:
    y, x = (
        2.0 * np.asarray(places) / max(size - 1, 1) - 1.0
        for places, size in zip((rows, cols), shape, strict=True)
    )
    return np.stack([x**i * y**j for i, j in terms(order)], axis=-1)


def fit_ramp(
    displacement: np.ndarray,
    rows: np.ndarray,
    cols: np.ndarray,
    *,
    order: str,
    shape: tuple[int, int],
) -> Ramp:
    """Fits a surface to pixels of a displacement, robustly.

    Args:
      displacement: `(N, 2)` px, (row, col), finite.
      rows: `(N,)`, of the pixels in the scene.
      cols: `(N,)`.
      order: "constant", "linear" or "quadratic".
      shape: (rows, columns) of the scene.

    Raises:
      ValueError: an unknown order, or too few pixels.
    """
    if ORDERS.get(order, -1) < 0:
        raise ValueError(f"order={order!r} is unknown. Use constant, linear or quadratic.")
    if len(displacement) < _FEWEST:
        raise ValueError(
            f"only {len(displacement)} pixels to fit a {order} ramp to, at least {_FEWEST} are"
            " needed. Is there stable ground that was measured?"
        )
    design = _design(order, shape, rows, cols)
    coefficients = []
    for values in displacement.T.astype(np.float64):
        start = _consensus(design, values)
        for _ in range(_REFITS):  # least squares on what is not far off, until that settles
            rest = np.abs(values - design @ start)
            near = rest <= 3.0 * (1.4826 * np.median(rest) + 1e-6)
            start = np.linalg.lstsq(design[near], values[near])[0]
        coefficients.append(start)
    return Ramp(order, shape, np.stack(coefficients, axis=-1))


def _consensus(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The surface through a few pixels that most others are nearest to (least median of squares).

    It stands though nearly half of the ground moved as one, which pulls any fit to all of it.
    """
    rng = np.random.default_rng(0)
    look = rng.choice(len(values), min(len(values), _LOOKED_AT), replace=False)
    few = design.shape[1] + 2
    best, least = None, np.inf
    for _ in range(_TRIALS):
        drawn = rng.choice(len(values), few, replace=False)
        trial = np.linalg.lstsq(design[drawn], values[drawn])[0]
        misfit = np.median(np.abs(values[look] - design[look] @ trial))
        if misfit < least:
            best, least = trial, misfit
    return best
