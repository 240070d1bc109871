"""Training: the feature graph, the factory model and the bundle that carries them.

Everything here is pure: windows in, parameters and bytes out; `infra.factory` simulates and writes files.
"""
