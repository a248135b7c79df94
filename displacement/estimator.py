"""estimate(earlier, later) -> Estimate: every method behind one function, on arrays of any size."""

import dataclasses
import functools
import math
import operator
import warnings
from collections.abc import Callable, Container, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from displacement import checkpoint, coarse, losses
from displacement.agreement import unrelated
from displacement.correlators.lk import lk
from displacement.correlators.ncc import ncc
from displacement.correlators.phase import phase
from displacement.models import MODELS
from displacement.scene import ArrayImages, Images, Scene, read_normalised, survey
from displacement.tiling import ALIGNMENT, Tile, measured_tiles, plan_tiles
from displacement.types import Estimate
from displacement.views import VIEWS, from_sides

SMALLEST = 32  # px; a smaller image holds no window
LARGEST_SIGMA_PX = 0.7  # where a network is less sure than this, nothing was measured
# px, of networks; few, because each is compiled, and kept for the next. The quick one needs less
# memory for a pixel.
_NETWORK_TILES = {"tile": (640, 768), "margin": 64}
_QUICK_TILES = {"tile": (640, 768, 896), "margin": 64}
KEPT_PX = 384  # of a tile of a correlator, at least: less would be mostly rim

_STEADY = ("ncc", "phase")  # where there are few grey levels
_FAINT = (
    "An image has few grey levels (whole numbers that scatter by less than 2), which draw networks"
    " and lk towards whole pixels. ncc and phase stand it; better is an image with more levels."
)

# What is measured at a pixel, in pixels but for the quality; NaN where the method does not say.
CHANNELS = ("row", "col", "sigma_row", "sigma_col", "quality")

# Measures a tile: `(T, S, 2)` pair to `(T, S, C)`, the first two to all five of `CHANNELS`.
TileFunction = Callable[[np.ndarray], np.ndarray]


def _tiles(reach: int, step: int = 1) -> dict[str, int]:
    """Margin that holds `reach`, and a tile such that the nodes of all are those of the whole."""
    margin = ALIGNMENT * math.ceil(reach / ALIGNMENT)
    unit = math.lcm(ALIGNMENT, step)
    return {"tile": unit * math.ceil(KEPT_PX / unit) + 2 * margin, "margin": margin}


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number.") from None


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: nn.Module, params: Any, factor: float, tile: jax.Array) -> jax.Array:
    """One tile through a network; compiled once for a network and a shape.

    Returns:
      displacement, its sigma if the network has one, and 1 where the dates do not agree under it.
    """
    displacement, log_scale = model.apply({"params": params}, tile[None])
    found = [displacement[0]]
    if log_scale is not None:
        found.append(factor * losses.sigma(log_scale[0]))
    found.append(unrelated(tile, displacement[0])[..., None])
    return jnp.concatenate(found, axis=-1)


def _network(weights: str | None, shipped: str, options: dict) -> tuple[TileFunction, dict, dict]:
    options = {k: v for k, v in options.items() if v is not None}
    if unknown := set(options) - {"views"}:
        raise ValueError(
            f"Method {shipped!r} has no option {sorted(unknown)}, only ['views']; leave it out, or "
            "choose a correlator."
        )
    views = _whole("views", options.get("views", 1))
    if not 1 <= views <= VIEWS:
        raise ValueError(f"views={views} must be from 1 to {VIEWS}, the sides of a square.")
    model, params, details = checkpoint.load_weights(weights or shipped)
    network = next(name for name, kind in MODELS.items() if type(model) is kind)
    details |= {"network": network}
    apply = functools.partial(_apply, model, params, details.get("sigma_factor", 1.0))

    def function(tile):
        seen = from_sides(apply, tile, views=views)
        values, disagree = np.array(seen[..., :-1]), seen[..., -1] > 0.5
        values[disagree | (values[..., 2:] > LARGEST_SIGMA_PX).any(-1)] = np.nan
        return values

    # The margin holds the widest window, its neighbours and what the trunk looks at beyond them.
    return function, _QUICK_TILES if network == "cells" else _NETWORK_TILES, details | options


_OPTIONS = {
    ncc: {"window", "step", "search", "regularisation"},
    phase: {"window", "step", "coarse"},
    lk: {"window"},
}
_ANY_PAIR = jax.ShapeDtypeStruct((KEPT_PX, KEPT_PX, 2), np.float32)
_REGULARISED_REACH = 32  # px; ground further away matters by 0.003 px on average


