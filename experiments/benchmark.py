"""How fast the simulator is, or every method beside scikit-image and OpenCV: one run, one table.

./launch.sh benchmark
./launch.sh benchmark --scenes=bank.npz --batch=32 --output=benchmark.json
./launch.sh benchmark --what=methods --pair_size=512 --step=4 --output=methods.json
./launch.sh benchmark --what=scenes --sizes=1000,2000,4000 --folder=FOLDER --output=scenes.json

The simulator is timed alone, beside a training step, and against plain NumPy and SciPy; the methods
on one simulated pair with a sharp fault, with their error within 8 px of it and beyond 32 px;
`measure` from file to file on scenes of several sizes, with its peak memory.
Everything is timed in one run on the devices that JAX finds, best of several; trust the ratios
more than the seconds.
"""

import functools
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy import ndimage

import displacement
from data_gen import motion, prepare, scenes, sensor
from data_gen.config import plain
from data_gen.generator import Sample, example_keys, simulate, simulate_batch
from displacement import metrics, training
from displacement.models import create_model
from experiments import flags as shared
from experiments import run
from experiments.peers import peers
from experiments.scaling import time_scenes

_NOISE = (0.03, 0.03)  # of the methods' pair, a share of the image's standard deviation
_SLIP_PX = (1.0, 2.0)
_PEER_WINDOW = 32
_COLUMNS = ("megapixels_per_s", "near_mae", "far_mae")


def _define_flags():
    shared.define_generator()
    flags.DEFINE_enum("what", "simulator", list(_BENCHMARKS), "What to time.")
    flags.DEFINE_list("sizes", ["1000", "2000", "4000"], "Scenes: height and width [px].")
    flags.DEFINE_list("methods", ["cnn", "quick", "lk"], "Scenes: what is to measure them.")
    flags.DEFINE_string("folder", None, "Scenes: where they and the results go, and stay.")
    flags.DEFINE_integer("pair_size", 384, "Methods: height and width of the pair.", lower_bound=96)
    flags.DEFINE_integer("step", 4, "Methods: step [px] of the windows.", lower_bound=1)
    flags.DEFINE_integer("batch", 8, "Samples at a time.", lower_bound=1)
    flags.DEFINE_integer("repeats", 5, "Of each timing; the best counts.", lower_bound=1)
    flags.DEFINE_string("scenes", None, "Bank or folder of real scenes; without, procedural tiles.")
    flags.DEFINE_string("output", None, "JSON file to write.")


