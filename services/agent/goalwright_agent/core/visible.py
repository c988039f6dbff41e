"""Text of others as a prompt shows it: what a reader would not see, or a server would not take for text, is made plain.

A person who looks at a page, a file or a prompt must see what the model sees.
"""

from __future__ import annotations

import re

_HIDDEN = re.compile(
    "["
    "\u0085\u2028\u2029"  # line ends that JSON leaves as they are
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u3164\uffa0"  # fillers and soft hyphens
    "\u200b\u2060-\u206f\ufeff\ufff9-\ufffb"  # zero width, isolates, annotations
    "\u202a-\u202e"  # text that runs in another direction than it is read
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and variation selectors: whole sentences have been hidden in them
    "]+"
    "|[\u200c-\u200f\ufe00-\ufe0f]{3,}"  # scripts and emoji need one or two of these, hidden messages many
)

_CONTROL_WORDS = re.compile(
    r"[<\[](?=[|｜][\w▁ ./-]{1,40}[|｜]>|(?:start|end)_of_turn>|/?s>|/?(?:b|e)os>|<?/?SYS>"
    r"|/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|/?tool_(?:call|response)>)",
    re.I,
)


def visible(text: str) -> str:
    """`text` with hidden characters named (`[U+202E]`, of a run the first and how many follow: `[U+E0049 +41]`), and
    the control words of chat templates broken by a space, as local servers would take them for the end of a message."""
    return _CONTROL_WORDS.sub(lambda found: f"{found[0]} ", _HIDDEN.sub(_named, text))


def _named(run: re.Match[str]) -> str:
    more = f" +{len(run[0]) - 1}" if len(run[0]) > 1 else ""
    return f"[U+{ord(run[0][0]):04X}{more}]"
