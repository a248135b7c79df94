"""The devices: pmap with un-stacked state, and which examples each device makes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

AXIS = "devices"


def device_count() -> int:
    """Devices of this host."""
    return jax.local_device_count()


def example_indices(batch: int, devices: int) -> jax.Array:
    """`(devices, batch / devices)` global example indices, in order.

    Raises:
      ValueError: the batch does not divide.
    """
    if batch % devices:
        raise ValueError(
            f"The batch of {batch} does not divide over {devices} devices; "
            f"use a multiple of {devices}."
        )
    return jnp.arange(batch).reshape(devices, -1)


def replicate(tree):
    """Puts one copy of `tree` on every local device, laid out as `parallel` returns it.

    Any other layout would make the second call of a mapped function compile once more.
    """
    mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def parallel(function: Callable, *, shared: int, donate: bool = False) -> Callable:
    """Runs `function` on every local device.

    Args:
      function: takes `shared` arguments that are the same on every device, then one that is
        `(devices, ...)` outside and `(...)` inside; reduces what it returns over `AXIS`.
      shared: how many leading arguments are shared.
      donate: the first argument's buffers may be reused.

    Returns:
      The mapped function; its results are un-stacked.
    """
    return jax.pmap(
        function,
        axis_name=AXIS,
        in_axes=(*[None] * shared, 0),
        out_axes=None,
        donate_argnums=(0,) if donate else (),
    )
