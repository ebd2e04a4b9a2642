"""The server: what it serves and to whom, what it refuses with a message, and that the session goes on after that."""

import json
import socket
from collections.abc import Callable

import pytest

from edgesafe.benchmarks.browser.guard import SILENT_S, VISITORS
from edgesafe.benchmarks.browser.records import JSON_BYTES

from .conftest import COLD, PHONE, SIDE, TIMES, Stand, Visitor, make_png

Start = Callable[..., Stand]


@pytest.fixture
def inside(stand: Start) -> tuple[Stand, Visitor]:
    """A browser that was let in and has said what it is."""
    made = stand()
    visitor = made.visitor()
    assert visitor.open() == 303
    assert visitor.post("/api/hello", PHONE)[0] == 200
    return made, visitor


def ids(visitor: Visitor) -> list[str]:
    return [row["id"] for row in visitor.post("/api/hello", PHONE)[1]["pictures"]]


def do_all(visitor: Visitor) -> list[int]:
    """Everything that is left, in order; how much is left after each."""
    left = visitor.post("/api/hello", PHONE)[1]
    answers = [visitor.post("/api/cold", COLD)] if left["cold"] else []
    answers += [visitor.post(f"/api/latency/{part}", TIMES) for part in left["parts"]]
    answers += [visitor.post(f"/api/picture/{row['id']}", make_png()) for row in left["pictures"]]
    assert {status for status, _ in answers} <= {200}
    return [said["left"] for _, said in answers]


def test_a_browser_does_all_that_is_asked(inside: tuple[Stand, Visitor]) -> None:
    made, visitor = inside
    assert json.loads(visitor.ask("GET", "/api/work")[2]) == made.session.work.offer()
    assert not made.session.finished.is_set()
    assert do_all(visitor) == [6, 5, 4, 3, 2, 1, 0]
    assert made.session.finished.is_set()
    assert made.session.times() == {"cold": COLD, "latency": dict.fromkeys(("picture", "unet_call", "text_encoder", "vae_decoder"), TIMES)}
    assert made.session.pictures(made.session.work.questions).shape == (2, SIDE, SIDE, 3)


def test_every_answer_isolates_the_page(inside: tuple[Stand, Visitor]) -> None:
    _, visitor = inside
    for path in ("/bench.html", "/model/manifest.json", "/assets/bench-1.js", "/api/work", "/no/such/file"):
        _, headers, _ = visitor.ask("GET", path)
        assert headers["cross-origin-opener-policy"] == "same-origin", path
        assert headers["cross-origin-embedder-policy"] == "require-corp", path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        assert headers["x-content-type-options"] == "nosniff", path
        assert "default-src 'none'" in headers["content-security-policy"], path


@pytest.mark.parametrize(
    "path",
    [
        "/model/secret.txt",
        "/secret.txt",
        "/model/../export/secret.txt",
        "/model/%2e%2e/export/secret.txt",
        "/model/..%2f..%2fexport%2fsecret.txt",
        "/model//manifest.json",
        "/model/manifest.json/",
        "//etc/passwd",
        "/model/%00manifest.json",
        "/..%5cexport%5csecret.txt",
        "/model",
        "/index.html",
        "/sw.js",
    ],
)
def test_nothing_but_the_listed_files_is_served(inside: tuple[Stand, Visitor], path: str) -> None:
    _, visitor = inside
    status, _, body = visitor.ask("GET", path)
    assert status == 404
    assert b"not in the manifest" not in body and b"root:" not in body
    assert visitor.ask("GET", "/model/manifest.json")[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""])
def test_another_name_for_the_server_is_refused(stand: Start, host: str) -> None:
    made = stand()
    status, headers, body = made.visitor().ask("GET", "/", Host=host.format(port=made.port))
    assert status in (400, 421)
    assert "set-cookie" not in headers
    if status == 421:
        assert "Open the address that the command printed" in json.loads(body)["message"]


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_only_the_servers_own_page_may_post(inside: tuple[Stand, Visitor], origin: str | None) -> None:
    made, visitor = inside
    given = origin.format(port=made.port) if origin else None
    status, said = visitor.post("/api/cold", COLD, Origin=given)
    assert status == 403 and "message" in said
    assert made.session.times()["cold"] is None
    assert visitor.post("/api/cold", COLD)[0] == 200


