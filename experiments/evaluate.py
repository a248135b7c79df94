"""Scores checkpoints and correlators on one simulated set, by distance to the fault.

./launch.sh evaluate --checkpoint=runs/first
./launch.sh evaluate --checkpoint=runs/first --every_checkpoint --output=runs/first/scores.json
./launch.sh evaluate --method=cnn,phase,ncc --window=16,32,64 --output=scores.json

Every method sees the same samples, through `displacement.estimate` as a user calls it. With
--output what is scored is kept, and the same command goes on where it stopped.
"""

import dataclasses
import functools
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import displacement
from data_gen import prepare, scenes
from data_gen.generator import Sample, example_keys, simulate
from displacement import checkpoint, metrics
from displacement.files import atomic_path
from experiments import flags as shared
from experiments.logs import RunLog
from experiments.tables import score_table

_ODD_WINDOWS = ("ncc",)  # a correlator whose windows are odd takes one pixel less


def define_flags() -> None:
    """Defines the flags; not at import, because other scripts import `score`."""
    shared.define_generator(size=192)
    flags.DEFINE_list("checkpoint", [], "Runs, checkpoints or folders of weights to score.")
    flags.DEFINE_bool("every_checkpoint", False, "Of runs: score every checkpoint that is kept.")
    flags.DEFINE_list("method", [], f"Methods to score: {', '.join(displacement.METHODS)}.")
    flags.DEFINE_list("window", [], "Windows [px] at which to score the correlators.")
    flags.DEFINE_integer("step", 2, "Step [px] of the correlators.", lower_bound=1)
    flags.DEFINE_integer("samples", 32, "Simulated pairs.", lower_bound=1)
    flags.DEFINE_integer("seed", 1000, "Of the simulated set; training uses 0.")
    flags.DEFINE_string("scenes", None, "Folder of real scenes; without, procedural ground.")
    flags.DEFINE_list("only", [""], "Of the scenes, those whose name contains one of these.")
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.DEFINE_enum("wandb_mode", "offline", ["offline", "online", "disabled"], "W&B.")


def _steps(run_dir: pathlib.Path) -> list[str]:
    """Paths of a run's checkpoints, by step."""
    steps = [path for path in (run_dir / "checkpoints").glob("*") if path.name.isdigit()]
    if not steps:
        raise ValueError(f"--every_checkpoint: {run_dir} is no run, it has no checkpoints/<step>.")
    return [str(path) for path in sorted(steps, key=lambda path: int(path.name))]


def candidates(values) -> dict[str, dict]:
    """What the flags ask to score: a name and the options of `estimate` for each."""
    paths = values.checkpoint
    if values.every_checkpoint:
        paths = [step for path in paths for step in _steps(pathlib.Path(path))]
    chosen = {path: {"method": "cnn", "weights": path} for path in paths}
    methods = values.method or ([] if chosen else ["cnn"])
    for method in methods:
        if method not in displacement.METHODS:
            known = ", ".join(displacement.METHODS)
            raise ValueError(f"Unknown --method={method}; choose from {known}.")
        if method in ("cnn", "patch"):
            chosen[method] = {"method": method}
            continue
        for window in values.window or [None]:
            options = {"method": method}
            if method != "lk":  # always dense
                options["step"] = values.step
            if window is not None:
                options["window"] = int(window) - (method in _ODD_WINDOWS and int(window) % 2 == 0)
            chosen[f"{method} {options['window']}" if window else method] = options
    return chosen


_measure = jax.jit(metrics.measure)


def score_one(found: displacement.Estimate, sample: Sample) -> metrics.Metrics:
    """Sums of the errors of one estimate, to be merged or summarised."""
    fields = (found.displacement, sample.displacement, sample.distance, sample.slip, sample.valid)
    sigma = None if found.sigma is None else found.sigma[None]
    return jax.device_get(_measure(*(jnp.asarray(field)[None] for field in fields), sigma=sigma))


