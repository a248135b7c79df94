"""estimate(earlier, later) -> Estimate: every method behind one function, on arrays of any size."""

import dataclasses
import functools
import warnings
from collections.abc import Container, Iterator
from typing import Any

import numpy as np

from displacement import coarse
from displacement.methods import METHODS, TileFunction, method_of, sure
from displacement.scene import ArrayImages, Images, Scene, read_normalised, survey
from displacement.tiling import Tile, measured_tiles, plan_tiles
from displacement.types import CHANNELS, QUALITY, SIGMA, Estimate

SMALLEST = 32  # px; a smaller image holds no window
_FAINT = (
    "An image has few grey levels (whole numbers that scatter by less than 2), which draw networks"
    " and lk towards whole pixels. ncc and phase stand it; better is an image with more levels."
)


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

    def doubts(self, scene: Scene, shape: tuple[int, int]) -> list[str]:
        """What is to be known of a scene before its result is trusted, one sentence each."""
        faint = [_FAINT] if scene.faint and not METHODS[self.method].steady else []
        return faint + scene.doubts(shape)

    def check(self, shape: tuple[int, int]) -> None:
        """Refuses images that the windows do not fit into.

        Raises:
          ValueError: names both sizes.
        """
        for name in METHODS[self.method].windows:
            size = self.details[name]
            if size > min(shape):
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
    chosen = METHODS[method]
    options = {name: value for name, value in options.items() if value is not None}
    if unknown := options.keys() - chosen.options:
        raise ValueError(
            f"Method {method!r} has no option {', '.join(sorted(unknown))}, only"
            f" {', '.join(sorted(chosen.options))}; leave it out, or choose another method."
        )
    if chosen.networks:
        function, details = chosen.make(weights or method, options)
        method = method_of(details["network"])  # whatever the weights were asked for as
        chosen = METHODS[method]
        if prealign:  # correlators have a search of their own
            function = functools.partial(coarse.in_layers, function, reach=chosen.reach_px)
        function = functools.partial(sure, function)
    elif weights is None:
        function, details = chosen.make(options)
    else:
        raise ValueError(f"Method {method!r} takes no weights; leave them out.")
    return Instrument(method, function, chosen.tiles(details), details, prealign, chosen.at_once)


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
      **options: of the networks: views, from 1 to 8 sides from which the pair is looked at (8
        take a little off the error, and as many times as long). Of the correlators: window [px];
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
    for doubt in instrument.doubts(scene, images.shape):
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
    says = METHODS[method].says
    return Estimate(
        displacement=measured[..., :2],
        sigma=measured[..., 2:4] if says >= SIGMA else None,
        valid=np.isfinite(measured[..., :2]).all(-1),
        method=method,
        details=details,
        quality=measured[..., 4] if says >= QUALITY else None,
    )
