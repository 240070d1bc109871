"""A training run: what its drift was found to be, and what its candidate is made from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self, TypedDict, Unpack

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from model_service.training.run_states import FOLLOWS, OPEN, RunState
from schemas.errors import RegistryError
from schemas.offending_keys import describe


class RunReason(StrEnum):
    """Why a run was started."""

    DRIFT = "drift"
    SCHEDULE = "schedule"
    AGE = "age"
    LABELS = "labels"
    PERSON = "person"


TRAINER = "trainer"
"""Value of ``requested_by`` for runs that the trainer starts itself."""

Instant = Annotated[
    datetime,
    BeforeValidator(lambda value: datetime.fromisoformat(value) if isinstance(value, str) else value),
    PlainSerializer(datetime.isoformat),
]
"""An instant, in JSON as ``datetime.isoformat`` writes it: release 0.2.0 reads and writes that."""


class RunDocument(BaseModel):
    """Base of what a run's row holds as JSON: frozen; keys that another release added are ignored.

    Aliases are the keys of release 0.2.0.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        ser_json_inf_nan="constants",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class DriftFinding(RunDocument):
    """What a drift was found to be, the last time it was examined.

    Attributes:
        kind: Of the cause, one of ``schemas.drift_vocabulary``; in a document of 0.2.0 in the words of then.
        retrain: Whether it is a reason to retrain without a person's decision.
        text: One sentence for a person.
        evidence: The numbers behind it.
        moved: Features that moved in common.
        faulty: Devices that look faulty: never train on them.
        announced: Id of the announced change that it is; empty: of none.
    """

    kind: str
    retrain: bool = False
    text: str = Field("", alias="says")
    evidence: Mapping[str, float] = {}
    moved: tuple[str, ...] = ()
    faulty: tuple[str, ...] = ()
    announced: str = ""


class StoredRegime(RunDocument):
    """A new normal that a training set is selected by (``feature_store``'s ``Regime``)."""

    onset: Instant
    centre: Mapping[str, float]
    spread: Mapping[str, float]
    bound: float


class StoredSelection(RunDocument):
    """Which rows make the training set (``feature_store``'s ``RowSelection``); the gate reads them again."""

    event_from: Instant
    event_to: Instant
    known_at: Instant
    labelled: bool
    cohorts: tuple[str, ...]
    without: tuple[str, ...]
    regime: StoredRegime | None


class TrainingPlan(RunDocument):
    """Everything that a candidate's bytes depend on, but for cut, pin and seed.

    Attributes:
        selection: Of the rows of its training set.
        moved: Features that the training may move.
        model_kind: anomaly or classifier.
        champion: Version that the training starts from.
        verdicts: Ids of the drift events behind the run when its cut was pinned; later ones change no bytes.
        excluded: Number of rows left out, by the first reason that applied.
        facts: Further counts of the training set.
        bank: Digest of the generic faults that a model is chosen by which starts from no other; else empty.
        imported: Digest of the record of an imported model; empty: it is trained.
        effects: Digest of the fault bank whose effects its bundle carries to devices; empty: it carries none.
        announced: Id of the announced change that its drift is; empty: of none.
        one_cause: One cause moved all that moved (``examine.has_one_cause``).
    """

    selection: StoredSelection = Field(alias="wanted")
    moved: tuple[str, ...] = ()
    model_kind: str = ""
    champion: str = ""
    verdicts: tuple[str, ...] = ()
    excluded: Mapping[str, int] = {}
    facts: Mapping[str, int] = {}
    bank: str = ""
    imported: str = ""
    effects: str = ""
    announced: str = ""
    one_cause: bool = False


class RunChanges(TypedDict, total=False):
    """Fields that a step of a run may change beside its state."""

    kind: str
    finding: DriftFinding
    plan: TrainingPlan
    onset: datetime
    cut: int
    pin: str
    version: str
    detail: str
    requested_by: str


