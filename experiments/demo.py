"""Simulates an earthquake, measures it with networks and correlators, and shows what each made.

./launch.sh demo
./launch.sh demo --output=FOLDER --seed=3

A 512 x 512 px pair at 10 m with a rough strike-slip fault is written as two GeoTIFFs and measured
from these files, as `measure` would. The folder then holds the pair, a displacement GeoTIFF and a
figure for each method, and comparison.png.
"""

import pathlib
import time

import jax
import numpy as np
from absl import app, flags
from rasterio.crs import CRS
from rasterio.transform import Affine

from data_gen import sensor
from data_gen.config import plain
from data_gen.generator import simulate
from displacement import metrics, raster
from experiments import run
from experiments.measure import measure_files
from experiments.scoring import score_one
from experiments.tables import score_table

PIXEL_M = 10.0
CONFIG = plain(
    size=512,
    slip_px=(2.0, 2.0),
    oblique_deg=5.0,
    roughness_px=(8.0, 8.0),
    locking_px=(1500.0, 1500.0),
    edge_clearance=0.4,
    ramp_px=0.2,
    noise_fraction=(0.05, 0.05),
)
METHODS = {
    "cnn": {"method": "cnn"},
    "patch": {"method": "patch"},
    "phase 32": {"method": "phase", "window": 32, "step": 4},
    "phase 16": {"method": "phase", "window": 16, "step": 4},
    "ncc 31": {"method": "ncc", "window": 31, "step": 4},
    "ncc regularised 7": {"method": "ncc", "window": 7, "step": 2, "regularisation": 4.0},
}


def _define_flags():
    flags.DEFINE_string("output", "demo_output", "Folder to write to.")
    flags.DEFINE_integer("seed", 2, "Another seed is another earthquake.")


def _demo():
    folder = pathlib.Path(flags.FLAGS.output)
    sample = jax.jit(simulate, static_argnums=1)(jax.random.key(flags.FLAGS.seed), CONFIG)
    sample = jax.device_get(sample)
    # Somewhere in the Mojave desert, UTM zone 11 north.
    grid = {"transform": Affine(PIXEL_M, 0, 440_000, 0, -PIXEL_M, 3_960_000), "crs": "EPSG:32611"}
    paths = [folder / "earlier.tif", folder / "later.tif"]
    for path, date in zip(paths, (0, 1), strict=True):
        raster.write_image(
            path,
            sensor.digital_numbers(sample.pair[..., date]),
            transform=grid["transform"],
            crs=CRS.from_string(grid["crs"]),
        )
    estimates, scores, seconds = {}, {}, {}
    for name, options in METHODS.items():
        output = folder / f"{name.replace(' ', '_')}.tif"
        print(f"\n{name}")
        start = time.perf_counter()
        measure_files(*paths, output, **options)
        found = raster.read_displacement(output)
        seconds[name] = time.perf_counter() - start
        scores[name] = metrics.summary(score_one(found, sample))
        estimates[name] = found
    print("\n" + score_table(scores, seconds))

    from displacement import figures  # matplotlib is slow to import

    slip = sample.slip.reshape(-1, 2).mean(0)
    figure = figures.comparison_figure(
        sample.pair[..., 0],
        sample.displacement,
        estimates,
        sample.distance,
        slip_direction=slip / np.linalg.norm(slip),
        pixel_size=(PIXEL_M, PIXEL_M),
        title="A simulated strike-slip earthquake, slip 20 m, in 10 m pixels",
    )
    figures.save(figure, folder / "comparison.png")
    print(f"\nLook at {folder / 'comparison.png'}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    _define_flags()
    app.run(run.guarded("demo", _demo), flags_parser=run.parse_flags)
