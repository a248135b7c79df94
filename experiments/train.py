"""Trains a network on pairs that are simulated inside the compiled step.

./launch.sh train --run_dir=runs/first --steps=2000
./launch.sh train --flagfile=experiments/configs/cnn.flags --scenes=FOLDER --run_dir=runs/cnn

The same command goes on where it stopped. Ctrl-C saves first.
"""

import functools
import json
import math
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from tqdm import tqdm

from data_gen import scenes
from data_gen.generator import example_keys, simulate_batch
from displacement import checkpoint, metrics, parallel, training
from displacement.models import MODELS, create_model
from experiments import flags as shared
from experiments.logs import RunLog

shared.define_generator()
_RUN_DIR = flags.DEFINE_string("run_dir", None, "Where the run lives.", required=True)
_MODEL = flags.DEFINE_enum("model", "unet", sorted(MODELS), "Network.")
_OPTIONS = flags.DEFINE_string("model_options", "{}", 'As JSON, e.g. {"widths": [24, 48]}.')
_INIT = flags.DEFINE_string("init", None, "Weights to start from: shipped name, run or folder.")
_SCENES = flags.DEFINE_string("scenes", None, "Folder of real scenes; without, procedural ground.")
_HOLDOUT = flags.DEFINE_list(
    "holdout", [], "Scenes whose name contains one of these are evaluated on, not trained on."
)
_TILES = flags.DEFINE_integer("procedural_tiles", 256, "Procedural tiles beside real scenes.")
_SEED = flags.DEFINE_integer("seed", 0, "The one seed.")
_STEPS = flags.DEFINE_integer("steps", 10_000, "Training steps in all.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Samples a step, over all devices.", lower_bound=1)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.")
_WARMUP = flags.DEFINE_integer("warmup_steps", 300, "Steps of linear warm-up.")
_DECAY = flags.DEFINE_float("weight_decay", 1e-4, "AdamW's weight decay.")
_AVERAGE = flags.DEFINE_float("average_decay", 0.999, "Of the moving average of the weights.")
_EVAL_EVERY = flags.DEFINE_integer("eval_every", 1000, "Steps between evaluations.")
_EVAL_BATCHES = flags.DEFINE_integer("eval_batches", 16, "Batches in an evaluation.")
_SAVE_EVERY = flags.DEFINE_integer("save_every", 500, "Steps between checkpoints.")
_LOG_EVERY = flags.DEFINE_integer("log_every", 50, "Steps between log lines.")
_WANDB = flags.DEFINE_enum("wandb_mode", "offline", ["offline", "online", "disabled"], "W&B.")
# May differ when a run goes on. Of `steps` the learning rate follows: a run can be cut short or
# lengthened, and provenance.jsonl tells from which command on.
_FREE = ("wandb_mode", "save_every", "log_every", "eval_every", "eval_batches", "steps", "flagfile")


def _banks(config, key):
    """Ground to train on and to evaluate on; None is procedural ground made on the fly."""
    if _SCENES.value is None:
        return None, None
    print(f"Reading scenes from {_SCENES.value} ...", flush=True)
    names = tuple(_HOLDOUT.value)
    bank = scenes.load_bank(_SCENES.value, exclude=names)
    if _TILES.value:
        bank = scenes.join(bank, scenes.procedural_bank(key, config, tiles=_TILES.value))
    held = scenes.load_bank(_SCENES.value, only=names, report=lambda _: None) if names else bank
    return parallel.replicate(bank), parallel.replicate(held)


def _train_function(model, optimizer, config):
    def step(state, bank, key, examples):
        sample = simulate_batch(example_keys(key, state.step, examples), config, bank)
        return training.train_step(
            state,
            sample,
            model=model,
            optimizer=optimizer,
            average_decay=_AVERAGE.value,
            axis_name=parallel.AXIS,
        )

    return parallel.parallel(step, shared=3, donate=True)


def _eval_function(model, config):
    def step(params, bank, key, batch, examples):
        sample = simulate_batch(example_keys(key, batch, examples), config, bank)
        scored = training.eval_step(params, sample, model=model, measure=metrics.measure)
        return jax.lax.psum(scored, parallel.AXIS)

    return parallel.parallel(step, shared=4)


def _evaluate(function, params, bank, key, examples):
    total = metrics.zero()
    for batch in range(_EVAL_BATCHES.value):
        total = metrics.merge(total, function(params, bank, key, jnp.int32(batch), examples))
    rows = metrics.summary(total)
    wanted = ("mae", "nmad", "slip_bias", "outliers", "count")
    return {name: {k: row[k] for k in wanted if k in row} for name, row in rows.items()}


