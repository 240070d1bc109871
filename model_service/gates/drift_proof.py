"""What the drift behind a candidate proves by itself, as the gate finds it: it examines the drift again.

A sensor's gain or offset on most devices, or a change that a person announced and that the devices show, is
known from shifts and from people, not from scores. Then the champion's normal is over, and its successor need
not prove that once more by a gain which a dozen devices cannot show.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from feature_store import duck
from feature_store.cut import Cut
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.training.announced_change import AnnouncedChange
from model_service.training.announcements import announced_for
from model_service.training.cause import Cause
from model_service.training.examine import examine
from model_service.training.training_run import TrainingPlan
from model_service.training.verdict_reading import verdicts_of
from schemas.drift_vocabulary import DriftKind
from schemas.errors import DatasetError
from schemas.manifest import Manifest
from schemas.profile import Profile


class DriftProof(NamedTuple):
    """What a drift proves.

    Attributes:
        proven: The champion's normal is over.
        announced: Channels of the announced change that it is.
        shown: The devices show a new normal, so that what moved with it is explained.
        unlearnt: They show one that began after the champion was trained.
    """

    proven: bool = False
    announced: frozenset[str] = frozenset()
    shown: bool = False
    unlearnt: bool = False


def proof_of(
    cause: Cause, champion: Manifest, onset: datetime, announced: AnnouncedChange | None
) -> DriftProof:
    """What a cause proves to the model that is to follow the champion.

    A champion that was trained after the onset knows the new normal; what follows it has to be better.
    """
    lineage = champion.lineage
    before = lineage is None or lineage.event_to <= onset
    by_name = announced is not None and cause.announced == announced.change_id
    known = cause.kind is DriftKind.SENSOR_RECALIBRATION or by_name
    channels = announced.channels if announced is not None and by_name else frozenset()
    unlearnt = before and cause.retrain
    return DriftProof(unlearnt and known, channels, cause.retrain, unlearnt)


def read_proof(
    connection: duck.Connection,
    settings: ModelSettings,
    registry: Registry,
    profile: Profile,
    champion: Manifest,
    plan: TrainingPlan,
    cut: Cut,
) -> DriftProof:
    """The same, from a drift that is examined again in the run's pinned cut.

    Raises:
        DatasetError: The run names an announced change that does not cover its drift.
    """
    regime = plan.selection.regime
    if regime is None:
        return DriftProof()
    verdicts = verdicts_of(connection, plan.verdicts)
    cohorts, announced = sorted({v.cohort for v in verdicts}), None
    if plan.announced:
        with registry.reading() as reading:
            announced = announced_for(reading, settings.pki, profile, cohorts, regime.onset, plan.announced)
        if announced is None:
            raise DatasetError(
                f"its run names the announced change {plan.announced}, which is not in force for this drift: "
                "`edgeloop drift list` shows the announcements"
            )
    kinds = [v.kind for v in verdicts]
    found = examine(connection, profile, champion, regime.onset, cut.created, cohorts, kinds, announced)
    return proof_of(found.cause, champion, regime.onset, announced)
