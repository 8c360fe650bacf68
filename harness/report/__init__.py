"""What a folder of runs shows: tables, figures and one page to read, print or present."""

from harness.report.frames import Results, load
from harness.report.html import write

__all__ = ["Results", "load", "write"]
