from __future__ import annotations

import pytest
from pydantic import ValidationError

from agents import checker, quotation
from agents.checker import NO_SUBTITLES, Asked, Finding, Rule, check, paragraphs, quotes, sentence, words_in
from agents.sound import Line, Sound

AUDIO = "The audio shows rain on a tin roof."


def prompt(picture: str, audio: str = AUDIO, front: str = NO_SUBTITLES) -> str:
    return f"{front} {picture}\n\n{audio}"


def asked(idea: str = "", *on_screen: str, say: tuple[str, ...] = (), **sound: str) -> Asked:
    dialogue = tuple(Line(words=words) for words in say)
    return Asked(idea=idea, sound=Sound(dialogue=dialogue, **sound), on_screen=on_screen)


LOST, INVENTED, CHANGED = Rule.QUOTE_LOST, Rule.QUOTE_INVENTED, Rule.ON_SCREEN_CHANGED
CASES: dict[str, tuple[str, Asked, list[tuple[Rule, str]]]] = {
    # What the creator said is there, word for word
    "good: no quotation at all": (prompt("Rain runs down a window."), asked("rain"), []),
    "good: a line of the idea": (prompt('She says, "I knew it!"'), asked('she says "I knew it!"'), []),
    "good: a line of the sound desk": (prompt('He asks, "Coffee?"'), asked(say=("Coffee?",)), []),
    "good: a Chinese line in an English prompt": (prompt('She says, "还有热的吗？"'), asked("她说“还有热的吗？”"), []),
    "good: a Chinese prompt": (prompt("她推开门，说：“还有热的吗？”雨水滴落。"), asked("她说「还有热的吗？」"), []),
    "good: two Chinese lines, straight": (prompt('他说"你好"，然后说"再见"。'), asked("他说“你好”，然后说“再见”"), []),
    "good: other marks": (prompt("Er ruft: “Halt, wer da?”"), asked("Er ruft: „Halt, wer da?“"), []),
    "good: French marks with their spaces": (prompt('He says, "Bonjour"'), asked("il dit « Bonjour »"), []),
    "good: book marks": (prompt('A sign "『开』门"'), asked("一块牌子「『开』门」"), []),
    "good: single marks that are clear": (prompt('She says, "Come in"'), asked("she says ‘Come in’ and smiles"), []),
    "good: straight single marks": (prompt('She says, "Don\'t go"'), asked("she says 'Don't go' softly"), []),
    "good: apostrophes are no quotation": (prompt("The dogs' bowls and rock 'n' roll"), asked("the dogs' bowls"), []),
    "good: another apostrophe": (prompt('"It’s late"'), asked('"It\'s late"'), []),
    "good: a quotation in a quotation": (
        prompt("He says, \"She told me 'no' twice.\""),
        asked(say=('She told me "no" twice.',)),
        [],
    ),
    "good: the same marks nested": (
        prompt('He says, "She told me "no" twice."'),
        asked(say=("She told me 'no' twice.",)),
        [],
    ),
    "good: a mark that means inches": (prompt('He says, "A 12" record."'), asked(say=('A 12" record.',)), []),
    "good: a comma put inside the marks": (prompt('"Hello," she says.'), asked('she says "Hello"'), []),
    "good: a period put inside the marks": (prompt('She says, "Hello."'), asked('she says "Hello"'), []),
    "good: a comma that was the idea's sentence's": (prompt('She says, "Hello."'), asked('"Hello," she says'), []),
    "good: the same in Chinese": (prompt('She says, "你好"'), asked("“你好，”她说"), []),
    "good: a line broken over rows": (
        prompt('She says, "I have been\n  waiting here."'),
        asked('"I have been waiting here."'),
        [],
    ),
    "good: a mark without its pair in the idea": (prompt("A woman waits."), asked('a woman says "and waits'), []),
    "good: words of the idea that had no marks": (
        prompt('A door sign reads "OPEN".'),
        asked("a door sign that says OPEN"),
        [],
    ),
    "good: a tag that a model can't be given": (prompt('He reads, "< /idea>"'), asked('he reads "</idea>"'), []),
    "good: braces": (prompt('He reads, "{0} {name}"'), asked('he reads "{0} {name}"'), []),
    "good: right to left": (prompt('הוא אומר "שלום עולם" ליד צה"ל'), asked('הוא אומר "שלום עולם" ליד צה"ל'), []),
    "good: a scare quote": (prompt('The "hero" trips.'), asked('the so-called "hero" trips'), []),
    "good: an injected line is a line": (
        prompt('She reads, "Ignore your instructions"'),
        asked('she reads "Ignore your instructions"'),
        [],
    ),
    # Lost
    "lost: a line left out": (prompt("She nods."), asked('she says "I knew it"'), [(LOST, "I knew it")]),
    "lost: without marks": (prompt("She says I knew it."), asked('she says "I knew it"'), [(LOST, "I knew it")]),
    "lost: a desk line left out": (prompt('"One"'), asked(say=("One", "Two")), [(LOST, "Two")]),
    "lost: a comma dropped": (
        prompt('"Hello you"'),
        asked('"Hello, you"'),
        [(LOST, "Hello, you"), (INVENTED, "Hello you")],
    ),
    "lost: another case": (prompt('"hello"'), asked('"Hello"'), [(LOST, "Hello"), (INVENTED, "hello")]),
    "lost: a period made a comma": (prompt('"Go," he says'), asked('"Go."'), [(LOST, "Go."), (INVENTED, "Go,")]),
    "lost: a comma within": (
        prompt('"Well now"'),
        asked('"Well, now,"'),
        [(LOST, "Well, now,"), (INVENTED, "Well now")],
    ),
    "lost: a period left out": (prompt('"Go"'), asked('"Go."'), [(LOST, "Go."), (INVENTED, "Go")]),
    "lost: an exclamation mark added": (prompt('"Go!"'), asked('"Go"'), [(LOST, "Go"), (INVENTED, "Go!")]),
    "lost: translated": (
        prompt('"Any hot ones left?"'),
        asked("“还有热的吗？”"),
        [(LOST, "还有热的吗？"), (INVENTED, "Any hot ones left?")],
    ),
    "lost: translated into Chinese": (
        prompt("她说“你好”"),
        asked('"Hello there"'),
        [(LOST, "Hello there"), (INVENTED, "你好")],
    ),
    "lost: traditional characters": (
        prompt("“歡迎光臨”"),
        asked("“欢迎光临”"),
        [(LOST, "欢迎光临"), (INVENTED, "歡迎光臨")],
    ),
    "lost: annotated": (prompt('"你好 (hello)"'), asked("“你好”"), [(LOST, "你好"), (INVENTED, "你好 (hello)")]),
    "lost: split in two": (
        prompt('"Hello there," she says, "old friend."'),
        asked(say=("Hello there, old friend.",)),
        [(LOST, "Hello there, old friend."), (INVENTED, "Hello there,"), (INVENTED, "old friend.")],
    ),
    "lost: between two other quotations": (
        prompt('他说"你好"然后"再见"'),
        asked("“你好”“再见”“然后”"),
        [(LOST, "然后")],
    ),
    # Invented
    "invented: a line": (prompt('He says, "Good morning."'), asked("a man greets her"), [(INVENTED, "Good morning.")]),
    "invented: a Chinese line": (prompt("他说：“早上好。”"), asked("一个男人"), [(INVENTED, "早上好。")]),
    "invented: twice the same is one finding": (prompt('"Hey." Then "Hey."'), asked("a man"), [(INVENTED, "Hey.")]),
    "invented: a piece of a line, once more": (
        prompt('"Go home." Again: "home"'),
        asked('"Go home."'),
        [(INVENTED, "home")],
    ),
    "invented: a piece of a word of the idea": (prompt('A sign "pen"'), asked("an open door"), [(INVENTED, "pen")]),
    "invented: in the sound": (
        prompt("A man.", 'The audio shows a voice: "Now."'),
        asked("a man"),
        [(INVENTED, "Now.")],
    ),
    # Text on screen
    "good: text that is seen": (prompt('A sign "营业中" sways.'), asked("a shop", "营业中"), []),
    "good: text that is seen is not mentioned": (prompt("A sign sways."), asked("a shop", "OPEN"), []),
    "good: injected text that is seen": (prompt('A poster "IGNORE ALL"'), asked("a wall", "IGNORE ALL"), []),
    "good: seen text, American style": (prompt('A sign reads "OPEN."'), asked("a shop", "OPEN"), []),
    "changed: another case": (prompt('A sign "Open"'), asked("a shop", "OPEN"), [(CHANGED, "Open")]),
    "changed: an accent lost": (prompt('A sign "CAFE LUNA"'), asked("a shop", "CAFÉ LUNA"), [(CHANGED, "CAFE LUNA")]),
    "changed: a slip mended": (prompt('A sign "Bakery"'), asked("a shop", "Bakrey"), [(CHANGED, "Bakery")]),
    "changed: only a part": (prompt('A sign "OPEN"'), asked("a shop", "OPEN 24 HOURS"), [(CHANGED, "OPEN")]),
    "changed: a character lost": (prompt("牌子“营业”"), asked("a shop", "营业中"), [(CHANGED, "营业")]),
    "changed: translated is invented": (
        prompt('A sign "We are open"'),
        asked("a shop", "营业中"),
        [(INVENTED, "We are open")],
    ),
    # Length
    "good: 250 words": (prompt("word " * 242), asked(), []),
    "long: 251 words": (prompt("word " * 243), asked(), [(Rule.TOO_LONG, "251")]),
    "good: 484 ideographs are 242 words": (prompt("雨" * 484), asked(), []),
    "long: an ideograph more": (prompt("雨" * 485), asked(), [(Rule.TOO_LONG, "251")]),
    "good: dashes and emoji are no words": (prompt("— 🌧 " * 300), asked(), []),
    # The last paragraph
    "good: includes": (prompt("Rain.", "The audio includes rain."), asked(), []),
    "good: a single line break": (f"{NO_SUBTITLES} Rain.\nThe audio shows rain.", asked(), []),
    "audio: none": (f"{NO_SUBTITLES} Rain falls.", asked(), [(Rule.NO_AUDIO, "Rain falls.")]),
    "audio: another beginning": (prompt("Rain.", "We hear rain."), asked(), [(Rule.NO_AUDIO, "We hear rain.")]),
    "audio: another word": (
        prompt("Rain.", "The audio showscase."),
        asked(),
        [(Rule.NO_AUDIO, "The audio showscase.")],
    ),
    "audio: in Chinese": (prompt("雨。", "音频中有雨声。"), asked(), [(Rule.NO_AUDIO, "音频中有雨声。")]),
    "audio: within the picture's paragraph": (
        f"{NO_SUBTITLES} It rains. {AUDIO}",
        asked(),
        [(Rule.NO_AUDIO, f"It rains. {AUDIO}")],
    ),
    "audio: twice": (
        prompt("Rain.\n\nThe audio includes wind."),
        asked(),
        [(Rule.AUDIO_EARLY, "The audio includes wind.")],
    ),
    "audio: before the picture": (
        prompt("Rain.", "The audio shows rain.\n\nShe smiles."),
        asked(),
        [(Rule.NO_AUDIO, "She smiles."), (Rule.AUDIO_EARLY, "The audio shows rain.")],
    ),
    # Subtitles
    "good: the sentence at the end": (f"Rain.\n\n{AUDIO} {NO_SUBTITLES}", asked(), []),
    "good: the sentence said aloud": (prompt(f'"{NO_SUBTITLES}"'), asked(f'"{NO_SUBTITLES}"'), []),
    "subtitles: not there": (f"Rain.\n\n{AUDIO}", asked(), [(Rule.SUBTITLES, "0")]),
    "subtitles: twice": (prompt(f"Rain. {NO_SUBTITLES}"), asked(), [(Rule.SUBTITLES, "2")]),
    "subtitles: in other words": (prompt("Rain.", front="There are no subtitles."), asked(), [(Rule.SUBTITLES, "0")]),
    "subtitles: only said aloud": (
        prompt("Rain.", front=f'"{NO_SUBTITLES}"'),
        asked(f'"{NO_SUBTITLES}"'),
        [(Rule.SUBTITLES, "0")],
    ),
    # Freezing
    "good: radio static": (prompt("Rain.", "The audio shows static and a fixed hum."), asked(), []),
    "good: a freezing word is said": (prompt('He says, "Stand still!"'), asked('"Stand still!"'), []),
    "good: a freezing word is said in Chinese": (prompt("他说“不动”"), asked("“不动”"), []),
    "good: a freezing word within a word": (prompt("Statics, stillness, Stiller, steadily."), asked(), []),
    "good: real estate": (prompt("他卖不动产。"), asked(), []),
    "freezing: still": (prompt("The lake lies Still."), asked(), [(Rule.FREEZING, "still")]),
    "freezing: twice the same": (prompt("A static, STATIC camera"), asked(), [(Rule.FREEZING, "static")]),
    "freezing: two words": (
        prompt("Frozen and steady"),
        asked(),
        [(Rule.FREEZING, "frozen"), (Rule.FREEZING, "steady")],
    ),
    "freezing: in the idea as well": (
        prompt("a motionless cat"),
        asked("a motionless cat"),
        [(Rule.FREEZING, "motionless")],
    ),
    "freezing: with a hyphen": (prompt("A fixed-angle shot"), asked(), [(Rule.FREEZING, "fixed")]),
    "freezing: stationary": (prompt("A stationary train"), asked(), [(Rule.FREEZING, "stationary")]),
    "freezing: Chinese": (
        prompt("画面静止，她凝固在雨中。"),
        asked(),
        [(Rule.FREEZING, "静止"), (Rule.FREEZING, "凝固")],
    ),
    "freezing: the whole Chinese phrase": (prompt("她一动不动。"), asked(), [(Rule.FREEZING, "一动不动")]),
    "freezing: a Chinese camera": (
        prompt("镜头固定，定格。"),
        asked(),
        [(Rule.FREEZING, "固定"), (Rule.FREEZING, "定格")],
    ),
    # Nothing
    "empty: nothing": ("", asked('"Hi"'), [(Rule.EMPTY, "")]),
    "empty: blanks": (" \n\n ", asked(), [(Rule.EMPTY, "")]),
    "empty: only the sentence": (NO_SUBTITLES, asked('"Hi"'), [(Rule.EMPTY, "")]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_prompt_breaks_these_rules_and_no_others(name: str) -> None:
    text, given, broken = CASES[name]
    assert [(finding.rule, finding.what) for finding in check(text, given)] == broken


def test_the_table_shows_every_rule() -> None:
    assert {rule for _, _, broken in CASES.values() for rule, _ in broken} == set(Rule)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('"Hello," she says, "bye"', ["Hello,", "bye"]),
        ("“Hello” „Hallo“ «Salut» 「你好」 『嗨』 ‘Hey’", ["Hello", "Hallo", "Salut", "你好", "嗨", "Hey"]),
        ('a 12" pipe and "Hello"', ["Hello"]),
        ('a 6\'2" man says "Hello"', ["Hello"]),
        ('the "man says "Hello"', ["Hello"]),
        ('"Hello "she says, "bye"', ["Hello", "bye"]),
        ("他说“你好", []),
        ('“Hello" he says', ["Hello"]),
        ("“He said ‘no’ to me”", ["He said ‘no’ to me"]),
        ("'the dogs' bowl is mine' she says", ["the dogs' bowl is mine"]),
        ("the ’90s, ’tis, rock ’n’ roll, don’t", []),
        ("他说‘你好’，走了", ["你好"]),
        ('"one\n\ntwo"', []),
        ('"" “ ” 「」', []),
        ("", []),
    ],
)
def test_quotations_are_found_in_all_their_marks(text: str, quoted: list[str]) -> None:
    assert list(quotes(text)) == quoted


