"""What others would use instead: scikit-image and OpenCV, called as their documentation says.

For the benchmark and the tests only: both are `dev` extras, imported where they are used.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from displacement.correlators import windows

# From an earlier and a later image `(H, W)` to the displacement `(H, W, 2)` px, (row, col).
Peer = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _in_windows(shift: Callable, earlier: np.ndarray, later: np.ndarray, *, window: int, step: int):
    """Displacement by `shift(earlier window, later window, Hann taper)`, NaN where cut by edges."""
    taper = np.outer(*2 * [np.hanning(window + 1)[:-1]])
    nodes = [np.asarray(windows.nodes(size, step)) for size in earlier.shape]
    field = np.full((*(len(n) for n in nodes), 2), np.nan, np.float32)
    half = window // 2
    for i, row in enumerate(nodes[0]):
        for j, col in enumerate(nodes[1]):
            cut = np.s_[row - half : row + half, col - half : col + half]
            if min(row, col) >= half and earlier[cut].shape == (window, window):
                field[i, j] = shift(earlier[cut], later[cut], taper)
    return np.asarray(windows.to_pixels(jnp.asarray(field), earlier.shape, step))


def _scikit_image(window: int, step: int) -> dict[str, Peer]:
    from skimage import registration

    def shift(earlier, later, taper):
        tapered = ((image - image.mean()) * taper for image in (earlier, later))
        # Its shift brings the second image back to the first.
        return -registration.phase_cross_correlation(*tapered, upsample_factor=100)[0]

    def phase(earlier, later):
        return _in_windows(shift, earlier, later, window=window, step=step)

    def ilk(earlier, later):
        return np.stack(registration.optical_flow_ilk(earlier, later, radius=window // 2), -1)

    return {
        f"scikit-image phase_cross_correlation {window}": phase,
        f"scikit-image optical_flow_ilk {window + 1}": ilk,
    }


def _opencv(window: int, step: int) -> dict[str, Peer]:
    import cv2

    def shift(earlier, later, taper):
        centred = (np.float64(image - image.mean()) for image in (earlier, later))
        (col, row), _ = cv2.phaseCorrelate(*centred, taper)
        return row, col

    def phase(earlier, later):
        return _in_windows(shift, earlier, later, window=window, step=step)

    def in_bytes(earlier, later):
        low, high = np.percentile([earlier, later], [0.5, 99.5])
        scaled = (255 * (image - low) / (high - low) for image in (earlier, later))
        return [np.uint8(np.clip(np.round(image), 0, 255)) for image in scaled]

    def dis(earlier, later):
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        return flow.calc(*in_bytes(earlier, later), None)[..., ::-1]  # (x, y) to (row, col)

    def farneback(earlier, later):
        found = cv2.calcOpticalFlowFarneback(
            *in_bytes(earlier, later),
            None,
            pyr_scale=0.5,
            levels=3,
            winsize=window,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=cv2.OPTFLOW_FARNEBACK_GAUSSIAN,
        )
        return found[..., ::-1]

    return {
        f"OpenCV phaseCorrelate {window}": phase,
        "OpenCV DIS": dis,
        f"OpenCV Farneback {window}": farneback,
    }


def peers(*, window: int, step: int, report: Callable[[str], None] = print) -> dict[str, Peer]:
    """The methods of others that are installed.

    Args:
      window: even size in px of their windows.
      step: spacing of the windows in px, where they are placed one by one.
      report: called with a line for each package that is missing.

    Returns:
      for each name, the function that measures a pair without NaN.
    """
    found = {}
    for package, make in (("scikit-image", _scikit_image), ("OpenCV", _opencv)):
        try:
            found |= make(window, step)
        except ImportError:
            report(f"{package} is not installed and left out; the extra `dev` holds it.")
    return found
