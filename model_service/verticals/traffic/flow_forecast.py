"""Next hour's flow: the usual flow of the hour of the week, and what remains of deviations.

usual(t + 1) + a[h] * (y(t) - usual(t)) + b[h] * (y(t - 1) - usual(t - 1)) + c[h] * (last week's deviation
of t + 1), with coefficients by hour of the day, fitted by ridge regression. Public holidays count as
Sundays. The same arithmetic is written as an ONNX graph, so that a device needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float64]
Hours = NDArray[np.int64]
WEEK, DAY = 168, 24
LAGS = (0, 1, 2, WEEK - 1)
"""Hours before the newest that the model reads: three last ones, and the predicted hour a week ago."""
RIDGE = 10.0
DIGITS = 6
"""Parameters are rounded, so that the last bits of a machine's linear algebra do not reach the graph."""
OPSET = 17


@dataclass(frozen=True)
class FlowForecast:
    """A fitted forecast.

    Attributes:
        usual: Shape (168,), vehicles an hour by hour of the week, from Monday 0 h on.
        weights: Shape (24, 4), by hour of the day that is predicted and lag.
    """

    usual: Array
    weights: Array

    def predict(self, flows: Array, weekhours: Hours) -> Array:
        """Next hour's flow.

        Args:
            flows: Shape (n, 4), vehicles an hour, at the hours of ``LAGS`` before the newest.
            weekhours: Shape (n, 5), hour of the week of each of them, and of the predicted hour.

        Returns:
            Shape (n,), 0 at least; NaN where a flow is missing.
        """
        deviations = flows - self.usual[weekhours[:, :-1]]
        target = weekhours[:, -1]
        made = self.usual[target] + (self.weights[target % DAY] * deviations).sum(axis=1)
        return np.asarray(np.where(np.isnan(made), np.nan, np.maximum(made, 0.0)))

    def graph(self) -> bytes:
        """An ONNX graph: inputs ``features`` (B, 4) and ``calendar`` (B, 5), output ``flow_next`` (B,)."""
        constants = {
            "usual": self.usual.astype(np.float32),
            "weights": self.weights.astype(np.float32),
            "target": np.array(4, dtype=np.int64),
            "known": np.arange(4, dtype=np.int64),
            "day": np.array(DAY, dtype=np.int64),
            "axis": np.array([1], dtype=np.int64),
            "none": np.array(0, dtype=np.float32),
        }
        nodes = [
            helper.make_node("Cast", ["calendar"], ["hours"], to=TensorProto.INT64),
            helper.make_node("Gather", ["hours", "known"], ["hours_known"], axis=1),
            helper.make_node("Gather", ["hours", "target"], ["hours_target"], axis=1),
            helper.make_node("Gather", ["usual", "hours_known"], ["usual_known"]),
            helper.make_node("Gather", ["usual", "hours_target"], ["usual_target"]),
            helper.make_node("Sub", ["features", "usual_known"], ["deviations"]),
            helper.make_node("Mod", ["hours_target", "day"], ["hour"]),
            helper.make_node("Gather", ["weights", "hour"], ["weights_hour"]),
            helper.make_node("Mul", ["weights_hour", "deviations"], ["parts"]),
            helper.make_node("ReduceSum", ["parts", "axis"], ["change"], keepdims=0),
            helper.make_node("Add", ["usual_target", "change"], ["flow"]),
            helper.make_node("Max", ["flow", "none"], ["flow_next"]),
        ]
        inputs = [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", len(LAGS)]),
            helper.make_tensor_value_info("calendar", TensorProto.FLOAT, ["B", len(LAGS) + 1]),
        ]
        output = helper.make_tensor_value_info("flow_next", TensorProto.FLOAT, ["B"])
        stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "flow_forecast", inputs, [output], stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model)
        made: bytes = model.SerializeToString(deterministic=True)
        return made


def fit_forecast(flows: Array, weekhours: Hours) -> FlowForecast:
    """Fit to consecutive hours.

    Args:
        flows: Shape (n,), vehicles an hour, NaN where missing.
        weekhours: Shape (n,), hour of the week of each, holidays as Sundays.

    Raises:
        ValueError: An hour of the week has no flow at all.
    """
    there = ~np.isnan(flows)
    counts = np.bincount(weekhours[there], minlength=WEEK)
    if not counts.all():
        raise ValueError(f"no flow at all at {int((counts == 0).sum())} hours of the week; give whole weeks")
    usual = np.array([np.median(flows[there & (weekhours == k)]) for k in range(WEEK)])
    x, hours, y = lagged(flows, weekhours)
    usable = ~np.isnan(x).any(axis=1) & ~np.isnan(y)
    x, hours, y = x[usable], hours[usable], y[usable]
    deviations, change = x - usual[hours[:, :-1]], y - usual[hours[:, -1]]
    scale = float(np.var(change)) or 1.0
    weights = np.zeros((DAY, len(LAGS)))
    for hour in range(DAY):
        mine = hours[:, -1] % DAY == hour
        a, b = deviations[mine], change[mine]
        weights[hour] = np.linalg.solve(a.T @ a + RIDGE * scale * np.eye(len(LAGS)), a.T @ b)
    return FlowForecast(usual, np.round(weights, DIGITS))


def lagged(flows: Array, weekhours: Hours) -> tuple[Array, Hours, Array]:
    """Rows for ``predict`` from consecutive hours, and the flow that each is to predict.

    Returns:
        Shapes (m, 4), (m, 5) and (m,) with m = n - 168: row k has its newest hour at k + 167.
    """
    newest = np.arange(WEEK - 1, len(flows) - 1)
    x = np.stack([flows[newest - lag] for lag in LAGS], axis=1)
    columns: Iterator[Hours] = (weekhours[newest - lag] for lag in LAGS)
    return x, np.stack([*columns, weekhours[newest + 1]], axis=1), flows[newest + 1]
