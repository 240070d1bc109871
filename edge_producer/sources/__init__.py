"""Where windows come from: seeded generators (`simulate`) and recordings (`replay`)."""
