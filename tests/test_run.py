"""The start of a script: its own flags in --help, and errors as one line."""

import subprocess
import sys

import pytest
from absl import app, flags

from experiments import run


def start(script, *arguments):
    command = [sys.executable, "-m", f"experiments.{script}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_shows_the_flags_of_the_script_alone(word):
    done = start("simulate", word)
    assert done.returncode == 0
    assert done.stdout.startswith("Writes simulated pairs") or "./launch.sh simulate" in done.stdout
    assert "--slip_px" in done.stdout  # of the simulator, which several scripts share
    assert "jax" not in done.stdout.split("Flags:")[1].split("--helpfull")[0]
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert "default 0" in done.stdout


def test_wrong_flags_end_with_a_hint():
    done = start("prepare", "--output=bank.npz", "--scenes=x", "stray")
    assert done.returncode == 1
    assert "Unexpected arguments: stray" in done.stdout + done.stderr
    done = start("prepare", "--output=bank.npz")
    assert done.stderr.strip() == "prepare: --scenes is missing. --help lists the flags."
    done = start("prepare", "--out=bank.npz")
    assert done.returncode != 0
    assert "Unknown command line flag 'out'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("too large"), "thing: too large"),
        (OSError("no room"), "thing: no room"),
        (KeyboardInterrupt(), "thing: go on later."),
    ],
)
def test_errors_end_with_their_message(error, said):
    def function():
        raise error

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    main = run.guarded("thing", function, stopped="go on later.")
    with pytest.raises(SystemExit) as caught:
        main(["thing"])
    assert caught.value.code == said
    with pytest.raises(app.UsageError, match="stray"):
        main(["thing", "stray"])
    with pytest.raises(ZeroDivisionError):  # a mistake of ours keeps its traceback
        run.guarded("thing", lambda: 1 / 0)(["thing"])
