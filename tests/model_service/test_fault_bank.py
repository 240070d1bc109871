"""The fault bank: frozen, small, and like the faults that it stands for."""

import numpy as np
import pytest

from model_service.models.fault_bank import FOLDER, frozen_digests, load_fault_bank
from schemas.errors import BundleError
from tests.model_service.regimes import BANK, HOLDOUT, MACHINE, OLD, features, healthy, warmer, worn

SPAN = range(61, 67)


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def shift(story):
    """Mean shift that a story makes, in standard deviations; machines that are not in the bank."""
    before, after = (OLD.standardised(features(s, SPAN, 10).reshape(-1, 10)) for s in (healthy, story))
    return (after - before).mean(axis=0)


def test_the_bank_ships_and_is_small():
    assert BANK.features == MACHINE.feature_names
    assert BANK.kinds == ("bearing_wear", "imbalance")
    assert (FOLDER / "machine.json").stat().st_size < 100_000


def test_a_bank_that_is_not_the_frozen_one_is_refused(tmp_path):
    text = (FOLDER / "machine.json").read_text()
    (tmp_path / "machine.json").write_text(text.replace("0.1", "0.2", 1))
    with pytest.raises(BundleError, match="not the fault bank that was frozen"):
        load_fault_bank("machine", tmp_path)
    assert load_fault_bank("pump", tmp_path) is None


FROZEN = {
    "machine": "11150b8502f835143bfd0b8e1d380228a603b606ccc563ef62b178566a3064b7",
    "robot": "5dea03d05e6c6fd96cc5206296b82f68aba22fc784183ace3367a30d33418d53",
    "traffic": "fac5e91cbe8191e56f788801c8e0c4e25484e8e8a2bea56bbfaca4076ce455b2",
    "wearable": "a78edc3c8f995bc94a26ee697c0d1975f2d2ea8d33501d77253415bdb12b2365",
}


def test_banks_are_those_that_were_frozen():
    assert frozen_digests() == FROZEN
    assert {name: load_fault_bank(name).digest for name in FROZEN} == FROZEN


def test_injection_multiplies_scales_and_adds_to_places():
    rows = features(healthy, HOLDOUT, 15).reshape(-1, 10)
    injected = BANK.inject(rows, "bearing_wear", 0.4)
    members = BANK.effects["bearing_wear"][0.4]
    for i, row in enumerate(rows):
        effect = members[i % len(members)]
        wanted = [v * np.exp(e) if log else v + e for v, e, log in zip(row, effect, BANK.logged, strict=True)]
        np.testing.assert_allclose(injected[i], wanted)


@pytest.mark.parametrize("kind", ["bearing_wear", "imbalance"])
@pytest.mark.parametrize("severity", [0.2, 0.4, 1.0])
def test_an_injected_fault_is_like_a_simulated_one(kind, severity):
    rows = features(healthy, SPAN, 10).reshape(-1, 10)
    injected = (OLD.standardised(BANK.inject(rows, kind, severity)) - OLD.standardised(rows)).mean(axis=0)
    simulated = shift(worn(severity, kind))
    assert cosine(injected, simulated) > 0.97
    assert np.linalg.norm(injected) == pytest.approx(np.linalg.norm(simulated), rel=0.25)


@pytest.mark.parametrize("kind", ["bearing_wear", "imbalance"])
def test_a_signature_points_where_its_fault_goes_and_a_recalibration_does_not(kind):
    signature = BANK.signature(kind, OLD.std)
    assert np.linalg.norm(signature) == pytest.approx(1)
    assert cosine(signature, shift(worn(0.3, kind))) > 0.9
    assert abs(cosine(signature, shift(warmer()))) < 0.1
    [other] = set(BANK.kinds) - {kind}
    assert cosine(signature, BANK.signature(other, OLD.std)) < 0.5


def test_a_worse_fault_has_a_larger_effect():
    for kind in BANK.kinds:
        sizes = [np.linalg.norm(BANK.effect(kind, s) / OLD.std) for s in BANK.severities(kind)]
        assert sizes == sorted(sizes)