def _best(function, *arguments) -> float:
    """Seconds of the fastest of --repeats calls after one that compiles."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(flags.FLAGS.repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def render_with_scipy(ground, to_ground, moved, *, sigma_px, size, rng):
    """The core of a sample as one writes it with SciPy: both dates of one scene, blur, noise.

    Args:
      ground: `(G, G)` scene.
      to_ground: function of positions `(..., 2)` in pixels of the sample, to those of the scene.
      moved: `(n, n, 2)` displacement at `sensor.ground_positions(size)`, px.
      sigma_px: of the point spread function.
      size: of the sample.
      rng: NumPy generator.

    Returns:
      `(size, size, 2)`.
    """
    positions = np.asarray(sensor.ground_positions(size))
    fine = sensor.OVERSAMPLING
    origin, n = positions[0, 0], len(positions)
    p = positions
    for _ in range(4):
        at = np.moveaxis((p - origin) * fine, -1, 0)
        u = [ndimage.map_coordinates(moved[..., i], at, order=1, mode="nearest") for i in (0, 1)]
        p = positions - np.stack(u, -1)
    filtered = ndimage.spline_filter(ground, order=3, mode="mirror")
    images = []
    for where in (positions, p):
        at = np.moveaxis(to_ground(where), -1, 0)
        image = ndimage.map_coordinates(filtered, at, order=3, mode="mirror", prefilter=False)
        image = ndimage.gaussian_filter(image, fine * sigma_px, truncate=4.0)
        inner = image[(n - fine * size) // 2 :, (n - fine * size) // 2 :]
        image = inner[: fine * size, : fine * size].reshape(size, fine, size, fine).mean((1, 3))
        images.append(image + 0.05 * rng.standard_normal((size, size)))
    return np.stack(images, -1)


def _scipy_seconds(config, bank):
    """Of one sample on one core, the displacement field given."""
    window = scenes.scene_window(jax.random.key(1), bank, config)
    moved = motion.sample_motion(jax.random.key(2), config)
    field = motion.displacement_at(moved, sensor.ground_positions(config.size))
    origin, scale = np.asarray(window.origin), float(window.scale)

    def to_ground(positions):
        return origin + scale * (positions - 0.5 * (config.size - 1))

    render = functools.partial(
        render_with_scipy,
        np.asarray(window.earlier),
        to_ground,
        np.asarray(field),
        sigma_px=0.5,
        size=config.size,
        rng=np.random.default_rng(0),
    )
    return _best(render)


def _methods(step: int) -> dict[str, dict]:
    """For each name the options of `displacement.estimate`; windows of like size side by side."""
    return {
        "cnn": {"method": "cnn"},
        "quick": {"method": "quick"},
        "patch": {"method": "patch"},
        "phase 32": {"method": "phase", "window": 32, "step": step},
        "phase 64, then 32": {"method": "phase", "window": 32, "coarse": 64, "step": step},
        "phase 16": {"method": "phase", "window": 16, "step": step},
        "ncc 31": {"method": "ncc", "window": 31, "step": step},
        "ncc 15": {"method": "ncc", "window": 15, "step": step},
        "ncc 7 regularised": {"method": "ncc", "window": 7, "step": step, "regularisation": 4.0},
        "lk 32": {"method": "lk", "window": 32},
        "lk 16": {"method": "lk", "window": 16},
    }


def time_methods(
    sample: Sample, *, step: int, report: Callable[[str], None] = print
) -> dict[str, dict[str, float]]:
    """Times every method and every peer that is installed on one pair.

    Args:
      sample: a pair without NaN, and its truth.
      step: spacing [px] of the windows.
      report: called with a line of the table for each method, as soon as it is known.

    Returns:
      for each name: seconds, megapixels_per_s, near_mae and far_mae [px].
    """
    earlier, later = np.moveaxis(np.asarray(sample.pair), -1, 0)
    functions = {
        name: lambda a, b, options=options: displacement.estimate(a, b, **options).displacement
        for name, options in _methods(step).items()
    } | peers(window=_PEER_WINDOW, step=step)
    truth = (sample.displacement, sample.distance, sample.slip, sample.valid)
    truth = [jnp.asarray(field)[None] for field in truth]
    rows = {}
    for name, function in functions.items():
        seconds = _best(function, earlier, later)
        found = jnp.asarray(function(earlier, later))[None]
        scores = metrics.summary(metrics.measure(found, *truth))
        rows[name] = {
            "seconds": seconds,
            "megapixels_per_s": 1e-6 * earlier.size / seconds,
            "near_mae": scores["near"]["mae"],
            "far_mae": scores["far"]["mae"],
        }
        report(f"  {name:42s}" + "".join(f" {rows[name][column]:9.4f}" for column in _COLUMNS))
    return rows


def _benchmark_methods(values) -> dict:
    config = plain(size=values.pair_size, noise_fraction=_NOISE, slip_px=_SLIP_PX)
    sample = jax.device_get(jax.jit(simulate, static_argnums=1)(jax.random.key(0), config))
    print(f"{values.pair_size} x {values.pair_size} px, step {values.step} px, {jax.devices()[0]}")
    print(f"  {'':42s}" + "".join(f" {h:>9s}" for h in ("Mpx/s", "near MAE", "far MAE")))
    rows = time_methods(sample, step=values.step, report=functools.partial(print, flush=True))
    return {"methods": rows}


def _benchmark_scenes(values) -> dict:
    if not values.folder:
        raise ValueError("--what=scenes needs --folder, for the scenes and the results.")
    if unknown := set(values.methods) - set(displacement.METHODS):
        known = ", ".join(displacement.METHODS)
        raise ValueError(f"Unknown --methods={sorted(unknown)}; choose from {known}.")
    head = "".join(f" {h:>9s}" for h in ("seconds", "alone", "Mpx/s", "peak GB"))
    print(f"  {'method':8s} {'px':>6s}{head}")
    rows = time_scenes(
        pathlib.Path(values.folder),
        methods=values.methods,
        sizes=shared.whole_numbers(values, "sizes"),
        report=functools.partial(print, flush=True),
    )
    return {"scenes": rows}


def _benchmark_simulator(values) -> dict:
    config = shared.generator_config(values)
    key = jax.random.key(0)
    bank = (
        prepare.read_bank(values.scenes, report=lambda _: None)
        if values.scenes
        else scenes.procedural_bank(key, config, tiles=16)
    )
    keys = example_keys(key, jnp.int32(0), jnp.arange(values.batch))
    simulate = jax.jit(functools.partial(simulate_batch, config=config))
    model = create_model("unet")
    schedule = training.create_schedule(learning_rate=1e-3, warmup_steps=1, total_steps=10)
    optimizer = training.create_optimizer(schedule, weight_decay=0.0)
    create = functools.partial(training.create_state, model=model, optimizer=optimizer, size=32)
    state = jax.jit(create)(key)
    step = jax.jit(
        functools.partial(training.train_step, model=model, optimizer=optimizer, average_decay=0.99)
    )
    whole = jax.jit(lambda state, keys, bank: step(state, simulate(keys, bank=bank)))
    sample = simulate(keys, bank=bank)
    seconds = {
        "simulate": _best(lambda: simulate(keys, bank=bank)),
        "simulate_procedural": _best(lambda: simulate(keys)),
        "train_step": _best(step, state, sample),
        "simulate_and_train": _best(whole, state, keys, bank),
        "scipy_one_sample": _scipy_seconds(config, bank),
    }
    pixels = values.batch * config.size**2
    report = {
        "samples_per_s": values.batch / seconds["simulate"],
        "megapixels_per_s": 1e-6 * pixels / seconds["simulate"],
        "share_of_training": seconds["simulate"] / (seconds["simulate"] + seconds["train_step"]),
        "times_faster_than_scipy": values.batch * seconds["scipy_one_sample"] / seconds["simulate"],
    }
    print(f"{values.batch} samples of {config.size} x {config.size} px, {jax.devices()[0]}")
    for name, value in seconds.items():
        print(f"  {name:24s} {1e3 * value:10.1f} ms")
    for name, value in report.items():
        print(f"  {name:24s} {value:10.3f}")
    return {"report": report, "seconds": seconds}


_BENCHMARKS = {
    "simulator": _benchmark_simulator,
    "methods": _benchmark_methods,
    "scenes": _benchmark_scenes,
}


def _benchmark():
    values = flags.FLAGS
    if values.scenes and values.what != "simulator":
        raise ValueError(f"--scenes is of --what=simulator, not of {values.what}. Leave it out.")
    record = _BENCHMARKS[values.what](values)
    if values.output:
        shared.write_json(pathlib.Path(values.output), record)


if __name__ == "__main__":
    jax.config.config_with_absl()
    _define_flags()
    app.run(run.guarded("benchmark", _benchmark), flags_parser=run.parse_flags)
