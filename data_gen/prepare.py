"""A folder of scenes becomes a bank of tiles: read once on the host, checked, cut.

The folder holds `singles/` (any TIFFs below it) and `pairs/<place>/<date>_<band>.tif` (two dates of
one band or more make pairs). Of a pair, the smooth misregistration that its dates have already is
estimated beforehand and taken out where the later date is sampled, and where they show different
ground is noted.
"""

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rasterio
from scipy import ndimage

from data_gen.scenes import CELL, TILE, SceneBank
from displacement.correlators.phase import LEAST_SNR, phase
from displacement.files import atomic_path
from displacement.warp import bspline_coefficients

_STRIDE = 160
_LARGEST_SCATTER_PX = 0.35  # of 64-px windows about the affine fit; a worse pair is used as singles
_DISAGREE_PX = 0.7  # off the fit, and a window shows no common ground
_LEAST_USABLE = 0.98  # of a tile's pixels; the holes are filled from their rims
_VERSION = 1  # of the file
_LAYOUT = "A folder of scenes holds TIFFs in singles/, and a folder for each place in pairs/."
_LEAST_AGREEMENT = 0.5  # of a tile's cells; a tile with less is used as single dates


@dataclasses.dataclass(frozen=True)
class _Scene:
    name: str
    images: list[np.ndarray]  # one or two dates, (H, W) float32
    usable: np.ndarray  # (H, W) bool


