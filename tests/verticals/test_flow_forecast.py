"""Laws of the forecast of flow: it learns the week, keeps what lasts, and its graph agrees with numpy."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from model_service.verticals.traffic.flow_forecast import WEEK, fit_forecast, lagged

HOURS = np.arange(WEEK * 20)
WEEKHOURS = HOURS % WEEK


def flows(seed: int, remains: float) -> np.ndarray:
    """A week's pattern, and a deviation of which a share remains from hour to hour."""
    rng = np.random.default_rng(seed)
    usual = 2000 + 1500 * np.sin(2 * np.pi * HOURS / 24) + 300 * (WEEKHOURS >= 120)
    deviation = np.zeros(len(HOURS))
    for k in range(1, len(HOURS)):
        deviation[k] = remains * deviation[k - 1] + rng.normal(0, 60)
    return usual + deviation


@pytest.mark.parametrize("remains", [0.0, 0.8])
def test_it_beats_persistence_and_last_week_where_there_is_a_pattern(remains):
    fitted = fit_forecast(flows(1, remains), WEEKHOURS)
    x, hours, y = lagged(flows(2, remains), WEEKHOURS)
    ours = abs(fitted.predict(x, hours) - y).mean()
    assert ours < 0.8 * abs(x[:, 0] - y).mean()
    assert ours < 0.8 * abs(x[:, -1] - y).mean()


def test_the_graph_says_the_same_and_is_the_same_bytes():
    fitted = fit_forecast(flows(1, 0.6), WEEKHOURS)
    x, hours, _ = lagged(flows(3, 0.6), WEEKHOURS)
    graph = fitted.graph()
    session = ort.InferenceSession(graph)
    given = {"features": x.astype(np.float32), "calendar": hours.astype(np.float32)}
    assert np.allclose(session.run(None, given)[0], fitted.predict(x, hours), rtol=1e-5)
    assert graph == fit_forecast(flows(1, 0.6), WEEKHOURS).graph()


def test_rows_hold_the_hours_that_they_name():
    values = HOURS.astype(float)
    x, hours, y = lagged(values, WEEKHOURS)
    assert (x[0] == [167, 166, 165, 0]).all()
    assert (hours[0] == [167, 166, 165, 0, 0]).all()
    assert y[0] == 168


def test_missing_hours_give_no_forecast_and_no_hour_is_invented():
    gaps = flows(1, 0.6)
    gaps[500:700] = np.nan
    fitted = fit_forecast(gaps, WEEKHOURS)
    x, hours, _ = lagged(gaps, WEEKHOURS)
    assert (np.isnan(fitted.predict(x, hours)) == np.isnan(x).any(axis=1)).all()
    with pytest.raises(ValueError, match="no flow at all at 1 hours"):
        fit_forecast(np.where(WEEKHOURS == 5, np.nan, gaps), WEEKHOURS)
