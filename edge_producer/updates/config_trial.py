"""The trial of one configuration on a device: its content, its bounds, and a dry call of what will use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_producer.config_switch import ConfigSwitch
from edge_producer.trust.config_instruction import ConfigInstruction
from schemas.config_manifest import MAX_CONFIG_BYTES, ConfigBundle
from schemas.config_spec import ConfigSpec, parameters_of
from schemas.errors import BundleError, TrustError
from schemas.profile import Profile
from schemas.updates import Attack

DRY_CALL_S = 5.0
"""Longest time of the dry call of a decision function."""
DryCall = Callable[[str, Mapping[str, Any]], None]
"""Calls the device's decision function once with these parameters, and does nothing with what it answers.

From a device id and its parameters; whatever it raises refuses the configuration."""
Fetch = Callable[[str, int], bytes]
"""From an artifact's signed digest and length to its bytes, verified."""


@dataclass(frozen=True)
class ConfigTerms:
    """What a device tries a configuration by.

    Attributes:
        profile: Returns the profile that it runs now.
        switch: What the sensing loop reads.
        dry_call: None: the profile has no decision function.
    """

    profile: Callable[[], Profile]
    switch: ConfigSwitch
    dry_call: DryCall | None = None


def fetched(found: ConfigInstruction, fetch: Fetch) -> tuple[ConfigBundle, bytes]:
    """The configuration that an instruction names, opened, and its artifact.

    Raises:
        TrustError: It is too large, altered, or not what the instruction names.
        RetryableError: It cannot be fetched now.
    """
    if found.length > MAX_CONFIG_BYTES:
        raise TrustError(f"a configuration of {found.length} bytes", Attack.ENDLESS_DATA)
    data = fetch(found.release.sha256 or "", found.length)
    return ConfigBundle.unpacked(data, found.release.version), data


def check_config(
    device_id: str, bundle: ConfigBundle, spec: ConfigSpec, group: str, terms: ConfigTerms
) -> None:
    """Return if a device can take an opened configuration.

    Raises:
        TrustError: It is for others, has other bounds than the profile, or its user does not take it.
        BundleError: It holds no table for this device.
    """
    manifest, profile = bundle.manifest, terms.profile()
    if (manifest.group, manifest.profile) != (group, profile.name):
        raise TrustError(
            f"{manifest.version} is for group {manifest.group} and profile {manifest.profile}",
            Attack.MIX_AND_MATCH,
        )
    if other := manifest.differs_from(spec):
        raise TrustError(
            f"{manifest.version} has other {other} than the profile, whose bounds count",
            Attack.UNSAFE_CONTENT,
        )
    try:
        given = parameters_of(manifest.parameters, bundle.values, device_id)
    except KeyError as exc:
        raise BundleError(f"{manifest.version} has no table for {device_id} yet") from exc
    if terms.dry_call is not None and (why := _called(terms.dry_call, device_id, given)):
        raise TrustError(
            f"the decision function does not take {manifest.version}: {why}", Attack.UNSAFE_CONTENT
        )


def _called(dry_call: DryCall, device_id: str, given: Mapping[str, Any]) -> str:
    """Why the decision function does not take the parameters; empty: it does."""
    outcome: list[str] = []

    def call() -> None:
        try:
            dry_call(device_id, given)
        except Exception as exc:  # noqa: BLE001  (a user's code: whatever it raises refuses the parameters)
            outcome.append(f"{type(exc).__name__}: {exc}")
        else:
            outcome.append("")

    # In a thread that nobody waits for longer: a call that hangs must not hold up the updater.
    thread = threading.Thread(target=call, name="dry-call", daemon=True)
    thread.start()
    thread.join(DRY_CALL_S)
    return outcome[0] if outcome else f"no answer within {DRY_CALL_S:g} s"
