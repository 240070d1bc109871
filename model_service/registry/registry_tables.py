"""Tables of the registry. Times are UTC seconds since 1970 (float); JSON columns hold documents.

The column ``grp`` holds a group, since GROUP is a word of SQL; ``public_name`` maps it to ``group``.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()


def public_name(column: str) -> str:
    """Name of a column in what people and devices get to read: ``grp`` is their ``group``."""
    return "group" if column == "grp" else column


devices = Table(
    "devices",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("profile", String, nullable=False),
    Column("site", String, nullable=False),
    Column("grp", String, nullable=False, index=True),
    Column("hardware", String, nullable=False),
    Column("key_id", String, nullable=False),
    Column("public_key", Text, nullable=False),  # seals telemetry
    Column("gateway", String),
    Column("active", Boolean, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    comment="Newest record of each device; the lake's table has the history.",
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("token_hash", String, primary_key=True),  # SHA-256 of the token, hex
    Column("device_id", String, nullable=False),  # the token is bound to this serial
    Column("profile", String, nullable=False),
    Column("site", String, nullable=False),
    Column("grp", String, nullable=False),
    Column("hardware", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float),
    Column("gateway", String),  # that is to send for the device
)

certificate_requests = Table(
    "certificate_requests",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),  # enroll, renew
    Column("subject", String, nullable=False),
    Column("role", String, nullable=False),
    Column("csr_pem", LargeBinary, nullable=False),
    Column("device", JSON),  # columns of ``devices`` to write when it is issued
    Column("state", String, nullable=False, index=True),  # waiting, issued, refused
    Column("certificate_pem", LargeBinary),
    Column("reason", String),
    Column("created_at", Float, nullable=False),
    comment="From the public process to the issuer, which holds the CA key.",
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String, primary_key=True),  # hex
    Column("subject", String, nullable=False, index=True),
    Column("role", String, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("not_after", Float, nullable=False),
    Column("revoked_at", Float),
)

reports = Table(
    "reports",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("device_id", String, nullable=False, index=True),
    Column("report_no", Integer, nullable=False),
    Column("nonce", String, nullable=False),
    Column("received_at", Float, nullable=False, index=True),
    Column("rollout_id", String, nullable=False, index=True),
    Column("state", String, nullable=False),
    Column("result", String, nullable=False),
    Column("channel_seq", Integer, nullable=False),
    Column("attempted", String, nullable=False),  # version or ""
    Column("attack", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),  # edgeloop.v1.ReportRequest
    UniqueConstraint("device_id", "report_no"),
    comment="Every report as it came, once per (device, report_no).",
)

device_status = Table(
    "device_status",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("last_seen", Float, nullable=False),
    Column("report_id", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("result", String, nullable=False),
    Column("channel_seq", Integer, nullable=False),
    Column("rollout_id", String, nullable=False),
    Column("installed", JSON, nullable=False),  # {family: {"version": …, "sha256": …}}
    Column("attack", String, nullable=False),  # newest attack reported, "" if none ever
    comment="What the newest report of each device says.",
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", String, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("profile", String, nullable=False),
    # requested, examining, waiting, collecting, building, trained, declined, dismissed, failed,
    # cancelled
    Column("state", String, nullable=False, index=True),
    Column("reason", String, nullable=False),  # drift, schedule, age, labels, person
    Column("kind", String, nullable=False),  # anomaly, classifier, "" = what data allow
    Column("verdicts", JSON, nullable=False),  # drift event_ids
    Column("cause", JSON),  # kind and evidence
    Column("onset", Float),
    Column("cut", Integer),
    Column("pin", String),
    Column("seed", Integer, nullable=False),
    Column("version", String),  # candidate that came of it
    Column("detail", Text, nullable=False),
    Column("requested_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

candidates = Table(
    "candidates",
    metadata,
    Column("version", String, primary_key=True),
    Column("family", String, nullable=False, index=True),
    Column("major", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("champion", String, nullable=False),
    Column("sha256", String, nullable=False),  # of the artifact
    Column("length", Integer, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("state", String, nullable=False, index=True),  # trained, gating, refused, signed, published
    Column("detail", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

gate_verdicts = Table(
    "gate_verdicts",
    metadata,
    Column("version", String, primary_key=True),
    Column("gate", String, primary_key=True),
    Column("passed", Boolean, nullable=False),
    Column("value", Float),
    Column("bound", Float),
    Column("low", Float),  # 95 % interval of the value, where it has one
    Column("high", Float),
    Column("detail", JSON, nullable=False),
    Column("evaluated_at", Float, nullable=False),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("rollout_id", String, primary_key=True),
    Column("grp", String, nullable=False, index=True),
    Column("family", String, nullable=False),
    Column("version", String, nullable=False),
    # draft, running, paused, completed, completed_partial, superseded, aborting, rolled_back,
    # rolled_back_partial
    Column("state", String, nullable=False, index=True),
    Column("phase", Integer, nullable=False),  # 0 = canary
    Column("security", Boolean, nullable=False),
    Column("record", JSON, nullable=False),  # the state machine's own, see rollout/rollout_record.py
    Column("created_by", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

rollout_events = Table(
    "rollout_events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String, nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("actor", String, nullable=False),
    Column("step", String, nullable=False),
    Column("detail", JSON, nullable=False),
)

release_outcomes = Table(
    "release_outcomes",
    metadata,
    Column("rollout_id", String, primary_key=True),
    Column("revision", Integer, nullable=False),  # number of the measurement, from 0
    Column("outcome", JSON, nullable=False),  # loop times and gain, see rollout/release_outcomes.py
    Column("measured_at", Float, nullable=False),
    Column("next_at", Float, index=True),  # when it is measured again; null: never
    comment="What each rollout of a model brought, as measured last.",
)

channel_requests = Table(
    "channel_requests",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("rollout_id", String, nullable=False),
    Column("grp", String, nullable=False),
    Column("ring", String, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("document", JSON, nullable=False),  # schemas.channel_documents.ChannelDocument
    Column("evidence", JSON, nullable=False),  # what the engine bases it on; the guard checks it anew
    # proposed, countersigned, refused, published, withdrawn
    Column("state", String, nullable=False, index=True),
    Column("detail", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    comment="From the engine to the guard evaluator and back: channels-broad needs both keys.",
)

commands = Table(
    "commands",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False, index=True),  # start_rollout, control_rollout
    Column("body", JSON, nullable=False),
    Column("actor", String, nullable=False),
    Column("state", String, nullable=False, index=True),  # waiting, done, refused
    Column("outcome", JSON),
    Column("created_at", Float, nullable=False),
    comment="From the public process to the engine: what an operator asked for.",
)

outbox = Table(
    "outbox",
    metadata,
    Column("event_id", String, primary_key=True),
    Column("event_time", Float, nullable=False),
    Column("subject", String, nullable=False),
    Column("step", String, nullable=False),
    Column("detail", JSON, nullable=False),  # text to text
    Column("shipped_at", Float, index=True),
    comment="Lifecycle events on their way to lifecycle.v1 and the lake.",
)

trainer_marks = Table(
    "trainer_marks",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", JSON, nullable=False),
    comment="What the trainer has seen: verdicts, label counts, times of runs.",
)

excerpt_permits = Table(
    "excerpt_permits",
    metadata,
    Column("permit_id", String, primary_key=True),
    Column("device_id", String, nullable=False, index=True),
    Column("approver", String, nullable=False),
    Column("serial", String, nullable=False),  # of the approver's certificate, hex
    Column("permit", JSON, nullable=False),  # as it was signed, for people
    Column("signed", LargeBinary, nullable=False),  # schemas.excerpt_permit.SignedPermit, for the device
    Column("state", String, nullable=False, index=True),  # schemas.excerpt_words.PermitState
    Column("refusal", String, nullable=False),
    Column("detail", Text, nullable=False),
    Column("reason", Text, nullable=False),  # why it was asked for, in the approver's words
    Column("samples", Integer, nullable=False),  # instants that the device sealed
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    comment="Permits for excerpts, and what became of each.",
)

device_consents = Table(
    "device_consents",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("given", Boolean, nullable=False),
    Column("changes", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
    comment="Consent as each device last said; only the device itself can change it.",
)

announced_changes = Table(
    "announced_changes",
    metadata,
    Column("change_id", String, primary_key=True),  # 12 hex digits
    Column("profile", String, nullable=False, index=True),
    Column("document", LargeBinary, nullable=False),  # training.signed_announcement.ChangeDocument
    Column("signature", LargeBinary, nullable=False),
    Column("certificate", LargeBinary, nullable=False),  # of the person who signed, PEM
    Column("announced_by", String, nullable=False),
    Column("announced_at", Float, nullable=False),
    Column("withdrawn_at", Float),
    comment="Changes that people announced before they came; trainer and gate check the signature.",
)
