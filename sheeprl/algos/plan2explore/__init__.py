"""Plan2Explore: a Dreamer that explores where its world model is uncertain, without reward."""
