"""Where a recipe's results come from: the data card and the provenance on its page.

In: a recipe, results of its steps. Out: sections: counts, making, licences, use, limits; settings,
steps, checksums, versions. Nothing in it changes when the same recipe is run again.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from typing import Any

from univg import __version__
from univg.config import to_plain
from univg.files import sha256_hex, sha256_of_file
from univg.manifest import iterate_rows
from univg.modalities import find_card, find_modality
from univg.pairs import open_pairs
from univg.recipe import Recipe, hash_remembering, list_steps
from univg.recipe_chain import files_of_base, name_card
from univg.recipe_outcome import find_made
from univg.recipe_steps import Result, hash_content
from univg.report import Page

DIGITS = 16
OUTPUTS = (
    *("run/adapter.safetensors", "run/look.safetensors"),
    "run/base/unet/diffusion_pytorch_model.safetensors",
    *("run/controlnet/diffusion_pytorch_model.safetensors", "run/model.safetensors"),
    *("masks/manifest.jsonl", "pairs/manifest.jsonl", "kept/manifest.jsonl"),
    "evaluation/evaluation.json",
)
"""What steps leave that others use, below their folders."""
MADE = {
    "grown": "grown by space colonization, led by the shots’ masks",
    "diffusion": "drawn by a diffusion engine adapted to those of the shots",
}


def describe_images(asked: Recipe, results: Mapping[str, Result]) -> str:
    """Return how the images were made, and of what."""
    if asked.image_engine == "procedural":
        return "rendered by a procedural model of the modality, without the shots"
    if asked.image_engine == "diffusion":
        first = "trained on the unlabelled images, then " if "look" in results else ""
        return f"drawn by a diffusion engine {first}adapted to the shots (base `{asked.base}`)"
    words = "composed of the grounds and vessels of the shots"
    if "grounds" in results:
        lent = results["grounds"].facts["images"]
        words += (
            f", and of the grounds of {lent} unlabelled images without what the segmenter on the "
            "shots alone takes for vessel in them"
        )
    return words


def add_card(page: Page, asked: Recipe, results: Mapping[str, Result]) -> None:
    """Add the data card of the synthetic set."""
    facts = results["gate"].facts
    kept, made = facts.get("kept", asked.pairs), facts.get("pairs", asked.pairs)
    section = page.section("Data card", "What to know before the pairs are used or passed on.")
    figures = [(str(asked.wanted), "annotated images"), (str(kept), "synthetic pairs")]
    if asked.test is not None:
        figures.append((str(len(open_pairs(asked.test).pairs)), "test images, trained on nowhere"))
    section.key_figures(figures)
    modality = find_modality(asked.modality)
    section.subheading(
        "How it was made",
        f"{modality.title}. {' '.join(modality.description.split())}",
        f"Masks: {MADE[asked.mask_engine]}. Images: "
        f"{describe_images(asked, results)}, one for each mask. {made} pairs were made and "
        f"measured, {kept} kept ({asked.keep or 'no condition was set'}). The manifest beside "
        "them holds seed, parameters and checksum of every pair.",
        f"The pairs: `{find_made(asked, results)}`.",
    )
    section.subheading("Licences of the sources", *_licences(asked))
    section.subheading(
        "Intended use",
        "Training and testing of vessel segmentation, beside real annotated images. Not for "
        "diagnosis.",
    )
    section.subheading(
        "Limits",
        f"What the {asked.wanted} annotated images do not show, no pair can be trusted to teach. "
        "Synthetic images follow their masks only as well as the engine does (the gate "
        "says how well), show few lesions and artefacts, and say nothing of a population. A "
        "synthetic image may resemble a shot closely enough to be recognised; the gate counts "
        "near-copies. Judge a segmenter on real images of other patients.",
    )


def _licences(asked: Recipe) -> list[str]:
    folders = {"Shots": asked.shots, "Unlabelled images": asked.unlabelled, "Test set": asked.test}
    words = []
    for name, folder in folders.items():
        if folder is None:
            continue
        found = sorted({str(row["licence"]) for row in iterate_rows(folder) if row.get("licence")})
        told = ", ".join(found) or "not stated in the folder; look it up before you publish"
        words.append(f"{name} (`{folder.name}`): {told}.")
    if "diffusion" in {asked.image_engine, asked.mask_engine}:
        words.append(f"Base `{asked.base}`: see its model card.")
    words.append(
        "Synthetic images derive from the images that their engine was adapted to or whose grounds "
        "they show: the terms of those apply, also to who may see them."
    )
    return words


def add_provenance(
    page: Page, asked: Recipe, results: Mapping[str, Result], versions: Mapping[str, str]
) -> None:
    """Add steps, settings, checksums and versions."""
    section = page.section(
        "Provenance", "A step is known by all that decides it, and done once for the same key."
    )
    words = dict(list_steps(asked))
    rows = [
        [f"{name}: {words.get(name, '')}", f"{each.seconds:.0f}", each.key]
        for name, each in results.items()
    ]
    section.table("What was done.", ["Step", "Seconds", "Key"], rows)
    plain = {name: _show(value) for name, value in to_plain(asked).items()}
    rows = [[f"`{name}`", value] for name, value in plain.items() if name not in {"workers", "out"}]
    title = f"The recipe; what is open (–) is as in preset `{asked.preset}` of this version."
    section.table(title, ["Setting", "Value"], rows)
    sums = {**_input_sums(asked), **_output_sums(asked, results)}
    section.table(
        f"Checksums, the first {DIGITS} digits of SHA-256; of a folder that of its files’ sums.",
        ["What", "SHA-256"],
        [[name, digest[:DIGITS]] for name, digest in sums.items()],
    )
    section.table("Versions.", ["Package", "Version"], [[k, v] for k, v in versions.items()])


def list_versions(results: Mapping[str, Result]) -> dict[str, str]:
    """Return versions, those that the trainings of the recipe have noted among them."""
    versions = {"univg": __version__, "python": platform.python_version()}
    for result in results.values():
        path = result.folder / "run" / "environment.json"
        if path.is_file():
            found: dict[str, Any] = json.loads(path.read_bytes())
            versions |= {"python": str(found.get("python", versions["python"]))}
            versions |= {name: str(v) for name, v in found.get("libraries", {}).items()}
    return versions


def _show(value: Any) -> str:
    if value is None:
        return "–"
    return " ".join(map(str, value)) or "–" if isinstance(value, list | tuple) else str(value)


def _input_sums(asked: Recipe) -> dict[str, str]:
    folders = {"Shots": asked.shots, "Unlabelled images": asked.unlabelled, "Test set": asked.test}
    hashed = hash_remembering(asked)
    sums = {name: hash_content(each, hashed) for name, each in folders.items() if each is not None}
    card = find_card(asked.modality)
    if card is not None:
        sums["Modality card"] = sha256_of_file(card)
    if "diffusion" in {asked.image_engine, asked.mask_engine}:
        found, _ = hashed(files_of_base(asked))  # gigabytes, and read by a step already
        lines = [f"{digest} {path.name}" for path, digest in found.items()]
        sums[f"Base {asked.base}"] = sha256_hex("\n".join(lines).encode())
    return sums


def _output_sums(asked: Recipe, results: Mapping[str, Result]) -> dict[str, str]:
    return {
        f"{name}/{output}": sha256_of_file(result.folder / output)
        for name, result in results.items()
        for output in (name_card(asked), *OUTPUTS)
        if (result.folder / output).is_file()
    }
