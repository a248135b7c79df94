"""Semi-global aggregation against brute force, and what it does to a noisy step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from displacement.correlators import aggregation

OFFSETS = np.array([-0.5, 0.25])


def _line(rng, along):
    """Costs `(5, 1, 2, 2)` or `(1, 5, 2, 2)`, and bases."""
    where = np.s_[:, :1] if along == "rows" else np.s_[:1]
    cost, base = rng.random((5, 5, 2, 2)), rng.normal(size=(5, 5, 2))
    return cost[where].astype(np.float32), base[where].astype(np.float32)


@pytest.mark.parametrize("along", ["rows", "cols"])
@pytest.mark.parametrize("largest", [0.4, 100.0])
def test_a_line_is_solved_exactly(rng, along, largest):
    """Least costs of all fields through each label, against all 4^5 fields."""
    cost, base = _line(rng, along)
    penalty = 0.6
    found = jax.jit(aggregation.aggregate)(
        cost, base, jnp.asarray(OFFSETS), penalty=penalty, largest=largest
    )
    labels = list(itertools.product((0, 1), (0, 1)))
    flat_cost, flat_base = cost.reshape(5, 2, 2), base.reshape(5, 2)
    expected = np.full((5, 2, 2), np.inf)
    for field in itertools.product(labels, repeat=5):
        u = flat_base + OFFSETS[np.array(field)]
        steps = np.abs(np.diff(u, axis=0)).sum(1)
        total = sum(flat_cost[i][label] for i, label in enumerate(field))
        total += penalty * np.minimum(steps, largest).sum()
        for i, label in enumerate(field):
            expected[i][label] = min(expected[i][label], total)
    found = np.asarray(found).reshape(5, 2, 2)
    # Paths are known but for a constant, which differs from node to node.
    least = [x - x.min((1, 2), keepdims=True) for x in (found, expected)]
    np.testing.assert_allclose(*least, atol=1e-5)


def test_flips_and_transposes_commute(rng):
    cost = rng.random((6, 9, 3, 3)).astype(np.float32)
    base = rng.normal(size=(6, 9, 2)).astype(np.float32)
    offsets = jnp.array([-0.5, 0.0, 0.5])

    def run(cost, base):
        return np.asarray(aggregation.aggregate(cost, base, offsets, penalty=0.3, largest=1.0))

    plain = run(cost, base)
    turned = run(cost.transpose(1, 0, 3, 2), base.transpose(1, 0, 2)[..., ::-1])
    np.testing.assert_allclose(turned.transpose(1, 0, 3, 2), plain, atol=1e-5)
    np.testing.assert_allclose(run(cost[::-1], base[::-1])[::-1], plain, atol=1e-5)
    np.testing.assert_allclose(run(cost[:, ::-1], base[:, ::-1])[:, ::-1], plain, atol=1e-5)


def test_noise_is_smoothed_and_a_step_stays(rng):
    truth = np.zeros((24, 24, 2))
    truth[:, 12:] = [0.5, -0.25]
    offsets = 0.125 * np.arange(-6, 7)
    noisy = truth + 0.1 * rng.standard_normal(truth.shape)
    away = [(noisy[..., i, None] - offsets) ** 2 for i in (0, 1)]
    cost = jnp.asarray(away[0][..., :, None] + away[1][..., None, :], jnp.float32)

    def run(penalty, between):
        return np.asarray(
            aggregation.choose(
                cost,
                jnp.zeros(truth.shape),
                jnp.asarray(offsets, jnp.float32),
                penalty=penalty,
                largest=0.5,
                between=between,
            )
        )

    alone = run(0.0, False)  # each node for itself
    np.testing.assert_allclose(alone, offsets[np.abs(noisy[..., None] - offsets).argmin(-1)])
    np.testing.assert_allclose(run(0.0, True), np.clip(noisy, -0.6875, 0.6875), atol=1e-4)
    together = run(0.05, True)
    assert np.abs(together - truth).mean() < 0.5 * np.abs(noisy - truth).mean()
    step = np.median(together[:, 13] - together[:, 10], axis=0)
    np.testing.assert_allclose(step, [0.5, -0.25], atol=0.1)
