"""`edgeloop model fit`: a first model from a file of measurements, and the report on it."""
