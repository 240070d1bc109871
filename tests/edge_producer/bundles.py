"""Signed bundles that are wrong in one way each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from edge_producer.bundle import BUNDLES, open_bundle
from edge_producer.window import Window
from model_service.models.bundle_files import BundleFiles
from tests.simulators.update_service import candidate


def factory_graph() -> onnx.ModelProto:
    return onnx.load_from_string(open_bundle(BUNDLES / "machine").model)


def golden_with(score: np.ndarray) -> bytes:
    """The factory's golden vectors with other scores."""
    table = pa.ipc.open_file(open_bundle(BUNDLES / "machine").golden).read_all()
    position = table.schema.get_field_index("score")
    column = pa.array(np.broadcast_to(score, table.num_rows).astype("float32"))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(position, table.schema.field(position), column))
    return sink.getvalue().to_pybytes()


def misses_golden(number: int) -> BundleFiles:
    """Runs, but is not the graph that was meant."""
    return candidate(number, golden=golden_with(np.float32(0.123)))


def blind(number: int) -> BundleFiles:
    """Every score is NaN, as its golden vectors say."""
    model = factory_graph()
    _hide_score(model)
    nan = numpy_helper.from_array(np.array(np.nan, np.float32), "nothing")
    model.graph.initializer.append(nan)
    model.graph.node.append(helper.make_node("Add", ["seen", "nothing"], ["score"]))
    return candidate(number, model=model.SerializeToString(), golden=golden_with(np.float32(np.nan)))


HOT_C = 150.0


def blind_when_hot(number: int) -> BundleFiles:
    """As good as the factory's, until a sample exceeds any golden one."""
    model = factory_graph()
    _hide_score(model)
    constants = {"nothing": np.nan, "something": 0.0, "hot": HOT_C}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["window"], ["hottest"], axes=[1, 2], keepdims=0),
            helper.make_node("Greater", ["hottest", "hot"], ["too_hot"]),
            helper.make_node("Where", ["too_hot", "nothing", "something"], ["veil"]),
            helper.make_node("Add", ["seen", "veil"], ["score"]),
        ]
    )
    return candidate(number, model=model.SerializeToString())


def outside_when_hot(number: int) -> BundleFiles:
    """As good as the factory's, until a sample exceeds any golden one: then every score is 1.5 higher."""
    model = factory_graph()
    _hide_score(model)
    constants = {"nothing": 0.0, "far": 1.5, "hot": HOT_C}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["window"], ["hottest"], axes=[1, 2], keepdims=0),
            helper.make_node("Greater", ["hottest", "hot"], ["too_hot"]),
            helper.make_node("Where", ["too_hot", "far", "nothing"], ["more"]),
            helper.make_node("Add", ["seen", "more"], ["score"]),
        ]
    )
    return candidate(number, model=model.SerializeToString())


def hot(window: Window) -> Window:
    """The window with one sample that makes ``blind_when_hot`` blind."""
    samples = window.samples.copy()
    samples[0, 1] = HOT_C + 10
    return replace(window, samples=samples)


def _hide_score(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["seen" if name == "score" else name for name in node.output]
        node.input[:] = ["seen" if name == "score" else name for name in node.input]


def with_external_data(number: int) -> BundleFiles:
    """Wants weights from another file of the device."""
    return candidate(number, model=external(factory_graph()).SerializeToString())


def external(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    return model
