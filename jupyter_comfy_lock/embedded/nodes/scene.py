"""Procedural landscapes: the same words and seed give the same picture.

A scene is painted from back to front: sky, stars, sun or moon, clouds, ridges that fade into
haze, trees on the nearest ridge, water that mirrors it all. Words of the prompt choose the
time of day and what is in it; what they leave open, the seed decides.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from jupyter_comfy_lock.embedded.nodes.resize import resize

Plane: TypeAlias = NDArray[np.float32]
#: [height, width, 3] in 0..1.
Picture: TypeAlias = NDArray[np.float32]
Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Palette:
    """The colours of a time of day."""

    sky: tuple[Colour, Colour, Colour]  #: zenith, middle, horizon
    light: Colour  #: sun or moon, and what it shines on
    cloud: Colour
    far: Colour  #: the farthest ridge, nearly haze
    near: Colour  #: the nearest ridge
    glow: float  #: how far the light spreads, 0..1
    stars: float = 0.0


def _rgb(text: str) -> Colour:
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def _palette(
    sky: str, light: str, cloud: str, ridges: str, *, glow: float, stars: float = 0.0
) -> Palette:
    zenith, middle, horizon = (_rgb(x) for x in sky.split())
    far, near = (_rgb(x) for x in ridges.split())
    return Palette(
        sky=(zenith, middle, horizon),
        light=_rgb(light),
        cloud=_rgb(cloud),
        far=far,
        near=near,
        glow=glow,
        stars=stars,
    )


PALETTES = {
    "day": _palette("2f6fb7 7fb2de dcebf0", "fff6dc", "ffffff", "a9c3d6 1f3b33", glow=0.35),
    "dawn": _palette("3f5f96 c79bb0 fbd9b5", "fff0cf", "f6c9bf", "b9a9bd 2b2f45", glow=0.6),
    "sunset": _palette("27285c b0486d ffb36b", "ffe9b0", "ff9a76", "b4627a 1c1530", glow=0.8),
    "night": _palette(
        "050a1e 12244a 31507a", "e8efff", "35507c", "2a4266 04070f", glow=0.3, stars=1.0
    ),
}

_TIMES = {
    "day": "day noon blue sunny summer",
    "dawn": "dawn morning sunrise pink pastel spring mist misty fog foggy",
    "sunset": "sunset dusk evening autumn golden orange fire warm red",
    "night": "night moon moonlight star stars midnight dark galaxy aurora",
}
_WATER = "lake sea ocean river water reflection bay coast beach fjord pond island"
_OPEN = "sea ocean coast beach island"
_NO_WATER = "desert dunes valley hills field meadow canyon"
_TREES = "forest tree trees pine pines wood woods lake autumn"
_SNOW = "snow snowy winter ice alps peak peaks glacier"
_AURORA = "aurora northern"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be painted."""

    palette: Palette
    water: bool
    ridges: int
    trees: bool
    snow: bool
    aurora: bool


def draw_scene(width: int, height: int, prompt: str, seed: int) -> Picture:
    """Return the landscape of `prompt` and `seed`, `width` x `height` px."""
    words = re.findall(r"[a-z]+", prompt.lower())
    rng = np.random.default_rng([seed, zlib.crc32(" ".join(words).encode())])
    plan = _plan(words, rng)
    shore = int(height * rng.uniform(0.66, 0.74)) if plan.water else height
    light_at = (rng.uniform(0.2, 0.8) * width, shore * rng.uniform(0.32, 0.52))
    picture = _sky(width, height, plan.palette)
    _add_stars(picture, plan.palette, rng)
    if plan.aurora:
        _add_aurora(picture, rng)
    _add_light(picture, plan.palette, light_at)
    _add_clouds(picture, plan.palette, light_at, rng)
    _add_ridges(picture, plan, shore, rng)
    if plan.water:
        _add_water(picture, plan.palette, shore, light_at[0], rng)
    return _finished(picture, rng)


def _plan(words: Iterable[str], rng: np.random.Generator) -> _Plan:
    said = set(words)

    def says(listed: str) -> bool:
        return not said.isdisjoint(listed.split())

    chance_water, chance_trees, chance_time = rng.random(3)
    times = [time for time, listed in _TIMES.items() if says(listed)] or list(PALETTES)
    return _Plan(
        palette=PALETTES[times[int(chance_time * len(times))]],
        water=says(_WATER) or (not says(_NO_WATER) and chance_water < 0.5),
        ridges=2 if says(_OPEN) else 5,
        trees=says(_TREES) or (chance_trees < 0.4 and not says(_OPEN)),
        snow=says(_SNOW),
        aurora=says(_AURORA),
    )


