"""Reads any file of measurements: what it decides, on what evidence, and canonical Parquet from it."""
