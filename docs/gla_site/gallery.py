"""A picture of every environment that can be drawn, in a grid; films that can stand still."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from gla.envs.catalog import domains, select
from gla.envs.catalog_pages import image, short

_FILM = re.compile(r'^<img class="film" src="([^"]*\.gif)" alt="([^"]*)">$', re.M)


def with_stills(text: str, folder: Path) -> str:
    """Return a page with a still beside each film, for readers who asked for reduced motion.

    `site.css` shows one of the two. A still is the last picture of its film and lies beside it.

    Args:
        text: of a page, with films as lines such as `<img class="film" src="a.gif" alt="...">`.
        folder: of the page.
    """

    def both(film: re.Match[str]) -> str:
        still = Path(film[1]).with_suffix(".png")
        with Image.open(folder / film[1]) as moving:
            moving.seek(getattr(moving, "n_frames", 1) - 1)
            moving.convert("RGB").save(folder / still, optimize=True)
        return f'{film[0]}\n<img class="still" src="{still.as_posix()}" alt="{film[2]}">'

    return _FILM.sub(both, text)


def grid(folder: Path) -> str:
    """Return the pictures of all environments with links to their pages, in MyST.

    Args:
        folder: of the documentation, with `images/environments/` in it.
    """
    cards: list[str] = []
    unseen: list[str] = []
    for domain in domains():
        for spec in select(domain=domain):
            if not (folder / image(spec)).exists():
                unseen.append(f"[{short(spec)}](environments/{domain}.md)")
                continue
            picture = f"![{spec.id}: {spec.description}]({image(spec).as_posix()})"
            name = re.sub(r"(?<=[a-z\d])(?=[A-Z])", "<wbr>", short(spec))  # where it may be cut
            cards += [f"[{picture}](environments/{domain}.md)", f"**{name}**", domain, ""]
    lines = [":::{container} gallery", *cards[:-1], ":::"]
    if unseen:
        lines += ["", "## Without a picture", "", ", ".join(unseen) + "."]
    return "\n".join(lines)
