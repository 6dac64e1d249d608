"""Could W&B log in here, and does its server answer?  Asked without a login, and without loading what trains."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from cxr.errors import ConfigurationError, CxrError

_ANSWER_TIMEOUT = 10.0  # seconds


def require_server(otherwise: str) -> None:
    """Refuse within seconds what W&B itself would try for minutes.

    Args:
        otherwise: what can be done without an account, for the message.

    Raises:
        ConfigurationError: there is no key.
        CxrError: the server does not answer.
    """
    import wandb

    if not has_key():
        raise ConfigurationError(f"no W&B key: set WANDB_API_KEY or run `wandb login`; {otherwise}")
    address = str(wandb.setup().settings.base_url)
    try:
        urllib.request.urlopen(address, timeout=_ANSWER_TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # it answers
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise CxrError(f"{address} cannot be reached ({why}); nothing was sent, try again with a network") from None


def has_key() -> bool:
    """Whether W&B could log in without asking; looks, but neither logs in nor calls the server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    settings = wandb.setup().settings
    try:
        # W&B's own reader: it knows under which names its servers have been saved.
        return settings.api_key is not None or read_netrc_auth(host=settings.base_url) is not None
    except wandb.errors.AuthenticationError:  # a key that is none
        return False
