"""The wearables' judge: a recording of others, a simulator of others, and rhythms spliced from real beats."""
