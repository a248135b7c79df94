"""The log of a run: a file of JSON lines that outlives a crash."""

import json
import math
import sys
import types

import pytest

from experiments.logs import RunLog


def test_half_a_line_of_a_crash_spoils_no_other(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with RunLog(tmp_path, wandb_mode="disabled", config={}, job="train") as log:
            log.write(step, {"eval": {"mae": 0.1 * step}})
        with path.open("a") as file:
            file.write('{"step": 9, "ev')
    lines = path.read_text().splitlines()
    assert [json.loads(line) for line in (lines[0], lines[2])] == [
        {"step": 1, "eval/mae": 0.1},
        {"step": 2, "eval/mae": 0.2},
    ]


def test_what_is_not_finite_is_null_as_json_asks(tmp_path):
    with RunLog(tmp_path, wandb_mode="disabled", config={}, job="train") as log:
        log.write(1, {"eval": {"coverage_68": math.nan, "mae": 0.1}})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "eval/coverage_68": null, "eval/mae": 0.1}\n'


def test_a_training_that_goes_on_is_one_run_of_wandb(tmp_path, monkeypatch):
    asked = []
    run = types.SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)
    stand_in = types.SimpleNamespace(
        init=lambda **words: asked.append(words) or run,
        Settings=lambda **_: None,
        errors=types.SimpleNamespace(Error=OSError),
    )
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setenv("WANDB_PROJECT", "faults")
    for job in ("train", "train", "evaluate"):
        with RunLog(tmp_path, wandb_mode="offline", config={}, job=job):
            pass
    first, again, other = (words["id"] for words in asked)
    assert first and first == again
    assert other is None
    assert {words["project"] for words in asked} == {"faults"}


def test_without_a_login_it_says_what_to_do(tmp_path, monkeypatch):
    class NoLoginError(Exception):
        pass

    def init(**_):
        raise NoLoginError("no API key")

    stand_in = types.SimpleNamespace(
        init=init, Settings=lambda **_: None, errors=types.SimpleNamespace(Error=NoLoginError)
    )
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    with pytest.raises(ValueError, match=r"did not start \(no API key\).*--wandb_mode=offline"):
        RunLog(tmp_path, wandb_mode="online", config={}, job="train")
