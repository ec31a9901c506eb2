"""Environments: making them, and making their spaces uniform."""
