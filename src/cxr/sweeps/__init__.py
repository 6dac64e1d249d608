"""The jobs of a multirun, each in a process of its own."""
