"""Web pages and HTML mail: what was written, without what one clicks on.

Considered: resiliparse and trafilatura, which find the main content by more rules, drop lists inside of
it, and bring more with them. The parser is lexbor, by selectolax; it follows HTML5 and forgives.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from baremetalrt.documents.charset import decode
from baremetalrt.documents.cleaning import clean, has_words, one_line_title
from baremetalrt.documents.document import EMPTY, Document, Refusal
from baremetalrt.documents.limits import MAX_HTML_DEPTH
from baremetalrt.documents.names import names_in
from baremetalrt.documents.readers.html_style import Appearance, HiddenRules, hidden_rules, hides
from baremetalrt.documents.readers.html_writer import Writer, joined, without_menus
from baremetalrt.documents.readers.source import Source

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_SILENT: Final = frozenset(
    names_in(
        """
        head script style noscript template svg math iframe object embed canvas audio video
        select button textarea nav footer aside dialog menu -comment -doctype
        """
    )
)
_SILENT_ROLES: Final = frozenset(("navigation", "banner", "contentinfo", "search", "complementary"))
# Whole class names and ids, not parts of them: the body of many pages is called `has-sidebar`.
_SILENT_CLASSES: Final = frozenset(
    names_in(
        """
        nav navbar navigation menu sidebar breadcrumb breadcrumbs footer site-footer site-header
        topbar cookie-banner cookie-notice cookie-consent pagination pager share social skip-link
        mw-jump-link advertisement ads noprint sr-only visually-hidden visuallyhidden
        screen-reader-text
        """
    )
)
_QUOTES: Final = frozenset(
    names_in(
        """
        gmail_quote gmail_signature moz-cite-prefix moz-signature yahoo_quoted divRplyFwdMsg
        protonmail_quote protonmail_signature_block
        """
    )
)
_BLOCKS: Final = frozenset(
    names_in(
        """
        address article blockquote body caption center dd details div dl dt fieldset figcaption
        figure form h1 h2 h3 h4 h5 h6 header hr li main ol p pre section summary table tbody
        tfoot thead tr ul
        """
    )
)
_PARAGRAPHS: Final = frozenset(
    names_in(
        """
        p pre h1 h2 h3 h4 h5 h6 table ul ol blockquote
        """
    )
)
_PREFIXES: Final = {f"h{n}": "#" * n + " " for n in range(1, 7)} | {"li": "- "}
_CHARSET: Final = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.I)
_XML_CHARSET: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([\w.:-]{2,40})"
)
_IS_XHTML: Final = re.compile(
    r"\s*(?:<\?xml\b|<!DOCTYPE[^>]{0,200}\bXHTML|<html[^>]{0,300}\bxmlns=)", re.I
)
_SELF_CLOSED: Final = re.compile(
    r"<(?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)"
    r"([A-Za-z][\w:.-]{0,60})((?:\s[^<>]{0,2000})?)/>",
    re.IGNORECASE,
)


def read_html(source: Source) -> Iterator[Document]:
    """One document, with `#` before headings and `-` before items."""
    title, text = html_to_text(page_of(source.read_all(), source.charset))
    if not has_words(text):
        raise EMPTY
    yield Document(text=text, origin=source.origin, kind="html", title=title)


def page_of(data: bytes, charset: str | None = None) -> str:
    """The page in some bytes. `charset`: what whoever sent it said of it; else it may say so itself."""
    found = None if charset else _XML_CHARSET.match(data) or _CHARSET.search(data, 0, 4096)
    page = decode(data, found[1].decode("ascii") if found else charset)
    # In XML, an element may end where it begins. In HTML it goes on: a title without end is the page.
    return _SELF_CLOSED.sub(r"<\1\2></\1>", page) if _IS_XHTML.match(page) else page


def html_to_text(html: str, *, is_mail: bool = False) -> tuple[str, str]:
    """Title and text. Of a mail, quoted replies and signatures go as well; menus stay.

    Raises:
        Refusal: elements are nested beyond `MAX_HTML_DEPTH`.
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    found = tree.css_first("title")
    title = one_line_title(found.text()) if found is not None else ""
    root = tree.body
    if root is None:
        return title, ""
    if not is_mail:
        main = tree.css_first("main, [role=main]")
        if main is not None and has_words(main.text()):
            root = main
    writer = Writer()
    styles = "\n".join(style.text() for style in tree.css("style"))
    _walk(root, writer, hidden_rules(styles, is_mail=is_mail), is_mail=is_mail)
    lines = writer.lines if is_mail else list(without_menus(writer.lines))
    return title, clean(joined(lines))


