"""Real imagery as ground: tiles of scenes, resident on the device, and what a sample takes of them.

How a folder of scenes becomes tiles is `data_gen.prepare`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from data_gen import sensor
from data_gen.config import GeneratorConfig
from data_gen.textures import procedural_ground, standardise
from displacement.warp import bspline_coefficients

TILE = 288  # native px; a window of 96 px at a scale of 2 with room to choose
CELL = 16  # native px; the dates' agreement is known for cells of this size
_NATIVE_SIGMA_PX = 0.5  # blur that an image has from its own sensor, MTF about 0.3


class SceneBank(NamedTuple):
    """Tiles of scenes on the device.

    Attributes:
      coefficients: `(K, 2, T, T)` cubic B-spline coefficients of two dates; a single twice.
      affine: `(K, 2, 3)` misregistration of a pair, later minus earlier, in native px:
        (row, col) = affine @ (1, row, col) at a position in the tile.
      two_dates: `(K,)` float, 1 where the dates differ and agree well enough to be a pair.
      agree: `(K, T / CELL, T / CELL)` float, 1 where the dates show the same ground.
    """

    coefficients: jax.Array
    affine: jax.Array
    two_dates: jax.Array
    agree: jax.Array


class SceneWindow(NamedTuple):
    """The part of one tile that a sample looks at."""

    earlier: jax.Array  # (T, T) coefficients
    later: jax.Array
    affine: jax.Array  # (2, 3), 0 for one date
    agree: jax.Array  # (T / CELL, T / CELL), 1 for one date
    turn: jax.Array  # (2, 2) one of the eight symmetries of the square
    origin: jax.Array  # (2,) native px of the sample's centre
    centre: jax.Array  # scalar, px, the sample's own centre
    scale: jax.Array  # native px per px

    def to_scene(self, positions: jax.Array) -> jax.Array:
        """Native positions `(..., 2)` of positions given in pixels of the sample."""
        return self.origin + self.scale * (positions - self.centre) @ self.turn.T

    def missing_blur(self, sigma_px: jax.Array) -> jax.Array:
        """What the simulated sensor adds to the scene's own blur; px of the sample."""
        own = _NATIVE_SIGMA_PX / self.scale
        return jnp.sqrt(jnp.maximum(sigma_px**2 - own**2, 0.15**2))

    def misregistration(self, native: jax.Array) -> jax.Array:
        """`(..., 2)` native px that the later date is off at native positions of the earlier."""
        return self.affine[:, 0] + native @ self.affine[:, 1:].T

    def agrees_at(self, positions: jax.Array) -> jax.Array:
        """`(...)` bool, whether both dates show the same ground at positions of the sample."""
        # The nearest node; they are at whole multiples of CELL.
        cell = jnp.round(self.to_scene(positions) / CELL).astype(jnp.int32)
        cell = jnp.clip(cell, 0, self.agree.shape[0] - 1)
        return self.agree[cell[..., 0], cell[..., 1]] > 0.5


def scene_window(key: jax.Array, bank: SceneBank, config: GeneratorConfig) -> SceneWindow:
    """Draws a tile, date or dates, symmetry, scale and place.

    Raises:
      ValueError: a sample does not fit a tile.
    """
    tile_px = bank.coefficients.shape[-1]
    most = tile_px / (config.size + 2 * config.reach_px)
    low, high = config.scene_scale
    if high > most:
        fits = math.floor(100 * most) / 100
        scale = f"--scene_scale={low:g},{fits:g}, or " if fits >= low else ""
        raise ValueError(
            f"--size={config.size} at --scene_scale={low:g},{high:g} does not fit a tile of real"
            f" ground, which is {tile_px} px. Use {scale}a smaller --size."
        )
    k_tile, k_pair, k_date, k_turn, k_scale, k_place = jax.random.split(key, 6)
    tile = jax.random.randint(k_tile, (), 0, bank.affine.shape[0])
    dates = jax.random.permutation(k_date, 2)
    use_pair = jax.random.uniform(k_pair) < config.two_date_fraction * bank.two_dates[tile]
    later_date = jnp.where(use_pair, dates[1], dates[0])
    sense = jnp.where(use_pair, jnp.where(dates[0] == 0, 1.0, -1.0), 0.0)
    bits = jax.random.bernoulli(k_turn, shape=(3,))
    flips = jnp.diag(jnp.where(bits[:2], 1.0, -1.0))
    turn = jnp.where(bits[2], flips, flips[::-1])
    scale = jax.random.uniform(k_scale, minval=config.scene_scale[0], maxval=config.scene_scale[1])
    room = 0.5 * (tile_px - scale * (config.size + 2 * config.reach_px))
    origin = 0.5 * (tile_px - 1) + room * jax.random.uniform(k_place, (2,), minval=-1.0)
    return SceneWindow(
        earlier=bank.coefficients[tile, dates[0]],
        later=bank.coefficients[tile, later_date],
        affine=sense * bank.affine[tile],
        agree=jnp.where(use_pair, bank.agree[tile], 1.0),
        turn=turn,
        origin=origin,
        centre=jnp.float32(0.5 * (config.size - 1)),
        scale=scale,
    )


def procedural_bank(key: jax.Array, config: GeneratorConfig, *, tiles: int) -> SceneBank:
    """Tiles of procedural ground seen by a sensor, to be mixed with real scenes."""

    def tile(index):
        ground = procedural_ground(
            jax.random.fold_in(key, index), config, size=sensor.ground_size(TILE)
        )
        image = sensor.expose(ground, jnp.float32(_NATIVE_SIGMA_PX), size=TILE)
        coefficients = bspline_coefficients(standardise(image))
        return jnp.broadcast_to(coefficients, (2, TILE, TILE))

    return SceneBank(
        coefficients=jax.lax.map(tile, jnp.arange(tiles)),
        affine=jnp.zeros((tiles, 2, 3)),
        two_dates=jnp.zeros(tiles),
        agree=jnp.ones((tiles, TILE // CELL, TILE // CELL)),
    )


def join(*banks: SceneBank) -> SceneBank:
    """One bank of all tiles; each tile is drawn alike."""
    return SceneBank(*(jnp.concatenate(field) for field in zip(*banks, strict=True)))
