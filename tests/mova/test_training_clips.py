"""From a folder of clips to samples: what is read, what is kept, what is refused and in which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import TINY
from numpy.typing import NDArray

from mova.__main__ import main
from mova.checkpoint import load_component, load_tokenizer
from mova.layout import inspect_checkpoint
from mova.lora_choice import LoraChoice
from mova.lora_files import read_lora
from mova.media import write_clip
from mova.pipeline import MovaPipeline
from mova.text import encode_prompt
from mova.training import encode
from mova.training.clips import find_clips, read_clip
from mova.training.encode import CachedSamples, encode_clips
from mova.training.errors import ClipError
from mova.video_vae import encode_condition

RATE, FPS = 16_000, 12.0
CAPTION = "The red ball bounces."


def write(
    path: Path, *, height: int = 32, width: int = 48, frames: int = 5, volume: float = 0.3, rate: int = RATE
) -> Path:
    """A clip whose picture grows brighter, and a tone."""
    levels = np.linspace(40, 200, frames)
    pictures = (np.full((height, width, 3), level, np.uint8) for level in levels)
    samples = int(rate * frames / FPS)
    tone = volume * np.sin(2 * np.pi * 440 * np.arange(samples) / rate)
    write_clip(path, pictures, tone.astype(np.float32), fps=FPS, num_frames=frames, sample_rate=rate)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good clips with their captions."""
    clips = tmp_path / "clips"
    clips.mkdir()
    write(clips / "a.mp4")
    (clips / "a.txt").write_text(f"{CAPTION}\n", encoding="utf-8")
    write(clips / "b.mp4", frames=9)
    (clips / "captions.jsonl").write_text('{"file": "b.mp4", "caption": "A cube rolls."}\n\n', encoding="utf-8")
    return clips


def encoded(folder: Path, playground: Path, cache: Path) -> CachedSamples:
    return encode_clips(find_clips(folder), playground, cache)


def test_captions_lie_beside_the_clips_or_in_a_list(folder: Path) -> None:
    assert [(clip.path.name, clip.caption) for clip in find_clips(folder)] == [
        ("a.mp4", CAPTION),
        ("b.mp4", "A cube rolls."),
    ]


