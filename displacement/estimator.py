"""estimate(earlier, later) -> Estimate: every method behind one function, on arrays of any size."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from displacement import checkpoint, coarse
from displacement.correlators.lk import lk
from displacement.correlators.ncc import ncc
from displacement.correlators.phase import phase
from displacement.prealign import take_out, whole_pixel_shift
from displacement.tiling import ALIGNMENT, map_tiles
from displacement.types import Estimate

SMALLEST = 32  # px; a smaller image holds no window

# Measures a tile: `(T, S, 2)` pair to `(T, S, C)`: displacement (2), then sigma (2) or nothing.
TileFunction = Callable[[np.ndarray], np.ndarray]


def _tiles(reach: int, step: int = 1) -> dict[str, int]:
    """Margin that holds `reach`, and a tile such that the nodes of all are those of the whole."""
    margin = ALIGNMENT * math.ceil(reach / ALIGNMENT)
    unit = math.lcm(ALIGNMENT, step)
    return {"tile": unit * math.ceil(192 / unit) + 2 * margin, "margin": margin}


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: nn.Module, params: Any, tile: jax.Array) -> jax.Array:
    """One tile through a network; compiled once for a network and a shape."""
    displacement, log_scale = model.apply({"params": params}, tile[None])
    if log_scale is None:
        return displacement[0]
    # The scale is that of a Laplace distribution: its standard deviation is sqrt(2) b.
    sigma = math.sqrt(2.0) * jnp.exp(log_scale)
    return jnp.concatenate([displacement, sigma], axis=-1)[0]


def _network(weights: str | None, shipped: str, options: dict) -> tuple[TileFunction, dict, dict]:
    if options := {k: v for k, v in options.items() if v is not None}:
        raise ValueError(
            f"Method {shipped!r} has no option {sorted(options)}; leave it out, or choose a "
            "correlator."
        )
    model, params, details = checkpoint.load_weights(weights or shipped)
    # The margin holds the widest window, its neighbours and what the trunk looks at beyond them.
    return functools.partial(_apply, model, params), {"tile": 384, "margin": 64}, details


_OPTIONS = {
    ncc: {"window", "step", "search", "regularisation"},
    phase: {"window", "step", "coarse"},
    lk: {"window"},
}
_REGULARISED_REACH = 32  # px; ground further away matters by 0.003 px on average


def _correlator(correlate, weights, shipped, options):
    if weights is not None:
        raise ValueError(f"Method {shipped!r} takes no weights; leave them out.")
    allowed = _OPTIONS[correlate]
    options = {k: v for k, v in options.items() if v is not None}
    if unknown := set(options) - allowed:
        raise ValueError(f"Method {shipped!r} has no option {sorted(unknown)}; it has {allowed}.")
    defaults = {k: v for k, v in correlate.__wrapped__.__kwdefaults__.items() if k in allowed}
    settings = defaults | options
    step = settings.get("step", 1)
    if step < 1:
        raise ValueError(f"step={step} must be 1 px or more.")

    def function(tile):
        displacement, _ = correlate(jnp.asarray(tile), **settings)
        return displacement

    # The window, the largest shift, a node further; where the images are normalised, 36 px.
    window, coarse = settings["window"], settings.get("coarse", 0)
    if correlate is phase:
        largest = window // 4 + coarse // 4 + 36
    else:
        largest = settings.get("search", 4) + 36
    window = max(window, coarse) // 2 if correlate is not lk else window
    coupled = _REGULARISED_REACH if settings.get("regularisation") else 0
    return function, _tiles(window + largest + step + coupled, step), settings


# name: how to make the function that measures a tile, the tiles it needs, and what to say about it.
METHODS: dict[str, Callable[[str | None, str, dict], tuple[TileFunction, dict, dict]]] = {
    "cnn": _network,
    "patch": _network,
    "phase": functools.partial(_correlator, phase),
    "ncc": functools.partial(_correlator, ncc),
    "lk": functools.partial(_correlator, lk),
}


def _as_image(array: Any, name: str) -> np.ndarray:
    array = np.asanyarray(array)
    if array.ndim != 2:
        raise ValueError(
            f"The {name} image has shape {array.shape}; give one band as an (H, W) array."
        )
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"The {name} image is of type {array.dtype}; give real numbers, "
            "of complex data the amplitude."
        )
    if min(array.shape) < SMALLEST:
        raise ValueError(
            f"The {name} image is {array.shape[0]} x {array.shape[1]} px; "
            f"at least {SMALLEST} x {SMALLEST} are needed."
        )
    # Centre in double precision: large counts lose their contrast in single.
    image = np.ma.filled(array.astype(np.float64), np.nan)
    image[~np.isfinite(image)] = np.nan
    finite = image[np.isfinite(image)]
    if not finite.size or finite.min() == finite.max():
        what = "holds no valid pixel" if not finite.size else f"is {finite[0]:g} everywhere"
        raise ValueError(
            f"The {name} image {what}; there is nothing to match. Check band and file."
        )
    return (image - finite.mean()).astype(np.float32)


def estimate(
    earlier: Any,
    later: Any,
    *,
    method: str = "cnn",
    weights: str | None = None,
    prealign: bool = True,
    progress: bool = False,
    **options: Any,
) -> Estimate:
    """Measures how far the ground moved at every pixel of the earlier image.

    Args:
      earlier: `(H, W)` image of any real type, 32 x 32 px or larger; NaN and what is
        masked are invalid.
      later: `(H, W)` image on the same grid.
      method: "cnn" (default), "patch", "phase", "ncc" or "lk"; see `METHODS`.
      weights: for the networks, a shipped name, run directory, checkpoint or folder of weights.
      prealign: whether to take out whole-pixel shifts beforehand, the one that the images share
        and, for networks, those of parts of them; they are counted into the result.
      progress: whether to show a progress bar.
      **options: of the correlators: window [px]; step [px], but for "lk"; for "ncc" search [px]
        and regularisation (0 is none; 4 suits windows of 5 to 9 px); for "phase" coarse [px], of
        a larger window that says where to look.

    Returns:
      The displacement [px], (row, col), later minus earlier, on the earlier grid.

    Raises:
      ValueError: unlike shapes, no real numbers, an image that is constant or too small, an
        unknown method or option.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose one of {sorted(METHODS)}.")
    earlier, later = _as_image(earlier, "earlier"), _as_image(later, "later")
    if earlier.shape != later.shape:
        raise ValueError(
            f"The images differ in shape, {earlier.shape} and {later.shape}; "
            "cut or resample them to one grid first."
        )
    function, tiles, details = METHODS[method](weights, method, options)
    pair = np.stack([earlier, later], axis=-1)
    shift = whole_pixel_shift(pair) if prealign else (0, 0)
    if shift != (0, 0):
        pair[..., 1] = take_out(later, shift)
    pair /= np.nanstd(pair, axis=(0, 1), keepdims=True) + 1e-12
    if prealign and METHODS[method] is _network:  # correlators have a search of their own
        function = functools.partial(coarse.in_layers, function)
    measured = map_tiles(function, pair, **tiles, progress=progress)
    displacement = measured[..., :2] + np.asarray(shift, np.float32)
    valid = np.isfinite(pair).all(-1) & np.isfinite(displacement).all(-1)
    displacement[~valid] = np.nan
    sigma = measured[..., 2:4] if measured.shape[-1] > 2 else None
    if sigma is not None:
        sigma[~valid] = np.nan
    return Estimate(
        displacement=displacement,
        sigma=sigma,
        valid=valid,
        method=method,
        details=details | {"prealign_px": list(shift)},
    )