def test_pages_of_other_sites_get_nothing_even_with_the_cookie(inside: tuple[Stand, Visitor]) -> None:
    _, visitor = inside
    assert visitor.ask("GET", "/model/manifest.json", Origin="http://evil.example")[0] == 403
    assert visitor.ask("GET", "/model/manifest.json", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403
    assert visitor.ask("GET", "/model/manifest.json", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


def test_a_second_browser_gets_a_message_and_the_first_goes_on(inside: tuple[Stand, Visitor]) -> None:
    made, visitor = inside
    other = made.visitor()
    status, headers, body = other.ask("GET", "/", Accept="text/html")
    assert status == 409 and "set-cookie" not in headers
    assert b"Another browser is being measured already" in body
    assert other.ask("GET", "/model/manifest.json")[0] == 409
    assert other.post("/api/hello", PHONE)[0] == 409
    assert do_all(visitor)[-1] == 0


def test_on_this_computer_a_silent_browser_gives_its_place_away(stand: Start) -> None:
    now = [100.0]
    made = stand(clock=lambda: now[0])
    first, second = made.visitor(), made.visitor()
    assert (first.open(), first.post("/api/hello", PHONE)[0]) == (303, 200)
    status, headers, body = second.ask("GET", "/", Accept="text/html")
    assert status == 409 and b"this one opens by itself within 70 s" in body and headers["refresh"] == "10"
    now[0] += SILENT_S + 1
    assert (second.open(), second.ask("GET", "/api/work")[0]) == (303, 200)
    assert first.post("/api/hello", PHONE)[0] == 200, "nobody has taken the place yet"
    assert second.post("/api/hello", PHONE)[0] == 409
    now[0] += SILENT_S + 1
    assert second.post("/api/hello", PHONE)[0] == 200
    status, said = first.post("/api/hello", PHONE)
    assert status == 409 and "Another browser" in said["message"]


def test_a_token_works_once(stand: Start) -> None:
    made = stand(token="right")
    stranger, phone, late = made.visitor(), made.visitor(), made.visitor()
    for path in ("/", "/bench.html", "/?t=wrong", "/?t="):
        assert stranger.open(path) == 403
    assert stranger.ask("GET", "/model/manifest.json")[0] == 401
    assert phone.open("/?t=right") == 303
    assert phone.cookie
    assert phone.ask("GET", "/bench.html")[0] == 200
    assert phone.ask("GET", "/model/manifest.json")[0] == 200, "it is started"
    status, headers, body = late.ask("GET", "/?t=right", Accept="text/html")
    assert status == 409 and b"The address works once" in body and "set-cookie" not in headers and "refresh" not in headers
    assert phone.open("/?t=right") == 303, "who is in may open the address again"
    assert do_all(phone)[-1] == 0


def test_what_opens_the_address_without_running_it_does_not_use_it_up(stand: Start) -> None:
    """As a scanner of QR codes does for its preview."""
    made = stand(token="right")
    scanner, phone = made.visitor(), made.visitor()
    assert scanner.ask("HEAD", "/?t=right")[0] == 403
    for _ in range(2 * VISITORS):
        assert made.visitor().open("/?t=right") == 303
    assert scanner.open("/?t=right") == 303
    assert scanner.ask("GET", "/bench.html")[0] == scanner.ask("GET", "/assets/bench-1.js")[0] == 200
    assert phone.open("/?t=right") == 303 and phone.cookie != scanner.cookie
    assert phone.open("/bench.html") == phone.ask("GET", "/api/work")[0] == 200, "a reload before it is started"
    assert phone.post("/api/hello", PHONE)[0] == 200
    for method, path in (("GET", "/model/manifest.json"), ("GET", "/api/work"), ("GET", "/assets/bench-1.js"), ("GET", "/?t=right")):
        assert scanner.ask(method, path)[0] == 409, path
    assert scanner.post("/api/hello", PHONE)[0] == 409
    assert do_all(phone)[-1] == 0


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stand: Start) -> None:
    made = stand()
    _, headers, _ = made.visitor().ask("GET", "/")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=Lax" in headers["set-cookie"]
    assert f"edgesafe-{made.port}=" in headers["set-cookie"]


GARBAGE = {
    "no JSON": (b"{", 400),
    "no text": (b"\xff\xfe", 400),
    "nested beyond reason": (b"[" * 60_000, 400),
    "not a number": (b'{"load_ms": NaN, "first_picture_ms": 1, "download_ms": null, "download_bytes": null, "held_mib": null}', 400),
    "infinite": (b'{"load_ms": 1e999, "first_picture_ms": 1, "download_ms": null, "download_bytes": null, "held_mib": null}', 422),
    "a list": (b"[]", 422),
    "too long": (b" " * (JSON_BYTES + 1), 413),
    "far too long": (b" " * 2_000_000, 413),
    "negative": (json.dumps(COLD | {"load_ms": -1}).encode(), 422),
    "absurd": (json.dumps(COLD | {"load_ms": 1e12}).encode(), 422),
    "words": (json.dumps(COLD | {"load_ms": "fast"}).encode(), 422),
    "unknown key": (json.dumps(COLD | {"admin": True}).encode(), 422),
    "missing key": (json.dumps({"load_ms": 1}).encode(), 422),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_gets_a_message_and_the_session_goes_on(inside: tuple[Stand, Visitor], name: str) -> None:
    made, visitor = inside
    body, expected = GARBAGE[name]
    status, said = visitor.post("/api/cold", body)
    assert status == expected and len(said["message"]) < 400
    assert made.session.times()["cold"] is None
    assert do_all(visitor)[-1] == 0


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (TIMES | {"samples_ms": []}, 422),
        (TIMES | {"samples_ms": [1.0] * 31}, 422),
        (TIMES | {"samples_ms": [1.0, None]}, 422),
        (TIMES | {"samples_ms": [True]}, 422),
        (TIMES | {"samples_ms": [4e6]}, 422),
        (TIMES | {"warm_up": 1.5}, 422),
        (TIMES | {"reason": "both"}, 422),
        ({"reason": ""}, 422),
        ({"reason": "out of memory"}, 200),
    ],
)
def test_latencies_have_limits(inside: tuple[Stand, Visitor], record: dict, status: int) -> None:
    _, visitor = inside
    assert visitor.post("/api/latency/unet_call", record)[0] == status
    assert visitor.post("/api/latency/picture", TIMES | {"samples_ms": [1.0] * 11})[0] == 422, "ten pictures were asked for"
    assert visitor.post("/api/latency/coffee", TIMES)[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"GIF89a", 415, "not a PNG"),
        (make_png()[:60], 422, "not a readable PNG"),
        (make_png(32), 422, "32 x 32 px, and this export draws 64 x 64 px"),
        (make_png()[:16] + b"\xff" * 8 + make_png()[24:], 422, "4294967295 x 4294967295 px"),
        (make_png(mode="L"), 422, "its pixels are L"),
        (make_png() + bytes(90_000), 413, ""),
        (bytes(3_000_000), 413, ""),
        (b"", 415, "not a PNG"),
    ],
    ids=["no PNG", "half a PNG", "wrong size", "a bomb", "grey", "too long", "far too long", "empty"],
)
def test_pictures_are_of_the_exports_size(inside: tuple[Stand, Visitor], body: bytes, status: int, words: str) -> None:
    _, visitor = inside
    name = ids(visitor)[0]
    got, said = visitor.post(f"/api/picture/{name}", body)
    assert got == status and words in said["message"]
    assert name in ids(visitor)
    assert visitor.post(f"/api/picture/{name}", make_png())[0] == 200
    assert name not in ids(visitor)


