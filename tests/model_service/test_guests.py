"""Laws of guests: what one device asks and stores is bounded, and costs the others nothing."""

import itertools

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2  # noqa: F401  (its descriptors are in the pool from here on)
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import func, select

from model_service.fleet.device_reports import KEPT, record_report
from model_service.registry.registry_tables import certificates, outbox, reports
from model_service.rollout.report_retention import SLACK
from model_service.service.delivery import WATCHES, rules
from schemas.proto.delivery_pb2 import WatchRequest
from tests.simulators.model_service import ModelService, SimClient, details, refusal
from tests.waiting import wait_until

FLOOD = 450


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def device(service, request):
    with service.joined(f"dev-{abs(hash(request.node.name)):x}") as client:
        yield client


def outcomes(call, requests):
    """Code of each call; OK where it was answered."""
    found = []
    for request in requests:
        try:
            call(request, timeout=20)
            found.append("OK")
        except grpc.RpcError as exc:
            found.append(exc.code().name)
    return found


def count(service, table, *where):
    with service.registry.reading() as connection:
        return connection.execute(select(func.count()).select_from(table).where(*where)).scalar()


def test_a_flood_of_reports_is_refused_and_others_are_served(service, device):
    stub = device.delivery()
    found = outcomes(stub.Report, (device.report(n) for n in range(1, FLOOD + 1)))
    burst = rules(service.settings)["Report"].rate.burst
    assert found[:burst] == ["OK"] * burst
    assert "RESOURCE_EXHAUSTED" in found[burst:]
    with service.joined("neighbour") as other:
        other.delivery().Report(other.report(1), timeout=10)


def test_a_device_over_its_budget_is_told_when_to_come_again(service, device):
    stub = device.delivery()

    def report_until_refused() -> None:  # the call behind a refused one may be let in again
        for number in itertools.count(1):
            stub.Report(device.report(number), timeout=20)

    with pytest.raises(grpc.RpcError) as caught:
        report_until_refused()
    assert refusal(caught.value) == ("RESOURCE_EXHAUSTED", "RETRYABLE_ERROR")
    delay = details(caught.value)["RetryInfo"].retry_delay
    assert 0 < delay.seconds + delay.nanos / 1e9 < 60


def test_what_an_earlier_release_stored_without_a_bound_is_brought_under_it(service, device):
    with service.registry.transaction() as connection:
        for number in range(1, KEPT + SLACK + 50):
            record_report(connection, device.report(number), 1.0)
    device.delivery().Report(device.report(10_000), timeout=20)
    own = reports.c.device_id == device.device_id
    assert count(service, reports, own) == KEPT
    assert count(service, reports, own, reports.c.report_no == 10_000) == 1


def test_a_twins_refused_reports_make_few_events_and_are_all_counted(service, device):
    stub = device.delivery()
    stub.Report(device.report(1, nonce="mine"), timeout=10)
    twins = outcomes(stub.Report, (device.report(1, nonce=f"twin-{n}") for n in range(50)))
    assert twins == ["ALREADY_EXISTS"] * 50
    events = (outbox.c.step == "identity_cloned") & (outbox.c.subject == device.device_id)
    assert count(service, outbox, events) == 1
    with service.person("viewer") as viewer:
        [found] = [d for d in viewer.devices() if d["device_id"] == device.device_id]
    assert found["cloned_reports"] == 50


def test_a_twins_count_outlives_the_process(tmp_path):
    with ModelService(tmp_path) as service, service.joined("m-1") as device:
        stub = device.delivery()
        stub.Report(device.report(1, nonce="mine"), timeout=10)
        outcomes(stub.Report, (device.report(1, nonce=f"twin-{n}") for n in range(7)))
        service.child.stop()
        service.start()
        with service.person("viewer") as viewer:
            assert [d["cloned_reports"] for d in viewer.devices()] == [7]


def test_a_device_renews_its_certificate_only_so_often(service, device):
    before = count(service, certificates)
    found = outcomes(device.enrollment().Renew, (device.renew_request() for _ in range(25)))
    assert found.count("OK") == 10
    assert set(found) == {"OK", "RESOURCE_EXHAUSTED"}
    assert count(service, certificates) == before + 10
    with service.joined("renewing") as other:
        other.renew()


def test_a_replayed_renewal_spends_nothing(service, device):
    request = device.renew_request()
    assert outcomes(device.enrollment().Renew, [request] * 30) == ["OK"] * 30
    assert outcomes(device.enrollment().Renew, [device.renew_request()]) == ["OK"]


