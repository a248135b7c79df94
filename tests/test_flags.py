"""The run directory: what it remembers, what may change when a run goes on, what replays it."""

import copy
import json

import pytest
from absl import flags

from experiments import flags as shared
from experiments import train


def _flags(*words):
    assert train.__name__ in flags.FLAGS.flags_by_module_dict()
    values = copy.deepcopy(flags.FLAGS)
    values(["train", *words])
    return values


def _open(folder, *words):
    shared.open_run(folder, _flags(*words), free=("steps",))


def _saved(folder, step=2):
    (folder / "checkpoints" / str(step)).mkdir(parents=True)


def test_flags_replay_the_run(tmp_path):
    run = tmp_path / "run"
    asked = _flags("--displacement_range=small", "--noise_fraction=0.01,0.1", "--batch=4")
    shared.open_run(run, asked, free=())
    again = _flags(f"--flagfile={run / 'flags.txt'}")
    assert again.batch == 4
    assert shared.generator_config(again) == shared.generator_config(asked)
    assert shared.generator_config(asked) != shared.generator_config(_flags())
    _saved(run)
    shared.open_run(run, again, free=("flagfile",))  # it goes on from its own flags too


def test_the_log_tells_what_the_simulator_makes_of_its_flags():
    asked = _flags("--displacement_range=very_small", "--batch=4")
    told = shared.settings(asked)
    assert told["slip_px"] == (0.02, 0.2)
    assert told["batch"] == 4
    assert not any(name.startswith("jax") for name in told)


def test_a_run_goes_on_with_the_same_flags_alone(tmp_path):
    _open(tmp_path, "--learning_rate=0.1", "--steps=5")
    _saved(tmp_path)
    _open(tmp_path, "--learning_rate=0.1", "--steps=9")
    with pytest.raises(ValueError, match=r"--learning_rate=0\.1 -> --learning_rate=0\.2"):
        _open(tmp_path, "--learning_rate=0.2", "--steps=9")
    assert len((tmp_path / "provenance.jsonl").read_text().splitlines()) == 2


def test_flags_whose_names_begin_with_no_are_compared(tmp_path):
    _open(tmp_path, "--nodata_fraction=0.1")
    _saved(tmp_path)
    with pytest.raises(ValueError, match=r"--nodata_fraction=0\.1 -> --nodata_fraction=0\.2"):
        _open(tmp_path, "--nodata_fraction=0.2")


def test_a_run_that_never_saved_takes_other_flags(tmp_path):
    """A typing error in the first command would claim the folder for good."""
    _open(tmp_path, "--learning_rate=10")
    _open(tmp_path, "--learning_rate=0.1")
    assert "--learning_rate=0.1" in (tmp_path / "flags.txt").read_text()


def test_a_record_is_json_whatever_is_in_it(tmp_path):
    path = tmp_path / "scores.json"
    shared.write_json(path, {"cnn": {"far": float("nan"), "near": [0.5, float("inf")]}})

    def refuse(name):
        raise AssertionError(name)

    assert json.loads(path.read_text(), parse_constant=refuse)["cnn"] == {
        "far": None,
        "near": [0.5, None],
    }
