"""The trust code over plain HTTP, held to what a TUF client must do (after the cases of tuf-conformance)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from edge_producer.trust.http import HttpFiles, TransferPace
from edge_producer.tuf_client import main
from model_service.trust.metadata import CryptoSigner
from schemas.errors import ServiceUnavailableError, TrustError
from schemas.updates import Attack
from tests.simulators.http_repository import HttpRepository, serving

TOP = [
    "metadata/2.root.json",
    "metadata/timestamp.json",
    "metadata/1.snapshot.json",
    "metadata/1.targets.json",
]


class Client:
    """The command line, in this process."""

    def __init__(self, folder: Path, repository: HttpRepository, url: str) -> None:
        self.metadata, self.targets = folder / "metadata", folder / "targets"
        self.metadata.mkdir(parents=True)
        self.repository, self.url = repository, url
        self.root = folder / "initial.json"
        self.root.write_bytes(repository.files["metadata/1.root.json"])

    def init(self) -> int:
        return main(["--metadata-dir", str(self.metadata), "init", str(self.root)])

    def refresh(self) -> int:
        return main([*self._where(), "refresh"])

    def download(self, name: str) -> int:
        places = [
            "--target-name",
            name,
            "--target-base-url",
            f"{self.url}/targets/",
            "--target-dir",
            str(self.targets),
        ]
        return main([*self._where(), *places, "download"])

    def versions(self) -> dict[str, int]:
        """Of the trusted metadata."""
        files = sorted(self.metadata.glob("*.json"))
        return {f.name.removesuffix(".json"): json.loads(f.read_bytes())["signed"]["version"] for f in files}

    def downloaded(self) -> list[bytes]:
        """Contents of the target folder; hidden files are not results."""
        return sorted(f.read_bytes() for f in self.targets.glob("[!.]*"))

    def _where(self) -> list[str]:
        return ["--metadata-dir", str(self.metadata), "--metadata-url", f"{self.url}/metadata/"]


@pytest.fixture(params=[True, False], ids=["consistent", "plain"])
def repository(request: pytest.FixtureRequest) -> HttpRepository:
    return HttpRepository(consistent=request.param)


@pytest.fixture
def client(tmp_path: Path, repository: HttpRepository) -> Iterator[Client]:
    with serving(repository) as url:
        found = Client(tmp_path, repository, url)
        assert found.init() == 0
        yield found


consistent_only = pytest.mark.parametrize("repository", [True], indirect=True, ids=["consistent"])


# metadata


@consistent_only
def test_a_refresh_asks_in_the_order_of_the_specification_and_then_only_what_is_new(client: Client):
    assert client.refresh() == 0
    assert client.repository.asked == TOP
    assert client.versions() == {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert client.refresh() == 0
    assert client.repository.asked[4:] == TOP[:2]


def test_what_is_trusted_is_byte_for_byte_what_was_served(client: Client):
    assert client.refresh() == 0
    served = client.repository.files["metadata/timestamp.json"]
    assert (client.metadata / "timestamp.json").read_bytes() == served


@pytest.mark.parametrize("damage", [b"", b"{}", b"not json"])
def test_an_invalid_initial_root_asks_nothing(client: Client, damage: bytes):
    client.root.write_bytes(damage)
    client.init()
    assert client.refresh() == 1
    assert client.repository.asked == []


def test_an_unsigned_initial_root_asks_nothing(client: Client):
    root = json.loads(client.root.read_bytes())
    root["signed"]["expires"] = "2999-01-01T00:00:00Z"
    client.root.write_bytes(json.dumps(root).encode())
    client.init()
    assert client.refresh() == 1
    assert client.repository.asked == []


def test_a_refresh_without_init_fails(tmp_path: Path):
    assert main(["--metadata-dir", str(tmp_path), "--metadata-url", "http://127.0.0.1:9/", "refresh"]) == 1


def test_many_roots_are_walked_and_kept(client: Client):
    for _ in range(5):
        client.repository.bump_root()
    assert client.refresh() == 0
    assert client.versions()["root"] == 6
    asked = client.repository.asked
    assert client.refresh() == 0
    assert [name for name in asked[9:] if "root" in name] == ["metadata/7.root.json"]


def test_a_root_needs_the_signatures_of_the_root_before_it(client: Client):
    client.repository.rotate("root")
    client.repository.bump_root()
    assert client.refresh() == 1
    assert client.versions() == {"root": 1}


def test_a_root_signed_by_old_and_new_keys_is_followed(client: Client):
    old = client.repository.keys["root"][0]
    client.repository.rotate("root")
    client.repository.bump_root([old])
    client.repository.bump_root()
    assert client.refresh() == 0
    assert client.versions()["root"] == 3


def test_a_root_that_skips_a_version_is_refused(client: Client):
    client.repository.root.version = 3
    client.repository.publish_root()
    client.repository.files["metadata/2.root.json"] = client.repository.files["metadata/3.root.json"]
    assert client.refresh() == 1
    assert client.versions() == {"root": 1}


def test_an_expired_root_is_kept_and_nothing_else(client: Client):
    assert client.refresh() == 0
    client.repository.root.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    client.repository.bump_root()
    client.repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions() == {"root": 2, "timestamp": 1, "snapshot": 1, "targets": 1}
    client.repository.root.expires = client.repository.expiry
    client.repository.bump_root()
    assert client.refresh() == 0


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_expired_metadata_are_refused(client: Client, role: str):
    assert client.refresh() == 0
    repository = client.repository
    part = repository.roles[role] if role == "targets" else getattr(repository, role)
    part.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=5)
    repository.roles["targets"].version = 2
    repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions()[role] == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_role_whose_keys_are_too_few_is_refused(client: Client, role: str):
    assert client.refresh() == 0
    client.repository.root.roles[role].threshold = 2
    client.repository.bump_root()
    client.repository.roles["targets"].version = 2
    client.repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions()[role] == 1
    client.repository.add_key(role)
    client.repository.bump_root()
    client.repository.publish("targets")
    assert client.refresh() == 0


def test_a_timestamp_of_the_same_version_changes_nothing(client: Client):
    assert client.refresh() == 0
    kept = (client.metadata / "timestamp.json").read_bytes()
    client.repository.timestamp.version = 1
    client.repository.timestamp.snapshot_meta.version = 100
    client.repository.publish_timestamp()
    assert client.refresh() == 0
    assert (client.metadata / "timestamp.json").read_bytes() == kept


def test_an_older_timestamp_is_refused(client: Client):
    old = client.repository.files["metadata/timestamp.json"]
    client.repository.publish("targets")
    assert client.refresh() == 0
    client.repository.files["metadata/timestamp.json"] = old
    assert client.refresh() == 1
    assert client.versions()["timestamp"] == 2


def test_an_older_snapshot_or_targets_named_by_newer_metadata_is_refused(client: Client):
    client.repository.roles["targets"].version = 3
    client.repository.publish("targets")
    client.repository.publish("targets")
    assert client.refresh() == 0
    client.repository.roles["targets"].version = 2
    client.repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions()["targets"] == 3
    client.repository.snapshot.version = 1
    client.repository.publish("targets")
    assert client.refresh() == 1
    assert client.versions()["snapshot"] == 3


def test_rotated_keys_recover_from_a_fast_forward(client: Client):
    client.repository.snapshot.version = client.repository.timestamp.version = 9000
    client.repository.publish("targets")
    assert client.refresh() == 0
    client.repository.rotate("timestamp")
    client.repository.rotate("snapshot")
    client.repository.bump_root()
    client.repository.snapshot.version = client.repository.timestamp.version = 2
    client.repository.publish("targets")
    assert client.refresh() == 0
    assert client.versions()["snapshot"] == 2


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_a_file_with_another_digest_than_named_is_refused(client: Client, role: str):
    repository = client.repository
    name = f"metadata/1.{role}.json" if repository.root.consistent_snapshot else f"metadata/{role}.json"
    repository.files[name] = repository.files[name].replace(b"2026", b"2027").replace(b'"sig":"', b'"sig":"0')
    assert client.refresh() == 1
    assert role not in client.versions()


@pytest.mark.parametrize("name", ["timestamp.json", "snapshot.json", "targets.json"])
def test_endless_metadata_are_cut_off(client: Client, name: str):
    repository = client.repository
    versioned = name if name == "timestamp.json" or not repository.root.consistent_snapshot else f"1.{name}"
    repository.endless.add(f"metadata/{versioned}")
    assert client.refresh() == 1
    assert name.removesuffix(".json") not in client.versions()


def test_a_server_in_trouble_is_not_a_missing_root(client: Client):
    client.repository.broken.add("metadata/2.root.json")
    assert client.refresh() == 1
    assert client.repository.asked == ["metadata/2.root.json"]


def test_unknown_fields_are_kept_under_the_signature(client: Client):
    client.repository.root.unrecognized_fields["custom"] = {"a": 1}
    client.repository.bump_root()
    assert client.refresh() == 0
    assert json.loads((client.metadata / "root.json").read_bytes())["signed"]["custom"] == {"a": 1}


def test_snapshots_without_digests_work(tmp_path: Path):
    repository = HttpRepository(hashes=False)
    with serving(repository) as url:
        client = Client(tmp_path, repository, url)
        assert (client.init(), client.refresh()) == (0, 0)
        repository.roles["targets"].version = 2
        repository.publish("targets")
        assert client.refresh() == 0
        assert client.versions()["targets"] == 2


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_common_key_kinds_verify(client: Client, kind: str):
    client.repository.rotate("timestamp")
    client.repository.keys["timestamp"] = []
    client.repository.add_key("timestamp", signer=getattr(CryptoSigner, f"generate_{kind}")())
    client.repository.bump_root()
    client.repository.publish("targets")
    assert client.refresh() == 0


# delegations


GRAPHS: dict[str, tuple[list[tuple[str, str, list[str], bool]], list[str]]] = {
    "one": ([("targets", "A", ["*"], False)], ["A"]),
    "depth first": (
        [("targets", "A", ["*"], False), ("targets", "B", ["*"], False), ("A", "C", ["*"], False)],
        ["A", "C", "B"],
    ),
    "terminating": (
        [
            ("targets", "A", ["*"], False),
            ("targets", "B", ["*"], False),
            ("A", "C", ["*"], True),
            ("C", "D", ["*"], False),
        ],
        ["A", "C", "D"],
    ),
    "paths": ([("targets", "A", ["*.py"], False), ("targets", "B", ["*"], False)], ["B"]),
    "cycle": (
        [("targets", "A", ["*"], False), ("A", "B", ["*"], False), ("B", "A", ["*"], False)],
        ["A", "B"],
    ),
    "no slash in a star": ([("targets", "A", ["*/*"], False), ("targets", "B", ["*"], False)], ["B"]),
}


@consistent_only
@pytest.mark.parametrize("graph", GRAPHS)
def test_delegations_are_visited_in_order_of_trust(client: Client, graph: str):
    delegations, visited = GRAPHS[graph]
    for parent, role, paths, terminating in delegations:
        client.repository.delegate(parent, role, paths, terminating=terminating)
    client.repository.publish(*client.repository.roles)
    assert client.download("missing") == 1
    asked = [name.removeprefix("metadata/1.").removesuffix(".json") for name in client.repository.asked[4:]]
    assert asked == visited


@pytest.mark.parametrize("role", ["?", "#", "/delegatedrole", "../delegatedrole", "a b"])
def test_strange_role_names_stay_names(client: Client, role: str):
    client.repository.delegate("targets", role, ["*"])
    client.repository.add_target(role, "file", b"content")
    client.repository.publish("targets", role)
    assert client.download("file") == 0
    version = "1." if client.repository.root.consistent_snapshot else ""
    assert f"metadata/{version}{quote(role, safe='')}.json" in client.repository.asked
    assert len(client.versions()) == 5
    assert len(list(client.metadata.rglob("*.json"))) == 6  # one in root_history


def test_an_expired_delegated_role_is_not_used_and_a_newer_one_is(client: Client):
    client.repository.delegate("targets", "A", ["*"])
    client.repository.add_target("A", "file", b"content")
    client.repository.roles["A"].expires = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    client.repository.publish("targets", "A")
    assert client.refresh() == 0
    assert client.download("file") == 1
    assert "A" not in client.versions()
    client.repository.roles["A"].expires = client.repository.expiry
    client.repository.roles["A"].version = 2
    client.repository.publish("A")
    assert client.download("file") == 0


# targets


@pytest.mark.parametrize("path", ["file.txt", "path/to/a/file.txt", "with space.bin", "ü.bin", "100%.bin"])
def test_a_target_is_fetched_once_and_kept(client: Client, path: str):
    client.repository.add_target("targets", path, b"content")
    client.repository.publish("targets")
    assert client.download(path) == 0
    assert client.downloaded() == [b"content"]
    asked = len([name for name in client.repository.asked if name.startswith("targets/")])
    assert client.download(path) == 0
    assert len([name for name in client.repository.asked if name.startswith("targets/")]) == asked == 1
    assert [f.name for f in client.targets.glob(".*")] == []


def test_a_target_that_nobody_lists_is_refused(client: Client):
    client.repository.files["targets/file"] = b"content"
    assert client.download("file") == 1
    assert client.downloaded() == []


def test_other_bytes_than_signed_never_replace_what_is_there(client: Client):
    client.repository.add_target("targets", "file", b"first")
    client.repository.publish("targets")
    assert client.download("file") == 0
    client.repository.add_target("targets", "file", b"second")
    client.repository.roles["targets"].version = 2
    client.repository.publish("targets")
    stored = next(
        n
        for n in client.repository.files
        if n.startswith("targets/") and client.repository.files[n] == b"second"
    )
    for evil in (b"evil!!", b"evil", b"evil and longer"):
        client.repository.files[stored] = evil
        assert client.download("file") == 1
        assert client.downloaded() == [b"first"]
    client.repository.files[stored] = b"second"
    assert client.download("file") == 0
    assert client.downloaded() == [b"second"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_off_download_goes_on_where_it_stopped(client: Client, ranges: bool):
    data = os.urandom(300_000)
    client.repository.add_target("targets", "file", data)
    client.repository.publish("targets")
    assert client.refresh() == 0
    client.repository.ranges, client.repository.stop_after = ranges, 100_000
    assert client.download("file") == 1
    assert client.downloaded() == []
    [part] = client.targets.glob(".*.part")
    assert part.stat().st_size == 100_000
    client.repository.stop_after = None
    assert client.download("file") == 0
    assert client.downloaded() == [data]


def test_a_rotten_part_is_started_anew(client: Client):
    data = os.urandom(200_000)
    client.repository.add_target("targets", "file", data)
    client.repository.publish("targets")
    assert client.refresh() == 0
    client.repository.stop_after = 100_000
    assert client.download("file") == 1
    [part] = client.targets.glob(".*.part")
    part.write_bytes(b"x" * 100_000)
    client.repository.stop_after = None
    assert client.download("file") == 1
    assert client.download("file") == 0
    assert client.downloaded() == [data]


# pace


@pytest.mark.parametrize("headers", [False, True])
def test_a_server_that_drips_is_left_long_before_it_ends(headers: bool):
    repository = HttpRepository()
    with serving(repository) as url:
        repository.drip_s, repository.drip_headers = 0.05, headers
        files = HttpFiles(f"{url}/metadata", TransferPace(silence_s=5, grace_s=0.3, floor_bytes_per_s=1e9))
        with pytest.raises(TrustError) as caught:
            files("timestamp.json", 10_000)
        assert caught.value.attack is Attack.SLOW_RETRIEVAL
        assert repository.dripped < len(repository.files["metadata/timestamp.json"]) / 2


def test_a_server_that_is_gone_may_come_back():
    with serving(HttpRepository()) as url:
        pass
    with pytest.raises(ServiceUnavailableError):
        HttpFiles(url)("timestamp.json", 10_000)


def test_an_answer_that_ends_early_may_come_whole():
    repository = HttpRepository()
    repository.stop_after = 10
    with serving(repository) as url, pytest.raises(ServiceUnavailableError, match="stopped"):
        HttpFiles(f"{url}/metadata")("timestamp.json", 10_000)


# the command


@pytest.mark.parametrize(
    "command", [[], ["refresh"], ["--metadata-url", "http://127.0.0.1:9", "download"], ["init"]]
)
def test_a_command_that_lacks_something_is_misuse(tmp_path: Path, command: list[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--metadata-dir", str(tmp_path), *command])
    assert caught.value.code == 2


def test_the_module_runs_as_a_command(tmp_path: Path):
    repository = HttpRepository()
    repository.add_target("targets", "file", b"content")
    repository.publish("targets")
    (tmp_path / "root.json").write_bytes(repository.files["metadata/1.root.json"])
    with serving(repository) as url:
        command = [sys.executable, "-m", "edge_producer.tuf_client", "--metadata-dir", str(tmp_path / "m")]
        where = ["--metadata-url", f"{url}/metadata"]
        assert subprocess.run([*command, "init", str(tmp_path / "root.json")], check=False).returncode == 0
        target = [
            "--target-name",
            "file",
            "--target-base-url",
            f"{url}/targets",
            "--target-dir",
            str(tmp_path / "t"),
        ]
        assert subprocess.run([*command, *where, *target, "download"], check=False).returncode == 0
        (tmp_path / "m" / "root_history" / "initial_root").unlink()
        assert subprocess.run([*command, *where, "refresh"], check=False, capture_output=True).returncode == 1
    assert (tmp_path / "t" / "file").read_bytes() == b"content"
