"""The phrases by which an idea's parts are known: who speaks, what is read, camera, style, light, time, sounds."""

from __future__ import annotations

import re

SPEAKING = (
    "says|said|say|saying|speaks|asks|asked|whispers|whispering|shouts|shouted|shouting|yells|cries|replies|answers|"
    "mutters|murmurs|exclaims|calls|announces|tells|sings|adds|screams|greets|explains|greeting|shout|whisper|whispered|ask|"
    "yell|yelled|replied|answered|muttered|murmured|exclaimed|cried|announced|sang|added|scream|screamed"
)
SPEAKING_ZH = "说道|说着|说|问道|问|喊道|大喊|喊|叫道|回答道|回答|低语|唱道|唱|念道|念|答道|道"
READS = re.compile(
    r"\b(?:reads?|reading|labell?ed|written|lettering|titled?|caption(?:ed)?|inscribed|printed)\b|"
    r"\b(?:sign|signs|board|poster|banner|label|screen|neon|logo|words?|letters|text|subtitle|billboard|sticker)\b|"
    r"写着|印着|刻着|显示|招牌|牌子|标语|海报|屏幕|标题|字样|横幅|贴着",
    re.IGNORECASE,
)
SAYS = re.compile(rf"\b(?:{SPEAKING})\b|{SPEAKING_ZH}", re.IGNORECASE)
SPEAKER = re.compile(
    rf"(?:^|[,;:，；：]|\band\b|\bwhile\b|\bas\b)?\s*(?P<who>(?:(?:an?|the|his|her|my|their|"
    rf"one)\s+)?[\w'’-]+(?:\s+[\w'’-]+){{0,6}}?)\s+"
    rf"(?:\w+ly\s+)?(?:{SPEAKING})\b[^\"“„「『«]{{0,60}}$",
    re.IGNORECASE,
)
SPEAKER_ZH = re.compile(
    rf"(?:^|"
    rf"[，；。、])?(?P<who>[\u4e00-\u9fff]{{1,12}}?)(?:[在对向朝][\u4e00-\u9fff]{{1,8}}?)?(?:用[\u4e00-\u9fff]{{1,4}}|"
    rf"[轻大低小笑]声?(?:地|着)?)?(?:{SPEAKING_ZH})[^\"“「]{{0,10}}$"
)
# "Stop!" shouts a woman in red
SPEAKER_AFTER = re.compile(
    rf"^\s*,?\s*(?P<says>(?:{SPEAKING})\s+)(?P<who>(?:an?|the|his|her|my)\s+[\w'’-]+(?:\s+(?:in|with|of)\s+"
    rf"(?:an?\s+|the\s+)?[\w'’-]+|\s+[\w'’-]+){{0,2}}|[A-Z][\w'’-]+|he|she|they)"
)
# "Stop!" a woman in red shouts; what comes after the verb belongs to it as far as a comma
SPEAKER_THEN_VERB = re.compile(
    rf"^\s*,?\s*(?P<who>(?i:an?|the|his|her|my)\s+[\w'’-]+(?:\s+[\w'’-]+){{0,5}}?|[A-Z][\w'’-]+|he|she|they)"
    rf"(?P<says>\s+(?:\w+ly\s+)?(?:{SPEAKING})\b(?:\s+and(?=\s)|[^,.;:!?\"“„「『«]*))"
)
SPEAKER_ZH_AFTER = re.compile(
    rf"^\s*[，,]?\s*(?P<who>[\u4e00-\u9fff]{{1,8}}?)"
    rf"(?P<says>(?:[轻大低小笑]声?(?:地|着)?|[\u4e00-\u9fff]{{2}}地|用[\u4e00-\u9fff]{{1,4}})?"
    rf"(?:{SPEAKING_ZH})(?:了|着|起来)?)(?![\u4e00-\u9fff])"
)
COLON = re.compile(r"(?P<who>[\w'’ \u4e00-\u9fff-]{1,40})[:：]\s*$")
# Mia, laughing, says / Mia (laughing):
ASIDE = re.compile(
    rf"\s*(?:,\s*(?:\w+ly\s+)?(?!(?:{SPEAKING})\b)\w{{2,}}ing\b[^,:;\"“]*(?:,(?=\s*\w)|(?=:))|\([^()]*\)(?=\s*:))|"
    r"[，,]?[笑哭喊叫看站坐走跑指](?:着|了)(?=[:：])|（[^（）]*）(?=[:：])",
    re.IGNORECASE,
)
PRONOUN = re.compile(r"(?:he|she|they|it|i|we|you|who|他们?|她们?|它们?|我们?|你)", re.IGNORECASE)
MALE = re.compile(r"\b(?:\w*(?<!wo)m[ae]n|boys?|father|dad|grandpa|grandfather|uncle|king|prince|sir|guy|son|"
    r"brother|husband)\b|男|爷爷|爸爸|父亲|叔叔|国王|王子|渔夫|先生|哥哥|弟弟", re.IGNORECASE)  # fmt: skip
