"""Files as policy sources find them."""

from pathlib import Path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def swap(link: Path, target: str) -> None:
    """Point `link` elsewhere in one step, as Kubernetes does."""
    fresh = link.with_name("..fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


def mount(root: Path) -> None:
    """What Kubernetes makes of a ConfigMap with one file."""
    write(root / "..2026_01_01" / "api.yaml", "one")
    (root / "..data").symlink_to("..2026_01_01")
    (root / "api.yaml").symlink_to("..data/api.yaml")
