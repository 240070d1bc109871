"""Keys in the metadata of golden vectors, read past by releases that do not know them."""

ENDS = "ends_us"
"""JSON: event time of each window, microseconds since 1970; of models that read the calendar."""
OUTPUTS = "outputs"
"""JSON: for each window the expected further outputs in the manifest's order, null for none."""
