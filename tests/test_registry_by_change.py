"""Registrations are read by change: who reads on knows what who reads everything knows."""

import tempfile
from itertools import count
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from schemas.boot_ids import GATEWAY
from schemas.envelope import MessageSigner
from stream_processors.ingest.lake_directory import LakeDirectory


class ReadOn:
    """A registry and a directory that read on, beside all that was ever registered."""

    def __init__(self, root):
        self.lake = Lake.open(root)
        self.writer, self.reader = DeviceRegistry(self.lake), DeviceRegistry(Lake.open(root))
        self.directory = LakeDirectory(ProfileRegistry(self.lake), self.reader, lambda: next(MINUTES))
        self.newest = {}

    def register(self, records):
        changed = [r for r in records if self.newest.get(r.device_id) != r]
        self.writer.register(records)
        self.newest |= {r.device_id: r for r in changed}

    def check(self):
        keys = {r.key_id: r for r in self.newest.values()}
        assert self.reader.keys() == keys
        anew = DeviceRegistry(Lake.open(self.lake.root))
        assert self.reader.history().moments == anew.history().moments
        assert self.reader.history().former == anew.history().former
        other = LakeDirectory(ProfileRegistry(self.lake), anew)
        for key in keys:
            assert self.directory.signer(key).finishes == other.signer(key).finishes
        for key in KEYS:
            known = self.directory.signer(key)
            facts = known and (known.producer, known.active, known.sends_for)
            assert facts == ((key in keys and self._expected(keys[key])) or None)

    def _expected(self, record):
        behind = {r.device_id for r in self.newest.values() if r.active and r.producer == record.device_id}
        return record.device_id, record.active, behind


DEVICE_NAMES, KEYS = st.sampled_from(["a", "b", "c", "gateway"]), [f"key-{n}" for n in range(6)]
MINUTES = count(0, 60)
PEM = {key: MessageSigner.generate().public_pem().decode() for key in KEYS}


def changed(name, key, gateway, active):
    hardware, gateway = (GATEWAY, None) if name == "gateway" else ("hw", gateway)
    return DeviceRecord(name, "machine", "site", "group", hardware, key, PEM[key], gateway, active)


CHANGE = st.builds(
    changed, DEVICE_NAMES, st.sampled_from(KEYS), st.sampled_from([None, "gateway"]), st.booleans()
)


def device(name, key, gateway=None):
    hardware = GATEWAY if name == "gateway" else "hw"
    return DeviceRecord(name, "machine", "site", "group", hardware, KEYS[key], PEM[KEYS[key]], gateway, True)


@example([[device("a", 0)], [device("b", 0)], [device("b", 1)]])
@example([[device("gateway", 1), device("a", 0, "gateway")], [device("a", 0)]])
@example([[device("a", 0)], [device("b", 1)], "compact", [device("a", 2)]])
@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(st.lists(CHANGE, min_size=1, max_size=4), st.just("compact")), max_size=6))
def test_who_reads_on_knows_what_who_reads_everything_knows(steps):
    with tempfile.TemporaryDirectory() as folder:
        both = ReadOn(Path(folder) / "lake")
        for step in steps:
            if step == "compact":
                compact(both.lake, CutStore(both.lake), CompactionPolicy(least_files=2))
            else:
                both.register(step)
            both.check()


def test_a_device_more_is_read_by_itself_however_many_there_are(lake_root):
    registry, reader = DeviceRegistry(Lake.open(lake_root)), DeviceRegistry(Lake.open(lake_root))
    directory = LakeDirectory(ProfileRegistry(Lake.open(lake_root)), reader, lambda: next(MINUTES))
    registry.register([DeviceRecord("a", "machine", "s", "g", "hw", KEYS[0], PEM[KEYS[0]])])
    before, history = directory.signer(KEYS[0]), reader.history()
    registry.register([DeviceRecord("b", "machine", "s", "g", "hw", KEYS[1], PEM[KEYS[1]])])
    assert directory.signer(KEYS[1]).producer == "b"
    assert directory.signer(KEYS[0]) is before
    assert reader.history() is history


def test_a_device_of_a_fitted_history_has_no_key_and_does_not_hinder_those_that_have(lake_root):
    """`model fit` registers whom a history is of: a worker died of the key that was none, again and again."""
    registry, reader = DeviceRegistry(Lake.open(lake_root)), DeviceRegistry(Lake.open(lake_root))
    directory = LakeDirectory(ProfileRegistry(Lake.open(lake_root)), reader, lambda: next(MINUTES))
    recorded = DeviceRecord("recording", "machine", "history", "history", "recording", "", "")
    registry.register([recorded, DeviceRecord("a", "machine", "s", "g", "hw", KEYS[0], PEM[KEYS[0]])])
    assert directory.signer(KEYS[0]).producer == "a"
    assert directory.signer("") is None
