"""From files to training sequences: sources, validation, tokenizer, packing, loader, and the built-in corpus.

Torch-free; it must not know models, runs or steps: a position in the data is a number of sequences.
"""

from lumina.data.identity import changed_files
from lumina.data.loader import Batch, Loader
from lumina.data.prepare import Dataset, contents, prepare
from lumina.data.report import DataError, DataReport, FileReport, Issue
from lumina.data.sequences import SequenceSet
from lumina.data.validate import check_paths, classify_paths

__all__ = [
    "Batch",
    "DataError",
    "DataReport",
    "Dataset",
    "FileReport",
    "Issue",
    "Loader",
    "SequenceSet",
    "changed_files",
    "check_paths",
    "classify_paths",
    "contents",
    "prepare",
]
