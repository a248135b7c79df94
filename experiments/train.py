r"""Trains a network on pairs that are simulated inside the compiled step.

./launch.sh train --run_dir=runs/first --steps=2000
./launch.sh train --flagfile=experiments/configs/cnn.flags --init=cnn --scenes=bank.npz \
    --holdout=NAME --run_dir=runs/mine

On several hosts, the same command on each, with a run directory on a disk that they share and a
batch that divides over all their devices:
./launch.sh train ... --coordinator=first-host:1234 --hosts=2 --host=0    (and --host=1)

The same command goes on where it stopped. Ctrl-C saves first. On a CPU with several devices XLA
ends the run where other programs hold one of them up for 40 s; it then goes on from its last
checkpoint.
"""

import functools
import json
import math
import os
import pathlib
import signal
import sys
import time

import jax
import jax.numpy as jnp
from absl import app, flags
from tqdm import tqdm

from data_gen.generator import example_keys, simulate_batch
from displacement import checkpoint, metrics, parallel, training
from displacement.models import MODELS, create_model
from experiments import flags as shared
from experiments import ground, run
from experiments.logs import NoLog, RunLog

shared.define_generator()
_RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Where the run lives; under a W&B agent runs/<its id> if not given."
)
_MODEL = flags.DEFINE_enum("model", "unet", sorted(MODELS), "Network.")
_OPTIONS = flags.DEFINE_string("model_options", "{}", 'As JSON, e.g. {"widths": [24, 48]}.')
_INIT = flags.DEFINE_list(
    "init",
    [],
    "Weights to start from, of the network or a part: shipped name, run, folder; of several, as"
    " stages of one training are, their mean.",
)
_SCENES = flags.DEFINE_string("scenes", None, "Bank or folder of real scenes; without, procedural.")
_HOLDOUT = flags.DEFINE_list(
    "holdout", [], "Scenes whose name contains one of these are evaluated on, not trained on."
)
_TILES = flags.DEFINE_integer("procedural_tiles", 256, "Procedural tiles beside real scenes.")
_SEED = flags.DEFINE_integer("seed", 0, "The one seed.")
_STEPS = flags.DEFINE_integer("steps", 10_000, "Training steps in all.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Samples a step, over all devices.", lower_bound=1)
_ACCUMULATE = flags.DEFINE_integer(
    "accumulate", 1, "Steps whose mean gradient makes one update.", lower_bound=1
)
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "Peak learning rate.")
_WARMUP = flags.DEFINE_integer("warmup_steps", 300, "Steps of linear warm-up.")
_DECAY = flags.DEFINE_float("weight_decay", 1e-4, "AdamW's weight decay.")
_AVERAGE = flags.DEFINE_float("average_decay", 0.999, "Of the moving average of the weights.")
_BFLOAT16 = flags.DEFINE_bool(
    "bfloat16", False, "Convolve in bfloat16, which GPUs and TPUs are faster at; a CPU is not."
)
_EVAL_EVERY = flags.DEFINE_integer("eval_every", 1000, "Steps between evaluations.", lower_bound=1)
_EVAL_BATCHES = flags.DEFINE_integer("eval_batches", 16, "Batches in an evaluation.", lower_bound=1)
_SAVE_EVERY = flags.DEFINE_integer("save_every", 500, "Steps between checkpoints.", lower_bound=1)
_KEEP = flags.DEFINE_integer("keep", 3, "Checkpoints that are kept, the latest.", lower_bound=1)
_LOG_EVERY = flags.DEFINE_integer("log_every", 50, "Steps between log lines.", lower_bound=1)
_WANDB = flags.DEFINE_enum("wandb_mode", "offline", ["offline", "online", "disabled"], "W&B.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Several hosts: address:port of the first, or auto under a scheduler."
)
_HOSTS = flags.DEFINE_integer("hosts", 1, "Several hosts: how many.", lower_bound=1)
_HOST = flags.DEFINE_integer("host", 0, "Several hosts: which one this is.", lower_bound=0)
# May differ when a run goes on. Of `steps` the learning rate follows: a run can be cut short or
# lengthened, and provenance.jsonl tells from which command on.
_FREE = ("wandb_mode", "save_every", "log_every", "eval_every", "eval_batches", "steps", "flagfile")
_FREE += ("keep", "coordinator", "hosts", "host")


def _run_dir() -> pathlib.Path:
    if _RUN_DIR.value:
        return pathlib.Path(_RUN_DIR.value)
    if agent := os.environ.get("WANDB_RUN_ID"):
        return pathlib.Path("runs") / agent
    raise ValueError("--run_dir is missing; say where the run is to live, as --run_dir=runs/first.")


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
            bfloat16=_BFLOAT16.value,
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
    return total


