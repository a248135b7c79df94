"""TrainState, train_step and eval_step: pure functions that know nothing about devices."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from displacement import losses
from displacement.models.layers import in_bfloat16

SCALE_WEIGHT = 0.03  # of what sigma promises beside the displacement's own loss
NEAR_WEIGHT = 2.0  # how much more a pixel on the trace counts than one far from it
NEAR_PX = 6.0
# px; errors of a sample count in proportion well above it, so that the hundredths of a clean pair
# matter as much as the tenths of a noisy one.
CLEAN_PX = 0.03
EARLIER_WEIGHT = 0.3  # of each step that an iterative network's last one began from


class TrainState(NamedTuple):
    """All that a run needs to go on: whole numbers and arrays, the same on every device."""

    step: jax.Array
    params: Any
    average: Any  # exponential moving average of the parameters, which is what is used
    opt_state: optax.OptState


def create_schedule(*, learning_rate: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Learning rate by step: a linear warm-up to its peak and a cosine decay to 1 % of it."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(total_steps, warmup_steps + 1),
        end_value=0.01 * learning_rate,
    )


def create_optimizer(
    schedule: optax.Schedule, *, weight_decay: float, accumulate: int = 1
) -> optax.GradientTransformation:
    """AdamW, gradients clipped to norm 1.

    With `accumulate` the mean gradient of so many steps makes one update: a larger batch than the
    memory holds. Steps of the schedule are still those of the data.
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(lambda update: schedule(update * accumulate), weight_decay=weight_decay),
    )
    if accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, accumulate).gradient_transformation()


def create_state(
    key: jax.Array, model: nn.Module, optimizer: optax.GradientTransformation, *, size: int
) -> TrainState:
    """A fresh state for samples of `size` x `size` pixels."""
    params = model.init(key, jnp.zeros((1, size, size, 2)))["params"]
    # A copy of its own, so that neither buffer is donated twice.
    average = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.zeros((), jnp.int32), params, average, optimizer.init(params))


def _mean(values: jax.Array, weight: jax.Array, axis_name: str | None) -> jax.Array:
    """Weighted mean whose mean over the devices is that of the whole batch."""
    total = weight.sum()
    if axis_name is not None:
        total = jax.lax.pmean(total, axis_name)
    return (weight * values).sum() / jnp.maximum(total, 1e-6)  # nothing may be valid


def _relative(error: jax.Array, weight: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean over the samples that count of c log(1 + m / c), of the weighted mean error m of each.

    For errors well below c = `CLEAN_PX` it is their mean, well above its logarithm.
    """
    total = weight.sum((1, 2))
    mean = (weight * error).sum((1, 2)) / jnp.maximum(total, 1.0)
    counts = (total > 0).astype(jnp.float32)
    return _mean(CLEAN_PX * jnp.log1p(mean / CLEAN_PX), counts, axis_name)


def batch_loss(
    model: nn.Module,
    params: Any,
    sample: Any,
    *,
    axis_name: str | None = None,
    bfloat16: bool = False,
) -> tuple[jax.Array, dict]:
    """Mean loss of a batch over its valid pixels, and the parts it is made of.

    Args:
      model: network.
      params: its parameters.
      sample: batch with `pair`, `displacement`, `distance`, `valid` as in `data_gen.generator`.
      axis_name: the devices' axis, if the batch is spread over several.
      bfloat16: whether images are convolved in it.

    Returns:
      scalar, and {"mae": px, "loss": scalar}. The loss is over all steps of an iterative network.
    """
    with nn.intercept_methods(in_bfloat16) if bfloat16 else contextlib.nullcontext():
        last, sown = model.apply({"params": params}, sample.pair, mutable=["intermediates"])
    steps = [last]
    for earlier in sown.get("intermediates", {}).get("steps", ()):
        steps += zip(*earlier, strict=True)
    valid = sample.valid.astype(jnp.float32)
    weight = valid * (1.0 + NEAR_WEIGHT * jnp.exp(-jnp.abs(sample.distance) / NEAR_PX))
    loss = 0.0
    shares = [1.0] + [EARLIER_WEIGHT] * (len(steps) - 1)
    for (estimate, log_scale), share in zip(steps, shares, strict=True):
        error = losses.absolute(estimate, sample.displacement)
        loss = loss + share * _relative(error, weight, axis_name)
        if log_scale is not None:
            coverage = losses.coverage(estimate, log_scale, sample.displacement)
            loss = loss + share * SCALE_WEIGHT * _mean(coverage, valid, axis_name)
    error = losses.absolute(last[0], sample.displacement)
    return loss, {"loss": loss, "mae": _mean(error, valid, axis_name)}


def train_step(
    state: TrainState,
    sample: Any,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    average_decay: float,
    axis_name: str | None = None,
    bfloat16: bool = False,
) -> tuple[TrainState, dict]:
    """One step on one device's share of the batch.

    Args:
      state: before.
      sample: this device's samples.
      model: network.
      optimizer: from `create_optimizer`.
      average_decay: of the moving average of the parameters.
      axis_name: the devices' axis, over which gradients are averaged; None for one device.
      bfloat16: whether images are convolved in it.

    Returns:
      the state after, and scalars averaged over the devices.
    """
    gradient_of = jax.value_and_grad(
        lambda p: batch_loss(model, p, sample, axis_name=axis_name, bfloat16=bfloat16), has_aux=True
    )
    (_, scalars), gradient = gradient_of(state.params)
    if axis_name is not None:
        gradient, scalars = jax.lax.pmean((gradient, scalars), axis_name)
    scalars["gradient_norm"] = optax.tree.norm(gradient)
    update, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, update)
    # Early on the average follows quickly; it must not remember the initial weights.
    decay = jnp.minimum(average_decay, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, state.average, params)
    return TrainState(state.step + 1, params, average, opt_state), scalars


def eval_step(params: Any, sample: Any, *, model: nn.Module, measure: Callable) -> Any:
    """Metrics of one batch: `measure(estimate, truth, distance, slip, valid, sigma=)`."""
    estimate, log_scale = model.apply({"params": params}, sample.pair)
    return measure(
        estimate,
        sample.displacement,
        sample.distance,
        sample.slip,
        sample.valid,
        sigma=None if log_scale is None else losses.sigma(log_scale),
    )