def test_a_clip_is_read_with_its_sound_at_the_models_rate(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", frames=13, rate=48_000), RATE)
    assert clip.frames.shape == (13, 32, 48, 3)
    assert clip.fps == FPS
    assert clip.audio.shape == (int(RATE * 13 / FPS),)
    assert clip.frames[-1].mean() > clip.frames[0].mean() + 100
    spectrum = np.abs(np.fft.rfft(clip.audio))
    assert np.fft.rfftfreq(len(clip.audio), 1 / RATE)[spectrum.argmax()] == pytest.approx(440, abs=2)


def test_cached_samples_are_what_inference_would_compute(folder: Path, playground: Path, tmp_path: Path) -> None:
    samples = encoded(folder, playground, tmp_path / "cache")
    raw, sample = read_clip(folder / "a.mp4", RATE), samples[0]
    vae, audio_vae = (load_component(playground, name) for name in ("video_vae", "audio_vae"))
    video = (torch.from_numpy(raw.frames).permute(3, 0, 1, 2)[None].float() / 255.0) * 2.0 - 1.0
    with torch.no_grad():
        sound = torch.from_numpy(raw.audio).view(1, 1, -1)
        assert torch.equal(sample.latents, encode.encode_video(vae, video)[0])
        assert torch.equal(sample.condition, encode_condition(vae, video[:, :, 0], 5)[0])
        assert torch.equal(sample.audio_latents, audio_vae.encode(audio_vae.preprocess(sound)).mode()[0])
    text = load_component(playground, "text_encoder")
    assert torch.equal(sample.prompt_embeds, encode_prompt(load_tokenizer(playground), text, [CAPTION])[0])
    assert torch.equal(samples.empty_prompt, encode_prompt(load_tokenizer(playground), text, [""])[0])
    assert (sample.name, sample.fps) == ("a.mp4", FPS)
    assert sample.audio_latents.shape[1] == -(-len(raw.audio) // 320)
    assert samples.shapes[0] != samples.shapes[1]


def test_nothing_is_computed_twice(
    folder: Path, playground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(folder, playground, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(encode, "read_clip", None)
        patch.setattr(encode, "embed_prompts", None)
        shutil.copy(folder / "a.mp4", folder / "c.mp4")  # the same clip, whatever it is called
        (folder / "c.txt").write_text(CAPTION, encoding="utf-8")
        again = encoded(folder, playground, tmp_path / "cache")
    assert again.clips == (*first.clips, first.clips[0])
    assert again.identity != first.identity
    first.clips[0].write_bytes(b"cut short")
    assert encoded(folder, playground, tmp_path / "cache")[0].latents.shape == (16, 2, 4, 6)


def silent(path: Path) -> None:
    write(path, volume=0.0)


def narrow(path: Path) -> None:
    write(path, width=50)


def long(path: Path) -> None:
    write(path, frames=7)


def broken(path: Path) -> None:
    path.write_bytes(write(path).read_bytes()[:200])


def half(path: Path) -> None:
    with av.open(str(write(path, frames=25))) as container:
        places = sorted(packet.pos for packet in container.demux() if packet.pos is not None)
    path.write_bytes(path.read_bytes()[: places[len(places) // 2]])  # between two pictures: no decoder minds


def mute(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(), format="rgb24")))
        container.mux(stream.encode())


def picture() -> NDArray[np.uint8]:
    return np.zeros((32, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (silent, "c.mp4 is silent: its sound never rises above -60 dBFS"),
        (narrow, "c.mp4 is 50 pixels wide, which is no multiple of 16. Crop or scale it; nearest: 48 and 64"),
        (long, "c.mp4 has 7 frames, which is not 4n \\+ 1. Cut it; nearest: 5 and 9"),
        (broken, "c.mp4 can't be read as a clip"),
        (half, r"c.mp4 can't be read as a clip \(.* of its 25 frames are there"),
        (mute, "c.mp4 has no sound. MOVA learns both together"),
    ],
)
def test_a_clip_that_cant_be_learned_from_is_refused_and_the_others_are_kept(
    folder: Path, playground: Path, tmp_path: Path, make: object, said: str
) -> None:
    make(folder / "c.mp4")  # type: ignore[operator]
    (folder / "c.txt").write_text("A ring.", encoding="utf-8")
    with pytest.raises(ClipError, match=said):
        encoded(folder, playground, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("clip-*"))) == 2


def test_every_problem_is_told_at_once(folder: Path, playground: Path, tmp_path: Path) -> None:
    for name, make in (("c", silent), ("d", broken)):
        make(folder / f"{name}.mp4")
        (folder / f"{name}.txt").write_text("A ring.", encoding="utf-8")
    with pytest.raises(ClipError) as told:
        encoded(folder, playground, tmp_path / "cache")
    assert [line.split()[0] for line in str(told.value).splitlines()] == ["c.mp4", "d.mp4"]


def test_silence_can_be_meant(tmp_path: Path) -> None:
    silent(tmp_path / "a.mp4")
    assert not read_clip(tmp_path / "a.mp4", RATE, allow_silent=True).audio.any()


def test_clips_without_captions_are_named(folder: Path) -> None:
    write(folder / "c.mp4")
    write(folder / "d.mp4")
    with pytest.raises(ClipError, match=r"No caption for c.mp4, d.mp4. .* \(c.txt\)"):
        find_clips(folder)


def test_a_folder_without_clips_and_a_bad_list_are_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClipError, match="holds no clip"):
        find_clips(tmp_path / "empty")
    with pytest.raises(ClipError, match="is not a folder"):
        find_clips(tmp_path / "nowhere")
    (folder / "captions.jsonl").write_text('{"file": "b.mp4"}', encoding="utf-8")
    with pytest.raises(ClipError, match="line 1 is not of the form"):
        find_clips(folder)


def test_the_command_trains_a_checkpoint_that_can_be_used_and_goes_on(
    folder: Path, playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def train(steps: int) -> int:
        options = ["--checkpoint", str(playground), "--output", str(run), "--device", "cpu", "--learning-rate", "1e-3"]
        return main(["train", str(folder), *options, "--steps", str(steps), "--seed", "3"])

    assert train(2) == 0
    assert "trained for 2 steps" in capsys.readouterr().out
    assert train(4) == 0
    lines = [json.loads(line) for line in (run / "losses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(line["video_loss"] > 0 and line["audio_loss"] > 0 for line in lines)
    assert not inspect_checkpoint(run / "checkpoint").problems
    for name in ("video_dit", "video_dit_2", "audio_dit", "dual_tower_bridge", "video_vae", "text_encoder"):
        before, after = (load_component(where, name).state_dict() for where in (playground, run / "checkpoint"))
        same = all(torch.equal(before[key], after[key]) for key in before)
        assert same == (name in ("video_vae", "text_encoder")), name
        assert {key: value.dtype for key, value in before.items()} == {k: v.dtype for k, v in after.items()}


def test_the_command_says_what_is_wrong(
    folder: Path, playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["train", str(folder), "--checkpoint", str(playground), "--device", "cpu", "--output", str(tmp_path / "r")]
    (folder / "a.txt").unlink()
    assert main(common) == 2
    assert "No caption for a.mp4" in capsys.readouterr().err
    assert main([*common, "--steps", "0"]) == 2
    assert "steps: Input should be greater than or equal to 1" in capsys.readouterr().err


def test_the_command_trains_a_lora_that_the_engine_applies(folder: Path, playground: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--checkpoint", str(playground), "--output", str(run), "--device", "cpu", "--learning-rate", "1e-2"]
    adapters = ["--rank", "2", "--alpha", "4", "--trigger-words", "zing", "--steps", "2"]
    assert main(["train", str(folder), *options, *adapters]) == 0
    told = read_lora(run / "lora.safetensors").header
    assert told is not None
    assert (told.rank, told.alpha, told.trigger_words) == (2, 4.0, ("zing",))
    pipeline = MovaPipeline.from_pretrained(playground, device="cpu")
    spec = TINY.model_copy(update={"num_inference_steps": 1, "guidance_scale": 1.0})
    plain = pipeline(CAPTION, spec=spec).video_latents
    pipeline.use_loras([LoraChoice(run / "lora.safetensors")])
    assert not torch.equal(pipeline(CAPTION, spec=spec).video_latents, plain)
    pipeline.use_loras()
    assert torch.equal(pipeline(CAPTION, spec=spec).video_latents, plain)
