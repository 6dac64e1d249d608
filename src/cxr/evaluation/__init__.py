"""A checkpoint becomes numbers: metrics, predictions, figures."""
