"""Small tables in Chinese, Japanese, Thai, Arabic and Hindi: what is found in them, and that they are split fairly."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from halfpint.data.check import check
from halfpint.data.dedup import near_duplicate_groups
from halfpint.data.examples import Example
from halfpint.data.split import split
from halfpint.data.wrong_labels import probable_wrong_labels
from halfpint.engines import open_engine
from halfpint.lookup import default_task
from halfpint.stage import Work
from halfpint.task import Split
from halfpint.train.tfidf_linear import TfidfLinear

# Beginnings, words of either label, and endings: sentences that share only what is around these words.
SCRIPTS = {
    "zh": ("请问|您好我的|昨天买的|为什么", "退款|发票|账单", "包裹|快递|箱子", "怎么办|还没有来|出问题了|在哪里"),
    "ja": ("あの|昨日の|こちらの|友人の", "返金|請求書|支払い", "荷物|配送|小包", "はまだ|がまだ|が問題です|はどこ"),
    "th": ("ขอโทษ|เมื่อวาน|ของฉัน|สวัสดี", "คืนเงิน|ใบแจ้งหนี้|ชำระเงิน", "พัสดุ|จัดส่ง|กล่อง", "ยังไม่มา|มีปัญหา|อยู่ที่ไหน|ช้ามาก"),
    "ar": ("مرحبا |رجاء |أمس |عفوا ", "الفاتورة|المبلغ|الدفع", "الطرد|الشحنة|الصندوق", " لم يصل| به خلل| أين هو| تأخر"),
    "hi": ("नमस्ते |कृपया |कल का |मेरा ", "भुगतान|बिल|रिफंड", "पार्सल|डिब्बा|सामान", " नहीं आया| में समस्या| कहाँ है| देर से"),
}  # fmt: skip


def rows_of(script: str) -> list[Example]:
    before, billing, delivery, after = (part.split("|") for part in SCRIPTS[script])
    found = []
    for label, words in (("billing", billing), ("delivery", delivery)):
        for number, parts in enumerate(itertools.product(before, words, after)):
            found.append(Example("".join(parts), label, 2 * number + (label == "billing") + 2))
    return found


def prepared(script: str) -> Split[Example]:
    parts = split(rows_of(script))
    return Split(train=parts.train, validation=parts.validation, test=parts.test, key=script, proof="", facts={})


@pytest.mark.parametrize("script", SCRIPTS)
def test_wrong_labels_are_found(script: str) -> None:
    examples = rows_of(script)
    wrong = [5, 60]
    for at in wrong:
        one = examples[at]
        examples[at] = Example(one.text, "billing" if one.label == "delivery" else "delivery", one.row)
    found = [example.row for example, _ in probable_wrong_labels(examples)]
    assert {examples[at].row for at in wrong} <= set(found) and len(found) <= 4


def test_near_duplicates_of_a_script_without_spaces_stay_together() -> None:
    long = "您好我上个星期在你们的网站上买了一个箱子到现在还没有收到请帮我查一下物流信息谢谢"
    texts = [long, long.replace("箱子", "盒子"), "完全不同的一句话关于发票和退款的问题请尽快处理好吗谢谢你们的帮助"]
    groups = near_duplicate_groups(texts)
    assert groups[0] == groups[1] != groups[2]
    thai = "ฉันสั่งกล่องจากเว็บไซต์ของคุณเมื่อสัปดาห์ที่แล้วแต่ยังไม่ได้รับสินค้าช่วยตรวจสอบให้หน่อย"
    groups = near_duplicate_groups([thai, thai + "ค่ะ", "ใบแจ้งหนี้ของเดือนนี้ไม่ถูกต้องกรุณาแก้ไขและส่งใหม่อีกครั้ง"])
    assert groups[0] == groups[1] != groups[2]


def test_repeats_are_found_whatever_their_full_stop() -> None:
    examples = [*rows_of("zh"), Example(rows_of("zh")[0].text + "。", rows_of("zh")[0].label, 900)]
    found = {finding.kind: finding for finding in check(examples, probe_labels=False)}
    assert found["exact_duplicate"].rows == (900,)


@pytest.mark.parametrize("script", SCRIPTS)
def test_both_labels_are_on_every_side(script: str) -> None:
    parts = split(rows_of(script))
    for side in (parts.train, parts.validation, parts.test):
        assert {example.label for example in side} == {"billing", "delivery"}


@pytest.mark.parametrize(
    ("text", "long"), [("退款" * 140, True), ("退款" * 120, False), ("कल का " * 120, True), ("अ" * 280, False)]
)
def test_the_note_on_long_texts_counts_characters_where_words_have_no_borders(text: str, long: bool) -> None:
    found = check([*rows_of("zh"), Example(text, "billing", 900)], probe_labels=False)
    assert [one.rows for one in found if one.kind == "long_text"] == ([(900,)] if long else [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_counted_words_learn_the_labels(script: str, tmp_path: Path) -> None:
    data = prepared(script)
    task = default_task()
    work = Work(tmp_path / "made", tmp_path / "scratch", task, data, task.labels(data.train))
    engine = open_engine(TfidfLinear().run(None, work))
    guesses = engine.probabilities([example.text for example in data.test]).argmax(axis=1)
    assert [engine.labels[guess] for guess in guesses] == [example.label for example in data.test]
