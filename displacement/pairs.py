"""Two files as one pair: checked, aligned, and read in windows, NaN where invalid."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from displacement import align as alignment
from displacement import grids
from displacement.areas import Area, open_area
from displacement.files import open_raster
from displacement.raster import map_step
from displacement.tiling import blocks

UNTAGGED_ZERO_FRACTION = 0.01  # more exact zeros than this are an edge or a fill, not the ground
_SCAN_PX = 2048


@dataclasses.dataclass(frozen=True)
class _Image:
    """One band of an open file, cut to the overlap and turned north up when read."""

    source: rasterio.DatasetReader | WarpedVRT
    name: str
    band: int
    window: Window
    turned: tuple[bool, bool] = (False, False)  # whether rows, columns run the other way
    nodata: float | None = None  # in place of the file's tag
    saturated: float | None = None

    def raw(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Values of a window inside the overlap as they are stored, and whether they are valid."""
        if self.turned[0]:
            row = int(self.window.height) - row - height
        if self.turned[1]:
            col = int(self.window.width) - col - width
        window = Window(self.window.col_off + col, self.window.row_off + row, width, height)
        try:
            values = self.source.read(self.band, window=window)
            flags = self.source.mask_flag_enums[self.band - 1]
            valid = np.ones(values.shape, bool)
            if MaskFlags.all_valid not in flags:  # nodata tag, mask band or alpha
                valid = self.source.read_masks(self.band, window=window) > 0
        except RasterioError as error:
            raise ValueError(
                f"{self.name} opens but cannot be read to its end: is it cut short? Fetch it again."
            ) from error
        if self.nodata is not None:
            valid = (values != self.nodata) & (valid | (MaskFlags.nodata in flags))
        turn = tuple(slice(None, None, -1 if turned else 1) for turned in self.turned)
        return values[turn], valid[turn]

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window in double precision, NaN where invalid or outside the overlap."""
        image = np.full((height, width), np.nan)
        top, left = max(row, 0), max(col, 0)
        bottom = min(row + height, int(self.window.height))
        right = min(col + width, int(self.window.width))
        if bottom > top and right > left:
            values, valid = self.raw(top, left, bottom - top, right - left)
            valid &= np.abs(values) <= np.finfo(np.float32).max  # false for NaN and infinity too
            if self.saturated is not None:
                valid &= values < self.saturated
            inside = image[top - row : bottom - row, left - col : right - col]
            inside[valid] = values[valid]
        return image

    def zeros(self) -> float:
        """Share of exact zeros, if no nodata is known and they could be it; else 0."""
        flags = self.source.mask_flag_enums[self.band - 1]
        kind = np.dtype(self.source.dtypes[self.band - 1]).kind
        if self.nodata is not None or MaskFlags.all_valid not in flags or kind not in "iu":
            return 0.0
        shape = int(self.window.height), int(self.window.width)
        count = sum(np.count_nonzero(self.raw(*w)[0] == 0) for w in blocks(shape, _SCAN_PX))
        return count / (shape[0] * shape[1])


@dataclasses.dataclass(frozen=True)
class OpenPair:
    """Two open images of one place on one grid, north up, read in windows; see `scene.Images`.

    Attributes:
      shape: (rows, columns) of the overlap.
      transform: of the common grid; the identity where the files have no georeferencing.
      crs: of the grid, or None.
      pixel_size: (width, height), positive; in `units`.
      units: "m", or "px" where the files have no georeferencing.
      notes: what was assumed or cut, one sentence each, for the person who measures.
      aligned: what was resampled, one sentence, or "".
      paths: of the earlier and the later file.
      sizes: (rows, columns) of the two whole files.
      bands: number of the band of each.
      turned: whether rows and columns of the earlier file run the other way.
      north_deg: by how much north of the map points east of true north; 0 where unknown.
    """

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None
    pixel_size: tuple[float, float]
    units: str
    notes: tuple[str, ...]
    aligned: str
    paths: tuple[str, str]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    bands: tuple[int, int]
    turned: tuple[bool, bool]
    north_deg: float
    images: tuple[_Image, _Image]
    mask: Area | None

    def read(self, date: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A window `(height, width)` of the earlier (0) or later (1) image, float64.

        NaN where invalid, masked or outside; a mask is on the ground of the earlier image.
        """
        image = self.images[date].read(row, col, height, width)
        if date == 0 and self.mask is not None:
            image[self.mask.inside(row, col, height, width)] = np.nan
        return image


