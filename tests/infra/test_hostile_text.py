"""Text that anybody may write to the log reaches no terminal raw, by whatever command it is looked at."""

import json

import confluent_kafka as ck
import pytest

from feature_store import connect
from feature_store.cut_store import CutStore
from schemas.topics import ALERT, DEAD_LETTER, TELEMETRY
from tests.infra.cli import EdgeloopHere
from tests.simulators.cloud import Cloud
from tests.simulators.messages import SimDevice
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x1b[31mALL GOOD\x1b[8m\u202e\x9b5n\u2028\r\nerror"


@pytest.fixture(scope="module")
def attacked(broker, admin, tmp_path_factory):
    """A state folder whose log and lake hold hostile text, unsigned and signed."""
    folder, namespace = tmp_path_factory.mktemp("state"), "hostile"
    admin.create_topics(namespace)
    with Cloud(broker.bootstrap_servers, namespace, folder) as cloud:
        device = SimDevice("machine-07")
        cloud.register(device)
        cloud.start()
        producer = ck.Producer({"bootstrap.servers": broker.bootstrap_servers, "partitioner": "murmur2"})
        text = HOSTILE.encode()
        sealed = device.rows(0, 2, decision=[HOSTILE] * 2, model_version=[HOSTILE] * 2)
        producer.produce(TELEMETRY.named(namespace), text, text, headers=[(HOSTILE, text)])
        producer.produce(TELEMETRY.named(namespace), sealed.value, sealed.key, headers=sealed.headers)
        producer.produce(ALERT.named(namespace), json.dumps({"x": HOSTILE}).encode(), text, headers=[])
        letter = [("error", text), ("reason", text)]
        producer.produce(DEAD_LETTER.named(namespace), text, text, headers=letter)
        assert producer.flush(30) == 0

        def arrived():
            if CutStore(cloud.lake).latest() is None:
                return False
            with connect(cloud.lake.root, comments=False) as con:
                counts = "SELECT (SELECT count(*) FROM quarantine), (SELECT count(*) FROM telemetry)"
                return con.execute(counts).fetchone() == (2, 2)

        wait_until(arrived, 60, "the rows")
        edgeloop = EdgeloopHere(folder)
        where = {"EDGELOOP_BROKER": broker.bootstrap_servers, "EDGELOOP_NAMESPACE": namespace}
        yield lambda *arguments: edgeloop(*arguments, **where)
    admin.delete_topics([t for t in admin.topics() if t.startswith(f"{namespace}.")])


COMMANDS = [
    ("sql", "SELECT * FROM quarantine"),
    ("sql", "SELECT * FROM quarantine", "--csv"),
    ("sql", "SELECT * FROM quarantine", "--json"),
    ("sql", "SELECT decision, model_version FROM telemetry"),
    ("sql", f"SELECT * FROM nothing_{HOSTILE}"),
    ("topic", "tail", TELEMETRY.base),
    ("topic", "tail", TELEMETRY.base, "--json"),
    ("topic", "tail", ALERT.base),
    ("topic", "tail", DEAD_LETTER.base),
    ("topic", "tail", HOSTILE),
    ("dlq", "list"),
    ("dlq", "list", "--json"),
    ("dlq", "show", "0:0"),
    ("dlq", "show", HOSTILE),
    ("dlq", "replay", HOSTILE),
    ("status",),
    ("status", "--json"),
    ("job", "lag"),
    ("label", "list"),
    ("label", "add", HOSTILE, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", HOSTILE),
    ("drift", "list"),
    ("fleet", "invite", HOSTILE, "--profile", HOSTILE),
    ("model", "lineage", HOSTILE),
    ("rollout", "status", HOSTILE),
    ("profile", "check", HOSTILE),
    ("lake", "pin", HOSTILE),
    (HOSTILE,),
]


@pytest.mark.sliced(one_of=3)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c)[:24].replace("\x1b", ""))
def test_no_command_shows_a_control_character(attacked, command):
    done = attacked(*command)
    shown = done.stdout + done.stderr
    raw = {f"{ord(c):x}" for c in shown if not c.isprintable() and c not in "\n\t"} - {"d"}
    assert raw == set(), shown
    assert "\r" not in shown.replace("\r\n", "\n")
    assert "Traceback" not in shown


def test_what_the_commands_hide_is_told(attacked):
    assert r"\x1b]0;owned" in attacked("sql", "SELECT producer FROM quarantine WHERE n_bytes > 30").stdout
    assert r"\x1b[31mALL GOOD" in attacked("topic", "tail", TELEMETRY.base).stdout
    assert "NOT OURS" in attacked("dlq", "list").stdout
