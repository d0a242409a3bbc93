"""Chat templates: the Jinja program that comes with a tokenizer and writes a chat as the model was trained to read it.

A template comes with the weights and is not trusted: it runs in Jinja's immutable sandbox, sees plain data only, and
has the few functions that published templates use (transformers' ``chat_template_utils.py`` says which).
"""

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from core.errors import InputError
from core.weights.files import read_json
from multimodal.messages import Message, checked, plain

__all__ = ["ChatTemplate"]

MAX_BYTES = 1 << 20  # published templates have a few kilobytes
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class ChatTemplate:
    """Writes chats as text.

    Args:
        source: the Jinja program.
        special: special tokens that it may name, such as ``bos_token="<s>"``.

    Raises:
        InputError: if the program can't be read.
    """

    def __init__(self, source: str, **special: str) -> None:
        self.source = source
        self.special = special
        self._program = _compiled(source)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "special": self.special}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # a program can't be sent to another process, where one that reads ahead may begin from nothing
        self.__dict__.update(state, _program=_compiled(state["source"]))

    @classmethod
    def load(cls, folder: Path | str) -> "ChatTemplate | None":
        """Return the template of a folder of Hugging Face's, or None if it has none.

        ``chat_template.jinja``, ``chat_template.json`` and the tokenizer's configuration are looked at, in this order.

        Raises:
            InputError: if one of the files can't be read.
        """
        folder = Path(folder)
        said = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        special = {name: _text(said[name]) for name in _SPECIAL if said.get(name) is not None}
        source = _found(folder, said)
        return None if source is None else cls(source, **special)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
        **values: Any,
    ) -> str:
        """Return the chat as text.

        Args:
            messages: see :mod:`multimodal.messages`.
            add_generation_prompt: end with what comes before an answer.
            tools: JSON schemas of functions that may be called.
            values: others that the template knows.

        Raises:
            InputError: if a message is not as it must be, or the template refuses them or has a fault.
        """
        return self.write(self.prepared(messages), add_generation_prompt, tools=tools, **values)

    @staticmethod
    def prepared(messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return the messages as :meth:`write` takes them, whole or the first of them.

        Raises:
            InputError: if one is not as it must be.
        """
        found: list[dict[str, Any]] = plain(checked(messages))
        return found

    def write(
        self,
        prepared: Sequence[dict[str, Any]],
        add_generation_prompt: bool = False,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **values: Any,
    ) -> str:
        """Return prepared messages as text: :meth:`render` for those who write many beginnings of one chat.

        Raises:
            InputError: if the template refuses them or has a fault.
        """
        data: dict[str, Any] = plain({"tools": None if tools is None else list(tools), **values})
        try:
            return self._program.render(
                **{**self.special, **data},
                messages=list(prepared),
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except SecurityError as error:
            raise InputError(f"the chat template does what it must not: {_line(error)}") from error
        except TemplateError as error:
            raise InputError(f"the chat template refuses these messages: {_line(error)}") from error
        # whatever its expressions raise: division by zero, missing keys, wrong types
        except Exception as error:
            raise InputError(f"the chat template has a fault: {type(error).__name__}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _text(token: Any) -> str:
    """A special token, which may come with its settings."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)


def _found(folder: Path, said: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    path = folder / "chat_template.json"
    if path.exists():
        said = read_json(path)
    given = said.get("chat_template")
    if isinstance(given, list):  # several by name
        named = {str(each.get("name")): each.get("template") for each in given if isinstance(each, dict)}
        if "default" not in named:
            raise InputError(f"{folder} has the chat templates {', '.join(named)}: none is called default")
        given = named["default"]
    return None if given is None else str(given)


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}`` marks what the assistant says; here it is just what it holds."""

    tags = {"generation"}  # noqa: RUF012  # as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what is inside."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Names(Namespace):
    """A namespace that takes no names with an underscore in front: they lead out of the sandbox."""

    def __init__(*args: Any, **names: Any) -> None:  # "self" may be a name too
        self, *given = args
        attributes = dict(*given, **names)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: str) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"it stores {name!r} in a namespace")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, without HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _dict(*pairs: Any, **names: Any) -> dict[Any, Any]:
    """A function, for the class has methods."""
    return dict(*pairs, **names)


@lru_cache(maxsize=16)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_BYTES:
        raise InputError(f"the chat template has {len(source)} characters: more than {MAX_BYTES} are not read")
    world = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], autoescape=False
    )
    world.filters["tojson"] = _json
    world.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": _dict, "namespace": _Names}
    try:
        return world.from_string(source)
    except TemplateSyntaxError as error:
        raise InputError(f"the chat template can't be read, line {error.lineno}: {_line(error)}") from error
