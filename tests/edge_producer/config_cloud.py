"""A cloud that signs and names configurations of `machine`, over real TLS before a real repository."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from model_service.trust import ceremony
from model_service.trust.channel_targets import countersign_broad, propose_broad, publish_broad
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model, publish_model
from schemas.channel_documents import BROAD_ROLE, ChannelDocument, Release, artifact_path, model_role
from schemas.cohorts import EVERYBODY
from schemas.config_manifest import ConfigBundle, ConfigLineage, ConfigManifest, no_config
from schemas.config_spec import ConfigSpec, ParameterSpec
from tests.edge_producer.updater_rig import quick_machine
from tests.simulators.update_service import FAMILY, UpdateService

PLAN = "plan"
START = datetime(2026, 1, 1, tzinfo=UTC)
PARAMETERS = (
    ParameterSpec(name="green_s", unit="s", min=5.0, max=60.0, shape=(2,)),
    ParameterSpec(name="offset_s", unit="s", min=0.0, max=120.0, each="device"),
)
SPEC = ConfigSpec(
    family=PLAN, trainer="t", every_s=60.0, parameters=PARAMETERS, lead_s=0.0, valid_after_s=0.0
)
PLANNED = quick_machine().model_copy(update={"configs": (SPEC,)})
"""The machine profile, with one family of configurations."""


def lineage(**given):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    facts = {
        "cut": 1, "pin": "p", "known_at": now, "event_from": now, "event_to": now, "computed_at": now,
        "champion": "", "devices": 1, "seed": 1, "code": "test",
    }  # fmt: skip
    return ConfigLineage(**{**facts, **given})


def config(major=1, green=(20.0, 30.0), *, valid_from=None, offsets=None, **given):
    """A configuration for group `default`."""
    manifest = ConfigManifest(
        **{
            "name": PLAN, "version": f"{PLAN}-0.00000000", "profile": FAMILY, "group": "default",
            "unit": "site", "parameters": PARAMETERS, "valid_from": valid_from or START,
            "lead_s": 0.0, "trainer": "t", "lineage": lineage(), "files": {}, **given,
        }
    )  # fmt: skip
    offsets = {"m-1": 7.0} if offsets is None else offsets
    return ConfigBundle.made(manifest, {"green_s": list(green), "offset_s": offsets}, major)


class ConfigCloud(UpdateService):
    """Signs configurations, and names them in documents of the broad ring."""

    def __init__(self, folder, group="default"):
        super().__init__(folder, group)
        ceremony.init(self.settings, [PLAN], {})

    def sign_config(self, bundle, data=None, custom=None):
        data = bundle.packed() if data is None else data
        custom, digest = custom or bundle.manifest.custom(), hashlib.sha256(data).hexdigest()
        keys, role = self.settings.keys, model_role(PLAN)
        propose_model(self.repo, load_online_key(keys / "trainer", role), data, custom)
        countersign_model(self.repo, load_online_key(keys / "gate", role), digest, custom)
        publish_model(self.repo, PLAN, self.online, artifact_path(PLAN, custom.version))
        return Release(version=custom.version, sha256=digest)

    def name_config(
        self, target, *, baseline=None, cohort=EVERYBODY, reason="normal", model=None, issued=None
    ):
        self.seq += 1
        now = issued or datetime.now(UTC)
        model = model or self.factory
        channel = ChannelDocument(
            group=self.group, ring="broad", seq=self.seq, rollout_id=f"r-{self.seq}",
            target={FAMILY: model, PLAN: target},
            baseline={FAMILY: model, PLAN: baseline or no_config(PLAN)},
            cohort=cohort, reason=reason, issued=now, expires=now + timedelta(days=7),
        )  # fmt: skip
        keys = self.settings.keys
        propose_broad(self.repo, channel, load_online_key(keys / "engine", BROAD_ROLE))
        countersign_broad(self.repo, channel, load_online_key(keys / "guard", BROAD_ROLE))
        publish_broad(self.repo, self.group, self.online)
        self.hint()
        return channel
