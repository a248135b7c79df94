"""The flags of `measure`, and what they become."""

from typing import Any

from absl import flags

import displacement
from displacement.finish import Finish
from displacement.product import FORMATS
from displacement.ramp import ORDERS

_OF_METHODS = ("window", "step", "search", "regularisation", "coarse", "views")
_FINISH = (
    *("ramp", "max_sigma_px", "min_quality", "consistency_px"),
    *("destripe_deg", "outliers", "median_px", "nl_means_px"),
)


def define() -> None:
    """Defines the flags; not at import, because other scripts import `measure_files`."""
    flags.DEFINE_string("earlier", None, "The earlier image: any georeferenced raster of GDAL.")
    flags.DEFINE_string("later", None, "The later image, on the same pixel grid, or see --align.")
    flags.DEFINE_string("output", None, "File to write, .tif or .nc; others go beside it.")
    flags.DEFINE_enum(
        "method", "cnn", list(displacement.METHODS), "How to measure; README compares the methods."
    )
    flags.DEFINE_string(
        "weights", None, "Networks: a shipped name, a run, a checkpoint or an export."
    )
    flags.DEFINE_integer(
        "window",
        None,
        "Correlators: window size [px], odd for ncc; else 32, ncc 31.",
        lower_bound=2,
    )
    flags.DEFINE_integer(
        "step", None, "phase and ncc: spacing of the windows [px]; else 4.", lower_bound=1
    )
    flags.DEFINE_integer(
        "search",
        None,
        "ncc: whole-pixel shifts tried either way [px]; it finds up to half a pixel less; else 4.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "regularisation",
        None,
        "ncc: how strongly neighbours are held together; 4 suits windows of 5 to 9 px; else 0.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "coarse", None, "phase: size of a larger window, measured first [px]; else none."
    )
    flags.DEFINE_integer(
        "views",
        None,
        "Networks: mean of up to 8 turned and mirrored views, at as many times the time; else 1.",
        lower_bound=1,
    )

    flags.DEFINE_string("band", "1", "Band of both images: number from 1, or name.")
    flags.DEFINE_string("later_band", None, "Band of the later image, where it is another.")
    flags.DEFINE_float("nodata", None, "Pixel value that means no data, in place of the tags.")
    flags.DEFINE_float("saturated", None, "Pixel values from this one up are invalid.")
    flags.DEFINE_bool("align", False, "Resample the later image onto the earlier one's grid.")
    flags.DEFINE_string("mask", None, "Raster (not 0) or polygons of what to leave out.")

    flags.DEFINE_enum("ramp", "none", list(ORDERS), "Surface to fit robustly and subtract.")
    flags.DEFINE_string(
        "stable", None, "Stable ground to fit the ramp to: raster (not 0) or polygons."
    )
    flags.DEFINE_float(
        "max_sigma_px", None, "Leave out pixels of larger sigma [px]; cnn and quick."
    )
    flags.DEFINE_float(
        "min_quality", None, "Leave out pixels of lower quality, up to 1; correlators."
    )
    flags.DEFINE_float(
        "consistency_px", None, "Measure back too; leave out what differs more [px]."
    )
    flags.DEFINE_float(
        "destripe_deg", None, "Subtract stripes that run this way [degrees clockwise from north]."
    )
    flags.DEFINE_float(
        "outliers", None, "Leave out what is so far from the 9 x 9 median [local NMAD]."
    )
    flags.DEFINE_integer("median_px", None, "Median filter of this size, odd [px].")
    flags.DEFINE_float("nl_means_px", None, "Non-local means filter, for noise of this size [px].")

    flags.DEFINE_enum("units", None, ["m", "px"], "Of the output; else m where georeferenced.")
    flags.DEFINE_enum("format", None, list(FORMATS), "Of the file; else by the suffix of --output.")
    flags.DEFINE_bool("figure", True, "Also draw the figure.")
    flags.mark_flags_as_required(["earlier", "later", "output"])


def options() -> dict[str, Any]:
    """Arguments of `measure_files` that the parsed flags ask for.

    Raises:
      ValueError: a filter's bound will not do.
    """
    values = flags.FLAGS
    reading = {
        name: values[name].value
        for name in ("band", "later_band", "nodata", "saturated", "align", "mask")
        if values[name].value is not None
    }
    finish = {name: values[name].value for name in _FINISH}
    chosen = {name: values[name].value for name in _OF_METHODS}
    return {
        "method": values.method,
        "weights": values.weights,
        "reading": reading,
        "stable": values.stable,
        "finish": Finish(**finish),
        "units": values.units,
        "layout": values.format,
        "figure": values.figure,
    } | {name: value for name, value in chosen.items() if value is not None}
