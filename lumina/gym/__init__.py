"""The gym: real small runs with something wrong in them, and a score for whatever is supposed to help.

It trains through `Trainer` and breaks things from outside; no detector may know of it.
"""

from __future__ import annotations
