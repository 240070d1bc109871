"""Laws of the forecast of an hour: it learns the week, keeps what lasts, and its graph agrees with numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from model_service.models.graph import FLOAT, GraphWriter, tensor
from model_service.verticals.traffic.hour_forecast import fit_forecast, lagged
from schemas.history_spec import HOURS

WEEKS = np.arange(HOURS * 16)


def flows(seed: int, remains: float, busy: float = 1.0) -> np.ndarray:
    """A week's pattern, and a deviation of which a share remains from hour to hour."""
    rng = np.random.default_rng(seed)
    usual = 2000 + 1500 * np.sin(2 * np.pi * WEEKS / 24) + 300 * (WEEKS % HOURS >= 120)
    deviation = np.zeros(len(WEEKS))
    for k in range(1, len(WEEKS)):
        deviation[k] = remains * deviation[k - 1] + rng.normal(0, 60)
    return busy * (usual + deviation)


@pytest.mark.parametrize("remains", [0.0, 0.8])
def test_it_beats_persistence_and_last_week_where_there_is_a_pattern(remains):
    fitted = fit_forecast([(flows(1, remains), 0), (flows(4, remains, 0.6), 0)])
    x, at, y = lagged(flows(2, remains, 1.3), 0)  # a busier place than any of them
    ours = abs(fitted.predict(x, at) - y).mean()
    assert ours < 0.8 * abs(x[:, 0] - y).mean()
    assert ours < 0.8 * abs(x[:, -1] - y).mean()


def test_it_works_from_the_second_hour_on_and_says_nothing_before():
    fitted = fit_forecast([(flows(1, 0.6), 0)])
    x, at, y = lagged(flows(2, 0.6), 0)
    young = np.where(np.arange(HOURS) < 2, x, np.nan)
    assert abs(fitted.predict(young, at) - y).mean() < 0.5 * abs(x[:, 0] - y).mean()
    young[:, 0] = np.nan
    assert np.isnan(fitted.predict(young, at)).all()


def test_the_graph_says_the_same_with_gaps_and_between_hours_and_is_the_same_bytes():
    def graph():
        writer = GraphWriter()
        made = fit_forecast([(flows(1, 0.6), 0)]).write(writer, "hours", "at")
        writer.op("Identity", made, output="next")
        inputs = [tensor("hours", FLOAT, [HOURS]), tensor("at", FLOAT, [1])]
        return writer.build("next", inputs, [tensor("next", FLOAT, [1])])

    session, fitted = ort.InferenceSession(graph()), fit_forecast([(flows(1, 0.6), 0)])
    x, at, _ = lagged(flows(3, 0.6), 0)
    rng = np.random.default_rng(6)
    x = np.where(rng.random(x.shape) < 0.2, np.nan, x)[:200]
    at = at[:200] + rng.choice([0.0, 0.25, 0.75], 200)
    wanted = fitted.predict(x, at)
    assert 20 < np.isnan(wanted).sum() < 60
    got = [
        session.run(None, {"hours": hours, "at": when})[0][0]
        for hours, when in zip(x.astype(np.float32), at.astype(np.float32)[:, None], strict=True)
    ]
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    assert graph() == graph()


def test_rows_hold_the_hours_that_they_name():
    x, at, y = lagged(WEEKS.astype(float), 30)
    assert (x[0] == np.arange(HOURS)[::-1]).all()
    assert (at[0], y[0]) == (30, 168)


def test_missing_hours_invent_nothing():
    gaps = flows(1, 0.6)
    gaps[500:700] = np.nan
    x, at, _ = lagged(gaps, 0)
    assert (np.isnan(fit_forecast([(gaps, 0)]).predict(x, at)) == np.isnan(x[:, 0])).all()
    with pytest.raises(ValueError, match="nothing is known of 1 hours"):
        fit_forecast([(np.where(WEEKS % HOURS == 5, np.nan, gaps), 0)])
    with pytest.raises(ValueError, match="longer than a week"):
        fit_forecast([(flows(1, 0.6)[:HOURS], 0)])
