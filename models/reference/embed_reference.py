"""Reference vectors for all-MiniLM-L6-v2, by another implementation than the one under test.

    python3 embed_reference.py MODEL_DIR > minilm.json
    python3 embed_reference.py MODEL_DIR --mixed > minilm_mixed.f16

The second writes vectors only, in half precision, of 500 texts of up to 256 tokens that `mixed` puts together from the
words of the first ones, in all their languages; the test does the same.

Needs numpy alone: reads the safetensors file, splits words as BERT's uncased WordPiece does, and runs the model in
float64. Nothing here is shared with the Rust code, not even the tokeniser.
"""

import json
import math
import sys
import unicodedata
from pathlib import Path

import numpy as np

MAX_TOKENS = 256
LONG = (
    "A semantic cache keeps answers that were paid for once and gives them again when a question means the same. "
    "It has to be careful: two questions that look alike may ask for different things, and an answer that was right "
    "yesterday may be wrong today. "
)
TEXTS = [
    "",
    "a",
    "?",
    "Hello, world!",
    "How do I reset my password?",
    "I forgot my password, how can I change it?",
    "What is the capital of France?",
    "How do I enable two-factor authentication?",
    "How do I disable two-factor authentication?",
    "Convert 12.5 kilometres to miles, please.",
    "Convert 13.5 kilometres to miles, please.",
    "Write a haiku about garbage collection in distributed systems.",
    "SELECT name, total FROM orders WHERE total > 100 ORDER BY total DESC;",
    "fn main() { println!(\"{}\", (1..=10).sum::<u32>()); }",
    "https://example.com/docs/getting-started?lang=en#install",
    "My order #48213-B hasn't arrived; it's 3 days late!!!",
    "internationalisation, counterrevolutionaries, antidisestablishmentarianism",
    "   leading,\ttabs\nand newlines   everywhere   ",
    "ALL CAPITALS AND no capitals AND MiXeD",
    "naïve café, Ångström, Þórr, Łódź, crème brûlée",
    "Wie kann ich meine Bestellung stornieren?",
    "Comment puis-je annuler ma commande ?",
    "¿Dónde está la biblioteca más cercana?",
    "Qual é a diferença entre fila e pilha?",
    "Jak długo trwa dostawa do Krakowa?",
    "Как изменить адрес доставки?",
    "Πώς μπορώ να επικοινωνήσω με την υποστήριξη;",
    "今天的天气怎么样?",
    "パスワードを忘れた場合はどうすればいいですか?",
    "비밀번호를 어떻게 변경하나요?",
    "كيف يمكنني تتبع طلبي؟",
    "כמה עולה המשלוח?",
    "मेरा खाता क्यों बंद है?",
    "ฉันจะคืนสินค้าได้อย่างไร",
    "Thanks \U0001f600\U0001f680 — that’s “great” … 100 % ✓",
    "[CLS] and [SEP] in a text, as a user may type them [MASK]",
    "x" * 120,
    LONG.strip(),
    LONG * 2,
    LONG * 4,
    LONG * 12,
    "word " * 254,
    "word " * 300,
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def load(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    tensors = {}
    for name, about in header.items():
        if name != "__metadata__" and about["dtype"] == "F32":
            start, end = about["data_offsets"]
            values = np.frombuffer(raw[8 + length + start : 8 + length + end], dtype="<f4")
            tensors[name] = values.reshape(about["shape"]).astype(np.float64)
    return tensors


def is_punctuation(char):
    # All of ASCII that is neither letter, digit nor space counts, whatever Unicode calls it.
    ascii_sign = 33 <= ord(char) <= 47 or 58 <= ord(char) <= 64 or 91 <= ord(char) <= 96 or 123 <= ord(char) <= 126
    return ascii_sign or unicodedata.category(char).startswith("P")


def is_chinese(char):
    ranges = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)]
    ranges += [(0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
    return any(first <= ord(char) <= last for first, last in ranges)


def words_of(text):
    clean = []
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char) == "Zs":
            clean.append(" ")
        elif char in "\x00\ufffd" or unicodedata.category(char).startswith("C"):
            continue
        else:
            clean.append(f" {char} " if is_chinese(char) else char)
    plain = unicodedata.normalize("NFD", "".join(clean))
    plain = "".join(char for char in plain if unicodedata.category(char) != "Mn").lower()
    for word in plain.split():
        start = 0
        for at, char in enumerate(word):
            if is_punctuation(char):
                if start < at:
                    yield word[start:at]
                yield char
                start = at + 1
        if start < len(word):
            yield word[start:]


def pieces_of(word, vocabulary):
    if len(word) > 100:
        return [vocabulary["[UNK]"]]
    ids, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                ids.append(vocabulary[piece])
                start = end
                break
        else:
            return [vocabulary["[UNK]"]]
    return ids


def split_special(text):
    """Yields (part, whether it is a special token)."""
    while text:
        found = [(text.find(token), token) for token in SPECIAL if token in text]
        if not found:
            yield text, False
            return
        at, token = min(found)
        if at:
            yield text[:at], False
        yield token, True
        text = text[at + len(token) :]


def ids_of(text, vocabulary):
    ids = []
    for part, special in split_special(text):
        if special:
            ids.append(vocabulary[part])
        else:
            for word in words_of(part):
                ids.extend(pieces_of(word, vocabulary))
    truncated = len(ids) > MAX_TOKENS - 2
    return [vocabulary["[CLS]"], *ids[: MAX_TOKENS - 2], vocabulary["[SEP]"]], truncated


def layer_norm(x, tensors, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def linear(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def embed(ids, tensors, heads=12, layers=6):
    count, erf = len(ids), np.vectorize(math.erf)
    x = tensors["embeddings.word_embeddings.weight"][ids]
    x = x + tensors["embeddings.position_embeddings.weight"][:count] + tensors["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, tensors, "embeddings.LayerNorm")
    size = x.shape[1] // heads
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        query, key, value = (
            linear(x, tensors, f"{layer}.attention.self.{part}").reshape(count, heads, size).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(size)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ value
        mixed = linear(mixed.transpose(1, 0, 2).reshape(count, -1), tensors, f"{layer}.attention.output.dense")
        x = layer_norm(x + mixed, tensors, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, tensors, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = layer_norm(x + linear(inner, tensors, f"{layer}.output.dense"), tensors, f"{layer}.output.LayerNorm")
    mean = x.mean(axis=0)
    return mean / np.linalg.norm(mean)


def mixed(number):
    """Words drawn by a linear congruential generator (Knuth's MMIX constants), seeded with the text's number."""
    words = [word for text in TEXTS for word in text.split()]
    state, chosen = number, []
    for _ in range(1 + number * number % 167):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        chosen.append(words[(state >> 33) % len(words)])
    return " ".join(chosen)


def main():
    folder = Path(sys.argv[1])
    tensors = load(folder / "model.safetensors")
    vocabulary = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    if "--mixed" in sys.argv:
        for number in range(500):
            ids, _ = ids_of(mixed(number), vocabulary)
            print(number, len(ids), file=sys.stderr)
            sys.stdout.buffer.write(embed(ids, tensors).astype("<f2").tobytes())
        return
    rows = []
    for text in TEXTS:
        ids, truncated = ids_of(text, vocabulary)
        vector = [round(value, 6) for value in embed(ids, tensors).tolist()]
        about = {"tokens": len(ids), "truncated": truncated, "unknown": ids.count(vocabulary["[UNK]"])}
        rows.append(json.dumps({"text": text, **about, "vector": vector}))
    print("[\n" + ",\n".join(rows) + "\n]")


main()
