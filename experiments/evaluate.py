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
from experiments.logs import RunLog
from experiments.tables import characteristics_table, score_table


def _evaluate():
    values = flags.FLAGS
    chosen = scoring.contenders(values)
    path = pathlib.Path(values.output) if values.output else None
    samples = scoring.simulated(values)
    options = {
        "folder": path and path.with_name(f".{path.stem}.scored"),
        "key": kept.about(values),
        "progress": sys.stderr.isatty(),
    }
    scores, more, seconds = {}, {}, {}
    for name, contender in chosen.items():
        parts, seconds[name] = kept.scored(contender, samples, name=name, **options)
        total = scoring.together(parts)
        scores[name] = metrics.summary(total)
        more[name] = metrics.characteristics(total)
    if path:
        record = {"settings": options["key"], "scores": scores, "characteristics": more}
        shared.write_json(path, record | {"seconds": seconds})
    print(score_table(scores, seconds))
    print(characteristics_table(more))
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
