"""Measures how the ground moved between two images: a GeoTIFF in metres and a figure.

./launch.sh measure --earlier=before.tif --later=after.tif --output=moved.tif
./launch.sh measure --earlier=before.tif --later=after.tif --output=moved.tif --method=phase
./launch.sh measure --earlier=before.jp2 --later=after.jp2 --output=moved.tif --align --ramp=linear

Images of any size, tile by tile; when it is stopped, the same command goes on. The file holds the
bands east_west and north_south (east and north positive, later minus earlier), their sigma or a
quality where the method has one, and valid. Beside it go a figure (.png), a style for QGIS (.qml)
and a log (.json). All about it: docs/measure.md.
"""

import contextlib
import math
import os
import pathlib
import time
from typing import Any

import jax
import numpy as np
import rasterio
from absl import app, flags

import displacement
from displacement import estimator, identity, pairs, product, raster, streaming, working
from displacement.areas import open_area
from displacement.estimator import as_estimate
from displacement.files import parts
from displacement.finish import Finish, find_corrections, finished_window
from displacement.methods import METHODS
from displacement.tiling import blocks
from displacement.types import CHANNELS
from experiments import measure_flags, run
from experiments import measure_report as report

GDAL_CACHE_MB = 256  # by default GDAL takes a share of the machine's memory


def measure_files(
    earlier: str | os.PathLike,
    later: str | os.PathLike,
    output: str | os.PathLike,
    *,
    method: str = "cnn",
    weights: str | None = None,
    reading: dict[str, Any] | None = None,
    stable: str | os.PathLike | None = None,
    finish: Finish | None = None,
    units: str | None = None,
    layout: str | None = None,
    figure: bool = True,
    progress: bool = False,
    **options: Any,
) -> None:
    """Measures the displacement between two files, writes it, and prints what was done.

    Args:
      earlier: path of the earlier image.
      later: path of the later image.
      output: path of the GeoTIFF or NetCDF; figure, style and log go beside it.
      method: a key of `displacement.METHODS`.
      weights: of a network; None takes the shipped ones.
      reading: options of `pairs.open_pair`: bands, nodata, align, mask.
      stable: raster or vector file of ground that did not move, for the ramp.
      finish: what is done afterwards.
      units: "m" or "px"; None takes metres where there is georeferencing.
      layout: a key of `product.FORMATS`; None goes by the suffix of `output`.
      figure: whether to draw the figure.
      progress: whether to show a bar.
      **options: of the method, such as `window` and `step` in pixels.

    Raises:
      ValueError: the pair, a path or an option will not do; the message says what to change.
      OSError: a file cannot be read or written.
    """
    start = time.perf_counter()
    output, finish, reading = pathlib.Path(output), finish or Finish(), reading or {}
    layout = _layout(output, layout)
    made_of = [_parts(path) for path in (earlier, later, reading.get("mask"), stable)]
    _check_paths(made_of, reading, output)
    if stable is not None and finish.ramp == "none":
        raise ValueError("--stable is for the ramp. Give --ramp=constant, linear or quadratic too.")
    instrument = estimator.create_instrument(method, weights=weights, **options)
    _check_told(finish, layout, METHODS[instrument.method].says)
    with contextlib.ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB))
        pair = stack.enter_context(pairs.open_pair(earlier, later, **reading))
        units = units or pair.units
        if units == "m" and pair.units == "px":
            raise ValueError("--units=m needs georeferencing, and there is none. Use --units=px.")
        report.print_pair(pair)
        ground = None
        if stable is not None:
            grid = {name: getattr(pair, name) for name in ("transform", "crs", "shape", "turned")}
            ground = stack.enter_context(open_area(stable, flag="--stable", **grid))
        key, facts = _identity(pair, instrument, reading, made_of[:3])
        working_files = {"key": key, "progress": progress}
        read, scene = stack.enter_context(
            streaming.measured(output, pair, instrument, **working_files)
        )
        backward = None
        if finish.consistency_px is not None:
            print("Measuring  back, from the later to the earlier image")
            backward, _ = stack.enter_context(
                streaming.measured(
                    output, streaming.Swapped(pair), instrument, name="backward", **working_files
                )
            )
        channels = _measured_channels(read, pair.shape)
        if not channels:
            _discard(output)
            raise ValueError(
                "not a single pixel could be measured. Are these two images of one place, with"
                " texture and without cloud? Try another band, or a correlator in larger windows."
            )
        _check_told(finish, layout, channels)
        corrections = find_corrections(read, pair.shape, finish, ground, pixel_size=pair.pixel_size)
        report.print_notes(corrections.notes)
        details = instrument.details | {"prealign_px": list(scene.shift)}
        tags = facts | corrections.tags(finish) | {"DETAILS": details}
        tags |= {
            "METHOD": instrument.method,
            "UNITS": units,
            "SIGN_CONVENTION": raster.SIGN_CONVENTION,
        }
        tags |= {"STABLE": os.path.basename(stable)} if stable is not None else {}

        def finished(*window):
            return finished_window(read, pair.shape, window, finish, corrections, backward=backward)

        thinned = _write(
            output, pair, finished, channels=channels, units=units, layout=layout, tags=tags
        )
        seconds = time.perf_counter() - start
        summary = report.print_result(thinned, pair, units, seconds, tags)
        print(f"Wrote      {output}")
        doubts = instrument.doubts(scene, pair.shape)
        notes = [*report.notes(pair), *doubts, *corrections.notes]
        log = summary | {"tags": tags, "notes": notes}
        report.write_companions(output, thinned, pair, units=units, figure=figure, log=log)
        _discard(output)


