"""What a kind of fault is, and the list of all kinds."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.faults.fault_rig import FaultRig

Layer = Literal["edge", "line", "loop"]


@dataclass(frozen=True)
class Allowance:
    """What a fault may cost; everything else that the checker finds is a defect.

    Attributes:
        faults: How many single faults were injected.
        books: Edge processes whose spool was destroyed or exchanged: their counts began anew.
        refused: Copies of messages may be quarantined as those of a cloned identity.
        named: Rows may be missing if the lake names the file that holds them as damaged.
        version: Models that may be in force at the end of a rollout; empty: no rollout ran.
    """

    faults: int = 1
    books: tuple[str, ...] = ()
    refused: bool = False
    named: bool = False
    versions: tuple[str, ...] = ()


Inject = Callable[[FaultRig, random.Random], Allowance | None]
"""Inject the fault, hold it, and lift it; None: an allowance of nothing."""


@dataclass(frozen=True)
class FaultKind:
    """One named kind.

    Attributes:
        name: Kebab-case; the name in the tally.
        says: What is done, in one line.
        decides: The devices must go on deciding while the fault holds.
    """

    name: str
    layer: Layer
    says: str
    inject: Inject
    decides: bool = False


KINDS: dict[str, FaultKind] = {}
"""All kinds by name, in the order of their definition."""


def fault(layer: Layer, says: str, *, decides: bool = False) -> Callable[[Inject], Inject]:
    """Register a function as a kind; its name, with dashes, is the kind's."""

    def register(inject: Inject) -> Inject:
        name = inject.__name__.replace("_", "-")
        if name in KINDS:
            raise ValueError(f"two kinds are called {name}")
        KINDS[name] = FaultKind(name, layer, says, inject, decides)
        return inject

    return register