def _stop_if_not_finite(pending, first_step, run_dir):
    """Fetches the scalars of the steps since the last log; returns their means."""
    fetched = jax.device_get(pending)
    for offset, scalars in enumerate(fetched):
        if not math.isfinite(scalars["loss"]):
            raise ValueError(
                f"The loss became {scalars['loss']} at step {first_step + offset}. The last good "
                f"checkpoint is kept under {run_dir / 'checkpoints'}; lower --learning_rate and "
                "start again in another --run_dir."
            )
    return {k: sum(float(s[k]) for s in fetched) / len(fetched) for k in fetched[0]}


def _train():
    run_dir = pathlib.Path(_RUN_DIR.value)
    config = shared.generator_config(flags.FLAGS)
    devices = parallel.device_count()
    examples = parallel.example_indices(_BATCH.value, devices)
    description = {"name": _MODEL.value, "options": json.loads(_OPTIONS.value)}
    model = create_model(description["name"], **description["options"])
    optimizer = training.create_optimizer(
        learning_rate=_RATE.value,
        warmup_steps=_WARMUP.value,
        total_steps=_STEPS.value,
        weight_decay=_DECAY.value,
    )
    shared.open_run(run_dir, flags.FLAGS, free=_FREE)
    root = jax.random.key(_SEED.value)
    init_key, train_key, eval_key, bank_key = (jax.random.fold_in(root, i) for i in range(4))

    # Made in one compiled call: a shared constant would be one buffer donated twice.
    create = jax.jit(
        functools.partial(training.create_state, model=model, optimizer=optimizer, size=config.size)
    )
    state = create(init_key)
    if _INIT.value:
        _, params, _ = checkpoint.load_weights(_INIT.value)
        same = jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, state.params)
        if not same:
            raise ValueError(f"--init={_INIT.value} is of another network than --model asks for.")
        copies = (jax.tree.map(jnp.array, params) for _ in range(2))
        state = state._replace(params=next(copies), average=next(copies))
    checkpoints = checkpoint.manager(run_dir / "checkpoints")
    if checkpoints.latest_step() is not None:
        state = checkpoint.restore(checkpoints, state)
        print(f"Going on from step {int(state.step)} in {run_dir}.", flush=True)
    start = int(state.step)
    state = parallel.replicate(state)
    bank, held = _banks(config, bank_key)
    train = _train_function(model, optimizer, config)
    evaluate = _eval_function(model, config)
    log = RunLog(
        run_dir, wandb_mode=_WANDB.value, config=flags.FLAGS.flag_values_dict(), job="train"
    )
    print(f"Training {_MODEL.value} on {devices} device(s), {_BATCH.value} samples a step.")
    pending, step = [], start
    bar = tqdm(total=_STEPS.value, initial=start, unit="step", mininterval=5, dynamic_ncols=True)
    with log, bar:
        began = time.perf_counter()
        try:
            for step in range(start + 1, _STEPS.value + 1):
                state, scalars = train(state, bank, train_key, examples)
                pending.append(scalars)
                last = step == _STEPS.value
                if step % _LOG_EVERY.value == 0 or last:
                    figures = _stop_if_not_finite(pending, step - len(pending) + 1, run_dir)
                    now = time.perf_counter()
                    figures["samples_per_s"] = _BATCH.value * len(pending) / (now - began)
                    pending, began = [], now
                    log.write(step, {"train": figures})
                    bar.set_postfix_str(
                        f"mae {figures['mae']:.3f} px, {figures['samples_per_s']:.1f} samples/s"
                    )
                if step % _EVAL_EVERY.value == 0 or last:
                    rows = _evaluate(evaluate, state.average, held, eval_key, examples)
                    log.write(step, {"eval": rows})
                    bar.write(
                        f"step {step}: MAE near {rows['near']['mae']:.4f}, far "
                        f"{rows['far']['mae']:.4f} px; slip bias near "
                        f"{rows['near'].get('slip_bias', math.nan):+.3f}"
                    )
                    began = time.perf_counter()
                if step % _SAVE_EVERY.value == 0 or last:
                    if pending:  # never keep a state that is not finite
                        _stop_if_not_finite(pending, step - len(pending) + 1, run_dir)
                    checkpoint.save(checkpoints, step, state, description)
                bar.update()
        except KeyboardInterrupt:
            done = int(state.step)
            if checkpoints.latest_step() != done:
                checkpoint.save(checkpoints, done, state, description)
            checkpoints.wait_until_finished()
            sys.exit(f"\nStopped and saved at step {done}. The same command goes on from there.")
        finally:
            checkpoints.close()
    notes = {"step": _STEPS.value, "provenance": shared.provenance()}
    checkpoint.export(run_dir / "export", state.average, description, notes)
    print(f"Done: weights to use are in {run_dir / 'export'}.")


def main(argv):
    """Runs the training that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    # A stop from a scheduler is as good as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _train()
    except ValueError as error:
        sys.exit(f"train: {error}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(main)
