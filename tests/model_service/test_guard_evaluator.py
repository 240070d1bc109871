"""The guard evaluator signs what follows from raw reports and nothing else; one key alone moves nobody."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from model_service.registry.registry_tables import channel_requests, gate_verdicts, rollouts
from model_service.rollout import rollout_store
from model_service.trust import channel_targets
from model_service.trust.keys import load_online_key
from model_service.trust.online import OnlineSigner
from schemas.channel_documents import BROAD, BROAD_ROLE, Release
from schemas.cohorts import EVERYBODY, NOBODY
from schemas.errors import RetryableError
from tests.simulators.rollout_deployment import FAMILY, GROUP, RolloutDeployment, proposed, quick_profile


@pytest.fixture
def deployment(tmp_path):
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile(phases=(0.5, 1.0)))
    yield made
    made.registry.close()


def forge(deployment, **changes):
    """A compromised engine proposes another document under the same row."""
    request = deployment.requests()[-1]
    document = request.document.model_copy(update=changes)
    with deployment.registry.transaction() as connection:
        connection.execute(
            update(channel_requests)
            .where(channel_requests.c.id == request.id)
            .values(document=document.model_dump(mode="json"), seq=document.seq)
        )
    key = load_online_key(deployment.settings.keys / "engine", BROAD_ROLE)
    channel_targets.propose_broad(deployment.repo, document, key)
    return document


def rewrite(deployment, **changes):
    """A compromised engine writes another record."""
    record = deployment.rollout()
    changed = record.model_copy(update=changes)
    with deployment.registry.transaction() as connection:
        rollout_store.save(connection, changed, time.time())


def ruling(deployment):
    """State of the newest proposal after the guard examined it, and why."""
    deployment.guard().tick()
    newest = deployment.requests()[-1]
    return newest.state, newest.detail


def test_what_follows_from_the_reports_is_countersigned(deployment):
    proposed(deployment)
    assert ruling(deployment) == ("countersigned", "")
    deployment.engine().tick()
    assert deployment.repo.channels(GROUP)[BROAD].seq == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": EVERYBODY}, "the cohort"),
        ({"holdout": EVERYBODY}, "the holdout"),
        ({"target": {FAMILY: Release(version="machine-7.00000007", sha256="7" * 64)}}, "is not published"),
        ({"target": {FAMILY: Release(version="machine-1.00000001", sha256="7" * 64)}}, "is not published"),
        ({"seq": 1}, "not above 1"),
        ({"reason": "security"}, "reason security"),
        ({"reason": "rollback", "cohort": EVERYBODY, "holdout": NOBODY}, "not aborting"),
        ({"baseline": {FAMILY: Release(version="machine-7.00000007", sha256="7" * 64)}}, "the baseline"),
        ({"rollout_id": "line-9"}, "no rollout"),
    ],
)
def test_a_forged_proposal_is_refused(deployment, changes, reason):
    proposed(deployment)
    forge(deployment, **changes)
    state, detail = ruling(deployment)
    assert state == "refused"
    assert reason in detail
    assert BROAD not in deployment.repo.channels(GROUP)


def test_a_cohort_of_ids_is_refused(deployment):
    names = proposed(deployment)
    cohort = deployment.requests()[-1].document.cohort
    forge(deployment, cohort=cohort.model_copy(update={"devices": tuple(names)}))
    assert "20 ids" in ruling(deployment)[1]


def test_a_record_that_was_rewritten_does_not_help_the_forger(deployment):
    proposed(deployment)
    rewrite(deployment, settings=deployment.rollout().settings.model_copy(update={"phases": (1.0,)}))
    forge(deployment, cohort=EVERYBODY.model_copy(update={"salt": deployment.rollout().salt}))
    assert "[rollout] changed" in ruling(deployment)[1]


def test_an_invented_waiver_does_not_count_as_an_approvers(deployment):
    deployment.use(quick_profile(min_devices=25))
    names = deployment.join(20)
    deployment.sign(1)
    engine = deployment.engine()
    for _ in range(6):
        engine.tick()
        deployment.obey(names)
    assert deployment.rollout().pause.kind == "not_shown"
    rewrite(deployment, state="running", pause=None, waived=(0,))
    deployment.engine().tick()
    state, detail = ruling(deployment)
    assert state == "refused"
    assert "not shown" in detail


def test_a_phase_whose_devices_failed_is_not_passed_whatever_the_engine_claims(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    channel = deployment.in_force(names[0])
    for device in names:
        if channel.wanted(device)[FAMILY].major:
            deployment.report(device, channel, "restored", "restored")
    record = deployment.rollout().model_copy(update={"phase": 1})
    from model_service.rollout.transitions import Propose

    wanted = Propose(BROAD, "phase", 1, record.target, record.cohort(1), NOBODY, "normal")
    with deployment.registry.transaction() as connection:
        rollout_store.apply(connection, record, [wanted], time.time(), 1e6, 1)
    deployment.engine().channel_publisher.step()
    state, detail = ruling(deployment)
    assert state == "refused"
    assert "failed" in detail


def test_a_soak_that_is_not_over_waits_and_is_signed_later(deployment):
    proposed(deployment)
    soaking = quick_profile(phases=(0.5, 1.0), soak_s=1000.0)
    deployment.use(soaking)
    rewrite(deployment, settings=soaking.rollout)
    assert ruling(deployment) == ("proposed", "")


def test_a_candidate_that_failed_a_gate_is_refused(deployment):
    proposed(deployment)
    with deployment.registry.transaction() as connection:
        connection.execute(update(gate_verdicts).values(passed=False))
    assert "did not pass quality" in ruling(deployment)[1]


def test_a_candidate_without_any_verdict_is_refused(deployment):
    names = deployment.join(20)
    deployment.sign(1, gates=False)
    engine = deployment.engine()
    for _ in range(6):
        engine.tick()
        deployment.obey(names)
    assert "no gate's verdict" in ruling(deployment)[1]


def test_a_refusal_pauses_the_rollout_with_its_reason(deployment):
    proposed(deployment)
    forge(deployment, holdout=EVERYBODY)
    ruling(deployment)
    deployment.engine().tick()
    record = deployment.rollout()
    assert (record.state, record.pause.kind) == ("paused", "refused")
    assert "the holdout" in record.pause.reason


def test_the_engines_key_alone_publishes_nothing(deployment):
    proposed(deployment)
    request = deployment.requests()[-1]
    with deployment.registry.transaction() as connection:
        rollout_store.set_request_state(connection, request, "countersigned", time.time())
    with pytest.raises(RetryableError):
        channel_targets.publish_broad(deployment.repo, GROUP, OnlineSigner.load(deployment.settings))
    engine = deployment.engine()
    engine.tick()
    assert BROAD not in deployment.repo.channels(GROUP)
    assert deployment.requests()[-1].state == "proposed"


def test_a_published_seq_is_never_given_again_even_by_an_emptied_registry(deployment):
    proposed(deployment)
    deployment.guard().tick()
    deployment.engine().tick()
    with deployment.registry.transaction() as connection:
        connection.execute(channel_requests.delete())
        connection.execute(rollouts.delete())
    deployment.sign(2)
    deployment.engine().tick()
    assert deployment.requests()[0].document.seq == 3


def test_documents_expire(deployment):
    proposed(deployment)
    document = deployment.requests()[0].document
    assert document.expires - document.issued == timedelta(seconds=deployment.settings.channel_s)
    assert document.issued <= datetime.now(UTC)
    assert json.loads(document.model_dump_json())["group"] == GROUP


def test_a_document_that_would_live_too_long_is_refused(deployment):
    proposed(deployment)
    document = deployment.requests()[-1].document
    forge(deployment, expires=document.expires + timedelta(days=365))
    assert "would live" in ruling(deployment)[1]
