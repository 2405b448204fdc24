"""From one JSON object or table row to a document: which of the known forms it has, and why it has none.

It knows fields and roles; it must not know files. What is raised here is a reason that a person reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from lumina.data.documents import KNOWN_ROLES, Document, Message, Reading

Record = Mapping[str, Any]
ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("input", "output"),
)
_FIELD = {"conversation": "conversation", "messages": "messages", "sharegpt": "conversations"}
_CALLS = ("tool_calls", "function_call")
_TEXT_PARTS = ("text", "input_text", "output_text")


class BadRecord(ValueError):
    """Why a record is no sample."""


def document(record: Any, reading: Reading) -> Document:
    """The sample that `record` is, in the form that is asked for or in the first that its fields have.

    Raises `BadRecord`.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a JSON object is needed, not {_kind(record)}")
    for name, form in FORMS.items():
        if reading.form in ("auto", name) and form.fits(record, reading):
            made = form.read(record, reading)
            _refuse_lone_surrogates(made, cleaned=reading.cleaning)
            return made if made.form == name else replace(made, form=name)
    raise BadRecord(_unknown(record, reading))


def _unknown(record: Record, reading: Reading) -> str:
    fields = ", ".join(str(key)[:40] for key in list(record)[:6]) or "none"
    if "chosen" in record and "rejected" in record:
        return "a pair of a chosen and a rejected answer, which no training mode takes; give the chosen one as messages"
    empty = next((name for name in ("conversation", "messages", "conversations") if name in record), None)
    if empty is not None and reading.form == "auto":
        return f"field {empty} is null, not a list of messages"
    if reading.form != "auto":
        wanted = reading.text_field if reading.form == "text" else _FIELD.get(reading.form)
        needed = f", field {wanted}" if wanted else ""
        return f"not of the form {reading.form} (data.format){needed}; its fields are {fields}"
    inner = next((key for key, value in record.items() if isinstance(value, list) and _are_records(value)), None)
    if inner is not None:
        return f"field {str(inner)[:40]} is a list of objects: if these are the samples, make the list itself the file"
    return f"neither {reading.text_field} nor conversation; its fields are {fields}"


def _are_records(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], Mapping)


# Text


def _has_text(record: Record, reading: Reading) -> bool:
    return reading.text_field in record


def _text(record: Record, reading: Reading) -> Document:
    text = record[reading.text_field]
    if not isinstance(text, str):
        raise BadRecord(f"field {reading.text_field} is {_kind(text)}, not text")
    if not text.strip():
        raise BadRecord(f"field {reading.text_field} is empty")
    return Document(text=text)


# Conversations


def _has(field: str) -> Callable[[Record, Reading], bool]:
    return lambda record, _: record.get(field) is not None


def _listed(field: str) -> Callable[[Record, Reading], Document]:
    """Messages in a list under `field`, after the `system` text beside it, if there is one."""

    def read(record: Record, reading: Reading) -> Document:
        turns = record[field]
        if not isinstance(turns, (list, tuple)):
            raise BadRecord(f"field {field} is {_kind(turns)}, not a list of messages")
        if not turns:
            raise BadRecord(f"field {field} is an empty list")
        made = [_message(turn, f"{field}[{index}]", reading) for index, turn in enumerate(turns)]
        system = record.get("system")
        if isinstance(system, str) and system.strip() and made[0].role != "system":
            made.insert(0, Message("system", system))
        return _conversation(made, field, reading)

    return read


def _message(turn: Any, where: str, reading: Reading) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRecord(f"{where} is {_kind(turn)}, not a message")
    role = _role(turn.get("role", turn.get("from")), where, reading)
    value = turn.get("content", turn.get("value"))
    content = "" if value is None and _calls(turn) else _content(value, where)
    called = _calls(turn)
    if called:
        content = f"{content}\n{called}" if content else called
    return Message(role, content, loss=turn.get("weight") not in (0, 0.0))


def _role(given: Any, where: str, reading: Reading) -> str:
    if given is None:
        raise BadRecord(f"{where} has no role")
    if isinstance(given, str):
        name = given.strip().lower() if reading.cleaning else given
        known = ROLES.get(name, name)
        if known in KNOWN_ROLES:
            return known
        raise BadRecord(f"{where} has the unknown role {given[:40]!r}; known are {', '.join(KNOWN_ROLES)}")
    raise BadRecord(f"{where} has a role that is {_kind(given)}, not text")


