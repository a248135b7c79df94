r"""Writes simulated pairs with their truth, for other programs to train on or to be scored with.

./launch.sh simulate --output=FOLDER --count=1000
./launch.sh simulate --output=FOLDER --count=1000 --layout=geotiff \
    --scenes=bank.npz --scene_scale=1,1.05

The same command goes on where it stopped. manifest.json names config, seed and versions; a sample
depends on the seed and its number alone. Displacement is later minus earlier.

Layouts: `npz` NNNNNN.npz with earlier, later, displacement (row, col) in pixels, distance, slip,
valid; `geotiff` NNNNNN_earlier.tif and NNNNNN_later.tif in pixels of 10 m, and NNNNNN_truth.tif
(east_west, north_south in metres, valid), as `measure` reads and writes them; `faultdeform`
NNNNNN_F_sample.npy.npz with int_array_1 (earlier), int_array_2 (later), float_array_1 (E-W, east
positive) and float_array_2 (N-S, north positive), pixels. The first two fill a folder for every
thousand samples.
"""

import dataclasses
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from affine import Affine
from rasterio.crs import CRS
from tqdm import tqdm

import data_gen
import displacement
from data_gen import prepare, sensor
from data_gen.config import GeneratorConfig
from data_gen.generator import Sample, example_keys, simulate_batch
from displacement import identity, models, product, raster
from displacement.files import atomic_path
from displacement.types import Estimate
from experiments import flags as shared
from experiments import run
from experiments.logs import differences

_SHARD = 1000  # samples in a folder
_BATCH = 8  # simulated at a time
_PIXEL_M = 10.0
_GRID = {  # somewhere in the Mojave desert
    "transform": Affine(_PIXEL_M, 0.0, 440_000.0, 0.0, -_PIXEL_M, 3_960_000.0),
    "crs": CRS.from_epsg(32611),
}


def _define_flags():
    shared.define_generator(size=256)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_integer("count", 100, "Samples in all.", lower_bound=1)
    flags.DEFINE_enum("layout", "npz", sorted(_WRITERS), "What a sample's files look like.")
    flags.DEFINE_string("scenes", None, "Bank or folder of real scenes; without, procedural.")
    flags.DEFINE_integer("seed", 0, "The one seed.")


def _write_npz(folder: pathlib.Path, number: str, sample: Sample) -> None:
    fields = sample._asdict()
    pair = fields.pop("pair")
    with atomic_path(folder / f"{number}.npz") as partial:
        np.savez_compressed(partial, earlier=pair[..., 0], later=pair[..., 1], **fields)


def _write_geotiff(folder: pathlib.Path, number: str, sample: Sample) -> None:
    for name, date in (("earlier", 0), ("later", 1)):
        image = sensor.digital_numbers(sample.pair[..., date])
        raster.write_image(folder / f"{number}_{name}.tif", image, nodata=0, **_GRID)
    truth = Estimate(sample.displacement, None, sample.valid, "truth", {"sample": number})
    product.write_displacement(folder / f"{number}_truth.tif", truth, **_GRID)


def _write_faultdeform(folder: pathlib.Path, number: str, sample: Sample) -> None:
    north, east = -sample.displacement[..., 0], sample.displacement[..., 1]
    with atomic_path(folder / f"{number}_F_sample.npy.npz") as partial:
        np.savez(
            partial,
            int_array_1=sensor.digital_numbers(sample.pair[..., 0]),
            int_array_2=sensor.digital_numbers(sample.pair[..., 1]),
            float_array_1=east,
            float_array_2=north,
        )


# layout: what writes a sample, the file that it writes last, whether a folder holds a thousand.
_WRITERS = {
    "npz": (_write_npz, "{}.npz", True),
    "geotiff": (_write_geotiff, "{}_truth.tif", True),
    "faultdeform": (_write_faultdeform, "{}_F_sample.npy.npz", False),
}


def _digest(facts: dict) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _agreed(path: pathlib.Path, wanted: dict) -> dict:
    """The settings for the manifest; with the larger count, if the folder was begun with them."""
    wanted = json.loads(json.dumps(wanted))
    if path.exists():
        before = shared.read_json(path).get("samples")
        if not isinstance(before, dict) or "count" not in before:
            raise ValueError(f"{path} is none of ours. Use another --output.")
        wanted["count"] = max(wanted["count"], before["count"])
        if changed := differences(before | {"count": wanted["count"]}, wanted):
            raise ValueError(
                f"{path.parent} holds samples of other settings ({changed}). Use another --output,"
                " or the same flags to go on."
            )
    return wanted


def write_samples(
    folder: pathlib.Path,
    *,
    config: GeneratorConfig,
    count: int,
    layout: str = "npz",
    seed: int = 0,
    scenes: str | None = None,
) -> None:
    """Writes the samples that are not there yet.

    Args:
      folder: to write to.
      config: what the pairs may contain.
      count: samples in all.
      layout: "npz", "geotiff" or "faultdeform".
      seed: sample i is that of `example_keys(key(seed), 0, [i])`.
      scenes: bank or folder of real scenes; None renders procedural ground.

    Raises:
      ValueError: the folder holds samples of other settings, or samples of this size do not fit
        into the scenes.
    """
    write, last, sharded = _WRITERS[layout]
    if scenes and not pathlib.Path(scenes).exists():
        raise FileNotFoundError(f"--scenes={scenes} does not exist. Check the path.")
    wanted = {
        "layout": layout,
        "seed": seed,
        "scenes": scenes and [pathlib.Path(scenes).name, _digest(identity.file_identity(scenes))],
        "config": dataclasses.asdict(config),
        "count": count,
        "sources": identity.sources(displacement, data_gen, without=(models,)),
    }
    manifest = folder / "manifest.json"
    wanted = _agreed(manifest, wanted)
    where = {i: folder / f"{i // _SHARD:05d}" if sharded else folder for i in range(count)}
    missing = [i for i in where if not (where[i] / last.format(f"{i:06d}")).exists()]
    bank = prepare.read_bank(scenes) if scenes and missing else None
    run = jax.jit(simulate_batch, static_argnums=1)
    root = jax.random.key(seed)
    if missing:  # what cannot be simulated is told before the folder is bound to it
        run.eval_shape(example_keys(root, jnp.int32(0), jnp.arange(_BATCH)), config, bank)
    shared.write_json(manifest, {"samples": wanted})
    with tqdm(total=count, initial=count - len(missing), unit="sample", dynamic_ncols=True) as bar:
        for start in range(0, len(missing), _BATCH):
            numbers = missing[start : start + _BATCH]
            padded = numbers + numbers[-1:] * (_BATCH - len(numbers))  # one shape, one compilation
            keys = example_keys(root, jnp.int32(0), jnp.array(padded))
            batch = jax.device_get(run(keys, config, bank))
            for offset, number in enumerate(numbers):
                sample = Sample(*(field[offset] for field in batch))
                write(where[number], f"{number:06d}", sample)
                bar.update()


def _simulate():
    values = flags.FLAGS
    folder = pathlib.Path(values.output)
    write_samples(
        folder,
        config=shared.generator_config(values),
        count=values.count,
        layout=values.layout,
        seed=values.seed,
        scenes=values.scenes,
    )
    print(f"Samples 0 to {values.count - 1} are in {folder}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    _define_flags()
    app.run(
        run.guarded(
            "simulate",
            _simulate,
            stopped="stopped; what was written is kept, and the same command goes on.",
        ),
        flags_parser=run.parse_flags,
    )
