"""Laws of strangers: whatever they do from one address, devices that have a certificate are served."""

import socket
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from model_service.refusal_counts import read_refusals
from model_service.service.connections.connection_bounds import ConnectionLimits
from tests.simulators.model_service import ModelService, SimClient
from tests.simulators.strangers import KINDS, Strangers
from tests.waiting import wait_until

DESCRIPTORS = 640
"""Hard limit of the service; strangers alone would use it up several times over."""
LIMITS = ConnectionLimits.within(DESCRIPTORS)
CROWD, REPORTS = 2000, 10


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service"), DESCRIPTORS) as running:
        yield running


@pytest.fixture
def device(service, request):
    with SimClient(service.invite(f"dev-{abs(hash(request.node.name)):x}")) as client:
        client.enroll(wait=True)  # strangers of the test before may not have left yet
        yield client


def descriptors(service):
    return len(list(Path(f"/proc/{service.child.pid}/fd").iterdir()))


def test_the_process_may_open_as_many_files_as_the_system_allows(service):
    limits = [line.split() for line in Path(f"/proc/{service.child.pid}/limits").read_text().splitlines()]
    [(soft, hard)] = [line[3:5] for line in limits if line[:3] == ["Max", "open", "files"]]
    assert soft == hard == str(DESCRIPTORS)
    assert f"file descriptors: at most {DESCRIPTORS} (it was {DESCRIPTORS // 4})" in service.log


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("listener", ["enrolment", "delivery"])
@pytest.mark.parametrize("kind", KINDS)
def test_devices_report_and_enrol_beside_a_crowd_of_strangers(service, device, kind, listener):
    address = service.address
    port = address.enrollment_port if listener == "enrolment" else address.delivery_port
    kept = device.delivery()
    kept.Report(device.report(1), timeout=10)
    with Strangers(port, kind, 150 if kind == "idle" else CROWD) as crowd:
        for number in range(2, REPORTS + 2):
            kept.Report(device.report(number), timeout=5)
            over_a_new_connection = device.delivery()
            over_a_new_connection.Report(device.report(100 + number), timeout=5, wait_for_ready=True)
        with service.joined(f"new-{kind}-{listener}") as newcomer:
            newcomer.delivery().Report(newcomer.report(1), timeout=5)
        assert crowd.held() <= LIMITS.silent_each + LIMITS.greeted_each
        assert descriptors(service) < DESCRIPTORS


def test_another_address_is_not_touched_by_a_crowd(service):
    port = service.address.enrollment_port
    with (
        Strangers(port, "silent", 3, "127.0.0.2") as few,
        Strangers(port, "half", 3, "127.0.0.2") as half,
        Strangers(port, "silent", 1000),
        Strangers(port, "half", 1000),
    ):
        assert few.held() == half.held() == 3


def test_what_strangers_lost_is_counted_where_people_look(service):
    with Strangers(service.address.delivery_port, "silent", 500):
        wait_until(lambda: _lost(service) >= 400, 20, "the file of refusals")
    assert read_refusals(service.settings).addresses.keys() == {"127.0.0.1"}


def _lost(service):
    found = read_refusals(service.settings)
    return 0 if found is None else sum(found.connections.values())


def test_handshakes_that_fail_write_nothing_into_the_log(service, device):
    before = len(service.log)
    with Strangers(service.address.delivery_port, "idle", 50):
        device.delivery().Report(device.report(1), timeout=10)
    assert len(service.log) == before


def test_a_stranger_is_ended_when_its_time_is_over(tmp_path):
    with ModelService(tmp_path, stranger_s=0.5) as service, service.joined("m-1") as device:
        stub = device.delivery()
        stub.Report(device.report(1), timeout=10)
        ports = (service.address.enrollment_port, service.address.delivery_port)
        crowds = [Strangers(port, kind, 3) for kind in KINDS for port in ports]
        for crowd in crowds:
            with crowd:
                wait_until(lambda held=crowd.held: held() == 0, 20, "the strangers to be ended")
        stub.Report(device.report(2), timeout=10)


def test_a_stranger_holds_no_health_stream_for_long(tmp_path):
    with ModelService(tmp_path, stranger_s=0.5) as service, SimClient(service.invite("m-1")) as stranger:
        channel = stranger.channel(stranger.bundle.enrollment, mutual=False)
        states = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(states).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(states)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_one_caller_has_a_bounded_number_of_connections(service, device):
    stubs = [device.delivery() for _ in range(LIMITS.caller + 5)]
    for number, stub in enumerate(stubs, 1):
        stub.Report(device.report(number), timeout=10)
    wait_until(
        lambda: read_refusals(service.settings).connections.get("too many of one caller", 0) >= 5, 20, ""
    )
    stubs[-1].Report(device.report(99), timeout=10)


@pytest.mark.long
def test_a_program_on_yesterdays_ports_does_not_keep_the_service_down(tmp_path):
    with ModelService(tmp_path) as service, service.joined("m-1") as device:
        before = service.address
        service.child.kill()
        ports = (before.enrollment_port, before.delivery_port)
        sitting = [socket.create_server(("127.0.0.1", port)) for port in ports]
        service.start()
        now = service.address
        assert not {now.enrollment_port, now.delivery_port} & set(ports)
        assert f"port {before.delivery_port} is taken by another program" in service.log
        with service.joined("m-2") as other:
            other.delivery().Report(other.report(1), timeout=10)
        for one in sitting:
            one.close()
        # The program has ended: devices that know the old ports get through again, without a restart.
        stub = device.delivery()
        wait_until(lambda: outcome(stub.Report, device.report(1)) == "OK", 30, "the old port")
        service.child.kill()
        service.start()
        assert service.address.delivery_port == before.delivery_port
        with SimClient(other.bundle, other.key) as moved:
            moved.certificate_pem = other.certificate_pem
            moved.delivery().Report(moved.report(2), timeout=10)  # nor is the port in between given up


def outcome(call, request):
    try:
        call(request, timeout=5)
    except grpc.RpcError as exc:
        return exc.code().name
    return "OK"


def test_a_port_that_a_person_chose_is_not_exchanged(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as sitting:
        port = sitting.getsockname()[1]
        service = ModelService(tmp_path, delivery_port=port)
        with pytest.raises(AssertionError, match=f"{port}: the port is taken"):
            service.start()
        service.registry.close()
