"""Tests of Plan2Explore."""
