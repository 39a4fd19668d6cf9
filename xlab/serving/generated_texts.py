"""POST /generated_texts/: the older service's way of asking."""

from dataclasses import replace

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from xlab.data.meta import meta_ids
from xlab.serving.asking import beside_the_loop, prompts_of, requests_of
from xlab.serving.errors import RequestError
from xlab.serving.schemas import CompletionBody, GeneratedTextsBody
from xlab.serving.service import Service
from xlab.serving.streaming import unless_gone


async def generate_texts(service: Service, body: GeneratedTextsBody, http: HttpRequest) -> Response:
    """Answer with the texts alone.

    Raises:
        RequestError: for what cannot be done.
        ClientGoneError: when nobody waits for the answer any more.
    """
    max_meta_len, tokenizer = service.model.max_meta_len, service.model.tokenizer
    if body.meta is not None and max_meta_len is None:
        raise RequestError("this model was not trained with meta; leave it out", param="meta")
    shared = body.model_dump(include={"temperature", "top_p", "repetition_penalty"})
    own = {"prompt": body.body, "top_k": body.top_k or None, "n": body.num_return_sequences}
    asked = CompletionBody.model_validate({**shared, **own})
    prompts = await prompts_of(service.model, asked.prompt)
    if body.meta:
        about = await beside_the_loop(lambda: tokenizer.encode(body.meta or ""), len(body.meta))
        before = meta_ids(about, tokenizer, max_meta_len)
        prompts = [replace(prompt, ids=[prompt.ids[0], *before, *prompt.ids[1:]]) for prompt in prompts]
    limit = body.max_number_of_generated_tokens or min(128, service.limits.max_tokens)
    requests = await requests_of(service.model, service.limits, prompts, asked, max_tokens=limit, stops=[])
    call = service.submit(http, requests, [body.body], streams=False)
    (result,) = await unless_gone(call.results(), http.receive, call)
    return JSONResponse({"texts": [completion.text for completion in result.completions]})
