"""Jobs of users: each in a process and a task of its own, fed by what the built-in jobs committed."""
