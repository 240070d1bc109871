"""The job `drift`: watches a cohort's closed windows and publishes a verdict when one moved."""
