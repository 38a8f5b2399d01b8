"""What OpenAI's clients send: the fields that are taken, with their bounds, and those that are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MOST_TOP = 20
_MOST_STOPS = 16
_MOST_CHOICES = 16

# Fields that would change the answer and are not there, with the values that ask for nothing. Fields that are not
# named here or below change no answer (user, metadata, store, service_tier, …) and are passed over.
REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "audio": (),
    "modalities": (["text"],),
    "web_search_options": (),
    "suffix": (),
    "echo": (),
    "best_of": (1,),
    "use_beam_search": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (),
    "chat_template": (),
    "documents": (),
    "grammar": (),
    "json_schema": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "bad_words": (),
    "stop_token_ids": (),
    "min_tokens": (0,),
    "ignore_eos": (),
    "prompt_logprobs": (),
    "typical_p": (1,),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
}

Stop = str | Annotated[list[str], Field(max_length=_MOST_STOPS)]
Ids = Annotated[list[int], Field(min_length=1)]


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="Whose it is.")
    content: str | list[TextPart] = Field(description="Text, or a list of parts of the type text.")
    tool_calls: None = Field(None, description="Not taken.")

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class JsonSchema(BaseModel):
    """A JSON schema with its name."""

    name: str = ""
    json_schema: dict[str, Any] = Field(alias="schema", description="The schema that the text is a value of.")


class ResponseFormat(BaseModel):
    """What the text is to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, description="With the type json_schema.")


class StreamOptions(BaseModel):
    """What a stream tells besides."""

    include_usage: bool = Field(False, description="End with a piece that has the counts of tokens.")


class GenerationRequest(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = Field(None, description="The name that /v1/models gives; 'default' and none are taken too.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to write.")
    temperature: float | None = Field(
        None, ge=0, le=100, description="0 always takes the likeliest token; if not given, the model's own or 0.8."
    )
    top_p: float | None = Field(
        None, ge=0, le=1, description="Choose among the likeliest that have this probability together."
    )
    n: int | None = Field(None, ge=1, le=_MOST_CHOICES, description="How many texts to write.")
    stop: Stop | None = Field(None, description="Texts at which to end; they are not given.")
    seed: int | None = Field(None, description="The same seed writes the same text; if not given, another each time.")
    stream: bool | None = Field(None, description="Send the text piece by piece (server-sent events).")
    stream_options: StreamOptions | None = Field(None, description="What a stream tells besides.")
    response_format: ResponseFormat | None = Field(None, description="JSON, by a schema or any object.")
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Of tokens that were there (GGUF bundles).")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="That, each time (GGUF bundles).")
    logit_bias: dict[str, float] | None = Field(None, description="Added to logits, by token ids (GGUF bundles).")
    top_k: int | None = Field(None, ge=0, description="Choose among so many of the likeliest; 0 among all.")
    min_p: float | None = Field(
        None, ge=0, lt=1, description="Leave out what is less likely than this share of the likeliest."
    )
    repetition_penalty: float | None = Field(None, gt=0, le=10, description="Above 1 discourages repetition.")


class ChatRequest(GenerationRequest):
    """A conversation whose next message is wanted, as OpenAI's clients send it."""

    messages: list[ChatMessage] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Most tokens to write, by its newer name.")
    logprobs: bool | None = Field(None, description="Tell each token's log-probability.")
    top_logprobs: int | None = Field(None, ge=0, le=_MOST_TOP, description="And those of so many of the likeliest.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Values that the chat template asks for.")

    @property
    def scores(self) -> int | None:
        """How many of the likeliest tokens are wanted with each; None wants no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(GenerationRequest):
    """A text to go on with, as OpenAI's clients send it."""

    prompt: str | list[str] | Ids | list[Ids] = Field(
        description="The text to go on with, several of them, or their token ids."
    )
    logprobs: int | None = Field(
        None, ge=0, le=_MOST_TOP, description="Tell each token's log-probability, and those of so many likeliest."
    )

    @property
    def scores(self) -> int | None:
        """How many of the likeliest tokens are wanted with each; None wants no log-probabilities."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Each prompt: a text, or its ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [tuple(one for one in self.prompt if isinstance(one, int))]
        return [tuple(one) if isinstance(one, list) else str(one) for one in self.prompt]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(description="invalid_request_error, authentication_error, rate_limit_error or server_error.")
    param: str | None = Field(description="The field at fault, if it is one.")
    code: str | None = Field(description="Such as context_length_exceeded or queue_full.")


class OpenAIErrorAnswer(BaseModel):
    """A refusal, as OpenAI's clients read it."""

    error: ErrorBody
