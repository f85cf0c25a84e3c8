"""What of a page would run because of a hostile name in it."""

import json
from html.parser import HTMLParser
from typing import Any

__all__ = ["SCRIPT", "renamed", "runs"]

SCRIPT = "<script>alert(1)</script>"


class Scripts(HTMLParser):
    """Counts the elements that run or load code, and those of a hostile name."""

    def __init__(self):
        super().__init__()
        self.inside, self.found, self.scripts = False, [], []

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self.inside = True
            self.scripts.append("")
        self.found += [f"{tag} {k}" for k, _ in attrs if k.startswith("on")]
        if tag in ("iframe", "object", "embed", "img"):
            self.found.append(tag)

    def handle_data(self, data):
        if self.inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"


def runs(html):
    """What of the page would run because of a name: elements, and scripts that are just the name's."""
    parser = Scripts()
    parser.feed(html)
    return parser.found + [s for s in parser.scripts if s.strip() == "alert(1)"]


def renamed(value: Any, names: list[str]) -> Any:
    """A report with a script behind each of these names, wherever one stands as a key or as a value."""
    text = json.dumps(value)
    for name in names:
        assert json.dumps(name) in text, f"{name} stands nowhere"
        text = text.replace(json.dumps(name), json.dumps(name + SCRIPT))
    return json.loads(text)
