"""Contenders, and the samples that all of them are scored on."""

import dataclasses
import functools
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

import displacement
from data_gen import prepare
from data_gen.generator import Sample, example_keys, simulate
from displacement import checkpoint, metrics, postprocess
from displacement.estimator import create_instrument, measure
from displacement.identity import file_identity, weights_hash
from displacement.methods import NETWORKS
from experiments import flags as shared
from experiments import results


@dataclasses.dataclass(frozen=True)
class Contender:
    """What measures samples.

    Attributes:
      function: from the number of a sample and the sample, what was measured.
      identity: what decides its results, JSON-able.
    """

    function: Callable[[int, Sample], displacement.Estimate]
    identity: dict[str, Any]

    def __call__(self, number: int, sample: Sample) -> displacement.Estimate:
        return self.function(number, sample)


_ODD_WINDOWS = ("ncc",)  # a correlator whose windows are odd takes one pixel less
_SMALLEST = {"phase": 8}  # px; others go down to 4
_LARGEST_REGULARISED = 16  # px; that small windows serve is what regularisation is for


def define_flags() -> None:
    """Defines the flags; not at import, because other scripts import `score`."""
    shared.define_generator(size=192)
    flags.DEFINE_list("checkpoint", [], "Runs, checkpoints or folders of weights to score.")
    flags.DEFINE_bool("every_checkpoint", False, "Of runs: score every checkpoint that is kept.")
    flags.DEFINE_list("method", [], f"Methods to score: {', '.join(displacement.METHODS)}.")
    flags.DEFINE_list("window", [], "Windows [px] at which to score the correlators.")
    flags.DEFINE_float(
        "regularisation",
        4.0,
        "Of ncc in windows up to 16 px, scored beside plain ones; 0: not.",
    )
    flags.DEFINE_integer("step", 2, "Step [px] of the correlators.", lower_bound=1)
    flags.DEFINE_integer("samples", 32, "Simulated pairs.", lower_bound=1)
    flags.DEFINE_integer("seed", 1000, "Of the simulated set; training uses 0.")
    flags.DEFINE_string("scenes", None, "Bank or folder of real scenes; without, procedural.")
    flags.DEFINE_list("only", [], "Of the scenes, those whose name contains one of these.")
    flags.DEFINE_list(
        "results", [], "NAME=FOLDER of displacement maps that another program made of the samples."
    )
    flags.DEFINE_integer(
        "views", 1, "Also score networks from so many sides.", lower_bound=1, upper_bound=8
    )
    flags.DEFINE_float(
        "nl_means_px", None, "Also score every method regularised by non-local means of so much."
    )
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.DEFINE_enum("wandb_mode", "offline", ["offline", "online", "disabled"], "W&B.")


def _steps(run_dir: pathlib.Path) -> list[str]:
    """Paths of a run's checkpoints, by step."""
    steps = checkpoint.steps(run_dir)
    if not steps:
        raise ValueError(f"--every_checkpoint: {run_dir} is no run, it has no checkpoints/<step>.")
    return [str(run_dir / "checkpoints" / str(step)) for step in steps]


def _contender(options: dict[str, Any]) -> Contender:
    """What `estimate` is with these options."""
    instrument = create_instrument(**options)
    known = {"options": options, "details": instrument.details}
    if options["method"] in NETWORKS:
        known["weights"] = weights_hash(instrument.details["weights"])

    def function(number, sample):
        with warnings.catch_warnings():  # of a doubtful pair; here the truth is known
            warnings.simplefilter("ignore", UserWarning)
            return measure(instrument, *np.moveaxis(sample.pair, -1, 0))

    return Contender(function, known)


def _regularised(contender: Contender, strength_px: float) -> Contender:
    def function(number, sample):
        found = contender(number, sample)
        smooth = postprocess.nl_means(found.displacement, strength_px=strength_px)
        return dataclasses.replace(found, displacement=smooth)

    return Contender(function, contender.identity | {"nl_means_px": strength_px})


def _correlator(method: str, window: int | None, values) -> dict[str, dict]:
    """Options of `estimate` for a correlator at a window, by name; regularised ones beside."""
    options = {"method": method}
    if method != "lk":  # always dense
        options["step"] = values.step
    if window is not None:
        options["window"] = window - (method in _ODD_WINDOWS and window % 2 == 0)
    named = "" if window is None else f" {options['window']}"
    found = {f"{method}{named}": options}
    if method == "ncc" and values.regularisation:
        size = options.get("window") or create_instrument(method).details["window"]
        if size <= _LARGEST_REGULARISED:
            further = {"regularisation": values.regularisation}
            found[f"{method} regularised{named}"] = options | further
    return found


