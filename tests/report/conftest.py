"""The recorded runs that these tests report on."""

from recorded_runs import language_run, picture_run

__all__ = ["language_run", "picture_run"]
