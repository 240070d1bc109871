"""What is built and run of one vertical, a folder each; nothing outside these folders names one."""
