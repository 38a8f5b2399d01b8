"""What OpenAI's clients send: the fields that are taken, with their bounds, and those that are refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MOST_TOP = 20
_MOST_STOPS = 16
_MOST_CHOICES = 16

# Fields of OpenAI's interface and of other servers that would change the answer and are not here, with the values that
# ask for nothing. What is neither here nor below (user, metadata, store, service_tier, …) changes no answer and passes.
REFUSED: dict[str, tuple[Any, ...]] = {
    **{name: () for name in (
        "tools", "functions", "audio", "web_search_options", "prediction", "suffix", "echo", "use_beam_search",
        "continue_final_message", "chat_template", "documents", "grammar", "json_schema", "structured_outputs",
        "guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_decoding_backend", "regex", "ebnf",
        "bad_words", "stop_token_ids", "stop_regex", "allowed_token_ids", "logits_processors", "ignore_eos",
        "ban_eos_token", "custom_token_bans", "prompt_logprobs", "truncate_prompt_tokens", "truncate",
        "return_full_text", "include_stop_str_in_output", "watermark", "negative_prompt", "n_keep", "samplers",
        "sampler_seq", "lora", "adapters", "lora_request", "image_data", "images", "input_prefix", "input_suffix",
        "options", "format", "system", "template", "raw", "context", "think", "thinking", "enable_thinking",
        "instruction_template", "character", "top_n_sigma", "eta_cutoff", "epsilon_cutoff", "penalty_alpha",
        "no_repeat_ngram_size", "repeat_last_n", "repetition_penalty_range", "dry_sequence_breakers",
        "thinking_token_budget", "reasoning", "min_new_tokens", "top_a", "smoothing_factor",
    )},
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none", "minimal"),
    "verbosity": ("medium",),
    "best_of": (1,),
    "num_beams": (1,),
    "length_penalty": (1, 0),
    "do_sample": (True,),
    "add_generation_prompt": (True,),
    "add_special_tokens": (True,),
    "skip_special_tokens": (True,),
    "min_tokens": (0,),
    "typical_p": (1,),
    "typical": (1,),
    "tfs_z": (1,),
    "mirostat": (0,),
    "dry_multiplier": (0,),
    "xtc_probability": (0,),
    "dynatemp_range": (0,),
    "guidance_scale": (1,),
}  # fmt: skip
# Fields inside the objects of a request that change no answer; all others there are refused.
PASSED = (
    "name", "id", "refusal", "annotations", "cache_control", "metadata", "timestamp", "created_at", "model", "status",
    "strict", "description", "include_obfuscation", "continuous_usage_stats",
)  # fmt: skip

ALIASES = {
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}
"""Other names of fields."""

Stop = str | Annotated[list[str], Field(max_length=_MOST_STOPS)]
Ids = Annotated[list[int], Field(min_length=1)]


class _Inner(BaseModel):
    model_config = ConfigDict(extra="allow")


class TextPart(_Inner):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(_Inner):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="Whose it is.")
    content: str | list[TextPart] | None = Field(
        None, description="Text, or a list of parts of the type text; only an assistant's may be missing."
    )
    reasoning_content: str | None = Field(None, description="For chat templates that have a place for it.")
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not taken.")

    @model_validator(mode="after")
    def _has_content(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise ValueError(f"a message of the role {self.role} needs content")
        return self

    def plain(self) -> dict[str, str]:
        """As a chat template takes it."""
        content = self.content or ""
        content = content if isinstance(content, str) else "".join(part.text for part in content)
        more = {"reasoning_content": self.reasoning_content} if self.reasoning_content else {}
        return {"role": "system" if self.role == "developer" else self.role, "content": content, **more}


class JsonSchema(_Inner):
    """A JSON schema with its name."""

    name: str = ""
    json_schema: dict[str, Any] = Field(alias="schema", description="The schema that the text is a value of.")


class ResponseFormat(_Inner):
    """What the text is to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(None, description="With the type json_schema.")
    own_schema: dict[str, Any] | None = Field(
        None, alias="schema", description="The schema itself, with json_object or json_schema."
    )


class StreamOptions(_Inner):
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
    stop: Stop | None = Field(None, description="Texts that end the output; they are not part of it.")
    seed: int | None = Field(None, description="The same seed writes the same text; if not given, another each time.")
    stream: bool | None = Field(None, description="Send the text piece by piece (server-sent events).")
    stream_options: StreamOptions | None = Field(None, description="What a stream tells besides.")
    response_format: ResponseFormat | None = Field(None, description="JSON, by a schema or any object.")
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Against tokens that occurred before (GGUF bundles)."
    )
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="The same per occurrence (GGUF bundles).")
    logit_bias: dict[str, float] | None = Field(None, description="Added to logits, by token ids (GGUF bundles).")
    top_k: int | None = Field(None, ge=0, description="Choose among so many of the likeliest; 0 among all.")
    min_p: float | None = Field(
        None, ge=0, lt=1, description="Leave out what is less likely than this share of the likeliest."
    )
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, description="Above 1 discourages repetition.")
    repeat_penalty: float | None = Field(None, ge=0.01, le=10, description="Another name of repetition_penalty.")
    n_predict: int | None = Field(None, ge=1, description="Another name of max_tokens.")
    max_new_tokens: int | None = Field(None, ge=1, description="Another name of max_tokens.")


class ChatRequest(GenerationRequest):
    """A conversation whose next message is wanted, as OpenAI's clients send it."""

    messages: list[ChatMessage] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Most tokens to write, by its newer name.")
    logprobs: bool | None = Field(None, description="Return each token's log-probability.")
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
