"""`edgeloop profile …`: the profiles that this pipeline can run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.printing import count

if TYPE_CHECKING:
    from schemas.profile import Profile


def register(app: typer.Typer) -> None:
    """Add the commands; `profile init` is added to this family by its own module."""
    for command, name in ((list_, "list"), (show, "show"), (check, "check")):
        family(app).command(name)(command)


def family(app: typer.Typer) -> typer.Typer:
    """The family's application, made at the first call."""
    for group in app.registered_groups:
        if group.name == "profile" and group.typer_instance is not None:
            return group.typer_instance
    made = typer.Typer(help="The profiles that this pipeline can run.", no_args_is_help=True)
    app.add_typer(made, name="profile")
    return made


def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the shipped profiles, and those registered with the lake."""
    from schemas.profile_file import builtin_profiles, load_profile

    shipped = [_described(load_profile(path), "shipped") for path in builtin_profiles().values()]
    registered = [_described(p, "lake") for p in _registered(session(ctx).settings().lake_root).values()]
    if as_json:
        show_json([*shipped, *registered])
    else:
        columns = ["name", "where", "channels>", "features>", "rate_hz>", "model"]
        show_table("", columns, [[p[c.rstrip(">")] for c in columns] for p in [*shipped, *registered]])


def show(ctx: typer.Context, profile: str, as_json: AsJson = False) -> None:
    """Show a shipped or registered profile, a file, or a version that was pushed: NAME@NUMBER."""
    from schemas.profile_file import builtin_profiles

    shipped = builtin_profiles()
    if not as_json and profile in shipped:
        show_text(shipped[profile].read_text(encoding="utf-8"))
        return
    show_json(profile_named(session(ctx).settings().lake_root, profile).model_dump(mode="json"))


def check(profile: str, as_json: AsJson = False) -> None:
    """Check a profile; if it is invalid, exit code 1 and every field in question."""
    from schemas.profile_file import find_profile

    stated = find_profile(profile)
    found, lacks = _described(stated, profile), packages_lacking(stated)
    if as_json:
        show_json({"ok": True, **found, "lacks": lacks})
    else:
        channels, features = count(found["channels"], "channel"), count(found["features"], "feature")
        show_text(f"{found['name']} is valid: {channels}, {features}")
        for text in lacks:
            show_text(f"lacks here: {text}")


def packages_lacking(profile: Profile) -> list[str]:
    """What a profile names of packages and this machine lacks, each with what to install."""
    if not (profile.features.also or profile.gates.also):
        return []
    from model_service import feature_kind, user_gates  # heavy

    return [*feature_kind.lacking(profile.feature_specs()), *user_gates.lacking(profile.gates.also)]


def profile_named(lake_root: Path, text: str) -> Profile:
    """A version, a shipped profile, a file, or a registered profile, as a person names it.

    Raises:
        ProfileError: There is no such one.
    """
    from feature_store.version_store import VersionStore
    from schemas.errors import NoSuchProfileError, ProfileError
    from schemas.profile_file import find_profile
    from schemas.version_names import VersionName

    if "@" in text and not Path(text).exists():
        name = VersionName.parse(text)
        found = VersionStore(lake_root).version(name)
        if found is None:
            raise NoSuchProfileError(f"no version {name}: `edgeloop profile history {name.name}` lists them")
        return found.profile
    try:
        return find_profile(text)
    except ProfileError:
        registered = _registered(lake_root)
        if text not in registered:
            raise
        return registered[text]


def _registered(lake_root: Path) -> dict[str, Profile]:
    from feature_store.lake import Lake
    from feature_store.lake_registry import ProfileRegistry

    return ProfileRegistry(Lake.open(lake_root)).profiles() if lake_root.is_dir() else {}


def _described(profile: Profile, where: str) -> dict[str, Any]:
    return {
        "name": profile.name,
        "where": where,
        "channels": len(profile.channels),
        "features": len(profile.feature_names),
        "rate_hz": profile.sampling.rate_hz,
        "model": profile.model.name,
        "digest": profile.digest(),
    }
