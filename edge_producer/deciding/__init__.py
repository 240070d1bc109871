"""Decision functions of users: how one is found, asked within its time, and its answer checked."""
