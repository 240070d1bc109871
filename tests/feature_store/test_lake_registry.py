"""Registries: what was ever registered stays known; the newest holds."""

from datetime import timedelta

import orjson
import pytest

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import TASK, DeviceRecord, DeviceRegistry, ProfileRegistry
from schemas.errors import UnknownSchemaError
from schemas.profile_file import find_profile
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, fingerprint, telemetry_rows
from tests.feature_store.lakes import SECOND, T0, in_processes
from tests.feature_store.test_cut_store import SettableClock

MACHINE = find_profile("machine")


def record(device="a", key="k1", **more):
    return DeviceRecord(device, "machine", "site", "group", "hw", key, "PEM", **more)


def test_a_profile_is_known_by_its_fingerprint_to_every_process(lake_root):
    known = ProfileRegistry(Lake.open(lake_root)).register(MACHINE)
    wire = ProfileRegistry(Lake.open(lake_root)).wire(known)
    assert (wire.kind, wire.profile) == ("telemetry", MACHINE)
    assert wire.schema == telemetry_rows(MACHINE)
    assert Lake.open(lake_root).tables() == ["telemetry_machine"]


def test_the_newest_version_of_a_profile_holds_and_old_schemas_stay_known(lake_root):
    registry = ProfileRegistry(Lake.open(lake_root))
    old = registry.register(MACHINE)
    fewer = MACHINE.features.model_copy(update={"compute": MACHINE.features.compute[:1], "version": 2})
    second = MACHINE.model_copy(
        update={"features": fewer, "filter": MACHINE.filter.model_copy(update={"deadband": {}})}
    )
    new = registry.register(second)
    assert registry.profiles() == {"machine": second}
    assert (registry.wire(old).profile, registry.wire(new).profile) == (MACHINE, second)
    registry.register(MACHINE)
    assert registry.profiles() == {"machine": MACHINE}


def test_a_new_policy_under_the_same_schema_is_seen_by_a_registry_that_cached_the_old(lake_root):
    registry, other = (ProfileRegistry(Lake.open(lake_root)) for _ in range(2))
    known = registry.register(MACHINE)
    assert other.wire(known).profile == MACHINE
    changed = MACHINE.model_copy(update={"description": "changed"})
    assert registry.register(changed) == known
    assert other.wire(known).profile == changed


def test_schemas_that_all_profiles_share_are_always_known(lake_root):
    registry = ProfileRegistry(Lake.open(lake_root))
    assert registry.wire(fingerprint(SUMMARY_ROWS)).kind == "summaries"
    assert registry.wire(fingerprint(BOOKS_ROWS)).kind == "books"


@pytest.mark.parametrize("name", ["", "0" * 16, "../_profiles/machine/000000", "a\0b", "x" * 5000])
def test_an_unknown_fingerprint_is_refused_whatever_it_looks_like(lake_root, name):
    registry = ProfileRegistry(Lake.open(lake_root))
    registry.register(MACHINE)
    with pytest.raises(UnknownSchemaError):
        registry.wire(name)


def test_the_newest_record_of_a_device_holds_for_every_process(lake_root):
    registry, other = (DeviceRegistry(Lake.open(lake_root)) for _ in range(2))
    registry.register([record("a", "k1"), record("b", "k2")])
    assert set(other.keys()) == {"k1", "k2"}
    registry.register([record("a", "k3")])
    assert {k: r.device_id for k, r in other.keys().items()} == {"k3": "a", "k2": "b"}


def test_registering_the_same_again_writes_nothing(lake_root):
    lake = Lake.open(lake_root)
    registry = DeviceRegistry(lake)
    registry.register([record()])
    cut = CutStore(lake).latest()
    registry.register([record()])
    assert CutStore(lake).latest() == cut


def test_a_revoked_device_stays_known_as_such_and_history_keeps_what_it_was(lake_root):
    clock = SettableClock()
    registry = DeviceRegistry(Lake.open(lake_root), clock)
    registry.register([record()])
    clock.now = T0 + 10 * SECOND
    registry.revoke(["a"])
    assert not registry.keys()["k1"].active
    assert registry.as_of(T0 + 9 * SECOND)["a"].active
    assert registry.as_of(T0 - timedelta(days=1)) == {}


def test_order_of_commits_decides_even_where_the_clock_steps_back(lake_root):
    clock = SettableClock()
    registry = DeviceRegistry(Lake.open(lake_root), clock)
    registry.register([record(key="k1")])
    clock.now = T0 - SECOND
    registry.register([record(key="k2")])
    registry.revoke(["a"])
    assert registry.keys() == {"k2": record(key="k2", active=False)}


def test_an_unregistered_device_cannot_be_revoked(lake_root):
    with pytest.raises(ValueError, match="never registered: ghost"):
        DeviceRegistry(Lake.open(lake_root)).revoke(["ghost"])


def register_some(root, prefix):
    registry = DeviceRegistry(Lake.open(root))
    for i in range(8):
        registry.register([record(f"{prefix}{i}", f"key-{prefix}{i}")])


def test_processes_that_register_at_once_lose_no_device(lake_root):
    in_processes(register_some, (lake_root, "x"), (lake_root, "y"))
    keys = DeviceRegistry(Lake.open(lake_root)).keys()
    assert set(keys) == {f"key-{p}{i}" for p in "xy" for i in range(8)}


def test_a_registration_that_was_decided_but_not_applied_is_finished_by_the_next_registry(lake_root):
    lake = Lake.open(lake_root)
    registry = DeviceRegistry(lake)
    files = lake.stage("devices", registry._rows([record()], 0), TASK, 0)
    payload = orjson.dumps({"devices": [f.to_json() for f in files]})
    assert CommitLog(lake_root).put_if_absent(TASK, 0, payload)  # dies here
    assert registry.keys() == {}
    assert DeviceRegistry(Lake.open(lake_root)).keys() == {"k1": record()}
