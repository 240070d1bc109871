"""Whom a device believes: trusted time, verified metadata and documents, and what follows from them.

Order of checks: time → root → timestamp → snapshot → targets → channel → hardware class → seq → floors →
revocations; the artifact's hash and golden vectors come when there is an artifact.
"""

from edge_producer.trust.instruction import DeviceFacts, Instruction, decide
from edge_producer.trust.trusted_time import SERVER, TrustedTime
from edge_producer.trust.verifier import TrustVerifier, VerifiedState, VerifiedTarget

__all__ = [
    "SERVER",
    "DeviceFacts",
    "Instruction",
    "TrustVerifier",
    "TrustedTime",
    "VerifiedState",
    "VerifiedTarget",
    "decide",
]
