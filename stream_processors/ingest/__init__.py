"""The job `ingest`: device messages become rows, each exactly once, or end in quarantine."""
