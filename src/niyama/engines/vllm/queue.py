"""A waiting queue for vLLM that hands requests out in the order of the plan."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.request_queue import RequestQueue

if TYPE_CHECKING:
    from vllm.v1.request import Request


class PlannedQueue(RequestQueue):
    """Requests in order of arrival, of which only the planned ones are offered.

    With a plan the queue is empty, to vLLM's scan, once the planned requests are taken. Without
    one (the policy failed) it is the plain first-come first-served queue. Adding, removing and
    taking cost O(1).

    Attributes:
        popped: Requests that vLLM took since the plan was set, and did not put back.
        put_back: Ids of those that were put back since.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._planned: deque[Request] | None = None
        self.popped: dict[str, Request] = {}
        self.put_back: set[str] = set()

    def set_plan(self, request_ids: Iterable[str] | None) -> None:
        """Offer these requests, as far as they are in the queue; None offers all, oldest first."""
        self.popped.clear()
        self.put_back.clear()
        if request_ids is None:
            self._planned = None
        else:
            held = self._requests
            # Once each: vLLM would take the second one for another request.
            self._planned = deque(held[i] for i in dict.fromkeys(request_ids) if i in held)

    def add_request(self, request: Request) -> None:
        """Add a request at the back."""
        self._requests[request.request_id] = request

    def peek_request(self) -> Request:
        """Return the next request. Raises IndexError if none is offered."""
        if self._planned is not None:
            return self._planned[0]
        for request in self._requests.values():
            return request
        raise IndexError("peek from an empty queue")

    def pop_request(self) -> Request:
        """Take the next request. Raises IndexError if none is offered."""
        request = self.peek_request()
        if self._planned is not None:
            self._planned.popleft()
        del self._requests[request.request_id]
        self.popped[request.request_id] = request
        return request

    def prepend_request(self, request: Request) -> None:
        """Put a request back, as the oldest; it is not offered again under the same plan."""
        self.prepend_requests((request,))

    def prepend_requests(self, requests: Iterable[Request]) -> None:
        """Put requests back as the oldest, the last of them first."""
        for request in requests:
            self.popped.pop(request.request_id, None)
            self.put_back.add(request.request_id)
            self._requests[request.request_id] = request
            self._requests.move_to_end(request.request_id, last=False)

    def remove_request(self, request: Request) -> None:
        """Remove a request. Raises KeyError if it is not in."""
        del self._requests[request.request_id]
        self._forget({request.request_id})

    def remove_requests(self, requests: Iterable[Request]) -> None:
        """Remove those of the requests that are in."""
        gone = {r.request_id for r in requests if self._requests.pop(r.request_id, None) is not None}
        self._forget(gone)

    def _forget(self, request_ids: set[str]) -> None:
        if self._planned is not None and request_ids:
            self._planned = deque(r for r in self._planned if r.request_id not in request_ids)

    def __bool__(self) -> bool:
        """Whether a request is offered."""
        return bool(self._requests if self._planned is None else self._planned)

    def __len__(self) -> int:
        """Return how many requests wait, offered or not."""
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        """Iterate over all that wait, oldest first."""
        return iter(list(self._requests.values()))

    def __contains__(self, request: Any) -> bool:
        return getattr(request, "request_id", None) in self._requests
