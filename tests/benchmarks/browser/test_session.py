"""The session: everything is kept, so that a reload, a lost connection and a stopped server go on where they were."""

from collections.abc import Callable

import pytest

from .conftest import COLD, PHONE, TIMES, Stand, make_png

Start = Callable[..., Stand]


def come(made: Stand) -> tuple:
    visitor = made.visitor()
    visitor.open()
    return visitor, visitor.post("/api/hello", PHONE)[1]


def test_a_stopped_server_goes_on_where_it_was(stand: Start) -> None:
    visitor, left = come(stand())
    assert (left["cold"], left["parts"], len(left["pictures"])) == (True, ["picture", "unet_call", "text_encoder", "vae_decoder"], 2)
    visitor.post("/api/cold", COLD)
    visitor.post("/api/latency/unet_call", TIMES)
    visitor.post(f"/api/picture/{left['pictures'][0]['id']}", make_png(value=9))
    again = stand()
    other, rest = come(again)
    assert rest == {"cold": False, "parts": ["picture", "text_encoder", "vae_decoder"], "pictures": left["pictures"][1:]}
    for part in rest["parts"]:
        other.post(f"/api/latency/{part}", TIMES)
    assert other.post(f"/api/picture/{rest['pictures'][0]['id']}", make_png(value=200)) == (200, {"left": 0})
    assert again.session.finished.is_set()
    assert again.session.pictures(again.session.work.questions)[:, 0, 0, 0].tolist() == [9, 200]


def test_a_device_that_was_done_already_is_done_at_once(stand: Start) -> None:
    visitor, left = come(stand())
    visitor.post("/api/cold", COLD)
    for part in left["parts"]:
        visitor.post(f"/api/latency/{part}", TIMES)
    for row in left["pictures"]:
        visitor.post(f"/api/picture/{row['id']}", make_png())
    again = stand()
    assert come(again)[1] == {"cold": False, "parts": [], "pictures": []}
    assert again.session.finished.is_set()


def test_a_new_report_takes_new_times_and_keeps_pictures(stand: Start) -> None:
    made = stand()
    visitor, left = come(made)
    visitor.post("/api/cold", COLD)
    visitor.post(f"/api/picture/{left['pictures'][0]['id']}", make_png())
    made.session.reported()
    rest = come(stand())[1]
    assert rest["cold"] and len(rest["parts"]) == 4 and len(rest["pictures"]) == 1


@pytest.mark.parametrize("other", [{"user_agent": "another"}, {"threads": 1}, {"backend": "webgpu"}, {"model": "Pixel 9"}])
def test_another_device_begins_anew(stand: Start, other: dict) -> None:
    visitor, _ = come(stand())
    visitor.post("/api/cold", COLD)
    assert visitor.post("/api/hello", PHONE | other)[1]["cold"]
    assert not visitor.post("/api/hello", PHONE | {"clock_ms": 0.1})[1]["cold"], "the same device, whatever its clock said"


@pytest.mark.parametrize("work", [{"manifest_sha256": "00" * 32}, {"threads": 2}, {"backend": "wasm"}])
def test_other_work_begins_anew(stand: Start, work: dict) -> None:
    visitor, _ = come(stand())
    visitor.post("/api/cold", COLD)
    assert come(stand(**work))[1]["cold"]
    assert come(stand(name="my phone"))[1]["cold"]


def test_a_picture_is_kept_without_what_came_beside_its_pixels(stand: Start) -> None:
    made = stand()
    visitor, left = come(made)
    name = left["pictures"][0]["id"]
    visitor.post(f"/api/picture/{name}", make_png(mode="RGBA") + b"<script>")
    (kept,) = made.root.rglob("*.png")
    assert kept.name == f"{name}.png"
    assert b"<script>" not in kept.read_bytes()
