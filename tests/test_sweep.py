"""Sweeps: the points of a grid and of random draws, resuming, ranking, and what is refused."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import yaml

from experiments import sweep
from experiments.sweep import points, read_config

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = ROOT / "experiments" / "configs"
GRID = {
    "method": "grid",
    "metric": {"name": "eval/near/mae"},
    "parameters": {"steps": {"value": 2}, "learning_rate": {"values": [0.1, 0.2]}},
}


def _write(path, config):
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_grid_is_every_combination(tmp_path):
    config = read_config(_write(tmp_path / "a.yaml", GRID))
    assert config["program"] == "train" and config["metric"]["goal"] == "minimize"
    told = points(config)
    assert told == [{"steps": 2, "learning_rate": 0.1}, {"steps": 2, "learning_rate": 0.2}]
    assert points(config | {"run_cap": 1}) == told[:1]


def test_random_draws_keep_to_their_ranges_and_repeat(tmp_path):
    parameters = {
        "rate": {"min": 1e-4, "max": 1e-2, "distribution": "log_uniform_values"},
        "batch": {"min": 4, "max": 8},
        "model": {"values": ["unet", "patch"]},
        "steps": {"value": 5},
    }
    path = _write(
        tmp_path / "a.yaml", GRID | {"method": "random", "run_cap": 200, "parameters": parameters}
    )
    told = points(read_config(path), seed=1)
    assert told == points(read_config(path), seed=1) != points(read_config(path), seed=2)
    rates = np.array([point["rate"] for point in told])
    assert rates.min() >= 1e-4 and rates.max() <= 1e-2
    assert 0.3 < (rates < 1e-3).mean() < 0.7
    assert {point["batch"] for point in told} == {4, 5, 6, 7, 8}
    assert {point["model"] for point in told} == {"unet", "patch"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "method 'bayes' is not run here"),
        ({"metric": {}}, "metric needs a `name`"),
        ({"parameters": None}, "no `parameters`"),
        ({"method": "random"}, "needs `run_cap`"),
        ({"parameters": {"steps": {"min": 1, "max": 2}}}, "steps needs `value` or `values`"),
        ({"parameters": {"steps": {"values": 3}}}, "steps: `values` must be a list"),
        (
            {
                "method": "random",
                "run_cap": 1,
                "parameters": {"a": {"min": "low", "max": 1.0}},
            },
            "a: min and max must be numbers",
        ),
        (
            {
                "method": "random",
                "run_cap": 1,
                "parameters": {"a": {"min": 0.1, "max": 1.0, "distribution": "normal"}},
            },
            "distribution 'normal' is not drawn here",
        ),
    ],
)
def test_what_is_no_sweep_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        points(read_config(_write(tmp_path / "a.yaml", GRID | changes)))


def test_of_two_words_on_a_flag_that_of_the_point_counts():
    point = {"steps": 2, "flagfile": "cnn.flags"}
    words = sweep._command("train", point, pathlib.Path("run"), ["--steps=9", "--seed=1"])
    told = ["--flagfile=cnn.flags", "--steps=9", "--seed=1", "--steps=2", "--run_dir=run"]
    assert words[words.index("experiments.train") + 1 :] == told


def test_a_run_whose_flag_file_changes_is_another(tmp_path):
    path = tmp_path / "my.flags"
    for words in ([f"--flagfile={path}"], ["--seed=1", "-flagfile", str(path)]):
        marks = []
        for text in ("--steps=1", "--steps=2", "--steps=1"):
            path.write_text(text)
            marks.append(sweep._mark({"batch": 8}, words))
        assert marks[0] == marks[2] != marks[1]


@pytest.mark.parametrize(("name", "count"), [("ablation", 3), ("sweep", 4)])
def test_the_sweeps_that_are_shipped_are_whole_grids(name, count):
    assert len(points(read_config(CONFIGS / f"{name}.yaml"))) == count


def _known(script):
    command = [sys.executable, "-m", f"experiments.{script}", "--helpfull"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    return set(re.findall(r"--(?:\[no\])?([a-z_0-9]+)", told.stdout)) | {"flagfile"}


def test_what_the_shipped_settings_say_are_flags():
    """A flag that was renamed would be found out by the next person to use the file."""
    known = {script: _known(script) for script in ("train", "compare")}
    assert "learning_rate" in known["train"] and "window" in known["compare"]
    for path in CONFIGS.glob("*.yaml"):
        assert set(read_config(path)["parameters"]) <= known["train"], path
    for path in CONFIGS.glob("*.flags"):
        said = re.findall(r"^--([a-z_0-9]+)", path.read_text(), re.MULTILINE)
        script = "train" if "steps" in said else "compare"
        assert said
        for name in said:
            assert {name, name.removeprefix("no")} & known[script], (path, name)


FAKE = '''"""Stands for training: its near error is its learning rate; the run of 0.3 fails once."""
import json, pathlib, sys
if "--only_check_args" in sys.argv:
    sys.exit("train: no such flag" if "--mistyped=1" in sys.argv else 0)
told = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(told["run_dir"])
again = run.exists()
run.mkdir(parents=True, exist_ok=True)
if told["learning_rate"] == "0.3" and not again:
    sys.exit(3)
error = float(told["learning_rate"])
with (run / "metrics.jsonl").open("a") as file:
    for step in (1, 2):
        file.write(json.dumps({"step": step, "eval/near/mae": error}) + "\\n")
    file.write('{"step": 3, "ev')  # a crash
(run / "export").mkdir()
'''


def test_runs_follow_each_other_and_are_ranked(tmp_path):
    (tmp_path / "experiments").mkdir()
    for name in ("sweep.py", "__init__.py"):
        source = ROOT / "experiments" / name
        (tmp_path / "experiments" / name).write_text(source.read_text() if source.exists() else "")
    (tmp_path / "experiments" / "train.py").write_text(FAKE)
    parameters = {"learning_rate": {"values": [0.3, 0.2, 0.1]}}
    config = _write(tmp_path / "a.yaml", GRID | {"parameters": parameters})
    command = [sys.executable, "-m", "experiments.sweep", f"--config={config}"]
    command += [f"--sweep_dir={tmp_path / 'runs'}", "--flags=--steps=2"]

    def run():
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    first = run()
    assert first.returncode == 1 and "1 of 3 runs did not end well" in first.stderr
    summary = (tmp_path / "runs" / "summary.csv").read_text().splitlines()
    assert "False" in summary[-1] and "0.3" in summary[-1]
    second = run()
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("Run ") == 1  # only what had failed
    with (tmp_path / "runs" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["learning_rate"] for row in rows] == ["0.1", "0.2", "0.3"]
    assert {row["step"] for row in rows} == {"2"}
    assert json.loads(rows[0]["eval/near/mae"]) == 0.1
    command[-1] += " --mistyped=1"
    fourth = run()
    assert "do not take what they are told: train: no such flag" in fourth.stderr
    assert "Run " not in fourth.stdout
    command[-1] = "--flags=--steps=2"
    _write(config, GRID | {"parameters": parameters, "metric": {"name": "eval/near/mea"}})
    third = run()
    assert third.returncode == 1
    assert "without the metric 'eval/near/mea'. It has eval/near/mae, step." in third.stderr


_SAVES_SLOWLY = """
import pathlib, signal, sys, time

def save(*_):
    time.sleep(1.0)  # longer than subprocess.run would wait
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(0)

signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize("by", ["a terminal", "a scheduler"])
def test_an_interrupted_run_may_save_first(tmp_path, by):
    saved = tmp_path / "saved"
    command = [sys.executable, "-c", _SAVES_SLOWLY, str(saved)]
    sweeping = f"from experiments import sweep; sweep._finished({command!r})"
    with subprocess.Popen(
        [sys.executable, "-c", sweeping], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        if by == "a terminal":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        process.wait(timeout=60)
    assert saved.read_text() == "saved"
