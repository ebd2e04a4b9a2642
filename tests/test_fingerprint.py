"""A text that holds its own hash: any changed byte shows."""

import hashlib
import json

from edgesafe import fingerprint

TEXT = json.dumps({"a": 1, "target": {"name": "onnx", fingerprint.KEY: fingerprint.ZEROS}, "b": "é"}, indent=1, ensure_ascii=False)


def test_the_hash_is_of_the_text_with_zeros_in_its_place() -> None:
    stamped = fingerprint.stamp(TEXT)
    assert json.loads(stamped)["target"][fingerprint.KEY] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert fingerprint.intact(stamped.encode()) is True


def test_any_changed_byte_shows() -> None:
    data = fingerprint.stamp(TEXT).encode()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        assert not fingerprint.intact(bytes(changed)), at


def test_a_text_without_one_is_neither_intact_nor_changed() -> None:
    assert fingerprint.intact(b"{}") is None and fingerprint.stamp("{}") == "{}"
