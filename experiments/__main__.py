"""Lists the experiments: `python -m experiments`."""

from research.core import command_line
from research.launch.discovery import show_experiments

if __name__ == "__main__":
    command_line.run(show_experiments)
