"""Packaging of the displacement instrument: three packages, shipped weights, and the extras."""

from setuptools import find_packages, setup

setup(
    name="displacement",
    version="0.1.0",
    description="Ground displacement from two optical images, sharp right next to a fault.",
    python_requires=">=3.11",
    packages=find_packages(include=["displacement*", "data_gen*", "experiments*"]),
    package_data={
        "displacement": ["weights/*/*"],
        "experiments": ["configs/*.flags", "configs/*.yaml"],
    },
    # Lower bounds are the oldest versions that the tests were run with.
    install_requires=[
        "jax>=0.10",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "numpy>=2.0",
        "tifffile>=2024.1",
        "absl-py>=2.1",
        "wandb>=0.18",
        "rasterio>=1.4",
        "affine>=2.4",
        "matplotlib>=3.9",
        "scipy>=1.13",
        "scikit-image>=0.24",
        "fiona>=1.10",
        "pyproj>=3.6",
        "pyyaml>=6.0",
        "tqdm>=4.66",
    ],
    extras_require={
        "cuda": ["jax[cuda]"],
        "netcdf": ["h5netcdf>=1.4", "h5py>=3.10"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "h5netcdf>=1.4",
            "h5py>=3.10",
            "xarray>=2024.6",
            "opencv-python-headless>=5.0",
            # Wheels for this platform alone; its test skips without.
            'cutde>=26.3; sys_platform == "linux" and platform_machine == "x86_64"',
        ],
    },
)
