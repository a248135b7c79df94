"""Checkpoints with Orbax: those of a run, to go on from, and exported weights, to use.

A run keeps its whole state under `checkpoints/`. Weights to use are the averaged parameters with
what is needed to build their network, in one folder: `params.npz` and `model.json`. Shipped ones
lie under `displacement/weights/<name>/`.
"""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from displacement.files import make_folder
from displacement.models import create_model

SHIPPED = pathlib.Path(__file__).parent / "weights"
_FAILURES = (  # to read what is damaged
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    zipfile.BadZipFile,
)
_TOGETHER = "params.npz and model.json belong together. Export or copy them again."


def manager(folder: str | os.PathLike, *, keep: int = 3) -> ocp.CheckpointManager:
    """A run's checkpoints: saved in the background, the latest `keep` retained.

    Of several hosts each reads for itself and the first alone writes: all hold the same state.
    """
    this = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"host{this}"
    )
    several = jax.process_count() > 1
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=True,
        create=not several,
        multiprocessing_options=alone if several else ocp.options.MultiprocessingOptions(),
    )
    if several:  # Orbax does not make the folder for one of several
        make_folder(folder)
    return ocp.CheckpointManager(pathlib.Path(folder).absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any, model: dict) -> None:
    """Starts to save `state` and the description of its network ({"name", "options"})."""
    if jax.process_index():
        return
    if jax.process_count() > 1:
        state = jax.device_get(state)  # to Orbax a copy on each host is not a whole array
    checkpoints.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), model=ocp.args.JsonSave(model)),
    )


def restore(checkpoints: ocp.CheckpointManager, state: Any) -> Any:
    """The latest state, laid out as `state` is.

    Raises:
      ValueError: there is none, or it is of another network.
    """
    step = checkpoints.latest_step()
    if step is None:
        raise ValueError(
            f"No checkpoint under {checkpoints.directory} to restore; give a run that has one."
        )
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    try:
        return checkpoints.restore(step, args=args).state
    except ValueError as error:  # its words on each leaf fill a screen
        reason = str(error).splitlines()[0][:100]
        raise ValueError(
            f"The checkpoint of step {step} under {checkpoints.directory} does not fit the network"
            f" ({reason}...): its code has changed since, or its optimizer. Train on in another"
            " --run_dir."
        ) from error


def export(folder: str | os.PathLike, params: Any, model: dict, notes: dict) -> None:
    """Writes weights to use: `params.npz` and `model.json`; what else is in the folder stays.

    Args:
      folder: destination.
      params: the network's (averaged) parameters.
      model: {"name": ..., "options": ...} for `create_model`.
      notes: what is to be known about them, JSON-able (step, command, scores).
    """
    folder = pathlib.Path(folder)
    make_folder(folder.parent)
    scratch = pathlib.Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        flat = flax.traverse_util.flatten_dict(jax.device_get(params), sep="/")
        np.savez(scratch / "params.npz", **flat)
        text = json.dumps({"model": model, "notes": notes}, indent=2)
        (scratch / "model.json").write_text(text + "\n")
        scratch.chmod(0o755)
        if folder.exists():
            for extra in folder.iterdir():  # flags and model card stay beside the weights
                if extra.is_dir():
                    shutil.copytree(extra, scratch / extra.name, symlinks=True)
                elif extra.name not in ("params.npz", "model.json"):
                    shutil.copy2(extra, scratch / extra.name)
            before = folder.rename(scratch.with_name(f"{scratch.name}.before"))
            try:
                scratch.rename(folder)
            except BaseException:
                before.rename(folder)
                raise
            shutil.rmtree(before)
        else:
            scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@contextlib.contextmanager
