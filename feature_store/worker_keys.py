"""Keys under which the cloud's own processes sign what they derive, and who of them may sign what.

``_workers/<key id>.json`` in the lake's folder registers a public key and its role; whoever may write there
may write rows, too. ``_workers/keys/<role>-<user id>.pem`` is the private key, mode 0600: the processes of a
role that one user runs share it, for they share the lake. Each makes what is missing when it starts.

A key is revoked by removing its registration, and replaced by removing its private key as well.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.durable import DISK
from schemas.envelope import MessageSigner, MessageVerifier
from schemas.errors import OperatorError, SignatureError

log = logging.getLogger(__name__)

FOLDER = "_workers"
_TICK_NS = 2 * 10**9
SigningRole = Literal["worker", "engine"]


class RegisteredKey(BaseModel):
    """Content of a registration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    role: SigningRole
    public_key: str


class WorkerKeys:
    """The keys of one lake. Used from one thread.

    Args:
        lake_root: The lake's folder.
    """

    def __init__(self, lake_root: Path) -> None:
        self._folder = lake_root / FOLDER
        self._changed: int | None = None
        self._settled = False
        self._known: dict[SigningRole, dict[str, MessageVerifier]] = {}

    def signer(self, role: SigningRole) -> MessageSigner:
        """The key of this user's processes of that role; made and registered where it is absent.

        A damaged one is put aside, and a new one made: what the old one signed still counts.

        Raises:
            OperatorError: The private key cannot be read or written.
        """
        path = self._folder / "keys" / f"{role}-{os.geteuid()}.pem"
        try:
            signer = _load_or_make(path)
        except OSError as exc:
            raise OperatorError(f"cannot use the signing key {path}: {exc.strerror or exc}") from exc
        registration = RegisteredKey(role=role, public_key=signer.public_pem().decode())
        registered = self._folder / f"{signer.key_id}.json"
        if DISK.read(registered) != (content := registration.model_dump_json().encode()):
            DISK.write(registered, content)
        return signer

    def verifiers(self, role: SigningRole) -> Mapping[str, MessageVerifier]:
        """Registered keys of a role, by id; read again when a registration came or went."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed != self._changed or not self._settled:
            # Two changes within one tick of the disk's clock leave one time: a young one is not trusted.
            self._settled = time.time_ns() - changed > _TICK_NS
            self._known, self._changed = self._read(), changed
        return self._known.get(role, {})

    def _read(self) -> dict[SigningRole, dict[str, MessageVerifier]]:
        found: dict[SigningRole, dict[str, MessageVerifier]] = {}
        for path in sorted(self._folder.glob("[0-9a-f]*.json")):
            try:
                key = RegisteredKey.model_validate_json(path.read_bytes())
                verifier = MessageVerifier(key.public_key.encode())
            except FileNotFoundError:  # removed meanwhile
                continue
            except (OSError, ValueError, ValidationError, SignatureError) as exc:
                log.warning("%s registers no key: %s; the next start of its process mends it", path, exc)
                continue
            if verifier.key_id != path.stem:
                log.warning("%s registers another key: its own is refused until its process starts", path)
                continue
            found.setdefault(key.role, {})[verifier.key_id] = verifier
        return found


def _load_or_make(path: Path) -> MessageSigner:
    DISK.make_folder(path.parent, private=True)
    while True:
        if not path.exists():
            # Of two processes that start at once, one makes it.
            DISK.put_if_absent(path, MessageSigner.generate().private_pem(), private=True)
        try:
            return MessageSigner.from_pem(path.read_bytes())
        except SignatureError as exc:
            aside = path.with_suffix(".damaged")
            log.warning("the signing key %s is damaged (%s): put aside, a new one is made", path, exc)
            DISK.rename(path, aside)
