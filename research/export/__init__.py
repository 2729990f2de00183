"""A run as a folder of another form: `python -m research.export RUN DIR --format hf|adapter`."""