def _content(value: Any, where: str) -> str:
    """Text, or the texts of typed parts, one below the other."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise BadRecord(f"{where}.content is {_kind(value)}, not text")
    texts = []
    for part in value:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, Mapping) else _kind(part)
        text = part.get("text") if isinstance(part, Mapping) else None
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise BadRecord(f"{where}.content has a part of type {str(kind)[:40]}; only text can be trained on")
        texts.append(text)
    return "\n".join(texts)


def _calls(turn: Record) -> str:
    """The tool calls of a message, one JSON object in a line each; a call is what the assistant says then."""
    found: list[Any] = []
    for field in _CALLS:
        value = turn.get(field)
        found += list(value) if isinstance(value, (list, tuple)) else ([value] if value else [])
    called = [call.get("function", call) if isinstance(call, Mapping) else call for call in found]
    return "\n".join(json.dumps(call, ensure_ascii=False, default=str) for call in called)


def _has_rounds(record: Record, _: Reading) -> bool:
    rounds = record.get("conversation")
    return (
        isinstance(rounds, (list, tuple))
        and bool(rounds)
        and isinstance(rounds[0], Mapping)
        and "output" in rounds[0]
        and not {"role", "from"} & rounds[0].keys()
    )


def _rounds(record: Record, reading: Reading) -> Document:
    """XTuner's list of rounds: `input` is asked, `output` answered, after the round's `system`."""
    made: list[Message] = []
    for index, turn in enumerate(record["conversation"]):
        where = f"conversation[{index}]"
        if not isinstance(turn, Mapping) or not isinstance(turn.get("output"), str):
            raise BadRecord(f"{where} is no round: an object with text under input and output is needed")
        asked = [("system", _optional(turn, "system")), ("user", _optional(turn, "input"))]
        made += [Message(role, text) for role, text in asked if text.strip()]
        made.append(Message("assistant", turn["output"], loss=turn.get("output_with_loss") is not False))
    return _conversation(made, "conversation", reading)


def _has_alpaca(record: Record, _: Reading) -> bool:
    return "instruction" in record and ("output" in record or "response" in record)


def _alpaca(record: Record, reading: Reading) -> Document:
    """Alpaca's instruction, input and output (Dolly: context and response), after `system` and `history`."""
    answer = "output" if "output" in record else "response"
    asked = [_field(record, "instruction"), *(_optional(record, name) for name in ("input", "context"))]
    made = [Message("user", "\n".join(part for part in asked if part)), Message("assistant", _field(record, answer))]
    history = record.get("history") or ()
    if not isinstance(history, (list, tuple)) or not all(
        isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(text, str) for text in turn)
        for turn in history
    ):
        raise BadRecord("field history is not a list of pairs of texts")
    before = [Message(role, text) for turn in history for role, text in zip(("user", "assistant"), turn, strict=True)]
    return _conversation(_after_system(record, "system", [*before, *made]), answer, reading)


def _has_pair(record: Record, _: Reading) -> bool:
    return _pair(record) is not None


def _pair(record: Record) -> tuple[str, str] | None:
    return next(((one, other) for one, other in _PAIRS if one in record and other in record), None)


def _asked(record: Record, reading: Reading) -> Document:
    names = _pair(record)
    assert names is not None  # `fits` came first
    made = [Message("user", _field(record, names[0])), Message("assistant", _field(record, names[1]))]
    return _conversation(_after_system(record, "system_prompt", made), names[1], reading)


def _after_system(record: Record, field: str, made: list[Message]) -> list[Message]:
    system = _optional(record, field)
    return [Message("system", system), *made] if system.strip() else made


def _field(record: Record, name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise BadRecord(f"field {name} is {_kind(value)}, not text")
    return value


def _optional(record: Record, name: str) -> str:
    return _field(record, name) if record.get(name) is not None else ""


def _conversation(made: list[Message], field: str, reading: Reading) -> Document:
    if reading.cleaning:
        made = [message for message in made if message.content.strip()]
    spoken = [message for message in made if message.role == "assistant" and message.content.strip()]
    if not any(message.content.strip() for message in made):
        raise BadRecord(f"every message of {field} is empty")
    if not spoken:
        raise BadRecord(f"{field} has no answer of the assistant")
    return Document(messages=tuple(made))


# What every form shares


class Form(NamedTuple):
    """`fits` looks at the fields alone; `read` makes the document or raises `BadRecord`."""

    fits: Callable[[Record, Reading], bool]
    read: Callable[[Record, Reading], Document]


FORMS: dict[str, Form] = {
    "xtuner": Form(_has_rounds, _rounds),
    "conversation": Form(_has("conversation"), _listed("conversation")),
    "messages": Form(_has("messages"), _listed("messages")),
    "sharegpt": Form(_has("conversations"), _listed("conversations")),
    "alpaca": Form(_has_alpaca, _alpaca),
    "text": Form(_has_text, _text),
    "pairs": Form(_has_pair, _asked),
}
FIELDS = frozenset(
    {"conversation", "messages", "conversations", "instruction", "input", "context", "output", "response", "history",
     "system", "system_prompt", "chosen", "rejected", *(name for pair in _PAIRS for name in pair)}
)  # fmt: skip
"""Fields that some form reads, beside the text field; of a table, only these columns are read."""


def _refuse_lone_surrogates(made: Document, *, cleaned: bool) -> None:
    if cleaned:
        return
    for text in made.texts:
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise BadRecord(f"half a surrogate pair (\\u{code:04x}) at character {error.start + 1}: not text") from None


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list",
             bytes: "bytes"}  # fmt: skip
    return names.get(type(value), "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}")
