"""Laws of who gets in: enrolment, renewal, roles and revocation against a real server over real TLS."""

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import select

from infra.fleet_client import FleetClient
from model_service.address import read_address
from model_service.identity.authority import init_pki, person_paths
from model_service.identity.certificates import read_holder
from model_service.registry.registry_tables import certificate_requests, commands
from model_service.settings import ModelSettings
from schemas.errors import AccessError, RegistryError, RejectedError, ServiceUnavailableError
from schemas.proto import fleet_pb2
from schemas.proto.delivery_pb2 import FetchArtifactRequest, FetchMetadataRequest, WatchRequest
from schemas.proto.fleet_pb2 import ListRequest
from schemas.proto.fleet_pb2_grpc import FleetAdminStub
from tests.simulators.model_service import ModelService, SimClient, details, refusal
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def device(service, request):
    with service.joined(f"dev-{abs(hash(request.node.name)):x}") as client:
        yield client


def refused(call, *args, **kwargs):
    """Code and reason of a call that must be refused."""

    def use():
        reply = call(*args, timeout=10, **kwargs)
        return list(reply)  # a stream fails when it is read

    with pytest.raises(grpc.RpcError) as caught:
        use()
    return refusal(caught.value)


def test_a_device_enrols_and_calls_over_mutual_tls(service):
    with SimClient(service.invite("m-1")) as client:
        reply = client.enroll()
        assert read_holder(reply.certificate_pem).name == "m-1"
        assert reply.ca_pem == client.bundle.ca_pem.encode()
        assert abs(reply.server_time_ms / 1e3 - time.time()) < 5
        assert client.delivery().Report(client.report(1), timeout=10).server_time_ms > 0


def test_a_join_token_works_once(service, device):
    again = SimClient(device.bundle)
    with again:
        assert refused(again.enrollment().Enroll, again.enroll_request()) == (
            "PERMISSION_DENIED",
            "ACCESS_ERROR",
        )


def test_a_retry_with_the_same_key_gets_the_same_certificate(device):
    first = device.certificate_pem
    assert device.enroll().certificate_pem == first


def test_a_join_token_of_another_device_is_refused(service):
    with SimClient(service.invite("m-2")) as client:
        request = client.enroll_request(device_id="m-3", csr_pem=client.csr("m-3"))
        assert refused(client.enrollment().Enroll, request) == ("PERMISSION_DENIED", "ACCESS_ERROR")
        client.enroll()  # the token is still good for its device


def test_a_bad_field_is_named(device):
    with pytest.raises(grpc.RpcError) as caught:
        device.enrollment().Enroll(device.enroll_request(device_id="../x"), timeout=10)
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "REJECTED_ERROR")
    [violation] = details(caught.value)["BadRequest"].field_violations
    assert violation.field == "device_id"