def _walk(root: "LexborNode", writer: Writer, rules: HiddenRules, *, is_mail: bool) -> None:
    # By hand and not by recursion: the page says how deep it goes.
    background = None if rules.has_backgrounds else Appearance().background
    node, looks = root, [Appearance(background=background)]
    while True:
        child = None
        attributes = {} if node.is_text_node else node.attributes
        if node.is_text_node:
            if looks[-1].is_visible:
                writer.write(node.text_content or "")
        elif not _is_silent(
            node,
            attributes,
            rules,
            is_mail=is_mail,
            in_article=len(looks) > 1 and root.tag == "main",
        ):
            _open(node, writer, is_mail=is_mail)
            child = node.child
            if child is None:
                _close(node, writer, is_mail=is_mail)
        if child is not None:
            if len(looks) > MAX_HTML_DEPTH:
                raise Refusal("document.nested", "its elements are nested too deeply")
            looks.append(looks[-1].within(attributes) if attributes else looks[-1])
            node = child
            continue
        while node.next is None or len(looks) == 1:
            if len(looks) == 1:
                return
            parent = node.parent
            assert parent is not None
            node = parent
            looks.pop()
            _close(node, writer, is_mail=is_mail)
        node = node.next


def _is_silent(
    node: "LexborNode",
    attributes: Mapping[str, str | None],
    rules: HiddenRules,
    *,
    is_mail: bool,
    in_article: bool,
) -> bool:
    tag = node.tag or ""
    if tag in _SILENT or node.is_comment_node:
        return True
    if tag in ("html", "body", "br"):
        return False
    if not attributes and not rules.rules:
        return False
    if hides(attributes, is_mail=is_mail) or rules.hide(tag, attributes):
        return True
    if not attributes or tag in ("b", "i", "em", "strong", "td", "tr"):
        return False
    names = {attributes.get("id") or "", *(attributes.get("class") or "").split()}
    if is_mail:
        return not _QUOTES.isdisjoint(names) and not _is_answered(node)
    if tag == "header" and not in_article and (attributes.get("role") == "banner"):
        return True
    role = attributes.get("role") or ""
    return role in _SILENT_ROLES or not _SILENT_CLASSES.isdisjoint(names)


def _is_answered(node: "LexborNode") -> bool:
    """Whether answers may stand within a quotation: what is quoted is marked apart, then."""
    return node.tag == "blockquote" or node.css_first("blockquote") is not None


def _is_quotation(node: "LexborNode") -> bool:
    if node.tag != "blockquote":
        return False
    attributes = node.attributes
    return attributes.get("type") == "cite" or "gmail_quote" in (attributes.get("class") or "")


def _open(node: "LexborNode", writer: Writer, *, is_mail: bool) -> None:
    tag = node.tag or ""
    if tag in _BLOCKS:
        writer.break_line(is_paragraph=tag in _PARAGRAPHS)
        writer.prefix = _PREFIXES.get(tag, writer.prefix)
        writer.pre_depth += tag == "pre"
        writer.quote_depth += is_mail and _is_quotation(node)
    elif tag == "br":
        if writer.pre_depth:
            writer.write("\n")
        else:
            writer.break_line()
    elif tag == "a":
        writer.link_depth += 1
        writer.lines[-1].num_links += 1


def _close(node: "LexborNode", writer: Writer, *, is_mail: bool) -> None:
    tag = node.tag or ""
    if tag in _BLOCKS:
        writer.break_line(is_paragraph=tag in _PARAGRAPHS)
        writer.pre_depth -= tag == "pre"
        writer.quote_depth -= is_mail and _is_quotation(node)
        writer.prefix = ""
    elif tag in ("td", "th") and writer.lines[-1].text:
        writer.lines[-1].text += "\t"
    elif tag == "a":
        writer.link_depth -= 1
