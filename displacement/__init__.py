"""Ground displacement from two optical satellite images, sharp right next to a fault.

`displacement.estimate(earlier, later)` is the instrument; everything else serves it.
"""

import os

import jax

# From jaxlib 0.11 on, FFTs on a CPU wait for each other for ever where as many of them run at once
# as XLA has threads, which are as many as cores: seen with two. It reads their number from here.
if jax.__version_info__ >= (0, 11):
    os.environ.setdefault("NPROC", str(max(8, os.cpu_count() or 1)))

from displacement.estimator import estimate
from displacement.methods import METHODS
from displacement.types import Estimate

__all__ = ["METHODS", "Estimate", "estimate"]
