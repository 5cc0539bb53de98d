import time

import pytest

from docsgpt_embtune.errors import DatasetError
from docsgpt_embtune.sources.masking import mask


@pytest.mark.parametrize(
    ("typed", "masked"),
    [
        ("write to ann.b+c@mail.example.com, please", "write to [email], please"),
        ("jörg@bücher.example and root@host.internal.", "[email] and [email]."),
        ("call +49 30 901820 or (212) 736-5000", "call [phone] or [phone]"),
        ("sk-proj-AbCdEfGhIjKlMnOp1234567890qrstuv is refused", "[key] is refused"),
        ("AKIAIOSFODNN7EXAMPLE gives 403", "[key] gives 403"),
        ("password = 'hunter2secret' in .env", "password = '[key]' in .env"),
        ("is 9f86d081884c7d659a2feaa0c55ad015 right?", "is [key] right?"),
        ("postgres://bob:pa55word@db/x does not connect", "postgres://bob:[key]@db/x does not connect"),
        ("two lines\nAKIAIOSFODNN7EXAMPLE", "two lines\n[key]"),
        ("agent 7c9e6679-7425-40de-944b-e07fc1f90ae7 gives 401", "agent [key] gives 401"),
        ("hf_abcdefghijklmnopqrstuvwxyzabcdefgh is refused", "[key] is refused"),
        ("is wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY wrong?", "is [key] wrong?"),
        ("glpat-abcdefghij-234567890, then", "[key], then"),
        ("AIzat1_QHlLj9kwZj-PTg27XTYXxTNX8x_6yNL6?", "[key]?"),
        ("DB_PASSWORD=Sup3rS3cret! fails", "DB_PASSWORD=[key] fails"),
        ("PGPASSWORD=changeme psql", "PGPASSWORD=[key] psql"),
        ("OPENAI_API_KEY=sk-abc123 gives 401", "OPENAI_API_KEY=[key] gives 401"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = [key]"),
        ("password: hunter2 in config.yaml", "password: [key] in config.yaml"),
        ("为什么发送到ann@example.com的邮件没有收到？", "为什么发送到[email]的邮件没有收到？"),
        ("我的密钥AbCdEf1234567890GhIjKl不工作", "我的密钥[key]不工作"),
        ("user=ann@163.com&next=1", "user=[email]&next=1"),
        ("root@192.168.1.5 refuses", "[email] refuses"),
        ("044.668.18.00 or 06.12.34.56.78", "[phone] or [phone]"),
        ('secret="in" stands inside the main index', 'secret="[key]" stands inside the main index'),
        ("curl -u admin:hunter2 http://host/", "curl -u admin:[key] http://host/"),
        ("curl -s --user 'admin:pass word' http://host/", "curl -s --user 'admin:[key]' http://host/"),
        ("my password is hunter2, why?", "my password is [key] why?"),
        ("the API key is 'abc123x' there", "the API key is '[key]' there"),
        ('curl -H "Authorization: Bearer mytoken123"', 'curl -H "Authorization: Bearer [key]"'),
    ],
)
def test_what_identifies_or_opens_is_masked(typed, masked):
    assert mask(typed) == masked


LETTERS = "QwErTyUiOpAsDfGhJkLzXcVbNm" * 4  # without digits, so that no other pattern finds what is made of them


@pytest.mark.parametrize(
    "key",
    [
        f"AKC{LETTERS[:14]}",
        f"AccountKey={LETTERS[:86]}==",
        f"M{LETTERS[:23]}.{LETTERS[:6]}.{LETTERS[:27]}",
        f"ghp_{LETTERS[:36]}",
        f"gsk_{LETTERS[:24]}",
        f"sk-{LETTERS[:24]}",
        f"glrt-{LETTERS[:22]}",
        f"{LETTERS[:32].lower()}-us12",
        f"pypi-AgEIcHlwaS5vcmc{LETTERS[:80]}",
        f"SG.{LETTERS[:22]}.{LETTERS[:43]}",
        "xoxb-1-qwerty",
        f"sq0csp-{LETTERS[:43]}",
        f"sk_live_{LETTERS[:24]}",
        f"123456789:{LETTERS[:35]}",
        f"AC{LETTERS[:32].lower()}",
        "7C9E6679-7425-40DE-944B-E07FC1F90AE7",
    ],
)
def test_key_of_each_kind_is_masked(key):
    assert mask(key) == "[key]"


@pytest.mark.parametrize(
    ("before", "value"),
    [
        ("//registry.npmjs.org/:_authToken=", f"npm_{LETTERS[:36]}"),
        ("ibm_cloud_iam_key = '", LETTERS[:44]),
        ("Authorization: Basic ", "Ym9iOmh1bnRlcjI="),
        ("Bearer ", LETTERS[:24]),
        ("DB_PASSWD=", "hunter"),
        ("CLIENT_SECRET=", "hunter"),
        ("API_TOKEN=", "hunter"),
        ("DB_PASS=", "hunter"),
        ("passwd: ", "hunter2x"),
        ("pwd=", "hunter2x"),
        ("token: ", "hunter2x"),
    ],
)
def test_value_of_each_name_is_masked(before, value):
    assert mask(f"{before}{value}") == f"{before}[key]"


@pytest.mark.parametrize("number", ["(212) 736-5000", "020 7946 0958", "030 901820", "912 345 678", "022-27782183"])
def test_national_numbers_of_each_country_are_masked(number):
    assert mask(f"call {number} now") == "call [phone] now"


@pytest.mark.parametrize("kind", ["PRIVATE KEY", "RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK"])
def test_nothing_of_a_private_key_is_left(kind):
    body = "MIIEpAIBAAKCAQEA/bcdefgh/0wTR+zf\n" * 9 + "e0A9TDyN=="
    whole = f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----"
    assert mask(f"my key\n{whole}\nis refused") == "my key\n[key]\nis refused"
    assert mask(whole.replace("\n", "\\n")) == "[key]"
    assert mask(f"my key\n{whole[:200]}") == "my key\n[key]"


@pytest.mark.parametrize(
    "typed",
    [
        "how do I set the password in the settings?",
        "what does password: mean in config.yaml?",
        "why does LlamaIndexEmbeddingQAFinetuneDataset fail in 0.19.0?",
        "DocsGPT-0.19.0-docker-compose-Ollama.yaml cannot be read",
        "http://localhost:7091/api/search returns 500",
        "https://github.com/arc53/DocsGPT/tree/main/application/parser",
        "请问@app.route装饰器怎么用？",
        "安装react@19.0.0-rc.1后为什么页面空白",
        "npm install react@18.2.0, uvx docsgpt@latest, actions/checkout@v4",
        "what does A@B mean in numpy?",
        "192.168.1.100:5432 refuses, 127.0.0.1 does not",
        "why is INT_MAX 2147483647?",
        "what does f(token=None, api_key=settings.API_KEY) do?",
        "Authorization: Bearer authentication fails",
        "why is -----BEGIN PRIVATE KEY----- no beginning?",
        "is the password is base64-encoded, or the token is sha256 of it?",
        "what does it mean that the password is wrong and the secret is None?",
        "curl -u $NAME:$PASSWORD http://host/",
        "docker run -u 1000:1000 python:3.12 curl --user-agent me http://host:80/",
        "Wie lange werden Protokolle aufbewahrt?",
    ],
)
def test_questions_stay_what_they_are(typed):
    assert mask(typed) == typed


@pytest.mark.parametrize("text", ["它解释了如何配置" * 5_000, "Passkeys" * 5_000 + ": "], ids=["chinese", "letters"])
def test_a_long_text_without_spaces_is_masked_at_once(text):
    started = time.process_time()
    assert mask(f"{text}ann@example.com") == f"{text}[email]"
    assert time.process_time() - started < 3


def test_a_long_line_is_scanned_in_pieces(monkeypatch):
    scan = pytest.importorskip("detect_secrets.core.scan")
    scanned = []
    monkeypatch.setattr(scan, "scan_line", lambda line: scanned.append(len(line)) or ())
    mask("PASSWORD" * 5_000)
    assert max(scanned) <= 500
    assert sum(scanned) < 2 * 40_000
    scanned.clear()
    mask(f"{'log ' * 125}\n\n{'log ' * 126}")
    assert scanned == [500, 0, 500, 204]


@pytest.mark.parametrize("before", [*range(280, 310, 3), *range(480, 510, 3), 5_000])
def test_a_key_is_found_wherever_a_long_line_is_parted(before):
    words = "word " * (before // 5) + "x" * (before % 5)
    assert mask(f'{words} secret="zw" {words}') == f'{words} secret="[key]" {words}'


def test_countries_are_known_in_either_case_or_refused():
    assert mask("call 030 901820", phone_regions=["de"]) == "call [phone]"
    for region in ("UK", "XX", ""):
        with pytest.raises(DatasetError, match=f"phone region '{region}' is no country with phone numbers"):
            mask("call 030 901820", phone_regions=["DE", region])
