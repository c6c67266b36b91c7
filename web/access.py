"""Who may talk to the server where it was started with --auth-token."""

import hashlib
import hmac
from urllib.parse import urlencode

from aiohttp import web

from backend.values import frozen

COOKIE = "tessera_session"
QUERY = "token"
KEPT = 30 * 24 * 3600  # seconds that a browser stays signed in
_HOW = (
    "This server wants its access token. Programs send the header `Authorization: Bearer <token>`; for a "
    "browser, open the page once with `?token=<token>` behind its address.\n"
)


@frozen
class Access:
    """token: what clients must show, None where everybody may. Every guess is compared in the same time."""

    token: str | None = None

    @property
    def cookie(self) -> str:
        """What a browser keeps: it proves that the token was known, and does not tell it."""
        return hmac.digest((self.token or "").encode(), b"tessera session", "sha256").hex()

    def allows(self, request: web.Request) -> bool:
        """Whether a request shows the token: in its header, in its query, or by the cookie of a sign-in."""
        if self.token is None:
            return True
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        bearer = shown.strip() if scheme.lower() == "bearer" else ""
        return (
            _equal(bearer, self.token)
            or _equal(request.cookies.get(COOKIE, ""), self.cookie)
            or _equal(request.query.get(QUERY, ""), self.token)
        )

    def signs_in(self, request: web.Request) -> bool:
        """Whether a browser opens the page with the token in its address."""
        return self.token is not None and request.path == "/" and QUERY in request.query

    def signed_in(self, request: web.Request) -> web.Response:
        """To the page, with the cookie and without the token: it must not stay in the address bar."""
        rest = [(name, value) for name, value in request.query.items() if name != QUERY]
        # Relative, so that it holds behind a proxy that strips a path.
        reply = web.Response(status=303, headers={"Location": f"./?{urlencode(rest)}" if rest else "./"})
        secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        # Lax: other sites' forms and scripts are sent without it, a link to the page is not.
        reply.set_cookie(COOKIE, self.cookie, max_age=KEPT, httponly=True, samesite="Lax", secure=secure)
        return reply


def refusal() -> web.Response:
    """401, with what to do."""
    headers = {"WWW-Authenticate": 'Bearer realm="tessera"', "Cache-Control": "no-store"}
    return web.Response(status=401, text=_HOW, headers=headers)


def _equal(shown: str, wanted: str) -> bool:
    """Hashes are compared, in constant time: not even the length of the token can be measured."""
    a, b = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (shown, wanted))
    return hmac.compare_digest(a, b)
