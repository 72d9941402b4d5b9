"""Who uploaded what, over all Jupyter servers (R4)."""

import asyncio

import pytest

from jupyter_comfy_lock.domain.inputs import InputFile
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.store.uploads import UploadStore

pytestmark = pytest.mark.asyncio

GPU, OTHER_GPU = ComfyId("gpu-1"), ComfyId("gpu-2")
CAT, DOG = InputFile("", "cat.png"), InputFile("pets", "dog.png")


@pytest.fixture
def uploads(database):
    return UploadStore(database)


async def test_r4_a_file_is_others_unless_one_has_uploaded_it_too(uploads):
    await uploads.add(GPU, CAT, "k1")
    assert await uploads.others(GPU, [CAT, DOG], "k2") == {CAT}
    assert await uploads.others(GPU, [CAT, DOG], "k1") == set()
    assert await uploads.others(OTHER_GPU, [CAT], "k2") == set()
    assert await uploads.others(GPU, [InputFile("pets", "cat.png"), DOG], "k2") == set()
    await uploads.add(GPU, CAT, "k2")
    assert await uploads.others(GPU, [CAT], "k2") == set()
    assert await uploads.others(GPU, [CAT], "k3") == {CAT}
    assert await uploads.others(GPU, [], "k3") == set()


async def test_r4_a_name_in_other_letters_is_nobodys_way_to_a_file(uploads):
    large = InputFile("", "CAT.png")
    await uploads.add(GPU, CAT, "k1")
    assert await uploads.others(GPU, [large], "k2") == {large}
    await uploads.add(GPU, large, "k2")
    assert await uploads.others(GPU, [large, CAT], "k2") == {CAT}
    assert await uploads.others(GPU, [large, CAT], "k1") == {large}


async def test_the_same_upload_is_recorded_once(uploads, open_database):
    elsewhere = UploadStore(open_database())
    await asyncio.gather(*(each.add(GPU, DOG, "k1") for each in (uploads, elsewhere) * 3))
    await elsewhere.add(GPU, DOG, "k1")
    assert await uploads.others(GPU, [DOG], "k2") == {DOG}
