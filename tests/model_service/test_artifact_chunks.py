"""How an artifact goes out: in chunks that fit the link, read whole once, from memory that is kept."""

import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_service.processes.serve_process import KEPT_BYTES, MAPPED_BYTES
from model_service.service.artifact_files import ArtifactFiles
from model_service.service.chunk_size import LARGEST, QUICK_S, SLOW_S, next_chunk
from model_service.service.delivery import chunk_message
from model_service.stored_artifacts import put_artifact
from schemas.proto.delivery_pb2 import ArtifactChunk, FetchArtifactRequest
from tests.simulators.model_service import ModelService

LEAST = 512 * 1024


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service")) as running:
        yield running


def test_an_artifact_comes_in_larger_chunks_to_whoever_takes_them_quickly(service):
    data = random.Random(7).randbytes(6 * LARGEST)
    with service.joined("m-1") as device:
        request = FetchArtifactRequest(device_id="m-1", sha256=service.put_artifact(data))
        chunks = list(device.delivery().FetchArtifact(request, timeout=60))
    assert b"".join(c.data for c in chunks) == data
    assert len(chunks[0].data) == LEAST
    assert all(LEAST <= len(c.data) <= LARGEST for c in chunks[:-1])


@given(st.integers(0, 2**62), st.binary(max_size=300))
def test_a_chunk_is_written_as_protobuf_writes_it(offset, data):
    expected = ArtifactChunk(offset=offset, data=data)
    assert ArtifactChunk.FromString(chunk_message(offset, data)) == expected
    assert chunk_message(offset, data) == expected.SerializeToString(deterministic=True)


def read_bytes():
    """Bytes that this process has read so far."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="Linux counts what a process reads")
def test_however_many_ask_for_an_artifact_at_once_it_is_read_whole_once(tmp_path):
    data = random.Random(7).randbytes(8 * 1024**2)
    digest = put_artifact(tmp_path, data)
    files, barrier = ArtifactFiles(tmp_path, tmp_path / "targets"), Barrier(8)

    def ask(_):
        barrier.wait()
        files.open(digest, 0).close()

    before = read_bytes()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    assert len(data) <= read_bytes() - before < 2 * len(data)


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(1, 2 * LARGEST))
def test_no_chunk_is_smaller_than_the_first_or_larger_than_a_device_takes(took, least):
    size = least
    for seconds in took:
        size = next_chunk(size, seconds, least)
        assert least <= size <= max(least, LARGEST)


def test_chunks_grow_while_they_are_taken_quickly_and_shrink_where_they_are_not():
    assert [next_chunk(n, 0.0, LEAST) for n in (LEAST, 2 * LEAST, LARGEST)] == [2 * LEAST, LARGEST, LARGEST]
    assert [next_chunk(n, 9.0, LEAST) for n in (LARGEST, 2 * LEAST, LEAST)] == [2 * LEAST, LEAST, LEAST]


@pytest.mark.parametrize("took", [QUICK_S, (QUICK_S + SLOW_S) / 2, SLOW_S])
def test_a_link_that_carries_a_chunk_in_a_moment_gets_as_large_a_one_again(took):
    assert next_chunk(2 * LEAST, took, LEAST) == 2 * LEAST


FAULTS = f"""
import resource
{{keep}}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        bytes(bytearray({MAPPED_BYTES // 4}))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
KEEP = f"from schemas.kept_memory import keep_memory; assert keep_memory({MAPPED_BYTES}, {KEPT_BYTES})"


def page_faults(keep):
    ran = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's bounds")
def test_memory_of_chunks_is_not_mapped_anew_for_each():
    assert page_faults(KEEP) < page_faults("") / 10
