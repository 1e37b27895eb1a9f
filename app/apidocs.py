"""What the API offers: ``/openapi.json`` for programs; ``/docs`` for people, which loads nothing from elsewhere."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from app.ask import MAX_BODY, MAX_PICTURE, Ask
from app.jobs import Status
from app.videos import STATUS

PAGE = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"}
ERRORS = {
    "400": "A field can't be used; `param` names it, the message says what to do.",
    "401": "The studio asks for its token.",
    "404": "There is no such video, or it isn't finished yet.",
    "413": f"Larger than {MAX_BODY >> 20} MB, or a picture of more than {MAX_PICTURE >> 20} MB.",
    "415": "Neither a form nor JSON.",
    "422": "The Idempotency-Key came with another request before.",
    "501": "OpenAI's client can ask for it, the studio can't do it yet.",
    "503": "The studio's folder can't be used at the moment.",
}
EXAMPLE = """curl http://127.0.0.1:8501/v1/videos -F prompt="A gull lands on a pier and cries." \\
     -F input_reference=@gull.png -F seconds=4 -F seed=7
curl http://127.0.0.1:8501/v1/videos/ID                       # until its status is completed
curl -o gull.mp4 http://127.0.0.1:8501/v1/videos/ID/content

from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8501/v1", api_key="the studio's token, or anything where it has none")
video = client.videos.create_and_poll(prompt="A gull lands on a pier.", extra_body={"num_frames": 97, "seed": 7})
client.videos.download_content(video.id).write_to_file("gull.mp4")"""


def routes() -> list[Route]:
    """Both addresses."""
    return [Route("/openapi.json", _openapi), Route("/docs", _docs)]


@cache
def document() -> dict[str, Any]:
    """The OpenAPI description, version 3.1."""
    video_id = {"name": "video_id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MOVA Studio",
            "version": "1",
            "description": "Videos with sound, in the shapes of OpenAI's and SGLang's video API. Jobs made here appear "
            "on the studio's pages, and the other way round.",
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/videos": {"post": _create(), "get": _list()},
            "/v1/videos/{video_id}": {
                "parameters": [video_id],
                "get": _operation("retrieve", "One video as it is now.", _ref("Video"), "404"),
                "delete": _operation("delete", "Delete a video; pages can undo it for a day.", _ref("Deleted"), "404"),
            },
            "/v1/videos/{video_id}/content": {"parameters": [video_id], "get": _content()},
            "/v1/videos/{video_id}/cancel": {
                "parameters": [video_id],
                "post": _operation("cancel", "Cancel it; one that has ended stays as it is.", _ref("Video"), "404"),
            },
            "/v1/videos/{video_id}/remix": {"parameters": [video_id], "post": _remix()},
            **{
                f"/v1/videos/{name}": {"post": _operation(name, "Not made here yet: answers 501.", None, "501")}
                for name in ("edits", "extensions", "characters")
            },
            "/v1/models": {"get": _operation("models", "The checkpoints that there are.", _ref("Models"))},
            "/health": {
                "get": {**_operation("health", "Whether it can render. Open to all.", {}, "503"), "security": []}
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**_ask_schemas(), "Video": _video(), "Videos": _videos(), "Error": _error(), **_OTHERS},
        },
    }


_TAKEN = ("400", "413", "415", "422")  # errors of whatever has a body
_TEXT, _NULLABLE = {"type": "string"}, {"type": ["string", "null"]}
_KEY = {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string", "minLength": 1, "maxLength": 255}}
_OTHERS: dict[str, Any] = {
    "Deleted": {
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {"id": _TEXT, "object": {"const": "video.deleted"}, "deleted": {"const": True}},
    },
    "Models": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
    },
}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(name: str, summary: str, answer: dict[str, Any] | None, *errors: str) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    if answer is not None:
        answers["200"] = {"description": summary, "content": {"application/json": {"schema": answer}}}
    for status in dict.fromkeys((*errors, *(() if name == "health" else ("401", "503")))):
        schema = {} if name == "health" else _ref("Error")
        answers[status] = {"description": ERRORS[status], "content": {"application/json": {"schema": schema}}}
    return {"operationId": name, "summary": summary, "responses": answers}


def _create() -> dict[str, Any]:
    form = {"allOf": [_ref("Ask"), {"type": "object", "properties": _pictures({"type": "string", "format": "binary"})}]}
    plain = {"allOf": [_ref("Ask"), {"type": "object", "properties": _pictures(_TEXT)}]}
    return {
        **_operation("create", "Make a video.", _ref("Video"), *_TAKEN),
        "parameters": [_KEY],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}},
        },
    }


def _pictures(kind: dict[str, Any]) -> dict[str, Any]:
    how = "a file in a form, a data URL in JSON"
    return {
        "input_reference": kind | {"description": f"The first frame: {how}. White without one."},
        "last_frame": kind | {"description": f"What the clip ends on: {how}."},
    }


def _remix() -> dict[str, Any]:
    schema = {"type": "object", "required": ["prompt"], "properties": {"prompt": _TEXT}}
    return {
        **_operation("remix", "Make another with these words, all else as it was.", _ref("Video"), *_TAKEN, "404"),
        "parameters": [_KEY],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
    }


def _list() -> dict[str, Any]:
    fields = {
        "after": _TEXT | {"description": "The id after which the page begins."},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
        "order": {"enum": ["asc", "desc"], "default": "desc"},
    }
    parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    return {**_operation("list", "A page of videos.", _ref("Videos"), "400"), "parameters": parameters}


def _content() -> dict[str, Any]:
    operation = _operation("content", "The clip, whole or in parts (Range), or its picture.", None, "400", "404")
    files: dict[str, Any] = {"video/mp4": {}, "image/webp": {}}
    operation["responses"] |= {
        "200": {"description": "The file.", "content": files},
        "206": {"description": "The part that Range asked for.", "content": files},
        "416": {"description": "No such part."},
    }
    schema = {"enum": ["video", "thumbnail"], "default": "video"}
    return {**operation, "parameters": [{"name": "variant", "in": "query", "schema": schema}]}


def _ask_schemas() -> dict[str, Any]:
    schema = Ask.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "Ask": schema}


def _video() -> dict[str, Any]:
    whole, number = {"type": "integer"}, {"type": "number"}
    properties: dict[str, Any] = {
        "id": _TEXT,
        "object": {"const": "video"},
        "model": _TEXT,
        "status": {"enum": list(dict.fromkeys(STATUS.values()))},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "created_at": whole,
        "completed_at": {"type": ["integer", "null"]},
        "error": {"type": ["object", "null"], "properties": {"code": _TEXT, "message": _TEXT}},
        "prompt": _TEXT,
        "remixed_from_video_id": _NULLABLE,
        "size": _TEXT | {"description": "What is made."},
        "seconds": _TEXT | {"description": "Rounded; `duration` is exact."},
        "state": {
            "enum": [*Status, "cancelling"],
            "description": "As the studio says it; `review` waits for a person.",
        },
        "phase": _NULLABLE,
        "queue_position": {"type": ["integer", "null"], "description": "How many come first."},
        "duration": number,
        "num_frames": whole,
        "fps": number,
        "seed": whole,
        "num_inference_steps": whole,
        "guidance_scale": number,
        "negative_prompt": _TEXT,
        "workflow": {"enum": ["simple", "full"]},
        "engine": _TEXT,
        "preset": _TEXT,
        "notes": {"type": "array", "items": _TEXT, "description": "What was taken otherwise than it was sent."},
    }
    return {"type": "object", "required": list(properties), "properties": properties}


def _videos() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _ref("Video")},
            "first_id": _NULLABLE,
            "last_id": _NULLABLE,
            "has_more": {"type": "boolean"},
        },
    }


def _error() -> dict[str, Any]:
    parts = {"message": _TEXT, "type": _TEXT, "param": _NULLABLE, "code": _NULLABLE}
    error = {"type": "object", "required": list(parts), "properties": parts}
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _openapi(_: Request) -> Response:
    return JSONResponse(document())


def _docs(_: Request) -> Response:
    return HTMLResponse(_page(), headers=PAGE)


@cache
def _page() -> str:
    described = document()
    operations = "".join(
        f"<tr><td><code>{method.upper()} {html.escape(path)}</code><td>{html.escape(operation['summary'])}"
        for path, entry in described["paths"].items()
        for method, operation in entry.items()
        if method != "parameters"
    )
    schemas = described["components"]["schemas"]
    answers = "".join(f"<tr><td><code>{status}</code><td>{_prose(said)}" for status, said in ERRORS.items())
    pictures = _pictures({"type": "file or data URL"})
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>API · MOVA Studio</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f"<h1>The studio's API</h1><p>{html.escape(described['info']['description'])} "
        'Machines read <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<pre>{html.escape(EXAMPLE)}</pre>"
        "<p>Where the studio has a token, every request shows it: <code>Authorization: Bearer …</code>. With an "
        "<code>Idempotency-Key</code> a request that is sent twice makes one video.</p>"
        f"<h2>Addresses</h2><table>{operations}</table>"
        f"<h2>What can be asked for</h2><table>{_rows(schemas['Ask']['properties'] | pictures)}</table>"
        f"<h2>A video</h2><table>{_rows(schemas['Video']['properties'])}</table>"
        f"<h2>Errors</h2><p><code>{html.escape(_SHAPE)}</code></p><table>{answers}</table></main></body></html>"
    )


_SHAPE = json.dumps({"error": {"message": "…", "type": "…", "param": None, "code": None}}, ensure_ascii=False)
_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; background: #FCFAF6; color: #171510; margin: 0 }
main { max-width: 60rem; margin: 3rem auto; padding: 0 1.5rem } h1, h2 { font-family: Georgia, serif }
table { border-collapse: collapse; width: 100% } td { border-top: 1px solid #DDD6C9; padding: .35rem .8rem .35rem 0;
vertical-align: top } pre { background: #F2EEE6; padding: 1rem; border-radius: 10px; overflow-x: auto }
a { color: #0B6B70 } td:first-child { white-space: nowrap }
@media (prefers-color-scheme: dark) { body { background: #121518; color: #ECE8E1 } a { color: #6CC9CE }
pre { background: #1C2125 } td { border-color: #343B41 } }
"""


def _rows(properties: dict[str, Any]) -> str:
    return "".join(
        f"<tr><td><code>{html.escape(name)}</code><td>{html.escape(_kind(schema))}"
        f"<td>{_prose(schema.get('description', ''))}"
        for name, schema in properties.items()
    )


def _kind(schema: dict[str, Any]) -> str:
    """What a field holds, in a few words."""
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    if "const" in schema:
        return str(schema["const"])
    kinds: Iterable[str] = (_kind(each) for each in schema["anyOf"]) if "anyOf" in schema else _listed(schema["type"])
    return " or ".join(kind for kind in kinds if kind != "null")


def _listed(kind: str | list[str]) -> list[str]:
    return kind if isinstance(kind, list) else [kind]


def _prose(text: str) -> str:
    """Text in which `words` are code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