def _correlator(correlate, weights, shipped, options):
    if weights is not None:
        raise ValueError(f"Method {shipped!r} takes no weights; leave them out.")
    allowed = _OPTIONS[correlate]
    options = {k: v for k, v in options.items() if v is not None}
    if unknown := set(options) - allowed:
        raise ValueError(
            f"Method {shipped!r} has no option {sorted(unknown)}, only {sorted(allowed)}; leave it "
            "out, or choose another method."
        )
    defaults = {k: v for k, v in correlate.__wrapped__.__kwdefaults__.items() if k in allowed}
    settings = defaults | options
    settings |= {k: _whole(k, v) for k, v in settings.items() if k != "regularisation"}
    step = settings.get("step", 1)
    if not 1 <= step <= max(settings["window"], 1):
        raise ValueError(
            f"step={step} must be from 1 px to the window, {settings['window']} px: between nodes"
            " further apart nothing is measured."
        )
    strength = settings.get("regularisation", 0)
    if isinstance(strength, bool) or not isinstance(strength, int | float):
        raise ValueError(f"regularisation={strength!r} must be a number; 4 suits small windows.")

    def function(tile):
        displacement, quality = correlate(jnp.asarray(tile), **settings)
        unknown = jnp.full_like(displacement, jnp.nan)
        return jnp.concatenate([displacement, unknown, quality[..., None]], axis=-1)

    # A window or step that it does not take is told now, not when all is read.
    jax.eval_shape(functools.partial(correlate, **settings), _ANY_PAIR)

    # The window, the largest shift, a node further; where the images are normalised, 36 px.
    window, coarse = settings["window"], settings.get("coarse", 0)
    if correlate is phase:
        largest = window // 4 + coarse // 4 + 36
    else:
        largest = settings.get("search", 4) + 36
    window = max(window, coarse) // 2 if correlate is not lk else window
    coupled = _REGULARISED_REACH if settings.get("regularisation") else 0
    return function, _tiles(window + largest + step + coupled, step), settings


_SIGMA = {"sigma_row", "sigma_col"}
SAYS = {"cnn": _SIGMA, "quick": _SIGMA, "patch": set()}  # of its error; correlators a quality
NETWORKS = tuple(SAYS)
_METHOD_OF = {"patch": "patch", "cells": "quick"}  # of networks; others are `cnn`

# name: how to make the function that measures a tile, the tiles it needs, and what to say about it.
METHODS: dict[str, Callable[[str | None, str, dict], tuple[TileFunction, dict, dict]]] = {
    **dict.fromkeys(NETWORKS, _network),
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
    # In double precision, until it is centred: large counts lose their contrast in single.
    image = np.ma.filled(array.astype(np.float64), np.nan)
    image[~np.isfinite(image)] = np.nan
    return image


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A method, ready to measure tiles.

    Attributes:
      method: a key of `METHODS`.
      function: measures a tile, see `TileFunction`.
      tiles: {"tile": ..., "margin": ...}, px, as `tiling.plan_tiles` takes them.
      details: what is to be known about the method, small and JSON-able.
      prealign: whether whole-pixel shifts are taken out.
      at_once: tiles that are measured at a time on a CPU: one computes where another waits.
    """

    method: str
    function: TileFunction
    tiles: dict[str, Any]
    details: dict[str, Any]
    prealign: bool
    at_once: int = 1

    def doubts(self, scene: Scene) -> list[str]:
        """What is to be known of a scene before its result is trusted, one sentence each."""
        return [_FAINT] if scene.faint and self.method not in _STEADY else []

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses images that the windows do not fit into.

        Raises:
          ValueError: names both sizes.
        """
        for name in ("window", "coarse"):
            size = self.details.get(name, 0)
            if self.method in ("phase", "ncc") and size > min(shape):
                raise ValueError(
                    f"{name}={size} px is larger than the images, {shape[0]} x {shape[1]} px. Take"
                    " a smaller one."
                )


def create_instrument(
    method: str, *, weights: str | None = None, prealign: bool = True, **options: Any
) -> Instrument:
    """Makes the instrument that a method, weights and options name; see `estimate`."""
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}; choose one of {sorted(METHODS)}.")
    function, tiles, details = METHODS[method](weights, method, options)
    if method in NETWORKS:  # whatever the weights were asked for as
        method = _METHOD_OF.get(details["network"], "cnn")
    if prealign and method in NETWORKS:  # correlators have a search of their own
        reach = 1 if method == "patch" else coarse.REACH_PX
        function = functools.partial(coarse.in_layers, function, reach=reach)
    at_once = 2 if method == "quick" else 1  # the memory is there
    return Instrument(method, function, tiles, details, prealign, at_once)


