"""The search through delegated roles, in a small repository of any shape; and the history of roots."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)

from edge_producer.trust.metadata_store import MetadataStore
from edge_producer.trust.workflow import Limits, MissingError, Workflow, fits, fits_file
from model_service.trust.metadata import target_file
from schemas.durable import Disk

NOW = datetime(2026, 6, 1, tzinfo=UTC)
EXPIRES = NOW + timedelta(days=9)
KEY = CryptoSigner.generate_ed25519()

Delegation = tuple[str, bool]
"""A role's name, and whether it ends the search."""


def targets_of(lists: Sequence[str], delegates: Sequence[Delegation], version: int) -> bytes:
    """A role that lists paths, each with its version as content, and delegates every path to others."""
    roles = {n: DelegatedRole(n, [KEY.public_key.keyid], 1, ends, paths=["*"]) for n, ends in delegates}
    delegations = Delegations({KEY.public_key.keyid: KEY.public_key}, roles) if delegates else None
    entries = {path: target_file(path, str(version).encode()) for path in lists}
    signed = Metadata(Targets(version, expires=EXPIRES, targets=entries, delegations=delegations))
    signed.sign(KEY)
    return signed.to_bytes()


def repository(roles: Mapping[str, tuple[Sequence[str], Sequence[Delegation]]]) -> dict[str, bytes]:
    """Metadata files of roles that list paths and delegate; the number of a role is its version."""
    root = Root(expires=EXPIRES, consistent_snapshot=True)
    for name in ("root", "timestamp", "snapshot", "targets"):
        root.add_key(KEY.public_key, name)
    files = {f"{n}.{role}.json": targets_of(*has, n) for n, (role, has) in enumerate(roles.items(), 1)}
    meta = {f"{role}.json": MetaFile(n) for n, role in enumerate(roles, 1)}
    parts = {"1.root.json": root, "1.snapshot.json": Snapshot(1, expires=EXPIRES, meta=meta),
             "timestamp.json": Timestamp(1, expires=EXPIRES, snapshot_meta=MetaFile(1))}  # fmt: skip
    for name, part in parts.items():
        signed = Metadata(part)
        signed.sign(KEY)
        files[name] = signed.to_bytes()
    return files


def found(tmp_path, roles, path="wanted", limits=None) -> str:
    """The role whose entry is taken; empty: none is."""
    files = repository(roles)

    def fetch(name: str, _: int) -> bytes:
        if name not in files:
            raise MissingError(name)
        return files[name]

    subject = Workflow(MetadataStore(tmp_path), files["1.root.json"], fetch, lambda: NOW, limits=limits)
    subject.refresh()
    entry = subject.find(path)
    names = list(roles)
    matching = [n for i, n in enumerate(names, 1) if entry is not None and fits(entry, str(i).encode())]
    return "".join(matching)


HAS, NOT = ["wanted"], ["other"]


def test_the_first_role_in_order_of_trust_that_lists_a_target_has_it(tmp_path):
    both = {"targets": ([], [("a", False), ("b", False)]), "a": (HAS, []), "b": (HAS, [])}
    assert found(tmp_path, both) == "a"


def test_the_top_has_it_before_any_other(tmp_path):
    assert found(tmp_path, {"targets": (HAS, [("a", False)]), "a": (HAS, [])}) == "targets"


def test_a_role_without_delegations_ends_no_search(tmp_path):
    roles = {"targets": ([], [("a", False), ("b", False)]), "a": (NOT, []), "b": (HAS, [])}
    assert found(tmp_path, roles) == "b"


def test_what_a_role_delegates_comes_before_its_siblings(tmp_path):
    roles = {
        "targets": ([], [("a", False), ("b", False)]),
        "a": (NOT, [("c", False)]),
        "b": (HAS, []),
        "c": (HAS, []),
    }
    assert found(tmp_path, roles) == "c"


def test_a_terminating_role_ends_the_search_with_what_it_delegates(tmp_path):
    ends = {"targets": ([], [("a", True), ("b", False)]), "a": (NOT, []), "b": (HAS, [])}
    assert found(tmp_path / "1", ends) == ""
    deeper = {
        "targets": ([], [("a", True), ("b", False)]),
        "a": (NOT, [("c", False)]),
        "b": (HAS, []),
        "c": (HAS, []),
    }
    assert found(tmp_path / "2", deeper) == "c"
    inner = {
        "targets": ([], [("a", False), ("b", False)]),
        "a": (NOT, [("c", True)]),
        "b": (HAS, []),
        "c": (NOT, []),
    }
    assert found(tmp_path / "3", inner) == ""


def test_roles_that_delegate_to_each_other_are_visited_once_and_the_rest_still_is(tmp_path):
    loop = {"targets": ([], [("a", False), ("b", False)]), "a": (NOT, [("c", False)]),
            "b": (HAS, []), "c": (NOT, [("a", False)])}  # fmt: skip
    assert found(tmp_path, loop) == "b"


@pytest.mark.parametrize(("limit", "has"), [(1, ""), (2, "b"), (32, "b")])
def test_no_more_roles_are_visited_than_the_limit_says(tmp_path, limit, has):
    roles = {"targets": ([], [("a", False), ("b", False)]), "a": (NOT, []), "b": (HAS, [])}
    assert found(tmp_path, roles, limits=Limits(delegations=limit)) == has


def test_a_file_fits_only_with_its_own_bytes(tmp_path):
    entry = target_file("path", b"right")
    for data, fit in ((b"right", True), (b"wrong", False), (b"right!", False)):
        (tmp_path / "file").write_bytes(data)
        assert fits(entry, data) is fit
        assert fits_file(entry, tmp_path / "file") is fit


class CountingDisk(Disk):
    """Notes what is written."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def write(self, path, data, **given):
        self.names.append(path.name)
        super().write(path, data, **given)


def roots() -> list[bytes]:
    """Three roots, each signed by the one before."""
    made = []
    for version in (1, 2, 3):
        root = Root(version, expires=EXPIRES, consistent_snapshot=True)
        for name in ("root", "timestamp", "snapshot", "targets"):
            root.add_key(KEY.public_key, name)
        signed = Metadata(root)
        signed.sign(KEY)
        made.append(signed.to_bytes())
    return made


@pytest.mark.parametrize(("on_disk", "written"), [(0, 1), (1, 1), (2, 0)])
def test_a_root_that_a_crash_left_behind_the_history_is_put_right_once(tmp_path, on_disk, written):
    """The history is written first: ``root.json`` may be of any earlier version."""
    first, *newer = made = roots()
    store = MetadataStore(tmp_path)
    for version, data in enumerate(made, 1):
        store.put_root(version, data)
    (tmp_path / "root.json").write_bytes(made[on_disk])
    disk = CountingDisk()
    files = repository({"targets": ([], [])})

    def fetch(name: str, _: int) -> bytes:
        if name.endswith("root.json") or name not in files:
            raise MissingError(name)
        return files[name]

    subject = Workflow(MetadataStore(tmp_path, disk), first, fetch, lambda: NOW)
    subject.refresh()
    assert (subject.root.version, subject.root_bytes, store.role("root")) == (3, newer[-1], newer[-1])
    assert disk.names.count("root.json") == written
