"""Tests of DreamerV1."""
