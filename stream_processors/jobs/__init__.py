"""Names of 0.2.0, kept so that users' jobs written for it go on working; nothing of ours imports them."""
