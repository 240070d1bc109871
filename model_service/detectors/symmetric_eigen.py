"""Eigenvalues and vectors of a symmetric matrix by Jacobi rotations, the same on every machine.

LAPACK libraries differ in the last bits and in signs; plain loops do not, and a few dozen features are small.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SWEEPS = 60
"""Rounds over all pairs; convergence is quadratic, so ten are usual."""


def eigen(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, largest first and at least 0, and the matrix whose columns are the vectors.

    The sign of a vector is such that its largest component is positive.

    Args:
        matrix: Symmetric, shape (n, n).
    """
    return _eigen(np.ascontiguousarray(matrix, dtype=np.float64).tobytes(), len(matrix))


@lru_cache(maxsize=32)
def _eigen(data: bytes, n: int) -> tuple[Array, Array]:
    """Of a matrix's bytes: settings that are tried on the same rows share it."""
    a, vectors = np.frombuffer(data).reshape(n, n).copy(), np.eye(n)
    for _ in range(SWEEPS):
        if float(np.abs(np.triu(a, 1)).max(initial=0.0)) < 1e-13:
            break
        for p in range(n - 1):
            for q in range(p + 1, n):
                _rotate(a, vectors, p, q)
    order = np.argsort(-np.diag(a), kind="stable")
    values, columns = np.maximum(np.diag(a)[order], 0.0), vectors[:, order]
    largest = columns[np.abs(columns).argmax(axis=0), np.arange(n)]
    return values, np.asarray(columns * np.where(largest < 0, -1.0, 1.0))


def _rotate(a: Array, vectors: Array, p: int, q: int) -> None:
    """Make a[p, q] zero, in place (Golub and Van Loan, section 8.5)."""
    if a[p, q] == 0.0:
        return
    tau = (a[q, q] - a[p, p]) / (2 * a[p, q])
    t = math.copysign(1.0, tau) / (abs(tau) + math.hypot(1.0, tau))
    c = 1 / math.hypot(1.0, t)
    s = t * c
    for rows in (a, a.T, vectors.T):
        one, other = rows[p].copy(), rows[q].copy()
        rows[p], rows[q] = c * one - s * other, s * one + c * other
