"""The loaded models of one process: a session per set, shared by every device that runs it."""

from __future__ import annotations

import threading
import weakref

from edge_producer.inference import OnnxPredictor
from edge_producer.updates.slots import ModelSet, ModelSlots
from schemas.profile import Profile


class LoadedModels:
    """Loads each set once, golden vectors included: the session is warm before a window reaches it.

    Args:
        profile: Profile of all devices.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._lock = threading.Lock()
        self._loaded: weakref.WeakValueDictionary[str, OnnxPredictor] = weakref.WeakValueDictionary()

    def get(self, slots: ModelSlots, wanted: ModelSet) -> OnnxPredictor:
        """The predictor of a set that a device holds. It stays loaded as long as a device refers to it.

        Raises:
            BundleError: The set is incomplete, does not fit or misses its golden vectors.
        """
        with self._lock:
            found = self._loaded.get(wanted.digest)
            if found is None:
                found = OnnxPredictor(slots.bundle(wanted), self._profile)
                self._loaded[wanted.digest] = found
            return found
