"""Scores that are kept, contender by contender: the same command goes on where it stopped.

What is kept is found again only by the same samples, the same method, options and weights, and the
same sources of the instrument and the simulator: a score of anything else is made anew. Those of
correlators stay when a network is edited.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

import data_gen
import displacement
from data_gen.generator import Sample
from displacement import identity, metrics, models
from displacement.files import atomic_path
from experiments import flags as shared
from experiments import scoring

_SETTINGS = ("samples", "seed", "only", "size")


def about(values) -> dict[str, Any]:
    """What decides which samples the flags ask for, JSON-able."""
    config = dataclasses.asdict(shared.generator_config(values))
    scenes = values.scenes and identity.file_identity(values.scenes)
    settings = {name: values[name].value for name in _SETTINGS}
    return json.loads(json.dumps(settings | {"scenes": scenes, "config": config}))


def _path(folder: pathlib.Path, name: str, key: dict[str, Any]) -> pathlib.Path:
    without = () if "weights" in key["contender"] else (models,)
    key = key | {"sources": identity.sources(displacement, data_gen, without=without)}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)[-60:]}_{digest[:16]}.npz"


class Scored(NamedTuple):
    """What one contender scored.

    Attributes:
      parts: the sums of every sample.
      seconds: that it took.
      made: with what and where it was scored.
    """

    parts: list[metrics.Metrics]
    seconds: float
    made: dict[str, Any]


def _read(path: pathlib.Path) -> Scored:
    tree = jax.tree.structure(metrics.zero())
    with np.load(path) as stored:
        leaves = [stored[str(k)] for k in range(tree.num_leaves)]
        seconds, made = float(stored["seconds"]), json.loads(str(stored["made"]))
    parts = [tree.unflatten([leaf[n] for leaf in leaves]) for n in range(len(leaves[0]))]
    return Scored(parts, seconds, made)


def _write(path: pathlib.Path, found: Scored) -> None:
    leaves = [np.stack(leaf) for leaf in zip(*map(jax.tree.leaves, found.parts), strict=True)]
    with atomic_path(path) as partial, partial.open("wb") as file:
        named = {str(k): leaf for k, leaf in enumerate(leaves)}
        np.savez_compressed(file, seconds=found.seconds, made=json.dumps(found.made), **named)


def scored(
    contender: scoring.Contender,
    samples: list[Sample],
    *,
    name: str,
    folder: pathlib.Path | None,
    key: dict[str, Any],
    progress: bool = False,
) -> Scored:
    """`scoring.score`, or what an earlier start of the same command found.

    Args:
      contender: what measures.
      samples: what to measure.
      name: of the contender.
      folder: where scores are kept, or None.
      key: what decides the samples (`about`), JSON-able.
      progress: whether to show a bar.
    """
    path = folder and _path(folder, name, {"samples": key, "contender": contender.identity})
    if path and path.exists():
        print(f"{name}: scored before, kept in {path}")
        return _read(path)
    parts, seconds = scoring.score(contender, samples, name=name, progress=progress)
    found = Scored(parts, seconds, shared.provenance())
    if path:
        _write(path, found)
    return found
