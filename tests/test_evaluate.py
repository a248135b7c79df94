"""Scoring: every method on the same samples, the table, and what the script refuses."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import rasterio

from data_gen.generator import Sample
from displacement import checkpoint, metrics, product
from displacement.types import Estimate
from experiments import evaluate, kept, results, scoring, simulate
from experiments.tables import score_table
from tests.conftest import Texture


def _uniform(displacement, seed):
    """A pair that moved as a whole, as a sample without a fault."""
    size = 64
    pair = Texture(seed, size).pair(displacement)
    return Sample(
        pair=pair,
        displacement=np.broadcast_to(np.float32(displacement), (size, size, 2)),
        distance=np.full((size, size), np.inf, np.float32),
        slip=np.zeros((size, size, 2), np.float32),
        valid=np.ones((size, size), bool),
    )


@pytest.fixture(scope="module")
def scored():
    samples = [_uniform((0.3, -0.2), 1), _uniform((-0.4, 0.1), 2)]
    contender = scoring._contender({"method": "phase", "window": 16, "step": 8})
    parts, seconds = scoring.score(contender, samples)
    rows = metrics.summary(scoring.together(parts))
    return {"phase 16": rows}, {"phase 16": seconds}


def test_a_correlator_is_scored_on_all_samples(scored):
    rows = scored[0]["phase 16"]
    assert rows["all"]["count"] + rows["all"]["missing"] == 2 * 64 * 64
    assert rows["far"]["mae"] < 0.03
    assert rows["near"]["count"] == 0 and np.isnan(rows["near"]["mae"])
    assert scored[1]["phase 16"] > 0


def test_the_table_shows_counts_near_and_far(scored):
    lines = score_table(*scored).splitlines()
    row = next(line for line in lines if "phase 16" in line)
    rows = scored[0]["phase 16"]
    for shown in (f"{rows['32-inf']['mae']:.3f}", f"{rows['far']['nmad']:.4f}"):
        assert shown in row
    assert "8,192" in "".join(lines)  # pixels


def test_a_summary_of_nothing_has_every_figure(scored):
    nothing = metrics.summary(jax.device_get(metrics.zero())).values()
    some = scored[0]["phase 16"].values()
    assert len({tuple(row) for row in (*nothing, *some)}) == 1  # in one order


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--method=optical", "Unknown --method=optical"),
        ("--checkpoint=no/such/run", "No weights at 'no/such/run'"),
        ("--slip_px=3,1", "low,high"),
        ("--scenes=no/such/folder", "does not exist"),
        ("--only=milano", "--only chooses among --scenes, and there are none"),
        ("--every_checkpoint", "--every_checkpoint needs --checkpoint=RUN"),
        ("--results=ours", "--results=ours is not NAME=FOLDER"),
        ("--results=ours=no/such", "the folder no/such does not exist"),
        ("--results=lk=. --method=lk", "--results=lk=... has the name of what is scored"),
    ],
)
def test_bad_flags_get_a_plain_message(flag, message, tmp_path):
    command = [sys.executable, "-m", "experiments.evaluate", "--samples=1", "--size=32"]
    done = subprocess.run(
        [*command, *flag.split(), "--wandb_mode=disabled"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr


def test_scores_that_are_kept_are_those_of_the_same_samples(tmp_path):
    path = tmp_path / "scores.json"
    empty = evaluate._kept(path, {"seed": 1})
    assert empty == {"settings": {"seed": 1}} | {part: {} for part in evaluate._PARTS}
    record = empty | {"scores": {"a": 1}, "seconds": {"a": 2}}
    path.write_text(json.dumps(record))
    assert evaluate._kept(path, {"seed": 1}) == record
    with pytest.raises(ValueError, match=r"other samples \(seed 1 -> 2\)\. Use another"):
        evaluate._kept(path, {"seed": 2})


def test_what_was_scored_is_kept_for_the_same_samples_and_contender_alone(tmp_path, monkeypatch):
    samples, seen = [_uniform((0.3, -0.2), seed) for seed in (1, 2)], []

    def function(number, sample):
        seen.append(number)
        moved = sample.displacement + 0.1 * (number + 1)
        return Estimate(moved, None, np.ones((64, 64), bool), "stub", {})

    def score(key, **known):
        contender = scoring.Contender(function, known)
        folder, before = tmp_path / "scored", len(seen)
        found = kept.scored(contender, samples, name="a/b", folder=folder, key=key)
        return found, len(seen) - before

    first, calls = score({"seed": 1}, window=8)
    assert calls == 3  # one of them compiles
    monkeypatch.setattr(kept.shared, "provenance", lambda: {"made": "later"})
    again, calls = score({"seed": 1}, window=8)
    assert calls == 0
    assert (again.seconds, again.made) == (first.seconds, first.made)
    for one, other in zip(first.parts, again.parts, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert score({"seed": 2}, window=8)[1] == 3
    assert score({"seed": 1}, window=9)[1] == 3
    monkeypatch.setattr(kept.identity, "sources", lambda *_, **__: "changed")
    assert score({"seed": 1}, window=8)[1] == 3
    assert not list(tmp_path.rglob(".*"))


def test_other_weights_are_another_contender(tmp_path):
    weights = checkpoint.SHIPPED / "patch"
    for name in ("params.npz", "model.json"):
        shutil.copy(weights / name, tmp_path)
    options = {"method": "cnn", "weights": str(tmp_path)}
    before = scoring._contender(options).identity
    json.dumps(before)
    assert scoring._contender(options).identity == before
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace('"patch": 16', '"patch": 15'))
    assert scoring._contender(options).identity != before  # the same numbers, looked through anew
    (tmp_path / "model.json").write_text(text)
    with np.load(weights / "params.npz") as params:
        np.savez(tmp_path / "params.npz", **{k: 1.01 * v for k, v in params.items()})
    assert scoring._contender(options).identity != before


def test_every_checkpoint_of_a_run_is_found_in_order(tmp_path):
    for step in ("1000", "500", "notes"):
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    found = [path.rpartition("/")[2] for path in scoring._steps(tmp_path)]
    assert found == ["500", "1000"]
    with pytest.raises(ValueError, match="is no run"):
        scoring._steps(tmp_path / "checkpoints")


def test_maps_of_another_program_are_read_as_they_were_made(tmp_path, rng):
    sample = _uniform((0.3, -0.2), 1)
    sigma = np.full((64, 64, 2), 0.1, np.float32)
    grid = simulate._GRID
    made = Estimate(sample.displacement.copy(), sigma, sample.valid, "theirs", {})
    made.displacement[3, 4] = np.nan
    product.write_displacement(tmp_path / "000000.tif", made, **grid)
    np.savez(tmp_path / "000001.npz", displacement=made.displacement)
    (tmp_path / "00000").mkdir()
    east, north = made.displacement[..., 1] * 10.0, made.displacement[..., 0] * -10.0
    with rasterio.open(
        tmp_path / "00000" / "000002_displacement.tif",
        "w",
        driver="GTiff",
        width=64,
        height=64,
        count=2,
        dtype="float32",
        nodata=-9999.0,
        **grid,
    ) as file:
        file.write(np.nan_to_num(np.stack([east, north]), nan=-9999.0))
    for number in range(3):
        found = results.read(tmp_path, number, sample)
        np.testing.assert_allclose(found.displacement, made.displacement, atol=1e-6)
        assert (found.valid == np.isfinite(made.displacement).all(-1)).all()
    np.testing.assert_allclose(results.read(tmp_path, 0, sample).sigma[0, 0], 0.1, rtol=1e-6)
    with pytest.raises(ValueError, match="no result for sample 7"):
        results.read(tmp_path, 7, sample)
    np.savez(tmp_path / "000008.npz", moved=1)
    with pytest.raises(ValueError, match="needs `displacement`"):
        results.read(tmp_path, 8, sample)
    np.savez(tmp_path / "000009.npz", displacement=made.displacement[:5])
    with pytest.raises(ValueError, match="same flags"):
        results.read(tmp_path, 9, sample)
    np.savez(tmp_path / "000010.npz", displacement=made.displacement, earlier=sample.pair[..., 0])
    with pytest.raises(ValueError, match="is a sample with its truth and no result"):
        results.read(tmp_path, 10, sample)
    np.savez(tmp_path / "000011.npz", displacement=made.displacement, sigma=sigma[..., 0])
    with pytest.raises(ValueError, match=r"sigma is \(64, 64\); give \(64, 64, 2\)"):
        results.read(tmp_path, 11, sample)