def score(
    candidates: dict[str, dict], samples: list[Sample], *, progress: bool = True
) -> tuple[dict[str, list[metrics.Metrics]], dict[str, float]]:
    """Scores every candidate on every sample.

    Args:
      candidates: for each name, the options of `displacement.estimate`.
      samples: what to measure.
      progress: whether to show a bar.

    Returns:
      for each name the sums of every sample, and the seconds that it took; the first call, which
      compiles, is made beforehand and not counted.
    """
    scores, seconds = {}, {}
    bar = tqdm(total=len(candidates) * len(samples), unit="pair", disable=not progress)
    with bar:
        for name, options in candidates.items():
            bar.set_postfix_str(name)
            displacement.estimate(*np.moveaxis(samples[0].pair, -1, 0), **options)  # compiles
            parts, spent = [], 0.0
            for sample in samples:
                start = time.perf_counter()
                found = displacement.estimate(*np.moveaxis(sample.pair, -1, 0), **options)
                spent += time.perf_counter() - start
                parts.append(score_one(found, sample))
                bar.update()
            scores[name], seconds[name] = parts, spent
    return scores, seconds


def summarise(parts: list[metrics.Metrics]) -> dict[str, dict]:
    """`metrics.summary` of the sums of several samples."""
    return metrics.summary(functools.reduce(metrics.merge, parts))


def simulated(values) -> list[Sample]:
    """The samples that the flags ask for."""
    config = shared.generator_config(values)
    bank = None
    if values.scenes:
        bank = prepare.read_bank(values.scenes, only=tuple(values.only))
        room = scenes.TILE / (config.size + 2 * config.reach_px)
        if config.scene_scale[1] > room:
            raise ValueError(
                f"--size={config.size} at --scene_scale={config.scene_scale} does not fit a tile "
                f"of {scenes.TILE} px; use a scale of at most {room:.2f}."
            )
    keys = example_keys(jax.random.key(values.seed), 0, jnp.arange(values.samples))
    one = jax.jit(simulate, static_argnums=1)
    return [jax.device_get(one(key, config, bank)) for key in keys]


def _settings(values) -> dict:
    """What decides which samples are scored, and how: two records with the same can be joined."""
    names = ("samples", "seed", "only", "step", "size")
    config = dataclasses.asdict(shared.generator_config(values))
    scenes_name = values.scenes and pathlib.Path(values.scenes).name
    settings = {name: values[name].value for name in names} | {"scenes": scenes_name}
    return json.loads(json.dumps(settings | {"config": config}))


def _kept(path: pathlib.Path | None, settings: dict) -> tuple[dict, dict]:
    """Scores and seconds that an earlier start of the same command wrote."""
    if path is None or not path.exists():
        return {}, {}
    record = json.loads(path.read_text())
    if record.get("settings") != settings:
        raise ValueError(
            f"{path} holds scores of other samples. Use another --output, or the same flags to "
            "go on."
        )
    return record["scores"], record["seconds"]


def _evaluate():
    values = flags.FLAGS
    chosen = candidates(values)
    for options in chosen.values():  # a name that does not exist is told before the work
        if "weights" in options:
            checkpoint.load_weights(options["weights"])
    path = pathlib.Path(values.output) if values.output else None
    settings = _settings(values)
    scores, seconds = _kept(path, settings)
    left = {name: options for name, options in chosen.items() if name not in scores}
    samples = simulated(values) if left else []
    for name, options in left.items():
        parts, spent = score({name: options}, samples, progress=sys.stderr.isatty())
        scores[name], seconds[name] = summarise(parts[name]), spent[name]
        if path:
            record = {"settings": settings, "scores": scores, "seconds": seconds}
            with atomic_path(path) as partial:
                text = json.dumps(record | {"provenance": shared.provenance()}, indent=2)
                partial.write_text(text + "\n")
    print(score_table({name: scores[name] for name in chosen}, seconds))
    if path:
        print(f"Wrote {path}")
    if values.wandb_mode != "disabled":
        folder = path.parent if path else pathlib.Path("runs")
        config = values.flag_values_dict()
        with RunLog(folder, wandb_mode=values.wandb_mode, config=config, job="evaluate") as log:
            if values.every_checkpoint:
                for name, rows in scores.items():
                    step = pathlib.Path(name).name
                    log.write(int(step) if step.isdigit() else 0, {"checkpoint": rows})
            else:
                log.write(0, scores)


def main(argv):
    """Scores what the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    try:
        _evaluate()
    except ValueError as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    define_flags()
    app.run(main)
