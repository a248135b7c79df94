"""Shared flags, the configs they become, and the run directory that can replay itself."""

import dataclasses
import importlib.metadata
import inspect
import json
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Container
from typing import Any

import jax
from absl import flags

from data_gen.config import RANGES, GeneratorConfig
from displacement.files import atomic_path, make_folder
from experiments.logs import finite

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "displacement")


def _meanings() -> dict[str, str]:
    """What each field of GeneratorConfig is: the comment beside it."""
    source = inspect.getsource(GeneratorConfig)
    return dict(re.findall(r"^    (\w+): .+?  # (.+)$", source, re.MULTILINE))


def define_generator(**defaults) -> None:
    """A flag for each field of GeneratorConfig; ranges are given as `--slip_px=0.1,4`."""
    flags.DEFINE_enum(
        "displacement_range",
        None,
        list(RANGES),
        "simulator: sets slip_px, offset_px, ramp_px and bump_px, but those given",
    )
    meanings = _meanings()
    for field in dataclasses.fields(GeneratorConfig):
        default = defaults.get(field.name, field.default)
        meaning = f"simulator: {meanings[field.name]}"
        if isinstance(default, tuple):
            texts = [str(x) for x in default]
            flags.DEFINE_list(field.name, texts, meaning.replace(": ", ": low,high, ", 1))
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, meaning)
        else:
            flags.DEFINE_float(field.name, default, meaning)


def generator_config(values: flags.FlagValues) -> GeneratorConfig:
    """The GeneratorConfig that the flags ask for.

    Raises:
      ValueError: a range is not two rising numbers, or out of bounds.
    """
    chosen = {}
    for field in dataclasses.fields(GeneratorConfig):
        value = values[field.name].value
        if isinstance(field.default, tuple):
            try:
                value = tuple(float(x) for x in value)
            except ValueError as error:
                raise ValueError(f"--{field.name}={value} is not low,high.") from error
        chosen[field.name] = value
    for name, value in RANGES.get(values.displacement_range, {}).items():
        if not values[name].present:
            chosen[name] = value
    try:
        return GeneratorConfig(**chosen)
    except ValueError as error:
        raise ValueError(f"--{error}") from error


def whole_numbers(values: flags.FlagValues, name: str) -> list[int]:
    """The numbers that a flag lists.

    Raises:
      ValueError: one is no whole number above 0.
    """
    for text in values[name].value:
        if not text.strip().isdecimal() or int(text) < 1:
            raise ValueError(f"--{name}={text} is not a whole number above 0, as in --{name}=8,16.")
    return [int(text) for text in values[name].value]


def _git(*words: str) -> str:
    root = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def provenance() -> dict:
    """What made a result: versions, git hash, device, command."""
    devices = jax.local_devices()
    return {
        "command": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": _git("rev-parse", "HEAD") + ("+changes" if _git("status", "--porcelain") else ""),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "machine": platform.machine(),
    }


def write_json(path: pathlib.Path, record: dict) -> None:
    """Writes a result, together with what made it; what is not finite as null, as JSON asks."""
    record = finite(record | {"provenance": provenance()})
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")


def read_json(path: pathlib.Path) -> dict:
    """Reads what `write_json` wrote.

    Raises:
      ValueError: it is no such file, or not whole.
    """
    try:
        record = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Use another --output.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is none of ours. Use another --output.")
    return record


def settings(values: flags.FlagValues) -> dict[str, Any]:
    """What a run was asked for, for its log: the flags of our scripts, of those of the simulator
    what `generator_config` makes of them."""
    asked = {
        flag.name: flag.value
        for module, own in values.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith("experiments.")
        for flag in own
    }
    return asked | dataclasses.asdict(generator_config(values))


def _lines(values: flags.FlagValues) -> dict[str, str]:
    """Flags of the calling script and of the simulator that have a value, as on a command line.

    Of a named range the values that it stands for: read again they count as given.
    """
    main = values.find_module_defining_flag("run_dir")
    ours = {f.name: f for module in (main, __name__) for f in values.flags_by_module_dict()[module]}
    lines = {name: flag.serialize() for name, flag in sorted(ours.items()) if name != "run_dir"}
    for name, value in RANGES.get(values.displacement_range, {}).items():
        if not values[name].present:
            numbers = value if isinstance(value, tuple) else [value]
            lines[name] = f"--{name}={','.join(map(str, numbers))}"
    return {name: line for name, line in lines.items() if line}


def _name(line: str, names: Container[str]) -> str:
    """Of the flag in a line `--name=value`, `--name` or `--noname`."""
    name = line.lstrip("-").partition("=")[0]
    return name if name in names else name.removeprefix("no")


def open_run(run_dir: pathlib.Path, values: flags.FlagValues, *, free: tuple[str, ...]) -> None:
    """Makes the run directory, or checks that it belongs to the same experiment.

    Writes `flags.txt` (replay with `--flagfile`) and `provenance.jsonl`.

    Args:
      run_dir: the directory.
      values: parsed flags; those of the calling script and of the simulator are kept.
      free: names of flags that may differ when a run goes on.

    Raises:
      ValueError: the directory belongs to a run with other flags.
    """
    now = _lines(values)
    path = run_dir / "flags.txt"
    if path.exists() and any((run_dir / "checkpoints").glob("[0-9]*")):  # else nothing was done
        lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
        before = {_name(line, now): line for line in lines}
        changed = [
            f"{before.get(name)} -> {now.get(name)}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name) and name not in free
        ]
        if changed:
            raise ValueError(
                f"{run_dir} holds a run with other flags ({'; '.join(changed)}). "
                "Use another --run_dir, or the same flags to go on."
            )
    make_folder(run_dir)
    with atomic_path(path) as partial:
        partial.write_text("\n".join(now.values()) + "\n")
    with (run_dir / "provenance.jsonl").open("a") as file:
        file.write(json.dumps(provenance()) + "\n")
