"""Run programs in turn, observe their processes and record the measurements."""
