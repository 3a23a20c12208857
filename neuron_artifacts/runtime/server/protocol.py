"""What clients send. Unknown fields are ignored; ``null`` means the default.

Field names are those of OpenAI's API and of vLLM's extensions to it. Tools are shown to the chat
template; calls in the answer are not parsed, they stay text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from neuron_artifacts.errors import RequestError
from neuron_artifacts.runtime.params import MAX_LOGPROBS

MAX_STOPS = 64
MAX_STOP_LENGTH = 4096
MAX_BIASES = 4096
MAX_TOOLS = 1024

UNSUPPORTED = {
    "suffix": "text is only continued, not filled in before a suffix",
    "use_beam_search": "there is no beam search",
    "prompt_logprobs": "log-probabilities of the prompt are not computed",
    "structured_outputs": "output cannot be constrained",
    "guided_json": "output cannot be constrained",
    "guided_regex": "output cannot be constrained",
    "guided_choice": "output cannot be constrained",
    "guided_grammar": "output cannot be constrained",
    "functions": "describe functions under tools",
    "bad_words": "use logit_bias",
    "allowed_token_ids": "use logit_bias",
    "truncate_prompt_tokens": "prompts are never cut",
    "chat_template": "only the artifact's own template is used",
    "audio": "only text is generated",
}
"""Fields that would change the answer but are not implemented, and why: refused unless empty."""


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompts(value: Any) -> Any:
    """The four shapes of ``prompt``, as a list of texts or token lists."""
    prompts = [value] if _is_prompt(value) else value
    if not isinstance(prompts, list) or not prompts or not all(map(_is_prompt, prompts)):
        raise ValueError("must be a string, token ids, or a list of either, and not be empty")
    return prompts


def _is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(item) is int for item in value)
    return isinstance(value, str)


_PROMPT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"type": "integer"}},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    ]
}

Int = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Prompts = Annotated[
    list[str | list[int]], PlainValidator(_as_prompts), WithJsonSchema(_PROMPT_SCHEMA)
]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = Annotated[list[StopText], BeforeValidator(_as_list), Field(max_length=MAX_STOPS)]
StopTokenIds = Annotated[list[TokenId], Field(max_length=MAX_STOPS)]
Biases = Annotated[
    dict[Annotated[int, Field(ge=0, lt=2**31)], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=MAX_BIASES),
]
Tools = Annotated[list[dict[str, Any]], Field(max_length=MAX_TOOLS)]


class Request(BaseModel):
    """Base of all requests: lenient about unknown fields, strict about numbers."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        for name, why in UNSUPPORTED.items():
            if data.get(name):
                raise RequestError(f"{name} is not supported: {why}", param=name)
        return {name: value for name, value in data.items() if value is not None}


class ResponseFormat(BaseModel):
    type: str


class StreamOptions(BaseModel):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class GenerationRequest(Request):
    """Sampling fields that text and chat completions share."""

    n: Int = 1
    best_of: Int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Biases = Field(default_factory=dict)
    seed: Int | None = None
    stop: Stop = Field(default_factory=list)
    stop_token_ids: StopTokenIds = Field(default_factory=list)
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Int = 0
    skip_special_tokens: bool = True
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="after")
    def _check_shared(self) -> GenerationRequest:
        if self.best_of not in (None, self.n):
            raise RequestError(
                f"best_of ({self.best_of}) other than n ({self.n}) is not supported: "
                "candidates are not ranked", param="best_of",
            )  # fmt: skip
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream: true", param="stream_options")
        if self.response_format is not None and self.response_format.type != "text":
            raise RequestError(
                f"response_format {self.response_format.type!r} is not supported: "
                "output cannot be constrained", param="response_format",
            )  # fmt: skip
        return self


class CompletionRequest(GenerationRequest):
    """``POST /v1/completions``; ``max_tokens: 0`` with ``echo`` returns the prompt alone."""

    prompt: Prompts
    max_tokens: Int = 16
    echo: bool = False
    logprobs: Int | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _check_echo(self) -> CompletionRequest:
        if self.echo and self.logprobs is not None:
            raise RequestError(
                "logprobs with echo is not supported: log-probabilities of the prompt are not "
                "computed", param="logprobs",
            )  # fmt: skip
        if self.max_tokens < (0 if self.echo else 1):
            raise RequestError(
                f"max_tokens must be at least 1, got {self.max_tokens}", param="max_tokens"
            )
        return self


class Conversation(Request):
    """Messages and how the chat template is to render them."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    tools: Tools = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_conversation(self) -> Conversation:
        if self.tool_choice not in (None, "none", "auto"):
            raise RequestError(
                "tool_choice must be none or auto: a tool call cannot be forced",
                param="tool_choice",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise RequestError(
                "continue_final_message needs add_generation_prompt: false",
                param="continue_final_message",
            )
        return self


class ChatRequest(Conversation, GenerationRequest):
    """``POST /v1/chat/completions``; without a limit the answer may fill the context."""

    max_tokens: Int | None = None
    max_completion_tokens: Int | None = None
    logprobs: bool = False
    top_logprobs: Int | None = None

    @model_validator(mode="after")
    def _check_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
        if not 0 <= (self.top_logprobs or 0) <= MAX_LOGPROBS:
            raise RequestError(
                f"top_logprobs must be between 0 and {MAX_LOGPROBS}, got {self.top_logprobs}",
                param="top_logprobs",
            )
        return self


class TokenizeTextRequest(Request):
    """``POST /tokenize`` with ``prompt``."""

    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeChatRequest(Conversation):
    """``POST /tokenize`` with ``messages``."""

    return_token_strs: bool = False


class DetokenizeRequest(Request):
    """``POST /detokenize``."""

    tokens: list[TokenId]
