"""The command line: what it prints, what it refuses, how it ends."""

import csv
import io
import json
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer

from infra.cli.app import build_app
from infra.cli.console import hint
from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from schemas.envelope import Envelope, MessageSigner, seal
from schemas.errors import BrokerUnavailableError, QueryError
from schemas.topics import DEAD_LETTER, LABEL, Lane
from tests.feature_store.fleets import land, machine_lake, quarantined
from tests.infra.cli import Edgeloop, EdgeloopHere

FAMILIES = ["up", "down", "status", "doctor", "topic", "sql", "lake", "profile", "job", "dlq"]


@pytest.fixture
def edgeloop(tmp_path: Path) -> EdgeloopHere:
    return EdgeloopHere(tmp_path / "state")


@pytest.fixture
def on_broker(edgeloop: EdgeloopHere, broker: KafkaBroker, namespace: str) -> dict[str, str]:
    """Variables that make the command use the session's broker."""
    return {
        "EDGELOOP_BROKER": broker.bootstrap_servers,
        "EDGELOOP_NAMESPACE": namespace,
        "EDGELOOP_WORKERS": "0",
    }


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["sql"], ["up", "--workers", "many"], ["topic", "tail"], ["lake", "pin"], ["job", "fly"]],
    ids=" ".join,
)
def test_misuse_ends_with_2(edgeloop: EdgeloopHere, arguments: list[str]):
    result = edgeloop(*arguments)
    assert result.returncode == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_explains_itself(edgeloop: EdgeloopHere, family: str):
    result = edgeloop(family, "--help")
    assert result.returncode == 0
    assert "Usage: edgeloop" in result.stdout


def every_command(group=None, path=""):
    group = group or typer.main.get_command(build_app())
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_json_is_a_flag_of_every_command():
    with_flag = {
        name for name, command in every_command() for p in command.params if "--json" in p.opts and p.is_flag
    }
    assert {name for name, _ in every_command()} == with_flag


def test_every_command_with_tables_shows_times_in_utc_and_rows_on_one_line_where_it_is_asked_to():
    options = {name: {o for p in command.params for o in p.opts} for name, command in every_command()}
    lacking = {name for name, own in options.items() if not {"--utc", "--wide"} <= own}
    assert lacking == set()
    watched = {name for name, own in options.items() if "--watch" in own}
    assert {"status", "job lag", "job status", "topic list", "rollout status"} <= watched
    assert {"fleet devices", "fleet tokens", "fleet people"} <= watched


def test_watching_shows_it_again_until_ctrl_c_which_is_no_failure(edgeloop: EdgeloopHere):
    command = [sys.executable, "-m", "infra", "topic", "list", "--watch", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=edgeloop.environment({"PYTHONUNBUFFERED": "1"})
    ) as watching:
        closing = (line for line in watching.stdout if line == "]\n")
        assert [next(closing), next(closing)] == ["]\n"] * 2
        watching.send_signal(signal.SIGINT)
    assert watching.returncode == 0


def test_the_version_is_told(edgeloop: EdgeloopHere):
    told = edgeloop("--version")
    assert (told.returncode, told.stdout.split()[:2]) == (0, ["edgeloop", version("edgeloop") + ","])


def test_the_command_line_starts_without_what_only_some_commands_need():
    code = "import sys; from infra.cli.app import build_app; build_app(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rooms = ["feature_store", "edge_producer", "stream_processors", "model_service", "infra.drift_report"]
    heavy = [
        "river",
        "pyarrow",
        "duckdb",
        "deltalake",
        "onnxruntime",
        "sklearn",
        "sqlalchemy",
        "confluent_kafka",
    ]
    assert {*rooms, *heavy} & set(loaded.stdout.split()) == set()


def loaded_by(code):
    code = f"import sys; {code}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(loaded.stdout.split())


def test_what_only_reads_the_registry_loads_no_migrations():
    loaded = loaded_by("import model_service; model_service.Registry, model_service.run_store")
    assert "sqlalchemy" in loaded
    assert {"alembic", "river", "sklearn", "faust"} & loaded == set()