def test_of_many_watch_streams_of_a_device_the_newest_live(service, device):
    streams = []
    for _ in range(2 * WATCHES + 1):
        streams.append(device.delivery().Watch(WatchRequest(device_id=device.device_id), timeout=60))
        next(streams[-1])
    for stream in streams[:-WATCHES]:
        assert list(stream) == []  # ended, and not by an error
    service.publish_timestamp(7)
    for stream in streams[-WATCHES:]:
        assert next(stream).timestamp_version == 7
        stream.cancel()


def methods(name):
    return descriptor_pool.Default().FindServiceByName(name).methods


ON_ENROLMENT = ("edgeloop.v1.Enrollment", "grpc.health.v1.Health")
ON_DELIVERY = ("edgeloop.v1.ModelDelivery", "grpc.health.v1.Health")
BYTES = {"no message": b"\xff\xff\xff\xff", "cut off": b"\x0a\x7fabc", "no UTF-8": b"\x0a\x02\xff\xfe"}


def call(channel, method):
    """The method with bytes for messages; a stream is read to its end."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    if not method.server_streaming:
        return channel.unary_unary(path)
    stream = channel.unary_stream(path)
    return lambda *args, **kwargs: list(stream(*args, **kwargs))


def malformed(channel, service_name, data):
    """Code, reason and named fields of the answer of each method."""
    found = {}
    for method in methods(service_name):
        first = method.input_type.fields_by_number.get(1)
        if data == BYTES["no UTF-8"] and (first is None or first.type != first.TYPE_STRING):
            continue  # any bytes will do for that field
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, method)(data, timeout=10)
        fields = [v.field for v in details(caught.value)["BadRequest"].field_violations]
        found[method.name] = (*refusal(caught.value), *fields)
    return found


@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_a_malformed_request_is_named_as_such_by_every_method(service, device, data):
    people = service.person()._channel
    for channel, names in (
        (device.channel(device.bundle.enrollment, mutual=False), ON_ENROLMENT),
        (device.channel(device.bundle.delivery), ON_DELIVERY),
        (people, ("edgeloop.v1.FleetAdmin",)),
    ):
        for name in names:
            for method, answer in malformed(channel, name, data).items():
                if answer[0] != "PERMISSION_DENIED":  # an approver's method, say: refused before it is read
                    assert answer == ("INVALID_ARGUMENT", "REJECTED_ERROR", "request"), (name, method)
    people.close()
    assert "Traceback" not in service.log


def test_a_malformed_question_to_reflection_is_refused(device):
    for channel in (
        device.channel(device.bundle.enrollment, mutual=False),
        device.channel(device.bundle.delivery),
    ):
        ask = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(iter([b"\xff\xff"]), timeout=10))
        assert refusal(caught.value) == ("INVALID_ARGUMENT", "REJECTED_ERROR")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="edgeloop.v1.ReportRequest")
        [answer] = stub.ServerReflectionInfo(iter([asked]), timeout=10)
        assert answer.file_descriptor_response.file_descriptor_proto


def test_a_call_without_a_request_is_refused_and_waits_for_nothing(device):
    call = device.channel(device.bundle.delivery).stream_unary("/edgeloop.v1.ModelDelivery/Report")
    with pytest.raises(grpc.RpcError) as caught:
        call(iter([]), timeout=10)
    assert refusal(caught.value) == ("INVALID_ARGUMENT", "REJECTED_ERROR")


def test_a_flood_of_malformed_requests_is_a_few_lines(service, device):
    report = device.channel(device.bundle.delivery).unary_unary("/edgeloop.v1.ModelDelivery/Report")
    outcomes(report, [b"\xff"])
    before = len(service.log)
    assert set(outcomes(report, [b"\xff\xff"] * 200)) == {"INVALID_ARGUMENT"}
    assert len(service.log) - before < 1000


def test_strangers_that_guess_tokens_are_slowed_and_named(service):
    with SimClient(service.invite("m-guess")) as stranger:
        enroll = stranger.enrollment().Enroll
        request = stranger.enroll_request(token="guess")
        found = outcomes(enroll, [request] * 700)
        assert set(found) == {"PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}
    wait_until(lambda: _enrols(service), 30, "the budget to fill again")


def _enrols(service):
    with SimClient(service.invite("m-after")) as client:
        return outcomes(client.enrollment().Enroll, [client.enroll_request()]) == ["OK"]
