"""What a device trusts: time, verified metadata and signed documents, and the instruction that follows.

Order of checks: time → root → timestamp → snapshot → targets → channel document → hardware class → seq →
floors → revocations; the artifact's hash and its golden vectors are checked once it is fetched.
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
