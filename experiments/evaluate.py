"""Scores checkpoints and correlators on one simulated set, by distance to the fault.

./launch.sh evaluate --checkpoint=runs/first
./launch.sh evaluate --checkpoint=runs/first --every_checkpoint --output=runs/first/scores.json
./launch.sh evaluate --method=cnn,phase,ncc --window=16,32,64 --output=scores.json

Every method sees the same samples, through `displacement.estimate` as a user calls it. With
--output what is scored is kept, and the same command goes on where it stopped.
"""

import pathlib
import sys

import jax
from absl import app, flags

from displacement import metrics
from experiments import flags as shared
from experiments import kept, run, scoring
from experiments.logs import RunLog, differences
from experiments.tables import characteristics_table, score_table

# Of the record, each by name of the contender; "made" is with what and where it was scored.
_PARTS = ("scores", "characteristics", "seconds", "made")


def _kept(path: pathlib.Path | None, settings: dict) -> dict:
    """The record that an earlier start of the same command wrote, or an empty one."""
    if path is None or not path.exists():
        return {"settings": settings} | {part: {} for part in _PARTS}
    record = shared.read_json(path)
    if record.get("settings") != settings:
        changed = differences(record.get("settings", {}), settings)
        raise ValueError(
            f"{path} holds scores of other samples ({changed}). Use another --output, or the same"
            " flags to go on."
        )
    return {part: {} for part in _PARTS} | record


def _step(name: str) -> int:
    """Of a contender that is a checkpoint of a run; 0 of another."""
    last = pathlib.Path(name).name
    return int(last) if last.isdigit() else 0


def _evaluate():
    values = flags.FLAGS
    chosen = scoring.contenders(values)
    path = pathlib.Path(values.output) if values.output else None
    key = kept.about(values)
    record = _kept(path, key | {"step": values.step})
    scores, more, seconds, made = (record[part] for part in _PARTS)
    kept_in = path and path.with_name(f".{path.stem}.scored")
    samples = scoring.simulated(values)
    for name, contender in chosen.items():
        parts, seconds[name], made[name] = kept.scored(
            contender, samples, name=name, folder=kept_in, key=key, progress=sys.stderr.isatty()
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
    if values.wandb_mode == "disabled":
        return
    with RunLog(
        folder,
        wandb_mode=values.wandb_mode,
        config=shared.settings(values),
        job="evaluate",
        name="evaluation.jsonl",  # not among what the training wrote
    ) as log:
        steps = {name: _step(name) if values.every_checkpoint else 0 for name in chosen}
        for name, step in sorted(steps.items(), key=lambda item: item[1]):
            if step:
                run_dir = pathlib.Path(name).parents[1]  # of run/checkpoints/step
                log.write(step, {f"checkpoint {run_dir.name}": scores[name]})
            else:
                log.write(0, {name: scores[name] | more[name]})


if __name__ == "__main__":
    jax.config.config_with_absl()
    scoring.define_flags()
    app.run(run.guarded("evaluate", _evaluate), flags_parser=run.parse_flags)
