"""Where documents come from: one small class for each kind of place."""

from xlab.data.sources.hub_dataset import HubDataset
from xlab.data.sources.json_lines import JsonLines
from xlab.data.sources.python_docs import PythonDocs
from xlab.data.sources.source import Document, Source
from xlab.data.sources.text_files import TextFiles

__all__ = ["Document", "HubDataset", "JsonLines", "PythonDocs", "Source", "TextFiles"]
