"""What `edgeloop job …` and `edgeloop status` say of users' jobs, and what a person can do about one."""

import json
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from feature_store.job_status import RUNNING, JobStatus, JobStatusFiles
from infra.job_report import commits_to_read
from infra.stack.stack_file import StackLock
from stream_processors.user_jobs.job_points import find_point, installed_package
from tests.infra.cli import EdgeloopHere
from tests.simulators.installed_jobs import NUMBERING, install
from tests.stream_processors.user_job_rig import Numbering, UserJobRig


class Failing(Numbering):
    def process(self, batch, state, now):
        if batch.rows:
            raise ValueError("no such sensor: \x1b[2J")
        return super().process(batch, state, now)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which jobs are installed."""
    made = tmp_path / "installed"
    made.mkdir()
    monkeypatch.syspath_prepend(made)
    return made


@pytest.fixture
def edgeloop(tmp_path):
    return EdgeloopHere(tmp_path / "state")


@pytest.fixture
def rig(edgeloop, folder):
    """A lake in which a job has failed on the third of four commits."""
    install(folder, "numbering", NUMBERING.format(name="numbering"))
    made = UserJobRig(edgeloop.state_dir / "lake")
    made.open()
    made.land(2)
    made.run()
    made.land(2)
    made.run(Failing())
    return made


def test_a_job_that_has_stopped_is_shown_with_its_exception_everywhere(edgeloop, rig):
    [job] = edgeloop.json("job", "status")
    assert (job["job"], job["state"], job["behind"], job["tries"]) == ("numbering", "stopped", 2, 1)
    assert job["error"] == "ValueError: no such sensor: \\x1b[2J"
    [task] = job["tasks"]
    assert (task["task"], task["position"], task["newest"]) == ("task-00", 1, 3)
    assert "in process" in task["traceback"]
    for shown in (edgeloop("job", "status").stdout, edgeloop("status").stdout):
        assert "ValueError: no such sensor: \\x1b[2J" in shown
        assert "\x1b" not in shown
    status = edgeloop.json("status")
    assert [j["state"] for j in status["jobs"]] == ["stopped"]
    assert any("job numbering has stopped" in problem for problem in status["problems"])


def test_a_task_with_nothing_to_read_is_called_idle_and_not_stopped(edgeloop, rig):
    rig.statuses.write(JobStatus("numbering", "task-05").failed("ImportError: no", "", rig.now()), rig.now())
    tasks = {t["task"]: t["idle"] for t in edgeloop.json("job", "status")[0]["tasks"]}
    assert tasks == {"task-00": False, "task-05": True}
    shown = {
        line.split()[0]: line for line in edgeloop("job", "status").stdout.splitlines() if "task-" in line
    }
    assert "idle, nothing to read" in shown["task-05"]
    assert "stopped" in shown["task-00"]


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        (
            ("0.2.0", ""),
            "numbering 0.1.0 runs; numbering 0.2.0 is installed: `edgeloop down` and `edgeloop up`",
        ),
        (("0.1.0", "# mended"), "numbering 0.1.0 runs; another build of numbering 0.1.0 is installed"),
        (("0.1.0", ""), ""),
    ],
    ids=["version", "build", "the same"],
)
def test_another_version_than_the_one_that_runs_is_shown_until_a_restart(
    edgeloop, rig, folder, installed, says
):
    runs = installed_package(find_point("numbering"))
    status = JobStatus("numbering", "task-00", RUNNING, package=runs.name, build=runs.build)
    rig.statuses.write(status, rig.now())
    version, change = installed
    install(folder, "numbering", NUMBERING.format(name="numbering") + change, version=version)
    lock = StackLock(edgeloop.state_dir)
    assert lock.acquire()
    try:
        shown = edgeloop("job", "status").stdout
        assert ("is installed" in shown) == bool(says)
        assert says in shown
        assert edgeloop.json("job", "status")[0]["restart"] == bool(says)
    finally:
        lock.release()
    assert "is installed" not in edgeloop("job", "status").stdout, "nothing runs any more"


def test_resume_lets_it_be_tried_again_now(edgeloop, rig):
    assert edgeloop.json("job", "resume", "numbering") == {"job": "numbering", "tasks": 1}
    rig.run()
    assert rig.numbered() == rig.expected()
    assert "has not stopped" in edgeloop("job", "resume", "numbering").stdout
    assert edgeloop("job", "resume", "nobody").returncode == 1


def test_only_a_job_that_is_not_installed_can_be_forgotten(edgeloop, rig, folder, monkeypatch):
    refused = edgeloop("job", "forget", "numbering")
    assert refused.returncode == 1
    assert "uninstall its package first" in refused.stderr
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p != str(folder)])
    assert [j["state"] for j in edgeloop.json("job", "status")] == ["not installed"]
    assert edgeloop.json("job", "forget", "numbering") == {"job": "numbering", "tasks": 1}
    assert JobStatusFiles(rig.lake.root).all() == []


def test_a_job_that_runs_is_down_once_nothing_runs(edgeloop, rig):
    rig.statuses.retry("numbering", rig.now())
    rig.run()
    assert [j["state"] for j in edgeloop.json("job", "status")] == ["down"]


def test_only_jobs_that_run_are_waited_for(edgeloop, rig):
    lake = rig.lake.root
    assert commits_to_read(lake, rig.now()) == 0, "it has stopped"
    rig.statuses.retry("numbering", rig.now())
    rig.run()
    rig.land(3)
    assert commits_to_read(lake, rig.now()) == 3
    assert commits_to_read(lake, rig.now() + timedelta(minutes=2)) == 0, "it has not been heard of"


def test_a_job_that_cannot_be_loaded_is_listed_with_the_others(edgeloop, folder):
    install(folder, "broken_job", "raise ImportError('no module named mine')")
    install(folder, "numbering", NUMBERING.format(name="numbering"))
    found = {job["name"]: job for job in edgeloop.json("job", "list")}
    assert {"ingest", "aggregate", "drift", "numbering", "broken_job"} <= set(found)
    assert found["numbering"]["writes"] == ["numbering_rows"]
    assert found["broken_job"]["error"] == "cannot be loaded: ImportError: no module named mine"
    assert "cannot be loaded" in edgeloop("job", "list").stdout
    states = {job["job"]: job["state"] for job in edgeloop.json("job", "status")}
    assert states == {"numbering": "down", "broken_job": "down"}


def test_a_package_whose_entry_points_cannot_be_read_hides_no_other_job(edgeloop, folder):
    install(folder, "numbering", NUMBERING.format(name="numbering"))
    install(folder, "garbled", "")
    (folder / "garbled-0.1.0.dist-info" / "entry_points.txt").write_text("[edgeloop.jobs]\nno equals sign\n")
    (folder / "nameless-0.1.0.dist-info").mkdir()
    names = {job["name"] for job in edgeloop.json("job", "list")}
    assert {"ingest", "aggregate", "drift", "numbering"} <= names


@pytest.mark.kafka
def test_a_worker_in_the_foreground_says_on_standard_output_only_how_it_ended(edgeloop):
    command = [sys.executable, "-m", "infra", "job", "run", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=edgeloop.environment({"PYTHONUNBUFFERED": "1"})) as running:
        assert any("Ctrl-C ends it" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=120)
    said = json.loads(out)
    assert said["namespace"] == ""
    assert said["broker"].startswith("127.0.0.1:")
    assert (said["exit_code"] == 0) == (running.returncode == 0)
