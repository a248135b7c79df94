"""Training end to end in a temporary folder: steps, resume, devices, and what a user sees."""

import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest

from data_gen.config import GeneratorConfig
from data_gen.generator import Sample, example_keys, simulate_batch
from displacement import checkpoint, losses, parallel, training
from displacement.models import create_model
from experiments import train

KEY = jax.random.key(0)
CONFIG = GeneratorConfig(size=32)
MODEL = create_model("unet", widths=(8, 8), radius=2)
OPTIMIZER = training.create_optimizer(
    learning_rate=3e-3, warmup_steps=2, total_steps=40, weight_decay=0.0
)
TINY = ["--size=32", "--batch=8", "--model=unet", "--eval_batches=1", "--wandb_mode=disabled"]
# Most of the time goes into compiling.
TINY += ["--jax_disable_most_optimizations=true", "--jax_num_cpu_devices=2"]
TINY += ['--model_options={"widths": [8, 8], "radius": 2}', "--warmup_steps=1"]
SIX_STEPS = ["--steps=6", "--log_every=1", "--save_every=2", "--eval_every=6"]


def _run(*arguments):
    """Runs the training script in a process of its own, on two CPU devices."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


def _steps(devices, count):
    def step(state, key, examples):
        sample = simulate_batch(example_keys(key, state.step, examples), CONFIG)
        return training.train_step(
            state,
            sample,
            model=MODEL,
            optimizer=OPTIMIZER,
            average_decay=0.9,
            axis_name=parallel.AXIS,
        )

    mapped = jax.pmap(
        step,
        axis_name=parallel.AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=jax.local_devices()[:devices],
    )
    state = training.create_state(KEY, MODEL, OPTIMIZER, size=32)
    found = []
    for _ in range(count):
        state, scalars = mapped(state, jax.random.key(1), parallel.example_indices(8, devices))
        found.append(float(scalars["loss"]))
    return state, found


def test_loss_falls_and_devices_do_not_matter():
    _, one = _steps(1, 3)
    _, eight = _steps(8, 25)
    assert np.mean(eight[-8:]) < np.mean(eight[:4])
    np.testing.assert_allclose(eight[:3], one, rtol=0.01, atol=2e-3)


def test_accumulated_steps_make_one_update_of_their_mean_gradient():
    settings = {"learning_rate": 0.1, "warmup_steps": 1, "total_steps": 8, "weight_decay": 0.0}
    accumulating = training.create_optimizer(**settings, accumulate=2)
    plain = training.create_optimizer(**settings)
    params = {"w": np.float32([1.0, -2.0])}
    gradients = [{"w": np.float32([0.1, 0.3])}, {"w": np.float32([0.3, -0.1])}]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    state, reference = accumulating.init(params), plain.init(params)
    for _ in range(2):  # the first update has a learning rate of 0
        nothing, state = accumulating.update(gradients[0], state, params)
        found, state = accumulating.update(gradients[1], state, params)
        expected, reference = plain.update(mean, reference, params)
        assert not np.any(nothing["w"])
    assert np.all(found["w"])
    # Their schedules stand at steps 2 and 1 of 8.
    ratio = 0.5 * (1 + np.cos(np.pi / 7)) * 0.99 + 0.01
    np.testing.assert_allclose(found["w"], ratio * expected["w"], rtol=1e-4)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        parallel.example_indices(12, 8)


def test_invalid_pixels_do_not_count():
    rng = np.random.default_rng(0)
    shape = (1, 32, 32)
    sample = Sample(
        pair=rng.standard_normal((*shape, 2)).astype(np.float32),
        displacement=rng.standard_normal((*shape, 2)).astype(np.float32),
        distance=np.full(shape, 5.0, np.float32),
        slip=np.ones((*shape, 2), np.float32),
        valid=np.arange(32)[:, None] >= np.full(shape, 16),
    )
    model = create_model("unet", widths=(4, 4), radius=0)
    params = jax.jit(model.init)(jax.random.key(0), sample.pair)["params"]
    loss = jax.jit(lambda sample: training.batch_loss(model, params, sample)[0])
    spoiled = sample.displacement.copy()
    spoiled[:, :16] = 1e3
    assert float(loss(sample)) == float(loss(sample._replace(displacement=spoiled)))
    spoiled[:, 16:] = 1e3
    assert float(loss(sample)) != float(loss(sample._replace(displacement=spoiled)))


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_the_best_sigma_holds_what_it_promises(rng, kind):
    errors = getattr(rng, kind)(size=(200_000, 1)).astype(np.float32)
    scales = np.linspace(-2.0, 2.0, 401)
    found = [float(losses.coverage(errors, scale, 0.0).mean()) for scale in scales]
    sigma = float(losses.sigma(scales[np.argmin(found)]))
    if kind == "normal":
        assert sigma == pytest.approx(1.0, abs=0.02)
    shares = [(np.abs(errors) < sigmas * sigma).mean() for sigmas in (1.0, 1.96)]
    np.testing.assert_allclose(shares, (0.68, 0.95), atol=0.04)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of 6 steps, and one of the same that is cut after 4 and goes on."""
    folder = tmp_path_factory.mktemp("runs")
    whole, cut = folder / "whole", folder / "cut"
    common = [*TINY, *SIX_STEPS]
    done = _run(*common, f"--run_dir={whole}")
    assert done.returncode == 0, done.stderr
    # A run that was stopped after step 4 has no later checkpoint.
    subprocess.run(["cp", "-r", whole, cut], check=True)
    subprocess.run(["rm", "-r", cut / "checkpoints" / "6", cut / "export"], check=True)
    again = _run(*common, f"--run_dir={cut}")
    assert again.returncode == 0, again.stderr
    assert "Going on from step 4" in again.stdout
    return whole, cut


