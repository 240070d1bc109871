"""What a device is told beside its model service: where the broker is for it, and its profile."""

from __future__ import annotations

import json

from feature_store.lake_registry import ProfileRegistry
from infra.process.ports import LOOPBACK
from infra.settings import StackSettings
from infra.stack.device_access import kept_address
from infra.stack.kept_port import kept_port
from infra.stack.stack_file import is_held, read_stack
from model_service import DeviceNeeds
from schemas.errors import NoSuchProfileError
from schemas.profile import Profile
from schemas.profile_file import find_profile


def device_needs(settings: StackSettings, profile: Profile | None) -> DeviceNeeds:
    """Broker, namespace and profile as the stack of this folder has them."""
    stack = read_stack(settings.state_dir) if is_held(settings.state_dir) else None
    body = None if profile is None else json.loads(profile.model_dump_json())
    if stack is not None:
        at = stack.devices
        broker, namespace = stack.bootstrap_servers or "", stack.namespace
    else:
        at = kept_address(settings.state_dir) if settings.listen else None
        port, _ = kept_port(settings.state_dir)
        broker = settings.broker or (f"{LOOPBACK}:{port}" if port else "")
        namespace = settings.namespace
    if at is not None:
        return DeviceNeeds(at.broker, True, namespace, body)
    return DeviceNeeds(broker, False, namespace, body)


def named_profile(name_or_path: str, registry: ProfileRegistry) -> Profile:
    """The newest version of a profile that the lake knows by name, a shipped one, or the one in a file.

    Raises:
        ProfileError: There is none; the message lists the known names.
    """
    known = registry.profiles()
    if name_or_path in known:
        return known[name_or_path]
    try:
        return find_profile(name_or_path)
    except NoSuchProfileError as exc:
        others = f"; the lake knows {', '.join(sorted(known))}" if known else ""
        raise NoSuchProfileError(f"{exc}{others}") from exc
