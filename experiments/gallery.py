"""Shows what the simulator draws, and holds its distributions against those of real pairs.

./launch.sh gallery --output=docs
./launch.sh gallery --output=docs --scenes=bank.npz

Writes simulator.png (ground, faults, change) and simulator_distributions.png, and prints the 5th,
50th and 95th percentile of what a simulated pair without motion and a real one look like.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from data_gen import change, motion, prepare, sensor, textures
from data_gen.config import GeneratorConfig, plain
from data_gen.generator import example_keys, simulate_batch
from displacement import figures
from displacement.correlators.phase import phase
from displacement.normalise import normalise
from displacement.warp import grid, sample
from experiments import run

_SIZE = 128  # px, of the panels and of the tiles that are compared
_PANELS = 7  # in each row
_WINDOW = 32  # px, of the correlator whose scatter is compared


def _define_flags():
    flags.DEFINE_string("output", "gallery", "Folder to write to.")
    flags.DEFINE_string("scenes", None, "Bank or folder of real scenes to compare with.")
    flags.DEFINE_integer("samples", 64, "Simulated pairs to compare.", lower_bound=8)
    flags.DEFINE_integer("seed", 0, "Of everything drawn.")


def _ground(key):
    """Draws of procedural ground, seen by the sensor."""
    config = GeneratorConfig()
    panels = {}
    for index in range(_PANELS):
        ground = textures.procedural_ground(
            jax.random.fold_in(key, index), config, size=sensor.ground_size(_SIZE)
        )
        panels[f"ground {index + 1}"] = sensor.expose(ground, jnp.float32(0.5), size=_SIZE)
    return panels


def _faults(key):
    """Displacement along the slip of each kind of fault; without one, along the motion."""
    kinds = {
        "single, tapering": {"tip_fraction": 1.0},
        "two parallel strands": {"parallel_fraction": 1.0},
        "step-over": {"stepover_fraction": 1.0},
        "branch": {"branch_fraction": 1.0},
        "margin of ice or slide": {"one_sided_fraction": 1.0},
        "shear zone": {"sharp_fraction": 0.0, "shear_zone_px": (16.0, 16.0)},
        "no fault: a smooth bump": {"fault_fraction": 0.0, "bump_fraction": 1.0},
    }
    shared = {"slip_px": (2.0, 2.0), "offset_px": 0.0, "ramp_px": 0.0, "edge_clearance": 0.45}
    shared |= {"locking_px": (150.0, 150.0), "roughness_px": (3.0, 3.0), "bump_px": (2.0, 2.0)}
    panels = {}
    for index, (name, changes) in enumerate(kinds.items()):
        config = plain(size=_SIZE, **shared | changes)
        moved = motion.sample_motion(jax.random.fold_in(key, 7 + index), config)
        u = motion.displacement_at(moved, grid(_SIZE, _SIZE))
        slip = moved.fault.slip_px
        if not slip.any():
            slip = u.reshape(-1, 2)[jnp.linalg.norm(u, axis=-1).argmax()]
        panels[name] = u @ (slip / jnp.linalg.norm(slip))
    return panels


def _changes(key, image):
    """What becomes of an image `(S, S)` by each kind of change."""
    k = jax.random.split(key, 7)
    still = {"noise_fraction": (0.01, 0.01)}
    patches = change.changed_patches(k[0], plain(change_fraction=1.0), size=_SIZE)
    pair = jnp.stack([image, image], -1)
    clouded, _, _ = change.clouds(k[3], pair, plain(cloud_fraction=1.0))
    striped = plain(stripe_fraction=1.0, stripe_level=(0.3, 0.3), **still)
    noisy = plain(noise_fraction=(0.3, 0.3))
    return {
        "fields, burns, roofs": image + patches * (image[::-1, ::-1].T - image),
        "new cover": change.cover(k[6], image, plain(cover_fraction=1.0, cover_level=(0.5, 0.5))),
        "season": change.season(k[1], image, plain(season_fraction=1.0)),
        "another sun": change.sun(k[2], image, plain(sun_fraction=1.0)),
        "cloud and shadow": clouded[..., int(jnp.abs(clouded - pair).sum((0, 1)).argmax())],
        "stripes": sensor.radiometry(k[4], image, striped),
        "noise, light, gain": sensor.radiometry(k[5], image, noisy),
    }


def _draw_gallery(rows):
    sheet = Figure(figsize=(14.4, 7.0), layout="constrained")
    panels = sheet.subplots(len(rows), _PANELS)
    for row, (title, images) in enumerate(rows.items()):
        for axis, (name, image) in zip(panels[row], images.items(), strict=True):
            low, high = np.percentile(np.asarray(image), [1, 99])
            if title == "Faults":
                axis.imshow(image, cmap="RdBu_r", vmin=-2, vmax=2)
            else:
                axis.imshow(image, cmap="gray", vmin=low, vmax=high)
            axis.set_title(name, size=9)
            axis.set_xticks([])
            axis.set_yticks([])
        panels[row][0].set_ylabel(title, size=11)
    sheet.suptitle("What the simulator draws", weight="bold")
    return sheet


def _appearance(pairs):
    """What pairs without motion look like: spectrum, likeness, scatter of a correlator.

    Args:
      pairs: `(N, S, S, 2)`.

    Returns:
      name: `(N,)` values.
    """
    pairs = jnp.nan_to_num(pairs)
    image, _ = normalise(pairs)
    found = jax.lax.map(lambda p: phase(p, window=_WINDOW, step=8, least_snr=-jnp.inf)[0], pairs)
    error = np.asarray(found)[:, ::8, ::8].reshape(len(pairs), -1, 2)
    centred = error - np.nanmedian(error, axis=1, keepdims=True)
    scatter = 1.4826 * np.nanmedian(np.abs(centred), axis=1).max(-1)
    frequency = np.abs(np.fft.rfftfreq(_SIZE))
    taper = np.hanning(_SIZE)
    lines = np.asarray(pairs[..., 0])
    lines = lines - lines.mean(-1, keepdims=True)
    power = (np.abs(np.fft.rfft(taper * lines)) ** 2).mean(1)
    used = (frequency > 0.03) & (frequency < 0.25)
    slope = [np.polyfit(np.log(frequency[used]), np.log(p[used]), 1)[0] for p in power]
    likeness = np.asarray((image[..., 0] * image[..., 1]).mean((1, 2)))
    return {
        "slope of the power spectrum": np.array(slope),
        "correlation between the dates": likeness,
        f"scatter of a {_WINDOW}-px phase correlation [px]": scatter,
    }


def _simulated(key, count):
    """Distributions of what moves, and the appearance of pairs in which nothing does."""
    config = GeneratorConfig(size=_SIZE)
    run = jax.jit(simulate_batch, static_argnums=1)
    keys = example_keys(key, jnp.int32(0), jnp.arange(count))
    drawn = jax.device_get(jax.lax.map(lambda k: run(k[None], config), keys))
    u = drawn.displacement.reshape(-1, 2)
    slip = np.linalg.norm(drawn.slip, axis=-1).max((1, 2, 3))
    moving = {
        "displacement [px]": u.ravel(),
        "slip [px]": slip[slip > 0],
        "part of a pixel [px]": (u - np.round(u)).ravel(),
        "distance to the fault [px]": drawn.distance[np.isfinite(drawn.distance)],
    }
    nothing = ("fault_fraction", "bump_fraction", "jitter_fraction", "ccd_fraction")
    still = dict.fromkeys((*nothing, "offset_px", "ramp_px"), 0.0)
    config = dataclasses.replace(config, nodata_fraction=0.0, cloud_fraction=0.0, **still)
    pairs = jax.lax.map(lambda k: run(k[None], config).pair[0], keys)
    return moving, _appearance(pairs)


def _real(path, count):
    """The appearance of the two-date tiles of a bank, cut from the middle, brought together."""
    bank = prepare.read_bank(path, report=lambda _: None)
    tiles = np.flatnonzero(np.asarray(bank.two_dates))
    if not len(tiles):
        raise ValueError(f"--scenes={path} holds no pair of two dates. Leave it out.")
    tiles = tiles[np.linspace(0, len(tiles) - 1, min(count, len(tiles))).astype(int)]
    start = (bank.coefficients.shape[-1] - _SIZE) // 2
    positions = grid(_SIZE, _SIZE) + start

    def pair(tile):
        earlier, later = bank.coefficients[tile]
        affine = bank.affine[tile]  # what the dates are off, taken out
        off = affine[:, 0] + positions @ affine[:, 1:].T
        return jnp.stack([sample(earlier, positions), sample(later, positions + off)], -1)

    return _appearance(jax.lax.map(pair, jnp.asarray(tiles)))


def _draw_distributions(moving, simulated, real):
    sheet = Figure(figsize=(12.4, 5.6), layout="constrained")
    axes = sheet.subplots(2, 4).ravel()
    for axis, (name, values) in zip(axes, moving.items(), strict=False):
        axis.hist(values, bins=60, density=True, color="0.5")
        axis.set_xlabel(name)
    for axis, name in zip(axes[4:], simulated, strict=False):
        values = [simulated[name], *([real[name]] if real else [])]
        low, high = np.percentile(np.concatenate(values), [1, 99])
        for label, part, colour in zip(
            ("simulated", "real pairs"), values, ("0.5", "#d1495b"), strict=False
        ):
            axis.hist(
                part,
                bins=np.linspace(low, high, 24),
                density=True,
                alpha=0.6,
                color=colour,
                label=label,
            )
        axis.set_xlabel(name)
        axis.legend(frameon=False)
    for axis in axes:
        axis.set_yticks([])
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[-1].set_visible(False)
    sheet.suptitle("Distributions of simulated pairs; below, of pairs in which nothing moves")
    return sheet


def _gallery():
    values = flags.FLAGS
    folder = pathlib.Path(values.output)
    key = jax.random.key(values.seed)
    k_ground, k_faults, k_changes, k_drawn = jax.random.split(key, 4)
    ground = _ground(k_ground)
    changes = _changes(k_changes, ground["ground 4"])
    rows = {"Ground": ground, "Faults": _faults(k_faults), "Change": changes}
    figures.save(_draw_gallery(rows), folder / "simulator.png")
    moving, simulated = _simulated(k_drawn, values.samples)
    real = _real(values.scenes, values.samples) if values.scenes else {}
    figure = _draw_distributions(moving, simulated, real)
    figures.save(figure, folder / "simulator_distributions.png")
    print(f"{'':44s}{'simulated':>24s}{'real pairs':>24s}")
    for name, drawn in simulated.items():
        both = [drawn, *([real[name]] if real else [])]
        cells = [" ".join(f"{v:7.3f}" for v in np.percentile(b, [5, 50, 95])) for b in both]
        print(f"{name:44s}" + "".join(f"{cell:>24s}" for cell in cells))
    print(f"Wrote simulator.png and simulator_distributions.png to {folder}")


if __name__ == "__main__":
    jax.config.config_with_absl()
    _define_flags()
    app.run(run.guarded("gallery", _gallery), flags_parser=run.parse_flags)
