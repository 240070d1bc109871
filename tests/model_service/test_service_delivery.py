"""Laws of delivery: hints, artifacts, reports, limits, and how the process ends and comes back."""

import asyncio
import hashlib
import itertools
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import select

from model_service.identity.authority import ca_path, init_pki
from model_service.identity.certificates import read_holder
from model_service.registry.registry_tables import certificate_requests
from model_service.service.access import STALE_S, AccessList
from model_service.service.door import ANYBODY, DETAILS_KEY, AccessRule, CallDoor
from model_service.service.server import ENROLLMENT
from schemas.errors import ServiceUnavailableError
from schemas.proto.delivery_pb2 import EnrollRequest, FetchArtifactRequest, Installed, WatchRequest
from schemas.proto.delivery_pb2_grpc import EnrollmentStub
from schemas.updates import Role
from tests.simulators.model_service import ModelService, SimClient, refusal
from tests.waiting import wait_until

CHUNK = 7


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service"), chunk_bytes=CHUNK) as running:
        yield running


@pytest.fixture(scope="module")
def device(service):
    with service.joined("m-1") as client:
        yield client


def fetch(device, sha256, offset=0):
    request = FetchArtifactRequest(device_id=device.device_id, sha256=sha256, offset=offset)
    return list(device.delivery().FetchArtifact(request, timeout=10))


def watch(device, **given):
    return device.delivery().Watch(WatchRequest(device_id=device.device_id), timeout=30, **given)


def test_a_download_resumes_at_every_offset(service, device):
    data = bytes(range(3 * CHUNK + 2))
    sha256 = service.put_artifact(data)
    stub = device.delivery()
    for offset in range(len(data) + 1):
        request = FetchArtifactRequest(device_id=device.device_id, sha256=sha256, offset=offset)
        chunks = list(stub.FetchArtifact(request, timeout=10))
        assert b"".join(c.data for c in chunks) == data[offset:]
        lengths = [len(c.data) for c in chunks]
        assert [c.offset for c in chunks] == [offset + sum(lengths[:i]) for i in range(len(lengths))]
        assert lengths[:1] == [min(CHUNK, len(data) - offset)][: len(lengths)]


@pytest.mark.parametrize("offset", [6, 2**62])
def test_an_offset_beyond_the_end_is_refused(service, device, offset):
    with pytest.raises(grpc.RpcError) as caught:
        fetch(device, service.put_artifact(b"short"), offset)
    assert refusal(caught.value) == ("OUT_OF_RANGE", "REJECTED_ERROR")


def test_an_unknown_digest_is_not_found(device):
    with pytest.raises(grpc.RpcError) as caught:
        fetch(device, "0" * 64)
    assert refusal(caught.value) == ("NOT_FOUND", "REGISTRY_ERROR")


@pytest.mark.parametrize(
    "name", ["", "../pki/ca.key", "../registry.db", "A" * 64, "0" * 63 + "/", "%2e%2e/" * 9, "*" * 64]
)
def test_only_a_digest_names_an_artifact(service, device, name):
    (service.settings.artifacts).mkdir(parents=True, exist_ok=True)
    with pytest.raises(grpc.RpcError) as caught:
        fetch(device, name)
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "REJECTED_ERROR")


def test_a_link_among_the_artifacts_is_not_followed(service, device):
    service.put_artifact(b"x")
    link = service.settings.artifacts / ("c" * 64)
    link.symlink_to(service.settings.pki / "ca.key")
    with pytest.raises(grpc.RpcError) as caught:
        fetch(device, "c" * 64)
    assert refusal(caught.value)[0] == "NOT_FOUND"


def test_an_artifact_of_the_published_targets_is_served(service, device):
    folder = service.settings.repository / "targets" / "models" / "machine"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(b"published").hexdigest()
    (folder / f"{digest}.machine-1.0123abcd.bundle").write_bytes(b"published")
    assert b"".join(c.data for c in fetch(device, digest)) == b"published"


def test_a_watch_hints_at_once_and_soon_after_every_change(service, device):
    service.publish_timestamp(1)
    wait_until(lambda: next(watch(device)).timestamp_version == 1, 10, "the first version")
    hints = watch(device)
    next(hints)
    lags = []
    for version in range(2, 6):
        began = time.monotonic()
        service.publish_timestamp(version)
        assert next(hints).timestamp_version == version
        lags.append(time.monotonic() - began)
    assert min(lags) < 0.25
    hints.cancel()


