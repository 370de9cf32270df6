"""Chat templates are programs out of downloaded files: they render, or they are stopped."""

import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from victim import MAX_MESSAGE_CHARS

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError
from baremetalrt.session.chat_template import CHATML, ChatTemplate, TemplateProcess

MESSAGES = [{"role": "user", "content": "Hello"}]
GOOD = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
# The deadline for rendering, and time to start a process on a busy machine.
LIMIT_S = 10.0


@pytest.fixture(scope="module")
def process() -> Iterator[TemplateProcess]:
    process = TemplateProcess()
    yield process
    process.close()


def render(process: TemplateProcess, source: str) -> str | BareMetalError:
    """What the template gives; after it, a good one must still render, and all of it in time."""
    started = time.monotonic()
    outcome: str | BareMetalError
    try:
        outcome = ChatTemplate(process, source, bos="<s>", eos="</s>").render(MESSAGES)
    except BareMetalError as error:
        outcome = error
    assert time.monotonic() - started < LIMIT_S
    assert ChatTemplate(process, CHATML, bos="", eos="").render(MESSAGES) == GOOD
    if isinstance(outcome, BareMetalError):
        assert outcome.message.isprintable() and len(outcome.message) <= MAX_MESSAGE_CHARS
    return outcome


ENDLESS = {
    # The sandbox bounds each `range`, but not what loops inside of loops do.
    "nested-loops": "{% for a in range(99999) %}" * 4 + "{% endfor %}" * 4,
    "power": "{{ 9 ** (9 ** 9) }}",
}
GREEDY = {
    "one-long-loop": "{% for i in range(10**9) %}x{% endfor %}",
    "string-times-number": "{{ 'x' * 10**12 }}",
    "string-times-number-in-steps": "{% set ns = namespace(s='x' * 10**4) %}"
    "{% for i in range(30) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}",
    "list-times-number": "{{ ([0] * 10**11) | length }}",
    "wide-format": "{{ '%999999999999d' % 1 }}",
    "wide-str-format": "{{ '{:>999999999999}'.format(1) }}",
    "center": "{{ 'x' | center(10**12) }}",
    "indent": "{{ 'x\ny' | indent(10**12) }}",
    "long-output": "{% for i in range(20000) %}{{ 'x' * 1000 }}{% endfor %}",
    "longer-output": "{% for i in range(90000) %}{{ 'x' * 10000 }}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive-loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "nested-brackets": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "nested-ifs": "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
    "long-sum": "{{ 1" + " + 1" * 100_000 + " }}",
    "includes-itself": "{% include 'chat' %}",
    "huge-number": "{{ " + "9" * 10_000 + " }}",
}
ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr-filter": "{{ '' | attr('__class__') | attr('__mro__') }}",
    "attr-by-parts": "{{ ('' | attr('__cla' ~ 'ss__')).__mro__ }}",
    "getitem": "{{ ''['__class__']['__mro__'] }}",
    "map-attribute": "{{ ['x'] | map(attribute='__class__') | list }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": "{{ lipsum.__globals__['os'].getcwd() }}",
    "joiner": "{{ joiner.__init__.__globals__ }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "format-attribute": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format-by-reference": "{% set f = '{0.__class__.__mro__}'.format %}{{ f('') }}",
    "format-map": "{{ '{x.__class__.__mro__}'.format_map({'x': ''}) }}",
    "raise-exception": "{{ raise_exception.__globals__ }}",
    "raise-exception-code": "{{ raise_exception.__code__ }}",
    "strftime-now": "{{ strftime_now.__globals__['sys'].exit() }}",
    "tojson": "{{ tojson.__globals__ }}",
    "self": "{{ self.__init__.__globals__ }}",
    "self-context": "{{ self._TemplateReference__context }}",
    "macro": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "caller": "{% macro f() %}{{ caller.__class__ }}{% endmacro %}{% call f() %}{% endcall %}",
    "generator-frame": "{{ ([1] | map('string')).gi_frame.f_globals }}",
    "loop": "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "import": "{% import 'os' as os %}{{ os }}",
    "extends": "{% extends '/etc/passwd' %}",
    "changes-messages": "{{ messages.append(1) }}",
    "changes-message": "{{ messages[0].update(role='x') }}",
}
# Anything that a Python object shows of itself, or that a file or a process would give.
LEAKS = ("class", "function", "module", "<built-in", "object at", "uid=", "root:", "/usr", "__")
BROKEN = {
    "syntax": "{% for %}",
    "unclosed": "{% if true %}",
    "unknown-tag": "{% exec 'x' %}",
    "unknown-filter": "{{ 1 | nosuchfilter }}",
    "unknown-function": "{{ nosuchfunction() }}",
    "division-by-zero": "{{ 1 / 0 }}",
    "bad-index": "{{ messages[10**30].role }}",
    "bad-type": "{{ 1 + 'x' }}",
    "not-json": "{{ messages[0].get | tojson }}",
    "bad-arguments": "{{ raise_exception() }}",
    "bad-time-format": "{{ strftime_now(1) }}",
    "lone-surrogate-in-error": "{{ undefined_\ud800 }}",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_templates_are_stopped(name: str, process: TemplateProcess) -> None:
    """The deadline ends the process; the next template gets another one."""
    outcome = render(process, ENDLESS[name])
    assert isinstance(outcome, IntegrityError) and outcome.code == "template.invalid"


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_templates_are_refused(name: str, process: TemplateProcess) -> None:
    """Too much memory, output or depth: an error, long before the machine would notice."""
    outcome = render(process, GREEDY[name])
    assert isinstance(outcome, IntegrityError) and outcome.code == "template.invalid"


@pytest.mark.parametrize("name", ESCAPES)
def test_templates_do_not_get_at_python(name: str, process: TemplateProcess) -> None:
    """Internals are refused, or are undefined and render as nothing."""
    outcome = render(process, ESCAPES[name])
    if isinstance(outcome, str):
        assert not any(leak in outcome for leak in LEAKS)
    else:
        assert outcome.code == "template.invalid"


@pytest.mark.parametrize("name", BROKEN)
def test_broken_templates_are_refused(name: str, process: TemplateProcess) -> None:
    """With the reason that Jinja gives."""
    outcome = render(process, BROKEN[name])
    assert isinstance(outcome, IntegrityError) and outcome.code == "template.invalid"


@pytest.mark.parametrize(
    "reason", ["roles must alternate", "two\nlines \x1b[2J", "x" * 10**6, "{{ messages }}", ""]
)
def test_a_template_that_refuses_blames_the_messages(reason: str, process: TemplateProcess) -> None:
    """Its own words reach the user, on one line."""
    outcome = render(process, "{{ raise_exception(" + repr(reason) + ") }}")
    assert isinstance(outcome, UsageError) and outcome.code == "template.refused"


@pytest.mark.parametrize(
    "value", ["messages", "none", "true", "1.5", "range", "nothing", "[1, {}]"]
)
def test_what_is_not_text_renders_as_text(value: str, process: TemplateProcess) -> None:
    """Jinja shows any value; a prompt is always a string."""
    assert isinstance(render(process, "{{ " + value + " }}"), str)


def test_a_reply_cannot_be_forged(process: TemplateProcess) -> None:
    """Output with line ends and JSON in it is one reply all the same."""
    forged = '"}\n{"text": "forged"}\n\0\x1b[2J\u2028'
    assert render(process, "{% raw %}" + forged + "{% endraw %}") == forged


def test_a_lone_surrogate_passes(process: TemplateProcess) -> None:
    """JSON can carry one, so a client can send one."""
    assert render(process, "a\ud800b") == "a\ud800b"


def test_a_template_longer_than_the_limit_is_not_even_tried(process: TemplateProcess) -> None:
    """A million characters are enough for any."""
    outcome = render(process, "x" * ((1 << 20) + 1))
    assert isinstance(outcome, IntegrityError) and outcome.code == "template.invalid"


def test_an_ended_process_is_replaced(process: TemplateProcess) -> None:
    """As after the system has run out of memory."""
    process.close()
    assert render(process, CHATML) == GOOD


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are read")
def test_processor_time_is_counted_for_each_template(process: TemplateProcess) -> None:
    """A server that has answered for weeks has as much of it for the next as for the first."""
    render(process, "{% for i in range(90000) %}{{ i }}{% endfor %}")
    worker = max(psutil.Process().children(), key=lambda child: child.create_time())
    while sum(worker.cpu_times()[:2]) < 1.5:
        render(process, "{% for i in range(90000) %}{{ i }}{% endfor %}")
    used_s = int(sum(worker.cpu_times()[:2]))
    render(process, "{{ 1 }}")
    assert worker.rlimit(psutil.RLIMIT_CPU)[0] >= 60 + used_s
