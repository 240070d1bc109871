"""`edgeloop rollout` against the real processes: what people type, and what is printed."""

from model_service.address import read_address
from model_service.identity.authority import init_pki
from tests.infra.cli import Edgeloop
from tests.simulators.rollout_deployment import GROUP, RolloutDeployment, quick_profile
from tests.waiting import wait_until


def test_a_person_starts_pauses_and_resumes_a_rollout(tmp_path):
    deployment, edgeloop = RolloutDeployment(tmp_path), Edgeloop(tmp_path)
    deployment.use(quick_profile(auto=False, min_devices=25))
    init_pki(deployment.settings)
    names = deployment.join(20)
    new = deployment.sign(1)
    running = [deployment.start(name) for name in ("engine", "guard", "serve")]
    try:
        wait_until(lambda: read_address(deployment.settings) is not None, 40, "the deployment to listen")
        wait_until(lambda: deployment.repo.target(f"models/machine/{new.version}.bundle"), 40, "publication")
        started = edgeloop.json("rollout", "start", new.version, "--group", GROUP)
        assert started["rollout_id"] == f"{GROUP}-1"
        wait_until(lambda: deployment.obey(names) or deployment.rollout().pause is not None, 30, "the pause")
        shown = edgeloop("rollout", "status").stdout
        assert "waits for" in shown
        assert "approver" in shown
        assert "100% of the pool" in shown
        assert "20 devices compared both models, 25 are needed" in shown
        assert edgeloop.json("rollout", "resume", f"{GROUP}-1", "--reason", "looked at")["state"] == "running"
        wait_until(
            lambda: deployment.obey(names) < 0 or deployment.rollout().state == "completed", 40, "the end"
        )
        found = edgeloop.json("rollout", "status", f"{GROUP}-1")
        assert (found["state"], found["numbers"]["committed"]) == ("completed", 20)
        late = edgeloop("rollout", "abort", f"{GROUP}-1", "--reason", "late")
        assert late.returncode == 1
        assert "`edgeloop rollout back` undoes" in late.stderr
        assert "completed" in edgeloop("rollout", "history", "--group", GROUP).stdout
        assert edgeloop.json("rollout", "back", "--group", GROUP)["state"] == "aborting"
        nothing = edgeloop("rollout", "back", "--group", GROUP)
        assert nothing.returncode == 1
        assert "run the factory's set" in nothing.stderr
    finally:
        for process in running:
            process.terminate()
        codes = [process.wait(20) for process in running]
        deployment.registry.close()
    assert codes == [0, 0, 0]


def test_without_a_model_service_the_commands_print_what_to_do(tmp_path):
    for command in (["status"], ["history"], ["resume", "line-1"]):
        result = Edgeloop(tmp_path)("rollout", *command)
        assert result.returncode == 1
        assert "edgeloop up" in result.stderr
