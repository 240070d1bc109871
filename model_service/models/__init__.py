"""Making models: features, the models on them, their ONNX graphs, and the bundles that carry these.

Everything here is pure: windows or rows in, parameters and bytes out. It reads no registry and no lake.
"""
