"""Short texts in many languages, and the encodings in which people saved them, to guess by.

Three to each language, from a line to a few words; of which letters they are made matters, not what they
say.
"""

from collections.abc import Iterator

# language: encodings, texts
CORPUS: dict[str, tuple[str, tuple[str, ...]]] = {
    "da": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "Færgen sejler hver lørdag, når bølgerne ikke er for høje.",
            "Hun købte rødgrød og en pære på torvet.",
            "Jeg bor i Århus.",
        ),
    ),
    "de": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "Der Zug fährt über die Brücke und zurück nach Köln.",
            "Die Mädchen übten schöne Lieder, während draußen größere Schiffe vorbeizogen.",
            "„Grüß Gott“, sagte der Müller.",
        ),
    ),
    "en": (
        "cp1252 mac_roman",
        (
            "“It’s late,” she said – and left the café.",
            "The harbour master’s book was never read again.",
            "He paid £12 for the résumé.",
        ),
    ),
    "es": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "El niño pasó la mañana junto al río, pescando con su señor padre.",
            "¿Dónde está la estación? ¡Qué lástima!",
            "Mañana iré a León.",
        ),
    ),
    "fi": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "Hyvää päivää, mitä kuuluu? Tänään sä söit leipää.",
            "Yö on pimeä, mutta järvi näkyy vielä.",
            "Äiti lähti töihin.",
        ),
    ),
    "fr": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "L’été dernier, nous avons mangé des crêpes à côté de la forêt.",
            "Où est passé le garçon ? Il a oublié son vélo près de l'école.",
            "Ça va très bien, merci à vous.",
        ),
    ),
    "is": (
        "cp1252 iso8859_1",
        (
            "Það er gott veður í dag og bátarnir eru úti á sjó.",
            "Hún þekkir manninn sem býr í þessu húsi.",
            "Þetta er mjög góð bók.",
        ),
    ),
    "it": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "La città è più bella di notte, perché c’è meno gente.",
            "Però lunedì andrò all'università.",
            "Non so perché, ma sarà così.",
        ),
    ),
    "nl": (
        "cp1252 iso8859_1 cp850",
        (
            "De patiënten in België drinken één kopje koffie.",
            "Hij vond het geïsoleerde huis vóór de brug.",
            "Dat idee is één en al onzin.",
        ),
    ),
    "no": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "Fjorden er så blå at båtene nesten forsvinner på sjøen.",
            "Jeg så en bjørn nær elva i går.",
            "Å være eller ikke være.",
        ),
    ),
    "pt": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "A canção começou ao amanhecer, quando as crianças já não dormiam.",
            "São João é amanhã; não há pão.",
            "O avô não sabe onde estão as maçãs.",
        ),
    ),
    "sv": (
        "cp1252 iso8859_1 cp850 mac_roman",
        (
            "Vi åker till Göteborg på lördag och går på bio på kvällen.",
            "Sjön låg spegelblank när fåglarna flög över skären.",
            "Är du här än?",
        ),
    ),
    "cs": (
        "cp1250 iso8859_2 cp852",
        (
            "Příliš mnoho lidí čekalo na nádraží, když přijel vlak.",
            "Žádný člověk neví, kde řeka končí.",
            "Dnes večer půjdeme k řece.",
        ),
    ),
    "hr": (
        "cp1250 iso8859_2",
        (
            "Žena je rekla da će doći kući sljedeće nedjelje.",
            "Djeca uče čitati i pisati u maloj školi.",
            "Što još želiš?",
        ),
    ),
    "hu": (
        "cp1250 iso8859_2 cp852",
        (
            "A kikötő őre minden hajót följegyzett egy vastag könyvbe.",
            "Tegnap este későn értünk haza, és nagyon fáradtak voltunk.",
            "Jó reggelt! Hogy érzed magad?",
        ),
    ),
    "pl": (
        "cp1250 iso8859_2 cp852",
        (
            "Chłopiec poszedł nad rzekę, żeby łowić ryby z dziadkiem.",
            "Zażółć gęślą jaźń, mówiła babcia.",
            "Już późno, idę spać.",
        ),
    ),
    "ro": (
        "cp1250 iso8859_2",
        (
            "Casa este mică, dar grădina e frumoasă şi plină de flori.",
            "Câţiva oameni aşteptau în faţa gării.",
            "Mâine mergem la munte.",
        ),
    ),
    "sk": (
        "cp1250 iso8859_2",
        (
            "Ľudia čakali na stanici, kým prišiel vlak z Košíc.",
            "Môžeš mi povedať, kde je najbližšia škola?",
            "Ďakujem, že si prišiel.",
        ),
    ),
    "sl": (
        "cp1250 iso8859_2",
        (
            "Otroci se učijo brati v majhni šoli blizu reke.",
            "Če boš šel v mesto, kupi še kruh.",
            "Žal ne vem, kje živi.",
        ),
    ),
    "bg": (
        "cp1251",
        (
            "Пристанището беше тихо, когато корабът пристигна вечерта.",
            "Децата четат книга за старите времена.",
            "Утре ще вали дъжд.",
        ),
    ),
    "ru": (
        "cp1251 koi8_r cp866 iso8859_5 mac_cyrillic",
        (
            "Начальник порта записывал каждый корабль в большую книгу.",
            "Старый русский текст о реке и лесе.",
            "Что ты делаешь завтра вечером?",
        ),
    ),
    "sr": (
        "cp1251",
        (
            "Капетан је записивао сваки брод који је ушао у луку.",
            "Деца уче да читају и пишу у малој школи.",
            "Где живи твој пријатељ?",
        ),
    ),
    "uk": (
        "cp1251 koi8_u",
        (
            "Начальник порту записував кожен корабель до великої книги.",
            "Діти їдуть до лісу, щоб збирати гриби.",
            "Що ти робиш завтра ввечері?",
        ),
    ),
    "el": (
        "cp1253 iso8859_7",
        (
            "Ο λιμενάρχης έγραφε κάθε πλοίο σε ένα μεγάλο βιβλίο.",
            "Τα παιδιά διαβάζουν στο μικρό σχολείο δίπλα στο ποτάμι.",
            "Πού είναι ο σταθμός;",
        ),
    ),
    "tr": (
        "cp1254 iso8859_9",
        (
            "Çocuklar küçük okulda okumayı ve yazmayı öğreniyor.",
            "Yarın akşam İstanbul'a gideceğiz, çünkü hava güzel olacak.",
            "Şimdi değil, sonra görüşürüz.",
        ),
    ),
    "he": (
        "cp1255 iso8859_8",
        (
            "מנהל הנמל רשם כל אונייה בספר גדול שאיש לא קרא.",
            "הילדים לומדים לקרוא בבית ספר קטן ליד הנהר.",
            "מה שלומך היום?",
        ),
    ),
    "ar": (
        "cp1256 iso8859_6",
        (
            "كان مدير الميناء يكتب اسم كل سفينة في كتاب كبير.",
            "يتعلم الأطفال القراءة في مدرسة صغيرة قرب النهر.",
            "كيف حالك اليوم؟",
        ),
    ),
    "et": (
        "cp1257 iso8859_4",
        (
            "Sadama ülem kirjutas iga laeva suurde raamatusse.",
            "Homme õhtul läheme jõe äärde kala püüdma.",
            "Täna on ilus päev.",
        ),
    ),
    "lt": (
        "cp1257 iso8859_13",
        (
            "Uosto viršininkas užrašydavo kiekvieną laivą į didelę knygą.",
            "Vaikai mokosi skaityti mažoje mokykloje prie upės.",
            "Ačiū, kad atėjai šiandien.",
        ),
    ),
    "lv": (
        "cp1257 iso8859_13",
        (
            "Ostas priekšnieks katru kuģi ierakstīja lielā grāmatā.",
            "Bērni mācās lasīt mazā skolā pie upes.",
            "Paldies, ka šodien atnāci.",
        ),
    ),
    "th": (
        "cp874",
        (
            "นายท่าเรือจดชื่อเรือทุกลำลงในสมุดเล่มใหญ่",
            "เด็กๆ เรียนหนังสือในโรงเรียนเล็กใกล้แม่น้ำ",
            "วันนี้อากาศดีมาก",
        ),
    ),
    "ja": (
        "cp932 euc_jp",
        (
            "港の長は入ってくる船をすべて帳面に書きとめた。",
            "子どもたちは川のそばの小さな学校で読み書きを習う。",
            "今日はいい天気ですね。",
        ),
    ),
    "ko": (
        "euc_kr",
        (
            "항구의 책임자는 들어오는 배를 모두 큰 책에 적었다.",
            "아이들은 강가의 작은 학교에서 글을 배운다.",
            "오늘은 날씨가 좋습니다.",
        ),
    ),
    "zh_cn": (
        "gb18030",
        (
            "港口的主人把每一艘进来的船都写在一本大书里。",
            "孩子们在河边的小学校里学习读书写字。",
            "今天天气很好。",
        ),
    ),
    "zh_tw": (
        "big5",
        (
            "港口的主人把每一艘進來的船都寫在一本大書裡。",
            "孩子們在河邊的小學校裡學習讀書寫字。",
            "今天天氣很好。",
        ),
    ),
}
# What older encodings have no letters for, as people wrote it in them.
_PLAIN = str.maketrans("’“”„–", '\'"""-')


def samples() -> Iterator[tuple[str, str, str, bool]]:
    """Language, encoding, text, and whether it is long enough to tell for certain."""
    for language, (encodings, texts) in CORPUS.items():
        for encoding in encodings.split():
            for at, text in enumerate((*texts, " ".join(texts))):
                yield language, encoding, _written_in(encoding, text), at != len(texts) - 1


def _written_in(encoding: str, text: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_PLAIN)
    return text
