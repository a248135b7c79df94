"""The front door, with a Python that only pretends: nothing is installed, no network is used."""

import pathlib
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

# Stands for the base interpreter and for the one in .venv; writes what it is asked to do.
FAKE_PYTHON = """#!/bin/bash
case "$1 $2" in
  "-c "*) echo "${FAKE_VERSION:-3.12.1}" ;;
  "-m venv") [ -z "${FAIL_VENV:-}" ] || exit 1
    echo venv >>"$FAKE_LOG"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
  "-m pip") [ "$3" = --version ] && exit 0
    echo "pip ${*: -1}" >>"$FAKE_LOG"; sleep "${PIP_SECONDS:-0}"
    [ -z "${FAIL_PIP:-}" ] ||
      { echo "no route to https://packages.example/simple (host='packages.example')"; exit 1; } ;;
  *) echo "run $*${WANDB_MODE:+ W&B $WANDB_MODE}" >>"$FAKE_LOG"
    echo "in $PWD"; exit "${SCRIPT_CODE:-0}" ;;
esac
"""
TOOLS = (
    *("awk", "basename", "bash", "cat", "chmod", "cksum", "cp", "dirname", "flock", "grep"),
    *("mkdir", "mv", "paste", "readlink", "rm", "sed", "sleep", "tail", "timeout"),
)
MEASURE = '"""Measures things.\n\nMore.\n"""\nfrom absl import app\napp.run(main)\n'


@pytest.fixture
def project(tmp_path):
    """A copy of launch.sh in a folder with a space, with scripts and a pretended Python."""
    root = tmp_path / "the project"
    (root / "experiments").mkdir(parents=True)
    shutil.copy(ROOT / "launch.sh", root)
    for name in ("setup.py", "pyproject.toml"):
        (root / name).write_text("# first\n")
    (root / "experiments" / "measure.py").write_text(MEASURE)
    (root / "experiments" / "train.py").write_text('r"""\nTrains."""\napp.run(main)\n')
    (root / "experiments" / "flags.py").write_text('"""Shared flags."""\n')
    tools = tmp_path / "tools"
    tools.mkdir()
    fake(tools / "python3", FAKE_PYTHON)
    for name in TOOLS:
        if shutil.which(name):
            (tools / name).symlink_to(shutil.which(name))
    return root