def test_a_report_counts_once(service, device):
    stub = device.delivery()
    first = device.report(10, state="trial", result="", detail="once")
    stub.Report(first, timeout=10)
    stub.Report(first, timeout=10)
    with service.person("viewer") as viewer:
        [found] = [d for d in viewer.devices() if d["device_id"] == device.device_id]
    assert (found["state"], found["cloned_reports"]) == ("trial", 0)


def test_a_cloned_device_is_refused_and_counted(service):
    with service.joined("twin") as one, SimClient(one.bundle, one.key) as other:
        other.certificate_pem = one.certificate_pem
        one.delivery().Report(one.report(1, nonce="a"), timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            other.delivery().Report(other.report(1, nonce="b"), timeout=10)
    assert refusal(caught.value) == ("ALREADY_EXISTS", "CLONED_IDENTITY_ERROR")
    with service.person("viewer") as viewer:
        [found] = [d for d in viewer.devices() if d["device_id"] == "twin"]
    assert found["cloned_reports"] == 1


@pytest.mark.parametrize(
    "given",
    [
        {"state": "fine"}, {"result": "maybe"}, {"attack": "martians"}, {"nonce": ""},
        {"nonce": "n" * 65}, {"detail": "d" * 5000}, {"number": 0}, {"number": 2**63},
        {"profile": "p" * 17_000}, {"installed": [Installed(family="machine", version="garbage")]},
        {"installed": [Installed(family="../..", version="machine-0.00000000")]},
        {"installed": [Installed(family="machine", version="machine-0.00000000", sha256="zz")]},
        {"attempted": Installed(family="machine", version="x" * 200)},
        {"installed": [Installed(family="machine", version="machine-0.00000000")] * 17},
    ],
)  # fmt: skip
def test_a_report_with_unknown_values_is_refused(device, given):
    request = device.report(**{"number": 99, **given})
    with pytest.raises(grpc.RpcError) as caught:
        device.delivery().Report(request, timeout=10)
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "REJECTED_ERROR")


def test_reads_do_not_wait_for_writes(service, device):
    with ThreadPoolExecutor(1) as pool, service.person("viewer", timeout_s=5) as viewer:
        with service.registry.transaction():
            pending = pool.submit(device.delivery().Report, device.report(60), timeout=30)
            assert viewer.devices()
            assert viewer.runs() == []
            assert not pending.done()
        assert pending.result(30).server_time_ms > 0


