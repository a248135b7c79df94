"""Real imagery as ground: scenes read from TIFF once, cut into tiles, resident on the device.

A folder holds `singles/` (any TIFFs below it) and `pairs/<place>/<date>_<band>.tif` (two dates of
one band or more make pairs). Of a pair, the smooth misregistration that its dates have already is
estimated beforehand and counted into the truth.
"""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rasterio

from data_gen import sensor
from data_gen.config import GeneratorConfig
from data_gen.textures import procedural_ground, standardise
from displacement.correlators.phase import phase
from displacement.warp import bspline_coefficients

TILE = 288  # native px; a window of 96 px at a scale of 2 with room to choose
_STRIDE = 160
_NATIVE_SIGMA_PX = 0.5  # blur that an image has from its own sensor, MTF about 0.3
_LARGEST_SCATTER_PX = 0.35  # of 64-px windows about the affine fit; a worse pair is used as singles


class SceneBank(NamedTuple):
    """Tiles of scenes on the device.

    Attributes:
      coefficients: `(K, 2, T, T)` cubic B-spline coefficients of two dates; a single twice.
      affine: `(K, 2, 3)` misregistration of a pair, later minus earlier, in native px:
        (row, col) = affine @ (1, row, col) at a position in the tile.
      two_dates: `(K,)` float, 1 where the dates differ and agree well enough to be a pair.
    """

    coefficients: jax.Array
    affine: jax.Array
    two_dates: jax.Array


class SceneWindow(NamedTuple):
    """The part of one tile that a sample looks at."""

    earlier: jax.Array  # (T, T) coefficients
    later: jax.Array
    affine: jax.Array  # (2, 3), 0 for one date
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


def scene_window(key: jax.Array, bank: SceneBank, config: GeneratorConfig) -> SceneWindow:
    """Draws a tile, date or dates, symmetry, scale and place."""
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
    size = bank.coefficients.shape[-1]
    room = jnp.maximum(0.5 * (size - scale * (config.size + 2 * config.reach_px)), 0.0)
    origin = 0.5 * (size - 1) + room * jax.random.uniform(k_place, (2,), minval=-1.0)
    return SceneWindow(
        earlier=bank.coefficients[tile, dates[0]],
        later=bank.coefficients[tile, later_date],
        affine=sense * bank.affine[tile],
        turn=turn,
        origin=origin,
        centre=jnp.float32(0.5 * (config.size - 1)),
        scale=scale,
    )


@dataclasses.dataclass(frozen=True)
class _Scene:
    name: str
    images: list[np.ndarray]  # one or two dates, (H, W) float32
    usable: np.ndarray  # (H, W) bool


def _read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """One band as float32, and where it holds data (nodata and untagged zeros do not)."""
    with rasterio.open(path) as source:
        image = source.read(1).astype(np.float32)
        usable = source.read_masks(1) > 0
    return image, usable & (image != 0)


def _singles(root: pathlib.Path) -> list[_Scene]:
    scenes = []
    for path in sorted((root / "singles").rglob("*.tif")):
        image, usable = _read(path)
        scenes.append(_Scene(str(path.relative_to(root)), [image], usable))
    return scenes


def _pairs(root: pathlib.Path, place: pathlib.Path) -> list[_Scene]:
    """Scenes of one place: first and last date of every band where their grids agree."""
    bands: dict[str, list[pathlib.Path]] = {}
    for path in sorted(place.glob("*.tif")):
        if not path.stem.endswith("mask"):
            bands.setdefault(path.stem.partition("_")[2], []).append(path)
    scenes = []
    for band, paths in sorted(bands.items()):
        read = [_read(path) for path in (paths[0], paths[-1])]
        name = f"{place.relative_to(root)} {band}".strip()
        with rasterio.open(paths[0]) as a, rasterio.open(paths[-1]) as b:
            same = a.shape == b.shape and a.crs == b.crs and a.transform.almost_equals(b.transform)
        if same and len(paths) > 1:
            scenes.append(_Scene(name, [r[0] for r in read], read[0][1] & read[1][1]))
        else:
            scenes += [_Scene(name, [image], usable) for image, usable in read[: len(paths)]]
    return scenes


