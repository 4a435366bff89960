"""Learning histories: made by anyone, kept for good, read by the sampler.

`HistoryMeta` and `array_shapes` say what a store holds, `HistoryStore` writes and reads one,
`record` fills one from a `HistoryMaker`. What else can be done with stores is in modules of its
own: `importing`, `merging`, `exporting`, `plotting`.
"""

from gla.histories.recording import HistoryMaker, Part, TargetMaker, record, record_block
from gla.histories.schema import (
    STREAM_ARRAYS,
    UPDATE_ARRAYS,
    HistoryMeta,
    Storage,
    array_shapes,
    identity,
)
from gla.histories.scores import Scores, episode_return, score_streams
from gla.histories.store import HistoryStore

__all__ = [
    "STREAM_ARRAYS",
    "UPDATE_ARRAYS",
    "HistoryMaker",
    "HistoryMeta",
    "HistoryStore",
    "Part",
    "Scores",
    "Storage",
    "TargetMaker",
    "array_shapes",
    "episode_return",
    "identity",
    "record",
    "record_block",
    "score_streams",
]
