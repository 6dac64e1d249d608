"""A file becomes grey pixels: decoding, preparation, the prepared cache."""
