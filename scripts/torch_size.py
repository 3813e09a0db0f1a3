"""Prints which torch is installed, and what it, torchvision and all that they depend on take on disk.

Usage: scripts/torch_size.py
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import torch


def collect(name: str, found: dict[str, Distribution]) -> None:
    """Add the installed package of this name to those found, and what it depends on."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in found:
        return
    try:
        found[key] = distribution(name)
    except PackageNotFoundError:  # for another system or Python
        return
    for line in found[key].requires or []:
        if "extra ==" not in line:
            collect(re.match(r"[\w.-]+", line)[0], found)


if __name__ == "__main__":
    packages: dict[str, Distribution] = {}
    collect("torch", packages)
    collect("torchvision", packages)
    files = {file.locate() for package in packages.values() for file in package.files or []}
    size = sum(file.stat().st_size for file in files if file.is_file())
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    print(f"torch {torch.__version__}, built for {build}, takes {size / 1e9:.1f} GB with what it depends on")
