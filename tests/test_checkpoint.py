"""Weights to use: written, read back, and what is said when there are none."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from displacement import checkpoint
from displacement.models import create_model

MODEL = {"name": "patch", "options": {"patch": 8, "width": 4}}


@pytest.fixture(scope="module")
def params():
    pair = np.zeros((1, 16, 16, 2), np.float32)
    model = create_model("patch", **MODEL["options"])
    return jax.jit(model.init)(jax.random.key(0), pair)["params"]


def test_exported_weights_come_back(tmp_path, params):
    folder = tmp_path / "deeper" / "weights"
    checkpoint.export(folder, params, MODEL, {"step": 12, "command": "train"})
    assert {path.name for path in folder.iterdir()} == {"params.npz", "model.json"}
    model, loaded, details = checkpoint.load_weights(folder)
    assert model == create_model("patch", patch=8, width=4)
    known = {"weights": str(folder), "step": 12, "network_options": MODEL["options"]}
    assert details == known
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_export_replaces_weights_and_keeps_what_lies_beside(tmp_path, params):
    folder = tmp_path / "weights"
    checkpoint.export(folder, params, MODEL, {"step": 1})
    (folder / "card.md").write_text("about")
    (folder / "figures").mkdir()
    doubled = jax.tree.map(lambda x: 2 * x, params)
    checkpoint.export(str(folder), doubled, MODEL, {"step": 2})
    assert (folder / "card.md").read_text() == "about"
    assert (folder / "figures").is_dir()
    assert json.loads((folder / "model.json").read_text())["notes"] == {"step": 2}
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load_weights(folder)[1], doubled)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]  # no scratch is left


def test_failed_export_leaves_the_old_weights(tmp_path, params):
    folder = tmp_path / "weights"
    checkpoint.export(folder, params, MODEL, {"step": 1})
    with pytest.raises(TypeError):
        checkpoint.export(folder, params, MODEL, {"step": object()})
    assert checkpoint.load_weights(folder)[2]["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_shipped_weights_go_by_name(tmp_path, params, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    checkpoint.export(tmp_path / "small", params, MODEL, {"step": 3})
    known = {"weights": "small", "step": 3, "network_options": MODEL["options"]}
    assert checkpoint.load_weights("small")[2] == known
    with pytest.raises(ValueError, match=r"No weights at 'large': give one of \['small'\]"):
        checkpoint.load_weights("large")


def test_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="No weights at"):
        checkpoint.load_weights(tmp_path)
    checkpoints = checkpoint.manager(tmp_path / "checkpoints")
    with checkpoints, pytest.raises(ValueError, match="No checkpoint under"):
        checkpoint.restore(checkpoints, {})
    with pytest.raises(ValueError, match="No checkpoint"):
        checkpoint.load_weights(tmp_path)  # a run that was stopped before its first checkpoint


@pytest.mark.parametrize("other", [{"w": (5,)}, {"w": (4,), "b": (4,)}])
def test_a_run_of_another_network_is_not_gone_on_with(tmp_path, other):
    with checkpoint.manager(tmp_path / "checkpoints") as checkpoints:
        checkpoint.save(checkpoints, 4, {"w": np.zeros(4)}, MODEL)
        checkpoints.wait_until_finished()
        match = r"step 4 under .* does not fit the network.*in another --run_dir"
        with pytest.raises(ValueError, match=match):
            checkpoint.restore(checkpoints, {name: jnp.zeros(n) for name, n in other.items()})


@pytest.mark.parametrize("name", ["params.npz", "model.json"])
def test_damaged_weights_are_refused(tmp_path, params, name):
    checkpoint.export(tmp_path / "w", params, MODEL, {"step": 1})
    path = tmp_path / "w" / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"damaged or not whole.*Export or copy them again"):
        checkpoint.load_weights(tmp_path / "w")


@pytest.mark.parametrize("part", ["state", "model"])
def test_damaged_checkpoints_are_refused(tmp_path, params, part):
    with checkpoint.manager(tmp_path / "checkpoints") as checkpoints:
        checkpoint.save(checkpoints, 4, {"average": params}, MODEL)
    shutil.rmtree(tmp_path / "checkpoints" / "4" / part)
    with pytest.raises(ValueError, match=r"checkpoints/4 are damaged.*another checkpoint"):
        checkpoint.load_weights(tmp_path)


def test_of_a_run_the_export_counts_until_a_later_checkpoint(tmp_path, params):
    checkpoint.export(tmp_path / "export", params, MODEL, {"step": 4, "sigma_factor": 1.5})
    with checkpoint.manager(tmp_path / "checkpoints") as checkpoints:
        for step, factor in ((4, 1.0), (6, 2.0)):
            scaled = jax.tree.map(lambda x, factor=factor: factor * x, params)
            checkpoint.save(checkpoints, step, {"average": scaled}, MODEL)
            checkpoints.wait_until_finished()
            _, loaded, details = checkpoint.load_weights(tmp_path)
            jax.tree.map(np.testing.assert_array_equal, loaded, scaled)
            calibrated = {"sigma_factor": 1.5} if step == 4 else {}
            loaded_from = tmp_path / ("export" if step == 4 else "checkpoints/6")
            known = {"weights": str(loaded_from), "step": step}
            assert details == known | {"network_options": MODEL["options"]} | calibrated
