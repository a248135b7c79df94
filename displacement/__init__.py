"""Ground displacement from two optical satellite images, sharp right next to a fault.

`displacement.estimate(earlier, later)` is the instrument; everything else serves it.
"""

from displacement.estimator import METHODS, estimate
from displacement.types import Estimate

__all__ = ["METHODS", "Estimate", "estimate"]
