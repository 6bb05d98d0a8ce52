"""``intarsia serve``: the documented endpoints over HTTP, and a small API of our own (extra ``serve``)."""