def _sky(width: int, height: int, palette: Palette) -> Picture:
    down = np.linspace(0, 1, height) ** 0.9
    stops = np.asarray(palette.sky)
    column = np.stack([np.interp(down, (0, 0.45, 0.85), stops[:, i]) for i in range(3)], 1)
    return np.repeat(column[:, None, :], width, 1).astype(np.float32)


def _paint(picture: Picture, opacity: Plane, colour: Colour | Picture) -> None:
    """Lay a colour over the picture, in place."""
    picture += opacity[..., None] * (np.asarray(colour, np.float32) - picture)


def _grid(picture: Picture) -> tuple[Plane, Plane]:
    """Return the y and x of every pixel, as a column and a row."""
    height, width = picture.shape[:2]
    return (
        np.arange(height, dtype=np.float32)[:, None],
        np.arange(width, dtype=np.float32)[None, :],
    )


def _clouds_field(
    height: int, width: int, rng: np.random.Generator, *, stretch: float = 1.0, octaves: int = 6
) -> Plane:
    """Fractal noise in 0..1, `stretch` times as coarse across as it is down."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = min(height, max(2, round(4 * 2**octave)))
        columns = min(width, max(2, round(4 * 2**octave * width / height / stretch)))
        cells = rng.random((1, rows, columns, 1)).astype(np.float32)
        total += resize(cells, width, height, "bicubic")[0, :, :, 0] * 0.5**octave
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def _profile(width: int, rng: np.random.Generator, *, coarse: float, rough: float) -> Plane:
    """A ridge line: fractal noise along a row, about 0..1."""
    total = np.zeros(width, np.float32)
    weight = 1.0
    for octave in range(8):
        knots = rng.random(max(3, int(coarse * 2**octave) + 2))
        at = np.linspace(0, len(knots) - 1.001, width)
        left = at.astype(int)
        share = at - left
        share = share * share * (3 - 2 * share)
        total += weight * (knots[left] * (1 - share) + knots[left + 1] * share)
        weight *= rough
    return total * np.float32(1 - rough)


def _add_stars(picture: Picture, palette: Palette, rng: np.random.Generator) -> None:
    if not palette.stars:
        return
    height, width = picture.shape[:2]
    count = int(width * height / 700 * palette.stars)
    rows = (rng.random(count) ** 1.4 * height * 0.75).astype(int)
    columns = rng.integers(0, width, count)
    bright = (rng.random(count) ** 4).astype(np.float32)[:, None]
    tint = 1 - np.float32(0.25) * rng.random((count, 3)).astype(np.float32)
    picture[rows, columns] += bright * tint


def _add_aurora(picture: Picture, rng: np.random.Generator) -> None:
    y, x = _grid(picture)
    height, width = picture.shape[:2]
    for colour, strength in (((0.2, 0.95, 0.6), 0.55), ((0.5, 0.35, 0.95), 0.3)):
        foot = height * (0.2 + 0.3 * _profile(width, rng, coarse=1.5, rough=0.35))[None, :]
        rise = (foot - y) / (height * 0.3)
        curtain = np.where(rise > 0, np.exp(-4 * rise), np.exp(24 * rise))
        rays = 0.5 + 0.5 * _profile(width, rng, coarse=24, rough=0.6)[None, :]
        picture += (strength * curtain * rays + 0 * x)[..., None] * np.asarray(colour, np.float32)


def _add_light(picture: Picture, palette: Palette, at: tuple[float, float]) -> None:
    y, x = _grid(picture)
    height = picture.shape[0]
    distance = np.hypot(x - at[0], y - at[1]) / height
    disc = np.clip((0.05 - distance) * height / 1.5, 0, 1)
    halo = np.exp(-((distance / (0.10 + 0.12 * palette.glow)) ** 1.2)) * (0.35 + palette.glow / 2)
    wide = np.exp(-((distance / 0.5) ** 2)) * palette.glow * 0.55
    _paint(picture, np.clip(halo + wide, 0, 0.95), palette.light)
    _paint(picture, disc, tuple(min(1.0, c + 0.05) for c in palette.light))  # type: ignore[arg-type]


def _add_clouds(
    picture: Picture, palette: Palette, at: tuple[float, float], rng: np.random.Generator
) -> None:
    y, x = _grid(picture)
    height, width = picture.shape[:2]
    field = _clouds_field(height, width, rng, stretch=3.0)
    amount = rng.uniform(0.46, 0.6)
    thick = np.clip((field - amount) / 0.24, 0, 1)
    fade = np.clip(1.1 - y / (height * 0.75), 0, 1) * 0.85
    distance = np.hypot(x - at[0], y - at[1]) / height
    near_light = np.exp(-((distance / 0.35) ** 2))[..., None]
    fade = fade * np.clip(distance / 0.14, 0.25, 1)
    lit = np.asarray(palette.cloud) * (1 - near_light) + np.asarray(palette.light) * near_light
    shade = 1 - 0.14 * np.clip(thick * 1.4 - 0.5, 0, 1)[..., None]
    _paint(picture, (thick * fade).astype(np.float32), (lit * shade).astype(np.float32))


def _add_ridges(picture: Picture, plan: _Plan, shore: int, rng: np.random.Generator) -> None:
    y, _ = _grid(picture)
    width = picture.shape[1]
    far, near = np.asarray(plan.palette.far), np.asarray(plan.palette.near)
    haze = np.asarray(plan.palette.sky[2])
    for layer in range(plan.ridges):
        depth = layer / 4  # 0 far .. 1 near
        rise = (0.42 if plan.ridges > 2 else 0.16) - 0.30 * depth
        line = _profile(width, rng, coarse=2.2 + layer, rough=0.48 - 0.06 * depth)
        top = shore * (0.98 - rise * (0.35 + line) + 0.06 * depth)
        if plan.trees and layer >= plan.ridges - 2:
            top = top - _trees(width, shore * (0.028 + 0.03 * (layer == plan.ridges - 1)), rng)
        below = y - top[None, :]
        body = far + (near - far) * depth**0.8
        mist = np.clip(below / (shore * (0.30 - 0.12 * depth)), 0, 1)[..., None] ** 1.3
        colour = body * (1 - mist * 0.55 * (1 - depth)) + haze * (mist * 0.55 * (1 - depth))
        if plan.snow and layer < 3:
            colour = _snowy(colour, below, shore, rng)
        _paint(picture, np.clip(below + 0.5, 0, 1), colour.astype(np.float32))


def _snowy(
    colour: NDArray[np.floating], below: Plane, shore: int, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Whiten what is close under the ridge line, in patches."""
    height, width = below.shape
    patches = _clouds_field(height, width, rng, octaves=7)
    depth = below / (shore * 0.16)
    white = np.clip((0.95 * patches - 0.12 - depth * 0.75) * 9, 0, 1)[..., None] * 0.7
    snowy: NDArray[np.floating] = colour + white * (np.asarray((0.93, 0.95, 1.0)) - colour)
    return snowy