def _read_image(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """One band as float32, and where it holds data (nodata and untagged zeros do not)."""
    with rasterio.open(path) as source:
        image = source.read(1).astype(np.float32)
        usable = source.read_masks(1) > 0
    return image, usable & (image != 0) & np.isfinite(image)


def _tiffs(paths: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    return sorted(path for path in paths if path.suffix.lower() in {".tif", ".tiff"})


def _singles(root: pathlib.Path) -> list[_Scene]:
    scenes = []
    for path in _tiffs((root / "singles").rglob("*")):
        image, usable = _read_image(path)
        scenes.append(_Scene(str(path.relative_to(root)), [image], usable))
    return scenes


def _pairs(root: pathlib.Path, place: pathlib.Path) -> list[_Scene]:
    """Scenes of one place: first and last date of every band where their grids agree."""
    bands: dict[str, list[pathlib.Path]] = {}
    for path in _tiffs(place.glob("*")):
        if not path.stem.endswith("mask"):
            bands.setdefault(path.stem.partition("_")[2], []).append(path)
    scenes = []
    for band, paths in sorted(bands.items()):
        read = [_read_image(path) for path in (paths[0], paths[-1])]
        name = f"{place.relative_to(root)} {band}".strip()
        with rasterio.open(paths[0]) as a, rasterio.open(paths[-1]) as b:
            same = a.shape == b.shape and a.crs == b.crs and a.transform.almost_equals(b.transform)
        if same and len(paths) > 1:
            scenes.append(_Scene(name, [r[0] for r in read], read[0][1] & read[1][1]))
        else:
            scenes += [_Scene(name, [image], usable) for image, usable in read[: len(paths)]]
    return scenes


def compare_dates(earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """What two dates are off already, and where they show the same ground.

    A robust affine fit to phase correlation in windows of 64 px.

    Args:
      earlier: `(H, W)`, NaN where there is no data: its edge would be matched, and does not move.
      later: `(H, W)`, likewise.

    Returns:
      `(2, 3)` coefficients (row, col) = affine @ (1, row, col) [px]; the scatter (NMAD of the
      windows about the fit, px, the worse component; inf where too few windows match); and
      `(H / CELL, W / CELL)` bool, whether the window about a node agrees with the fit; node i
      is at pixel `CELL` i.
    """
    # What hardly correlates is looked at too: it tells where the dates differ.
    found, quality = phase(
        jnp.stack([earlier, later], -1), window=64, step=CELL, least_snr=-jnp.inf
    )
    found, quality = np.array(found)[::CELL, ::CELL], np.array(quality)[::CELL, ::CELL]
    shape = found.shape[:2]
    rows, cols = np.meshgrid(*(CELL * np.arange(n) for n in shape), indexing="ij")
    design = np.stack([np.ones(rows.size), rows.ravel(), cols.ravel()], -1)
    found = found.reshape(-1, 2)
    measured = np.isfinite(found).all(-1)
    good = measured & (quality.ravel() >= LEAST_SNR)
    good &= (np.abs(found - np.nanmedian(found[good], 0)) < 1.5).all(-1) if good.any() else False
    if good.sum() < 20:
        return np.zeros((2, 3), np.float32), np.inf, np.zeros(shape, bool)
    weight = np.ones(good.sum())
    for _ in range(10):  # Cauchy weights
        root = np.sqrt(weight)[:, None]
        affine = np.linalg.lstsq(root * design[good], root * found[good], rcond=None)[0].T
        residual = found[good] - design[good] @ affine.T
        scatter = 1.4826 * np.median(np.abs(residual - np.median(residual, 0)), 0).max()
        weight = 1.0 / (1.0 + (residual**2).sum(-1) / (2.0 * scatter + 1e-3) ** 2)
    off = np.linalg.norm(found - design @ affine.T, axis=-1)
    # At the rim no window fits in: a cell there is what the nearest measured one is.
    nearest = ndimage.distance_transform_edt(
        ~measured.reshape(shape), return_distances=False, return_indices=True
    )
    agree = (off < _DISAGREE_PX).reshape(shape)[tuple(nearest)]
    return affine.astype(np.float32), float(scatter), agree


class _Tile(NamedTuple):
    images: np.ndarray  # (1 or 2, T, T) float32, zero mean, unit scatter
    affine: np.ndarray  # (2, 3), about the tile's own corner
    agree: np.ndarray  # (T / CELL, T / CELL) bool


def _tiles(scene: _Scene, affine: np.ndarray, agree: np.ndarray | None) -> list[_Tile]:
    """Overlapping tiles of ground, each with what is known of it; `agree` None: one date."""
    tiles = []
    height, width = scene.usable.shape
    # A hole becomes ground like its rim, and moves as ground does.
    nearest = ndimage.distance_transform_edt(
        ~scene.usable, return_distances=False, return_indices=True
    )
    filled = [image[tuple(nearest)] for image in scene.images]
    for row in sorted({*range(0, height - TILE, _STRIDE), height - TILE}):
        for col in sorted({*range(0, width - TILE, _STRIDE), width - TILE}):
            window = np.s_[row : row + TILE, col : col + TILE]
            images = np.stack([image[window] for image in filled])
            if scene.usable[window].mean() < _LEAST_USABLE or images.std((1, 2)).min() < 1e-3:
                continue
            centre = images.mean((1, 2), keepdims=True)
            images = (images - centre) / images.std((1, 2), keepdims=True)
            if (np.abs(images) > 12).mean() > 1e-3:  # a few glints rule the contrast
                continue
            here = affine.copy()
            here[:, 0] += affine[:, 1] * row + affine[:, 2] * col
            cells = np.ones((TILE // CELL, TILE // CELL), bool)
            if agree is not None:
                nodes = np.arange(0, TILE, CELL) + CELL // 2
                at = [(start + nodes) // CELL for start in (row, col)]  # the nearest
                cells = agree[np.ix_(*at)]
            tiles.append(_Tile(images, here, cells))
    return tiles


def _check(scene: _Scene) -> tuple[list[_Tile], str]:
    """Tiles of a scene and a line on what was kept and why."""
    if len(scene.images) < 2:
        tiles = _tiles(scene, np.zeros((2, 3), np.float32), None)
        return tiles, f"{len(tiles)} tiles, single date"
    dates = [np.where(scene.usable, image, np.nan) for image in scene.images]
    affine, scatter, agree = compare_dates(*dates)
    centre = affine @ [1, *(n / 2 for n in scene.usable.shape)]
    note = (
        f"pair, off by ({centre[0]:+.2f}, {centre[1]:+.2f}) px, scatter {scatter:.2f} px, "
        f"{agree.mean():.0%} agrees"
    )
    if scatter > _LARGEST_SCATTER_PX:
        agree = np.zeros_like(agree)
    tiles = _tiles(scene, affine, agree)
    single = [tile.agree.mean() < _LEAST_AGREEMENT for tile in tiles]
    alone = f", of which {sum(single)} of single dates" if any(single) else ""
    kept = []
    for tile, apart in zip(tiles, single, strict=True):
        dates = [tile.images[:1], tile.images[1:]] if apart else [tile.images]
        still = np.ones_like(tile.agree) if apart else tile.agree
        kept += [_Tile(images, tile.affine, still) for images in dates]
    return kept, f"{len(tiles)} tiles{alone}, {note}"


def read_bank(
    root: str | pathlib.Path,
    *,
    exclude: tuple[str, ...] = (),
    only: tuple[str, ...] = ("",),
    report: Callable[[str], None] = print,
) -> SceneBank:
    """Reads a folder of scenes, or the file that `write_bank` made of one, onto the device.

    Args:
      root: folder with `singles/` and `pairs/`, or a .npz file.
      exclude: scenes whose name contains any of these are left out (validation places).
      only: of the others, those whose name contains any of these are kept.
      report: called with a line for each scene: what was kept and why.

    Returns:
      The bank.

    Raises:
      ValueError: nothing usable was found, or a word is in no scene's name.
    """

    def choose(names):
        for word in filter(None, (*only, *exclude)):
            # What is to be held out must not be trained on for a letter's sake.
            if not any(word in name for name in names):
                raise ValueError(
                    f"No scene of {root} has {word!r} in its name. Name scenes of your own with"
                    " --holdout and --only, after any --flagfile, or none: --holdout= --only="
                )
        return {
            name
            for name in names
            if any(word in name for word in only) and not any(word in name for word in exclude)
        }

    if pathlib.Path(root).suffix == ".npz":
        tiles = _read_file(root)
        chosen = choose([name for name, _ in tiles])
        kept = [tile for name, tile in tiles if name in chosen]
    else:
        kept = [tile for _, tile in _read_folder(root, choose, report)]
    if not kept:
        raise ValueError(
            f"No usable scene of {TILE} px or more without nodata in {root} whose name contains "
            f"{' or '.join(filter(None, only)) or 'anything'} and not"
            f" {' or '.join(exclude) or 'nothing'}. {_LAYOUT}"
        )
    dates = np.stack([np.broadcast_to(tile.images, (2, TILE, TILE)) for tile in kept])
    return SceneBank(
        coefficients=jax.lax.map(bspline_coefficients, jnp.asarray(dates, jnp.float32)),
        affine=jnp.asarray(np.stack([tile.affine for tile in kept])),
        two_dates=jnp.asarray([float(len(tile.images) == 2) for tile in kept]),
        agree=jnp.asarray(np.stack([tile.agree for tile in kept]), jnp.float32),
    )


def _read_folder(
    root: str | pathlib.Path,
    choose: Callable[[list[str]], Container[str]],
    report: Callable[[str], None],
) -> list[tuple[str, _Tile]]:
    root = pathlib.Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder. {_LAYOUT}")
    scenes = _singles(root)
    for place in sorted((root / "pairs").glob("*")):
        scenes += _pairs(root, place)
    tiles, chosen = [], choose([scene.name for scene in scenes])
    for scene in scenes:
        if scene.name not in chosen:
            report(f"{scene.name}: left out by name")
        elif min(scene.usable.shape) < TILE:
            report(f"{scene.name}: left out, {scene.usable.shape} is under {TILE} px")
        else:
            found, note = _check(scene)
            tiles += [(scene.name, tile) for tile in found]
            report(f"{scene.name}: {note}")
    return tiles


def write_bank(root: str | pathlib.Path, path: str | pathlib.Path, *, report=print) -> int:
    """Reads a folder of scenes once and for all; `read_bank` takes the file as it takes the folder.

    Args:
      root: folder with `singles/` and `pairs/`.
      path: .npz file to write.
      report: called with a line for each scene: what was kept and why.

    Returns:
      The number of tiles.
    """
    named = _read_folder(root, lambda names: names, report)
    tiles = [tile for _, tile in named]
    if not tiles:
        raise ValueError(
            f"No usable scene of {TILE} px or more without nodata in {root}. {_LAYOUT}"
        )
    arrays = {"names": np.array([name for name, _ in named]), "version": np.array(_VERSION)}
    for field in _Tile._fields:
        for dates in (1, 2):
            values = [getattr(tile, field) for tile in tiles if len(tile.images) == dates]
            arrays[f"{field}_{dates}"] = np.stack(values) if values else np.zeros(0)
    arrays["dates"] = np.array([len(tile.images) for tile in tiles])
    with atomic_path(path) as partial:
        np.savez(partial, **arrays)
    return len(tiles)


def _read_file(path: str | pathlib.Path) -> list[tuple[str, _Tile]]:
    try:
        with np.load(path) as file:
            arrays = dict(file)
        if arrays["version"] != _VERSION:
            raise ValueError(f"made by another version of this program ({arrays['version']})")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no bank of scenes: {error}. Run prepare again.") from error
    stacks = {
        dates: zip(*(arrays[f"{field}_{dates}"] for field in _Tile._fields), strict=True)
        for dates in (1, 2)
    }
    tiles = [_Tile(*next(stacks[dates])) for dates in arrays["dates"].tolist()]
    return list(zip(arrays["names"].tolist(), tiles, strict=True))
