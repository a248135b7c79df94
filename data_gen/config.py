"""GeneratorConfig: every range that the simulator draws from, with its unit and its reason."""

import dataclasses
import math

Range = tuple[float, float]
_LEAST_SIZE = 16  # px
# Ranges that are drawn evenly; the others in their logarithm.
_EVEN = frozenset({"scene_scale", "spectral_slope", "hurst", "branch_deg", "mtf_nyquist"})


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """What a simulated pair may contain. Hashable, so that it is a static argument of `jit`.

    Ranges are (low, high). "log" marks those drawn uniformly in the logarithm.
    """

    size: int = 96  # px, height and width of a sample

    # Ground, rendered at half a pixel so that the sensor's aliasing is physical.
    scene_scale: Range = (1.0, 2.0)  # native px of a real scene per simulated px
    two_date_fraction: float = 0.6  # of the samples from places with two dates that agree
    spectral_slope: Range = (0.6, 2.4)  # of the amplitude spectrum; natural ground has about 1 to 2

    # Fault.
    fault_fraction: float = 0.85  # of the samples; the rest must teach that there may be none
    slip_px: Range = (0.1, 4.0)  # log; ruptures at 10 to 15 m pixels, from creep to great ones
    oblique_deg: float = 15.0  # standard deviation of the rake about pure strike-slip
    opening_fraction: float = 0.15  # of the faults have any rake at all
    roughness_px: Range = (0.2, 5.0)  # log; rms of the trace about its line
    hurst: Range = (0.6, 0.9)  # of the self-affine trace (Candela et al. 2012: 0.6 to 0.8)
    sharp_fraction: float = 0.6  # of the faults have no shear zone at all
    shear_zone_px: Range = (0.5, 16.0)  # log; full width of the others
    locking_px: Range = (40.0, 2000.0)  # log; over which the offset decays, at most 4 sizes
    tip_fraction: float = 0.15  # of either end of a fault lies inside the image
    slip_variation: float = 0.5  # largest amplitude of slip along strike about its mean
    parallel_fraction: float = 0.1  # of the faults have two strands that share the slip
    stepover_fraction: float = 0.1  # of the faults hand the slip over to a second strand
    branch_fraction: float = 0.1  # of the faults branch
    strand_gap_px: Range = (4.0, 30.0)  # log; between two strands
    branch_deg: Range = (12.0, 50.0)  # angle between the strands of a branch
    one_sided_fraction: float = 0.1  # of the faults: only one side moves (ice beside rock, a slide)
    margin_px: Range = (6.0, 60.0)  # log; distance over which such a motion dies away
    edge_clearance: float = 0.15  # of the size; the trace passes at least this far inside

    # Motion that is not a fault.
    offset_px: float = 0.7  # +- uniform shift; whole pixels are taken out before an estimator runs
    ramp_px: float = 0.4  # standard deviation of the tilt across the sample
    bump_fraction: float = 0.25  # of the samples have a smooth landslide-like bump
    bump_px: Range = (0.1, 1.5)  # log; its height
    jitter_fraction: float = 0.3  # of the samples: the satellite shook, waves along the track
    jitter_px: Range = (0.01, 0.1)  # log; standard deviation of the waves' amplitude
    ccd_fraction: float = 0.2  # of the samples show steps between the detectors of a push-broom
    ccd_px: Range = (0.01, 0.1)  # log; standard deviation of the detectors' offsets

    # Sensor and change.
    mtf_nyquist: Range = (0.1, 0.4)  # Sentinel-2 10 m: 0.15 to 0.3; sources in docs/simulator.md
    noise_fraction: Range = (0.01, 0.3)  # log; of the image's standard deviation
    gain: Range = (0.7, 1.4)  # log; of each date's contrast
    offset_fraction: float = 0.3  # +- of the standard deviation, of each date's brightness
    gamma: Range = (0.8, 1.25)  # log; of each date's brightness
    illumination: float = 0.15  # standard deviation of the low-frequency gain
    change_fraction: float = 0.3  # of the samples have patches with other ground at the later date
    season_fraction: float = 0.35  # of the samples lose contrast in parts of the later image
    cover_fraction: float = 0.4  # of the samples: texture that only the later date has, everywhere
    cover_level: Range = (0.05, 3.0)  # log; its share of the image's standard deviation
    sun_fraction: float = 0.5  # of the samples: the later sun stands elsewhere
    cloud_fraction: float = 0.12  # of the samples have cloud and its shadow over one date
    cloud_mask_fraction: float = 0.5  # of the clouds are masked in the image; all are in the truth
    stripe_fraction: float = 0.15  # of the images have lines of their own brightness
    stripe_level: Range = (0.005, 0.05)  # log; standard deviation of their brightness
    quantisation: Range = (0.002, 0.05)  # log; step of the digital numbers, in ground contrast
    nodata_fraction: float = 0.1  # of the images have a nodata edge

    def __post_init__(self):
        """Raises ValueError where a draw would have no meaning."""
        for name, value in dataclasses.asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(map(math.isfinite, numbers)):
                raise ValueError(f"{name}={value} must be finite.")
            if name.endswith("_px") and min(numbers) < 0:
                raise ValueError(f"{name}={value} is a length; give 0 or more.")
            if isinstance(value, tuple) and (len(value) != 2 or not value[0] <= value[1]):
                told = ",".join(f"{number:g}" for number in value)
                raise ValueError(f"{name}={told} must be two numbers, low,high, low first.")
            if isinstance(value, tuple) and name not in _EVEN and value[0] <= 0:
                raise ValueError(
                    f"{name}={value} is drawn in its logarithm; give a low bound above 0."
                )
            if name == "offset_fraction":
                if not 0 <= value < math.inf:
                    raise ValueError(
                        f"{name}={value} is of the standard deviation; give 0 or more."
                    )
            elif (
                name.endswith("_fraction") and not isinstance(value, tuple) and not 0 <= value <= 1
            ):
                raise ValueError(f"{name}={value} is a share of the samples; give 0 to 1.")
        bounds = {
            "mtf_nyquist": (self.mtf_nyquist[0] > 0 and self.mtf_nyquist[1] < 1, "a share: 0 to 1"),
            "scene_scale": (self.scene_scale[0] >= 1, "in native px: 1 or more"),
            "slip_variation": (0 <= self.slip_variation <= 1, "of the slip: 0 to 1"),
            "edge_clearance": (0 <= self.edge_clearance <= 0.5, "of the size: 0 to 0.5"),
            "size": (self.size >= _LEAST_SIZE, f"in px: {_LEAST_SIZE} or more"),
        }
        for name, (holds, what) in bounds.items():
            if not holds:
                raise ValueError(f"{name}={getattr(self, name)} will not do. It is {what}.")
        strands = self.parallel_fraction + self.stepover_fraction + self.branch_fraction
        if strands > 1:
            raise ValueError(
                f"parallel_fraction, stepover_fraction and branch_fraction add up to {strands:g};"
                " a fault is one of these at most, give 1 or less in all."
            )

    @property
    def inversions(self) -> int:
        """Iterations that find where ground came from; steep motion takes more."""
        return 8 if self.slip_px[1] > 4.0 else 4

    @property
    def reach_px(self) -> int:
        """More than any pixel can move inwards: that much ground is needed beyond the edges."""
        motion = self.slip_px[1] + self.offset_px + 2.0 * self.ramp_px + self.bump_px[1]
        return math.ceil(motion + 3.0 * (self.jitter_px[1] + self.ccd_px[1])) + 1


