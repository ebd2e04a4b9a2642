"""policy.toml: the default reads as it prints, concepts lay over the default, and whatever is wrong is named."""

from pathlib import Path

import pytest

from edgesafe.benchmarks import policy
from edgesafe.errors import EdgeSafeError

MINIMAL = "[default]\nhighest_leak = 0.05\n"


def test_the_default_policy_demands_what_it_says() -> None:
    found = policy.load()
    assert found == policy.parse(policy.default_text(), "the default policy")
    assert (found.lowest_parity_db, found.most_days, found.recount) == (35.0, 90, True)
    assert found.default == policy.Limits(0.05, None, ("plain", "paraphrase", "typos", "composition"), 200, 0.5, 0.85, None, 10)


def test_every_key_stands_in_the_default_text_with_a_comment() -> None:
    lines = policy.default_text().splitlines()
    for key in (*policy.Limits.__dataclass_fields__, "lowest_parity_db", "most_days", "recount", "required", "allowed"):
        (line,) = [line for line in lines if line.lstrip("# ").startswith(f"{key} = ") and line.count("#") >= 1 + line.startswith("#")]
        assert "#" in line
    uncommented = policy.default_text().replace("# highest_leak_files", "highest_leak_files").replace("# most_points", "most_points")
    assert policy.parse(uncommented, "p").default.most_points_lost == 10


def test_a_concept_lays_over_the_default() -> None:
    text = MINIMAL + 'probes = ["plain"]\nleast_pictures = 100\n[concept."van gogh"]\nhighest_leak = 0.01\nprobes = ["plain", "typos"]\n'
    found = policy.parse(text, "p")
    assert found.limits("van gogh") == policy.Limits(0.01, probes=("plain", "typos"), least_pictures=100)
    assert found.limits("neon") is found.limits(None) is found.default
    lifted = policy.parse('[default]\nhighest_leak = 0.5\n[concept."x"]\nleast_pictures = 3\n', "p").limits("x")
    assert (lifted.highest_leak, lifted.least_pictures) == (0.5, 3)


def test_what_is_left_out_is_not_demanded() -> None:
    found = policy.parse(MINIMAL, "p")
    assert (found.lowest_parity_db, found.most_days, found.recount, found.detectors) == (None, None, False, policy.Detectors())
    assert found.default == policy.Limits(0.05)


def test_one_hash_or_several() -> None:
    found = policy.parse(f'{MINIMAL}[detectors]\nrequired = ["a"]\n[detectors.sha256]\na = "{"0" * 64}"\nb = ["{"1" * 64}"]\n', "p")
    assert found.detectors.sha256 == {"a": ("0" * 64,), "b": ("1" * 64,)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.toml: default: needs highest_leak"),
        ("highest_leak = 0.1", "p.toml: has an unknown key 'highest_leak'; known: lowest_parity_db, most_days, recount, default, concept"),
        ("[default]\nhighest_leek = 0.1", "p.toml: [default] has an unknown key 'highest_leek'"),
        (MINIMAL + "lowest_keept = 1", "p.toml: [default] has an unknown key 'lowest_keept'; known: highest_leak, highest_leak_files"),
        (MINIMAL + "[concept.neon]\nleak = 1", "p.toml: [concept.\"neon\"] has an unknown key 'leak'"),
        (MINIMAL + "[concept.neon]\nhighest_leak = 5", 'p.toml: concept."neon".highest_leak: 5: needs a number from 0 to 1'),
        (MINIMAL + "[concept]\nneon = 1", 'p.toml: concept."neon": 1 is not a table of limits'),
        ("default = 1", "p.toml: default: 1 is not a table of limits"),
        ("[default]\nhighest_leak = 5", "p.toml: default.highest_leak: 5: needs a number from 0 to 1"),
        ("[default]\nhighest_leak = nan", "p.toml: default.highest_leak: nan: needs a number from 0 to 1"),
        ("[default]\nhighest_leak = true", "p.toml: default.highest_leak: True: needs a number from 0 to 1"),
        ("[default]\nhighest_leak = '5 %'", "p.toml: default.highest_leak: '5 %': needs a number from 0 to 1"),
        (MINIMAL + "least_pictures = 20.5", "p.toml: default.least_pictures: 20.5: needs a whole number from 1"),
        (MINIMAL + "probes = 'plain'", "p.toml: default.probes: 'plain': needs a list of names"),
        ("recount = 1\n" + MINIMAL, "p.toml: recount: 1: needs true or false"),
        ("lowest_parity_db = -1\n" + MINIMAL, "p.toml: lowest_parity_db: -1: needs a number from 0 to 300"),
        (MINIMAL + "[detectors]\nwanted = []", "p.toml: [detectors] has an unknown key 'wanted'; known: required, allowed, sha256"),
        (MINIMAL + "[detectors.sha256]\na = 'AB'", "p.toml: detectors.sha256.a: 'AB' is no sha256 of 64 lower-case hex digits"),
        (MINIMAL + "[detectors]\nsha256 = 'x'", "p.toml: detectors.sha256: 'x' is not a table"),
        (MINIMAL + "[detectors]\nrequired = ['a']\nallowed = ['b']", "p.toml: detectors: a is required but not allowed"),
        ("[default", "p.toml: not valid TOML: "),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.toml").write_text(text)
    with pytest.raises(EdgeSafeError) as caught:
        policy.load(Path("p.toml"))
    assert str(caught.value).startswith(message)


def test_a_missing_file_says_how_one_is_made(tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="no such file. `edgesafe gate --print-policy > .*none.toml` writes one to start from"):
        policy.load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xff")
    with pytest.raises(EdgeSafeError, match="latin.toml: not UTF-8 text"):
        policy.load(tmp_path / "latin.toml")