def test_processes_of_the_model_service_load_what_trains_and_runs_models_only_where_they_do():
    processes = "model_service.processes.engine_process, model_service.processes.guard_process"
    loaded = loaded_by(f"import {processes}")
    assert "sqlalchemy" in loaded
    assert {"onnx", "onnxruntime", "sklearn", "skl2onnx", "scipy", "alembic"} & loaded == set()
    rest = ", ".join(f"model_service.processes.{name}_process" for name in ("serve", "trainer", "gate"))
    assert {"sklearn", "skl2onnx", "scipy", "alembic"} & loaded_by(f"import {rest}") == set()


def test_status_starts_without_what_it_asks_only_where_there_is_something_to_show():
    loaded = loaded_by("import infra.stack.stack_status")
    asked_for = {"duckdb", "sqlalchemy", "feature_store.sql", "model_service.registry.database"}
    others = {"aiokafka", "cryptography", "edge_producer.spool", "model_service.training.run_store"}
    models = {"schemas.profile", "schemas.events", "schemas.manifest"}
    assert (asked_for | others | models | {"alembic", "river", "sklearn", "faust"}) & loaded == set()


def test_a_failure_is_one_line_without_a_traceback(tmp_path: Path):
    result = Edgeloop(tmp_path)("sql", "SELECT 1")
    assert (result.returncode, result.stdout) == (1, "")
    error, advice = result.stderr.splitlines()
    assert error.startswith("error: no lake at")
    assert advice.startswith("hint: `edgeloop replay FILE")


def test_the_hint_is_the_operator_action_of_the_class():
    assert hint(BrokerUnavailableError("x")).startswith("`edgeloop status`")
    assert hint(QueryError("x")) == ""


def test_a_misspelt_variable_is_refused(edgeloop: EdgeloopHere):
    result = edgeloop("status", EDGELOOP_NAMESPCE="x")
    assert result.returncode == 1
    assert "unknown variable EDGELOOP_NAMESPCE" in result.stderr


def test_doctor_in_json_gives_each_check_a_verdict(edgeloop: EdgeloopHere):
    found = edgeloop.json("doctor")
    assert found["fit"] is True
    assert {"Python", "Java", "Maven", "Kafka jars", "disk", "memory", "port", "packages"} <= {
        c["name"] for c in found["checks"]
    }
    assert {c["verdict"] for c in found["checks"]} <= {"ok", "warn"}


def test_doctor_fails_with_advice_where_java_is_missing(edgeloop: EdgeloopHere, tmp_path: Path):
    result = edgeloop("doctor", "--json", PATH=str(tmp_path))
    java = next(c for c in json.loads(result.stdout)["checks"] if c["name"] == "Java")
    assert result.returncode == 1
    assert (java["verdict"], java["advice"]) == ("fail", "apt-get install openjdk-17-jre-headless")


def test_doctor_names_a_taken_port(edgeloop: EdgeloopHere, broker: KafkaBroker):
    result = edgeloop("doctor", "--json", EDGELOOP_KAFKA_PORT=str(broker.port))
    port = next(c for c in json.loads(result.stdout)["checks"] if c["name"] == "port")
    assert (result.returncode, port["verdict"]) == (1, "fail")


def test_status_of_nothing_is_down(edgeloop: EdgeloopHere):
    status = edgeloop.json("status")
    assert (status["state"], status["processes"], status["tables"], status["cut"]) == ("down", [], [], None)


def test_built_in_jobs_are_listed(edgeloop: EdgeloopHere):
    assert {"ingest", "aggregate", "drift"} <= {j["name"] for j in edgeloop.json("job", "list")}


def test_the_shipped_profile_is_listed_shown_and_holds(edgeloop: EdgeloopHere):
    assert "machine" in {p["name"] for p in edgeloop.json("profile", "list")}
    assert edgeloop.json("profile", "show", "machine")["name"] == "machine"
    assert edgeloop.json("profile", "check", "machine")["ok"] is True


