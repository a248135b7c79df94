"""Scores checkpoints and correlators on one simulated set, by distance to the fault.

./launch.sh evaluate --checkpoint=runs/first
./launch.sh evaluate --checkpoint=runs/first --every_checkpoint --output=runs/first/scores.json
./launch.sh evaluate --method=cnn,phase,ncc --window=16,32,64 --output=scores.json

Every method sees the same samples, through `displacement.estimate` as a user calls it. With
--output what is scored is kept, and the same command goes on where it stopped.
"""

import dataclasses
import json
import pathlib
import sys

import jax
from absl import app, flags

from displacement import metrics
from experiments import flags as shared
from experiments import run, scoring
from experiments.logs import RunLog
from experiments.tables import characteristics_table, score_table

# Of the record, each by name of the contender.
_PARTS = ("scores", "characteristics", "seconds")


def _settings(values) -> dict:
    """What decides which samples are scored, and how: two records with the same can be joined."""
    names = ("samples", "seed", "only", "step", "size")
    config = dataclasses.asdict(shared.generator_config(values))
    scenes_name = values.scenes and pathlib.Path(values.scenes).name
    settings = {name: values[name].value for name in names} | {"scenes": scenes_name}
    return json.loads(json.dumps(settings | {"config": config}))


def _kept(path: pathlib.Path | None, settings: dict) -> dict:
    """The record that an earlier start of the same command wrote, or an empty one."""
    if path is None or not path.exists():
        return {"settings": settings} | {part: {} for part in _PARTS}
    record = json.loads(path.read_text())
    if record.get("settings") != settings:
        raise ValueError(
            f"{path} holds scores of other samples. Use another --output, or the same flags to "
            "go on."
        )
    return record


def _evaluate():
    values = flags.FLAGS
    chosen = scoring.contenders(values)
    path = pathlib.Path(values.output) if values.output else None
    settings = _settings(values)
    record = _kept(path, settings)
    scores, more, seconds = (record[part] for part in _PARTS)
    left = {name: contender for name, contender in chosen.items() if name not in scores}
    samples = scoring.simulated(values) if left else []
    for name, contender in left.items():
        parts, seconds[name] = scoring.score(
            contender, samples, name=name, progress=sys.stderr.isatty()
        )
        total = scoring.together(parts)
        scores[name] = metrics.summary(total)
        more[name] = metrics.characteristics(total)
        if path:
            shared.write_json(path, record)
    print(score_table({name: scores[name] for name in chosen}, seconds))
    print(characteristics_table({name: more[name] for name in chosen}))
    if path:
        print(f"Wrote {path}")
    folder = path.parent if path else pathlib.Path("runs")
    config = values.flag_values_dict()
    if values.wandb_mode == "disabled":
        return
    with RunLog(folder, wandb_mode=values.wandb_mode, config=config, job="evaluate") as log:
        for name in chosen:
            step = pathlib.Path(name).name
            if values.every_checkpoint and step.isdigit():
                log.write(int(step), {"checkpoint": scores[name]})
            else:
                log.write(0, {name: scores[name] | more[name]})


if __name__ == "__main__":
    jax.config.config_with_absl()
    scoring.define_flags()
    app.run(run.guarded("evaluate", _evaluate), flags_parser=run.parse_flags)
