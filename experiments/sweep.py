"""Trains once for every point of a grid, or for random draws, and ranks the runs in a table.

./launch.sh sweep --config=experiments/configs/sweep.yaml --sweep_dir=runs/sweep
./launch.sh sweep --config=my.yaml --sweep_dir=runs/my --flags="--scenes=bank.npz --batch=16"

The file is one that `wandb sweep` takes too (method grid or random; metric; parameters with value,
values, or min and max; run_cap). Here the runs follow each other on this machine. Ctrl-C stops; the
same command goes on, also in the middle of a run. Figures are in summary.csv.
"""

import contextlib
import csv
import hashlib
import itertools
import json
import math
import pathlib
import shlex
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml
from absl import app, flags

from displacement.files import atomic_path, make_folder
from experiments import run

_SUPPORTED = ("grid", "random")


def _define_flags():
    flags.DEFINE_string("config", None, "YAML file of the sweep.", required=True)
    flags.DEFINE_string("sweep_dir", None, "Folder of the runs and of summary.csv.", required=True)
    flags.DEFINE_string(
        "flags",
        "",
        "Further flags for every run, as on a command line; those of the file come first.",
    )
    flags.DEFINE_integer("seed", 0, "Of the draws of a random sweep.")


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads a sweep.

    Args:
      path: YAML file.

    Returns:
      method, metric {"name", "goal"}, parameters, run_cap (None if there is none), program.

    Raises:
      ValueError: what is missing or not supported, and what is.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as a sweep: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("parameters"), dict):
        raise ValueError(f"{path} has no `parameters`; give a name and its values for each.")
    method = config.get("method")
    if method not in _SUPPORTED:
        raise ValueError(f"{path}: method {method!r} is not run here; use one of {_SUPPORTED}.")
    metric = {"goal": "minimize"} | (config.get("metric") or {})
    if "name" not in metric or metric["goal"] not in ("minimize", "maximize"):
        raise ValueError(f"{path}: metric needs a `name`, and a `goal` of minimize or maximize.")
    if method == "random" and not config.get("run_cap"):
        raise ValueError(f"{path}: a random sweep needs `run_cap`, the number of runs.")
    program = config.get("program", "experiments/train.py")
    return {
        "method": method,
        "metric": metric,
        "parameters": config["parameters"],
        "run_cap": config.get("run_cap"),
        "program": pathlib.Path(program).stem,
    }


def _draw(name: str, parameter: dict, rng: np.random.Generator) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return parameter["values"][rng.integers(len(parameter["values"]))]
    try:  # 1e-4, without a point, is a word in YAML
        low, high = (
            float(bound) if isinstance(bound, str) else bound
            for bound in (parameter["min"], parameter["max"])
        )
    except ValueError as error:
        raise ValueError(f"Parameter {name}: min and max must be numbers ({error}).") from error
    whole = isinstance(low, int) and isinstance(high, int)
    kind = parameter.get("distribution", "int_uniform" if whole else "uniform")
    if kind == "int_uniform":
        return int(rng.integers(low, high + 1))
    if kind == "uniform":
        return float(rng.uniform(low, high))
    if kind == "log_uniform_values":
        if low <= 0:
            raise ValueError(f"Parameter {name}: min={low:g} of {kind} must be above 0.")
        return float(np.exp(rng.uniform(math.log(low), math.log(high))))
    raise ValueError(
        f"Parameter {name}: distribution {kind!r} is not drawn here; use uniform, int_uniform or "
        "log_uniform_values."
    )


def points(config: dict[str, Any], *, seed: int = 0) -> list[dict[str, Any]]:
    """What each run is told.

    Args:
      config: from `read_config`.
      seed: of a random sweep.

    Returns:
      a list of {flag: value}, in the order of the runs.
    """
    parameters = config["parameters"]
    grid = config["method"] == "grid"
    for name, parameter in parameters.items():
        keys = parameter.keys() if isinstance(parameter, dict) else set()
        if not {"value", "values"} & keys and (grid or not {"min", "max"} <= keys):
            remedy = " in a grid." if grid else ", or `min` and `max`."
            raise ValueError(f"Parameter {name} needs `value` or `values`{remedy}")
        if "values" in keys and not (isinstance(parameter["values"], list) and parameter["values"]):
            raise ValueError(f"Parameter {name}: `values` must be a list, or write `value`.")
    if not grid:
        rng = np.random.default_rng(seed)
        return [
            {name: _draw(name, parameter, rng) for name, parameter in parameters.items()}
            for _ in range(config["run_cap"])
        ]
    choices = [p["values"] if "values" in p else [p["value"]] for p in parameters.values()]
    told = [dict(zip(parameters, chosen, strict=True)) for chosen in itertools.product(*choices)]
    return told[: config["run_cap"]]


