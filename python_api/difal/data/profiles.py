"""Colour profiles, which are not applied: how one is named."""

from __future__ import annotations

import io

from PIL import ImageCms


def profile_name(profile: bytes | None) -> str | None:
    """What to call a file's colour profile; None where there is none, or it is sRGB, which screens show as it is.

    Example:
        >>> profile_name(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        >>> profile_name(b"damaged")
        'a colour profile'
    """
    if not profile:
        return None
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError, ImportError):
        name = ""
    if "srgb" in name.lower():
        return None
    return f"the colour profile {' '.join(name.split())}" if name else "a colour profile"
