"""Low-order surfaces in a displacement: what is left of orbit and attitude, found and taken out.

A surface is a polynomial of x and y, which run from -1 to 1 across the scene, east and down. It
is fitted robustly, so that a minority of moved ground does not pull it; where most of the ground
moved, only stable ground can tell.
"""

import dataclasses
import itertools

import numpy as np
from scipy.optimize import least_squares

ORDERS = {"none": -1, "constant": 0, "linear": 1, "quadratic": 2}
_FEWEST = 50  # pixels that a surface may be fitted to


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
        centre = np.median(values)
        start = np.zeros(design.shape[1])
        start[0] = centre
        # Cauchy's loss, in units of the scatter: pixels that moved count less the more they did.
        for _ in range(3):
            rest = values - design @ start
            scatter = 1.4826 * np.median(np.abs(rest - np.median(rest))) + 1e-6
            start = least_squares(
                lambda c, values=values: design @ c - values,
                start,
                jac=lambda _: design,
                loss="cauchy",
                f_scale=scatter,
            ).x
        coefficients.append(start)
    return Ramp(order, shape, np.stack(coefficients, axis=-1))
