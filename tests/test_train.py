"""The training script end to end in a temporary folder: resume, hosts, and what a user sees."""

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

from data_gen.scenes import SceneBank
from displacement import checkpoint, training
from displacement.models import create_model
from experiments import ground, train

TINY = ["--size=32", "--batch=8", "--model=unet", "--eval_batches=1", "--wandb_mode=disabled"]
# Most of the time goes into compiling.
TINY += ["--jax_disable_most_optimizations=true", "--jax_num_cpu_devices=2"]
TINY += ['--model_options={"widths": [8, 8], "radius": 0}', "--warmup_steps=1"]
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


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with one checkpoint, from whose weights others start."""
    run = tmp_path_factory.mktemp("begun")
    description = {"name": "unet", "options": {"widths": [8, 8], "radius": 0}}
    model = create_model("unet", **description["options"])
    optimizer = training.create_optimizer(lambda step: 1e-3, weight_decay=0.0)
    state = training.create_state(jax.random.key(3), model, optimizer, size=32)
    with checkpoint.manager(run / "checkpoints") as checkpoints:
        checkpoint.save(checkpoints, 1, state, description)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, begun):
    """One run of 6 steps, and one of the same that is cut after 4 and goes on."""
    folder = tmp_path_factory.mktemp("runs")
    whole, cut = folder / "whole", folder / "cut"
    common = [*TINY, *SIX_STEPS, f"--init={begun}"]
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
    rates = [row["train/learning_rate"] for row in rows if "train/learning_rate" in row]
    assert rates[0] == 0.0 and rates[1] == max(rates) == pytest.approx(1e-3)
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


def test_two_hosts_train_as_one(runs, begun, tmp_path):
    """Two processes of a device each, and one of two, from one checkpoint on the same samples."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    run = tmp_path / "both"
    one_device = [flag.replace("devices=2", "devices=1") for flag in (*TINY, *SIX_STEPS)]
    command = [sys.executable, "-m", "experiments.train", *one_device, f"--run_dir={run}"]
    command += [f"--init={begun}", f"--coordinator=localhost:{port}", "--hosts=2"]

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


def test_ground_that_was_prepared_anew_is_refused(tmp_path):
    shape = (3, 2, 32, 32)
    bank = SceneBank(np.zeros(shape), np.zeros((3, 2, 3)), np.ones(3), np.ones((3, 4, 4)))
    other = bank._replace(coefficients=np.ones(shape))
    ground.check(other, tmp_path, name="bank.npz", begun=False)
    ground.check(bank, tmp_path, name="bank.npz", begun=False)  # nothing was done yet
    ground.check(bank, tmp_path, name="bank.npz", begun=True)
    with pytest.raises(ValueError, match=r"does not hold what .* began with.*another --run_dir"):
        ground.check(other, tmp_path, name="bank.npz", begun=True)


def test_a_gradient_that_is_not_finite_stops_before_its_state_is_saved():
    scalars = [{"loss": 0.1, "gradient_norm": norm} for norm in (1.0, float("inf"))]
    with pytest.raises(ValueError, match="gradient norm became inf at step 8"):
        train._means(scalars, 7, pathlib.Path("run"))


def test_of_several_weights_the_mean_is_taken(tmp_path, monkeypatch):
    description = {"name": "unet", "options": {"widths": [8, 8], "radius": 0}}
    key, model = jax.random.key(0), create_model("unet", **description["options"])
    optimizer = training.create_optimizer(lambda step: 3e-3, weight_decay=0.0)
    fresh = jax.eval_shape(lambda: training.create_state(key, model, optimizer, size=32)).params
    for value in (1.0, 2.0):
        params = jax.tree.map(lambda leaf, v=value: np.full(leaf.shape, v, leaf.dtype), fresh)
        checkpoint.export(tmp_path / str(value), params, description, {})
    given = types.SimpleNamespace(value=[str(tmp_path / "1.0"), str(tmp_path / "2.0")])
    monkeypatch.setattr(train, "_INIT", given)
    (tmp_path / "run" / "checkpoints" / "5").mkdir(parents=True)
    assert train._given(tmp_path / "run") == []  # it goes on
    nothing = types.SimpleNamespace(latest_step=lambda: None)
    given = train._given(tmp_path / "new")
    state = train._initial_state(key, model, optimizer, 32, given=given, checkpoints=nothing)
    for leaf in jax.tree.leaves((state.params, state.average)):
        np.testing.assert_array_equal(leaf, 1.5)
