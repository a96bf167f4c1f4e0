"""Trainings as jobs in an Optuna study: several workers, killed at any moment, and every job ends exactly once."""
