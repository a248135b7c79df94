"""What a result was made of: files, weights, versions, told apart exactly."""

import datetime
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import re
import types

import jax

from displacement import checkpoint
from displacement.files import is_virtual


def file_identity(path: str | os.PathLike) -> dict[str, object]:
    """Tells a file from others: its path, and for a local one its size and time of change.

    Of a folder, those of all files in it; of what lies in an archive or container, that of the
    file around it.
    """
    if not os.path.exists(path):
        around = container(str(path))
        if around or is_virtual(path):
            return {"path": str(path)} | ({"in": file_identity(around)} if around else {})
    identity: dict[str, object] = {"path": os.path.abspath(path)}
    if os.path.isdir(path):
        files = sorted(file for file in pathlib.Path(path).rglob("*") if file.is_file())
        return identity | {"files": [file_identity(file) for file in files]}
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist. Check the path.")
    status = os.stat(path)
    return identity | {"bytes": status.st_size, "changed_ns": status.st_mtime_ns}


def container(name: str) -> pathlib.Path | None:
    """The file that a name of GDAL's looks into: /vsizip/a.zip/b.tif, NETCDF:"a.nc":b, zip://a!b."""
    plain = re.sub("^(/vsi[a-z0-9_]+/)+", "", name)
    for part in re.split("[:!]", plain):
        path = pathlib.Path(part.strip('"'))
        for candidate in (path, *path.parents):
            if candidate.is_file() and str(candidate) != name:
                return candidate
    return None


def weights_hash(weights: str) -> str:
    """SHA-256 of the weights that `checkpoint.load_weights` loads: its parameters, name by name."""
    shipped = checkpoint.SHIPPED / weights / "params.npz"
    plain = pathlib.Path(weights) / "params.npz"
    for path in (shipped, plain):
        if path.exists():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    import flax.traverse_util

    _, params, _ = checkpoint.load_weights(weights)
    digest = hashlib.sha256()
    for name, values in sorted(flax.traverse_util.flatten_dict(params, sep="/").items()):
        digest.update(name.encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def date_in_name(path: str | os.PathLike) -> str | None:
    """The first date in a file's name, as in Landsat and Sentinel-2 products: YYYY-MM-DD."""
    for text in re.findall(r"(?<!\d)(?:19|20)\d{6}(?!\d)", os.path.basename(path)):
        try:
            return datetime.datetime.strptime(text, "%Y%m%d").date().isoformat()
        except ValueError:
            continue
    return None


def band_in_name(path: str | os.PathLike) -> str | None:
    """The last band in a file's name, as in Landsat and Sentinel-2 products: B8, B04, B8A."""
    found = re.findall(r"(?<![A-Za-z0-9])B\d{1,2}A?(?![A-Za-z0-9])", os.path.basename(path))
    return found[-1] if found else None


@functools.cache
def sources(*packages: types.ModuleType, without: tuple[types.ModuleType, ...] = ()) -> str:
    """Digest of JAX's version and of packages of this project as they are on the disk.

    Those `without` which the result is the same are packages too, within the others.
    """
    digest = hashlib.sha256(jax.__version__.encode())
    left_out = [pathlib.Path(package.__file__).parent for package in without]
    for package in packages:
        for path in sorted(pathlib.Path(package.__file__).parent.rglob("*.py")):
            if not any(path.is_relative_to(folder) for folder in left_out):
                digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def version() -> str:
    """The software with its version."""
    return f"displacement {importlib.metadata.version('displacement')}"
