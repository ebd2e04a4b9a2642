"""`edgesafe bench --device web`: what is refused before anything is served, and what it says when it stops."""

import http.client
import json
import signal
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgesafe import artifact
from edgesafe.benchmarks.browser import address, run, work
from edgesafe.benchmarks.browser.run import WebConfig
from edgesafe.cli import main
from edgesafe.errors import EdgeSafeError

from .conftest import COLD, PHONE, TIMES, Visitor, make_png


def bench(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["bench", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lan",), "--lan is for browsers: add --device web"),
        (("--name", "phone"), "--name is for browsers"),
        (("--timeout", "5"), "--timeout is for browsers"),
        (("--timeout", "0"), "--timeout is for browsers"),
        (("--device", "web", "--runtimes", " , "), "--runtimes ' , ' names no runtime"),
        (("--device", "web", "--runtimes", "none,torch"), "unknown runtime 'none'"),
        (("--runtimes", "none"), "unknown runtime 'none'"),
        (("--device", "web", "--address", "10.0.0.1"), "only with --lan"),
        (("--device", "web", "--lan", "--address", "here"), "--address here"),
        (("--device", "web", "--name", "  "), "a name of 1 to 60 characters"),
        (("--device", "web", "--probes", "plain,noise"), "--probes noise: not with --device web"),
        (("--device", "web", "--vs"), "give one of them"),
    ],
)
def test_options_that_mean_nothing_are_refused(onnx_folder: Path, tmp_path: Path, arguments: tuple, words: str) -> None:
    code, said = bench(onnx_folder, "--out", tmp_path / "out", *arguments)
    assert (code, words in said) == (2, True), said
    assert not (tmp_path / "out").exists()


def test_what_a_browser_cannot_run_is_refused_with_the_reason(onnx_folder: Path, run_folder: Path, tmp_path: Path) -> None:
    code, said = bench(run_folder, "--device", "web")
    assert code == 2 and "is a run, and a browser runs exports. Make one: edgesafe export" in said
    for target in ("coreml", "openvino"):
        folder = tmp_path / target
        folder.mkdir()
        (folder / "some.bin").write_bytes(b"1")
        artifact.seal(folder, artifact.replace(artifact.read(onnx_folder), target={"name": target, "precision": "fp16"}))
        code, said = bench(folder, "--device", "web")
        assert code == 2 and f"its target is {target}, and a browser runs ONNX" in said
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "some.bin").write_bytes(b"1")
    artifact.seal(folder, artifact.read(onnx_folder))
    code, said = bench(folder, "--device", "web")
    assert code == 2 and "no text_encoder/model.onnx in it, which the page needs" in said


def test_an_export_that_no_browser_can_hold_is_refused(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "ROOM_MIB", 0.1)
    code, said = bench(onnx_folder, "--device", "web")
    assert code == 2 and "WebAssembly can hold about 0.1" in said


