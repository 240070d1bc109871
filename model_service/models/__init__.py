"""Making models: windows in, parameters and bytes out. Pure; reads no registry and no lake."""
