"""`edgeloop dlq …`: messages that were refused, with their bytes or the place where these are."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.app import session
from infra.cli.console import NO_BROKER, AsJson, show_json, show_progress, show_table, show_text
from infra.cli.table_view import moment
from infra.printing import count, size

if TYPE_CHECKING:
    from infra.kafka.kafka_admin import KafkaAdmin
    from infra.kafka.log_view import DeadLetter
    from infra.stack.running import RunningStack

SENT_AT_ONCE = 5_000
_FULL = ("offsets", "headers", "value")
"""What only `dlq show` prints."""
Error = Annotated[str | None, typer.Option(help="Only this class of error.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    family = typer.Typer(help="Messages that were refused, with bytes or place.", no_args_is_help=True)
    for command, name in ((list_, "list"), (show, "show"), (replay, "replay")):
        family.command(name)(command)
    app.add_typer(family, name="dlq")


def list_(
    ctx: typer.Context,
    error: Error = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, help="How many of the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest refused messages: where each came from and why it was refused.

    Without a broker they are read from the lake, and an id is the place that the message came from.
    """
    found = _looked_up(ctx, error)[-last:]
    if as_json:
        show_json([{k: v for k, v in letter.items() if k not in _FULL} for letter in found])
        return
    rows = [
        [
            x["id"], moment(x["refused"]), x["source"], x["error"], x["reason"], count(x["messages"]),
            x["kept"], size(x["message_bytes"]), "" if x["verified"] else "NOT OURS",
        ]
        for x in found
    ]  # fmt: skip
    head = ["id", "refused", "source", "error", "reason…", "messages>", "kept", "size>", ""]
    show_table("", head, rows)


def show(
    ctx: typer.Context, letter_id: Annotated[str, typer.Argument(metavar="ID")], as_json: AsJson = False
) -> None:
    """Show one refused message, headers and bytes included; of one without bytes, where the original is."""
    from schemas.errors import RejectedError

    found = _looked_up(ctx)
    full = next((x for x in reversed(found) if letter_id in (x["id"], x["source"])), None)
    if full is None:
        raise RejectedError(_unknown(letter_id))
    if as_json:
        show_json(full)
        return
    for name, value in full.items():
        show_text(f"{name:<13} {value}")


def replay(
    ctx: typer.Context,
    letter_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every refused message.")] = False,
    error: Error = None,
    as_json: AsJson = False,
) -> None:
    """Send refused messages to their topics again, byte for byte, once the cause is gone.

    Letters that no worker of this lake wrote are left out: anybody may have put them there.
    """
    if bool(letter_ids) == (every or error is not None):
        raise typer.BadParameter("give ids, or --all, or --error CLASS")
    with _stack(ctx, "dlq replay") as stack:
        admin = _admin(stack)
        letters = _letters(admin, stack)
        wanted = _ours(_chosen(letters, letter_ids)) if letter_ids else _not_summed(letters, error)
        sent = [letter for letter in wanted if _send_again(letter, admin, stack.namespace)]
        left_out = sum(x.messages for x in letters if error in (None, x.error) and x.messages > 1)
    lost = len(wanted) - len(sent)
    if as_json:
        summed = {"summed": left_out} if left_out and not letter_ids else {}
        show_json({"replayed": [letter.id for letter in sent], "lost": lost, **summed})
        return
    show_text(f"{count(len(sent), 'message')} replayed, {count(lost)} without their bytes")
    if left_out and not letter_ids:
        show_text(
            f"{count(left_out, 'message')} in sums left out: give the id of a sum to replay its messages"
        )


def _not_summed(letters: list[DeadLetter], error: str | None) -> list[DeadLetter]:
    """Our letters of single messages: a sum may stand for a flood, which nobody wants again unasked."""
    return [x for x in letters if x.verified and error in (None, x.error) and x.messages == 1]


def _send_again(letter: DeadLetter, admin: KafkaAdmin, namespace: str) -> bool:
    """Send what the letter stands for; False: none of it is left."""
    from infra.kafka.letter_originals import originals
    from schemas.topics import ALL_TOPICS

    if letter.lost or letter.source_topic not in {t.base for t in ALL_TOPICS}:
        return False
    found, sent = originals(letter, admin, namespace), 0
    while some := list(islice(found, SENT_AT_ONCE)):
        admin.send_all(_named(letter.source_topic, namespace), some)
        sent += len(some)
    return sent > 0


def _looked_up(ctx: typer.Context, error: str | None = None) -> list[dict[str, Any]]:
    """Letters of the log; where no broker is up, what the lake's table ``quarantine`` knows of them."""
    from infra.stack.running import found_stack
    from infra.without_broker import refused_messages

    settings = session(ctx).settings()
    with found_stack(settings, show_progress) as stack:
        if stack is None:
            show_progress(f"{NO_BROKER}: ids of letters and bytes cannot be known, the rest is the lake's")
            return refused_messages(settings.lake_root, error)
        letters = _letters(_admin(stack), stack)
    return [_described(letter) for letter in letters if error in (None, letter.error)]


def _stack(ctx: typer.Context, owner: str) -> Any:
    from infra.stack.running import log_only, running_stack

    return running_stack(log_only(session(ctx).settings()), owner, show_progress)


def _admin(stack: RunningStack) -> KafkaAdmin:
    from infra.kafka.kafka_admin import KafkaAdmin

    return KafkaAdmin(stack.bootstrap_servers)


def _letters(admin: KafkaAdmin, stack: RunningStack) -> list[DeadLetter]:
    from feature_store.derived_trust import DerivedTrust
    from infra.kafka.log_view import dead_letters
    from schemas.topics import DEAD_LETTER

    messages = admin.read(admin.spans([DEAD_LETTER.named(stack.namespace)]))
    return dead_letters(messages, DerivedTrust.of(stack.lake_root))


def _ours(letters: list[DeadLetter]) -> list[DeadLetter]:
    from schemas.errors import RejectedError

    for letter in letters:
        if not letter.verified:
            raise RejectedError(f"no worker of this lake wrote the letter {letter.id}: it is not sent on")
    return letters


def _chosen(letters: list[DeadLetter], ids: list[str]) -> list[DeadLetter]:
    from schemas.errors import RejectedError

    by_id = {letter.id: letter for letter in letters}
    unknown = [i for i in ids if i not in by_id]
    if unknown:
        raise RejectedError(_unknown(unknown[0]))
    return [by_id[i] for i in ids]


def _unknown(letter_id: str) -> str:
    return f"no refused message {letter_id}: `edgeloop dlq list` names them"


def _kept(letter: DeadLetter) -> str:
    return "bytes" if letter.has_bytes else "lost" if letter.lost else "place"


def _named(base: str, namespace: str) -> str:
    from infra.kafka.log_view import full_topic

    return full_topic(base, namespace)


def _text(value: bytes) -> str | None:
    from infra.kafka.log_view import text

    return text(value)


def _described(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "refused": letter.at.isoformat(),
        "source": letter.source,
        "error": letter.error,
        "reason": letter.reason,
        "key": None if letter.key is None else _text(letter.key),
        "bytes": len(letter.value),
        "lost": letter.lost,
        "kept": _kept(letter),
        "messages": letter.messages,
        "message_bytes": letter.n_bytes,
        "signed": letter.signed,
        "digest": letter.digest or None,
        "verified": letter.verified,
        "offsets": [list(span) for span in letter.offsets],
        "headers": {k: _text(v) for k, v in letter.headers},
        "value": letter.value.hex(),
    }
