"""Cobots at one sample a second: a model from labelled recordings, which `edgeloop model import` takes."""