@pytest.mark.parametrize("name", ["0" * 24, "../../device", "%2e%2e%2fdevice", "x" * 3000])
def test_pictures_that_nobody_asked_for_are_refused(inside: tuple[Stand, Visitor], name: str) -> None:
    made, visitor = inside
    assert visitor.post(f"/api/picture/{name}", make_png())[0] in (404, 405)
    assert not list(made.root.rglob("*.png"))


def test_wrong_methods_and_half_requests_do_no_harm(inside: tuple[Stand, Visitor]) -> None:
    made, visitor = inside
    assert visitor.ask("DELETE", "/bench.html", Origin=f"http://127.0.0.1:{made.port}")[0] == 405
    assert visitor.post("/api/nothing", {})[0] == 405
    with socket.create_connection(("127.0.0.1", made.port), timeout=5) as rude:
        rude.sendall(b"POST /api/cold HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
    with socket.create_connection(("127.0.0.1", made.port), timeout=5) as rude:
        rude.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert b"400" in rude.recv(64)
    assert do_all(visitor)[-1] == 0


def test_what_a_browser_says_of_itself_cannot_move_the_cursor(inside: tuple[Stand, Visitor]) -> None:
    made, visitor = inside
    assert visitor.post("/api/hello", PHONE | {"model": "Pixel\x1b[2J\u202e 8"})[0] == 200
    assert visitor.post("/api/fault", {"message": "out of\x1b[31m memory"})[0] == 200
    assert made.session.device and made.session.device["model"] == "Pixel [2J  8"
    assert made.session.faults == ["out of [31m memory"]


def test_a_page_that_never_said_what_it_is_cannot_post(stand: Start) -> None:
    visitor = stand().visitor()
    visitor.open()
    status, said = visitor.post("/api/cold", COLD)
    assert status == 409 and "Reload it" in said["message"]
