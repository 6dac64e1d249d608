"""Records become batches: splits, balance, augmentation, the data module."""
