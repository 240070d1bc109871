"""Laws of content: signed or not, nothing unsafe is loaded and nothing unbounded unpacked."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_producer.bundle import BUNDLES, open_bundle
from edge_producer.updates.artifact_content import memory_available, memory_needed, open_artifact
from edge_producer.updates.onnx_graph import MAX_OPSET, RUNTIME_OPSETS, check_graph
from schemas.bundle_archive import MAX_UNPACKED_BYTES, pack
from schemas.errors import TrustError
from schemas.profile_file import find_profile
from schemas.updates import Attack
from tests.edge_producer.bundles import external, factory_graph
from tests.simulators.update_service import candidate

MACHINE = find_profile("machine")


def refused(model: onnx.ModelProto | bytes) -> str:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    with pytest.raises(TrustError) as caught:
        check_graph(data, "m-1.0")
    assert caught.value.attack is Attack.UNSAFE_CONTENT
    return str(caught.value)


@pytest.mark.parametrize("name", ["machine", "robust"])
def test_the_shipped_graphs_are_safe(name):
    bundle = open_bundle(BUNDLES / name)
    assert check_graph(bundle.model, name) <= bundle.manifest.opset <= MAX_OPSET


def test_weights_in_another_file_are_refused_wherever_they_hide():
    assert "another file" in refused(external(factory_graph()))
    tensor = external(factory_graph()).graph.initializer[0]
    in_attribute = factory_graph()
    in_attribute.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    assert "another file" in refused(in_attribute)
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    in_branch = factory_graph()
    in_branch.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    assert "another file" in refused(in_branch)
    sparse = factory_graph()
    sparse.graph.sparse_initializer.add().values.CopyFrom(tensor)
    assert "another file" in refused(sparse)


def test_custom_operators_are_refused_also_inside_branches():
    custom = helper.make_node("Shell", ["x"], ["y"], domain="com.evil")
    model = factory_graph()
    model.graph.node.append(custom)
    assert "com.evil" in refused(model)
    nested = factory_graph()
    inner = helper.make_graph([custom], "inner", [], [])
    nested.graph.node.append(helper.make_node("Loop", ["x"], ["y"], body=inner))
    assert "com.evil" in refused(nested)
    declared = factory_graph()
    declared.opset_import.append(helper.make_opsetid("ai.onnx.contrib", 1))
    assert "ai.onnx.contrib" in refused(declared)


def test_local_functions_and_training_graphs_are_refused():
    function = helper.make_function(
        "f", "g", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model = factory_graph()
    model.functions.append(function)
    assert "own functions" in refused(model)
    trained = factory_graph()
    trained.training_info.add()
    assert "training graphs" in refused(trained)


def test_a_newer_operator_set_than_the_runtimes_is_refused():
    model = factory_graph()
    model.opset_import[0].version = RUNTIME_OPSETS[""] + 1
    assert "operator set" in refused(model)


def test_graphs_without_end_and_bytes_without_sense_are_refused():
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("If", ["x"], ["y"], then_branch=graph)], "g", [], [])
    assert "nests" in refused(helper.make_model(graph))
    assert "no ONNX model" in refused(b"\xff" * 64)


def test_an_artifact_is_what_its_name_says_or_refused():
    bundle = candidate(1)
    version = bundle.manifest.version
    opened, files = open_artifact(pack(bundle.files), version, MACHINE)
    assert (opened.manifest.version, set(files)) == (version, set(bundle.files))
    with pytest.raises(TrustError, match="holds machine-1") as caught:
        open_artifact(pack(bundle.files), "machine-2.00000000", MACHINE)
    assert caught.value.attack is Attack.UNSIGNED_INSTRUCTION


def test_a_model_for_another_profile_is_refused():
    raw = MACHINE.model_dump()
    raw["sampling"]["rate_hz"] = 256.0
    bundle = candidate(1)
    with pytest.raises(TrustError, match=r"sampling\.rate_hz"):
        open_artifact(pack(bundle.files), bundle.manifest.version, type(MACHINE).model_validate(raw))


def test_a_file_that_its_manifest_does_not_name_is_refused():
    bundle = candidate(1)
    files = {**bundle.files, "golden.arrow": bundle.files["golden.arrow"] + b"x"}
    with pytest.raises(TrustError, match=r"golden.arrow is not the file"):
        open_artifact(pack(files), bundle.manifest.version, MACHINE)


def test_a_manifest_that_promises_less_than_the_graph_needs_is_refused():
    bundle = candidate(1)
    model = factory_graph()
    model.opset_import[0].version = bundle.manifest.opset + 1
    lying = candidate(1, model=model.SerializeToString())
    with pytest.raises(TrustError, match="its manifest says"):
        open_artifact(pack(lying.files), lying.manifest.version, MACHINE)


def test_a_bomb_is_refused_before_it_fills_memory():
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(MAX_UNPACKED_BYTES // 2**22 + 1):
            stream.write(bytes(2**22))
    bomb = sink.getvalue().to_pybytes()
    assert len(bomb) < 2**20
    with pytest.raises(TrustError, match="decompresses to more") as caught:
        open_artifact(bomb, "machine-1.00000000", MACHINE)
    assert caught.value.attack is Attack.ENDLESS_DATA


@pytest.mark.parametrize("name", ["../evil", "/etc/cron.d/evil", "extra.bin"])
def test_a_strange_member_is_refused(name):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw.getvalue())
    with pytest.raises(TrustError, match="strange archive member"):
        open_artifact(sink.getvalue().to_pybytes(), "machine-1.00000000", MACHINE)


def test_memory_is_what_kernel_and_group_allow_and_more_models_need_more(tmp_path):
    meminfo, group = tmp_path / "meminfo", tmp_path / "cgroup"
    assert memory_available(meminfo, group) == 2**62
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable:     500 kB\n")
    assert memory_available(meminfo, group) == 500 * 1024
    group.mkdir()
    (group / "memory.max").write_text("4096\n")
    (group / "memory.current").write_text("1024\n")
    assert memory_available(meminfo, group) == 3072
    (group / "memory.max").write_text("max\n")
    assert memory_available(meminfo, group) == 500 * 1024
    assert memory_needed(10**6) > memory_needed(10**3) > 0


def test_the_subset_reads_what_the_onnx_package_writes():
    """Field numbers are ONNX's own: a typed attribute of each kind is found."""
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "t")
    tensor.data_location = TensorProto.EXTERNAL
    for attribute in (
        helper.make_attribute("t", tensor),
        helper.make_attribute("ts", [tensor]),
    ):
        model = factory_graph()
        node = helper.make_node("Identity", ["x"], ["y"])
        node.attribute.append(attribute)
        model.graph.node.append(node)
        assert "another file" in refused(model)