def _reading(folder: pathlib.Path, remedy: str) -> Iterator[None]:
    """Says of weights that they are damaged, whatever it was that failed."""
    try:
        yield
    except _FAILURES as error:
        raise ValueError(
            f"The weights in {folder} are damaged or not whole ({error!r}): {remedy}"
        ) from error


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Orbax warns of a file that a part of a checkpoint never has."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _from_run(folder: pathlib.Path, step: int) -> tuple[dict, Any]:
    with ocp.CheckpointManager(folder.absolute()) as checkpoints:
        if step not in checkpoints.all_steps():
            known = sorted(checkpoints.all_steps())
            raise ValueError(f"No checkpoint of step {step} under {folder}; it has {known}.")
        with _reading(folder / str(step), "use another checkpoint of the run."):
            # Onto a device of this host, wherever it was written: the tree is that of the files.
            here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
            with ocp.StandardCheckpointer() as reader, _without_warnings():
                stored = reader.metadata(folder.absolute() / str(step) / "state")
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
                stored.item_metadata.tree,
            )
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract), model=ocp.args.JsonRestore()
            )
            restored = checkpoints.restore(step, args=args)
            state, model = restored.state, dict(restored.model)
            return model, state["average"] if isinstance(state, dict) else state.average


def _described(folder: pathlib.Path) -> tuple[dict, dict]:
    """Network and notes of exported weights."""
    with _reading(folder, _TOGETHER):
        described = json.loads((folder / "model.json").read_text())
        return described["model"], described["notes"]


def _params(folder: pathlib.Path) -> Any:
    """Parameters of exported weights."""
    with (
        _reading(folder, _TOGETHER),
        (folder / "params.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        return flax.traverse_util.unflatten_dict(dict(arrays), sep="/")


def steps(run_dir: pathlib.Path) -> list[int]:
    """Steps of a run that have a checkpoint, rising."""
    names = (path.name for path in (run_dir / "checkpoints").glob("*"))
    return sorted(int(name) for name in names if name.isdigit())


def _of_run(run_dir: pathlib.Path) -> pathlib.Path:
    """Where the latest weights of a run are: its export, or a checkpoint later than that.

    An export knows by how much its sigma is to be multiplied; a checkpoint does not.
    """
    checkpoints, export = run_dir / "checkpoints", run_dir / "export"
    latest = max(steps(run_dir), default=-1)
    if (export / "params.npz").exists() and _described(export)[1].get("step", 0) >= latest:
        return export
    if latest < 0:
        raise ValueError(f"No checkpoint under {checkpoints} yet: train on, or give another run.")
    return checkpoints / str(latest)


def load_weights(where: str | os.PathLike) -> tuple[nn.Module, Any, dict]:
    """Loads a network to use.

    Args:
      where: name of shipped weights, a folder of exported weights, a run directory (its latest
        checkpoint, or its export where that is as late), or one checkpoint
        `run/checkpoints/<step>`, whose sigma is not calibrated yet.

    Returns:
      the network, its parameters as NumPy arrays, and {"weights": name, or path of what was loaded,
      "network_options": its options, "step": ..., "sigma_factor": by which its sigma is to be
      multiplied} as far as known.

    Raises:
      ValueError: there is nothing of the kind.
    """
    shipped = sorted(p.name for p in SHIPPED.glob("*") if (p / "params.npz").exists())
    folder = SHIPPED / str(where) if str(where) in shipped else pathlib.Path(where)
    details = {"weights": str(where)}
    if not (folder / "params.npz").exists() and (folder / "checkpoints").is_dir():
        folder = _of_run(folder)  # a run may go on: what is loaded now is named
        details["weights"] = str(folder)
    if (folder / "params.npz").exists():
        (model, notes), params = _described(folder), _params(folder)
        details |= {name: notes[name] for name in ("step", "sigma_factor") if name in notes}
    elif folder.name.isdigit() and folder.is_dir():
        model, params = _from_run(folder.parent, int(folder.name))
        details["step"] = int(folder.name)
    else:
        raise ValueError(
            f"No weights at {str(where)!r}: give one of {shipped}, a run directory, a checkpoint "
            "run/checkpoints/<step>, or a folder with params.npz and model.json."
        )
    # Options are not in the parameters: the same ones may be looked through once or three times.
    details["network_options"] = model["options"]
    return create_model(model["name"], **model["options"]), jax.device_get(params), details
