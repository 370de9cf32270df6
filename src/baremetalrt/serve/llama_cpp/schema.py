"""Requests of clients of llama.cpp's server. Fields that mean nothing here are left out."""

from typing import Annotated, Any

import msgspec

from baremetalrt.serve.openai.schema import Count, Stops

_MAX_FILES = 1024


class TokenizeRequest(msgspec.Struct):
    content: str | list[str | int] = ""
    model: str = ""
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(msgspec.Struct):
    tokens: list[int] = []
    model: str = ""


class ExtraFile(msgspec.Struct):
    text: str
    filename: str = "tmp"


class InfillRequest(msgspec.Struct, kw_only=True):
    input_prefix: str = ""
    input_suffix: str = ""
    prompt: str = ""
    model: str = ""
    input_extra: Annotated[list[ExtraFile], msgspec.Meta(max_length=_MAX_FILES)] = []
    n_predict: Count = -1
    stream: bool | None = None
    stop: str | Stops | None = None
    response_fields: list[str] | None = None
    seed: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    grammar: str | None = None
