"""What is answered, as the OpenAPI document describes it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """What is described is all there is."""

    model_config = ConfigDict(extra="forbid")


class Error(Answer):
    """What was wrong."""

    message: str = Field(description="One line: what was wrong, its value, what to do.")
    type: str
    param: str | None = Field(description="The field that it is about.")
    code: str | None = Field(description="A word for programs.")


class ErrorAnswer(Answer):
    """OpenAI's form of an error."""

    error: Error


class Usage(Answer):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionLogprobs(Answer):
    """A list for each fact, an entry for each token; those with ids come with ``return_token_ids``."""

    tokens: list[str] = Field(description="Half a character is spelt by its bytes, as in bytes:\\xe2\\x80.")
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    token_ids: list[int] | None = None
    top_token_ids: list[list[int]] | None = None
    top_token_logprobs: list[list[float]] | None = None
    top_tokens: list[list[str]] | None = None


class CompletionChoice(Answer):
    """One text."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    score: float | None = Field(None, description="Of beams, and of the best of several.")
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class CompletionAnswer(Answer):
    """The texts; each event of a stream is one of these as well."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AssistantMessage(Answer):
    """What the model said."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatToken(Answer):
    """A token and its score."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredChatToken(ChatToken):
    """A token, and the likeliest in its place."""

    top_logprobs: list[ChatToken]


class ChatLogprobs(Answer):
    """An entry for each token."""

    content: list[ScoredChatToken]
    refusal: None


class ChatChoice(Answer):
    """One message."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    score: float | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None


class ChatAnswer(Answer):
    """The messages."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class GeneratedTexts(Answer):
    """The older service's answer."""

    texts: list[str]


class Model(Answer):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class Models(Answer):
    """The models: one."""

    object: Literal["list"]
    data: list[Model]


class ModelCard(Answer):
    """Size, context, data, validation figures and limits."""

    name: str
    parameters: int
    bytes: int
    vocab_size: int
    special_ids: list[int] = Field(description="Of tokens that stand for no text, such as the one that ends it.")
    max_len: int
    d_model: int | None
    n_layers: int | None
    n_heads: int | None
    precision: str
    data: dict[str, Any]
    validation: dict[str, float]
    step: int | None
    xlab_version: str
    limits: dict[str, int]


class Health(Answer):
    """Whether it works, or takes requests."""

    status: Literal["ok", "draining", "broken"]


class Version(Answer):
    """Of service and model."""

    version: str
    model: str
