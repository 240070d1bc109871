"""On the device: sources, windows, inference, decisions, filter, summaries, spool, sender."""
