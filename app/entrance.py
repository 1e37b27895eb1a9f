"""Who may come in: nobody without the token, once one is set; as pure ASGI, so that websockets are guarded too."""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import re
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request, cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.apierrors import ApiError
from app.settings import Settings, SettingsError
from app.texts import language_of, text

OPEN = "/health"
LOGIN = "/login"
MAX_LOGIN = 16 << 10  # bytes of the form
KEPT_SECONDS = 30 * 24 * 3600
REFUSED = 1008  # websocket: policy

_BEARER = re.compile(rb"bearer +(.+)", re.IGNORECASE)


class Entrance:
    """Lets in whoever shows the token as ``Authorization: Bearer``, or the cookie that a browser got for it.

    The cookie is derived from the token and says nothing of it; another token makes it worthless.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.strip().encode()
        self._name = f"mova_studio_{self._derived('name')[:8]}"  # cookies don't know ports: a name for each studio
        self._pass = self._derived("pass")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. What is neither HTTP nor a websocket is the server's own."""
        kind = scope["type"]
        if kind not in ("http", "websocket") or (kind == "http" and scope["path"] == OPEN) or self._knows(scope):
            if kind == "http" and scope["path"] == LOGIN:
                await RedirectResponse("/", 303)(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": REFUSED})
        elif scope["path"] == LOGIN and scope["method"] == "POST":
            await (await self._log_in(Request(scope, receive)))(scope, receive, send)
        else:
            await _refusal(Request(scope))(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        for name, value in headers.raw:
            if name == b"authorization" and (found := _BEARER.fullmatch(value)) and self._is_token(found[1].strip()):
                return True
        cookies = (cookie_parser(value).get(self._name, "") for value in headers.getlist("cookie"))
        return any(hmac.compare_digest(cookie.encode(), self._pass.encode()) for cookie in cookies)

    def _is_token(self, given: bytes) -> bool:
        return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(self._token).digest())

    def _derived(self, purpose: str) -> str:
        return hmac.digest(self._token, f"mova studio {purpose}".encode(), "sha256").hex()

    async def _log_in(self, request: Request) -> Response:
        body = b""
        try:
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_LOGIN:
                    return _refusal(request, wrong=True)
            fields = parse_qs(body.decode(errors="replace"), max_num_fields=8)
        except (ClientDisconnect, ValueError):  # gone, or of too many fields
            return _refusal(request, wrong=True)
        given, wanted = fields.get("token", [""])[0].strip(), fields.get("next", ["/"])[0]
        if not self._is_token(given.encode()):
            return _refusal(request, wrong=True, wanted=wanted)
        answer = RedirectResponse(_within(wanted), 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(self._name, self._pass, KEPT_SECONDS, httponly=True, samesite="strict", secure=secure)
        return answer


def check_token(settings: Settings, address: str) -> None:
    """See that a studio which others can reach has a token. ``address`` is what is listened on.

    Raises:
        SettingsError: it has none.
    """
    if settings.token and settings.token.get_secret_value().strip():
        return
    if not ipaddress.ip_address(address).is_loopback:
        raise SettingsError(
            f"On {settings.host} others can reach the studio, so it needs a token: set STUDIO_TOKEN to a long random "
            "text, or token under [studio] in .streamlit/secrets.toml. On 127.0.0.1 it needs none."
        )


def _refusal(request: Request, *, wrong: bool = False, wanted: str | None = None) -> Response:
    """A page that asks for the token, where a person would see it; for programs an error."""
    headers = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
    if "text/html" not in request.headers.get("accept", "") or request.url.path.startswith("/v1/"):
        said = "This studio asks for a token: send it as Authorization: Bearer …"
        return ApiError(401, said, code="invalid_api_key", headers=headers).response()
    if wanted is None:
        query = f"?{request.url.query}" if request.url.query else ""
        wanted = "/" if request.url.path == LOGIN else quote(request.url.path) + query
    return HTMLResponse(_page(request, _within(wanted), wrong=wrong), 401, headers | PAGE)


_POLICY = ("default-src 'none'", "style-src 'unsafe-inline'", "form-action 'self'", "frame-ancestors 'self'")
PAGE = {"Content-Security-Policy": "; ".join(_POLICY)}

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; background: #FCFAF6; color: #171510; margin: 0 }
main { max-width: 24rem; margin: 18vh auto 0; padding: 0 1.5rem }
h1 { font: 600 1.9rem/1.2 Georgia, serif; margin: 0 0 .6rem }
label, input, button { display: block; width: 100%; box-sizing: border-box; font: inherit }
input { margin: .4rem 0 1rem; padding: .6rem .8rem; border: 1px solid #8f8778; border-radius: 10px; background: #fff }
button { padding: .6rem; border: 0; border-radius: 99px; background: #0B6B70; color: #fff; cursor: pointer }
p[role=alert] { color: #8E2B1B }
@media (prefers-color-scheme: dark) {
  body { background: #121518; color: #ECE8E1 } input { background: #1C2125; color: inherit; border-color: #6b747c }
  button { background: #0E8188 } p[role=alert] { color: #F2B3A6 }
}
"""


def _page(request: Request, wanted: str, *, wrong: bool) -> str:
    language = language_of(request.headers.get("accept-language", "").split(",")[0])

    def say(name: str) -> str:
        return html.escape(text(f"entrance.{name}", language))

    alert = f'<p role="alert">{say("wrong")}</p>' if wrong else ""
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{say("title")}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f'<h1>{say("title")}</h1><p>{say("why")}</p>{alert}<form method="post" action="{LOGIN}">'
        f'<input type="hidden" name="next" value="{html.escape(wanted)}"><label for="token">{say("token")}</label>'
        f'<input id="token" name="token" type="password" required autofocus autocomplete="current-password">'
        f'<button type="submit">{say("enter")}</button></form></main></body></html>'
    )


def _within(wanted: str) -> str:
    """A path of this site; anything else is its beginning."""
    return wanted if re.fullmatch(r"/(?![/\\])[!-\[\]-~]{0,2000}", wanted) else "/"