@contextlib.contextmanager
def open_pair(
    earlier_path: str | os.PathLike,
    later_path: str | os.PathLike,
    *,
    band: int | str = 1,
    later_band: int | str | None = None,
    nodata: float | None = None,
    saturated: float | None = None,
    align: bool = False,
    mask: str | os.PathLike | None = None,
) -> Iterator[OpenPair]:
    """Opens where two images overlap; nothing is resampled unless `align` is given.

    Args:
      earlier_path: the earlier image, any raster that GDAL reads.
      later_path: the later image, on the same pixel grid; its extent may differ.
      band: which band of both files, by number from 1 or by name.
      later_band: of the later file, where it is another.
      nodata: value that means no data, in place of the files' nodata tags.
      saturated: values from this on are invalid; not where the later image is resampled.
      align: whether to resample the later image where the grids differ.
      mask: raster or vector file of what to leave out.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is not a raster, lacks the band, or the two do not share a grid; the
        message names both values and the remedy.
    """
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(open_raster(path)) for path in (earlier_path, later_path)]
        names = [os.path.basename(source.name) for source in sources]
        sizes = tuple(source.shape for source in sources)
        numbers = (
            grids.band_number(sources[0], band),
            grids.band_number(sources[1], band if later_band is None else later_band),
        )
        found, zero_notes = [], []
        for source, name, number in zip(sources, names, numbers, strict=True):
            value, note = _no_data(source, name, number, nodata)
            found.append(value)
            zero_notes += note
        aligned = ""
        if align:
            try:
                grids.check_pair(*sources)
                grids.overlap(*sources)
            except ValueError:
                values = found[1] if found[1] is not None else sources[1].nodatavals[numbers[1] - 1]
                if saturated is not None:
                    raise ValueError(
                        "--saturated does not go with --align where the grids differ: resampling"
                        " mixes saturated pixels with those beside them. Give them as a --mask, or"
                        " their one value as --nodata."
                    ) from None
                sources[1], aligned = stack.enter_context(
                    alignment.on_grid_of(*sources, nodata=values)
                )
                found[1] = None
        notes = grids.check_pair(*sources)
        windows, cut_notes = grids.overlap(*sources)
        stored = grids.part_transform(sources[0].transform, windows[0])
        shape = int(windows[0].height), int(windows[0].width)
        transform = _north_up(stored, shape)
        if transform != stored:
            cut_notes.append("The files are not stored north up: turned, and so is the result.")
        images = tuple(
            _Image(source, name, number, window, _turned(source.transform), value, saturated)
            for source, name, number, window, value in zip(
                sources, names, numbers, windows, found, strict=True
            )
        )
        crs, turned = sources[0].crs, _turned(stored)
        area = None
        if mask is not None:
            placing = {"transform": transform, "crs": crs, "shape": shape, "turned": turned}
            area = stack.enter_context(open_area(mask, **placing, flag="--mask"))
        step_row, step_col = map_step(transform, crs)
        yield OpenPair(
            shape=shape,
            transform=transform,
            crs=crs,
            pixel_size=(abs(step_col), abs(step_row)),
            units="px" if transform.is_identity else "m",
            notes=(*notes, *cut_notes, *zero_notes, *([aligned] if aligned else [])),
            aligned=aligned,
            paths=(str(earlier_path), str(later_path)),
            sizes=sizes,
            bands=numbers,
            turned=turned,
            north_deg=grids.map_north(sources[0]),
            images=images,
            mask=area,
        )


def _no_data(
    source: rasterio.DatasetReader, name: str, band: int, nodata: float | None
) -> tuple[float | None, list[str]]:
    """The value that means no data where the file does not say so, and a note if it is assumed."""
    image = _Image(source, name, band, Window(0, 0, source.width, source.height), nodata=nodata)
    zeros = image.zeros()
    if zeros <= UNTAGGED_ZERO_FRACTION:
        return nodata, []
    return 0.0, [
        f"{zeros:.1%} of {name} is exactly 0 and no nodata value is tagged: 0 is taken as"
        " no data (--nodata gives another value)."
    ]


def _turned(transform: Affine) -> tuple[bool, bool]:
    """Whether rows run north and columns west, so that both must be turned."""
    return (not transform.is_identity and transform.e > 0, transform.a < 0)


def _north_up(transform: Affine, shape: tuple[int, int]) -> Affine:
    """The grid turned north up and east right."""
    rows, cols = _turned(transform)
    if transform.is_identity:
        return transform
    north = transform.f + (transform.e * shape[0] if rows else 0.0)
    west = transform.c + (transform.a * shape[1] if cols else 0.0)
    return Affine(abs(transform.a), 0.0, west, 0.0, -abs(transform.e), north)