def _outside(entries: list[str]) -> dict[str, Contender]:
    """What other programs measured, of NAME=FOLDER."""
    found = {}
    for entry in entries:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise ValueError(f"--results={entry} is not NAME=FOLDER.")
        if not pathlib.Path(folder).is_dir():
            raise ValueError(f"--results={entry}: the folder {folder} does not exist.")
        function = functools.partial(results.read, pathlib.Path(folder))
        found[name] = Contender(function, file_identity(folder))
    return found


def contenders(values) -> dict[str, Contender]:
    """What the flags ask to score, by name.

    Raises:
      ValueError: an unknown method, weights or a folder that do not exist; told before the work.
    """
    paths = values.checkpoint
    if values.every_checkpoint and not paths:
        raise ValueError("--every_checkpoint needs --checkpoint=RUN.")
    if values.every_checkpoint:
        paths = [step for path in paths for step in _steps(pathlib.Path(path))]
    chosen = {path: {"method": "cnn", "weights": path} for path in paths}
    sizes = shared.whole_numbers(values, "window")
    methods = values.method or ([] if chosen or values.results else ["cnn"])
    for method in methods:
        if method not in displacement.METHODS:
            known = ", ".join(displacement.METHODS)
            raise ValueError(f"Unknown --method={method}; choose from {known}.")
        if method in NETWORKS:
            chosen[method] = {"method": method}
            continue
        for window in sizes or [None]:
            if window is not None and window < _SMALLEST.get(method, 0):
                print(f"{method} has no window of {window} px; left out.")
                continue
            chosen |= _correlator(method, window, values)
    if values.views > 1:
        chosen |= {
            f"{name} views {values.views}": options | {"views": values.views}
            for name, options in chosen.items()
            if options["method"] in NETWORKS
        }
    found = {name: _contender(options) for name, options in chosen.items()}
    if strength := values.nl_means_px:
        found |= {f"{name} nl-means": _regularised(c, strength) for name, c in found.items()}
    outside = _outside(values.results)
    if twice := found.keys() & outside.keys():
        raise ValueError(
            f"--results={', '.join(twice)}=... has the name of what is scored here. Give another."
        )
    return found | outside


_measure = jax.jit(metrics.measure)


def score_one(found: displacement.Estimate, sample: Sample) -> metrics.Metrics:
    """Sums of the errors of one estimate, to be merged or summarised."""
    fields = (found.displacement, sample.displacement, sample.distance, sample.slip, sample.valid)
    sigma = None if found.sigma is None else found.sigma[None]
    return jax.device_get(_measure(*(jnp.asarray(field)[None] for field in fields), sigma=sigma))


def score(
    contender: Contender, samples: list[Sample], *, name: str = "", progress: bool = False
) -> tuple[list[metrics.Metrics], float]:
    """Scores one contender on every sample.

    Args:
      contender: what measures.
      samples: what to measure.
      name: to show beside the bar.
      progress: whether to show a bar.

    Returns:
      the sums of every sample, and the seconds that it took; the first call, which compiles, is
      made beforehand and not counted.
    """
    contender(0, samples[0])  # compiles
    parts, spent = [], 0.0
    bar = tqdm(samples, unit="pair", desc=name, disable=not progress, dynamic_ncols=True)
    for number, sample in enumerate(bar):
        start = time.perf_counter()
        found = contender(number, sample)
        spent += time.perf_counter() - start
        parts.append(score_one(found, sample))
    return parts, spent


def where_measured(samples: list[Sample], contender: Contender) -> list[Sample]:
    """The samples less what the contender leaves out, so that all are scored on the same pixels."""
    kept = []
    for number, sample in enumerate(samples):
        known = np.isfinite(contender(number, sample).displacement).all(-1)
        kept.append(sample._replace(valid=sample.valid & known))
    return kept


def together(parts: list[metrics.Metrics]) -> metrics.Metrics:
    """The sums of several samples."""
    return functools.reduce(metrics.merge, parts)


def simulated(values) -> list[Sample]:
    """The samples that the flags ask for."""
    config = shared.generator_config(values)
    bank, only = None, tuple(filter(None, values.only))
    if values.scenes:
        bank = prepare.read_bank(values.scenes, only=only or ("",))
    elif only:
        raise ValueError("--only chooses among --scenes, and there are none. Give both.")
    keys = example_keys(jax.random.key(values.seed), 0, jnp.arange(values.samples))
    one = jax.jit(simulate, static_argnums=1)
    return [jax.device_get(one(key, config, bank)) for key in keys]
