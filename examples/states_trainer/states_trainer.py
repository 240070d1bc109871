"""A trainer of one's own: how far a window lies from the nearest of the machine's usual states."""

import onnx
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import FloatTensorType
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

STATES = 4


class StatesTrainer:
    def fit(self, given):
        states = KMeans(STATES, n_init=3, random_state=given.seed % 2**32)
        pipeline = make_pipeline(StandardScaler(), states).fit(given.features)
        model = convert_sklearn(
            pipeline,
            name="states",
            initial_types=[("features", FloatTensorType([None, len(given.names)]))],
            target_opset={"": 17, "ai.onnx.ml": 3},
        )
        # The converter gives the distance to each state; the graph's output is the smallest.
        nearest = onnx.helper.make_node("ReduceMin", ["scores"], ["distance"], axes=[1], keepdims=1)
        model.graph.node.append(nearest)
        del model.graph.output[:]
        shape = [None, 1]
        output = onnx.helper.make_tensor_value_info("distance", onnx.TensorProto.FLOAT, shape)
        model.graph.output.append(output)
        return model.SerializeToString(deterministic=True)
