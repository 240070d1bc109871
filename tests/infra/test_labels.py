"""Labels: from a file or a hand to the lake, once, under an authorised source's key."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from feature_store import connect
from feature_store.labels import label_id
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from infra.labels.label_file import read_labels
from infra.labels.label_outbox import LabelOutbox, open_outbox
from infra.labels.labeller import SIGNER, Labeller
from schemas.envelope import MessageVerifier
from schemas.errors import MessageError, OperatorError, SourceError
from schemas.events import Label
from schemas.topics import LABEL, Lane
from stream_processors.ingest.admission import KnownDevice, authenticate, open_message
from stream_processors.ingest.boot_owners import BootOwners
from stream_processors.ingest.lake_directory import LakeDirectory
from tests.feature_store.fleets import PROFILE, machine_lake
from tests.infra.cli import Edgeloop
from tests.simulators.messages import SimDevice, SimDirectory, SimLog

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
HEADER = "device_id,span_start,span_end,label,source,confidence"
PEM = SimDevice().signer.public_pem().decode()
GOOD = "m-1,2026-07-01T10:00:00Z,2026-07-01T10:05:00+00:00,bearing,anna,0.9"


def read(tmp_path, *lines, header=HEADER):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read_labels(path, NOW, SIGNER, {"m-1", "m-2"})


def label(**changes) -> Label:
    start = datetime(2026, 7, 1, 10, tzinfo=UTC)
    values = {
        "label_id": "l-1", "device_id": "m-1", "span_start": start, "span_end": start + timedelta(minutes=5),
        "label": "bearing", "source": f"{SIGNER}/anna", "known_at": NOW, **changes,
    }  # fmt: skip
    return Label(**values)


def test_good_lines_are_labels_and_bad_ones_are_refused_with_number_and_reason(tmp_path):
    found = read(
        tmp_path,
        GOOD,
        "m-9,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,bearing,anna,",
        "m-1,2026-07-01T10:00:00,2026-07-01T10:05:00Z,bearing,anna,",
        "m-1,2026-07-01T11:00:00Z,2026-07-01T10:05:00Z,bearing,anna,",
        "m-1,yesterday,2026-07-01T10:05:00Z,bearing,anna,",
        "m-1,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,bearing,anna,1.5",
        "m-1,2026-07-01T10:00:00Z",
        "m-1,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,,anna,",
        GOOD,
        "m-2,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,healthy,labeller/bo,",
    )
    assert sorted(found.labels) == [2, 11]
    reasons = dict(found.refused)
    assert sorted(reasons) == [3, 4, 5, 6, 7, 8, 9, 10]
    for line, word in {
        3: "not registered", 4: "time zone", 5: "before", 6: "ISO 8601", 7: "confidence", 8: "cells",
        9: "label", 10: "line 2",
    }.items():  # fmt: skip
        assert word in reasons[line]


def test_sources_are_named_after_the_key_that_signs(tmp_path):
    found = read(tmp_path, GOOD, "m-2,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,healthy,labeller/bo,1")
    assert [one.source for one in found.labels.values()] == ["labeller/anna", "labeller/bo"]


def test_a_file_with_other_columns_is_refused_whole(tmp_path):
    with pytest.raises(SourceError, match="span_end are missing and until are unknown"):
        read(tmp_path, header="device_id,span_start,until,label,source")
    with pytest.raises(SourceError, match="cannot be read"):
        read_labels(tmp_path / "none.csv", NOW, SIGNER, set())


def test_an_id_follows_from_the_content_and_the_instants_alone():
    utc = [datetime(2026, 7, 1, h, tzinfo=UTC) for h in (10, 11)]
    east = [at.astimezone(datetime.fromisoformat("2026-07-01T00:00:00+05:00").tzinfo) for at in utc]
    assert label_id("d", *utc, "x", "s") == label_id("d", *east, "x", "s")
    assert label_id("d", *utc, "x", "s") != label_id("d", *utc, "y", "s")


def test_an_outbox_numbers_each_label_once_and_keeps_it_until_acknowledged(tmp_path):
    box = LabelOutbox(tmp_path / "o.db")
    two = [(label(), "machine"), (label(label_id="l-2"), "machine")]
    assert box.take(two) == {"l-1": "new", "l-2": "new"}
    box.close()
    with open_outbox(tmp_path / "o.db") as again:  # killed before it was sent
        assert again.take([(label(known_at=NOW + timedelta(days=1)), "machine")]) == {"l-1": "known"}
        assert again.take([(label(label="healthy"), "machine")]) == {"l-1": "conflict"}
        pending = again.pending()
        assert [p.msg_no for p in pending] == [0, 1]
        assert Label.model_validate_json(pending[0].value) == label()
        again.mark_sent(pending)
        assert again.pending() == []


def test_a_damaged_outbox_is_named(tmp_path):
    (tmp_path / "o.db").write_bytes(b"no database" * 100)
    with pytest.raises(OperatorError, match=r"o\.db cannot be used"):
        LabelOutbox(tmp_path / "o.db")


def admit(event: Label, device: SimDevice, **known):
    sealed = device.seal_value(LABEL.base, Lane.LABEL, "json", event.model_dump_json().encode(), 1, 1)
    directory = SimDirectory(device)
    verifier = MessageVerifier(device.signer.public_pem())
    producer = KnownDevice(device.device_id, True, verifier, frozenset({device.device_id}), **known)
    message = SimLog().append(sealed)
    envelope, _ = authenticate(message, directory)
    return open_message(message, envelope, producer, directory, BootOwners(directory, {}))


def test_only_a_registered_source_may_label_and_only_in_its_own_name():
    source = SimDevice(device_id=SIGNER)
    assert admit(label(), source, labels=True).events == (label(),)
    with pytest.raises(MessageError, match="does not name the signer"):
        admit(label(source="somebody"), source, labels=True)
    with pytest.raises(MessageError, match="empty span"):
        admit(label(span_end=label().span_start), source, labels=True)


def test_a_device_cannot_call_its_own_fault_healthy():
    with pytest.raises(MessageError, match="not registered as a source of labels"):
        admit(label(label="healthy", source="m-1"), SimDevice(device_id="m-1"))


def test_a_labeller_is_registered_as_a_source_and_not_as_a_device(lake_root):
    lake = machine_lake(lake_root)
    registry = DeviceRegistry(lake)
    registry.register([DeviceRecord("labeller", "*", "", "", "labeller", "k", PEM)])
    known = LakeDirectory(ProfileRegistry(lake), registry).signer("k")
    assert known is not None
    assert (known.labels, known.sends_for) == (True, frozenset())
    with connect(lake_root, comments=False) as connection:
        assert connection.execute("SELECT count(*) FROM fleet").fetchall() == [(0,)]
        assert connection.execute("SELECT count(*) FROM cohorts").fetchall() == [(0,)]


@pytest.mark.kafka
def test_labels_land_once_however_often_they_are_imported(broker, namespace, tmp_path):
    """Through a real broker and a real ingest job."""
    edgeloop = Edgeloop(tmp_path / "state")
    lake = machine_lake(tmp_path / "state" / "lake")
    facts = {"profile": "machine", "site": "s", "group": "g", "hardware": "h"}
    DeviceRegistry(lake).register([DeviceRecord("m-1", key_id="k", public_key=PEM, **facts)])
    assert Labeller(tmp_path / "l", lake).devices() == {"m-1": PROFILE.name}
    path = tmp_path / "labels.csv"
    path.write_text(f"{HEADER}\n{GOOD}\nm-9,2026-07-01T10:00:00Z,2026-07-01T10:05:00Z,bearing,anna,1\n")
    on_broker = {"EDGELOOP_BROKER": broker.bootstrap_servers, "EDGELOOP_NAMESPACE": namespace}
    first = edgeloop("label", "import", str(path), "--json", **on_broker)
    assert first.returncode == 1, first.stderr
    imported = json.loads(first.stdout)
    assert len(imported["new"]) == 1
    assert [r["line"] for r in imported["refused"]] == [3]
    again = json.loads(edgeloop("label", "import", str(path), "--json", **on_broker).stdout)
    assert (again["new"], again["known"]) == ([], imported["new"])
    [row] = edgeloop.json("label", "list", **on_broker)
    assert (row["device_id"], row["label"], row["source"]) == ("m-1", "bearing", "labeller/anna")
    with connect(lake.root, comments=False) as connection:
        assert connection.execute("SELECT count(*) FROM labels").fetchall() == [(1,)]
