"""The host's `.env`: switch settings in it, such as the model, and switch them back."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from dotenv.main import resolve_variables
from dotenv.parser import parse_stream

from docsgpt_embtune.deployment.file_lock import lock
from docsgpt_embtune.destinations import fault_of_destination
from docsgpt_embtune.errors import DeploymentError
from docsgpt_embtune.files import PRIVATE, file_written_whole, keep_owner, write_text_atomically
from docsgpt_embtune.urls import is_url, shown


class EnvironmentFile:
    """A `.env` file, read with python-dotenv as the host reads it; lines that are not switched stay byte for byte.

    The lines that a switch replaced are recorded beside the file, in `.env.embtune.json`, until it is taken back. Where
    a setting names what the vectors are in, the values before earlier switches stay on record until `forget`. If `.env`
    is a symbolic link, the record lies beside its target, so that it is found through either path.

    Args:
        path: The file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def _kept_path(self) -> Path:
        return _record_beside(self.path.resolve())

    @property
    def _kept_by_link(self) -> Path:
        """Where an earlier version of this package put the record."""
        return _record_beside(self.path)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other switches of the deployment off, from the first look at its stores to the last rename.

        The stores' own locks cover one step of one store, and servers of Qdrant and Milvus have none.

        Raises:
            DeploymentError: If another process is within this context.
        """
        path = self.path.resolve()
        path = path.with_name(f"{path.name}.embtune.lock")
        try:
            file = path.open("ab")
        except OSError:  # the switch fails, too, and says why
            yield
            return
        with file:
            try:
                lock(file)
            except BlockingIOError as error:
                raise DeploymentError(
                    f"{self.path}: another embtune reembed or forget is at work on this deployment; wait for it, or "
                    "end it"
                ) from error
            except OSError:
                pass  # a file system without locks
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def get(self, name: str) -> str | None:
        """Return a setting's value as the host reads it; ${NAME} falls back to this process's environment."""
        return _value(self._text(), name)

    def get_replaced(self, name: str, default: str) -> str | None:
        """Return a setting's value before the last switch: `default` if it was not set, None if it was not switched."""
        kept = self._kept()
        if kept is None or name not in kept["replaced"]:
            return None
        value = self._value_with(name, kept["replaced"][name])
        return default if value is None else value

    def get_earlier(self, name: str, default: str) -> list[str]:
        """Return the values that earlier switches replaced and `take_back` would not restore, the oldest first.

        Args:
            name: A setting that was among `places` of `switched`.
            default: What stands for a value that was not set.
        """
        return [default if value is None else value for value in self._record().get("earlier", {}).get(name, ())]

    def get_switched(self, name: str) -> str | None:
        """Return the value that the last switch gave a setting; None without a record, or if the value was changed."""
        kept = self._kept()
        value = _value(kept["written"].get(name, ""), name) if kept else None
        return value if self.get(name) == value else None

    def require_replaceable(self, settings: Mapping[str, str]) -> None:
        """Check that the file can be replaced by a rename, before hours are spent on re-embedding.

        Args:
            settings: The settings to be written.

        Raises:
            DeploymentError: If the folder is missing or cannot be written to, the file is itself a mount point, as a
                single file mounted into a container is, or a setting cannot be written in it.
        """
        for name, value in settings.items():
            setting_line(name, value)
        if _is_mount_point(self.path.resolve()):
            raise DeploymentError(
                f"{self.path}: is a mount point, which cannot be replaced by a rename; run on the machine that it is "
                "mounted from, mount its folder instead, or leave out --env and set EMBEDDINGS_NAME by hand"
            )
        self._text()
        if fault := fault_of_destination(self.path.resolve()):
            raise DeploymentError(
                f"{self.path}: {fault}, so that it cannot be replaced by a rename; run as a user who may do so, or "
                "leave out --env and set EMBEDDINGS_NAME by hand"
            )

    @contextmanager
    def switched(self, settings: Mapping[str, str], places: Collection[str] = ()) -> Iterator[None]:
        """Put settings in force by a rename if the block succeeds, and record the lines that they replace.

        Everything is written to disk before the block, so that a full disk or a folder without write permission shows
        while nothing has changed yet.

        Args:
            settings: Name -> new value of each setting.
            places: The settings that name what the vectors are in, as a collection: their values stay on record after
                the next switch, so that `forget` finds what they name.

        Raises:
            DeploymentError: If the file cannot be read, its folder is missing, or the host would not read the settings
                as they were written.
            OSError: If the file cannot be written.
        """
        before = self._text()
        text, replaced, written = self._with(settings, before)
        if text == before:
            yield
            return
        record = self._record_of(before, text, replaced, written, places)
        mode = self._mode()
        # The inner file is renamed first, so that the replaced lines are on record before they are gone.
        with file_written_whole(self.path, mode=mode) as new, file_written_whole(self._kept_path, mode=mode) as kept:
            new.write_bytes(text.encode())
            kept.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            keep_owner(kept, self.path)  # who may read the one can take it back with the other
            yield

    def _with(self, settings: Mapping[str, str], text: str) -> tuple[str, dict[str, list[str]], dict[str, str]]:
        """Write settings into the file's text.

        Returns:
            The text; name -> the lines that were replaced; name -> the line that was written.

        Raises:
            DeploymentError: If the host would not read the settings as they were written.
        """
        replaced: dict[str, list[str]] = {}
        written: dict[str, str] = {}
        for name, value in settings.items():
            found = _effective_setting(text, name)
            replaced[name] = [found.line] if found else []
            written[name] = setting_line(found.name if found else name, value)
            text = _replaced(text, name, written[name])
        if unread := [name for name, value in settings.items() if _value(text, name) != value]:
            raise DeploymentError(
                f"{self.path}: DocsGPT would not read {' and '.join(unread)} where it is to stand, since a quote "
                "before it is left open; close that"
            )
        return text, replaced, written

    def _record_of(
        self,
        before: str,
        after: str,
        replaced: dict[str, list[str]],
        written: dict[str, str],
        places: Collection[str],
    ) -> dict[str, Any]:
        """Return what is to be on record of a switch from one text of the file to another."""
        last = self._kept()
        for name in written:  # a line that the previous switch wrote: a rollback restores what that switch replaced
            if last and replaced[name] == [written[name]] == [last["written"].get(name)]:
                replaced[name] = last["replaced"][name]
        record: dict[str, Any] = {
            "replaced": replaced,
            "written": written,
            "open_end": before != _ended(before),
            "last": _digest_of_last_line(after),
            "earlier": self._earlier(replaced, places),
        }
        if any(record["earlier"].values()):  # what these name is in the stores of the earlier switches
            record["stores"] = self.switched_stores()
        return record

    def keep_stores(self, names: Collection[str]) -> None:
        """Record which stores were switched together with the file, by their names in VECTOR_STORE.

        Raises:
            OSError: If the record cannot be written.
        """
        if kept := self._kept():
            kept["stores"] = sorted({*names, *kept.get("stores", ())})
            write_text_atomically(self._kept_path, json.dumps(kept, indent=1) + "\n", mode=self._mode())

    def switched_stores(self) -> list[str]:
        """Return the stores on record."""
        return list(self._record().get("stores", ()))

    def _earlier(self, replaced: Mapping[str, list[str]], places: Collection[str]) -> dict[str, list[str | None]]:
        """Return the values of places that only earlier switches replaced, None where one was not set."""
        record = self._record()
        earlier: dict[str, list[str | None]] = {name: [] for name in places} | record.get("earlier", {})
        for name, values in earlier.items():
            lines = record.get("replaced", {}).get(name)
            if lines is None or lines == replaced.get(name):  # not switched before, or this switch replaces it as well
                continue
            value = self._value_with(name, lines)
            if value not in values:
                values.append(value)
        return earlier

    def before_switch(self) -> dict[str, str | None] | None:
        """Return the values that `take_back` would restore, None for a name that it would unset; None without a record.

        Raises:
            DeploymentError: As `take_back`.
        """
        text = self._text_before_switch()
        return None if text is None else {name: _value(text, name) for name in (self._kept() or {})["written"]}

    def take_back(self) -> bool:
        """Put back the lines that the last switch replaced; safe to repeat until `forget`.

        Returns:
            False if there was nothing to take back.

        Raises:
            DeploymentError: If a line that the switch wrote has been changed since, or the file cannot be written.
        """
        text = self._text_before_switch()
        if text is None:
            return False
        if text != self._text():
            try:
                write_text_atomically(self.path, text, mode=self._mode())
            except OSError as error:
                raise DeploymentError(f"{self.path}: cannot be written ({error.strerror})") from error
        return True

    def _text_before_switch(self) -> str | None:
        kept = self._kept()
        if kept is None:
            return None
        text = switched = self._text()
        # The final newline that the switch added is removed only if nothing was appended since.
        open_end = kept["open_end"] and _digest_of_last_line(switched) == kept.get("last")
        for name, written in kept["written"].items():
            counting = _effective_setting(text, name)
            line = counting.line.strip() if counting else ""
            if line == "".join(kept["replaced"][name][-1:]).strip():
                continue  # the old line is in place: a switch or a rollback was interrupted
            if line != written.strip():
                raise DeploymentError(
                    f"{self.path}: {name} was changed since it was switched; set it by hand to what it was "
                    f"({_in_words(kept['replaced'][name])}; to the letter in {self._kept_path.name}), and delete that "
                    "file"
                )
            text = _replaced(text, name, "".join(kept["replaced"][name]))
        return text.removesuffix("\n") if open_end and text != switched else text

    def kept(self) -> str:
        """Return the name of the record; empty if there is none."""
        return self._kept_path.name if self._record() else ""

    def forget_switch(self) -> None:
        """Delete the record of the lines that `take_back` put back; what earlier switches replaced stays on record."""
        record = self._record()
        if not any(record.get("earlier", {}).values()):
            self.forget()
            return
        kept = {"replaced": {}, "written": {}, "open_end": False} | {
            name: record[name] for name in ("earlier", "stores")
        }
        write_text_atomically(self._kept_path, json.dumps(kept, indent=1) + "\n", mode=self._mode())
        if self._kept_by_link != self._kept_path:
            self._kept_by_link.unlink(missing_ok=True)

    def forget(self) -> None:
        """Delete the record, after which nothing can be taken back."""
        for path in (self._kept_path, self._kept_by_link):
            path.unlink(missing_ok=True)

    def _kept(self) -> dict[str, Any] | None:
        """Return the record of the last switch; None if there was none, or it was taken back."""
        record = self._record()
        return record if record.get("written") else None

    def _record(self) -> dict[str, Any]:
        path = next((path for path in (self._kept_path, self._kept_by_link) if path.is_file()), None)
        if path is None:
            return {}
        try:
            kept = dict(json.loads(path.read_text(encoding="utf-8")))
            if not {"replaced", "written", "open_end"} <= kept.keys():
                raise ValueError("a part of it is missing")
        except PermissionError as error:
            raise DeploymentError(f"{path}: cannot be read ({error.strerror}); run as a user who may do so") from error
        except (OSError, ValueError, TypeError) as error:
            raise DeploymentError(
                f"{path}: damaged ({' '.join(str(error).split())}), so that what was switched cannot be "
                f"taken back by itself; delete it, and see that {self.path.name} says what it is to say"
            ) from error
        return kept

    def _value_with(self, name: str, lines: list[str]) -> str | None:
        """Return the value that a setting has with these lines in the place of its own."""
        return _value(_replaced(self._text(), name, "".join(lines)), name)

    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            if self.path.parent.is_dir():
                return ""
            raise DeploymentError(
                f"{self.path.parent}: no such folder; give --env the path of DocsGPT's .env"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DeploymentError(f"{self.path}: cannot be read ({error})") from error

    def _mode(self) -> int:
        return self.path.stat().st_mode & 0o777 if self.path.exists() else PRIVATE  # it may hold keys


def _record_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.embtune.json")


def _is_mount_point(path: Path) -> bool:
    if os.path.ismount(path):
        return True
    try:  # a file mounted from the same disk shows only in this list
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    escaped = re.sub(r"[ \t\n\\]", lambda character: f"\\{ord(character[0]):03o}", str(path))
    return any(mount.split(" ")[4] == escaped for mount in mounts)


def setting_line(name: str, value: str) -> str:
    """Return the line that sets a name to a value for python-dotenv, quoted if the value has special characters.

    Raises:
        DeploymentError: If the value cannot be quoted; python-dotenv expands ${NAME} within any quotes.
    """
    if re.fullmatch(r"[\w./:@%+,=~-]*", value):
        return f"{name}={value}\n"
    if re.search(r"['\\\n]|\$\{", value):
        remedy = "write such a sign of a URL as %27, %5C or %24" if is_url(value) else "put the model elsewhere"
        raise DeploymentError(f"{shown(value)!r}: ', \\ and ${{ cannot stand in {name}; {remedy}")
    return f"{name}='{value}'\n"


def _in_words(lines: list[str]) -> str:
    return " ".join(f"{line.name}={shown(line.value or '')}" for line in _settings("".join(lines))) or "not set"


def _digest_of_last_line(text: str) -> str:
    """Return a digest that identifies the last line; the line itself may hold a key and is kept out of the record."""
    return hashlib.sha256("".join(text.splitlines(keepends=True)[-1:]).encode()).hexdigest()


class _Setting(NamedTuple):
    """The assignment of one name: a line, or several if the quoted value spans them."""

    name: str
    value: str | None  # before ${NAME} is expanded
    line: str
    start: int  # offset of the line in the file's text


def _settings(text: str) -> list[_Setting]:
    bindings = list(parse_stream(StringIO(text)))
    settings = []
    start = len(text) - sum(len(binding.original.string) for binding in bindings)  # skips a byte order mark
    for binding in bindings:
        line = binding.original.string.lstrip()  # python-dotenv counts preceding empty lines as part of it
        start += len(binding.original.string)
        if binding.key is not None:
            settings.append(_Setting(binding.key, binding.value, line, start - len(line)))
    return settings


def _effective_setting(text: str, name: str) -> _Setting | None:
    """Return the setting that takes effect in the host, which ignores the case of names.

    For each spelling the last line counts. Of several spellings, the one whose first line comes last takes effect.
    """
    spellings = {setting.name: setting for setting in _settings(text) if setting.name.lower() == name.lower()}
    return list(spellings.values())[-1] if spellings else None


def _value(text: str, name: str) -> str | None:
    found = _effective_setting(text, name)
    if found is None:
        return None
    return resolve_variables([(setting.name, setting.value) for setting in _settings(text)], override=True)[found.name]


def _replaced(text: str, name: str, new: str) -> str:
    """Replace the effective setting of a name by new lines, or append them if it is not set."""
    found = _effective_setting(text, name)
    if found is None:
        return _ended(text) + new if new else text
    after = text[found.start + len(found.line) :]
    return text[: found.start] + (_ended(new) if after else new) + after


def _ended(text: str) -> str:
    return text if text[-1:] in "\r\n" else f"{text}\n"
