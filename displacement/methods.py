"""The methods: how each is made, and what sets it apart. One table, `METHODS`."""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from displacement import checkpoint, coarse, losses
from displacement.agreement import UNRELATED, disagreement
from displacement.correlators.lk import lk
from displacement.correlators.ncc import ncc
from displacement.correlators.phase import phase
from displacement.models import MODELS
from displacement.tiling import ALIGNMENT
from displacement.types import QUALITY, SIGMA
from displacement.views import VIEWS, from_sides

LARGEST_SIGMA_PX = 0.7  # where a network is less sure than this, nothing was measured
KEPT_PX = 384  # of a tile of a correlator, at least: less would be mostly rim
# px, of networks; few, because each is compiled, and kept for the next. The quick one needs less
# memory for a pixel. The margin holds the widest window, its neighbours and what the trunk looks at
# beyond them.
_NETWORK_TILES = {"tile": (640, 768), "margin": 64}
_QUICK_TILES = {"tile": (640, 768, 896), "margin": 64}

# Measures a tile: `(T, S, 2)` pair to `(T, S, C)`, the first two to all five of `CHANNELS`.
TileFunction = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Method:
    """What sets a method apart.

    Attributes:
      make: of the options given, and for networks before them the weights, makes the function that
        measures a tile (of networks, with how badly the dates agree last), and what is to be known
        about it, small and JSON-able.
      options: the names of those that there are.
      says: of `CHANNELS`, what it gives beside the displacement.
      tiles: of the details, the tiles that it needs, as `tiling.plan_tiles` takes them.
      networks: of `MODELS`, those that are measured as it; a correlator has none.
      reach_px: of a network, from the whole pixels that it is given; correlators search themselves.
      at_once: tiles that are measured at a time on a CPU: one computes where another waits.
      windows: of the options, those that have to fit into the image.
      steady: whether it stands few grey levels.
    """

    make: Callable[..., tuple[TileFunction, dict[str, Any]]]
    options: frozenset[str]
    says: frozenset[str]
    tiles: Callable[[dict[str, Any]], dict[str, Any]]
    networks: tuple[str, ...] = ()
    reach_px: int = 0
    at_once: int = 1
    windows: tuple[str, ...] = ()
    steady: bool = False


def _whole(name: str, value: Any) -> int:
    """A whole number.

    Raises:
      ValueError: it is none; names the option.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number.") from None


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: nn.Module, params: Any, factor: float, tile: jax.Array) -> jax.Array:
    """One tile through a network; compiled once for a network and a shape.

    Returns:
      displacement, its sigma if the network has one, and how badly the dates agree under it.
    """
    displacement, log_scale = model.apply({"params": params}, tile[None])
    found = [displacement[0]]
    if log_scale is not None:
        found.append(factor * losses.sigma(log_scale[0]))
    found.append(disagreement(tile, displacement[0])[..., None])
    return jnp.concatenate(found, axis=-1)


def _network(weights: str, options: dict[str, Any]) -> tuple[TileFunction, dict[str, Any]]:
    views = _whole("views", options.get("views", 1))
    if not 1 <= views <= VIEWS:
        raise ValueError(f"views={views} must be from 1 to {VIEWS}, the sides of a square.")
    model, params, details = checkpoint.load_weights(weights)
    network = next(name for name, kind in MODELS.items() if type(model) is kind)
    apply = functools.partial(_apply, model, params, details.get("sigma_factor", 1.0))

    function = functools.partial(from_sides, apply, views=views)
    return function, details | {"network": network} | options


def sure(function: Callable[[np.ndarray], np.ndarray], tile: np.ndarray) -> np.ndarray:
    """What a network measures on a tile, NaN where it is not sure or the dates do not agree.

    Args:
      function: measures a tile, and how badly the dates agree under what it found, last.
      tile: `(T, S, 2)`.
    """
    found = np.array(function(tile))
    values, disagree = found[..., :-1], found[..., -1] > UNRELATED
    values[(values[..., 2:] > LARGEST_SIGMA_PX).any(-1) | disagree] = np.nan
    return values


def _correlator(
    correlate: Callable, known: tuple[str, ...], options: dict[str, Any]
) -> tuple[TileFunction, dict[str, Any]]:
    defaults = correlate.__wrapped__.__kwdefaults__
    settings = {name: options.get(name, defaults[name]) for name in known}
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
    any_pair = jax.ShapeDtypeStruct((KEPT_PX, KEPT_PX, 2), np.float32)
    jax.eval_shape(functools.partial(correlate, **settings), any_pair)
    return function, settings


def tiles_about(reach: int, step: int = 1) -> dict[str, int]:
    """Margin that holds `reach` [px], and a tile such that the nodes of all are those of the whole.

    Nodes are `step` px apart.
    """
    margin = ALIGNMENT * math.ceil(reach / ALIGNMENT)
    unit = math.lcm(ALIGNMENT, step)
    return {"tile": unit * math.ceil(KEPT_PX / unit) + 2 * margin, "margin": margin}


_NORMALISED_PX = 36  # so far the images reach when they are normalised
_REGULARISED_PX = 32  # ground further away matters by 0.003 px on average


# The window, the largest shift, a node further; where the images are normalised.
def _phase_tiles(settings: dict[str, Any]) -> dict[str, int]:
    window, coarse_window, step = (settings[name] for name in ("window", "coarse", "step"))
    largest = window // 4 + coarse_window // 4
    return tiles_about(max(window, coarse_window) // 2 + largest + step + _NORMALISED_PX, step)


def _ncc_tiles(settings: dict[str, Any]) -> dict[str, int]:
    window, search, step = (settings[name] for name in ("window", "search", "step"))
    coupled = _REGULARISED_PX if settings["regularisation"] else 0
    return tiles_about(window // 2 + search + step + _NORMALISED_PX + coupled, step)


def _lk_tiles(settings: dict[str, Any]) -> dict[str, int]:
    return tiles_about(settings["window"] + 5 + _NORMALISED_PX)


def _of_network(says: frozenset[str], tiles: dict[str, Any], **further: Any) -> Method:
    return Method(_network, frozenset(["views"]), says, lambda _: tiles, **further)


def _of_correlator(
    correlate: Callable, tiles: Callable[[dict], dict], *known: str, **further: Any
) -> Method:
    make = functools.partial(_correlator, correlate, known)
    return Method(make, frozenset(known), QUALITY, tiles, **further)


METHODS: dict[str, Method] = {
    "cnn": _of_network(
        SIGMA, _NETWORK_TILES, networks=("unet", "iterative"), reach_px=coarse.REACH_PX
    ),
    "quick": _of_network(  # the memory is there for two tiles
        SIGMA, _QUICK_TILES, networks=("cells",), reach_px=coarse.REACH_PX, at_once=2
    ),
    "patch": _of_network(frozenset(), _NETWORK_TILES, networks=("patch",)),  # within a pixel
    "phase": _of_correlator(
        phase, _phase_tiles, "window", "step", "coarse", windows=("window", "coarse"), steady=True
    ),
    "ncc": _of_correlator(
        ncc,
        _ncc_tiles,
        *("window", "step", "search", "regularisation"),
        windows=("window",),
        steady=True,
    ),
    "lk": _of_correlator(lk, _lk_tiles, "window"),
}
NETWORKS = tuple(name for name, method in METHODS.items() if method.networks)


def method_of(network: str) -> str:
    """The method as which a network of `MODELS` is measured; `cnn` of one that no row names."""
    found = (name for name, method in METHODS.items() if network in method.networks)
    return next(found, "cnn")
