"""`edgeloop backup` and `edgeloop restore`: the whole state at one moment, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import AsJson, show_json, show_progress, show_text
from infra.cli.table_view import moment
from infra.printing import count, size

if TYPE_CHECKING:
    from infra.backup.restore import Restored


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(backup)
    app.command()(restore)


def backup(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="New folder for the backup.")],
    as_json: AsJson = False,
) -> None:
    """Copy the whole state to a new folder, as of one moment; a stack that is up stands still meanwhile.

    The copy holds private keys: keep it as safe as those.
    """
    from infra.backup.take import take_backup

    taken = take_backup(session(ctx).settings().state_dir, folder, show_progress)
    made = taken.manifest
    if as_json:
        show_json(
            {
                "folder": taken.folder,
                "taken_at": made.taken_at.isoformat(),
                "files": len(made.files),
                "bytes": made.size,
                "cut": made.cut,
                "rows": made.rows,
                "frozen_s": round(taken.frozen_s, 3),
            }
        )
        return
    when = moment(made.taken_at.isoformat())
    show_text(
        f"{folder}: {count(len(made.files))} files, {size(made.size)}, as of {when} (cut {made.cut}); "
        f"the stack stood still for {taken.frozen_s:.1f} s"
    )
    show_text("It holds private keys: keep it as safe as those.")


def restore(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of the backup.")],
    revoked: Annotated[
        list[str] | None,
        typer.Option(help="Device revoked since the backup; repeatable.", show_default=False),
    ] = None,
    none_revoked: Annotated[
        bool, typer.Option("--none-revoked", help="No device was revoked since the backup.")
    ] = False,
    keep_log: Annotated[
        bool,
        typer.Option("--keep-log", help="Keep the broker's data, and read again from it what is missing."),
    ] = False,
    other_pipeline: Annotated[
        bool,
        typer.Option("--other-pipeline", help="Replace the folder's pipeline by another one's backup."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a backup in the place of the present state, which moves aside; show what that loses.

    It ends with the trust step: metadata and channel documents are signed anew above what any device has
    seen, unused join tokens are void, and devices that were revoked since are revoked again.
    """
    from infra.backup.restore import RestoreRequest
    from infra.backup.restore import restore as bring_back

    if not revoked and not none_revoked:
        raise typer.BadParameter(
            "a backup forgets revocations: name each device that was revoked since it was taken"
            " (--revoked ID), or say --none-revoked"
        )
    request = RestoreRequest(folder, tuple(revoked or ()), keep_log, other_pipeline)
    done = bring_back(session(ctx).settings(), request, show_progress)
    if as_json:
        show_json(_described(done))
    else:
        for line in _lines(done):
            show_text(line)


def _described(done: Restored) -> dict[str, Any]:
    return {
        "taken_at": done.manifest.taken_at.isoformat(),
        "files": len(done.manifest.files),
        "replaced": done.replaced,
        "lost_rows": done.lost,
        "voided_tokens": done.voided_tokens,
        "revoked": done.revoked,
        "invite_again": done.uninvited,
        "versions": done.raised,
        "seqs": done.seqs,
        "waiting": done.waiting,
    }


def _lines(done: Restored) -> list[str]:
    lines = [f"restored: the state of {moment(done.manifest.taken_at.isoformat())}"]
    if done.replaced is not None:
        lines.append(f"replaced: the earlier state is in {done.replaced}; remove it when you need it no more")
    lines.append(f"lost: {_lost(done.lost)}")
    lines.append(f"tokens: {done.voided_tokens} unused join tokens are void")
    lines.append(f"revoked again: {', '.join(done.revoked) or 'nothing'}")
    if done.uninvited:
        lines.append(f"invite again (they joined after the backup): {', '.join(done.uninvited)}")
    if done.raised:
        lines.append(f"signed anew above what devices have seen: {', '.join(sorted(done.raised))}")
    for role, why in sorted(done.waiting.items()):
        lines.append(f"waiting: {role}: {why}; bring them to `edgeloop trust catch-up`")
    lines.append("next: `edgeloop up`; once devices have reported, `edgeloop trust catch-up` checks again")
    return lines


def _lost(lost: dict[str, int] | None) -> str:
    if lost is None:
        return (
            "unknown, as there is no earlier state to compare with; once devices have reported, the column "
            "`missing` of the view data_quality counts the messages that are gone"
        )
    if not lost:
        return "nothing that queries showed before"
    return ", ".join(f"{count(n)} rows of {table}" for table, n in sorted(lost.items()))
