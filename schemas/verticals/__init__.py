"""What several rooms need to know of one vertical, a folder each; nothing outside these folders names one."""
