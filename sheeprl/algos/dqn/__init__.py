"""Deep Q-learning (DQN) and its extensions up to Rainbow."""
