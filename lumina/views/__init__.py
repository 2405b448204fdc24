"""View-models: the store as JSON-able dictionaries. The command line, the live route and the widget show these.

They read and never decide; anything a screen needs that is missing here belongs here, not in the screen.
"""

from lumina.views.catalogue import catalogue
from lumina.views.family import children, rehearsal, rehearsals, replay
from lumina.views.live import live
from lumina.views.panels import branches, budget, depth, events, experts, marks, queue, receipts, series
from lumina.views.queries import query
from lumina.views.status import status

__all__ = [
    "branches", "budget", "catalogue", "children", "depth", "events", "experts", "live", "marks", "query", "queue",
    "receipts", "rehearsal", "rehearsals", "replay", "series", "status",
]  # fmt: skip
