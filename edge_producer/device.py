"""One device's pipeline: window → features and score → decision → filter → summaries and books.

Does no I/O: the spool commits what it returns in one transaction, or not at all.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_producer.books import BookKey, ledger_of
from edge_producer.decider import Decider, LocalDecision
from edge_producer.deciding.decision_parameters import NO_PARAMETERS
from edge_producer.device_host import ActionCommands, Host
from edge_producer.device_identity import DeviceIdentity
from edge_producer.device_update import NEVER_US, REWIND_PERIODS, BootTerms, DeviceUpdate
from edge_producer.filter import RowFilter
from edge_producer.model_switch import ActiveModels, ModelSwitch, ScoredWindow
from edge_producer.reference_keeper import ReferenceKeeper
from edge_producer.rehearsal import Rehearsal
from edge_producer.sensed_rows import Period, Row
from edge_producer.summaries import FIRST_SHADOW_PART, Summarizer
from edge_producer.window import Floats, LearnsReference, Predictor, Window
from edge_producer.window_scoring import WindowScorer
from schemas.alarm_bounds import AlarmBounds
from schemas.events import Alert
from schemas.instants import from_us, to_us
from schemas.output_names import PRIMARY
from schemas.packed_schemas import packed_summary_layout
from schemas.profile import Profile
from schemas.row_schemas import Stratum
from schemas.version_names import VersionHeader

log = logging.getLogger(__name__)


class Device:
    """One device. Not safe for use by several threads.

    Args:
        identity: Key and secret.
        profile: The device's profile.
        model: Scores the windows: one predictor, or a switch whose models may change between windows.
        host: What the process provides.
        state: JSON that the spool kept from an earlier start; None where there was none.
        version: Version of the profile that its boots name; None: it is of a file.

    Attributes:
        state_lost: That JSON could not be read; what the filter held back is lost.
        parameters: Of the configurations by which the newest window was decided, by name.
    """

    def __init__(
        self,
        identity: DeviceIdentity,
        profile: Profile,
        model: Predictor | ModelSwitch,
        host: Host,
        state: str | None = None,
        version: VersionHeader | None = None,
    ) -> None:
        self.device_id = identity.device_id
        self._identity = identity
        self._profile = profile
        self._switch = model if isinstance(model, ModelSwitch) else ModelSwitch(ActiveModels(model))
        self._models = self._switch.models
        self._host = host
        self._period_us = round(profile.summaries.period_s * 1e6)
        self._terms = BootTerms(version, profile.summaries.period_s, profile.filter.thinning_floor)
        self._boots: dict[int, BootTerms] = {}
        self._scorer = WindowScorer(self.device_id, profile)
        self._rehearsal = Rehearsal(profile)
        self._dtype = np.dtype(np.float64 if any(profile.wide) else np.float32)
        self._raw_bytes = _raw_bytes(profile)
        self._alerts: list[bytes] = []
        self._commands = ActionCommands(self.device_id, host.on_action)
        self._alarms = AlarmBounds.of(profile.decision)
        self._windows = self._at_risk = 0
        self.state_lost = False
        self._held = host.parameters.get(self.device_id)
        self.parameters = NO_PARAMETERS if self._held is None else self._held.values
        self._go_on_from(state)
        self._begin_boot()
        self.flush()

    def _begin_boot(self) -> None:
        self._boot_id, self._seq, self._newest_us = self._host.new_boot_id(), 0, NEVER_US
        self._boots[self._boot_id] = self._terms

    def _go_on_from(self, state: str | None) -> None:
        """Take up an earlier start's state; begin anew where it cannot be read."""
        try:
            kept: dict[str, Any] = json.loads(state) if state else {}
            self._decider = Decider(self._profile.decision, kept.get("decider"))
            self._function = self._host.function_for(self._identity, self._profile, kept.get("function"))
            self._begin_records(kept.get("filter"))
            self._references = ReferenceKeeper(self.device_id, self._profile, kept.get("references"))
            self._at_risk = self._filter.held
        except (ValueError, TypeError, KeyError, AttributeError):
            log.exception("the device's state is damaged", extra={"device_id": self.device_id})
            self.state_lost = True
            self._decider = Decider(self._profile.decision)
            self._function = self._host.function_for(self._identity, self._profile, None)
            if self._function is not None:
                self._function.begin_anew()
            self._references = ReferenceKeeper(self.device_id, self._profile, None)
            self._begin_records(None)
        self._references.begin(self._models.active)

    def _begin_records(self, kept: Mapping[str, Any] | None) -> None:
        """What is counted, filtered and summarised, from here on."""
        profile, models = self._profile, self._models
        self._filter = RowFilter(
            profile.filter, profile.row_columns, profile.sampling.hop_s, self._identity.secret, kept
        )
        name, period_s = self.device_id, profile.summaries.period_s
        make = partial(
            Summarizer,
            name,
            profile.featureset,
            period_s=period_s,
            sketches=profile.summaries.sketches,
            layout=packed_summary_layout(profile),
        )
        self._summarizer = make(profile.row_columns, bin_edges=models.active.bin_edges)
        self._shadow_summarizer = make(
            profile.model.output_columns, bin_edges=_edges(models.shadow), first_part=FIRST_SHADOW_PART
        )
        self._ledger = ledger_of(profile)
        self._selected: list[Row] = []
        self._sensed: list[Row] = []
        self._dirty = True

    @property
    def boot_id(self) -> int:
        """Boot that the newest window belongs to."""
        return self._boot_id

    @property
    def absurd_shares(self) -> Mapping[str, float]:
        """Channels that lose more than the stated share of their samples to ``absurd``, with the share."""
        return self._scorer.absurd_shares

    @property
    def frozen(self) -> tuple[int, int]:
        """Number of features whose reference is frozen, and of all that the model compares with one."""
        active = self._models.active
        return active.frozen(self.device_id) if isinstance(active, LearnsReference) else (0, 0)

    def relearn(self) -> None:
        """Learn what is usual anew, from the next window on."""
        self._references.relearn(*filter(None, (self._models.active, self._models.shadow)))
        self._dirty = True

    @property
    def function_status(self) -> dict[str, Any] | None:
        """How its decision function does, for the status file; None: it has none."""
        return None if self._function is None else self._function.status()

    @property
    def dirty(self) -> bool:
        """Whether something happened since the last update."""
        return self._dirty

    @property
    def has_rows(self) -> bool:
        """Whether rows to be sent came since the last update."""
        return bool(self._selected)

    def process(self, window: Window) -> LocalDecision:
        """Decide on a window and carry that out; then count, filter and summarise it.

        A model that raises gives no score, records that fail count as lost: the next window is decided on.
        """
        if self._switch.models is not self._models:
            self._change_models(self._switch.models)
        begun = time.monotonic_ns()
        if self._held is not None:
            self.parameters = self._held.at(window.end)
        window = self._scorer.begin(window)
        features, score = self._scorer.score(self._models.active, window)
        scored = time.monotonic_ns()
        further = self._scorer.further(features)
        decision = self._decider.decide(
            window.end, score, out_of_range=self._scorer.out_of_range, further=further
        )
        if self._function is not None:
            decision = self._function.decide(decision, window.end, features, {PRIMARY: score, **further})
        decided = time.monotonic_ns()
        self._commands.command(decision, score, window.arrived_ns or begun, decided)
        self._host.meters.decided(decided - begun)
        self._scorer.count_decided(score)
        self._windows += 1
        self._at_risk += 1
        self._dirty = True
        try:
            row = self._record(window, features, score, decision)
        except Exception as exc:  # noqa: BLE001  (whatever it is: the device decides on)
            self._lose_records(exc)
            return decision
        self._compare(window, row, (scored - begun) / 1e9)
        return decision

    def rehearse(self, preview: Callable[[], Window | None]) -> float:
        """Have the next window decided on sooner, by a decision on one like it; seconds that this took."""
        begun = time.monotonic()
        if (window := preview()) is not None:
            self._rehearsal.run(self._models.active, window)
        return time.monotonic() - begun

    def _record(self, window: Window, features: Floats, score: float | None, decision: LocalDecision) -> Row:
        row = self._row(window, features, score, decision)
        self._summarizer.add(row)
        self._release(self._filter.offer(row, decision), {row.period})
        self._sensed.append(row)
        if decision.alert:
            self._alerts.append(self._alert(row, decision.alarm or decision.action))
        return row

    def _lose_records(self, error: Exception) -> None:
        """Begin the records anew under another boot; what they had not handed over is counted as lost."""
        self._scorer.log_once("records of windows are lost", error)
        lost, newest_us = self._at_risk, max(self._newest_us, 0)
        self._begin_records(None)
        self._begin_boot()
        self._at_risk = 0
        period_us = newest_us - newest_us % self._period_us
        key = BookKey(self._boot_id, period_us, self._models.active.version, Stratum.SAMPLE.value)
        self._ledger.lose(key, lost)

    def command_again(self) -> None:
        """Have the next window command its action, even if it is the one in force."""
        self._commands.again()

    def flush(self) -> None:
        """Release held rows and close the open period: no further window comes soon."""
        self._release(self._filter.flush())
        self._ledger.close()
        self._summarizer.close()
        self._shadow_summarizer.close()
        self._dirty = True

    def take_update(self) -> DeviceUpdate:
        """Everything since the last update."""
        try:
            return self._update()
        except Exception as exc:  # noqa: BLE001  (whatever it is: the device decides on)
            self._lose_records(exc)
            return self._update()

    def _update(self) -> DeviceUpdate:
        rows, alerts, sensed = self._selected, self._alerts, self._sensed
        self._selected, self._alerts, self._sensed = [], [], []
        windows, self._windows = self._windows, 0
        boots, self._boots = self._boots, {self._boot_id: self._terms}
        self._dirty = False
        state = {
            "decider": self._decider.export(),
            "filter": self._filter.export(),
            "references": self._references.export(self._models.active),
            **({} if self._function is None else {"function": self._function.export()}),
        }
        update = DeviceUpdate(
            device_id=self.device_id,
            boot_id=self._boot_id,
            next_seq=self._seq,
            newest_us=self._newest_us,
            state=json.dumps(state, separators=(",", ":")),
            held=self._filter.held,
            rows=rows,
            books=self._ledger.take(),
            closed=self._summarizer.take_closed() + self._shadow_summarizer.take_closed(),
            open_summary=self._summarizer.open_summary(),
            alerts=alerts,
            meters={
                "windows": windows,
                "raw_bytes": windows * self._raw_bytes,
                **self._scorer.take_counts(),
                **({} if self._function is None else self._function.take_counts()),
            },
            decision=self._decider.action if self._function is None else self._function.action,
            model_version=self._models.active.version,
            absurd=self._scorer.take_absurd(),
            clipped={} if self._function is None else self._function.clipped,
            boots=boots,
            sensed=sensed,
        )
        self._at_risk = self._filter.held
        return update

    def _change_models(self, models: ActiveModels) -> None:
        """Use other models from this window on: decisions, filter and books go on, summaries begin anew."""
        before, self._models = self._models, models
        try:
            if models.active is not before.active:
                self._references.change(before.active, models.active)
                self._summarizer.rebind(models.active.bin_edges)
            if models.shadow is not before.shadow:
                self._shadow_summarizer.rebind(_edges(models.shadow))
                if models.shadow is not None:
                    self._references.change(before.active, models.shadow)
        except Exception as exc:  # noqa: BLE001  (it decides without what the earlier model had learnt)
            self._scorer.log_once("another model could not take over", exc)
        self._switch.in_use = models

    def _compare(self, window: Window, row: Row, took_s: float) -> None:
        """Have the shadow score the same window, after the decision, and pass both scores to the observer."""
        try:
            self._observe(window, row, took_s)
        except Exception as exc:  # noqa: BLE001  (a comparison is worth no decision)
            self._scorer.log_once("a comparison of models failed", exc)

    def _observe(self, window: Window, row: Row, took_s: float) -> None:
        shadow, score, shadow_s = self._models.shadow, None, 0.0
        alarm, shadow_alarm = self._alarms.raised(row.score, self._scorer.further(row.features)), False
        self._switch.healthy.add(window, healthy=row.score is not None and not alarm)
        if shadow is not None:
            begun = time.monotonic_ns()
            numbers, score = self._scorer.score(shadow, window)
            shadow_s = (time.monotonic_ns() - begun) / 1e9
            key, further = (row.boot_id, shadow.version, row.period_us), self._scorer.further(numbers)
            self._shadow_summarizer.add_scores(key, score, further.values())
            shadow_alarm = self._alarms.raised(score, further)
        if self._models.observer is not None:
            outcome = ScoredWindow(row.model_version, row.score, took_s, score, shadow_s, alarm, shadow_alarm)
            self._models.observer.observe(window, outcome)

    def _row(self, window: Window, features: Floats, score: float | None, decision: LocalDecision) -> Row:
        event_us = to_us(window.end)
        if event_us < self._newest_us - REWIND_PERIODS * self._period_us:
            self.flush()
            self._begin_boot()
        self._newest_us = max(self._newest_us, event_us)
        seq, self._seq = self._seq, self._seq + 1
        return Row(
            boot_id=self._boot_id,
            seq=seq,
            event_us=event_us,
            period_us=event_us - event_us % self._period_us,
            mono_ns=window.mono_ns,
            time_quality=int(window.time_quality),
            features=features.astype(self._dtype, copy=False),
            score=score,
            decision=decision.action,
            model_version=self._models.active.version,
            sensed_s=self._host.clock(),
            reasons=self._scorer.marks,
            calibration=decision.calibration,
        )

    def _release(self, rows: list[Row], newest: Collection[Period] = ()) -> None:
        awaited = self._filter.periods.union(newest)
        for row in rows:
            self._ledger.release(row, awaited)
            if row.selected:
                self._selected.append(row)

    def _alert(self, row: Row, action: str) -> bytes:
        values = zip(self._profile.row_columns, row.features.tolist(), strict=True)
        alert = Alert(
            device_id=self.device_id,
            boot_id=row.boot_id,
            seq=row.seq,
            event_time=from_us(row.event_us),
            action=action,
            score=row.score,
            model_version=row.model_version,
            features={name: value if abs(value) < float("inf") else None for name, value in values},
        )
        return alert.model_dump_json().encode()


def _edges(model: Predictor | None) -> Mapping[str, NDArray[np.float64]]:
    return {} if model is None else model.bin_edges


def _raw_bytes(profile: Profile) -> int:
    return profile.sampling.hop_samples * sum(8 if c.dtype == "float64" else 4 for c in profile.channels)
