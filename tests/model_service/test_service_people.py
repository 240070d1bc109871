"""Laws of what people decide: runs that wait, verdicts, commands to the engine."""

import threading
import time
from datetime import UTC, datetime, timedelta

import grpc
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import insert, select, update

from feature_store.append import append
from feature_store.cut_store import CutStore
from infra.fleet_client import FleetClient
from model_service.identity.authority import Authority, person_paths, read_pair
from model_service.identity.certificates import read_holder
from model_service.identity.people import record_people
from model_service.registry import announced_changes
from model_service.registry.registry_tables import certificates, commands, outbox, runs
from model_service.training.signed_announcement import ChangeDocument, sign_announcement
from schemas.errors import AccessError, RegistryError, RejectedError
from schemas.proto.fleet_pb2 import ControlRolloutRequest, ListRequest, RevokeCertificateRequest
from schemas.proto.fleet_pb2_grpc import FleetAdminStub
from schemas.tables import DRIFT
from schemas.updates import Role
from tests.simulators.model_service import ModelService, SimClient, refusal


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def approver(service):
    with service.person("approver") as client:
        yield client


def somebody(service, name, *roles):
    """A person whose certificate somebody made with the authority's key, and nobody put on record."""
    authority, key = Authority.load(service.settings), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.certify_client(
        name, roles, key.public_key(), datetime.now(UTC), timedelta(days=1)
    )
    client = SimClient(service.invite("unused"), key)
    client.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
    return client


def admin(person):
    return FleetAdminStub(person.channel(person.bundle.delivery))


