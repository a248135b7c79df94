"""Displacement maps that another program made of our samples."""

import pathlib
import zipfile

import numpy as np
import rasterio

from data_gen.generator import Sample
from displacement import raster
from displacement.types import Estimate

_NAMES = ("{}.tif", "{}_displacement.tif", "{}.npz")


def _geotiff(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Displacement `(H, W, 2)` [px], (row, col), and sigma or None."""
    with rasterio.open(path) as source:
        if "east_west" in source.descriptions:
            found = raster.read_displacement(path)
            return found.displacement, found.sigma
        if source.count < 2:
            raise ValueError(f"{path} has one band; give east-west and north-south, in metres.")
        east, north = source.read([1, 2], masked=True).astype(np.float32).filled(np.nan)
        if source.transform.is_identity:
            raise ValueError(
                f"{path} has no georeferencing, so its metres are of unknown pixels. Copy the grid"
                f" of {path.stem[:6]}_earlier.tif, or name the bands and their unit px."
            )
        step_row, step_col = raster.map_step(source.transform, source.crs)
    return np.stack([north / step_row, east / step_col], axis=-1), None


def _npz(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray | None]:
    with np.load(path) as stored:
        if "earlier" in stored:
            raise ValueError(
                f"{path} is a sample with its truth and no result. Put results into a folder of"
                " their own."
            )
        if "displacement" not in stored:
            raise ValueError(
                f"{path} holds {sorted(stored)}; it needs `displacement` (H, W, 2), pixels, "
                "(row, col)."
            )
        return stored["displacement"], stored.get("sigma")


def read(folder: pathlib.Path, number: int, sample: Sample) -> Estimate:
    """What the program measured on a sample.

    Args:
      folder: holds NNNNNN.tif, NNNNNN_displacement.tif (bands 1 and 2 east-west and north-south in
        metres, or named as `measure` names them) or NNNNNN.npz (`displacement` (H, W, 2) in
        pixels, (row, col), and `sigma` alike if there is one); in it or in folders of a
        thousand, as `simulate` writes them.
      number: of the sample.
      sample: the sample.

    Raises:
      ValueError: there is no such file, it has another shape than the sample, or is the sample.
    """
    names = [name.format(f"{number:06d}") for name in _NAMES]
    shard = folder / f"{number // 1000:05d}"
    places = [folder / name for name in names] + [shard / name for name in names]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise ValueError(f"{folder} has no result for sample {number}: none of {names}.")
    try:
        displacement, sigma = _npz(path) if path.suffix == ".npz" else _geotiff(path)
    except (rasterio.errors.RasterioError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Write it again.") from error
    if displacement.shape != sample.displacement.shape:
        raise ValueError(
            f"{path} is {displacement.shape}, but the sample is {sample.displacement.shape}; was "
            "it made with the same flags?"
        )
    if sigma is not None and sigma.shape != displacement.shape:
        raise ValueError(
            f"{path}: sigma is {sigma.shape}; give {displacement.shape}, (row, col), pixels."
        )
    valid = np.isfinite(displacement).all(-1)
    return Estimate(displacement, sigma, valid, folder.name, {})
