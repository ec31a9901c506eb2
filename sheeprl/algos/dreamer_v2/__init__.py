"""DreamerV2: a world model with discrete states, and an actor and a critic that learn in its imagination."""
