"""Twin Delayed DDPG."""
