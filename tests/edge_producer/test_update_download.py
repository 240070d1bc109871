"""Laws of downloads: never more, never slower, never other bytes than were signed; never twice the same."""

from __future__ import annotations

import hashlib

import pytest

from edge_producer.updates.download import DownloadPace, Downloads
from schemas.bundle_archive import MAX_ARTIFACT_BYTES
from schemas.durable import Disk
from schemas.errors import ServiceUnavailableError, TrustError
from schemas.updates import Attack

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).hexdigest()


class Server:
    """Chunks of 1,000 bytes on a clock that the test sets."""

    def __init__(self, data: bytes = DATA, chunk_s: float = 0.0, stops_after: int | None = None) -> None:
        self.data, self.chunk_s, self.stops_after = data, chunk_s, stops_after
        self.now = 0.0
        self.asked: list[int] = []

    def fetch(self, _sha256, offset):
        self.asked.append(offset)
        for n, at in enumerate(range(offset, len(self.data), 1000)):
            if n == self.stops_after:
                return
            self.now += self.chunk_s
            yield at, self.data[at : at + 1000]


def downloads(folder, server, pace=None):
    return Downloads(folder / "download", server.fetch, Disk(), pace, lambda: server.now)


def attack_of(call) -> Attack:
    with pytest.raises(TrustError) as caught:
        call()
    return caught.value.attack


def test_the_signed_bytes_come(tmp_path):
    assert downloads(tmp_path, Server()).get(SHA, len(DATA)) == DATA


def test_what_is_there_is_not_fetched_again_also_by_another_process(tmp_path):
    with pytest.raises(ServiceUnavailableError, match="ended at byte 3000"):
        downloads(tmp_path, Server(stops_after=3)).get(SHA, len(DATA))
    server = Server()
    assert downloads(tmp_path, server).get(SHA, len(DATA)) == DATA
    assert downloads(tmp_path, server).get(SHA, len(DATA)) == DATA
    assert server.asked == [3000]


def test_stopping_keeps_what_came(tmp_path):
    with pytest.raises(ServiceUnavailableError, match="interrupted"):
        downloads(tmp_path, Server()).get(SHA, len(DATA), lambda: True)
    server = Server()
    downloads(tmp_path, server).get(SHA, len(DATA))
    assert server.asked == [1000]


def test_data_without_end_is_cut_off_at_the_signed_length(tmp_path):
    server = Server(DATA * 50)
    assert attack_of(lambda: downloads(tmp_path, server).get(SHA, len(DATA))) is Attack.ENDLESS_DATA
    assert not list((tmp_path / "download").iterdir())


def test_a_signed_length_beyond_the_limit_is_not_even_asked_for(tmp_path):
    server = Server()
    get = lambda: downloads(tmp_path, server).get(SHA, MAX_ARTIFACT_BYTES + 1)  # noqa: E731
    assert attack_of(get) is Attack.ENDLESS_DATA
    assert server.asked == []


def test_other_bytes_are_refused_and_forgotten(tmp_path):
    server = Server(b"x" * len(DATA))
    assert attack_of(lambda: downloads(tmp_path, server).get(SHA, len(DATA))) is Attack.TAMPERED_ARTIFACT
    assert downloads(tmp_path, Server()).get(SHA, len(DATA)) == DATA


def test_a_damaged_part_is_fetched_anew_the_next_time(tmp_path):
    with pytest.raises(ServiceUnavailableError):
        downloads(tmp_path, Server(stops_after=3)).get(SHA, len(DATA))
    [part] = (tmp_path / "download").iterdir()
    part.write_bytes(b"?" * 3000)
    assert attack_of(lambda: downloads(tmp_path, Server()).get(SHA, len(DATA))) is Attack.TAMPERED_ARTIFACT
    assert downloads(tmp_path, Server()).get(SHA, len(DATA)) == DATA


def test_a_trickle_is_refused_and_what_came_is_kept(tmp_path):
    pace = DownloadPace(min_bytes_per_s=500.0, window_s=4.0, total_s=1e9)
    slow = downloads(tmp_path, Server(chunk_s=3.0), pace)
    assert attack_of(lambda: slow.get(SHA, len(DATA))) is Attack.SLOW_RETRIEVAL
    server = Server()
    assert downloads(tmp_path, server, pace).get(SHA, len(DATA)) == DATA
    assert server.asked[0] > 0


def test_just_fast_enough_for_ever_is_too_slow_in_total(tmp_path):
    pace = DownloadPace(min_bytes_per_s=10.0, window_s=4.0, total_s=5.0)
    slow = downloads(tmp_path, Server(chunk_s=1.0), pace)
    assert attack_of(lambda: slow.get(SHA, len(DATA))) is Attack.SLOW_RETRIEVAL


def test_a_chunk_out_of_place_is_an_error_of_the_line(tmp_path):
    class Skipping(Server):
        def fetch(self, _sha256, offset):
            yield offset + 7, b"x"

    with pytest.raises(ServiceUnavailableError, match="came where 0 was due"):
        downloads(tmp_path, Skipping()).get(SHA, len(DATA))


def test_what_comes_after_the_last_byte_is_not_waited_for(tmp_path):
    class Lingering(Server):
        closed = False

        def fetch(self, sha256, offset):
            try:
                yield from super().fetch(sha256, offset)
                raise AssertionError("asked for more than there is")
            finally:
                self.closed = True

    server = Lingering()
    assert downloads(tmp_path, server).get(SHA, len(DATA)) == DATA
    assert server.closed, "the call is ended"


def test_empty_chunks_are_an_error_of_the_line(tmp_path):
    class Empty(Server):
        def fetch(self, _sha256, offset):
            while True:
                yield offset, b""

    with pytest.raises(ServiceUnavailableError, match="0 bytes"):
        downloads(tmp_path, Empty()).get(SHA, len(DATA))


def test_parts_of_other_artifacts_are_forgotten(tmp_path):
    with pytest.raises(ServiceUnavailableError):
        downloads(tmp_path, Server(stops_after=1)).get(SHA, len(DATA))
    subject = downloads(tmp_path, Server())
    subject.forget(keep=SHA)
    assert len(list((tmp_path / "download").iterdir())) == 1
    subject.forget()
    assert not list((tmp_path / "download").iterdir())
