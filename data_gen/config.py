"""GeneratorConfig: every range that the simulator draws from, with its unit and its reason."""

import dataclasses

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """What a simulated pair may contain. Hashable, so that it is a static argument of `jit`.

    Ranges are (low, high). "log" marks those drawn uniformly in the logarithm.
    """

    size: int = 96  # px, height and width of a sample

    # Ground, rendered at half a pixel so that the sensor's aliasing is physical.
    scene_scale: Range = (1.0, 2.0)  # native px of a real scene per simulated px
    two_date_fraction: float = 0.6  # of the samples from places with two dates that agree
    spectral_slope: Range = (1.0, 3.2)  # of the amplitude spectrum; natural ground has about 1 to 2

    # Fault.
    fault_fraction: float = 0.85  # of the samples; the rest must teach that there may be none
    slip_px: Range = (0.1, 4.0)  # log; ruptures at 10 to 15 m pixels, from creep to great ones
    oblique_deg: float = 15.0  # standard deviation of the rake about pure strike-slip
    opening_fraction: float = 0.15  # of the faults have any rake at all
    roughness_px: Range = (0.2, 5.0)  # log; rms of the trace about its line
    hurst: Range = (0.6, 0.9)  # of the self-affine trace (Candela et al. 2012: 0.6 to 0.8)
    sharp_fraction: float = 0.6  # of the faults have no shear zone at all
    shear_zone_px: Range = (0.5, 16.0)  # log; full width of the others
    locking_px: Range = (40.0, 2000.0)  # log; distance over which the offset decays
    tip_fraction: float = 0.3  # of the faults end inside the image
    edge_clearance: float = 0.15  # of the size; the trace passes at least this far inside

    # Motion that is not a fault.
    offset_px: float = 0.7  # +- uniform shift; whole pixels are taken out before an estimator runs
    ramp_px: float = 0.4  # standard deviation of the tilt across the sample
    bump_fraction: float = 0.25  # of the samples have a smooth landslide-like bump
    bump_px: Range = (0.1, 1.5)  # log; its height

    # Sensor and change.
    mtf_nyquist: Range = (0.1, 0.4)  # Sentinel-2 10 m: 0.15 to 0.3; Landsat-8 pan: about 0.25
    noise_fraction: Range = (0.01, 0.3)  # log; of the image's standard deviation
    gain: Range = (0.7, 1.4)  # log
    offset_fraction: float = 0.3  # +- of the standard deviation
    gamma: Range = (0.8, 1.25)  # log
    illumination: float = 0.15  # standard deviation of the low-frequency gain
    change_fraction: float = 0.3  # of the samples have patches with other ground at the later date
    nodata_fraction: float = 0.1  # of the samples have a nodata edge in either image
