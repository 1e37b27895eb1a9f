"""Servers that keep a model in memory after the last answer, asked to let it go: Ollama and LM Studio."""

from __future__ import annotations

import logging
from dataclasses import replace

import httpx
from pydantic import BaseModel

from agents.addresses import bearer
from agents.line import Line
from agents.models import Address
from agents.troubles import AgentError

logger = logging.getLogger(__name__)

UNLOAD_SECONDS = 5.0


def unload(address: Address, model: str) -> None:
    """Ask a server of this machine that keeps models loaded to drop this one; tried, not insisted on."""
    base = httpx.URL(address.base_url or "")
    root = base.copy_with(path=base.path.rstrip("/").removesuffix("/v1") + "/", query=None)
    if address.name == "ollama" or base.port == 11434:
        ask = _unload_ollama
    elif address.name == "lmstudio" or base.port == 1234:
        ask = _unload_lmstudio
    else:
        return
    line = Line(replace(address, timeout=UNLOAD_SECONDS), model)
    try:
        with line.open(str(root)) as http:
            http.headers.update(bearer(address))
            ask(http, model)
    except (AgentError, httpx.HTTPStatusError, ValueError) as error:
        why = error if isinstance(error, AgentError) else type(error).__name__
        logger.warning("%s may still have %s loaded: %s", address.title, model, why)


def _unload_ollama(http: httpx.Client, model: str) -> None:
    """https://docs.ollama.com/faq: a request without a prompt that keeps the model for no time."""
    http.post("api/generate", json={"model": model, "keep_alive": 0}).raise_for_status()


def _unload_lmstudio(http: httpx.Client, model: str) -> None:
    """https://lmstudio.ai/docs/developer/rest: each loaded instance has a name of its own."""
    shelf = _Shelf.model_validate_json(http.get("api/v1/models").raise_for_status().content)
    for loaded in shelf.models:
        for instance in loaded.loaded_instances:
            if model in (loaded.key, instance.id):
                http.post("api/v1/models/unload", json={"instance_id": instance.id}).raise_for_status()


class _Instance(BaseModel, frozen=True):
    id: str


class _Loaded(BaseModel, frozen=True):
    key: str
    loaded_instances: tuple[_Instance, ...] = ()


class _Shelf(BaseModel, frozen=True):
    models: tuple[_Loaded, ...]
