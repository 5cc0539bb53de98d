"""Mask e-mail addresses, phone numbers and keys in what users typed.

Phone numbers are found by Google's libphonenumber; keys by Yelp's detect-secrets, and by patterns for the formats that
it lacks. For e-mail addresses a wide pattern is safer than the libraries tried, which miss letters beyond ASCII and
hosts that no registry knows. Names of people, IP addresses and account numbers are not found.
"""

import re
from collections.abc import Iterator, Sequence

from docsgpt_embtune.errors import DatasetError

EMAIL, PHONE, KEY = "[email]", "[phone]", "[key]"
# Regions whose national numbers are found, as these look different everywhere; international ones (+49 …) always are.
PHONE_REGIONS = ("US", "GB", "DE", "FR", "ES", "IN")
# Only of scripts that put spaces between words: in others, the sentence around an address would count as part of it.
_LETTER = r"A-Za-z0-9_\u00c0-\u058f"
_LABEL = rf"[{_LETTER}](?:[{_LETTER}-]*[{_LETTER}])?"
# What follows an @ in the name of a software release: react@18.2.0, checkout@v4, redis@sha256:…, but not ann@163.com.
_RELEASE = (
    rf"(?:v?\d+(?:\.\d+){{0,2}}|v?\d+\.\d+\.\d+-[{_LETTER}.-]+|latest|next|main|master|sha256)(?!\.?[{_LETTER}-])"
)
# A single letter is no host: A@B multiplies matrices.
_EMAIL = re.compile(
    rf"[{_LETTER}][{_LETTER}.+%'~-]{{0,63}}@(?!{_RELEASE})(?=[{_LETTER}.-]{{2}}){_LABEL}(?:\.{_LABEL})*"
)
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_NO_PHONE = re.compile(rf"(?<![\d.])(?:{_OCTET}\.){{3}}{_OCTET}(?!\.?\d)|(?<!\d)214748364[78](?!\d)")  # IPv4, 2**31
# Keys recognised by their format alone. DocsGPT's own keys of agents are UUIDs.
_OF_A_FORM = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:(?:\s|\\[rn])*[A-Za-z0-9+/=]{24,})+(?:\s[A-Za-z0-9+/=]+\Z)?)"  # the end may be missing
    r"|(?i:(?<![0-9a-z])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9a-z]))"
    r"|(?<![A-Za-z0-9])(?:(?:hf|gsk|gh[oprsu])_[A-Za-z0-9]{20,}|(?:AIza|sk-)[A-Za-z0-9_-]{20,})"
    r"|(?<![A-Za-z0-9])gl(?:pat|dt|ft|soat|rt|cbt|imt|ptt|agent|oas)-[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]+)*"
    # AWS secret keys; paths use these characters, too, but seldom 40 of them with so many capitals.
    r"|(?<![A-Za-z0-9/+_-])(?=[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+_-]))(?=[A-Za-z/+]*\d)"
    r"(?=(?:[a-z0-9/+]*[A-Z]){5})(?=(?:[A-Z0-9/+]*[a-z]){5})[A-Za-z0-9/+]{40}",
    re.DOTALL,
)
_VALUE = r"[!#-&(-_a-~\u00a1-\u058f]"  # without the three quotes, and without scripts that put no spaces between words
_TOKEN = r"[A-Za-z0-9.~+/=_-]"
# Unquoted values, as in .env files, forms and headers; detect-secrets requires quotes. A lower-case name can also stand
# before ordinary words in prose and code (password: the first; token=None), so its value must contain a digit.
_ASSIGNED = re.compile(
    rf"((?:PASSWORD|PASSWD|SECRET|APIKEY|(?<![A-Z])(?:KEY|TOKEN|PASS|PWD))=){_VALUE}+"
    r"|((?i:password|passwd|pwd|secret|api[ _-]?key|token)(?:[ \t]*[=:][ \t]*|[ \t]+is[ \t]+['\"`]?"
    r"(?!(?i:base|sha|md|utf|v)-?\d)))"  # a description, not a value: base64-encoded, sha256
    rf"(?={_VALUE}{{0,99}}\d)(?={_VALUE}{{0,99}}[a-zA-Z]){_VALUE}{{6,}}"
    # curl -u NAME:PASSWORD; docker's -u takes two numbers.
    r"|(curl[ \t][^\n]{0,200}?(?<!\S)(?:-u|--user)[ \t=]*(?P<quote>['\"])?[^\s:'\"]{1,64}:)"
    rf"(?![$<{{])(?(quote)[^'\"\n]|{_VALUE})+"
    rf"|((?i:Bearer|Authorization:[ \t]*Basic)[ \t]+)(?:(?={_TOKEN}*\d){_TOKEN}{{8,}}|{_TOKEN}{{20,}})"
)
_WORD_LIKE = re.compile(r"[A-Za-z0-9_.+=-]{16,}")
# Letters of both cases and digits in one long run: tokens look like this, words and file names do not. The pattern is
# tried only at the start of a run, which finds the same and does not read a long run once for each character.
_RANDOM_RUN = re.compile(
    r"(?<![a-zA-Z0-9])(?=[a-zA-Z]*\d[a-zA-Z]*\d)(?=[A-Z0-9]*[a-z])(?=[a-z0-9]*[A-Z])[a-zA-Z0-9]{16,}|[0-9a-fA-F]{32,}"
)
# The patterns of detect-secrets take time quadratic in the length of a line, so a long line is scanned in pieces. These
# overlap by more than the length of an assignment, the longest thing that only those patterns find.
_PIECE, _OVERLAP = 500, 200  # characters
_LONG = 12  # characters; a secret this long does not occur inside ordinary words
_DETECTORS = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "JwtTokenDetector",
    "KeywordDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)


