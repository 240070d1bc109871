"""Laws of FetchMetadata over a real TUF repository: one round trip, and only what is lacking."""

import hashlib
import shutil

import grpc
import pytest

from schemas.channel_documents import POLICY_PATH, ChannelDocument, channel_path
from schemas.proto.delivery_pb2 import FetchMetadataRequest, WatchRequest
from tests.simulators.model_service import ModelService, refusal


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service")) as running:
        running.create_repository("default", "other")
        running.publish_canary("default", 1)
        running.publish_canary("other", 1)
        yield running


@pytest.fixture(scope="module")
def device(service):
    with service.joined("m-1") as client:
        yield client


def fetch(device, versions=None, documents=None):
    request = FetchMetadataRequest(device_id=device.device_id, versions=versions, documents=documents)
    reply = device.delivery().FetchMetadata(request, timeout=10)
    return {f.name: f.data for f in reply.metadata}, {f.name: f.data for f in reply.documents}, reply


def held(service, documents):
    """What a device that took everything would say it has."""
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in documents.items()}
    return service.create_repository().versions(), digests


def test_a_new_device_gets_everything_of_its_group_in_one_round_trip(service, device):
    metadata, documents, reply = fetch(device, {"root": 1})
    versions = service.create_repository().versions()
    assert {"timestamp.json", f"{versions['snapshot']}.snapshot.json"} <= set(metadata)
    assert f"{versions['channels-canary']}.channels-canary.json" in metadata
    assert set(documents) == {POLICY_PATH, channel_path("default", "canary")}
    assert (
        ChannelDocument.model_validate_json(documents[channel_path("default", "canary")]).group == "default"
    )
    assert reply.server_time_ms > 0


def test_a_device_that_lacks_nothing_gets_the_timestamp_and_nothing_else(service, device):
    metadata, documents, reply = fetch(device, *held(service, fetch(device)[1]))
    assert (list(metadata), documents) == (["timestamp.json"], {})
    assert reply.ByteSize() < 1500


def _hinted(hints, version):
    """The stream told of this version: older ones, of a look before the last publication, may come first."""
    told = [0]
    while told[-1] < version:
        told.append(next(hints).timestamp_version)  # a stream that stays silent ends with its deadline
    assert told[-1] == version
    assert told == sorted(set(told))


def test_a_publication_is_hinted_and_brings_only_what_is_new(service, device):
    hints = device.delivery().Watch(WatchRequest(device_id=device.device_id), timeout=30)
    before = held(service, fetch(device)[1])
    _hinted(hints, before[0]["timestamp"])
    service.publish_canary("default", 2)
    _hinted(hints, before[0]["timestamp"] + 1)
    metadata, documents, _ = fetch(device, *before)
    assert {name.split(".")[-2] for name in metadata} == {"timestamp", "snapshot", "channels-canary"}
    assert set(documents) == {channel_path("default", "canary")}
    hints.cancel()


def test_without_a_repository_a_device_must_try_again(tmp_path):
    refuses = pytest.raises(grpc.RpcError)
    with ModelService(tmp_path) as empty, empty.joined("m-1") as client, refuses as caught:
        for folder in ("repository", "repository-copies"):
            shutil.rmtree(empty.settings.root / folder)
        fetch(client)
    assert refusal(caught.value) == ("UNAVAILABLE", "SERVICE_UNAVAILABLE_ERROR")
    assert str(tmp_path) not in caught.value.details()  # our files are no device's business
