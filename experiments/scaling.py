"""Speed and memory of `measure` against the size of the scene; every run a process of its own."""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import rasterio
from rasterio.windows import Window

from displacement.estimator import create_instrument
from displacement.files import make_folder
from displacement.tiling import plan_tiles
from experiments import run

_PERIOD_PX = 500  # of the ground, which repeats; a motion of it is exact everywhere
_MOTION_PX = (0.37, -0.62)
_PIXEL_M = 10.0


def _ground(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One period of both dates, `(P, P)` uint16 each."""
    rows = np.fft.fftfreq(_PERIOD_PX)[:, None]
    cols = np.fft.rfftfreq(_PERIOD_PX)
    frequency = np.maximum(np.hypot(rows, cols), 1.0 / _PERIOD_PX)
    spectrum = np.fft.rfft2(rng.standard_normal((_PERIOD_PX, _PERIOD_PX)))
    spectrum *= frequency**-1.2 * 0.2 ** (4.0 * frequency**2) * (frequency < 0.5)
    turned = spectrum * np.exp(-2j * np.pi * (rows * _MOTION_PX[0] + cols * _MOTION_PX[1]))
    dates = [np.fft.irfft2(s, s=(_PERIOD_PX, _PERIOD_PX)) for s in (spectrum, turned)]
    scale = 500.0 / dates[0].std()
    noise = 15.0 * rng.standard_normal((2, _PERIOD_PX, _PERIOD_PX))
    earlier, later = (
        np.round(3000.0 + scale * date + n).clip(1, 65535).astype(np.uint16)
        for date, n in zip(dates, noise, strict=True)
    )
    return earlier, later


def write_pair(folder: pathlib.Path, size: int) -> list[pathlib.Path]:
    """Writes a pair of `size` x `size` px, 16 bit, tiled, on a grid of 10 m; by rows of tiles."""
    make_folder(folder)
    paths = []
    for name, period in zip(("earlier", "later"), _ground(np.random.default_rng(0)), strict=True):
        paths.append(folder / f"{name}_{size}.tif")
        line = np.tile(period, (1, -(-size // _PERIOD_PX)))[:, :size]
        with rasterio.open(
            paths[-1],
            "w",
            driver="GTiff",
            width=size,
            height=size,
            count=1,
            dtype="uint16",
            crs="EPSG:32611",
            transform=rasterio.Affine(_PIXEL_M, 0, 4e5, 0, -_PIXEL_M, 4e6),
            tiled=True,
        ) as file:
            for first in range(0, size, _PERIOD_PX):
                height = min(_PERIOD_PX, size - first)
                file.write(line[:height], 1, window=Window(0, first, size, height))
    return paths


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory [GB] of a process.

    Raises:
      ChildProcessError: it failed; with what it said.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [*run.PYTHON, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ChildProcessError(f"{' '.join(arguments)} failed:\n{said}")
    unit = 1e-9 if sys.platform == "darwin" else 1e-6  # there in bytes, else in kB
    return time.perf_counter() - start, unit * usage.ru_maxrss


def _alone(method: str, size: int) -> float:
    """Seconds that the method takes for the tiles of a scene when it does nothing else."""
    instrument = create_instrument(method)
    tiles = plan_tiles((size, size), **instrument.tiles)
    height, width = tiles[0].shape
    period = np.stack(_ground(np.random.default_rng(0)), axis=-1).astype(np.float32)
    repeats = -(-max(height, width) // _PERIOD_PX)
    pair = np.tile((period - period.mean()) / period.std(), (repeats, repeats, 1))[:height, :width]
    np.asarray(instrument.function(pair))  # compiles
    start = time.perf_counter()
    for _ in range(3):
        np.asarray(instrument.function(pair))
    return (time.perf_counter() - start) / 3 * len(tiles)


def time_scenes(
    folder: pathlib.Path,
    *,
    methods: Iterable[str],
    sizes: Iterable[int],
    report: Callable[[str], None] = print,
) -> dict[str, dict[str, float]]:
    """Measures scenes of several sizes from file to file.

    Args:
      folder: for the scenes and the results, which stay.
      methods: of `displacement.METHODS`.
      sizes: height and width of the scenes [px].
      report: called with a line of the table for each run, as soon as it is known.

    Returns:
      for each "method size": seconds from start to end of the program, of which the method's own
      at the speed that it has alone; megapixels_per_s and peak_gb.
    """
    rows = {}
    for size in sizes:
        earlier, later = write_pair(folder, size)
        for method in methods:
            output = folder / f"{method}_{size}.tif"
            command = ["experiments.measure", f"--earlier={earlier}", f"--later={later}"]
            command += [f"--method={method}", f"--output={output}"]
            seconds, peak = _run(command)
            rate = 1e-6 * size**2 / seconds
            row = {"seconds": seconds, "alone": _alone(method, size)}
            rows[f"{method} {size}"] = row | {"megapixels_per_s": rate, "peak_gb": peak}
            figures = f"{seconds:9.1f} {row['alone']:9.1f} {rate:9.3f} {peak:9.2f}"
            report(f"  {method:8s} {size:6d} {figures}")
    return rows