def mask(text: str, *, phone_regions: Sequence[str] = PHONE_REGIONS) -> str:
    """Replace e-mail addresses, phone numbers and keys by `[email]`, `[phone]` and `[key]`.

    It masks too much rather than too little: a long order number may be taken for a phone number.

    Args:
        text: Any text.
        phone_regions: ISO codes of the countries whose national numbers are looked for.

    Raises:
        DatasetError: If the libraries are not installed, or know no such country.
    """
    text = _mask_keys(text)
    text = _EMAIL.sub(EMAIL, text)
    return _mask_phones(text, known_phone_regions(phone_regions))


def known_phone_regions(regions: Sequence[str]) -> tuple[str, ...]:
    """Return ISO codes of countries as libphonenumber spells them, after checking that it knows them.

    Raises:
        DatasetError: If it does not know a country, for which it would silently find no number, or is not installed.
    """
    try:
        from phonenumbers import SUPPORTED_REGIONS
    except ImportError as error:
        raise _missing("phonenumbers") from error
    for region in regions:
        if region.upper() not in SUPPORTED_REGIONS:
            raise DatasetError(
                f"phone region {region!r} is no country with phone numbers; give ISO codes of two letters, e.g. "
                f"{', '.join(PHONE_REGIONS)}"
            )
    return tuple(region.upper() for region in regions)


def _mask_keys(text: str) -> str:
    try:
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import transient_settings
    except ImportError as error:
        raise _missing("detect-secrets") from error
    text = _OF_A_FORM.sub(KEY, text)
    text = _ASSIGNED.sub(lambda found: f"{found[found.lastindex or 0]}{KEY}", text)
    text = _WORD_LIKE.sub(lambda word: KEY if _RANDOM_RUN.search(word[0]) else word[0], text)
    with transient_settings({"plugins_used": [{"name": name} for name in _DETECTORS]}):
        secrets = {found.secret_value for piece in _pieces(text) for found in scan_line(piece)}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        # A short secret only as a whole word, or a password like "in" would be masked inside every third word.
        bounds = ("", "") if len(secret) >= _LONG else (r"(?<!\w)", r"(?!\w)")
        text = re.sub(re.escape(secret).join(bounds), KEY, text)
    return text


def _pieces(text: str) -> Iterator[str]:
    for line in text.splitlines():
        for start in range(0, max(len(line) - _OVERLAP, 1), _PIECE - _OVERLAP):
            yield line[start : start + _PIECE]


def _mask_phones(text: str, regions: Sequence[str]) -> str:
    import phonenumbers

    for region in regions:
        searched = _NO_PHONE.sub(lambda number: "x" * len(number[0]), text)
        for match in reversed(list(phonenumbers.PhoneNumberMatcher(searched, region))):
            text = text[: match.start] + PHONE + text[match.end :]
    return text


def _missing(package: str) -> DatasetError:
    return DatasetError(f"{package} is needed to mask what users typed; run: pip install 'docsgpt-embtune[gather]'")
