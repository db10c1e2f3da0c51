-- Which host runs this Lua state, and so which adapter is used.
--
-- A host adapter is a table with
--   current_context()        the request context calls act on now, and, where its response
--                            headers are to be set at once, a function publish(changes, count)
--                            that does so: `changes` is {name, value or false, …}, `count` its
--                            length, false clears. Where there is no request it raises at level
--                            3: it is called by the functions of the API themselves.
--   bind(context)            makes `context` the one to act on from now on
--   with_context(context, fn, ...)  runs fn(...) with `context` as the current one
--   await(name, poll, block, timeout)
--                            waits the host's way until poll() is true, at most `timeout` seconds
--                            (nil: for ever), for the API's function `name`; false when the time
--                            is over. block(timeout) does so by blocking the thread
--   is_head()                whether this is the process that the others are forked from
--   may_probe()              whether calls may start the monitor in this process

local _, parts = ...

return parts.haproxy.adapter or parts.plain