def test_a_broken_profile_fails_with_its_field(edgeloop: EdgeloopHere, tmp_path: Path):
    path = tmp_path / "p.toml"
    path.write_text('name = "p"\n')
    result = edgeloop("profile", "check", str(path))
    assert result.returncode == 1
    assert "error:" in result.stderr
    assert "hint:" in result.stderr


@pytest.mark.kafka
def test_a_query_is_answered_in_three_forms(edgeloop: EdgeloopHere, on_broker: dict[str, str]):
    machine_lake(edgeloop.state_dir / "lake")
    statement = "SELECT 1 AS one, 'x' AS letter"
    assert edgeloop.json("sql", statement) == [{"one": 1, "letter": "x"}]
    assert list(csv.reader(io.StringIO(edgeloop("sql", statement, "--csv").stdout))) == [
        ["one", "letter"],
        ["1", "x"],
    ]
    assert "one  letter" in edgeloop("sql", statement).stdout
    assert edgeloop("sql", statement, "--csv", "--json").returncode == 2
    assert edgeloop("sql", "SELECT nothing").returncode == 1


@pytest.mark.kafka
def test_tail_shows_envelope_and_event(edgeloop: EdgeloopHere, on_broker: dict[str, str], admin: KafkaAdmin):
    value = json.dumps({"label_id": "l-1"}).encode()
    envelope = Envelope("json", "machine", "dev-1", "0" * 16, Lane.LABEL, 0, 1, len(value), b"", "")
    sealed = seal(LABEL.base, envelope, value, MessageSigner.generate())
    topic = LABEL.named(on_broker["EDGELOOP_NAMESPACE"])
    admin.send(topic, sealed.key, sealed.headers, sealed.value)
    admin.send(topic, b"dev-2", [], b"\xff\x00")
    lines = edgeloop("topic", "tail", LABEL.base, "--json", **on_broker).stdout.splitlines()
    shown, broken = (json.loads(line) for line in lines)
    assert (shown["key"], shown["envelope"]["lane"], shown["value"]) == (
        "dev-1",
        "label",
        {"label_id": "l-1"},
    )
    assert broken["undecoded"].startswith("DecodeError")


@pytest.mark.kafka
def test_an_unknown_topic_names_those_there_are(edgeloop: EdgeloopHere):
    result = edgeloop("topic", "tail", "telemetry")
    assert result.returncode == 1
    assert "there are aggregate.v1, alert.v1" in result.stderr


@pytest.mark.kafka
def test_a_dead_letter_is_listed_shown_and_replayed_byte_for_byte(
    edgeloop: EdgeloopHere, on_broker: dict[str, str], admin: KafkaAdmin
):
    namespace = on_broker["EDGELOOP_NAMESPACE"]
    headers = [
        ("source_topic", b"label.v1"), ("source_partition", b"3"), ("source_offset", b"7"),
        ("error", b"SignatureError"), ("reason", b"unknown signer"),
        ("original.lane", b"label"), ("original.digest", b"\x00\xff"), ("event_id", b"task-03/5/0"),
    ]  # fmt: skip
    for _ in range(2):  # a repeat after a crash
        admin.send(DEAD_LETTER.named(namespace), b"dev-1", headers, b"\x01\x02")
    [letter] = edgeloop.json("dlq", "list", **on_broker)
    assert (letter["source"], letter["error"]) == ("label.v1[3]@7", "SignatureError")
    assert edgeloop.json("dlq", "show", letter["id"], **on_broker)["value"] == "0102"
    assert edgeloop.json("dlq", "replay", letter["id"], **on_broker) == {
        "replayed": [letter["id"]],
        "lost": 0,
    }
    [again] = admin.read(admin.spans([LABEL.named(namespace)]))
    assert (again.key, again.value) == (b"dev-1", b"\x01\x02")
    assert again.headers == [("lane", b"label"), ("digest", b"\x00\xff")]
    assert edgeloop("dlq", "show", "9:9", **on_broker).returncode == 1


