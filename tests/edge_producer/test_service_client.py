"""Laws of the door to the service: whatever comes through it is bounded, in bytes, in parts and in time."""

from __future__ import annotations

from concurrent import futures

import grpc
import psutil
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.device_identity import load_or_create
from edge_producer.trust import TrustedTime
from edge_producer.updates.membership import Membership
from edge_producer.updates.service_client import (
    LONGEST_WAIT_S,
    MAX_FIELDS,
    MAX_MESSAGE_BYTES,
    RETRY_S,
    Credentials,
    DeliveryClient,
    count_fields,
)
from edge_producer.updates.updater import BUILD_TIME
from schemas.durable import Disk
from schemas.errors import PipelineError, RetryableError, ServiceUnavailableError, TrustError
from schemas.proto import delivery_pb2 as pb
from schemas.updates import Attack
from tests.simulators.update_service import UpdateService, candidate


@pytest.fixture
def delivery(service, tmp_path):
    join, device = service.join(tmp_path / "join", "m-1"), load_or_create(tmp_path / "keys", "m-1")
    trusted = TrustedTime(tmp_path / "time.json", BUILD_TIME)
    subject = DeliveryClient(join, Membership(tmp_path, join, device, trusted, Disk()).credentials())
    yield subject
    subject.close()


def test_a_download_ends_after_its_time_however_alive_it_is(service, delivery):
    release = service.sign(candidate(1))
    service.chunk_bytes, service.chunk_pause_s = 100, 0.05
    with pytest.raises(ServiceUnavailableError, match="DEADLINE"):
        list(delivery.fetch_artifact(release.sha256, 0, stall_s=10.0, total_s=0.4))


def refusing(delay_s: float | None) -> bytes:
    """A status as Google's own classes write it; None: without a word about when to come again."""
    status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="too many calls")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="RETRYABLE_ERROR", domain="edgeloop.v1"))
    if delay_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMicroseconds(round(delay_s * 1e6))
        status.details.add().Pack(retry)
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("details", "wait_s"),
    [
        (refusing(7.25), 7.25), (refusing(0.0), 0.0), (refusing(None), RETRY_S), (refusing(-5.0), 0.0),
        (refusing(1e9), LONGEST_WAIT_S), (b"", RETRY_S), (b"\xff\xff", RETRY_S),
        (refusing(7.25)[:-3], RETRY_S),
    ],
)  # fmt: skip
def test_a_refusal_says_when_to_come_again_as_far_as_it_can_be_believed(service, delivery, details, wait_s):
    service.refuses_reports, service.refusal_details = grpc.StatusCode.RESOURCE_EXHAUSTED, details
    with pytest.raises(RetryableError) as caught:
        delivery.report(pb.ReportRequest(device_id="m-1", report_no=1, nonce="n", state="idle"))
    assert caught.value.retry_after_s == wait_s


EMPTY_FILE = b"\x0a\x00"


class ForgingService:
    """Answers every check with the same bytes."""

    def __init__(
        self, service: UpdateService, answer: bytes, compression=grpc.Compression.NoCompression
    ) -> None:
        self._answer = answer
        self._server = grpc.server(futures.ThreadPoolExecutor(2), compression=compression)
        handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: self._answer)
        name = "edgeloop.v1.ModelDelivery"
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, {"FetchMetadata": handler})]
        )
        key, certificate = (path.read_bytes() for path in service.server_files())
        door = grpc.ssl_server_credentials([(key, certificate)])
        self.address = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', door)}"

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait()


def fetched_from(service, tmp_path, answer, compression=grpc.Compression.NoCompression):
    join, device = service.join(tmp_path / "join", "m-1"), load_or_create(tmp_path / "keys", "m-1")
    trusted = TrustedTime(tmp_path / "time.json", BUILD_TIME)
    credentials = Membership(tmp_path, join, device, trusted, Disk()).credentials()
    with ForgingService(service, answer, compression) as forger:
        subject = DeliveryClient(
            join.model_copy(update={"delivery": forger.address}),
            Credentials(credentials.certificate_pem, credentials.key_pem),
        )
        try:
            return subject.fetch_metadata({}, {})
        finally:
            subject.close()


def test_an_answer_of_millions_of_empty_parts_is_refused_before_it_becomes_objects(service, tmp_path):
    before = psutil.Process().memory_info().rss
    with pytest.raises(TrustError, match="parts") as caught:
        fetched_from(service, tmp_path, EMPTY_FILE * (2**20))
    assert caught.value.attack is Attack.ENDLESS_DATA
    assert psutil.Process().memory_info().rss - before < 100e6


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_an_answer_beyond_the_limit_is_no_answer_however_small_it_travels(service, tmp_path, compression):
    big = pb.FetchMetadataResponse(metadata=[pb.File(name="x", data=bytes(MAX_MESSAGE_BYTES))])
    with pytest.raises(PipelineError):
        fetched_from(service, tmp_path, big.SerializeToString(), compression)


@pytest.mark.parametrize(
    "answer", [b"\xff", b"\x0a", b"\x0a\x7f", b"\x0b\x0c", b"\xff" * 50, b"\x0a\x02\x0a\x7f"]
)
def test_an_answer_that_cannot_be_read_is_no_answer(service, tmp_path, answer):
    with pytest.raises(ServiceUnavailableError):
        fetched_from(service, tmp_path, answer)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 2**62), st.binary(max_size=300))
def test_fields_are_counted_as_they_were_written(metadata, documents, server_time_ms, data):
    answer = pb.FetchMetadataResponse(server_time_ms=server_time_ms)
    answer.metadata.extend(pb.File(name="n", data=data) for _ in range(metadata))
    answer.documents.extend(pb.File(name="n") for _ in range(documents))
    raw = answer.SerializeToString()
    assert count_fields(raw, 1000) == metadata + documents + (server_time_ms > 0)
    assert count_fields(raw, 3) <= 4


def test_a_whole_repository_of_files_is_not_too_many():
    assert count_fields(EMPTY_FILE * 1000, MAX_FIELDS) == 1000