def plain(**changes) -> GeneratorConfig:
    """One sharp fault over ground that does not change: what a demonstration or a test starts from.

    Args:
      **changes: fields of GeneratorConfig to set beside.

    Returns:
      A config without any other chance event: every fraction is 0, but those of faults and of
      sharp ones are 1; slip does not vary along strike.
    """
    numbers = [f.name for f in dataclasses.fields(GeneratorConfig) if f.type is float]
    nothing = {n: 0.0 for n in numbers if n.endswith("_fraction") and n != "cloud_mask_fraction"}
    one_sharp_fault = {"fault_fraction": 1.0, "sharp_fraction": 1.0, "slip_variation": 0.0}
    fractions = {"offset_fraction": GeneratorConfig.offset_fraction}
    return GeneratorConfig(**nothing | one_sharp_fault | fractions | changes)


# Named ranges of displacement, from what stays under a window's precision to great ruptures.
RANGES = {
    "very_small": {
        "slip_px": (0.02, 0.2),
        "offset_px": 0.1,
        "ramp_px": 0.05,
        "bump_px": (0.01, 0.1),
    },
    "small": {"slip_px": (0.2, 2.0), "offset_px": 0.7, "ramp_px": 0.4, "bump_px": (0.1, 1.0)},
    "large": {"slip_px": (2.0, 10.0), "offset_px": 2.0, "ramp_px": 1.0, "bump_px": (1.0, 4.0)},
    "mixture": {"slip_px": (0.02, 10.0), "offset_px": 0.7, "ramp_px": 0.4, "bump_px": (0.01, 4.0)},
}
