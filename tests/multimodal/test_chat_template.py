"""Chat templates against transformers' own rendering, in the sandbox, and what is said of bad chats."""

import json

import pytest

from core.errors import InputError
from multimodal.chat_template import ChatTemplate
from multimodal.messages import checked

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOL = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] =="
    " 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TOOLS = (
    "{{ bos_token }}{%- set ns = namespace(seen=0) -%}{%- for m in messages -%}\n"
    "    {%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}\n"
    "    {%- set ns.seen = ns.seen + 1 -%}\n"
    "    {% generation %}[{{ m.role }}] {{ m.content | trim }}{% endgeneration %}\n"
    "{%- endfor -%}\n{%- if tools -%}{{ tools | tojson(indent=2) }}{%- endif -%}{{ ns.seen }}"
)
CHAT = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": 'What is <it>? "ü"'}]},
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": [{"type": "text", "text": "And this?"}, {"type": "image"}]},
]


@pytest.mark.parametrize("source", [CHATML, SMOL])
@pytest.mark.parametrize("prompt", [False, True])
def test_as_transformers(source: str, prompt: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs = utils.render_jinja_template([CHAT], chat_template=source, add_generation_prompt=prompt)[0][0]
    assert ChatTemplate(source).render(CHAT, add_generation_prompt=prompt) == theirs


def test_loops_namespaces_tools_and_special_tokens() -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": " hello <b> "}]
    tools = [{"type": "function", "function": {"name": "größe", "parameters": {}}}]
    theirs = utils.render_jinja_template([chat], tools=tools, chat_template=TOOLS, bos_token="<s>")[0][0]
    assert ChatTemplate(TOOLS, bos_token="<s>").render(chat, tools=tools) == theirs


def test_a_folder(tmp_path) -> None:
    assert ChatTemplate.load(tmp_path) is None
    config = {"chat_template": [{"name": "default", "template": "{{ bos_token }}!"}], "bos_token": {"content": "<s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatTemplate.load(tmp_path).render([{"role": "user", "content": "a"}]) == "<s>!"
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}{{ bos_token }}")
    assert ChatTemplate.load(tmp_path).render([{"role": "user", "content": "a"}]) == "<s>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% set n = namespace(_x=1) %}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}",
        "{{ dict.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ lipsum.__globals__['os'].popen('id').read() }}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(InputError, match="the chat template") as caught:
        ChatTemplate(source).render([{"role": "user", "content": "a"}])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
        ("{{ 1 / 0 }}", "has a fault: ZeroDivisionError"),
        ("{{ messages[0].content.nothing.there }}", "refuses these messages"),
    ],
)
def test_a_template_that_fails(source: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        ChatTemplate(source).render([{"role": "user", "content": "a"}])


def test_a_template_that_is_none() -> None:
    with pytest.raises(InputError, match="can't be read, line 2"):
        ChatTemplate("a\n{% if %}")


@pytest.mark.parametrize(
    ("chat", "words"),
    [
        ([], "no messages"),
        ("hello", "a list of messages"),
        ([{"role": "person", "content": "a"}], "message 1 has the role 'person': expected one of system"),
        ([{"role": "user", "content": "  "}], r"message 1 \(user\) is empty"),
        ([{"role": "user"}], r"message 1 \(user\) has no content"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": []}], r"message 2 \(assistant\) is empty"),
        ([{"role": "user", "content": [{"type": "text", "text": ""}]}], "part 1 of message 1"),
        ([{"role": "user", "content": [{"type": "smell"}]}], "of the type 'smell'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "has no URL"),
        ([{"role": "user", "content": 5}], "a int for content"),
    ],
)
def test_bad_chats(chat, words: str) -> None:
    with pytest.raises(InputError, match=words):
        checked(chat)
