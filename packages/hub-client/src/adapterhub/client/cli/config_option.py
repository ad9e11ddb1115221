"""What is given after --config."""

from __future__ import annotations

__all__ = ["parse_config_option"]


def parse_config_option(text: str | None) -> str | dict[str, object] | None:
    """A config given on the command line: JSON if it starts with a brace, else a name."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    import json

    from adapterhub.spec.errors import InvalidConfigError

    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidConfigError(
            f"--config is not JSON: {error}.", hint="Quote it: --config '{\"using\": …}'"
        ) from error
    if not isinstance(value, dict):
        raise InvalidConfigError("--config has to be a JSON object or a name.")
    return value
