"""Tests of DreamerV3."""