FEMALE = re.compile(r"\b(?:\w*wom[ae]n|girls?|mother|mom|mum|grandma|grandmother|aunt|queen|princess|lady|ladies|"
    r"daughter|sister|wife)\b|女|奶奶|妈妈|母亲|阿姨|姑娘|公主|王后|太太|姐姐|妹妹", re.IGNORECASE)  # fmt: skip
# The beginning of a sentence that may be its subject; a verb, a preposition or a comma ends it.
SUBJECT = re.compile(
    r"^\W*(?:(?:in|on|at|by|near|under|through)\s[^,.]{1,50},\s*)?(?:(?:and|then|while|as|when|there (?:is|are))\s+)*"
    r"(?P<who>(?:(?:an?|the|one|two|three|his|her|my|their)\s+(?:[\w'’-]+\s+){0,4}?[\w'’-]+?|(?-i:[A-Z][\w'’-]+)))"
    r"(?=\s+(?:in|on|at|by|near|with|from|to|of|over|under|through|along|across|into|and|who|that|is|are|was|were|has|"
    r"\w+(?:(?<![su])s|ed|ing))\b|\s*[,.;:!?(]|\s*$)",
    re.IGNORECASE,
)
SUBJECT_ZH = re.compile(
    r"(?:一[个位名只条]|那[个位只]|这[个位只])(?P<who>[一-鿿]{0,8}?(?:人|男孩|女孩|孩子|小孩|姑娘|女士|男士|奶奶|爷爷|妈妈|"
    r"爸爸|老师|厨师|女子|男子|宇航员|渔夫|医生|士兵|国王|王后|公主|王子|少年|少女|歌手|母亲|父亲|水手|农民|猫|狗|马|鸟|狐狸|"
    r"机器人)(?!们))|(?:^|[，。！？；])(?P<bare>(?:小|老)?(?:男人|女人|男孩|女孩|老人|奶奶|爷爷|妈妈|爸爸|老师|女子|男子|渔夫|猫|"
    r"狗|狐狸)|[小老阿][一-鿿](?=[在走跑坐站笑说看拿把对向]))"
)
NO_SUBJECT = frozenset(
    (
        "its",
        "his",
        "her",
        "their",
        "my",
        "it",
        "he",
        "she",
        "they",
        "we",
        "there",
        "this",
        "that",
        "then",
        "rain",
        "no",
        "a",
        "an",
        "the",
    )
)
SPEECH_BEFORE = re.compile(
    rf"\s*,?\s*(?:\b(?:and|who|then)\b\s+)?(?:\b\w+ly\s+)?\b(?:{SPEAKING})\b[^\"“„「『«.!?。！？]{{0,60}}$|"
    rf"(?:用[\u4e00-\u9fff]{{1,4}}|[轻大低小笑]声?(?:地|着)?)?(?:{SPEAKING_ZH})[^\"“「]{{0,10}}$|\s*[:：]\s*$",
    re.IGNORECASE,
)
SHOT = re.compile(
    r"\b(?:extreme close-?\s?up|medium close-?\s?up|close-?\s?up|macro shot|medium(?: wide| long)? shot|full shot|"
    r"(?:extreme )?(?:long|wide) shot|establishing shot|aerial shot|two-shot)\b|大特写|特写|近景|中近景|"
    r"中景|全景|大远景|远景|航拍",
    re.IGNORECASE,
)
ANGLE = re.compile(
    r"\b(?:eye[- ]level|low[- ]angle|high[- ]angle|bird['’]?s[- ]eye(?: view)?|worm['’]?s[- ]eye(?: view)?|overhead|"
    r"top-down|dutch angle|over[- ]the[- ]shoulder|from (?:above|below|behind))\b|平视|俯视|仰视|俯拍|"
    r"仰拍|鸟瞰|低角度|高角度",
    re.IGNORECASE,
)
LEADING_SHOT = re.compile(
    rf"^(?:(?:an?|the)\s+)?(?:(?:{SHOT.pattern}|{ANGLE.pattern})(?:\s+shot)?(?:\s*[,，、:：.。]\s*|\s+of\s+|\s+))+",
    re.IGNORECASE,
)
STYLE = re.compile(
    r"\b(?:photorealistic|photo-?realistic|realistic|cinematic|anime|watercolou?r|oil painting|cartoon|3d render|"
    r"pixel art|black[- ]and[- ]white|film noir|documentary|claymation|stop[- ]motion|flat illustration|sketch)\b|"
    r"水彩画?|动漫|写实|电影感|卡通|油画|黑白|纪录片|像素|水墨画?",
    re.IGNORECASE,
)
LIGHT = re.compile(
    r"\b(?:golden hour|blue hour|dawn|dusk|sunset|sunrise|twilight|night|midnight|noon|moonlight|moonlit|candle-?light|"
    r"neon light|backlit|soft light|daylight|sunlight|overcast|morning light|evening light)\b|"
    r"黄昏|傍晚|清晨|黎明|夜晚|夜里|深夜|午夜|月光|烛光|霓虹|逆光|正午|中午|日落|日出|夕阳|阴天|阳光",
    re.IGNORECASE,
)

