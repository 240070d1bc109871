"""`edgeloop profile push|bounds`: signs a version of a profile, within what the offline policy allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.console import AsJson, show_json, show_table, show_text
from infra.cli.model_session import service_settings
from infra.cli.profile_command import family, profile_named
from infra.cli.trust_command import OfflineKeys, PassphraseFile, keyring_of
from infra.printing import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from model_service import BundleFiles, ProfilePush
    from schemas.profile import Profile
    from schemas.profile_bounds import ValueLimits
    from schemas.profile_changes import Authority, Scored


def register(app: typer.Typer) -> None:
    """Add the commands to the family `profile`."""
    for command in (push, bounds):
        family(app).command()(command)


def push(
    ctx: typer.Context,
    profile: Annotated[str, typer.Argument(help="A file, a profile's name, or NAME@NUMBER to go back to.")],
    group: Annotated[
        list[str] | None,
        typer.Option(help="Group that it is for; repeatable.", show_default="every group of the policy"),
    ] = None,
    policy: Annotated[
        bool, typer.Option("--policy", help="Sign with the policy role as well: privacy and safety.")
    ] = False,
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a profile the next version of its name: signed, known to the workers, and brought to devices.

    The devices of each group get it by a short rollout: canaries first, then all. While a rollout of a model
    runs in a group, it is queued, and starts by itself when that has ended.
    """
    from model_service import ceremony, profile_push

    settings = service_settings(ctx)
    found = profile_named(settings.lake_root, profile)
    groups = group or sorted(ceremony.open_repository(settings).policy().canary)
    keyring = keyring_of(settings, offline_keys, passphrase_file)
    authority: Authority = "policy" if policy else "operator"
    done = profile_push.push_profile(settings, found, groups, authority, keyring, _golden, "operator")
    pushed = done.signed
    if as_json:
        show_json(
            {
                "version": str(pushed.version),
                "digest": found.digest(),
                "new": pushed.is_new,
                "groups": groups,
                "signed_by": authority,
                "rollouts": [
                    {"rollout_id": r.rollout_id, "group": r.group, "behind": r.behind} for r in done.rollouts
                ],
            }
        )
        return
    if pushed.is_new:
        show_text(f"{pushed.version} is signed for {count(len(groups), 'group')}: {', '.join(groups)}")
    else:
        show_text(f"{pushed.version} has this content already")
    for line in _rollout_lines(done):
        show_text(line)


def bounds(
    ctx: typer.Context,
    limit: Annotated[
        list[str] | None, typer.Option(help="VALUE=LEAST..MOST, such as filter.p=0.01..0.2; repeatable.")
    ] = None,
    offline_keys: OfflineKeys = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Show how far an operator may change a profile by himself, or have the policy role sign other bounds."""
    from model_service import ceremony, profile_signing

    settings = service_settings(ctx)
    if limit:
        keyring = keyring_of(settings, offline_keys, passphrase_file)
        found = profile_signing.set_bounds(settings, dict(map(_limit, limit)), keyring)
    else:
        found = profile_signing.published_bounds(ceremony.open_repository(settings))
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    rows = [[pattern, limits.least, limits.most] for pattern, limits in found.limits.items()]
    show_table(f"bounds {found.seq}: everyday values", ["value", "least>", "most>"], rows)


def _rollout_lines(done: ProfilePush) -> Iterator[str]:
    if not done.drafted:
        yield "no model service ever ran here: `edgeloop up`, then push it again to bring it to devices"
    elif not done.rollouts:
        yield "each group runs it, or has its rollout: `edgeloop rollout status`"
    for rollout in done.rollouts:
        if rollout.behind:
            yield f"{rollout.rollout_id}: queued in {rollout.group}, starts once {rollout.behind} has ended"
        else:
            yield f"{rollout.rollout_id}: rolls out in {rollout.group}; `edgeloop rollout status`"


def scored_in_force(ctx: typer.Context, profile: Profile) -> Scored | None:
    """What scores the golden windows of the models in force; None: none are at hand."""
    from infra.cli.model_session import look_up
    from model_service import ceremony, profile_push

    settings = service_settings(ctx)
    if not settings.has_registry:
        return None
    groups, family = sorted(ceremony.open_repository(settings).policy().canary), profile.model.family
    found: Scored | None = look_up(
        ctx, lambda connection: profile_push.scored_in_force(connection, settings, family, groups, _golden)
    )
    return found


def _golden(bundle: BundleFiles) -> Scored | None:
    """Scores a model's golden windows as a device does."""
    from edge_producer.bundle import Bundle
    from edge_producer.golden_scores import golden_scores

    return golden_scores(Bundle(bundle.manifest, bundle.model, bundle.golden))


def _limit(text: str) -> tuple[str, ValueLimits]:
    from pydantic import ValidationError

    from schemas.profile_bounds import ValueLimits

    pattern, _, span = text.partition("=")
    least, dots, most = span.partition("..")
    try:
        ends = [float(end) if end else None for end in (least, most)]
        if pattern and dots:
            return pattern, ValueLimits(least=ends[0], most=ends[1])
    except (ValueError, ValidationError) as exc:
        raise typer.BadParameter(f"{text}: VALUE=LEAST..MOST, in numbers") from exc
    raise typer.BadParameter(f"{text}: VALUE=LEAST..MOST")
