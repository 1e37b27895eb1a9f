"""Models in folders on this machine: Qwen3-VL and text models through transformers, painters through diffusers.

Nothing is ever downloaded. Weights are loaded for the first call and given back by ``close``. Each part of a model asks
before it works whether it still may, so that a close or the time limit ends a call within a layer.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from agents.local import folder as folders
from agents.local.held import Held
from agents.models import Ability, Address, Ask, Painted, Painter, Provider, Task, Writer, Written
from agents.troubles import AgentError, Trouble

if TYPE_CHECKING:
    import torch

MOST_TOKENS = 1500  # of one answer; a video prompt of 250 words has about 350
MOST_THOUGHTS = 8000  # tokens more for models that think before they answer
FEWEST_TOKENS = 256  # that have to be left for an answer
TEST_TOKENS = 16
MOST_CELLS = 2048  # of a picture: tokens that it becomes, each of 32 x 32 pixels; 1920 x 1080 has 2040
NATIVE_SIDE = 1024  # pixels; what painters are trained on that don't tell
ROOM = 1.3  # of a painter's weights: what painting with them on a GPU takes
THINKS, THOUGHT = "<think>", "</think>"

# What a model with fewer steps than its pipeline's default was made for, by a word of its name; from the model cards.
FEW_STEPS: dict[str, dict[str, Any]] = {
    "z-image-turbo": {"num_inference_steps": 9, "guidance_scale": 0.0},
    "schnell": {"num_inference_steps": 4, "guidance_scale": 0.0, "max_sequence_length": 256},
    "sdxl-turbo": {"num_inference_steps": 1, "guidance_scale": 0.0},
    "sd-turbo": {"num_inference_steps": 1, "guidance_scale": 0.0},
    "stable-diffusion-3.5-large-turbo": {"num_inference_steps": 4, "guidance_scale": 0.0},
}


class LocalWriter:
    """A model of transformers that writes, and sees if it is a Qwen-VL."""

    def __init__(self, address: Address, folder: Path) -> None:
        self._held = Held(address, folder, _load_writer)

    def write(self, ask: Ask) -> Written:
        """The answer, without what the model thought before it."""
        return self._held.use(lambda voice: _written(voice, ask, self._held))

    def close(self) -> None:
        """Give the weights back; a call under way ends."""
        self._held.close()


class LocalPainter:
    """A pipeline of diffusers that paints from text."""

    def __init__(self, address: Address, folder: Path) -> None:
        self._held = Held(address, folder, _load_painter)
        self._longest = address.longest or folders.longest_prompt(folder)

    @property
    def longest(self) -> int | None:
        """The characters that it reads of a prompt, where they are few."""
        return self._longest

    def paint(self, prompt: str, width: int, height: int, seed: int | None = None) -> Painted:
        """One picture of nearly that ratio, of as many pixels as the model was trained on: fewer or more make worse."""
        return self._held.use(lambda pipeline: _painted(pipeline, prompt, (width, height), seed, self._held))

    def close(self) -> None:
        """Give the weights back; a call under way ends."""
        self._held.close()


@dataclass(frozen=True)
class _Voice:
    """A model that writes, and what turns texts and pictures into what it reads."""

    model: Any
    tokenizer: Any
    eyes: Any | None


def _load_writer(folder: Path, may_go_on: Callable[[], None]) -> _Voice:
    transformers = _transformers()
    sees, device = folders.is_seeing(folder), _device()
    here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **here)
    tokenizer.chat_template = tokenizer.chat_template or folders.chat_template(folder)
    eyes = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **here) if sees else None
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    dtype = "auto" if device == "cpu" else "bfloat16"  # a CPU has no memory to spare for more than what is stored
    model, found = kind.from_pretrained(folder, dtype=dtype, device_map=device, output_loading_info=True, **here)
    if absent := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise ValueError(f"{len(absent)} weights are not in its files, {absent[0]} among them")
    _ask_before(model, may_go_on)
    return _Voice(model, tokenizer, eyes)


def _written(voice: _Voice, ask: Ask, held: Held[_Voice]) -> Written:
    if ask.images and voice.eyes is None:
        raise AgentError(Trouble.CANNOT, endpoint=held.title, ability=Ability.VISION)
    prompt = _prompt(voice, ask)
    read = _read(voice, prompt, ask.images)
    tokens_in = read["input_ids"].shape[1]
    most = _most_tokens(voice, ask, prompt, tokens_in)
    said = voice.model.generate(**read, max_new_tokens=most)[0, tokens_in:].tolist()
    text = voice.tokenizer.decode(said, skip_special_tokens=True).strip()
    answer = _spoken(text)
    if ask.task is Task.TEST:  # a thought will do
        answer = answer or text
    elif len(said) >= most and said[-1] not in _ends(voice):
        raise AgentError(Trouble.UNREADABLE, model=held.name, said=f"it was cut off after {most} tokens")
    if not answer:
        raise AgentError(Trouble.EMPTY_ANSWER, model=held.name, endpoint=held.title)
    return Written(answer, model=held.name, tokens_in=tokens_in, tokens_out=len(said))


def _prompt(voice: _Voice, ask: Ask) -> str:
    """The request between the model's own marks; in the creator's words such marks are only words."""
    user = ask.user
    for mark in voice.tokenizer.get_added_vocab():
        if mark[0] in "<[":
            user = user.replace(mark, f"{mark[0]} {mark[1:]}")
    pictures = [{"type": "image"} for _ in ask.images]
    content = [*pictures, {"type": "text", "text": user}] if pictures else user
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    messages = [*system, {"role": "user", "content": content}]
    rendered = voice.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return str(rendered)


def _read(voice: _Voice, prompt: str, images: tuple[bytes, ...]) -> dict[str, torch.Tensor]:
    """What the model reads: input_ids [1, tokens], and pixel_values [patches, values of a patch] of the pictures.

    Qwen's own processor does this too, but asks for torchvision, for videos.
    """
    seen = _seen(voice.eyes, images) if voice.eyes and images else {}
    if seen:
        mark = voice.tokenizer.convert_ids_to_tokens(voice.model.config.image_token_id)
        cells = (seen["image_grid_thw"].prod(dim=1) // voice.eyes.merge_size**2).tolist()  # type: ignore[union-attr]
        before, *after = prompt.split(mark)
        prompt = before + "".join(mark * count + text for count, text in zip(cells, after, strict=True))
    read = dict(voice.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)) | seen
    if seen:
        read["mm_token_type_ids"] = (read["input_ids"] == voice.model.config.image_token_id).int()
    return {name: tensor.to(voice.model.device) for name, tensor in read.items() if name != "token_type_ids"}


def _seen(eyes: Any, images: tuple[bytes, ...]) -> dict[str, torch.Tensor]:
    cell = (eyes.patch_size * eyes.merge_size) ** 2
    least, most = eyes.size["shortest_edge"], min(eyes.size["longest_edge"], MOST_CELLS * cell)  # pixels in all
    pictures = [_fitted(_opened(image), eyes.patch_size, least, most) for image in images]
    return dict(eyes(images=pictures, size={"shortest_edge": least, "longest_edge": most}, return_tensors="pt"))


def _fitted(picture: Image.Image, patch_size: int, least: int, most: int) -> Image.Image:
    """The picture at the size that qwen-vl-utils gives it; the image processor does the same where that is missing."""
    try:
        makers: Any = importlib.import_module("qwen_vl_utils")
    except ImportError:  # it imports torchvision
        return picture
    asked = {"image": picture, "min_pixels": least, "max_pixels": most}
    fitted: Image.Image = makers.fetch_image(asked, image_patch_size=patch_size)
    return fitted


def _opened(image: bytes) -> Image.Image:
    picture = ImageOps.exif_transpose(Image.open(BytesIO(image)))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def _most_tokens(voice: _Voice, ask: Ask, prompt: str, tokens_in: int) -> int:
    """How many tokens the answer may have, as far as the model's window has room beside what it reads."""
    if ask.task is Task.TEST:
        return TEST_TOKENS
    window = getattr(voice.model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize
    if window - tokens_in < FEWEST_TOKENS:
        raise ValueError(f"it is {tokens_in} tokens long, and the model has room for {window} with its answer")
    thoughts = MOST_THOUGHTS if prompt.rstrip().endswith(THINKS) else 0
    return min(MOST_TOKENS + thoughts, window - tokens_in)


def _spoken(text: str) -> str:
    """An answer without the thoughts before it; nothing where it never came to an end of them."""
    spoken = text.rpartition(THOUGHT)[2]
    return "" if THINKS in spoken else spoken.strip()


def _ends(voice: _Voice) -> tuple[int, ...]:
    ends = voice.model.generation_config.eos_token_id
    return tuple(ends) if isinstance(ends, list) else (ends,)


def _load_painter(folder: Path, may_go_on: Callable[[], None]) -> Any:
    import torch

    _transformers()
    diffusers = importlib.import_module("diffusers")
    diffusers.utils.logging.disable_progress_bar()
    device = _device()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder,
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        variant=folders.variant(folder),
        local_files_only=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    for module in modules:
        _ask_before(module, may_go_on)
    needed = ROOM * sum(weight.nbytes for module in modules for weight in module.parameters())
    if device == "cuda" and needed > torch.cuda.mem_get_info()[0]:
        pipeline.enable_model_cpu_offload()  # part by part: slower, and the largest alone has to fit
    else:
        pipeline.to(device)
    return pipeline


def _painted(pipeline: Any, prompt: str, asked: tuple[int, int], seed: int | None, held: Held[Any]) -> Painted:
    import torch

    width, height = _native_size(pipeline, *asked)
    generator = None if seed is None else torch.Generator().manual_seed(seed)  # of the CPU: the same on any device
    few = next((few for name, few in FEW_STEPS.items() if name in held.name.lower()), {})
    result = pipeline(prompt=prompt, width=width, height=height, generator=generator, **few)
    if any(getattr(result, "nsfw_content_detected", None) or []):
        raise AgentError(Trouble.REFUSED, endpoint=held.name, said="its safety checker blackened the picture.")
    picture: Image.Image = result.images[0]
    if len(picture.convert("RGB").getcolors(1) or ()) == 1:
        raise AgentError(Trouble.NOT_AN_IMAGE, model=held.name, endpoint=held.title, said="all of it is one colour.")
    file = BytesIO()
    picture.save(file, format="PNG")
    return Painted(file.getvalue(), model=held.name)


def _native_size(pipeline: Any, width: int, height: int) -> tuple[int, int]:
    """The size of nearly that ratio, and nearly as many pixels as the pipeline was trained on, that it can paint."""
    scale = getattr(pipeline, "vae_scale_factor", 8)
    cell = max(16, 2 * scale)
    denoiser: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    sample = getattr(pipeline, "default_sample_size", None) or getattr(denoiser, "config", {}).get("sample_size")
    side = sample * scale if isinstance(sample, int) else NATIVE_SIDE
    middle = round(side * math.sqrt(height / width) / cell)
    rows = sorted(range(max(1, middle - 1), middle + 2), key=lambda row: abs(row - middle))
    sizes = [(max(1, round(row * width / height)) * cell, row * cell) for row in rows]
    return min(sizes, key=lambda size: abs(math.log(size[0] * height / (size[1] * width))))


def _ask_before(module: torch.nn.Module, may_go_on: Callable[[], None]) -> None:
    """Have a model, and each layer of its stacks, ask whether it may go on."""
    import torch

    stacks = [part for part in module.modules() if isinstance(part, torch.nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if layer is not None]  # a UNet's have gaps
    for part in (module, *layers):
        part.register_forward_pre_hook(lambda *_: may_go_on())


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _transformers() -> Any:
    """transformers, which stumbles over a torchvision that doesn't load, as one for CUDA beside a torch for CPUs."""
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pass
    except (AttributeError, ImportError, OSError, RuntimeError):
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # Python's own way to say that there is none
        importlib.import_module("transformers.utils.import_utils").is_torchvision_available.cache_clear()
    transformers = importlib.import_module("transformers")
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _connect(address: Address, model: str, ability: Ability) -> Writer | Painter:
    folder = folders.folder_of(model)
    return LocalPainter(address, folder) if ability is Ability.IMAGE else LocalWriter(address, folder)


def _missing(address: Address, model: str, ability: Ability) -> str | None:
    return folders.problem(folders.folder_of(model), ability)


PROVIDER = Provider(abilities=frozenset(Ability), connect=_connect, missing=_missing, remote=False, heavy=True)