@dataclass(frozen=True)
class TrainingRun:
    """One training run, with everything that its next step needs, also after a crash.

    Attributes:
        kind: anomaly, classifier, or empty: what the data allow.
        verdicts: Ids of the drift events behind it.
        need: Effective rows that a retry after a refused candidate must have; None: it is not a retry.
        finding: What its drift was found to be; None: no drift, or not examined yet.
        plan: What its candidate is made from; None: there are not enough rows yet.
        onset: Start of the new regime; None: no drift is behind it.
        cut, pin: The cut that it trains on, once it has enough rows.
        seed: Of a classifier's trees.
        version: Of the candidate that it made; None: none yet.
        detail: Why it is in its state; before the first step, why a person wants it.
        requested_by: A person, or ``TRAINER``.
    """

    run_id: str
    family: str
    profile: str
    state: RunState
    reason: RunReason
    requested_by: str
    created_at: datetime
    updated_at: datetime
    kind: str = ""
    verdicts: tuple[str, ...] = ()
    need: float | None = None
    finding: DriftFinding | None = None
    plan: TrainingPlan | None = None
    onset: datetime | None = None
    cut: int | None = None
    pin: str | None = None
    seed: int = 0
    version: str | None = None
    detail: str = ""

    @property
    def by_person(self) -> bool:
        """Whether a person asked for it, or decided where the evidence was unclear."""
        return self.requested_by != TRAINER

    @property
    def is_open(self) -> bool:
        """Whether the trainer has something to do."""
        return self.state in OPEN

    @property
    def is_retry(self) -> bool:
        """Whether it is another attempt on a change whose candidate was refused."""
        return self.need is not None

    def to(self, state: RunState, **changes: Unpack[RunChanges]) -> Self:
        """The run after a transition.

        Raises:
            ValueError: ``state`` may not follow.
        """
        if state not in FOLLOWS[self.state]:
            raise ValueError(f"run {self.run_id}: {state} does not follow {self.state}")
        return replace(self, state=state, **changes)

    def with_verdicts(self, verdicts: tuple[str, ...]) -> Self:
        """The run with these drift events added, each once."""
        return replace(self, verdicts=tuple(dict.fromkeys((*self.verdicts, *verdicts))))

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Self:
        """The run of a row.

        Raises:
            RegistryError: Its state, its reason or its column ``cause`` is nothing that a release wrote.
        """
        values = {f.name: row[f.name] for f in fields(cls) if f.name not in _IN_CAUSE}
        times = {n: None if values[n] is None else datetime.fromtimestamp(values[n], UTC) for n in _TIMES}
        try:
            named = {"state": RunState(row["state"]), "reason": RunReason(row["reason"])}
        except ValueError as exc:
            raise RegistryError(f"run {row['run_id']} cannot be read: {exc}") from exc
        try:
            parts = _parse_cause(row["cause"] or {})
        except ValidationError as exc:
            raise RegistryError(f"run {row['run_id']} cannot be read: {describe(exc)}") from exc
        return cls(**{**values, **times, **named, **parts, "verdicts": tuple(values["verdicts"])})

    def row(self) -> dict[str, Any]:
        """Its row: columns by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _IN_CAUSE}
        times = {n: None if values[n] is None else values[n].timestamp() for n in _TIMES}
        named = {"state": self.state.value, "reason": self.reason.value}
        return {**values, **times, **named, "verdicts": list(self.verdicts), "cause": self.cause_json()}

    def cause_json(self) -> dict[str, Any] | None:
        """Need, finding and plan as one flat document, for column ``cause``; None: there is none of them."""
        need = {} if self.need is None else {"need": self.need}
        finding = {} if self.finding is None else self.finding.model_dump(mode="json")
        finding = {name: value for name, value in finding.items() if value or name != "announced"}
        # What was added since 0.2.0 is left out where it says nothing new.
        younger = {
            name
            for name in ("bank", "imported", "effects", "announced", "one_cause")
            if self.plan and not getattr(self.plan, name)
        }
        plan = {} if self.plan is None else self.plan.model_dump(mode="json", exclude=younger)
        return {**need, **finding, **plan} or None


_IN_CAUSE = ("need", "finding", "plan")
_TIMES = ("onset", "created_at", "updated_at")


def _parse_cause(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Need, finding and plan from the flat document; finding and plan share the key ``moved``."""
    return {
        "need": raw.get("need"),
        "finding": DriftFinding.model_validate(raw) if "kind" in raw else None,
        "plan": TrainingPlan.model_validate(raw) if "wanted" in raw else None,
    }
