"""The collection of a release: all its repositories together with the papers that they follow."""

from typing import Any

from .client import Hub

NOTES = {
    "data": "data",
    "encoder": "pre-trained encoder",
    "adapter": "LoRA adapter",
    "classifier": "fine-tuned classifier",
    "committee": "soft committee",
    "space": "demonstration",
}


def push_collection(hub: Hub, release: dict[str, Any], *, public: bool) -> str:
    """Make the collection, or bring the one of this title up to date; what others added stays.

    Args:
        hub: the Hub.
        release: what `release.json` holds.
        public: make it public; otherwise a new one is private and an old one as it was.

    Returns:
        Its slug.

    Raises:
        UserError: see `Hub.call`.
    """
    api, wanted, owner = hub.api, release["collection"], release["namespace"]
    title, description = wanted["title"], wanted["description"]

    def find() -> str | None:
        slugs = [found.slug for found in api.list_collections(owner=owner) if found.title == title]
        return slugs[0] if slugs else None

    slug = hub.call(f"looking for the collection {title!r}", find)
    if slug is None:
        made = hub.call(
            f"making the collection {title!r}", api.create_collection, title, namespace=owner,
            description=description or None, private=True, exists_ok=True,
        )  # fmt: skip
        slug = made.slug
    there = hub.call(f"reading the collection {slug}", api.get_collection, slug)
    changes: dict[str, Any] = {}
    if (there.description or "") != description:
        changes["description"] = description
    if public and there.private:
        changes["private"] = False
    if changes:
        hub.call(f"describing the collection {slug}", api.update_collection_metadata, slug, **changes)
    items = {(item.item_type, item.item_id) for item in there.items}
    listed = [(entry["repo_type"], entry["repo_id"], NOTES[entry["kind"]]) for entry in release["repositories"]]
    listed += [("paper", number, "the paper") for number in wanted["papers"]]
    for kind, name, note in listed:
        if (kind, name) not in items:
            hub.call(
                f"adding {name} to the collection", api.add_collection_item, slug, name, kind, note=note, exists_ok=True
            )
    return str(slug)
