"""Batches become a checkpoint: module, losses, schedule, runtime, tracking."""
