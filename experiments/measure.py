"""Measures how the ground moved between two images: a GeoTIFF in metres and a figure.

./launch.sh measure --earlier=before.tif --later=after.tif --output=moved.tif
./launch.sh measure --earlier=before.tif --later=after.tif --output=moved.tif --method=phase

Both images must share CRS and pixel grid; their extents may differ. The GeoTIFF holds the bands
east_west and north_south (east and north positive, later minus earlier), their sigma where the
method has one, and valid. The figure has the name of the GeoTIFF, with the suffix .png.
"""

import os
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging

import displacement
from displacement import raster
from displacement.types import Estimate

SUFFIXES = (".tif", ".tiff")


def define_flags() -> None:
    """Defines the flags; not at import, because other scripts import `measure_files`."""
    flags.DEFINE_string("earlier", None, "The earlier image, a georeferenced raster.")
    flags.DEFINE_string("later", None, "The later image, on the same pixel grid.")
    flags.DEFINE_string("output", None, "GeoTIFF to write; a figure (.png) goes beside it.")
    flags.DEFINE_enum("method", "cnn", list(displacement.METHODS), "Estimator.")
    flags.DEFINE_string("weights", None, "Weights of a network: shipped name or folder.")
    flags.DEFINE_integer("band", 1, "Band of both images, from 1.", lower_bound=1)
    flags.DEFINE_integer("window", None, "Correlators: window, pixels.", lower_bound=2)
    flags.DEFINE_integer("step", None, "Correlators: step between windows, pixels.", lower_bound=1)
    flags.DEFINE_float("nodata", None, "Pixel value that means no data, in place of the tags.")
    flags.DEFINE_bool("figure", True, "Also draw the figure.")
    flags.mark_flags_as_required(["earlier", "later", "output"])
    flags.register_validator(
        "output",
        lambda path: path is None or path.lower().endswith(SUFFIXES),
        message="must end in .tif or .tiff",
    )


def measure_files(
    earlier: str | os.PathLike,
    later: str | os.PathLike,
    output: str | os.PathLike,
    *,
    method: str = "cnn",
    weights: str | None = None,
    band: int = 1,
    nodata: float | None = None,
    figure: bool = True,
    progress: bool = False,
    **options: Any,
) -> Estimate:
    """Measures the displacement between two files, writes it, and prints what was done.

    Args:
      earlier: path of the earlier image.
      later: path of the later image.
      output: path of the GeoTIFF; a figure goes beside it.
      method: a key of `displacement.METHODS`.
      weights: of a network; None takes the shipped ones.
      band: of both images, from 1.
      nodata: pixel value that means no data, in place of the files' tags.
      figure: whether to draw the figure.
      progress: whether to show a bar.
      **options: of the method, such as `window` and `step` in pixels.

    Returns:
      The estimate, in pixels on the grid of the earlier image, cut to the overlap.

    Raises:
      ValueError: the pair, a path or an option will not do; the message says what to change.
      OSError: a file cannot be read or written.
    """
    output = pathlib.Path(output)
    picture = output.with_suffix(".png") if figure else None
    _check_paths(earlier, later, output, picture)
    pair = raster.read_pair(earlier, later, band=band, nodata=nodata)
    _print_pair(pair)

    start = time.perf_counter()
    estimate = displacement.estimate(
        pair.earlier, pair.later, method=method, weights=weights, progress=progress, **options
    )
    seconds = time.perf_counter() - start
    if not np.any(estimate.valid):
        raise ValueError(
            f"{method} could not measure a single pixel. Are these two images of one place, with"
            " texture and without cloud? Try another band or a larger window."
        )
    _print_estimate(estimate, pair, seconds)

    tags = {
        "EARLIER": os.path.basename(earlier),
        "LATER": os.path.basename(later),
        "BAND": str(band),
    }
    raster.write_displacement(
        output, estimate, transform=pair.transform, crs=pair.crs, units=pair.units, tags=tags
    )
    print(f"Wrote      {output}")
    if picture is not None:
        from displacement import figures  # matplotlib is slow to import

        drawing = figures.displacement_figure(
            estimate,
            pair.earlier,
            pixel_size_m=pair.pixel_size_m,
            units=pair.units,
            title=f"{tags['EARLIER']} to {tags['LATER']} ({method})",
        )
        figures.save(drawing, picture)
        print(f"           {picture}")
    return estimate


def _check_paths(earlier, later, output: pathlib.Path, picture: pathlib.Path | None) -> None:
    """Refuses, before the long work, paths that would make it be in vain."""
    if output.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--output={output} must end in .tif or .tiff: a GeoTIFF is written.")
    if _same_file(earlier, later):
        raise ValueError(f"--earlier and --later are the same file, {earlier}. Give two dates.")
    for target in (output, picture):
        if target is None:
            continue
        if target.is_dir():
            raise ValueError(f"{target} is a folder. Name a file to write with --output.")
        if _same_file(target, earlier) or _same_file(target, later):
            raise ValueError(
                f"{target} is an input and would be overwritten. Choose another --output."
            )
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"nothing can be written in {folder}. Choose another --output.")


def _same_file(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _print_pair(pair: raster.RasterPair) -> None:
    for word, path, size in (
        ("Earlier", pair.earlier_path, pair.earlier_size),
        ("Later", pair.later_path, pair.later_size),
    ):
        print(f"{word:10} {path}, {size[0]} x {size[1]} px (rows x columns)")
    width, height = pair.pixel_size_m
    crs = f", {pair.crs.to_string()}" if pair.crs is not None else ""
    rows, cols = pair.earlier.shape
    print(f"Overlap    {rows} x {cols} px of {width:g} x {height:g} {pair.units}{crs}")
    for note in pair.notes:
        print(f"Note       {note}")


def _print_estimate(estimate: Estimate, pair: raster.RasterPair, seconds: float) -> None:
    details = {name: value for name, value in estimate.details.items() if name != "prealign_px"}
    settings = ", ".join(f"{name} {value}" for name, value in details.items())
    print(f"Method     {estimate.method}" + (f" ({settings})" if settings else ""))
    row, col = estimate.details.get("prealign_px", (0, 0))
    print(f"Aligned    by whole pixels first: {row:+d} rows, {col:+d} columns")
    print(f"Measured   {np.mean(estimate.valid):.1%} of the pixels in {seconds:.1f} s")
    step_row, step_col = raster.map_step(pair.transform, pair.crs, pair.units)
    moved = estimate.displacement[estimate.valid]
    for name, values in (("East", moved[:, 1] * step_col), ("North", moved[:, 0] * step_row)):
        median = np.median(values)
        nmad = 1.4826 * np.median(np.abs(values - median))
        print(f"{name:10} {median:+.3f} {pair.units} median, {nmad:.3f} {pair.units} NMAD")


def main(argv):
    """Measures the pair that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {' '.join(argv[1:])}")
    values = flags.FLAGS
    if not values["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # jax tells of every accelerator that is not there
    options = {"window": values.window, "step": values.step}
    try:
        measure_files(
            values.earlier,
            values.later,
            values.output,
            method=values.method,
            weights=values.weights,
            band=values.band,
            nodata=values.nodata,
            figure=values.figure,
            progress=sys.stderr.isatty(),
            **{name: value for name, value in options.items() if value is not None},
        )
    except (ValueError, OSError) as error:
        sys.exit(f"measure: {error}")
    except KeyboardInterrupt:
        sys.exit("measure: stopped.")


if __name__ == "__main__":
    jax.config.config_with_absl()
    define_flags()
    app.run(main)
