"""Search for good settings with Ray Tune and Optuna: several seeds a trial, and bad trials end early.

Each trial trains its seeds one after another, in one process. Its score is the mean over the seeds so far. Trials are
compared after the same number of policy steps, counted over their seeds. The first trial has the given settings.
"""