def test_an_existing_report_is_not_overwritten(onnx_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    code, said = bench(onnx_folder, "--device", "web", "--out", tmp_path / "out")
    assert code == 2 and "exists. Give another --out, or --force" in said


def test_a_port_that_is_taken_is_named_and_the_default_one_gives_way() -> None:
    with address.listen(address.LOOPBACK, None) as first, address.listen(address.LOOPBACK, None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
        with pytest.raises(EdgeSafeError, match="--port [0-9]+: cannot listen"):
            address.listen(address.LOOPBACK, second.getsockname()[1])
    with pytest.raises(EdgeSafeError, match="cannot listen at 192.0.2.7"):
        address.listen("192.0.2.7", None)


def test_the_qr_code_holds_the_address() -> None:
    """Its modules, read back from the terminal's half blocks, are those of the address's code."""
    import segno

    url = "http://192.168.1.5:8765/?t=abcdefghijklmnopqrstuv"
    halves = {"█": (0, 0), "▀": (0, 1), "▄": (1, 0), " ": (1, 1)}  # light is a full block
    lines = address.qr(url).splitlines()
    rows = [[halves[c][half] for c in line] for line in lines for half in (0, 1)]
    wanted = [list(row) for row in segno.make(url, error="l", micro=False).matrix_iter(border=2)]
    assert rows[: len(wanted)] == wanted


def test_over_the_network_a_token_is_in_the_address(onnx_folder: Path, tmp_path: Path) -> None:
    from edgesafe.benchmarks import exhibit, sources
    from edgesafe.benchmarks.browser.session import Session
    from edgesafe.benchmarks.gallery import Drawing

    found = exhibit.find(sources.describe(onnx_folder), None)
    given = work.Work("tiny", "ab" * 32, 64, 64, 1.0, Drawing(2, 4.0, "ddim"), ())
    web = WebConfig(lan=True, address="127.0.0.1")
    with run.opened(Session(tmp_path, given, ""), run.files(found, tmp_path / "cut"), web) as (url, guard):
        assert guard.token and url.endswith(f"?t={guard.token}") and len(guard.token) > 20
        phone = Visitor(int(url.split(":")[2].split("/")[0]))
        assert phone.open("/") == 403
        assert phone.open("/" + url.rpartition("/")[2]) == 303
        assert phone.ask("GET", "/bench.html")[0] == 200
        assert phone.ask("GET", "/model/manifest.json")[2] == (onnx_folder / "manifest.json").read_bytes()
        assert json.loads(phone.ask("GET", "/plan/plan.json")[2])["of"] == artifact.read(onnx_folder).files["unet/model.onnx"]["sha256"]
        assert phone.ask("GET", "/ort/ort-wasm-simd-threaded.wasm")[2][:4] == b"\0asm"
        assert phone.ask("GET", "/index.html")[0] == 404


# of 127.0.0.1, for a hundred years, and trusted by nobody
PEM = """\
-----BEGIN CERTIFICATE-----
MIIBjzCCATagAwIBAgIUcDmSO4uM7nB4CreX10gNOKrBa6YwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyMjAwNDIxMloYDzIxMjYxMDI5
MDA0MjEyWjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASb22O95LeWHDBhIiUnMJXCgm9fpCLRm8nSvg/5wiu7fL0PF2Wsq9db
0Q0fIYOPy5F0xvv3jDw0yhlzJPB0w0Hoo2QwYjAdBgNVHQ4EFgQUE3oQtIwn9oza
N5AH5r3tEkViLSIwHwYDVR0jBBgwFoAUE3oQtIwn9ozaN5AH5r3tEkViLSIwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0cAMEQC
IBIAeEd18w1x/KvN/qfRNv+87Vpg+lfjvnxS2T+oEEmzAiBavDok53g5fQizB+nf
QfvKvI1dP1ZWwy6U3sEyWa4yoQ==
-----END CERTIFICATE-----
-----BEGIN {} KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgRWywFq+FUicqDY0V
4HnFhZiBZZ33BBoY+vpErIX+cYihRANCAASb22O95LeWHDBhIiUnMJXCgm9fpCLR
m8nSvg/5wiu7fL0PF2Wsq9db0Q0fIYOPy5F0xvv3jDw0yhlzJPB0w0Ho
-----END {} KEY-----
""".format("PRIVATE", "PRIVATE")


def test_with_a_certificate_the_page_is_served_over_tls(onnx_folder: Path, tmp_path: Path) -> None:
    from edgesafe.benchmarks import exhibit, sources
    from edgesafe.benchmarks.browser.session import Session
    from edgesafe.benchmarks.gallery import Drawing

    (tmp_path / "both.pem").write_text(PEM)
    found = exhibit.find(sources.describe(onnx_folder), None)
    given = work.Work("tiny", "ab" * 32, 64, 64, 1.0, Drawing(2, 4.0, "ddim"), ())
    trusting = ssl.create_default_context(cadata=PEM.partition("-----BEGIN PRIVATE")[0])
    served = run.files(found, tmp_path / "cut")
    with run.opened(Session(tmp_path, given, ""), served, WebConfig(cert=tmp_path / "both.pem")) as (url, guard):
        assert url.startswith("https://127.0.0.1:")
        port = int(url.split(":")[2].strip("/"))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting, timeout=10)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 303 and "Secure" in answer.headers["set-cookie"]
        answer.read()
        connection.close()
        guard.check_source("POST", {"Host": f"127.0.0.1:{port}", "Origin": url.rstrip("/")})
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(EdgeSafeError, match="--cert .*none.pem: not a certificate with its key"):
        WebConfig(cert=tmp_path / "none.pem")
    with pytest.raises(EdgeSafeError, match="--key .*: only with --cert"):
        WebConfig(key=tmp_path / "both.pem")


def started(export: Path, out: Path, *more: str) -> tuple[subprocess.Popen, int]:
    """The command in a process of its own, and its port."""
    arguments = [str(export), "--device", "web", "--out", str(out), "--pictures", "2", "--probes", "plain", "--threads", "1", *more]
    # a shell's background job ignores Ctrl-C, and so would what it starts
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{heed}from edgesafe.cli import main; main()", "bench", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("Open http://127.0.0.1:"):
            return process, int(line.split(":")[2].split("/")[0])
    raise AssertionError(process.wait())


def test_ctrl_c_says_how_to_go_on(onnx_folder: Path, tmp_path: Path) -> None:
    process, port = started(onnx_folder, tmp_path / "out")
    visitor = Visitor(port)
    visitor.open()
    assert visitor.post("/api/hello", PHONE)[0] == 200
    assert visitor.post("/api/latency/unet_call", TIMES)[0] == 200
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Stopped. 1 of 11 measurements are kept; run the same command again to go on." in said
    assert not (tmp_path / "out").exists()
    (times,) = tmp_path.rglob("times.json")
    assert json.loads(times.read_text())["latency"] == {"unet_call": TIMES}


def test_without_this_computers_runtimes_the_report_holds_the_browsers_rows_alone(onnx_folder: Path, tmp_path: Path) -> None:
    with address.listen(address.LOOPBACK, None) as sock:
        port = sock.getsockname()[1]

    def measure() -> list[int]:
        visitor = Visitor(port)
        for _ in range(1200):
            with suppress(ConnectionRefusedError):
                visitor.open()
                break
            time.sleep(0.05)
        left = visitor.post("/api/hello", PHONE)[1]
        done = [visitor.post("/api/cold", COLD), *(visitor.post(f"/api/latency/{part}", TIMES) for part in left["parts"])]
        return [status for status, _ in (*done, *(visitor.post(f"/api/picture/{row['id']}", make_png()) for row in left["pictures"]))]

    few = ("--pictures", 2, "--probes", "plain", "--steps", 1, "--runtimes", "none", "--port", port)
    with ThreadPoolExecutor(1) as pool:
        browser = pool.submit(measure)
        code, said = bench(onnx_folder, "--device", "web", "--out", tmp_path / "out", *few)
        assert browser.result() == [200] * 11
    assert code == 0 and "leaks at most" in said, said
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["runtime"] for row in record["latency"] + record["cold_starts"]} == {record["device"]["name"]}
    assert record["parity"] == [] and record["memory"] == [] and record["device"]["beside"] is None


def test_a_long_silence_ends_the_command(onnx_folder: Path, tmp_path: Path) -> None:
    few = ("--pictures", 2, "--probes", "plain")
    code, said = bench(onnx_folder, "--device", "web", "--out", tmp_path / "out", "--timeout", "0.01", *few)
    assert code == 2
    assert "no browser was heard for 0.01 min (--timeout). Open the address, or raise --timeout" in said
    assert not (tmp_path / "out").exists()
