"""Gates on what a model costs a device: operators, size, time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

from model_service.gates.verdict import GateVerdict, not_shown
from model_service.models.bundle_files import BundleFiles
from model_service.models.golden import Feed
from model_service.models.graph import ML_DOMAIN, ML_OPSET
from model_service.models.graph_parts import graphs_of, tensors_of
from model_service.models.runtime import OrtGraph
from model_service.models.score_stage import parsed
from schemas.learning_policy import GatePolicy

OPERATORS, SIZE, LATENCY, MEMORY = "operators", "size", "latency", "memory"
RUNS, WARMUP = 200, 10
PROBE = "model_service.gates.memory_probe"
PROBE_S = 30.0
_EXTERNAL = 1  # TensorProto.DataLocation


def judge_operators(candidate: BundleFiles, gates: GatePolicy) -> GateVerdict:
    """Only ONNX's own operators, of sets that the fleet runs; weights inside; the manifest's operator set.

    Parses the bytes and loads nothing, so that it can come first.
    """
    model = parsed(candidate.model, candidate.manifest.version)
    sets = {_domain(o.domain): int(o.version) for o in model.opset_import}
    opset = sets.get("", 0)
    known = {"": gates.opset, ML_DOMAIN: ML_OPSET}
    wrong = [
        f"operator set {number} of '{domain[:40] or 'ai.onnx'}'"
        for domain, number in sorted(sets.items())
        if number > known.get(domain, -1)
    ]
    graphs = list(graphs_of(model.graph))
    foreign = {n.domain[:40] for g in graphs for n in g.node if _domain(n.domain) not in known}
    wrong += [f"operators of '{domain}'" for domain in sorted(foreign)]
    if any(t.data_location == _EXTERNAL or t.external_data for t in tensors_of(graphs)):
        wrong.append("weights in another file")
    if model.functions or model.training_info:
        wrong.append("functions of its own")
    if opset != candidate.manifest.opset:
        wrong.append(f"a manifest that states operator set {candidate.manifest.opset}")
    text = f"needs {', '.join(wrong)}" if wrong else f"operator set {opset}, at most {gates.opset}"
    return GateVerdict(OPERATORS, not wrong, float(opset), float(gates.opset), detail={"says": text})


def judge_size(candidate: BundleFiles, gates: GatePolicy) -> GateVerdict:
    """Bytes that a device stores."""
    size = sum(len(data) for data in candidate.files.values())
    text = f"{size:,} bytes, at most {gates.max_bytes:,}"
    return GateVerdict(
        SIZE, size <= gates.max_bytes, float(size), float(gates.max_bytes), detail={"says": text}
    )


def judge_latency(candidate: OrtGraph, champion: OrtGraph, feed: Feed, gates: GatePolicy) -> GateVerdict:
    """Median time of one window, in ms and as a multiple of the champion's; the two are measured by turns.

    Args:
        candidate: From raw window to score, as is the champion.
        champion: Measured in the same loop, so that load on this machine slows both.
        feed: Inputs of one window.
        gates: Gives the bounds.
    """
    times = np.array([[_timed(graph, feed) for graph in (candidate, champion)] for _ in range(RUNS)])
    new_ms, old_ms = np.median(times[WARMUP:], axis=0).tolist()
    ratio = new_ms / old_ms
    passed = new_ms <= gates.max_latency_ms and ratio <= gates.max_latency_ratio
    text = (
        f"{new_ms:.3f} ms a window, at most {gates.max_latency_ms:g}; {ratio:.2f} times the champion, "
        f"at most {gates.max_latency_ratio:g}"
    )
    detail = {"says": text, "ratio": ratio, "max_ratio": gates.max_latency_ratio, "champion_ms": old_ms}
    return GateVerdict(LATENCY, passed, new_ms, gates.max_latency_ms, detail=detail)


def judge_memory(candidate: BundleFiles, feed: Feed, gates: GatePolicy) -> GateVerdict:
    """Memory that loading and running adds to a fresh process with the runtime.

    A model that crashes or hangs does so in that process.
    """
    inputs = [f"{name}:{'x'.join(map(str, given.shape))}" for name, given in feed.items()]
    command = [sys.executable, "-m", PROBE, *inputs]
    try:
        done = subprocess.run(  # noqa: S603  (our own interpreter and module)
            command, input=candidate.model, capture_output=True, timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        return not_shown(
            MEMORY, f"a process that runs it did not finish within {PROBE_S:.0f} s", gates.max_memory_mb
        )
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        return not_shown(
            MEMORY, f"a process that runs it ended with {done.returncode}: {last}", gates.max_memory_mb
        )
    added_mb = float(json.loads(done.stdout)["added_mb"])
    text = f"loading and running it adds {added_mb:.1f} MB, at most {gates.max_memory_mb:g}"
    return GateVerdict(
        MEMORY, added_mb <= gates.max_memory_mb, added_mb, gates.max_memory_mb, detail={"says": text}
    )


def _timed(graph: OrtGraph, feed: Feed) -> float:
    start = time.perf_counter()
    graph.run(("features", "score"), feed)
    return (time.perf_counter() - start) * 1e3


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
