"""Policies outside of a run: load them, export them and watch them.

A policy acts in the environment's own units. `sheeprl.policy.interface` and `sheeprl.policy.onnx_policy` import no
library but NumPy and onnxruntime, so that an exported policy runs without torch, Ray and gymnasium.
"""
