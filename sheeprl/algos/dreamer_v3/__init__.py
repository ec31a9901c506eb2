"""DreamerV3: a world model, and an actor and a critic that learn in its imagination."""
