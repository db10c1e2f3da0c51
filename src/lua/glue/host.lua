-- Which host runs this Lua state, and so which adapter is used.
--
-- A host adapter is a table with
--   current_context(name)    the request context calls act on now, and, where its response
--                            headers are to be set at once, a function publish(name, value)
--                            that sets one to a string; false clears it. Where there is a way
--                            without strings, also the struct `setter` of `fast.rs`, and the
--                            request whose headers it sets. Where there is no request it
--                            raises at level 3: it is called by the functions of the API
--                            themselves. `name` is given by those that change the context: they
--                            are also refused where the headers were sent.
--   shared                   nil, or a table whose index 1 is the current context, or nil where
--                            `current_context` is to be asked; it is not one with `publish`
--   select_at_once(ip, port), apply_at_once(result)
--                            nil, or what does all of it for a string and a number, or for anything;
--                            false where it is not plain: then nothing was done, or what may be done
--                            once more
--   keep_context(context)    nil, or what gives a script the current context in a form that it may
--                            keep
--   bind(context)            makes `context` the one to act on from now on, nil the host's own;
--                            called from C, so what it raises needs no position
--   with_context(context, fn, ...)  runs fn(...) with `context` as the current one
--   require_wait(name, up)   raises where the API's function `name`, which called this with `up`
--                            (0 when left out) functions in between, cannot wait
--   await(name, poll, block, timeout, handle)
--                            waits the host's way until poll() is true, at most `timeout` seconds
--                            (nil: for ever), for the API's function `name`; false when the time
--                            is over. block(timeout) does so by blocking the thread. `handle`:
--                            that of the check that is waited for
--   own                      nil, or how the host starts and ends checks that no script has:
--                            start(table) and start_at(ip, port, haproxy_v2, tls) return a number,
--                            or nil and what is wrong, or nil where it cannot; finish(number)
--                            waits and returns the reason of a failure, or nil
--   is_head()                whether this is the process that the others are forked from
--   may_probe()              whether calls may start the monitor in this process

local _, parts = ...

return parts.nginx or parts.haproxy or parts.plain