def test_status_shows_who_had_most_refused(edgeloop: EdgeloopHere):
    lake = machine_lake(edgeloop.state_dir / "lake")
    land(
        lake,
        quarantine=quarantined(
            producer=["m-1", "m-1", None], verified=[True, False, False], n_messages=[2, 1, 500],
            topic=["telemetry.v1"] * 3, error=["UnknownSchemaError", "DecodeError", "DecodeError"],
        ),
    )  # fmt: skip
    found = edgeloop.json("status")["refused"]
    assert [(r["device_id"], r["error"], r["messages"]) for r in found] == [
        (None, "DecodeError", 501),
        ("m-1", "UnknownSchemaError", 2),
    ]
    assert "nobody registered" in edgeloop("status").stdout


@pytest.mark.kafka
def test_a_letter_without_bytes_says_where_they_are_and_is_replayed_from_there(
    edgeloop: EdgeloopHere, on_broker: dict[str, str], admin: KafkaAdmin
):
    namespace = on_broker["EDGELOOP_NAMESPACE"]
    topic, sent = LABEL.named(namespace), [(b"dev", [("n", b"%d" % n)], b"%d" % n) for n in range(6)]
    admin.send_all(topic, sent)
    [partition] = {m.partition for m in admin.read(admin.spans([topic]))}
    place = [
        ("source_topic", b"label.v1"), ("source_partition", b"%d" % partition), ("error", b"DecodeError"),
        ("reason", b"no"), ("signed", b"false"), ("original_digest", b"ab"),
    ]  # fmt: skip
    summed = [("summed", b"3"), ("offsets", b"1-2,4-4"), ("source_offset", b"1"), ("n_bytes", b"12")]
    alone = [("summed", b"1"), ("offsets", b"5-5"), ("source_offset", b"5"), ("n_bytes", b"4")]
    gone = [("too_large", b"9 bytes"), ("source_offset", b"99")]
    for more in (summed, alone, gone):
        admin.send(DEAD_LETTER.named(namespace), b"", [*place, *more], b"")
    letters = {x["source"]: x for x in edgeloop.json("dlq", "list", **on_broker)}
    many, one, _ = (letters[f"label.v1[{partition}]@{offsets}"] for offsets in ("1..4", "5", "99"))
    assert (many["messages"], many["kept"], many["signed"], many["message_bytes"]) == (
        3,
        "place",
        False,
        12,
    )
    assert edgeloop.json("dlq", "show", many["id"], **on_broker)["offsets"] == [[1, 2], [4, 4]]
    assert edgeloop.json("dlq", "replay", "--all", **on_broker) == {
        "replayed": [one["id"]], "lost": 1, "summed": 3,
    }  # fmt: skip
    edgeloop.json("dlq", "replay", many["id"], **on_broker)
    replayed = [(m.key, m.headers, m.value) for m in admin.read(admin.spans([topic]))][6:]
    assert replayed == [sent[n] for n in (5, 1, 2, 4)]


@pytest.mark.kafka
def test_a_forged_letter_stops_no_replay(
    edgeloop: EdgeloopHere, on_broker: dict[str, str], admin: KafkaAdmin
):
    dead, good = DEAD_LETTER.named(on_broker["EDGELOOP_NAMESPACE"]), [("source_topic", b"label.v1")]
    forged = [("source_topic", b"nowhere"), ("summed", b"9" * 5000), ("offsets", "\u00b2-3".encode())]
    admin.send_all(dead, [(b"a", forged, b""), (b"b", [], b""), (b"c", good, b"x")])
    assert edgeloop.json("dlq", "replay", "--all", **on_broker)["lost"] == 2
    assert len(edgeloop.json("dlq", "list", **on_broker)) == 3


@pytest.mark.kafka
def test_a_cut_is_pinned_and_unpinned(edgeloop: EdgeloopHere, on_broker: dict[str, str]):
    machine_lake(edgeloop.state_dir / "lake")
    assert edgeloop.json("lake", "pin", "training")["pin"] == "training"
    assert [c["pin"] for c in edgeloop.json("lake", "cuts")] == ["training"]
    edgeloop.json("lake", "unpin", "training")
    assert edgeloop("lake", "unpin", "training").returncode == 1
    assert edgeloop.json("lake", "compact") == {"merged_files": 0}
    assert edgeloop.json("lake", "vacuum") == {"deleted_files": 0}
