"""The containers that travel through the instrument, with their shapes, units and signs."""

import dataclasses
from typing import Any

import numpy as np

# What is measured at a pixel, in pixels but for the quality; NaN where the method does not say.
CHANNELS = ("row", "col", "sigma_row", "sigma_col", "quality")
SIGMA = frozenset(("sigma_row", "sigma_col"))
QUALITY = frozenset(("quality",))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How far the ground moved at every pixel of the earlier image.

    Attributes:
      displacement: `(H, W, 2)` float32, pixels, (row, col), later minus earlier position of the
        ground that the earlier image shows at that pixel; NaN where not valid.
      sigma: `(H, W, 2)` float32, pixels, one standard deviation per component, or None where the
        method has none; NaN where not valid.
      valid: `(H, W)` bool, where the displacement was measured.
      method: name of the estimator, a key of `displacement.METHODS`.
      details: what was done, small and JSON-able: weights, window, whole pixels taken out.
      quality: `(H, W)` float32, of correlators how well the windows match, 1 is perfect; None
        where the method has none.
    """

    displacement: np.ndarray
    sigma: np.ndarray | None
    valid: np.ndarray
    method: str
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    quality: np.ndarray | None = None
