"""The devices of one or several hosts: pmap with un-stacked state, and who makes which examples."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

AXIS = "devices"


def join_hosts(coordinator: str, *, hosts: int, host: int) -> None:
    """Joins the processes of one run, one for each host; before anything else is asked of JAX.

    Args:
      coordinator: "address:port" of the first host, the same for all; "auto" where a scheduler
        (SLURM, Open MPI, a cloud TPU) tells JAX all of it.
      hosts: how many there are.
      host: which one this is, from 0.
    """
    # Without effect where the devices are no CPUs; those have no collectives of their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, hosts, host)
    # CPU hosts connect at their first collective and wait for each other for 30 s alone: now, while
    # all are here, and not when one has compiled its training step and another has not.
    agreed(False)


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def agreed(asked: bool) -> bool:
    """Whether any host asked for it; every host has to call this at the same place."""
    if jax.process_count() == 1:
        return asked
    return bool(multihost_utils.process_allgather(np.array(asked)).any())


def check_same(step: int, *, place: str) -> None:
    """Refuses hosts that go on from different steps; every host has to call this.

    Raises:
      ValueError: only some of them found the checkpoints.
    """
    if jax.process_count() > 1:
        steps = multihost_utils.process_allgather(np.array(step)).tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"The hosts would go on from steps {steps}: {place} has to be on a disk that they"
                " share."
            )


def example_indices(batch: int, devices: int) -> jax.Array:
    """This host's rows of the `(devices, batch / devices)` global example indices, in order.

    Raises:
      ValueError: the batch does not divide.
    """
    if batch % devices:
        raise ValueError(
            f"The batch of {batch} does not divide over {devices} devices; "
            f"use a multiple of {devices}."
        )
    here = devices // jax.process_count()
    first = jax.process_index() * here
    return jnp.arange(batch).reshape(devices, -1)[first : first + here]


def replicate(tree):
    """Puts one copy of `tree` on every local device, laid out as `parallel` returns it.

    Any other layout would make the second call of a mapped function compile once more.
    """
    mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def parallel(function: Callable, *, shared: int, donate: bool = False) -> Callable:
    """Runs `function` on every device of all hosts.

    Args:
      function: takes `shared` arguments that are the same on every device, then one that is
        `(local devices, ...)` outside and `(...)` inside; reduces what it returns over `AXIS`.
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