def test_an_expired_certificate_is_renewed_by_whoever_holds_its_key(tmp_path):
    with ModelService(tmp_path, certificate_s=1.5) as service, service.joined("m-1") as client:
        delivery, old = client.delivery(), client.certificate_pem
        delivery.Report(client.report(1), timeout=10)
        # TLS counts whole seconds and its last one still holds
        wait_until(lambda: time.time() > read_holder(old).not_after + 1, 10, "the certificate to end")
        assert refused(delivery.Report, client.report(2))[0] == "PERMISSION_DENIED"
        with pytest.raises(grpc.RpcError) as caught:
            client.delivery().Report(client.report(2), timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        client.renew(at_ms=1000)  # whatever the device's clock says
        assert client.certificate_pem != old
        client.delivery().Report(client.report(2), timeout=10)


def test_a_stranger_renews_nothing(service, device, tmp_path):
    denied = ("PERMISSION_DENIED", "ACCESS_ERROR")
    renew, before = device.enrollment().Renew, _requests(service)
    with SimClient(device.bundle) as thief:
        assert refused(renew, thief.renew_request(device.certificate_pem)) == denied
        assert refused(renew, device.renew_request(csr_pem=thief.csr())) == denied
    assert refused(renew, device.renew_request(proof=b"")) == denied
    with ModelService(tmp_path) as elsewhere, elsewhere.joined(device.device_id) as foreign:
        assert refused(renew, foreign.renew_request()) == denied
    assert _requests(service) == before  # nothing of it reached the registry


def _requests(service):
    with service.registry.reading() as connection:
        return list(connection.execute(select(certificate_requests.c.id)))


def test_a_proof_holds_for_its_request_only(device):
    mine = device.renew_request(at_ms=5)
    other = device.renew_request(at_ms=6, csr_pem=mine.csr_pem, proof=mine.proof)
    assert refused(device.enrollment().Renew, other) == ("PERMISSION_DENIED", "ACCESS_ERROR")


def test_a_replayed_renewal_gives_nothing_new(device):
    request = device.renew_request()
    first, second = (device.enrollment().Renew(request, timeout=10) for _ in range(2))
    assert first.certificate_pem == second.certificate_pem


def test_a_certificate_of_another_authority_gets_no_connection(service, device, tmp_path):
    with ModelService(tmp_path) as elsewhere, elsewhere.joined("m-1") as foreign:
        foreign.bundle = device.bundle
        with pytest.raises(grpc.RpcError) as caught:
            foreign.delivery().Report(foreign.report(1), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_without_a_certificate_there_is_no_connection(device):
    channel = device.channel(device.bundle.delivery, mutual=False)
    with pytest.raises(grpc.RpcError) as caught:
        FleetAdminStub(channel).ListDevices(ListRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_device_acts_for_itself_only(device):
    stub, denied = device.delivery(), ("PERMISSION_DENIED", "ACCESS_ERROR")
    report = device.report(1)
    report.device_id = "somebody"
    assert refused(stub.Report, report) == denied
    assert refused(stub.Watch, WatchRequest(device_id="somebody")) == denied
    assert refused(stub.FetchMetadata, FetchMetadataRequest(device_id="")) == denied
    assert refused(stub.FetchArtifact, FetchArtifactRequest(sha256="0" * 64)) == denied


def test_a_device_may_not_call_the_methods_of_operators(device):
    stub = FleetAdminStub(device.channel(device.bundle.delivery))
    for name in (
        "ListDevices",
        "RevokeDevice",
        "AssignDevices",
        "CreateJoinToken",
        "StartRollout",
        "AckDrift",
        "AnnounceChange",
        "WithdrawChange",
        "Train",
        "CancelRun",
        "ListPeople",
        "RevokeCertificate",
    ):
        method = getattr(stub, name)
        with pytest.raises(grpc.RpcError) as caught:
            method.with_call(_empty(name), timeout=10)
        assert refusal(caught.value) == ("PERMISSION_DENIED", "ACCESS_ERROR"), name
        assert "(device) may not call" in caught.value.details()


def _empty(method):
    service = fleet_pb2.DESCRIPTOR.services_by_name["FleetAdmin"]
    return GetMessageClass(service.methods_by_name[method].input_type)()


def test_an_operator_is_no_device(service, device):
    key, certificate = (p.read_bytes() for p in person_paths(service.settings, "operator"))
    credentials = grpc.ssl_channel_credentials(device.bundle.ca_pem.encode(), key, certificate)
    options = [("grpc.ssl_target_name_override", "localhost")]
    with grpc.secure_channel(device.bundle.delivery, credentials, options) as channel:
        report = channel.unary_unary("/edgeloop.v1.ModelDelivery/Report")
        request = device.report(1)
        request.device_id = "operator"
        assert refused(report, request.SerializeToString()) == ("PERMISSION_DENIED", "ACCESS_ERROR")


def test_a_viewer_reads_and_changes_nothing(service, device):
    with service.person("viewer") as viewer:
        assert device.device_id in {d["device_id"] for d in viewer.devices()}
        for call in (
            lambda: viewer.revoke(device.device_id),
            lambda: viewer.create_token("x", "machine", site="a", group="default", hardware="sim"),
            lambda: viewer.train("machine"),
            lambda: viewer.cancel_run("r"),
            lambda: viewer.start_rollout("machine-1.0123abcd", "default"),
            lambda: viewer.ack_drift("r", retrain=True),
            lambda: viewer.revoke_certificate("0a1b"),
            viewer.tokens,
        ):
            with pytest.raises(AccessError, match=r"viewer \(viewer\) may not call"):
                call()


def test_a_revoked_device_is_refused_at_once_and_its_streams_end(service, device):
    stub = device.delivery()
    hints = stub.Watch(WatchRequest(device_id=device.device_id), timeout=30)
    next(hints)
    service.stop_issuing()
    with service.person() as operator:
        operator.revoke(device.device_id)
    with pytest.raises(grpc.RpcError) as caught:
        next(hints)
    denied = ("PERMISSION_DENIED", "ACCESS_ERROR")
    assert refusal(caught.value) == denied
    assert refused(stub.Report, device.report(1)) == denied
    assert refused(device.delivery().Report, device.report(1)) == denied
    assert refused(device.enrollment().Renew, device.renew_request()) == denied
    assert _record(service, device.device_id).active
    service.start_issuing()
    wait_until(lambda: not _record(service, device.device_id).active, 30, "the lake to know")


def test_the_old_certificate_of_a_device_that_joined_again_is_refused(service, device):
    stub = device.delivery()
    stub.Report(device.report(1), timeout=10)
    with service.joined(device.device_id) as anew:
        anew.delivery().Report(anew.report(2), timeout=10)
        wait_until(lambda: _is_refused(stub.Report, device.report(3)), 10, "the old certificate to end")
        anew.delivery().Report(anew.report(4), timeout=10)


def _is_refused(call, request):
    try:
        call(request, timeout=10)
    except grpc.RpcError as exc:
        return refusal(exc)[0] == "PERMISSION_DENIED"
    return False


def _record(service, device_id):
    return next(r for r in service.devices.keys().values() if r.device_id == device_id)


def test_a_person_can_invite_and_list_who_joined(service):
    with service.person() as operator:
        made = operator.create_token("m-7", "machine", site="north", group="g", hardware="sim", valid_s=60)
        bundle = service.invite("m-7").model_copy(update={"token": made["token"]})
        with SimClient(bundle) as client:
            client.enroll()
        [found] = operator.devices("g")
        assert (found["device_id"], found["site"], found["active"]) == ("m-7", "north", True)
        assert made["token"] not in str(operator.tokens())
        with pytest.raises(RegistryError, match="cannot be a device id"):
            operator.create_token("../m", "machine", site="a", group="g", hardware="sim")
        with pytest.raises(RejectedError, match="valid_s"):
            operator.create_token("m-8", "machine", site="a", group="g", hardware="sim", valid_s=10**9)


def test_a_name_that_does_not_exist_is_not_found(service):
    with service.person() as operator:
        for call in (operator.model, operator.rollout, operator.revoke):
            with pytest.raises(RegistryError, match="nothing-of-that-name"):
                call("nothing-of-that-name")
        with pytest.raises(RegistryError, match="there are: machine"):
            operator.train("nothing")
        with pytest.raises(RegistryError, match="no waiting run and no drift verdict"):
            operator.ack_drift("nothing", retrain=True)


def test_a_command_that_nobody_answers_is_withdrawn(service):
    nothing_done = pytest.raises(ServiceUnavailableError, match="nothing was done")
    with service.person(timeout_s=1.0) as operator, nothing_done:
        operator.start_rollout("machine-1.0123abcd", "default")
    with service.registry.reading() as connection:
        [row] = connection.execute(select(commands)).mappings()
    assert row["state"] == "refused"


def test_a_request_that_the_issuer_does_not_answer_may_be_repeated(service):
    with SimClient(service.invite("m-late")) as client:
        service.stop_issuing()
        try:
            with pytest.raises(grpc.RpcError) as caught:
                client.enroll(timeout_s=1.0)
        finally:
            service.start_issuing()
        assert refusal(caught.value) == ("UNAVAILABLE", "SERVICE_UNAVAILABLE_ERROR")
        assert details(caught.value)["RetryInfo"].retry_delay.seconds == 1
        client.enroll()


def test_many_devices_enrol_at_once(service):
    clients = [SimClient(service.invite(f"crowd-{i}")) for i in range(40)]
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda c: c.enroll(), clients))
    assert {read_holder(r.certificate_pem).name for r in replies} == {c.device_id for c in clients}
    for client in clients:
        client.close()


def test_nobody_answers_where_no_service_ran(tmp_path):
    settings = ModelSettings(root=tmp_path, lake_root=tmp_path)
    init_pki(settings)
    assert read_address(settings) is None
    with pytest.raises(ServiceUnavailableError, match="edgeloop up"):
        FleetClient(settings)
