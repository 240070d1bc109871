"""Detectors: functions of the feature vector, each fitted to a history and written as one ONNX graph."""
