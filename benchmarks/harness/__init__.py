"""Run programs in turn, watch them from outside and record what was measured."""
