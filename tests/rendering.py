"""The texts alone of conversations that a template has made, which most tests of templates compare."""

from typing import Any

from research.data.text.chat_template import rendered


def render(*arguments: Any, **options: Any) -> list[str]:
    """The text of each conversation; arguments are those of `rendered`."""
    return [each.text for each in rendered(*arguments, **options)]
