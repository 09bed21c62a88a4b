"""Text with places for the fields of an example. Files of tasks may be anybody's: a place names a
field and nothing else, no attribute, no index and no conversion."""

import re
import string
from dataclasses import dataclass

from turnout.config.errors import ConfigError
from turnout.evaluate.records import Record

_FIELD = re.compile(r"[\w-]+(\.[\w-]+)*")
_SPEC = re.compile(r"(\.[0-9]f)?")


@dataclass(frozen=True)
class Template:
    """``parts``: a text, the field behind it (empty for none), and how a number is written."""

    option: str
    parts: tuple[tuple[str, str, str], ...]

    @staticmethod
    def of(text: str, option: str) -> "Template":
        """Read a template.

        Args:
            option: of the task, for messages: ``inputs``.

        Raises:
            ConfigError: braces that do not match, or a place that is no plain field.
        """
        try:
            found = [*string.Formatter().parse(text)]
        except ValueError as error:
            fix = "write {{ and }} for braces"
            raise ConfigError(option, text, f"a template ({error})", fix) from None
        parts = []
        for literal, field, spec, conversion in found:
            if field is None:
                parts.append((literal, "", ""))
                continue
            plain = _FIELD.fullmatch(field) and _SPEC.fullmatch(spec or "") and conversion is None
            if not plain:
                allowed = "a template of plain fields, {field}, {outer.inner} or {number:.1f}"
                raise ConfigError(option, text, allowed)
            parts.append((literal, field, spec or ""))
        return Template(option, tuple(parts))

    def fill(self, record: Record) -> str:
        """The text of an example.

        Raises:
            UserError: the example lacks a field, or holds neither text nor a number in it.
        """
        return "".join(
            literal + (record.text(field, self.option, spec) if field else "")
            for literal, field, spec in self.parts
        )