def _discard(output: pathlib.Path) -> None:
    for name in ("measured", "backward"):
        working.discard(output, name=name)


def _layout(output: pathlib.Path, layout: str | None) -> str:
    suffix = output.suffix.lower()
    fitting = [name for name, suffixes in product.FORMATS.items() if suffix in suffixes]
    if not fitting or (layout is not None and layout not in fitting):
        wanted = product.FORMATS.get(layout, (".tif", ".tiff", ".nc"))
        raise ValueError(f"--output={output} must end in {' or '.join(wanted)}.")
    layout = layout or fitting[0]
    if layout == "netcdf":
        product.check_netcdf()
    return layout


def _check_paths(made_of, reading, output: pathlib.Path) -> None:
    """Refuses, before the long work, paths that would make it be in vain."""
    (earlier, *_), (later, *_) = made_of[:2]
    band = reading.get("band", 1)
    if _same_file(earlier, later) and (reading.get("later_band") or band) == band:
        raise ValueError(
            f"--earlier and --later are the same band of the same file, {earlier}. Give two dates,"
            " or --later_band for a file that holds both."
        )
    names = [part for files in made_of for part in files]
    names += [around for path in names if (around := identity.container(path))]
    for target in (output, *(output.with_suffix(suffix) for suffix in report.COMPANIONS)):
        if target.is_dir():
            raise ValueError(f"{target} is a folder. Name a file to write with --output.")
        if any(_same_file(target, path) for path in names):
            raise ValueError(
                f"{target} is an input, or holds one, and would be overwritten. Choose another"
                " --output."
            )
    folder = output.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ValueError(f"nothing can be written in {folder}. Choose another --output.")


def _parts(path: str | os.PathLike | None) -> list[str]:
    """A file and what it is made of; of None nothing."""
    return [] if path is None else [os.fspath(path), *parts(path)]


def _read_parts(made_of: list[list[str]]) -> list[str]:
    """Files whose contents count: not what QGIS or GDAL leave beside an image that is looked at.

    What else a side-car may say, grid and nodata, is in the key by itself.
    """
    left_out = (".ovr", ".aux.xml"), (".ovr", ".aux.xml"), (".ovr",)
    return [
        part
        for files, endings in zip(made_of, left_out, strict=False)
        for part in files
        if not part.lower().endswith(endings)
    ]