def _command(program: str, point: dict, run_dir: pathlib.Path, further: list[str]) -> list[str]:
    # Of two words on one flag the later one counts: what the point tells comes after its files.
    files = [f"--flagfile={point['flagfile']}"] if "flagfile" in point else []
    told = [
        f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"
        for name, value in point.items()
        if name != "flagfile"
    ]
    words = [*files, *further, *told, f"--run_dir={run_dir}"]
    return [*run.PYTHON, f"experiments.{program}", *words]


def _flag_files(words: list[str]) -> Iterator[str]:
    """The files that `--flagfile=FILE` and `--flagfile FILE` name among words."""
    for word, following in itertools.pairwise([*words, ""]):
        name, given, path = word.partition("=")
        if name in ("-flagfile", "--flagfile"):
            yield path if given else following


def _mark(point: dict, further: list[str]) -> str:
    """Names a run by what it is told, and by what its flag files say."""
    words = [*further, *(f"--{name}={value}" for name, value in point.items())]
    said = [pathlib.Path(path).read_text() for path in _flag_files(words)]
    return hashlib.sha256(json.dumps([point, further, said], sort_keys=True).encode()).hexdigest()


def _last(run_dir: pathlib.Path, name: str) -> tuple[float, int]:
    """The figure's last value in a run's metrics.jsonl and its step; NaN and 0 without one.

    Raises:
      ValueError: the run is finished, and never told of it.
    """
    found, names = (math.nan, 0), set()
    path = run_dir / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # half a line is left of a crash
            record = json.loads(line)
            names |= record.keys()
            if name in record:
                value = math.nan if record[name] is None else float(record[name])
                found = (value, int(record["step"]))
    if not found[1] and (run_dir / "export").exists():
        raise ValueError(
            f"Run {run_dir.name} ended without the metric {name!r}."
            f" It has {', '.join(sorted(names))}."
        )
    return found


def _summarise(sweep_dir: pathlib.Path, rows: list[dict], metric: dict) -> str:
    """Writes summary.csv, best first and what is not finished last; returns it as a table."""
    name, sign = metric["name"], -1.0 if metric["goal"] == "maximize" else 1.0
    rows = sorted(rows, key=lambda r: (not r["finished"], math.isnan(r[name]), sign * r[name]))
    with atomic_path(sweep_dir / "summary.csv") as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    widths = {k: max(len(str(k)), *(len(str(row[k])) for row in rows)) for k in rows[0]}
    lines = ["  ".join(f"{k:>{w}}" for k, w in widths.items())]
    lines += ["  ".join(f"{row[k]!s:>{w}}" for k, w in widths.items()) for row in rows]
    return "\n".join(lines)


def _check(command: list[str]) -> None:
    """Has a script check the flags that it would be run with.

    Raises:
      ValueError: it does not take them.
    """
    command = [*command, "--only_check_args"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip() or "no reason").splitlines()[-1]
        raise ValueError(f"the runs do not take what they are told: {said}")


def _finished(command: list[str]) -> int:
    """Runs a command to its end and gives its code; when stopped it may save what it has first.

    Ctrl-C comes to it by itself; a scheduler's SIGTERM is passed on.
    """
    with subprocess.Popen(command) as process:

        def pass_on(*_):
            process.terminate()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, pass_on)
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


def _sweep():
    values = flags.FLAGS
    config = read_config(pathlib.Path(values.config))
    further = shlex.split(values.flags)
    sweep_dir = pathlib.Path(values.sweep_dir)
    make_folder(sweep_dir)
    metric = config["metric"]
    told = points(config, seed=values.seed)
    if told:
        _check(_command(config["program"], told[0], sweep_dir / "none", further))
    rows, failed = [], []
    for index, point in enumerate(told):
        # A sweep that is widened keeps the runs that it has.
        run_dir = sweep_dir / _mark(point, further)[:8]
        words = " ".join(f"{name}={value}" for name, value in point.items())
        if not (run_dir / "export").exists():
            print(f"\nRun {index + 1} of {len(told)}, {run_dir.name}: {words}", flush=True)
            code = _finished(_command(config["program"], point, run_dir, further))
            if code:
                failed.append(run_dir.name)
                print(f"Run {run_dir.name} ended with code {code}.", flush=True)
        figure, step = _last(run_dir, metric["name"])
        finished = (run_dir / "export").exists()
        told_by_run = {metric["name"]: figure, "step": step, "finished": finished}
        rows.append({"run": run_dir.name} | told_by_run | point)
        table = _summarise(sweep_dir, rows, metric)
    print("\n" + table)
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(told)} runs did not end well: {', '.join(failed)}. The same "
            "command tries them again."
        )


if __name__ == "__main__":
    _define_flags()
    app.run(
        run.guarded("sweep", _sweep, stopped="stopped; the same command goes on."),
        flags_parser=run.parse_flags,
    )