LATER = re.compile(
    r"(?:and\s+)?(?:then|afterwards?|suddenly|finally|eventually|after that|later|next(?!\s+to)|"
    r"moments later|in the end)\b|"
    r"然后|接着|随后|最后|突然|之后|紧接着|过了一会",
    re.IGNORECASE,
)
LATER_CLAUSE = re.compile(
    r"\s*[,;]?\s*\b(?:and\s+)?(?:then|afterwards?|suddenly|finally|eventually|until|after which|before)\b.*|"
    r"[，；、]?(?:然后|接着|随后|最后|突然|之后|紧接着|直到).*",
    re.IGNORECASE | re.DOTALL,
)

MUSIC = re.compile(
    r"\b(?:music|melody|soundtrack|orchestra|(?:piano|guitar|violin|jazz|lullaby|song)(?= plays| music|"
    r" tune|$))\b|音乐|钢琴曲|旋律|配乐|歌声",
    re.IGNORECASE,
)
NO_MUSIC = re.compile(r"\b(?:no|without(?: any)?) music\b|没有音乐|无音乐|不要音乐|无配乐|没有配乐", re.IGNORECASE)
AMBIENCE = re.compile(
    r"(?:\A|\b(?:the|of|ocean|sea|gentle|soft|distant|big|crashing) )waves\b|\bwaves (?:crash|break|roll|lap|wash|hit)|"
    r"\b(?:rain(?:s|ing|fall)?|winds?|breeze|surf|birdsong|"
    r"chirp(?:s|ing)?|thunder|traffic|crowd|"
    r"chatter|crickets|ambien(?:ce|t)|hum(?:s|ming)?|murmur of)\b|"
    r"(?:雨|风|海浪|浪|波浪|鸟鸣|鸟叫|雷|虫鸣|流水|车流|人群|环境)声|鸟鸣|虫鸣|雷鸣|喧哗",
    re.IGNORECASE,
)
EFFECT = re.compile(
    r"\b(?:thuds?|bangs?|crash(?:es)?|clangs?|clanks?|beep(?:s|ing)?|clicks?|knock(?:s|ing)?|footsteps?|"
    r"splash(?:es)?|chimes?|"
    r"(?:phone|bell|alarm)s? rings?|ringing|barks?|barking|meows?|roars?|whistles?|applause|laughter|"
    r"laughs?|engine|horn|sirens?|"
    r"explo(?:sion|des)|gunshots?|tick(?:s|ing)|drip(?:s|ping)|creak(?:s|ing)?|squeak(?:s|ing)?|buzz(?:es|"
    r"ing)?|rumbl(?:e|es|ing)|"
    r"crunch(?:es|ing)?|howl(?:s|ing)?|growl(?:s|ing)?|neigh(?:s|ing)?|purr(?:s|ing)?|hoot(?:s|ing)?|screech(?:es|ing)?|"
    r"squawk(?:s|ing)?|pant(?:s|ing)|(?:gulls?|seagulls?|birds?|bab(?:y|ies)|eagles?|crows?|wolf|wolves|owls?)\s+(?:\w+ly\s+)?"
    r"(?:cry|cries|crying|calls?|calling|screams?|screaming|sings?|singing)|cries of|"
    r"claps?|pops?|snaps?|sizzl(?:e|es|ing)|hiss(?:es|ing)?|crackl(?:e|es|ing)|rustl(?:e|es|ing)|sounds? of|noise)\b|"
    r"[\u4e00-\u9fff]{0,3}(?<![大小轻低高一无])声(?!说|喊|地|音乐)|咚|砰|滴答|叮咚|轰隆|吠叫?|嘎吱|咯吱|汪汪|喵喵|鸣叫|嘶鸣",
    re.IGNORECASE,
)
ONLY_SOUND = re.compile(
    r"\b(?:sounds? of|we hear|can be heard|is heard|are heard|hear|audio|music|soundtrack)\b|听到|听见|声音|音乐|"
    r"配乐|伴随|伴着|[\u4e00-\u9fff]{1,3}声(?:响|中|[。！？，；、\s]|$)",
    re.IGNORECASE,
)
SEEN_AND_HEARD = re.compile(
    r"\b(?:bounc|roll|slid|fall|hit|walk|run|jump|danc|break|driv|open|clos|pour|splash|knock|row|eat|drink|fl(?:y|ies)|"
    r"galop|gallop|play|cook|writ|typ|climb|tip|spin|drop|crash|swim|cut|chop|sweep|hammer)(?:e?s|ing|)\b|"
    "弹跳|滚|滑|掉|落|走|跑|跳|打开|关上|倒|敲|划|吃|喝|飞|弹|切|游|开门|写|骑|奔",
    re.IGNORECASE,
)
SOUNDING_VERB = re.compile(
    r"(?:bark|meow|roar|crash|creak|squeak|crunch|howl|growl|neigh|purr|hoot|screech|squawk|laugh|whistl|ring|rumbl|buzz|"
    r"hiss|clap|pop|click|knock|beep|pant)(?:e?s|ing)\b|叫|吠|喵|汪|嘶鸣|鸣叫",
    re.IGNORECASE,
)
SOUND_TAIL = re.compile(
    rf"\s*,?\s+\b(?:with|to|and|while|as) (?=(?:(?:an?|the|"
    rf"some)\s+)?(?:[\w-]+\s+){{0,2}}(?:{EFFECT.pattern}|{MUSIC.pattern}))[^,;.!?]*",
    re.IGNORECASE,
)
SOUND_BORDER = re.compile(r"\b(?:with|while|as|and)\b|伴随着?|伴着|同时|和", re.IGNORECASE)