def test_resume_equals_an_uninterrupted_run(runs):
    (_, a, _), (_, b, _) = (checkpoint.load_weights(run) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_can_be_used_by_its_folder_checkpoint_or_export(runs):
    whole, _ = runs
    for where in (whole, whole / "checkpoints" / "4", whole / "export"):
        model, params, details = checkpoint.load_weights(where)
        displacement, log_scale = model.apply({"params": params}, np.zeros((1, 32, 32, 2)))
        assert displacement.shape == log_scale.shape == (1, 32, 32, 2)
        assert details["weights"] == str(whole / "export" if where == whole else where)


def test_a_run_tells_what_it_was(runs):
    whole, _ = runs
    flags = (whole / "flags.txt").read_text().splitlines()
    assert "--steps=6" in flags and "--size=32" in flags
    made = json.loads((whole / "provenance.jsonl").read_text().splitlines()[0])
    assert {"command", "git", "versions", "devices"} <= made.keys()
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
    assert any("eval/near/mae" in row and row["eval/near/count"] > 0 for row in rows)


def test_other_flags_in_the_same_folder_are_refused(runs):
    whole, _ = runs
    done = _run(*TINY, "--steps=6", "--learning_rate=0.5", f"--run_dir={whole}")
    assert done.returncode == 1
    assert "--learning_rate=0.001 -> --learning_rate=0.5" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_that_is_not_finite_stops_with_the_step(tmp_path):
    done = _run(*TINY, "--steps=5", "--learning_rate=1e30", f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "loss became" in done.stderr and "at step" in done.stderr
    assert not list(pathlib.Path(tmp_path / "run" / "checkpoints").glob("[0-9]*"))


def test_a_gradient_that_is_not_finite_stops_before_its_state_is_saved():
    scalars = [{"loss": 0.1, "gradient_norm": norm} for norm in (1.0, float("inf"))]
    with pytest.raises(ValueError, match="gradient norm became inf at step 8"):
        train._means(scalars, 7, pathlib.Path("run"))


def test_of_several_weights_the_mean_is_taken(tmp_path, monkeypatch):
    description = {"name": "unet", "options": {"widths": [8, 8], "radius": 2}}
    fresh = jax.eval_shape(lambda: training.create_state(KEY, MODEL, OPTIMIZER, size=32)).params
    for value in (1.0, 2.0):
        params = jax.tree.map(lambda leaf, v=value: np.full(leaf.shape, v, leaf.dtype), fresh)
        checkpoint.export(tmp_path / str(value), params, description, {})
    given = types.SimpleNamespace(value=[str(tmp_path / "1.0"), str(tmp_path / "2.0")])
    monkeypatch.setattr(train, "_INIT", given)
    nothing = types.SimpleNamespace(latest_step=lambda: None)
    state = train._initial_state(KEY, MODEL, OPTIMIZER, 32, nothing)
    for leaf in jax.tree.leaves((state.params, state.average)):
        np.testing.assert_array_equal(leaf, 1.5)


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.train", *TINY, "--steps=100000"]
    command += [f"--run_dir={run}", "--log_every=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        log = run / "metrics.jsonl"
        while not (log.exists() and log.read_text().strip()):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 1
    saved = [int(path.name) for path in (run / "checkpoints").glob("[0-9]*")]
    assert len(saved) == 1 and f"saved at step {saved[0]}" in message
    checkpoint.load_weights(run)


def test_two_hosts_train_as_one(runs, tmp_path):
    """Two processes of a device each, and one of two, on the same samples."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = tmp_path / "both"
    one_device = [flag.replace("devices=2", "devices=1") for flag in (*TINY, *SIX_STEPS)]
    command = [sys.executable, "-m", "experiments.train", *one_device, f"--run_dir={run}"]
    command += [f"--coordinator=localhost:{port}", "--hosts=2"]

    def both():
        hosts = [
            subprocess.Popen([*command, f"--host={host}"], stderr=subprocess.PIPE, text=True)
            for host in (0, 1)
        ]
        for host in hosts:
            _, message = host.communicate(timeout=400)
            assert host.returncode == 0, message

    both()
    shutil.rmtree(run / "checkpoints" / "6")
    shutil.rmtree(run / "export")
    both()  # each reads what the first one wrote
    found = []
    for folder in (runs[0], run):
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found.append([row["train/loss"] for row in rows if "train/loss" in row])
    assert len(found[1]) == 6 + 2
    np.testing.assert_allclose(found[1][:6], found[0], rtol=0.01, atol=2e-3)
    np.testing.assert_allclose(found[1][6:], found[1][4:6], rtol=1e-4)
    assert (run / "export" / "params.npz").exists()