def fit_misregistration(earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, float]:
    """Robust affine fit to what the dates are off already, from phase correlation at 64 px.

    Args:
      earlier: `(H, W)`.
      later: `(H, W)`.

    Returns:
      `(2, 3)` coefficients (row, col) = affine @ (1, row, col) [px], and the scatter (NMAD of the
      windows about the fit, px, the worse component).
    """
    step = 16
    found, quality = phase(jnp.stack([earlier, later], -1), window=64, step=step)
    found, quality = np.array(found)[::step, ::step], np.array(quality)[::step, ::step]
    rows, cols = np.meshgrid(*(step * np.arange(n) for n in found.shape[:2]), indexing="ij")
    design = np.stack([np.ones(rows.size), rows.ravel(), cols.ravel()], -1)
    found = found.reshape(-1, 2)
    good = np.isfinite(found).all(-1) & (quality.ravel() > 0.2)
    good &= (np.abs(found - np.nanmedian(found[good], 0)) < 1.5).all(-1) if good.any() else False
    if good.sum() < 20:
        return np.zeros((2, 3), np.float32), np.inf
    weight = np.ones(good.sum())
    for _ in range(10):  # Cauchy weights
        root = np.sqrt(weight)[:, None]
        affine = np.linalg.lstsq(root * design[good], root * found[good], rcond=None)[0].T
        residual = found[good] - design[good] @ affine.T
        scatter = 1.4826 * np.median(np.abs(residual - np.median(residual, 0)), 0).max()
        weight = 1.0 / (1.0 + (residual**2).sum(-1) / (2.0 * scatter + 1e-3) ** 2)
    return affine.astype(np.float32), float(scatter)


def _tiles(scene: _Scene, affine: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Overlapping tiles `(2, T, T)` without nodata, with the affine moved to their corners."""
    tiles = []
    height, width = scene.usable.shape
    for row in sorted({*range(0, height - TILE, _STRIDE), height - TILE}):
        for col in sorted({*range(0, width - TILE, _STRIDE), width - TILE}):
            window = np.s_[row : row + TILE, col : col + TILE]
            images = np.stack([image[window] for image in scene.images])
            if scene.usable[window].mean() < 0.98 or images.std((1, 2)).min() < 1e-3:
                continue
            centre = images.mean((1, 2), keepdims=True)
            images = (images - centre) / images.std((1, 2), keepdims=True)
            if (np.abs(images) > 12).mean() > 1e-3:  # a few glints rule the contrast
                continue
            here = affine.copy()
            here[:, 0] += affine[:, 1] * row + affine[:, 2] * col
            tiles.append((np.broadcast_to(images, (2, TILE, TILE)), here))
    return tiles


def load_bank(
    root: str | pathlib.Path,
    *,
    exclude: tuple[str, ...] = (),
    only: tuple[str, ...] = ("",),
    report=print,
) -> SceneBank:
    """Reads a folder of scenes into a bank on the device.

    Args:
      root: folder with `singles/` and `pairs/`.
      exclude: scenes whose name contains any of these are left out (validation places).
      only: of the others, those whose name contains any of these are kept.
      report: called with a line for each scene: what was kept and why.

    Returns:
      The bank.

    Raises:
      ValueError: nothing usable was found.
    """
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ValueError(f"The scene folder {root} does not exist; give one that does.")
    scenes = _singles(root)
    for place in sorted((root / "pairs").glob("*")):
        scenes += _pairs(root, place)
    tiles, affines, two_dates = [], [], []
    for scene in scenes:
        if any(word in scene.name for word in exclude) or not any(w in scene.name for w in only):
            report(f"{scene.name}: left out by name")
            continue
        if min(scene.usable.shape) < TILE:
            report(f"{scene.name}: left out, {scene.usable.shape} is under {TILE} px")
            continue
        affine, note, paired = np.zeros((2, 3), np.float32), "single date", False
        if len(scene.images) == 2:
            affine, scatter = fit_misregistration(*scene.images)
            paired = scatter < _LARGEST_SCATTER_PX
            centre = affine @ [1, *(n / 2 for n in scene.usable.shape)]
            note = f"pair, off by ({centre[0]:+.2f}, {centre[1]:+.2f}) px, scatter {scatter:.2f} px"
            note += "" if paired else ": dates used singly"
        cut = _tiles(scene, affine)
        tiles += [tile for tile, _ in cut]
        affines += [here for _, here in cut]
        two_dates += [float(paired)] * len(cut)
        report(f"{scene.name}: {len(cut)} tiles, {note}")
    if not tiles:
        raise ValueError(f"No usable scene of {TILE} px or more without nodata under {root}.")
    coefficients = jax.lax.map(bspline_coefficients, jnp.asarray(np.stack(tiles), jnp.float32))
    return SceneBank(coefficients, jnp.asarray(np.stack(affines)), jnp.asarray(two_dates))


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
    )


def join(*banks: SceneBank) -> SceneBank:
    """One bank of all tiles; each tile is drawn alike."""
    return SceneBank(*(jnp.concatenate(field) for field in zip(*banks, strict=True)))
