"""Whom a device believes: trusted time, verified metadata and documents, and what follows from them.

Order of checks: time → root → timestamp → snapshot → targets → channel → hardware class → seq → floors →
revocations; the artifact's hash and golden vectors come when there is an artifact.
"""

from edge_producer.trust.decide import DeviceFacts, Instruction, decide
from edge_producer.trust.trusted_time import SERVER, TrustedTime
from edge_producer.trust.verifier import Target, Verified, Verifier

__all__ = [
    "SERVER",
    "DeviceFacts",
    "Instruction",
    "Target",
    "TrustedTime",
    "Verified",
    "Verifier",
    "decide",
]
