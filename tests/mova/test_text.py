from pathlib import Path

import pytest
import torch

from mova.checkpoint import load_component, load_tokenizer
from mova.text import clean_prompt, encode_prompt, look_up, token_count


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  tabs\tand \r\n lines\u00a0and\u3000wide  ", "tabs and lines and wide"),
        ("Tom &amp;amp; Jerry&#39;s &lt;duet&gt;", "Tom & Jerry's <duet>"),
        ("if a < b &amp;amp; c &eacute;t&eacute; &copy 2024", "if a < b & c été © 2024"),
        ("schÃ¶n", "schön"),
        ("“quotes”，逗号 🎻", '"quotes",逗号 🎻'),
        ("", ""),
        ("   ", ""),
    ],
)
def test_a_prompt_is_cleaned_as_in_training(prompt: str, cleaned: str) -> None:
    assert clean_prompt(prompt) == cleaned


def test_rows_after_the_text_are_zero_and_a_batch_is_its_prompts(playground: Path) -> None:
    tokenizer, encoder = load_tokenizer(playground), load_component(playground, "text_encoder")
    prompts = ["the red ball", "", "a loud voice 🎻 says: 你好"]
    together = encode_prompt(tokenizer, encoder, prompts)
    assert together.shape == (3, 512, encoder.config.d_model)
    for index, prompt in enumerate(prompts):
        tokens = token_count(tokenizer, prompt)
        assert together[index, :tokens].any(dim=1).all()
        assert not together[index, tokens:].any()
        torch.testing.assert_close(encode_prompt(tokenizer, encoder, [prompt])[0], together[index])


def test_repeats_stand_beside_their_prompt(playground: Path) -> None:
    tokenizer, encoder = load_tokenizer(playground), load_component(playground, "text_encoder")
    made = encode_prompt(tokenizer, encoder, ["red", "blue"], num_videos_per_prompt=2, max_sequence_length=9)
    assert made.shape[:2] == (4, 9)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_of_tokens_is_read_where_it_is(playground: Path, dtype: torch.dtype) -> None:
    tokenizer, encoder = load_tokenizer(playground), load_component(playground, "text_encoder", dtype)
    lent: list[object] = []
    hook = encoder.shared.register_forward_pre_hook(lambda module, _args: lent.append(module))
    made = encode_prompt(tokenizer, encoder, ["the red ball"], max_sequence_length=9)
    assert lent == []  # who lends modules while they compute doesn't lend this one
    tokens = tokenizer(["the red ball"], padding="max_length", max_length=9, return_tensors="pt")
    with torch.no_grad():
        whole = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    assert lent == [encoder.shared]
    hook.remove()
    assert torch.equal(made[0, :4], whole[0, :4])
    assert torch.equal(look_up(encoder, tokens.input_ids), encoder.shared(tokens.input_ids))


def test_five_thousand_words_are_cut_at_512_tokens(playground: Path) -> None:
    tokenizer, encoder = load_tokenizer(playground), load_component(playground, "text_encoder")
    long = "the red ball " * 1700
    assert token_count(tokenizer, long) > 5000
    assert encode_prompt(tokenizer, encoder, [long]).any(dim=-1).all()


def test_the_vocabulary_knows_words_and_letters(playground: Path) -> None:
    tokenizer = load_tokenizer(playground)
    assert tokenizer.convert_ids_to_tokens(tokenizer("the ball")["input_ids"]) == ["▁the", "▁ball", "</s>"]
    assert tokenizer.unk_token_id not in tokenizer("Gulls cry, waves crash!")["input_ids"]