def _same_file(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def _identity(pair, instrument, reading, made_of) -> tuple[dict[str, Any], dict[str, str]]:
    """All that the values depend on, exactly, and what of it goes into the tags."""
    facts = {
        "SOFTWARE": identity.version(),
        "EARLIER": os.path.basename(pair.paths[0]),
        "LATER": os.path.basename(pair.paths[1]),
        "BAND": "{}, {}".format(*pair.bands) if len(set(pair.bands)) > 1 else str(pair.bands[0]),
        "ALIGNMENT": pair.aligned or "none: the images share a grid",
        "MASK": os.path.basename(reading["mask"]) if reading.get("mask") else "none",
    }
    if pair.crs is not None:
        facts["MAP_NORTH_DEG"] = f"{pair.north_deg:.2f}"
    for name, path in zip(("EARLIER_DATE", "LATER_DATE"), pair.paths, strict=True):
        if date := identity.date_in_name(path):
            facts[name] = date
    if "weights" in instrument.details:
        facts["WEIGHTS_SHA256"] = identity.weights_hash(instrument.details["weights"])
    else:  # a network's details have a step too, that of its training
        for name in {"window", "step"} & instrument.details.keys():
            facts[f"{name.upper()}_PX"] = str(instrument.details[name])
    key = {
        "files": [identity.file_identity(part) for part in _read_parts(made_of)],
        "grid": [list(pair.transform), pair.crs and pair.crs.to_wkt(), list(pair.shape)],
        "no_data": [
            str((image.nodata, image.source.nodatavals, image.source.mask_flag_enums))
            for image in pair.images
        ],
        "reading": {name: str(value) for name, value in sorted(reading.items())},
        "method": instrument.method,
        "details": instrument.details,
        "tiles": instrument.tiles,
        "weights": facts.get("WEIGHTS_SHA256"),
        "software": identity.sources(displacement),
    }
    return key, facts


def _measured_channels(read, shape: tuple[int, int]) -> set[str]:
    """Which of `CHANNELS` the method gave anywhere."""
    given = np.zeros(len(CHANNELS), bool)
    for window in blocks(shape, product.BLOCK_PX):
        given |= np.isfinite(read(*window)).any((0, 1))
    return {name for name, is_given in zip(CHANNELS, given, strict=True) if is_given}


def _check_told(finish: Finish, layout: str, channels: set[str]) -> None:
    """Refuses bounds on what the method does not tell, and a layout that needs it."""
    if layout == "classic" and not {"sigma_row", "quality"} & channels:
        raise ValueError(
            "--format=classic needs a method that gives a sigma or a quality, for its third band."
            " Leave it out."
        )
    for bound, name in (("max_sigma_px", "sigma_row"), ("min_quality", "quality")):
        if getattr(finish, bound) is not None and name not in channels:
            what = "sigma (cnn, quick)" if bound == "max_sigma_px" else "quality (phase, ncc, lk)"
            raise ValueError(
                f"--{bound} needs a method that gives a {what}: choose one, or leave it out."
            )


def _write(output, pair, finished, *, channels, units, layout, tags) -> report.Thinned:
    """Writes the result block by block, and keeps it thinned out."""
    step = math.ceil(max(pair.shape) / report.THINNED_PX)
    size = [len(range(0, n, step)) for n in pair.shape]
    thin, image = np.empty((*size, 5), np.float32), np.empty(size, np.float32)
    header = product.Header(
        shape=pair.shape,
        transform=pair.transform,
        crs=pair.crs,
        units=units,
        layout=layout,
        sigma="sigma_row" in channels,
        quality="quality" in channels,
        tags=tags,
    )
    count = 0
    with product.create_product(output, header) as put:
        for window in blocks(pair.shape, product.BLOCK_PX):
            values = finished(*window)
            put(*window[:2], values)
            count += np.count_nonzero(np.isfinite(values[..., 0]))
            rows, cols = (
                slice(-first % step, None, step) for first in window[:2]
            )  # the scene's every step-th pixel, in this block
            part = values[rows, cols]
            top, left = (math.ceil(first / step) for first in window[:2])
            place = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
            thin[place] = part
            image[place] = pair.read(0, *window)[rows, cols]
        if not count:
            raise ValueError("the filters leave not a single pixel. Use weaker bounds.")
    estimate = as_estimate(thin, tags["METHOD"], tags["DETAILS"])
    return report.Thinned(step, estimate, image, count / math.prod(pair.shape))


def _measure() -> None:
    values = flags.FLAGS
    measure_files(
        values.earlier,
        values.later,
        values.output,
        progress=True,
        **measure_flags.options(),
    )


if __name__ == "__main__":
    jax.config.config_with_absl()
    measure_flags.define()
    app.run(
        run.guarded(
            "measure",
            _measure,
            stopped="stopped; finished tiles are kept, and the same command goes on.",
        ),
        flags_parser=run.parse_flags,
    )
