"""Judges configurations: computes each again from its pinned cut, checks its schema, runs named gates."""

from __future__ import annotations

import logging

from feature_store.current_profiles import current_profiles
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from model_service.gates.evaluate import refusal
from model_service.gates.gate import KEYS
from model_service.gates.verdict import GateVerdict, not_shown
from model_service.gates.verdict_store import mark_refused, mark_signed, replace_verdicts, start_judging
from model_service.in_turn import each_in_turn
from model_service.limited_plug_ins import LimitedPlugIns
from model_service.registry import candidates
from model_service.registry.bundle_store import config_of
from model_service.registry.candidates import UNJUDGED, Candidate
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.training.config_building import (
    ConfigPlan,
    as_known,
    computed_bundle,
    config_inputs,
)
from model_service.training.config_interface import GATES, ConfigGateResult, ConfigInputs
from model_service.trust.ceremony import open_repository
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model
from schemas.channel_documents import model_role
from schemas.config_manifest import ConfigBundle
from schemas.config_spec import ConfigSpec
from schemas.errors import DatasetError, RejectedError, TrustError
from schemas.instants import utc_now

log = logging.getLogger(__name__)

SCHEMA, REBUILT, IN_TIME = "schema", "rebuild", "valid_from"


class GateOfConfigs:
    """Judges one configuration after the other, and countersigns those that pass."""

    def __init__(self, settings: ModelSettings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry

    def step(self) -> bool:
        """Judge all pending configurations, the oldest first; False: there was none.

        Raises:
            RetryableError: Something is out of reach, or a trainer's proposal is not there yet.
            OperatorError: A family's key is missing; raised at once.
        """
        with self._registry.reading() as connection:
            pending = [c for c in candidates.in_states(connection, UNJUDGED) if c.is_config]
        each_in_turn(pending, self._process)
        return bool(pending)

    def _process(self, candidate: Candidate) -> None:
        # Step 1: mark it as being judged. After a crash between here and step 4 it is judged again.
        with self._registry.transaction() as connection:
            if not start_judging(connection, candidate.version):
                return
        try:
            bundle, verdicts = self._judge(candidate)
        except RejectedError as exc:
            self._refuse(candidate, (not_shown("evidence", str(exc)),))
            return
        if refusal(verdicts):
            self._refuse(candidate, verdicts)
            return
        # Step 2: the verdicts, before there is a signature that rests on them.
        with self._registry.transaction() as connection:
            replace_verdicts(connection, candidate.version, verdicts)
        # Step 3: sign. A repetition gives the same bytes.
        try:
            self._countersign(candidate, bundle)
        except TrustError as exc:
            self._refuse(candidate, (*verdicts, not_shown("proposal", str(exc))))
            return
        # Step 4: mark it as signed: from here on the engine publishes it.
        with self._registry.transaction() as connection:
            mark_signed(connection, candidate.version, [v.gate for v in verdicts])
        log.info("signed %s: %d gates passed", candidate.version, len(verdicts))

    def _refuse(self, candidate: Candidate, verdicts: tuple[GateVerdict, ...]) -> None:
        reason = refusal(verdicts)
        with self._registry.transaction() as connection:
            replace_verdicts(connection, candidate.version, verdicts)
            mark_refused(connection, candidate.version, reason)
        log.info("refused %s: %s", candidate.version, reason)

    def _countersign(self, candidate: Candidate, bundle: ConfigBundle) -> None:
        signer = load_online_key(self._settings.keys / KEYS, model_role(candidate.family))
        countersign_model(open_repository(self._settings), signer, candidate.sha256, bundle.manifest.custom())

    def _judge(self, candidate: Candidate) -> tuple[ConfigBundle, tuple[GateVerdict, ...]]:
        """The configuration as the gate read it, and every verdict.

        Raises:
            RejectedError: The evidence is gone, or was never there.
        """
        bundle = config_of(self._settings.artifacts, candidate.sha256, candidate.version)
        lake, manifest = Lake(self._settings.lake_root), bundle.manifest
        profile = current_profiles(lake).get(manifest.profile)
        spec = None if profile is None else profile.config(candidate.family)
        if profile is None or spec is None:
            raise DatasetError(f"profile {manifest.profile} has no family {candidate.family}")
        cut = CutStore(lake).resolve(manifest.lineage.pin)
        plan = as_known(ConfigPlan.of(manifest, candidate.major), cut.id, cut.created)
        before = self._before(manifest.lineage.champion, plan.group)
        verdicts = [judge_schema(bundle, spec), judge_in_time(bundle)]
        opened = config_inputs(self._settings.lake_root, profile, spec, plan, before)
        with opened as inputs, LimitedPlugIns() as plug_ins:
            verdicts.append(judge_rebuilt(bundle, inputs, plan, plug_ins))
            verdicts += [judge_by_plug_in(name, bundle, inputs, plug_ins) for name in spec.gates]
        return bundle, tuple(verdicts)

    def _before(self, version: str, group: str) -> dict[str, object]:
        """Parameters of the group's configuration before; its version must be one of that group."""
        if not version:
            return {}
        with self._registry.reading() as connection:
            found = candidates.get(connection, version)
        if found is None:
            raise DatasetError(f"the registry does not know {version}, which it says came before")
        bundle = config_of(self._settings.artifacts, found.sha256, version)
        if bundle.manifest.group != group:
            raise DatasetError(f"{version} is of group {bundle.manifest.group}")
        return dict(bundle.values)


def judge_schema(bundle: ConfigBundle, spec: ConfigSpec) -> GateVerdict:
    """Its schema and bounds are the profile's, and its values keep them: opening it has checked that."""
    other = bundle.manifest.differs_from(spec)
    says = f"other {other} than the profile" if other else "every number is within the profile's bounds"
    return GateVerdict(SCHEMA, not other, detail={"says": says})


def judge_in_time(bundle: ConfigBundle) -> GateVerdict:
    """Its instant is no earlier than the profile lets a computation name one."""
    manifest = bundle.manifest
    ahead_s = (manifest.valid_from - utc_now()).total_seconds()
    says = f"comes into force at {manifest.valid_from:%Y-%m-%d %H:%M:%S} UTC at the earliest"
    early = (manifest.valid_from - manifest.lineage.computed_at).total_seconds()
    return GateVerdict(IN_TIME, early >= 0, early, 0.0, detail={"says": says, "ahead_s": ahead_s})


def judge_rebuilt(
    bundle: ConfigBundle, inputs: ConfigInputs, plan: ConfigPlan, plug_ins: LimitedPlugIns
) -> GateVerdict:
    """The gate's own computation, from the same cut, gives the same bytes."""
    try:
        again = computed_bundle(inputs, plan, plug_ins)
    except RejectedError as exc:
        return not_shown(REBUILT, f"computed again, it fails: {exc}")
    wrong = sorted(name for name, data in bundle.files.items() if again.files.get(name) != data)
    says = f"computed again, {', '.join(wrong)} differ" if wrong else "computed again, byte for byte"
    return GateVerdict(REBUILT, not wrong, float(len(wrong)), 0.0, detail={"says": says})


def judge_by_plug_in(
    name: str, bundle: ConfigBundle, inputs: ConfigInputs, plug_ins: LimitedPlugIns
) -> GateVerdict:
    """A gate of the profile's; what it raises, or takes beyond its bounds, is a refusal with its text."""
    what, values = f"profile {inputs.profile.name}", dict(bundle.values)
    try:
        found = ConfigGateResult(**plug_ins.call(GATES, name, what, ConfigGateResult, inputs, values))
        detail = {**found.detail, "says": found.text}
        return GateVerdict(name, bool(found.passed), found.value, found.bound, found.low, found.high, detail)
    except DatasetError as exc:
        return not_shown(name, str(exc))
    except Exception as exc:  # noqa: BLE001  (a user's numbers: the candidate has to show that it is good)
        return not_shown(name, f"{type(exc).__name__}: {exc}")