def fake(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def launch(project, tmp_path):
    """Runs launch.sh with nothing on the path but the pretended Python and the shell's tools."""

    def run(*arguments, cwd=tmp_path, start=subprocess.run, **environment):
        environment = {
            "PATH": str(tmp_path / "tools"),
            "FAKE_LOG": str(tmp_path / "log"),
            **environment,
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [BASH, str(project / "launch.sh"), *arguments]
        return start(command, cwd=cwd, env=environment, **pipes)

    return run


def asked(tmp_path):
    log = tmp_path / "log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize("arguments", [(), ("help",), ("-h",), ("--help",)])
def test_help_lists_the_scripts_without_an_install(launch, project, tmp_path, arguments):
    done = launch(*arguments)
    assert done.returncode == 0
    assert "  measure    Measures things.\n" in done.stdout
    assert "  train      Trains.\n" in done.stdout
    assert "Shared flags" not in done.stdout
    assert asked(tmp_path) == []
    assert not (project / ".venv").exists()


def test_unknown_script_says_which_exist(launch, tmp_path):
    done = launch("mesure")
    assert done.returncode == 2
    assert "'mesure'" in done.stderr
    assert "measure train" in done.stderr
    assert asked(tmp_path) == []


def test_installs_once_and_runs_in_the_users_folder(launch, project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    first = launch("measure", "--earlier=a b.tif", cwd=elsewhere)
    assert first.returncode == 0
    assert "Installing into .venv (first use, a few minutes) ..." in first.stderr
    assert first.stdout == f"in {elsewhere}\n"
    run = "run -P -m experiments.measure --earlier=a b.tif"
    assert asked(tmp_path) == ["venv", "pip .[dev]", run]

    start = time.monotonic()
    second = launch("measure", "--earlier=a b.tif", cwd=elsewhere)
    assert time.monotonic() - start < 2
    assert second.stderr == ""
    assert asked(tmp_path)[3:] == [run]


def test_reinstalls_when_what_is_needed_changed(launch, project, tmp_path):
    launch("train")
    with (project / "setup.py").open("a") as file:
        file.write("# second\n")
    assert "Updating" in launch("train").stderr
    assert [line for line in asked(tmp_path) if "pip" in line] == ["pip .[dev]"] * 2
    launch("train")
    moved = project.rename(project.parent / "moved")  # an editable install knows its folder
    moved.joinpath(".venv", "bin", "python").chmod(0o755)
    subprocess.run(
        [BASH, str(moved / "launch.sh"), "train"],
        env={"PATH": str(tmp_path / "tools"), "FAKE_LOG": str(tmp_path / "log")},
        check=True,
        capture_output=True,
    )
    assert len([line for line in asked(tmp_path) if "pip" in line]) == 3
    assert asked(tmp_path).count("venv") == 1


def test_gpu_brings_cuda_and_it_stays(launch, project, tmp_path):
    launch("train")
    smi = tmp_path / "tools" / "nvidia-smi"
    fake(smi, "#!/bin/bash\nexit 9\n")
    launch("train")
    fake(smi, "#!/bin/bash\necho GPU\n")
    launch("train")
    smi.unlink()  # the same files on a node without a GPU
    launch("train")
    pips = [line for line in asked(tmp_path) if "pip" in line]
    assert pips == ["pip .[dev]", "pip .[dev,cuda]"]
    assert launch("train", DISPLACEMENT_JAX="tpu").returncode == 1


def test_a_failed_install_says_so_and_is_tried_again(launch, project, tmp_path):
    done = launch("train", FAIL_PIP="1")
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert "no route to" in done.stderr
    assert "packages.example" not in done.stderr
    assert launch("train").returncode == 0
    assert asked(tmp_path)[-2:] == ["pip .[dev]", "run -P -m experiments.train"]

    (project / "setup.py").write_text("# changed\n")
    assert launch("train", FAIL_PIP="1").returncode == 1
    (project / "setup.py").write_text("# first\n")  # back, but pip has been at work since
    launch("train")
    assert asked(tmp_path)[-2] == "pip .[dev]"


def test_a_failed_venv_names_the_package(launch):
    done = launch("train", FAIL_VENV="1")
    assert done.returncode == 1
    assert "python3-venv" in done.stderr


def test_an_interrupted_install_does_not_count(launch, project, tmp_path):
    running = launch("train", start=subprocess.Popen, PIP_SECONDS="2")
    while not any("pip" in line for line in asked(tmp_path)):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert launch("train").returncode == 0
    assert [line for line in asked(tmp_path) if "pip" in line] == ["pip .[dev]"] * 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_two_first_starts_install_once(launch, tmp_path):
    both = [launch("train", start=subprocess.Popen, PIP_SECONDS="1") for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Waiting" in text for text in errors) == 1
    assert [line for line in asked(tmp_path) if "pip" in line] == ["pip .[dev]"]


def test_an_old_python_is_named_with_the_bound_and_the_remedy(launch, project, tmp_path):
    done = launch("train", FAKE_VERSION="3.9.18")
    assert done.returncode == 1
    for words in ("3.11 or newer", "python3 is Python 3.9.18", "PYTHON=/path/to/python3"):
        assert words in done.stderr
    assert not (project / ".venv" / "bin").exists()

    newer = tmp_path / "newer"
    fake(newer, FAKE_PYTHON.replace("FAKE_VERSION:-", "OTHER:-"))
    assert launch("train", FAKE_VERSION="3.9.18", PYTHON=str(newer)).returncode == 0


def test_a_named_python_that_will_not_do(launch, tmp_path):
    old = tmp_path / "old"
    fake(old, FAKE_PYTHON.replace("3.12.1", "3.8.0"))
    done = launch("train", PYTHON=str(old))
    assert done.returncode == 1
    assert "old is Python 3.8.0" in done.stderr
    assert "does not start" in launch("train", PYTHON="/nowhere/python").stderr


def test_no_python_at_all(launch, tmp_path):
    (tmp_path / "tools" / "python3").unlink()
    done = launch("train")
    assert done.returncode == 1
    assert "found none" in done.stderr


def test_exit_code_of_the_script_passes_through(launch):
    assert launch("train", SCRIPT_CODE="7").returncode == 7


def test_tests_run_in_the_root_on_two_workers_unless_told(launch, project, tmp_path):
    done = launch("test", "tests/test_warp.py")
    assert done.stdout == f"in {project}\n"
    launch("test", "-n", "0", "-k", "warp")
    launch("test", "-p", "no:xdist", "-k", "warp")
    runs = [line for line in asked(tmp_path) if line.startswith("run")]
    assert runs == [
        "run -m pytest -n 2 --dist=loadfile tests/test_warp.py W&B disabled",
        "run -m pytest --dist=loadfile -n 0 -k warp W&B disabled",
        "run -m pytest -p no:xdist -k warp W&B disabled",
    ]


def test_lint_runs_both_checks(launch, tmp_path):
    assert launch("lint", SCRIPT_CODE="1").returncode == 1
    assert launch("lint").returncode == 0
    runs = [line for line in asked(tmp_path) if line.startswith("run")]
    assert runs == ["run -m ruff check", "run -m ruff format --check"] * 2


def test_a_link_to_the_front_door_works(project, launch, tmp_path):
    link = tmp_path / "displacement"
    link.symlink_to(project / "launch.sh")
    done = subprocess.run([BASH, str(link)], capture_output=True, text=True, check=True)
    assert "Measures things." in done.stdout
