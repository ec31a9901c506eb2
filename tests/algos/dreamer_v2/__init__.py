"""Tests of DreamerV2."""
