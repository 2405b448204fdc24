"""From files to training sequences: sources, validation, tokenizer, packing, loader, and the built-in corpus.

Torch-free; it must not know models, runs or steps: a position in the data is a number of sequences.
"""

from lumina.data.cache import cache_root
from lumina.data.dataset import Dataset, Source
from lumina.data.documents import Reading
from lumina.data.identity import changed_files
from lumina.data.judged import check_known
from lumina.data.loader import Batch, Loader
from lumina.data.mix import Program, mode_of
from lumina.data.prepare import contents, prepare
from lumina.data.report import DataError, DataReport, FileReport, Issue
from lumina.data.survey import Counting
from lumina.data.validate import check_paths, classify_paths, survey_paths

__all__ = [
    "Batch",
    "Counting",
    "DataError",
    "DataReport",
    "Dataset",
    "FileReport",
    "Issue",
    "Loader",
    "Program",
    "Reading",
    "Source",
    "cache_root",
    "changed_files",
    "check_known",
    "check_paths",
    "classify_paths",
    "contents",
    "mode_of",
    "prepare",
    "survey_paths",
]
