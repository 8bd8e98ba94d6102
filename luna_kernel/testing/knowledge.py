"""The conformance suite of knowledge stores: what indexing, search and `luna kb` rely on.

from luna_kernel.testing import KnowledgeStoreConformance

class TestMine(KnowledgeStoreConformance):
    @pytest.fixture
    def new(self, tmp_path):
        return lambda: MyStore(None, new_folder(tmp_path))

    @pytest.fixture
    def again(self):
        return lambda store: MyStore(None, store.folder, store.id)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from luna_kernel.base.errors import UsageError
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import CutFile, FileState, KnowledgeStore, text_hash

Make = Callable[[], KnowledgeStore]
Again = Callable[[KnowledgeStore], KnowledgeStore]

STRANGE = "O sino\0 da “capela” — 180 kg\r\n\x1a0\x1a\tcafé ´e acentos, 漢字, 🔔\n\\N\\.\n"
STRANGE += "'; DROP TABLE chunks; --\n%s {} $1\n"


def stamps(source: str, *, mtime_ns: int = 3, reasons: tuple[str, ...] = ()) -> FileState:
    """A file's state."""
    return FileState(source, f"/docs/{source}", text_hash(source), 1 << 40, mtime_ns, 1 << 62, 5, reasons)


def halves(document: Document) -> list[Chunk]:
    """Two chunks that join to the document."""
    text, middle = document.text, len(document.text) // 2
    pieces = [(0, middle), (middle, len(text))]
    return [Chunk(text[start:end], start, end, f"Título › {start}", {"place": start}) for start, end in pieces]


def cut_file(source: str, *texts: str, **metadata: object) -> CutFile:
    """A file of such documents, each cut into halves."""
    documents = [Document(text, source, f"título de {source}", dict(metadata)) for text in texts]
    return stamps(source), [(document, halves(document)) for document in documents]


