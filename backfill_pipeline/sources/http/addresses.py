"""Addresses that a server sends: redirects, and links to the next page. All of them are hostile until proven otherwise.

Belongs here: making them absolute, and making sure that they lead to the server that was asked.
Does not: following them.
"""

import httpx

from backfill_pipeline.sources.http.failures import AnswerError


def followed(link: str, *, seen_on: httpx.URL, origin: httpx.URL, what: str) -> httpx.URL:
    """The absolute address that a link stands for.

    Args:
        link: as the server wrote it, perhaps relative.
        seen_on: the address of the answer that holds it.
        origin: an address with the only scheme, host and port that may be asked.
        what: begins the sentence, such as "redirects".

    Raises:
        AnswerError: it is no address, or leads elsewhere.
    """
    if not link.isprintable() or len(link) > 8192:
        raise AnswerError(f"{what} to what is no address")
    try:
        url = seen_on.join(link)
    except (httpx.InvalidURL, ValueError):
        raise AnswerError(f"{what} to what is no address") from None
    if url.userinfo:
        raise AnswerError(f"{what} to an address with a user in it, which is never followed")
    if origin_of(url) != origin_of(origin):
        unsafe = origin.scheme == "https" and url.scheme == "http" and url.host == origin.host
        raise AnswerError(
            f"{what} to {_shown(url)}, which is {'unencrypted' if unsafe else 'another server'}: credentials go to"
            f" {_shown(origin)} alone, so nothing is followed elsewhere; if it is right, write it as base_url"
        )
    return url.copy_with(fragment=None)


def origin_of(url: httpx.URL) -> tuple[str, str, int]:
    """Scheme, host and port."""
    default = {"http": 80, "https": 443}.get(url.scheme, 0)
    return url.scheme, url.host.lower().rstrip("."), url.port or default


def _shown(url: httpx.URL) -> str:
    port = "" if url.port is None else f":{url.port}"
    return f"{url.scheme}://{url.host[:80]}{port}"


def next_link(headers: httpx.Headers) -> str | None:
    """The target of `rel=next` in Link headers (RFC 8288), as it is written there; None when there is none.

    Raises:
        AnswerError: there are two different ones.
    """
    found: dict[str, None] = {}
    for target, relations in _links(", ".join(headers.get_list("link"))):
        if "next" in relations:
            found[target] = None
    if len(found) > 1:
        raise AnswerError("gives two links to a next page in its Link header")
    return next(iter(found), None)


def _links(text: str) -> list[tuple[str, list[str]]]:
    """Target and relations of each link; commas and semicolons inside <…> and quotes do not count."""
    links = []
    for part in _split(text, ","):
        target, *parameters = _split(part, ";")
        if not (target.startswith("<") and target.endswith(">")):
            continue
        relations: list[str] = []
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "rel" and not relations:  # the first one counts
                relations = value.strip().strip('"').lower().split()
        links.append((target[1:-1].strip(), relations))
    return links


def _split(text: str, mark: str) -> list[str]:
    parts, begin, closes = [], 0, ""
    for at, character in enumerate(text):
        if closes:
            closes = "" if character == closes else closes
        elif character in '<"':
            closes = ">" if character == "<" else '"'
        elif character == mark:
            parts.append(text[begin:at].strip())
            begin = at + 1
    return [*parts, text[begin:].strip()]
