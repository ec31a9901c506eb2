"""Configuration: schema, loading, defaults and checks."""