@pytest.mark.parametrize("listener", ["enrollment", "delivery"])
def test_an_oversized_request_is_refused_unread(device, listener):
    call = (
        (device.delivery().Report, device.report(50, detail="x" * 300_000))
        if listener == "delivery"
        else (device.enrollment().Enroll, device.enroll_request(csr_pem=b"x" * 40_000))
    )
    with pytest.raises(grpc.RpcError) as caught:
        call[0](call[1], timeout=10)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_health_and_reflection_answer_on_both_listeners(device):
    bundle = device.bundle
    for channel, services in (
        (device.channel(bundle.enrollment, mutual=False), {"edgeloop.v1.Enrollment"}),
        (device.channel(bundle.delivery), {"edgeloop.v1.ModelDelivery", "edgeloop.v1.FleetAdmin"}),
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for name in services | {""}:
            reply = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [reply] = stub.ServerReflectionInfo(iter([asked]), timeout=10)
        assert services <= {s.name for s in reply.list_services_response.service}


def test_a_watch_ends_with_its_connections_age_and_the_device_opens_another(tmp_path):
    with ModelService(tmp_path, connection_age_s=0.5) as service, service.joined("m-1") as client:
        assert len(list(watch(client))) == 1  # ended, and not by an error
        assert next(watch(client)) is not None


def test_a_draining_service_reports_it_finishes_calls_and_ends_streams(tmp_path):
    with ModelService(tmp_path, drain_s=2.0) as service, service.joined("m-1") as client:
        health = health_pb2_grpc.HealthStub(client.channel(client.bundle.delivery))
        states = health.Watch(health_pb2.HealthCheckRequest(service="edgeloop.v1.FleetAdmin"), timeout=30)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        hints = watch(client)
        next(hints)
        service.stop_issuing()
        with SimClient(service.invite("m-2")) as joining, ThreadPoolExecutor(1) as pool:
            pending = pool.submit(joining.enroll)
            wait_until(lambda: waiting(service), 10, "the request")
            service.child.terminate()
            assert next(states).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert list(hints) == []
            service.start_issuing()
            assert pending.result(10).certificate_pem
        assert service.child.wait(10)
        assert service.child.exit_code == 0


def waiting(service):
    with service.registry.reading() as connection:
        query = select(certificate_requests.c.id).where(certificate_requests.c.state == "waiting")
        return list(connection.execute(query))


def server_certificate(service):
    port = service.address.enrollment_port
    return ssl.get_server_certificate(("127.0.0.1", port), ca_certs=str(ca_path(service.settings)))


def test_a_renewed_server_certificate_needs_no_restart(tmp_path):
    with ModelService(tmp_path) as service, service.joined("m-1") as client:
        before = server_certificate(service)
        init_pki(service.settings, datetime.now(UTC) + timedelta(days=300))
        assert server_certificate(service) != before
        client.delivery().Report(client.report(1), timeout=10)
        client.enroll()


@pytest.mark.faults
def test_a_kill_during_enrolment_loses_neither_token_nor_certificate(tmp_path):
    with ModelService(tmp_path) as service:
        service.stop_issuing()
        before = service.address
        with SimClient(service.invite("m-1")) as client, ThreadPoolExecutor(1) as pool:
            pending = pool.submit(client.enroll)
            wait_until(lambda: waiting(service), 10, "the request")
            service.child.kill()
            assert isinstance(pending.exception(10), grpc.RpcError)
            service.start()
            assert service.address.delivery_port == before.delivery_port
            assert service.address.enrollment_port == before.enrollment_port
            service.start_issuing()
            with SimClient(client.bundle) as thief, pytest.raises(grpc.RpcError) as caught:
                thief.enroll()
            assert refusal(caught.value)[0] == "PERMISSION_DENIED"
            assert client.enroll().certificate_pem
            client.delivery().Report(client.report(1), timeout=10)


@pytest.mark.faults
def test_devices_stay_connected_to_a_killed_service_that_comes_back(tmp_path):
    with ModelService(tmp_path) as service, service.joined("m-1") as client:
        stub = client.delivery()
        stub.Report(client.report(1), timeout=10)
        service.child.kill()
        service.start()
        assert stub.Report(client.report(2), timeout=10, wait_for_ready=True)


class Odd:
    """Handlers that answer too late or break."""

    async def enroll(self, _request, _call):
        await asyncio.sleep(30)

    async def renew(self, _request, _call):
        raise KeyError("a secret of ours")


@pytest.fixture(scope="module")
def odd_service():
    """The door before handlers that misbehave, on a port without TLS."""
    port, stop = [], threading.Event()

    async def serve():
        rules = {name: AccessRule(ANYBODY, 0.2) for name in ("Enroll", "Renew")}
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((CallDoor(AccessList()).guard(ENROLLMENT, Odd(), rules),))
        port.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await asyncio.get_running_loop().run_in_executor(None, stop.wait)
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    wait_until(lambda: port, 10, "the port")
    with grpc.insecure_channel(f"127.0.0.1:{port[0]}") as channel:
        yield EnrollmentStub(channel)
    stop.set()
    thread.join()


def test_a_call_without_a_deadline_gets_the_services(odd_service):
    with pytest.raises(grpc.RpcError) as caught:
        odd_service.Enroll(EnrollRequest())
    assert refusal(caught.value) == ("DEADLINE_EXCEEDED", "RETRYABLE_ERROR")


def test_the_text_of_an_unforeseen_error_is_not_sent(odd_service):
    with pytest.raises(grpc.RpcError) as caught:
        odd_service.Renew(EnrollRequest())
    assert refusal(caught.value) == ("INTERNAL", "INTERNAL")
    packed_status = dict(caught.value.trailing_metadata())[DETAILS_KEY]
    assert "secret" not in caught.value.details()
    assert b"secret" not in packed_status
    [packed] = status_pb2.Status.FromString(packed_status).details
    info = error_details_pb2.ErrorInfo()
    assert packed.Unpack(info)
    assert info.domain == "edgeloop.v1"


def test_a_method_without_a_rule_does_not_start():
    with pytest.raises(ValueError, match="Renew"):
        CallDoor(AccessList()).guard(ENROLLMENT, Odd(), {"Enroll": AccessRule(ANYBODY, 1.0)})


def test_without_current_revocations_nobody_is_let_in(device):
    ticks = itertools.count(0.0, STALE_S + 1)
    access = AccessList(monotonic=lambda: next(ticks))
    holder = read_holder(device.certificate_pem)
    with pytest.raises(ServiceUnavailableError, match="revocations cannot be read"):
        access.check(holder, frozenset({Role.DEVICE}), "Watch")
