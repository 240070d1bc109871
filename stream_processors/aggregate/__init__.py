"""The job `aggregate`: summaries of devices become partials of a cohort's windows."""
