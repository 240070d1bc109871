"""Builds the bundles and the fault banks that ship in the wheel: `python -m infra.factory [--check]`.

Bundles are trained on simulated healthy devices and go to `edge_producer/bundles/`; a fault bank compares
windows with and without a fault and goes to `model_service/models/fault_banks/`. Each vertical has a recipe.
The bytes are the same on every machine; a test compares the shipped files with what this script builds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from functools import partial

from edge_producer.bundle import BUNDLES
from infra.factory_recipe import recipes
from model_service import BundleFiles, factory_models, fault_bank

SEED = 20260101
GENERIC = "robust"


def makers() -> dict[str, Callable[[], BundleFiles]]:
    """What makes each bundle, by name."""
    made = {name: recipe.bundle for name, recipe in recipes().items()}
    return {**made, GENERIC: partial(factory_models.robust_bundle, SEED)}


def _bank(stored: fault_bank.BankFile, *, write: bool) -> list[str]:
    """Write or compare a fault bank; returns what differs from this script's result."""
    data, path = stored.to_bytes(), fault_bank.FOLDER / f"{stored.profile}.json"
    digest = hashlib.sha256(data).hexdigest()
    if write:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    sys.stdout.write(f"fault bank {stored.profile} {digest}\n")
    stale = [] if path.is_file() and path.read_bytes() == data else [f"fault_banks/{path.name}"]
    return (
        stale
        if fault_bank.frozen_digests().get(stored.profile) == digest
        else [*stale, f"fault_banks/{fault_bank.FROZEN}"]
    )


def main(arguments: list[str]) -> int:
    """Write bundles and fault banks, or only compare them with ``--check``; returns the exit code."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m infra.factory [--check]\n")
        return 2
    stale = []
    for name, make in makers().items():
        bundle = make()
        if arguments:
            stale += [f"{name}/{file}" for file in bundle.differences(BUNDLES / name)]
        else:
            bundle.write(BUNDLES / name)
        sys.stdout.write(f"{bundle.manifest.version}\n")
    for recipe in recipes().values():
        if recipe.known_faults is not None:
            stale += _bank(recipe.known_faults(), write=not arguments)
    for file in stale:
        sys.stderr.write(f"{file} is not what the script builds: run `python -m infra.factory`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
