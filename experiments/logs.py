"""Where a run's figures go: a file of JSON lines, and Weights & Biases when asked."""

import json
import math
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any

from displacement.files import atomic_path, make_folder


def flatten(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts to one with names joined by slashes."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def differences(before: dict, now: dict) -> str:
    """`name was -> is` of what differs between two nested dicts of settings."""
    was, now = flatten(before), flatten(now)
    names = [name for name in was | now if was.get(name) != now.get(name)]
    return ", ".join(f"{name} {was.get(name)} -> {now.get(name)}" for name in names)


def finite(record: Any) -> Any:
    """A JSON-able record with None for every number that is not finite."""
    if isinstance(record, Mapping):
        return {name: finite(value) for name, value in record.items()}
    if isinstance(record, list | tuple):
        return [finite(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def _kept_id(run_dir: pathlib.Path) -> str:
    """The id of a training's W&B run, the same when it goes on."""
    path = run_dir / "wandb_id"
    if not path.exists():
        with atomic_path(path) as partial:
            partial.write_text(uuid.uuid4().hex[:8])
    return path.read_text()


class RunLog:
    """Appends figures by step to a file of JSON lines and to W&B; use as a context manager."""

    def __init__(
        self,
        run_dir: pathlib.Path,
        *,
        wandb_mode: str,
        config: dict,
        job: str,
        name: str = "metrics.jsonl",
    ):
        """Opens the log `run_dir/name`; W&B is imported only if its mode is not "disabled"."""
        make_folder(run_dir)
        path = run_dir / name
        torn = path.exists() and path.read_bytes()[-1:] not in (b"\n", b"")
        self._file = path.open("a")
        if torn:  # by a crash: what follows begins a line of its own
            self._file.write("\n")
        self._wandb = None
        if wandb_mode != "disabled":
            try:
                import wandb
            except ImportError as error:
                raise ValueError(
                    "W&B is not installed: pip install wandb, or use --wandb_mode=disabled."
                ) from error
            chosen = os.environ
            goes_on = _kept_id(run_dir) if job == "train" else None
            try:
                self._wandb = wandb.init(
                    id=chosen.get("WANDB_RUN_ID") or goes_on,
                    project=chosen.get("WANDB_PROJECT") or "displacement",
                    dir=str(run_dir),
                    mode=wandb_mode,
                    name=chosen.get("WANDB_NAME") or run_dir.absolute().name,
                    job_type=job,
                    config=config,
                    resume="allow" if wandb_mode == "online" else None,
                    settings=wandb.Settings(silent=True),
                )
            except wandb.errors.Error as error:  # no login, no network
                self._file.close()
                raise ValueError(
                    f"W&B did not start ({error}). Log in by `wandb login`, or use"
                    " --wandb_mode=offline."
                ) from error

    def write(self, step: int, figures: dict) -> None:
        """Records figures (nested dicts of numbers) at a step."""
        flat = flatten(figures)
        self._file.write(json.dumps(finite({"step": step} | flat), allow_nan=False) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def show(self, pictures: dict[str, pathlib.Path]) -> None:
        """Hands figures (PNG files) to W&B; without it they lie where they are."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(str(path)) for name, path in pictures.items()})

    def tabulate(self, tables: dict[str, list[list]]) -> None:
        """Hands tables (rows, the head first) to W&B."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Table(rows[0], rows[1:]) for name, rows in tables.items()})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


class NoLog:
    """In place of `RunLog` on the hosts that write nothing."""

    def write(self, step: int, figures: dict) -> None:
        """Does nothing."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Does nothing."""
