"""What clients may ask: OpenAI's fields, those that vLLM adds, and the older service's.

Strict: a boolean is no number, a number no text, NaN and infinity are nothing, and what is not known is refused.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from xlab.serving import limits

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

# OpenAI's fields that are not done here, and the values that ask for nothing
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "functions": (None, []),
    "function_call": (None, "none"),
    "parallel_tool_calls": (None,),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None,),
    "store": (None, False),
    "metadata": (None, {}),
    "service_tier": (None, "auto", "default"),
    "prompt_cache_key": (None,),
    "prompt_cache_retention": (None,),
    "safety_identifier": (None,),
}

Stop = Annotated[str, Field(min_length=1, max_length=limits.MOST_STOP_CHARACTERS)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]  # a million errors would take seconds


class StreamOptions(BaseModel):
    """What a stream holds beside the text."""

    model_config = STRICT

    include_usage: bool | None = Field(None, description="A last chunk without choices tells the usage.")


class JsonSchema(BaseModel):
    """A JSON schema that the text must satisfy."""

    model_config = STRICT

    name: str = Field("schema", max_length=64)
    description: str | None = Field(None, max_length=4096)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="Always strict here.")


class ResponseFormat(BaseModel):
    """Text that must be JSON."""

    model_config = STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _check(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema belongs to the type "json_schema", and that type needs it')
        return self


class Sampling(BaseModel):
    """How to write: the fields that completions and chats share."""

    model_config = STRICT

    model: str | None = Field(None, max_length=256, description="This server's model, or nothing.")
    temperature: float | None = Field(None, ge=0, le=100, description="Divisor of the logits; 0 is greedy. 1.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from a nucleus of this mass. 1.")
    top_k: int | None = Field(None, ge=1, le=2**31, description="Draw from the k likeliest tokens only.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Draw from tokens at least so many times as likely as the best."
    )
    typical_p: float | None = Field(None, gt=0, le=1, description="Draw from the tokens of typical surprise.")
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description="Divides the logits of all tokens seen. 1."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted from the logits of tokens written. 0."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Subtracted for each time that they were. 0."
    )
    no_repeat_ngram: int | None = Field(None, ge=1, le=limits.MOST_TOKENS, description="No so many tokens occur twice.")
    logit_bias: (
        dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None
    ) = Field(None, max_length=limits.MOST_BIASES, description="Added to the logits of these token ids.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same seed gives the same text.")
    n: int | None = Field(None, ge=1, le=limits.MOST_TEXTS, description="How many texts. 1.")
    stop: Stop | Annotated[list[Stop], Field(max_length=limits.MOST_STOPS)] | None = Field(
        None, description="The text ends before any of these."
    )
    min_tokens: int | None = Field(None, ge=0, le=limits.MOST_TOKENS, description="No end before so many tokens. 0.")
    truncate_prompt: bool | None = Field(
        None, description="Of a prompt longer than the context keep the end; else it is refused."
    )
    beam_width: int | None = Field(
        None, ge=1, le=limits.MOST_TEXTS, description="Search for the likeliest texts with so many beams."
    )
    length_penalty: float | None = Field(
        None, ge=-10, le=10, description="Exponent of the length in a beam's score. 0."
    )
    response_format: ResponseFormat | None = None
    stream: bool | None = Field(None, description="Send the text as it comes, by server-sent events.")
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Tell the ids of prompt and text.")
    user: str | None = Field(None, max_length=512, description="Accepted, and not used.")

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, body: Any) -> Any:
        if not isinstance(body, Mapping):
            return body
        for name in body.keys() & NOT_DONE.keys():
            if not any(body[name] is value or body[name] == value for value in NOT_DONE[name]):
                raise ValueError(f"{name} is not done by this server; leave it out")
        return {name: value for name, value in body.items() if name not in NOT_DONE}

    @field_validator("stop", mode="before")
    @classmethod
    def _check_stop(cls, stop: Any) -> Any:
        return _one_or_many("stop", stop, str, "a text or a list of texts")

    @property
    def stops(self) -> list[str]:
        """The stop strings as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class CompletionBody(Sampling):
    """Text that goes on from a prompt."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "The module", "max_tokens": 32, "temperature": 0.8, "seed": 1},
                {"prompt": ["The module", "Return"], "max_tokens": 8, "n": 2, "logprobs": 3, "stop": ["\n"]},
                {"prompt": "The list", "max_tokens": 16, "beam_width": 4, "n": 4, "length_penalty": 1.0},
            ]
        }
    )

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=limits.MOST_PROMPTS, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=limits.MOST_PROMPTS, fail_fast=True)]
    ) = Field(description="A text, token ids as they are, or a list of either.")
    max_tokens: int | None = Field(None, ge=0, le=limits.MOST_TOKENS, description="New tokens at most. 16.")
    best_of: int | None = Field(
        None, ge=1, le=limits.MOST_TEXTS, description="Draw so many texts, give the n likeliest."
    )
    echo: bool | None = Field(None, description="Begin the text with its prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=limits.MOST_LOGPROBS, description="Tell the log-probability of each token and of the likeliest."
    )

    @field_validator("prompt", mode="before")
    @classmethod
    def _check_prompt(cls, prompt: Any) -> Any:
        kinds = "a text, a list of texts, a list of token ids, or a list of such lists"
        if isinstance(prompt, list) and prompt and all(isinstance(one, list) for one in prompt):
            for one in prompt:
                _one_or_many("prompt", one, int, kinds, least=1)
            return prompt
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], str):
            return _one_or_many("prompt", prompt, int, kinds)
        return _one_or_many("prompt", prompt, str, kinds, least=1)


class TextPart(BaseModel):
    """A part of a message; there are no others than text."""

    model_config = STRICT

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """What one side of a chat said."""

    model_config = STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Sampling):
    """The next message of a chat."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "What is a module?"}], "max_tokens": 48, "seed": 1}]
        }
    )

    messages: list[Message] = Field(min_length=1, max_length=limits.MOST_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, le=limits.MOST_TOKENS, description="New tokens at most.")
    max_completion_tokens: int | None = Field(None, ge=1, le=limits.MOST_TOKENS, description="Its newer name.")
    logprobs: bool | None = Field(None, description="Tell the log-probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=limits.MOST_LOGPROBS, description="And of so many others.")

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError("max_tokens and max_completion_tokens are one thing; give one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class GeneratedTextsBody(BaseModel):
    """The older service's request."""

    model_config = ConfigDict(
        **STRICT,
        json_schema_extra={"examples": [{"body": "The module", "max_number_of_generated_tokens": 32, "top_k": 50}]},
    )

    body: str = Field(description="The text to go on from.")
    meta: str | None = Field(None, description="For models that were trained with it.")
    max_number_of_generated_tokens: int | None = Field(None, ge=1, le=limits.MOST_TOKENS, description="128.")
    temperature: float = Field(1.0, ge=0, le=100)
    top_k: int = Field(0, ge=0, le=2**31, description="0 draws from all tokens.")
    top_p: float = Field(1.0, gt=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    num_return_sequences: int = Field(1, ge=1, le=limits.MOST_TEXTS)


def _one_or_many(name: str, value: Any, kind: type, kinds: str, *, least: int = 0) -> Any:
    """Refuse in one line what a union of types would refuse in many."""
    many = value if isinstance(value, list) else None
    if many is not None and (len(many) < least or not all(type(one) is kind for one in many)):
        wrong = next((one for one in many if type(one) is not kind), many)
        raise ValueError(f"must be {kinds}; got {_short(wrong)}")
    if many is None and value is not None and not (kind is str and isinstance(value, str)):
        raise ValueError(f"must be {kinds}; got {_short(value)}")
    if value is None and name == "prompt":
        raise ValueError(f"must be {kinds}; got null")
    return value


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, (list, dict)) else f"a {type(value).__name__} of {len(value)}"
    return text if len(text) <= 60 else f"{text[:60]}…"