class KnowledgeStoreConformance:
    """Subclass it with a name that begins with `Test`, and override the fixtures `new` and `again`."""

    # --- material ------------------------------------------------------------------------------------------------

    @pytest.fixture
    def new(self) -> Make:
        """Makes a knowledge base that did not exist."""
        pytest.fail(f"{type(self).__name__} has no fixture `new`")

    @pytest.fixture
    def again(self) -> Again:
        """Opens once more the knowledge base that a store has open."""
        pytest.fail(f"{type(self).__name__} has no fixture `again`")

    @pytest.fixture
    def store(self, new: Make) -> Iterator[KnowledgeStore]:
        """A store of a new knowledge base."""
        made = new()
        yield made
        made.close()

    @staticmethod
    def state(store: KnowledgeStore) -> object:
        """All that is in it, but for what grows with each change."""
        chunks = list(store.chunks(sorted(store.chunk_ids())))
        return store.files(), list(store.documents()), chunks, store.counts(), store.generation, store.meta("chunker")

    # --- a new one -------------------------------------------------------------------------------------------------

    def test_a_new_one_is_empty(self, store: KnowledgeStore) -> None:
        """Nothing in it, nothing wrong with it, and a moment of birth."""
        assert store.counts() == {"files": 0, "documents": 0, "chunks": 0}
        assert (store.files(), store.files_without_documents(), store.chunk_ids()) == ({}, set(), set())
        assert (list(store.documents()), list(store.chunks([1, 2])), list(store.counts_by_file())) == ([], [], [])
        assert list(store.flaws()) == []
        assert store.metadata_names() == set()
        assert store.meta("created")
        assert store.meta("unknown") is None
        assert store.place

    def test_each_has_an_id_of_its_own_and_keeps_it(self, store: KnowledgeStore, new: Make, again: Again) -> None:
        """Two knowledge bases never mix."""
        other = new()
        assert store.id
        assert other.id != store.id
        other.put([cut_file("a.md", "Um texto só.")])
        assert store.counts()["files"] == 0
        other.close()
        second = again(store)
        assert second.id == store.id
        second.close()

    # --- what is put is what is there ------------------------------------------------------------------------------

    @pytest.mark.parametrize("text", ["Uma linha.", STRANGE, "a", "\n\n\n", "ﬀ é é"])
    def test_gives_back_the_very_characters(self, store: KnowledgeStore, text: str) -> None:
        """Text, offsets, headings, names and metadata, whatever the characters."""
        state, documents = cut_file("pasta/é 'x' \\ %s.md", text, "outro")
        store.put(
            [(state, [(Document(text, state.source, STRANGE, {"nota": STRANGE}), documents[0][1]), documents[1]])]
        )
        first, second = store.documents()
        assert first.document == Document(text, state.source, STRANGE, {"nota": STRANGE})
        assert [chunk for chunk in first.chunks if chunk.text] == [c for c in documents[0][1] if c.text]
        assert (first.sha256, second.sha256) == (text_hash(text), text_hash("outro"))
        assert list(store.whole_documents()) == [(first.document, first.chunks), (second.document, second.chunks)]
        assert store.files() == {state.source: state}
        found = list(store.chunks(sorted(store.chunk_ids())))
        assert [chunk.text for chunk in found] == [chunk.text for _, chunks in documents for chunk in chunks]
        assert all((chunk.source, chunk.heading[:6]) == (state.source, "Título") for chunk in found)

    def test_tells_lines(self, store: KnowledgeStore) -> None:
        """From the text, or from the document where its reader knows better."""
        text = "um\ndois\ntrês\nquatro\n"
        chunks = [Chunk(text[a:b], a, b) for a, b in ((0, 8), (8, 13), (13, len(text)))]
        known = Document(text, "b.csv", "", {"line": 70})
        store.put([(stamps("a.txt"), [(Document(text, "a.txt"), chunks)]), (stamps("b.csv"), [(known, chunks)])])
        assert [chunk.line for chunk in store.chunks(sorted(store.chunk_ids()))] == [1, 3, 4, 70, 70, 70]

    def test_metadata_of_document_and_chunk(self, store: KnowledgeStore) -> None:
        """Together, the chunk's before the document's; all names are known."""
        metadata = {"page": 3, "place": "livro", "aninhado": {"a": [1, None, "é"]}}
        store.put([cut_file("a.md", "um dois", **metadata)])
        one, _ = store.chunks(sorted(store.chunk_ids()))
        assert one.metadata == {**metadata, "place": 0}
        assert store.metadata_names() == {"page", "place", "aninhado"}

    def test_counts(self, store: KnowledgeStore) -> None:
        """Files without documents are known, and not counted."""
        store.put([cut_file("a.md", "um", "dois"), cut_file("b.md", "três"), (stamps("c.md", reasons=("ruim",)), [])])
        assert store.counts() == {"files": 2, "documents": 3, "chunks": 6}
        assert sorted(store.counts_by_file()) == [("a.md", 2, 4), ("b.md", 1, 2)]
        assert store.files_without_documents() == {"c.md"}
        assert store.files()["c.md"].reasons == ("ruim",)
        assert store.size() > 0

    def test_chunks_come_in_the_order_of_the_ids_asked_for(self, store: KnowledgeStore) -> None:
        """Also many of them; those that are gone are left out."""
        store.put([cut_file(f"{number}.md", f"texto número {number}") for number in range(700)])
        ids = sorted(store.chunk_ids(), reverse=True)
        assert len(ids) == 1400
        assert [chunk.id for chunk in store.chunks([10**9, *ids, -1])] == ids
        assert [number for number, _ in store.texts(ids)] == ids[::-1]
        assert len(list(store.documents())) == 700

    # --- changes ---------------------------------------------------------------------------------------------------

    def test_a_changed_file_has_new_ids(self, store: KnowledgeStore) -> None:
        """And no id comes back, not even after the last chunk has gone."""
        seen: set[int] = set()
        for version in range(4):
            store.put([cut_file("a.md", f"versão {version}"), cut_file("b.md", f"outra {version}")])
            ids = store.chunk_ids()
            assert len(ids) == 4
            assert not ids & seen
            seen |= ids
            if version == 2:
                store.remove(["a.md", "b.md"])
        assert store.counts()["documents"] == 2

    def test_the_generation_grows_with_every_change_of_chunks(self, store: KnowledgeStore) -> None:
        """And with nothing else."""
        seen = [store.generation]
        store.put([cut_file("a.md", "um dois")])
        seen.append(store.generation)
        store.cut_again(halves, "novo")
        seen.append(store.generation)
        store.remove(["a.md"])
        seen.append(store.generation)
        assert seen == sorted(set(seen))
        store.restamp([stamps("a.md", mtime_ns=77)])
        store.set_meta("retrievers", "[]")
        store.put([])
        store.remove([])
        assert store.generation == seen[-1]
        assert store.meta("changed")

    def test_restamp(self, store: KnowledgeStore) -> None:
        """New stamps, the same documents; files that are not there stay away."""
        store.put([cut_file("a.md", "um dois")])
        before = store.chunk_ids()
        store.restamp([stamps("a.md", mtime_ns=77), stamps("x.md")])
        assert store.files() == {"a.md": stamps("a.md", mtime_ns=77)}
        assert store.chunk_ids() == before

    @pytest.mark.parametrize("erase", [False, True])
    def test_remove(self, store: KnowledgeStore, erase: bool) -> None:
        """Whole files; what is not there is ignored."""
        store.put([cut_file("a.md", "um dois"), cut_file("b.md", "três")])
        kept = {chunk.id for chunk in store.chunks(sorted(store.chunk_ids())) if chunk.source == "b.md"}
        store.remove(["a.md", "nenhum.md", "%", "'"], erase=erase)
        assert set(store.files()) == {"b.md"}
        assert store.chunk_ids() == kept
        assert list(store.flaws()) == []

    def test_cut_again(self, store: KnowledgeStore) -> None:
        """New chunks under new ids, the same documents."""
        store.put([cut_file(f"{number}.md", f"texto {number}", STRANGE) for number in range(60)])
        before, documents = store.chunk_ids(), [stored.document for stored in store.documents()]
        store.cut_again(lambda document: [Chunk(document.text, 0, len(document.text))], "inteiros")
        assert not store.chunk_ids() & before
        assert [stored.document for stored in store.documents()] == documents
        assert all(stored.chunks[0].text == stored.document.text for stored in store.documents())
        assert store.counts()["chunks"] == 120
        assert store.meta("chunker") == "inteiros"

    def test_what_fails_half_way_changes_nothing(self, store: KnowledgeStore) -> None:
        """A file that cannot be stored, a chunker that breaks."""
        store.put([cut_file("a.md", "um dois"), cut_file("b.md", "três quatro")])
        before = self.state(store)
        with pytest.raises((TypeError, ValueError)):
            store.put([cut_file("c.md", "novo"), cut_file("a.md", "versão nova", bad=object())])
        assert self.state(store) == before
        done: list[str] = []

        def breaks(document: Document) -> Sequence[Chunk]:
            if done:
                raise ValueError(document.source)
            done.append(document.source)
            return []

        with pytest.raises(ValueError, match=r"\.md"):
            store.cut_again(breaks, "quebrado")
        assert self.state(store) == before
        store.put([cut_file("c.md", "depois")])
        assert store.counts()["files"] == 3

    def test_state(self, store: KnowledgeStore) -> None:
        """Values are text, whatever the characters."""
        store.set_meta("chave", "um")
        store.set_meta("chave", STRANGE)
        assert store.meta("chave") == STRANGE

    # --- several at once -------------------------------------------------------------------------------------------

    def test_what_one_does_another_sees(self, store: KnowledgeStore, again: Again) -> None:
        """At once, with the new generation."""
        other = again(store)
        before = other.generation
        store.put([cut_file("a.md", "um dois")])
        assert other.generation > before
        assert self.state(other) == self.state(store)
        other.remove(["a.md"])
        assert store.counts()["chunks"] == 0
        other.close()

    def test_one_holds_the_lock(self, store: KnowledgeStore, again: Again) -> None:
        """Another is told so, or waits; whoever merely reads needs none."""
        other = again(store)
        with store.lock():
            with pytest.raises(UsageError), other.lock(wait=0.05):
                pass
            store.put([cut_file("a.md", "um")])
            assert other.counts()["chunks"] == 2
        with other.lock(wait=5):
            other.put([cut_file("b.md", "dois")])
        with pytest.raises(KeyError), store.lock():
            raise KeyError
        with other.lock():
            pass
        other.close()

    def test_two_writers_take_turns(self, store: KnowledgeStore, again: Again) -> None:
        """Nothing is lost, no id is given twice."""
        failed: list[BaseException] = []

        def work(mine: KnowledgeStore, name: str) -> None:
            try:
                for number in range(15):
                    with mine.lock(wait=60):
                        mine.put([cut_file(f"{name}{number}.md", f"{name} número {number}")])
            except Exception as error:  # noqa: BLE001  told below
                failed.append(error)

        others = [again(store), again(store)]
        threads = [threading.Thread(target=work, args=pair) for pair in zip(others, "ab", strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert store.counts() == {"files": 30, "documents": 30, "chunks": 60}
        assert len(store.chunk_ids()) == 60
        for other in others:
            other.close()

    def test_what_was_closed_is_there_when_it_is_opened_again(self, store: KnowledgeStore, again: Again) -> None:
        """All of it, to the generation."""
        store.put([cut_file("a.md", STRANGE), cut_file("b.md", "dois")])
        before = self.state(store)
        store.close()
        store.close()
        opened = again(store)
        assert self.state(opened) == before
        opened.close()