def measure_tiles(
    instrument: Instrument,
    images: Images,
    scene: Scene,
    *,
    skip: Container[int] = (),
    progress: bool = False,
) -> Iterator[tuple[int, Tile, np.ndarray]]:
    """Measures two images of any size tile by tile; memory is bounded by the tile.

    Args:
      instrument: that measures.
      images: the pair.
      scene: what `survey` found in it.
      skip: numbers of tiles that need not be measured.
      progress: whether to show a bar with the time left.

    Yields:
      The tile's number and place, and what was measured on its kept part: `(height, width, 5)`
      float32, see `CHANNELS`, NaN where not valid. The kept parts cover the image once.
    """
    plan = dict(enumerate(plan_tiles(images.shape, **instrument.tiles)))
    todo = {number: tile for number, tile in plan.items() if number not in skip}

    def read(*window):
        return read_normalised(images, scene, window)

    def function(pair):
        values = np.array(instrument.function(pair), np.float32)
        values[..., :2] += np.asarray(scene.shift, np.float32)
        invalid = ~(np.isfinite(pair).all(-1) & np.isfinite(values[..., :2]).all(-1))
        values[invalid] = np.nan
        missing = len(CHANNELS) - values.shape[-1]
        return np.pad(values, ((0, 0), (0, 0), (0, missing)), constant_values=np.nan)

    measured = measured_tiles(
        function,
        read,
        todo.values(),
        at_once=instrument.at_once,
        progress=progress,
        before=len(plan) - len(todo),
    )
    for number, (tile, values) in zip(todo, measured, strict=True):
        yield number, tile, values


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
      method: "cnn" (default), "quick", "patch", "phase", "ncc" or "lk"; see `METHODS`.
      weights: for the networks, a shipped name, run directory, checkpoint or folder of weights.
      prealign: whether to take out whole-pixel shifts beforehand, the one that the images share
        and, for networks, those of parts of them; they are counted into the result.
      progress: whether to show a progress bar.
      **options: of the networks: views, from 1 to 8 sides from which the pair is looked at (8 is
        the most accurate and takes as many times as long). Of the correlators: window [px];
        step [px], but for "lk"; for "ncc" search [px] and regularisation (0 is none; 4 suits
        windows of 5 to 9 px); for "phase" coarse [px], of a larger window that says where to look.

    Returns:
      The displacement [px], (row, col), later minus earlier, on the earlier grid.

    Raises:
      ValueError: unlike shapes, no real numbers, an image that is constant or too small, an
        unknown method or option.
    """
    instrument = create_instrument(method, weights=weights, prealign=prealign, **options)
    return measure(instrument, earlier, later, progress=progress)


def measure(
    instrument: Instrument, earlier: Any, later: Any, *, progress: bool = False
) -> Estimate:
    """`estimate` with an instrument at hand, for many pairs: its weights are read once."""
    images = ArrayImages(_as_image(earlier, "earlier"), _as_image(later, "later"))
    if images.earlier.shape != images.later.shape:
        raise ValueError(
            f"The images differ in shape, {images.earlier.shape} and {images.later.shape}; "
            "cut or resample them to one grid first."
        )
    instrument.check(images.shape)
    scene = survey(images, prealign=instrument.prealign)
    for doubt in instrument.doubts(scene):
        warnings.warn(doubt, stacklevel=3)
    if not scene.common:
        warnings.warn("No pixel is valid in both images: nothing is measured.", stacklevel=3)
    measured = np.empty((*images.shape, len(CHANNELS)), np.float32)
    for _, tile, values in measure_tiles(instrument, images, scene, progress=progress):
        row, col = tile.first
        measured[row : row + tile.kept[0], col : col + tile.kept[1]] = values
    return as_estimate(
        measured, instrument.method, instrument.details | {"prealign_px": list(scene.shift)}
    )


def as_estimate(measured: np.ndarray, method: str, details: dict[str, Any]) -> Estimate:
    """Sorts an `(H, W, 5)` array of `CHANNELS` into an Estimate."""
    sigma, quality = measured[..., 2:4], measured[..., 4]
    return Estimate(
        displacement=measured[..., :2],
        sigma=sigma if SAYS.get(method, set()) >= _SIGMA else None,
        valid=np.isfinite(measured[..., :2]).all(-1),
        method=method,
        details=details,
        quality=quality if np.isfinite(quality).any() else None,
    )
