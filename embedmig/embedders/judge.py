"""A language model that says how relevant a passage is to a query: from 0 to 3, by one prompt, through the ``openai`` client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from embedmig.config.settings import EmbedderSettings
from embedmig.embedders.endpoint import Endpoint
from embedmig.embedders.server_profile import Dialect
from embedmig.errors import EmbedderMisconfigured, EmbedderUnavailable
from embedmig.types import Space

if TYPE_CHECKING:
    from openai import AsyncOpenAI

PROMPT = """Given a query and a passage, say how well the passage answers the query, from 0 to 3:
0 = the passage has nothing to do with the query
1 = the passage is about the subject of the query but does not answer it
2 = the passage answers part of the query, or the answer is unclear or hidden among other things
3 = the passage is about the query and answers it

Query: {query}
Passage: {passage}

Reply with the number alone."""
"""Fixed, so that grades of different days can be compared; docs/commands.md shows it. The scale is that of TREC's deep learning tracks."""
MOST_CHARACTERS = 6000  # of a passage; what is beyond is not shown to the judge
RETRIES = 5


class Judge:
    """One model behind one server. Raises :class:`EmbedderMisconfigured` where it can't be asked; close it in the loop that used it."""

    def __init__(self, model: Space, settings: EmbedderSettings) -> None:
        self._endpoint = Endpoint(model, settings)
        self._client: AsyncOpenAI | None = None

    @staticmethod
    def prompt(query: str, passage: str) -> str:
        """What is sent."""
        return PROMPT.format(query=query, passage=passage[:MOST_CHARACTERS])

    async def grade(self, prompt: str) -> tuple[int | None, int | None]:
        """The grade, None where the answer is no number from 0 to 3; and the tokens billed, None where the server doesn't say.

        Raises :class:`EmbedderUnavailable`, and :class:`EmbedderMisconfigured` for what the server refuses.
        """
        import openai

        try:
            answer: Any = await self._connected().chat.completions.create(
                model=self._endpoint.model, messages=[{"role": "user", "content": prompt}], temperature=0,
                extra_headers=self._endpoint.headers(Dialect()),
            )  # fmt: skip
        except openai.APIConnectionError as error:
            raise EmbedderUnavailable(f"{self._endpoint.host} does not answer: {type(error).__name__}") from None
        except openai.APIStatusError as error:
            said = self._endpoint.clean(str(error.message))
            kind = EmbedderUnavailable if error.status_code in (408, 429) or error.status_code >= 500 else EmbedderMisconfigured  # fmt: skip
            raise kind(f"{self._endpoint.host} refused to judge: {error.status_code} {said}") from None
        said = (answer.choices[0].message.content or "") if answer.choices else ""
        found = re.search(r"(?<!\d)[0-3](?!\d)", said)
        return int(found[0]) if found else None, answer.usage.total_tokens if answer.usage else None

    async def aclose(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            from openai import AsyncOpenAI

            self._client = AsyncOpenAI(**self._endpoint.client_options(Dialect()) | {"max_retries": RETRIES})
        return self._client
