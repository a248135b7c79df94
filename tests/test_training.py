"""The training step: its loss, several devices, accumulation, and what does not count."""

import jax
import numpy as np
import pytest

from data_gen.config import GeneratorConfig
from data_gen.generator import Sample, example_keys, simulate_batch
from displacement import losses, parallel, training
from displacement.models import create_model

KEY = jax.random.key(0)
CONFIG = GeneratorConfig(size=32)
MODEL = create_model("unet", widths=(8, 8), radius=0)
SCHEDULE = training.create_schedule(learning_rate=3e-3, warmup_steps=2, total_steps=40)
OPTIMIZER = training.create_optimizer(SCHEDULE, weight_decay=0.0)


def _steps(devices, count):
    def step(state, key, examples):
        sample = simulate_batch(example_keys(key, state.step, examples), CONFIG)
        return training.train_step(
            state,
            sample,
            model=MODEL,
            optimizer=OPTIMIZER,
            average_decay=0.9,
            axis_name=parallel.AXIS,
        )

    mapped = jax.pmap(
        step,
        axis_name=parallel.AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        devices=jax.local_devices()[:devices],
    )
    state = training.create_state(KEY, MODEL, OPTIMIZER, size=32)
    found = []
    for _ in range(count):
        state, scalars = mapped(state, jax.random.key(1), parallel.example_indices(8, devices))
        found.append(float(scalars["loss"]))
    return state, found


def _sample(texture, size):
    """A batch of one pair, all of it valid."""
    shape = (1, size, size)
    return Sample(
        pair=texture.pair((0.4, -0.3))[None, :size, :size],
        displacement=np.full((*shape, 2), 0.5, np.float32),
        distance=np.full(shape, 5.0, np.float32),
        slip=np.ones((*shape, 2), np.float32),
        valid=np.ones(shape, bool),
    )


def test_loss_falls_and_devices_do_not_matter():
    _, one = _steps(1, 3)
    _, eight = _steps(8, 25)
    assert np.mean(eight[-8:]) < np.mean(eight[:4])
    np.testing.assert_allclose(eight[:3], one, rtol=0.01, atol=2e-3)


def test_accumulated_steps_make_one_update_of_their_mean_gradient():
    schedule = training.create_schedule(learning_rate=0.1, warmup_steps=1, total_steps=8)
    accumulating = training.create_optimizer(schedule, weight_decay=0.0, accumulate=2)
    plain = training.create_optimizer(schedule, weight_decay=0.0)
    params = {"w": np.float32([1.0, -2.0])}
    gradients = [{"w": np.float32([0.1, 0.3])}, {"w": np.float32([0.3, -0.1])}]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *gradients)
    state, reference = accumulating.init(params), plain.init(params)
    for _ in range(2):  # the first update has a learning rate of 0
        nothing, state = accumulating.update(gradients[0], state, params)
        found, state = accumulating.update(gradients[1], state, params)
        expected, reference = plain.update(mean, reference, params)
        assert not np.any(nothing["w"])
    assert np.all(found["w"])
    # Their schedules stand at steps 2 and 1 of 8.
    ratio = 0.5 * (1 + np.cos(np.pi / 7)) * 0.99 + 0.01
    np.testing.assert_allclose(found["w"], ratio * expected["w"], rtol=1e-4)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        parallel.example_indices(12, 8)


def test_invalid_pixels_do_not_count():
    rng = np.random.default_rng(0)
    shape = (1, 32, 32)
    sample = Sample(
        pair=rng.standard_normal((*shape, 2)).astype(np.float32),
        displacement=rng.standard_normal((*shape, 2)).astype(np.float32),
        distance=np.full(shape, 5.0, np.float32),
        slip=np.ones((*shape, 2), np.float32),
        valid=np.arange(32)[:, None] >= np.full(shape, 16),
    )
    model = create_model("unet", widths=(4, 4), radius=0)
    params = jax.jit(model.init)(jax.random.key(0), sample.pair)["params"]
    loss = jax.jit(lambda sample: training.batch_loss(model, params, sample)[0])
    spoiled = sample.displacement.copy()
    spoiled[:, :16] = 1e3
    assert float(loss(sample)) == float(loss(sample._replace(displacement=spoiled)))
    spoiled[:, 16:] = 1e3
    assert float(loss(sample)) != float(loss(sample._replace(displacement=spoiled)))


@pytest.mark.parametrize("name", ["iterative", "cells"])
def test_all_steps_of_what_looks_again_are_trained(texture, name):
    """Of `cells` with looks at the pixels these alone: the rest stays as it is."""
    model = create_model(name, widths=(4, 4), radius=2, refinements=2)
    sample = _sample(texture, 64)
    params = jax.jit(model.init)(KEY, sample.pair)["params"]
    steps = []

    def loss(params):
        found, sown = model.apply({"params": params}, sample.pair, mutable=["intermediates"])
        steps.extend(zip(*sown["intermediates"]["steps"][0], strict=True))
        assert found[0].shape == steps[0][0].shape == sample.displacement.shape
        return training.batch_loss(model, params, sample)[0]

    gradient = jax.jit(jax.grad(loss))(params)
    assert len(steps) == 2
    for layer, leaves in gradient.items():
        looks = layer == {"iterative": "Refinement_0", "cells": "Refinement_3"}[name]
        trained = any(np.any(leaf) for leaf in jax.tree.leaves(leaves))
        assert trained == (looks or name == "iterative"), layer


def test_in_bfloat16_the_loss_and_its_gradient_are_nearly_the_same(texture):
    sample = _sample(texture, 32)
    params = jax.jit(MODEL.init)(KEY, sample.pair)["params"]

    def loss(params, bfloat16):
        return training.batch_loss(MODEL, params, sample, bfloat16=bfloat16)[0]

    assert "bf16" in str(jax.make_jaxpr(lambda p: loss(p, True))(params))
    assert "bf16" not in str(jax.make_jaxpr(lambda p: loss(p, False))(params))
    (plain, gradient), (rough, other) = (
        jax.jit(jax.value_and_grad(loss), static_argnums=1)(params, half) for half in (False, True)
    )
    assert float(rough) == pytest.approx(float(plain), rel=0.02)
    for leaf, near in zip(*map(jax.tree.leaves, (gradient, other)), strict=True):
        assert near.dtype == np.float32
        np.testing.assert_allclose(near, leaf, atol=0.1 * float(np.abs(leaf).max()) + 1e-7)


@pytest.mark.parametrize("kind", ["normal", "laplace"])
def test_the_best_sigma_holds_what_it_promises(rng, kind):
    errors = getattr(rng, kind)(size=(200_000, 1)).astype(np.float32)
    scales = np.linspace(-2.0, 2.0, 401)
    found = [float(losses.coverage(errors, scale, 0.0).mean()) for scale in scales]
    sigma = float(losses.sigma(scales[np.argmin(found)]))
    if kind == "normal":
        assert sigma == pytest.approx(1.0, abs=0.02)
    shares = [(np.abs(errors) < sigmas * sigma).mean() for sigmas in (1.0, 1.96)]
    np.testing.assert_allclose(shares, (0.68, 0.95), atol=0.04)
