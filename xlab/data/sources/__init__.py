"""Where documents come from: one small class for each kind of place, and two that are made of others."""

from xlab.data.sources.conversations import ChatRecords, Conversations, PromptResponses
from xlab.data.sources.filtered import Filtered
from xlab.data.sources.hub_conversations import HubChats, HubConversations, HubPrompts
from xlab.data.sources.hub_dataset import HubDataset
from xlab.data.sources.hub_source import HubSource
from xlab.data.sources.json_lines import JsonLines
from xlab.data.sources.mixture import Mixture
from xlab.data.sources.python_docs import PythonDocs
from xlab.data.sources.source import Document, Message, Source, report_lines
from xlab.data.sources.table_files import ArrowFiles, ParquetFiles
from xlab.data.sources.text_files import TextFiles

__all__ = [
    "ArrowFiles",
    "ChatRecords",
    "Conversations",
    "Document",
    "Filtered",
    "HubChats",
    "HubConversations",
    "HubDataset",
    "HubPrompts",
    "HubSource",
    "JsonLines",
    "Message",
    "Mixture",
    "ParquetFiles",
    "PromptResponses",
    "PythonDocs",
    "Source",
    "TextFiles",
    "report_lines",
]