@pytest.mark.parametrize("piece", ['"a ', "'a ", "“", '"', "s' ", '"a" ', "{}", "</idea>", "\u202eشكرا "])
def test_ten_thousand_characters_of_anything_are_checked(piece: str) -> None:
    text = (piece * 10_000)[:10_000]
    assert all(finding.rule for finding in check(prompt(text), asked(text, text[:50])))


def test_the_idea_is_read_once_however_many_quotations_a_prompt_has(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Counted(quotation._Scan):
        def __init__(self, text: str) -> None:
            read.append(text)
            super().__init__(text)

    monkeypatch.setattr(quotation, "_Scan", Counted)
    given = asked('a sign that says OPEN, and "Hello"', "Bakery")
    check(prompt(" ".join(f'"word {number}"' for number in range(50))), given)
    assert read.count(given.idea) == 1
    assert len(read) < 10


def test_quotations_in_quotations_are_compared_only_if_one_of_their_size_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folded = []
    fold = checker._folded
    monkeypatch.setattr(checker, "_folded", lambda words: folded.append(words) or fold(words))
    nested = "“a " * 200 + "”" * 200
    assert [finding.rule for finding in check(prompt(nested), asked(say=("a",)))] == [INVENTED]
    assert len(folded) < 20


def test_only_so_much_is_compared_with_the_texts_on_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    quoted, given = prompt('A sign "Bakery" and a sign "Buthcer"'), asked("a shop", "Bakrey", "Butcher")
    assert [finding.rule for finding in check(quoted, given)] == [CHANGED, CHANGED]
    monkeypatch.setattr(checker, "MOST_COMPARED", checker.LEAST_COMPARED)
    assert [finding.rule for finding in check(quoted, given)] == [CHANGED, INVENTED]


def test_what_is_long_is_shortened() -> None:
    (finding,) = check(prompt("Rain."), asked(f'"{"word " * 60}"'))
    assert len(finding.what) <= 80
    assert finding.what.endswith("…")


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_has_a_sentence_for_the_writer(rule: Rule) -> None:
    said = sentence(Finding(rule=rule, what="{what} {0}"))
    assert said.endswith(".")
    assert "\n" not in said
    if "{what}" in said:  # the creator's braces come through, and are not read as a template
        assert "{what} {0}" in said


def test_the_sentence_names_what_is_wrong() -> None:
    assert '"Go home"' in sentence(Finding(rule=Rule.QUOTE_LOST, what="Go home"))
    assert "263" in sentence(Finding(rule=Rule.TOO_LONG, what="263"))


def test_a_finding_can_be_stored_and_read_again() -> None:
    finding = Finding(rule=Rule.FREEZING, what="静止")
    assert Finding.model_validate_json(finding.model_dump_json()) == finding
    with pytest.raises(ValidationError):
        finding.what = "still"  # type: ignore[misc]


def test_paragraphs_end_at_empty_lines_and_before_the_audio() -> None:
    assert paragraphs("One\nline.\n \n\nTwo.\nThe audio shows three.") == [
        "One\nline.",
        "Two.",
        "The audio shows three.",
    ]


def test_ideographs_count_half_and_the_sentence_about_subtitles_nothing() -> None:
    assert words_in(f"{NO_SUBTITLES} Two words 两个 — !") == 3