def _trees(width: int, tall: float, rng: np.random.Generator) -> Plane:
    """How much conifers add to a ridge line of that width, in pixels."""
    x = np.arange(width, dtype=np.float32)
    line = np.zeros(width, np.float32)
    for _ in range(int(width / max(tall * 0.28, 2))):
        size = tall * rng.uniform(0.45, 1.15)
        side = np.abs(x - rng.uniform(0, width)) / (size * 0.24)
        crown = np.clip(1 - side, 0, 1)
        jagged = 1 - 0.16 * (np.floor(crown * 6) % 2)
        line = np.maximum(line, size * crown**0.85 * jagged)
    return line


def _add_water(
    picture: Picture, palette: Palette, shore: int, light_x: float, rng: np.random.Generator
) -> None:
    height, width = picture.shape[:2]
    rows = np.arange(height - shore)
    if not len(rows):
        return
    depth = (rows / max(1, len(rows) - 1))[:, None]
    waves = _clouds_field(len(rows), width, rng, stretch=7.0, octaves=7) - 0.5
    shift = waves * (2 + 26 * depth) * height / 512
    source = np.clip(shore - 1 - rows[:, None] * 0.95 + shift, 0, shore - 1).astype(int)
    mirrored = picture[source, np.arange(width)[None, :]]
    tint = np.asarray(palette.sky[0], np.float32) * np.float32(0.55)
    share = (0.18 + 0.42 * depth)[..., None]
    water = mirrored * (1 - share) + tint * share
    x = np.arange(width)[None, :]
    path = np.exp(-(((x - light_x) / (width * (0.03 + 0.10 * depth))) ** 2))
    glitter = np.clip(waves * 5 - 0.35, 0, 1) * path * (0.5 + palette.glow)
    water = water + np.clip(glitter, 0, 0.9)[..., None] * (np.asarray(palette.light) - water)
    picture[shore:] = water.astype(np.float32)


def _finished(picture: Picture, rng: np.random.Generator) -> Picture:
    """Darken the corners a little and add grain, which hides steps in the gradients."""
    y, x = _grid(picture)
    height, width = picture.shape[:2]
    corner = np.hypot(x / width - 0.5, y / height - 0.5)
    shaded = np.clip(picture, 0, 1) * (1 - 0.45 * corner**2)[..., None]
    grain = rng.normal(0, 0.008, (height, width, 1))
    finished: Picture = np.clip(shaded + grain, 0, 1).astype(np.float32)
    return finished
