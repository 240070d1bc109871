"""What an earlier start of a device held back, for a spool that was opened too late to take it."""

from __future__ import annotations

import json

from edge_producer.books import Ledger
from edge_producer.device import NEVER_US
from edge_producer.device_identity import DeviceIdentity
from edge_producer.device_update import DeviceUpdate
from edge_producer.filter import RowFilter
from schemas.profile import Profile


def release_held(identity: DeviceIdentity, profile: Profile, state: str) -> DeviceUpdate:
    """What an earlier start's filter held back, released under its own boot, for a spool opened too late.

    Raises:
        ValueError: The state cannot be read.
    """
    try:
        kept = json.loads(state).get("filter")
        names, hop_s = profile.feature_names, profile.sampling.hop_s
        rows = RowFilter(profile.filter, names, hop_s, identity.secret, kept).flush()
    except (TypeError, KeyError, AttributeError) as exc:
        raise ValueError(f"the state of {identity.device_id} is damaged: {exc}") from exc
    ledger = Ledger(moments=profile.summaries.moments)
    for row in rows:
        ledger.release(row)
    ledger.close()
    return DeviceUpdate(
        device_id=identity.device_id,
        boot_id=0,
        next_seq=0,
        newest_us=NEVER_US,
        state="",
        held=0,
        rows=[row for row in rows if row.selected],
        books=ledger.take(),
        closed=[],
        open_summary=None,
        alerts=[],
        meters={},
        decision="",
        model_version="",
    )
