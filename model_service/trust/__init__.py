"""The TUF repository of the model service: who may sign what, proposals, publication, the key ceremony.

`TrustRepository` reads and needs no key; `propose_*`, `countersign_*` and `publish_*` change one target at a
time; `ceremony` does what needs offline keys. All tuf objects stay within this package.
"""

from model_service.trust.channel_targets import (
    broad_state,
    countersign_broad,
    document_bytes,
    propose_broad,
    publish_broad,
    publish_canary,
)
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, model_state, propose_model, publish_model
from model_service.trust.online import Lifetimes, OnlineSigner
from model_service.trust.repository import MetadataReply, TrustRepository

__all__ = [
    "Lifetimes",
    "MetadataReply",
    "OnlineSigner",
    "TrustRepository",
    "broad_state",
    "countersign_broad",
    "countersign_model",
    "document_bytes",
    "load_online_key",
    "model_state",
    "propose_broad",
    "propose_model",
    "publish_broad",
    "publish_canary",
    "publish_model",
]