def _figures(total):
    wanted = ("mae", "nmad", "slip_bias", "outliers", "coverage_68", "coverage_95", "count")
    rows = metrics.summary(total)
    return {name: {k: row[k] for k in wanted} for name, row in rows.items()}


def _means(pending, first_step, run_dir):
    """Fetches the scalars of the steps since `first_step` and returns their means.

    Raises:
      ValueError: a loss, or the gradient that the next state is made with, is not finite; says at
        which step.
    """
    fetched = jax.device_get(pending)
    if not fetched:
        return {}
    for offset, scalars in enumerate(fetched):
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(scalars[name]):
                raise ValueError(
                    f"The {name.replace('_', ' ')} became {scalars[name]} at step "
                    f"{first_step + offset}. What was saved before is kept under "
                    f"{run_dir / 'checkpoints'}; lower --learning_rate and start again in another "
                    "--run_dir."
                )
    return {k: sum(float(s[k]) for s in fetched) / len(fetched) for k in fetched[0]}


def _given(run_dir):
    """The weights that a run which begins is to start from: name, network and parameters of each.

    A run that goes on has no use for them; they may be gone.
    """
    if checkpoint.steps(run_dir):
        return []
    return [(name, *checkpoint.load_weights(name)[:2]) for name in _INIT.value]


def _initial_state(key, model, optimizer, size, *, given, checkpoints):
    """A fresh state, or the given weights, or where the run stopped."""
    # In one compiled call, so that no two leaves share a buffer: the state is donated.
    create = functools.partial(training.create_state, model=model, optimizer=optimizer, size=size)
    state = jax.jit(create)(key)
    if checkpoints.latest_step() is not None:
        return checkpoint.restore(checkpoints, state)
    if given:
        several = []
        for name, network, params in given:
            # What the network has beside the given one (refinements) stays as it was drawn.
            several.append(dict(state.params) | dict(params))
            if jax.tree.map(jnp.shape, several[-1]) != jax.tree.map(jnp.shape, state.params):
                raise ValueError(
                    f"--init={name} is a {type(network).__name__} of other shapes than the"
                    f" {type(model).__name__} that --model={_MODEL.value} and --model_options ask"
                    " for. Give those of its flags.txt."
                )
        params = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *several)
        copies = [jax.tree.map(jnp.array, params) for _ in range(2)]
        state = state._replace(params=copies[0], average=copies[1])
    return state


class _Stop:
    """Turns the first Ctrl-C, or a scheduler's SIGTERM, into a wish that is granted between steps.

    In the middle of a step the state's buffers have been given away and there is nothing to save.
    A second signal stops at once.
    """

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        tqdm.write("Stopping after this step ...")


def _loop(state, *, run_dir, log, checkpoints, description, train, evaluate, schedule):
    """Steps until --steps; logs, evaluates and saves on the way. Returns the last state.

    `train` and `evaluate` are functions of the state alone, `schedule` of the step.
    """
    start = int(state.step)
    pending, timed, began = [], 0, time.perf_counter()
    stop = _Stop()
    with tqdm(
        total=_STEPS.value,
        initial=start,
        unit="step",
        mininterval=5,
        dynamic_ncols=True,
        disable=not parallel.is_first(),
    ) as bar:
        for step in range(start + 1, _STEPS.value + 1):
            state, scalars = train(state)
            pending.append(scalars)
            if step == start + 1:  # it compiles
                jax.block_until_ready(scalars)
                began = time.perf_counter()
            else:
                timed += 1
            due = [
                step % every == 0 or step == _STEPS.value
                for every in (_LOG_EVERY.value, _EVAL_EVERY.value, _SAVE_EVERY.value)
            ]
            if any(due):  # before a save too: a state that is not finite is never kept
                figures = _means(pending, step - len(pending) + 1, run_dir)
                figures["learning_rate"] = float(schedule(step - 1))  # with which it was made
                if timed:
                    rate = _BATCH.value * timed / (time.perf_counter() - began)
                    figures["samples_per_s"] = rate
                    bar.set_postfix_str(f"mae {figures['mae']:.3f} px, {rate:.1f} samples/s")
                log.write(step, {"train": figures})
            if due[1]:
                rows = _figures(evaluate(state))
                log.write(step, {"eval": rows})
                bar.write(
                    f"step {step}: MAE near {rows['near']['mae']:.4f}, far "
                    f"{rows['far']['mae']:.4f} px; slip bias near "
                    f"{rows['near']['slip_bias']:+.3f}"
                )
            if due[2]:
                checkpoint.save(checkpoints, step, state, description)
            if any(due):
                pending, timed, began = [], 0, time.perf_counter()
            bar.update()
            # Several hosts have to agree, which they only do where they wait anyway.
            stopping = (any(due) or jax.process_count() == 1) and parallel.agreed(stop.asked)
            if stopping and step < _STEPS.value:
                _means(pending, step - len(pending) + 1, run_dir)
                if checkpoints.latest_step() != step:
                    checkpoint.save(checkpoints, step, state, description)
                checkpoints.wait_until_finished()
                sys.exit(f"Stopped and saved at step {step}. The same command goes on.")
    return state


