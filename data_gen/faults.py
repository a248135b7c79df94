"""Faults: rough traces in one or two strands, the share of the slip on each, the distance to them.

A fault is one trace or two. Two may share the slip side by side (`parallel`), hand it over from one
to the other (`stepover`), or part where one leaves the other (`branch`). Everything here is a
function of position on the earlier image's grid; what moves how far is `data_gen.motion`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_gen.config import GeneratorConfig
from data_gen.random import Draws

SINGLE, PARALLEL, STEPOVER, BRANCH = range(4)
_LEAST_SHARE = 0.02  # of the slip; where less is left there is no trace to be far from


class Trace(NamedTuple):
    """A rough line. Positions in pixels, (row, col)."""

    centre: jax.Array  # (2,) a point of the mean line, at which `along` is 0
    along: jax.Array  # (2,) unit vector of the mean strike
    deviation_px: jax.Array  # (T,) deviation from the line, at steps of `node_px`
    node_px: jax.Array  # scalar, spacing of the nodes along strike


class Fault(NamedTuple):
    """Two strands, of which the second may be idle, and how the slip lies on them."""

    traces: Trace  # with a leading axis of 2: the main strand and the second one
    kind: jax.Array  # scalar, one of SINGLE, PARALLEL, STEPOVER, BRANCH
    second_share: jax.Array  # scalar, of the slip on the second strand (PARALLEL, BRANCH)
    junction_px: jax.Array  # scalar, along strike, where slip is handed over or the strands part
    overlap_px: jax.Array  # scalar, over which it is handed over
    branch_side: jax.Array  # scalar, +1 or -1: the side of the main strand on which the branch lies
    slip_px: jax.Array  # (2,) displacement of the positive side minus the negative side
    one_sided: jax.Array  # scalar, 0 both sides move alike, 1 only the positive side (ice, slide)
    shear_zone_px: jax.Array  # scalar, full width; 0 is perfectly sharp
    locking_px: jax.Array  # scalar, distance over which the offset decays
    tips_px: jax.Array  # (2,) positions along strike between which there is slip
    taper_px: jax.Array  # scalar, over which it falls to 0 there
    variation: jax.Array  # (3,) of slip along strike: amplitude, wavelength [px], phase


def self_affine(key: jax.Array, hurst: jax.Array, *, nodes: int) -> jax.Array:
    """`(2, nodes)` self-affine profiles of unit rms and no trend, spectral power -(2 hurst + 1)."""
    size = 2 * nodes  # half of a periodic profile, so that its ends are unlike
    frequency = jnp.arange(1, size // 2 + 1, dtype=jnp.float32)
    amplitude = frequency ** -(hurst + 0.5)
    real, imag = amplitude * jax.random.normal(key, (2, 2, size // 2))
    spectrum = jnp.concatenate([jnp.zeros((2, 1)), real + 1j * imag], axis=-1)
    profile = jnp.fft.irfft(spectrum, n=size)[:, :nodes]
    x = jnp.linspace(-1.0, 1.0, nodes)
    profile = profile - profile.mean(1, keepdims=True)
    profile = profile - x * (profile * x).sum(1, keepdims=True) / (x**2).sum()
    return profile / (profile.std(1, keepdims=True) + 1e-9)


def _traces(key, draw, config, *, kind, junction):
    """The main strand through the sample, and a second one as `kind` places it; its side."""
    size = config.size
    reach = 1.3 * size  # half a trace's length: it crosses the sample from any centre
    nodes = 2 * int(reach // 4) + 1
    node = 2 * reach / (nodes - 1)
    clear = config.edge_clearance
    centre = size * draw.uniform((clear, 1.0 - clear), (2,))
    strike = draw.angle()
    hurst = draw.uniform(config.hurst)
    roughness = draw.log_uniform(config.roughness_px)
    turn = jnp.deg2rad(draw.uniform(config.branch_deg))
    left = jnp.where(draw.chance(0.5), 1.0, -1.0)
    gap = left * draw.log_uniform(config.strand_gap_px)
    # The lines pass through their centres, so that a trace is in the image however rough.
    profile = self_affine(key, hurst, nodes=nodes)
    deviation = roughness * (profile - profile[:, nodes // 2, None])

    def unit(angle):
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    main = Trace(centre, unit(strike), deviation[0], jnp.float32(node))
    across = jnp.stack([-main.along[1], main.along[0]])
    beside = centre + gap * across
    at = jnp.interp(junction / node + nodes // 2, jnp.arange(nodes), deviation[0])
    parting = centre + junction * main.along + at * across
    second = Trace(
        jnp.where(kind == BRANCH, parting, beside),
        jnp.where(kind == BRANCH, unit(strike + left * turn), main.along),
        deviation[1],
        jnp.float32(node),
    )
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), main, second), left


def sample_fault(key: jax.Array, config: GeneratorConfig) -> Fault:
    """Draws one fault, or none (slip 0)."""
    k_profile, k_draw = jax.random.split(key)
    draw = Draws(k_draw, 40)
    size = config.size
    one_sided = draw.chance(config.one_sided_fraction)
    bounds = np.cumsum([config.parallel_fraction, config.stepover_fraction, config.branch_fraction])
    which = draw.uniform((0.0, 1.0))
    kind = jnp.select([which < b for b in bounds], [PARALLEL, STEPOVER, BRANCH], SINGLE)
    kind = jnp.where(one_sided, SINGLE, kind)  # a margin of ice or of a slide is one line
    junction = size * draw.uniform((-0.25, 0.25))
    traces, left = _traces(k_profile, draw, config, kind=kind, junction=junction)

    any_rake = draw.chance(config.opening_fraction)
    rake = jnp.where(any_rake, draw.angle(), jnp.deg2rad(config.oblique_deg) * draw.normal())
    sense = jnp.where(draw.chance(0.5), 1.0, -1.0)
    present = draw.chance(config.fault_fraction)
    slip = jnp.where(present, sense * draw.log_uniform(config.slip_px), 0.0)
    along = traces.along[0]
    across = jnp.stack([-along[1], along[0]])
    slip = slip * (jnp.cos(rake) * along + jnp.sin(rake) * across)

    sharp = draw.chance(config.sharp_fraction)
    ends = draw.chance(config.tip_fraction, (2,))
    tips = size * draw.uniform((0.1, 0.45), (2,)) * jnp.array([-1.0, 1.0])
    tips = jnp.where(ends, tips, 4.0 * size * jnp.array([-1.0, 1.0]))
    locking = jnp.where(one_sided, jnp.array(config.margin_px), jnp.array(config.locking_px))
    variation = config.slip_variation * draw.uniform((0.0, 1.0))
    return Fault(
        traces=traces,
        kind=kind,
        second_share=draw.uniform((0.2, 0.6)),
        junction_px=junction,
        overlap_px=size * draw.uniform((0.02, 0.3)),
        branch_side=left,
        slip_px=slip,
        one_sided=one_sided.astype(jnp.float32),
        shear_zone_px=jnp.where(sharp, 0.0, draw.log_uniform(config.shear_zone_px)),
        # A short fault is felt no further than it is long.
        locking_px=jnp.minimum(draw.log_uniform(locking), 0.5 * (tips[1] - tips[0])),
        tips_px=tips,
        taper_px=jnp.minimum(size * draw.uniform((0.1, 0.6)), 0.5 * (tips[1] - tips[0])),
        variation=jnp.stack([variation, size * draw.uniform((0.3, 1.5)), draw.angle()]),
    )


def trace_coordinates(trace: Trace, row: jax.Array, col: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Position along strike, and offset across it from the rough trace (positive: left)."""
    # Written out: XLA would make a call of its own of a product over two components.
    row, col = row - trace.centre[0], col - trace.centre[1]
    along = row * trace.along[0] + col * trace.along[1]
    across = col * trace.along[0] - row * trace.along[1]
    nodes = trace.deviation_px.shape[0]
    node = jnp.clip(along / trace.node_px + (nodes - 1) / 2, 0.0, nodes - 1.001)
    base = jnp.floor(node).astype(jnp.int32)
    left, right = trace.deviation_px[base], trace.deviation_px[base + 1]
    return along, across - (left + (right - left) * (node - base))


