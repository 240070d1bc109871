"""`edgeloop profile diff|history`: versions of profiles, what differs, and who must sign it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.profile_command import family, profile_named

if TYPE_CHECKING:
    from pathlib import Path

    from feature_store.version_store import VersionStore
    from schemas.profile import Profile
    from schemas.profile_changes import ProfileChange, ProfileVerdict
    from schemas.version_names import VersionName


def register(app: typer.Typer) -> None:
    """Add the commands to the family `profile`."""
    for command in (diff, history):
        family(app).command()(command)


def diff(
    ctx: typer.Context,
    profile: Annotated[str, typer.Argument(help="A file, a profile's name, or NAME@NUMBER.")],
    other: Annotated[
        str, typer.Argument(help="The same.", show_default="the newest version of the same name")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show what a profile changes against another: each value, of which kind, and who must sign it."""
    from feature_store.version_store import VersionStore
    from infra.cli.profile_push_command import scored_in_force
    from schemas import profile_changes

    lake_root = session(ctx).settings().lake_root
    after = profile_named(lake_root, profile)
    before = profile_named(lake_root, other) if other else _before(lake_root, after)
    changes = profile_changes.diff(before, after)
    scored = scored_in_force(ctx, after) if any(c.kind == "range" for c in changes) else None
    verdict = profile_changes.judge(before, after, VersionStore(lake_root).bounds()[0], scored)
    if as_json:
        show_json(
            {
                "changes": [
                    {"path": c.path, "before": c.before, "after": c.after, "kind": c.kind} for c in changes
                ],
                "compatible": verdict.compatible,
                "authority": verdict.authority,
                "reasons": list(verdict.reasons),
            }
        )
    else:
        _show_diff(changes, verdict)


def history(ctx: typer.Context, name: str, as_json: AsJson = False) -> None:
    """List the versions of a profile: number, digest, groups, who signed it, and what it changed."""
    from feature_store.version_store import VersionStore
    from schemas.errors import NoSuchProfileError

    store = VersionStore(session(ctx).settings().lake_root)
    found = [_described(store, version) for version in store.history(name)]
    if not found:
        raise NoSuchProfileError(f"no version of {name[:80]!r} was ever pushed to this lake")
    if as_json:
        show_json(found)
        return
    columns = ["version", "digest", "issued", "signed by", "for groups", "in channels of", "changes…"]
    rows = [
        [
            f["version"],
            f["digest"],
            f["issued"],
            ", ".join(f["signed_by"]),
            ", ".join(f["groups"]),
            ", ".join(f["channels"]),
            f["problem"] or ", ".join(f["changes"]),
        ]
        for f in found
    ]
    show_table("", columns, rows)


def _before(lake_root: Path, after: Profile) -> Profile:
    """What a profile would follow: the newest version of its name, else the registered or shipped one."""
    from feature_store.version_store import VersionStore

    newest = VersionStore(lake_root).newest(after.name)
    return profile_named(lake_root, after.name if newest is None else str(newest))


def _described(store: VersionStore, name: VersionName) -> dict[str, Any]:
    from schemas.errors import PipelineError
    from schemas.profile_changes import diff as differences
    from schemas.version_names import VersionName

    found: dict[str, Any] = {
        "version": str(name), "digest": None, "issued": None, "signed_by": [], "groups": [],
        "channels": store.groups_of(name), "follows": None, "changes": [], "problem": "",
    }  # fmt: skip
    try:
        signed, version = store.signed(name), store.version(name)
        if signed is None or version is None:
            return found
        statement = signed.statement
        found["signed_by"] = sorted(signed.signed_by(store.keys()))
        found |= {"digest": version.header.digest, "issued": statement.issued, "follows": statement.follows}
        found["groups"] = list(statement.groups)
        followed = store.version(VersionName(name.name, statement.follows)) if statement.follows else None
        if followed is not None:
            found["changes"] = [c.path for c in differences(followed.profile, version.profile)]
    except PipelineError as exc:
        found["problem"] = str(exc)
    return found


def _show_diff(changes: list[ProfileChange], verdict: ProfileVerdict) -> None:
    if not changes:
        show_text("the same: every value is equal")
        return
    rows = [[c.path, _text(c.before), _text(c.after), c.kind] for c in changes]
    show_table("", ["value", "before…", "after…", "kind"], rows)
    if verdict.compatible:
        show_text(f"\ncompatible; to be signed by: {verdict.authority}")
    else:
        show_text("\nnot compatible")
    for reason in verdict.reasons:
        show_text(f"  {reason}")


def _text(value: object) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