def _model_options() -> dict:
    try:
        options = json.loads(_OPTIONS.value)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(
            f"--model_options={_OPTIONS.value} is no JSON object; write it as in "
            """--model_options='{"widths": [24, 48]}'."""
        )
    return options


def _train():
    run_dir = _run_dir()
    if not _COORDINATOR.value and (_HOSTS.value > 1 or _HOST.value > 0):
        raise ValueError(
            f"--hosts={_HOSTS.value} --host={_HOST.value} need --coordinator=address:port of the"
            " first: without it each host would train alone."
        )
    if _HOST.value >= _HOSTS.value:
        raise ValueError(f"--host={_HOST.value} must be less than --hosts={_HOSTS.value}.")
    if _COORDINATOR.value:
        parallel.join_hosts(_COORDINATOR.value, hosts=_HOSTS.value, host=_HOST.value)
    config = shared.generator_config(flags.FLAGS)
    devices = jax.device_count()
    examples = parallel.example_indices(_BATCH.value, devices)
    description = {"name": _MODEL.value, "options": _model_options()}
    model = create_model(description["name"], **description["options"])
    schedule = training.create_schedule(
        learning_rate=_RATE.value, warmup_steps=_WARMUP.value, total_steps=_STEPS.value
    )
    optimizer = training.create_optimizer(
        schedule, weight_decay=_DECAY.value, accumulate=_ACCUMULATE.value
    )
    given = _given(run_dir)  # refused before anything is written
    first = parallel.is_first()
    if first:
        shared.open_run(run_dir, flags.FLAGS, free=_FREE)
    root = jax.random.key(_SEED.value)
    init_key, train_key, eval_key, bank_key = (jax.random.fold_in(root, i) for i in range(4))
    with checkpoint.manager(run_dir / "checkpoints", keep=_KEEP.value) as checkpoints:
        state = _initial_state(
            init_key, model, optimizer, config.size, given=given, checkpoints=checkpoints
        )
        parallel.check_same(int(state.step), place=f"--run_dir={run_dir}")
        if int(state.step):
            print(f"Going on from step {int(state.step)} in {run_dir}.", flush=True)
        begun = int(state.step) > 0
        state = parallel.replicate(state)
        bank, held = ground.banks(
            bank_key,
            config,
            scenes=_SCENES.value,
            holdout=_HOLDOUT.value,
            procedural_tiles=_TILES.value,
            run_dir=run_dir,
            begun=begun,
        )
        step = _train_function(model, optimizer, config)
        score = _eval_function(model, config)
        print(f"Training {_MODEL.value} on {devices} device(s), {_BATCH.value} samples a step.")
        settings = shared.settings(flags.FLAGS) | {"model_options": description["options"]}

        def evaluate(state):
            return _evaluate(score, state.average, held, eval_key, examples)

        with (
            RunLog(run_dir, wandb_mode=_WANDB.value, config=settings, job="train")
            if first
            else NoLog()
        ) as log:
            state = _loop(
                state,
                run_dir=run_dir,
                log=log,
                checkpoints=checkpoints,
                description=description,
                train=lambda state: step(state, bank, train_key, examples),
                evaluate=evaluate,
                schedule=schedule,
            )
        factor = metrics.sigma_factor(evaluate(state))
    if first:
        notes = {
            "step": int(state.step),
            "sigma_factor": factor,  # so that sigma holds 68 % of the errors on held-out pairs
            "provenance": shared.provenance(),
        }
        checkpoint.export(run_dir / "export", state.average, description, notes)
        print(f"Done: weights to use are in {run_dir / 'export'}.")


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(
        run.guarded("train", _train, stopped="stopped at once; the last checkpoint is kept."),
        flags_parser=run.parse_flags,
    )
