"""Every number of a configuration has a range, and whatever is out of it is one sentence."""

import importlib