def refused(call, request):
    """Code and reason of a call that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=10)
    return refusal(caught.value)


DENIED = ("PERMISSION_DENIED", "ACCESS_ERROR")


def waiting_run(service, run_id, *verdicts):
    values = {
        "run_id": run_id, "family": "machine", "profile": "machine", "state": "waiting", "reason": "drift",
        "kind": "", "verdicts": list(verdicts), "seed": 0, "detail": "", "requested_by": "trainer",
        "created_at": time.time(), "updated_at": time.time(),
    }  # fmt: skip
    with service.registry.transaction() as connection:
        connection.execute(insert(runs).values(**values))


def run_of(service, run_id):
    with service.registry.reading() as connection:
        return connection.execute(select(runs).where(runs.c.run_id == run_id)).mappings().one()


def drift_verdict(service, event_id):
    """A verdict in the lake, as the drift job leaves it."""
    plain = {pa.string(): "", pa.float64(): 0.0, pa.int32(): 0, pa.int64(): 0}
    row = {f.name: plain.get(f.type, 0) for f in DRIFT.schema}
    table = pa.Table.from_pylist([{**row, "event_id": event_id, "profile": "machine"}], schema=DRIFT.schema)
    append(service.lake, CutStore(service.lake), "test-drift", lambda n: {DRIFT.name: table})


@pytest.mark.parametrize(("retrain", "state"), [(True, "requested"), (False, "dismissed")])
def test_a_waiting_run_takes_one_decision(service, approver, retrain, state):
    run_id = f"run-{state}"
    waiting_run(service, run_id)
    assert approver.ack_drift(run_id, retrain=retrain, reason="seen") == {"run_id": run_id, "state": state}
    row = run_of(service, run_id)
    assert (row["state"], row["requested_by"], row["detail"]) == (state, "operator", "seen")
    with pytest.raises(RegistryError, match=f"is {state}: only a waiting run"):
        approver.ack_drift(run_id, retrain=retrain)


@pytest.fixture(scope="module")
def operator(service):
    with service.person() as client:
        yield client


@pytest.mark.parametrize("state", ["requested", "examining", "collecting", "building", "waiting", "declined"])
def test_a_run_is_cancelled_in_whatever_state_it_is_and_once(service, operator, state):
    run_id = f"run-cancelled-{state}"
    waiting_run(service, run_id)
    with service.registry.transaction() as connection:
        connection.execute(update(runs).where(runs.c.run_id == run_id).values(state=state))
    done = operator.cancel_run(run_id, "wrong machine")
    assert done == {"run_id": run_id, "state": "cancelled", "was": state}
    assert (run_of(service, run_id)["state"], run_of(service, run_id)["detail"]) == (
        "cancelled",
        "wrong machine",
    )
    with pytest.raises(RegistryError, match="is cancelled: it has ended"):
        operator.cancel_run(run_id)


def test_no_run_of_that_name_can_be_cancelled(operator):
    with pytest.raises(RegistryError, match="no training run nothing"):
        operator.cancel_run("nothing")


def test_a_run_is_asked_for_by_its_profile(service, operator):
    made = operator.train("", "new bearings", profile="machine")
    assert run_of(service, made["run_id"])["family"] == "machine"
    with pytest.raises(RegistryError, match="no profile 'pump' in this lake; there are: machine"):
        operator.train("machine", profile="pump")
    with pytest.raises(RegistryError, match="runs model family 'machine', not 'robust'"):
        operator.train("robust", profile="machine")


def test_a_verdict_finds_the_run_that_waits_because_of_it(service, approver):
    waiting_run(service, "run-v", "job/3/0", "job/3/1")
    assert approver.ack_drift("job/3/1", retrain=True)["run_id"] == "run-v"


def test_a_verdict_without_a_run_gets_one(service, approver):
    drift_verdict(service, "job/9/0")
    made = approver.ack_drift("job/9/0", retrain=True, reason="new oil")
    row = run_of(service, made["run_id"])
    assert (row["state"], row["reason"], row["verdicts"]) == ("requested", "person", ["job/9/0"])
    assert (row["family"], row["profile"], row["detail"]) == ("machine", "machine", "new oil")
    drift_verdict(service, "job/9/1")
    with pytest.raises(RegistryError, match="nothing to dismiss"):
        approver.ack_drift("job/9/1", retrain=False)


def announcement(service, pair=None, **other):
    """A change that is announced for the next hour, signed by the operator of this machine."""
    now = datetime.now(UTC)
    values = {
        "change_id": "a" * 12, "profile": "machine", "moves": ("current",), "may_move": ("vibration",),
        "start": now, "end": now + timedelta(hours=1), "reason": "product B",
    }  # fmt: skip
    pair = pair or read_pair(*person_paths(service.settings, "approver"))
    return sign_announcement(ChangeDocument(**{**values, **other}), *pair)


def test_an_approver_announces_a_change_and_takes_it_back(service, approver):
    given = announcement(service)
    assert approver.announce_change(given)["change_id"] == "a" * 12
    with service.registry.reading() as connection:
        [row] = announced_changes.in_force(connection, "machine")
        events = connection.execute(select(outbox.c.step).where(outbox.c.subject == "a" * 12)).scalars().all()
    assert (row.document, row.signature, row.announced_by) == (given.document, given.signature, "operator")
    assert events == ["change_announced"]
    with pytest.raises(RegistryError, match="already"):
        approver.announce_change(given)
    assert approver.withdraw_change("a" * 12)["withdrawn"] is True
    with pytest.raises(RegistryError, match="no announced change"):
        approver.withdraw_change("a" * 12)


DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("days", "other", "says"),
    [
        ((-1, 1), {}, "drift ack"),
        ((1, 9), {}, "within 7 days"),
        ((99, 100), {}, "90 days"),
        ((1, 1), {}, "after the start"),
        ((0, 1), {"profile": "pump"}, "one of this lake's: machine"),
        ((0, 1), {"may_move": ("odour",)}, "which has no odour"),
    ],
)
def test_what_cannot_be_announced_is_refused_with_the_reason(service, approver, days, other, says):
    now = datetime.now(UTC)
    start, end = (now + n * DAY for n in days)
    given = announcement(service, change_id="b" * 12, start=start, end=end, **other)
    with pytest.raises(RejectedError, match=says):
        approver.announce_change(given)


def test_nobody_announces_in_anothers_name(service, approver):
    eve = somebody(service, "eve", Role.APPROVER)
    plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pair = eve.key.private_bytes(*plain), eve.certificate_pem
    with pytest.raises(AccessError, match="signed by eve, and sent by operator"):
        approver.announce_change(announcement(service, pair))
    given = announcement(service)
    with pytest.raises(AccessError, match="not signed"):
        approver.announce_change(given._replace(signature=given.signature[:-2] + b"\0\0"))


def test_a_person_requests_a_run(service):
    with service.person() as operator:
        made = operator.train("machine", "because", kind="anomaly", seed=7)
        assert made["run_id"] in {run["run_id"] for run in operator.runs("machine")}
    row = run_of(service, made["run_id"])
    assert (row["state"], row["kind"], row["seed"], row["detail"]) == ("requested", "anomaly", 7, "because")


class Engine:
    """Answers commands as the engine does, in a thread."""

    def __init__(self, service, state, outcome):
        self.service, self.answer = service, {"state": state, "outcome": outcome}
        self.seen = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        while not self._stop.wait(0.02):
            with self.service.registry.transaction() as connection:
                waiting = commands.c.state == "waiting"
                self.seen += connection.execute(select(commands).where(waiting)).mappings().all()
                connection.execute(update(commands).where(waiting).values(**self.answer))


def test_a_command_returns_what_the_engine_answers(service):
    with service.person() as operator, Engine(service, "done", {"rollout_id": "r-1"}) as engine:
        assert operator.start_rollout("machine-1.0123abcd", "default") == {"rollout_id": "r-1"}
        assert operator.control_rollout("r-1", "abort", "smoke") == {"rollout_id": "r-1"}
    assert [(c["kind"], c["actor"]) for c in engine.seen] == [
        ("start_rollout", "operator"),
        ("control_rollout", "operator"),
    ]
    assert engine.seen[0]["body"] == {"version": "machine-1.0123abcd", "group": "default", "security": False}
    assert engine.seen[1]["body"]["roles"] == ["approver", "operator"]


def test_the_refusal_of_a_command_has_the_engines_reason(service):
    refused = Engine(service, "refused", {"reason": "a rollout is under way"})
    with service.person() as operator, refused, pytest.raises(RegistryError, match="under way"):
        operator.start_rollout("machine-1.0123abcd", "default")


def test_an_approver_resumes_and_does_nothing_else(service):
    with somebody(service, "ann", Role.APPROVER) as ann, Engine(service, "done", {}) as engine:
        stub = admin(ann)
        stub.ControlRollout(ControlRolloutRequest(rollout_id="r", action="resume"), timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            stub.ControlRollout(ControlRolloutRequest(rollout_id="r", action="abort"), timeout=10)
    assert refusal(caught.value) == ("PERMISSION_DENIED", "ACCESS_ERROR")
    assert [c["body"]["roles"] for c in engine.seen] == [["approver"]]


def test_an_unknown_action_never_reaches_the_engine(service):
    with service.person() as operator, Engine(service, "done", {}) as engine:
        with pytest.raises(Exception, match="one of pause, resume, abort"):
            operator.control_rollout("r-1", "explode")
        assert engine.seen == []


def test_a_client_can_be_made_before_the_service_is_back(service):
    service.child.kill()
    client = FleetClient(service.settings)
    service.start()
    with client:
        assert client.rollouts() == []


def test_a_person_whose_certificate_is_revoked_is_refused_at_the_next_call(service, approver):
    with somebody(service, "ann", Role.OPERATOR) as ann:
        stub = admin(ann)
        stub.ListDevices(ListRequest(), timeout=10)
        done = approver.revoke_certificate(certificate_pem=ann.certificate_pem, reason="stolen")
        serial = read_holder(ann.certificate_pem).serial
        assert done == {"name": "ann", "serial": serial, "revoked": True}
        assert refused(stub.ListDevices, ListRequest()) == DENIED
        assert refused(admin(ann).ListDevices, ListRequest()) == DENIED
    entry = rows(service, certificates, certificates.c.serial == serial)
    approver.revoke_certificate(serial)
    assert rows(service, certificates, certificates.c.serial == serial) == entry, "a repeat changes nothing"
    [event] = rows(service, outbox, outbox.c.step == "certificate_revoked", outbox.c.subject == "ann")
    assert event["detail"] == {"by": "operator", "serial": serial, "roles": "operator", "why": "stolen"}


def test_people_are_listed_with_the_serial_that_revokes_them(service, approver):
    with somebody(service, "bob", Role.VIEWER, Role.LABELLER) as bob:
        (service.settings.pki / "people" / "bob.pem").write_bytes(bob.certificate_pem)
        record_people(service.settings, service.registry)
        by_name = {entry["name"]: entry for entry in approver.people()}
        assert by_name.keys() >= {"bob", "operator", "viewer"}
        found = by_name["bob"]
        assert (found["roles"], found["revoked_at"]) == (["labeller", "viewer"], None)
        as_openssl_prints_it = f"0{found['serial'].upper()}"
        assert approver.revoke_certificate(as_openssl_prints_it)["name"] == "bob"
        assert refused(admin(bob).ListDevices, ListRequest()) == DENIED
        again = {entry["name"]: entry["revoked_at"] for entry in approver.people()}
        assert (again["bob"] is not None, again["operator"]) == (True, None)


def test_only_an_approver_revokes_a_person(service):
    with somebody(service, "olga", Role.OPERATOR) as olga, service.person("viewer") as viewer:
        request = RevokeCertificateRequest(certificate_pem=olga.certificate_pem)
        assert refused(admin(olga).RevokeCertificate, request) == DENIED
        with pytest.raises(RejectedError, match=r"viewer \(viewer\) may not call RevokeCertificate"):
            viewer.revoke_certificate(certificate_pem=olga.certificate_pem)
        admin(olga).ListDevices(ListRequest(), timeout=10)


def test_only_a_persons_certificate_is_revoked(service, approver, tmp_path):
    before = rows(service, certificates)
    with ModelService(tmp_path) as elsewhere, somebody(elsewhere, "eve", Role.OPERATOR) as eve:
        foreign = eve.certificate_pem
    with pytest.raises(RejectedError, match="not a certificate of this authority"):
        approver.revoke_certificate(certificate_pem=foreign)
    for given in ({}, {"serial": "0a", "certificate_pem": foreign}):
        with pytest.raises(RejectedError, match="either this or certificate_pem"):
            approver.revoke_certificate(**given)
    with pytest.raises(RejectedError, match="not a certificate that we accept"):
        approver.revoke_certificate(certificate_pem=b"no certificate")
    with pytest.raises(RegistryError, match="no certificate abc is on record"):
        approver.revoke_certificate("abc")
    assert rows(service, certificates) == before
    with service.joined("m-1") as device:
        with pytest.raises(RegistryError, match="`edgeloop fleet revoke m-1`"):
            approver.revoke_certificate(certificate_pem=device.certificate_pem)
        device.delivery().Report(device.report(1), timeout=10)


def rows(service, table, *where):
    with service.registry.reading() as connection:
        return list(connection.execute(select(table).where(*where)).mappings())