def _rise(x: jax.Array) -> jax.Array:
    """From 0 at x = 0 to 1 at x = 1, smoothly, and level beyond."""
    x = jnp.clip(x, 0.0, 1.0)
    return x**2 * (3.0 - 2.0 * x)


def _slip_fraction(fault: Fault, along: jax.Array) -> jax.Array:
    """Share of the slip at `along` strike: tips and variation, 0 to 1."""
    start, end = fault.tips_px[0], fault.tips_px[1]
    tapered = _rise((along - start) / fault.taper_px) * _rise((end - along) / fault.taper_px)
    amplitude, wavelength, phase = fault.variation
    wave = 1.0 + amplitude * jnp.cos(2.0 * jnp.pi * along / wavelength + phase)
    return tapered * wave / (1.0 + amplitude)


def _strands(fault: Fault) -> list[Trace]:
    return [jax.tree.map(lambda x, i=i: x[i], fault.traces) for i in (0, 1)]


def _strand_shares(fault: Fault, along: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Share of the slip on the main strand and on the second at `along` strike of the main one.

    Of a branch: what the second would carry where it exists; the main one loses it there.
    """
    whole = _slip_fraction(fault, along)
    handed = _rise((along - fault.junction_px) / fault.overlap_px + 0.5)
    second = jnp.where(
        fault.kind == STEPOVER, handed, jnp.where(fault.kind == SINGLE, 0.0, fault.second_share)
    )
    main = jnp.where(fault.kind == BRANCH, 1.0, 1.0 - second)
    return main * whole, second * whole


def _far_decay(across: jax.Array, locking_px: jax.Array) -> jax.Array:
    """1 - 2/pi arctan(|across| / locking): elastic far field of a vertical fault that slipped to
    a depth (Savage & Burford 1973).

    The arctangent is Abramowitz & Stegun's 4.4.49, good to 1e-5, which is the displacement that
    is rendered and the truth alike; XLA's own is a library call for every sample on a CPU.
    """
    x = jnp.abs(across) / locking_px
    t = jnp.minimum(x, 1.0 / jnp.maximum(x, 1.0))
    s = t * t
    angle = t * (0.9998660 + s * (-0.3302995 + s * (0.1801410 + s * (-0.0851330 + s * 0.0208351))))
    return 1.0 - (2.0 / jnp.pi) * jnp.where(x > 1.0, 0.5 * jnp.pi - angle, angle)


def _side(fault: Fault, across: jax.Array) -> jax.Array:
    """From -1 to 1 across a strand. The trace itself belongs to the positive side."""
    width = jnp.maximum(fault.shear_zone_px, 1e-6)
    return jnp.where(
        fault.shear_zone_px > 0, jnp.tanh(2.0 * across / width), jnp.where(across >= 0, 1.0, -1.0)
    )


def slip_share(fault: Fault, row: jax.Array, col: jax.Array) -> jax.Array:
    """By how much of the slip the ground at (row, col) moves, -1/2 to 1/2 (one-sided: 0 to 1).

    The two coordinates, `(...)` pixels each, are apart here and in `data_gen.motion`: a CPU does
    this twice as fast as with a last axis of two.
    """
    main, second = _strands(fault)
    along, across = trace_coordinates(main, row, col)
    _, across_second = trace_coordinates(second, row, col)
    main_share, second_share = _strand_shares(fault, along)
    side, second_side = _side(fault, across), _side(fault, across_second)
    decay = _far_decay(across, fault.locking_px)
    share = 0.5 * main_share * (side + fault.one_sided) * decay
    # Between main strand and branch the ground has moved by what the main one has left.
    m = fault.branch_side
    between = 0.25 * (1.0 + m * side) * (1.0 - m * second_side)
    beside = 0.5 * second_side * _far_decay(across_second, fault.locking_px)
    return share + second_share * jnp.where(fault.kind == BRANCH, -m * between * decay, beside)


def _distances(fault: Fault, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Signed distance `(2, ...)` to the slipping part of each strand, and the share of the slip."""

    traces = _strands(fault)

    def strand(index):
        trace, other = traces[index], traces[1 - index]
        nodes = trace.deviation_px.shape[0]
        node = (jnp.arange(nodes) - (nodes - 1) / 2) * trace.node_px
        unit = jnp.stack([-trace.along[1], trace.along[0]])
        points = trace.centre + node[:, None] * trace.along + trace.deviation_px[:, None] * unit
        middle = 0.5 * (points[1:] + points[:-1])
        main, second = _strand_shares(
            fault, trace_coordinates(traces[0], middle[:, 0], middle[:, 1])[0]
        )
        # Where a piece lies as seen from the other strand: a branch exists on its own side of the
        # main strand only, and the main one has lost slip where it borders on what lies between.
        _, across = trace_coordinates(other, middle[:, 0], middle[:, 1])
        own = fault.branch_side * across > 0.0
        branch = fault.kind == BRANCH
        share = jnp.where(branch & ~own, main - second, main)
        if index == 1:
            # What a branch divides dies away from the main strand as that one's own motion does.
            divided = jnp.where(own, second * _far_decay(across, fault.locking_px), 0.0)
            share = jnp.where(branch, divided, second)
        slips = (share > _LEAST_SHARE) & (jnp.abs(fault.slip_px).max() > 0)

        def nearest(piece, best):
            start, step = points[piece], points[piece + 1] - points[piece]
            row, col = positions[..., 0] - start[0], positions[..., 1] - start[1]
            t = jnp.clip((row * step[0] + col * step[1]) / (step @ step), 0.0, 1.0)
            squared = (row - t * step[0]) ** 2 + (col - t * step[1]) ** 2
            squared = jnp.where(slips[piece], squared, jnp.inf)
            closer = squared < best[0]
            return jnp.where(closer, squared, best[0]), jnp.where(closer, share[piece], best[1])

        far = jnp.full(positions.shape[:-1], jnp.inf, jnp.float32)
        squared, share_there = jax.lax.fori_loop(
            0, nodes - 1, nearest, (far, jnp.zeros_like(far)), unroll=8
        )
        _, across = trace_coordinates(trace, positions[..., 0], positions[..., 1])
        return jnp.where(across >= 0, 1.0, -1.0) * jnp.sqrt(squared), share_there

    found = [strand(0), strand(1)]
    return jnp.stack([f[0] for f in found]), jnp.stack([f[1] for f in found])


def distance_and_slip(fault: Fault, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How far the nearest slipping strand is, and the slip there.

    Measured to every straight piece of the rough traces, so perpendicular also at their kinks.

    Args:
      fault: the fault.
      positions: `(..., 2)` pixels, (row, col).

    Returns:
      signed distance `(...)` [px], positive on the strand's positive side, inf where nothing slips;
      and slip `(..., 2)` [px] on it, positive minus negative side.
    """
    distances, shares = _distances(fault, positions)
    second = jnp.abs(distances[1]) < jnp.abs(distances[0])
    distance = jnp.where(second, distances[1], distances[0])
    return distance, jnp.where(second, shares[1], shares[0])[..., None] * fault.slip_px
