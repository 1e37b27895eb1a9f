import subprocess
import sys
import wave
from pathlib import Path

import av
import pytest
import torch
from conftest import TINY
from PIL import Image
from safetensors.torch import load_file

from mova.__main__ import main
from mova.pipeline import MovaPipeline

PROMPT = "The red ball bounces."


def arguments(playground: Path, target: Path, *more: str) -> list[str]:
    numbers = {"height": 32, "width": 48, "num-frames": 5, "fps": 12, "num-inference-steps": 3, "seed": 7}
    options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    return ["generate", "--checkpoint", str(playground), "--prompt", PROMPT, "--output", str(target), *options, *more]


def test_the_command_line_gives_the_librarys_clip(
    playground: Path, pipeline: MovaPipeline, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "frame.png")
    tensors = tmp_path / "tensors.safetensors"
    more = ["--first-frame", str(tmp_path / "frame.png"), "--save-tensors", str(tensors), "--device", "cpu"]
    command = [sys.executable, "-m", "mova", *arguments(playground, tmp_path / "clip.mp4", *more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "seed 7" in done.stdout
    clip, saved = pipeline(PROMPT, picture, spec=TINY), load_file(tensors)
    # Not to the last bit: another process may have another number of threads, and sums in another order.
    torch.testing.assert_close(saved["video_latents"], clip.video_latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(saved["audio_latents"], clip.audio_latents, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(saved["video"], torch.cat(list(clip.frames())), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(saved["audio"], torch.from_numpy(clip.audio), rtol=1e-3, atol=1e-3)
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    with av.open(tmp_path / "clip.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
        assert len(container.streams.audio) == 1


def test_a_seed_is_drawn_and_told_when_none_is_given(
    playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(playground, tmp_path / "clip.mp4")
    without_seed = given[: given.index("--seed")]
    assert main(without_seed) == 0
    assert "seed " in capsys.readouterr().out


def test_sizes_left_out_are_the_checkpoints(
    playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--num-frames", "5", "--num-inference-steps", "1"]
    command = ["generate", "--checkpoint", str(playground), "--prompt", "", "--output", str(tmp_path / "c.mp4"), *few]
    assert main(command) == 0
    assert "256x144" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--height", "33"], "32 and 48"),
        (["--num-frames", "6"], "5 and 9"),
        (["--num-inference-steps", "0"], "nearest valid: 1"),
        (["--guidance-scale", "-2"], "nearest valid: 0"),
        (["--guidance-scale", "nan"], "finite"),
        (["--first-frame", "nowhere.png"], "nowhere.png"),
        (["--checkpoint", "nowhere"], "nowhere is not a folder"),
        (["--device", "tpu"], "tpu"),
        (["--dtype", "int3"], "int3"),
        (["--output", "clip.avi"], ".mp4"),
        (["--output", "nowhere/clip.mp4"], "folder"),
        (["--output", "."], ".mp4"),
        (["--save-tensors", "nowhere/tensors.safetensors"], "folder"),
        (["--save-audio", "clip.mp3"], ".wav"),
        (["--loudness", "nan"], "LUFS"),
        (["--loudness", "50"], "nearest valid: -5"),
        (["--fps", "1000000"], "nearest valid: 240"),
        (["--height", "16000000"], "nearest valid: 4096"),
    ],
)
def test_wrong_input_is_one_sentence(
    playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], says: str
) -> None:
    assert main(arguments(playground, tmp_path / "clip.mp4", *more)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]
    assert said[-1].startswith("mova: ")
    assert "Traceback" not in said
    assert not (tmp_path / "clip.mp4").exists()


def test_a_file_that_is_no_picture_is_refused(
    playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "frame.png").write_text("hello")
    first = ["--first-frame", str(tmp_path / "frame.png")]
    assert main(arguments(playground, tmp_path / "clip.mp4", *first)) == 2
    assert "picture" in capsys.readouterr().err


def test_the_sound_alone(playground: Path, tmp_path: Path) -> None:
    assert main(arguments(playground, tmp_path / "clip.mp4", "--save-audio", str(tmp_path / "clip.wav"))) == 0
    with wave.open(str(tmp_path / "clip.wav")) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getnframes()) == (1, 16_000, 6666)
        assert any(sound.readframes(6666))


def test_inspecting(playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(playground)]) == 0
    told = capsys.readouterr().out
    assert "complete" in told
    assert "noise" in told
    assert main(["inspect", str(tmp_path)]) == 2
    assert "model_index.json is missing" in capsys.readouterr().err


def test_inspecting_needs_no_torch(playground: Path) -> None:
    code = (
        "import sys\nfrom mova.__main__ import main\n"
        f"status = main(['inspect', {str(playground)!r}])\n"
        "sys.exit(status or ('torch' in sys.modules) * 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
