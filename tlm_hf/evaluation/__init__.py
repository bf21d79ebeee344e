"""Evaluation: metrics, fixed-mask loss, baselines, calibration, latency."""
