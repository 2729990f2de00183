"""Lists the experiments: `python -m experiments`."""

from research.launch.discovery import show_experiments

if __name__ == "__main__":
    show_experiments()
